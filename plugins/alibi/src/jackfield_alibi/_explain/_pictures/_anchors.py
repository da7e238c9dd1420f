"""Anchors as rules: what holds the prediction, how surely, and for how many rows."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield_alibi._explain._pictures._page import (
    MOST_FEATURES,
    Note,
    Page,
    Plot,
    Section,
    Table,
    Words,
    left_out,
    parts_of,
    percent,
    scalar,
    spell,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jackfield_alibi._explain._explanation import Explanation
    from jackfield_alibi._explain._pictures._page import Block, View

#: Most examples of each kind in a table, and most characters of a text that is highlighted.
_MOST_EXAMPLES = 5
_LONGEST_TEXT = 4_000


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """An anchor, read out of an explanation; clauses in the order in which they were found."""

    clauses: Sequence[str]
    #: Of the first clause, of the first two, …; NaN where the explanation has none.
    precisions: Sequence[float]
    coverages: Sequence[float]
    prediction: str
    precision: float | None
    coverage: float | None
    threshold: float | None
    is_reached: bool

    @property
    def text(self) -> str:
        """The rule as one sentence."""
        if not self.clauses:
            return f"always: {self.prediction}"
        return f"if {' and '.join(self.clauses)} then {self.prediction}"


def read_rule(explanation: Explanation, view: View, *, quote: str = "{}") -> Rule:
    """Read what Alibi's layout says; `quote` has a place for each clause."""
    data, meta = explanation.data, explanation.meta
    raw = data.get("raw") or {}
    anchor = data.get("anchor")
    clauses = [quote.format(each) for each in (anchor if isinstance(anchor, list | tuple) else [])]
    return Rule(
        clauses,
        _steps(raw.get("precision"), len(clauses)),
        _steps(raw.get("coverage"), len(clauses)),
        name_class(raw.get("prediction"), view),
        scalar(data.get("precision")),
        scalar(data.get("coverage")),
        scalar((meta.get("params") or {}).get("threshold")),
        is_reached=bool(raw.get("success", True)),
    )


def name_class(prediction: object, view: View) -> str:
    """Name what was predicted: the class, where the names of the classes are known."""
    if prediction is None:
        return "the same prediction"
    known = np.asarray(prediction)
    value = known.reshape(-1)[0] if known.size == 1 else prediction
    place = scalar(known)
    if place is not None and place.is_integer() and 0 <= place < len(view.names.targets):
        return view.names.targets[int(place)]
    # a number alone would say nothing
    return f"prediction {spell(value)}" if place is not None else spell(value)


def _steps(value: object, count: int) -> list[float]:
    found = [] if value is None else [scalar(each) for each in np.asarray(value).reshape(-1)]
    steps = [float("nan") if each is None else each for each in found[:count]]
    return steps + [float("nan")] * (count - len(steps))


def rules_page(explanation: Explanation, view: View) -> Page:
    """Show the rule of each row."""
    parts, rest = parts_of(explanation)
    sections = []
    for heading, part in parts:
        rule = read_rule(part, view)
        sections.append(Section(heading, [*_rule(rule), *_examples(part, view)]))
    sections.append(Section("", rest))
    return Page("What holds the prediction (anchor)", _facts(explanation), sections)


def text_page(explanation: Explanation, view: View) -> Page:
    """Show each text with the words of its anchor highlighted, and the rule."""
    parts, rest = parts_of(explanation)
    sections = []
    for heading, part in parts:
        rule = read_rule(part, view, quote='"{}" is there')
        text = str((part.data.get("raw") or {}).get("instance", ""))
        blocks: list[Block] = [
            Words(highlight(text[:_LONGEST_TEXT], part)),
            *left_out(_LONGEST_TEXT, len(text), "characters"),
            *_rule(rule),
            *_examples(part, view),
        ]
        sections.append(Section(heading, blocks))
    sections.append(Section("", rest))
    return Page("Which words hold the prediction (anchor)", _facts(explanation), sections)


def highlight(text: str, explanation: Explanation) -> list[tuple[str, bool]]:
    """Cut a text into pieces: the anchor's words at their places, and what is between them."""
    raw = explanation.data.get("raw") or {}
    words = [str(each) for each in raw.get("names") or explanation.data.get("anchor") or []]
    places = [int(each) for each in raw.get("positions") or []]
    spans = []
    for index, word in enumerate(words):
        start = places[index] if index < len(places) else -1
        if text[start : start + len(word)] != word or start < 0:
            # a sampler that counts otherwise: the word's first place as a whole word
            found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)
            start = found.start() if found else -1
        if start >= 0 and word:
            spans.append((start, start + len(word)))
    pieces = []
    at = 0
    for start, stop in sorted(spans):
        if start >= at:
            pieces += [(text[at:start], False), (text[start:stop], True)]
            at = stop
    return [piece for piece in (*pieces, (text[at:], False)) if piece[0]]


def _facts(explanation: Explanation) -> list[tuple[str, str]]:
    count = len(explanation.rows)
    return [("rows", f"{count:,}")] if count > 1 else []


def _rule(rule: Rule) -> list[Block]:
    blocks: list[Block] = [
        Plot(functools.partial(_paint, rule), 0.5 + 0.42 * (_lines(rule) + 1), rule.text)
    ]
    blocks += left_out(min(len(rule.clauses), MOST_FEATURES), len(rule.clauses), "conditions")
    if not rule.clauses:
        blocks.append(Note("no condition is needed: the prediction hardly ever changes near here"))
    if not rule.is_reached:
        wanted = "" if rule.threshold is None else f" of {percent(rule.threshold)}"
        blocks.append(
            Note(f"no rule reached the precision{wanted} asked for; this is the best one")
        )
    held = f"Where the rule holds, the prediction is the same in {percent(rule.precision)} of cases"
    blocks.append(Note(f"{held}; it holds for {percent(rule.coverage)} of all cases."))
    if rule.clauses:
        steps = zip(rule.clauses, rule.precisions, rule.coverages, strict=True)
        rows = [(clause, percent(first), percent(second)) for clause, first, second in steps]
        columns = ("condition", "precision up to here", "coverage up to here")
        blocks.append(Table(columns, rows, f"all numbers: {rule.text}", is_detail=True))
    return blocks


def _lines(rule: Rule) -> int:
    return max(1, min(len(rule.clauses), MOST_FEATURES))


def _paint(rule: Rule, figure: Any) -> None:  # noqa: ANN401  matplotlib has no types
    """Paint the conditions below each other, with the precision and coverage reached so far."""
    from jackfield_alibi._explain._pictures import _canvas as canvas

    count = _lines(rule)
    height = figure.get_figheight()
    top, bottom = 0.45 / height, 0.05 / height
    rules = figure.add_axes((0.02, bottom, 0.5, 1 - top - bottom))
    rules.set_axis_off()
    rules.set(xlim=(0, 1), ylim=(count + 0.6, -0.5))
    clauses = list(rule.clauses[:count]) or ["anything"]
    for line, clause in enumerate(clauses):
        word = "IF" if line == 0 else "AND"
        canvas.write(rules, 0.0, line, word, va="center", color=canvas.FAINT, weight="bold")
        canvas.write(rules, 0.15, line, canvas.plain(clause, 44), va="center", fontsize=10)
    canvas.write(rules, 0.0, count, "THEN", va="center", color=canvas.FAINT, weight="bold")
    then = canvas.plain(rule.prediction, 40)
    canvas.write(rules, 0.15, count, then, va="center", fontsize=11, weight="bold")
    one = [(rule.precision if rule.precision is not None else 0.0)]
    whole = [(rule.coverage if rule.coverage is not None else 0.0)]
    columns = (
        (
            "precision",
            rule.precisions if rule.clauses else one,
            rule.threshold,
            0.55,
            canvas.LOWERS,
        ),
        ("coverage", rule.coverages if rule.clauses else whole, None, 0.78, canvas.CLASSES[2]),
    )
    for name, values, threshold, left, colour in columns:
        axes = figure.add_axes((left, bottom, 0.19, 1 - top - bottom))
        axes.set(xlim=(0, 1), ylim=(count + 0.6, -0.5))
        lines = np.arange(count)
        axes.barh(lines, 1.0, height=0.5, color="#eef1f4")
        axes.barh(lines, np.nan_to_num(values[:count]), height=0.5, color=colour)
        for line, value in enumerate(values[:count]):
            text = percent(value)
            style = {"color": "white", "ha": "right"} if value > 0.55 else {"ha": "left"}
            x = value - 0.03 if value > 0.55 else np.nan_to_num(value) + 0.03
            canvas.write(axes, x, line, text, va="center", fontsize=8.5, weight="bold", **style)
        if threshold is not None:
            axes.plot([threshold] * 2, [-0.4, count - 0.6], color=canvas.INK, linewidth=1.2)
            canvas.write(
                axes,
                threshold,
                count - 0.5,
                f"asked for {percent(threshold)}",
                ha="right" if threshold > 0.5 else "left",
                va="top",
                fontsize=8,
            )
        axes.set_axis_off()
        canvas.title(axes, name)


def _examples(explanation: Explanation, view: View) -> list[Block]:
    """Give some cases for which the rule holds: with the same prediction, and with another."""
    if view.is_brief:
        return []
    steps = (explanation.data.get("raw") or {}).get("examples") or []
    last = steps[-1] if steps else {}
    blocks: list[Block] = []
    kinds = {
        "covered_true": "for which the prediction is the same",
        "covered_false": "for which it is another",
    }
    for key, what in kinds.items():
        found = np.asarray(last.get(key, []))[:_MOST_EXAMPLES]
        if not found.size:
            continue
        caption = f"cases that the rule holds for, {what}"
        if found.ndim == 2:
            columns = [view.names.feature(place) for place in range(found.shape[1])]
            rows = [
                [view.names.value(place, cell) for place, cell in enumerate(row)] for row in found
            ]
            blocks.append(Table(columns, rows, caption, is_detail=True))
        elif found.ndim == 1:
            rows = [[spell(each)] for each in found]
            blocks.append(Table(("text",), rows, caption, is_detail=True))
    return blocks
