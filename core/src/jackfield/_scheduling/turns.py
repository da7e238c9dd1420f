"""Shares the event loop's turns between REST and gRPC.

grpc.aio takes in one call in two turns of the loop, while a turn runs all REST requests that have
come in: the more of them, the longer the turn, and the fewer calls. With some hundred connections
REST was measured to be answered within 40 ms, and calls of gRPC to wait for seconds, and the longer
the more came. So REST requests that have come together go in several turns, while calls come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import thread_time_ns

#: How much of a turn REST requests may take before the others wait for the next, in nanoseconds of
#: the thread's own time: where other programs take the processor, turns are no fewer.
_PART_NS = 1_000_000
#: Turns with a REST request that are shared after each call: the next one comes within two, and
#: what it does next within a few.
_SHARED = 8


class Turns:
    """One for each server; used on its event loop."""

    __slots__ = ("_began", "_is_taken", "_passed", "_waiting", "left")

    def __init__(self) -> None:
        #: Turns that are shared still, in which a REST request has to `take` its part; 0 where no
        #: calls come.
        self.left = 0
        #: Whether a REST request has gone in this turn; when the first did, and how many have.
        self._is_taken = False
        self._began = 0
        self._passed = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def share(self) -> None:
        """Note a call of gRPC."""
        self.left = _SHARED

    async def take(self) -> None:
        """Wait for a turn in which there is time for one more REST request."""
        if not self._is_taken:
            self._begin(1)
        elif not self._waiting and thread_time_ns() - self._began < _PART_NS:
            self._passed += 1
        else:
            given = asyncio.get_running_loop().create_future()
            self._waiting.append(given)
            await given

    def _begin(self, passed: int) -> None:
        self._is_taken = True
        self._began = thread_time_ns()
        self._passed = passed
        asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        """Let as many go in the next turn as there is time for; all, where no calls come."""
        self.left = max(0, self.left - 1)
        took = thread_time_ns() - self._began
        most = max(1, self._passed * _PART_NS // max(1, took)) if self.left else len(self._waiting)
        woken = 0
        while self._waiting and woken < most:
            given = self._waiting.popleft()
            if not given.done():  # its caller may have left
                given.set_result(None)
                woken += 1
        if woken:
            self._begin(woken)
        else:
            self._is_taken = False
