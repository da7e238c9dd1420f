"""What is sent when, and what is counted: both loops as state machines, times in, requests out.

They know no server, no clock and no event loop, so that tests drive them by a clock of their own.
A request is known by the time from which its latency counts.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

from jackfield._load.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass(slots=True)
class Window:
    """The time in which requests are counted; what is due before it warms up.

    Units: nanoseconds.
    """

    begin_ns: int
    #: Nothing is due from here on.
    end_ns: int

    def holds(self, at_ns: int) -> bool:
        """Tell whether a time lies within."""
        return self.begin_ns <= at_ns < self.end_ns


class Loop(Protocol):
    """Decides what is sent when."""

    tally: Tally
    #: When to ask again, though no answer came; None for never.
    next_ns: int | None
    outstanding: int

    def due(self, now_ns: int) -> list[int]:
        """Give the requests to send now, each the time from which its latency counts."""

    def answered(self, since_ns: int, now_ns: int, problem: str = "", text: str = "") -> None:
        """Count an answer.

        Args:
            since_ns: Which request's.
            now_ns: When it came.
            problem: Empty for a good one; else the status, or what else went wrong.
            text: What was said of it.
        """

    def stop(self, now_ns: int) -> None:
        """Send nothing more: the window ends here."""


class _Counting:
    """What both loops count alike."""

    def __init__(self, window: Window) -> None:
        self.tally = Tally()
        self.outstanding = 0
        self._window = window
        # `stop` moves the window's end, but what was sent before it counts
        self._last_ns = window.end_ns

    def answered(self, since_ns: int, now_ns: int, problem: str = "", text: str = "") -> None:
        """Count an answer to a request that was due within the window, whenever it comes.

        The throughput alone counts what came within the window, whenever it was due: else slow
        answers at its end would be missing, and those at its begin not make up for it.
        """
        self.outstanding -= 1
        window, tally = self._window, self.tally
        if not problem:
            tally.in_window += window.holds(now_ns)
        if not window.begin_ns <= since_ns < self._last_ns:
            return
        if problem:
            tally.fail(problem, text)
            return
        tally.answered += 1
        tally.latency.record(now_ns - since_ns)


class ClosedLoop(_Counting):
    """Callers that wait for their answer before they ask again.

    A stalled server stops them, so that they ask less while it stalls: its latencies are those of
    so many callers, not of a rate.

    Args:
        callers: How many.
        begin_ns: When they start.
        window: What is counted.
    """

    def __init__(self, callers: int, begin_ns: int, window: Window) -> None:
        super().__init__(window)
        self._callers = callers
        self._begin_ns = begin_ns
        self.next_ns: int | None = begin_ns

    def due(self, now_ns: int) -> list[int]:
        """Give a request for each caller without one, from now on."""
        if not self._begin_ns <= now_ns < self._window.end_ns:
            return []
        self.next_ns = None
        idle = self._callers - self.outstanding
        self.outstanding += idle
        self.tally.sent += idle if self._window.holds(now_ns) else 0
        return [now_ns] * idle

    def stop(self, now_ns: int) -> None:
        """Send nothing more: the window ends here."""
        self.next_ns = None
        self._window.end_ns = min(self._window.end_ns, now_ns)


class OpenLoop(_Counting):
    """Requests that come whether or not the server keeps up.

    Each one's latency counts from when it was due, however late it was sent: while a server stalls,
    requests go on being due, and all of them show the stall. A generator that waited for the server
    before it sent, or took the time from then, would leave out just these.

    Args:
        times: When requests are due, in order.
        limit: Requests outstanding at most; what is due beyond it is dropped, and counted.
        window: What is counted.
    """

    def __init__(self, times: Iterator[int], limit: int, window: Window) -> None:
        super().__init__(window)
        self._times = times
        self._limit = limit
        self.next_ns = next(times, None)

    def due(self, now_ns: int) -> list[int]:
        """Give the requests whose time has come."""
        requests = []
        while self.next_ns is not None and self.next_ns <= now_ns:
            at_ns = self.next_ns
            self.next_ns = next(self._times, None)
            is_counted = self._window.holds(at_ns)
            if self.outstanding >= self._limit:
                self.tally.dropped += is_counted
                continue
            self.outstanding += 1
            if is_counted:
                self.tally.sent += 1
                self.tally.lag.record(now_ns - at_ns)
            requests.append(at_ns)
        return requests

    def stop(self, now_ns: int) -> None:
        """Send nothing more: the window ends here."""
        self.next_ns = None
        self._window.end_ns = min(self._window.end_ns, now_ns)
