"""The ONNX plugin: what it brings, told without importing ONNX Runtime."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from jackfield import ArtifactFormat, Capabilities, RuntimeSpec, hookimpl

__all__ = ["OnnxOptions", "jackfield_runtimes"]


class OnnxOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What `parameters.extra` in a model's settings may hold."""

    intra_op_threads: Annotated[
        int,
        Meta(ge=0, description="Threads that compute one request; 0 leaves it to ONNX Runtime."),
    ] = 0
    row_wise: Annotated[
        bool,
        Meta(description="False for a model whose rows depend on each other."),
    ] = True


@hookimpl
def jackfield_runtimes() -> list[RuntimeSpec]:
    """Describe the ONNX runtime."""
    return [
        RuntimeSpec(
            name="onnx-example",
            runtime="jackfield_onnx_example._runtime:OnnxRuntime",
            artifacts=(ArtifactFormat("model.onnx"), ArtifactFormat("*.onnx")),
            # A session may be run by several threads, and holds no lock of Python meanwhile. The
            # runtime narrows the rows for a model that takes a fixed number of them.
            capabilities=Capabilities(row_wise=True, thread_safe=True, releases_gil=True),
            options=OnnxOptions,
            frameworks=("onnxruntime",),
        )
    ]
