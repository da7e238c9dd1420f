import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield._load.arrivals import arrivals
from jackfield._load.plan import Load, Plan, Target

SECOND = 1_000_000_000
KINDS = st.sampled_from(["poisson", "constant"])
RATES = st.floats(0.5, 20_000)
BEGINS = st.integers(0, 10**15)
LENGTHS = st.integers(0, SECOND // 2)
TARGET = Target("http://localhost:8080", "v2/models/m/infer", b"{}")


@given(KINDS, RATES, BEGINS, LENGTHS, st.integers(0, 2**32))
def test_times_are_in_order_and_within_the_bounds(kind, rate, begin, length, seed):
    times = list(arrivals(kind, rate, begin, begin + length, seed=seed))
    assert times == sorted(times)
    assert all(begin <= at < begin + length for at in times)


@given(KINDS, RATES, st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_times(kind, rate, seed):
    first, again = (list(arrivals(kind, rate, 0, SECOND // 10, seed=seed)) for _ in range(2))
    assert first == again


@given(RATES, BEGINS, LENGTHS)
def test_a_constant_rate_has_equal_gaps_and_does_not_drift(rate, begin, length):
    times = list(arrivals("constant", rate, begin, begin + length))
    assert all(abs(at - begin - index * SECOND / rate) <= 1 for index, at in enumerate(times))


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_poisson_gaps_have_the_mean_and_the_spread_of_the_exponential(seed):
    count = 20_000
    times = list(itertools.islice(arrivals("poisson", 1000, 0, 10**15, seed=seed), count))
    gaps = [after - before for before, after in itertools.pairwise([0, *times])]
    mean = sum(gaps) / count
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / count) ** 0.5
    # more than ten standard errors of either
    assert mean == pytest.approx(SECOND / 1000, rel=0.1)
    assert deviation == pytest.approx(SECOND / 1000, rel=0.15)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_no_rate_is_no_request(rate):
    assert list(arrivals("poisson", rate, 0, SECOND)) == []


@given(RATES, st.integers(1, 8))
def test_processes_take_turns_in_a_constant_rate(rate, processes):
    plan = Plan(target=TARGET, load=Load(rate=rate), arrivals="constant")
    shares = [plan.share(index, processes) for index in range(processes)]
    times = sorted(
        itertools.chain.from_iterable(
            arrivals("constant", each.load.rate, 0, SECOND // 10, phase=each.phase)
            for each in shares
        )
    )
    alone = list(arrivals("constant", rate, 0, SECOND // 10))
    assert abs(len(times) - len(alone)) <= 1  # at the very end, by rounding
    assert all(abs(a - b) <= 2 for a, b in zip(times, alone, strict=False))


@given(st.integers(1, 100), st.integers(1, 8), st.integers(1, 600))
def test_shares_of_a_plan_add_up(connections, processes, limit):
    closed = Plan(target=TARGET, load=Load(connections=connections))
    shares = [closed.share(index, processes) for index in range(processes)]
    assert sum(share.load.connections for share in shares if share) == connections
    opened = Plan(target=TARGET, load=Load(rate=100.0), max_outstanding=limit, seed=3)
    shares = [share for index in range(processes) if (share := opened.share(index, processes))]
    assert sum(share.max_outstanding for share in shares) == limit
    assert len({share.seed for share in shares}) == len(shares)
    assert all(share.max_outstanding >= 1 for share in shares)
