"""Run a runtime on the event loop, within the caller's task."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jackfield.messages import InferRequest, InferResponse


class DirectScheduler:
    """Passes the request straight to the runtime's coroutine function: no hop at all."""

    def __init__(self, infer: Callable[[InferRequest], Awaitable[InferResponse]]) -> None:
        self.infer = infer

    @classmethod
    def of_plain(cls, plain: Callable[[InferRequest], InferResponse]) -> DirectScheduler:
        """Run a plain function on the loop, which it blocks: for very short predicts."""

        async def infer(request: InferRequest) -> InferResponse:
            return plain(request)

        return cls(infer)

    async def drain(self) -> None:
        """Wait for nothing: a caller that goes takes its request along."""

    def close(self) -> None:
        """Hold nothing, free nothing."""
