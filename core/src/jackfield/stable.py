"""Files that nobody writes to while they are mapped; for runtimes that share memory by mapping.

A process that reads a page of a mapped file after the file was cut short is killed by SIGBUS. What
was fetched is never written again, and a copy of a local file can be made that isn't either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jackfield._sources.cache import Cache

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["stable_file"]


def stable_file(file: Path, *, copy: bool = False) -> Path | None:
    """Find a file of the same content that may be mapped.

    All processes on this machine that share a cache get the same file, and with it the same memory.

    Args:
        file: An artifact.
        copy: Make a copy in the cache where the file is none of its; it is hashed each time.

    Returns:
        The file itself where it was fetched, or its copy; None where it has none.

    Raises:
        OSError: It can't be read, or the copy can't be written.
        ModelLoadError: There is no cache folder.
    """
    cache = Cache()
    if cache.holds(file):
        return file
    return cache.keep_copy(file) if copy else None
