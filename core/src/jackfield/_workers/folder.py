"""A folder of all workers of one server; the next supervisor removes what a killed one left."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "jackfield-workers-"
_ALIVE = "alive"


class SharedFolder:
    """Made here, readable by this user alone, and removed by `close`.

    Whoever made it holds the lock of a file in it, which the system drops with the process.
    """

    def __init__(self) -> None:
        import fcntl

        for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            _remove_dead(left)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._alive = os.open(self.path / _ALIVE, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._alive, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._alive)


def _remove_dead(folder: Path) -> None:
    """Remove a folder whose maker is gone; one that is being made has no such file yet."""
    import fcntl

    try:
        alive = os.open(folder / _ALIVE, os.O_RDWR)
    except OSError:
        return
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(alive)
