"""Serve an estimator by ONNX Runtime, where that answers what the estimator itself answers.

`convert` makes the form; whoever calls it compares. Imported where skl2onnx and ONNX Runtime are
installed only.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import DoubleTensorType, StringTensorType
from sklearn.base import is_classifier, is_regressor

from jackfield.tabular import Kind
from jackfield_sklearn._estimator import parts
from jackfield_sklearn._trees import (
    CONVERTERS,
    SHAPES,
    CannotConvertError,
    nodes_of,
    raise_version,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jackfield import InferRequest
    from jackfield.tabular import Columns
    from jackfield_sklearn._trees import Nodes

__all__ = ["CannotConvertError", "Converted", "convert", "trees_of"]

#: Most nodes of trees, and most numbers of all else that is converted. Trees of 180,000 nodes
#: took two seconds.
MOST_NODES = 500_000
MOST_NUMBERS = 10_000_000
#: Rows beyond this size go to the estimator, which says what it can't take. The sum of the squares
#: of all values is held to its square: one look finds NaN, infinities and such values.
_LARGEST = 1e20
_LARGEST_SQUARE = _LARGEST**2


class Converted:
    """The converted form: reads a request's rows, and computes labels, probabilities or values.

    Args:
        session: Has the outputs of `names`, in that order.
        names: What they are, as the plugin's outputs are called.
        columns: Reads requests.
        dtype: Of the labels or values; None leaves what ONNX has.
        by_column: Each column is an input of its own.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        names: tuple[str, ...],
        columns: Columns,
        dtype: np.dtype[Any] | None,
        *,
        by_column: bool,
    ) -> None:
        self._run = session.run
        self._inputs = [each.name for each in session.get_inputs()]
        self._outputs = [each.name for each in session.get_outputs()][: len(names)]
        self.names = names
        self._columns = columns
        self._dtype = dtype
        self._by_column = by_column
        self._known = [
            frozenset(each.categories) if each.kind is Kind.TEXT else None
            for each in columns.columns
        ]
        #: Whether rows of FP32 are answered as the estimator answers them; whoever compares says.
        self.takes_fp32 = False

    def read(self, request: InferRequest) -> dict[str, NDArray[Any]] | None:
        """Read a request's rows.

        Returns:
            None where the estimator has to answer, or to refuse: a value is missing, infinite, huge
            or of an unknown category, there are no rows, or they are of another datatype.

        Raises:
            InvalidRequestError: See `Columns.matrix`.
        """
        if not self._by_column:
            rows = self._numbers(self._columns.matrix(request))
            return None if rows is None else {self._inputs[0]: rows}
        found = {}
        arrays = self._columns.arrays(request)
        for name, array, known in zip(self._inputs, arrays, self._known, strict=True):
            if known is None:
                read = self._numbers(array)
            else:
                read = array if array.size and known.issuperset(array.tolist()) else None
            if read is None:
                return None
            found[name] = read.reshape(-1, 1)
        return found

    def _numbers(self, array: NDArray[Any]) -> NDArray[Any] | None:
        dtype = array.dtype
        if dtype != np.float64:
            if dtype.kind not in "biu" and not (dtype == np.float32 and self.takes_fp32):
                return None
            array = array.astype(np.float64)
        flat = array.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            square = flat.dot(flat)
        return array if flat.size and square < _LARGEST_SQUARE else None

    def compute(self, rows: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute all outputs, in the order of `names`."""
        found: list[NDArray[Any]] = self._run(self._outputs, rows)
        first = found[0]
        if self._dtype is not None:
            if first.dtype != self._dtype:
                first = first.astype(self._dtype)
            if first.ndim != 1:
                first = first.reshape(-1)
            found[0] = first
        return found


def trees_of(estimator: object) -> list[tuple[object, list[Nodes]]]:
    """List the trees inside, each list with the transformer that rows pass before, or None."""
    found: list[tuple[object, list[Nodes]]] = []
    last = estimator
    before = None
    if hasattr(estimator, "steps"):
        last = estimator.steps[-1][1]
        before = estimator[:-1] if len(estimator.steps) > 1 else None  # type: ignore[index]
    if nodes := nodes_of(last):
        found.append((before, nodes))
    return found


def convert(estimator: object, columns: Columns, threads: int) -> tuple[Converted, float]:
    """Convert a classifier, a regressor or a transformer.

    Args:
        estimator: A fitted one.
        columns: Its columns.
        threads: Of ONNX Runtime's pool.

    Returns:
        The form, and the seconds that it took.

    Raises:
        CannotConvertError: It is too large, or has no ONNX form; the text says why.
    """
    begin = time.perf_counter()
    if columns.width is None:
        raise CannotConvertError("its columns are not known")
    if is_classifier(estimator):
        names: tuple[str, ...] = ("predict",)
        names += ("predict_proba",) if hasattr(estimator, "predict_proba") else ()
        classes = getattr(estimator, "classes_", None)
        if not isinstance(classes, np.ndarray) or classes.ndim != 1:
            raise CannotConvertError("it predicts several targets")
        dtype = None if classes.dtype.kind in "UO" else classes.dtype
    elif is_regressor(estimator):
        names, dtype = ("predict",), np.dtype(np.float64)
    else:
        raise CannotConvertError("it is neither a classifier nor a regressor")
    _check_size(estimator)
    is_numeric = all(each.kind is Kind.NUMBER for each in columns.columns)
    if any(each.kind not in (Kind.NUMBER, Kind.TEXT) for each in columns.columns):
        raise CannotConvertError("nothing tells what some of its columns hold")
    by_column = not is_numeric
    if by_column:
        kinds = {Kind.NUMBER: DoubleTensorType, Kind.TEXT: StringTensorType}
        types = [(each.name, kinds[each.kind]([None, 1])) for each in columns.columns]
    else:
        types = [("x", DoubleTensorType([None, columns.width]))]
    try:
        model = convert_sklearn(
            estimator,
            initial_types=types,
            options={"zipmap": False} if "predict_proba" in names else None,
            custom_conversion_functions=CONVERTERS,
            custom_shape_calculators=SHAPES,
            target_opset={"": 18, "ai.onnx.ml": 3},
        )
        raise_version(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # a thread that spins while it waits takes the core from who has work
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except CannotConvertError:
        raise
    # skl2onnx and ONNX Runtime say in many ways that they can't
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise CannotConvertError(f"{type(error).__name__}: {text}") from error
    if len(session.get_inputs()) != len(types):
        raise CannotConvertError("it does not use all of its columns")
    converted = Converted(session, names, columns, dtype, by_column=by_column)
    return converted, time.perf_counter() - begin


def _check_size(estimator: object) -> None:
    nodes = numbers = 0
    for part in parts(estimator):
        if hasattr(part, "n_features_in_"):  # it is fitted
            nodes += sum(len(each.left) for each in nodes_of(part))
        for value in vars(part).values() if hasattr(part, "__dict__") else ():
            numbers += value.size if isinstance(value, np.ndarray) else 0
    if nodes > MOST_NODES:
        raise CannotConvertError(f"its trees have {nodes} nodes, more than {MOST_NODES}")
    if numbers > MOST_NUMBERS:
        raise CannotConvertError(f"it holds {numbers} numbers, more than {MOST_NUMBERS}")
