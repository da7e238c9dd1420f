"""Where the server keeps what it can make or fetch again, and the locks of who uses it."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from pathlib import Path

from jackfield.errors import ModelLoadError

if sys.platform != "win32":
    import fcntl

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


class Lease:
    """Keeps what is in the cache from being pruned, until it is collected.

    Args:
        descriptor: Of what is locked for it; closed with it.
    """

    def __init__(self, descriptor: int) -> None:
        # a file object would warn of being left open, which is what it is for
        weakref.finalize(self, os.close, descriptor)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take a lock if it is free; where the file system has none, everybody gets it."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def touch(path: Path) -> None:
    """Note the last use, where the cache may be written."""
    with contextlib.suppress(OSError):
        os.utime(path)
