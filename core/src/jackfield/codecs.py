"""Turn tensors into the values that a model's author computes with, and values into tensors.

A content type names the form: `np`, `pd`, `pd_json`, `str`, `base64`, `datetime`, `raw`, `dict`.
The names and tags are MLServer's. Used by runtimes, by own-code models and by clients; knows no
wire form. pandas is imported when a value has to become one of its own, and never to look at one.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import orjson

from jackfield.errors import InvalidRequestError
from jackfield.messages import InferRequest, InferResponse
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from types import ModuleType

    import pandas as pd
    from numpy.typing import NDArray

    from jackfield.messages import ModelMetadata, Parameters
    from jackfield.settings import ModelSettings

__all__ = [
    "MESSAGE_CONTENT_TYPES",
    "TENSOR_CONTENT_TYPES",
    "choose",
    "content_type_of",
    "decode",
    "decode_request",
    "decode_response",
    "encode",
    "encode_outputs",
    "encode_request",
    "encode_response",
    "is_whole",
]

T = TypeVar("T")

_TAG = "content_type"
#: How much of a value an error shows, in characters.
_LONGEST_FOUND = 40
#: How many lengths of columns an error shows.
_MOST_FOUND = 10


class _Codec(NamedTuple):
    """How one content type reads and writes a tensor."""

    #: Tensor, its path for errors -> value.
    decode: Callable[[Tensor, str], object]
    #: Name of the new tensor, value -> tensor.
    encode: Callable[[str, object], Tensor]


# ---- one tensor ----


def decode(tensor: Tensor, content_type: str, *, field: str = "") -> object:
    """Turn a tensor into the value that a content type stands for.

    Args:
        tensor: Stays as it is, and so does its array.
        content_type: One of `TENSOR_CONTENT_TYPES`.
        field: The tensor's path in its message, for errors, for example ``inputs[0]``.

    Returns:
        - `np`: the array, of the tensor's shape. BYTES elements are `bytes`. The array of a request
          is read-only.
        - `str`, `base64`, `datetime`, `pd_json`: a flat list of `str`, `bytes`, `datetime` and
          whatever the JSON of an element holds.
        - `pd`: a `pandas.Series`; text where the datatype is BYTES.
        - `raw`: the tensor itself.

    Raises:
        InvalidRequestError: The content type is unknown, needs pandas where that is not installed,
            or doesn't fit the tensor; the error names the element.
    """
    field = field or f"tensor '{tensor.name}'"
    codec = _CODECS.get(content_type)
    if codec is None:
        raise _unknown(content_type, TENSOR_CONTENT_TYPES, f"{field}.parameters.{_TAG}")
    return codec.decode(tensor, field)


def encode(name: str, value: object, content_type: str = "") -> Tensor:
    """Turn a value into a tensor, tagged with its content type as MLServer tags it.

    Args:
        name: The tensor's name.
        value: An array, a list, a scalar, a `pandas.Series`, or a `Tensor`, which is renamed.
        content_type: One of `TENSOR_CONTENT_TYPES`; empty takes the first that fits: arrays and
            numbers are `np`; text is `str`, bytes are `base64`, datetimes `datetime`; a Series is
            `pd`; other lists are `pd_json`.

    Returns:
        A tensor of the value's own shape: a list of three is `[3]`, a scalar has the shape `[]`.

    Raises:
        TypeError: The content type is unknown or can't hold the value.
    """
    content_type = content_type or _content_type_for(name, value)
    codec = _CODECS.get(content_type)
    if codec is None:
        message = (
            f"tensor '{name}': expected a content type among {_list(TENSOR_CONTENT_TYPES)}, "
            f"found '{content_type}'"
        )
        raise TypeError(message)
    return codec.encode(name, value)


def _content_type_for(name: str, value: object) -> str:
    """Find the first content type that can hold a value."""
    if isinstance(value, Tensor):
        return "raw"
    if _is_pandas(value, "Series"):
        return "pd"
    if _is_pandas(value, "DataFrame") or isinstance(value, Mapping):
        message = (
            f"tensor '{name}': a {type(value).__name__} makes several tensors, not one; "
            "use encode_outputs or encode_request"
        )
        raise TypeError(message)
    if isinstance(value, list | tuple):
        return _content_type_for_list(value)
    for content_type, kind in _KINDS.items():
        if isinstance(value, kind):
            return content_type
    array = np.asarray(value)
    if array.dtype.kind == "M":
        return "datetime"
    if array.dtype.kind != "O" or _is_text_or_bytes(array):
        return "np"
    if isinstance(value, np.ndarray):
        return _content_type_for_cells(array.reshape(-1).tolist())
    message = (
        f"tensor '{name}': expected an array, a list, a number, text, bytes or a datetime, "
        f"found {type(value).__name__}"
    )
    raise TypeError(message)


def _is_text_or_bytes(array: NDArray[Any]) -> bool:
    return all(isinstance(each, str | bytes) for each in array.reshape(-1).tolist())


def _content_type_for_list(values: Sequence[object]) -> str:
    found = _content_type_for_cells(values) if values else "np"
    if found != "pd_json":
        return found
    try:
        if np.asarray(values).dtype.kind in "biuf":
            return "np"
    except ValueError:  # lists of different lengths
        return "pd_json"
    # text, bytes or moments in lists of equal length
    return _content_type_for_cells(_cells(values).reshape(-1).tolist())


def _content_type_for_cells(cells: Sequence[object]) -> str:
    """Find the content type of mixed elements: one kind has its own, all else is JSON."""
    for content_type, kind in _KINDS.items():
        if all(isinstance(each, kind) for each in cells):
            return content_type
    return "pd_json"


#: Content type -> the kind of element that it writes; the first that fits is taken.
_KINDS: dict[str, type | types.UnionType] = {
    "str": str,
    "base64": bytes | bytearray,
    "datetime": datetime.datetime,
}


# ---- one content type each ----


def _decode_np(tensor: Tensor, _field: str) -> NDArray[Any]:
    return tensor.array


def _encode_np(name: str, value: object) -> Tensor:
    try:
        return Tensor.from_array(name, value, parameters={_TAG: "np"})
    except ValueError as error:  # lists of different lengths
        message = f"tensor '{name}': the content type 'np' takes an array: {error}"
        raise TypeError(message) from error


def _decode_raw(tensor: Tensor, _field: str) -> Tensor:
    return tensor


def _encode_raw(name: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return Tensor(name, value.datatype, value.array, value.parameters)
    return Tensor.from_array(name, value)


def _decode_str(tensor: Tensor, field: str) -> list[str]:
    return _decode_each(tensor, field, "str", ("UTF-8 text", bytes.decode))


def _encode_str(name: str, value: object) -> Tensor:
    return _encode_each(name, _cells(value), "str", str.encode)


def _decode_base64(tensor: Tensor, field: str) -> list[bytes]:
    def read(element: bytes) -> bytes:
        return base64.b64decode(element, validate=True)

    return _decode_each(tensor, field, "base64", ("base64", read))


def _encode_base64(name: str, value: object) -> Tensor:
    return _encode_each(name, _cells(value), "base64", base64.b64encode)


def _decode_datetime(tensor: Tensor, field: str) -> list[datetime.datetime]:
    def read(element: bytes) -> datetime.datetime:
        return datetime.datetime.fromisoformat(element.decode())

    return _decode_each(tensor, field, "datetime", ("a date and time in ISO 8601", read))


def _encode_datetime(name: str, value: object) -> Tensor:
    def write(moment: datetime.datetime) -> bytes:
        if moment != moment:  # pandas's NaT, a datetime by its class
            raise ValueError(moment)
        # not the moment's own method: that of pandas writes nanoseconds, which few can read
        return datetime.datetime.isoformat(moment).encode()

    return _encode_each(name, _cells(value), "datetime", write)


def _decode_json(tensor: Tensor, field: str) -> list[Any]:
    return _decode_each(tensor, field, "pd_json", ("JSON", orjson.loads))


def _encode_json(name: str, value: object) -> Tensor:
    # a list inside a list is a cell here, not a dimension
    cells = _column(value) if isinstance(value, list | tuple) else _cells(value)
    return _encode_each(name, cells, "pd_json", _write_json)


def _write_json(value: object) -> bytes:
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=_plain, option=option)


def _plain(value: object) -> object:
    """Give what orjson does not take in a form that it takes."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    raise TypeError


def _decode_each(
    tensor: Tensor, field: str, content_type: str, form: tuple[str, Callable[[bytes], T]]
) -> list[T]:
    """Read each element of a BYTES tensor, in row-major order."""
    expected, read = form
    if tensor.datatype is not Datatype.BYTES:
        raise InvalidRequestError(
            f"{field}.datatype",
            expected=f"BYTES for the content type '{content_type}'",
            found=str(tensor.datatype),
        )
    values = []
    for place, element in enumerate(tensor.array.reshape(-1).tolist()):
        try:
            values.append(read(element))
        except ValueError as error:  # of which UnicodeDecodeError and binascii.Error are kinds
            raise InvalidRequestError(
                f"{field}.data[{place}]", expected=expected, found=_show(element)
            ) from error
    return values


def _show(element: bytes) -> str:
    text = element[:_LONGEST_FOUND].decode(errors="backslashreplace")
    return f"'{text}'"


def _encode_each(
    name: str, cells: NDArray[np.object_], content_type: str, write: Callable[[Any], bytes]
) -> Tensor:
    """Write each cell as an element of a BYTES tensor of the same shape."""
    elements = np.empty(cells.size, dtype=object)
    kind = _KINDS.get(content_type, object)
    for place, cell in enumerate(cells.reshape(-1).tolist()):
        if not isinstance(cell, kind):
            message = (
                f"tensor '{name}': element {place} is {type(cell).__name__}, "
                f"which the content type '{content_type}' can't hold"
            )
            raise TypeError(message)
        try:
            elements[place] = write(cell)
        except (TypeError, ValueError) as error:  # of which UnicodeEncodeError is a kind
            message = f"tensor '{name}': element {place} has no form in '{content_type}': {error}"
            raise TypeError(message) from error
    array = elements.reshape(cells.shape)
    return Tensor(name, Datatype.BYTES, array, {_TAG: content_type})


def _cells(value: object) -> NDArray[np.object_]:
    """Give the elements of an array, a list or a scalar as Python objects."""
    if isinstance(value, list | tuple):
        if any(isinstance(each, list | tuple | np.ndarray) for each in value):
            with contextlib.suppress(ValueError):  # arrays of different sizes: a cell each
                return np.array(value, dtype=object)
        return _column(value)
    if _is_pandas(value, "Series"):
        return np.asarray(value, dtype=object)
    if not isinstance(value, np.ndarray | np.generic):
        return _column([value]).reshape(())
    array = np.asarray(value)
    if array.dtype.kind == "M":
        # NumPy gives a datetime for this unit, and an integer for nanoseconds
        array = array.astype("datetime64[us]")
    return array.astype(object)


def _column(values: Sequence[object]) -> NDArray[np.object_]:
    """Make each value one element, where NumPy would look into a list or a bytearray."""
    cells = np.empty(len(values), dtype=object)
    for place, each in enumerate(values):
        cells[place] = each
    return cells


# ---- pandas ----


def _is_pandas(value: object, kind: str) -> bool:
    """Tell whether a value is of a class of pandas, which is imported already if so."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, getattr(pandas, kind, ()))


def _pandas(path: str) -> ModuleType:
    """Import pandas."""
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise InvalidRequestError(
            path,
            expected="a content type that can be decoded here",
            found="'pd', which needs pandas, and pandas is not installed",
        ) from error
    module: ModuleType = pd
    return module


def _decode_series(tensor: Tensor, field: str) -> pd.Series[Any]:
    """Make a column by the tensor's own content type; untagged BYTES are text."""
    pandas = _pandas(f"{field}.parameters.{_TAG}")
    if tensor.array.ndim > 1 and tensor.array.size != tensor.shape[0]:
        raise InvalidRequestError(
            f"{field}.shape",
            expected="one column, [N] or [N, 1], for the content type 'pd'",
            found=str(list(tensor.shape)),
        )
    default = "str" if tensor.datatype is Datatype.BYTES else "np"
    content_type = _tag(tensor.parameters, field)
    if content_type in ("", "pd"):
        content_type = default
    if content_type in ("np", "raw"):
        return pandas.Series(tensor.array.reshape(-1), copy=True)
    values = decode(tensor, content_type, field=field)
    dtypes = {"str": str, "datetime": None if values else "datetime64[us]"}
    return pandas.Series(values, dtype=dtypes.get(content_type, object))


def _encode_series(name: str, value: object) -> Tensor:
    """Write a column: numbers untagged, text, bytes and moments by their own content type.

    A missing value is NaN among floats; in any other column it is null, and the column is JSON.
    """
    if not _is_pandas(value, "Series"):
        message = (
            f"tensor '{name}': the content type 'pd' takes a pandas.Series, "
            f"found {type(value).__name__}"
        )
        raise TypeError(message)
    import pandas as pd

    series: pd.Series[Any] = value
    if isinstance(series.dtype, pd.CategoricalDtype | pd.SparseDtype):
        series = pd.Series(np.asarray(series))
    is_missing = series.isna().to_numpy()
    kinds = pd.api.types
    is_float = kinds.is_float_dtype(series.dtype)
    if is_float or (kinds.is_numeric_dtype(series.dtype) and not is_missing.any()):
        # pandas's own kinds of dtype name the NumPy dtype below them
        dtype = getattr(series.dtype, "numpy_dtype", series.dtype)
        given = {"na_value": np.nan} if is_float and is_missing.any() else {}
        return Tensor.from_array(name, series.to_numpy(dtype=dtype, **given))
    cells: NDArray[np.object_] = series.astype(object).to_numpy(dtype=object, copy=True)
    cells[is_missing] = None
    content_type = _content_type_for_cells(cells.tolist())
    return encode(name, cells, content_type)


# ---- whole messages ----


def decode_request(request: InferRequest, content_type: str) -> object:
    """Turn a whole request into the value that a content type stands for.

    Args:
        request: Stays as it is.
        content_type: One of `MESSAGE_CONTENT_TYPES`.

    Returns:
        - `pd`: a `pandas.DataFrame` with a column for each input, in their order.
        - `dict`: each input's value by its name; arrays, where an input has no content type.
        - `raw`: the request itself.
        - any other: the value of its only input, see `decode`.

        The content type of an input itself goes first.

    Raises:
        InvalidRequestError: A content type is unknown or doesn't fit, there is not one input where
            one is needed, or the columns of a DataFrame differ in length.
    """
    if content_type == "raw":
        return request
    return _decode_message(request.inputs, content_type, "inputs")


def decode_response(response: InferResponse, content_type: str = "") -> object:
    """Turn a response into a value, on the client's side.

    Args:
        response: Stays as it is.
        content_type: One of `MESSAGE_CONTENT_TYPES`; empty takes the response's own, and `dict`
            where it has none.

    Returns:
        What `decode_request` gives for a request.

    Raises:
        InvalidRequestError: As for `decode_request`.
    """
    content_type = content_type or _tag(response.parameters, "") or "dict"
    if content_type == "raw":
        return response
    return _decode_message(response.outputs, content_type, "outputs")


def _decode_message(tensors: Sequence[Tensor], content_type: str, field: str) -> object:
    if content_type not in MESSAGE_CONTENT_TYPES:
        raise _unknown(content_type, MESSAGE_CONTENT_TYPES, f"parameters.{_TAG}")
    if content_type == "dict":
        return {
            tensor.name: _decode_own(tensor, "np", f"{field}[{index}]")
            for index, tensor in enumerate(tensors)
        }
    if content_type == "pd":
        return _decode_frame(tensors, field)
    if len(tensors) != 1:
        names = ", ".join(f"'{tensor.name}'" for tensor in tensors[:_MOST_FOUND])
        raise InvalidRequestError(
            field,
            expected=f"one tensor for the content type '{content_type}'",
            found=f"{len(tensors)}: {names}" if tensors else "none",
        )
    return _decode_own(tensors[0], content_type, f"{field}[0]")


def _decode_own(tensor: Tensor, default: str, field: str) -> object:
    return decode(tensor, _tag(tensor.parameters, field) or default, field=field)


def _decode_frame(tensors: Sequence[Tensor], field: str) -> pd.DataFrame:
    pandas = _pandas(f"parameters.{_TAG}")
    columns = {
        tensor.name: _decode_series(tensor, f"{field}[{index}]")
        for index, tensor in enumerate(tensors)
    }
    if len({len(column) for column in columns.values()}) > 1:
        lengths = [f"{len(column)} in '{name}'" for name, column in columns.items()]
        raise InvalidRequestError(
            field,
            expected="columns of one length for the content type 'pd'",
            found=", ".join(lengths[:_MOST_FOUND]),
        )
    return pandas.DataFrame(columns)


def encode_outputs(
    value: object, content_type: str = "", *, name: str = "output-0"
) -> list[Tensor]:
    """Turn a value into the tensors of a response.

    Args:
        value: A `pandas.DataFrame` gives a tensor for each column, a mapping one for each key, a
            tuple ``output-0``, ``output-1`` and so on; a tensor, a list of tensors and the outputs
            of a response stay as they are; anything else gives one tensor.
        content_type: Content type of each tensor, see `encode`; empty takes the first that fits.
            `pd` and `dict` fit a DataFrame and a mapping only.
        name: The tensor's name, where there is one.

    Raises:
        TypeError: The content type is unknown or can't hold the value, or two names are the same.
    """
    return _encode_message(value, content_type, name, "output")


def encode_response(value: object, content_type: str = "") -> InferResponse:
    """Turn a value into a response, tagged `pd` if it is a DataFrame.

    Args:
        value: See `encode_outputs`.
        content_type: See `encode_outputs`.

    Raises:
        TypeError: As for `encode_outputs`.
    """
    if isinstance(value, InferResponse):
        return value
    tensors = encode_outputs(value, content_type)
    return InferResponse(tensors, _message_parameters(value))


def encode_request(value: object, content_type: str = "") -> InferRequest:
    """Turn a value into a request, tagged `pd` if it is a DataFrame, on the client's side.

    Args:
        value: See `encode_outputs`; a tensor that has no name yet is ``input-0``, and those of a
            tuple are ``input-0``, ``input-1`` and so on.
        content_type: See `encode_outputs`.

    Raises:
        TypeError: As for `encode_outputs`.
    """
    if isinstance(value, InferRequest):
        return value
    tensors = _encode_message(value, content_type, "input-0", "input")
    return InferRequest(tensors, parameters=_message_parameters(value))


def _message_parameters(value: object) -> Parameters:
    return {_TAG: "pd"} if _is_pandas(value, "DataFrame") else {}


def _encode_message(value: object, content_type: str, name: str, prefix: str) -> list[Tensor]:
    is_mapping = isinstance(value, Mapping)
    if (content_type == "dict" and not is_mapping) or (content_type == "pd" and is_mapping):
        message = f"the content type '{content_type}' can't hold a {type(value).__name__}"
        raise TypeError(message)
    if isinstance(value, InferResponse):
        return list(value.outputs)
    if isinstance(value, Tensor):
        tensors = [value]
    elif isinstance(value, list) and value and all(isinstance(each, Tensor) for each in value):
        tensors = list(value)
    elif _is_pandas(value, "DataFrame"):
        frame: Any = value
        tensors = [encode(str(key), each, content_type or "pd") for key, each in frame.items()]
    elif isinstance(value, Mapping):
        content_type = "" if content_type == "dict" else content_type
        tensors = [encode(str(key), each, content_type) for key, each in value.items()]
    elif isinstance(value, tuple):
        tensors = [
            encode(f"{prefix}-{index}", each, content_type) for index, each in enumerate(value)
        ]
    else:
        tensors = [encode(name, value, content_type)]
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        double = next(each for each in names if names.count(each) > 1)
        message = f"two tensors have the name '{double}'"
        raise TypeError(message)
    return tensors


# ---- which content type ----


def choose(
    request: InferRequest,
    tensor: Tensor | None = None,
    metadata: ModelMetadata | None = None,
    default: str = "raw",
    *,
    settings: ModelSettings | None = None,
) -> str:
    """Find the content type to decode by, in MLServer's order.

    Args:
        request: The request.
        tensor: One of its inputs: its own content type, else that of the input of this name in the
            metadata, else the default. None asks for the whole request: its own content type, else
            that of the settings, else the default.
        metadata: The model's metadata; for a tensor.
        default: The runtime's own choice.
        settings: The model's settings; for a whole request.

    Returns:
        A content type, which need not be a known one: `decode` tells.

    Raises:
        InvalidRequestError: A content type is not a text.
    """
    if tensor is None:
        declared = settings.parameters.content_type if settings else ""
        return _tag(request.parameters, "") or declared or default
    own = _tag(tensor.parameters, f"tensor '{tensor.name}'")
    if own or metadata is None:
        return own or default
    for each in metadata.inputs:
        if each.name == tensor.name:
            return _tag(each.parameters, "") or default
    return default


def content_type_of(annotation: object) -> str | None:
    """Find the content type that an annotation stands for.

    Args:
        annotation: A type as `typing.get_type_hints` gives it. `Optional` and `Annotated` are
            looked through.

    Returns:
        The content type; None where there is none. `pandas.Series` and `pandas.DataFrame` are both
        `pd`, a `Tensor` and a whole message both `raw`: `is_whole` tells them apart.
    """
    annotation = _unwrap(annotation)
    origin = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    if origin is dict or origin is Mapping:
        return "dict" if not arguments or arguments[0] is str else None
    if origin is list or origin is Sequence:
        return _content_type_of_element(arguments[0] if arguments else object)
    if not isinstance(origin, type):
        return None
    if issubclass(origin, np.ndarray):
        return "np"
    if origin in (Tensor, InferRequest, InferResponse):
        return "raw"
    pandas = sys.modules.get("pandas")
    is_pandas = pandas is not None and issubclass(origin, pandas.DataFrame | pandas.Series)
    return "pd" if is_pandas else None


def _content_type_of_element(element: object) -> str | None:
    of_lists = {str: "str", bytes: "base64", datetime.datetime: "datetime"}
    if isinstance(element, type) and element in of_lists:
        return of_lists[element]
    is_json = element in (object, Any) or (typing.get_origin(element) or element) in (dict, list)
    return "pd_json" if is_json else None


def is_whole(annotation: object) -> bool:
    """Tell whether an annotation stands for a whole message, and not for one tensor of it.

    Args:
        annotation: As for `content_type_of`.
    """
    annotation = _unwrap(annotation)
    origin = typing.get_origin(annotation) or annotation
    if origin in (dict, Mapping, InferRequest, InferResponse):
        return True
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(origin, type) and issubclass(origin, pandas.DataFrame)


def unalias(annotation: object) -> object:
    """Look through a ``type`` alias, which NumPy's `NDArray` is from Python 3.12 and NumPy 2.5."""
    while (alias := typing.get_origin(annotation) or annotation) and hasattr(alias, "__value__"):
        arguments = typing.get_args(annotation)
        value: Any = alias.__value__
        annotation = value[arguments] if arguments else value
    return annotation


def _unwrap(annotation: object) -> object:
    """Look through aliases, `Annotated` and `Optional`."""
    annotation = unalias(annotation)
    while typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        inner = typing.get_args(annotation)
        if typing.get_origin(annotation) is not typing.Annotated:
            inner = tuple(each for each in inner if each is not types.NoneType)
            if len(inner) != 1:
                return None
        annotation = unalias(inner[0])
    return annotation


def _tag(parameters: Parameters, field: str) -> str:
    """Get a content type from parameters; empty where there is none."""
    found = parameters.get(_TAG) or ""
    if not isinstance(found, str):
        path = f"{field}.parameters.{_TAG}" if field else f"parameters.{_TAG}"
        raise InvalidRequestError(path, expected="a text", found=str(found)[:_LONGEST_FOUND])
    return found


def _unknown(content_type: str, known: Sequence[str], path: str) -> InvalidRequestError:
    return InvalidRequestError(
        path, expected=f"one of {_list(known)}", found=f"'{content_type[:_LONGEST_FOUND]}'"
    )


def _list(content_types: Sequence[str]) -> str:
    return ", ".join(f"'{each}'" for each in content_types)


_CODECS = {
    "np": _Codec(_decode_np, _encode_np),
    "pd": _Codec(_decode_series, _encode_series),
    "pd_json": _Codec(_decode_json, _encode_json),
    "str": _Codec(_decode_str, _encode_str),
    "base64": _Codec(_decode_base64, _encode_base64),
    "datetime": _Codec(_decode_datetime, _encode_datetime),
    "raw": _Codec(_decode_raw, _encode_raw),
}

#: What a tensor can be decoded to.
TENSOR_CONTENT_TYPES = tuple(_CODECS)
#: What a whole request or response can be decoded to.
MESSAGE_CONTENT_TYPES = (*_CODECS, "dict")
