"""Images with what an explanation says of their places: anchors, attributions, counterfactuals."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield_alibi._explain._pictures._anchors import name_class
from jackfield_alibi._explain._pictures._page import (
    Note,
    Page,
    Plot,
    Section,
    numbers,
    parts_of,
    percent,
    scalar,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield_alibi._explain._explanation import Explanation
    from jackfield_alibi._explain._pictures._page import Block, View

#: Inches of a row of images, at most, and of what is above and below them.
_TALL = 2.6
_TOP = 0.38
_BOTTOM = 0.3
#: Inches across, as `_canvas.WIDTH`.
_ACROSS = 8.4
#: Most pixels of a side that are painted; larger images are thinned out.
_MOST_PIXELS = 512


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """One image of a row of them."""

    title: str
    #: [height, width] or [height, width, 3] between 0 and 1.
    image: NDArray[np.float64]
    #: Places that are shown as they are; the others are dimmed. [height, width].
    kept: NDArray[np.bool_] | None = None
    #: Lays a colour over the image: above 0 it raises, below it lowers. [height, width].
    heat: NDArray[np.float64] | None = None
    #: Absolute value of the strongest colour.
    most: float = 1.0
    #: What colours above and below 0 mean.
    ends: tuple[str, str] = ("raises", "lowers")


def pictures(row: Sequence[Picture], says: str) -> Plot:
    """Give images beside each other."""
    _, side = _sizes(row)
    tall, wide = row[0].image.shape[:2]
    used = side * min(1.0, tall / wide)
    return Plot(functools.partial(_paint, row), _TOP + used + _BOTTOM, says)


def _sizes(row: Sequence[Picture]) -> tuple[float, float]:
    """Give the inches that each image has across, and those of its longer side."""
    has_heat = any(each.heat is not None for each in row)
    room = _ACROSS * (0.86 if has_heat else 0.96) / max(len(row), 2)
    return room, min(_TALL, room - 0.2)


def is_image(array: NDArray[Any]) -> bool:
    """Tell whether one instance looks like an image: [height, width] and perhaps some channels."""
    has_shape = array.ndim == 2 or (array.ndim == 3 and 1 in _channels(array))
    return has_shape and min(array.shape[:2]) >= 4 and array.dtype.kind in "biuf"


def _channels(array: NDArray[Any]) -> tuple[int, ...]:
    """Give 1 if either end of the shape is one of channels."""
    return tuple(int(array.shape[end] in (1, 3, 4)) for end in (2, 0))


def last_channels(array: NDArray[Any]) -> NDArray[np.float64]:
    """Put channels last: [height, width, channels]; the order of torch has them first."""
    found = numbers(array)
    if found.ndim == 2:
        return found[..., None]
    if found.shape[2] not in (1, 3, 4) and found.shape[0] in (1, 3, 4):
        return np.moveaxis(found, 0, -1)
    return found


def as_image(
    array: NDArray[Any], *, limits: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Scale an image to 0..1 as it is meant: bytes, shares, or whatever range it has."""
    found = np.nan_to_num(last_channels(array))
    low, high = limits or limits_of(found)
    scaled = np.clip((found - low) / ((high - low) or 1.0), 0.0, 1.0)
    return scaled[..., 0] if scaled.shape[2] == 1 else scaled[..., :3]


def limits_of(array: NDArray[np.float64]) -> tuple[float, float]:
    """Find what is black and what is white."""
    low, high = float(np.nanmin(array)), float(np.nanmax(array))
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low >= 0 and 16 < high <= 255:
        return 0.0, 255.0
    return low, high


def anchor_page(explanation: Explanation, view: View) -> Page:
    """Show each image beside the parts that hold its prediction."""
    parts, rest = parts_of(explanation)
    sections = []
    for heading, part in parts:
        data = part.data
        raw = data.get("raw") or {}
        instance = np.asarray(raw.get("instance", data.get("anchor")))
        segments = np.asarray(data.get("segments"))
        found = np.asarray(raw.get("feature", []), dtype=int).reshape(-1)
        image = as_image(instance)
        kept = np.isin(segments, found)
        prediction = name_class(raw.get("prediction"), view)
        count = len(np.unique(segments))
        share = float(kept.mean()) if kept.size else 0.0
        row = [Picture("the image", image)]
        if len(found):
            row.append(Picture("what holds the prediction", image, kept=kept))
            says = f"{len(found)} of {count} parts, {percent(share)} of the image, hold it"
        else:
            says = "no part is needed: it hardly ever changes, whatever is covered"
        blocks: list[Block] = [
            Note(f"{prediction}: {says}"),
            pictures(row, f"the image, and the parts that hold: {prediction}"),
        ]
        precision, coverage = scalar(data.get("precision")), scalar(data.get("coverage"))
        if len(found):
            held = f"With these parts in place, the prediction is the same in {percent(precision)}"
            how_often = f"they are in place in {percent(coverage)} of all cases"
            blocks.append(Note(f"{held} of cases; {how_often}."))
        else:
            blocks.append(Note(f"The prediction is the same in {percent(precision)} of cases."))
        sections.append(Section(heading, blocks))
    sections.append(Section("", rest))
    return Page("Which parts of the image hold the prediction (anchor)", [], sections)


def _paint(row: Sequence[Picture], figure: Any) -> None:  # noqa: ANN401  matplotlib has no types
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    from jackfield_alibi._explain._pictures import _canvas as canvas

    height, width = figure.get_figheight(), figure.get_figwidth()
    has_heat = any(each.heat is not None for each in row)
    room, side = _sizes(row)
    for index, each in enumerate(row):
        left = 0.018 + index * room / width
        axes = figure.add_axes(
            (left, 1 - (_TOP + side) / height, side / width, side / height), anchor="NW"
        )
        image = _thin(each.image)
        shown = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        if each.kept is not None:
            kept = _thin(each.kept)
            # towards a light grey, so that it is told from black and from white
            dimmed = 0.82 + 0.12 * (shown.mean(2, keepdims=True) - 0.5)
            shown = np.where(kept[..., None], shown, np.repeat(dimmed, 3, axis=2))
        if each.heat is not None:
            shown = 0.65 + 0.3 * np.repeat(shown.mean(2, keepdims=True), 3, axis=2)
        axes.imshow(shown, interpolation="nearest")
        if each.heat is not None:
            heat = _thin(each.heat)
            strength = np.clip(np.abs(heat) / (each.most or 1.0), 0, 1)
            axes.imshow(
                heat,
                cmap=_diverging(),
                vmin=-each.most,
                vmax=each.most,
                alpha=np.sqrt(strength),
                interpolation="nearest",
            )
        if each.kept is not None:
            _outline(axes, _thin(each.kept), canvas.RAISES)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_color(canvas.GRID)
        canvas.title(axes, canvas.plain(each.title, 36))
    if has_heat:
        most = max(each.most for each in row if each.heat is not None)
        raises, lowers = next(each.ends for each in row if each.heat is not None)
        tall = height - _TOP - _BOTTOM
        bar = figure.add_axes((0.895, _BOTTOM / height, 0.014, tall / height))
        figure.colorbar(ScalarMappable(Normalize(-most, most), _diverging()), cax=bar)
        canvas.tidy(bar)
        bar.set_title(raises, fontsize=8.5, family=canvas.FONT, color=canvas.RAISES)
        canvas.write(
            bar,
            0.5,
            -0.05,
            lowers,
            transform=bar.transAxes,
            ha="center",
            va="top",
            fontsize=8.5,
            color=canvas.LOWERS,
        )
        for spine in bar.spines.values():
            spine.set_visible(False)


def _diverging() -> Any:  # noqa: ANN401
    from matplotlib.colors import LinearSegmentedColormap

    from jackfield_alibi._explain._pictures import _canvas as canvas

    return LinearSegmentedColormap.from_list("", [canvas.LOWERS, "#f7f7f7", canvas.RAISES])


def _outline(axes: Any, kept: NDArray[np.bool_], colour: str) -> None:  # noqa: ANN401
    """Draw the border between what is kept and what is not, along the pixels' edges."""
    from matplotlib.collections import LineCollection

    padded = np.pad(kept.astype(np.int8), 1)
    lines = []
    # an edge above each pixel that differs from the one above, and to its left
    for y, x in np.argwhere(np.diff(padded, axis=0)):
        lines.append([(x - 1.5, y - 0.5), (x - 0.5, y - 0.5)])
    for y, x in np.argwhere(np.diff(padded, axis=1)):
        lines.append([(x - 0.5, y - 1.5), (x - 0.5, y - 0.5)])
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=1.8, clip_on=False))


def _thin(array: NDArray[Any]) -> NDArray[Any]:
    step = max(1, -(-max(array.shape[:2]) // _MOST_PIXELS))
    return array[::step, ::step]
