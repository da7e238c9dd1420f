"""The models of the chaos run; each answer tells whether it is right, and of which generation."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import numpy as np

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

#: A row that begins with it ends the process that computes it.
POISON = -1.0


class Doubled:
    """Gives ``y = 2 x + generation``; the generation is read from a file when the model loads."""

    capabilities = Capabilities(row_wise=True)

    def __init__(self, context: ModelContext) -> None:
        self._context = context

    def load(self) -> None:
        artifact = self._context.artifact
        self._generation = float((artifact / "generation").read_text() if artifact else 0)

    def metadata(self) -> ModelMetadata:
        x = TensorMetadata("x", Datatype.FP64, [-1, -1])
        return ModelMetadata(
            platform="chaos", inputs=[x], outputs=[TensorMetadata("y", x.datatype, x.shape)]
        )

    def infer(self, request: InferRequest) -> InferResponse:
        x = request.inputs[0].array
        return InferResponse([Tensor.from_array("y", 2 * x + self._generation)])

    def stream(self, request: InferRequest) -> Iterator[InferResponse]:
        for row in request.inputs[0].array:
            yield Doubled.infer(self, InferRequest([Tensor.from_array("x", row[None])]))

    def close(self) -> None: ...


class Slow(Doubled):
    """Takes its time, so that calls are under way when a fault comes."""

    async def infer(self, request: InferRequest) -> InferResponse:
        await asyncio.sleep(0.3)
        return super().infer(request)

    async def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:
        for response in super().stream(request):
            await asyncio.sleep(0.15)
            yield response


class Fragile(Doubled):
    """Dies of one input, as a framework that reads beyond its memory does."""

    def infer(self, request: InferRequest) -> InferResponse:
        if np.any(request.inputs[0].array[:, 0] == POISON):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().infer(request)


class Caller(Doubled):
    """Has another model of its server compute."""

    def infer(self, request: InferRequest) -> InferResponse:
        peer = self._context.model(self._context.settings.parameters.extra["target"])
        answer = peer.infer(InferRequest(request.inputs))
        return InferResponse([Tensor.from_array("y", answer.arrays["y"])])

    def stream(self, request: InferRequest) -> Iterator[InferResponse]:
        yield self.infer(request)
