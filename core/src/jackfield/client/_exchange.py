"""What a client and a transport pass each other: bytes, and how to read them.

A dialect makes exchanges, a transport carries them; neither knows the other. Nothing here does I/O.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping

    from jackfield.messages import InferRequest, InferResponse, ModelMetadata, Parameter

T = TypeVar("T")


class ServerMetadata(msgspec.Struct, frozen=True):
    """What a server says of itself."""

    name: str = ""
    version: str = ""
    #: The protocol's extensions that are on, for example ``binary_tensor_data``.
    extensions: list[str] = []


class RepositoryEntry(msgspec.Struct, frozen=True):
    """One version of a model in a server's repository."""

    name: str
    version: str = ""
    #: READY, LOADING, UNLOADING or UNAVAILABLE; servers differ in what else they say.
    state: str = ""
    #: Why it is not ready.
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """What a transport sends."""

    #: A path of HTTP below the server's URL, or the name of a gRPC method.
    target: str
    body: bytes = b""
    #: HTTP headers or gRPC metadata.
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: HTTP's method.
    verb: str = "POST"


class Reply(NamedTuple):
    """What came back of a call that succeeded."""

    body: bytes
    #: Names are lower case.
    headers: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Exchange(Generic[T]):
    """A call, and how to read its answer.

    `decode` raises `InvalidRequestError` where the answer is not the protocol's: the decoders of
    the wire are the server's own.
    """

    call: Call
    decode: Callable[[Reply], T]
    #: Whether the call may be sent again when the server refused it.
    is_repeatable: bool = True


class Dialect(Protocol):
    """One form of the protocol: what each operation sends and how its answer is read."""

    def live(self) -> Exchange[bool]:
        """Ask whether the server runs."""

    def ready(self) -> Exchange[bool]:
        """Ask whether the server takes requests."""

    def server_metadata(self) -> Exchange[ServerMetadata]:
        """Ask what the server is."""

    def model_ready(self, name: str, version: str) -> Exchange[bool]:
        """Ask whether a model takes requests."""

    def model_metadata(self, name: str, version: str) -> Exchange[ModelMetadata]:
        """Ask what a model takes and gives."""

    def infer(
        self, name: str, version: str, request: InferRequest, *, is_binary: bool
    ) -> Exchange[InferResponse]:
        """Ask for an inference."""

    def stream(self, name: str, version: str, request: InferRequest) -> Exchange[InferResponse]:
        """Ask for a stream; `decode` reads one of its events."""

    def index(self, *, ready: bool) -> Exchange[list[RepositoryEntry]]:
        """Ask what is in the repository."""

    def load(self, name: str, config: Mapping[str, Parameter] | None) -> Exchange[None]:
        """Ask to load a model."""

    def unload(self, name: str) -> Exchange[None]:
        """Ask to unload a model."""

    def statistics(self, name: str, version: str) -> Exchange[list[dict[str, Any]]]:
        """Ask what models did so far."""


class Transport(Protocol):
    """Carries calls and blocks meanwhile. Both methods raise a `CallError` if the call fails."""

    def send(self, call: Call, timeout_s: float) -> Reply:
        """Send a call and read its whole answer."""

    def open(self, call: Call, timeout_s: float) -> Generator[bytes, None, None]:
        """Send a call whose answer is a stream; a refusal is raised here, not by the stream."""

    def close(self) -> None:
        """Close the connections."""


class AsyncTransport(Protocol):
    """The same for an event loop."""

    async def send(self, call: Call, timeout_s: float) -> Reply:
        """Send a call and read its whole answer."""

    async def open(self, call: Call, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Send a call whose answer is a stream; a refusal is raised here, not by the stream."""

    async def close(self) -> None:
        """Close the connections."""
