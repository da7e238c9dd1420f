"""What a monitor did so far: the one record, which REST and Prometheus read."""

from __future__ import annotations

from typing import Literal, TypeAlias

#: Why rows are not judged: they waited too long behind others (`queue`), have too many bytes
#: (`size`), do not fit the detector or each other (`misfit`), are no part of the answer
#: (`missing`), would have been in a window that was dropped (`window`), or the detector failed on
#: them (`failure`) or was not there for them (`unavailable`); `error` is a fault of ours.
Drop: TypeAlias = Literal[
    "queue", "size", "misfit", "missing", "window", "failure", "unavailable", "error"
]
DROPS: tuple[Drop, ...] = (
    "queue",
    "size",
    "misfit",
    "missing",
    "window",
    "failure",
    "unavailable",
    "error",
)
#: How a call of the detector fails: it refuses the rows, raises, can't be had, or answers nothing
#: that is a verdict.
Failure: TypeAlias = Literal["refused", "failed", "unavailable", "no_verdict"]
FAILURES: tuple[Failure, ...] = ("refused", "failed", "unavailable", "no_verdict")

#: How a webhook ends: delivered, given up after all tries, or dropped since too many waited.
Delivery: TypeAlias = Literal["delivered", "failed", "dropped"]
DELIVERIES: tuple[Delivery, ...] = ("delivered", "failed", "dropped")


class MonitorStatistics:
    """The counts of one monitor since it was made; deliveries are counted in another thread.

    Of the rows seen, some are sampled; of these, some are judged, some dropped, and the rest wait.
    """

    __slots__ = (
        "calls",
        "deliveries",
        "drops",
        "failures",
        "judged_rows",
        "outlier_rows",
        "positives",
        "sampled_rows",
        "seen_rows",
        "verdicts",
    )

    def __init__(self) -> None:
        self.seen_rows = 0
        self.sampled_rows = 0
        #: Rows that the detector was asked about and answered for.
        self.judged_rows = 0
        self.drops: dict[str, int] = dict.fromkeys(DROPS, 0)
        #: Calls of the detector that succeeded.
        self.calls = 0
        self.failures: dict[str, int] = dict.fromkeys(FAILURES, 0)
        self.verdicts = 0
        #: Verdicts that found drift or too many outliers.
        self.positives = 0
        self.outlier_rows = 0
        self.deliveries: dict[str, int] = dict.fromkeys(DELIVERIES, 0)
