"""Integrated gradients: bars for tables, colours over images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield_alibi._explain._pictures._images import (
    Picture,
    as_image,
    is_image,
    last_channels,
    limits_of,
    pictures,
)
from jackfield_alibi._explain._pictures._importance import Bars, bars
from jackfield_alibi._explain._pictures._page import (
    MOST_ROWS,
    Note,
    Page,
    Section,
    left_out,
    numbers,
    scalar,
    signed,
    spell,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield_alibi._explain._explanation import Explanation
    from jackfield_alibi._explain._pictures._page import Block, View


def attributions_page(explanation: Explanation, view: View) -> Page:
    """Show what each feature or pixel of the first rows adds, against the baseline."""
    data = explanation.data
    found = [numbers(each) for each in _inputs(data["attributions"])]
    given = [np.asarray(each) for each in _inputs(data["X"])]
    targets = data.get("target")
    deltas = data.get("deltas")
    rows = len(found[0])
    sections = []
    for row in range(min(rows, MOST_ROWS)):
        blocks: list[Block] = []
        target = _target(targets, row, view)
        if target:
            blocks.append(Note(f"for {target}"))
        for number, (values, instances) in enumerate(zip(found, given, strict=True)):
            what = f"input {number}" if len(found) > 1 else ""
            blocks += _row(values[row], instances[row], what, view)
        total = float(sum(np.nansum(values[row]) for values in found))
        says = f"together {signed(total)} from the baseline's output to this row's"
        error = None if deltas is None else scalar(np.asarray(deltas).reshape(-1)[row])
        if error is not None:
            says += f"; the integral's error is {spell(error)}"
        blocks.append(Note(says))
        sections.append(Section(f"row {row}" if rows > 1 else "", blocks))
    sections.append(Section("", left_out(min(rows, MOST_ROWS), rows, "rows")))
    facts = [("rows", f"{rows:,}")]
    params = explanation.meta.get("params") or {}
    known = [name for name in ("method", "n_steps") if params.get(name) is not None]
    facts += [(name, spell(params[name])) for name in known]
    return Page("What moved the output (integrated gradients)", facts, sections)


def _inputs(value: Any) -> Sequence[NDArray[Any]]:  # noqa: ANN401
    return value if isinstance(value, list | tuple) else [np.asarray(value)]


def _target(targets: object, row: int, view: View) -> str:
    if targets is None:
        return ""
    known = np.asarray(targets).reshape(-1)
    value = scalar(known[row if row < len(known) else -1]) if known.size else None
    if value is None or not value.is_integer() or value < 0:
        return ""
    return view.names.target(int(value), 2)


def _row(values: NDArray[np.float64], instance: NDArray[Any], what: str, view: View) -> list[Block]:
    if values.shape == instance.shape and is_image(values):
        heat = last_channels(values).sum(2)
        # a few pixels far out would hide the rest
        most = float(np.percentile(np.abs(heat), 99.5)) or float(np.abs(heat).max()) or 1.0
        image = as_image(instance, limits=limits_of(last_channels(instance)))
        row = [
            Picture("the image", image),
            Picture("what raises and lowers the output", image, heat=heat, most=most),
        ]
        return [pictures(row, "the image, and what each pixel adds to the output")]
    if values.ndim > instance.ndim:
        # embeddings of words: one number for each word
        values = values.sum(tuple(range(instance.ndim, values.ndim)))
    flat, cells = values.reshape(-1), instance.reshape(-1)
    names = [view.names.feature(place) for place in range(len(flat))]
    if len(cells) == len(flat):
        names = [
            f"{name} = {view.names.value(place, cells[place])}" for place, name in enumerate(names)
        ]
    given = Bars(
        names, flat.tolist(), [float("nan")] * len(flat), "attribution", title=what, is_signed=True
    )
    return bars(given, 12)
