"""Make a request of a caller's values, by what the model says that it takes; no I/O."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from jackfield import codecs
from jackfield.errors import InvalidRequestError
from jackfield.messages import InferRequest, RequestedOutput
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jackfield.messages import ModelMetadata, Parameters, TensorMetadata

#: Content types whose elements are spelt as text: what an input of one takes goes by its codec.
_SPELT = frozenset(["base64", "datetime", "pd_json"])


def build_request(
    metadata: ModelMetadata, values: Sequence[object], inputs: Mapping[str, object]
) -> InferRequest:
    """Make a request of arrays, or of a DataFrame.

    Args:
        metadata: What the model takes; without inputs, names and datatypes are the caller's.
        values: Values by position, named in the metadata's order; or one mapping or DataFrame.
        inputs: Values by name.

    Raises:
        InvalidRequestError: A value does not fit what the model takes.
        TypeError: The protocol has no form for a value.
    """
    declared = {each.name: each for each in metadata.inputs}
    model = metadata.name
    if len(values) == 1 and _is_frame(values[0]):
        tensors = _frame_tensors(values[0], declared, model)
    elif len(values) == 1 and isinstance(values[0], Mapping):
        tensors = [
            _tensor(name, value, declared, model) for name, value in {**values[0], **inputs}.items()
        ]
        return InferRequest(_some(tensors, model))
    else:
        if len(values) > len(declared):
            raise InvalidRequestError(
                "inputs",
                expected=f"at most {len(declared)} by position"
                if declared
                else "inputs by name, for the model's metadata names none",
                found=f"{len(values)} by position",
                model=model,
            )
        named = zip(declared, values, strict=False)
        tensors = [_tensor(name, value, declared, model) for name, value in named]
    for name, value in inputs.items():
        if any(tensor.name == name for tensor in tensors):
            raise InvalidRequestError(
                "inputs", expected="each once", found=f"'{name}' by position and name", model=model
            )
        tensors.append(_tensor(name, value, declared, model))
    return InferRequest(_some(tensors, model))


def with_options(
    request: InferRequest,
    outputs: Sequence[str | RequestedOutput],
    parameters: Parameters | None,
    request_id: str,
) -> InferRequest:
    """Add to a request what else the caller says."""
    changes: dict[str, Any] = {}
    if outputs:
        changes["outputs"] = [
            RequestedOutput(each) if isinstance(each, str) else each for each in outputs
        ]
    if parameters:
        changes["parameters"] = {**request.parameters, **parameters}
    if request_id:
        changes["id"] = request_id
    return msgspec.structs.replace(request, **changes) if changes else request


def _some(tensors: list[Tensor], model: str) -> list[Tensor]:
    if not tensors:
        raise InvalidRequestError("inputs", expected="at least one", found="none", model=model)
    return tensors


def _is_frame(value: object) -> bool:
    """Tell whether a value is a DataFrame; pandas is imported already if it is one."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def _frame_tensors(
    frame: Any,  # noqa: ANN401  a DataFrame; pandas has no types
    declared: Mapping[str, TensorMetadata],
    model: str,
) -> list[Tensor]:
    """Make one matrix where the model takes one, else a tensor of each column."""
    if len(declared) == 1:
        [only] = declared.values()
        is_matrix = len(only.shape) == 2 and only.datatype is not Datatype.BYTES
        if is_matrix and only.parameters.get("content_type") != "pd" and only.shape[1] != 1:
            return [_tensor(only.name, frame.to_numpy(), declared, model)]
    tensors = []
    for tensor in codecs.encode_request(frame).inputs:
        given = declared.get(tensor.name)
        if given is not None and Datatype.BYTES not in (tensor.datatype, given.datatype):
            array = _cast(tensor.array, given, f"column '{tensor.name}'", model)
            tensor = Tensor(tensor.name, given.datatype, array, tensor.parameters)
        tensors.append(tensor)
    return tensors


def _tensor(name: str, value: object, declared: Mapping[str, TensorMetadata], model: str) -> Tensor:
    """Make a tensor of the datatype that the model takes."""
    if isinstance(value, Tensor):
        return Tensor(name, value.datatype, value.array, value.parameters)
    if not declared:
        return _undeclared(name, value)
    given = declared.get(name)
    field = f"input '{name}'"
    if given is None:
        close = difflib.get_close_matches(name, declared, n=1)
        raise InvalidRequestError(
            "inputs",
            expected=f"names among {', '.join(map(repr, declared))}",
            found=f"'{name}'" + (f"; did you mean '{close[0]}'" if close else ""),
            model=model,
        )
    content_type = given.parameters.get("content_type")
    if isinstance(content_type, str) and content_type in _SPELT:
        return codecs.encode(name, value, content_type)
    if given.datatype is Datatype.BYTES:
        tensor = _undeclared(name, value)
        if tensor.datatype is not Datatype.BYTES:
            raise InvalidRequestError(
                field, expected="BYTES: text or bytes", found=str(tensor.datatype), model=model
            )
    else:
        array = _cast(_array(value, field, model), given, field, model)
        tensor = Tensor(name, given.datatype, array)
    if not given.parameters.get("any_shape", False) and not _fits(tensor.shape, given.shape):
        raise InvalidRequestError(
            field,
            expected=f"the shape {list(given.shape)}",
            found=str(list(tensor.shape)),
            model=model,
        )
    return tensor


def _undeclared(name: str, value: object) -> Tensor:
    """Make a tensor of the value's own datatype; a codec finds a form for what has none."""
    try:
        return Tensor.from_array(name, value)
    except (TypeError, ValueError):
        return codecs.encode(name, value)


def _array(value: object, field: str, model: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O":
            # a column or list of mixed numbers
            array = np.array(array.tolist())
    except ValueError as error:
        raise InvalidRequestError(
            field, expected="an array", found=f"{type(value).__name__}: {error}", model=model
        ) from error
    return array


#: Kinds of NumPy's dtypes; one becomes another that is as wide or wider.
_WIDTHS = {"b": 0, "i": 1, "u": 1, "f": 2}


def _cast(array: NDArray[Any], given: TensorMetadata, field: str, model: str) -> NDArray[Any]:
    """Give an array the datatype that the model takes, where no value is lost but precision."""
    dtype = given.datatype.dtype
    if array.dtype != dtype:
        is_empty_list = not array.size and array.dtype == np.float64
        if not is_empty_list and _WIDTHS.get(array.dtype.kind, 3) > _WIDTHS[dtype.kind]:
            raise InvalidRequestError(
                field, expected=str(given.datatype), found=_spell(array.dtype), model=model
            )
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        lost = np.isfinite(cast) != np.isfinite(array) if dtype.kind == "f" else cast != array
        if lost.any():
            raise InvalidRequestError(
                field,
                expected=f"values that {given.datatype} holds",
                found=str(array[lost].flat[0]),
                model=model,
            )
        array = cast
    return np.asarray(array, dtype=dtype, order="C")


def _spell(dtype: np.dtype[Any]) -> str:
    try:
        return Datatype.of(dtype)
    except TypeError:
        return str(dtype)


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(
        size in (found, -1) for size, found in zip(wanted, shape, strict=True)
    )
