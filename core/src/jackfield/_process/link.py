"""One end of the socket between a server and a model's process, on an event loop.

Writes at once what the socket takes, and the rest when it takes more; never blocks.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from jackfield._process.frames import FrameError
from jackfield._process.segments import DESCRIPTORS_AT_ONCE, close_all, send_with

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Sequence

    from jackfield._process.frames import Buffer, Payload
    from jackfield._process.segments import Transport

#: Buffers given to the system in one call; it takes 1024 at most.
_AT_ONCE = 512
#: Reads before other work has its turn.
_READS = 8
#: How soon the other end is told what memory is free when nothing else is sent, in seconds.
_CARE_S = 0.5


class Link:
    """Sends frames and hands over those that come.

    Args:
        loop: The loop that it lives on; all methods are called there.
        sock: Connected; closed with the link.
        transport: The socket's; what was read before is in it. Closed with the link.
        on_frame: Called with each frame; a `FrameError` that it raises breaks the link.
        on_lost: Called once when the other end is gone or sends no frames, with what is wrong;
            empty if it just ended. Not called after `close`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        transport: Transport,
        *,
        on_frame: Callable[[Payload], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        #: Writes the frames that are sent, and reads those that come.
        self.transport = transport
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._unsent: deque[Buffer] = deque()
        #: To be sent with the next buffers, before or with the frames that tell of them.
        self._descriptors: deque[int] = deque()
        self._care: asyncio.TimerHandle | None = None
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
            if self._care is not None:
                self._care.cancel()
                self._care = None
            self._drop_unsent()
            self._sock.close()
            self.transport.close()

    def release(self) -> bool:
        """Stop to listen, and leave the socket open for another one; False if not all is sent."""
        if self._unsent or not self._is_open:
            return False
        self._is_open = False
        self._loop.remove_reader(self._sock)
        if self._care is not None:
            self._care.cancel()
            self._care = None
        return True

    def send(self, frame: Sequence[Buffer]) -> None:
        """Send a frame after those before it; on a link that is lost nothing happens.

        An empty one tells the other end what memory is free, if there is something to tell.
        """
        if not self._is_open:
            return
        must_wait = bool(self._unsent)
        parts, descriptors = self.transport.prepare(frame)
        self._unsent.extend(parts)
        self._descriptors.extend(descriptors)
        if not must_wait and not self._flush():
            self._loop.add_writer(self._sock, self._write)
        self._take_care()

    def _take_care(self) -> None:
        if self._care is None and self.transport.needs_care:
            self._care = self._loop.call_later(_CARE_S, self._tell)

    def _tell(self) -> None:
        self._care = None
        self.send(())

    def _drop_unsent(self) -> None:
        self._unsent.clear()
        close_all(self._descriptors)
        self._descriptors.clear()

    def _write(self) -> None:
        if self._flush() and self._is_open:
            self._loop.remove_writer(self._sock)

    def _flush(self) -> bool:
        """Send what the socket takes; tells whether that was all."""
        unsent = self._unsent
        while unsent:
            try:
                if self._descriptors:
                    sent = self._send_descriptors()
                else:
                    sent = self._sock.sendmsg(islice(unsent, _AT_ONCE))
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                # reading finds the end as well, after the answers that lie there
                self._drop_unsent()
                return True
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
            if sent:
                unsent[0] = memoryview(unsent[0])[sent:]
        return True

    def _send_descriptors(self) -> int:
        """Send one buffer with as many descriptors as may go: so none comes after its frame."""
        going = list(islice(self._descriptors, DESCRIPTORS_AT_ONCE))
        sent = send_with(self._sock, [self._unsent[0]], going)
        for _ in going:
            self._descriptors.popleft()
        close_all(going)
        return sent

    def _read(self) -> None:
        for _ in range(_READS):
            if not self._is_open:
                return
            try:
                payloads = self.transport.receive(self._sock)
            except (BlockingIOError, InterruptedError):
                break
            except FrameError as error:
                self._lose(str(error))
                return
            except OSError:
                payloads = None
            if payloads is None:
                self._lose("")
                return
            try:
                for payload in payloads:
                    self._on_frame(payload)
            except FrameError as error:
                self._lose(str(error))
                return
            if not self.transport.has_more:
                break
        if self._is_open:
            self._take_care()

    def _lose(self, problem: str) -> None:
        self.close()
        self._on_lost(problem)
