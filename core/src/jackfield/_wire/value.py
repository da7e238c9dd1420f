"""A JSON body <-> a value of a type that a method's annotation names.

Needs no web framework, nor orjson: a model's own process may have neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from jackfield._validation import explain
from jackfield.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

T = TypeVar("T")


def decode_value(body: bytes, kind: type[T]) -> T:
    """Read a body as JSON of this kind; one that is missing counts as an empty object.

    Raises:
        InvalidRequestError: It is not JSON, or not of this kind.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        path, expected, found = explain(error)
        raise InvalidRequestError(path, expected=expected, found=found) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequestError("body", expected="JSON", found=str(error)) from error


def encode_value(value: object) -> bytes:
    """Write what JSON can hold, arrays included; a number that is none becomes null.

    Raises:
        TypeError: It holds something else.
    """
    return _choose_encoder()(value)


def _choose_encoder() -> Callable[[object], bytes]:
    try:
        import orjson
    except ImportError:
        return _encode_without_orjson
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return lambda value: orjson.dumps(value, option=options)


def _encode_without_orjson(value: object) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except (ValueError, OverflowError, RecursionError) as error:  # no UTF-8, too large, a circle
        raise TypeError(str(error)) from error


def _plain(value: object) -> object:
    """Turn NumPy's objects into those that JSON has; floats keep the digits that they show."""
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "biuf":
        message = f"Type is not JSON serializable: {type(value).__name__}"
        raise TypeError(message)
    array: NDArray[Any] = np.asarray(value)
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        array = np.vectorize(lambda each: float(str(each)), otypes=[float])(array)
    return array.tolist()
