"""``jackfield score``: apply a model to a table, with a bar on the terminal and a summary."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from jackfield._cli.environment import allowed_plugins, read_environment
from jackfield._cli.output import print_json, print_table
from jackfield._code import import_class
from jackfield._log import configure_logging
from jackfield._plugins import LOCAL_ENGINE, discover

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.progress import Progress as Bar

    from jackfield.score import ScoreEngine, ScoreProgress, ScoreSummary

#: What a shell gives for a command that Ctrl-C ended.
_INTERRUPTED = 130
#: More rows were rejected than may be.
_REJECTED = 3


def score_table(model: str, *, engine: str, as_json: bool, options: Mapping[str, Any]) -> int:
    """Score a table and print what came of it.

    Args:
        model: The model, as `jackfield.score.ScoreJob` takes it.
        engine: Name of the engine.
        as_json: Whether to print JSON.
        options: Fields of the job.

    Returns:
        0; 3 if too many rows were rejected, 130 after Ctrl-C. What else goes wrong is raised.
    """
    # says what to install where pyarrow is missing
    from jackfield.score import ScoreJob

    configure_logging("warning", "text")
    environ = read_environment()
    allowed = allowed_plugins(environ)
    parameters = {name: _value(text) for name, text in options["parameters"].items()}
    job = ScoreJob(
        model=model,
        environ=environ,
        plugins=None if allowed is None else tuple(allowed),
        **{**options, "parameters": parameters},
    )
    found = _engine(engine, allowed)
    try:
        with _Progress(is_shown=sys.stderr.isatty() and not as_json) as progress:
            summary = found.run(job, progress)
    except KeyboardInterrupt:
        # an engine without the attribute promises nothing
        is_kept = getattr(found, "resumes", False)
        rest = "goes on from here" if is_kept else "begins anew"
        click.echo(f"interrupted; the same command {rest}", err=True)
        return _INTERRUPTED
    if as_json:
        print_json({**msgspec.to_builtins(summary), "rows_per_second": summary.rows_per_second})
    else:
        _print(summary)
    if summary.rejected > job.max_rejects:
        allowed_text = f"{job.max_rejects:,} may be (--max-rejects)"
        click.echo(f"{summary.rejected:,} rows were rejected, {allowed_text}", err=True)
        return _REJECTED
    return 0


def _value(text: str) -> object:
    """Read a parameter: JSON, or plain text."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _engine(name: str, allowed: list[str] | None) -> ScoreEngine:
    from jackfield.score import LocalEngine, ScoreError

    if name == LOCAL_ENGINE:
        return LocalEngine()
    plugins = discover(allowed)
    spec = plugins.engines.get(name)
    if spec is None:
        raise ScoreError(plugins.missing_engine(name))
    engine: ScoreEngine = import_class(spec.engine)()
    return engine


class _Progress:
    """A bar on the terminal: rows, rows per second, time left; nothing elsewhere."""

    def __init__(self, *, is_shown: bool) -> None:
        self._bar: Bar | None = None
        self._resumed = 0
        if is_shown:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("rows"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("loading", total=None, rate="", note="")

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: ScoreProgress) -> None:
        """Show how far a run is."""
        if self._bar is None:
            return
        (task,) = self._bar.tasks
        if task.description == "loading":
            # what an earlier run did is no measure of this one's speed
            self._resumed = progress.rows
            self._bar.reset(self._task, completed=progress.rows)
        elapsed_s = task.elapsed or 0.0
        rate = (progress.rows - self._resumed) / elapsed_s if elapsed_s else 0.0
        total = progress.total
        if total is not None and progress.is_estimate:
            total = max(total, progress.rows)
        self._bar.update(
            self._task,
            description=progress.stage,
            completed=progress.rows,
            total=total,
            rate=f"{rate:,.0f} rows/s" if rate else "",
            note=f"{progress.rejected:,} rejected" if progress.rejected else "",
        )


def _print(summary: ScoreSummary) -> None:
    rows = [
        ("model", " ".join(part for part in (summary.model, summary.version) if part)),
        ("engine", summary.engine),
        ("rows", f"{summary.rows:,}"),
        ("scored", f"{summary.scored:,}"),
        ("rejected", f"{summary.rejected:,}"),
    ]
    if summary.resumed:
        rows.append(("done by an earlier run", f"{summary.resumed:,}"))
    rows += [
        ("seconds", f"{summary.seconds:.1f}"),
        ("rows per second", f"{summary.rows_per_second:,.0f}"),
        ("output", summary.output),
    ]
    if summary.rejects:
        rows.append(("rejects", summary.rejects))
    print_table(("score", ""), rows)
