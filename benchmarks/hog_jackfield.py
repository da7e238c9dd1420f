"""A model that holds the GIL: one call into C, as long as was calibrated, for each predict.

Copied beside a `model-settings.json`, as own code of a user is.
"""

import os

from jackfield import Datatype, InferRequest, InferResponse, Tensor


class Hog:
    """Gives the first number of each row back, late."""

    def load(self) -> None:
        """Read how many numbers to add."""
        self._numbers = int(os.environ["HOG_NUMBERS"])

    def infer(self, request: InferRequest) -> InferResponse:
        """Hold the GIL, then answer."""
        sum(range(self._numbers))
        column = request.inputs[0].array[:, 0].copy()
        return InferResponse([Tensor("output-0", Datatype.FP64, column)])
