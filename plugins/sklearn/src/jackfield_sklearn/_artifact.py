"""Read an estimator from its file, and tell the operator what is wrong with it or doubtful.

Reading a pickle runs what it names; that the operator agrees is the core's care. A skops file runs
nothing, and holds no type that the operator or skops does not trust.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import threading
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import joblib
import sklearn
from sklearn.exceptions import InconsistentVersionWarning

from jackfield import ModelLoadError
from jackfield.artifacts import Form, identify, refuse_foreign
from jackfield.stable import stable_file

if TYPE_CHECKING:
    import logging
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

#: Catching warnings changes the whole process, and several models load at once, in threads.
_CATCHING = threading.Lock()
#: Frameworks whose estimators work as scikit-learn's do, so that a pickle of one is read, too.
_ALIKE = ("xgboost", "lightgbm", "catboost")


@contextlib.contextmanager
def catching_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Keep warnings from the process and give them as a list."""
    with _CATCHING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def read(
    artifact: Path | None,
    trusted: Collection[str],
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
    share_memory: str = "off",
) -> tuple[object, Form]:
    """Read what joblib, pickle or skops saved.

    Args:
        artifact: The file.
        trusted: Types that a skops file may hold, from the settings, beside skops's own.
        logger: Gets the warnings that reading gave.
        share_memory: As the option says.

    Returns:
        What the file holds, and its form.

    Raises:
        ModelLoadError: There is no file, it is damaged or another framework's, it holds a type that
            is not trusted, or code that it needs is missing.
    """
    if artifact is None or artifact.is_dir():
        raise ModelLoadError("no artifact was found; name its file in 'parameters.uri'")
    form = identify(artifact).form
    if form not in (Form.PICKLE, Form.SKOPS):
        form = refuse_foreign(artifact, "sklearn").form
    is_skops = form is Form.SKOPS or artifact.suffix == ".skops"
    with catching_warnings() as caught:
        try:
            if is_skops:
                found = _read_skops(artifact, trusted)
            elif mapped := _find_mapped(artifact, share_memory, logger):
                # copy on write: code that is picky about read-only arrays, or writes, works as ever
                found = joblib.load(mapped, mmap_mode="c")
            else:
                found = joblib.load(artifact)
        except ModelLoadError:
            raise
        # unpickling runs whatever the file names
        except Exception as error:
            versions = _versions(caught, artifact, is_skops=is_skops)
            problem = _problem(artifact.name, error, is_skops=is_skops)
            raise ModelLoadError(f"{problem}; {versions}" if versions else problem) from error
    if versions := _versions(caught, artifact, is_skops=is_skops):
        logger.warning("%s: %s; results may differ", artifact.name, versions)
    for text in sorted({str(each.message) for each in caught if not _tells_version(each)}):
        logger.warning("%s: %s", artifact.name, text)
    return found, Form.SKOPS if is_skops else Form.PICKLE


def _find_mapped(
    artifact: Path,
    share_memory: str,
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
) -> Path | None:
    """Find the file to map instead of reading the artifact; None where it is to be read."""
    if share_memory == "off" or identify(artifact).compression:
        return None
    try:
        return stable_file(artifact, copy=share_memory == "copy")
    except (OSError, ModelLoadError) as error:
        logger.warning("%s is not shared between workers: %s", artifact.name, error)
        return None


def _read_skops(artifact: Path, trusted: Collection[str]) -> object:
    try:
        skops: Any = importlib.import_module("skops.io")
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"'{artifact.name}' is a skops file, which needs skops; "
            'install it: pip install "jackfield-sklearn[skops]"'
        ) from error
    unknown = sorted(set(skops.get_untrusted_types(file=artifact)) - set(trusted))
    if unknown:
        raise ModelLoadError(
            f"'{artifact.name}' holds types that are not trusted: {', '.join(unknown)}; if you "
            "trust them all, list them in 'parameters.extra.trusted_types'"
        )
    found: object = skops.load(artifact, trusted=list(trusted))
    return found


def _problem(file: str, error: Exception, *, is_skops: bool) -> str:
    if isinstance(error, ModuleNotFoundError):
        module = error.name or "?"
        if module.startswith("sklearn."):
            return f"'{file}' needs '{module}', which this version of scikit-learn does not have"
        package = module.partition(".")[0]
        if package in _ALIKE:
            return (
                f"'{file}' needs '{module}', which is not installed; "
                f'pip install "jackfield[{package}]"'
            )
        return (
            f"'{file}' needs the module '{module}', which is not installed; "
            "install the package that brings it"
        )
    if isinstance(error, AttributeError):
        return (
            f"'{file}' needs code that is not here: {error}; "
            "train with classes and functions of an installed module"
        )
    form = "skops" if is_skops else "joblib or pickle"
    return (
        f"'{file}' is no whole file of {form}: {type(error).__name__}: {error}; "
        "copy or save it again"
    )


def _tells_version(caught: warnings.WarningMessage) -> bool:
    return isinstance(caught.message, InconsistentVersionWarning)


#: How skops writes the version into its schema: JSON in JSON.
_VERSION = re.compile(r'"_sklearn_version": \{[^{}]*"content": "\\"([^"\\]+)\\""')


def _versions(caught: Sequence[warnings.WarningMessage], artifact: Path, *, is_skops: bool) -> str:
    """Say which versions of scikit-learn saved it; empty if the installed one did."""
    saved = {
        str(getattr(each.message, "original_sklearn_version", "?"))
        for each in caught
        if _tells_version(each)
    }
    if is_skops:
        # a skops file that can't be read tells no version
        with contextlib.suppress(zipfile.BadZipFile, KeyError, ValueError, OSError):
            with zipfile.ZipFile(artifact) as archive:
                schema = json.dumps(json.loads(archive.read("schema.json")))
            saved |= set(_VERSION.findall(schema)) - {sklearn.__version__}
    if not saved:
        return ""
    versions = ", ".join(sorted(saved))
    return f"saved by scikit-learn {versions}, and {sklearn.__version__} is installed"
