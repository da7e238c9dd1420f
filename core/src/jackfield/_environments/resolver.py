"""Resolve what an environment's settings ask for, once: a restart asks no index."""

from __future__ import annotations

import hashlib
import json
import logging
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jackfield._environments.core import describe_core
from jackfield._environments.interpreter import normalise
from jackfield._environments.requirement import read_requirements, write_requirement
from jackfield._environments.store import Record, Resolution
from jackfield._environments.uv import Uv, absolute, mask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jackfield._environments.interpreter import Interpreter
    from jackfield._environments.running import Running
    from jackfield._environments.store import Store
    from jackfield.settings import EnvironmentSettings

logger = logging.getLogger("jackfield")


class Resolver:
    """The settings of one environment, and what they are resolved to.

    Args:
        settings: What it holds.
        folder: What its paths are relative to.
        store: What was made before.
        running: What runs for the same server.

    Raises:
        ModelLoadError: A requirement names a path where nothing lies.
    """

    def __init__(
        self, settings: EnvironmentSettings, folder: Path, store: Store, running: Running
    ) -> None:
        self.settings = settings
        self.running = running
        self.folder = folder
        self.store = store
        self.core = describe_core()
        self.requirements = read_requirements(settings.requirements, folder)
        #: The requirements as the log and the list of environments show them.
        self.shown = mask(", ".join(settings.requirements)) or "no more than the core needs"

    def request(self, *facts: object) -> str:
        """Give a digest of all that decides the result: the settings, and further facts."""
        settings = self.settings
        return digest(
            sysconfig.get_platform(),
            [(each.text, each.digest) for each in self.requirements],
            [settings.index_url, *settings.extra_index_urls],
            [absolute(link, self.folder) for link in settings.find_links],
            self.core.wheel[1].hex(),
            self.core.thin,
            *facts,
        )

    def uv(self) -> Uv:
        """Give uv with the settings' indexes."""
        return Uv(self.settings, self.folder, self.running)

    def resolve(
        self,
        request: str,
        uv: Uv,
        interpreter: Interpreter,
        *,
        needed: Sequence[str],
        installed: Mapping[str, str] | None = None,
    ) -> Resolution:
        """Resolve the requirements, or recall what they were resolved to.

        Args:
            request: The digest of all that decides it.
            uv: The tool.
            interpreter: What the packages must fit.
            needed: Requirements beside those of the settings.
            installed: Versions by name of what is there already, stays as it is and is not in the
                result.

        Raises:
            ModelLoadError: They can't be resolved; in the resolver's words.
        """
        # first of all, since a known resolution names these wheels, too
        stands_for_core = f"jackfield @ {self._core_wheel().as_uri()}"
        written = [
            write_requirement(each, store=self.store, uv=uv, interpreter=interpreter)
            for each in self.requirements
        ]
        if known := self.store.resolution(request):
            return known
        logger.info("environment: resolving %s for Python %s", self.shown, interpreter.version)
        began = time.monotonic()
        there = dict(installed or {})
        pins = [f"{name}=={version}" for name, version in there.items() if name != "jackfield"]
        with tempfile.TemporaryDirectory() as temporary:
            constraints = Path(temporary) / "constraints.txt" if pins else None
            if constraints:
                constraints.write_text("\n".join(pins))
            asked = "\n".join([stands_for_core, *needed, *written])
            found = uv.resolve(asked, interpreter.python, constraints)
        lines = [line for line in found.splitlines() if line and _name(line) not in there]
        logger.info(
            "environment: %d packages resolved in %.1f s", len(lines), time.monotonic() - began
        )
        kind = "environment" if installed is None else "overlay"
        resolution = Resolution(f"{kind}-{digest(interpreter.tag, lines)}", lines)
        self.store.keep_resolution(request, resolution)
        return resolution

    def _core_wheel(self) -> Path:
        name, content = self.core.wheel

        def build(folder: Path, _: int) -> Record:
            (folder / name).write_bytes(content)
            return Record(kind="wheel", description="stand-in for jackfield")

        return self.store.make(f"core-{digest(content.hex())}", build).folder / name


def digest(*facts: object) -> str:
    """Give 32 hexadecimal digits that stand for facts."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _name(line: str) -> str:
    """Give the name of the package that a line of a resolution is about."""
    return normalise(line.partition("==")[0].partition("@")[0].strip())
