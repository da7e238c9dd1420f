"""A page as one PNG: its blocks, painted one by one and put below each other."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield_alibi._explain._pictures._canvas import (
    DPI,
    FAINT,
    GRID,
    INK,
    MONO,
    WIDTH,
    encode_png,
    paint,
    plain,
    write,
)
from jackfield_alibi._explain._pictures._page import Note, Plot, Table, Words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from jackfield_alibi._explain._pictures._page import Block, Page

#: Tallest image, in pixels; what is below is left out, and said.
_TALLEST = 12_000
_MARGIN = 0.15
_LINE = 0.24
_ROW = 0.27
#: Width of a character of the monospaced font, in parts of its size.
_MONO_WIDTH = 0.602
_POINTS = 72


def render_png(page: Page) -> bytes:
    """Paint a page."""
    pieces: list[NDArray[np.uint8]] = []
    tall = 0
    for plot in _plots(page):
        if tall + plot.height * DPI > _TALLEST:
            pieces.append(paint(_text(["the rest is left out; the form html has it"], color=FAINT)))
            break
        pieces.append(paint(plot))
        tall += len(pieces[-1])
    return encode_png(np.concatenate(pieces))


def _plots(page: Page) -> Iterator[Plot]:
    yield _text(_wrap(page.title, 60), fontsize=14, weight="bold")
    if page.facts:
        yield _text(
            _wrap("  \N{MIDDLE DOT}  ".join(f"{name}: {value}" for name, value in page.facts)),
            color=FAINT,
        )
    for section in page.sections:
        if section.title:
            yield _heading(section.title)
        for block in section.blocks:
            yield from _block(block)


def _block(block: Block) -> Iterator[Plot]:
    if isinstance(block, Plot):
        yield block
    elif isinstance(block, Note):
        yield _text(_wrap(block.text))
    elif isinstance(block, Words):
        yield _words(block)
    elif not block.is_detail:
        if block.caption:
            yield _text(_wrap(block.caption), color=FAINT)
        yield _table(block)


def _wrap(text: str, most: int = 118) -> list[str]:
    lines = textwrap.wrap(text, most)[:6]
    return [plain(line, most) for line in lines] or [""]


def _text(lines: Sequence[str], *, fontsize: float = 9.5, **style: Any) -> Plot:  # noqa: ANN401
    height = len(lines) * _LINE * fontsize / 10 + 0.12

    def paint_text(figure: Any) -> None:  # noqa: ANN401  matplotlib has no types
        write(
            figure, _MARGIN / WIDTH, 0.5, "\n".join(lines), va="center", fontsize=fontsize, **style
        )

    return Plot(paint_text, height, "")


def _heading(text: str) -> Plot:
    def paint_heading(figure: Any) -> None:  # noqa: ANN401
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, WIDTH), ylim=(0, 0.42))
        axes.axhline(0.06, xmin=_MARGIN / WIDTH, xmax=1 - _MARGIN / WIDTH, color=GRID)
        write(axes, _MARGIN, 0.13, plain(text, 90), fontsize=11, weight="bold")

    return Plot(paint_heading, 0.42, text)


def _table(table: Table) -> Plot:
    """Paint a table: each column as wide as its longest cell, within the page's width."""
    cells = [[plain(each, 60) for each in row] for row in (table.columns, *table.rows)]
    longest = [max(len(row[place]) for row in cells) for place in range(len(table.columns))]
    # inches of a character of this size, about
    room = WIDTH - 2 * _MARGIN
    scale = min(1.0, room / (0.082 * (sum(longest) + 2 * len(longest))))
    most = [max(6, int(length * scale)) for length in longest]
    lefts = np.concatenate([[0], np.cumsum([0.082 * (length + 2) for length in most])])
    height = _ROW * len(cells) + 0.1

    def paint_table(figure: Any) -> None:  # noqa: ANN401
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        for line, row in enumerate(cells):
            y = 0.05 + _ROW * line
            is_marked = line - 1 in table.marked
            if is_marked:
                axes.axhspan(y, y + _ROW, _MARGIN / WIDTH, 1 - _MARGIN / WIDTH, color="#fff1e5")
            axes.axhline(y + _ROW, _MARGIN / WIDTH, 1 - _MARGIN / WIDTH, color=GRID, linewidth=0.7)
            for place, cell in enumerate(row):
                style = {"color": FAINT} if line == 0 else {}
                weight = "bold" if line == 0 or (is_marked and place == 0) else "normal"
                x = _MARGIN + 0.05 + lefts[place]
                text = plain(cell, most[place]) if len(cell) > most[place] else cell
                write(axes, x, y + _ROW / 2, text, va="center", weight=weight, **style)

    return Plot(paint_table, height, table.caption)


def _words(words: Words, *, size: float = 12) -> Plot:
    """Paint a text in a font whose characters are all as wide: it is known where lines break."""
    wide = size * _MONO_WIDTH / _POINTS
    most = int((WIDTH - 2 * _MARGIN) / wide)
    placed: list[tuple[int, int, str, bool]] = []
    line = column = 0
    for text, is_marked in words.pieces:
        for token in _tokens(text):
            if token == "\n" or (column and column + len(token) > most):
                line, column = line + 1, 0
            if token.isspace() and (column == 0 or token == "\n"):
                continue
            for start in range(0, len(token), most):
                piece = token[start : start + most]
                if start:
                    line, column = line + 1, 0
                placed.append((line, column, piece, is_marked))
                column += len(piece)
    height = 0.1 + 0.34 * (line + 1)

    def paint_words(figure: Any) -> None:  # noqa: ANN401
        from matplotlib.patches import Rectangle

        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        for row, at, text, is_marked in placed:
            x, y = _MARGIN + at * wide, 0.05 + 0.34 * row
            if is_marked:
                box = Rectangle((x, y + 0.03), len(text) * wide, 0.28, color="#ffd8a8", lw=0)
                axes.add_patch(box)
                axes.plot([x, x + len(text) * wide], [y + 0.31] * 2, color=INK, linewidth=1.2)
            shown = plain(text, most, font=MONO)
            write(axes, x, y + 0.17, shown, va="center", family=MONO, fontsize=size)

    return Plot(paint_words, height, "".join(text for text, _ in words.pieces))


def _tokens(text: str) -> list[str]:
    """Cut a text into words, blanks and line breaks; nothing is lost but the blanks' kinds."""
    found: list[str] = []
    for index, part in enumerate(text.replace("\r\n", "\n").split("\n")):
        if index:
            found.append("\n")
        for number, word in enumerate(part.split(" ")):
            if number:
                found.append(" ")
            if word:
                found.append(word)
    return found
