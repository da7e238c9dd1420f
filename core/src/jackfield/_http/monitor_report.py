"""The report of a model's monitor, as a page or a picture."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, Response

from jackfield._http.errors import error_response
from jackfield._monitors import monitors_of
from jackfield._monitors.report import collect, make_report
from jackfield.errors import InvalidRequestError, OverloadedError

if TYPE_CHECKING:
    from starlette.requests import Request

    from jackfield._models import Models
    from jackfield._monitors import Monitor
    from jackfield._monitors.report import Form

#: Reports that are made or wait for it; one takes a second or two.
MOST_WAITING = 4
_HEADERS = {
    "Cache-Control": "no-store",
    # the page has nothing that runs, and nothing from elsewhere
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}


class MonitorReport:
    """Answers with reports, made one at a time in a process of its own."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jackfield-report")
        self._waiting = 0

    async def report(self, request: Request) -> Response:
        """Make the report of one monitor: HTML, or PNG by `format` or the header Accept."""
        name, version = request.path_params["model"], request.path_params.get("version", "")
        model = self._models.get(name, version)
        form = _form(request, model.name)
        wanted = request.query_params.get("monitor", "")
        monitors = monitors_of(model)
        found = [each for each in monitors if each.name == (wanted or each.name)]
        if not found:
            known = ", ".join(f"'{each.name}'" for each in monitors) or "none"
            which = f"monitor '{wanted}'" if wanted else "monitor"
            return error_response(404, f"model '{model.name}' has no {which}; it has: {known}")
        if len(found) > 1:
            names = ", ".join(f"'{each.name}'" for each in monitors)
            raise InvalidRequestError(
                "monitor", expected=f"one of {names}", found="none", model=model.name
            )
        if self._waiting >= MOST_WAITING:
            raise OverloadedError(model.name, limit=MOST_WAITING)
        self._waiting += 1
        try:
            return await self._make(found[0], form)
        finally:
            self._waiting -= 1

    async def _make(self, monitor: Monitor, form: Form) -> Response:
        data = await collect(monitor)
        loop = asyncio.get_running_loop()
        try:
            made = await loop.run_in_executor(self._thread, make_report, data, form)
        except ImportError:
            pip = 'pip install "jackfield[report]"'
            return error_response(501, f"a picture needs matplotlib: {pip}; format=html does not")
        if form == "html":
            return HTMLResponse(made, headers=_HEADERS)
        return Response(made, headers=_HEADERS, media_type="image/png")


def _form(request: Request, model: str) -> Form:
    """Choose what is answered.

    Raises:
        InvalidRequestError: `format` is another one.
    """
    asked = request.query_params.get("format")
    if asked is None:
        accepted = request.headers.get("accept", "")
        return "png" if "image/png" in accepted and "text/html" not in accepted else "html"
    if asked == "html":
        return "html"
    if asked == "png":
        return "png"
    raise InvalidRequestError("format", expected="html or png", found=f"'{asked}'", model=model)
