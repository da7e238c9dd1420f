"""Spreads, tables and facts: how the numbers of `run.py` and `start.py` are written down.

A table is Markdown with aligned columns, so that one text serves the terminal and the file.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from environments import note
from peers import REPORTED_PACKAGES


def add_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """Add the options that say where the results go; `output` is the Markdown file's default."""
    parser.add_argument("--output", type=Path, default=Path(output), metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement here")


def spread(values: Iterable[float], decimals: int = 2) -> str:
    """Write values as `median (min-max)`; one value stands alone."""
    ordered = sorted(values)
    low, median, high = (
        f"{value:,.{decimals}f}" for value in (ordered[0], statistics.median(ordered), ordered[-1])
    )
    return median if len(ordered) == 1 else f"{median} ({low}-{high})"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Draw a Markdown table: columns of text to the left, columns of numbers to the right."""
    aligned = (_align(*column) for column in zip(columns, *rows, strict=True))
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*aligned, strict=True))


def _align(heading: str, *cells: str) -> list[str]:
    width = max(map(len, (heading, *cells)))
    if all(cell[:1].isdigit() or cell.startswith("-") for cell in cells):
        return [cell.rjust(width) for cell in (heading, f"{'-' * (width - 1)}:", *cells)]
    return [cell.ljust(width) for cell in (heading, "-" * width, *cells)]


def failures_section(failures: dict[str, str]) -> list[str]:
    """Name the servers that could not be measured; nothing if there are none."""
    if not failures:
        return []
    return ["## Not measured", "\n".join(f"- **{name}** {text}" for name, text in failures.items())]


def machine_facts() -> dict[str, str]:
    """Say where and when this runs; call it before the load, which shows in the last fact."""
    usable = len(os.sched_getaffinity(0))
    return {
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Command": f"`python benchmarks/{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`",
        "CPU": f"{_cpu_model()}, {usable} cores",
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Load average before": f"{os.getloadavg()[0]:.2f}",
    }


def publish(
    title: str,
    sections: Sequence[str],
    *,
    facts: dict[str, str],
    versions: dict[str, dict[str, str]],
    raw: dict[str, object],
    arguments: argparse.Namespace,
) -> None:
    """Print the sections; write them as Markdown, and the raw measurements as JSON if asked."""
    text = "\n\n".join(sections)
    print(text)
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    for environment, installed in versions.items():
        shown = (f"{name} {installed[name]}" for name in REPORTED_PACKAGES if name in installed)
        lines.append(f"- Environment `{environment}`: {', '.join(shown)}")
    page = [f"# {title}", "\n".join(lines), text]
    arguments.output.write_text("\n\n".join(page) + "\n", encoding="utf-8")
    note(f"\nwritten to {arguments.output}")
    if arguments.json is not None:
        record = {"facts": facts, "versions": versions, **raw}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "unknown")
