"""Bytes <-> what a model's process and its server tell each other.

A frame is a prefix (magic, size of the header, size of all that follows), a msgpack header with the
message and what its tensors are, and the tensors' bytes, each at a multiple of 64. Large tensors
lie in a segment of shared memory instead, of which the header has the number (see `segments`). Both
ends are this package on one machine: elements lie as they do in memory, but BYTES, which have the
wire's form and never lie in a segment. No I/O, no pickle.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from ctypes import addressof, c_char
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import msgspec
import numpy as np

from jackfield._process.messages import Message
from jackfield._wire.raw import check_shape, decode_raw, encode_raw
from jackfield.errors import InvalidRequestError
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Largest frame, in bytes: JSON of the largest body becomes some four times that as numbers.
MAX_FRAME_BYTES = 1024 * 1024 * 1024

_PREFIX = struct.Struct("<4sIQ")
_MAGIC = b"JKF2"
#: Begins a frame that tells of segments, and is none of the models' matter.
_NEWS_MAGIC = b"JKN1"
_ALIGNMENT = 64
#: Up to this size the parts of a frame are sent as one: one buffer is cheaper.
_PACKED_BYTES = 16 * 1024
#: What is read at once; larger frames are read straight to where they stay.
_SCRATCH_BYTES = 64 * 1024

Buffer: TypeAlias = bytes | memoryview


class FrameError(Exception):
    """A frame is none, is cut off, is too large, or can't be made of what was given."""


class _Part(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of a frame, without its elements."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    size_bytes: int
    parameters: dict[str, Any]
    #: Where its elements are in the segment; below 0 if they are in the frame.
    offset: int


class _Header(msgspec.Struct, frozen=True, array_like=True):
    message: Message
    tensors: list[_Part]
    #: The segment in which tensors lie; 0 for none.
    segment: int


class News(msgspec.Struct, frozen=True, array_like=True):
    """What one end tells the other of segments; it comes before the frame that needs it."""

    #: Numbers and sizes of new ones of the sender's; their descriptors come along, in this order.
    created: list[tuple[int, int]]
    #: Numbers of the receiver's that the sender reads no more.
    freed: list[int]
    #: Numbers of the sender's that are gone.
    retired: list[int]


class Payload(NamedTuple):
    """A frame as it was read, without its prefix."""

    header_bytes: int
    data: memoryview
    is_news: bool = False


class Room(NamedTuple):
    """A segment that one frame fills."""

    number: int
    memory: memoryview
    #: Called with the number where the frame can't be written after all.
    give_back: Callable[[int], None]


def encode(
    message: Message,
    tensors: Sequence[Tensor] = (),
    *,
    limit_bytes: int = MAX_FRAME_BYTES,
    find_room: Callable[[int], Room | None] | None = None,
    room_from_bytes: int = 1,
) -> list[Buffer]:
    """Write a frame.

    Args:
        message: What to tell.
        tensors: The request's inputs, or the response's outputs.
        limit_bytes: The largest frame that the other end takes.
        find_room: Gives a segment of so many bytes or more if there is one; the numbers are copied
            there.
        room_from_bytes: It is asked for so many bytes or more.

    Returns:
        The parts to send, in order; those of tensors are views on their arrays where the layout
        allows it.

    Raises:
        FrameError: Something can't be written, or the frame is too large.
    """
    blobs = [_blob(tensor) for tensor in tensors]
    if find_room is not None and sum(map(len, blobs)) >= room_from_bytes:
        offsets, size = _place(tensors, blobs)
        if size >= room_from_bytes and (room := find_room(size)):
            try:
                return _encode(message, tensors, blobs, offsets, room, limit_bytes)
            except BaseException:
                room.give_back(room.number)
                raise
    return _encode(message, tensors, blobs, _IN_FRAME, None, limit_bytes)


def _encode(
    message: Message,
    tensors: Sequence[Tensor],
    blobs: Sequence[Buffer],
    offsets: Iterable[int],
    room: Room | None,
    limit_bytes: int,
) -> list[Buffer]:
    parts = []
    for tensor, blob, offset in zip(tensors, blobs, offsets, strict=False):
        # as it is: what is no mapping is found below
        parameters = cast("dict[str, Any]", tensor.parameters)
        parts.append(
            _Part(tensor.name, tensor.datatype, tensor.shape, len(blob), parameters, offset)
        )
    try:
        header = _ENCODER.encode(_Header(message, parts, room.number if room else 0))
        # what was given may have other types than it should: here it fails alone, but the other
        # end could not go on
        _DECODER.decode(header)
    # what lies in parameters is the caller's or the author's: numbers that are too large, lone
    # surrogates, objects of any kind
    except (
        msgspec.MsgspecError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        problem = f"it can't be written as a message: {error}"
        raise FrameError(problem) from error
    frame: list[Buffer] = [b"", header]
    size = len(header)
    for blob, offset in zip(blobs, offsets, strict=False):
        if offset < 0:
            if gap := -size % _ALIGNMENT:
                frame.append(_PADDING[:gap])
            frame.append(blob)
            size += gap + len(blob)
        elif room is not None:
            _copy(blob, room.memory[offset : offset + len(blob)])
    if size > limit_bytes:
        problem = f"it has {size} bytes, and {limit_bytes} may pass between the processes at once"
        raise FrameError(problem)
    frame[0] = _PREFIX.pack(_MAGIC, len(header), size)
    return frame


def _place(tensors: Sequence[Tensor], blobs: Sequence[Buffer]) -> tuple[list[int], int]:
    """Choose where in a segment each tensor comes, texts in the frame; gives the size, too."""
    offsets, end = [], 0
    for tensor, blob in zip(tensors, blobs, strict=True):
        if tensor.datatype is Datatype.BYTES:
            offsets.append(-1)
        else:
            offsets.append(end)
            end += len(blob) + -len(blob) % _ALIGNMENT
    return offsets, end


def _copy(blob: Buffer, place: memoryview) -> None:
    # not by the memoryview, which holds the GIL meanwhile
    np.copyto(np.frombuffer(place, np.uint8), np.frombuffer(blob, np.uint8))


def encode_news(news: News) -> list[Buffer]:
    """Write what is told of segments."""
    text = _NEWS_ENCODER.encode(news)
    return [_PREFIX.pack(_NEWS_MAGIC, len(text), len(text)), text]


def decode_news(payload: Payload) -> News:
    """Read what is told of segments.

    Raises:
        FrameError: It is malformed.
    """
    try:
        return _NEWS_DECODER.decode(payload.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        problem = f"what is told of segments is malformed: {error}"
        raise FrameError(problem) from error


def _blob(tensor: Tensor) -> Buffer:
    """Give a tensor's elements as bytes, without a copy where its layout allows it."""
    try:
        check_shape(tensor.shape, "shape", "")
        if tensor.datatype is Datatype.BYTES:
            return encode_raw(tensor)
        array = np.asarray(tensor.array, dtype=tensor.datatype.dtype, order="C")
        return array.data.cast("B") if array.size else b""
    # a runtime may break the invariant of `Tensor`
    except (InvalidRequestError, AttributeError, TypeError, ValueError, struct.error) as error:
        name = getattr(tensor, "name", tensor)
        problem = f"tensor '{name}' can't be written: {error}"
        raise FrameError(problem) from error


def pack(frame: Sequence[Buffer]) -> Sequence[Buffer]:
    """Put the parts of a small frame together; leave out empty ones of a large frame."""
    if sum(map(len, frame)) <= _PACKED_BYTES:
        return (b"".join(frame),)
    return [part for part in frame if len(part)]


def decode(
    payload: Payload, find_segment: Callable[[int], memoryview] | None = None
) -> tuple[Message, list[Tensor]]:
    """Read a frame.

    Args:
        payload: The frame.
        find_segment: Gives the memory of the segment with a number, or raises `FrameError`; called
            once for a frame with tensors in a segment. The tensors keep alive what it gave.

    Returns:
        The message and its tensors: read-only views, copies for BYTES.

    Raises:
        FrameError: It is cut off or malformed.
    """
    header_bytes, data = payload.header_bytes, payload.data.toreadonly()
    if header_bytes > len(data):
        problem = f"a frame's header has {header_bytes} bytes, the frame only {len(data)}"
        raise FrameError(problem)
    try:
        header = _DECODER.decode(data[:header_bytes])
        segment = _NOTHING
        if header.segment and find_segment is not None:
            segment = find_segment(header.segment)
        start = header_bytes
        tensors = []
        for part in header.tensors:
            if part.offset < 0:
                start += -start % _ALIGNMENT
                room, begin = data, start
                start += max(part.size_bytes, 0)
            else:
                room, begin = segment, part.offset
            if part.size_bytes < 0 or begin + part.size_bytes > len(room):
                problem = f"tensor '{part.name}' runs past the end of its {_place_name(part)}"
                raise FrameError(problem)
            array = _array(part, room[begin : begin + part.size_bytes])
            tensors.append(Tensor(part.name, part.datatype, array, part.parameters))
    except (msgspec.MsgspecError, InvalidRequestError, ValueError, RecursionError) as error:
        problem = f"a frame is malformed: {error}"
        raise FrameError(problem) from error
    if start != len(data):
        problem = f"a frame has {len(data)} bytes, its parts only {start}"
        raise FrameError(problem)
    return header.message, tensors


def _place_name(part: _Part) -> str:
    return "frame" if part.offset < 0 else "segment"


def _array(part: _Part, data: memoryview) -> NDArray[Any]:
    if part.datatype is Datatype.BYTES:
        return decode_raw(data, part.datatype, part.shape, field=part.name, model="")
    check_shape(part.shape, part.name, "")
    found: NDArray[Any] = np.frombuffer(data, part.datatype.dtype).reshape(part.shape)
    return found


class FrameReader:
    """Cuts what is read into frames: fill `space`, say how much by `filled`.

    A large frame is read to where it stays, without a copy.

    Args:
        limit_bytes: The largest frame taken.
    """

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._held = 0
        #: The frame that is too large for the scratch buffer, and how much of it is there.
        self._large: Payload | None = None
        self._large_held = 0

    def space(self) -> memoryview:
        """Give the place for what is read next; never empty."""
        if self._large is not None:
            return self._large.data[self._large_held :]
        return self._scratch[self._held :]

    def filled(self, count: int) -> list[Payload]:
        """Take notice of `count` bytes in `space`; give the frames that are whole now.

        Raises:
            FrameError: What was read is no frame, or one that is too large.
        """
        if self._large is not None:
            self._large_held += count
            if self._large_held < len(self._large.data):
                return []
            whole, self._large = self._large, None
            return [whole]
        found = []
        start, end = 0, self._held + count
        while end - start >= _PREFIX.size:
            header_bytes, size, is_news = self._read_prefix(start)
            body = start + _PREFIX.size
            if end - body >= size:
                data = _allocate(size)
                data[:] = self._scratch[body : body + size]
                found.append(Payload(header_bytes, data, is_news))
                start = body + size
            elif _PREFIX.size + size > _SCRATCH_BYTES:
                data = _allocate(size)
                data[: end - body] = self._scratch[body:end]
                self._large = Payload(header_bytes, data, is_news)
                self._large_held = end - body
                start = end
            else:
                break
        if start and end > start:
            # by way of bytes: the two may overlap
            self._scratch[: end - start] = bytes(self._scratch[start:end])
        self._held = end - start
        return found

    def _read_prefix(self, start: int) -> tuple[int, int, bool]:
        magic, header_bytes, size = _PREFIX.unpack_from(self._scratch, start)
        if magic not in (_MAGIC, _NEWS_MAGIC):
            problem = f"expected a frame, found {bytes(self._scratch[start : start + 16])!r}"
            raise FrameError(problem)
        if size > self._limit_bytes:
            problem = f"a frame has {size} bytes, and {self._limit_bytes} may pass"
            raise FrameError(problem)
        return header_bytes, size, magic == _NEWS_MAGIC


def _allocate(size: int) -> memoryview:
    """Get memory that begins at a multiple of 64, for frameworks that compute in wide registers."""
    room = np.empty(size + _ALIGNMENT, np.uint8).data
    # the array's own ways to tell its address cost a microsecond more
    gap = -addressof(c_char.from_buffer(room)) % _ALIGNMENT
    return room[gap : gap + size]


def _plain(value: object) -> object:
    """Turn what parameters may hold beside JSON's own types into those."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Sequence):
        return list(value)
    message = f"an object of type {type(value).__name__} is neither text nor a number nor a list"
    raise TypeError(message)


_NOTHING = memoryview(b"")
#: As many offsets as there are tensors, none in a segment.
_IN_FRAME = repeat(-1)
_PADDING = bytes(_ALIGNMENT)
_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_DECODER = msgspec.msgpack.Decoder(_Header)
_NEWS_ENCODER = msgspec.msgpack.Encoder()
_NEWS_DECODER = msgspec.msgpack.Decoder(News)
