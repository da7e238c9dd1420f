"""What ``--engine-option`` may say to the Spark engine, and the session that it asks for."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from pyspark import SparkContext

from jackfield import ModelLoadError, ModelNotReadyError
from jackfield.score import ScoreError, ScoreJob
from jackfield_mllib._score._told import GONE
from jackfield_mllib._session import SessionOptions, acquire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyspark.sql import SparkSession

    from jackfield_mllib import MllibOptions

#: Options that are no setting of Spark's.
_OPTIONS = ("master", "remote", "ship")
#: A task that fails is run again three times, as on a cluster; a plain local[n] gives up at once.
_ATTEMPTS = 4
#: What one task reads. Spark's own 128 MiB are few tasks for a table of numbers: progress comes in
#: large steps, and a lost worker costs much.
_PART_BYTES = "32m"
#: A small table is cut into so many parts, or one for each core of the cluster. Left to Spark it
#: may change from query to query, as executors come, and rows would not be found again.
_PARTS = 64
#: Masters whose executors are in the driver's own process.
_LOCAL = re.compile(r"local(\[.*\])?")


class Options(NamedTuple):
    """The engine's own settings."""

    master: str
    remote: str
    #: Whether the model is sent to executors on other machines.
    ship: bool
    #: Spark's.
    conf: Mapping[str, str]
    #: Those of Spark's reader and writer.
    reader: Mapping[str, str]
    writer: Mapping[str, str]

    @classmethod
    def of(cls, job: ScoreJob) -> Options:
        """Read those of a job.

        Raises:
            ScoreError: There is no such option, or it has another value.
        """
        given = dict(job.engine_options)
        master, remote, ship = (given.pop(key, "") for key in _OPTIONS)
        if ship not in ("", "yes", "no"):
            message = f"engine option 'ship': expected yes or no, found '{ship}'"
            raise ScoreError(message)
        conf = {key: given.pop(key) for key in [*given] if key.startswith("spark.")}
        reader = {key[5:]: given.pop(key) for key in [*given] if key.startswith("read.")}
        writer = {key[6:]: given.pop(key) for key in [*given] if key.startswith("write.")}
        if given:
            message = (
                f"the spark engine has no option '{next(iter(given))}'; it has "
                f"{', '.join(_OPTIONS)}, spark.*, read.* and write.*"
            )
            raise ScoreError(message)
        return cls(master, remote, ship != "no", conf, reader, writer)

    def beside(self, model: MllibOptions) -> Options:
        """Add what a model of Spark itself wants of its session; what is said here goes before."""
        conf = {key: str(value) for key, value in model.conf.items()}
        if self.master or self.remote:
            return self._replace(conf={**conf, **self.conf})
        return self._replace(conf={**conf, **self.conf}, master=model.master, remote=model.remote)


@contextlib.contextmanager
def open_session(options: Options, job: ScoreJob, *, input_format: str) -> Iterator[SparkSession]:
    """Take the process's session, and set it up for one job.

    Raises:
        ScoreError: Spark can't be started, or was lost.
    """
    conf, master = dict(options.conf), options.master
    if SparkContext._active_spark_context is None and not options.remote:
        # what fails is told by this engine, once
        conf.setdefault("spark.log.level", "FATAL")
        if not master and "spark.master" not in conf:
            master = f"local[{os.cpu_count() or 1},{_ATTEMPTS}]"
    wanted = SessionOptions(
        conf=conf, master=master, remote=options.remote, threads=os.cpu_count() or 1
    )
    try:
        lease = acquire(wanted, name="jackfield score")
    except ModelLoadError as error:
        raise ScoreError(str(error)) from error
    try:
        with lease.calls() as spark:
            settings = _settings(spark, job, input_format)
            with _set(spark, {k: v for k, v in settings.items() if k not in options.conf}):
                yield spark
    except ModelNotReadyError as error:
        raise ScoreError(f"Spark was lost: {error.reason}") from error
    finally:
        lease.close()


def is_remote(spark: SparkSession) -> bool:
    """Tell whether it is a session of Spark Connect."""
    return not hasattr(spark, "_jsparkSession")


def is_here(spark: SparkSession) -> bool:
    """Tell whether the executors are in the driver's own process."""
    return not is_remote(spark) and bool(_LOCAL.fullmatch(str(spark.sparkContext.master)))


def _settings(spark: SparkSession, job: ScoreJob, input_format: str) -> dict[str, str]:
    cores = 0 if is_remote(spark) else spark.sparkContext.defaultParallelism
    found = {
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(job.rows_per_batch),
        # times pass through Python as they are
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.files.maxPartitionBytes": _PART_BYTES,
        "spark.sql.files.minPartitionNum": str(max(_PARTS, cores)),
    }
    if input_format == "csv":
        # a line with too few or too many fields passes for a row if not all columns are read
        found["spark.sql.csv.parser.columnPruning.enabled"] = "false"
    return found


@contextlib.contextmanager
def _set(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    before: dict[str, str | None] = {key: spark.conf.get(key, None) for key in settings}
    for key, value in settings.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        # there may be no Spark left to be told
        with contextlib.suppress(*GONE):
            for key, known in before.items():
                if known is None:
                    spark.conf.unset(key)
                else:
                    spark.conf.set(key, known)
