"""What a type checker must find for the public names; mypy reads this file, nothing runs it."""

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import jackfield
from jackfield import (
    ArtifactFormat,
    Capabilities,
    Datatype,
    Fault,
    InferRequest,
    InferResponse,
    InvalidRequestError,
    JackfieldError,
    ModelContext,
    ModelMetadata,
    ModelNotFoundError,
    ModelSettings,
    Parameter,
    Parameters,
    RequestedOutput,
    Runtime,
    RuntimeSpec,
    Server,
    ServerSettings,
    Tensor,
    TensorMetadata,
    hookimpl,
)

# ---- tensors and messages ----

tensor = Tensor.from_array("x", [[5.1, 3.5, 1.4, 0.2]])
assert_type(tensor, Tensor)
assert_type(tensor.name, str)
assert_type(tensor.datatype, Datatype)
assert_type(tensor.array, NDArray[Any])
assert_type(tensor.shape, tuple[int, ...])
assert_type(tensor.parameters, Mapping[str, Parameter])
assert_type(Datatype.of(np.dtype("f4")), Datatype)
assert_type(Datatype.FP32.dtype, np.dtype[Any])

request = InferRequest([tensor], outputs=[RequestedOutput("y")], parameters={"a": [1, "b", None]})
assert_type(request.inputs, Sequence[Tensor])
assert_type(request.outputs, Sequence[RequestedOutput])
assert_type(request.input("x"), Tensor)
assert_type(request.id, str)
assert_type(InferResponse([tensor]).output("y"), Tensor)

metadata = ModelMetadata(inputs=[TensorMetadata("x", Datatype.FP32, [-1, 4])])
assert_type(metadata.inputs, Sequence[TensorMetadata])
assert_type(metadata.inputs[0].shape, Sequence[int])

# ---- the server ----


async def embed(folder: Path) -> None:
    """Serve and infer in the same process."""
    settings = ServerSettings(http_port=0, drain_timeout_s=1.0)
    assert_type(settings.http_port, int)
    async with Server([folder, "other"], settings=settings, plugins=["sklearn"]) as server:
        assert_type(server, Server)
        assert_type(server.settings, ServerSettings)
        model = server.model("iris", "2")
        assert_type(model.metadata, ModelMetadata)
        assert_type(await model.infer(request), InferResponse)
        for line in await server.index():
            assert_type(line.name, str)
            assert_type(line.reason, str)


# ---- what a runtime's author writes ----


class Plain:
    """A runtime with a plain `infer`."""

    def __init__(self, context: ModelContext) -> None:
        assert_type(context.artifact, Path | None)
        assert_type(context.settings, ModelSettings)

    def load(self) -> None: ...

    def metadata(self) -> ModelMetadata:
        return ModelMetadata()

    def infer(self, request: InferRequest) -> InferResponse:
        return InferResponse(request.inputs)

    def close(self) -> None: ...


class Coroutine(Plain):
    """A runtime with a coroutine function."""

    async def infer(self, request: InferRequest) -> InferResponse:  # type: ignore[override]
        return InferResponse(request.inputs)


def construct(context: ModelContext) -> Sequence[Runtime]:
    """Inherit nothing: both are runtimes."""
    return [Plain(context), Coroutine(context)]


def call(runtime: Runtime) -> InferResponse | Awaitable[InferResponse]:
    """Give what `infer` gives."""
    return runtime.infer(request)


# a marked function keeps its type
@hookimpl
def jackfield_runtimes() -> Sequence[RuntimeSpec]:
    """Describe a runtime."""
    return [
        RuntimeSpec(
            name="onnx",
            runtime="jackfield_onnx._runtime:OnnxRuntime",
            artifacts=(ArtifactFormat("*.onnx"),),
            capabilities=Capabilities(row_wise=True),
        )
    ]


assert_type(jackfield_runtimes(), Sequence[RuntimeSpec])

# ---- errors ----

invalid = InvalidRequestError("inputs", expected="one", found="none")
assert_type(invalid.for_model("iris"), InvalidRequestError)
assert_type(invalid.fault, Fault)
assert_type(ModelNotFoundError("irsi", close=["iris"]).close, tuple[str, ...])
root: type[JackfieldError] = ModelNotFoundError
parameters: Parameters = {"deep": {"list": [1.5, True]}}

# what is refused: each ignore is an error of its own once it is no longer needed
Tensor.from_array("x", [1], {"a": 1})  # type: ignore[call-arg]
ServerSettings(port=8080)  # type: ignore[call-arg]
Capabilities(True)  # type: ignore[call-arg]
RuntimeSpec(name="onnx")  # type: ignore[call-arg]
typo = jackfield.Sever  # type: ignore[attr-defined]
