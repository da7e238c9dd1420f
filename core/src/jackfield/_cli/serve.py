"""``jackfield serve``: settings, signals, the table at start, the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from jackfield._cli.environment import allowed_plugins, read_environment
from jackfield._cli.log import configure_logging
from jackfield._cli.output import print_table
from jackfield._example import example_request
from jackfield._inner import IS_INNER
from jackfield._models import ModelState
from jackfield._wire import json
from jackfield.errors import JackfieldError, SettingsError
from jackfield.server import Server
from jackfield.settings import resolve_server_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

    from jackfield.server import Addresses
    from jackfield.settings import Resolved

logger = logging.getLogger("jackfield")


def serve_models(paths: Sequence[str], *, name: str, options: Mapping[str, object]) -> int:
    """Serve until SIGINT or SIGTERM.

    Returns:
        The exit code: 0 after a stop that was asked for.

    Raises:
        JackfieldError: The server can't start.
    """
    environ = read_environment()
    folders = [Path(path) for path in paths if Path(path).is_dir()]
    resolved = resolve_server_settings(folders, environ=environ, options=options)
    settings = resolved.settings
    if settings.workers > 1:
        raise SettingsError(
            resolved.sources["workers"],
            f"{settings.workers} workers are not served yet; start with --workers 1",
        )
    configure_logging(settings.log_level, settings.log_format)
    for warning in resolved.warnings:
        logger.warning("%s", warning)
    server = Server(
        paths, settings=settings, name=name, plugins=allowed_plugins(environ), environ=environ
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(server, resolved))
    _leave_stuck_threads()
    return 0


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return None
    return uvloop.Loop


async def _run(server: Server, resolved: Resolved) -> None:
    stopped = asyncio.Event()
    _stop_on_signals(stopped, resolved.settings.drain_timeout_s)

    async def announce(addresses: Addresses) -> None:
        await _announce(server, resolved, addresses)

    await server.run(stopped, announce)
    logger.info("stopped")


def _stop_on_signals(stopped: asyncio.Event, grace_s: float) -> None:
    """Stop on SIGINT and SIGTERM, even while a call of a runtime holds up the event loop."""
    loop = asyncio.get_running_loop()

    def leave() -> None:
        if not stopped.is_set():
            logger.error("the event loop has not answered for %g s; leaving", grace_s)
            os._exit(1)

    # not the loop's own way, which a blocked loop never comes to
    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopped.set)
        guard = threading.Timer(grace_s, leave)
        guard.daemon = True
        guard.start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _leave_stuck_threads() -> None:
    """End the process although a runtime's thread never returns."""
    stuck = [thread for thread in threading.enumerate() if thread.name.startswith("jackfield-")]
    if stuck:
        for thread in stuck:
            thread.join(timeout=1.0)
        if any(thread.is_alive() for thread in stuck):
            logger.warning("leaving %d threads that do not end", len(stuck))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


async def _announce(server: Server, resolved: Resolved, addresses: Addresses) -> None:
    """Print what is served and where, and a request to try."""
    lines = await server.index()
    rows = []
    for line in lines:
        path = f"/v2/models/{line.name}"
        path += f"/versions/{line.version}" if line.version else ""
        is_ready = line.state is ModelState.READY
        runtime = server.model(line.name, line.version).runtime_name if is_ready else ""
        rows.append(
            (line.name, line.version, runtime, line.state, line.reason or addresses.http + path)
        )
    print_table(("model", "version", "runtime", "state", "url"), rows, title="jackfield")
    host_note = resolved.sources.get("host", "default: this machine only")
    click.echo(f"REST     {addresses.http}  ({resolved.settings.host}: {host_note})")
    click.echo(f"gRPC     {addresses.grpc}")
    click.echo(f"metrics  {addresses.metrics or 'off'}")
    for line in lines:
        if line.state is ModelState.READY:
            curl = await _curl(server, line.name, addresses.http)
            if curl:
                click.echo(f"\ntry:\n  {curl}\n")
                break
    sys.stdout.flush()


async def _curl(server: Server, name: str, url: str) -> str:
    """Make a command line that works: the request is tried before it is printed."""
    model = server.model(name)
    request = example_request(model.metadata)
    # a made-up shape may be refused, which the log would show as a failure of the model
    is_guessed = any(tensor.parameters.get("any_shape") for tensor in model.metadata.inputs)
    if request is None or model.is_stateful or is_guessed:
        return ""
    body = msgspec.json.encode(request)
    token = IS_INNER.set(True)
    try:
        await model.infer(json.decode_infer(body, name)[0])
    except JackfieldError as error:
        logger.debug("no example request for model '%s': %s", name, error)
        return ""
    finally:
        IS_INNER.reset(token)
    quoted = body.decode().replace("'", "'\\''")
    header = "-H 'content-type: application/json'"
    return f"curl {url}/v2/models/{name}/infer {header} \\\n    -d '{quoted}'"
