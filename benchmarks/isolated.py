"""What a model costs in a process of its own: small calls, large tensors, and the link alone.

    python benchmarks/isolated.py [--parts small,large,link] [--servers jackfield,isolated,...]
                                  [--seconds 5] [--rounds 5]

See README.md for how to read the result. Needs the standard library only; makes an environment for
each server.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import peers
import report
import run
from cases import Case, Found, Run, by_connections, count, rounds, started
from environments import HERE, ServerError, note, tail
from forms import GRPC
from load import Job, Load
from peers import FLOOR, JACKFIELD, PEERS, Command, jackfield_arguments
from sections import case_sections, compare, p50, rate
from servers import Launch, Peer, Ports, Server, request, serve, stop_on_sigterm

PARTS = ("small", "large", "link")
SIZES = (4 * 1024 * 1024, 64 * 1024 * 1024)
#: How many times the time in process a large tensor may take.
GOAL = 2.0
_MIB = 1024 * 1024
_LARGEST_BYTES = 128 * _MIB
#: What one measurement of a large tensor moves: 32 calls with 4 MiB.
_MOVED_BYTES = 128 * _MIB
_CLIENT_TIMEOUT_S = 1800

#: Seconds by protocol, size and model: for each round those of its calls.
Times = dict[str, dict[str, dict[str, list[list[float]]]]]
#: Microseconds by form, way and size: the median call of each round.
LinkTimes = dict[str, dict[str, dict[str, list[float]]]]


def _isolated(launch: Launch) -> Command:
    settings: dict[str, object] = {"name": launch.model.name, "scheduler": "process"}
    settings |= {"implementation": "sklearn", "parameters": {"uri": str(launch.model.file)}}
    (launch.folder / "model-settings.json").write_text(json.dumps(settings))
    return [launch.scripts / "jackfield", *jackfield_arguments(launch, launch.folder)]


def _large(launch: Launch) -> Command:
    """Serve both models in process and isolated."""
    for kind in ("echo", "reduce"):
        for suffix, scheduler in (("", "auto"), ("-isolated", "process")):
            folder = launch.folder / (name := f"{kind}{suffix}")
            folder.mkdir()
            code = f"isolated_models.{kind.title()}"
            settings = {"name": name, "implementation": code, "scheduler": scheduler}
            (folder / "model-settings.json").write_text(json.dumps(settings))
            shutil.copy(HERE / "isolated_models.py", folder)
    return [launch.scripts / "jackfield", *jackfield_arguments(launch, launch.folder), "--strict"]


def _is_ready(ports: Ports, _: object) -> bool:
    return request(ports.http, "GET", "/v2/health/ready")[0] == 200


ISOLATED = Peer("isolated", JACKFIELD, _isolated)
LARGE = Peer(
    "large",
    JACKFIELD,
    _large,
    is_ready=_is_ready,
    variables={
        "JACKFIELD_MAX_BODY_BYTES": str(_LARGEST_BYTES),
        "JACKFIELD_MAX_GRPC_MESSAGE_BYTES": str(_LARGEST_BYTES),
    },
)
SMALL_PEERS = (PEERS["jackfield"], ISOLATED, PEERS["mlserver"], PEERS["mlserver-inprocess"])
#: Who is in a process of its own, and who is the same in the server's.
BESIDE = {"isolated": "jackfield", "mlserver": "mlserver-inprocess"}


def _measure_small(this: Run, case: str) -> None:
    def by_calls(number: int, server: Server, seconds: float) -> Found:
        job = Job(GRPC, server.ports.grpc, server.model, seconds, number)
        level = f"gRPC, {count(number, 'call')} in flight"
        return {(server.peer.name, level): this.generator.run(job)}

    with started(this, case, SMALL_PEERS, "iris") as servers:
        calls = [partial(by_calls, number) for number in (1, 16)]
        rounds(this, case, servers, [*by_connections(this), *calls])


SMALL = Case(
    "small",
    "One row",
    "Logistic regression on the iris data, one row a request, all settings at their defaults but "
    '`"scheduler": "process"` of `isolated`. REST is JSON; gRPC has raw contents. `mlserver` has '
    "its default of one worker process, `mlserver-inprocess` none.",
    _measure_small,
    SMALL_PEERS,
    ("jackfield", "mlserver"),
)


def main() -> int:
    """Run the chosen parts; 0 if all of it was measured without a failed request, else 1."""
    arguments = _parse_arguments()
    stop_on_sigterm()
    facts = report.machine_facts()
    sections: list[str] = []
    raw: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        needed = [*SMALL_PEERS] if "small" in arguments.parts else [PEERS["jackfield"]]
        this = run.start_run(arguments, needed, Path(name), arguments.servers)
        facts |= run.load_facts(this)
        if "small" in arguments.parts:
            _measure_small(this, SMALL.name)
            sections += [*_added_section(this), *case_sections(this, SMALL)]
        for part, measure in (("large", _large_part), ("link", _link_part)):
            if part in arguments.parts:
                try:
                    raw[part], found = measure(this)
                    sections += found
                except ServerError as error:
                    this.bench.fail(part, error)
    report.publish(
        "A model in a process of its own",
        [*report.failures_section(this.bench.failures), *sections],
        facts=facts,
        versions=this.bench.versions(),
        raw={**run.raw(this), **raw},
        arguments=arguments,
    )
    failed = any(each.load.n_errors for each in this.measurements)
    return 1 if this.bench.failures or failed or not sections else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [peer.name for peer in SMALL_PEERS]
    parser.add_argument(
        "--parts",
        type=partial(_choose, known=PARTS),
        default=frozenset(PARTS),
        metavar="NAME,...",
        help=f"of {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--servers",
        type=partial(_choose, known=names),
        default=frozenset(names),
        metavar="NAME,...",
        help=f"in the part `small` only these, of {', '.join(names)}",
    )
    run.add_load_arguments(parser)
    parser.set_defaults(rounds=5, connections=[1, 16])
    peers.add_arguments(parser)
    report.add_arguments(parser, "benchmarks/ISOLATED.md")
    return parser.parse_args()


def _choose(text: str, *, known: Sequence[str]) -> frozenset[str]:
    names = frozenset(text.split(","))
    if unknown := names - frozenset(known):
        message = f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}"
        raise argparse.ArgumentTypeError(message)
    return names


# ---- small calls ----


def _added_section(this: Run) -> Iterator[str]:
    """Tell what the process adds to the median latency, and what it leaves of the throughput."""
    rows = []
    for level in dict.fromkeys(each.level for each in this.measurements):
        for isolated, beside in BESIDE.items():
            if ratio := compare(this, SMALL.name, level, isolated, beside):
                added = [(_us(one) - _us(other)) for one, other in ratio.pairs]
                rates = [
                    report.spread([rate(pair[at]) for pair in ratio.pairs], 0) for at in (0, 1)
                ]
                of_rate = report.spread(ratio.of(rate))
                rows.append(
                    [level, f"{isolated}, {beside}", report.spread(added, 0), *rates, of_rate]
                )
    if rows:
        columns = ["level", "in a process of its own, in the server's", "added p50, µs"]
        columns += ["requests/s, own", "in the server's", "ratio"]
        yield "## What a process of its own adds"
        yield report.table(columns, rows)


def _us(load: Load) -> float:
    return p50(load) * 1000


# ---- large tensors ----


def _large_part(this: Run) -> tuple[Times, list[str]]:
    times = _measure_large(this)
    return times, [*_large_sections(times)]


def _measure_large(this: Run) -> Times:
    with serve(LARGE, this.bench) as server:
        plan = {
            "http": server.ports.http,
            "grpc": server.ports.grpc,
            "models": ["echo", "echo-isolated", "reduce", "reduce-isolated"],
            "sizes": SIZES,
            "rounds": this.rounds,
            "moved_bytes": _MOVED_BYTES,
        }
        note(f"large tensors, {this.rounds} rounds")
        python = this.bench.scripts[FLOOR.name] / "python"
        times: Times = json.loads(_run(python, "isolated_client.py", json.dumps(plan)))
        return times


def _run(python: Path, program: str, *arguments: str) -> str:
    """Run a program beside this one; gives what it prints."""
    done = subprocess.run(
        [python, HERE / program, *arguments],
        capture_output=True,
        text=True,
        timeout=_CLIENT_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError("was not measured: its program failed", tail(done.stderr))
    return done.stdout


def _large_sections(times: Times) -> Iterator[str]:
    rows = []
    for protocol, by_size in times.items():
        for size, by_model in by_size.items():
            for kind in ("echo", "reduce"):
                inside, isolated = (
                    [statistics.median(calls) * 1e3 for calls in by_model[name]]
                    for name in (kind, f"{kind}-isolated")
                )
                ratios = [a / b for a, b in zip(isolated, inside, strict=True)]
                kept = "yes" if statistics.median(ratios) <= GOAL else "no"
                what = [protocol, f"{int(size) // _MIB} MiB", kind]
                rows.append([*what, *map(report.spread, (inside, isolated, ratios)), kept])
    yield "## Large tensors"
    yield (
        "One FP32 tensor a request, one call after the other, from the client's first byte to its "
        "last: the median of each round. `echo` adds 1 to each number and gives all of them, "
        f"`reduce` gives the largest one. At most {GOAL:g} times the time in process is aimed at."
    )
    columns = ["protocol", "tensor", "model", "in process, ms", "isolated, ms", "ratio", "reached"]
    yield report.table(columns, rows)


# ---- the link ----


def _link_part(this: Run) -> tuple[LinkTimes, list[str]]:
    note(f"the link alone, {this.rounds} rounds")
    python = this.bench.scripts[JACKFIELD.name] / "python"
    output = _run(python, "isolated_link.py", "--rounds", str(this.rounds))
    times: LinkTimes = json.loads(output)
    return times, [*_link_sections(times)]


def _link_sections(times: LinkTimes) -> Iterator[str]:
    yield "## The link alone"
    yield (
        "Two processes and no model: one sends a tensor, and the other reads all its numbers and "
        "says so (there), or sends one of the same size (there and back). The median call of each "
        "round; above 1 the segment is faster."
    )
    rows = []
    for form, by_way in times.items():
        for size in by_way["socket"]:
            socket_us, segment_us = by_way["socket"][size], by_way["segment"][size]
            ratios = [a / b for a, b in zip(socket_us, segment_us, strict=True)]
            values = (socket_us, 1), (segment_us, 1), (ratios, 2)
            cells = [report.spread(each, decimals) for each, decimals in values]
            rows.append([form, f"{int(size) // 1024} KiB", *cells])
    columns = ["form", "tensor", "socket, µs", "segment, µs", "socket ÷ segment"]
    yield report.table(columns, rows)


if __name__ == "__main__":
    sys.exit(main())
