"""Compare servers side by side under HTTP load: throughput and latency of one-row requests.

    python benchmarks/run.py [--seconds 5] [--rounds 3] [--connections 1,16,64] [--only NAME,...]

See README.md for how to read the result and how to add a server.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import report
from servers import (
    HOST,
    INFER_PATH,
    PEERS,
    Bench,
    Peer,
    ServerError,
    add_arguments,
    infer_body,
    note,
    prepare,
    serve,
    stop_on_sigterm,
)

WARM_UP_S = 1
#: With whom every server is compared.
REFERENCES = ("mlserver", "floor")

WRK_SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{body}]==]

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{{"requests":%d,"duration_us":%d,"p50_us":%.1f,"p90_us":%.1f,"p99_us":%.1f,' ..
    '"errors":{{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}}}\\n',
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(90), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw of a server that it kept busy."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    errors: dict[str, int]
    """Failed requests by kind; `status` counts answers of 400 and above."""

    @property
    def n_errors(self) -> int:
        """Failed requests of all kinds."""
        return sum(self.errors.values())


@dataclass(frozen=True, slots=True)
class Measurement:
    """A load, and what was measured: which server, how many connections, in which round."""

    server: str
    connections: int
    round: int
    load: Load


@dataclass(frozen=True, slots=True)
class Wrk:
    """The load generator, with the request that it repeats."""

    executable: str
    script: Path

    def run(self, port: int, connections: int, seconds: int) -> Load:
        """Keep a server busy over so many connections, one request in flight on each.

        Raises:
            ServerError: wrk ended without a result.
        """
        # wrk gives each thread the same number of connections and drops the rest.
        threads = 2 if connections % 2 == 0 else 1
        options = [f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout=10s"]
        url = f"http://{HOST}:{port}{INFER_PATH}"
        done = subprocess.run(
            [self.executable, *options, "--latency", "--script", self.script, url],
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            # wrk calls `done` of the script after everything else that it prints.
            result = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError) as error:
            message = f"was not measured: wrk ended with status {done.returncode}"
            raise ServerError(message, done.stdout + done.stderr) from error
        return Load(
            requests=result["requests"],
            requests_per_s=result["requests"] / result["duration_us"] * 1e6,
            p50_ms=result["p50_us"] / 1000,
            p90_ms=result["p90_us"] / 1000,
            p99_ms=result["p99_us"] / 1000,
            errors=result["errors"],
        )


def main() -> int:
    """Run the comparison; 0 if every server was measured without a failed request, else 1."""
    arguments = _parse_arguments()
    executable = shutil.which("wrk")
    if executable is None:
        note("wrk is not installed; it is the Debian package `wrk` (apt-get install wrk)")
        return 2
    stop_on_sigterm()
    facts = {**report.machine_facts(), "Load generator": _wrk_version(executable)}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        bench = prepare(arguments.only, arguments.envs, folder)
        wrk = Wrk(executable, folder / "request.lua")
        wrk.script.write_text(WRK_SCRIPT.format(body=infer_body(bench.answers.rows[0])))
        measurements = measure_all(bench, wrk, arguments)
    report.publish(
        "Side by side: one-row requests over HTTP",
        sections(measurements, bench.failures),
        facts=facts,
        versions=bench.versions(),
        raw={"measurements": list(map(asdict, measurements)), "failures": bench.failures},
        arguments=arguments,
    )
    return 1 if bench.failures or any(each.load.n_errors for each in measurements) else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_load_arguments(parser)
    add_arguments(parser)
    report.add_arguments(parser, "benchmarks/RESULTS.md")
    return parser.parse_args()


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how much is measured."""
    parser.add_argument("--seconds", type=int, default=5, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--connections",
        type=lambda text: [int(number) for number in text.split(",")],
        default=[1, 16, 64],
        metavar="N,...",
    )


def measure_all(bench: Bench, wrk: Wrk, arguments: argparse.Namespace) -> list[Measurement]:
    """Measure in rounds, the servers in turn at each level, so that drift hits all alike.

    Each measurement has a process of its own, with no other server up. Idle ones cost little
    here (MLServer with its worker 0.2 % of a core), but that need not hold for every peer. And
    one process for all measurements would hide what differs from start to start (memory layout,
    hash seeds), which belongs in the spread, and carry one level's leftovers into the next.
    """
    measurements = []
    for number in range(1, arguments.rounds + 1):
        for connections in arguments.connections:
            for peer in arguments.only:
                if peer.name in bench.failures:
                    continue
                try:
                    load = _measure(peer, bench, wrk, connections, arguments.seconds)
                except ServerError as error:
                    bench.fail(peer.name, error)
                    continue
                measurements.append(Measurement(peer.name, connections, number, load))
                what = f"round {number}/{arguments.rounds}, {peer.name} at {connections}"
                note(f"{what}: {load.requests_per_s:,.0f} req/s")
    return measurements


def _measure(peer: Peer, bench: Bench, wrk: Wrk, connections: int, seconds: int) -> Load:
    """Start a server, warm it up and measure it; it must answer rightly before and after."""
    with serve(peer, bench) as server:
        server.check(bench.answers)
        wrk.run(server.ports.http, connections, WARM_UP_S)
        load = wrk.run(server.ports.http, connections, seconds)
        server.check(bench.answers)
    return load


def sections(
    measurements: list[Measurement],
    failures: dict[str, str],
    *,
    names: Collection[str] = PEERS.keys(),
    references: Sequence[str] = REFERENCES,
) -> list[str]:
    """Write the tables: one for each number of connections, and the ratios to the references."""
    levels = sorted({each.connections for each in measurements})
    return [
        *report.failures_section(failures),
        *(_level_section(level, measurements, names) for level in levels),
        *_ratio_section(levels, measurements, names, references),
    ]


def _level_section(
    connections: int, measurements: list[Measurement], names: Collection[str]
) -> str:
    rows = []
    for name in names:
        loads = list(_by_round(measurements, name, connections).values())
        if loads:
            rows.append(
                [
                    name,
                    report.spread((load.requests_per_s for load in loads), 0),
                    report.spread((load.p50_ms for load in loads), 3),
                    report.spread((load.p90_ms for load in loads), 3),
                    report.spread((load.p99_ms for load in loads), 3),
                    _describe_errors(loads),
                ]
            )
    columns = ["server", "requests/s", "p50 ms", "p90 ms", "p99 ms", "failed requests"]
    heading = "1 connection" if connections == 1 else f"{connections} connections"
    return f"## {heading}\n\n{report.table(columns, rows)}"


def _ratio_section(
    levels: list[int],
    measurements: list[Measurement],
    names: Collection[str],
    references: Sequence[str],
) -> list[str]:
    rows = []
    for connections, name, reference in itertools.product(levels, names, references):
        loads = _by_round(measurements, name, connections)
        others = _by_round(measurements, reference, connections)
        pairs = [(loads[number], others[number]) for number in loads if number in others]
        if name == reference or not pairs:
            continue
        rows.append(
            [
                str(connections),
                f"{name} / {reference}",
                report.spread(a.requests_per_s / b.requests_per_s for a, b in pairs),
                report.spread(a.p50_ms / b.p50_ms for a, b in pairs),
                report.spread(a.p99_ms / b.p99_ms for a, b in pairs),
                _verdict(pairs),
            ]
        )
    if not rows:
        return []
    explanation = "Taken round by round. Throughput: above 1 is better. Latency: below 1 is better."
    columns = ["connections", "ratio", "requests/s", "p50", "p99", "throughput"]
    return ["## Ratios", explanation, report.table(columns, rows)]


def _verdict(pairs: list[tuple[Load, Load]]) -> str:
    if any(a.n_errors or b.n_errors for a, b in pairs):
        return "not comparable: failed requests"
    ratios = [a.requests_per_s / b.requests_per_s for a, b in pairs]
    if min(ratios) > 1:
        return "higher in every round"
    if max(ratios) < 1:
        return "lower in every round"
    return "no clear difference"


def _by_round(measurements: list[Measurement], name: str, connections: int) -> dict[int, Load]:
    return {
        each.round: each.load
        for each in measurements
        if each.server == name and each.connections == connections
    }


def _describe_errors(loads: list[Load]) -> str:
    totals = {kind: sum(load.errors[kind] for load in loads) for kind in loads[0].errors}
    return ", ".join(f"{count:,} {kind}" for kind, count in totals.items() if count) or "0"


def _wrk_version(executable: str) -> str:
    """Read the first words of what wrk prints, with status 1, for `--version`."""
    done = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False)
    return " ".join((done.stdout + done.stderr).split()[:2])


if __name__ == "__main__":
    sys.exit(main())
