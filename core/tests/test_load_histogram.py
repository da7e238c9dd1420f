import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield._load.histogram import RELATIVE_ERROR, Histogram

LONGEST = 2**42 - 1
#: As many short ones as long ones, which a uniform draw has not.
DURATIONS = st.integers(0, 42).flatmap(lambda bits: st.integers(0, 2**bits - 1))
PERCENTS = st.sampled_from([0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0]) | st.floats(0, 100)


def histogram_of(values):
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def exact(values, percent):
    rank = max(1, math.ceil(round(percent / 100 * len(values), 6)))
    return sorted(values)[rank - 1]


def test_the_error_is_less_than_one_percent():
    assert RELATIVE_ERROR < 0.01


@given(st.lists(DURATIONS, min_size=1), PERCENTS)
def test_a_percentile_is_within_the_error_of_the_exact_one(values, percent):
    wanted = exact(values, percent)
    assert abs(histogram_of(values).percentile(percent) - wanted) <= wanted * RELATIVE_ERROR


@given(st.lists(DURATIONS), st.lists(DURATIONS))
def test_merged_histograms_are_the_histogram_of_all(first, second):
    merged = histogram_of(first)
    merged.merge(histogram_of(second))
    assert merged == histogram_of([*first, *second])


@given(st.lists(st.integers(-(2**50), 2**60), min_size=1))
def test_whatever_is_recorded_is_counted_and_the_extremes_are_exact(values):
    histogram = histogram_of(values)
    held = [max(value, 0) for value in values]
    assert histogram.count == len(values) == sum(histogram.counts.values())
    assert (histogram.smallest, histogram.largest) == (min(held), max(held))
    assert histogram.percentile(100) == max(held)
    assert histogram.mean == pytest.approx(sum(held) / len(held))


@given(st.lists(DURATIONS, min_size=1))
def test_percentiles_rise(values):
    histogram = histogram_of(values)
    found = [histogram.percentile(percent) for percent in range(101)]
    assert found == sorted(found)


def test_memory_is_bounded():
    # the first and the last value of each bucket, and what no bucket holds
    values = {
        max(2**bits + step * 2 ** max(bits - 7, 0), 0) for bits in range(45) for step in range(128)
    }
    assert len(histogram_of([*range(256), *values, 2**100]).counts) <= 4608


def test_the_rank_is_not_lost_to_rounding():
    # 99.9 % of 1,000 is 999: a float makes that 999.0000000000001
    assert histogram_of([1] * 999 + [200]).percentile(99.9) == 1


def test_nothing_recorded_is_zero():
    histogram = Histogram()
    assert (histogram.percentile(50), histogram.mean, histogram.largest) == (0, 0, 0)


@given(st.lists(DURATIONS))
def test_it_goes_between_processes(values):
    histogram = histogram_of(values)
    sent = msgspec.msgpack.encode(histogram)
    assert msgspec.msgpack.decode(sent, type=Histogram) == histogram
