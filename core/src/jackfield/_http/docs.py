"""The pages that show the API, the documents behind them, and the files that the pages need.

A page names its document and files relative to itself: it works behind a proxy that strips a path
and when the app is mounted in another one. Everything comes from this server.
"""

from __future__ import annotations

import html
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from openapi_ui_bundles.swagger_ui import static_path
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response

from jackfield import __version__
from jackfield._http.openapi import model_document, served_paths, server_document

if TYPE_CHECKING:
    from starlette.requests import Request

    from jackfield._models import Models
    from jackfield.settings import ServerSettings

_SCRIPT = "text/javascript"
_STYLE = "text/css"
_BUNDLE = Path(static_path)
#: Every file that is served, and its type: no path comes from a caller.
_ASSETS = {
    "docs.js": (Path(__file__).with_name("docs.js"), _SCRIPT),
    "docs.css": (Path(__file__).with_name("docs.css"), _STYLE),
    "swagger-ui-bundle.js": (_BUNDLE / "swagger-ui-bundle.js", _SCRIPT),
    "swagger-ui.css": (_BUNDLE / "swagger-ui.css", _STYLE),
    "favicon-32x32.png": (_BUNDLE / "favicon-32x32.png", "image/png"),
}
#: Ends the URLs of the files, so that a new release is not mixed with what a browser has kept.
_RELEASE = f"{__version__}-{importlib.metadata.version('openapi-ui-bundles')}"

_NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
_ASSET_HEADERS = {**_NO_SNIFFING, "Cache-Control": "public, max-age=86400"}
_FRESH = {**_NO_SNIFFING, "Cache-Control": "no-cache"}
_PAGE_HEADERS = {
    **_FRESH,
    # Swagger UI's style sheet draws its icons from data: URLs
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" type="image/png" href="{assets}/favicon-32x32.png?{release}">
<link rel="stylesheet" href="{assets}/swagger-ui.css?{release}">
<link rel="stylesheet" href="{assets}/docs.css?{release}">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript; <a href="docs/dataplane.json">the document</a> does
not.</noscript>
<script src="{assets}/swagger-ui-bundle.js?{release}"></script>
<script src="{assets}/docs.js?{release}"></script>
</body>
</html>
"""


class Docs:
    """Answers with pages and OpenAPI documents, of the server or of one model."""

    def __init__(self, models: Models, settings: ServerSettings) -> None:
        self._models = models
        self._settings = settings

    async def server_page(self, request: Request) -> Response:
        """Show the whole API."""
        return _page(self._settings.server_name, "docs/assets")

    async def server_document(self, request: Request) -> Response:
        """Describe the whole API."""
        return _json(server_document(self._paths(request), self._settings.server_name))

    async def model_page(self, request: Request) -> Response:
        """Show the API of a model."""
        name, version = request.path_params["model"], request.path_params.get("version", "")
        self._models.get(name, version)
        up = "../../../.." if version else "../.."
        return _page(f"{name} {version}".rstrip(), f"{up}/docs/assets")

    async def model_document(self, request: Request) -> Response:
        """Describe the API of a model."""
        name, version = request.path_params["model"], request.path_params.get("version", "")
        model = self._models.get(name, version)
        return _json(
            model_document(
                self._paths(request), model.metadata, model.version, versioned=bool(version)
            )
        )

    async def asset(self, request: Request) -> Response:
        """Give a file that the pages need."""
        if request.path_params["file"] not in _ASSETS:
            raise HTTPException(404)
        path, media_type = _ASSETS[request.path_params["file"]]
        return FileResponse(path, media_type=media_type, headers=_ASSET_HEADERS)

    def _paths(self, request: Request) -> list[tuple[str, str]]:
        return served_paths(request.app.routes, shared_memory=self._settings.shared_memory)


def _page(title: str, assets: str) -> Response:
    text = _PAGE.format(title=html.escape(title), assets=assets, release=_RELEASE)
    return HTMLResponse(text, headers=_PAGE_HEADERS)


def _json(document: object) -> Response:
    body = msgspec.json.encode(document)
    return Response(body, headers=_FRESH, media_type="application/json")
