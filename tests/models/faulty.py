"""A model that raises, or never returns, in the method that its settings name.

``parameters.extra`` holds, for example, ``{"load": "raises"}`` or ``{"close": "hangs"}``.
"""

import threading

from jackfield import InferRequest, InferResponse, ModelContext, ModelMetadata


class Faulty:
    def __init__(self, context: ModelContext) -> None:
        self._faults = context.settings.parameters.extra

    def load(self) -> None:
        self._misbehave("load")

    def metadata(self) -> ModelMetadata:
        return ModelMetadata(platform="faulty")

    def infer(self, request: InferRequest) -> InferResponse:
        self._misbehave("infer")
        return InferResponse(request.inputs)

    def close(self) -> None:
        self._misbehave("close")

    def _misbehave(self, method: str) -> None:
        fault = self._faults.get(method)
        if fault == "raises":
            message = f"a secret of {method}"
            raise ValueError(message)
        if fault == "hangs":
            threading.Event().wait()
