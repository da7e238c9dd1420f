"""The one table from fault to HTTP status, and the one body that an error has."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from jackfield.errors import CapacityError, Fault, JackfieldError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

logger = logging.getLogger("jackfield")

#: Source: KServe's statuses for health (friendly to Kubernetes), and HTTP's own for the rest.
STATUS = {
    Fault.INVALID: 400,
    Fault.NOT_FOUND: 404,
    Fault.NOT_SERVED: 404,
    Fault.TOO_LARGE: 413,
    Fault.OVERLOADED: 429,
    Fault.FAILED: 500,
    Fault.NOT_READY: 503,
    Fault.DEADLINE: 504,
}

_LONGEST_TEXT = 4000


def error_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Make the protocol's error body; kserve's client reads it of exactly this content type."""
    if len(text) > _LONGEST_TEXT:  # names in it may be as long as a caller likes
        text = text[:_LONGEST_TEXT] + "…"
    body = msgspec.json.encode({"error": text})
    return Response(body, status, headers, media_type="application/json")


async def answer_jackfield_error(request: Request, error: Exception) -> Response:
    """Answer what the core raised on purpose."""
    if not isinstance(error, JackfieldError):
        raise error
    headers = {}
    if isinstance(error, CapacityError) and error.fault is not Fault.DEADLINE:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return error_response(STATUS[error.fault], str(error), headers)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Answer what HTTP itself refuses: no such route, wrong method, wrong media type."""
    if not isinstance(error, HTTPException):
        raise error
    text = error.detail
    path = request.scope["path"]  # not request.url, which a bad Host header breaks
    if error.status_code == 404:
        text = f"there is nothing at '{path}'; the API starts at {_api(request.scope)}"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        text = f"method {request.method} is not allowed at '{path}', only {allowed}"
    return error_response(error.status_code, text, error.headers)


def _api(scope: Scope) -> str:
    """Find where the API starts for this caller: below a mount, or behind a proxy's path."""
    root = scope.get("root_path", "")
    return f"{root}/v2" if scope["path"].startswith(f"{root}/") else "/v2"


async def answer_error(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer whatever a request ended in, before anything was sent."""
    answer = answer_bug
    if isinstance(error, JackfieldError):
        answer = answer_jackfield_error
    elif isinstance(error, HTTPException):
        answer = answer_http_error
    response = await answer(Request(scope), error)
    await response(scope, receive, send)


async def answer_bug(request: Request, error: Exception) -> Response:
    """Answer what nobody foresaw; the server logs it, the caller learns nothing of it."""
    logger.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return error_response(500, "the server failed on this request; its log tells why")
