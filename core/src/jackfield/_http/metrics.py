"""The Prometheus endpoint, an app of its own on its own port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from jackfield._control import Control


def create_metrics_app(control: Control, path: str) -> Starlette:
    """Make the app that answers `path` with all metrics in Prometheus' text form.

    The process is the server's here, so that its metrics are among them.
    """

    async def expose(request: Request) -> Response:
        body, content_type = await control.expose()
        return Response(body, headers={"content-type": content_type})

    return Starlette(routes=[Route(path, expose)])
