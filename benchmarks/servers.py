"""Start a server on free ports, wait until it is ready, ask it for right answers, and stop it.

Used by all programs here; needs the standard library only, and knows nothing of load generators
and tables. Which servers there are is in `peers.py`.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import environments
from environments import Environment, ServerError, note, tail
from forms import JSON, Form, Labels, Rows

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 60.0
#: Short enough to time a start with it; a refused connection on the loopback costs microseconds.
POLL_INTERVAL_S = 0.005
#: Marks every process that comes of a server, so that each is found again, whoever its parent is.
MARK = "BENCH_SERVER_ID"


class Question(NamedTuple):
    """The rows of one request, and the number that the model itself gives for each."""

    rows: Rows
    labels: Labels


class Model(NamedTuple):
    """A trained model and what may be asked of it."""

    name: str
    file: Path
    questions: list[Question]

    @property
    def question_file(self) -> Path:
        """Where a load generator reads the first question."""
        return self.file.with_suffix(".question.json")


class Ports(NamedTuple):
    """Free TCP ports for one start of a server; not every server uses each."""

    http: int
    grpc: int
    metrics: int


class Launch(NamedTuple):
    """What a peer makes its command line of."""

    scripts: Path
    """The folder of the environment's executables."""
    model: Model
    folder: Path
    """The server's working directory, empty at first: the place for settings files."""
    ports: Ports


def answers_ready(ports: Ports, model: Model) -> bool:
    """Tell readiness as the Open Inference Protocol has it."""
    return request(ports.http, "GET", f"/v2/models/{model.name}/ready")[0] == 200


def listens_for_grpc(ports: Ports, _: Model) -> bool:
    """Tell whether the port is open, for a server that opens it when the model is loaded."""
    with closing(socket.create_connection((HOST, ports.grpc), REQUEST_TIMEOUT_S)):
        return True


def predicts(form: Form) -> Callable[[Ports, Model], bool]:
    """Tell readiness by an answer, where a server has no other sign of a loaded model."""

    def is_ready(ports: Ports, model: Model) -> bool:
        return ask(ports.http, form, model.name, model.questions[0].rows)[0] == 200

    return is_ready


class Peer(NamedTuple):
    """A server to compare; `command` writes the settings it needs and gives its command line."""

    name: str
    environment: Environment
    command: Callable[[Launch], Sequence[str | Path]]
    form: Form = JSON
    """How it is asked over HTTP."""
    is_ready: Callable[[Ports, Model], bool] = answers_ready
    variables: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Bench:
    """What is needed to start the chosen servers, and what has failed so far."""

    models: dict[str, Model]
    scripts: dict[str, Path]
    """The folder of executables of each environment."""
    failures: dict[str, str] = field(default_factory=dict)
    """What can not be measured, mostly a peer: the reason in one line."""

    def fail(self, name: str, error: ServerError) -> None:
        """Note what is not to be measured any more, and show the end of its log."""
        self.failures[name] = error.reason
        note(f"{name} {error.reason}\n{textwrap.indent(error.log, '  | ')}")

    def versions(self) -> dict[str, dict[str, str]]:
        """List the distributions of each environment."""
        return {
            name: environments.installed_versions(scripts) for name, scripts in self.scripts.items()
        }


def prepare(peers: Sequence[Peer], base: Environment, envs: Path, folder: Path) -> Bench:
    """Create the environments of the peers, and train the models that they all serve.

    Args:
        peers: Those whose environment can not be made are noted as failures.
        base: Where the models are trained, and load generators run.
        envs: Where environments are kept.
        folder: Where the models are written.

    Raises:
        ServerError: The models can not be trained, for want of the base environment.
    """
    scripts = {base.name: environments.create(base, envs)}
    subprocess.run(
        [scripts[base.name] / "python", environments.HERE / "model.py", folder], check=True
    )
    models = {file.stem: _read_model(file) for file in sorted(folder.glob("*.joblib"))}
    bench = Bench(models, scripts)
    failed: dict[str, ServerError] = {}
    for peer in peers:
        name = peer.environment.name
        if name not in scripts and name not in failed:
            try:
                scripts[name] = environments.create(peer.environment, envs)
            except ServerError as error:
                failed[name] = error
        if name in failed:
            bench.fail(peer.name, failed[name])
    return bench


def _read_model(file: Path) -> Model:
    questions = [Question(**given) for given in json.loads(file.with_suffix(".json").read_text())]
    model = Model(file.stem, file, questions)
    model.question_file.write_text(json.dumps(questions[0]._asdict()))
    return model


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is up and has the model ready."""

    peer: Peer
    model: Model
    ports: Ports
    process: subprocess.Popen[bytes]
    mark: str
    log: Path
    ready_after_s: float
    """From just before the process was created to the first sign of readiness."""

    def check(self, form: Form, model: Model | None = None) -> None:
        """Ask for each answer over HTTP.

        Raises:
            ServerError: One is missing or differs from the model's own.
        """
        model = model or self.model
        for rows, expected in model.questions:
            try:
                status, body = ask(self.ports.http, form, model.name, rows)
                found = form.decode(body) if status == 200 else f"status {status}: {body[:200]!r}"
            except (
                OSError,
                http.client.HTTPException,
                ValueError,
                LookupError,
                TypeError,
            ) as error:
                raise ServerError(f"gave no answer to check: {error!r}") from error
            if found != expected:
                text = f"expected {expected}, found {found}"
                raise ServerError(f"gave a wrong answer: {text[:300]}")

    def processes(self) -> list[int]:
        """List the server's processes: those with its mark, and all that come of them."""
        return _descendants(self.mark)

    def resident_mib(self) -> float:
        """Measure the memory that its processes hold together, shared pages once in each."""
        total = 0
        for process in self.processes():
            with suppress(OSError, IndexError):
                total += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return total * os.sysconf("SC_PAGE_SIZE") / 1024**2


@contextmanager
def serve(peer: Peer, bench: Bench, model_name: str = "iris") -> Iterator[Server]:
    """Start a peer on free ports, wait until the model is ready, and stop it in the end.

    Raises:
        ServerError: It does not become ready, or the body raised one; the log's tail is added.
    """
    if peer.environment.name not in bench.scripts:
        raise ServerError("its environment can not be created")
    model = bench.models[model_name]
    with tempfile.TemporaryDirectory(prefix="bench-server-", ignore_cleanup_errors=True) as at:
        folder = Path(at)
        ports = _free_ports()
        scripts = bench.scripts[peer.environment.name]
        command = peer.command(Launch(scripts, model, folder, ports))
        log, mark = folder / "server.log", uuid.uuid4().hex
        variables = {**_clean_environment(scripts), **peer.variables, MARK: mark}
        with log.open("wb") as output:
            start = time.perf_counter()
            try:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=variables,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a process group of its own: stopped with its children
                )
            except OSError as error:
                raise ServerError(f"can not be run: {error.strerror}") from error
        try:
            try:
                _wait_until_ready(process, peer, ports, model)
            except ServerError as error:
                last = (
                    log.read_text(errors="replace")
                    .strip()
                    .rpartition("\n")[2][:300]
                    .replace(f"{folder}/", "")
                )
                raise ServerError(f"{error.reason}: {last}" if last else error.reason) from error
            yield Server(peer, model, ports, process, mark, log, time.perf_counter() - start)
        except ServerError as error:
            lines = [error.log, tail(log.read_text(errors="replace"))]
            raise ServerError(error.reason, "\n".join(filter(None, lines))) from error
        finally:
            _stop(process, mark)


def stop_on_sigterm() -> None:
    """Make SIGTERM unwind the program as Ctrl-C does, so that no server outlives it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def ask(port: int, form: Form, model: str, rows: Rows) -> tuple[int, bytes]:
    """Send one request in a form; gives status and body.

    Raises:
        OSError, http.client.HTTPException: There is no answer.
    """
    path = form.path.format(model=model)
    return request(port, form.method, path, form.encode(rows), form.headers(rows))


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] = {},
) -> tuple[int, bytes]:
    """Send one request over a connection of its own; gives status and body.

    Raises:
        OSError, http.client.HTTPException: There is no answer.
    """
    with closing(http.client.HTTPConnection(HOST, port, timeout=REQUEST_TIMEOUT_S)) as connection:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()


def _wait_until_ready(
    process: subprocess.Popen[bytes], peer: Peer, ports: Ports, model: Model
) -> None:
    deadline = time.perf_counter() + START_TIMEOUT_S
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise ServerError(f"did not start: exit status {process.returncode}")
        with suppress(OSError, http.client.HTTPException):
            if peer.is_ready(ports, model):
                return
        time.sleep(POLL_INTERVAL_S)
    raise ServerError(f"was not ready after {START_TIMEOUT_S:.0f} s")


def _stop(process: subprocess.Popen[bytes], mark: str) -> None:
    """End the server politely, then whatever is left of it by force."""
    try:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # some put their workers into sessions of their own
        while left := _descendants(mark):
            for each in left:
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            process.poll()
            time.sleep(POLL_INTERVAL_S)
        process.wait()


def _descendants(mark: str) -> list[int]:
    """Find the processes with a mark in their environment, and their children.

    The children too, since a process that writes its title may do so over its environment.
    """
    parents: dict[int, int] = {}
    found: set[int] = set()
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError, ValueError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state in ("Z", "X"):
                continue
            parents[int(folder.name)] = int(parent)
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
    grown = True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found)


def _free_ports() -> Ports:
    with ExitStack() as stack:
        # Held open together, so that the system gives different ones.
        sockets = [stack.enter_context(socket.socket()) for _ in Ports._fields]
        for each in sockets:
            each.bind((HOST, 0))
        return Ports(*(each.getsockname()[1] for each in sockets))


def _clean_environment(scripts: Path) -> dict[str, str]:
    """Leave out variables that would change a server's settings or its interpreter."""
    foreign = (
        "JACKFIELD_", "MLSERVER_", "UVICORN_", "PYTHON", "VIRTUAL_ENV", "BENTOML_", "RAY_",
        "MLFLOW_", "OMP_", "OPENBLAS_", "MKL_", MARK,
    )  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PATH": f"{scripts}{os.pathsep}{kept.get('PATH', os.defpath)}"}
