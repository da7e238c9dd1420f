"""SparkEngine: ``jackfield score --engine spark``, any row-wise model over a table on a cluster."""

from __future__ import annotations

import contextlib
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from jackfield.score import (
    Cells,
    Progress,
    ScoreError,
    ScoreJob,
    ScoreProgress,
    Scorer,
    ScoreSummary,
    find_source,
)
from jackfield_mllib import MllibOptions
from jackfield_mllib._runtime import MllibRuntime
from jackfield_mllib._score._executors import computed, prepare, try_executors
from jackfield_mllib._score._options import Options, open_session
from jackfield_mllib._score._parts import count_rows
from jackfield_mllib._score._rejects import write_rejects
from jackfield_mllib._score._tables import Tables, check, find_format, guess
from jackfield_mllib._score._transform import Transform
from jackfield_mllib._score._watch import Watch

if TYPE_CHECKING:
    import pyarrow as pa

    from jackfield_mllib._runtime import Loaded
    from jackfield_mllib._score._executors import Computed

#: So many rows none of which could be scored are not bad luck.
_SUSPICIOUS = 100


class SparkEngine:
    """Scores on a Spark cluster, or on all cores of this machine.

    Spark computes every row once into blocks on the executors' disks (an executor that is lost
    takes its blocks along, and Spark computes these again), and the two outputs, rows and rejects,
    are written from there. So the output appears, by Spark's own committer, when the rejects are
    already written. What is counted is what lies there: a task that ran twice counts once.

    A model of Spark itself is scored by its own `transform`. Any other is loaded once in this
    process, to learn the columns that come out, and once in each Python worker of the executors.

    Its options are ``master`` and ``remote`` (a Spark Connect server), ``ship`` ("no" if the model
    lies at its path on all machines), Spark's own settings (``spark.executor.memory``), and those
    of Spark's readers and writers (``read.header``, ``write.compression``). Threads of the job are
    those of one call of the model: 1 by default, since Spark gives each core a task.
    """

    resumes = False

    def run(self, job: ScoreJob, progress: Progress) -> ScoreSummary:
        """Score all rows of a job's input.

        Raises:
            ScoreError: It can't be done. The output is not there then, or as it was.
        """
        began = perf_counter()
        options = Options.of(job)
        check(job)
        threads = job.threads or int(options.conf.get("spark.task.cpus", "1"))
        job = msgspec.structs.replace(job, threads=threads)
        input_format = find_format(job.inputs[0], job.input_format)
        output_format = find_format(job.output, job.output_format, default="parquet")
        own = _spark_options(job)
        with contextlib.ExitStack() as stack:
            # before Spark is started: most mistakes show here; a model of Spark itself needs it
            model = stack.enter_context(contextlib.ExitStack())
            scorer = None if own is not None else model.enter_context(Scorer(job))
            progress(ScoreProgress(0, 0, None, stage="starting Spark"))
            options = options if own is None else options.beside(own)
            session = open_session(options, job, input_format=input_format)
            spark = stack.enter_context(session)
            watch = Watch(spark, progress)
            tables = Tables(spark, job, options, watch)
            tables.refuse_to_overwrite()
            if scorer is None:
                scorer = watch.wait_for(lambda: Scorer(job), stage="loading the model")
                model.enter_context(scorer)
            source = tables.read(input_format)
            sample = tables.take(source)
            is_text = input_format == "csv"
            table = guess(sample) if is_text else sample.schema
            keeps_text = is_text and output_format == "csv"
            cells: Cells = "text" if is_text else "typed"
            plan = scorer.plan(table, _first(sample), cells=cells, keeps_text=keeps_text)
            loaded = _loaded(scorer)
            if loaded is not None:
                transform = Transform(loaded, plan, job, source, sample)
                parts = count_rows(source, job.inputs, watch)
                computing = transform.computed(parts, watch)
            else:
                task = prepare(
                    job,
                    options,
                    spark=spark,
                    table=table,
                    sample=sample,
                    cells=cells,
                    keeps_text=keeps_text,
                    columns=plan.columns,
                    schema=plan.schema,
                )
                model.close()  # the workers have their own
                try_executors(task, spark=spark, watch=watch)
                parts = count_rows(source, job.inputs, watch)
                computing = computed(source, task, watch)
            with computing as made:
                _suspect(made, parts.rows, job)
                if made.rejected:
                    write_rejects(made, parts, job.rejects_path, spark=spark, watch=watch)
                elif job.restart and "://" not in job.rejects_path:
                    Path(job.rejects_path).unlink(missing_ok=True)
                scored = tables.write(made.scored, output_format)
        return ScoreSummary(
            model=scorer.name,
            version=scorer.version,
            engine="spark",
            rows=parts.rows,
            scored=scored,
            rejected=made.rejected,
            seconds=perf_counter() - began,
            output=job.output,
            rejects=job.rejects_path if made.rejected else "",
        )


def _spark_options(job: ScoreJob) -> MllibOptions | None:
    """Tell what a model of Spark itself wants of its session; None for any other model."""
    source = find_source(job)
    if source.spec is None or source.spec.name != "mllib":
        return None
    try:
        return msgspec.convert(source.settings.parameters.extra, MllibOptions)
    except msgspec.ValidationError:
        return MllibOptions()  # the runtime tells what is wrong


def _loaded(scorer: Scorer) -> Loaded | None:
    """Give a model of Spark in its session; None for any other, and for those of pyspark.mllib."""
    runtime = scorer.runtime
    return runtime.in_session if isinstance(runtime, MllibRuntime) else None


def _first(table: pa.Table) -> pa.RecordBatch | None:
    return next(iter(table.combine_chunks().to_batches()), None)


def _suspect(made: Computed, rows: int, job: ScoreJob) -> None:
    """End a run whose model or table is wrong as a whole."""
    if rows < _SUSPICIOUS or made.rejected < rows or rows <= job.max_rejects:
        return
    found = made.rejects.head()
    reason = msgspec.json.decode(found[-1])["reason"] if found else ""
    message = (
        f"none of {rows} rows could be scored; one of them: {reason}; "
        "a larger --max-rejects lets the run go on"
    )
    raise ScoreError(message)
