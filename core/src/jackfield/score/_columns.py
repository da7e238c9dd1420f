"""Columns of a table -> the tensors of a request, by what the model's metadata say.

A row whose cells don't fit is told apart before the model sees it. Knows no model and no file.
"""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jackfield.errors import ScoreError
from jackfield.score._arrow import is_bytes, is_list, is_moment, is_number, is_text
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from jackfield.messages import TensorMetadata

#: What a number can be in a file of text where there is none; pandas's and Arrow's defaults.
_NO_NUMBER = pa.array(
    ["", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None", "NaN", "nan", "-nan", "-NaN", "<NA>"]
)
#: Integers up to this are exact as floats.
_EXACT = 2**53
#: Most characters of a value in a reason.
_LONGEST = 60


class BadRowsError(Exception):
    """Some rows can't be read: position in the batch -> why."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(f"{len(reasons)} rows can't be read")
        self.reasons = reasons


class UnevenError(Exception):
    """Rows that can be read, but not into one tensor."""


class Input:
    """An input of a model and the columns that it is read from.

    Args:
        told: The input.
        fields: The columns, of the types that they have or, in a table of text, seem to have.
        is_matrix: Each field is a column of one matrix.
        is_text: All cells come as text, as those of a CSV file.
    """

    def __init__(
        self,
        told: TensorMetadata,
        fields: Sequence[pa.Field],
        *,
        is_matrix: bool,
        is_text: bool,
    ) -> None:
        self.told = told
        self.columns = tuple(field.name for field in fields)
        self._is_matrix = is_matrix
        self._is_text = is_text
        self._dtype = told.datatype.dtype
        self._nullable = told.parameters.get("nullable", True) is not False
        self._content_type = str(told.parameters.get("content_type", ""))
        self._sizes = [int(size) for size in told.shape[1:]]
        for field in fields:
            if problem := self._misfit(field.type):
                message = (
                    f"the model's input '{told.name}' takes {told.datatype} {list(told.shape)}, "
                    f"which the column '{field.name}' of type {field.type} does not fit: {problem}"
                )
                raise ScoreError(message)

    def _misfit(self, kind: pa.DataType) -> str:
        """Say why a column of a type can't be read; empty if it can."""
        if pa.types.is_null(kind):
            return ""
        if is_list(kind):
            if self._is_matrix or self._content_type == "pd_json":
                return "" if self._content_type == "pd_json" else "expected a number in each cell"
            if len(self._sizes) == 0 and not self.told.parameters.get("any_shape"):
                return "expected one value in each cell, found lists"
            return self._misfit_of_value(_innermost(kind))
        is_vector = len(self._sizes) > 0 and self._sizes != [1]
        if is_vector and not self._is_matrix and self._content_type != "pd_json":
            return "expected a list in each cell"
        return self._misfit_of_value(kind)

    def _misfit_of_value(self, kind: pa.DataType) -> str:
        if self.told.datatype is not Datatype.BYTES:
            if not is_number(kind):
                return "expected numbers"
            is_float = pa.types.is_floating(kind) or pa.types.is_decimal(kind)
            is_truth = self.told.datatype is Datatype.BOOL
            return "expected true and false" if is_float and is_truth else ""
        if self._content_type == "pd_json" or self._is_text:
            return ""
        is_whole = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
        is_read = is_text(kind) or is_bytes(kind) or is_moment(kind) or is_whole
        return "" if is_read else "expected text"

    @property
    def cell_type(self) -> pa.DataType | None:
        """Type that holds what is read of a cell, for readers of untyped files; None for any."""
        kinds = {"b": pa.bool_(), "i": pa.int64(), "u": pa.uint64(), "f": pa.float64()}
        if self.told.datatype is Datatype.BYTES:
            return None if self._content_type == "pd_json" else pa.string()
        return kinds[self._dtype.kind]

    def typed(self, column: pa.Array, field: pa.Field) -> pa.Array:
        """Give a column of text, all of whose rows could be read, the type of a field."""
        if self.told.datatype is not Datatype.BYTES:
            column = self._parse(column, field.name, {})
        return column.cast(field.type)

    def read(self, batch: pa.RecordBatch) -> Tensor:
        """Read the tensor of a batch.

        Raises:
            BadRowsError: Cells of some rows don't fit.
            UnevenError: Rows fit, and not together: they are read in smaller batches.
        """
        reasons: dict[int, str] = {}
        columns = [_plain(batch.column(name)) for name in self.columns]
        is_single = not self._is_matrix
        if self.told.datatype is Datatype.BYTES:
            tensor = self._read_texts(columns, reasons)
        elif is_single and (is_list(columns[0].type)):
            tensor = self._tensor(self._read_lists(columns[0], reasons))
        else:
            parts = [
                self._read_numbers(column, name, reasons)
                for name, column in zip(self.columns, columns, strict=True)
            ]
            if reasons:
                raise BadRowsError(reasons)
            array = np.stack(parts, axis=1) if self._is_matrix else parts[0]
            if is_single and self._sizes == [1]:
                array = array.reshape(-1, 1)
            tensor = self._tensor(array)
        if reasons:
            raise BadRowsError(reasons)
        return tensor

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        array = np.ascontiguousarray(array)
        array.setflags(write=False)  # as in any request
        is_brain = self.told.datatype is Datatype.BF16 and array.dtype == np.float32
        datatype = Datatype.BF16 if is_brain else Datatype.of(array.dtype)
        return Tensor(self.told.name, datatype, array)

    # ---- numbers ----

    def _read_numbers(self, column: pa.Array, name: str, reasons: dict[int, str]) -> NDArray[Any]:
        """Read a column as the input's dtype; as floats, with NaN, where some have no value."""
        if self._is_text and is_text(column.type):
            column = self._parse(column, name, reasons)
        is_missing = _missing(column)
        has_missing = bool(is_missing.any())
        if has_missing and not self._nullable:
            for row in np.flatnonzero(is_missing):
                reasons.setdefault(int(row), f"column '{name}' has no value, and needs one")
        values = _numbers(column)
        if has_missing and self._dtype.kind in "biu":
            known = values[~is_missing]
            if known.dtype.kind in "iu" and known.size and _largest(known) > _EXACT:
                raise UnevenError
            self._check(values, is_missing, name, reasons)
            made = values.astype(np.float64)
            made[is_missing] = np.nan
            return made
        self._check(values, is_missing, name, reasons)
        if reasons:
            return np.zeros(len(values), self._dtype)
        with np.errstate(over="ignore"):
            made = values.astype(self._dtype)
        if has_missing:
            made[is_missing] = np.nan
        return made

    def _check(
        self,
        values: NDArray[Any],
        is_missing: NDArray[np.bool_],
        name: str,
        reasons: dict[int, str],
    ) -> None:
        """Find the values that the input's dtype can't hold."""
        dtype = self._dtype
        if dtype.kind == "f":
            if values.dtype.kind != "f" or values.dtype.itemsize <= dtype.itemsize:
                return
            with np.errstate(over="ignore"):
                is_wrong = np.isinf(values.astype(dtype)) & np.isfinite(values)
            expected = f"a number that {self.told.datatype} can hold"
        elif dtype.kind == "b":
            is_wrong = (values != 0) & (values != 1)
            expected = "true or false"
        elif values.dtype.kind == "b" or np.can_cast(values.dtype, dtype, "safe"):
            return
        else:
            limits = np.iinfo(dtype)
            # of floats 2**63 is the first that is too large, and its own nearest
            top = float(limits.max) + 1 if values.dtype.kind == "f" else limits.max + 1
            is_wrong = ~((values >= limits.min) & (values < top))
            if values.dtype.kind == "f":
                is_wrong |= values != np.floor(values)
            expected = f"a whole number that {self.told.datatype} can hold"
        for row in np.flatnonzero(is_wrong & ~is_missing):
            found = values[row].item()
            reasons.setdefault(int(row), f"column '{name}': expected {expected}, found {found}")

    def _parse(self, column: pa.Array, name: str, reasons: dict[int, str]) -> pa.Array:
        """Read the numbers that are written in a column of text."""
        if self.told.datatype is Datatype.BOOL:
            return _parse_each(column, _truth, pa.bool_(), (name, "true or false"), reasons)
        trimmed = pc.utf8_trim_whitespace(column)
        is_nothing = pc.is_in(trimmed, value_set=_NO_NUMBER.cast(trimmed.type))
        text = pc.if_else(is_nothing, pa.scalar(None, trimmed.type), trimmed)
        for kind in (pa.int64(), pa.float64()) if self._dtype.kind in "iu" else (pa.float64(),):
            with contextlib.suppress(pa.ArrowInvalid):
                return text.cast(kind)
        return _parse_each(text, _number, pa.float64(), (name, "a number"), reasons)

    # ---- vectors ----

    def _read_lists(self, column: pa.Array, reasons: dict[int, str]) -> NDArray[Any]:
        """Read a vector, matrix and so on from each cell."""
        name = self.columns[0]
        if column.null_count:
            for row in np.flatnonzero(_missing(column)):
                reasons[int(row)] = f"column '{name}' has no value, and needs one"
            raise BadRowsError(reasons)
        if is_list(column.type.value_type):
            return self._read_nested(column, reasons)
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        size = int(np.prod(self._sizes)) if self._sizes and min(self._sizes) >= 0 else -1
        if size >= 0:
            for row in np.flatnonzero(lengths != size):
                reasons[int(row)] = (
                    f"column '{name}': expected {size} numbers, found {int(lengths[row])}"
                )
            if reasons:
                raise BadRowsError(reasons)
        elif lengths.size and lengths.min() != lengths.max():
            raise UnevenError
        values: dict[int, str] = {}
        flat = self._read_numbers(column.flatten(), name, values)
        width = size if size >= 0 else int(lengths[0]) if lengths.size else 0
        for place, reason in values.items():
            reasons.setdefault(place // width, f"{reason} at position {place % width} of the list")
        if reasons:
            raise BadRowsError(reasons)
        shape = self._sizes if size >= 0 else [width]
        return flat.reshape(len(column), *shape)

    def _read_nested(self, column: pa.Array, reasons: dict[int, str]) -> NDArray[Any]:
        name, cells = self.columns[0], []
        for row, cell in enumerate(column.to_pylist()):
            try:
                array = np.array(cell, dtype=self._dtype)
            except (ValueError, TypeError, OverflowError) as error:
                reasons[row] = f"column '{name}': {error}"
                continue
            sizes = self._sizes or list(array.shape)
            fits = all(size in (-1, found) for size, found in zip(sizes, array.shape, strict=False))
            if not fits or len(sizes) != array.ndim:
                reasons[row] = (
                    f"column '{name}': expected the shape {sizes}, found {list(array.shape)}"
                )
            cells.append(array)
        if reasons:
            raise BadRowsError(reasons)
        if len({cell.shape for cell in cells}) > 1:
            raise UnevenError
        return np.stack(cells)

    # ---- text ----

    def _read_texts(self, columns: Sequence[pa.Array], reasons: dict[int, str]) -> Tensor:
        """Read elements of BYTES; all as JSON if some have no value, so that null can be told."""
        cells = [self._elements(column) for column in columns]
        is_none = [[each is None for each in column] for column in cells]
        has_missing = any(map(any, is_none))
        if has_missing and not self._nullable:
            for name, absent in zip(self.columns, is_none, strict=True):
                for row in np.flatnonzero(absent).tolist():
                    reasons.setdefault(row, f"column '{name}' has no value, and needs one")
            raise BadRowsError(reasons)
        parameters = {}
        if has_missing and self._content_type != "pd_json":
            parameters = {"content_type": "pd_json"}
            cells = [[_as_json(each) for each in column] for column in cells]
        array = np.empty((len(columns[0]), len(columns)), object)
        for place, column in enumerate(cells):
            array[:, place] = column
        if not self._is_matrix and self._sizes != [1]:
            array = array[:, 0]
        array = np.ascontiguousarray(array)
        array.setflags(write=False)
        return Tensor(self.told.name, Datatype.BYTES, array, parameters)

    def _elements(self, column: pa.Array) -> list[bytes | None]:
        kind = column.type
        if self._content_type == "pd_json":
            return [msgspec.json.encode(each, enc_hook=str) for each in column.to_pylist()]
        if pa.types.is_null(kind):
            return [None] * len(column)
        if is_moment(kind):
            if pa.types.is_timestamp(kind) and kind.unit == "ns":
                # Python's datetime has no nanoseconds
                column = column.cast(pa.timestamp("us", kind.tz), safe=False)
            return [None if each is None else _isoformat(each) for each in column.to_pylist()]
        if not (is_text(kind) or is_bytes(kind)):
            column = column.cast(pa.string())
        elements: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
        if self._content_type == "base64":
            return [None if each is None else base64.b64encode(each) for each in elements]
        return elements


def natural(field: pa.Field) -> TensorMetadata | None:
    """Describe the input that a column makes where a model does not say what it takes.

    Returns:
        None for a type that no tensor holds.
    """
    from jackfield.messages import TensorMetadata

    kind, sizes = field.type, []
    while is_list(kind):
        sizes.append(kind.list_size if pa.types.is_fixed_size_list(kind) else -1)
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if is_text(kind) or is_bytes(kind) or is_moment(kind):
        return None if sizes else TensorMetadata(field.name, Datatype.BYTES, [-1])
    if not is_number(kind):
        return None
    datatype = Datatype.FP64
    if not pa.types.is_decimal(kind):
        datatype = Datatype.of(np.dtype(kind.to_pandas_dtype()))
    return TensorMetadata(field.name, datatype, [-1, *sizes])


def _innermost(kind: pa.DataType) -> pa.DataType:
    while is_list(kind):
        kind = kind.value_type
    return kind


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _missing(column: pa.Array) -> NDArray[np.bool_]:
    if pa.types.is_floating(column.type):
        found: NDArray[np.bool_] = pc.is_null(column, nan_is_null=True).to_numpy(
            zero_copy_only=False
        )
    elif column.null_count:
        found = column.is_null().to_numpy(zero_copy_only=False)
    else:
        found = np.zeros(len(column), bool)
    return found


def _numbers(column: pa.Array) -> NDArray[Any]:
    """Give the values, with anything where there is none."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    if column.null_count:
        column = column.fill_null(pa.scalar(0, kind) if not pa.types.is_boolean(kind) else False)
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _largest(values: NDArray[Any]) -> int:
    return max(abs(int(values.min())), abs(int(values.max())))


def _parse_each(
    column: pa.Array,
    read: Callable[[str], object],
    kind: pa.DataType,
    told: tuple[str, str],
    reasons: dict[int, str],
) -> pa.Array:
    """Read cell by cell, and note those that can't be read."""
    name, expected = told
    made: list[object] = []
    for row, text in enumerate(column.to_pylist()):
        value = None
        if text is not None:
            try:
                value = read(text)
            except ValueError:
                found = text[:_LONGEST]
                reasons.setdefault(row, f"column '{name}': expected {expected}, found '{found}'")
        made.append(value)
    return pa.array(made, kind)


def _number(text: str) -> float:
    if "_" in text:  # Python's own
        raise ValueError(text)
    return float(text)


_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def _truth(text: str) -> bool | None:
    text = text.strip()
    if text in _NO_NUMBER.to_pylist():
        return None
    if text.lower() not in _TRUTH:
        raise ValueError(text)
    return _TRUTH[text.lower()]


def _as_json(element: bytes | None) -> bytes:
    return b"null" if element is None else msgspec.json.encode(element.decode(errors="replace"))


def _isoformat(moment: datetime.date) -> bytes:
    return moment.isoformat().encode()
