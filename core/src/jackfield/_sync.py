"""The twin of a server for code without an event loop: scripts, notebooks, worker threads.

The server lives on a loop of its own in a thread of its own, so that the twin works beside a loop
that runs (a notebook's) and from many threads at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, overload

from jackfield.errors import ServerNotReadyError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import TracebackType

    from jackfield._models import IndexEntry, Model
    from jackfield.messages import InferRequest, InferResponse, ModelMetadata

T = TypeVar("T")


class _Server(Protocol):
    """What the twin needs of a server."""

    def model(self, name: str, version: str = "") -> Model: ...
    async def index(self) -> list[IndexEntry]: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class SyncServer:
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

    def _wait(
        self,
        work: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,  # noqa: ANN401  the coroutine function's own
        **kwargs: Any,  # noqa: ANN401
    ) -> T:
        """Call a coroutine function on the server's loop, and wait for what it returns."""
        future = self._submit(work, *args, **kwargs)
        try:
            return future.result()
        except BaseException:  # Ctrl-C while this waits: nobody wants the answer any more
            future.cancel()
            raise

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


class SyncModel:
    """One loaded model version, called without an event loop."""

    def __init__(self, server: SyncServer, model: Model) -> None:
        self._server = server
        self._model = model

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def version(self) -> str:
        """Its version; empty for an un-versioned model."""
        return self._model.version

    @property
    def metadata(self) -> ModelMetadata:
        """What it takes and gives."""
        return self._model.metadata

    @overload
    def infer(self, request: InferRequest, /) -> InferResponse: ...

    @overload
    def infer(self, /, **inputs: object) -> InferResponse: ...

    def infer(self, request: Any = None, /, **inputs: object) -> InferResponse:
        """Compute a response; takes, gives and raises what `Model.infer` does."""
        return self._server._wait(self._model.infer, *_given(request), **inputs)

    @overload
    def stream(self, request: InferRequest, /) -> Iterator[InferResponse]: ...

    @overload
    def stream(self, /, **inputs: object) -> Iterator[InferResponse]: ...

    def stream(self, request: Any = None, /, **inputs: object) -> Iterator[InferResponse]:
        """Compute responses one after another; takes, gives and raises what `Model.stream` does.

        Each is computed when the one before it was taken. Closing the iterator ends the work.
        """
        answers: queue.SimpleQueue[tuple[InferResponse, Future[None]] | None] = queue.SimpleQueue()

        # one task from beginning to end: what a runtime holds between two answers may be its task's
        async def answer() -> None:
            stream = self._model.stream(*_given(request), **inputs)
            async with contextlib.aclosing(stream) as responses:
                async for response in responses:
                    taken: Future[None] = Future()
                    answers.put((response, taken))
                    await asyncio.wrap_future(taken)

        future = self._server._submit(answer)
        future.add_done_callback(lambda _: answers.put(None))
        try:
            while (answered := answers.get()) is not None:
                response, taken = answered
                yield response
                if taken.set_running_or_notify_cancel():
                    taken.set_result(None)
            future.result()
        finally:
            future.cancel()


def _given(request: object) -> tuple[object, ...]:
    return () if request is None else (request,)
