"""What the tests of running servers share: model folders, and a `jackfield serve` process."""

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
#: The command of the environment that runs the tests.
JACKFIELD = (sys.executable, "-m", "jackfield")


def write_model(
    parent: Path, implementation: str, *, name: str, folder: str = "", **settings: object
) -> Path:
    """Make a model folder with a model of `tests/models`, or with settings alone."""
    home = parent / (folder or name)
    home.mkdir(parents=True)
    module = Path(__file__).parent / "models" / f"{implementation.partition('.')[0]}.py"
    if module.is_file():
        shutil.copy(module, home)
    text = json.dumps({"name": name, "implementation": implementation, **settings})
    (home / "model-settings.json").write_text(text)
    return home


def wait_until(condition: Callable[[], T], what: str, *, timeout_s: float = 30.0) -> T:
    """Poll until something holds, and give its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)
    return value


def free_port() -> int:
    """Find a port that stays free: not one of those that systems give to who asks for any."""
    for port in random.sample(range(20_000, 30_000), 100):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    message = "no port is free"
    raise AssertionError(message)


def clean_environment(**more: str) -> dict[str, str]:
    """Our own variables would set the server, and those of the tests are unknown to it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JACKFIELD_", "MLSERVER_"))
    }
    return kept | more


def bare_path() -> str:
    """The folders of commands, less the environment that runs the tests."""
    mine = Path(sys.prefix) / "bin"
    return os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != mine
    )


class Served:
    """A `jackfield serve` process: where it listens and what it printed."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self._folder = folder

    @property
    def stdout(self) -> str:
        return (self._folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self._folder / "stderr").read_text()

    @property
    def http(self) -> str:
        return self._printed(r"^REST +(\S+)")

    @property
    def grpc(self) -> str:
        return self._printed(r"^gRPC +(\S+)")

    @property
    def metrics(self) -> str:
        return self._printed(r"^metrics +(\S+)")

    @property
    def curl(self) -> str:
        """The request to try, printed when the rest was."""
        wait_until(lambda: "\ntry:\n" in self.stdout, "a request to try")
        return self._printed(r"^try:\n  (curl .*\\\n.*)\n")

    def _printed(self, pattern: str) -> str:
        found = re.search(pattern, self.stdout, re.MULTILINE)
        assert found, f"no {pattern!r} in:\n{self.stdout}\n{self.stderr}"
        return found[1]

    def wait_started(self, *, timeout_s: float = 60.0) -> None:
        def is_started() -> bool:
            assert self.process.poll() is None, f"it ended: {self.stdout}\n{self.stderr}"
            return re.search(r"^metrics .*\n", self.stdout, re.MULTILINE) is not None

        wait_until(is_started, "the server", timeout_s=timeout_s)

    def wait_stopped(self, *, timeout_s: float) -> int:
        """Wait for the exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            message = f"still there after {timeout_s} s:\n{self.stdout}\n{self.stderr}"
            raise AssertionError(message) from None


@contextlib.contextmanager
def serving(
    *arguments: str | Path,
    command: Sequence[str | Path] = JACKFIELD,
    env: Mapping[str, str] | None = None,
    is_awaited: bool = True,
) -> Iterator[Served]:
    """Run `jackfield serve` on free ports, and kill it in the end, whatever happened.

    Args:
        arguments: Paths and options, which go before ours.
        command: What `jackfield` is.
        env: Variables beside the usual ones.
        is_awaited: Return when the models were tried and the addresses are printed.
    """
    given = [str(each) for each in arguments]
    ports = [
        part
        for port in ("--http-port", "--grpc-port", "--metrics-port")
        if port not in given
        for part in (port, "0")
    ]
    with (
        TemporaryDirectory() as name,
        Path(name, "stdout").open("wb") as out,
        Path(name, "stderr").open("wb") as err,
    ):
        process = subprocess.Popen(
            [*command, "serve", *given, *ports],
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            cwd=name,
            env=clean_environment(**(env or {})),
        )
        try:
            served = Served(process, Path(name))
            if is_awaited:
                served.wait_started()
            yield served
        finally:
            process.kill()
            process.wait(10)


def run_jackfield(
    *arguments: str | Path,
    command: Sequence[str | Path] = JACKFIELD,
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=clean_environment(**(env or {})),
    )
