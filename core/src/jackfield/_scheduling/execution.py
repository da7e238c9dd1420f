"""What one call of a runtime gave a request: the response, and when the runtime worked on it."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from jackfield.messages import InferResponse  # noqa: TC001  a NamedTuple keeps its annotations


class Execution(NamedTuple):
    """A request's share of one call; times in nanoseconds of `time.perf_counter_ns`."""

    response: InferResponse
    started: int
    ended: int
    #: Rows and requests of the whole call.
    rows: int = 1
    requests: int = 1


#: What a request gets.
Outcome: TypeAlias = Execution | BaseException
