"""What the codecs do without pandas; the DataFrames are in test_codecs_pandas.py."""

import base64
import datetime as dt
import subprocess
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Optional

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from jackfield import (
    Datatype,
    InferRequest,
    InferResponse,
    InvalidRequestError,
    ModelMetadata,
    ModelParameters,
    ModelSettings,
    Tensor,
    TensorMetadata,
    codecs,
)

HELD = [each for each in Datatype if each not in (Datatype.BF16, Datatype.BYTES)]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
#: Values that JSON carries as they are.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


def bytes_tensor(*elements, shape=None, content_type=None, name="x"):
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    parameters = {"content_type": content_type} if content_type else {}
    return Tensor(name, Datatype.BYTES, array.reshape(shape or -1), parameters)


def tag(tensor):
    return tensor.parameters.get("content_type")


def snapshot(tensor):
    return tensor.name, tensor.datatype, tensor.array.tolist(), dict(tensor.parameters)


# ---- there and back ----


@given(st.data())
def test_an_array_comes_back_with_its_shape_and_dtype(data):
    dtype = data.draw(st.sampled_from(HELD)).dtype
    array = data.draw(hnp.arrays(dtype, SHAPES))
    tensor = codecs.encode("x", array)
    back = codecs.decode(tensor, "np")
    assert tag(tensor) == "np"
    assert tensor.shape == back.shape == array.shape
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(st.lists(TEXTS))
def test_texts_come_back(texts):
    tensor = codecs.encode("x", texts, "str")
    assert (tensor.datatype, tensor.shape, tag(tensor)) == (Datatype.BYTES, (len(texts),), "str")
    assert codecs.decode(tensor, "str") == texts


@given(st.lists(st.binary()))
def test_bytes_come_back_each_one_element(values):
    tensor = codecs.encode("x", values, "base64")
    assert (tensor.datatype, tensor.shape, tag(tensor)) == (
        Datatype.BYTES,
        (len(values),),
        "base64",
    )
    assert codecs.decode(tensor, "base64") == values


@given(st.lists(st.datetimes(timezones=st.none() | st.just(dt.UTC))))
def test_moments_come_back(moments):
    tensor = codecs.encode("x", moments, "datetime")
    assert (tensor.datatype, tag(tensor)) == (Datatype.BYTES, "datetime")
    assert codecs.decode(tensor, "datetime") == moments


@given(st.lists(JSON))
def test_json_cells_come_back(cells):
    tensor = codecs.encode("x", cells, "pd_json")
    assert (tensor.shape, tag(tensor)) == ((len(cells),), "pd_json")
    assert codecs.decode(tensor, "pd_json") == cells


@given(st.lists(st.binary()))
def test_raw_bytes_come_back_untagged_and_each_one_element(values):
    tensor = codecs.encode("x", values, "raw")
    assert tensor.parameters == {}
    assert codecs.decode(tensor, "raw") is tensor
    assert codecs.decode(tensor, "np").tolist() == values


@given(st.dictionaries(TEXTS, hnp.arrays(np.float64, SHAPES) | st.lists(TEXTS, min_size=1)))
def test_a_dict_comes_back_as_request_and_as_response(values):
    request = codecs.encode_request(values)
    response = codecs.encode_response(values)
    for found in (codecs.decode_request(request, "dict"), codecs.decode_response(response)):
        assert list(found) == list(values)
        for name, value in values.items():
            np.testing.assert_array_equal(found[name], value)


# ---- which content type a value takes ----

MOMENT = dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("value", "content_type", "datatype", "shape"),
    [
        (np.zeros(3, np.float32), "np", Datatype.FP32, (3,)),
        (np.float32(1), "np", Datatype.FP32, ()),
        (np.array(["a", "b"]), "np", Datatype.BYTES, (2,)),
        (np.array(["a", b"b"], dtype=object), "np", Datatype.BYTES, (2,)),
        (np.array([{"a": 1}, None]), "pd_json", Datatype.BYTES, (2,)),
        (np.array(["2024-02-29"], "datetime64[D]"), "datetime", Datatype.BYTES, (1,)),
        (np.datetime64("2024-02-29"), "datetime", Datatype.BYTES, ()),
        (True, "np", Datatype.BOOL, ()),
        (3, "np", Datatype.INT64, ()),
        (3.5, "np", Datatype.FP64, ()),
        ("text", "str", Datatype.BYTES, ()),
        (b"bytes", "base64", Datatype.BYTES, ()),
        (bytearray(b"bytes"), "base64", Datatype.BYTES, ()),
        (MOMENT, "datetime", Datatype.BYTES, ()),
        ([1, 2], "np", Datatype.INT64, (2,)),
        ([[1, 2.5]], "np", Datatype.FP64, (1, 2)),
        ([], "np", Datatype.FP64, (0,)),
        ((1, 2), "np", Datatype.INT64, (2,)),
        (["a", "b"], "str", Datatype.BYTES, (2,)),
        ([["a"], ["b"]], "str", Datatype.BYTES, (2, 1)),
        ([b"a", bytearray(b"bc")], "base64", Datatype.BYTES, (2,)),
        ([MOMENT], "datetime", Datatype.BYTES, (1,)),
        (["a", None], "pd_json", Datatype.BYTES, (2,)),
        ([1, None], "pd_json", Datatype.BYTES, (2,)),
        ([1, "a"], "pd_json", Datatype.BYTES, (2,)),
        ([[1], [2, 3]], "pd_json", Datatype.BYTES, (2,)),
        ([{"a": [1]}], "pd_json", Datatype.BYTES, (1,)),
    ],
)
def test_a_value_takes_the_first_content_type_that_fits(value, content_type, datatype, shape):
    tensor = codecs.encode("x", value)
    assert (tag(tensor), tensor.datatype, tensor.shape) == (content_type, datatype, shape)


def test_a_tensor_is_renamed_and_no_more():
    tensor = codecs.encode("x", ["a"])
    renamed = codecs.encode("y", tensor)
    assert snapshot(renamed) == ("y", *snapshot(tensor)[1:])


@pytest.mark.parametrize(
    ("value", "content_type", "message"),
    [
        (object(), "", "found object"),
        ({"a": 1}, "", "a dict makes several tensors"),
        ([object()], "", "element 0 has no form in 'pd_json'"),
        ([1j], "np", "no datatype for NumPy's 'complex128'"),
        ([[1], [2, 3]], "np", "takes an array"),
        (["a", 1], "str", "element 1 is int, which the content type 'str' can't hold"),
        (["a", None], "str", "element 1 is NoneType"),
        (["a"], "base64", "element 0 is str"),
        (["2024-02-29"], "datetime", "element 0 is str"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], "str", "element 0 is ndarray"),
        (["\ud800"], "str", "element 0 has no form in 'str'"),
        ([1], "pd", "takes a pandas.Series, found list"),
        ([1], "nump", "found 'nump'"),
        ([1], "dict", "found 'dict'"),
        (np.array(["NaT"], "datetime64[s]"), "", "element 0 is NoneType"),
    ],
)
def test_what_a_content_type_cant_hold_is_a_type_error_that_says_so(value, content_type, message):
    with pytest.raises(TypeError, match=message):
        codecs.encode("x", value, content_type)


# ---- decoding: shapes, elements and no more ----


def test_a_vector_of_three_stays_one():
    request = codecs.encode_request(np.array([1.0, 2.0, 3.0]))
    assert request.inputs[0].shape == (3,)
    assert codecs.decode_request(request, "np").tolist() == [1.0, 2.0, 3.0]


def test_a_scalar_stays_one():
    assert codecs.decode(codecs.encode("x", 3.5), "np").shape == ()


def test_bytes_of_different_lengths_stay_elements_of_an_array():
    tensor = bytes_tensor(b"a", b"\xff\x00", b"", b"ccc", shape=(2, 2))
    assert codecs.decode(tensor, "np").tolist() == [[b"a", b"\xff\x00"], [b"", b"ccc"]]


def test_lists_are_flat_whatever_the_shape():
    assert codecs.decode(bytes_tensor(b"a", b"b", shape=(2, 1)), "str") == ["a", "b"]


def test_z_is_utc():
    (found,) = codecs.decode(bytes_tensor(b"2024-02-29T12:30:00Z"), "datetime")
    assert found == MOMENT
    assert found.tzinfo is not None


def test_nanoseconds_are_cut_to_what_a_datetime_holds():
    array = np.array(["2024-02-29T12:30:00.123456789"], "datetime64[ns]")
    assert codecs.encode("x", array).array.tolist() == [b"2024-02-29T12:30:00.123456"]


def test_json_takes_numpy_and_moments_and_writes_null_for_nan():
    cells = [{1: np.float64(1.5), "b": np.arange(2)}, [float("nan")], np.int64(3), MOMENT]
    tensor = codecs.encode("x", cells)
    assert codecs.decode(tensor, "pd_json") == [
        {"1": 1.5, "b": [0, 1]},
        [None],
        3,
        "2024-02-29T12:30:00+00:00",
    ]


@pytest.mark.parametrize("content_type", ["np", "str", "base64", "datetime", "pd_json", "raw"])
def test_no_content_type_changes_the_request(content_type):
    element = {"base64": b"YQ==", "datetime": b"2024-02-29", "pd_json": b"[1]"}
    tensor = bytes_tensor(element.get(content_type, b"a"), content_type=content_type)
    tensor.array.flags.writeable = False
    request = InferRequest([tensor], parameters={"content_type": content_type})
    before = snapshot(tensor)
    codecs.decode(tensor, content_type)
    codecs.decode_request(request, content_type)
    assert snapshot(request.inputs[0]) == before
    assert request.inputs[0] is tensor
    assert request.parameters == {"content_type": content_type}


# ---- decoding: what a caller does wrong ----


def refusal(function, *arguments, **named):
    with pytest.raises(InvalidRequestError) as caught:
        function(*arguments, **named)
    return caught.value


@pytest.mark.parametrize("content_type", ["nump", "", "NP", "dict"])
def test_an_unknown_content_type_of_a_tensor_is_refused_with_the_known_ones(content_type):
    error = refusal(codecs.decode, bytes_tensor(b"a"), content_type, field="inputs[2]")
    assert error.field == "inputs[2].parameters.content_type"
    assert error.expected == "one of 'np', 'pd', 'pd_json', 'str', 'base64', 'datetime', 'raw'"
    assert error.found == f"'{content_type}'"


def test_an_unknown_content_type_of_a_message_is_refused_with_the_known_ones():
    error = refusal(codecs.decode_request, codecs.encode_request([1]), "nump")
    assert error.field == "parameters.content_type"
    assert error.expected.endswith("'raw', 'dict'")
    assert error.found == "'nump'"


def test_an_unknown_content_type_of_an_input_is_refused_with_its_place():
    request = InferRequest([codecs.encode("a", [1]), bytes_tensor(b"b", content_type="image")])
    error = refusal(codecs.decode_request, request, "dict")
    assert error.field == "inputs[1].parameters.content_type"
    assert error.found == "'image'"


@pytest.mark.parametrize("content_type", [5, ["np"], {"a": 1}, True])
def test_a_content_type_that_is_no_text_is_refused(content_type):
    tensor = Tensor("x", Datatype.FP64, np.zeros(1), {"content_type": content_type})
    error = refusal(codecs.decode_request, InferRequest([tensor]), "np")
    assert error.field == "inputs[0].parameters.content_type"
    assert (error.expected, error.found) == ("a text", str(content_type))
    assert refusal(codecs.choose, InferRequest([tensor]), tensor).expected == "a text"


@pytest.mark.parametrize(
    ("content_type", "bad", "expected"),
    [
        ("str", b"\xff\xfe", "UTF-8 text"),
        ("base64", b"no base64!", "base64"),
        ("base64", b"YQ=", "base64"),
        ("base64", b"\xff", "base64"),
        ("base64", b"YQ==\n", "base64"),
        ("datetime", b"yesterday", "a date and time in ISO 8601"),
        ("datetime", b"\xff", "a date and time in ISO 8601"),
        ("pd_json", b"{", "JSON"),
        ("pd_json", b"NaN", "JSON"),
        ("pd_json", b"", "JSON"),
    ],
)
def test_a_wrong_element_is_refused_by_its_place(content_type, bad, expected):
    good = {"base64": b"YQ==", "datetime": b"2024-02-29", "pd_json": b"1"}.get(content_type, b"a")
    error = refusal(codecs.decode, bytes_tensor(good, bad), content_type, field="inputs[0]")
    assert (error.field, error.expected) == ("inputs[0].data[1]", expected)
    assert error.found == f"'{bad.decode(errors='backslashreplace')}'"


def test_a_long_wrong_element_is_shown_in_part():
    assert len(refusal(codecs.decode, bytes_tensor(b"!" * 9999), "base64").found) < 100


@pytest.mark.parametrize("content_type", ["str", "base64", "datetime", "pd_json"])
def test_numbers_are_refused_where_the_content_type_needs_bytes(content_type):
    error = refusal(codecs.decode, Tensor.from_array("x", [1.5]), content_type)
    assert error.field == "tensor 'x'.datatype"
    assert error.expected == f"BYTES for the content type '{content_type}'"
    assert error.found == "FP64"


@given(st.lists(st.binary()), st.sampled_from(codecs.TENSOR_CONTENT_TYPES))
def test_whatever_the_bytes_are_the_answer_is_a_value_or_a_refusal(elements, content_type):
    if content_type == "pd":
        return
    try:
        codecs.decode(bytes_tensor(*elements), content_type)
    except InvalidRequestError as error:
        assert error.field  # noqa: PT017  either is right


# ---- whole messages ----


def test_a_single_value_needs_a_single_input():
    request = codecs.encode_request({"a": [1], "b": [2]})
    error = refusal(codecs.decode_request, request, "np")
    assert error.field == "inputs"
    assert error.expected == "one tensor for the content type 'np'"
    assert error.found == "2: 'a', 'b'"


def test_a_response_without_outputs_has_no_single_value():
    error = refusal(codecs.decode_response, InferResponse([]), "np")
    assert (error.field, error.found) == ("outputs", "none")


def test_the_content_type_of_the_input_goes_before_that_of_the_message():
    request = InferRequest([bytes_tensor(b"YQ==", content_type="base64")])
    assert codecs.decode_request(request, "np") == [b"a"]


def test_an_untagged_input_of_a_dict_is_an_array():
    request = InferRequest([bytes_tensor(b"a", name="a"), Tensor.from_array("b", [1])])
    found = codecs.decode_request(request, "dict")
    assert found["a"].tolist() == [b"a"]
    assert found["b"].tolist() == [1]


def test_raw_is_the_message_itself():
    request = codecs.encode_request([1])
    response = codecs.encode_response([1])
    assert codecs.decode_request(request, "raw") is request
    assert codecs.decode_response(response, "raw") is response


def test_a_response_is_decoded_by_its_own_content_type_first():
    response = InferResponse([codecs.encode("a", [1])], {"content_type": "np"})
    assert codecs.decode_response(response).tolist() == [1]
    assert list(codecs.decode_response(response, "dict")) == ["a"]


def test_outputs_are_named_by_what_holds_them():
    def names(value, **named):
        return [tensor.name for tensor in codecs.encode_outputs(value, **named)]

    assert names([1, 2]) == ["output-0"]
    assert names([1, 2], name="y") == ["y"]
    assert names({"b": [1], "a": ["x"]}) == ["b", "a"]
    assert names(([1], ["a"])) == ["output-0", "output-1"]
    assert names(Tensor.from_array("t", [1])) == ["t"]
    assert names([Tensor.from_array("t", [1]), Tensor.from_array("u", [1])]) == ["t", "u"]
    assert names(InferResponse([Tensor.from_array("t", [1])])) == ["t"]
    assert [each.name for each in codecs.encode_request(([1], ["a"])).inputs] == [
        "input-0",
        "input-1",
    ]


def test_a_message_stays_itself():
    request, response = codecs.encode_request([1]), codecs.encode_response([1])
    assert codecs.encode_request(request) is request
    assert codecs.encode_response(response) is response


def test_the_content_type_is_that_of_each_output():
    tensors = codecs.encode_outputs({"a": [b"a"], "b": [b"b"]}, "raw")
    assert [tensor.array.tolist() for tensor in tensors] == [[b"a"], [b"b"]]
    assert [tag(tensor) for tensor in codecs.encode_outputs({"a": ["x"]}, "dict")] == ["str"]


@pytest.mark.parametrize(
    ("value", "content_type", "message"),
    [
        ([1], "dict", "'dict' can't hold a list"),
        ({"a": [1]}, "pd", "'pd' can't hold a dict"),
        ({1: [1], "1": [2]}, "", "the name '1'"),
        (({"a": 1},), "", "makes several tensors"),
        ([Tensor.from_array("t", [1])] * 2, "", "the name 't'"),
    ],
)
def test_outputs_that_make_no_message_are_a_type_error(value, content_type, message):
    with pytest.raises(TypeError, match=message):
        codecs.encode_outputs(value, content_type)


# ---- which content type ----


def test_a_tensors_content_type_is_its_own_then_the_metadatas_then_the_default_then_raw():
    own, plain = bytes_tensor(b"a", content_type="base64"), bytes_tensor(b"a")
    told = TensorMetadata("x", Datatype.BYTES, [-1], {"content_type": "str"})
    other = TensorMetadata("y", Datatype.BYTES, [-1], {"content_type": "datetime"})
    request = InferRequest([plain], parameters={"content_type": "pd"})
    metadata = ModelMetadata(inputs=[other, told])
    assert codecs.choose(request, own, metadata, "np") == "base64"
    assert codecs.choose(request, plain, metadata, "np") == "str"
    assert codecs.choose(request, plain, ModelMetadata(inputs=[other]), "np") == "np"
    assert codecs.choose(request, plain) == "raw"
    silent = ModelMetadata(inputs=[TensorMetadata("x", Datatype.BYTES, [-1])])
    assert codecs.choose(request, plain, silent, "np") == "np"


def test_a_requests_content_type_is_its_own_then_the_settings_then_the_default_then_raw():
    own = InferRequest([], parameters={"content_type": "dict"})
    plain = InferRequest([])
    settings = ModelSettings(parameters=ModelParameters(content_type="pd"))
    assert codecs.choose(own, default="np", settings=settings) == "dict"
    assert codecs.choose(plain, default="np", settings=settings) == "pd"
    assert codecs.choose(plain, default="np", settings=ModelSettings()) == "np"
    assert codecs.choose(plain) == "raw"


@pytest.mark.parametrize(
    ("annotation", "content_type"),
    [
        (np.ndarray, "np"),
        (NDArray[np.float32], "np"),
        (np.ndarray[Any, np.dtype[np.int64]], "np"),
        (list[str], "str"),
        (typing.List[str], "str"),  # noqa: UP006  an author may write it
        (Sequence[str], "str"),
        (list[bytes], "base64"),
        (list[dt.datetime], "datetime"),
        (list, "pd_json"),
        (list[Any], "pd_json"),
        (list[dict[str, int]], "pd_json"),
        (dict, "dict"),
        (dict[str, np.ndarray], "dict"),
        (typing.Dict[str, Any], "dict"),  # noqa: UP006  the same
        (Mapping[str, object], "dict"),
        (Tensor, "raw"),
        (InferRequest, "raw"),
        (InferResponse, "raw"),
        (np.ndarray | None, "np"),
        (Optional[list[str]], "str"),  # noqa: UP045  the same
        (Annotated[list[bytes], "an image"], "base64"),
        (Annotated[np.ndarray | None, "perhaps"] | None, "np"),
        (int, None),
        (str, None),
        (None, None),
        (list[int], None),
        (list[np.ndarray], None),
        (dict[int, str], None),
        (np.ndarray | list[str], None),
        (Any, None),
        ("np.ndarray", None),
        (tuple[np.ndarray, np.ndarray], None),
    ],
)
def test_an_annotation_stands_for_a_content_type(annotation, content_type):
    assert codecs.content_type_of(annotation) == content_type


@pytest.mark.parametrize("annotation", [dict, dict[str, Any], InferRequest, InferResponse | None])
def test_some_annotations_stand_for_a_whole_message(annotation):
    assert codecs.is_whole(annotation)


@pytest.mark.parametrize("annotation", [np.ndarray, Tensor, list[str], int, Any, None, "dict"])
def test_the_others_stand_for_a_tensor(annotation):
    assert not codecs.is_whole(annotation)


# ---- pandas is not needed ----


def test_without_pandas_its_content_type_is_refused_and_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    request = codecs.encode_request({"a": [1, 2]})
    error = refusal(codecs.decode_request, request, "pd")
    assert error.field == "parameters.content_type"
    assert error.found == "'pd', which needs pandas, and pandas is not installed"
    error = refusal(codecs.decode, request.inputs[0], "pd", field="inputs[0]")
    assert error.field == "inputs[0].parameters.content_type"
    assert codecs.content_type_of(np.ndarray) == "np"


def test_nothing_but_a_value_of_pandas_imports_it():
    code = """
import sys, numpy as np
from jackfield import codecs
for value in (np.zeros(3), ["a"], [b"a"], [1, None], {"a": 1.5}, ([1], "a")):
    codecs.decode_request(codecs.encode_request(value), "dict")
    codecs.content_type_of(type(value))
print("pandas" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_base64_is_the_standard_alphabet():
    tensor = codecs.encode("x", [b"\xfb\xff"])
    assert tensor.array.tolist() == [base64.standard_b64encode(b"\xfb\xff")]
