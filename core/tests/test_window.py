from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from jackfield._validation import explain
from jackfield.window import FullWindow, Window, WindowSetting, WindowSettings


class Naive:
    """Windows as their definition says: all rows and times kept, looked through anew each time."""

    def __init__(self, settings: WindowSettings) -> None:
        self.settings = settings
        self.rows: list[tuple[float, int]] = []  # since the count began anew
        self.next = 0  # row windows: index of the first row of the next one
        self.start: float | None = None  # windows in seconds: start of the next one
        self.seen = 0  # rows that some window had, from the left
        self.now = 0.0

    def add(self, values: list[int], now: float) -> list[list[int]]:
        full = self.due(now)
        self.rows += [(self.now, value) for value in values]
        if self.settings.rows:
            step = int(self.settings.every) or self.settings.rows
            while len(self.rows) >= self.next + self.settings.rows:
                full.append(self._values(self.next, self.next + self.settings.rows))
                self.seen = self.next + self.settings.rows
                self.next += step
        elif values:
            if self.start is None:
                self.start = self.now
            self.rows = self.rows[-self.settings.max_rows :]
        return full

    def due(self, now: float) -> list[list[int]]:
        self.now = max(self.now, now)
        if self.settings.seconds:
            return self._due_seconds()
        waiting = self.rows[self.seen :]
        if not self.settings.max_age or not waiting:
            return []
        if self.now - waiting[0][0] < self.settings.max_age:
            return []
        held = self._values(self.next, len(self.rows))
        self._forget()
        return [held] if len(held) >= self.settings.min_rows else []

    def _due_seconds(self) -> list[list[int]]:
        full = []
        while self.start is not None and self.start + self.settings.seconds <= self.now:
            end = self.start + self.settings.seconds
            inside = [value for time, value in self.rows if self.start <= time < end]
            if len(inside) >= self.settings.min_rows:
                full.append(inside)
            self.start += self.settings.every or self.settings.seconds
            self.rows = [(time, value) for time, value in self.rows if time >= self.start]
            if not self.rows:
                self.start = None
        return full

    def flush(self) -> list[int] | None:
        first = self.next if self.settings.rows else 0
        held = self._values(first, len(self.rows))
        self._forget()
        return held

    def _values(self, first: int, last: int) -> list[int]:
        return [value for _, value in self.rows[first:last]]

    def _forget(self) -> None:
        self.rows, self.next, self.seen, self.start = [], 0, 0, None


@st.composite
def row_settings(draw: st.DrawFn) -> WindowSettings:
    rows = draw(st.integers(1, 12))
    return WindowSettings(
        rows=rows,
        every=draw(st.integers(0, rows)),
        max_age=draw(st.sampled_from([0, 0, 3, 10])),
        min_rows=draw(st.integers(1, rows)),
    )


@st.composite
def second_settings(draw: st.DrawFn) -> WindowSettings:
    seconds = draw(st.integers(1, 12))
    most = draw(st.integers(1, 20))
    return WindowSettings(
        seconds=seconds,
        every=draw(st.integers(0, seconds)),
        min_rows=draw(st.integers(1, min(most, 4))),
        max_rows=most,
    )


def values(full: list[FullWindow]) -> list[list[int]]:
    return [window.rows[:, 0].tolist() for window in full]


class WindowMachine(RuleBasedStateMachine):
    """Any sequence of rows, pauses, flushes and restarts gives what the definition gives."""

    @initialize(settings=row_settings() | second_settings())
    def begin(self, settings: WindowSettings) -> None:
        self.settings = settings
        self.window = Window(settings)
        self.naive = Naive(settings)
        self.now = 0.0
        self.count = 0

    @rule(count=st.integers(0, 30), pause=st.integers(0, 8))
    def add(self, count: int, pause: int) -> None:
        self.now += pause
        rows = list(range(self.count, self.count + count))
        self.count += count
        array = np.array(rows, float).reshape(-1, 1)
        assert values(self.window.add(array, self.now)) == self.naive.add(rows, self.now)
        self._check_status()

    @rule(pause=st.integers(0, 30))
    def wait(self, pause: int) -> None:
        self.now += pause
        assert values(self.window.due(self.now)) == self.naive.due(self.now)
        self._check_status()

    @rule()
    def restart(self) -> None:
        snapshot = self.window.snapshot()
        self.window = Window(self.settings)
        self.window.restore(snapshot)
        assert self.window.snapshot().keys() == snapshot.keys()

    @precondition(lambda self: self.settings.rows)
    @rule()
    def flush(self) -> None:
        assert values(self.window.due(self.now)) == self.naive.due(self.now)
        short = self.window.flush(self.now)
        if short is not None:
            assert short.is_short
            assert values([short]) == [self.naive.flush()]
            assert self.window.flush(self.now) is None

    def _check_status(self) -> None:
        status = self.window.status(self.now)
        assert 0 <= status.fullness <= 1
        assert status.rows <= (self.settings.rows or self.settings.max_rows)
        assert status.oldest_age >= 0


TestWindowMachine = WindowMachine.TestCase
TestWindowMachine.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def rows_of(*numbers: float) -> np.ndarray:
    return np.array(numbers, float).reshape(-1, 1)


def test_one_large_request_fills_several_windows() -> None:
    full = Window(3).add(rows_of(*range(8)), 0)
    assert values(full) == [[0, 1, 2], [3, 4, 5]]
    assert not any(window.is_short for window in full)


def test_windows_overlap() -> None:
    window = Window(WindowSettings(rows=4, every=2))
    assert values(window.add(rows_of(*range(9)), 0)) == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]


def test_a_window_in_seconds_ends_by_time_alone() -> None:
    window = Window(WindowSettings(seconds=60))
    assert window.add(rows_of(1), 100) == []
    assert window.add(rows_of(2), 159.9) == []
    (full,) = window.due(160)
    assert full.rows.tolist() == [[1], [2]]
    assert (full.started, full.ended) == (100, 160)
    assert window.due(1e9) == []


def test_a_window_that_never_fills_says_so() -> None:
    window = Window(100)
    window.add(rows_of(1, 2, 3), 10)
    status = window.status(3610)
    assert (status.rows, status.fullness, status.oldest_age) == (3, 0.03, 3600)
    assert window.due(3610) == []


def test_a_window_that_never_fills_is_given_when_its_rows_are_too_old() -> None:
    window = Window(WindowSettings(rows=100, max_age=60))
    window.add(rows_of(1, 2), 0)
    assert window.due(59) == []
    (full,) = window.due(60)
    assert full.is_short
    assert full.rows.tolist() == [[1], [2]]
    assert window.status(60).rows == 0


def test_too_few_rows_that_are_too_old_are_dropped_and_counted() -> None:
    window = Window(WindowSettings(rows=100, max_age=60, min_rows=10))
    window.add(rows_of(1, 2), 0)
    assert window.due(60) == []
    assert window.status(60).dropped == 2


def test_rows_over_the_bound_are_dropped_oldest_first_and_counted() -> None:
    window = Window(WindowSettings(seconds=60, max_rows=3))
    window.add(rows_of(1, 2), 0)
    window.add(rows_of(3, 4, 5), 1)
    assert window.status(1).rows == 3
    assert window.status(1).dropped == 2
    assert values(window.due(60)) == [[3, 4, 5]]


def test_a_clock_that_steps_back_stops_no_window() -> None:
    window = Window(WindowSettings(seconds=10))
    window.add(rows_of(1), 1000)
    window.add(rows_of(2), 400)  # set back by ten minutes: as if no time had passed
    assert window.status(400).oldest_age == 0
    assert window.due(409) == []
    assert values(window.due(410)) == [[1, 2]]


def test_the_rows_of_a_request_are_copied() -> None:
    body = rows_of(1, 2)
    window = Window(4)
    window.add(body, 0)
    body[:] = 0
    (full,) = window.add(rows_of(3, 4), 0)
    assert full.rows[:, 0].tolist() == [1, 2, 3, 4]


def test_a_window_given_can_not_be_written() -> None:
    (full,) = Window(2).add(rows_of(1, 2), 0)
    with pytest.raises(ValueError, match="read-only"):
        full.rows[0] = 5


@pytest.mark.parametrize(
    "rows", [np.zeros((2, 3)), np.array([["a"]]), np.array([[None]]), np.float64(1)]
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_taken(rows) -> None:
    window = Window(4)
    window.add(rows_of(1), 0)
    assert not window.fits(rows)
    with pytest.raises(ValueError, match=r"expected rows as those held, float64 \[n, 1\], found"):
        window.add(rows, 0)
    assert window.status(0).rows == 1


def test_numbers_of_several_types_become_one_that_holds_all() -> None:
    window = Window(2)
    window.add(np.array([[1]], np.int64), 0)
    (full,) = window.add(np.array([[0.5]], np.float32), 0)
    assert full.rows.tolist() == [[1], [0.5]]


def test_texts_are_rows_too() -> None:
    window = Window(3)
    window.add(np.array(["a", "bcd"], object), 0)
    kept = window.snapshot()
    window = Window(3)
    window.restore(kept)
    (full,) = window.add(np.array(["e"], object), 0)
    assert full.rows.tolist() == ["a", "bcd", "e"]


def test_many_single_rows_are_held_in_few_pieces() -> None:
    window = Window(100_000)
    for index in range(3000):
        window.add(rows_of(index), 0)
    assert len(window._held._pieces) <= 12
    assert window.snapshot()["rows"][:, 0].tolist() == list(range(3000))


def test_memory_of_rows_that_went_is_given_back() -> None:
    window = Window(WindowSettings(seconds=1000, max_rows=100))
    for index in range(5000):
        window.add(rows_of(index), index * 1e-3)
    held = [rows if rows.base is None else rows.base for rows, _ in window._held._pieces]
    assert sum(len(rows) for rows in held) <= 400


@pytest.mark.parametrize(
    "other", [WindowSettings(rows=5), WindowSettings(rows=4, every=2), WindowSettings(seconds=4)]
)
def test_a_snapshot_of_another_window_is_refused(other: WindowSettings) -> None:
    window = Window(4)
    window.add(rows_of(1), 0)
    with pytest.raises(ValueError, match="found one of 4 rows"):
        Window(other).restore(window.snapshot())


def test_what_is_no_snapshot_is_refused_and_nothing_changes() -> None:
    window = Window(4)
    window.add(rows_of(1), 0)
    good = window.snapshot()
    for bad in ({}, good | {"times": np.zeros(7)}, good | {"counts": np.array([9, 0, 0])}):
        with pytest.raises(ValueError, match="snapshot"):
            window.restore(bad)
    assert window.snapshot()["rows"].tolist() == [[1]]


@pytest.mark.parametrize("now", [math.nan, math.inf])
def test_a_time_that_is_none_is_refused(now: float) -> None:
    with pytest.raises(ValueError, match="expected a time"):
        Window(4).add(rows_of(1), now)


class Options(msgspec.Struct):
    window: WindowSetting | None = None


def test_a_number_in_the_settings_means_rows() -> None:
    options = msgspec.json.decode(b'{"window": 50}', type=Options)
    assert options.window == 50
    assert Window(50).settings == WindowSettings(rows=50)


def test_an_object_in_the_settings_says_more() -> None:
    options = msgspec.json.decode(b'{"window": {"seconds": 60, "every": 10}}', type=Options)
    assert options.window == WindowSettings(seconds=60, every=10)


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        (b"0", "window", "1"),
        (b"{}", "window", "one of 'rows' and 'seconds'"),
        (b'{"rows": 5, "seconds": 5}', "window", "one of 'rows' and 'seconds'"),
        (b'{"rows": 5, "every": 2.5}', "window", "whole rows"),
        (b'{"rows": 5, "every": 6}', "window", "'every' <= 5"),
        (b'{"rows": 5, "min_rows": 6}', "window", "'min_rows' <= 5"),
        (b'{"rows": -5}', "window.rows", "0"),
        (b'{"seconds": 5, "every": 0.001}', "window", "0.005 to 5"),
        (b'{"seconds": 0.0001}', "window", "0.001 or more"),
        (b'{"seconds": 5, "max_age": 3}', "window", "no 'max_age'"),
        (b'{"seconds": 5, "min_rows": 10, "max_rows": 5}', "window", "'min_rows' <= 'max_rows'"),
        (b'{"seconds": 5, "slide": 1}', "window.slide", "no such field"),
        (b'"many"', "window", "null"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(text, path, expected) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(b'{"window": %s}' % text, type=Options)
    problem = explain(caught.value)
    assert problem.path == path
    assert expected in problem.expected + problem.found


@given(st.floats(min_value=0, max_value=2e9), st.floats(min_value=0.001, max_value=1e6))
@settings(deadline=None)
def test_any_seconds_come_to_an_end(now: float, seconds: float) -> None:
    window = Window(WindowSettings(seconds=seconds, every=seconds / 1000))
    window.add(rows_of(1), now)
    window.add(rows_of(2), now + 0.9 * seconds)
    full = window.due(now + 3 * seconds)
    assert 600 <= len(full) <= 1100  # 901, but for how finely a float tells the time
    assert window.status(now + 3 * seconds).rows == 0
