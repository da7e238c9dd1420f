"""Read off a fitted estimator what its columns hold and what may be done with it.

Looks at attributes only: computes nothing, knows no request. Used when a model loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from jackfield import Datatype
from jackfield.tabular import Column

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

#: What a column may hold: texts in an object array (empty: any), or a number; None where nothing
#: tells.
Sample: TypeAlias = "NDArray[Any] | None"

try:  # scikit-learn 1.6 and later
    from sklearn.utils import get_tags
except ImportError:
    get_tags = None

#: Packages whose estimators compute row by row, but for those below, and change nothing meanwhile.
_KNOWN = ("sklearn", "xgboost", "lightgbm", "catboost", "imblearn")
#: NMF's `transform` starts from the mean of all rows and stops when all together converge; that of
#: SparsePCA drops the first dimension of a single row; BernoulliRBM's scores are drawn at random.
_NOT_ROW_WISE = ("NMF", "MiniBatchNMF", "SparsePCA", "MiniBatchSparsePCA", "BernoulliRBM")


def parts(estimator: object) -> Iterator[object]:
    """Yield the estimator and all those inside it."""
    yield estimator
    for value in _params(estimator):
        if hasattr(value, "fit") and not isinstance(value, type):
            yield value


def _params(estimator: object) -> list[object]:
    return (
        list(estimator.get_params(deep=True).values()) if hasattr(estimator, "get_params") else []
    )


def is_known(estimator: object) -> bool:
    """Tell whether all of it is code of known packages, none of the model's author."""
    functions = (
        value
        for value in _params(estimator)
        if callable(value) and not isinstance(value, type | np.ufunc)
    )
    return all(_is_of_known_package(each) for each in functions) and all(
        _is_of_known_package(part)
        # even a known function need not work row by row
        and (not _passes_on(part) or _is_elementwise(part))
        for part in parts(estimator)
    )


def _is_of_known_package(value: object) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in _KNOWN


def _is_elementwise(transformer: object) -> bool:
    function = getattr(transformer, "func", None)
    return function is None or isinstance(function, np.ufunc)


def is_row_wise(estimator: object) -> bool:
    """Tell whether each row's result is known not to depend on the rows beside it."""
    return is_known(estimator) and not any(
        type(part).__name__ in _NOT_ROW_WISE or getattr(part, "sample_posterior", False)
        for part in parts(estimator)
    )


def writes_on_data(estimator: object) -> bool:
    """Tell whether it may change the array that it is given."""
    if not is_known(estimator):
        return True
    return any(
        getattr(part, name, True) is False
        for part in parts(estimator)
        for name in ("copy", "copy_X", "copy_x")
    )


def reads_files(estimator: object) -> bool:
    """Tell whether it opens the files that its input names."""
    return any(
        hasattr(part, "build_analyzer") and getattr(part, "input", "content") != "content"
        for part in parts(estimator)
    )


def takes_documents(estimator: object) -> bool:
    """Tell whether its input is a list of texts, which a vectorizer takes apart."""
    if hasattr(estimator, "build_analyzer"):
        return True
    inner = [estimator.best_estimator_] if hasattr(estimator, "best_estimator_") else []
    steps = [*getattr(estimator, "steps", [])[:1], *getattr(estimator, "transformer_list", [])]
    return any(takes_documents(each) for each in [*inner, *(step[1] for step in steps)])


def selects_by_name(estimator: object) -> bool:
    """Tell whether it needs the columns' names to find its columns."""
    if not is_known(estimator) or getattr(estimator, "is_categorical_", None) is not None:
        return True
    specified = [columns for _, _, columns in getattr(estimator, "transformers_", [])]
    if any(_names_columns(columns) for columns in specified):
        return True
    return any(selects_by_name(each) for each in _inner(estimator))


def _names_columns(columns: object) -> bool:
    if isinstance(columns, slice):
        return isinstance(columns.start, str) or isinstance(columns.stop, str)
    return any(isinstance(each, str) for each in np.atleast_1d(np.asarray(columns, dtype=object)))


def columns(estimator: object, names: list[str]) -> list[Column]:
    """Find out what each column holds: texts that an encoder knows, or numbers.

    Args:
        estimator: A fitted estimator.
        names: Its columns' names, or stand-ins for them.
    """
    found = _sample_columns(estimator, names)
    return [_column(name, sample) for name, sample in zip(names, found, strict=True)]


def _column(name: str, sample: Sample) -> Column:
    if sample is None:
        return Column.any(name)
    if sample.dtype == object:
        texts = sample.tolist()
        return Column.text(name, categories=texts, example=None if texts else "text")
    return Column.number(name, Datatype.of(sample.dtype), example=sample[0].item() or None)


def allows_missing(estimator: object) -> bool:
    """Tell whether it says that it takes NaN."""
    try:
        if get_tags is not None:
            return bool(get_tags(estimator).input_tags.allow_nan)
        return bool(estimator._get_tags()["allow_nan"])  # type: ignore[attr-defined]
    # a class of the model's author may have none, or have them break
    except Exception:  # noqa: BLE001
        return False


def forget_names(estimator: object) -> list[tuple[object, object]]:
    """Make it one that was fitted without names of columns, so that arrays are all it needs.

    Returns:
        The estimators that had names, and their names: `recall_names` gives them back.
    """
    had = []
    for part in _same_data(estimator):
        names = vars(part).pop("feature_names_in_", None) if hasattr(part, "__dict__") else None
        if names is not None:
            had.append((part, names))
    return had


def recall_names(had: list[tuple[object, object]]) -> None:
    """Undo `forget_names`."""
    for part, names in had:
        vars(part)["feature_names_in_"] = names


def _same_data(estimator: object) -> Iterator[object]:
    """Yield the estimator and all inside it that are handed the same columns."""
    yield estimator
    inner = _inner(estimator)
    several = getattr(estimator, "estimators_", None)
    inner += several[1:] if isinstance(several, list) else []
    inner += [each.estimator for each in getattr(estimator, "calibrated_classifiers_", [])[1:]]
    for each in inner:
        if hasattr(each, "fit"):
            yield from _same_data(each)


def _sample_columns(estimator: object, names: list[str]) -> list[Sample]:
    """Find a sample of each column."""
    if hasattr(estimator, "transformers_"):
        return _sample_transformers(estimator.transformers_, names)
    inner = [each for each in _inner(estimator) if _width(each) == len(names)]
    if inner:
        return _merge(_sample_columns(each, names) for each in inner)
    is_leaf = len(list(parts(estimator))) == 1 and not _passes_on(estimator)
    if not is_leaf or not is_known(estimator):
        return [None] * len(names)
    categories = getattr(estimator, "categories_", None)
    if isinstance(categories, list) and len(categories) == len(names):
        return [_sample(values) for values in categories]
    statistics = getattr(estimator, "statistics_", None)
    if isinstance(statistics, np.ndarray) and statistics.dtype == object:
        kinds = [_sample([value]) for value in statistics]
        return [np.empty(0, object) if _is_text(each) else each for each in kinds]
    categorical = getattr(estimator, "is_categorical_", None)
    if categorical is not None:
        return [None if each else np.zeros(1) for each in categorical]
    return [np.zeros(1) for _ in names]


def _passes_on(estimator: object) -> bool:
    return type(estimator).__name__ == "FunctionTransformer"


def _sample_transformers(
    transformers: list[tuple[str, object, object]], names: list[str]
) -> list[Sample]:
    """Find a value of each column of a ColumnTransformer."""
    found: list[list[Sample]] = []
    for _, transformer, columns in transformers:
        if isinstance(transformer, str) or (isinstance(columns, slice) and _names_columns(columns)):
            continue  # dropped or passed on, or a range of names: nothing tells
        where = _positions(columns, names)
        row: list[Sample] = [None] * len(names)
        if takes_documents(transformer):
            samples: list[Sample] = [np.empty(0, object)] * len(where)
        else:
            samples = _sample_columns(transformer, [names[index] for index in where])
        for index, sample in zip(where, samples, strict=True):
            row[index] = sample
        found.append(row)
    return _merge([[None] * len(names), *found])


def _positions(columns: object, names: list[str]) -> list[int]:
    if isinstance(columns, slice):
        return list(range(len(names)))[columns]
    if _names_columns(columns):
        return [names.index(str(each)) for each in np.atleast_1d(np.asarray(columns, dtype=object))]
    chosen = np.atleast_1d(np.asarray(columns))
    found: list[int] = np.arange(len(names))[chosen].tolist() if chosen.size else []
    return found


def _merge(found: Iterable[list[Sample]]) -> list[Sample]:
    """Take for each column the sample that tells most: text before numbers before nothing."""

    def rank(sample: Sample) -> int:
        return 0 if sample is None else 2 if sample.dtype == object else 1

    return [max(samples, key=rank) for samples in zip(*found, strict=True)]


def _is_text(sample: Sample) -> bool:
    return sample is not None and sample.dtype == object


def _sample(values: Iterable[object]) -> Sample:
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        return array[:1]
    texts = [value for value in array.tolist() if isinstance(value, str)]
    others = [value for value in array.tolist() if not isinstance(value, str | None | float)]
    return np.array(texts, dtype=object) if texts and not others else None


def _inner(estimator: object) -> list[object]:
    """List the fitted estimators that are handed the same data."""
    if hasattr(estimator, "steps"):
        steps = [step for _, step in estimator.steps if not isinstance(step, str | None)]
        return steps[:1]
    if hasattr(estimator, "transformer_list"):
        return [step for _, step in estimator.transformer_list if not isinstance(step, str)]
    names = ("best_estimator_", "estimator_", "regressor_")
    inner = [getattr(estimator, name) for name in names if hasattr(estimator, name)]
    inner += list(getattr(estimator, "estimators_", []))[:1]
    inner += [each.estimator for each in getattr(estimator, "calibrated_classifiers_", [])[:1]]
    return inner


def _width(estimator: object) -> int | None:
    return getattr(estimator, "n_features_in_", None)
