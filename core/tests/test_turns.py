"""REST requests and gRPC calls share the turns of one event loop."""

import asyncio
from collections import Counter

import pytest

from jackfield._scheduling import Turns
from jackfield._scheduling import turns as module

CROWD = 100
#: How many of the crowd there is time for in one turn.
MOST = 4


@pytest.fixture
def clock(monkeypatch):
    """Time passes only where a request computes, so that nothing depends on the machine."""
    now = [0]
    monkeypatch.setattr(module, "thread_time_ns", lambda: now[0])
    return now


async def come_together(turns, clock, *, leaving=frozenset()):
    """Let a crowd of requests come in one turn; returns who went in which turn."""
    went, turn, is_over = [], 0, False

    async def request(number):
        if turns.left:
            await turns.take()
        clock[0] += module._PART_NS // MOST
        went.append((number, turn))

    async def count():
        nonlocal turn
        while not is_over:
            turn += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    requests = [asyncio.create_task(request(number)) for number in range(CROWD)]
    await asyncio.sleep(0)
    for number in leaving:
        requests[number].cancel()
    await asyncio.wait(requests)
    is_over = True
    await counting
    return went


def by_turn(went):
    """Count the requests of each turn."""
    return [*Counter(turn for _, turn in went).values()]


async def test_without_calls_all_requests_go_in_one_turn(clock):
    went = await come_together(Turns(), clock)
    assert by_turn(went) == [CROWD]


async def test_after_a_call_requests_go_in_turns_that_stay_short(clock):
    turns = Turns()
    turns.share()
    went = await come_together(turns, clock)
    assert [number for number, _ in went] == [*range(CROWD)]
    *short, last = by_turn(went)
    assert len(short) >= module._SHARED - 1
    assert max(short) <= MOST < last  # no call came again: the rest goes together


async def test_each_call_keeps_the_turns_short(clock):
    turns = Turns()
    turns.share()
    ended = asyncio.Event()

    async def call():
        while not ended.is_set():
            turns.share()
            await asyncio.sleep(0)

    calling = asyncio.create_task(call())
    went = await come_together(turns, clock)
    ended.set()
    await calling
    assert max(by_turn(went)) <= MOST


async def test_who_leaves_while_he_waits_holds_nobody_up(clock):
    turns = Turns()
    turns.share()
    leaving = {MOST + 1, MOST + 2, CROWD - 1}
    went = await come_together(turns, clock, leaving=leaving)
    assert [number for number, _ in went] == [each for each in range(CROWD) if each not in leaving]
    again = await come_together(turns, clock)
    assert len(again) == CROWD


async def test_rest_requests_take_turns_after_a_grpc_call(
    add_model, models_dir, serving, call, body_of, monkeypatch
):
    taken = []
    take = Turns.take

    async def note(turns):
        taken.append(turns)
        await take(turns)

    monkeypatch.setattr(Turns, "take", note)
    add_model("double")
    path = "/v2/models/double/infer"
    async with serving(models_dir) as (_, rest, channel):
        assert (await rest.post(path, content=body_of(1))).status_code == 200
        assert not taken  # REST alone goes as ever
        await call(channel, "ServerLive")
        answers = await asyncio.gather(
            *(rest.post(path, content=body_of(number)) for number in range(CROWD))
        )
    found = [answer.json()["outputs"][0]["data"] for answer in answers]
    assert found == [[2 * number] for number in range(CROWD)]
    assert taken
