"""DataFrames there and back; left out where pandas is not installed."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield import Datatype, InferRequest, InferResponse, InvalidRequestError, Tensor, codecs

pd = pytest.importorskip("pandas")

IS_PANDAS_3 = pd.__version__.startswith("3.")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
MOMENT = dt.datetime(2024, 2, 29, 12, 30)


def column(values, dtype=None):
    (tensor,) = codecs.encode_outputs(pd.DataFrame({"x": pd.Series(values, dtype=dtype)}))
    assert tensor.name == "x"
    assert tensor.shape == (len(values),)
    return tensor


def back(tensor):
    return codecs.decode_request(InferRequest([tensor]), "pd")["x"]


def tag(tensor):
    return tensor.parameters.get("content_type")


@pytest.mark.parametrize("kind", ["int8", "uint64", "float16", "float32", "float64", "bool"])
@given(data=st.data())
def test_a_column_of_numbers_comes_back_untagged(kind, data):
    size = data.draw(st.integers(0, 5))
    array = np.frombuffer(data.draw(st.binary(min_size=8 * size, max_size=8 * size)), np.uint8)
    array = array.astype(kind)
    tensor = column(array)
    assert tensor.parameters == {}
    found = back(tensor)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found.to_numpy(), array)


@given(st.lists(TEXTS))
def test_a_column_of_text_comes_back(texts):
    tensor = column(texts, "str")
    assert tag(tensor) == "str"
    found = back(tensor)
    assert found.tolist() == texts
    assert found.dtype == pd.Series(["a"], dtype="str").dtype


@given(st.lists(st.binary(), min_size=1))
def test_a_column_of_bytes_comes_back(values):
    tensor = column(values, object)
    assert tag(tensor) == "base64"
    assert back(tensor).tolist() == values


@given(st.lists(st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)), min_size=1))
def test_a_column_of_moments_comes_back(moments):
    tensor = column(moments, "datetime64[us]")
    assert tag(tensor) == "datetime"
    assert back(tensor).tolist() == moments


@pytest.mark.parametrize(
    ("values", "dtype", "datatype", "content_type", "expected"),
    [
        ([1.5, None], "float64", Datatype.FP64, None, [1.5, np.nan]),
        ([1.5, None], "Float32", Datatype.FP32, None, [1.5, np.nan]),
        ([1, 2], "Int16", Datatype.INT16, None, [1, 2]),
        ([True, False], "boolean", Datatype.BOOL, None, [True, False]),
        ([2**62 + 1, None], "Int64", Datatype.BYTES, "pd_json", [2**62 + 1, None]),
        ([True, None], "boolean", Datatype.BYTES, "pd_json", [True, None]),
        (["a", None], "str", Datatype.BYTES, "pd_json", ["a", None]),
        (["a", None], object, Datatype.BYTES, "pd_json", ["a", None]),
        (["a", np.nan], object, Datatype.BYTES, "pd_json", ["a", None]),
        (["a", "b"], "string", Datatype.BYTES, "str", ["a", "b"]),
        (["a", None], "string", Datatype.BYTES, "pd_json", ["a", None]),
        ([[1], {"a": 2}], object, Datatype.BYTES, "pd_json", [[1], {"a": 2}]),
        ([1, "a", 2.5], object, Datatype.BYTES, "pd_json", [1, "a", 2.5]),
        (["a", "b", "a"], "category", Datatype.BYTES, "str", ["a", "b", "a"]),
        ([3, 1, 3], "category", Datatype.INT64, None, [3, 1, 3]),
        ([3, None], "category", Datatype.FP64, None, [3.0, np.nan]),
        ([0, 2], "Sparse[int]", Datatype.INT64, None, [0, 2]),
        ([MOMENT, None], "datetime64[ns]", Datatype.BYTES, "pd_json", [MOMENT.isoformat(), None]),
    ],
)
def test_a_missing_value_is_nan_among_floats_and_null_elsewhere(
    values, dtype, datatype, content_type, expected
):
    tensor = column(values, dtype)
    assert (tensor.datatype, tag(tensor)) == (datatype, content_type)
    found = back(tensor).tolist()
    assert [each if each == each else None for each in found] == [
        each if each == each else None for each in expected
    ]


def test_json_cells_stay_objects_whatever_they_hold():
    assert back(column([1, 2], object)).dtype == object


def test_moments_keep_their_zone():
    moments = pd.to_datetime(["2024-02-29T12:30Z"]).tz_convert("Europe/Berlin")
    tensor = column(moments)
    assert tensor.array.tolist() == [b"2024-02-29T13:30:00+01:00"]
    assert back(tensor).tolist() == [dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC)]


@pytest.mark.parametrize("values", [pd.to_timedelta(["1s"]), [{1, 2}], [b"a", "b"]])
def test_a_column_that_no_content_type_holds_is_a_type_error_with_its_name(values):
    with pytest.raises(TypeError, match="tensor 'x'"):
        column(values)


def test_two_columns_of_one_name_are_a_type_error():
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(TypeError, match="the name 'a'"):
        codecs.encode_outputs(frame)


def test_a_frame_is_tagged_as_request_and_response_and_comes_back():
    frame = pd.DataFrame({"n": [1, 2], "t": ["a", "b"], 3: [0.5, None]}, index=[7, 8])
    request, response = codecs.encode_request(frame), codecs.encode_response(frame)
    assert request.parameters == response.parameters == {"content_type": "pd"}
    for found in (codecs.decode_request(request, "pd"), codecs.decode_response(response)):
        assert list(found.columns) == ["n", "t", "3"]
        assert found["n"].tolist() == [1, 2]
        assert found["t"].tolist() == ["a", "b"]
        assert list(found.index) == [0, 1]


def test_an_empty_frame_keeps_its_columns():
    frame = pd.DataFrame({"n": np.zeros(0), "t": pd.Series([], dtype="str")})
    found = codecs.decode_request(codecs.encode_request(frame), "pd")
    assert found.dtypes.tolist() == frame.dtypes.tolist()
    assert found.shape == (0, 2)


def test_a_column_is_decoded_by_its_own_content_type_first():
    def tensor(name, element, content_type=None):
        array = np.array([element], dtype=object).reshape(1, 1)
        parameters = {"content_type": content_type} if content_type else {}
        return Tensor(name, Datatype.BYTES, array, parameters)

    request = InferRequest(
        [
            tensor("untagged", b"text"),
            tensor("str", b"text", "str"),
            tensor("base64", b"YQ==", "base64"),
            tensor("json", b'{"a":1}', "pd_json"),
            tensor("raw", b"\xff", "raw"),
            tensor("np", b"\xff", "np"),
            tensor("pd", b"text", "pd"),
            tensor("datetime", b"2024-02-29T12:30:00", "datetime"),
        ]
    )
    row = codecs.decode_request(request, "pd").iloc[0].tolist()
    assert row == ["text", "text", b"a", {"a": 1}, b"\xff", b"\xff", "text", MOMENT]


def test_a_scalar_is_a_row():
    request = InferRequest([Tensor.from_array("x", 2.5), Tensor.from_array("y", [[1]])])
    assert codecs.decode_request(request, "pd").to_dict("list") == {"x": [2.5], "y": [1]}


def test_a_frame_may_be_written_to_and_the_request_stays():
    array = np.array([1.0, 2.0])
    array.flags.writeable = False
    request = InferRequest([Tensor.from_array("x", array)])
    frame = codecs.decode_request(request, "pd")
    frame.loc[0, "x"] = 9.0
    series = codecs.decode(request.inputs[0], "pd")
    series[0] = 9.0
    assert array.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("inputs", "field", "found"),
    [
        ({"x": np.zeros((2, 3))}, "inputs[0].shape", "[2, 3]"),
        ({"x": [1, 2], "y": [1]}, "inputs", "2 in 'x', 1 in 'y'"),
        ({"y": [1], "x": [b"\xff"]}, "inputs[1].data[0]", "'\\xff'"),
    ],
)
def test_inputs_that_make_no_frame_are_refused_with_their_place(inputs, field, found):
    tensors = codecs.encode_outputs(inputs, "raw")
    with pytest.raises(InvalidRequestError) as caught:
        codecs.decode_request(InferRequest(tensors), "pd")
    assert (caught.value.field, caught.value.found) == (field, found)


def test_a_series_is_a_tensor():
    tensor = codecs.encode("x", pd.Series(["a", "b"], name="other"))
    assert (tensor.name, tag(tensor)) == ("x", "str")
    assert codecs.decode(tensor, "pd").tolist() == ["a", "b"]
    assert codecs.encode("x", pd.Series([1, 2]), "np").array.tolist() == [1, 2]
    assert codecs.encode("x", pd.Series(["a"]), "str").array.tolist() == [b"a"]
    assert codecs.encode("x", pd.Series([["a"]]), "pd_json").array.tolist() == [b'["a"]']


def test_a_frame_makes_no_single_tensor():
    with pytest.raises(TypeError, match="a DataFrame makes several tensors"):
        codecs.encode("x", pd.DataFrame({"a": [1]}))


def test_nat_in_a_list_is_a_type_error():
    with pytest.raises(TypeError, match="element 1 has no form in 'datetime': NaT"):
        codecs.encode("x", [MOMENT, pd.NaT])


def test_annotations_of_pandas():
    assert codecs.content_type_of(pd.DataFrame) == codecs.content_type_of(pd.Series) == "pd"
    assert codecs.content_type_of(pd.DataFrame | None) == "pd"
    assert codecs.is_whole(pd.DataFrame)
    assert not codecs.is_whole(pd.Series)


def test_a_single_column_of_a_response_may_be_a_series():
    response = InferResponse([Tensor.from_array("x", [1, 2])])
    assert codecs.decode_response(response, "pd").to_dict("list") == {"x": [1, 2]}
