"""A model's configuration in Triton's form, for clients and tools that ask for it.

Source: Triton's model configuration extension; the field names of `ModelConfig`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jackfield.tensor import Datatype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jackfield.messages import ModelMetadata, TensorMetadata


def model_config(metadata: ModelMetadata, *, runtime: str, streams: bool) -> dict[str, object]:
    """Describe a model as Triton would.

    `max_batch_size` is 0, so that the dims are whole shapes: here a first dimension is nothing
    special on the wire.
    """
    return {
        "name": metadata.name,
        "platform": metadata.platform,
        "backend": runtime,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "input": _tensors(metadata.inputs),
        "output": _tensors(metadata.outputs),
        "model_transaction_policy": {"decoupled": streams},
    }


def _tensors(tensors: Sequence[TensorMetadata]) -> list[dict[str, object]]:
    return [
        {
            "name": tensor.name,
            "data_type": _data_type(tensor.datatype),
            "dims": list(tensor.shape),
        }
        for tensor in tensors
    ]


def _data_type(datatype: Datatype) -> str:
    return "TYPE_STRING" if datatype is Datatype.BYTES else f"TYPE_{datatype}"
