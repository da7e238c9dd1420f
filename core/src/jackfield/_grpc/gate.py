"""Lets calls through together: grpc.aio hands over one call for each turn of the event loop.

A call that is alone goes through at once. Where others came in its company lately, it waits for as
many as came together then, for as long as they keep coming: a runtime's call for ten rows costs
little more than for one. How many that is, is found by trying for more now and then.
"""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jackfield._scheduling import Arrivals

#: Time without a call after which no other is waited for, in nanoseconds: to hand over the next one
#: takes about 100 µs, and some times that where other workers have the processors. The loop is not
#: idle meanwhile, it takes its turns.
_PATIENCE_NS = 600_000
#: Openings after which more calls are tried for: who comes alone waits in vain less than once in a
#: hundred calls.
_TRY_AFTER = 128


class Gate:
    """One for each server; used on its event loop."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._waiting: list[asyncio.Future[None]] = []
        self._wanted = 1
        self._openings = 0
        self._last = 0

    async def enter(self) -> None:
        """Wait for the others, if there are some."""
        if self._wanted <= 1 and not self._waiting:
            self._adapt(1)
            return
        loop = asyncio.get_running_loop()
        entered = loop.create_future()
        self._waiting.append(entered)
        self._last = perf_counter_ns()
        if len(self._waiting) >= self._wanted:
            self._open()
        elif len(self._waiting) == 1:
            loop.call_soon(self._watch, loop, entered)
        await entered
        self._arrivals.come()

    def _watch(self, loop: asyncio.AbstractEventLoop, first: asyncio.Future[None]) -> None:
        if not self._waiting or self._waiting[0] is not first:
            return  # they are through
        if perf_counter_ns() - self._last > _PATIENCE_NS:
            self._open()
        else:
            loop.call_soon(self._watch, loop, first)

    def _open(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._adapt(len(waiting))
        for entered in waiting:
            if not entered.done():
                self._arrivals.announce()
                entered.set_result(None)

    def _adapt(self, count: int) -> None:
        """Learn how many calls come together."""
        self._openings += 1
        self._wanted = count
        if self._openings >= _TRY_AFTER:
            self._openings = 0
            self._wanted = count + 1 + count // 2
