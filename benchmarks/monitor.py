"""What a monitor costs the callers of the model that it watches, and whether it sees drift.

    python benchmarks/monitor.py [--rounds 6] [--seconds 5] [--share 0.7]

A scikit-learn model behind REST, one row a request, in an open loop at 70 % of what the server
bears: without a monitor (twice, to see the noise), and with one whose detector computes in the
server, or in a process of its own. All servers are up at the same time and are measured in turns;
in the second half of the rounds the rows are shifted. It takes some minutes. Needs the core of this
checkout, jackfield-sklearn and scikit-learn; with jackfield-alibi[detect] Alibi's own test is
measured, too.
"""

import argparse
import contextlib
import http.client
import importlib.util
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import report
from environments import HERE, note
from load import percentile
from numpy.typing import NDArray
from servers import HOST, stop_on_sigterm
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

MODELS = HERE / "monitor_models.py"
MODEL, DETECTOR = "wine", "drift"
PLAIN, AGAIN = "no monitor", "no monitor, again"
#: Rows taken of those asked about, and judged at once.
SAMPLE, WINDOW = 0.1, 200
#: The rows of the reference, and as many different requests in each half.
N_ROWS = 2000
#: How far the alcohol is shifted, in standard deviations.
SHIFT = 1.0
CONNECTIONS, CAPACITY_CONNECTIONS = 64, 16
CLIENTS = 2
START_TIMEOUT_S = 60.0
#: How long verdicts on the last rows of a turn are waited for.
SETTLE_S = 1.0

Table = NDArray[np.float64]
Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """A server to measure: what the detector's settings are, none for no monitor."""

    name: str
    detector: Settings | None = None


@dataclass(slots=True)
class Turn:
    """What one turn of a server gave; latencies in milliseconds."""

    shifted: bool
    p50_ms: float
    p99_ms: float
    requests: int
    errors: int
    late_p99_ms: float
    positives: int = 0
    negatives: int = 0


@dataclass(slots=True)
class Server:
    """A server that runs, and what was measured of it."""

    variant: Variant
    port: int
    turns: list[Turn] = field(default_factory=list)

    def get(self, path: str) -> Any:  # noqa: ANN401  JSON
        """Ask for JSON."""
        with contextlib.closing(
            http.client.HTTPConnection(HOST, self.port, timeout=10)
        ) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            return json.loads(body) if answer.status == 200 and body else None

    def monitor(self) -> Any:  # noqa: ANN401  JSON
        """Give the status of its monitor; None without one."""
        found = self.get(f"/v2/models/{MODEL}/monitors")["monitors"]
        return found[0] if found else None


def main() -> int:
    """Measure and publish; 1 if a request failed or a verdict is wrong, else 0."""
    arguments = _parse_arguments()
    stop_on_sigterm()
    facts = report.machine_facts()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        calm, shifted = _prepare(folder)
        servers = [
            stack.enter_context(_serve(folder, place, variant))
            for place, variant in enumerate(_variants(folder))
        ]
        capacity = _ask(servers[0], calm, seconds=arguments.seconds, rate=0)["rate"]
        rate = arguments.rate or round(arguments.share * capacity)
        facts |= {
            "Rate": f"{rate} requests/s in an open loop; the server bears {capacity:,.0f} over "
            f"{CAPACITY_CONNECTIONS} connections",
            "Rounds": f"{arguments.rounds}, of {arguments.seconds} s for each server; rows are "
            "shifted in the second half",
            "Monitor": f"sample {SAMPLE}, window of {WINDOW} rows",
        }
        for server in servers:  # not kept
            _ask(server, calm, seconds=1.0, rate=rate)
        for turn in range(arguments.rounds):
            is_shifted = turn >= arguments.rounds // 2
            shift = turn % len(servers)
            for server in servers[shift:] + servers[:shift]:
                _measure(
                    server, shifted if is_shifted else calm, arguments, rate, is_shifted=is_shifted
                )
            note(f"round {turn + 1} of {arguments.rounds}")
        monitors = {server.variant.name: server.monitor() for server in servers}
    report.publish(
        "A model with and without a monitor",
        _sections(servers, monitors),
        facts=facts,
        versions={},
        raw={
            "turns": {
                server.variant.name: [_as_dict(turn) for turn in server.turns] for server in servers
            },
            "monitors": monitors,
        },
        arguments=arguments,
    )
    errors = sum(turn.errors for server in servers for turn in server.turns)
    return int(errors > 0 or any(_wrong(server) for server in servers))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6, help="turns of each server, 2 or more")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn")
    parser.add_argument("--share", type=float, default=0.7, help="of what the server bears")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second instead")
    report.add_arguments(parser, "benchmarks/MONITOR.md")
    return parser.parse_args()


# ---- what is served ----


def _prepare(folder: Path) -> tuple[Path, Path]:
    """Train the model, write the reference and the requests before and after the shift."""
    x, y = load_wine(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    joblib.dump(model, folder / "wine.joblib")
    draw = np.random.default_rng(0)
    np.save(folder / "reference.npy", _resample(x, draw))
    calm, shifted = _resample(x, draw), _resample(x, draw)
    shifted[:, 0] += SHIFT * x[:, 0].std()
    files = []
    for name, rows in (("calm", calm), ("shifted", shifted)):
        file = folder / f"{name}.json"
        file.write_text(json.dumps(_questions(model, rows)))
        files.append(file)
    return files[0], files[1]


def _resample(x: Table, draw: np.random.Generator) -> Table:
    """Draw wines, each a little different from the one that it was drawn of."""
    rows: Table = x[draw.integers(len(x), size=N_ROWS)]
    rows += draw.normal(size=rows.shape) * x.std(axis=0) * 0.1  # the draw is a copy
    return rows


def _questions(model: Pipeline, rows: Table) -> list[dict[str, object]]:
    labels = model.predict(rows).tolist()
    return [
        {"rows": [row], "label": label} for row, label in zip(rows.tolist(), labels, strict=True)
    ]


def _variants(folder: Path) -> Iterator[Variant]:
    own = {
        "implementation": "monitor_models.KolmogorovSmirnov",
        "parameters": {"extra": {"reference": str(folder / "reference.npy")}},
    }
    yield Variant(PLAIN)
    yield Variant(AGAIN)
    yield Variant("own test", own)
    yield Variant("own test, in a process", own | {"scheduler": "process"})
    if all(importlib.util.find_spec(name) for name in ("alibi_detect", "jackfield_alibi")):
        alibi = _save_alibi(folder)
        yield Variant("Alibi's KSDrift", alibi)
        yield Variant("Alibi's KSDrift, in a process", alibi | {"scheduler": "process"})


def _save_alibi(folder: Path) -> Settings:
    """Save Alibi's test in a process of its own, which this one does not import."""
    code = (
        "import sys, numpy as np; from alibi_detect.cd import KSDrift; "
        "from alibi_detect.saving import save_detector; "
        "save_detector(KSDrift(np.load(sys.argv[1]), p_val=0.001), sys.argv[2])"
    )
    saved = folder / "ksdrift"
    command: list[str | Path] = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        folder / "reference.npy",
        saved,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return {"implementation": "alibi-detect", "parameters": {"uri": str(saved)}}


@contextlib.contextmanager
def _serve(folder: Path, place: int, variant: Variant) -> Iterator[Server]:
    models = folder / f"models-{place}"
    _write(
        models / MODEL,
        {
            "name": MODEL,
            "implementation": "sklearn",
            "parameters": {"uri": str(folder / "wine.joblib")},
            "monitors": [
                {"detector": DETECTOR, "sample": SAMPLE, "window": WINDOW, "history": 1000}
            ]
            if variant.detector
            else [],
        },
    )
    if variant.detector:
        _write(models / DETECTOR, {"name": DETECTOR, **variant.detector})
        shutil.copy(MODELS, models / DETECTOR)
    ports = [f"--{name}-port=0" for name in ("grpc", "metrics")]
    port = _free_port()
    command: list[str | Path] = [sys.executable, "-m", "jackfield", "serve", models, *ports]
    command.append(f"--http-port={port}")
    with (folder / f"log-{place}").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            server = Server(variant, port)
            _await_ready(server, process, log.name)
            yield server
        finally:
            process.terminate()
            process.wait(20)


def _write(folder: Path, settings: Settings) -> None:
    folder.mkdir(parents=True)
    (folder / "model-settings.json").write_text(json.dumps(settings))


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def _await_ready(server: Server, process: subprocess.Popen[bytes], log: str) -> None:
    wanted = [MODEL, *([DETECTOR] if server.variant.detector else [])]
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if all(server.get(f"/v2/models/{name}/ready") for name in wanted):
                return
        time.sleep(0.05)
    message = f"'{server.variant.name}' did not start:\n{Path(log).read_text()[-2000:]}"
    raise SystemExit(message)


# ---- load ----


def _measure(
    server: Server,
    questions: Path,
    arguments: argparse.Namespace,
    rate: float,
    *,
    is_shifted: bool,
) -> None:
    """Load a server for one turn, and read which verdicts came of it."""
    before = _newest(server)
    found = _ask(server, questions, seconds=arguments.seconds, rate=rate)
    time.sleep(SETTLE_S)
    monitor = server.monitor()
    history = [each for each in monitor["history"] if each["time_s"] > before] if monitor else []
    latencies = sorted(found["latencies_us"])
    turn = Turn(
        is_shifted,
        percentile(latencies, 50) / 1000,
        percentile(latencies, 99) / 1000,
        len(latencies),
        sum(found["errors"].values()),
        percentile(sorted(found["late_us"]), 99) / 1000,
    )
    # the window that spans the shift has rows of both halves
    is_first = is_shifted and not any(each.shifted for each in server.turns)
    for verdict in history[is_first:]:
        if verdict["is_positive"]:
            turn.positives += 1
        else:
            turn.negatives += 1
    server.turns.append(turn)


def _newest(server: Server) -> float:
    monitor = server.monitor()
    return float(monitor["current"]["time_s"]) if monitor and monitor["current"] else 0.0


def _ask(server: Server, questions: Path, *, seconds: float, rate: float) -> dict[str, Any]:
    """Run the clients; an open loop at a rate, a closed one without."""
    connections = CONNECTIONS if rate else CAPACITY_CONNECTIONS
    plans = [
        {
            "form": "json",
            "port": server.port,
            "model": MODEL,
            "question": str(questions),
            "seconds": seconds,
            "in_flight": connections // CLIENTS,
            "rate": rate / CLIENTS,
            "seed": number,
        }
        for number in range(CLIENTS)
    ]
    command = [sys.executable, str(HERE / "monitor_client.py")]
    pipe = subprocess.PIPE
    clients = [
        subprocess.Popen([*command, json.dumps(plan)], stdin=pipe, stdout=pipe, text=True)
        for plan in plans
    ]
    for client in clients:
        assert client.stdout is not None
        client.stdout.readline()
    # all are connected: they begin together
    found = [json.loads(answer) for answer in _go(clients)]
    errors: dict[str, int] = {}
    for each in found:
        for kind, count in each["errors"].items():
            errors[kind] = errors.get(kind, 0) + count
    return {
        "latencies_us": [each for one in found for each in one["latencies_us"]],
        "late_us": [each for one in found for each in one["late_us"]],
        "errors": errors,
        "rate": sum(len(one["latencies_us"]) for one in found) / seconds,
    }


def _go(clients: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Let them begin; gives what each prints in the end."""
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("go\n")
        client.stdin.flush()
    return [client.communicate()[0] for client in clients]


# ---- what is told ----


def _sections(servers: Sequence[Server], monitors: dict[str, Any]) -> list[str]:
    plain = servers[0]
    return [
        "## Latency",
        "`÷` is within rounds, to the server without a monitor; the second one without tells the "
        "noise. A difference inside its spread is none.",
        report.table(
            ("server", "p50 ms", "÷", "p99 ms", "÷", "failed requests", "sent late p99 ms"),
            [_line(server, plain) for server in servers],
        ),
        "## Verdicts",
        "The window that spans the shift is left out: it has rows of both halves.",
        report.table(
            (
                *("detector", "rows seen", "sampled", "judged", "dropped"),
                *("before: no drift", "drift", "after: drift", "no drift"),
            ),
            [
                _verdicts(server, monitors[server.variant.name])
                for server in servers
                if monitors[server.variant.name]
            ],
        ),
    ]


def _line(server: Server, plain: Server) -> tuple[str, ...]:
    def values(get: Callable[[Turn], float]) -> tuple[str, str]:
        pairs = zip(server.turns, plain.turns, strict=True)
        ratios = [get(turn) / get(beside) for turn, beside in pairs]
        return report.spread(map(get, server.turns), 3), report.spread(ratios, 3)

    p50, p99 = values(lambda turn: turn.p50_ms), values(lambda turn: turn.p99_ms)
    errors = str(sum(turn.errors for turn in server.turns))
    late = f"{statistics.median(turn.late_p99_ms for turn in server.turns):.3f}"
    return (server.variant.name, *p50, *p99, errors, late)


def _verdicts(server: Server, monitor: Any) -> tuple[str, ...]:  # noqa: ANN401  JSON
    rows = monitor["rows"]
    before = [turn for turn in server.turns if not turn.shifted]
    after = [turn for turn in server.turns if turn.shifted]
    numbers = (
        *(rows[name] for name in ("seen", "sampled", "judged")),
        sum(rows["dropped"].values()),
        sum(turn.negatives for turn in before),
        sum(turn.positives for turn in before),
        sum(turn.positives for turn in after),
        sum(turn.negatives for turn in after),
    )
    return (server.variant.name, *map(str, numbers))


def _wrong(server: Server) -> bool:
    """Tell whether a verdict is wrong, or none came where some should have."""
    if server.variant.detector is None:
        return False
    wrong = any(turn.positives if not turn.shifted else turn.negatives for turn in server.turns)
    right = {turn.shifted for turn in server.turns if turn.positives + turn.negatives}
    return wrong or right != {False, True}


def _as_dict(turn: Turn) -> dict[str, object]:
    return {name: getattr(turn, name) for name in Turn.__slots__}


if __name__ == "__main__":
    sys.exit(main())
