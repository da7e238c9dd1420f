"""A generator in a process of its own: plans come in on stdin, what it saw goes out on stdout.

A frame is a length of four bytes and MessagePack; an empty one is the order to stop the stage. The
end of stdin ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Protocol

import msgspec

from jackfield._load.generator import run_stage
from jackfield._load.plan import Plan, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from jackfield._load.tally import Tally

_LENGTH_BYTES = 4


class Writer(Protocol):
    """Takes bytes."""

    def write(self, data: bytes, /) -> object:
        """Take them."""


def write_frame(writer: Writer, content: bytes) -> None:
    """Write a frame."""
    writer.write(len(content).to_bytes(_LENGTH_BYTES, "big") + content)


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Read a frame; None at the end."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        return None


def run_on_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run on the fastest event loop that is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as out:

        def tell(tally: Tally, *, is_final: bool = False) -> None:
            write_frame(out, msgspec.msgpack.encode(Seen(tally, is_final)))

        write_frame(out, b"ready")
        stop = asyncio.Event()
        stage: asyncio.Task[None] | None = None

        async def run(plan: Plan) -> None:
            tell(await run_stage(plan, stop, tell), is_final=True)

        def note_end(task: asyncio.Task[None]) -> None:
            if task.exception() is not None:
                reader.feed_eof()

        while (frame := await read_frame(reader)) is not None:
            if not frame:
                stop.set()
                continue
            stop.clear()
            stage = asyncio.create_task(run(msgspec.msgpack.decode(frame, type=Plan)))
            stage.add_done_callback(note_end)
        stop.set()
        if stage is not None:
            # nobody may be there any more to be told
            with contextlib.suppress(BrokenPipeError):
                await stage


if __name__ == "__main__":
    run_on_loop(_serve())
