"""The cache of fetched artifacts: a folder for each content, and what each URI had last.

Several servers may share it: whoever fetches a URI holds its lock. What is being fetched is renamed
into its place when all of it is there, so that nothing half is ever found.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import time
from typing import IO, TYPE_CHECKING, Literal

import msgspec

from jackfield._cache_folder import Lease, cache_folder, touch, try_lock
from jackfield._sources.digest import hash_file, hash_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

logger = logging.getLogger("jackfield")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a URI had when it was fetched last."""

    #: The URI as far as it is no secret, for people who look into the cache.
    shown: str
    #: Of its listing; empty where that can't tell whether anything has changed.
    tag: str
    #: Of the file, or of the folder by its rule.
    sha256: str
    #: Where it is, below the cache; set by the cache.
    place: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One content of the cache, for `jackfield cache`."""

    key: str
    #: What was fetched, or a copy of a local file that may be mapped.
    kind: Literal["artifact", "copy"]
    #: The URIs that had it last, as far as they are no secret; a copy's name.
    description: str
    folder: str
    size_bytes: int
    #: Seconds since 1970, as are those of the last use.
    made: float
    used: float


class Cache:
    """The folder of fetched artifacts."""

    def __init__(self) -> None:
        self._root = cache_folder("artifacts")

    @contextlib.contextmanager
    def lock(self, key: str, shown: str) -> Iterator[None]:
        """Have a URI for oneself, among all threads and processes; waits for who has it."""
        folder = self._folder("uris")
        with (folder / f"{key}.lock").open("a+b") as file:
            if not _try_lock(file):
                logger.info("waiting for another server or model that fetches '%s'", shown)
                _lock(file)
            yield

    def find(self, key: str) -> tuple[Record, Path] | None:
        """Find what was fetched from a URI last, if it is still there."""
        try:
            record = msgspec.json.decode(self._record(key).read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError):
            return None
        place = self._root / record.place
        return (record, place) if place.exists() else None

    def hold(self, place: Path) -> Lease | None:
        """Keep what was fetched from being pruned; it counts as used.

        Returns:
            None where it is gone, or about to.
        """
        home = self._home(place)
        if sys.platform == "win32":  # no folder can be opened there
            return Lease(os.open(os.devnull, os.O_RDONLY))
        try:
            descriptor = os.open(home, os.O_RDONLY)
        except FileNotFoundError:
            return None
        lease = Lease(descriptor)
        if not try_lock(descriptor, shared=True) or not place.exists():
            return None
        touch(home)
        return lease

    def forget(self, place: Path) -> None:
        """Remove what was changed since it was fetched; who has it open keeps it."""
        home = self._home(place)
        gone = self._folder("partial") / f"{home.name}.changed"
        shutil.rmtree(gone, ignore_errors=True)
        home.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    @contextlib.contextmanager
    def begin(self, key: str) -> Iterator[Path]:
        """Give an empty folder to fetch into; it is gone afterwards.

        What a server that was killed left of the same URI is removed.
        """
        folder = self._folder("partial") / key
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(
        self,
        folder: Path,
        names: tuple[str, ...],
        sha256s: Mapping[str, str],
        *,
        is_file: bool,
        record: Record,
        key: str,
    ) -> Path:
        """Move what was fetched into its place, and note that the URI has it.

        Args:
            folder: All files, and nothing else.
            names: What the file or folder is called, and, before that, what it is in.
            sha256s: Path of each file -> its SHA-256.
            is_file: It is one file.
            record: What is noted, but for the place.
            key: Of the URI.

        Returns:
            The place: the file, or the folder.
        """
        whole = hash_files(sha256s)
        called = "/".join(names[:-1] if is_file else names) or "artifact"
        content = hashlib.sha256(f"{called}\n{whole}".encode()).hexdigest()
        home = self._folder("content") / content
        if not home.exists():
            _make_lasting(folder)
            inner = folder.with_name(f"{folder.name}.content")
            shutil.rmtree(inner, ignore_errors=True)
            place = inner / called
            place.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(place)
            try:
                inner.rename(home)
            except OSError:  # another URI had the same content at the same moment
                shutil.rmtree(inner, ignore_errors=True)
                if not home.exists():
                    raise
        place = home / called
        if is_file:
            place /= next(iter(sha256s))
        where = place.relative_to(self._root).as_posix()
        file = self._record(key)
        new = file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, place=where)))
        new.replace(file)
        return place

    def holds(self, file: Path) -> bool:
        """Tell whether a file was fetched, or is a copy, and is written by nobody."""
        place = file.resolve()
        return any((self._root / kind).resolve() in place.parents for kind in ("content", "copies"))

    def keep_copy(self, file: Path) -> Path:
        """Give a copy of a file that nobody writes to; all that ask get the same."""
        sha256 = hash_file(file)
        home = self._folder("copies") / sha256
        place = home / file.name
        with self.lock(f"copy-{sha256}", file.name):
            if not place.exists():
                home.mkdir(exist_ok=True)
                new = home / ".new"
                shutil.copyfile(file, new)
                if hash_file(new) != sha256:
                    new.unlink()
                    return self.keep_copy(file)  # it was changed meanwhile
                new.chmod(0o400)
                new.rename(place)
            touch(home)
        return place

    def entries(self) -> list[Entry]:
        """List what was fetched, and copies, the latest used last."""
        shown: dict[str, list[str]] = {}
        for record in self._records().values():
            shown.setdefault(record.place.split("/")[1], []).append(record.shown)
        found = []
        for kind, folder in (("artifact", "content"), ("copy", "copies")):
            for home in (self._root / folder).glob("*"):
                with contextlib.suppress(OSError, StopIteration):  # pruned meanwhile
                    inside = next(home.iterdir())
                    uris = ", ".join(sorted(shown.get(home.name, []))) or "what no URI has any more"
                    found.append(
                        Entry(
                            key=home.name,
                            kind="artifact" if kind == "artifact" else "copy",
                            description=uris if kind == "artifact" else f"copy of {inside.name}",
                            folder=str(home),
                            size_bytes=_size(home),
                            made=inside.stat().st_mtime,
                            used=home.stat().st_mtime,
                        )
                    )
        return sorted(found, key=lambda entry: entry.used)

    def prune(self, unused_s: float) -> list[str]:
        """Remove what no server has fetched, nor used for a time; and what was left half-fetched.

        A copy that a server has mapped stays in its memory.

        Args:
            unused_s: The time, in seconds.

        Returns:
            The keys removed.
        """
        latest = time.time() - unused_s
        removed = []
        for home in (self._root / "content").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another one prunes, too
                if home.stat().st_mtime <= latest and self._prune(home):
                    removed.append(home.name)
        for home in (self._root / "copies").glob("*"):
            with self._trying(f"copy-{home.name}") as is_free:
                if is_free and home.stat().st_mtime <= latest:
                    shutil.rmtree(home, ignore_errors=True)
                    removed.append(home.name)
        for half in (self._root / "partial").glob("*"):
            with self._trying(half.name.partition(".")[0]) as is_free:
                if is_free:
                    shutil.rmtree(half, ignore_errors=True)
        for file, record in self._records().items():
            if not (self._root / record.place).exists():
                file.unlink(missing_ok=True)
        return sorted(removed)

    def _prune(self, home: Path) -> bool:
        """Remove one content, unless a server has it."""
        gone = self._folder("partial") / f"{home.name}.pruned"
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.ExitStack() as opened:
            if sys.platform != "win32":
                descriptor = os.open(home, os.O_RDONLY)
                opened.callback(os.close, descriptor)
                if not try_lock(descriptor):
                    return False
            home.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        return True

    @contextlib.contextmanager
    def _trying(self, key: str) -> Iterator[bool]:
        """Have a URI or copy for oneself, if nobody else has it; tells whether."""
        try:
            file = (self._root / "uris" / f"{key}.lock").open("r+b")
        except FileNotFoundError:  # nobody ever had
            yield True
            return
        with file:
            yield _try_lock(file)

    def _records(self) -> dict[Path, Record]:
        """Read what each URI had last, by its file."""
        found = {}
        for file in (self._root / "uris").glob("*.json"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                found[file] = msgspec.json.decode(file.read_bytes(), type=Record)
        return found

    def _home(self, place: Path) -> Path:
        """Give the folder of a content, of what lies in it."""
        return self._root / "content" / place.relative_to(self._root).parts[1]

    def _record(self, key: str) -> Path:
        return self._folder("uris") / f"{key}.json"

    def _folder(self, name: str) -> Path:
        folder = self._root / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def _make_lasting(folder: Path) -> None:
    """Have all on disk before it is renamed, and writable to nobody: files may be mapped."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
            file.chmod(0o400)


def _size(folder: Path) -> int:
    """Sum the sizes of the files, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _lock(file: IO[bytes]) -> None:
        while True:
            with contextlib.suppress(OSError):  # it gives up after ten seconds
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                return

else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)
