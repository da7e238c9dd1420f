"""What a scheduler gives back: the response, and when the runtime worked on it."""

from __future__ import annotations

from typing import NamedTuple

from jackfield.messages import InferResponse  # noqa: TC001  a NamedTuple keeps its annotations


class Execution(NamedTuple):
    """One call of a runtime; times in nanoseconds of `time.perf_counter_ns`."""

    response: InferResponse
    started: int
    ended: int
