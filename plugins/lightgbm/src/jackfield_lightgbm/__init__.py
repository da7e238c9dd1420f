"""The LightGBM plugin: what it brings, told without importing LightGBM."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from jackfield import ArtifactFormat, Capabilities, RuntimeSpec, hookimpl

__all__ = ["LightGBMOptions", "jackfield_runtimes"]

#: MLServer's first.
_TEXTS = ("model.bst", "model.txt", "model.model", "*.bst", "*.lgb", "*.txt", "*.model")
#: Others' files have the other endings, too.
_OWN_TEXTS = ("model.bst", "*.bst", "*.lgb")
_PICKLES = ("model.joblib", "model.pickle", "model.pkl", "*.joblib", "*.pickle", "*.pkl")


class LightGBMOptions(Struct, frozen=True):
    """What `parameters.extra` in a model's settings may hold."""

    labels: Annotated[
        list[str | int | float | bool],
        Meta(
            description="Labels of the classes in the order of the trained numbers 0, 1, …; for a "
            "booster, which has none of its own."
        ),
    ] = []
    categorical_features: Annotated[
        list[str],
        Meta(
            description="Names of the columns that were pandas categories in training, in their "
            "order; needed only where the artifact leaves that open, which fails the load."
        ),
    ] = []


@hookimpl
def jackfield_runtimes() -> list[RuntimeSpec]:
    """Describe the LightGBM runtime."""
    return [
        RuntimeSpec(
            name="lightgbm",
            runtime="jackfield_lightgbm._runtime:LightGBMRuntime",
            artifacts=(
                *(ArtifactFormat(each, by_content=each not in _OWN_TEXTS) for each in _TEXTS),
                *(ArtifactFormat(each, executes_code=True, by_content=True) for each in _PICKLES),
            ),
            aliases=("mlserver_lightgbm.LightGBMModel",),
            capabilities=Capabilities(row_wise=True, thread_safe=True, releases_gil=True),
            options=LightGBMOptions,
            frameworks=("lightgbm",),
        )
    ]
