"""The paths that models answer themselves: whatever lies below a model and is no path of ours.

Some are at the root, too, or below the models that the model needs, as long as one model alone has
them there. They are no routes of the app: a model brings them with it, and takes them away when it
is unloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route, Router

from jackfield._http.body import read_body, read_json
from jackfield._http.errors import error_response
from jackfield._http.infer import read_infer, write_infer
from jackfield._process.routes import RemoteAnswer
from jackfield._routes import Undecoded, Written, call_plain
from jackfield._wire.json import ResponseForm
from jackfield._wire.value import encode_value
from jackfield.errors import JackfieldError, ModelNotFoundError, PayloadTooLargeError
from jackfield.messages import InferRequest, InferResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from jackfield._model import Model
    from jackfield._models import Models
    from jackfield._routes import ModelRoute
    from jackfield._shared_memory import Regions
    from jackfield.settings import ServerSettings

T = TypeVar("T")

_PATHS = ("/v2/models/{model}/versions/{version}", "/v2/models/{model}")


class ModelRoutes:
    """Answers what no route of the app does."""

    def __init__(self, models: Models, settings: ServerSettings, regions: Regions) -> None:
        self._models = models
        self._limit_bytes = settings.max_body_bytes
        self._regions = regions
        # made when first asked for; gone with its model
        self._routers: weakref.WeakKeyDictionary[Model, _Routers] = weakref.WeakKeyDictionary()
        self._below = [Route(path + "/{rest:path}", _nothing) for path in _PATHS]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; 404 where no model has such a route."""
        name = ""
        for route in self._below:
            match, found = route.matches(scope)
            if match is not Match.NONE:
                path = found["path_params"]
                name = path["model"]
                try:
                    model = self._models.get(name, path.get("version", ""))
                except ModelNotFoundError as error:
                    raise HTTPException(404) from error
                if _has(self._of(model).own, scope):
                    await self._answer(model, self._of(model).own, scope, receive, send)
                    return
                break
        if name:
            having = [
                (model, self._of(model).needed)
                for model in self._defaults()
                if name in model.needs and _has(self._of(model).needed, scope)
            ]
        else:
            having = [
                (model, self._of(model).root)
                for model in self._defaults()
                if _has(self._of(model).root, scope)
            ]
        if not having:
            raise HTTPException(404)
        if len(having) > 1:
            names = ", ".join(f"'{model.name}'" for model, _ in having)
            how = "ask one of them" if name else "put /v2/models/ and a model's name before it"
            text = f"'{scope['path']}' is a path of several models ({names}); {how}"
            await error_response(404, text)(scope, receive, send)
            return
        await self._answer(*having[0], scope, receive, send)

    async def _answer(
        self, model: Model, router: Router, scope: Scope, receive: Receive, send: Send
    ) -> None:
        arriving = _Arriving(_limit(receive, self._limit_bytes))
        with model.visit():
            await router(scope, arriving, send)

    def _defaults(self) -> list[Model]:
        """List the models that have routes, each by its default version."""
        names = dict.fromkeys(model.name for model in self._models.loaded() if model.routes)
        return [self._models.get(name) for name in names]

    def _of(self, model: Model) -> _Routers:
        routers = self._routers.get(model)
        if routers is None:
            routers = _Routers(
                own=self._router(model, _PATHS, model.routes),
                root=self._router(model, ("",), [each for each in model.routes if each.at_root]),
                needed=self._router(
                    model, (_PATHS[-1],), [each for each in model.routes if each.on_needed]
                ),
            )
            self._routers[model] = routers
        return routers

    def _router(self, model: Model, below: Iterable[str], routes: Iterable[ModelRoute]) -> Router:
        endpoints = [(each, self._endpoint(model, each)) for each in routes]
        return Router(
            [
                Route(path + each.path, endpoint, methods=list(each.methods))
                for each, endpoint in endpoints
                for path in below
            ],
            redirect_slashes=False,
        )

    def _endpoint(
        self, model: Model, route: ModelRoute
    ) -> Callable[[Request], Awaitable[Response]]:
        """Make a Starlette endpoint of a model's method."""
        handler = route.handler
        is_async = inspect.iscoroutinefunction(handler)

        async def answer(request: Request) -> Response:
            given: dict[str, object] = {}
            form: ResponseForm | None = None
            try:
                if route.request_name:
                    given[route.request_name] = request
                if route.body is InferRequest:
                    given[route.body_name], form, _ = await read_infer(
                        model,
                        request.scope,
                        request.receive,
                        limit_bytes=self._limit_bytes,
                        regions=self._regions,
                    )
                elif route.body is Undecoded:
                    given[route.body_name] = await read_body(request.receive, self._limit_bytes)
                elif route.body is not None:
                    given[route.body_name] = await read_json(
                        request.receive, route.body, self._limit_bytes
                    )
                if is_async:
                    result = await _while_here(handler(**given), request.receive)
                else:
                    result = await asyncio.to_thread(call_plain, handler, given)
                return _response(result, model, form or ResponseForm())
            except HTTPException:
                raise
            except ClientDisconnect:  # nobody reads an answer
                return Response(status_code=400)
            except BaseException as error:
                model.translate(error)
                raise

        return answer


class _Routers(NamedTuple):
    """Where a model's routes are: below itself, at the root, and below what it needs."""

    own: Router
    root: Router
    needed: Router


def _has(router: Router, scope: Scope) -> bool:
    return any(route.matches(scope)[0] is not Match.NONE for route in router.routes)


async def _nothing(request: Request) -> Response:
    """Stand in for an endpoint: the routes above only match paths."""
    raise HTTPException(404)


def _limit(receive: Receive, limit_bytes: int) -> Receive:
    """Count a body's bytes, which a model's route may read as it likes."""
    size = 0

    async def receive_some() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit_bytes:
            raise PayloadTooLargeError(limit_bytes)
        return message

    return receive_some


class _Arriving:
    """A request's body, and whether its caller is there: reads one part ahead while that is asked.

    An ASGI receive callable, for one reader. It and a watcher never read at the same time: a server
    gives what came to whichever is first.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._held: deque[Message | Exception] = deque()
        self._changed = asyncio.Event()
        self._is_reading = False
        self._has_left = False

    async def __call__(self) -> Message:
        """Give the next part."""
        while not self._held:
            if self._has_left:
                return {"type": "http.disconnect"}
            if not self._is_reading:
                return await self._read()
            await self._change()
        held = self._held.popleft()
        self._changed.set()
        if isinstance(held, Exception):
            raise held
        return held

    async def watch(self) -> None:
        """Return when the caller leaves."""
        try:
            while not self._has_left:
                if self._is_reading or self._held:
                    await self._change()
                    continue
                message = await self._read()
                if not self._has_left:
                    self._held.append(message)
                    self._changed.set()
                    if not message.get("more_body", False):  # all that comes now is his leaving
                        await self._read()
        except JackfieldError as error:  # it is too large, which who reads on is told
            self._held.append(error)
            self._changed.set()
            await asyncio.get_running_loop().create_future()

    async def _read(self) -> Message:
        self._is_reading = True
        try:
            message = await self._receive()
            self._has_left = message["type"] == "http.disconnect"
            return message
        finally:
            self._is_reading = False
            self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


async def _while_here(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Work for a caller; who leaves ends it.

    Raises:
        ClientDisconnect: He left.
    """
    waiting = asyncio.current_task()
    if not isinstance(receive, _Arriving) or waiting is None:
        return await work
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        await receive.watch()
        has_left = True
        waiting.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        # the server's own reasons to cancel go before
        if not has_left or waiting.uncancel():
            raise
        raise ClientDisconnect from None
    finally:
        watching.cancel()


class _FarResponse(Response):
    """One that a host sends as it comes."""

    def __init__(self, answer: RemoteAnswer) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientDisconnect):
            await _while_here(self._answer.send(send), receive)


def _response(value: object, model: Model, form: ResponseForm) -> Response:
    if isinstance(value, Response):
        return value
    if isinstance(value, RemoteAnswer):
        return _FarResponse(value)
    if isinstance(value, InferResponse):
        named = msgspec.structs.replace(value, model_name=model.name, model_version=model.version)
        payload, headers = write_infer(named, form)
        texts = {key.decode("latin1"): text.decode("latin1") for key, text in headers}
        return Response(payload, headers=texts)
    body = value if isinstance(value, Written) else encode_value(value)
    return Response(body, media_type="application/json")
