"""Arrays of requests, by the public names of jackfield.tabular; needs no pandas."""

import math
from typing import Annotated

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jackfield import Datatype, InferRequest, InvalidRequestError, RequestedOutput, Tensor
from jackfield.tabular import (
    ALIASES,
    NAMES,
    Column,
    Columns,
    Labels,
    Output,
    Outputs,
    RequestParameters,
    both_classes,
    documents,
    tensors_of,
)

NUMERIC = [each for each in Datatype if each not in (Datatype.BYTES, Datatype.BF16)]


def request(*tensors, outputs=(), **parameters):
    wanted = [RequestedOutput(name) for name in outputs]
    return InferRequest(list(tensors), wanted, parameters)


def tensor(name, values, **parameters):
    return Tensor.from_array(name, values, parameters=parameters)


def json_tensor(name, values):
    return tensor(name, [orjson.dumps(each) for each in values], content_type="pd_json")


def refused(read, *tensors):
    with pytest.raises(InvalidRequestError) as caught:
        read(request(*tensors))
    return str(caught.value)


NAMED = Columns([Column.number("a"), Column.number("b"), Column.number("c")])
CITIES = Columns([Column.number("age"), Column.category("city", ["Oslo", "Rome"])])


# ---- one matrix ----


@pytest.mark.parametrize("columns", [NAMED, Columns.unnamed(3)], ids=["named", "unnamed"])
@pytest.mark.parametrize("datatype", NUMERIC)
def test_a_matrix_is_given_as_it_is(columns, datatype):
    given = tensor("x", np.ones((2, 3), datatype.dtype))
    assert columns.matrix(request(given)) is given.array


@given(
    npst.arrays(
        st.sampled_from(["f4", "f8", "i1", "i4", "i8", "u8", "?"]),
        npst.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=4),
    )
)
def test_columns_in_any_order_make_the_matrix_that_one_tensor_is(array):
    names = [f"c{place}" for place in range(array.shape[1])]
    if not names:
        return
    columns = Columns([Column.number(name) for name in names], dtypes=(np.float64,))
    by_column = [tensor(name, array[:, place]) for place, name in enumerate(names)]
    expected = array.astype(np.float64)
    found = columns.matrix(request(*reversed(by_column)))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    two_d = [tensor(each.name, each.array.reshape(-1, 1)) for each in by_column]
    np.testing.assert_array_equal(columns.matrix(request(*two_d)), expected)
    np.testing.assert_array_equal(columns.matrix(request(tensor("x", array))), expected)


def test_one_row_may_lack_its_first_dimension():
    assert NAMED.matrix(request(tensor("x", [1.0, 2.0, 3.0]))).tolist() == [[1, 2, 3]]
    assert Columns.unnamed(1).matrix(request(tensor("x", [1.0, 2.0]))).tolist() == [[1], [2]]


def test_a_wrong_width_is_told_with_both_numbers():
    text = refused(NAMED.matrix, tensor("x", [[1.0, 2.0]]))
    assert text == "inputs[0].shape: expected [-1, 3] (rows of 3 features), found [1, 2]"
    assert "[-1, 1] (rows of 1 feature)" in refused(
        Columns.unnamed(1).matrix, tensor("x", [[1.0, 2.0]])
    )


def test_what_is_not_known_is_passed_on():
    columns = Columns(None)
    array = np.ones((2, 5, 3))
    assert columns.matrix(request(tensor("x", array))) is not None
    np.testing.assert_array_equal(columns.matrix(request(tensor("x", array))), array)
    texts = columns.matrix(request(tensor("x", [["a", "b"]])))
    assert texts.tolist() == [["a", "b"]]
    two = columns.matrix(request(tensor("p", [1.0]), tensor("q", [2])))
    assert two.tolist() == [[1.0, 2.0]]
    assert columns.sample() is None
    assert [(each.name, list(each.shape)) for each in columns.metadata()] == [("x", [-1, -1])]


@pytest.mark.parametrize(
    ("given", "dtypes", "made"),
    [
        ("f8", ("f4",), "f4"),
        ("i8", ("f4", "f8"), "f8"),
        ("i1", ("f4", "f8"), "f4"),
        ("f4", ("f4", "f8"), "f4"),
        ("i8", (), "i8"),
    ],
)
def test_a_dtype_is_cast_to_the_first_that_holds_it(given, dtypes, made):
    columns = Columns.unnamed(2, dtypes=dtypes)
    array = np.array([[1, 2]], given)
    assert columns.matrix(request(tensor("x", array))).dtype == made
    by_column = [tensor("x0", array[:, 0]), tensor("x1", array[:, 1])]
    assert columns.matrix(request(*by_column)).dtype == made


def test_a_number_that_is_too_large_is_refused_and_not_made_infinite():
    columns = Columns([Column.number("a"), Column.number("b")], dtypes=(np.float32,))
    text = refused(columns.matrix, tensor("x", [[1.0, 2.0], [3.0, 1e300]]))
    assert text == (
        "inputs[0].data[3]: expected a number that float32 can hold for 'b', found 1e+300"
    )
    text = refused(columns.matrix, tensor("b", [1.0, 1e300]), tensor("a", [1.0, 2.0]))
    assert text.startswith("inputs[0].data[1]: expected a number that float32 can hold for 'b'")
    found = columns.matrix(request(tensor("x", [[math.inf, math.nan]])))
    assert np.isinf(found[0, 0])
    assert np.isnan(found[0, 1])


def test_infinities_are_refused_where_the_model_refuses_them():
    columns = Columns(NAMED.columns, refuses_infinity=True)
    text = refused(columns.matrix, tensor("x", [[1.0, 2.0, 3.0], [1.0, -math.inf, 3.0]]))
    assert text == "inputs[0].data[4]: expected a finite number for 'b', found -Infinity"
    parts = [tensor("c", [1.0]), tensor("b", [math.inf]), tensor("a", [1.0])]
    assert refused(columns.matrix, *parts).startswith("inputs[1].data[0]: expected a finite number")
    assert columns.matrix(request(tensor("x", [[1.0, math.nan, 3.0]]))).shape == (1, 3)


def test_missing_numbers_are_refused_where_the_model_takes_none():
    columns = Columns([Column.number("a"), Column.number("b", nullable=False)])
    assert columns.matrix(request(tensor("x", [[math.nan, 1.0]]))).shape == (1, 2)
    text = refused(columns.matrix, tensor("x", [[1.0, 1.0], [1.0, math.nan]]))
    assert text.startswith("inputs[0].data[3]: expected a value, since the model takes no missing")
    assert "'b', found NaN" in text
    assert "inputs[1].data[0]" in refused(
        columns.matrix, tensor("a", [1.0]), json_tensor("b", [None])
    )


# ---- one tensor for each column ----


def test_missing_and_unknown_columns_are_named():
    text = refused(NAMED.matrix, tensor("a", [1.0]), tensor("d", [1.0]))
    assert text == (
        "inputs: expected one tensor for each of the 3 columns, or one matrix, "
        "found no 'b', 'c' and the unknown 'd'"
    )
    assert "found no 'b', 'c'" in refused(NAMED.matrix, tensor("a", [1.0]))


def test_columns_of_different_lengths_are_refused():
    parts = [tensor("b", [1.0]), tensor("a", [1.0, 2.0]), tensor("c", [1.0, 2.0])]
    assert refused(NAMED.matrix, *parts) == (
        "inputs[0].shape: expected 2 rows, as 'a' has, found [1]"
    )
    parts[0] = tensor("b", [[1.0, 2.0]])
    assert refused(NAMED.matrix, *parts) == (
        "inputs[0].shape: expected [-1] or [-1, 1] for 'b', found [1, 2]"
    )


def test_nameless_columns_go_by_position_or_by_all_their_stand_ins():
    columns = Columns.unnamed(2)
    by_position = columns.matrix(request(tensor("p", [1.0]), tensor("q", [2.0])))
    assert by_position.tolist() == [[1, 2]]
    by_name = columns.matrix(request(tensor("x1", [1.0]), tensor("x0", [2.0])))
    assert by_name.tolist() == [[2, 1]]
    assert refused(columns.matrix, *[tensor(name, [1.0]) for name in "abc"]) == (
        "inputs: expected one tensor, or 2, found 3"
    )


def test_text_among_numbers_names_the_column_and_the_element():
    parts = [tensor("a", [1.0, 2.0]), tensor("b", ["x", "y"]), tensor("c", [1.0, 2.0])]
    assert refused(NAMED.matrix, *parts) == (
        "inputs[1].datatype: expected a numeric datatype for 'b', found BYTES ('x' in data[0])"
    )
    parts[1] = json_tensor("b", [1, "y"])
    assert refused(NAMED.matrix, *parts) == (
        "inputs[1].data[1]: expected a number for 'b', found '\"y\"'"
    )
    assert "found BYTES ('1'" in refused(NAMED.matrix, tensor("x", [["1", "2", "3"]]))


def test_numbers_in_json_may_be_null():
    found = NAMED.matrix(
        request(json_tensor("a", [1, None]), json_tensor("b", [1, 2]), tensor("c", [1.0, 2.0]))
    )
    np.testing.assert_array_equal(found, [[1, 1, 1], [math.nan, 2, 2]])


def test_truth_values_are_numbers_in_a_matrix():
    columns = Columns([Column.boolean("a"), Column.number("b")])
    found = columns.matrix(request(json_tensor("a", [True, None]), tensor("b", [1.5, 2.5])))
    np.testing.assert_array_equal(found, [[1, 1.5], [math.nan, 2.5]])
    assert columns.arrays(request(tensor("a", [1, 0]), tensor("b", [1.0, 2.0])))[0].dtype == bool
    assert "inputs[0].data[1]: expected true or false for 'a', found 2" in refused(
        columns.matrix, tensor("a", [0, 2]), tensor("b", [1.0, 2.0])
    )


# ---- text and categories ----


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_texts_come_back_and_null_is_missing(texts):
    columns = Columns([Column.text("t", missing=None)], are_named=False)
    assert columns.arrays(request(json_tensor("t", texts)))[0].tolist() == texts
    plain = [each or "" for each in texts]
    assert columns.matrix(request(tensor("t", plain))).tolist() == [[each] for each in plain]


def test_text_that_is_no_utf_8_is_refused():
    columns = Columns([Column.text("t")])
    assert refused(columns.matrix, tensor("t", [b"a", b"\xff"])) == (
        "inputs[0].data[1]: expected UTF-8 text for 't', found '\\xff'"
    )
    assert "expected BYTES for 't', found INT64" in refused(columns.matrix, tensor("t", [1]))


@given(st.data())
def test_the_code_of_a_category_is_its_place(data):
    values = st.one_of(
        st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, unique=True),
        st.lists(st.integers(-(2**40), 2**40), min_size=1, unique=True),
    )
    categories = data.draw(values)
    codes = data.draw(st.lists(st.integers(0, len(categories) - 1), min_size=1))
    columns = Columns([Column.number("n"), Column.category("c", categories)])
    sent = tensor("c", [categories[code] for code in codes])
    numbers = tensor("n", np.arange(len(codes), dtype=float))
    found = columns.codes(request(sent, numbers))
    assert found[:, 1].tolist() == codes
    values = columns.arrays(request(sent, numbers))[1]
    assert values.tolist() == [categories[code] for code in codes]


def test_an_unknown_category_is_missing_or_refused():
    parts = [tensor("city", ["Rome", "Bonn"]), tensor("age", [1.0, 2.0])]
    np.testing.assert_array_equal(CITIES.codes(request(*parts)), [[1, 1], [2, math.nan]])
    strict = Columns(CITIES.columns, unknown="refuse")
    assert refused(strict.codes, *parts) == (
        "inputs[0].data[1]: expected one of the categories 'Oslo', 'Rome' for 'city', found 'Bonn'"
    )
    parts[0] = json_tensor("city", ["Rome", None])
    np.testing.assert_array_equal(strict.codes(request(*parts)), [[1, 1], [2, math.nan]])


def test_a_missing_category_is_refused_where_the_model_takes_none():
    columns = Columns([Column.category("city", ["Oslo"], nullable=False)])
    assert "takes no missing" in refused(columns.codes, json_tensor("city", ["Oslo", None]))
    assert columns.codes(request(tensor("city", ["Oslo"]))).tolist() == [[0]]


def test_a_matrix_may_hold_the_codes_of_texts():
    found = CITIES.codes(request(tensor("x", [[30.5, 1.0], [1.0, -1.0], [2.0, math.nan]])))
    np.testing.assert_array_equal(found, [[30.5, 1], [1, math.nan], [2, math.nan]])
    assert refused(CITIES.codes, tensor("x", [[30.5, 2.0]])) == (
        "inputs[0].data[1]: expected the code of a category, 0 to 1, for 'city', found 2.0"
    )
    assert "found 0.5" in refused(CITIES.codes, tensor("x", [[30.5, 0.5]]))
    values = CITIES.arrays(request(tensor("x", [[30.5, 1.0]])))[1]
    assert values.tolist() == ["Rome"]
    assert "expected BYTES for 'city', found INT64" in refused(
        CITIES.codes, tensor("city", [1]), tensor("age", [1.0])
    )


def test_a_matrix_holds_the_values_of_numeric_categories():
    columns = Columns([Column.category("floor", [10, 20]), Column.number("n")])
    assert columns.codes(request(tensor("x", [[20.0, 5.0]]))).tolist() == [[1, 5]]
    assert columns.matrix(request(tensor("x", [[20.0, 5.0]]))).tolist() == [[20, 5]]


def test_a_column_without_trained_categories_takes_texts_and_whole_numbers():
    columns = Columns([Column.category("c", missing="")])
    assert columns.arrays(request(tensor("c", ["a", "b"])))[0].tolist() == ["a", "b"]
    assert columns.arrays(request(tensor("c", [1, 2])))[0].tolist() == ["1", "2"]
    assert columns.arrays(request(json_tensor("c", ["a", 3, None])))[0].tolist() == ["a", "3", ""]
    assert "expected BYTES or integers for 'c', found FP64" in refused(
        columns.arrays, tensor("c", [1.5])
    )


def test_mixed_columns_make_an_array_of_objects():
    found = CITIES.matrix(request(tensor("age", [1.5]), tensor("city", ["Rome"])))
    assert found.tolist() == [[1.5, "Rome"]]


def test_documents_are_one_tensor_of_text():
    assert documents(request(tensor("x", [["a"], ["b"]]))) == ["a", "b"]
    for wrong in ([tensor("x", [1])], [json_tensor("x", [None])], [tensor("x", ["a"])] * 2):
        with pytest.raises(InvalidRequestError):
            documents(request(*wrong))


# ---- metadata ----


def test_numbers_of_one_datatype_are_told_as_a_matrix():
    (told,) = NAMED.metadata()
    assert (told.name, told.datatype, list(told.shape)) == ("x", Datatype.FP64, [-1, 3])
    assert told.parameters == {"columns": ["a", "b", "c"]}
    told = NAMED.metadata(form="columns", is_column_2d=True)
    assert [(each.name, list(each.shape)) for each in told] == [(name, [-1, 1]) for name in "abc"]


def test_categories_are_told_and_a_sample_fits():
    told = CITIES.metadata()
    assert [(each.name, each.datatype) for each in told] == [
        ("age", Datatype.FP64),
        ("city", Datatype.BYTES),
    ]
    assert told[1].parameters["categories"] == ["Oslo", "Rome"]
    assert CITIES.codes(CITIES.sample()).tolist() == [[0, 0]]
    assert NAMED.matrix(NAMED.sample()).tolist() == [[0, 0, 0]]
    with pytest.raises(ValueError, match="beside columns of numbers"):
        CITIES.metadata(form="matrix")


def test_columns_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two columns have the name 'a'"):
        Columns([Column.number("a"), Column.number("a")])


# ---- outputs ----


def outputs(**settings):
    calls = []

    def noted(name, function):
        def compute(data, asked):
            calls.append(name)
            return function(data)

        return Output(name, compute)

    made = Outputs(
        [
            noted("predict", lambda data: data[:, 0]),
            noted("raw", lambda data: data * 2),
            noted("predict_proba", lambda data: [data, data[:, :1]]),
            Output("total", lambda raw, asked: raw.sum(axis=1), of="raw"),
        ],
        **settings,
    )
    return made, calls


DATA = np.array([[1.0, 2.0], [3.0, 4.0]])


def test_a_request_that_names_none_gets_the_first_output():
    made, calls = outputs()
    (found,) = made.infer(request(), DATA).outputs
    assert (found.name, found.array.tolist()) == ("predict", [1, 3])
    assert calls == ["predict"]


def test_each_output_is_computed_once_and_given_in_the_order_asked():
    made, calls = outputs()
    assert made.learn(DATA) == {}
    calls.clear()
    wanted = ["predict_proba_1", "margin", "total", "raw", "predict_proba_0", "decision_function"]
    found = made.infer(request(outputs=wanted), DATA).outputs
    assert [each.name for each in found] == wanted
    assert calls == ["predict_proba", "raw"]
    np.testing.assert_array_equal(found[1].array, DATA * 2)
    np.testing.assert_array_equal(found[2].array, [6, 14])


def test_the_metadata_have_what_one_row_showed_and_the_aliases():
    made, _ = outputs(is_column_2d=True)
    made.learn(DATA[:1])
    told = {each.name: each for each in made.metadata()}
    assert list(told) == [
        *("predict", "raw", "predict_proba_0", "predict_proba_1", "total"),
        *ALIASES["raw"],
    ]
    assert list(told["predict"].shape) == [-1, 1]
    assert "on_request" not in told["predict"].parameters
    assert told["margin"].parameters == {"on_request": True, "alias_of": "raw"}
    assert all(told[name].parameters["on_request"] for name in list(told)[1:])
    for name in told:
        (found,) = made.infer(request(outputs=[name]), DATA).outputs
        assert found.name == name
        assert (found.datatype, found.array.ndim) == (
            told[name].datatype,
            len(told[name].shape),
        )


def test_an_unknown_output_is_refused_and_a_failed_trial_is_told():
    made = Outputs([Output("predict", lambda data, asked: data["x"], Datatype.INT64, [-1, 3])])
    assert list(made.learn(DATA)) == ["predict"]
    (told,) = made.metadata()
    assert (told.datatype, list(told.shape)) == (Datatype.INT64, [-1, 3])
    with pytest.raises(InvalidRequestError, match=r"outputs\[0\].name: expected one of predict"):
        made.infer(request(outputs=["preduct"]), DATA)


def test_an_output_may_be_made_of_another_but_not_of_itself():
    def plus_one(value, _):
        return value + 1

    chain = [("c", "b"), ("b", "a"), ("a", "")]
    made = Outputs([Output(name, plus_one, of=of) for name, of in chain])
    assert made.infer(request(), np.array([0])).output("c").array.tolist() == [3]
    for wrong in ([("a", "b"), ("b", "a")], [("a", "z")]):
        with pytest.raises(ValueError, match="which is not of data"):
            Outputs([Output(name, plus_one, of=of) for name, of in wrong])


def test_a_result_of_several_parts_has_their_names():
    both = ("kneighbors", "kneighbors_indices")
    made = Outputs([Output("kneighbors", lambda data, asked: (data, data), parts=both)])
    assert [each.name for each in made.infer(request(), DATA).outputs] == list(both)
    (found,) = made.infer(request(outputs=both[1:]), DATA).outputs
    assert found.name == "kneighbors_indices"


class Asked(msgspec.Struct, frozen=True):
    iteration_range: tuple[int, int] | None = None
    return_std: bool = False
    rounds: Annotated[int, msgspec.Meta(ge=0, description="Trees used.")] = 0
    note: str = ""


def test_parameters_of_a_request_reach_the_output():
    made = Outputs(
        [
            Output(
                "predict",
                lambda data, asked: (
                    {"predict": data, "predict_std": data} if asked.return_std else data
                ),
            )
        ],
        parameters=RequestParameters(Asked),
    )
    names = [each.name for each in made.infer(request(return_std=True), DATA).outputs]
    assert names == ["predict", "predict_std"]
    assert len(made.infer(request(), DATA).outputs) == 1


def test_parameters_are_typed_and_others_pass():
    parameters = RequestParameters(Asked)
    assert parameters.read(request()) is parameters.defaults
    assert parameters.read(request(content_type="pd", priority=1)) is parameters.defaults
    assert parameters.read(request(iteration_range=[0, 5], timeout=3)).iteration_range == (0, 5)
    found = parameters.read(request(iteration_range="[0, 5]", note="[1]", rounds=2))
    assert found == Asked(iteration_range=(0, 5), note="[1]", rounds=2)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"rounds": "many"}, "parameters.rounds: expected an integer, found a string"),
        ({"rounds": -1}, "parameters.rounds: expected an integer >= 0"),
        ({"return_std": 1}, "parameters.return_std: expected true or false, found an integer"),
        ({"iteration_range": [1, "a"]}, "parameters.iteration_range[1]: expected an integer"),
    ],
)
def test_a_parameter_of_the_wrong_type_is_named(given, text):
    with pytest.raises(InvalidRequestError) as caught:
        RequestParameters(Asked).read(request(**given))
    assert text in str(caught.value)


def test_parameters_are_told_in_the_metadata():
    told = RequestParameters(Asked).metadata()["request_parameters"]
    assert told["rounds"]["description"] == "Trees used."
    assert list(told) == ["iteration_range", "return_std", "rounds", "note"]


# ---- results ----


class Sparse:
    def toarray(self):
        return np.eye(2)


@pytest.mark.parametrize(
    ("value", "datatype", "shape", "data"),
    [
        (np.array([1, 2]), Datatype.INT64, (2,), [1, 2]),
        (3.5, Datatype.FP64, (1,), [3.5]),
        (np.array(["a", "b"]), Datatype.BYTES, (2,), [b"a", b"b"]),
        (["a\0", "b"], Datatype.BYTES, (2,), [b"a\0", b"b"]),
        (np.array([True, False]), Datatype.BOOL, (2,), [True, False]),
        (Sparse(), Datatype.FP64, (2, 2), [[1, 0], [0, 1]]),
        (np.array([1, None], object), Datatype.FP64, (2,), [1, math.nan]),
        (np.array([True, False], object), Datatype.BOOL, (2,), [True, False]),
        (np.array(["a", None], object), Datatype.BYTES, (2,), [b'"a"', b"null"]),
        (
            np.array(["2024-02-29"], "datetime64[D]"),
            Datatype.BYTES,
            (1,),
            [b"2024-02-29T00:00:00"],
        ),
    ],
)
def test_a_result_is_one_tensor(value, datatype, shape, data):
    (found,) = tensors_of("y", value)
    assert (found.name, found.datatype, found.shape) == ("y", datatype, shape)
    np.testing.assert_array_equal(found.array, np.array(data, found.array.dtype))


def test_the_rows_are_the_first_dimension():
    assert tensors_of("y", np.zeros(3), rows=1)[0].shape == (1, 3)
    with pytest.raises(ValueError, match="output 'y': expected 2 rows, found the shape"):
        tensors_of("y", np.zeros(3), rows=2)
    with pytest.raises(ValueError, match="expected 1 results, found 2"):
        tensors_of("y", (DATA, DATA), parts=["one"])


def test_labels_of_classes():
    labels = Labels(["cat", "dog"])
    assert labels.of_probabilities(np.array([0.2, 0.5, 0.9])).tolist() == [b"cat", b"cat", b"dog"]
    assert labels.of_probabilities(np.array([[0.7, 0.3]])).tolist() == [b"cat"]
    assert labels.of_probabilities(np.array([[0.7, 0.3]]), threshold=0.2).tolist() == [b"dog"]
    assert labels.of_indices(np.array([1.0, 0.0])).tolist() == [b"dog", b"cat"]
    assert labels.metadata == {"classes": ["cat", "dog"]}
    numbers = Labels(np.array([3, 1, 2]))
    assert numbers.of_probabilities(np.eye(3)[[2, 0]]).tolist() == [2, 3]
    assert tensors_of("predict", numbers.of_indices(np.array([0])))[0].datatype is Datatype.INT64
    for wrong in ([], ["a", "a"], ["a", 1]):
        with pytest.raises(ValueError, match="expected labels that differ"):
            Labels(wrong)


@given(npst.arrays("f8", st.integers(0, 5), elements=st.floats(0, 1)))
def test_both_classes_agree_with_the_second_alone(probabilities):
    both = both_classes(probabilities)
    np.testing.assert_array_equal(both, np.column_stack((1 - probabilities, probabilities)))
    labels = Labels([0, 1])
    np.testing.assert_array_equal(
        labels.of_probabilities(both), labels.of_probabilities(probabilities)
    )


def test_every_alias_is_of_a_uniform_name():
    assert set(ALIASES) <= set(NAMES)
