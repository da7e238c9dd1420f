"""The two models of `isolated.py`: one gives its input back, the other one number of it.

Copied beside a `model-settings.json`, as own code of a user is.
"""

import numpy as np

from jackfield import InferRequest, InferResponse, Tensor


class Echo:
    """Gives a new tensor of its input's size, as most models of images do."""

    def infer(self, request: InferRequest) -> InferResponse:
        """Add 1 to each number."""
        return InferResponse([Tensor.from_array("y", request.inputs[0].array + np.float32(1))])


class Reduce:
    """Gives little for much."""

    def infer(self, request: InferRequest) -> InferResponse:
        """Find the largest number."""
        return InferResponse([Tensor.from_array("y", request.inputs[0].array.max())])
