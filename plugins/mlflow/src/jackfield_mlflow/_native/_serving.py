"""Answer requests by the plugin, in the form that pyfunc gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from msgspec import Struct, structs

from jackfield import (
    Datatype,
    InferRequest,
    InferResponse,
    InvalidRequestError,
    ModelMetadata,
    Parameters,
    RequestedOutput,
    Tensor,
    TensorMetadata,
)
from jackfield_mlflow._native._plan import UnfitError, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jackfield import Capabilities, Runtime
    from jackfield_mlflow._native._reader import Reader

    Answer: TypeAlias = Callable[[InferRequest], InferResponse]


class Picked(Struct, frozen=True):
    """How the signature's output is made of one of the plugin's."""

    #: The signature's name.
    name: str
    #: What the plugin is asked for; nothing where it gives it unasked.
    asked: tuple[RequestedOutput, ...]
    #: Of the answer.
    datatype: Datatype
    #: Of the answer, -1 for the rows.
    shape: tuple[int, ...]
    #: Only the probability of the second class.
    is_second: bool = False
    #: Of the tensor, and of the response.
    parameters: Parameters = {}
    response: Parameters = {}

    def like(self, expected: Tensor, response: Parameters, found: Tensor) -> Picked:
        """Answer in the datatype and shape that pyfunc does."""
        is_number = Datatype.BYTES not in (expected.datatype, found.datatype)
        return structs.replace(
            self,
            datatype=expected.datatype if is_number else found.datatype,
            shape=(-1, *expected.shape[1:]),
            parameters=expected.parameters,
            response=response,
        )

    def make(self, found: Tensor) -> Tensor:
        """Make the signature's output."""
        array = found.array
        if self.is_second:
            array = np.ascontiguousarray(array[:, 1])
        if array.ndim != len(self.shape) and 1 in (*array.shape[1:], *self.shape[1:]):
            array = array.reshape(len(array), *self.shape[1:])
        if self.datatype is not found.datatype:
            array = array.astype(self.datatype.dtype)
        return Tensor(self.name, self.datatype, array, self.parameters)


class Native:
    """A model that the plugin of its framework serves, told as its signature tells it.

    Requests of the signature's own datatypes go to the plugin, all others to pyfunc. Outputs beside
    the signature's are the plugin's, on request.

    Args:
        inner: The plugin's runtime, loaded.
        capabilities: Its.
        reader: Of requests.
        picked: How to make the signature's output.
        told: What the signature says of inputs and outputs, as pyfunc is served.
        answer: Answers a request by pyfunc.
    """

    def __init__(
        self,
        inner: Runtime,
        capabilities: Capabilities,
        reader: Reader,
        picked: Picked,
        told: ModelMetadata,
        answer: Answer,
    ) -> None:
        #: What may be done with it.
        self.capabilities = capabilities
        self.reader = reader
        self._inner = inner
        self._picked = picked
        self._answer = answer
        names = {picked.name, *(each.name for each in told.outputs)}
        self._on_request = [
            structs.replace(each, parameters={**each.parameters, "on_request": True})
            for each in inner.metadata().outputs
            if each.name not in names
        ]

    def metadata(self, told: ModelMetadata) -> ModelMetadata:
        """Add what the plugin knows to what the signature tells."""
        inside, picked = self._inner.metadata(), self._picked
        more = dict(inside.parameters)
        if parameters := more.pop("request_parameters", None):
            more["on_request_parameters"] = parameters
        outputs = told.outputs or [TensorMetadata(picked.name, picked.datatype, picked.shape)]
        return structs.replace(
            told,
            inputs=inside.inputs if self.reader.is_free else told.inputs,
            outputs=[*outputs, *self._on_request],
            parameters={**more, **told.parameters},
        )

    def infer(self, request: InferRequest) -> InferResponse:
        """Compute what the request asks for.

        Shapes: The signature's output is as pyfunc gives it, others as the plugin does.
        """
        names = [each.name for each in request.outputs]
        own = self._picked.name
        is_sole = not names or names == [own]
        inputs = self.reader.read(request)
        if inputs is None:
            # pyfunc refuses what does not fit
            answered = self._answer(structs.replace(request, outputs=()))
            if is_sole:
                return answered
            raise InvalidRequestError(
                "inputs",
                expected=f"tensors as in the metadata, to compute {listed(names)}",
                found=", ".join(f"'{each.name}' {each.datatype}" for each in request.inputs),
            )
        if is_sole:
            return self._infer_own(inputs)
        found: dict[str, Tensor] = {}
        if own in names:
            # parameters are not pyfunc's
            found[own] = self._infer_own(inputs).outputs[0]
        asked = [each for each in request.outputs if each.name != own]
        answered = self._infer_inner(InferRequest(inputs, asked, request.parameters))
        found |= {each.name: each for each in answered.outputs}
        return InferResponse([found[each] for each in names])

    def close(self) -> None:
        """Free what the plugin holds."""
        self._inner.close()

    def compare(self, request: InferRequest) -> str:
        """Let both answer a request, and learn of pyfunc what the output looks like.

        Returns:
            What differs; empty if nothing does.

        Raises:
            UnfitError: One of them can't answer.
        """
        try:
            expected = self._answer(request)
        # of any framework, about a row that nobody sent
        except Exception as error:
            raise UnfitError(f"pyfunc refuses a row that was tried: {first_line(error)}") from error
        if [each.name for each in expected.outputs] != [self._picked.name]:
            names = ", ".join(f"'{each.name}'" for each in expected.outputs)
            raise UnfitError(f"pyfunc gives {names}, and its metadata '{self._picked.name}'")
        inputs = self.reader.read(request)
        if inputs is None:
            return "it does not read the same requests"
        try:
            found = self._infer_inner(InferRequest(inputs, self._picked.asked)).outputs[0]
        except Exception as error:
            raise UnfitError(
                f"the plugin refuses a row that was tried: {first_line(error)}"
            ) from error
        sole = expected.outputs[0]
        self._picked = self._picked.like(sole, expected.parameters, found)
        return _difference(sole, self._picked.make(found))

    def _infer_own(self, inputs: Sequence[Tensor]) -> InferResponse:
        """Give the signature's output."""
        picked = self._picked
        found = self._infer_inner(InferRequest(inputs, picked.asked))
        return InferResponse([picked.make(found.outputs[0])], picked.response)

    def _infer_inner(self, request: InferRequest) -> InferResponse:
        answered = self._inner.infer(request)
        if not isinstance(answered, InferResponse):
            message = f"{type(self._inner).__name__}.infer is a coroutine function"
            raise TypeError(message)
        return answered


def _difference(expected: Tensor, found: Tensor) -> str:
    """Say how two tensors differ; empty if no bit does."""
    if expected.datatype is not found.datatype or expected.shape != found.shape:
        return (
            f"{expected.datatype} {list(expected.shape)} of pyfunc, "
            f"{found.datatype} {list(found.shape)} of the plugin"
        )
    right, given = expected.array.reshape(-1), found.array.reshape(-1)
    if right.dtype != object and right.tobytes() == given.tobytes():
        return ""
    # all NaN are one
    is_other = (right != given) & ~((right != right) & (given != given))
    if not is_other.any():
        return ""
    place = int(is_other.argmax())
    return f"{right[place]!r} of pyfunc, {given[place]!r} of the plugin"


def first_line(error: Exception) -> str:
    """Give the first line of what an error says."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
