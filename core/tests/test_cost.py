"""What a call will cost: the estimate beside the line that the calls follow."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield._scheduling.cost import Cost

MS = 1_000_000
SLOPES = st.integers(0, 200_000)
BASES = st.integers(1_000, 20 * MS)
#: Rows of the calls, in the ways that load has them: all alike, some sizes, any.
SIZES = st.sampled_from([range(1, 2), range(8, 9), (1, 2, 4, 8, 16, 64), range(1, 100), (1, 1000)])


def learn(slope, base, sizes, *, calls=200, noise=0.0, outliers=0.0, seed=0, cost=None):
    """Let an estimate see calls that follow a line, after one that warms up."""
    numbers = random.Random(seed)
    if cost is None:
        cost = Cost()
        cost.update(1, 10_000 * MS)
    for _ in range(calls):
        rows = numbers.choice(sizes)
        ns = (slope * rows + base) * (1 + noise * numbers.random())
        cost.update(rows, round(ns * (100 if numbers.random() < outliers else 1)))
    return cost


def test_the_first_call_warms_up_and_says_nothing():
    cost = Cost()
    assert (cost.is_known, cost.predict(1)) == (False, 0)
    cost.update(1, 5000 * MS)
    assert (cost.is_known, cost.predict(1)) == (False, 0)
    cost.update(1, 3 * MS)
    assert cost.is_known
    assert cost.predict(1) == pytest.approx(3 * MS)


@given(slope=SLOPES, base=BASES, seed=st.integers(0, 2**32))
def test_calls_on_a_line_give_the_line(slope, base, seed):
    cost = learn(slope, base, [1, 2, 4, 8, 16, 64], seed=seed)
    for rows in (1, 16, 64, 200):
        # what came late counts less, so that a line seen exactly is still met only nearly
        assert cost.predict(rows) == pytest.approx(slope * rows + base, rel=0.02)


@given(slope=SLOPES, base=BASES, sizes=SIZES, seed=st.integers(0, 2**32))
def test_noise_and_outliers_move_it_by_less_than_a_factor_of_three(slope, base, sizes, seed):
    cost = learn(slope, base, sizes, noise=0.2, outliers=0.05, seed=seed)
    for rows in (sum(sizes) // len(sizes), max(sizes)):
        true = slope * rows + base
        assert true / 3 < cost.predict(rows) < true * 3


@given(slope=st.integers(1_000, 200_000), seed=st.integers(0, 2**32))
def test_rows_that_cost_in_proportion_make_no_base(slope, seed):
    """Noise may let the fitted line begin below nothing; one row still costs one row's time."""
    cost = learn(slope, 0, list(range(1, 100)), noise=0.2, seed=seed)
    assert cost.predict(1) < 50 * slope
    assert cost.predict(99) == pytest.approx(99 * slope * 1.1, rel=0.2)


@given(rows=st.integers(1, 1000), ns=st.integers(1000, 1000 * MS))
def test_more_rows_than_were_ever_seen_cost_in_proportion(rows, ns):
    cost = learn(0, ns, [rows], calls=3)
    assert cost.predict(rows) == pytest.approx(ns)
    assert cost.predict(10 * rows) == pytest.approx(10 * ns)
    assert cost.predict(1) == pytest.approx(ns)


@pytest.mark.parametrize("factor", [0.1, 10])
def test_a_model_that_becomes_another_is_learned_anew(factor):
    cost = learn(1000, MS, [1, 8, 64])
    learn(1000 * factor, MS * factor, [1, 8, 64], cost=cost, calls=300)
    for rows in (1, 64):
        assert cost.predict(rows) == pytest.approx((1000 * rows + MS) * factor, rel=0.1)


@given(
    calls=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10**12)), max_size=40),
    rows=st.integers(0, 10**6),
)
def test_whatever_is_seen_the_estimate_is_a_time_and_never_falls_with_rows(calls, rows):
    cost = Cost()
    for seen in calls:
        cost.update(*seen)
    foreseen = cost.predict(rows)
    assert math.isfinite(foreseen)
    assert foreseen >= 0
    assert cost.predict(rows + 1) >= foreseen


def test_calls_of_no_time_do_not_hide_long_ones():
    """A coarse clock sees nothing of a short call."""
    cost = Cost()
    for _ in range(3):
        cost.update(1, 0)
    for _ in range(300):
        cost.update(1, 100 * MS)
    assert cost.predict(1) == pytest.approx(100 * MS, rel=0.1)
