"""Bytes <-> what a model's process and its server tell each other.

A frame is a prefix (magic, size of the header, size of all that follows), a msgpack header with the
message and what its tensors are, and the tensors' bytes, each at a multiple of 64. Both ends are
this package on one machine: elements lie as they do in memory, but BYTES, which have the wire's
form. Pure functions, no I/O, no pickle.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import msgspec
import numpy as np

from jackfield._wire.raw import check_shape, decode_raw, encode_raw
from jackfield.errors import InvalidRequestError
from jackfield.messages import ModelMetadata, RequestedOutput
from jackfield.runtime import Capabilities
from jackfield.settings import ModelSettings
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Largest frame, in bytes: JSON of the largest body becomes some four times that as numbers.
MAX_FRAME_BYTES = 1024 * 1024 * 1024

_PREFIX = struct.Struct("<4sIQ")
_MAGIC = b"JKF1"
_ALIGNMENT = 64
#: Up to this size the parts of a frame are sent as one: one buffer is cheaper.
_PACKED_BYTES = 16 * 1024
#: What is read at once; larger frames are read straight to where they stay.
_SCRATCH_BYTES = 64 * 1024

Buffer: TypeAlias = bytes | memoryview


class FrameError(Exception):
    """A frame is none, is cut off, is too large, or can't be made of what was given."""


class Spec(msgspec.Struct, frozen=True, array_like=True):
    """What a child needs of a `RuntimeSpec`."""

    name: str
    runtime: str
    capabilities: Capabilities
    #: ``module:Class`` of the options' Struct; empty where there is none.
    options: str


class Load(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Server to child, first: load this model."""

    name: str
    version: str
    folder: str
    #: Empty for none.
    artifact: str
    #: What its runtime fetches itself; empty for none.
    uri: str
    settings: ModelSettings
    spec: Spec
    #: All runtimes that the server knows.
    runtimes: list[Spec]
    #: What the framework's pools may use for one call.
    threads: int
    #: Where the child imports from: the server's `sys.path`.
    path: list[str]
    log_level: int


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Child to server: the model serves."""

    metadata: ModelMetadata
    capabilities: Capabilities
    streams: bool


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Child to server: it does not, and why; the child ends."""

    problem: str


class Infer(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Server to child: compute this; the inputs follow as the frame's tensors."""

    call: int
    is_stream: bool
    id: str
    received_ns: int
    parameters: dict[str, Any]
    outputs: list[RequestedOutput]


class Next(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Server to child: the stream's next response is wanted."""

    call: int


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Server to child: nobody waits for this call any more."""

    call: int


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Child to server: a response, or one of a stream; the outputs are the frame's tensors."""

    call: int
    parameters: dict[str, Any]


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Child to server: the stream has no more responses."""

    call: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Child to server: the runtime raised an error that the caller is told."""

    call: int
    #: Its class in `jackfield.errors`, its text, and its attributes.
    kind: str
    text: str
    facts: dict[str, Any]


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Child to server: the runtime raised something else; the trace is for the log alone."""

    call: int
    trace: str


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One number of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric that the model counts itself."""

    name: str
    documentation: str
    kind: str
    samples: list[Sample]


class Counted(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Child to server: the model's own metrics, all of them, since one changed."""

    families: list[Family]


class SetLogLevel(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Server to child: log from this level on."""

    level: int


Message: TypeAlias = (
    Load
    | Loaded
    | LoadFailed
    | Infer
    | Next
    | Cancel
    | Answer
    | Ended
    | Refused
    | Failed
    | Counted
    | SetLogLevel
)


class _Part(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of a frame, without its elements."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    size_bytes: int
    parameters: dict[str, Any]


class _Header(msgspec.Struct, frozen=True, array_like=True):
    message: Message
    tensors: list[_Part]


class Payload(NamedTuple):
    """A frame as it was read, without its prefix."""

    header_bytes: int
    data: memoryview


def encode(
    message: Message, tensors: Sequence[Tensor] = (), *, limit_bytes: int = MAX_FRAME_BYTES
) -> list[Buffer]:
    """Write a frame.

    Args:
        message: What to tell.
        tensors: The request's inputs, or the response's outputs.
        limit_bytes: The largest frame that the other end takes.

    Returns:
        The parts to send, in order; those of tensors are views on their arrays where the layout
        allows it.

    Raises:
        FrameError: Something can't be written, or the frame is too large.
    """
    blobs: list[Buffer] = []
    parts = []
    for tensor in tensors:
        blob = _blob(tensor)
        blobs.append(blob)
        # as it is: what is no mapping is found below
        parameters = cast("dict[str, Any]", tensor.parameters)
        parts.append(_Part(tensor.name, tensor.datatype, tensor.shape, len(blob), parameters))
    try:
        header = _ENCODER.encode(_Header(message, parts))
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
    for blob in blobs:
        if gap := -size % _ALIGNMENT:
            frame.append(_PADDING[:gap])
        frame.append(blob)
        size += gap + len(blob)
    if size > limit_bytes:
        problem = f"it has {size} bytes, and {limit_bytes} may pass between the processes at once"
        raise FrameError(problem)
    frame[0] = _PREFIX.pack(_MAGIC, len(header), size)
    return frame


def _blob(tensor: Tensor) -> Buffer:
    """Give a tensor's elements as bytes, without a copy where its layout allows it."""
    try:
        check_shape(tensor.shape, "shape", "")
        if tensor.datatype is Datatype.BYTES:
            return encode_raw(tensor)
        array = np.asarray(tensor.array, dtype=tensor.datatype.dtype, order="C")
        return array.reshape(-1).view(np.uint8).data if array.size else b""
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


def decode(payload: Payload) -> tuple[Message, list[Tensor]]:
    """Read a frame.

    Returns:
        The message and its tensors: read-only views if the payload is, copies for BYTES.

    Raises:
        FrameError: It is cut off or malformed.
    """
    header_bytes, data = payload
    if header_bytes > len(data):
        problem = f"a frame's header has {header_bytes} bytes, the frame only {len(data)}"
        raise FrameError(problem)
    try:
        header = _DECODER.decode(data[:header_bytes])
        start = header_bytes
        tensors = []
        for part in header.tensors:
            start += -start % _ALIGNMENT
            end = start + part.size_bytes
            if part.size_bytes < 0 or end > len(data):
                problem = f"tensor '{part.name}' runs past the end of its frame"
                raise FrameError(problem)
            array = _array(part, data[start:end])
            tensors.append(Tensor(part.name, part.datatype, array, part.parameters))
            start = end
    except (msgspec.MsgspecError, InvalidRequestError, ValueError, RecursionError) as error:
        problem = f"a frame is malformed: {error}"
        raise FrameError(problem) from error
    if start != len(data):
        problem = f"a frame has {len(data)} bytes, its parts only {start}"
        raise FrameError(problem)
    return header.message, tensors


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
            header_bytes, size = self._read_prefix(start)
            body = start + _PREFIX.size
            if end - body >= size:
                data = _allocate(size)
                data[:] = self._scratch[body : body + size]
                found.append(Payload(header_bytes, data))
                start = body + size
            elif _PREFIX.size + size > _SCRATCH_BYTES:
                data = _allocate(size)
                data[: end - body] = self._scratch[body:end]
                self._large, self._large_held = Payload(header_bytes, data), end - body
                start = end
            else:
                break
        if start and end > start:
            # by way of bytes: the two may overlap
            self._scratch[: end - start] = bytes(self._scratch[start:end])
        self._held = end - start
        return found

    def _read_prefix(self, start: int) -> tuple[int, int]:
        magic, header_bytes, size = _PREFIX.unpack_from(self._scratch, start)
        if magic != _MAGIC:
            problem = f"expected a frame, found {bytes(self._scratch[start : start + 16])!r}"
            raise FrameError(problem)
        if size > self._limit_bytes:
            problem = f"a frame has {size} bytes, and {self._limit_bytes} may pass"
            raise FrameError(problem)
        return header_bytes, size


def _allocate(size: int) -> memoryview:
    """Get memory that begins at a multiple of 64, for frameworks that compute in wide registers."""
    room: NDArray[Any] = np.empty(size + _ALIGNMENT, np.uint8)
    address: int = room.__array_interface__["data"][0]
    gap = -address % _ALIGNMENT
    return room.data[gap : gap + size]


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


_PADDING = bytes(_ALIGNMENT)
_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_DECODER = msgspec.msgpack.Decoder(_Header)
