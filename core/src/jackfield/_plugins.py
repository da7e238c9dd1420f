"""Discovery: which plugins are installed and what they bring; a typed face on pluggy.

The one place that walks entry points. A plugin that fails is reported by distribution and version,
and the others go on.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, cast

import msgspec
import pluggy

from jackfield import hookspecs
from jackfield.errors import ModelLoadError, PluginError
from jackfield.runtime import RuntimeSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """One installed plugin."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    runtimes: tuple[RuntimeSpec, ...] = ()
    #: Why it is left out; empty for a plugin in use.
    problem: str = ""


class Plugins:
    """All plugins found, and the runtimes that they bring, by name and by alias."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self.plugins = tuple(plugins)
        self.runtimes: dict[str, RuntimeSpec] = {}
        for plugin in plugins:
            for spec in plugin.runtimes:
                self.runtimes[spec.name] = spec
        self._named = {alias: spec for spec in self.runtimes.values() for alias in spec.aliases}
        self._named.update(self.runtimes)

    def find(self, implementation: str) -> RuntimeSpec | None:
        """Find a runtime by its name or an alias."""
        return self._named.get(implementation)

    def missing(self, implementation: str) -> ModelLoadError:
        """Say what to install, or which names there are."""
        framework = implementation.partition(".")[0].replace("-", "_")
        name = _KNOWN.get(framework.removeprefix("mlserver_"))
        for plugin in self.plugins:
            if plugin.problem and plugin.name == name:
                return ModelLoadError(
                    f"its runtime '{implementation}' comes with a plugin that is left out: "
                    f"{plugin.distribution} {plugin.version}: {plugin.problem}"
                )
        if name is not None:
            return ModelLoadError(
                f"no installed plugin has the runtime '{implementation}'; "
                f'install it: pip install "jackfield[{name}]"'
            )
        names = ", ".join(sorted(self.runtimes)) or "none"
        return ModelLoadError(
            f"no installed plugin has the runtime '{implementation}'; installed are: {names}"
        )


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


def discover(only: Collection[str] | None = None) -> Plugins:
    """Find the installed plugins and ask each for its runtimes; no framework is imported.

    Args:
        only: Names of the plugins to use (``JACKFIELD_PLUGINS``); None uses all.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    found: list[Plugin] = []
    taken: dict[str, str] = {}
    for entry in sorted(importlib.metadata.entry_points(group=hookspecs.PROJECT), key=_origin):
        if only is not None and entry.name not in only:
            continue
        metadata = entry.dist.metadata if entry.dist else {"Name": entry.name, "Version": "?"}
        distribution, version = metadata["Name"], metadata["Version"]
        try:
            hooks = _register(manager, entry)
            runtimes = _runtimes(manager, entry.name)
            claimed: dict[str, str] = {}
            for name in (name for spec in runtimes for name in (spec.name, *spec.aliases)):
                if other := taken.get(name) or claimed.get(name):
                    raise _broken(f"its runtime '{name}' is {other}'s already")
                claimed[name] = distribution
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
            )
        found.append(plugin)
    return Plugins(found)


def _origin(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    return entry.dist.name if entry.dist else "", entry.name


def _register(
    manager: pluggy.PluginManager, entry: importlib.metadata.EntryPoint
) -> tuple[str, ...]:
    module = entry.load()
    manager.register(module, name=entry.name)
    hooks = tuple(hook.name for hook in manager.get_hookcallers(module) or ())
    unknown = [hook for hook in hooks if getattr(manager.hook, hook).spec is None]
    if unknown:
        manager.unregister(module)
        raise _broken(f"it implements hooks that this version has not: {', '.join(unknown)}")
    return hooks


def _runtimes(manager: pluggy.PluginManager, name: str) -> tuple[RuntimeSpec, ...]:
    """Ask one plugin, so that what it raises is known to be its own."""
    others = [plugin for other, plugin in manager.list_name_plugin() if other != name]
    caller = manager.subset_hook_caller("jackfield_runtimes", remove_plugins=others)
    specs = [spec for answer in caller() for spec in answer]
    for spec in specs:
        if not isinstance(spec, RuntimeSpec):
            raise _broken(f"jackfield_runtimes gave {type(spec).__name__}, not RuntimeSpec")
    return tuple(cast("list[RuntimeSpec]", specs))


def _broken(problem: str) -> PluginError:
    return PluginError("", "", problem)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
