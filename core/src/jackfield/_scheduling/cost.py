"""What a call of a runtime will cost, estimated from the calls so far.

The model is ``latency = slope * rows + base``, fitted by least squares in which old calls fade. A
call that took longer than foreseen counts less than one that was quicker: what a machine's other
work adds to a call says nothing of the model.
"""

from __future__ import annotations

import math

#: What is left of a call's weight after the next one.
_KEEP = 0.95
#: Weight of a call that took longer than foreseen, beside one that was quicker.
_SLOW_WEIGHT = 0.2
#: How much longer than foreseen a call may count.
_MOST = 4.0
#: What is foreseen at least in that, in nanoseconds: a coarse clock may see nothing of a call.
_LEAST = 1000.0
#: The first call warms a framework up, and says nothing of the next ones.
_WARM_UP = 1


class Cost:
    """An estimate for one model; times in nanoseconds."""

    def __init__(self) -> None:
        self._calls = 0
        # weighted sums: of 1, rows, ns, rows squared, rows times ns
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        # the line, and what no call takes less than
        self._slope, self._base, self._least = 0.0, 0.0, 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough calls were seen."""
        return self._sums[0] > 0

    def update(self, rows: int, ns: int) -> None:
        """Learn from a call."""
        self._calls += 1
        if self._calls <= _WARM_UP:
            return
        y, weight = float(ns), 1.0
        count, sum_x, sum_y, sum_xx, sum_xy = self._sums
        if count > 0:
            foreseen = self.predict(rows)
            if y > foreseen:
                y, weight = min(y, _MOST * max(foreseen, _LEAST)), _SLOW_WEIGHT
        self._sums = (
            _KEEP * count + weight,
            _KEEP * sum_x + weight * rows,
            _KEEP * sum_y + weight * y,
            _KEEP * sum_xx + weight * rows * rows,
            _KEEP * sum_xy + weight * rows * y,
        )
        self._fit()

    def _fit(self) -> None:
        """Draw the line; where all calls had as many rows, more of them cost in proportion."""
        count, sum_x, sum_y, sum_xx, sum_xy = self._sums
        mean_x, mean_y = sum_x / count, sum_y / count
        variance = sum_xx / count - mean_x * mean_x
        self._least = 0.0
        # a relative bound: rounding leaves a trace of the squares
        if variance > 1e-3 * mean_x * mean_x:
            self._slope = max(0.0, (sum_xy / count - mean_x * mean_y) / variance)
            self._base = mean_y - self._slope * mean_x
            if self._base < 0:  # no call takes less than nothing: the best line through the origin
                self._slope, self._base = sum_xy / sum_xx, 0.0
        elif mean_x:
            self._slope, self._base, self._least = mean_y / mean_x, 0.0, mean_y
        else:
            self._slope, self._base = 0.0, mean_y

    def predict(self, rows: int) -> float:
        """Foresee a call, in nanoseconds; 0 while nothing is known."""
        return max(self._least, self._slope * rows + self._base)

    def most_rows(self, ns: float) -> float:
        """Tell how many rows a call may have that takes so long; below 0 for none."""
        if not self.is_known or self._least > ns:
            return -1.0
        return (
            (ns - self._base) / self._slope
            if self._slope
            else math.copysign(math.inf, ns - self._base)
        )
