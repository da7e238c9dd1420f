"""What a check is: an id, a sentence, a source, and a function that looks at a server.

Knows no protocol; used by every module of checks and by the runners.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from jackfield.testing.conformance._target import Target

#: Looks at the server; returns where the requirement is met.
Look: TypeAlias = "Callable[[Target], None]"


class Level(enum.StrEnum):
    """How much of the protocol a server is asked for; the first part of a check's id."""

    #: Health, metadata, inference in JSON and typed gRPC, errors, bad input.
    CORE = "core"
    #: Tensors as bytes: behind the JSON text over HTTP, raw contents over gRPC.
    BINARY = "binary"
    #: Server-sent events and `ModelStreamInfer`.
    STREAM = "stream"
    #: Repository, statistics, configuration, and what the list of extensions promises.
    MANAGEMENT = "management"


class ConformanceError(AssertionError):
    """The requirement is not met; the text says what was expected and what was found."""


class NotApplicableError(Exception):
    """The check can't be made of this server and model; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One requirement on a server."""

    #: Stable, and unique: level, transport, then what is looked at.
    id: str
    #: One sentence: what is required.
    requirement: str
    #: Where the requirement comes from: the specification, or the client that needs it.
    source: str
    #: Raises `ConformanceError` or `NotApplicableError`.
    look: Look
    #: The check is made only where the server's metadata lists this extension; empty for always.
    extension: str = ""
    #: It unloads the model for a moment: made only where that is allowed.
    unloads: bool = False

    @property
    def level(self) -> Level:
        """The level that it belongs to."""
        return Level(self.id.partition(".")[0])

    @property
    def needs_grpc(self) -> bool:
        """Whether it speaks gRPC."""
        return self.id.split(".")[1] == "grpc"


def check(
    check_id: str,
    requirement: str,
    *,
    source: str,
    extension: str = "",
    unloads: bool = False,
) -> Callable[[Look], Check]:
    """Make the decorated function a check."""

    def make(look: Look) -> Check:
        return Check(check_id, requirement, source, look, extension, unloads)

    return make
