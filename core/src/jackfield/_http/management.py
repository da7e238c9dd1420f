"""The endpoints beside inference: health, metadata, repository, statistics, configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.responses import Response

from jackfield import __version__
from jackfield._changes import LoadModel, UnloadModel
from jackfield._http.body import read_json
from jackfield._models import ModelState
from jackfield._wire import extensions
from jackfield._wire.model_config import model_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from jackfield._control import Control
    from jackfield._models import Models
    from jackfield.settings import ServerSettings

T = TypeVar("T")


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class _RepositoryRequest(msgspec.Struct):
    parameters: dict[str, Any] = {}


class Management:
    """Answers what operators and clients ask beside inference."""

    def __init__(
        self,
        models: Models,
        settings: ServerSettings,
        problem: Callable[[], str],
        control: Control,
    ) -> None:
        self._models = models
        self._settings = settings
        self._problem = problem
        self._control = control

    async def live(self, request: Request) -> Response:
        """Say that the process answers, and whether it is ready."""
        return _health(problem=self._problem(), status=200)

    async def ready(self, request: Request) -> Response:
        """Say whether requests may be sent here: 200 or 503."""
        problem = self._problem()
        return _health(problem=problem, status=503 if problem else 200)

    async def model_ready(self, request: Request) -> Response:
        """Say whether a model version answers: 200 or 503, with the reason."""
        name, version = _name(request)
        line = await self._control.state(name, version)
        problem = "" if line.state is ModelState.READY else line.reason
        return _health(problem=problem, status=503 if problem else 200, name=name)

    async def server_metadata(self, request: Request) -> Response:
        """Name the server, its version and the extensions that are on."""
        return _json(
            {
                "name": self._settings.server_name,
                "version": __version__,
                "extensions": extensions(self._settings),
            }
        )

    async def models(self, request: Request) -> Response:
        """List the names of the models that serve, as KServe does."""
        return _json({"models": self._models.names()})

    async def model_metadata(self, request: Request) -> Response:
        """Say what a model takes and gives."""
        metadata = self._models.metadata(*_name(request))
        body = msgspec.to_builtins(metadata)
        for tensor in (*body["inputs"], *body["outputs"]):
            if not tensor["parameters"]:
                del tensor["parameters"]
        if not body["parameters"]:
            del body["parameters"]
        return _json(body)

    async def config(self, request: Request) -> Response:
        """Give a model's configuration in Triton's form."""
        model = self._models.get(*_name(request))
        return _json(
            model_config(model.metadata, runtime=model.runtime_name, streams=model.streams)
        )

    async def statistics(self, request: Request) -> Response:
        """Give what one model, or every model, did so far."""
        name, version = request.path_params.get("model", ""), request.path_params.get("version", "")
        return _json({"model_stats": await self._control.statistics(name, version)})

    async def index(self, request: Request) -> Response:
        """List all model versions with their states and reasons."""
        wanted = await self._decode(request, _IndexRequest)
        lines = await self._control.index()
        return _json([line for line in lines if not wanted.ready or line.state == "READY"])

    async def load(self, request: Request) -> Response:
        """Load a model as it lies on disk now, its settings overridden where that is asked for."""
        wanted = await self._decode(request, _RepositoryRequest)
        await self._control.apply(LoadModel(request.path_params["model"], wanted.parameters))
        return Response(status_code=200)

    async def unload(self, request: Request) -> Response:
        """Unload all versions of a model."""
        # unload_dependents asks for models that this one is made of: no model here has any
        await self._decode(request, _RepositoryRequest)
        await self._control.apply(UnloadModel(request.path_params["model"]))
        return Response(status_code=200)

    async def _decode(self, request: Request, kind: type[T]) -> T:
        """Decode a body that may be missing."""
        return await read_json(request.receive, kind, self._settings.max_body_bytes)


def _name(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _health(*, problem: str, status: int, name: str = "") -> Response:
    """Both keys on both routes: kserve's client reads one, tritonclient only the status."""
    body: dict[str, object] = {"name": name} if name else {}
    body |= {"live": True, "ready": not problem}
    if problem:
        body["error"] = problem
    return _json(body, status)


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
