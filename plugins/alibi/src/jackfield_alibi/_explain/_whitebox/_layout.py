"""SHAP values in Alibi's layout, whoever computed them.

Pure functions of arrays; import neither shap nor Alibi.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from jackfield import InvalidRequestError
from jackfield_alibi._explain._explanation import Explanation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"

#: What a request may set to have the values of a category's columns added.
CATEGORY_PARAMETERS = {
    "summarise_result": False,
    "cat_vars_start_idx": None,
    "cat_vars_enc_dim": None,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Labelling:
    """What goes into each explanation of one explainer."""

    kind: str
    #: The explainer's class, as Alibi calls it.
    name: str
    #: "shap", or the booster's family.
    library: str
    version: str
    #: Whether it looks into the model.
    is_whitebox: bool
    task: str
    params: Mapping[str, Any]
    feature_names: tuple[str, ...]
    categorical_names: Mapping[int, tuple[str, ...]]

    def meta(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Make Alibi's `meta`; `library` says who computed."""
        return {
            "name": self.name,
            "type": ["whitebox" if self.is_whitebox else "blackbox"],
            "task": self.task,
            "explanations": ["local", "global"],
            "params": {**self.params, **params},
            "version": self.version,
            "library": self.library,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Values:
    """What was computed of some rows."""

    #: For each output [n, features].
    shap_values: list[Array]
    #: For each output [n, features, features]; None if nobody asked.
    interactions: list[Array] | None
    #: [outputs].
    expected: Array
    #: What the values add up to: [n], or [n, outputs].
    raw: Array


def join(parts: Sequence[Values]) -> Values:
    """Put the values of consecutive rows together."""
    first = parts[0]
    if len(parts) == 1:
        return first
    interactions = None
    if first.interactions is not None:
        interactions = [
            np.concatenate(each)
            for each in zip(*(part.interactions or () for part in parts), strict=True)
        ]
    return Values(
        [np.concatenate(each) for each in zip(*(part.shap_values for part in parts), strict=True)],
        interactions,
        first.expected,
        np.concatenate([part.raw for part in parts]),
    )


def per_output(found: Array | Sequence[Array], dimensions: int) -> list[Array]:
    """Give an array for each output: of shap's list, or of its array with the outputs last.

    Args:
        found: What `shap_values` or `shap_interaction_values` gave.
        dimensions: Those of one output: 2, or 3 for interactions.
    """
    if isinstance(found, np.ndarray):
        if found.ndim == dimensions:
            return [_doubles(found)]
        return [_doubles(found[..., place]) for place in range(found.shape[-1])]
    return [_doubles(each) for each in found]


def _doubles(found: object) -> Array:
    return np.ascontiguousarray(found, np.float64)


def explain(
    labelling: Labelling,
    values: Values,
    instances: Array,
    parameters: Mapping[str, Any],
    *,
    extra: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Explanation:
    """Lay the values out as Alibi's TreeShap and KernelShap do.

    Args:
        labelling: Of the explainer.
        values: Of these instances.
        instances: [n, features].
        parameters: Of the request; those of `CATEGORY_PARAMETERS` are looked at.
        extra: More of `data["raw"]`.
        params: More of `meta["params"]`.

    Raises:
        InvalidRequestError: The places of categories do not fit.
    """
    shap_values, interactions = values.shap_values, values.interactions
    starts = _starts(parameters, instances.shape[1])
    is_summed = starts is not None
    if starts is not None:
        shap_values = [np.add.reduceat(each, starts, axis=1) for each in shap_values]
        if interactions is not None:
            interactions = [
                np.add.reduceat(np.add.reduceat(each, starts, axis=2), starts, axis=1)
                for each in interactions
            ]
    data: dict[str, Any] = {
        "shap_values": shap_values,
        "expected_value": values.expected,
        "categorical_names": {
            place: list(names) for place, names in labelling.categorical_names.items()
        },
        "feature_names": list(labelling.feature_names),
        "raw": {
            "raw_prediction": values.raw,
            "prediction": _labels(labelling, values.raw),
            "instances": instances,
            "importances": rank(shap_values, labelling.feature_names),
            **(extra or {}),
        },
    }
    if labelling.is_whitebox:
        data["shap_interaction_values"] = [np.array([])] if interactions is None else interactions
    return Explanation(
        labelling.kind, labelling.meta({**(params or {}), "summarise_result": is_summed}), data
    )


def rank(shap_values: Sequence[Array], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Order the features by the mean size of their values, for each output and for all."""
    width = shap_values[0].shape[1]
    told = list(names) if len(names) == width else [f"feature_{place}" for place in range(width)]
    sizes = [np.abs(each).mean(axis=0) for each in shap_values]

    def order(size: Array) -> dict[str, Any]:
        places = np.argsort(size)[::-1]
        return {"ranked_effect": size[places], "names": [told[place] for place in places]}

    found = {str(place): order(size) for place, size in enumerate(sizes)}
    return found | {"aggregated": order(np.sum(sizes, axis=0))}


def _labels(labelling: Labelling, raw: Array) -> Array:
    """Give the place of each row's class; nothing for what is no classifier."""
    if labelling.task != "classification":
        return np.array([], np.int64)
    if raw.ndim > 1:
        return np.asarray(raw.argmax(axis=1))
    is_logit = labelling.is_whitebox and labelling.params.get("model_output", "raw") == "raw"
    found: Array = (raw > (0.0 if is_logit else 0.5)).astype(np.int64)
    return found


def _starts(parameters: Mapping[str, Any], width: int) -> list[int] | None:
    """Find the first column of each feature, where columns of a category are to be added."""
    if not parameters.get("summarise_result"):
        return None
    firsts, sizes = parameters.get("cat_vars_start_idx"), parameters.get("cat_vars_enc_dim")
    wanted = "as many 'cat_vars_start_idx' as 'cat_vars_enc_dim', and at least one"
    if not firsts or not sizes or len(firsts) != len(sizes):
        raise InvalidRequestError(
            "parameters.explain_parameters.summarise_result",
            expected=wanted,
            found=f"{firsts!r} and {sizes!r}",
        )
    ends = {int(first): int(first) + int(size) for first, size in zip(firsts, sizes, strict=True)}
    starts, place = [], 0
    while place < width:
        starts.append(place)
        place = ends.get(place, place + 1)
    is_within = all(0 <= first < end <= width for first, end in ends.items())
    if place != width or not is_within or not set(ends) <= set(starts):
        raise InvalidRequestError(
            "parameters.explain_parameters.cat_vars_start_idx",
            expected=f"places of columns that do not overlap, below {width}",
            found=f"{list(firsts)!r} of {list(sizes)!r} columns",
        )
    return starts


def check_width(instances: Any, width: int | None) -> Array:  # noqa: ANN401  whatever came
    """Give rows of numbers back.

    Raises:
        InvalidRequestError: They are not rows, or of another width.
    """
    rows = np.asarray(instances)
    if rows.ndim != 2 or (width is not None and rows.shape[1] != width):
        wanted = -1 if width is None else width
        raise InvalidRequestError(
            "inputs[0].shape", expected=f"[-1, {wanted}]", found=str(list(rows.shape))
        )
    return rows
