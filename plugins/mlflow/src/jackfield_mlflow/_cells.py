"""Read JSON as a cell of a column, in the form that MLflow's check of nested types lets pass.

That check goes by the type that NumPy sees in a value: 2 is no `double` to it, nothing in JSON is
an `integer` or a `float`, and Python's moments are nothing at all. It makes the text 'None' of what
is null in a list of texts, and its errors name no column.
"""

from __future__ import annotations

import base64
import datetime
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.types import DataType
from mlflow.types.schema import AnyType, Array, Map, Object

from jackfield import InvalidRequestError
from jackfield_mlflow._signature import type_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from jackfield_mlflow._signature import Field

#: Integers beyond it have no exact twin in FP64.
EXACT = 2**53

_INTEGERS = {DataType.integer: (-(2**31), 2**31 - 1), DataType.long: (-(2**63), 2**63 - 1)}
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
#: How MLflow's check sees the type of a simple value that is part of another.
_AS_SEEN: dict[DataType, Callable[[Any], object]] = {
    DataType.integer: np.int32,
    DataType.float: np.float32,
    DataType.datetime: np.datetime64,
}
#: Elements of lists that need no change.
_AS_THEY_ARE = {DataType.double: float, DataType.string: str, DataType.boolean: bool}
#: What null is in a list; other types have nothing for it.
_MISSING: dict[DataType, object] = {
    DataType.float: np.float32("nan"),
    DataType.double: math.nan,
    DataType.datetime: np.datetime64("NaT"),
}
#: Most characters of a type in an error: an object's may have pages.
_SHOWN = 200


class Cells:
    """Reads the cells of one column.

    Args:
        field: The column.
        is_hinted: The model has a type hint, by which MLflow checks, or pydantic: what does not fit
            passes, and moments may have an offset.
    """

    def __init__(self, field: Field, *, is_hinted: bool) -> None:
        self._field = field
        self._is_hinted = is_hinted

    def read(self, value: object, path: str) -> object:
        """Read what JSON held.

        Args:
            value: Python's form of it.
            path: Where it is in the request.

        Raises:
            InvalidRequestError: It is not of the column's type; the path leads to the part.
        """
        return self._read(value, self._field.type, path, is_required=not self._field.is_optional)

    def read_simple(self, value: object, kind: DataType, path: str) -> object:
        """Read a number, a flag, text, bytes (base64) or a moment (ISO 8601): Python's own value.

        Raises:
            InvalidRequestError: It is of another type, or not one that the type can hold.
        """
        if kind is DataType.boolean and isinstance(value, bool):
            return value
        if kind is DataType.string and isinstance(value, str):
            return value
        if kind is DataType.binary and isinstance(value, str):
            return _bytes(value, path)
        if kind is DataType.datetime and isinstance(value, str):
            return self._moment(value, path)
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = _number(value, kind)
            if number is not None:
                return number
        raise self._refusal(value, type_name(kind), path)

    def _read(self, value: object, kind: object, path: str, *, is_required: bool) -> object:
        if isinstance(kind, AnyType):
            return value
        if value is None and (self._is_hinted or not is_required):
            return None
        if value == {} and not is_required:  # stands for nothing, too
            return value
        if isinstance(kind, DataType):
            return self._element(value, kind, path)
        if isinstance(kind, Array) and isinstance(value, list):
            return self._list(value, kind, path, is_required=is_required)
        if isinstance(kind, Map) and isinstance(value, dict):
            return {
                name: self._read(each, kind.value_type, f"{path}.{name}", is_required=is_required)
                for name, each in value.items()
            }
        if isinstance(kind, Object) and isinstance(value, dict):
            return self._object(value, kind, path)
        if self._is_hinted:
            return value
        what = "a list" if isinstance(kind, Array) else "an object"
        # MLflow lets nothing at all pass where the elements may be anything
        inner = kind.dtype if isinstance(kind, Array) else getattr(kind, "value_type", None)
        if value is None and isinstance(inner, AnyType):
            return None
        raise self._refusal(value, what, path)

    def _list(self, values: list[Any], kind: Array, path: str, *, is_required: bool) -> list[Any]:
        inner = kind.dtype
        if isinstance(inner, DataType) and not self._is_hinted:
            if all(type(each) is _AS_THEY_ARE.get(inner) for each in values):
                return values
            return [
                _MISSING[inner]
                if each is None and inner in _MISSING
                else self._element(each, inner, f"{path}[{place}]")
                for place, each in enumerate(values)
            ]
        return [
            self._read(each, inner, f"{path}[{place}]", is_required=is_required)
            for place, each in enumerate(values)
        ]

    def _object(self, value: dict[str, Any], kind: Object, path: str) -> dict[str, Any]:
        properties = {each.name: each for each in kind.properties}
        if not self._is_hinted:
            for name, each in properties.items():
                if each.required and name not in value:
                    raise self._refusal(
                        None, type_name(each.dtype), f"{path}.{name}", found="nothing"
                    )
            for name in value.keys() - properties.keys():
                names = ", ".join(f"'{each}'" for each in properties)
                raise self._refusal(None, f"one of {names}", path, found=f"'{name}'")
        return {
            name: self._read(
                each, properties[name].dtype, f"{path}.{name}",
                is_required=properties[name].required,
            )
            if name in properties
            else each
            for name, each in value.items()
        }  # fmt: skip

    def _element(self, value: object, kind: DataType, path: str) -> object:
        """Read a simple value in a nested one, as the type that MLflow's check sees in it."""
        if not self._is_hinted:
            read: Any = self.read_simple(value, kind, path)
            as_seen = _AS_SEEN.get(kind)
            return read if as_seen is None else as_seen(read)
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if (is_integer and kind is DataType.double) or (
            isinstance(value, str) and kind in (DataType.binary, DataType.datetime)
        ):
            return self.read_simple(value, kind, path)
        return value

    def _moment(self, text: str, path: str) -> datetime.datetime:
        try:
            moment = datetime.datetime.fromisoformat(text)
        except ValueError as error:
            raise self._refusal(text, "a date and time in ISO 8601", path) from error
        if not self._is_hinted:
            check_naive(moment, path)
        return moment

    def _refusal(
        self, value: object, expected: str, path: str, *, found: str = ""
    ) -> InvalidRequestError:
        return InvalidRequestError(
            path,
            expected=f"{expected[:_SHOWN]} for the column '{self._field.name}'",
            found=found or ("null" if value is None else f"{value!r:.60} ({type(value).__name__})"),
        )


def check_naive(moment: datetime.datetime, path: str) -> None:
    """Refuse a moment with an offset, which MLflow's columns have no type for.

    Raises:
        InvalidRequestError: It has one.
    """
    if moment.tzinfo is not None:
        raise InvalidRequestError(
            path,
            expected="a date and time without an offset",
            found=f"'{moment.isoformat()}'",
        )


def _number(value: float, kind: DataType) -> float | None:
    """Give a number as a type has it; None where the type has none that is equal, or as near."""
    if limits := _INTEGERS.get(kind):
        return value if isinstance(value, int) and limits[0] <= value <= limits[1] else None
    if isinstance(value, int) and abs(value) > EXACT:
        return None
    if kind is DataType.double or (kind is DataType.float and abs(value) <= _LARGEST_FLOAT):
        return float(value)
    return None


def _bytes(text: str, path: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidRequestError(path, expected="base64", found=f"'{text[:40]}'") from error
