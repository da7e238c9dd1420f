"""Read what a request wants explained: rows of features, images, or texts; all of it finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import numpy as np

from jackfield import Datatype, InvalidRequestError, TensorMetadata
from jackfield.tabular import Column, Columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield import InferRequest, Parameter, Tensor
    from jackfield_alibi._explain._explanation import Engine, Instances, Material

#: Name of the input that holds labels.
LABELS = "y"
_ROWS = 2


class Given(NamedTuple):
    """What a request gives."""

    instances: Instances
    #: [n]; None where the request has none.
    labels: NDArray[Any] | None = None


class _Reader(Protocol):
    def metadata(self) -> list[TensorMetadata]: ...

    def read(self, request: InferRequest) -> Instances: ...


class Inputs:
    """Reads requests to one explainer, as its metadata tell.

    Args:
        engine: May know what it takes.
        material: Has the target and the reference data, which tell otherwise.
    """

    def __init__(self, engine: Engine, material: Material) -> None:
        self._takes_labels = bool(getattr(engine, "takes_labels", False))
        told = _told(engine, material)
        #: The shape of one instance; (-1,) where it is not known.
        self.instance: tuple[int, ...] = tuple(told.shape[1:])
        self._reader: _Reader
        if told.datatype is Datatype.BYTES:
            self._reader = _Texts(told)
        elif len(told.shape) == _ROWS:
            self._reader = _Rows(told, material.feature_names)
        else:
            self._reader = _Arrays(told)

    def metadata(self) -> list[TensorMetadata]:
        """Tell the inputs."""
        told = self._reader.metadata()
        if not self._takes_labels:
            return told
        parameters: dict[str, Parameter] = {
            "optional": True,
            "description": "labels of the rows; those of the reference data by default",
        }
        return [*told, TensorMetadata(LABELS, Datatype.FP64, [-1], parameters)]

    def read(self, request: InferRequest) -> Given:
        """Read the instances; none of them may have been given.

        Raises:
            InvalidRequestError: They do not fit; the error has the shape expected and that found.
        """
        labels = None
        if self._takes_labels:
            named = [each for each in request.inputs if each.name == LABELS]
            if named:
                rest = [each for each in request.inputs if each.name != LABELS]
                request = msgspec.structs.replace(request, inputs=rest)
                labels = _labels_of(named[0])
        if not request.inputs:
            raise InvalidRequestError("inputs", expected="rows to explain", found="none")
        instances = self._reader.read(request)
        if labels is not None and len(labels) != len(instances):
            raise InvalidRequestError(
                f"input '{LABELS}'",
                expected=f"a label for each of {len(instances)} rows",
                found=f"{len(labels)}",
            )
        return Given(instances, labels)


def _told(engine: Engine, material: Material) -> TensorMetadata:
    """Find what is taken: the engine knows best, then the reference data, then the target."""
    name = (material.target.input_name if material.target is not None else "") or "x"
    if engine.input is not None:
        return msgspec.structs.replace(engine.input, name=engine.input.name or name)
    if material.reference is not None:
        shape = [-1, *material.reference.shape[1:]]
        return TensorMetadata(name, Datatype.FP64, shape)
    if material.width is not None:
        return TensorMetadata(name, Datatype.FP64, [-1, material.width])
    shape = list(material.target_shape)
    return TensorMetadata(name, Datatype.FP64, shape if len(shape) >= _ROWS else [-1, -1])


class _Rows:
    """Rows of numbers: a matrix, or columns by their names."""

    def __init__(self, told: TensorMetadata, names: Sequence[str]) -> None:
        width = told.shape[1]
        if width < 0:
            self._columns = Columns.unnamed(
                None, refuses_infinity=True, nullable=False, input_name=told.name
            )
        elif len(names) == width:
            self._columns = Columns(
                [Column.number(each, nullable=False) for each in names],
                dtypes=(np.float64, np.float32),
                refuses_infinity=True,
                input_name=told.name,
            )
        else:
            self._columns = Columns.unnamed(
                width,
                dtypes=(np.float64, np.float32),
                refuses_infinity=True,
                nullable=False,
                input_name=told.name,
            )

    def metadata(self) -> list[TensorMetadata]:
        return self._columns.metadata(form="matrix")

    def read(self, request: InferRequest) -> NDArray[Any]:
        sole = request.inputs[0]
        width = self._columns.width
        if len(request.inputs) == 1 and width is not None and sole.array.ndim == _ROWS:
            _check_shape(sole, (-1, width))
        found = self._columns.matrix(request)
        if found.ndim != _ROWS or found.dtype.kind not in "fiub":
            raise InvalidRequestError(
                "inputs[0]",
                expected="a matrix of numbers, [rows, features]",
                found=f"{sole.datatype} {list(found.shape)}",
            )
        found = found if found.dtype.kind == "f" else found.astype(np.float64)
        if width is None:
            _check_finite(found)
        return found


class _Arrays:
    """Images, or instances of any other number of dimensions."""

    def __init__(self, told: TensorMetadata) -> None:
        self._told = told

    def metadata(self) -> list[TensorMetadata]:
        return [self._told]

    def read(self, request: InferRequest) -> NDArray[Any]:
        tensor = _only(request)
        if tensor.datatype is Datatype.BYTES:
            raise InvalidRequestError(
                "inputs[0].datatype", expected=f"numbers {list(self._told.shape)}", found="BYTES"
            )
        _check_shape(tensor, self._told.shape)
        array = tensor.array
        found = array if array.dtype.kind == "f" else array.astype(np.float64)
        _check_finite(found)
        return found


class _Texts:
    """Texts, [n] or [n, 1]."""

    def __init__(self, told: TensorMetadata) -> None:
        self._told = told

    def metadata(self) -> list[TensorMetadata]:
        return [self._told]

    def read(self, request: InferRequest) -> list[str]:
        tensor = _only(request)
        if tensor.datatype is not Datatype.BYTES:
            raise InvalidRequestError(
                "inputs[0].datatype", expected="BYTES (texts)", found=tensor.datatype.value
            )
        if tensor.array.ndim > _ROWS or (tensor.array.ndim == _ROWS and tensor.shape[1] != 1):
            raise InvalidRequestError(
                "inputs[0].shape", expected="[texts] or [texts, 1]", found=str(list(tensor.shape))
            )
        try:
            texts = [each.decode() for each in tensor.array.reshape(-1).tolist()]
        except UnicodeDecodeError as error:
            raise InvalidRequestError(
                "inputs[0].data", expected="texts in UTF-8", found=f"bytes that are not: {error}"
            ) from error
        for place, text in enumerate(texts):
            if not text.strip():
                raise InvalidRequestError(
                    f"inputs[0].data[{place}]", expected="a text with words", found=repr(text)
                )
        return texts


def _only(request: InferRequest) -> Tensor:
    if len(request.inputs) != 1:
        raise InvalidRequestError(
            "inputs", expected="one tensor", found=f"{len(request.inputs)} tensors"
        )
    return request.inputs[0]


def _check_shape(tensor: Tensor, expected: Sequence[int]) -> None:
    """Hold a tensor's shape against what is taken; -1 is any size."""
    found = tensor.shape
    if len(found) != len(expected) or any(
        size not in (-1, has) for size, has in zip(expected, found, strict=True)
    ):
        raise InvalidRequestError(
            f"input '{tensor.name}'", expected=f"shape {list(expected)}", found=str(list(found))
        )


def _check_finite(array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        place = [int(each) for each in np.argwhere(~np.isfinite(array))[0]]
        raise InvalidRequestError(
            f"inputs[0].data{place}", expected="a finite number", found=str(array[tuple(place)])
        )


def _labels_of(tensor: Tensor) -> NDArray[Any]:
    array = tensor.array
    if array.ndim > _ROWS or (array.ndim == _ROWS and tensor.shape[1] != 1):
        raise InvalidRequestError(
            f"input '{LABELS}'", expected="shape [-1]", found=str(list(tensor.shape))
        )
    flat = array.reshape(-1)
    if tensor.datatype is Datatype.BYTES:
        return np.array([each.decode(errors="replace") for each in flat.tolist()])
    if flat.dtype.kind == "f":
        _check_finite(flat)
    return flat
