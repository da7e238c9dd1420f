"""The batcher as a pure state machine, beside a model that keeps lists."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jackfield._scheduling.batcher import NEVER, Batcher, Ticket

KEYS = ["a", "b", "c", None]


class Machine(RuleBasedStateMachine):
    """Requests come, leave, expire and are taken, in any order."""

    @initialize(
        max_requests=st.sampled_from([0, 1, 2, 3]),
        max_rows=st.sampled_from([0, 1, 4, 7]),
        max_wait_ns=st.sampled_from([0, 0, 50]),
        slots=st.integers(1, 3),
        levels=st.integers(1, 3),
    )
    def start(self, **bounds):
        self.bounds = bounds
        self.batcher = Batcher(**bounds)
        self.now = 1000
        self.waiting = []
        self.running = 0
        self.gone = set()
        # for each level: keys served since the others began to wait
        self.served = [[] for _ in range(bounds["levels"])]

    def ready_at(self, key, level):
        """When the requests of a key may go."""
        group = self.group(key, level)
        bounds = self.bounds
        if (
            group[0].is_lone
            or (bounds["max_requests"] and len(group) >= bounds["max_requests"])
            or (bounds["max_rows"] and sum(each.rows for each in group) >= bounds["max_rows"])
        ):
            return min(group[0].arrived, self.now)
        return group[0].arrived + bounds["max_wait_ns"]

    def group(self, key, level):
        return [each for each in self.waiting if each.key == key and each.level == level]

    def groups(self):
        return list(dict.fromkeys((each.key, each.level) for each in self.waiting))

    @rule(
        key=st.sampled_from(KEYS),
        rows=st.integers(1, 5),
        level=st.integers(0, 2),
        patience=st.sampled_from([NEVER, NEVER, 5, 60]),
    )
    def arrive(self, key, rows, level, patience):
        deadline = NEVER if patience == NEVER else self.now + patience
        level = min(level, self.bounds["levels"] - 1)
        ticket = Ticket(key, rows, self.now, deadline, level)
        self.waiting.append(ticket)
        self.batcher.arrive(ticket)

    @rule(ns=st.integers(1, 80))
    def time_passes(self, ns):
        self.now += ns

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data):
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.gone.add(ticket)
        assert self.batcher.leave(ticket)
        assert not self.batcher.leave(ticket)

    @rule()
    def take(self):
        before = list(self.waiting)
        groups = self.groups()
        due = [self.ready_at(*group) for group in groups]
        turn = self.batcher.take(self.now)
        for ticket in (*turn.batch, *turn.expired):
            assert ticket not in self.gone, "nobody is served twice, or after he left"
            self.gone.add(ticket)
            self.waiting.remove(ticket)
        assert all(ticket.deadline <= self.now for ticket in turn.expired)
        if self.running == self.bounds["slots"]:
            assert turn == ([], [])
            return
        living = [
            (key, level)
            for (key, level), at in zip(groups, due, strict=True)
            if at <= self.now
            and any(e.deadline > self.now for e in before if (e.key, e.level) == (key, level))
        ]
        assert bool(turn.batch) is bool(living), "what may run does, and nothing else"
        if not turn.batch:
            return
        self.running += 1
        self.check(turn.batch, before, living)

    def check(self, batch, before, living):
        [(key, level)] = {(each.key, each.level) for each in batch}
        assert (key, level) in living
        assert level == min(each for _, each in living), "a lower level goes first"
        assert all(each.deadline > self.now for each in batch)
        most, rows = self.bounds["max_requests"], self.bounds["max_rows"]
        assert len(batch) <= (most or NEVER)
        assert len(batch) == 1 or sum(each.rows for each in batch) <= (rows or NEVER)
        own = [e for e in before if (e.key, e.level) == (key, level) and e.deadline > self.now]
        assert own[: len(batch)] == batch, "the oldest go first, in their order"
        if len(own) > len(batch):
            full = most and len(batch) == most
            over = rows and sum(e.rows for e in batch) + own[len(batch)].rows > rows
            assert full or over, "all that fit together go together"
        others = {each for each, at in living if at == level and each != key}
        served = self.served[level]
        if key in served:
            since = served[served.index(key) :]
            waited = {each for each in others if self.oldest(each, level, before) < self.stamp(key)}
            assert waited <= set(since), "the keys take turns"
        self.served[level] = [each for each in served if each != key] + [key]
        self.stamps = {**getattr(self, "stamps", {}), key: self.now}

    def oldest(self, key, level, before):
        return min(e.arrived for e in before if (e.key, e.level) == (key, level))

    def stamp(self, key):
        return getattr(self, "stamps", {}).get(key, -1)

    @precondition(lambda self: self.running)
    @rule()
    def done(self):
        self.running -= 1
        self.batcher.done()

    @rule()
    def clear(self):
        assert set(self.batcher.clear()) == set(self.waiting)
        self.gone |= set(self.waiting)
        self.waiting = []

    @invariant()
    def counts_agree(self):
        if not hasattr(self, "batcher"):
            return
        assert self.batcher.waiting == len(self.waiting)
        assert self.batcher.running == self.running
        assert self.batcher.can_start is (
            bool(self.waiting) and self.running < self.bounds["slots"]
        )

    @invariant()
    def it_knows_when_to_be_asked_again(self):
        if not hasattr(self, "batcher"):
            return
        wake_at = self.batcher.wake_at()
        if not self.bounds["max_wait_ns"] or not self.batcher.can_start:
            assert wake_at is None
            return
        waits = [
            e.arrived + (0 if e.is_lone else self.bounds["max_wait_ns"])
            for e in (self.group(*group)[0] for group in self.groups())
        ]
        assert wake_at == min(waits)


TestBatcher = Machine.TestCase
TestBatcher.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def ticket(key="k", rows=1, arrived=0, **given):
    return Ticket(key, rows, arrived, **given)


def test_one_request_may_have_more_rows_than_a_batch():
    batcher = Batcher(max_rows=4)
    large, small = ticket(rows=9), ticket()
    batcher.arrive(large)
    batcher.arrive(small)
    assert batcher.take(0).batch == [large]


def test_a_request_waits_for_company_as_long_as_the_operator_says():
    batcher = Batcher(max_requests=3, max_wait_ns=100)
    first, second, third = (ticket(arrived=at) for at in (0, 10, 20))
    batcher.arrive(first)
    batcher.arrive(second)
    assert batcher.take(99).batch == []
    assert batcher.wake_at() == 100
    batcher.arrive(third)
    assert batcher.take(99).batch == [first, second, third]


def test_many_keys_do_not_make_a_turn_long():
    batcher = Batcher(slots=10_000)
    tickets = [ticket(key=number) for number in range(5000)]
    for each in tickets:
        batcher.arrive(each)
    assert [batcher.take(0).batch for _ in tickets] == [[each] for each in tickets]


@pytest.mark.parametrize("key", ["k", None])
def test_who_leaves_while_he_runs_is_not_in_the_queue(key):
    batcher = Batcher()
    one = ticket(key=key)
    batcher.arrive(one)
    assert batcher.take(0).batch == [one]
    assert not batcher.leave(one)
    assert batcher.running == 1
