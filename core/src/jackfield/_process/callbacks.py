"""The calls that a model in a host makes of other models: by way of its server, which has them all.

`PeerAnswers` is the server's end, `PeerCalls` the child's. A model is found by its name each time,
so that a reload is seen; deadlines travel in the requests, and who cancels the call that a peer's
was made for cancels that, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, cast

from jackfield._inner import IS_INNER
from jackfield._label import label_model
from jackfield._peers import SyncModel, on_the_loop, request_of
from jackfield._process.errors import restore_error, tell_error
from jackfield._process.frames import FrameError
from jackfield._process.messages import (
    AskPeer,
    Cancel,
    Ended,
    Failed,
    FindPeer,
    FullAnswer,
    GivenUp,
    Next,
    PeerFound,
    Refused,
    restore_request,
)
from jackfield.errors import InvalidRequestError, JackfieldError, RuntimeFailedError
from jackfield.messages import InferRequest, InferResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jackfield._peers import PeerModel
    from jackfield._process.messages import Message
    from jackfield.messages import ModelMetadata
    from jackfield.tensor import Tensor

logger = logging.getLogger("jackfield")


class Tell(Protocol):
    """Writes and sends a message, with its tensors."""

    def __call__(self, message: Message, tensors: Sequence[Tensor] = (), /) -> object:
        """Do so.

        Raises:
            FrameError: It can't be written.
        """


#: Finds a model by name and version, on the server's loop.
Find: TypeAlias = Callable[[str, str], "PeerModel"]

#: In a child: the server's call that is being answered; 0 for none. Threads and tasks that it
#: begins have it, too, where they copy the context.
UNDER: ContextVar[int] = ContextVar("jackfield_under", default=0)

#: Calls of callers who left that are remembered: what still runs for them asks in vain.
_MOST_LEFT = 1000


# ---- in the server ----


class PeerAnswers:
    """Answers what the models of one host ask of others; used on the server's loop.

    Args:
        tell: Sends a message to the host.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._finds: dict[int, Find] = {}
        self._asked: dict[int, _Asked] = {}
        self._left: dict[int, None] = {}

    def add(self, model: int, find: Find) -> None:
        """Let a model of the host ask, from before its load on."""
        self._finds[model] = find

    def remove(self, model: int) -> None:
        """Let it ask no more."""
        self._finds.pop(model, None)

    def handle(self, message: Message, tensors: Sequence[Tensor]) -> bool:
        """Take a message of the host; tells whether it was meant for here."""
        if isinstance(message, FindPeer):
            self._find(message)
        elif isinstance(message, AskPeer):
            self._begin(message, tensors)
        elif isinstance(message, Next):
            if asked := self._asked.get(message.call):
                asked.wanted.release()
        elif isinstance(message, Cancel):
            if asked := self._asked.get(message.call):
                asked.task.cancel()
        else:
            return False
        return True

    def leave(self, call: int) -> None:
        """End what is asked for the sake of a call of the server's that nobody waits for."""
        self._left[call] = None
        if len(self._left) > _MOST_LEFT:
            del self._left[next(iter(self._left))]
        for asked in self._asked.values():
            if asked.parent == call:
                asked.task.cancel()

    def close(self) -> None:
        """End all: the host is gone."""
        self._tell = _tell_nobody
        self._finds.clear()
        for asked in self._asked.values():
            asked.task.cancel()

    def _find(self, message: FindPeer) -> None:
        try:
            model = self._find_model(message.model, message.name, message.version)
            self._tell(PeerFound(message.call, model.name, model.version, model.metadata))
        except (JackfieldError, FrameError) as error:
            tell_error(self._tell, message.call, error)

    def _find_model(self, asking: int, name: str, version: str) -> PeerModel:
        find = self._finds.get(asking)
        if find is None:
            problem = f"the model that asks for '{name}' is not loaded any more"
            raise FrameError(problem)
        return find(name, version)

    def _begin(self, message: AskPeer, tensors: Sequence[Tensor]) -> None:
        call = message.call
        if message.parent in self._left:
            self._tell(GivenUp(call))
            return
        wanted = asyncio.Semaphore(0)
        task = asyncio.ensure_future(self._answer(message, tensors, wanted))
        self._asked[call] = _Asked(task, message.parent, wanted)
        task.add_done_callback(lambda task: self._end(call, task))

    def _end(self, call: int, task: asyncio.Task[None]) -> None:
        del self._asked[call]
        if task.cancelled():  # by the host, with what was asked for, or by the other model's end
            self._tell(GivenUp(call))

    async def _answer(
        self, message: AskPeer, tensors: Sequence[Tensor], wanted: asyncio.Semaphore
    ) -> None:
        IS_INNER.set(True)
        request = restore_request(message, tensors)
        try:
            model = self._find_model(message.model, message.name, message.version)
            if message.is_stream:
                async with contextlib.aclosing(model.stream(request)) as responses:
                    async for response in responses:
                        self._tell(describe(message.call, response), response.outputs)
                        await wanted.acquire()
                self._tell(Ended(message.call))
            else:
                response = await model.infer(request)
                self._tell(describe(message.call, response), response.outputs)
        except JackfieldError as error:
            tell_error(self._tell, message.call, error)
        except FrameError as error:
            facts = message.name, message.version
            logger.error("an answer of %s can't be passed on: %s", label_model(*facts), error)
            tell_error(self._tell, message.call, RuntimeFailedError(*facts))


class _Asked(NamedTuple):
    """One call of another model that is under way."""

    task: asyncio.Task[None]
    #: The call that it is made for; 0 for none.
    parent: int
    #: A stream's next response is.
    wanted: asyncio.Semaphore


def _tell_nobody(message: Message, tensors: Sequence[Tensor] = ()) -> None:
    """Do nothing."""


# ---- in the child ----


class Line(Protocol):
    """How a child's threads talk to its server."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that reads what comes, where there is one: its thread must not wait."""

    @property
    def tell(self) -> Tell:
        """Sends a message; in any thread."""

    def wait(self, event: threading.Event, /) -> None:
        """Wait until it is set; in any thread but the loop's.

        Raises:
            EOFError: The server is gone.
        """


class PeerCalls:
    """Asks the server for other models, for all models of this process, in any of its threads."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = itertools.count(1)

    def find_for(self, model: int) -> Callable[[str, str], SyncModel]:
        """Make what finds others for a model; see `jackfield.ModelContext.model`."""

        def find(name: str, version: str = "") -> SyncModel:
            self.refuse_loop()
            with self._asking() as asking:
                self._line.tell(FindPeer(asking.call, model, name, version))
                found, _ = asking.take(name, version)
            return _FarModel(self, model, cast("PeerFound", found))

        return find

    def handle(self, message: Message, tensors: Sequence[Tensor]) -> bool:
        """Take a message of the server, in the thread that reads; tells whether it was for here."""
        if not isinstance(message, PeerFound | FullAnswer | Ended | Refused | Failed | GivenUp):
            return False
        if waiting := self._waiting.get(message.call):
            waiting.put(message, tensors)
        return True

    def infer(self, asking: int, found: PeerFound, request: InferRequest) -> InferResponse:
        """Have another model compute a response; see `SyncModel.infer`."""
        self.refuse_loop()
        with self._asking() as waiting:
            self._ask(waiting, asking, found, request, is_stream=False)
            message, tensors = waiting.take(found.name, found.version)
            waiting.is_over = True
        return restore_response(cast("FullAnswer", message), tensors)

    def stream(
        self, asking: int, found: PeerFound, request: InferRequest
    ) -> Iterator[InferResponse]:
        """Have another model compute responses; see `SyncModel.stream`."""
        self.refuse_loop()
        with self._asking() as waiting:
            self._ask(waiting, asking, found, request, is_stream=True)
            while True:
                message, tensors = waiting.take(found.name, found.version)
                if isinstance(message, Ended):
                    return
                yield restore_response(cast("FullAnswer", message), tensors)
                self.refuse_loop()
                self._line.tell(Next(waiting.call))

    def refuse_loop(self) -> None:
        """Raise `RuntimeError` in the thread of the loop that reads the answers."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return
        if running is self._line.loop:
            raise on_the_loop()

    def _ask(
        self,
        waiting: _Waiting,
        asking: int,
        found: PeerFound,
        request: InferRequest,
        *,
        is_stream: bool,
    ) -> None:
        message = AskPeer(
            waiting.call,
            asking,
            UNDER.get(),
            is_stream,
            found.name,
            found.version,
            request.id,
            request.received_ns,
            request.deadline_ns,
            cast("dict[str, Any]", request.parameters),
            list(request.outputs),
        )
        try:
            self._line.tell(message, request.inputs)
        except FrameError as error:
            waiting.is_over = True
            raise InvalidRequestError(
                "",
                expected="what can be passed to another process",
                found=str(error),
                model=found.name,
            ) from error

    @contextlib.contextmanager
    def _asking(self) -> Iterator[_Waiting]:
        waiting = _Waiting(next(self._numbers), self._line)
        self._waiting[waiting.call] = waiting
        try:
            yield waiting
        finally:
            del self._waiting[waiting.call]
            if not waiting.is_over:  # who wanted it doesn't any more
                self._line.tell(Cancel(waiting.call))


class _Waiting:
    """One call of the child's, and what came for it."""

    def __init__(self, call: int, line: Line) -> None:
        self.call = call
        #: Nothing more will come.
        self.is_over = False
        self._line = line
        self._there = threading.Event()
        self._came: deque[tuple[Message, Sequence[Tensor]]] = deque()

    def put(self, message: Message, tensors: Sequence[Tensor]) -> None:
        self._came.append((message, tensors))
        self._there.set()

    def take(self, name: str, version: str) -> tuple[Message, Sequence[Tensor]]:
        """Wait for the next message of a model; raises what it tells of."""
        if not self._came:
            try:
                self._line.wait(self._there)
            except EOFError:
                self.is_over = True
                raise CancelledError from None
        self._there.clear()
        message, tensors = self._came.popleft()
        self.is_over = not isinstance(message, FullAnswer)
        if isinstance(message, Refused):
            raise restore_error(message)
        if isinstance(message, Failed):
            raise RuntimeFailedError(name, version)
        if isinstance(message, GivenUp):
            raise CancelledError
        return message, tensors


class _FarModel(SyncModel):
    """A model of the server, called from a process of it."""

    def __init__(self, calls: PeerCalls, asking: int, found: PeerFound) -> None:
        self._calls = calls
        self._asking = asking
        self._found = found

    @property
    def name(self) -> str:
        return self._found.name

    @property
    def version(self) -> str:
        return self._found.version

    @property
    def metadata(self) -> ModelMetadata:
        return self._found.metadata

    def infer(self, request: InferRequest | None = None, /, **inputs: object) -> InferResponse:
        return self._calls.infer(self._asking, self._found, request_of(request, inputs))

    def stream(
        self, request: InferRequest | None = None, /, **inputs: object
    ) -> Iterator[InferResponse]:
        yield from self._calls.stream(self._asking, self._found, request_of(request, inputs))


# ---- both ----


def describe(call: int, response: InferResponse) -> FullAnswer:
    """Describe a response with all that it has, but for its tensors."""
    parameters = cast("dict[str, Any]", response.parameters)
    names = response.model_name, response.model_version
    return FullAnswer(call, parameters, *names, response.id, response.timing)


def restore_response(message: FullAnswer, tensors: Sequence[Tensor]) -> InferResponse:
    """Make it anew."""
    names = message.name, message.version
    return InferResponse(tensors, message.parameters, *names, message.id, message.timing)
