"""What `prepare` gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """An environment that can be used; keep it for as long as its interpreter may be started."""

    #: Its interpreter.
    python: Path
    #: Models of which this is equal may share a process.
    key: str
    #: Folders that go last on its `sys.path`: what the environment itself lacks.
    extra_path: tuple[str, ...]
    #: What it is, for the log: for example ``jackfield-alibi[detect] on Python 3.11.9``.
    description: str
    #: Keep its folders from being pruned.
    leases: tuple[object, ...] = field(default=(), repr=False, compare=False)
