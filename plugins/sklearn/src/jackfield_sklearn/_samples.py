"""Rows to compare a model's two forms on: what the operator stored, and what the model tells of.

Values around the training data as far as scalers and trees know them, values of any size, and for
each threshold of a tree the values on both sides of it, as near as float32 and float64 can say.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield import ModelLoadError
from jackfield.tabular import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from jackfield.tabular import Column
    from jackfield_sklearn._trees import Nodes

#: Most rows of each kind.
ROWS = 500


def stored(file: Path, width: int) -> list[list[Any]]:
    """Read rows from a file.

    Args:
        file: ``.npy``, a matrix; else JSON: a list of rows, or an object with one under "data".
        width: Values in a row.

    Raises:
        ModelLoadError: It can't be read, or a row has another width.
    """
    try:
        if file.suffix == ".npy":
            rows = np.load(file, allow_pickle=False).tolist()
        else:
            rows = json.loads(file.read_bytes())
            rows = rows["data"] if isinstance(rows, dict) else rows
        is_table = all(len(row) == width for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"the samples in '{file.name}' can't be read: {error}") from error
    if not is_table:
        raise ModelLoadError(f"the samples in '{file.name}' are not rows of {width} values")
    return [list(row) for row in rows]


def generated(
    columns: Sequence[Column],
    trees: Sequence[tuple[object, list[Nodes]]],
    scalers: Sequence[object],
) -> list[list[Any]]:
    """Make rows up, the same ones each time.

    Args:
        columns: Of the model.
        trees: Trees, each with the transformer that the rows pass before them, or None.
        scalers: Those that are handed the columns themselves.
    """
    random = np.random.default_rng(0)
    width = len(columns)
    middle, spread = _ranges(width, scalers)
    numbers = [middle + spread * random.normal(size=(ROWS, width))]
    size = 10.0 ** random.uniform(-4, 6, size=(ROWS, width))
    numbers.append(size * random.choice([-1.0, 1.0], size=(ROWS, width)))
    numbers.append(random.integers(-3, 12, size=(ROWS // 2, width)).astype(float))
    numbers.append(np.zeros((1, width)))
    for before, nodes in trees:
        numbers += _at_thresholds(before, nodes, width, random)
    return _fill(np.concatenate(numbers), columns, random)


def _ranges(
    width: int, scalers: Sequence[object]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find where the training data lay: what a scaler has noted, else around zero."""
    noted = (("mean_", "scale_"), ("center_", "scale_"), ("data_min_", "data_range_"))
    for scaler in scalers:
        for centre, extent in noted:
            found = [getattr(scaler, name, None) for name in (centre, extent)]
            if all(isinstance(each, np.ndarray) and each.shape == (width,) for each in found):
                return np.asarray(found[0], float), 2 * np.asarray(found[1], float)
    return np.zeros(width), np.full(width, 3.0)


def _at_thresholds(
    before: Any,  # noqa: ANN401  a transformer
    nodes: list[Nodes],
    width: int,
    random: np.random.Generator,
) -> list[NDArray[np.float64]]:
    """Put rows at, just below and just above thresholds, the rest between others of its column."""
    feature = np.concatenate([each.feature[each.left >= 0] for each in nodes])
    threshold = np.concatenate([each.threshold[each.left >= 0] for each in nodes])
    is_usable = np.isfinite(threshold) & (np.abs(threshold) < 1e30)
    feature, threshold = feature[is_usable], threshold[is_usable]
    inner_width = width
    if before is not None:
        inner_width = int(feature.max(initial=0)) + 1
        inner_width = max(inner_width, getattr(before, "n_features_in_", 0))
    known = [threshold[feature == place] for place in range(inner_width)]

    def any_rows(count: int) -> NDArray[np.float64]:
        made = np.empty((count, inner_width))
        for place, values in enumerate(known):
            if not len(values):
                made[:, place] = random.normal(size=count)
                continue
            low, high = values.min(), values.max()
            room = (high - low) / 4 or 1.0
            made[:, place] = random.uniform(low - room, high + room, size=count)
        return made

    found = [any_rows(2 * ROWS)]
    chosen = random.permutation(len(threshold))[:ROWS]
    single = threshold[chosen].astype(np.float32)
    for values in (
        threshold[chosen],
        np.nextafter(threshold[chosen], np.inf),
        np.nextafter(threshold[chosen], -np.inf),
        np.nextafter(single, np.float32(np.inf)).astype(float),
        np.nextafter(single, np.float32(-np.inf)).astype(float),
    ):
        rows = any_rows(len(chosen))
        rows[np.arange(len(chosen)), feature[chosen]] = values
        found.append(rows)
    # all values of a row at a threshold of its column
    rows = any_rows(ROWS)
    for place, values in enumerate(known):
        if len(values):
            rows[:, place] = random.choice(values, size=ROWS)
    found.append(rows)
    if before is None:
        return found
    try:
        back = [np.asarray(before.inverse_transform(each), np.float64) for each in found]
    # it has no way back, or not for these
    except Exception:  # noqa: BLE001
        return []
    return [each for each in back if each.ndim == 2 and each.shape[1] == width]


def _fill(
    numbers: NDArray[np.float64], columns: Sequence[Column], random: np.random.Generator
) -> list[list[Any]]:
    """Put texts where a column holds text."""
    made: list[list[Any]] = numbers.tolist()
    for place, column in enumerate(columns):
        if column.kind is not Kind.TEXT:
            continue
        texts = [str(each) for each in column.categories] or ["text"]
        for row, text in zip(made, random.choice(len(texts), size=len(made)), strict=True):
            row[place] = texts[text]
    return made
