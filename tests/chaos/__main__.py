"""Faults at random, while callers ask: no wrong answer, no hung caller, nothing left behind.

    python -m tests.chaos [--seconds 600] [--seed 1] [--workers 2] [--load 0.6] [--watch]
        [--only "kill a worker"] [--json]

A real `jackfield serve` with models in process, in host processes of their own and shared ones, and
in an environment; generators ask over REST and gRPC at a share of what the server bears, and check
each answer. Every call that fails must be accounted for by a fault that was injected. In the end
the supervisor of a second server is killed, which must leave nothing behind. The exit code is 0 if
all holds. Linux alone: it reads ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from tests.chaos.faults import Fault, Injector
from tests.chaos.processes import MARK, Processes, memory_mb, segments
from tests.chaos.traffic import Line, Plan
from tests.serving import ROOT, Served, serving, wait_until, write_model

#: Processes that ask: one that has much to do would be late itself.
GENERATORS = 4
#: Between the last fault and the end, in seconds: all must be right by then.
CALM_S = 5.0
CALIBRATE_S = 5.0
#: How much of the traffic leaves before its answer.
CANCELLED = 0.03
#: How much of it streams, and how much has a time of its own.
STREAMED = 0.1
TIMED = 0.05
#: When a worker that does not answer is killed, in seconds.
WORKER_TIMEOUT_S = 4.0
#: Longest wait for the server's end, and for what is left of it, in seconds.
STOP_S = 60.0
EXAMPLES = 12

#: Models that share a host process, or have one, by the name that its command line has.
GROUPS = {
    "hosted": frozenset(["hosted", "caller"]),
    "slow": frozenset(["slow"]),
    "fragile": frozenset(["fragile"]),
    "chaos-pair": frozenset(["pair-a", "pair-b"]),
    "isolated": frozenset(["isolated"]),
}


def write_models(folder: Path) -> list[str]:
    """Make the models; returns the names of those that are asked."""
    process = {"scheduler": "process"}
    pair = {**process, "parameters": {"inference_pool_gid": "chaos-pair"}}
    settings: dict[str, tuple[str, dict[str, object]]] = {
        "plain": ("Doubled", {}),
        "changing": ("Doubled", {}),
        "hosted": ("Doubled", process),
        "slow": ("Slow", process),
        "fragile": ("Fragile", process),
        "pair-a": ("Doubled", pair),
        "pair-b": ("Doubled", pair),
        "isolated": ("Doubled", {"environment": {"path": sys.prefix}}),
        "caller": (
            "Caller",
            {"needs": ["hosted"], "scheduler": "thread", **_extra(target="hosted")},
        ),
    }
    for name, (model, more) in settings.items():
        home = write_model(folder, f"doubled.{model}", name=name, **more)
        (home / "generation").write_text("0")
    return list(settings)


def _extra(**options: str) -> dict[str, object]:
    return {"parameters": {"extra": options}}


def start_generators(folder: Path, plans: list[Plan]) -> list[subprocess.Popen[bytes]]:
    """Start a process for each plan; each writes its lines to a file."""
    started = []
    for number, plan in enumerate(plans):
        config = folder / f"plan-{number}.json"
        config.write_bytes(msgspec.json.encode(plan))
        with (folder / f"lines-{number}.ndjson").open("wb") as out:
            command = [sys.executable, "-m", "tests.chaos.traffic", str(config)]
            started.append(subprocess.Popen(command, stdout=out, cwd=ROOT))
    return started


def read_lines(folder: Path, started: list[subprocess.Popen[bytes]]) -> list[Line]:
    """Wait for the generators, and read what they wrote."""
    lines: list[Line] = []
    for number, process in enumerate(started):
        if code := process.wait(120):
            message = f"a generator ended with code {code}"
            raise AssertionError(message)
        text = (folder / f"lines-{number}.ndjson").read_bytes()
        lines += [msgspec.json.decode(line, type=Line) for line in text.splitlines()]
    return sorted(lines, key=lambda line: line.sent)


def find_unexplained(lines: list[Line], injector: Injector) -> tuple[list[Line], list[Line]]:
    """Give the wrong answers, and the failures that no fault accounts for."""
    wrong, unexplained = [], []
    for line in lines:
        if line.outcome == "right":
            known = injector.generations.get(line.model)
            if known and not known.may_be(line.generation, line.sent, line.ended):
                line.what = f"generation {line.generation:g} at that time"
                wrong.append(line)
            elif not known and line.generation != 0:
                line.what = f"off by {line.generation:g}"
                wrong.append(line)
        elif line.outcome == "wrong":
            wrong.append(line)
        elif line.outcome not in ("cancelled", "expired", "left out"):
            given = (line.model, line.outcome, line.sent, line.ended)
            blamed = [fault for fault in injector.faults if fault.explains(*given)]
            for fault in blamed[:1]:
                fault.cost += 1
            if not blamed:
                unexplained.append(line)
    return wrong, unexplained


def stop(served: Served, processes: Processes, before: set[str]) -> list[str]:
    """Stop the server; tell what it left behind."""
    served.process.terminate()
    left = []
    if code := served.wait_stopped(timeout_s=STOP_S):
        left.append(f"its exit code was {code}")
    return left + find_left(processes, before)


def behead(
    folder: Path, models: list[str], served: Served, mark: str, before: set[str]
) -> list[str]:
    """Kill the supervisor while callers ask; tell what it left behind."""
    processes = Processes(mark, served.process.pid, GROUPS)
    plan = Plan(http=served.http, grpc=served.grpc, models=models, seconds=2.0, seed=0)
    started = start_generators(folder, [plan])
    time.sleep(1.5)  # it asks from its first second on
    served.process.kill()
    served.process.wait(10)
    left = find_left(processes, before)
    read_lines(folder, started)
    return left


def find_left(processes: Processes, before: set[str]) -> list[str]:
    """Wait a little for the end of a server's processes; tell what is left of it."""
    left = []
    try:
        wait_until(lambda: not processes.all(), "the end of all processes", timeout_s=10)
    except AssertionError:
        left += [f"process {pid}: {line}" for pid, line in processes.all().items()]
    left += [f"shared memory {name}" for name in segments() - before]
    return left


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--load", type=float, default=0.6, help="share of what the server bears")
    parser.add_argument("--watch", action="store_true", help="have the server watch the files")
    parser.add_argument("--only", default="", help="text in the names of the faults")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args()
    screen = Console(stderr=given.json)
    mark, before = uuid.uuid4().hex, segments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = write_models(folder / "models")
        options = ["--workers", str(given.workers), *(["--watch"] if given.watch else [])]
        env = {MARK: mark, "JACKFIELD_WORKER_TIMEOUT_S": str(WORKER_TIMEOUT_S)}
        with serving(folder / "models", *options, env=env) as served:
            result = torment(given, screen, folder, models, served, mark, before)
        if not result["holds"]:
            Path("chaos-server.log").write_text(result["log"])
            Path("chaos-calls.ndjson").write_bytes(result["lines"])
            screen.print("the server's log is in chaos-server.log, calls in chaos-calls.ndjson")
        mark, before = uuid.uuid4().hex, segments()
        with serving(folder / "models", *options, env={MARK: mark}) as served:
            left = behead(folder, models, served, mark, before)
        screen.print(f"left behind by a supervisor that was killed: {left or 'nothing'}")
        result["left behind by a supervisor that was killed"] = left
        result["holds"] = result["holds"] and not left
    del result["log"], result["lines"]
    if given.json:
        sys.stdout.write(json.dumps(result, indent=2))
    return 0 if result["holds"] else 1


def torment(
    given: argparse.Namespace,
    screen: Console,
    folder: Path,
    models: list[str],
    served: Served,
    mark: str,
    before: set[str],
) -> dict[str, object]:
    """Measure, ask and break, stop, and judge."""
    processes = Processes(mark, served.process.pid, GROUPS)
    addresses = {"http": served.http, "grpc": served.grpc, "models": models}
    screen.print(f"what it bears, in {CALIBRATE_S:g} s …")
    seeds = [given.seed * 1000 + number for number in range(GENERATORS)]
    plans = [Plan(**addresses, seconds=CALIBRATE_S, seed=seed, streamed=STREAMED) for seed in seeds]
    calibrated = read_lines(folder, start_generators(folder, plans))
    took_s = max(line.ended for line in calibrated) - calibrated[0].sent
    capacity = sum(line.outcome == "right" for line in calibrated) / took_s
    rate = capacity * given.load
    started_mb = memory_mb(list(processes.all()))
    screen.print(f"{capacity:,.0f} calls/s; {rate:,.0f} calls/s for {given.seconds:g} s")
    plans = [
        Plan(
            **addresses,
            seconds=given.seconds,
            seed=seed,
            rate=rate / GENERATORS,
            cancelled=CANCELLED,
            streamed=STREAMED,
            timed=TIMED,
        )
        for seed in seeds
    ]
    started = start_generators(folder, plans)
    injector = Injector(
        served,
        folder / "models",
        processes,
        seed=given.seed,
        watches=given.watch,
        only=given.only,
    )
    began = time.monotonic()

    def show(fault: Fault) -> None:
        took = fault.ended - fault.began
        screen.print(
            f"{fault.began - began:7.1f} s  {fault.kind} {fault.note}: serves again in {took:.1f} s"
        )

    problem = ""
    try:
        injector.run(max(0.0, given.seconds - CALM_S), on_fault=show)
    except AssertionError as error:
        problem = str(error)
    lines = read_lines(folder, started)
    ended_mb = memory_mb(list(processes.all()))
    left = stop(served, processes, before)
    wrong, unexplained = find_unexplained(lines, injector)
    hung = [line for line in lines if line.outcome == "hung"]
    left_out = sum(line.outcome == "left out" for line in lines)
    result: dict[str, object] = {
        "seconds": given.seconds,
        "seed": given.seed,
        "calls per second": round(rate),
        "capacity": round(capacity),
        "calls": len(lines) - left_out,
        "left out, as too many were under way": f"{left_out / max(1, len(lines)):.1%}",
        "outcomes": dict(Counter(line.outcome for line in lines)),
        "faults": dict(Counter(fault.kind for fault in injector.faults)),
        "failed calls by fault": _costs(injector.faults),
        "wrong": _examples(wrong, began),
        "wrong count": len(wrong),
        "hung count": len(hung),
        "hung": _examples(hung, began),
        "unexplained count": len(unexplained),
        "unexplained": _examples(unexplained, began),
        "left behind": left,
        "memory MB": [round(started_mb), round(ended_mb)],
        "problem": problem,
        "log": f"{served.stdout}\n{served.stderr}",
        "lines": b"\n".join(map(msgspec.json.encode, lines)),
    }
    result["holds"] = not (wrong or hung or unexplained or left or problem)
    _print(screen, result)
    return result


def _costs(faults: list[Fault]) -> dict[str, int]:
    costs: Counter[str] = Counter()
    for fault in faults:
        costs[fault.kind] += fault.cost
    return dict(costs)


def _examples(lines: list[Line], began: float) -> list[str]:
    """Describe the first call of each model that went so."""
    first: dict[tuple[str, str], Line] = {}
    for line in lines:
        first.setdefault((line.model, line.what[:40]), line)
    return [
        f"{line.sent - began:.2f} to {line.ended - began:.2f} s, {line.model} by {line.by}, "
        f"{line.outcome}: "
        f"{line.what}"
        for line in [*first.values()][:EXAMPLES]
    ]


def _print(screen: Console, result: dict[str, object]) -> None:
    table = Table("what", "found", title="chaos")
    for name, value in result.items():
        if name not in ("log", "lines"):
            table.add_row(name, str(value))
    screen.print(table)


if __name__ == "__main__":
    sys.exit(main())
