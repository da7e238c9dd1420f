"""What `monitor.py` serves: copied beside the settings of a model, and never imported from here."""

from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
from numpy.typing import NDArray

from jackfield import ModelContext

P_VALUE = 0.001

Matrix = Annotated[NDArray[np.float64], (-1, 13)]
Numbers = NDArray[np.float64]


class Verdict(TypedDict):
    """The outputs of a detector of drift."""

    is_drift: NDArray[np.int64]
    p_val: Numbers
    distance: Numbers
    threshold: Numbers


class KolmogorovSmirnov:
    """A two-sample test of each column, corrected for their number; asymptotic p-values."""

    def __init__(self, context: ModelContext) -> None:
        self.reference = np.sort(np.load(Path(str(context.extra["reference"]))), axis=0)
        self.terms = np.arange(1, 101)[:, None]

    def infer(self, rows: Matrix) -> Verdict:
        """Compare a window with the reference."""
        pairs = zip(np.sort(rows, axis=0).T, self.reference.T, strict=True)
        distances = np.array([_distance(*pair) for pair in pairs])
        n_rows, n_known = len(rows), len(self.reference)
        scaled = distances * np.sqrt(n_rows * n_known / (n_rows + n_known))
        signs = 1.0 - 2.0 * (self.terms % 2 == 0)
        p_values = 2 * (signs * np.exp(-2 * (self.terms * scaled) ** 2)).sum(axis=0)
        # the series does not converge near 0, where the test finds nothing
        p_values = np.where(scaled < 0.2, 1.0, np.clip(p_values, 0.0, 1.0))
        threshold = P_VALUE / len(distances)
        return {
            "is_drift": np.array([int(p_values.min() < threshold)]),
            "p_val": p_values[None],
            "distance": distances[None],
            "threshold": np.array([threshold]),
        }


def _distance(these: Numbers, others: Numbers) -> float:
    both = np.concatenate([these, others])
    shares = [np.searchsorted(each, both, side="right") / len(each) for each in (these, others)]
    return float(np.abs(shares[0] - shares[1]).max())
