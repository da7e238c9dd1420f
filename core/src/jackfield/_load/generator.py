"""Run one stage on an event loop: the loop says what is due, a sender sends it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeAlias

from jackfield._load.answers import Answers
from jackfield._load.arrivals import arrivals
from jackfield._load.loops import ClosedLoop, OpenLoop, Window
from jackfield._load.request import decoder
from jackfield._load.sender import create_sender
from jackfield._load.timer import create_timer
from jackfield.client._exchange import Reply
from jackfield.client._http import check
from jackfield.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jackfield._load.loops import Loop
    from jackfield._load.plan import Plan
    from jackfield._load.tally import Tally

    Progress: TypeAlias = Callable[[Tally], None]

#: How often progress is told and old requests are given up, in seconds.
_TICK_S = 0.25
#: Connections that an open loop has at its start.
_FIRST_LANES = 16
_SECOND = 1_000_000_000


async def run_stage(plan: Plan, stop: asyncio.Event, progress: Progress) -> Tally:
    """Put a load on a server, and tell what became of it.

    Answers to what was sent in time are waited for, as long as `Plan.timeout_s` says.

    Args:
        plan: What is sent where, when, how long.
        stop: Ends the stage early; what was measured so far counts.
        progress: Called now and then with what was seen so far.
    """
    stage = _Stage(plan)
    try:
        await stage.run(stop, progress)
    finally:
        await stage.close()
    return stage.tally


class _Stage:
    """Ties a loop, a sender, a timer and a clock together; owned by `run_stage`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._answers: Answers | None = None
        if plan.is_checked:
            first = plan.reference
            reply = Reply(first.body, first.headers) if first else None
            self._answers = Answers(decoder(plan.target.url), reply)
        self._sender = create_sender(
            plan.target, self._answered, timeout_s=plan.timeout_s, keeps=plan.is_checked
        )
        self._timer = create_timer(self._pump)
        self._idle = asyncio.Event()
        self._armed_ns: int | None = None

    async def run(self, stop: asyncio.Event, progress: Progress) -> None:
        plan = self._plan
        lanes = plan.load.connections or min(_FIRST_LANES, plan.max_outstanding)
        await self._sender.start(lanes)
        start_ns = max(plan.start_ns, time.monotonic_ns())
        window = Window(start_ns + plan.warm_up_ns, start_ns + plan.warm_up_ns + plan.duration_ns)
        self._window = window
        self._loop = self._create_loop(start_ns)
        stopped = asyncio.create_task(stop.wait())
        try:
            self._set_timer()
            await self._until(window.begin_ns, stopped, progress)
            busy = time.thread_time()
            await self._until(window.end_ns, stopped, progress)
            self.tally.busy = time.thread_time() - busy
            if stopped.done():
                self._loop.stop(time.monotonic_ns())
            else:
                await self._drain(stopped, progress)
        finally:
            stopped.cancel()
        tally = self.tally
        tally.measured_s = max(window.end_ns - window.begin_ns, 0) / _SECOND
        tally.busy /= tally.measured_s or 1.0
        tally.unanswered = tally.sent - tally.answered - tally.failed

    def _create_loop(self, start_ns: int) -> Loop:
        plan, window = self._plan, self._window
        if not plan.load.rate:
            return ClosedLoop(plan.load.connections, start_ns, window)
        times = arrivals(
            plan.arrivals,
            plan.load.rate,
            start_ns,
            window.end_ns,
            seed=plan.seed,
            phase=plan.phase,
        )
        return OpenLoop(times, plan.max_outstanding, window)

    @property
    def tally(self) -> Tally:
        return self._loop.tally

    async def close(self) -> None:
        self._timer.close()
        await self._sender.stop()

    async def _until(self, at_ns: int, stopped: asyncio.Task[bool], progress: Progress) -> None:
        """Wait until a time, or for the order to stop."""
        while not stopped.done() and (left_ns := at_ns - time.monotonic_ns()) > 0:
            await asyncio.wait([stopped], timeout=min(_TICK_S, left_ns / _SECOND))
            self._tick(progress)

    async def _drain(self, stopped: asyncio.Task[bool], progress: Progress) -> None:
        """Wait for the last answers; the sender gives up what takes too long."""
        idle = asyncio.create_task(self._idle.wait())
        try:
            while self._loop.outstanding and not stopped.done():
                await asyncio.wait(
                    [stopped, idle], timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED
                )
                self._tick(progress)
        finally:
            idle.cancel()

    def _tick(self, progress: Progress) -> None:
        now_ns = time.monotonic_ns()
        self._sender.expire(now_ns)
        window, tally = self._window, self.tally
        tally.measured_s = max(min(now_ns, window.end_ns) - window.begin_ns, 0) / _SECOND
        progress(tally)

    def _pump(self) -> None:
        """Send what is due."""
        self._armed_ns = None
        self._send_due(time.monotonic_ns())

    def _send_due(self, now_ns: int) -> None:
        send = self._sender.send
        for since_ns in self._loop.due(now_ns):
            send(since_ns)
        self._set_timer()

    def _set_timer(self) -> None:
        at_ns = self._loop.next_ns
        if at_ns is not None and at_ns != self._armed_ns:
            self._armed_ns = at_ns
            self._timer.set(at_ns)

    def _answered(self, since_ns: int, problem: str, reply: Reply | None) -> None:
        now_ns = time.monotonic_ns()
        loop = self._loop
        if problem:
            loop.answered(since_ns, now_ns, problem, _text(problem, reply))
        else:
            loop.answered(since_ns, now_ns)
            if self._answers is not None and reply is not None:
                self._check(self._answers.differs(reply))
        self._send_due(now_ns)
        if not loop.outstanding and now_ns >= self._window.end_ns:
            self._idle.set()

    def _check(self, difference: str) -> None:
        if difference:
            self.tally.mismatches += 1
            self.tally.mismatch = self.tally.mismatch or difference


def _text(problem: str, reply: Reply | None) -> str:
    """Give what a failed answer says, in the protocol's form or any other."""
    if reply is None:
        return ""
    try:
        check(int(problem) if problem.isdigit() else 0, reply)
    except RemoteError as error:
        return error.text
    return ""
