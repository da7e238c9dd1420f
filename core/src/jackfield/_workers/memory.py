"""How much memory a process and those that it has started take; Linux tells, others don't."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_KB = 1024
_LINE = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


class Memory(NamedTuple):
    """Sizes in bytes; 0 where the system doesn't tell."""

    #: A page that several processes share is counted in equal parts.
    proportional_bytes: int
    #: Such a page is not counted.
    unique_bytes: int


def measure(pid: int, root: Path = Path("/proc")) -> Memory:
    """Add up the memory of a process and all its descendants.

    It takes the system milliseconds for each GB that they have mapped.

    Args:
        pid: The process; one that is gone has none.
        root: Where the system tells of processes.
    """
    proportional = unique = 0
    for each in _tree(pid, root):
        try:
            text = (root / str(each) / "smaps_rollup").read_text()
        except OSError:
            continue
        sizes = {name: int(size) * _KB for name, size in _LINE.findall(text)}
        proportional += sizes.get("Pss", 0)
        unique += sizes.get("Private_Clean", 0) + sizes.get("Private_Dirty", 0)
    return Memory(proportional, unique)


def _tree(pid: int, root: Path) -> list[int]:
    """List a process and its descendants, by the parents that the system tells of."""
    children: dict[int, list[int]] = {}
    for folder in root.glob("[0-9]*"):
        try:
            # the name, in parentheses, may hold anything
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, rest = [], [pid]
    while rest:
        each = rest.pop()
        found.append(each)
        rest += children.get(each, [])
    return found
