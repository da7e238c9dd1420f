"""Calls between two processes over a socket: each end calls, and answers the other's calls."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import struct
from typing import TYPE_CHECKING

import msgspec

from jackfield._workers.messages import Done, Frame

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from jackfield._workers.messages import Message

logger = logging.getLogger("jackfield")

_SIZE = struct.Struct("<I")


class LostError(Exception):
    """The other process is gone, or is going."""


class Channel:
    """One end; used on its event loop.

    Args:
        on_call: Answers a call of the other end; each runs in a task of its own.
    """

    def __init__(self, on_call: Callable[[Message], Awaitable[Message]]) -> None:
        self._on_call = on_call
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Message]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        #: Set when the other end is gone.
        self.lost = asyncio.Event()

    async def open(self, sock: socket.socket) -> None:
        """Begin to listen on a connected socket, which is the channel's from here on."""
        reader, self._writer = await asyncio.open_unix_connection(sock=sock)
        self._reading = asyncio.create_task(self._read(reader))

    async def call(self, message: Message) -> Message:
        """Call the other end, and wait for its answer.

        Raises:
            LostError: The other process ends before it has answered.
        """
        call = next(self._numbers)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[call] = future
        try:
            self._send(Frame(call, message))
            return await future
        finally:
            del self._pending[call]

    async def close(self) -> None:
        """Let go of the socket; calls under way are lost."""
        tasks = [*self._answering, *([self._reading] if self._reading else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def _send(self, frame: Frame) -> None:
        if self._writer is None or self.lost.is_set():
            raise LostError
        data = msgspec.msgpack.encode(frame)
        self._writer.write(_SIZE.pack(len(data)) + data)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
                frame = _DECODER.decode(await reader.readexactly(size))
                if frame.call > 0:
                    task = asyncio.create_task(self._answer(frame))
                    self._answering.add(task)
                    task.add_done_callback(self._answering.discard)
                elif (future := self._pending.get(-frame.call)) and not future.done():
                    future.set_result(frame.message)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.lost.set()
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(LostError())

    async def _answer(self, frame: Frame) -> None:
        try:
            answer = await self._on_call(frame.message)
        except LostError:
            answer = Done("the other process ends")
        # a fault of ours must not leave the other end waiting
        except Exception as error:
            logger.exception("a call between the server's processes failed")
            answer = Done(f"{type(error).__name__}: {error}")
        with contextlib.suppress(LostError):
            self._send(Frame(-frame.call, answer))


_DECODER = msgspec.msgpack.Decoder(Frame)
