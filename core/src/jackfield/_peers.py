"""Models called without an event loop: by another model of the same server, by `SyncServer`."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from jackfield._inner import IS_INNER
from jackfield.messages import InferRequest
from jackfield.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping

    from jackfield._statistics import ModelStatistics
    from jackfield.messages import InferResponse, ModelMetadata

T = TypeVar("T")


class PeerModel(Protocol):
    """What the twin needs of a model."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def metadata(self) -> ModelMetadata: ...

    @overload
    def infer(self, request: InferRequest, /) -> Coroutine[None, None, InferResponse]: ...

    @overload
    def infer(self, /, **inputs: object) -> Coroutine[None, None, InferResponse]: ...

    @overload
    def infer_here(self, request: InferRequest, /) -> InferResponse | None: ...

    @overload
    def infer_here(self, /, **inputs: object) -> InferResponse | None: ...

    @overload
    def stream(self, request: InferRequest, /) -> AsyncGenerator[InferResponse, None]: ...

    @overload
    def stream(self, /, **inputs: object) -> AsyncGenerator[InferResponse, None]: ...


class Waiting:
    """Waits, in any other thread, for what is done on an event loop."""

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
        raise NotImplementedError


class Peers(Waiting):
    """The models of a server, for a model of the same server, whose threads call them.

    Made in the loop's thread.

    Args:
        find: Finds them by name and version, on the loop.
        loop: The server's.
    """

    def __init__(
        self, find: Callable[[str, str], PeerModel], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.find = find
        self._loop = loop
        self._thread = threading.get_ident()

    def model(self, name: str, version: str = "") -> SyncModel:
        """Get a model that serves; see `jackfield.ModelContext.model`."""

        async def find() -> PeerModel:
            return self.find(name, version)

        return _Peer(self, self._wait(find))

    def _submit(
        self,
        work: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,  # noqa: ANN401  the coroutine function's own
        **kwargs: Any,  # noqa: ANN401
    ) -> Future[T]:
        self.refuse_loop()
        return asyncio.run_coroutine_threadsafe(_inside(work(*args, **kwargs)), self._loop)

    def refuse_loop(self) -> None:
        """Raise `RuntimeError` in the loop's own thread."""
        if threading.get_ident() == self._thread:
            raise on_the_loop()


class SyncModel:
    """One loaded model version, called without an event loop."""

    def __init__(self, server: Waiting, model: PeerModel) -> None:
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


class _Peer(SyncModel):
    """One that another model calls, in this thread where that is as good as on the loop."""

    def __init__(self, peers: Peers, model: PeerModel) -> None:
        super().__init__(peers, model)
        self._peers = peers

    @overload
    def infer(self, request: InferRequest, /) -> InferResponse: ...

    @overload
    def infer(self, /, **inputs: object) -> InferResponse: ...

    def infer(self, request: Any = None, /, **inputs: object) -> InferResponse:
        """Compute a response; see `SyncModel.infer`."""
        self._peers.refuse_loop()
        answer = self._model.infer_here(*_given(request), **inputs)
        return super().infer(*_given(request), **inputs) if answer is None else answer


class Beside:
    """The calls of one model that run in the threads that make them; made on its server's loop.

    Lets none in while the model closes.

    Args:
        statistics: Of the model; counts them.
    """

    def __init__(self, statistics: ModelStatistics) -> None:
        self._statistics = statistics
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._left = asyncio.Event()
        self._is_closing = False

    def enter(self) -> bool:
        """Let a call in, in any thread; False where it has to go to the loop."""
        with self._lock:
            if self._is_closing:
                return False
            self._statistics.beside += 1
            return True

    def leave(self) -> None:
        """End a call that was let in, in its thread."""
        with self._lock:
            self._statistics.beside -= 1
            is_last = self._is_closing and not self._statistics.beside
        if is_last:
            # who waited for it too long has closed the loop
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._left.set)

    async def close(self) -> None:
        """Let nobody in any more, and wait until all have left."""
        with self._lock:
            self._is_closing = True
            is_empty = not self._statistics.beside
        if not is_empty:
            await self._left.wait()


def on_the_loop() -> RuntimeError:
    """Say that a thread which must not wait would."""
    return RuntimeError("another model is called on the event loop, which would wait for itself")


def request_of(request: InferRequest | None, inputs: Mapping[str, object]) -> InferRequest:
    """Make a request of arrays, by the inputs' names; one that is given instead stays.

    Raises:
        TypeError: Both are given or none, or an input is nothing that a tensor can be made of.
    """
    if request is not None and not inputs:
        return request
    if request is not None or not inputs:
        message = "expected one request, or inputs by their names"
        raise TypeError(message)
    return InferRequest([Tensor.from_array(name, array) for name, array in inputs.items()])


async def _inside(work: Coroutine[Any, Any, T]) -> T:
    """Do what is the server's own: no monitor counts it as traffic."""
    IS_INNER.set(True)
    return await work


def _given(request: object) -> tuple[object, ...]:
    return () if request is None else (request,)
