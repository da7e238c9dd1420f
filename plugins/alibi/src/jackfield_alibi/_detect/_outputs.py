"""Make tensors of what detectors answer: rows as rows, or in MLServer's shapes.

Alibi Detect answers with a dict for each call of `predict`; None in it is what the detector does
not have. Here it is left out, or NaN where a tensor has to have a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from jackfield import Datatype, InvalidRequestError, Tensor, TensorMetadata
from jackfield_alibi._detect._facts import REFERENCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from jackfield import InferRequest, Parameter
    from jackfield_alibi._detect._facts import Facts

_Array: TypeAlias = "NDArray[Any]"
_Data: TypeAlias = "Mapping[str, Any]"
#: The output that holds the reference data.
REFERENCE = "reference"


class Verdict(NamedTuple):
    """What a detector said of some rows."""

    data: _Data
    #: How many rows it is about.
    rows: int


class _Output(NamedTuple):
    name: str
    datatype: Datatype
    #: Past the first dimension; -1 for any size.
    shape: tuple[int, ...]
    make: Callable[[Sequence[Verdict]], _Array | None]
    is_on_request: bool = False


def needs_verdict(request: InferRequest) -> bool:
    """Whether anything is to be computed; the reference data are there already."""
    return not request.outputs or any(each.name != REFERENCE for each in request.outputs)


class Answers:
    """The outputs of one detector.

    Args:
        facts: Of the detector.
        defaults: The arguments of `predict` that hold for requests which set none.
    """

    def __init__(self, facts: Facts, defaults: Mapping[str, Any]) -> None:
        self._facts = facts
        if facts.kind == "drift":
            listed = _online_drift(facts) if facts.is_online else _drift(facts, defaults)
        else:
            listed = _rows(facts, defaults)
        self._outputs = {each.name: each for each in listed if _is_given(each.name, defaults)}
        self._reference = _few(facts.reference)

    def metadata(self) -> list[TensorMetadata]:
        """Tell the outputs, those on request at the end."""
        told = []
        for each in self._outputs.values():
            parameters: dict[str, Parameter] = {"on_request": True} if each.is_on_request else {}
            told.append(TensorMetadata(each.name, each.datatype, [-1, *each.shape], parameters))
        if self._reference is not None:
            tensor = Tensor.from_array(REFERENCE, self._reference)
            told.append(
                TensorMetadata(
                    REFERENCE, tensor.datatype, [-1, *tensor.shape[1:]], {"on_request": True}
                )
            )
        return told

    def tensors(self, request: InferRequest, verdicts: Sequence[Verdict]) -> list[Tensor]:
        """Make the tensors that the request asks for.

        Raises:
            InvalidRequestError: It asks for one that its own parameters leave out.
        """
        if not request.outputs:
            names = [each.name for each in self._outputs.values() if not each.is_on_request]
            found = ((name, self._make(name, verdicts)) for name in names)
            return [Tensor.from_array(name, array) for name, array in found if array is not None]
        tensors = []
        for index, wanted in enumerate(request.outputs):
            if wanted.name not in self._outputs and wanted.name != REFERENCE:
                raise InvalidRequestError(
                    f"outputs[{index}].name",
                    expected=f"one of {', '.join(sorted([*self._outputs, REFERENCE]))}",
                    found=f"'{wanted.name}'",
                )
            array = self._make(wanted.name, verdicts)
            if array is None:
                raise InvalidRequestError(
                    f"outputs[{index}].name",
                    expected="an output that 'predict_parameters' leave in",
                    found=f"'{wanted.name}'",
                )
            tensors.append(Tensor.from_array(wanted.name, array))
        return tensors

    def _make(self, name: str, verdicts: Sequence[Verdict]) -> _Array | None:
        if name == REFERENCE:
            return self._reference
        output = self._outputs[name]
        if not verdicts:
            return np.empty((0, *(max(each, 0) for each in output.shape)), output.datatype.dtype)
        array = output.make(verdicts)
        return None if array is None else array.astype(output.datatype.dtype, copy=False)


def _is_given(name: str, defaults: Mapping[str, Any]) -> bool:
    """Whether the operator's arguments leave an output in."""
    return name == "threshold" or bool(defaults.get(f"return_{name}", True))


def _few(reference: _Array | None) -> _Array | None:
    """Choose rows at even distances; texts of NumPy's own kind become objects."""
    if reference is None:
        return None
    if len(reference) > REFERENCE_ROWS:
        places = np.linspace(0, len(reference) - 1, REFERENCE_ROWS).round().astype(np.int64)
        reference = reference[places]
    if reference.dtype.kind not in "biuf":
        made = np.empty(reference.shape, object)
        made.reshape(-1)[:] = [
            each if isinstance(each, bytes) else str(each) for each in reference.reshape(-1)
        ]
        return made
    return reference


# ---- detectors of drift ----


def _drift(facts: Facts, defaults: Mapping[str, Any]) -> list[_Output]:
    is_by_feature = defaults.get("drift_type") == "feature"
    shape = (facts.width,) if is_by_feature else ()
    listed = [
        _Output("is_drift", Datatype.INT64, shape, _each("is_drift")),
        _Output("p_val", Datatype.FP64, (facts.width,), _each("p_val", at_least=1)),
        _Output("distance", Datatype.FP64, (facts.width,), _each("distance", at_least=1)),
        _Output("threshold", Datatype.FP64, (), _each("threshold", reduce=_least)),
        _Output("rows", Datatype.INT64, (), lambda each: np.array([one.rows for one in each])),
    ]
    if not defaults.get("return_p_val", True):
        listed = [each for each in listed if each.name != "threshold"]
    if facts.has_distance_threshold:
        listed.append(_extra("distance_threshold", ()))
    if facts.is_classifier:
        listed += [_extra("probs_ref", (-1,)), _extra("probs_test", (-1,))]
    if facts.name == "SpotTheDiffDrift":
        row = facts.shape if facts.shape is not None else (-1,)
        listed += [_extra("diffs", (-1, *row)), _extra("diff_coeffs", (-1,))]
    if defaults.get("return_coupling"):
        listed += [_extra(f"coupling_{pair}", (-1, -1)) for pair in ("xx", "yy", "xy")]
    return listed


def _extra(name: str, shape: tuple[int, ...]) -> _Output:
    return _Output(name, Datatype.FP64, shape, _each(name), is_on_request=True)


def _online_drift(facts: Facts) -> list[_Output]:
    def padded(name: str, shape: tuple[int, ...]) -> _Output:
        return _Output(name, Datatype.FP64, shape, _each(name, shape=shape))

    return [
        _Output("is_drift", Datatype.INT64, (), _each("is_drift")),
        padded("test_stat", facts.statistic_shape),
        padded("threshold", facts.threshold_shape),
        _Output("time", Datatype.INT64, (), _each("time")),
        padded("ert", ()),
    ]


def _least(value: Any) -> object:  # noqa: ANN401  a number, or an array
    """Give one threshold: by FDR there is one for each rank, and the least is for the first."""
    return np.min(value)


def _each(
    name: str,
    *,
    at_least: int = 0,
    shape: tuple[int, ...] | None = None,
    reduce: Callable[[Any], object] = np.asarray,
) -> Callable[[Sequence[Verdict]], _Array | None]:
    """Put the values of all verdicts on top of each other.

    Args:
        name: The key of the detector's answer.
        at_least: Dimensions of one value.
        shape: Of one value, where one that is not there is NaN; None leaves the output out then.
        reduce: Makes one number of a value.
    """

    def make(verdicts: Sequence[Verdict]) -> _Array | None:
        found = [each.data.get(name) for each in verdicts]
        if shape is None and any(each is None for each in found):
            return None
        missing = np.full(shape or (), np.nan)
        values = [missing if each is None else np.asarray(reduce(each)) for each in found]
        if at_least:
            values = [np.atleast_1d(each) for each in values]
        return stacked(values)

    return make


def stacked(values: Sequence[_Array]) -> _Array:
    """Stack arrays whose shapes may differ; the smaller ones are filled up with NaN."""
    shapes = {each.shape for each in values}
    if len(shapes) == 1:
        return np.stack(values)
    dims = max(len(each) for each in shapes)
    values = [each.reshape((1,) * (dims - each.ndim) + each.shape) for each in values]
    largest = tuple(max(sizes) for sizes in zip(*(each.shape for each in values), strict=True))
    made = np.full((len(values), *largest), np.nan)
    for place, each in enumerate(values):
        made[place][tuple(slice(size) for size in each.shape)] = each
    return made


# ---- detectors of outliers and of adversarial instances ----


def _rows(facts: Facts, defaults: Mapping[str, Any]) -> list[_Output]:
    flag = "is_adversarial" if facts.kind == "adversarial" else "is_outlier"
    row = facts.shape if facts.shape is not None else (-1,)
    is_by_feature = defaults.get("outlier_type") == "feature"
    listed = []
    if facts.threshold is not None or not facts.has_p_value:
        listed.append(_Output(flag, Datatype.INT64, row if is_by_feature else (), _only(flag)))
    listed.append(_Output("instance_score", Datatype.FP64, (), _only("instance_score")))
    if facts.has_feature_score:
        listed.append(_Output("feature_score", Datatype.FP64, row, _only("feature_score")))
    if facts.has_p_value and facts.threshold is not None:
        listed.append(_Output("p_value", Datatype.FP64, (), _only("p_value"), is_on_request=True))
    return listed


def _only(name: str) -> Callable[[Sequence[Verdict]], _Array | None]:
    """Take the value of the one verdict, which has the rows already."""

    def make(verdicts: Sequence[Verdict]) -> _Array | None:
        (verdict,) = verdicts
        value = verdict.data.get(name)
        return None if value is None else np.asarray(value)

    return make


# ---- MLServer's shapes ----


class MlserverAnswers:
    """The outputs in MLServer's shapes: each value with an axis of the verdicts in front.

    What is None there, and can't be sent by gRPC, is NaN here; models and kernels are left out.

    Args:
        facts: Of the detector.
        defaults: The arguments of `predict` that hold for requests which set none.

    Shapes: [verdicts, 1] for numbers, else [verdicts, ...].
    """

    def __init__(self, facts: Facts, defaults: Mapping[str, Any]) -> None:
        listed = (
            _mlserver_drift(facts, defaults) if facts.kind == "drift" else _mlserver_rows(facts)
        )
        self._told = {each.name: each for each in listed}

    def metadata(self) -> list[TensorMetadata]:
        """Tell the outputs, in MLServer's order."""
        return list(self._told.values())

    def tensors(self, request: InferRequest, verdicts: Sequence[Verdict]) -> list[Tensor]:
        """Make the tensors; none at all while a batch or a window is not full."""
        if not verdicts:
            return []
        names = [each.name for each in request.outputs] or list(self._told)
        return [self._tensor(name, verdicts) for name in names]

    def _tensor(self, name: str, verdicts: Sequence[Verdict]) -> Tensor:
        found = [each.data.get(name) for each in verdicts]
        array = stacked([np.asarray(np.nan if each is None else each) for each in found])
        if array.ndim == 1:
            array = array.reshape(-1, 1)
        return Tensor.from_array(name, array.astype(self._told[name].datatype.dtype, copy=False))


def _mlserver_drift(facts: Facts, defaults: Mapping[str, Any]) -> list[TensorMetadata]:
    whole, double = Datatype.INT64, Datatype.FP64
    # Alibi Detect's own: tests of one feature each compute in float32, all but Fisher's
    is_single = facts.is_univariate and not facts.name.startswith("FET")
    values = Datatype.FP32 if is_single and not facts.is_online else double
    width = 1 if facts.is_online else facts.width
    is_by_feature = defaults.get("drift_type") == "feature"
    told = [
        TensorMetadata("is_drift", whole, [-1, facts.width if is_by_feature else 1]),
        TensorMetadata("distance", values, [-1, width]),
        TensorMetadata("p_val", values, [-1, width]),
        TensorMetadata("threshold", double, [-1, *(facts.threshold_shape or (1,))]),
    ]
    if facts.is_online:
        statistic = Datatype.FP32 if facts.is_univariate else double
        told += [
            TensorMetadata("time", whole, [-1, 1]),
            TensorMetadata("ert", double, [-1, 1]),
            TensorMetadata("test_stat", statistic, [-1, *(facts.statistic_shape or (1,))]),
        ]
    row = facts.shape if facts.shape is not None else (-1,)
    if facts.has_distance_threshold:
        told.append(TensorMetadata("distance_threshold", double, [-1, 1]))
    if facts.is_classifier:
        told += [TensorMetadata(f"probs_{part}", double, [-1, -1]) for part in ("ref", "test")]
    if facts.name == "SpotTheDiffDrift":
        told += [
            TensorMetadata("diffs", double, [-1, -1, *row]),
            TensorMetadata("diff_coeffs", double, [-1, -1]),
        ]
    return told


def _mlserver_rows(facts: Facts) -> list[TensorMetadata]:
    score = TensorMetadata("instance_score", Datatype.FP64, [-1, -1])
    if facts.kind == "adversarial":
        return [score, TensorMetadata("is_adversarial", Datatype.INT64, [-1, -1])]
    row = (-1, *(facts.shape or ())) if facts.has_feature_score else (1,)
    return [
        score,
        TensorMetadata("feature_score", Datatype.FP64, [-1, *row]),
        TensorMetadata("is_outlier", Datatype.INT64, [-1, -1]),
    ]
