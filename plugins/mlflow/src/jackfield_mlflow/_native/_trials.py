"""Try both side by side: the plugin serves only if it gives the bits that pyfunc gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield import Datatype, InferRequest, Tensor
from jackfield_mlflow._native._plan import UnfitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jackfield import ModelMetadata, Parameter, Parameters
    from jackfield_mlflow._native._reader import Reader
    from jackfield_mlflow._native._serving import Native

#: Rows that are made up for the comparison, and how many of them are sent alone, too.
_TRIALS = 48
_ALONE = 8


def compare(native: Native, requests: Sequence[InferRequest], *, stacks: bool) -> tuple[str, str]:
    """Let both answer requests.

    Args:
        native: Learns of pyfunc's answers.
        requests: See `trials`.
        stacks: Try first to hand all columns to the plugin as one array, as pyfunc's DataFrame
            does: linear algebra minds the order of an array.

    Returns:
        What was compared, as the end of a sentence; why nothing could be, empty if something was.

    Raises:
        UnfitError: An answer differs.
    """
    reader = native.reader
    reader.stacked = reader.stackable() if stacks else None
    answered, difference, problem = _compare_all(native, requests)
    if reader.stacked is not None and (difference or not answered):
        reader.stacked = None
        answered, difference, problem = _compare_all(native, requests)
    if difference:
        raise UnfitError(f"the plugin answers otherwise than pyfunc: {difference}")
    rows = sum(len(each.inputs[0].array) for each in answered)
    told = f"which gives the same bits as pyfunc on the {rows} rows tried"
    if not _is_even(native, answered):
        told += "; among other rows of a batch a row's last bits differ, as in the framework"
    return told, "" if answered else problem


def _compare_all(
    native: Native, requests: Sequence[InferRequest]
) -> tuple[list[InferRequest], str, str]:
    """Give what both answered alike, how an answer differed, and why another was refused."""
    answered: list[InferRequest] = []
    problem = "no row could be made up"
    for request in requests:
        try:
            difference = native.compare(request)
        except UnfitError as error:
            problem = str(error)
            continue
        if difference:
            return answered, difference, problem
        answered.append(request)
    return answered, "", problem


def _is_even(native: Native, requests: Sequence[InferRequest]) -> bool:
    """Tell whether rows alone get the same bits as together."""
    whole = next((each for each in requests if len(each.inputs[0].array) == _TRIALS), None)
    if whole is None:
        return True
    together = native.infer(whole).outputs[0].array[:_ALONE]
    try:
        alone = [
            native.infer(InferRequest(_rows_of(whole.inputs, place), parameters=whole.parameters))
            for place in range(_ALONE)
        ]
    # a row that is refused alone
    except Exception:  # noqa: BLE001
        return True
    found = np.concatenate([each.outputs[0].array for each in alone])
    return np.array_equal(together, found, equal_nan=together.dtype.kind == "f")


def _rows_of(tensors: Sequence[Tensor], place: int) -> list[Tensor]:
    return [
        Tensor(each.name, each.datatype, each.array[place : place + 1], each.parameters)
        for each in tensors
    ]


# ---- what is tried ----


def trials(
    reader: Reader, inside: ModelMetadata, example: InferRequest | None
) -> list[InferRequest]:
    """Make requests of the example and of rows that are made up, in each form that is read.

    Args:
        reader: Knows the columns.
        inside: What the plugin tells of them.
        example: The model's own.
    """
    found = [] if example is None or not reader.read(example) else [example]
    if not reader.columns:
        return found
    known = {each.name: each.parameters for each in inside.inputs}
    random = np.random.default_rng(7)
    rows = [
        _values(each.datatype, _seen(example, each.name, place), known.get(each.name, {}), random)
        for place, each in enumerate(reader.columns)
    ]
    names = [each.name for each in reader.columns]
    # no column's name
    matrix = next(each for each in ("x", "\x00") if each not in names)

    def add(inputs: list[Tensor], content_type: str) -> None:
        # without a signature pyfunc has to be told what the tensors are
        parameters: dict[str, Parameter] = {"content_type": content_type} if reader.is_free else {}
        found.append(InferRequest(inputs, parameters=parameters))

    for count in (_TRIALS, 1):
        cut = [each[:count] for each in rows]
        if reader.takes_columns:
            add([Tensor.from_array(*each) for each in zip(names, cut, strict=True)], "pd")
            wide = [each[:, None] for each in cut]
            add([Tensor.from_array(*each) for each in zip(names, wide, strict=True)], "pd")
        if reader.takes_matrix:
            add([Tensor.from_array(matrix, np.stack(cut, axis=1))], "np")
    return found


def _values(
    datatype: Datatype, seen: NDArray[Any], told: Parameters, random: np.random.Generator
) -> NDArray[Any]:
    """Make up a column: numbers around those of the example, and texts that the model knows."""
    if datatype is Datatype.BYTES:
        texts = told.get("categories") or seen.tolist() or told.get("example")
        some = texts if isinstance(texts, list) and texts else [texts or "a"]
        encoded = [each if isinstance(each, bytes) else str(each).encode() for each in some]
        return np.array(encoded, object)[random.integers(0, len(some), _TRIALS)]
    if datatype is Datatype.BOOL:
        return random.random(_TRIALS) < 0.5
    values = random.normal(size=_TRIALS)
    if seen.size and seen.dtype != object and np.isfinite(seen).all():
        base = random.choice(seen.astype(np.float64), _TRIALS)
        values = base + values * max(float(np.abs(seen).mean()) / 4, 1e-3)
    elif datatype.dtype.kind in "iu":
        values = np.abs(values) * 4
    if datatype.dtype.kind == "u":
        values = np.abs(values)
    return values.astype(datatype.dtype)


def _seen(example: InferRequest | None, name: str, place: int) -> NDArray[Any]:
    """Give the example's values of a column."""
    for each in example.inputs if example is not None else ():
        array = each.array
        if each.name == name and array.size == len(array):
            return array.reshape(-1)
    if example is not None and len(example.inputs) == 1:
        array = example.inputs[0].array
        if array.ndim == 2 and array.shape[1] > place:
            return array[:, place]
    return np.empty(0)
