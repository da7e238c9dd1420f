"""The one table from fault to gRPC status code."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import grpc
import grpc.aio

from jackfield.errors import CapacityError, Fault, JackfieldError

STATUS = {
    Fault.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Fault.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Fault.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Fault.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Fault.FAILED: grpc.StatusCode.INTERNAL,
    Fault.NOT_READY: grpc.StatusCode.UNAVAILABLE,
    Fault.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
}

#: Trailers have 8 KiB by default, and names in an error may be as long as a caller likes.
_MAX_DETAILS = 2000


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: JackfieldError) -> NoReturn:
    """End a call with the error's status and text."""
    metadata: tuple[tuple[str, str], ...] = ()
    if isinstance(error, CapacityError):
        # clients that retry UNAVAILABLE at once would triple an overload
        wait = str(math.ceil(error.retry_after_s * 1000))
        metadata = (("grpc-retry-pushback-ms", wait),)
    details = str(error)
    if len(details) > _MAX_DETAILS:
        details = details[:_MAX_DETAILS] + "…"
    await context.abort(STATUS[error.fault], details, metadata)
