"""Rows on their way to a detector: which are taken, what becomes of them, what its answer means."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield import Datatype, InferResponse, ModelMetadata, Tensor, TensorMetadata
from jackfield._monitors.intake import MOST_BYTES, Intake, Sample
from jackfield._monitors.rows import MisfitError, fit, unpack
from jackfield._monitors.statistics import MonitorStatistics
from jackfield._monitors.verdict import NoVerdictError, read_verdicts
from jackfield.settings import MonitorSettings

# ---- which rows are taken ----


def intake_of(*, seed=0, wake=lambda: None, **settings):
    statistics = MonitorStatistics()
    settings = MonitorSettings(detector="d", **settings)
    return Intake(settings, statistics, wake, seed=seed), statistics


def numbered(start, count):
    return [Tensor.from_array("x", np.arange(start, start + count, dtype=float)[:, None])]


def numbers(samples):
    return [float(value) for sample in samples for value in sample.tensors[0].array[:, 0]]


@given(
    st.lists(st.integers(0, 30), max_size=30),
    st.sampled_from([1.0, 0.5, 0.1]),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_every_row_is_passed_over_taken_or_dropped(sizes, share, most, seed):
    intake, counts = intake_of(sample=share, max_queue=most, seed=seed)
    start = 0
    for size in sizes:
        intake.offer(numbered(start, size))
        start += size
        assert intake.rows <= most
    waiting = intake.fetch()
    assert counts.seen_rows == start
    assert counts.sampled_rows == sum(each.rows for each in waiting) + counts.drops["queue"]
    found = numbers(waiting)
    # in their order, each at most once, the newest of those taken
    assert found == sorted(set(found))
    if share == 1.0 and found:
        assert found[-1] == start - 1
    assert intake.rows == 0
    assert intake.fetch() == []


@given(st.floats(0.01, 0.9), st.integers(1, 7), st.integers(0, 2**32))
def test_each_row_has_the_same_chance_however_requests_are_cut(share, size, seed):
    alone, _ = intake_of(sample=share, seed=seed)
    together, counts = intake_of(sample=share, seed=seed)
    for start in range(0, 700, size):
        count = min(size, 700 - start)
        together.offer(numbered(start, count))
    for start in range(700):
        alone.offer(numbered(start, 1))
    assert numbers(together.fetch()) == numbers(alone.fetch())
    assert counts.seen_rows == 700


def test_the_share_of_rows_taken_is_that_of_the_settings():
    for share in (0.01, 0.1, 0.5):
        intake, counts = intake_of(sample=share, max_queue=10**6)
        for start in range(0, 100_000, 1000):
            intake.offer(numbered(start, 1000))
        deviation = math.sqrt(100_000 * share * (1 - share))
        assert abs(counts.sampled_rows - 100_000 * share) < 5 * deviation
        # at the begin of requests as elsewhere
        places = Counter(int(number % 1000) // 100 for number in numbers(intake.fetch()))
        assert len(places) == 10


def test_what_is_taken_shares_no_memory_with_the_request():
    for share in (1.0, 0.5):
        intake, _ = intake_of(sample=share)
        body = np.arange(1000.0).reshape(-1, 1)
        intake.offer([Tensor.from_array("x", body)])
        (sample,) = intake.fetch()
        assert not np.shares_memory(sample.tensors[0].array, body)
        assert sample.tensors[0].array.base is None


def test_it_wakes_once_for_all_that_waits():
    woken = []
    intake, _ = intake_of(wake=lambda: woken.append(1))
    for _ in range(3):
        intake.offer(numbered(0, 1))
    assert len(woken) == 1
    intake.fetch()
    intake.offer(numbered(0, 1))
    assert len(woken) == 2


def test_rows_of_many_bytes_are_bounded_by_their_bytes():
    intake, counts = intake_of()
    image = np.zeros((1, MOST_BYTES // 8 // 4))
    for _ in range(6):
        intake.offer([Tensor.from_array("x", image)])
    assert intake.rows == 4
    assert counts.drops["queue"] == 2
    intake.offer([Tensor("x", Datatype.FP64, np.zeros((5, MOST_BYTES // 8 // 4)))])
    assert counts.drops["size"] == 5
    text = np.array([b"x" * (MOST_BYTES + 1)], dtype=object)
    intake.offer([Tensor("x", Datatype.BYTES, text)])
    assert counts.drops["size"] == 6


def test_tensors_of_different_lengths_and_scalars_do_not_fit():
    intake, counts = intake_of()
    intake.offer([*numbered(0, 2), Tensor.from_array("y", np.zeros(3))])
    assert counts.drops["misfit"] == 2
    intake.offer([Tensor.from_array("y", 1.0)])
    assert counts.drops["misfit"] == 3


# ---- what becomes of them ----


def sample(*tensors):
    return Sample(len(tensors[0].array), 0, tensors)


def fitted(samples, inputs=(), watched=(), **parameters):
    detector = ModelMetadata(inputs=inputs, parameters=parameters)
    return [*fit(samples, watched, detector)]


def column(name, *values, dtype="f8"):
    return Tensor.from_array(name, np.array(values, dtype=dtype))


def an_input(name, *shape, datatype=Datatype.FP64, **parameters):
    return TensorMetadata(name, datatype, list(shape), parameters)


def only(found):
    ((rows, count),) = found
    assert not isinstance(rows, MisfitError), rows
    assert count == len(rows.records)
    return rows, unpack(rows)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.integers(1, 4))
def test_requests_of_one_form_come_together_in_their_order(sizes, width):
    all_rows = np.random.default_rng(0).normal(size=(sum(sizes), width))
    parts = np.split(all_rows, np.cumsum(sizes)[:-1])
    samples = [sample(Tensor.from_array("x", part)) for part in parts]
    for inputs in ((), [an_input("rows", -1, width)]):
        _, (tensor,) = only(fitted(samples, inputs))
        assert np.array_equal(tensor.array, all_rows)
        assert tensor.name == (inputs[0].name if inputs else "x")
        assert tensor.array.flags.c_contiguous


@pytest.mark.parametrize(
    ("value", "datatype", "is_whole"),
    [
        (3.0, Datatype.INT64, True),
        (-1.0, Datatype.INT8, True),
        (-1.0, Datatype.UINT8, False),
        (300.0, Datatype.INT8, False),
        (0.5, Datatype.INT64, False),
        (np.nan, Datatype.INT64, False),
        (1e300, Datatype.INT64, False),
    ],
)
def test_whole_numbers_in_floats_are_taken_by_a_detector_of_integers(value, datatype, is_whole):
    ((found, _),) = fitted([sample(column("x", value))], [an_input("x", -1, datatype=datatype)])
    if not is_whole:
        assert "not all of its numbers are whole" in str(found)
        return
    (tensor,) = unpack(found)
    assert tensor.datatype is datatype
    assert tensor.array.tolist() == [value]


def test_columns_become_a_matrix_in_the_order_that_the_detector_tells():
    samples = [sample(column("b", 1, 2, dtype="i4"), column("a", 3, 4)) for _ in range(2)]
    watched = [an_input("a", -1), an_input("b", -1, datatype=Datatype.INT32)]
    rows, (tensor,) = only(fitted(samples, [an_input("m", -1, 2)], watched))
    assert tensor.array.tolist() == [[3, 1], [4, 2]] * 2
    assert rows.features == ["a", "b"]
    told = an_input("m", -1, 2, columns=["b", "a"])
    rows, (tensor,) = only(fitted(samples, [told], watched))
    assert tensor.array.tolist() == [[1, 3], [2, 4]] * 2
    assert rows.features == ["b", "a"]
    part = an_input("m", -1, 1, columns=["b"])
    _, (tensor,) = only(fitted(samples, [part], watched))
    assert tensor.array.tolist() == [[1], [2]] * 2


def test_a_matrix_becomes_columns_where_the_detector_takes_them():
    samples = [sample(Tensor.from_array("x", np.array([[1.0, 2.0], [3.0, 4.0]])))]
    inputs = [an_input("a", -1), an_input("b", -1, 1, datatype=Datatype.FP32)]
    rows, (a, b) = only(fitted(samples, inputs))
    assert a.array.tolist() == [1, 3]
    assert b.array.tolist() == [[2], [4]]
    assert (a.datatype, b.datatype) == (Datatype.FP64, Datatype.FP32)
    assert rows.features == ["a", "b"]


def test_columns_of_text_and_numbers_go_to_the_inputs_of_their_names():
    text = Tensor.from_array("city", np.array([b"Oslo", b"Rome"], dtype=object))
    samples = [sample(column("extra", 0, 0), text, column("age", 1, 2, dtype="i8"))] * 2
    inputs = [an_input("age", -1), an_input("city", -1, datatype=Datatype.BYTES)]
    _, (age, city) = only(fitted(samples, inputs))
    assert age.array.tolist() == [1, 2, 1, 2]
    assert city.array.tolist() == [b"Oslo", b"Rome"] * 2


def test_an_optional_input_may_be_missing():
    inputs = [an_input("a", -1), an_input("b", -1, optional=True)]
    _, (tensor,) = only(fitted([sample(column("a", 1))], inputs))
    assert tensor.name == "a"


def test_the_features_names_are_the_detectors_or_the_models():
    samples = [sample(Tensor.from_array("x", np.zeros((1, 2))))]
    watched = [an_input("x", -1, 2, columns=["length", "width"])]
    inputs = [an_input("x", -1, 2)]
    assert only(fitted(samples, inputs, watched))[0].features == ["length", "width"]
    told = only(fitted(samples, inputs, watched, feature_names=["l", "w"]))
    assert told[0].features == ["l", "w"]


@pytest.mark.parametrize(
    ("tensors", "inputs", "problem"),
    [
        ([column("x", 1)], [an_input("x", -1, 3)], "shape [-1], the detector's 'x' [-1, 3]"),
        (
            [Tensor.from_array("x", np.zeros((1, 2)))],
            [an_input("y", -1, 3)],
            "'x' has the shape [-1, 2], the detector's 'y' [-1, 3]",
        ),
        (
            [column("x", 1.5)],
            [an_input("x", -1, datatype=Datatype.INT64)],
            "'x' is FP64, the detector's 'x' INT64",
        ),
        (
            [Tensor.from_array("x", np.array([b"1"], dtype=object))],
            [an_input("x", -1)],
            "'x' is BYTES, the detector's 'x' FP64",
        ),
        (
            [column("a", 1), Tensor.from_array("b", np.zeros((1, 2)))],
            [an_input("x", -1, 3)],
            "'b' has the shape [-1, 2], which is no column",
        ),
        (
            [column("a", 1), column("b", 1)],
            [an_input("x", -1, 2, columns=["a", "c"])],
            "takes the column 'c', watched are 'a', 'b'",
        ),
        (
            [column("a", 1), column("b", 1)],
            [an_input("a", -1), an_input("c", -1)],
            "takes 'c', watched are 'a', 'b'",
        ),
        (
            [Tensor.from_array("x", np.zeros((1, 3)))],
            [an_input("a", -1), an_input("c", -1)],
            "'x' has the shape [-1, 3], the detector takes 2 columns",
        ),
    ],
)
def test_what_does_not_fit_says_why(tensors, inputs, problem):
    ((error, count),) = fitted([sample(*tensors)], inputs)
    assert isinstance(error, MisfitError)
    assert problem in str(error)
    assert count == 1


def test_forms_that_differ_are_kept_apart():
    samples = [sample(column("x", 1)), sample(column("x", 2)), sample(column("x", 3, dtype="f4"))]
    assert [len(rows.records) for rows, _ in fitted(samples)] == [2, 1]
    _, (tensor,) = only(fitted(samples[:2], [an_input("x", -1)]))
    assert tensor.array.tolist() == [1, 2]


# ---- what a detector's answer means ----


def verdicts(rows=4, names=(), share=0.0, **outputs):
    tensors = [Tensor.from_array(name, np.array(value)) for name, value in outputs.items()]
    response = InferResponse(tensors)
    return read_verdicts(response, rows=rows, time_s=1.5, names=names, outlier_share=share)


def test_a_verdict_of_each_window():
    arrays = {
        "is_drift": np.array([0, 1]),
        "p_val": np.array([[0.5, 0.6], [0.01, 0.7]]),
        "distance": np.array([[1.0, 2.0], [3.0, np.nan]]),
        "threshold": np.array([0.05, 0.05]),
        "rows": np.array([10, 20]),
    }
    response = InferResponse([Tensor.from_array(name, array) for name, array in arrays.items()])
    first, second = read_verdicts(response, rows=30, time_s=1.5, names=["a", "b"])
    assert (first.is_positive, second.is_positive) == (False, True)
    assert (first.rows, second.rows) == (10, 20)
    assert [each.name for each in second.features] == ["a", "b"]
    assert [each.p_value for each in second.features] == [0.01, 0.7]
    assert [each.distance for each in second.features] == [3.0, None]
    assert [each.is_drift for each in second.features] == [True, False]
    assert second.threshold == 0.05


def test_no_verdict_while_no_window_is_full():
    assert verdicts(is_drift=np.empty(0, dtype=int), p_val=np.empty((0, 2))) == []


def test_a_verdict_of_each_feature():
    (verdict,) = verdicts(is_drift=[[0, 1, 0]], p_val=[[0.5, 0.01, 0.6]])
    assert verdict.is_positive
    assert [each.is_drift for each in verdict.features] == [False, True, False]
    assert [each.name for each in verdict.features] == ["0", "1", "2"]


def test_a_test_of_all_features_together():
    (verdict,) = verdicts(is_drift=[1], p_val=[[0.01]], distance=[[0.2]], names=["a", "b"])
    (feature,) = verdict.features
    assert (feature.name, feature.p_value, feature.is_drift) == ("all", 0.01, True)


def test_a_lone_yes_is_a_verdict():
    for value in (1, [1], [[1]], [True]):
        (verdict,) = verdicts(is_drift=value)
        assert verdict.is_positive
    (verdict,) = verdicts(is_drift=0.0)
    assert not verdict.is_positive


def test_an_online_detector_gives_one_verdict_for_a_call():
    (verdict,) = verdicts(
        is_drift=[0, 1, 0],
        test_stat=[[0.1], [0.9], [0.3]],
        threshold=[[np.nan], [0.5], [0.5]],
        names=["a", "b"],
    )
    assert (verdict.is_positive, verdict.flagged_rows, verdict.rows) == (True, 1, 4)
    (feature,) = verdict.features
    assert (feature.distance, feature.threshold, feature.is_drift) == (0.3, 0.5, False)
    (verdict,) = verdicts(is_drift=[0], test_stat=[[np.nan, np.nan]], names=["a", "b"])
    assert [each.distance for each in verdict.features] == [None, None]


@pytest.mark.parametrize("kind", ["outlier", "adversarial"])
def test_rows_that_are_flagged(kind):
    flags = {f"is_{kind}": [0, 1, 0, 0]}
    (verdict,) = verdicts(**flags, instance_score=[0.1, 0.9, np.nan, 0.2])
    assert (verdict.kind, verdict.flagged_rows, verdict.score) == (kind, 1, 0.9)
    assert verdict.is_positive
    (verdict,) = verdicts(**flags, share=0.25)
    assert not verdict.is_positive
    # MLServer puts an axis of 1 before
    (verdict,) = verdicts(**{f"is_{kind}": [[0, 1, 0, 1]]})
    assert verdict.flagged_rows == 2
    # an outlier in a feature makes the row one
    (verdict,) = verdicts(2, **{f"is_{kind}": [[0, 1], [0, 0]]})
    assert verdict.flagged_rows == 1


def test_what_is_no_verdict_says_what_came():
    with pytest.raises(NoVerdictError, match="it answers 'y', 'z'"):
        verdicts(y=[1], z=[2])
    with pytest.raises(NoVerdictError, match="no output"):
        verdicts()
    with pytest.raises(NoVerdictError, match="'is_drift'"):
        verdicts(is_drift=[b"yes"])


def test_names_that_do_not_fit_or_are_not_unique_are_numbers():
    for names in (["a"], ["a", "a"], ["a", "b", "c"]):
        (verdict,) = verdicts(is_drift=[0], p_val=[[0.5, 0.6]], names=names)
        assert [each.name for each in verdict.features] == ["0", "1"]


def test_of_an_image_features_are_not_told_apart():
    (verdict,) = verdicts(is_drift=[1], p_val=[np.ones(1001)])
    assert verdict.is_positive
    assert list(verdict.features) == []
