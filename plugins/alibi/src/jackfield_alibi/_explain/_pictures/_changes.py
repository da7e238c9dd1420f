"""Counterfactuals: what would have to change for another prediction, as a table."""

from __future__ import annotations

from collections.abc import Mapping
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
from jackfield_alibi._explain._pictures._page import (
    Note,
    Page,
    Section,
    Table,
    left_out,
    numbers,
    parts_of,
    scalar,
    signed,
    spell,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jackfield_alibi._explain._explanation import Explanation
    from jackfield_alibi._explain._pictures._page import Block, View

#: Most rows of a table.
_MOST_CHANGES = 20
_ARROW = "\N{RIGHTWARDS ARROW}"


def counterfactual_page(explanation: Explanation, view: View) -> Page:
    """Show each row beside the nearest one that is predicted otherwise."""
    parts, rest = parts_of(explanation)
    sections = []
    for number, (heading, part) in enumerate(parts):
        pairs = _pairs(part, view.instance(number))
        shown = pairs[:5]
        for index, (before, after, classes) in enumerate(shown):
            title = heading or (f"row {index}" if len(pairs) > 1 else "")
            blocks: list[Block] = []
            if after is None:
                blocks.append(Note("no counterfactual was found; ask for more iterations"))
            else:
                blocks.append(Note(_from_to(part.data, classes, view)))
                blocks += compare(before, after, view, ("this row", "counterfactual"))
            sections.append(Section(title, blocks))
        rest += left_out(len(shown), len(pairs), "rows")
    sections.append(Section("", rest))
    return Page("What would change the prediction (counterfactual)", [], sections)


def _pairs(
    part: Explanation, row: NDArray[Any] | None
) -> list[tuple[NDArray[Any] | None, NDArray[Any] | None, tuple[object, object]]]:
    """Give the row, its counterfactual and both classes; the last without batches."""
    data = part.data
    found = data.get("cf")
    original = data.get("orig")
    if isinstance(original, Mapping):
        # the reinforced kind has many rows at once
        before = np.asarray(original["X"])
        known = found if isinstance(found, Mapping) else {}
        after = None if known.get("X") is None else np.asarray(known["X"])
        first = np.asarray(original.get("class", [[None]] * len(before))).reshape(-1)
        second = np.asarray(known.get("class", [[None]] * len(before))).reshape(-1)
        return [
            (before[row], None if after is None else after[row], (first[row], second[row]))
            for row in range(len(before))
        ]
    start = _instance(part)
    if start is None:
        start = row
    end = np.asarray(found["X"])[0] if isinstance(found, Mapping) and found else None
    cls = found.get("class") if isinstance(found, Mapping) else None
    return [(start, end, (data.get("orig_class"), cls))]


def _instance(part: Explanation) -> NDArray[Any] | None:
    """Find the row itself, which some explainers do not give back."""
    raw = part.data.get("raw")
    for place in (part.data, raw if isinstance(raw, Mapping) else {}):
        for key in ("X", "instance", "instances"):
            if place.get(key) is not None:
                found = np.asarray(place[key])
                return found if key == "instance" else found[0]
    return None


def _from_to(data: Mapping[str, Any], classes: tuple[object, object], view: View) -> str:
    found = data.get("cf")
    after = found if isinstance(found, Mapping) else {}
    probabilities = (data.get("orig_proba"), after.get("proba"))
    texts = []
    for known, probability in zip(classes, probabilities, strict=True):
        place = scalar(known)
        name = spell(known)
        if place is not None and place.is_integer() and place >= 0:
            name = view.names.target(int(place), 2)
            shares = None if probability is None else numbers(probability).reshape(-1)
            if shares is not None and place < len(shares):
                name += f" ({spell(float(shares[int(place)]))})"
        texts.append(name)
    return f"predicted: {f' {_ARROW} '.join(texts)}"


def contrast_page(explanation: Explanation, view: View) -> Page:
    """Show what must be there for the prediction, and what must not."""
    parts, rest = parts_of(explanation)
    sections = []
    for heading, part in parts:
        data = part.data
        instance = None if data.get("X") is None else np.asarray(data["X"])[0]
        known = scalar(data.get("X_pred"))
        blocks: list[Block] = []
        if known is not None:
            blocks.append(Note(f"predicted: {view.names.target(int(known), 2)}"))
        for key, says in (
            ("PN", "if these changed, the prediction would be"),
            ("PP", "these alone, with all else at its baseline, are predicted as"),
        ):
            if data.get(key) is None:
                continue
            found = np.asarray(data[key])[0]
            predicted = scalar(data.get(f"{key}_pred"))
            name = "unknown" if predicted is None else view.names.target(int(predicted), 2)
            blocks.append(Note(f"{says}: {name}"))
            if key == "PN":
                blocks += compare(instance, found, view, ("this row", "pertinent negative"))
            else:
                blocks += _kept(instance, found, part, view)
        if all(data.get(key) is None for key in ("PN", "PP")):
            blocks.append(Note("neither was found; ask for more iterations"))
        sections.append(Section(heading, blocks))
    sections.append(Section("", rest))
    return Page("What must be there, and what must not (contrast)", [], sections)


def _kept(
    before: NDArray[Any] | None, found: NDArray[Any], part: Explanation, view: View
) -> list[Block]:
    """List the features of a pertinent positive: those that are not as if nothing were known."""
    if is_image(found):
        return [_images(before, found, ("this row", "pertinent positive"))]
    cells = found.reshape(-1)
    params = part.meta.get("params") or {}
    nothing = params.get("no_info_val")
    blank = numbers(0.0 if nothing is None else nothing).reshape(-1)
    places = np.flatnonzero(~np.isclose(numbers(cells), np.resize(blank, cells.shape)))
    rows = [
        (view.names.feature(int(at)), view.names.value(int(at), cells[at]))
        for at in places[:_MOST_CHANGES]
    ]
    table = Table(("feature", "pertinent positive"), rows, marked=frozenset(range(len(rows))))
    return [table, *left_out(len(rows), len(places), "features that are there")]


def compare(
    before: NDArray[Any] | None, after: NDArray[Any], view: View, columns: tuple[str, str]
) -> list[Block]:
    """Compare two rows: images beside each other, or the features that differ."""
    if is_image(after) and (before is None or before.shape == after.shape):
        return [_images(before, after, columns)]
    cells = after.reshape(-1)
    first = None if before is None or before.size != after.size else before.reshape(-1)
    if first is None:
        rows = [
            (view.names.feature(place), view.names.value(place, cell))
            for place, cell in enumerate(cells.tolist())
        ]
        table = Table(("feature", columns[1]), rows[:_MOST_CHANGES])
        return [table, *left_out(min(len(rows), _MOST_CHANGES), len(rows), "features")]
    return _changes(first, cells, view, columns)


def _changes(
    before: NDArray[Any], after: NDArray[Any], view: View, columns: tuple[str, str]
) -> list[Block]:
    old, new = numbers(before), numbers(after)
    # what differs in float32's last digits is the same
    is_same = np.isclose(old, new, rtol=1e-5, atol=1e-8) | np.array(
        [bool(a == b) for a, b in zip(before.tolist(), after.tolist(), strict=True)]
    )
    sizes = np.nan_to_num(np.abs(new - old) / (np.abs(old) + 1e-9), nan=np.inf)
    changed = [int(at) for at in np.argsort(-sizes, kind="stable") if not is_same[at]]
    rows = [
        (
            view.names.feature(at),
            view.names.value(at, before[at]),
            view.names.value(at, after[at]),
            _difference(at, float(new[at] - old[at]), view),
        )
        for at in changed[:_MOST_CHANGES]
    ]
    rest = len(before) - len(changed)
    blocks: list[Block] = [
        Table(("feature", *columns, "change"), rows, marked=frozenset(range(len(rows))))
    ]
    blocks += left_out(len(rows), len(changed), "changed features")
    blocks.append(Note(f"{rest:,} of {len(before):,} features stay as they are"))
    return blocks


def _difference(place: int, value: float, view: View) -> str:
    is_number = np.isfinite(value) and not view.names.categories.get(place)
    return signed(value) if is_number else "another category"


def _images(before: NDArray[Any] | None, after: NDArray[Any], columns: tuple[str, str]) -> Block:
    stacked = last_channels(after) if before is None else np.stack([before, after])
    limits = limits_of(numbers(stacked))
    row = []
    if before is not None:
        row.append(Picture(columns[0], as_image(before, limits=limits)))
    row.append(Picture(columns[1], as_image(after, limits=limits)))
    if before is not None:
        heat = (last_channels(after) - last_channels(before)).sum(2)
        most = float(np.abs(heat).max()) or 1.0
        ends = ("brighter", "darker")
        row.append(Picture("difference", row[0].image, heat=heat, most=most, ends=ends))
    return pictures(row, f"images: {' and '.join(each.title for each in row)}")
