"""A drift detector in NumPy: the test of Kolmogorov and Smirnov, feature by feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jackfield import (
    Datatype,
    InferRequest,  # not for annotations alone: jackfield reads them when it loads
    InferResponse,
    InvalidRequestError,
    ModelMetadata,
    Tensor,
    TensorMetadata,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jackfield import ModelContext

#: Chance of an alarm where nothing drifts, over all features.
P_VALUE = 0.01
#: Terms of the series: the next ones are below what a float can tell.
TERMS = np.arange(1, 101)


class KSDetector:
    """Compares the rows of each request with those that the model was trained on."""

    def __init__(self, context: ModelContext) -> None:
        self._folder = context.artifact

    def load(self) -> None:
        """Read the reference: rows, and the names of their columns."""
        with np.load(self._folder / "reference.npz") as arrays:
            self._rows, self._names = arrays["rows"], arrays["names"].tolist()
        self._sorted = np.sort(self._rows, axis=0)

    def metadata(self) -> ModelMetadata:
        """Tell what a detector tells, so that a monitor finds the verdict."""
        features = len(self._names)
        return ModelMetadata(
            platform="numpy",
            inputs=[TensorMetadata("x", Datatype.FP64, [-1, features])],
            outputs=[
                TensorMetadata("is_drift", Datatype.INT64, [-1]),
                TensorMetadata("p_val", Datatype.FP64, [-1, features]),
                TensorMetadata("distance", Datatype.FP64, [-1, features]),
                TensorMetadata("threshold", Datatype.FP64, [-1]),
                TensorMetadata("rows", Datatype.INT64, [-1]),
                TensorMetadata("reference", Datatype.FP64, [-1, features], {"on_request": True}),
            ],
            parameters={
                "detector": "KSDetector",
                "kind": "drift",
                "online": False,
                "feature_names": self._names,
            },
        )

    def infer(self, request: InferRequest) -> InferResponse:
        """Give one verdict on all rows; none on no rows."""
        x = request.inputs[0].array
        if x.ndim != 2 or x.shape[1] != len(self._names):
            expected = f"rows of {len(self._names)} features"
            raise InvalidRequestError("x", expected=expected, found=str(list(x.shape)))
        threshold = P_VALUE / len(self._names)  # Bonferroni: so many tests are made at once
        distance = np.array([self._distance(x[:, place], place) for place in range(x.shape[1])])
        n_both = len(x) * len(self._rows) / (len(x) + len(self._rows))
        p_val = p_values(distance, n_both)
        answers = {
            "is_drift": np.array([int((p_val < threshold).any())]),
            "p_val": p_val[np.newaxis],
            "distance": distance[np.newaxis],
            "threshold": np.array([threshold]),
            "rows": np.array([len(x)]),
        }
        if not len(x):
            answers = {name: array[:0] for name, array in answers.items()}
        if "reference" in [output.name for output in request.outputs]:
            answers["reference"] = self._rows
        return InferResponse([Tensor.from_array(*answer) for answer in answers.items()])

    def _distance(self, now: NDArray[np.float64], place: int) -> float:
        """Give the largest difference between the two distribution functions."""
        known, seen = self._sorted[:, place], np.sort(now)
        if not seen.size:
            return 0.0
        both = np.concatenate([known, seen])
        shares = (np.searchsorted(part, both, side="right") / part.size for part in (known, seen))
        return float(np.abs(np.subtract(*shares)).max())


def p_values(distance: NDArray[np.float64], n_both: float) -> NDArray[np.float64]:
    """Give how likely distances are at least as large where nothing drifts.

    Source: Stephens 1970, for the series with a correction for few rows.
    """
    scaled = (np.sqrt(n_both) + 0.12 + 0.11 / np.sqrt(n_both or 1)) * distance
    signs = (-1.0) ** (TERMS - 1)
    series = 2 * (signs * np.exp(-2 * np.square(np.outer(scaled, TERMS)))).sum(axis=1)
    return np.where(scaled < 0.2, 1.0, np.clip(series, 0.0, 1.0))
