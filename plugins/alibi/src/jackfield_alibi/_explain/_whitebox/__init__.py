"""Explainers that look into their model, and SHAP values by whoever computes them best.

Each function chooses the engine of one kind among libraries. Nothing is imported before it is
needed: SHAP values of a booster need neither shap nor Alibi.

What the options mean here:

- `model` (or MLServer's `infer_uri`, or the artifact) is the model's file: `Material.model_file`.
- `library`: "shap", "alibi" or "booster". Without one, a saved explainer is Alibi's, `kernel_shap`
  is shap's, and `tree_shap` is the booster's own where that computes the same, else shap's. Under
  MLServer's class name the runtime sets "alibi".
- `reference` makes `tree_shap` interventional: the rows are its background.
- `init_parameters`, `fit_parameters`, `explain_parameters` have Alibi's names, whoever computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jackfield import ModelLoadError

if TYPE_CHECKING:
    from jackfield_alibi._explain._explanation import Engine, Material

__all__ = ["kernel_shap", "tree_shap"]


def kernel_shap(material: Material) -> Engine:
    """SHAP values of a model that is only asked."""
    library = material.options.library or ("shap" if material.saved is None else "alibi")
    if library == "booster":
        problem = (
            "'parameters.extra.library': 'booster' computes by trees; set 'explainer_type' to "
            "'tree_shap', or 'library' to 'shap' or 'alibi'"
        )
        raise ModelLoadError(problem)
    if library == "alibi":
        from jackfield_alibi._explain._blackbox import KernelShapEngine

        return KernelShapEngine(material)
    from jackfield_alibi._explain._whitebox._shap import KernelEngine

    return KernelEngine(material)


def tree_shap(material: Material) -> Engine:
    """SHAP values by the trees of the model."""
    from jackfield_alibi._explain._whitebox import _boosters

    library: str = material.options.library
    if material.model_file is None and library in ("", "booster") and material.saved is None:
        return _boosters.TargetEngine(material)
    from jackfield_alibi._explain._whitebox._models import read_model

    model = read_model(material)
    if not library:
        library = "alibi" if material.saved is not None else _boosters.fastest(material, model)
    if library == "booster":
        return _boosters.BoosterEngine(material, model)
    if library == "alibi":
        from jackfield_alibi._explain._whitebox._trees import AlibiTreeEngine

        return AlibiTreeEngine(material, model)
    from jackfield_alibi._explain._whitebox._shap import TreeEngine

    return TreeEngine(material, model)
