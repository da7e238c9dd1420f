"""Who runs an ASGI app on a socket: the one seam between the app and its HTTP server.

uvicorn serves HTTP/1.1 and is the default: with the model inside, hypercorn was measured to cost
about 40 % of the throughput. hypercorn serves HTTP/2 too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from hypercorn.typing import ASGIFramework
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from jackfield._scheduling import Arrivals
    from jackfield.settings import ServerSettings


class Runner(Protocol):
    """Serves one app on one listening socket."""

    async def serve(self) -> None:
        """Serve until `stop`; returns when the requests in flight are answered."""

    def stop(self) -> None:
        """Take no new connection, and let `serve` return."""


def create_runner(
    app: ASGIApp,
    listener: socket.socket,
    settings: ServerSettings,
    arrivals: Arrivals | None = None,
) -> Runner:
    """Make the runner that `http_server` names; its package is imported here.

    Args:
        app: What it runs.
        listener: Where it listens.
        settings: Limits and times.
        arrivals: Is told of requests before the app gets them, where the runner can.
    """
    if settings.http_server == "hypercorn":
        return HypercornRunner(app, listener, settings)
    return UvicornRunner(app, listener, settings, arrivals)


class UvicornRunner:
    """HTTP/1.1 by uvicorn with httptools."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        settings: ServerSettings,
        arrivals: Arrivals | None = None,
    ) -> None:
        import uvicorn
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        class Announcing(HttpToolsProtocol):
            def on_headers_complete(self) -> None:
                """Tell of the request, whose task will run later in this turn of the loop."""
                super().on_headers_complete()
                if arrivals is not None and not self.pipeline:
                    arrivals.announce()

        if arrivals is not None:
            arrivals.are_told = True

        class Server(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                """Leave the signals to whoever started the server."""
                yield

        self._listener = listener
        self._server = Server(
            uvicorn.Config(
                app,
                http=Announcing if arrivals is not None else "httptools",
                ws="none",
                proxy_headers=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                root_path=settings.root_path,
                # whole seconds: it says so in its types only
                timeout_keep_alive=cast("int", settings.keep_alive_s),
                timeout_graceful_shutdown=max(1, math.ceil(settings.drain_timeout_s)),
            )
        )

    async def serve(self) -> None:
        """Serve until `stop`."""
        await self._server.serve(sockets=[self._listener])

    def stop(self) -> None:
        """Take no new connection, and let `serve` return."""
        self._server.should_exit = True


class HypercornRunner:
    """HTTP/1.1 and HTTP/2 (with prior knowledge) by hypercorn."""

    def __init__(self, app: ASGIApp, listener: socket.socket, settings: ServerSettings) -> None:
        from hypercorn.config import Config

        self._app = _WholeBodies(app)
        self._listener = listener
        self._config = Config()
        self._config.accesslog = None
        self._config.errorlog = logging.getLogger("jackfield.http")
        self._config.include_server_header = False
        self._config.root_path = settings.root_path
        self._config.keep_alive_timeout = settings.keep_alive_s
        self._config.graceful_timeout = settings.drain_timeout_s
        self._stopped = asyncio.Event()

    async def serve(self) -> None:
        """Serve until `stop`."""
        from hypercorn.asyncio import serve

        # hypercorn closes the descriptor that it is given; the socket object must not do so again
        self._config.bind = [f"fd://{self._listener.detach()}"]
        # both are ASGI; hypercorn spells each message's type out
        app = cast("ASGIFramework", self._app)
        serving = asyncio.ensure_future(
            serve(app, self._config, shutdown_trigger=self._stopped.wait)
        )
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
            # from Python 3.12 on hypercorn waits for open connections before it looks at its time
            await asyncio.wait([serving], timeout=self._config.graceful_timeout)
            self._app.cut()
            await serving
        finally:
            stopped.cancel()
            serving.cancel()

    def stop(self) -> None:
        """Take no new connection, and let `serve` return."""
        self._stopped.set()


#: How much of a body that nobody reads is taken and dropped, and for how long.
_REST_BYTES = 64 * 1024 * 1024
_REST_S = 10.0


class _WholeBodies:
    """An app whose answers end after the request's body has come whole, and that is started.

    hypercorn ends the connection, with every HTTP/2 stream on it, when a part of a body arrives
    after the answer: an early 404 or 413 would take its neighbours along. And it can't be kept from
    asking the app to start, as uvicorn can: who runs the server starts it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running: set[asyncio.Task[Any]] = set()

    def cut(self) -> None:
        """End the requests that still run."""
        for task in self._running:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        if task := asyncio.current_task():
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        is_whole = scope["type"] != "http"

        async def receive_part() -> Message:
            nonlocal is_whole
            message = await receive()
            is_whole = not message.get("more_body", False)
            return message

        async def send_at_last(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            if is_last and not is_whole:
                # the caller has its answer, and may see by it that the rest is in vain
                await send({**message, "more_body": True})
                await drop_rest()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        async def drop_rest() -> None:
            left = _REST_BYTES
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REST_S):
                    while not is_whole and left > 0:
                        left -= len((await receive_part()).get("body", b""))

        await self._app(scope, receive_part, send_at_last)
