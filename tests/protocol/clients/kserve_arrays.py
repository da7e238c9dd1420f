"""An array of each datatype that KServe's client knows, and how to compare what comes back."""

import numpy as np

ARRAYS = {
    "BOOL": np.array([[True, False]]),
    **{
        f"{kind.upper()}{bits}": np.array(
            [[np.iinfo(f"{kind}{bits}").min, np.iinfo(f"{kind}{bits}").max]], f"{kind}{bits}"
        )
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
    **{f"FP{bits}": np.array([[1 / 3], [-0.0]], f"float{bits}") for bits in (16, 32, 64)},
    "BYTES": np.array([b"", "cat ζ".encode()], object),
}
#: The client refuses to send FP16 in any form but the binary one.
NOT_BINARY = {datatype: array for datatype, array in ARRAYS.items() if datatype != "FP16"}


def is_same(found: np.ndarray, sent: np.ndarray) -> bool:
    if sent.dtype != object:
        return (found.dtype, found.shape, found.tobytes()) == (
            sent.dtype,
            sent.shape,
            sent.tobytes(),
        )
    elements = [
        each.encode() if isinstance(each, str) else bytes(each)
        for each in found.reshape(-1).tolist()
    ]
    return found.shape == sent.shape and elements == sent.tolist()
