"""Shared memory between a server and a model's process: where large tensors lie.

Each end writes into segments of its own and reads those of the other. A segment is anonymous memory
(`memfd_create`), passed over the socket once as a descriptor and mapped once by the other end,
read-only. It has a name nowhere, and the kernel frees it when both ends have let go or are dead. It
is sealed: neither end can shrink it under the other, which would be a SIGBUS, and the reader can't
write to it.

A segment holds the tensors of one frame. When the reader's last view on them is gone, whichever
thread drops it, the number is told to its owner along with the next frame, who fills the segment
again: fresh memory costs ten times what the copy does. A segment that nobody wants for `KEEP_S` is
given back to the system. Where there is none (its bound is reached, all are in use, the system has
no `memfd_create` or no memory), tensors go through the socket.

Copies: one for each direction, from the request's body or the runtime's array into the segment; the
other end reads it where it lies. An output that lies in a segment of the server's (a runtime that
gives back its input, or a part of it) is copied as any other: the owner is never told that a piece
is free while it must be read.
"""

from __future__ import annotations

import array
import contextlib
import errno
import mmap
import os
import socket
import sys
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield._process.frames import (
    FrameError,
    FrameReader,
    News,
    Payload,
    Room,
    decode,
    decode_news,
    encode,
    encode_news,
    pack,
)

if sys.platform == "linux":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield._process.frames import Buffer
    from jackfield._process.messages import Message
    from jackfield.tensor import Tensor

#: Numbers that have together as many bytes or more go by a segment: from here on it is faster than
#: the socket (`benchmarks/isolated.py` has the table).
FROM_BYTES = 128 * 1024
#: Most that the segments of one end of a link hold, in bytes, and how many there are.
LIMIT_BYTES = 256 * 1024 * 1024
MAX_SEGMENTS = 32
#: A segment that is not used for so long is given back to the system, in seconds.
KEEP_S = 10.0

#: How often an end looks for such segments, in seconds.
_LOOK_S = 1.0
#: A segment is not used for less than a quarter of it, if there may be another one.
_LARGEST_RATIO = 4
_PAGE_BYTES = 4096
#: A Python that was built for an older libc lacks the first, macOS all.
_HAS_MEMORY = hasattr(os, "memfd_create") and hasattr(socket, "CMSG_SPACE")
#: Linux 5.1; Python names it from 3.13 on.
_SEAL_FUTURE_WRITE = 0x10

_ITEM_BYTES = array.array("i").itemsize
#: Descriptors that are sent with one call, and those that may wait to be told of.
DESCRIPTORS_AT_ONCE = MAX_SEGMENTS
_MAX_WAITING_DESCRIPTORS = 4 * MAX_SEGMENTS
# as plain numbers: the enumeration's own sums cost microseconds
_CLOSE_ON_EXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_IS_CUT = int(getattr(socket, "MSG_CTRUNC", 0))
_ANCILLARY_BYTES = (
    socket.CMSG_SPACE(DESCRIPTORS_AT_ONCE * _ITEM_BYTES) if hasattr(socket, "CMSG_SPACE") else 0
)
#: Until the other end has taken descriptors that are on their way, in seconds.
_RETRY_S = 0.001


class Transport:
    """What one end of a socket remembers of it: the frame half read, and the segments.

    One for each socket and end, for as long as the socket lives. Reading and writing are each done
    by one thread at a time; `encode` and `decode` by any.

    Args:
        from_bytes: The size from which on tensors go by segments, all of a frame together.
        limit_bytes: Most that the segments of this end hold, and half of what it maps of the
            other's; 0 for none of its own.
        keep_s: How long a segment is kept that is not used, in seconds.
    """

    def __init__(
        self,
        *,
        from_bytes: int = FROM_BYTES,
        limit_bytes: int = LIMIT_BYTES,
        keep_s: float = KEEP_S,
    ) -> None:
        self._reader = FrameReader()
        self._from_bytes = from_bytes
        self._own = _OwnSegments(limit_bytes, keep_s)
        self._theirs = _TheirSegments(2 * limit_bytes)
        #: Received, and not told of yet.
        self._descriptors: deque[int] = deque()
        #: Never held while a finalizer runs that needs it: those take no lock.
        self._lock = threading.Lock()
        #: Whether there ever was one, at either end: most links never have any.
        self._has_segments = False
        #: Whether the last read filled its place, so that more may lie there.
        self.has_more = False

    @property
    def needs_care(self) -> bool:
        """Whether `prepare` is to be called even if there is nothing to send."""
        return self._has_segments and (self._own.is_used or self._theirs.is_used)

    def encode(self, message: Message, tensors: Sequence[Tensor] = ()) -> list[Buffer]:
        """Write a frame, with large tensors in a segment; what it gives is to be sent.

        Raises:
            FrameError: Something can't be written, or the frame is too large.
        """
        return encode(message, tensors, find_room=self._find_room, room_from_bytes=self._from_bytes)

    def _find_room(self, size: int) -> Room | None:
        with self._lock:
            segment = self._own.take(size)
        if segment is None:
            return None
        self._has_segments = True
        return Room(segment.number, segment.memory, self._give_back)

    def _give_back(self, number: int) -> None:
        with self._lock:
            self._own.free([number])

    def decode(self, payload: Payload) -> tuple[Message, list[Tensor]]:
        """Read a frame, once; its arrays are read-only.

        Raises:
            FrameError: It is malformed, or names a segment that it can't.
        """
        return decode(payload, self._find_segment)

    def _find_segment(self, number: int) -> memoryview:
        with self._lock:
            return self._theirs.read(number)

    def prepare(self, frame: Sequence[Buffer]) -> tuple[Sequence[Buffer], Sequence[int]]:
        """Put before a frame what the other end must know of segments.

        Args:
            frame: To be sent; empty to tell only that, if there is something.

        Returns:
            The parts to send, and the descriptors that go with the first of them, at most
            `DESCRIPTORS_AT_ONCE`: whoever sends them closes them.
        """
        if not self.needs_care:
            return (pack(frame) if frame else ()), ()
        with self._lock:
            retired = self._own.retire_idle(time.monotonic())
            created, descriptors = self._own.take_created()
            freed = self._theirs.take_freed()
        if created or freed or retired:
            frame = [*encode_news(News(created, freed, retired)), *frame]
        return (pack(frame) if frame else ()), descriptors

    def send_all(self, sock: socket.socket, frame: Sequence[Buffer]) -> None:
        """Send a frame, blocking; where the other end is gone, reading finds out."""
        parts, descriptors = self.prepare(frame)
        try:
            for part in parts:
                view = memoryview(part)
                while descriptors:
                    try:
                        view = view[send_with(sock, [view], descriptors) :]
                    except BlockingIOError:
                        time.sleep(_RETRY_S)
                        continue
                    close_all(descriptors)
                    descriptors = ()
                sock.sendall(view)
        except OSError:
            close_all(descriptors)

    def receive(self, sock: socket.socket, flags: int = 0) -> list[Payload] | None:
        """Read once.

        Returns:
            The frames that are whole now; None if the other end is gone.

        Raises:
            OSError: As for `socket.recv`.
            FrameError: It sent what is no frame, or can't be right.
        """
        space = self._reader.space()
        count, ancillary, received, _ = sock.recvmsg_into(
            [space], _ANCILLARY_BYTES, flags | _CLOSE_ON_EXEC
        )
        if ancillary or received & _IS_CUT:
            self._take_descriptors(ancillary, is_cut=bool(received & _IS_CUT))
        self.has_more = count == len(space)
        if not count:
            return None
        payloads = self._reader.filled(count)
        for payload in payloads:
            if payload.is_news:
                return self._sort(payloads)
        return payloads

    def _sort(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Read the news; gives the others."""
        for payload in payloads:
            if payload.is_news:
                self._read_news(decode_news(payload))
        return [payload for payload in payloads if not payload.is_news]

    def _take_descriptors(
        self, ancillary: Sequence[tuple[int, int, bytes]], *, is_cut: bool
    ) -> None:
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(data[: len(data) - len(data) % found.itemsize])
                self._descriptors.extend(found)
        if is_cut:
            problem = "descriptors were lost: it sent too many, or no more files may be open"
            raise FrameError(problem)
        if len(self._descriptors) > _MAX_WAITING_DESCRIPTORS:
            problem = f"it sent {len(self._descriptors)} descriptors and does not tell of what"
            raise FrameError(problem)

    def _read_news(self, news: News) -> None:
        self._has_segments = True
        with self._lock:
            for number, size in news.created:
                if not self._descriptors:
                    problem = f"segment {number} comes without a descriptor"
                    raise FrameError(problem)
                self._theirs.add(number, size, self._descriptors.popleft())
            self._own.free(news.freed)
            self._theirs.remove(news.retired)

    def close(self) -> None:
        """Let go of all segments; arrays that lie in those of the other end stay."""
        with self._lock:
            self._own.close()
            self._theirs.close()
            close_all(self._descriptors)
            self._descriptors.clear()


def send_with(sock: socket.socket, parts: Sequence[Buffer], descriptors: Sequence[int]) -> int:
    """Send what the socket takes, with all descriptors, or nothing.

    Returns:
        How many bytes it took.

    Raises:
        BlockingIOError: It takes none now, or too many descriptors are on their way.
        OSError: As for `socket.sendmsg`.
    """
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    try:
        return sock.sendmsg(parts, ancillary)
    except OSError as error:
        if error.errno == errno.ETOOMANYREFS:
            raise BlockingIOError(*error.args) from error
        raise


def close_all(descriptors: Sequence[int] | deque[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


@dataclass(slots=True, eq=False)
class _Segment:
    number: int
    size: int
    memory: memoryview
    #: When it was filled last, or made.
    used: float


class _OwnSegments:
    """Segments that this end writes."""

    def __init__(self, limit_bytes: int, keep_s: float) -> None:
        self._limit_bytes = limit_bytes if _HAS_MEMORY else 0
        self._keep_s = keep_s
        self._held_bytes = 0
        self._last_number = 0
        self._in_use: dict[int, _Segment] = {}
        #: Those that were free last come last: they are in the processor's caches.
        self._free: list[_Segment] = []
        #: Descriptors of those that the other end does not know yet, by number.
        self._created: dict[int, int] = {}
        #: Those that it must forget.
        self._retired: list[int] = []
        self._next_look = 0.0

    @property
    def is_used(self) -> bool:
        return self._held_bytes > 0 or bool(self._retired)

    def take(self, size: int) -> _Segment | None:
        """Find a free segment, or make one; None if there is no room for it."""
        if size > self._limit_bytes:
            return None
        fitting = [each for each in reversed(self._free) if each.size >= size]
        segment = min(fitting, key=lambda each: each.size) if fitting else None
        if segment is None or segment.size > _LARGEST_RATIO * size:
            # the free ones that are too small must go only if none is large enough
            segment = self._create(size, may_retire=segment is None) or segment
        if segment is None:
            return None
        if segment in self._free:
            self._free.remove(segment)
        segment.used = time.monotonic()
        self._in_use[segment.number] = segment
        return segment

    def free(self, numbers: Sequence[int]) -> None:
        """Take notice of segments that are not read any more.

        Raises:
            FrameError: One was not in use.
        """
        for number in numbers:
            segment = self._in_use.pop(number, None)
            if segment is None:
                problem = f"it frees segment {number}, which is not in use"
                raise FrameError(problem)
            self._free.append(segment)

    def retire_idle(self, now: float) -> list[int]:
        """Give unused memory back; gives the numbers that the other end must forget."""
        if now >= self._next_look:
            self._next_look = now + min(_LOOK_S, self._keep_s)
            for segment in [each for each in self._free if now - each.used >= self._keep_s]:
                self._retire(segment)
        retired, self._retired = self._retired, []
        return retired

    def take_created(self) -> tuple[list[tuple[int, int]], list[int]]:
        """Give the segments that the other end does not know yet, and their descriptors."""
        if not self._created:
            return [], []
        known = {each.number: each for each in (*self._free, *self._in_use.values())}
        created = [(number, known[number].size) for number in self._created]
        descriptors = list(self._created.values())
        self._created.clear()
        return created, descriptors

    def close(self) -> None:
        self._limit_bytes = self._held_bytes = 0
        self._in_use.clear()
        self._free.clear()
        self._retired.clear()
        close_all(list(self._created.values()))
        self._created.clear()

    def _create(self, size: int, *, may_retire: bool) -> _Segment | None:
        size = _round_up(size, self._limit_bytes)
        while not self._has_room(size):
            if not may_retire or not self._free:
                return None
            self._retire(self._free[0])
        try:
            memory, descriptor = _make_memory(size)
        # of memory or descriptors there are no more; the socket is there
        except (OSError, ValueError, MemoryError):
            return None
        self._last_number += 1
        self._created[self._last_number] = descriptor
        self._held_bytes += size
        return _Segment(self._last_number, size, memory, time.monotonic())

    def _has_room(self, size: int) -> bool:
        count = len(self._free) + len(self._in_use)
        return self._held_bytes + size <= self._limit_bytes and count < MAX_SEGMENTS

    def _retire(self, segment: _Segment) -> None:
        self._free.remove(segment)
        self._held_bytes -= segment.size
        descriptor = self._created.pop(segment.number, None)
        if descriptor is None:
            self._retired.append(segment.number)
        else:
            os.close(descriptor)


def _round_up(size: int, limit: int) -> int:
    """Give a size that fits the next requests as well: a quarter more at most."""
    step = max(_PAGE_BYTES, 1 << max(size.bit_length() - 3, 0))
    return min(size + -size % step, max(limit, size))


def _make_memory(size: int) -> tuple[memoryview, int]:
    """Get shared memory, sealed; gives it and its descriptor."""
    assert sys.platform == "linux", "where there is none, no room is found before"
    descriptor = os.memfd_create("jackfield", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # all of it now: too little memory is an error here, and half the faults are spared
        os.posix_fallocate(descriptor, 0, size)
        mapping = mmap.mmap(descriptor, size, mmap.MAP_SHARED)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        with contextlib.suppress(OSError):  # an older kernel
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return memoryview(mapping), descriptor


@dataclass(slots=True)
class _Mapped:
    mapping: mmap.mmap
    is_read: bool = False


class _TheirSegments:
    """Segments that the other end writes, mapped read-only."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._mapped: dict[int, _Mapped] = {}
        #: Filled by finalizers, in any thread and at any time: without a lock.
        self._freed: deque[int] = deque()
        self._read_count = 0

    @property
    def is_used(self) -> bool:
        return self._read_count > 0

    def add(self, number: int, size: int, descriptor: int) -> None:
        """Map one; the descriptor is closed.

        Raises:
            FrameError: It is none that can be read safely, or one too many.
        """
        try:
            problem = self._find_problem(number, size, descriptor)
            if problem:
                raise FrameError(f"segment {number} {problem}")
            mapping = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError, OverflowError, MemoryError) as error:
            problem = f"segment {number} can't be mapped: {error}"
            raise FrameError(problem) from error
        finally:
            os.close(descriptor)
        self._mapped[number] = _Mapped(mapping)
        self._held_bytes += size

    def _find_problem(self, number: int, size: int, descriptor: int) -> str:
        if sys.platform != "linux":
            return "comes to a system that has no such memory"
        if number in self._mapped:
            return "is there already"
        if size <= 0 or self._held_bytes + size > self._limit_bytes:
            return f"has {size} bytes, and {self._limit_bytes} may be mapped"
        # any other file may be cut off while it is read
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError:
            return "is no memory that can be sealed"
        if not seals & fcntl.F_SEAL_SHRINK:
            return "is not sealed"
        if (found := os.fstat(descriptor).st_size) < size:
            return f"has {found} bytes, not {size}"
        return ""

    def read(self, number: int) -> memoryview:
        """Give one's memory; it is free when the last view on it is gone.

        Raises:
            FrameError: There is no such segment, or what lies there is still read.
        """
        mapped = self._mapped.get(number)
        if mapped is None or mapped.is_read:
            problem = f"segment {number} is {'read already' if mapped else 'not known'}"
            raise FrameError(problem)
        mapped.is_read = True
        self._read_count += 1
        # an array, not the mapping: all views lead to it, and it can be watched
        root: NDArray[Any] = np.frombuffer(mapped.mapping, np.uint8)
        weakref.finalize(root, self._freed.append, number).atexit = False
        return root.data

    def take_freed(self) -> list[int]:
        """Give those that became free since the last time."""
        freed = []
        while self._freed:
            number = self._freed.popleft()
            self._read_count -= 1
            if mapped := self._mapped.get(number):
                mapped.is_read = False
                freed.append(number)
        return freed

    def remove(self, numbers: Sequence[int]) -> None:
        """Forget segments; each is unmapped when no array lies there any more.

        Raises:
            FrameError: One is not known.
        """
        for number in numbers:
            mapped = self._mapped.pop(number, None)
            if mapped is None:
                problem = f"segment {number} is not known"
                raise FrameError(problem)
            self._held_bytes -= len(mapped.mapping)

    def close(self) -> None:
        self._mapped.clear()
        self._held_bytes = self._read_count = 0
