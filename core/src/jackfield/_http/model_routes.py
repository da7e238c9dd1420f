"""The paths that models answer themselves: whatever lies below a model and is no path of ours.

Some are at the root, too, as long as one model alone has them. They are no routes of the app: a
model brings them with it, and takes them away when it is unloaded.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from typing import TYPE_CHECKING

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route, Router

from jackfield._http.body import read_json
from jackfield._http.errors import error_response
from jackfield.errors import ModelNotFoundError, PayloadTooLargeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from jackfield._models import Model, Models
    from jackfield._routes import ModelRoute
    from jackfield.settings import ServerSettings

_PATHS = ("/v2/models/{model}/versions/{version}", "/v2/models/{model}")


class ModelRoutes:
    """Answers what no route of the app does."""

    def __init__(self, models: Models, settings: ServerSettings) -> None:
        self._models = models
        self._limit_bytes = settings.max_body_bytes
        # made when first asked for; goes with its model
        self._routers: weakref.WeakKeyDictionary[Model, Router] = weakref.WeakKeyDictionary()
        self._root_routers: weakref.WeakKeyDictionary[Model, Router] = weakref.WeakKeyDictionary()
        self._below = [Route(path + "/{rest:path}", _nothing) for path in _PATHS]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; 404 where the model has no such route either."""
        for route in self._below:
            match, found = route.matches(scope)
            if match is not Match.NONE:
                path = found["path_params"]
                try:
                    model = self._models.get(path["model"], path.get("version", ""))
                except ModelNotFoundError as error:
                    raise HTTPException(404) from error
                if model.routes:
                    await self._answer(model, self._router(model), scope, receive, send)
                    return
        having = self._at_root(scope)
        if not having:
            raise HTTPException(404)
        if len(having) > 1:
            names = ", ".join(f"'{each.name}'" for each in having)
            text = (
                f"'{scope['path']}' is a path of several models ({names}); "
                "put /v2/models/ and a model's name before it"
            )
            await error_response(404, text)(scope, receive, send)
            return
        await self._answer(having[0], self._root_router(having[0]), scope, receive, send)

    async def _answer(
        self, model: Model, router: Router, scope: Scope, receive: Receive, send: Send
    ) -> None:
        limited = _limit(receive, self._limit_bytes)
        with model.visit():
            await router(scope, limited, send)

    def _at_root(self, scope: Scope) -> list[Model]:
        """Find the models that have a path at the root, each by its default version."""
        names = dict.fromkeys(model.name for model in self._models.loaded() if model.routes)
        models = [self._models.get(name) for name in names]
        return [
            model
            for model in models
            if any(
                route.matches(scope)[0] is not Match.NONE
                for route in self._root_router(model).routes
            )
        ]

    def _router(self, model: Model) -> Router:
        router = self._routers.get(model)
        if router is None:
            routes = [self._route(model, each, path) for each in model.routes for path in _PATHS]
            router = self._routers[model] = Router(routes, redirect_slashes=False)
        return router

    def _root_router(self, model: Model) -> Router:
        router = self._root_routers.get(model)
        if router is None:
            routes = [self._route(model, each, "") for each in model.routes if each.at_root]
            router = self._root_routers[model] = Router(routes, redirect_slashes=False)
        return router

    def _route(self, model: Model, route: ModelRoute, below: str) -> Route:
        return Route(
            below + route.path,
            _endpoint(route, model.translate, self._limit_bytes),
            methods=list(route.methods),
        )


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


def _endpoint(
    route: ModelRoute, translate: Callable[[BaseException], None], limit_bytes: int
) -> Callable[[Request], Awaitable[Response]]:
    """Make a Starlette endpoint of a model's method."""
    handler = route.handler
    is_async = inspect.iscoroutinefunction(handler)

    async def answer(request: Request) -> Response:
        given: list[object] = [request] if route.takes_request else []
        try:
            if route.body is not None:
                given = [await read_json(request.receive, route.body, limit_bytes)]
            result = await handler(*given) if is_async else await asyncio.to_thread(handler, *given)
            return result if isinstance(result, Response) else _json(result)
        except HTTPException:
            raise
        except ClientDisconnect:  # nobody reads an answer
            return Response(status_code=400)
        except BaseException as error:
            translate(error)
            raise

    return answer


def _json(value: object) -> Response:
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Response(body, media_type="application/json")
