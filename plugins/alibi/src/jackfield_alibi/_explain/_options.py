"""The settings of an explainer, told without importing Alibi or SHAP."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  msgspec reads it
from typing import Annotated, Any, Literal

from msgspec import Meta

from jackfield_alibi._explain._target_settings import TargetSettings

#: All kinds of explainers: MLServer's names, then ours.
KINDS = (
    "anchor_tabular",
    "anchor_text",
    "anchor_image",
    "kernel_shap",
    "integrated_gradients",
    "tree_shap",
    "tree_partial_dependence",
    "tree_partial_dependence_variance",
    "ale",
    "partial_dependence",
    "partial_dependence_variance",
    "permutation_importance",
    "cem",
    "counterfactual",
    "counterfactual_proto",
    "counterfactual_rl",
    "gradient_similarity",
)


class ExplainOptions(TargetSettings, frozen=True, kw_only=True):
    """What `parameters.extra` in an explainer's settings may hold."""

    explainer_type: Annotated[
        str,
        Meta(
            description="The kind of explainer: `anchor_tabular`, `kernel_shap`, `ale`, …; may be "
            "left out where a saved explainer tells it."
        ),
    ] = ""
    timeout_s: Annotated[
        float,
        Meta(ge=0, description="Time for one request's explanations, in seconds; 0 sets no bound."),
    ] = 0.0
    explainer_batch: Annotated[
        bool,
        Meta(
            description="MLServer's: explain all rows of a request. Has an effect under MLServer's "
            "class name only; else all rows are explained."
        ),
    ] = False
    init_parameters: Annotated[
        Mapping[str, Any] | None,
        Meta(
            description="Arguments of the explainer's constructor; it is built, not read from an "
            "artifact."
        ),
    ] = None
    fit_parameters: Annotated[
        Mapping[str, Any],
        Meta(description="Arguments of the explainer's `fit`, beside the reference data."),
    ] = {}
    explain_parameters: Annotated[
        Mapping[str, Any],
        Meta(description="Arguments of the explainer's `explain`; a request may set its own."),
    ] = {}
    model: Annotated[
        str,
        Meta(
            description="File of the model for explainers that look into it (`tree_shap`, "
            "`integrated_gradients`, …), in the artifact's folder or beside it."
        ),
    ] = ""
    reference: Annotated[
        str,
        Meta(
            description="File of the reference data, in the artifact's folder or beside it: `.npy`,"
            " `.npz`, `.csv`, `.parquet` or `.json`; never a pickle."
        ),
    ] = ""
    reference_labels: Annotated[
        str,
        Meta(
            description="File of the reference data's labels, of the same forms, for explainers "
            "that need them."
        ),
    ] = ""
    feature_names: Annotated[
        tuple[str, ...],
        Meta(description="Names of the features; those of the reference data or of the target."),
    ] = ()
    categorical_names: Annotated[
        Mapping[str, tuple[str, ...]],
        Meta(
            description="Names of the categories of each categorical feature, by its name or its "
            "place."
        ),
    ] = {}
    target_names: Annotated[
        tuple[str, ...], Meta(description="Names of the classes; those of the target by default.")
    ] = ()
    seed: Annotated[
        Annotated[int, Meta(ge=0, lt=2**32)] | None,
        Meta(
            description="Seed of each request's random numbers: the same row has the same "
            "explanation. Without, each differs a little."
        ),
    ] = None
    library: Annotated[
        Literal["", "shap", "alibi", "booster"],
        Meta(
            description="Who computes SHAP values: `shap`, `alibi` or the model's own `booster`; "
            "by default the fastest that is installed and gives the same."
        ),
    ] = ""
