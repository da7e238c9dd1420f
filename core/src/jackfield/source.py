"""What the author of an artifact source writes: a class that lists what a URI names and fetches it.

Used by plugins and by the core; imports no client of a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["ArtifactSource", "Listing", "RemoteFile"]


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of what a URI names."""

    #: Below the URI, with ``/`` between; for a URI that is one file the file's name. The core
    #: refuses a path that leads elsewhere.
    path: str
    #: In bytes; None where the store doesn't tell.
    size: int | None = None
    #: Differs whenever the content does: an ETag, a commit's hash, a generation. Empty where the
    #: store tells nothing of the kind: the file is fetched at each start.
    tag: str = ""
    #: SHA-256 in hexadecimal, where the store knows it: what was fetched is compared with it.
    sha256: str = ""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a URI names at the moment."""

    files: tuple[RemoteFile, ...]
    #: The URI names this one file, and no folder.
    is_file: bool = False


@runtime_checkable
class ArtifactSource(Protocol):
    """Fetches what URIs of some schemes name. Inherit nothing: have these methods.

    The core constructs it anew for each URI, with the options of that scheme (a mapping, from
    `source_options` of the server's settings) and the keyword `timeout_s`, the longest wait for an
    answer. Its methods run in threads, `fetch` in several at once. A package that is missing raises
    `ImportError`, from the constructor on: the operator is told what to install.

    Raise `FileNotFoundError` and `PermissionError` for what the store answers, and
    `ConnectionError` or `TimeoutError` where it can't be reached: then what was fetched last is
    served. Other `OSError`s, and these, are tried again while fetching. `ModelLoadError` ends it
    at once, with what the operator should do. No text may hold a secret.
    """

    def list_files(self, uri: str) -> Listing:
        """List the files that a URI names, all below it where it is a folder.

        Raises:
            OSError: As said above.
        """

    def fetch(
        self, uri: str, file: RemoteFile, target: Path, *, progress: Callable[[int], None]
    ) -> None:
        """Write one file.

        Args:
            uri: As for `list_files`.
            file: One of those listed.
            target: A path in a folder that is there. What an earlier try left of the file is there,
                too: go on with it, or write it anew.
            progress: To be called with the number of bytes of this file that are there so far. It
                raises where more come than allowed, or time is over: let that through.

        Raises:
            OSError: As said above; so is an end before all of the file came.
        """
