"""DataFrames of requests, compared with those that pandas makes itself."""

import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield import Datatype, InferRequest, InvalidRequestError, Tensor
from jackfield.tabular import Column, Columns, tensors_of

pd = pytest.importorskip("pandas")

TEXT_DTYPE = "str" if pd.__version__.startswith("3.") else object
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
CITIES = ["Oslo", "Rome", "Zürich"]


def request(*tensors):
    return InferRequest(list(tensors))


def tensor(name, values, **parameters):
    return Tensor.from_array(name, values, parameters=parameters)


def json_tensor(name, values):
    return tensor(name, [orjson.dumps(each) for each in values], content_type="pd_json")


COLUMNS = Columns(
    [
        Column.number("age", Datatype.FP32),
        Column.number("rooms", Datatype.INT64),
        Column.boolean("new"),
        Column.text("street"),
        Column.category("city", CITIES),
        Column.category("floor", [1, 2, 3]),
    ]
)
ROWS = st.lists(
    st.tuples(
        st.floats(width=32),
        st.integers(-(2**63), 2**63 - 1),
        st.booleans(),
        st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        st.none() | st.sampled_from(CITIES),
        st.sampled_from([1, 2, 3]),
    ),
    min_size=1,
)


@given(ROWS, st.randoms(use_true_random=False))
def test_a_frame_is_what_pandas_makes_of_the_columns(rows, random):
    age, rooms, new, street, city, floor = (list(each) for each in zip(*rows, strict=True))
    expected = pd.DataFrame(
        {
            "age": np.array(age, "f4"),
            "rooms": np.array(rooms, "i8"),
            "new": np.array(new, bool),
            "street": pd.Series([math.nan if each is None else each for each in street]).astype(
                TEXT_DTYPE
            ),
            "city": pd.Categorical(city, categories=CITIES),
            "floor": pd.Categorical(floor, categories=[1, 2, 3]),
        }
    )
    tensors = [
        tensor("age", np.array(age)),
        tensor("rooms", rooms),
        tensor("new", new),
        json_tensor("street", street),
        json_tensor("city", city),
        tensor("floor", floor),
    ]
    random.shuffle(tensors)
    pd.testing.assert_frame_equal(COLUMNS.frame(request(*tensors)), expected)


@given(st.lists(st.lists(FLOATS, min_size=2, max_size=2), min_size=1))
def test_a_matrix_makes_the_frame_of_its_columns(rows):
    array = np.array(rows)
    columns = Columns([Column.number("b"), Column.number("a")])
    expected = pd.DataFrame(array, columns=["b", "a"])
    found = columns.frame(request(tensor("x", array)))
    pd.testing.assert_frame_equal(found, expected)
    found.iloc[0, 0] = 7.0  # a request's array is read-only
    by_column = columns.frame(request(tensor("a", array[:, 1]), tensor("b", array[:, 0])))
    pd.testing.assert_frame_equal(by_column, expected)


def test_an_unknown_category_is_missing_or_refused():
    columns = [Column.category("city", CITIES)]
    found = Columns(columns).frame(request(tensor("city", ["Rome", "Bonn"])))
    assert found["city"].tolist()[0] == "Rome"
    assert found["city"].isna().tolist() == [False, True]
    assert found["city"].cat.categories.tolist() == CITIES
    with pytest.raises(InvalidRequestError, match="one of the categories"):
        Columns(columns, unknown="refuse").frame(request(tensor("city", ["Bonn"])))


def test_numbers_take_the_trained_dtype_where_nothing_is_lost():
    columns = Columns([Column.number("a", Datatype.INT64), Column.number("b", Datatype.FP32)])
    found = columns.frame(request(tensor("x", [[1.0, 2.0]])))
    assert found.dtypes.tolist() == [np.dtype("f8"), np.dtype("f4")]
    found = columns.frame(request(tensor("a", np.array([1], "i1")), tensor("b", [2])))
    assert found.dtypes.tolist() == [np.dtype("i8"), np.dtype("f4")]
    with pytest.raises(InvalidRequestError, match=r"inputs\[1\].data\[0\].*float32 can hold"):
        columns.frame(request(tensor("a", [1]), tensor("b", [1e300])))
    with pytest.raises(InvalidRequestError, match=r"inputs\[0\].data\[3\].*for 'b'"):
        columns.frame(request(tensor("x", [[1.0, 2.0], [3.0, 1e300]])))


def test_what_is_not_known_gets_the_names_of_the_request():
    columns = Columns(None)
    found = columns.frame(request(tensor("b", [1.5]), tensor("a", ["x"])))
    expected = pd.DataFrame({"b": [1.5], "a": pd.Series(["x"], dtype=TEXT_DTYPE)})
    pd.testing.assert_frame_equal(found, expected)
    found = columns.frame(request(tensor("x", [[1.0, 2.0]])))
    pd.testing.assert_frame_equal(found, pd.DataFrame([[1.0, 2.0]]))


def test_a_missing_text_is_what_the_model_was_trained_with():
    columns = Columns([Column.text("t", missing=None)])
    found = columns.frame(request(json_tensor("t", ["a", None])))
    assert found["t"].tolist() == ["a", None]


def test_results_of_pandas_are_tensors():
    numbers = pd.DataFrame({"a": [1.5, 2.5], "b": [3.0, 4.0]})
    (found,) = tensors_of("transform", numbers, rows=2)
    assert (found.datatype, found.array.tolist()) == (Datatype.FP64, [[1.5, 3], [2.5, 4]])
    mixed = numbers.assign(c=pd.Series(["x", None], dtype=TEXT_DTYPE))
    found = tensors_of("transform", mixed)
    assert [each.name for each in found] == ["transform_a", "transform_b", "transform_c"]
    assert found[2].array.tolist() == [b'"x"', b"null"]
    (found,) = tensors_of("predict", pd.Series([1, None], dtype="Int64"))
    np.testing.assert_array_equal(found.array, [1, math.nan])
    (found,) = tensors_of("predict", pd.Series(["a", "b"], dtype="category"))
    assert found.array.tolist() == [b"a", b"b"]
