"""Unpack an environment that conda-pack or venv-pack has packed, without trusting the archive.

Nothing is written outside the folder, and no link in it leads out of it. Only files, folders and
links are unpacked, not more of them and not larger than an environment may be.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Most members. A conda environment with TensorFlow has some 60,000.
MAX_MEMBERS = 1_000_000
#: Most bytes unpacked, however large the archive is; and so many times its own size, from 1 GiB on.
MAX_BYTES = 64 * 1024**3
MAX_RATIO = 50
_RATIO_FROM_BYTES = 1024**3
#: Most bytes of one header, which is read into memory; the longest path needs less.
_MAX_HEADER_BYTES = 1024**2

_OPENERS: dict[bytes, Callable[[Path], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


class _Bounded:
    """A stream that reads no more at once than a header may have."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell
        self.close = stream.close

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise ModelLoadError(f"a header of {size} bytes, expected at most {_MAX_HEADER_BYTES}")
        return self._stream.read(size)


def unpack(archive: Path, folder: Path, check: Callable[[], None] = lambda: None) -> None:
    """Unpack a tarball into an empty folder.

    Args:
        archive: A tar file, plain or compressed by gzip, bzip2 or xz.
        folder: Gets what is in it.
        check: Called before each member; gives up by what it raises.

    Raises:
        ModelLoadError: It is no tar file, is cut off, or has something that no environment has: a
            path or link that leads out, a device, too much.
        OSError: The disk is full.
    """
    largest = min(MAX_BYTES, max(_RATIO_FROM_BYTES, MAX_RATIO * archive.stat().st_size))
    members = total = 0
    links: list[Path] = []
    try:
        with (
            _open(archive) as stream,
            tarfile.TarFile(fileobj=cast("IO[bytes]", _Bounded(stream)), errorlevel=2) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
                check()
                members += 1
                total += member.size
                if members > MAX_MEMBERS:
                    raise ModelLoadError(f"expected at most {MAX_MEMBERS} members, found more")
                if total > largest:
                    raise ModelLoadError(f"expected at most {largest} bytes unpacked, found more")
                _unpack(tar, member, folder, links)
    except ModelLoadError as error:
        raise ModelLoadError(f"{archive} is not unpacked: {error.problem}") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise ModelLoadError(f"{archive} is no tar file that can be read: {error}") from error
    root = Path(os.path.realpath(folder))
    for link in links:
        # by steps over other links it may lead out, although its own text does not
        if not Path(os.path.realpath(link)).is_relative_to(root):
            raise ModelLoadError(f"{archive} is not unpacked: the link {link.name} leads out of it")


def _open(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        head = file.read(6)
    opener = next((each for magic, each in _OPENERS.items() if head.startswith(magic)), None)
    return cast("IO[bytes]", opener(archive)) if opener else archive.open("rb")


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, links: list[Path]) -> None:
    """Unpack one member."""
    path = _inside(member.name, root)
    if path == root:
        return
    if member.isdir():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.is_symlink() or path.is_file():
        path.unlink()  # a later member stands for an earlier one
    if member.issym():
        target = PurePosixPath(member.linkname)
        if target.is_absolute() and _is_interpreter(path, target):
            return  # venv-pack's link to the Python of another machine; ours is put there later
        if target.is_absolute() or _leads_out(PurePosixPath(member.name).parent / target):
            raise ModelLoadError(f"the link {member.name} leads out of it, to {target}")
        path.symlink_to(target)
        links.append(path)
    elif member.islnk():
        source = _inside(member.linkname, root)
        if source.is_symlink() or not source.is_file():
            raise ModelLoadError(f"the link {member.name} is to no file before it")
        os.link(source, path)
    elif member.isreg():
        content = cast("IO[bytes]", tar.extractfile(member))
        executable = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH if member.mode & 0o100 else 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644 | executable)
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(content, file, 256 * 1024)
    else:
        raise ModelLoadError(f"{member.name} is no file, folder or link")


def _inside(name: str, root: Path) -> Path:
    """Give where a member goes; no step of it is a link."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise ModelLoadError(f"the path {name!r} leads out of it")
    path = root
    for part in parts[:-1]:
        path /= part
        if path.is_symlink():
            raise ModelLoadError(f"the path {name!r} leads over the link {part}")
    return path / parts[-1] if parts else root


def _leads_out(path: PurePosixPath) -> bool:
    return os.path.normpath(path).startswith("..")


def _is_interpreter(path: Path, target: PurePosixPath) -> bool:
    return path.parent.name == "bin" and path.name.startswith("python") and "python" in target.name
