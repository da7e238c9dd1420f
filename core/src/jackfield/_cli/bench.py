"""``jackfield bench``: put a load on any server of the protocol, and print how it bears it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import platform
import signal
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from jackfield import __version__
from jackfield._cli.output import print_json, print_table
from jackfield._load import plot, report
from jackfield._load.session import Results, Settings, measure, prepare
from jackfield._load.worker import run_on_loop
from jackfield.errors import NoAnswerError

if TYPE_CHECKING:
    from pathlib import Path

    from jackfield._load.session import Row, Server
    from jackfield._load.tally import Tally

#: What a shell gives for a command that Ctrl-C ended.
_INTERRUPTED = 130


def bench_servers(
    settings: Settings, *, plot_to: Path | None, has_plot: bool, as_json: bool
) -> int:
    """Measure servers and print what was found.

    Args:
        settings: What is measured.
        plot_to: File of a plot.
        has_plot: Whether to draw a plot; on the terminal if there is no file.
        as_json: Whether to print JSON.

    Returns:
        0; 1 if no request was answered or answers differ, 2 if there is nothing to measure with,
        130 after Ctrl-C. Refusals of a server are raised.
    """
    if plot_to is not None and importlib.util.find_spec("matplotlib") is None:
        problem = 'a plot in a file needs matplotlib: pip install "jackfield[bench]"'
        click.echo(f"error: {problem}; --plot alone draws on the terminal", err=True)
        return 2
    try:
        results = _measure(settings, is_shown=sys.stderr.isatty() and not as_json)
    except NoAnswerError as error:
        click.echo(f"error: {error}", err=True)
        click.echo("is the server there? jackfield serve PATH starts one", err=True)
        return 1
    except (ImportError, ValueError) as error:
        click.echo(f"error: {error}", err=True)
        return 2
    if as_json:
        print_json({**_facts(settings), **report.as_value(results)})
    else:
        _print(results)
    if has_plot:
        lines = plot.series(results)
        if plot_to is not None:
            plot.draw_file(lines, plot_to, f"model '{settings.model}'")
            click.echo(f"plot: {plot_to}", err=True)
        elif not as_json:
            click.echo(f"\n{plot.draw_text(lines)}")
    return _exit_code(results)


def _exit_code(results: Results) -> int:
    if results.is_interrupted:
        return _INTERRUPTED
    tallies = [row.tally for row in results.rows]
    has_answers = any(tally.answered for tally in tallies)
    return 0 if has_answers and not any(tally.mismatches for tally in tallies) else 1


def _measure(settings: Settings, *, is_shown: bool) -> Results:
    servers = prepare(settings)
    found: list[Results] = []

    async def work() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            stop.set()
            # the next one ends it at once
            loop.remove_signal_handler(signal.SIGINT)

        # no thread but the main one has signals, nor has Windows' loop
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGINT, interrupt)
        with _Progress(settings, is_shown=is_shown) as progress:
            found.append(await measure(settings, servers, stop, progress))

    run_on_loop(work())
    return found[0]


class _Progress:
    """A line on the terminal of how the stage goes; nothing elsewhere."""

    def __init__(self, settings: Settings, *, is_shown: bool) -> None:
        self._settings = settings
        self._row: Row | None = None
        self._round = 0
        self._began_s = 0.0
        self._live = None
        if is_shown:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)

    def __enter__(self) -> _Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, row: Row, round_: int) -> None:
        """See a stage begin."""
        self._row, self._round, self._began_s = row, round_, time.monotonic()

    def progress(self, tally: Tally) -> None:
        """See what a stage measured so far."""
        if self._live is None or self._row is None:
            return
        settings = self._settings
        whole_s = settings.warm_up_s + settings.duration_s
        gone_s = time.monotonic() - self._began_s
        bar = "=" * min(int(gone_s / whole_s * 20), 20)
        where = f"{self._row.server.url}  " if len(settings.urls) > 1 else ""
        turn = f"round {self._round + 1}/{settings.rounds}  " if settings.rounds > 1 else ""
        seen = "warming up"
        if tally.measured_s:
            p99_ms = tally.latency.percentile(99) / 1e6
            throughput = f"{tally.throughput_per_s:,.0f} answers/s"
            seen = f"{throughput}  p99 {p99_ms:,.2f} ms  {tally.failed} errors"
        from rich.text import Text

        text = f"{where}{turn}{self._row.load}  [{bar:20}] {gone_s:.0f}/{whole_s:.0f} s  {seen}"
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)


# ---- output ----


def _print(results: Results) -> None:
    for server in results.servers:
        rows = [row for row in results.rows if row.server is server and row.rounds]
        name = " ".join(part for part in (server.metadata.name, server.metadata.version) if part)
        title = f"{server.url}" + (f" ({name})" if name else "")
        if not sys.stdout.isatty():
            click.echo(title)
        columns, cells = report.table(rows)
        print_table(columns, cells, title=title)
        for problem, count, example in report.failures(rows):
            click.echo(f"{problem}: {count:,} requests; the first: {example or 'no text'}")
        for row in rows:
            for remark in report.remarks(row):
                click.echo(f"{row.load}: {remark}")
        click.echo()
    for server in results.servers[1:]:
        _print_ratios(results, server)
    if results.is_interrupted:
        click.echo("interrupted: what was measured so far", err=True)


def _print_ratios(results: Results, server: Server) -> None:
    """Print what a server is beside the first."""
    compared = [(load, report.ratios(results, server, load)) for load in report.loads(results)]
    rows = [(str(load), *(str(ratio) for ratio in ratios)) for load, ratios in compared if ratios]
    title = f"{server.url} / {results.servers[0].url}: median (min-max) of the rounds"
    if not sys.stdout.isatty():
        click.echo(title)
    print_table(("load", "answers/s", "p50", "p99"), rows, title=title)


def _facts(settings: Settings) -> dict[str, object]:
    """Say what was run where."""
    return {
        "jackfield": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {
            "urls": list(settings.urls),
            "model": settings.model,
            "version": settings.version,
            "connections": list(settings.connections),
            "rates_per_s": list(settings.rates),
            "sweep": settings.is_sweep,
            "arrivals": settings.arrivals,
            "max_outstanding": settings.max_outstanding,
            "duration_s": settings.duration_s,
            "warm_up_s": settings.warm_up_s,
            "timeout_s": settings.timeout_s,
            "rounds": settings.rounds,
            "processes": settings.processes,
            "binary": settings.is_binary,
            "request": "file" if settings.request is not None else "metadata",
            "rows": settings.rows,
            "seed": settings.seed,
            "check": settings.is_checked,
        },
    }
