"""One end of the socket between a server and a model's process, on an event loop.

Writes at once what the socket takes, and the rest when it takes more; never blocks.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from jackfield._process.frames import FrameError, pack

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Sequence

    from jackfield._process.frames import Buffer, FrameReader, Payload

#: Buffers given to the system in one call; it takes 1024 at most.
_AT_ONCE = 512
#: Reads before other work has its turn.
_READS = 8


class Link:
    """Sends frames and hands over those that come.

    Args:
        loop: The loop that it lives on; all methods are called there.
        sock: Connected; closed with the link.
        reader: What was read before is in it.
        on_frame: Called with each frame; a `FrameError` that it raises breaks the link.
        on_lost: Called once when the other end is gone or sends no frames, with what is wrong;
            empty if it just ended. Not called after `close`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        reader: FrameReader,
        *,
        on_frame: Callable[[Payload], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._reader = reader
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._unsent: deque[Buffer] = deque()
        self._is_open = False

    def open(self) -> None:
        """Begin to listen."""
        self._sock.setblocking(False)  # noqa: FBT003  it takes no name
        self._is_open = True
        self._loop.add_reader(self._sock, self._read)

    def close(self) -> None:
        """Let go of the socket; what is unsent is dropped."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._unsent.clear()
            self._sock.close()

    def send(self, frame: Sequence[Buffer]) -> None:
        """Send a frame after those before it; on a link that is lost nothing happens."""
        if not self._is_open:
            return
        must_wait = bool(self._unsent)
        self._unsent.extend(pack(frame))
        if not must_wait and not self._flush():
            self._loop.add_writer(self._sock, self._write)

    def _write(self) -> None:
        if self._flush() and self._is_open:
            self._loop.remove_writer(self._sock)

    def _flush(self) -> bool:
        """Send what the socket takes; tells whether that was all."""
        unsent = self._unsent
        while unsent:
            try:
                sent = self._sock.sendmsg(islice(unsent, _AT_ONCE))
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                # reading finds the end as well, after the answers that lie there
                unsent.clear()
                return True
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
            if sent:
                unsent[0] = memoryview(unsent[0])[sent:]
        return True

    def _read(self) -> None:
        for _ in range(_READS):
            if not self._is_open:
                return
            space = self._reader.space()
            try:
                count = self._sock.recv_into(space)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                count = 0
            if not count:
                self._lose("")
                return
            try:
                for payload in self._reader.filled(count):
                    self._on_frame(payload)
            except FrameError as error:
                self._lose(str(error))
                return
            if count < len(space):
                return

    def _lose(self, problem: str) -> None:
        self.close()
        self._on_lost(problem)
