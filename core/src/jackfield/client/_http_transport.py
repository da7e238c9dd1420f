"""Two thin transports on httpx; the only module that imports it."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import httpx

from jackfield.client._exchange import Call, Reply
from jackfield.client._http import Events, check
from jackfield.errors import BadAnswerError, CallTimeoutError, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator

#: Compressing tensors costs more than sending them; a caller's own header goes before.
_DEFAULTS = {"accept-encoding": "identity"}


class HttpTransport:
    """Carries calls over an `httpx.Client`, its own or the caller's."""

    def __init__(self, url: str, client: httpx.Client | None) -> None:
        self._url = url
        self._client = client or httpx.Client()
        self._is_own = client is None

    def send(self, call: Call, timeout_s: float) -> Reply:
        """Send a call and read its whole answer."""
        with _translating(self._url, timeout_s):
            response = self._client.send(self._request(call, timeout_s))
        return _read(response)

    def open(self, call: Call, timeout_s: float) -> Generator[bytes, None, None]:
        """Send a call whose answer is a stream of events."""
        with _translating(self._url, timeout_s):
            response = self._client.send(self._request(call, timeout_s), stream=True)
            if not _is_events(response):
                response.read()
        _refuse(self._url, response)
        return self._events(response, timeout_s)

    def _events(self, response: httpx.Response, timeout_s: float) -> Generator[bytes, None, None]:
        events = Events()
        with contextlib.closing(response), _translating(self._url, timeout_s):
            for piece in response.iter_bytes():
                yield from events.feed(piece)

    def _request(self, call: Call, timeout_s: float) -> httpx.Request:
        return self._client.build_request(
            call.verb,
            f"{self._url}/{call.target}",
            content=call.body,
            headers={**_DEFAULTS, **call.headers},
            timeout=_timeout(timeout_s),
        )

    def close(self) -> None:
        """Close the connections; not those of the caller's own client."""
        if self._is_own:
            self._client.close()


class AsyncHttpTransport:
    """Carries calls over an `httpx.AsyncClient`, its own or the caller's."""

    def __init__(self, url: str, client: httpx.AsyncClient | None) -> None:
        self._url = url
        self._client = client or httpx.AsyncClient()
        self._is_own = client is None

    async def send(self, call: Call, timeout_s: float) -> Reply:
        """Send a call and read its whole answer."""
        with _translating(self._url, timeout_s):
            response = await self._client.send(self._request(call, timeout_s))
        return _read(response)

    async def open(self, call: Call, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Send a call whose answer is a stream of events."""
        with _translating(self._url, timeout_s):
            response = await self._client.send(self._request(call, timeout_s), stream=True)
            if not _is_events(response):
                await response.aread()
        _refuse(self._url, response)
        return self._events(response, timeout_s)

    async def _events(
        self, response: httpx.Response, timeout_s: float
    ) -> AsyncGenerator[bytes, None]:
        events = Events()
        async with contextlib.aclosing(response):
            with _translating(self._url, timeout_s):
                async for piece in response.aiter_bytes():
                    for data in events.feed(piece):
                        yield data

    def _request(self, call: Call, timeout_s: float) -> httpx.Request:
        return self._client.build_request(
            call.verb,
            f"{self._url}/{call.target}",
            content=call.body,
            headers={**_DEFAULTS, **call.headers},
            timeout=_timeout(timeout_s),
        )

    async def close(self) -> None:
        """Close the connections; not those of the caller's own client."""
        if self._is_own:
            await self._client.aclose()


def _timeout(timeout_s: float) -> float | None:
    return None if math.isinf(timeout_s) else max(timeout_s, 0.001)


def _read(response: httpx.Response) -> Reply:
    """Give what a transport gives for an answer that is read.

    Raises:
        RemoteError: Its status is no success.
    """
    headers = {key.lower(): value for key, value in response.headers.items()}
    return check(response.status_code, Reply(response.content, headers))


def _is_events(response: httpx.Response) -> bool:
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return response.is_success and media_type == "text/event-stream"


def _refuse(url: str, response: httpx.Response) -> None:
    """Raise what an answer that is no stream deserves."""
    if not _is_events(response):
        _read(response)
        found = response.headers.get("content-type", "nothing")
        raise BadAnswerError(url, f"expected text/event-stream, found {found}")


@contextlib.contextmanager
def _translating(url: str, timeout_s: float) -> Iterator[None]:
    """Turn httpx's errors into ours."""
    try:
        yield
    except httpx.TimeoutException as error:
        was_sent = not isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout)
        raise CallTimeoutError(url, timeout_s=timeout_s, was_sent=was_sent) from error
    except httpx.DecodingError as error:
        raise BadAnswerError(url, f"the answer can't be unpacked: {error}") from error
    except httpx.RequestError as error:
        was_sent = not isinstance(error, httpx.ConnectError)
        problem = str(error) or type(error).__name__
        raise NoAnswerError(url, problem, was_sent=was_sent) from error
