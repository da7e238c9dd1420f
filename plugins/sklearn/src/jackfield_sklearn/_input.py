"""Turn a request's tensors into the data that an estimator takes.

One class for texts, one for tables; which it is, and what it checks, is decided when a model loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jackfield import Datatype, InvalidRequestError, Tensor, TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from jackfield import Parameter
    from jackfield_sklearn._estimator import Sample

#: Most column names in an error.
_LISTED = 10


class Input(Protocol):
    """The form of a model's input."""

    def metadata(self) -> list[TensorMetadata]:
        """Say which tensors it takes."""

    def sample(self) -> list[Tensor]:
        """Make one row that fits the metadata; empty where the width is not known."""

    def read(self, inputs: Sequence[Tensor]) -> object:
        """Turn a request's tensors into the data.

        Raises:
            InvalidRequestError: They don't fit the model.
        """


class Documents:
    """One tensor of texts, for a model that begins with a vectorizer."""

    def metadata(self) -> list[TensorMetadata]:
        """Say which tensor it takes."""
        return [TensorMetadata("text", Datatype.BYTES, [-1])]

    def sample(self) -> list[Tensor]:
        """Make one document."""
        return [Tensor.from_array("text", ["text"])]

    def read(self, inputs: Sequence[Tensor]) -> object:
        """Decode the documents; [n] and [n, 1] are the same n documents."""
        tensor = _only(inputs, expected="one tensor of documents")
        if tensor.datatype is not Datatype.BYTES:
            raise _wrong_datatype(0, expected="BYTES (documents)", tensor=tensor)
        return _decode(_column(0, tensor), 0).tolist()


class Table:
    """Rows of features: one matrix, or one tensor per column.

    Args:
        names: Names of the columns; None where the model tells neither names nor number.
        samples: A value of each column, or None, in the same order.
        is_named: The model was fitted with names: columns are matched by name, else by position.
        frame: Makes the DataFrame that the model wants; None hands it arrays.
        is_column_2d: Columns are told as [-1, 1] in the metadata, as MLServer's clients send them.
        copies: The model may write on its data: hand it a copy.
    """

    def __init__(
        self,
        names: list[str] | None,
        samples: list[Sample],
        *,
        is_named: bool,
        frame: Callable[..., object] | None,
        is_column_2d: bool,
        copies: bool,
    ) -> None:
        self._names = dict.fromkeys(names or [])
        self._width = None if names is None else len(names)
        self._samples = samples
        self._is_named = is_named
        self._frame = frame
        self._column_shape = [-1, 1] if is_column_2d else [-1]
        self._copies = copies
        kinds = {None if sample is None else sample.dtype == object for sample in samples}
        self._takes_numbers = True not in kinds
        self._takes_text = False not in kinds
        self._is_matrix = not is_named and (self._takes_numbers or kinds == {True})

    def metadata(self) -> list[TensorMetadata]:
        """Say which tensors it takes."""
        if self._is_matrix:
            datatype = Datatype.FP64 if self._takes_numbers else Datatype.BYTES
            width = -1 if self._width is None else self._width
            return [TensorMetadata("x", datatype, [-1, width])]
        return [
            TensorMetadata(tensor.name, tensor.datatype, self._column_shape, _example(tensor))
            for tensor in self.sample()
        ]

    def sample(self) -> list[Tensor]:
        """Make one row that fits the metadata; empty where the width is not known."""
        if self._width is None:
            return []
        row = [np.zeros(1) if sample is None else sample for sample in self._samples]
        if self._is_matrix:
            array = np.column_stack(row)
            return [Tensor.from_array("x", array.astype(float) if self._takes_numbers else array)]
        return [
            Tensor.from_array(name, value) for name, value in zip(self._names, row, strict=True)
        ]

    def read(self, inputs: Sequence[Tensor]) -> object:
        """Make the array or the DataFrame, columns in the model's order."""
        if len(inputs) == 1:
            tensor = inputs[0]
            if not (self._is_named and tensor.name in self._names and self._width != 1):
                return self._read_matrix(tensor)
        return self._read_columns(inputs)

    def _read_matrix(self, tensor: Tensor) -> object:
        array, width = tensor.array, self._width
        if width is not None:
            if array.ndim == 1:
                array = array.reshape((-1, 1) if width == 1 else (1, -1))
            if array.ndim != 2 or array.shape[1] != width:
                raise InvalidRequestError(
                    "inputs[0].shape",
                    expected=f"[-1, {width}] (rows of {width} features)",
                    found=str(list(tensor.shape)),
                )
        if tensor.datatype is Datatype.BYTES:
            if not self._takes_text:
                raise _wrong_datatype(0, expected="a numeric datatype", tensor=tensor)
            array = _decode(array, 0)
        elif not self._takes_numbers:
            expected = "BYTES" if self._is_matrix else "one tensor per column, some of them BYTES"
            raise _wrong_datatype(0, expected=expected, tensor=tensor)
        elif self._copies:
            array = array.copy()
        if self._frame is None or not self._is_named:
            return array
        return self._frame(array, columns=list(self._names))

    def _read_columns(self, inputs: Sequence[Tensor]) -> object:
        ordered = self._order(inputs)
        samples = self._samples or [None] * len(ordered)
        columns = [
            self._read_column(index, tensor, sample)
            for (index, tensor), sample in zip(ordered, samples, strict=True)
        ]
        for (index, tensor), column in zip(ordered, columns, strict=True):
            if column.size != columns[0].size:
                expected = f"{columns[0].size} rows, as '{ordered[0][1].name}' has"
                raise InvalidRequestError(
                    f"inputs[{index}].shape", expected=expected, found=str(list(tensor.shape))
                )
        if self._frame is not None:
            names = [tensor.name for _, tensor in ordered]
            return self._frame(dict(zip(names, columns, strict=True)))
        if any(column.dtype == object for column in columns):
            columns = [column.astype(object) for column in columns]
        return np.column_stack(columns)

    def _order(self, inputs: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        """Put the tensors, each with its index, in the order of the model's columns."""
        if not self._is_named:
            if not inputs or len(inputs) != (self._width or len(inputs)):
                expected = "one tensor" + (f", or {self._width}" if self._width else "")
                raise InvalidRequestError("inputs", expected=expected, found=str(len(inputs)))
            return list(enumerate(inputs))
        given = {tensor.name: (index, tensor) for index, tensor in enumerate(inputs)}
        missing = [name for name in self._names if name not in given]
        unknown = [name for name in given if name not in self._names]
        if missing or unknown:
            found = " and ".join(
                f"{problem} {_list(names)}"
                for problem, names in (("no", missing), ("the unknown", unknown))
                if names
            )
            raise InvalidRequestError(
                "inputs",
                expected=f"one tensor for each of the {self._width} columns, or one matrix",
                found=found,
            )
        return [given[name] for name in self._names]

    def _read_column(self, index: int, tensor: Tensor, sample: Sample) -> NDArray[Any]:
        is_text = tensor.datatype is Datatype.BYTES
        if sample is not None and (sample.dtype == object) != is_text:
            expected = "a numeric datatype" if is_text else "BYTES"
            raise _wrong_datatype(index, expected=f"{expected} for '{tensor.name}'", tensor=tensor)
        column = _column(index, tensor)
        return _decode(column, index) if is_text else column


def _example(tensor: Tensor) -> dict[str, Parameter]:
    """Give a text that the model knows, which a made-up request needs."""
    if tensor.datatype is not Datatype.BYTES:
        return {}
    return {"example": tensor.array.reshape(-1)[0].decode()}


def _only(inputs: Sequence[Tensor], *, expected: str) -> Tensor:
    if len(inputs) != 1:
        raise InvalidRequestError("inputs", expected=expected, found=str(len(inputs)))
    return inputs[0]


def _column(index: int, tensor: Tensor) -> NDArray[Any]:
    if tensor.array.ndim == 1 or (tensor.array.ndim == 2 and tensor.shape[1] == 1):
        return tensor.array.reshape(-1)
    raise InvalidRequestError(
        f"inputs[{index}].shape", expected="[-1] or [-1, 1]", found=str(list(tensor.shape))
    )


def _decode(array: NDArray[Any], index: int) -> NDArray[Any]:
    """Make text of UTF-8 bytes, element by element."""
    texts = np.empty(array.size, dtype=object)
    try:
        texts[:] = [value.decode() for value in array.reshape(-1).tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"inputs[{index}].data", expected="UTF-8 text", found=repr(error.object[:40])
        ) from error
    return texts.reshape(array.shape)


def _wrong_datatype(index: int, *, expected: str, tensor: Tensor) -> InvalidRequestError:
    return InvalidRequestError(
        f"inputs[{index}].datatype", expected=expected, found=tensor.datatype.value
    )


def _list(names: list[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in names[:_LISTED])
    more = len(names) - _LISTED
    return f"{listed} and {more} more" if more > 0 else listed
