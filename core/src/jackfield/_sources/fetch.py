"""Fetch what a URI names, once: list, compare with what is cached, fetch, hash, keep."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import logging
import re
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from jackfield._sources.address import Address, is_below, parse, redact
from jackfield._sources.cache import Cache, Record
from jackfield._sources.digest import hash_artifact, hash_file, hash_files, is_compiled
from jackfield._sources.progress import Progress, too_large
from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from jackfield._cache_folder import Lease
    from jackfield.hookspecs import ArtifactSourceSpec
    from jackfield.source import ArtifactSource, Listing, RemoteFile

logger = logging.getLogger("jackfield")

_T = TypeVar("_T")

#: Most files of one artifact.
_MAX_FILES = 10_000
#: Files that are fetched at the same time.
_AT_ONCE = 4
#: Seconds before each further try.
_PAUSES_S = (0.5, 1.0, 2.0)
#: Seconds after which a listing that failed is not tried again.
_SHORT_S = 5.0
#: Tries of all of it, where the store changed it meanwhile.
_ROUNDS = 3
#: Contents of a URI that are not pruned: the last ones that this server fetched.
_HELD = 8
#: Other tries would fail as well.
_FINAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.EFBIG}


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the server's settings say about fetching; they describe each."""

    options: Mapping[str, Mapping[str, object]] = {}
    trusted: tuple[str, ...] = ()
    max_bytes: int = 64 * 1024**3
    wait_s: float = 30.0
    timeout_s: float = 3600.0
    serves_offline: bool = True
    #: Seconds before each further try of a file.
    pauses_s: tuple[float, ...] = _PAUSES_S


class Fetched(NamedTuple):
    """What a URI named, on this machine."""

    #: A file or folder of the cache; nobody writes to it.
    place: Path
    #: The operator consents to run code that it may carry: by a setting, or by its SHA-256.
    is_trusted: bool


class Sources:
    """Fetches what URIs name; its methods block, and may be called in any thread.

    Args:
        specs: Scheme -> what fetches it.
        settings: Limits and the operator's consent.
    """

    def __init__(
        self, specs: Mapping[str, ArtifactSourceSpec], settings: SourceSettings | None = None
    ) -> None:
        self._specs = specs
        self._settings = settings or SourceSettings()
        #: Keep from pruning what a server may load again, as when a model's process has died: the
        #: last contents of each URI. Each has a file open.
        self._leases: dict[str, dict[Path, Lease]] = {}

    def knows(self, scheme: str) -> bool:
        """Tell whether some source fetches URIs of a scheme."""
        return scheme in self._specs

    def fetch(self, uri: str, sha256: str = "") -> Fetched:
        """Fetch a URI, or find it in the cache as it is now.

        Args:
            uri: Its end may be ``#sha256=…``.
            sha256: Of the file, or of the folder by its rule; empty for any.

        Raises:
            ModelLoadError: It can't be fetched, is over a limit, or has another SHA-256.
        """
        address = parse(uri)
        pinned = sha256.lower() or address.sha256
        if address.sha256 and address.sha256 != pinned:
            raise ModelLoadError(f"two SHA-256 are pinned for '{address.shown}'")
        is_trusted = bool(pinned) or any(
            is_below(address, prefix) for prefix in self._settings.trusted
        )
        cache = Cache()
        with cache.lock(address.key, address.shown), _telling_disk(address):
            place = self._provide(cache, address, pinned)
            while not (lease := cache.hold(place)):  # it was pruned as it was found
                place = self._provide(cache, address, pinned)
            leases = self._leases.setdefault(address.key, {})
            leases.pop(place, None)
            leases[place] = lease
            if len(leases) > _HELD:
                del leases[next(iter(leases))]
        return Fetched(place, is_trusted)

    def _provide(self, cache: Cache, address: Address, pinned: str) -> Path:
        return self._find(cache, address, pinned) or self._fetch(cache, address, pinned)

    def _find(self, cache: Cache, address: Address, pinned: str) -> Path | None:
        """Find what is pinned in the cache: nobody has to be asked about that."""
        found = cache.find(address.key)
        if not pinned or found is None or found[0].sha256 != pinned:
            return None
        if hash_artifact(found[1]) != pinned:
            logger.warning(
                "'%s' was changed in the cache ('%s'); fetching it again", address.shown, found[1]
            )
            cache.forget(found[1])
            return None
        return found[1]

    def _fetch(self, cache: Cache, address: Address, pinned: str) -> Path:
        found = cache.find(address.key)
        try:
            source = self._open(address)
            listing = self._list(source, address)
        except (ConnectionError, TimeoutError) as error:
            return self._offline(address, found, pinned, error)
        tag = _tag(listing)
        if found and tag and found[0].tag == tag and not pinned:
            logger.info("'%s' is unchanged; '%s' is used", address.shown, found[1])
            return found[1]
        if not tag:
            logger.info(
                "'%s' tells no ETag or time of change: it is fetched at each start", address.shown
            )
        for _ in range(_ROUNDS):
            with cache.begin(address.key) as folder:
                before, sha256s = listing, {}
                try:
                    sha256s = self._fetch_files(source, address, listing, folder)
                except ModelLoadError:
                    listing = self._list(source, address)
                    if _tag(listing) == _tag(before):  # it was not for a change
                        raise
                else:
                    listing = self._list(source, address)
                if _tag(listing) == _tag(before):
                    sha256 = _sha256(listing, sha256s)
                    if pinned and sha256 != pinned:
                        raise ModelLoadError(
                            f"the SHA-256 of '{address.shown}' is {sha256}, and {pinned} is pinned"
                        )
                    return cache.keep(
                        folder,
                        address.names,
                        sha256s,
                        is_file=listing.is_file,
                        record=Record(shown=address.shown, tag=_tag(listing), sha256=sha256),
                        key=address.key,
                    )
            logger.warning("'%s' was changed while it was fetched", address.shown)
        raise ModelLoadError(f"'{address.shown}' was changed {_ROUNDS} times while it was fetched")

    def _offline(
        self, address: Address, found: tuple[Record, Path] | None, pinned: str, error: Exception
    ) -> Path:
        """Use what was fetched last, if there is something and the settings allow it."""
        problem = f"'{address.shown}' can't be reached: {error}"
        if found is None:
            raise ModelLoadError(problem)
        record, place = found
        if not self._settings.serves_offline:
            raise ModelLoadError(
                f"{problem}; what was fetched last is not served (serve_offline is false)"
            )
        if pinned and record.sha256 != pinned:
            raise ModelLoadError(
                f"{problem}; what was fetched last has the SHA-256 {record.sha256}, and {pinned} "
                "is pinned"
            )
        logger.warning("%s; SERVING WHAT WAS FETCHED LAST, '%s'", problem, place)
        return place

    # ---- the source ----

    def _open(self, address: Address) -> ArtifactSource:
        spec = self._specs[address.scheme]
        module, _, name = spec.source.partition(":")
        with self._translating(address):
            kind = getattr(importlib.import_module(module), name)
            source: ArtifactSource = kind(self._options(address), timeout_s=self._settings.wait_s)
        return source

    def _options(self, address: Address) -> Mapping[str, object]:
        return self._settings.options.get(address.scheme, {})

    def _list(self, source: ArtifactSource, address: Address) -> Listing:
        """List what the URI names, and refuse what may not be fetched.

        Raises:
            ConnectionError: The store can't be reached.
            ModelLoadError: Anything else.
        """
        with self._translating(address):
            began = monotonic()
            # clients that try again by themselves take long to give up
            listing = self._retry(
                lambda: source.list_files(address.uri),
                address,
                may_go_on=lambda: monotonic() - began < _SHORT_S,
            )
        files = tuple(
            file for file in listing.files if listing.is_file or not is_compiled(file.path)
        )
        shown, limit = address.shown, self._settings.max_bytes
        if not files or len(files) > _MAX_FILES:
            raise ModelLoadError(f"'{shown}' has {len(files)} files; expected 1 to {_MAX_FILES}")
        _check_paths(files, shown)
        if (total := sum(file.size or 0 for file in files)) > limit:
            raise ModelLoadError(too_large(shown, total, limit))
        return msgspec.structs.replace(listing, files=files)

    def _fetch_files(
        self, source: ArtifactSource, address: Address, listing: Listing, folder: Path
    ) -> dict[str, str]:
        """Fetch all files, some at a time; gives the SHA-256 of each."""
        sizes = [file.size for file in listing.files]
        progress = Progress(
            address.shown,
            None if None in sizes else sum(size or 0 for size in sizes),
            max_bytes=self._settings.max_bytes,
            timeout_s=self._settings.timeout_s,
        )
        logger.info("fetching '%s': %d files", address.shown, len(sizes))
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="jackfield-fetch") as pool:
            tasks = {
                file.path: pool.submit(
                    self._fetch_file, source, address, file, folder / file.path, progress
                )
                for file in listing.files
            }
            done, _ = wait(tasks.values(), return_when=FIRST_EXCEPTION)
            if failed := next((task for task in done if task.exception()), None):
                progress.problem = "another file of it failed"
                pool.shutdown(cancel_futures=True)
                failed.result()
        progress.finish()
        return {path: task.result() for path, task in tasks.items()}

    def _fetch_file(
        self,
        source: ArtifactSource,
        address: Address,
        file: RemoteFile,
        target: Path,
        progress: Progress,
    ) -> str:
        """Fetch one file and look whether it is whole; gives its SHA-256."""

        def fetch() -> str:
            source.fetch(
                address.uri, file, target, progress=lambda done: progress.reach(file.path, done)
            )
            size = target.stat().st_size
            if file.size is not None and size != file.size:
                target.unlink()
                raise ConnectionError(f"{size} bytes came of {file.size}")
            progress.reach(file.path, size)
            sha256 = hash_file(target)
            if file.sha256 and sha256 != file.sha256.lower():
                target.unlink()
                raise ConnectionError(f"its SHA-256 is {sha256}, and {file.sha256} was announced")
            return sha256

        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._translating(address, file.path):
                return self._retry(fetch, address, file.path)
        except (ConnectionError, TimeoutError) as error:
            raise ModelLoadError(
                f"'{file.path}' of '{address.shown}' could not be fetched: {error}"
            ) from error

    def _retry(
        self,
        call: Callable[[], _T],
        address: Address,
        path: str = "",
        *,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> _T:
        """Call until it does not fail for a reason that may pass."""
        for pause_s in self._settings.pauses_s:
            try:
                return call()
            except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError):
                raise
            except OSError as error:
                if error.errno in _FINAL or not may_go_on():
                    raise
                logger.warning(
                    "%s'%s': %s; once more in %g s",
                    f"'{path}' of " if path else "",
                    address.shown,
                    self._text(error, address),
                    pause_s,
                )
            sleep(pause_s)
        return call()

    @contextlib.contextmanager
    def _translating(self, address: Address, path: str = "") -> Iterator[None]:
        """Make a `ModelLoadError` of what a source raises, but where it can't be reached."""
        shown = f"'{path}' of '{address.shown}'" if path else f"'{address.shown}'"
        try:
            yield
        except ImportError as error:
            spec = self._specs[address.scheme]
            install = f"; install it: {spec.install}" if spec.install else ""
            missing = error.name or str(error)
            raise ModelLoadError(
                f"'{address.scheme}:' needs a package that is missing, {missing}{install}"
            ) from error
        except FileNotFoundError as error:
            raise ModelLoadError(f"{shown} is not there: {self._text(error, address)}") from None
        except PermissionError as error:
            raise ModelLoadError(f"{shown} may not be read: {self._text(error, address)}") from None
        except (ConnectionError, TimeoutError) as error:
            raise ConnectionError(self._text(error, address)) from None
        except ModelLoadError as error:
            text = self._text(error, address)
            raise ModelLoadError(text if address.shown in text else f"{shown}: {text}") from None
        # a source is foreign code: what it raises may hold what must not be told
        except Exception as error:  # noqa: BLE001
            text = f"{type(error).__name__}: {self._text(error, address)}"
            raise ModelLoadError(f"fetching {shown} failed: {text}") from None

    def _text(self, error: Exception, address: Address) -> str:
        return redact(str(error), address.uri, self._options(address))


@contextlib.contextmanager
def _telling_disk(address: Address) -> Iterator[None]:
    """Make a `ModelLoadError` of what the cache's disk refuses."""
    try:
        yield
    except OSError as error:
        where = f" ('{error.filename}')" if error.filename else ""
        problem = f"'{address.shown}' can't be kept in the cache: {error.strerror or error}{where}"
        raise ModelLoadError(problem) from error


def _tag(listing: Listing) -> str:
    """Give what differs whenever anything in a listing does; empty where it can't tell."""
    if not all(file.tag for file in listing.files):
        return ""
    lines = sorted((file.path, file.tag, file.size) for file in listing.files)
    return hashlib.sha256(repr(lines).encode()).hexdigest()


def _sha256(listing: Listing, sha256s: Mapping[str, str]) -> str:
    return sha256s[listing.files[0].path] if listing.is_file else hash_files(sha256s)


def _check_paths(files: Sequence[RemoteFile], shown: str) -> None:
    """Refuse names by which something would be written elsewhere, or over another file."""
    paths = [file.path for file in files]
    taken = {*paths}
    for path in paths:
        parts = path.split("/")
        above = {"/".join(parts[:count]) for count in range(1, len(parts))}
        is_odd = any(part in ("", ".", "..") or _ODD.search(part) for part in parts)
        if is_odd or above & taken or any(len(part.encode()) > _LONGEST for part in parts):
            raise ModelLoadError(f"'{shown}' lists {path!r}, which is no path below a folder")
    if len(taken) < len(paths):
        raise ModelLoadError(f"'{shown}' lists a file twice")


#: Control characters, and what separates names elsewhere: a drive of Windows, a stream, a folder.
_ODD = re.compile(r"[\x00-\x1f\x7f\\:]")
#: Longest name that file systems take, in bytes.
_LONGEST = 255
