"""What models, loads and the event loop did so far: the one record of it.

The statistics extension formats it, Prometheus reads it when it is scraped, and nothing is counted
twice. One clock feeds it: `time.perf_counter_ns`, read by the shells when they begin to decode and
end to encode, and by the schedulers around the runtime.

Source: Triton's statistics extension; its field names are kept.
"""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_left
from time import perf_counter_ns
from typing import Literal, TypeAlias

#: Upper bounds of the histograms of time, in seconds: a small model computes within 100 µs, a slow
#: one within seconds.
SECONDS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
#: Upper bounds of the histograms of batch sizes, in rows or requests.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
#: Upper bounds of the histogram of queue depths, in requests; mostly nobody waits.
DEPTHS = (0, *SIZES)
#: Upper bounds of the histogram of the loop's lag, in seconds: timers are no finer than 1 ms.
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_SECONDS_NS = [round(seconds * 1e9) for seconds in SECONDS]
_LAGS_NS = [round(seconds * 1e9) for seconds in LAGS]
#: Callers choose the sizes of batches, and must not be able to fill the memory with them.
_MAX_BATCH_SIZES = 1000

#: How an admitted request ends that is not answered: the runtime failed, the model refused what the
#: caller sent, its time was over, its caller left, or the model can't answer now.
Failure: TypeAlias = Literal["failure", "invalid", "deadline", "cancelled", "unavailable"]
FAILURES: tuple[Failure, ...] = ("failure", "invalid", "deadline", "cancelled", "unavailable")

#: The parts of `inference_stats`; responses are not cached, so that the last two stay at 0.
PARTS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)


class BatchStatistics:
    """The runtime's calls of one batch size; times in nanoseconds.

    Calls are counted, and the requests of these calls as they are decoded and encoded, each by
    itself.
    """

    __slots__ = ("count", "infer_ns", "input_count", "input_ns", "output_count", "output_ns")

    def __init__(self) -> None:
        self.count = 0
        self.infer_ns = 0
        self.input_count = 0
        self.input_ns = 0
        self.output_count = 0
        self.output_ns = 0

    def record(self, size: int) -> dict[str, object]:
        """Give the form that the wire has."""
        return {
            "batch_size": size,
            "compute_input": _duration(self.input_count, self.input_ns),
            "compute_infer": _duration(self.count, self.infer_ns),
            "compute_output": _duration(self.output_count, self.output_ns),
        }


class ModelStatistics:
    """The counts of one model version since it was loaded; changed on the event loop.

    Calls that run beside it tell `executed`, `succeeded` and `failed` in threads of their own.

    A histogram is a list: how many were up to each bound, and in the end those above the last.
    """

    __slots__ = (
        "_batches",
        "_last_ns",
        "_lock",
        "_other_sizes",
        "beside",
        "compute_buckets",
        "depth_buckets",
        "depth_sum",
        "execution_count",
        "execution_ns",
        "execution_requests",
        "execution_rows",
        "fail_ns",
        "failures",
        "in_flight",
        "infer_ns",
        "inference_count",
        "input_ns",
        "output_count",
        "output_ns",
        "queue_buckets",
        "queue_ns",
        "rejected_count",
        "requests_buckets",
        "rows_buckets",
        "success_count",
        "total_buckets",
        "waiting",
    )

    def __init__(self) -> None:
        #: Requests waiting or running, but for those ...
        self.in_flight = 0
        #: ... that run in their callers' threads.
        self.beside = 0
        #: Requests admitted that do not run yet.
        self.waiting = 0
        #: Requests refused because `max_queue` were held.
        self.rejected_count = 0

        #: Rows (or requests, for a model that is not row-wise) that were answered.
        self.inference_count = 0
        self.success_count = 0
        # of the answered requests, each request's share counted whole: in a batch of 16, the
        # runtime's time is there 16 times
        self.input_ns = 0
        self.queue_ns = 0
        self.infer_ns = 0
        self.output_count = 0
        self.output_ns = 0
        #: By `SECONDS`: from the begin of decoding to the end of computing, and two parts of it.
        self.total_buckets = [0] * (len(SECONDS) + 1)
        self.queue_buckets = [0] * (len(SECONDS) + 1)
        self.compute_buckets = [0] * (len(SECONDS) + 1)

        self.failures: dict[str, int] = dict.fromkeys(FAILURES, 0)
        self.fail_ns = 0

        #: Calls of the runtime that succeeded: fewer than requests where they come together.
        self.execution_count = 0
        self.execution_ns = 0
        self.execution_rows = 0
        self.execution_requests = 0
        self.depth_sum = 0
        #: By `SIZES`: rows and requests in a call; by `DEPTHS`: requests that it left waiting.
        self.rows_buckets = [0] * (len(SIZES) + 1)
        self.requests_buckets = [0] * (len(SIZES) + 1)
        self.depth_buckets = [0] * (len(DEPTHS) + 1)

        self._last_ns = 0
        self._lock = threading.Lock()
        self._batches: dict[int, BatchStatistics] = {}
        # what comes in more sizes than are kept apart; no line of the wire's form
        self._other_sizes = BatchStatistics()

    def clear(self) -> None:
        """Count anew, while nothing is under way."""
        fresh = ModelStatistics()
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def executed(self, *, requests: int, rows: int, ns: int, waiting: int) -> None:
        """Count a call of the runtime that succeeded, before the requests that it answers.

        Args:
            requests: Requests that it computed.
            rows: Rows that it computed; as many as requests for a model that is not row-wise.
            ns: How long it took.
            waiting: Requests that were left waiting when it began.
        """
        with self._lock:
            self.execution_count += 1
            self.execution_ns += ns
            self.execution_rows += rows
            self.execution_requests += requests
            self.depth_sum += waiting
            self.rows_buckets[bisect_left(SIZES, rows)] += 1
            self.requests_buckets[bisect_left(SIZES, requests)] += 1
            self.depth_buckets[bisect_left(DEPTHS, waiting)] += 1
            batch = self._batches.get(rows) or self._add_size(rows)
            batch.count += 1
            batch.infer_ns += ns

    def succeeded(
        self, received: int, arrived: int, started: int, ended: int, size: int, rows: int = 0
    ) -> None:
        """Count an answered request; the times are those of `Timing`.

        Args:
            received: When a shell began to decode it; `arrived` for one made in process.
            arrived: When the model got it.
            started: When the runtime began.
            ended: When the runtime was done.
            size: Its own rows; 1 for a model that is not row-wise.
            rows: Rows in the runtime's call; 0 for a request that was computed alone.
        """
        with self._lock:
            self._last_ns = time.time_ns()
            self.inference_count += size
            self.success_count += 1
            self.input_ns += arrived - received
            self.queue_ns += started - arrived
            self.infer_ns += ended - started
            self.total_buckets[bisect_left(_SECONDS_NS, ended - received)] += 1
            self.queue_buckets[bisect_left(_SECONDS_NS, started - arrived)] += 1
            self.compute_buckets[bisect_left(_SECONDS_NS, ended - started)] += 1
            batch = self._batches.get(rows or size, self._other_sizes)
            batch.input_count += 1
            batch.input_ns += arrived - received

    def failed(self, ns: int, outcome: str) -> None:
        """Count a request that got an error after so long.

        Args:
            ns: Since its decoding began.
            outcome: One of `FAILURES`.

        Raises:
            KeyError: It is none of them.
        """
        with self._lock:
            self.failures[outcome] += 1
            self._last_ns = time.time_ns()
            self.fail_ns += ns

    def encoded(self, computed: int, size: int) -> int:
        """Note that a shell has encoded a response.

        Args:
            computed: When it was computed.
            size: Rows in the runtime's call that computed it.

        Returns:
            How long it took, in nanoseconds.
        """
        ns = perf_counter_ns() - computed
        self.output_count += 1
        self.output_ns += ns
        batch = self._batches.get(size, self._other_sizes)
        batch.output_count += 1
        batch.output_ns += ns
        return ns

    def _add_size(self, rows: int) -> BatchStatistics:
        if len(self._batches) >= _MAX_BATCH_SIZES:
            return self._other_sizes
        batch = self._batches[rows] = BatchStatistics()
        return batch

    @property
    def fail_count(self) -> int:
        """Admitted requests that were not answered."""
        return sum(self.failures.values())

    @property
    def total_ns(self) -> int:
        """The answered requests' time, from the begin of decoding to the end of computing."""
        return self.input_ns + self.queue_ns + self.infer_ns

    @property
    def last_inference(self) -> int:
        """When the last request ended, in milliseconds since the epoch; 0 before the first one."""
        return self._last_ns // 1_000_000

    def record(self, name: str, version: str) -> dict[str, object]:
        """Give the form that the wire has, for one model version."""
        count = self.success_count
        parts = (
            _duration(count, self.total_ns + self.output_ns),
            _duration(self.fail_count, self.fail_ns),
            _duration(count, self.queue_ns),
            _duration(count, self.input_ns),
            _duration(count, self.infer_ns),
            _duration(self.output_count, self.output_ns),
            _duration(0, 0),
            _duration(0, 0),
        )
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_inference,
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": dict(zip(PARTS, parts, strict=True)),
            "batch_stats": [batch.record(size) for size, batch in sorted(self._batches.items())],
        }


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


class Loads:
    """The loads of one model version, those that failed included."""

    __slots__ = ("failure_count", "seconds", "success_count")

    def __init__(self) -> None:
        self.success_count = 0
        self.failure_count = 0
        #: How long the last one took that succeeded; None before it.
        self.seconds: float | None = None


#: Versions come and go in a repository for as long as the server runs.
_MAX_LOADED = 10_000


class LoadStatistics:
    """The loads of one server, by model name and version.

    They outlive what was loaded: a load that fails leaves no model. The names are the repository's,
    never a caller's, and those that were loaded last are kept.
    """

    def __init__(self) -> None:
        self._loads: dict[tuple[str, str], Loads] = {}

    def succeeded(self, name: str, version: str, seconds: float) -> None:
        """Count a model version that was loaded in so many seconds."""
        loads = self._get(name, version)
        loads.success_count += 1
        loads.seconds = seconds

    def failed(self, name: str, version: str) -> None:
        """Count a load that failed."""
        self._get(name, version).failure_count += 1

    def items(self) -> list[tuple[tuple[str, str], Loads]]:
        """List what was counted: name and version, loads."""
        return list(self._loads.items())

    def _get(self, name: str, version: str) -> Loads:
        loads = self._loads.pop((name, version), None) or Loads()
        if len(self._loads) >= _MAX_LOADED:
            del self._loads[next(iter(self._loads))]
        self._loads[name, version] = loads
        return loads


class LoopStatistics:
    """How late an event loop is: what blocks it makes every request wait.

    Four times a second a timer is set, and what it comes late is noted: a loop that was blocked for
    longer than that is always seen, one that was blocked for less in proportion.
    """

    _INTERVAL_S = 0.25

    def __init__(self) -> None:
        self.lag_ns = 0
        #: By `LAGS`.
        self.buckets = [0] * (len(LAGS) + 1)
        self._due = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch the running loop; once more, if it was stopped."""
        self.stop()
        self._set(asyncio.get_running_loop())

    def stop(self) -> None:
        """Stop watching; nothing happens if that is so already."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def observe(self, lag_ns: int) -> None:
        """Count one lag; a timer may come a little early, too."""
        self.lag_ns += max(lag_ns, 0)
        self.buckets[bisect_left(_LAGS_NS, lag_ns)] += 1

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = perf_counter_ns() + round(self._INTERVAL_S * 1e9)
        self._timer = loop.call_later(self._INTERVAL_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.observe(perf_counter_ns() - self._due)
        self._set(loop)
