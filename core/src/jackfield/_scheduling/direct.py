"""Run a runtime on the event loop, within the caller's task."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

from jackfield._scheduling.execution import Execution

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jackfield.messages import InferRequest, InferResponse


class DirectScheduler:
    """Awaits the runtime's coroutine function."""

    def __init__(self, infer: Callable[[InferRequest], Awaitable[InferResponse]]) -> None:
        self._infer = infer

    @classmethod
    def of_plain(cls, plain: Callable[[InferRequest], InferResponse]) -> DirectScheduler:
        """Run a plain function on the loop, which it blocks: for very short predicts."""

        async def infer(request: InferRequest) -> InferResponse:
            return plain(request)

        return cls(infer)

    async def infer(self, request: InferRequest) -> Execution:
        """Run at once."""
        started = perf_counter_ns()
        response = await self._infer(request)
        return Execution(response, started, perf_counter_ns())

    async def drain(self) -> None:
        """Wait for nothing: a caller that goes takes its request along."""

    def close(self) -> None:
        """Hold nothing, free nothing."""
