"""The loops on a clock of the test's own: no server, no socket, no time that passes."""

import heapq
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield._load.arrivals import arrivals
from jackfield._load.loops import ClosedLoop, OpenLoop, Window

MS = 1_000_000
SECOND = 1000 * MS


def play(loop, *, service_ns, stall=(0, 0)):
    """Serve a loop's requests one after the other, by a server that stalls once."""
    events, free_at, now = [], 0, 0
    while loop.next_ns is not None or events:
        now = min(
            each for each in (loop.next_ns, events[0][0] if events else None) if each is not None
        )
        while events and events[0][0] <= now:
            _, since = heapq.heappop(events)
            loop.answered(since, now)
        for since in loop.due(now):
            start = max(now, free_at)
            if stall[0] <= start < stall[1]:
                start = stall[1]
            free_at = start + service_ns
            heapq.heappush(events, (free_at, since))
    return loop.tally


def open_loop(rate, *, limit=10**6, begin=0, end=10 * SECOND, times=None):
    return OpenLoop(times or arrivals("constant", rate, 0, end), limit, Window(begin, end))


def test_a_stall_shows_in_an_open_loop_as_long_as_its_requests_waited():
    tally = play(open_loop(1000), service_ns=MS // 10, stall=(5 * SECOND, 6 * SECOND))
    # of 10,000 requests 1,000 were due during the stall, and waited for what was left of it; what
    # piled up takes another tenth
    assert tally.sent == tally.answered == 10_000
    assert tally.latency.largest == pytest.approx(SECOND, rel=0.01)
    assert tally.latency.percentile(99) == pytest.approx(0.91 * SECOND, rel=0.03)
    assert tally.latency.percentile(95) == pytest.approx(0.55 * SECOND, rel=0.05)
    assert tally.latency.percentile(50) == pytest.approx(MS // 10, rel=0.01)


def test_a_closed_loop_asks_less_while_the_server_stalls():
    loop = ClosedLoop(1, 0, Window(0, 10 * SECOND))
    tally = play(loop, service_ns=MS, stall=(5 * SECOND, 6 * SECOND))
    assert tally.latency.largest == pytest.approx(SECOND, rel=0.01)
    assert tally.latency.percentile(99.9) == pytest.approx(MS, rel=0.01)
    assert tally.in_window == pytest.approx(9000, abs=1)


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent():
    loop = open_loop(1000, end=SECOND)
    # the generator itself was held up for 100 ms
    requests = loop.due(100 * MS)
    assert len(requests) == 101
    for since in requests:
        loop.answered(since, 101 * MS)
    assert loop.tally.latency.largest == 101 * MS
    assert loop.tally.latency.smallest == MS
    assert loop.tally.lag.largest == 100 * MS


def test_what_is_due_beyond_the_limit_is_dropped_and_counted():
    tally = play(open_loop(1000, limit=100), service_ns=MS // 10, stall=(5 * SECOND, 6 * SECOND))
    assert tally.dropped == pytest.approx(900, abs=2)
    assert tally.sent == tally.answered == 10_000 - tally.dropped


def test_the_warm_up_is_not_counted():
    tally = play(open_loop(1000, begin=9 * SECOND), service_ns=MS // 10)
    assert tally.sent == tally.answered == tally.latency.count == tally.lag.count == 1000
    loop = ClosedLoop(4, 0, Window(9 * SECOND, 10 * SECOND))
    tally = play(loop, service_ns=MS)
    assert tally.answered == tally.sent == 1000


def test_a_request_that_is_answered_after_the_end_counts_but_not_for_the_throughput():
    loop = open_loop(10, end=SECOND)
    first, *_, last = list(itertools.chain(*(loop.due(at) for at in range(0, SECOND, 100 * MS))))
    loop.answered(first, SECOND - 1)
    loop.answered(last, 3 * SECOND)
    assert (loop.tally.answered, loop.tally.in_window) == (2, 1)
    assert loop.tally.latency.largest == 3 * SECOND - 900 * MS


def test_slow_answers_do_not_lessen_the_throughput():
    # 8 callers, a second each: 8 answers per second, of which the window's first was asked before
    loop = ClosedLoop(8, 0, Window(SECOND, 6 * SECOND))
    for second in range(7):
        for _ in loop.due(second * SECOND):
            pass
        for _ in range(loop.outstanding):
            loop.answered(second * SECOND, (second + 1) * SECOND - 1)
    assert loop.tally.in_window == 8 * 5


def test_failures_are_counted_by_kind_and_are_no_latency():
    loop = open_loop(10, end=SECOND)
    first, second, third = loop.due(200 * MS)
    loop.answered(first, 300 * MS, "500", "it broke")
    loop.answered(second, 300 * MS, "500", "again")
    loop.answered(third, 300 * MS, "timeout")
    failures = loop.tally.failures
    assert {problem: each.count for problem, each in failures.items()} == {"500": 2, "timeout": 1}
    assert failures["500"].example == "it broke"
    assert loop.tally.latency.count == loop.tally.answered == 0


def test_a_closed_loop_keeps_each_caller_busy_with_one_request():
    loop = ClosedLoop(3, 0, Window(0, SECOND))
    assert loop.due(0) == [0, 0, 0]
    assert loop.due(5) == []
    loop.answered(0, 7)
    assert loop.due(7) == [7]
    loop.answered(0, SECOND)
    assert loop.due(SECOND) == []


@pytest.mark.parametrize("kind", ["open", "closed"])
def test_stop_sends_nothing_more_and_ends_the_window(kind):
    window = Window(0, 10 * SECOND)
    times = arrivals("constant", 1000, 0, 10 * SECOND)
    loop = OpenLoop(times, 9, window) if kind == "open" else ClosedLoop(1, 0, window)
    since, *_ = loop.due(0)
    loop.stop(SECOND)
    assert window.end_ns == SECOND
    loop.answered(since, 2 * SECOND)
    assert loop.due(2 * SECOND) == []
    assert loop.next_ns is None
    assert (loop.tally.answered, loop.tally.in_window) == (1, 0)


@given(
    st.lists(st.integers(0, 1000), max_size=30).map(sorted),
    st.integers(1, 10),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.data(),
)
def test_every_due_request_is_sent_or_dropped_and_no_more_than_the_limit_wait(
    times, limit, begin, length, data
):
    loop = OpenLoop(iter(times), limit, Window(begin, begin + length))
    waiting, now = [], 0
    while loop.next_ns is not None or waiting:
        now += data.draw(st.integers(0, 400))
        for _ in range(data.draw(st.integers(0, len(waiting)))):
            loop.answered(waiting.pop(), now, data.draw(st.sampled_from(["", "500"])))
        waiting += loop.due(now)
        assert loop.outstanding == len(waiting) <= limit
    tally = loop.tally
    assert tally.sent + tally.dropped == sum(begin <= at < begin + length for at in times)
    assert tally.sent == tally.answered + tally.failed
