"""Models that tell, as JSON text, what reached them beside the tensors' data."""

import json

from jackfield import (
    Capabilities,
    Datatype,
    InferRequest,
    InferResponse,
    ModelContext,
    ModelMetadata,
    Tensor,
    TensorMetadata,
)


class Told:
    """Answers the parameters of the request, of its inputs and of the outputs asked for."""

    def __init__(self, context: ModelContext) -> None: ...

    def load(self) -> None: ...

    def metadata(self) -> ModelMetadata:
        return ModelMetadata(
            platform="told",
            inputs=[TensorMetadata("x", Datatype.BYTES, [-1])],
            outputs=[TensorMetadata("told", Datatype.BYTES, [1])],
        )

    async def infer(self, request: InferRequest) -> InferResponse:
        told = {
            "request": request.parameters,
            "inputs": {tensor.name: tensor.parameters for tensor in request.inputs},
            "outputs": {output.name: output.parameters for output in request.outputs},
        }
        return InferResponse([Tensor.from_array("told", [json.dumps(told)])])

    def close(self) -> None: ...


class Listening(Told):
    """Gets the caller's headers, and answers the one named `x-question` as a header of its own."""

    capabilities = Capabilities(reads_headers=True)

    async def infer(self, request: InferRequest) -> InferResponse:
        told = await super().infer(request)
        question = request.parameters["headers"].get("x-question", "none")
        return InferResponse(told.outputs, {"headers": {"x-answer": f"to {question}"}})

    async def stream(self, request: InferRequest):
        yield await self.infer(request)


class Deaf(Told):
    """Declares nothing, so that it gets no headers."""
