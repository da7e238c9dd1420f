"""Server: put the parts together, start, drain and stop them.

The embedding surface: a `Server` is an ASGI app and an async context manager, with no global state,
no signal handlers and no logging configuration; `sync` gives its twin for code without an event
loop. `run` adds sockets; the CLI is built on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from jackfield._control import Control
from jackfield._http.app import create_app
from jackfield._http.metrics import create_metrics_app
from jackfield._http.runners import create_runner
from jackfield._logging_settings import LoggingSettings
from jackfield._metrics import Metrics
from jackfield._model import Model
from jackfield._models import IndexEntry, Models, ModelState
from jackfield._peers import SyncModel
from jackfield._plugins import discover
from jackfield._ports import listen
from jackfield._repository import Repository
from jackfield._shared_memory import FOLDER, OFF, Regions
from jackfield._sources.fetch import SourceSettings
from jackfield._sync import SyncServer
from jackfield._threads import count_workers, default_threads
from jackfield._watch import Watcher
from jackfield.errors import ModelLoadError, SettingsError
from jackfield.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Collection,
        Mapping,
        Sequence,
    )
    from types import TracebackType

    import grpc.aio
    from starlette.types import Receive, Scope, Send

    from jackfield._control import Fleet
    from jackfield._grpc.servicer import Servicer
    from jackfield._http.runners import Runner

__all__ = [
    "Addresses",
    "IndexEntry",
    "Model",
    "ModelState",
    "Server",
    "SyncModel",
    "SyncServer",
]

logger = logging.getLogger("jackfield")


class Addresses(msgspec.Struct, frozen=True):
    """Where a running server listens; `metrics` is empty when it is switched off."""

    http: str
    grpc: str
    metrics: str


class Seat(Protocol):
    """The place of a server that is one of several workers on the same ports."""

    #: It takes a dead one's place: no connection may come before it can be answered.
    is_late: bool
    #: What callers have asked of models before, as `Models.start` takes it.
    asked: Mapping[str, Mapping[str, object] | None]
    #: What the watcher of the one before it has told, as `Watcher.begin` takes it.
    watched: Mapping[str, str] | None
    #: Listening sockets that it was given, by the setting of their port: where the system would
    #: not spread connections over sockets that share one.
    listeners: Mapping[str, socket.socket]

    async def enter(self, control: Control) -> Fleet:
        """Give all workers, by which this one answers for the whole server."""

    async def join(self) -> None:
        """Do what comes between the loading of the models and the first connection."""


class Server:
    """Serves the models under some paths.

    It is started and stopped on one event loop, and may be started again after that. Pickled, it is
    its arguments: the copy is a server of its own, not started.

    Args:
        models: Artifact files, folders of models and URIs, as ``jackfield serve`` takes them.
        settings: Limits, names and, for `run`, addresses; the defaults if None.
        name: The name of the one model, instead of the one that its file gives.
        plugins: Names of the plugins to use; None uses all that are installed.
        environ: Environment variables that fill in a single model's settings; none by default.

    Raises:
        SettingsError: A path doesn't exist, or the system has no shared memory to serve.

    Example:
        ```python
        async with Server(["models/iris"]) as server:
            response = await server.model("iris").infer(x=[[5.1, 3.5, 1.4, 0.2]])
            response.arrays["predict"]
        ```
    """

    def __init__(
        self,
        models: Sequence[str | Path],
        *,
        settings: ServerSettings | None = None,
        name: str = "",
        plugins: Collection[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._arguments = (models, settings, name, plugins, environ)
        self.settings = settings or ServerSettings()
        found = discover(plugins)
        for warning in found.warnings:
            logger.warning("%s", warning)
        repository = Repository(
            models, found, name=name, environ=environ, sources=_source_settings(self.settings)
        )
        workers = count_workers(self.settings.workers)
        self._models = Models(repository, threads=default_threads(workers))
        self._metrics = Metrics(
            self._models.loaded,
            self._models.loads,
            mlserver_names=self.settings.mlserver_metrics,
        )
        self._regions = _create_regions(self.settings)
        self._logs = LoggingSettings()
        self._control = Control(self._models, self._metrics, regions=self._regions, logs=self._logs)
        self._watcher = None
        if self.settings.watch:
            self._watcher = Watcher(
                repository, self._reload_changed, interval_s=self.settings.watch_interval_s
            )
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False
        self._app = create_app(
            self._models,
            self.settings,
            self._problem,
            control=self._control,
            regions=self._regions,
            logs=self._logs,
            lifespan=self.lifespan,
        )

    def __reduce__(self) -> tuple[object, ...]:
        # Ray Serve copies the app to its replicas
        return _construct, self._arguments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI app: the REST API, which starts and stops by the lifespan protocol."""
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None, None]:
        """Start, and stop in the end: for the app that mounts the server.

        Args:
            app: What a framework passes; nothing is done with it.

        Yields:
            Once, when the models were tried.

        Raises:
            ModelLoadError: As `start` does; and so do the others there.

        Example:
            ```python
            app = FastAPI(lifespan=server.lifespan)
            app.mount("/ml", server)
            ```
        """
        async with self:
            yield

    def add_to_grpc(self, grpc_server: grpc.aio.Server) -> None:
        """Let a gRPC server of yours answer the Open Inference Protocol too.

        Args:
            grpc_server: It must not run yet, and run on the event loop that this server is started
                on. Its health and reflection services, its limits and its end stay yours.
        """
        grpc_server.add_generic_rpc_handlers((self._servicer().handler(),))

    def metrics(self) -> tuple[bytes, str]:
        """Give all metrics in Prometheus' text form, and its content type."""
        return self._metrics.expose()

    def sync(self) -> SyncServer:
        """Get the twin for code without an event loop, or in one that it may block.

        Example:
            ```python
            with Server(["models/iris"]).sync() as server:
                server.model("iris").infer(x=[[5.1, 3.5, 1.4, 0.2]]).arrays["predict"]
            ```
        """
        return SyncServer(self)

    def _servicer(self) -> Servicer:
        from jackfield._grpc.servicer import Servicer

        return Servicer(
            self._models,
            self.settings,
            self._problem,
            control=self._control,
            regions=self._regions,
            logs=self._logs,
        )

    def _problem(self) -> str:
        return "the server stops" if self._stopping else self._control.problem

    def model(self, name: str, version: str = "") -> Model:
        """Get a model that serves, to call its `infer` in process.

        Args:
            name: Its name.
            version: Its version; empty gets the un-versioned or else the newest ready one.

        Raises:
            ModelNotFoundError: There is none.
            ModelNotReadyError: It is loading, unloading or failed to load.
            ServerNotReadyError: The server was not started.
        """
        return self._models.get(name, version)

    async def index(self) -> list[IndexEntry]:
        """List all model versions with their states and reasons."""
        return await self._models.index()

    async def start(self) -> None:
        """Load the models. One that fails is unavailable with its reason.

        Raises:
            ModelLoadError: A model failed, and the setting `strict` is on.
            RuntimeError: It is started already.
            SettingsError: A name was given, and there are several models.
        """
        self._open()
        try:
            await self._load()
        except BaseException:  # a cancelled start, too, leaves no threads
            await self.stop()
            raise

    async def reload(self) -> int:
        """Load all models anew, as their files are now.

        Each is loaded beside what serves, and takes its place when it is ready; one that can't be
        loaded is left as it was, and the log tells why. Those that are new are loaded, and those
        whose files are gone are unloaded. What was unloaded by request stays so.

        Returns:
            How many models failed.

        Raises:
            ServerNotReadyError: The server was not started.
        """
        return await self._control.reload()

    async def _reload_changed(self, names: Collection[str]) -> None:
        await self._control.reload(names)
        if self._control.fleet is not None and self._watcher is not None:
            await self._control.fleet.note_watched(self._watcher.told)

    def _open(self) -> None:
        self._models.open()
        self._metrics.start()
        self._regions.open()
        self._stopping = False

    async def _load(self, seat: Seat | None = None) -> None:
        asked = seat.asked if seat is not None else None
        if self._watcher is not None:
            await self._watcher.begin(seat.watched if seat is not None else None)
            if self._control.fleet is not None:
                await self._control.fleet.note_watched(self._watcher.told)
        await self._models.start(load=self.settings.load_models_at_startup, asked=asked)
        if self.settings.strict and self.settings.load_models_at_startup:
            failed = [line for line in await self.index() if line.state is not ModelState.READY]
            if failed:
                problem = "; ".join(f"model '{line.name}': {line.reason}" for line in failed)
                raise ModelLoadError(problem)
        if seat is not None:
            await seat.join()
        if self._watcher is not None:
            self._watching = asyncio.create_task(self._watcher.run())
            self._watching.add_done_callback(_report)

    async def stop(self) -> None:
        """Unload the models; requests in flight have `drain_timeout_s` to end."""
        self._stopping = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        await self._models.close(self.settings.drain_timeout_s)
        self._metrics.stop()
        self._regions.close()
        self._logs.restore()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def run(
        self,
        stopped: asyncio.Event,
        started: Callable[[Addresses], Awaitable[None]],
        *,
        seat: Seat | None = None,
    ) -> None:
        """Listen on HTTP, gRPC and metrics ports until `stopped` is set, then drain.

        Health answers from the first moment; readiness follows the models. On the way down
        readiness goes first, then no new connection is taken, then requests in flight end.

        Args:
            stopped: Set by the caller to end.
            started: Awaited once, when the models were tried.
            seat: For one of several workers on the same ports: its place among them.

        Raises:
            SettingsError: A port can't be listened on.
            ModelLoadError: A model failed, and the setting `strict` is on.
            RuntimeError: It is started already.
        """
        from jackfield._grpc.server import GrpcServer

        settings = self.settings
        # bound one after another, before anything runs: a taken port ends the start at once
        async with contextlib.AsyncExitStack() as listeners:
            self._open()
            listeners.push_async_callback(self.stop)
            if seat is not None:
                self._control.fleet = await seat.enter(self._control)
            if is_late := seat is not None and seat.is_late:
                await _first(self._load(seat), stopped, [])
                if stopped.is_set():
                    return
            http = _listen(settings.host, settings.http_port, "http_port", seat)
            listeners.enter_context(http)
            runner = create_runner(self, http, settings, self._models.arrivals)
            runners = {f"http://{_address(http)}": runner}
            metrics_url = ""
            if settings.metrics_endpoint:
                metrics = _listen(settings.host, settings.metrics_port, "metrics_port", seat)
                listeners.enter_context(metrics)
                metrics_url = f"http://{_address(metrics)}{settings.metrics_endpoint}"
                app = create_metrics_app(self._control, settings.metrics_endpoint)
                plain = msgspec.structs.replace(settings, http_server="uvicorn", root_path="")
                runners[metrics_url] = create_runner(app, metrics, plain)
            grpc = GrpcServer(
                self._servicer(), settings, self._problem, shares_port=seat is not None
            )
            grpc_port = await grpc.start(settings.host, settings.grpc_port)
            listeners.pop_all()  # the runners close them from here on
        addresses = Addresses(next(iter(runners)), f"{settings.host}:{grpc_port}", metrics_url)

        serving = [asyncio.create_task(runner.serve()) for runner in runners.values()]
        try:
            if not is_late:
                await _first(self._load(seat), stopped, serving)
            self._models.on_change = _settle
            _settle()
            if not stopped.is_set():
                # what it asks a model may never be answered
                await _first(started(addresses), stopped, serving)
            if not stopped.is_set():
                await _first(stopped.wait(), stopped, serving)
        finally:
            self._stopping = True
            self._models.on_change = gc.unfreeze
            await self._drain(list(runners.values()), serving, grpc.stop)
        for task in serving:
            if task.done():
                task.result()

    async def _drain(
        self,
        runners: Sequence[Runner],
        serving: Sequence[asyncio.Task[None]],
        stop_grpc: Callable[[float], Awaitable[None]],
    ) -> None:
        for runner in runners:
            runner.stop()
        grace_s = self.settings.drain_timeout_s
        await stop_grpc(grace_s)
        await asyncio.wait(serving, timeout=grace_s + 1)
        await self.stop()


def _report(watching: asyncio.Task[None]) -> None:
    """Tell of a watcher that ended by itself, which is a fault of ours."""
    if not watching.cancelled() and (error := watching.exception()):
        logger.error("the models' files are watched no more", exc_info=error)


def _settle() -> None:
    """Keep the garbage collector from what is loaded, after freeing what was unloaded.

    To look through it, again and again, was measured to stop the server for 80 ms each time.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _construct(
    models: Sequence[str | Path],
    settings: ServerSettings | None,
    name: str,
    plugins: Collection[str] | None,
    environ: Mapping[str, str] | None,
) -> Server:
    return Server(models, settings=settings, name=name, plugins=plugins, environ=environ)


def _source_settings(settings: ServerSettings) -> SourceSettings:
    return SourceSettings(
        options=settings.source_options,
        trusted=tuple(settings.trusted_sources.split(",")),
        max_bytes=settings.max_artifact_bytes,
        wait_s=settings.source_timeout_s,
        timeout_s=settings.fetch_timeout_s,
        serves_offline=settings.serve_offline,
    )


def _create_regions(settings: ServerSettings) -> Regions:
    if not settings.shared_memory:
        return OFF
    if not Path(FOLDER).is_dir():
        problem = f"this system has no {FOLDER}"
        raise SettingsError("shared_memory", problem)
    return Regions(settings.max_shared_memory_bytes, max_text_bytes=settings.max_body_bytes)


async def _first(
    work: Awaitable[object], stopped: asyncio.Event, serving: Sequence[asyncio.Task[None]]
) -> None:
    """Do the work, unless the server is told to stop or a listener dies before it is done."""
    task = asyncio.ensure_future(work)
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait([task, stop, *serving], return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if task.done():
        task.result()
    else:
        task.cancel()
        stopped.set()


def _listen(host: str, port: int, setting: str, seat: Seat | None) -> socket.socket:
    if seat is not None and setting in seat.listeners:
        listener = seat.listeners[setting]
    else:
        listener = listen(host, port, setting, shares_port=seat is not None)
    # connections inherit it; without it asyncio's answers wait 40 ms for the caller's next packet
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
