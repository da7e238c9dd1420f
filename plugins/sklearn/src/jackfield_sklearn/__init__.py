"""The scikit-learn plugin: what it brings, told without importing scikit-learn."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from jackfield import ArtifactFormat, Capabilities, RuntimeSpec, hookimpl

__all__ = ["SklearnOptions", "jackfield_runtimes"]


class SklearnOptions(Struct, frozen=True):
    """What `parameters.extra` in a model's settings may hold."""

    predict_fn: Annotated[
        str,
        Meta(
            description="Method that answers requests which name no output; by default predict, "
            "or transform where the estimator has no predict."
        ),
    ] = ""


@hookimpl
def jackfield_runtimes() -> list[RuntimeSpec]:
    """Describe the scikit-learn runtime."""
    patterns = ("model.joblib", "model.pickle", "model.pkl", "*.joblib", "*.pickle", "*.pkl")
    return [
        RuntimeSpec(
            name="sklearn",
            runtime="jackfield_sklearn._runtime:SklearnRuntime",
            artifacts=tuple(ArtifactFormat(each, executes_code=True) for each in patterns),
            aliases=("mlserver_sklearn.SKLearnModel",),
            # Prediction writes nothing on a fitted estimator of scikit-learn, and computes row by
            # row. The runtime narrows both for a model where they don't hold. Most of the time
            # goes to checks written in Python, so that threads bring little speed.
            capabilities=Capabilities(row_wise=True, thread_safe=True),
            options=SklearnOptions,
            frameworks=("scikit-learn", "joblib"),
        )
    ]
