"""Curves over a feature's values: accumulated local effects, and partial dependence."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield_alibi._explain._pictures._page import (
    MOST_CLASSES,
    MOST_FEATURES,
    Note,
    Page,
    Plot,
    Section,
    Table,
    left_out,
    numbers,
    scalar,
    spell,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield_alibi._explain._explanation import Explanation
    from jackfield_alibi._explain._pictures._page import Block, Names, View

#: Most thin lines of single rows behind a curve, evenly chosen.
_MOST_LINES = 50
#: Most pairs of features that are drawn as a map.
_MOST_MAPS = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Curves:
    """The curves of one feature."""

    name: str
    #: [points]; names of categories, if the feature has some, are in `ticks`.
    x: NDArray[np.float64]
    #: [classes, points]; None where there are only single rows' lines.
    y: NDArray[np.float64] | None
    #: Of single rows: [classes, rows, points].
    lines: NDArray[np.float64] | None = None
    #: Where a tenth of the reference data ends, a fifth, ….
    deciles: Sequence[float] = ()
    #: Names of the points, for a feature of categories.
    ticks: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Map:
    """A value for each pair of two features' values."""

    names: tuple[str, str]
    x: Sequence[str]
    y: Sequence[str]
    #: [classes, x, y].
    values: NDArray[np.float64]


def ale_page(explanation: Explanation, view: View) -> Page:
    """Show how the output changes along each feature, against its average."""
    data = explanation.data
    names = view.with_names(None, data.get("target_names"))
    features = [str(each) for each in np.asarray(data["feature_names"]).reshape(-1)]
    deciles = data.get("feature_deciles") or [()] * len(features)
    curves = [
        Curves(
            name,
            numbers(data["feature_values"][place]).reshape(-1),
            numbers(data["ale_values"][place]).reshape(len(data["feature_values"][place]), -1).T,
            deciles=[float(each) for each in numbers(deciles[place]).reshape(-1)],
        )
        for place, name in enumerate(features)
    ]
    average = scalar(data.get("constant_value"))
    facts = [("features", f"{len(curves):,}")]
    if average is not None:
        facts.append(("average output", spell(average)))
    says = "output, above or below its average"
    section = Section("", [*_grid(curves, names, view, says, has_zero=True), _HOW_ALE])
    return Page("How each feature moves the output (ALE)", facts, [section])


_HOW_ALE = Note(
    "A curve shows how the output changes along the feature while what goes with it in the data "
    "stays. Marks below: tenths of the reference data; where there are few, the curve says little."
)
_HOW_PD = Note(
    "A curve shows the mean output over the reference data with the feature set to each value. "
    "Marks below: tenths of the reference data; where there are few, the curve says little."
)


def dependence_page(explanation: Explanation, view: View) -> Page:
    """Show the mean output along each feature, single rows behind it, and pairs as maps."""
    curves, maps, names = read_dependence(explanation, view)
    blocks: list[Block] = []
    if curves:
        blocks += [*_grid(curves, names, view, "output"), _HOW_PD]
        if any(each.lines is not None for each in curves):
            blocks.append(
                Note("Thin lines: single rows of the reference data, of the first curve.")
            )
    if maps:
        blocks += draw_maps(maps, names, view)
    facts = [("features", f"{len(curves):,}")] if curves else []
    if maps:
        facts.append(("pairs of features", f"{len(maps):,}"))
    return Page("How the output depends on each feature", facts, [Section("", blocks)])


def read_dependence(explanation: Explanation, view: View) -> tuple[list[Curves], list[Map], Names]:
    """Read partial dependence: curves of single features, maps of pairs."""
    data = explanation.data
    params = explanation.meta.get("params") or {}
    names = view.with_names(
        params.get("feature_names"), params.get("target_names"), params.get("categorical_names")
    )
    curves, maps = [], []
    for index, feature in enumerate(data["feature_names"]):
        given = data.get("pd_values")
        values = None if given is None or given[index] is None else numbers(given[index])
        grid = data["feature_values"][index]
        is_pair = isinstance(feature, list | tuple) or (
            isinstance(feature, np.ndarray) and feature.ndim > 0
        )
        if is_pair:
            if values is not None:
                first, second = (str(each) for each in feature)
                x, y = (_ticks(name, each, names) for name, each in zip(feature, grid, strict=True))
                maps.append(Map((first, second), x, y, values))
            continue
        ice = data.get("ice_values")
        lines = None if ice is None or ice[index] is None else numbers(ice[index])
        given_deciles = (data.get("feature_deciles") or [None] * (index + 1))[index]
        deciles = [] if given_deciles is None else numbers(given_deciles).reshape(-1).tolist()
        known = _categories_of(str(feature), names)
        curves.append(
            Curves(
                str(feature),
                np.arange(len(grid), dtype=float) if known else numbers(grid).reshape(-1),
                values,
                lines,
                [] if known else deciles,
                _ticks(feature, grid, names) if known else (),
            )
        )
    return curves, maps, names


def _categories_of(feature: str, names: Names) -> Sequence[str]:
    place = names.features.index(feature) if feature in names.features else -1
    return names.categories.get(place, ())


def _ticks(feature: object, grid: object, names: Names) -> list[str]:
    place = names.features.index(str(feature)) if str(feature) in names.features else -1
    return [names.value(place, each) for each in np.asarray(grid).reshape(-1).tolist()]


def _grid(
    curves: Sequence[Curves], names: Names, view: View, says: str, *, has_zero: bool = False
) -> list[Block]:
    """Give small drawings beside each other, with one scale, and the numbers behind them."""
    shown = curves[:MOST_FEATURES]
    count = max(
        len(each.y) if each.y is not None else len(each.lines) if each.lines is not None else 1
        for each in curves
    )
    classes = view.pick(count, 0)
    across = min(len(shown), 2 if len(shown) < 5 else 3)
    down = -(-len(shown) // across)
    has_legend = count > 1
    height = 0.25 + 0.3 * has_legend + (3.2 if across < 3 else 2.5) * down
    features = ", ".join(each.name for each in shown)
    paint = functools.partial(
        _paint_grid,
        shown,
        classes,
        [names.target(each, count) for each in classes],
        says,
        across,
        has_zero,
    )
    blocks: list[Block] = [Plot(paint, height, f"curves of {features}")]
    blocks += left_out(len(shown), len(curves), "features")
    blocks += left_out(len(classes), count, "classes")
    for each in shown:
        if each.y is None:
            continue
        ticks = each.ticks or [spell(value) for value in each.x.tolist()]
        rows = [
            (tick, *(spell(float(each.y[place, point])) for place in classes))
            for point, tick in enumerate(ticks)
        ]
        columns = (each.name, *(names.target(place, count) for place in classes))
        blocks.append(Table(columns, rows, f"all numbers: {each.name}", is_detail=True))
    return blocks


def _paint_grid(
    curves: Sequence[Curves],
    classes: Sequence[int],
    targets: Sequence[str],
    says: str,
    across: int,
    has_zero: bool,  # noqa: FBT001  bound by partial, with the rest
    figure: Any,  # noqa: ANN401  matplotlib has no types
) -> None:
    from jackfield_alibi._explain._pictures import _canvas as canvas

    down = -(-len(curves) // across)
    height = figure.get_figheight()
    top = 0.1 + 0.3 * (len(targets) > 1)
    each_height = (height - top) / down
    handles: list[Any] = []
    first = None
    for index, each in enumerate(curves):
        row, column = divmod(index, across)
        left, gap = 0.095, 0.045
        width = (1 - left - gap * (across - 1) - 0.02) / across
        place = (
            left + column * (width + gap),
            1 - (top + each_height * (row + 1) - 0.62) / height,
            width,
            (each_height - 0.8) / height,
        )
        axes = figure.add_axes(place, sharey=first)
        first = first or axes
        if has_zero:
            axes.axhline(0, color=canvas.FAINT, linewidth=0.8, zorder=0)
        for number, target in enumerate(classes):
            colour = canvas.CLASSES[number % len(canvas.CLASSES)]
            # those of several classes hide each other
            if each.lines is not None and target < len(each.lines) and not number:
                _paint_lines(axes, each.x, each.lines[target], colour)
            if each.y is not None and target < len(each.y):
                style = canvas.DASHES[number % len(canvas.DASHES)]
                mark = "o" if each.ticks or len(each.x) < 3 else ""
                drawn = axes.plot(
                    each.x,
                    each.y[target],
                    color=colour,
                    linestyle=style,
                    linewidth=2,
                    marker=mark,
                    markersize=4,
                )
            else:
                drawn = axes.plot([], [], color=colour)
            if not index:
                handles += drawn
        if len(each.deciles):
            # on the lower edge, as a rug
            axes.plot(
                each.deciles,
                [0.0] * len(each.deciles),
                "|",
                color=canvas.INK,
                markersize=8,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
            )
        canvas.tidy(axes, grid="y")
        if each.ticks:
            _name_ticks(axes, each, canvas)
        canvas.label(axes, x=canvas.plain(each.name, 40 if across < 3 else 26))
        if not column:
            canvas.label(axes, y=says)
        else:
            axes.tick_params(labelleft=False)
    if len(targets) > 1:
        names = [canvas.plain(target, 24) for target in targets]
        canvas.legend(
            figure,
            handles,
            names,
            loc="upper right",
            ncols=min(len(names), MOST_CLASSES),
            bbox_to_anchor=(0.99, 1.0),
            handlelength=2.6,
            columnspacing=1.4,
        )


def _name_ticks(axes: Any, curves: Curves, canvas: Any) -> None:  # noqa: ANN401
    step = -(-len(curves.ticks) // 8)
    names = [canvas.plain(each, 12) for each in curves.ticks[::step]]
    is_long = max(map(len, names)) > 6
    axes.set_xticks(
        curves.x[::step],
        names,
        fontsize=8,
        family=canvas.FONT,
        rotation=20 if is_long else 0,
        ha="right" if is_long else "center",
    )


def _paint_lines(axes: Any, x: Any, lines: Any, colour: str) -> None:  # noqa: ANN401
    chosen = np.unique(np.linspace(0, len(lines) - 1, min(len(lines), _MOST_LINES)).astype(int))
    for line in lines[chosen]:
        axes.plot(x, line, color=colour, linewidth=0.5, alpha=0.25)


def draw_maps(maps: Sequence[Map], names: Names, view: View) -> list[Block]:
    """Give a map for each pair, of one class."""
    count = len(maps[0].values)
    place = view.pick(count, 0)[0]
    target = names.target(place, count)
    shown = maps[:_MOST_MAPS]
    across = min(len(shown), 2)
    height = 3.1 * -(-len(shown) // across)
    pairs = ", ".join(" and ".join(each.names) for each in shown)
    paint = functools.partial(_paint_maps, shown, place, target, across)
    blocks: list[Block] = [Plot(paint, height, f"{target} by {pairs}")]
    blocks += left_out(len(shown), len(maps), "pairs of features")
    blocks += left_out(1, count, "classes of the pairs")
    for each in shown:
        rows = [
            (tick, *(spell(float(cell)) for cell in cells))
            for tick, cells in zip(each.x, each.values[place], strict=True)
        ]
        columns = (f"{each.names[0]} \\ {each.names[1]}", *each.y)
        caption = f"all numbers: {target} by {' and '.join(each.names)}"
        blocks.append(Table(columns, rows, caption, is_detail=True))
    return blocks


def _paint_maps(maps: Sequence[Map], place: int, target: str, across: int, figure: Any) -> None:  # noqa: ANN401
    from jackfield_alibi._explain._pictures import _canvas as canvas

    values = np.concatenate([each.values[place].reshape(-1) for each in maps])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    height = figure.get_figheight()
    drawn = None
    for index, each in enumerate(maps):
        row, column = divmod(index, across)
        bottom = 1 - (3.1 * (row + 1) - 0.55) / height
        axes = figure.add_axes((0.1 + 0.44 * column, bottom, 0.33, 2.15 / height))
        drawn = axes.imshow(
            each.values[place].T,
            origin="lower",
            aspect="auto",
            cmap=canvas.SCALE,
            vmin=low,
            vmax=high,
        )
        for axis, ticks in ((axes.xaxis, each.x), (axes.yaxis, each.y)):
            step = -(-len(ticks) // 5)
            axis.set_ticks(
                range(0, len(ticks), step), [canvas.plain(tick, 10) for tick in ticks[::step]]
            )
        canvas.tidy(axes)
        canvas.label(axes, canvas.plain(each.names[0]), canvas.plain(each.names[1], 26))
        if index == 0:
            canvas.title(axes, canvas.plain(target))
    left = 0.1 + 0.44 * across - 0.05
    bar = figure.add_axes((left, 1 - 2.55 / height, 0.014, 2.15 / height))
    figure.colorbar(drawn, cax=bar)
    canvas.tidy(bar)
    for spine in bar.spines.values():
        spine.set_visible(False)
