"""The scikit-learn plugin: what it brings, told without importing scikit-learn."""

from __future__ import annotations

from typing import Annotated, Literal

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
    methods: Annotated[
        tuple[str, ...],
        Meta(description="Further methods of the estimator that are outputs on request."),
    ] = ()
    trusted_types: Annotated[
        tuple[str, ...],
        Meta(
            description="Types, module.name each, that a skops file may hold beside those that "
            "skops trusts by itself."
        ),
    ] = ()
    accelerate: Annotated[
        Literal["auto", "onnx", "off"],
        Meta(
            description="Serve the model by ONNX Runtime where that answers the same: auto if "
            "skl2onnx and ONNX Runtime are installed and one row is faster so; onnx warns if it "
            "can't be; off."
        ),
    ] = "auto"
    share_memory: Annotated[
        Literal["auto", "copy", "off"],
        Meta(
            description="Map the arrays of a joblib file that is not compressed, so that the "
            "workers of a server share them: auto if it was fetched from a URI, since nobody "
            "writes to what is in the cache; copy maps a copy in the cache of a local file, too; "
            "off."
        ),
    ] = "auto"
    samples: Annotated[
        str,
        Meta(
            description="File of rows that the accelerated form is compared on, beside generated "
            "ones: .npy, or .json with a list of rows; relative to the model's folder."
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
            artifacts=(
                ArtifactFormat("model.skops"),
                *(ArtifactFormat(each, executes_code=True) for each in patterns),
                ArtifactFormat("*.skops"),
            ),
            aliases=("mlserver_sklearn.SKLearnModel",),
            # Prediction writes nothing on a fitted estimator of scikit-learn, and computes row by
            # row. The runtime narrows both for a model where they don't hold. Most of the time
            # goes to checks written in Python, so that threads bring little speed; ONNX Runtime
            # releases the GIL.
            capabilities=Capabilities(row_wise=True, thread_safe=True, releases_gil=True),
            options=SklearnOptions,
            frameworks=("scikit-learn", "joblib"),
        )
    ]
