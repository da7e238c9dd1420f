"""Every kind of signature, over every wire: the model gets what a direct call gives it."""

from __future__ import annotations

import datetime
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from jackfield import InferRequest, Tensor, codecs
from jackfield.errors import RemoteRequestError

FORMS = ("json", "binary", "grpc")
MOMENTS = [datetime.datetime(2026, 1, 2, 3, 4, 5), datetime.datetime(1999, 12, 31, 23, 59, 59, 7)]
PEOPLE = [{"name": "Ada", "age": 36, "tags": ["x"], "photo": b"\x00\x01"}, {"name": "Bo"}]
#: Two rows of every type of column, as a user of MLflow has them.
FRAME = {
    "flag": np.array([True, False]),
    "small": np.array([1, -2], dtype="i4"),
    "large": np.array([2**62, -3], dtype="i8"),
    "single": np.array([0.1, np.nan], dtype="f4"),
    "double": np.array([0.1, -1e300]),
    "text": ["a", "ü\0"],
    "blob": [b"\x00\xff", b""],
    "moment": MOMENTS,
    "numbers": [[1.5, 2.0], []],
    "words": [[["a"], ["b", "c"]], [[]]],
    "blobs": [[b"\x00"], []],
    "person": PEOPLE,
    "counts": [{"a": 1}, {}],
    "maps": [[{"a": 0.5}], []],
    "anything": [{"deep": [1, None, "x"]}, 3],
    "maybe": np.array([np.nan, 1.0]),
    "note": ["x", "y"],
}
#: Content types of those that are not arrays.
CONTENT = {"text": "str", "blob": "base64", "moment": "datetime", "note": "str"}


def frame(*, without=()):
    columns = {name: each for name, each in FRAME.items() if name not in without}
    return pd.DataFrame(
        {
            name: each if isinstance(each, np.ndarray) else pd.Series(each, dtype=_dtype(name))
            for name, each in columns.items()
        }
    )


def _dtype(name):
    return {"text": str, "note": str, "moment": None}.get(name, object)


def columns(*, without=()):
    found = []
    for name, each in FRAME.items():
        if name in without:
            continue
        if isinstance(each, np.ndarray):
            found.append(Tensor.from_array(name, each))
        elif name in CONTENT:
            found.append(codecs.encode(name, each, CONTENT[name]))
        else:
            found.append(codecs.encode(name, [_jsonable(cell) for cell in each], "pd_json"))
    return found


def _jsonable(cell):
    if isinstance(cell, bytes):
        return codecs.encode("x", [cell], "base64").array[0].decode()
    if isinstance(cell, list):
        return [_jsonable(each) for each in cell]
    if isinstance(cell, dict):
        return {name: _jsonable(each) for name, each in cell.items()}
    return cell


def untagged(tensors):
    """Leave the content types to the metadata."""
    return [Tensor(each.name, each.datatype, each.array) for each in tensors]


def tell(clients, form, name, inputs, parameters=None):
    result = clients[form].model(name).infer(InferRequest(inputs, (), parameters or {}))
    assert list(result) == ["output-0"]
    return result["output-0"].tolist()


def direct(saved, name, data, params=None):
    return [each.encode() for each in saved[name].pyfunc().predict(data, params=params)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_tagged", [True, False], ids=["tagged", "untagged"])
@pytest.mark.parametrize("without", [(), ("anything", "maybe", "note"), ("maybe",)])
def test_columns_of_every_type(clients, saved, form, is_tagged, without):
    sent = columns(without=without)
    found = tell(clients, form, "columns", sent if is_tagged else untagged(sent))
    assert found == direct(saved, "columns", frame(without=without))


@pytest.mark.parametrize("form", FORMS)
def test_columns_in_another_order_and_of_one_column_each(clients, saved, form):
    sent = [
        Tensor(each.name, each.datatype, each.array.reshape(-1, 1), each.parameters)
        for each in reversed(columns())
    ]
    assert tell(clients, form, "columns", sent) == direct(saved, "columns", frame())


@pytest.mark.parametrize("form", FORMS)
def test_parameters_reach_the_model(clients, saved, form):
    given = {"scale": 1.5, "count": 7, "name": "x", "strict": True, "when": "2025-05-05T01:02:03"}
    wanted = {**given, "many": [5, 6], "thing": {"k": "w"}}
    # gRPC carries no lists
    sent = {**given, "many": "[5, 6]", "thing": '{"k": "w"}'} if form == "grpc" else wanted
    found = tell(clients, form, "columns", columns(), sent)
    assert found == direct(saved, "columns", frame(), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_parameters_are_their_own_requests(clients, form):
    model = clients[form].model("params-only")

    def ask(scale):
        request = InferRequest([Tensor.from_array("x", [scale])], (), {"scale": scale})
        data, params = json.loads(model.infer(request)["output-0"][0])
        return repr(scale) in str(data) and repr(scale) in str(params)

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(ask, (place + 0.25 for place in range(200))))


@pytest.mark.parametrize("form", FORMS)
def test_named_tensors(clients, saved, form):
    data = {
        "pixels": np.array([[0.1, 0.2], [3, 4]], dtype="f4"),
        "ids": np.array([1, 2**62]),
        "mask": np.array([[True], [False]]),
        "words": np.array(["a", "üb"]),
        "things": np.array(["x", "y"], dtype=object),
    }
    sent = [Tensor.from_array(name, each) for name, each in reversed(data.items())]
    assert tell(clients, form, "tensors", sent) == direct(saved, "tensors", data)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["f4", "f2", "i2", "u1"])
def test_a_tensor_is_cast_where_nothing_is_lost(clients, saved, form, dtype):
    rows = np.arange(6).reshape(2, 3)
    found = tell(clients, form, "matrix", [Tensor.from_array("any name", rows.astype(dtype))])
    assert found == direct(saved, "matrix", rows.astype("f4"))


@pytest.mark.parametrize("form", FORMS)
def test_a_named_tensor_alone(clients, saved, form):
    cube = np.arange(12, dtype="u1").reshape(2, 2, 3)
    found = tell(clients, form, "cube", [Tensor.from_array("other", cube)])
    assert found == direct(saved, "cube", {"cube": cube})


@pytest.mark.parametrize("form", FORMS)
def test_columns_without_names(clients, saved, form):
    sent = [Tensor.from_array("input-1", ["x", "y"]), Tensor.from_array("input-0", [1.5, 2.5])]
    data = pd.DataFrame({0: [1.5, 2.5], 1: pd.Series(["x", "y"], dtype=str)})
    assert tell(clients, form, "unnamed", sent) == direct(saved, "unnamed", data)


@pytest.mark.parametrize("form", FORMS)
def test_a_sole_column_goes_by_any_name(clients, saved, form):
    found = tell(clients, form, "sole", [Tensor.from_array("prompt", ["x", "y"])])
    assert found == direct(saved, "sole", pd.DataFrame({0: pd.Series(["x", "y"], dtype=str)}))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "i8", "u1"])
def test_a_matrix_stands_for_columns_of_numbers(clients, saved, form, dtype):
    rows = np.arange(6).reshape(2, 3).astype(dtype)
    found = tell(clients, form, "numbers", [Tensor.from_array("x", rows)])
    data = pd.DataFrame(rows.astype("f8"), columns=list("abc"))
    assert found == direct(saved, "numbers", data)


@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_stands_for_a_column_of_lists(clients, saved, form):
    rows = np.arange(6.0).reshape(2, 3)
    found = tell(clients, form, "vectors", [Tensor.from_array("vector", rows)])
    assert found == direct(saved, "vectors", pd.DataFrame({"vector": list(rows)}))


@pytest.mark.parametrize("form", FORMS)
def test_a_signature_of_inputs_alone(clients, saved, form):
    found = tell(clients, form, "inputs-only", [Tensor.from_array("x", [1.0, 2.0])])
    assert found == direct(saved, "inputs-only", pd.DataFrame({"x": [1.0, 2.0]}))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["unsigned", "params-only"])
def test_without_inputs_in_the_signature_the_tensors_form_decides(clients, saved, form, name):
    matrix, cube = np.eye(2), np.ones((1, 2, 3), dtype="i2")
    found = tell(clients, form, name, [Tensor.from_array("x", matrix)])
    assert found == direct(saved, name, matrix)
    sent = [Tensor.from_array("a", [1, 2]), Tensor.from_array("b", [["x"], ["y"]])]
    data = pd.DataFrame({"a": [1, 2], "b": pd.Series(["x", "y"], dtype=str)})
    assert tell(clients, form, name, sent) == direct(saved, name, data)
    sent = [Tensor.from_array("a", [1.0]), Tensor.from_array("b", cube)]
    found = tell(clients, form, name, sent)
    assert found == direct(saved, name, {"a": np.array([1.0]), "b": cube})


@pytest.mark.parametrize("form", FORMS)
def test_without_a_signature_a_content_type_decides(clients, saved, form):
    sent = [Tensor.from_array("x", [1.0, 2.0])]
    found = tell(clients, form, "unsigned", sent, {"content_type": "np"})
    assert found == direct(saved, "unsigned", np.array([1.0, 2.0]))
    texts = [Tensor.from_array("x", ["a", "b"])]
    found = tell(clients, form, "unsigned", texts, {"content_type": "str"})
    assert found == direct(saved, "unsigned", ["a", "b"])
    matrix = [Tensor.from_array("x", [[1], [2]])]
    found = tell(clients, form, "unsigned", matrix, {"content_type": "pd"})
    assert found == direct(saved, "unsigned", pd.DataFrame({"x": [1, 2]}))


HINTED = {
    "Ints": ([1, -2], lambda x: Tensor.from_array("x", np.array(x))),
    "Floats": ([0.5, 2.0], lambda x: Tensor.from_array("x", np.array(x))),
    "Texts": (["a", "ü"], lambda x: Tensor.from_array("x", x)),
    "Flags": ([True, False], lambda x: Tensor.from_array("x", x)),
    "Blobs": ([b"\x00", b"ab"], lambda x: codecs.encode("x", x, "base64")),
    "Moments": (MOMENTS, lambda x: codecs.encode("x", x, "datetime")),
    "Lists": ([[1.0], [2.0, 3.0]], lambda x: codecs.encode("x", x, "pd_json")),
    "Maps": ([{"a": 1}, {}], lambda x: codecs.encode("x", x, "pd_json")),
    "Things": ([1, "a", None, [2]], lambda x: codecs.encode("x", x, "pd_json")),
    "People": (
        [{"name": "Ada", "age": 36}, {"name": "Bo", "age": 1, "born": None}],
        lambda x: codecs.encode("x", x, "pd_json"),
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", HINTED)
def test_a_type_hint(clients, saved, form, kind):
    data, make = HINTED[kind]
    tensor = make(data)
    for each in (tensor, *untagged([tensor])):
        assert tell(clients, form, f"hinted-{kind}", [each]) == direct(
            saved, f"hinted-{kind}", data
        )


# ---- what is part of a nested type ----

PART = {"i": 2, "l": 2, "f": 2, "d": 2, "t": "2026-01-02T03:04:05"}
WITHOUT_LONG = {name: each for name, each in PART.items() if name != "l"}
#: The same as MLflow wants it.
TYPED = {
    "i": np.int32(2), "l": 2, "f": np.float32(2), "d": 2.0,
    "t": np.datetime64("2026-01-02T03:04:05"),
}  # fmt: skip


def nested(**columns):
    return [codecs.encode(name, cells, "pd_json") for name, cells in columns.items()]


@pytest.mark.parametrize("form", FORMS)
def test_json_knows_one_kind_of_number_and_no_moment(clients, saved, form):
    sent = nested(
        parts=[PART, PART],
        integers=[[2, 3], []],
        floats=[[2, 2.5], [None]],
        doubles=[[[2, 3], []], [[None]]],
        moments=[["2026-01-02T03:04:05", None], []],
        prices=[{"a": 2}, {}],
    )
    data = pd.DataFrame(
        {
            "parts": [dict(TYPED), dict(TYPED)],
            "integers": [[np.int32(2), np.int32(3)], []],
            "floats": [[np.float32(2), np.float32(2.5)], [np.float32("nan")]],
            "doubles": [[[2.0, 3.0], []], [[np.nan]]],
            "moments": [[MOMENTS[0], None], []],
            "prices": [{"a": 2.0}, {}],
        }
    )
    assert tell(clients, form, "nested", sent) == direct(saved, "nested", data)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["i8", "f4", "f8"])
def test_a_matrix_is_cast_where_nothing_is_lost(clients, saved, form, dtype):
    cube = np.arange(12).reshape(2, 2, 3).astype(dtype)
    sent = [*nested(parts=[PART, PART]), Tensor.from_array("doubles", cube)]
    data = pd.DataFrame({"parts": [dict(TYPED), dict(TYPED)], "doubles": list(cube.astype("f8"))})
    assert tell(clients, form, "nested", sent) == direct(saved, "nested", data)


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_at_all(clients, saved, form):
    empty = pd.DataFrame(
        {
            "parts": pd.Series([], dtype=object),
            "floats": pd.Series([], dtype=object),
            "when": pd.Series([], dtype="datetime64[ns]"),
            "count": pd.Series([], dtype="int64"),
        }
    )
    sent = [*nested(parts=[], floats=[]), codecs.encode("when", [], "datetime")]
    sent.append(Tensor.from_array("count", np.empty(0, "i8")))
    assert tell(clients, form, "nested", sent) == direct(saved, "nested", empty)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("column", "cell", "told"),
    [
        ("parts", {**PART, "i": 2**31}, ["data[1].i", "integer", "'parts'", str(2**31)]),
        ("parts", {**PART, "i": 2.5}, ["data[1].i", "integer", "2.5 (float)"]),
        ("parts", {**PART, "l": 2**63}, ["data[1].l", "long", "(int)"]),
        ("parts", {**PART, "f": 1e300}, ["data[1].f", "float", "1e+300"]),
        ("parts", {**PART, "d": 2**53 + 1}, ["data[1].d", "double", str(2**53 + 1)]),
        ("parts", {**PART, "d": True}, ["data[1].d", "double", "True (bool)"]),
        ("parts", {**PART, "d": None}, ["data[1].d", "double", "null"]),
        ("parts", {**PART, "t": "soon"}, ["data[1].t", "ISO 8601", "'parts'", "'soon'"]),
        ("parts", {**PART, "t": "2026-01-01T00:00Z"}, ["data[1].t", "offset"]),
        ("parts", {**PART, "b": 1}, ["data[1].b", "boolean", "1 (int)"]),
        ("parts", {**PART, "s": 1}, ["data[1].s", "string", "1 (int)"]),
        ("parts", {**PART, "z": 1}, ["data[1]:", "'i', 'l'", "'z'"]),
        ("parts", WITHOUT_LONG, ["data[1].l", "long", "nothing"]),
        ("parts", [1], ["data[1]:", "an object", "'parts'", "(list)"]),
        ("parts", None, ["data[1]:", "an object", "null"]),
        ("doubles", [[1.5], ["x"]], ["data[1][1][0]", "double", "'doubles'", "'x' (str)"]),
        ("doubles", 3, ["data[1]:", "a list", "'doubles'", "3 (int)"]),
        ("texts", ["a", None], ["data[1][1]", "string", "'texts'", "null"]),
        ("integers", [None], ["data[1][0]", "integer", "null"]),
        ("prices", {"a": "x"}, ["data[1].a", "double", "'prices'", "'x' (str)"]),
        ("count", "x", ["data[1]", "long", "'count'", "'x' (str)"]),
        ("count", None, ["data[1]", "long", "'count'", "null"]),
    ],
)
def test_what_does_not_fit_in_a_nested_type_is_found(clients, form, column, cell, told):
    good = {"parts": PART, "doubles": [], "texts": [], "integers": [], "prices": {}, "count": 1}
    sent = nested(**{"parts": [PART, PART], column: [good[column], cell]})
    with pytest.raises(RemoteRequestError) as caught:
        clients[form].model("nested").infer(InferRequest(sent))
    for each in told:
        assert each in str(caught.value)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (Tensor.from_array("integers", np.ones((2, 3))), ["'integers'", "FP64"]),
        (Tensor.from_array("doubles", np.ones((2, 3))), ["3 dimensions", "'doubles'", "[2, 3]"]),
        (Tensor.from_array("texts", np.ones((2, 3))), ["'texts'", "FP64"]),
    ],
)
def test_a_matrix_that_does_not_fit_a_column_of_lists(clients, tensor, told):
    sent = [*nested(parts=[PART, PART]), tensor]
    with pytest.raises(RemoteRequestError) as caught:
        clients["binary"].model("nested").infer(InferRequest(sent))
    for each in told:
        assert each in str(caught.value)


def test_a_type_hint_takes_integers_for_floats_and_moments_with_an_offset(clients, saved):
    people = [{"name": "Ada", "age": 3, "born": "2026-01-02T03:04:05+02:00"}]
    data = [{**people[0], "born": datetime.datetime.fromisoformat(people[0]["born"])}]
    found = tell(clients, "json", "hinted-People", nested(x=people))
    assert found == direct(saved, "hinted-People", data)
    found = tell(clients, "json", "hinted-Lists", nested(x=[[1, 2.5]]))
    assert found == direct(saved, "hinted-Lists", [[1.0, 2.5]])


def test_no_input_example_is_no_example(clients):
    (sole,) = clients["json"].model("inputs-only").metadata().inputs
    assert "example" not in sole.parameters


# ---- real flavours ----


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["iris", "proba", "diabetes"])
def test_a_flavour(clients, saved, form, name):
    pyfunc = saved[name].pyfunc()
    if name == "diabetes":
        data = np.random.default_rng(1).normal(size=(5, 10)).astype("f4")
        sent = [Tensor.from_array("x", data)]
    else:
        names = pyfunc.metadata.get_input_schema().input_names()
        data = pd.DataFrame(np.random.default_rng(1).uniform(0, 8, (5, 4)), columns=names)
        sent = [Tensor.from_array(each, data[each]) for each in names]
    expected = pyfunc.predict(data)
    found = clients[form].model(name).infer(InferRequest(sent))["output-0"]
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


# ---- metadata ----


@pytest.mark.parametrize("form", FORMS)
def test_metadata_say_every_type_of_column(clients, form):
    metadata = clients[form].model("columns").metadata()
    assert [(each.name, str(each.datatype), list(each.shape)) for each in metadata.inputs] == [
        ("flag", "BOOL", [-1]), ("small", "INT32", [-1]), ("large", "INT64", [-1]),
        ("single", "FP32", [-1]), ("double", "FP64", [-1]), ("text", "BYTES", [-1]),
        ("blob", "BYTES", [-1]), ("moment", "BYTES", [-1]), ("numbers", "BYTES", [-1]),
        ("words", "BYTES", [-1]), ("blobs", "BYTES", [-1]), ("person", "BYTES", [-1]),
        ("counts", "BYTES", [-1]), ("maps", "BYTES", [-1]), ("anything", "BYTES", [-1]),
        ("maybe", "FP64", [-1]), ("note", "BYTES", [-1]),
    ]  # fmt: skip
    assert [(each.name, str(each.datatype)) for each in metadata.outputs] == [("output-0", "BYTES")]


def test_metadata_say_content_types_and_mlflows_own(clients):
    metadata = clients["json"].model("columns").metadata()
    told = {each.name: each.parameters for each in metadata.inputs}
    names = ("double", "text", "blob", "moment", "maps")
    assert [told[each]["content_type"] for each in names] == [
        "np", "str", "base64", "datetime", "pd_json",
    ]  # fmt: skip
    assert told["maybe"]["optional"] is True
    assert "optional" not in told["double"]
    assert told["words"]["mlflow_type"] == {
        "type": "array", "items": {"type": "array", "items": {"type": "string"}},
    }  # fmt: skip
    assert told["counts"]["mlflow_type"] == {"type": "map", "values": {"type": "long"}}
    assert told["person"]["mlflow_type"]["properties"]["age"] == {"type": "long", "required": False}
    assert told["anything"]["mlflow_type"] == {"type": "any"}
    assert metadata.parameters["content_type"] == "pd"


def test_metadata_say_the_parameters_with_their_defaults(clients):
    told = clients["json"].model("columns").metadata().parameters["request_parameters"]
    assert told["scale"] == {"type": "number", "default": 2.0, "mlflow_type": "double"}
    assert told["many"]["items"] == {"type": "integer"}
    assert told["many"]["default"] == [1, 2]
    assert told["when"]["default"] == "2024-01-01T00:00:00"
    assert told["thing"]["default"] == {"k": "v"}
    assert told["strict"]["type"] == "boolean"


def test_metadata_say_tensors(clients):
    inputs = clients["json"].model("tensors").metadata().inputs
    assert [(each.name, str(each.datatype), list(each.shape)) for each in inputs] == [
        ("pixels", "FP32", [-1, 2]), ("ids", "INT64", [-1]), ("mask", "BOOL", [-1, 1]),
        ("words", "BYTES", [-1]), ("things", "BYTES", [-1]),
    ]  # fmt: skip
    matrix = clients["json"].model("matrix").metadata()
    assert [(each.name, list(each.shape)) for each in matrix.inputs] == [("input-0", [-1, 3])]
    assert matrix.parameters["content_type"] == "np"
    assert clients["json"].model("tensors").metadata().parameters["content_type"] == "dict"


def test_metadata_say_type_hints(clients):
    told = clients["json"].model("hinted-Ints").metadata().parameters["mlflow"]["type_hints"]
    assert told == {"input": "list[int]", "output": "list[str]"}


def test_the_input_example_is_the_documentations(clients):
    metadata = clients["json"].model("iris").metadata()
    assert [each.parameters["example"] for each in metadata.inputs] == [[5.1], [3.5], [1.4], [0.2]]
    (sole,) = clients["json"].model("diabetes").metadata().inputs
    assert len(sole.parameters["example"]) == 10


# ---- bad input ----

GOOD = dict(zip((each.name for each in columns()), columns(), strict=True))
BAD = {
    "missing": ({"double": None}, ["'double' (double, FP64)"]),
    "two missing": ({"double": None, "text": None}, ["'double'", "'text' (string, BYTES)"]),
    "extra": ({"colour": Tensor.from_array("colour", [1, 2])}, ["'colour' (INT64)", "'flag'"]),
    "text for a number": (
        {"double": Tensor.from_array("double", ["a", "b"])},
        ["'double'", "FP64 (double)", "BYTES"],
    ),
    "a number for text": (
        {"text": Tensor.from_array("text", [1, 2])}, ["'text'", "BYTES", "INT64"],
    ),
    "a wide number for a narrow one": (
        {"single": Tensor.from_array("single", [0.1, 0.2])},
        ["'single'", "FP32 (float)", "FP64"],
    ),
    "a wide integer": (
        {"small": Tensor.from_array("small", [1, 2])}, ["'small'", "INT32", "INT64"],
    ),
    "a number for a flag": (
        {"flag": Tensor.from_array("flag", [1, 0])}, ["'flag'", "BOOL", "INT64"],
    ),
    "a flag for a number": (
        {"double": Tensor.from_array("double", [True, False])}, ["'double'", "FP64", "BOOL"],
    ),
    "a large integer for a double": (
        {"double": Tensor.from_array("double", [1, 2**53 + 1])}, ["data[1]", str(2**53 + 1)],
    ),
    "no base64": (
        {"blob": Tensor.from_array("blob", ["!", "AA=="])}, ["data[0]", "base64"],
    ),
    "no moment": ({"moment": Tensor.from_array("moment", ["now", "x"])}, ["data[0]", "ISO 8601"]),
    "a moment with an offset": (
        {"moment": Tensor.from_array("moment", ["2026-01-01T00:00+01:00"] * 2)}, ["offset"],
    ),
    "no JSON": ({"numbers": Tensor.from_array("numbers", ["[", "[]"])}, ["data[0]", "JSON"]),
    "JSON of another type": (
        {"person": codecs.encode("person", [{"age": 1}, {"name": "x"}], "pd_json")}, ["name"],
    ),
    "two lengths": (
        {"double": Tensor.from_array("double", [1.0])}, ["one length", "1 in 'double'"],
    ),
    "a matrix for a column": (
        {"double": Tensor.from_array("double", np.eye(2))}, ["[N] or [N, 1]", "'double'", "[2, 2]"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", BAD)
def test_bad_columns_are_the_callers_error(clients, form, case):
    changes, told = BAD[case]
    sent = [each for each in {**GOOD, **changes}.values() if each is not None]
    with pytest.raises(RemoteRequestError) as caught:
        clients[form].model("columns").infer(InferRequest(sent))
    for each in told:
        assert each in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "told"),
    [
        ("matrix", Tensor.from_array("x", np.ones((2, 3))), ["FP32 (float32)", "FP64"]),
        ("matrix", Tensor.from_array("x", np.ones((2, 3), "i4")), ["FP32", "INT32"]),
        ("matrix", Tensor.from_array("x", np.ones((2, 4), "f4")), ["[-1, 3]", "[2, 4]"]),
        ("matrix", Tensor.from_array("x", [["a", "b", "c"]]), ["FP32", "BYTES"]),
        ("tensors", Tensor.from_array("pixels", np.ones((2, 2), "f4")), ["'ids' (INT64 [-1])"]),
        ("hinted-Ints", Tensor.from_array("x", [0.5]), ["INT64 (long)", "FP64"]),
    ],
)
def test_bad_tensors_are_the_callers_error(clients, name, tensor, told):
    with pytest.raises(RemoteRequestError) as caught:
        clients["grpc"].model(name).infer(InferRequest([tensor]))
    for each in told:
        assert each in str(caught.value)


@pytest.mark.parametrize(
    ("parameter", "value", "told"),
    [
        ("scale", "big", ["parameters.scale", "a double", "'big' (str)"]),
        ("count", 1.5, ["parameters.count", "a long", "1.5 (float)"]),
        ("strict", 1, ["parameters.strict", "a boolean", "1 (int)"]),
        ("name", 3, ["parameters.name", "a string", "3 (int)"]),
        ("many", 3, ["parameters.many", "a list of long", "3 (int)"]),
        ("many", ["x"], ["parameters.many", "a list of long"]),
        ("when", "soon", ["parameters.when", "a datetime", "'soon'"]),
        ("thing", {"other": 1}, ["parameters.thing", "k"]),
    ],
)
def test_a_wrong_parameter_is_the_callers_error(clients, parameter, value, told):
    with pytest.raises(RemoteRequestError) as caught:
        clients["json"].model("columns").infer(InferRequest(columns(), (), {parameter: value}))
    for each in told:
        assert each in str(caught.value)


def test_an_unknown_parameter_is_left_alone(clients):
    found = tell(clients, "json", "columns", columns(), {"priority": 0, "unknown": 1})
    (told,) = [json.loads(each) for each in found]
    assert "unknown" not in str(told[1])


def test_an_unknown_content_type_is_the_callers_error(clients):
    with pytest.raises(RemoteRequestError, match=r"content_type.*'odd'"):
        tell(clients, "json", "unsigned", [Tensor.from_array("x", [1])], {"content_type": "odd"})


def test_missing_numbers_may_come_as_json(clients, saved):
    sent = [
        codecs.encode("double", [None, 1.5], "pd_json") if each.name == "double"
        else codecs.encode("note", ["x", None], "pd_json") if each.name == "note"
        else each
        for each in columns()
    ]  # fmt: skip
    data = frame()
    data["double"] = [np.nan, 1.5]
    data["note"] = pd.Series(["x", None], dtype=object)
    assert tell(clients, "json", "columns", sent) == direct(saved, "columns", data)
