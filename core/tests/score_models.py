"""Models for the tests of batch scoring, put into folders as own code; copied, never imported."""

import os
import threading

import numpy as np

from jackfield import (
    Capabilities,
    Datatype,
    InferResponse,
    InvalidRequestError,
    ModelMetadata,
    ModelNotReadyError,
    Tensor,
    TensorMetadata,
)

ROWS = Capabilities(row_wise=True, thread_safe=True, releases_gil=True)


class Sum:
    """Adds two columns; knows no 13, and takes a whole batch that has one for unlucky."""

    capabilities = ROWS

    def metadata(self):
        a = TensorMetadata("a", Datatype.FP64, [-1])
        b = TensorMetadata("b", Datatype.INT32, [-1])
        y = TensorMetadata("y", Datatype.FP64, [-1])
        parts = TensorMetadata("parts", Datatype.FP64, [-1, 2], {"on_request": True})
        return ModelMetadata(platform="test", inputs=[a, b], outputs=[y, parts])

    def infer(self, request):
        a, b = request.input("a").array, request.input("b").array
        if (a == 13).any():
            message = "13 is unlucky"
            raise ValueError(message)
        made = {"y": a + b, "parts": np.stack([a, b], axis=1)}
        names = [each.name for each in request.outputs] or ["y"]
        return InferResponse([Tensor.from_array(name, made[name]) for name in names])


class Single(Sum):
    """Allows one call at a time, and says so if there are two."""

    capabilities = Capabilities(row_wise=True)

    def __init__(self):
        self.lock = threading.Lock()

    def infer(self, request):
        assert self.lock.acquire(blocking=False)
        try:
            return super().infer(request)
        finally:
            self.lock.release()


class Coroutine(Sum):
    async def infer(self, request):
        return super().infer(request)


class Stuck(Sum):
    """Stops for ever at row 700 where the environment names a file to tell it to."""

    def infer(self, request):
        told = os.environ.get("TEST_STUCK")
        if told and (request.input("a").array == 700).any():
            with open(told, "w") as file:  # a pipe, whose other end the test reads
                file.write("stuck")
            threading.Event().wait()
        return super().infer(request)


class Matrix:
    capabilities = ROWS

    def metadata(self):
        x = TensorMetadata("x", Datatype.FP32, [-1, 2])
        return ModelMetadata(inputs=[x], outputs=[TensorMetadata("y", Datatype.FP32, [-1, 1])])

    def infer(self, request):
        array = request.input("x").array
        assert array.dtype == np.float32
        assert array.shape[1] == 2
        return InferResponse([Tensor.from_array("y", array.sum(axis=1, keepdims=True))])


class NamedMatrix(Matrix):
    def metadata(self):
        told = super().metadata()
        x = TensorMetadata("x", Datatype.FP32, [-1, 2], {"columns": ["a", "b"]})
        return ModelMetadata(inputs=[x], outputs=told.outputs)


class AnyMatrix(Matrix):
    """Takes any width; gives it back."""

    def metadata(self):
        x = TensorMetadata("x", Datatype.FP64, [-1, -1])
        return ModelMetadata(inputs=[x], outputs=[TensorMetadata("x2", Datatype.FP64, [-1, -1])])

    def infer(self, request):
        return InferResponse([Tensor.from_array("x2", 2 * request.input("x").array)])


class Open:
    """Tells neither inputs nor outputs."""

    capabilities = ROWS

    def infer(self, request):
        assert isinstance(request.inputs[0].array, np.ndarray)
        return InferResponse(
            [Tensor(f"{each.name}_again", each.datatype, each.array) for each in request.inputs]
        )

    def metadata(self):
        return ModelMetadata(platform="test")


class Kinds:
    """Gives each of its inputs back; refuses a missing text."""

    capabilities = ROWS

    def __init__(self):
        self.told = {
            "number": Datatype.FP32,
            "small": Datatype.INT8,
            "truth": Datatype.BOOL,
            "text": Datatype.BYTES,
        }

    def metadata(self):
        inputs = [TensorMetadata(name, each, [-1]) for name, each in self.told.items()]
        outputs = [TensorMetadata(f"{each.name}_2", each.datatype, [-1]) for each in inputs]
        return ModelMetadata(inputs=inputs, outputs=outputs)

    def infer(self, request):
        for index, each in enumerate(request.inputs):
            if each.parameters.get("content_type") == "pd_json":
                raise InvalidRequestError(f"inputs[{index}]", expected="text", found="null")
            if each.datatype is not self.told[each.name]:
                raise InvalidRequestError(
                    f"inputs[{index}].datatype",
                    expected=str(self.told[each.name]),
                    found=str(each.datatype),
                )
        return InferResponse(
            [Tensor(f"{each.name}_2", each.datatype, each.array) for each in request.inputs]
        )


class Nullable:
    """Tells which values are missing; a missing whole number comes as NaN among floats."""

    capabilities = ROWS

    def metadata(self):
        a = TensorMetadata("a", Datatype.INT64, [-1])
        return ModelMetadata(inputs=[a], outputs=[TensorMetadata("y", Datatype.BYTES, [-1])])

    def infer(self, request):
        array = request.input("a").array
        made = [b"none" if each != each else str(each).encode() for each in array.tolist()]
        return InferResponse([Tensor.from_array("y", made)])


class Strict(Nullable):
    def metadata(self):
        told = super().metadata()
        a = TensorMetadata("a", Datatype.INT64, [-1], {"nullable": False})
        return ModelMetadata(inputs=[a], outputs=told.outputs)


class Scale(Sum):
    def infer(self, request):
        y = request.input("a").array * request.parameters["factor"]
        return InferResponse([Tensor.from_array("y", y)])


class Shape(Sum):
    """Answers one row, whatever it is asked."""

    def infer(self, request):
        return InferResponse([Tensor.from_array("y", [1.0])])


class Gone(Sum):
    def infer(self, request):
        raise ModelNotReadyError("gone", "", reason="its process died")


class Dependent(Sum):
    capabilities = Capabilities()


class Remembers(Sum):
    capabilities = Capabilities(row_wise=True, stateful=True)


class OneRow(Sum):
    def metadata(self):
        a = TensorMetadata("a", Datatype.FP64, [1, 4])
        return ModelMetadata(inputs=[a], outputs=[TensorMetadata("y", Datatype.FP64, [-1])])


class Broken(Sum):
    def load(self):
        message = "the file is corrupt"
        raise OSError(message)


class Binary(Sum):
    """Gives bytes that are no text where a is 5."""

    def metadata(self):
        a = TensorMetadata("a", Datatype.FP64, [-1])
        return ModelMetadata(inputs=[a], outputs=[TensorMetadata("y", Datatype.BYTES, [-1])])

    def infer(self, request):
        made = [b"\xff" if each == 5 else b"fine" for each in request.input("a").array.tolist()]
        return InferResponse([Tensor.from_array("y", made)])
