"""Environments that uv makes of requirements."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jackfield._environments.environment import Environment
from jackfield._environments.interpreter import Interpreter, ask, find_in, fits
from jackfield._environments.store import Made, Record, Resolution
from jackfield._environments.uv import absolute, mask
from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from jackfield._environments.resolver import Resolver
    from jackfield._environments.store import Store
    from jackfield._environments.uv import Uv

_FOLDER = "venv"
_PYTHON = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
#: The server's own version of Python.
_OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


def create(resolver: Resolver) -> Environment:
    """Give the environment of the settings' requirements.

    Raises:
        ModelLoadError: There is no such Python, or the requirements can't be resolved or installed.
        OSError: The disk is full.
    """
    store = resolver.store
    version = resolver.settings.python or _OWN
    if "/" in version or "\\" in version:
        version = absolute(version, resolver.folder)
    elif re.fullmatch(r"[\d.]+", version) and not fits(version, resolver.core.python):
        raise ModelLoadError(f"python: expected {resolver.core.python}, found {version}")
    request = resolver.request("environment", version)
    made = _recall(request, store)
    if made is None:
        with store.lock(f"request-{request}"):
            made = _recall(request, store) or _make(request, version, resolver)
    python = made.folder / _FOLDER / Path(*_PYTHON)
    return Environment(python, made.folder.name, (), made.record.description, (made.lease,))


def _recall(request: str, store: Store) -> Made | None:
    """Give what was made before, unless the interpreter that it was made of is gone."""
    made = store.recall(request)
    return made if made and find_in(made.folder / _FOLDER) else None


def _make(request: str, version: str, resolver: Resolver) -> Made:
    uv = resolver.uv()
    interpreter = ask(_find_python(version, uv))
    thin = [f"{name}{bounds}" for name, bounds in resolver.core.thin.items()]
    resolution = resolver.resolve(request, uv, interpreter, needed=thin)
    found = resolver.store.find(resolution.key)
    if found and find_in(found.folder / _FOLDER) is None:
        resolver.store.discard(resolution.key)
    return _install(resolution, resolver, uv, interpreter)


def _find_python(version: str, uv: Uv) -> Path:
    """Find an interpreter: the one at a path, or one of a version."""
    if Path(version).is_absolute():
        return Path(version)
    if version == _OWN:
        # the one that the server's own environment was made of is there, online and offline
        return Path(getattr(sys, "_base_executable", "") or sys.executable)
    return uv.find_python(version)


def _install(resolution: Resolution, resolver: Resolver, uv: Uv, interpreter: Interpreter) -> Made:
    """Install what was resolved, unless it is there."""

    def build(folder: Path, lock: int) -> Record:
        venv = folder / _FOLDER
        lines = folder / "requirements.txt"
        lines.touch(0o600)  # URLs may hold secrets
        lines.write_text("\n".join(resolution.requirements))
        uv.create(venv, interpreter.python, lock)
        uv.sync(lines, venv / Path(*_PYTHON), lock)
        return Record(
            kind="environment",
            description=f"{resolver.shown} on Python {interpreter.version}",
            python=interpreter.version,
            packages=[mask(line) for line in resolution.requirements],
        )

    return resolver.store.make(resolution.key, build)
