"""Prometheus metrics of one server, read from its statistics when they are asked for.

Nothing is counted twice: a request's path touches the statistics only. `docs/metrics.md` lists the
metrics; a test compares.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from jackfield._label import label_model
from jackfield._monitors import monitors_of
from jackfield._statistics import DEPTHS, LAGS, SECONDS, SIZES, LoopStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from jackfield._model import Model
    from jackfield._monitors import Monitor
    from jackfield._statistics import LoadStatistics, ModelStatistics

logger = logging.getLogger("jackfield")

_LABELS = ("model", "version")
_NS = 1e-9


class Metrics(Collector):
    """All metrics of a server, in a registry of its own: two servers do not share any.

    Args:
        loaded: Lists the models that serve; one that is unloaded leaves no series, but for its
            loads.
        loads: The loads of the server's models.
        mlserver_names: Show what MLServer shows under its names, too.
    """

    def __init__(
        self,
        loaded: Callable[[], Iterable[Model]],
        loads: LoadStatistics,
        *,
        mlserver_names: bool = False,
    ) -> None:
        self._loaded = loaded
        self._loads = loads
        self._mlserver_names = mlserver_names
        self._loop = LoopStatistics()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def start(self) -> None:
        """Begin to watch the running event loop's lag."""
        self._loop.start()

    def stop(self) -> None:
        """Stop watching it."""
        self._loop.stop()

    def collect(self) -> Iterator[Metric]:
        """Read the statistics of the models, of their loads and of the event loop."""
        models = list(self._loaded())
        ours = [
            *_requests(models),
            *_times(models),
            *_executions(models),
            *_loading(self._loads),
            _lag(self._loop),
        ]
        # most servers have none: nothing is said of them there
        if monitors := [each for model in models for each in monitors_of(model)]:
            ours += [*_monitored_rows(monitors), *_verdicts(monitors), *_troubles(monitors)]
        if self._mlserver_names:
            ours += _as_in_mlserver(models)
        yield from ours
        yield from _without(ours, _own_of_models(models))

    def expose(self) -> tuple[bytes, str]:
        """Render all of the server's metrics: the body and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    async def read(self) -> tuple[list[Metric], list[Metric]]:
        """Read the server's metrics and those of its process: memory, time, files, Python's.

        The statistics are read here, on the event loop that changes them; what is read of files of
        the system, in a thread.
        """
        families = list(self.collect())
        return families, await asyncio.to_thread(_read_process)


class _Collected(Collector):
    """Metrics that were read before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _read_process() -> list[Metric]:
    collectors = (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR)
    return [family for collector in collectors for family in collector.collect()]


async def render(server: Sequence[Metric], process: Sequence[Metric]) -> tuple[bytes, str]:
    """Write metrics in Prometheus' text form, and give its content type.

    In a thread: rendering many models takes milliseconds.
    """
    families = _Collected([*process, *_without(process, server)])
    return await asyncio.to_thread(generate_latest, families), CONTENT_TYPE_LATEST


def _without(taken: Iterable[Metric], families: Iterable[Metric]) -> Iterator[Metric]:
    """Leave out what has a name of ours: a reader would refuse the whole."""
    names = {family.name for family in taken}
    for family in families:
        if family.name in names:
            logger.warning(
                "the metric '%s' of a model is left out: it is the server's", family.name
            )
        else:
            yield family


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Give each upper bound, as text, with how many were not above it."""
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))


def _key(model: Model) -> tuple[str, str]:
    return model.name, model.version


def _requests(models: Iterable[Model]) -> list[Metric]:
    """How many requests there are and were."""
    requests = CounterMetricFamily(
        "jackfield_infer_requests", "Inference requests by outcome.", labels=(*_LABELS, "outcome")
    )
    rows = CounterMetricFamily(
        "jackfield_infer_rows",
        "Rows answered; requests answered, where the model is not row-wise.",
        labels=_LABELS,
    )
    in_progress = GaugeMetricFamily(
        "jackfield_infer_in_progress", "Inference requests waiting or running.", labels=_LABELS
    )
    waiting = GaugeMetricFamily(
        "jackfield_infer_waiting", "Inference requests that do not run yet.", labels=_LABELS
    )
    for model in models:
        key, statistics = _key(model), model.statistics
        requests.add_metric([*key, "success"], statistics.success_count)
        for outcome, count in statistics.failures.items():
            requests.add_metric([*key, outcome], count)
        requests.add_metric([*key, "rejected"], statistics.rejected_count)
        rows.add_metric(key, statistics.inference_count)
        in_progress.add_metric(key, statistics.in_flight + statistics.beside)
        waiting.add_metric(key, statistics.waiting)
    return [requests, rows, in_progress, waiting]


def _times(models: Iterable[Model]) -> list[Metric]:
    """Where the time of the answered requests went."""
    total = HistogramMetricFamily(
        "jackfield_infer_seconds",
        "Time from a request to its computed response, in seconds: decode, queue and compute.",
        labels=_LABELS,
    )
    queue = HistogramMetricFamily(
        "jackfield_infer_queue_seconds",
        "Time that a request waited for the runtime, in seconds.",
        labels=_LABELS,
    )
    compute = HistogramMetricFamily(
        "jackfield_infer_compute_seconds",
        "Time of the runtime's call that answered a request, in seconds.",
        labels=_LABELS,
    )
    decode = SummaryMetricFamily(
        "jackfield_infer_decode_seconds", "Time to decode a request, in seconds.", labels=_LABELS
    )
    encode = SummaryMetricFamily(
        "jackfield_infer_encode_seconds", "Time to encode a response, in seconds.", labels=_LABELS
    )
    for model in models:
        key, statistics = _key(model), model.statistics
        for family, counts, ns in (
            (total, statistics.total_buckets, statistics.total_ns),
            (queue, statistics.queue_buckets, statistics.queue_ns),
            (compute, statistics.compute_buckets, statistics.infer_ns),
        ):
            family.add_metric(key, _buckets(SECONDS, counts), sum_value=ns * _NS)
        decode.add_metric(key, statistics.success_count, statistics.input_ns * _NS)
        encode.add_metric(key, statistics.output_count, statistics.output_ns * _NS)
    return [total, queue, compute, decode, encode]


def _executions(models: Iterable[Model]) -> list[Metric]:
    """What came together in the runtime's calls."""
    rows = HistogramMetricFamily(
        "jackfield_batch_rows", "Rows in a call of the runtime.", labels=_LABELS
    )
    requests = HistogramMetricFamily(
        "jackfield_batch_requests", "Requests in a call of the runtime.", labels=_LABELS
    )
    depth = HistogramMetricFamily(
        "jackfield_queue_depth",
        "Requests left waiting when a call of the runtime began.",
        labels=_LABELS,
    )
    seconds = CounterMetricFamily(
        "jackfield_execution_seconds",
        "Time of the runtime's calls, in seconds: its rate is how many run at once.",
        labels=_LABELS,
    )
    for model in models:
        key, statistics = _key(model), model.statistics
        for family, bounds, counts, total in (
            (rows, SIZES, statistics.rows_buckets, statistics.execution_rows),
            (requests, SIZES, statistics.requests_buckets, statistics.execution_requests),
            (depth, DEPTHS, statistics.depth_buckets, statistics.depth_sum),
        ):
            family.add_metric(key, _buckets(bounds, counts), sum_value=total)
        seconds.add_metric(key, statistics.execution_ns * _NS)
    return [rows, requests, depth, seconds]


def _loading(loads: LoadStatistics) -> list[Metric]:
    """How often models were loaded, and how long it took."""
    total = CounterMetricFamily(
        "jackfield_model_loads",
        "Loads of model versions by outcome.",
        labels=(*_LABELS, "outcome"),
    )
    seconds = GaugeMetricFamily(
        "jackfield_model_load_seconds",
        "Time of the last load that succeeded, in seconds.",
        labels=_LABELS,
    )
    for key, counted in loads.items():
        total.add_metric([*key, "success"], counted.success_count)
        total.add_metric([*key, "failure"], counted.failure_count)
        if counted.seconds is not None:
            seconds.add_metric(key, counted.seconds)
    return [total, seconds]


_MONITOR_LABELS = (*_LABELS, "monitor")


def _monitor_key(monitor: Monitor) -> tuple[str, str, str]:
    return monitor.model, monitor.version, monitor.name


def _monitored_rows(monitors: Iterable[Monitor]) -> list[Metric]:
    """What became of the rows of monitored models."""
    seen = CounterMetricFamily(
        "jackfield_monitor_rows_seen", "Rows of requests seen.", labels=_MONITOR_LABELS
    )
    sampled = CounterMetricFamily(
        "jackfield_monitor_rows_sampled", "Rows taken by chance.", labels=_MONITOR_LABELS
    )
    judged = CounterMetricFamily(
        "jackfield_monitor_rows_judged",
        "Rows that the detector answered for; more than once where windows overlap.",
        labels=_MONITOR_LABELS,
    )
    dropped = CounterMetricFamily(
        "jackfield_monitor_rows_dropped",
        "Rows taken that are not judged, by reason.",
        labels=(*_MONITOR_LABELS, "reason"),
    )
    waiting = GaugeMetricFamily(
        "jackfield_monitor_rows_waiting",
        "Rows that wait, those in the window included.",
        labels=_MONITOR_LABELS,
    )
    for monitor in monitors:
        key, counts = _monitor_key(monitor), monitor.statistics
        seen.add_metric(key, counts.seen_rows)
        sampled.add_metric(key, counts.sampled_rows)
        judged.add_metric(key, counts.judged_rows)
        for reason, count in counts.drops.items():
            dropped.add_metric([*key, reason], count)
        waiting.add_metric(key, monitor.waiting_rows)
    return [seen, sampled, judged, dropped, waiting]


def _verdicts(monitors: Iterable[Monitor]) -> list[Metric]:
    """What the detectors said, and what they say now."""
    drift = GaugeMetricFamily(
        "jackfield_monitor_positive",
        "The last verdict: 1 is drift, or more outliers than are allowed.",
        labels=_MONITOR_LABELS,
    )
    when = GaugeMetricFamily(
        "jackfield_monitor_verdict_timestamp_seconds",
        "When the last verdict was given, in seconds since 1970.",
        labels=_MONITOR_LABELS,
    )
    p_value = GaugeMetricFamily(
        "jackfield_monitor_p_value",
        "P-value of the last verdict, of each feature or of all.",
        labels=(*_MONITOR_LABELS, "feature"),
    )
    distance = GaugeMetricFamily(
        "jackfield_monitor_distance",
        "Distance or test statistic of the last verdict, of each feature or of all.",
        labels=(*_MONITOR_LABELS, "feature"),
    )
    verdicts = CounterMetricFamily(
        "jackfield_monitor_verdicts",
        "Verdicts by what they found.",
        labels=(*_MONITOR_LABELS, "found"),
    )
    outliers = CounterMetricFamily(
        "jackfield_monitor_outlier_rows",
        "Rows found to be outliers or adversarial.",
        labels=_MONITOR_LABELS,
    )
    for monitor in monitors:
        key, counts, verdict = _monitor_key(monitor), monitor.statistics, monitor.verdict
        verdicts.add_metric([*key, "positive"], counts.positives)
        verdicts.add_metric([*key, "negative"], counts.verdicts - counts.positives)
        outliers.add_metric(key, counts.outlier_rows)
        if verdict is None:
            continue
        drift.add_metric(key, float(verdict.is_positive))
        when.add_metric(key, verdict.time_s)
        for feature in verdict.features[:_MOST_SERIES]:
            if feature.p_value is not None:
                p_value.add_metric([*key, feature.name], feature.p_value)
            if feature.distance is not None:
                distance.add_metric([*key, feature.name], feature.distance)
    return [drift, when, p_value, distance, verdicts, outliers]


#: Features of a monitor that have series of their own.
_MOST_SERIES = 200


def _troubles(monitors: Iterable[Monitor]) -> list[Metric]:
    """How calls of detectors and webhooks ended."""
    calls = CounterMetricFamily(
        "jackfield_monitor_calls",
        "Calls of the detector by outcome.",
        labels=(*_MONITOR_LABELS, "outcome"),
    )
    webhooks = CounterMetricFamily(
        "jackfield_monitor_webhooks",
        "Events for the webhook by what became of them.",
        labels=(*_MONITOR_LABELS, "outcome"),
    )
    for monitor in monitors:
        key, counts = _monitor_key(monitor), monitor.statistics
        calls.add_metric([*key, "success"], counts.calls)
        for outcome, count in counts.failures.items():
            calls.add_metric([*key, outcome], count)
        for outcome, count in counts.deliveries.items():
            webhooks.add_metric([*key, outcome], count)
    return [calls, webhooks]


def _lag(loop: LoopStatistics) -> Metric:
    lag = HistogramMetricFamily(
        "jackfield_event_loop_lag_seconds",
        "How late the event loop is, in seconds, sampled four times a second.",
    )
    lag.add_metric([], _buckets(LAGS, loop.buckets), sum_value=loop.lag_ns * _NS)
    return lag


def _as_in_mlserver(models: Iterable[Model]) -> list[Metric]:
    """The same numbers under MLServer's names, with its labels and its types."""
    success = CounterMetricFamily(
        "model_infer_request_success", "Inference requests that were answered.", labels=_LABELS
    )
    failure = CounterMetricFamily(
        "model_infer_request_failure", "Inference requests that were not answered.", labels=_LABELS
    )
    duration = SummaryMetricFamily(
        "model_infer_request_duration", "Time of inference requests, in seconds.", labels=_LABELS
    )
    queue = HistogramMetricFamily(
        "batch_request_queue",
        "Requests left waiting when a call of the runtime began.",
        labels=("model_name", "model_version"),
    )
    for model in models:
        key, statistics = _key(model), model.statistics
        failed = statistics.fail_count + statistics.rejected_count
        success.add_metric(key, statistics.success_count)
        failure.add_metric(key, failed)
        duration.add_metric(key, statistics.success_count + failed, _all_ns(statistics) * _NS)
        buckets = _buckets(DEPTHS, statistics.depth_buckets)
        queue.add_metric(key, buckets, sum_value=statistics.depth_sum)
    return [success, failure, duration, queue]


def _all_ns(statistics: ModelStatistics) -> int:
    """Nanoseconds of requests, answered or not; what is rejected takes none worth counting."""
    return statistics.total_ns + statistics.fail_ns


def _own_of_models(models: Iterable[Model]) -> Iterator[Metric]:
    """Put what the models count themselves together, one family for each name."""
    families: dict[str, Metric] = {}
    for model in models:
        for metric in model.metrics.collect() if model.metrics else ():
            family = families.get(metric.name)
            if family is None:
                family = Metric(metric.name, metric.documentation, metric.type)
                families[metric.name] = family
            elif family.type != metric.type:
                # one name has one kind in Prometheus' form: a reader would refuse the whole
                logger.warning(
                    "%s: its metric '%s' is left out: for another model that is "
                    "a %s, here it is a %s",
                    label_model(model.name, model.version),
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
