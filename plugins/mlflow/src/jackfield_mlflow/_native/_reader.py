"""Turn a request that fits the signature into the plugin's, and leave all others."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jackfield import Datatype, InferRequest, Tensor, codecs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Content types that leave a tensor what it is.
_AS_IT_IS = frozenset(["", "np", "pd", "str"])
#: Integers beyond it have no exact twin in FP64.
_EXACT = 2**53


class Column(NamedTuple):
    """One column of the signature, or of the plugin."""

    name: str
    datatype: Datatype


class Reader:
    """Reads the requests of one model for its plugin.

    Args:
        columns: Of the signature, or of the plugin if there is none; in order.
        are_named: Each may come as a tensor of its own. False: they come as one matrix.
        is_free: There is no signature: the plugin reads all.
    """

    def __init__(self, columns: Sequence[Column], *, are_named: bool, is_free: bool) -> None:
        self.columns = list(columns)
        self.is_free = is_free
        #: Of the one array in which all columns go to the plugin; None leaves them apart.
        self.stacked: np.dtype[Any] | None = None
        self._names = frozenset(each.name for each in columns) if are_named else frozenset[str]()
        self._is_uniform = len({each.datatype for each in columns}) == 1

    @property
    def takes_columns(self) -> bool:
        """Whether each column may come as a tensor of its own."""
        return bool(self._names)

    @property
    def takes_matrix(self) -> bool:
        """Whether all columns may come as one tensor."""
        return self._is_uniform and (not self._names or len(self.columns) > 1)

    def stackable(self) -> np.dtype[Any] | None:
        """Say what array holds all columns; None where there is text among them."""
        dtypes = {each.datatype.dtype for each in self.columns}
        kinds = {each.kind for each in dtypes}
        if len(self._names) < 2 or "O" in kinds or (len(kinds) > 1 and "b" in kinds):
            return None
        return np.result_type(*dtypes)

    def read(self, request: InferRequest) -> Sequence[Tensor] | None:
        """Give the plugin's inputs; None where the request does not fit."""
        inputs = request.inputs
        content_type = request.parameters.get("content_type")
        if not inputs or (content_type and content_type not in codecs.MESSAGE_CONTENT_TYPES):
            return None
        if self.is_free:
            return self._read_free(inputs)
        for each in inputs:
            if each.parameters and each.parameters.get("content_type", "") not in _AS_IT_IS:
                return None
        sole = inputs[0]
        if len(inputs) == 1 and sole.array.ndim == 2 and sole.name not in self._names:
            return self._read_matrix(sole)
        return self._read_columns(inputs)

    def _read_free(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Leave it to the plugin; columns of numbers as one array where that makes a difference."""
        tensors = None if self.stacked is None else self._in_order(inputs)
        if tensors is None or any(each.array.dtype.kind in "Ob" for each in tensors):
            return inputs
        return [_stack(tensors, np.result_type(*{each.array.dtype for each in tensors}))]

    def _read_columns(self, inputs: Sequence[Tensor]) -> Sequence[Tensor] | None:
        tensors = self._in_order(inputs)
        if tensors is None:
            return None
        found = []
        for column, tensor in zip(self.columns, tensors, strict=True):
            cast = _cast(tensor, column.datatype)
            if cast is None:
                return None
            found.append(cast)
        return found if self.stacked is None else [_stack(found, self.stacked)]

    def _in_order(self, inputs: Sequence[Tensor]) -> list[Tensor] | None:
        """Give the tensor of each column, [rows] or [rows, 1]; None where they do not fit."""
        given = {each.name: each for each in inputs}
        if not self._names or given.keys() != self._names:
            return None
        tensors = [given[each.name] for each in self.columns]
        rows = tensors[0].array.shape[:1]
        if rows in ((), (0,)):
            return None
        shapes = (rows, (*rows, 1))
        return tensors if all(each.array.shape in shapes for each in tensors) else None

    def _read_matrix(self, tensor: Tensor) -> Sequence[Tensor] | None:
        rows, width = tensor.array.shape
        if not self.takes_matrix or width != len(self.columns) or not rows:
            return None
        cast = _cast(tensor, self.columns[0].datatype)
        if cast is None or self.stacked is None:
            return None if cast is None else [cast]
        return [_fortran(tensor.name, np.asfortranarray(cast.array, self.stacked))]


def _stack(tensors: Sequence[Tensor], dtype: np.dtype[Any]) -> Tensor:
    array = np.empty((len(tensors[0].array), len(tensors)), dtype, order="F")
    for place, each in enumerate(tensors):
        array[:, place] = each.array.reshape(-1)
    return _fortran("x", array)


def _fortran(name: str, array: NDArray[Any]) -> Tensor:
    # In the order of a DataFrame's values: what BLAS sums up, and so the last bit, depends on it.
    # It is no tensor's order; scikit-learn's plugin hands it on as it is.
    return Tensor(name, Datatype.of(array.dtype), array)


def _cast(tensor: Tensor, datatype: Datatype) -> Tensor | None:
    """Give a tensor of the signature's datatype; None where a value would change."""
    if tensor.datatype is datatype:
        return tensor
    if tensor.datatype not in _held_by(datatype):
        return None
    array, dtype = tensor.array, datatype.dtype
    if array.dtype.itemsize == 8 and array.dtype.kind in "iu" and dtype.kind == "f":
        is_low = array.dtype.kind == "i" and bool((array < -_EXACT).any())
        if is_low or bool((array > _EXACT).any()):
            return None
    return Tensor(tensor.name, datatype, array.astype(dtype), tensor.parameters)


@cache
def _held_by(datatype: Datatype) -> frozenset[Datatype]:
    """List the datatypes that pyfunc's reading takes for one: those whose values it holds."""
    if datatype is Datatype.BYTES:
        return frozenset()
    wide = datatype.dtype
    return frozenset(
        each
        for each in Datatype
        if each not in (Datatype.BYTES, Datatype.BF16)
        and np.can_cast(each.dtype, wide, "safe")
        and (each.dtype.kind == "b") is (wide.kind == "b")
    )
