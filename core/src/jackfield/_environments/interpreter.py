"""What an interpreter is and has, asked of itself."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from pathlib import Path

#: Longest start of an interpreter, in seconds: from a cold disk it takes a while.
_TIMEOUT_S = 60.0
_QUESTION = """
import importlib.metadata, json, sys, sysconfig
found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
print(json.dumps({
    "version": ".".join(map(str, sys.version_info[:3])),
    "tag": f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}",
    "installed": {name: version for name, version in found.items() if name},
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """One interpreter with what is installed there."""

    python: Path
    #: Its version, as ``3.11.7``.
    version: str
    #: What wheels must fit, as ``cpython-311-linux-x86_64``.
    tag: str
    #: Version of each distribution by its normalised name.
    installed: dict[str, str]


def ask(python: Path) -> Interpreter:
    """Ask an interpreter what it is.

    Raises:
        ModelLoadError: It can't be run, or is no Python.
    """
    try:
        answer = subprocess.run(
            [python, "-I", "-c", _QUESTION],
            capture_output=True,
            check=True,
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
        found = json.loads(answer.stdout)
        installed = {normalise(name): version for name, version in found["installed"].items()}
        return Interpreter(python, found["version"], found["tag"], installed)
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        text = getattr(error, "stderr", b"") or b""
        lines = text.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else str(error)
        raise ModelLoadError(f"the interpreter {python} does not run here: {reason}") from error


def find_in(folder: Path) -> Path | None:
    """Find the interpreter of an environment's folder."""
    for name in ("bin/python", "bin/python3", "Scripts/python.exe", "python.exe"):
        if (folder / name).exists():
            return folder / name
    return None


def normalise(name: str) -> str:
    """Give the one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def fits(version: str, specifiers: str) -> bool:
    """Tell whether a version is within bounds that only have ``>=`` and ``<``, as our own do."""
    for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", specifiers):
        if (_numbers(version) >= _numbers(bound)) != (sign == ">="):
            return False
    return True


def _numbers(version: str) -> list[int]:
    """Give a version's leading numbers; 2.0 is 2."""
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(each) for each in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers
