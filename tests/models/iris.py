"""A model that tells flowers apart by one petal's length, and notes beside it how it fares."""

import os
from pathlib import Path

import numpy as np

from jackfield import (
    Datatype,
    InferRequest,
    InferResponse,
    ModelContext,
    ModelMetadata,
    Tensor,
    TensorMetadata,
)

#: Where a petal is too long for the kind before, in centimetres.
_BOUNDS_CM = (2.5, 4.8)


class Iris:
    def __init__(self, context: ModelContext) -> None:
        self._log = Path(__file__).with_name("log")

    def load(self) -> None:
        self._note("load")

    def metadata(self) -> ModelMetadata:
        return ModelMetadata(
            platform="iris",
            inputs=[TensorMetadata("x", Datatype.FP64, [-1, 4])],
            outputs=[TensorMetadata("predict", Datatype.INT64, [-1])],
        )

    def infer(self, request: InferRequest) -> InferResponse:
        lengths = request.input("x").array[:, 2]
        kinds = np.digitize(lengths, _BOUNDS_CM)
        return InferResponse([Tensor.from_array("predict", kinds)], {"process": os.getpid()})

    def stream(self, request: InferRequest):
        for row in request.input("x").array:
            yield self.infer(InferRequest([Tensor.from_array("x", row[None])]))

    def close(self) -> None:
        self._note("close")

    def _note(self, what: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{what}\n")
