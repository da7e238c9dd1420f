"""The stores that fsspec knows: S3, Google's and Azure's storage, Hugging Face's Hub.

Credentials come from where each store's client looks for them. What the clients raise becomes
Python's own errors here: each store has others.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
from typing import TYPE_CHECKING, Any

from jackfield._sources.address import redact
from jackfield.errors import ModelLoadError
from jackfield.source import Listing, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

#: What tells that a content has changed, best first: each store has its own.
_TAGS = ("ETag", "etag", "e_tag", "md5Hash", "generation", "blob_id", "oid", "content_md5")
#: Less sure: together with the size.
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
#: Names of classes that stand for no answer from the store, in no package of ours.
_UNREACHABLE = {
    "ConnectionError", "TimeoutError", "gaierror",
    "HTTPClientError",  # botocore
    "ClientConnectionError", "ClientPayloadError",  # aiohttp
    "TransportError",  # google.auth, httpx
    "ServiceRequestError", "ServiceResponseError",  # azure.core
    "Timeout",  # requests
}  # fmt: skip
#: Those that stand for lacking or wrong credentials.
_REFUSED = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "DefaultCredentialsError", "RefreshError",
    "ClientAuthenticationError",
}  # fmt: skip
_HTTP_REFUSED = (401, 403)
_HTTP_ABSENT = (404, 410)
_HTTP_BUSY = (408, 429)
#: What s3fs makes of a store's own failure.
_ERRNO_BUSY = (errno.EBUSY, errno.ETIMEDOUT, getattr(errno, "EREMOTEIO", errno.EIO))


class FilesystemSource:
    """One place in a store, as fsspec shows it."""

    def __init__(self, options: Mapping[str, object], *, timeout_s: float) -> None:
        self._options = options
        self._timeout_s = timeout_s
        self._filesystem: Any = None
        #: What it is in the store's own words, and whether that is a file.
        self._root = ""
        self._is_file = False

    def list_files(self, uri: str) -> Listing:
        """List what lies at or below a URI; raises as `jackfield.ArtifactSource` says."""
        with self._translating(uri):
            system = self._connect(uri)
            system.invalidate_cache()
            about: dict[str, Any] = system.info(_path(system, uri))
            self._root = root = str(about["name"]).rstrip("/")
            self._is_file = about.get("type") == "file"
            if self._is_file:
                name = root.rpartition("/")[2]
                return Listing(files=(_as_file(name, about),), is_file=True)
            found: dict[str, dict[str, Any]] = system.find(root, detail=True)
            below = {
                path.removeprefix(f"{root}/"): info
                for path, info in found.items()
                # not a folder's own mark, in a store without folders
                if info.get("type") == "file" and not path.endswith("/") and path != root
            }
            if not below:
                raise FileNotFoundError("there is nothing")
            return Listing(files=tuple(_as_file(path, info) for path, info in below.items()))

    def fetch(
        self, uri: str, file: RemoteFile, target: Path, *, progress: Callable[[int], None]
    ) -> None:
        """Fetch one listed file from its beginning; raises as `jackfield.ArtifactSource` says."""
        with self._translating(uri):
            path = self._root if self._is_file else f"{self._root}/{file.path}"
            told = _told(progress)
            self._connect(uri).get_file(path, str(target), callback=told)

    def _connect(self, uri: str) -> Any:  # noqa: ANN401  fsspec has no types
        if self._filesystem is None:
            scheme = uri.partition(":")[0].lower()
            fsspec: Any = importlib.import_module("fsspec")
            kind = fsspec.get_filesystem_class(scheme)
            made = _patience(scheme, self._timeout_s) | dict(self._options)
            # not one that lives as long as the process, with what it listed before
            self._filesystem = kind(
                # of a URI that names an account
                **(kind._get_kwargs_from_urls(uri) | made),
                skip_instance_cache=True,
                use_listings_cache=False,
            )
        return self._filesystem

    @contextlib.contextmanager
    def _translating(self, uri: str) -> Iterator[None]:
        try:
            yield
        except (ModelLoadError, ImportError):
            raise
        # the seam where stores' clients raise, each its own classes
        except Exception as error:  # noqa: BLE001
            raise _translate(error, _line(redact(str(error), uri, self._options))) from None


def _patience(scheme: str, timeout_s: float) -> dict[str, object]:
    """Give the option by which a store's client waits no longer than that."""
    if scheme in ("s3", "s3a"):
        patience = {"connect_timeout": timeout_s, "read_timeout": timeout_s}
        return {"config_kwargs": patience | {"retries": {"max_attempts": 1}}}
    if scheme in ("gs", "gcs"):
        return {"timeout": timeout_s}
    if scheme in ("az", "abfs", "abfss"):
        return {"connection_timeout": timeout_s, "read_timeout": timeout_s}
    return {}


def _path(system: Any, uri: str) -> str:  # noqa: ANN401  fsspec has no types
    path: str = system._strip_protocol(uri)
    return path.rstrip("/")


def _told(progress: Callable[[int], None]) -> object:
    """Make what fsspec tells of its progress to."""
    callbacks: Any = importlib.import_module("fsspec.callbacks")

    class Told(callbacks.Callback):  # type: ignore[misc]  # it has no types
        def call(self, *arguments: object, **named: object) -> None:
            progress(self.value)

    return Told()


def _as_file(path: str, info: Mapping[str, Any]) -> RemoteFile:
    size = info.get("size")
    tags = [str(info[key]) for key in _TAGS if info.get(key)]
    times = [str(info[key]) for key in _TIMES if info.get(key)]
    tag = tags[0] if tags else f"{times[0]} {size}" if times else ""
    lfs = info.get("lfs")  # the Hub's large files
    sha256 = getattr(lfs, "sha256", "") or ""
    return RemoteFile(
        path=path, size=size if isinstance(size, int) else None, tag=tag, sha256=sha256
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _status(error: Exception) -> int:
    """Give the HTTP status that a client's error is about; 0 for none."""
    response = getattr(error, "response", None)
    for found in (getattr(response, "status_code", None), getattr(error, "code", None)):
        with contextlib.suppress(TypeError, ValueError):  # gcsfs has numbers and texts
            return int(found)  # type: ignore[arg-type]
    return 0


def _translate(error: Exception, text: str) -> Exception:
    """Make one of Python's own errors of what a store's client raised."""
    names = {kind.__name__ for kind in type(error).__mro__}
    status = _status(error)
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, FileNotFoundError) or status in _HTTP_ABSENT:
        return FileNotFoundError(text)
    if isinstance(error, PermissionError) or names & _REFUSED or status in _HTTP_REFUSED:
        return PermissionError(told)
    cause = {kind.__name__ for kind in type(error.__cause__).__mro__}
    if names & _UNREACHABLE or (isinstance(error, OSError) and cause & _UNREACHABLE):
        return ConnectionError(told)
    if status >= 500 or status in _HTTP_BUSY or getattr(error, "errno", None) in _ERRNO_BUSY:
        return ConnectionError(told)
    if isinstance(error, OSError):
        return OSError(error.errno, text) if error.errno else OSError(told)
    return ModelLoadError(told)
