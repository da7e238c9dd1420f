"""The JSON form of the protocol.

Data is accepted flat or nested and given flat, in row-major order. In floating-point data `null`
stands for NaN. A BYTES element is text; a BYTES output that is not UTF-8 is given as base64 with
the parameter ``"content_type": "base64"``.

Source: Open Inference Protocol v2, "Inference Request JSON Object", "Tensor Data".
"""

from __future__ import annotations

import base64
import functools
import re
import uuid
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import orjson
from msgspec import Meta, Raw, Struct

from jackfield._validation import explain
from jackfield._wire.raw import check_shape
from jackfield.errors import InvalidRequestError
from jackfield.messages import InferRequest, RequestedOutput
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jackfield.messages import InferResponse


#: What no array has by far; the bound keeps an error's text short, too.
_Size = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class _Input(Struct):
    name: str
    shape: list[_Size]
    datatype: Datatype
    data: Raw
    parameters: dict[str, Any] | None = None


class _Output(Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(Struct):
    inputs: Annotated[list[_Input], Meta(min_length=1)]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_REQUEST = msgspec.json.Decoder(_Request)
_DTYPES = {datatype: datatype.dtype for datatype in Datatype}

# float32 rounds what is below this to its largest number, and all above to infinity
_FP32_LIMIT = 3.4028235677973366e38
_FP16_LIMIT = 65519.99
_INTEGERS = {
    Datatype.UINT8: (0, 2**8 - 1),
    Datatype.UINT16: (0, 2**16 - 1),
    Datatype.UINT32: (0, 2**32 - 1),
    Datatype.INT8: (-(2**7), 2**7 - 1),
    Datatype.INT16: (-(2**15), 2**15 - 1),
    Datatype.INT32: (-(2**31), 2**31 - 1),
    Datatype.INT64: (-(2**63), 2**63 - 1),
}
_ELEMENTS: dict[Datatype, Any] = {
    Datatype.BOOL: bool | Annotated[int, Meta(ge=0, le=1)],
    Datatype.UINT64: Annotated[int, Meta(ge=0)],
    Datatype.FP16: Annotated[float, Meta(gt=-_FP16_LIMIT, lt=_FP16_LIMIT)] | None,
    Datatype.FP32: Annotated[float, Meta(gt=-_FP32_LIMIT, lt=_FP32_LIMIT)] | None,
    Datatype.FP64: float | None,
    Datatype.BYTES: str,
    **{
        datatype: Annotated[int, Meta(ge=low, le=high)]
        for datatype, (low, high) in _INTEGERS.items()
    },
}


@functools.cache
def _data_decoder(datatype: Datatype, depth: int) -> msgspec.json.Decoder[list[Any]]:
    kind = _ELEMENTS[datatype]
    for _ in range(depth):
        kind = GenericAlias(list, (kind,))
    return msgspec.json.Decoder(kind)


def decode_infer(body: bytes, model: str) -> InferRequest:
    """Decode an inference request.

    Args:
        body: The JSON text.
        model: Name of the model asked for, for error texts.

    Raises:
        InvalidRequestError: It is not JSON, a field is missing or has the wrong type, or a tensor's
            data does not fit its datatype and shape.
    """
    try:
        request = _REQUEST.decode(body)
    except msgspec.ValidationError as error:
        raise _mismatch(error, "", model) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            "body", expected="an inference request as JSON", found=_lower(error), model=model
        ) from error
    inputs = [
        Tensor(given.name, given.datatype, _array(given, index, model), given.parameters or {})
        for index, given in enumerate(request.inputs)
    ]
    if len(inputs) > 1:
        _refuse_doubles(inputs, model)
    outputs = [RequestedOutput(each.name, each.parameters or {}) for each in request.outputs or ()]
    return InferRequest(inputs, outputs, request.parameters or {}, request.id or str(uuid.uuid4()))


def _array(given: _Input, index: int, model: str) -> NDArray[Any]:
    """Decode the data of one input to an array of its shape."""
    shape, datatype = given.shape, given.datatype
    count = check_shape(shape, f"inputs[{index}]", model)
    if datatype is Datatype.BF16:
        raise InvalidRequestError(
            f"inputs[{index}].datatype",
            expected="a datatype that JSON numbers can carry",
            found="BF16, which has a binary form only",
            model=model,
        )
    try:
        values = _data_decoder(datatype, 1).decode(given.data)
    except msgspec.ValidationError as error:
        values = _unflat(given, count, index, model, error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            f"inputs[{index}].data", expected="JSON", found=_lower(error), model=model
        ) from error
    if len(values) != count:
        raise InvalidRequestError(
            f"inputs[{index}].data",
            expected=f"{count} elements for the shape {shape}",
            found=str(len(values)),
            model=model,
        )
    if datatype is Datatype.BYTES:
        array = np.empty(count, dtype=object)
        array[:] = [text.encode() for text in values]
    else:
        try:
            array = np.array(values, dtype=_DTYPES[datatype])
        except OverflowError as error:  # UINT64 only: msgspec's bounds end at INT64
            raise _too_large(given, values, index, model) from error
    return array.reshape(shape)


_UINT64_MAX = 2**64 - 1


def _too_large(given: _Input, values: list[int], index: int, model: str) -> InvalidRequestError:
    """Find the element that no UINT64 holds."""
    place = next(place for place, value in enumerate(values) if value > _UINT64_MAX)
    is_nested = _NESTED.match(bytes(given.data))
    path = np.unravel_index(place, given.shape) if is_nested else (place,)
    return InvalidRequestError(
        f"inputs[{index}].data" + "".join(f"[{each}]" for each in path),
        expected=f"an integer <= {_UINT64_MAX}",
        found=str(values[place])[:_LONGEST_FOUND],
        model=model,
    )


_NESTED = re.compile(rb"\s*\[\s*\[")
_LIST = re.compile(rb"\s*\[")
_INDEX = re.compile(r"\d+")
#: How much of a value an error shows, in characters.
_LONGEST_FOUND = 40


def _unflat(
    given: _Input, count: int, index: int, model: str, error: msgspec.ValidationError
) -> list[Any]:
    """Decode nested data, or a lone scalar, to a flat list."""
    data = bytes(given.data)
    depth = len(given.shape)
    if count == 1 and not _LIST.match(data):
        data, depth = b"[" + data + b"]", 1
    elif depth < 2 or not _NESTED.match(data):
        raise _mismatch(error, f"inputs[{index}].data", model, data) from error
    try:
        values = _data_decoder(given.datatype, depth).decode(data)
    except msgspec.ValidationError as nested_error:
        raise _mismatch(nested_error, f"inputs[{index}].data", model, data) from nested_error
    except (msgspec.DecodeError, UnicodeDecodeError) as nested_error:
        raise InvalidRequestError(
            f"inputs[{index}].data", expected="JSON", found=_lower(nested_error), model=model
        ) from nested_error
    return _flatten(values, given.shape, index, model) if depth > 1 else values


def _flatten(values: list[Any], shape: list[int], index: int, model: str) -> list[Any]:
    """Join nested lists, level by level; each must be as long as the shape says."""
    lists = [values]
    for level, size in enumerate(shape):
        for place, each in enumerate(lists):
            if len(each) != size:
                path = np.unravel_index(place, tuple(shape[:level])) if level else ()
                raise InvalidRequestError(
                    f"inputs[{index}].data" + "".join(f"[{step}]" for step in path),
                    expected=f"{size} elements for the shape {shape}",
                    found=str(len(each)),
                    model=model,
                )
        lists = [element for each in lists for element in each]
    return lists


def _refuse_doubles(inputs: list[Tensor], model: str) -> None:
    seen: set[str] = set()
    for index, tensor in enumerate(inputs):
        if tensor.name in seen:
            raise InvalidRequestError(
                f"inputs[{index}].name",
                expected="a name that no other input has",
                found=f"'{tensor.name}' again",
                model=model,
            )
        seen.add(tensor.name)


def _mismatch(
    error: msgspec.ValidationError, prefix: str, model: str, data: bytes = b""
) -> InvalidRequestError:
    """Translate msgspec's error; from the data, if given, the value that was found is told."""
    path, expected, found = explain(error)
    if path.endswith(".datatype"):
        expected = f"one of {', '.join(Datatype)}"
    if data and found == "another value":
        for step in _INDEX.findall(path):
            data = msgspec.json.decode(data, type=list[Raw])[int(step)]
        found = bytes(data).decode()[:_LONGEST_FOUND]
    joint = "" if not prefix or not path or path.startswith("[") else "."
    return InvalidRequestError(
        f"{prefix}{joint}{path}", expected=expected, found=found, model=model
    )


def _lower(error: Exception) -> str:
    text = str(error)
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def encode_infer(response: InferResponse) -> bytes:
    """Encode an inference response; data is flat, in row-major order."""
    body: dict[str, object] = {"model_name": response.model_name}
    if response.model_version:
        body["model_version"] = response.model_version
    if response.id:
        body["id"] = response.id
    if response.parameters:
        body["parameters"] = response.parameters
    body["outputs"] = [_encode_output(tensor) for tensor in response.outputs]
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _encode_output(tensor: Tensor) -> dict[str, object]:
    array = tensor.array
    output: dict[str, object] = {
        "name": tensor.name,
        "shape": array.shape,
        "datatype": tensor.datatype,
    }
    parameters = tensor.parameters
    data: object = array.reshape(-1)
    if tensor.datatype is Datatype.BYTES:
        elements: list[bytes] = array.reshape(-1).tolist()
        try:
            data = [element.decode() for element in elements]
        except UnicodeDecodeError:
            data = [base64.b64encode(element).decode() for element in elements]
            parameters = {**parameters, "content_type": "base64"}
    if parameters:
        output["parameters"] = parameters
    output["data"] = data
    return output
