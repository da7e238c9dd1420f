"""What offline detectors remember beside a window: requests of a batch, attributes that change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_Array: TypeAlias = "NDArray[Any]"


class RequestBatch:
    """Gathers the rows of so many requests, as MLServer's `batch_size` does.

    Args:
        size: How many requests.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: list[_Array] = []

    def fits(self, rows: _Array) -> bool:
        """Tell whether `add` takes such rows."""
        return not self._held or (
            self._held[0].shape[1:] == rows.shape[1:]
            and (self._held[0].dtype == object) == (rows.dtype == object)
        )

    def add(self, rows: _Array) -> _Array | None:
        """Take the rows of one request.

        Returns:
            Those of all requests, if this was the last one; None until then.
        """
        self._held.append(np.array(rows))
        if len(self._held) < self._size:
            return None
        held, self._held = self._held, []
        return np.concatenate(held)

    def __len__(self) -> int:
        return len(self._held)

    def snapshot(self) -> dict[str, _Array]:
        """Copy what it holds."""
        return {f"{place:06}": rows for place, rows in enumerate(self._held)}

    def restore(self, snapshot: Mapping[str, _Array]) -> None:
        """Hold what another one held.

        Raises:
            ValueError: That is a batch already.
        """
        if len(snapshot) >= self._size and snapshot:
            message = f"{len(snapshot)} requests are held, of {self._size}"
            raise ValueError(message)
        self._held = [snapshot[name] for name in sorted(snapshot)]


class Attributes:
    """Attributes in which a detector remembers what it saw: means, the reference data.

    Args:
        detector: The object that has them.
        names: Theirs; arrays and numbers.
    """

    def __init__(self, detector: Any, names: Sequence[str]) -> None:  # noqa: ANN401  untyped
        self._detector = detector
        self._names = names

    def snapshot(self) -> dict[str, _Array]:
        """Copy them."""
        found = {name: getattr(self._detector, name) for name in self._names}
        return {name: np.array(each) for name, each in found.items() if each is not None}

    def restore(self, snapshot: Mapping[str, _Array]) -> None:
        """Set them to a copy.

        Raises:
            ValueError: They are not those of this detector; nothing is changed.
        """
        if not snapshot.keys() <= set(self._names):
            message = f"it has {sorted(snapshot)}, not {sorted(self._names)}"
            raise ValueError(message)
        for name, array in snapshot.items():
            # what was a number is one again
            setattr(self._detector, name, array if array.ndim else array.item())
