"""What a model's signature says, as metadata: tensors, content types, a request's parameters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from mlflow.types import DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object

from jackfield import Datatype, InvalidRequestError, ModelLoadError, TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow.types import ParamSchema, ParamSpec

    from jackfield import InferRequest, Parameter

#: Of a column: one of MLflow's simple types, or one that nests.
ColumnType: TypeAlias = DataType | Array | Object | Map | AnyType

#: MLflow's simple type -> the protocol's datatype, and the content type where elements have one.
_SIMPLE: dict[DataType, tuple[Datatype, str]] = {
    DataType.boolean: (Datatype.BOOL, "np"),
    DataType.integer: (Datatype.INT32, "np"),
    DataType.long: (Datatype.INT64, "np"),
    DataType.float: (Datatype.FP32, "np"),
    DataType.double: (Datatype.FP64, "np"),
    DataType.string: (Datatype.BYTES, "str"),
    DataType.binary: (Datatype.BYTES, "base64"),
    DataType.datetime: (Datatype.BYTES, "datetime"),
}


class Field(msgspec.Struct, frozen=True):
    """One column or tensor of a signature."""

    name: str
    #: What MLflow knows it by: its name, or its place where it has none.
    key: str | int
    datatype: Datatype
    #: One of `np`, `str`, `base64`, `datetime`, `pd_json`.
    content_type: str
    #: -1 stands for any size.
    shape: tuple[int, ...]
    #: Whether a request may leave it out.
    is_optional: bool
    #: MLflow's type of a column; the dtype of a tensor.
    type: Any

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor, not a column."""
        return isinstance(self.type, np.dtype)

    def metadata(self, more: Mapping[str, Parameter]) -> TensorMetadata:
        """Describe it, with further parameters."""
        parameters: dict[str, Parameter] = {"content_type": self.content_type}
        if self.is_optional:
            parameters["optional"] = True
        if not self.is_tensor:
            parameters["mlflow_type"] = _written(self.type)
        return TensorMetadata(self.name, self.datatype, self.shape, {**parameters, **more})


def fields_of(schema: Schema | None, prefix: str, *, is_column_2d: bool = False) -> list[Field]:
    """List the columns or tensors of a schema.

    Args:
        schema: None has none.
        prefix: ``input`` or ``output``: those without a name are ``input-0`` and so on.
        is_column_2d: What has one dimension is [-1, 1] as MLServer has it, not [-1].

    Raises:
        ModelLoadError: The protocol has no datatype for a tensor.
    """
    if schema is None:
        return []
    return [
        _field(spec, place, prefix, is_column_2d=is_column_2d)
        for place, spec in enumerate(schema.inputs)
    ]


def _field(spec: Any, place: int, prefix: str, *, is_column_2d: bool) -> Field:  # noqa: ANN401  ColSpec | TensorSpec
    name = f"{prefix}-{place}" if spec.name is None else str(spec.name)
    key = place if spec.name is None else spec.name
    if isinstance(spec, TensorSpec):
        datatype, content_type = _of_dtype(name, spec.type)
        shape = tuple(int(size) for size in spec.shape)
    else:
        # the types that nest have no hash
        is_simple = isinstance(spec.type, DataType)
        datatype, content_type = _SIMPLE[spec.type] if is_simple else (Datatype.BYTES, "pd_json")
        shape = (-1,)
    if is_column_2d and len(shape) == 1:
        shape = (*shape, 1)
    return Field(name, key, datatype, content_type, shape, not spec.required, spec.type)


def _of_dtype(name: str, dtype: np.dtype[Any]) -> tuple[Datatype, str]:
    if dtype.kind == "M":
        return Datatype.BYTES, "datetime"
    try:
        return Datatype.of(dtype), "str" if dtype.kind == "U" else "np"
    except TypeError as error:
        raise ModelLoadError(f"its signature has '{name}': {error}") from error


def content_type_of(fields: list[Field]) -> str:
    """Say what the whole request is for the model, in MLServer's words; empty without fields."""
    if not fields:
        return ""
    if not fields[0].is_tensor:
        return "pd"
    return "np" if isinstance(fields[0].key, int) else "dict"


def type_name(kind: object) -> str:
    """Name a type as MLflow does: ``double``, ``Array(string)``, ``float32``."""
    return kind.name if isinstance(kind, DataType) else str(kind)


def _written(kind: ColumnType) -> Parameter:
    """Write a column's type as the MLmodel file has it."""
    if isinstance(kind, DataType):
        return kind.name
    told: Any = kind
    written: Parameter = json.loads(json.dumps(told.to_dict()))
    return written


# ---- parameters ----


class Params:
    """The parameters that a model takes with a request.

    Args:
        schema: None takes none.
    """

    def __init__(self, schema: ParamSchema | None) -> None:
        specs: list[ParamSpec] = [] if schema is None else list(schema.params)
        self._specs = {spec.name: spec for spec in specs}
        #: Whether there are any.
        self.are_some = bool(specs)

    def read(self, request: InferRequest) -> dict[str, object] | None:
        """Read what the request sets; the rest is left to the model's own defaults.

        gRPC carries no lists and objects: text that holds JSON is read for those.

        Returns:
            Values by name; None where it sets none. Names that are no parameters of the model
            pass untouched.

        Raises:
            InvalidRequestError: A value does not fit; the field is ``parameters.NAME``.
        """
        given = request.parameters
        if not given or not self._specs:
            return None
        found: dict[str, object] = {}
        for name, spec in self._specs.items():
            if name in given:
                found[name] = _checked(spec, given[name])
        return found or None

    def metadata(self) -> dict[str, Parameter]:
        """Describe the parameters as the other runtimes do; empty where there are none."""
        if not self._specs:
            return {}
        return {"request_parameters": {name: _schema(spec) for name, spec in self._specs.items()}}


def _checked(spec: ParamSpec, value: Parameter) -> object:
    is_nested = spec.shape is not None or not isinstance(spec.dtype, DataType)
    read: object = value
    if is_nested and isinstance(value, str):
        try:
            read = json.loads(value)
        except ValueError:
            read = value
    try:
        # a class method of MLflow's that its own server calls for each
        spec.validate_param_spec(read, spec)
    # MlflowException, and what NumPy says of a value that is none of its own
    except Exception as error:
        raise InvalidRequestError(
            f"parameters.{spec.name}", expected=_expected(spec), found=_shown(value)
        ) from error
    return read


def _expected(spec: ParamSpec) -> str:
    kind = type_name(spec.dtype)
    return f"a list of {kind}" if spec.shape is not None else f"{_article(kind)} {kind}"


def _article(word: str) -> str:
    return "an" if word[:1].lower() in "aeiou" else "a"


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text[:60]}{'…' if len(text) > 60 else ''} ({type(value).__name__})"


_JSON_TYPES = {
    DataType.boolean: "boolean",
    DataType.integer: "integer",
    DataType.long: "integer",
    DataType.float: "number",
    DataType.double: "number",
}


def _schema(spec: ParamSpec) -> dict[str, Parameter]:
    """Describe a parameter in JSON Schema, with MLflow's own type beside it."""
    told: dict[str, Any] = json.loads(json.dumps(spec.to_dict(), default=str))
    if isinstance(spec.dtype, DataType):
        schema: dict[str, Parameter] = {"type": _JSON_TYPES.get(spec.dtype, "string")}
        if spec.dtype is DataType.datetime:
            schema["format"] = "date-time"
        if spec.shape is not None:
            schema = {"type": "array", "items": schema}
    else:
        schema = {"type": "object"}
    mlflow_type = told["type"] if isinstance(spec.dtype, DataType) else _written(spec.dtype)
    return {**schema, "default": told["default"], "mlflow_type": mlflow_type}
