"""The REST API as a Starlette app.

Routes are `protocol.md`'s: health, metadata, inference, repository. The infer endpoint is a plain
ASGI callable: it is the path that every request takes, and reads the body with its limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.routing import Route

from jackfield import __version__
from jackfield._http.errors import answer_bug, answer_http_error, answer_jackfield_error
from jackfield._models import ModelState
from jackfield._validation import explain
from jackfield._wire import EXTENSIONS, json
from jackfield.errors import InvalidRequestError, JackfieldError, PayloadTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from jackfield._models import Models
    from jackfield.settings import ServerSettings


def create_app(models: Models, settings: ServerSettings, problem: Callable[[], str]) -> Starlette:
    """Make the REST app.

    Args:
        models: What is served.
        settings: Limits and names.
        problem: Tells why the server is not ready; empty when it is.
    """
    api = _Api(models, settings, problem)
    infer = _Infer(models, settings.max_body_bytes)
    model = "/v2/models/{model}"
    version = model + "/versions/{version}"
    routes = [
        Route(model + "/infer", infer, methods=["POST"]),
        Route(version + "/infer", infer, methods=["POST"]),
        Route("/v2/health/live", api.live),
        Route("/v2/health/ready", api.ready),
        Route("/v2", api.server_metadata),
        Route(model, api.model_metadata),
        Route(version, api.model_metadata),
        Route(model + "/ready", api.model_ready),
        Route(version + "/ready", api.model_ready),
        Route("/v2/repository/index", api.index, methods=["POST"]),
        Route("/v2/repository/models/{model}/load", api.load, methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", api.unload, methods=["POST"]),
    ]
    return _App(
        routes=routes,
        exception_handlers={
            JackfieldError: answer_jackfield_error,
            HTTPException: answer_http_error,
            Exception: answer_bug,
        },
    )


class _App(Starlette):
    """Starlette without its outermost layer.

    That raises what nobody foresaw again after answering it, whereupon uvicorn ends the connection.
    """

    def build_middleware_stack(self) -> ASGIApp:
        return ExceptionMiddleware(self.router, handlers=self.exception_handlers)


class _Infer:
    """Answers inference requests: body -> request -> model -> response -> body."""

    def __init__(self, models: Models, max_body_bytes: int) -> None:
        self._models = models
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path_params"]
        name = path["model"]
        model = self._models.get(name, path.get("version", ""))
        content_length = _check_headers(scope)
        body = await read_body(receive, self._max_body_bytes, content_length)
        response = await model.infer(json.decode_infer(body, name))
        await send_json(send, json.encode_infer(response))


_JSON_TYPES = (b"application/json", b"application/octet-stream")


def _check_headers(scope: Scope) -> int:
    """Refuse what is not JSON; an absent content type is JSON (tritonclient sends none).

    So are bytes of no stated kind: tritonclient's asynchronous client calls its JSON so.

    Returns:
        The announced length of the body, 0 if there is none.
    """
    content_length = 0
    for key, value in scope["headers"]:
        if key == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
            if media_type not in _JSON_TYPES and not media_type.endswith(b"+json"):
                raise HTTPException(
                    415,
                    f"content type: expected application/json, found {media_type.decode('latin1')}",
                )
        elif key == b"content-length":
            content_length = int(value)
        elif key == b"inference-header-content-length":
            raise HTTPException(415, "binary tensor data is not served yet; send JSON data")
        elif key == b"content-encoding" and value.strip().lower() != b"identity":
            raise HTTPException(415, "compressed bodies are not served yet; send plain JSON")
    return content_length


async def read_body(receive: Receive, limit_bytes: int, content_length: int = 0) -> bytes:
    """Read a request's body.

    Raises:
        PayloadTooLargeError: It is announced to be, or becomes, larger than the limit.
        InvalidRequestError: The caller goes before the end; the answer reaches nobody.
    """
    if content_length > limit_bytes:
        raise PayloadTooLargeError(limit_bytes, content_length)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        return _within(body, limit_bytes)
    chunks = [body]
    size = len(body)
    while message.get("more_body", False):
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise PayloadTooLargeError(limit_bytes)
        chunks.append(chunk)
    if message["type"] != "http.request":
        raise InvalidRequestError("body", expected="a whole body", found="a closed connection")
    return b"".join(chunks)


def _within(body: bytes, limit_bytes: int) -> bytes:
    if len(body) > limit_bytes:
        raise PayloadTooLargeError(limit_bytes, len(body))
    return body


_JSON = (b"content-type", b"application/json")


async def send_json(send: Send, body: bytes) -> None:
    """Answer 200 with a JSON body."""
    headers = [_JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class _Api:
    """The endpoints beside inference."""

    def __init__(
        self, models: Models, settings: ServerSettings, problem: Callable[[], str]
    ) -> None:
        self._models = models
        self._settings = settings
        self._problem = problem

    async def live(self, request: Request) -> Response:
        return _health(live=True, problem=self._problem(), status=200)

    async def ready(self, request: Request) -> Response:
        problem = self._problem()
        return _health(live=True, problem=problem, status=503 if problem else 200)

    async def model_ready(self, request: Request) -> Response:
        name, version = _name(request)
        line = self._models.state(name, version)
        problem = "" if line.state is ModelState.READY else line.reason
        return _health(live=True, problem=problem, status=503 if problem else 200, name=name)

    async def server_metadata(self, request: Request) -> Response:
        return _json(
            {
                "name": self._settings.server_name,
                "version": __version__,
                "extensions": EXTENSIONS,
            }
        )

    async def model_metadata(self, request: Request) -> Response:
        metadata = self._models.metadata(*_name(request))
        body = msgspec.to_builtins(metadata)
        for tensor in (*body["inputs"], *body["outputs"]):
            if not tensor["parameters"]:
                del tensor["parameters"]
        if not body["parameters"]:
            del body["parameters"]
        return _json(body)

    async def index(self, request: Request) -> Response:
        body = await read_body(request.receive, self._settings.max_body_bytes)
        try:
            wanted = msgspec.json.decode(body or b"{}", type=_IndexRequest)
        except msgspec.ValidationError as error:
            path, expected, found = explain(error)
            raise InvalidRequestError(path, expected=expected, found=found) from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidRequestError("body", expected="JSON", found=str(error)) from error
        lines = await self._models.index()
        return _json([line for line in lines if not wanted.ready or line.state == "READY"])

    async def load(self, request: Request) -> Response:
        await self._models.load(request.path_params["model"])
        return Response(status_code=200)

    async def unload(self, request: Request) -> Response:
        await self._models.unload(request.path_params["model"])
        return Response(status_code=200)


def _name(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _health(*, live: bool, problem: str, status: int, name: str = "") -> Response:
    """Both keys on both routes: kserve's client reads one, tritonclient only the status."""
    body: dict[str, object] = {"name": name} if name else {}
    body |= {"live": live, "ready": not problem}
    if problem:
        body["error"] = problem
    return _json(body, status)


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
