"""The gRPC form of the protocol: messages <-> requests and responses.

Inputs may be typed or raw, all in the same way; outputs are always raw, since tritonclient reads
typed ones as empty arrays.

Source: Open Inference Protocol v2, "GRPC"; Triton's `ModelInferRequest`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from jackfield._shared_memory import OFF
from jackfield._wire.descriptors import InferParameter, ModelInferRequest, ModelInferResponse
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
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from jackfield._shared_memory import Place, Regions
    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.messages import Parameter, Parameters

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


def decode_infer(
    message: ProtoMessage, received_ns: int = 0, *, regions: Regions = OFF
) -> tuple[InferRequest, Mapping[str, Place]]:
    """Decode a `ModelInferRequest`.

    Args:
        message: What the caller sent.
        received_ns: When decoding began, by `time.perf_counter_ns`.
        regions: Where tensors in shared memory lie.

    Returns:
        The request; and for each output that goes to shared memory, where it is written.

    Raises:
        CapacityError: Requests hold as many copies of shared memory as they may.
        InvalidRequestError: There is no input, a datatype or shape is none, contents do not fit
            them, or raw and typed contents are mixed.
    """
    model: str = message.model_name
    inputs = message.inputs
    raw = message.raw_input_contents
    if not inputs:
        raise InvalidRequestError("inputs", expected="at least one", found="none", model=model)
    # inputs in shared memory have no entry
    lying = [bool(given.parameters) and is_shared(given.parameters) for given in inputs]
    if raw and len(raw) != lying.count(False):
        raise InvalidRequestError(
            "raw_input_contents",
            expected=f"one entry for each of {lying.count(False)} inputs",
            found=str(len(raw)),
            model=model,
        )
    contents = iter(raw)
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
        parameters = decode_parameters(given.parameters)
        if not raw and not lying[index]:
            array = _typed(given, datatype, field, model)
        elif given.HasField("contents"):
            place = "shared memory" if lying[index] else "raw contents"
            raise InvalidRequestError(
                f"{field}.contents", expected=f"none beside {place}", found="some", model=model
            )
        elif lying[index]:
            array = decode_shared(
                parameters, datatype, given.shape, regions=regions, field=field, model=model
            )
            parameters = without_place(parameters)
        else:
            array = decode_raw(next(contents), datatype, given.shape, field=field, model=model)
        tensors.append(Tensor(given.name, datatype, array, parameters))
    outputs: list[RequestedOutput] = []
    places = NO_PLACES
    if message.outputs:
        outputs, places = _decode_outputs(message, regions)
    parameters = decode_parameters(message.parameters)
    given_id = message.id or make_id()
    return InferRequest(tensors, outputs, parameters, given_id, received_ns), places


def _decode_outputs(
    message: ProtoMessage, regions: Regions
) -> tuple[list[RequestedOutput], Mapping[str, Place]]:
    outputs: list[RequestedOutput] = []
    places: dict[str, Place] = {}
    for index, given in enumerate(message.outputs):
        parameters = decode_parameters(given.parameters)
        if parameters and is_shared(parameters):
            field = f"outputs[{index}]"
            places[given.name] = regions.place(parameters, field, message.model_name)
            parameters = without_place(parameters)
        outputs.append(RequestedOutput(given.name, parameters))
    return outputs, places


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


def encode_final(name: str, version: str, request_id: str, parameters: Parameters) -> ProtoMessage:
    """Encode a response without outputs, which ends the responses to one request."""
    message = ModelInferResponse(model_name=name, model_version=version, id=request_id)
    encode_parameters(parameters, message.parameters)
    return message


def encode_infer(response: InferResponse, places: Mapping[str, Place] = NO_PLACES) -> ProtoMessage:
    """Encode a `ModelInferResponse`, its contents raw.

    Args:
        response: What was computed.
        places: Where outputs that go to shared memory are written. Their entries in the raw
            contents are empty: clients find an output's entry by its position among all.

    Raises:
        InvalidRequestError: An output does not fit its place in shared memory.
    """
    message = ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    if response.parameters:
        encode_parameters(response.parameters, message.parameters)
    for tensor in response.outputs:
        output = message.outputs.add(
            name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape
        )
        parameters, contents = tensor.parameters, b""
        if (place := places.get(tensor.name)) is not None:
            parameters = encode_shared(tensor, place)
        else:
            contents = encode_raw(tensor)
        if parameters:
            encode_parameters(parameters, output.parameters)
        message.raw_output_contents.append(contents)
    return message


# the caller's side, which `jackfield.client` uses


def encode_request(request: InferRequest, model: str, version: str = "") -> ProtoMessage:
    """Encode a `ModelInferRequest`, its contents raw."""
    message = ModelInferRequest(model_name=model, model_version=version, id=request.id)
    encode_parameters(request.parameters, message.parameters)
    for tensor in request.inputs:
        given = message.inputs.add(
            name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape
        )
        encode_parameters(tensor.parameters, given.parameters)
        message.raw_input_contents.append(encode_raw(tensor))
    for output in request.outputs:
        encode_parameters(output.parameters, message.outputs.add(name=output.name).parameters)
    return message


def decode_response(message: ProtoMessage) -> InferResponse:
    """Decode a `ModelInferResponse`, whose contents may be raw or typed.

    Raises:
        InvalidRequestError: A datatype or shape is none, or contents do not fit them; its path is
            the response's.
    """
    raw = message.raw_output_contents
    if raw and len(raw) != len(message.outputs):
        raise InvalidRequestError(
            "raw_output_contents",
            expected=f"one entry for each of {len(message.outputs)} outputs",
            found=str(len(raw)),
        )
    outputs = []
    for index, given in enumerate(message.outputs):
        field = f"outputs[{index}]"
        datatype = _DATATYPES.get(given.datatype)
        if datatype is None:
            raise InvalidRequestError(
                f"{field}.datatype",
                expected=f"one of {', '.join(Datatype)}",
                found=f"'{given.datatype}'",
            )
        parameters = decode_parameters(given.parameters)
        if is_shared(parameters):
            raise InvalidRequestError(
                f"{field}.parameters", expected="data in the answer", found="shared memory"
            )
        if raw:
            array = decode_raw(raw[index], datatype, given.shape, field=field, model="")
        else:
            array = _typed(given, datatype, field, "")
        outputs.append(Tensor(given.name, datatype, array, parameters))
    return InferResponse(
        outputs,
        decode_parameters(message.parameters),
        message.model_name,
        message.model_version,
        message.id,
    )


def decode_metadata(message: ProtoMessage) -> ModelMetadata:
    """Decode a `ModelMetadataResponse`.

    Raises:
        InvalidRequestError: A datatype is none.
    """
    return ModelMetadata(
        name=message.name,
        versions=list(message.versions),
        platform=message.platform,
        inputs=_tensors(message.inputs, "inputs"),
        outputs=_tensors(message.outputs, "outputs"),
        parameters=decode_parameters(message.parameters),
    )


def _tensors(given: Iterable[ProtoMessage], field: str) -> list[TensorMetadata]:
    tensors = []
    for index, each in enumerate(given):
        datatype = _DATATYPES.get(each.datatype)
        if datatype is None:
            raise InvalidRequestError(
                f"{field}[{index}].datatype",
                expected=f"one of {', '.join(Datatype)}",
                found=f"'{each.datatype}'",
            )
        parameters = decode_parameters(each.parameters)
        tensors.append(TensorMetadata(each.name, datatype, list(each.shape), parameters))
    return tensors


def decode_record(message: ProtoMessage) -> dict[str, Any]:
    """Read all fields of a message of numbers, texts and such messages, those that are 0 too."""
    record: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is None:
            record[field.name] = value
        elif field.message_type.GetOptions().map_entry:
            record[field.name] = {key: decode_record(each) for key, each in value.items()}
        elif hasattr(value, "DESCRIPTOR"):
            record[field.name] = decode_record(value)
        else:
            record[field.name] = [decode_record(each) for each in value]
    return record
