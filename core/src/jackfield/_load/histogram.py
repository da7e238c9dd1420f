"""Count durations in buckets that grow with the duration: bounded memory, bounded relative error.

Below 256 ns every nanosecond has a bucket of its own. Above, each doubling is cut into 128 equal
buckets, so that the middle of a bucket is at most 1/256 of its values away from any of them.
"""

from __future__ import annotations

import math

import msgspec

#: How far a percentile may be from the recorded value, as a share of it.
RELATIVE_ERROR = 1 / 256

_BITS = 7
#: Longer durations (73 minutes) share the last bucket.
_LONGEST = 2**42 - 1


class Histogram(msgspec.Struct):
    """Durations, counted.

    Invariant: `count` is the sum of `counts`, of which there are at most 4,608.

    Units: nanoseconds.
    """

    #: Number of a bucket -> how many it holds; the empty ones are left out.
    counts: dict[int, int] = {}
    count: int = 0
    total: int = 0
    #: Exact; 0 while nothing is recorded.
    smallest: int = 0
    #: Exact; 0 while nothing is recorded.
    largest: int = 0

    def record(self, value: int) -> None:
        """Count a duration; a negative one counts as 0."""
        value = max(value, 0)
        bucket = _bucket(min(value, _LONGEST))
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.smallest = min(self.smallest, value) if self.count else value
        self.largest = max(self.largest, value)
        self.count += 1
        self.total += value

    def merge(self, other: Histogram) -> None:
        """Count what another counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        if other.count:
            self.smallest = min(self.smallest, other.smallest) if self.count else other.smallest
        self.largest = max(self.largest, other.largest)
        self.count += other.count
        self.total += other.total

    def percentile(self, percent: float) -> int:
        """Give the smallest duration that so many percent do not exceed; 0 if there is none.

        Returns:
            Within `RELATIVE_ERROR` of the duration of that rank, up to 73 minutes.
        """
        if not self.count:
            return 0
        # rounded: 99.9 % of 1,000 is the 999th, not the next one by a bit of a float
        rank = max(1, math.ceil(round(percent / 100 * self.count, 6)))
        if rank >= self.count:
            return self.largest
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return min(max(_middle(bucket), self.smallest), self.largest)
        raise AssertionError  # the counts add up to the count

    @property
    def mean(self) -> float:
        """The mean, exact; 0 if there is none."""
        return self.total / self.count if self.count else 0.0


def _bucket(value: int) -> int:
    shift = value.bit_length() - _BITS - 1
    return value if shift <= 0 else (shift << _BITS) + (value >> shift)


def _middle(bucket: int) -> int:
    shift = max((bucket >> _BITS) - 1, 0)
    low = (bucket - (shift << _BITS)) << shift
    return low + (1 << shift) // 2
