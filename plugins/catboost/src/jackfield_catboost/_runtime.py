"""Serve a CatBoost model: classifiers, regressors and rankers alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import catboost
import numpy as np
from catboost import CatBoost, CatBoostClassifier, CatBoostError, Pool
from msgspec import Meta, Struct

from jackfield import (
    Datatype,
    InferResponse,
    InvalidRequestError,
    ModelLoadError,
    ModelMetadata,
    Tensor,
)
from jackfield.tabular import Column, Columns, Labels, Output, Outputs, RequestParameters
from jackfield_catboost import CatboostOptions
from jackfield_catboost._artifact import read, reason
from jackfield_catboost._task import (
    Task,
    contribution_columns,
    task_of,
    value_columns,
    value_type,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from jackfield import InferRequest, ModelContext, Parameter
    from jackfield_catboost._artifact import Saved

_Array: TypeAlias = "NDArray[Any]"

#: Rows times trees from which more threads pay. Measured with 500 trees of depth 6 on four cores:
#: at the median, 1000 rows take 0.40 ms on one thread and 0.41 on four; at best, 2000 take 0.71
#: and 0.53, 5000 take 1.7 and 1.0.
_WORTH_THREADS = 1_000_000


class Asked(Struct, frozen=True):
    """What one request may set."""

    ntree_start: Annotated[
        int, Meta(ge=0, description="The first tree that is used, counted from 0.")
    ] = 0
    ntree_end: Annotated[
        int, Meta(ge=0, description="The tree after the last one that is used; 0 is all.")
    ] = 0
    virtual_ensembles_count: Annotated[
        int, Meta(ge=0, description="Parts that `virtual_ensembles_predict` compares; 0 is 10.")
    ] = 0


class CatboostRuntime:
    """One model, whatever class of CatBoost saved it.

    `predict` gives labels, values or scores, by the loss function. Under MLServer's class name,
    results of one dimension are answered as [n, 1], as MLServer does.
    """

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        self._is_mlserver = context.settings.implementation.startswith("mlserver_")
        options = context.options
        self._options = options if isinstance(options, CatboostOptions) else CatboostOptions()

    def load(self) -> None:
        """Read the artifact, find what it is for, and try each output with one row."""
        saved = read(self._context.artifact, self._context.logger)
        self._model: CatBoost | None = saved.model
        self._trees: int = saved.model.tree_count_
        self._task_type = self._options.device.upper()
        self._columns = self._read_columns(saved)
        classes = self._read_labels(saved)
        self._task = task_of(saved.loss_function, has_classes=classes is not None)
        sample = self._columns.sample()
        if sample is None:
            raise ModelLoadError("the artifact has no features; train it again")
        self._sample = self._columns.matrix(sample)
        self._check_device()
        self._outputs = self._learn(self._list_outputs(saved, classes))
        self._metadata = self._describe(saved, classes)

    def metadata(self) -> ModelMetadata:
        """Say what the artifact tells; outputs beside `predict` are on request."""
        return self._metadata

    def infer(self, request: InferRequest) -> InferResponse:
        """Compute what is asked for, on one pool.

        Shapes: An input matrix is [n, features], a column [n] or [n, 1]; outputs have n first.
        """
        matrix = self._columns.matrix(request)
        if not len(matrix):
            # CatBoost refuses some outputs of no rows, and prints about others
            answer = self._outputs.infer(request, self._pool(self._sample))
            return InferResponse(
                [
                    Tensor(each.name, each.datatype, each.array[:0], each.parameters)
                    for each in answer.outputs
                ]
            )
        return self._outputs.infer(request, self._pool(matrix))

    def close(self) -> None:
        """Let go of the model."""
        self._model = None
        del self._outputs  # its functions hold the model, too

    # ---- what the artifact tells ----

    def _read_columns(self, saved: Saved) -> Columns:
        model = saved.model
        names = [str(each) for each in model.feature_names_]
        if embeddings := model.get_embedding_feature_indices():
            listed = ", ".join(f"'{names[each]}'" for each in embeddings)
            raise ModelLoadError(
                f"it takes embeddings ({listed}: a vector for each row), which are not served; "
                "train it on columns of numbers"
            )
        self._categories: list[int] = list(model.get_cat_feature_indices())
        self._texts: list[int] = list(model.get_text_feature_indices())
        missing = self._options.missing_category
        is_open = missing is not None
        columns = []
        for place, name in enumerate(names):
            if place in self._categories:
                columns.append(Column.category(name, nullable=is_open, missing=missing))
            elif place in self._texts:
                columns.append(Column.text(name, nullable=is_open, missing=missing))
            else:
                # CatBoost computes in FP32, whatever it was trained with
                columns.append(
                    Column.number(name, Datatype.FP32, nullable=not saved.forbids_missing)
                )
        # what CatBoost calls columns that have no names
        are_named = names != [str(place) for place in range(len(names))]
        return Columns(columns, are_named=are_named, dtypes=(np.float32,))

    def _read_labels(self, saved: Saved) -> Labels | None:
        found = list(saved.model.classes_)
        given = self._options.labels
        if not given:
            return Labels(found) if found else None
        if len(given) != len(found):
            expected = f"{len(found)} labels" if found else "none, since it is no classifier"
            raise ModelLoadError(
                f"'parameters.extra.labels': expected {expected}, found {len(given)}"
            )
        try:
            return Labels(given)
        except ValueError as error:
            raise ModelLoadError(f"'parameters.extra.labels': {error}") from error

    def _check_device(self) -> None:
        if self._task_type == "CPU":
            return
        try:
            self._predict("RawFormulaVal", self._pool(self._sample), Asked())
        except CatBoostError as error:
            raise ModelLoadError(
                f"'parameters.extra.device' is 'gpu', where CatBoost can't compute this model: "
                f"{reason(error)}; set it to 'cpu'"
            ) from error

    def _describe(self, saved: Saved, classes: Labels | None) -> ModelMetadata:
        parameters: dict[str, Parameter] = {
            "task": self._task.value,
            "loss_function": saved.loss_function,
            "trees": self._trees,
            "device": self._options.device,
            "catboost_version": catboost.__version__,
            "saved_by_version": saved.version,
        }
        if classes is not None:
            parameters |= classes.metadata
        if self._is_mlserver:
            parameters["predict_as"] = self._context.settings.implementation
        return ModelMetadata(
            platform=f"catboost_{saved.form}",
            inputs=self._columns.metadata(is_column_2d=self._is_mlserver),
            outputs=self._outputs.metadata(),
            parameters=parameters | RequestParameters(Asked).metadata(),
        )

    # ---- outputs ----

    def _list_outputs(self, saved: Saved, classes: Labels | None) -> list[Output]:
        names = [column.name for column in self._columns.columns]
        per_class = classes.metadata if classes is not None else {}
        listed = [self._predict_output(saved, classes)]
        if self._task in (Task.CLASSIFICATION, Task.MULTILABEL):
            listed += [
                Output("predict_proba", self._typed("Probability"), parameters=per_class),
                Output("predict_log_proba", self._typed("LogProbability"), parameters=per_class),
            ]
        raw = per_class or value_columns(saved.loss_function, saved.loss_parameters)
        if saved.loss_function == "RMSEWithUncertainty":
            raw = {"columns": ["mean", "logarithm of the standard deviation"]}
        return [
            *listed,
            Output("raw", self._typed("RawFormulaVal"), parameters=raw),
            Output("leaf", self._leaf),
            Output("contributions", self._contributions, parameters=contribution_columns(names)),
            Output(
                "virtual_ensembles_predict",
                self._uncertainty,
                parameters={"prediction_type": "TotalUncertainty"},
            ),
        ]

    def _predict_output(self, saved: Saved, classes: Labels | None) -> Output:
        if self._task is Task.MULTILABEL:
            parameters = classes.metadata if classes is not None else {}
            return Output("predict", self._typed("Class"), parameters=parameters)
        if classes is None:
            told = value_columns(saved.loss_function, saved.loss_parameters)
            return Output("predict", self._typed(value_type(saved.loss_function)), parameters=told)
        threshold = np.float64(CatBoostClassifier.get_probability_threshold(saved.model))
        with np.errstate(divide="ignore"):
            border = float(np.log(threshold / (1 - threshold)))
        # CatBoost makes the label of each row in Python: 21 µs for one row, 100 µs for a thousand
        return Output("predict", lambda raw, asked: _label(classes, raw, border), of="raw")

    def _learn(self, listed: list[Output]) -> Outputs:
        """Try all with one row; those that CatBoost can't compute of this model are left out."""
        parameters = RequestParameters(Asked)

        def make(listed: list[Output]) -> tuple[Outputs, dict[str, Exception]]:
            outputs = Outputs(listed, parameters=parameters, is_column_2d=self._is_mlserver)
            return outputs, outputs.learn(self._pool(self._sample))

        outputs, failed = make(listed)
        for name, error in failed.items():
            if name == "predict":
                raise ModelLoadError(f"it can't predict: {error}") from error
            self._context.logger.info("'%s' is not offered: %s", name, error)
        return make([each for each in listed if each.name not in failed])[0] if failed else outputs

    # ---- CatBoost ----

    def _pool(self, matrix: _Array) -> Pool:
        """Make a pool: of FP32 in Fortran's order, which is not copied, or of objects.

        With 20 columns of numbers and 1000 rows that is 0.40 ms with the prediction, and 0.51 in
        C's order. With categories, a DataFrame takes six times as long for one row, a tenth longer
        for a thousand, and a tenth less for four thousand.
        """
        if matrix.dtype != object:
            return Pool(np.asfortranarray(matrix), thread_count=1)
        return Pool(
            matrix, cat_features=self._categories, text_features=self._texts, thread_count=1
        )

    def _threads(self, pool: Pool) -> int:
        return self._context.threads if pool.shape[0] * self._trees >= _WORTH_THREADS else 1

    def _typed(self, prediction_type: str) -> Callable[[Pool, Asked], _Array]:
        return lambda pool, asked: self._predict(prediction_type, pool, asked)

    def _predict(self, prediction_type: str, pool: Pool, asked: Asked) -> _Array:
        start, end = self._range(asked)
        found: _Array = self._loaded.predict(
            pool,
            prediction_type,
            ntree_start=start,
            ntree_end=end,
            thread_count=self._threads(pool),
            task_type=self._task_type,
        )
        return found

    def _leaf(self, pool: Pool, asked: Asked) -> _Array:
        start, end = self._range(asked)
        found: _Array = self._loaded.calc_leaf_indexes(
            pool, ntree_start=start, ntree_end=end, thread_count=self._threads(pool)
        )
        return found

    def _contributions(self, pool: Pool, asked: Asked) -> _Array:
        if asked.ntree_start or asked.ntree_end:
            name = "ntree_start" if asked.ntree_start else "ntree_end"
            raise InvalidRequestError(
                f"parameters.{name}",
                expected="0, since 'contributions' is of all trees",
                found=str(asked.ntree_start or asked.ntree_end),
            )
        found: _Array = self._loaded.get_feature_importance(
            pool, type="ShapValues", thread_count=self._threads(pool)
        )
        return found

    def _uncertainty(self, pool: Pool, asked: Asked) -> _Array:
        if asked.ntree_start:
            raise InvalidRequestError(
                "parameters.ntree_start",
                expected="0, since 'virtual_ensembles_predict' begins at the first tree",
                found=str(asked.ntree_start),
            )
        _, end = self._range(asked)
        most = max(end // 2, 1)
        count = asked.virtual_ensembles_count or min(10, most)
        if count > most:
            raise InvalidRequestError(
                "parameters.virtual_ensembles_count",
                expected=f"at most {most}, with {end} trees",
                found=str(count),
            )
        found: _Array = self._loaded.virtual_ensembles_predict(
            pool,
            "TotalUncertainty",
            ntree_end=end,
            virtual_ensembles_count=count,
            thread_count=self._threads(pool),
        )
        return found

    def _range(self, asked: Asked) -> tuple[int, int]:
        """Give the first tree and the one after the last."""
        start, end = asked.ntree_start, asked.ntree_end or self._trees
        if end > self._trees:
            raise InvalidRequestError(
                "parameters.ntree_end",
                expected=f"at most {self._trees}, the number of trees",
                found=str(end),
            )
        if start >= end:
            raise InvalidRequestError(
                "parameters.ntree_start", expected=f"less than {end}", found=str(start)
            )
        return start, end

    @property
    def _loaded(self) -> CatBoost:
        if self._model is None:
            message = "the model is closed"
            raise RuntimeError(message)
        return self._model


def _label(classes: Labels, raw: _Array, border: float) -> _Array:
    """Give the label of each row, of one raw value for two classes or of one for each class."""
    if raw.ndim == 1:
        return classes.of_indices(raw > border)
    return classes.of_indices(raw.argmax(axis=1))
