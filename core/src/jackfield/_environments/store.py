"""Keep what was made: one folder each, used only once it is whole, made by one process at a time.

A folder is whole when it has its record, which is written last. Whoever makes it holds the lock of
its key; whoever uses it holds its record open, which bars pruning. The kernel lets go of both when
a process dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from jackfield._cache_folder import Lease, touch, try_lock
from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

logger = logging.getLogger("jackfield")

#: Longest wait for another process that makes the same, and longest run of one tool, in seconds.
TIMEOUT_S = 1800.0
_RECORD = "record.json"
_POLL_S = 0.1

Kind = Literal["environment", "overlay", "tarball", "wheel"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What was made."""

    kind: Kind
    description: str
    #: Version of its Python; empty for a wheel.
    python: str = ""
    #: What is installed, as ``numpy==1.26.4``; of a URL its host.
    packages: list[str] = []


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One folder of the cache, for `jackfield cache`."""

    key: str
    kind: Kind
    description: str
    python: str
    packages: list[str]
    folder: str
    size_bytes: int
    #: Seconds since 1970, as are those of the last use.
    made: float
    used: float


class Resolution(msgspec.Struct, frozen=True):
    """What a request was resolved to, so that a restart asks no index."""

    key: str
    #: A line for each package, as ``uv pip sync`` reads them.
    requirements: list[str] = []


class _Stored(msgspec.Struct, frozen=True):
    record: Record
    size_bytes: int
    made: float


@dataclass(frozen=True)
class Made:
    """A folder that is whole."""

    folder: Path
    record: Record
    lease: Lease


class Store:
    """The folders in one cache folder, which several servers may share.

    Args:
        folder: The cache folder.
        check: Called while another one makes what is wanted; ends the wait by what it raises.
    """

    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._made = folder / "made"
        self._resolutions = folder / "resolutions"
        self._locks = folder / "locks"

    def find(self, key: str) -> Made | None:
        """Give what was made, if it is whole; it counts as used.

        One whose record can't be read is not whole: it is made anew.
        """
        record = self._made / key / _RECORD
        try:
            descriptor = os.open(record, os.O_RDONLY)
        except FileNotFoundError:
            return None
        lease = Lease(descriptor)
        if not try_lock(descriptor, shared=True) or not record.exists():
            return None  # it is being pruned
        touch(record)
        try:
            stored = msgspec.json.decode(record.read_bytes(), type=_Stored)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return Made(record.parent, stored.record, lease)

    def make(self, key: str, build: Callable[[Path, int], Record]) -> Made:
        """Give what was made, or make it.

        Args:
            key: Its name.
            build: Gets the empty folder, and the lock's descriptor, which tools that write into
                it inherit: should this process be killed, nobody else begins while they write.

        Raises:
            ModelLoadError: From `build`, or another process takes too long.
        """
        if found := self.find(key):
            return found
        folder = self._made / key
        with self.lock(key) as descriptor:
            if found := self.find(key):
                return found
            began = time.monotonic()
            if (folder / _RECORD).exists():
                logger.warning("%s has a record that can't be read; it is made anew", folder)
            _remove(folder)  # what is left of one that was killed
            folder.mkdir(parents=True)
            try:
                record = build(folder, descriptor)
                stored = _Stored(record, _size(folder), time.time())
                _write(folder / _RECORD, msgspec.json.encode(stored))
            except BaseException:
                _remove(folder)
                raise
            took_s = time.monotonic() - began
            logger.info("%s: made in %.1f s", record.description, took_s)
            found = self.find(key)
        if found is None:
            raise ModelLoadError(f"{folder} was removed by another process; load again")
        return found

    def discard(self, key: str) -> None:
        """Remove what was made, since it can't be used any more."""
        with self.lock(key):
            (self._made / key / _RECORD).unlink(missing_ok=True)
            _remove(self._made / key)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[int]:
        """Hold a lock between processes; gives its descriptor.

        Raises:
            ModelLoadError: Another process holds it too long.
        """
        self._locks.mkdir(exist_ok=True)
        descriptor = os.open(self._locks / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _wait_for_lock(descriptor, name, self._check)
            yield descriptor
        finally:
            os.close(descriptor)  # a tool that still runs keeps the lock by its own copy

    def resolution(self, request: str) -> Resolution | None:
        """Give what a request was resolved to before."""
        path = self._resolutions / f"{request}.json"
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Resolution)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        touch(path)
        return found

    def recall(self, request: str) -> Made | None:
        """Give what was made of a request before; no lock is taken, nor need one be writable."""
        resolution = self.resolution(request)
        return self.find(resolution.key) if resolution else None

    def keep_resolution(self, request: str, resolution: Resolution) -> None:
        """Keep what a request was resolved to."""
        self._resolutions.mkdir(exist_ok=True)
        _write(self._resolutions / f"{request}.json", msgspec.json.encode(resolution))

    def entries(self) -> list[Entry]:
        """List what is whole, the latest used last."""
        found = []
        for record in self._made.glob(f"*/{_RECORD}"):
            with contextlib.suppress(OSError, msgspec.DecodeError):  # pruned meanwhile
                used = record.stat().st_mtime
                stored = msgspec.json.decode(record.read_bytes(), type=_Stored)
                found.append(
                    Entry(
                        key=record.parent.name,
                        folder=str(record.parent),
                        size_bytes=stored.size_bytes,
                        made=stored.made,
                        used=used,
                        **msgspec.structs.asdict(stored.record),
                    )
                )
        return sorted(found, key=lambda entry: entry.used)

    def prune(self, unused_s: float) -> list[str]:
        """Remove what no process uses, nor has for a time; and what was left half-made.

        Args:
            unused_s: The time, in seconds.

        Returns:
            The keys removed.
        """
        latest = time.time() - unused_s
        removed = [each.name for each in self._made.glob("*") if self._prune(each, latest)]
        for path in self._resolutions.glob("*"):
            if path.stat().st_mtime <= latest:
                path.unlink(missing_ok=True)
        return sorted(removed)

    def _prune(self, folder: Path, latest: float) -> bool:
        """Remove one folder, unless it is made or used right now."""
        record = folder / _RECORD
        self._locks.mkdir(exist_ok=True)
        making = os.open(self._locks / folder.name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not try_lock(making):
                return False
            with contextlib.suppress(FileNotFoundError):
                using = os.open(record, os.O_RDONLY)
                try:
                    if os.fstat(using).st_mtime > latest or not try_lock(using):
                        return False
                    record.unlink()
                finally:
                    os.close(using)
            _remove(folder)
            return True
        finally:
            os.close(making)


def _wait_for_lock(descriptor: int, name: str, check: Callable[[], None]) -> None:
    began = time.monotonic()
    is_told = False
    while not try_lock(descriptor):
        if time.monotonic() - began > TIMEOUT_S:
            raise ModelLoadError(
                f"another process has been making {name} for more than {TIMEOUT_S:g} s"
            )
        if not is_told:
            logger.info("environment %s: another process makes it; waiting", name)
            is_told = True
        check()
        time.sleep(_POLL_S)


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, for the owner's eyes."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _remove(folder: Path) -> None:
    """Remove a folder; what can't be removed now is removed before it is made again."""
    shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    """Sum the sizes of the files, in bytes."""
    return sum(
        os.lstat(os.path.join(where, name)).st_size
        for where, _, names in os.walk(folder)
        for name in names
    )
