import base64
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jackfield import Datatype, InferResponse, InvalidRequestError, Tensor
from jackfield._wire import json as wire

NUMBERS = [each for each in Datatype if each not in (Datatype.BF16, Datatype.BYTES)]
INTEGERS = [each for each in NUMBERS if "INT" in each]
FLOATS = [Datatype.FP16, Datatype.FP32, Datatype.FP64]

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


@st.composite
def tensors(draw):
    datatype = draw(st.sampled_from([*NUMBERS, Datatype.BYTES]))
    shape = draw(shapes)
    if datatype is Datatype.BYTES:
        size = int(np.prod(shape))
        texts = draw(st.lists(st.text(), min_size=size, max_size=size))
        return Tensor.from_array("x", np.array(texts, dtype=object).reshape(shape))
    elements = {"allow_infinity": False} if datatype in FLOATS else None
    return Tensor("x", datatype, draw(hnp.arrays(datatype.dtype, shape, elements=elements)))


def read(text, model):
    request, form = wire.decode_infer(text, model)
    assert form == wire.JSON_ONLY
    return request


def written(response):
    text, json_length = wire.encode_infer(response)
    assert json_length == 0
    return text


def check_equal(found, expected):
    assert found.datatype is expected.datatype
    assert found.shape == expected.shape
    assert found.array.dtype == expected.array.dtype
    assert found.array.flags.c_contiguous
    np.testing.assert_array_equal(found.array, expected.array)


@given(tensors())
def test_what_is_encoded_decodes_to_the_same_tensor(tensor):
    outputs = json.loads(written(InferResponse([tensor])))["outputs"]
    [found] = read(json.dumps({"inputs": outputs}).encode(), "m").inputs
    check_equal(found, tensor)


@given(tensors())
def test_nested_data_is_read_as_flat_data_is(tensor):
    array = tensor.array
    if tensor.datatype is Datatype.BYTES:
        nested = np.array([each.decode() for each in array.flat], dtype=object)
        data = nested.reshape(array.shape).tolist()
    else:
        nested = array.astype(object)
        nested[array != array] = None  # NaN alone differs from itself
        data = nested.tolist() if array.shape else nested.item()
    check_equal(decode(tensor.datatype, array.shape, data), tensor)


def body(datatype, shape, data, **fields):
    given = {"name": "x", "shape": list(shape), "datatype": datatype, "data": data}
    return json.dumps({"inputs": [given], **fields}).encode()


def decode(datatype, shape, data):
    return read(body(datatype, shape, data), "m").inputs[0]


@pytest.mark.parametrize("datatype", FLOATS)
@pytest.mark.parametrize("data", [[1, None], [[1, None]]], ids=["flat", "nested"])
def test_null_is_nan_in_floating_point_data(datatype, data):
    array = decode(datatype, [1, 2], data).array
    assert array[0, 0] == 1
    assert np.isnan(array[0, 1])


@pytest.mark.parametrize("size", [1, 5000], ids=["short", "long"])
@pytest.mark.parametrize(
    ("value", "spelt"), [(np.nan, None), (np.inf, "Infinity"), (-np.inf, "-Infinity")]
)
def test_what_json_has_no_number_for_is_told_apart_and_read_back(value, spelt, size):
    tensor = Tensor.from_array("y", [value] * size)
    text = written(InferResponse([tensor]))
    outputs = json.loads(text)["outputs"]
    assert outputs[0]["data"] == [spelt] * size
    check_equal(read(json.dumps({"inputs": outputs}), "m").inputs[0], tensor)


@pytest.mark.parametrize("shape", [[], [1], [1, 1]])
def test_a_lone_value_is_a_tensor_of_one_element(shape):
    tensor = decode("FP32", shape, 2.5)
    assert tensor.shape == tuple(shape)
    assert tensor.array.item() == 2.5


@pytest.mark.parametrize("data", [[], [[], []]], ids=["flat", "nested"])
def test_a_tensor_may_be_empty(data):
    assert decode("INT64", [2, 0], data).shape == (2, 0)


@pytest.mark.parametrize(("given", "expected"), [(True, True), (False, False), (1, True), (0, 0)])
def test_bool_takes_true_false_one_and_zero(given, expected):
    assert decode("BOOL", [1], [given]).array.tolist() == [expected]


@pytest.mark.parametrize("datatype", INTEGERS)
def test_the_ends_of_an_integer_type_are_within_it(datatype):
    ends = np.iinfo(datatype.dtype)
    assert decode(datatype, [2], [ends.min, ends.max]).array.tolist() == [ends.min, ends.max]


@pytest.mark.parametrize("datatype", FLOATS)
def test_the_largest_number_of_a_floating_point_type_is_within_it(datatype):
    largest = float(np.finfo(datatype.dtype).max)
    assert decode(datatype, [2], [largest, -largest]).array.tolist() == [largest, -largest]


def test_everything_around_the_tensors_is_read():
    given = {
        "id": "abc",
        "parameters": {"a": {"b": [1, None]}},
        "inputs": [
            {"name": "x", "shape": [1], "datatype": "INT8", "data": [1], "parameters": {"p": 1}}
        ],
        "outputs": [{"name": "y"}, {"name": "z", "parameters": {"q": True}}],
        "unknown": 1,
    }
    request = read(json.dumps(given).encode(), "m")
    assert request.id == "abc"
    assert request.parameters == {"a": {"b": [1, None]}}
    assert request.input("x").parameters == {"p": 1}
    assert [(each.name, each.parameters) for each in request.outputs] == [
        ("y", {}),
        ("z", {"q": True}),
    ]


@pytest.mark.parametrize("fields", [{}, {"id": None, "parameters": None, "outputs": None}])
def test_what_is_absent_or_null_has_its_default_and_an_id_is_made(fields):
    requests = [read(body("INT8", [1], [1], **fields), "m") for _ in range(2)]
    assert requests[0].parameters == {}
    assert requests[0].outputs == []
    assert requests[0].id
    assert requests[0].id != requests[1].id


def one(**changes):
    """Make a body whose one input is changed; a change to None takes the field out."""
    given = {"name": "x", "shape": [2], "datatype": "INT32", "data": [1, 2]} | changes
    given = {key: value for key, value in given.items() if value is not None}
    return json.dumps({"inputs": [given]}).encode()


def raw(shape, datatype, data):
    """Make a body of JSON that Python's encoder would not write."""
    text = '{"inputs": [{"name": "x", "shape": %s, "datatype": "%s", "data": %s}]}'
    return (text % (shape, datatype, data)).encode()


GOOD = {"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}
DEEP = "[" * 10_000 + "]" * 10_000
IN = "inputs[0]"

BAD = {
    # not JSON at all
    "empty": (b"", "body", "JSON", "truncated"),
    "malformed": (b'{"inputs": [', "body", "JSON", "truncated"),
    "trailing": (one() + b"x", "body", "JSON", "trailing"),
    "not UTF-8": (b'{"inputs": [{"name": "\xff"}]}', "body", "JSON", "utf-8"),
    "UTF-16": (one().decode().encode("utf-16"), "body", "JSON", "malformed"),
    "lone surrogate in a name": (one(name="\ud800"), "body", "JSON", "surrogate"),
    "deep body": (b'{"a": ' + DEEP.encode() + b"}", "body", "JSON", "recursion"),
    "deep parameters": (
        b'{"parameters": {"a": ' + DEEP.encode() + b'}, "inputs": []}',
        "body",
        "JSON",
        "recursion",
    ),
    # the wrong thing in a place
    "null": (b"null", "", "an object", "null"),
    "array": (b"[]", "", "an object", "an array"),
    "deep array": (DEEP.encode(), "", "an object", "an array"),
    "no inputs": (b"{}", "inputs", "a value", "none"),
    "inputs empty": (b'{"inputs": []}', "inputs", "length >= 1", ""),
    "inputs an object": (b'{"inputs": {}}', "inputs", "an array", "an object"),
    "input a number": (b'{"inputs": [1]}', IN, "an object", "an integer"),
    "id a number": (json.dumps({"id": 1, "inputs": [GOOD]}), "id", "a string", "an integer"),
    "parameters an array": (
        json.dumps({"parameters": [], "inputs": [GOOD]}),
        "parameters",
        "an object",
        "an array",
    ),
    "outputs a string": (
        json.dumps({"outputs": "y", "inputs": [GOOD]}),
        "outputs",
        "an array",
        "a string",
    ),
    "output without name": (
        json.dumps({"outputs": [{}], "inputs": [GOOD]}),
        "outputs[0].name",
        "a value",
        "none",
    ),
    "name missing": (one(name=None), f"{IN}.name", "a value", "none"),
    "name a number": (one(name=1), f"{IN}.name", "a string", "an integer"),
    "name twice": (
        json.dumps({"inputs": [GOOD, GOOD]}),
        "inputs[1].name",
        "no other input",
        "'x' again",
    ),
    # shape
    "shape missing": (one(shape=None), f"{IN}.shape", "a value", "none"),
    "shape a number": (one(shape=2), f"{IN}.shape", "an array", "an integer"),
    "shape of text": (one(shape=["2"]), f"{IN}.shape[0]", "an integer", "a string"),
    "shape of a fraction": (one(shape=[2.5]), f"{IN}.shape[0]", "an integer", "a number"),
    "shape -1": (one(shape=[-1]), f"{IN}.shape", "0 or more", "[-1]"),
    "shape negative": (one(shape=[2, -3]), f"{IN}.shape", "0 or more", "[2, -3]"),
    "shape of 1000 sizes": (one(shape=[1] * 1000), f"{IN}.shape", "at most 32", "1000 sizes"),
    "shape that overflows": (
        one(shape=[2**62, 2**62]),
        f"{IN}.data",
        str(2**124),
        "2",
    ),
    "shape empty and too large": (
        one(shape=[0, 2**62, 2**62], data=[]),
        f"{IN}.shape",
        "array",
        "4611686018427387904",
    ),
    "size above 64 bits": (one(shape=[0, 2**64], data=[]), f"{IN}.shape[1]", "<=", ""),
    "size of 4000 digits": (
        raw("[%s, 1]" % ("9" * 4000), "INT8", "[]"),
        f"{IN}.shape[0]",
        "<=",
        "",
    ),
    "size of 5000 digits": (raw("[%s]" % ("9" * 5000), "INT8", "[]"), f"{IN}.shape[0]", "", ""),
    "negative size of 4000 digits": (
        raw("[-%s]" % ("9" * 4000), "INT8", "[]"),
        f"{IN}.shape[0]",
        ">=",
        "",
    ),
    # datatype
    "datatype missing": (one(datatype=None), f"{IN}.datatype", "one of BOOL", "none"),
    "datatype unknown": (one(datatype="FP31"), f"{IN}.datatype", "BOOL, UINT8", "'FP31'"),
    "datatype in small letters": (one(datatype="int8"), f"{IN}.datatype", "INT8", "'int8'"),
    "datatype a number": (one(datatype=1), f"{IN}.datatype", "BOOL, UINT8", "an integer"),
    "BF16": (one(datatype="BF16"), f"{IN}.datatype", "JSON numbers", "BF16"),
    # data
    "data missing": (one(data=None), f"{IN}.data", "a value", "none"),
    "data an object": (one(data={}), f"{IN}.data", "", "an object"),
    "data a string": (one(data="12"), f"{IN}.data", "", "a string"),
    "data too short": (one(data=[1]), f"{IN}.data", "2 elements for the shape [2]", "1"),
    "data too long": (one(data=[1, 2, 3]), f"{IN}.data", "2 elements for the shape [2]", "3"),
    "nested too flat": (one(data=[[1, 2]]), f"{IN}.data[0]", "an integer", "an array"),
    "ragged rows": (
        one(shape=[2, 2], data=[[1, 2], [3]]),
        f"{IN}.data[1]",
        "2 elements for the shape [2, 2]",
        "1",
    ),
    "ragged deeper": (
        one(shape=[2, 1, 2], data=[[[1, 2]], [[3, 4, 5]]]),
        f"{IN}.data[1][0]",
        "2 elements for the shape [2, 1, 2]",
        "3",
    ),
    "transposed": (
        one(shape=[3, 2], data=[[1, 2, 3], [4, 5, 6]]),
        f"{IN}.data",
        "3 elements for the shape [3, 2]",
        "2",
    ),
    "row and element": (
        one(shape=[2, 2], data=[[1, 2], 3]),
        f"{IN}.data[1]",
        "an array",
        "an integer",
    ),
    "element and row": (
        one(shape=[2, 2], data=[1, [2, 3]]),
        f"{IN}.data[1]",
        "an integer",
        "an array",
    ),
    "deep data": (raw("[1]", "FP32", DEEP), "body", "JSON", "recursion"),
    "deeper than the shape": (
        raw("[1, 1]", "FP32", "[" * 500 + "]" * 500),
        f"{IN}.data[0][0]",
        "a number",
        "an array",
    ),
    "null in integers": (one(data=[1, None]), f"{IN}.data[1]", "an integer", "null"),
    "fraction in integers": (one(data=[1, 2.5]), f"{IN}.data[1]", "an integer", "a number"),
    "text in integers": (one(data=[1, "2"]), f"{IN}.data[1]", "an integer", "a string"),
    "true in integers": (one(data=[1, True]), f"{IN}.data[1]", "an integer", "true or false"),
    "text in numbers": (
        raw("[2]", "FP64", '[1, "one"]'),
        f"{IN}.data[1]",
        'a number, null, "Infinity" or "-Infinity"',
        "'one'",
    ),
    "NaN": (raw("[1]", "FP64", "[NaN]"), "body", "JSON", "malformed"),
    "number in text": (raw("[1]", "BYTES", "[1]"), f"{IN}.data[0]", "a string", "an integer"),
    "null in text": (raw("[1]", "BYTES", "[null]"), f"{IN}.data[0]", "a string", "null"),
    "two in truth": (raw("[1]", "BOOL", "[2]"), f"{IN}.data[0]", "<= 1", "2"),
    "text not UTF-8": (
        raw("[1]", "BYTES", '["@"]').replace(b"@", b"\xff"),
        f"{IN}.data",
        "JSON",
        "utf-8",
    ),
    "nested text not UTF-8": (
        raw("[1, 1]", "BYTES", '[["@"]]').replace(b"@", b"\xff"),
        f"{IN}.data",
        "JSON",
        "utf-8",
    ),
    "lone surrogate in text": (raw("[1]", "BYTES", r'["\ud800"]'), "body", "JSON", ""),
    "FP16 overflow": (raw("[1]", "FP16", "[65520]"), f"{IN}.data[0]", "< 65519.99", "65520"),
    "FP32 overflow": (raw("[2]", "FP32", "[1, 1e39]"), f"{IN}.data[1]", "a number <", "1e39"),
    "FP32 overflow below": (raw("[1]", "FP32", "[-1e39]"), f"{IN}.data[0]", "a number >", "-1e39"),
    "FP64 overflow": (raw("[1]", "FP64", "[1e400]"), f"{IN}.data[0]", "", "out of range"),
    "FP64 of 5000 digits": (raw("[1]", "FP64", "[%s]" % ("9" * 5000)), f"{IN}.data[0]", "", ""),
    "integer of 4000 digits": (
        raw("[1]", "INT64", "[%s]" % ("9" * 4000)),
        f"{IN}.data[0]",
        "an integer <=",
        "",
    ),
    "UINT64 of 4000 digits": (
        raw("[1]", "UINT64", "[%s]" % ("9" * 4000)),
        f"{IN}.data[0]",
        "an integer <=",
        "",
    ),
    "UINT64 of 5000 digits": (raw("[1]", "UINT64", "[%s]" % ("9" * 5000)), f"{IN}.data[0]", "", ""),
}


def refusal(text):
    with pytest.raises(InvalidRequestError) as caught:
        read(text if isinstance(text, bytes) else text.encode(), "iris")
    return caught.value


@pytest.mark.parametrize("case", BAD)
def test_a_bad_body_is_refused_with_its_path_expected_and_found(case):
    text, field, expected, found = BAD[case]
    error = refusal(text)
    assert error.field == field
    assert expected in error.expected
    assert found in error.found
    assert error.model == "iris"
    assert str(error).startswith("model 'iris': ")
    assert len(str(error)) < 1000


@pytest.mark.parametrize("datatype", INTEGERS)
@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_an_integer_out_of_range_is_refused_with_its_place_and_value(datatype, side, nested):
    ends = np.iinfo(datatype.dtype)
    value, end = (ends.min - 1, ends.min) if side == "below" else (ends.max + 1, ends.max)
    row = [0, 1, value]
    error = refusal(body(datatype, [1, 3], [row] if nested else row))
    assert error.field == "inputs[0].data" + ("[0][2]" if nested else "[2]")
    assert str(end) in error.expected
    assert error.found == str(value)


def test_bytes_that_are_no_text_are_given_as_base64_and_say_so():
    tensor = Tensor.from_array("y", [b"\xff", b"ab"], parameters={"p": 1})
    [output] = json.loads(written(InferResponse([tensor])))["outputs"]
    assert [base64.b64decode(each) for each in output["data"]] == [b"\xff", b"ab"]
    assert output["parameters"] == {"p": 1, "content_type": "base64"}


def test_a_response_has_its_fields_and_no_empty_ones():
    tensor = Tensor.from_array("y", [[1, 2]])
    full = InferResponse([tensor], {"p": 1}, "m", "v2", "abc")
    assert json.loads(written(full)) == {
        "model_name": "m",
        "model_version": "v2",
        "id": "abc",
        "parameters": {"p": 1},
        "outputs": [{"name": "y", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}],
    }
    bare = json.loads(written(InferResponse([tensor], model_name="m")))
    assert list(bare) == ["model_name", "outputs"]


SEEDS = [
    one(),
    one(shape=[1, 2], data=[[1, 2]], parameters={"a": [1]}),
    raw("[2]", "BYTES", r'["a\u00e9\ud83d\ude00", "b"]'),
    raw("[2, 2]", "FP32", "[[1.5, null], [-1e-3, 7]]"),
    raw("[2]", "UINT64", "[18446744073709551615, 0]"),
    json.dumps({"id": "a", "outputs": [{"name": "y"}], "inputs": [GOOD, {**GOOD, "name": "z"}]}),
]


def mutate(text, chance):
    text = bytearray(text)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text) + 1)
        match chance.randrange(4):
            case 0:
                text[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                text[at:at] = chance.choice(b'[]{}",:0-9eE.\\u').to_bytes()
            case 2:
                del text[at : at + chance.randint(1, 8)]
            case 3:
                start = chance.randrange(len(text) + 1)
                text[at:at] = text[start : start + chance.randint(1, 12)]
    return bytes(text)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_bytes_come_only_a_refusal_comes_out(seed):
    chance = random.Random(seed)
    for _ in range(1500):
        start = chance.choice(SEEDS)
        text = mutate(start.encode() if isinstance(start, str) else start, chance)
        try:
            request = read(text, "m")
        except InvalidRequestError as error:
            assert error.expected  # noqa: PT017  both ways out are right
        else:
            written(InferResponse(request.inputs, request.parameters, "m", "", request.id))


numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=3) | st.sampled_from(list(Datatype)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    field=st.sampled_from(["name", "shape", "datatype", "data", "parameters"]),
    datatype=st.sampled_from(list(Datatype)),
    shape=st.lists(st.integers(-2, 2**63), max_size=3) | shapes.map(list),
    value=values,
)
def test_whatever_value_stands_in_a_field_only_a_refusal_comes_out(field, datatype, shape, value):
    given = {"name": "x", "shape": shape, "datatype": datatype, "data": [], field: value}
    try:
        read(json.dumps({"inputs": [given]}).encode(), "m")
    except InvalidRequestError as error:
        assert error.field.startswith("inputs[0]")  # noqa: PT017  both ways out are right
