"""Turn the measurements of `run.py` into tables: levels, ratios, goals, and what is lost."""

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import report
from cases import Case, Measurement, Run
from load import Load

OURS = "jackfield"


@dataclass(frozen=True, slots=True)
class Ratio:
    """One server beside another at one level, round by round."""

    case: str
    level: str
    name: str
    reference: str
    pairs: list[tuple[Load, Load]]

    def of(self, value: Callable[[Load], float]) -> list[float]:
        """Divide a value of the one by the other's, in each round."""
        return [value(one) / max(value(other), 1e-9) for one, other in self.pairs]

    @property
    def is_open(self) -> bool:
        """Whether the rate was set, so that only latencies tell."""
        return self.pairs[0][0].is_open

    @property
    def gains(self) -> list[float]:
        """How much better the one is in each round: above 1 is better.

        By throughput, and by the 99th percentile where the rate was set.
        """
        if self.is_open:
            return [1 / max(ratio, 1e-9) for ratio in self.of(p99)]
        return self.of(rate)

    @property
    def verdict(self) -> str:
        """Say in words whether the rounds agree."""
        if any(one.n_errors or other.n_errors for one, other in self.pairs):
            return "not comparable: failed requests"
        if len(self.pairs) == 1:
            return "one round only"
        if min(self.gains) > 1:
            return "better in every round"
        if max(self.gains) < 1:
            return "worse in every round"
        return "no clear difference"


def rate(load: Load) -> float:
    """Give the throughput."""
    return load.requests_per_s


def p50(load: Load) -> float:
    """Give the median latency."""
    return load.p50_ms


def p99(load: Load) -> float:
    """Give the 99th percentile of the latencies."""
    return load.p99_ms


@dataclass(frozen=True, slots=True)
class Goal:
    """What is aimed at: a ratio of at least, or at most, so much."""

    case: str
    level: str
    other: str
    value: Callable[[Load], float]
    least: float | None = None
    most: float | None = None


#: Of the design's goals, those that these cases can show.
GOALS = (
    Goal("rest", "16 connections", "mlserver", rate, least=10),
    Goal("rest", "64 connections", "mlserver", rate, least=18),
    Goal("rest", "16 connections", "floor", rate, least=2),
    Goal("rest", "64 connections", "floor", rate, least=3.5),
    Goal("rest", "1 connection", "floor", p50, most=1.25),
    Goal("grpc", "16 calls in flight", "mlserver", rate, least=4),
    Goal("grpc", "16 calls in flight", "floor-grpc", rate, least=1.8),
    Goal("grpc", "1 call in flight", "floor-grpc", rate, least=0.9),
    Goal("wide", "JSON, 1 request in flight", "mlserver", rate, least=5),
    Goal("wide", "binary HTTP, 1 request in flight", "floor", p50, most=1.5),
    Goal("wide", "gRPC, raw, 1 request in flight", "floor", p50, most=1.5),
)


def goal_sections(run: Run, goals: Sequence[Goal] = GOALS) -> list[str]:
    """Say which goals are reached; nothing if nothing that they need was measured."""
    rows = []
    for goal in goals:
        if (ratio := compare(run, goal.case, goal.level, OURS, goal.other)) is None:
            continue
        values = ratio.of(goal.value)
        median = statistics.median(values)
        if goal.least is not None:
            is_reached, limit = median >= goal.least, f"≥ {goal.least:g}"
        else:
            assert goal.most is not None
            is_reached, limit = median <= goal.most, f"≤ {goal.most:g}"
        what = "requests/s" if goal.value is rate else goal.value.__name__
        reached = "yes" if is_reached else "no"
        versus = f"{OURS} / {goal.other}"
        rows.append(
            [goal.case, goal.level, f"{what}, {versus}", limit, report.spread(values), reached]
        )
    if not rows:
        return []
    columns = ["case", "level", "ratio", "goal", "found", "reached"]
    return ["## Goals", report.table(columns, rows)]


def loss_sections(run: Run, cases: Sequence[Case]) -> list[str]:
    """List where ours is behind another server, by its median: all of it, however little."""
    rows = []
    is_compared = False
    for case in cases:
        for ratio in _ratios(run, case):
            is_compared = True
            is_between_ours = ratio.reference.startswith(OURS)
            if is_between_ours or statistics.median(ratio.gains) >= 1:
                continue
            rows.append(
                [
                    case.name,
                    ratio.level,
                    f"{ratio.name} / {ratio.reference}",
                    "-" if ratio.is_open else report.spread(ratio.of(rate)),
                    report.spread(ratio.of(p50)),
                    report.spread(ratio.of(p99)),
                    ratio.verdict,
                ]
            )
    if not is_compared:
        return []
    text = "By the median of the throughput, or of p99 where the rate was set; all of it."
    columns = ["case", "level", "ratio", "requests/s", "p50", "p99", "rounds"]
    lost = [text, report.table(columns, rows)] if rows else ["Nowhere in what was measured here."]
    return ["## Where ours is behind", *lost]


def case_sections(run: Run, case: Case) -> Iterator[str]:
    """Write a case: what it is, a table for each level, and the ratios."""
    measured = [each for each in run.measurements if each.case == case.name]
    remarks = run.remarks.get(case.name, [])
    if not measured and not remarks:
        return
    yield f"## {case.title} (`{case.name}`)"
    yield case.text
    yield from remarks
    for level in dict.fromkeys(each.level for each in measured):
        yield _level(level, [each for each in measured if each.level == level])
    if rows := [_ratio_row(ratio) for ratio in _ratios(run, case)]:
        columns = ["level", "ratio", "requests/s", "p50", "p99", "rounds"]
        yield f"### Ratios\n\n{report.table(columns, rows)}"


def _level(level: str, measured: list[Measurement]) -> str:
    rows = []
    by_server: dict[str, list[Load]] = {}
    for each in measured:
        by_server.setdefault(each.server, []).append(each.load)
    has_client = any(each.load.processes for each in measured)
    has_late = any(each.load.is_open for each in measured)
    for name, loads in by_server.items():
        row = [
            name,
            report.spread(map(rate, loads), 0 if rate(loads[0]) >= 100 else 1),
            report.spread(map(p50, loads), 3),
            report.spread((load.p90_ms for load in loads), 3),
            report.spread(map(p99, loads), 3),
            report.spread((load.p99_ms / load.p50_ms for load in loads if load.p50_ms), 1),
            describe_errors(loads),
        ]
        if has_client:
            row.append(_describe_clients(loads))
        if has_late:
            row.append(report.spread((load.late_p99_ms for load in loads), 3))
        rows.append(row)
    columns = ["server", "requests/s", "p50 ms", "p90 ms", "p99 ms", "p99/p50", "failed requests"]
    columns += ["clients"] * has_client + ["sent late, p99 ms"] * has_late
    return f"### {level}\n\n{report.table(columns, rows)}"


def _describe_clients(loads: list[Load]) -> str:
    share = report.spread((load.client_share for load in loads), 2)
    return f"{loads[0].processes} x {share} core" if loads[0].processes else "wrk"


def describe_errors(loads: list[Load]) -> str:
    """Sum up the failed requests by kind."""
    kinds = dict.fromkeys(kind for load in loads for kind in load.errors)
    totals = {kind: sum(load.errors.get(kind, 0) for load in loads) for kind in kinds}
    return ", ".join(f"{count:,} {kind}" for kind, count in totals.items() if count) or "0"


def _ratios(run: Run, case: Case) -> Iterator[Ratio]:
    measured = [each for each in run.measurements if each.case == case.name]
    levels = dict.fromkeys(each.level for each in measured)
    servers = dict.fromkeys(each.server for each in measured)
    # others beside others would fill the page; the numbers for them are in the tables
    names = [name for name in servers if name.startswith(OURS)] or [*servers]
    for level, name, reference in itertools.product(levels, names, case.references):
        ratio = compare(run, case.name, level, name, reference)
        if name != reference and ratio is not None:
            yield ratio


def compare(run: Run, case: str, level: str, name: str, reference: str) -> Ratio | None:
    """Set one server beside another at a level; None if there is no round with both."""
    found = _by_round(run, case, name, level)
    pairs = _pairs(found, _by_round(run, case, reference, level))
    return Ratio(case, level, name, reference, pairs) if pairs else None


def _ratio_row(ratio: Ratio) -> list[str]:
    return [
        ratio.level,
        f"{ratio.name} / {ratio.reference}",
        "-" if ratio.is_open else report.spread(ratio.of(rate)),
        report.spread(ratio.of(p50)),
        report.spread(ratio.of(p99)),
        ratio.verdict,
    ]


def _by_round(run: Run, case: str, server: str, level: str) -> dict[int, Load]:
    return {
        each.round: each.load
        for each in run.measurements
        if (each.case, each.server, each.level) == (case, server, level)
    }


def _pairs(ones: dict[int, Load], others: dict[int, Load]) -> list[tuple[Load, Load]]:
    return [(ones[number], others[number]) for number in ones if number in others]
