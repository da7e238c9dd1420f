"""The servers that are compared: their environments, command lines, start, check and stop.

Used by `run.py` and `start.py`; needs the standard library only, and knows nothing of load
generators and tables. A new peer is an `Environment` and an entry in `PEERS`.
"""

import argparse
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ENVIRONMENTS_FOLDER = ROOT / ".bench-envs"

HOST = "127.0.0.1"
MODEL_NAME = "iris"
INFER_PATH = f"/v2/models/{MODEL_NAME}/infer"
READY_PATH = f"/v2/models/{MODEL_NAME}/ready"

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 10.0
#: Short enough to time a start with it; a refused connection on the loopback costs microseconds.
POLL_INTERVAL_S = 0.005
LOG_TAIL_LINES = 20

#: The same in every environment, so that all servers spend the same time in `predict`.
MODEL_STACK = ("scikit-learn==1.9.1", "numpy==2.4.6", "scipy==1.17.1")


class ServerError(Exception):
    """A server that can not be measured: `reason` in one line, `log` with the last lines it wrote.

    Raised for an environment that can not be made, a start that fails and a wrong answer.
    """

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.log = log


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment, shared by the peers that are the same software."""

    name: str
    requirements: tuple[str, ...]
    checkout: dict[str, Path] = field(default_factory=dict)
    """Distributions that are built from this repository, and their folders."""


class Ports(NamedTuple):
    """Free TCP ports for one start of a server; not every server uses each."""

    http: int
    grpc: int
    metrics: int


class Launch(NamedTuple):
    """What a peer makes its command line of."""

    scripts: Path
    """The folder of the environment's executables."""
    model: Path
    folder: Path
    """The server's working directory, empty at first: the place for settings files."""
    ports: Ports


class Peer(NamedTuple):
    """A server to compare; `command` writes the settings it needs and gives its command line."""

    name: str
    environment: Environment
    command: Callable[[Launch], list[str | Path]]


class Answers(NamedTuple):
    """Rows of the model's input, and the label that the model itself predicts for each."""

    rows: list[list[float]]
    labels: list[int]


JACKFIELD = Environment(
    "jackfield",
    MODEL_STACK,
    {"jackfield": ROOT / "core", "jackfield-sklearn": ROOT / "plugins" / "sklearn"},
)
MLSERVER = Environment(
    "mlserver",
    # MLServer 1.7.1 does not start with uvloop 0.22, which its own requirements allow.
    (*MODEL_STACK, "mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22"),
)
FLOOR = Environment(
    "floor", (*MODEL_STACK, "starlette", "msgspec", "uvicorn", "httptools", "uvloop")
)

#: Named in the reports with their versions, where an environment has them; the JSON names all.
REPORTED_PACKAGES = (
    "jackfield", "jackfield-sklearn", "mlserver", "mlserver-sklearn", "fastapi", "starlette",
    "uvicorn", "httptools", "h11", "uvloop", "msgspec", "orjson", "pydantic", "scikit-learn",
    "numpy",
)  # fmt: skip


def _jackfield_command(launch: Launch) -> list[str | Path]:
    ports = [f"--{name}-port={port}" for name, port in launch.ports._asdict().items()]
    jackfield = launch.scripts / "jackfield"
    return [jackfield, "serve", launch.model, "--name", MODEL_NAME, "--host", HOST, *ports]


def _jackfield_direct_command(launch: Launch) -> list[str | Path]:
    model_settings = {
        "name": MODEL_NAME,
        "implementation": "sklearn",
        "scheduler": "direct",
        "parameters": {"uri": str(launch.model)},
    }
    (launch.folder / "model-settings.json").write_text(json.dumps(model_settings))
    return _jackfield_command(launch._replace(model=launch.folder))


def _mlserver_command(launch: Launch, **settings: int) -> list[str | Path]:
    ports = {f"{name}_port": port for name, port in launch.ports._asdict().items()}
    model_settings = {
        "name": MODEL_NAME,
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(launch.model)},
    }
    (launch.folder / "settings.json").write_text(json.dumps({"host": HOST, **ports, **settings}))
    (launch.folder / "model-settings.json").write_text(json.dumps(model_settings))
    return [launch.scripts / "mlserver", "start", launch.folder]


def _mlserver_inprocess_command(launch: Launch) -> list[str | Path]:
    return _mlserver_command(launch, parallel_workers=0)


def _floor_command(launch: Launch) -> list[str | Path]:
    return [launch.scripts / "python", HERE / "floor.py", launch.model, str(launch.ports.http)]


PEERS = {
    peer.name: peer
    for peer in (
        Peer("jackfield", JACKFIELD, _jackfield_command),
        # predicts on the event loop: what choosing by the measured cost has to gain
        Peer("jackfield-direct", JACKFIELD, _jackfield_direct_command),
        Peer("mlserver", MLSERVER, _mlserver_command),
        Peer("mlserver-inprocess", MLSERVER, _mlserver_inprocess_command),
        Peer("floor", FLOOR, _floor_command),
    )
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose servers and where their environments are."""
    parser.add_argument(
        "--only",
        type=_parse_peers,
        default=list(PEERS.values()),
        metavar="NAME,...",
        help=f"measure only these servers, of {', '.join(PEERS)}",
    )
    parser.add_argument(
        "--envs",
        type=Path,
        default=ENVIRONMENTS_FOLDER,
        metavar="FOLDER",
        help="where the servers' virtual environments are kept (default: .bench-envs)",
    )


def _parse_peers(names: str) -> list[Peer]:
    unknown = [name for name in names.split(",") if name not in PEERS]
    if unknown:
        message = f"no server named {', '.join(unknown)}; known: {', '.join(PEERS)}"
        raise argparse.ArgumentTypeError(message)
    return [PEERS[name] for name in names.split(",")]


def stop_on_sigterm() -> None:
    """Make SIGTERM unwind the program as Ctrl-C does, so that no server outlives it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def note(text: str) -> None:
    """Tell the person who waits how far the run is."""
    print(text, file=sys.stderr, flush=True)


# Environments


def _create_environment(environment: Environment, parent: Path) -> Path:
    """Give the folder of an environment's executables; reuse one with the same requirements.

    Raises:
        ServerError: A requirement can not be installed.
    """
    folder = parent / environment.name
    stamp = folder / "requirements.sha256"
    fingerprint = _fingerprint(environment)
    if not (stamp.exists() and stamp.read_text() == fingerprint):
        note(f"creating the environment of {environment.name}")
        shutil.rmtree(folder, ignore_errors=True)
        for command in _creation_commands(environment, folder):
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            if done.returncode != 0:
                raise ServerError("its environment can not be created", _tail(done.stdout))
        stamp.write_text(fingerprint)  # last: a half-made environment is made again
    return folder / "bin"


def _creation_commands(environment: Environment, folder: Path) -> list[list[str | Path]]:
    packages = [*environment.requirements, *map(str, environment.checkout.values())]
    uv = shutil.which("uv")
    if uv is None:
        return [
            [sys.executable, "-m", "venv", folder],
            [folder / "bin" / "python", "-m", "pip", "install", *packages],
        ]
    # Without a refresh uv takes the wheel of an earlier build of the same folder from its cache.
    refresh = [f"--refresh-package={name}" for name in environment.checkout]
    return [
        [uv, "venv", "--python", sys.executable, folder],
        [uv, "pip", "install", "--python", folder / "bin" / "python", *refresh, *packages],
    ]


def _fingerprint(environment: Environment) -> str:
    """Digest the interpreter, the requirements and the sources that an environment is made of."""
    digest = hashlib.sha256("\n".join([sys.version, *environment.requirements]).encode())
    for folder in environment.checkout.values():
        sources = (path for path in (folder / "src").rglob("*") if "__pycache__" not in path.parts)
        for path in (folder / "pyproject.toml", *sorted(sources)):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _installed_versions(scripts: Path) -> dict[str, str]:
    """List an environment's distributions with their versions."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    )
    output = subprocess.check_output([scripts / "python", "-I", "-c", code])
    versions: dict[str, str] = json.loads(output)
    return dict(sorted(versions.items()))


def _train_model(folder: Path, environments: Path) -> tuple[Path, Answers]:
    scripts = _create_environment(FLOOR, environments)
    model, answers = folder / f"{MODEL_NAME}.joblib", folder / "answers.json"
    subprocess.run([scripts / "python", HERE / "model.py", model, answers], check=True)
    return model, Answers(**json.loads(answers.read_text()))


class Bench(NamedTuple):
    """What is needed to start the chosen servers, and which of them have failed so far."""

    model: Path
    answers: Answers
    scripts: dict[str, Path]
    """The folder of executables of each environment."""
    failures: dict[str, str]
    """What can not be measured, mostly a peer: the reason in one line."""

    def fail(self, name: str, error: ServerError) -> None:
        """Note what is not to be measured any more, and show the end of its log."""
        self.failures[name] = error.reason
        note(f"{name} {error.reason}\n{textwrap.indent(error.log, '  | ')}")

    def versions(self) -> dict[str, dict[str, str]]:
        """List the distributions of each environment."""
        return {name: _installed_versions(scripts) for name, scripts in self.scripts.items()}


def prepare(peers: Sequence[Peer], environments: Path, folder: Path) -> Bench:
    """Create the environments of the peers, and train the one model that they all serve.

    Raises:
        ServerError: The model can not be trained, for want of the floor's environment.
    """
    bench = Bench(*_train_model(folder, environments), scripts={}, failures={})
    for peer in peers:
        try:
            scripts = _create_environment(peer.environment, environments)
        except ServerError as error:
            bench.fail(peer.name, error)
        else:
            bench.scripts[peer.environment.name] = scripts
    return bench


# Servers


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is up and has the model ready."""

    ports: Ports
    ready_after_s: float
    """From just before the process was created to the first positive answer on readiness."""

    def check(self, answers: Answers) -> None:
        """Ask for each answer over HTTP.

        Raises:
            ServerError: One is missing or differs from the model's own.
        """
        for row, expected in zip(answers.rows, answers.labels, strict=True):
            try:
                status, body = _request(self.ports.http, "POST", INFER_PATH, infer_body(row))
                ok = status == 200
                found = json.loads(body)["outputs"][0]["data"][0] if ok else f"status {status}"
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise ServerError(f"gave no answer to check: {error!r}") from error
            # One label, which a server may wrap in a row of its own.
            if found not in (expected, [expected]):
                raise ServerError(f"gave a wrong answer: expected {expected}, found {found}")


@contextmanager
def serve(peer: Peer, bench: Bench) -> Iterator[Server]:
    """Start a peer on free ports, wait until the model is ready, and stop it in the end.

    Raises:
        ServerError: It does not become ready, or the body raised one; the log's tail is added.
    """
    with tempfile.TemporaryDirectory(prefix=f"bench-{peer.name}-") as name:
        folder = Path(name)
        ports = _free_ports()
        scripts = bench.scripts[peer.environment.name]
        command = peer.command(Launch(scripts, bench.model, folder, ports))
        log = folder / "server.log"
        with log.open("wb") as output:
            start = time.perf_counter()
            try:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=_server_environment(scripts),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a process group of its own: stopped with its children
                )
            except OSError as error:
                raise ServerError(f"can not be run: {error.strerror}") from error
        try:
            _wait_until_ready(process, ports.http)
            yield Server(ports, time.perf_counter() - start)
        except ServerError as error:
            lines = [error.log, _tail(log.read_text(errors="replace"))]
            raise ServerError(error.reason, "\n".join(filter(None, lines))) from error
        finally:
            _stop(process)


def infer_body(row: Sequence[float]) -> str:
    """Write the request of one row, as clients of the Open Inference Protocol do."""
    tensor = {"name": "input-0", "shape": [1, len(row)], "datatype": "FP64", "data": row}
    return json.dumps({"inputs": [tensor]})


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.perf_counter() + START_TIMEOUT_S
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise ServerError(f"did not start: exit status {process.returncode}")
        with suppress(OSError, http.client.HTTPException):
            if _request(port, "GET", READY_PATH)[0] == 200:
                return
        time.sleep(POLL_INTERVAL_S)
    raise ServerError(f"was not ready after {START_TIMEOUT_S:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server politely, then whatever is left of its process group by force."""
    try:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _request(port: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    headers = {} if body is None else {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection(HOST, port, timeout=REQUEST_TIMEOUT_S)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def _free_ports() -> Ports:
    with ExitStack() as stack:
        # Held open together, so that the system gives different ones.
        sockets = [stack.enter_context(socket.socket()) for _ in Ports._fields]
        for each in sockets:
            each.bind((HOST, 0))
        return Ports(*(each.getsockname()[1] for each in sockets))


def _server_environment(scripts: Path) -> dict[str, str]:
    """Leave out variables that would change a server's settings or its interpreter."""
    foreign = ("JACKFIELD_", "MLSERVER_", "UVICORN_", "PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PATH": f"{scripts}{os.pathsep}{kept.get('PATH', os.defpath)}"}


def _tail(log: str) -> str:
    return "\n".join(log.splitlines()[-LOG_TAIL_LINES:])
