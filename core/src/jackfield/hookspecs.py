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

__all__ = ["PROJECT", "EngineSpec", "hookimpl", "hookspec"]

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
