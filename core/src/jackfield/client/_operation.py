"""Every operation of a client, as steps: written once for both kinds of client."""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import TYPE_CHECKING, Any, TypeVar

from jackfield.client._exchange import Exchange, Reply
from jackfield.client._request import build_request, with_options
from jackfield.client._result import InferResult
from jackfield.client._steps import Open, Send, Steps, Wait
from jackfield.errors import (
    BadAnswerError,
    CallError,
    InvalidRequestError,
    NoAnswerError,
    RemoteError,
    RemoteNotFoundError,
)
from jackfield.messages import InferRequest, ModelMetadata, RequestedOutput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jackfield.client._exchange import Dialect
    from jackfield.client._retries import Retries
    from jackfield.messages import InferResponse, Parameters

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a caller says of one call, beside what it is about."""

    headers: Mapping[str, str] | None = None
    timeout_s: float | None = None


NO_OPTIONS = Options()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a caller wants inferred."""

    values: Sequence[object]
    inputs: Mapping[str, object]
    outputs: Sequence[str | RequestedOutput] = ()
    parameters: Parameters | None = None
    request_id: str = ""


class Operations:
    """What one client says to its server, and what it learnt of it.

    Args:
        url: The server, for errors.
        dialect: The form of the protocol.
        headers: Sent with every call.
        timeout_s: Longest wait for an answer, repeats among it.
        retries: When a call is repeated.
        is_binary: Whether tensors go in binary form over HTTP; None asks the server.
    """

    def __init__(
        self,
        url: str,
        dialect: Dialect,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        retries: Retries,
        is_binary: bool | None,
    ) -> None:
        self.url = url
        self.dialect = dialect
        self._headers = dict(headers)
        self._timeout_s = timeout_s
        self._retries = retries
        self._is_binary = is_binary

    def ask(self, exchange: Exchange[T], options: Options = NO_OPTIONS) -> Steps[T]:
        """Send a call, again where that is safe, and read its answer."""
        reply = yield from self._attempt(Send, exchange, options, self._timeout_s)
        return self.read(exchange, reply)

    def open(self, exchange: Exchange[T], options: Options) -> Steps[Any]:
        """Open a stream, again where that is safe."""
        return (yield from self._attempt(Open, exchange, options, float("inf")))

    def read(self, exchange: Exchange[T], reply: Reply) -> T:
        """Read an answer.

        Raises:
            BadAnswerError: It is not the protocol's.
        """
        try:
            return exchange.decode(reply)
        except InvalidRequestError as error:
            raise BadAnswerError(self.url, f"the answer's {error}") from error

    def _attempt(
        self,
        step: type[Send] | type[Open],
        exchange: Exchange[Any],
        options: Options,
        default_timeout_s: float,
    ) -> Steps[Any]:
        headers = {**self._headers, **exchange.call.headers, **(options.headers or {})}
        call = dataclasses.replace(exchange.call, headers=headers)
        given = options.timeout_s
        deadline = time.monotonic() + (default_timeout_s if given is None else given)
        for attempt in itertools.count():
            try:
                return (yield step(call, deadline - time.monotonic()))
            except CallError as error:
                wait_s = self._retries.wait_s(attempt, error)
                is_late = time.monotonic() + wait_s >= deadline
                if not exchange.is_repeatable or wait_s == float("inf") or is_late:
                    raise
            yield Wait(wait_s)
        raise AssertionError  # the count has no end

    def probe(self, exchange: Exchange[bool], options: Options) -> Steps[bool]:
        """Ask once; no answer and a refusal are a no."""
        once = dataclasses.replace(exchange, is_repeatable=False)
        try:
            return (yield from self.ask(once, options))
        except RemoteNotFoundError:
            raise
        except (NoAnswerError, RemoteError):
            return False

    def is_binary(self) -> Steps[bool]:
        """Learn, once, whether the server takes binary tensors over HTTP."""
        if self._is_binary is None:
            try:
                server = yield from self.ask(self.dialect.server_metadata())
            except RemoteError:
                return False
            self._is_binary = any("binary_tensor" in each for each in server.extensions)
        return self._is_binary


class ModelOperations:
    """What is said of one model, and what it says of itself."""

    def __init__(self, client: Operations, name: str, version: str) -> None:
        self._client = client
        self._name = name
        self._version = version
        self._metadata: ModelMetadata | None = None

    def metadata(self, options: Options = NO_OPTIONS) -> Steps[ModelMetadata]:
        """Ask anew what the model takes and gives."""
        exchange = self._client.dialect.model_metadata(self._name, self._version)
        self._metadata = yield from self._client.ask(exchange, options)
        return self._metadata

    def is_ready(self, options: Options) -> Steps[bool]:
        """Ask whether the model takes requests."""
        exchange = self._client.dialect.model_ready(self._name, self._version)
        return (yield from self._client.probe(exchange, options))

    def statistics(self, options: Options) -> Steps[list[dict[str, Any]]]:
        """Ask what the model did so far."""
        exchange = self._client.dialect.statistics(self._name, self._version)
        return (yield from self._client.ask(exchange, options))

    def infer(self, question: Question, options: Options) -> Steps[InferResult]:
        """Infer."""
        request = yield from self._request(question)
        is_binary = yield from self._client.is_binary()
        exchange = self._client.dialect.infer(
            self._name, self._version, request, is_binary=is_binary
        )
        if request.parameters.get("sequence_id"):
            # a part of a sequence counts each time that it arrives
            exchange = dataclasses.replace(exchange, is_repeatable=False)
        return InferResult((yield from self._client.ask(exchange, options)))

    def open(
        self, question: Question, options: Options
    ) -> Steps[tuple[Exchange[InferResponse], Any]]:
        """Open a stream; gives the exchange that reads its pieces, and the stream."""
        request = yield from self._request(question)
        exchange = self._client.dialect.stream(self._name, self._version, request)
        return exchange, (yield from self._client.open(exchange, options))

    def result(self, exchange: Exchange[InferResponse], piece: bytes) -> InferResult:
        """Read one piece of a stream."""
        return InferResult(self._client.read(exchange, Reply(piece, {})))

    def _request(self, question: Question) -> Steps[InferRequest]:
        values, inputs = question.values, question.inputs
        options = (question.outputs, question.parameters, question.request_id)
        if len(values) == 1 and isinstance(values[0], InferRequest):
            if inputs:
                message = "an InferRequest has its inputs: expected no others"
                raise TypeError(message)
            return with_options(values[0], *options)
        known = self._metadata
        if known is not None:
            try:
                return with_options(build_request(known, values, inputs), *options)
            except InvalidRequestError:
                pass  # the model may have changed since
        metadata = yield from self.metadata()
        return with_options(build_request(metadata, values, inputs), *options)
