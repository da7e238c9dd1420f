"""What an annotation of a typed model says of one tensor: its content type, datatype and form.

Chosen when a model loads, by `_signature`; for each request a kind reads or writes one tensor.
"""

from __future__ import annotations

import datetime
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jackfield import codecs
from jackfield.errors import InvalidRequestError
from jackfield.messages import TensorMetadata
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jackfield.messages import Parameter

#: What an error lists, for a parameter that no codec decodes.
SUPPORTED = (
    "numpy.ndarray, NDArray[numpy.float64] and the like, list[str], list[bytes], list[datetime], "
    "list[float], list[int], list[bool], str, bytes, datetime, float, int, bool, "
    "pandas.DataFrame, pandas.Series, dict, Tensor, InferRequest"
)
#: Python types of one element -> content type and datatype.
_ELEMENTS: dict[type, tuple[str, Datatype]] = {
    bool: ("np", Datatype.BOOL),
    int: ("np", Datatype.INT64),
    float: ("np", Datatype.FP64),
    str: ("str", Datatype.BYTES),
    bytes: ("base64", Datatype.BYTES),
    datetime.datetime: ("datetime", Datatype.BYTES),
}
#: What counts as such an element in an answer.
_ALSO: dict[type, tuple[type, ...]] = {
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (float, int, np.floating, np.integer),
}


class Kind(NamedTuple):
    """What one parameter takes, or one part of an answer is."""

    #: The annotation, for errors.
    text: str
    content_type: str
    #: None where any will do.
    datatype: Datatype | None = None
    #: Sizes, -1 for any; None for a shape of any kind.
    shape: tuple[int, ...] | None = None
    #: What is handed over: "array", "list", "one" element, or an "object" of `types`.
    form: str = "object"
    types: tuple[type, ...] = ()
    is_text: bool = False

    def describe(self, name: str, **parameters: Parameter) -> TensorMetadata | None:
        """Make the metadata; None where the annotation leaves the datatype open."""
        if self.datatype is None:
            return None
        if self.content_type != "np":
            parameters["content_type"] = self.content_type
        if self.shape is None:
            parameters["any_shape"] = True
        shape = (-1,) if self.shape is None else self.shape
        return TensorMetadata(name, self.datatype, shape, parameters)

    def read(self, tensor: Tensor, content_type: str, field: str) -> object:
        """Make the value for a parameter.

        Raises:
            InvalidRequestError: The tensor does not fit.
        """
        if self.is_text and content_type == "np":
            content_type = "str"
        value = codecs.decode(tensor, content_type, field=field)
        if self.form == "object":
            if not isinstance(value, self.types):
                raise self._content_type_misfit(content_type, field)
            return value
        if isinstance(value, np.ndarray):
            value = self._cast(value, field)
        elif self.is_text and content_type == "str":
            value = np.array(value, dtype=np.str_).reshape(tensor.shape)
        elif self.form == "array" or not isinstance(value, list):
            raise self._content_type_misfit(content_type, field)
        if self.form == "array":
            return value
        is_flat = self.shape is None or len(self.shape) == 1
        if isinstance(value, np.ndarray):
            value = (value.reshape(-1) if is_flat else value).tolist()
        if self.form == "list":
            return value
        if len(value) != 1:
            raise InvalidRequestError(
                f"{field}.shape", expected="one element", found=str(list(tensor.shape))
            )
        return value[0]

    def _content_type_misfit(self, content_type: str, field: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"{field}.parameters.content_type",
            expected=f"one that makes {self.text}, as '{self.content_type}' does",
            found=f"'{content_type}'",
        )

    def _cast(self, array: NDArray[Any], field: str) -> NDArray[Any]:
        """Give the array the annotated datatype, where no value can change but by rounding."""
        if self.shape is not None and (self.form == "array" or len(self.shape) > 1):
            self._check_shape(array, field)
        if self.datatype is None or array.dtype == self.datatype.dtype:
            return array
        if not _is_safe(array.dtype, self.datatype.dtype):
            raise InvalidRequestError(
                f"{field}.datatype",
                expected=str(self.datatype),
                found=str(Datatype.of(array.dtype)),
            )
        return array.astype(self.datatype.dtype)

    def _check_shape(self, array: NDArray[Any], field: str) -> None:
        shape = self.shape or ()
        sizes = zip(shape, array.shape, strict=False)
        if len(shape) != array.ndim or any(wanted not in (-1, found) for wanted, found in sizes):
            raise InvalidRequestError(
                f"{field}.shape",
                expected=str(list(shape)).replace("-1", "any"),
                found=str(list(array.shape)),
            )

    def write(self, name: str, value: object) -> Tensor:
        """Make a tensor of a part of an answer.

        Raises:
            TypeError: The value is not what the annotation says.
        """
        types = {"list": (list, tuple, np.ndarray), "array": (np.ndarray, np.generic)}
        if not isinstance(value, types.get(self.form, self.types)):
            raise wrong_type(f"output '{name}'", self.text, value)
        if self.form == "one":
            value = [value]
        if self.content_type == "np":
            try:
                value = self._cast(np.asarray(value), f"output '{name}'")
            # the author's mistake, not the caller's; a list may be ragged
            except (InvalidRequestError, ValueError) as error:
                raise TypeError(str(error)) from error
        return codecs.encode(name, value, self.content_type)


def wrong_type(what: str, text: str, value: object) -> TypeError:
    """Say that what a function returned is not of the annotated type."""
    return TypeError(f"{what}: the return annotation says {text}, found {spell(type(value))}")


def _is_safe(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    is_float = given.kind == "f" == wanted.kind  # a caller's FP64 may be rounded to FP32
    return is_float or np.can_cast(given, wanted, "safe")


def kind_of(annotation: object, default: str = "") -> Kind | None:
    """Find what an annotation says of one tensor; None for one that no codec decodes.

    Args:
        annotation: As `typing.get_type_hints` gives it, with extras: a tuple of sizes in
            `Annotated` is the shape.
        default: The content type that the operator's settings declare; empty for none.
    """
    shape = None
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *extras = typing.get_args(annotation)
        shape = next((tuple(each) for each in extras if isinstance(each, tuple | list)), None)
    text = spell(annotation)
    parts = [each for each in typing.get_args(annotation) if each is not type(None)]
    if len(parts) < len(typing.get_args(annotation)) and len(parts) == 1:
        (annotation,) = parts  # Optional
    found = _kind_of_plain(codecs.unalias(annotation), text)
    if found is None:
        return None
    return found._replace(shape=shape or found.shape, content_type=default or found.content_type)


def _kind_of_plain(annotation: object, text: str) -> Kind | None:
    if isinstance(annotation, type) and annotation in _ELEMENTS:
        content_type, datatype = _ELEMENTS[annotation]
        types = _ALSO.get(annotation, (annotation,))
        return Kind(text, content_type, datatype, (1,), "one", types)
    origin = typing.get_origin(annotation) or annotation
    leaf, depth = _leaf(annotation)
    if depth and leaf in (bool, int, float):
        return Kind(text, "np", _ELEMENTS[leaf][1], (-1,) * depth, "list")
    if isinstance(origin, type) and issubclass(origin, np.ndarray):
        return _kind_of_array(annotation, text)
    codec = codecs.content_type_of(annotation)
    if codec is None or codecs.is_whole(annotation):
        return None
    if codec in ("str", "base64", "datetime", "pd_json"):
        return Kind(text, codec, Datatype.BYTES, (-1,), "list")
    return Kind(text, codec, types=(origin,) if isinstance(origin, type) else ())


def _leaf(annotation: object) -> tuple[Any, int]:
    """Find what nested lists hold, and how deep."""
    depth = 0
    while (typing.get_origin(annotation) or annotation) in (list, Sequence):
        depth += 1
        annotation = next(iter(typing.get_args(annotation)), object)
    return annotation, depth


def _kind_of_array(annotation: object, text: str) -> Kind | None:
    """Read ``ndarray[tuple[int, int], dtype[float64]]``, which `NDArray` is short for."""
    arguments = typing.get_args(annotation)
    scalar = next(iter(typing.get_args(arguments[1])), None) if len(arguments) > 1 else None
    sizes = typing.get_args(arguments[0]) if arguments else ()
    shape = (-1,) * len(sizes) if sizes and all(size is int for size in sizes) else None
    if scalar not in _CONCRETE:  # numpy.floating, Any, …
        return Kind(text, "np", shape=shape, form="array")
    if scalar is np.str_:
        return Kind(text, "str", Datatype.BYTES, shape, "array", is_text=True)
    try:
        datatype = Datatype.of(np.dtype(scalar))
    except TypeError:  # complex, datetime64, …
        return None
    return Kind(text, "np", datatype, shape, "array")


_CONCRETE = frozenset([*np.sctypeDict.values(), bool, int, float])


def spell(annotation: object) -> str:
    """Spell an annotation as its author would."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        module = annotation.__module__
        return (
            annotation.__qualname__
            if module == "builtins"
            else f"{module}.{annotation.__qualname__}"
        )
    return str(annotation).replace("typing.", "")
