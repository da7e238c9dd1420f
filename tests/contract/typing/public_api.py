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
    SyncModel,
    SyncServer,
    Tensor,
    TensorMetadata,
    codecs,
    hookimpl,
)
from jackfield.client import AsyncClient, Client, InferResult, RepositoryEntry, Retries

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

# ---- codecs ----

assert_type(codecs.encode("x", ["a"], "str"), Tensor)
assert_type(codecs.decode(tensor, "np", field="inputs[0]"), object)
assert_type(codecs.choose(request, tensor, metadata, "np"), str)
assert_type(codecs.content_type_of(list[str]), str | None)
assert_type(codecs.encode_outputs({"a": [1]}, name="y"), list[Tensor])
assert_type(codecs.encode_request({"a": [1]}), InferRequest)
assert_type(codecs.encode_response({"a": [1]}), InferResponse)
assert_type(codecs.TENSOR_CONTENT_TYPES, tuple[str, ...])

# ---- the client ----

with Client("http://localhost:8080", retries=Retries(limit=0)) as client:
    assert_type(client.model("iris").infer(x=[1]), InferResult)
    assert_type(client.model("iris").infer(request)["y"], NDArray[Any])
    assert_type(client.model("iris").metadata(), ModelMetadata)
    assert_type(client.index(), list[RepositoryEntry])
    for part in client.model("story").stream(["once"]):
        assert_type(part, InferResult)


async def call_remote() -> None:
    """Call on an event loop."""
    async with AsyncClient("grpc://localhost:8081") as client:
        assert_type(await client.model("iris").infer(x=[1]), InferResult)
        async for part in client.model("story").stream(["once"]):
            assert_type(part, InferResult)


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
        assert_type(await model.infer(x=[[5.1, 3.5, 1.4, 0.2]]), InferResponse)
        assert_type((await model.infer(x=1)).arrays, dict[str, NDArray[Any]])
        async for response in model.stream(x=1):
            assert_type(response, InferResponse)
        await model.infer(request, x=1)  # type: ignore[call-overload]
        for line in await server.index():
            assert_type(line.name, str)
            assert_type(line.reason, str)


def embed_without_a_loop(server: Server) -> None:
    """Serve and infer in a script."""
    with server.sync() as twin:
        assert_type(twin, SyncServer)
        model = twin.model("iris")
        assert_type(model, SyncModel)
        assert_type(model.infer(x=[1.0]), InferResponse)
        assert_type(model.infer(request), InferResponse)
        for response in model.stream(request):
            assert_type(response, InferResponse)


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
