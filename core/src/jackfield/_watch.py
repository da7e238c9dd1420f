"""Watch the models' files: tell which models changed, came or went, once their files are quiet.

The state of all files decides, not the events: watchfiles, where it is installed, only says when to
look. What is being copied changes from look to look, and is told when it does not any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from jackfield._samples import sample_files
from jackfield.errors import JackfieldError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from jackfield._repository import ModelSource, Repository

logger = logging.getLogger("jackfield")

#: What tells the states of a model's files apart, in any process: a digest of the path, time of
#: change, size and inode of each.
Fingerprint: TypeAlias = str

#: What the server and its models write themselves, beside what is hidden.
_OWN = ("__pycache__", "jackfield-")
#: Longest time between two looks where events come, in seconds: a network's file system has none.
_LONGEST_S = 60.0
#: Nothing says when the system begins to tell of changes; so many looks are made until then.
_FIRST_LOOKS = 5
#: A look may take one part of so many of the time.
_SHARE = 20


class Changes:
    """Finds out, look by look, which models changed and are quiet; no clock, no files.

    Args:
        first: What was loaded: by model, the state of its files.
    """

    def __init__(self, first: Mapping[str, Fingerprint]) -> None:
        self._told = dict(first)
        self._seen = dict(first)

    def look(self, found: Mapping[str, Fingerprint]) -> list[str]:
        """Compare with the looks before.

        Returns:
            The models whose files are other than when they were told last, and the same as at the
            look before; those that are gone among them.
        """
        quiet = [
            name
            for name in sorted({*found, *self._told, *self._seen})
            if self._told.get(name) != found.get(name) == self._seen.get(name)
        ]
        for name in quiet:
            if name in found:
                self._told[name] = found[name]
            else:
                del self._told[name]
        self._seen = dict(found)
        return quiet

    @property
    def told(self) -> Mapping[str, Fingerprint]:
        """What was told last, by model."""
        return self._told

    @property
    def is_pending(self) -> bool:
        """Whether something changed that was not told yet."""
        return self._seen != self._told


class Watcher:
    """Watches the models of one repository.

    Args:
        repository: Where they lie.
        on_changed: Awaited with the names of models that changed, came or went. It is not told of
            them again before their next change, whatever comes of it.
        interval_s: How long files have to be quiet, and the time between two looks where nothing
            tells of changes.
    """

    def __init__(
        self,
        repository: Repository,
        on_changed: Callable[[Sequence[str]], Awaitable[object]],
        *,
        interval_s: float,
    ) -> None:
        self._repository = repository
        self._on_changed = on_changed
        self._interval_s = interval_s
        self._changes = Changes({})
        self._event = asyncio.Event()
        #: Whether some files lie where no event tells of them.
        self._is_deaf = False
        #: Which folders are served: device and inode of each. Empty while they can't be listed.
        self._folders: tuple[tuple[int, int], ...] = ()
        #: What the last look took, in seconds.
        self._took_s = 0.0

    async def begin(self, told: Mapping[str, Fingerprint] | None = None) -> None:
        """Take the files as they are for what is loaded; to be called before that is.

        Args:
            told: What another watcher, in whose place this one comes, had told before.

        Raises:
            SettingsError: As `Repository.scan` does.
        """
        self._changes = Changes(await asyncio.to_thread(self._take) if told is None else told)

    @property
    def told(self) -> Mapping[str, Fingerprint]:
        """What was told last, by model."""
        return self._changes.told

    async def run(self) -> None:
        """Watch until it is cancelled."""
        listener, heard, looks = asyncio.create_task(self._listen()), self._folders, 0
        try:
            while True:
                await self._look()
                if heard != self._folders:  # the system tells of the folder, not of its path
                    await _end(listener)
                    listener, heard, looks = asyncio.create_task(self._listen()), self._folders, 0
                looks += 1
                is_deaf = listener.done() or self._is_deaf or looks <= _FIRST_LOOKS
                if is_deaf or self._changes.is_pending:
                    await asyncio.sleep(max(self._interval_s, self._took_s * _SHARE))
                else:
                    await asyncio.sleep(self._took_s * _SHARE)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LONGEST_S):
                            await self._event.wait()
                self._event.clear()
        finally:
            await _end(listener)

    async def _look(self) -> None:
        """Look once, and tell what is quiet."""
        try:
            found = await asyncio.to_thread(self._take)
        except (JackfieldError, OSError) as error:  # files come and go at this very moment
            logger.debug("the models' files can't be listed: %s", error)
            self._is_deaf, self._folders = True, ()
            return
        if changed := self._changes.look(found):
            await self._on_changed(changed)

    def _take(self) -> dict[str, Fingerprint]:
        """Get the state of all models' files."""
        began = time.monotonic()
        sources: dict[str, list[ModelSource]] = {}
        for source in self._repository.scan(must_exist=True):
            sources.setdefault(source.name, []).append(source)
        found = {name: fingerprint(each) for name, each in sources.items()}
        places = {part for each in sources.values() for one in each for part in one.parts}
        paths = self._repository.paths
        stats = [os.stat(path) for path in paths if path.is_dir()]
        self._folders = tuple((stat.st_dev, stat.st_ino) for stat in stats)
        # events come by where files are, not by links that lead there; one may lead to itself
        real = [Path(os.path.realpath(part)) for part in places]
        self._is_deaf = not all(any(part.is_relative_to(path) for path in paths) for part in real)
        self._took_s = time.monotonic() - began
        return found

    async def _listen(self) -> None:
        """Set the event when files change; ends where nothing can tell that."""
        folders = [path for path in self._repository.paths if path.is_dir()]
        if len(folders) < len(self._repository.paths) or not folders:
            return  # a file's folder may be anything, and large
        try:
            from watchfiles import awatch
        except ImportError:
            return
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of each event
        try:
            async for _ in awatch(*folders, watch_filter=None, step=50, debounce=200):
                self._event.set()
        except (OSError, RuntimeError) as error:  # too many folders for the system, or one is gone
            logger.warning(
                "the system tells of no more changes (%s); files are looked at every %g s",
                error,
                self._interval_s,
            )
        finally:
            self._event.set()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def fingerprint(sources: Iterable[ModelSource]) -> Fingerprint:
    """Get the state of the files that the versions of a model are made of."""
    places = {part for source in sources for part in (*source.parts, *sample_files(source))}
    states = {each for place in places for each in _states(place)}
    return hashlib.blake2b(repr(sorted(states)).encode(errors="surrogatepass")).hexdigest()


def _states(place: Path) -> Iterator[tuple[str, int, int, int]]:
    if not place.is_dir():
        yield from _state(str(place))
        return
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(place, followlinks=True):
        with contextlib.suppress(OSError):  # it is gone meanwhile
            stat = os.stat(folder)
            if (stat.st_dev, stat.st_ino) in seen:  # by a link that may lead back
                folders.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
        folders[:] = [name for name in folders if not _is_own(name)]
        for name in files:
            if not _is_own(name):
                yield from _state(os.path.join(folder, name))


def _state(path: str) -> Iterator[tuple[str, int, int, int]]:
    with contextlib.suppress(OSError):  # it is gone meanwhile
        stat = os.stat(path)
        yield path, stat.st_mtime_ns, stat.st_size, stat.st_ino


def _is_own(name: str) -> bool:
    return name.startswith((".", *_OWN))
