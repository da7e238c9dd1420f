"""The general route: rows become a DataFrame through Arrow, pass `transform`, and come back.

Every model can take it, in this process's JVM, on a cluster and over Spark Connect.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions
from pyspark.sql import types as sql
from pyspark.sql.pandas.types import to_arrow_type

from jackfield import InvalidRequestError
from jackfield_mllib._artifact import first_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from pyspark.ml import Transformer
    from pyspark.sql import DataFrame, SparkSession

#: Column by which the rows get back into their order.
ROW: Final = "_jackfield_row"
#: Classes of errors that a row causes, not the machine.
_OF_ROWS: Final = frozenset(
    [
        "SparkException",
        "SparkIllegalArgumentException",
        "SparkRuntimeException",
        "SparkArithmeticException",
        "SparkNumberFormatException",
        "SparkDateTimeException",
        "SparkArrayIndexOutOfBoundsException",
        "SparkNoSuchElementException",
        "DateTimeException",
        "IllegalArgumentException",
        "NoSuchElementException",
        "NumberFormatException",
        "ArithmeticException",
        "ArrayIndexOutOfBoundsException",
        "IndexOutOfBoundsException",
        "MatchError",
        "RuntimeException",
    ]
)
_CAUSE: Final = re.compile(r"Caused by: [\w.$]+: (.+)")
#: How the reason ends that Spark Connect tells of a function: the state of the whole.
_STATE: Final = re.compile(r"\.? SQLSTATE: \w+$")
_IN_A_FUNCTION: Final = ("FAILED_EXECUTE_UDF", "Failed to execute user defined function")


class FrameRoute:
    """Runs one Spark job for a request.

    Args:
        session: A classic one, or of Spark Connect.
        model: A fitted transformer.
        schema: The columns that it takes.
    """

    name = "dataframe"

    def __init__(self, session: SparkSession, model: Transformer, schema: sql.StructType) -> None:
        self._session = session
        self._model = model
        self._fields = list(schema)
        #: Types of the columns of Arrow's table: a vector travels as an array.
        self._arrow = [
            pa.list_(pa.float64())
            if isinstance(each.dataType, VectorUDT)
            else to_arrow_type(each.dataType)
            for each in self._fields
        ]
        self._columns = [
            array_to_vector(functions.col(_quoted(each.name))).alias(
                each.name, metadata=each.metadata or {}
            )
            if isinstance(each.dataType, VectorUDT)
            else functions.col(_quoted(each.name))
            for each in self._fields
        ]
        #: Spark Connect does not find it by itself where there are no rows.
        self._sent = sql.StructType(
            [
                sql.StructField(each.name, sql.ArrayType(sql.DoubleType()))
                if isinstance(each.dataType, VectorUDT)
                else sql.StructField(each.name, each.dataType)
                for each in self._fields
            ]
        ).add(ROW, sql.LongType())
        self._has_vectors = any(isinstance(each.dataType, VectorUDT) for each in self._fields)
        empty = {each.name: np.empty(0, object) for each in self._fields}
        #: What `transform` gives.
        self.schema = model.transform(self._frame(empty)).schema
        self._has_row = ROW in self.schema.names

    @property
    def added(self) -> list[str]:
        """The columns that the model adds, in its order."""
        taken = {ROW, *(each.name for each in self._fields)}
        return [name for name in self.schema.names if name not in taken]

    def __call__(
        self, columns: Mapping[str, NDArray[Any]], wanted: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Compute columns.

        Args:
            columns: All columns that the model takes, of equal length.
            wanted: Columns that it adds.

        Returns:
            For each an array with the rows first, in the order of the rows given.

        Raises:
            InvalidRequestError: Spark refuses a row, or drops one.
        """
        rows = len(next(iter(columns.values())))
        picked = list(dict.fromkeys(wanted))
        names = [*picked, ROW] if self._has_row else picked
        frame = self._model.transform(self._frame(columns))
        try:
            table = frame.select(*(_quoted(each) for each in names)).toArrow()
        except Exception as error:
            if (reason := refusal(error)) is None:
                raise
            raise InvalidRequestError(
                "inputs", expected="rows that the model takes", found=reason
            ) from error
        order = None
        if self._has_row:
            ids = table.column(ROW).to_numpy()
            _check_rows(ids, rows)
            if not (ids[:-1] < ids[1:]).all():
                order = np.argsort(ids)
        elif table.num_rows != rows:
            raise _dropped(rows - table.num_rows, "")
        found = {}
        for name in picked:
            array = _array(table.column(name), self.schema[name].dataType)
            found[name] = array if order is None else array[order]
        return found

    def _frame(self, columns: Mapping[str, NDArray[Any]]) -> DataFrame:
        arrays = [
            _arrow_array(columns[each.name], kind)
            for each, kind in zip(self._fields, self._arrow, strict=True)
        ]
        names = [each.name for each in self._fields]
        count = len(arrays[0]) if arrays else 0
        table = pa.table([*arrays, pa.array(np.arange(count))], [*names, ROW])
        frame = self._session.createDataFrame(table, self._sent)
        return frame.select(*self._columns, ROW) if self._has_vectors else frame


def refusal(error: BaseException) -> str | None:
    """Say why Spark refuses a row, in its words; None if an error has another reason."""
    java = getattr(error, "java_exception", None)
    if java is None:
        text = str(error)
        if any(each in text for each in _IN_A_FUNCTION):  # as Spark Connect tells it
            _, _, cause = text.partition("failed due to: ")
            return _STATE.sub("", first_line(Exception(cause or text)))
        name = type(error).__name__
        return first_line(error) if name in _OF_ROWS and name != "SparkException" else None
    is_in_function = False
    kind: str = ""
    message: str = ""
    while java is not None:
        kind, message = java.getClass().getSimpleName(), java.getMessage() or ""
        is_in_function |= any(each in message for each in _IN_A_FUNCTION)
        java = java.getCause()
    if kind not in _OF_ROWS or (not is_in_function and kind == "SparkException"):
        return None
    # a task on another machine tells its causes as text
    if causes := _CAUSE.findall(message):
        message = causes[-1]
    return message.strip().splitlines()[0] if message.strip() else kind


def _check_rows(ids: NDArray[np.int64], rows: int) -> None:
    if len(ids) == rows:
        return
    if len(ids) > rows:
        raise _dropped(rows - len(ids), "")
    missing = np.setdiff1d(np.arange(rows), ids)
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise _dropped(len(missing), f"row {missing[0]}{more}, ")


def _dropped(count: int, which: str) -> InvalidRequestError:
    if count < 0:
        return InvalidRequestError(
            "inputs", expected="an answer for each row", found=f"{-count} more of them"
        )
    return InvalidRequestError(
        "inputs",
        expected="rows that the model keeps",
        found=f"{which or f'{count} rows, '}which it drops (a stage of it skips invalid values)",
    )


def _quoted(name: str) -> str:
    """Write a column's name so that a dot in it is no path."""
    return f"`{name.replace('`', '``')}`"


# ---- arrays ----


def _arrow_array(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    if values.ndim == 2:
        rows, width = values.shape
        flat = pa.array(values.reshape(-1), kind.value_type)
        return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * width, flat)
    if values.dtype == object:
        return pa.array(values.tolist(), kind)
    return pa.array(values, kind)


def _array(column: pa.ChunkedArray, kind: sql.DataType) -> NDArray[Any]:
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # as of Arrow 14, if there is no chunk
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    if isinstance(kind, VectorUDT):
        return _vectors(whole)
    if pa.types.is_list(whole.type) and pa.types.is_floating(whole.type.value_type):
        return _lists(whole)
    if whole.null_count == 0 and (
        pa.types.is_integer(whole.type)
        or pa.types.is_floating(whole.type)
        or pa.types.is_boolean(whole.type)
    ):
        found: NDArray[Any] = whole.to_numpy(zero_copy_only=False)
        return found
    made = np.empty(len(whole), object)
    made[:] = whole.to_pylist()
    return made


def _vectors(array: pa.StructArray) -> NDArray[Any]:
    """Read Spark's vectors: a mark for dense (1) or sparse (0), size, indices, values."""
    values = array.field("values")
    marks = array.field("type").to_numpy(zero_copy_only=False)
    if array.null_count == 0 and (marks == 1).all():
        return _lists(values)
    rows: list[NDArray[Any] | None] = []
    for each in array.to_pylist():
        if each is None:
            rows.append(None)
        elif each["type"] == 1:
            rows.append(np.array(each["values"], np.float64))
        else:
            dense = np.zeros(each["size"])
            dense[each["indices"]] = each["values"]
            rows.append(dense)
    return _stacked(rows)


def _lists(array: pa.ListArray) -> NDArray[Any]:
    widths = np.diff(array.offsets.to_numpy())
    if array.null_count == 0 and len(widths) and (widths == widths[0]).all():
        flat = array.flatten()
        if flat.null_count == 0:
            found: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
            return found.reshape(len(array), int(widths[0]))
    return _stacked(
        [
            None if each is None else np.array(each, array.type.value_type.to_pandas_dtype())
            for each in array.to_pylist()
        ]
    )


def _stacked(rows: Sequence[NDArray[Any] | None]) -> NDArray[Any]:
    whole = [each for each in rows if each is not None]
    if rows and len(whole) == len(rows) and len({len(each) for each in whole}) == 1:
        return np.stack(whole)
    made = np.empty(len(rows), object)
    for place, each in enumerate(rows):
        made[place] = each
    return made
