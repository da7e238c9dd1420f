"""Read the rows of a request: a table, arrays of the reference's shape, or texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from jackfield import Datatype, InvalidRequestError, ModelLoadError, TensorMetadata
from jackfield.tabular import Column, Columns, documents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield import InferRequest, Tensor
    from jackfield_alibi._detect._facts import Facts
    from jackfield_alibi._detect._options import DetectOptions

_Array: TypeAlias = "NDArray[Any]"
#: Name of the second input of detectors that take one.
CONTEXT = "context"


class Inputs:
    """Reads requests as a detector takes them.

    Args:
        facts: Of the detector.
        options: The operator's.
        dtype: What numbers are cast to; None leaves them as they come.

    Raises:
        ModelLoadError: The names of the features do not fit the reference data.
    """

    def __init__(
        self, facts: Facts, options: DetectOptions, *, dtype: np.dtype[Any] | None
    ) -> None:
        self._facts = facts
        self._dtype = dtype
        self._is_finite = not options.allow_missing
        self._form = _form(facts, options)
        self._columns: Columns | None = None
        if self._form == "table":
            self._columns = self._table(options.feature_names)
        elif options.feature_names:
            raise ModelLoadError(
                "'parameters.extra.feature_names' is for rows of features; the reference data are "
                f"{self._told()}"
            )

    def metadata(self) -> list[TensorMetadata]:
        """Tell the inputs."""
        told = []
        if self._columns is not None:
            told = self._columns.metadata()
        elif self._form == "text":
            told = [TensorMetadata("x", Datatype.BYTES, [-1])]
        else:
            datatype = Datatype.of(self._dtype) if self._dtype is not None else Datatype.FP64
            if self._facts.shape is None:
                told = [TensorMetadata("x", datatype, [-1, -1], {"any_shape": True})]
            else:
                told = [TensorMetadata("x", datatype, [-1, *self._facts.shape])]
        if self._facts.has_context:
            shape = self._facts.context_shape
            datatype = Datatype.of(self._dtype) if self._dtype is not None else Datatype.FP64
            told.append(TensorMetadata(CONTEXT, datatype, [-1, *(shape or (-1,))]))
        return told

    def read(self, request: InferRequest) -> tuple[_Array, _Array | None]:
        """Read the rows, and the context where the detector has one.

        Returns:
            ``[n, ...]`` with n of 1 or more; texts as an object array of `str`.

        Raises:
            InvalidRequestError: They do not fit the reference data.
        """
        context = None
        if self._facts.has_context:
            request, context = self._split(request)
        rows = self._rows(request)
        if not len(rows):
            raise InvalidRequestError(
                "inputs[0].shape", expected="at least one row", found=str(list(rows.shape))
            )
        if self._facts.is_binary and not (is_binary := np.isin(rows, (0, 1))).all():
            # found here, before an online detector took a step for the rows before
            place = int(is_binary.argmin())
            raise InvalidRequestError(
                "inputs",
                expected=f"0 or 1, which {self._facts.name} takes alone",
                found=f"{rows.flat[place]} in row {place // max(rows[0].size, 1)}",
            )
        if context is not None and len(context) != len(rows):
            raise InvalidRequestError(
                f"inputs.{CONTEXT}.shape", expected=f"{len(rows)} rows", found=str(len(context))
            )
        return rows, context

    def _rows(self, request: InferRequest) -> _Array:
        if self._form == "text":
            texts = documents(request)
            made = np.empty(len(texts), object)
            made[:] = texts
            return made
        if self._columns is not None:
            rows = self._columns.matrix(request)
            if self._facts.shape == ():
                rows = rows.reshape(-1)
            return rows
        if len(request.inputs) != 1:
            raise InvalidRequestError(
                "inputs", expected=f"one tensor of {self._told()}", found=str(len(request.inputs))
            )
        return self._array(request.inputs[0], 0, self._facts.shape)

    def _split(self, request: InferRequest) -> tuple[InferRequest, _Array]:
        rest = [each for each in request.inputs if each.name != CONTEXT]
        if len(rest) == len(request.inputs) or not rest:
            found = ", ".join(f"'{each.name}'" for each in request.inputs) or "none"
            raise InvalidRequestError(
                "inputs", expected=f"the rows, and their context as '{CONTEXT}'", found=found
            )
        at, given = next(
            (at, each) for at, each in enumerate(request.inputs) if each.name == CONTEXT
        )
        context = self._array(given, at, self._facts.context_shape)
        return type(request)(rest, request.outputs, request.parameters), context

    def _array(self, tensor: Tensor, at: int, shape: tuple[int, ...] | None) -> _Array:
        if tensor.datatype is Datatype.BYTES:
            raise InvalidRequestError(
                f"inputs[{at}].datatype", expected="numbers", found=tensor.datatype.value
            )
        array = tensor.array
        if not array.ndim or (shape is not None and array.shape[1:] != shape):
            expected = "[-1, …]" if shape is None else str([-1, *shape])
            raise InvalidRequestError(
                f"inputs[{at}].shape",
                expected=f"{expected}, as the reference data are",
                found=str(list(array.shape)),
            )
        if self._dtype is not None and array.dtype != self._dtype:
            with np.errstate(over="ignore"):
                array = array.astype(self._dtype)
        if self._is_finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            place = int((~np.isfinite(array)).argmax())
            raise InvalidRequestError(
                f"inputs[{at}].data[{place}]",
                expected="a finite number",
                found=str(tensor.array.reshape(-1)[place]),
            )
        return array

    def _table(self, names: Sequence[str]) -> Columns:
        facts, shape = self._facts, self._facts.shape
        width = None if shape is None else int(np.prod(shape))
        if names and width not in (None, len(names)):
            raise ModelLoadError(
                f"'parameters.extra.feature_names': expected {width} names, as the reference data "
                f"have features, found {len(names)}"
            )
        width = len(names) or width
        if width is None:
            return Columns(None, refuses_infinity=self._is_finite)
        datatype = Datatype.FP64
        if self._dtype is not None and self._dtype.kind in "biuf":
            datatype = Datatype.of(self._dtype)
        columns = [
            Column.text(name, nullable=False)
            if _is_text(facts.reference, place)
            else Column.number(name, datatype, nullable=not self._is_finite)
            for place, name in enumerate(names or [f"x{place}" for place in range(width)])
        ]
        try:
            return Columns(
                columns,
                are_named=bool(names),
                dtypes=_dtypes(self._dtype),
                refuses_infinity=self._is_finite,
            )
        except ValueError as error:
            raise ModelLoadError(f"'parameters.extra.feature_names': {error}") from error

    def _told(self) -> str:
        if self._form == "text":
            return "texts"
        shape = self._facts.shape
        return "arrays" if shape is None else f"the shape {[-1, *shape]}"


def _form(facts: Facts, options: DetectOptions) -> Literal["table", "array", "text"]:
    if options.input != "auto":
        return options.input
    if facts.shape is not None and len(facts.shape) > 1:
        return "array"
    return "table"


def _dtypes(dtype: np.dtype[Any] | None) -> tuple[np.dtype[Any], ...]:
    if dtype is None or dtype.kind not in "biuf":
        return ()
    # what an integer column of the reference data can't hold is a value that it never had
    return (dtype,) if dtype.kind == "f" else (dtype, np.dtype(np.float64))


def _is_text(reference: _Array | None, place: int) -> bool:
    if reference is None or reference.dtype.kind in "biuf":
        return False
    if reference.dtype.kind in "US":
        return True
    column = reference.reshape(len(reference), -1)[:, place]
    return any(isinstance(each, str) for each in column)


def input_dtype(facts: Facts, preprocess: object) -> np.dtype[Any] | None:
    """Choose what numbers are cast to.

    The reference's own dtype, so that equal values are equal: 5.1 in FP32 and in FP64 are not. One
    that its preprocessing takes, where that stands before it: a network takes FP32 only.
    """
    if facts.dtype is not None:
        return facts.dtype if facts.dtype.kind in "biuf" else None
    if facts.backend in ("pytorch", "tensorflow") and facts.kind != "drift":
        return np.dtype(np.float32)
    if not callable(preprocess) or facts.shape is None:
        return None
    for dtype in (np.float64, np.float32):
        try:
            preprocess(np.zeros((1, *facts.shape), dtype))
        # a function of the operator's may raise anything
        except Exception:  # noqa: BLE001
            continue
        return np.dtype(dtype)
    return None
