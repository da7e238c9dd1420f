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
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from servers import REPORTED_PACKAGES, note


def add_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """Add the options that say where the results go; `output` is the Markdown file's default."""
    parser.add_argument("--output", type=Path, default=Path(output), metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement here")


def spread(values: Iterable[float], decimals: int = 2) -> str:
    """Write values as `median (min–max)`; one value stands alone, none is a dash."""
    known = sorted(values)
    if not known:
        return "–"
    median = f"{statistics.median(known):,.{decimals}f}"
    if len(known) == 1:
        return median
    return f"{median} ({known[0]:,.{decimals}f}–{known[-1]:,.{decimals}f})"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Draw a Markdown table: the columns of text to the left, those of numbers to the right."""
    cells = [list(columns), *map(list, rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    aligns = [_alignment([row[index] for row in cells[1:]]) for index in range(len(columns))]
    lines = [
        " | ".join(align(cell, width) for align, cell, width in zip(aligns, row, widths, strict=True))
        for row in cells
    ]
    rules = (
        "-" * (width - 1) + (":" if align is str.rjust else "-")
        for align, width in zip(aligns, widths, strict=True)
    )
    return "\n".join(f"| {line} |" for line in [lines[0], " | ".join(rules), *lines[1:]])


def _alignment(cells: list[str]) -> Callable[[str, int], str]:
    is_number = all(cell[:1].isdigit() or cell[:1] in "–-" for cell in cells)
    return str.rjust if is_number else str.ljust


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
