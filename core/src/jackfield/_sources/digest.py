"""SHA-256 of artifacts: a file's own, and a folder's by a rule that a shell can follow."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: A file that lists others with their SHA-256, as `sha256sum` writes and checks it.
MANIFEST = "SHA256SUMS"
_LINE = re.compile(r"(?P<sha256>[0-9a-fA-F]{64}) [ *](?P<path>.+)")


def hash_file(file: Path) -> str:
    """Give the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(sha256s: Mapping[str, str]) -> str:
    """Give the SHA-256 of a folder, of its files' paths and SHA-256.

    It is that of the text which ``sha256sum`` prints for all files below the folder, by paths
    relative to it, in the order of the paths' bytes.
    """
    lines = [f"{sha256s[path]}  {path}\n" for path in sorted(sha256s, key=str.encode)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_artifact(place: Path, *, without: Path | None = None) -> str:
    """Give the SHA-256 of a file or a folder.

    Hidden files of a folder count; what Python compiled into `__pycache__` does not.

    Args:
        place: The file or folder.
        without: A file that does not count: it holds the SHA-256.

    Raises:
        ModelLoadError: It can't be read.
    """
    try:
        if place.is_file():
            return hash_file(place)
        files = [path for path in place.rglob("*") if path.is_file() and path != without]
        names = {path.relative_to(place).as_posix(): path for path in files}
        return hash_files(
            {name: hash_file(path) for name, path in names.items() if not is_compiled(name)}
        )
    except OSError as error:
        problem = f"'{error.filename or place}' can't be read: {error.strerror or error}"
        raise ModelLoadError(problem) from error


def is_compiled(path: str) -> bool:
    """Tell whether a path below a folder is of what Python writes beside code that it imports."""
    return "__pycache__" in path.split("/")


def check_sha256(place: Path | None, expected: str, *, without: Path | None = None) -> None:
    """Refuse an artifact that is not the one that `parameters.sha256` names.

    Raises:
        ModelLoadError: Its SHA-256 is another one, or there is no artifact.
    """
    if place is None:
        raise ModelLoadError("parameters.sha256 needs an artifact, and there is none")
    found = hash_artifact(place, without=without)
    if found != expected.lower():
        problem = f"the SHA-256 of '{place}' is {found}, parameters.sha256 says {expected}"
        raise ModelLoadError(problem)


def read_manifest(text: str, shown: str) -> dict[str, str]:
    """Read what `sha256sum` writes: path -> SHA-256.

    Raises:
        ModelLoadError: A line is of another form.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ModelLoadError(
                f"line {number} of '{shown}' is not of sha256sum: a SHA-256, two spaces, a path"
            )
        found[match["path"].removeprefix("./")] = match["sha256"].lower()
    return found
