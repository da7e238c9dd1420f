"""A model that merges requests, and tells of them in its log, its metrics and a path of its own."""

import threading

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
    route,
)


class Tallying:
    """Answers for each row how many rows were computed with it."""

    capabilities = Capabilities(row_wise=True)

    def __init__(self, context: ModelContext) -> None:
        self._logger = context.logger
        self._tallied = context.metrics.counter("rows_tallied", "Rows.", labels=["size"])
        self._lock = threading.Lock()
        self._rows = 0

    def load(self) -> None: ...

    def metadata(self) -> ModelMetadata:
        return ModelMetadata(
            platform="tallying",
            inputs=[TensorMetadata("x", Datatype.FP64, [-1])],
            outputs=[TensorMetadata("rows", Datatype.INT64, [-1])],
        )

    def infer(self, request: InferRequest) -> InferResponse:
        rows = len(request.input("x").array)
        self._logger.warning("tallied %d rows", rows)
        self._tallied.labels("small" if rows < 10 else "large").inc(rows)
        with self._lock:
            self._rows += rows
        return InferResponse([Tensor.from_array("rows", np.full(rows, rows))])

    @route("/tally", methods=["GET"])
    def tally(self) -> dict[str, int]:
        return {"rows": self._rows}

    @route("/same", methods=["POST"])
    async def same(self, request: InferRequest) -> InferResponse:
        return InferResponse([request.input("y")])

    def close(self) -> None: ...
