"""Where shap's KernelExplainer looks at each number by itself: the same by arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def quicken(explainer: Any) -> None:  # noqa: ANN401  shap is untyped
    """Have an explainer find the features that vary by a comparison for each of them.

    shap compares each number of the background with that of the row by a `numpy.isclose` of its
    own, 400 of them for 100 rows of 4 features: half of the time that it takes itself. What is
    found is the same.

    Args:
        explainer: A `shap.KernelExplainer`, or one derived from it; changed.
    """
    inner = getattr(explainer, "varying_groups", None)
    if inner is None:  # one that Alibi distributes has it in other processes
        return

    def varying_groups(x: Any) -> Any:  # noqa: ANN401  sparse matrices, too
        row, rows = _numbers(x), _numbers(explainer.data.data)
        if row is None or rows is None:
            return inner(x)
        is_varying = [
            not np.isclose(row[0, group], rows[:, group], equal_nan=True).all()
            for group in explainer.data.groups
        ]
        return np.nonzero(np.array(is_varying))[0]

    explainer.varying_groups = varying_groups


def _numbers(values: object) -> NDArray[np.float64] | None:
    """Give plain numbers as doubles, which is what shap compares; None for anything else."""
    if type(values) is not np.ndarray or values.dtype.kind not in "fiu":
        return None
    return values.astype(np.float64, copy=False) if values.dtype.itemsize <= 8 else None
