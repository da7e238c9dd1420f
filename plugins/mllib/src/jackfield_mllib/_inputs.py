"""Read a request's tensors as the columns that a model takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from pyspark.sql import types as sql

from jackfield import Datatype, InferRequest, InvalidRequestError, Tensor
from jackfield.messages import TensorMetadata
from jackfield.tabular import Column, Columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from jackfield import Parameter
    from jackfield_mllib._routes import Arrays
    from jackfield_mllib._schema import Field


class Inputs:
    """Reads the columns of requests.

    Args:
        fields: The columns, in the model's order.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self._by_name = {each.name: each for each in fields}
        self._scalars = [each for each in fields if not _has_own_tensor(each)]
        self._own = [each for each in fields if _has_own_tensor(each)]
        self._columns = Columns([_column(each) for each in self._scalars], unknown="refuse")

    @property
    def schema(self) -> sql.StructType:
        """The columns of the DataFrame."""
        return sql.StructType([each.spark for each in self.fields])

    def metadata(self, *, is_column_2d: bool = False) -> list[TensorMetadata]:
        """Say which tensors a request holds: one for each column, in the model's order."""
        told = {}
        if self._scalars:
            told = {
                each.name: each
                for each in self._columns.metadata(form="columns", is_column_2d=is_column_2d)
            }
        for field in self._own:
            told[field.name] = _describe(field)
        return [_with_type(told[field.name], field) for field in self.fields]

    def sample(self) -> Arrays:
        """Make one row."""
        inputs: list[Tensor] = []
        if self._scalars:
            made = self._columns.sample(form="columns")
            inputs += made.inputs if made is not None else []
        for field in self._own:
            if field.is_vector:
                array: NDArray[Any] = np.zeros((1, field.width or 1), field.datatype.dtype)
                inputs.append(Tensor.from_array(field.name, array))
            else:
                told = {"content_type": "pd_json"}
                inputs.append(Tensor.from_array(field.name, ['["text"]'], parameters=told))
        return self.read(InferRequest(inputs))

    def read(self, request: InferRequest) -> Arrays:
        """Read the columns.

        Returns:
            For each column an array with the rows first, of the dtype of its type: numbers and
            truth values [n], texts [n] of `str`, vectors [n, width]. A missing value makes an array
            of objects with None.

        Raises:
            InvalidRequestError: A column is missing, unknown, of another type or width, or has a
                value that a stage refuses.
        """
        given = {each.name: (at, each) for at, each in enumerate(request.inputs)}
        if len(self.fields) == 1 and len(given) == 1 and self._own:
            # the only vector may come under any name
            given = {self.fields[0].name: (0, request.inputs[0])}
        elif self._own:
            self._check_names(given)
        made: dict[str, NDArray[Any]] = {}
        if self._scalars:
            made = self._read_scalars(request, given)
        rows = next((len(each) for each in made.values()), None)
        for field in self._own:
            at, tensor = given[field.name]
            array = _read_own(field, at, tensor)
            if rows is not None and len(array) != rows:
                raise InvalidRequestError(
                    f"inputs[{at}].shape",
                    expected=f"{rows} rows for '{field.name}', as the other columns have",
                    found=str(list(tensor.shape)),
                )
            rows = len(array)
            made[field.name] = array
        return made

    def _check_names(self, given: Mapping[str, object]) -> None:
        missing = [each for each in self.fields if each.name not in given]
        unknown = [name for name in given if name not in self._by_name]
        if missing or unknown:
            found = [f"no '{each.name}' ({_title(each)})" for each in missing]
            found += [f"the unknown '{name}'" for name in unknown]
            raise InvalidRequestError(
                "inputs",
                expected=f"one tensor for each of the {len(self.fields)} columns",
                found=" and ".join(found[:10]),
            )

    def _read_scalars(
        self, request: InferRequest, given: Mapping[str, tuple[int, Tensor]]
    ) -> dict[str, NDArray[Any]]:
        if self._own:
            places = [given[each.name][0] for each in self._scalars]
            part = InferRequest([request.inputs[place] for place in places])
        else:
            places = list(range(len(request.inputs)))
            part = request
        try:
            arrays = self._columns.arrays(part)
        except InvalidRequestError as error:
            raise _moved(error, places) from error
        names = [each.name for each in self._scalars]
        made = {}
        for place, (field, array) in enumerate(zip(self._scalars, arrays, strict=True)):
            at = given[field.name][0] if field.name in given else 0
            step = 1 if field.name in given else len(names)
            made[field.name] = _typed(field, array, at, 0 if step == 1 else place, step)
        return made


def _has_own_tensor(field: Field) -> bool:
    return field.type == "vector" or field.type.startswith("array<")


def _title(field: Field) -> str:
    if field.type == "vector":
        return f"FP64 [-1, {field.width or -1}]"
    return f"{field.datatype.value}, {field.type}"


def _column(field: Field) -> Column:
    if field.is_closed:
        return Column.category(field.name, field.categories, nullable=field.nullable, missing=None)
    if field.type == "string":
        known = [each for each in field.categories if isinstance(each, str)]
        return Column.text(field.name, categories=known, nullable=field.nullable, missing=None)
    if field.type == "boolean":
        return Column(
            name=field.name,
            kind=Column.boolean(field.name).kind,
            datatype=Datatype.BOOL,
            nullable=field.nullable,
            missing=None,
        )
    return Column.number(field.name, field.datatype, nullable=field.nullable)


def _describe(field: Field) -> TensorMetadata:
    if field.is_vector:
        return TensorMetadata(field.name, field.datatype, [-1, field.width or -1])
    told: dict[str, Parameter] = {"content_type": "pd_json", "example": ['["some", "text"]']}
    return TensorMetadata(field.name, Datatype.BYTES, [-1], told)


def _with_type(told: TensorMetadata, field: Field) -> TensorMetadata:
    kind = f"vector({field.width})" if field.type == "vector" and field.width else field.type
    return TensorMetadata(
        told.name, told.datatype, told.shape, {**told.parameters, "spark_type": kind}
    )


def _moved(error: InvalidRequestError, places: Sequence[int]) -> InvalidRequestError:
    """Tell an error of some of the inputs with the places that they have among all."""
    match = re.match(r"inputs\[(\d+)\]", error.field)
    if match is None:
        return error
    field = f"inputs[{places[int(match[1])]}]{error.field[match.end() :]}"
    return InvalidRequestError(field, expected=error.expected, found=error.found)


def _typed(field: Field, array: NDArray[Any], at: int, start: int, step: int) -> NDArray[Any]:
    """Cast a column to its type; a missing number becomes None."""
    dtype = field.datatype.dtype
    if field.datatype in (Datatype.BYTES, Datatype.BOOL) or array.dtype == object:
        return array
    if array.dtype == dtype and dtype.kind != "f":
        return array
    is_missing = np.isnan(array) if array.dtype.kind == "f" else None
    if is_missing is not None and not is_missing.any():
        is_missing = None
    if dtype.kind == "i":
        info = np.iinfo(dtype)
        held = array if is_missing is None else np.where(is_missing, 0, array)
        is_wrong = (held < info.min) | (held > info.max)
        if held.dtype.kind == "f":
            is_wrong |= held != np.floor(held)
        if is_wrong.any():
            row = int(is_wrong.argmax())
            raise InvalidRequestError(
                f"inputs[{at}].data[{start + row * step}]",
                expected=f"a whole number that {field.type} can hold for '{field.name}'",
                found=str(array[row]),
            )
        made = held.astype(dtype)
    else:
        with np.errstate(over="ignore"):
            made = array.astype(dtype)
    if is_missing is None:
        return made
    values = made.astype(object)
    values[is_missing] = None
    return values


def _read_own(field: Field, at: int, tensor: Tensor) -> NDArray[Any]:
    if field.is_vector:
        return _read_vectors(field, at, tensor)
    array = tensor.array
    if tensor.datatype is not Datatype.BYTES:
        raise InvalidRequestError(
            f"inputs[{at}].datatype",
            expected=f"BYTES ({field.type}) for '{field.name}'",
            found=tensor.datatype.value,
        )
    made = np.empty(len(array) if array.ndim else 0, object)
    if array.ndim == 2 and tensor.parameters.get("content_type") != "pd_json":
        made[:] = [[each.decode() for each in row] for row in array.tolist()]
        return made
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 1):
        raise InvalidRequestError(
            f"inputs[{at}].shape",
            expected=f"[-1], each a list in JSON, or [-1, -1] for '{field.name}'",
            found=str(list(tensor.shape)),
        )
    for row, element in enumerate(array.reshape(-1).tolist()):
        try:
            value = msgspec.json.decode(element, type=list[str | None] | None)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(
                f"inputs[{at}].data[{row}]",
                expected=f"a list of texts in JSON for '{field.name}'",
                found=f"'{element[:40].decode(errors='replace')}'",
            ) from error
        made[row] = value
    return made


def _read_vectors(field: Field, at: int, tensor: Tensor) -> NDArray[Any]:
    if tensor.datatype is Datatype.BYTES:
        raise InvalidRequestError(
            f"inputs[{at}].datatype",
            expected=f"{_title(field)} ({field.type}) for '{field.name}'",
            found="BYTES",
        )
    array, width = tensor.array, field.width
    if array.ndim == 1:
        # one row alone, or a column of vectors of one number
        array = array.reshape(1, -1) if width and len(array) == width != 1 else array[:, None]
    if array.ndim != 2 or (width and array.shape[1] != width):
        raise InvalidRequestError(
            f"inputs[{at}].shape",
            expected=f"[-1, {width or -1}] (vectors{f' of {width}' if width else ''}) "
            f"for '{field.name}'",
            found=str(list(tensor.shape)),
        )
    if field.is_counts and (array < 0).any():
        place = int((array < 0).argmax())
        raise InvalidRequestError(
            f"inputs[{at}].data[{place}]",
            expected=f"counts, 0 or more, for '{field.name}'",
            found=str(array.flat[place]),
        )
    return np.ascontiguousarray(array, field.datatype.dtype)
