"""Read off a booster what it computes and what its columns hold.

Looks at its head and its parameters only; computes nothing, knows no request.
"""

from __future__ import annotations

import enum
import math
import re
from typing import TYPE_CHECKING, Any

import msgspec

from jackfield import ModelLoadError
from jackfield.tabular import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightgbm


class Task(enum.StrEnum):
    """What a model was trained for."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    RANKING = "ranking"
    #: An objective of the model's author: what it predicts is the raw score.
    CUSTOM = "custom"


_TASKS = {
    "": Task.CUSTOM,
    "binary": Task.BINARY,
    "multiclass": Task.MULTICLASS,
    "multiclassova": Task.MULTICLASS,
    "lambdarank": Task.RANKING,
    "rank_xendcg": Task.RANKING,
}
#: What LightGBM calls a feature whose values tell nothing: it is in no tree.
_UNUSED = "none"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a booster's text says of it."""

    #: LightGBM's name of the objective; empty for one of the author's.
    objective: str
    #: Trees per iteration: 1, or one for each class.
    per_iteration: int
    names: tuple[str, ...]
    #: Of each feature ``[low:high]``, its categories ``-1:2:0``, or ``none``.
    infos: tuple[str, ...]
    #: Features that were trained as categories, by their place.
    categorical: frozenset[int]
    #: The columns that were categories of pandas, in order, each with its trained categories.
    pandas_categorical: tuple[tuple[Any, ...], ...]

    @property
    def task(self) -> Task:
        """The task that the objective is for."""
        return _TASKS.get(self.objective, Task.REGRESSION)

    @property
    def are_named(self) -> bool:
        """Whether the names are the author's, not those that LightGBM makes up."""
        return self.names != tuple(f"Column_{place}" for place in range(len(self.names)))


def facts_of(booster: lightgbm.Booster) -> Facts:
    """Read them from the booster's own text, which older versions of LightGBM wrote alike."""
    text: str = booster.model_to_string(num_iteration=1)
    fields = dict(re.findall(r"^(\w+)=(.*)$", text.partition("\nTree=")[0], re.MULTILINE))
    infos = tuple(fields["feature_infos"].split())
    told = re.search(r"^\[categorical_feature: ([\d,]+)\]$", text, re.MULTILINE)
    categorical = {int(each) for each in told[1].split(",")} if told else set()
    categorical |= {place for place, info in enumerate(infos) if is_categorical(info)}
    return Facts(
        objective=fields.get("objective", "").partition(" ")[0],
        per_iteration=booster.num_model_per_iteration(),
        names=tuple(booster.feature_name()),
        infos=infos,
        categorical=frozenset(categorical),
        pandas_categorical=tuple(tuple(each) for each in booster.pandas_categorical or ()),
    )


def columns_of(facts: Facts, chosen: Sequence[str]) -> list[Column]:
    """Describe the features.

    Args:
        facts: See `facts_of`.
        chosen: Names of the columns that were categories of pandas, from the settings; empty finds
            them.

    Raises:
        ModelLoadError: The settings name other columns than there are, or nothing tells which
            columns were categories of pandas.
    """
    places = _chosen_places(facts, chosen) if chosen else _find_places(facts)
    trained = dict(zip(places, facts.pandas_categorical, strict=True))
    return [
        _column(name, facts.infos[place], trained.get(place, ()))
        for place, name in enumerate(facts.names)
    ]


def _column(name: str, info: str, categories: tuple[Any, ...]) -> Column:
    if not categories:
        return Column.number(name, example=_example(info))
    try:
        return Column.category(name, categories)
    except (ValueError, TypeError) as error:
        raise ModelLoadError(f"the trained categories of '{name}' can't be served: {error}") from (
            error
        )


def is_categorical(info: str) -> bool:
    return info != _UNUSED and not info.startswith("[")


def bounds_of(info: str) -> list[float]:
    """Read the smallest and the largest trained value, or the trained categories."""
    return [] if info == _UNUSED else [float(each) for each in info.strip("[]").split(":")]


def _example(info: str) -> float:
    """Take a value from the midst of the trained ones, or a trained category."""
    bounds = bounds_of(info)
    if is_categorical(info):
        return next((each for each in bounds if each >= 0), 0.0)
    middle = sum(bounds) / 2 if bounds else 0.0
    return float(f"{middle:.3g}") if math.isfinite(middle) else 0.0


# ---- which columns were categories of pandas ----


def _chosen_places(facts: Facts, chosen: Sequence[str]) -> list[int]:
    unknown = [name for name in chosen if name not in facts.names]
    wanted = len(facts.pandas_categorical)
    if unknown or len(set(chosen)) != wanted:
        problem = f"unknown are {', '.join(unknown)}" if unknown else f"found {len(chosen)}"
        raise ModelLoadError(
            f"'parameters.extra.categorical_features' has to name {wanted} of the model's columns, "
            f"those that were categories of pandas; {problem}"
        )
    return sorted(facts.names.index(name) for name in chosen)


def _find_places(facts: Facts) -> list[int]:
    """Find the one way to give the trained categories, in order, to columns that fit them.

    The text has the categories of each such column, and not the columns: ordered categories were
    trained as numbers, and a category that is always the same is in no tree.
    """
    wanted, width = len(facts.pandas_categorical), len(facts.names)
    if not wanted:
        return []
    certain = sorted(facts.categorical)
    if len(certain) == wanted and all(
        _may_be(facts, place, index) for index, place in enumerate(certain)
    ):
        return certain
    # ways[place][index]: in how many ways the columns from `place` on take the categories from
    # `index` on; a column trained as a category takes one
    ways = [[0] * (wanted + 1) for _ in range(width + 1)]
    ways[width][wanted] = 1
    for place in reversed(range(width)):
        for index in range(wanted + 1):
            if place not in facts.categorical:
                ways[place][index] += ways[place + 1][index]
            if index < wanted and ways[place + 1][index + 1] and _may_be(facts, place, index):
                ways[place][index] += ways[place + 1][index + 1]
    if ways[0][0] != 1:
        raise ModelLoadError(
            f"it was trained on {wanted} columns of pandas categories, and its file leaves open "
            "which they are; name them in 'parameters.extra.categorical_features'"
        )
    found: list[int] = []
    for place in range(width):
        index = len(found)
        if index < wanted and ways[place + 1][index + 1] and _may_be(facts, place, index):
            found.append(place)
    return found


def _may_be(facts: Facts, place: int, index: int) -> bool:
    """Tell whether a column's trained values may be codes of some categories."""
    last = len(facts.pandas_categorical[index]) - 1
    return all(each.is_integer() and -1 <= each <= last for each in bounds_of(facts.infos[place]))
