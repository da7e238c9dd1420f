"""The endpoints that compute: infer, the streams, and Triton's generate form.

Each is a plain ASGI callable: the path that every request takes has no wrapper. Binary tensors are
told by the header `Inference-Header-Content-Length` alone: tritonclient sends no content type.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from starlette.exceptions import HTTPException

from jackfield._http.body import choose_encoding, read_body, send_body
from jackfield._timing import server_timing
from jackfield._wire import generate, json
from jackfield._wire.json import ResponseForm
from jackfield._wire.raw_request import decode_raw_request
from jackfield.errors import InvalidRequestError, JackfieldError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from starlette.types import Receive, Scope, Send

    from jackfield._model import Model
    from jackfield._models import Models
    from jackfield._shared_memory import Regions
    from jackfield.messages import InferRequest, InferResponse
    from jackfield.settings import ServerSettings

_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_EVENTS = (b"content-type", b"text/event-stream")


#: Bytes of no stated kind are JSON too: tritonclient's asynchronous client calls its JSON so.
_JSON_TYPES = (b"", b"application/json", b"application/octet-stream")


class _Headers(NamedTuple):
    """What the request's headers say about the bodies."""

    content_length: int
    encoding: bytes
    accept_encoding: bytes
    #: Length of the JSON text before binary tensors; None for a body that is JSON alone.
    json_length: int | None
    #: Nanoseconds that the caller waits; 0 if it doesn't say.
    timeout_ns: int
    wants_timing: bool


#: The caller's time, in milliseconds: ours, and what a service mesh tells whom it calls.
_TIMEOUTS = (b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms")
_READ = frozenset(
    [
        b"content-type",
        b"content-length",
        b"inference-header-content-length",
        b"content-encoding",
        b"accept-encoding",
        b"want-server-timing",
        *_TIMEOUTS,
    ]
)


def _read_headers(scope: Scope) -> _Headers:
    content_length, encoding, accept_encoding, json_length = 0, b"", b"", None
    media_type, timeout_ns, wants_timing = b"", 0, False
    for key, value in scope["headers"]:
        if key not in _READ:
            continue
        if key == b"content-type":
            media_type = value
        elif key == b"content-length":
            content_length = int(value)
        elif key == b"inference-header-content-length":
            json_length = _number(key, value)
        elif key == b"content-encoding":
            encoding = value
        elif key == b"accept-encoding":
            accept_encoding = choose_encoding(value)
        elif key == b"want-server-timing":
            wants_timing = value in (b"1", b"?1")
        else:
            timeout_ns = _shorter(timeout_ns, _number(key, value) * 1_000_000)
    if json_length is None and media_type not in _JSON_TYPES:
        _check_media_type(media_type)
    return _Headers(
        content_length, encoding, accept_encoding, json_length, timeout_ns, wants_timing
    )


def _shorter(first: int, second: int) -> int:
    """Get the shorter of two times, of which 0 stands for none."""
    return min(first, second) if first and second else first or second


#: No body has a length of more digits; Python refuses to read some thousands of them.
_LONGEST_LENGTH = 20


def _number(name: bytes, value: bytes) -> int:
    if not value.isdigit() or len(value) > _LONGEST_LENGTH:
        raise InvalidRequestError(
            name.decode().title(),
            expected="an integer of 0 or more",
            found=repr(value[: 2 * _LONGEST_LENGTH].decode("latin1")),
        )
    return int(value)


def _check_media_type(value: bytes) -> None:
    """Take JSON's relatives; a request without a content type never comes here."""
    media_type = value.partition(b";")[0].strip().lower()
    if media_type not in _JSON_TYPES and not media_type.endswith(b"+json"):
        raise HTTPException(
            415, f"content type: expected application/json, found {media_type.decode('latin1')}"
        )


class _Either(NamedTuple):
    """A request in one of two forms, and how its answer is written in the same form."""

    model: Model
    request: InferRequest
    encode: Callable[[InferResponse], bytes]
    headers: _Headers


async def read_infer(
    model: Model, scope: Scope, receive: Receive, *, limit_bytes: int, regions: Regions
) -> tuple[InferRequest, ResponseForm, _Headers]:
    """Read a request in any form that inference has, and the form in which it is answered."""
    headers = _read_headers(scope)
    body = await read_body(receive, limit_bytes, headers.content_length, headers.encoding)
    received = perf_counter_ns()
    if headers.json_length == 0:
        request, form = decode_raw_request(body, model.metadata, received)
    else:
        request, form = json.decode_infer(
            body, model.name, headers.json_length, received, regions=regions
        )
    if model.reads_headers:
        request = _with_headers(request, scope)
    if headers.timeout_ns:
        deadline = received + headers.timeout_ns
        request = msgspec.structs.replace(request, deadline_ns=deadline)
    return request, form, headers


def write_infer(
    response: InferResponse, form: ResponseForm
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Write a response: the body and the headers that tell about it."""
    extra: list[tuple[bytes, bytes]] = []
    if "headers" in response.parameters:
        response, extra = _take_headers(response)
    payload, json_length = json.encode_infer(response, form)
    if json_length:
        length = (b"inference-header-content-length", str(json_length).encode())
        extra += (_BINARY, length)
    else:
        extra.append(_JSON)
    return payload, extra


class _Endpoint:
    """What the three have in common."""

    def __init__(self, models: Models, settings: ServerSettings, regions: Regions) -> None:
        self._models = models
        self._regions = regions
        self._max_body_bytes = settings.max_body_bytes
        self._compresses = settings.gzip_enabled

    async def _read_either(self, scope: Scope, receive: Receive) -> _Either:
        """Read a request in the protocol's form or in Triton's flat one."""
        path = scope["path_params"]
        model = self._models.get(path["model"], path.get("version", ""))
        headers = _read_headers(scope)
        body = await read_body(
            receive, self._max_body_bytes, headers.content_length, headers.encoding
        )
        request, encode = _decode_either(body, model, headers, self._regions)
        if model.reads_headers:
            request = _with_headers(request, scope)
        if headers.timeout_ns:
            deadline = request.received_ns + headers.timeout_ns
            request = msgspec.structs.replace(request, deadline_ns=deadline)
        return _Either(model, request, encode, headers)


class Infer(_Endpoint):
    """Answers inference requests: body -> request -> model -> response -> body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request that the router found the way for."""
        path = scope["path_params"]
        model = self._models.get(path["model"], path.get("version", ""))
        await self.answer(model, scope, receive, send)

    async def answer(self, model: Model, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request to a model."""
        request, form, headers = await read_infer(
            model, scope, receive, limit_bytes=self._max_body_bytes, regions=self._regions
        )
        if model.scheduler.is_quick:
            response = await model.infer(request)
        elif (found := await _while_connected(model.infer(request), receive)) is not None:
            response = found
        else:
            return
        computed, timing = perf_counter_ns(), response.timing
        payload, extra = write_infer(response, form)
        if timing is not None:
            encode_ns = model.statistics.encoded(computed, timing.rows)
            if headers.wants_timing:
                value = server_timing(timing, encode_ns)
                extra.append((b"server-timing", value.encode()))
        encoding = headers.accept_encoding if self._compresses else b""
        await send_body(send, payload, extra, encoding=encoding)


class Generate(_Endpoint):
    """Answers `generate`: Triton's flat form, or the protocol's own where there are `inputs`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        model, request, encode, headers = await self._read_either(scope, receive)
        found = await _while_connected(model.infer(request), receive)
        if found is None:
            return
        response, extra = _take_headers(found)
        encoding = headers.accept_encoding if self._compresses else b""
        await send_body(send, encode(response), [*extra, _JSON], encoding=encoding)


class Stream(_Endpoint):
    """Answers with server-sent events: one complete response for each `data:` line.

    What fails before the first response is answered with its real status, what fails later with an
    event that holds the error. A caller who leaves cancels the model's work.

    Source: HTML Living Standard, "Server-sent events".
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        model, request, encode, _ = await self._read_either(scope, receive)
        responses = model.stream(request)
        sending = asyncio.ensure_future(_send_events(send, responses, encode))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not sending.done():
                sending.cancel()
            await asyncio.wait([sending, leaving])
        if not sending.cancelled():
            sending.result()


async def _send_events(
    send: Send,
    responses: AsyncGenerator[InferResponse, None],
    encode: Callable[[InferResponse], bytes],
) -> None:
    async with contextlib.aclosing(responses):
        is_started = False
        try:
            async for response in responses:
                response, extra = _take_headers(response)
                payload = encode(response)
                if not is_started:
                    is_started = True
                    await _start_events(send, extra)
                await _send_event(send, payload)
        except JackfieldError as error:
            if not is_started:
                raise
            await _send_event(send, msgspec.json.encode({"error": str(error)}))
        if not is_started:
            await _start_events(send, [])
    await send({"type": "http.response.body", "body": b""})


async def _start_events(send: Send, extra: list[tuple[bytes, bytes]]) -> None:
    headers = [*extra, _EVENTS, (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _send_event(send: Send, payload: bytes) -> None:
    body = b"data: " + payload + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _while_connected(
    answer: Coroutine[None, None, InferResponse], receive: Receive
) -> InferResponse | None:
    """Wait for an answer; a caller who leaves takes its request along, and None is what remains."""
    waiting = asyncio.current_task()
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        await _disconnected(receive)
        has_left = True
        if waiting is not None:
            waiting.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await answer
    except asyncio.CancelledError:
        # the server's own reasons to cancel go before
        if not has_left or waiting is None or waiting.uncancel():
            raise
        return None
    finally:
        watching.cancel()


async def _disconnected(receive: Receive) -> None:
    """Wait until the caller leaves; for ever if the server doesn't tell."""
    if (await receive())["type"] != "http.disconnect":
        await asyncio.get_running_loop().create_future()


def _decode_either(
    body: bytes, model: Model, headers: _Headers, regions: Regions
) -> tuple[InferRequest, Callable[[InferResponse], bytes]]:
    """Decode the protocol's form or Triton's flat one; the answer has the same form."""
    received = perf_counter_ns()
    if headers.json_length is not None:
        raise HTTPException(415, "binary tensor data is served by 'infer' only")
    if generate.is_flat(body):
        return generate.decode(body, model.metadata, received), generate.encode
    request, form = json.decode_infer(body, model.name, None, received, regions=regions)
    form = ResponseForm(places=form.places)
    return request, lambda response: json.encode_infer(response, form)[0]


def _with_headers(request: InferRequest, scope: Scope) -> InferRequest:
    """Put the request's headers where MLServer puts them."""
    headers = {key.decode("latin1"): value.decode("latin1") for key, value in scope["headers"]}
    parameters = {**request.parameters, "headers": headers}
    return msgspec.structs.replace(request, parameters=parameters)


#: What may stand in a header; anything else would end the connection, or begin another header.
#: Source: RFC 9110, "Field Names" and "Field Values".
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
#: Headers that describe the body or the connection are ours to say.
_OWN_HEADERS = frozenset(
    [
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "inference-header-content-length",
    ]
)


def _take_headers(response: InferResponse) -> tuple[InferResponse, list[tuple[bytes, bytes]]]:
    """Take `parameters.headers` of a response to be the answer's headers, as in MLServer."""
    headers: Any = response.parameters.get("headers")
    if not isinstance(headers, dict):
        return response, []
    rest = {key: value for key, value in response.parameters.items() if key != "headers"}
    taken = []
    for key, value in headers.items():
        name, text = str(key).lower(), str(value).strip()
        if name not in _OWN_HEADERS and _NAME.fullmatch(name) and _VALUE.fullmatch(text):
            taken.append((name.encode(), text.encode("latin1")))
    return msgspec.structs.replace(response, parameters=rest), taken
