"""Run a runtime in threads of its own model, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import TYPE_CHECKING

from jackfield._scheduling.execution import Execution

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from jackfield.messages import InferRequest, InferResponse
    from jackfield.runtime import Capabilities


class ThreadScheduler:
    """Owns the threads of one model.

    One thread, unless the runtime is thread-safe and releases the GIL: where it does not, several
    threads were measured to be slower than one (0.4 times for a forest).
    """

    def __init__(
        self, plain: Callable[[InferRequest], InferResponse], capabilities: Capabilities
    ) -> None:
        gains = capabilities.thread_safe and capabilities.releases_gil
        threads = (os.cpu_count() or 1) if gains else 1
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="jackfield-infer")
        self._plain = plain
        self._left: set[Future[Execution]] = set()

    async def infer(self, request: InferRequest) -> Execution:
        """Wait for a thread's answer; a cancelled request that still waits is never run."""
        future = self._executor.submit(self._run, request)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancel():  # it runs on
                self._left.add(future)
                future.add_done_callback(self._left.discard)
            raise

    def _run(self, request: InferRequest) -> Execution:
        started = perf_counter_ns()
        try:
            response = self._plain(request)
        except StopIteration as error:  # no future takes it: the caller would wait for ever
            problem = "infer raised StopIteration"
            raise RuntimeError(problem) from error
        return Execution(response, started, perf_counter_ns())

    async def drain(self) -> None:
        """Wait for what still runs although its caller has gone."""
        left = [asyncio.wrap_future(future) for future in tuple(self._left)]
        await asyncio.gather(*left, return_exceptions=True)

    def close(self) -> None:
        """Let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)
