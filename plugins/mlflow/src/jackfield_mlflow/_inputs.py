"""Turn a request's tensors into what a model's Python function takes, by its signature.

Refuses what does not fit before MLflow sees it, so that the caller learns which column or tensor it
is, and both types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import pandas as pd
from mlflow.types import DataType
from mlflow.types.schema import AnyType, Array

from jackfield import Datatype, InferRequest, InvalidRequestError, Tensor, codecs
from jackfield_mlflow._cells import EXACT, Cells, check_naive
from jackfield_mlflow._signature import content_type_of, type_name

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from jackfield_mlflow._signature import Field

_Array: TypeAlias = "NDArray[Any]"

#: Most names in one sentence.
_LISTED = 20
#: MLflow's types of numbers -> what a column of it is made of.
_NUMBERS = {
    DataType.boolean: np.dtype(np.bool_),
    DataType.integer: np.dtype(np.int32),
    DataType.long: np.dtype(np.int64),
    DataType.float: np.dtype(np.float32),
    DataType.double: np.dtype(np.float64),
}


def _dtype_of(kind: object) -> np.dtype[Any] | None:
    """Give what a column of numbers is made of; None for others (the nested types have no hash)."""
    return _NUMBERS.get(kind) if isinstance(kind, DataType) else None


class Inputs:
    """Reads the requests of one model.

    Without a signature (or with one that has no inputs) the content type of the request or of the
    model's settings decides, and else the tensors' own form: one tensor of numbers with two or more
    dimensions is an array; tensors that are all columns, [N] or [N, 1], are a DataFrame; any others
    are a dict of arrays.

    Args:
        fields: The signature's inputs; none without a signature.
        is_list: The model takes a list with an element for each row: it has a type hint.
        content_type: That of the model's settings; empty for none.
    """

    def __init__(
        self, fields: Sequence[Field], *, is_list: bool = False, content_type: str = ""
    ) -> None:
        self._fields = list(fields)
        self._is_list = is_list and len(self._fields) == 1
        self._content_type = content_type
        self._kind = content_type_of(self._fields)
        #: Whether rows are columns of simple types, or one matrix of numbers.
        self.is_table = bool(self._fields) and (
            all(isinstance(each.type, DataType) for each in self._fields)
            or (
                self._kind == "np"
                and len(self._fields[0].shape) == 2
                and self._fields[0].shape[0] == -1
                and self._fields[0].type.kind in "biuf"
            )
        )

    def read(self, request: InferRequest) -> object:
        """Make a DataFrame, an array, a dict of arrays or a list.

        Raises:
            InvalidRequestError: A column or tensor is missing, unknown, of another type or shape.
        """
        content_type = request.parameters.get("content_type") or ""
        if content_type and content_type not in codecs.MESSAGE_CONTENT_TYPES:
            raise InvalidRequestError(
                "parameters.content_type",
                expected=f"one of {_listed(codecs.MESSAGE_CONTENT_TYPES)}",
                found=f"'{content_type}'",
            )
        if not self._fields:
            return self._read_free(request, str(content_type))
        if self._kind == "pd":
            return self._read_columns(request)
        return self._read_tensors(request)

    # ---- without a signature ----

    def _read_free(self, request: InferRequest, content_type: str) -> object:
        inputs = request.inputs
        if not inputs:
            raise InvalidRequestError("inputs", expected="at least one tensor", found="none")
        content_type = content_type or self._content_type
        if not content_type:
            sole = inputs[0]
            if len(inputs) == 1 and sole.array.ndim > 1 and sole.datatype is not Datatype.BYTES:
                content_type = "np"
            elif all(_is_column(each) for each in inputs):
                content_type = "pd"
            else:
                content_type = "dict"
        if content_type == "raw":
            content_type = "dict"  # a Python function knows nothing of messages
        value = codecs.decode_request(request, content_type)
        if isinstance(value, np.ndarray):
            return _own(value)
        if content_type == "dict" and isinstance(value, dict):
            return {
                name: _own(each) if isinstance(each, np.ndarray) else each
                for name, each in value.items()
            }
        return value

    # ---- columns ----

    def _read_columns(self, request: InferRequest) -> object:
        given = self._named(request)
        columns: dict[str | int, object] = {}
        lengths: dict[str, int] = {}
        for field in self._fields:
            if field.name not in given:
                continue
            tensor, path = given[field.name]
            column = _column(field, tensor, path, is_hinted=self._is_list)
            columns[field.key] = column
            lengths[field.name] = len(cast("Sequence[object]", column))
        if len(set(lengths.values())) > 1:
            raise InvalidRequestError(
                "inputs",
                expected="columns of one length",
                found=", ".join(
                    f"{length} in '{name}'" for name, length in list(lengths.items())[:_LISTED]
                ),
            )
        if self._is_list:
            (column,) = columns.values()
            return column.tolist() if isinstance(column, np.ndarray) else _listed_values(column)
        return pd.DataFrame(
            {
                each.key: _series(each, columns[each.key])
                for each in self._fields
                if each.key in columns
            }
        )

    def _named(self, request: InferRequest) -> dict[str, tuple[Tensor, str]]:
        """Find the tensor of each column, and its path; refuse missing and unknown ones."""
        inputs, fields = request.inputs, self._fields
        names = {each.name for each in fields}
        if len(inputs) == 1:
            sole = inputs[0]
            if len(fields) == 1:  # by any name
                return {fields[0].name: (sole, "inputs[0]")}
            if sole.name not in names and sole.array.ndim == 2 and sole.shape[1] == len(fields):
                return {
                    field.name: (
                        Tensor(field.name, sole.datatype, sole.array[:, place], sole.parameters),
                        "inputs[0]",
                    )
                    for place, field in enumerate(fields)
                }
        return self._matched(
            request, "column", lambda each: f"{type_name(each.type)}, {each.datatype}"
        )

    def _matched(
        self, request: InferRequest, what: str, describe: Callable[[Field], str]
    ) -> dict[str, tuple[Tensor, str]]:
        """Find each tensor of the signature by its name, and its path.

        Raises:
            InvalidRequestError: One is unknown, or missing and not optional.
        """
        fields = self._fields
        names = [each.name for each in fields]
        given = {each.name: (each, f"inputs[{place}]") for place, each in enumerate(request.inputs)}
        for name, (tensor, path) in given.items():
            if name not in names:
                raise InvalidRequestError(
                    f"{path}.name",
                    expected=f"one of the {what}s {_listed(names)}",
                    found=f"'{name}' ({tensor.datatype})",
                )
        missing = [each for each in fields if not each.is_optional and each.name not in given]
        if missing:
            wanted = ", ".join(f"'{each.name}' ({describe(each)})" for each in missing[:_LISTED])
            raise InvalidRequestError(
                "inputs",
                expected=f"also the {what}{'s' if len(missing) > 1 else ''} {wanted}",
                found=_listed(list(given)) or f"no {what}",
            )
        return given

    # ---- tensors ----

    def _read_tensors(self, request: InferRequest) -> object:
        inputs, fields = request.inputs, self._fields
        if len(fields) == 1 and len(inputs) == 1:  # by any name
            array = _tensor(fields[0], inputs[0], "inputs[0]")
            return array if self._kind == "np" else {fields[0].name: array}
        given = self._matched(request, "tensor", lambda each: f"{each.datatype} {list(each.shape)}")
        return {
            each.name: _tensor(each, *given[each.name]) for each in fields if each.name in given
        }


# ---- one tensor ----


def _tensor(field: Field, tensor: Tensor, path: str) -> _Array:
    """Make an array of the signature's dtype and shape."""
    shape = field.shape
    wanted: np.dtype[Any] = field.type
    is_free = wanted.kind == "O" and shape == (-1,)  # MLflow lets any shape pass
    if not is_free and (
        len(shape) != tensor.array.ndim
        or any(want not in (-1, size) for want, size in zip(shape, tensor.shape, strict=True))
    ):
        raise InvalidRequestError(
            f"{path}.shape",
            expected=f"{list(shape)} for '{field.name}'",
            found=str(list(tensor.shape)),
        )
    if field.datatype is Datatype.BYTES:
        return _bytes_tensor(field, tensor, path)
    if tensor.datatype is Datatype.BYTES or not np.can_cast(tensor.array.dtype, wanted, "safe"):
        raise _mistyped(path, field, tensor)
    _check_exact(field, tensor, wanted, path)
    return np.array(tensor.array, dtype=wanted, order="C")


def _bytes_tensor(field: Field, tensor: Tensor, path: str) -> _Array:
    wanted: np.dtype[Any] = field.type
    own = tensor.parameters.get("content_type") or ""
    if tensor.datatype is not Datatype.BYTES:
        if wanted.kind == "O":
            return tensor.array.astype(object)
        raise _mistyped(path, field, tensor)
    if wanted.kind == "S":
        if own == "base64":
            values = codecs.decode(tensor, own, field=path)
            return np.array(values, dtype="S").reshape(tensor.shape)
        return np.array(tensor.array, dtype="S")
    default = "datetime" if wanted.kind == "M" else "str"
    content_type = str(own) if own not in ("", "np", "pd", "raw") else default
    values = codecs.decode(tensor, content_type, field=path)
    if wanted.kind == "M":
        for place, each in enumerate(cast("list[datetime.datetime]", values)):
            check_naive(each, f"{path}.data[{place}]")
        return np.array(values, dtype="datetime64[us]").astype(wanted).reshape(tensor.shape)
    if wanted.kind == "U":
        return np.array(values, dtype=str).reshape(tensor.shape)
    array = np.empty(tensor.array.size, dtype=object)
    array[:] = cast("list[object]", values)
    return array.reshape(tensor.shape)


# ---- one column ----


def _column(field: Field, tensor: Tensor, path: str, *, is_hinted: bool) -> object:
    """Make a column: an array, or a list with an element for each row."""
    kind = field.type
    if isinstance(kind, Array) and tensor.datatype is not Datatype.BYTES and tensor.array.ndim > 1:
        return _matrix(field, tensor, path)
    if not _is_column(tensor):
        raise InvalidRequestError(
            f"{path}.shape",
            expected=f"[N] or [N, 1] for the column '{field.name}'",
            found=str(list(tensor.shape)),
        )
    if tensor.datatype is not Datatype.BYTES:
        return _numbers(field, tensor, path)
    own = str(tensor.parameters.get("content_type") or "")
    content_type = own
    if own in ("", "np", "pd", "raw"):
        # bytes as they are, where somebody says so
        if kind is DataType.binary and own in ("np", "raw"):
            return tensor.array.reshape(-1).copy()
        content_type = field.content_type
    if content_type == "np":
        raise _mistyped(path, field, tensor)
    values = cast("list[object]", codecs.decode(tensor, content_type, field=path))
    if content_type == "pd_json":
        cells = Cells(field, is_hinted=is_hinted)
        if isinstance(kind, DataType):
            return _json_cells(field, values, cells, path)
        return [cells.read(each, f"{path}.data[{place}]") for place, each in enumerate(values)]
    if kind is DataType.datetime and not is_hinted:
        for place, each in enumerate(cast("list[datetime.datetime]", values)):
            check_naive(each, f"{path}.data[{place}]")
    return values


def _matrix(field: Field, tensor: Tensor, path: str) -> list[object]:
    """Make a column of lists of numbers: each row an array."""
    inner, depth = field.type, 0
    while isinstance(inner, Array):
        inner, depth = inner.dtype, depth + 1
    if isinstance(inner, AnyType):
        return [_own(row) for row in tensor.array]
    if tensor.array.ndim != depth + 1:
        raise InvalidRequestError(
            f"{path}.shape",
            expected=f"{depth + 1} dimensions for the column '{field.name}' "
            f"({type_name(field.type)})",
            found=str(list(tensor.shape)),
        )
    wanted = _checked_dtype(field, tensor, inner, path)
    return [row.astype(wanted) for row in tensor.array]


def _numbers(field: Field, tensor: Tensor, path: str) -> _Array:
    """Check and cast numbers; what is cast keeps its value."""
    return tensor.array.reshape(-1).astype(_checked_dtype(field, tensor, field.type, path))


def _checked_dtype(field: Field, tensor: Tensor, kind: object, path: str) -> np.dtype[Any]:
    """Say what the numbers are cast to; refuse what the type does not hold."""
    wanted = _dtype_of(kind)
    dtype = tensor.array.dtype
    if (
        wanted is None
        or not np.can_cast(dtype, wanted, "safe")
        or (dtype.kind == "b") is not (wanted.kind == "b")
    ):
        raise _mistyped(path, field, tensor)
    _check_exact(field, tensor, wanted, path)
    return wanted


def _check_exact(field: Field, tensor: Tensor, wanted: np.dtype[Any], path: str) -> None:
    """Refuse integers that FP64 can't hold, which NumPy calls safe."""
    array = tensor.array.reshape(-1)
    if wanted.kind != "f" or array.dtype.kind not in "iu" or array.dtype.itemsize < 8:
        return
    wrong = (array > EXACT) | (array < -EXACT if array.dtype.kind == "i" else False)
    if wrong.any():
        place = int(wrong.argmax())
        raise InvalidRequestError(
            f"{path}.data[{place}]",
            expected=f"an integer that {field.datatype} holds, for '{field.name}'",
            found=str(array[place]),
        )


def _json_cells(field: Field, values: list[object], cells: Cells, path: str) -> object:
    """Read a column of simple values that is sent as JSON, which knows null."""
    kind: DataType = field.type
    read: list[Any] = [
        None if each is None else cells.read_simple(each, kind, f"{path}.data[{place}]")
        for place, each in enumerate(values)
    ]
    wanted = _NUMBERS.get(kind)
    if wanted is None:
        return read
    if wanted.kind == "f":
        return np.array([np.nan if each is None else each for each in read], dtype=wanted)
    if None not in read:
        return np.array(read, dtype=wanted)
    if wanted.kind == "b":
        return read
    raise InvalidRequestError(
        f"{path}.data[{read.index(None)}]",
        expected=f"{type_name(kind)}, which knows no null, for the column '{field.name}'",
        found="null",
    )


def _series(field: Field, column: object) -> pd.Series[Any]:
    if isinstance(column, np.ndarray):
        return pd.Series(column)
    values = cast("list[object]", column)
    if field.type is DataType.datetime and None not in values:
        return pd.Series(values, dtype=None if values else "datetime64[ns]")
    if field.type is DataType.string and None not in values:
        return pd.Series(values, dtype=str)
    return pd.Series(values, dtype=object)


def _listed_values(column: object) -> list[object]:
    return [
        each.tolist() if isinstance(each, np.ndarray) else each
        for each in cast("list[object]", column)
    ]


def _is_column(tensor: Tensor) -> bool:
    return tensor.array.ndim == 1 or (tensor.array.ndim == 2 and tensor.shape[1] == 1)


def _own(array: _Array) -> _Array:
    """Copy: a Python function may write in place, and a request's arrays are read-only."""
    return np.array(array)


def _mistyped(path: str, field: Field, tensor: Tensor) -> InvalidRequestError:
    what = "tensor" if field.is_tensor else "column"
    return InvalidRequestError(
        f"{path}.datatype",
        expected=f"{field.datatype} ({type_name(field.type)}), or what it holds without loss, "
        f"for the {what} '{field.name}'",
        found=str(tensor.datatype),
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"'{each}'" for each in names[:_LISTED]) + more


# ---- the input example ----


def example_of(value: object, fields: Sequence[Field]) -> InferRequest | None:
    """Make a request of a model's input example.

    Returns:
        The request; None without an example, and where it has no form that the signature tells.
    """
    if value is None:
        return None
    try:
        tensors = _example_tensors(value, fields)
    # what was saved with a model is anybody's
    except (TypeError, ValueError, KeyError, IndexError):
        return None
    return InferRequest(tensors) if tensors else None


def _example_tensors(value: object, fields: Sequence[Field]) -> list[Tensor]:
    if not fields:
        return (
            codecs.encode_outputs(value, name="input-0") if isinstance(value, pd.DataFrame) else []
        )
    if fields[0].is_tensor:
        if isinstance(value, pd.DataFrame) and len(fields) == 1:
            value = value.to_numpy()
        if isinstance(value, Mapping):
            return [_example_tensor(each, value[each.key]) for each in fields if each.key in value]
        return [_example_tensor(fields[0], value)] if len(fields) == 1 else []
    columns = _example_columns(value, fields)
    return [_example_column(each, columns[each.key]) for each in fields if each.key in columns]


def _example_tensor(field: Field, value: object) -> Tensor:
    array = np.asarray(value)
    if field.datatype is not Datatype.BYTES:
        array = array.astype(field.type)
    elif array.dtype.kind == "M":
        return codecs.encode(field.name, array, "datetime")
    return Tensor.from_array(field.name, array)


def _example_columns(value: object, fields: Sequence[Field]) -> dict[str | int, list[object]]:
    """Give the example's cells for each column, by MLflow's keys."""
    if isinstance(value, pd.Series):
        value = value.to_frame()
    if isinstance(value, pd.DataFrame):
        labels = list(value.columns)
        if isinstance(fields[0].key, int):
            labels = list(range(len(labels)))
        return {label: list(value.iloc[:, place]) for place, label in enumerate(labels)}
    if isinstance(value, Mapping):
        lists = [isinstance(each, list | np.ndarray) for each in value.values()]
        nested = any(not isinstance(each.type, DataType) for each in fields)
        if all(lists) and not nested:
            return {key: list(each) for key, each in value.items()}
        return {key: [each] for key, each in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 2:
        return {each.key: list(value[:, place]) for place, each in enumerate(fields)}
    if isinstance(value, list | np.ndarray):
        if len(fields) == 1:
            return {fields[0].key: list(value)}
        if all(isinstance(each, Mapping) for each in value):
            return {each.key: [row[each.key] for row in value] for each in fields}
        return {}
    return {fields[0].key: [value]} if len(fields) == 1 else {}


def _example_column(field: Field, cells: list[object]) -> Tensor:
    kind = field.type
    if (wanted := _dtype_of(kind)) is not None:
        if any(each is None or each != each for each in cells) and wanted.kind != "f":
            return codecs.encode(
                field.name, [None if pd.isna(each) else each for each in cells], "pd_json"
            )
        return Tensor.from_array(field.name, np.array(cells, dtype=wanted))
    if kind is DataType.datetime:
        moments = [pd.Timestamp(cast("Any", each)).to_pydatetime() for each in cells]
        return codecs.encode(field.name, moments, "datetime")
    if kind in (DataType.string, DataType.binary) and not any(
        isinstance(each, str if kind is DataType.string else bytes | bytearray) is False
        for each in cells
    ):
        return codecs.encode(field.name, cells, field.content_type)
    return codecs.encode(field.name, cells, "pd_json")
