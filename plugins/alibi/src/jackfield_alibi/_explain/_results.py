"""Explanations as tensors: what each kind of explainer answers, by name, datatype and shape.

Rows come first where an explanation is of rows. What one row or feature has fewer of than another
is filled up: numbers with NaN, places with -1, texts with the empty one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jackfield import Datatype, InvalidRequestError, TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from jackfield import Parameter
    from jackfield_alibi._explain._explanation import Explanation

_F, _I, _T = Datatype.FP64, Datatype.INT64, Datatype.BYTES


class Facts(NamedTuple):
    """What is known of a model's explanations before there is one."""

    #: The shape of one instance: [features], [height, width, channels]; () of a text.
    instance: tuple[int, ...] = (-1,)
    #: Of the labels that the target predicts.
    label: Datatype = Datatype.INT64
    feature_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()


class Output(NamedTuple):
    """One tensor of an explanation."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    description: str
    make: Callable[[Explanation], Any]
    on_request: bool = False
    #: Parameters of `explain` that it needs, put below those that a request sets.
    asks: Mapping[str, object] = {}

    def metadata(self, facts: Facts) -> TensorMetadata:
        """Tell it, with the names of what its axes are of."""
        parameters: dict[str, Parameter] = {"description": self.description}
        if self.on_request:
            parameters["on_request"] = True
        if facts.feature_names and "feature" in self.description:
            parameters["feature_names"] = list(facts.feature_names)
        if facts.target_names and "class" in self.description:
            parameters["classes"] = list(facts.target_names)
        return TensorMetadata(self.name, self.datatype, list(self.shape), parameters)

    def array(self, explanation: Explanation) -> NDArray[Any]:
        """Make the tensor's array, of its datatype and number of dimensions.

        Raises:
            InvalidRequestError: What the request's parameters led to has not the shape of this
                output.
        """
        found = self.make(explanation)
        if self.datatype is Datatype.BYTES:
            made = np.empty(np.shape(found), dtype=object)
            made[...] = found
        else:
            made = np.ascontiguousarray(found, dtype=self.datatype.dtype)
        if made.ndim != len(self.shape):
            raise InvalidRequestError(
                "outputs",
                expected=f"'{self.name}' of {len(self.shape)} dimensions {list(self.shape)}",
                found=f"{list(made.shape)} with these explain_parameters; ask for 'explanation'",
            )
        return made


def outputs_of(kind: str, facts: Facts) -> list[Output]:
    """List what a kind of explainer gives, in the order of the answer."""
    return _KINDS[kind](facts)


# ---- anchors ----


def _anchors(facts: Facts) -> list[Output]:
    return [
        Output("anchor", _T, (-1, -1), "rules of each row, which hold together", _rules),
        *_precision(facts),
        Output("anchor_features", _I, (-1, -1), "place of each rule's feature; -1 fills", _places),
    ]


def _anchor_texts(facts: Facts) -> list[Output]:
    return [
        Output("anchor", _T, (-1, -1), "words of each text, which hold together", _rules),
        *_precision(facts),
        Output(
            "anchor_positions", _I, (-1, -1), "where each word begins; -1 fills", _word_positions
        ),
    ]


def _anchor_images(facts: Facts) -> list[Output]:
    image = facts.instance
    return [
        Output(
            "anchor", _F, (-1, *image), "each image, with the anchor's parts alone", _of("anchor")
        ),
        *_precision(facts),
        Output("segments", _I, (-1, *image[:2]), "the part that a pixel is of", _of("segments")),
    ]


def _precision(facts: Facts) -> list[Output]:
    return [
        Output(
            "precision", _F, (-1,), "part of the rows under the anchor that keep the prediction",
            lambda found: [np.ravel(each.data["precision"])[0] for each in found.rows],
        ),
        Output(
            "coverage", _F, (-1,), "part of all rows that are under the anchor",
            lambda found: [np.ravel(each.data["coverage"])[0] for each in found.rows],
        ),
        Output(
            "prediction", facts.label, (-1,), "what is explained",
            lambda found: [_plain(each.data["raw"]["prediction"][0]) for each in found.rows],
        ),
    ]  # fmt: skip


def _rules(found: Explanation) -> NDArray[Any]:
    return _filled([[str(rule) for rule in each.data["anchor"]] for each in found.rows], "")


def _places(found: Explanation) -> NDArray[Any]:
    return _filled([list(each.data["raw"]["feature"]) for each in found.rows], -1)


def _word_positions(found: Explanation) -> NDArray[Any]:
    return _filled([list(each.data["raw"]["positions"]) for each in found.rows], -1)


# ---- SHAP values ----


def _shap(facts: Facts) -> list[Output]:
    width = facts.instance[0] if facts.instance else -1
    classes = len(facts.target_names) or -1
    return [
        Output(
            "shap_values",
            _F,
            (-1, width, classes),
            "what each feature adds to the prediction, by row, feature and class",
            lambda found: np.stack([np.asarray(each) for each in found.data["shap_values"]], -1),
        ),
        Output(
            "expected_value",
            _F,
            (classes,),
            "the prediction where no feature is known, by class",
            lambda found: np.atleast_1d(np.asarray(found.data["expected_value"], np.float64)),
        ),
    ]


def _tree_shap(facts: Facts) -> list[Output]:
    width = facts.instance[0] if facts.instance else -1
    classes = len(facts.target_names) or -1
    return [
        *_shap(facts),
        Output(
            "shap_interaction_values",
            _F,
            (-1, width, width, classes),
            "what each pair of features adds to the prediction, by row, features and class",
            lambda found: np.stack(
                [np.asarray(each) for each in found.data["shap_interaction_values"]], -1
            ),
            on_request=True,
            asks={"interactions": True},
        ),
    ]


# ---- curves ----


def _ale(facts: Facts) -> list[Output]:
    classes = len(facts.target_names) or -1
    return [
        _grid(),
        Output(
            "ale_values",
            _F,
            (-1, -1, classes),
            "effect on the prediction at each point, by feature, point and class; NaN fills",
            lambda found: _stacked(found.data["ale_values"]),
        ),
        Output(
            "ale0",
            _F,
            (-1, classes),
            "what was taken off to center each curve, by feature and class",
            lambda found: np.stack([np.atleast_1d(each) for each in found.data["ale0"]]),
        ),
        Output(
            "constant_value",
            _F,
            (1,),
            "mean of the predictions",
            lambda found: [found.data["constant_value"]],
        ),
        _feature_names(),
    ]


def _dependence(facts: Facts) -> list[Output]:
    classes = len(facts.target_names) or -1
    return [
        _grid(),
        Output(
            "pd_values",
            _F,
            (-1, classes, -1),
            "mean prediction at each point, by feature, class and point; NaN fills",
            lambda found: _stacked(found.data["pd_values"]),
        ),
        _feature_names(),
        Output(
            "ice_values",
            _F,
            (-1, classes, -1, -1),
            "prediction of each row at each point, by feature, class, row and point; NaN fills",
            lambda found: _stacked(found.data["ice_values"]),
            on_request=True,
            asks={"kind": "both"},
        ),
    ]


def _variance(facts: Facts) -> list[Output]:
    classes = len(facts.target_names) or -1
    return [
        Output(
            "feature_importance",
            _F,
            (classes, -1),
            "how much partial dependence varies, by class and feature",
            lambda found: found.data["feature_importance"],
        ),
        _feature_names(),
        Output(
            "feature_interaction",
            _F,
            (classes, -1),
            "how much a feature's importance varies with another, by class and pair of features",
            lambda found: found.data["feature_interaction"],
            on_request=True,
            asks={"method": "interaction"},
        ),
    ]


def _permutation(facts: Facts) -> list[Output]:
    del facts
    return [
        Output(
            "feature_importance",
            _F,
            (-1, -1),
            "how much worse predictions get without it, by metric and feature",
            lambda found: _importances(found, "mean"),
        ),
        Output(
            "feature_importance_std",
            _F,
            (-1, -1),
            "its standard deviation over the repeats, by metric and feature; NaN where exact",
            lambda found: _importances(found, "std"),
        ),
        Output(
            "metrics",
            _T,
            (-1,),
            "names of the metrics",
            lambda found: [str(each) for each in found.data["metric_names"]],
        ),
        _feature_names(),
    ]


def _importances(found: Explanation, part: str) -> NDArray[Any]:
    return np.array(
        [
            [
                each[part] if isinstance(each, dict) else (each if part == "mean" else np.nan)
                for each in metric
            ]
            for metric in found.data["feature_importance"]
        ],
        np.float64,
    )


def _grid() -> Output:
    return Output(
        "feature_values",
        _F,
        (-1, -1),
        "points of each curve, by feature and point; NaN fills",
        lambda found: _stacked(found.data["feature_values"]),
    )


def _feature_names() -> Output:
    return Output(
        "feature_names",
        _T,
        (-1,),
        "names of those explained; a pair is joined by ' & '",
        lambda found: [
            " & ".join(map(str, each)) if isinstance(each, tuple | list) else str(each)
            for each in found.data["feature_names"]
        ],
    )


# ---- gradients and examples ----


def _integrated_gradients(facts: Facts) -> list[Output]:
    return [
        Output(
            "attributions",
            _F,
            (-1, *facts.instance),
            "what each feature adds to the prediction",
            lambda found: np.asarray(found.data["attributions"][0]),
        ),
        Output(
            "deltas",
            _F,
            (-1,),
            "how far the attributions' sum is from the prediction's change",
            lambda found: np.ravel(found.data["deltas"]),
        ),
    ]


def _similarity(facts: Facts) -> list[Output]:
    return [
        Output("scores", _F, (-1, -1), "similarity to each row of the reference data, most first",
               _whole("scores")),
        Output("ordered_indices", _I, (-1, -1), "places of those rows", _whole("ordered_indices")),
        Output("most_similar", _F, (-1, -1, *facts.instance), "the most similar rows",
               _whole("most_similar")),
        Output("least_similar", _F, (-1, -1, *facts.instance), "the least similar rows",
               _whole("least_similar")),
    ]  # fmt: skip


def _cem(facts: Facts) -> list[Output]:
    return [
        Output(name, _F, (-1, *facts.instance), text, _rows_or_nan(name))
        for name, text in [
            ("PN", "what must be absent: the row with what changes its class; NaN where not found"),
            ("PP", "what must be present: the part that keeps its class; NaN where not found"),
        ]
    ] + [
        Output("prediction", _I, (-1,), "class of each row", _class_or_none("X_pred")),
        Output("PN_prediction", _I, (-1,), "class of PN; -1 where not found",
               _class_or_none("PN_pred")),
        Output("PP_prediction", _I, (-1,), "class of PP; -1 where not found",
               _class_or_none("PP_pred")),
    ]  # fmt: skip


def _counterfactual(facts: Facts) -> list[Output]:
    return [
        Output(
            "counterfactual",
            _F,
            (-1, *facts.instance),
            "the nearest row of another class; NaN where none was found",
            lambda found: _padded_rows(
                [None if each.data["cf"] is None else each.data["cf"]["X"] for each in found.rows],
                facts.instance,
            ),
        ),
        Output(
            "counterfactual_prediction",
            _I,
            (-1,),
            "its class; -1 where none was found",
            lambda found: [
                -1 if each.data["cf"] is None else int(np.ravel(each.data["cf"]["class"])[0])
                for each in found.rows
            ],
        ),
        Output(
            "prediction",
            _I,
            (-1,),
            "class of each row",
            lambda found: [int(np.ravel(each.data["orig_class"])[0]) for each in found.rows],
        ),
    ]


def _counterfactual_rl(facts: Facts) -> list[Output]:
    def labels(found: Explanation, key: str) -> NDArray[Any]:
        values = np.asarray(found.data[key]["class"])
        return values.reshape(len(values), -1)[:, 0]

    return [
        Output(
            "counterfactual",
            _F,
            (-1, *facts.instance),
            "a row near each that is of the target class",
            lambda found: np.asarray(found.data["cf"]["X"]),
        ),
        Output(
            "counterfactual_prediction",
            _I,
            (-1,),
            "its class",
            lambda found: labels(found, "cf"),
        ),
        Output("prediction", _I, (-1,), "class of each row", lambda found: labels(found, "orig")),
    ]


# ---- arrays ----


def _of(key: str) -> Callable[[Explanation], Any]:
    """Put together the rows' own."""
    return lambda found: np.stack([np.asarray(each.data[key]) for each in found.rows])


def _whole(key: str) -> Callable[[Explanation], Any]:
    return lambda found: np.asarray(found.data[key])


def _rows_or_nan(key: str) -> Callable[[Explanation], Any]:
    return lambda found: _padded_rows(
        [each.data[key] for each in found.rows], np.shape(found.rows[0].data["X"])[1:]
    )


def _class_or_none(key: str) -> Callable[[Explanation], Any]:
    return lambda found: [
        -1 if each.data[key] is None else int(np.ravel(each.data[key])[0]) for each in found.rows
    ]


def _padded_rows(rows: Iterable[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Stack rows, each [1, …] or None, which is NaN."""
    given = [None if each is None else np.asarray(each, np.float64) for each in rows]
    known = next((each.shape[1:] for each in given if each is not None), None)
    size = known if known is not None else tuple(max(each, 0) for each in shape)
    return np.stack([np.full(size, np.nan) if each is None else each[0] for each in given])


def _plain(found: object) -> object:
    return found.decode() if isinstance(found, bytes) else found


def _filled(rows: Sequence[Sequence[Any]], fill: object) -> NDArray[Any]:
    """Make a matrix of lists of different lengths."""
    width = max((len(each) for each in rows), default=0)
    made = np.full((len(rows), width), fill, dtype=object)
    for place, row in enumerate(rows):
        made[place, : len(row)] = row
    return made


def _stacked(arrays: Sequence[Any]) -> NDArray[Any]:
    """Stack arrays of one number of dimensions; NaN fills what the smaller ones lack.

    Those of a pair of features beside those of single ones can't be stacked: they come out with no
    dimension, which is refused.
    """
    try:
        given = [np.asarray(each, np.float64) for each in arrays]
    except (TypeError, ValueError):
        return np.empty(())
    if len({each.ndim for each in given}) != 1:
        return np.empty(())
    size = np.max([each.shape for each in given], axis=0)
    made = np.full((len(given), *size), np.nan)
    for place, each in enumerate(given):
        made[place][tuple(slice(size) for size in each.shape)] = each
    return made


_KINDS: Mapping[str, Callable[[Facts], list[Output]]] = {
    "anchor_tabular": _anchors,
    "anchor_text": _anchor_texts,
    "anchor_image": _anchor_images,
    "kernel_shap": _shap,
    "tree_shap": _tree_shap,
    "ale": _ale,
    "partial_dependence": _dependence,
    "tree_partial_dependence": _dependence,
    "partial_dependence_variance": _variance,
    "tree_partial_dependence_variance": _variance,
    "permutation_importance": _permutation,
    "integrated_gradients": _integrated_gradients,
    "cem": _cem,
    "counterfactual": _counterfactual,
    "counterfactual_proto": _counterfactual,
    "counterfactual_rl": _counterfactual_rl,
    "gradient_similarity": _similarity,
}
