"""Load one model version: its runtime, what it takes and gives, and what may be done with it.

Runs in a loader's thread of the server, or in the model's own process. Foreign exceptions of a load
are translated here and nowhere else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from jackfield._code import import_class
from jackfield._label import label_model
from jackfield._own_code import load_own_code
from jackfield._routes import ModelRoute, find_routes
from jackfield._sources.digest import check_sha256
from jackfield._threads import ThreadBound
from jackfield.errors import JackfieldError, ModelLoadError
from jackfield.messages import ModelMetadata
from jackfield.runtime import Capabilities, ModelContext, Runtime, RuntimeSpec
from jackfield.settings import MODEL_FILE, decode_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client import Metric

    from jackfield._peers import SyncModel
    from jackfield._repository import ModelSource

logger = logging.getLogger("jackfield")


class OwnMetrics(Protocol):
    """What a model counts itself, as the server reads it."""

    def collect(self) -> Iterable[Metric]:
        """Give all its metrics."""


class Loaded(NamedTuple):
    """A model in memory, and what was found out about it."""

    runtime: Runtime
    metadata: ModelMetadata
    capabilities: Capabilities
    routes: Sequence[ModelRoute]
    metrics: OwnMetrics
    #: Bounds the pools of its framework; None where it is another process's matter.
    bound: ThreadBound | None = None


def load_runtime(
    source: ModelSource,
    *,
    threads: int = 1,
    find_model: Callable[[str, str], SyncModel] | None = None,
) -> Loaded:
    """Load a model in this thread.

    Args:
        source: The model.
        threads: What its framework's pools may use for one call.
        find_model: Finds a model of the same server; None where there is no server.

    Raises:
        ModelLoadError: It can't be served. Whatever foreign code raises becomes one; its trace is
            in the log.
    """
    bound = ThreadBound(threads)
    try:
        # a pool that loading left in this thread would stand against all later ones
        bound.apply_single()
        loaded = _load_untranslated(source, threads, bound, find_model)
    except BaseException as error:
        bound.close()
        if isinstance(error, JackfieldError):
            raise ModelLoadError(str(error)) from error
        # the seam where foreign code loads: its exception is logged whole and told in short;
        # SystemExit, if let through, would end the event loop
        if not isinstance(error, Exception | SystemExit):
            raise
        logger.exception("%s failed to load", label_model(source.name, source.version))
        problem = f"{type(error).__name__}: {error}"
        raise ModelLoadError(problem) from error
    bound.refresh()
    return loaded


def _load_untranslated(
    source: ModelSource,
    threads: int,
    bound: ThreadBound,
    find_model: Callable[[str, str], SyncModel] | None,
) -> Loaded:
    spec, settings = source.spec, source.settings
    if source.problem or spec is None:
        raise ModelLoadError(source.problem or "no runtime was found for it")
    if sha256 := settings.parameters.sha256:
        # the settings can't hold their own
        check_sha256(source.artifact, sha256, without=source.folder / MODEL_FILE)
    context = ModelContext(
        name=source.name,
        version=source.version,
        artifact=source.artifact,
        uri=source.uri,
        settings=settings,
        options=_options(source, spec),
        threads=threads,
        logger=logging.LoggerAdapter(
            logging.getLogger("jackfield.model"),
            {"model": source.name, "version": source.version},
        ),
        runtimes=source.runtimes,
        find_model=find_model,
    )
    runtime: Runtime
    if "." in spec.name:  # the model's own code, which lies in its folder
        runtime = own = load_own_code(spec.runtime, source.folder, context)
        routes = own.routes
    else:
        runtime = import_class(spec.runtime)(context)
        methods = ("load", "metadata", "infer", "close")
        if missing := [name for name in methods if not callable(getattr(runtime, name, None))]:
            problem = f"'{spec.runtime}' is no runtime: it has no {', '.join(missing)}"
            raise ModelLoadError(problem)
        routes = find_routes(runtime)
    runtime.load()
    try:
        metadata = _describe(source, runtime.metadata())
        capabilities = getattr(runtime, "capabilities", spec.capabilities)
        if not isinstance(capabilities, Capabilities):
            problem = f"its capabilities are {type(capabilities).__name__}, not Capabilities"
            raise ModelLoadError(problem)
    except BaseException:
        runtime.close()
        raise
    return Loaded(runtime, metadata, capabilities, routes, context.metrics, bound)


def _options(source: ModelSource, spec: RuntimeSpec) -> msgspec.Struct | None:
    if spec.options is None:
        return None
    options, warnings = decode_options(
        source.settings.parameters.extra,
        spec.options,
        source=str(source.folder),
        is_ours="." not in source.settings.implementation,
    )
    for warning in warnings:
        logger.warning("model '%s': %s", source.name, warning)
    return options


def _describe(source: ModelSource, derived: object) -> ModelMetadata:
    """Let the operator's settings go before what the runtime derived."""
    if not isinstance(derived, ModelMetadata):
        problem = f"its metadata is {type(derived).__name__}, not ModelMetadata"
        raise ModelLoadError(problem)
    settings = source.settings
    return msgspec.structs.replace(
        derived,
        name=source.name,
        platform=settings.platform or derived.platform,
        inputs=settings.inputs or derived.inputs,
        outputs=settings.outputs or derived.outputs,
    )
