"""Figures, colours and text that all plots share; imports matplotlib, by its objects alone."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jackfield_alibi._explain._pictures._page import LONGEST_NAME, short

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jackfield_alibi._explain._pictures._page import Plot

#: Inches and dots per inch of every plot: 1008 pixels, sharp at 840 on a page.
WIDTH = 8.4
DPI = 120
#: matplotlib brings it along: the same on every machine.
FONT = "DejaVu Sans"
MONO = "DejaVu Sans Mono"

# Okabe and Ito's colours, which people tell apart whatever colours they see
RAISES = "#D55E00"
LOWERS = "#0072B2"
CLASSES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
#: Lines differ in more than colour.
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
INK = "#1f2328"
FAINT = "#6e7781"
GRID = "#d8dee4"
#: Low to high, dark to bright.
SCALE = "cividis"


def paint(plot: Plot) -> NDArray[np.uint8]:
    """Paint a plot: [height, width, 4] of red, green, blue and opacity."""
    figure = Figure(figsize=(WIDTH, plot.height), dpi=DPI, facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)
    plot.paint(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels as a PNG; without opacity, for nothing is behind it."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., :3])).save(file, "PNG")
    return file.getvalue()


def plain(text: object, most: int = LONGEST_NAME, *, font: str = FONT) -> str:
    """Make a text safe to paint: one line, no formulas, and no characters that the font lacks."""
    known = _known(font)
    cleaned = "".join(c if ord(c) in known else "\N{WHITE SQUARE}" for c in short(str(text), most))
    # matplotlib takes what is between two of them for a formula
    return cleaned.replace("$", r"\$")


@functools.cache
def _known(font: str) -> frozenset[int]:
    path = font_manager.findfont(font_manager.FontProperties(family=[font]))
    return frozenset(font_manager.get_font(path).get_charmap())


def write(axes: Any, x: float, y: float, text: str, **style: Any) -> Any:  # noqa: ANN401
    """Write a text at a place of axes or a figure; `plain` has been applied, or is not needed."""
    return axes.text(x, y, text, **{"family": FONT, "color": INK, "fontsize": 9, **style})


def tidy(axes: Any, *, grid: str = "") -> None:  # noqa: ANN401  matplotlib has no types
    """Take the frame from axes, and give their ticks our font; `grid` is x, y or nothing."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(labelsize=8.5, colors=INK, color=GRID, length=3)
    axes.tick_params(axis="y", length=0)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_family(FONT)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.7)
    else:
        axes.grid(visible=False)


def title(axes: Any, text: str) -> None:  # noqa: ANN401
    """Head axes."""
    axes.set_title(text, fontsize=10, family=FONT, color=INK, loc="left", pad=8)


def label(axes: Any, x: str = "", y: str = "") -> None:  # noqa: ANN401
    """Say what the axes show."""
    if x:
        axes.set_xlabel(x, fontsize=9, family=FONT, color=FAINT)
    if y:
        axes.set_ylabel(y, fontsize=9, family=FONT, color=FAINT)


def names_at(axes: Any, places: Any, names: list[str]) -> None:  # noqa: ANN401
    """Put names at the places of the y axis."""
    axes.set_yticks(places, names, fontsize=8.5, family=FONT, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def legend(where: Any, handles: list[Any], names: list[str], **place: Any) -> None:  # noqa: ANN401
    """Say which colour is what."""
    where.legend(
        handles,
        names,
        frameon=False,
        labelcolor=INK,
        prop={"family": FONT, "size": 8.5},
        **place,
    )
