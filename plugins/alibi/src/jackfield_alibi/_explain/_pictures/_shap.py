"""SHAP values: a waterfall and a strip of forces for each row, a summary over many rows."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield_alibi._explain._pictures._page import (
    MOST_CLASSES,
    MOST_FEATURES,
    MOST_ROWS,
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

    from numpy.typing import NDArray

    from jackfield_alibi._explain._explanation import Explanation
    from jackfield_alibi._explain._pictures._page import Block, Names, View

#: Fewest rows that a summary says more about than the rows themselves.
_FEWEST_IN_SUMMARY = 2
_FEWEST_IN_SWARM = 10
#: Most rows of a swarm; evenly chosen.
_MOST_IN_SWARM = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Shap:
    """SHAP values, read out of an explanation."""

    #: [classes, rows, features], [classes] and [rows, features]; the last as objects.
    values: NDArray[np.float64]
    base: NDArray[np.float64]
    instances: NDArray[np.object_] | None
    #: Place of the predicted class of each row; 0 where there is but one output.
    predicted: Sequence[int]
    names: Names
    #: What the values add up to: ``model output``, ``log-odds``.
    unit: str

    def feature(self, row: int, place: int) -> str:
        """Name a feature with the row's value."""
        name = self.names.feature(place)
        if self.instances is None:
            return name
        return f"{name} = {self.names.value(place, self.instances[row, place])}"

    def target(self, place: int) -> str:
        """Name a class."""
        return self.names.target(place, len(self.values))


def read_shap(explanation: Explanation, view: View) -> Shap:
    """Read what Alibi's layout says."""
    data = explanation.data
    raw = data.get("raw") or {}
    given = data["shap_values"]
    columns = given if isinstance(given, list | tuple) else [given]
    values = np.stack([numbers(each) for each in columns])
    values = values.reshape(len(columns), -1, values.shape[-1])
    base = np.resize(numbers(data.get("expected_value", 0.0)).reshape(-1), len(values))
    instances = raw.get("instances")
    found = None if instances is None else np.asarray(instances, dtype=object)
    if found is not None:
        found = found.reshape(1, -1) if found.ndim == 1 else found
        if found.shape != values.shape[1:]:
            # groups of columns have no value
            found = None
    total = base[:, None] + values.sum(2)
    predicted = [int(place) for place in total.argmax(0)]
    known = np.asarray(raw.get("prediction") if raw.get("prediction") is not None else [])
    is_class = known.dtype.kind in "iu" and known.shape == (len(predicted),)
    if is_class and len(values) > 1 and ((known >= 0) & (known < len(values))).all():
        predicted = [int(place) for place in known]
    names = view.with_names(data.get("feature_names"), None, data.get("categorical_names"))
    return Shap(values, base, found, predicted, names, _unit(explanation))


def _unit(explanation: Explanation) -> str:
    params = explanation.meta.get("params") or {}
    if params.get("link") == "logit":
        return "log-odds"
    if params.get("model_output") == "log_loss":
        return "loss"
    if params.get("model_output") == "probability":
        return "probability"
    return "model output"


def shap_page(explanation: Explanation, view: View) -> Page:
    """Show each row, or the first ones, and a summary of several."""
    shap = read_shap(explanation, view)
    rows = shap.values.shape[1]
    sections = []
    if rows >= _FEWEST_IN_SUMMARY:
        sections.append(_summary(shap, view))
    most = MOST_ROWS if rows < _FEWEST_IN_SWARM or not view.is_brief else 1
    sections += [_row(shap, row, view) for row in range(min(rows, most))]
    sections.append(Section("", left_out(min(rows, most), rows, "rows")))
    facts = [("rows", f"{rows:,}"), ("features", f"{shap.values.shape[2]:,}")]
    if len(shap.values) > 1:
        facts.append(("classes", f"{len(shap.values):,}"))
    return Page("What moved the prediction (SHAP values)", facts, sections)


def _row(shap: Shap, row: int, view: View) -> Section:
    # a page of many rows is long already
    most = 3 if not view.is_brief and shap.values.shape[1] < _FEWEST_IN_SWARM else 1
    first = shap.predicted[row] if len(shap.values) > 1 else 0
    blocks: list[Block] = []
    classes = view.pick(len(shap.values), first, most if view.classes is None else MOST_CLASSES)
    for place in classes:
        values = shap.values[place, row]
        total = float(shap.base[place] + values.sum())
        says = (
            f"{shap.target(place)}: {shap.unit} {spell(total)} for this row, "
            f"{spell(shap.base[place])} on average"
        )
        if place == first and len(shap.values) > 1:
            says += "; the predicted class"
        blocks.append(Note(says))
        height = 1.15 + 0.32 * min(len(values), MOST_FEATURES + 1)
        blocks.append(Plot(functools.partial(_waterfall, shap, row, place), height, says))
        blocks.append(Plot(functools.partial(_forces, shap, row, place), 1.75, f"forces: {says}"))
        blocks.append(_numbers(shap, row, place))
    if len(classes) < len(shap.values):
        rest = len(shap.values) - len(classes)
        hint = "; the form html has more" if view.is_brief else ""
        blocks.append(
            Note(f"{rest:,} more {'class is' if rest == 1 else 'classes are'} not drawn{hint}")
        )
    return Section(f"row {row}" if shap.values.shape[1] > 1 else "", blocks)


def _numbers(shap: Shap, row: int, place: int) -> Table:
    values = shap.values[place, row]
    order = np.argsort(-np.abs(values), kind="stable")
    rows = [(shap.feature(row, int(at)), signed(float(values[at]))) for at in order]
    return Table(
        ("feature", "SHAP value"), rows, f"all numbers: {shap.target(place)}", is_detail=True
    )


def ordered(values: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """Give the places of the largest values, by size, and of the rest, which is summed up."""
    order = [int(at) for at in np.argsort(-np.abs(np.nan_to_num(values)), kind="stable")]
    # one alone needs no summing up
    most = MOST_FEATURES + 1 if len(order) <= MOST_FEATURES + 1 else MOST_FEATURES
    return order[:most], order[most:]


def _waterfall(shap: Shap, row: int, place: int, figure: Any) -> None:  # noqa: ANN401
    """Paint bars from the average, at the bottom, to this row's output, at the top."""
    from jackfield_alibi._explain._pictures import _canvas as canvas

    values = np.nan_to_num(shap.values[place, row])
    base = float(shap.base[place])
    shown, rest = ordered(values)
    bars = [(canvas.plain(shap.feature(row, at), 40), float(values[at])) for at in shown]
    if rest:
        bars.append((f"{len(rest):,} others", float(values[rest].sum())))
    axes = figure.add_axes(
        (0.34, 0.62 / figure.get_figheight(), 0.63, 1 - 1.0 / figure.get_figheight())
    )
    edges = [base]
    end = base
    for line, (_, value) in enumerate(reversed(bars)):
        y = len(bars) - 1 - line
        start, end = end, end + value
        edges.append(end)
        colour = canvas.RAISES if value >= 0 else canvas.LOWERS
        axes.barh(y, value, left=start, height=0.62, color=colour)
        if y:
            axes.plot([end, end], [y - 1 + 0.31, y - 0.31], color=canvas.FAINT, linewidth=0.8)
    low, high = min(edges), max(edges)
    room = (high - low) or 1.0
    end = base
    for line, (_, value) in enumerate(reversed(bars)):
        end += value
        shift = 0.01 * room if value >= 0 else -0.01 * room
        canvas.write(
            axes,
            end + shift,
            len(bars) - 1 - line,
            signed(value),
            va="center",
            ha="left" if value >= 0 else "right",
            fontsize=8.5,
            color=canvas.RAISES if value >= 0 else canvas.LOWERS,
            weight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )
    axes.axvline(base, color=canvas.FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.axvline(end, color=canvas.INK, linewidth=0.9, zorder=0)
    axes.set(xlim=(low - 0.16 * room, high + 0.16 * room), ylim=(len(bars) + 0.1, -0.6))
    canvas.names_at(axes, range(len(bars)), [name for name, _ in bars])
    canvas.tidy(axes)
    canvas.label(axes, x=f"{shap.unit}: {canvas.plain(shap.target(place))}")
    canvas.write(
        axes,
        end,
        -0.72,
        f"this row {spell(end)}",
        ha=_side(end, low, high),
        va="bottom",
        weight="bold",
    )
    below = axes.get_xaxis_transform()
    canvas.write(
        axes,
        base,
        0.01,
        f" average {spell(base)} ",
        ha="left" if base < (low + high) / 2 else "right",
        va="bottom",
        fontsize=8,
        color=canvas.FAINT,
        transform=below,
    )


def _side(x: float, low: float, high: float) -> str:
    """Align a text so that it stays within the axes."""
    at = (x - low) / ((high - low) or 1.0)
    return "left" if at < 0.15 else "right" if at > 0.85 else "center"


def _forces(shap: Shap, row: int, place: int, figure: Any) -> None:  # noqa: ANN401
    """Paint one strip: what raises on the left of the output, what lowers on its right."""
    from matplotlib.patches import Polygon

    from jackfield_alibi._explain._pictures import _canvas as canvas

    values = np.nan_to_num(shap.values[place, row])
    base = float(shap.base[place])
    end = base + float(values.sum())
    up, down = float(values[values > 0].sum()), float(-values[values < 0].sum())
    low, high = end - up, end + down
    room = (high - low) or 1.0
    axes = figure.add_axes((0.03, 0.02, 0.94, 0.78))
    axes.set(xlim=(min(low, base) - 0.02 * room, max(high, base) + 0.02 * room), ylim=(-3.6, 1.15))
    wide = axes.get_xlim()[1] - axes.get_xlim()[0]
    taken: list[list[tuple[float, float]]] = [[], [], []]
    order = [int(at) for at in np.argsort(-np.abs(values), kind="stable") if values[at]]
    left = right = end
    for at in order:
        size = abs(float(values[at]))
        # arrows point where the feature pushes
        tip = min(0.006 * wide, size / 2)
        if values[at] > 0:
            left, start, stop, colour = left - size, left - size, left, canvas.RAISES
            corners = [
                (start, 0),
                (stop - tip, 0),
                (stop, 0.3),
                (stop - tip, 0.6),
                (start, 0.6),
                (start + tip, 0.3),
            ]
        else:
            start, stop, colour = right, right + size, canvas.LOWERS
            right += size
            corners = [
                (start + tip, 0),
                (stop, 0),
                (stop - tip, 0.3),
                (stop, 0.6),
                (start + tip, 0.6),
                (start, 0.3),
            ]
        axes.add_patch(Polygon(corners, closed=True, facecolor=colour, edgecolor="white", lw=0.8))
        if size >= 0.015 * wide:
            middle = (start + stop) / 2
            _place(axes, taken, middle, canvas.plain(shap.feature(row, at), 30), colour, wide)
    for x, text, style in (
        (base, f"average {spell(base)}", {"color": canvas.FAINT}),
        (end, f"this row {spell(end)}", {"weight": "bold"}),
    ):
        axes.plot([x, x], [-0.1, 0.72], color=style.get("color", canvas.INK), linewidth=1.2)
        # below each other where they would meet
        y = 0.78 if x == end or abs(base - end) > 0.28 * wide else 1.5
        side = _side(x, *axes.get_xlim())
        canvas.write(axes, x, y, text, ha=side, va="bottom", fontsize=8.5, **style)
    axes.set_axis_off()
    canvas.write(
        figure,
        0.03,
        0.985,
        f"\N{BLACK RIGHT-POINTING TRIANGLE} raises {canvas.plain(shap.target(place))}",
        color=canvas.RAISES,
        va="top",
        fontsize=8.5,
    )
    canvas.write(
        figure,
        0.97,
        0.985,
        f"lowers {canvas.plain(shap.target(place))} \N{BLACK LEFT-POINTING TRIANGLE}",
        color=canvas.LOWERS,
        va="top",
        ha="right",
        fontsize=8.5,
    )


def _place(
    axes: Any,  # noqa: ANN401
    taken: list[list[tuple[float, float]]],
    middle: float,
    text: str,
    colour: str,
    wide: float,
) -> None:
    """Write below the strip, in the first line that has room; nowhere if none has."""
    from jackfield_alibi._explain._pictures import _canvas as canvas

    # a character's width, about, as a part of the axes
    half = 0.0088 * len(text) * wide / 2
    left, right = axes.get_xlim()
    centre = min(max(middle, left + half), right - half)
    for line, others in enumerate(taken):
        if all(centre + half < start or centre - half > stop for start, stop in others):
            others.append((centre - half, centre + half))
            y = -0.75 - 1.0 * line
            axes.plot([middle, centre], [-0.05, y + 0.1], color=colour, linewidth=0.7)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            canvas.write(
                axes, centre, y, text, ha="center", va="top", fontsize=8.5, color=colour, bbox=box
            )
            return


# ---- many rows ----


def _summary(shap: Shap, view: View) -> Section:
    rows = shap.values.shape[1]
    # the class that is predicted most often
    first = int(np.bincount(shap.predicted).argmax()) if len(shap.values) > 1 else 0
    classes = view.pick(len(shap.values), first)
    sizes = np.abs(shap.values).mean(1)
    shown, rest = ordered(sizes[list(classes)].sum(0))
    says = f"mean size of the SHAP values over {rows:,} rows"
    if len(classes) < len(shap.values):
        says += f", {len(classes)} of {len(shap.values)} classes"
    blocks: list[Block] = [
        Plot(
            functools.partial(_sizes, shap, classes, shown),
            1.1 + 0.3 * len(shown),
            f"bars: {says}",
        )
    ]
    if rest:
        blocks.append(Note(f"{len(rest):,} features with smaller values are not drawn"))
    if rows >= _FEWEST_IN_SWARM:
        for place in classes[: 1 if view.is_brief else 3]:
            height = 1.0 + 0.36 * len(shown)
            what = f"SHAP values of {shap.target(place)}, a dot for each row"
            blocks.append(Plot(functools.partial(_swarm, shap, place), height, what))
    columns = ("feature", *(shap.target(place) for place in classes))
    order = np.argsort(-sizes[list(classes)].sum(0), kind="stable")
    cells = [
        (shap.names.feature(int(at)), *(spell(float(sizes[place, at])) for place in classes))
        for at in order
    ]
    blocks.append(Table(columns, cells, f"all numbers: {says}", is_detail=True))
    return Section(f"all {rows:,} rows", blocks)


def _sizes(shap: Shap, classes: Sequence[int], shown: Sequence[int], figure: Any) -> None:  # noqa: ANN401
    from jackfield_alibi._explain._pictures import _canvas as canvas

    sizes = np.abs(np.nan_to_num(shap.values)).mean(1)
    height = figure.get_figheight()
    axes = figure.add_axes((0.34, 0.55 / height, 0.63, 1 - 0.95 / height))
    left = np.zeros(len(shown))
    handles = []
    for number, place in enumerate(classes):
        part = sizes[place, list(shown)]
        handles.append(
            axes.barh(
                range(len(shown)),
                part,
                left=left,
                height=0.62,
                color=canvas.CLASSES[number],
                edgecolor="white",
                linewidth=0.6,
            )
        )
        left += part
    for y, total in enumerate(left):
        canvas.write(axes, total, y, f" {spell(float(total))}", va="center", fontsize=8.5)
    axes.set(xlim=(0, (left.max() or 1.0) * 1.12), ylim=(len(shown) - 0.4, -0.6))
    canvas.names_at(axes, range(len(shown)), [canvas.plain(shap.names.feature(at)) for at in shown])
    canvas.tidy(axes)
    canvas.label(axes, x=f"mean |SHAP value| ({shap.unit})")
    if len(classes) > 1:
        names = [canvas.plain(shap.target(place), 24) for place in classes]
        canvas.legend(
            figure,
            handles,
            names,
            loc="upper right",
            ncols=min(len(names), 4),
            bbox_to_anchor=(0.99, 1.0),
            columnspacing=1.2,
            handlelength=1.2,
        )


def _swarm(shap: Shap, place: int, figure: Any) -> None:  # noqa: ANN401
    """Paint a dot for each row, coloured by the feature's value; dots that meet are piled up."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    from jackfield_alibi._explain._pictures import _canvas as canvas

    values = np.nan_to_num(shap.values[place])
    chosen = np.unique(
        np.linspace(0, len(values) - 1, min(len(values), _MOST_IN_SWARM)).astype(int)
    )
    values = values[chosen]
    shown, _ = ordered(np.abs(values).mean(0))
    height = figure.get_figheight()
    axes = figure.add_axes((0.34, 0.55 / height, 0.55, 1 - 0.9 / height))
    for y, at in enumerate(shown):
        x = values[:, at]
        colours: Any = canvas.FAINT
        if shap.instances is not None:
            colours = _ranks(numbers(shap.instances[chosen, at]))
        axes.scatter(
            x,
            y + _piles(x, values[:, shown]),
            c=colours,
            s=9,
            cmap=canvas.SCALE,
            vmin=0,
            vmax=1,
            linewidths=0,
        )
    axes.axvline(0, color=canvas.FAINT, linewidth=0.9, zorder=0)
    axes.set(ylim=(len(shown) - 0.4, -0.6))
    canvas.names_at(axes, range(len(shown)), [canvas.plain(shap.names.feature(at)) for at in shown])
    canvas.tidy(axes, grid="y")
    canvas.title(axes, f"{canvas.plain(shap.target(place))}: a dot for each row")
    canvas.label(axes, x=f"SHAP value ({shap.unit}); right of 0 it raises the output")
    if shap.instances is not None:
        bar = figure.add_axes((0.92, 0.55 / height, 0.014, 1 - 0.9 / height))
        figure.colorbar(ScalarMappable(Normalize(0, 1), canvas.SCALE), cax=bar, ticks=[0, 1])
        bar.set_yticks([0, 1], ["low", "high"], fontsize=8.5, family=canvas.FONT)
        bar.tick_params(length=0)
        bar.set_ylabel(
            "feature's value", fontsize=8.5, family=canvas.FONT, color=canvas.FAINT, labelpad=-12
        )
        for spine in bar.spines.values():
            spine.set_visible(False)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale values to 0..1 between their 5th and 95th percentile: one far out hides none."""
    if not np.isfinite(values).any():
        return np.full(values.shape, 0.5)
    low, high = np.nanpercentile(values[np.isfinite(values)], [5, 95])
    if low == high:
        low, high = np.nanmin(values), np.nanmax(values)
    scaled = (values - low) / ((high - low) or 1.0)
    ranks: NDArray[np.float64] = np.nan_to_num(scaled, nan=0.5, posinf=1.0, neginf=0.0)
    return ranks.clip(0.0, 1.0)


def _piles(x: NDArray[np.float64], everything: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift dots that lie at the same place: 0, 1, -1, 2, … steps, within the feature's line."""
    low, high = everything.min(), everything.max()
    cells = np.round((x - low) / ((high - low) or 1.0) * 120).astype(int)
    count = np.zeros(122, int)
    steps = np.empty(len(x), np.float64)
    for index, cell in enumerate(cells):
        number = count[cell]
        steps[index] = (number + 1) // 2 * (1 if number % 2 else -1)
        count[cell] += 1
    steps *= min(0.06, 0.4 / max(1.0, count.max() / 2))
    return steps
