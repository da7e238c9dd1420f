"""Columns in a file that this process and the JVM both map.

Layout, in the machine's own order of bytes, each part at a multiple of 8: the number of rows, then
for each column four int64: where its marks of missing values are (a byte for each row; 0: none is
missing), where its int32 offsets are (0: none; rows have `width` elements each), `width`, and where
its values are. Offsets count elements in a request and bytes in an answer; an answer begins with
its columns, and says the bytes of the values instead of a width. Lists of texts have each one's
int32 size before it.

A file, since py4j sends bytes as base64, and answers beyond 64 KB wait 40 ms for TCP.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types

from jackfield import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

#: A column's kind, as `Rows.java` has it, by its type; of a list, by its elements'.
_SCALARS: dict[type[types.DataType], str] = {
    types.BooleanType: "z", types.ByteType: "b", types.ShortType: "s", types.IntegerType: "i",
    types.LongType: "l", types.FloatType: "f", types.DoubleType: "d", types.StringType: "t",
}  # fmt: skip
_LISTS: dict[type[types.DataType], str] = {
    types.DoubleType: "D", types.FloatType: "F", types.IntegerType: "I", types.LongType: "L",
    types.StringType: "T",
}  # fmt: skip
#: Of a column's values; of its lists' elements.
_DTYPES: dict[str, np.dtype[Any]] = {
    kind: np.dtype(name)
    for kind, name in {
        "z": "?", "b": "i1", "s": "i2", "i": "i4", "l": "i8", "f": "f4", "d": "f8",
        "v": "f8", "D": "f8", "F": "f4", "I": "i4", "L": "i8",
    }.items()
}  # fmt: skip
_HEADER = 8
_COLUMN = 4
#: Bytes of a file: the least, the most that is kept from call to call, the most.
_LEAST = 1 << 16
_KEPT = 1 << 26
_MOST = 1 << 30
_ORDER = sys.byteorder


def kind_of(type_: types.DataType) -> str:
    """Find the letter of a type; empty if columns of it can't be carried."""
    if isinstance(type_, VectorUDT):
        return "v"
    if isinstance(type_, types.ArrayType):
        return _LISTS.get(type(type_.elementType), "")
    return _SCALARS.get(type(type_), "")


class Memory:
    """Writes requests and reads answers.

    Args:
        map_file: Makes the JVM map the file of a path and a size.
        inputs: Kinds of a request's columns.
        outputs: Kinds of an answer's columns.
    """

    def __init__(self, map_file: Callable[[str, int], object], inputs: str, outputs: str) -> None:
        self._map_file = map_file
        self._inputs = inputs
        self._outputs = outputs
        self._numbers = len(inputs) * "d" == inputs
        self.room = 0
        self._bytes = np.empty(0, np.uint8)
        self.make_room(_LEAST)

    def make_room(self, size: int) -> None:
        """Map a file of `size` bytes or more; what the last one had is copied.

        Raises:
            InvalidRequestError: That is more than 1 GiB.
            OSError: There is no room for it.
        """
        if size <= self.room:
            return
        if size > _MOST:
            raise InvalidRequestError(
                "inputs",
                expected="1 GiB or less of rows and answers at once",
                found=f"{size / _MOST:.1f} GiB",
            )
        size = 1 << (size - 1).bit_length()
        handle, path = _allocate(size)
        try:
            self._map_file(str(path), size)
            mapped = np.frombuffer(mmap.mmap(handle, size), np.uint8)
        finally:
            os.close(handle)
            # both have it mapped
            with contextlib.suppress(OSError):
                path.unlink()
        if self.room:
            mapped[: self.room] = self._bytes
        self._bytes = mapped
        self._longs = mapped.view(np.int64)
        self._doubles = mapped.view(np.float64)
        self.room = size

    def trim(self) -> None:
        """Let go of an unusually large file."""
        if self.room > _KEPT:
            self.room = 0
            self.make_room(_LEAST)

    def write(self, columns: Sequence[NDArray[Any]]) -> int:
        """Write a request; returns where it ends."""
        rows = len(columns[0])
        first = _HEADER + 8 * _COLUMN * len(columns)
        if self._numbers and all(each.dtype == np.float64 for each in columns):
            end = first + 8 * rows * len(columns)
            self.make_room(end)
            np.concatenate(columns, out=self._doubles[first // 8 : end // 8])
            about = self._longs[1 : first // 8].reshape(-1, _COLUMN)
            about[:, :3] = 0
            about[:, 3] = np.arange(first, end, 8 * rows)
            return end
        parts: list[tuple[int, NDArray[np.uint8]]] = []
        end = first

        def put(part: NDArray[Any] | bytes) -> int:
            nonlocal end
            place = end
            flat = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else _flat(part)
            parts.append((place, flat))
            end += -(-flat.size // 8) * 8
            return place

        about = np.zeros((len(columns), _COLUMN), np.int64)
        for one, kind, column in zip(about, self._inputs, columns, strict=True):
            _pack(one, kind, column, put)
        self.make_room(end)
        self._longs[1 : first // 8] = about.reshape(-1)
        for place, flat in parts:
            self._bytes[place : place + flat.size] = flat
        return end

    def read(self, start: int, rows: int) -> list[NDArray[Any]]:
        """Copy the columns of the answer that begins at `start`."""
        first = start // 8
        about = self._longs[first : first + _COLUMN * len(self._outputs)].tolist()
        found = []
        for place, kind in enumerate(self._outputs):
            missing, offsets, size, values = about[_COLUMN * place : _COLUMN * (place + 1)]
            data = self._bytes[values : values + size]
            ends = self._bytes[offsets : offsets + 4 * (rows + 1)].view(np.int32)
            marks = self._bytes[missing : missing + rows].view(bool) if missing else None
            found.append(_unpack(kind, data, ends, marks))
        return found


def _allocate(size: int) -> tuple[int, Path]:
    """Make a file of `size` bytes with room for them: a write to a map of a hole can kill."""
    # memory, where there is a file system of it with room (in a container it may be small)
    folders = [each for each in ("/dev/shm",) if os.access(each, os.W_OK)]
    folders.append(tempfile.gettempdir())
    while True:
        handle, path = tempfile.mkstemp(prefix="jackfield-rows-", dir=folders.pop(0))
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, size)
            else:
                os.ftruncate(handle, size)
        except OSError:
            os.close(handle)
            Path(path).unlink()
            if not folders:
                raise
        else:
            return handle, Path(path)


def _flat(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _pack(
    about: NDArray[np.int64],
    kind: str,
    column: NDArray[Any],
    put: Callable[[NDArray[Any] | bytes], int],
) -> None:
    """Write one column, and where its parts are."""
    values: list[Any] = []
    if column.dtype == object:
        values = column.tolist()
        missing = np.array([each is None for each in values])
        if missing.any():
            about[0] = put(missing)
    if kind in "tT":
        if kind == "t":
            texts = [b"" if each is None else each.encode() for each in values]
        else:
            texts = [_list_of_texts(each) for each in values]
        about[1] = put(np.cumsum([0, *map(len, texts)], dtype=np.int32))
        about[3] = put(b"".join(texts))
        return
    dtype = _DTYPES[kind]
    if kind in "vDFIL":
        if column.dtype == object:
            lists = [np.asarray([] if each is None else each, dtype) for each in values]
            about[1] = put(np.cumsum([0, *map(len, lists)], dtype=np.int32))
            about[3] = put(np.concatenate(lists))
            return
        about[2] = column.shape[1]
    elif column.dtype == object:
        column = np.array([0 if each is None else each for each in values], dtype)
    about[3] = put(column.astype(dtype, copy=False))


def _list_of_texts(texts: Sequence[str] | None) -> bytes:
    found = [each.encode() for each in texts or ()]
    return b"".join(len(each).to_bytes(4, _ORDER) + each for each in found)


def _unpack(
    kind: str, data: NDArray[np.uint8], ends: NDArray[np.int32], missing: NDArray[np.bool_] | None
) -> NDArray[Any]:
    rows = len(ends) - 1
    if kind in "tT":
        whole, places = data.tobytes(), ends.tolist()
        each: list[Any] = [whole[a:b] for a, b in itertools.pairwise(places)]
        each = [_texts(one) if kind == "T" else one.decode() for one in each]
        return _objects(each, missing)
    dtype = _DTYPES[kind]
    values = data.view(dtype).copy()
    if kind not in "vDFIL":
        return values if missing is None else _objects(values.tolist(), missing)
    widths = np.diff(ends)
    if kind in "vDF" and missing is None and (widths == widths[0]).all():
        return values.reshape(rows, widths[0] // dtype.itemsize)
    lists: list[Any] = np.split(values, ends[1:-1] // dtype.itemsize)
    if kind in "IL":
        lists = [each.tolist() for each in lists]
    return _objects(lists, missing)


def _texts(data: bytes) -> list[str]:
    found, place = [], 0
    while place < len(data):
        begin = place + 4
        place = begin + int.from_bytes(data[place:begin], _ORDER)
        found.append(data[begin:place].decode())
    return found


def _objects(values: Sequence[Any], missing: NDArray[np.bool_] | None) -> NDArray[Any]:
    found = np.empty(len(values), object)
    for place, each in enumerate(values):
        found[place] = each
    if missing is not None:
        found[missing] = None
    return found
