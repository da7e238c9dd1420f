"""Read a model from its file, and tell the operator what is wrong with it or doubtful.

CatBoost reads half a JSON file without a word and crashes on some damaged ones, so that the file's
form is checked first. Reading one runs no code of it.
"""

from __future__ import annotations

import json
import re
import struct
from typing import TYPE_CHECKING

import catboost
import msgspec
from catboost import CatBoost, CatBoostError

from jackfield import ModelLoadError
from jackfield.artifacts import Form, refuse_foreign

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping
    from pathlib import Path

#: What stands before the text of CatBoost's errors: ``catboost/libs/model/model.cpp:72: ``.
_SOURCE = re.compile(r"^\S+\.(?:cpp|h|cu):\d+: ")
_VERSION = re.compile(r"tags/v(\d+(?:\.\d+)*)")
#: "CBM1", and the size of the block that follows.
_HEADER = struct.Struct("<4sI")


class Saved(msgspec.Struct, frozen=True):
    """A model, and what its file tells besides."""

    model: CatBoost
    #: "cbm" or "json".
    form: str
    #: Version of CatBoost that saved it; empty where the file does not say.
    version: str
    #: Name of the loss function without its parameters; empty where the file does not say.
    loss_function: str
    #: Parameters of the loss function, for example ``{"alpha": "0.1,0.9"}``.
    loss_parameters: dict[str, str]
    #: Whether training refused missing numbers.
    forbids_missing: bool


class _Json(msgspec.Struct):
    """What every model in JSON has; unread, but known to be whole."""

    features_info: msgspec.Raw
    model_info: msgspec.Raw
    oblivious_trees: msgspec.Raw = msgspec.Raw(b"")
    trees: msgspec.Raw = msgspec.Raw(b"")


def read(
    artifact: Path | None, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
) -> Saved:
    """Read what `save_model` wrote.

    Returns:
        The model, of the class that serves all tasks; a doubtful version is in the log.

    Raises:
        ModelLoadError: There is no file, it is damaged, of another framework or form, or from a
            version of CatBoost that the installed one can't read.
    """
    if artifact is None or artifact.is_dir():
        raise ModelLoadError("no artifact was found; name its file in 'parameters.uri'")
    found = refuse_foreign(artifact, "catboost")
    model = CatBoost()
    data = artifact.read_bytes()
    version = _version(data)
    try:
        if found.form is Form.CATBOOST_CBM:
            _check_cbm(artifact.name, data)
            # not by its name: then CatBoost reads the training's parameters, too, and prints
            # complaints about those that it does not know
            model.load_model(blob=data)
        elif found.form is Form.CATBOOST_JSON:
            _check_json(artifact.name, data)
            model.load_model(artifact, format="json")
        else:
            raise ModelLoadError(
                f"'{artifact.name}' is {found.title}, which can't be served; "
                "save the model with save_model('model.cbm')"
            )
    except CatBoostError as error:
        raise ModelLoadError(_problem(artifact.name, version, error)) from error
    if not model.tree_count_:
        raise ModelLoadError(f"'{artifact.name}' holds no tree; train it again")
    if _is_newer(version):
        logger.warning(
            "%s: saved by CatBoost %s, and %s is installed; results may differ",
            artifact.name,
            version,
            catboost.__version__,
        )
    metadata: Mapping[str, str] = dict(model.get_metadata())
    loss, parameters = _loss(metadata)
    _shorten(model, metadata)
    return Saved(
        model=model,
        form="cbm" if found.form is Form.CATBOOST_CBM else "json",
        version=version,
        loss_function=loss,
        loss_parameters=parameters,
        forbids_missing=_forbids_missing(metadata),
    )


def reason(error: CatBoostError) -> str:
    """Give an error's first line without the place in CatBoost's source."""
    return _SOURCE.sub("", str(error).partition("\n")[0])


def _problem(file: str, version: str, error: CatBoostError) -> str:
    text = f"'{file}' can't be read by CatBoost {catboost.__version__}: {reason(error)}"
    if version and version != catboost.__version__:
        return f"{text}; it was saved by CatBoost {version}, install that version"
    return f"{text}; copy or save it again"


def _check_cbm(file: str, data: bytes) -> None:
    _, size = _HEADER.unpack_from(data.ljust(_HEADER.size, b"\0"))
    if len(data) < _HEADER.size or len(data) - _HEADER.size < size:
        raise ModelLoadError(
            f"'{file}' is cut off: it has {len(data)} bytes, and should have "
            f"{_HEADER.size + size} or more; copy or save it again"
        )


def _check_json(file: str, data: bytes) -> None:
    try:
        found = msgspec.json.decode(data, type=_Json)
    except msgspec.DecodeError as error:
        raise ModelLoadError(
            f"'{file}' is no whole model in CatBoost's JSON: {error}; copy or save it again"
        ) from error
    if not found.oblivious_trees and not found.trees:
        raise ModelLoadError(f"'{file}' is no whole model in CatBoost's JSON: it has no trees")


def _version(data: bytes) -> str:
    """Find the version of CatBoost that wrote the file; the text is the same in both forms."""
    place = data.find(b"tags/v")
    match = (
        _VERSION.match(data[place : place + 32].decode(errors="replace")) if place >= 0 else None
    )
    return match[1] if match else ""


def _is_newer(version: str) -> bool:
    return bool(version) and _numbers(version) > _numbers(catboost.__version__)


def _numbers(version: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", version)]


def _loss(metadata: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Find the loss function among a model's own notes.

    The sum of several models has it under a key of its own.
    """
    told = _object(metadata.get("params", "")).get("loss_function")
    if told is None:
        told = _object(metadata.get("loss_function", ""))
    if not isinstance(told, dict):
        return "", {}
    given = told.get("params")
    parameters = given if isinstance(given, dict) else {}
    kept = {str(name): str(each) for name, each in parameters.items() if not name.startswith("__")}
    return str(told.get("type", "")), kept


def _forbids_missing(metadata: Mapping[str, str]) -> bool:
    place: object = _object(metadata.get("params", ""))
    for key in ("data_processing_options", "float_features_binarization", "nan_mode"):
        place = place.get(key) if isinstance(place, dict) else None
    return place == "Forbidden"


def _shorten(model: CatBoost, metadata: Mapping[str, str]) -> None:
    """Take the training's settings out of a model's notes, but for those that answers depend on.

    CatBoost parses all 4 KB of them in each call: a row of a regressor takes 100 µs with them and
    6 without, one of a classifier 25 and 5.
    """
    told = _object(metadata.get("params", ""))
    if not told:
        return
    kept = {name: told[name] for name in ("loss_function",) if name in told}
    boosting = told.get("boosting_options")
    if isinstance(boosting, dict):
        # what the virtual ensembles are weighted by
        kept["boosting_options"] = {
            name: value
            for name, value in boosting.items()
            if name in ("learning_rate", "posterior_sampling")
            or name.startswith(("model_shrink_", "diffusion_", "langevin"))
        }
    model.get_metadata()["params"] = json.dumps(kept)


def _object(text: str) -> dict[str, object]:
    try:
        found: object = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
