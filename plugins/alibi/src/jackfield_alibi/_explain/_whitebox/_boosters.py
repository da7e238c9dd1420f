"""SHAP values that boosters compute themselves: XGBoost, LightGBM and CatBoost.

Of a model's file, or of a model of this server, which is asked for its output `contributions`; no
second copy is made then. Imports neither shap nor Alibi.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from jackfield import Datatype, InvalidRequestError, ModelLoadError, TensorMetadata
from jackfield_alibi._explain._whitebox._layout import (
    CATEGORY_PARAMETERS,
    Labelling,
    Values,
    check_width,
    explain,
    join,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jackfield_alibi._explain._explanation import Explanation, Instances, Material, Progress
    from jackfield_alibi._explain._whitebox._layout import Array
    from jackfield_alibi._explain._whitebox._models import Model

#: Rows that are computed at once; between two parts it is seen who still waits.
_PART = 1024
#: Fewest rows that are divided among threads; XGBoost's wait for each other busily.
_WORTH_THREADS = 64
#: What plugins of trees call SHAP values with the expected value last.
CONTRIBUTIONS = "contributions"
_NO_REFERENCE = (
    "'parameters.extra.reference': a booster computes by the weights of its own trees, without "
    "reference data; leave it out, or set 'parameters.extra.library' to 'shap' and name the "
    "model's file in 'parameters.extra.model'"
)


def fastest(material: Material, model: Model) -> str:
    """Choose who computes: "booster" where it computes the same as shap does, else "shap".

    shap itself asks the boosters where there is no background; with one it walks their trees.
    """
    given = (material.options.init_parameters or {}).get("model_output", "raw")
    is_own = model.family != "sklearn" and material.reference is None and given == "raw"
    return "booster" if is_own else "shap"


class _Engine:
    """What both ways have in common."""

    method = "TreeShap"
    library = "booster"
    parameters: Mapping[str, object]
    _width: int | None
    _labelling: Labelling

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain them; see `Engine`."""
        rows = check_width(instances, self._width)
        asked = {**self.parameters, **parameters}
        parts = []
        for first in range(0, len(rows), _PART):
            part = rows[first : first + _PART]
            parts.append(self._values(part, asked))
            progress.explained(len(part))
        params = {key: bool(asked.get(key)) for key in ("interactions", "approximate")}
        extra = {"loss": [], "labels": np.array([])}
        return explain(self._labelling, join(parts), rows, asked, extra=extra, params=params)

    def _values(self, rows: Array, asked: Mapping[str, Any]) -> Values:
        raise NotImplementedError


class BoosterEngine(_Engine):
    """SHAP values of a booster's file, by the booster."""

    def __init__(self, material: Material, model: Model) -> None:
        if model.family == "sklearn":
            problem = (
                f"'{model.file}' is a {model.kind}, which does not compute SHAP values itself; set "
                "'parameters.extra.library' to 'shap'"
            )
            raise ModelLoadError(problem)
        if material.reference is not None:
            raise ModelLoadError(_NO_REFERENCE)
        self._compute = _COMPUTES[model.family](model, material.threads)
        self._width = cast("int", model.width)
        self.input: TensorMetadata | None = TensorMetadata("", Datatype.FP64, [-1, self._width])
        self.parameters = {**self._compute.parameters, **CATEGORY_PARAMETERS}
        self._labelling = _labelling(
            material,
            family=model.family,
            version=self._compute.version,
            task="classification" if model.is_classifier else "regression",
            names=material.feature_names or model.names,
        )

    def _values(self, rows: Array, asked: Mapping[str, Any]) -> Values:
        return self._compute.values(rows, asked)


class TargetEngine(_Engine):
    """SHAP values of a model that is served, by its own output `contributions`.

    The target is opened with `CONTRIBUTIONS` as its `infer_output`.
    """

    def __init__(self, material: Material) -> None:
        target = material.target
        if target is None:
            problem = (
                "the explainer 'tree_shap' looks into a model: name its file in "
                "'parameters.extra.model', or a model of trees of this server in "
                "'parameters.extra.target'"
            )
            raise ModelLoadError(problem)
        outputs = {each.name: each for each in target.metadata.outputs}
        if CONTRIBUTIONS in outputs and target.output_name != CONTRIBUTIONS:
            problem = (
                f"'parameters.extra.infer_output': expected '{CONTRIBUTIONS}', which is what "
                f"'tree_shap' asks the target '{target.name}' for, found '{target.output_name}'"
            )
            raise ModelLoadError(problem)
        if CONTRIBUTIONS not in outputs:
            found = ", ".join(f"'{each}'" for each in outputs) or "none that are told"
            problem = (
                f"the target '{target.name}' is no model of trees that computes SHAP values: "
                f"expected the output '{CONTRIBUTIONS}', found {found}; name the model's file in "
                "'parameters.extra.model', or take 'kernel_shap'"
            )
            raise ModelLoadError(problem)
        if material.reference is not None:
            raise ModelLoadError(_NO_REFERENCE)
        self._predict = target.predict
        # the expected value is a column more
        width = outputs[CONTRIBUTIONS].shape[-1] - 1
        self._width = width if width > 0 else None
        self.input: TensorMetadata | None = None
        self.parameters = {**CATEGORY_PARAMETERS}
        told = target.metadata.parameters
        library = str(target.metadata.platform).partition("_")[0]
        names: Any = outputs[CONTRIBUTIONS].parameters.get("columns", ())
        self._labelling = _labelling(
            material,
            family=library,
            version=str(told.get(f"{library}_version", "")),
            task="classification" if material.is_classifier else "regression",
            names=material.feature_names or tuple(map(str, names))[:-1],
        )

    def _values(self, rows: Array, asked: Mapping[str, Any]) -> Values:
        found = np.asarray(self._predict(rows), np.float64)
        return _split(found, found.sum(axis=-1), rows)


def _labelling(
    material: Material, *, family: str, version: str, task: str, names: tuple[str, ...]
) -> Labelling:
    given = (material.options.init_parameters or {}).get("task", task)
    return Labelling(
        kind=material.kind,
        name="TreeShap",
        library=family,
        version=version,
        is_whitebox=True,
        task=str(given),
        params={
            "model_output": "raw",
            "algorithm": "tree_path_dependent",
            "summarise_background": False,
            "explain_loss": False,
        },
        feature_names=names,
        categorical_names=material.categorical_names,
    )


def _split(
    contributions: Array, raw: Array, rows: Array, interactions: Array | None = None
) -> Values:
    """Divide what boosters answer: the last column is the expected value.

    Shapes: contributions [n, features + 1] or [n, outputs, features + 1]; interactions have one
    more dimension, of the same size as the last one.
    """
    each = contributions[:, None] if contributions.ndim == 2 else contributions
    per_pair = None
    if interactions is not None:
        whole = interactions[:, None] if interactions.ndim == 3 else interactions
        per_pair = [
            np.ascontiguousarray(whole[:, place, :-1, :-1]) for place in range(whole.shape[1])
        ]
    width = each.shape[-1] - 1
    if width != rows.shape[1]:
        raise InvalidRequestError(
            "inputs[0].shape", expected=f"[-1, {width}]", found=str(list(rows.shape))
        )
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    return Values(
        [np.ascontiguousarray(each[:, place, :-1]) for place in range(each.shape[1])],
        per_pair,
        each[0, :, -1].copy(),
        raw,
    )


class _Compute(Protocol):
    """One booster and how it is asked."""

    parameters: Mapping[str, object]
    version: str

    def values(self, rows: Array, asked: Mapping[str, Any]) -> Values:
        """Compute; `asked` has all of `parameters`."""


class _Xgboost:
    def __init__(self, model: Model, threads: int) -> None:
        import xgboost

        self.version = str(xgboost.__version__)
        self.parameters: Mapping[str, object] = {
            "interactions": False,
            "approximate": False,
            "tree_limit": None,
        }
        self._xgboost = xgboost
        self._booster = model.core
        self._threads = threads
        self._used = 0

    def values(self, rows: Array, asked: Mapping[str, Any]) -> Values:
        booster = self._booster
        threads = self._threads if len(rows) >= _WORTH_THREADS else 1
        if threads != self._used:
            booster.set_param({"nthread": threads})
            self._used = threads
        matrix = self._xgboost.DMatrix(np.asarray(rows, np.float32), nthread=1)

        def predict(**wanted: bool) -> Array:
            found = booster.predict(
                matrix,
                iteration_range=self._range(asked["tree_limit"]),
                validate_features=False,
                strict_shape=True,
                **wanted,
            )
            return np.asarray(found, np.float64)

        raw = predict(output_margin=True)
        if not asked["interactions"]:
            found = predict(pred_contribs=True, approx_contribs=bool(asked["approximate"]))
            return _split(found, raw, rows)
        pairs = predict(pred_interactions=True)
        return _split(pairs.sum(axis=-1), raw, rows, pairs)

    def _range(self, limit: int | None) -> tuple[int, int]:
        if limit is not None:
            rounds = self._booster.num_boosted_rounds()
            if not 0 < int(limit) <= rounds:
                raise InvalidRequestError(
                    "parameters.explain_parameters.tree_limit",
                    expected=f"1 to {rounds}, the number of rounds",
                    found=str(limit),
                )
            return (0, int(limit))
        try:
            return (0, int(self._booster.best_iteration) + 1)
        except AttributeError:  # it has none: training did not stop early
            return (0, 0)


class _LightGBM:
    parameters: Mapping[str, object] = {"tree_limit": None}

    def __init__(self, model: Model, threads: int) -> None:
        import lightgbm

        self.version = str(lightgbm.__version__)
        self._booster = model.core
        self._threads = threads
        self._outputs = model.outputs or 1

    def values(self, rows: Array, asked: Mapping[str, Any]) -> Values:
        given: dict[str, Any] = {"num_threads": self._threads if len(rows) >= _WORTH_THREADS else 1}
        if asked["tree_limit"] is not None:
            given["num_iteration"] = int(asked["tree_limit"])
        # it refuses other widths; with `predict_disable_shape_check` it would not
        found = np.asarray(self._booster.predict(rows, pred_contrib=True, **given))
        raw = np.asarray(self._booster.predict(rows, raw_score=True, **given))
        return _split(found.reshape(len(rows), self._outputs, -1), raw, rows)


class _CatBoost:
    parameters: Mapping[str, object] = {"interactions": False, "approximate": False}

    def __init__(self, model: Model, threads: int) -> None:
        import catboost

        self.version = str(catboost.__version__)
        self._catboost = catboost
        self._model = model.core
        self._threads = threads

    def values(self, rows: Array, asked: Mapping[str, Any]) -> Values:
        pool = self._catboost.Pool(np.asfortranarray(rows, np.float32), thread_count=1)
        threads = self._threads if len(rows) >= _WORTH_THREADS else 1
        raw = np.asarray(
            self._model.predict(pool, prediction_type="RawFormulaVal", thread_count=threads)
        )

        def explain(kind: str) -> Array:
            found = self._model.get_feature_importance(
                pool,
                type=kind,
                thread_count=threads,
                shap_calc_type="Approximate" if asked["approximate"] else "Regular",
            )
            return np.asarray(found, np.float64)

        if not asked["interactions"]:
            return _split(explain("ShapValues"), raw, rows)
        pairs = explain("ShapInteractionValues")
        return _split(pairs.sum(axis=-1), raw, rows, pairs)


_COMPUTES: Mapping[str, Callable[[Model, int], _Compute]] = {
    "xgboost": _Xgboost,
    "lightgbm": _LightGBM,
    "catboost": _CatBoost,
}
