"""Run uv: find it, give it the operator's index settings, tell its progress and its errors."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jackfield._environments.store import TIMEOUT_S
from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jackfield._environments.running import Running
    from jackfield.settings import EnvironmentSettings

logger = logging.getLogger("jackfield")

# uv's package asks for these; what Python reads them into at first is not safe among threads
sysconfig.get_config_vars()

#: How often a run that takes long says so, in seconds.
_TELL_S = 15.0
#: Most characters of uv's own text that an error shows: the last ones.
_SHOWN = 4000
#: Set for another interpreter or project than the one that is made.
_FOREIGN = (
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONHOME",
    "PYTHONPATH",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
    "UV_PROJECT",
    "UV_WORKING_DIR",
)
#: pip's variables that uv doesn't read, and uv's own that go before them.
_PIP = {
    "PIP_INDEX_URL": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "PIP_EXTRA_INDEX_URL": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "PIP_FIND_LINKS": ("UV_FIND_LINKS",),
    "PIP_TRUSTED_HOST": ("UV_INSECURE_HOST",),
    "PIP_CERT": ("SSL_CERT_FILE",),
}
#: Of those lists, the ones that uv separates by commas; all others have spaces between.
_BY_COMMA = ("UV_FIND_LINKS",)


class Uv:
    """uv, with the index settings of one environment.

    Args:
        settings: The environment's.
        folder: What its paths are relative to.
        running: What runs for the same server.

    Raises:
        ModelLoadError: It is not installed.
    """

    def __init__(self, settings: EnvironmentSettings, folder: Path, running: Running) -> None:
        self._program = _find()
        self._running = running
        self._variables = variables(settings, folder, os.environ)
        self._options = ["--offline"] if settings.offline else []
        self._without_index = os.environ.get("PIP_NO_INDEX", "").lower() in ("1", "true", "yes")

    def resolve(self, requirements: str, python: Path, constraints: Path | None) -> str:
        """Resolve requirements for an interpreter; gives a line for each package."""
        arguments = ["pip", "compile", "-", "--no-header", "--no-annotate", "--python", str(python)]
        arguments += ["-c", str(constraints)] if constraints else []
        return self._run("resolving", arguments, given=requirements, with_index=True)

    def create(self, folder: Path, python: Path, lock: int) -> None:
        """Create an environment without packages."""
        arguments = ["venv", "--no-project", "--python", str(python), str(folder)]
        self._run("creating it", arguments, lock=lock)

    def sync(self, requirements: Path, python: Path, lock: int) -> None:
        """Install exactly the resolved requirements."""
        arguments = ["pip", "sync", str(requirements), "--python", str(python)]
        self._run("installing", arguments, lock=lock, with_index=True)

    def install(self, requirements: Path, python: Path, target: Path, lock: int) -> None:
        """Install the resolved requirements into a folder, for an interpreter."""
        arguments = ["pip", "install", "--no-deps", "-r", str(requirements)]
        arguments += ["--python", str(python), "--target", str(target)]
        self._run("installing", arguments, lock=lock, with_index=True)

    def build(self, source: Path, target: Path, python: Path, lock: int) -> None:
        """Build the wheel of a folder of sources, or of a packed one."""
        arguments = ["build", "--wheel", str(source), "--out-dir", str(target)]
        arguments += ["--python", str(python)]
        self._run(f"building {source.name}", arguments, lock=lock, with_index=True)

    def find_python(self, version: str) -> Path:
        """Find an interpreter of a version; where there is none, uv downloads it."""
        arguments = ["python", "find", "--no-project", version]
        try:
            found = self._run(f"looking for Python {version}", arguments)
        except ModelLoadError:
            self._run(f"downloading Python {version}", ["python", "install", version])
            found = self._run(f"looking for Python {version}", arguments)
        return Path(found.strip())

    def _run(
        self,
        what: str,
        arguments: Sequence[str],
        *,
        given: str = "",
        lock: int = -1,
        with_index: bool = False,
    ) -> str:
        """Run uv; gives what it prints.

        Args:
            what: What it does, for the log and the error.
            arguments: The command and its options.
            given: Text for its standard input.
            lock: Descriptor that it inherits; -1 for none.
            with_index: Whether the command looks for packages.

        Raises:
            ModelLoadError: It fails, with its own words; takes too long; or the server stops.
        """
        options = [*self._options, *(["--no-index"] if with_index and self._without_index else [])]
        began = time.monotonic()
        try:
            with self._running.start(
                [self._program, *arguments, *options],
                variables=self._variables,
                # no project's settings are above the root
                folder=Path(self._program).anchor,
                lock=lock,
            ) as process:
                out, err = _talk(process, given.encode(), what)
        except OSError as error:
            raise ModelLoadError(f"uv can't be started: {error}") from error
        logger.debug("%s took %.1f s", what, time.monotonic() - began)
        if process.returncode < 0:
            raise ModelLoadError(f"{what} failed: uv was ended by signal {-process.returncode}")
        if process.returncode:
            raise ModelLoadError(f"{what} failed: {_readable(err) or 'uv does not say why'}")
        return out.decode()


def _talk(process: subprocess.Popen[bytes], given: bytes, what: str) -> tuple[bytes, bytes]:
    """Wait for uv to end, and tell that it still works."""
    began = time.monotonic()
    while True:
        try:
            return process.communicate(given, timeout=_TELL_S)
        except subprocess.TimeoutExpired as late:
            took_s = time.monotonic() - began
            if took_s > TIMEOUT_S:
                raise ModelLoadError(f"{what} took more than {TIMEOUT_S:g} s") from late
            lines = (late.stderr or b"").strip().splitlines()
            last = _readable(lines[-1]) if lines else ""
            logger.info("environment: %s for %.0f s: %s", what, took_s, last or "no news")


def _find() -> str:
    """Find uv: the one that is installed beside us, or the one on the PATH."""
    with contextlib.suppress(ImportError, AttributeError, FileNotFoundError):
        return str(importlib.import_module("uv").find_uv_bin())
    if found := shutil.which("uv"):
        return found
    raise ModelLoadError(
        "an environment is made by uv, which is not installed; "
        'expected: pip install "jackfield[environments]"'
    )


def variables(
    settings: EnvironmentSettings, folder: Path, environ: Mapping[str, str]
) -> dict[str, str]:
    """Give uv's variables: the operator's, with pip's by uv's names, and those of the settings.

    Secrets in URLs go this way, since a command line is seen by every user of the machine.

    Args:
        settings: The environment's.
        folder: What its paths are relative to.
        environ: The server's variables.
    """
    found = {name: value for name, value in environ.items() if name not in _FOREIGN}
    for name, (target, *others) in _PIP.items():
        if (value := found.get(name)) and not any(each in found for each in (target, *others)):
            found[target] = (",".join(value.split()) if target in _BY_COMMA else value).strip()
    if settings.index_url:
        found.pop("UV_INDEX_URL", None)
        found["UV_DEFAULT_INDEX"] = settings.index_url
    if settings.extra_index_urls:
        found.pop("UV_EXTRA_INDEX_URL", None)
        found["UV_INDEX"] = " ".join(
            [*settings.extra_index_urls, *found.get("UV_INDEX", "").split()]
        )
    # uv runs elsewhere, so that the operator's relative folders are made absolute, too
    links = [absolute(each, Path.cwd()) for each in found.get("UV_FIND_LINKS", "").split(",")]
    links = [absolute(each, folder) for each in settings.find_links] + links
    found["UV_FIND_LINKS"] = ",".join(each for each in links if each)
    if not found["UV_FIND_LINKS"]:
        del found["UV_FIND_LINKS"]
    return {**found, "NO_COLOR": "1"}


def absolute(link: str, folder: Path) -> str:
    """Make a folder's path absolute; leave a URL as it is."""
    return link if not link or "://" in link else str((folder / Path(link).expanduser()).absolute())


def _readable(text: bytes) -> str:
    """Give uv's words on one line, from its error on, without frames and secrets."""
    found = re.search(rb"^(error:|\s*\xc3\x97 )", text, re.MULTILINE)
    text = text[found.start() :] if found else text
    words = re.sub(r"[\u00d7\u2500-\u25b6]+", " ", text.decode(errors="replace")).split()
    return mask(" ".join(words))[-_SHOWN:]


_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://[^\s'\"`<>]+", re.IGNORECASE)


def mask(text: str) -> str:
    """Leave no more of each URL than its host: the rest may be a secret."""
    return _URL.sub(_mask, text)


def _mask(url: re.Match[str]) -> str:
    if url[1].lower() == "file":
        return url[0]
    try:
        host = urlsplit(url[0]).netloc.rpartition("@")[2]
    except ValueError:
        host = ""
    return f"{url[1]}://{host}/…"
