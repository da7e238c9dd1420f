"""The record of what was done, by itself: the wire's form is Triton's, and it adds up."""

import asyncio
import time

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from jackfield import _statistics
from jackfield._statistics import FAILURES, LAGS, LoadStatistics, LoopStatistics, ModelStatistics
from jackfield._wire.descriptors import ModelStatistics as Message

MS = 1_000_000


def answer(statistics, sizes, *, decode=1, queue=2, compute=3, waiting=0):
    """Answer requests of so many rows each in one call; times in milliseconds."""
    rows = sum(sizes)
    statistics.executed(requests=len(sizes), rows=rows, ns=compute * MS, waiting=waiting)
    arrived = decode * MS
    started = arrived + queue * MS
    for size in sizes:
        statistics.succeeded(0, arrived, started, started + compute * MS, size, rows)


def lines(statistics):
    """Give the batches of the wire's form, by size."""
    return {line["batch_size"]: line for line in statistics.record("m", "")["batch_stats"]}


@pytest.mark.parametrize("sizes", [[1] * 64, [64], [32, 16, 16]])
def test_64_rows_in_one_call_are_64_inferences_and_one_execution(sizes):
    statistics = ModelStatistics()
    answer(statistics, sizes)
    record = statistics.record("m", "")
    assert (record["inference_count"], record["execution_count"]) == (64, 1)
    assert record["inference_stats"]["success"]["count"] == len(sizes)
    (line,) = record["batch_stats"]
    assert line["batch_size"] == 64
    assert line["compute_infer"] == {"count": 1, "ns": 3 * MS}
    assert line["compute_input"] == {"count": len(sizes), "ns": len(sizes) * MS}


def test_a_request_computed_alone_needs_not_say_so():
    statistics = ModelStatistics()
    statistics.executed(requests=1, rows=3, ns=5, waiting=0)
    statistics.succeeded(10, 12, 15, 20, 3)
    assert lines(statistics)[3]["compute_input"] == {"count": 1, "ns": 2}


def test_encoding_counts_for_the_size_that_was_computed_and_for_the_whole():
    statistics = ModelStatistics()
    answer(statistics, [1, 1])
    answer(statistics, [1])
    before = statistics.record("m", "")["inference_stats"]["success"]["ns"]
    took = statistics.encoded(time.perf_counter_ns() - 5 * MS, 2)
    record = statistics.record("m", "")
    output = record["inference_stats"]["compute_output"]
    assert output == {"count": 1, "ns": took}
    assert took >= 5 * MS
    assert record["inference_stats"]["success"]["ns"] == before + output["ns"]
    assert lines(statistics)[2]["compute_output"] == output
    assert lines(statistics)[1]["compute_output"] == {"count": 0, "ns": 0}


def test_failures_of_all_kinds_fail_and_what_is_rejected_was_never_begun():
    statistics = ModelStatistics()
    for outcome in FAILURES:
        statistics.failed(7, outcome)
    statistics.rejected_count += 1
    record = statistics.record("m", "")
    assert record["inference_stats"]["fail"] == {"count": len(FAILURES), "ns": 7 * len(FAILURES)}
    assert (record["inference_count"], record["execution_count"]) == (0, 0)
    with pytest.raises(KeyError):
        statistics.failed(7, "rejected")
    assert statistics.fail_count == len(FAILURES)


@pytest.mark.parametrize("end", [lambda s: answer(s, [1]), lambda s: s.failed(1, "invalid")])
def test_the_last_inference_is_told_in_milliseconds_since_the_epoch(end):
    statistics = ModelStatistics()
    assert statistics.record("m", "")["last_inference"] == 0
    before = time.time_ns() // MS
    end(statistics)
    assert before <= statistics.record("m", "")["last_inference"] <= time.time_ns() // MS


def test_callers_can_not_fill_the_memory_with_sizes():
    statistics = ModelStatistics()
    for size in range(1, 1501):
        answer(statistics, [size])
        statistics.encoded(time.perf_counter_ns(), size)
    record = statistics.record("m", "")
    assert len(record["batch_stats"]) == 1000
    assert (record["inference_count"], record["execution_count"]) == (sum(range(1501)), 1500)
    assert sum(statistics.rows_buckets) == 1500
    assert record["inference_stats"]["compute_output"]["count"] == 1500


MILLISECONDS = st.integers(0, 100)
CALLS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2000), min_size=1, max_size=5),
        MILLISECONDS,
        MILLISECONDS,
        MILLISECONDS,
        st.integers(0, 500),
    ),
    max_size=20,
)


@given(calls=CALLS, failed=st.lists(st.tuples(MILLISECONDS, st.sampled_from(FAILURES))))
def test_what_happened_is_a_message_of_triton_and_adds_up(calls, failed):
    statistics = ModelStatistics()
    for sizes, decode, queue, compute, waiting in calls:
        answer(statistics, sizes, decode=decode, queue=queue, compute=compute, waiting=waiting)
    for ns, outcome in failed:
        statistics.failed(ns, outcome)

    message = json_format.ParseDict(statistics.record("m", "2"), Message())
    requests = sum(len(call[0]) for call in calls)
    assert (message.name, message.version) == ("m", "2")
    assert message.inference_count == sum(sum(call[0]) for call in calls)
    assert message.execution_count == len(calls)
    parts = message.inference_stats
    assert parts.success.count == parts.queue.count == parts.compute_infer.count == requests
    assert parts.fail.count == len(failed)
    assert parts.fail.ns == sum(ns for ns, _ in failed)
    assert parts.success.ns == parts.queue.ns + parts.compute_input.ns + parts.compute_infer.ns
    assert parts.queue.ns == sum(len(call[0]) * call[2] * MS for call in calls)

    batches = {batch.batch_size: batch for batch in message.batch_stats}
    assert list(batches) == sorted({sum(call[0]) for call in calls})
    for size, batch in batches.items():
        own = [call for call in calls if sum(call[0]) == size]
        assert batch.compute_infer.count == len(own)
        assert batch.compute_infer.ns == sum(call[3] * MS for call in own)
        assert batch.compute_input.count == sum(len(call[0]) for call in own)


def test_loads_are_kept_by_version_and_the_last_time_stays():
    loads = LoadStatistics()
    loads.succeeded("m", "1", 2.0)
    loads.failed("m", "1")
    loads.failed("m", "2")
    loads.succeeded("m", "1", 0.5)
    found = {
        key: (each.success_count, each.failure_count, each.seconds) for key, each in loads.items()
    }
    assert found == {("m", "1"): (2, 1, 0.5), ("m", "2"): (0, 1, None)}


def test_of_too_many_versions_those_loaded_last_are_kept(monkeypatch):
    monkeypatch.setattr(_statistics, "_MAX_LOADED", 3)
    loads = LoadStatistics()
    for version in "1234":
        loads.failed("m", version)
        loads.succeeded("m", "1", 1.0)
    found = {version: each.success_count for (_, version), each in loads.items()}
    assert found == {"3": 0, "4": 0, "1": 4}


async def test_a_blocked_loop_is_seen(until):
    statistics = LoopStatistics()
    statistics.start()
    time.sleep(0.4)  # noqa: ASYNC251  what is to be noticed
    await until(lambda: sum(statistics.buckets))
    statistics.stop()
    first = next(index for index, count in enumerate(statistics.buckets) if count)
    assert LAGS[first - 1] >= 0.1
    assert statistics.lag_ns >= 0.1e9


async def test_watching_goes_on_until_it_is_stopped_and_may_begin_anew(until):
    statistics = LoopStatistics()
    for count in (1, 2):
        statistics.start()
        statistics.start()
        await until(lambda count=count: sum(statistics.buckets) >= count)
        statistics.stop()
    statistics.stop()
    timers = [
        handle
        for handle in getattr(asyncio.get_running_loop(), "_scheduled", [])
        if not handle.cancelled() and "LoopStatistics" in repr(handle)
    ]
    assert not timers


def test_a_timer_that_comes_early_takes_nothing_away():
    statistics = LoopStatistics()
    statistics.observe(-5)
    statistics.observe(2 * MS)
    assert statistics.lag_ns == 2 * MS
    assert statistics.buckets[:2] == [1, 1]
