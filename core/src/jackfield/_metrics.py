"""Prometheus metrics of one server, read from the models' statistics when they are asked for.

Nothing is counted twice: a request's path touches the statistics only.
"""

from __future__ import annotations

import logging
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from jackfield._statistics import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jackfield._models import Model

logger = logging.getLogger("jackfield")

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
        yield from self._own_of_models()

    def _own_of_models(self) -> Iterator[Metric]:
        """Put what the models count themselves together, one family for each name."""
        families: dict[str, Metric] = {}
        for model in self._loaded():
            for metric in model.metrics.collect() if model.metrics else ():
                family = families.get(metric.name)
                if family is None:
                    family = Metric(metric.name, metric.documentation, metric.type)
                    families[metric.name] = family
                elif family.type != metric.type:
                    # one name has one kind in Prometheus' form: a reader would refuse the whole
                    logger.warning(
                        "model '%s' %s: its metric '%s' is left out: for another model that is "
                        "a %s, here it is a %s",
                        model.name,
                        model.version,
                        metric.name,
                        family.type,
                        metric.type,
                    )
                    continue
                for sample in metric.samples:
                    if not sample.name.endswith("_created"):
                        labels = {"model": model.name, "version": model.version, **sample.labels}
                        family.samples.append(sample._replace(labels=labels))
        yield from families.values()

    def expose(self) -> tuple[bytes, str]:
        """Render all metrics: the body and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
