"""Windows of rows: so many of them, or those of so many seconds, one after another or overlapping.

A state machine without a clock, a thread or I/O of its own: rows and the time go in, full windows
come out. Detectors and monitors use it; not safe for several threads at once. NumPy is imported on
first use: settings name it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FullWindow", "Window", "WindowSetting", "WindowSettings", "WindowStatus"]

#: Most windows in seconds that one row may be part of; more would cost time on every row.
_MOST_OVERLAPS = 1000
#: A thousandth of it is what a float still resolves in the seconds since 1970.
_SHORTEST_S = 0.001


class WindowSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a window is counted; give `rows` or `seconds`.

    Raises:
        ValueError: Neither or both are given, or another value does not go with them.
    """

    rows: Annotated[
        int, Meta(ge=0, description="Rows of a window; 0: it is counted in seconds.")
    ] = 0
    seconds: Annotated[
        float, Meta(ge=0, description="Length of a window in seconds; 0: it is counted in rows.")
    ] = 0.0
    every: Annotated[
        float,
        Meta(
            ge=0,
            description="Rows, or seconds, from one window to the next: less than a window's "
            "length lets them overlap. 0: each begins where the one before ended.",
        ),
    ] = 0.0
    max_age: Annotated[
        float,
        Meta(
            ge=0,
            description="Most seconds that a row waits for a window of rows to fill; then it is "
            "given as it is. 0: without end.",
        ),
    ] = 0.0
    min_rows: Annotated[
        int,
        Meta(
            ge=1,
            description="Fewest rows of a window in seconds, or of one that max_age ends; one with "
            "fewer is dropped.",
        ),
    ] = 1
    max_rows: Annotated[
        int,
        Meta(
            ge=1,
            description="Most rows held for a window in seconds; the oldest go first.",
        ),
    ] = 100_000

    def __post_init__(self) -> None:
        """Refuse what does not go together, in msgspec's form of words."""
        if bool(self.rows) is bool(self.seconds):
            found = "both" if self.rows else "neither"
            raise ValueError(f"Expected one of 'rows' and 'seconds' above 0, got `{found}`")
        if self.rows:
            self._check_rows()
        else:
            self._check_seconds()

    def _check_rows(self) -> None:
        if self.every % 1:  # of infinity it is NaN, which is true
            raise ValueError(f"Expected whole rows for 'every', got `{self.every:g}`")
        if self.every > self.rows:
            raise ValueError(f"Expected 'every' <= {self.rows} rows, got `{self.every:g}`")
        if self.min_rows > self.rows:
            raise ValueError(f"Expected 'min_rows' <= {self.rows} rows, got `{self.min_rows}`")
        if not math.isfinite(self.max_age):
            raise ValueError(f"Expected finite seconds for 'max_age', got `{self.max_age:g}`")

    def _check_seconds(self) -> None:
        if not _SHORTEST_S <= self.seconds < math.inf:
            raise ValueError(f"Expected {_SHORTEST_S} or more 'seconds', got `{self.seconds:g}`")
        if self.every and not self.seconds / _MOST_OVERLAPS <= self.every <= self.seconds:
            raise ValueError(
                f"Expected 'every' of {self.seconds / _MOST_OVERLAPS:g} to {self.seconds:g} "
                f"seconds, got `{self.every:g}`"
            )
        if self.max_age:
            raise ValueError("Expected no 'max_age' with 'seconds', got `one`")
        if self.min_rows > self.max_rows:
            raise ValueError(f"Expected 'min_rows' <= 'max_rows', got `{self.min_rows}`")


#: What a setting may hold: a number of rows, or an object. For the field of another Struct:
#: ``window: WindowSetting | None = None``; both forms go into `Window`.
WindowSetting: TypeAlias = Annotated[int, Meta(ge=1)] | WindowSettings


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FullWindow:
    """A window that is complete."""

    #: ``[n, ...]``, oldest first. Read-only, for windows may overlap: copy it to write.
    rows: NDArray[Any]
    #: Of a window in seconds, the times that it spans; else of its first and its last row.
    started: float
    ended: float
    #: It has fewer rows than it should: `max_age` or `flush` ended it.
    is_short: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class WindowStatus:
    """How far a window is."""

    #: Rows held now.
    rows: int
    #: From 0 to 1: of its rows, or of its seconds.
    fullness: float
    #: Seconds since the oldest row held came; 0 without one.
    oldest_age: float
    #: Windows given so far.
    windows: int
    #: Rows that no window ever had: over `max_rows`, or in one with fewer than `min_rows`.
    dropped: int


class Window:
    """Gathers rows until a window is full.

    A window of rows is full with its last row. One in seconds spans the seconds from its start, the
    end not included, and is full when that is over: ask with `due` where no rows come. Windows in
    seconds are counted from the first row; a pause that leaves none held starts the count anew, and
    a window without rows is not given.

    Args:
        settings: How it is counted; a number alone is that of rows.

    Example:
        ```python
        window = Window(WindowSettings(rows=100, every=50))
        for full in window.add(rows, time.time()):
            detector.predict(full.rows)
        ```
    """

    def __init__(self, settings: WindowSettings | int) -> None:
        if isinstance(settings, int):
            settings = WindowSettings(rows=settings)
        self.settings = settings
        self._held = _Rows()
        #: How many of the rows held, from the left, were in a window already.
        self._shown = 0
        #: When the next window in seconds ends; None while no row is held.
        self._end: float | None = None
        self._last = -math.inf
        #: Added to the time given, for a clock that steps back.
        self._offset = 0.0
        self._windows = 0
        self._dropped = 0

    def add(self, rows: NDArray[Any], now: float) -> list[FullWindow]:
        """Take rows that came now.

        Args:
            rows: ``[n, ...]``; a copy is held. Shape past the first dimension and kind of dtype
                must be those of the rows held.
            now: Seconds of any clock. Where a snapshot outlives the process it has to be the time
                of day. One that steps back counts as one that stands still, and goes on from there.

        Returns:
            The windows that are full now, oldest first.

        Raises:
            ValueError: The rows do not fit those held; nothing of them was taken.
        """
        if not self.fits(rows):
            expected, found = self._held.describe(), _Rows.describe_one(rows)
            raise ValueError(f"expected rows as those held, {expected}, found {found}")
        full = self.due(now)
        if len(rows):
            self._held.append(rows, self._last)
            if self.settings.rows:
                full += self._full_rows()
            else:
                self._hold(self._last)
        return full

    def due(self, now: float) -> list[FullWindow]:
        """Give the windows that time alone made full: those in seconds, and those past `max_age`.

        Args:
            now: As for `add`.

        Returns:
            The windows, oldest first.
        """
        now = self._tick(now)
        if self.settings.seconds:
            return self._full_seconds(now)
        oldest = self._held.time(self._shown)
        if not self.settings.max_age or oldest is None or now - oldest < self.settings.max_age:
            return []
        if len(self._held) < self.settings.min_rows:
            self._drop_all()
            return []
        return [self._short()]

    def flush(self, now: float) -> FullWindow | None:
        """Give what is held as a short window, whatever `min_rows` says, and begin anew.

        Args:
            now: As for `add`. Windows that are due are to be asked for first.

        Returns:
            None if no row came since the last window.
        """
        self._tick(now)
        return self._short() if len(self._held) > self._shown else None

    def status(self, now: float) -> WindowStatus:
        """Tell how far it is; changes nothing."""
        oldest = self._held.time(0)
        now = max(now + self._offset, self._last)
        age = 0.0 if oldest is None else now - oldest
        if self.settings.rows:
            fullness = len(self._held) / self.settings.rows
        else:
            start = now if self._end is None else self._end - self.settings.seconds
            fullness = min((now - start) / self.settings.seconds, 1.0)
        return WindowStatus(len(self._held), fullness, age, self._windows, self._dropped)

    def fits(self, rows: NDArray[Any]) -> bool:
        """Tell whether `add` takes such rows."""
        return rows.ndim > 0 and self._held.fits(rows)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copy what it holds, as arrays that a file can hold (rows of objects stay objects)."""
        import numpy as np

        settings = self.settings
        end = math.nan if self._end is None else self._end
        kept: dict[str, NDArray[Any]] = {
            "form": np.array([settings.rows, settings.seconds, settings.every]),
            "counts": np.array([self._shown, self._windows, self._dropped]),
            "clock": np.array([self._last, self._offset, end]),
        }
        if len(self._held):
            rows, times = self._held.whole()
            kept |= {"rows": rows.copy(), "times": times.copy()}
        return kept

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Hold what another one held.

        Raises:
            ValueError: It was counted another way, or is no snapshot; nothing is changed.
        """
        settings = self.settings
        try:
            form = [float(each) for each in snapshot["form"]]
            shown, windows, dropped = (int(each) for each in snapshot["counts"])
            last, offset, end = (float(each) for each in snapshot["clock"])
            rows, times = snapshot.get("rows"), snapshot.get("times")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a window's snapshot: {error!r}") from error
        if form != [settings.rows, settings.seconds, settings.every]:
            expected = _describe(settings.rows, settings.seconds, settings.every)
            raise ValueError(f"expected a window of {expected}, found one of {_describe(*form)}")
        held = _Rows()
        if rows is not None and times is not None:
            if rows.ndim == 0 or times.shape != rows.shape[:1] or not 0 <= shown <= len(rows):
                raise ValueError("expected a window's snapshot: a time for each row")
            held.restore(rows, times)
        if len(held) and settings.seconds and math.isnan(end):
            raise ValueError("expected a window's snapshot: when the next one ends")
        self._held, self._shown, self._windows, self._dropped = held, shown, windows, dropped
        self._last, self._offset = last, offset
        self._end = None if math.isnan(end) or not len(held) else end

    # ---- time ----

    def _tick(self, now: float) -> float:
        """Take note of the time; never goes back."""
        if not math.isfinite(now):
            raise ValueError(f"expected a time in seconds, found {now}")
        if now + self._offset < self._last:
            self._offset = self._last - now
        self._last = max(now + self._offset, self._last)
        return self._last

    # ---- windows in rows ----

    def _full_rows(self) -> list[FullWindow]:
        length = self.settings.rows
        step = int(self.settings.every) or length
        count = (len(self._held) - length) // step + 1
        if count <= 0:
            return []
        rows, times = self._held.whole()
        starts = range(0, count * step, step)
        full = [self._give(rows, times, start, start + length) for start in starts]
        self._held.drop(count * step)
        self._shown = length - step
        return full

    def _short(self) -> FullWindow:
        rows, times = self._held.whole()
        short = self._give(rows, times, 0, len(rows), is_short=True)
        self._forget()
        return short

    # ---- windows in seconds ----

    def _hold(self, now: float) -> None:
        """Begin to count with the first row; keep no more rows than allowed."""
        if self._end is None:
            self._end = now + self.settings.seconds
        excess = len(self._held) - self.settings.max_rows
        if excess > 0:
            self._drop(excess)

    def _full_seconds(self, now: float) -> list[FullWindow]:
        import numpy as np

        seconds, full = self.settings.seconds, []
        while self._end is not None and self._end <= now:
            rows, times = self._held.whole()
            count = int(np.searchsorted(times, self._end))  # rows before the end, all after start
            if count >= self.settings.min_rows:
                started, ended = self._end - seconds, self._end
                full.append(self._give(rows, times, 0, count, span=(started, ended)))
                self._shown = max(self._shown, count)
            self._end += self.settings.every or seconds
            self._drop(int(np.searchsorted(times, self._end - seconds)))
            if not len(self._held):
                self._end = None
        return full

    # ---- both ----

    def _give(
        self,
        rows: NDArray[Any],
        times: NDArray[np.float64],
        start: int,
        stop: int,
        *,
        span: tuple[float, float] | None = None,
        is_short: bool = False,
    ) -> FullWindow:
        self._windows += 1
        view = rows[start:stop]
        view.flags.writeable = False
        started, ended = span or (float(times[start]), float(times[stop - 1]))
        return FullWindow(view, started, ended, is_short)

    def _drop(self, count: int) -> None:
        """Let the oldest go; those that no window had are counted."""
        self._dropped += max(count - self._shown, 0)
        self._shown = max(self._shown - count, 0)
        self._held.drop(count)

    def _drop_all(self) -> None:
        self._drop(len(self._held))
        self._forget()

    def _forget(self) -> None:
        self._held, self._shown, self._end = _Rows(), 0, None


class _Rows:
    """Rows and their times in few pieces, so that adding one by one copies little."""

    def __init__(self) -> None:

        self._pieces: list[tuple[NDArray[Any], NDArray[np.float64]]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, rows: NDArray[Any], now: float) -> None:
        import numpy as np

        self._count += len(rows)
        # copied: the caller's may be a view of a request's whole body
        self._pieces.append((np.array(rows), np.full(len(rows), now)))
        pieces = self._pieces
        # each row is copied as often as the number of rows has binary digits, at most
        while len(pieces) > 1 and len(pieces[-2][0]) <= len(pieces[-1][0]):
            pieces[-2:] = [_join(pieces[-2:])]

    def restore(self, rows: NDArray[Any], times: NDArray[np.float64]) -> None:
        import numpy as np

        self._count = len(rows)
        self._pieces = [(np.array(rows), np.array(times, np.float64))] if self._count else []

    def whole(self) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Get all rows and times; there is at least one."""
        if len(self._pieces) > 1:
            self._pieces = [_join(self._pieces)]
        return self._pieces[0]

    def drop(self, count: int) -> None:
        """Let the oldest go, and the memory with them."""
        self._count -= count
        while count:
            rows, times = self._pieces[0]
            if len(rows) <= count:
                del self._pieces[0]
            else:
                self._pieces[0] = _rest(rows, times, count)
            count -= min(count, len(rows))

    def time(self, index: int) -> float | None:
        """Get when a row came; None if there is no such row."""
        for _, times in self._pieces:
            if index < len(times):
                return float(times[index])
            index -= len(times)
        return None

    def fits(self, rows: NDArray[Any]) -> bool:
        if not self._pieces:
            return True
        held = self._pieces[0][0]
        numbers = held.dtype.kind in _NUMBERS and rows.dtype.kind in _NUMBERS
        return held.shape[1:] == rows.shape[1:] and (numbers or held.dtype.kind == rows.dtype.kind)

    def describe(self) -> str:
        return self.describe_one(self._pieces[0][0]) if self._pieces else "[n, ...]"

    @staticmethod
    def describe_one(rows: NDArray[Any]) -> str:
        sizes = ", ".join(["n", *(str(size) for size in rows.shape[1:])])
        return f"{rows.dtype} [{sizes if rows.ndim else ''}]"


#: Kinds of dtype that go together in one array.
_NUMBERS = "biuf"


def _rest(
    rows: NDArray[Any], times: NDArray[np.float64], start: int
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Leave the first out; what it was part of is kept as long as half of it is used."""
    whole = len(rows) if rows.base is None else len(rows.base)
    if 2 * (len(rows) - start) < whole:
        return rows[start:].copy(), times[start:].copy()
    return rows[start:], times[start:]


def _join(
    pieces: Sequence[tuple[NDArray[Any], NDArray[np.float64]]],
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    import numpy as np

    rows, times = zip(*pieces, strict=True)
    return np.concatenate(rows), np.concatenate(times)


def _describe(rows: float, seconds: float, every: float) -> str:
    length = f"{rows:g} rows" if rows else f"{seconds:g} s"
    return f"{length}, every {every:g}" if every else length
