"""Merging and splitting as pure functions: each answer is its caller's own."""

from __future__ import annotations

import itertools
import logging

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield import (
    Datatype,
    InferRequest,
    InferResponse,
    ModelMetadata,
    RequestedOutput,
    Tensor,
    TensorMetadata,
)
from jackfield._scheduling.execution import Execution
from jackfield._scheduling.merge import Merger, merge, split

NAMES = ["a", "b", "c"]
#: Values that compare as equal in Python, or are written alike, are not the same parameter.
VALUES = st.sampled_from([1, True, 1.0, "1", None, "x", [1, "y"], {"k": 1}])
PARAMETERS = st.dictionaries(st.sampled_from(["p", "q"]), VALUES, max_size=2)
SHAPES = st.lists(st.integers(0, 3), max_size=2).map(tuple)


def merger_of(*ranks, row_wise=True, **parameters):
    """Make a merger for inputs of so many dimensions each; 0 stands for an unknown shape."""
    inputs = [
        TensorMetadata(name, Datatype.FP64, [-1] * rank, parameters)
        for name, rank in zip(NAMES, ranks, strict=False)
    ]
    return Merger("m", ModelMetadata(inputs=inputs), is_row_wise=row_wise)


def tensor_of(name, datatype, shape, seed, parameters=()):
    """Make a tensor of any content, NaN and text of any length among it."""
    numbers = np.random.default_rng(seed)
    size = int(np.prod(shape))
    if datatype is Datatype.BYTES:
        array = np.empty(size, dtype=object)
        array[:] = [numbers.bytes(int(length)) for length in numbers.integers(0, 5, size)]
    else:
        dtype = datatype.dtype
        array = np.frombuffer(numbers.bytes(size * dtype.itemsize), dtype).copy()
        if datatype is Datatype.BOOL:
            array = array.view("u1") % 2 == 1
    array = array.reshape(shape)
    array.setflags(write=False)
    return Tensor(name, datatype, array, dict(parameters))


def content(tensor):
    """Give all that a tensor is, so that NaN equals itself."""
    array = tensor.array
    values = array.tolist() if tensor.datatype is Datatype.BYTES else array.tobytes()
    return (tensor.name, tensor.datatype, array.dtype, array.shape, values, tensor.parameters)


@st.composite
def crowds(draw):
    """Draw requests that may be merged: alike but for rows, contents, ids, and the core's own."""
    inputs = draw(
        st.lists(
            st.tuples(st.sampled_from(NAMES), st.sampled_from(Datatype), SHAPES, PARAMETERS),
            min_size=1,
            max_size=3,
            unique_by=lambda each: each[0],
        )
    )
    outputs = [RequestedOutput(name) for name in draw(st.sets(st.sampled_from(NAMES)))]
    parameters = draw(PARAMETERS)
    seeds = itertools.count(draw(st.integers(0, 2**32)))
    requests = []
    for number, rows in enumerate(draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))):
        own = draw(st.fixed_dictionaries({}, optional={"timeout": VALUES, "priority": VALUES}))
        tensors = [
            tensor_of(name, datatype, (rows, *shape), next(seeds), given)
            for name, datatype, shape, given in inputs
        ]
        # the order of a mapping's keys is nothing that a caller says
        mixed = dict(draw(st.permutations([*parameters.items(), *own.items()])))
        requests.append(InferRequest(tensors, outputs, mixed, f"id {number}"))
    metadata = ModelMetadata(
        inputs=[TensorMetadata(name, kind, [-1] * (len(s) + 1)) for name, kind, s, _ in inputs]
    )
    return metadata, requests


def run(merger, requests, infer):
    """Drive `answer` as whoever calls a runtime does; gives the outcomes, and what was run."""
    steps = merger.answer(requests)
    ran = []
    try:
        request = next(steps)
        while True:
            ran.append(request)
            try:
                outcome = Execution(infer(request), 1, 2, merger.size(request))
            except ValueError as error:
                outcome = error
            request = steps.send(outcome)
    except StopIteration as end:
        return end.value, ran


def echo(request):
    return InferResponse(request.inputs, {"seen": len(request.inputs)})


# ---- together and apart again ----


@given(crowds())
def test_what_is_merged_and_split_is_each_callers_own(crowd):
    metadata, requests = crowd
    merger = Merger("m", metadata, is_row_wise=True)
    keys = {merger.key(request) for request in requests}
    assert len(keys) == 1
    assert None not in keys
    outcomes, ran = run(merger, requests, echo)
    assert len(ran) == 1
    assert len(outcomes) == len(requests)
    rows = sum(merger.size(request) for request in requests)
    for request, outcome in zip(requests, outcomes, strict=True):
        given = [content(tensor) for tensor in request.inputs]
        assert [content(tensor) for tensor in outcome.response.outputs] == given
        assert outcome.response.parameters == {"seen": len(request.inputs)}
        assert (outcome.started, outcome.ended) == (1, 2)
        assert (outcome.rows, outcome.requests) == (rows, len(requests))


@given(crowds())
def test_what_is_merged_holds_all_rows_in_order_read_only(crowd):
    _, requests = crowd
    merged = merge(requests)
    first = requests[0]
    own = {"timeout", "priority"}
    assert merged.outputs == first.outputs
    assert merged.parameters == {k: v for k, v in first.parameters.items() if k not in own}
    for index, tensor in enumerate(merged.inputs):
        parts = [request.inputs[index] for request in requests]
        assert tensor.parameters == parts[0].parameters
        assert not tensor.array.flags.writeable
        assert tensor.array.flags.c_contiguous
        counts = [part.array.shape[0] for part in parts]
        [[*again]] = [split(InferResponse([tensor]), counts)]
        for response, part in zip(again, parts, strict=True):
            assert content(response.outputs[0]) == content(part)


# ---- who may be merged ----


def said(request):
    """Tell what two requests must both say to be merged; values that only compare alike differ."""
    shared = {k: v for k, v in request.parameters.items() if k not in ("timeout", "priority")}
    inputs = [
        (tensor.name, tensor.datatype, tensor.array.shape[1:], sorted_items(tensor.parameters))
        for tensor in request.inputs
    ]
    outputs = [(each.name, sorted_items(each.parameters)) for each in request.outputs]
    return repr((inputs, outputs, sorted_items(shared)))


def sorted_items(parameters):
    return sorted(parameters.items())


FEW = st.dictionaries(st.sampled_from(["p", "timeout"]), st.sampled_from([1, True]), max_size=1)
ANY = st.builds(
    InferRequest,
    inputs=st.lists(
        st.builds(
            tensor_of,
            st.sampled_from(NAMES[:2]),
            st.sampled_from([Datatype.FP32, Datatype.BF16]),
            st.sampled_from([(1, 2), (2, 2), (1, 3)]),
            st.just(0),
            FEW.filter(lambda each: "timeout" not in each),
        ),
        min_size=1,
        max_size=2,
        unique_by=lambda each: each.name,
    ),
    outputs=st.lists(st.builds(RequestedOutput, st.just("a"), FEW), max_size=1),
    parameters=FEW,
)


@given(first=ANY, second=ANY)
def test_requests_share_a_key_just_if_they_say_the_same(first, second):
    merger = merger_of(2, 2)
    keys = [merger.key(request) for request in (first, second)]
    for request, key in zip((first, second), keys, strict=True):
        counts = {tensor.array.shape[0] for tensor in request.inputs}
        assert (key is None) == (len(counts) > 1)
    if None not in keys:
        assert (keys[0] == keys[1]) == (said(first) == said(second))


def test_a_tensors_parameter_is_not_the_requests():
    tensor = tensor_of("a", Datatype.FP32, (1, 2), 0)
    marked = msgspec.structs.replace(tensor, parameters={"p": 1})
    merger = merger_of(2)
    keys = [
        merger.key(InferRequest([marked])),
        merger.key(InferRequest([tensor], parameters={"p": 1})),
        merger.key(InferRequest([tensor])),
    ]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("own", [{"timeout": 5}, {"priority": 1}, {"binary_data_output": True}])
def test_what_is_the_cores_own_matter_keeps_nobody_apart(own):
    inputs = [tensor_of("a", Datatype.FP32, (1, 2), 0)]
    merger = merger_of(2)
    assert merger.key(InferRequest(inputs, parameters=own)) == merger.key(InferRequest(inputs))


@pytest.mark.parametrize(
    ("ranks", "shapes", "is_merged"),
    [
        ([2], {"a": (1, 3)}, True),
        ([2], {"other": (1, 3)}, True),  # one input goes by any name
        ([2], {"a": (3,)}, False),  # a single row, as many models take it
        ([2], {"a": ()}, False),
        ([2], {"a": (1, 3, 1)}, False),
        ([1], {"a": (3,)}, True),
        ([2], {"a": (0, 3)}, False),
        ([0], {"a": (1, 3)}, False),
        ([], {"a": (1, 3)}, False),
        ([2, 1], {"a": (2, 3), "b": (2,)}, True),
        ([2, 1], {"a": (2, 3), "b": (1,)}, False),
        ([2, 1], {"a": (2, 3), "other": (2,)}, False),
        ([2, 1], {"other": (2, 3)}, False),
        ([2], {"a": (2, 3), "other": (2, 3)}, False),
    ],
)
def test_rows_are_what_the_metadata_says(ranks, shapes, is_merged):
    inputs = [tensor_of(name, Datatype.FP64, shape, 0) for name, shape in shapes.items()]
    assert (merger_of(*ranks).key(InferRequest(inputs)) is not None) is is_merged


@pytest.mark.parametrize("merger", [merger_of(2, any_shape=True), merger_of(2, row_wise=False)])
def test_who_does_not_know_its_rows_or_has_none_merges_nothing(merger):
    assert merger.key(InferRequest([tensor_of("a", Datatype.FP64, (2, 2), 0)])) is None


@pytest.mark.parametrize("value", [object(), 2**70, "\ud800", {"deep": {1, 2}}])
def test_parameters_that_no_wire_carries_stay_alone(value):
    request = InferRequest([tensor_of("a", Datatype.FP64, (1, 2), 0)], parameters={"p": value})
    key = merger_of(2).key(request)
    plain = merger_of(2).key(msgspec.structs.replace(request, parameters={}))
    assert key is None or key != plain


# ---- what goes wrong in one call ----


def ones(count, poisoned=()):
    return [
        InferRequest([Tensor.from_array("a", [[float(n), -1.0 if n in poisoned else 1.0]])])
        for n in range(count)
    ]


def strict(request):
    """Answer each row's first number twice; refuses a negative one anywhere."""
    array = request.inputs[0].array
    if array.min() < 0:
        message = "a negative number"
        raise ValueError(message)
    return InferResponse([Tensor.from_array("y", array[:, 0] * 2)])


@given(poisoned=st.sets(st.integers(0, 63), min_size=1, max_size=3))
def test_the_poisoned_alone_fail_among_64(poisoned):
    merger, requests = merger_of(2), ones(64, poisoned)
    outcomes, ran = run(merger, requests, strict)
    assert ran[1:] == requests
    for number, outcome in enumerate(outcomes):
        if number in poisoned:
            assert isinstance(outcome, ValueError)
        else:
            assert outcome.response.arrays["y"].tolist() == [2.0 * number]
            assert (outcome.rows, outcome.requests) == (1, 1)
    assert merger.is_row_wise


@pytest.mark.parametrize(
    "outputs",
    [
        lambda array: [Tensor.from_array("y", array.sum())],
        lambda array: [Tensor.from_array("y", array[:1])],
        lambda array: [Tensor.from_array("y", array), Tensor.from_array("classes", ["a"] * 7)],
        lambda array: [Tensor.from_array("y", array.T)],
    ],
)
def test_outputs_that_are_no_rows_are_merged_no_more_and_one_warning_tells_it(outputs, caplog):
    def infer(request):
        return InferResponse(outputs(request.inputs[0].array))

    merger, requests = merger_of(2), ones(3)
    with caplog.at_level(logging.WARNING, "jackfield"):
        for times in (4, 3):  # merged once, and then never again
            outcomes, ran = run(merger, requests, infer)
            assert len(ran) == times
            for request, outcome in zip(requests, outcomes, strict=True):
                got = [content(tensor) for tensor in outcome.response.outputs]
                assert got == [content(each) for each in outputs(request.inputs[0].array)]
    [record] = caplog.records
    assert "model 'm' gave an output whose first dimension is not the 3 rows" in record.message
    assert merger.key(requests[0]) is None
    # its rows are still what a request counts for
    assert merger.size(InferRequest([Tensor.from_array("a", np.ones((5, 2)))])) == 5


def test_a_response_without_outputs_is_everybodys():
    outcomes, ran = run(merger_of(2), ones(3), lambda request: InferResponse([], {"k": 1}))
    assert len(ran) == 1
    assert [(each.response.outputs, each.response.parameters) for each in outcomes] == [
        ([], {"k": 1})
    ] * 3


# ---- a matrix that comes as a tensor for each column ----


def of_columns(*shapes, names=("f", "g")):
    tensors = [
        Tensor.from_array(name, np.zeros(shape)) for name, shape in zip(names, shapes, strict=True)
    ]
    return InferRequest(tensors)


@pytest.mark.parametrize(
    ("one", "other", "is_merged"),
    [
        (of_columns((1,), (1,)), of_columns((3,), (3,)), True),
        (of_columns((1, 1), (1, 1)), of_columns((2, 1), (2, 1)), True),
        (of_columns((1,), (1,)), of_columns((2, 1), (2, 1)), False),
        (of_columns((1,), (1,)), of_columns((1,), (2,)), False),
        (of_columns((1,), (1,)), of_columns((1,), (1,), names=("g", "f")), False),
        (of_columns((1, 2), (1, 2)), of_columns((1, 2), (1, 2)), False),
        (of_columns((), ()), of_columns((), ()), False),
        (of_columns((1,), (1,), names=("f", "z")), of_columns((1,), (1,), names=("f", "z")), False),
    ],
)
def test_columns_of_a_matrix_are_merged_where_they_are_the_same(one, other, is_merged):
    inputs = [TensorMetadata("x", Datatype.FP64, [-1, 2], {"columns": ["f", "g"]})]
    merger = Merger("m", ModelMetadata(inputs=inputs), is_row_wise=True)
    found, expected = merger.key(one), merger.key(other)
    assert (found is not None and found == expected) is is_merged


def test_columns_are_merged_by_models_that_name_them_alone():
    merger = Merger(
        "m",
        ModelMetadata(inputs=[TensorMetadata("x", Datatype.FP64, [-1, 2])]),
        is_row_wise=True,
    )
    assert merger.key(of_columns((1,), (1,))) is None
