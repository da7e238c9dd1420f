"""What a detector remembers, and the one place on disk where it is kept.

A detector has one memory for the whole server: the window that fills, and the steps of an online
detector. One process owns it: it holds a lock on the folder for as long as it serves, and computes
with what it has in memory (`docs/decisions/0028-one-owner-of-a-detectors-state.md`).

```python
online = OnlineDetector(detector)                  # or a Window, or both
state = DetectorState(folder, model=context.name, identity=saved.fingerprint,
                      parts={"window": window, "online": online}, save_every=100,
                      logger=context.logger, metrics=context.metrics)
state.open()                                       # last in load(): restores, or waits its turn
with state.turn():                                 # in infer(): one request at a time
    answers = [online.predict(row) for row in rows]
    state.stepped(len(rows))                       # saved at the end of the turn, every 100 steps
state.close()                                      # in close(): saves, hands over, lets go
```

A reload loads the new version beside the old one, and the old one answers what it was asked before.
So a version that finds another one of its own server at the folder loads without the state, and
takes it over with its first turn, when the other one has closed: from its memory, exactly, or from
the disk where the two are not in one process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import msgspec
import numpy as np

from jackfield import ModelLoadError, ModelNotReadyError
from jackfield_alibi._detect._steps import OnlineDetector

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps a second server out
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from jackfield import ModelMetrics

__all__ = ["DetectorState", "OnlineDetector", "Part"]

#: Begins a file; the number is that of its form.
_MAGIC = b"JFSTATE1"
_FILE, _PREVIOUS, _NEW = "state", "state.previous", "state.new"
_LOCK, _STEPS, _ASIDE = "lock", "steps", "state.damaged"
#: How long a version waits for the one before it, in seconds.
_PATIENCE_S = 60.0
_POLL_S = 0.02


def is_of_state(file: Path) -> bool:
    """Tell by its name whether a file is one of those below, wherever a state is kept."""
    return file.name in (_FILE, _PREVIOUS, _NEW, _LOCK, _STEPS) or file.name.startswith(_ASIDE)


class Part(Protocol):
    """Something that a detector remembers; `jackfield.window.Window` is one."""

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copy it."""

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Take a copy's place; raises ValueError if it does not fit, and changes nothing then."""


class _Array(msgspec.Struct, array_like=True):
    """An array on disk; objects are a list."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[Any]


class _Saved(msgspec.Struct):
    """A state as it is on disk."""

    #: Grows with each save.
    generation: int
    identity: str
    #: Steps since the detector began.
    steps: int
    #: Seconds since 1970.
    saved: float
    parts: dict[str, dict[str, _Array]]


class _DamagedError(Exception):
    """A file is no state, or is not whole."""


class DetectorState:
    """Keeps the parts of one detector on disk; see the module.

    Args:
        folder: Where; made if it is not there, with one inside for each model and version. None
            keeps the state in memory alone.
        model: The model's name.
        identity: Changes when the detector is another one: its state is not restored then.
        parts: What it remembers, by name.
        save_every: Steps from one save to the next.
        logger: The model's.
        metrics: The model's.
        version: The model's.
        patience_s: How long the first turn waits for the version before this one.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        model: str,
        identity: str,
        parts: Mapping[str, Part],
        save_every: int,
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
        metrics: ModelMetrics,
        version: str = "",
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self.folder: Path | None = None
        if folder is not None:
            # two models may have one artifact
            self.folder = folder / quote(f"{model}@{version}" if version else model, safe="@")
        self.model = model
        self.identity = identity
        #: Steps since the detector began, those of earlier processes included.
        self.steps = 0
        #: What went wrong with it: damaged, another detector's, not to be saved. Empty: nothing.
        self.problem = ""
        #: Steps that the last process took and did not save.
        self.lost_steps = 0
        self._parts = dict(parts)
        self._save_every = save_every
        self._logger = logger
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._place: _Place | None = None
        self._is_ours = folder is None
        self._is_closed = False
        self._generation = 0
        self._saved_steps = 0
        self._tried_steps = 0
        self._is_failing = False
        self._saves = metrics.counter("detector_state_saves", "States of the detector saved.")
        self._failures = metrics.counter(
            "detector_state_save_failures", "States of the detector that could not be saved."
        )
        self._fresh = metrics.counter(
            "detector_state_starts_anew", "Saved states that could not be gone on from."
        )
        self._lost = metrics.counter(
            "detector_state_lost_steps", "Steps taken before, and lost because they were not saved."
        )

    # ---- life ----

    def open(self) -> None:
        """Take the folder, and restore what is there; call it last in `load`.

        Raises:
            ModelLoadError: Another server holds the folder. Nothing has to be closed then.
        """
        if self.folder is None:
            return
        self._place = _Place.enter(self.folder, self)
        if self._place.is_first(self) and self._place.lock(self.model):
            self._begin(None)
        else:
            self._logger.info(
                "its state in '%s' is taken over when the version before it has closed", self.folder
            )

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Compute with the state: one thread at a time, in the order of the versions.

        Raises:
            ModelNotReadyError: The version before does not let go of the state.
        """
        with self._lock:
            if not self._is_ours:
                self._take_over()
            try:
                yield
            finally:
                if self.steps - self._tried_steps >= self._save_every:
                    self.save()

    def stepped(self, count: int) -> None:
        """Count steps; inside a turn."""
        self.steps += count
        if self._place is not None:
            self._place.note(self, self.steps)

    def save(self) -> bool:
        """Save now; a failure is logged and counted, and tried again `save_every` steps later.

        Returns:
            Whether all steps are on disk. A version whose turn has not come saves nothing.
        """
        with self._lock:
            if self._place is None or not self._is_ours or self.folder is None:
                return False
            if self._place.is_read_only:
                return False
            self._tried_steps = self.steps
            try:
                _write(self.folder, self._encode())
            # OSError: disk full, read-only. The others: a part that holds what no file can.
            except (OSError, TypeError, ValueError) as error:
                self._failures.inc()
                if not self._is_failing:
                    self.problem = f"its state can't be saved in '{self.folder}': {error}"
                    self._logger.error("%s; it goes on without", self.problem)
                self._is_failing = True
                return False
            self._saves.inc()
            self._saved_steps = self.steps
            if self._is_failing:
                self._is_failing, self.problem = False, ""
                self._logger.info("its state is saved again, at step %d", self.steps)
            return True

    def close(self) -> None:
        """Save, hand the state to the version that waits for it, and let go."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._place is None:
                return
            handed = None
            if self._is_ours:
                if self.steps != self._saved_steps:
                    self.save()
                handed = self._snapshot()
                self._is_ours = False
            self._place.leave(self, handed)

    def status(self) -> dict[str, str | int]:
        """Tell how it stands now."""
        return {**self.metadata(), "state_steps": self.steps}

    def metadata(self) -> dict[str, str | int]:
        """Tell how it began, as parameters of the model's metadata: these are read once."""
        told: dict[str, str | int] = {"state": "memory" if self.folder is None else "disk"}
        if self.lost_steps:
            told["state_lost_steps"] = self.lost_steps
        if self.problem:
            told["state_problem"] = self.problem
        return told

    # ---- restoring ----

    def _take_over(self) -> None:
        """Wait until it is this version's turn, and go on from where the one before ended."""
        place = self._place
        if place is None or self._is_closed:
            raise ModelNotReadyError(self.model, reason="it was closed, or never opened")
        deadline = time.monotonic() + self._patience_s
        if not place.await_turn(self, deadline):
            self._warn_of_steal(place)
        while not place.lock(self.model):
            if time.monotonic() > deadline:
                reason = f"the state in '{self.folder}' is held by {place.holder()}"
                raise ModelNotReadyError(self.model, reason=reason)
            time.sleep(_POLL_S)
        self._begin(place.take_handed())

    def _warn_of_steal(self, place: _Place) -> None:
        place.push_out_those_before(self)
        self._logger.error(
            "the version before it still computes after %g s; its state is taken from the disk",
            self._patience_s,
        )

    def _begin(self, handed: _Saved | None) -> None:
        self._is_ours = True
        if self.folder is None or self._place is None:
            return
        noted = self._place.noted()
        saved = handed or self._read()
        if saved is not None and self._restore(saved):
            self.steps = self._tried_steps = saved.steps
            self._generation = saved.generation
            # of the one before it nobody knows whether it could save
            self._saved_steps = -1 if handed else saved.steps
            self._logger.info("it goes on from step %d", self.steps)
        if (saved is None or saved.identity == self.identity) and noted > self.steps:
            self.lost_steps = noted - self.steps
            self._lost.inc(self.lost_steps)
            self._logger.warning(
                "%d steps after step %d were not saved before the server ended, and are lost",
                self.lost_steps,
                self.steps,
            )
        self._place.note(self, self.steps)
        if self._place.is_read_only:
            self.problem = f"its state can't be saved in '{self.folder}': {self._place.problem}"
            self._failures.inc()
            self._logger.error("%s; it goes on without", self.problem)

    def _restore(self, saved: _Saved) -> bool:
        if saved.identity != self.identity:
            self._start_anew(
                f"the state in '{self.folder}' is another detector's, or of other settings"
            )
            return False
        before = {name: part.snapshot() for name, part in self._parts.items()}
        try:
            if saved.parts.keys() != self._parts.keys():
                raise ValueError(f"it has {sorted(saved.parts)}, not {sorted(self._parts)}")
            for name, part in self._parts.items():
                part.restore({key: _array(each) for key, each in saved.parts[name].items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            for name, part in self._parts.items():
                part.restore(before[name])
            self._start_anew(f"the state in '{self.folder}' does not fit the detector ({error})")
            return False
        return True

    def _read(self) -> _Saved | None:
        """Find the newest file that is whole; the damaged ones are kept aside."""
        folder = self.folder
        if folder is None or self._place is None:
            return None
        found: list[_Saved] = []
        damaged: list[str] = []
        for name in (_FILE, _PREVIOUS, _NEW):
            try:
                found.append(_decode((folder / name).read_bytes()))
            except FileNotFoundError:
                continue
            except (OSError, _DamagedError) as error:
                if name != _NEW:  # one that was cut off while it was written is no news
                    damaged.append(f"'{name}': {error}; {_put_aside(folder / name)}")
        newest = max(found, key=lambda each: each.generation, default=None)
        if damaged and newest is not None:
            self._logger.error(
                "its state is damaged (%s); it goes on from the one before, of step %d",
                "; ".join(damaged),
                newest.steps,
            )
            self.problem = f"its state was damaged ({'; '.join(damaged)}); an older one is used"
        elif damaged:
            self._start_anew(f"its state is damaged ({'; '.join(damaged)})")
        return newest

    def _start_anew(self, reason: str) -> None:
        self.problem = f"{reason}; it started anew"
        self._fresh.inc()
        folder, place = self.folder, self._place
        if folder is not None and place is not None and not place.is_read_only:
            for name in (_FILE, _PREVIOUS):
                if (folder / name).exists():
                    reason = f"{reason}; {_put_aside(folder / name)}"
        self._logger.error("%s; it starts anew, with no memory of earlier rows", reason)

    # ---- saving ----

    def _snapshot(self) -> _Saved:
        self._generation += 1
        parts = {
            name: {key: _flat(each) for key, each in part.snapshot().items()}
            for name, part in self._parts.items()
        }
        return _Saved(self._generation, self.identity, self.steps, time.time(), parts)

    def _encode(self) -> bytes:
        body = msgspec.msgpack.encode(self._snapshot())
        return _MAGIC + hashlib.sha256(body).digest() + body


class _Place:
    """A folder of state as one process has it: its lock, and the versions that are at it."""

    _all: dict[Path, _Place] = {}  # noqa: RUF012  the process has one set of locks
    _entering = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: Oldest first. Weak: a version that was never closed counts until it is gone.
        self._states: list[weakref.ref[DetectorState]] = []
        self._changed = threading.Condition()
        self._handed: _Saved | None = None
        self._lock_fd = self._steps_fd = -1
        #: Nothing can be written there, and so nobody else writes there.
        self.is_read_only = False
        self.problem = ""

    @classmethod
    def enter(cls, folder: Path, state: DetectorState) -> _Place:
        """Line up at a folder.

        Raises:
            ModelLoadError: Another server holds it.
        """
        key = folder.absolute()
        with cls._entering:
            place = cls._all.get(key)
            if place is None:
                place = cls(key)
                place._prepare(state.model)
                cls._all[key] = place
            with place._changed:
                place._states.append(weakref.ref(state))
            return place

    def _prepare(self, model: str) -> None:
        """Open the folder, and take its lock if nobody has it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock_fd = os.open(self._folder / _LOCK, flags, 0o666)
            self._steps_fd = os.open(self._folder / _STEPS, flags, 0o666)
        except OSError as error:
            self.is_read_only, self.problem = True, error.strerror or str(error)
            self._let_go()
            return
        if not self.lock(model) and self._holder().get("server") != _server_pid():
            holder = self.holder()
            self._let_go()
            raise ModelLoadError(
                f"its state in '{self._folder}' is held by {holder}; a detector has one owner: "
                "stop that server, or give this one a folder of its own"
            )

    def lock(self, model: str) -> bool:
        """Take the lock, if this process has not got it and nobody else has."""
        if self.is_read_only or fcntl is None:
            return True
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        record = {
            "model": model,
            "pid": os.getpid(),
            "server": _server_pid(),
            "host": socket.gethostname(),
        }
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, json.dumps(record).encode(), 0)
        return True

    def holder(self) -> str:
        """Name who holds the lock."""
        record = self._holder()
        if not record:
            return "another process"
        return f"process {record.get('pid')} on '{record.get('host')}' ('{record.get('model')}')"

    def _holder(self) -> dict[str, object]:
        try:
            record = json.loads(os.pread(self._lock_fd, 4096, 0))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    # ---- whose turn it is ----

    def is_first(self, state: DetectorState) -> bool:
        with self._changed:
            return self._first() is state

    def _first(self) -> DetectorState | None:
        self._states = [each for each in self._states if each() is not None]
        return self._states[0]() if self._states else None

    def await_turn(self, state: DetectorState, deadline: float) -> bool:
        """Wait until those before have closed; False if the time is over first."""
        with self._changed:
            while self._first() is not state:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 1.0))  # those that are just gone tell nobody
            return True

    def push_out_those_before(self, state: DetectorState) -> None:
        """Let a version that hangs own nothing: it saves and hands over no more."""
        with self._changed:
            while (first := self._first()) is not state and first is not None:
                first._is_ours = False
                first._is_closed = True
                del self._states[0]

    def leave(self, state: DetectorState, handed: _Saved | None) -> None:
        """Go, and give the state to who waits for it; the last one lets the folder go."""
        with _Place._entering:
            with self._changed:
                self._states = [each for each in self._states if each() not in (None, state)]
                if handed is not None:
                    self._handed = handed if self._states else None
                self._changed.notify_all()
                is_last = not self._states
            if is_last and _Place._all.get(self._folder) is self:
                del _Place._all[self._folder]
                self._let_go()

    def take_handed(self) -> _Saved | None:
        with self._changed:
            handed, self._handed = self._handed, None
            return handed

    # ---- steps ----

    def note(self, state: DetectorState, steps: int) -> None:
        """Write down how many steps there were: it outlives a process that is killed."""
        if self._steps_fd >= 0 and state._is_ours:
            with contextlib.suppress(OSError):
                os.pwrite(self._steps_fd, struct.pack("<q", steps), 0)

    def noted(self) -> int:
        with contextlib.suppress(OSError, struct.error):
            return int(struct.unpack("<q", os.pread(self._steps_fd, 8, 0))[0])
        return 0

    def _let_go(self) -> None:
        for fd in (self._lock_fd, self._steps_fd):
            if fd >= 0:
                os.close(fd)
        self._lock_fd = self._steps_fd = -1


def _server_pid() -> int:
    """Find the server's process: this one, or of a model in a process of its own the parent."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    is_child = spec is not None and spec.name.startswith("jackfield._process")
    return os.getppid() if is_child else os.getpid()


# ---- files ----


def _write(folder: Path, content: bytes) -> None:
    """Replace the state at once: whoever is killed at any point leaves a whole one."""
    new = folder / _NEW
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            (folder / _FILE).replace(folder / _PREVIOUS)
        new.replace(folder / _FILE)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make the new names last; not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _decode(content: bytes) -> _Saved:
    start = len(_MAGIC) + hashlib.sha256().digest_size
    if not content.startswith(_MAGIC):
        raise _DamagedError(f"it is no state: it begins with {content[: len(_MAGIC)]!r}")
    body = memoryview(content)[start:]
    if hashlib.sha256(body).digest() != content[len(_MAGIC) : start]:
        raise _DamagedError("its checksum is wrong")
    try:
        return msgspec.msgpack.decode(body, type=_Saved)
    except msgspec.DecodeError as error:
        raise _DamagedError(str(error)) from error


def _put_aside(file: Path) -> str:
    """Rename a file that is of no use, so that somebody can look at it."""
    aside = file.with_name(_ASIDE)
    number = 1
    while aside.exists():
        number += 1
        aside = file.with_name(f"{_ASIDE}.{number}")
    try:
        file.rename(aside)
    except OSError as error:
        return f"it could not be kept aside ({error.strerror})"
    return f"it is kept as '{aside}'"


def _flat(array: NDArray[Any]) -> _Array:
    """Turn an array into what a file can hold; raises TypeError later for objects it can't."""
    if array.dtype.kind == "O":
        return _Array("O", array.shape, array.ravel().tolist())
    return _Array(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())


def _array(flat: _Array) -> NDArray[Any]:
    if isinstance(flat.data, list):
        array = np.empty(len(flat.data), object)
        array[:] = flat.data
        return array.reshape(flat.shape)
    return np.frombuffer(flat.data, np.dtype(flat.dtype)).reshape(flat.shape).copy()
