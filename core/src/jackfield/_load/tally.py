"""What was seen of a server under load, in a form that goes between processes."""

from __future__ import annotations

import msgspec

from jackfield._load.histogram import Histogram

#: Share of a processor from which on the generator's loop counts as the limit.
_BUSY = 0.9
#: How late the generator may send before it counts as the limit, in nanoseconds.
_LATE_NS = 2_000_000


class Failure(msgspec.Struct):
    """Requests that failed in one way."""

    count: int = 0
    #: What was said of the first.
    example: str = ""


class Tally(msgspec.Struct):
    """What became of the requests that were due within a window of time.

    Invariant: `sent` is `answered`, the failures and `unanswered` together, once all is over.
    """

    #: From when each good answer's request was due, or sent in a closed loop, until it was there.
    latency: Histogram = msgspec.field(default_factory=Histogram)
    #: How late the generator sent what was due; open loop only.
    lag: Histogram = msgspec.field(default_factory=Histogram)
    sent: int = 0
    #: Good answers.
    answered: int = 0
    #: Good answers that came within the window, some to requests due before it.
    in_window: int = 0
    #: Status, or what else went wrong -> how often.
    failures: dict[str, Failure] = {}
    #: Due, but not sent: as many as allowed were outstanding.
    dropped: int = 0
    #: Cut off by an interrupt.
    unanswered: int = 0
    #: Answers that differ from the first.
    mismatches: int = 0
    #: How the first of them differs.
    mismatch: str = ""
    #: Length of the window.
    measured_s: float = 0.0
    #: Share of one processor that the generator's event loop had, of the busiest process.
    busy: float = 0.0

    def fail(self, problem: str, text: str) -> None:
        """Count a failure."""
        failure = self.failures.setdefault(problem, Failure(example=text))
        failure.count += 1

    def merge(self, other: Tally, *, is_beside: bool) -> None:
        """Add what another saw.

        Args:
            other: Taken as it is.
            is_beside: In the same window by another process; else in a window after this one.
        """
        self.latency.merge(other.latency)
        self.lag.merge(other.lag)
        self.sent += other.sent
        self.answered += other.answered
        self.in_window += other.in_window
        self.dropped += other.dropped
        self.unanswered += other.unanswered
        self.mismatches += other.mismatches
        self.mismatch = self.mismatch or other.mismatch
        for problem, failure in other.failures.items():
            mine = self.failures.setdefault(problem, Failure(example=failure.example))
            mine.count += failure.count
        if is_beside:
            self.measured_s = max(self.measured_s, other.measured_s)
        else:
            self.measured_s += other.measured_s
        self.busy = max(self.busy, other.busy)

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(failure.count for failure in self.failures.values())

    @property
    def throughput_per_s(self) -> float:
        """Good answers within the window, per second of it."""
        return self.in_window / self.measured_s if self.measured_s else 0.0

    @property
    def is_generator_limit(self) -> bool:
        """Whether the generator, not the server, may be what the numbers tell of.

        Its event loop had no time left, or it sent late by much of what was measured.
        """
        late = self.lag.percentile(99)
        is_late = late > _LATE_NS and late > self.latency.percentile(99) / 4
        return self.busy >= _BUSY or is_late


def merged(tallies: list[Tally], *, is_beside: bool) -> Tally:
    """Add tallies up to a new one."""
    result = Tally()
    for tally in tallies:
        result.merge(tally, is_beside=is_beside)
    return result
