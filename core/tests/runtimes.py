"""Runtimes that tests put into model folders as the models' own code; copied, never imported."""

import asyncio
import importlib
import sys
import threading
import time

import numpy as np

from jackfield import (
    Capabilities,
    Datatype,
    InferResponse,
    InvalidRequestError,
    ModelLoadError,
    ModelMetadata,
    Tensor,
    TensorMetadata,
)

FACTOR = 2


class Double:
    """Gives every number twice."""

    def __init__(self, context):
        self.context = context

    def load(self):
        pass

    def metadata(self):
        x = TensorMetadata("x", Datatype.FP64, [-1])
        y = TensorMetadata("y", Datatype.FP64, [-1], {"on_request": False})
        return ModelMetadata(platform="test_double", inputs=[x], outputs=[y])

    def infer(self, request):
        array = request.inputs[0].array
        return InferResponse([Tensor.from_array("y", array * array.dtype.type(FACTOR))])

    def close(self):
        pass


class AsyncDouble(Double):
    async def infer(self, request):
        await asyncio.sleep(0)
        return super().infer(request)


class Echo(Double):
    """Gives back what it gets; declares no tensors."""

    def metadata(self):
        return ModelMetadata(platform="test_echo")

    def infer(self, request):
        return InferResponse(request.inputs, request.parameters)


class ThreadName(Echo):
    def infer(self, request):
        name = threading.current_thread().name
        return InferResponse([Tensor.from_array("thread", [name])])


class AsyncThreadName(Echo):
    async def infer(self, request):
        return ThreadName.infer(self, request)


class Staged(Double):
    """Does what the test's `stage` says, and writes down what happens to it."""

    def __init__(self, context):
        super().__init__(context)
        self.stage = importlib.import_module("stage")
        self.tag = str(context.settings.parameters.extra.get("tag", context.version))

    def load(self):
        self.stage.loading.release()
        assert self.stage.may_load.wait(20)
        self.stage.log.append(f"load {self.tag}")

    def infer(self, request):
        number = request.inputs[0].array.flat[0]
        self.stage.log.append(f"infer {number:g}")
        self.stage.inferring.release()
        assert self.stage.may_answer.wait(20)
        self.stage.log.append(f"answer {number:g}")
        return InferResponse([Tensor.from_array("y", [self.tag])])

    def close(self):
        self.stage.log.append(f"close {self.tag}")


class Parallel(Staged):
    capabilities = Capabilities(thread_safe=True, releases_gil=True)


class Rows(Staged):
    """Answers each row's sum, when the stage lets it; refuses a batch with a negative number."""

    capabilities = Capabilities(row_wise=True)

    def metadata(self):
        return ModelMetadata(inputs=[TensorMetadata("x", Datatype.FP64, [-1, -1])])

    def infer(self, request):
        self.stage.calls.append(request)
        self.stage.inferring.release()
        assert self.stage.may_answer.wait(20)
        return self.answer(request)

    def answer(self, request):
        array = request.inputs[0].array
        if array.size and array.min() < 0:
            message = "a negative number"
            raise ValueError(message)
        headers = request.parameters.get("headers", {})
        shared = {key: value for key, value in request.parameters.items() if key != "headers"}
        shared |= {"user": headers["x-user"]} if "x-user" in headers else {}
        return InferResponse([Tensor.from_array("y", array.sum(axis=-1))], shared)


class AsyncRows(Rows):
    async def infer(self, request):
        self.stage.calls.append(request)
        self.stage.inferring.release()
        assert await asyncio.to_thread(self.stage.may_answer.wait, 20)
        return self.answer(request)


class HeaderRows(Rows):
    capabilities = Capabilities(row_wise=True, reads_headers=True)


class Moody(Rows):
    """Computes for as many milliseconds as the stage says; writes down in which thread."""

    def infer(self, request):
        ends = time.thread_time_ns() + self.stage.busy_ms * 1_000_000
        self.stage.log.append(threading.current_thread().name)
        while time.thread_time_ns() < ends:
            pass
        return self.answer(request)


class Failing(Echo):
    """Raises on every request what its settings name."""

    def infer(self, request):
        kind = self.context.settings.parameters.extra.get("raises", "ValueError")
        if kind == "InvalidRequestError":
            raise InvalidRequestError("inputs[0].data", expected="even numbers", found="an odd one")
        raise getattr(importlib.import_module("builtins"), kind)("the password is swordfish")


class Junk(Echo):
    """Answers what is no response."""

    def infer(self, request):
        return self.context.settings.parameters.extra.get("answer")


class Unencodable(Echo):
    """Answers a tensor that breaks the tensors' invariant."""

    def infer(self, request):
        return InferResponse([Tensor("swordfish", Datatype.BYTES, np.array([1, 2], dtype=object))])


class Binary(Echo):
    """Answers bytes that are no text."""

    def infer(self, request):
        return InferResponse([Tensor.from_array("y", [b"\xff\x00", b"ab"])])


class BrokenOnLoad(Double):
    def load(self):
        message = "the file is corrupt"
        raise OSError(message)


class RefusesToLoad(Double):
    def load(self):
        message = "needs another file"
        raise ModelLoadError(message)


class ExitsOnLoad(Double):
    def load(self):
        sys.exit("goodbye")


class JunkMetadata(Double):
    def metadata(self):
        return {"inputs": []}

    def close(self):
        importlib.import_module("stage").log.append("close junk")


class JunkCapabilities(Double):
    capabilities = ("thread_safe",)


class Stateful(Double):
    capabilities = Capabilities(stateful=True)


class NoModel:
    def __init__(self, context):
        pass
