"""Iterate a runtime's stream of responses, on the event loop or in a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator

    from jackfield._threads import ThreadBound
    from jackfield.messages import InferRequest, InferResponse


def iterate_async(
    stream: Callable[[InferRequest], AsyncGenerator[InferResponse, None]],
) -> Callable[[InferRequest], AsyncGenerator[InferResponse, None]]:
    """Take an async generator function as it is; cancellation reaches it by itself."""
    return stream


def iterate_in_thread(
    stream: Callable[[InferRequest], Iterable[InferResponse]], bound: ThreadBound | None
) -> Callable[[InferRequest], AsyncGenerator[InferResponse, None]]:
    """Step through a plain generator in threads, one step at a time.

    A cancelled caller waits for the step that runs, and then the generator is closed.
    """

    async def iterate(request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        loop = asyncio.get_running_loop()
        responses: Iterator[InferResponse] = iter(stream(request))
        try:
            while True:
                step = loop.run_in_executor(None, _step, responses, bound)
                try:
                    response = await asyncio.shield(step)
                except asyncio.CancelledError:
                    await asyncio.wait([step])
                    raise
                if response is None:
                    return
                yield response
        finally:
            close = getattr(responses, "close", None)
            if close is not None:
                await loop.run_in_executor(None, close)

    return iterate


def _step(responses: Iterator[InferResponse], bound: ThreadBound | None) -> InferResponse | None:
    if bound is not None:
        bound.apply()
    return next(responses, None)
