"""Stand in the server for a runtime that lives in a host, a process of its own or with others.

To its model it is a runtime as any other, whose `infer` is a coroutine function. While its process
is started again its calls wait.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from time import perf_counter_ns
from typing import TYPE_CHECKING, cast

import msgspec

from jackfield._label import label_model
from jackfield._loading import Loaded as LoadedModel
from jackfield._process.frames import encode
from jackfield._process.messages import Load, Next, Place, Resolve, Spec
from jackfield._process.metrics import ProcessMetrics
from jackfield._process.routes import remote_routes
from jackfield._process.suspects import REFUSED_S, Suspects
from jackfield.errors import (
    DeadlineError,
    DeadlyRequestError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotReadyError,
)
from jackfield.messages import InferRequest
from jackfield.runtime import RuntimeSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from jackfield._environments import Running
    from jackfield._peers import PeerModel
    from jackfield._process.callbacks import Find
    from jackfield._process.frames import Buffer
    from jackfield._process.host import Host
    from jackfield._process.hosts import Hosts
    from jackfield._process.messages import Loaded
    from jackfield._process.routes import RouteCalls
    from jackfield._repository import ModelSource
    from jackfield._routes import ModelRoute
    from jackfield.messages import InferResponse, ModelMetadata
    from jackfield.runtime import Capabilities

logger = logging.getLogger("jackfield")


_NO_REQUEST = InferRequest(())


def resolve_in_host(
    source: ModelSource,
    hosts: Hosts,
    loop: asyncio.AbstractEventLoop,
    running: Running | None = None,
) -> Resolved:
    """Find the runtime of a model whose environment is its own; called in a thread.

    Args:
        source: The model.
        hosts: The server's.
        loop: The loop that will call it.
        running: As for `Hosts.join`.

    Raises:
        ModelLoadError: There is none, or the environment can't be made.
    """
    host = hosts.join(source, loop, running)
    try:
        found = host.resolve(Resolve(host.new_model(), _place(source)))
    except BaseException:
        hosts.leave(host, source)
        raise
    spec = RuntimeSpec(name=found.runtime, runtime="", capabilities=found.capabilities)
    settings = msgspec.structs.replace(source.settings, needs=list(found.needs))
    resolved = dataclasses.replace(source, spec=spec, settings=settings)
    return Resolved(resolved, lambda: hosts.leave(host, source))


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A model whose runtime was found in its environment; its host is kept until `leave`."""

    source: ModelSource
    leave: Callable[[], object]


def load_in_process(
    source: ModelSource,
    hosts: Hosts,
    loop: asyncio.AbstractEventLoop,
    *,
    threads: int = 1,
    find_peer: Find | None = None,
) -> LoadedModel:
    """Load a model in its host; called in a thread.

    Args:
        source: The model.
        hosts: The server's.
        loop: The loop that will call its `infer`; it runs.
        threads: As for `load_runtime`.
        find_peer: Finds other models for it, on the loop; None where there are none.

    Returns:
        As `load_runtime` in this process would, with a `ProcessRuntime`, which has the metrics.

    Raises:
        ModelLoadError: It can't be served, in the words that it would be refused with here, or its
            process died.
    """
    runtime = ProcessRuntime(source, hosts, loop, threads=threads, find_peer=find_peer)
    runtime.load()
    metadata, capabilities = runtime.metadata(), runtime.capabilities
    return LoadedModel(runtime, metadata, capabilities, runtime.routes, runtime.metrics)


class ProcessRuntime:
    """A runtime whose calls are answered by a host.

    `load` and `close` are called in threads, all else on the loop.

    Args:
        source: What to load.
        hosts: The server's.
        loop: Where `infer` and `stream` are called.
        threads: What its framework's pools may use there for one call.
        find_peer: Finds other models for it, on the loop.
    """

    def __init__(
        self,
        source: ModelSource,
        hosts: Hosts,
        loop: asyncio.AbstractEventLoop,
        *,
        threads: int = 1,
        find_peer: Find | None = None,
    ) -> None:
        #: Its name and version.
        self.facts = (source.name, source.version)
        #: Finds other models for it.
        self.find_peer = find_peer or _find_none
        #: Paths that it answers itself; set by `load`.
        self.routes: Sequence[ModelRoute] = ()
        self._source = source
        self._hosts = hosts
        self._loop = loop
        self._threads = threads
        self._host: Host | None = None
        #: Stands for it in what is sent.
        self.number = 0
        #: An async generator function where the child's runtime streams; set by `load`.
        self.stream: Callable[[InferRequest], AsyncGenerator[InferResponse, None]] | None = None
        #: What the model counts itself, as its process told last.
        self.metrics = ProcessMetrics()
        #: Why it can't answer now; empty when it can.
        self.problem = "loading"
        #: Whether its process is started again without it.
        self.is_benched = False
        #: Deaths of the process, one after the other, while it was loaded again.
        self.fatal_loads = 0
        #: What its process died of.
        self.suspects = Suspects(is_row_wise=False)
        self._down_since = 0.0
        self._one_by_one = asyncio.Lock()
        self._loaded: Loaded | None = None
        # what the threads share
        self._changing = threading.Lock()
        self._is_closed = False

    @property
    def pid(self) -> int:
        """The number of its process; 0 for none."""
        return self._host.pid if self._host else 0

    @property
    def capabilities(self) -> Capabilities:
        """What the child's runtime declares."""
        return self._found.capabilities

    @property
    def is_plain(self) -> bool:
        """Whether the child's `infer` is no coroutine function: each call takes a thread."""
        return self._found.is_plain

    @property
    def is_loaded(self) -> bool:
        """Whether it has served: then it is loaded again after a death. For any thread."""
        return self._loaded is not None

    @property
    def _found(self) -> Loaded:
        assert self._loaded is not None, "load was not called, or failed"
        return self._loaded

    @property
    def _home(self) -> Host:
        assert self._host is not None, "load was not called"
        return self._host

    def load(self) -> None:
        """Have the model loaded, in a process that is started for it where there is none.

        Raises:
            ModelLoadError: It can't be served, or the process died.
        """
        _refuse_contradiction(self._source)
        host = self._hosts.join(self._source, self._loop)
        with self._changing:
            is_closed = self._is_closed
            if not is_closed:
                self._host, self.number = host, host.new_model()
        if is_closed:
            self._hosts.leave(host, self._source)
            problem = "it is unloaded"
            raise ModelLoadError(problem)
        try:
            self._loaded = host.load(self, self.describe())
        except BaseException:
            self.close()
            raise
        self.suspects = Suspects(is_row_wise=self.capabilities.row_wise)
        if self._loaded.streams:
            self.stream = self._stream
        self.routes = remote_routes(self._loaded.routes, self.number, self)
        try:
            self._loop.call_soon_threadsafe(self._begin)
        except RuntimeError:  # the loop is closed: nobody will ask
            self.close()

    def _begin(self) -> None:
        if self._is_closed:
            self.problem = "it is unloaded"
        elif self.problem == "loading":  # else it died since
            self.come_up()

    def describe(self) -> Load:
        """Tell the child what to load."""
        return Load(self.number, _place(self._source), self._threads)

    def is_same(self, loaded: Loaded) -> bool:
        """Tell whether what was loaded again is the model that was loaded first."""
        return _promise(loaded) == _promise(self._found)

    def metadata(self) -> ModelMetadata:
        """Give what the child told."""
        return self._found.metadata

    # ---- calls ----

    async def infer(self, request: InferRequest) -> InferResponse:
        """Have the child compute; while its process is started again the call waits.

        Raises:
            DeadlineError: The request's time was over before the process was there.
            DeadlyRequestError: The process died of this request, more than once.
            InvalidRequestError: The child's runtime refuses the request, or the request can't be
                passed on: it is too large, or a parameter is no value that a message holds.
            ModelNotReadyError: The process died; the reason says how.
            RuntimeFailedError: The child's runtime raised something else; the log has the trace.
        """
        if self.problem:
            await self._wait(request)
        if self.suspects and self.suspects.holds(request):
            return await self._infer_suspect(request)
        host = self._home
        pending = host.begin(self, request, is_stream=False, is_suspect=False)
        try:
            response = await pending.future
        finally:
            if host.forget(pending):  # its caller has gone
                host.cancel(pending)
        return cast("InferResponse", response)

    async def _infer_suspect(self, request: InferRequest) -> InferResponse:
        # one at a time: of those that are under way at the next death only one is suspect
        async with self._one_by_one:
            if self.problem:
                await self._wait(request)
            self._refuse_deadly(request)
            host = self._home
            pending = host.begin(self, request, is_stream=False, is_suspect=True)
            try:
                response = await pending.future
            finally:
                if host.forget(pending):
                    host.cancel(pending)
        self.suspects.clear(request)
        return cast("InferResponse", response)

    async def _stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """Have the child compute one response after the other, each when it is asked for.

        Yields:
            The responses.

        Raises:
            InvalidRequestError: As for `infer`; so do the others there.
        """
        if self.problem:
            await self._wait(request)
        self._refuse_deadly(request)
        host = self._home
        is_suspect = self.suspects.holds(request)
        pending = host.begin(self, request, is_stream=True, is_suspect=is_suspect)
        is_over = False
        try:
            while (response := await pending.future) is not None:
                yield response
                if self.problem or not host.go_on(pending):
                    raise self._not_ready()
                host.tell(Next(pending.number))
            is_over = True
        finally:
            host.forget(pending)
            if not is_over:
                host.cancel(pending)
        self.suspects.clear(request)

    async def ready_routes(self, asked: Callable[[], InferRequest]) -> RouteCalls:
        """Get what asks the process for what the model's own paths answer.

        Args:
            asked: Describes what is to be asked, for the case that the process dies of it.

        Raises:
            DeadlyRequestError: As for `infer`; so is the other one there.
        """
        if self.problem:
            await self._wait()
        if self.suspects:
            self._refuse_deadly(asked())
        routes = self._home.routes
        assert routes is not None, "a member that is up has a link"
        return routes

    async def _wait(self, request: InferRequest = _NO_REQUEST) -> None:
        """Wait until the process is there again, where that may be soon."""
        host, now = self._host, self._loop.time()
        until = self._down_since + self._source.settings.max_restart_time
        is_own = False
        if request.deadline_ns:
            own = now + (request.deadline_ns - perf_counter_ns()) * 1e-9
            is_own, until = own < until, min(own, until)
        while self.problem:
            if host is None or host.is_closed or host.is_crashing or not self._is_expected:
                raise self._not_ready()
            try:
                await host.changed(until)
            except TimeoutError:
                if not is_own:
                    raise self._not_ready() from None
                began = request.received_ns or perf_counter_ns()
                timeout_s = max(0.0, (request.deadline_ns - began) * 1e-9)
                raise DeadlineError(self.facts[0], timeout_s=timeout_s) from None

    @property
    def _is_expected(self) -> bool:
        """Whether the process is to come up with it."""
        return self.is_loaded and not self.is_benched and not self._is_closed

    def _not_ready(self) -> ModelNotReadyError:
        return ModelNotReadyError(*self.facts, reason=self.problem)

    def _refuse_deadly(self, request: InferRequest) -> None:
        if how := self.suspects.refusal(request):
            raise DeadlyRequestError(*self.facts, how=how)

    def is_suspect(self, request: InferRequest) -> bool:
        """Tell whether a request is to be merged with none: the process may have died of it."""
        return self.suspects.holds(request)

    # ---- what the host tells ----

    def come_up(self) -> None:
        """Take notice that the process serves it."""
        self.problem = ""

    def go_down(self, problem: str) -> None:
        """Take notice of why it can't answer."""
        if not self.problem:
            self._down_since = self._loop.time()
        self.problem = problem

    def fail(self, future: asyncio.Future[InferResponse | None], reason: str) -> None:
        """Tell a caller that the process died."""
        if not future.done():
            future.set_exception(ModelNotReadyError(*self.facts, reason=reason))

    def blame(
        self,
        requests: Sequence[InferRequest],
        how: str,
        *,
        is_own_doing: bool,
        only_suspect: InferRequest | None,
    ) -> None:
        """Take notice of what was under way when the process died.

        Args:
            requests: All of this model; what was asked of a path as `RouteCalls` describes it.
            how: How the process ended.
            is_own_doing: Whether nobody else can have ended it.
            only_suspect: The one that was under way at a death before, too, if it is only one.
        """
        self.suspects.suspect(requests, is_own_doing=is_own_doing)
        if only_suspect is not None and self.suspects.has_enough(only_suspect):
            self.suspects.refuse(only_suspect, how)
            logger.error(
                "%s: its process %s, not for the first time, while it computed a "
                "request with the same inputs (%s); that request is refused for %g s, or until the "
                "model is loaded anew",
                label_model(*self.facts),
                how,
                ", ".join(repr(each.name) for each in only_suspect.inputs),
                REFUSED_S,
            )

    def close(self) -> None:
        """Have the child close its runtime; the last one of a process ends it."""
        with self._changing:
            was_closed, self._is_closed = self._is_closed, True
            host = self._host
        if was_closed or host is None:
            return
        if not self._hosts.leave(host, self._source) and self.is_loaded:
            host.unload(self)


def _promise(loaded: Loaded) -> list[Buffer]:
    """Write what callers rely on: not the parameters, which may tell what a load has measured."""
    metadata = msgspec.structs.replace(loaded.metadata, parameters={})
    # not the records: a NaN among a tensor's parameters differs from itself
    return encode(msgspec.structs.replace(loaded, metadata=metadata))


def _find_none(name: str, version: str) -> PeerModel:
    raise ModelNotFoundError(name, version)


def _refuse_contradiction(source: ModelSource) -> None:
    if source.settings.scheduler in ("direct", "thread"):
        problem = (
            f"scheduler '{source.settings.scheduler}' does not fit: its environment or "
            "inference_pool_gid puts it into another process"
        )
        raise ModelLoadError(problem)


def _place(source: ModelSource) -> Place:
    if source.problem:
        raise ModelLoadError(source.problem)
    parameters = msgspec.structs.replace(
        source.settings.parameters, environment_path="", environment_tarball=""
    )
    # the server watches; keys of webhooks and indexes are not the process's matter
    settings = msgspec.structs.replace(
        source.settings, monitors=[], environment=None, parameters=parameters
    )
    place = Place(source.name, source.version, str(source.folder), settings, uri=source.uri)
    if source.settings.own_environment is not None:
        return place
    if source.spec is None:
        problem = "no runtime was found for it"
        raise ModelLoadError(problem)
    return msgspec.structs.replace(
        place,
        artifact=str(source.artifact or ""),
        spec=_describe_runtime(source.spec),
        runtimes=[_describe_runtime(each) for each in source.runtimes.values()],
    )


def _describe_runtime(spec: RuntimeSpec) -> Spec:
    options = spec.options
    return Spec(
        spec.name,
        spec.runtime,
        spec.capabilities,
        f"{options.__module__}:{options.__qualname__}" if options else "",
    )
