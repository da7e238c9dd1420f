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
from jackfield._cli.output import print_table
from jackfield._log import configure_logging
from jackfield._threads import count_workers
from jackfield.settings import resolve_server_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

    from jackfield._announcement import Announcement
    from jackfield._workers.messages import WorkerMemory
    from jackfield.server import Addresses, Server
    from jackfield.settings import Resolved

logger = logging.getLogger("jackfield")

#: How gRPC is to wait for its sockets, unless the operator says: in the thread that tells the event
#: loop, instead of an "event engine" with threads of its own, which costs each call one change of
#: threads more. See `docs/decisions/0039-grpc-without-its-event-engine.md`.
_GRPC_EXPERIMENTS = "-event_engine_listener"


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
    workers = count_workers(settings.workers)
    configure_logging(settings.log_level, settings.log_format)
    # read by gRPC when it is first used, here or in workers
    os.environ.setdefault("GRPC_EXPERIMENTS", _GRPC_EXPERIMENTS)
    for warning in resolved.warnings:
        logger.warning("%s", warning)
    serve = _serve_alone if workers == 1 else _supervise
    settings = msgspec.structs.replace(settings, workers=workers)
    resolved = msgspec.structs.replace(resolved, settings=settings)
    return serve(paths, name, resolved, dict(environ))


def _serve_alone(
    paths: Sequence[str], name: str, resolved: Resolved, environ: dict[str, str]
) -> int:
    """Serve in this process."""
    from jackfield._workers.event_loop import leave_stuck_threads, loop_factory
    from jackfield.server import Server

    server = Server(
        paths,
        settings=resolved.settings,
        name=name,
        plugins=allowed_plugins(environ),
        environ=environ,
    )
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_run(server, resolved))
    leave_stuck_threads()
    return 0


def _supervise(paths: Sequence[str], name: str, resolved: Resolved, environ: dict[str, str]) -> int:
    """Let workers serve; this process imports nothing that could bring it down."""
    from jackfield._workers.supervisor import Supervisor

    def announce(
        announcement: Announcement, memory: Sequence[WorkerMemory], pids: Sequence[int]
    ) -> None:
        _print(announcement, resolved, memory, pids)

    supervisor = Supervisor(
        paths,
        settings=resolved.settings,
        name=name,
        plugins=allowed_plugins(environ),
        environ=environ,
        announce=announce,
    )
    return asyncio.run(supervisor.run())


async def _run(server: Server, resolved: Resolved) -> None:
    from jackfield._announcement import announce

    stopped, hung_up = asyncio.Event(), asyncio.Event()
    _stop_on_signals(stopped, resolved.settings.drain_timeout_s)
    _set_on_hangup(hung_up)
    reloading: list[asyncio.Task[None]] = []

    async def started(addresses: Addresses) -> None:
        _print(await announce(server, addresses), resolved)
        reloading.append(asyncio.create_task(_reload_on_hangup(server, hung_up)))

    try:
        await server.run(stopped, started)
    finally:
        for task in reloading:
            task.cancel()
        await asyncio.gather(*reloading, return_exceptions=True)
    logger.info("stopped")


def _set_on_hangup(hung_up: asyncio.Event) -> None:
    """Set an event on SIGHUP, where there is such a signal."""
    if number := getattr(signal, "SIGHUP", None):
        loop = asyncio.get_running_loop()
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(hung_up.set))


async def _reload_on_hangup(server: Server, hung_up: asyncio.Event) -> None:
    """Load all models anew each time that the event is set."""
    while True:
        await hung_up.wait()
        hung_up.clear()  # once more, where the signal comes again meanwhile
        logger.info("reloading all models")
        failed = await server.reload()
        logger.info("reloaded all models%s", f"; failed: {failed}" if failed else "")


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


def _print(
    announcement: Announcement,
    resolved: Resolved,
    memory: Sequence[WorkerMemory] = (),
    pids: Sequence[int] = (),
) -> None:
    """Print what is served, where and by whom, and a request to try."""
    rows = [
        (line.model, line.version, line.runtime, line.state, line.url)
        for line in announcement.lines
    ]
    print_table(("model", "version", "runtime", "state", "url"), rows, title="jackfield")
    if pids:
        _print_workers(memory, pids)
    host_note = resolved.sources.get("host", "default: this machine only")
    click.echo(f"REST     {announcement.http}  ({resolved.settings.host}: {host_note})")
    click.echo(f"gRPC     {announcement.grpc}")
    click.echo(f"metrics  {announcement.metrics or 'off'}")
    if announcement.example:
        click.echo(f"\ntry:\n  {announcement.example}\n")
    sys.stdout.flush()


def _print_workers(memory: Sequence[WorkerMemory], pids: Sequence[int]) -> None:
    """Print the workers' memory: what they share is counted once by the proportional size."""
    sizes = {each.worker: each for each in memory if each.proportional_bytes}
    rows = []
    for number, pid in enumerate(pids, 1):
        size = sizes.get(number)
        shown = (
            (_megabytes(size.proportional_bytes), _megabytes(size.unique_bytes))
            if size
            else ("", "")
        )
        rows.append((str(number), str(pid), *shown))
    if sizes:
        proportional = sum(each.proportional_bytes for each in sizes.values())
        unique = sum(each.unique_bytes for each in sizes.values())
        rows.append(("all", "", _megabytes(proportional), _megabytes(unique)))
    print_table(("worker", "pid", "memory (PSS)", "of its own (USS)"), rows, title="workers")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
