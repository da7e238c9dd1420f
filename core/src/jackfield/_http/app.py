"""The REST API as a Starlette app: which path goes where.

Routes are those of the Open Inference Protocol, Triton's extensions and MLServer's aliases; a
versioned path stands beside each path of a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route

from jackfield._http.controls import Controls
from jackfield._http.docs import Docs
from jackfield._http.errors import (
    answer_bug,
    answer_error,
    answer_http_error,
    answer_jackfield_error,
)
from jackfield._http.infer import Generate, Infer, Stream
from jackfield._http.management import Management
from jackfield._http.model_routes import ModelRoutes
from jackfield._http.monitor_report import MonitorReport
from jackfield._http.monitors import MonitorStatus
from jackfield.errors import JackfieldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from starlette.types import ASGIApp, Receive, Scope, Send

    from jackfield._control import Control
    from jackfield._logging_settings import LoggingSettings
    from jackfield._models import Models
    from jackfield._shared_memory import Regions
    from jackfield.settings import ServerSettings


def create_app(
    models: Models,
    settings: ServerSettings,
    problem: Callable[[], str],
    *,
    control: Control,
    regions: Regions,
    logs: LoggingSettings,
    lifespan: Callable[[object], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """Make the REST app.

    Args:
        models: What is served.
        settings: Limits and names.
        problem: Tells why the server is not ready; empty when it is.
        control: What concerns the server as a whole.
        regions: Shared memory that callers register.
        logs: What callers change of the log.
        lifespan: Is entered while the app lives, for those who serve it as their only app.
    """
    cors = settings.cors_settings
    middleware = []
    if cors is not None:
        middleware.append(Middleware(CORSMiddleware, **cors.arguments()))
    infer = Infer(models, settings, regions)
    return _App(
        ModelRoutes(models, settings, regions),
        models,
        infer,
        routes=[
            *_routes(models, settings, problem, control, regions, infer),
            *_control_routes(Controls(models, settings, control, regions=regions, logs=logs)),
        ],
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={
            JackfieldError: answer_jackfield_error,
            HTTPException: answer_http_error,
            Exception: answer_bug,
        },
    )


class _App(Starlette):
    """Starlette without its outermost layer, and with a short way to inference.

    That layer raises what nobody foresaw again after answering it, whereupon uvicorn ends the
    connection. And a slash at the end of a path is passed over: Litestar adds one to whatever it
    mounts.

    Args:
        model_routes: Answers the paths that are a model's own.
        models: What is served: the paths of inference need no router.
        infer: Answers them.
        given: Starlette's arguments.
    """

    def __init__(
        self,
        model_routes: ModelRoutes,
        models: Models,
        infer: Infer,
        **given: Any,  # noqa: ANN401  Starlette's
    ) -> None:
        super().__init__(**given)
        self._paths = models.paths
        self._arrivals = models.arrivals
        self._turns = models.turns
        self._infer = infer
        self.router.redirect_slashes = False
        self._answer_no_http = self.router.default
        self._model_routes = model_routes
        self.router.default = self._drop_slash

    async def _drop_slash(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path.endswith("/"):
            await self.router({**scope, "path": path.rstrip("/")}, receive, send)
        elif scope["type"] == "http":
            await self._model_routes(scope, receive, send)
        else:
            await self._answer_no_http(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        self._others = ExceptionMiddleware(self.router, handlers=self.exception_handlers)
        app: ASGIApp = self._find
        for wrap, args, kwargs in reversed(self.user_middleware):
            app = wrap(app, *args, **kwargs)
        return app

    async def _find(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._turns.left:
            await self._turns.take()
        self._arrivals.come()
        if scope["type"] == "http" and scope["method"] == "POST":
            model = self._paths.get(scope["path"])
            if model is not None:
                try:
                    await self._infer.answer(model, scope, receive, send)
                except Exception as error:  # noqa: BLE001  told apart there, as the router's are
                    await answer_error(error, scope, receive, send)
                return
        await self._others(scope, receive, send)


def _routes(
    models: Models,
    settings: ServerSettings,
    problem: Callable[[], str],
    control: Control,
    regions: Regions,
    infer: Infer,
) -> Iterator[Route]:
    """Yield the routes, the one that most requests take first."""
    management = Management(models, settings, problem, control)
    stream = Stream(models, settings, regions)
    generate = Generate(models, settings, regions)
    docs = Docs(models, settings)
    monitors, reports = MonitorStatus(models, control), MonitorReport(models)
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        yield Route(path + "/infer", infer, methods=["POST"])
        yield Route(path + "/infer_stream", stream, methods=["POST"])
        yield Route(path + "/generate", generate, methods=["POST"])
        yield Route(path + "/generate_stream", stream, methods=["POST"])
    yield Route("/v2/health/live", management.live)
    yield Route("/v2/health/ready", management.ready)
    yield Route("/v2", management.server_metadata)
    yield Route("/v2/models", management.models)
    # before the models' own paths: "stats" is a name that a model can't have
    yield Route("/v2/models/stats", management.statistics)
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        yield Route(path, management.model_metadata)
        yield Route(path + "/ready", management.model_ready)
        yield Route(path + "/stats", management.statistics)
        yield Route(path + "/config", management.config)
        yield Route(path + "/monitors", monitors.status)
        yield Route(path + "/monitors/report", reports.report)
        yield Route(path + "/docs", docs.model_page)
        yield Route(path + "/docs/dataplane.json", docs.model_document)
    for path in ("/v2/repository", "/v2/repository/{repository}"):
        yield Route(path + "/index", management.index, methods=["POST"])
        yield Route(path + "/models/{model}/load", management.load, methods=["POST"])
        yield Route(path + "/models/{model}/unload", management.unload, methods=["POST"])
    yield Route("/v2/docs", docs.server_page)
    yield Route("/v2/docs/dataplane.json", docs.server_document)
    yield Route("/v2/docs/assets/{file}", docs.asset)


def _control_routes(controls: Controls) -> Iterator[Route]:
    """Yield the routes that change how the server works while it runs."""
    yield Route("/v2/logging", controls.logging, methods=["GET", "POST"])
    for path in ("/v2", "/v2/models/{model}"):
        yield Route(path + "/trace/setting", controls.trace, methods=["GET", "POST"])
    for path in ("/v2/systemsharedmemory", "/v2/systemsharedmemory/region/{region}"):
        yield Route(path + "/status", controls.shared_memory)
        yield Route(path + "/unregister", controls.unregister, methods=["POST"])
    yield Route(path + "/register", controls.register, methods=["POST"])
