"""Explainers of a model as a whole, on the rows of a request: curves and importances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield import InvalidRequestError
from jackfield_alibi._explain._alibi import (
    AlibiEngine,
    by_place,
    categories_of,
    constructor_arguments,
    make_explainer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jackfield_alibi._explain._explanation import Explanation, Instances, Material, Progress


def _names(material: Material) -> list[str] | None:
    return list(material.feature_names) or None


def _targets(material: Material) -> list[str] | None:
    return list(material.target_names) or None


class CurveEngine(AlibiEngine):
    """One that takes features by their places, single or in pairs, and grids of points."""

    def _arguments(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        arguments = dict(parameters)
        if isinstance(features := arguments.get("features"), list):
            arguments["features"] = [
                tuple(each) if isinstance(each, list) else each for each in features
            ]
        if isinstance(points := by_place(arguments.get("grid_points")), dict):
            arguments["grid_points"] = {key: np.asarray(each) for key, each in points.items()}
        if isinstance(percentiles := arguments.get("percentiles"), list):
            arguments["percentiles"] = tuple(percentiles)
        return arguments

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain the target on these rows; see `Engine`."""
        width = np.shape(instances)[1]
        for each in parameters.get("features") or ():
            for place in each if isinstance(each, list | tuple) else [each]:
                if not isinstance(place, int) or not 0 <= place < width:
                    raise InvalidRequestError(
                        "parameters.explain_parameters.features",
                        expected=f"places of features, 0 to {width - 1}",
                        found=repr(place),
                    )
        return super().explain(instances, parameters, progress)


class AleEngine(CurveEngine):
    """Accumulated local effects."""

    def __init__(self, material: Material) -> None:
        from alibi.explainers import ALE

        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            arguments = constructor_arguments(
                material, given, feature_names=_names(material), target_names=_targets(material)
            )
            return ALE(predictor, **arguments)

        super().__init__(material.kind, make_explainer(material, build))


class PartialDependenceEngine(CurveEngine):
    """Partial dependence, and individual conditional expectation."""

    def __init__(self, material: Material) -> None:
        from alibi.explainers import PartialDependence

        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            return PartialDependence(predictor, **_dependence(material, given))

        super().__init__(material.kind, make_explainer(material, build))


class PartialDependenceVarianceEngine(CurveEngine):
    """Importance and interaction of features, by how much partial dependence varies."""

    def __init__(self, material: Material) -> None:
        from alibi.explainers import PartialDependenceVariance

        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            return PartialDependenceVariance(predictor, **_dependence(material, given))

        super().__init__(material.kind, make_explainer(material, build))


class PermutationImportanceEngine(CurveEngine):
    """How much worse the target is when a feature's values are shuffled."""

    takes_labels = True

    def __init__(self, material: Material) -> None:
        from alibi.explainers import PermutationImportance

        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            usual: dict[str, object] = {}
            if not {"loss_fns", "score_fns"} & set(given):
                usual = {"score_fns": "accuracy"} if material.is_classifier else {"score_fns": "r2"}
            arguments = constructor_arguments(
                material, given, feature_names=_names(material), **usual
            )
            return PermutationImportance(predictor, **arguments)

        super().__init__(material.kind, make_explainer(material, build))
        self.parameters = {key: each for key, each in self.parameters.items() if key != "y"}

    def _arguments(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        arguments = super()._arguments(parameters)
        if arguments.get("sample_weight") is not None:
            arguments["sample_weight"] = np.asarray(arguments["sample_weight"], np.float64)
        return arguments


def _dependence(material: Material, given: Mapping[str, Any]) -> dict[str, Any]:
    return constructor_arguments(
        material,
        given,
        feature_names=_names(material),
        categorical_names=categories_of(material),
        target_names=_targets(material),
    )
