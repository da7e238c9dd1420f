"""Measure how long imports and starts take, each in a fresh process, from its creation on.

    python benchmarks/start.py [--imports 20] [--rounds 5] [--only NAME,...]

A start is set beside the least that it can cost: importing the framework and loading the model.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from environments import ServerError, note
from peers import FLOOR, JACKFIELD, PEERS, add_arguments, parse_peers
from servers import Bench, Peer, prepare, serve, stop_on_sigterm

#: Those that this has always shown; the others are started by name.
DEFAULT = ("jackfield", "mlserver", "mlserver-inprocess", "floor")
BARE = "bare Python"
IMPORTS = {BARE: "pass", "import numpy": "import numpy", "import jackfield": "import jackfield"}
LOAD_MODEL = "import sys, joblib, sklearn; joblib.load(sys.argv[1])"

#: Times in seconds by what was timed, in the order of the rounds.
Times = dict[str, list[float]]


def main() -> int:
    """Run all measurements; 0 if everything that was asked for could be measured, else 1."""
    arguments = _parse_arguments()
    stop_on_sigterm()
    facts = report.machine_facts()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        bench = prepare(arguments.only, FLOOR, arguments.envs, Path(name))
        imports = _measure_imports(bench, arguments.imports)
        ready, loaded = _measure_starts(bench, arguments.only, arguments.rounds)
    report.publish(
        "Import and start",
        [
            *report.failures_section(bench.failures),
            *(_import_section(imports) if imports else []),
            *_start_section(ready, loaded),
        ],
        facts=facts,
        versions=bench.versions(),
        raw={
            "imports_s": imports,
            "ready_s": ready,
            "model_loaded_s": loaded,
            "failures": bench.failures,
        },
        arguments=arguments,
    )
    return 1 if bench.failures else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--imports", type=int, default=20, help="fresh processes for each import")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each server")
    parser.add_argument(
        "--only",
        type=parse_peers,
        default=[PEERS[name] for name in DEFAULT],
        metavar="NAME,...",
        help=f"start only these servers (default: {', '.join(DEFAULT)})",
    )
    add_arguments(parser)
    report.add_arguments(parser, "benchmarks/START.md")
    return parser.parse_args()


def _measure_imports(bench: Bench, rounds: int) -> Times:
    """Time the imports in turn, so that drift hits all alike; nothing without Jackfield."""
    times: Times = {}
    if JACKFIELD.name not in bench.scripts:
        return times
    python = bench.scripts[JACKFIELD.name] / "python"
    note(f"imports, {rounds} rounds")
    # Round 0 is not kept: it compiles bytecode and fills the file cache.
    for number in range(rounds + 1):
        for name, code in IMPORTS.items():
            if name in bench.failures:
                continue
            try:
                elapsed_s = _time_code(python, code)
            except ServerError as error:
                bench.fail(name, error)
                continue
            if number > 0:
                times.setdefault(name, []).append(elapsed_s)
    return times


def _measure_starts(bench: Bench, peers: list[Peer], rounds: int) -> tuple[Times, Times]:
    """Time each server until it is ready, and the model's load alone in the same environment."""
    ready: Times = {}
    loaded: Times = {}
    for number in range(rounds + 1):  # round 0 as for the imports
        for peer in peers:
            if peer.name in bench.failures:
                continue
            try:
                with serve(peer, bench) as server:
                    ready_s = server.ready_after_s
                    server.check(peer.form)
                python = bench.scripts[peer.environment.name] / "python"
                loaded_s = _time_code(python, LOAD_MODEL, bench.models["iris"].file)
            except ServerError as error:
                bench.fail(peer.name, error)
                continue
            if number > 0:
                ready.setdefault(peer.name, []).append(ready_s)
                loaded.setdefault(peer.name, []).append(loaded_s)
                note(f"start {number}/{rounds}, {peer.name}: {ready_s:.2f} s")
    return ready, loaded


def _time_code(python: Path, code: str, *arguments: Path) -> float:
    """Time a fresh interpreter until it has run the code; its exit is not counted."""
    command: list[str | Path] = [python, "-I", "-c", f"{code}\nprint(flush=True)", *arguments]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        elapsed_s = time.perf_counter() - start
    if not line:
        raise ServerError(f"failed in a fresh interpreter: `{code}`")
    return elapsed_s


def _import_section(times: Times) -> list[str]:
    rows = []
    for name, values_s in times.items():
        beyond_s = [value - bare for value, bare in zip(values_s, times[BARE], strict=True)]
        rows.append(
            [
                name,
                f"{min(values_s) * 1e3:.1f}",
                f"{statistics.median(values_s) * 1e3:.1f}",
                "-" if name == BARE else report.spread((value * 1e3 for value in beyond_s), 1),
            ]
        )
    columns = ["fresh process", "min ms", "median ms", "beyond bare Python, ms"]
    return ["## Import", report.table(columns, rows)]


def _start_section(ready: Times, loaded: Times) -> list[str]:
    rows = [
        [
            name,
            report.spread(values_s),
            report.spread(loaded[name]),
            report.spread(a / b for a, b in zip(values_s, loaded[name], strict=True)),
        ]
        for name, values_s in ready.items()
    ]
    columns = ["server", "ready, s", "framework import + model load, s", "ratio"]
    return ["## Start", report.table(columns, rows)]


if __name__ == "__main__":
    sys.exit(main())
