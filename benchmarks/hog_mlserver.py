"""The model of `hog_jackfield.py` as MLServer's users write it."""

import os

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class Hog(MLModel):  # type: ignore[misc]
    """Gives the first number of each row back, late."""

    async def load(self) -> bool:
        """Read how many numbers to add."""
        self._numbers = int(os.environ["HOG_NUMBERS"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Hold the GIL, then answer."""
        sum(range(self._numbers))
        rows = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("output-0", rows[:, 0])
        return InferenceResponse(model_name=self.name, outputs=[output])
