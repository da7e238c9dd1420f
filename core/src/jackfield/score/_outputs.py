"""The tensors of a response -> columns of a table, of types that the metadata tell."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from jackfield.errors import ScoreError
from jackfield.messages import TensorMetadata
from jackfield.tensor import Datatype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield.messages import InferResponse
    from jackfield.tensor import Tensor


class BadAnswerError(Exception):
    """An output has a value that its column can't hold."""


class Output:
    """An output of a model and its column.

    Args:
        told: The output. A vector of known size becomes a fixed-size list, of unknown size a list;
            one of size 1 a plain value.
        name: The column's.
    """

    def __init__(self, told: TensorMetadata, name: str) -> None:
        self.told = told
        self._sizes = [int(size) for size in told.shape[1:]]
        if self._sizes and self._sizes[-1] == 1:
            self._sizes.pop()
        self._is_base64 = told.parameters.get("content_type") == "base64"
        self._value_type = _value_type(told.datatype, is_base64=self._is_base64)
        kind = self._value_type
        for size in reversed(self._sizes):
            kind = pa.list_(kind, size) if size >= 0 else pa.list_(kind)
        self.field = pa.field(name, kind)

    def read(self, tensor: Tensor, rows: int) -> pa.Array:
        """Read the column.

        Raises:
            ScoreError: The tensor is not what the metadata tell.
            BadAnswerError: A value is none that the column holds.
        """
        array = tensor.array
        if array.shape[:1] != (rows,):
            problem = f"its shape is {list(array.shape)} for {rows} rows: rows are not independent"
            raise self._misfit(problem)
        sizes = array.shape[1:]
        if len(sizes) == len(self._sizes) + 1 and sizes[-1] == 1:
            sizes = sizes[:-1]
        fits = len(sizes) == len(self._sizes) and all(
            told in (-1, found) for told, found in zip(self._sizes, sizes, strict=True)
        )
        if not fits:
            problem = f"its shape is {list(array.shape)}, the metadata say {list(self.told.shape)}"
            raise self._misfit(problem)
        values = self._values(tensor)
        for place in reversed(range(len(sizes))):
            size = sizes[place]
            if self._sizes[place] >= 0:
                values = pa.FixedSizeListArray.from_arrays(values, size)
            else:
                count = rows * int(np.prod(sizes[:place], dtype=np.int64))
                offsets = pa.array(np.arange(count + 1) * size, pa.int32())
                values = pa.ListArray.from_arrays(offsets, values)
        return values

    def _values(self, tensor: Tensor) -> pa.Array:
        flat = tensor.array.reshape(-1)
        if tensor.datatype is not Datatype.BYTES:
            if self.told.datatype is Datatype.BYTES:
                raise self._misfit(f"it is {tensor.datatype}, the metadata say BYTES")
            made = pa.array(flat)
            if made.type == self._value_type:
                return made
            try:
                return made.cast(self._value_type)
            except pa.ArrowInvalid as error:
                told = self.told.datatype
                raise self._misfit(f"it is {tensor.datatype}, the metadata say {told}") from error
        if tensor.parameters.get("content_type") == "pd_json":
            return self._of_json(flat)
        if self.told.datatype is not Datatype.BYTES:
            raise self._misfit(f"it is BYTES, the metadata say {self.told.datatype}")
        if self._is_base64:
            try:
                decoded = [base64.b64decode(each, validate=True) for each in flat.tolist()]
            except binascii.Error as error:
                raise BadAnswerError(f"output '{self.told.name}' is not base64") from error
            return pa.array(decoded, self._value_type)
        try:
            return pa.array(flat.tolist(), pa.binary()).cast(pa.string())
        except pa.ArrowInvalid as error:
            raise BadAnswerError(
                f"output '{self.told.name}' is not UTF-8 text; "
                "the content type 'base64' in the metadata makes bytes of it"
            ) from error

    def _of_json(self, flat: NDArray[Any]) -> pa.Array:
        """Read values of which some may be null; lists and objects stay JSON."""
        values = [msgspec.json.decode(each) for each in flat.tolist()]
        if self.told.datatype is Datatype.BYTES:
            values = [
                each
                if each is None or isinstance(each, str)
                else msgspec.json.encode(each).decode()
                for each in values
            ]
        try:
            return pa.array(values, self._value_type)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise self._misfit(f"it does not hold {self.told.datatype}: {error}") from error

    def _misfit(self, problem: str) -> ScoreError:
        return ScoreError(f"the model's output '{self.told.name}' can't be a column: {problem}")


def learn(response: InferResponse) -> list[TensorMetadata]:
    """Describe the outputs that a response has."""
    return [
        TensorMetadata(
            tensor.name,
            tensor.datatype,
            [-1, *tensor.array.shape[1:]],
            tensor.parameters,
        )
        for tensor in response.outputs
    ]


def is_told(outputs: Sequence[TensorMetadata]) -> bool:
    """Tell whether metadata tell all that columns need."""
    return bool(outputs) and not any(each.parameters.get("any_shape") for each in outputs)


def _value_type(datatype: Datatype, *, is_base64: bool) -> pa.DataType:
    if datatype is Datatype.BYTES:
        return pa.binary() if is_base64 else pa.string()
    if datatype is Datatype.BF16:
        return pa.float32()
    return pa.from_numpy_dtype(datatype.dtype)
