"""A server on real sockets, for tests that ask a model as its users do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

from jackfield.server import Addresses, Server
from jackfield.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


class RunningServer(NamedTuple):
    """Where it listens, as `jackfield.client` takes it."""

    http: str
    grpc: str


@contextlib.contextmanager
def running(
    *paths: str | Path, settings: ServerSettings | None = None
) -> Generator[RunningServer, None, None]:
    """Serve models on free ports, in a thread, until the block ends.

    Args:
        paths: Artifact files and folders of models, as ``jackfield serve`` takes them.
        settings: Those of the server; by default free ports on this machine.

    Yields:
        Its addresses, once every model was tried.

    Raises:
        SettingsError: A path doesn't exist, or a port can't be listened on.

    Example:
        ```python
        with running("models/iris") as server, Client(server.grpc) as client:
            client.model("iris").infer(x=[[5.1, 3.5, 1.4, 0.2]])
        ```
    """
    free = settings or ServerSettings(http_port=0, grpc_port=0, metrics_port=0)
    server = Server(paths, settings=free)
    started: Future[RunningServer] = Future()
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        stopped = asyncio.Event()
        ends.append((asyncio.get_running_loop(), stopped))

        async def announce(at: Addresses) -> None:
            started.set_result(RunningServer(at.http, f"grpc://{at.grpc}"))

        await server.run(stopped, announce)

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=main, name="jackfield-running")
    thread.start()
    try:
        yield started.result()
    finally:
        for loop, stopped in ends:
            with contextlib.suppress(RuntimeError):  # it ended by itself
                loop.call_soon_threadsafe(stopped.set)
        thread.join()
