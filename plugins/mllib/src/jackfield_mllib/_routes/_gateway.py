"""Run a model's own plan in the JVM without a job: one call of the gateway for a batch.

What `transform` builds is nearly always a chain of projections (and filters) over the rows that it
is given, and Spark compiles each to a function of one row. A query spends its time on everything
else: analysis, optimisation, a job, its tasks. So the plan of a table without rows is taken once,
when the model loads, and rows are passed through its projections, which compute what they compute
in a job.
"""

from __future__ import annotations

import re
import threading
import uuid
from importlib import resources
from typing import TYPE_CHECKING, Any

from pyspark.ml.clustering import LDAModel
from pyspark.ml.feature import SQLTransformer
from pyspark.sql import DataFrame

from jackfield import InvalidRequestError
from jackfield_mllib._routes._memory import Memory, kind_of
from jackfield_mllib._routes._stages import stages_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pyspark.ml import Transformer
    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructType

    from jackfield_mllib._routes._route import Arrays, Route

#: Most sets of wanted columns that are kept compiled.
_MOST = 16
#: Characters of what Spark has against a row.
_LONGEST = 500
#: Functions of a query, not of a row: of its moment, its chance, its parts.
_OF_QUERY = re.compile(
    r"\b(?:current_\w+|curdate|now|localtimestamp|unix_timestamp|rand\w*|uuid|shuffle|"
    r"monotonically_increasing_id|spark_partition_id|input_file_\w+)\b",
    re.IGNORECASE,
)


class NoPlanError(Exception):
    """The model can't take this route; the text says why."""


class Gateway:
    """The model's plan, compiled.

    Args:
        session: A classic one.
        model: A fitted one.
        schema: Of the rows.
        others: Takes requests for columns of types that are not carried here: structures, times.

    Raises:
        NoPlanError: The model's plan is more than projections and filters, or it takes a column of
            such a type.
    """

    name = "gateway"

    def __init__(
        self, session: SparkSession, model: Transformer, schema: StructType, others: Route
    ) -> None:
        _check(model)
        self._session = session
        self._others = others
        self._names = schema.names
        self._inputs = ""
        for field in schema.fields:
            if not (kind := kind_of(field.dataType)):
                told = field.dataType.simpleString()
                raise NoPlanError(f"the column '{field.name}' is of the type {told}")
            self._inputs += kind
        jvm: Any = session._jvm
        spark: Any = session._jsparkSession
        context: Any = session._jsc
        empty = spark.createDataFrame(context.emptyRDD(), spark.parseDataType(schema.json()))
        self._frame = model.transform(DataFrame(empty, session))
        kinds = {each.name: kind_of(each.dataType) for each in self._frame.schema.fields}
        self._kinds = {name: kind for name, kind in kinds.items() if kind}
        self._class = _compile(jvm)
        self._compiled: dict[tuple[str, ...], _Compiled] = {}
        # a fitted model may keep what it computes with (a neural network does)
        self._lock = threading.Lock()

    def __call__(self, columns: Arrays, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Route`."""
        names = tuple(wanted)
        compiled = self._compiled.get(names)
        if compiled is None:
            if not self._kinds.keys() >= set(names):
                return self._others(columns, wanted)
            try:
                compiled = self.prepare(names)
            except NoPlanError:
                return self._others(columns, wanted)
        arrays = [columns[name] for name in self._names]
        with self._lock:
            return dict(zip(names, compiled(arrays), strict=True))

    def carried(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Leave those columns out that the other route takes."""
        return tuple(name for name in wanted if name in self._kinds)

    def prepare(self, wanted: tuple[str, ...]) -> _Compiled:
        """Compile what computes these columns: it takes some 100 ms.

        Raises:
            NoPlanError: See above.
        """
        frame = self._frame.select(*(f"`{name.replace('`', '``')}`" for name in wanted))
        steps = _steps(self._session, frame)
        outputs = "".join(self._kinds[name] for name in wanted)
        rows = _construct(self._session, self._class, steps, self._inputs, outputs)
        compiled = _Compiled(rows, self._inputs, outputs)
        with self._lock:
            if len(self._compiled) >= _MOST:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[wanted] = compiled
        return compiled


class _Compiled:
    """Computes one set of columns; one call at a time."""

    def __init__(self, rows: Any, inputs: str, outputs: str) -> None:  # noqa: ANN401  Java's object
        self._rows = rows
        self._memory = Memory(rows.map, inputs, outputs)

    def __call__(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        memory, rows = self._memory, len(arrays[0])
        end = memory.write(arrays)
        size = self._rows.compute(rows, end)
        if size < 0:
            raise _refused(-1 - size, self._rows.problem())
        if end + size > memory.room:
            memory.make_room(end + size)
            self._rows.write(end)
        found = memory.read(end, rows)
        memory.trim()
        return found


def _refused(row: int, problem: str) -> InvalidRequestError:
    if not problem:
        found = f"row {row}, which it drops (a stage of it skips invalid values)"
        return InvalidRequestError("inputs", expected="rows that the model keeps", found=found)
    text = " ".join(problem.split())[:_LONGEST]
    return InvalidRequestError(
        "inputs", expected="rows that the model takes", found=f"row {row}: {text}"
    )


def _check(model: Transformer) -> None:
    for stage in stages_of(model):
        if isinstance(stage, LDAModel):
            # of rows that are no counts it may not end, and nothing ends a call of the gateway
            raise NoPlanError("the inference of its topics need not end")
        if not isinstance(stage, SQLTransformer):
            continue
        if found := _OF_QUERY.search(stage.getStatement() or ""):
            raise NoPlanError(f"a stage calls '{found[0]}', which is not about a row")


def _steps(session: SparkSession, frame: DataFrame) -> list[Any]:
    """Compile the plan's projections and filters, the first one first.

    Raises:
        NoPlanError: It is more than those.
    """
    jvm: Any = session._jvm
    expressions = jvm.org.apache.spark.sql.catalyst.expressions
    plan: Any = frame._jdf.queryExecution().optimizedPlan()
    steps = []
    while (kind := plan.getClass().getSimpleName()) in ("Project", "Filter"):
        given = plan.child().output()
        if kind == "Project":
            steps.append(expressions.UnsafeProjection.create(plan.projectList(), given))
        else:
            steps.append(expressions.Predicate.create(plan.condition(), given))
        plan = plan.child()
    if kind != "LogicalRDD":
        raise NoPlanError(f"its plan is more than projections and filters: {kind}")
    if not steps:
        raise NoPlanError("its plan is empty")
    return steps[::-1]


def _compile(jvm: Any) -> Any:  # noqa: ANN401  Java's objects
    source = resources.files(__package__).joinpath("Rows.java").read_text("utf-8")
    # another name each time: py4j knows methods by their class's name, and takes those of the first
    name = f"Rows{uuid.uuid4().hex}"
    compiler = jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(jvm.java.lang.Thread.currentThread().getContextClassLoader())
    compiler.cook(re.sub(r"\bRows\b", name, source))
    return compiler.getClassLoader().loadClass(f"jackfield.{name}")


def _construct(
    session: SparkSession,
    class_: Any,  # noqa: ANN401  Java's object
    steps: Sequence[Any],
    inputs: str,
    outputs: str,
) -> Any:  # noqa: ANN401
    gateway: Any = session._sc._gateway
    object_: Any = gateway.jvm.java.lang.Object
    projections = gateway.new_array(object_, len(steps))
    for place, step in enumerate(steps):
        projections[place] = step
    arguments = gateway.new_array(object_, 3)
    for place, argument in enumerate((projections, inputs, outputs)):
        arguments[place] = argument
    return class_.getConstructors()[0].newInstance(arguments)
