"""The values that pass between a shell, a model and a runtime.

Used by all layers; knows no wire form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from jackfield.errors import InvalidRequestError
from jackfield.tensor import Datatype, Tensor

__all__ = [
    "InferRequest",
    "InferResponse",
    "ModelMetadata",
    "Parameter",
    "Parameters",
    "RequestedOutput",
    "TensorMetadata",
    "Timing",
]

if TYPE_CHECKING:
    from numpy.typing import NDArray

    #: One parameter's value. gRPC carries the four scalars; JSON carries all.
    Parameter: TypeAlias = (
        "bool | int | float | str | Sequence[Parameter] | Mapping[str, Parameter] | None"
    )
else:
    Parameter = Any  # msgspec decodes no recursive type
#: Parameters of a request, a response or a tensor, by name.
Parameters: TypeAlias = Mapping[str, Parameter]


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output that the caller asks for by name."""

    name: str
    parameters: Parameters = {}


class InferRequest(msgspec.Struct, frozen=True, eq=False):
    """What a runtime is asked to compute.

    Invariant: the inputs' names differ from each other.
    """

    #: At least one tensor, in the caller's order.
    inputs: Sequence[Tensor]
    #: The outputs wanted; empty asks for the runtime's default ones.
    outputs: Sequence[RequestedOutput] = ()
    #: Parameters of the whole request.
    parameters: Parameters = {}
    #: The caller's id, echoed in the response; the shells make one where it is missing.
    id: str = ""
    #: When its shell began to decode it, by `time.perf_counter_ns`; 0 for one made in process.
    received_ns: int = 0
    #: When nobody waits for the answer any more, by the same clock; 0 for never. The parameter
    #: `timeout`, in microseconds since `received_ns`, may say an earlier time.
    deadline_ns: int = 0

    def input(self, name: str) -> Tensor:
        """Get an input by name.

        Raises:
            InvalidRequestError: There is none; the error names those that there are.
        """
        for tensor in self.inputs:
            if tensor.name == name:
                return tensor
        found = ", ".join(f"'{tensor.name}'" for tensor in self.inputs) or "none"
        raise InvalidRequestError("inputs", expected=f"an input named '{name}'", found=found)


class Timing(NamedTuple):
    """When a request was where, and in which company it was computed.

    Units: nanoseconds of `time.perf_counter_ns`, each not before the one above it.
    """

    #: A shell began to decode it; equals `arrived` where it was made in process.
    received: int
    #: The model got it.
    arrived: int
    #: The runtime began the call that answered it.
    started: int
    #: The runtime was done with that call.
    ended: int
    #: Rows in that call; requests in it, where the model is not row-wise.
    rows: int
    #: Requests in that call; 1 where it was computed alone.
    requests: int


class InferResponse(msgspec.Struct, frozen=True, eq=False):
    """What a runtime computed.

    A runtime gives `outputs` and perhaps `parameters`; the model adds the rest.
    """

    outputs: Sequence[Tensor]
    parameters: Parameters = {}
    model_name: str = ""
    #: Empty for an un-versioned model.
    model_version: str = ""
    id: str = ""
    #: Set by the model; None for what has not passed one.
    timing: Timing | None = None

    def output(self, name: str) -> Tensor:
        """Get an output by name.

        Raises:
            KeyError: There is none.
        """
        for tensor in self.outputs:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The outputs' arrays, by name."""
        return {tensor.name: tensor.array for tensor in self.outputs}


class TensorMetadata(msgspec.Struct, frozen=True):
    """Name, datatype and shape of an input or output.

    An input whose parameters hold ``"optional": true`` may be left out. With ``"any_shape": true``
    the shape is not known: tensors of any number of dimensions may pass.

    Shapes: -1 stands for any size.
    """

    name: str
    datatype: Datatype
    shape: Sequence[int]
    parameters: Parameters = {}


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes and gives.

    A runtime gives the platform, the tensors and perhaps parameters; the core adds the name and the
    versions that are served. An output whose parameters hold ``"on_request": true`` is computed
    only when a request asks for it.
    """

    name: str = ""
    versions: Sequence[str] = ()
    #: Framework and form, for example ``sklearn_joblib``.
    platform: str = ""
    inputs: Sequence[TensorMetadata] = ()
    outputs: Sequence[TensorMetadata] = ()
    parameters: Parameters = {}
