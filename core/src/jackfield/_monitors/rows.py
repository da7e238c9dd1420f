"""Turn sampled rows into what a detector takes.

A model may take a tensor for each column and its detector one matrix, or the reverse, or both the
same. Pure functions, called in the monitor's thread.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from jackfield._monitors.intake import Sample
    from jackfield.messages import ModelMetadata, TensorMetadata


class MisfitError(ValueError):
    """Rows are nothing that the detector takes; the text says why."""


class Column(NamedTuple):
    """A tensor of the detector, less its rows."""

    name: str
    datatype: Datatype
    #: Sizes of the dimensions after the first one.
    shape: tuple[int, ...]
    #: How its bytes are written, where the request said so.
    content_type: str


class Rows(NamedTuple):
    """Rows in the detector's form; a record for each, so that one window holds all its tensors."""

    columns: tuple[Column, ...]
    #: ``[n]``, of a structured dtype: a field for each column, by its place.
    records: NDArray[np.void]
    #: Names of the features, where they are known.
    features: Sequence[str]


def fit(
    samples: Sequence[Sample], watched: Sequence[TensorMetadata], detector: ModelMetadata
) -> Iterator[tuple[Rows | MisfitError, int]]:
    """Bring samples into the detector's form.

    Args:
        samples: Oldest first.
        watched: What the watched model's metadata say of the tensors, in its order.
        detector: What the detector says that it takes; no inputs: all as it is.

    Yields:
        For samples of the same form that follow each other: the rows, or why they do not fit; and
        how many rows they are.
    """
    order = {tensor.name: place for place, tensor in enumerate(watched)}
    names = {tensor.name: _names(tensor.parameters.get("columns")) for tensor in watched}

    def ordered(sample: Sample) -> list[Tensor]:
        return sorted(sample.tensors, key=lambda tensor: order.get(tensor.name, len(order)))

    for _, group in itertools.groupby(map(ordered, samples), key=_layout):
        alike = [*group]
        joined = [_join(tensors) for tensors in zip(*alike, strict=True)]
        n_rows = joined[0].shape[0]
        try:
            yield _fit(joined, names, detector), n_rows
        except MisfitError as error:
            yield error, n_rows


def unpack(rows: Rows) -> list[Tensor]:
    """Make tensors of records."""
    return [
        Tensor(
            column.name,
            column.datatype,
            np.ascontiguousarray(rows.records[str(place)]),
            {"content_type": column.content_type} if column.content_type else {},
        )
        for place, column in enumerate(rows.columns)
    ]


def _layout(tensors: Sequence[Tensor]) -> tuple[Column, ...]:
    return tuple(
        Column(tensor.name, tensor.datatype, tensor.array.shape[1:], _content_type(tensor))
        for tensor in tensors
    )


def _content_type(tensor: Tensor) -> str:
    return str(tensor.parameters.get("content_type") or "")


def _join(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    array = np.concatenate([tensor.array for tensor in tensors])
    return Tensor(first.name, first.datatype, array, first.parameters)


def _names(value: object) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list | tuple) else []


def _fit(tensors: list[Tensor], names: dict[str, list[str]], detector: ModelMetadata) -> Rows:
    inputs = detector.inputs
    if not inputs:
        found = [(tensor, tensor.name, tensor.datatype) for tensor in tensors]
        features = _features(tensors, names)
    elif len(inputs) == 1 and len(tensors) == 1:
        (tensor,), (wanted,) = tensors, inputs
        found = [(_as(tensor, wanted), wanted.name, wanted.datatype)]
        features = _features(tensors, names)
    elif len(inputs) == 1:
        (wanted,) = inputs
        columns = _order(tensors, _names(wanted.parameters.get("columns")))
        found = [(_as(_matrix(columns, wanted), wanted), wanted.name, wanted.datatype)]
        features = [tensor.name for tensor in columns]
    else:
        by_name = {tensor.name: tensor for tensor in tensors}
        if len(tensors) == 1 and not set(by_name) & {wanted.name for wanted in inputs}:
            by_name = _split(tensors[0], inputs)
        found = []
        for wanted in inputs:
            if wanted.name in by_name:
                found.append((_as(by_name[wanted.name], wanted), wanted.name, wanted.datatype))
            elif not wanted.parameters.get("optional", False):
                there = ", ".join(f"'{name}'" for name in by_name)
                raise MisfitError(f"the detector takes '{wanted.name}', watched are {there}")
        features = [name for _, name, _ in found]
    columns_found = tuple(
        Column(name, datatype, tensor.array.shape[1:], _content_type(tensor))
        for tensor, name, datatype in found
    )
    fields = [
        (str(place), tensor.array.dtype, column.shape)
        for place, ((tensor, _, _), column) in enumerate(zip(found, columns_found, strict=True))
    ]
    records: NDArray[Any] = np.empty(found[0][0].shape[0], dtype=fields)
    for place, (tensor, _, _) in enumerate(found):
        records[str(place)] = tensor.array
    told = _names(detector.parameters.get("feature_names"))
    return Rows(columns_found, records, told or features)


def _features(tensors: Sequence[Tensor], names: dict[str, list[str]]) -> list[str]:
    if len(tensors) == 1 and len(names) == 1:
        return next(iter(names.values()))  # a lone tensor may have any name in a request
    if len(tensors) == 1:
        return names.get(tensors[0].name, [])
    return [tensor.name for tensor in tensors]


def _order(tensors: list[Tensor], names: Sequence[str]) -> list[Tensor]:
    """Put columns into the detector's order, where it has one; leave out what it does not take."""
    by_name = {tensor.name: tensor for tensor in tensors}
    if not names:
        return tensors
    if missing := [name for name in names if name not in by_name]:
        there = ", ".join(f"'{name}'" for name in by_name)
        raise MisfitError(f"the detector takes the column '{missing[0]}', watched are {there}")
    return [by_name[name] for name in names]


def _matrix(tensors: Sequence[Tensor], wanted: TensorMetadata) -> Tensor:
    """Join columns, ``[n]`` or ``[n, 1]`` each, into one matrix."""
    columns = []
    for tensor in tensors:
        if tensor.array.size != tensor.array.shape[0]:
            raise MisfitError(
                f"'{tensor.name}' has the shape {[-1, *tensor.array.shape[1:]]}, which is no "
                "column of the detector's matrix"
            )
        if (tensor.datatype is Datatype.BYTES) is not (wanted.datatype is Datatype.BYTES):
            raise MisfitError(_datatypes(tensor, wanted))
        columns.append(tensor.array.reshape(-1).astype(wanted.datatype.dtype, copy=False))
    return Tensor(wanted.name, wanted.datatype, np.stack(columns, axis=1))


def _split(tensor: Tensor, inputs: Iterable[TensorMetadata]) -> dict[str, Tensor]:
    """Cut a matrix into the columns that the detector takes, in its order."""
    needed = [*inputs]
    if tensor.array.ndim != 2 or tensor.array.shape[1] != len(needed):
        raise MisfitError(
            f"'{tensor.name}' has the shape {[-1, *tensor.array.shape[1:]]}, the detector takes "
            f"{len(needed)} columns"
        )
    return {
        wanted.name: Tensor(
            wanted.name, tensor.datatype, np.ascontiguousarray(tensor.array[:, place])
        )
        for place, wanted in enumerate(needed)
    }


def _as(tensor: Tensor, wanted: TensorMetadata) -> Tensor:
    """Bring a tensor to the datatype and the dimensions of one of the detector's inputs."""
    array = tensor.array
    if tensor.datatype is not wanted.datatype:
        if Datatype.BYTES in (tensor.datatype, wanted.datatype):
            raise MisfitError(_datatypes(tensor, wanted))
        dtype = wanted.datatype.dtype
        if array.dtype.kind == "f" and dtype.kind in "iu" and not _are_whole(array, dtype):
            raise MisfitError(f"{_datatypes(tensor, wanted)}, and not all of its numbers are whole")
        array = array.astype(wanted.datatype.dtype)
    if not wanted.parameters.get("any_shape", False) and wanted.shape:
        sizes = wanted.shape
        if array.ndim == len(sizes) + 1 and array.shape[-1] == 1:
            array = array.reshape(array.shape[:-1])
        elif array.ndim + 1 == len(sizes) and sizes[-1] in (1, -1):
            array = array[..., np.newaxis]
        tail = array.shape[1:]
        if array.ndim != len(sizes) or any(
            size not in (-1, found) for size, found in zip(sizes[1:], tail, strict=True)
        ):
            raise MisfitError(
                f"'{tensor.name}' has the shape {[-1, *tail]}, the detector's '{wanted.name}' "
                f"{[*sizes]}"
            )
    return Tensor(wanted.name, wanted.datatype, array, tensor.parameters)


def _are_whole(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Tell whether floats are whole numbers that an integer holds: codes, as many models take."""
    limits, most = np.iinfo(dtype), 2.0**53
    low, high = max(float(limits.min), -most), min(float(limits.max), most)
    return bool(((array == np.rint(array)) & (low <= array) & (array <= high)).all())


def _datatypes(tensor: Tensor, wanted: TensorMetadata) -> str:
    return f"'{tensor.name}' is {tensor.datatype}, the detector's '{wanted.name}' {wanted.datatype}"
