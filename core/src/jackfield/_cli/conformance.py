"""``jackfield conformance``: check any server of the protocol, and print what was found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from jackfield._cli.output import print_json, print_table
from jackfield.testing.conformance import CHECKS, ConformanceError, Level, Outcome, Report, run

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from jackfield.testing.conformance import Result

_COLOURS = {Outcome.PASSED: "green", Outcome.FAILED: "red", Outcome.SKIPPED: "yellow"}


def list_checks() -> None:
    """Print every check there is."""
    print_table(
        ("check", "requirement", "source"),
        [(check.id, check.requirement, check.source) for check in CHECKS],
    )


def check_server(
    url: str,
    *,
    grpc: str,
    model: str,
    version: str,
    levels: Collection[Level],
    headers: Mapping[str, str],
    request: Path | None,
    allow_unload: bool,
    timeout_s: float,
    as_json: bool,
    verbose: bool,
) -> int:
    """Check a server and print the report.

    Returns:
        0 if no check failed, 1 if one did, 2 if nothing answers.
    """
    example: dict[str, Any] | None = None
    if request is not None:
        example = msgspec.json.decode(request.read_bytes(), type=dict[str, Any])
    is_shown = sys.stderr.isatty() and not as_json
    try:
        report = run(
            url,
            grpc,
            model=model,
            version=version,
            levels=levels,
            allow_unload=allow_unload,
            example=example,
            headers=headers,
            timeout_s=timeout_s,
            made=_show_progress if is_shown else lambda _: None,
        )
    except (ConformanceError, ValueError) as error:
        click.echo(f"error: {error}", err=True)
        return 2
    if is_shown:
        click.echo("\r\033[K", nl=False, err=True)
    if as_json:
        print_json({**msgspec.to_builtins(report), "counts": report.counts()})
    else:
        _print(report, verbose=verbose)
    return 0 if report.conforms else 1


def _show_progress(result: Result) -> None:
    click.echo(f"\r\033[K{result.id}", nl=False, err=True)


def _print(report: Report, *, verbose: bool) -> None:
    """Print the failures, then what was skipped and why, then the counts of each level."""
    outcomes = (*([Outcome.PASSED] if verbose else []), Outcome.SKIPPED, Outcome.FAILED)
    for outcome in outcomes:
        results = report.of(outcome)
        if not results:
            continue
        click.echo(click.style(f"{outcome} ({len(results)})", fg=_COLOURS[outcome], bold=True))
        if outcome is Outcome.SKIPPED and not verbose:
            for reason, ids in _by_reason(results).items():
                more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
                click.echo(f"  {reason}\n    {ids[0]}{more}")
        else:
            for result in results:
                click.echo(f"  {result.id}\n    {result.requirement}")
                if result.detail:
                    click.echo(f"    {result.detail}")
        click.echo()
    server = report.server or "a server without a name"
    print_table(
        ("level", *Outcome),
        [(level, *map(str, count.values())) for level, count in report.counts().items()],
        title=f"{server}, model '{report.model}'",
    )


def _by_reason(results: Collection[Result]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for result in results:
        reasons.setdefault(result.detail, []).append(result.id)
    return reasons
