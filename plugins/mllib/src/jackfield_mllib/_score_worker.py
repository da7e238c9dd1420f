"""What runs on Spark's executors: a job's model, loaded once in each Python worker.

Spark keeps its Python workers and gives them one task after the other, so the model is kept here
between tasks. Sent by `_score._executors`; needs pyarrow, no Spark session.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import pickle
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from jackfield.score import Cells, Rejected, ScoreError, ScoreJob, Scorer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

__all__ = [
    "CORRUPT",
    "FIELDS",
    "MARK",
    "REJECT",
    "ROW",
    "SPLIT",
    "Work",
    "carried_schema",
    "find_differences",
    "pack",
    "score_batches",
]

#: Before the text of an error that is told as it is; a JSON string follows.
MARK = "jackfield score: "
#: Column of what is read: a number for the file and the part of it that a row comes from.
SPLIT = "__jackfield_split"
#: Column of what is read: the row's number in its task.
ROW = "__jackfield_row"
#: Column of what is made: ``{"reason": …, "values": {…}}``; null for a row that was scored.
REJECT = "__jackfield_reject"
#: Columns behind those of what is scored: which row a reject is, and what is told of it.
FIELDS = (
    pa.field(SPLIT, pa.int64()),
    pa.field(ROW, pa.int64()),
    pa.field(REJECT, pa.string()),
)
#: Column of what is read: the text of a line that is no row.
CORRUPT = "__jackfield_corrupt"
#: A batch of so many rows none of which could be scored is not bad luck.
_SUSPICIOUS = 100


class Work(msgspec.Struct, frozen=True):
    """What each worker is sent."""

    job: ScoreJob
    #: Serialized Arrow schema of the table.
    table: bytes
    #: Arrow stream of its first rows.
    sample: bytes
    #: What batches hold, and whether text that comes out stays text, see `Scorer.plan`.
    cells: Cells
    keeps_text: bool
    #: Serialized Arrow schema of what is scored, as Spark carries it.
    schema: bytes
    #: Name of the archive that holds the model; empty where `job.model` is there on all machines.
    shipped: str = ""
    #: The model within the archive.
    member: str = ""
    #: Distribution -> version, as where the job was started.
    versions: Mapping[str, str] = {}


def pack(work: Work) -> bytes:
    """Make bytes of it: they can be unpickled where this module may be missing."""
    return pickle.dumps(work)


def score_batches(payload: bytes, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Score the batches of one task.

    Args:
        payload: What `pack` made.
        batches: The columns that the plan reads, `SPLIT`, `ROW`, and perhaps `CORRUPT`.

    Yields:
        The schema of the work and `FIELDS`, which are null for a row that was scored. Each row is
        in exactly one of the batches, in no fixed order.

    Raises:
        RuntimeError: Its text has `MARK` and what to tell.
    """
    try:
        held = _open(payload)
        rejected = 0
        for batch in batches:
            scored, rejects = held.score(batch, rejected)
            rejected += rejects.num_rows if rejects is not None else 0
            yield from (each for each in (scored, rejects) if each is not None)
    # the seam to Spark, which takes every exception for a failed task, and prints it in its way
    except Exception as error:
        text = str(error) if isinstance(error, ScoreError) else f"{type(error).__name__}: {error}"
        message = MARK + msgspec.json.encode(f"{text} (on '{platform.node()}')").decode()
        raise RuntimeError(message) from error


def find_differences(versions: Mapping[str, str]) -> list[str]:
    """Compare distributions here with those where the job was started.

    A plugin that is not installed here is no difference: the model may be another's.
    """
    found = []
    for name, version in versions.items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if here != version:
            found.append(f"{name} is {here}, and {version} where the job was started")
    return found


def carried_schema(schema: pa.Schema) -> pa.Schema:
    """Say in which types Spark carries the columns: it has no unsigned numbers, nor float16."""
    return pa.schema([pa.field(each.name, _carried(each.type)) for each in schema])


def _carried(kind: pa.DataType) -> pa.DataType:
    if (wider := _WIDER.get(kind)) is not None:
        return wider
    if pa.types.is_dictionary(kind):
        return _carried(kind.value_type)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_carried(kind.value_type))
    return kind


_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.large_string(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.null(): pa.string(),
}


# one at a time: a worker serves one job after the other, and a model may be large
@functools.lru_cache(maxsize=1)
def _open(payload: bytes) -> _Held:
    return _Held(pickle.loads(payload))


class _Held:
    """A job's model in this worker, and how tables are scored by it."""

    def __init__(self, work: Work) -> None:
        if differences := find_differences(work.versions):
            raise ScoreError("; ".join(differences))
        self._max_rejects = work.job.max_rejects
        self._schema = pa.ipc.read_schema(pa.py_buffer(work.schema))
        sample = pa.ipc.open_stream(work.sample).read_all()
        self._plan = Scorer(_at_home(work)).plan(
            pa.ipc.read_schema(pa.py_buffer(work.table)),
            next(iter(sample.combine_chunks().to_batches()), None),
            cells=work.cells,
            keeps_text=work.keeps_text,
        )
        planned = carried_schema(self._plan.schema)
        if not planned.equals(self._schema):
            message = (
                f"the model gives other columns than where the job was started: "
                f"{_tell(planned)}, and there {_tell(self._schema)}"
            )
            raise ScoreError(message)

    def score(
        self, batch: pa.RecordBatch, rejected: int
    ) -> tuple[pa.RecordBatch | None, pa.RecordBatch | None]:
        """Score a batch; give what was scored, and what was rejected.

        Args:
            batch: As in `score_batches`.
            rejected: Rows that the task has rejected before.
        """
        table, rows = batch.drop_columns([SPLIT, ROW]), None
        rejects: list[Rejected] = []
        if CORRUPT in table.schema.names:
            table = table.drop_columns([CORRUPT])
            table, rows, rejects = _set_apart(table, batch.column(CORRUPT))
        made = None
        if table.num_rows:
            scored = self._plan.score(table)
            rejects += [
                each if rows is None else each._replace(row=int(rows[each.row]))
                for each in scored.rejects
            ]
            made = self._carry(scored.batch) if scored.batch.num_rows else None
        if not rejects:
            return made, None
        self._suspect(batch.num_rows, rejects, rejected + len(rejects))
        return made, self._tell(rejects, batch)

    def _suspect(self, rows: int, rejects: list[Rejected], rejected: int) -> None:
        """End a run whose model or table is wrong as a whole, as the local engine does."""
        if rows < _SUSPICIOUS or len(rejects) < rows or rejected <= self._max_rejects:
            return
        first = min(rejects, key=lambda each: each.row)
        message = (
            f"none of {rows} rows in a batch could be scored; the first: {first.reason}; "
            "a larger --max-rejects lets the run go on"
        )
        raise ScoreError(message)

    def _carry(self, scored: pa.RecordBatch) -> pa.RecordBatch:
        columns = [
            column if column.type == field.type else column.cast(field.type)
            for column, field in zip(scored.columns, self._schema, strict=True)
        ]
        columns += [pa.nulls(scored.num_rows, each.type) for each in FIELDS]
        return self._batch(columns)

    def _tell(self, rejects: list[Rejected], batch: pa.RecordBatch) -> pa.RecordBatch:
        """Tell of rows that a batch has."""
        texts = [
            msgspec.json.encode({"reason": reason, "values": values}).decode()
            for _, reason, values in rejects
        ]
        rows = pa.array([each.row for each in rejects], pa.int64())
        columns = [pa.nulls(len(rejects), field.type) for field in self._schema]
        columns += [batch.column(each).take(rows) for each in (SPLIT, ROW)]
        return self._batch([*columns, pa.array(texts, pa.string())])

    def _batch(self, columns: list[pa.Array]) -> pa.RecordBatch:
        schema = pa.schema([*self._schema, *FIELDS])
        return pa.RecordBatch.from_arrays(columns, schema=schema)


def _set_apart(
    table: pa.RecordBatch, corrupt: pa.Array
) -> tuple[pa.RecordBatch, NDArray[Any] | None, list[Rejected]]:
    """Take the lines that are no rows out of a batch."""
    if corrupt.null_count == len(corrupt):
        return table, None, []
    is_row = corrupt.is_null()
    rejects = [
        Rejected(row, "the line is not a row of the table", {"line": text})
        for row, text in enumerate(corrupt.to_pylist())
        if text is not None
    ]
    rows = np.flatnonzero(is_row.to_numpy(zero_copy_only=False))
    return table.filter(is_row), rows, rejects


def _at_home(work: Work) -> ScoreJob:
    """Say where the model lies on this machine."""
    if not work.shipped:
        return work.job
    from pyspark import SparkFiles

    path = os.path.join(SparkFiles.get(work.shipped), work.member)
    return msgspec.structs.replace(work.job, model=path)


def _tell(schema: pa.Schema) -> str:
    return ", ".join(f"{each.name} {each.type}" for each in schema)
