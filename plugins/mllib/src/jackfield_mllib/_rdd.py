"""Serve models of `pyspark.mllib`, which Spark trained on RDDs before it had DataFrames.

Their folders hold a line of JSON and a table in Parquet, which are read here without Spark: such a
model needs no Java, starts no JVM, and answers in microseconds. Each computes what pyspark's own
`predict` of the same class does, in the same order of operations.

Source: the classes' `SaveLoad` objects in Spark's `mllib`, formats 1.0 and 2.0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jackfield import (
    Datatype,
    InvalidRequestError,
    ModelLoadError,
    ModelMetadata,
    TensorMetadata,
)
from jackfield.tabular import Columns, Output, Outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from jackfield import InferRequest, InferResponse, Parameter

__all__ = ["FORMATS", "RddModel"]

_Matrix: TypeAlias = "NDArray[np.float64]"
_Rows: TypeAlias = "list[dict[str, Any]]"

#: MLServer's `format` -> the class that Spark saves.
FORMATS: Mapping[str, str] = {
    "LogisticRegression": "LogisticRegressionModel",
    "NaiveBayes": "NaiveBayesModel",
    "SVM": "SVMModel",
    "KMeans": "KMeansModel",
    "IsotonicRegression": "IsotonicRegressionModel",
    "LinearRegression": "LinearRegressionModel",
    "Lasso": "LassoModel",
    "RidgeRegression": "RidgeRegressionModel",
    "DecisionTree": "DecisionTreeModel",
    "GradientBoostedTrees": "GradientBoostedTreesModel",
    "RandomForest": "RandomForestModel",
}
_FORMAT_OF = {kind: form for form, kind in FORMATS.items()}
#: Versions of the folder's format that are known; a newer Spark may write others.
_VERSIONS = ("1.0", "2.0")
#: Rows times trees that are looked at in one go, so that a large batch takes little memory.
_AT_ONCE = 1_000_000
#: Classes below this number are voted for in ascending order; see `_in_scala_order`.
_FIRST_TABLE = 16


class _Ensemble(msgspec.Struct, rename="camel"):
    algo: str = ""
    combining_strategy: str = ""
    tree_weights: list[float] = []


class _Metadata(msgspec.Struct, rename="camel"):
    class_name: str = msgspec.field(name="class")
    version: str
    algo: str = ""
    num_features: int = 0
    num_classes: int = 2
    distance_measure: str = "euclidean"
    metadata: _Ensemble = msgspec.field(default_factory=_Ensemble)


class _Found(NamedTuple):
    """What a folder holds, ready to compute."""

    #: [n, width] -> [n]
    predict: Callable[[_Matrix], NDArray[Any]]
    #: None where the folder does not tell.
    width: int | None
    #: Columns that a row has at least.
    at_least: int = 1
    facts: Mapping[str, Parameter] = {}


class RddModel:
    """One model of `pyspark.mllib`; to be used from any thread.

    Args:
        folder: Has `metadata` and `data` in it.
        form: MLServer's `format`; empty takes the class that the folder tells.
        is_mlserver: Answer FP32 [n, 1], as under MLServer's class name.

    Raises:
        ModelLoadError: The folder is damaged, of a class that is not served, or of another than
            `form` says.
    """

    def __init__(self, folder: Path, *, form: str = "", is_mlserver: bool = False) -> None:
        told = _read_metadata(folder)
        kind = told.class_name.rpartition(".")[2]
        self._class_name = told.class_name
        self._format = _check_format(kind, form)
        if told.version not in _VERSIONS:
            raise ModelLoadError(
                f"its folder is of format {told.version} of {kind}, and "
                f"{' and '.join(_VERSIONS)} are known: a newer Spark has saved it"
            )
        try:
            with np.errstate(all="ignore"):
                found = _READERS[kind](told, _read_data(folder))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            problem = (
                f"'{folder.name}/data' is not what Spark writes for a {kind} "
                f"({type(error).__name__}: {error}); copy or save it again"
            )
            raise ModelLoadError(problem) from error
        self._found = found
        self._columns = Columns.unnamed(
            found.width, nullable=True, dtypes=(np.float64,), input_name="features"
        )
        self._is_mlserver = is_mlserver
        self._outputs = Outputs([Output("predict", self._predict)], is_column_2d=is_mlserver)
        failed = self._outputs.learn(np.ones((1, found.width or found.at_least)))
        if failed:
            raise ModelLoadError(f"it can't predict: {failed['predict']}") from failed["predict"]

    def metadata(self) -> ModelMetadata:
        """Say what it takes and gives.

        Shapes: `features` [n, width]; `predict` [n], INT64 for what pyspark gives as int (classes
        of logistic regression and SVM, clusters), else FP64.
        """
        inputs = self._columns.metadata()
        if self._found.width is None:
            inputs = [TensorMetadata("features", Datatype.FP64, (-1, -1))]
        return ModelMetadata(
            platform="spark_mllib",
            inputs=inputs,
            outputs=self._outputs.metadata(),
            parameters={
                "class": self._class_name,
                "format": self._format,
                "route": "local",
                **self._found.facts,
            },
        )

    def infer(self, request: InferRequest) -> InferResponse:
        """Predict each row.

        Raises:
            InvalidRequestError: It is no matrix of numbers with as many columns as the model has.
        """
        matrix = self._columns.matrix(request)
        if matrix.ndim != 2 or matrix.shape[1] < self._found.at_least:
            count = self._found.at_least
            raise InvalidRequestError(
                "inputs[0].shape",
                expected=f"[rows, columns] with at least {count} columns, which its trees look at",
                found=str(list(matrix.shape)),
            )
        # rows have to lie in one piece: of others BLAS sums in another order
        return self._outputs.infer(request, np.ascontiguousarray(matrix, np.float64))

    def _predict(self, matrix: _Matrix, asked: None) -> NDArray[Any]:
        with np.errstate(all="ignore"):
            found = self._found.predict(matrix)
        return found.astype(np.float32) if self._is_mlserver else found


def _check_format(kind: str, form: str) -> str:
    listed = ", ".join(FORMATS)
    if form and form not in FORMATS:
        raise ModelLoadError(f"'parameters.format': expected one of {listed}, found '{form}'")
    if kind not in _FORMAT_OF:
        raise ModelLoadError(
            f"it is a {kind} of Spark's RDD-based 'mllib', of which these are served: {listed}"
        )
    found = _FORMAT_OF[kind]
    if form and form != found:
        raise ModelLoadError(
            f"'parameters.format' is '{form}', but what is saved there is a {kind}; "
            f"set it to '{found}', or leave it out"
        )
    return found


# ---- the folder ----


def _read_metadata(folder: Path) -> _Metadata:
    files = sorted((folder / "metadata").glob("part-*"))
    text = b"".join(each.read_bytes() for each in files).strip()
    try:
        return msgspec.json.decode(text.splitlines()[0] if text else b"", type=_Metadata)
    except msgspec.DecodeError as error:
        raise ModelLoadError(
            f"'{folder.name}/metadata' is not what Spark writes: {error}; copy or save it again"
        ) from error


def _read_data(folder: Path) -> _Rows:
    data = folder / "data"
    files = sorted(data.glob("part-*.parquet"))
    if not files or not (data / "_SUCCESS").exists():
        lacks = "'_SUCCESS', which Spark writes last" if files else "a table (part-*.parquet)"
        raise ModelLoadError(
            f"'{folder.name}/data' has not {lacks}; it was not copied or saved to the end"
        )
    rows: _Rows = []
    for file in files:
        try:
            rows += pq.ParquetFile(file).read().to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise ModelLoadError(
                f"'{folder.name}/data/{file.name}' can't be read: {error}; copy or save it again"
            ) from error
    if not rows:
        raise ModelLoadError(f"'{folder.name}/data' has no rows; save the model again")
    return rows


def _vector(told: Mapping[str, Any]) -> _Matrix:
    values = np.array(told["values"], np.float64)
    if told["type"] == 1:
        return values
    dense = np.zeros(told["size"])
    dense[told["indices"]] = values
    return dense


# ---- linear models ----


def _dots(matrix: _Matrix, weights: _Matrix) -> _Matrix:
    """Multiply row by row: a product of matrices may sum in another order than pyspark does."""
    return np.fromiter((np.dot(weights, row) for row in matrix), np.float64, len(matrix))


def _read_regression(told: _Metadata, rows: _Rows) -> _Found:
    weights, intercept = _vector(rows[0]["weights"]), float(rows[0]["intercept"])
    return _Found(lambda matrix: _dots(matrix, weights) + intercept, len(weights))


def _read_svm(told: _Metadata, rows: _Rows) -> _Found:
    weights, intercept = _vector(rows[0]["weights"]), float(rows[0]["intercept"])
    threshold = rows[0]["threshold"]

    def predict(matrix: _Matrix) -> NDArray[Any]:
        margins = _dots(matrix, weights) + intercept
        return margins if threshold is None else _labels(margins, threshold)

    return _Found(predict, len(weights), facts=_threshold(threshold))


def _read_logistic(told: _Metadata, rows: _Rows) -> _Found:
    weights, intercept = _vector(rows[0]["weights"]), float(rows[0]["intercept"])
    threshold = rows[0]["threshold"]
    if told.num_classes > 2:
        return _logistic_of_many(weights, told)

    def predict(matrix: _Matrix) -> NDArray[Any]:
        found = map(_sigmoid, (_dots(matrix, weights) + intercept).tolist())
        probabilities = np.fromiter(found, np.float64, len(matrix))
        return probabilities if threshold is None else _labels(probabilities, threshold)

    return _Found(predict, len(weights), facts={"classes": 2, **_threshold(threshold)})


def _logistic_of_many(weights: _Matrix, told: _Metadata) -> _Found:
    others = told.num_classes - 1
    # with an intercept, each class but the first has it after its weights
    by_class = weights.reshape(others, -1)
    width = told.num_features
    biases = by_class[:, width] if by_class.shape[1] == width + 1 else np.zeros(others)

    def predict(matrix: _Matrix) -> NDArray[Any]:
        best = np.zeros(len(matrix), np.int64)
        most = np.zeros(len(matrix))
        for place in range(others):
            margins = _dots(matrix, by_class[place, :width]) + biases[place]
            is_more = margins > most
            most[is_more], best[is_more] = margins[is_more], place + 1
        return best

    return _Found(predict, width, facts={"classes": told.num_classes})


def _sigmoid(margin: float) -> float:
    if margin > 0:
        return 1 / (1 + math.exp(-margin))
    power = math.exp(margin)
    return power / (1 + power)


def _labels(values: _Matrix, threshold: float) -> NDArray[Any]:
    found: NDArray[Any] = (values > threshold).astype(np.int64)
    return found


def _threshold(threshold: float | None) -> dict[str, Parameter]:
    """Tell where a class begins; without that the model gives what it would compare with it."""
    return {} if threshold is None else {"threshold": threshold}


# ---- others without trees ----


def _read_bayes(told: _Metadata, rows: _Rows) -> _Found:
    labels, priors = np.array(rows[0]["labels"]), np.array(rows[0]["pi"])
    theta = np.array(rows[0]["theta"])
    kind = rows[0].get("modelType", "multinomial")
    facts: dict[str, Parameter] = {"model_type": kind, "classes": len(labels)}
    if kind == "bernoulli":
        # pyspark's own predict takes it for multinomial; this is what the JVM's does
        absent = np.log(1 - np.exp(theta))
        weights, priors = (theta - absent).T, priors + absent.sum(axis=1)
    elif kind == "multinomial":
        weights = theta.T
    else:
        raise ModelLoadError(f"it is a NaiveBayesModel of the type '{kind}', which is not known")

    def predict(matrix: _Matrix) -> NDArray[Any]:
        if kind == "bernoulli" and not np.isin(matrix, (0.0, 1.0)).all():
            raise InvalidRequestError(
                "inputs[0].data",
                expected="0 or 1, since it is a naive Bayes model of the type 'bernoulli'",
                found="another number",
            )
        best = (np.argmax(priors + np.dot(row, weights)) for row in matrix)
        found: NDArray[Any] = labels[np.fromiter(best, np.intp, len(matrix))]
        return found

    return _Found(predict, theta.shape[1], facts=facts)


def _read_kmeans(told: _Metadata, rows: _Rows) -> _Found:
    ordered = sorted(rows, key=lambda each: int(each["id"]))
    centers = [_vector(each["point"]) for each in ordered]
    is_cosine = told.distance_measure == "cosine"

    def predict(matrix: _Matrix) -> NDArray[Any]:
        distances = np.empty((len(centers), len(matrix)))
        if is_cosine:
            norms = np.sqrt(_squares(matrix))
            if not norms.all():
                raise InvalidRequestError(
                    "inputs[0].data",
                    expected="rows that are not all 0, since the model compares their directions",
                    found="a row of zeros",
                )
            for place, center in enumerate(centers):
                cosines = _dots(matrix, center) / norms / math.sqrt(np.dot(center, center))
                distances[place] = 1 - cosines
        else:
            for place, center in enumerate(centers):
                distances[place] = _squares(matrix - center)
        found: NDArray[Any] = distances.argmin(axis=0).astype(np.int64)
        return found

    facts: dict[str, Parameter] = {"clusters": len(centers), "distance": told.distance_measure}
    return _Found(predict, len(centers[0]), facts=facts)


def _squares(matrix: _Matrix) -> _Matrix:
    return np.fromiter((np.dot(row, row) for row in matrix), np.float64, len(matrix))


def _read_isotonic(told: _Metadata, rows: _Rows) -> _Found:
    points = sorted((float(each["boundary"]), float(each["prediction"])) for each in rows)
    boundaries, predictions = np.array(points).T
    return _Found(lambda matrix: np.interp(matrix[:, 0], boundaries, predictions), 1)


# ---- trees ----


class _Trees:
    """All nodes of an ensemble in arrays; a leaf's children are itself."""

    def __init__(self, nodes: _Rows) -> None:
        nodes = sorted(nodes, key=lambda each: (each["treeId"], each["nodeId"]))
        place = {(each["treeId"], each["nodeId"]): at for at, each in enumerate(nodes)}
        count = len(nodes)
        self._feature = np.zeros(count, np.intp)
        self._threshold = np.full(count, np.nan)
        self._left = np.arange(count)
        self._right = np.arange(count)
        self._value = np.array([each["predict"]["predict"] for each in nodes], np.float64)
        #: Row of a node in `_goes_left`, or 0: a row where nothing does.
        self._category_row = np.zeros(count, np.intp)
        categories: list[list[float]] = [[]]
        for at, node in enumerate(nodes):
            split = node["split"]
            if node["isLeaf"] or split is None:
                continue
            self._feature[at] = split["feature"]
            if split["featureType"] == 0:
                self._threshold[at] = split["threshold"]
            else:
                self._category_row[at] = len(categories)
                categories.append(split["categories"])
            self._left[at] = place[node["treeId"], node["leftNodeId"]]
            self._right[at] = place[node["treeId"], node["rightNodeId"]]
        # the lowest node of each tree is its root
        trees = [each["treeId"] for each in nodes]
        self._roots = np.flatnonzero(np.diff(trees, prepend=trees[0] - 1))
        self.count = len(self._roots)
        is_split = self._left != np.arange(count)
        self.at_least = int(self._feature[is_split].max(initial=0)) + 1
        most = max((max(each) for each in categories if each), default=-1.0)
        #: [nodes with categories, categories and one more]
        self._goes_left = np.zeros((len(categories), int(most) + 2), bool)
        for row, listed in enumerate(categories):
            self._goes_left[row, np.array(listed, np.intp)] = True
        self._has_categories = len(categories) > 1

    def leaves(self, matrix: _Matrix) -> _Matrix:
        """Give the value of the leaf that each row ends in: [n, width] -> [n, trees]."""
        step = max(_AT_ONCE // self.count, 1)
        found = np.empty((len(matrix), self.count))
        for start in range(0, len(matrix), step):
            found[start : start + step] = self._leaves(matrix[start : start + step])
        return found

    def _leaves(self, matrix: _Matrix) -> _Matrix:
        rows = np.arange(len(matrix))[:, None]
        at = np.broadcast_to(self._roots, (len(matrix), self.count))
        while True:
            values = matrix[rows, self._feature[at]]
            is_left = values <= self._threshold[at]
            if self._has_categories:
                is_left |= self._is_listed(values, self._category_row[at])
            following = np.where(is_left, self._left[at], self._right[at])
            if np.array_equal(following, at):
                found: _Matrix = self._value[at]
                return found
            at = following

    def _is_listed(self, values: _Matrix, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Find categories; a number that is none of the trained ones is in no list."""
        last = self._goes_left.shape[1] - 1
        is_known = (values >= 0) & (values < last) & (values == np.floor(values))
        found: NDArray[np.bool_] = self._goes_left[
            rows, np.where(is_known, values, last).astype(int)
        ]
        return found


def _read_tree(told: _Metadata, rows: _Rows) -> _Found:
    trees = _Trees(rows)
    return _Found(
        lambda matrix: trees.leaves(matrix)[:, 0],
        None,
        trees.at_least,
        {"algorithm": told.algo.lower()},
    )


def _read_ensemble(told: _Metadata, rows: _Rows) -> _Found:
    trees = _Trees(rows)
    algorithm, strategy = told.metadata.algo, told.metadata.combining_strategy
    weights = np.array(told.metadata.tree_weights)
    if len(weights) != trees.count:
        message = f"{trees.count} trees, and weights for {len(weights)}"
        raise ValueError(message)
    total = float(weights.sum())

    def predict(matrix: _Matrix) -> NDArray[Any]:
        leaves = trees.leaves(matrix)
        if strategy == "Vote":
            return _vote(leaves, weights)
        sums = _dots(leaves, weights)
        if strategy == "Average":
            return sums / total
        return (sums > 0).astype(np.float64) if algorithm == "Classification" else sums

    if strategy not in ("Vote", "Average", "Sum"):
        message = f"the trees' results are combined by '{strategy}'"
        raise ValueError(message)
    facts: dict[str, Parameter] = {"algorithm": algorithm.lower(), "trees": trees.count}
    return _Found(predict, None, trees.at_least, facts)


def _vote(leaves: _Matrix, weights: _Matrix) -> _Matrix:
    """Find the class that most trees name; of several, the one that Scala's map has first."""
    if not len(leaves):
        return np.empty(0)
    classes = np.unique(leaves)
    if classes[-1] < _FIRST_TABLE:
        votes = np.stack([(leaves == each) @ weights for each in classes])
        found: _Matrix = classes[votes.argmax(axis=0)]
        return found
    found = np.empty(len(leaves))
    for row, named in enumerate(leaves):
        ordered = _in_scala_order([int(each) for each in np.unique(named)])
        found[row] = max(ordered, key=lambda each: float(weights[named == each].sum()))
    return found


def _in_scala_order(numbers: list[int]) -> list[int]:
    """Order integers as a `scala.collection.mutable.HashMap` of version 2.13 does."""
    size = _FIRST_TABLE
    for count in range(1, len(numbers) + 1):
        if count >= size * 3 // 4:
            size *= 2
    return sorted(numbers, key=lambda each: ((each ^ each >> 16) & (size - 1), each))


_READERS: Mapping[str, Callable[[_Metadata, _Rows], _Found]] = {
    "LogisticRegressionModel": _read_logistic,
    "NaiveBayesModel": _read_bayes,
    "SVMModel": _read_svm,
    "KMeansModel": _read_kmeans,
    "IsotonicRegressionModel": _read_isotonic,
    "LinearRegressionModel": _read_regression,
    "LassoModel": _read_regression,
    "RidgeRegressionModel": _read_regression,
    "DecisionTreeModel": _read_tree,
    "GradientBoostedTreesModel": _read_ensemble,
    "RandomForestModel": _read_ensemble,
}
