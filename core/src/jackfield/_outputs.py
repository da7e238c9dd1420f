"""Give the caller the outputs asked for, in that order, classified where that is asked.

Source: Open Inference Protocol v2, "Request Output"; Triton's classification extension.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield.errors import InvalidRequestError
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield.messages import ModelMetadata, RequestedOutput


def select_outputs(
    requested: Sequence[RequestedOutput], computed: Sequence[Tensor], metadata: ModelMetadata
) -> Sequence[Tensor]:
    """Pick the requested outputs out of the computed ones.

    Raises:
        LookupError: The runtime left out one that its metadata promises.
        InvalidRequestError: A classification is asked of an output that has none.
    """
    if [tensor.name for tensor in computed] != [output.name for output in requested]:
        by_name = {tensor.name: tensor for tensor in computed}
        missing = [output.name for output in requested if output.name not in by_name]
        if missing:
            message = f"its metadata promise the outputs {missing}, which it did not give"
            raise LookupError(message)
        computed = [by_name[output.name] for output in requested]
    if not any("classification" in output.parameters for output in requested):
        return computed
    return [
        _classify(tensor, output.parameters["classification"], metadata, index)
        if "classification" in output.parameters
        else tensor
        for index, (tensor, output) in enumerate(zip(computed, requested, strict=True))
    ]


def _classify(tensor: Tensor, wanted: object, metadata: ModelMetadata, index: int) -> Tensor:
    """Turn scores into the best classes, as ``value:index`` or ``value:index:label``.

    Shapes: [batch, classes] becomes [batch, k]; [classes] becomes [k].
    """
    array = tensor.array
    field = f"outputs[{index}].parameters.classification"
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise InvalidRequestError(field, expected="an integer of 1 or more", found=repr(wanted))
    if tensor.datatype is Datatype.BYTES or array.ndim not in (1, 2):
        raise InvalidRequestError(
            field,
            expected="an output of numbers with one or two dimensions",
            found=f"{tensor.datatype} of shape {list(array.shape)}",
        )
    labels: object = None
    for output in metadata.outputs:
        if output.name == tensor.name:
            labels = output.parameters.get("classes")
    # sizes are spelt out: of an empty array NumPy can't tell an unknown one
    rows = array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :wanted]
    texts = [
        _text(rows, row, int(column), labels) for row in range(len(rows)) for column in best[row]
    ]
    flat = np.empty(len(texts), dtype=object)
    flat[:] = texts
    classes = flat.reshape(*array.shape[:-1], best.shape[1])
    return Tensor(tensor.name, Datatype.BYTES, classes, tensor.parameters)


def _text(rows: NDArray[Any], row: int, column: int, labels: object) -> bytes:
    text = f"{rows[row, column]}:{column}"
    if isinstance(labels, list | tuple) and column < len(labels):
        text += f":{labels[column]}"
    return text.encode()
