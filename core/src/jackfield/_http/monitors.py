"""What a model's monitors found."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from jackfield._monitors import monitors_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from jackfield._models import Models


class MonitorStatus:
    """Answers what monitors see and say."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def status(self, request: Request) -> Response:
        """Give each monitor's settings without secrets, its verdicts and its counts."""
        path = request.path_params
        model = self._models.get(path["model"], path.get("version", ""))
        monitors = [monitor.record() for monitor in monitors_of(model)]
        for monitor in monitors:
            monitor["history"] = [await _encode(verdict) for verdict in monitor["history"]]
        body = {
            "model_name": model.name,
            "model_version": model.version,
            "monitors": monitors,
        }
        return Response(msgspec.json.encode(body), media_type="application/json")


async def _encode(verdict: object) -> msgspec.Raw:
    """Encode one verdict, and let others have their turn: all of them may be megabytes."""
    await asyncio.sleep(0)
    return msgspec.Raw(msgspec.json.encode(verdict))
