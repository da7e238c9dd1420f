"""Read the model that an explainer looks into, and learn what its trees predict.

Knows the file's form by its content; a pickle runs code, and its path in the settings, which the
operator writes, is consent to that.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from jackfield import ModelLoadError
from jackfield.artifacts import Form, identify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jackfield_alibi._explain._explanation import Material

#: Families of models whose libraries compute SHAP values themselves, by the module of their class.
_BOOSTERS = ("xgboost", "lightgbm", "catboost")


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """A model in memory, and what it told."""

    #: As it was saved: an estimator, or a booster.
    estimator: Any
    #: What of it computes: the booster of an estimator of XGBoost or LightGBM, else the estimator.
    core: Any
    #: "xgboost", "lightgbm", "catboost", or "sklearn" for whatever else.
    family: str
    #: Name of the file, for errors.
    file: str
    #: Features that it takes; None where it does not tell.
    width: int | None
    is_classifier: bool
    #: Classes in its raw prediction; 1 for two classes, too, where one number tells both.
    outputs: int | None
    #: Names of the features; empty where it has none.
    names: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Name of its class, for errors."""
        return type(self.estimator).__name__


def refuse_misread(model: Model, *, has_background: bool) -> None:
    """Refuse models whose trees shap, and Alibi by it, would read wrongly and without an error.

    Raises:
        ModelLoadError: It is one.
    """
    if model.family == "catboost" and model.outputs is not None:
        problem = (
            f"'{model.file}' is CatBoost's with {model.outputs} classes, whose trees shap reads "
            "beyond their end; set 'parameters.extra.library' to 'booster', without reference data"
        )
        raise ModelLoadError(problem)
    is_bare = model.family == "lightgbm" and model.estimator is model.core
    if is_bare and has_background and (model.outputs or 1) > 1:
        problem = (
            f"'{model.file}' is a Booster of LightGBM with {model.outputs} classes, whose trees "
            "shap adds up as if they were of one where there are reference data; save the "
            "LGBMClassifier by joblib, or leave the reference data out"
        )
        raise ModelLoadError(problem)


def require_file(material: Material) -> Path:
    """Get the model's file.

    Raises:
        ModelLoadError: The settings name none, or it is missing.
    """
    path = material.model_file
    if path is None:
        problem = (
            f"the explainer '{material.kind}' looks into a model: name its file in "
            "'parameters.extra.model', beside the settings"
        )
        raise ModelLoadError(problem)
    if not path.exists():
        problem = f"the model's file '{path.name}' is missing in '{path.parent}'"
        raise ModelLoadError(problem)
    return path


def read_model(material: Material) -> Model:
    """Read the model's file, and hold the reference data against it.

    Raises:
        ModelLoadError: It is missing, of a form that is not read, damaged, its framework is not
            installed, or the reference data has another width.
    """
    path = require_file(material)
    model = describe(_read(path), path.name)
    reference = material.reference
    if reference is not None and (reference.ndim != 2 or reference.shape[1] != model.width):
        if model.width is None:
            return model
        problem = (
            f"'parameters.extra.reference': expected rows [-1, {model.width}], which "
            f"'{path.name}' takes, found {list(reference.shape)}"
        )
        raise ModelLoadError(problem)
    return model


def _read(path: Path) -> object:
    form = identify(path).form
    read = _READERS.get(form)
    if read is None:
        found = "a folder" if path.is_dir() else form.value
        problem = (
            f"the model's file '{path.name}' is {found}; expected a joblib file or pickle, or a "
            "file of XGBoost, LightGBM or CatBoost"
        )
        raise ModelLoadError(problem)
    try:
        return read(path)
    except ImportError as error:
        problem = (
            f"the model's file '{path.name}' needs '{error.name}', which is not installed; "
            f'install it: pip install "jackfield[{(error.name or "").partition(".")[0]}]"'
        )
        raise ModelLoadError(problem) from error
    # each library has errors of its own, and a pickle may raise any
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        problem = f"the model's file '{path.name}' can't be read: {type(error).__name__}: {reason}"
        raise ModelLoadError(problem) from error


def _read_xgboost(path: Path) -> object:
    import xgboost

    return xgboost.Booster(model_file=str(path))


def _read_lightgbm(path: Path) -> object:
    import lightgbm

    text = path.read_text(encoding="utf-8")
    if "\nend of trees" not in text:
        message = "it ends before its last tree"
        raise ValueError(message)
    # without the trees' sizes it is parsed in this thread, where an error is an exception: in
    # those of LightGBM it ends the process
    return lightgbm.Booster(model_str=re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE))


def _read_catboost(path: Path, form: str) -> object:
    from catboost import CatBoost

    model = CatBoost()
    model.load_model(str(path), format=form)
    return model


def _read_pickle(path: Path) -> object:
    import joblib

    return joblib.load(path)


_READERS: dict[Form, Callable[[Path], object]] = {
    Form.PICKLE: _read_pickle,
    Form.XGBOOST_JSON: _read_xgboost,
    Form.XGBOOST_UBJ: _read_xgboost,
    Form.XGBOOST_BINARY: _read_xgboost,
    Form.LIGHTGBM_TEXT: _read_lightgbm,
    Form.CATBOOST_CBM: lambda path: _read_catboost(path, "cbm"),
    Form.CATBOOST_JSON: lambda path: _read_catboost(path, "json"),
}


def describe(estimator: Any, file: str) -> Model:  # noqa: ANN401  of any library
    """Learn what a model tells of itself."""
    if type(estimator).__name__ == "Pipeline":
        last = type(estimator.steps[-1][1]).__name__
        problem = (
            f"'{file}' holds a Pipeline, whose trees don't see the features that it takes; save "
            f"its last step ({last}) alone, or explain it by 'kernel_shap'"
        )
        raise ModelLoadError(problem)
    family = type(estimator).__module__.partition(".")[0]
    if family not in _BOOSTERS:
        return _of_sklearn(estimator, file)
    return {"xgboost": _of_xgboost, "lightgbm": _of_lightgbm, "catboost": _of_catboost}[family](
        estimator, file
    )


def _of_sklearn(estimator: Any, file: str) -> Model:  # noqa: ANN401
    names = getattr(estimator, "feature_names_in_", ())
    return Model(
        estimator,
        core=estimator,
        family="sklearn",
        file=file,
        width=getattr(estimator, "n_features_in_", None),
        is_classifier=hasattr(estimator, "classes_"),
        outputs=None,
        names=tuple(map(str, names)),
    )


def _of_xgboost(estimator: Any, file: str) -> Model:  # noqa: ANN401
    import json

    booster = estimator.get_booster() if hasattr(estimator, "get_booster") else estimator
    learner = json.loads(booster.save_config())["learner"]
    told = learner["learner_model_param"]
    return Model(
        estimator,
        core=booster,
        family="xgboost",
        file=file,
        width=booster.num_features(),
        is_classifier=learner["objective"]["name"].startswith(("binary:", "multi:")),
        outputs=max(int(told["num_class"]), int(told.get("num_target", "1")), 1),
        names=tuple(booster.feature_names or ()),
    )


def _of_lightgbm(estimator: Any, file: str) -> Model:  # noqa: ANN401
    booster = getattr(estimator, "booster_", estimator)
    # the objective stands in the text's head alone
    head = booster.model_to_string(num_iteration=1).partition("\nTree=")[0]
    objective = head.partition("\nobjective=")[2].split(maxsplit=1)
    return Model(
        estimator,
        core=booster,
        family="lightgbm",
        file=file,
        width=booster.num_feature(),
        is_classifier=bool(objective)
        and objective[0] in ("binary", "multiclass", "multiclassova", "cross_entropy"),
        outputs=booster.num_model_per_iteration(),
        names=_unless_made(booster.feature_name(), "Column_"),
    )


def _of_catboost(estimator: Any, file: str) -> Model:  # noqa: ANN401
    if estimator.get_cat_feature_indices() or estimator.get_text_feature_indices():
        problem = (
            f"'{file}' takes categories or texts, and an explainer's rows are numbers; serve it "
            "by the runtime 'catboost' and ask for its output 'contributions'"
        )
        raise ModelLoadError(problem)
    classes = len(estimator.classes_)
    return Model(
        estimator,
        core=estimator,
        family="catboost",
        file=file,
        width=len(estimator.feature_names_),
        is_classifier=classes > 0,
        outputs=classes if classes > 2 else None,
        names=_unless_made(estimator.feature_names_, ""),
    )


def _unless_made(names: list[str], prefix: str) -> tuple[str, ...]:
    """Give names that somebody gave, none that the library counted."""
    made = [f"{prefix}{place}" for place in range(len(names))]
    return () if names == made else tuple(names)
