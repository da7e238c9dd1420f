"""Which requests one call of a runtime may answer together, and how they are merged and split.

Only for a runtime whose rows are independent. Pure: `answer` is driven by whoever calls the
runtime, in a thread, on the event loop or as a coroutine.

Shapes: the first dimension of each input and output is the rows.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from jackfield._scheduling.execution import Execution, Outcome
from jackfield.errors import ModelNotReadyError
from jackfield.messages import InferRequest, InferResponse
from jackfield.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Mapping, Sequence

    from jackfield.messages import ModelMetadata, Parameter

logger = logging.getLogger("jackfield")

#: Parameters that are the core's own matter: requests that differ in these only may be merged.
_OWN = ("timeout", "priority", "binary_data_output")


class Merger:
    """Merges the requests of one model.

    Args:
        name: The model's name, for texts.
        metadata: Tells each input's number of dimensions. An array of another number is no batch
            of rows: many models take one row as a vector. And an output whose first dimension is
            fixed is not the rows.
        is_row_wise: Whether the runtime's rows are independent.
        is_suspect: Tells of a request whether its company might suffer from it; None for never.
    """

    def __init__(
        self,
        name: str,
        metadata: ModelMetadata,
        *,
        is_row_wise: bool,
        is_suspect: Callable[[InferRequest], bool] | None = None,
    ) -> None:
        self._name = name
        self._is_suspect = is_suspect
        # an output of one size would be cut where that happens to be the number of rows
        has_rows = all(tensor.shape and tensor.shape[0] == -1 for tensor in metadata.outputs)
        #: Whether requests are merged.
        self.is_row_wise = is_row_wise and has_rows
        #: Whether a request counts as many inferences as it has rows.
        self.counts_rows = is_row_wise
        self._ranks = {
            tensor.name: len(tensor.shape)
            for tensor in metadata.inputs
            if tensor.shape and not tensor.parameters.get("any_shape")
        }
        # a matrix of a table may come as a tensor for each column, [n] or [n, 1]
        self._columns = frozenset(
            name
            for tensor in metadata.inputs
            if len(tensor.shape) == 2
            for name in _names(tensor.parameters.get("columns"))
        )
        # runtimes with one input take it by any name, as MLServer's do
        ranks = [*self._ranks.values()]
        self._rank = ranks[0] if len(ranks) == len(metadata.inputs) == 1 else 0

    def key(self, request: InferRequest) -> Hashable | None:
        """Find what requests must have in common to be merged; None for one that stays alone."""
        if not self.is_row_wise:
            return None
        parts: list[Hashable] = []
        rows, other = -1, self._rank if len(request.inputs) == 1 else 0
        for tensor in request.inputs:
            shape = tensor.array.shape
            rank = self._ranks.get(tensor.name, other)
            if not rank and tensor.name in self._columns and shape[1:] in ((), (1,)):
                rank = len(shape)
            if not rank or len(shape) != rank or rows not in (-1, shape[0]):
                return None
            rows = shape[0]
            # in one part: else a tensor's parameters could be taken for the request's
            given = _hashable(tensor.parameters) if tensor.parameters else b""
            parts.append((tensor.name, tensor.datatype, shape[1:], given))
        if not rows or (self._is_suspect is not None and self._is_suspect(request)):
            return None
        if request.parameters and (shared := _shared(request.parameters)):
            parts.append(_hashable(shared))
        if request.outputs:
            parts.append(_hashable(request.outputs))
        return tuple(parts)

    def size(self, request: InferRequest) -> int:
        """Count a request's rows; 1 where rows are not independent."""
        return rows_of(request) if self.counts_rows else 1

    def answer(
        self, requests: Sequence[InferRequest]
    ) -> Generator[InferRequest, Outcome, list[Outcome]]:
        """Answer requests that may be merged: yields what to run, and is sent what came of it.

        A batch that fails is run again one by one, so that only the culprit fails; but not where
        the model can't answer at all.

        Returns:
            For each request its part of the response, or its error.
        """
        if len(requests) > 1 and self.is_row_wise:
            counts = [rows_of(request) for request in requests]
            outcome = yield merge(requests)
            if isinstance(outcome, Execution):
                if (parts := split(outcome.response, counts)) is not None:
                    _, started, ended, rows, _ = outcome
                    count = len(requests)
                    return [Execution(part, started, ended, rows, count) for part in parts]
                self.is_row_wise = False
                logger.warning(
                    "model '%s' gave an output whose first dimension is not the %d rows it got; "
                    "its requests are no longer merged",
                    self._name,
                    sum(counts),
                )
            elif isinstance(outcome, ModelNotReadyError):
                return [outcome] * len(requests)
        outcomes = []
        for request in requests:
            outcome = yield request
            outcomes.append(outcome)
        return outcomes


def _names(columns: object) -> list[str]:
    return [str(name) for name in columns] if isinstance(columns, list | tuple) else []


def _shared(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    return {key: value for key, value in parameters.items() if key not in _OWN}


def _hashable(value: object) -> Hashable:
    try:
        return msgspec.msgpack.encode(value, order="sorted")
    # a caller in the same process may pass parameters that no wire could carry: it stays alone
    except (TypeError, ValueError, OverflowError, RecursionError):
        return object()


def rows_of(request: InferRequest) -> int:
    """Count a request's rows: the first dimension of its first input, 1 for a scalar."""
    shape = request.inputs[0].array.shape
    return shape[0] if shape else 1


def merge(requests: Sequence[InferRequest]) -> InferRequest:
    """Put requests of one key together; what they don't share is the first one's."""
    first = requests[0]
    inputs = []
    for index, tensor in enumerate(first.inputs):
        array = np.concatenate([request.inputs[index].array for request in requests])
        array.setflags(write=False)  # as in any request
        inputs.append(Tensor(tensor.name, tensor.datatype, array, tensor.parameters))
    parameters = first.parameters
    if parameters:
        parameters = _shared(parameters)
    return InferRequest(inputs, first.outputs, parameters, first.id, first.received_ns)


def split(response: InferResponse, counts: Sequence[int]) -> list[InferResponse] | None:
    """Give each request its rows; None if an output's first dimension is not the rows."""
    total = sum(counts)
    outputs: list[list[Tensor]] = [[] for _ in counts]
    for tensor in response.outputs:
        name, datatype, array = tensor.name, tensor.datatype, tensor.array
        shape: tuple[int, ...] = array.shape
        if not shape or shape[0] != total:
            return None
        start = 0
        for own, count in zip(outputs, counts, strict=True):
            own.append(Tensor(name, datatype, array[start : start + count], tensor.parameters))
            start += count
    parameters = response.parameters
    return [InferResponse(own, parameters) for own in outputs]
