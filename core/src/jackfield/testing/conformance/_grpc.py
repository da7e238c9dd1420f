"""Speak gRPC with messages from the protocol's descriptors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import grpc

from jackfield._wire.descriptors import METHODS, SERVICE, ProtoMessage
from jackfield.testing.conformance._check import ConformanceError, NotApplicableError
from jackfield.testing.conformance._http import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: Codes by which a server says that the caller must change something.
CALLER_CODES = frozenset(
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """The status that ended a call."""

    code: grpc.StatusCode
    details: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.code.name}: {one_line(self.details[:300]) or 'no text'}"


class GrpcClient:
    """Calls the methods of one server.

    Args:
        address: ``host:port``.
        metadata: Sent with every call.
        timeout_s: Longest wait for an answer.
    """

    def __init__(self, address: str, *, metadata: Mapping[str, str], timeout_s: float) -> None:
        self.channel = grpc.insecure_channel(
            address,
            # as tritonclient does: INT32_MAX there, which gRPC spells -1
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.enable_retries", 0),
            ],
        )
        self._metadata = tuple((key.lower(), value) for key, value in metadata.items())
        self.timeout_s = timeout_s

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()

    def call(
        self,
        method: str,
        message: ProtoMessage = None,
        *,
        compression: grpc.Compression | None = None,
    ) -> ProtoMessage:
        """Call a method that should succeed.

        Raises:
            ConformanceError: It fails.
            NotApplicableError: The server does not have the method.
        """
        answer = self.attempt(method, message, compression=compression)
        if isinstance(answer, Failure):
            unexpected = f"{method}: expected OK, found {answer}"
            raise ConformanceError(unexpected)
        return answer

    def attempt(
        self,
        method: str,
        message: ProtoMessage = None,
        *,
        compression: grpc.Compression | None = None,
    ) -> ProtoMessage | Failure:
        """Call a method that may fail.

        Raises:
            ConformanceError: The answer is not the method's message.
            NotApplicableError: The server does not have the method.
        """
        call = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=METHODS[method].request.SerializeToString,
            response_deserializer=METHODS[method].response.FromString,
        )
        if message is None:
            message = METHODS[method].request()
        try:
            return call(
                message, timeout=self.timeout_s, metadata=self._metadata, compression=compression
            )
        except grpc.RpcError as error:
            return _failure(error, method)

    def stream(
        self, messages: Iterable[ProtoMessage], metadata: Sequence[tuple[str, str]] = ()
    ) -> tuple[list[ProtoMessage], Failure | None]:
        """Send all messages on one stream, and read it to its end.

        Returns:
            The answers, and the status that ended the stream; None for OK.

        Raises:
            ConformanceError: An answer is not a `ModelStreamInferResponse`.
            NotApplicableError: The server does not have the method.
        """
        answers: list[ProtoMessage] = []
        try:
            answers.extend(self.open_stream(iter(messages), metadata))
        except grpc.RpcError as error:
            return answers, _failure(error, "ModelStreamInfer")
        return answers, None

    def open_stream(
        self, messages: Iterator[ProtoMessage], metadata: Sequence[tuple[str, str]] = ()
    ) -> Any:  # noqa: ANN401  a grpc.Call that iterates, a type without a name
        """Begin a stream; the caller reads its answers, or cancels it."""
        method = METHODS["ModelStreamInfer"]
        call = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return call(messages, timeout=self.timeout_s, metadata=(*self._metadata, *metadata))


def _failure(error: grpc.RpcError, method: str) -> Failure:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        reason = f"the server does not have the method {method}"
        raise NotApplicableError(reason) from error
    if "deserializing response" in details:
        message = (
            f"{method}: expected a {METHODS[method].response.DESCRIPTOR.name}, found bytes that "
            "are none"
        )
        raise ConformanceError(message) from error
    return Failure(code, details)
