"""Discovery: which plugins are installed and what they bring; a typed face on pluggy.

The one place that walks entry points. A plugin that fails is reported by distribution and version,
and the others go on.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import inspect
import re
import sys
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pluggy

from jackfield import __version__, _sources, hookspecs
from jackfield.errors import ModelLoadError, PluginError
from jackfield.hookspecs import ArtifactSourceSpec, EngineSpec
from jackfield.runtime import RuntimeSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from types import ModuleType

#: An import of a plugin that takes longer is told: all should be listed in well under a second.
SLOW_IMPORT_MS = 250.0


class Step(msgspec.Struct, frozen=True):
    """One thing that discovery did with a plugin: its import, or a call of one of its hooks."""

    name: str
    duration_ms: float


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """One installed plugin."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    runtimes: tuple[RuntimeSpec, ...] = ()
    engines: tuple[EngineSpec, ...] = ()
    sources: tuple[ArtifactSourceSpec, ...] = ()
    #: Why it is left out; empty for a plugin in use.
    problem: str = ""
    #: What was done with it, in order, until it failed.
    steps: tuple[Step, ...] = ()
    #: Top-level packages that its import brought in, beside its own and Python's.
    imports: tuple[str, ...] = ()

    @property
    def delay(self) -> str:
        """Why listing it takes too long; empty where it doesn't."""
        took_ms = sum(step.duration_ms for step in self.steps if step.name == _IMPORT)
        if took_ms < SLOW_IMPORT_MS:
            return ""
        imports = f", with {', '.join(self.imports)}" if self.imports else ""
        return f"slow: its import took {took_ms:.0f} ms{imports}"


class Plugins:
    """All plugins found, the runtimes that they bring, by name and by alias, and the engines.

    `sources` are what fetches artifacts, by scheme: the core's own, and plugins' before them.
    `warnings` tell the operator which plugins are left out, slow, or asked for and not there.
    """

    def __init__(self, plugins: Sequence[Plugin], *, absent: Sequence[str] = ()) -> None:
        self.plugins = tuple(plugins)
        self.warnings = [*_warn_of_absent(absent), *_warn_of(self.plugins)]
        self.runtimes: dict[str, RuntimeSpec] = {}
        for plugin in plugins:
            for spec in plugin.runtimes:
                self.runtimes[spec.name] = spec
        self.engines = {spec.name: spec for plugin in plugins for spec in plugin.engines}
        sources = [*_sources.jackfield_artifact_sources()]
        sources += [spec for plugin in plugins for spec in plugin.sources]
        self.sources = {scheme: spec for spec in sources for scheme in spec.schemes}
        self._named = {alias: spec for spec in self.runtimes.values() for alias in spec.aliases}
        self._named.update(self.runtimes)

    def find(self, implementation: str) -> RuntimeSpec | None:
        """Find a runtime by its name or an alias."""
        return self._named.get(implementation)

    def missing(self, implementation: str) -> ModelLoadError:
        """Say what to install, or which names there are."""
        framework = implementation.partition(".")[0].replace("-", "_")
        plugin_name = _KNOWN.get(framework.removeprefix("mlserver_"))
        extra = _EXTRAS.get(framework.removeprefix("mlserver_"), "")
        what = f"runtime '{implementation}'"
        text = self._missing(what, "its", plugin_name, self.runtimes, extra=extra)
        return ModelLoadError(text)

    def missing_engine(self, engine: str) -> str:
        """Say how to get an engine of ``jackfield score``, or which there are."""
        there = [LOCAL_ENGINE, *self.engines]
        return self._missing(f"engine '{engine}'", "the", _KNOWN_ENGINES.get(engine), there)

    def _missing(
        self,
        what: str,
        article: str,
        plugin_name: str | None,
        there: Collection[str],
        *,
        extra: str = "",
    ) -> str:
        for plugin in self.plugins:
            if plugin.problem and plugin.name == plugin_name:
                return (
                    f"{article} {what} comes with a plugin that is left out: "
                    f"{plugin.distribution} {plugin.version}: {plugin.problem}"
                )
        if plugin_name is not None:
            install = f'pip install "jackfield[{extra or plugin_name}]"'
            return f"no installed plugin has the {what}; install it: {install}"
        return f"no installed plugin has the {what}; installed are: {_join(there)}"


#: Runtime names, and the second half of MLServer's package names, -> the plugin that has it.
_KNOWN = {
    "sklearn": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "mlflow": "mlflow",
    "mllib": "mllib",
    "alibi_detect": "alibi",
    "alibi_explain": "alibi",
    "huggingface": "huggingface",
}
#: Those whose extra of the core is not called as the plugin.
_EXTRAS = {"alibi_detect": "alibi-detect", "alibi_explain": "alibi-explain"}
#: Engines of ``jackfield score`` -> the plugin that has it.
_KNOWN_ENGINES = {"spark": "mllib"}
#: The engine that needs no plugin.
LOCAL_ENGINE = "local"
#: Names that the plugins of others can't have.
OWN_PLUGINS = frozenset(_KNOWN.values())


def discover(only: Collection[str] | None = None) -> Plugins:
    """Find the installed plugins and ask each for its runtimes; no framework is imported.

    Args:
        only: Names of the plugins to use (``JACKFIELD_PLUGINS``); None uses all.
    """
    manager = _create_manager()
    trace = _Trace()
    manager.add_hookcall_monitoring(trace.before, trace.after)
    found: list[Plugin] = []
    # what the core has itself
    taken = {("engine", LOCAL_ENGINE): hookspecs.PROJECT}
    entries = sorted(importlib.metadata.entry_points(group=hookspecs.PROJECT), key=_origin)
    for entry in entries:
        if only is not None and entry.name not in only:
            continue
        metadata = entry.dist.metadata if entry.dist else {"Name": entry.name, "Version": "?"}
        distribution, version = metadata["Name"], metadata["Version"]
        trace.restart()
        try:
            _check_requirements(entry)
            hooks = _register(manager, entry, trace)
            runtimes = _ask(manager, entry.name, "jackfield_runtimes", RuntimeSpec)
            engines: tuple[EngineSpec, ...] = ()
            if "jackfield_score_engines" in hooks:
                engines = _ask(manager, entry.name, "jackfield_score_engines", EngineSpec)
            sources: tuple[ArtifactSourceSpec, ...] = ()
            if "jackfield_artifact_sources" in hooks:
                sources = _ask(
                    manager, entry.name, "jackfield_artifact_sources", ArtifactSourceSpec
                )
            names = [("runtime", name) for spec in runtimes for name in (spec.name, *spec.aliases)]
            names += [("engine", spec.name) for spec in engines]
            names += [("scheme", scheme) for spec in sources for scheme in spec.schemes]
            claimed: dict[tuple[str, str], str] = {}
            for what, name in names:
                if other := taken.get((what, name)) or claimed.get((what, name)):
                    raise _broken(f"its {what} '{name}' is {other}'s already")
                claimed[what, name] = distribution
            taken |= claimed
        # a plugin's import and hooks are foreign code: whatever they raise is theirs, and named
        except (Exception, SystemExit) as error:  # noqa: BLE001
            problem = error.problem if isinstance(error, PluginError) else _describe(error)
            plugin = Plugin(
                name=entry.name, distribution=distribution, version=version, problem=problem
            )
        else:
            plugin = Plugin(
                name=entry.name,
                distribution=distribution,
                version=version,
                hooks=hooks,
                runtimes=runtimes,
                engines=engines,
                sources=sources,
            )
        imports = trace.imports(entry.module)
        found.append(msgspec.structs.replace(plugin, steps=tuple(trace.steps), imports=imports))
    installed = {entry.name for entry in entries}
    return Plugins(found, absent=[name for name in only or () if name not in installed])


def _origin(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    return entry.dist.name if entry.dist else "", entry.name


def _create_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _register(
    manager: pluggy.PluginManager, entry: importlib.metadata.EntryPoint, trace: _Trace
) -> tuple[str, ...]:
    with trace.timing(_IMPORT):
        module = entry.load()
    try:
        # on trial: of a plugin that fails half-way, the hooks before that stay registered
        _create_manager().register(module)
    except pluggy.PluginValidationError as error:
        raise _broken(_mismatch(manager, module) or " ".join(str(error).split())) from error
    manager.register(module, name=entry.name)
    hooks = tuple(hook.name for hook in manager.get_hookcallers(module) or ())
    unknown = [hook for hook in hooks if getattr(manager.hook, hook).spec is None]
    if unknown:
        manager.unregister(module)
        raise _broken(f"it implements hooks that this version has not: {', '.join(unknown)}")
    return hooks


def _mismatch(manager: pluggy.PluginManager, module: ModuleType) -> str:
    """Say which hook takes what this version does not give."""
    for name in dir(module):
        spec = getattr(getattr(manager.hook, name, None), "spec", None)
        if manager.parse_hookimpl_opts(module, name) is None or spec is None:
            continue
        given = spec.argnames
        taken = inspect.signature(getattr(module, name)).parameters
        more = [each for each in taken if each not in given]
        if more:
            return (
                f"its hook {name} takes {', '.join(more)}, which jackfield {__version__} does "
                f"not give; it gives: {', '.join(given) or 'nothing'}"
            )
    return ""


_Spec = TypeVar("_Spec", RuntimeSpec, EngineSpec, ArtifactSourceSpec)


def _ask(
    manager: pluggy.PluginManager, name: str, hook: str, kind: type[_Spec]
) -> tuple[_Spec, ...]:
    """Ask one plugin, so that what it raises is known to be its own."""
    others = [plugin for other, plugin in manager.list_name_plugin() if other != name]
    caller = manager.subset_hook_caller(hook, remove_plugins=others)
    specs: list[_Spec] = []
    for spec in (spec for answer in caller() for spec in answer):
        if not isinstance(spec, kind):
            raise _broken(f"{hook} gave {type(spec).__name__}, not {kind.__name__}")
        specs.append(spec)
    return tuple(specs)


def _broken(problem: str) -> PluginError:
    return PluginError("", "", problem)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


_IMPORT = "import"


class _Trace:
    """Times what discovery does, with one plugin after the other."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Turn to the next plugin."""
        self.steps: list[Step] = []
        self._before = set(sys.modules)
        self._began = 0.0

    @contextlib.contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Time a step, one that fails too."""
        began = perf_counter()
        try:
            yield
        finally:
            self.steps.append(Step(name, 1000 * (perf_counter() - began)))

    def before(self, hook: str, implementations: object, arguments: object) -> None:
        """Be told by pluggy that a hook is called."""
        self._began = perf_counter()

    def after(self, outcome: object, hook: str, implementations: object, arguments: object) -> None:
        """Be told by pluggy that it returned or raised."""
        self.steps.append(Step(hook, 1000 * (perf_counter() - self._began)))

    def imports(self, module: str) -> tuple[str, ...]:
        """Name the packages that came in since `restart`."""
        own = {module.partition(".")[0], hookspecs.PROJECT, *sys.stdlib_module_names}
        new = {name.partition(".")[0] for name in set(sys.modules) - self._before}
        return tuple(sorted(name for name in new - own if not name.startswith("_")))


def _warn_of(plugins: Sequence[Plugin]) -> Iterator[str]:
    for plugin in plugins:
        who = f"plugin '{plugin.distribution}' {plugin.version}"
        if plugin.problem:
            yield f"{who} is left out: {plugin.problem}"
        if plugin.delay:
            yield f"{who} is {plugin.delay}"


def _warn_of_absent(names: Sequence[str]) -> Iterator[str]:
    entries = {entry.name for entry in importlib.metadata.entry_points(group=hookspecs.PROJECT)}
    for name in names:
        close = difflib.get_close_matches(name, entries, n=1)
        hint = f"did you mean '{close[0]}'" if close else f"there are: {_join(entries)}"
        yield f"no installed plugin has the name '{name}' (JACKFIELD_PLUGINS); {hint}"


def _join(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _check_requirements(entry: importlib.metadata.EntryPoint) -> None:
    """Refuse a plugin whose distribution asks for another version of the core."""
    for requirement in (entry.dist.requires if entry.dist else None) or ():
        found = _REQUIREMENT.fullmatch(requirement.strip())
        if found and not _is_met(found["versions"], __version__):
            wanted = found["versions"].strip("() ")
            raise _broken(f"it is built for jackfield {wanted}, and this is {__version__}")


#: A requirement on the core. One with a marker (an extra, a platform) is left to the installer.
_REQUIREMENT = re.compile(
    r"jackfield\s*(\[[^]]*\])?\s*(?P<versions>([(<>=!~][^;]*)?)", re.IGNORECASE
)
_BOUND = re.compile(r"(?P<sign>[<>]=?|[=!~]=)\s*(?P<release>\d+(\.\d+)*)(?P<more>\.\*)?")


def _is_met(versions: str, version: str) -> bool:
    """Compare releases only: a development version counts as the release that it leads to."""
    here = _release(version)
    for bound in _BOUND.finditer(versions):
        wanted = _release(bound["release"])
        size = max(len(here), len(wanted))
        one, other = (each + (0,) * (size - len(each)) for each in (here, wanted))
        is_within = here[: len(wanted)] == wanted if bound["more"] else one == other
        is_met = {
            "<": one < other,
            "<=": one <= other,
            ">": one > other,
            ">=": one >= other,
            "~=": one >= other and here[: len(wanted) - 1] == wanted[:-1],
            "==": is_within,
            "!=": not is_within,
        }[bound["sign"]]
        if not is_met:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
