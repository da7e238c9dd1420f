"""Draw latency by throughput: as text for a terminal, or into a file by matplotlib."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jackfield._load.session import Results

#: Drawn percentiles, and how: the mark of a terminal.
_DRAWN = ((50.0, "."), (99.0, "o"), (99.9, "^"))
#: One letter for each server, where there are several.
_LETTERS = "abcdefghij"


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot."""

    label: str
    mark: str
    #: Throughput in answers per second, latency in milliseconds.
    points: Sequence[tuple[float, float]]


def series(results: Results) -> list[Series]:
    """Give the lines: each percentile of each server and kind of loop."""
    found = []
    for number, server in enumerate(results.servers):
        for percent, mark in _DRAWN:
            points = sorted(
                (row.tally.throughput_per_s, row.tally.latency.percentile(percent) / 1e6)
                for row in results.rows
                if row.server is server and row.tally.latency.count
            )
            label = f"p{percent:g}"
            if len(results.servers) > 1:
                # marks would be too many to tell apart
                mark = _LETTERS[number % len(_LETTERS)]
                label = f"{label} {server.url}"
                mark = mark.upper() if percent > 50 else mark
            if points and not (len(results.servers) > 1 and percent > 99):
                found.append(Series(label, mark, points))
    return found


def draw_text(lines: Sequence[Series], *, width: int = 72, height: int = 18) -> str:
    """Draw lines with marks on a grid of characters, latency on a logarithmic scale.

    Args:
        lines: What to draw.
        width: Of the grid, in characters.
        height: The same.

    Returns:
        The drawing and its legend; empty where there is nothing to draw.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    right = max(x for x, _ in points) * 1.02 or 1.0
    low = math.log10(max(min(y for _, y in points), 1e-3)) - 0.05
    high = math.log10(max(max(y for _, y in points), 1e-3)) + 0.05
    grid = [[" "] * width for _ in range(height)]
    for line in lines:
        for x, y in line.points:
            column = min(int(x / right * width), width - 1)
            up = (math.log10(max(y, 1e-3)) - low) / (high - low)
            grid[height - 1 - min(int(up * height), height - 1)][column] = line.mark
    rows = []
    for index, cells in enumerate(grid):
        at = 10 ** (high - (high - low) * (index + 0.5) / height)
        label = f"{at:>9,.2f}" if index % 4 == 0 or index == height - 1 else " " * 9
        rows.append(f"{label} |{''.join(cells).rstrip()}")
    axis = f"{' ' * 9} +{'-' * width}"
    left, end = "0", f"{right:,.0f} answers/s"
    legend = "   ".join(f"{line.mark} {line.label}" for line in lines)
    feet = f"{' ' * 11}{left}{end.rjust(width - len(left))}"
    return "\n".join(["latency, ms", *rows, axis, feet, f"{' ' * 11}{legend}"])


def draw_file(lines: Sequence[Series], path: Path, title: str) -> None:
    """Draw lines into a file of the kind that its name tells: PNG, SVG, PDF.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: The file can't be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        xs, ys = zip(*line.points, strict=True)
        axes.plot(xs, ys, marker="o", label=line.label)
    axes.set(xlabel="answers per second", ylabel="latency, ms", yscale="log", title=title)
    axes.set_xlim(left=0)
    axes.grid(visible=True, which="both", alpha=0.3)
    if lines:
        axes.legend()
    figure.savefig(path)
