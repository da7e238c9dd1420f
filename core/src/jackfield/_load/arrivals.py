"""When the requests of an open loop are due: the schedule knows no server."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Arrivals: TypeAlias = Literal["poisson", "constant"]

_SECOND = 1_000_000_000


def arrivals(
    kind: Arrivals, rate: float, begin_ns: int, end_ns: int, *, seed: int = 0, phase: float = 0.0
) -> Iterator[int]:
    """Yield the times at which requests are due, in order.

    Args:
        kind: ``constant`` has equal gaps; ``poisson`` has exponential ones, as requests of many
            callers that know nothing of each other have.
        rate: Requests per second, of 0 or more.
        begin_ns: The first time that may be due.
        end_ns: The first time that may not.
        seed: Of the gaps that are random; the same gives the same times.
        phase: Where in its gap the first constant request lies, from 0 up to 1: generators that
            share a rate take turns by it.

    Units: nanoseconds.
    """
    if rate <= 0:
        return
    gap = _SECOND / rate
    if kind == "constant":
        # by the count, not by adding gaps: rounding would add up to a drift
        for index in itertools.count():
            at = begin_ns + int((index + phase) * gap)
            if at >= end_ns:
                return
            yield at
    draw = random.Random(seed)
    elapsed = draw.expovariate(1.0) * gap
    while begin_ns + int(elapsed) < end_ns:
        yield begin_ns + int(elapsed)
        elapsed += draw.expovariate(1.0) * gap
