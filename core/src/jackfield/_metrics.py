"""Prometheus metrics of one server, read from the models' statistics when they are asked for.

Nothing is counted twice: a request's path touches the statistics only.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from jackfield._statistics import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from jackfield._models import Model

_LABELS = ("model", "version")
_BOUNDS = [*(str(seconds) for seconds in SECONDS), "+Inf"]


class Metrics(Collector):
    """All metrics of a server, in a registry of its own: two servers do not share any.

    Args:
        loaded: Lists the models that serve; one that is unloaded leaves no series.
    """

    def __init__(self, loaded: Callable[[], Iterable[Model]]) -> None:
        self._loaded = loaded
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Read the statistics of all models."""
        requests = CounterMetricFamily(
            "jackfield_infer_requests",
            "Inference requests by outcome.",
            labels=(*_LABELS, "outcome"),
        )
        seconds = HistogramMetricFamily(
            "jackfield_infer_seconds",
            "Time from a request to its computed response, in seconds.",
            labels=_LABELS,
        )
        in_progress = GaugeMetricFamily(
            "jackfield_infer_in_progress", "Inference requests waiting or running.", labels=_LABELS
        )
        for model in self._loaded():
            key, statistics = (model.name, model.version), model.statistics
            requests.add_metric([*key, "success"], statistics.success_count)
            requests.add_metric([*key, "failure"], statistics.fail_count)
            requests.add_metric([*key, "rejected"], statistics.rejected_count)
            counts = zip(_BOUNDS, accumulate(statistics.latencies), strict=True)
            seconds.add_metric(key, list(counts), sum_value=statistics.success_ns * 1e-9)
            in_progress.add_metric(key, statistics.in_flight)
        yield requests
        yield seconds
        yield in_progress

    def expose(self) -> tuple[bytes, str]:
        """Render all metrics: the body and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
