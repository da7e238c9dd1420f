"""Measure what a second worker brings: REST and gRPC, a small model, one row a request.

    python benchmarks/workers.py [--workers 1,2] [--seconds 5] [--rounds 5] [--connections 8,16,64]
                                 [--event-engine]

The servers run all the time and are loaded in turns by `h2load` (Debian package
`nghttp2-client`), which costs little beside them and speaks both HTTP/1.1 and gRPC's HTTP/2; every
answer is of the size of one that was looked at. Beside them is the floor over gRPC: as many
processes of a bare `grpc.aio` servicer (`floor_workers.py`) on one port, with gRPC set as ours.
Where the system has `taskset`, the generator has the last core, and the servers have the others. It
needs a machine with four cores that does nothing else: the bar is 1.8 times the throughput of one
worker with two. Needs the core of this checkout.
"""

import argparse
import contextlib
import json
import math
import os
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import messages

#: Independent rows, so that its calls run where they cost least.
CODE = """
import numpy as np
from numpy.typing import NDArray

import jackfield

WEIGHTS = np.linspace(-1, 1, 4)


class Small:
    capabilities = jackfield.Capabilities(row_wise=True)

    def infer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x @ WEIGHTS
"""
HERE = Path(__file__).resolve().parent
ROW = (1.0, 2.0, 3.0, 5.0)
SETTINGS = {
    "name": "small",
    "implementation": "small.Small",
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1]}],
}
#: Before a gRPC message: whether it is compressed, and its length.
PREFIX = ">BI"
WARM_UP_S = 1
#: A second of a process, in the units in which Linux counts it.
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    name: str
    workers: int
    #: Its URL; empty where it has none.
    http: str
    #: Its host and port.
    grpc: str
    #: The processes that were started for it; their children are counted, too.
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Load:
    """One measurement."""

    rate: float
    #: Processors that the server took.
    cores: float
    #: Of all calls, in milliseconds, ascending.
    latencies: list[float]
    has_failed: bool

    def quantile(self, part: float) -> float:
        """Tell a latency, in milliseconds."""
        return self.latencies[int(part * (len(self.latencies) - 1))]


@dataclass(frozen=True)
class Generator:
    """Keeps a server busy over so many connections, one call in flight on each."""

    folder: Path
    pin: Sequence[str]
    bodies: dict[str, Path] = field(default_factory=dict)
    sizes: dict[tuple[Server, str], int] = field(default_factory=dict)

    def prepare(self, servers: Sequence[Server]) -> None:
        """Write the requests, and look at an answer of each server by each protocol."""
        body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 4], "data": ROW}]}
        message = messages.ModelInferRequest(model_name="small")
        message.inputs.add(name="x", datatype="FP64", shape=(1, 4))
        message.raw_input_contents.append(struct.pack("<4d", *ROW))
        raw = message.SerializeToString()
        for protocol, data in (
            ("REST", json.dumps(body).encode()),
            ("gRPC", struct.pack(PREFIX, 0, len(raw)) + raw),
        ):
            self.bodies[protocol] = self.folder / f"{protocol}.bin"
            self.bodies[protocol].write_bytes(data)
        for server in servers:
            if server.http:
                self.sizes[server, "REST"] = self._ask_http(server)
            self.sizes[server, "gRPC"] = self._ask_grpc(server, raw)

    def _ask_http(self, server: Server) -> int:
        """Check an answer; give its bytes."""
        request = urllib.request.Request(
            _url(server, "REST"),
            self.bodies["REST"].read_bytes(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            answer: bytes = response.read()
        _check(json.loads(answer)["outputs"][0]["data"][0])
        return len(answer)

    def _ask_grpc(self, server: Server, raw: bytes) -> int:
        """Check an answer; give its bytes."""
        with grpc.insecure_channel(server.grpc) as channel:
            answer = channel.unary_unary(messages.METHOD, bytes, bytes)(raw)
        response = messages.ModelInferResponse.FromString(answer)
        _check(struct.unpack("<d", response.raw_output_contents[0])[0])
        return struct.calcsize(PREFIX) + len(answer)

    def run(self, server: Server, protocol: str, connections: int, seconds: int) -> Load:
        """Make a closed loop for so many whole seconds: h2load takes no part of one."""
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        form = ["--h1"] if protocol == "REST" else ["-H", "te: trailers"]
        kind = "json" if protocol == "REST" else "grpc"
        command = [
            *(*self.pin, "h2load", *form, "-H", f"content-type: application/{kind}"),
            *("-d", str(self.bodies[protocol]), "-c", str(connections), "-t", "1"),
            *("-D", str(seconds), f"--log-file={log}"),
            _url(server, protocol),
        ]
        cpu_s, began = _cpu_s(server.pids), time.perf_counter()
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        cores = (_cpu_s(server.pids) - cpu_s) / (time.perf_counter() - began)
        rows = [line.split("\t") for line in log.read_text().splitlines()]
        latencies = sorted(int(row[2]) / 1e3 for row in rows)
        failed, errored, timeouts = _numbers(r"(\d+) failed, (\d+) errored, (\d+) timeout", text)
        (data,) = _numbers(r"\((\d+)\) data", text)
        # an error is a status in HTTP, and an answer without data in gRPC
        is_wrong = any(row[1] != "200" for row in rows) or data < self.sizes[
            server, protocol
        ] * len(rows)
        return Load(
            rate=len(rows) / seconds,
            cores=cores,
            latencies=latencies,
            has_failed=bool(failed or errored or timeouts or is_wrong),
        )


def main() -> int:
    """Measure and print a table; 1 if a call failed."""
    arguments = _parse_arguments()
    if shutil.which("h2load") is None:
        message = "needs h2load; Debian's package is nghttp2-client"
        raise SystemExit(message)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    has_pins = shutil.which("taskset") is not None and len(cores) > 1
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        (folder / "small.py").write_text(CODE)
        (folder / "model-settings.json").write_text(json.dumps(SETTINGS))
        pin = _pin(cores[:-1]) if has_pins else []
        generator = Generator(folder, _pin(cores[-1:]) if has_pins else [])
        servers = [
            running.enter_context(start(folder, workers, pin, has_engine=has_engine))
            for has_engine in ([False, True] if arguments.event_engine else [False])
            for start in (_serve, _floor)
            for workers in arguments.workers
        ]
        generator.prepare(servers)
        print(f"cores: {len(cores)}, pinned: {'yes' if has_pins else 'no'}\n")
        columns = ("connections", "server", "processes", "requests/s", "p50 ms", "p99 ms")
        print("| |", " | ".join([*columns, "cores", "of one"]), "|")
        print("|---" * (len(columns) + 3) + "|")
        has_failed = False
        for protocol in ("REST", "gRPC"):
            those = [each for each in servers if protocol == "gRPC" or each.name == "jackfield"]
            for connections in arguments.connections:
                has_failed |= _measure(those, generator, protocol, connections, arguments)
    return int(has_failed)


def _measure(
    servers: Sequence[Server],
    generator: Generator,
    protocol: str,
    connections: int,
    arguments: argparse.Namespace,
) -> bool:
    """Load the servers in turns, and print a line for each; tell whether a call failed."""
    loads: dict[Server, list[Load]] = {server: [] for server in servers}
    for _ in range(arguments.rounds):
        for server, found in loads.items():
            generator.run(server, protocol, connections, WARM_UP_S)
            found.append(generator.run(server, protocol, connections, arguments.seconds))
    for server, found in loads.items():
        base = next(loads[each] for each in servers if each.name == server.name)
        rates = [load.rate for load in found]
        ratios = [one.rate / other.rate for one, other in zip(found, base, strict=True)]
        p50, p99 = (statistics.median(load.quantile(at) for load in found) for at in (0.5, 0.99))
        print(
            f"| {protocol} | {connections} | {server.name} | {server.workers} | "
            f"{statistics.median(rates):,.0f} | {p50:.2f} | {p99:.2f} | "
            f"{statistics.median(load.cores for load in found):.2f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )
    return any(load.has_failed for each in loads.values() for load in each)


@contextlib.contextmanager
def _serve(folder: Path, workers: int, pin: Sequence[str], *, has_engine: bool) -> Iterator[Server]:
    ports = [part for name in ("http", "grpc", "metrics") for part in (f"--{name}-port", "0")]
    command = [*pin, sys.executable, "-m", "jackfield", "serve", str(folder), *ports]
    command = [*command, "--workers", str(workers)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=_environ(has_engine=has_engine)
    )
    assert process.stdout is not None
    try:
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith("metrics "):
                break
        http, grpc = (
            re.search(rf"^{name} +(\S+)", text, re.MULTILINE) for name in ("REST", "gRPC")
        )
        if http is None or grpc is None:
            message = f"the server with {workers} workers did not start:\n{text}"
            raise SystemExit(message)
        name = _name("jackfield", has_engine=has_engine)
        yield Server(name, workers, http[1], grpc[1], (process.pid,))
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def _floor(_: Path, processes: int, pin: Sequence[str], *, has_engine: bool) -> Iterator[Server]:
    with socket.socket() as keeper, contextlib.ExitStack() as running:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind(("127.0.0.1", 0))
        port = str(keeper.getsockname()[1])
        command = [*pin, sys.executable, str(HERE / "floor_workers.py"), port]
        pids = []
        for _each in range(processes):
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env=_environ(has_engine=has_engine)
            )
            running.enter_context(process)
            running.callback(process.terminate)
            assert process.stdout is not None
            process.stdout.readline()
            pids.append(process.pid)
        name = _name("bare grpc.aio", has_engine=has_engine)
        yield Server(name, processes, "", f"127.0.0.1:{port}", tuple(pids))


def _name(name: str, *, has_engine: bool) -> str:
    return f"{name}, event engine" if has_engine else name


def _environ(*, has_engine: bool) -> dict[str, str]:
    """Say how gRPC waits; what `jackfield serve` sets is set for the floor, too."""
    sign = "" if has_engine else "-"
    return {**os.environ, "GRPC_EXPERIMENTS": f"{sign}event_engine_listener"}


def _cpu_s(pids: Iterable[int]) -> float:
    """Tell what processes and their children have computed, in seconds; source: proc(5)."""
    ticks = 0
    for pid in pids:
        process = Path(f"/proc/{pid}")
        if process.exists():
            user, system = process.joinpath("stat").read_text().rpartition(")")[2].split()[11:13]
            ticks += int(user) + int(system)
            children = process.joinpath(f"task/{pid}/children").read_text()
            ticks += round(_cpu_s(map(int, children.split())) * _TICKS)
    return ticks / _TICKS


def _url(server: Server, protocol: str) -> str:
    if protocol == "REST":
        return f"{server.http}/v2/models/small/infer"
    return f"http://{server.grpc}{messages.METHOD}"


def _check(found: float) -> None:
    expected = math.fsum(x * w for x, w in zip(ROW, (-1, -1 / 3, 1 / 3, 1), strict=True))
    if abs(found - expected) > 1e-9:
        message = f"the server answers {found}, not {expected}"
        raise SystemExit(message)


def _numbers(pattern: str, text: str) -> list[int]:
    """Read what h2load prints."""
    found = re.search(pattern, text)
    if found is None:
        message = f"h2load did not finish:\n{text}"
        raise SystemExit(message)
    return [int(each) for each in found.groups()]


def _pin(cores: Sequence[int]) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, cores))]


def _counts(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=_counts, default=[1, 2])
    parser.add_argument("--connections", type=_counts, default=[8, 16, 64])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--event-engine",
        action="store_true",
        help="beside each server one whose gRPC has its event engine, which `serve` turns off",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
