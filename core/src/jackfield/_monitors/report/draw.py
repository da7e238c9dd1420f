"""Draw a report's pictures with matplotlib, which is imported here, when one is asked for.

Figures are made without pyplot, so that a server's threads share nothing; names of features are
shown as they are, never as formulas. Who tells no colours apart can read them: the palette is Okabe
and Ito's, lines have marks, and what was is filled where what is now has an outline.
"""

from __future__ import annotations

import io
import itertools
import math
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jackfield._monitors.report.data import (
    ALARMS,
    as_number,
    categories,
    count_features,
    feature_name,
    is_alarm,
    is_each,
    is_number,
    missing,
    number,
    present,
    ranked_features,
    state,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from numpy.typing import NDArray

    from jackfield._monitors.report.data import Feature, ReportData
    from jackfield._monitors.verdict import Verdict

#: Features whose distributions are drawn, and whose lines have a colour: those that differ most.
MOST_DRAWN, MOST_LINES = 12, 5
#: Verdicts that are drawn: the newest.
MOST_VERDICTS = 1000

_WIDTH_IN, _DPI = 11.0, 100
_COLUMNS, _CELL_IN = 4, 1.9
_BINS, _MOST_VALUES, _LONGEST_NAME = 24, 12, 26
#: Letters that fit beside each other below a feature; of more, some labels are left out.
_MOST_LETTERS = 36
#: Of more verdicts than these, each is a bar, and lines have no marks.
_DENSE = 60
_DAY_S = 24 * 60 * 60
#: More lines than these are one grey field.
_MOST_GREY = 200
#: What is smaller is drawn here: a p-value may be 0, which a logarithm has not.
_LEAST_P = 1e-10

_THEN, _NOW, _ALARM, _TINT = "#a9c6e0", "#12305c", "#c44601", "#fdeee4"
_QUIET, _TEXT = "#8a8f98", "#333333"
_LINES = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#000000")
_MARKS = ("o", "s", "^", "D", "v")


def draw_png(data: ReportData) -> bytes:
    """Draw the whole report as one PNG, 1,100 pixels wide.

    Raises:
        ImportError: matplotlib is not installed.
    """
    features = ranked_features(data)
    heights = [0.75, _history_height(data), _distributions_height(features)]
    figure = _figure(sum(heights))
    parts = figure.subfigures(3, 1, squeeze=False, height_ratios=heights)
    head, history, distributions = parts[:, 0]
    _draw_head(head, data)
    _draw_history(history, data, features)
    _draw_distributions(distributions, features, count_features(data))
    return _saved(figure, "png")


def draw_history(data: ReportData, features: Sequence[Feature]) -> bytes:
    """Draw what was said over time, as an SVG; `features` in the order of `ranked_features`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure(_history_height(data))
    _draw_history(figure, data, features)
    return _saved(figure, "svg")


def draw_distributions(data: ReportData, features: Sequence[Feature]) -> bytes:
    """Draw the first features, then and now, as an SVG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure(_distributions_height(features))
    _draw_distributions(figure, features, count_features(data))
    return _saved(figure, "svg")


def _figure(height_in: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI, layout="constrained")


def _saved(figure: Figure, form: Literal["png", "svg"]) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else None)
    return file.getvalue()


def _shown(text: str, longest: int = _LONGEST_NAME) -> str:
    """Make a name that a font can show: on one line, cut in the middle where it is long."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    text = "".join(
        each
        if font.get_char_index(ord(each)) and not unicodedata.category(each).startswith("C")
        else "\N{WHITE SQUARE}"
        for each in text
    )
    if len(text) <= longest:
        return text
    return f"{text[: longest - longest // 2 - 1]}…{text[len(text) - longest // 2 :]}"


def _draw_head(figure: FigureBase, data: ReportData) -> None:
    version = f" {data.version}" if data.version else ""
    title = f"Monitor '{data.monitor}' of the {data.watches} of '{data.model}{version}'"
    detector = f"{data.detector_class} " if data.detector_class else ""
    words = [f"detector: {detector}'{data.detector}'", data.window]
    words.append(f"drawn {datetime.fromtimestamp(data.made_s, UTC):%Y-%m-%d %H:%M:%S} UTC")
    below = _shown(data.problem, 140) or " · ".join(_shown(word, 70) for word in words if word)
    color = _ALARM if data.problem else _TEXT
    style: dict[str, Any] = {"va": "center", "parse_math": False}
    figure.text(0.01, 0.62, _shown(title, 80), size=14, weight="bold", **style)
    figure.text(0.01, 0.2, below, size=9, color=color, **style)
    figure.text(
        0.985,
        0.62,
        state(data).upper(),
        size=12,
        weight="bold",
        color="white",
        ha="right",
        va="center",
        bbox={"boxstyle": "round,pad=0.4", "color": _ALARM if is_alarm(data) else "#5a6270"},
    )


def _history_height(data: ReportData) -> float:
    return 0.85 + 2.3 * len(_measures(data)) if data.verdicts else 0.4


class _Measure(NamedTuple):
    """What is drawn over time: a row for each verdict, a column for each line."""

    label: str
    values: NDArray[np.float64]
    thresholds: Sequence[float]
    #: Whether there is a line for each feature.
    is_each: bool = False
    is_p: bool = False


def _measures(data: ReportData) -> list[_Measure]:
    verdicts = data.verdicts[-MOST_VERDICTS:]
    limits = [as_number(each.threshold) for each in verdicts]
    none = [math.nan] * len(limits)
    kind = verdicts[-1].kind
    if kind != "drift":
        shares = np.array([[100 * each.flagged_rows / (each.rows or 1)] for each in verdicts])
        scores = np.array([[as_number(each.score)] for each in verdicts])
        most = [100 * data.outlier_share or math.nan] * len(verdicts)
        found = [_Measure(f"{ALARMS[kind]}, % of rows", shares, most)]
        if not np.isnan(scores).all():
            found.append(_Measure("largest score", scores, limits))
        return found
    told = [each.features for each in verdicts]
    p_values = _stack([[as_number(each.p_value) for each in line] for line in told])
    distances = _stack([[as_number(each.distance) for each in line] for line in told])
    found, each = [], is_each(told[-1], count_features(data))
    if p_values.size:
        found.append(_Measure("p-value", np.maximum(p_values, _LEAST_P), limits, each, is_p=True))
    if distances.size:
        found.append(_Measure("distance", distances, none if p_values.size else limits, each))
    return found


def _stack(lines: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Make a table of them; NaN where one is not as wide as the newest (the model was reloaded).

    Empty if nothing is told at all.
    """
    table = np.full((len(lines), len(lines[-1])), np.nan)
    for row, line in zip(table, lines, strict=True):
        if len(line) == row.size:
            row[:] = line
    return table if not np.isnan(table).all() else np.empty((len(lines), 0))


def _draw_history(figure: FigureBase, data: ReportData, features: Sequence[Feature]) -> None:
    verdicts = data.verdicts[-MOST_VERDICTS:]
    if not verdicts:
        figure.text(0.01, 0.5, "no verdict yet: no window is full", color=_TEXT, va="center")
        return
    measures = _measures(data)
    ratios = [0.45, *[2.3] * len(measures)]
    rows = figure.subplots(1 + len(measures), 1, sharex=True, height_ratios=ratios, squeeze=False)
    # matplotlib counts days
    times = np.array([each.time_s for each in verdicts]) / _DAY_S
    strip = rows[0, 0]
    _draw_strip(strip, times, verdicts, data)
    named = next((each for each in measures if each.is_each), None)
    for axes, measure in zip(rows[1:, 0], measures, strict=True):
        names = [feature_name(data, place) for place in range(measure.values.shape[1])]
        order = [each.index for each in features] if measure.is_each else [0]
        _draw_measure(axes, times, measure, order, names if measure is named else [])
    _mark_time(rows[-1, 0], times)


def _draw_strip(
    axes: Axes, times: NDArray[np.float64], verdicts: Sequence[Verdict], data: ReportData
) -> None:
    is_flagged = np.array([each.is_positive for each in verdicts])
    well, flagged = times[~is_flagged], times[is_flagged]
    is_dense = len(times) > _DENSE
    if is_dense:
        axes.vlines(well, -0.3, 0.3, color=_QUIET, lw=0.8)
        axes.vlines(flagged, -1, 1, color=_ALARM, lw=0.8)
    else:
        axes.scatter(well, np.zeros(len(well)), 60, facecolors="none", edgecolors=_QUIET)
        axes.scatter(flagged, np.zeros(len(flagged)), 60, marker="X", color=_ALARM)
    axes.set_yticks([])
    axes.set_ylim(-1, 1)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    what = ALARMS[verdicts[-1].kind]
    cut = f", the newest of {len(data.verdicts):,}" if len(verdicts) < len(data.verdicts) else ""
    mark = "tall bar" if is_dense else "cross"
    title = f"Verdicts: {what} ({mark}) in {len(flagged):,} of {len(verdicts):,}{cut}"
    axes.set_title(title, loc="left", size=10)


def _draw_measure(
    axes: Axes,
    times: NDArray[np.float64],
    measure: _Measure,
    order: Sequence[int],
    names: Sequence[str],
) -> None:
    """Draw one value over time.

    Args:
        axes: Where.
        times: Of the verdicts.
        measure: What.
        order: The columns, those that get a colour first.
        names: Of the columns, for the legend; empty for none.
    """
    table = measure.values
    is_dense = len(times) > _DENSE
    colored = order[:MOST_LINES]
    others = [place for place in range(table.shape[1]) if place not in colored]
    for place in others[:_MOST_GREY]:
        axes.plot(times, table[:, place], color=_QUIET, alpha=0.35, lw=0.8, zorder=1)
    for place, color, mark in zip(colored, _LINES, _MARKS, strict=False):
        axes.plot(
            times,
            table[:, place],
            color=color,
            marker=None if is_dense else mark,
            markersize=4,
            lw=1.0 if is_dense else 1.5,
            zorder=3,
            label=_shown(names[place]) if names else None,
        )
    if others and names:
        axes.plot(
            [],
            [],
            color=_QUIET,
            alpha=0.6,
            lw=0.8,
            label=f"{len(others):,} other{'s' * (len(others) > 1)}",
        )
    if not all(math.isnan(each) for each in measure.thresholds):
        side = "below" if measure.is_p else "above"
        name = f"threshold {measure.thresholds[-1]:.3g} (alarm {side})"
        axes.plot(times, measure.thresholds, "--", color="black", lw=1.2, zorder=2, label=name)
        if len(times) == 1:
            axes.axhline(measure.thresholds[-1], ls="--", color="black", lw=1.2, zorder=2)
    if measure.is_p:
        axes.set_yscale("log")
        least = float(np.nanmin(table))
        axes.set_ylim(min(least, 1e-3) / 3, 2)
        if least <= _LEAST_P:
            note = f"p-values below {_LEAST_P:g} are drawn there"
            axes.text(0.005, 0.02, note, transform=axes.transAxes, size=7.5, color=_TEXT)
    else:
        axes.set_ylim(bottom=min(0.0, float(np.nanmin(table))))
    axes.set_ylabel(measure.label)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        legend = axes.legend(
            loc="upper left", bbox_to_anchor=(1.005, 1.02), frameon=False, fontsize=8
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _mark_time(axes: Axes, times: NDArray[np.float64]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=9)  # type: ignore[no-untyped-call]
    # each label by itself: an hour with its minutes, and not the seconds alone
    forms = ["%Y", "%b", "%d", "%H:%M", "%H:%M", "%H:%M:%S"]
    zeros = ["", "%Y", "%b", "%b %d", "%H:%M", "%H:%M:%S"]
    offsets = ["", "%Y", "%Y-%b", *["%Y-%b-%d"] * 3]
    formatter = ConciseDateFormatter(  # type: ignore[no-untyped-call]
        locator, tz=UTC, formats=forms, zero_formats=zeros, offset_formats=offsets
    )
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(formatter)
    axes.set_xlabel("time (UTC)")
    if times[0] == times[-1]:  # else years around it
        axes.set_xlim(times[0] - 60 / _DAY_S, times[0] + 60 / _DAY_S)


def _distributions_height(features: Sequence[Feature]) -> float:
    rows = -(-min(len(features), MOST_DRAWN) // _COLUMNS)
    return 0.7 + _CELL_IN * rows


def _draw_distributions(figure: FigureBase, features: Sequence[Feature], total: int) -> None:
    from matplotlib.patches import Patch

    drawn = features[:MOST_DRAWN]
    if not drawn:
        figure.text(0.01, 0.5, "no rows were seen yet", color=_TEXT, va="center")
        return
    first = drawn[0]
    handles, names = [], []
    if first.then.size:
        handles.append(Patch(facecolor=_THEN))
        names.append(f"then: {len(first.then):,} rows of reference")
    if first.now.size:
        handles.append(Patch(facecolor="none", edgecolor=_NOW, lw=1.6))
        names.append(f"now: the newest {len(first.now):,} rows")
    what = "then and now" if len(names) == 2 else "now; no rows of reference are known"
    if not first.now.size:
        what = "then; no rows came yet"
    if total > len(drawn):
        what += f": the {len(drawn)} of {total:,} features that differ most"
    figure.suptitle(f"Distributions {what}\n", x=0.01, ha="left", size=10)
    figure.legend(handles, names, loc="upper right", ncols=2, frameon=False, fontsize=8)
    rows = -(-len(drawn) // _COLUMNS)
    cells = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes, feature in zip(cells.flat, drawn, strict=False):
        _draw_feature(axes, feature)
    for axes in cells.flat[len(drawn) :]:
        axes.set_axis_off()
    for row in cells:
        row[0].set_ylabel("% of rows", size=8)


def _draw_feature(axes: Axes, feature: Feature) -> None:
    then, now = present(feature.then), present(feature.now)
    values = categories(feature, _MOST_VALUES)
    if values:
        heights = [_shares(part, values) for part in (then, now)]
        places = np.arange(len(values))
        axes.bar(places, heights[0], 0.8, color=_THEN)
        axes.bar(places, heights[1], 0.5, facecolor="none", edgecolor=_NOW, linewidth=1.6)
        labels = [_shown(f"{each:.3g}" if isinstance(each, float) else each, 8) for each in values]
        widest = max((len(a + b) / 2 for a, b in itertools.pairwise(labels)), default=0)
        step = math.ceil(len(labels) * widest / _MOST_LETTERS) or 1
        axes.set_xticks(places[::step], labels[::step], parse_math=False)
    elif then.size or now.size:
        edges = _edges(then, now)
        for part, fill in ((then, True), (now, False)):
            if part.size:
                color = _THEN if fill else _NOW
                axes.stairs(_percent(part, edges), edges, fill=fill, color=color, lw=1.6)
        axes.locator_params(axis="x", nbins=4)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=4)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    name, facts = _shown(feature.name), _facts(feature)
    axes.set_title(name, loc="left", size=9, weight="bold", pad=14, parse_math=False)
    color = _ALARM if feature.is_flagged else _TEXT
    if feature.is_flagged:
        axes.set_facecolor(_TINT)
    axes.text(0, 1.03, facts, transform=axes.transAxes, size=7.5, color=color, va="bottom")


def _facts(feature: Feature) -> str:
    words = ["\N{MULTIPLICATION X} drift"] if feature.is_flagged else []
    if not math.isnan(feature.p_value):
        words.append(f"p {number(feature.p_value)}")
    if not math.isnan(feature.distance):
        words.append(f"distance {number(feature.distance)}")
    elif not math.isnan(feature.gap):
        words.append(f"CDFs differ by {number(feature.gap)}")
    if missing(feature.now) > 0:
        words.append(f"{missing(feature.now):.0%} missing")
    return " · ".join(words)


def _edges(then: NDArray[np.float64], now: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the bins' edges; a few rows far away don't make all others one bin."""
    parts = [np.quantile(part, [0.005, 0.995]) for part in (then, now) if part.size]
    low, high = min(part[0] for part in parts), max(part[1] for part in parts)
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _BINS + 1)


def _percent(part: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count rows in bins; what lies outside is in the outermost ones."""
    counts, _ = np.histogram(np.clip(part, edges[0], edges[-1]), edges)
    return 100 * counts / part.size


def _shares(part: NDArray[np.float64], values: Sequence[object]) -> list[float]:
    if not part.size:
        return [0.0] * len(values)
    if not is_number(part):
        part = part.astype(str)
    return [100 * float(np.mean(part == each)) for each in values]
