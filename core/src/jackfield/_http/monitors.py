"""What a model's monitors found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

    from jackfield._control import Control
    from jackfield._models import Models
    from jackfield._monitors import Verdict


class MonitorStatus:
    """Answers what monitors see and say."""

    def __init__(self, models: Models, control: Control) -> None:
        self._models = models
        self._control = control

    async def status(self, request: Request) -> Response:
        """Give each monitor's settings without secrets, its verdicts and its counts."""
        path = request.path_params
        model = self._models.get(path["model"], path.get("version", ""))
        monitors = await self._control.monitors(model)
        body = {
            "model_name": model.name,
            "model_version": model.version,
            "monitors": [await monitor.with_history(_encode) for monitor in monitors],
        }
        return Response(msgspec.json.encode(body), media_type="application/json")


def _encode(verdict: Verdict) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(verdict))
