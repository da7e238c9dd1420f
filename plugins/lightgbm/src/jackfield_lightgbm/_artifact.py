"""Read a booster, or a scikit-learn wrapper of one, from its file.

Reading a pickle runs what it names; that the operator agrees is the core's care, by the name.
"""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING

import joblib
import lightgbm

from jackfield import ModelLoadError
from jackfield.artifacts import Form, refuse_foreign
from jackfield_lightgbm._log import logging_to
from jackfield_lightgbm._text import checked

if TYPE_CHECKING:
    from pathlib import Path

    from jackfield_lightgbm._log import Logger

#: Catching warnings changes the whole process, and several models load at once, in threads.
_CATCHING = threading.Lock()
#: Ends of names that the operator knows to run code.
_PICKLES = (".joblib", ".pickle", ".pkl")


def read(artifact: Path | None, logger: Logger) -> object:
    """Read what LightGBM, joblib or pickle saved.

    Returns:
        A `lightgbm.Booster`, or a fitted `lightgbm.LGBMModel` from a pickle.

    Raises:
        ModelLoadError: There is no file, it is damaged, of another framework or a newer LightGBM,
            or it is a pickle that is not named as one.
    """
    if artifact is None or artifact.is_dir():
        raise ModelLoadError("no artifact was found; name its file in 'parameters.uri'")
    found = refuse_foreign(artifact, "lightgbm")
    with logging_to(logger):
        if found.form is Form.LIGHTGBM_TEXT:
            return _read_text(artifact)
        if found.form is Form.LIGHTGBM_JSON:
            raise ModelLoadError(
                f"'{artifact.name}' is LightGBM's JSON dump, which LightGBM itself can't read; "
                "save the model with Booster.save_model"
            )
        if found.form is not Form.PICKLE:
            raise ModelLoadError(
                f"'{artifact.name}' is no model of LightGBM: its text form begins with 'tree' and "
                "its version; save the model with Booster.save_model"
            )
        if artifact.suffix not in _PICKLES:
            raise ModelLoadError(
                f"'{artifact.name}' is a pickle, which runs code when it is read; name it "
                f"{', '.join(f'*{each}' for each in _PICKLES)} if you trust it, or save the model "
                "with Booster.save_model"
            )
        return _read_pickle(artifact, logger)


def _read_text(artifact: Path) -> lightgbm.Booster:
    try:
        text = artifact.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ModelLoadError(
            f"'{artifact.name}' is no whole model of LightGBM: it is not UTF-8 text; "
            "copy or save it again"
        ) from error
    text = checked(text, artifact.name)
    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise ModelLoadError(
            f"LightGBM {lightgbm.__version__} can't read '{artifact.name}': {error}"
        ) from error


def _read_pickle(artifact: Path, logger: Logger) -> object:
    with _CATCHING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found: object = joblib.load(artifact)
        # unpickling runs whatever the file names
        except Exception as error:
            raise ModelLoadError(_problem(artifact.name, error)) from error
    for text in sorted({str(each.message) for each in caught}):
        logger.warning("%s: %s", artifact.name, text)
    wrapper = getattr(lightgbm, "LGBMModel", None)
    if isinstance(found, lightgbm.Booster):
        return found
    if wrapper is None or not isinstance(found, wrapper):
        raise ModelLoadError(
            f"'{artifact.name}' holds '{type(found).__module__}.{type(found).__qualname__}', "
            "expected a lightgbm.Booster or one of LightGBM's estimators"
        )
    if getattr(found, "_Booster", None) is None:
        raise ModelLoadError(
            f"the {type(found).__name__} in '{artifact.name}' is not fitted; save it after fitting"
        )
    return found


def _problem(file: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        module = error.name or "?"
        if module.partition(".")[0] == "sklearn":
            return (
                f"'{file}' needs '{module}' of scikit-learn; "
                'pip install "jackfield-lightgbm[sklearn]"'
            )
        return (
            f"'{file}' needs the module '{module}', which is not installed; "
            f"install the package that brings it (LightGBM here is {lightgbm.__version__})"
        )
    if isinstance(error, AttributeError):
        return (
            f"'{file}' needs code that LightGBM {lightgbm.__version__} and what is installed "
            f"beside it do not have: {error}"
        )
    return (
        f"'{file}' is no whole file of joblib or pickle: {type(error).__name__}: {error}; "
        "copy or save it again"
    )
