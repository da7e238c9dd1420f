"""Which requests a runtime gets next: a pure state machine.

Arrivals, departures, completions and the time go in; batches come out. It knows no event loop, no
clock and no tensor, so that every order of events can be tried.

Requests of one key may be merged. The keys take turns; a lower priority level goes first. None ever
waits for company, unless the operator has set how long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

#: The time that never comes.
NEVER = 2**63


class Ticket:
    """A request's place; times in nanoseconds of one clock."""

    __slots__ = ("arrived", "deadline", "is_lone", "key", "level", "rows")

    def __init__(
        self,
        key: Hashable | None,
        rows: int,
        arrived: int,
        deadline: int = NEVER,
        level: int = 0,
    ) -> None:
        #: Whether it is merged with no other.
        self.is_lone = key is None
        #: Requests with equal keys may be merged.
        self.key: Hashable = object() if key is None else key
        self.rows = rows
        self.arrived = arrived
        self.deadline = deadline
        #: 0 goes first.
        self.level = level


T = TypeVar("T", bound=Ticket)


class Turn(NamedTuple, Generic[T]):
    """What is to be done now."""

    #: The requests of the next call of the runtime; empty if there is none to start.
    batch: list[T]
    #: Those that left the queue because their time was over.
    expired: list[T]


class _Group(Generic[T]):
    """What waits with one key, in the order of arrival."""

    __slots__ = ("rows", "tickets")

    def __init__(self) -> None:
        # a dict, since whoever leaves may stand in the middle
        self.tickets: dict[T, None] = {}
        self.rows = 0


class Batcher(Generic[T]):
    """The queue of one model.

    Args:
        max_requests: Most requests in a batch; 0 sets no bound.
        max_rows: Most rows in a batch; 0 sets no bound. One request may have more by itself.
        max_wait_ns: Longest wait of a request for others to come along.
        slots: Batches that may run at the same time.
        levels: Priority levels.
    """

    def __init__(
        self,
        *,
        max_requests: int = 0,
        max_rows: int = 0,
        max_wait_ns: int = 0,
        slots: int = 1,
        levels: int = 1,
    ) -> None:
        self._max_requests = max_requests or NEVER
        self._max_rows = max_rows or NEVER
        self._max_wait_ns = max_wait_ns
        self._slots = slots
        self._levels: list[dict[Hashable, _Group[T]]] = [{} for _ in range(levels)]
        #: Requests that wait.
        self.waiting = 0
        #: Batches that run.
        self.running = 0

    @property
    def can_start(self) -> bool:
        """Whether something waits and may run now, its wait for company aside."""
        return self.waiting > 0 and self.running < self._slots

    def arrive(self, ticket: T) -> None:
        """Let a request wait."""
        groups = self._levels[ticket.level]
        group = groups.get(ticket.key)
        if group is None:
            group = groups[ticket.key] = _Group()
        group.tickets[ticket] = None
        group.rows += ticket.rows
        self.waiting += 1

    def leave(self, ticket: T) -> bool:
        """Take a request out; False if it waits no more, and perhaps runs."""
        groups = self._levels[ticket.level]
        group = groups.get(ticket.key)
        if group is None or ticket not in group.tickets:
            return False
        del group.tickets[ticket]
        group.rows -= ticket.rows
        self.waiting -= 1
        if not group.tickets:
            del groups[ticket.key]
        return True

    def clear(self) -> list[T]:
        """Empty the queue; returns what was in it."""
        gone = [
            ticket
            for groups in self._levels
            for group in groups.values()
            for ticket in group.tickets
        ]
        for groups in self._levels:
            groups.clear()
        self.waiting = 0
        return gone

    def take(self, now: int) -> Turn[T]:
        """Start the next batch; it runs until `done`.

        Returns:
            An empty batch if nothing waits, all slots are taken, or the wait for company goes on.
        """
        expired: list[T] = []
        if self.running >= self._slots:
            return Turn([], expired)
        for groups in self._levels:
            while (key := self._next_key(groups, now)) is not None:
                if batch := self._take_from(groups, key, now, expired):
                    self.running += 1
                    return Turn(batch, expired)
        return Turn([], expired)

    def _next_key(self, groups: dict[Hashable, _Group[T]], now: int) -> Hashable | None:
        for key, group in groups.items():
            if not self._max_wait_ns or self._is_ready(group, now):
                return key
        return None

    def _take_from(
        self, groups: dict[Hashable, _Group[T]], key: Hashable, now: int, expired: list[T]
    ) -> list[T]:
        """Take what fits together, and drop whose time is over; empty if all were dropped."""
        group = groups.pop(key)
        batch: list[T] = []
        dropped: list[T] = []
        rows = 0
        for ticket in group.tickets:
            if ticket.deadline <= now:
                dropped.append(ticket)
                continue
            if batch and rows + ticket.rows > self._max_rows:
                break
            batch.append(ticket)
            rows += ticket.rows
            if len(batch) >= self._max_requests:
                break
        gone = len(batch) + len(dropped)
        self.waiting -= gone
        if gone < len(group.tickets):
            for ticket in (*batch, *dropped):
                del group.tickets[ticket]
                group.rows -= ticket.rows
            groups[key] = group  # behind the other keys, whose turn is next
        expired += dropped
        return batch

    def _is_ready(self, group: _Group[T], now: int) -> bool:
        return (
            now >= self._wait_ends(group)
            or len(group.tickets) >= self._max_requests
            or group.rows >= self._max_rows
        )

    def _wait_ends(self, group: _Group[T]) -> int:
        first = next(iter(group.tickets))
        return first.arrived + (0 if first.is_lone else self._max_wait_ns)

    def done(self) -> None:
        """Free a batch's slot."""
        self.running -= 1

    def wake_at(self) -> int | None:
        """Tell when a wait for company ends; None if none goes on, or no slot is free."""
        if not self._max_wait_ns or not self.can_start:
            return None
        return min(self._wait_ends(group) for groups in self._levels for group in groups.values())
