"""What a benchmark found, as rows for people and as one value for programs; no I/O."""

from __future__ import annotations

import dataclasses
import statistics
from typing import TYPE_CHECKING

from jackfield._load.histogram import RELATIVE_ERROR
from jackfield._load.tally import merged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jackfield._load.plan import Load
    from jackfield._load.session import Results, Row, Server
    from jackfield._load.tally import Tally

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
#: What the JSON has beside.
_ALL_PERCENTILES = (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)

_COLUMNS = ("load", "answers/s", "p50 ms", "p90", "p99", "p99.9", "max", "errors")


@dataclasses.dataclass(frozen=True, slots=True)
class Ratio:
    """One server beside the first, at one load: the second's number divided by the first's."""

    #: ``throughput``, ``p50`` or ``p99``.
    what: str
    #: Of each round.
    values: Sequence[float]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        """Give the median, and the spread where there is one."""
        if len(self.values) == 1:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({min(self.values):.2f}-{max(self.values):.2f})"


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Give the columns and cells for some rows; what seldom is has a column only where it is."""
    columns, cells = list(_COLUMNS), [_cells(row) for row in rows]
    tallies = [row.tally for row in rows]
    if any(tally.dropped for tally in tallies):
        columns.append("dropped")
        for line, tally in zip(cells, tallies, strict=True):
            line.append(f"{tally.dropped / ((tally.dropped + tally.sent) or 1):.1%}")
    if any(tally.is_generator_limit for tally in tallies):
        columns.append("limit")
        for line, tally in zip(cells, tallies, strict=True):
            line.append("generator" if tally.is_generator_limit else "")
    return columns, cells


def _cells(row: Row) -> list[str]:
    tally = row.tally
    latency = tally.latency
    times = [latency.percentile(each) for each in PERCENTILES] + [latency.largest]
    spelt = [f"{each / 1e6:,.2f}" if latency.count else "-" for each in times]
    return [str(row.load), _throughput(row), *spelt, f"{tally.failed:,}"]


def _throughput(row: Row) -> str:
    each = [tally.throughput_per_s for tally in row.rounds]
    text = f"{row.tally.throughput_per_s:,.0f}"
    return text if len(each) == 1 else f"{text} ({min(each):,.0f}-{max(each):,.0f})"


def remarks(row: Row) -> list[str]:
    """Say what makes the numbers of a row doubtful."""
    tally = row.tally
    found = []
    if tally.is_generator_limit:
        late = f", and sent {tally.lag.percentile(99) / 1e6:,.1f} ms late (p99)"
        found.append(
            "the generator was the limit, not the server: "
            f"its loop had {tally.busy:.0%} of a processor{late if row.load.rate else ''}"
        )
    if tally.dropped:
        found.append(f"{tally.dropped:,} requests were due and not sent: too many were outstanding")
    if tally.mismatches:
        found.append(f"{tally.mismatches:,} answers differ; of the first, {tally.mismatch}")
    if tally.unanswered:
        found.append(f"{tally.unanswered:,} requests were cut off by the end")
    return found


def failures(rows: Sequence[Row]) -> list[tuple[str, int, str]]:
    """Give each kind of failure, how often it came, and what was said of the first."""
    total = merged([tally for row in rows for tally in row.rounds], is_beside=False)
    return [
        (problem, failure.count, failure.example) for problem, failure in total.failures.items()
    ]


def ratios(results: Results, server: Server, load: Load) -> list[Ratio]:
    """Compare a server with the first at one load, round by round.

    Returns:
        None where a round of either has no answers.
    """
    mine, first = results.row(server, load).rounds, results.row(results.servers[0], load).rounds
    pairs = [(a, b) for a, b in zip(mine, first, strict=False) if a.in_window and b.in_window]
    if not pairs:
        return []
    measures: dict[str, Callable[[Tally], float]] = {
        "throughput": lambda tally: tally.throughput_per_s,
        "p50": lambda tally: tally.latency.percentile(50),
        "p99": lambda tally: tally.latency.percentile(99),
    }
    return [
        Ratio(what, [measure(a) / (measure(b) or 1) for a, b in pairs])
        for what, measure in measures.items()
    ]


def loads(results: Results) -> list[Load]:
    """Give the loads that were measured, each once, in order."""
    return list(dict.fromkeys(row.load for row in results.rows))


def as_value(results: Results) -> dict[str, object]:
    """Give all that was found as a value for JSON; durations are in seconds."""
    compared = [
        {
            "url": server.url,
            "to": results.servers[0].url,
            **_load_value(load),
            "ratios": {
                ratio.what: {
                    "median": ratio.median,
                    "min": min(ratio.values),
                    "max": max(ratio.values),
                }
                for ratio in ratios(results, server, load)
            },
        }
        for load in loads(results)
        for server in results.servers[1:]
    ]
    return {
        "interrupted": results.is_interrupted,
        "percentile_error": RELATIVE_ERROR,
        "servers": [
            {
                "url": server.url,
                "name": server.metadata.name,
                "version": server.metadata.version,
                "request_bytes": len(server.target.body),
            }
            for server in results.servers
        ],
        "results": [
            {
                "url": row.server.url,
                **_load_value(row.load),
                **_tally_value(row.tally),
                "rounds": [_tally_value(tally) for tally in row.rounds],
            }
            for row in results.rows
        ],
        "compared": compared,
    }


def _load_value(load: Load) -> dict[str, object]:
    return {
        "loop": "open" if load.rate else "closed",
        "connections": load.connections or None,
        "rate_per_s": load.rate or None,
    }


def _tally_value(tally: Tally) -> dict[str, object]:
    latency = tally.latency
    return {
        "measured_s": tally.measured_s,
        "sent": tally.sent,
        "answered": tally.answered,
        "throughput_per_s": tally.throughput_per_s,
        "failed": tally.failed,
        "failures": {
            problem: {"count": failure.count, "example": failure.example}
            for problem, failure in tally.failures.items()
        },
        "dropped": tally.dropped,
        "unanswered": tally.unanswered,
        "mismatches": tally.mismatches,
        "mismatch": tally.mismatch,
        "latency_s": {
            "min": latency.smallest / 1e9,
            "mean": latency.mean / 1e9,
            "max": latency.largest / 1e9,
            **{f"p{each:g}": latency.percentile(each) / 1e9 for each in _ALL_PERCENTILES},
        },
        "generator": {
            "cpu_share": tally.busy,
            "lag_p99_s": tally.lag.percentile(99) / 1e9,
            "is_limit": tally.is_generator_limit,
        },
    }
