"""The models of a host, in the host: found, loaded, and what is called of them."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jackfield._label import label_model
from jackfield._loading import load_runtime
from jackfield._needs import find_needs
from jackfield._process.messages import Family, Loaded, LoadFailed, Resolved, Sample
from jackfield._process.routes import choose_routes, describe_routes
from jackfield._repository import ModelSource, Repository
from jackfield._scheduling import choose_stream, count_threads
from jackfield.errors import ModelLoadError
from jackfield.runtime import RuntimeSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from jackfield._loading import Loaded as LoadedModel
    from jackfield._loading import OwnMetrics
    from jackfield._peers import SyncModel
    from jackfield._plugins import Plugins
    from jackfield._process.messages import Load, Message, Place, Resolve, Spec
    from jackfield.messages import InferRequest, InferResponse

logger = logging.getLogger("jackfield")


class Hosted:
    """One model that is loaded here.

    Raises:
        ModelLoadError: It can't be served from here.
    """

    def __init__(self, load: Load, loaded: LoadedModel) -> None:
        self.number = load.model
        self.name = load.place.name
        self.version = load.place.version
        self.runtime = loaded.runtime
        self.metrics = loaded.metrics
        self.routes = choose_routes(loaded.routes, self.name, self.version)
        assert loaded.bound is not None, "load_runtime bounds what it loads"
        self._bound = loaded.bound
        self.stream = choose_stream(loaded.runtime, loaded.bound)
        #: What to call in a thread; None where `infer` is a coroutine function.
        self.infer: Callable[[InferRequest], InferResponse] | None = None
        # as many as the server's scheduler has computing at once
        self._threads = count_threads(loaded.capabilities, load.place.settings)
        if not inspect.iscoroutinefunction(loaded.runtime.infer):
            self.infer = self._infer
            self._plain = cast("Callable[[InferRequest], InferResponse]", loaded.runtime.infer)
        #: Whether the main thread alone is what it needs.
        self.is_serial = bool(
            self.infer is not None
            and self.stream is None
            and self._threads == 1
            and not self.routes
        )
        self._executor: ThreadPoolExecutor | None = None
        self.told = Loaded(
            self.number,
            loaded.metadata,
            loaded.capabilities,
            self.stream is not None,
            describe_routes(self.routes),
            is_plain=self.infer is not None,
        )

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Its own threads: it may wait there for another model of this process."""
        if self._executor is None:
            name = f"jackfield-infer-{self.number}"
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix=name)
        return self._executor

    def _infer(self, request: InferRequest) -> InferResponse:
        self._bound.apply()
        return self._plain(request)

    def bound_loop(self) -> None:
        """Bound the framework's pools in the loop's thread, for a coroutine function."""
        if self.infer is None:
            self._bound.apply()

    def close(self) -> None:
        """Free the runtime, when its threads are done."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        try:
            self.runtime.close()
        # foreign code, and the server waits for the end of it only
        except (Exception, SystemExit):
            logger.exception("%s failed to close", label_model(self.name, self.version))
        self._bound.close()

    def count(self) -> list[Family]:
        """Read the metrics that it counts itself."""
        return _families(self.metrics)


class Loader:
    """Finds and loads models here; for any thread.

    Args:
        find_for: Makes, of a model's number, what finds other models for it.
    """

    def __init__(self, find_for: Callable[[int], Callable[[str, str], SyncModel]]) -> None:
        self._find_for = find_for
        self._plugins: Plugins | None = None

    def load(self, load: Load) -> tuple[Message, Hosted | None]:
        """Load a model; returns what to tell the server."""
        try:
            source = self._source(load.place)
            loaded = load_runtime(
                source, threads=load.threads, find_model=self._find_for(load.model)
            )
            try:
                hosted = Hosted(load, loaded)
            except BaseException:
                loaded.runtime.close()
                raise
        except ModelLoadError as error:
            return _failed(load.model, error), None
        return hosted.told, hosted

    def resolve(self, resolve: Resolve) -> Message:
        """Find a model's runtime; returns what to tell the server."""
        try:
            source = self._source(resolve.place)
        except ModelLoadError as error:
            return _failed(resolve.model, error)
        spec = source.spec
        assert spec is not None, "a source without a problem has a spec"
        return Resolved(resolve.model, spec.name, list(find_needs(source)), spec.capabilities)

    def _source(self, place: Place) -> ModelSource:
        """Find out what to load.

        Raises:
            ModelLoadError: There is nothing that could be.
        """
        source = ModelSource(
            name=place.name,
            version=place.version,
            folder=Path(place.folder),
            settings=place.settings,
            artifact=Path(place.artifact) if place.artifact else None,
            uri=place.uri,
        )
        if place.spec is None:
            found = self._repository().resolve(source)
            if found.problem:
                raise ModelLoadError(found.problem)
            return found
        return dataclasses.replace(
            source,
            spec=_runtime_spec(place.spec),
            runtimes={spec.name: _runtime_spec(spec) for spec in place.runtimes},
        )

    def _repository(self) -> Repository:
        from jackfield._plugins import discover  # where an environment of its own has plugins

        if self._plugins is None:
            self._plugins = discover()
            for warning in self._plugins.warnings:
                logger.warning("%s", warning)
        return Repository([], self._plugins)


def _failed(model: int, error: Exception) -> LoadFailed:
    return LoadFailed(model, str(error).encode(errors="backslashreplace").decode())


def _runtime_spec(spec: Spec) -> RuntimeSpec:
    module, _, name = spec.options.partition(":")
    options: type[msgspec.Struct] | None = None
    if module:
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        options = cast("type[msgspec.Struct]", found)
    return RuntimeSpec(
        name=spec.name,
        runtime=spec.runtime,
        capabilities=spec.capabilities,
        options=options,
    )


def _families(metrics: OwnMetrics) -> list[Family]:
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Sample(each.name, dict(each.labels), each.value) for each in metric.samples],
        )
        for metric in metrics.collect()
    ]
