"""Serve a LightGBM model: load it, describe it, compute what a request asks for.

All that a request needs to know is decided in `load`; `infer` reads, calls and wraps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
from msgspec import structs

from jackfield import Datatype, ModelLoadError, ModelMetadata
from jackfield.tabular import Columns, Labels, Output, Outputs, RequestParameters, both_classes
from jackfield_lightgbm import LightGBMOptions
from jackfield_lightgbm._artifact import read
from jackfield_lightgbm._facts import Task, bounds_of, columns_of, facts_of
from jackfield_lightgbm._log import logging_to
from jackfield_lightgbm._predict import LightGBMParameters, Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jackfield import InferRequest, InferResponse, ModelContext, Parameter
    from jackfield_lightgbm._facts import Facts

#: Rows that are made up to try the model with.
_TRIALS = 12


class LightGBMRuntime:
    """One booster.

    `predict` answers requests that name no output: labels of a classifier, else values or scores.
    Under MLServer's class name it is what `Booster.predict` gives, probabilities for a classifier,
    and results of one dimension are answered as [n, 1].
    """

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        self._is_mlserver = context.settings.implementation.startswith("mlserver_")
        self._predictor: Predictor | None = None

    def load(self) -> None:
        """Read the artifact, find out what it computes and try each output with one row."""
        options = self._context.options
        if not isinstance(options, LightGBMOptions):
            options = LightGBMOptions()
        logger = self._context.logger
        found: Any = read(self._context.artifact, logger)
        with logging_to(logger):
            is_booster = isinstance(found, lightgbm.Booster)
            booster: lightgbm.Booster = found if is_booster else found.booster_
            facts = facts_of(booster)
            columns = columns_of(facts, options.categorical_features)
            self._columns = Columns(
                columns, are_named=facts.are_named, dtypes=(np.float32, np.float64)
            )
            #: LightGBM writes a space in a name as an underscore.
            self._has_underscores = facts.are_named and any("_" in each for each in facts.names)
            predictor = Predictor(
                booster,
                threads=self._context.threads,
                rows=_trial_rows(facts),
                logger=logger,
            )
            self._predictor = predictor
            self._parameters = RequestParameters(LightGBMParameters)
            labels = _labels(facts, options, None if is_booster else found)
            outputs = self._make_outputs(predictor, facts, labels)
            self._outputs = self._learn(outputs)
        self._metadata = self._describe(facts, "text" if is_booster else type(found).__name__)

    def metadata(self) -> ModelMetadata:
        """Say what was found when loading; outputs beside `predict` are on request."""
        return self._metadata

    def infer(self, request: InferRequest) -> InferResponse:
        """Compute what the request asks for, each output once.

        Shapes: `predict` is [n], or [n, classes] of an own objective with several; `predict_proba`
        is [n, classes]; `raw` is [n] or [n, classes]; `leaf` is [n, trees]; `contributions` is
        [n, features + 1] or [n, classes, features + 1]. Under MLServer's class name [n] is [n, 1].
        """
        if self._has_underscores:
            request = _with_underscores(request)
        return self._outputs.infer(request, self._columns.codes(request))

    def close(self) -> None:
        """Let go of the booster."""
        if self._predictor is not None:
            self._predictor.close()

    def _make_outputs(
        self, predictor: Predictor, facts: Facts, labels: Labels | None
    ) -> list[Output]:
        width, several = len(facts.names), facts.per_iteration > 1
        classes = {} if labels is None else labels.metadata
        per_class = classes if several else {}
        columns: dict[str, Parameter] = {}
        if facts.are_named:
            columns["columns"] = [*facts.names, "expected value"]
        shape = (-1, facts.per_iteration, width + 1) if several else (-1, width + 1)
        outputs = [
            Output("raw", predictor.raw, Datatype.FP64, parameters=classes),
            # an iteration has a leaf for each class; a request may ask for fewer iterations
            Output("leaf", predictor.leaf, Datatype.INT32, (-1, -1)),
            Output(
                "contributions",
                predictor.contributions,
                Datatype.FP64,
                shape,
                parameters={**per_class, **columns},
            ),
        ]
        if labels is None:
            return [Output("predict", predictor.normal, Datatype.FP64), *outputs]

        def label(found: NDArray[Any], _: LightGBMParameters) -> NDArray[Any]:
            return labels.of_probabilities(found)

        def both(data: NDArray[Any], asked: LightGBMParameters) -> NDArray[Any]:
            return both_classes(predictor.normal(data, asked))

        proba = predictor.normal if several else both
        chances = Output("predict_proba", proba, Datatype.FP64, parameters=classes)
        if self._is_mlserver:
            first = Output("predict", predictor.normal, Datatype.FP64, parameters=classes)
        else:
            first = Output("predict", label, of="predict_proba")
        return [first, chances, *outputs]

    def _learn(self, outputs: list[Output]) -> Outputs:
        """Try each output with one row, and leave out those that the model can't compute."""
        request = self._columns.sample()
        row = np.zeros((1, 0)) if request is None else self._columns.codes(request)
        made = self._outputs_of(outputs)
        failed = made.learn(row)
        if "predict" in failed:
            raise ModelLoadError(f"it can't predict: {failed['predict']}") from failed["predict"]
        for name, error in failed.items():
            self._context.logger.info("output '%s' is not offered: %s", name, error)
        if failed:
            made = self._outputs_of([each for each in outputs if each.name not in failed])
            made.learn(row)
        return made

    def _outputs_of(self, outputs: list[Output]) -> Outputs:
        return Outputs(outputs, parameters=self._parameters, is_column_2d=self._is_mlserver)

    def _describe(self, facts: Facts, form: str) -> ModelMetadata:
        outputs = self._outputs.metadata()
        is_classifier = any(each.name == "predict_proba" for each in outputs)
        if self._is_mlserver and is_classifier:
            told: dict[str, Parameter] = {
                "meaning": "probabilities, as MLServer's runtime gives; of two classes the second's"
            }
            outputs = [
                structs.replace(each, parameters={**each.parameters, **told})
                if each.name == "predict"
                else each
                for each in outputs
            ]
        task = facts.task
        categorical = [facts.names[place] for place in sorted(facts.categorical)]
        return ModelMetadata(
            platform="lightgbm_text" if form == "text" else "lightgbm_sklearn",
            inputs=self._columns.metadata(is_column_2d=self._is_mlserver),
            outputs=outputs,
            parameters={
                "task": task.value,
                "objective": facts.objective or "custom",
                **({} if form == "text" else {"estimator": form}),
                **({"categorical_features": categorical} if categorical else {}),
                "lightgbm_version": lightgbm.__version__,
                **self._parameters.metadata(),
            },
        )


def _labels(facts: Facts, options: LightGBMOptions, wrapper: Any) -> Labels | None:  # noqa: ANN401  one of LightGBM's estimators
    """Find the labels of the classes; None if the model is no classifier."""
    classes: list[object] = list(getattr(wrapper, "classes_", ()))
    is_own = callable(getattr(wrapper, "objective_", None)) or facts.task is Task.CUSTOM
    is_classifier = bool(classes) or facts.task in (Task.BINARY, Task.MULTICLASS)
    count = max(facts.per_iteration, 2)
    if not is_classifier or is_own:
        if options.labels:
            raise ModelLoadError(
                "'parameters.extra.labels' names classes, and the model is trained for "
                f"{facts.task}: its objective is '{facts.objective or 'custom'}'"
            )
        return None
    if options.labels and len(options.labels) != count:
        raise ModelLoadError(
            f"'parameters.extra.labels' has {len(options.labels)} labels, "
            f"and the model has {count} classes"
        )
    try:
        labels = Labels(options.labels or classes or range(count))
    except ValueError as error:
        raise ModelLoadError(f"the labels of the classes can't be served: {error}") from error
    if len(labels) != count:
        raise ModelLoadError(f"the model has {count} classes, and labels for {len(labels)}")
    return labels


def _trial_rows(facts: Facts) -> NDArray[np.float64]:
    """Make up rows that reach many leaves: numbers around the trained ones, some missing."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(_TRIALS, len(facts.names)))
    for place, info in enumerate(facts.infos):
        bounds = bounds_of(info)
        if bounds and np.isfinite(bounds).all():
            rows[:, place] = random.uniform(min(bounds) - 1, max(bounds) + 1, _TRIALS)
            if place in facts.categorical:
                rows[:, place] = np.floor(rows[:, place])
    rows[random.random(rows.shape) < 0.1] = np.nan
    rows[0] = 0
    return rows


def _with_underscores(request: InferRequest) -> InferRequest:
    """Name the tensors as LightGBM does, which writes a space as an underscore."""
    if not any(" " in each.name for each in request.inputs):
        return request
    inputs = [
        structs.replace(each, name=each.name.replace(" ", "_")) if " " in each.name else each
        for each in request.inputs
    ]
    return structs.replace(request, inputs=inputs)
