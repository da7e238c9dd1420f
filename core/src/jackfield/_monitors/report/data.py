"""What a report shows, and what is worked out from it; no drawing, no I/O."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield._monitors.verdict import FeatureVerdict, Verdict

    #: A column or a table of numbers or texts.
    Column: TypeAlias = NDArray[Any]

#: What an alarm of each kind of detector is called.
ALARMS = {"drift": "drift", "outlier": "outliers", "adversarial": "adversarial rows"}
#: Of more features than these, that many are compared, evenly chosen: an image has thousands.
MOST_COMPARED = 2000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """All that a report of one monitor is made from."""

    model: str
    #: Empty for an un-versioned model.
    version: str = ""
    monitor: str
    #: Name of the detector's model.
    detector: str
    #: Its class, as `KSDrift`; empty where it does not say.
    detector_class: str = ""
    #: ``inputs`` or ``outputs``: what of the model is watched.
    watches: str = "inputs"
    #: The window in words, as ``200 rows, tumbling``; empty for none.
    window: str = ""
    #: When the report was asked for, in seconds since 1970.
    made_s: float
    #: Names of the features; may be shorter than there are features.
    names: Sequence[str] = ()
    #: Rows that the detector knows as normal, ``[rows, …]``; None where it keeps none.
    reference: Column | None = None
    #: Rows that came lately, ``[rows, …]``; None before the first.
    sample: Column | None = None
    #: Oldest first.
    verdicts: Sequence[Verdict] = ()
    #: Outliers up to this share are no alarm.
    outlier_share: float = 0.0
    #: Facts in words beside these, as ``rows dropped: 0``.
    facts: Sequence[tuple[str, str]] = ()
    #: Why the monitor does not work at the moment; empty when it does.
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Feature:
    """One feature, then and now."""

    index: int
    name: str
    #: Of the newest verdict; NaN where there is none for each feature.
    p_value: float
    distance: float
    #: Whether it is what the newest verdict's alarm is about.
    is_flagged: bool
    then: Column
    now: Column
    #: Largest difference between the two distribution functions, 0 to 1; NaN without both.
    gap: float


def count_features(data: ReportData) -> int:
    """Give how many features the watched rows have."""
    for rows in (data.sample, data.reference):
        if rows is not None:
            return math.prod(rows.shape[1:])
    told = max((len(verdict.features) for verdict in data.verdicts), default=0)
    return max(len(data.names), told)


def feature_name(data: ReportData, index: int) -> str:
    """Give a feature's name, or its place where it has none."""
    if index < len(data.names):
        return data.names[index]
    told = data.verdicts[-1].features if data.verdicts else ()
    name = told[index].name if is_each(told, count_features(data)) else str(index)
    return f"feature {index}" if name == str(index) else name


def is_each(told: Sequence[FeatureVerdict], features: int) -> bool:
    """Tell whether something was found of each feature, not of all together."""
    return len(told) == features > 0


def is_flagged(feature: FeatureVerdict) -> bool:
    """Tell whether a feature is what the alarm is about, from its verdict or its numbers."""
    if feature.is_drift is not None or feature.threshold is None:
        return bool(feature.is_drift)
    if feature.p_value is not None:
        return feature.p_value < feature.threshold
    return feature.distance is not None and feature.distance > feature.threshold


def ranked_features(data: ReportData) -> list[Feature]:
    """Give the features, those that differ most first.

    The order is that of the newest verdict's p-values and distances, where it tells them of each
    feature, else that of the difference between the distribution functions, then and now.
    """
    features = count_features(data)
    then, now = _table(data.reference, features), _table(data.sample, features)
    told = data.verdicts[-1].features if data.verdicts else ()
    if not is_each(told, features):
        told = ()
    places = range(features)
    if features > MOST_COMPARED:
        places = np.linspace(0, features - 1, MOST_COMPARED).astype(int).tolist()
    found = [
        Feature(
            index=place,
            name=feature_name(data, place),
            p_value=as_number(told[place].p_value) if told else math.nan,
            distance=as_number(told[place].distance) if told else math.nan,
            is_flagged=bool(told) and is_flagged(told[place]),
            then=_column(then, place),
            now=_column(now, place),
            gap=_gap(_column(then, place), _column(now, place)),
        )
        for place in places
    ]
    return sorted(
        found, key=lambda each: (_last(each.p_value), _last(-each.distance), _last(-each.gap))
    )


def as_number(value: float | None) -> float:
    """Give NaN for what is not told."""
    return math.nan if value is None else value


def _last(value: float) -> float:
    """Sort NaN behind all numbers."""
    return math.inf if math.isnan(value) else value


def _table(rows: Column | None, features: int) -> Column:
    """Give rows of `features` columns; no rows where they do not fit."""
    if rows is None or rows.size != len(rows) * features:
        return np.empty((0, features))
    return rows.reshape(len(rows), features)


def _column(table: Column, place: int) -> Column:
    """Give a column; of numbers, if only others in its table are texts."""
    column = table[:, place]
    if column.dtype.kind == "O" and all(isinstance(each, SupportsFloat) for each in column):
        return column.astype(np.float64)
    return column


def is_number(column: Column) -> bool:
    """Tell whether a column has numbers, not texts."""
    return column.dtype.kind in "biuf"


def present(column: Column) -> Column:
    """Leave out what is missing: NaN, infinities, None."""
    if is_number(column):
        return column[np.isfinite(column)].astype(float)
    return np.array([as_text(each) for each in column if each is not None], dtype=object)


def as_text(value: object) -> str:
    """Give an element of a column of texts as a text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def categories(feature: Feature, most: int) -> list[Any]:
    """Give the values of a feature that has few of them; empty where it has many.

    A column of texts always has them: the most frequent ones.
    """
    values = [present(feature.then), present(feature.now)]
    if all(is_number(each) for each in (feature.then, feature.now)):
        distinct = np.unique(np.concatenate(values))
        return distinct.tolist() if distinct.size <= most else []
    counts: dict[str, int] = {}
    for each in np.concatenate([part.astype(str).astype(object) for part in values]):
        counts[each] = counts.get(each, 0) + 1
    return sorted(counts, key=lambda each: (-counts[each], each))[:most]


def _gap(then: Column, now: Column) -> float:
    known, seen = present(then), present(now)
    if not known.size or not seen.size:
        return math.nan
    if is_number(then) and is_number(now):
        both = np.sort(np.concatenate([known, seen]))
        shares = [
            np.searchsorted(np.sort(part), both, side="right") / part.size for part in (known, seen)
        ]
        return float(np.abs(shares[0] - shares[1]).max())
    texts = [part.astype(str) for part in (known, seen)]
    names = np.unique(np.concatenate(texts))
    counts = [np.array([(part == name).mean() for name in names]) for part in texts]
    return float(np.abs(counts[0] - counts[1]).sum() / 2)


def missing(column: Column) -> float:
    """Give the share of a column that is missing, 0 to 1; NaN of no rows."""
    return 1 - present(column).size / column.size if column.size else math.nan


def number(value: float) -> str:
    """Give a number with what a reader needs of its digits; empty for NaN."""
    if math.isnan(value):
        return ""
    if abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def state(data: ReportData) -> str:
    """Say in a word or two what the newest verdict is."""
    if not data.verdicts:
        return "no verdict yet"
    newest = data.verdicts[-1]
    return ALARMS[newest.kind] if newest.is_positive else f"no {ALARMS[newest.kind]}"


def is_alarm(data: ReportData) -> bool:
    """Tell whether the newest verdict is an alarm."""
    return bool(data.verdicts) and data.verdicts[-1].is_positive
