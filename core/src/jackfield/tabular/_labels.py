"""Labels: from the index or the probability of a class to its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from jackfield.messages import Parameter

#: The threshold of two classes.
_HALF = 0.5


class Labels:
    """The labels of a classifier's classes, in the order of its probabilities' columns.

    Args:
        labels: From `classes_`, the artifact, or a `labels` setting: text, bytes, integers, floats
            or truth values, all of one kind.

    Raises:
        ValueError: There is none, one is there twice, or text and numbers are mixed.

    Example:
        ```python
        labels = Labels(["cat", "dog"])
        labels.of_probabilities(np.array([0.2, 0.9]))  # [b"cat", b"dog"]
        labels.of_probabilities(np.array([[0.7, 0.3]]))  # [b"cat"]
        labels.of_indices(np.array([1, 0]))  # [b"dog", b"cat"]
        ```
    """

    def __init__(self, labels: Iterable[object]) -> None:
        values = [each.item() if isinstance(each, np.generic) else each for each in labels]
        is_text = [isinstance(each, str | bytes) for each in values]
        if not values or len({*values}) < len(values) or any(is_text) != all(is_text):
            message = f"expected labels that differ, all text or all numbers, found {values[:10]!r}"
            raise ValueError(message)
        if all(is_text):
            # bytes, as a response's tensor holds them
            array = np.empty(len(values), dtype=object)
            array[:] = [each.encode() if isinstance(each, str) else each for each in values]
        else:
            array = np.array(values)
        self._array: NDArray[Any] = array

    def __len__(self) -> int:
        return len(self._array)

    @property
    def metadata(self) -> dict[str, Parameter]:
        """``{"classes": […]}``, for the metadata of outputs with a column for each class."""
        if self._array.dtype == object:
            return {"classes": [each.decode(errors="replace") for each in self._array.tolist()]}
        return {"classes": self._array.tolist()}

    def of_indices(self, indices: NDArray[Any]) -> NDArray[Any]:
        """Give the label of each index; a float that holds a whole number is one, too.

        Raises:
            IndexError: There are fewer labels.

        Shapes: Kept.
        """
        found: NDArray[Any] = self._array[np.asarray(indices).astype(np.intp, copy=False)]
        return found

    def of_probabilities(
        self, probabilities: NDArray[Any], *, threshold: float = _HALF
    ) -> NDArray[Any]:
        """Give the label of the most probable class, the first of several that are equal.

        Args:
            probabilities: [rows, classes], or [rows] or [rows, 1] for the second of two classes.
            threshold: The second of two classes needs more than this; 0 for raw scores.

        Shapes: [rows].
        """
        if probabilities.ndim == 1 or probabilities.shape[1] == 1:
            indices = (probabilities.reshape(-1) > threshold).astype(np.intp)
        elif probabilities.shape[1] == 2 and threshold != _HALF:
            indices = (probabilities[:, 1] > threshold).astype(np.intp)
        else:
            indices = probabilities.argmax(axis=1)
        return self.of_indices(indices)


def both_classes(probabilities: NDArray[Any]) -> NDArray[Any]:
    """Make [rows, 2] of the second class's probabilities, [rows] or [rows, 1]."""
    second = probabilities.reshape(-1)
    both = np.empty((second.size, 2), dtype=second.dtype)
    np.subtract(1, second, out=both[:, 0])
    both[:, 1] = second
    return both
