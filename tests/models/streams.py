"""Models that stream, and models that wait for something; none of them sleeps or polls."""

import asyncio
import os
from collections import defaultdict
from pathlib import Path

import numpy as np

from jackfield import (
    Datatype,
    InferRequest,
    InferResponse,
    InvalidRequestError,
    ModelContext,
    ModelMetadata,
    Tensor,
    TensorMetadata,
)


class Counting:
    """Counts from 0 to `n`; the parameters `refuse_at` and `fail_at` name where it stops."""

    def __init__(self, context: ModelContext) -> None: ...

    def load(self) -> None: ...

    def metadata(self) -> ModelMetadata:
        return ModelMetadata(
            platform="counting",
            inputs=[TensorMetadata("n", Datatype.INT64, [1])],
            outputs=[TensorMetadata("k", Datatype.INT64, [1])],
        )

    async def infer(self, request: InferRequest) -> InferResponse:
        return InferResponse([Tensor.from_array("k", request.input("n").array)])

    async def stream(self, request: InferRequest):
        for number in range(int(request.input("n").array[0])):
            if number == request.parameters.get("refuse_at"):
                raise InvalidRequestError("n", expected="less", found=str(number))
            if number == request.parameters.get("fail_at"):
                message = "a secret of stream"
                raise ValueError(message)
            yield InferResponse([Tensor.from_array("k", np.array([number]))])

    def close(self) -> None: ...


class Endless(Counting):
    """Answers once and then waits without end; writes to the FIFO beside it when it is cancelled.

    A test has the FIFO open before, so that writing waits for nobody.
    """

    def __init__(self, context: ModelContext) -> None:
        self._fifo = Path(__file__).with_name("cancelled")

    async def infer(self, request: InferRequest) -> InferResponse:
        try:
            self._note(f"running {request.id}")
            await asyncio.Event().wait()
        finally:
            self._note(f"cancelled {request.id}")
        return InferResponse([])

    async def stream(self, request: InferRequest):
        try:
            yield InferResponse([Tensor.from_array("k", np.array([0]))])
            await asyncio.Event().wait()
        finally:
            self._note(f"cancelled {request.id}")

    def _note(self, text: str) -> None:
        descriptor = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, f"{text}\n".encode())
        finally:
            os.close(descriptor)


class Meeting(Counting):
    """Answers a request once the one whose id its parameter `waits_for` holds has arrived too."""

    def __init__(self, context: ModelContext) -> None:
        self._arrived: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def infer(self, request: InferRequest) -> InferResponse:
        self._arrived[request.id].set()
        if other := request.parameters.get("waits_for"):
            await self._arrived[str(other)].wait()
        return await super().infer(request)

    stream = None
