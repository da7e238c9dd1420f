"""All that there is to tell of a monitor, in the form that REST answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence  # msgspec reads the annotations
from typing import Any, Generic, TypeVar, cast

import msgspec

from jackfield._monitors.verdict import Verdict

V = TypeVar("V")
W = TypeVar("W")


class MonitorRecord(msgspec.Struct, Generic[V], frozen=True, kw_only=True):
    """What a monitor is set to, saw and found; without secrets."""

    name: str
    settings: Mapping[str, Any]
    #: Why nothing is judged now; empty if it is.
    problem: str
    #: Why rows did not fit, the last time that some did not.
    misfit: str
    #: Counts of rows; `dropped` has its own, by reason.
    rows: Mapping[str, Any]
    #: `rows` that it holds, and its `fullness` from 0 to 1; None without one.
    window: Mapping[str, int | float] | None
    #: Counts of verdicts.
    verdicts: Mapping[str, int]
    #: Counts of the detector's calls.
    calls: Mapping[str, int]
    #: Counts of events, and the `problem` of the last one; None without one.
    webhook: Mapping[str, Any] | None
    #: None before the first.
    current: Verdict | None
    #: The last verdicts, oldest first; or what each of them is written as.
    history: Sequence[V]

    async def with_history(self, change: Callable[[V], W]) -> MonitorRecord[W]:
        """Change each verdict of the history, one in a turn: all of them may be megabytes."""
        history = []
        for verdict in self.history:
            await asyncio.sleep(0)
            history.append(change(verdict))
        return cast("MonitorRecord[W]", msgspec.structs.replace(self, history=history))
