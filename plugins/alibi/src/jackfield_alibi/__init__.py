"""The Alibi plugin: detectors and explainers, told without importing either package."""

from __future__ import annotations

from jackfield import ArtifactFormat, Capabilities, RuntimeSpec, hookimpl
from jackfield_alibi._detect._options import DetectOptions
from jackfield_alibi._explain._options import ExplainOptions
from jackfield_alibi._licence import notice

__all__ = ["DetectOptions", "ExplainOptions", "jackfield_runtimes"]


@hookimpl
def jackfield_runtimes() -> list[RuntimeSpec]:
    """Describe the runtimes of detectors and explainers."""
    return [
        RuntimeSpec(
            name="alibi-detect",
            runtime="jackfield_alibi._detect._runtime:DetectRuntime",
            # all are consent to run code: a configuration names pickles beside it
            artifacts=tuple(
                ArtifactFormat(pattern, is_folder=True, by_content=True, executes_code=True)
                for pattern in (
                    "config.toml",
                    "meta.dill",
                    "meta.pickle",
                    "detector.joblib",
                    "detector.dill",
                    "detector.pkl",
                )
            ),
            aliases=("mlserver_alibi_detect.AlibiDetectRuntime",),
            capabilities=Capabilities(stateful=True),
            options=DetectOptions,
            frameworks=("alibi-detect",),
            notice=notice("alibi-detect", free="0.11.4"),
        ),
        RuntimeSpec(
            name="alibi-explain",
            runtime="jackfield_alibi._explain._runtime:ExplainRuntime",
            aliases=("mlserver_alibi_explain.AlibiExplainRuntime",),
            options=ExplainOptions,
            frameworks=("alibi", "shap"),
            notice=notice("alibi", free="0.9.4"),
        ),
    ]
