"""Requests that are on their way: a transport announces them before they come.

What waits for a runtime is started with the last of them, in the same turn of the event loop.
Where nobody announces, it is started at the end of the turn.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter_ns

#: Who announced a request that does not come is forgotten after so many nanoseconds.
_PATIENCE_NS = 2_000_000


class Arrivals:
    """What was announced and has not yet come; one for each server."""

    __slots__ = ("_announced", "are_told")

    def __init__(self) -> None:
        self._announced: deque[int] = deque()
        #: Whether all requests of the shells are announced.
        self.are_told = False

    def announce(self) -> None:
        """Note that a request begins to come in."""
        self._announced.append(perf_counter_ns())

    def come(self) -> None:
        """Note that one is there."""
        if self._announced:
            self._announced.popleft()

    @property
    def are_pending(self) -> bool:
        """Whether some are on their way."""
        announced = self._announced
        if not announced:
            return False
        oldest = perf_counter_ns() - _PATIENCE_NS
        while announced and announced[0] < oldest:
            announced.popleft()
        return bool(announced)
