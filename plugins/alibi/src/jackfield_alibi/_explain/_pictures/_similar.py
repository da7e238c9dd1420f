"""Rows of the training data that are most like a row, as a list; and what has no picture."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield_alibi._explain._pictures._images import Picture, as_image, is_image, pictures
from jackfield_alibi._explain._pictures._page import (
    MOST_ROWS,
    Note,
    Page,
    Plot,
    Section,
    Table,
    left_out,
    numbers,
    short,
    signed,
    spell,
)

if TYPE_CHECKING:
    from jackfield_alibi._explain._explanation import Explanation
    from jackfield_alibi._explain._pictures._page import Block, View

#: Most like and least like, of each.
_MOST_LISTED = 10
_MOST_COLUMNS = 6
_MOST_IMAGES = 5


def similar_page(explanation: Explanation, view: View) -> Page:
    """Show the training rows that the model treats most and least like each row."""
    data = explanation.data
    scores = np.atleast_2d(numbers(data["scores"]))
    order = np.atleast_2d(np.asarray(data["ordered_indices"]))
    sections = []
    for row in range(min(len(scores), MOST_ROWS)):
        # highest first, whichever way the explainer gives them
        ranked = np.sort(scores[row])[::-1]
        blocks: list[Block] = []
        listed = min(_MOST_LISTED, len(ranked))
        places = [int(each) for each in order[row][:listed]]
        paint = functools.partial(_paint, places, ranked[:listed])
        blocks.append(Plot(paint, 0.9 + 0.3 * listed, "similarity of the most similar rows"))
        for key, end in (("most_similar", 1), ("least_similar", -1)):
            found = data.get(key)
            if found is None:
                continue
            examples = np.asarray(found[row])
            known = order[row][::end][: len(examples)]
            values = ranked[::end][: len(examples)]
            what = f"the {key.replace('_', ' ')} training rows"
            blocks += _examples(examples, known.tolist(), values.tolist(), what, view)
        sections.append(Section(f"row {row}" if len(scores) > 1 else "", blocks))
    sections.append(Section("", left_out(min(len(scores), MOST_ROWS), len(scores), "rows")))
    facts = [("training rows", f"{scores.shape[1]:,}")]
    similarity = (explanation.meta.get("params") or {}).get("sim_fn_name")
    if similarity:
        facts.append(("similarity", str(similarity)))
    return Page("Which training rows are most like it (gradient similarity)", facts, sections)


def _examples(
    examples: Any,  # noqa: ANN401  an array
    places: list[int],
    scores: list[float],
    what: str,
    view: View,
) -> list[Block]:
    if len(examples) and is_image(examples[0]):
        row = [
            Picture(f"{place}: {signed(score)}", as_image(each))
            for each, place, score in zip(examples[:_MOST_IMAGES], places, scores, strict=False)
        ]
        return [Note(f"{what} (place: similarity)"), pictures(row, what)]
    flat = examples.reshape(len(examples), -1)[:_MOST_LISTED]
    shown = min(flat.shape[1], _MOST_COLUMNS)
    rows = [
        (
            str(place),
            signed(score),
            *(view.names.value(at, cell) for at, cell in enumerate(cells[:shown])),
        )
        for cells, place, score in zip(flat, places, scores, strict=False)
    ]
    names = [short(view.names.feature(at), 20) for at in range(shown)]
    table = Table(("training row", "similarity", *names), rows, what)
    return [table, *left_out(shown, flat.shape[1], "features")]


def _paint(places: list[int], scores: Any, figure: Any) -> None:  # noqa: ANN401
    from jackfield_alibi._explain._pictures import _canvas as canvas

    height = figure.get_figheight()
    axes = figure.add_axes((0.2, 0.5 / height, 0.72, 1 - 0.65 / height))
    lines = np.arange(len(places))
    colours = [canvas.RAISES if score >= 0 else canvas.LOWERS for score in scores]
    axes.barh(lines, scores, height=0.6, color=colours)
    low, high = min(0.0, float(scores.min())), max(0.0, float(scores.max()))
    room = (high - low) or 1.0
    for line, score in enumerate(scores):
        x = max(score, 0) + 0.01 * room
        canvas.write(axes, x, line, signed(float(score)), va="center", fontsize=8.5)
    axes.axvline(0, color=canvas.FAINT, linewidth=0.9)
    axes.set(xlim=(low, high + 0.12 * room), ylim=(len(places) - 0.4, -0.6))
    canvas.names_at(axes, lines, [f"training row {place}" for place in places])
    canvas.tidy(axes)
    canvas.label(axes, x="similarity of the model's gradients")


def plain_page(explanation: Explanation, view: View) -> Page:
    """Show an explanation of a kind without a picture: what it holds, as a table."""
    rows = []
    for name, value in explanation.data.items():
        shape = getattr(value, "shape", None)
        size = " \N{MULTIPLICATION SIGN} ".join(map(str, shape)) if shape else ""
        rows.append((str(name), size, short(spell(value), 80)))
    table = Table(("name", "shape", "values"), rows)
    return Page(f"Explanation: {explanation.kind}", [], [Section("", [table])])
