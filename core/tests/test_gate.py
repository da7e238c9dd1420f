"""Calls of gRPC that come together go through together."""

import asyncio

import pytest

from jackfield._grpc import gate as module
from jackfield._grpc.gate import Gate
from jackfield._scheduling import Arrivals

TOGETHER = 4


class Calls:
    """Calls that go through a gate, and a clock that stands still but for `pass_time`."""

    def __init__(self):
        self.arrivals = Arrivals()
        self.gate = Gate(self.arrivals)
        self.now = 10**9

    def pass_time(self):
        self.now += 10**9

    async def enter(self, count):
        """Begin calls; give their tasks when all have gone as far as they can."""
        tasks = [asyncio.create_task(self.gate.enter()) for _ in range(count)]
        await self.turns()
        return tasks

    async def turns(self):
        for _ in range(6):
            await asyncio.sleep(0)

    async def learn(self):
        """Let so many come together until no more are hoped for."""
        for _ in range(40 * module._TRY_AFTER):
            tasks = await self.enter(TOGETHER)
            all_wait = not any(task.done() for task in tasks)
            if not all(task.done() for task in tasks):
                self.pass_time()
                await self.turns()
            assert all(task.done() for task in tasks)
            if all_wait:
                return
        raise AssertionError("it does not learn that they come together")


@pytest.fixture
def calls(monkeypatch):
    made = Calls()
    monkeypatch.setattr(module, "perf_counter_ns", lambda: made.now)
    return made


async def test_a_call_that_is_alone_waits_in_vain_less_than_once_in_a_hundred(calls):
    waited = 0
    for _ in range(1000):
        [task] = await calls.enter(1)
        if not task.done():
            waited += 1
            calls.pass_time()
            await calls.turns()
        assert task.done()
    assert 0 < waited < 10


async def test_calls_that_came_together_wait_for_each_other(calls):
    await calls.learn()
    early = await calls.enter(TOGETHER - 1)
    assert not any(task.done() for task in early)
    assert all(task.done() for task in [*await calls.enter(1), *early])
    assert not calls.arrivals.are_pending


async def test_nobody_is_waited_for_who_does_not_come(calls):
    await calls.learn()
    early = await calls.enter(TOGETHER - 1)
    calls.pass_time()
    await calls.turns()
    assert all(task.done() for task in early)
    # as many as came then are enough
    assert all(task.done() for task in await calls.enter(TOGETHER - 1))


async def test_a_caller_who_leaves_keeps_nobody(calls):
    await calls.learn()
    first, *others = await calls.enter(TOGETHER - 1)
    first.cancel()
    await calls.turns()
    assert all(task.done() for task in [*await calls.enter(1), *others])
    assert not calls.arrivals.are_pending
