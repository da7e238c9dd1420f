"""LocalEngine: score in threads of this process, go on after a kill."""

from __future__ import annotations

import collections
import importlib.metadata
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jackfield import __version__
from jackfield._plugins import LOCAL_ENGINE
from jackfield.errors import ScoreError
from jackfield.score._job import ScoreProgress, ScoreSummary
from jackfield.score._parts import Parts, output_format
from jackfield.score._scorer import Scorer
from jackfield.score._tables import open_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jackfield._repository import ModelSource
    from jackfield.messages import ModelMetadata
    from jackfield.score._job import Progress, Scored, ScoreJob
    from jackfield.score._scorer import ScorePlan
    from jackfield.score._tables import Batch, Table

#: A batch of so many rows none of which could be scored is not bad luck.
_SUSPICIOUS = 100


class LocalEngine:
    """Reads, scores and writes in this process: batches stream, the table is never held whole.

    Parts of the output are written aside, each with a line in a journal: a run that was killed at
    any moment goes on behind the last part that is done, and neither loses a row nor has one twice.
    """

    resumes = True

    def run(self, job: ScoreJob, progress: Progress) -> ScoreSummary:
        """Score all rows of a job's input.

        Raises:
            ScoreError: See `Scorer`, `Scorer.plan` and `ScorePlan.score`; the input can't be read;
                there is an output already; what an earlier run began can't be gone on with; or no
                row of a whole batch could be scored, and the job does not allow so many.
            SettingsError: The model's path does not exist.
        """
        _check(job)
        table = open_table(job)
        with Scorer(job) as scorer:
            began_s = time.monotonic()
            plan = scorer.plan(
                table.schema,
                table.sample(),
                cells=table.cells,
                keeps_text=output_format(job) == "csv",
            )
            state = _state(job, scorer, table)
            with Parts(job, state, plan.schema) as parts:
                resumed = parts.rows
                _Run(job, table, scorer, plan, parts).run(progress)
                total = ScoreProgress(parts.rows, parts.rejected, parts.rows, stage="finishing")
                progress(total)
                parts.finish()
        return ScoreSummary(
            model=scorer.name,
            version=scorer.version,
            engine=LOCAL_ENGINE,
            rows=parts.rows,
            scored=parts.scored,
            rejected=parts.rejected,
            resumed=resumed,
            seconds=time.monotonic() - began_s,
            output=job.output,
            rejects=parts.rejects,
        )


class _Run:
    """Brings the batches of a table to a model and what comes of them into parts, in order."""

    def __init__(
        self, job: ScoreJob, table: Table, scorer: Scorer, plan: ScorePlan, parts: Parts
    ) -> None:
        self._job, self._table, self._scorer = job, table, scorer
        self._plan, self._parts = plan, parts

    def run(self, progress: Progress) -> None:
        """Do all that is not done."""
        parts, table = self._parts, self._table
        self._tell(progress, parts.rows, parts.rejected)
        part = parts.begin()
        try:
            for batch, scored in self._scored():
                rejects = [
                    each._replace(row=int(batch.positions[each.row])) for each in scored.rejects
                ]
                rejects = sorted([*batch.rejects, *rejects], key=lambda each: each.row)
                self._suspect(batch, scored, parts.rejected + part.rejected + len(rejects))
                part.write(scored.batch, rejects)
                self._tell(progress, parts.rows + part.rows, parts.rejected + part.rejected)
                if part.rows >= self._job.rows_per_part or part.is_old:
                    part.commit()
                    part = parts.begin()
            if part.rows:
                part.commit()
        except BaseException:
            part.drop()
            raise
        if not table.is_estimate and table.total is not None and parts.rows != table.total:
            raise ScoreError(
                f"{parts.rows} rows were read of a table with {table.total}: it changed meanwhile"
            )

    def _scored(self) -> Iterator[tuple[Batch, Scored]]:
        """Score several batches at the same time, and give them in order."""
        batches = self._table.batches(
            self._plan.cell_types, rows=self._job.rows_per_batch, skip=self._parts.rows
        )
        threads = self._scorer.concurrency
        waiting: collections.deque[tuple[Batch, Future[Scored]]] = collections.deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="jackfield-score")
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(self._plan.score, batch.rows)))
                # as many again are read while all threads are busy
                if len(waiting) >= 2 * threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _suspect(self, batch: Batch, scored: Scored, rejected: int) -> None:
        """End a run whose model or table is wrong as a whole."""
        rows = batch.size
        if rows < _SUSPICIOUS or scored.batch.num_rows or rejected <= self._job.max_rejects:
            return
        first = min([*batch.rejects, *scored.rejects], key=lambda each: each.row)
        raise ScoreError(
            f"none of {rows} rows in a batch could be scored; the first: {first.reason}; "
            "a larger --max-rejects lets the run go on"
        )

    def _tell(self, progress: Progress, rows: int, rejected: int) -> None:
        table = self._table
        progress(ScoreProgress(rows, rejected, table.total, is_estimate=table.is_estimate))


def _check(job: ScoreJob) -> None:
    """Refuse what can't be meant."""
    if min(job.rows_per_batch, job.rows_per_part) < 1:
        raise ScoreError("a batch and a part have at least one row")
    output = Path(job.output).resolve()
    for text in job.inputs:
        path = Path(text).resolve()
        if path == output or (path.is_dir() and output.is_relative_to(path)):
            raise ScoreError(
                f"the output '{job.output}' lies in the input '{text}', whose part it would become"
            )


# ---- what must not change before a run goes on ----


def _state(job: ScoreJob, scorer: Scorer, table: Table) -> dict[str, object]:
    source = scorer.source
    frameworks = source.spec.frameworks if source.spec else ()
    return {
        "the input": table.state,
        "the model": _model_state(source, scorer.metadata, job),
        "the version of jackfield or the model's framework": {
            "jackfield": __version__,
            **{name: _version(name) for name in frameworks},
        },
        "an option": {
            "columns": {name: list(columns) for name, columns in job.columns.items()},
            "outputs": list(job.outputs),
            "parameters": dict(job.parameters),
            "keep": job.keep,
            "prefix": job.prefix,
            "output_format": output_format(job),
            "rejects": job.rejects_path,
        },
    }


def _model_state(source: ModelSource, metadata: ModelMetadata, job: ScoreJob) -> object:
    place = source.artifact or source.folder
    files: list[list[object]] = []
    if not source.uri:
        data = {Path(text).resolve() for text in (*job.inputs, job.output, job.rejects_path)}
        found = [place] if place.is_file() else sorted(place.rglob("*"))
        for file in found:
            hidden = any(
                part.startswith(".") or part == "__pycache__"
                for part in file.relative_to(place).parts
            )
            is_data = file in data or any(folder in data for folder in file.parents)
            if file.is_file() and not hidden and not is_data:
                stat = file.stat()
                files.append([str(file), stat.st_size, stat.st_mtime_ns])
    tensors = [*metadata.inputs, *metadata.outputs]
    return {
        "name": source.name,
        "version": source.version,
        "uri": source.uri,
        "settings": msgspec.to_builtins(source.settings),
        "files": files,
        # of a URI nothing else tells what was fetched
        "metadata": msgspec.to_builtins(metadata if source.uri else None),
        "tensors": [[each.name, each.datatype.value, list(each.shape)] for each in tensors],
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
