"""Read an estimator from its file, and tell the operator what is wrong with it or doubtful.

Reading a pickle runs what it names; that the operator agrees is the core's care.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import TYPE_CHECKING

import joblib
import sklearn
from sklearn.exceptions import InconsistentVersionWarning

from jackfield import ModelLoadError

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: Catching warnings changes the whole process, and several models load at once, in threads.
_CATCHING = threading.Lock()


@contextlib.contextmanager
def catching_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Keep warnings from the process and give them as a list."""
    with _CATCHING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def read(
    artifact: Path | None, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
) -> object:
    """Read what joblib or pickle saved.

    Returns:
        What the file holds; warnings that reading gave are in the log.

    Raises:
        ModelLoadError: There is no file, it is damaged, or code that it needs is missing.
    """
    if artifact is None or artifact.is_dir():
        raise ModelLoadError("no artifact was found; name its file in 'parameters.uri'")
    with catching_warnings() as caught:
        try:
            found: object = joblib.load(artifact)
        # unpickling runs whatever the file names
        except Exception as error:
            versions = _versions(caught)
            problem = _problem(artifact.name, error)
            raise ModelLoadError(f"{problem}; {versions}" if versions else problem) from error
    if versions := _versions(caught):
        logger.warning("%s: %s; results may differ", artifact.name, versions)
    for text in sorted({str(each.message) for each in caught if not _tells_version(each)}):
        logger.warning("%s: %s", artifact.name, text)
    return found


def _problem(file: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        module = error.name or "?"
        if module.startswith("sklearn."):
            return f"'{file}' needs '{module}', which this version of scikit-learn does not have"
        return (
            f"'{file}' needs the module '{module}', which is not installed; "
            "install the package that brings it"
        )
    if isinstance(error, AttributeError):
        return (
            f"'{file}' needs code that is not here: {error}; "
            "train with classes and functions of an installed module"
        )
    return (
        f"'{file}' is no whole file of joblib or pickle: {type(error).__name__}: {error}; "
        "copy or save it again"
    )


def _tells_version(caught: warnings.WarningMessage) -> bool:
    return isinstance(caught.message, InconsistentVersionWarning)


def _versions(caught: Sequence[warnings.WarningMessage]) -> str:
    """Say which versions of scikit-learn saved it; empty if the installed one did."""
    saved = {
        str(getattr(each.message, "original_sklearn_version", "?"))
        for each in caught
        if _tells_version(each)
    }
    if not saved:
        return ""
    versions = ", ".join(sorted(saved))
    return f"saved by scikit-learn {versions}, and {sklearn.__version__} is installed"
