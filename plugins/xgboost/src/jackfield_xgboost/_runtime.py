"""Serve an XGBoost booster: load it, describe it, predict with it.

All that a request needs to know is decided in `load`; `infer` reads, computes and wraps.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta, Struct

from jackfield import (
    Capabilities,
    Datatype,
    InferRequest,
    InferResponse,
    ModelLoadError,
    ModelMetadata,
)
from jackfield.tabular import Labels, Output, Outputs, RequestParameters, both_classes
from jackfield_xgboost import XgboostOptions

try:
    import xgboost
except ImportError as error:  # not there, or not for this machine
    raise ModelLoadError(
        f'XGBoost can\'t be imported ({error}); pip install "jackfield-xgboost[cpu]", or '
        '"jackfield-xgboost[gpu]" for CUDA'
    ) from error

from jackfield_xgboost._artifact import read
from jackfield_xgboost._booster import Predictor
from jackfield_xgboost._facts import check_labels, columns_of, facts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from jackfield import ModelContext, Parameter
    from jackfield.tabular import Columns
    from jackfield_xgboost._artifact import Loaded
    from jackfield_xgboost._facts import Facts

#: The wrapper's threshold, on whatever its booster answers.
_HALF = 0.5


class Asked(Struct, frozen=True):
    """Parameters of one request."""

    iteration_range: Annotated[
        tuple[int, int] | None,
        Meta(description="First iteration that is used and the one after the last; 0 is the end."),
    ] = None
    approx_contribs: Annotated[
        bool, Meta(description="Approximate the contributions and interactions, which is faster.")
    ] = False


class XgboostRuntime:
    """One booster. Under MLServer's class name `predict` is what MLServer answers."""

    #: What the spec declares, less what does not hold for this booster; known after `load`.
    capabilities: Capabilities

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        self._is_mlserver = context.settings.implementation.startswith("mlserver_")
        given = context.options
        self._options = given if isinstance(given, XgboostOptions) else XgboostOptions()
        self._threads: ThreadPoolExecutor | None = None

    def load(self) -> None:
        """Read the artifact, describe it and compute one row."""
        _warn_of_doubles(self._context)
        loaded = read(self._context.artifact)
        options = self._options
        facts = facts_of(loaded.booster)
        columns = columns_of(loaded.booster, facts, options)
        self._warn_of_codes(loaded, columns)
        labels = _labels(loaded, facts, options)
        missing = options.missing if options.missing is not None else loaded.missing
        # this thread computes too
        more = self._context.threads - 1
        self._threads = ThreadPoolExecutor(more, "jackfield-xgboost") if more > 0 else None
        predictor = Predictor(
            loaded.booster,
            facts,
            missing=missing,
            device=options.device,
            threads=self._threads,
            workers=more + 1,
        )
        parameters = RequestParameters(Asked)
        self._outputs = Outputs(
            self._make_outputs(predictor, facts, loaded, labels),
            parameters=parameters,
            is_column_2d=self._is_mlserver,
        )
        self._columns: Columns = columns
        is_safe = not facts.is_linear and options.device == "cpu"
        self.capabilities = Capabilities(row_wise=True, thread_safe=is_safe, releases_gil=True)
        self._metadata = self._describe(facts, loaded, parameters.metadata())
        self._warm_up()

    def metadata(self) -> ModelMetadata:
        """Say what was found when loading; outputs beside `predict` are on request."""
        return self._metadata

    def infer(self, request: InferRequest) -> InferResponse:
        """Compute what the request asks for.

        Shapes: see `docs/runtimes/xgboost.md`.
        """
        return self._outputs.infer(request, self._columns.codes(request))

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()

    def _warn_of_codes(self, loaded: Loaded, columns: Columns) -> None:
        """Name the categorical features that can be sent as codes alone."""
        types = loaded.booster.feature_types or []
        names = [
            column.name
            for column, kind in zip(columns.columns, types, strict=False)
            if kind == "c" and not column.is_coded
        ]
        if names:
            self._context.logger.warning(
                "the model does not hold the categories of %s (none, or not whole: XGBoost cuts "
                "texts that are not ASCII): callers have to send their codes; list them in "
                "'parameters.extra.categories' to let them send the categories",
                ", ".join(f"'{name}'" for name in names),
            )

    def _explains(self, predictor: Predictor, facts: Facts) -> bool:
        """Try whether XGBoost computes contributions: not where a leaf holds several targets."""
        if facts.is_linear:
            return True
        try:
            predictor.contributions(np.zeros((1, facts.features), np.float32), Asked())
        except xgboost.core.XGBoostError:
            return False
        return True

    def _warm_up(self) -> None:
        """Compute a row: XGBoost prepares itself then, and what it can't serve shows."""
        sample = self._columns.sample()
        if sample is None:
            return
        try:
            self.infer(sample)
        except xgboost.core.XGBoostError as error:
            reason = str(error).strip().partition("\n")[0]
            raise ModelLoadError(f"XGBoost {xgboost.__version__} can't predict: {reason}") from (
                error
            )

    def _describe(
        self, facts: Facts, loaded: Loaded, parameters: Mapping[str, Parameter]
    ) -> ModelMetadata:
        told: dict[str, Parameter] = {
            "task": facts.task,
            "objective": facts.objective,
            "booster": facts.kind,
            "features": facts.features,
            "iterations": facts.rounds,
            "xgboost_version": xgboost.__version__,
        }
        if facts.best_iteration is not None:
            told["best_iteration"] = facts.best_iteration
        if loaded.version:
            told["saved_by_version"] = loaded.version
        return ModelMetadata(
            platform=loaded.platform,
            inputs=self._columns.metadata(is_column_2d=self._is_mlserver),
            outputs=self._outputs.metadata(),
            parameters=told | dict(parameters),
        )

    def _make_outputs(
        self, predictor: Predictor, facts: Facts, loaded: Loaded, labels: Labels | None
    ) -> list[Output]:
        """List what the booster can compute; `predict` comes first."""
        made = {each.name: each for each in _predictions(predictor, facts, labels)}
        if self._is_mlserver:
            made["predict"] = _mlserver_predict(predictor, facts, loaded)
            if loaded.estimator == "classifier" and "predict_proba" not in made:
                # the wrapper makes two columns of whatever its booster answers
                made["predict_proba"] = Output(
                    "predict_proba",
                    lambda data, asked: _in_columns(predictor.value(data, asked)),
                    Datatype.FP32,
                    (-1, max(facts.width, 2)),
                )
        width = facts.width
        per_target = (width,) if width > 1 else ()
        outputs = [*made.values()]
        if not facts.is_linear:
            outputs.append(Output("leaf", predictor.leaf, Datatype.INT32, (-1, -1)))
        if self._explains(predictor, facts):
            size = facts.features + 1
            shape = (-1, *per_target, size)
            outputs.append(Output("contributions", predictor.contributions, Datatype.FP32, shape))
            if not facts.is_linear:
                outputs.append(
                    Output("interactions", predictor.interactions, Datatype.FP32, (*shape, size))
                )
        return outputs


def _predictions(predictor: Predictor, facts: Facts, labels: Labels | None) -> list[Output]:
    """Make `predict`, `predict_proba` and `raw`, alike in all plugins."""
    wide = (-1, facts.width) if facts.width > 1 else (-1,)
    classes = labels.metadata if labels else {}
    raw = Output(
        "raw",
        predictor.margin,
        Datatype.FP32,
        wide,
        parameters=classes if facts.width > 1 else {},
    )
    if facts.task == "multilabel":
        return [
            Output(
                "predict",
                lambda proba, asked: (proba > _HALF).astype(np.int64),
                Datatype.INT64,
                wide,
                of="predict_proba",
                parameters={"values": "labels"},
            ),
            Output("predict_proba", predictor.value, Datatype.FP32, wide),
            raw,
        ]
    if labels is None:
        values = "scores" if facts.task == "ranking" else "values"
        return [
            Output("predict", predictor.value, Datatype.FP32, wide, {"values": values}),
            raw,
        ]
    known = labels
    source, choose, proba = _classification(predictor, facts, known)
    predict = Output(
        "predict",
        choose,
        Datatype.of(known.of_indices(np.zeros(1, np.intp)).dtype),
        (-1,),
        parameters={"values": "labels", **classes},
        of=source,
    )
    found = [predict, raw]
    if proba is not None:
        compute, of = proba
        shape = (-1, facts.classes)
        found.insert(1, Output("predict_proba", compute, Datatype.FP32, shape, classes, of=of))
    return found


def _classification(
    predictor: Predictor, facts: Facts, labels: Labels
) -> tuple[
    str, Callable[[NDArray[np.float32], Asked], object], tuple[Callable[..., object], str] | None
]:
    """Say what labels are made of and how, and the probabilities, by the objective."""
    if facts.objective == "binary:hinge":  # its answer is the class
        return "", lambda data, asked: labels.of_indices(predictor.value(data, asked)), None
    if facts.objective == "binary:logitraw":  # its answer is no probability
        return "raw", lambda raw, _: labels.of_probabilities(raw, threshold=0), None
    if facts.objective == "multi:softmax":  # its answer is the class, the rest is in the raw values
        softmax = importlib.import_module("scipy.special").softmax
        return (
            "raw",
            lambda raw, _: labels.of_indices(raw.argmax(axis=1)),
            (lambda raw, _: softmax(raw, axis=1), "raw"),
        )
    compute: Callable[..., object] = predictor.value
    if facts.width == 1:
        compute = predictor.both
    return "predict_proba", lambda proba, _: labels.of_probabilities(proba), (compute, "")


def _mlserver_predict(predictor: Predictor, facts: Facts, loaded: Loaded) -> Output:
    """Answer what MLServer's runtime does, which loads a native booster as a regressor."""
    wide = (-1, facts.width) if facts.width > 1 else (-1,)
    if loaded.estimator != "classifier":
        if facts.objective == "multi:softmax":
            wide = (-1,)
        values = {"binary:logistic": "probabilities", "multi:softprob": "probabilities"}
        kind = "scores" if facts.task == "ranking" else values.get(facts.objective, "values")
        return Output("predict", predictor.value, Datatype.FP32, wide, {"values": kind})
    told: dict[str, Parameter] = {"values": "class indices"}
    if facts.objective == "multi:softmax":
        return Output(
            "predict",
            lambda data, asked: predictor.value(data, asked).astype(np.int32),
            Datatype.INT32,
            (-1,),
            told,
        )
    if facts.task == "classification" and facts.width > 2:
        return Output(
            "predict",
            lambda proba, _: proba.argmax(axis=1),
            Datatype.INT64,
            (-1,),
            told,
            of="predict_proba",
        )
    if facts.width > 1:
        return Output(
            "predict",
            lambda data, asked: (predictor.value(data, asked) > _HALF).astype(np.float64),
            Datatype.FP64,
            wide,
            told,
        )
    return Output(
        "predict",
        lambda data, asked: (predictor.value(data, asked) > _HALF).astype(np.int64),
        Datatype.INT64,
        wide,
        told,
    )


def _in_columns(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return both_classes(values) if values.ndim == 1 else values


def _labels(loaded: Loaded, facts: Facts, options: XgboostOptions) -> Labels | None:
    """Choose the labels: the operator's, else the artifact's, else 0, 1 and so on."""
    if options.labels is not None:
        check_labels(options.labels, facts)
    if not facts.classes:
        return None
    labels: Sequence[object] | None = options.labels
    if labels is None and loaded.labels is not None:
        labels = loaded.labels
        check_labels(labels, facts)
    if labels is None:
        labels = range(facts.classes)
    try:
        return Labels(labels)
    except ValueError as error:
        raise ModelLoadError(f"labels: {error}") from error


def _warn_of_doubles(context: ModelContext) -> None:
    found = []
    for name in ("xgboost", "xgboost-cpu"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if len(found) > 1:
        context.logger.warning(
            "%s are both installed, and overwrite each other's files; uninstall both, then "
            "install one",
            " and ".join(found),
        )
