"""The endpoints that change how the server works: shared memory, logging and trace settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from jackfield._changes import Register, SetLog, SetTraces, Unregister
from jackfield._http.body import read_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from jackfield._control import Control
    from jackfield._logging_settings import LoggingSettings
    from jackfield._models import Models
    from jackfield._shared_memory import Regions
    from jackfield.settings import ServerSettings


class _RegisterRequest(msgspec.Struct):
    key: str
    byte_size: int
    offset: int = 0


class Controls:
    """Answers with a setting's values, after changing those that a POST names."""

    def __init__(
        self,
        models: Models,
        settings: ServerSettings,
        control: Control,
        *,
        regions: Regions,
        logs: LoggingSettings,
    ) -> None:
        self._models = models
        self._control = control
        self._limit_bytes = settings.max_body_bytes
        self._regions = regions
        self._logs = logs

    async def shared_memory(self, request: Request) -> Response:
        """List one region of shared memory, or all."""
        regions = self._regions.status(request.path_params.get("region", ""))
        return _json([region.record() for region in regions])

    async def register(self, request: Request) -> Response:
        """Register a region."""
        # what is off says so before it looks at the body
        self._regions.require()
        wanted = await read_json(request.receive, _RegisterRequest, self._limit_bytes)
        name = request.path_params["region"]
        await self._control.apply(Register(name, wanted.key, wanted.offset, wanted.byte_size))
        return Response(status_code=200)

    async def unregister(self, request: Request) -> Response:
        """Unregister one region, or all."""
        await self._control.apply(Unregister(request.path_params.get("region", "")))
        return Response(status_code=200)

    async def logging(self, request: Request) -> Response:
        """Change and give the logging settings."""
        if request.method == "POST":
            await self._control.apply(SetLog(await self._read(request)))
        return _json(self._logs.record())

    async def trace(self, request: Request) -> Response:
        """Change and give the trace settings of a model, or of the server."""
        name = request.path_params.get("model", "")
        if name:
            self._models.state(name)
        if request.method == "POST":
            await self._control.apply(SetTraces(name, await self._read(request)))
        return _json(self._models.traces.record(name))

    async def _read(self, request: Request) -> dict[str, Any]:
        return await read_json(request.receive, dict[str, Any], self._limit_bytes)


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
