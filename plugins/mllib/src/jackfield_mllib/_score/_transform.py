"""Models of Spark itself: their own `transform`, on the table's own DataFrame.

No Python runs on the executors. What the runtime reads of a request is read here by expressions of
Spark's, and a row whose cells don't fit is told apart before the model sees it. Stages that refuse
a row are told to leave it out instead (``handleInvalid``), so that it costs its own row and not the
job; which rows were left out, the rows' numbers tell.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.ml import PipelineModel
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.ml.tuning import CrossValidatorModel, TrainValidationSplitModel
from pyspark.sql import functions as F  # noqa: N812  as all of Spark's users call it
from pyspark.sql import types as sql
from pyspark.sql.pandas.types import from_arrow_type

from jackfield.score import ScoreError
from jackfield_mllib._frame import refusal
from jackfield_mllib._score._executors import Computed, kept
from jackfield_mllib._score._parts import numbered
from jackfield_mllib._score._tables import column
from jackfield_mllib._score._told import SPARKS_ERRORS, told
from jackfield_mllib._score_worker import CORRUPT, REJECT, ROW, SPLIT, carried_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from pyspark.ml import Transformer
    from pyspark.sql import Column, DataFrame

    from jackfield.score import ScoreJob, ScorePlan
    from jackfield_mllib._runtime import Loaded
    from jackfield_mllib._schema import Field
    from jackfield_mllib._score._parts import Parts
    from jackfield_mllib._score._watch import Watch

#: Column: what of the input the output has, too; stages see it as one column, which none names.
_KEPT = "__jackfield_kept"
#: Column: why a row can't be scored; null if it can.
_PROBLEM = "__jackfield_problem"
#: Stages that can leave rows out instead of failing.
_CAN_SKIP: Final = frozenset(
    ["Bucketizer", "StringIndexerModel", "VectorAssembler", "VectorIndexerModel", "VectorSizeHint"]
)
#: More known texts than these are left to the stage, which refuses the others.
_MOST_TEXTS = 1000
#: What a number can be in a file of text where there is none, and what one looks like otherwise.
_NO_NUMBER = ("", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None", "NaN", "nan", "-nan", "-NaN",
              "<NA>")  # fmt: skip
_NUMBER = r"(?i)^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity)$"
_BLANKS = " \t\r\n"
#: Most characters of a value in a reason.
_LONGEST = 60
#: Rows of which one that can be scored is looked for.
_TRIED = 20
_LEFT_OUT = "a stage of the model refuses the row, or leaves it out (handleInvalid)"
_INTEGERS: Final[Mapping[str, int]] = {"byte": 8, "short": 16, "int": 32, "long": 64}
_WHOLE = (sql.ByteType, sql.ShortType, sql.IntegerType, sql.LongType)
_REAL = (sql.FloatType, sql.DoubleType, sql.DecimalType)


class _Read(NamedTuple):
    """How an input is read."""

    value: Column
    #: Conditions and what to say; the first that holds is told.
    problems: list[tuple[Column, Column]]


class Transform:
    """How a model of Spark scores tables of one schema.

    Args:
        loaded: The model, in the session.
        plan: What it takes of the table and gives, and what it says of made-up rows.
        job: Which outputs are wanted.
        source: What a reader gives.
        sample: The first rows.

    Raises:
        ScoreError: A column is of a type that Spark can't turn into what the model takes.
    """

    def __init__(
        self, loaded: Loaded, plan: ScorePlan, job: ScoreJob, source: DataFrame, sample: pa.Table
    ) -> None:
        self._source = source
        self._plan = plan
        self._types = {each.name: each.dataType for each in source.schema.fields}
        self._is_text = CORRUPT in source.columns
        fields = loaded.inputs.fields
        known = {*(each.name for each in fields), *loaded.answers.columns}
        self._model: Transformer = _skipping(loaded.model, known)
        self._refused = _refused_gaps(plan, sample)
        inputs = {each.told.name: each.columns for each in plan.inputs}
        self._inputs = [
            (each, self._read(each, inputs[each.name])) for each in fields if each.name in inputs
        ]
        names = list(job.outputs) or loaded.answers.default
        outputs = carried_schema(plan.schema)
        kept = len(outputs) - len(names)
        self._kept = [outputs.field(place) for place in range(kept)]
        self._outputs = [
            (loaded.answers.columns_of([name])[0], outputs.field(kept + place))
            for place, name in enumerate(names)
        ]

    @contextlib.contextmanager
    def computed(self, parts: Parts, watch: Watch) -> Iterator[Computed]:
        """Give what the model makes of each row, computed once and kept on disks.

        Raises:
            ScoreError: Spark fails, or a row makes a stage fail.
        """
        with told("the model does not fit the table"):
            rows = self._checked()
            made = self._transformed(rows)
        with kept(made):
            try:
                scored = int(watch.wait_for(made.count))
            except SPARKS_ERRORS as error:
                if (reason := refusal(error)) is not None:
                    raise ScoreError(_failed(reason)) from error
                with told("Spark could not run the job"):
                    raise
            rejected = parts.rows - scored
            if rejected < 0:
                message = f"the model makes {scored} rows of {parts.rows}: they are not independent"
                raise ScoreError(message)
            with told("Spark could not find the rows that were rejected"):
                rejects = self._rejects(rows, made, rejected, watch)
            yield Computed(made.drop(ROW), rejects, rejected)

    # ---- rows ----

    def _checked(self) -> DataFrame:
        """Give all columns that are read, with each row's number and what is wrong with it."""
        names = [column(name) for name in self._plan.columns]
        problems = [each for _, read in self._inputs for each in read.problems]
        if self._is_text:
            corrupt = F.col(CORRUPT)
            names.append(corrupt)
            reason = F.lit("the line is not a row of the table")
            problems.insert(0, (corrupt.isNotNull(), reason))
        first = F.coalesce(*(F.when(when, reason) for when, reason in problems), _none())
        rows = self._source.select(*names, *numbered())
        return rows.withColumn(_PROBLEM, first)

    def _transformed(self, rows: DataFrame) -> DataFrame:
        values = [
            read.value.alias(field.name, metadata=field.spark.metadata or {})
            for field, read in self._inputs
        ]
        kept = F.struct(*(self._keep(each).alias(each.name) for each in self._kept), ROW)
        fit = rows.filter(F.col(_PROBLEM).isNull()).select(*values, kept.alias(_KEPT))
        made = self._model.transform(fit)
        if _KEPT not in made.columns:
            message = (
                "a stage of the model leaves out columns that it does not know (a SQLTransformer "
                "without '*'), so that its rows can't be told apart; --engine local can score them"
            )
            raise ScoreError(message)
        outputs = (
            _output(column(name), made.schema[name].dataType, field).alias(field.name)
            for name, field in self._outputs
        )
        back = (F.col(_KEPT).getField(each.name).alias(each.name) for each in self._kept)
        return made.select(*back, *outputs, F.col(_KEPT).getField(ROW).alias(ROW))

    def _rejects(self, rows: DataFrame, made: DataFrame, rejected: int, watch: Watch) -> DataFrame:
        """Find the rows that were not scored."""
        bad = rows.filter(F.col(_PROBLEM).isNotNull())
        if rejected and watch.wait_for(bad.count, stage="finding the rejects") != rejected:
            bad = rows.join(made.select(ROW), ROW, "left_anti")
        values = F.struct(*(self._told(name).alias(name) for name in self._plan.columns))
        reason = F.coalesce(_PROBLEM, F.lit(_LEFT_OUT)).alias("reason")
        as_text = F.to_json(F.struct(reason, values.alias("values")), {"ignoreNullFields": "false"})
        if self._is_text:
            line = F.struct(F.col(CORRUPT).alias("line"))
            corrupt = F.to_json(F.struct(reason, line.alias("values")))
            as_text = F.when(F.col(CORRUPT).isNotNull(), corrupt).otherwise(as_text)
        return bad.select(SPLIT, ROW, as_text.alias(REJECT))

    def _told(self, name: str) -> Column:
        """Give a column in a form that JSON has: NaN is no value there."""
        kind = self._types[name]
        if isinstance(kind, VectorUDT):
            return vector_to_array(column(name))
        is_real = isinstance(kind, sql.FloatType | sql.DoubleType)
        return F.nanvl(column(name), _none(kind.simpleString())) if is_real else column(name)

    def _keep(self, field: pa.Field) -> Column:
        """Give a kept column; in a file of text those that the model takes have its types."""
        if not self._is_text or pa.types.is_string(field.type):
            return column(field.name)
        if pa.types.is_boolean(field.type):
            return _truth_of(field.name)[0]
        number = _number_of(field.name)[0]
        kind = from_arrow_type(field.type)
        return F.coalesce(_trimmed(field.name).try_cast(kind), number.try_cast(kind))

    # ---- inputs ----

    def _read(self, field: Field, columns: Sequence[str]) -> _Read:
        if field.type == "vector" or field.is_vector:
            return self._read_vector(field, columns)
        (name,) = columns
        kind = self._types[name]
        if field.type == "array<string>":
            if not isinstance(kind, sql.ArrayType):
                raise self._misfit(field, name, "lists of texts")
            read = _Read(column(name).cast("array<string>"), [])
        elif field.type == "string":
            if isinstance(kind, sql.TimestampType | sql.TimestampNTZType):
                raise self._misfit(field, name, "text")
            read = _Read(column(name).cast("string"), [])
        elif field.type == "boolean":
            read = self._read_truth(name, kind)
        else:
            read = self._read_number(field.type, name, kind)
        gaps = []
        if name in self._refused:
            gaps.append((read.value.isNull(), F.lit(self._refused[name])))
        if field.is_closed and len(field.categories) <= _MOST_TEXTS:
            reason = F.concat(
                F.lit(
                    f"column '{name}': expected a value that the model was trained with, found '"
                ),
                F.substring(read.value.cast("string"), 1, _LONGEST),
                F.lit("'"),
            )
            gaps.append((~read.value.isin(*field.categories), reason))
        return read._replace(problems=[*read.problems, *gaps])

    def _read_truth(self, name: str, kind: sql.DataType) -> _Read:
        if self._is_text:
            value, is_wrong = _truth_of(name)
        else:
            value = column(name).cast("boolean")
            is_number = not isinstance(kind, sql.BooleanType)
            is_wrong = ~column(name).isin(0, 1) if is_number else F.lit(False)  # noqa: FBT003
        return _Read(value, [(is_wrong, _said(name, "true or false"))])

    def _read_number(self, wanted: str, name: str, kind: sql.DataType) -> _Read:
        problems = []
        if self._is_text:
            number, is_wrong = _number_of(name)
            problems.append((is_wrong, _said(name, "a number")))
            exact = F.coalesce(_trimmed(name).try_cast("long"), number.try_cast("long"))
            is_real = True
        else:
            is_real = isinstance(kind, _REAL)
            number = column(name).cast("double") if is_real else column(name)
            number = F.nanvl(number, _none("double")) if is_real else number
            exact = column(name).try_cast("long")
        if wanted in _INTEGERS:
            bits = _INTEGERS[wanted] - 1
            is_wrong = F.lit(False)  # noqa: FBT003
            if is_real:
                is_wrong = (number != F.floor(number)) | ~(
                    (number >= float(-(2**bits))) & (number < float(2**bits))
                )
            elif isinstance(kind, _WHOLE) and wanted != "long":
                is_wrong = ~number.between(-(2**bits), 2**bits - 1)
            expected = f"a whole number that {_datatype(wanted)} can hold"
            problems.append((is_wrong, _said(name, expected)))
            number = F.when(number.isNotNull(), exact)
        elif wanted == "float" and is_real:
            is_wrong = F.abs(number.cast("float")) == float("inf")
            is_wrong &= F.abs(number) != float("inf")
            problems.append((is_wrong, _said(name, "a number that FP32 can hold")))
        return _Read(number.try_cast(_SPARKS.get(wanted, wanted)), problems)

    def _read_vector(self, field: Field, columns: Sequence[str]) -> _Read:
        name, element = columns[0], field.spark.dataType
        kind = self._types[name]
        if isinstance(kind, VectorUDT) and len(columns) == 1:
            parts = F.unwrap_udt(column(name))
            size = F.coalesce(parts.getField("size"), F.size(parts.getField("values")))
            value: Column = column(name)
            if not isinstance(element, VectorUDT):
                value = vector_to_array(value).cast(element)
            return _Read(value, _vector_problems(field, name, size))
        if isinstance(kind, sql.ArrayType) and len(columns) == 1:
            cells = column(name)
            value = F.transform(cells, _filled)
            problems = _vector_problems(field, name, F.size(cells))
        else:
            problems, numbers = [], []
            for each in columns:
                read = self._read_number("double", each, self._types[each])
                numbers.append(_filled(read.value))
                problems += read.problems
                if each in self._refused:
                    problems.append((read.value.isNull(), F.lit(self._refused[each])))
            value = F.array(*numbers)
        if isinstance(element, VectorUDT):
            return _Read(array_to_vector(value), problems)
        return _Read(value.try_cast(element), problems)

    def _misfit(self, field: Field, name: str, expected: str) -> ScoreError:
        kind = self._types[name].simpleString()
        return ScoreError(
            f"the model's input '{field.name}' takes {field.type}, which the column '{name}' of "
            f"type {kind} does not fit: expected {expected}"
        )


# ---- the model ----


def _skipping(model: Any, columns: AbstractSet[str]) -> Any:  # noqa: ANN401  stages have no class in common
    """Give a model whose stages leave rows out that they would fail at.

    Args:
        model: Stays as it is.
        columns: All that it reads and adds.
    """
    if isinstance(model, CrossValidatorModel | TrainValidationSplitModel):
        return _skipping(model.bestModel, columns)
    if isinstance(model, PipelineModel):
        return PipelineModel([_skipping(each, columns) for each in model.stages])
    if type(model).__name__ not in _CAN_SKIP or model.getOrDefault("handleInvalid") != "error":
        return model
    # an indexer of labels, which are not there, fails where it should leave out those that miss
    params = ("inputCol", "inputCols")
    named = [
        model.getOrDefault(each)
        for each in params
        if model.hasParam(each) and model.isDefined(each)
    ]
    if any(not columns >= {*([each] if isinstance(each, str) else each)} for each in named):
        return model
    copied = model.copy()
    copied.set(copied.getParam("handleInvalid"), "skip")
    return copied


def _refused_gaps(plan: ScorePlan, sample: pa.Table) -> dict[str, str]:
    """Find the columns in which a row needs a value, and what is said if it has none.

    Of a row that can be scored, as many copies are tried as there are columns, each without one of
    its values.
    """
    names = list(dict.fromkeys(name for each in plan.inputs for name in each.columns))
    rows = sample.slice(0, _TRIED).combine_chunks().to_batches()
    good = _first_good(plan, rows[0]) if rows else None
    if good is None:
        return {
            name: f"column '{name}' has no value, and needs one"
            for each in plan.inputs
            if each.told.parameters.get("nullable") is False
            for name in each.columns
        }
    whole = good.select(list(plan.columns))
    columns = []
    for field, cells in zip(whole.schema, whole.columns, strict=True):
        values = cells.to_pylist() * len(names)
        if field.name in names:
            values[names.index(field.name)] = None
        columns.append(pa.array(values, field.type))
    probe = pa.RecordBatch.from_arrays(columns, schema=whole.schema)
    return {names[row]: reason for row, reason, _ in plan.score(probe).rejects}


def _first_good(plan: ScorePlan, rows: pa.RecordBatch) -> pa.RecordBatch | None:
    bad = {each.row for each in plan.score(rows).rejects}
    return next((rows.slice(row, 1) for row in range(len(rows)) if row not in bad), None)


def _failed(reason: str) -> str:
    return (
        f"a row makes a stage of the model fail, and Spark does not tell which it is: {reason}; "
        "give the stage a 'handleInvalid' that takes such rows, or leave them out of the table, or "
        "take --engine local, which finds them and rejects them alone"
    )


# ---- expressions ----

_SPARKS: Final = {"byte": "tinyint", "short": "smallint", "long": "bigint"}


def _datatype(kind: str) -> str:
    return f"INT{_INTEGERS[kind]}"


def _none(kind: str = "string") -> Column:
    return F.lit(None).cast(kind)


def _said(name: str, expected: str) -> Column:
    found = F.substring(column(name).cast("string"), 1, _LONGEST)
    return F.concat(F.lit(f"column '{name}': expected {expected}, found '"), found, F.lit("'"))


def _filled(number: Column) -> Column:
    """Make a number of a vector: NaN where there is none."""
    return F.coalesce(number.cast("double"), F.lit(float("nan")))


def _vector_problems(field: Field, name: str, size: Column) -> list[tuple[Column, Column]]:
    is_missing = F.lit(f"column '{name}' has no value, and needs one")
    problems = [(column(name).isNull(), is_missing)]
    if field.width:
        text = F.lit(f"column '{name}': expected {field.width} numbers, found ")
        problems.append((size != field.width, F.concat(text, size.cast("string"))))
    return problems


def _trimmed(name: str) -> Column:
    text = F.btrim(column(name), F.lit(_BLANKS))
    return F.when(~text.isin(*_NO_NUMBER), text)


def _number_of(name: str) -> tuple[Column, Column]:
    """Read the number that is written in a column of text; and tell whether it is none."""
    text = _trimmed(name)
    is_number = text.rlike(_NUMBER)
    return F.when(is_number, text.try_cast("double")), ~is_number


def _truth_of(name: str) -> tuple[Column, Column]:
    text = F.lower(_trimmed(name))
    value = F.when(text.isin("true", "1"), True).when(text.isin("false", "0"), False)  # noqa: FBT003
    return value, ~text.isin("true", "1", "false", "0")


def _output(made: Column, kind: sql.DataType, field: pa.Field) -> Column:
    """Make of a column that a model adds what the runtime answers."""
    wanted = from_arrow_type(field.type)
    is_list = isinstance(wanted, sql.ArrayType)
    if isinstance(kind, VectorUDT):
        made, kind = vector_to_array(made), sql.ArrayType(sql.DoubleType())
    if isinstance(kind, sql.ArrayType) and not is_list and wanted != sql.StringType():
        made = F.get(made, F.lit(0))
    if isinstance(wanted, sql.FloatType | sql.DoubleType):
        return F.coalesce(made.cast(wanted), F.lit(np.nan).cast(wanted))
    if wanted == sql.StringType() and isinstance(
        kind, sql.ArrayType | sql.MapType | sql.StructType
    ):
        return F.to_json(made, {"ignoreNullFields": "false"})
    return made.cast(wanted)
