"""Tensors of a request and of an answer, in each form that the wire has.

Written apart from the server's own encoders: a fault that both had would not be seen.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jackfield.tensor import Datatype
from jackfield.testing.conformance._check import ConformanceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from jackfield._wire.descriptors import ProtoMessage

#: Datatypes whose elements JSON has no form for (Triton refuses them there).
RAW_ONLY = frozenset([Datatype.FP16, Datatype.BF16])
FLOATS = frozenset([Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64])
INTEGERS = frozenset(each for each in Datatype if "INT" in each)

_DTYPES = {datatype: datatype.dtype.newbyteorder("<") for datatype in Datatype}
_LENGTH = struct.Struct("<I")
_CONTENTS = {
    Datatype.BOOL: "bool_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}


def item_size(datatype: Datatype) -> int:
    """Bytes of one element in binary form; not for BYTES."""
    return 2 if datatype is Datatype.BF16 else datatype.dtype.itemsize


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A tensor; BF16 is held as float32, BYTES as an object array of `bytes`."""

    name: str
    datatype: Datatype
    array: NDArray[Any]

    @property
    def shape(self) -> list[int]:
        """Sizes of all dimensions."""
        return list(self.array.shape)

    def head(self) -> dict[str, Any]:
        """Make the JSON form without its data."""
        return {"name": self.name, "shape": self.shape, "datatype": str(self.datatype)}

    def json(self) -> dict[str, Any]:
        """Make the JSON form, its data flat."""
        values = self.array.reshape(-1).tolist()
        if self.datatype is Datatype.BYTES:
            values = [value.decode() for value in values]
        return {**self.head(), "data": values}

    def raw(self) -> bytes:
        """Make the binary form."""
        if self.datatype is Datatype.BYTES:
            flat = self.array.reshape(-1)
            return b"".join(_LENGTH.pack(len(value)) + value for value in flat)
        if self.datatype is Datatype.BF16:
            words = self.array.astype("<f4").reshape(-1).view("<u4") >> 16
            return bytes(words.astype("<u2").tobytes())
        return bytes(self.array.astype(_DTYPES[self.datatype]).tobytes())

    def add_to(self, message: ProtoMessage, *, raw: bool) -> None:
        """Add it to a `ModelInferRequest`."""
        given = message.inputs.add(name=self.name, datatype=self.datatype, shape=self.shape)
        if raw:
            message.raw_input_contents.append(self.raw())
            return
        values = self.array.reshape(-1).tolist()
        getattr(given.contents, _CONTENTS[self.datatype]).extend(values)


def zeros(name: str, datatype: Datatype, shape: Sequence[int]) -> Sample:
    """Make a tensor that most models take: numbers are 0, text is "text"."""
    if datatype is Datatype.BYTES:
        return sample(name, datatype, [b"text"], shape)
    return Sample(name, datatype, np.zeros(shape, datatype.dtype))


def sample(name: str, datatype: Datatype, values: Sequence[object], shape: Sequence[int]) -> Sample:
    """Make a tensor of the values, which are repeated or cut to fill the shape."""
    flat = np.empty(len(values), datatype.dtype)
    flat[:] = values
    return Sample(name, datatype, np.resize(flat, tuple(shape)))


def plain_values(datatype: Datatype) -> Sequence[object]:
    """Values that any right server carries: small, and different from each other."""
    if datatype is Datatype.BYTES:
        return [b"one", b"two"]
    if datatype is Datatype.BOOL:
        return [True, False]
    return [1, 2, 3]


def telling_values(datatype: Datatype, *, raw: bool) -> Sequence[object]:
    """Values that a wrong conversion changes: limits, signs, and in raw form what JSON lacks."""
    if datatype is Datatype.BOOL:
        return [True, False, False]
    if datatype is Datatype.BYTES:
        text = [b"text", b"", "ünï 😀".encode(), b'"\\\n\t\x00']
        return [*text, b"\xff\x00\xfe", b"\x80"] if raw else text
    if datatype in INTEGERS:
        limits = np.iinfo(datatype.dtype)
        return [int(limits.min), int(limits.max), 1, int(limits.max) - 1]
    large = {Datatype.FP16: 65504.0, Datatype.FP64: 1e300}.get(datatype, 2.0**127)
    numbers = [1.5, -0.25, 0.0, large, -large]
    if datatype is Datatype.FP64:
        numbers.append(0.1)
    return [*numbers, math.nan, math.inf, -math.inf, -0.0] if raw else numbers


class Head(NamedTuple):
    """What an output says of its data."""

    name: str
    datatype: Datatype
    shape: list[int]


def decode_json(output: Mapping[str, Any]) -> Sample:
    """Read an output with data in JSON, flat or nested.

    Raises:
        ConformanceError: A field is missing or wrong, or the data does not fit the shape.
    """
    name, datatype, shape = decode_head(output)
    if "data" not in output:
        raise ConformanceError(_missing(name, "'data'", output))
    flat = list(_leaves(output["data"]))
    if len(flat) != math.prod(shape):
        message = (
            f"output '{name}': expected {math.prod(shape)} elements for the shape {shape}, "
            f"found {len(flat)}"
        )
        raise ConformanceError(message)
    return Sample(name, datatype, _as_array(name, datatype, flat).reshape(shape))


def _as_array(name: str, datatype: Datatype, flat: list[Any]) -> NDArray[Any]:
    array = np.empty(len(flat), datatype.dtype)
    for index, value in enumerate(flat):
        if not _is_of(datatype, value):
            message = f"output '{name}': expected JSON of {datatype}, found {value!r}"
            raise ConformanceError(message)
        try:
            array[index] = _element(datatype, value)
        except (OverflowError, ValueError) as error:
            message = f"output '{name}': expected a value that {datatype} holds, found {value!r}"
            raise ConformanceError(message) from error
    return array


def _is_of(datatype: Datatype, value: object) -> bool:
    if datatype is Datatype.BYTES:
        return isinstance(value, str)
    if datatype is Datatype.BOOL:
        return isinstance(value, bool) or value in (0, 1)
    if datatype in INTEGERS:
        return isinstance(value, int) and not isinstance(value, bool)
    # what stands for NaN and the infinities differs from server to server
    return value is None or isinstance(value, int | float | str)


def _element(datatype: Datatype, value: Any) -> object:  # noqa: ANN401  a JSON value
    if datatype is Datatype.BYTES:
        return value.encode()
    return math.nan if value is None else float(value) if datatype in FLOATS else value


def decode_raw(name: str, datatype: Datatype, shape: Sequence[int], data: bytes) -> Sample:
    """Read an output in binary form.

    Raises:
        ConformanceError: The bytes do not fit the shape.
    """
    count = math.prod(shape)
    if datatype is Datatype.BYTES:
        return Sample(name, datatype, _decode_bytes(name, count, data).reshape(shape))
    expected = count * item_size(datatype)
    if len(data) != expected:
        message = (
            f"output '{name}': expected {expected} bytes ({datatype} of shape {list(shape)}), "
            f"found {len(data)}"
        )
        raise ConformanceError(message)
    if datatype is Datatype.BF16:
        words = np.frombuffer(data, "<u2").astype("<u4") << 16
        return Sample(name, datatype, words.view("<f4").reshape(shape))
    return Sample(name, datatype, np.frombuffer(data, _DTYPES[datatype]).reshape(shape))


def _decode_bytes(name: str, count: int, data: bytes) -> NDArray[Any]:
    values = []
    offset = 0
    while offset < len(data):
        if offset + _LENGTH.size > len(data):
            break
        (size,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        values.append(data[offset : offset + size])
        offset += size
    if offset != len(data) or len(values) != count:
        message = (
            f"output '{name}': expected {count} elements, each with its length in front, "
            f"found {len(values)} in {len(data)} bytes"
        )
        raise ConformanceError(message)
    array = np.empty(count, object)
    array[:] = values
    return array


def decode_message(message: ProtoMessage) -> dict[str, Sample]:
    """Read the outputs of a `ModelInferResponse`, raw or typed.

    Raises:
        ConformanceError: They are neither, or do not fit their shapes.
    """
    raw = message.raw_output_contents
    if raw and len(raw) != len(message.outputs):
        text = (
            f"raw_output_contents: expected none, or one for each of {len(message.outputs)} "
            f"outputs, found {len(raw)}"
        )
        raise ConformanceError(text)
    samples = {}
    for index, output in enumerate(message.outputs):
        name, datatype, shape = decode_head(
            {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        )
        if raw:
            samples[name] = decode_raw(name, datatype, shape, raw[index])
            continue
        field = _CONTENTS.get(datatype)
        values = list(getattr(output.contents, field)) if field else []
        if len(values) != math.prod(shape):
            text = (
                f"output '{name}': expected {math.prod(shape)} elements in {field or 'raw form'}, "
                f"found {len(values)}"
            )
            raise ConformanceError(text)
        array = np.empty(len(values), datatype.dtype)
        array[:] = values
        samples[name] = Sample(name, datatype, array.reshape(shape))
    return samples


def decode_head(output: Mapping[str, Any]) -> Head:
    """Read name, datatype and shape of an output.

    Raises:
        ConformanceError: One is missing or wrong.
    """
    if not isinstance(output, dict):
        message = f"outputs: expected objects, found {output!r}"
        raise ConformanceError(message)
    name, datatype, shape = (output.get(key) for key in ("name", "datatype", "shape"))
    if not isinstance(name, str) or not name:
        raise ConformanceError(_missing("", "a 'name'", output))
    if not isinstance(datatype, str) or datatype not in set(Datatype):
        message = f"output '{name}': expected a datatype of the protocol, found {datatype!r}"
        raise ConformanceError(message)
    if not isinstance(shape, list) or not all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape
    ):
        message = f"output '{name}': expected a shape of sizes of 0 or more, found {shape!r}"
        raise ConformanceError(message)
    return Head(name, Datatype(datatype), shape)


def _missing(name: str, what: str, output: Mapping[str, Any]) -> str:
    return f"output '{name}': expected {what}, found the keys {sorted(output)}"


def _leaves(data: object) -> Any:  # noqa: ANN401  a generator of JSON values
    if isinstance(data, list):
        for each in data:
            yield from _leaves(each)
    else:
        yield data


def expect_equal(found: Sample, expected: Sample, *, exact: bool = True) -> None:
    """Compare two tensors; NaN equals NaN, and 0 differs from -0 where `exact`.

    Raises:
        ConformanceError: They differ.
    """
    where = f"output '{found.name}'"
    if found.datatype is not expected.datatype:
        message = f"{where}: expected {expected.datatype}, found {found.datatype}"
        raise ConformanceError(message)
    if found.shape != expected.shape:
        message = f"{where}: expected the shape {expected.shape}, found {found.shape}"
        raise ConformanceError(message)
    if expected.datatype not in FLOATS:
        same = bool(np.array_equal(found.array, expected.array))
    elif exact:
        numbers = ~np.isnan(expected.array)  # a NaN's sign means nothing
        signs = np.signbit(found.array) == np.signbit(expected.array)
        same = bool(
            np.array_equal(found.array, expected.array, equal_nan=True) and signs[numbers].all()
        )
    else:
        rtol = 1e-2 if expected.datatype in RAW_ONLY else 1e-5
        same = bool(np.allclose(found.array, expected.array, rtol=rtol, atol=rtol, equal_nan=True))
    if not same:
        message = (
            f"{where} ({expected.datatype}): expected {_shown(expected)}, found {_shown(found)}"
        )
        raise ConformanceError(message)


def _shown(tensor: Sample) -> str:
    values = tensor.array.reshape(-1).tolist()
    rest = ", …" if len(values) > 8 else ""
    return "[" + ", ".join(repr(value) for value in values[:8]) + rest + "]"
