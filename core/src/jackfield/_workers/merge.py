"""Put together what several workers told: pure functions on values."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from jackfield._process.messages import Family, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from jackfield._monitors import MonitorRecord, Verdict

Record: TypeAlias = dict[str, Any]

#: Gauges that count what is under way or waits: they are added up. Of the server's others the
#: largest is given: a time, or whether something was found.
_ADDED = frozenset(
    ["jackfield_infer_in_progress", "jackfield_infer_waiting", "jackfield_monitor_rows_waiting"]
)
#: Gauges of which the smallest says most.
_SMALLEST = frozenset(["jackfield_monitor_p_value"])
_SERVERS = ("jackfield_", "model_infer_request_", "batch_request_queue")


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """The metrics of one worker."""

    #: Of the server and its models.
    server: list[Family]
    #: Of the process.
    process: list[Family]


def merge_metrics(
    told: Sequence[tuple[int, Counted]], departed: Sequence[Counted]
) -> tuple[list[Family], list[Family]]:
    """Give the metrics of the whole server, and those of its processes.

    Counters, histograms and summaries are added up, with what dead workers had counted of models
    that still serve, so that no counter goes back. Gauges are added up, or the largest or smallest
    is given; those of models' authors, and all that is of a process, get the label `worker`.

    Args:
        told: Each worker's number and metrics.
        departed: The metrics of dead workers, as they were told last.
    """
    server = _Sum()
    process = _Sum()
    for worker, counted in told:
        for family in counted.server:
            is_own = family.kind == "gauge" and not family.name.startswith(_SERVERS)
            server.add(_labelled(family, worker) if is_own else family)
        for family in counted.process:
            process.add(_labelled(family, worker))
    server.add_known(
        family for counted in departed for family in counted.server if family.kind != "gauge"
    )
    return server.families(), process.families()


def add_families(families: Iterable[Family]) -> list[Family]:
    """Add up counters and histograms by their names and labels."""
    total = _Sum()
    for family in families:
        total.add(family)
    return total.families()


def _labelled(family: Family, worker: int) -> Family:
    samples = [
        Sample(each.name, {**each.labels, "worker": str(worker)}, each.value)
        for each in family.samples
    ]
    return Family(family.name, family.documentation, family.kind, samples)


class _Sum:
    """Families of one name put together, sample by sample."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def add(self, family: Family) -> None:
        kept = self._families.setdefault(family.name, family)
        if kept.kind != family.kind:
            return  # one name has one kind in Prometheus' form
        combine = _combination(family)
        values = self._values.setdefault(family.name, {})
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            values[key] = combine(values[key], sample.value) if key in values else sample.value

    def add_known(self, families: Iterable[Family]) -> None:
        """Add what is of models that others told of, too.

        The server's own families tell of each model that they are about, those of models' authors
        of what has happened.
        """
        models = {
            name: {model_of(dict(labels)) for _, labels in values}
            for name, values in self._values.items()
        }
        anywhere = set().union(*models.values())
        for family in families:
            is_ours = family.name.startswith(_SERVERS)
            known = models.get(family.name, set()) if is_ours else anywhere
            samples = [each for each in family.samples if model_of(each.labels) in known]
            if samples:
                self.add(Family(family.name, family.documentation, family.kind, samples))

    def families(self) -> list[Family]:
        return [
            Family(
                family.name,
                family.documentation,
                family.kind,
                [
                    Sample(name, dict(labels), value)
                    for (name, labels), value in self._values[family.name].items()
                ],
            )
            for family in self._families.values()
            if family.name in self._values
        ]


def model_of(labels: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Tell the name and version of the model that a sample is of; None where it is of none."""
    # the latter are MLServer's
    name = labels.get("model", labels.get("model_name"))
    return name, labels.get("version", labels.get("model_version"))


def _combination(family: Family) -> Callable[[float, float], float]:
    if family.kind != "gauge" or family.name in _ADDED:
        return _add
    return min if family.name in _SMALLEST else max


def _add(one: float, other: float) -> float:
    return one + other


def merge_statistics(told: Sequence[Sequence[Record]], departed: Sequence[Record]) -> list[Record]:
    """Add up records of the statistics extension, by model and version.

    Args:
        told: What each worker told.
        departed: Records of dead workers; those of models that nobody else has are left out.
    """
    records = [record for records in told for record in records]
    known = {(record["name"], record["version"]) for record in records}
    records += [each for each in departed if (each["name"], each["version"]) in known]
    return add_records(records)


def add_records(records: Iterable[Record]) -> list[Record]:
    """Add up records of the statistics extension, by model and version."""
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        key = record["name"], record["version"]
        found[key] = _add_records(found[key], record) if key in found else record
    return list(found.values())


def _add_records(one: Record, other: Record) -> Record:
    batches: dict[int, Record] = {}
    for batch in (*one["batch_stats"], *other["batch_stats"]):
        size = batch["batch_size"]
        batches[size] = (
            {**_added(batches[size], batch), "batch_size": size} if (size in batches) else batch
        )
    return {
        **one,
        "last_inference": max(one["last_inference"], other["last_inference"]),
        "inference_count": one["inference_count"] + other["inference_count"],
        "execution_count": one["execution_count"] + other["execution_count"],
        "inference_stats": _added(one["inference_stats"], other["inference_stats"]),
        "batch_stats": [batches[size] for size in sorted(batches)],
    }


def merge_monitors(
    told: Sequence[tuple[int, Sequence[MonitorRecord[Verdict]]]],
) -> list[MonitorRecord[Verdict]]:
    """Put together what the monitors of one model version found in several workers.

    Counts are added up. Each worker fills a window of its own: the fullest one is given. Of the
    verdicts, which have their worker's number, the newest are kept, as many as one monitor keeps;
    the current one is the newest alarm among the workers' last, or the newest where none is one.

    Args:
        told: Each worker's number, and its records.
    """
    found: dict[str, list[tuple[int, MonitorRecord[Verdict]]]] = {}
    for worker, records in told:
        for record in records:
            found.setdefault(record.name, []).append((worker, record))
    return [_merge_records(each) for each in found.values()]


def _merge_records(told: Sequence[tuple[int, MonitorRecord[Verdict]]]) -> MonitorRecord[Verdict]:
    records = [record for _, record in told]
    first = records[0]
    verdicts = [(worker, verdict) for worker, record in told for verdict in record.history]
    verdicts.sort(key=lambda found: found[1].time_s)
    lasts = [(worker, record.current) for worker, record in told if record.current is not None]
    last = max(lasts, key=lambda found: (found[1].is_positive, found[1].time_s), default=None)
    windows = [record.window for record in records if record.window is not None]
    webhooks = [(worker, record.webhook) for worker, record in told if record.webhook is not None]
    return msgspec.structs.replace(
        first,
        problem=_merge_texts([(worker, record.problem) for worker, record in told]),
        misfit=_merge_texts([(worker, record.misfit) for worker, record in told]),
        rows=_added(*(record.rows for record in records)),
        window=max(windows, key=itemgetter("fullness"), default=None),
        verdicts=_added(*(record.verdicts for record in records)),
        calls=_added(*(record.calls for record in records)),
        webhook=_merge_webhooks(webhooks) if webhooks else None,
        current=_numbered(*last) if last else None,
        history=[_numbered(*found) for found in verdicts[-first.settings["history"] :]],
    )


def _numbered(worker: int, verdict: Verdict) -> Verdict:
    return msgspec.structs.replace(verdict, worker=worker)


def _merge_webhooks(told: Sequence[tuple[int, Mapping[str, Any]]]) -> Record:
    problem = _merge_texts([(worker, webhook["problem"]) for worker, webhook in told])
    counts = [{key: webhook[key] for key in webhook.keys() - {"problem"}} for _, webhook in told]
    return {**_added(*counts), "problem": problem}


def _merge_texts(told: Sequence[tuple[int, str]]) -> str:
    """Give the text that all have; else those that there are, with the numbers of their workers."""
    if len({text for _, text in told}) == 1:
        return told[0][1]
    return _by_worker((worker, text) for worker, text in told if text)


def _by_worker(told: Iterable[tuple[int, str]]) -> str:
    return "; ".join(f"worker {worker}: {text}" for worker, text in told)


def _added(*counts: Mapping[str, Any]) -> Record:
    """Add up numbers by name, in records within records, too."""
    return {
        key: _added(*(each[key] for each in counts))
        if isinstance(value, dict)
        else sum(each[key] for each in counts)
        for key, value in counts[0].items()
    }


def merge_lines(told: Sequence[tuple[int, Record | None]]) -> tuple[str, str]:
    """Tell the state of one model version in the whole server, and the reason.

    Args:
        told: Each worker's number and line of the index; None where it has none or is silent.

    Returns:
        The state that all have; else that of the first one that is not ready, with its number.
    """
    lines = [(line["state"], line["reason"]) if line else _SILENT for _, line in told]
    if len(set(lines)) == 1:
        return lines[0]
    unready = [
        (worker, line) for (worker, _), line in zip(told, lines, strict=True) if line[0] != "READY"
    ]
    if not unready:  # ready everywhere, with words that differ
        return lines[0]
    reasons = _by_worker((worker, reason or state.lower()) for worker, (state, reason) in unready)
    return unready[0][1][0], reasons


#: The line of a worker that has none.
_SILENT = ("UNAVAILABLE", "not there")
