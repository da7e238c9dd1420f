"""Make a request that a model accepts, and the form of its answer, from its metadata alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jackfield.tensor import Datatype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jackfield.messages import ModelMetadata, TensorMetadata

#: Most elements of an example: nobody reads or pastes a picture as numbers.
_MOST_ELEMENTS = 4096


def example_request(metadata: ModelMetadata) -> dict[str, object] | None:
    """Make the JSON form of a one-row request.

    A tensor's parameter ``example`` holds its data, flat, or a lone value for each element. Without
    one numbers are 0, and text is the first of its ``categories`` where it has them.

    Returns:
        The request's body; None for a model that declares no inputs, or whose inputs are too large
        for an example or have no JSON form.
    """
    tensors = _tensors(_needed_inputs(metadata))
    return {"inputs": tensors} if tensors else None


def example_flat_request(metadata: ModelMetadata) -> dict[str, object] | None:
    """Make the same request in Triton's flat form; None as for `example_request`."""
    return _flat(_tensors(_needed_inputs(metadata))) or None


def example_response(metadata: ModelMetadata, version: str) -> dict[str, object] | None:
    """Make the form of the answer to such a request: true names and shapes, made-up values.

    Returns:
        The response's body with the outputs that are computed unasked; None as for
        `example_request`, of the outputs.
    """
    tensors = _tensors(_default_outputs(metadata))
    return {**_head(metadata, version), "outputs": tensors} if tensors else None


def example_flat_response(metadata: ModelMetadata, version: str) -> dict[str, object] | None:
    """Make the same answer in Triton's flat form; None as for `example_response`."""
    fields = _flat(_tensors(_default_outputs(metadata)))
    return {**_head(metadata, version), **fields} if fields else None


def _head(metadata: ModelMetadata, version: str) -> dict[str, object]:
    named: dict[str, object] = {"model_name": metadata.name}
    return named | ({"model_version": version} if version else {}) | {"id": "1"}


def _needed_inputs(metadata: ModelMetadata) -> list[TensorMetadata]:
    """Leave out the optional inputs, unless there are no others: a request has one at least."""
    needed = [each for each in metadata.inputs if not each.parameters.get("optional", False)]
    return needed or list(metadata.inputs[:1])


def _default_outputs(metadata: ModelMetadata) -> list[TensorMetadata]:
    return [each for each in metadata.outputs if not each.parameters.get("on_request", False)]


def _tensors(tensors: Sequence[TensorMetadata]) -> list[dict[str, object]]:
    """Make all tensors, or none where one can't be made."""
    elements = sum(math.prod(_shape(tensor)) for tensor in tensors)
    if elements > _MOST_ELEMENTS or any(each.datatype is Datatype.BF16 for each in tensors):
        return []
    return [_tensor(tensor) for tensor in tensors]


def _shape(tensor: TensorMetadata) -> list[int]:
    return [1 if size < 0 else size for size in tensor.shape]


def _tensor(tensor: TensorMetadata) -> dict[str, object]:
    shape = _shape(tensor)
    return {
        "name": tensor.name,
        "shape": shape,
        "datatype": tensor.datatype,
        "data": _data(tensor, math.prod(shape)),
    }


def _data(tensor: TensorMetadata, count: int) -> list[object]:
    given = tensor.parameters.get("example")
    if isinstance(given, list | tuple) and len(given) == count:
        return list(given)
    return [_element(tensor)] * count


def _element(tensor: TensorMetadata) -> object:
    given = tensor.parameters.get("example")
    if isinstance(given, bool | int | float | str):
        return given
    if tensor.datatype is Datatype.BYTES:
        categories = tensor.parameters.get("categories")
        return categories[0] if isinstance(categories, list | tuple) and categories else "text"
    if tensor.datatype is Datatype.BOOL:
        return False
    return 0.0 if tensor.datatype in _FLOATS else 0


def _flat(tensors: Sequence[dict[str, object]]) -> dict[str, object]:
    """Key each tensor's data by its name, a lone element as it is."""
    fields: dict[str, object] = {}
    for tensor in tensors:
        data = tensor["data"]
        if isinstance(data, list) and len(data) == 1:
            (data,) = data
        fields[str(tensor["name"])] = data
    return fields


_FLOATS = (Datatype.FP16, Datatype.FP32, Datatype.FP64)
