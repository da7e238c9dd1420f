"""Make a request that a model accepts, from its metadata alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jackfield.tensor import Datatype

if TYPE_CHECKING:
    from jackfield.messages import ModelMetadata, TensorMetadata


def example_request(metadata: ModelMetadata) -> dict[str, object] | None:
    """Make the JSON form of a one-row request.

    Numbers are 0, text is the first of the tensor's ``categories`` where its metadata has them.

    Returns:
        The request's body; None for a model that declares no inputs.
    """
    if not metadata.inputs:
        return None
    return {"inputs": [_tensor(tensor) for tensor in metadata.inputs]}


def _tensor(tensor: TensorMetadata) -> dict[str, object]:
    shape = [1 if size < 0 else size for size in tensor.shape]
    value: object = 0.0 if tensor.datatype in _FLOATS else 0
    if tensor.datatype is Datatype.BOOL:
        value = False
    elif tensor.datatype is Datatype.BYTES:
        categories = tensor.parameters.get("categories")
        value = categories[0] if isinstance(categories, list | tuple) and categories else "text"
    return {
        "name": tensor.name,
        "shape": shape,
        "datatype": tensor.datatype,
        "data": [value] * math.prod(shape),
    }


_FLOATS = (Datatype.FP16, Datatype.FP32, Datatype.FP64)
