"""The JSON form of the protocol, with or without binary tensors behind it.

Data is accepted flat or nested and given flat, in row-major order. In floating-point data `null`
stands for NaN, and the strings ``"Infinity"`` and ``"-Infinity"`` for the infinities, which JSON
numbers can't tell. A BYTES element is text; a BYTES output that is not UTF-8 is given as base64
with the parameter ``"content_type": "base64"``. BF16 has a binary form only.

Source: Open Inference Protocol v2, "Inference Request JSON Object", "Tensor Data"; Triton's binary
tensor data extension.
"""

from __future__ import annotations

import base64
import codecs
import functools
import math
import re
import threading
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import orjson
import simdjson
from msgspec import Meta, Raw, Struct

from jackfield._shared_memory import OFF
from jackfield._validation import explain
from jackfield._wire.ids import make_id
from jackfield._wire.raw import check_shape, decode_raw, encode_raw
from jackfield._wire.shared import (
    NO_PLACES,
    decode_shared,
    encode_shared,
    is_shared,
    without_place,
)
from jackfield.errors import InvalidRequestError
from jackfield.messages import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    RequestedOutput,
    TensorMetadata,
)
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from jackfield._shared_memory import Place, Regions


_ABSENT = Raw(b"")
#: What no array has by far; the bound keeps an error's text short, too.
_Size = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class _Input(Struct):
    name: str
    shape: list[_Size]
    datatype: Datatype
    data: Raw = _ABSENT
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
_NonFinite = Literal["Infinity", "-Infinity", "NaN"]
_ELEMENTS: dict[Datatype, Any] = {
    Datatype.BOOL: bool | Annotated[int, Meta(ge=0, le=1)],
    Datatype.UINT64: Annotated[int, Meta(ge=0)],
    Datatype.FP16: Annotated[float, Meta(gt=-_FP16_LIMIT, lt=_FP16_LIMIT)] | _NonFinite | None,
    Datatype.FP32: Annotated[float, Meta(gt=-_FP32_LIMIT, lt=_FP32_LIMIT)] | _NonFinite | None,
    Datatype.FP64: float | _NonFinite | None,
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


class ResponseForm(NamedTuple):
    """Which outputs the caller wants in binary form, and which in shared memory."""

    #: Whether outputs that are not named below are binary.
    is_binary: bool = False
    #: Output name -> whether it is binary.
    outputs: Mapping[str, bool] = {}
    #: Output name -> where it is written.
    places: Mapping[str, Place] = NO_PLACES


JSON_ONLY = ResponseForm()


def decode_infer(
    body: bytes,
    model: str,
    header_length: int | None = None,
    received_ns: int = 0,
    *,
    regions: Regions = OFF,
) -> tuple[InferRequest, ResponseForm]:
    """Decode an inference request.

    Args:
        body: The JSON text, and behind it the tensors that are binary.
        model: Name of the model asked for, for error texts.
        header_length: Length of the JSON text in bytes; None if that is all there is.
        received_ns: When decoding began, by `time.perf_counter_ns`.
        regions: Where tensors in shared memory lie.

    Returns:
        The request, its arrays views on `body` where they are binary; and the form of the answer.

    Raises:
        CapacityError: Requests hold as many copies of shared memory as they may.
        InvalidRequestError: It is not JSON, a field is missing or has the wrong type, or a tensor's
            data does not fit its datatype and shape.
    """
    binary = None
    if header_length is not None:
        binary = _Binary(body, header_length, model)
        body = body[:header_length]
    arrays: dict[int, NDArray[Any]] = {}
    if binary is None and len(body) > _LARGE and (read := _read_large(body, model)) is not None:
        request, arrays = read
    else:
        try:
            request = _REQUEST.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise _unreadable(error, model) from error
    inputs = []
    array: NDArray[Any] | None
    for index, given in enumerate(request.inputs):
        parameters = given.parameters or {}
        if parameters and is_shared(parameters):
            array = _shared_array(given, regions, f"inputs[{index}]", model)
            parameters = without_place(parameters)
        elif parameters.get("binary_data_size") is not None:
            array = _binary_array(given, binary, f"inputs[{index}]", model)
            parameters = {key: parameters[key] for key in parameters if key != "binary_data_size"}
        elif (array := arrays.get(index)) is None:
            array = _array(given, f"inputs[{index}]", model)
        inputs.append(Tensor(given.name, given.datatype, array, parameters))
    if binary is not None:
        binary.refuse_rest()
    if len(inputs) > 1:
        _refuse_doubles(inputs, model)
    parameters = request.parameters or {}
    outputs = [RequestedOutput(each.name, each.parameters or {}) for each in request.outputs or ()]
    form = JSON_ONLY
    if "binary_data_output" in parameters or (
        outputs
        and any("binary_data" in each.parameters or is_shared(each.parameters) for each in outputs)
    ):
        form, parameters, outputs = _split_form(parameters, outputs, regions, model)
    said = [each.parameters for each in inputs] + [each.parameters for each in outputs]
    if parameters or any(said):
        _refuse_unsendable(parameters, inputs, outputs, model)
    given_id = request.id or make_id()
    return InferRequest(inputs, outputs, parameters, given_id, received_ns), form


def _unreadable(error: Exception, model: str) -> InvalidRequestError:
    if isinstance(error, msgspec.ValidationError):
        return _mismatch(error, "", model)
    return InvalidRequestError(
        "body", expected="an inference request as JSON", found=_lower(error), model=model
    )


#: Bytes above which one pass with buffer access gains more than its set-up costs.
_LARGE = 16 * 1024
#: Bytes above which a parser is not kept: it keeps about as much memory as its largest text.
_LARGEST_KEPT = 32 * 1024 * 1024
#: How the parser hands numbers over, by the kind of NumPy's dtype.
_BUFFERS: dict[str, tuple[Literal["d", "i", "u"], type]] = {
    "f": ("d", np.float64),
    "i": ("i", np.int64),
    "u": ("u", np.uint64),
}


class _Parsers(threading.local):
    """A parser for each thread; to make one, and memory for it, takes half as long as to parse."""

    def __init__(self) -> None:
        self.kept = simdjson.Parser()


_PARSERS = _Parsers()


def _read_large(body: bytes, model: str) -> tuple[_Request, dict[int, NDArray[Any]]] | None:
    """Read a request in one pass, its flat numbers without a Python object each.

    None leaves it to msgspec, which tells in detail what is wrong, and takes what is rare: nested
    data, null among numbers, text, a key twice.
    """
    parser = _PARSERS.kept if len(body) <= _LARGEST_KEPT else simdjson.Parser()
    try:
        return _read_parsed(parser.parse(body), body, model)
    except (ValueError, TypeError, RecursionError):  # msgspec's errors are ValueErrors
        return None
    except RuntimeError:  # a part of its last text still lives somewhere, in a traceback perhaps
        _PARSERS.kept = simdjson.Parser()
        return None


def _read_parsed(
    document: object, body: bytes, model: str
) -> tuple[_Request, dict[int, NDArray[Any]]] | None:
    fields, given = _split(document, "inputs")
    inputs = [_split(each, "data") for each in given]
    lists = 1 + 2 * len(inputs) + isinstance(fields.get("outputs"), list)
    at = -1
    for _ in range(lists):  # many times faster than to count
        at = body.index(b"[", at + 1)
    if body.startswith(codecs.BOM_UTF8) or body.find(b"[", at + 1) >= 0:
        return None  # what is nested, the buffer would give flat
    fields["inputs"] = [each for each, _ in inputs]
    request = msgspec.convert(fields, _Request)
    arrays = {}
    for index, (each, (_, data)) in enumerate(zip(request.inputs, inputs, strict=True)):
        parameters = each.parameters or {}
        if "binary_data_size" in parameters or is_shared(parameters):
            return None
        array = _numbers(data, each, f"inputs[{index}]", model)
        if array is None:
            return None
        arrays[index] = array
    return request, arrays


def _split(document: object, name: str) -> tuple[dict[str, Any], simdjson.Array]:
    """Take one list out of an object; the rest as Python has it.

    Raises:
        TypeError: It is no object, has no such list, or a key twice.
    """
    if not isinstance(document, simdjson.Object):
        raise TypeError
    names = [*document.keys()]
    taken = document.get(name)
    if len({*names}) != len(names) or not isinstance(taken, simdjson.Array):
        raise TypeError
    values = {key: document[key] for key in names if key != name}
    rest = {
        key: value.as_dict()
        if isinstance(value, simdjson.Object)
        else value.as_list()
        if isinstance(value, simdjson.Array)
        else value
        for key, value in values.items()
    }
    return rest, taken


def _numbers(data: simdjson.Array, given: _Input, field: str, model: str) -> NDArray[Any] | None:
    """Make an array of flat numbers; None if they are not such that it holds."""
    dtype = _DTYPES[given.datatype]
    if dtype.kind not in _BUFFERS or given.datatype is Datatype.BF16:
        return None
    code, wide = _BUFFERS[dtype.kind]
    values: NDArray[Any] = np.frombuffer(data.as_buffer(of_type=code), wide)
    if values.size != check_shape(given.shape, field, model):
        return None
    if dtype != wide:
        if dtype.kind == "f":
            limit = _FP32_LIMIT if given.datatype is Datatype.FP32 else _FP16_LIMIT
            low, high = -limit, limit
        else:
            low, high = _INTEGERS[given.datatype]
        if values.size and (values.min() < low or values.max() > high):
            return None
        values = values.astype(dtype)
    return values.reshape(given.shape)


#: Levels of lists and objects in a parameter; the response's encoder takes 254.
_DEEPEST = 64
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1


def refuse_unsendable(parameters: Mapping[str, object], field: str, model: str) -> None:
    """Refuse parameters that no response could repeat: a runtime may well do so.

    Raises:
        InvalidRequestError: An integer has more than 64 bits, or the nesting is deep.
    """
    if found := _unsendable(parameters, _DEEPEST):
        raise InvalidRequestError(
            field,
            expected=f"integers of 64 bits, and at most {_DEEPEST} levels",
            found=found,
            model=model,
        )


def _refuse_unsendable(
    parameters: Mapping[str, object],
    inputs: list[Tensor],
    outputs: list[RequestedOutput],
    model: str,
) -> None:
    """Look at all that a runtime gets to see."""
    refuse_unsendable(parameters, "parameters", model)
    for index, tensor in enumerate(inputs):
        refuse_unsendable(tensor.parameters, f"inputs[{index}].parameters", model)
    for index, wanted in enumerate(outputs):
        refuse_unsendable(wanted.parameters, f"outputs[{index}].parameters", model)


def _unsendable(value: object, levels: int) -> str:
    if isinstance(value, dict | list):
        if not levels:
            return "more levels"
        inner = value.values() if isinstance(value, dict) else value
        return next(filter(None, (_unsendable(each, levels - 1) for each in inner)), "")
    if isinstance(value, int) and not _INT64_MIN <= value <= _UINT64_MAX:
        return f"an integer of {value.bit_length()} bits"
    return ""


def _split_form(
    parameters: dict[str, Any], outputs: list[RequestedOutput], regions: Regions, model: str
) -> tuple[ResponseForm, dict[str, Any], list[RequestedOutput]]:
    """Take the wire's own parameters out of what a runtime sees."""
    parameters = dict(parameters)
    is_binary = bool(parameters.pop("binary_data_output", False))
    wanted: dict[str, bool] = {}
    places: dict[str, Place] = {}
    kept = []
    for index, output in enumerate(outputs):
        rest = dict(output.parameters)
        wanted[output.name] = bool(rest.pop("binary_data", is_binary))
        if is_shared(rest):
            places[output.name] = regions.place(rest, f"outputs[{index}]", model)
            rest = without_place(rest)
        kept.append(RequestedOutput(output.name, rest))
    return ResponseForm(is_binary, wanted, places), parameters, kept


class _Binary:
    """The tensors behind the JSON text, in the order in which it lists them."""

    def __init__(self, body: bytes, start: int, model: str) -> None:
        if not 0 <= start <= len(body):
            raise InvalidRequestError(
                "Inference-Header-Content-Length",
                expected=f"a length within the body of {len(body)} bytes",
                found=str(start),
                model=model,
            )
        self._body = memoryview(body)
        self._start = start
        self._model = model

    def take(self, size: object, field: str) -> memoryview:
        """Get the next tensor's bytes."""
        rest = len(self._body) - self._start
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= rest:
            raise InvalidRequestError(
                f"{field}.parameters.binary_data_size",
                expected=f"an integer up to the {rest} bytes that are left of the body",
                found=str(size),
                model=self._model,
            )
        start, self._start = self._start, self._start + size
        return self._body[start : self._start]

    def refuse_rest(self) -> None:
        """Refuse bytes that no tensor has claimed."""
        if rest := len(self._body) - self._start:
            raise InvalidRequestError(
                "body",
                expected="no bytes behind the last binary tensor",
                found=f"{rest}",
                model=self._model,
            )


def _binary_array(given: _Input, binary: _Binary | None, field: str, model: str) -> NDArray[Any]:
    if binary is None or given.data:
        raise InvalidRequestError(
            f"{field}.parameters.binary_data_size",
            expected="binary data behind the JSON, announced by Inference-Header-Content-Length"
            if binary is None
            else "no data in the JSON beside it",
            found="none" if binary is None else "data",
            model=model,
        )
    data = binary.take((given.parameters or {})["binary_data_size"], field)
    return decode_raw(data, given.datatype, given.shape, field=field, model=model)


def _shared_array(given: _Input, regions: Regions, field: str, model: str) -> NDArray[Any]:
    parameters = given.parameters or {}
    if given.data or parameters.get("binary_data_size") is not None:
        raise InvalidRequestError(
            f"{field}.parameters",
            expected="data in one place only",
            found="shared memory beside data or binary_data_size",
            model=model,
        )
    return decode_shared(
        parameters, given.datatype, given.shape, regions=regions, field=field, model=model
    )


def decode_tensor(
    name: str, datatype: Datatype, shape: list[int], value: object, *, field: str, model: str
) -> Tensor:
    """Make a tensor of a JSON value that came outside of the protocol's form.

    Raises:
        InvalidRequestError: The value does not fit the datatype and shape.
    """
    given = _Input(name, shape, datatype, Raw(msgspec.json.encode(value)))
    return Tensor(name, datatype, _array(given, field, model))


def _array(given: _Input, field: str, model: str) -> NDArray[Any]:
    """Decode the data of one input to an array of its shape."""
    shape, datatype = given.shape, given.datatype
    count = check_shape(shape, field, model)
    if datatype is Datatype.BF16:
        raise InvalidRequestError(
            f"{field}.datatype",
            expected="a datatype that JSON numbers can carry",
            found="BF16, which has a binary form only",
            model=model,
        )
    if not given.data:
        raise InvalidRequestError(f"{field}.data", expected="a value", found="none", model=model)
    try:
        values = _data_decoder(datatype, 1).decode(given.data)
    except msgspec.ValidationError as error:
        values = _unflat(given, count, field, model, error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            f"{field}.data", expected="JSON", found=_lower(error), model=model
        ) from error
    if len(values) != count:
        raise InvalidRequestError(
            f"{field}.data",
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
            raise _too_large(given, values, field, model) from error
    return array.reshape(shape)


def _too_large(given: _Input, values: list[int], field: str, model: str) -> InvalidRequestError:
    """Find the element that no UINT64 holds."""
    place = next(place for place, value in enumerate(values) if value > _UINT64_MAX)
    is_nested = _NESTED.match(bytes(given.data))
    path = np.unravel_index(place, given.shape) if is_nested else (place,)
    return InvalidRequestError(
        f"{field}.data" + "".join(f"[{each}]" for each in path),
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
    given: _Input, count: int, field: str, model: str, error: msgspec.ValidationError
) -> list[Any]:
    """Decode nested data, or a lone scalar, to a flat list."""
    data = bytes(given.data)
    depth = len(given.shape)
    if count == 1 and not _LIST.match(data):
        data, depth = b"[" + data + b"]", 1
    elif depth < 2 or not _NESTED.match(data):
        raise _mismatch(error, f"{field}.data", model, data) from error
    try:
        values = _data_decoder(given.datatype, depth).decode(data)
    except msgspec.ValidationError as nested_error:
        raise _mismatch(nested_error, f"{field}.data", model, data) from nested_error
    except (msgspec.DecodeError, UnicodeDecodeError) as nested_error:
        raise InvalidRequestError(
            f"{field}.data", expected="JSON", found=_lower(nested_error), model=model
        ) from nested_error
    return _flatten(values, given.shape, field, model) if depth > 1 else values


def _flatten(values: list[Any], shape: list[int], field: str, model: str) -> list[Any]:
    """Join nested lists, level by level; each must be as long as the shape says."""
    lists = [values]
    for level, size in enumerate(shape):
        for place, each in enumerate(lists):
            if len(each) != size:
                path = np.unravel_index(place, tuple(shape[:level])) if level else ()
                raise InvalidRequestError(
                    f"{field}.data" + "".join(f"[{step}]" for step in path),
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
    elif prefix and expected in ("one of the names that are known", "a number or a string or null"):
        expected = 'a number, null, "Infinity" or "-Infinity"'
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


def encode_infer(response: InferResponse, form: ResponseForm = JSON_ONLY) -> tuple[bytes, int]:
    """Encode an inference response; data is flat, in row-major order.

    Returns:
        The body, and the length of its JSON text where binary tensors follow, else 0.

    Raises:
        InvalidRequestError: A BF16 output is not asked for in binary form, or an output does not
            fit its place in shared memory.
    """
    body: dict[str, object] = {"model_name": response.model_name}
    if response.model_version:
        body["model_version"] = response.model_version
    if response.id:
        body["id"] = response.id
    if response.parameters:
        body["parameters"] = response.parameters
    binary: list[bytes] = []
    outputs = [_encode_output(tensor, form, binary) for tensor in response.outputs]
    body["outputs"] = outputs
    text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    # orjson writes null for whatever is not finite: to look for that is cheap in a short text
    if (len(text) > _LARGE or b"null" in text) and _spell_infinities(outputs):
        text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    if not form.is_binary and not binary:
        return text, 0
    return b"".join([text, *binary]), len(text)


def _encode_output(tensor: Tensor, form: ResponseForm, binary: list[bytes]) -> dict[str, object]:
    array = tensor.array
    output: dict[str, object] = {
        "name": tensor.name,
        "shape": array.shape,
        "datatype": tensor.datatype,
    }
    parameters = tensor.parameters
    data: object = None
    if (place := form.places.get(tensor.name)) is not None:
        parameters = encode_shared(tensor, place)
    elif form.outputs.get(tensor.name, form.is_binary):
        binary.append(encode_raw(tensor))
        parameters = {**parameters, "binary_data_size": len(binary[-1])}
    elif tensor.datatype is Datatype.BYTES:
        elements: list[bytes] = array.reshape(-1).tolist()
        try:
            data = [element.decode() for element in elements]
        except UnicodeDecodeError:
            data = [base64.b64encode(element).decode() for element in elements]
            parameters = {**parameters, "content_type": "base64"}
    elif tensor.datatype is Datatype.BF16:
        raise InvalidRequestError(
            "outputs",
            expected=f"'{tensor.name}' asked for with the parameter \"binary_data\": true",
            found="JSON, which can't carry its datatype BF16",
        )
    else:
        data = array.reshape(-1)
    if parameters:
        output["parameters"] = parameters
    if data is not None:
        output["data"] = data
    return output


_INFINITIES = {math.inf: "Infinity", -math.inf: "-Infinity"}


def _spell_infinities(outputs: list[dict[str, object]]) -> bool:
    """Put strings where numbers are infinite; tells whether there were any."""
    found = False
    for output in outputs:
        data = output.get("data")
        if isinstance(data, np.ndarray) and data.dtype.kind == "f" and np.isinf(data).any():
            output["data"] = [_INFINITIES.get(value, value) for value in data.tolist()]
            found = True
    return found


# the caller's side, which `jackfield.client` uses


class _Response(Struct):
    outputs: list[_Input]
    model_name: str = ""
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


class _TensorMetadata(Struct):
    name: str
    datatype: Datatype
    shape: list[_Size]
    parameters: dict[str, Any] | None = None


class _Metadata(Struct):
    name: str
    versions: list[str] | None = None
    platform: str | None = None
    inputs: list[_TensorMetadata] | None = None
    outputs: list[_TensorMetadata] | None = None
    parameters: dict[str, Any] | None = None


def encode_request(request: InferRequest, *, is_binary: bool = False) -> tuple[bytes, int | None]:
    """Encode an inference request.

    Args:
        request: What is asked. In JSON, BYTES that are not UTF-8 are given as base64.
        is_binary: Give the inputs in binary form, and ask for the outputs in it.

    Returns:
        The body, and the length of its JSON text; None if that is all there is.

    Raises:
        InvalidRequestError: A BF16 input is to be given in JSON.
    """
    form = ResponseForm(is_binary)
    body: dict[str, object] = {"id": request.id} if request.id else {}
    parameters = request.parameters
    if is_binary:
        parameters = {"binary_data_output": True, **parameters}
    if parameters:
        body["parameters"] = parameters
    binary: list[bytes] = []
    inputs = []
    for index, tensor in enumerate(request.inputs):
        if tensor.datatype is Datatype.BF16 and not is_binary:
            raise InvalidRequestError(
                f"inputs[{index}].datatype",
                expected="a datatype that JSON can carry",
                found="BF16, which has a binary form only",
            )
        inputs.append(_encode_output(tensor, form, binary))
    body["inputs"] = inputs
    if request.outputs:
        # an output's own flag goes before the request's
        own: dict[str, object] = {"binary_data": True} if is_binary else {}
        body["outputs"] = [
            {"name": output.name, "parameters": {**own, **output.parameters}}
            for output in request.outputs
        ]
    text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    if (len(text) > _LARGE or b"null" in text) and _spell_infinities(inputs):
        text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([text, *binary]), len(text)) if is_binary else (text, None)


def decode_response(body: bytes, header_length: int | None = None) -> InferResponse:
    """Decode an inference response.

    Args:
        body: The JSON text, and behind it the tensors that are binary.
        header_length: Length of the JSON text in bytes; None if that is all there is.

    Returns:
        The response, its arrays views on `body` where they are binary.

    Raises:
        InvalidRequestError: It is not JSON, a field is missing or has the wrong type, or a tensor's
            data does not fit its datatype and shape; its path is the response's.
    """
    binary = None
    if header_length is not None:
        binary = _Binary(body, header_length, "")
        body = body[:header_length]
    response = decode_json(body, _Response, "an inference response")
    outputs = []
    for index, given in enumerate(response.outputs):
        field, parameters = f"outputs[{index}]", given.parameters or {}
        if is_shared(parameters):
            raise InvalidRequestError(
                f"{field}.parameters", expected="data in the answer", found="shared memory"
            )
        if parameters.get("binary_data_size") is not None:
            array = _binary_array(given, binary, field, "")
            parameters = {key: parameters[key] for key in parameters if key != "binary_data_size"}
        else:
            array = _array(given, field, "")
        outputs.append(Tensor(given.name, given.datatype, array, parameters))
    if binary is not None:
        binary.refuse_rest()
    return InferResponse(
        outputs,
        response.parameters or {},
        response.model_name,
        response.model_version or "",
        response.id or "",
    )


def decode_metadata(body: bytes) -> ModelMetadata:
    """Decode a model's metadata, of which servers leave out what they don't know.

    Raises:
        InvalidRequestError: It is not JSON, or a field has the wrong type.
    """
    given = decode_json(body, _Metadata, "a model's metadata")
    return ModelMetadata(
        name=given.name,
        versions=given.versions or [],
        platform=given.platform or "",
        inputs=_tensors(given.inputs),
        outputs=_tensors(given.outputs),
        parameters=given.parameters or {},
    )


def _tensors(given: list[_TensorMetadata] | None) -> list[TensorMetadata]:
    return [
        TensorMetadata(each.name, each.datatype, each.shape, each.parameters or {})
        for each in given or ()
    ]


_T = TypeVar("_T")


def decode_json(body: bytes, kind: type[_T], what: str) -> _T:
    """Decode an answer of any kind.

    Raises:
        InvalidRequestError: It is not JSON, or a field is missing or has the wrong type.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _mismatch(error, "", "") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            "body", expected=f"{what} as JSON", found=_lower(error)
        ) from error
