"""Serve one ONNX model with ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as failures

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
from jackfield_onnx_example import OnnxOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from jackfield import InferRequest, ModelContext

#: ONNX Runtime's names of the types that NumPy holds too.
_DATATYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}


class OnnxRuntime:
    """One session; its inputs and outputs are the model's own."""

    #: What the spec declares, less what this model does not do; known after `load`.
    capabilities: Capabilities

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        options = context.options
        self._options = options if isinstance(options, OnnxOptions) else OnnxOptions()
        self._session: Any = None

    def load(self) -> None:
        """Make the session, and read from it what goes in and what comes out."""
        if self._context.artifact is None:
            raise ModelLoadError("it has no artifact; set 'parameters.uri' to its .onnx file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._options.intra_op_threads
        self._session = onnxruntime.InferenceSession(
            str(self._context.artifact), options, providers=["CPUExecutionProvider"]
        )
        inputs = {each.name: _describe(each) for each in self._session.get_inputs()}
        unknown = [name for name, found in inputs.items() if found is None]
        if unknown:
            raise ModelLoadError(
                f"its input '{unknown[0]}' has a type that can't be sent; "
                f"known are: {', '.join(_DATATYPES)}"
            )
        self._inputs = {name: found for name, found in inputs.items() if found is not None}
        self._symbols = {each.name: tuple(each.shape) for each in self._session.get_inputs()}
        self._outputs: dict[str, TensorMetadata] = {}
        for each in self._session.get_outputs():
            described = _describe(each)
            if described is None:
                text = "its output '%s' is %s, not a tensor that can be sent: it is left out"
                self._context.logger.warning(text, each.name, each.type)
            else:
                self._outputs[each.name] = described
        if not self._outputs:
            raise ModelLoadError("none of its outputs is a tensor that can be sent")
        tensors = [*self._inputs.values(), *self._outputs.values()]
        self.capabilities = Capabilities(
            row_wise=self._options.row_wise and _has_free_rows(tensors),
            thread_safe=True,
            releases_gil=True,
        )

    def metadata(self) -> ModelMetadata:
        """Say what the session says; -1 where a size is free."""
        return ModelMetadata(
            platform="onnxruntime_onnx",
            inputs=list(self._inputs.values()),
            outputs=list(self._outputs.values()),
        )

    def infer(self, request: InferRequest) -> InferResponse:
        """Run the session for the outputs asked for."""
        given = {tensor.name: tensor for tensor in request.inputs}
        if given.keys() != self._inputs.keys():
            raise InvalidRequestError(
                "inputs", expected=_quoted(self._inputs), found=_quoted(given)
            )
        feed = {name: _read(given[name], wanted) for name, wanted in self._inputs.items()}
        self._check_sizes(feed)
        names = [output.name for output in request.outputs] or list(self._outputs)
        try:
            found = self._session.run(names, feed)
        except failures.InvalidArgument as error:
            first = str(error).partition("\n")[0]
            raise InvalidRequestError("inputs", expected="what it takes", found=first) from error
        return InferResponse(
            [Tensor.from_array(name, array) for name, array in zip(names, found, strict=True)]
        )

    def _check_sizes(self, feed: dict[str, NDArray[Any]]) -> None:
        """Refuse inputs that differ in a size which the model has one name for."""
        known: dict[str, int] = {}
        for name, array in feed.items():
            for symbol, size in zip(self._symbols[name], array.shape, strict=True):
                if isinstance(symbol, str) and known.setdefault(symbol, size) != size:
                    raise InvalidRequestError(
                        f"{name}.shape",
                        expected=f"{known[symbol]} as '{symbol}', which another input has",
                        found=str(list(array.shape)),
                    )

    def close(self) -> None:
        """Let go of the session."""
        self._session = None


def _describe(each: Any) -> TensorMetadata | None:  # noqa: ANN401  ONNX Runtime has no types
    """Tell an input or output of a session; None for what is no tensor of the protocol."""
    datatype = _DATATYPES.get(each.type)
    if datatype is None:
        return None
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in each.shape]
    return TensorMetadata(each.name, datatype, shape)


def _has_free_rows(tensors: Iterable[TensorMetadata]) -> bool:
    return all(tensor.shape and tensor.shape[0] == -1 for tensor in tensors)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _read(tensor: Tensor, wanted: TensorMetadata) -> NDArray[Any]:
    """Check an input against the model's, and turn bytes into text."""
    if tensor.datatype is not wanted.datatype:
        raise InvalidRequestError(
            f"{tensor.name}.datatype", expected=wanted.datatype, found=tensor.datatype
        )
    if not _fits(tensor.shape, wanted.shape):
        raise InvalidRequestError(
            f"{tensor.name}.shape", expected=str(list(wanted.shape)), found=str(list(tensor.shape))
        )
    if tensor.datatype is not Datatype.BYTES:
        return tensor.array
    try:
        text = [value.decode() for value in tensor.array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise InvalidRequestError(tensor.name, expected="text", found="no UTF-8") from error
    return np.array(text, dtype=object).reshape(tensor.shape)


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(
        size in (-1, found) for found, size in zip(shape, wanted, strict=True)
    )
