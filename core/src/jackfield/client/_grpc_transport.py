"""Two thin transports on grpcio."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from jackfield._wire.descriptors import SERVICE
from jackfield.client._exchange import Call, Reply
from jackfield.client._grpc import failure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

#: No limit on the size of messages, as in tritonclient: the server has one.
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class GrpcTransport:
    """Carries calls over a `grpc.Channel`, its own or the caller's."""

    def __init__(self, url: str, address: str, channel: grpc.Channel | None) -> None:
        self._url = url
        self._is_own = channel is None
        if channel is None:
            if url.startswith("grpcs:"):
                channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), _OPTIONS)
            else:
                channel = grpc.insecure_channel(address, _OPTIONS)
        self._channel = channel

    def send(self, call: Call, timeout_s: float) -> Reply:
        """Call a method."""
        method = self._channel.unary_unary(f"/{SERVICE}/{call.target}", None, None)
        with _translating(self._url, timeout_s):
            body = method(call.body, timeout=_timeout(timeout_s), metadata=_metadata(call))
        return Reply(body, {})

    def open(self, call: Call, timeout_s: float) -> Generator[bytes, None, None]:
        """Call a method that streams, with one request; wait for its first response."""
        method = self._channel.stream_stream(f"/{SERVICE}/{call.target}", None, None)
        with _translating(self._url, timeout_s):
            running = method(
                iter([call.body]), timeout=_timeout(timeout_s), metadata=_metadata(call)
            )
            first = list(itertools.islice(running, 1))
        return self._messages(first, running, timeout_s)

    def _messages(
        self,
        first: list[bytes],
        running: Any,  # noqa: ANN401  a grpc.Call that iterates, a type without a name
        timeout_s: float,
    ) -> Generator[bytes, None, None]:
        try:
            with _translating(self._url, timeout_s):
                yield from first
                yield from running
        finally:
            running.cancel()

    def close(self) -> None:
        """Close the channel; not the caller's own."""
        if self._is_own:
            self._channel.close()


class AsyncGrpcTransport:
    """Carries calls over a `grpc.aio.Channel`, its own or the caller's."""

    def __init__(self, url: str, address: str, channel: grpc.aio.Channel | None) -> None:
        self._url = url
        self._address = address
        self._is_own = channel is None
        self._given = channel

    @property
    def _channel(self) -> grpc.aio.Channel:
        # made in the running loop, to which it stays bound
        if self._given is None:
            if self._url.startswith("grpcs:"):
                credentials = grpc.ssl_channel_credentials()
                self._given = grpc.aio.secure_channel(self._address, credentials, _OPTIONS)
            else:
                self._given = grpc.aio.insecure_channel(self._address, _OPTIONS)
        return self._given

    async def send(self, call: Call, timeout_s: float) -> Reply:
        """Call a method."""
        method = self._channel.unary_unary(f"/{SERVICE}/{call.target}", None, None)
        with _translating(self._url, timeout_s):
            body = await method(call.body, timeout=_timeout(timeout_s), metadata=_metadata(call))
        return Reply(body, {})

    async def open(self, call: Call, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Call a method that streams, with one request; wait for its first response."""
        method = self._channel.stream_stream(f"/{SERVICE}/{call.target}", None, None)
        with _translating(self._url, timeout_s):
            running = method(
                iter([call.body]), timeout=_timeout(timeout_s), metadata=_metadata(call)
            )
            messages = aiter(running)
            first = await anext(messages, None)
        return self._messages(first, messages, running, timeout_s)

    async def _messages(
        self,
        first: bytes | None,
        rest: AsyncIterator[bytes],
        running: grpc.aio.Call,
        timeout_s: float,
    ) -> AsyncGenerator[bytes, None]:
        try:
            with _translating(self._url, timeout_s):
                if first is not None:
                    yield first
                async for message in rest:
                    yield message
        finally:
            running.cancel()

    async def close(self) -> None:
        """Close the channel; not the caller's own."""
        if self._is_own and self._given is not None:
            await self._given.close(None)


def _timeout(timeout_s: float) -> float | None:
    return None if math.isinf(timeout_s) else timeout_s


def _metadata(call: Call) -> tuple[tuple[str, str], ...]:
    return tuple((key.lower(), value) for key, value in call.headers.items())


@contextlib.contextmanager
def _translating(url: str, timeout_s: float) -> Iterator[None]:
    """Turn grpcio's errors into ours."""
    try:
        yield
    except grpc.RpcError as error:
        given: Any = error.trailing_metadata() or ()
        trailers = {key: value for key, value in given if isinstance(value, str)}
        details = error.details() or ""
        raise failure(url, error.code(), details, trailers, timeout_s=timeout_s) from error
