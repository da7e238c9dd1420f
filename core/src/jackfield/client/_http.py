"""The protocol over HTTP: paths, bodies, statuses; no I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec

from jackfield._wire import json
from jackfield.client._exchange import Call, Exchange, Reply, RepositoryEntry, ServerMetadata
from jackfield.errors import (
    RemoteCapacityError,
    RemoteError,
    RemoteNotFoundError,
    RemoteRequestError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jackfield.messages import InferRequest, InferResponse, ModelMetadata, Parameter

T = TypeVar("T")

_JSON = {"content-type": "application/json"}
_BINARY = {"content-type": "application/octet-stream"}
_LENGTH = "inference-header-content-length"
#: How much of a text that is not the protocol's an error shows, in characters.
_LONGEST_TEXT = 500


class _Entry(msgspec.Struct):
    name: str
    version: str | None = None
    state: str | None = None
    reason: str | None = None


class _Server(msgspec.Struct):
    name: str | None = None
    version: str | None = None
    extensions: list[str] | None = None


class _Statistics(msgspec.Struct):
    model_stats: list[dict[str, Any]]


class HttpDialect:
    """Open Inference Protocol over HTTP, JSON or binary."""

    def live(self) -> Exchange[bool]:
        """Ask whether the server runs."""
        return _get("v2/health/live", lambda body: _flag(body, "live"))

    def ready(self) -> Exchange[bool]:
        """Ask whether the server takes requests."""
        return _get("v2/health/ready", lambda body: _flag(body, "ready"))

    def server_metadata(self) -> Exchange[ServerMetadata]:
        """Ask what the server is."""
        return _get("v2", _server)

    def model_ready(self, name: str, version: str) -> Exchange[bool]:
        """Ask whether a model takes requests."""
        return _get(f"{_model(name, version)}/ready", lambda body: _flag(body, "ready"))

    def model_metadata(self, name: str, version: str) -> Exchange[ModelMetadata]:
        """Ask what a model takes and gives."""
        return _get(_model(name, version), json.decode_metadata)

    def infer(
        self, name: str, version: str, request: InferRequest, *, is_binary: bool
    ) -> Exchange[InferResponse]:
        """Ask for an inference."""
        body, json_length = json.encode_request(request, is_binary=is_binary)
        headers = _JSON if json_length is None else {**_BINARY, _LENGTH: str(json_length)}
        return Exchange(Call(f"{_model(name, version)}/infer", body, headers), _response)

    def stream(self, name: str, version: str, request: InferRequest) -> Exchange[InferResponse]:
        """Ask for a stream of server-sent events."""
        body, _ = json.encode_request(request)
        headers = {**_JSON, "accept": "text/event-stream"}
        return Exchange(Call(f"{_model(name, version)}/infer_stream", body, headers), _event)

    def index(self, *, ready: bool) -> Exchange[list[RepositoryEntry]]:
        """Ask what is in the repository."""
        return _post("v2/repository/index", {"ready": True} if ready else {}, _index)

    def load(self, name: str, config: Mapping[str, Parameter] | None) -> Exchange[None]:
        """Ask to load a model."""
        body: dict[str, object] = {}
        if config is not None:
            # the protocol has it as text
            body["parameters"] = {"config": msgspec.json.encode(config).decode()}
        path = f"v2/repository/models/{_quote(name)}/load"
        return _post(path, body, _nothing, is_repeatable=False)

    def unload(self, name: str) -> Exchange[None]:
        """Ask to unload a model."""
        path = f"v2/repository/models/{_quote(name)}/unload"
        return _post(path, {}, _nothing, is_repeatable=False)

    def statistics(self, name: str, version: str) -> Exchange[list[dict[str, Any]]]:
        """Ask what models did so far."""
        path = f"{_model(name, version)}/stats" if name else "v2/models/stats"
        return _get(path, _statistics)


def _quote(name: str) -> str:
    return quote(name, safe="")


def _model(name: str, version: str) -> str:
    return f"v2/models/{_quote(name)}" + (f"/versions/{_quote(version)}" if version else "")


def _get(path: str, decode: Callable[[bytes], T]) -> Exchange[T]:
    return Exchange(Call(path, verb="GET"), lambda reply: decode(reply.body))


def _post(
    path: str,
    body: Mapping[str, object],
    decode: Callable[[bytes], T],
    *,
    is_repeatable: bool = True,
) -> Exchange[T]:
    call = Call(path, msgspec.json.encode(body), _JSON)
    return Exchange(call, lambda reply: decode(reply.body), is_repeatable)


# ---- answers ----


def _flag(body: bytes, key: str) -> bool:
    """Read a health answer: most servers say it by the status alone."""
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return True
    return not (isinstance(said, dict) and said.get(key) is False)


def _server(body: bytes) -> ServerMetadata:
    given = json.decode_json(body, _Server, "a server's metadata")
    return ServerMetadata(given.name or "", given.version or "", given.extensions or [])


def _index(body: bytes) -> list[RepositoryEntry]:
    return [
        RepositoryEntry(each.name, each.version or "", each.state or "", each.reason or "")
        for each in json.decode_json(body, list[_Entry], "a repository's index")
    ]


def _statistics(body: bytes) -> list[dict[str, Any]]:
    return json.decode_json(body, _Statistics, "statistics").model_stats


def _nothing(body: bytes) -> None:
    """Take any answer: servers say different things when all went well."""


def _response(reply: Reply) -> InferResponse:
    length = reply.headers.get(_LENGTH, "")
    return json.decode_response(reply.body, int(length) if length.isdigit() else None)


def _event(reply: Reply) -> InferResponse:
    if text := _error_text(reply.body):
        raise RemoteError("", text)
    return json.decode_response(reply.body)


def _error_text(body: bytes) -> str:
    """Read the text of an error body; empty where it is none."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    if not isinstance(said, dict):
        return ""
    # the second is FastAPI's, which MLServer and KServe let through
    text = said.get("error") or said.get("detail") or ""
    return text if isinstance(text, str) else msgspec.json.encode(text).decode()


def check(status: int, reply: Reply) -> Reply:
    """Give the answer back if it is a success.

    Raises:
        RemoteError: It is something else; of the kind that the status tells.
    """
    if 200 <= status < 300:
        return reply
    body = reply.body[: 4 * _LONGEST_TEXT].decode(errors="replace").strip()
    text = _error_text(reply.body) or body[:_LONGEST_TEXT] or "no text"
    if status in (404, 405, 501):
        raise RemoteNotFoundError(status, text)
    if status in (429, 503, 504):
        wait_s = _retry_after_s(reply.headers.get("retry-after", ""))
        raise RemoteCapacityError(status, text, retry_after_s=wait_s)
    if 400 <= status < 500:
        raise RemoteRequestError(status, text)
    raise RemoteError(status, text)


def _retry_after_s(value: str) -> float:
    """Read the seconds; a date, which HTTP allows too, is as good as nothing."""
    try:
        wait_s = float(value)
    except ValueError:
        return 0.0
    return wait_s if math.isfinite(wait_s) and wait_s > 0 else 0.0


class Events:
    """Cuts a body into its server-sent events.

    Source: HTML Living Standard, "Server-sent events", "Parsing an event stream".
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the data of each event that the piece completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not line and self._data:
                yield b"\n".join(self._data)
                self._data.clear()
