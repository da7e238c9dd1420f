"""System shared memory: regions that callers register, and the copies made from and to them.

Nothing is mapped. A caller can change or truncate its memory at any time, and a mapping that became
shorter would end this process by SIGBUS; a read or write by the file's descriptor only fails.
Inputs are copied once and are the request's own from then on.

Owned by one server and used on its event loop.

Source: Triton's system shared memory extension; the limits are ours.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import stat
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield.errors import CapacityError, InvalidRequestError, NotServedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from jackfield.messages import Parameters

#: Where the system keeps what `shm_open` makes.
FOLDER = "/dev/shm"
_KEY = re.compile(r"/?([A-Za-z0-9._-]{1,200})")
#: Objects that callers must not reach: semaphores of other programs, and what this server may make.
_RESERVED = ("sem.", "jackfield-")
_MAX_REGIONS = 128
_MAX_NAME = 200

_NAME = "shared_memory_region"
_SIZE = "shared_memory_byte_size"
_OFFSET = "shared_memory_offset"
#: The parameters of an input or output that lies in shared memory.
PARAMETERS = frozenset([_NAME, _SIZE, _OFFSET])


@dataclasses.dataclass(frozen=True, slots=True)
class Region:
    """A registered region; its file is open as long as it is registered."""

    name: str
    key: str
    offset: int
    byte_size: int
    file: io.FileIO

    def record(self) -> dict[str, Any]:
        """Give the form that the wire has."""
        return {
            "name": self.name,
            "key": self.key,
            "offset": self.offset,
            "byte_size": self.byte_size,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A piece of a region: where an input lies, or where an output goes."""

    region: Region
    #: Counted from the start of the region, in bytes.
    offset: int
    byte_size: int
    #: Path of the tensor in the request, for error texts.
    field: str
    model: str

    def read(self) -> memoryview:
        """Copy what lies here; the copy is read-only.

        Raises:
            InvalidRequestError: The region was unregistered or its memory truncated.
        """
        descriptor, start = self._open()
        buffer = np.empty(self.byte_size, np.uint8)
        rest = buffer.data
        try:
            while rest and (count := os.preadv(descriptor, [rest], start)):
                rest, start = rest[count:], start + count
        except OSError as error:
            raise self._refuse(_NAME, "memory that can be read", str(error.strerror)) from error
        if rest:
            raise self._truncated()
        buffer.flags.writeable = False
        return buffer.data

    def write(self, data: bytes) -> Parameters:
        """Put an output here.

        Returns:
            The parameters by which the response tells where it is.

        Raises:
            InvalidRequestError: It is too large, or the region was unregistered or truncated.
        """
        if len(data) > self.byte_size:
            raise self._refuse(
                _SIZE, f"at least {len(data)} bytes for the output", f"{self.byte_size}"
            )
        descriptor, start = self._open()
        rest = memoryview(data)
        try:
            while rest:
                count = os.pwrite(descriptor, rest, start)
                rest, start = rest[count:], start + count
        except OSError as error:
            raise self._refuse(_NAME, "memory that can be written", str(error.strerror)) from error
        parameters: dict[str, Any] = {_NAME: self.region.name, _SIZE: len(data)}
        if self.offset:
            parameters[_OFFSET] = self.offset
        return parameters

    def _open(self) -> tuple[int, int]:
        """Get the descriptor, and where in the file the place begins."""
        # a closed file has no descriptor: its number may be another file's by now
        if self.region.file.closed:
            raise self._refuse(
                _NAME, "a region that stays until the answer", "one that was unregistered"
            )
        descriptor = self.region.file.fileno()
        start = self.region.offset + self.offset
        # a write behind the end would make the file grow
        if os.fstat(descriptor).st_size < start + self.byte_size:
            raise self._truncated()
        return descriptor, start

    def _truncated(self) -> InvalidRequestError:
        return self._refuse(_NAME, "memory as large as when it was registered", "less")

    def _refuse(self, parameter: str, expected: str, found: str) -> InvalidRequestError:
        field = f"{self.field}.parameters.{parameter}"
        return InvalidRequestError(field, expected=expected, found=found, model=self.model)


class Regions:
    """The regions of one server.

    Invariant: all regions together, and all copies that requests hold, have at most `max_bytes`.

    Args:
        max_bytes: Limit of both; 0 switches the extension off.
        max_text_bytes: The largest BYTES input, whose every element becomes an object.
    """

    def __init__(self, max_bytes: int, *, max_text_bytes: int = 0) -> None:
        self.is_on = max_bytes > 0
        self.max_text_bytes = max_text_bytes
        self._max_bytes = max_bytes
        self._regions: dict[str, Region] = {}
        self._held = 0
        # sizes of copies that are gone, noted by whichever thread dropped them last
        self._freed: deque[int] = deque()

    def register(self, name: str, key: str, *, offset: int, byte_size: int) -> None:
        """Open a memory object as a region.

        Args:
            name: What requests call it.
            key: The object's name, with or without a slash in front.
            offset: Where in the object the region begins, in bytes.
            byte_size: Size of the region, in bytes.

        Raises:
            NotServedError: The extension is off.
            InvalidRequestError: The name is taken, the object can't be opened or is too small, or a
                limit is reached.
        """
        self.require()
        if not 0 < len(name) <= _MAX_NAME:
            raise InvalidRequestError(
                "name", expected=f"1 to {_MAX_NAME} characters", found=f"{len(name)}"
            )
        if name in self._regions:
            raise InvalidRequestError(
                "name", expected="a name that no region has", found=f"'{name}'"
            )
        if len(self._regions) >= _MAX_REGIONS:
            raise InvalidRequestError(
                "name", expected=f"at most {_MAX_REGIONS} regions", found="one more"
            )
        left = self._max_bytes - sum(region.byte_size for region in self._regions.values())
        if not 0 < byte_size <= left:
            raise InvalidRequestError(
                "byte_size",
                expected=f"1 to {left} bytes, what the operator's setting "
                "'max_shared_memory_bytes' leaves",
                found=f"{byte_size}",
            )
        file = _open(key, offset, byte_size)
        self._regions[name] = Region(name, key, offset, byte_size, file)

    def unregister(self, name: str = "") -> None:
        """Close a region, or all; one that isn't there is no error.

        Raises:
            NotServedError: The extension is off.
        """
        self.require()
        for each in [name] if name else list(self._regions):
            region = self._regions.pop(each, None)
            if region is not None:
                region.file.close()

    def status(self, name: str = "") -> list[Region]:
        """List one region, or all.

        Raises:
            NotServedError: The extension is off.
            InvalidRequestError: There is none of this name.
        """
        self.require()
        if not name:
            return list(self._regions.values())
        if name not in self._regions:
            raise InvalidRequestError(
                "name", expected="the name of a registered region", found=f"'{name}'"
            )
        return [self._regions[name]]

    def open(self) -> None:
        """Serve again after a `close`."""
        self.is_on = self._max_bytes > 0

    def close(self) -> None:
        """Close all regions, and serve none any more."""
        if self.is_on:
            self.unregister()
            self.is_on = False

    def place(self, parameters: Parameters, field: str, model: str) -> Place:
        """Find the piece of a region that a tensor's parameters name.

        Args:
            parameters: The tensor's.
            field: The tensor's path, for error texts.
            model: Name of the model asked for, for error texts.

        Raises:
            InvalidRequestError: The extension is off, the region is unknown, or the piece is not
                within it.
        """
        where = f"{field}.parameters"
        if not self.is_on:
            raise InvalidRequestError(
                where,
                expected="no shared memory: the operator's setting 'shared_memory' is off",
                found="some",
                model=model,
            )
        name = parameters.get(_NAME)
        region = self._regions.get(name) if isinstance(name, str) else None
        if region is None:
            raise InvalidRequestError(
                f"{where}.{_NAME}",
                expected="the name of a registered region",
                found=f"'{name}'" if isinstance(name, str) else "none",
                model=model,
            )
        byte_size = _count(parameters, _SIZE, where, model)
        offset = _count(parameters, _OFFSET, where, model, default=0)
        if offset + byte_size > region.byte_size:
            raise InvalidRequestError(
                f"{where}.{_SIZE}",
                expected=f"a piece within the region's {region.byte_size} bytes",
                found=f"{byte_size} bytes at {offset}",
                model=model,
            )
        return Place(region, offset, byte_size, field, model)

    def read(self, place: Place, decode: Callable[[memoryview], NDArray[Any]]) -> NDArray[Any]:
        """Make an array of what lies at a place, and count it until the last view on it is gone.

        Raises:
            CapacityError: Requests hold as many copies as they may.
            InvalidRequestError: As `Place.read` and `decode` raise.
        """
        while self._freed:
            self._held -= self._freed.pop()
        if self._held + place.byte_size > self._max_bytes:
            message = (
                f"requests hold copies of {self._held} bytes of shared memory, of at most "
                f"{self._max_bytes}; the operator's setting is 'max_shared_memory_bytes'"
            )
            raise CapacityError(message)
        array = decode(place.read())
        owner = array.base if isinstance(array.base, np.ndarray) else array
        self._held += place.byte_size
        weakref.finalize(owner, self._freed.append, place.byte_size).atexit = False
        return array

    def require(self) -> None:
        """Refuse where the extension is off.

        Raises:
            NotServedError: It is.
        """
        if not self.is_on:
            raise NotServedError("system shared memory", setting="shared_memory")


#: For a server, or a test, without the extension.
OFF = Regions(0)


def _open(key: str, offset: int, byte_size: int) -> io.FileIO:
    match = _KEY.fullmatch(key)
    if match is None:
        raise InvalidRequestError(
            "key", expected="letters, digits, '.', '_' and '-', 200 at most", found="another text"
        )
    # one text for whatever is wrong, so that nobody learns which other objects there are
    refusal = InvalidRequestError(
        "key", expected="shared memory that can be opened", found=f"'{key}', which can't"
    )
    if match[1].startswith(_RESERVED):
        raise refusal
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(f"{FOLDER}/{match[1]}", flags)
    except OSError as error:
        raise refusal from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise refusal
    if offset < 0 or offset + byte_size > status.st_size:
        os.close(descriptor)
        raise InvalidRequestError(
            "byte_size",
            expected="a region within the shared memory",
            found=f"{byte_size} bytes at {offset}",
        )
    return io.FileIO(descriptor, "r+")


def _count(
    parameters: Mapping[str, object], name: str, where: str, model: str, default: int | None = None
) -> int:
    value = parameters.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequestError(
            f"{where}.{name}",
            expected="an integer of 0 or more",
            found=f"{value}" if isinstance(value, int) else type(value).__name__,
            model=model,
        )
    return value
