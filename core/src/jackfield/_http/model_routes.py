"""The paths that models answer themselves: whatever lies below a model and is no path of ours.

Some are at the root, too, or below the models that the model needs, as long as one model alone has
them there. They are no routes of the app: a model brings them with it, and takes them away when it
is unloaded.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route, Router

from jackfield._http.body import read_json
from jackfield._http.errors import error_response
from jackfield._http.infer import read_infer, write_infer
from jackfield._wire.json import ResponseForm
from jackfield.errors import ModelNotFoundError, PayloadTooLargeError
from jackfield.messages import InferRequest, InferResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from jackfield._models import Model, Models
    from jackfield._routes import ModelRoute
    from jackfield._shared_memory import Regions
    from jackfield.settings import ServerSettings

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
        limited = _limit(receive, self._limit_bytes)
        with model.visit():
            await router(scope, limited, send)

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
                elif route.body is not None:
                    given[route.body_name] = await read_json(
                        request.receive, route.body, self._limit_bytes
                    )
                if is_async:
                    result = await handler(**given)
                else:
                    result = await asyncio.to_thread(handler, **given)
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


def _response(value: object, model: Model, form: ResponseForm) -> Response:
    if isinstance(value, Response):
        return value
    if isinstance(value, InferResponse):
        named = msgspec.structs.replace(value, model_name=model.name, model_version=model.version)
        payload, headers = write_infer(named, form)
        texts = {key.decode("latin1"): text.decode("latin1") for key, text in headers}
        return Response(payload, headers=texts)
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Response(body, media_type="application/json")
