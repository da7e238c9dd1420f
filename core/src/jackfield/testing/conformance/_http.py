"""Speak HTTP/1.1 so that every byte of a request, and every fault of an answer, is seen.

The standard library's client: it adds no header of its own, decodes nothing, and tells a
connection that was closed from one that was said to be closed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from jackfield.testing.conformance._check import ConformanceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Longest part of a body that an error's text shows.
_SHOWN = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    method: str
    #: Below the URL that was given, without a slash in front.
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """One answer; header names are lower case."""

    call: Call
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """The media type without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def closes(self) -> bool:
        """Whether the server says that it closes the connection."""
        return self.headers.get("connection", "").lower() == "close"

    def json(self) -> Any:  # noqa: ANN401  JSON has any type
        """Read the body as JSON, as strictly as the RFC has it.

        Raises:
            ConformanceError: It is something else.
        """
        return parse_json(self.body, f"the body of the answer to {self.call.path}")

    def __str__(self) -> str:
        """Say what came, in one line."""
        shown = one_line(self.body[:_SHOWN].decode("utf-8", "backslashreplace"))
        rest = " …" if len(self.body) > _SHOWN else ""
        kind = self.headers.get("content-type", "no content type")
        return f"{self.status}, {kind}, {len(self.body)} bytes: {shown}{rest}"


def one_line(text: str) -> str:
    """Join the lines of a text."""
    return " ".join(text.split())


def parse_json(text: bytes, what: str) -> Any:  # noqa: ANN401  JSON has any type
    """Read JSON; NaN and the infinities are no JSON (RFC 8259, section 6).

    Raises:
        ConformanceError: It is something else.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        shown = text[:_SHOWN].decode("utf-8", "backslashreplace") or "nothing"
        message = f"{what}: expected JSON, found {shown} ({error})"
        raise ConformanceError(message) from error


def _refuse_constant(name: str) -> NoReturn:
    message = f"the literal {name}"
    raise ValueError(message)


class Events:
    """An answer that comes as server-sent events, read as it arrives."""

    def __init__(self, reply: Reply, response: http.client.HTTPResponse | None) -> None:
        #: Status and headers; the body only where it is no event stream.
        self.reply = reply
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        """Yield the data of each event.

        Raises:
            ConformanceError: The body is cut, or a line is none of the format.

        Source: HTML Living Standard, "Server-sent events", "Parsing an event stream".
        """
        data: list[bytes] = []
        for line in self._lines():
            if not line:
                if data:
                    yield b"\n".join(data)
                data = []
                continue
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field not in (b"", b"event", b"id", b"retry"):
                message = f"expected lines of an event stream, found {line[:_SHOWN]!r}"
                raise ConformanceError(message)
        if data:
            message = f"expected an empty line behind the last event, found none: {data[0][:80]!r}"
            raise ConformanceError(message)

    def _lines(self) -> Iterator[bytes]:
        if self._response is None:
            return
        try:
            while line := self._response.readline():
                yield line.rstrip(b"\r\n")
        except (http.client.HTTPException, OSError) as error:
            message = f"expected the events to end as HTTP has it, found a cut body ({error!r})"
            raise ConformanceError(message) from error


class HttpClient:
    """Sends requests to one server.

    Args:
        url: Scheme, host, port and perhaps a base path.
        headers: Sent with every request, for example an authorization.
        timeout_s: Longest wait for an answer.

    Raises:
        ValueError: The URL is none.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str], timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            message = f"expected a URL like http://host:port, found '{url}'"
            raise ValueError(message)
        self._base = parts.path.rstrip("/")
        self._is_secure = parts.scheme == "https"
        self._address = (parts.hostname, parts.port)
        self._headers = dict(headers)
        self._timeout_s = timeout_s

    def send(self, call: Call) -> Reply:
        """Send a request on a connection of its own.

        Raises:
            ConformanceError: There is no whole answer.
        """
        with self._connected() as connection:
            return self._exchange(connection, call)

    def get(self, path: str, **headers: str) -> Reply:
        """GET a path."""
        return self.send(Call("GET", path, headers=headers))

    def post(
        self, path: str, body: bytes | None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """POST bytes to a path; no header is added but the length."""
        return self.send(Call("POST", path, body, headers or {}))

    def post_json(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Reply:
        """POST JSON to a path, called so."""
        given = {"Content-Type": "application/json", **(headers or {})}
        return self.send(Call("POST", path, json.dumps(body).encode(), given))

    def converse(self, first: Call, second: Call) -> tuple[Reply, Reply]:
        """Send two requests on one connection, as a pooling client does.

        Where the first answer says that the connection closes, the second has one of its own.

        Raises:
            ConformanceError: An answer is missing.
        """
        with self._connected() as connection:
            reply = self._exchange(connection, first)
            if not reply.closes:
                try:
                    return reply, self._exchange(connection, second)
                except ConformanceError as error:
                    message = (
                        "expected the connection to be usable after the answer, or to be closed "
                        f"with 'Connection: close', found it closed; the answer was {reply}"
                    )
                    raise ConformanceError(message) from error
        return reply, self.send(second)

    @contextlib.contextmanager
    def events(self, call: Call) -> Iterator[Events]:
        """Send a request and read the answer as events; leaving closes the connection."""
        with self._connected() as connection:
            response = self._begin(connection, call)
            is_stream = response.headers.get_content_type() == "text/event-stream"
            body = b"" if is_stream else self._read(response, call)
            yield Events(_reply(call, response, body), response if is_stream else None)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        host, port = self._address
        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        connection = kind(host, port, timeout=self._timeout_s)
        # a connection that was lost must be seen, not opened anew
        connection.auto_open = False
        try:
            connection.connect()
        except OSError as error:
            message = f"expected a server at {host}:{port}, found none ({error})"
            raise ConformanceError(message) from error
        try:
            yield connection
        finally:
            connection.close()

    def _exchange(self, connection: http.client.HTTPConnection, call: Call) -> Reply:
        response = self._begin(connection, call)
        return _reply(call, response, self._read(response, call))

    def _begin(
        self, connection: http.client.HTTPConnection, call: Call
    ) -> http.client.HTTPResponse:
        try:
            connection.putrequest(
                call.method, f"{self._base}/{call.path}", skip_accept_encoding=True
            )
            for key, value in {**self._headers, **call.headers}.items():
                connection.putheader(key, value)
            if call.body is not None or call.method == "POST":
                connection.putheader("Content-Length", str(len(call.body or b"")))
            # an early refusal may come while the body is still on its way
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(call.body or None)
            return connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            raise _unanswered(call, error) from error

    def _read(self, response: http.client.HTTPResponse, call: Call) -> bytes:
        try:
            return response.read()
        except (http.client.HTTPException, OSError) as error:
            raise _unanswered(call, error) from error


def _reply(call: Call, response: http.client.HTTPResponse, body: bytes) -> Reply:
    headers = {key.lower(): value for key, value in response.headers.items()}
    return Reply(call, response.status, headers, body)


def _unanswered(call: Call, error: Exception) -> ConformanceError:
    if isinstance(error, TimeoutError):
        what = "none in time"
    elif isinstance(error, OSError):  # http.client's RemoteDisconnected is one
        what = "the connection dropped"
    else:
        what = "one that can't be read as HTTP"
    size = f" with {len(call.body)} bytes" if call.body else ""
    return ConformanceError(
        f"{call.method} {call.path[:_SHOWN]}{size}: expected an answer, found {what} ({error!r})"
    )
