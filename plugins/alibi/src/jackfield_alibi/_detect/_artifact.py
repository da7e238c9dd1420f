"""Read a detector from its files, and tell the operator what is wrong with them.

Three forms: a folder with `config.toml`, as Alibi Detect saves detectors of drift; a folder with
`meta.dill` (or `.pickle`), as it saves the others; and one file with the whole object, written by
joblib, dill or pickle. All of them may carry code. What Alibi Detect reads only where TensorFlow is
installed, though nothing of it is TensorFlow's, is read here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import logging
import random
import sys
import tempfile
import tomllib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield import ModelLoadError
from jackfield_alibi._detect._state import is_of_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

#: Where Alibi Detect and MLServer keep the steps of an online detector.
STATE_FOLDER = "state"
_DAMAGED_STATE = f"{STATE_FOLDER}.damaged"
#: Where this plugin keeps what a detector remembers.
OWN_STATE_FOLDER = "jackfield-state"
_OBJECTS = (".joblib", ".dill", ".pkl", ".pickle")
#: Warnings for who maintains the libraries.
_NOT_TOLD = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
#: How often numbers are drawn for a detector that fails by them.
_DRAWS = 8
_PIP = 'pip install "jackfield[alibi-detect]"'
#: Backend -> the modules that it needs, and how they are installed.
_BACKENDS = {
    "tensorflow": (
        ("tensorflow", "tensorflow_probability"),
        'pip install "alibi-detect[tensorflow]"',
    ),
    "pytorch": (("torch",), 'pip install "jackfield-alibi[torch]"'),
    "keops": (("torch", "pykeops"), 'pip install "alibi-detect[keops]"'),
}
#: Detectors of old files that need no TensorFlow, and the arguments of their constructors.
_OUTLIERS: dict[str, tuple[str, ...]] = {
    "IForest": ("threshold",),
    "Mahalanobis": (
        "threshold", "n_components", "std_clip", "start_clip", "max_n", "cat_vars", "ohe",
    ),
    "SpectralResidual": (
        "threshold", "window_amp", "window_local", "n_est_points", "n_grad_points",
    ),
}  # fmt: skip
_DRIFTS = ("KSDrift", "ChiSquareDrift", "TabularDrift")
#: Detectors that take TensorFlow where their configuration names no backend.
_BY_TENSORFLOW = (
    "ClassifierDrift", "MMDDrift", "LSDDDrift", "LearnedKernelDrift", "SpotTheDiffDrift",
    "MMDDriftOnline", "LSDDDriftOnline", "ContextMMDDrift", "ClassifierUncertaintyDrift",
    "RegressorUncertaintyDrift",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """A detector as it was found."""

    detector: Any
    #: "config", "legacy" or "object".
    form: str
    #: Folder that what it remembers may be kept in.
    folder: Path
    #: Changes when the files do.
    fingerprint: str


def read(artifact: Path | None, log: Log, *, seed: int | None = None) -> Saved:
    """Read a detector.

    Args:
        artifact: A folder, `config.toml` in one, or a file with the whole object.
        log: Warnings of the libraries go there.
        seed: Of what is drawn meanwhile; None leaves it to chance.

    Raises:
        ModelLoadError: There is none, its files are damaged, or something is not installed.
    """
    if artifact is None:
        raise ModelLoadError(
            "it has no artifact; 'parameters.uri' names the folder that 'save_detector' wrote, or "
            f"a file with the whole detector ({', '.join(_OBJECTS)})"
        )
    path = artifact.parent if artifact.name == "config.toml" else artifact
    with _warnings_to(log):
        _alibi("alibi_detect")
        detector, form = _drawn(path, log, seed)
    check(detector)
    folder = path if path.is_dir() else path.parent
    return Saved(detector, form, folder, _fingerprint(path))


def _drawn(path: Path, log: Log, seed: int | None) -> tuple[Any, str]:
    """Read it with the numbers that a seed gives.

    FETDriftOnline computes a probability below 0 for some draws, and fails: it gets others then.
    """
    for number in range(_DRAWS):
        try:
            with _seeded(None if seed is None else seed + number):
                return _read(path, log)
        except ModelLoadError as error:
            is_bad_draw = isinstance(error.__cause__, ValueError) and "p < 0" in str(error)
            if not is_bad_draw or number == _DRAWS - 1:
                raise
    raise AssertionError  # the last draw returns or raises


def check(detector: object) -> None:
    """Make sure that it is a detector of Alibi Detect.

    Raises:
        ModelLoadError: It is something else.
    """
    meta = getattr(detector, "meta", None)
    module = type(detector).__module__
    if not (isinstance(meta, dict) and callable(getattr(detector, "predict", None))):
        raise ModelLoadError(
            f"expected a detector of Alibi Detect, found {module}.{type(detector).__qualname__}"
        )


def library_version() -> str:
    """Tell the installed version of Alibi Detect.

    Raises:
        ModelLoadError: It is not installed.
    """
    version: str = _alibi("alibi_detect").__version__
    return version


def _alibi(module: str) -> Any:  # noqa: ANN401  a library without annotations
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if importlib.util.find_spec("alibi_detect") is None:
            problem = f"it needs Alibi Detect, which is not installed; install it: {_PIP}"
        else:
            problem = f"Alibi Detect can't be imported: {error}; install it anew: {_PIP}"
        raise ModelLoadError(problem) from error


def _read(path: Path, log: Log) -> tuple[Any, str]:
    if path.is_dir():
        if (path / "config.toml").is_file():
            return _read_config(path, log), "config"
        for suffix in (".dill", ".pickle"):
            if (path / f"meta{suffix}").is_file():
                return _read_legacy(path, suffix), "legacy"
        whole = [path / f"detector{suffix}" for suffix in _OBJECTS]
        for file in whole:
            if file.is_file():
                return _read_object(file), "object"
        raise ModelLoadError(
            "expected 'config.toml', 'meta.dill' or 'meta.pickle' as 'save_detector' writes them, "
            f"or one of {', '.join(file.name for file in whole)}; found none in '{path}'"
        )
    if not path.is_file():
        raise ModelLoadError(f"'{path}' is not there")
    if path.suffix not in _OBJECTS:
        raise ModelLoadError(
            f"expected a folder with 'config.toml' or 'meta.dill', or a file of "
            f"{', '.join(_OBJECTS)}; found '{path.name}'"
        )
    return _read_object(path), "object"


# ---- config.toml ----


def _read_config(folder: Path, log: Log) -> Any:  # noqa: ANN401  a library without annotations
    file = folder / "config.toml"
    try:
        config = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"'config.toml' can't be read: {error}") from error
    name = config.get("name")
    if not isinstance(name, str):
        raise ModelLoadError("'config.toml' has no 'name', the detector's class; save it again")
    loading = _alibi("alibi_detect.saving")
    drifts = _alibi("alibi_detect.cd")
    if not hasattr(drifts, name):
        known = ", ".join(sorted(drifts.__all__))
        raise ModelLoadError(
            f"'config.toml': 'name' is '{name}'; Alibi Detect {library_version()} has {known}"
        )
    default = "tensorflow" if name in _BY_TENSORFLOW else "numpy"
    _require(name, str(config.get("backend", default)).lower())
    with _without_state(folder) as place:
        detector = _built(lambda: loading.load_detector(place, enable_unsafe_loading=True), file)
    if (folder / STATE_FOLDER).is_dir():
        _restore(detector, folder / STATE_FOLDER, log)
    return detector


def _require(name: str, backend: str) -> None:
    modules, pip = _BACKENDS.get(backend, ((), ""))
    missing = [each for each in modules if importlib.util.find_spec(each) is None]
    if missing:
        raise ModelLoadError(
            f"{name} with the backend '{backend}' needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed; install it: {pip}"
        )


@contextlib.contextmanager
def _without_state(folder: Path) -> Iterator[Path]:
    """Show the folder without the steps that were saved: damaged ones would stop the load."""
    if not (folder / STATE_FOLDER).is_dir():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jackfield-alibi-") as made:
        for each in folder.iterdir():
            if each.name != STATE_FOLDER:
                (Path(made) / each.name).symlink_to(each.resolve())
        yield Path(made)


def _restore(detector: Any, state: Path, log: Log) -> None:  # noqa: ANN401  see _alibi
    """Go on from the steps that Alibi Detect or MLServer saved; damaged ones are kept aside."""
    if not hasattr(detector, "load_state"):
        return
    if not any(state.glob("state.*")):
        return
    try:
        detector.load_state(state)
    # whatever NumPy, pickle and torch raise of damaged files
    except Exception as error:  # noqa: BLE001
        detector.reset_state()
        aside = state.with_name(_DAMAGED_STATE)
        try:
            state.rename(aside)
            kept = f"it is kept as '{aside}'"
        except OSError as problem:
            kept = f"it could not be moved aside ({problem.strerror})"
        log.error(
            "the saved steps in '%s' can't be read (%s: %s); %s, and the detector starts anew",
            state, type(error).__name__, error, kept,
        )  # fmt: skip
    else:
        log.info("it goes on from step %d, as saved in '%s'", detector.t, state)


# ---- meta.dill, and whole objects ----


def _read_legacy(folder: Path, suffix: str) -> Any:  # noqa: ANN401  see _alibi
    meta = _unpickled(folder / f"meta{suffix}")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
        raise ModelLoadError(f"'meta{suffix}' names no detector; save it again")
    name: str = meta["name"]
    loading = _alibi("alibi_detect.saving")
    file = folder / f"{name}{suffix}"
    has_tensorflow = _alibi("alibi_detect.utils.frameworks").has_tensorflow
    if has_tensorflow:
        return _built(lambda: loading.load_detector(folder), file)
    if name not in _OUTLIERS and name not in _DRIFTS:
        _require(name, "tensorflow")
        raise ModelLoadError(
            f"{name} in the form with 'meta{suffix}' needs TensorFlow, which can't be imported; "
            f"{_BACKENDS['tensorflow'][1]}"
        )
    state = _unpickled(file)
    return _built(lambda: _without_tensorflow(name, meta, state), file)


def _without_tensorflow(name: str, meta: dict[str, Any], state: Mapping[str, Any]) -> Any:  # noqa: ANN401  see _alibi
    if name in _DRIFTS:
        other = state["other"]
        if other.get("preprocess_fn") is not None or other.get("load_text_embedding"):
            raise ModelLoadError(
                f"{name} was saved with preprocessing in an old form that TensorFlow reads: "
                f"save it again with a new Alibi Detect, or {_BACKENDS['tensorflow'][1]}"
            )
        kwargs = dict(state["kwargs"])
        # its name before 0.10
        kwargs.pop("preprocess_x_ref", None)
        kwargs.setdefault("x_ref_preprocessed", True)
        detector = getattr(_alibi("alibi_detect.cd"), name)(*state["args"].values(), **kwargs)
        detector.n = other["n"]
    else:
        arguments = _OUTLIERS[name]
        detector = getattr(_alibi("alibi_detect.od"), name)(
            **{each: state[each] for each in arguments if each in state}
        )
        for key, value in state.items():
            if key not in arguments:
                setattr(detector, key, value)
    detector.meta = meta
    return detector


def _read_object(file: Path) -> Any:  # noqa: ANN401  see _alibi
    return _unpickled(file)


def _unpickled(file: Path) -> Any:  # noqa: ANN401  anything
    try:
        if file.suffix == ".joblib":
            return importlib.import_module("joblib").load(file)
        with file.open("rb") as opened:
            # it reads what pickle writes, too
            return importlib.import_module("dill").load(opened)
    except ImportError as error:
        raise _missing(error, file.name) from error
    # a damaged pickle may raise anything
    except Exception as error:
        raise ModelLoadError(
            f"'{file.name}' can't be read ({type(error).__name__}: {error}); it is damaged, or was "
            "written by other versions of Python or of a library"
        ) from error


def _built(build: Callable[[], object], file: Path) -> Any:  # noqa: ANN401  see _alibi
    """Call what makes the detector; what it raises is for the operator."""
    try:
        return build()
    except ModelLoadError:
        raise
    except ImportError as error:
        raise _missing(error, file.name) from error
    # pydantic, pickle, NumPy and the detectors' constructors: all mean the same here
    except Exception as error:
        raise ModelLoadError(
            f"'{file.name}' gives no detector ({type(error).__name__}: {_short(error)}); it is "
            "damaged, or was written by another version of Alibi Detect than "
            f"{library_version()}"
        ) from error


def _missing(error: ImportError, name: str) -> ModelLoadError:
    text = _short(error)
    for backend, (modules, pip) in _BACKENDS.items():
        if backend in text.lower() or any(each in text for each in modules):
            return ModelLoadError(f"'{name}' needs the backend '{backend}': {text}; {pip}")
    return ModelLoadError(f"'{name}' needs something that is not installed: {text}")


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = "; ".join(lines)
    return text if len(text) <= 400 else f"{text[:400]}…"


@contextlib.contextmanager
def _warnings_to(log: Log) -> Iterator[None]:
    # it tells each field of a configuration, some thirty lines; an operator's own level stays
    library = logging.getLogger("alibi_detect")
    if library.level == logging.NOTSET:
        library.setLevel(logging.WARNING)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    told = {str(each.message) for each in caught if not issubclass(each.category, _NOT_TOLD)}
    for text in sorted(told):
        log.warning("while loading: %s", text)


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw the same numbers each time; what others draw afterwards is as it would have been.

    Online detectors simulate their thresholds, and choose their part of the reference data, when
    they are made: without a seed each start of the server would have others.
    """
    if seed is None:
        yield
        return
    # imported by Alibi Detect, where it is installed
    torch = sys.modules.get("torch")
    before, before_numpy = random.getstate(), np.random.get_state()
    before_torch = torch.get_rng_state() if torch is not None else None
    random.seed(seed)
    np.random.seed(seed)
    if torch is not None:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)
        if torch is not None:
            torch.set_rng_state(before_torch)


def _fingerprint(path: Path) -> str:
    """Sum up the files, not those that a state is kept in."""
    digest = hashlib.blake2b(digest_size=16)
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
    for file in files:
        inside = file.relative_to(path) if file is not path else Path(file.name)
        if inside.parts[0] in (STATE_FOLDER, _DAMAGED_STATE) or is_of_state(file):
            continue
        if inside.name == "model-settings.json":
            continue
        digest.update(str(inside).encode())
        with file.open("rb") as opened:
            for part in iter(lambda: opened.read(1 << 20), b""):
                digest.update(part)
    return digest.hexdigest()
