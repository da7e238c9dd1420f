"""A model whose requests wait at a gate, until a test opens it.

The gate is a FIFO beside this file: who opens it for reading waits for somebody to open it for
writing, so that nothing here polls or sleeps.
"""

from pathlib import Path

from jackfield import InferRequest, InferResponse, ModelContext, ModelMetadata


class Gate:
    def __init__(self, context: ModelContext) -> None:
        self._fifo = Path(__file__).with_name("gate")

    def load(self) -> None: ...

    def metadata(self) -> ModelMetadata:
        return ModelMetadata(platform="gate")

    def infer(self, request: InferRequest) -> InferResponse:
        with self._fifo.open("rb"):
            return InferResponse(request.inputs)

    def close(self) -> None: ...
