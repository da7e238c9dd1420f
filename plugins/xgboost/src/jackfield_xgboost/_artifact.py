"""Read a booster from its file, and refuse what is not one before XGBoost sees it.

XGBoost reads a UBJSON file that was cut off past its end, which may end the process: the end is
looked at first. Reading a pickle runs what it names; that the operator agrees is the core's care.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import xgboost

from jackfield import ModelLoadError
from jackfield.artifacts import Form, refuse_foreign

if TYPE_CHECKING:
    from pathlib import Path

    from jackfield.artifacts import Artifact

_PLATFORMS = {
    Form.XGBOOST_JSON: "xgboost_json",
    Form.XGBOOST_UBJ: "xgboost_ubj",
    Form.XGBOOST_BINARY: "xgboost_binary",
    Form.PICKLE: "xgboost_pickle",
}
#: Version that reads the old binary form no more.
_WITHOUT_BINARY = (3, 1)
#: More than the version at a file's end takes, in bytes.
_TAIL_BYTES = 128
_JSON_VERSION = re.compile(rb'"version"\s*:\s*\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]')
#: An array of three integers of one byte each, its length in any of UBJSON's integers.
_UBJ_VERSION = re.compile(rb"version\[(?:\$[iU])?#[iUIlL]\x00*\x03((?:[iU]?[\x00-\xff]){3})\]?\}")


class Loaded(msgspec.Struct, frozen=True):
    """What an artifact holds beside the booster."""

    booster: xgboost.Booster
    platform: str
    #: Version that saved it; empty where the file does not tell.
    version: str = ""
    #: The scikit-learn wrapper that saved it: "classifier", "regressor", "ranker"; empty for none.
    estimator: str = ""
    #: Labels of the classes, where the file has them.
    labels: Sequence[object] | None = None
    #: What stands for a missing value, where the file tells.
    missing: float | None = None


def read(path: Path | None) -> Loaded:
    """Read what XGBoost saved.

    Raises:
        ModelLoadError: There is no file, it is another framework's or none, it is damaged, a newer
            XGBoost wrote it, or code that a pickle needs is missing.
    """
    if path is None or path.is_dir():
        raise ModelLoadError("no artifact was found; name its file in 'parameters.uri'")
    found = refuse_foreign(path, "xgboost")
    if found.form not in _PLATFORMS or not found.framework:
        raise ModelLoadError(f"'{path.name}' is no model of XGBoost: it is {found.title}")
    if found.form is Form.PICKLE:
        return _unpickle(path, found)
    version = _version(path, found.form)
    _refuse_version(path, found.form, version)
    booster = xgboost.Booster()
    try:
        if found.form is Form.XGBOOST_JSON and path.suffix == ".json":
            booster.load_model(path)
        else:  # by its content, whatever its name
            booster.load_model(bytearray(path.read_bytes()))
    # XGBoost's own error, or text of the file that is no UTF-8 in its message
    except Exception as error:
        raise _damaged(path, version, error) from error
    estimator, labels = _attributes(path, booster)
    return Loaded(
        booster,
        _PLATFORMS[found.form],
        version=_text(version),
        estimator=estimator,
        labels=labels,
    )


def _version(path: Path, form: Form) -> tuple[int, ...]:
    """Find the version at the end of the file; empty if it is not there."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
    if form is Form.XGBOOST_JSON:
        found = _JSON_VERSION.search(tail)
        return tuple(int(each) for each in found.groups()) if found else ()
    if form is Form.XGBOOST_BINARY:
        return ()
    found = _UBJ_VERSION.search(tail)
    if found is None or found.end() != len(tail):
        raise ModelLoadError(f"'{path.name}' is cut off or damaged; copy or save it again")
    items = found[1]
    # the type stands before each integer, or once before them all
    return tuple(items[1::2] if len(items) == 6 else items)


def _refuse_version(path: Path, form: Form, version: tuple[int, ...]) -> None:
    installed = _installed()
    if form is Form.XGBOOST_BINARY and installed >= _WITHOUT_BINARY:
        raise ModelLoadError(
            f"'{path.name}' has the old binary form, which XGBoost 3.1 and later, here "
            f"{xgboost.__version__}, does not read; load it with XGBoost 3.0 and save it as "
            "'model.ubj'"
        )
    # the form changes in minor releases, and an older one may read a newer file wrongly
    if version[:2] > installed:
        raise ModelLoadError(
            f"'{path.name}' was saved by XGBoost {_text(version)}, which is newer than the "
            f"installed {xgboost.__version__}; install XGBoost {_text(version)} or later"
        )


def _installed() -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", xgboost.__version__)
    return tuple(int(each) for each in found.groups()) if found else ()


def _text(version: tuple[int, ...]) -> str:
    return ".".join(str(each) for each in version)


def _damaged(path: Path, version: tuple[int, ...], error: Exception) -> ModelLoadError:
    saved = f" (it was saved by XGBoost {_text(version)})" if version else ""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return ModelLoadError(
        f"XGBoost {xgboost.__version__} can't read '{path.name}'{saved}: {reason}; if it is cut "
        "off or damaged, copy or save it again"
    )


class _Encoder(msgspec.Struct):
    classes_: list[str | int | float] | None = None


class _ScikitLearn(msgspec.Struct, rename={"kind": "_estimator_type", "encoder": "_le"}):
    """What the wrappers note in an attribute of the booster; labels until XGBoost 1.7."""

    kind: str = ""
    encoder: _Encoder | None = None
    classes_: list[str | int | float] | None = None


def _attributes(path: Path, booster: xgboost.Booster) -> tuple[str, Sequence[object] | None]:
    """Read what a wrapper noted, and the attribute ``labels``, a JSON list."""
    try:
        noted = msgspec.json.decode(booster.attr("scikit_learn") or "{}", type=_ScikitLearn)
    except msgspec.DecodeError:  # anybody may set an attribute of that name
        noted = _ScikitLearn()
    labels: Sequence[object] | None = noted.encoder.classes_ if noted.encoder else None
    labels = labels or noted.classes_
    if labels and all(isinstance(each, float) and each.is_integer() for each in labels):
        labels = [int(each) for each in labels if isinstance(each, float)]
    if text := booster.attr("labels"):
        try:
            given = json.loads(text)
        except ValueError:
            given = None
        if not isinstance(given, list):
            raise ModelLoadError(
                f"the attribute 'labels' of '{path.name}' is no JSON list: {text[:80]}"
            )
        labels = given
    return noted.kind, labels


# ---- pickles ----


def _unpickle(path: Path, found: Artifact) -> Loaded:
    """Read what pickle or joblib saved: a Booster, or a wrapper."""
    try:
        joblib = importlib.import_module("joblib")
    except ModuleNotFoundError:
        joblib = None
    if joblib is None and found.compression:
        raise ModelLoadError(
            f"'{path.name}' is compressed by joblib; pip install \"jackfield-xgboost[sklearn]\""
        )
    try:
        if joblib is None:
            with path.open("rb") as file:
                model: object = pickle.load(file)
        else:
            model = joblib.load(path)
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"'{path.name}' needs the module '{error.name}', which is not installed"
            + _sklearn_hint(error.name)
        ) from error
    # unpickling runs whatever the file names
    except Exception as error:
        if isinstance(error, ImportError) and "scikit" in str(error).lower():
            raise ModelLoadError(
                f"'{path.name}' needs scikit-learn" + _sklearn_hint("sklearn")
            ) from error
        raise _damaged(path, (), error) from error
    if isinstance(model, xgboost.Booster):
        estimator, labels = _attributes(path, model)
        return Loaded(model, _PLATFORMS[Form.PICKLE], estimator=estimator, labels=labels)
    if not hasattr(model, "get_booster"):
        raise ModelLoadError(
            f"'{path.name}' holds '{type(model).__name__}', expected a Booster or one of XGBoost's "
            "estimators"
        )
    try:
        booster = model.get_booster()
    # scikit-learn's NotFittedError, which may not be importable
    except Exception as error:
        raise ModelLoadError(
            f"the {type(model).__name__} in '{path.name}' is not fitted; save it after fitting"
        ) from error
    return _of_estimator(path, model, booster)


def _sklearn_hint(module: str | None) -> str:
    is_known = (module or "").partition(".")[0] in ("sklearn", "joblib")
    return '; pip install "jackfield-xgboost[sklearn]"' if is_known else ""


def _of_estimator(path: Path, model: object, booster: xgboost.Booster) -> Loaded:
    kinds = {"XGBClassifier": "classifier", "XGBRanker": "ranker", "XGBRegressor": "regressor"}
    names = [each.__name__ for each in type(model).__mro__]
    estimator = next((kinds[name] for name in names if name in kinds), "")
    _, labels = _attributes(path, booster)
    if labels is None and estimator == "classifier":
        classes = getattr(model, "classes_", None)
        labels = None if classes is None else list(classes)
    missing = getattr(model, "missing", None)
    return Loaded(
        booster,
        _PLATFORMS[Form.PICKLE],
        estimator=estimator,
        labels=labels,
        missing=None if missing is None else float(missing),
    )
