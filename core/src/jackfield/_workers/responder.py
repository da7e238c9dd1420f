"""What a worker that owns a model answers another one, in the messages of a host."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING

from jackfield._process.errors import encode_error, refuse
from jackfield._process.link import Link
from jackfield._process.messages import (
    Answer,
    AskRoute,
    Cancel,
    Ended,
    FindPeer,
    Infer,
    Next,
    RoutePart,
    RouteStarted,
    WantBody,
    restore_request,
)
from jackfield._process.routes import RouteAnswers, describe_routes
from jackfield._process.segments import Transport
from jackfield._scheduling import NEVER
from jackfield._workers.owned import MODEL, OwnedRuntime
from jackfield._workers.remote import NoOwnerError, RemoteRuntime
from jackfield.errors import JackfieldError, ModelNotReadyError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Future

    from jackfield._model import Model
    from jackfield._models import Models
    from jackfield._process.frames import Payload
    from jackfield._process.messages import Loaded, Message
    from jackfield.messages import InferRequest
    from jackfield.tensor import Tensor

logger = logging.getLogger("jackfield")


class Responder:
    """Answers what one other worker asks of one model.

    Args:
        models: This worker's.
        find_load: Gives the load, under way or done, of a model that it owns.
        sock: Connected to the other worker.
        on_end: Called when that has gone.
    """

    def __init__(
        self,
        models: Models,
        find_load: Callable[[str, str], Future[Loaded] | None],
        sock: socket.socket,
        on_end: Callable[[Responder], object],
    ) -> None:
        self._models = models
        self._find_load = find_load
        self._on_end = on_end
        self._name = self._version = ""
        #: What the other one knows of the model.
        self._told: Loaded | None = None
        #: By the calls' numbers; that of what was asked first is 0.
        self._tasks: dict[int, asyncio.Task[None]] = {}
        #: Streams whose next response nobody has asked for yet.
        self._wanted: dict[int, asyncio.Semaphore] = {}
        #: What keeps the model while its own paths answer.
        self._visits: dict[int, contextlib.ExitStack] = {}
        self._routes = RouteAnswers(self._tell)
        loop = asyncio.get_running_loop()
        self._link = Link(loop, sock, Transport(), on_frame=self._on_frame, on_lost=self._on_lost)
        self._link.open()

    def _tell(self, message: Message, tensors: Sequence[Tensor] = ()) -> None:
        self._link.send(self._link.transport.encode(message, tensors))
        if isinstance(message, WantBody | RouteStarted | RoutePart):
            return  # more will come
        if visit := self._visits.pop(getattr(message, "call", 0), None):
            visit.close()

    def _on_lost(self, problem: str) -> None:
        if problem:
            logger.error("another worker can't be understood: %s", problem)
        for task in self._tasks.values():
            task.cancel()
        self._tasks[-1] = closing = asyncio.create_task(self._routes.close())
        closing.add_done_callback(lambda _: self._on_end(self))

    def _on_frame(self, payload: Payload) -> None:
        message, tensors = self._link.transport.decode(payload)
        if isinstance(message, FindPeer):
            self._begin(message.call, self._welcome(message))
        elif isinstance(message, Infer):
            request = restore_request(message, tensors)
            answering = self._stream if message.is_stream else self._infer
            self._begin(message.call, self._answer(message.call, answering, request))
        elif isinstance(message, Cancel) and message.call in self._tasks:
            self._tasks[message.call].cancel()
        elif isinstance(message, Next):
            if wanted := self._wanted.get(message.call):
                wanted.release()
        elif isinstance(message, AskRoute):
            self._begin_route(message, tensors)
        else:
            self._routes.handle(message, tensors)

    def _begin(self, call: int, work: Coroutine[None, None, None]) -> None:
        task = self._tasks[call] = asyncio.create_task(work)
        task.add_done_callback(functools.partial(_forget, self._tasks, call))

    async def _welcome(self, asked: FindPeer) -> None:
        """Tell what the model is, when it is loaded."""
        self._name, self._version = asked.name, asked.version
        load = self._find_load(asked.name, asked.version)
        try:
            if load is None:
                raise NoOwnerError
            self._told = await asyncio.shield(asyncio.wrap_future(load))
        except NoOwnerError:
            self._link.close()
            self._on_lost("")
        else:
            self._tell(self._told)

    def _model(self) -> Model:
        return self._models.get_peer(self._name, self._version)

    async def _answer(
        self,
        call: int,
        answering: Callable[[int, InferRequest], Coroutine[None, None, None]],
        request: InferRequest,
    ) -> None:
        try:
            await answering(call, request)
        except asyncio.CancelledError:
            return
        # the seam where foreign code runs was passed before: this only tells of it
        except Exception as error:  # noqa: BLE001
            self._link.send(encode_error(call, error))

    async def _infer(self, number: int, request: InferRequest) -> None:
        """Compute, past what counts requests: the worker that was asked does."""
        model = self._model()
        with model.visit():
            deadline = request.deadline_ns or NEVER
            call = model.scheduler.submit(request, perf_counter_ns(), deadline)
            try:
                await call.future
            except BaseException as error:
                model.scheduler.leave(call)
                model.translate(error)
                raise
            response = call.execution[0]
        self._tell(Answer(number, dict(response.parameters)), response.outputs)

    async def _stream(self, number: int, request: InferRequest) -> None:
        """Compute one response after the other, each when it is asked for."""
        model = self._model()
        stream = _owned_of(model).stream
        if stream is None:
            raise self._changed()
        wanted = self._wanted[number] = asyncio.Semaphore(0)
        try:
            with model.visit():
                async with contextlib.aclosing(stream(request)) as responses:
                    async for response in responses:
                        self._tell(Answer(number, dict(response.parameters)), response.outputs)
                        await wanted.acquire()
        except BaseException as error:
            model.translate(error)
            raise
        finally:
            del self._wanted[number]
        self._tell(Ended(number))

    def _begin_route(self, ask: AskRoute, tensors: Sequence[Tensor]) -> None:
        with contextlib.ExitStack() as visiting:
            try:
                model = self._model()
                routes = _owned_of(model).routes
                if self._told is None or describe_routes(routes) != self._told.routes:
                    raise self._changed()
                visiting.enter_context(model.visit())
            except JackfieldError as error:
                self._tell(refuse(ask.call, error))
                return
            # it is that of the model that serves now
            self._routes.add(MODEL, routes)
            self._visits[ask.call] = visiting.pop_all()
            self._routes.handle(ask, tensors)

    def _changed(self) -> ModelNotReadyError:
        return ModelNotReadyError(
            self._name, self._version, reason="the worker that has its memory loads it anew"
        )


def _owned_of(model: Model) -> OwnedRuntime:
    """Find what a model that serves here is.

    Raises:
        ModelNotReadyError: It is another worker's.
    """
    held = model.metrics
    own = held.own if isinstance(held, RemoteRuntime) else held
    if not isinstance(own, OwnedRuntime):
        raise ModelNotReadyError(
            model.name, model.version, reason="another worker has its memory now"
        )
    return own


def _forget(tasks: dict[int, asyncio.Task[None]], call: int, task: asyncio.Task[None]) -> None:
    tasks.pop(call, None)
