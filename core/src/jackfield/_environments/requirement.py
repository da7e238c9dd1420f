"""Read requirements: what an index has is left as it is, what lies on the disk becomes a wheel."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jackfield._environments.interpreter import normalise
from jackfield._environments.store import Record
from jackfield._environments.uv import mask
from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jackfield._environments.interpreter import Interpreter
    from jackfield._environments.store import Store
    from jackfield._environments.uv import Uv

#: Largest folder of sources, in bytes: a larger one holds something else, as a virtual environment.
_MAX_SOURCE_BYTES = 1024**3
_LOCAL = re.compile(
    r"(?:[\w.-]+\s*(?P<before>\[[^\]]*\])?\s*@\s*)?"
    r"(?:file://)?(?P<path>[^@\[\s][^@\[]*?)(?P<after>\[[^\]]*\])?"
)
_PACKED = (".whl", ".tar.gz", ".zip")


@dataclass(frozen=True)
class Requirement:
    """One requirement."""

    #: As it is in the settings.
    text: str
    #: The wheel, packed sources or folder of sources that it names; None for an index's.
    path: Path | None = None
    #: Extras of what it names, with brackets.
    extras: str = ""
    #: SHA-256 of what it names; empty for an index's.
    digest: str = ""


def read_requirements(lines: Sequence[str], folder: Path) -> list[Requirement]:
    """Read requirements.

    Args:
        lines: As the settings have them.
        folder: What their paths are relative to.

    Raises:
        ModelLoadError: One is an option of pip's, or names a path where nothing lies.
    """
    return [_read(line.strip(), folder) for line in lines]


def _read(text: str, folder: Path) -> Requirement:
    if not text or text.startswith(("-", "#")) or "\n" in text:
        raise ModelLoadError(
            f"requirements: expected a package, wheel or folder of sources, found '{mask(text)}'; "
            "indexes have settings of their own, and sources need no -e: a folder is built again "
            "when it has changed"
        )
    found = _LOCAL.fullmatch(text)
    if found is None or not _is_path(found["path"]):
        return Requirement(text)
    path = Path(os.path.abspath(folder / Path(found["path"]).expanduser()))
    if not path.exists():
        raise ModelLoadError(f"requirements: '{text}': nothing lies at {path}")
    return Requirement(text, path, found["after"] or found["before"] or "", _digest(path))


def _is_path(text: str) -> bool:
    if "://" in text or ";" in text:
        return False
    return text.startswith((".", "~")) or "/" in text or os.sep in text or text.endswith(_PACKED)


def _digest(path: Path) -> str:
    if path.is_file():
        with path.open("rb") as packed:
            return hashlib.file_digest(packed, "sha256").hexdigest()
    if not any((path / name).is_file() for name in ("pyproject.toml", "setup.py")):
        raise ModelLoadError(f"requirements: expected a pyproject.toml in {path}, found none")
    digest = hashlib.sha256()
    size_bytes = 0
    for file in _sources(path):
        size_bytes += file.stat().st_size
        if size_bytes > _MAX_SOURCE_BYTES:
            raise ModelLoadError(
                f"requirements: expected sources of at most {_MAX_SOURCE_BYTES} bytes "
                f"in {path}, found more"
            )
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(path).as_posix()}\0{content}\0".encode())
    return digest.hexdigest()


def _sources(folder: Path) -> Iterator[Path]:
    """List the files that a wheel may be built of; not those of tools, builds and tests' runs."""
    for where, folders, files in os.walk(folder):
        is_top = Path(where) == folder
        left_out = ("__pycache__", "node_modules", *(("build", "dist", "venv") if is_top else ()))
        folders[:] = sorted(
            name
            for name in folders
            if name not in left_out and not name.startswith(".") and not name.endswith(".egg-info")
        )
        yield from (file for name in sorted(files) if (file := Path(where, name)).is_file())


def write_requirement(
    requirement: Requirement, *, store: Store, uv: Uv, interpreter: Interpreter
) -> str:
    """Spell a requirement for uv; what lies on the disk is there as a wheel then.

    Raises:
        ModelLoadError: Its wheel can't be built, or it is the core itself.
    """
    if requirement.path is None:
        return requirement.text
    wheel = _wheel(requirement, requirement.path, store=store, uv=uv, interpreter=interpreter)
    name = wheel.name.split("-")[0]
    if normalise(name) == "jackfield":
        raise ModelLoadError(
            "requirements: an environment has the server's own jackfield; leave out "
            f"'{requirement.text}'"
        )
    return f"{name}{requirement.extras} @ {wheel.as_uri()}"


def _wheel(
    requirement: Requirement, path: Path, *, store: Store, uv: Uv, interpreter: Interpreter
) -> Path:
    """Give the wheel of a path, in the cache: it stays what the digest says."""

    def build(folder: Path, lock: int) -> Record:
        if path.suffix == ".whl":
            shutil.copy(path, folder / path.name)
        else:
            uv.build(path, folder, interpreter.python, lock)
        return Record(kind="wheel", description=f"wheel of {requirement.text}")

    made = store.make(f"wheel-{requirement.digest[:32]}-{interpreter.tag}", build)
    return next(made.folder.glob("*.whl"))
