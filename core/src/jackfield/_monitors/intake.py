"""What a request pays for a monitor: by chance a few rows are copied into a bounded queue.

Runs on the event loop, right after a model's answer. It raises nothing and waits for nothing.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jackfield._monitors.statistics import MonitorStatistics
    from jackfield.settings import MonitorSettings

#: Most bytes that wait, in bytes: the rows of a queue may be images.
MOST_BYTES = 64 * 1024 * 1024


class Sample(NamedTuple):
    """Rows that were taken of one request, and belong to no request any more."""

    rows: int
    n_bytes: int
    tensors: Sequence[Tensor]


class Intake:
    """Takes rows by chance, each with the same one, and keeps the newest.

    Which rows are taken is drawn as gaps between them: a request within a gap costs a subtraction.

    Args:
        settings: The monitor's.
        statistics: Counts rows here.
        wake: Called when rows wait, once for each time that they are fetched.
        names: Of the tensors to look at; all of them if empty.
        seed: Of the gaps; None draws one for each process.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        statistics: MonitorStatistics,
        wake: Callable[[], None],
        *,
        names: Sequence[str] = (),
        seed: int | None = None,
    ) -> None:
        self._names = tuple(names)
        self._most_rows = settings.max_queue
        self._statistics = statistics
        self._wake = wake
        self._is_woken = False
        self._chance = random.Random(seed)
        # 0 stands for every row: the gaps' distribution has no such limit
        self._log_miss = math.log1p(-settings.sample) if settings.sample < 1 else 0.0
        self._skip = self._gap()
        self._samples: deque[Sample] = deque()
        #: Rows that wait.
        self.rows = 0
        self._bytes = 0

    def offer(self, tensors: Sequence[Tensor]) -> None:
        """Look at the tensors of one request.

        Args:
            tensors: They are not kept.
        """
        counts = self._statistics
        if self._names:
            tensors = [tensor for tensor in tensors if tensor.name in self._names]
            if len(tensors) < len(self._names):
                counts.drops["missing"] += _rows(tensors)
                return
        n_rows = _rows(tensors)
        counts.seen_rows += n_rows
        if n_rows <= self._skip:
            self._skip -= n_rows
            return
        taken = self._draw(n_rows)
        n_taken = len(taken)
        counts.sampled_rows += n_taken
        if any(tensor.array.shape[:1] != (n_rows,) for tensor in tensors):
            counts.drops["misfit"] += n_taken
            return
        if n_taken > self._most_rows:
            counts.drops["queue"] += n_taken - self._most_rows
            taken = taken[-self._most_rows :]
        # before they are copied: an estimate, since texts differ in length
        n_bytes = sum(_n_bytes(tensor) for tensor in tensors) * len(taken) // n_rows
        if n_bytes > MOST_BYTES:
            counts.drops["size"] += len(taken)
            return
        self._keep(Sample(len(taken), n_bytes, [_copy(each, taken, n_rows) for each in tensors]))

    def fetch(self) -> list[Sample]:
        """Take what waits, oldest first; on the loop."""
        samples = [*self._samples]
        self._samples.clear()
        self.rows = self._bytes = 0
        self._is_woken = False
        return samples

    def _draw(self, n_rows: int) -> Sequence[int]:
        """Draw which rows of a request are taken, and the gap that it leaves."""
        if not self._log_miss:
            return range(n_rows)
        taken = []
        place = self._skip
        while place < n_rows:
            taken.append(place)
            place += 1 + self._gap()
        self._skip = place - n_rows
        return taken

    def _gap(self) -> int:
        """Draw how many rows are passed over: a geometric distribution, inverted."""
        if not self._log_miss:
            return 0
        return int(math.log(1.0 - self._chance.random()) / self._log_miss)

    def _keep(self, sample: Sample) -> None:
        self._samples.append(sample)
        self.rows += sample.rows
        self._bytes += sample.n_bytes
        while self.rows > self._most_rows or self._bytes > MOST_BYTES:
            oldest = self._samples.popleft()
            self.rows -= oldest.rows
            self._bytes -= oldest.n_bytes
            self._statistics.drops["queue"] += oldest.rows
        if not self._is_woken:
            self._is_woken = True
            self._wake()


def _rows(tensors: Sequence[Tensor]) -> int:
    """Count a request's rows; what has none counts as one."""
    shape = tensors[0].array.shape if tensors else ()
    return shape[0] if shape else 1


def _n_bytes(tensor: Tensor) -> int:
    if tensor.datatype is Datatype.BYTES:
        return tensor.array.nbytes + sum(map(len, tensor.array.flat))
    return tensor.array.nbytes


def _copy(tensor: Tensor, taken: Sequence[int], n_rows: int) -> Tensor:
    """Copy rows: the request's array may be a view on its whole body."""
    array = tensor.array.copy() if len(taken) == n_rows else tensor.array[taken]
    return Tensor(tensor.name, tensor.datatype, array, tensor.parameters)
