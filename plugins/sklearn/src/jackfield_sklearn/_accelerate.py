"""Decide when a model loads whether its accelerated form serves, and say why or why not."""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield import InferRequest, RequestedOutput, Tensor
from jackfield.tabular import Kind, Output, Outputs
from jackfield_sklearn import _samples
from jackfield_sklearn._estimator import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from jackfield import InferResponse, Parameter
    from jackfield.tabular import Column, Columns
    from jackfield_sklearn._onnx import Converted

#: Largest difference of a probability, and of a value relative to its size, that counts as equal:
#: what the order of additions may change in doubles, with room to spare.
TOLERANCE = 1e-9
#: Calls that are timed, rows that are compared alone, and seconds and rows for comparing.
_TIMED = 5
_SINGLE = 10
_SECONDS = 0.5
_LEAST = 400


@dataclasses.dataclass(frozen=True)
class Accelerated:
    """What became of the wish to accelerate."""

    #: None if the estimator itself serves.
    form: Converted | None
    outputs: Outputs | None
    #: For the metadata.
    report: dict[str, Parameter]
    #: For the log.
    text: str


class _UnequalError(Exception):
    pass


def accelerate(
    estimator: object,
    columns: Columns,
    original: Callable[[InferRequest], InferResponse],
    *,
    threads: int,
    samples: Path | None,
    default: str,
    is_column_2d: bool,
) -> Accelerated:
    """Convert the estimator, compare, measure.

    Args:
        estimator: A fitted one.
        columns: Of its input.
        original: Answers a request by the estimator itself.
        threads: Of ONNX Runtime's pool.
        samples: File of stored rows.
        default: Name of the output that answers a request which names none.
        is_column_2d: See `Outputs`.

    Raises:
        ModelLoadError: The stored samples can't be read.
    """
    missing = [
        name for name in ("skl2onnx", "onnxruntime") if importlib.util.find_spec(name) is None
    ]
    if missing:
        return _not(f"{' and '.join(missing)} not installed: jackfield-sklearn[onnx]")
    # imported here: an extra brings them
    from jackfield_sklearn import _onnx

    try:
        form, seconds = _onnx.convert(estimator, columns, threads)
        rows = _samples.generated(
            columns.columns, _onnx.trees_of(estimator), list(parts(estimator))
        )
    except _onnx.CannotConvertError as error:
        return _not(str(error))
    rows = _thinned(rows, columns, form.names, original)
    kept = [] if samples is None else _samples.stored(samples, len(columns.columns))
    rows = kept + rows
    outputs = Outputs(
        [
            Output(name, lambda found, _asked, place=place: found[place])
            for place, name in sorted(enumerate(form.names), key=lambda each: each[1] != default)
        ],
        is_column_2d=is_column_2d,
    )
    try:
        compared, difference = _compare(form, outputs, original, columns, rows)
    except _UnequalError as error:
        return _not(str(error))
    form.takes_fp32 = True
    try:
        _compare(form, outputs, original, columns, rows, dtype=np.dtype(np.float32))
    except _UnequalError:
        form.takes_fp32 = False
    slow, fast = _time(form, outputs, original, columns, rows)
    if fast >= slow:
        return _not(f"one row takes {fast * 1e6:.0f} us by ONNX Runtime, {slow * 1e6:.0f} without")
    text = (
        f"served by ONNX Runtime: labels equal and numbers within {TOLERANCE:g} of scikit-learn's "
        f"(largest difference {difference:.1e}) on {compared} rows, {len(kept)} of them "
        f"stored; one row {fast * 1e6:.0f} us instead of {slow * 1e6:.0f}; converted in "
        f"{seconds:.2f} s"
    )
    return Accelerated(
        form,
        outputs,
        {
            "accelerated": "onnx",
            "accelerated_outputs": list(form.names),
            "compared_rows": compared,
            "compared_stored_rows": len(kept),
            "largest_difference": difference,
            "tolerance": TOLERANCE,
        },
        text,
    )


def _not(why: str) -> Accelerated:
    report: dict[str, Parameter] = {"accelerated": "off", "not_accelerated": why}
    return Accelerated(None, None, report, f"served by scikit-learn itself: {why}")


def _request(
    rows: Sequence[Sequence[Any]],
    columns: Sequence[Column],
    names: tuple[str, ...],
    dtype: np.dtype[Any],
) -> InferRequest:
    asked = [RequestedOutput(name) for name in names]
    if all(each.kind is Kind.NUMBER for each in columns):
        return InferRequest([Tensor.from_array("rows of samples", np.array(rows, dtype))], asked)
    return InferRequest(
        [
            Tensor.from_array(
                column.name,
                [row[place] for row in rows]
                if column.kind is Kind.TEXT
                else np.array([row[place] for row in rows], dtype),
            )
            for place, column in enumerate(columns)
        ],
        asked,
    )


def _answer(form: Converted, outputs: Outputs, request: InferRequest) -> InferResponse | None:
    rows = form.read(request)
    return None if rows is None else outputs.infer(request, tuple(form.compute(rows)))


def _compare(
    form: Converted,
    outputs: Outputs,
    original: Callable[[InferRequest], InferResponse],
    columns: Columns,
    rows: list[list[Any]],
    *,
    dtype: np.dtype[Any] = np.dtype(np.float64),  # noqa: B008  a value
) -> tuple[int, float]:
    """Compare both forms on all rows together, and on a few alone.

    Returns:
        The number of rows compared and the largest difference.

    Raises:
        _UnequalError: They differ; the text says where.
    """
    batches = [rows]
    if dtype == np.float64:
        batches += [[row] for row in rows[:: max(1, len(rows) // _SINGLE)]]
    largest = 0.0
    for batch in batches:
        request = _request(batch, columns.columns, form.names, dtype)
        try:
            expected = original(request)
        # made-up rows may be refused, and the estimator be anybody's code
        except Exception as error:
            raise _UnequalError(f"scikit-learn refused the samples: {error}") from error
        try:
            found = _answer(form, outputs, request)
        except Exception as error:
            raise _UnequalError(f"ONNX Runtime refused the samples: {error}") from error
        if found is None:
            raise _UnequalError("the samples hold what only scikit-learn is asked about")
        for one, other in zip(expected.outputs, found.outputs, strict=True):
            largest = max(largest, _difference(one, other))
    return len(rows), largest


def _difference(expected: Tensor, found: Tensor) -> float:
    name = expected.name
    if (expected.datatype, expected.shape) != (found.datatype, found.shape):
        raise _UnequalError(
            f"'{name}' is {expected.datatype.value} {list(expected.shape)} by scikit-learn, "
            f"{found.datatype.value} {list(found.shape)} by ONNX Runtime"
        )
    one, other = expected.array, found.array
    if one.dtype.kind != "f":
        if count := int((one != other).sum()):
            raise _UnequalError(f"'{name}' differs in {count} of {one.shape[0]} rows")
        return 0.0
    with np.errstate(invalid="ignore"):
        gap = np.abs(one - other) / np.maximum(1.0, np.abs(one))
    gap[one == other] = 0.0
    largest = float(gap.max(initial=0.0))
    if not largest <= TOLERANCE:
        raise _UnequalError(f"'{name}' differs by {largest:.1e}, more than {TOLERANCE:g}")
    return largest


def _thinned(
    rows: list[list[Any]],
    columns: Columns,
    names: tuple[str, ...],
    original: Callable[[InferRequest], InferResponse],
) -> list[list[Any]]:
    """Leave as many rows out, evenly, as the estimator is too slow for."""
    part = rows[:: max(1, len(rows) // _LEAST)]
    begin = time.perf_counter()
    try:
        original(_request(part, columns.columns, names, np.dtype(np.float64)))
    # comparing tells what is wrong
    except Exception:  # noqa: BLE001
        return part
    seconds = (time.perf_counter() - begin) * len(rows) / len(part)
    return rows[:: 1 + int(seconds / _SECONDS)] if seconds > _SECONDS else rows


def _time(
    form: Converted,
    outputs: Outputs,
    original: Callable[[InferRequest], InferResponse],
    columns: Columns,
    rows: list[list[Any]],
) -> tuple[float, float]:
    """Measure one row by scikit-learn and by ONNX Runtime, the best of a few, in seconds."""
    request = _request(rows[:1], columns.columns, form.names[:1], np.dtype(np.float64))
    calls: list[Callable[[], object]] = [
        lambda: original(request),
        lambda: _answer(form, outputs, request),
    ]
    best = []
    for call in calls:
        times = []
        for _ in range(_TIMED):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        best.append(min(times))
    return best[0], best[1]
