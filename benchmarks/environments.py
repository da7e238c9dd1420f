"""Virtual environments for the servers: made once, used again until what they are made of changes.

Needs the standard library only.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ENVIRONMENTS_FOLDER = ROOT / ".bench-envs"
LOG_TAIL_LINES = 20


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


def note(text: str) -> None:
    """Tell the person who waits how far the run is."""
    print(text, file=sys.stderr, flush=True)


def tail(log: str) -> str:
    """Give the last lines."""
    return "\n".join(log.splitlines()[-LOG_TAIL_LINES:])


def create(environment: Environment, parent: Path) -> Path:
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
        for command in _commands(environment, folder):
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            if done.returncode != 0:
                raise ServerError("its environment can not be created", tail(done.stdout))
        stamp.write_text(fingerprint)  # last: a half-made environment is made again
    return folder / "bin"


def _commands(environment: Environment, folder: Path) -> list[list[str | Path]]:
    packages = [*environment.requirements, *map(str, environment.checkout.values())]
    uv = shutil.which("uv")
    if uv is None:
        return [
            [sys.executable, "-m", "venv", folder],
            [folder / "bin" / "python", "-m", "pip", "install", *packages],
        ]
    # Without a refresh uv takes the wheel of an earlier build of the same folder from its cache.
    refresh = [f"--refresh-package={name}" for name in environment.checkout]
    # as pip does, so that no start is slower for being the first
    compiled = ["--compile-bytecode"]
    return [
        [uv, "venv", "--python", sys.executable, folder],
        [
            uv,
            "pip",
            "install",
            "--python",
            folder / "bin" / "python",
            *compiled,
            *refresh,
            *packages,
        ],
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


def installed_versions(scripts: Path) -> dict[str, str]:
    """List an environment's distributions with their versions."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    )
    output = subprocess.check_output([scripts / "python", "-I", "-c", code])
    versions: dict[str, str] = json.loads(output)
    return dict(sorted(versions.items()))
