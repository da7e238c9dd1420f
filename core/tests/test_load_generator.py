"""The generator against servers that answer oddly, on sockets of the test's own."""

import asyncio
import contextlib
import time

import pytest

from jackfield._load.fleet import Fleet
from jackfield._load.generator import run_stage
from jackfield._load.plan import Answer, Load, Plan, Target
from jackfield._load.timer import _LoopTimer, create_timer

BODY = b'{"model_name":"m","outputs":[{"name":"y","datatype":"FP64","shape":[1],"data":[1.0]}]}'
OTHER = BODY.replace(b"1.0", b"2.0")


def answer(body=BODY, *, status=b"200 OK", headers=b""):
    return b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n%s" % (status, headers, len(body), body)


def chunked(body):
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + chunks + b"0\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(reply, *, closes=False):
    """Answer each request with the same bytes, or a function's; None closes the connection."""
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(
                    int(head.lower().partition(b"content-length: ")[2].split()[0])
                )
                found = reply() if callable(reply) else reply
                if found is None:
                    break
                writer.write(found)
                await writer.drain()
                if closes:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections
        for writer in connections:
            writer.close()


TWO = Load(connections=2)


async def run(url, *, load=TWO, stop=None, progress=lambda _: None, **fields):
    fields = {"duration_s": 0.1, "warm_up_s": 0.0, "arrivals": "constant", **fields}
    target = Target(url, "v2/models/m/infer", b"{}")
    plan = Plan(target=target, load=load, **fields)
    return await run_stage(plan, stop or asyncio.Event(), progress)


@pytest.mark.parametrize("load", [Load(connections=3), Load(rate=500.0)])
@pytest.mark.parametrize("reply", [answer(), chunked(BODY)], ids=["whole", "chunked"])
async def test_every_request_is_answered_and_counted(load, reply):
    async with serving(reply) as (url, connections):
        tally = await run(url, load=load, is_checked=True)
    assert tally.sent == tally.answered == tally.latency.count > 0
    assert (tally.failed, tally.mismatches, tally.unanswered) == (0, 0, 0)
    assert tally.measured_s == pytest.approx(0.1)
    if load.connections:
        assert len(connections) == load.connections
    else:
        assert tally.sent + tally.dropped == 50


async def test_a_server_that_closes_after_each_answer_gets_new_connections():
    async with serving(answer(headers=b"connection: close\r\n"), closes=True) as (url, connections):
        tally = await run(url)
    assert tally.sent == tally.answered > 2
    assert len(connections) >= tally.answered


@pytest.mark.parametrize(
    ("reply", "problem", "text"),
    [
        (answer(b'{"error": "it broke"}', status=b"500 Oh"), "500", "it broke"),
        (answer(b"plain", status=b"429 Full"), "429", "plain"),
        (None, "connection lost", "the server closed it before it answered"),
        (b"no HTTP at all\r\n\r\n", "not HTTP", None),
    ],
)
async def test_failures_are_counted_by_status(reply, problem, text):
    async with serving(lambda: reply) as (url, _):
        tally = await run(url)
    assert tally.answered == 0
    assert set(tally.failures) == {problem}
    assert tally.failures[problem].count == tally.sent > 0
    assert tally.failures[problem].example == (text or tally.failures[problem].example) != ""


async def test_a_server_that_goes_is_counted_too():
    async with serving(answer()) as (url, _):
        pass
    tally = await run(url, timeout_s=1.0)
    assert set(tally.failures) == {"not connected"}
    assert tally.failed == tally.sent > 0


async def test_an_answer_that_never_comes_is_given_up():
    async with serving(b"") as (url, _):
        tally = await run(url, timeout_s=0.2)
    assert tally.failures["timeout"].count == tally.sent == 2
    assert tally.failures["timeout"].example == "no answer in 0.2 s"


async def test_answers_that_differ_are_counted():
    replies, stop = [answer(OTHER), answer(), answer()], asyncio.Event()

    def reply():
        if not replies:
            stop.set()
            return answer()
        return replies.pop()

    async with serving(reply) as (url, _):
        one = Load(connections=1)
        tally = await run(url, load=one, duration_s=60.0, stop=stop, is_checked=True)
    assert tally.mismatches == 1
    assert "output 'y'" in tally.mismatch


async def test_answers_are_compared_with_the_reference():
    async with serving(answer(OTHER)) as (url, _):
        tally = await run(url, is_checked=True, reference=Answer(BODY))
    assert tally.mismatches == tally.answered > 0


async def test_a_full_house_drops_and_does_not_send_more():
    async with serving(b"") as (url, connections):
        tally = await run(url, load=Load(rate=1000.0), max_outstanding=4, timeout_s=0.3)
    assert tally.sent == 4
    assert tally.dropped == 96
    assert len(connections) == 4


async def test_stop_ends_a_stage_with_what_was_measured():
    stop = asyncio.Event()

    def progress(tally):
        if tally.answered:
            stop.set()

    async with serving(answer()) as (url, _):
        async with asyncio.timeout(20):
            tally = await run(url, duration_s=600.0, stop=stop, progress=progress)
    assert 0 < tally.measured_s < 600
    assert tally.sent == tally.answered + tally.unanswered


async def test_the_warm_up_is_not_counted():
    served = 0

    def reply():
        nonlocal served
        served += 1
        return answer()

    async with serving(reply) as (url, _):
        tally = await run(url, load=Load(rate=200.0), warm_up_s=0.2)
    assert served == 60
    assert tally.answered == tally.sent == 20


async def test_processes_send_together_and_what_they_saw_is_one_tally():
    seen = []
    async with serving(answer()) as (url, _), Fleet(3) as fleet:
        target = Target(url, "v2/models/m/infer", b"{}")
        for _ in range(2):
            plan = Plan(
                target=target,
                load=Load(rate=300.0),
                arrivals="constant",
                duration_s=0.2,
                warm_up_s=0.0,
            )
            tally = await fleet.run(plan, asyncio.Event(), seen.append)
            assert tally.sent == tally.answered == 60
            assert tally.measured_s == pytest.approx(0.2)
        # two callers are work for two processes
        plan = Plan(target=target, load=TWO, duration_s=0.1, warm_up_s=0.0)
        tally = await fleet.run(plan, asyncio.Event(), seen.append)
        assert tally.sent == tally.answered > 0
    assert seen


async def test_a_process_that_ends_is_told():
    async with Fleet(2) as fleet:
        plan = Plan(target=Target("no://url", "", b""), load=TWO)
        with pytest.raises(RuntimeError, match="a generator's process ended with 1"):
            await fleet.run(plan, asyncio.Event(), lambda _: None)


@pytest.mark.parametrize("kind", [create_timer, _LoopTimer])
async def test_a_timer_calls_at_the_time_set_last_and_not_before(kind):
    called = asyncio.get_running_loop().create_future()
    timer = kind(lambda: called.set_result(time.monotonic_ns()))
    try:
        timer.set(time.monotonic_ns() + 3600 * 10**9)
        at = time.monotonic_ns() + 2_000_000
        timer.set(at)
        assert await asyncio.wait_for(called, 10) >= at
        called = asyncio.get_running_loop().create_future()
        timer.set(0)  # long gone: at once
        await asyncio.wait_for(called, 10)
    finally:
        timer.close()
