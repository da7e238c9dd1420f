"""Describe the columns that a model adds, and make tensors of them."""

from __future__ import annotations

import datetime
import decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as sql

from jackfield import (
    Datatype,
    InferRequest,
    InferResponse,
    InvalidRequestError,
    ModelLoadError,
    Tensor,
    TensorMetadata,
)
from jackfield_mllib._schema import makes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from jackfield import Parameter
    from jackfield_mllib._artifact import Stage

#: Parameters that name a column -> what else its output may be asked for as; the names that the
#: plugins of tables have in common.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "predictionCol": ("predict",),
    "probabilityCol": ("predict_proba",),
    "rawPredictionCol": ("raw", "margin", "decision_function"),
}
_NUMBERS: Final[Mapping[type[sql.DataType], Datatype]] = {
    sql.DoubleType: Datatype.FP64,
    sql.FloatType: Datatype.FP32,
    sql.LongType: Datatype.INT64,
    sql.IntegerType: Datatype.INT32,
    sql.ShortType: Datatype.INT16,
    sql.ByteType: Datatype.INT8,
    sql.BooleanType: Datatype.BOOL,
}


class Added(msgspec.Struct, frozen=True):
    """A column that a model adds."""

    name: str
    datatype: Datatype
    #: Without the rows: [] for a number or text, [width] for a vector, -1 where it is not known.
    shape: tuple[int, ...] = ()
    #: Whether it is a list, a structure or a map: JSON in a BYTES tensor.
    is_json: bool = False
    spark_type: str = ""
    #: Of a vector with a value for each class or the like, their names.
    columns: tuple[str, ...] = ()

    def tensor(self, name: str, values: NDArray[Any]) -> Tensor:
        """Make a tensor of a column as a route gives it.

        Args:
            name: What the request asked for.
            values: [rows, …]; an array of objects where values are missing or are no numbers.

        Raises:
            InvalidRequestError: The vectors of the rows differ in width, so that they make no
                tensor.
        """
        if self.is_json:
            return _json(name, values)
        if self.datatype is Datatype.BYTES:
            if any(each is None for each in values.tolist()):
                return _json(name, values)
            return Tensor.from_array(name, _texts(values))
        if self.shape:
            return Tensor.from_array(name, self._matrix(name, values))
        if values.dtype == object:
            values = np.array(
                [np.nan if each is None else each for each in values.tolist()], np.float64
            )
        return Tensor.from_array(name, values.astype(self.datatype.dtype, copy=False))

    def metadata(self, name: str, parameters: Mapping[str, Parameter]) -> TensorMetadata:
        """Describe the tensor of that name."""
        told: dict[str, Parameter] = {"spark_type": self.spark_type, **parameters}
        if self.is_json:
            told["content_type"] = "pd_json"
        if self.columns:
            told["columns"] = list(self.columns)
        return TensorMetadata(name, self.datatype, [-1, *self.shape], told)

    def _matrix(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        if values.dtype != object:
            return values.astype(self.datatype.dtype, copy=False)
        rows = values.tolist()
        widths = {len(each) for each in rows if each is not None}
        if len(widths) > 1:
            raise InvalidRequestError(
                "inputs",
                expected=f"rows for which '{name}' has one width",
                found=f"widths of {min(widths)} to {max(widths)}",
            )
        width = widths.pop() if widths else max(self.shape[0], 0)
        gap = np.full(width, np.nan)
        made: NDArray[Any] = np.array(
            [gap if each is None else each for each in rows], self.datatype.dtype
        )
        return made.reshape(len(rows), width)


def describe(
    schema: sql.StructType, names: Sequence[str], sample: Mapping[str, NDArray[Any]]
) -> list[Added]:
    """Describe the columns that a model adds.

    Args:
        schema: Of what the model's `transform` gives.
        names: The columns that it adds.
        sample: What it gave for a row, which shows the widths of vectors; perhaps empty.
    """
    return [_describe(schema[name], sample.get(name)) for name in names]


def _describe(field: sql.StructField, sample: NDArray[Any] | None) -> Added:
    kind, name = field.dataType, field.name
    told = kind.simpleString()
    if isinstance(kind, VectorUDT):
        attributes = field.metadata.get("ml_attr", {}) if field.metadata else {}
        width = int(attributes.get("num_attrs") or _count(attributes.get("attrs")) or -1)
        if sample is not None and sample.dtype != object:
            width = sample.shape[1]
        return Added(name, Datatype.FP64, (width,), spark_type="vector")
    if (datatype := _NUMBERS.get(type(kind))) is not None:
        # a missing integer or truth value has no place in a tensor of those
        if field.nullable and datatype not in (Datatype.FP64, Datatype.FP32):
            datatype = Datatype.FP64
        return Added(name, datatype, spark_type=told)
    if isinstance(kind, sql.ArrayType) and type(kind.elementType) in (
        sql.DoubleType,
        sql.FloatType,
    ):
        width = sample.shape[1] if sample is not None and sample.dtype != object else -1
        return Added(name, _NUMBERS[type(kind.elementType)], (width,), spark_type=told)
    is_text = isinstance(
        kind,
        sql.StringType | sql.BinaryType | sql.DateType | sql.TimestampType | sql.DecimalType,
    )
    return Added(name, Datatype.BYTES, is_json=not is_text, spark_type=told)


def _count(attributes: object) -> int:
    """Count the attributes that Spark lists by their kinds."""
    if not isinstance(attributes, dict):
        return 0
    return sum(len(each) for each in attributes.values())


class Answers:
    """The outputs of a model: which there are, which answer by default, and their other names.

    Args:
        added: The columns that the model adds, in its order.
        stage: What the model's folder tells.
        default: Columns that answer a request which names none; empty takes the prediction, or
            what the last stage makes.
        is_mlserver: The prediction answers as `predict`, FP32 [rows, 1].

    Raises:
        ModelLoadError: A default column is none that the model adds.
    """

    def __init__(
        self, added: Sequence[Added], stage: Stage, default: Sequence[str], *, is_mlserver: bool
    ) -> None:
        self._added = {each.name: each for each in added}
        unknown = [each for each in default if each not in self._added]
        if unknown:
            raise ModelLoadError(
                f"'parameters.extra.outputs' names '{unknown[0]}'; the model adds "
                f"{', '.join(repr(each) for each in self._added)}"
            )
        roles = _roles(stage, self._added)
        prediction = roles.get("predictionCol", "")
        self._default = list(default) or _choose(stage, self._added, prediction)
        #: Name that a request may give -> column.
        self._columns = {name: name for name in self._added}
        self._aliases: dict[str, str] = {}
        for role, column in roles.items():
            for alias in _ALIASES[role]:
                if alias not in self._columns:
                    self._columns[alias] = self._aliases[alias] = column
        self._is_mlserver = is_mlserver and self._aliases.get("predict") == prediction != ""
        if self._is_mlserver and not default:
            self._default = ["predict"]

    @property
    def default(self) -> list[str]:
        """The outputs that answer a request which names none."""
        return list(self._default)

    @property
    def columns(self) -> list[str]:
        """The columns that a request may ask for."""
        return list(self._added)

    def metadata(self) -> list[TensorMetadata]:
        """Say which tensors there are: the default ones, then those on request, then aliases."""
        told = []
        others = [each for each in self._added if each not in self._default]
        aliases = [each for each in self._aliases if each not in self._default]
        for name in [*self._default, *others, *aliases]:
            parameters: dict[str, Parameter] = {}
            if name not in self._default:
                parameters["on_request"] = True
            if name in self._aliases:
                parameters["alias_of"] = self._aliases[name]
            each = self._added[self._columns[name]]
            if self._is_cast(name):
                told.append(TensorMetadata(name, Datatype.FP32, [-1, 1], parameters))
            else:
                told.append(each.metadata(name, parameters))
        return told

    def wanted(self, request: InferRequest) -> list[str]:
        """Name the outputs that a request asks for.

        Raises:
            InvalidRequestError: One is none that there is.
        """
        if not request.outputs:
            return self._default
        for place, each in enumerate(request.outputs):
            if each.name not in self._columns:
                raise InvalidRequestError(
                    f"outputs[{place}].name",
                    expected=f"one of {', '.join(sorted(self._columns))}",
                    found=f"'{each.name}'",
                )
        return [each.name for each in request.outputs]

    def columns_of(self, names: Sequence[str]) -> list[str]:
        """Name the columns that outputs are made of, each once."""
        return list(dict.fromkeys(self._columns[each] for each in names))

    def response(self, names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> InferResponse:
        """Make an answer of columns."""
        tensors = []
        for name in names:
            column = self._columns[name]
            tensor = self._added[column].tensor(name, arrays[column])
            if self._is_cast(name):
                with np.errstate(over="ignore"):
                    cast = tensor.array.reshape(-1, 1).astype(np.float32)
                tensor = Tensor.from_array(name, cast)
            tensors.append(tensor)
        return InferResponse(tensors)

    def empty(self, names: Sequence[str]) -> InferResponse:
        """Make the answer to no rows."""
        arrays = {}
        for name in names:
            each = self._added[self._columns[name]]
            sizes = [max(size, 0) for size in each.shape]
            arrays[each.name] = np.empty([0, *sizes], each.datatype.dtype)
        return self.response(names, arrays)

    def _is_cast(self, name: str) -> bool:
        return (
            self._is_mlserver
            and name == "predict"
            and self._added[self._columns[name]].datatype is not Datatype.BYTES
            and not self._added[self._columns[name]].shape
        )


def _roles(stage: Stage, added: Mapping[str, object]) -> dict[str, str]:
    """Find the columns that the last predictor adds, by the parameter that names each."""
    for each in reversed(list(stage.walk())):
        found = {
            role: column
            for role in _ALIASES
            if isinstance(column := each.params.get(role), str) and column in added
        }
        if found:
            return found
    return {}


def _choose(stage: Stage, added: Mapping[str, object], prediction: str) -> list[str]:
    if prediction:
        return [prediction]
    for each in reversed([stage, *stage.walk()]):
        if made := [name for name in makes(each) if name in added]:
            return made
    return list(added)[-1:]


# ---- values ----


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    made = np.empty(len(values), object)
    made[:] = [each if isinstance(each, str | bytes) else str(each) for each in values.tolist()]
    return made


def _json(name: str, values: NDArray[Any]) -> Tensor:
    made = np.empty(len(values), object)
    made[:] = [msgspec.json.encode(_plain(each)) for each in values.tolist()]
    return Tensor.from_array(name, made, parameters={"content_type": "pd_json"})


def _plain(value: object) -> object:
    """Make what JSON holds of what Spark gives."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, decimal.Decimal | datetime.date):
        return str(value)
    if hasattr(value, "asDict"):
        return {key: _plain(each) for key, each in value.asDict().items()}
    if hasattr(value, "toArray"):
        return _plain(value.toArray())
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
