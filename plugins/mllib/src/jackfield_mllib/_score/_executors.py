"""Models of any runtime, in the Python workers of Spark's executors."""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
import uuid
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pyarrow as pa
from pyspark import SparkFiles, StorageLevel
from pyspark.sql import functions as F  # noqa: N812  as all of Spark's users call it
from pyspark.sql.pandas.types import from_arrow_schema

from jackfield.score import Cells, ScoreError, ScoreJob
from jackfield_mllib._score._options import Options, is_here, is_remote
from jackfield_mllib._score._parts import numbered
from jackfield_mllib._score._tables import arrays_for_vectors, column
from jackfield_mllib._score._told import GONE, told
from jackfield_mllib._score_worker import (
    CORRUPT,
    FIELDS,
    MARK,
    REJECT,
    ROW,
    SPLIT,
    Work,
    carried_schema,
    pack,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pyspark.sql import DataFrame, SparkSession

    from jackfield_mllib._score._watch import Watch


class Computed(NamedTuple):
    """What came of all rows, and lies on the executors' disks."""

    scored: DataFrame
    #: `SPLIT`, `ROW` and `REJECT`.
    rejects: DataFrame
    #: How many rejects there are, counted.
    rejected: int


class Task(NamedTuple):
    """What the executors are to do."""

    #: The input's columns that are read.
    columns: Sequence[str]
    #: Of what is scored.
    schema: pa.Schema
    payload: bytes


def prepare(
    job: ScoreJob,
    options: Options,
    *,
    spark: SparkSession,
    table: pa.Schema,
    sample: pa.Table,
    cells: Cells,
    keeps_text: bool,
    columns: Sequence[str],
    schema: pa.Schema,
) -> Task:
    """Make what workers are sent, and send the model along."""
    carried = carried_schema(schema)
    work = Work(
        job=job,
        table=table.serialize().to_pybytes(),
        sample=_stream(sample),
        cells=cells,
        keeps_text=keeps_text,
        schema=carried.serialize().to_pybytes(),
        versions=_versions(),
    )
    if options.ship and not is_here(spark) and Path(job.model).exists():
        work = _ship(work, Path(job.model), spark)
    return Task(columns, carried, pack(work))


def try_executors(task: Task, *, spark: SparkSession, watch: Watch) -> None:
    """Load the model wherever Spark puts a task.

    Raises:
        ScoreError: An executor can't; the text is its own, told once.
    """
    trial = spark.range(1000).mapInArrow(_trial(_versions(), task.payload), "problem string")
    with told("Spark can't run Python on its executors"):
        problems = watch.wait_for(trial.collect, stage="loading the model")
    if problems:
        raise ScoreError("; ".join(sorted({each["problem"] for each in problems})))


@contextlib.contextmanager
def computed(source: DataFrame, task: Task, watch: Watch) -> Iterator[Computed]:
    """Give what the model makes of each row, computed once and kept on disks."""
    corrupt = [F.col(CORRUPT)] if CORRUPT in source.columns else []
    names = (column(name) for name in task.columns)
    taken = arrays_for_vectors(source.select(*names, *corrupt, *numbered()))
    out = from_arrow_schema(pa.schema([*task.schema, *FIELDS]))
    made = taken.mapInArrow(_task(_versions(), task.payload), out)
    with kept(made):
        rejects = made.filter(F.col(REJECT).isNotNull()).select(SPLIT, ROW, REJECT)
        with told("Spark could not run the job"):
            rejected = int(watch.wait_for(rejects.count))
        scored = made.filter(F.col(REJECT).isNull()).drop(SPLIT, ROW, REJECT)
        yield Computed(scored, rejects, rejected)


@contextlib.contextmanager
def kept(frame: DataFrame) -> Iterator[None]:
    """Keep what a frame computes on the executors' disks."""
    frame.persist(StorageLevel.DISK_ONLY)
    try:
        yield
    finally:
        # there may be no Spark left to be told
        with contextlib.suppress(*GONE):
            frame.unpersist()


# ---- sending the model ----


def _ship(work: Work, path: Path, spark: SparkSession) -> Work:
    name = f"jackfield-{uuid.uuid4().hex}"
    if is_remote(spark):
        with tempfile.TemporaryDirectory() as folder:
            archive = _zip(path, Path(folder, f"{name}.zip"))
            spark.addArtifacts(f"{archive}#{name}", archive=True)
    else:
        # executors that the session gets later fetch it, too: it lies there as long as Spark
        archive = _zip(path, Path(SparkFiles.getRootDirectory(), f"{name}.zip"))
        spark.sparkContext.addArchive(f"{archive}#{name}")
    # a folder becomes the archive itself, a file lies in it
    member = "" if path.is_dir() else path.name
    return msgspec.structs.replace(work, shipped=name, member=member)


def _zip(path: Path, archive: Path) -> Path:
    """Pack a file, or what lies in a folder."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        if path.is_file():
            packed.write(path, path.name)
        else:
            for each in sorted(path.rglob("*")):
                packed.write(each, each.relative_to(path))
    return archive


def _versions() -> dict[str, str]:
    """Tell the versions of the core and of all plugins."""
    entries = importlib.metadata.entry_points(group="jackfield")
    found = {each.dist.name: each.dist.version for each in entries if each.dist}
    names = ("jackfield", "jackfield-mllib")
    return found | {name: importlib.metadata.version(name) for name in names}


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    made: bytes = sink.getvalue().to_pybytes()
    return made


# ---- what is pickled by value: these run where the plugin may be missing ----


def _task(
    versions: Mapping[str, str], payload: bytes
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Make what an executor runs."""
    missing, mark = _missing(), MARK

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import json

        if problem := missing(versions):
            raise RuntimeError(mark + json.dumps(problem))
        from jackfield_mllib._score_worker import score_batches

        yield from score_batches(payload, batches)

    return score


def _trial(
    versions: Mapping[str, str], payload: bytes
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Make what tells, as a row and not as a failed task, why an executor can't do the job."""
    missing, mark = _missing(), MARK

    def try_it(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import json

        import pyarrow as pa

        problem = missing(versions)
        if not problem:
            from jackfield_mllib._score_worker import score_batches

            try:
                list(score_batches(payload, []))
            except RuntimeError as error:
                problem = json.loads(str(error).removeprefix(mark))
        for _ in batches:
            pass
        if problem:
            yield pa.RecordBatch.from_arrays([pa.array([problem])], names=["problem"])

    return try_it


def _missing() -> Callable[[Mapping[str, str]], str]:
    """Make what finds the core and this plugin, of the right version; it imports neither."""

    def missing(versions: Mapping[str, str]) -> str:
        import importlib.metadata
        import platform

        for name in ("jackfield", "jackfield-mllib"):
            wanted = versions[name]
            try:
                found = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found = ""
            if found != wanted:
                return (
                    f"executor '{platform.node()}' has {name} {found}, and {wanted} is needed"
                    if found
                    else f"executor '{platform.node()}' lacks {name}; install it there: "
                    f"pip install {name}=={wanted}"
                )
        return ""

    return missing
