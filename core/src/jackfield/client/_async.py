"""The client for event loops; its twin in `_sync` differs by `await` alone."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from jackfield.client._operation import ModelOperations, Options, Question
from jackfield.client._retries import Retries
from jackfield.client._setup import create_operations
from jackfield.client._steps import Steps, drive_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    import grpc.aio
    import httpx

    from jackfield.client._exchange import AsyncTransport, RepositoryEntry, ServerMetadata
    from jackfield.client._result import InferResult
    from jackfield.messages import ModelMetadata, Parameter, Parameters, RequestedOutput

T = TypeVar("T")


class AsyncClient:
    """Talks to one server of the Open Inference Protocol, ours or another, on an event loop.

    `Client` tells what the methods take, give and raise.

    Args:
        url: ``http://``, ``https://``, ``grpc://`` or ``grpcs://``, host and port; over HTTP
            perhaps a base path.
        headers: Sent with every call, as HTTP headers or gRPC metadata.
        timeout_s: Longest wait for an answer, repeats among it; over HTTP each wait for bytes
            counts by itself.
        retries: When a call that was refused is sent again.
        form: How tensors go over HTTP; ``auto`` takes the binary form where the server has it.
        http: Your own `httpx.AsyncClient`, with its certificates, proxies, authentication; it stays
            open.
        channel: Your own `grpc.aio.Channel`; it stays open.

    Raises:
        ImportError: httpx, which HTTP needs, is not installed.
        ValueError: The URL is none.

    Example:
        ```python
        async with AsyncClient("http://localhost:8080") as client:
            result = await client.model("iris").infer(x=[[5.1, 3.5, 1.4, 0.2]])
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
        http: httpx.AsyncClient | None = None,
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        address, self._operations = create_operations(
            url, headers=headers or {}, timeout_s=timeout_s, retries=retries, form=form
        )
        self._transport: AsyncTransport
        if address.is_grpc:
            from jackfield.client._grpc_transport import AsyncGrpcTransport

            self._transport = AsyncGrpcTransport(address.url, address.target, channel)
        else:
            from jackfield.client._http_transport import AsyncHttpTransport

            self._transport = AsyncHttpTransport(address.url, http)

    async def __aenter__(self) -> AsyncClient:
        """Give the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    def model(self, name: str, version: str = "") -> AsyncClientModel:
        """Name a model; nothing is sent."""
        operations = ModelOperations(self._operations, name, version)
        return AsyncClientModel(operations, self._transport)

    async def is_live(self, *, timeout_s: float | None = None) -> bool:
        """Ask whether the server runs; no answer is a no."""
        exchange = self._operations.dialect.live()
        return await self._drive(self._operations.probe(exchange, Options(timeout_s=timeout_s)))

    async def is_ready(self, *, timeout_s: float | None = None) -> bool:
        """Ask whether the server takes requests; no answer is a no."""
        exchange = self._operations.dialect.ready()
        return await self._drive(self._operations.probe(exchange, Options(timeout_s=timeout_s)))

    async def server_metadata(self) -> ServerMetadata:
        """Ask for the server's name, version and extensions."""
        return await self._drive(self._operations.ask(self._operations.dialect.server_metadata()))

    async def index(self, *, ready: bool = False) -> list[RepositoryEntry]:
        """List the model versions of the server's repository."""
        return await self._drive(self._operations.ask(self._operations.dialect.index(ready=ready)))

    async def load(
        self,
        name: str,
        *,
        config: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Load a model as it lies in the repository now; never repeated."""
        exchange = self._operations.dialect.load(name, config)
        await self._drive(self._operations.ask(exchange, Options(timeout_s=timeout_s)))

    async def unload(self, name: str, *, timeout_s: float | None = None) -> None:
        """Unload all versions of a model; never repeated."""
        exchange = self._operations.dialect.unload(name)
        await self._drive(self._operations.ask(exchange, Options(timeout_s=timeout_s)))

    async def statistics(self) -> list[dict[str, Any]]:
        """Ask what all models did so far, in the form of the protocol's `model_stats`."""
        return await self._drive(self._operations.ask(self._operations.dialect.statistics("", "")))

    async def _drive(self, steps: Steps[T]) -> T:
        return await drive_async(steps, self._transport)


class AsyncClientModel:
    """A model of a `AsyncClient`'s server."""

    def __init__(self, operations: ModelOperations, transport: AsyncTransport) -> None:
        self._operations = operations
        self._transport = transport

    async def metadata(self) -> ModelMetadata:
        """Ask what the model takes and gives."""
        return await drive_async(self._operations.metadata(), self._transport)

    async def is_ready(self, *, timeout_s: float | None = None) -> bool:
        """Ask whether the model takes requests; no answer is a no."""
        return await drive_async(
            self._operations.is_ready(Options(timeout_s=timeout_s)), self._transport
        )

    async def statistics(self) -> list[dict[str, Any]]:
        """Ask what the model did so far, in the form of the protocol's `model_stats`."""
        return await drive_async(self._operations.statistics(Options()), self._transport)

    async def infer(
        self,
        *values: object,
        outputs: Sequence[str | RequestedOutput] = (),
        parameters: Parameters | None = None,
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        **inputs: object,
    ) -> InferResult:
        """Infer."""
        question = Question(
            values=values,
            inputs=inputs,
            outputs=outputs,
            parameters=parameters,
            request_id=request_id,
        )
        options = Options(headers=headers, timeout_s=timeout_s)
        return await drive_async(self._operations.infer(question, options), self._transport)

    async def stream(
        self,
        *values: object,
        outputs: Sequence[str | RequestedOutput] = (),
        parameters: Parameters | None = None,
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        **inputs: object,
    ) -> AsyncGenerator[InferResult, None]:
        """Infer, and yield the responses as they come.

        A loop that is left early cancels the model's work once the generator is closed; use
        `contextlib.aclosing`.
        """
        question = Question(
            values=values,
            inputs=inputs,
            outputs=outputs,
            parameters=parameters,
            request_id=request_id,
        )
        options = Options(headers=headers, timeout_s=timeout_s)
        exchange, pieces = await drive_async(
            self._operations.open(question, options), self._transport
        )
        async with aclosing(pieces):
            async for piece in pieces:
                yield self._operations.result(exchange, piece)
