"""What a model did so far: the one record that the statistics extension and Prometheus read.

One clock feeds it: `time.perf_counter_ns`, read by the shells when they begin to decode and end to
encode, and by the schedulers around the runtime.

Source: Triton's statistics extension; its field names are kept.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from time import perf_counter_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jackfield.messages import InferRequest

#: Upper bounds of the latency histogram in seconds: a small model answers within 100 µs, a slow
#: one in seconds.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)
_BOUNDS_NS = [int(seconds * 1e9) for seconds in SECONDS]
#: Callers choose the sizes of batches, and must not be able to fill the memory with them.
_MAX_BATCH_SIZES = 1000


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
    """The runs of one batch size; times in nanoseconds."""

    __slots__ = ("count", "infer_ns", "input_ns", "output_count", "output_ns")

    def __init__(self) -> None:
        self.count = 0
        self.input_ns = 0
        self.infer_ns = 0
        self.output_count = 0
        self.output_ns = 0

    def record(self, size: int) -> dict[str, object]:
        """Give the form that the wire has."""
        return {
            "batch_size": size,
            "compute_input": _duration(self.count, self.input_ns),
            "compute_infer": _duration(self.count, self.infer_ns),
            "compute_output": _duration(self.output_count, self.output_ns),
        }


class ModelStatistics:
    """The counts of one model version since it was loaded; used on the event loop only.

    Args:
        is_row_wise: A request counts as many inferences as it has rows, else one.
    """

    def __init__(self, *, is_row_wise: bool) -> None:
        self._is_row_wise = is_row_wise
        #: Requests waiting or running.
        self.in_flight = 0
        #: Rows (or requests, for a model that is not row-wise) that were answered.
        self.inference_count = 0
        #: Calls of the runtime that succeeded: below `inference_count` where rows come together.
        self.execution_count = 0
        #: Milliseconds since the epoch; 0 before the first request.
        self.last_inference = 0
        self.success_count = 0
        self.success_ns = 0
        self.fail_count = 0
        self.fail_ns = 0
        self.rejected_count = 0
        self.queue_ns = 0
        self.input_ns = 0
        self.infer_ns = 0
        self.output_count = 0
        self.output_ns = 0
        #: How many requests took up to each of `SECONDS`; the last one counts those above.
        self.latencies = [0] * (len(SECONDS) + 1)
        self._batches: dict[int, BatchStatistics] = {}

    def succeeded(self, request: InferRequest, *, arrived: int, started: int, ended: int) -> None:
        """Count an answered request.

        Args:
            request: Its `received_ns` tells when a shell began to decode it.
            arrived: When the model got it, in nanoseconds of the clock.
            started: When the runtime began.
            ended: When the runtime was done.
        """
        received = request.received_ns or arrived
        size = self._size(request)
        self.last_inference = time.time_ns() // 1_000_000
        self.inference_count += size
        self.execution_count += 1
        self.success_count += 1
        self.success_ns += ended - received
        self.queue_ns += started - arrived
        self.input_ns += arrived - received
        self.infer_ns += ended - started
        self.latencies[bisect_left(_BOUNDS_NS, ended - received)] += 1
        batch = self._batches.get(size)
        if batch is None:
            if len(self._batches) >= _MAX_BATCH_SIZES:
                return
            batch = self._batches[size] = BatchStatistics()
        batch.count += 1
        batch.input_ns += arrived - received
        batch.infer_ns += ended - started

    def failed(self, ns: int) -> None:
        """Count a request that got an error after so long."""
        self.last_inference = time.time_ns() // 1_000_000
        self.fail_count += 1
        self.fail_ns += ns

    def encoded(self, request: InferRequest, computed: int) -> None:
        """Note that a shell has encoded the response, which was computed at that time."""
        ns = perf_counter_ns() - computed
        self.output_count += 1
        self.output_ns += ns
        self.success_ns += ns
        if batch := self._batches.get(self._size(request)):
            batch.output_count += 1
            batch.output_ns += ns

    def _size(self, request: InferRequest) -> int:
        shape = request.inputs[0].array.shape
        return shape[0] if self._is_row_wise and shape else 1

    def record(self, name: str, version: str) -> dict[str, object]:
        """Give the form that the wire has, for one model version."""
        count = self.success_count
        parts = (
            _duration(count, self.success_ns),
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
