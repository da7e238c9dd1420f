"""A request that is nothing but one tensor's bytes.

Source: Triton's binary tensor data extension, "Raw Binary Request".
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from jackfield._wire.ids import make_id
from jackfield._wire.json import ResponseForm
from jackfield._wire.raw import decode_raw
from jackfield.errors import InvalidRequestError
from jackfield.messages import InferRequest
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from jackfield.messages import ModelMetadata

#: Outputs come back in binary form.
_ALL_BINARY = ResponseForm(is_binary=True)


def decode_raw_request(
    body: bytes, metadata: ModelMetadata, received_ns: int = 0
) -> tuple[InferRequest, ResponseForm]:
    """Decode a body that is the model's one input.

    Raises:
        InvalidRequestError: The model has several inputs or several unknown sizes, or the bytes
            don't fit.

    Shapes: One size may be unknown; it follows from the number of bytes. BYTES is one element.
    """
    model = metadata.name
    if len(metadata.inputs) != 1:
        raise InvalidRequestError(
            "Inference-Header-Content-Length",
            expected="a JSON text: only a model with one input takes a raw body",
            found=f"0 for a model with {len(metadata.inputs)}",
            model=model,
        )
    given = metadata.inputs[0]
    unknown = [size for size in given.shape if size < 0]
    known = math.prod(size for size in given.shape if size >= 0)
    if given.datatype is Datatype.BYTES:
        if known != 1:
            raise _unfit(given.shape, model)
        shape = [1 if size < 0 else size for size in given.shape]
        # the body is the element itself; the binary form has its length in front
        body = struct.pack("<I", len(body)) + body
    else:
        if len(unknown) > 1:
            raise _unfit(given.shape, model)
        itemsize = 2 if given.datatype is Datatype.BF16 else given.datatype.dtype.itemsize
        rows = len(body) // (known * itemsize) if known else 0
        shape = [rows if size < 0 else size for size in given.shape]
    array = decode_raw(body, given.datatype, shape, field="body", model=model)
    request = InferRequest(
        [Tensor(given.name, given.datatype, array)], (), {}, make_id(), received_ns
    )
    return request, _ALL_BINARY


def _unfit(shape: object, model: str) -> InvalidRequestError:
    return InvalidRequestError(
        "Inference-Header-Content-Length",
        expected="a JSON text: a raw body can't tell the sizes of this model's input",
        found=f"0 for an input of shape {shape}",
        model=model,
    )
