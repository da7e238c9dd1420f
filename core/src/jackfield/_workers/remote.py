"""A model with a memory in the workers that do not own it: what passes its calls on.

`RemoteRuntime` takes the place of the runtime; `_Line` is one connection to the owner, in the
messages of a host.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, cast

from jackfield._label import label_model
from jackfield._loading import Loaded as LoadedModel
from jackfield._process.errors import restore_failure
from jackfield._process.frames import FrameError
from jackfield._process.link import Link
from jackfield._process.messages import (
    Answer,
    Cancel,
    Ended,
    Failed,
    FindPeer,
    Loaded,
    Next,
    Refused,
    describe_request,
)
from jackfield._process.routes import RouteAnswers, RouteCalls, remote_routes
from jackfield._process.segments import Transport
from jackfield._process.suspects import Suspects
from jackfield._workers.owned import MODEL
from jackfield.errors import (
    InvalidRequestError,
    ModelLoadError,
    ModelNotReadyError,
)
from jackfield.messages import InferResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from prometheus_client import Metric

    from jackfield._process.frames import Payload
    from jackfield._process.messages import Message
    from jackfield._repository import ModelSource
    from jackfield._statistics import ModelStatistics
    from jackfield._workers.owned import OwnedRuntime
    from jackfield.messages import InferRequest, ModelMetadata
    from jackfield.tensor import Tensor

logger = logging.getLogger("jackfield")

#: How long a call waits for an owner, in seconds: it may be gone, and another one load.
_OWNER_S = 30.0
#: Pause before the owner is looked for again, in seconds.
PAUSE_S = 0.05
#: What calls under way are told.
_DIED = "the worker that has its memory died"
#: What is told of what the model does not have any more.
_CHANGED = "it was changed on disk and has another owner since: load it anew"


class NoOwnerError(Exception):
    """There is no owner now, or it went away."""


class Finding(Protocol):
    """Tells who owns models; `Owners` does."""

    def find(self, source: ModelSource) -> str:
        """Give the path of the owner's socket; empty if there is none."""

    def claim(self, source: ModelSource) -> bool:
        """Become the owner of a model; tells whether this worker is."""

    def load_owned(self, source: ModelSource, here: Callable[[], LoadedModel]) -> OwnedRuntime:
        """Load a model whose owner this worker is; in a thread."""


class _Line:
    """A connection to the owner of a model.

    Args:
        sock: Connected to it.
        facts: The model's name and version.
        on_lost: Called when the owner has gone.
    """

    def __init__(
        self, sock: socket.socket, facts: tuple[str, str], on_lost: Callable[[_Line], object]
    ) -> None:
        self._facts = facts
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[InferResponse | None]] = {}
        #: Whether the owner has gone.
        self.is_lost = False
        #: Asks for what the model's own paths answer.
        self.routes = RouteCalls(self._tell, self._numbers, _forget_call)
        self._found: asyncio.Future[Loaded] = self._loop.create_future()
        self._link = Link(
            self._loop, sock, Transport(), on_frame=self._on_frame, on_lost=self._lose
        )
        self._link.open()

    async def find(self) -> Loaded:
        """Wait for what the owner tells of the model, when it has loaded it.

        Raises:
            NoOwnerError: It does not own it, or died.
        """
        self._tell(FindPeer(0, MODEL, *self._facts))
        return await self._found

    async def infer(self, request: InferRequest) -> InferResponse:
        """Have the owner compute; raises as `RemoteRuntime.infer`."""
        call = self._begin(request, is_stream=False)
        try:
            return cast("InferResponse", await self._calls[call])
        except asyncio.CancelledError:
            self._tell(Cancel(call))
            raise
        finally:
            del self._calls[call]

    async def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """Have the owner compute one response after the other; raises as `RemoteRuntime.infer`."""
        call = self._begin(request, is_stream=True)
        try:
            while (response := await self._calls[call]) is not None:
                yield response
                if self.is_lost:
                    raise self._died()
                self._calls[call] = self._loop.create_future()
                self._tell(Next(call))
        except (asyncio.CancelledError, GeneratorExit):
            self._tell(Cancel(call))
            raise
        finally:
            del self._calls[call]

    def _begin(self, request: InferRequest, *, is_stream: bool) -> int:
        if self.is_lost:
            raise self._died()
        call = next(self._numbers)
        message = describe_request(call, MODEL, request, is_stream=is_stream)
        try:
            self._tell(message, request.inputs)
        except FrameError as error:
            raise InvalidRequestError(
                "",
                expected="what can be passed on to the worker that has the model's memory",
                found=f"a request of which {error}",
                model=self._facts[0],
            ) from error
        self._calls[call] = self._loop.create_future()
        return call

    def _tell(self, message: Message, tensors: Sequence[Tensor] = ()) -> None:
        self._link.send(self._link.transport.encode(message, tensors))

    def _on_frame(self, payload: Payload) -> None:
        message, tensors = self._link.transport.decode(payload)
        if isinstance(message, Loaded):
            if not self._found.done():
                self._found.set_result(message)
        elif isinstance(message, Answer | Ended | Refused | Failed) and (
            future := self._calls.get(message.call)
        ):
            if not future.done():
                self._settle(future, message, tensors)
        else:
            self.routes.handle(message, tensors)

    def _settle(
        self,
        future: asyncio.Future[InferResponse | None],
        message: Answer | Ended | Refused | Failed,
        tensors: Sequence[Tensor],
    ) -> None:
        match message:
            case Answer():
                future.set_result(InferResponse(tensors, message.parameters))
            case Ended():
                future.set_result(None)
            case Refused() | Failed():
                future.set_exception(restore_failure(message, self._facts))

    def _lose(self, problem: str) -> None:
        self.is_lost = True
        if problem:
            logger.error("the worker that owns the model can't be understood: %s", problem)
        if not self._found.done():
            self._found.set_exception(NoOwnerError())
        for future in self._calls.values():
            if not future.done():
                future.set_exception(self._died())
        self.routes.close(_DIED)
        self._on_lost(self)

    def _died(self) -> ModelNotReadyError:
        return ModelNotReadyError(*self._facts, reason=_DIED)

    def close(self) -> None:
        """Let go of the owner."""
        self._link.close()
        self._lose("")


class RemoteRuntime:
    """A runtime whose calls are answered by the worker that owns its model.

    Its owner may die: calls under way fail, later ones wait for the next owner, which may be this
    worker. It stands for the model's metrics as well, which its owner has.

    Args:
        owners: Finds the owner.
        source: The model.
        here: Loads it in this worker.
        loop: Where `infer` is called.
    """

    def __init__(
        self,
        owners: Finding,
        source: ModelSource,
        here: Callable[[], LoadedModel],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        #: The model's name and version.
        self.facts = (source.name, source.version)
        #: Nothing: what kills a worker, its callers can't tell from other deaths.
        self.suspects = Suspects(is_row_wise=False)
        #: The model, once this worker owns it.
        self.own: OwnedRuntime | None = None
        #: An async generator function where the owner's runtime streams; set by `placed`.
        self.stream: Callable[[InferRequest], AsyncGenerator[InferResponse, None]] | None = None
        self._owners = owners
        self._source = source
        self._here = here
        self._loop = loop
        self._line: _Line | None = None
        self._finding = asyncio.Lock()
        self._found: Loaded | None = None
        #: The thread that computes, and what answers at the model's own paths, once it is here.
        self._executor: ThreadPoolExecutor | None = None
        self._routes: RouteCalls | None = None

    def placed(self, found: Loaded) -> LoadedModel:
        """Give what takes the place of the model here."""
        if found.streams:
            self.stream = self._stream
        routes = remote_routes(found.routes, MODEL, self)
        return LoadedModel(self, found.metadata, found.capabilities, routes, self)

    def load(self) -> None:
        """Do nothing: `connect` was called before."""

    def metadata(self) -> ModelMetadata:
        """Give what the owner told."""
        assert self._found is not None, "connect was not called, or failed"
        return self._found.metadata

    def counting(self, statistics: ModelStatistics) -> ModelStatistics:
        """Give what counts the scheduler's calls in place of the model's statistics."""
        return cast("ModelStatistics", _Counting(self, statistics))

    def collect(self) -> Iterable[Metric]:
        """Give the model's own metrics, once this worker owns it."""
        return self.own.collect() if self.own is not None else ()

    async def connect(self) -> Loaded:
        """Connect to the owner, when it has loaded the model.

        Raises:
            NoOwnerError: There is none.
        """
        path = self._owners.find(self._source)
        if not path:
            raise NoOwnerError
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)  # noqa: FBT003  it takes no name
        try:
            await self._loop.sock_connect(sock, path)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                raise NoOwnerError from error
            raise
        line = _Line(sock, self.facts, self._on_lost)
        try:
            found = await line.find()
            if line.is_lost:  # it died right after
                raise NoOwnerError
        except BaseException:
            line.close()
            raise
        self._line, self._found = line, found
        return found

    def _on_lost(self, line: _Line) -> None:
        if self._line is line:
            self._line = None

    async def infer(self, request: InferRequest) -> InferResponse:
        """Have the owner compute.

        Raises:
            InvalidRequestError: The runtime refuses the request, or it can't be passed on.
            ModelNotReadyError: The owner died, or there is none.
            RuntimeFailedError: The runtime raised something else.
        """
        line = await self._find()
        return await (line.infer(request) if line is not None else self._infer_here(request))

    async def _stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """Have the owner compute one response after the other; raises as `infer`.

        Yields:
            The responses.
        """
        line = await self._find()
        stream = line.stream if line is not None else self._here_now.stream
        if stream is None:
            raise self._not_ready(_CHANGED)
        async with contextlib.aclosing(stream(request)) as responses:
            async for response in responses:
                yield response

    async def ready_routes(self, asked: Callable[[], InferRequest]) -> RouteCalls:
        """Get what asks for what the model's own paths answer; raises as `infer`."""
        line = await self._find()
        routes = line.routes if line is not None else self._routes
        if routes is None:
            raise self._not_ready(_CHANGED)
        return routes

    def blame(
        self,
        requests: Sequence[InferRequest],
        how: str,
        *,
        is_own_doing: bool,
        only_suspect: InferRequest | None,
    ) -> None:
        """Do nothing: see `suspects`."""

    @property
    def _is_placed(self) -> bool:
        return self._line is not None or self.own is not None

    async def _find(self) -> _Line | None:
        """Find the owner; None where it is this worker, which it may become.

        Raises:
            ModelNotReadyError: It took too long, or the model can't be loaded here.
        """
        if self._is_placed:
            return self._line
        async with self._finding:
            until = self._loop.time() + _OWNER_S
            reason = "the worker that has its memory is gone"
            while not self._is_placed:
                if self._owners.claim(self._source):
                    try:
                        own = await asyncio.to_thread(
                            self._owners.load_owned, self._source, self._here
                        )
                    except ModelLoadError as error:
                        reason = f"{reason}, and here it failed to load: {error}"
                        raise self._not_ready(reason) from error
                    self._take_over(own)
                    break
                with contextlib.suppress(NoOwnerError):
                    await self.connect()
                    break
                if self._loop.time() >= until:
                    raise self._not_ready(reason)
                await asyncio.sleep(PAUSE_S)
        return self._line

    def _take_over(self, own: OwnedRuntime) -> None:
        logger.warning("%s: this worker has its memory now", label_model(*self.facts))
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="jackfield-infer")
        self.own = own
        assert self._found is not None, "it was another worker's before"
        if own.describe().routes != self._found.routes:
            return  # it has changed on disk
        # both ends of what else lies between two workers, without the socket
        calls: RouteCalls
        answers = RouteAnswers(lambda message, tensors=(): calls.handle(message, tensors))
        self._routes = calls = RouteCalls(
            lambda message, tensors=(): answers.handle(message, tensors),
            itertools.count(1),
            _forget_call,
        )
        answers.add(MODEL, own.routes)

    @property
    def _here_now(self) -> OwnedRuntime:
        assert self.own is not None, "there is a line, or it is here"
        return self.own

    async def _infer_here(self, request: InferRequest) -> InferResponse:
        loaded = self._here_now.loaded
        answer = loaded.runtime.infer
        if asyncio.iscoroutinefunction(answer):
            return cast("InferResponse", await answer(request))

        def compute() -> InferResponse:
            if loaded.bound is not None:
                loaded.bound.apply()
            return cast("InferResponse", answer(request))

        return await self._loop.run_in_executor(self._executor, compute)

    def _not_ready(self, reason: str) -> ModelNotReadyError:
        return ModelNotReadyError(*self.facts, reason=reason)

    def close(self) -> None:
        """Let go of the owner, or free the model; called in a thread."""
        if self.own is not None:
            self.own.loaded.runtime.close()
            if self.own.loaded.bound is not None:
                self.own.loaded.bound.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the connection with it
            self._loop.call_soon_threadsafe(self._hang_up)

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()


class _Counting:
    """Counts the calls of a model with a memory: none are made here until this worker owns it."""

    def __init__(self, remote: RemoteRuntime, statistics: ModelStatistics) -> None:
        self._remote = remote
        self._statistics = statistics

    @property
    def waiting(self) -> int:
        return self._statistics.waiting

    @waiting.setter
    def waiting(self, count: int) -> None:
        self._statistics.waiting = count

    def executed(self, *, requests: int, rows: int, ns: int, waiting: int) -> None:
        if self._remote.own is not None:
            self._statistics.executed(requests=requests, rows=rows, ns=ns, waiting=waiting)


def _forget_call(number: int) -> None:
    """Do nothing: the owner asks for nothing in a call's name."""
