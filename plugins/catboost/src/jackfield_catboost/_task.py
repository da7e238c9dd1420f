"""What a model is for, found in its loss function, and what its answers mean by it.

CatBoost's file does not say which class saved it; the loss function and the classes do. Pure
functions of names; knows no request.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jackfield import Parameter


class Task(enum.StrEnum):
    """What a model is for."""

    CLASSIFICATION = "classification"
    #: Several classes may hold for one row.
    MULTILABEL = "multilabel classification"
    REGRESSION = "regression"
    RANKING = "ranking"


_MULTILABEL = frozenset(["MultiLogloss", "MultiCrossEntropy"])
_RANKING = frozenset(
    [
        "GroupQuantile",
        "LambdaMart",
        "PairLogit",
        "PairLogitPairwise",
        "QueryCrossEntropy",
        "QueryRMSE",
        "QuerySoftMax",
        "StochasticFilter",
        "StochasticRank",
        "YetiRank",
        "YetiRankPairwise",
    ]
)
#: Those whose raw value is a logarithm of what was trained; CatBoostRegressor has the same.
_EXPONENT = frozenset(["Poisson", "Tweedie"])


def task_of(loss_function: str, *, has_classes: bool) -> Task:
    """Tell the task.

    Args:
        loss_function: Its name; empty or a name of somebody's own is judged by the classes alone.
        has_classes: Whether the artifact knows classes.
    """
    if loss_function in _MULTILABEL:
        return Task.MULTILABEL
    if has_classes:
        return Task.CLASSIFICATION
    return Task.RANKING if loss_function in _RANKING else Task.REGRESSION


def value_type(loss_function: str) -> str:
    """Name CatBoost's prediction type for the values of a regressor, or the scores of a ranker."""
    if loss_function in _EXPONENT:
        return "Exponent"
    return "RMSEWithUncertainty" if loss_function == "RMSEWithUncertainty" else "RawFormulaVal"


def value_columns(loss_function: str, parameters: Mapping[str, str]) -> dict[str, Parameter]:
    """Tell what the columns of a regressor's values are, where that is known."""
    if loss_function == "RMSEWithUncertainty":
        return {"columns": ["mean", "variance"]}
    if loss_function == "MultiQuantile" and "alpha" in parameters:
        return {"columns": [f"quantile {each}" for each in parameters["alpha"].split(",")]}
    return {}


def contribution_columns(names: Sequence[str]) -> dict[str, Parameter]:
    """Tell what the last dimension of the contributions is."""
    return {"columns": [*names, "expected value"]}
