"""``jackfield plugins`` and ``jackfield version``."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING

import click

from jackfield import __version__
from jackfield._cli.environment import allowed_plugins, read_environment
from jackfield._cli.output import print_json, print_table
from jackfield._plugins import discover

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jackfield._plugins import Plugin, Plugins
    from jackfield.hookspecs import ArtifactSourceSpec, EngineSpec
    from jackfield.runtime import RuntimeSpec


def list_plugins(*, trace: bool, as_json: bool) -> None:
    """Print each plugin with its version, hooks and runtimes, or what discovery did with it."""
    plugins = discover(allowed_plugins(read_environment()))
    found = plugins.plugins
    if as_json:
        print_json([_as_record(plugin) for plugin in found])
    elif trace:
        _print_trace(found)
    else:
        _print_list(found)
        _print_sources(plugins)
    for warning in plugins.warnings:
        click.echo(f"warning: {warning}", err=True)


def _print_trace(found: Sequence[Plugin]) -> None:
    """Print the steps of each plugin, in order, and what is wrong beside the last one."""
    rows = []
    for plugin in found:
        head = (plugin.name, f"{plugin.distribution} {plugin.version}")
        steps = [(step.name, f"{step.duration_ms:.1f}") for step in plugin.steps]
        notes = "; ".join(
            note
            for note in (plugin.problem and f"left out: {plugin.problem}", plugin.delay)
            if note
        )
        steps = steps or [("-", "")]
        rows += [(*head, *step, "") for step in steps[:-1]]
        rows.append((*head, *steps[-1], notes))
    print_table(("plugin", "distribution", "step", "ms", "note"), rows)
    total_ms = sum(step.duration_ms for plugin in found for step in plugin.steps)
    click.echo(f"{len(found)} plugins in {total_ms:.1f} ms")


def _print_list(found: Sequence[Plugin]) -> None:
    rows = []
    for plugin in found:
        head = (plugin.name, f"{plugin.distribution} {plugin.version}")
        rows += [
            (
                *head,
                spec.name,
                " ".join(each.pattern for each in spec.artifacts),
                _spell_frameworks(spec),
            )
            for spec in plugin.runtimes
        ]
        rows += [
            (*head, f"engine {spec.name}", "jackfield score", _spell_frameworks(spec))
            for spec in plugin.engines
        ]
        rows += [
            (*head, "source", " ".join(f"{scheme}:" for scheme in spec.schemes), "")
            for spec in plugin.sources
        ]
        if plugin.problem or not (plugin.runtimes or plugin.engines or plugin.sources):
            rows.append((*head, "-", plugin.problem and f"left out: {plugin.problem}", ""))
    print_table(("plugin", "distribution", "runtime", "artifacts", "framework"), rows)
    for plugin in found:
        for spec in plugin.runtimes:
            if spec.notice:
                click.echo(f"{spec.name}: {spec.notice}")
    if not found:
        print_hint()


def _print_sources(plugins: Plugins) -> None:
    """Tell where artifacts can be fetched from, and what that lacks."""
    described: dict[int, ArtifactSourceSpec] = {}
    schemes: dict[int, list[str]] = {}
    for scheme, spec in plugins.sources.items():
        described[id(spec)] = spec
        schemes.setdefault(id(spec), []).append(f"{scheme}:")
    for key, spec in described.items():
        found = _versions(spec.packages)
        lacks = "not installed" in found.values()
        about = ", ".join(f"{name} {version}" for name, version in found.items())
        about += f"; {spec.install}" if lacks and spec.install else ""
        click.echo(f"fetches {' '.join(schemes[key])}" + (f" ({about})" if about else ""))


def print_hint() -> None:
    """Say how to get a first plugin."""
    click.echo('no plugin is installed; try: pip install "jackfield[sklearn]"')


def list_versions(*, as_json: bool) -> None:
    """Print the versions that a bug report needs."""
    versions = {"jackfield": __version__, "python": platform.python_version()}
    for plugin in discover(allowed_plugins(read_environment())).plugins:
        versions[plugin.distribution] = plugin.version
        described: list[RuntimeSpec | EngineSpec] = [*plugin.runtimes, *plugin.engines]
        for spec in described:
            versions |= _frameworks(spec)
    if as_json:
        print_json(versions)
    else:
        print_table(("distribution", "version"), list(versions.items()))


def _spell_frameworks(spec: RuntimeSpec | EngineSpec) -> str:
    return ", ".join(f"{name} {version}" for name, version in _frameworks(spec).items())


def _frameworks(spec: RuntimeSpec | EngineSpec) -> dict[str, str]:
    return _versions(spec.frameworks)


def _versions(distributions: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _as_record(plugin: Plugin) -> dict[str, object]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "problem": plugin.problem or None,
        "hooks": plugin.hooks,
        "steps": plugin.steps,
        "imports": plugin.imports,
        "is_slow": bool(plugin.delay),
        "runtimes": [
            {
                "name": spec.name,
                "runtime": spec.runtime,
                "artifacts": spec.artifacts,
                "aliases": spec.aliases,
                "capabilities": spec.capabilities,
                "frameworks": _frameworks(spec),
                "notice": spec.notice or None,
            }
            for spec in plugin.runtimes
        ],
        "engines": [
            {"name": spec.name, "engine": spec.engine, "frameworks": _frameworks(spec)}
            for spec in plugin.engines
        ],
        "sources": [
            {
                "schemes": spec.schemes,
                "source": spec.source,
                "install": spec.install or None,
                "packages": _versions(spec.packages),
            }
            for spec in plugin.sources
        ],
    }
