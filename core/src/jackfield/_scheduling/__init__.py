"""How requests reach a runtime: a queue, batches, and where they run; chosen when a model loads."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, TypeAlias, cast

from jackfield._scheduling.arrivals import Arrivals
from jackfield._scheduling.batcher import NEVER
from jackfield._scheduling.execution import Execution
from jackfield._scheduling.merge import Merger
from jackfield._scheduling.plain import PlainScheduler
from jackfield._scheduling.scheduler import Call, Scheduler
from jackfield._scheduling.stream import iterate_async, iterate_in_thread
from jackfield._scheduling.task import TaskScheduler
from jackfield._scheduling.turns import Turns
from jackfield._threads import ThreadBound, available_cores
from jackfield.errors import ModelLoadError
from jackfield.messages import InferRequest, InferResponse

__all__ = [
    "NEVER",
    "Arrivals",
    "Call",
    "Execution",
    "Scheduler",
    "Turns",
    "choose_scheduler",
    "choose_stream",
    "count_threads",
]

if TYPE_CHECKING:
    from jackfield._statistics import ModelStatistics
    from jackfield.messages import ModelMetadata
    from jackfield.runtime import Capabilities, Runtime
    from jackfield.settings import ModelSettings

logger = logging.getLogger("jackfield")

Stream: TypeAlias = Callable[[InferRequest], AsyncGenerator[InferResponse, None]]

#: As many coroutines as come: each only waits.
_UNBOUNDED = 2**31


def choose_scheduler(
    name: str,
    runtime: Runtime,
    capabilities: Capabilities,
    settings: ModelSettings,
    metadata: ModelMetadata,
    *,
    statistics: ModelStatistics,
    arrivals: Arrivals,
    bound: ThreadBound | None,
) -> Scheduler:
    """Choose for one model.

    Raises:
        ModelLoadError: The settings contradict the runtime.
    """
    slots, levels = settings.max_concurrency, settings.priority_levels
    if levels and settings.default_priority_level > levels:
        problem = f"default_priority_level is {settings.default_priority_level}, of {levels} levels"
        raise ModelLoadError(problem)
    merger = Merger(
        name,
        metadata,
        is_row_wise=capabilities.row_wise,
        is_suspect=getattr(runtime, "is_suspect", None),
    )
    if capabilities.row_wise and not merger.is_row_wise:
        logger.info(
            "model '%s': its requests are not merged, since its metadata give an output a fixed "
            "first dimension; -1 stands for the rows",
            name,
        )
    # what stands for a runtime in another process tells of that one
    is_plain = getattr(runtime, "is_plain", not inspect.iscoroutinefunction(runtime.infer))
    if is_plain and slots > 1 and not capabilities.thread_safe:
        problem = f"max_concurrency is {slots}, and its infer may not run in several threads"
        raise ModelLoadError(problem)
    if is_plain:
        slots = count_threads(capabilities, settings)
    if inspect.iscoroutinefunction(runtime.infer):
        # of what another worker has: it is given threads, and its calls are counted, over there
        counting = getattr(runtime, "counting", None)
        if settings.scheduler == "thread" and counting is None:
            problem = "scheduler 'thread' does not fit: its infer is a coroutine function"
            raise ModelLoadError(problem)
        return TaskScheduler(
            runtime.infer,
            name,
            settings,
            slots=slots or _UNBOUNDED,
            merger=merger,
            statistics=counting(statistics) if counting else statistics,
            arrivals=arrivals,
        )
    return PlainScheduler(
        cast("Callable[[InferRequest], InferResponse]", runtime.infer),
        name,
        settings,
        slots=slots,
        merger=merger,
        statistics=statistics,
        arrivals=arrivals,
        bound=bound,
        is_thread_safe=capabilities.thread_safe,
    )


def count_threads(capabilities: Capabilities, settings: ModelSettings) -> int:
    """Tell how many calls of a plain `infer` compute at the same time, here or in a host."""
    # several threads were measured to be slower than one where the GIL is held; and rows that
    # wait for one thread come together in a batch
    gains = capabilities.thread_safe and capabilities.releases_gil and not capabilities.row_wise
    return settings.max_concurrency or (available_cores() if gains else 1)


def choose_stream(runtime: Runtime, bound: ThreadBound | None = None) -> Stream | None:
    """Find how a runtime's `stream` is iterated; None for a runtime that has none."""
    stream = getattr(runtime, "stream", None)
    if stream is None:
        return None
    if inspect.isasyncgenfunction(stream):
        return iterate_async(stream)
    return iterate_in_thread(stream, bound)
