"""Run a plain `infer`, each batch where it costs least, by the measured cost of the model.

A short call runs on the event loop: to go to a thread and back costs more, and a thread that holds
the GIL starves the loop for longer than the call takes. A long one runs in a thread of the model.
A call that comes in a thread, another model's, may run there.
"""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns, thread_time_ns
from typing import TYPE_CHECKING, NamedTuple, cast

from jackfield._scheduling.cost import Cost
from jackfield._scheduling.execution import Execution
from jackfield._scheduling.merge import rows_of
from jackfield._scheduling.scheduler import SHORT_NS, Scheduler, storable
from jackfield.errors import DeadlineError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from jackfield._scheduling.arrivals import Arrivals
    from jackfield._scheduling.execution import Outcome
    from jackfield._scheduling.merge import Merger
    from jackfield._scheduling.scheduler import Call
    from jackfield._statistics import ModelStatistics
    from jackfield._threads import ThreadBound
    from jackfield.messages import InferRequest, InferResponse
    from jackfield.settings import ModelSettings

logger = logging.getLogger("jackfield")

#: A thread's wait that may well have been one for the GIL, in nanoseconds: some switch intervals.
_GIL_NS = 10_000_000
#: Calls for which the wall's clock goes, after one on the loop has shown that the model itself
#: waits for something.
_WAITING_CALLS = 1000
#: The longest call that is foreseen for its caller's thread, in nanoseconds: nobody can tell him
#: meanwhile that his time is over.
_HERE_NS = 100_000_000
#: How the loop is watched while a thread computes: a timer after so long, in seconds, ...
_BEAT_S = 0.01
#: ... that comes late by so much, in seconds, ...
_LATE_S = 0.02
#: ... so many times in a row.
_LATE_BEATS = 3


class _Timers(NamedTuple):
    """What watches a call in a thread."""

    limit: asyncio.TimerHandle | None
    beat: asyncio.TimerHandle | None


class PlainScheduler(Scheduler):
    """Calls a plain function.

    Args:
        infer: The function.
        name: As for `Scheduler`; so are the others.
        settings: Its `scheduler` may force one place.
        slots: Threads at the same time.
        merger: As for `Scheduler`.
        statistics: As for `Scheduler`.
        arrivals: As for `Scheduler`.
        bound: Bounds the pools of the runtime's framework.
        is_thread_safe: Whether the function may run in several threads at the same time.
    """

    def __init__(
        self,
        infer: Callable[[InferRequest], InferResponse],
        name: str,
        settings: ModelSettings,
        *,
        slots: int,
        merger: Merger,
        statistics: ModelStatistics,
        arrivals: Arrivals,
        bound: ThreadBound | None,
        is_thread_safe: bool = False,
    ) -> None:
        super().__init__(
            name, settings, slots=slots, merger=merger, statistics=statistics, arrivals=arrivals
        )
        self._infer = infer
        self._bound = bound
        #: Whether each batch goes where it costs least.
        self._chooses = settings.scheduler == "auto" and merger.counts_rows
        self._waits = settings.max_batch_time > 0
        # who asks for company, or for so many calls and no more, gets that
        self._goes_anywhere = (
            is_thread_safe and self._chooses and not (self._waits or settings.max_concurrency)
        )
        limit_ns = settings.max_infer_time * 1e9 or math.inf
        self._longest_here_ns = min(_HERE_NS, limit_ns / 2)
        self._slots = slots
        #: Batches that did not come back in time, by identity.
        self._stuck: set[int] = set()
        self._cost = Cost()
        self._learning = threading.Lock()
        # Most rows that go on the loop. A promise of independent rows is one of plain computing:
        # other code may wait for anything, and for ever.
        self._short_rows = math.inf if settings.scheduler == "direct" else -1.0
        #: Whether the next call on the loop is looked at for waiting.
        self._doubts = False
        self._waiting_calls = 0
        self._late_beats = 0
        self._executor: ThreadPoolExecutor | None = None

    def _start(self, batch: list[Call]) -> int:
        rows = batch[0].rows if len(batch) == 1 else sum([call.rows for call in batch])
        if rows > self._short_rows:
            self._start_thread(batch)
            return 0
        if self._bound is not None:
            self._bound.apply_single()
        cpu = thread_time_ns() if self._doubts else 0
        started = perf_counter_ns()
        outcomes = self._answer(batch)
        ns = perf_counter_ns() - started
        if ns > SHORT_NS:
            self._doubt(ns, cpu)
        self._learn(outcomes, ns)
        self._finish(batch, outcomes)
        return ns

    def _doubt(self, ns: int, cpu: int) -> None:
        """Find out whether a model that was not short, although foreseen so, waits itself."""
        if self._doubts and ns > 3 * (thread_time_ns() - cpu):
            self._waiting_calls = _WAITING_CALLS
        self._doubts = not self._doubts

    def _learn(self, outcomes: list[Outcome], ns: int) -> None:
        first = outcomes[0]
        if self._chooses and isinstance(first, Execution) and first.requests == len(outcomes):
            with self._learning:
                self._cost.update(first.rows, ns)
                self._short_rows = self._cost.most_rows(SHORT_NS)
                self.is_quick = self._short_rows >= 1 and not self._waits

    # ---- in the caller's thread ----

    def fits_here(self, request: InferRequest, left_ns: int) -> bool:
        """Tell whether a request may run in its caller's thread, and nobody else is there."""
        batcher = self._batcher
        if not self._goes_anywhere or batcher.waiting or batcher.running or self.problem:
            return False
        foreseen = self._cost.predict(rows_of(request))
        # half of the time that is left: what comes of it has to be used, too
        return 0 < foreseen <= min(self._longest_here_ns, left_ns / 2)

    def answer_here(self, request: InferRequest) -> Outcome:
        """Answer it; see `Scheduler.answer_here`."""
        if self._bound is not None:
            if rows_of(request) > self._short_rows:
                self._bound.apply()
            else:
                self._bound.apply_single()
        started, cpu = perf_counter_ns(), thread_time_ns()
        outcome = self._call(request)
        self._learn([outcome], self._own_ns(started, cpu))
        if isinstance(outcome, Execution):
            self._statistics.executed(
                requests=1, rows=outcome.rows, ns=outcome.ended - outcome.started, waiting=0
            )
        return outcome

    # ---- in whichever thread ----

    def _answer(self, batch: list[Call]) -> list[Outcome]:
        if len(batch) == 1:
            return [self._call(batch[0].request)]
        steps = self._merger.answer([call.request for call in batch])
        try:
            request = next(steps)
            while True:
                request = steps.send(self._call(request))
        except StopIteration as end:
            return cast("list[Outcome]", end.value)
        # what the runtime gave can't be split: it holds no tensors
        except Exception as error:  # noqa: BLE001
            return [error] * len(batch)

    def _call(self, request: InferRequest) -> Outcome:
        started = perf_counter_ns()
        try:
            response = self._infer(request)
        # foreign code; the model translates what it raises
        except BaseException as error:  # noqa: BLE001
            return storable(error)
        return self._executed(request, response, started)

    # ---- in a thread ----

    def _start_thread(self, batch: list[Call]) -> None:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._slots, thread_name_prefix="jackfield-infer")
        self._idle.clear()
        loop = self._loop
        limit = beat = None
        if self._max_infer_s:
            limit = loop.call_later(self._max_infer_s, self._give_up, batch)
        if self._late_beats < _LATE_BEATS:
            due = loop.time() + _BEAT_S
            beat = loop.call_at(due, self._beat, due)
        self._executor.submit(self._run, batch, _Timers(limit, beat))

    def _run(self, batch: list[Call], timers: _Timers) -> None:
        if self._bound is not None:
            self._bound.apply()
        started, cpu = perf_counter_ns(), thread_time_ns()
        outcomes = self._answer(batch)
        ns = self._own_ns(started, cpu)
        self._loop.call_soon_threadsafe(self._end_thread, batch, outcomes, ns, timers)

    def _own_ns(self, started: int, cpu: int) -> int:
        """Tell what a call took in this thread, what it waited for the GIL left out."""
        ns, cpu_ns = perf_counter_ns() - started, thread_time_ns() - cpu
        return cpu_ns if ns - cpu_ns < _GIL_NS and not self._waiting_calls else ns

    def _end_thread(
        self,
        batch: list[Call],
        outcomes: list[Outcome],
        ns: int,
        timers: _Timers,
    ) -> None:
        limit, beat = timers
        if limit is not None:
            limit.cancel()
        # one that is due is let to tell how late it is
        if beat is not None and beat.when() > self._loop.time():
            beat.cancel()
        if id(batch) in self._stuck:
            self._come_back(batch)
        self._waiting_calls = max(0, self._waiting_calls - 1)
        self._learn(outcomes, ns)
        self._finish(batch, outcomes)
        self._end()

    def _give_up(self, batch: list[Call]) -> None:
        """Tell those who wait for a call that does not come back."""
        for call in batch:
            if not call.future.done():
                error = DeadlineError(self._name, timeout_s=self._max_infer_s)
                call.future.set_exception(error)
        self._stuck.add(id(batch))
        if len(self._stuck) < self._slots:
            return
        problem = f"infer has not returned for {self._max_infer_s:g} s"
        logger.error("model '%s' is not ready: %s", self._name, problem)
        self._refuse(problem)

    def _come_back(self, batch: list[Call]) -> None:
        self._stuck.discard(id(batch))
        if self.problem and not self._is_closed:
            logger.warning("model '%s' is ready again: infer has returned", self._name)
            self.problem = ""

    def _beat(self, due: float) -> None:
        """Notice that the loop was kept from running."""
        late_s = self._loop.time() - due
        self._late_beats = self._late_beats + 1 if late_s > _LATE_S else 0
        if self._late_beats == _LATE_BEATS:
            logger.warning(
                "the server stood still for %d ms while model '%s' computed; if its framework "
                'holds the GIL, "scheduler": "process" in the model\'s settings keeps it from '
                "stopping the others",
                late_s * 1000,
                self._name,
            )

    def close(self) -> None:
        """Let the threads end."""
        super().close()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait until its threads have ended: until then they hold what they called last."""
        if self._executor is not None:
            self._executor.shutdown()
