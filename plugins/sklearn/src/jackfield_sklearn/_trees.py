"""Write scikit-learn's trees as ONNX, so that each row ends in the leaf it ends in there.

skl2onnx writes trees in float32 and divides each leaf's vote by the number of trees, so that labels
of tied votes, and rows at a threshold, come out otherwise. Here thresholds and leaves are doubles,
rows are rounded where scikit-learn rounds them, and votes are added before they are divided.
Source: ONNX, `ai.onnx.ml` version 5, "TreeEnsemble"; `sklearn.tree`, `sklearn.ensemble`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from onnx import TensorProto, numpy_helper
from skl2onnx.common.data_types import (
    BooleanTensorType,
    DoubleTensorType,
    Int64TensorType,
    StringTensorType,
)
from sklearn import ensemble, impute, tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: skl2onnx's scope, operator and container, which have no types.
Converter: TypeAlias = Callable[[Any, Any, Any], None]

_DOMAIN = "ai.onnx.ml"
#: The version that has the node, and the newest one that skl2onnx lets a node ask for.
_VERSION = 5
_STATED_VERSION = 3
_FORESTS = (
    ensemble.RandomForestClassifier,
    ensemble.ExtraTreesClassifier,
    ensemble.RandomForestRegressor,
    ensemble.ExtraTreesRegressor,
)
_TREES = (
    tree.DecisionTreeClassifier,
    tree.ExtraTreeClassifier,
    tree.DecisionTreeRegressor,
    tree.ExtraTreeRegressor,
)
_GRADIENT = (ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor)
_HISTOGRAM = (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor)


class CannotConvertError(Exception):
    """This model has no ONNX form here; the text says why."""


class Nodes(NamedTuple):
    """One tree as arrays, the root first; `left` is -1 in a leaf.

    Shapes: [nodes] each.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]


def nodes_of(estimator: object) -> list[Nodes]:
    """List the trees of an estimator that is one or consists of them; empty for any other."""
    if isinstance(estimator, _TREES):
        return [_of_tree(estimator.tree_)]
    if isinstance(estimator, _FORESTS):
        return [_of_tree(each.tree_) for each in estimator.estimators_]
    if isinstance(estimator, _GRADIENT):
        return [_of_tree(each.tree_) for each in estimator.estimators_.ravel()]
    if isinstance(estimator, _HISTOGRAM):
        return [_of_predictor(each.nodes) for stage in estimator._predictors for each in stage]
    return []


def _of_tree(found: Any) -> Nodes:  # noqa: ANN401  a compiled class
    missing = getattr(found, "missing_go_to_left", np.zeros(found.node_count))
    return Nodes(
        found.children_left,
        found.children_right,
        found.feature,
        found.threshold,
        np.asarray(missing, bool),
        found.value[:, 0, 0],
    )


def _of_predictor(nodes: NDArray[np.void]) -> Nodes:
    if nodes["is_categorical"].any():
        raise CannotConvertError("a tree splits on categories")
    is_leaf = nodes["is_leaf"].astype(bool)
    return Nodes(
        np.where(is_leaf, -1, nodes["left"].astype(np.int64)),
        nodes["right"].astype(np.int64),
        nodes["feature_idx"].astype(np.int64),
        nodes["num_threshold"],
        nodes["missing_go_to_left"].astype(bool),
        nodes["value"],
    )


class _Ensemble:
    """The attributes of a TreeEnsemble node, tree after tree."""

    def __init__(self) -> None:
        self._feature: list[int] = []
        self._threshold: list[float] = []
        self._missing: list[int] = []
        self._true: list[int] = []
        self._true_is_leaf: list[int] = []
        self._false: list[int] = []
        self._false_is_leaf: list[int] = []
        self._roots: list[int] = []
        self._targets: list[int] = []
        self._weights: list[float] = []

    def add(self, nodes: Nodes, weights: NDArray[np.float64], target: int) -> None:
        """Add a tree, whose leaves in their order give `weights` to one of the outputs."""
        is_inner = nodes.left >= 0
        first, first_leaf = len(self._feature), len(self._targets)
        place = np.where(
            is_inner, np.cumsum(is_inner) - 1 + first, np.cumsum(~is_inner) - 1 + first_leaf
        )
        self._roots.append(first)
        self._targets += [target] * len(weights)
        self._weights += weights.tolist()
        if not is_inner.any():  # an ensemble has no tree of a leaf alone: both ways lead to it
            self._branch([0], [0.0], [0], [first_leaf], [1], [first_leaf], [1])
            return
        left, right = nodes.left[is_inner], nodes.right[is_inner]
        self._branch(
            nodes.feature[is_inner].tolist(),
            nodes.threshold[is_inner].tolist(),
            nodes.missing_left[is_inner].astype(int).tolist(),
            place[left].tolist(),
            (~is_inner[left]).astype(int).tolist(),
            place[right].tolist(),
            (~is_inner[right]).astype(int).tolist(),
        )

    def _branch(self, *columns: Sequence[Any]) -> None:
        places = (
            self._feature, self._threshold, self._missing,
            self._true, self._true_is_leaf, self._false, self._false_is_leaf,
        )  # fmt: skip
        for held, added in zip(places, columns, strict=True):
            held.extend(added)  # type: ignore[attr-defined]

    def add_constant(self, weight: float, target: int) -> None:
        """Add a number to one of the outputs, before the trees that follow."""
        leaf = np.array([-1])
        nodes = Nodes(leaf, leaf, leaf, np.zeros(1), np.zeros(1, bool), np.zeros(1))
        self.add(nodes, np.array([weight], np.float64), target)

    def attributes(self, targets: int) -> dict[str, Any]:
        """Give the node's attributes; it adds up all leaves of a target."""
        modes = np.zeros(len(self._feature), np.uint8)  # all are "at most the threshold"
        return {
            "n_targets": targets,
            "aggregate_function": 1,
            "post_transform": 0,
            "tree_roots": self._roots,
            "nodes_featureids": self._feature,
            "nodes_splits": numpy_helper.from_array(np.array(self._threshold, np.float64)),
            "nodes_modes": numpy_helper.from_array(modes),
            "nodes_missing_value_tracks_true": self._missing,
            "nodes_truenodeids": self._true,
            "nodes_trueleafs": self._true_is_leaf,
            "nodes_falsenodeids": self._false,
            "nodes_falseleafs": self._false_is_leaf,
            "leaf_targetids": self._targets,
            "leaf_weights": numpy_helper.from_array(np.array(self._weights, np.float64)),
        }


class _Graph:
    """Adds nodes to skl2onnx's container; each method gives the name of what a node computes."""

    def __init__(self, scope: Any, container: Any) -> None:  # noqa: ANN401
        self._scope = scope
        self._container = container

    def node(
        self,
        kind: str,
        inputs: list[str],
        *,
        output: str = "",
        domain: str = "",
        version: int = 13,
        **attributes: object,
    ) -> str:
        output = output or self._scope.get_unique_variable_name(kind.lower())
        name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(
            kind, inputs, output, op_domain=domain, op_version=version, name=name, **attributes
        )
        return output

    def constant(self, array: NDArray[Any]) -> str:
        name: str = self._scope.get_unique_variable_name("constant")
        if array.dtype == object:
            values = [str(each).encode() for each in array.tolist()]
            self._container.add_initializer(name, TensorProto.STRING, list(array.shape), values)
        else:
            self._container.add_initializer(
                name, None, None, numpy_helper.from_array(np.ascontiguousarray(array), name)
            )
        return name

    def rows(self, operator: Any, *, rounded: bool) -> str:  # noqa: ANN401
        """Give the input as doubles, rounded to float32 where scikit-learn does."""
        found: str = operator.inputs[0].full_name
        if rounded:
            found = self._cast(found, TensorProto.FLOAT)
        return self._cast(found, TensorProto.DOUBLE)

    def _cast(self, name: str, kind: int) -> str:
        output: str = self._scope.get_unique_variable_name("cast")
        self._container.add_node(
            "Cast",
            [name],
            output,
            op_version=13,
            to=kind,
            name=self._scope.get_unique_operator_name("Cast"),
        )
        return output

    def trees(self, rows: str, found: _Ensemble, targets: int) -> str:
        attributes = found.attributes(targets)
        return self.node(
            "TreeEnsemble", [rows], domain=_DOMAIN, version=_STATED_VERSION, **attributes
        )

    def integers(self, name: str) -> str:
        return self._cast(name, TensorProto.INT64)

    def label(self, operator: Any, of: str, *, threshold: float | None = None) -> None:  # noqa: ANN401
        """Give the class of the largest of several columns, or of a column above a threshold."""
        classes = operator.raw_operator.classes_
        if threshold is None:
            index = self.node("ArgMax", [of], axis=1, keepdims=0)
        else:
            limit = self.constant(np.array(threshold))
            flat = self.node("Reshape", [of, self.constant(np.array([-1]))])
            index = self.integers(self.node("GreaterOrEqual", [flat, limit], version=16))
        if classes.dtype.kind in "iu":
            table = self.constant(classes.astype(np.int64))
        elif classes.dtype.kind == "b":
            table = self.constant(classes)
        else:
            table = self.constant(classes.astype(object))
        self.node("Gather", [table, index], output=operator.outputs[0].full_name)


def _write_forest(scope: Any, operator: Any, container: Any) -> None:  # noqa: ANN401
    """Write one tree or the mean of several."""
    estimator, graph = operator.raw_operator, _Graph(scope, container)
    compiled = [each.tree_ for each in getattr(estimator, "estimators_", [estimator])]
    rows = graph.rows(operator, rounded=True)
    found = _Ensemble()
    count = graph.constant(np.array(float(len(compiled))))
    if not hasattr(estimator, "classes_"):
        for each in compiled:
            nodes = _of_tree(each)
            found.add(nodes, nodes.value[nodes.left < 0], 0)
        total = graph.trees(rows, found, 1)
        graph.node("Div", [total, count], output=operator.outputs[0].full_name, version=14)
        return
    # a leaf gives one number: its place in a table of votes
    tables = []
    first = 0
    for target, each in enumerate(compiled):
        nodes = _of_tree(each)
        votes = each.value[nodes.left < 0, 0, :]
        found.add(nodes, np.arange(first, first + len(votes), dtype=np.float64), target)
        tables.append(votes)
        first += len(votes)
    places = graph.integers(graph.trees(rows, found, len(compiled)))
    votes = graph.node("Gather", [graph.constant(np.concatenate(tables)), places], axis=0)
    total = graph.node("ReduceSum", [votes, graph.constant(np.array([1]))], keepdims=0)
    output = operator.outputs[1].full_name
    graph.node("Div", [total, count], output=output, version=14)
    graph.label(operator, output)


def _write_gradient(scope: Any, operator: Any, container: Any) -> None:  # noqa: ANN401
    estimator, graph = operator.raw_operator, _Graph(scope, container)
    if estimator.init_ != "zero" and type(estimator.init_).__name__ not in (
        "DummyClassifier", "DummyRegressor",
    ):  # fmt: skip
        raise CannotConvertError("its first guess is an estimator of its own")
    rows = graph.rows(operator, rounded=True)
    row = np.zeros((1, estimator.n_features_in_), np.float32)
    first = np.asarray(estimator._raw_predict_init(row), np.float64).reshape(-1)
    found = _Ensemble()
    for target, guess in enumerate(first):
        found.add_constant(float(guess), target)
    for stage in estimator.estimators_:
        for target, each in enumerate(stage):
            nodes = _of_tree(each.tree_)
            weights = estimator.learning_rate * nodes.value[nodes.left < 0]
            found.add(nodes, weights, target)
    _finish(graph, operator, graph.trees(rows, found, len(first)), len(first))


def _write_histogram(scope: Any, operator: Any, container: Any) -> None:  # noqa: ANN401
    estimator, graph = operator.raw_operator, _Graph(scope, container)
    if getattr(estimator, "_preprocessor", None) is not None:
        raise CannotConvertError("it has columns of categories")
    rows = graph.rows(operator, rounded=False)
    first = np.asarray(estimator._baseline_prediction, np.float64).reshape(-1)
    found = _Ensemble()
    for target, guess in enumerate(first):
        found.add_constant(float(guess), target)
    for stage in estimator._predictors:
        for target, each in enumerate(stage):
            nodes = _of_predictor(each.nodes)
            found.add(nodes, nodes.value[nodes.left < 0], target)
    _finish(graph, operator, graph.trees(rows, found, len(first)), len(first))


def _write_imputer(scope: Any, operator: Any, container: Any) -> None:  # noqa: ANN401
    """Pass all on: rows with a missing value are never handed to this form."""
    graph = _Graph(scope, container)
    output = operator.outputs[0].full_name
    graph.node("Identity", [operator.inputs[0].full_name], output=output)


def _shape_imputer(operator: Any) -> None:  # noqa: ANN401
    estimator = operator.raw_operator
    marks_nan = isinstance(estimator.missing_values, float) and np.isnan(estimator.missing_values)
    is_whole = not any(each is None or each != each for each in estimator.statistics_.tolist())
    if not marks_nan or not is_whole or estimator.add_indicator or len(operator.inputs) != 1:
        raise CannotConvertError("its imputer does more than fill in missing values")
    operator.outputs[0].type = operator.inputs[0].type


def _finish(graph: _Graph, operator: Any, raw: str, targets: int) -> None:  # noqa: ANN401
    """Make labels and probabilities, or values, of what the trees add up."""
    estimator = operator.raw_operator
    loss = getattr(estimator, "_loss", None)
    link = type(getattr(loss, "link", None)).__name__
    if not hasattr(estimator, "classes_"):
        if link == "LogLink":
            graph.node("Exp", [raw], output=operator.outputs[0].full_name)
        elif link in ("IdentityLink", "NoneType"):
            graph.node("Identity", [raw], output=operator.outputs[0].full_name)
        else:
            raise CannotConvertError(f"its link function is {link}")
        return
    output = operator.outputs[1].full_name
    if targets > 1:
        graph.node("Softmax", [raw], output=output, axis=1)
        graph.label(operator, raw)
        return
    if link not in ("LogitLink", "NoneType") or getattr(estimator, "loss", "") == "exponential":
        raise CannotConvertError(f"its link function is {link}")
    second = graph.node("Sigmoid", [raw])
    first = graph.node("Sub", [graph.constant(np.array(1.0)), second], version=14)
    graph.node("Concat", [first, second], output=output, axis=1)
    # scikit-learn compares the probabilities; below, the raw value is compared with 0
    is_histogram = isinstance(estimator, _HISTOGRAM)
    graph.label(operator, raw, threshold=np.nextafter(0.0, 1.0) if is_histogram else 0.0)


def _shape(operator: Any) -> None:  # noqa: ANN401
    """Tell skl2onnx the types of a converter's outputs."""
    estimator = operator.raw_operator
    rows = operator.inputs[0].get_first_dimension()
    if getattr(estimator, "n_outputs_", 1) != 1:
        raise CannotConvertError("it predicts several targets")
    if not hasattr(estimator, "classes_"):
        operator.outputs[0].type = DoubleTensorType([rows, 1])
        return
    classes = estimator.classes_
    kinds = {"i": Int64TensorType, "u": Int64TensorType, "b": BooleanTensorType}
    kinds |= {"U": StringTensorType, "O": StringTensorType}
    if classes.dtype.kind not in kinds:
        raise CannotConvertError(f"its labels are of the type {classes.dtype}")
    operator.outputs[0].type = kinds[classes.dtype.kind]([rows])
    operator.outputs[1].type = DoubleTensorType([rows, len(classes)])


#: Estimator -> what writes it, and what tells the types of its outputs.
CONVERTERS: dict[type, Converter] = {
    **dict.fromkeys((*_TREES, *_FORESTS), _write_forest),
    **dict.fromkeys(_GRADIENT, _write_gradient),
    **dict.fromkeys(_HISTOGRAM, _write_histogram),
    impute.SimpleImputer: _write_imputer,
}
SHAPES: dict[type, Callable[[Any], None]] = {
    **dict.fromkeys(CONVERTERS, _shape),
    impute.SimpleImputer: _shape_imputer,
}


def raise_version(model: Any) -> None:  # noqa: ANN401  a ModelProto
    """State the version of `ai.onnx.ml` that the trees need.

    Raises:
        CannotConvertError: It has a node that this version no longer has.
    """
    kinds = {node.op_type for node in model.graph.node}
    if "TreeEnsemble" not in kinds:
        return
    if old := kinds & {"TreeEnsembleClassifier", "TreeEnsembleRegressor"}:
        raise CannotConvertError(f"it mixes trees of two forms ({', '.join(sorted(old))})")
    for each in model.opset_import:
        if each.domain == _DOMAIN:
            each.version = _VERSION
