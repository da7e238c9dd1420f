"""The one table from fault to gRPC status code."""

from __future__ import annotations

import math
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
import grpc.aio

from jackfield.errors import CapacityError, Fault, JackfieldError

STATUS = {
    Fault.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Fault.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Fault.NOT_SERVED: grpc.StatusCode.UNIMPLEMENTED,
    Fault.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Fault.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Fault.FAILED: grpc.StatusCode.INTERNAL,
    Fault.NOT_READY: grpc.StatusCode.UNAVAILABLE,
    Fault.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
}

#: Trailers have 8 KiB by default, in which a text is percent-encoded, and names in an error may be
#: as long as a caller likes. In encoded characters.
_MAX_DETAILS = 6000


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: JackfieldError) -> NoReturn:
    """End a call with the error's status and text."""
    metadata: tuple[tuple[str, str], ...] = ()
    if isinstance(error, CapacityError) and error.fault is not Fault.DEADLINE:
        # clients that retry UNAVAILABLE at once would triple an overload
        wait = str(math.ceil(error.retry_after_s * 1000))
        metadata = (("grpc-retry-pushback-ms", wait),)
    await context.abort(STATUS[error.fault], _shorten(str(error)), metadata)


def _shorten(text: str) -> str:
    if len(text) * 12 <= _MAX_DETAILS:  # what a character takes at most
        return text
    short = text[:_MAX_DETAILS]
    while len(quote(short)) > _MAX_DETAILS:
        short = short[: len(short) * 3 // 4]
    return text if short == text else short + "…"
