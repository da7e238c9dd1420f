"""Send one request over and over by HTTP/1.1, with as little work for each as Python allows.

Not by a client library: those cost more than a fast server does. The request is bytes that are made
once; httptools reads the answers, and their bodies are kept only where somebody looks at them.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import httptools

from jackfield.client._exchange import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from jackfield._load.plan import Target
    from jackfield._load.sender import Answered

#: How long a caller waits that got no connection, in seconds: no server is helped by a storm.
_PAUSE_S = 0.05
#: How much of a failed answer is kept, in bytes.
_LONGEST_TEXT = 2000


class HttpSender:
    """Keeps connections alive, one request in flight on each; opens more where none is idle.

    Args:
        target: What is sent where.
        answered: Told of each answer; never within `send`.
        timeout_s: Longest wait for an answer.
        keeps: Whether good answers are passed on, too.
    """

    def __init__(
        self, target: Target, answered: Answered, *, timeout_s: float, keeps: bool
    ) -> None:
        parts = urlsplit(target.url)
        is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if is_tls else 80)
        self._tls = ssl.create_default_context() if is_tls else None
        self._payload = _payload(target, parts.netloc, parts.path)
        self._answered = answered
        self._timeout_ns = int(timeout_s * 1e9)
        self._timeout_s = timeout_s
        self._keeps = keeps
        #: The one used last is used next: a rate needs few connections most of the time.
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, lanes: int) -> None:
        """Open connections; a server that can't be reached shows when requests are sent."""
        opened = await asyncio.gather(
            *(self._connect() for _ in range(lanes)), return_exceptions=True
        )
        self._idle.extend(each for each in opened if isinstance(each, _Connection))

    async def stop(self) -> None:
        """Close all connections; what is in flight is never answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()

    def send(self, since_ns: int) -> None:
        """Send the request once."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                connection.send(since_ns)
                return
        self._spawn(self._send_anew(since_ns))

    def expire(self, now_ns: int) -> None:
        """Give up what waits too long."""
        for connection in list(self._open):
            if connection.is_busy and now_ns - connection.sent_ns > self._timeout_ns:
                connection.fail("timeout", f"no answer in {self._timeout_s:g} s")

    async def _send_anew(self, since_ns: int) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connect()
        except (OSError, TimeoutError) as error:
            text = str(error) or f"no connection in {self._timeout_s:g} s"
            await asyncio.sleep(_PAUSE_S)
            self._answered(since_ns, "not connected", Reply(text.encode(), {}))
        else:
            connection.send(since_ns)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self), self._host, self._port, ssl=self._tls
        )
        self._open.add(connection)
        return connection

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Connection(asyncio.Protocol):
    """One connection; owned by the sender."""

    def __init__(self, sender: HttpSender) -> None:
        self._sender = sender
        self._parser = httptools.HttpResponseParser(self)
        self._since_ns = 0
        self._pieces: list[bytes] = []
        self._headers: dict[str, str] = {}
        self.sent_ns = 0
        self.is_busy = False
        self.is_usable = True
        if sender._keeps:
            # looked up by the parser when it is made
            self.on_header: Callable[[bytes, bytes], None] = self._on_header
            self._parser = httptools.HttpResponseParser(self)

    def send(self, since_ns: int) -> None:
        self._since_ns = since_ns
        self.sent_ns = time.monotonic_ns()
        self.is_busy = True
        self._transport.write(self._sender._payload)

    def abort(self) -> None:
        self.is_busy = self.is_usable = False
        self._transport.abort()

    def fail(self, problem: str, text: str) -> None:
        """Give up the request in flight, and the connection."""
        was_busy = self.is_busy
        self.abort()
        if was_busy:
            self._sender._answered(self._since_ns, problem, Reply(text.encode(), {}))

    # ---- called by the event loop ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sender._open.discard(self)
        self.is_usable = False
        if self.is_busy:
            self.is_busy = False
            text = str(exc) if exc else "the server closed it before it answered"
            self._sender._answered(self._since_ns, "connection lost", Reply(text.encode(), {}))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail("not HTTP", str(error))

    # ---- called by the parser ----

    def on_body(self, body: bytes) -> None:
        if self._sender._keeps or self._parser.get_status_code() >= 300:
            self._pieces.append(body)

    def _on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_message_complete(self) -> None:
        sender, status = self._sender, self._parser.get_status_code()
        if 100 <= status < 200:
            return
        if not self.is_busy:
            # an answer that nobody asked for
            self.abort()
            return
        self.is_busy = False
        reply = None
        if self._pieces or sender._keeps:
            body = b"".join(self._pieces)
            reply = Reply(body if status < 300 else body[:_LONGEST_TEXT], self._headers)
            self._pieces, self._headers = [], {}
        if self._parser.should_keep_alive():
            sender._idle.append(self)
        else:
            self.is_usable = False
            self._transport.close()
        sender._answered(self._since_ns, "" if 200 <= status < 300 else str(status), reply)


def _payload(target: Target, host: str, base_path: str) -> bytes:
    """Make the bytes of the whole request."""
    headers = {
        "host": host.rpartition("@")[2],
        "user-agent": "jackfield-bench",
        "accept": "*/*",
        "content-length": str(len(target.body)),
        **{name.lower(): value for name, value in target.headers.items()},
    }
    lines = [f"POST {base_path.rstrip('/')}/{target.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + target.body
