"""Whatever a Python function returns is answered, over every wire, with its values."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array, Map

from jackfield import InferRequest, InvalidRequestError, RequestedOutput, Tensor
from jackfield.client import AsyncClient
from jackfield_mlflow._outputs import Outputs
from jackfield_mlflow._signature import fields_of

FORMS = ("json", "binary", "grpc")
SOLE = "output-0"
NAN = float("nan")
MOMENT = "2026-03-01T12:30:15"


def js(*values):
    """JSON, an element each."""
    return [json.loads(json.dumps(each)) for each in values]


#: What was returned -> for each output: datatype, shape, content type and values.
RESULTS = {
    "vector": {SOLE: ("FP64", [3], "np", [1.5, -2.0, NAN])},
    "matrix": {SOLE: ("FP32", [3, 2], "np", [0, 1, 2, 3, 4, 5])},
    "cube": {SOLE: ("INT16", [2, 2, 2], "np", list(range(8)))},
    "scalar array": {SOLE: ("UINT8", [1], "np", [7])},
    "flags": {SOLE: ("BOOL", [2], "np", [True, False])},
    "text array": {SOLE: ("BYTES", [2], "str", ["a", "ü"])},
    "objects": {SOLE: ("BYTES", [3], "pd_json", ["a", None, 3])},
    "moments": {SOLE: ("BYTES", [2], "str", ["2026-01-01T00:00:00", "2026-01-02T03:04:00"])},
    "complex": {SOLE: ("BYTES", [1], "pd_json", [[1.0, 2.0]])},
    "frame": {
        "a": ("INT64", [2], "np", [1, 2]),
        "b": ("BYTES", [2], "str", ["x", "y"]),
        "c": ("FP64", [2], "np", [0.5, NAN]),
    },
    "frame of numbers": {
        "output-0": ("FP64", [2], "np", [1, 0]), "output-1": ("FP64", [2], "np", [0, 1]),
    },
    "frame of lists": {
        "v": ("BYTES", [2], "pd_json", [[1, 2], [3]]),
        "w": ("BYTES", [2], "pd_json", [{"k": 1}, None]),
    },
    "series": {SOLE: ("INT64", [3], "np", [1, 2, 3])},
    "series of text": {SOLE: ("BYTES", [2], "pd_json", ["x", None])},
    "categories": {SOLE: ("BYTES", [3], "str", ["x", "y", "x"])},
    "nullable": {SOLE: ("FP64", [2], "np", [1, NAN])},
    "int": {SOLE: ("INT64", [1], "np", [7])},
    "float": {SOLE: ("FP64", [1], "np", [2.5])},
    "bool": {SOLE: ("BOOL", [1], "np", [True])},
    "numpy scalar": {SOLE: ("FP32", [1], "np", [float(np.float32(0.1))])},
    "text": {SOLE: ("BYTES", [1], "str", ["hello"])},
    "bytes": {SOLE: ("BYTES", [1], "str", ["AP8="])},
    "moment": {SOLE: ("BYTES", [1], "str", [MOMENT])},
    "ints": {SOLE: ("INT64", [3], "np", [1, 2, 3])},
    "floats": {SOLE: ("FP64", [2], "np", [1, 2.5])},
    "bools": {SOLE: ("BOOL", [2], "np", [True, False])},
    "texts": {SOLE: ("BYTES", [2], "str", ["a", "b\0"])},
    "blobs": {SOLE: ("BYTES", [2], "str", ["AA==", "YWI="])},
    "dates": {SOLE: ("BYTES", [2], "str", [MOMENT, MOMENT])},
    "matrix of lists": {SOLE: ("INT64", [2, 2], "np", [1, 2, 3, 4])},
    "ragged": {SOLE: ("BYTES", [2], "pd_json", [[1], [2, 3]])},
    "arrays": {SOLE: ("FP64", [2, 2], "np", [1, 2, 3, 4])},
    "gaps": {SOLE: ("FP64", [2], "np", [1.5, NAN])},
    "mixed": {SOLE: ("BYTES", [4], "pd_json", [1, "a", None, True])},
    "empty": {SOLE: ("FP64", [0], "np", [])},
    "records": {SOLE: ("BYTES", [2], "pd_json", [{"a": 1, "b": "x"}, {"a": 2}])},
    "dict of arrays": {
        "p": ("FP64", [2, 2], "np", [1, 0, 0, 1]), "q": ("INT32", [2], "np", [1, 2]),
    },
    "dict of lists": {"p": ("FP64", [2], "np", [1, 2]), "q": ("BYTES", [2], "str", ["x", "y"])},
    "dict of scalars": {
        "p": ("INT64", [1], "np", [1]),
        "q": ("BYTES", [1], "str", ["x"]),
        "r": ("BYTES", [1], "pd_json", [None]),
    },
    "nested": {
        "p": ("BYTES", [1], "pd_json", [{"deep": [1, {"er": None}]}]),
        "q": ("BYTES", [1], "pd_json", [[{"x": 1}]]),
    },
    "empty dict": {SOLE: ("BYTES", [1], "pd_json", [{}])},
    "tuple": {"output-0": ("FP64", [1], "np", [1]), "output-1": ("BYTES", [1], "str", ["x"])},
    "huge": {SOLE: ("BYTES", [1], "pd_json", [2**80])},
    "decimals": {SOLE: ("BYTES", [1], "pd_json", [1.5])},
    "none": {SOLE: ("BYTES", [1], "pd_json", [None])},
}  # fmt: skip


def read(array, content_type):
    cells = array.reshape(-1).tolist()
    if array.dtype != object:
        return cells
    return [json.loads(each) if content_type == "pd_json" else each.decode() for each in cells]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", RESULTS)
def test_every_result_is_answered(clients, form, kind):
    request = InferRequest([Tensor.from_array("what", [kind])])
    result = clients[form].model("results").infer(request)
    assert list(result) == list(RESULTS[kind])
    for output in result.response.outputs:
        datatype, shape, content_type, values = RESULTS[kind][output.name]
        assert (str(output.datatype), list(output.shape)) == (datatype, shape)
        tag = output.parameters.get("content_type", "np")
        assert (tag == "pd_json") is (content_type == "pd_json")
        found = read(output.array, content_type)
        assert repr(found) == repr(np.array(values, output.array.dtype).tolist()) or found == values


def test_an_output_is_asked_for_by_name(clients):
    model = clients["json"].model("results")
    sent = [Tensor.from_array("what", ["frame"])]
    assert list(model.infer(InferRequest(sent, [RequestedOutput("b"), RequestedOutput("a")]))) == [
        "b", "a",
    ]  # fmt: skip
    with pytest.raises(Exception, match=r"outputs\[0\].name.*'a', 'b', 'c'.*'d'"):
        model.infer(InferRequest(sent, [RequestedOutput("d")]))


# ---- by the signature ----


def written(value, specs, **extra):
    outputs = Outputs(fields_of(Schema(specs), "output", **extra), **extra)
    told = outputs.metadata()
    tensors = outputs.write(value).outputs
    for tensor in tensors:  # what the metadata promise
        (each,) = [each for each in told if each.name == tensor.name]
        assert tensor.datatype is each.datatype
        assert len(tensor.shape) == len(each.shape)
    return {each.name: read(each.array, each.parameters.get("content_type")) for each in tensors}


DOUBLE, TEXT = DataType.double, DataType.string


@pytest.mark.parametrize(
    ("value", "specs", "expected"),
    [
        (np.ones(2, "f4"), [TensorSpec(np.dtype("f8"), (-1,))], {SOLE: [1.0, 1.0]}),
        (np.ones(2, "f4"), [ColSpec(DOUBLE, "score")], {"score": [1.0, 1.0]}),
        (np.eye(2), [ColSpec(DOUBLE, "a"), ColSpec(DOUBLE, "b")], {"a": [1, 0], "b": [0, 1]}),
        (np.eye(2), [ColSpec(DOUBLE), ColSpec(DOUBLE)], {"output-0": [1, 0], "output-1": [0, 1]}),
        (
            pd.DataFrame({"x": [1.0], "y": ["t"]}),
            [ColSpec(DOUBLE), ColSpec(TEXT)],
            {"output-0": [1.0], "output-1": ["t"]},
        ),
        (
            [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": "y"}],
            [ColSpec(DOUBLE, "a"), ColSpec(TEXT, "b")],
            {"a": [1.0, 2.0], "b": ["x", "y"]},
        ),
        ([{"a": "x"}, {"a": "y"}], [ColSpec(TEXT, "a")], {"a": ["x", "y"]}),
        (["x", "y"], [ColSpec(TEXT)], {SOLE: ["x", "y"]}),
        ("x", [ColSpec(TEXT, "reply")], {"reply": ["x"]}),
        ([[1.0], [2.0, 3.0]], [ColSpec(Array(DOUBLE))], {SOLE: [[1.0], [2.0, 3.0]]}),
        (np.eye(2), [ColSpec(Array(DOUBLE))], {SOLE: [[1, 0], [0, 1]]}),
        ({"v": [1.0, 2.0]}, [ColSpec(Array(DOUBLE), "v")], {"v": [[1.0, 2.0]]}),
        ({"k": 1}, [ColSpec(Map(DataType.long))], {SOLE: [{"k": 1}]}),
        ([{"k": 1}, {}], [ColSpec(Map(DataType.long))], {SOLE: [{"k": 1}, {}]}),
        ([], [ColSpec(TEXT)], {SOLE: []}),
        ([], [ColSpec(DataType.long)], {SOLE: []}),
        ([1, 2], [ColSpec(DOUBLE)], {SOLE: [1.0, 2.0]}),
        (pd.DataFrame({"x": [1.0]}), [ColSpec(DOUBLE, "score")], {"score": [1.0]}),
        (
            pd.DataFrame({"a": [], "b": []}),
            [ColSpec(DataType.long, "a"), ColSpec(TEXT, "b")],
            {"a": [], "b": []},
        ),
        ([], [ColSpec(Array(DOUBLE))], {SOLE: []}),
        (
            [[1, "x"], (2, "y")],
            [ColSpec(DataType.long, "a"), ColSpec(TEXT, "b")],
            {"a": [1, 2], "b": ["x", "y"]},
        ),
        ({"a": [1], "b": ["x"]}, [ColSpec(DataType.long, "a"), ColSpec(TEXT, "b")],
         {"a": [1], "b": ["x"]}),
    ],
)  # fmt: skip
def test_the_signature_names_what_is_returned(value, specs, expected):
    assert written(value, specs) == expected


def test_mlservers_shapes_under_its_name():
    spec = [ColSpec(DOUBLE, "a")]
    outputs = Outputs(fields_of(Schema(spec), "output", is_column_2d=True), is_column_2d=True)
    assert [list(each.shape) for each in outputs.metadata()] == [[-1, 1]]
    assert outputs.write(np.ones(3)).outputs[0].shape == (3, 1)


def test_values_are_never_changed_to_fit_the_signature():
    outputs = Outputs(fields_of(Schema([ColSpec(DataType.integer, "a")]), "output"))
    (tensor,) = outputs.write([0.5]).outputs
    assert tensor.array.tolist() == [0.5]
    outputs = Outputs(fields_of(Schema([ColSpec(DOUBLE, "a")]), "output"))
    (tensor,) = outputs.write([2**53 + 1]).outputs
    assert tensor.array.tolist() == [2**53 + 1]


def test_what_is_masked_is_missing():
    numbers = np.ma.array([1, 2], mask=[False, True])
    texts = np.ma.array(["a", "b"], mask=[False, True])
    assert repr(Outputs([]).write(numbers).outputs[0].array.tolist()) == "[1.0, nan]"
    assert Outputs([]).write(texts).outputs[0].array.tolist() == [b'"a"', b"null"]


@pytest.mark.parametrize("values", [[2**53 + 1, None], [2**53 + 1, 0.5], [2**63, -1]])
def test_large_integers_beside_others_keep_their_value(values):
    (tensor,) = Outputs([]).write(values).outputs
    assert [json.loads(each) for each in tensor.array.tolist()] == values


def test_a_length_of_time_is_text_in_json():
    (tensor,) = Outputs([]).write({"took": datetime.timedelta(seconds=90)}).outputs
    assert tensor.array.tolist() == [b'"0:01:30"']


def test_what_has_no_form_is_an_error_that_names_the_output():
    with pytest.raises(TypeError, match=r"output 'output-0': element 0 has no form in JSON"):
        Outputs([]).write(object())
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(TypeError, match=r"two columns .* 'a'"):
        Outputs([]).write(frame)


def test_outputs_are_learned_from_the_example_without_a_signature(tmp_path, load):
    from mlflow.models import ModelSignature
    from sklearn.linear_model import LinearRegression

    rows = np.arange(6.0).reshape(3, 2)
    mlflow.sklearn.save_model(
        LinearRegression().fit(rows, rows[:, 0]),
        tmp_path / "m",
        pip_requirements=["scikit-learn"],
        signature=ModelSignature(inputs=Schema([TensorSpec(np.dtype("f8"), (-1, 2))])),
        input_example=rows,
    )
    (output,) = load(tmp_path / "m").metadata().outputs
    assert (output.name, str(output.datatype), list(output.shape)) == (SOLE, "FP64", [-1])


# ---- streams and coroutines ----


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["streams", "awaited"])
def test_a_stream_gives_each_chunk(clients, form, name):
    request = InferRequest([Tensor.from_array("text", ["one two three"])])
    chunks = [
        [each.decode() for each in result["output-0"].tolist()]
        for result in clients[form].model(name).stream(request)
    ]
    assert chunks == [["one"], ["two"], ["three"]]


@pytest.mark.parametrize("name", ["streams", "awaited"])
async def test_a_stream_that_the_caller_leaves_ends_the_models(load, saved, caplog, name):
    chunks = load(saved[name].folder).stream(InferRequest([Tensor.from_array("text", ["a b c"])]))
    with caplog.at_level(logging.INFO):
        if name == "streams":
            next(chunks)
            chunks.close()
        else:
            await anext(chunks)
            await chunks.aclose()
        assert "left" in caplog.messages


def test_a_stream_takes_parameters_and_refuses_bad_input(clients):
    model = clients["grpc"].model("streams")
    text = [Tensor.from_array("text", ["a b"])]
    results = model.stream(InferRequest(text, (), {"times": 2}))
    assert [each["output-0"].tolist() for each in results] == [[b"aa"], [b"bb"]]
    with pytest.raises(Exception, match="'text'"):
        list(model.stream(InferRequest([Tensor.from_array("text", [1])])))
    with pytest.raises(Exception, match=r"parameters\.times"):
        list(model.stream(InferRequest(text, (), {"times": "x"})))


def test_what_streams_answers_at_once_too(clients):
    found = clients["json"].model("streams").infer(text=["hello"])
    assert found["output-0"].tolist() == [b"HELLO"]


async def test_coroutine_functions_run_beside_each_other(served):
    async with AsyncClient(served.http) as client:
        model = client.model("awaited")
        results = await asyncio.gather(*(model.infer(text=[each]) for each in ("a", "b")))
    found = [each["output-0"].tolist() for each in results]
    assert found == [[b"a True"], [b"b True"]]


def test_a_coroutine_function_refuses_bad_input(load, saved):
    runtime = load(saved["awaited"].folder)
    with pytest.raises(InvalidRequestError, match="'text'"):
        asyncio.run(runtime.infer(InferRequest([Tensor.from_array("text", [1])])))
    # what calls the Python function itself gets a result, too
    assert runtime.pyfunc.predict(pd.DataFrame({"text": ["x"]})) == ["x False"]
