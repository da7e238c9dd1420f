"""The CatBoost plugin: what it brings, told without importing CatBoost."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from jackfield import ArtifactFormat, Capabilities, RuntimeSpec, hookimpl

__all__ = ["CatboostOptions", "jackfield_runtimes"]


class CatboostOptions(Struct, frozen=True):
    """What `parameters.extra` in a model's settings may hold."""

    device: Annotated[
        Literal["cpu", "gpu"],
        Meta(description="Where `predict`, `predict_proba`, `predict_log_proba` and `raw` run."),
    ] = "cpu"
    labels: Annotated[
        tuple[str | int, ...],
        Meta(description="Labels of the classes instead of those in the artifact, in its order."),
    ] = ()
    missing_category: Annotated[
        str | None,
        Meta(
            description="Text that stood for a missing category or text in training, for example "
            "`nan`; by default a missing one is refused, as CatBoost does."
        ),
    ] = None


@hookimpl
def jackfield_runtimes() -> list[RuntimeSpec]:
    """Describe the CatBoost runtime."""
    return [
        RuntimeSpec(
            name="catboost",
            runtime="jackfield_catboost._runtime:CatboostRuntime",
            artifacts=(
                ArtifactFormat("model.cbm"),
                *(ArtifactFormat(each, by_content=True) for each in ("model.bin", "model.json")),
                ArtifactFormat("*.cbm"),
                *(ArtifactFormat(each, by_content=True) for each in ("*.bin", "*.json")),
            ),
            aliases=("mlserver_catboost.CatboostModel",),
            # Prediction writes nothing on the model, and trees look at one row at a time. CatBoost
            # holds the GIL only while it makes a pool of Python objects and an array of results.
            capabilities=Capabilities(row_wise=True, thread_safe=True, releases_gil=True),
            options=CatboostOptions,
            frameworks=("catboost",),
        )
    ]
