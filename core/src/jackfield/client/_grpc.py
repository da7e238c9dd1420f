"""The protocol over gRPC: methods and messages; no I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import msgspec
from google.protobuf.message import DecodeError

from jackfield._wire import proto
from jackfield._wire.descriptors import (
    METHODS,
    ModelInferResponse,
    ModelStreamInferResponse,
    ProtoMessage,
)
from jackfield.client._exchange import Call, Exchange, Reply, RepositoryEntry, ServerMetadata
from jackfield.errors import (
    CallError,
    CallTimeoutError,
    InvalidRequestError,
    NoAnswerError,
    RemoteCapacityError,
    RemoteError,
    RemoteNotFoundError,
    RemoteRequestError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jackfield.messages import InferRequest, InferResponse, ModelMetadata, Parameter

T = TypeVar("T")

Code = grpc.StatusCode


class GrpcDialect:
    """Open Inference Protocol over gRPC; contents are always raw."""

    def live(self) -> Exchange[bool]:
        """Ask whether the server runs."""
        return _exchange("ServerLive", lambda answer: bool(answer.live))

    def ready(self) -> Exchange[bool]:
        """Ask whether the server takes requests."""
        return _exchange("ServerReady", lambda answer: bool(answer.ready))

    def server_metadata(self) -> Exchange[ServerMetadata]:
        """Ask what the server is."""
        return _exchange(
            "ServerMetadata",
            lambda answer: ServerMetadata(answer.name, answer.version, list(answer.extensions)),
        )

    def model_ready(self, name: str, version: str) -> Exchange[bool]:
        """Ask whether a model takes requests."""
        fields = {"name": name, "version": version}
        return _exchange("ModelReady", lambda answer: bool(answer.ready), fields)

    def model_metadata(self, name: str, version: str) -> Exchange[ModelMetadata]:
        """Ask what a model takes and gives."""
        fields = {"name": name, "version": version}
        return _exchange("ModelMetadata", proto.decode_metadata, fields)

    def infer(
        self, name: str, version: str, request: InferRequest, *, is_binary: bool
    ) -> Exchange[InferResponse]:
        """Ask for an inference."""
        body = proto.encode_request(request, name, version).SerializeToString()
        return Exchange(Call("ModelInfer", body), _reader("ModelInfer", proto.decode_response))

    def stream(self, name: str, version: str, request: InferRequest) -> Exchange[InferResponse]:
        """Ask for a stream of responses."""
        body = proto.encode_request(request, name, version).SerializeToString()
        # there is one request on the stream: its failure may well end it, with a real status
        return Exchange(Call("ModelStreamInfer", body, {"triton_grpc_error": "true"}), _event)

    def index(self, *, ready: bool) -> Exchange[list[RepositoryEntry]]:
        """Ask what is in the repository."""
        return _exchange("RepositoryIndex", _index, {"ready": ready})

    def load(self, name: str, config: Mapping[str, Parameter] | None) -> Exchange[None]:
        """Ask to load a model."""
        message = METHODS["RepositoryModelLoad"].request(model_name=name)
        if config is not None:
            text = msgspec.json.encode(config).decode()
            message.parameters["config"].string_param = text
        call = Call("RepositoryModelLoad", message.SerializeToString())
        return Exchange(call, _nothing, is_repeatable=False)

    def unload(self, name: str) -> Exchange[None]:
        """Ask to unload a model."""
        message = METHODS["RepositoryModelUnload"].request(model_name=name)
        call = Call("RepositoryModelUnload", message.SerializeToString())
        return Exchange(call, _nothing, is_repeatable=False)

    def statistics(self, name: str, version: str) -> Exchange[list[dict[str, Any]]]:
        """Ask what models did so far."""
        return _exchange("ModelStatistics", _statistics, {"name": name, "version": version})


def _exchange(
    method: str,
    decode: Callable[[ProtoMessage], T],
    fields: Mapping[str, object] | None = None,
) -> Exchange[T]:
    body = METHODS[method].request(**(fields or {})).SerializeToString()
    return Exchange(Call(method, body), _reader(method, decode))


# ---- answers ----


def _reader(method: str, decode: Callable[[ProtoMessage], T]) -> Callable[[Reply], T]:
    return lambda reply: decode(_parse(METHODS[method].response, reply.body))


def _parse(kind: type[ProtoMessage], body: bytes) -> ProtoMessage:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        name = kind.DESCRIPTOR.name
        raise InvalidRequestError("message", expected=f"a {name}", found=str(error)) from error


def _index(answer: ProtoMessage) -> list[RepositoryEntry]:
    return [
        RepositoryEntry(each.name, each.version, each.state, each.reason) for each in answer.models
    ]


def _statistics(answer: ProtoMessage) -> list[dict[str, Any]]:
    return [proto.decode_record(each) for each in answer.model_stats]


def _nothing(reply: Reply) -> None:
    """Take any answer."""


def _event(reply: Reply) -> InferResponse:
    """Read one message of a stream: Triton's form, or the bare responses that MLServer sends."""
    try:
        message = ModelStreamInferResponse.FromString(reply.body)
        is_bare = bool(message.error_message)
    except DecodeError:
        message, is_bare = None, True
    # a bare response has its model's name where the other has an error
    if is_bare and (bare := _parse(ModelInferResponse, reply.body)).outputs:
        return proto.decode_response(bare)
    if message is None:
        raise InvalidRequestError(
            "message", expected="a ModelStreamInferResponse", found="another message"
        )
    if message.error_message:
        raise RemoteError("", message.error_message)
    return proto.decode_response(message.infer_response)


#: By it a server tells when to come back; negative where never.
_PUSHBACK = "grpc-retry-pushback-ms"
#: What stands for never: longer than anybody waits, and still a number that an answer can tell.
_NEVER_S = 86_400.0
#: gRPC's own words for calls that were never sent.
_UNSENT = ("failed to connect", "dns resolution failed", "name resolution failure")
#: gRPC's own words for connections that broke after a call was sent: its status is that of a server
#: which refuses, but the call may have been computed.
_BROKEN = (
    "stream removed",
    "socket closed",
    "connection reset",
    "broken pipe",
    "transport closed",
    "goaway",
    "watchdog timeout",
)
_NOT_FOUND = frozenset([Code.NOT_FOUND, Code.UNIMPLEMENTED])
_CALLERS = frozenset(
    [
        Code.INVALID_ARGUMENT,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.ALREADY_EXISTS,
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
        # without a pushback it is most often gRPC's own limit on the size of messages
        Code.RESOURCE_EXHAUSTED,
    ]
)


def failure(
    url: str, code: grpc.StatusCode, details: str, trailers: Mapping[str, str], *, timeout_s: float
) -> CallError:
    """Make the error for a call's status."""
    text = details or "no text"
    wait_s = _pushback_s(trailers.get(_PUSHBACK, ""))
    if code is Code.UNAVAILABLE and details.lower().startswith(_UNSENT):
        return NoAnswerError(url, details, was_sent=False)
    if code is Code.UNAVAILABLE and any(words in details.lower() for words in _BROKEN):
        return NoAnswerError(url, details)
    if wait_s is not None or code is Code.UNAVAILABLE:
        return RemoteCapacityError(code.name, text, retry_after_s=wait_s or 0.0)
    if code is Code.DEADLINE_EXCEEDED and not math.isinf(timeout_s):
        return CallTimeoutError(url, timeout_s=timeout_s)
    if code in _NOT_FOUND:
        return RemoteNotFoundError(code.name, text)
    return (RemoteRequestError if code in _CALLERS else RemoteError)(code.name, text)


def _pushback_s(value: str) -> float | None:
    """Read how long a server asks to wait."""
    try:
        wait_ms = int(value)
    except ValueError:
        return None
    return wait_ms / 1000 if wait_ms >= 0 else _NEVER_S
