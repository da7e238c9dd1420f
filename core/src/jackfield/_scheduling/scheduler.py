"""The thin part around the batcher: futures and timers on the server's event loop.

What waits is started at the end of the turn of the loop in which it came; how a batch is run is a
subclass's matter.
"""

from __future__ import annotations

import asyncio
import contextvars
from abc import ABC, abstractmethod
from time import perf_counter_ns
from typing import TYPE_CHECKING, ClassVar

from jackfield._scheduling.batcher import NEVER, Batcher, Ticket
from jackfield._scheduling.execution import Execution, Outcome
from jackfield._scheduling.merge import rows_of
from jackfield.errors import DeadlineError, InvalidRequestError, ModelNotReadyError
from jackfield.messages import InferResponse

if TYPE_CHECKING:
    from jackfield._scheduling.arrivals import Arrivals
    from jackfield._scheduling.merge import Merger
    from jackfield._statistics import ModelStatistics
    from jackfield.messages import InferRequest
    from jackfield.settings import ModelSettings

#: The longest that calls may hold up the event loop in one turn, in nanoseconds: whatever else
#: waits there, health included, waits as long.
SHORT_NS = 2_000_000


class Call(Ticket):
    """One request: its place in the queue, and who waits for the answer."""

    __slots__ = (
        "context",
        "execution",
        "future",
        "left_waiting",
        "mates",
        "request",
        "size",
        "task",
        "timer",
    )

    request: InferRequest
    #: Its rows, where they are independent, else 1.
    size: int
    #: Ends when there is an answer. It does not hold it: the loop may keep a future for longer.
    future: asyncio.Future[None]
    execution: Execution
    timer: asyncio.TimerHandle | None
    #: Of the first one of a batch: requests that waited when it began.
    left_waiting: int
    #: What the caller's task knows by context variables.
    context: contextvars.Context
    #: The task that answers it, once it runs, and all requests that share it.
    task: asyncio.Task[None] | None
    mates: list[Call]


class Scheduler(ABC):
    """Runs the requests of one model; made and used on one event loop.

    Args:
        name: The model's name, for texts.
        settings: Bounds of batches, times and priorities.
        slots: Batches that may run at the same time.
        merger: Knows what may be merged.
        statistics: Counts the calls, and what waits.
        arrivals: Tells of requests that are on their way.
    """

    #: Whether a request runs in its caller's context.
    _keeps_context: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        settings: ModelSettings,
        *,
        slots: int,
        merger: Merger,
        statistics: ModelStatistics,
        arrivals: Arrivals,
    ) -> None:
        self._name = name
        self._merger = merger
        self._statistics = statistics
        self._arrivals = arrivals
        self._max_infer_s = settings.max_infer_time
        self._levels = settings.priority_levels
        self._default_level = settings.default_priority_level
        self._batcher: Batcher[Call] = Batcher(
            max_requests=settings.max_batch_size,
            max_rows=settings.max_batch_rows,
            max_wait_ns=int(settings.max_batch_time * 1e9),
            slots=slots,
            levels=self._levels or 1,
        )
        self._loop = asyncio.get_running_loop()
        # calls belong to no request: what one request's context holds is not another's
        self._context = contextvars.Context()
        self._is_woken = False
        self._waker: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        #: Whether calls are known to be short: nobody needs to look after a caller meanwhile.
        self.is_quick = False
        #: Why it can't answer now; empty when it can.
        self.problem = ""
        self._is_closed = False

    # ---- what waits ----

    def submit(self, request: InferRequest, arrived: int, deadline: int = NEVER) -> Call:
        """Let a request wait for its turn; its future ends when it is answered.

        Args:
            request: What to answer.
            arrived: When the model got it, by `time.perf_counter_ns`.
            deadline: When nobody waits for it any more.

        Raises:
            InvalidRequestError: Its priority is no number.
            ModelNotReadyError: The runtime does not come back from an earlier call.
        """
        if self.problem:
            raise ModelNotReadyError(self._name, reason=self.problem)
        level = self._level(request) if self._levels else 0
        merger = self._merger
        key = merger.key(request)
        call = Call(key, rows_of(request), arrived, deadline, level)
        call.request = request
        call.size = call.rows if merger.counts_rows else 1
        call.future = self._loop.create_future()
        call.timer = call.task = None
        call.context = contextvars.copy_context() if self._keeps_context else self._context
        if deadline != NEVER:
            delay_s = (deadline - arrived) * 1e-9
            call.timer = self._loop.call_later(delay_s, self._expire, call)
        batcher = self._batcher
        batcher.arrive(call)
        self._statistics.waiting = batcher.waiting
        if batcher.can_start:
            arrivals = self._arrivals
            # a caller in the same process has no transport that would tell of the next one
            if arrivals.are_told and request.received_ns and not arrivals.are_pending:
                self._context.run(self._flush)
            elif not self._is_woken:
                self._wake()
        return call

    def fits_here(self, request: InferRequest, left_ns: int) -> bool:
        """Tell whether `answer_here` is the way for a request, in whichever thread.

        Args:
            request: It has no parameters.
            left_ns: Nanoseconds that its caller still waits.
        """
        return False

    def answer_here(self, request: InferRequest) -> Outcome:
        """Answer a request in the calling thread, beside whatever else runs."""
        raise NotImplementedError

    def _level(self, request: InferRequest) -> int:
        """Read the priority: 1 goes first; 0, or a level that there is not, stands for the default.

        Source: Triton, "Dynamic Batcher", priority levels.
        """
        given = request.parameters.get("priority", 0)
        if isinstance(given, bool) or not isinstance(given, int) or given < 0:
            raise InvalidRequestError(
                "parameters.priority", expected="an integer of 0 or more", found=repr(given)
            )
        if 1 <= given <= self._levels:
            return given - 1
        return (self._default_level or self._levels) - 1

    def leave(self, call: Call) -> None:
        """Take out a request that nobody waits for; a batch that runs goes on for the others."""
        if call.timer is not None:
            call.timer.cancel()
        if self._batcher.leave(call):
            self._statistics.waiting = self._batcher.waiting
        elif call.task is not None and all(mate.future.done() for mate in call.mates):
            call.task.cancel()

    def _expire(self, call: Call) -> None:
        if not call.future.done():
            call.future.set_exception(self._late(call))
            self.leave(call)

    def _late(self, call: Call) -> DeadlineError:
        began = call.request.received_ns or call.arrived
        return DeadlineError(self._name, timeout_s=(call.deadline - began) * 1e-9)

    # ---- what starts ----

    def _wake(self) -> None:
        self._is_woken = True
        self._loop.call_soon(self._flush, context=self._context)

    def _flush(self) -> None:
        """Start what may start."""
        self._is_woken = False
        batcher, now = self._batcher, perf_counter_ns()
        spent_ns = 0
        while spent_ns < SHORT_NS and batcher.waiting:
            batch, expired = batcher.take(now)
            for call in expired:
                if not call.future.done():
                    call.future.set_exception(self._late(call))
            if not batch:
                break
            batch[0].left_waiting = batcher.waiting
            spent_ns += self._start(batch)
        self._statistics.waiting = batcher.waiting
        if spent_ns >= SHORT_NS and batcher.can_start:
            self._wake()  # after the loop's other work
        elif (wake_at := batcher.wake_at()) is not None:
            if self._waker is not None:
                self._waker.cancel()
            delay_s = (wake_at - now) * 1e-9
            self._waker = self._loop.call_later(delay_s, self._flush, context=self._context)

    @abstractmethod
    def _start(self, batch: list[Call]) -> int:
        """Run a batch, or let it run; returns how long it held up the loop, in nanoseconds."""

    def _executed(self, request: InferRequest, response: object, started: int) -> Outcome:
        ended = perf_counter_ns()
        if not isinstance(response, InferResponse):
            message = f"infer returned {type(response).__name__}, not InferResponse"
            return TypeError(message)
        return Execution(response, started, ended, self._merger.size(request))

    def _finish(self, batch: list[Call], outcomes: list[Outcome]) -> None:
        """Give everybody who still waits the outcome, and count the calls made."""
        self._batcher.done()
        statistics = self._statistics
        waiting = batch[0].left_waiting
        for outcome in outcomes:
            if isinstance(outcome, Execution):
                _, started, ended, rows, requests = outcome
                statistics.executed(
                    requests=requests, rows=rows, ns=ended - started, waiting=waiting
                )
                if requests > 1:  # all shared one call
                    break
        for call, outcome in zip(batch, outcomes, strict=True):
            if call.timer is not None:
                call.timer.cancel()
            if call.future.done():
                continue
            if isinstance(outcome, Execution):
                call.execution = outcome
                call.future.set_result(None)
            else:
                call.future.set_exception(outcome)

    def _end(self) -> None:
        """Let the next batch follow one that ran beside the loop."""
        if not self._batcher.running:
            self._idle.set()
        if not self._is_woken and self._batcher.can_start:
            self._flush()

    async def drain(self) -> None:
        """Wait for what still runs although its callers have gone."""
        await self._idle.wait()

    def close(self) -> None:
        """Free threads and tasks; what waits is not run, and whoever asks is told."""
        self._is_closed = True
        self._refuse("it is unloaded")

    @abstractmethod
    def join(self) -> None:
        """Wait until its threads have let go of the runtime; briefly, once it is drained."""

    def _refuse(self, problem: str) -> None:
        """Answer nobody any more, and tell those who wait."""
        self.problem = problem
        for call in self._batcher.clear():
            if not call.future.done():
                call.future.set_exception(ModelNotReadyError(self._name, reason=problem))
        self._statistics.waiting = 0


def storable(error: BaseException) -> BaseException:
    """Get an error that a future can take; these would end whoever waits, or never reach it."""
    if isinstance(error, StopIteration | asyncio.CancelledError):
        problem = RuntimeError(f"infer raised {type(error).__name__}")
        problem.__cause__ = error
        return problem
    return error
