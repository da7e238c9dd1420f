"""What a running server is asked about the whole of itself, and told to change.

A process that is a server alone answers by its own. One of several workers has a `Fleet`: it asks
all of them, and a change is made in all of them or in none.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from jackfield._changes import (
    LoadModel,
    Register,
    SetLog,
    SetTraces,
    UnloadModel,
    Unregister,
)
from jackfield._metrics import render
from jackfield._models import ModelState
from jackfield._monitors import monitors_of
from jackfield.errors import JackfieldError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from jackfield._changes import Change
    from jackfield._logging_settings import LoggingSettings
    from jackfield._metrics import Metrics
    from jackfield._model import Model
    from jackfield._models import IndexEntry, Models
    from jackfield._monitors import MonitorRecord, Verdict
    from jackfield._shared_memory import Regions

logger = logging.getLogger("jackfield")

#: A change is ended by whoever prepared it, however long the others take, in seconds.
_HOLD_S = 24 * 3600.0


class Prepared(Protocol):
    """A change of which all that can fail is done; nothing that serves has changed."""

    async def commit(self) -> None:
        """Make it."""

    async def abort(self) -> None:
        """Leave all as it was."""


class Fleet(Protocol):
    """All workers of a server, as one of them knows them."""

    @property
    def problem(self) -> str:
        """Why the whole server is not ready; empty when it is."""

    async def apply(self, change: Change) -> None:
        """Make a change in all workers, or in none; raises as it would in one process."""

    async def note_watched(self, told: Mapping[str, str]) -> None:
        """Keep what this worker's watcher told, for the one that takes its place."""

    async def index(self) -> list[IndexEntry]:
        """List all model versions; what is ready is so in all workers."""

    async def state(self, name: str, version: str) -> IndexEntry:
        """Get the state of a model version in all workers."""

    async def statistics(self) -> list[dict[str, Any]]:
        """Give what all models did in all workers."""

    async def monitors(self, name: str, version: str) -> list[MonitorRecord[Verdict]]:
        """Give what the monitors of a model version found in all workers."""

    async def expose(self) -> tuple[bytes, str]:
        """Render the metrics of all workers."""


class Control:
    """The one door to what concerns a server as a whole; used on its event loop.

    Args:
        models: What this process serves.
        metrics: What it counts.
        regions: Shared memory that callers registered.
        logs: What it logs.
    """

    def __init__(
        self, models: Models, metrics: Metrics, *, regions: Regions, logs: LoggingSettings
    ) -> None:
        self.models = models
        self.metrics = metrics
        self._regions = regions
        self._logs = logs
        #: All workers; None where this process is the server.
        self.fleet: Fleet | None = None

    @property
    def problem(self) -> str:
        """Why the server is not ready; empty when it is."""
        return (self.fleet.problem if self.fleet else "") or self.models.problem

    async def apply(self, change: Change) -> None:
        """Make a change.

        Raises:
            JackfieldError: It can't be made; nothing has changed then.
        """
        if self.fleet is not None:
            await self.fleet.apply(change)
            return
        await (await self.prepare(change)).commit()

    async def prepare(self, change: Change) -> Prepared:
        """Do all of a change that can fail, in this process.

        Raises:
            JackfieldError: It can't be made.
        """
        match change:
            case LoadModel(name, parameters):
                return await self.models.prepare(name, parameters, hold_s=_HOLD_S)
            case UnloadModel(name):
                self.models.require(name)
                return _Step(lambda: self.models.unload(name))
            case SetTraces(model, settings):
                if model:
                    self.models.state(model)
                self.models.traces.check(settings)
                return _Step(_later(lambda: self.models.traces.update(settings, model)))
            case SetLog(settings):
                self._logs.check(settings)
                return _Step(_later(lambda: self._logs.update(settings)))
            case Register(name, key, offset, byte_size):
                self._regions.register(name, key, offset=offset, byte_size=byte_size)
                return _Step(undo=_later(lambda: self._regions.unregister(name)))
            case Unregister(name):
                self._regions.require()
                return _Step(_later(lambda: self._regions.unregister(name)))

    async def reload(self, names: Collection[str] | None = None) -> int:
        """Load models as their files are now, and unload those whose files are gone.

        Each is a change for itself, after those that it needs: what can't be loaded is left as it
        was, and the log tells why. A model that was unloaded by request stays so.

        Args:
            names: Those to load; None for all that serve, failed to load, or are new.

        Returns:
            How many failed.
        """
        try:
            wanted = await self.models.list_wanted()
        except (JackfieldError, OSError) as error:  # the paths served are gone, or unreadable
            logger.error("no model is loaded anew, they can't be listed: %s", error)
            return 1
        failed = 0
        for name in wanted:
            if names is not None and name not in names:
                continue
            try:
                try:
                    await self.apply(LoadModel(name))
                    logger.info("model '%s': loaded as its files are now", name)
                except ModelNotFoundError:
                    await self.apply(UnloadModel(name))
                    logger.info("model '%s': unloaded, its files are gone", name)
            except JackfieldError as error:
                failed += 1
                logger.warning("left as it was: %s", error)
        return failed

    async def index(self) -> list[IndexEntry]:
        """List all model versions with their states and reasons."""
        return await (self.fleet.index() if self.fleet else self.models.index())

    async def state(self, name: str, version: str) -> IndexEntry:
        """Get the state of a model version.

        Raises:
            ModelNotFoundError: There is none.
        """
        line = self.models.state(name, version)
        if self.fleet is None or line.state is not ModelState.READY:
            return line
        return await self.fleet.state(name, version)

    async def statistics(self, name: str, version: str) -> Sequence[Mapping[str, object]]:
        """Give what models did so far, in the form of the statistics extension.

        Raises:
            ModelNotFoundError: There is none of this name.
            ModelNotReadyError: It does not serve.
        """
        records = self.models.statistics(name, version)
        if self.fleet is None:
            return records
        wanted = {(record["name"], record["version"]) for record in records}
        return [
            record
            for record in await self.fleet.statistics()
            if not name or (record["name"], record["version"]) in wanted
        ]

    async def monitors(self, model: Model) -> list[MonitorRecord[Verdict]]:
        """Give what the monitors of a model that serves found."""
        if self.fleet is not None:
            return await self.fleet.monitors(model.name, model.version)
        return [monitor.record() for monitor in monitors_of(model)]

    async def expose(self) -> tuple[bytes, str]:
        """Render the metrics of the server and of its processes, and give their content type."""
        if self.fleet is not None:
            return await self.fleet.expose()
        server, process = await self.metrics.read()
        return await render(server, process)


class _Step:
    """A change in one piece."""

    def __init__(
        self,
        make: Callable[[], Awaitable[None]] | None = None,
        undo: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._make = make
        self._undo = undo

    async def commit(self) -> None:
        if self._make:
            await self._make()

    async def abort(self) -> None:
        if self._undo:
            await self._undo()


def _later(act: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def make() -> None:
        act()

    return make
