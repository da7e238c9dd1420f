"""What a detector's answer means.

A detector is any model with an output `is_drift`, `is_outlier` or `is_adversarial`; the other
outputs are read where they are there. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence  # msgspec reads the annotations
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from jackfield.tensor import Datatype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jackfield.messages import InferResponse

Kind = Literal["drift", "outlier", "adversarial"]
_VERDICTS: dict[str, Kind] = {
    "is_drift": "drift",
    "is_outlier": "outlier",
    "is_adversarial": "adversarial",
}
#: Features that a verdict tells apart: those of an image are told together.
MOST_FEATURES = 1000


class NoVerdictError(ValueError):
    """An answer is no verdict; the text says why."""


class FeatureVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one feature; None is what the detector does not tell."""

    name: str
    p_value: float | None = None
    distance: float | None = None
    threshold: float | None = None
    is_drift: bool | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector found in some rows."""

    #: When, in seconds since 1970.
    time_s: float
    kind: Kind
    #: Drift, or more outliers than the settings allow.
    is_positive: bool
    #: Rows that it is about.
    rows: int
    #: Rows that are outliers or adversarial, or at which an online detector found drift.
    flagged_rows: int = 0
    #: Below it a p-value, above it a score or a statistic is an alarm; None if not told.
    threshold: float | None = None
    #: The largest score of a row, for detectors of outliers.
    score: float | None = None
    #: Each feature by itself, or one named `all` where the test is of all together.
    features: Sequence[FeatureVerdict] = ()
    #: Number of the worker whose monitor it is; unset in a server of one process.
    worker: int | msgspec.UnsetType = msgspec.UNSET


def read_verdicts(
    response: InferResponse,
    *,
    rows: int,
    time_s: float,
    names: Sequence[str],
    outlier_share: float = 0.0,
) -> list[Verdict]:
    """Read what a detector answered.

    Args:
        response: Its answer. `is_drift` is ``[w]`` or ``[w, features]`` for w windows, and so are
            `p_val`, `distance` and `threshold`; of an online detector (`test_stat` is there) they
            are for w rows. `is_outlier` and `is_adversarial` are ``[n]`` for n rows, and so is
            `instance_score`. A detector under MLServer's name puts an axis of 1 before these.
        rows: Rows that it was asked about.
        time_s: When, in seconds since 1970.
        names: Of the features, where they are known.
        outlier_share: Outliers up to this share are no alarm.

    Returns:
        A verdict for each window; none while no window is full.

    Raises:
        NoVerdictError: None of the three outputs is there, or one has no numbers.
    """
    arrays = {each.name: each.array for each in response.outputs if _is_number(each.datatype)}
    name = next((name for name in _VERDICTS if name in arrays), None)
    if name is None:
        found = ", ".join(f"'{tensor.name}'" for tensor in response.outputs) or "no output"
        raise NoVerdictError(f"it answers {found}, and none of {', '.join(_VERDICTS)}")
    kind = _VERDICTS[name]
    flags = np.nan_to_num(np.atleast_1d(arrays[name]).astype(np.float64)) > 0
    if kind != "drift":
        return [_outliers(kind, flags, arrays, rows, time_s, outlier_share)]
    if not flags.size:
        return []
    if "test_stat" in arrays:
        return [_online(flags, arrays, rows, time_s, names)]
    n_windows = len(flags)
    sizes = _per_window(arrays.get("rows"), n_windows)
    told = {key: _per_window(arrays.get(key), n_windows) for key in _NUMBERS}
    by_window = _per_window(flags, n_windows)
    assert by_window is not None
    return [
        _drift(
            by_window[place],
            {key: None if values is None else values[place] for key, values in told.items()},
            rows=rows if sizes is None else int(sizes[place].flat[0]),
            time_s=time_s,
            names=names,
        )
        for place in range(n_windows)
    ]


_NUMBERS = ("p_val", "distance", "threshold")


def _is_number(datatype: Datatype) -> bool:
    return datatype is not Datatype.BYTES


def _per_window(array: NDArray[Any] | None, n_windows: int) -> NDArray[Any] | None:
    """Shape an output ``[windows, values]``; None where it is missing or of another size."""
    if array is None or not array.size or array.size % n_windows:
        return None
    return array.reshape(n_windows, -1)


def _drift(
    flags: NDArray[np.bool_],
    told: dict[str, NDArray[Any] | None],
    *,
    rows: int,
    time_s: float,
    names: Sequence[str],
) -> Verdict:
    width = max(len(flags), *(len(each) for each in told.values() if each is not None), 1)
    thresholds = told["threshold"]
    return Verdict(
        time_s=time_s,
        kind="drift",
        is_positive=bool(flags.any()),
        rows=rows,
        threshold=_number(thresholds, 0) if thresholds is not None else None,
        features=_features(flags, told, width, names),
    )


def _features(
    flags: NDArray[np.bool_],
    told: dict[str, NDArray[Any] | None],
    width: int,
    names: Sequence[str],
) -> list[FeatureVerdict]:
    if width > MOST_FEATURES:
        return []
    if width == 1 and len(names) != 1:
        names = ["all"]
    elif len(names) != width or len(set(names)) < width:
        names = [str(place) for place in range(width)]
    return [
        FeatureVerdict(
            name=name,
            p_value=_number(told["p_val"], place),
            distance=_number(told["distance"], place),
            threshold=_number(told["threshold"], place),
            is_drift=_is_drift(flags, told, width, place),
        )
        for place, name in enumerate(names)
    ]


def _is_drift(
    flags: NDArray[np.bool_], told: dict[str, NDArray[Any] | None], width: int, place: int
) -> bool | None:
    """Tell one feature's drift: as the detector does, or else by its p-value."""
    if len(flags) == width:
        return bool(flags[place])
    p_value, threshold = _number(told["p_val"], place), _number(told["threshold"], place)
    return None if p_value is None or threshold is None else p_value < threshold


def _number(values: NDArray[Any] | None, place: int) -> float | None:
    """Get one value; one alone is for all features. None where it is missing or NaN."""
    if values is None or (len(values) > 1 and place >= len(values)):
        return None
    value = float(values[place if len(values) > 1 else 0])
    return None if np.isnan(value) else value


def _online(
    flags: NDArray[np.bool_],
    arrays: dict[str, NDArray[Any]],
    rows: int,
    time_s: float,
    names: Sequence[str],
) -> Verdict:
    """Read the answer of an online detector: the last row's statistics, any row's drift."""
    by_row = flags.reshape(len(flags), -1)
    told: dict[str, NDArray[Any] | None] = {"p_val": None}
    for key, name in (("distance", "test_stat"), ("threshold", "threshold")):
        values = _per_window(arrays.get(name), len(by_row))
        told[key] = None if values is None else values[-1]
    statistics = told["distance"]
    width = 1 if statistics is None else len(statistics)
    last = by_row[-1:].reshape(-1)
    if len(last) != width:
        last = np.array([last.any()])
    return Verdict(
        time_s=time_s,
        kind="drift",
        is_positive=bool(by_row.any()),
        rows=rows,
        flagged_rows=int(by_row.any(axis=1).sum()),
        threshold=_number(told["threshold"], 0),
        features=_features(last, told, width, names),
    )


def _outliers(
    kind: Kind,
    flags: NDArray[np.bool_],
    arrays: dict[str, NDArray[Any]],
    rows: int,
    time_s: float,
    outlier_share: float,
) -> Verdict:
    # an outlier in a feature of a row, or at a time of a series, makes the row one
    by_row = flags.reshape(rows, -1).any(axis=1) if rows and not flags.size % rows else flags
    n_flagged = int(by_row.sum())
    scores = arrays.get("instance_score", np.empty(0))
    finite = scores[np.isfinite(scores)]
    thresholds = arrays.get("threshold", np.empty(0)).reshape(-1)
    return Verdict(
        time_s=time_s,
        kind=kind,
        is_positive=n_flagged > outlier_share * rows,
        rows=rows,
        flagged_rows=n_flagged,
        threshold=_number(thresholds, 0) if thresholds.size else None,
        score=float(finite.max()) if finite.size else None,
    )
