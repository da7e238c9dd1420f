"""The XGBoost plugin: what it brings, told without importing XGBoost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from jackfield import ArtifactFormat, Capabilities, RuntimeSpec, hookimpl

__all__ = ["XgboostOptions", "jackfield_runtimes"]

#: Forms that run nothing; MLServer's three come first.
_MODELS = (
    "model.bst",
    "model.json",
    "model.ubj",
    "model.deprecated",
    "*.ubj",
    "*.bst",
    "*.json",
    "*.model",
    "*.deprecated",
)
#: Others' files have these endings, too.
_COMMON = ("model.json", "model.deprecated", "*.json", "*.model", "*.deprecated")
_PICKLES = ("model.joblib", "model.pickle", "model.pkl", "*.joblib", "*.pickle", "*.pkl")


class XgboostOptions(Struct, frozen=True):
    """What `parameters.extra` in a model's settings may hold."""

    labels: Annotated[
        list[str | int | float | bool] | None,
        Meta(description="Labels of the classes, in the order of the training's 0, 1 and so on."),
    ] = None
    missing: Annotated[
        float | None,
        Meta(description="Number that stands for a missing value, beside NaN; default: NaN alone."),
    ] = None
    categories: Annotated[
        Mapping[str, list[str | int | float]],
        Meta(
            description="Feature -> its trained categories in the order of their codes, for a "
            "model that does not store them (XGBoost 3.1 and later does)."
        ),
    ] = {}
    unknown_category: Annotated[
        Literal["missing", "refuse"],
        Meta(description="What becomes of a category that was not trained."),
    ] = "missing"
    device: Annotated[
        str,
        Meta(
            pattern=r"^(cpu|cuda(:\d+)?)$",
            description="Where to compute: cpu, cuda or cuda:N.",
        ),
    ] = "cpu"


@hookimpl
def jackfield_runtimes() -> list[RuntimeSpec]:
    """Describe the XGBoost runtime."""
    artifacts = [ArtifactFormat(each, by_content=each in _COMMON) for each in _MODELS]
    artifacts += [ArtifactFormat(each, executes_code=True, by_content=True) for each in _PICKLES]
    return [
        RuntimeSpec(
            name="xgboost",
            runtime="jackfield_xgboost._runtime:XgboostRuntime",
            artifacts=tuple(artifacts),
            aliases=("mlserver_xgboost.XGBoostModel",),
            # XGBoost promises that trees predict in several threads at once; the runtime narrows
            # it for linear boosters. Its calls go through ctypes, which lets the GIL go.
            capabilities=Capabilities(row_wise=True, thread_safe=True, releases_gil=True),
            options=XgboostOptions,
            frameworks=("xgboost-cpu", "xgboost"),
        )
    ]
