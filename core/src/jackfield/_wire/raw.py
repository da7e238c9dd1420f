"""The binary form of a tensor, as raw gRPC contents carry it.

Row-major and little-endian; BOOL is one byte, BF16 the upper half of a float32, a BYTES element
its length as a little-endian uint32 and then that many bytes.

Source: Open Inference Protocol, "Tensor Data"; Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield.errors import InvalidRequestError
from jackfield.tensor import Datatype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield.tensor import Tensor

_DTYPES = {datatype: datatype.dtype.newbyteorder("<") for datatype in Datatype}
_LENGTH = struct.Struct("<I")
#: NumPy 1 holds no array of more dimensions.
MAX_DIMENSIONS = 32
#: NumPy refuses a larger product of the sizes, even where one of them is 0.
_MAX_ELEMENTS = 2**59


def check_shape(shape: Sequence[int], field: str, model: str) -> int:
    """Refuse a shape that no array has; count the elements.

    Raises:
        InvalidRequestError: A size is below 0, there are more than 32, or no memory holds them.
    """
    if len(shape) > MAX_DIMENSIONS or (shape and min(shape) < 0):
        raise InvalidRequestError(
            f"{field}.shape",
            expected=f"at most {MAX_DIMENSIONS} sizes of 0 or more",
            found=f"{len(shape)} sizes" if len(shape) > MAX_DIMENSIONS else str(list(shape)),
            model=model,
        )
    count = math.prod(shape)
    if not count and math.prod(filter(None, shape)) > _MAX_ELEMENTS:
        raise InvalidRequestError(
            f"{field}.shape",
            expected="sizes that an array can have",
            found=str(list(shape)),
            model=model,
        )
    return count


def decode_raw(
    data: bytes | memoryview, datatype: Datatype, shape: Sequence[int], *, field: str, model: str
) -> NDArray[Any]:
    """Read a tensor from its binary form.

    Args:
        data: Exactly the tensor's bytes.
        datatype: The tensor's datatype.
        shape: Sizes of 0 or more.
        field: The tensor's path, for error texts.
        model: Name of the model asked for, for error texts.

    Returns:
        A read-only view on `data`; a copy for BF16 and BYTES.

    Raises:
        InvalidRequestError: The shape is none, or the bytes do not fit it.
    """
    count = check_shape(shape, field, model)
    if datatype is Datatype.BYTES:
        return _decode_bytes(data, count, field, model).reshape(shape)
    dtype = np.dtype("<u2") if datatype is Datatype.BF16 else _DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise InvalidRequestError(
            field,
            expected=f"{count * dtype.itemsize} bytes ({datatype} of shape {list(shape)})",
            found=f"{len(data)} bytes",
            model=model,
        )
    if datatype is Datatype.BOOL:
        # any other byte than 0 is true; a view would hold values that NumPy's bool has not
        truth: NDArray[Any] = np.frombuffer(data, np.uint8) != 0
        return truth.reshape(shape)
    array: NDArray[Any] = np.frombuffer(data, dtype)
    if datatype is Datatype.BF16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.reshape(shape)


def _decode_bytes(
    data: bytes | memoryview, count: int, field: str, model: str
) -> NDArray[np.object_]:
    elements: list[bytes] = []
    start, end = 0, len(data)
    while start < end:
        stop = start + _LENGTH.size
        if stop <= end:
            stop += _LENGTH.unpack_from(data, start)[0]
        if stop > end or stop < start + _LENGTH.size:
            raise InvalidRequestError(
                field,
                expected="elements of a 4-byte length and that many bytes",
                found=f"element {len(elements)} running past the end",
                model=model,
            )
        elements.append(bytes(data[start + _LENGTH.size : stop]))
        start = stop
    if len(elements) != count:
        raise InvalidRequestError(
            field, expected=f"{count} elements", found=str(len(elements)), model=model
        )
    array = np.empty(count, dtype=object)
    array[:] = elements
    return array


def encode_raw(tensor: Tensor) -> bytes:
    """Write a tensor in its binary form."""
    array = tensor.array
    if tensor.datatype is Datatype.BYTES:
        elements: list[bytes] = array.reshape(-1).tolist()
        return b"".join(_LENGTH.pack(len(element)) + element for element in elements)
    if tensor.datatype is Datatype.BF16:
        return (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    return array.astype(_DTYPES[tensor.datatype], copy=False).tobytes()
