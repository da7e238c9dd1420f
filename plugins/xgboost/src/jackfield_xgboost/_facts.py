"""What a booster tells about itself: task, features, categories, classes, iterations."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from jackfield import Datatype, ModelLoadError
from jackfield.tabular import Column, Columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xgboost

    from jackfield_xgboost import XgboostOptions

#: Which of XGBoost's types of a feature has which datatype; "c" is a category.
_DATATYPES = {"int": Datatype.INT64, "i": Datatype.BOOL}


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a booster when it is loaded."""

    #: "gbtree", "dart" or "gblinear".
    kind: str
    objective: str
    task: Literal["classification", "multilabel", "regression", "ranking"]
    #: Classes of a classifier, else 0.
    classes: int
    #: Results for a row: classes of `multi:*`, targets, quantiles; 1 is a column of one number.
    width: int
    features: int
    rounds: int
    #: Iterations after the one that early stopping found best are not used, as in the wrappers.
    best_iteration: int | None

    @property
    def is_linear(self) -> bool:
        """Whether it is no tree: no leaves, and no prediction in place."""
        return self.kind == "gblinear"


# the part of `Booster.save_config` that is read


class _ModelParam(msgspec.Struct):
    num_class: str = "0"
    num_target: str = "1"


class _TrainParam(msgspec.Struct):
    booster: str = "gbtree"
    objective: str = ""


class _Learner(msgspec.Struct):
    learner_model_param: _ModelParam
    learner_train_param: _TrainParam
    objective: dict[str, Any]


class _Config(msgspec.Struct):
    learner: _Learner


def facts_of(booster: xgboost.Booster) -> Facts:
    """Ask a booster."""
    learner = msgspec.json.decode(booster.save_config(), type=_Config).learner
    objective = str(learner.objective.get("name", learner.learner_train_param.objective))
    kind = learner.learner_train_param.booster
    targets = int(learner.learner_model_param.num_target)
    num_class = int(learner.learner_model_param.num_class)
    family = objective.partition(":")[0]
    task: Literal["classification", "multilabel", "regression", "ranking"] = "regression"
    if family == "multi" or (family == "binary" and targets == 1):
        task = "classification"
    elif family == "binary":
        task = "multilabel"
    elif family == "rank":
        task = "ranking"
    best = booster.attr("best_iteration")
    return Facts(
        kind=kind,
        objective=objective,
        task=task,
        classes=(num_class or 2) if task == "classification" else 0,
        width=max(num_class, targets, 1),
        features=booster.num_features(),
        rounds=booster.num_boosted_rounds(),
        best_iteration=int(best) if best and best.isdigit() and kind != "gblinear" else None,
    )


def columns_of(booster: xgboost.Booster, facts: Facts, options: XgboostOptions) -> Columns:
    """Make the columns of a booster's features.

    Raises:
        ModelLoadError: The settings name categories of a feature that is not there or has none, or
            others than the model stores.
    """
    names = booster.feature_names
    types = booster.feature_types or ["float"] * facts.features
    given = names or [f"f{place}" for place in range(facts.features)]  # as XGBoost calls them
    stored = _stored_categories(booster) if "c" in types else []
    for name in options.categories:
        if name not in given or types[given.index(name)] != "c":
            raise ModelLoadError(
                f"'parameters.extra.categories' names '{name}', which is no categorical feature of "
                f"the model; there are: {_list(given, types)}"
            )
    columns = []
    for place, (name, kind) in enumerate(zip(given, types, strict=True)):
        own = stored[place] if place < len(stored) else ()
        trained = tuple(options.categories.get(name, own))
        if own and trained != own:
            raise ModelLoadError(
                f"'parameters.extra.categories' of '{name}' are {list(trained)[:10]}, and the "
                f"model stores other categories: {list(own)[:10]}; leave the setting out"
            )
        if kind == "c" and trained:
            columns.append(Column.category(name, trained))
        else:  # a category of which only codes are known is a number
            datatype = Datatype.INT64 if kind == "c" else _DATATYPES.get(kind, Datatype.FP32)
            columns.append(Column.number(name, datatype))
    return Columns(
        columns,
        are_named=names is not None,
        dtypes=(np.float32,),
        unknown=options.unknown_category,
    )


def _list(names: Sequence[str], types: Sequence[str]) -> str:
    found = [f"'{name}'" for name, kind in zip(names, types, strict=True) if kind == "c"]
    return ", ".join(found) or "none"


# ---- categories, which XGBoost itself gives out through pyarrow only ----


class _Values(msgspec.Struct):
    values: list[int | float] = []
    #: Of texts, where each begins in the UTF-8 `values`; None for numbers.
    offsets: list[int] | None = None


class _Categories(msgspec.Struct):
    enc: list[_Values] = []


#: Begins and ends the categories in a model's JSON; a text would have backslashes before quotes.
_BEFORE, _AFTER = b'"model":{"cats":', b',"gbtree_model_param":'


def _stored_categories(booster: xgboost.Booster) -> list[tuple[str | int | float, ...]]:
    """Read the categories of each feature; empty before XGBoost 3.1, which stores none."""
    # not the whole of it: XGBoost writes NaN, which is no JSON
    _, is_there, rest = bytes(booster.save_raw("json")).partition(_BEFORE)
    if not is_there:
        return []
    stored = msgspec.json.decode(rest.partition(_AFTER)[0], type=_Categories)
    return [_values(each) for each in stored.enc]


def _values(stored: _Values) -> tuple[str | int | float, ...]:
    if stored.offsets is None:
        return tuple(stored.values)
    data = bytes(each % 256 for each in stored.values if isinstance(each, int))
    # XGBoost counts characters of a DataFrame's texts and stores as many bytes: the rest is lost
    if not data.isascii():
        return ()
    ends = stored.offsets
    return tuple(data[start:end].decode() for start, end in pairwise(ends))


def check_labels(labels: Sequence[object], facts: Facts) -> None:
    """Refuse labels that do not fit the classes.

    Raises:
        ModelLoadError: The model has no classes, or another number of them.
    """
    if not facts.classes:
        raise ModelLoadError(
            f"'parameters.extra.labels' is for classifiers; the objective '{facts.objective}' "
            f"makes it a model for {facts.task}"
        )
    if len(labels) != facts.classes:
        raise ModelLoadError(
            f"expected {facts.classes} labels, one for each class, found {len(labels)}"
        )
