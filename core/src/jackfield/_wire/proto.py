"""The gRPC form of the protocol: messages <-> requests and responses.

Inputs may be typed or raw, all in the same way; outputs are always raw, since tritonclient reads
typed ones as empty arrays.

Source: Open Inference Protocol v2, "GRPC"; Triton's `ModelInferRequest`.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from jackfield._wire.descriptors import InferParameter, ModelInferResponse
from jackfield._wire.raw import check_shape, decode_raw, encode_raw
from jackfield.errors import InvalidRequestError
from jackfield.messages import InferRequest, RequestedOutput
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.messages import InferResponse, Parameter, Parameters

_DATATYPES = {str(datatype): datatype for datatype in Datatype}
#: Where typed contents lie; FP16 and BF16 have a raw form only.
_CONTENTS = {
    Datatype.BOOL: "bool_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}
_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)


def decode_infer(message: ProtoMessage) -> InferRequest:
    """Decode a `ModelInferRequest`.

    Raises:
        InvalidRequestError: There is no input, a datatype or shape is none, contents do not fit
            them, or raw and typed contents are mixed.
    """
    model: str = message.model_name
    inputs = message.inputs
    raw = message.raw_input_contents
    if not inputs:
        raise InvalidRequestError("inputs", expected="at least one", found="none", model=model)
    if raw and len(raw) != len(inputs):
        raise InvalidRequestError(
            "raw_input_contents",
            expected=f"one entry for each of {len(inputs)} inputs",
            found=str(len(raw)),
            model=model,
        )
    tensors: list[Tensor] = []
    names: set[str] = set()
    for index, given in enumerate(inputs):
        field = f"inputs[{index}]"
        datatype = _DATATYPES.get(given.datatype)
        if datatype is None:
            raise InvalidRequestError(
                f"{field}.datatype",
                expected=f"one of {', '.join(Datatype)}",
                found=f"'{given.datatype}'",
                model=model,
            )
        if given.name in names:
            raise InvalidRequestError(
                f"{field}.name",
                expected="a name that no other input has",
                found=f"'{given.name}' again",
                model=model,
            )
        names.add(given.name)
        if not raw:
            array = _typed(given, datatype, field, model)
        elif given.HasField("contents"):
            raise InvalidRequestError(
                f"{field}.contents", expected="none beside raw contents", found="some", model=model
            )
        else:
            array = decode_raw(raw[index], datatype, given.shape, field=field, model=model)
        tensors.append(Tensor(given.name, datatype, array, decode_parameters(given.parameters)))
    outputs = [
        RequestedOutput(each.name, decode_parameters(each.parameters)) for each in message.outputs
    ]
    parameters = decode_parameters(message.parameters)
    return InferRequest(tensors, outputs, parameters, message.id or str(uuid.uuid4()))


def _typed(given: ProtoMessage, datatype: Datatype, field: str, model: str) -> NDArray[Any]:
    """Read typed contents, which must lie in the field of the datatype."""
    count = check_shape(given.shape, field, model)
    place = _CONTENTS.get(datatype)
    filled = [descriptor.name for descriptor, _ in given.contents.ListFields()]
    if place is None or filled not in ([place], []):
        raise InvalidRequestError(
            f"{field}.contents",
            expected=place or "raw contents, the only form of this datatype",
            found=", ".join(filled) or "none",
            model=model,
        )
    values = getattr(given.contents, place)
    if len(values) != count:
        raise InvalidRequestError(
            f"{field}.contents.{place}",
            expected=f"{count} elements for the shape {list(given.shape)}",
            found=str(len(values)),
            model=model,
        )
    if datatype is Datatype.BYTES:
        array = np.empty(count, dtype=object)
        array[:] = list(values)
        return array.reshape(given.shape)
    array = np.array(values, dtype=_WIDE.get(place, datatype.dtype))
    narrow = array.astype(datatype.dtype, copy=False)
    if place in _WIDE and not np.array_equal(narrow, array):
        bad = int(np.flatnonzero(narrow != array)[0])
        raise InvalidRequestError(
            f"{field}.contents.{place}[{bad}]",
            expected=f"a value that {datatype} holds",
            found=str(array[bad]),
            model=model,
        )
    return narrow.reshape(given.shape)


#: Contents that are wider on the wire than some datatypes they carry.
_WIDE = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}


def decode_parameters(given: Mapping[str, ProtoMessage]) -> Parameters:
    """Read a parameter map."""
    return {key: _decode_parameter(each) for key, each in given.items()} if given else {}


def _decode_parameter(given: ProtoMessage) -> Parameter:
    choice = given.WhichOneof("parameter_choice")
    value: Parameter = getattr(given, choice) if choice else None
    return value


def encode_parameters(parameters: Parameters, into: Mapping[str, ProtoMessage]) -> None:
    """Write a parameter map; what gRPC has no field for (lists, objects) becomes JSON text."""
    for key, value in parameters.items():
        into[key].CopyFrom(_encode_parameter(value))


def _encode_parameter(value: Parameter) -> ProtoMessage:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int) and value in _INT64:
        return InferParameter(int64_param=value)
    if isinstance(value, int) and value in _UINT64:
        return InferParameter(uint64_param=value)
    if isinstance(value, float):
        return InferParameter(double_param=value)
    if isinstance(value, str):
        return InferParameter(string_param=value)
    return InferParameter(string_param=msgspec.json.encode(value).decode())


def encode_infer(response: InferResponse) -> ProtoMessage:
    """Encode a `ModelInferResponse`, its contents raw."""
    message = ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    if response.parameters:
        encode_parameters(response.parameters, message.parameters)
    for tensor in response.outputs:
        output = message.outputs.add(
            name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape
        )
        if tensor.parameters:
            encode_parameters(tensor.parameters, output.parameters)
        message.raw_output_contents.append(encode_raw(tensor))
    return message
