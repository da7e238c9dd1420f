"""A call's metadata <-> `parameters.headers`, where REST has the headers of HTTP."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from jackfield._timing import server_timing

if TYPE_CHECKING:
    import grpc.aio

    from jackfield.messages import InferRequest, InferResponse, Timing

    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

#: Keys and values that gRPC takes as text; others would fail the whole call.
#: Source: gRPC over HTTP2, "Custom-Metadata".
_KEY = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")
_VALUE = re.compile(r"[\x20-\x7e]*")


def with_headers(request: InferRequest, context: Context) -> InferRequest:
    """Put the call's metadata where REST puts the request's headers."""
    metadata = context.invocation_metadata() or ()
    headers = {key: value for key, value in metadata if isinstance(value, str)}
    parameters = {**request.parameters, "headers": headers}
    return msgspec.structs.replace(request, parameters=parameters)


def take_headers(response: InferResponse, context: Context) -> InferResponse:
    """Send `parameters.headers` of a response as trailing metadata, as MLServer does."""
    headers = response.parameters["headers"]
    rest = {key: value for key, value in response.parameters.items() if key != "headers"}
    if isinstance(headers, dict):
        trailing = [(str(key).lower(), str(value)) for key, value in headers.items()]
        context.set_trailing_metadata(
            tuple(
                (key, value)
                for key, value in trailing
                if _KEY.fullmatch(key) and _VALUE.fullmatch(value)
            )
        )
    return msgspec.structs.replace(response, parameters=rest)


def wants_timing(context: Context) -> bool:
    """Tell whether the caller asks where the milliseconds went."""
    metadata = context.invocation_metadata() or ()
    return any(key == "want-server-timing" and value in ("1", "?1") for key, value in metadata)


def send_timing(context: Context, timing: Timing, encode_ns: int) -> None:
    """Tell it in the trailing metadata."""
    given = tuple(context.trailing_metadata() or ())
    context.set_trailing_metadata((*given, ("server-timing", server_timing(timing, encode_ns))))
