"""Prometheus metrics of one server, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

#: Upper bounds in seconds: a small model answers within 100 µs, a slow one in seconds.
_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)


class ModelMetrics:
    """The metrics of one model version, looked up once, when it loads."""

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        self._metrics = metrics
        self._labels = (model, version)
        self.success = metrics.requests.labels(model, version, "success")
        self.failure = metrics.requests.labels(model, version, "failure")
        self.rejected = metrics.requests.labels(model, version, "rejected")
        self.seconds = metrics.seconds.labels(model, version)
        self.in_progress = metrics.in_progress.labels(model, version)

    def close(self) -> None:
        """Take the series out, so that unloaded models leave none."""
        for outcome in ("success", "failure", "rejected"):
            self._metrics.requests.remove(*self._labels, outcome)
        self._metrics.seconds.remove(*self._labels)
        self._metrics.in_progress.remove(*self._labels)


class Metrics:
    """All metrics of a server; two servers in one process do not share any."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("model", "version")
        self.requests = Counter(
            "jackfield_infer_requests",
            "Inference requests by outcome.",
            (*labels, "outcome"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "jackfield_infer_seconds",
            "Time from a decoded request to its response, in seconds.",
            labels,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_progress = Gauge(
            "jackfield_infer_in_progress",
            "Inference requests waiting or running.",
            labels,
            registry=self.registry,
        )

    def model(self, name: str, version: str) -> ModelMetrics:
        """Make the metrics of one model version."""
        return ModelMetrics(self, name, version)

    def expose(self) -> tuple[bytes, str]:
        """Render all metrics: the body and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
