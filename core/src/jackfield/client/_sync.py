"""The client that blocks."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from jackfield.client._operation import ModelOperations, Options, Question
from jackfield.client._retries import Retries
from jackfield.client._setup import create_operations
from jackfield.client._steps import Steps, drive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import grpc
    import httpx

    from jackfield.client._exchange import RepositoryEntry, ServerMetadata, Transport
    from jackfield.client._result import InferResult
    from jackfield.messages import ModelMetadata, Parameter, Parameters, RequestedOutput

T = TypeVar("T")


class Client:
    """Talks to one server of the Open Inference Protocol, ours or another; safe among threads.

    Args:
        url: ``http://``, ``https://``, ``grpc://`` or ``grpcs://``, host and port; over HTTP
            perhaps a base path.
        headers: Sent with every call, as HTTP headers or gRPC metadata.
        timeout_s: Longest wait for an answer, repeats among it; over HTTP each wait for bytes
            counts by itself.
        retries: When a call that was refused is sent again.
        form: How tensors go over HTTP; ``auto`` takes the binary form where the server has it.
        http: Your own `httpx.Client`, with its certificates, proxies, authentication; it stays
            open.
        channel: Your own `grpc.Channel`; it stays open.

    Raises:
        ImportError: httpx, which HTTP needs, is not installed.
        ValueError: The URL is none.

    Example:
        ```python
        with Client("http://localhost:8080") as client:
            result = client.model("iris").infer(x=[[5.1, 3.5, 1.4, 0.2]])
            print(result["predict"])
        ```
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        retries: Retries = Retries(),  # noqa: B008  a value that can't change
        form: Literal["auto", "json", "binary"] = "auto",
        http: httpx.Client | None = None,
        channel: grpc.Channel | None = None,
    ) -> None:
        address, self._operations = create_operations(
            url, headers=headers or {}, timeout_s=timeout_s, retries=retries, form=form
        )
        self._transport: Transport
        if address.is_grpc:
            from jackfield.client._grpc_transport import GrpcTransport

            self._transport = GrpcTransport(address.url, address.target, channel)
        else:
            from jackfield.client._http_transport import HttpTransport

            self._transport = HttpTransport(address.url, http)

    def __enter__(self) -> Client:
        """Give the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def model(self, name: str, version: str = "") -> ClientModel:
        """Name a model; nothing is sent.

        Args:
            name: The model's name.
            version: Its version; empty for the server's choice.
        """
        operations = ModelOperations(self._operations, name, version)
        return ClientModel(operations, self._transport)

    def is_live(self, *, timeout_s: float | None = None) -> bool:
        """Ask whether the server runs; no answer is a no."""
        exchange = self._operations.dialect.live()
        return self._drive(self._operations.probe(exchange, Options(timeout_s=timeout_s)))

    def is_ready(self, *, timeout_s: float | None = None) -> bool:
        """Ask whether the server takes requests; no answer is a no."""
        exchange = self._operations.dialect.ready()
        return self._drive(self._operations.probe(exchange, Options(timeout_s=timeout_s)))

    def server_metadata(self) -> ServerMetadata:
        """Ask for the server's name, version and extensions.

        Raises:
            CallError: The call failed.
        """
        return self._drive(self._operations.ask(self._operations.dialect.server_metadata()))

    def index(self, *, ready: bool = False) -> list[RepositoryEntry]:
        """List the model versions of the server's repository.

        Args:
            ready: Only those that take requests.

        Raises:
            CallError: The call failed.
        """
        return self._drive(self._operations.ask(self._operations.dialect.index(ready=ready)))

    def load(
        self,
        name: str,
        *,
        config: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Load a model as it lies in the repository now; never repeated.

        Args:
            name: The model's name.
            config: What to override of its settings, where the server allows it.
            timeout_s: Longest wait, in seconds; None for the client's.

        Raises:
            CallError: The call failed.
        """
        exchange = self._operations.dialect.load(name, config)
        self._drive(self._operations.ask(exchange, Options(timeout_s=timeout_s)))

    def unload(self, name: str, *, timeout_s: float | None = None) -> None:
        """Unload all versions of a model; never repeated.

        Raises:
            CallError: The call failed.
        """
        exchange = self._operations.dialect.unload(name)
        self._drive(self._operations.ask(exchange, Options(timeout_s=timeout_s)))

    def statistics(self) -> list[dict[str, Any]]:
        """Ask what all models did so far, in the form of the protocol's `model_stats`.

        Raises:
            CallError: The call failed.
        """
        return self._drive(self._operations.ask(self._operations.dialect.statistics("", "")))

    def _drive(self, steps: Steps[T]) -> T:
        return drive(steps, self._transport)


class ClientModel:
    """A model of a `Client`'s server."""

    def __init__(self, operations: ModelOperations, transport: Transport) -> None:
        self._operations = operations
        self._transport = transport

    def metadata(self) -> ModelMetadata:
        """Ask what the model takes and gives.

        Raises:
            CallError: The call failed; `RemoteNotFoundError` where there is no such model.
        """
        return drive(self._operations.metadata(), self._transport)

    def is_ready(self, *, timeout_s: float | None = None) -> bool:
        """Ask whether the model takes requests; no answer is a no.

        Raises:
            RemoteNotFoundError: There is no such model.
        """
        return drive(self._operations.is_ready(Options(timeout_s=timeout_s)), self._transport)

    def statistics(self) -> list[dict[str, Any]]:
        """Ask what the model did so far, in the form of the protocol's `model_stats`.

        Raises:
            CallError: The call failed.
        """
        return drive(self._operations.statistics(Options()), self._transport)

    def infer(
        self,
        *values: object,
        outputs: Sequence[str | RequestedOutput] = (),
        parameters: Parameters | None = None,
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        **inputs: object,
    ) -> InferResult:
        """Infer.

        Values become what the model's metadata says that it takes: an array gets the datatype and
        is refused here where its shape does not fit. The metadata is asked for once, and again
        where a value does not fit it.

        Args:
            values: Inputs by position, in the metadata's order; or one `InferRequest`, sent as it
                is; or one mapping by name; or one DataFrame: its columns, or one matrix where the
                model takes one.
            outputs: The outputs wanted; none asks for the model's default ones.
            parameters: Parameters of the request.
            request_id: The id that the response has.
            headers: Sent with this call.
            timeout_s: Longest wait for the answer, in seconds; None for the client's.
            inputs: Inputs by name. One that has the name of an argument goes in a mapping.

        Raises:
            CallError: The call failed: `RemoteRequestError`, `RemoteCapacityError`,
                `NoAnswerError`, ….
            InvalidRequestError: A value does not fit what the model takes.
            TypeError: The protocol has no form for a value.
        """
        question = Question(
            values=values,
            inputs=inputs,
            outputs=outputs,
            parameters=parameters,
            request_id=request_id,
        )
        options = Options(headers=headers, timeout_s=timeout_s)
        return drive(self._operations.infer(question, options), self._transport)

    def stream(
        self,
        *values: object,
        outputs: Sequence[str | RequestedOutput] = (),
        parameters: Parameters | None = None,
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        **inputs: object,
    ) -> Iterator[InferResult]:
        """Infer, and yield the responses as they come: server-sent events, or gRPC's stream.

        Nothing is sent before the first is asked for. Leaving the loop, or closing the generator,
        cancels the model's work.

        Args:
            values: As in `infer`.
            outputs: As in `infer`.
            parameters: As in `infer`.
            request_id: As in `infer`.
            headers: As in `infer`.
            timeout_s: Longest wait: over HTTP for the next response, over gRPC for the last one.
                None waits without end.
            inputs: As in `infer`.

        Raises:
            CallError: The call failed, perhaps after some responses.
            InvalidRequestError: A value does not fit what the model takes.
        """
        question = Question(
            values=values,
            inputs=inputs,
            outputs=outputs,
            parameters=parameters,
            request_id=request_id,
        )
        options = Options(headers=headers, timeout_s=timeout_s)
        exchange, pieces = drive(self._operations.open(question, options), self._transport)
        with closing(pieces):
            for piece in pieces:
                yield self._operations.result(exchange, piece)
