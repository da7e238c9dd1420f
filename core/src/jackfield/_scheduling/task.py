"""Run an `infer` that is a coroutine function, as tasks of the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from time import perf_counter_ns
from typing import TYPE_CHECKING

from jackfield._scheduling.scheduler import Scheduler, storable
from jackfield.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jackfield._scheduling.arrivals import Arrivals
    from jackfield._scheduling.execution import Outcome
    from jackfield._scheduling.merge import Merger
    from jackfield._scheduling.scheduler import Call
    from jackfield._statistics import ModelStatistics
    from jackfield.messages import InferRequest, InferResponse
    from jackfield.settings import ModelSettings


class TaskScheduler(Scheduler):
    """Awaits a coroutine function.

    A request that is alone in its batch runs in the context of its caller.

    Args:
        infer: The function.
        name: As for `Scheduler`; so are the others.
        settings: As for `Scheduler`.
        slots: As for `Scheduler`.
        merger: As for `Scheduler`.
        statistics: As for `Scheduler`.
        arrivals: As for `Scheduler`.
    """

    _keeps_context = True

    def __init__(
        self,
        infer: Callable[[InferRequest], Awaitable[InferResponse]],
        name: str,
        settings: ModelSettings,
        *,
        slots: int,
        merger: Merger,
        statistics: ModelStatistics,
        arrivals: Arrivals,
    ) -> None:
        super().__init__(
            name, settings, slots=slots, merger=merger, statistics=statistics, arrivals=arrivals
        )
        self._infer = infer
        # the loop keeps no strong reference
        self._tasks: set[asyncio.Task[None]] = set()

    def _start(self, batch: list[Call]) -> int:
        self._idle.clear()
        context = batch[0].context if len(batch) == 1 else contextvars.Context()
        task = self._loop.create_task(self._run(batch), context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(functools.partial(self._end_unrun, batch))
        for call in batch:
            call.task, call.mates = task, batch
        return 0

    def _end_unrun(self, batch: list[Call], task: asyncio.Task[None]) -> None:
        """Free the slot of a task that was cancelled before its first step: it ran no line."""
        if batch:
            self._close_batch(batch, [storable(asyncio.CancelledError())] * len(batch))

    def _close_batch(self, batch: list[Call], outcomes: list[Outcome]) -> None:
        for call in batch:  # they would keep each other alive
            call.task, call.mates = None, []
        self._finish(batch, outcomes)
        batch.clear()
        self._end()

    async def _run(self, batch: list[Call]) -> None:
        outcomes: list[Outcome] = []
        steps = self._merger.answer([call.request for call in batch])
        try:
            request = next(steps)
            while True:
                request = steps.send(await self._call(request))
        except StopIteration as end:
            outcomes = end.value
        except asyncio.CancelledError as error:  # nobody waits any more
            outcomes = [storable(error)] * len(batch)
            raise
        # what the runtime gave can't be split: it holds no tensors
        except Exception as error:  # noqa: BLE001
            outcomes = [error] * len(batch)
        finally:
            self._close_batch(batch, outcomes)

    async def _call(self, request: InferRequest) -> Outcome:
        started = perf_counter_ns()
        limit = asyncio.timeout(self._max_infer_s or None)
        try:
            async with limit:
                response = await self._infer(request)
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise
            # foreign code; the model translates what it raises
            if isinstance(error, TimeoutError) and limit.expired():
                return DeadlineError(self._name, timeout_s=self._max_infer_s)
            return storable(error)
        return self._executed(request, response, started)

    def close(self) -> None:
        """End what still runs."""
        super().close()
        for task in self._tasks:
            task.cancel()

    def join(self) -> None:
        """Return at once: it has no threads."""
