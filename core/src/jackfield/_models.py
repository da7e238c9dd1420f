"""What is live: models by name and version, their states, loading, reloading and unloading.

Owned by one server and used on its event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import enum
import functools
import logging
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from jackfield._environments import Running
from jackfield._label import label_model
from jackfield._loading import Loaded, load_runtime
from jackfield._model import Model
from jackfield._monitors import Monitors
from jackfield._needs import find_cycle, find_needs, in_order
from jackfield._overrides import decode_overrides
from jackfield._peers import Peers
from jackfield._process.hosts import Hosts
from jackfield._process.proxy import Resolved, load_in_process, resolve_in_host
from jackfield._samples import rehearse
from jackfield._scheduling import (
    Arrivals,
    Turns,
    choose_scheduler,
)
from jackfield._statistics import LoadStatistics, ModelStatistics
from jackfield._tracing import TraceSettings
from jackfield._trim import trim
from jackfield._versions import version_key
from jackfield.errors import (
    JackfieldError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServerNotReadyError,
)

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from jackfield._repository import ModelSource, Repository
    from jackfield.messages import ModelMetadata

    Place: TypeAlias = Callable[[ModelSource, Callable[[], Loaded]], Loaded]

logger = logging.getLogger("jackfield")

#: What a server that was never started answers.
NOT_STARTED = (
    "it was not started; pass 'lifespan=server.lifespan' to the app that mounts it, "
    "or enter 'async with server:' in the lifespan that the app has"
)

#: Models that load at the same time; more would only share the disk and the GIL.
_LOADERS = 4
#: Longest that a prepared change waits to be ended, in seconds: who was to end it may be gone.
HOLD_S = 600.0


#: How the reason begins of a version that could not be loaded.
_FAILED = "failed to load"


class ModelState(enum.StrEnum):
    """State of a model version, in the words of the repository extension."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


class IndexEntry(msgspec.Struct, frozen=True):
    """One line of the repository index."""

    name: str
    version: str
    state: ModelState
    reason: str


def _nothing() -> None:
    """Do nothing."""


@dataclasses.dataclass
class _Entry:
    """A model version that is known, whether it serves or not."""

    source: ModelSource
    state: ModelState = ModelState.LOADING
    reason: str = ""
    model: Model | None = None


class _Built(NamedTuple):
    """A model version that was loaded beside what serves."""

    source: ModelSource
    model: Model
    #: What its load took.
    seconds: float


class Change:
    """A load that is prepared: what could fail is behind it, and nothing that serves has changed.

    Other loads and unloads of the model wait until it is ended: by `commit`, by `abort`, or by
    itself when its time is over.
    """

    def __init__(
        self,
        name: str,
        *,
        swap: Callable[[], None],
        discard: Callable[[], Awaitable[None]],
        ended: Callable[[Change], None],
    ) -> None:
        #: The model.
        self.name = name
        self._swap = swap
        self._discard = discard
        self._ended = ended
        self._problem = ""

    async def commit(self) -> None:
        """Let all versions take the place of what served; what they replace is freed on its own.

        Raises:
            ModelNotReadyError: The change was ended before, or its time was over.
        """
        if self._problem:
            raise ModelNotReadyError(self.name, reason=self._problem)
        self._problem = "its change was made already"
        swap = self._take()[0]
        try:
            swap()
        finally:
            self._ended(self)

    async def abort(self, reason: str = "its change was given up") -> None:
        """Free what was loaded, and leave all as it was; nothing happens where it was ended."""
        if self._problem:
            return
        self._problem = reason
        discard = self._take()[1]
        try:
            await discard()
        finally:
            self._ended(self)

    def _take(self) -> tuple[Callable[[], None], Callable[[], Awaitable[None]]]:
        """Take what ends the change, and with it the models: who keeps the change keeps none."""
        taken = self._swap, self._discard
        del self._swap, self._discard
        return taken


class Models:
    """All models of one server.

    Args:
        repository: Where they come from.
        threads: What a framework's pools may use for one call, where a model's settings don't say.
        tries_samples: Whether a model that was loaded has to answer its samples.
    """

    def __init__(
        self, repository: Repository, *, threads: int = 1, tries_samples: bool = True
    ) -> None:
        self._repository = repository
        self._threads = threads
        self._tries_samples = tries_samples
        self.traces = TraceSettings()
        self.arrivals = Arrivals()
        self.turns = Turns()
        self.loads = LoadStatistics()
        self._monitors = Monitors(self.get)
        self._entries: dict[str, dict[str, _Entry]] = {}
        # what the request's path reads: one look-up; version "" is the default version
        self._serving: dict[tuple[str, str], Model] = {}
        #: What served when the server was stopped, until all are closed.
        self._draining: dict[tuple[str, str], Model] = {}
        #: Called when models have come or gone.
        self.on_change: Callable[[], None] = _nothing
        #: The same by the paths of the REST API's inference.
        self.paths: dict[str, Model] = {}
        # a lock is kept while somebody holds it or waits: names come from callers
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        #: Prepared and not ended; each with what ends it when its time is over.
        self._changes: dict[Change, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        #: The processes of models that run in others.
        self._hosts = Hosts()
        #: What makes environments for loads that are under way, by model.
        self._making: dict[str, set[Running]] = {}
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="jackfield-load")
        self._opened = False
        self._started = False
        self._closed = False
        self._loads_all = True
        #: Decides, where there are several workers, in which of them a model is loaded: gets the
        #: model and what loads it here, in a thread.
        self.place: Place | None = None

    # ---- the request's path ----

    def get(self, name: str, version: str = "") -> Model:
        """Get a model that serves.

        Args:
            name: Its name.
            version: Its version; empty gets the un-versioned or else the newest ready one.

        Raises:
            ModelNotFoundError: There is none; close names are told.
            ModelNotReadyError: It is loading, unloading or failed to load; the reason is told.
        """
        model = self._serving.get((name, version))
        if model is None:
            raise self._absent(name, version)
        return model

    def get_peer(self, name: str, version: str) -> Model:
        """Get a model for another one, whose last requests may still need it when all close."""
        return self._draining.get((name, version)) or self.get(name, version)

    def _absent(self, name: str, version: str) -> JackfieldError:
        if not self._opened:
            return ServerNotReadyError(NOT_STARTED)
        versions = self._entries.get(name)
        if versions is None:
            return ModelNotFoundError(name, close=_lookalikes(name, self._entries))
        if version and version not in versions:
            return ModelNotFoundError(name, version, close=sorted(filter(None, versions)))
        entries = [versions[version]] if version else list(versions.values())
        reasons = {entry.reason or entry.state.lower() for entry in entries}
        return ModelNotReadyError(name, version, reason="; ".join(sorted(reasons)))

    # ---- what is there ----

    @property
    def problem(self) -> str:
        """Why the server is not ready; empty when it is.

        It is ready when everything was tried once and something serves (or nothing was asked for):
        a model that failed does not keep the others from serving.
        """
        entries = [entry for versions in self._entries.values() for entry in versions.values()]
        if not self._opened:
            return NOT_STARTED
        if not self._started:
            return "; ".join(["models are loading", *self._hold_ups()])
        if entries and not self._serving:
            return "no model is ready"
        return ""

    def _hold_ups(self) -> list[str]:
        """List what keeps models that are loading."""
        return [
            f"model '{name}': {entry.reason}"
            for name, versions in self._entries.items()
            for entry in versions.values()
            if entry.state is ModelState.LOADING and entry.reason
        ]

    def names(self) -> list[str]:
        """List the models that serve."""
        return sorted({name for name, _ in self._serving})

    def statistics(self, name: str = "", version: str = "") -> list[dict[str, object]]:
        """Give what models did so far, in the form of the statistics extension.

        Args:
            name: One model; empty gives all.
            version: One version; empty gives all of them.

        Raises:
            ModelNotFoundError: There is none.
            ModelNotReadyError: It does not serve.
        """
        if name:
            self.get(name, version)
        return [
            model.statistics.record(model.name, model.version)
            for model in self.loaded()
            if (not name or model.name == name) and (not version or model.version == version)
        ]

    def loaded(self) -> list[Model]:
        """List the models that serve, each version once, by name and version."""
        models = {(model.name, model.version): model for model in self._serving.values()}
        return [
            models[key] for key in sorted(models, key=lambda key: (key[0], version_key(key[1])))
        ]

    def versions(self, name: str) -> list[str]:
        """List the ready versions of a model, oldest first; un-versioned ones are left out."""
        entries = self._entries.get(name, {}).values()
        ready = [entry.source.version for entry in entries if entry.model is not None]
        return sorted(filter(None, ready), key=version_key)

    def metadata(self, name: str, version: str = "") -> ModelMetadata:
        """Get a model's metadata; raises as `get` does."""
        model = self.get(name, version)
        return msgspec.structs.replace(model.metadata, versions=self.versions(name))

    def state(self, name: str, version: str = "") -> IndexEntry:
        """Get the state of a model version.

        Raises:
            ModelNotFoundError: There is none.
        """
        model = self._serving.get((name, version))
        if model is not None:
            return _line(name, model.version, ModelState.READY, "", model)
        error = self._absent(name, version)
        if isinstance(error, ModelNotFoundError):
            raise error
        return IndexEntry(name, version, ModelState.UNAVAILABLE, str(error))

    def require(self, name: str) -> None:
        """Refuse a name that no model has.

        Raises:
            ModelNotFoundError: There is none.
            ServerNotReadyError: The server was not started.
        """
        if name not in self._entries:
            raise self._absent(name, "")

    async def list_wanted(self) -> list[str]:
        """List the models that serve or failed to load, and those that are new on disk.

        Those that others need come first.

        Raises:
            SettingsError: A folder served is gone.
        """
        wanted = {
            name
            for name, versions in self._entries.items()
            if any(entry.model or entry.reason.startswith(_FAILED) for entry in versions.values())
        }
        needs: dict[str, list[str]] = {name: [] for name in wanted}
        for source in await self._scan(must_exist=True):
            if source.name in wanted or (self._loads_all and source.name not in self._entries):
                needs.setdefault(source.name, []).extend(find_needs(source))
        return in_order(needs)

    async def index(self) -> list[IndexEntry]:
        """List all model versions, those on disk that were never loaded included."""
        sources = await self._scan()
        lines = {
            (name, version): _line(name, version, entry.state, entry.reason, entry.model)
            for name, versions in self._entries.items()
            for version, entry in versions.items()
        }
        for source in sources:
            line = IndexEntry(
                source.name, source.version, ModelState.UNAVAILABLE, source.problem or "not loaded"
            )
            lines.setdefault((source.name, source.version), line)
        return [lines[key] for key in sorted(lines, key=lambda key: (key[0], version_key(key[1])))]

    # ---- loading ----

    def open(self) -> None:
        """Begin to take requests, anew after a `close`; models come with `start`.

        Raises:
            RuntimeError: It is open.
        """
        if self._opened and not self._closed:
            message = "the server is started already"
            raise RuntimeError(message)
        if self._closed:
            # not cleared: what still loads for the run that was closed finds that it is too late
            self._entries = {}
            self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="jackfield-load")
        self._opened, self._started, self._closed = True, False, False

    async def start(
        self, *, load: bool = True, asked: Mapping[str, Mapping[str, object] | None] | None = None
    ) -> None:
        """Load every model; one that fails is UNAVAILABLE with its reason.

        Args:
            load: False only notes which models there are.
            asked: What callers have asked of models before, for a process that takes another's
                place: the parameters of the last load by model, None for one that was unloaded.
        """
        asked = asked or {}
        by_name: dict[str, list[ModelSource]] = {}
        for source in await self._scan():
            _warn(source)
            entry, parameters = self._note(source), asked.get(source.name, {} if load else None)
            if parameters is None:
                reason = "unloaded" if source.name in asked else "not loaded"
                entry.state, entry.reason = ModelState.UNAVAILABLE, reason
                continue
            overrides = decode_overrides(parameters, source.name)
            by_name.setdefault(source.name, []).append(_override(source, overrides))
        loads: dict[str, asyncio.Task[None]] = {}
        for name, versions in by_name.items():
            loads[name] = asyncio.ensure_future(self._load_first(name, versions, after=loads))
        await asyncio.gather(*loads.values())
        self._loads_all = load
        self._started = True

    async def load(self, name: str, parameters: Mapping[str, object] | None = None) -> None:
        """Load a model as it lies on disk now: all its versions, new, changed and old.

        All of them take the place of what served at once, or none does. Versions that are gone
        from the disk are unloaded.

        Args:
            name: The model.
            parameters: `config`, a JSON text, overrides some of its settings until the next load.

        Raises:
            InvalidRequestError: A parameter is unknown, or overrides what only the operator may.
            ModelNotFoundError: It is not on disk.
            ModelNotReadyError: A version failed to load; the reason is told.
            ServerNotReadyError: The server was not started.
        """
        change = await self.prepare(name, parameters)
        await change.commit()

    async def prepare(
        self, name: str, parameters: Mapping[str, object] | None = None, *, hold_s: float = HOLD_S
    ) -> Change:
        """Load a model beside what serves of it, for a swap that can't fail.

        Args:
            name: The model.
            parameters: As for `load`.
            hold_s: Seconds after which the change is given up if nobody ends it.

        Returns:
            What makes the change, or gives it up. One of a model is under way at a time: another
            one waits.

        Raises:
            InvalidRequestError: As for `load`; so do the others there. Nothing has changed then but
                the reasons that the index gives.
        """
        if not self._opened:
            raise ServerNotReadyError(NOT_STARTED)
        lock = self._lock(name)
        with self._make_for(name) as making:
            await lock.acquire()
            try:
                sources = await self._find(name, parameters or {})
                entries, before = self._entries, self._states(name)
                built = await self._build_all(name, sources, making)
            except BaseException:
                lock.release()
                # what the error still holds is freed when it was dealt with
                asyncio.get_running_loop().call_soon(self._freed)
                raise

        async def discard() -> None:
            self._restore(name, before, entries)
            freeing = self._free([each.model for each in built])
            built.clear()
            await freeing
            self._freed()

        def end(change: Change) -> None:
            self._changes.pop(change).cancel()
            lock.release()

        change = Change(name, swap=lambda: self._swap(name, built), discard=discard, ended=end)
        loop = asyncio.get_running_loop()
        self._changes[change] = loop.call_later(hold_s, self._expire, change, hold_s)
        return change

    def _expire(self, change: Change, hold_s: float) -> None:
        reason = f"its change was prepared and not ended within {hold_s:g} s"
        logger.warning("model '%s': %s", change.name, reason)
        self._follow(change.abort(reason))

    async def _find(self, name: str, parameters: Mapping[str, object]) -> list[ModelSource]:
        """Find the versions of a model on disk, some of their settings overridden."""
        found = await self._scan(refresh=True)
        sources = [source for source in found if source.name == name]
        if not sources:
            names = {source.name for source in found}
            raise ModelNotFoundError(name, close=_lookalikes(name, names))
        overrides = decode_overrides(parameters, name)
        sources = [_override(source, overrides) for source in sources]
        for source in sources:
            _warn(source)
        return sources

    async def _build_all(
        self, name: str, sources: Sequence[ModelSource], making: Running
    ) -> list[_Built]:
        """Load versions of a model beside what serves: all of them, or none.

        Raises:
            ModelNotReadyError: One failed, or the server stops.
        """
        entries, before = self._entries, self._states(name)
        for source in sources:
            self._announce(source)
        builds = [asyncio.ensure_future(self._build(source, {}, making)) for source in sources]
        are_all_built = False
        try:
            results = await asyncio.gather(*builds, return_exceptions=True)
            if self._closed or entries is not self._entries:
                raise ModelNotReadyError(name, reason="the server stops")
            built = [each for each in results if isinstance(each, _Built)]
            if are_all_built := len(built) == len(sources):
                return built
        finally:
            if not are_all_built:
                self._restore(name, before, entries)
                done = [each for each in builds if not each.cancelled() and not each.exception()]
                await self._free([each.result().model for each in done])
        reasons = [
            f"version {source.version} {reason}" if source.version else reason
            for source, result in zip(sources, results, strict=True)
            if isinstance(result, BaseException) and (reason := self._failed(source, result))
        ]
        if built:
            reasons.append("no version has changed: mend that, or leave it out by 'version_policy'")
        raise ModelNotReadyError(name, reason="; ".join(reasons))

    def _swap(self, name: str, built: Sequence[_Built]) -> None:
        """Let versions take the place of all that there was of a model."""
        for version in set(self._entries[name]) - {each.source.version for each in built}:
            self._retire(self._entries[name].pop(version).model)
        for each in built:
            self._put(each)
        self._route(name)
        self.on_change()

    def _put(self, built: _Built) -> None:
        """Let one version take its place; `_route` has to follow."""
        source, model, seconds = built
        self.loads.succeeded(source.name, source.version, seconds)
        entry = self._note(source)
        old, entry.source, entry.model = entry.model, source, model
        entry.state, entry.reason = ModelState.READY, ""
        if old is not None:
            old.successor = model
        self._retire(old)

    async def unload(self, name: str) -> None:
        """Unload all versions of a model, when their requests in flight are answered.

        A load that is under way is waited for, unless its environment is still being made.

        Raises:
            ModelNotFoundError: There is none.
        """
        self.give_up(name)
        async with self._lock(name):
            versions = self._entries.get(name)
            if versions is None:
                raise self._absent(name, "")
            freeing = self._free([entry.model for entry in versions.values() if entry.model])
            for entry in versions.values():
                entry.state, entry.reason, entry.model = ModelState.UNLOADING, "", None
            self._route(name)
            await freeing
            for entry in versions.values():
                entry.state, entry.reason = ModelState.UNAVAILABLE, "unloaded"
            if not self._closed and name not in {source.name for source in await self._scan()}:
                self._entries.pop(name, None)
        self._freed()

    def give_up(self, name: str) -> None:
        """End the loads of a model whose environment is still being made."""
        for making in self._making.get(name, ()):
            making.stop("given up, since the model is unloaded")

    async def close(self, timeout_s: float) -> None:
        """Unload everything; requests in flight have `timeout_s` seconds to end."""
        self._closed = True
        for makings in self._making.values():
            for making in makings:
                making.stop()
        entries = [entry for versions in self._entries.values() for entry in versions.values()]
        self._draining = dict(self._serving)
        self._serving.clear()
        self.paths.clear()
        models = [entry.model for entry in entries if entry.model is not None]
        for entry in entries:
            entry.state, entry.reason, entry.model = ModelState.UNLOADING, "the server stops", None
        changes = [asyncio.ensure_future(each.abort("the server stops")) for each in self._changes]
        deadline, left_s = asyncio.get_running_loop().time() + timeout_s, timeout_s
        while models:  # who calls others goes before them
            needed = {need for model in models for need in model.needs}
            first = [model for model in models if model.name not in needed] or models
            await asyncio.gather(*(model.close(left_s) for model in first))
            models = [model for model in models if model not in first]
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        self._draining = {}
        # versions that were replaced, or never served; one may hang in its runtime
        if closing := [*self._closing, *changes]:
            await asyncio.wait(closing, timeout=timeout_s)
        await asyncio.to_thread(self._hosts.close)  # of models that did not end in time
        self.traces.close()
        self._loaders.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def _make_for(self, name: str) -> Iterator[Running]:
        """Give what makes environments for one load, and end it with the load."""
        making, others = Running(), self._making.setdefault(name, set())
        others.add(making)
        try:
            yield making
        finally:
            making.stop("its load was given up")  # where it was cancelled
            others.discard(making)
            if not others:
                self._making.pop(name, None)

    def _note(self, source: ModelSource) -> _Entry:
        """Get the entry of a version, or make one."""
        versions = self._entries.setdefault(source.name, {})
        return versions.setdefault(source.version, _Entry(source))

    def _announce(self, source: ModelSource) -> None:
        """Say of a version that does not serve that it is loading."""
        entry = self._note(source)
        if entry.model is None:
            entry.state, entry.reason = ModelState.LOADING, ""

    def _failed(self, source: ModelSource, error: BaseException) -> str:
        """Tell why a version was not loaded; one that serves goes on."""
        if not isinstance(error, ModelLoadError):
            raise error
        self.loads.failed(source.name, source.version)
        logger.error("%s: %s", label_model(source.name, source.version), error)
        entry = self._note(source)
        if entry.model is None:
            entry.state = ModelState.UNAVAILABLE
        entry.reason = f"{_FAILED}: {error}"
        return entry.reason

    def _states(self, name: str) -> dict[str, tuple[ModelState, str]]:
        entries = self._entries.get(name, {})
        return {version: (entry.state, entry.reason) for version, entry in entries.items()}

    def _restore(
        self,
        name: str,
        states: Mapping[str, tuple[ModelState, str]],
        entries: dict[str, dict[str, _Entry]],
    ) -> None:
        """Say of a model what was said before a change that is given up."""
        if self._closed or entries is not self._entries:
            return
        versions = entries.get(name, {})
        for version in [*versions]:
            if version in states:
                versions[version].state, versions[version].reason = states[version]
            else:
                del versions[version]
        if not versions:
            entries.pop(name, None)

    async def _free(self, models: Sequence[Model]) -> None:
        """Free models that no path reaches; those whose calls may never end are not waited for."""
        for model in models:
            if model.problem:
                self._retire(model)
        await asyncio.gather(*(model.close() for model in models if not model.problem))

    async def _load_first(
        self, name: str, sources: Sequence[ModelSource], after: Mapping[str, asyncio.Task[None]]
    ) -> None:
        """Load the versions of a model at the server's start, each for itself.

        Args:
            name: The model.
            sources: Its versions.
            after: Loads that are under way, by model name: it waits for those of what it needs.
        """

        async def load(source: ModelSource, making: Running) -> None:
            self._announce(source)
            entries = self._entries
            try:
                built = await self._build(source, after, making)
            except ModelLoadError as error:
                if not self._closed and entries is self._entries:
                    self._failed(source, error)
                return
            if self._closed or entries is not self._entries:
                await built.model.close()
                return
            self._put(built)
            self._route(name)

        with self._make_for(name) as making:
            async with self._lock(name):
                await asyncio.gather(*(load(source, making) for source in sources))

    async def _await_needs(
        self, source: ModelSource, loads: Mapping[str, asyncio.Task[None]]
    ) -> Sequence[str]:
        """Wait until all that a model needs serves; returns their names.

        Raises:
            ModelLoadError: One of them doesn't.
        """
        needs = find_needs(source)
        if not needs:
            return needs
        known = {
            name: [need for entry in versions.values() for need in find_needs(entry.source)]
            for name, versions in self._entries.items()
        }
        if cycle := find_cycle({**known, source.name: needs}, source.name):
            way = " -> ".join(f"'{name}'" for name in cycle)
            raise ModelLoadError(f"models need each other, so that none can be loaded: {way}")
        for need in needs:
            if load := loads.get(need):
                await asyncio.wait([load])
            try:
                self.get(need)
            except JackfieldError as error:
                raise ModelLoadError(f"it needs the model '{need}': {error}") from error
        return needs

    async def _build(
        self, source: ModelSource, after: Mapping[str, asyncio.Task[None]], making: Running
    ) -> _Built:
        """Load one version beside what serves.

        Args:
            source: The version.
            after: Loads that are under way, by model name: it waits for those of what it needs.
            making: What makes its environment, where it has one.

        Raises:
            ModelLoadError: It can't be served, whatever the reason.
        """
        try:
            return await self._build_untranslated(source, after, making)
        except ModelLoadError:
            raise
        # one model's matter: the others load and serve
        except Exception as error:
            if self._closed:
                problem = "the server stops"
                raise ModelLoadError(problem) from error
            logger.exception("%s failed to load", label_model(source.name, source.version))
            is_ours = isinstance(error, JackfieldError)
            problem = str(error) if is_ours else f"{type(error).__name__}: {error}"
            raise ModelLoadError(problem) from error

    async def _build_untranslated(
        self, source: ModelSource, after: Mapping[str, asyncio.Task[None]], making: Running
    ) -> _Built:
        if source.remote:
            loop = asyncio.get_running_loop()
            source = await loop.run_in_executor(self._loaders, self._repository.fetch, source)
        async with self._resolved(source, making) as found:
            needs = await self._await_needs(found, after)
            started = perf_counter_ns()
            model = await self._construct(found, needs)
            return _Built(found, model, (perf_counter_ns() - started) * 1e-9)

    @contextlib.asynccontextmanager
    async def _resolved(self, source: ModelSource, making: Running) -> AsyncIterator[ModelSource]:
        """Find the runtime of a model that has an environment of its own, in there.

        Raises:
            ModelLoadError: There is none, or the environment can't be made.
        """
        if source.settings.own_environment is None or source.problem:
            yield source
            return
        loop, entry = asyncio.get_running_loop(), self._note(source)
        resolving = self._loaders.submit(resolve_in_host, source, self._hosts, loop, making)
        if entry.model is None:
            entry.reason = "its environment is being prepared"
        try:
            found = await asyncio.wrap_future(resolving)
        except asyncio.CancelledError:
            resolving.add_done_callback(_leave_unused)
            raise
        if entry.model is None:
            entry.reason = ""
            entry.source = found.source  # for others, which look whom this one needs
        try:
            yield found.source
        finally:
            await asyncio.to_thread(found.leave)

    async def _construct(self, source: ModelSource, needs: Sequence[str]) -> Model:
        threads = source.settings.threads or self._threads
        loop = asyncio.get_running_loop()
        peers = Peers(self.get_peer, loop)
        loading = self._loaders.submit(
            _load_somewhere, source, threads, self._hosts, loop, peers, self.place
        )
        try:
            loaded = await asyncio.wrap_future(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_close_unused)
            raise
        statistics = ModelStatistics()
        try:
            scheduler = choose_scheduler(
                source.name,
                loaded.runtime,
                loaded.capabilities,
                source.settings,
                loaded.metadata,
                statistics=statistics,
                arrivals=self.arrivals,
                bound=loaded.bound,
            )
        except ModelLoadError:
            await asyncio.to_thread(loaded.runtime.close)
            if loaded.bound is not None:
                loaded.bound.close()
            raise
        model = Model(
            source,
            loaded.runtime,
            loaded.metadata,
            scheduler=scheduler,
            statistics=statistics,
            capabilities=loaded.capabilities,
            traces=self.traces,
            routes=loaded.routes,
            metrics=loaded.metrics,
            bound=loaded.bound,
            needs=needs,
        )
        try:
            if self._tries_samples and await rehearse(
                model.infer, source, model.metadata, is_stateful=model.is_stateful
            ):
                statistics.clear()
            model.observers = self._monitors.create(
                source.name, source.version, source.settings.monitors, model.metadata
            )
        except ModelLoadError:
            await self._free([model])
            raise
        except BaseException:
            self._retire(model)  # its call may go on
            raise
        return model

    def _retire(self, model: Model | None) -> None:
        """Let a version that no path reaches answer its requests in flight, then free it."""
        if model is not None:
            self._follow(model.close())

    def _follow(self, work: Coroutine[None, None, None]) -> None:
        """Do what frees memory out of everybody's way."""
        task = asyncio.ensure_future(work)
        self._closing.add(task)
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        self._freed()

    def _freed(self) -> None:
        """Tell that models have gone, and let the system have their memory."""
        if not self._closed:
            self.on_change()
            self._loaders.submit(trim)

    def _route(self, name: str) -> None:
        """Work out anew which version each path of a model goes to."""
        ready = {
            version: entry.model
            for version, entry in self._entries.get(name, {}).items()
            if entry.model is not None
        }
        for key in [key for key in self._serving if key[0] == name]:
            del self._serving[key]
        for path in [path for path, model in self.paths.items() if model.name == name]:
            del self.paths[path]
        if ready and "" not in ready:  # an un-versioned model goes before all, as in MLServer
            ready[""] = ready[max(ready, key=version_key)]
        for version, model in ready.items():
            middle = f"/versions/{version}" if version else ""
            self._serving[name, version] = model
            self.paths[f"/v2/models/{name}{middle}/infer"] = model

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _scan(self, *, refresh: bool = False, must_exist: bool = False) -> list[ModelSource]:
        scan = functools.partial(self._repository.scan, refresh=refresh, must_exist=must_exist)
        return await asyncio.get_running_loop().run_in_executor(self._loaders, scan)


def _line(
    name: str, version: str, state: ModelState, reason: str, model: Model | None
) -> IndexEntry:
    """Tell a model version's state; one that does not come back from a call is not ready."""
    if model is not None and model.problem:
        return IndexEntry(name, version, ModelState.UNAVAILABLE, model.problem)
    return IndexEntry(name, version, state, reason)


#: Comparing takes time that grows with the square of the length, in characters.
_LONGEST_COMPARED = 200


def _lookalikes(name: str, known: Iterable[str]) -> list[str]:
    """Find names for a hint to the caller."""
    return difflib.get_close_matches(name, known, n=3) if len(name) <= _LONGEST_COMPARED else []


def _override(source: ModelSource, overrides: Mapping[str, object]) -> ModelSource:
    settings = msgspec.structs.replace(source.settings, **overrides)
    return dataclasses.replace(source, settings=settings)


def _warn(source: ModelSource) -> None:
    for warning in source.warnings:
        logger.warning("model '%s': %s", source.name, warning)


def _load_somewhere(
    source: ModelSource,
    threads: int,
    hosts: Hosts,
    loop: asyncio.AbstractEventLoop,
    peers: Peers,
    place: Place | None,
) -> Loaded:
    """Load in this thread, in another process, or where `place` has it."""

    def load() -> Loaded:
        if source.settings.is_isolated:
            return load_in_process(source, hosts, loop, threads=threads, find_peer=peers.find)
        return load_runtime(source, threads=threads, find_model=peers.model)

    return load() if place is None else place(source, load)


def _leave_unused(resolving: Future[Resolved]) -> None:
    """Let go of the host that was found for a load that was given up; runs in its thread."""
    if not resolving.cancelled() and resolving.exception() is None:
        resolving.result().leave()


def _close_unused(loading: Future[Loaded]) -> None:
    """Free what was loaded for a start that was given up; runs in the loader's thread."""
    if not loading.cancelled() and loading.exception() is None:
        try:
            loaded = loading.result()
            loaded.runtime.close()
            if loaded.bound is not None:
                loaded.bound.close()
        # foreign code, and nobody is left to be told
        except (Exception, SystemExit):
            logger.exception("a model that loaded too late failed to close")
