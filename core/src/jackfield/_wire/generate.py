"""Triton's flat form: keys are the names of inputs and outputs.

``{"text_input": "hello", "temperature": 0.5}`` is the input `text_input` and the parameter
`temperature`; the answer has a key for each output.

Source: Triton's generate extension.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from jackfield._wire import json
from jackfield._wire.ids import make_id
from jackfield._wire.raw import MAX_DIMENSIONS
from jackfield.errors import InvalidRequestError
from jackfield.messages import InferRequest

if TYPE_CHECKING:
    from jackfield.messages import InferResponse, ModelMetadata, TensorMetadata
    from jackfield.tensor import Tensor


class _Envelope(msgspec.Struct):
    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def is_flat(body: bytes) -> bool:
    """Tell the flat form from the protocol's, which has a list of `inputs`."""
    try:
        envelope = _ENVELOPE.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False  # the protocol's decoder tells what is wrong
    return envelope.inputs is msgspec.UNSET or bytes(envelope.inputs).lstrip()[:1] != b"["


def decode(body: bytes, metadata: ModelMetadata, received_ns: int = 0) -> InferRequest:
    """Decode a flat request.

    Args:
        body: The JSON text.
        metadata: The model's; a key that names no input is a parameter.
        received_ns: When decoding began.

    Raises:
        InvalidRequestError: No key names an input, or a value does not fit its input.

    Shapes: A lone value fills an input of one element; a list fills the unknown sizes.
    """
    model = metadata.name
    try:
        fields: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            "body", expected="a JSON object", found=str(error), model=model
        ) from error
    given_id = fields.pop("id", None)
    parameters = fields.pop("parameters", None) or {}
    if not isinstance(parameters, dict) or not isinstance(given_id, str | None):
        raise InvalidRequestError(
            "body",
            expected="'parameters' to be an object and 'id' a string",
            found="other types",
            model=model,
        )
    inputs = [
        _decode_input(tensor, fields.pop(tensor.name), model)
        for tensor in metadata.inputs
        if tensor.name in fields
    ]
    if not inputs:
        names = ", ".join(f"'{tensor.name}'" for tensor in metadata.inputs) or "none"
        raise InvalidRequestError(
            "body",
            expected=f"a key for an input, which are {names}",
            found=", ".join(f"'{key}'" for key in fields) or "none",
            model=model,
        )
    parameters = {**parameters, **fields}
    json.refuse_unsendable(parameters, "parameters", model)
    return InferRequest(inputs, (), parameters, given_id or make_id(), received_ns)


def _decode_input(tensor: TensorMetadata, value: object, model: str) -> Tensor:
    count = _count(value, tensor.name, model)
    shape = list(tensor.shape)
    known = math.prod(size for size in shape if size >= 0)
    unknown = [index for index, size in enumerate(shape) if size < 0]
    if unknown:
        # the first unknown size takes what the others leave
        for index in unknown[1:]:
            shape[index] = 1
        shape[unknown[0]] = count // known if known else 0
    return json.decode_tensor(
        tensor.name, tensor.datatype, shape, value, field=tensor.name, model=model
    )


def _count(value: object, name: str, model: str, levels: int = MAX_DIMENSIONS) -> int:
    if not isinstance(value, list):
        return 1
    if not levels:
        raise InvalidRequestError(
            name, expected=f"at most {MAX_DIMENSIONS} levels", found="more", model=model
        )
    return sum(_count(each, name, model, levels - 1) for each in value)


def encode(response: InferResponse) -> bytes:
    """Encode a flat response: a lone element as a value, several as a list."""
    fields = msgspec.json.decode(json.encode_infer(response)[0])
    outputs = fields.pop("outputs")
    for output in outputs:
        data = output["data"]
        fields[output["name"]] = data[0] if len(data) == 1 else data
    return msgspec.json.encode(fields)
