"""What MLmodel says: whether a plugin may serve the model, and what it is to load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow.types import ColSpec, DataType, TensorSpec
from msgspec import Struct

from jackfield import Datatype

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlflow.models import Model
    from mlflow.types import Schema

    from jackfield import ModelContext

#: Types of columns that are the same in a plugin's request.
PLAIN: Mapping[object, Datatype] = {
    DataType.boolean: Datatype.BOOL,
    DataType.integer: Datatype.INT32,
    DataType.long: Datatype.INT64,
    DataType.float: Datatype.FP32,
    DataType.double: Datatype.FP64,
    DataType.string: Datatype.BYTES,
}
#: Methods of scikit-learn's estimators that pyfunc may stand for, and the plugin's outputs.
METHODS = ("predict", "predict_proba", "predict_log_proba", "predict_joint_log_proba")
#: Forms in which CatBoost saves that its plugin reads.
_CATBOOST_FORMS = ("cbm", "json")
#: Most names in one sentence.
_LISTED = 5


class UnfitError(Exception):
    """What stands against the plugin, as the end of a sentence."""


class Plan(Struct, frozen=True):
    """What a plugin is to load, and how."""

    #: Also the name of the plugin's runtime.
    flavor: str
    artifact: Path
    #: The runtime's settings.
    extra: dict[str, Any]
    #: The output of the plugin that pyfunc's `predict` gives; empty where it has to be found out.
    source: str
    #: The plugin does not read the artifact, but a pickle of what MLflow made of it.
    is_copied: bool


class _File(NamedTuple):
    """Where a flavour keeps its model."""

    #: Of the flavour's configuration.
    key: str
    #: Its name where the configuration has none.
    default: str
    #: Ends of names that the plugin reads; none is any.
    endings: tuple[str, ...] = ()
    #: Ends of names that MLflow alone reads, as one of the framework's estimators.
    copied: tuple[str, ...] = ()


#: Flavours that plugins serve.
_FILES = {
    "sklearn": _File("pickled_model", "model.pkl", (".pkl", ".pickle", ".joblib", ".skops")),
    "xgboost": _File("data", "model.xgb"),
    "lightgbm": _File(
        "data", "model.lgb", (".lgb", ".txt", ".pkl", ".pickle", ".joblib"), (".skops",)
    ),
    "catboost": _File("data", "model.cb"),
}


def plan_of(model: Model, folder: Path, context: ModelContext) -> Plan:
    """Read off what a plugin is to load.

    Raises:
        UnfitError: There is no such plugin, or the model wants pyfunc.
    """
    pyfunc: dict[str, Any] = model.flavors.get("python_function", {})
    loader = str(pyfunc.get("loader_module", ""))
    flavor = loader.removeprefix("mlflow.")
    if flavor not in _FILES or flavor not in model.flavors:
        names = ", ".join(sorted(set(model.flavors) - {"python_function"})) or "none"
        raise UnfitError(
            f"pyfunc loads it by '{loader}', which is no flavour that a plugin serves "
            f"({', '.join(_FILES)}); beside pyfunc it has: {names}"
        )
    conf: dict[str, Any] = model.flavors[flavor]
    file = _FILES[flavor]
    given = conf.get(file.key) or pyfunc.get("data") or pyfunc.get("model_path")
    artifact = folder / str(given or file.default)
    source, extra = "", dict[str, Any]()
    if flavor == "sklearn":
        source = str(pyfunc.get("predict_fn") or "predict")
        if source not in METHODS:
            raise UnfitError(f"pyfunc calls '{source}', and the plugin offers {', '.join(METHODS)}")
        # the same bits are wanted, not nearly the same
        extra = {"predict_fn": source, "accelerate": "off"}
        if trusted := conf.get("skops_trusted_types"):
            extra["trusted_types"] = list(trusted)
    if file.endings and artifact.suffix not in file.endings + file.copied:
        raise UnfitError(f"the plugin '{flavor}' does not read '{artifact.name}'")
    if flavor == "catboost" and (form := conf.get("save_format", "cbm")) not in _CATBOOST_FORMS:
        raise UnfitError(f"the plugin 'catboost' does not read CatBoost's form '{form}'")
    if flavor not in context.runtimes:
        raise UnfitError(
            f"the plugin '{flavor}' is not installed (pip install \"jackfield[{flavor}]\")"
        )
    if not artifact.is_file():
        raise UnfitError(f"its flavour '{flavor}' has no file '{artifact.name}'")
    _check_signature(model)
    return Plan(flavor, artifact, extra, source, artifact.suffix in file.copied)


def _check_signature(model: Model) -> None:
    signature = model.signature
    if signature is None:
        return
    if signature.params:
        names = listed([each.name for each in signature.params])
        raise UnfitError(f"its signature has parameters ({names}), which the plugin does not know")
    inputs = list(_specs(signature.inputs, "input"))
    for name, spec in inputs:
        if isinstance(spec, TensorSpec):
            _check_tensor(spec, is_alone=len(inputs) == 1)
        elif not _is_plain(spec.type):
            raise UnfitError(f"its column '{name}' is of the type '{_type_name(spec.type)}'")
        elif not spec.required:
            raise UnfitError(f"its column '{name}' is optional")
    outputs = list(_specs(signature.outputs, "output"))
    if len(outputs) > 1:
        names = listed([name for name, _ in outputs])
        raise UnfitError(f"its signature has several outputs ({names})")
    for name, spec in outputs:
        if isinstance(spec, ColSpec) and not _is_plain(spec.type):
            raise UnfitError(f"its output '{name}' is of the type '{_type_name(spec.type)}'")


def _check_tensor(spec: TensorSpec, *, is_alone: bool) -> None:
    if not is_alone or spec.name is not None:
        raise UnfitError("its signature takes named tensors, which pyfunc hands over as a dict")
    if len(spec.shape) != 2 or spec.shape[0] != -1 or spec.shape[1] < 1:
        raise UnfitError(f"its input is a tensor of the shape {list(spec.shape)}, not of rows")
    if spec.type.kind not in "biuf":
        raise UnfitError(f"its input is a tensor of '{spec.type}'")


def _is_plain(kind: object) -> bool:
    # the types that nest have no hash
    return isinstance(kind, DataType) and kind in PLAIN


def _type_name(kind: object) -> str:
    return kind.name if isinstance(kind, DataType) else str(kind)


def _specs(schema: Schema | None, what: str) -> Iterator[tuple[str, Any]]:
    for place, spec in enumerate(schema.inputs if schema is not None else []):
        yield str(spec.name) if spec.name is not None else f"{what}-{place}", spec


def listed(names: Sequence[str]) -> str:
    """Write some names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"'{each}'" for each in names[:_LISTED]) + more
