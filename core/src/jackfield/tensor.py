"""Tensor and Datatype: what a request and a response are made of.

Used everywhere; knows no wire form and no framework. NumPy is imported on first use, so that a
plugin can be listed without it.
"""

from __future__ import annotations

import enum
import functools
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray  # noqa: TC004  a Tensor is never decoded by msgspec

    from jackfield.messages import Parameters  # noqa: TC004  the same

__all__ = ["Datatype", "Tensor"]


class Datatype(enum.StrEnum):
    """The datatypes of the Open Inference Protocol.

    BF16 has no NumPy twin: its elements are held as float32, which contains it exactly.
    BYTES elements are Python `bytes`, held in an object array.

    Source: Open Inference Protocol v2, "Tensor Data Types"; BF16 from Triton's extension.
    """

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    BYTES = "BYTES"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype that holds this datatype's elements."""
        return _dtypes()[self]

    @classmethod
    def of(cls, dtype: np.dtype[Any]) -> Datatype:
        """Find the datatype of a NumPy dtype; text and objects are BYTES.

        Raises:
            TypeError: The protocol has no datatype for it (complex, datetime, …).
        """
        found = _datatypes().get(dtype.newbyteorder("=").str[1:])
        if found is None:
            if dtype.kind not in "OSU":
                message = f"the protocol has no datatype for NumPy's '{dtype}'"
                raise TypeError(message)
            return cls.BYTES
        return found


@functools.cache
def _dtypes() -> dict[Datatype, np.dtype[Any]]:
    import numpy as np

    codes = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "f4", "O"]
    return {datatype: np.dtype(code) for datatype, code in zip(Datatype, codes, strict=True)}


@functools.cache
def _datatypes() -> dict[str, Datatype]:
    unique = (each for each in Datatype if each not in (Datatype.BF16, Datatype.BYTES))
    return {each.dtype.str[1:]: each for each in unique}


class Tensor(msgspec.Struct, frozen=True, eq=False):
    """A named array with its datatype.

    Invariant: `array` has the dtype of `datatype` and is C-contiguous. The array of a request is
    read-only and may be a view on the request's body: a runtime copies before it writes in place.
    Build one with `from_array`, which keeps the invariant; the wire decoders keep it themselves.
    """

    name: str
    datatype: Datatype
    array: NDArray[Any]
    parameters: Parameters = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all dimensions; empty for a scalar."""
        return self.array.shape

    @classmethod
    def from_array(
        cls, name: str, array: object, *, parameters: Parameters | None = None
    ) -> Tensor:
        """Make a tensor of anything that NumPy takes as an array.

        Args:
            name: The tensor's name.
            array: An array, a nested list or a scalar. Text (`str`) becomes UTF-8 `bytes`.
            parameters: The tensor's parameters, for example its content type.

        Returns:
            A tensor on the same memory where its dtype and layout allow it.

        Raises:
            TypeError: The protocol has no datatype for the array's dtype, or an object array holds
                something other than text and bytes.

        Shapes: Kept; a scalar has the shape ().
        """
        import numpy as np

        values = np.asarray(array)
        if values.dtype.kind in "SU" and not isinstance(array, np.ndarray):
            # NumPy's own texts lose the zero bytes at their end
            values = np.array(array, dtype=object)
        datatype = Datatype.of(values.dtype)
        if datatype is Datatype.BYTES:
            values = _as_bytes(name, values)
        else:
            # not ascontiguousarray, which makes a scalar one-dimensional
            values = np.asarray(values, dtype=datatype.dtype, order="C")
        return cls(name, datatype, values, parameters or {})


def _as_bytes(name: str, values: NDArray[Any]) -> NDArray[np.object_]:
    """Encode text as UTF-8, element by element."""
    import numpy as np

    flat = np.empty(values.size, dtype=object)
    for index, value in enumerate(values.reshape(-1).tolist()):
        if isinstance(value, str):
            flat[index] = value.encode()
        elif isinstance(value, bytes):
            flat[index] = value
        else:
            message = (
                f"tensor '{name}': element {index} is {type(value).__name__}, "
                "a BYTES tensor holds text or bytes"
            )
            raise TypeError(message)
    return flat.reshape(values.shape)
