"""Compare answers: the same outputs, whatever their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jackfield.errors import JackfieldError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jackfield.client._exchange import Reply
    from jackfield.messages import InferResponse
    from jackfield.tensor import Tensor

#: How many bodies that were found equal are known by their bytes, to be read no more.
_MOST_KNOWN = 16


class Answers:
    """Compares each answer with the first; owned by one generator.

    Args:
        decode: Reads an answer; raises `JackfieldError` for one that is not the protocol's.
        first: What the others are compared with; None takes the first that comes.
    """

    def __init__(
        self, decode: Callable[[Reply], InferResponse], first: Reply | None = None
    ) -> None:
        self._decode = decode
        self._first: InferResponse | None = None
        self._known: set[bytes] = set()
        if first is not None:
            self.differs(first)

    def differs(self, reply: Reply) -> str:
        """Say how an answer differs; empty if it does not."""
        if reply.body in self._known:
            return ""
        try:
            response = self._decode(reply)
        except JackfieldError as error:
            return f"it can't be read: {error}"
        if self._first is None:
            self._first = response
        problem = _compare(self._first.outputs, response.outputs)
        if not problem and len(self._known) < _MOST_KNOWN:
            self._known.add(reply.body)
        return problem


def _compare(first: Sequence[Tensor], other: Sequence[Tensor]) -> str:
    ours = {tensor.name: tensor for tensor in first}
    theirs = {tensor.name: tensor for tensor in other}
    if list(ours) != list(theirs):
        return f"its outputs are {_names(theirs)}, not {_names(ours)}"
    for name, tensor in ours.items():
        found = theirs[name]
        if (tensor.datatype, tensor.shape) != (found.datatype, found.shape):
            return (
                f"output '{name}' is {found.datatype} {list(found.shape)}, "
                f"not {tensor.datatype} {list(tensor.shape)}"
            )
        is_float = tensor.array.dtype.kind == "f"
        if not np.array_equal(tensor.array, found.array, equal_nan=is_float):
            is_same = (tensor.array == found.array).reshape(-1)
            if is_float:
                is_same |= (np.isnan(tensor.array) & np.isnan(found.array)).reshape(-1)
            at = int(np.argmin(is_same))
            first_value, value = (
                each.array.reshape(-1)[at:].tolist()[0] for each in (tensor, found)
            )
            return f"output '{name}' has {value!r} at {at}, not {first_value!r}"
    return ""


def _names(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"'{name}'" for name in tensors) or "none"
