"""How requests reach a runtime: one signature, chosen once, when the model loads."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from jackfield._scheduling.direct import DirectScheduler
from jackfield._scheduling.execution import Execution
from jackfield._scheduling.stream import iterate_async, iterate_in_thread
from jackfield._scheduling.thread import ThreadScheduler
from jackfield.errors import ModelLoadError
from jackfield.messages import InferRequest, InferResponse

if TYPE_CHECKING:
    from jackfield.runtime import Capabilities, Runtime
    from jackfield.settings import ModelSettings

Infer: TypeAlias = Callable[[InferRequest], Awaitable[Execution]]
Stream: TypeAlias = Callable[[InferRequest], AsyncGenerator[InferResponse, None]]


class Scheduler(Protocol):
    """Runs a runtime's `infer`; owned by one model."""

    @property
    def infer(self) -> Infer:
        """What is called for each request."""

    async def drain(self) -> None:
        """Wait for what still runs although its caller has gone."""

    def close(self) -> None:
        """Free threads; requests that still wait are not run."""


def choose_scheduler(
    runtime: Runtime, capabilities: Capabilities, settings: ModelSettings
) -> Scheduler:
    """Choose for one model.

    Raises:
        ModelLoadError: The setting contradicts the runtime.
    """
    if inspect.iscoroutinefunction(runtime.infer):
        if settings.scheduler == "thread":
            problem = "scheduler 'thread' does not fit: its infer is a coroutine function"
            raise ModelLoadError(problem)
        return DirectScheduler(runtime.infer)
    infer = cast("Callable[[InferRequest], InferResponse]", runtime.infer)
    if settings.scheduler == "direct":
        return DirectScheduler.of_plain(infer)
    return ThreadScheduler(infer, capabilities)


def choose_stream(runtime: Runtime) -> Stream | None:
    """Find how a runtime's `stream` is iterated; None for a runtime that has none."""
    stream = getattr(runtime, "stream", None)
    if stream is None:
        return None
    return (
        iterate_async(stream) if inspect.isasyncgenfunction(stream) else iterate_in_thread(stream)
    )
