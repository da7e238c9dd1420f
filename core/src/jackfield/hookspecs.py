"""The contract between the core and its plugins: every hook, documented where it is declared.

A plugin is a module that a distribution registers as an entry point of the group `jackfield`, with
functions marked `hookimpl`. Hooks wire, plain calls run: a hook is consulted at discovery, load,
start and stop, never for a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jackfield.runtime import RuntimeSpec

__all__ = ["PROJECT", "ArtifactSourceSpec", "EngineSpec", "hookimpl", "hookspec"]

#: pluggy's project name and the entry-point group.
PROJECT = "jackfield"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Describe an engine of ``jackfield score`` without importing its framework."""

    #: What ``--engine`` says; unique among the installed plugins.
    name: str
    #: ``module:Class``, imported when a job needs it: a `jackfield.score.ScoreEngine`. The class is
    #: called with nothing.
    engine: str
    #: Distributions of the framework, listed with their versions by ``jackfield plugins``.
    frameworks: tuple[str, ...] = ()


class ArtifactSourceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Describe where artifacts can be fetched from without importing a store's client."""

    #: Schemes of the URIs that it fetches, for example ``s3``, in lower case.
    schemes: tuple[str, ...]
    #: ``module:Class``, imported when a URI is fetched: a `jackfield.ArtifactSource`.
    source: str
    #: What to type where a package that it needs is missing.
    install: str = ""
    #: Distributions that it needs, listed with their versions by ``jackfield plugins``.
    packages: tuple[str, ...] = ()


# ---- discovery: once per process, before any model is known ----


@hookspec
def jackfield_runtimes() -> Sequence[RuntimeSpec]:
    """Describe the runtimes that this plugin brings.

    When:
        Discovery, once per process.

    Returns:
        A `RuntimeSpec` each. Empty brings none. The lists of all plugins are joined. A runtime
        name that two plugins claim is an error of the later one (by distribution name); the
        earlier one stays.

    Errors:
        What is raised is reported with the plugin's distribution and version, and the server goes
        on without that plugin.

    Example:
        ```python
        from jackfield import ArtifactFormat, RuntimeSpec, hookimpl


        @hookimpl
        def jackfield_runtimes():
            return [
                RuntimeSpec(
                    name="onnx",
                    runtime="jackfield_onnx._runtime:OnnxRuntime",
                    artifacts=(ArtifactFormat("*.onnx"),),
                )
            ]
        ```

    Since:
        0.1
    """
    raise NotImplementedError  # a specification: pluggy calls the implementations only


@hookspec
def jackfield_score_engines() -> Sequence[EngineSpec]:
    """Describe the engines of ``jackfield score`` that this plugin brings.

    When:
        Discovery, once per process.

    Returns:
        An `EngineSpec` each. Empty brings none. The lists of all plugins are joined. An engine
        name that two plugins claim is an error of the later one (by distribution name); the
        earlier one stays. "local" is the core's own.

    Errors:
        What is raised is reported with the plugin's distribution and version, and all goes on
        without that plugin.

    Example:
        ```python
        from jackfield import EngineSpec, hookimpl


        @hookimpl
        def jackfield_score_engines():
            return [
                EngineSpec(
                    name="spark",
                    engine="jackfield_mllib._score:SparkEngine",
                    frameworks=("pyspark",),
                )
            ]
        ```

    Since:
        0.1
    """
    raise NotImplementedError  # a specification: pluggy calls the implementations only


@hookspec
def jackfield_artifact_sources() -> Sequence[ArtifactSourceSpec]:
    """Describe where this plugin can fetch artifacts from.

    When:
        Discovery, once per process. The class that a spec names is imported when a model, or a
        path given to ``jackfield serve``, has a URI of one of its schemes.

    Returns:
        An `ArtifactSourceSpec` each. Empty brings none. The lists of all plugins are joined. A
        scheme that two plugins claim is an error of the later one (by distribution name); the
        earlier one stays. The core's own sources (``s3``, ``gs``, ``az``, ``hf``, ``https`` and
        others) stand back for a plugin that claims their scheme. A runtime that the settings name
        and that fetches the scheme itself (`RuntimeSpec.uri_schemes`) goes before all.

    Errors:
        What is raised is reported with the plugin's distribution and version, and the server goes
        on without that plugin.

    Example:
        ```python
        from pathlib import Path
        from urllib.request import url2pathname

        from jackfield import ArtifactSourceSpec, Listing, RemoteFile, hookimpl


        @hookimpl
        def jackfield_artifact_sources():
            return [ArtifactSourceSpec(schemes=("share",), source=f"{__name__}:Share")]


        class Share:  # a network share that is mounted, as share:/models/wine.ubj
            def __init__(self, options, *, timeout_s):
                self.root = Path(options.get("root", "/mnt/share"))

            def list_files(self, uri):
                place = self._place(uri)
                stat = place.stat()
                tag = f"{stat.st_mtime_ns} {stat.st_size}"
                file = RemoteFile(path=place.name, size=stat.st_size, tag=tag)
                return Listing(files=(file,), is_file=True)

            def fetch(self, uri, file, target, *, progress):
                data = self._place(uri).read_bytes()
                progress(len(data))
                target.write_bytes(data)

            def _place(self, uri):
                return self.root / url2pathname(uri.partition(":")[2]).lstrip("/")
        ```

    Since:
        0.1
    """
    raise NotImplementedError  # a specification: pluggy calls the implementations only
