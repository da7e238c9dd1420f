"""SHAP values by shap itself, of any version from 0.43: its answers in one layout.

Versions before 0.45 answer a list with an array for each output, later ones an array with the
outputs last.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from jackfield import Datatype, InvalidRequestError, JackfieldError, ModelLoadError, TensorMetadata
from jackfield_alibi._explain._explanation import StoppedError
from jackfield_alibi._explain._kernel import quicken
from jackfield_alibi._explain._random import drawing
from jackfield_alibi._explain._target import target_error
from jackfield_alibi._explain._whitebox._layout import (
    CATEGORY_PARAMETERS,
    Labelling,
    Values,
    check_width,
    explain,
    join,
    per_output,
)
from jackfield_alibi._explain._whitebox._models import refuse_misread

with warnings.catch_warnings():
    # of the libraries that shap imports; none is ours to mend
    warnings.simplefilter("ignore")
    import shap
    from shap.utils._exceptions import ExplainerError
    from shap.utils._legacy import DenseData

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jackfield_alibi._explain._explanation import Explanation, Instances, Material, Progress
    from jackfield_alibi._explain._whitebox._layout import Array
    from jackfield_alibi._explain._whitebox._models import Model

#: Rows for which the trees are asked at once; between two parts it is seen who still waits.
_PART = 256
#: Rows of reference data from which `summarise_background="auto"` summarises, as in Alibi.
_AUTO = {"kernel_shap": 300, "tree_shap": 1000}
#: Rows of a background that shap takes unless it is told otherwise.
_SHAP_TAKES = 100

#: It tells of background data above 100 rows; so do we.
logging.getLogger("shap").setLevel(logging.ERROR)


class TreeEngine:
    """SHAP values by shap's TreeExplainer.

    Without reference data the trees' own weights stand for it; with it they are interventional,
    and `model_output` may be "probability". Of more than 100 rows shap draws 100, the same ones
    each time; `fit_parameters.n_background_samples` with `summarise_background` takes another
    number.
    """

    method = "TreeShap"
    library = "shap"

    def __init__(self, material: Material, model: Model) -> None:
        self._model = model
        init = _Init(material, ("model_output",))
        self._output = str(init.given.get("model_output", "raw"))
        if self._output == "log_loss":
            problem = (
                "'parameters.extra.init_parameters.model_output': 'log_loss' is explained with "
                "'parameters.extra.library' set to 'alibi'"
            )
            raise ModelLoadError(problem)
        refuse_misread(model, has_background=material.reference is not None)
        background, is_summed = _background(material)
        rows = background
        perturbation = "tree_path_dependent" if rows is None else "interventional"
        self._explainer = _build(
            material, lambda: self._make(rows, perturbation, is_summed=is_summed), model
        )
        self.input: TensorMetadata | None = (
            None if model.width is None else TensorMetadata("", Datatype.FP64, [-1, model.width])
        )
        self.parameters: Mapping[str, object] = {
            "interactions": False,
            "approximate": False,
            "check_additivity": True,
            "tree_limit": None,
            **CATEGORY_PARAMETERS,
        }
        self._has_background = rows is not None
        self._labelling = Labelling(
            kind=material.kind,
            name=self.method,
            library=self.library,
            version=str(shap.__version__),
            is_whitebox=True,
            task=init.task or ("classification" if model.is_classifier else "regression"),
            params={
                "model_output": self._output,
                "algorithm": perturbation,
                "summarise_background": is_summed,
                "explain_loss": False,
            },
            feature_names=material.feature_names or model.names,
            categorical_names=material.categorical_names,
        )

    def _make(self, rows: Array | None, perturbation: str, *, is_summed: bool) -> Any:  # noqa: ANN401
        data: object = rows
        if rows is not None and is_summed:
            # else shap draws a hundred of them again
            data = shap.maskers.Independent(rows, max_samples=len(rows))
        return shap.TreeExplainer(
            self._model.estimator,
            data=data,
            model_output=self._output,
            feature_perturbation=perturbation,
        )

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain them; see `Engine`."""
        rows = check_width(instances, self._model.width)
        asked = {**self.parameters, **parameters}
        if asked["interactions"] and self._has_background:
            raise InvalidRequestError(
                "parameters.explain_parameters.interactions",
                expected="false, since this explainer has reference data",
                found="true",
            )
        parts = []
        for first in range(0, len(rows), _PART):
            part = rows[first : first + _PART]
            parts.append(self._values(part, asked))
            progress.explained(len(part))
        params = {key: asked[key] for key in ("interactions", "approximate")}
        extra = {"loss": [], "labels": np.array([])}
        return explain(self._labelling, join(parts), rows, asked, extra=extra, params=params)

    def _values(self, rows: Array, asked: Mapping[str, Any]) -> Values:
        limit = asked["tree_limit"]
        if asked["interactions"]:
            found = per_output(self._explainer.shap_interaction_values(rows, tree_limit=limit), 3)
            interactions: list[Array] | None = found
            shap_values = [each.sum(axis=2) for each in found]
        else:
            interactions = None
            shap_values = per_output(self._shap_values(rows, asked), 2)
        expected = np.atleast_1d(np.asarray(self._explainer.expected_value, np.float64))
        raw = np.asarray(self._raw(rows, limit), np.float64)
        if raw.ndim > 1 and raw.shape[-1] == 1:
            raw = raw[..., 0]
        if raw.ndim == 1 and len(shap_values) == 2:
            # shap before 0.45 turns LightGBM's one number for two classes into two
            shap_values, expected = shap_values[1:], expected[1:]
        return Values(shap_values, interactions, expected, raw)

    def _raw(self, rows: Array, limit: int | None) -> Any:  # noqa: ANN401
        model = self._model
        if not self._has_background:
            # shap walks these trees only with a background, and does not tell a Booster's classes
            if model.family == "catboost":
                return model.core.predict(rows, prediction_type="RawFormulaVal")
            if model.family == "lightgbm":
                return model.core.predict(rows, raw_score=True, num_iteration=limit)
        return self._explainer.model.predict(rows, tree_limit=limit)

    def _shap_values(self, rows: Array, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
        try:
            return self._explainer.shap_values(
                rows,
                tree_limit=asked["tree_limit"],
                approximate=bool(asked["approximate"]),
                check_additivity=bool(asked["check_additivity"]),
            )
        except ExplainerError as error:
            if "dditivity" not in str(error):
                raise
            raise InvalidRequestError(
                "parameters.explain_parameters.check_additivity",
                expected="false: the values of these rows do not add up to the raw prediction",
                found="true",
            ) from error


class KernelEngine:
    """SHAP values by shap's KernelExplainer: the target is asked about rows mixed with others.

    Each row draws its own random numbers, so that with a seed it has the same values alone and
    among others.
    """

    method = "KernelShap"
    library = "shap"

    def __init__(self, material: Material) -> None:
        init = _Init(material, ("link",))
        link = init.given.get("link", "identity")
        if link not in ("identity", "logit"):
            problem = (
                "'parameters.extra.init_parameters.link': expected 'identity' or 'logit', "
                f"found {link!r}"
            )
            raise ModelLoadError(problem)
        target = material.target
        if target is None:
            problem = (
                "the explainer 'kernel_shap' asks the model that it explains: name it in "
                "'parameters.extra.target', or give its address in 'parameters.extra.infer_uri'"
            )
            raise ModelLoadError(problem)
        background, is_summed = _background(material)
        if background is None:
            problem = (
                "the explainer 'kernel_shap' needs reference data: name its file in "
                "'parameters.extra.reference'"
            )
            raise ModelLoadError(problem)
        if len(background) > _SHAP_TAKES:
            material.logger.warning(
                "each row is mixed with all %d rows of the background; fewer are faster: set "
                "'summarise_background' and 'n_background_samples' in 'fit_parameters'",
                len(background),
            )
        self._predict = target.predict
        self._seed = material.options.seed
        data, names = _grouped(material, background)
        self._width = background.shape[1]
        self._explainer = _build(material, lambda: shap.KernelExplainer(self._ask, data, link=link))
        quicken(self._explainer)
        self.input: TensorMetadata | None = TensorMetadata("", Datatype.FP64, [-1, self._width])
        self.parameters: Mapping[str, object] = {
            "nsamples": "auto",
            "l1_reg": "auto",
            **CATEGORY_PARAMETERS,
        }
        is_vector = bool(self._explainer.vector_out)
        told = str(target.metadata.parameters.get("task", ""))
        is_classifier = material.is_classifier or (is_vector and not told.startswith("regress"))
        self._labelling = Labelling(
            kind=material.kind,
            name=self.method,
            library=self.library,
            version=str(shap.__version__),
            is_whitebox=False,
            task=init.task or ("classification" if is_classifier else "regression"),
            params={
                "link": link,
                "grouped": names is not None,
                "groups": material.options.fit_parameters.get("groups"),
                "group_names": names,
                "weights": material.options.fit_parameters.get("weights"),
                "summarise_background": is_summed,
            },
            feature_names=tuple(names) if names is not None else material.feature_names,
            categorical_names=material.categorical_names,
        )

    def _ask(self, rows: Array) -> Array:
        found = self._predict(rows)
        if found.dtype.kind not in "fiub":
            problem = (
                f"it explains numbers, and the target answers {found.dtype}: name an output such "
                "as 'predict_proba' in 'parameters.extra.infer_output'"
            )
            raise ModelLoadError(problem)
        return found

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain them one after the other; see `Engine`."""
        rows = check_width(instances, self._width)
        asked = {**self.parameters, **parameters}
        given = {key: asked[key] for key in ("nsamples", "l1_reg") if asked[key] != "auto"}
        found = []
        for place in range(len(rows)):
            if self._seed is not None:
                np.random.seed(self._seed)
            with warnings.catch_warnings():
                # of what scikit-learn thinks of the regressions in between
                warnings.simplefilter("ignore")
                row = self._explainer.shap_values(rows[place : place + 1], silent=True, **given)
            found.append(per_output(row, 2))
            progress.explained()
        raw = np.asarray(self._explainer.linkfv(self._ask(rows)), np.float64)
        expected = np.atleast_1d(np.asarray(self._explainer.expected_value, np.float64))
        shap_values = [np.concatenate(each) for each in zip(*found, strict=True)]
        return explain(self._labelling, Values(shap_values, None, expected, raw), rows, asked)


class _Init:
    """What an explainer's constructor takes, besides its model."""

    def __init__(self, material: Material, known: tuple[str, ...]) -> None:
        self.given = dict(material.options.init_parameters or {})
        names = (*known, "task", "feature_names", "categorical_names", "seed")
        for name in self.given:
            if name not in names:
                problem = (
                    f"'parameters.extra.init_parameters': expected names of {', '.join(names)} "
                    f"for {material.kind} by shap, found '{name}'"
                )
                raise ModelLoadError(problem)
        self.task = str(self.given.get("task", ""))
        if self.task not in ("", "classification", "regression"):
            problem = (
                "'parameters.extra.init_parameters.task': expected 'classification' or "
                f"'regression', found '{self.task}'"
            )
            raise ModelLoadError(problem)


def _background(material: Material) -> tuple[Array | None, bool]:
    """Give the rows of the background, and whether they were chosen or made of more of them.

    `fit_parameters` are Alibi's: with `summarise_background` (true, or "auto": where there are
    many) there are `n_background_samples` of them, drawn where there are categories, else centres.
    """
    rows = material.reference
    if rows is None:
        return None, False
    fit = material.options.fit_parameters
    most = _AUTO[material.kind]
    wanted, count = fit.get("summarise_background", False), fit.get("n_background_samples", most)
    if wanted == "auto":
        count = most
    if not wanted or len(rows) <= int(count):
        return rows, False
    if material.categorical_names or fit.get("groups"):
        with drawing(material.options.seed, _go_on):
            return np.asarray(shap.sample(rows, int(count))), True
    with drawing(material.options.seed or 0, _go_on), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cast("Array", shap.kmeans(rows, int(count)).data), True


def _go_on() -> None:
    """Wait for the turn, however long."""


def _grouped(material: Material, background: Array) -> tuple[object, list[str] | None]:
    """Have columns of one feature perturbed together, where `fit_parameters` say so."""
    fit = material.options.fit_parameters
    groups, weights = fit.get("groups"), fit.get("weights")
    width = background.shape[1]
    if groups is None:
        if weights is None:
            return background, None
        groups = [[place] for place in range(width)]
        names = list(material.feature_names) or [f"feature_{place}" for place in range(width)]
        return _dense(background, names, groups, weights), None
    names = [str(each) for each in fit.get("group_names") or ()]
    names = names or [f"group_{place}" for place in range(len(groups))]
    flat = sorted(int(place) for group in groups for place in group)
    if flat != list(range(width)) or len(names) != len(groups):
        problem = (
            f"'parameters.extra.fit_parameters.groups': expected each place of 0 to {width - 1} in "
            f"one group, and a name for each, found {len(groups)} groups of {len(flat)} places, "
            f"and {len(names)} names"
        )
        raise ModelLoadError(problem)
    return _dense(background, names, groups, weights), names


def _dense(background: Array, names: list[str], groups: Any, weights: Any) -> object:  # noqa: ANN401
    if weights is not None and len(weights) != len(background):
        problem = (
            f"'parameters.extra.fit_parameters.weights': expected {len(background)}, one for each "
            f"row of the background, found {len(weights)}"
        )
        raise ModelLoadError(problem)
    arrays = [np.asarray(group, np.intp) for group in groups]
    return DenseData(
        background, names, arrays, *(() if weights is None else (np.asarray(weights),))
    )


def _build(material: Material, make: Callable[[], Any], model: Model | None = None) -> Any:  # noqa: ANN401
    """Make shap's explainer.

    Raises:
        ModelLoadError: shap refuses, or the target does.
    """
    try:
        with drawing(material.options.seed, _go_on), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except (JackfieldError, StoppedError):
        raise
    # shap raises bare Exceptions, assertions and whatever a model raises
    except Exception as error:
        if (reason := target_error(error)) is not None:
            raise ModelLoadError(str(reason)) from error
        said = " ".join(str(error).split())
        hint = ""
        if model is not None and model.family != "sklearn":
            hint = "; set 'parameters.extra.library' to 'booster', without reference data"
        what = f"'{model.file}' ({model.kind})" if model is not None else "the target"
        problem = f"shap {shap.__version__} can't explain {what}: {type(error).__name__}: {said}"
        raise ModelLoadError(problem + hint) from error
