"""The twin of a server for code without an event loop: scripts, notebooks, worker threads.

The server lives on a loop of its own in a thread of its own, so that the twin works beside a loop
that runs (a notebook's) and from many threads at once.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from jackfield._peers import SyncModel, Waiting
from jackfield.errors import ServerNotReadyError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from jackfield._model import Model
    from jackfield._models import IndexEntry

T = TypeVar("T")


class _Server(Protocol):
    """What the twin needs of a server."""

    def model(self, name: str, version: str = "") -> Model: ...
    async def index(self) -> list[IndexEntry]: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class SyncServer(Waiting):
    """A server that its callers wait for instead of awaiting it; made by `Server.sync`.

    Enter it with ``with``, or call `start` and `stop` where a notebook's cells come between. Its
    methods and its models' may be called from several threads at once.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        #: None unless the server runs; what is submitted under the lock is never forgotten.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: Future[None] = Future()
        self._stop = asyncio.Event()

    def start(self) -> None:
        """Load the models. One that fails is unavailable with its reason.

        Raises:
            ModelLoadError: A model failed, and the setting `strict` is on.
            RuntimeError: It is started already.
            SettingsError: A name was given, and there are several models.
        """
        started: Future[None] = Future()
        # a daemon: a notebook that never stops the server must be able to end
        thread = threading.Thread(
            target=self._run, args=(started,), name="jackfield-sync", daemon=True
        )
        thread.start()
        started.result()

    def stop(self) -> None:
        """Unload the models; requests in flight have `drain_timeout_s` to end."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._stop.set)
            self._ended.result()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def model(self, name: str, version: str = "") -> SyncModel:
        """Get a model that serves.

        Args:
            name: Its name.
            version: Its version; empty gets the un-versioned or else the newest ready one.

        Raises:
            ModelNotFoundError: There is none.
            ModelNotReadyError: It is loading, unloading or failed to load.
            ServerNotReadyError: The server was not started, or has stopped.
        """
        self._require_loop()
        return SyncModel(self, self._server.model(name, version))

    def index(self) -> list[IndexEntry]:
        """List all model versions with their states and reasons."""
        return self._wait(self._server.index)

    def _submit(
        self,
        work: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,  # noqa: ANN401  the coroutine function's own
        **kwargs: Any,  # noqa: ANN401
    ) -> Future[T]:
        with self._lock:
            loop = self._require_loop()
            return asyncio.run_coroutine_threadsafe(work(*args, **kwargs), loop)

    def _require_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            reason = "it does not run; enter 'with server.sync() as …:', or call start() first"
            raise ServerNotReadyError(reason)
        return self._loop

    def _run(self, started: Future[None]) -> None:
        """Be the server's thread."""
        ended: Future[None] = Future()

        async def live() -> None:
            try:
                await self._server.start()
            except BaseException as error:  # noqa: BLE001  raised where it is waited for
                started.set_exception(error)
                return
            self._stop, self._ended = asyncio.Event(), ended
            self._loop = asyncio.get_running_loop()
            started.set_result(None)
            await self._stop.wait()
            await self._server.stop()

        try:
            asyncio.run(live())
        except BaseException as error:  # noqa: BLE001  the same
            ended.set_exception(error)
        else:
            ended.set_result(None)
