"""The paths of its own that a model in a host answers: asked for in the server, answered there.

`RouteCalls` is the server's end, `RouteAnswers` the child's. Bodies pass in parts, as they are
asked for; a caller who leaves cancels the method. Neither end needs a web framework: only a method
that takes or gives what is Starlette's has it imported already.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import re
import sys
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

import msgspec
import numpy as np

from jackfield._label import label_model
from jackfield._process.callbacks import UNDER, describe, restore_response
from jackfield._process.errors import refuse, restore_error, restore_failure, tell_error
from jackfield._process.frames import FrameError
from jackfield._process.messages import (
    AskRoute,
    BodyPart,
    BodyRefused,
    Cancel,
    Ended,
    Failed,
    FullAnswer,
    Refused,
    RoutePart,
    RouteRefused,
    RouteStarted,
    RouteText,
    RouteTold,
    Taken,
    WantBody,
)
from jackfield._routes import ModelRoute, Undecoded, Written, call_plain
from jackfield._wire.value import decode_value, encode_value
from jackfield.errors import (
    InvalidRequestError,
    JackfieldError,
    ModelLoadError,
    ModelNotReadyError,
    RuntimeFailedError,
)
from jackfield.messages import InferRequest, InferResponse
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from jackfield._process.callbacks import Tell
    from jackfield._process.messages import Message
    from jackfield._process.suspects import Suspects

logger = logging.getLogger("jackfield")

#: A message of ASGI, and how a body's parts come and go.
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]

#: Largest part of an answer's body in one frame, in bytes, and how many may be under way.
_PART_BYTES = 256 * 1024
_PARTS = 4


# ---- in the server ----


class Asking(Protocol):
    """Starlette's `Request`, as far as it is needed here."""

    @property
    def scope(self) -> MutableMapping[str, Any]:
        """What ASGI says about it."""

    @property
    def receive(self) -> Receive:
        """Gives its body's parts."""


class Home(Protocol):
    """A model in a host, as the server knows it."""

    #: Its name and version.
    facts: tuple[str, str]
    #: What its process died of.
    suspects: Suspects

    async def ready_routes(self, asked: Callable[[], InferRequest]) -> RouteCalls:
        """Wait for the host's end, or raise why there is none."""

    def blame(
        self,
        requests: Sequence[InferRequest],
        how: str,
        *,
        is_own_doing: bool,
        only_suspect: InferRequest | None,
    ) -> None:
        """Take notice of what was under way when the process died."""


class RouteCalls:
    """Asks one host for what its models' paths answer; used on the server's loop.

    Args:
        tell: Sends a message to the host.
        numbers: Gives numbers that no other call to this host has.
        on_leave: Told the number of a call that nobody waits for any more.
    """

    def __init__(
        self, tell: Tell, numbers: Iterator[int], on_leave: Callable[[int], object]
    ) -> None:
        self._tell = tell
        self._numbers = numbers
        self._on_leave = on_leave
        self._open: dict[int, RouteCall] = {}

    def handle(self, message: Message, tensors: Sequence[Tensor]) -> bool:
        """Take a message of the host; tells whether it was meant for here."""
        if not isinstance(message, _ANSWERS | _OF_ROUTES):
            return False
        call = self._open.get(message.call)
        if call is None:
            return isinstance(message, _OF_ROUTES)  # what came late
        call.take(message, tensors)
        return True

    def begin(
        self,
        request: Asking,
        ask: Callable[[int], AskRoute],
        tensors: Sequence[Tensor],
        *,
        home: Home,
        asked: Callable[[], InferRequest],
    ) -> RouteCall:
        """Ask for an answer.

        Args:
            request: Whose body is read on where the method wants it.
            ask: Makes the message of the call's number.
            tensors: What belongs to it.
            home: The model.
            asked: Describes all this, for the case that the process dies of it.

        Raises:
            InvalidRequestError: The request can't be passed on.
        """
        call = RouteCall(next(self._numbers), self._tell, request.receive, home, asked)
        try:
            self._tell(ask(call.number), tensors)
        except FrameError as error:
            raise InvalidRequestError(
                "", expected="what can be passed to the model's process", found=str(error)
            ) from error
        self._open[call.number] = call
        return call

    @property
    def whole(self) -> list[RouteCall]:
        """Those under way of which is known all that the host has of them."""
        return [call for call in self._open.values() if call.is_whole]

    def taken(self, call: RouteCall) -> None:
        """Tell that a part of an answer is on its way, so that others may come."""
        self._tell(Taken(call.number))

    async def end(self, call: RouteCall) -> None:
        """Forget a call; one whose method is under way is cancelled.

        A method that runs in a thread runs on: this returns when it is done, so that the model is
        not freed before.
        """
        try:
            if call.is_answered and call.member.suspects:
                call.member.suspects.clear(call.request)
            if not call.is_over:
                self._on_leave(call.number)
                self._tell(Cancel(call.number))
            while not call.is_over:
                with contextlib.suppress(ModelNotReadyError):  # nobody is left to be told
                    await call.next()
        finally:
            self._open.pop(call.number, None)
            call.close()

    def close(self, reason: str) -> None:
        """End all: the host is gone, and this is why."""
        for call in self._open.values():
            call.fail(reason)


#: What else a host sends for a path, but not for a path alone.
_ANSWERS = FullAnswer | Ended | Refused | Failed
_OF_ROUTES = WantBody | RouteText | RouteStarted | RoutePart | RouteRefused


class RouteCall:
    """One request to a path that is under way in a host."""

    def __init__(
        self,
        number: int,
        tell: Tell,
        receive: Receive,
        member: Home,
        asked: Callable[[], InferRequest],
    ) -> None:
        self.number = number
        self.member = member
        #: Nothing more will come.
        self.is_over = False
        #: The last that came was the host's, which has outlived it.
        self.is_answered = False
        #: Whether it was under way when the process died before.
        self.is_suspect = bool(member.suspects) and member.suspects.holds(asked())
        self._asked = asked
        self._tell = tell
        self._receive = receive
        self._came: asyncio.Queue[tuple[Message, Sequence[Tensor]] | str] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    @property
    def request(self) -> InferRequest:
        """What was asked, as far as it tells of what the process died of."""
        return self._asked()

    @property
    def is_whole(self) -> bool:
        """Whether the host has no more of it than `request` describes: no part of its body."""
        return self._reading is None

    def take(self, message: Message, tensors: Sequence[Tensor]) -> None:
        if not isinstance(message, WantBody):
            self._came.put_nowait((message, tensors))
        elif self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._read())

    def fail(self, reason: str) -> None:
        self._came.put_nowait(reason)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        """Send the next part of the body."""
        try:
            event = await self._receive()
        except JackfieldError as error:  # it is too large
            self._tell(BodyRefused(self.number, refuse(self.number, error)))
            return
        if event["type"] == "http.request":  # who has left is told by a Cancel
            body, has_more = event.get("body", b""), event.get("more_body", False)
            self._tell(BodyPart(self.number, body, has_more))

    async def next(self) -> tuple[Message, Sequence[Tensor]]:
        """Wait for what comes next.

        Raises:
            ModelNotReadyError: The host is gone.
        """
        came = await self._came.get()
        if isinstance(came, str):
            self.is_over = True
            raise ModelNotReadyError(*self.member.facts, reason=came)
        self.is_over = self.is_answered = not isinstance(came[0], _BEFORE_LAST)
        return came


#: What others follow.
_BEFORE_LAST = RouteStarted | RoutePart


def remote_routes(
    told: Sequence[RouteTold],
    model: int,
    home: Home,
) -> tuple[ModelRoute, ...]:
    """Make the routes of a model in a host, as the server serves them.

    Args:
        told: What the child told of them.
        model: The model's number in the host.
        home: The model.
    """
    return tuple(
        ModelRoute(
            each.path,
            tuple(each.methods),
            _RemoteRoute(model, number, home).answer,
            body=_BODIES[each.takes],
            request_name="request",
            body_name="body" if _BODIES[each.takes] is not None else "",
            at_root=each.at_root,
            on_needed=each.on_needed,
        )
        for number, each in enumerate(told)
    )


_BODIES = {"nothing": None, "tensors": InferRequest, "json": Undecoded}


class _RemoteRoute:
    """One path of a model in a host."""

    def __init__(self, model: int, number: int, home: Home) -> None:
        self._model = model
        self._number = number
        self._home = home

    async def answer(self, request: Asking, body: InferRequest | bytes = b"") -> object:
        """Have the host answer; raises what the method there does, as far as a caller is told it.

        Returns:
            An `InferResponse`, `Written` JSON, or a `RemoteAnswer` whose body is still to come.
        """
        asked = partial(_describe, request.scope, body)
        calls = await self._home.ready_routes(asked)
        tensors = body.inputs if isinstance(body, InferRequest) else ()
        call = calls.begin(
            request,
            lambda number: self._ask(number, request.scope, body),
            tensors,
            home=self._home,
            asked=asked,
        )
        try:
            message, outputs = await call.next()
            self._raise(message)
        except BaseException:
            await calls.end(call)
            raise
        if isinstance(message, RouteStarted):
            return RemoteAnswer(message, calls, call, self._raise)
        await calls.end(call)
        if isinstance(message, FullAnswer):
            return restore_response(message, outputs)
        if isinstance(message, RouteText):
            return Written(message.body)
        logger.error("%s: a path gave no answer", label_model(*self._home.facts))
        raise RuntimeFailedError(*self._home.facts)

    def _ask(self, number: int, scope: Mapping[str, Any], body: InferRequest | bytes) -> AskRoute:
        ask = AskRoute(
            number,
            self._model,
            self._number,
            *(scope["method"], scope.get("scheme", "http"), scope.get("http_version", "1.1")),
            *(scope["path"], scope.get("raw_path") or b"", scope.get("root_path", "")),
            *(scope["path_params"], scope.get("query_string", b""), list(scope["headers"])),
            *(scope.get("client"), scope.get("server")),
        )
        if not isinstance(body, InferRequest):
            return msgspec.structs.replace(ask, body=body)
        return msgspec.structs.replace(
            ask,
            id=body.id,
            received_ns=body.received_ns,
            deadline_ns=body.deadline_ns,
            parameters=cast("dict[str, Any]", body.parameters),
            outputs=list(body.outputs),
        )

    def _raise(self, message: Message) -> None:
        """Raise what a message tells of, if it does."""
        if isinstance(message, Refused | Failed):
            raise restore_failure(message, self._home.facts)
        if isinstance(message, RouteRefused):
            from starlette.exceptions import HTTPException  # who is asked by HTTP has it

            raise HTTPException(message.status, message.text, message.headers)


def _describe(scope: Mapping[str, Any], body: InferRequest | bytes) -> InferRequest:
    """Describe what a path is asked, without the headers, as inputs that have no rows."""
    query = scope.get("query_string", b"").decode("latin-1")
    data, inputs = (b"", body.inputs) if isinstance(body, InferRequest) else (body, ())
    name = f"{scope['method']} {scope['path']}{query and '?'}{query}"
    return InferRequest([Tensor(name, Datatype.BYTES, np.array(data, object)), *inputs])


class RemoteAnswer:
    """An answer that a host has begun, and whose body is still to come."""

    def __init__(
        self,
        started: RouteStarted,
        calls: RouteCalls,
        call: RouteCall,
        raise_of: Callable[[Message], None],
    ) -> None:
        self._started = started
        self._calls = calls
        self._call = call
        self._raise_of = raise_of

    async def send(self, send: Callable[[Event], Awaitable[None]]) -> None:
        """Send it by ASGI as it comes; a cancellation cancels what makes it."""
        start = {"status": self._started.status, "headers": self._started.headers}
        try:
            await send({"type": "http.response.start", **start})
            while True:
                message, _ = await self._call.next()
                self._raise_of(message)
                if not isinstance(message, RoutePart):
                    break
                part = {"body": message.data, "more_body": message.has_more}
                await send({"type": "http.response.body", **part})
                self._calls.taken(self._call)
        finally:
            await self._calls.end(self._call)


# ---- in the child ----


def choose_routes(routes: Sequence[ModelRoute], name: str, version: str) -> Sequence[ModelRoute]:
    """Leave out the routes that can't be served here, where the model can do without them.

    Raises:
        ModelLoadError: It can't.
    """
    if not any(each.request_name for each in routes) or _has_starlette():
        return routes
    lost = [each for each in routes if each.request_name]
    paths = ", ".join(f"'{each.path}'" for each in lost)
    if any(each.is_needed for each in lost):
        problem = (
            f"its own paths {paths} take Starlette's request, and Starlette is not in its "
            "environment: add 'starlette' to its requirements"
        )
        raise ModelLoadError(problem)
    logger.warning(
        "%s: its own paths %s are not served: Starlette is not in its environment",
        *(label_model(name, version), paths),
    )
    return [each for each in routes if not each.request_name]


def _has_starlette() -> bool:
    try:
        import starlette.requests  # noqa: F401  to see whether it is there, and works
    except ImportError:
        return False
    return True


def describe_routes(routes: Sequence[ModelRoute]) -> list[RouteTold]:
    """Describe a model's routes for the server."""
    return [
        RouteTold(each.path, list(each.methods), _taken(each.body), each.at_root, each.on_needed)
        for each in routes
    ]


def _taken(body: object) -> Literal["nothing", "tensors", "json"]:
    if body is None:
        return "nothing"
    return "tensors" if body is InferRequest else "json"


class RouteAnswers:
    """Runs the methods of the models' paths; used on the child's loop.

    Args:
        tell: Sends a message to the server.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._routes: dict[int, Sequence[ModelRoute]] = {}
        self._open: dict[int, _Answering] = {}

    def add(self, model: int, routes: Sequence[ModelRoute]) -> None:
        """Let a model that is loaded answer at its paths."""
        self._routes[model] = routes

    async def remove(self, model: int) -> None:
        """Let it answer no more, and wait for the methods that are under way."""
        self._routes.pop(model, None)
        await self._finish([each for each in self._open.values() if each.model == model])

    async def close(self) -> None:
        """Cancel all, and wait until it is over: the server is gone."""
        for each in self._open.values():
            each.cancel()
        await self._finish(list(self._open.values()))

    async def _finish(self, answerings: Sequence[_Answering]) -> None:
        if answerings:
            await asyncio.wait([each.task for each in answerings])

    def handle(self, message: Message, tensors: Sequence[Tensor]) -> bool:
        """Take a message of the server; tells whether it was meant for here."""
        if isinstance(message, AskRoute):
            self._begin(message, tensors)
            return True
        if isinstance(message, Cancel | Taken | BodyPart | BodyRefused):
            if answering := self._open.get(message.call):
                answering.take(message)
                return True
            return not isinstance(message, Cancel)  # what came late
        return False

    def _begin(self, ask: AskRoute, tensors: Sequence[Tensor]) -> None:
        route = self._routes[ask.model][ask.route]
        answering = self._open[ask.call] = _Answering(route, ask, tensors, self._tell)
        answering.task.add_done_callback(lambda _: self._open.pop(ask.call))


class _Answering:
    """One request to a path that is under way."""

    def __init__(
        self, route: ModelRoute, ask: AskRoute, tensors: Sequence[Tensor], tell: Tell
    ) -> None:
        self.model = ask.model
        self._route = route
        self._ask = ask
        self._tell = tell
        self._room = asyncio.Semaphore(_PARTS)
        self._parts: deque[BodyPart | BodyRefused] = deque()
        self._came = asyncio.Event()
        self._is_wanted = self._is_gone = False
        self.task = asyncio.ensure_future(self._answer(tensors))
        self.task.add_done_callback(self._tell_cancelled)

    def take(self, message: Cancel | Taken | BodyPart | BodyRefused) -> None:
        if isinstance(message, Cancel):
            self.cancel()
        elif isinstance(message, Taken):
            self._room.release()
        else:
            self._is_wanted = False
            self._parts.append(message)
            self._came.set()

    def cancel(self) -> None:
        self._is_gone = True
        self._came.set()
        self.task.cancel()

    def _tell_cancelled(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._tell(Ended(self._ask.call))

    async def _answer(self, tensors: Sequence[Tensor]) -> None:
        call = self._ask.call
        UNDER.set(call)
        try:
            result = await self._call(tensors)
            if isinstance(result, InferResponse):
                self._tell(describe(call, result), result.outputs)
            elif _is_of("starlette.responses", "Response", result):
                respond = cast("Callable[..., Awaitable[None]]", result)
                await respond(self._scope(), self._receive, self._send)
                self._tell(Ended(call))
            else:
                self._tell(RouteText(call, encode_value(result)))
        # the seam where foreign code runs: whatever it raises is this request's failure
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        call = self._ask.call
        if _is_of("starlette.exceptions", "HTTPException", error):
            status, text, headers = (
                getattr(error, name) for name in ("status_code", "detail", "headers")
            )
            try:
                self._tell(RouteRefused(call, status, text, dict(headers) if headers else None))
            except (FrameError, TypeError, ValueError) as unsent:
                error = unsent
            else:
                return
        tell_error(self._tell, call, error)

    async def _call(self, tensors: Sequence[Tensor]) -> object:
        route, ask = self._route, self._ask
        given: dict[str, object] = {}
        if route.request_name:
            from starlette.requests import Request  # where a method takes one it is there

            given[route.request_name] = Request(self._scope(), self._receive)
        if route.body is InferRequest:
            facts = ask.outputs, ask.parameters, ask.id, ask.received_ns, ask.deadline_ns
            given[route.body_name] = InferRequest(tensors, *facts)
        elif route.body is not None:
            given[route.body_name] = decode_value(ask.body, route.body)
        if inspect.iscoroutinefunction(route.handler):
            return await route.handler(**given)
        # no task, which would not let a SystemExit pass to here alone
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        working = loop.run_in_executor(None, context.run, call_plain, route.handler, given)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            # a thread runs on, and uses the model until it is done
            await asyncio.wait([working])
            if not working.cancelled():
                working.exception()  # nobody is left to be told
            raise

    def _scope(self) -> dict[str, Any]:
        ask = self._ask
        uuids = set(_UUID.findall(self._route.path))
        return {
            "type": "http",
            # a caller who leaves cancels the task: nobody needs to look
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": ask.http_version,
            "method": ask.method,
            "scheme": ask.scheme,
            "path": ask.path,
            "raw_path": ask.raw_path,
            "root_path": ask.root_path,
            "path_params": {
                name: uuid.UUID(value) if name in uuids else value
                for name, value in ask.path_params.items()
            },
            "query_string": ask.query,
            "headers": ask.headers,
            "client": ask.client,
            "server": ask.server,
        }

    async def _receive(self) -> Event:
        """Give the next part of the body.

        One that came after who waited for it had gone is kept for who asks next.
        """
        while not self._parts:
            if self._is_gone:
                return {"type": "http.disconnect"}
            if not self._is_wanted:
                self._is_wanted = True
                self._tell(WantBody(self._ask.call))
            self._came.clear()
            await self._came.wait()
        part = self._parts.popleft()
        if isinstance(part, BodyRefused):
            raise restore_error(part.error)
        return {"type": "http.request", "body": part.data, "more_body": part.has_more}

    async def _send(self, event: Event) -> None:
        """Pass on what a Starlette response sends, not further than the caller takes it."""
        call = self._ask.call
        if event["type"] == "http.response.start":
            headers = [(bytes(name), bytes(value)) for name, value in event["headers"]]
            self._tell(RouteStarted(call, event["status"], headers))
        elif event["type"] == "http.response.body":
            body, has_more = memoryview(event.get("body", b"")), event.get("more_body", False)
            for start in range(0, len(body) or 1, _PART_BYTES):
                await self._room.acquire()
                end = start + _PART_BYTES
                part = bytes(body[start:end])
                self._tell(RoutePart(call, part, has_more or end < len(body)))


_UUID = re.compile(r"\{(\w+):uuid\}")


def _is_of(module: str, name: str, value: object) -> bool:
    """Tell whether a value is of a class of a module that may not be there."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)
