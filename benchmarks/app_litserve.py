"""The small model in LitServe, as its users write it.

Run inside its own environment: `python app_litserve.py MODEL PORT`.
"""

import sys

import joblib
import litserve  # type: ignore[import-not-found]
import numpy as np
from numpy.typing import NDArray


class Iris(litserve.LitAPI):  # type: ignore[misc]
    """Answers `{"rows": …}` with `{"labels": …}`."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self._model = joblib.load(sys.argv[1])

    def decode_request(self, request: dict[str, list[list[float]]]) -> list[list[float]]:
        """Give the rows."""
        return request["rows"]

    def predict(self, x: list[list[float]]) -> NDArray[np.int64]:
        """Give the labels."""
        labels: NDArray[np.int64] = self._model.predict(x)
        return labels

    def encode_response(self, output: NDArray[np.int64]) -> dict[str, list[int]]:
        """Wrap the labels."""
        return {"labels": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Iris(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False)
