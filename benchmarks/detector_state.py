"""What a request to an online detector costs, by who owns the detector's state.

For `docs/decisions/0028-one-owner-of-a-detectors-state.md`: one owner that computes in memory and
saves now and then, against a store that any process may use, locked and read anew for each request.
Run it with `python benchmarks/detector_state.py`; it needs Alibi Detect and PyTorch.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jackfield import ModelMetrics
from jackfield_alibi._detect import _state
from jackfield_alibi._detect._state import DetectorState, OnlineDetector

REQUESTS = 1000
ROWS = 1
Ask = Callable[[np.ndarray], None]


def build(name: str) -> Any:  # noqa: ANN401  a library without annotations
    """Build a detector on 300 rows of 4 features."""
    from alibi_detect import cd

    np.random.seed(0)
    rows = stream(300)
    given: dict[str, Any] = {"ert": 50.0, "n_bootstraps": 2000, "verbose": False}
    if name == "CVMDriftOnline":
        given |= {"window_sizes": [20, 50], "batch_size": 100}
    else:
        given |= {"window_size": 50, "backend": "pytorch", "device": "cpu"}
    return getattr(cd, name)(rows, **given)


def stream(count: int, seed: int = 1) -> np.ndarray:
    """Make rows that a detector takes."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 4)).astype(np.float32)


@contextlib.contextmanager
def memory(online: OnlineDetector, folder: Path) -> Iterator[Ask]:
    """Compute, and save nothing: the floor."""

    def ask(rows: np.ndarray) -> None:
        for row in rows:
            online.predict(row)

    yield ask


@contextlib.contextmanager
def owner(online: OnlineDetector, folder: Path, every: int = 100) -> Iterator[Ask]:
    """Own the state for life; save every so many steps, with fsync."""
    state = DetectorState(
        folder, model="m", identity="", parts={"online": online}, save_every=every,
        logger=logging.getLogger("state"), metrics=ModelMetrics(),
    )  # fmt: skip
    state.open()

    def ask(rows: np.ndarray) -> None:
        with state.turn():
            for row in rows:
                online.predict(row)
            state.stepped(len(rows))

    yield ask
    state.close()


@contextlib.contextmanager
def store(
    online: OnlineDetector, folder: Path, *, is_synced: bool, is_reread: bool
) -> Iterator[Ask]:
    """Lock a file for each request, read the state, compute, and replace the file."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    seen = 0

    def ask(rows: np.ndarray) -> None:
        nonlocal seen
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with contextlib.suppress(FileNotFoundError):
                made = (folder / "state").stat().st_ino
                if is_reread or made != seen:
                    saved = _state._decode((folder / "state").read_bytes())
                    arrays = saved.parts["online"].items()
                    online.restore({key: _state._array(each) for key, each in arrays})
            for row in rows:
                online.predict(row)
            parts = {"online": {key: _state._flat(v) for key, v in online.snapshot().items()}}
            body = msgspec.msgpack.encode(_state._Saved(1, "", online.time, time.time(), parts))
            content = _state._MAGIC + hashlib.sha256(body).digest() + body
            if is_synced:
                _state._write(folder, content)
            else:
                (folder / "new").write_bytes(content)
                (folder / "new").replace(folder / "state")
            seen = (folder / "state").stat().st_ino
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)

    yield ask
    os.close(lock)


WAYS: dict[str, Callable[[OnlineDetector, Path], AbstractContextManager[Ask]]] = {
    "memory alone": memory,
    "owner, saved every 100 steps": owner,
    "owner, saved every step": lambda online, folder: owner(online, folder, 1),
    "store, unsynced, read if changed": lambda online, folder: store(
        online, folder, is_synced=False, is_reread=False
    ),
    "store, unsynced, read each time": lambda online, folder: store(
        online, folder, is_synced=False, is_reread=True
    ),
    "store, synced, read each time": lambda online, folder: store(
        online, folder, is_synced=True, is_reread=True
    ),
}


def measure(ask: Ask, rows: np.ndarray) -> np.ndarray:
    """Time requests one after another, in microseconds."""
    times = []
    for start in range(0, len(rows), ROWS):
        began = time.perf_counter_ns()
        ask(rows[start : start + ROWS])
        times.append((time.perf_counter_ns() - began) / 1000)
    return np.array(times)


def two_processes(name: str) -> np.ndarray:
    """Let two processes use one store at the same time; the slower one's times."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as made:
        command = [sys.executable, "-W", "ignore", __file__, name, made]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = [process.communicate()[0] for process in processes]
    times = [np.array([float(each) for each in output.split()]) for output in outputs]
    return max(times, key=lambda each: float(np.median(each)))


def main() -> None:
    """Print a table for each detector."""
    for name in ("LSDDDriftOnline", "MMDDriftOnline", "CVMDriftOnline"):
        detector = build(name)
        rows = stream(REQUESTS * ROWS, seed=2)
        size = sum(each.nbytes for each in OnlineDetector(detector).snapshot().values())
        for label, way in WAYS.items():
            detector.reset_state()
            online = OnlineDetector(detector, seed=0)
            for row in rows[:100]:
                online.predict(row)  # windows are full
            size = sum(each.nbytes for each in online.snapshot().values())
            with (
                tempfile.TemporaryDirectory(dir=Path.cwd()) as made,
                way(online, Path(made)) as ask,
            ):
                show(name, size, label, measure(ask, rows))
        show(name, size, "store, unsynced, two processes", two_processes(name))


def show(name: str, size: int, label: str, times: np.ndarray) -> None:
    """Print a line."""
    p50, p99 = np.percentile(times, [50, 99])
    print(
        f"{name:16} {size / 1024:7.0f} KiB  {label:34} p50 {p50:8.0f} µs  p99 {p99:8.0f} µs  "
        f"{1e6 / times.mean():8.0f} a second",
        flush=True,
    )


def one_of_two(name: str, folder: Path) -> None:
    """Use the store together with another process."""
    online = OnlineDetector(build(name), seed=0)
    rows = stream(REQUESTS * ROWS, seed=2)
    (folder / f"ready{os.getpid()}").touch()
    while len(list(folder.glob("ready*"))) < 2:
        time.sleep(0.01)
    with store(online, folder, is_synced=False, is_reread=False) as ask:
        times = measure(ask, rows)
    print(*times)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one_of_two(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
