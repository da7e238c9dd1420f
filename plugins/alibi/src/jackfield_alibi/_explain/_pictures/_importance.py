"""Bars of whole features: permutation importance, and the variance of partial dependence."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield_alibi._explain._pictures._curves import dependence_page, draw_maps, read_dependence
from jackfield_alibi._explain._pictures._page import (
    Note,
    Page,
    Plot,
    Section,
    Table,
    left_out,
    numbers,
    signed,
    spell,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jackfield_alibi._explain._explanation import Explanation
    from jackfield_alibi._explain._pictures._page import Block, View

#: Most features of a plot of bars: they need little room.
_MOST_BARS = 20
_MOST_METRICS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Bars:
    """One plot of bars."""

    names: Sequence[str]
    values: Sequence[float]
    #: Standard deviations; NaN where there is none.
    spreads: Sequence[float]
    says: str
    #: Where bars begin: 0 for differences, 1 for ratios.
    zero: float = 0.0
    title: str = ""
    is_signed: bool = False


def bars(given: Bars, most: int = _MOST_BARS) -> list[Block]:
    """Give bars in order of size, and the numbers behind them."""
    # one alone is drawn, rather than said to be missing
    most += len(given.names) == most + 1
    order = np.argsort(-np.abs(np.nan_to_num(np.array(given.values)) - given.zero), kind="stable")
    kept = [int(each) for each in order]
    shown = dataclasses.replace(
        given,
        names=[given.names[each] for each in kept[:most]],
        values=[given.values[each] for each in kept[:most]],
        spreads=[given.spreads[each] for each in kept[:most]],
    )
    says = f"{given.title or given.says}: {', '.join(shown.names)}"
    write = signed if given.is_signed else spell
    rows = [
        (given.names[each], write(given.values[each]), spell(given.spreads[each])) for each in kept
    ]
    has_spread = bool(np.isfinite(given.spreads).any())
    columns = ("feature", given.says, "standard deviation")[: 3 if has_spread else 2]
    cells = [row[: len(columns)] for row in rows]
    return [
        Plot(functools.partial(_paint, shown), 1.0 + 0.3 * len(shown.names), says),
        *left_out(len(shown.names), len(given.names), "features"),
        Table(columns, cells, f"all numbers: {given.title or given.says}", is_detail=True),
    ]


def _paint(given: Bars, figure: Any) -> None:  # noqa: ANN401  matplotlib has no types
    from jackfield_alibi._explain._pictures import _canvas as canvas

    height = figure.get_figheight()
    values = np.nan_to_num(np.array(given.values, float), nan=given.zero)
    spreads = np.nan_to_num(np.array(given.spreads, float))
    axes = figure.add_axes((0.34, 0.55 / height, 0.62, 1 - 0.9 / height))
    lines = np.arange(len(values))
    colours: Any = canvas.LOWERS
    if given.is_signed:
        colours = [canvas.RAISES if value >= 0 else canvas.LOWERS for value in values]
    axes.barh(lines, values - given.zero, left=given.zero, height=0.6, color=colours)
    if spreads.any():
        axes.errorbar(
            values, lines, xerr=spreads, fmt="none", ecolor=canvas.INK, elinewidth=1, capsize=3
        )
    low = min(given.zero, float((values - spreads).min()))
    high = max(given.zero, float((values + spreads).max()))
    room = (high - low) or 1.0
    for line, (value, spread) in enumerate(zip(values, spreads, strict=True)):
        is_left = value < given.zero
        x = value - spread if is_left else value + spread
        canvas.write(
            axes,
            x + (-0.01 if is_left else 0.01) * room,
            line,
            signed(value) if given.is_signed else spell(float(value)),
            va="center",
            ha="right" if is_left else "left",
            fontsize=8.5,
        )
    axes.axvline(given.zero, color=canvas.FAINT, linewidth=0.9)
    left = low - 0.12 * room if low < given.zero else low
    axes.set(xlim=(left, high + 0.12 * room), ylim=(len(values) - 0.4, -0.6))
    canvas.names_at(axes, lines, [canvas.plain(name, 40) for name in given.names])
    canvas.tidy(axes)
    canvas.label(axes, x=given.says)
    if given.title:
        canvas.title(axes, canvas.plain(given.title, 60))


def permutation_page(explanation: Explanation, view: View) -> Page:
    """Show how much worse the model gets without each feature, by each metric."""
    data = explanation.data
    params = explanation.meta.get("params") or {}
    is_ratio = params.get("kind") == "ratio"
    says = f"how much worse with the feature shuffled ({'ratio' if is_ratio else 'difference'})"
    features = [str(each) for each in data["feature_names"]]
    metrics = [str(each) for each in data["metric_names"]]
    blocks: list[Block] = []
    for metric, found in list(zip(metrics, data["feature_importance"], strict=True))[
        :_MOST_METRICS
    ]:
        values = [_mean(each) for each in found]
        spreads = [_spread(each) for each in found]
        title = f"metric: {metric}" if metric else ""
        blocks += bars(Bars(features, values, spreads, says, float(is_ratio), title))
    blocks += left_out(min(len(metrics), _MOST_METRICS), len(metrics), "metrics")
    if params.get("n_repeats") and params.get("method") != "exact":
        repeats = params["n_repeats"]
        blocks.append(Note(f"Lines on the bars: standard deviation over {repeats} shuffles."))
    facts = [("features", f"{len(features):,}")]
    return Page("How much the model needs each feature", facts, [Section("", blocks)])


def _mean(value: Any) -> float:  # noqa: ANN401  a number, or a mapping of some
    found = value.get("mean") if isinstance(value, Mapping) else value
    return float(numbers(found).reshape(-1)[0])


def _spread(value: Any) -> float:  # noqa: ANN401
    found = value.get("std") if isinstance(value, Mapping) else None
    return float("nan") if found is None else float(numbers(found).reshape(-1)[0])


def variance_page(explanation: Explanation, view: View) -> Page:
    """Show how much the output varies along each feature, or how much pairs act together."""
    data = explanation.data
    is_pair = data.get("feature_interaction") is not None
    curves, maps, names = read_dependence(explanation, view)
    values = numbers(data["feature_interaction" if is_pair else "feature_importance"])
    values = values.reshape(-1, values.shape[-1])
    features = [
        " and ".join(map(str, each)) if isinstance(each, list | tuple | np.ndarray) else str(each)
        for each in data["feature_names"]
    ]
    what = "how far the output moves along the feature (spread of its partial dependence)"
    if is_pair:
        what = "how far one feature's importance moves along the other"
    blocks: list[Block] = []
    classes = view.pick(len(values), 0, 1 if view.is_brief else 3)
    for place in classes:
        title = names.target(place, len(values))
        spreads = [float("nan")] * len(features)
        blocks += bars(Bars(features, values[place].tolist(), spreads, what, title=title))
    blocks += left_out(len(classes), len(values), "classes")
    sections = [Section("", blocks)]
    if maps and is_pair:
        sections.append(Section("pairs", draw_maps(maps, names, view)))
    elif curves and not view.is_brief:
        sections += [
            Section("curves", each.blocks) for each in dependence_page(explanation, view).sections
        ]
    title = "Which pairs of features act together" if is_pair else "How much each feature matters"
    facts = [("pairs of features" if is_pair else "features", f"{len(features):,}")]
    return Page(title, facts, sections)
