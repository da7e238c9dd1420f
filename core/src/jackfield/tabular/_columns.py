"""Columns: turn a request's tensors into the data that a model of tables computes on."""

from __future__ import annotations

import functools
import importlib
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeAlias

import numpy as np
import orjson

from jackfield import codecs
from jackfield.errors import InvalidRequestError, ModelLoadError
from jackfield.messages import InferRequest, TensorMetadata
from jackfield.tabular._column import Column, Kind
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from numpy.typing import DTypeLike, NDArray

    from jackfield.messages import Parameter
    from jackfield.tabular._column import Value

#: How the metadata and a sample tell the columns.
Form: TypeAlias = Literal["auto", "matrix", "columns"]

#: Most names that an error lists, and most characters of a value.
_LISTED = 10
_LONGEST = 40
_NUMBERS = frozenset(each.dtype for each in Datatype if each is not Datatype.BYTES)
#: Content types that leave a BYTES tensor plain text.
_PLAIN_TEXT = frozenset(["", "str", "pd", "np", "raw"])


class _Cells(NamedTuple):
    """One column as a request holds it."""

    #: Index of its tensor among the inputs.
    at: int
    tensor: Tensor
    #: [rows]
    array: NDArray[Any]
    #: Position of the first element in the tensor's data, and from one element to the next.
    start: int = 0
    step: int = 1

    def field(self, row: int) -> str:
        return f"inputs[{self.at}].data[{self.start + row * self.step}]"

    @property
    def is_of_matrix(self) -> bool:
        return self.step > 1


class Columns:
    """The columns of a model, and how requests are read into them.

    A request holds one tensor for each column, ``[rows]`` or ``[rows, 1]``, or one matrix
    ``[rows, columns]``; one row alone may be ``[columns]``. Tensors are matched by name, in any
    order, or by position where the model has no names. The first dimension of all that is read is
    the rows. Content types of the request are not needed: `pd` or none is the same. A text that is
    missing comes as null in a tensor of the content type `pd_json`, a number as NaN.

    Args:
        columns: In the model's order; None where the artifact tells neither names nor number:
            then all is passed on as it comes.
        are_named: The model was trained with these names. False: the names are stand-ins, and
            tensors are matched by position, or by stand-ins if all of them are there.
        dtypes: Numeric dtypes that the framework takes as they are. Any other is cast to the first
            of them that holds all of its values, or else to the last: with ``(np.float32,)``
            integers above 2**24 are rounded to the nearest float32, as the frameworks do. A number
            too large for it is a 400, never an infinity. Empty takes every dtype as it is.
        refuses_infinity: An infinite number is a 400, which names the element.
        unknown: What becomes of a value that is none of the trained categories: a "missing" value,
            or a 400 ("refuse").
        input_name: Name of the matrix in the metadata.

    Raises:
        ValueError: Two columns have one name.

    Example:
        ```python
        columns = Columns([Column.number("age"), Column.category("city", ["Oslo", "Rome"])])
        request = InferRequest(
            [Tensor.from_array("city", ["Rome"]), Tensor.from_array("age", [31.0])]
        )
        columns.codes(request)  # [[31.0, 1.0]]
        columns.frame(request)  # a DataFrame with the columns "age" and "city", a category
        ```
    """

    def __init__(
        self,
        columns: Iterable[Column] | None,
        *,
        are_named: bool = True,
        dtypes: Sequence[DTypeLike] = (),
        refuses_infinity: bool = False,
        unknown: Literal["missing", "refuse"] = "missing",
        input_name: str = "x",
    ) -> None:
        self._columns = tuple(columns or ())
        self._places = {column.name: place for place, column in enumerate(self._columns)}
        if len(self._places) < len(self._columns):
            names = [column.name for column in self._columns]
            message = f"two columns have the name '{max(names, key=names.count)}'"
            raise ValueError(message)
        self._width = None if columns is None else len(self._columns)
        self._are_named = are_named and columns is not None
        self._dtypes = tuple(np.dtype(each) for each in dtypes)
        self._as_is = frozenset(self._dtypes) or _NUMBERS
        self._refuses_infinity = refuses_infinity
        self._refuses_unknown = unknown == "refuse"
        self._input_name = input_name
        self._is_numeric = all(column.kind is Kind.NUMBER for column in self._columns)
        self._has_codes = any(column.is_coded for column in self._columns)
        self._never_missing = [
            place for place, column in enumerate(self._columns) if not column.nullable
        ]
        is_free = not refuses_infinity and not self._never_missing
        #: The width at which a matrix needs no further look; -1 where it always needs one.
        self._free_width = self._width if self._is_numeric and is_free and self._width else -1
        #: Of each column with trained categories, their codes by value as a tensor holds it.
        self._lookups = [_codes_by_value(column) for column in self._columns]

    @classmethod
    def unnamed(
        cls,
        width: int | None,
        datatype: Datatype = Datatype.FP64,
        *,
        nullable: bool = True,
        prefix: str = "x",
        dtypes: Sequence[DTypeLike] = (),
        refuses_infinity: bool = False,
        input_name: str = "x",
    ) -> Columns:
        """Make nameless columns of numbers.

        Args:
            width: How many there are; None where the artifact does not tell.
            datatype: Of all of them.
            nullable: Whether NaN may be passed on.
            prefix: Stand-ins for the names are ``x0``, ``x1`` and so on.
            dtypes: See the class.
            refuses_infinity: See the class.
            input_name: See the class.
        """
        columns = None
        if width is not None:
            columns = [
                Column.number(f"{prefix}{place}", datatype, nullable=nullable)
                for place in range(width)
            ]
        return cls(
            columns,
            are_named=False,
            dtypes=dtypes,
            refuses_infinity=refuses_infinity,
            input_name=input_name,
        )

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in the model's order; empty where they are not known."""
        return self._columns

    @property
    def width(self) -> int | None:
        """How many columns there are; None where that is not known."""
        return self._width

    # ---- what is told ----

    def metadata(self, *, form: Form = "auto", is_column_2d: bool = False) -> list[TensorMetadata]:
        """Say which tensors a request holds.

        Args:
            form: "matrix" for one tensor, "columns" for one each; "auto" is a matrix where all
                columns are numbers of one datatype, or nameless texts. Requests of either form are
                read, whatever is told here.
            is_column_2d: Columns are told as ``[-1, 1]``, as MLServer's clients send them.

        Returns:
            A matrix lists its columns' names in the parameter `columns`; a column tells its
            `categories` and whether it is `nullable`.

        Raises:
            ValueError: A matrix can't hold these columns.
        """
        if self._is_told_as_matrix(form):
            return [self._matrix_metadata()]
        shape = (-1, 1) if is_column_2d else (-1,)
        return [column.metadata(shape) for column in self._columns]

    def sample(self, *, form: Form = "auto") -> InferRequest | None:
        """Make a request of one row that fits the metadata, for warm-up and trials.

        Returns:
            None where the number of columns is not known.
        """
        if not self._columns:
            return None
        row = [column.sample for column in self._columns]
        if self._is_told_as_matrix(form):
            told = self._matrix_metadata()
            values: list[Value] | NDArray[Any] = row
            if told.datatype is not Datatype.BYTES:
                values = np.array(row, told.datatype.dtype)
            return InferRequest([Tensor.from_array(told.name, [values])])
        return InferRequest(
            [
                Tensor.from_array(
                    column.name,
                    [value]
                    if column.datatype is Datatype.BYTES
                    else np.array([value], column.datatype.dtype),
                )
                for column, value in zip(self._columns, row, strict=True)
            ]
        )

    def _is_told_as_matrix(self, form: Form) -> bool:
        if form == "columns" and self._columns:
            return False
        datatypes = {column.datatype for column in self._columns}
        is_text = datatypes == {Datatype.BYTES}
        if form == "auto":
            is_free_text = is_text and not self._are_named
            return not self._columns or (len(datatypes) == 1 and self._is_numeric) or is_free_text
        if is_text or Datatype.BYTES not in datatypes:
            return True
        message = "a matrix can't hold columns of text beside columns of numbers"
        raise ValueError(message)

    def _matrix_metadata(self) -> TensorMetadata:
        datatypes = {column.datatype for column in self._columns} or {Datatype.FP64}
        datatype = datatypes.pop() if len(datatypes) == 1 else Datatype.FP64
        parameters: dict[str, Parameter] = {}
        if self._are_named:
            parameters["columns"] = [column.name for column in self._columns]
        if self._never_missing and len(self._never_missing) == len(self._columns):
            parameters["nullable"] = False
        if any(column.example is not None or column.categories for column in self._columns):
            parameters["example"] = [column.sample for column in self._columns]
        width = -1 if self._width is None else self._width
        return TensorMetadata(self._input_name, datatype, [-1, width], parameters)

    # ---- what a request holds ----

    def matrix(self, request: InferRequest) -> NDArray[Any]:
        """Read the values as one array.

        A 2-D tensor of one of the `dtypes` and the right width is given as it is, read-only, with
        no copy. Categories are values here, see `codes`.

        Returns:
            Numbers of one of the `dtypes`; an object array of numbers and `str` if a column holds
            text. A tensor is passed on with its own shape if the number of columns is not known.

        Raises:
            InvalidRequestError: The request does not fit: a column is missing, unknown, of another
                number of rows or of another kind; the width differs; an element is not allowed.

        Shapes: [rows, columns].
        """
        inputs = request.inputs
        if len(inputs) == 1:
            array = inputs[0].array
            if (
                array.ndim == 2
                and array.shape[1] == self._free_width
                and array.dtype in self._as_is
            ):
                return array
        if self._is_numeric and (tensor := self._sole(inputs)) is not None:
            if tensor.datatype is not Datatype.BYTES:
                return self._numbers(tensor)
            if self._width is None:
                return _texts_of(tensor, 0).reshape(tensor.shape)
        return self._join(self._cells(inputs), self.arrays(request))

    def codes(self, request: InferRequest) -> NDArray[Any]:
        """Read numbers, and the codes of categories, as one array of floats.

        The code of a category is its place among the trained ones; a missing value and, by the
        argument `unknown`, one that was not trained are NaN. A matrix of numbers may hold codes in
        the place of texts.

        Returns:
            An array of the last of the `dtypes`, FP64 without any. A model without categories gets
            what `matrix` gives.

        Raises:
            InvalidRequestError: See `matrix`.
            TypeError: A column holds text, and has no trained categories.

        Shapes: [rows, columns].
        """
        if not self._has_codes:
            return self.matrix(request)
        cells = self._cells(request.inputs)
        dtype = self._dtypes[-1] if self._dtypes else np.dtype(np.float64)
        made = np.empty((cells[0].array.size, len(cells)), dtype)
        for place, (column, each) in enumerate(zip(self._columns, cells, strict=True)):
            values = self._read(place, each)
            if column.kind is Kind.BOOLEAN:
                values = _as_numbers(values)
            if values.dtype == object:
                message = f"column '{column.name}' holds text and has no trained categories"
                raise TypeError(message)
            made[:, place] = _cast(values, dtype, each, column.name)
            if column.is_coded:
                made[values < 0, place] = math.nan
        return made

    def arrays(self, request: InferRequest) -> list[NDArray[Any]]:
        """Read the values of each column, in the model's order.

        Returns:
            Of numbers the array that was sent, of its own dtype; of text and categories an object
            array, with the column's `missing` where there is no value.

        Raises:
            InvalidRequestError: See `matrix`.

        Shapes: [rows] each.
        """
        cells = self._cells(request.inputs)
        if self._width is None:
            return [self._read_any(each) for each in cells]
        made = []
        for place, (column, each) in enumerate(zip(self._columns, cells, strict=True)):
            values = self._read(place, each)
            if column.is_coded:
                values = _values_of_codes(column, values)
            made.append(values)
        return made

    def frame(self, request: InferRequest) -> pd.DataFrame:
        """Read a DataFrame: text as pandas's text, trained categories as `category`.

        Numbers have the trained datatype where it holds all values of the sent one (and floats
        either way), else the sent one. A column of categories has exactly the trained ones. The
        index is 0, 1 and so on; the data are a copy.

        Raises:
            InvalidRequestError: See `matrix`.
            ModelLoadError: pandas is not installed; see `require_pandas`.
        """
        pandas = self._pandas
        inputs = request.inputs
        tensor = self._sole(inputs) if self._is_numeric else None
        if tensor is not None and self._is_plain_matrix(tensor):
            array = self._numbers(tensor, cast=False)
            if self._columns:
                dtype = self._columns[0].datatype.dtype
                array = _towards(array, dtype, _Cells(0, tensor, array), "")
            made: pd.DataFrame = pandas.DataFrame(array, columns=self._labels, copy=True)
            return made
        cells = self._cells(inputs)
        if self._width is None:
            names: list[str] = [each.tensor.name for each in cells]
            values = [self._series(None, self._read_any(each), each) for each in cells]
        else:
            names = [column.name for column in self._columns]
            values = [
                self._series(place, self._read(place, each), each)
                for place, each in enumerate(cells)
            ]
        made = pandas.DataFrame(dict(zip(names, values, strict=True)))
        if self._width is not None and not self._are_named:
            made.columns = self._labels
        return made

    def _is_plain_matrix(self, tensor: Tensor) -> bool:
        """Tell whether a frame can be made of the whole matrix at once."""
        if tensor.datatype is Datatype.BYTES:
            return False
        if self._width is None:
            return tensor.array.ndim == 2 and tensor.shape[1] != 1
        told = {column.datatype for column in self._columns}
        is_exact = tensor.array.dtype.itemsize <= min(each.dtype.itemsize for each in told)
        return len(told) == 1 and is_exact

    # ---- pandas ----

    @functools.cached_property
    def _pandas(self) -> Any:  # noqa: ANN401  a module
        return _import_pandas()

    @functools.cached_property
    def _labels(self) -> Any:  # noqa: ANN401  an Index
        if self._are_named:
            return self._pandas.Index([column.name for column in self._columns])
        return None if self._width is None else self._pandas.RangeIndex(self._width)

    @functools.cached_property
    def _category_dtypes(self) -> list[Any]:
        make = self._pandas.CategoricalDtype
        return [
            make(list(column.categories)) if column.is_coded else None for column in self._columns
        ]

    @functools.cached_property
    def _text_dtype(self) -> object:
        major = int(self._pandas.__version__.partition(".")[0])
        return "str" if major >= 3 else object

    def _series(self, place: int | None, values: NDArray[Any], cells: _Cells) -> object:
        if place is not None:
            column = self._columns[place]
            if column.is_coded:
                dtype = self._category_dtypes[place]
                return self._pandas.Categorical.from_codes(values, dtype=dtype)
            if column.kind is Kind.NUMBER:
                return _towards(values, column.datatype.dtype, cells, column.name)
        if values.dtype == object and all(
            isinstance(each, str) or _is_missing(each) for each in values.tolist()
        ):
            is_none = place is not None and self._columns[place].missing is None
            dtype = object if is_none else self._text_dtype
            return self._pandas.Series(values, dtype=dtype)
        return values

    # ---- a request's tensors, in order ----

    def _sole(self, inputs: Sequence[Tensor]) -> Tensor | None:
        """Get the tensor that is a matrix or a single row; None if each is a column."""
        if len(inputs) != 1:
            return None
        tensor = inputs[0]
        if self._are_named and self._width != 1 and tensor.name in self._places:
            return None
        return tensor

    def _shaped(self, tensor: Tensor) -> NDArray[Any]:
        """Give a matrix its two dimensions."""
        array, width = tensor.array, self._width
        if width is None:
            return array
        if array.ndim == 1 and (width == 1 or array.size == width):
            array = array.reshape(-1, width)
        if array.ndim != 2 or array.shape[1] != width:
            features = "feature" if width == 1 else "features"
            raise InvalidRequestError(
                "inputs[0].shape",
                expected=f"[-1, {width}] (rows of {width} {features})",
                found=str(list(tensor.shape)),
            )
        return array

    def _cells(self, inputs: Sequence[Tensor]) -> list[_Cells]:
        tensor = self._sole(inputs)
        if tensor is not None and self._width is not None:
            array, width = self._shaped(tensor), self._width
            return [_Cells(0, tensor, array[:, place], place, width) for place in range(width)]
        cells = [_Cells(index, each, _column(index, each)) for index, each in self._order(inputs)]
        for each in cells:
            if each.array.size != cells[0].array.size:
                expected = f"{cells[0].array.size} rows, as '{cells[0].tensor.name}' has"
                raise InvalidRequestError(
                    f"inputs[{each.at}].shape",
                    expected=expected,
                    found=str(list(each.tensor.shape)),
                )
        return cells

    def _order(self, inputs: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        """Put the tensors, each with its index, in the order of the model's columns."""
        given = {tensor.name: (index, tensor) for index, tensor in enumerate(inputs)}
        is_exact = given.keys() == self._places.keys()
        if not self._are_named and not is_exact:
            if self._width not in (None, len(inputs)):
                raise InvalidRequestError(
                    "inputs", expected=f"one tensor, or {self._width}", found=str(len(inputs))
                )
            return list(enumerate(inputs))
        if not is_exact:
            missing = [name for name in self._places if name not in given]
            unknown = [name for name in given if name not in self._places]
            found = " and ".join(
                f"{problem} {_list(names)}"
                for problem, names in (("no", missing), ("the unknown", unknown))
                if names
            )
            raise InvalidRequestError(
                "inputs",
                expected=f"one tensor for each of the {self._width} columns, or one matrix",
                found=found,
            )
        return [given[name] for name in self._places]

    # ---- values ----

    def _numbers(self, tensor: Tensor, *, cast: bool = True) -> NDArray[Any]:
        """Read a matrix of numbers."""
        array = self._shaped(tensor)
        if cast and array.dtype not in self._as_is:
            dtype = self._choose_dtype(array.dtype)
            given, array = array, _cast_loosely(array, dtype)
            is_lost = _lost(given, array)
            if is_lost is not None:
                self._refuse_in_matrix(is_lost, given, f"a number that {dtype} can hold")
        if array.dtype.kind == "f":
            if self._refuses_infinity and np.isinf(array).any():
                self._refuse_in_matrix(np.isinf(array), array, "a finite number")
            for place in self._never_missing:
                if np.isnan(array[:, place]).any():
                    is_missing = np.zeros(array.shape, bool)
                    is_missing[:, place] = np.isnan(array[:, place])
                    self._refuse_in_matrix(is_missing, array, _A_VALUE)
        return array

    def _refuse_in_matrix(
        self, is_wrong: NDArray[np.bool_], array: NDArray[Any], expected: str
    ) -> None:
        place = int(is_wrong.argmax())
        if self._columns:
            expected += f" for '{self._columns[place % len(self._columns)].name}'"
        raise InvalidRequestError(
            f"inputs[0].data[{place}]", expected=expected, found=_show(array.reshape(-1)[place])
        )

    def _choose_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        for each in self._dtypes:
            if np.can_cast(dtype, each, "safe"):
                return each
        return self._dtypes[-1]

    def _join(self, cells: Sequence[_Cells], arrays: list[NDArray[Any]]) -> NDArray[Any]:
        """Make one array of all columns."""
        if self._columns:
            arrays = [
                _as_numbers(each) if column.kind is Kind.BOOLEAN else each
                for column, each in zip(self._columns, arrays, strict=True)
            ]
        if any(each.dtype == object for each in arrays):
            mixed = np.empty((arrays[0].size, len(arrays)), object)
            for place, each in enumerate(arrays):
                mixed[:, place] = each
            return mixed
        wide = np.stack(arrays, axis=1)
        if wide.dtype in self._as_is:
            return wide
        made = _cast_loosely(wide, self._choose_dtype(wide.dtype))
        if (is_lost := _lost(wide, made)) is not None:
            row, place = divmod(int(is_lost.argmax()), len(arrays))
            name = self._columns[place].name if self._columns else cells[place].tensor.name
            _refuse(cells[place], row, f"a number that {made.dtype} can hold", name)
        return made

    def _read(self, place: int, cells: _Cells) -> NDArray[Any]:
        """Read one column: its codes if it has trained categories, else its values."""
        column = self._columns[place]
        if column.is_coded:
            return self._read_codes(place, cells)
        values = _READERS[column.kind](column, cells)
        if values.dtype.kind == "f":
            if self._refuses_infinity and np.isinf(values).any():
                _refuse(cells, int(np.isinf(values).argmax()), "a finite number", column.name)
            if not column.nullable and np.isnan(values).any():
                _refuse(cells, int(np.isnan(values).argmax()), _A_VALUE, column.name)
        elif values.dtype == object and not column.nullable:
            for row, value in enumerate(values.tolist()):
                if _is_missing(value) or value is column.missing:
                    _refuse(cells, row, _A_VALUE, column.name)
        return values

    def _read_any(self, cells: _Cells) -> NDArray[Any]:
        return _read_whatever(Column.any(cells.tensor.name), cells)

    def _read_codes(self, place: int, cells: _Cells) -> NDArray[np.int64]:
        """Look the codes of trained categories up; -1 is a missing or, if allowed, unknown one."""
        column = self._columns[place]
        is_text = column.datatype is Datatype.BYTES
        content_type = _content_type(cells)
        elements: list[Any] = cells.array.tolist()
        if is_text and cells.tensor.datatype is not Datatype.BYTES:
            if not cells.is_of_matrix:
                raise _wrong_datatype(cells, "BYTES", column.name)
            lookup: dict[Any, int] = {code: code for code in range(len(column.categories))}
            lookup[-1] = -1  # what pandas has for a missing one
        else:
            lookup = self._lookups[place]
            if content_type == "pd_json":
                elements = _parse(cells, column.name)
                elements = [each.encode() if isinstance(each, str) else each for each in elements]
            elif not is_text and cells.tensor.datatype is Datatype.BYTES:
                raise _text_in_numbers(cells, column.name)
        try:
            codes = [lookup.get(each, -1) for each in elements]
        except TypeError as error:  # a list or an object in JSON
            raise _not_of_kind(cells, column.name, "a category") from error
        if -1 in codes and (self._refuses_unknown or not column.nullable or lookup.get(-1) == -1):
            self._refuse_categories(column, cells, elements, codes)
        return np.array(codes, np.int64)

    def _refuse_categories(
        self, column: Column, cells: _Cells, elements: list[Any], codes: list[int]
    ) -> None:
        """Raise for the first code that is missing or unknown, where that is not allowed."""
        is_coded_by_caller = column.datatype is Datatype.BYTES and (
            cells.tensor.datatype is not Datatype.BYTES
        )
        for row, (element, code) in enumerate(zip(elements, codes, strict=True)):
            if code >= 0:
                continue
            if _is_missing(element) or (is_coded_by_caller and element == -1):
                if not column.nullable:
                    _refuse(cells, row, _A_VALUE, column.name)
            elif is_coded_by_caller:
                last = len(column.categories) - 1
                _refuse(cells, row, f"the code of a category, 0 to {last},", column.name)
            elif self._refuses_unknown:
                shown = _list([str(each) for each in column.categories])
                _refuse(cells, row, f"one of the categories {shown}", column.name)


def documents(request: InferRequest) -> list[str]:
    """Read one tensor of texts, for a model that takes documents and no table.

    Returns:
        The texts of a BYTES tensor, [rows] or [rows, 1].

    Raises:
        InvalidRequestError: There is not one tensor, or it does not hold text.
    """
    if len(request.inputs) != 1:
        raise InvalidRequestError(
            "inputs", expected="one tensor of documents", found=str(len(request.inputs))
        )
    tensor = request.inputs[0]
    if tensor.datatype is not Datatype.BYTES:
        raise InvalidRequestError(
            "inputs[0].datatype", expected="BYTES (documents)", found=tensor.datatype.value
        )
    cells = _Cells(0, tensor, _column(0, tensor))
    column = Column.text(tensor.name, nullable=False, missing=None)
    texts: list[Any] = _read_texts(column, cells).tolist()
    for row, text in enumerate(texts):
        if text is None:
            _refuse(cells, row, "a text", tensor.name)
    return texts


def require_pandas(distribution: str) -> None:
    """Import pandas when a model loads that needs it.

    Args:
        distribution: The plugin's distribution, whose extra ``pandas`` brings it.

    Raises:
        ModelLoadError: It is not installed.
    """
    try:
        importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            "it finds its columns by name in a DataFrame, which needs pandas; "
            f'install it: pip install "{distribution}[pandas]"'
        ) from error


def _import_pandas() -> Any:  # noqa: ANN401  a module
    try:
        return importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise ModelLoadError("it needs pandas, which is not installed: pip install pandas") from (
            error
        )


# ---- one column ----

_A_VALUE = "a value, since the model takes no missing ones,"


def _column(index: int, tensor: Tensor) -> NDArray[Any]:
    array = tensor.array
    if array.ndim == 1:
        return array
    if array.ndim == 2 and array.shape[1] == 1:
        return array.reshape(-1)
    raise InvalidRequestError(
        f"inputs[{index}].shape",
        expected=f"[-1] or [-1, 1] for '{tensor.name}'",
        found=str(list(tensor.shape)),
    )


def _codes_by_value(column: Column) -> dict[Any, int]:
    if not column.is_coded:
        return {}
    return {
        each.encode() if isinstance(each, str) else each: code
        for code, each in enumerate(column.categories)
    }


def _values_of_codes(column: Column, codes: NDArray[np.int64]) -> NDArray[Any]:
    """Give the category of each code, and `missing` for -1."""
    is_text = column.datatype is Datatype.BYTES
    categories: NDArray[Any] = np.empty(len(column.categories) + 1, object)
    categories[:-1] = column.categories
    categories[-1] = column.missing
    values: NDArray[Any] = categories[codes]
    if not is_text and not (codes < 0).any():
        return values.astype(column.datatype.dtype)
    return values if is_text or not isinstance(column.missing, float) else values.astype(float)


def _as_numbers(values: NDArray[Any]) -> NDArray[Any]:
    """Make 0, 1 and NaN of truth values, some of which are missing."""
    if values.dtype != object:
        return values
    return np.array([float(each) if isinstance(each, bool) else math.nan for each in values])


def _content_type(cells: _Cells) -> object:
    parameters = cells.tensor.parameters
    return parameters.get("content_type", "") if parameters else ""


def _read_numbers(column: Column, cells: _Cells) -> NDArray[Any]:
    if cells.tensor.datatype is not Datatype.BYTES:
        return cells.array
    if _content_type(cells) != "pd_json":
        raise _text_in_numbers(cells, column.name)
    values = _parse(cells, column.name)
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, int | float):
            _refuse(cells, row, "a number", column.name)
    return _typed(values)


def _read_booleans(column: Column, cells: _Cells) -> NDArray[Any]:
    array = cells.array
    if cells.tensor.datatype is Datatype.BOOL:
        return array
    if cells.tensor.datatype is Datatype.BYTES:
        if _content_type(cells) != "pd_json":
            raise _wrong_datatype(cells, "BOOL", column.name)
        values: list[Any] = _parse(cells, column.name)
    else:
        values = array.tolist()
    made = np.empty(len(values), object)
    is_whole = True
    for row, value in enumerate(values):
        if _is_missing(value):
            made[row] = column.missing
            is_whole = False
        elif value in (0, 1):
            made[row] = bool(value)
        else:
            _refuse(cells, row, "true or false", column.name)
    return made.astype(bool) if is_whole else made


def _read_texts(column: Column, cells: _Cells) -> NDArray[Any]:
    if cells.tensor.datatype is not Datatype.BYTES:
        raise _wrong_datatype(cells, "BYTES", column.name)
    content_type = _content_type(cells)
    made = np.empty(cells.array.size, object)
    if content_type == "pd_json":
        values = _parse(cells, column.name)
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                _refuse(cells, row, "a text", column.name)
        made[:] = [column.missing if value is None else value for value in values]
        return made
    elements = cells.array.tolist()
    try:
        made[:] = [element.decode() for element in elements]
    except (UnicodeDecodeError, AttributeError):  # the latter for None
        for row, element in enumerate(elements):
            try:
                made[row] = column.missing if element is None else element.decode()
            except UnicodeDecodeError:
                _refuse(cells, row, "UTF-8 text", column.name)
    return made


def _read_open_categories(column: Column, cells: _Cells) -> NDArray[Any]:
    """Read categories that nobody listed: texts, and whole numbers as text."""
    tensor = cells.tensor
    made = np.empty(cells.array.size, object)
    if tensor.datatype is Datatype.BYTES:
        if _content_type(cells) != "pd_json":
            return _read_texts(column, cells)
        values: list[Any] = _parse(cells, column.name)
    elif cells.array.dtype.kind in "biu":
        values = cells.array.tolist()
    else:
        raise _wrong_datatype(cells, "BYTES or integers", column.name)
    for row, value in enumerate(values):
        if value is None:
            made[row] = column.missing
        elif isinstance(value, str | int):
            made[row] = str(value)
        else:
            _refuse(cells, row, "a text or a whole number", column.name)
    return made


def _read_whatever(column: Column, cells: _Cells) -> NDArray[Any]:
    if cells.tensor.datatype is not Datatype.BYTES:
        return cells.array
    content_type = _content_type(cells)
    if content_type in _PLAIN_TEXT:
        return _read_texts(column, cells)
    if content_type == "pd_json":
        return _typed([column.missing if each is None else each for each in _parse(cells, "")])
    tensor = Tensor(cells.tensor.name, Datatype.BYTES, cells.array)
    values = codecs.decode(tensor, str(content_type), field=f"inputs[{cells.at}]")
    made = np.empty(cells.array.size, object)
    if isinstance(values, list):
        for row, value in enumerate(values):
            made[row] = value
    return made


_READERS = {
    Kind.NUMBER: _read_numbers,
    Kind.BOOLEAN: _read_booleans,
    Kind.TEXT: _read_texts,
    Kind.CATEGORY: _read_open_categories,
    Kind.ANY: _read_whatever,
}


def _texts_of(tensor: Tensor, index: int) -> NDArray[Any]:
    flat = _Cells(index, tensor, tensor.array.reshape(-1))
    return _read_whatever(Column.any(tensor.name), flat)


def _parse(cells: _Cells, name: str) -> list[Any]:
    """Read each element as JSON."""
    values = []
    for row, element in enumerate(cells.array.tolist()):
        try:
            values.append(None if element is None else orjson.loads(element))
        except orjson.JSONDecodeError:
            _refuse(cells, row, "JSON", name)
    return values


def _typed(values: list[Any]) -> NDArray[Any]:
    """Give numbers their dtype, with NaN for None; anything else stays as objects."""
    if all(type(each) is bool for each in values) and values:
        return np.array(values, bool)
    if all(type(each) is int and abs(each) < 2**63 for each in values) and values:
        return np.array(values, np.int64)
    if all(each is None or isinstance(each, int | float) for each in values):
        return np.array([math.nan if each is None else float(each) for each in values], np.float64)
    made = np.empty(len(values), object)
    for row, value in enumerate(values):
        made[row] = value
    return made


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


# ---- casts ----


def _cast_loosely(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _lost(given: NDArray[Any], made: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Find finite numbers that a cast has made infinite; None if there is none."""
    if given.dtype.kind != "f" or given.dtype.itemsize <= made.dtype.itemsize:
        return None
    is_infinite = np.isinf(made)
    if not is_infinite.any():
        return None
    is_lost: NDArray[np.bool_] = is_infinite & np.isfinite(given)
    return is_lost if is_lost.any() else None


def _cast(array: NDArray[Any], dtype: np.dtype[Any], cells: _Cells, name: str) -> NDArray[Any]:
    """Cast the numbers of one column; a finite one that becomes infinite is refused."""
    if array.dtype == dtype:
        return array
    made = _cast_loosely(array, dtype)
    if (is_lost := _lost(array, made)) is not None:
        _refuse(cells, int(is_lost.argmax()), f"a number that {dtype} can hold", name)
    return made


def _towards(array: NDArray[Any], dtype: np.dtype[Any], cells: _Cells, name: str) -> NDArray[Any]:
    """Cast to the trained dtype if that loses no more than digits of a float."""
    if array.dtype == dtype or array.dtype == object:
        return array
    if np.can_cast(array.dtype, dtype, "safe") or array.dtype.kind == "f" == dtype.kind:
        return _cast(array, dtype, cells, name)
    if array.dtype.kind in "iu" and dtype.kind == "f":
        return array.astype(dtype)
    return array


# ---- errors ----


def _refuse(cells: _Cells, row: int, expected: str, name: str) -> NoReturn:
    """Raise for one element.

    Raises:
        InvalidRequestError: Always.
    """
    element = cells.array[row]
    raise InvalidRequestError(
        cells.field(row),
        expected=f"{expected} for '{name}'" if name else expected,
        found=_show(element),
    )


def _not_of_kind(cells: _Cells, name: str, expected: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"inputs[{cells.at}].data", expected=f"{expected} for '{name}'", found="lists or objects"
    )


def _wrong_datatype(cells: _Cells, expected: str, name: str) -> InvalidRequestError:
    where = f" for '{name}'" if name else ""
    return InvalidRequestError(
        f"inputs[{cells.at}].datatype",
        expected=f"{expected}{where}",
        found=cells.tensor.datatype.value,
    )


def _text_in_numbers(cells: _Cells, name: str) -> InvalidRequestError:
    error = _wrong_datatype(cells, "a numeric datatype", name)
    if not cells.array.size:
        return error
    shown = _show(cells.array[0])
    return InvalidRequestError(
        error.field, expected=error.expected, found=f"BYTES ({shown} in data[{cells.start}])"
    )


def _show(value: object) -> str:
    if isinstance(value, bytes):
        text = value[:_LONGEST].decode(errors="backslashreplace")
        return f"'{text}'"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return "null" if value is None else str(value)[:_LONGEST]


def _list(names: list[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in names[:_LISTED])
    more = len(names) - _LISTED
    return f"{listed} and {more} more" if more > 0 else listed
