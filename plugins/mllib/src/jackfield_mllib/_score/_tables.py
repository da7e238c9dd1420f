"""Tables as Spark's readers and writers have them."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions as F  # noqa: N812  as all of Spark's users call it
from pyspark.sql.types import StringType, StructField, StructType

from jackfield.score import SUFFIXES, ScoreError, ScoreJob
from jackfield_mllib._score._options import Options, is_remote
from jackfield_mllib._score._parts import plain
from jackfield_mllib._score._told import told
from jackfield_mllib._score_worker import CORRUPT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyspark.sql import Column, DataFrame, SparkSession

    from jackfield_mllib._score._watch import Watch

#: Rows by which types are learned that neither metadata nor schema tell; each worker gets them.
_SAMPLE_ROWS = 100
_LOOKING = "looking at the table"
_READERS: Final = {"parquet": "parquet", "csv": "csv", "ndjson": "json", "delta": "delta"}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4", ".snappy", ".deflate")
#: Stands for an empty cell without quotes, which is null; one with quotes is an empty text.
_NULL = "\0"
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)", re.IGNORECASE)


class Tables:
    """The input and the output of a job."""

    def __init__(self, spark: SparkSession, job: ScoreJob, options: Options, watch: Watch) -> None:
        self._spark = spark
        self._job = job
        self._options = options
        self._watch = watch

    def refuse_to_overwrite(self) -> None:
        """Look whether there is an output already.

        Raises:
            ScoreError: There is, and the job does not say that it goes.
        """
        if self._job.restart or not self._exists(self._job.output):
            return
        message = f"the output '{self._job.output}' is there already; --restart replaces it"
        raise ScoreError(message)

    def _exists(self, path: str) -> bool:
        with told(f"'{path}' can't be reached"):
            if not is_remote(self._spark):
                context: Any = self._spark.sparkContext
                place = context._jvm.org.apache.hadoop.fs.Path(path)
                files = place.getFileSystem(context._jsc.hadoopConfiguration())
                return bool(files.exists(place))
            try:
                # the one question about a path that a Connect server can be asked
                self._spark.read.format("text").load(path).schema  # noqa: B018
            except AnalysisException as error:
                if error.getCondition() == "PATH_NOT_FOUND":
                    return False
                raise
            return True

    def read(self, form: str) -> DataFrame:
        """Open the input; text files get a column `CORRUPT` for lines that are no rows."""
        paths = list(self._job.inputs)
        reader = self._spark.read.format(_READERS[form])
        if form == "csv":
            # all as text: the model's own inputs say which cells are none of theirs
            reader = reader.options(header="true", nullValue=_NULL)
        reader = reader.options(**self._options.reader)
        with told("the table can't be read"):
            if form == "delta":
                return reader.load(paths[0])
            if form == "parquet":
                return reader.load(paths)
            found = self._watch.wait_for(lambda: reader.load(paths).schema, stage=_LOOKING)
            fields = [each for each in found.fields if each.name != "_corrupt_record"]
            schema = StructType([*fields, StructField(CORRUPT, StringType(), nullable=True)])
            reader = reader.option("columnNameOfCorruptRecord", CORRUPT)
            return reader.schema(schema).load(paths)

    def take(self, source: DataFrame) -> pa.Table:
        """Take the first rows; text files may have lines among them that are no rows."""
        has_corrupt = CORRUPT in source.columns
        rows = arrays_for_vectors(source).limit((1 + has_corrupt) * _SAMPLE_ROWS)
        with told("the table can't be read"):
            sample = self._watch.wait_for(rows.toArrow, stage=_LOOKING)
        if has_corrupt:
            sample = sample.filter(sample.column(CORRUPT).is_null()).drop_columns([CORRUPT])
        return sample.slice(0, _SAMPLE_ROWS)

    def write(self, scored: DataFrame, form: str) -> int:
        """Write the rows that were scored.

        Returns:
            How many rows the output has, counted in it.
        """
        restart, path = self._job.restart, self._job.output
        if form in ("csv", "ndjson"):
            scored = arrays_for_vectors(scored)
        if form == "csv":
            scored = scored.select(*(_as_text(each) for each in scored.schema.fields))
        writer = scored.write.format(_READERS[form]).mode("overwrite" if restart else "error")
        if form == "csv":
            writer = writer.option("header", "true")
        if form == "delta" and restart:
            writer = writer.option("overwriteSchema", "true")
        writer = writer.options(**self._options.writer)
        reader = self._spark.read.format(_READERS[form])
        if form in ("csv", "ndjson"):
            reader = reader.schema(scored.schema)
        if form == "csv":
            # a text may hold the end of a line
            is_text = any(each.dataType == StringType() for each in scored.schema.fields)
            reader = reader.options(header="true", multiLine=str(is_text).lower())
        # the writer's own dialect, where it has one
        reader = reader.options(**self._options.writer)
        with told("the output could not be written"):
            save = functools.partial(writer.save, path)
            self._watch.wait_for(save, stage="writing the output")
            return self._watch.wait_for(
                lambda: int(reader.load(path).count()), stage="counting what was written"
            )


def check(job: ScoreJob) -> None:
    """Refuse what can't be meant.

    Raises:
        ScoreError: The output would become part of the input.
    """
    output = plain(job.output)
    for path in job.inputs:
        if f"{output}/".startswith(f"{plain(path)}/"):
            message = (
                f"the output '{job.output}' lies in the input '{path}', whose part it would become"
            )
            raise ScoreError(message)


def find_format(path: str, given: str, *, default: str = "") -> str:
    """Tell a table's form by its path's suffix, or by what lies in a folder.

    Raises:
        ScoreError: Neither tells.
    """
    if given != "auto":
        return given
    if found := _by_suffix(path):
        return found
    folder = Path(path)
    if folder.is_dir() and not default:
        if (folder / "_delta_log").is_dir():
            return "delta"
        names = (each.name for each in sorted(folder.rglob("*")) if each.is_file())
        for found in map(_by_suffix, names):
            if found:
                return found
    if default:
        return default
    message = f"the form of '{path}' is not known by its name; say --input-format"
    raise ScoreError(message)


def _by_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name.rstrip("/").lower())
    if suffix in _COMPRESSED:
        suffix = os.path.splitext(stem)[1]
    return SUFFIXES.get(suffix, "")


def guess(sample: pa.Table) -> pa.Schema:
    """Say what the columns of a text file hold: what most cells of the first rows are."""
    columns = zip(sample.column_names, sample.columns, strict=True)
    return pa.schema([pa.field(name, _seems(column.to_pylist())) for name, column in columns])


def _seems(column: Iterable[str | None]) -> pa.DataType:
    cells = [each.strip() for each in column if each is not None and each.strip()]
    if not cells:
        return pa.null()
    if 2 * sum(each.lower() in ("true", "false") for each in cells) > len(cells):
        return pa.bool_()
    numbers = [each for each in cells if _NUMBER.fullmatch(each)]
    if 2 * len(numbers) <= len(cells):
        return pa.string()
    is_whole = all(each.lstrip("+-").isdecimal() for each in numbers)
    return pa.int64() if is_whole else pa.float64()


def column(name: str) -> Column:
    """Name a column, whatever characters it has."""
    return F.col(f"`{name.replace('`', '``')}`")


def arrays_for_vectors(frame: DataFrame) -> DataFrame:
    """Make lists of the columns that hold vectors of Spark, which nobody else can read."""
    names = [each.name for each in frame.schema.fields if isinstance(each.dataType, VectorUDT)]
    # Spark Connect refuses an empty one
    return frame.withColumns({n: vector_to_array(column(n)) for n in names}) if names else frame


def _as_text(field: StructField) -> Column:
    """Make of a column what a CSV file can hold."""
    made = column(field.name)
    kind = field.dataType.typeName()
    if kind == "binary":
        made = F.base64(made)
    elif kind in ("array", "map", "struct"):
        made = F.to_json(made)
    return made.alias(field.name)
