"""Environments that there are, as folders or tarballs, and what the core lacks in them."""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from jackfield._environments.environment import Environment
from jackfield._environments.interpreter import Interpreter, ask, find_in, fits
from jackfield._environments.resolver import digest
from jackfield._environments.store import TIMEOUT_S, Made, Record, Resolution
from jackfield._environments.tarball import unpack
from jackfield._environments.uv import mask
from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from jackfield._environments.resolver import Resolver

logger = logging.getLogger("jackfield")

#: Folders of an unpacked tarball, and of an overlay.
_ROOT = "root"
_PACKAGES = "packages"


def complete(resolver: Resolver) -> Environment:
    """Give the environment at the settings' path, and beside it what it lacks.

    Raises:
        ModelLoadError: There is none, its Python doesn't run here or is too old, its tarball is
            not safe to unpack, or what it lacks can't be had.
        OSError: The disk is full.
    """
    given = resolver.settings.path
    path = (resolver.folder / Path(given).expanduser()).absolute()
    if "://" in given:
        raise ModelLoadError(f"path: expected one on this machine, found {mask(given)}")
    if not path.exists():
        raise ModelLoadError(f"path: expected a folder or tarball, found nothing at {path}")
    leases: tuple[object, ...] = ()
    if path.is_dir():
        root, key = path, f"path-{digest(str(path.resolve()))}"
    else:
        unpacked = _unpacked(path, resolver)
        leases = (unpacked.lease,)
        root, key = _root(unpacked.folder / _ROOT), unpacked.folder.name
    python = find_in(root)
    if python is None:
        raise ModelLoadError(f"path: expected bin/python in {root}, found none")
    interpreter = ask(python)
    if not fits(interpreter.version, resolver.core.python):
        raise ModelLoadError(
            f"path: expected Python {resolver.core.python} in {path}, found {interpreter.version}"
        )
    lacking = _lacking(interpreter, resolver.core.thin)
    if not lacking and not resolver.requirements:
        return Environment(python, key, (), str(path), leases)
    overlay = _overlay(resolver, interpreter, lacking)
    return Environment(
        python,
        f"{key}+{overlay.folder.name}",
        (str(overlay.folder / _PACKAGES),),
        f"{path} and {overlay.record.description}",
        (*leases, overlay.lease),
    )


def _lacking(interpreter: Interpreter, thin: dict[str, str]) -> list[str]:
    """List what the core needs there and the environment has not."""
    lacking = []
    for name, bounds in thin.items():
        version = interpreter.installed.get(name)
        if version is None:
            lacking.append(f"{name}{bounds}")
        elif not fits(version, bounds):
            # its own go before an overlay's on the path
            raise ModelLoadError(
                f"path: expected {name}{bounds} at {interpreter.python}, found {version}"
            )
    return lacking


def _overlay(resolver: Resolver, interpreter: Interpreter, lacking: list[str]) -> Made:
    """Give a folder of packages that go beside those of the environment."""
    store = resolver.store
    request = resolver.request("overlay", interpreter.tag, sorted(interpreter.installed.items()))
    if made := store.recall(request):
        return made
    with store.lock(f"request-{request}"):
        if made := store.recall(request):
            return made
        uv = resolver.uv()
        resolution = resolver.resolve(
            request, uv, interpreter, needed=lacking, installed=interpreter.installed
        )

        def build(folder: Path, lock: int) -> Record:
            lines = folder / "requirements.txt"
            lines.touch(0o600)  # URLs may hold secrets
            lines.write_text("\n".join(resolution.requirements))
            uv.install(lines, interpreter.python, folder / _PACKAGES, lock)
            return Record(
                kind="overlay",
                description=", ".join(
                    [*lacking, *([resolver.shown] if resolver.requirements else [])]
                ),
                python=interpreter.version,
                packages=[mask(line) for line in resolution.requirements],
            )

        return store.make(resolution.key, build)


def _unpacked(archive: Path, resolver: Resolver) -> Made:
    """Unpack a tarball, once for its content."""
    store = resolver.store
    about = archive.stat()
    # a tarball of gigabytes is read once, as long as it is the same file
    facts = (str(archive), about.st_size, about.st_mtime_ns, about.st_ino)
    request = digest("tarball", *facts)
    known = store.resolution(request)
    if known is None:
        with archive.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        known = Resolution(f"tarball-{content[:32]}")
        store.keep_resolution(request, known)

    def build(folder: Path, _: int) -> Record:
        logger.info("environment: unpacking %s (%d MB)", archive, about.st_size // 10**6)
        root = folder / _ROOT
        root.mkdir()
        unpack(archive, root, resolver.running.check)
        root = _root(root)
        _link_interpreter(root, resolver)
        python = find_in(root)
        if python is None:
            raise ModelLoadError(f"path: expected bin/python in {archive}, found none")
        _unpack_conda(root, python, resolver)
        return Record(kind="tarball", description=archive.name, python=ask(python).version)

    return store.make(known.key, build)


def _root(folder: Path) -> Path:
    """Find the environment's folder: at the top of the archive, or the one folder there."""
    inside = list(folder.iterdir())
    is_nested = len(inside) == 1 and inside[0].is_dir() and inside[0].name != "bin"
    return inside[0] if is_nested else folder


def _link_interpreter(root: Path, resolver: Resolver) -> None:
    """Give a virtual environment a Python of this machine: its own was elsewhere."""
    settings = root / "pyvenv.cfg"
    if find_in(root) is not None or not settings.is_file() or not (root / "bin").is_dir():
        return
    text = settings.read_text()
    found = re.search(r"(?m)^version(?:_info)?\s*=\s*(\d+\.\d+)", text)
    if found is None:
        raise ModelLoadError("path: expected the version of Python in pyvenv.cfg, found none")
    python = resolver.uv().find_python(found[1])
    text = re.sub(r"(?m)^home\s*=.*$", lambda _: f"home = {python.parent}", text)
    settings.write_text(text)
    for name in ("python", "python3"):
        place = root / "bin" / name
        place.unlink(missing_ok=True)  # a link to what was left out
        place.symlink_to(python)


def _unpack_conda(root: Path, python: Path, resolver: Resolver) -> None:
    """Have a conda environment write its new place into its own files."""
    script = root / "bin" / "conda-unpack"
    if not script.is_file():
        return
    try:
        with resolver.running.start([str(python), str(script)]) as process:
            _, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ModelLoadError(f"conda-unpack took more than {TIMEOUT_S:g} s") from error
    if code := process.returncode:
        text = err.decode(errors="replace").strip()
        raise ModelLoadError(f"conda-unpack failed: {text[-1000:] or f'exit code {code}'}")
