"""What an inference gives: arrays by name, and the whole response behind them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jackfield import codecs
from jackfield.tensor import Datatype

if TYPE_CHECKING:
    import pandas as pd

    from jackfield.messages import InferResponse
    from jackfield.tensor import Tensor


class InferResult(Mapping[str, NDArray[Any]]):
    """The outputs of an inference by name, each an array.

    BYTES elements are `bytes`; those that came as base64, for JSON has no other way, are unpacked.

    Args:
        response: The response as it came: its tensors, parameters, id, model and version.
    """

    def __init__(self, response: InferResponse) -> None:
        #: The response as it came.
        self.response = response
        self._tensors = {tensor.name: tensor for tensor in response.outputs}

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Get an output by name."""
        return _unpacked(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        """Yield the outputs' names, in the server's order."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Count the outputs."""
        return len(self._tensors)

    def decode(self, content_type: str = "") -> object:
        """Decode the outputs to what a content type stands for.

        Args:
            content_type: One of `jackfield.codecs`; empty takes the tags of response and outputs.

        Raises:
            InvalidRequestError: The content type is unknown, or an output does not fit it.
        """
        return codecs.decode_response(self.response, content_type)

    def to_frame(self) -> pd.DataFrame:
        """Give the outputs as columns of a DataFrame.

        Raises:
            InvalidRequestError: An output is no column, or pandas is not installed.
        """
        frame: pd.DataFrame = codecs.decode_response(self.response, "pd")
        return frame

    def __repr__(self) -> str:
        """Name the outputs with their datatypes and shapes."""
        outputs = ", ".join(
            f"{name}: {tensor.datatype} {list(tensor.shape)}"
            for name, tensor in self._tensors.items()
        )
        return f"<InferResult {outputs}>"


def _unpacked(tensor: Tensor) -> NDArray[Any]:
    is_base64 = tensor.parameters.get("content_type") == "base64"
    if tensor.datatype is not Datatype.BYTES or not is_base64:
        return tensor.array
    flat = np.empty(tensor.array.size, dtype=object)
    try:
        flat[:] = [
            base64.b64decode(each, validate=True) for each in tensor.array.reshape(-1).tolist()
        ]
    except binascii.Error:
        return tensor.array  # the tag was wrong: what came is told as it came
    return flat.reshape(tensor.shape)
