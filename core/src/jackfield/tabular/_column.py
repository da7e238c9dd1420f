"""Column: what an artifact knows of one feature."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from jackfield.messages import TensorMetadata
from jackfield.tensor import Datatype

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jackfield.messages import Parameter

#: A category that a model was trained with, or an example of a column's values.
Value: TypeAlias = str | int | float | bool

#: Most categories that the metadata list.
_LISTED = 1000


class Kind(enum.Enum):
    """What a column holds."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXT = "text"
    #: One of the trained categories; without any, text that the model itself maps.
    CATEGORY = "category"
    #: Nothing tells: what the caller sends is passed on.
    ANY = "any"


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of a model; made by `number`, `boolean`, `text`, `category` or `any`."""

    name: str
    kind: Kind
    #: What the metadata say; a request may hold another datatype of the same kind.
    datatype: Datatype
    #: The trained categories in the order of their codes; of a text column the known values, which
    #: are told in the metadata and bind nobody.
    categories: tuple[Value, ...] = ()
    #: Whether values may be missing (NaN, null); else a missing one is a 400.
    nullable: bool = True
    #: What stands for a missing text, truth value or category in arrays and frames.
    missing: float | str | None = math.nan
    #: A value that the model accepts, for the example of the docs page; None takes the first
    #: category, or 0, false, "text".
    example: Value | None = None

    @classmethod
    def number(
        cls,
        name: str,
        datatype: Datatype = Datatype.FP64,
        *,
        nullable: bool = True,
        example: float | None = None,
    ) -> Column:
        """Make a column of numbers.

        Args:
            name: The feature's name.
            datatype: What it was trained with. A request may send any numeric datatype or BOOL.
            nullable: Whether NaN may be passed on.
            example: See the fields.
        """
        return cls(
            name=name, kind=Kind.NUMBER, datatype=datatype, nullable=nullable, example=example
        )

    @classmethod
    def boolean(cls, name: str, *, nullable: bool = True) -> Column:
        """Make a column of truth values; a request may send BOOL, or integers 0 and 1."""
        return cls(name=name, kind=Kind.BOOLEAN, datatype=Datatype.BOOL, nullable=nullable)

    @classmethod
    def text(
        cls,
        name: str,
        *,
        categories: Iterable[str] = (),
        nullable: bool = True,
        missing: float | str | None = math.nan,
        example: str | None = None,
    ) -> Column:
        """Make a column of texts, which the model itself knows how to read.

        Args:
            name: The feature's name.
            categories: Values that are known; told in the metadata, others are passed on.
            nullable: Whether values may be missing.
            missing: What stands for a missing text.
            example: See the fields.
        """
        return cls(
            name=name,
            kind=Kind.TEXT,
            datatype=Datatype.BYTES,
            categories=tuple(categories),
            nullable=nullable,
            missing=missing,
            example=example,
        )

    @classmethod
    def category(
        cls,
        name: str,
        categories: Iterable[Value] = (),
        *,
        nullable: bool = True,
        missing: float | str | None = math.nan,
        example: Value | None = None,
    ) -> Column:
        """Make a column of categories.

        Args:
            name: The feature's name.
            categories: The trained ones, all text or all numbers, in the order of their codes.
                Without any, texts are passed on, and integers and truth values as text.
            nullable: Whether values may be missing.
            missing: What stands for a missing one in `Columns.arrays` and `Columns.matrix`.
            example: See the fields.

        Raises:
            ValueError: Text and numbers are mixed, or a category is there twice.

        Example:
            ```python
            Column.category("city", ["Oslo", "Rome"])
            Column.category("floor", [0, 1, 2])
            ```
        """
        trained = tuple(categories)
        if len(set(trained)) < len(trained):
            message = f"column '{name}': a category is there twice"
            raise ValueError(message)
        return cls(
            name=name,
            kind=Kind.CATEGORY,
            datatype=_datatype(name, trained),
            categories=trained,
            nullable=nullable,
            missing=missing,
            example=example,
        )

    @classmethod
    def any(cls, name: str, *, example: Value | None = None) -> Column:
        """Make a column of which nothing is known; whatever is sent is passed on."""
        datatype = Datatype.FP64 if example is None else _datatype(name, (example,))
        return cls(name=name, kind=Kind.ANY, datatype=datatype, example=example)

    @property
    def is_coded(self) -> bool:
        """Whether it has trained categories, so that a value has a code."""
        return self.kind is Kind.CATEGORY and bool(self.categories)

    @property
    def sample(self) -> Value:
        """A value of the column: its example, its first category, or a plain one."""
        if self.example is not None:
            return self.example
        if self.categories:
            return self.categories[0]
        return "text" if self.datatype is Datatype.BYTES else False

    def metadata(self, shape: tuple[int, ...]) -> TensorMetadata:
        """Describe the tensor that holds this column alone.

        Returns:
            With the parameters `categories` (`category_count` where they are too many to list),
            `nullable` where it is false, and `example` where the core could not find one.
        """
        parameters: dict[str, Parameter] = {}
        if len(self.categories) > _LISTED:
            parameters["category_count"] = len(self.categories)
        elif self.categories:
            parameters["categories"] = list(self.categories)
        if not self.nullable:
            parameters["nullable"] = False
        if self.example is not None or self.categories:
            parameters["example"] = self.sample
        return TensorMetadata(self.name, self.datatype, list(shape), parameters)


def _datatype(name: str, values: tuple[Value, ...]) -> Datatype:
    if all(isinstance(each, str) for each in values):
        return Datatype.BYTES
    if any(isinstance(each, str) for each in values):
        message = f"column '{name}': categories are text or numbers, not both"
        raise ValueError(message)
    if all(isinstance(each, bool) for each in values):
        return Datatype.BOOL
    is_whole = all(isinstance(each, int) for each in values)
    return Datatype.INT64 if is_whole else Datatype.FP64
