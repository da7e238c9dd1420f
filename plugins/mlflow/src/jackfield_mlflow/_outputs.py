"""Write whatever a model's Python function returns as tensors, named as its metadata says."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec
import numpy as np
import orjson
import pandas as pd
from mlflow.types.schema import Array

from jackfield import Datatype, InferResponse, InvalidRequestError, Tensor, TensorMetadata, codecs
from jackfield_mlflow._cells import EXACT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield import InferRequest, Parameter
    from jackfield_mlflow._signature import Field

_Array: TypeAlias = "NDArray[Any]"

#: Types of elements that need no unwrapping.
_PYTHONS = frozenset([bool, int, float, str, bytes, list, dict, type(None)])
#: Name of a result that has none of its own.
SOLE = "output-0"


class Outputs:
    """Writes the results of one model.

    - A DataFrame is a tensor for each column, a dict one for each key, a tuple ``output-0``,
      ``output-1`` and so on; anything else is one tensor, by the name of the signature's only
      output, else ``output-0``.
    - A matrix, and a list of dicts, is a tensor for each column or key where the signature names
      them so.
    - Numbers and arrays keep their dtype; a signature's wider one is taken where no value changes.
      Text is BYTES, bytes are base64, moments ISO 8601, and all else is JSON, an element for each
      row: None is ``null``.

    Args:
        fields: The signature's outputs; none without them.
        is_column_2d: Results of one dimension are answered as [rows, 1], as MLServer does.
    """

    def __init__(self, fields: Sequence[Field], *, is_column_2d: bool = False) -> None:
        self._fields = list(fields)
        self._is_column_2d = is_column_2d
        self._learned: list[TensorMetadata] = []

    def write(self, value: object, request: InferRequest | None = None) -> InferResponse:
        """Make a response.

        Args:
            value: What the function returned.
            request: Names the outputs that are wanted; None wants all.

        Raises:
            InvalidRequestError: There is no output of a name that the request wants.
            TypeError: The result has no form here.
        """
        tensors = [self._finished(name, each) for name, each in self._parts(value)]
        if request is None or not request.outputs:
            return InferResponse(tensors)
        by_name = {each.name: each for each in tensors}
        for place, wanted in enumerate(request.outputs):
            if wanted.name not in by_name:
                known = ", ".join(f"'{each}'" for each in by_name)
                raise InvalidRequestError(
                    f"outputs[{place}].name",
                    expected=f"one of {known}",
                    found=f"'{wanted.name}'",
                )
        return InferResponse([by_name[each.name] for each in request.outputs])

    def metadata(self) -> list[TensorMetadata]:
        """Tell what the signature tells, else what `learn` saw."""
        if not self._fields:
            return list(self._learned)
        return [each.metadata({}) for each in self._fields]

    def learn(self, value: object) -> None:
        """Note the outputs of a result, where no signature tells them.

        Raises:
            TypeError: The result has no form here.
        """
        self._learned = [
            TensorMetadata(
                each.name,
                each.datatype,
                [-1, *each.shape[1:]],
                {k: v for k, v in each.parameters.items() if k == "content_type"},
            )
            for each in self.write(value).outputs
        ]

    # ---- the parts of a result ----

    def _parts(self, value: object) -> list[tuple[str, object]]:
        value = _plain(value)
        if isinstance(value, pd.DataFrame):
            return self._columns(value)
        if isinstance(value, Mapping):
            return self._named(value)
        if isinstance(value, tuple) and not self._fields:
            return [(f"output-{place}", each) for place, each in enumerate(value)]
        if len(self._fields) > 1:
            if isinstance(value, np.ndarray) and value.shape[1:] == (len(self._fields),):
                return [(each.name, value[:, place]) for place, each in enumerate(self._fields)]
            if isinstance(value, list | tuple) and all(isinstance(e, Mapping) for e in value):
                rows = cast("Sequence[Mapping[object, object]]", value)
                return [(e.name, [row.get(e.key) for row in rows]) for e in self._fields]
            if isinstance(value, list) and value and all(self._is_row(each) for each in value):
                cells = cast("Sequence[Sequence[object]]", value)
                return [(e.name, [row[i] for row in cells]) for i, e in enumerate(self._fields)]
            if isinstance(value, tuple) and len(value) == len(self._fields):
                return [(field.name, each) for field, each in zip(self._fields, value, strict=True)]
        field = self._fields[0] if len(self._fields) == 1 else None
        if (
            field is not None
            and isinstance(field.key, str)
            and isinstance(value, list)
            and value
            and all(isinstance(each, Mapping) and set(each) == {field.key} for each in value)
        ):
            return [(field.name, [each[field.key] for each in value])]
        return [(field.name if field is not None else SOLE, value)]

    def _is_row(self, value: object) -> bool:
        return isinstance(value, list | tuple) and len(value) == len(self._fields)

    def _columns(self, frame: pd.DataFrame) -> list[tuple[str, object]]:
        if isinstance(frame.columns, pd.MultiIndex):
            labels = ["_".join(map(str, each)) for each in frame.columns]
        else:
            labels = [
                f"output-{each}" if isinstance(each, int | np.integer) else str(each)
                for each in frame.columns
            ]
        # a signature without names, or one column: whatever the frame calls them
        if len(self._fields) == len(labels) and (
            len(labels) == 1 or all(isinstance(e.key, int) for e in self._fields)
        ):
            labels = [each.name for each in self._fields]
        if len(set(labels)) < len(labels):
            double = next(each for each in labels if labels.count(each) > 1)
            message = f"two columns of the result have the name '{double}'"
            raise TypeError(message)
        return [(label, frame.iloc[:, place]) for place, label in enumerate(labels)]

    def _named(self, value: Mapping[Any, object]) -> list[tuple[str, object]]:
        """Give each key's value; a whole dict is JSON where the signature has one such output."""
        keys = [str(each) for each in value]
        if len(self._fields) == 1:
            field = self._fields[0]
            if field.name not in keys and field.content_type == "pd_json":
                return [(field.name, [value])]
        if not keys:
            return [(SOLE, [value])]
        if len(set(keys)) < len(keys):
            message = "two keys of the result have the same text"
            raise TypeError(message)
        return list(zip(keys, value.values(), strict=True))

    # ---- one tensor ----

    def _finished(self, name: str, value: object) -> Tensor:
        field = next((each for each in self._fields if each.name == name), None)
        tensor = _tensor(name, value, field)
        array = tensor.array
        if array.ndim == 0:
            array = array.reshape(1)
        if self._is_column_2d and array.ndim == 1:
            array = array.reshape(-1, 1)
        if field is not None and tensor.datatype is not field.datatype:
            wider = _widened(tensor, field)
            if wider is not None:
                return Tensor(name, field.datatype, array.astype(wider), tensor.parameters)
        if array is tensor.array:
            return tensor
        return Tensor(name, tensor.datatype, array, tensor.parameters)


def _widened(tensor: Tensor, field: Field) -> np.dtype[Any] | None:
    """Give the signature's dtype where it holds all values of the tensor's."""
    if not tensor.array.size:
        return field.datatype.dtype
    if Datatype.BYTES in (tensor.datatype, field.datatype):
        return None
    dtype, wanted = tensor.array.dtype, field.datatype.dtype
    if dtype.kind in "iu" and dtype.itemsize == 8 and wanted.kind == "f":
        # NumPy calls it safe, and it is not
        array = tensor.array
        is_exact = wanted.itemsize == 8 and array.min() >= -EXACT and array.max() <= EXACT
        return wanted if is_exact else None
    return wanted if np.can_cast(dtype, wanted, "safe") else None


def _plain(value: object) -> object:
    """Unwrap what is not one of Python's, NumPy's or pandas's own."""
    if isinstance(value, pd.Index | pd.api.extensions.ExtensionArray):
        return pd.Series(value)
    if hasattr(value, "toarray") and not isinstance(value, np.ndarray):  # a sparse matrix
        return cast("Any", value).toarray()
    if isinstance(value, np.ma.MaskedArray):
        cells = np.array(value.data, dtype=object)
        cells[np.ma.getmaskarray(value)] = None
        return cells
    if isinstance(value, np.ndarray | pd.Series | pd.DataFrame | str | bytes | list | tuple):
        return value
    if isinstance(value, Mapping | np.generic):
        return value
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic
        return cast("object", dump())
    if isinstance(value, set | frozenset | range) or hasattr(value, "__next__"):
        return list(cast("Any", value))
    if hasattr(value, "__array__"):  # a tensor of a framework
        return np.asarray(value)
    return value


def _tensor(name: str, value: object, field: Field | None) -> Tensor:
    value = _plain(value)
    content_type = field.content_type if field is not None else ""
    if field is not None and content_type == "pd_json":
        is_cell = (
            isinstance(value, list | tuple | np.ndarray)
            and len(value) > 0
            and _depth(value) <= _depth_of(field.type)
        )
        return _json(name, [value] if is_cell else _rows(value))
    if isinstance(value, pd.Series):
        return _of_series(name, value)
    if isinstance(value, np.ndarray | np.generic):
        return _of_array(name, np.asarray(value))
    if isinstance(value, list | tuple):
        if not value and field is not None:
            return Tensor(name, field.datatype, np.empty(0, field.datatype.dtype))
        return _of_list(name, [e if type(e) in _PYTHONS else _plain(e) for e in value])
    if isinstance(value, pd.DataFrame | Mapping) or value is None:
        return _json(name, [value])
    if isinstance(value, bool | int | float | str | bytes | bytearray | datetime.datetime):
        return _of_list(name, [value])
    return _json(name, [value])


def _depth(value: object) -> int:
    """Count the lists around the first element."""
    if isinstance(value, np.ndarray):
        return value.ndim
    if isinstance(value, list | tuple):
        return 1 + (_depth(value[0]) if value else 0)
    return 0


def _depth_of(kind: object) -> int:
    """Count the lists that a cell of a type has."""
    return 1 + _depth_of(kind.dtype) if isinstance(kind, Array) else 0


def _rows(value: object) -> list[object]:
    if isinstance(value, np.ndarray):
        return list(value) if value.ndim else [value.item()]
    if isinstance(value, pd.Series):
        cells = cast("list[object]", value.tolist())
        return [None if isinstance(e, float) and e != e else e for e in cells]
    if isinstance(value, list | tuple):
        return list(value)
    return [value]


def _of_array(name: str, array: _Array) -> Tensor:
    if array.dtype.kind == "M":
        if np.isnat(array).any():
            cells = array.astype("datetime64[us]").astype(object)
            return _json(name, list(cells.reshape(-1)), array.shape)
        return codecs.encode(name, array, "datetime")
    if array.dtype.kind == "m":
        return _json(name, [str(each) for each in array.reshape(-1)], array.shape)
    if array.dtype.kind == "c":
        return _json(
            name, [[each.real, each.imag] for each in array.reshape(-1).tolist()], array.shape
        )
    if array.dtype.kind == "S":
        return codecs.encode(name, array.astype(object), "base64")
    if array.dtype.kind == "U":
        return codecs.encode(name, array, "str")
    if array.dtype.kind == "O":
        return _of_cells(name, array.reshape(-1).tolist(), array.shape)
    if array.dtype.kind == "V" or array.dtype.itemsize > 8:
        return _json(name, array.reshape(-1).tolist(), array.shape)
    return Tensor.from_array(name, array)


def _of_series(name: str, series: pd.Series[Any]) -> Tensor:
    if not isinstance(series.dtype, np.dtype) or series.dtype.kind in "OMmc":
        if isinstance(series.dtype, pd.CategoricalDtype | pd.SparseDtype):
            return _of_series(name, pd.Series(np.asarray(series)))
        is_missing = series.isna().to_numpy()
        kinds = pd.api.types
        if kinds.is_numeric_dtype(series.dtype) and (
            kinds.is_float_dtype(series.dtype) or not is_missing.any()
        ):
            return codecs.encode(name, series, "pd")
        cells = series.astype(object).to_numpy(dtype=object, copy=True)
        cells[is_missing] = None
        return _of_cells(name, cells.tolist(), cells.shape)
    return _of_array(name, series.to_numpy())


def _of_list(name: str, values: list[object]) -> Tensor:
    if values and any(isinstance(each, pd.Series | pd.DataFrame | Mapping) for each in values):
        return _json(name, values)
    if values and all(isinstance(each, bool | int | float | np.generic) for each in values):
        array = _numbers(values)
        if array is not None:
            return _of_array(name, array)
    if not values:
        return Tensor.from_array(name, np.empty(0))
    if any(isinstance(each, list | tuple | np.ndarray) for each in values):
        array = _stacked(values)
        return _of_array(name, array) if array is not None else _json(name, values)
    return _of_cells(name, values, (len(values),))


def _numbers(values: list[object]) -> _Array | None:
    """Make an array, unless that would change a value."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        return None
    if array.dtype.kind not in "biufMS U":
        return None
    if (
        array.dtype.kind == "f"
        and (np.abs(array) >= EXACT).any()
        and any(isinstance(each, int | np.integer) and abs(int(each)) > EXACT for each in values)
    ):
        return None
    kinds = {isinstance(each, bool | np.bool_) for each in values}
    return array if len(kinds) == 1 else None  # True is no 1


def _stacked(values: list[object]) -> _Array | None:
    """Make one array of lists of equal shapes; None where they are not numbers or text."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # of different lengths
        return None
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind in "US" and all(
        isinstance(each, str) for each in np.array(values, dtype=object).reshape(-1).tolist()
    ):
        # NumPy's own texts lose the zero characters at their end
        return np.array(values, dtype=object)
    return None


def _of_cells(name: str, cells: list[Any], shape: tuple[int, ...]) -> Tensor:
    """Write Python's own values: of one kind by its content type, mixed ones as JSON."""
    flat = np.empty(len(cells), dtype=object)
    for place, each in enumerate(cells):  # where NumPy would look into a list
        flat[place] = each
    array = flat.reshape(shape)
    kinds: tuple[tuple[str, type], ...] = (
        ("str", str), ("base64", bytes), ("datetime", datetime.datetime),
    )  # fmt: skip
    for content_type, kind in kinds:
        if cells and all(isinstance(each, kind) and not _is_missing(each) for each in cells):
            return codecs.encode(name, array, content_type)
    if cells and all(_is_number(each) for each in cells):
        typed = _numbers([np.nan if each is None else each for each in cells])
        if typed is not None and typed.dtype.kind in "biuf":
            return Tensor.from_array(name, typed.reshape(shape))
    return _json(name, cells, shape)


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_) or value is None


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NaT or (isinstance(value, float) and value != value)


def _json(name: str, values: list[Any], shape: tuple[int, ...] | None = None) -> Tensor:
    elements = np.empty(len(values), dtype=object)
    for place, each in enumerate(values):
        try:
            elements[place] = write_json(each)
        except (TypeError, ValueError) as error:
            message = f"output '{name}': element {place} has no form in JSON: {error}"
            raise TypeError(message) from error
    array = elements if shape is None else elements.reshape(shape)
    return Tensor(name, Datatype.BYTES, array, {"content_type": "pd_json"})


_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def write_json(value: object) -> bytes:
    """Write a value as JSON; what JSON has no form for as MLflow does: bytes are base64.

    Raises:
        TypeError: There is no form at all.
    """
    try:
        return orjson.dumps(value, default=_simple, option=_OPTIONS)
    except TypeError:
        # an integer beyond 64 bits
        return json.dumps(value, default=_simple, allow_nan=False).encode()


def _simple(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, pd.DataFrame):
        return value.to_dict(orient="records")
    if isinstance(value, pd.Series):
        return cast("object", value.tolist())
    if isinstance(value, datetime.timedelta):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    plain = _plain(value)
    if plain is value:
        message = f"{type(value).__name__} is none of Python's, NumPy's or pandas's plain values"
        raise TypeError(message)
    return plain


def example_values(tensor: Tensor) -> list[Parameter]:
    """Give the first row of a tensor as JSON has it, flat."""
    row = tensor.array[:1].reshape(-1).tolist() if tensor.array.ndim else [tensor.array.item()]
    return [each.decode(errors="replace") if isinstance(each, bytes) else each for each in row]
