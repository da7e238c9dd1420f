"""The small model in BentoML: a service with one route, as its users write it.

Run inside its own environment, `MODEL` in the variable: `bentoml serve app_bentoml:Iris`.
"""

import os

import bentoml  # type: ignore[import-not-found]
import joblib


@bentoml.service
class Iris:
    """The model, loaded once in each worker."""

    def __init__(self) -> None:
        self._model = joblib.load(os.environ["MODEL"])

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, rows: list[list[float]]) -> dict[str, list[int]]:
        """Answer `{"rows": …}` with `{"labels": …}`."""
        return {"labels": self._model.predict(rows).tolist()}
