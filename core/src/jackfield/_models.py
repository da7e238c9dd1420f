"""What is live: models by name and version, their states, loading, reloading and unloading.

Owned by one server and used on its event loop. Foreign exceptions of a runtime are translated here
and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import enum
import logging
import re
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter_ns
from typing import TYPE_CHECKING, overload

import msgspec

from jackfield._loading import Loaded, load_runtime
from jackfield._monitors import Monitors
from jackfield._needs import find_cycle, find_needs
from jackfield._outputs import select_outputs
from jackfield._overrides import decode_overrides
from jackfield._peers import Beside, Peers
from jackfield._process.proxy import load_in_process
from jackfield._scheduling import (
    NEVER,
    Arrivals,
    Execution,
    Scheduler,
    choose_scheduler,
    choose_stream,
)
from jackfield._statistics import LoadStatistics, ModelStatistics
from jackfield._tracing import TraceSettings
from jackfield.errors import (
    CapacityError,
    DeadlineError,
    InvalidRequestError,
    JackfieldError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    RequestError,
    RuntimeFailedError,
    ServerNotReadyError,
)
from jackfield.messages import InferRequest, InferResponse, ModelMetadata, Timing
from jackfield.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence

    from jackfield._loading import OwnMetrics
    from jackfield._monitors import Observer
    from jackfield._repository import ModelSource, Repository
    from jackfield._routes import ModelRoute
    from jackfield._threads import ThreadBound
    from jackfield.runtime import Capabilities, Runtime

logger = logging.getLogger("jackfield")

#: What a server that was never started answers.
NOT_STARTED = (
    "it was not started; pass 'lifespan=server.lifespan' to the app that mounts it, "
    "or enter 'async with server:' in the lifespan that the app has"
)

#: Models that load at the same time; more would only share the disk and the GIL.
_LOADERS = 4


class ModelState(enum.StrEnum):
    """State of a model version, in the words of the repository extension."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


class IndexEntry(msgspec.Struct, frozen=True):
    """One line of the repository index."""

    name: str
    version: str
    state: ModelState
    reason: str


#: What a caller is told as it is. Not what a runtime meets as a client of another server, whose
#: address it may name.
_TOLD = (RequestError, CapacityError, RuntimeFailedError)


class Model:
    """One loaded model version: admits requests, runs its scheduler, counts."""

    def __init__(
        self,
        source: ModelSource,
        runtime: Runtime,
        metadata: ModelMetadata,
        *,
        scheduler: Scheduler,
        statistics: ModelStatistics,
        capabilities: Capabilities,
        traces: TraceSettings,
        routes: Sequence[ModelRoute] = (),
        metrics: OwnMetrics | None = None,
        bound: ThreadBound | None = None,
        needs: Sequence[str] = (),
    ) -> None:
        self.name = source.name
        self.version = source.version
        #: Names of the models that it calls.
        self.needs = needs
        self.metadata = metadata
        self.runtime_name = source.spec.name if source.spec else ""
        self._runtime = runtime
        #: Runs its requests; the shells look whether that is a matter of milliseconds.
        self.scheduler = scheduler
        self._bound = bound
        self._stream = choose_stream(runtime, bound)
        self.streams = self._stream is not None
        self.reads_headers = capabilities.reads_headers
        self.is_stateful = capabilities.stateful
        self._is_row_wise = capabilities.row_wise
        self.statistics = statistics
        self._outputs = frozenset(output.name for output in metadata.outputs)
        self._max_queue = source.settings.max_queue
        #: Paths that the runtime answers itself.
        self.routes = routes
        #: What the runtime counts itself.
        self.metrics = metrics
        self._visits = 0
        self._traces = traces
        self._idle = asyncio.Event()
        self._idle.set()
        self._beside = Beside(statistics)
        #: Who is shown what was answered; streams are not.
        self.observers: Sequence[Observer] = ()
        #: What was loaded in its place. Who found this one before may ask it after that: the body
        #: of its request was still to come.
        self.successor: Model | None = None

    @overload
    async def infer(self, request: InferRequest, /) -> InferResponse: ...

    @overload
    async def infer(self, /, **inputs: object) -> InferResponse: ...

    async def infer(
        self, request: InferRequest | None = None, /, **inputs: object
    ) -> InferResponse:
        """Compute a response.

        Args:
            request: At least one input; requested outputs are checked against the metadata.
            inputs: Instead of a request: an array for each input, by the input's name.

        Returns:
            The runtime's outputs, with the model's name and version and the request's id.

        Raises:
            DeadlineError: The caller's time is over, or the longest that a call may take.
            InvalidRequestError: An output is unknown, or the runtime refuses the request.
            ModelNotReadyError: The runtime does not come back from an earlier call.
            OverloadedError: `max_queue` requests are held already.
            RuntimeFailedError: The runtime raised; the log tells what.
            TypeError: An input is nothing that a tensor can be made of, or there is none.

        Example:
            ```python
            response = await server.model("iris").infer(x=[[5.1, 3.5, 1.4, 0.2]])
            response.arrays["predict"]
            ```
        """
        arrived = perf_counter_ns()
        if request is None or inputs:
            request = _request_of(request, inputs)
        if self.successor is not None:
            return await self._newest().infer(request)
        received = request.received_ns or arrived
        self._admit(request)
        call = None
        try:
            deadline = NEVER
            if request.parameters or request.deadline_ns:
                deadline = self._deadline(request, received, arrived)
            call = self.scheduler.submit(request, arrived, deadline)
            await call.future
            response, started, ended, rows, requests = call.execution
            outputs: Sequence[Tensor] = response.outputs
            if request.outputs:
                outputs = select_outputs(request.outputs, outputs, self.metadata)
        except BaseException as error:
            if call is not None:
                self.scheduler.leave(call)
            self._fail(error, perf_counter_ns() - received)
            raise
        finally:
            self._release()
        self.statistics.succeeded(received, arrived, started, ended, call.size, rows)
        if self._traces.is_on:
            self._trace(request, outputs, arrived=arrived, started=started, ended=ended)
        timing = Timing(received, arrived, started, ended, rows, requests)
        answer = InferResponse(
            outputs, response.parameters, self.name, self.version, request.id, timing
        )
        for observer in self.observers:
            observer.observe(request, answer)
        return answer

    def infer_here(
        self, request: InferRequest | None = None, /, **inputs: object
    ) -> InferResponse | None:
        """Compute a response in the calling thread, any one but the loop's, for another model.

        It saves two changes of threads, which cost more than a short call. For that nothing else
        may be under way in this model, and its runtime must be one that any thread may call.

        Args:
            request: As for `infer`.
            inputs: As for `infer`.

        Returns:
            As `infer`; None where that is the way, and nothing has happened.

        Raises:
            InvalidRequestError: As for `infer`; so do the others there.
        """
        arrived = perf_counter_ns()
        if request is None or inputs:
            request = _request_of(request, inputs)
        if self.successor is not None or self._traces.is_on:
            return None
        left_ns = request.deadline_ns - arrived if request.deadline_ns else NEVER
        if request.parameters or not request.inputs:
            return None
        if not self.scheduler.fits_here(request, left_ns):
            return None
        if request.outputs and self._outputs:
            self._check_outputs(request)
        if not self._beside.enter():
            return None
        statistics = self.statistics
        received = request.received_ns or arrived
        try:
            # Looked at after it was counted: the loop, which looks first and counts then, may have
            # let in one that is not seen here, and no more.
            if statistics.in_flight or statistics.beside > 1 or self._max_queue == 1:
                return None
            outcome = self.scheduler.answer_here(request)
            if not isinstance(outcome, Execution):
                raise outcome
            response, started, ended, rows, requests = outcome
            outputs: Sequence[Tensor] = response.outputs
            if request.outputs:
                outputs = select_outputs(request.outputs, outputs, self.metadata)
        except BaseException as error:
            self._fail(error, perf_counter_ns() - received)
            raise
        finally:
            self._beside.leave()
        statistics.succeeded(received, arrived, started, ended, rows)
        timing = Timing(received, arrived, started, ended, rows, requests)
        return InferResponse(
            outputs, response.parameters, self.name, self.version, request.id, timing
        )

    @overload
    def stream(self, request: InferRequest, /) -> AsyncGenerator[InferResponse, None]: ...

    @overload
    def stream(self, /, **inputs: object) -> AsyncGenerator[InferResponse, None]: ...

    async def stream(
        self, request: InferRequest | None = None, /, **inputs: object
    ) -> AsyncGenerator[InferResponse, None]:
        """Compute responses one after another; one alone where the runtime does not stream.

        Args:
            request: As for `infer`.
            inputs: As for `infer`.

        Yields:
            Responses, each with the model's name and version and the request's id. Closing the
            generator, or cancelling its task, ends the runtime's work.

        Raises:
            InvalidRequestError: As for `infer`; so do the others there.
        """
        if request is None or inputs:
            request = _request_of(request, inputs)
        if self.successor is not None:
            async with contextlib.aclosing(self._newest().stream(request)) as responses:
                async for response in responses:
                    yield response
            return
        if self._stream is None:
            yield await self.infer(request)
            return
        arrived = perf_counter_ns()
        self._admit(request)
        outputs: Sequence[Tensor] = ()
        try:
            async with contextlib.aclosing(self._stream(request)) as responses:
                async for response in responses:
                    if not isinstance(response, InferResponse):
                        raise _no_response("stream yielded", response)
                    outputs = response.outputs
                    # one without any tells of progress
                    if request.outputs and outputs:
                        outputs = select_outputs(request.outputs, outputs, self.metadata)
                    yield InferResponse(
                        outputs, response.parameters, self.name, self.version, request.id
                    )
        except BaseException as error:  # GeneratorExit too: a caller who leaves has no answer
            self._fail(error, perf_counter_ns() - (request.received_ns or arrived))
            raise
        finally:
            self._release()
        ended = perf_counter_ns()
        size = shape[0] if self._is_row_wise and (shape := request.inputs[0].shape) else 1
        self.statistics.executed(requests=1, rows=size, ns=ended - arrived, waiting=0)
        received = request.received_ns or arrived
        self.statistics.succeeded(received, arrived, arrived, ended, size)
        if self._traces.is_on:
            self._trace(request, outputs, arrived=arrived, started=arrived, ended=ended)

    def _newest(self) -> Model:
        model = self
        while model.successor is not None:
            model = model.successor
        return model

    @property
    def problem(self) -> str:
        """Why it can't answer now, although it is loaded; empty when it can."""
        return self.scheduler.problem or str(getattr(self._runtime, "problem", ""))

    def _admit(self, request: InferRequest) -> None:
        """Let a request in, or refuse it."""
        if not request.inputs:  # the shells refuse it earlier
            raise InvalidRequestError(
                "inputs", expected="at least one", found="none", model=self.name
            )
        if request.outputs and self._outputs:
            self._check_outputs(request)
        statistics = self.statistics
        if statistics.in_flight + statistics.beside >= self._max_queue:
            statistics.rejected_count += 1
            raise OverloadedError(self.name, limit=self._max_queue)
        statistics.in_flight += 1
        self._idle.clear()

    def _deadline(self, request: InferRequest, received: int, arrived: int) -> int:
        """Find when the caller's time is over: by the transport, or by `timeout`."""
        deadline = request.deadline_ns or NEVER
        timeout_us = request.parameters.get("timeout", 0)
        if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
            raise InvalidRequestError(
                "parameters.timeout",
                expected="an integer of 0 or more, in microseconds",
                found=repr(timeout_us),
                model=self.name,
            )
        if timeout_us:
            deadline = min(deadline, received + timeout_us * 1000)
        if deadline <= arrived:
            raise DeadlineError(self.name, timeout_s=(deadline - received) * 1e-9)
        return deadline

    def _release(self) -> None:
        self.statistics.in_flight -= 1
        if not self.statistics.in_flight and not self._visits:
            self._idle.set()

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """Keep the runtime while one of its own routes answers; that is no inference.

        Raises:
            OverloadedError: `max_queue` of them are under way already.
        """
        if self._visits >= self._max_queue:
            raise OverloadedError(self.name, limit=self._max_queue)
        self._visits += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._visits -= 1
            if not self.statistics.in_flight and not self._visits:
                self._idle.set()

    def _fail(self, error: BaseException, ns: int) -> None:
        """Count a failure; raise what the caller may know of it instead."""
        self.statistics.failed(ns, _outcome(error))
        self.translate(error)

    def translate(self, error: BaseException) -> None:
        """Raise what the caller may know of what a runtime raised, where that is something else."""
        if isinstance(error, InvalidRequestError) and not error.model:
            raise error.for_model(self.name) from error
        # the seam where foreign code runs: whatever it raises is logged here and told to nobody;
        # SystemExit, if let through, would end the event loop
        if isinstance(error, Exception | SystemExit) and not isinstance(error, _TOLD):
            logger.error("model '%s' %s failed", self.name, self.version, exc_info=error)
            raise RuntimeFailedError(self.name, self.version) from error

    def _trace(
        self,
        request: InferRequest,
        outputs: Sequence[Tensor],
        *,
        arrived: int,
        started: int,
        ended: int,
    ) -> None:
        self._traces.trace(
            self.name,
            self.version,
            request=request,
            outputs=outputs,
            received=request.received_ns or arrived,
            arrived=arrived,
            started=started,
            ended=ended,
        )

    def _check_outputs(self, request: InferRequest) -> None:
        for index, output in enumerate(request.outputs):
            if output.name not in self._outputs:
                raise InvalidRequestError(
                    f"outputs[{index}].name",
                    expected=f"one of {', '.join(sorted(self._outputs))}",
                    found=f"'{output.name}'",
                    model=self.name,
                )

    async def close(self, timeout_s: float | None = None) -> None:
        """Wait for the requests in flight, then free the runtime.

        Args:
            timeout_s: The longest wait; None waits for all. A runtime that is still in use then is
                not freed.
        """
        for observer in self.observers:
            observer.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._beside.close()
                await self._idle.wait()
                await self.scheduler.drain()
        except TimeoutError:
            logger.warning(
                "model '%s' %s: requests did not end within %g s",
                self.name,
                self.version,
                timeout_s,
            )
            self.scheduler.close()
            return
        self.scheduler.close()
        # a thread of its own name: those of the loop are waited for without end when it closes
        closer = ThreadPoolExecutor(1, thread_name_prefix="jackfield-close")
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().run_in_executor(closer, self._runtime.close)
        except TimeoutError:
            logger.warning("model '%s' %s did not close in time", self.name, self.version)
        # foreign code: a runtime that fails to free itself must not keep others from closing
        except (Exception, SystemExit):
            logger.exception("model '%s' %s failed to close", self.name, self.version)
        finally:
            if self._bound is not None:
                closer.submit(self._bound.close)
            closer.shutdown(wait=False)


def _outcome(error: BaseException) -> str:
    """Name a failure for the statistics."""
    if isinstance(error, DeadlineError):
        return "deadline"
    if isinstance(error, RequestError):
        return "invalid"
    if isinstance(error, CapacityError):
        return "unavailable"
    # a caller who leaves a stream closes its generator
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    return "failure"


def _no_response(what: str, found: object) -> TypeError:
    message = f"{what} {type(found).__name__}, not InferResponse"
    return TypeError(message)


def _request_of(request: InferRequest | None, inputs: Mapping[str, object]) -> InferRequest:
    """Make a request of arrays."""
    if request is not None or not inputs:
        message = "expected one request, or inputs by their names"
        raise TypeError(message)
    return InferRequest([Tensor.from_array(name, array) for name, array in inputs.items()])


def _nothing() -> None:
    """Do nothing."""


@dataclasses.dataclass
class _Entry:
    """A model version that is known, whether it serves or not."""

    source: ModelSource
    state: ModelState = ModelState.LOADING
    reason: str = ""
    model: Model | None = None


class Models:
    """All models of one server.

    Args:
        repository: Where they come from.
        threads: What a framework's pools may use for one call, where a model's settings don't say.
    """

    def __init__(self, repository: Repository, *, threads: int = 1) -> None:
        self._repository = repository
        self._threads = threads
        self.traces = TraceSettings()
        self.arrivals = Arrivals()
        self.loads = LoadStatistics()
        self._monitors = Monitors(self.get)
        self._entries: dict[str, dict[str, _Entry]] = {}
        # what the request's path reads: one look-up; version "" is the default version
        self._serving: dict[tuple[str, str], Model] = {}
        #: What served when the server was stopped, until all are closed.
        self._draining: dict[tuple[str, str], Model] = {}
        #: Called when models have come or gone.
        self.on_change: Callable[[], None] = _nothing
        #: The same by the paths of the REST API's inference.
        self.paths: dict[str, Model] = {}
        # a lock is kept while somebody holds it or waits: names come from callers
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._closing: set[asyncio.Task[None]] = set()
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="jackfield-load")
        self._opened = False
        self._started = False
        self._closed = False

    # ---- the request's path ----

    def get(self, name: str, version: str = "") -> Model:
        """Get a model that serves.

        Args:
            name: Its name.
            version: Its version; empty gets the un-versioned or else the newest ready one.

        Raises:
            ModelNotFoundError: There is none; close names are told.
            ModelNotReadyError: It is loading, unloading or failed to load; the reason is told.
        """
        model = self._serving.get((name, version))
        if model is None:
            raise self._absent(name, version)
        return model

    def _get_peer(self, name: str, version: str) -> Model:
        """Get a model for another one, whose last requests may still need it when all close."""
        return self._draining.get((name, version)) or self.get(name, version)

    def _absent(self, name: str, version: str) -> JackfieldError:
        if not self._opened:
            return ServerNotReadyError(NOT_STARTED)
        versions = self._entries.get(name)
        if versions is None:
            return ModelNotFoundError(name, close=_lookalikes(name, self._entries))
        if version and version not in versions:
            return ModelNotFoundError(name, version, close=sorted(filter(None, versions)))
        entries = [versions[version]] if version else list(versions.values())
        reasons = {entry.reason or entry.state.lower() for entry in entries}
        return ModelNotReadyError(name, version, reason="; ".join(sorted(reasons)))

    # ---- what is there ----

    @property
    def problem(self) -> str:
        """Why the server is not ready; empty when it is.

        It is ready when everything was tried once and something serves (or nothing was asked for):
        a model that failed does not keep the others from serving.
        """
        entries = [entry for versions in self._entries.values() for entry in versions.values()]
        if not self._opened:
            return NOT_STARTED
        if not self._started:
            return "models are loading"
        if entries and not self._serving:
            return "no model is ready"
        return ""

    def names(self) -> list[str]:
        """List the models that serve."""
        return sorted({name for name, _ in self._serving})

    def statistics(self, name: str = "", version: str = "") -> list[dict[str, object]]:
        """Give what models did so far, in the form of the statistics extension.

        Args:
            name: One model; empty gives all.
            version: One version; empty gives all of them.

        Raises:
            ModelNotFoundError: There is none.
            ModelNotReadyError: It does not serve.
        """
        if name:
            self.get(name, version)
        return [
            model.statistics.record(model.name, model.version)
            for model in self.loaded()
            if (not name or model.name == name) and (not version or model.version == version)
        ]

    def loaded(self) -> list[Model]:
        """List the models that serve, each version once, by name and version."""
        models = {(model.name, model.version): model for model in self._serving.values()}
        return [
            models[key] for key in sorted(models, key=lambda key: (key[0], version_key(key[1])))
        ]

    def versions(self, name: str) -> list[str]:
        """List the ready versions of a model, oldest first; un-versioned ones are left out."""
        entries = self._entries.get(name, {}).values()
        ready = [entry.source.version for entry in entries if entry.model is not None]
        return sorted(filter(None, ready), key=version_key)

    def metadata(self, name: str, version: str = "") -> ModelMetadata:
        """Get a model's metadata; raises as `get` does."""
        model = self.get(name, version)
        return msgspec.structs.replace(model.metadata, versions=self.versions(name))

    def state(self, name: str, version: str = "") -> IndexEntry:
        """Get the state of a model version.

        Raises:
            ModelNotFoundError: There is none.
        """
        model = self._serving.get((name, version))
        if model is not None:
            return _line(name, model.version, ModelState.READY, "", model)
        error = self._absent(name, version)
        if isinstance(error, ModelNotFoundError):
            raise error
        return IndexEntry(name, version, ModelState.UNAVAILABLE, str(error))

    async def index(self) -> list[IndexEntry]:
        """List all model versions, those on disk that were never loaded included."""
        sources = await self._scan()
        lines = {
            (name, version): _line(name, version, entry.state, entry.reason, entry.model)
            for name, versions in self._entries.items()
            for version, entry in versions.items()
        }
        for source in sources:
            line = IndexEntry(
                source.name, source.version, ModelState.UNAVAILABLE, source.problem or "not loaded"
            )
            lines.setdefault((source.name, source.version), line)
        return [lines[key] for key in sorted(lines, key=lambda key: (key[0], version_key(key[1])))]

    # ---- loading ----

    def open(self) -> None:
        """Begin to take requests, anew after a `close`; models come with `start`.

        Raises:
            RuntimeError: It is open.
        """
        if self._opened and not self._closed:
            message = "the server is started already"
            raise RuntimeError(message)
        if self._closed:
            # not cleared: what still loads for the run that was closed finds that it is too late
            self._entries = {}
            self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="jackfield-load")
        self._opened, self._started, self._closed = True, False, False

    async def start(self, *, load: bool = True) -> None:
        """Load every model; one that fails is UNAVAILABLE with its reason.

        Args:
            load: False only notes which models there are.
        """
        sources = await self._scan()
        for source in sources:
            _warn(source)
            entry = self._note(source)
            if not load:
                entry.state, entry.reason = ModelState.UNAVAILABLE, "not loaded"
        if load:
            loads: dict[str, list[asyncio.Task[str]]] = {}
            for source in sources:
                task = asyncio.ensure_future(self._load(source, after=loads))
                loads.setdefault(source.name, []).append(task)
            await asyncio.gather(*(task for tasks in loads.values() for task in tasks))
        self._started = True

    async def load(self, name: str, parameters: Mapping[str, object] | None = None) -> None:
        """Load a model as it lies on disk now: all its versions, new, changed and old.

        Versions that are gone from the disk are unloaded. A version that serves goes on until its
        successor is ready, and stays if that fails.

        Args:
            name: The model.
            parameters: `config`, a JSON text, overrides some of its settings until the next load.

        Raises:
            InvalidRequestError: A parameter is unknown, or overrides what only the operator may.
            ModelNotFoundError: It is not on disk.
            ModelNotReadyError: A version failed to load; the reason is told.
            ServerNotReadyError: The server was not started.
        """
        if not self._opened:
            raise ServerNotReadyError(NOT_STARTED)
        async with self._lock(name):
            found = await self._scan()
            sources = [source for source in found if source.name == name]
            if not sources:
                names = {source.name for source in found}
                raise ModelNotFoundError(name, close=_lookalikes(name, names))
            overrides = decode_overrides(parameters or {}, name)
            sources = [_override(source, overrides) for source in sources]
            for source in sources:
                _warn(source)
            problems = await asyncio.gather(*(self._load(source) for source in sources))
            gone = set(self._entries[name]) - {source.version for source in sources}
            for version in gone:
                self._retire(self._entries[name].pop(version).model)
            self._route(name)
        self.on_change()
        if any(problems):
            reasons = "; ".join(problem for problem in problems if problem)
            raise ModelNotReadyError(name, reason=reasons)

    async def unload(self, name: str) -> None:
        """Unload all versions of a model, when their requests in flight are answered.

        Raises:
            ModelNotFoundError: There is none.
        """
        async with self._lock(name):
            versions = self._entries.get(name)
            if versions is None:
                raise self._absent(name, "")
            models = [entry.model for entry in versions.values() if entry.model]
            for entry in versions.values():
                entry.state, entry.reason, entry.model = ModelState.UNLOADING, "", None
            self._route(name)
            for model in [model for model in models if model.problem]:
                models.remove(model)
                self._retire(model)  # its call may never end
            await asyncio.gather(*(model.close() for model in models))
            for entry in versions.values():
                entry.state, entry.reason = ModelState.UNAVAILABLE, "unloaded"
        self.on_change()

    async def close(self, timeout_s: float) -> None:
        """Unload everything; requests in flight have `timeout_s` seconds to end."""
        self._closed = True
        entries = [entry for versions in self._entries.values() for entry in versions.values()]
        self._draining = dict(self._serving)
        self._serving.clear()
        self.paths.clear()
        models = [entry.model for entry in entries if entry.model is not None]
        for entry in entries:
            entry.state, entry.reason, entry.model = ModelState.UNLOADING, "the server stops", None
        deadline, left_s = asyncio.get_running_loop().time() + timeout_s, timeout_s
        while models:  # who calls others goes before them
            needed = {need for model in models for need in model.needs}
            first = [model for model in models if model.name not in needed] or models
            await asyncio.gather(*(model.close(left_s) for model in first))
            models = [model for model in models if model not in first]
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        self._draining = {}
        if self._closing:  # versions that were replaced; one may hang in its runtime
            await asyncio.wait([*self._closing], timeout=timeout_s)
        self.traces.close()
        self._loaders.shutdown(wait=False, cancel_futures=True)

    def _note(self, source: ModelSource) -> _Entry:
        """Get the entry of a version, or make one."""
        versions = self._entries.setdefault(source.name, {})
        return versions.setdefault(source.version, _Entry(source))

    async def _load(
        self, source: ModelSource, after: Mapping[str, Sequence[asyncio.Task[str]]] | None = None
    ) -> str:
        """Load one version beside what serves, and swap.

        Args:
            source: The model version.
            after: Loads that are under way, by model name: it waits for those of what it needs.

        Returns:
            The problem; empty if there is none.
        """
        entry, entries = self._note(source), self._entries
        if entry.model is None:
            entry.state, entry.reason = ModelState.LOADING, ""
        try:
            needs = await self._await_needs(source, after or {})
            started = perf_counter_ns()
            model = await self._build(source, needs)
        except ModelLoadError as error:
            self.loads.failed(source.name, source.version)
            logger.error("model '%s' %s: %s", source.name, source.version, error)
            if entry.model is None:
                entry.state = ModelState.UNAVAILABLE
            entry.reason = f"failed to load: {error}"
            return entry.reason
        seconds = (perf_counter_ns() - started) * 1e-9
        self.loads.succeeded(source.name, source.version, seconds)
        if self._closed or entries is not self._entries:
            await model.close()
            return "the server stops"
        old, entry.source, entry.model = entry.model, source, model
        entry.state, entry.reason = ModelState.READY, ""
        self._route(source.name)
        if old is not None:
            old.successor = model
        self._retire(old)
        return ""

    async def _await_needs(
        self, source: ModelSource, loads: Mapping[str, Sequence[asyncio.Task[str]]]
    ) -> Sequence[str]:
        """Wait until all that a model needs serves; returns their names.

        Raises:
            ModelLoadError: One of them doesn't.
        """
        needs = find_needs(source)
        if not needs:
            return needs
        known = {
            name: [need for entry in versions.values() for need in find_needs(entry.source)]
            for name, versions in self._entries.items()
        }
        if cycle := find_cycle({**known, source.name: needs}, source.name):
            way = " -> ".join(f"'{name}'" for name in cycle)
            raise ModelLoadError(f"models need each other, so that none can be loaded: {way}")
        for need in needs:
            if tasks := loads.get(need):
                await asyncio.wait(tasks)
            try:
                self.get(need)
            except JackfieldError as error:
                raise ModelLoadError(f"it needs the model '{need}': {error}") from error
        return needs

    async def _build(self, source: ModelSource, needs: Sequence[str]) -> Model:
        threads = source.settings.threads or self._threads
        loop = asyncio.get_running_loop()
        peers = Peers(self._get_peer, loop)
        loading = self._loaders.submit(_load_somewhere, source, threads, loop, peers)
        try:
            loaded = await asyncio.wrap_future(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_close_unused)
            raise
        statistics = ModelStatistics()
        try:
            scheduler = choose_scheduler(
                source.name,
                loaded.runtime,
                loaded.capabilities,
                source.settings,
                loaded.metadata,
                statistics=statistics,
                arrivals=self.arrivals,
                bound=loaded.bound,
            )
            observers = self._monitors.create(
                source.name, source.version, source.settings.monitors, loaded.metadata
            )
        except ModelLoadError:
            await asyncio.to_thread(loaded.runtime.close)
            if loaded.bound is not None:
                loaded.bound.close()
            raise
        model = Model(
            source,
            loaded.runtime,
            loaded.metadata,
            scheduler=scheduler,
            statistics=statistics,
            capabilities=loaded.capabilities,
            traces=self.traces,
            routes=loaded.routes,
            metrics=loaded.metrics,
            bound=loaded.bound,
            needs=needs,
        )
        model.observers = observers
        return model

    def _retire(self, model: Model | None) -> None:
        """Let a version that no path reaches answer its requests in flight, then free it."""
        if model is not None:
            task = asyncio.ensure_future(model.close())
            self._closing.add(task)
            task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not self._closed:
            self.on_change()

    def _route(self, name: str) -> None:
        """Work out anew which version each path of a model goes to."""
        ready = {
            version: entry.model
            for version, entry in self._entries.get(name, {}).items()
            if entry.model is not None
        }
        for key in [key for key in self._serving if key[0] == name]:
            del self._serving[key]
        for path in [path for path, model in self.paths.items() if model.name == name]:
            del self.paths[path]
        if ready and "" not in ready:  # an un-versioned model goes before all, as in MLServer
            ready[""] = ready[max(ready, key=version_key)]
        for version, model in ready.items():
            middle = f"/versions/{version}" if version else ""
            self._serving[name, version] = model
            self.paths[f"/v2/models/{name}{middle}/infer"] = model

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _scan(self) -> list[ModelSource]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._loaders, self._repository.scan)


def _line(
    name: str, version: str, state: ModelState, reason: str, model: Model | None
) -> IndexEntry:
    """Tell a model version's state; one that does not come back from a call is not ready."""
    if model is not None and model.problem:
        return IndexEntry(name, version, ModelState.UNAVAILABLE, model.problem)
    return IndexEntry(name, version, state, reason)


def version_key(version: str) -> tuple[object, ...]:
    """Order versions as numbers: ``v10`` after ``v3``, ``1.0.0-rc1`` before ``1.0.0``.

    Source: Semantic Versioning 2.0, section 11, with missing parts allowed.
    """
    release, _, pre = version.removeprefix("v").partition("-")
    # a word stands before a number as a release ("blue" < "1"), and after one in a pre-release
    return _tokens(release, numbers_last=True), not pre, _tokens(pre, numbers_last=False)


def _tokens(text: str, *, numbers_last: bool) -> tuple[tuple[bool, int, str], ...]:
    parts = re.findall(r"\d+|[^\d.]+", text)
    return tuple(
        (part.isdecimal() is numbers_last, int(part) if part.isdecimal() else 0, part)
        for part in parts
    )


#: Comparing takes time that grows with the square of the length, in characters.
_LONGEST_COMPARED = 200


def _lookalikes(name: str, known: Iterable[str]) -> list[str]:
    """Find names for a hint to the caller."""
    return difflib.get_close_matches(name, known, n=3) if len(name) <= _LONGEST_COMPARED else []


def _override(source: ModelSource, overrides: Mapping[str, object]) -> ModelSource:
    settings = msgspec.structs.replace(source.settings, **overrides)
    return dataclasses.replace(source, settings=settings)


def _warn(source: ModelSource) -> None:
    for warning in source.warnings:
        logger.warning("model '%s': %s", source.name, warning)


def _load_somewhere(
    source: ModelSource, threads: int, loop: asyncio.AbstractEventLoop, peers: Peers
) -> Loaded:
    """Load in this thread, or in a process of the model's own."""
    if source.settings.scheduler == "process":
        return load_in_process(source, loop, threads=threads)
    return load_runtime(source, threads=threads, find_model=peers.model)


def _close_unused(loading: Future[Loaded]) -> None:
    """Free what was loaded for a start that was given up; runs in the loader's thread."""
    if not loading.cancelled() and loading.exception() is None:
        try:
            loaded = loading.result()
            loaded.runtime.close()
            if loaded.bound is not None:
                loaded.bound.close()
        # foreign code, and nobody is left to be told
        except (Exception, SystemExit):
            logger.exception("a model that loaded too late failed to close")
