"""Tensors that lie in shared memory: the same parameters in JSON and in gRPC.

Source: Triton's system shared memory extension.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jackfield._shared_memory import PARAMETERS
from jackfield._wire.raw import decode_raw, encode_raw
from jackfield.errors import InvalidRequestError
from jackfield.tensor import Datatype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from jackfield._shared_memory import Place, Regions
    from jackfield.messages import Parameters
    from jackfield.tensor import Tensor

#: Output name -> where it is written, instead of into the response.
NO_PLACES: Mapping[str, Place] = MappingProxyType({})


def is_shared(parameters: Parameters) -> bool:
    """Tell whether a tensor's parameters say that it lies in shared memory."""
    return not PARAMETERS.isdisjoint(parameters)


def without_place(parameters: Parameters) -> dict[str, Any]:
    """Leave out the wire's own parameters, for the runtime."""
    return {key: value for key, value in parameters.items() if key not in PARAMETERS}


def decode_shared(
    parameters: Parameters,
    datatype: Datatype,
    shape: Sequence[int],
    *,
    regions: Regions,
    field: str,
    model: str,
) -> NDArray[Any]:
    """Copy an input out of shared memory.

    Raises:
        CapacityError: Requests hold as many copies as they may.
        InvalidRequestError: The place is none, or its bytes do not fit the shape.
    """
    place = regions.place(parameters, field, model)
    if datatype is Datatype.BYTES and place.byte_size > regions.max_text_bytes:
        raise InvalidRequestError(
            f"{field}.parameters.shared_memory_byte_size",
            expected=f"at most {regions.max_text_bytes} bytes of BYTES; the operator's setting is "
            "'max_body_bytes'",
            found=f"{place.byte_size}",
            model=model,
        )
    return regions.read(
        place, lambda data: decode_raw(data, datatype, shape, field=field, model=model)
    )


def encode_shared(tensor: Tensor, place: Place) -> Parameters:
    """Write an output to shared memory.

    Returns:
        The parameters that tell where it is, beside the tensor's own.

    Raises:
        InvalidRequestError: It does not fit there, or the place is gone.
    """
    return {**tensor.parameters, **place.write(encode_raw(tensor))}
