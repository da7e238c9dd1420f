"""Run a runtime in threads of its own model, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

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

    async def infer(self, request: InferRequest) -> InferResponse:
        """Wait for a thread's answer; a cancelled request that still waits is never run."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._plain, request)

    def close(self) -> None:
        """Let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)
