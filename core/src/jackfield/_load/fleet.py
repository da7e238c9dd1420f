"""The generators: one on this event loop, or several in processes of their own."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from jackfield._load.generator import run_stage
from jackfield._load.plan import Plan, Seen
from jackfield._load.tally import Tally, merged
from jackfield._load.worker import read_frame, write_frame

if TYPE_CHECKING:
    from jackfield._load.generator import Progress

#: How long after a plan is sent its stage starts, in nanoseconds: all processes have it by then,
#: and are connected.
_HEAD_START_NS = 300_000_000


class Fleet:
    """Runs stages, each on all generators together.

    Args:
        processes: How many; 1 needs no process but this one.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._workers: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Fleet:
        """Start the processes, if there are to be several."""
        if self._processes > 1:
            for _ in range(self._processes):
                worker = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "jackfield._load.worker"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    # Ctrl-C is for this process, which tells the others
                    start_new_session=True,
                )
                self._workers.append(worker)
            # each says that it is there, so that the first stage waits for all imports
            await asyncio.gather(*(self._read(worker) for worker in self._workers))
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the processes."""
        for worker in self._workers:
            if worker.stdin is not None:
                worker.stdin.close()
        await asyncio.gather(*(worker.wait() for worker in self._workers))

    async def run(self, plan: Plan, stop: asyncio.Event, progress: Progress) -> Tally:
        """Run a stage; `run_stage` has the arguments.

        Raises:
            RuntimeError: A process ended.
        """
        if self._processes == 1:
            return await run_stage(plan, stop, progress)
        plan = msgspec.structs.replace(plan, start_ns=time.monotonic_ns() + _HEAD_START_NS)
        shares = [plan.share(index, self._processes) for index in range(self._processes)]
        taken = [
            (worker, share)
            for worker, share in zip(self._workers, shares, strict=True)
            if share is not None
        ]
        latest = [Tally() for _ in taken]

        async def follow(index: int, worker: asyncio.subprocess.Process, share: Plan) -> None:
            assert worker.stdin is not None
            write_frame(worker.stdin, msgspec.msgpack.encode(share))
            is_final = False
            while not is_final:
                seen = msgspec.msgpack.decode(await self._read(worker), type=Seen)
                latest[index], is_final = seen.tally, seen.is_final
                progress(merged(latest, is_beside=True))

        stopping = asyncio.create_task(self._stop_all(stop))
        try:
            await asyncio.gather(*(follow(index, *each) for index, each in enumerate(taken)))
        finally:
            stopping.cancel()
        return merged(latest, is_beside=True)

    async def _stop_all(self, stop: asyncio.Event) -> None:
        await stop.wait()
        for worker in self._workers:
            if worker.stdin is not None:
                write_frame(worker.stdin, b"")

    async def _read(self, worker: asyncio.subprocess.Process) -> bytes:
        assert worker.stdout is not None
        frame = await read_frame(worker.stdout)
        if frame is None:
            message = f"a generator's process ended with {await worker.wait()}"
            raise RuntimeError(message)
        return frame
