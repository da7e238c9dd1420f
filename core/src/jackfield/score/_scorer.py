"""Scorer: a model in this process that scores Arrow batches."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from jackfield._loading import load_runtime
from jackfield._plugins import discover
from jackfield._repository import Repository
from jackfield._threads import available_cores
from jackfield._versions import version_key
from jackfield.errors import CapacityError, JackfieldError, ModelLoadError, ScoreError
from jackfield.messages import InferRequest, InferResponse, RequestedOutput
from jackfield.score._arrow import is_list, is_number, is_text
from jackfield.score._columns import BadRowsError, Input, UnevenError, natural
from jackfield.score._job import Rejected, Scored
from jackfield.score._outputs import BadAnswerError, Output, is_told, learn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from jackfield._repository import ModelSource
    from jackfield.messages import ModelMetadata, TensorMetadata
    from jackfield.runtime import Runtime
    from jackfield.score._job import Cells, ScoreJob

logger = logging.getLogger("jackfield")

#: Rows that are tried to learn the outputs.
_TRIED = 8
#: Columns that an error lists at most.
_LISTED = 20


def find_source(job: ScoreJob) -> ModelSource:
    """Find a job's model.

    Raises:
        ScoreError: There is none, or there are several.
        SettingsError: Its path does not exist.
    """
    plugins = discover(job.plugins)
    repository = Repository([job.model], plugins, environ=job.environ)
    sources = repository.scan()
    names = {source.name for source in sources}
    if job.name:
        # the name of the one model there, as `serve` takes it, or which of several
        sources = [each for each in sources if each.name == job.name] or (
            sources if len(names) == 1 else []
        )
    elif len(names) > 1:
        raise ScoreError(f"several models are at '{job.model}': {_list(sorted(names))}; name one")
    if job.version:
        sources = [each for each in sources if each.version == job.version]
    if not sources:
        wanted = " ".join(part for part in (job.name, job.version) if part)
        there = f"; there are: {_list(sorted(names))}" if names else ""
        raise ScoreError(f"there is no model '{wanted or job.model}' at '{job.model}'{there}")
    newest = max(sources, key=lambda each: (each.version == "", version_key(each.version)))
    try:
        return repository.fetch(newest)
    except ModelLoadError as error:
        raise ScoreError(f"model '{newest.name}' can't be loaded: {error}") from error


class Scorer:
    """A job's model, loaded in this process.

    What its plans score may be scored in several threads; calls of a runtime that allows one at a
    time wait for each other.

    Args:
        job: Its model and what it is asked; its input and output are not opened.

    Raises:
        ScoreError: There is no such model or there are several, it can't be loaded, or its rows are
            not independent.
        SettingsError: The path does not exist.
    """

    def __init__(self, job: ScoreJob) -> None:
        self.job = job
        self.source = source = find_source(job)
        cores = job.threads or available_cores()
        spec = source.spec.capabilities if source.spec else None
        # rows by cores: no thread waits for another, as those of one pool do
        is_shared = spec is not None and spec.thread_safe and spec.releases_gil
        threads = source.settings.threads or (1 if is_shared else cores)
        for warning in source.warnings:
            logger.warning("model '%s': %s", source.name, warning)
        try:
            self._loaded = loaded = load_runtime(source, threads=threads)
        except ModelLoadError as error:
            raise ScoreError(f"model '{source.name}' can't be loaded: {error}") from error
        self.metadata: ModelMetadata = loaded.metadata
        self._loop = _Loop() if inspect.iscoroutinefunction(loaded.runtime.infer) else None
        found = loaded.capabilities
        calls = 1
        if self._loop is not None or (found.thread_safe and found.releases_gil):
            calls = max(1, cores // threads) if is_shared else cores
        self._is_single = calls > 1 and not is_shared
        self._slots = threading.BoundedSemaphore(calls)
        #: Threads in which batches are best scored at the same time: what one call leaves free is
        #: used to read for the next.
        self.concurrency = calls + 1
        try:
            self._check()
        except ScoreError:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The model's name."""
        return self.job.name or self.source.name

    @property
    def version(self) -> str:
        """Its version; empty for an un-versioned model."""
        return self.source.version

    @property
    def runtime(self) -> Runtime:
        """The loaded model, for an engine that knows this runtime and can do more with it."""
        return self._loaded.runtime

    def _check(self) -> None:
        capabilities = self._loaded.capabilities
        if capabilities.stateful:
            raise ScoreError(
                f"model '{self.name}' can't score a table: it remembers what it was asked "
                "(stateful), so that a row's result depends on the rows before it"
            )
        if not capabilities.row_wise:
            raise ScoreError(
                f"model '{self.name}' can't score a table: it does not declare that its rows are "
                "independent (row_wise), so that a row's result may depend on the batch it is in; "
                "code of your own declares it by capabilities = Capabilities(row_wise=True)"
            )
        for what, tensors in (("input", self.metadata.inputs), ("output", self.metadata.outputs)):
            for each in tensors:
                if not each.shape or each.shape[0] != -1:
                    raise ScoreError(
                        f"model '{self.name}' can't score a table: its {what} '{each.name}' has "
                        f"the shape {list(each.shape)}, which does not begin with -1, the rows"
                    )
        known = {each.name for each in self.metadata.outputs}
        if unknown := [each for each in self.job.outputs if known and each not in known]:
            raise ScoreError(
                f"model '{self.name}' has no output '{unknown[0]}'; it has: {_list(sorted(known))}"
            )

    def plan(
        self,
        schema: pa.Schema,
        sample: pa.RecordBatch | None = None,
        *,
        cells: Cells = "typed",
        keeps_text: bool = False,
    ) -> ScorePlan:
        """Decide how tables of a schema are scored, before a row is.

        An input with one dimension, or two of which the last is 1, is read from the column of its
        own name. A matrix is read from the columns that its metadata names, or from a column of its
        own name with a list in each cell, or from all columns of numbers that no other input takes,
        if they are as many as its own. `ScoreJob.columns` goes before that. A model that tells no
        inputs gets a tensor for each column.

        Args:
            schema: The input's.
            sample: Its first rows, some of which are scored to learn the types of outputs that the
                metadata leave open; not needed if they tell all.
            cells: What batches come as. If the schema is only what they seem to hold, a reader
                gives columns the types in `ScorePlan.cell_types`, or text in all.
            keeps_text: Kept columns of text stay text: the output is text, too.

        Raises:
            ScoreError: A column is missing or of a type that does not fit, with its name and both
                types; or an output's type is not known.
        """
        return ScorePlan(self, schema, sample, cells=cells, keeps_text=keeps_text)

    def infer(self, request: InferRequest) -> InferResponse:
        """Call the runtime, when it is its turn."""
        bound = self._loaded.bound
        with self._slots:
            if self._loop is not None:
                response = self._loop.run(self._loaded.runtime.infer, request)
            else:
                if bound is not None:
                    (bound.apply_single if self._is_single else bound.apply)()
                response = self._loaded.runtime.infer(request)
        if not isinstance(response, InferResponse):
            raise TypeError(f"infer gave {type(response).__name__}, not InferResponse")
        return response

    def close(self) -> None:
        """Free the model."""
        self._loaded.runtime.close()
        if self._loaded.bound is not None:
            self._loaded.bound.close()
        if self._loop is not None:
            self._loop.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Loop:
    """An event loop in a thread of its own, for runtimes that are coroutines."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="jackfield-score-loop", daemon=True
        )
        self._thread.start()

    def run(self, function: Callable[[InferRequest], Any], request: InferRequest) -> Any:  # noqa: ANN401  what infer gives
        return asyncio.run_coroutine_threadsafe(function(request), self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class ScorePlan:
    """How tables of one schema are scored; made by `Scorer.plan`, may be used in several threads.

    `columns` are the input's columns that are read, in its order: others need not be given.
    `schema` is that of what is scored: the kept columns, then the outputs.
    """

    def __init__(
        self,
        scorer: Scorer,
        schema: pa.Schema,
        sample: pa.RecordBatch | None,
        *,
        cells: Cells,
        keeps_text: bool,
    ) -> None:
        job = scorer.job
        self._scorer = scorer
        self._requested = [RequestedOutput(name) for name in job.outputs]
        doubles = {name for name in schema.names if schema.names.count(name) > 1}
        if doubles:
            raise ScoreError(f"the table has two columns with the name {_list(sorted(doubles))}")
        self.inputs: list[Input] = list(_inputs(scorer, schema, is_text=cells == "text"))
        if not self.inputs:
            raise ScoreError(f"no column of the table is an input of model '{scorer.name}'")
        kept = _kept(job, schema)
        used = {name for each in self.inputs for name in each.columns}
        self.columns: tuple[str, ...] = tuple(
            name for name in schema.names if name in used or name in kept
        )
        #: Types in which a reader of untyped cells should give the columns.
        self.cell_types: dict[str, pa.DataType] = {
            name: schema.field(name).type for name in self.columns
        }
        for each in self.inputs:
            kind = each.cell_type
            for name in each.columns if kind is not None else ():
                if not is_list(self.cell_types[name]):
                    self.cell_types[name] = kind
        self._kept = [self._keep(schema.field(name), cells, keeps_text=keeps_text) for name in kept]
        outputs = self._told(scorer, sample)
        self._outputs = [Output(each, f"{job.prefix}{each.name}") for each in outputs]
        fields = [*self._kept, *(output.field for output in self._outputs)]
        names = [field.name for field in fields]
        for output in self._outputs:
            if names.count(output.field.name) > 1:
                raise ScoreError(
                    f"the output '{output.told.name}' and a column that is kept would both be "
                    f"'{output.field.name}'; give the outputs a prefix, or keep other columns"
                )
        self.schema: pa.Schema = pa.schema(fields)

    def _keep(self, field: pa.Field, cells: Cells, *, keeps_text: bool) -> pa.Field:
        """Give the type in which a column is kept."""
        if cells == "typed":
            return field
        if cells == "json":
            return pa.field(field.name, self.cell_types[field.name])
        takes = [each for each in self.inputs if field.name in each.columns]
        kind = takes[0].cell_type if takes and not keeps_text else None
        return pa.field(field.name, kind or pa.string())

    def _told(self, scorer: Scorer, sample: pa.RecordBatch | None) -> list[TensorMetadata]:
        """Find the outputs that a request gets."""
        told = {each.name: each for each in scorer.metadata.outputs}
        if scorer.job.outputs:
            outputs = [told[name] for name in scorer.job.outputs if name in told]
        else:
            outputs = [each for each in told.values() if not each.parameters.get("on_request")]
        if is_told(outputs):
            return outputs
        if sample is None or not sample.num_rows:
            raise ScoreError(
                f"model '{scorer.name}' does not tell its outputs, and there is no row to learn "
                "them from; declare 'outputs' in its model-settings.json"
            )
        return self._learn(sample)

    def _learn(self, sample: pa.RecordBatch) -> list[TensorMetadata]:
        reason = ""
        for row in range(min(_TRIED, sample.num_rows)):
            try:
                request = self._request(sample.slice(row, 1))
                return learn(self._scorer.infer(request))
            except BadRowsError as error:
                reason = next(iter(error.reasons.values()))
            # the runtime is foreign code, and another row may do
            except Exception as error:  # noqa: BLE001
                reason = _describe(error)
        raise ScoreError(
            f"model '{self._scorer.name}' does not tell its outputs, and none of the first rows "
            f"could be scored to learn them: {reason}"
        )

    # ---- a batch ----

    def score(self, batch: pa.RecordBatch) -> Scored:
        """Score a batch; a row that fails is rejected, and the others are scored.

        Args:
            batch: Has at least `columns`, of the types of the planned schema.

        Raises:
            ScoreError: The model can't answer at all at the moment, or breaks the rule that each
                row has a row in each output.
        """
        rejects: dict[int, str] = {}
        rows = np.arange(batch.num_rows)
        fit, request = batch, None
        try:
            request = self._request(batch) if len(rows) else None
        except BadRowsError as error:
            rejects = error.reasons
            rows = np.delete(rows, sorted(rejects))
            fit = batch.take(pa.array(rows))
        except UnevenError:
            pass  # found in smaller batches, below
        answers: list[tuple[int, int, list[pa.Array]]] = []
        # halves of what failed, the first rows on top
        waiting = [(0, len(rows))] if len(rows) else []
        while waiting:
            start, stop = waiting.pop()
            part = fit.slice(start, stop - start)
            try:
                answer = self._answer(request or self._request(part), part.num_rows)
                answers.append((start, stop, answer))
            except (ScoreError, CapacityError) as error:
                raise ScoreError(f"model '{self._scorer.name}' stopped: {error}") from error
            except BadRowsError as error:
                # only what was hidden behind rows that were uneven
                rejects |= {int(rows[start + row]): why for row, why in error.reasons.items()}
                waiting += reversed([*_gaps(start, stop, error.reasons)])
            # the runtime is foreign code: what it raises is told of the row that is the culprit
            except Exception as error:  # noqa: BLE001
                request = None
                if stop - start == 1:
                    rejects[int(rows[start])] = _describe(error)
                else:
                    middle = (start + stop) // 2
                    waiting += [(middle, stop), (start, middle)]
        return Scored(
            self._join(fit, answers),
            [Rejected(row, rejects[row], _values(batch, row)) for row in sorted(rejects)],
        )

    def _request(self, batch: pa.RecordBatch) -> InferRequest:
        reasons: dict[int, str] = {}
        tensors = []
        for each in self.inputs:
            try:
                tensors.append(each.read(batch))
            except BadRowsError as error:
                reasons = error.reasons | reasons
        if reasons:
            raise BadRowsError(reasons)
        return InferRequest(tensors, self._requested, self._scorer.job.parameters)

    def _answer(self, request: InferRequest, rows: int) -> list[pa.Array]:
        response = self._scorer.infer(request)
        found = {tensor.name: tensor for tensor in response.outputs}
        missing = [each.told.name for each in self._outputs if each.told.name not in found]
        if missing:
            raise ScoreError(f"it answered without the output '{missing[0]}'")
        return [each.read(found[each.told.name], rows) for each in self._outputs]

    def _join(
        self, fit: pa.RecordBatch, answers: Sequence[tuple[int, int, list[pa.Array]]]
    ) -> pa.RecordBatch:
        """Put kept columns and outputs of all that was scored together, in order."""
        if not answers:
            return pa.RecordBatch.from_arrays(
                [pa.array([], field.type) for field in self.schema], schema=self.schema
            )
        parts = fit
        if sum(stop - start for start, stop, _ in answers) < fit.num_rows:
            rows = np.concatenate([np.arange(start, stop) for start, stop, _ in answers])
            parts = fit.take(pa.array(rows))
        columns = []
        for field in self._kept:
            column = parts.column(field.name)
            columns.append(column if column.type == field.type else self._cast(column, field))
        for place in range(len(self._outputs)):
            arrays = [each[place] for _, _, each in answers]
            columns.append(arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _cast(self, column: pa.Array, field: pa.Field) -> pa.Array:
        """Give a kept column of text the type of the input that was read from it."""
        for each in self.inputs:
            if field.name in each.columns:
                return each.typed(column, field)
        return column.cast(field.type)


def _gaps(start: int, stop: int, reasons: dict[int, str]) -> Iterator[tuple[int, int]]:
    """Give the runs of rows between those that are rejected."""
    begin = start
    for row in [*(start + row for row in sorted(reasons)), stop]:
        if row > begin:
            yield begin, row
        begin = row + 1


def _describe(error: Exception) -> str:
    if isinstance(error, BadAnswerError | JackfieldError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _values(batch: pa.RecordBatch, row: int) -> dict[str, object]:
    (values,) = batch.slice(row, 1).to_pylist()
    plain: dict[str, object] = msgspec.to_builtins(values, enc_hook=str)
    return plain


def _kept(job: ScoreJob, schema: pa.Schema) -> list[str]:
    if job.keep == "none":
        return []
    if job.keep == "all":
        return list(schema.names)
    for name in job.keep:
        if name not in schema.names:
            raise ScoreError(f"the table has no column '{name}' to keep; it has: {_fields(schema)}")
    return list(job.keep)


def _inputs(scorer: Scorer, schema: pa.Schema, *, is_text: bool) -> Iterator[Input]:
    """Find the columns of each input."""
    told = scorer.metadata.inputs
    named = scorer.job.columns
    known = [each.name for each in told]
    for name, columns in named.items():
        if known and name not in known:
            raise ScoreError(f"model '{scorer.name}' has no input '{name}'; it has: {_list(known)}")
        for column in columns:
            if column not in schema.names:
                raise ScoreError(
                    f"the table has no column '{column}' for the input '{name}'; "
                    f"it has: {_fields(schema)}"
                )
    if not told:
        yield from _natural(schema, named, is_text=is_text)
        return
    taken = {column for columns in named.values() for column in columns}
    taken |= {name for name in known if name in schema.names}
    for each in told:
        chosen = named.get(each.name) or tuple(_find(scorer, each, schema, taken))
        if not chosen:  # an optional one
            continue
        fields = [schema.field(name) for name in chosen]
        is_matrix = len(fields) > 1 or (
            _is_matrix(each) and not is_list(fields[0].type) and each.shape[1] in (-1, 1)
        )
        if len(fields) > 1 and (not _is_matrix(each) or each.shape[1] not in (-1, len(fields))):
            raise ScoreError(
                f"the input '{each.name}' of model '{scorer.name}' has the shape "
                f"{list(each.shape)}, which {len(fields)} columns do not make: {_list(chosen)}"
            )
        yield Input(each, fields, is_matrix=is_matrix, is_text=is_text)


def _is_matrix(told: TensorMetadata) -> bool:
    return len(told.shape) == 2


def _find(
    scorer: Scorer, told: TensorMetadata, schema: pa.Schema, taken: set[str]
) -> Sequence[str]:
    """Find the columns of an input that the job says nothing about."""
    if told.name in schema.names:
        return (told.name,)
    listed = told.parameters.get("columns")
    hint = f"name them: --column {told.name}=COLUMN"
    what = f"the input '{told.name}' of model '{scorer.name}', {told.datatype} {list(told.shape)}"
    if _is_matrix(told) and isinstance(listed, list | tuple) and listed:
        missing = [str(name) for name in listed if name not in schema.names]
        if missing:
            raise ScoreError(
                f"{what}, needs the column {_list(missing)}, "
                f"which the table has not; it has: {_fields(schema)}"
            )
        return [str(name) for name in listed]
    if told.parameters.get("optional"):
        return ()
    if not _is_matrix(told):
        raise ScoreError(
            f"{what}, needs a column '{told.name}', which the table has not; "
            f"it has: {_fields(schema)}; {hint}"
        )
    wanted = is_text if told.datatype.value == "BYTES" else is_number
    free = [field.name for field in schema if field.name not in taken and wanted(field.type)]
    size = told.shape[1]
    if not free or size not in (-1, len(free)):
        kind = "text" if wanted is is_text else "numbers"
        count = "columns" if size == -1 else f"{size} columns"
        raise ScoreError(
            f"{what}, needs {count} of {kind}, and the table has {len(free)} that no other input "
            f"takes: {_fields(schema)}; {hint},COLUMN,…"
        )
    return free


def _natural(
    schema: pa.Schema, named: Mapping[str, tuple[str, ...]], *, is_text: bool
) -> Iterator[Input]:
    """Make a tensor of each column, or of those that the job names."""
    chosen = dict(named) or {name: (name,) for name in schema.names}
    for name, columns in chosen.items():
        fields = [schema.field(column) for column in columns]
        told = natural(fields[0])
        if told is None:
            raise ScoreError(
                f"the model does not tell its inputs, and no tensor holds the column "
                f"'{fields[0].name}' of type {fields[0].type}; name those that it takes: "
                "--column INPUT=COLUMN"
            )
        shape = [-1, len(fields)] if len(fields) > 1 else told.shape
        told = msgspec.structs.replace(told, name=name, shape=shape)
        yield Input(told, fields, is_matrix=len(fields) > 1, is_text=is_text)


def _fields(schema: pa.Schema) -> str:
    listed = ", ".join(f"'{field.name}' ({field.type})" for field in [*schema][:_LISTED])
    more = len(schema) - _LISTED
    return f"{listed} and {more} more" if more > 0 else listed or "no columns"


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
