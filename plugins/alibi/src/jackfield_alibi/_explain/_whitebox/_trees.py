"""What Alibi computes by the trees of a model: SHAP values, partial dependence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield import Datatype, ModelLoadError, TensorMetadata
from jackfield_alibi._explain._alibi import (
    AlibiEngine,
    categories_of,
    constructor_arguments,
    make_explainer,
)
from jackfield_alibi._explain._curves import CurveEngine
from jackfield_alibi._explain._whitebox._layout import check_width
from jackfield_alibi._explain._whitebox._models import read_model, refuse_misread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jackfield_alibi._explain._explanation import Explanation, Instances, Material, Progress
    from jackfield_alibi._explain._whitebox._models import Model


class AlibiTreeEngine(AlibiEngine):
    """SHAP values by Alibi's TreeShap."""

    def __init__(self, material: Material, model: Model) -> None:
        from alibi.explainers import TreeShap

        refuse_misread(model, has_background=material.reference is not None)

        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            usual: dict[str, object] = {
                "feature_names": list(material.feature_names or model.names) or None,
                "categorical_names": categories_of(material),
                "task": "classification" if model.is_classifier else "regression",
                "seed": material.options.seed,
            }
            explainer = TreeShap(predictor, **constructor_arguments(material, given, **usual))
            rows = material.reference
            return explainer.fit(rows, **material.options.fit_parameters)

        try:
            explainer = make_explainer(material, build, predictor=model.estimator)
        except ModelLoadError as error:
            if model.family == "sklearn":
                raise
            problem = (
                f"{error.problem}; set 'parameters.extra.library' to 'booster', without reference "
                f"data, to have '{model.file}' explained by its own library"
            )
            raise ModelLoadError(problem) from error
        super().__init__(material.kind, explainer)
        self._width = model.width
        if model.width is not None:
            self.input = TensorMetadata("", Datatype.FP64, [-1, model.width])

    def _arguments(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        arguments = dict(parameters)
        if arguments.get("y") is not None:
            arguments["y"] = np.asarray(arguments["y"])
        return arguments

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain them; see `Engine`."""
        return super().explain(check_width(instances, self._width), parameters, progress)


class TreeCurveEngine(CurveEngine):
    """Partial dependence by the trees themselves, and the importance that follows from it."""

    def __init__(self, material: Material) -> None:
        from alibi.explainers import PartialDependenceVariance, TreePartialDependence

        make = (
            TreePartialDependence
            if material.kind == "tree_partial_dependence"
            else PartialDependenceVariance
        )
        model = read_model(material)

        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            usual: dict[str, object] = {
                "feature_names": list(material.feature_names or model.names) or None,
                "categorical_names": categories_of(material),
                "target_names": list(material.target_names) or None,
            }
            arguments = constructor_arguments(material, given, **usual)
            return make(predictor, **arguments)

        super().__init__(material.kind, make_explainer(material, build, predictor=model.estimator))
        self._width = model.width
        if model.width is not None:
            self.input = TensorMetadata("", Datatype.FP64, [-1, model.width])

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain the model on these rows; see `Engine`."""
        return super().explain(check_width(instances, self._width), parameters, progress)
