"""Keep the server under load for long, with reloads and callers that go away; check every answer.

    python benchmarks/soak.py [--minutes 10] [--share 0.8]

Measures the peak rate with the same mixed requests, then runs an open loop at a part of it. Every
request has rows of its own and carries the right answer. The exit status is 1 if an answer was
wrong or a call failed; the slope of the server's memory is printed.
"""

import argparse
import contextlib
import json
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import peers
import report
from environments import HERE, ServerError, note
from load import percentile
from peers import FLOOR, PEERS
from servers import Bench, Server, prepare, request, serve, stop_on_sigterm

MODEL = "diabetes"
SAMPLE_EVERY_S = 1.0
#: What memory does in the first part of a run is warm-up, and no leak.
WARM_PART = 0.2


class Outcome(TypedDict):
    """What one process of callers prints."""

    answered: dict[str, int]
    cancelled: dict[str, int]
    wrong: int
    examples: list[str]
    failed: dict[str, int]
    latencies_us: list[int]
    seconds: float
    cpu_share: float


def main() -> int:
    """Run the soak; 0 if every call was answered, and rightly."""
    arguments = _parse_arguments()
    stop_on_sigterm()
    facts = report.machine_facts()
    peer = PEERS["jackfield"]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        bench = prepare([peer], FLOOR, arguments.envs, Path(name))
        with serve(peer, bench, MODEL) as server:
            server.check(peer.form)
            _reload(server)
            peak = _peak(server, bench, arguments)
            rate = arguments.share * peak
            note(f"peak {peak:,.0f} requests/s; now {arguments.minutes:g} minutes at {rate:,.0f}")
            soaked = _Soaked(server, arguments.reload_every)
            with _callers(
                server, bench, arguments, 60 * arguments.minutes, rate, arguments.cancelled
            ) as callers:
                soaked.watch(callers)
                outcomes = _outcomes(callers)
            server.check(peer.form)
    rows = _rows(outcomes, soaked, peak)
    wrong = sum(outcome["wrong"] for outcome in outcomes)
    failed = sum(sum(outcome["failed"].values()) for outcome in outcomes) + len(soaked.refused)
    examples = [text for outcome in outcomes for text in outcome["examples"]] + soaked.refused[:5]
    report.publish(
        "Soak",
        [
            report.table(("what", "found"), rows),
            *(["\n".join(f"- {text}" for text in examples)] if examples else []),
        ],
        facts=facts,
        versions=bench.versions(),
        raw={"outcomes": outcomes, "memory": soaked.memory, "peak": peak},
        arguments=arguments,
    )
    return 1 if wrong or failed else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--share", type=float, default=0.8, help="part of the peak rate")
    parser.add_argument("--peak-seconds", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=2, help="processes of callers")
    parser.add_argument("--in-flight", type=int, default=32, help="most requests in flight, of all")
    parser.add_argument("--reload-every", type=float, default=5.0, help="seconds between reloads")
    parser.add_argument(
        "--cancelled", type=float, default=0.02, help="part of the callers that go away"
    )
    peers.add_arguments(parser)
    report.add_arguments(parser, "benchmarks/SOAK.md")
    return parser.parse_args()


def _peak(server: Server, bench: Bench, arguments: argparse.Namespace) -> float:
    """Find the rate of a closed loop with the soak's own requests; its beginning is not counted."""
    rate = 0.0
    for seconds in (min(2.0, arguments.peak_seconds), arguments.peak_seconds):
        with _callers(server, bench, arguments, seconds, 0.0, 0.0) as callers:
            outcomes = _outcomes(callers)
        rate = sum(sum(each["answered"].values()) / each["seconds"] for each in outcomes)
    return rate


Callers = list[subprocess.Popen[str]]


@contextlib.contextmanager
def _callers(
    server: Server,
    bench: Bench,
    arguments: argparse.Namespace,
    seconds: float,
    rate: float,
    cancelled_share: float,
) -> Iterator[Callers]:
    """Start the processes of callers, together."""
    count = arguments.processes
    with contextlib.ExitStack() as stack:
        callers: Callers = []
        for number in range(count):
            plan = {
                "http_port": server.ports.http,
                "grpc_port": server.ports.grpc,
                "model": MODEL,
                "question": str(server.model.question_file),
                "seconds": seconds,
                "in_flight": max(1, arguments.in_flight // count),
                "rate": rate / count,
                "seed": number,
                "cancelled_share": cancelled_share,
            }
            python = bench.scripts[FLOOR.name] / "python"
            command: list[str | Path] = [python, HERE / "soak_client.py", json.dumps(plan)]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            callers.append(process)
        for process in callers:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise ServerError("a process of callers could not start")
        for process in callers:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield callers


def _outcomes(callers: Callers) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for process in callers:
        output, _ = process.communicate()
        if process.returncode != 0:
            raise ServerError("a process of callers failed")
        outcomes.append(json.loads(output))
    return outcomes


class _Soaked:
    """What is done to the server, and seen of it, while the callers are at work."""

    def __init__(self, server: Server, reload_every_s: float) -> None:
        self._server = server
        self._reload_every_s = reload_every_s
        self.reloads = 0
        self.refused: list[str] = []
        #: (seconds since the start, MiB)
        self.memory: list[tuple[float, float]] = []

    def watch(self, callers: Callers) -> None:
        """Reload the model and sample memory until the callers have ended."""
        start = time.perf_counter()
        next_reload = self._reload_every_s
        # one that has written its result may wait for a reader, so that it counts as ended
        while any(process.poll() is None for process in callers) and not _has_output(callers):
            now = time.perf_counter() - start
            self.memory.append((now, self._server.resident_mib()))
            if now >= next_reload:
                next_reload += self._reload_every_s
                try:
                    _reload(self._server)
                    self.reloads += 1
                except ServerError as error:
                    self.refused.append(f"a reload {error.reason}")
            time.sleep(SAMPLE_EVERY_S)

    def slope_mib_per_hour(self) -> float:
        """Fit a line through the samples after the warm-up."""
        kept = self.memory[int(len(self.memory) * WARM_PART) :]
        if len(kept) < 2:
            return 0.0
        seconds, mib = zip(*kept, strict=True)
        return statistics.linear_regression(seconds, mib).slope * 3600


def _has_output(callers: Callers) -> bool:
    outputs = [process.stdout.fileno() for process in callers if process.stdout is not None]
    return bool(select.select(outputs, [], [], 0)[0])


def _reload(server: Server) -> None:
    try:
        status, body = request(server.ports.http, "POST", f"/v2/repository/models/{MODEL}/load")
    except OSError as error:
        raise ServerError(f"was not answered: {error!r}") from error
    if status != 200:
        raise ServerError(f"was refused: status {status}: {body[:200]!r}")


def _rows(outcomes: list[Outcome], soaked: _Soaked, peak: float) -> list[tuple[str, str]]:
    answered: Counter[str] = Counter()
    cancelled: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for outcome in outcomes:
        answered.update(outcome["answered"])
        cancelled.update(outcome["cancelled"])
        failed.update(outcome["failed"])
    latencies = sorted(each for outcome in outcomes for each in outcome["latencies_us"])
    rate = sum(sum(each["answered"].values()) / each["seconds"] for each in outcomes)
    shares = ", ".join(f"{outcome['cpu_share']:.2f}" for outcome in outcomes)
    first, last = (f"{soaked.memory[at][1]:,.1f}" for at in (0, -1))
    return [
        ("peak of these requests, requests/s", f"{peak:,.0f}"),
        ("answered, requests/s", f"{rate:,.0f}"),
        ("answered", _listed(answered)),
        ("cancelled by the caller", _listed(cancelled)),
        ("wrong answers", f"{sum(outcome['wrong'] for outcome in outcomes):,}"),
        ("failed calls", _listed(failed)),
        ("reloads", f"{soaked.reloads:,}, {len(soaked.refused):,} refused"),
        ("p50, p99 ms", ", ".join(f"{percentile(latencies, at) / 1000:.2f}" for at in (50, 99))),
        ("memory at first, at last, MiB", f"{first}, {last}"),
        ("slope of memory, MiB/h", f"{soaked.slope_mib_per_hour():,.1f}"),
        ("of a core used by each process of callers", shares),
    ]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "0"


if __name__ == "__main__":
    sys.exit(main())
