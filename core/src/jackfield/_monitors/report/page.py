"""A report as one HTML page: no scripts, nothing from elsewhere, every name escaped."""

from __future__ import annotations

import base64
import math
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from jackfield._monitors.report.data import (
    ALARMS,
    as_number,
    count_features,
    is_alarm,
    missing,
    number,
    present,
    ranked_features,
    state,
)
from jackfield._monitors.report.draw import MOST_DRAWN, draw_distributions, draw_history

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jackfield._monitors.report.data import Column, Feature, ReportData

#: Rows of the tables: features that differ most, and newest verdicts.
MOST_FEATURES, MOST_VERDICTS = 50, 50

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1100px;
  margin: 1.5rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 0 .3rem } h2 { font-size: 1.1rem; margin: 1.8rem 0 .5rem }
h1, dd, p, td:first-child { overflow-wrap: anywhere }
.state { display: inline-block; padding: .15rem .6rem; border-radius: .4rem; color: #fff;
  background: #5a6270; font-weight: 600 }
.alarm { background: #c44601 } .flagged { color: #a83c00; font-weight: 600 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .8rem 0 }
dt { color: #5a6270 } dd { margin: 0 } img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
th { border-bottom-color: #888 } th:first-child, td:first-child { text-align: left }
td { white-space: nowrap } td:first-child { white-space: normal }
.note { color: #5a6270; font-size: .9rem } .wide { overflow-x: auto }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def make_page(data: ReportData) -> str:
    """Make the page; without matplotlib it has the tables, and says how to get the pictures."""
    title = f"{data.monitor}: {data.model} {data.version}".rstrip()
    features = ranked_features(data)
    body = "\n".join(
        [*_head(data), *_history(data, features), *_features(data, features), *_verdicts(data)]
    )
    return _PAGE.format(title=escape(title), style=_STYLE, body=body)


def _head(data: ReportData) -> Iterable[str]:
    newest = data.verdicts[-1] if data.verdicts else None
    version = f" {data.version}" if data.version else ""
    yield (
        f"<h1>Monitor “{escape(data.monitor)}” of the {escape(data.watches)} of "
        f"“{escape(data.model + version)}”</h1>"
    )
    kind = "state alarm" if is_alarm(data) else "state"
    yield f'<p><span class="{kind}">{escape(state(data))}</span></p>'
    if data.problem:
        yield f'<p class="flagged">{escape(data.problem)}</p>'
    facts = [
        ("detector", f"{data.detector} ({data.detector_class})".replace(" ()", "")),
        ("window", data.window),
        ("newest verdict", _time(newest.time_s) if newest else "none: no window is full yet"),
        *data.facts,
        ("report made", _time(data.made_s)),
    ]
    lines = [f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts if text]
    yield f"<dl>{''.join(lines)}</dl>"


def _history(data: ReportData, features: Sequence[Feature]) -> Iterable[str]:
    if data.verdicts:
        yield "<h2>What the detector said</h2>"
        alt = f"{len(data.verdicts)} verdicts over time; the newest: {state(data)}"
        yield _picture(draw_history, data, features, alt)


def _verdicts(data: ReportData) -> Iterable[str]:
    if not data.verdicts:
        return
    yield "<h2>Verdicts</h2>"
    head = ("newest first", "verdict", "rows", "flagged rows", "smallest p-value")
    lines = [
        (
            _time(verdict.time_s),
            ALARMS[verdict.kind] if verdict.is_positive else "",
            f"{verdict.rows:,}",
            f"{verdict.flagged_rows:,}" if verdict.flagged_rows else "",
            number(_extreme([each.p_value for each in verdict.features], min)),
            number(_extreme([each.distance for each in verdict.features], max)),
            number(as_number(verdict.score)),
            number(as_number(verdict.threshold)),
        )
        for verdict in reversed(data.verdicts[-MOST_VERDICTS:])
    ]
    more = ("largest distance", "largest score", "threshold")
    yield from _table((*head, *more), lines, flag=1)
    if len(data.verdicts) > MOST_VERDICTS:
        yield f'<p class="note">The newest {MOST_VERDICTS} of {len(data.verdicts):,}.</p>'


def _features(data: ReportData, features: Sequence[Feature]) -> Iterable[str]:
    if not features:
        return
    yield "<h2>Features</h2>"
    names = ", ".join(feature.name for feature in features[:MOST_DRAWN])
    yield _picture(draw_distributions, data, features, f"distributions then and now of {names}")
    head = ("those that differ most first", "verdict", "p-value", "distance", "CDFs differ by")
    lines = [
        (
            feature.name,
            "drift" if feature.is_flagged else "",
            number(feature.p_value),
            number(feature.distance),
            number(feature.gap) if math.isnan(feature.distance) else "",
            _mean(feature.then),
            _mean(feature.now),
            _share(missing(feature.then)),
            _share(missing(feature.now)),
        )
        for feature in features[:MOST_FEATURES]
    ]
    means = ("mean then", "mean now", "missing then", "missing now")
    yield from _table((*head, *means), lines, flag=1)
    if count_features(data) > MOST_FEATURES:
        yield f'<p class="note">The first {MOST_FEATURES} of {count_features(data):,}.</p>'


def _picture(
    draw: Callable[[ReportData, Sequence[Feature]], bytes],
    data: ReportData,
    features: Sequence[Feature],
    alt: str,
) -> str:
    try:
        source = base64.b64encode(draw(data, features)).decode()
    except ImportError:
        pip = "<code>pip install &quot;jackfield[report]&quot;</code>"
        return f'<p class="note">A picture needs matplotlib: {pip}</p>'
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{source}">'


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], *, flag: int) -> Iterable[str]:
    """Write a table, less the columns that are empty in every row.

    Args:
        names: Of the columns.
        rows: Their cells.
        flag: Place of the cell that, where it is not empty, makes a row stand out.
    """
    kept = [place for place in range(len(names)) if any(row[place] for row in rows)]
    head = "".join(f'<th scope="col">{escape(names[place])}</th>' for place in kept)
    yield f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>'
    for row in rows:
        line = "".join(f"<td>{escape(row[place])}</td>" for place in kept)
        yield f'<tr class="flagged">{line}</tr>' if row[flag] else f"<tr>{line}</tr>"
    yield "</tbody></table></div>"


def _time(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _extreme(told: Sequence[float | None], of: Callable[[Sequence[float]], float]) -> float:
    values = [value for value in told if value is not None]
    return of(values) if values else math.nan


def _mean(column: Column) -> str:
    values = present(column)
    return number(float(values.mean())) if values.size and values.dtype.kind == "f" else ""


def _share(share: float) -> str:
    return f"{share:.1%}" if share > 0 else ""
