"""Where the server keeps what it can make or fetch again: environments, artifacts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jackfield.errors import ModelLoadError

#: Variable that names the folder; it holds for every process of a server.
VARIABLE = "JACKFIELD_CACHE_DIR"


def cache_folder(name: str) -> Path:
    """Give the folder of one kind of thing, and create it.

    It is ``$JACKFIELD_CACHE_DIR/<name>``, or else ``jackfield/<name>`` in the user's cache folder
    as the system has it (``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux). Only its owner may read it.

    Args:
        name: The kind, one folder's name, for example ``environments``.

    Raises:
        ModelLoadError: It can't be created or written.
    """
    folder = _root() / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        problem = f"the cache folder {folder} can't be created: {error.strerror}; set {VARIABLE}"
        raise ModelLoadError(problem) from error
    return folder


def _root() -> Path:
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser().absolute()
    home = Path("~").expanduser()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "jackfield"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home)) / "jackfield" / "cache"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # the specification has relative paths ignored
    return (xdg if xdg.is_absolute() else home / ".cache") / "jackfield"
