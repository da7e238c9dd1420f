"""What is special to scikit-learn: outputs, labels, DataFrames, texts, refusals, artifacts."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import warnings

import joblib
import msgspec
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN
from sklearn.compose import make_column_transformer
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_linnerud,
    load_wine,
)
from sklearn.decomposition import NMF, PCA, KernelPCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    LabelEncoder,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
    scale,
)
from sklearn.svm import SVC

from jackfield import (
    Datatype,
    InferRequest,
    InvalidRequestError,
    ModelContext,
    ModelLoadError,
    ModelParameters,
    ModelSettings,
    RequestedOutput,
    Tensor,
)
from jackfield_sklearn import SklearnOptions, jackfield_runtimes
from jackfield_sklearn._runtime import SklearnRuntime

MLSERVER = "mlserver_sklearn.SKLearnModel"
TEXTS = ["a fine film", "a dull film", "fine music", "dull music"]


@pytest.fixture
def serve(tmp_path):
    """Save an estimator and load it as the core does."""

    def serve(estimator, *, file="model.joblib", **settings):
        joblib.dump(estimator, tmp_path / file)
        return load(tmp_path / file, **settings)

    return serve


def load(
    artifact, *, implementation="sklearn", predict_fn="", accelerate="off", threads=1, **options
):
    runtime = SklearnRuntime(
        ModelContext(
            name="model",
            version="",
            artifact=artifact,
            settings=ModelSettings(
                implementation=implementation,
                parameters=ModelParameters(extra={"predict_fn": predict_fn}),
            ),
            options=SklearnOptions(predict_fn, accelerate=accelerate, **options),
            threads=threads,
            logger=logging.getLogger("jackfield.test"),
        )
    )
    runtime.load()
    return runtime


def ask(runtime, inputs, *outputs):
    """Send arrays by name, or one array, and get the tensors of the answer."""
    named = inputs if isinstance(inputs, dict) else {"x": inputs}
    tensors = [Tensor.from_array(name, array) for name, array in named.items()]
    for tensor in tensors:
        tensor.array.flags.writeable = False
    request = InferRequest(tensors, [RequestedOutput(name) for name in outputs])
    return list(runtime.infer(request).outputs)


def outputs_of(runtime):
    return {output.name: output for output in runtime.metadata().outputs}


def inputs_of(runtime):
    return [(each.name, each.datatype, list(each.shape)) for each in runtime.metadata().inputs]


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def classifier(iris):
    return LogisticRegression(max_iter=1000).fit(*iris)


@pytest.fixture(scope="module")
def wine():
    """178 wines: two measures, and a word derived from a third."""
    wine = load_wine(as_frame=True)
    tone = np.where(wine.data["hue"] > 1, "warm", "cool")
    return wine.data[["alcohol", "proline"]].assign(tone=tone), wine.target


@pytest.fixture(scope="module")
def wine_pipeline(wine):
    columns = make_column_transformer(
        (StandardScaler(), ["alcohol", "proline"]), (OneHotEncoder(), ["tone"])
    )
    return make_pipeline(columns, LogisticRegression()).fit(*wine)


@pytest.fixture(scope="module")
def wine_of_numbers(tmp_path_factory):
    """A model fitted on all thirteen columns, loaded once, and the estimator."""
    wine = load_wine(as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wine.data, wine.target)
    file = tmp_path_factory.mktemp("wine") / "model.joblib"
    joblib.dump(model, file)
    return load(file), model


def columns_of(frame):
    return {name: frame[name].to_numpy(dtype=None) for name in frame}


# ---- outputs ----


def test_methods_that_the_estimator_has_are_outputs_and_only_the_first_is_default(
    serve, iris, classifier
):
    runtime = serve(classifier)
    on_request = {
        name: bool(output.parameters.get("on_request"))
        for name, output in outputs_of(runtime).items()
    }
    assert on_request == {
        "predict": False,
        "predict_proba": True,
        "predict_log_proba": True,
        "raw": True,
        "margin": True,
        "decision_function": True,
    }
    rows = iris[0][::50]
    found = ask(runtime, rows, "decision_function", "predict_proba", "predict")
    assert [each.name for each in found] == ["decision_function", "predict_proba", "predict"]
    for tensor in found:
        assert np.array_equal(tensor.array, getattr(classifier, tensor.name)(rows))


def test_an_unknown_output_is_refused_and_the_known_ones_are_named(serve, iris, classifier):
    with pytest.raises(InvalidRequestError, match="predict_proba") as caught:
        ask(serve(classifier), iris[0][:1], "predict", "probabilities")
    assert caught.value.field == "outputs[1].name"
    assert "probabilities" in caught.value.found


def test_an_svc_without_probabilities_offers_none(serve):
    features, labels = load_digits(return_X_y=True)
    model = SVC(gamma=0.001).fit(features[:500], labels[:500])
    runtime = serve(make_pipeline(StandardScaler(), model).fit(features[:500], labels[:500]))
    assert set(outputs_of(runtime)) == {"predict", "raw", "margin", "decision_function"}
    with pytest.raises(InvalidRequestError):
        ask(runtime, features[:1], "predict_proba")


def test_a_classifier_without_transform_refuses_it(serve, iris, classifier):
    with pytest.raises(InvalidRequestError):
        ask(serve(classifier), iris[0][:1], "transform")


def test_a_transformer_answers_transform_without_being_asked(serve, iris):
    scaler = StandardScaler().fit(iris[0])
    runtime = serve(scaler)
    (found,) = ask(runtime, iris[0][:3])
    assert found.name == "transform"
    assert np.array_equal(found.array, scaler.transform(iris[0][:3]))
    assert outputs_of(runtime)["transform"].parameters == {"columns": ["x0", "x1", "x2", "x3"]}


def test_predict_fn_chooses_the_default_output(serve, iris, classifier):
    runtime = serve(classifier, predict_fn="predict_proba")
    (found,) = ask(runtime, iris[0][:2])
    assert found.name == "predict_proba"
    assert np.array_equal(found.array, classifier.predict_proba(iris[0][:2]))
    assert "on_request" not in outputs_of(runtime)["predict_proba"].parameters
    assert outputs_of(runtime)["predict"].parameters["on_request"] is True


@pytest.mark.parametrize("predict_fn", ["predict_probs", "transform", "fit", "_validate_params"])
def test_a_predict_fn_that_the_estimator_does_not_offer_fails_the_load(
    serve, classifier, predict_fn
):
    with pytest.raises(ModelLoadError, match="LogisticRegression does not offer") as caught:
        serve(classifier, predict_fn=predict_fn)
    assert "predict_proba" in str(caught.value)


def test_predict_fn_may_name_the_way_back(serve, iris):
    reduced = PCA(2).fit(iris[0])
    runtime = serve(reduced, predict_fn="inverse_transform")
    (found,) = ask(runtime, [[0.0, 0.0]])
    assert np.allclose(found.array, [iris[0].mean(axis=0)])
    assert list(outputs_of(runtime)) == ["inverse_transform"]


def test_a_method_that_gives_several_arrays_gives_numbered_outputs(serve, iris):
    model = KNeighborsClassifier().fit(*iris)
    runtime = serve(model, predict_fn="kneighbors")
    distances, indices = ask(runtime, iris[0][:2])
    assert [distances.name, indices.name] == ["kneighbors", "kneighbors_indices"]
    assert np.array_equal(indices.array, model.kneighbors(iris[0][:2])[1])


def test_an_outlier_detector_offers_its_scores(serve, iris):
    model = IsolationForest(n_estimators=20, random_state=0).fit(iris[0])
    label, score = ask(serve(model), iris[0][:5], "predict", "score_samples")
    assert label.datatype is Datatype.INT64
    assert np.array_equal(score.array, model.score_samples(iris[0][:5]))


# ---- labels, datatypes, shapes ----


@pytest.mark.parametrize(
    ("labels", "datatype"),
    [
        (np.array([0, 1, 2]), Datatype.INT64),
        (np.array([0, 1, 2], dtype="i4"), Datatype.INT32),
        (np.array([True, False, False]), Datatype.BOOL),
        (np.array(["setosa", "versicolor", "virginica"]), Datatype.BYTES),
        (np.array(["setosa", "versicolor", "virginica"], dtype=object), Datatype.BYTES),
    ],
    ids=["int64", "int32", "bool", "text", "text objects"],
)
def test_labels_keep_their_kind(serve, iris, labels, datatype):
    features, target = iris
    model = KNeighborsClassifier().fit(features, labels[target])
    runtime = serve(model)
    (found,) = ask(runtime, features[::20])
    assert found.datatype is datatype
    assert outputs_of(runtime)["predict"].datatype is datatype
    values = found.array.tolist()
    if datatype is Datatype.BYTES:
        values = [value.decode() for value in values]
    assert values == model.predict(features[::20]).tolist()


def test_fp32_stays_fp32_where_the_estimator_keeps_it(serve, iris):
    (found,) = ask(serve(StandardScaler().fit(iris[0])), iris[0][:2].astype("f4"))
    assert found.datatype is Datatype.FP32


def test_under_our_name_a_label_per_row_has_one_dimension(serve, iris, classifier):
    runtime = serve(classifier)
    assert ask(runtime, iris[0][:3])[0].shape == (3,)
    assert list(outputs_of(runtime)["predict"].shape) == [-1]


def test_under_mlservers_name_a_label_per_row_has_two_dimensions(serve, iris, classifier):
    runtime = serve(classifier, implementation=MLSERVER)
    label, chance = ask(runtime, iris[0][:3], "predict", "predict_proba")
    assert label.shape == (3, 1)
    assert chance.shape == (3, 3)
    assert list(outputs_of(runtime)["predict"].shape) == [-1, 1]


def test_mlservers_digits_example_answers_int64_of_1_by_1(serve):
    features, labels = load_digits(return_X_y=True)
    half = len(features) // 2
    model = SVC(gamma=0.001).fit(features[:half], labels[:half])
    (found,) = ask(serve(model, implementation=MLSERVER), features[half : half + 1].astype("f4"))
    assert (found.name, found.datatype, found.shape) == ("predict", Datatype.INT64, (1, 1))
    assert found.array[0, 0] == model.predict(features[half : half + 1])[0]


def test_sparse_results_are_made_dense(serve, wine):
    encoder = OneHotEncoder().fit(wine[0][["tone"]])
    (found,) = ask(serve(encoder), ["warm", "cool"])
    assert found.array.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_a_dataframe_result_is_one_tensor_and_the_metadata_name_its_columns(serve, wine):
    scaler = StandardScaler().set_output(transform="pandas").fit(wine[0][["alcohol", "proline"]])
    runtime = serve(scaler)
    (found,) = ask(runtime, wine[0][["alcohol", "proline"]].to_numpy()[:3])
    assert found.shape == (3, 2)
    assert outputs_of(runtime)["transform"].parameters["columns"] == ["alcohol", "proline"]


def test_a_dataframe_result_can_be_asked_for_beside_another_output(serve, iris):
    model = make_pipeline(StandardScaler(), PCA(2)).set_output(transform="pandas").fit(iris[0])
    first, second = ask(serve(model), iris[0][:2], "transform", "score_samples")
    assert first.shape == (2, 2)
    assert second.shape == (2,)


def test_several_targets_give_one_tensor_of_probabilities_each(serve):
    features, target = load_linnerud(return_X_y=True)
    labels = np.column_stack([target[:, 0] > 180, np.digitize(target[:, 1], [33, 36])]).astype(int)
    model = RandomForestClassifier(10, random_state=0).fit(features, labels)
    runtime = serve(model)
    expected = model.predict_proba(features)
    second, first = ask(runtime, features, "predict_proba_1", "predict_proba_0")
    assert [each.name for each in (second, first)] == ["predict_proba_1", "predict_proba_0"]
    assert np.array_equal(first.array, expected[0])
    assert np.array_equal(second.array, expected[1])
    assert ask(runtime, features)[0].shape == (20, 2)
    described = outputs_of(runtime)
    assert described["predict_proba_0"].parameters["classes"] == [0, 1]
    assert described["predict_proba_1"].parameters["classes"] == [0, 1, 2]


def test_a_result_that_no_datatype_holds_is_an_error_of_the_model(serve):
    with pytest.raises(TypeError):
        ask(serve(Gives(np.array([1j]))), [[1.0]])


def test_a_result_with_another_number_of_rows_is_an_error_of_the_model(serve):
    with pytest.raises(ValueError, match="expected 2 rows"):
        ask(serve(Gives(np.zeros(3))), [[1.0], [2.0]])


class Gives:
    """Predicts what it was made with; a class of the model's author."""

    def __init__(self, result):
        self.result = result

    def predict(self, _):
        return self.result


def test_numbers_in_an_object_array_get_a_datatype(serve):
    (found,) = ask(serve(Gives(np.array([1, 2], dtype=object))), [[1.0], [2.0]])
    assert found.datatype is Datatype.INT64


# ---- metadata ----


def test_metadata_tell_the_labels_of_each_column(serve):
    cancer = load_breast_cancer()
    labels = cancer.target_names[cancer.target]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(cancer.data, labels)
    runtime = serve(model)
    described = outputs_of(runtime)
    assert described["predict_proba"].parameters["classes"] == ["benign", "malignant"]
    assert list(described["predict_proba"].shape) == [-1, 2]
    assert described["decision_function"].parameters["classes"] == ["benign", "malignant"]
    assert list(described["decision_function"].shape) == [-1]
    assert "classes" not in described["predict"].parameters


def test_metadata_of_a_model_of_arrays_are_one_matrix(serve, classifier):
    runtime = serve(classifier)
    assert inputs_of(runtime) == [("x", Datatype.FP64, [-1, 4])]
    metadata = runtime.metadata()
    assert metadata.platform == "sklearn_joblib"
    assert metadata.parameters == {
        "estimator": "LogisticRegression",
        "sklearn_version": sklearn.__version__,
        "allows_missing": False,
    }


@pytest.mark.parametrize("file", ["model.pickle", "model.pkl"])
def test_plain_pickles_are_read(tmp_path, classifier, file):
    (tmp_path / file).write_bytes(pickle.dumps(classifier))
    assert load(tmp_path / file).metadata().platform == "sklearn_pickle"


@pytest.mark.parametrize(("implementation", "shape"), [("sklearn", [-1]), (MLSERVER, [-1, 1])])
def test_metadata_of_a_model_of_dataframes_are_its_columns(
    serve, wine_pipeline, implementation, shape
):
    assert inputs_of(serve(wine_pipeline, implementation=implementation)) == [
        ("alcohol", Datatype.FP64, shape),
        ("proline", Datatype.FP64, shape),
        ("tone", Datatype.BYTES, shape),
    ]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: GridSearchCV(model, {"logisticregression__C": [1.0]}, cv=2),
        lambda model: CalibratedClassifierCV(model, cv=2),
        lambda model: make_pipeline(model),
    ],
    ids=["grid search", "calibration", "pipeline"],
)
def test_columns_of_text_are_found_inside_other_estimators(serve, wine, wine_pipeline, wrap):
    model = wrap(sklearn.clone(wine_pipeline)).fit(*wine)
    runtime = serve(model)
    assert [datatype for _, datatype, _ in inputs_of(runtime)] == ["FP64", "FP64", "BYTES"]
    (found,) = ask(runtime, columns_of(wine[0].iloc[::30]))
    assert np.array_equal(found.array, model.predict(wine[0].iloc[::30]))


@pytest.mark.parametrize("also", [[], ["proline"]], ids=["no other", "another"])
def test_columns_that_nothing_tells_about_take_any_datatype(serve, wine, also):
    columns = make_column_transformer(
        (StandardScaler(), ["alcohol"]), ("drop", ["tone"]), (OrdinalEncoder(), []),
        ("passthrough", also),
    )  # fmt: skip
    runtime = serve(columns.fit(wine[0]))
    for tone in ("warm", 1.0):
        (found,) = ask(runtime, {"alcohol": [13.0], "tone": [tone], "proline": [700.0]})
        assert found.shape == (1, 1 + len(also))


def test_a_result_of_text_and_numbers_is_a_matrix_of_json(serve, wine):
    columns = make_column_transformer((StandardScaler(), ["alcohol"]), ("passthrough", ["tone"]))
    model = columns.fit(wine[0])
    (found,) = ask(serve(model, predict_fn="transform"), columns_of(wine[0].iloc[:2]))
    assert found.parameters["content_type"] == "pd_json"
    values = [[json.loads(each) for each in row] for row in found.array.tolist()]
    assert values == model.transform(wine[0].iloc[:2]).tolist()


def test_columns_of_the_same_name_are_taken_as_a_matrix(serve, wine):
    frame = wine[0][["alcohol", "alcohol"]]
    model = LinearRegression().fit(frame.to_numpy(), wine[1])
    model.feature_names_in_ = np.array(["alcohol", "alcohol"], dtype=object)
    runtime = serve(model)
    assert inputs_of(runtime) == [("x", Datatype.FP64, [-1, 2])]


# ---- inputs ----


@pytest.mark.parametrize("name", ["predict", "input-0", ""])
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "u1", "?"])
def test_a_matrix_of_any_name_and_numeric_datatype_is_taken(serve, iris, classifier, name, dtype):
    rows = iris[0][::40].astype(dtype)
    (found,) = ask(serve(classifier), {name: rows})
    assert np.array_equal(found.array, classifier.predict(rows))


def test_one_dimension_is_one_row(serve, iris, classifier):
    assert ask(serve(classifier), iris[0][0])[0].shape == (1,)


def test_one_dimension_is_many_rows_of_a_model_with_one_feature(serve, iris):
    model = LinearRegression().fit(iris[0][:, :1], iris[0][:, 2])
    (found,) = ask(serve(model), iris[0][:5, 0])
    assert np.array_equal(found.array, model.predict(iris[0][:5, :1]))


@pytest.mark.parametrize("shape", [(1, 3), (2, 5), (3,), (2, 2, 4), ()])
def test_a_matrix_of_another_width_is_refused_with_both_shapes(serve, classifier, shape):
    with pytest.raises(InvalidRequestError) as caught:
        ask(serve(classifier), np.zeros(shape))
    assert caught.value.field == "inputs[0].shape"
    assert caught.value.expected == "[-1, 4] (rows of 4 features)"
    assert caught.value.found == str(list(shape))


def test_text_for_numbers_is_refused_by_its_datatype(serve, classifier):
    with pytest.raises(InvalidRequestError) as caught:
        ask(serve(classifier), [["1", "2", "3", "4"]])
    assert caught.value.field == "inputs[0].datatype"
    assert caught.value.found == "BYTES ('1' in data[0])"


def test_numbers_for_text_are_refused_by_their_datatype(serve, wine, wine_pipeline):
    sent = columns_of(wine[0].iloc[:2]) | {"tone": [1.0, 2.0]}
    with pytest.raises(InvalidRequestError, match="'tone'") as caught:
        ask(serve(wine_pipeline), sent)
    assert (caught.value.field, caught.value.found) == ("inputs[2].datatype", "FP64")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_the_estimator_refuses_is_the_callers_error_in_its_words(serve, iris, classifier, bad):
    rows = iris[0][:2].copy()
    rows[1, 2] = bad
    runtime = serve(classifier)
    with pytest.raises(InvalidRequestError, match="Input X contains") as caught:
        ask(runtime, rows)
    assert caught.value.field == "inputs[0].data[6]"
    assert "\n" not in str(caught.value)
    assert ask(runtime, iris[0][:1])[0].shape == (1,)


def test_no_rows_are_the_callers_error(serve, classifier):
    with pytest.raises(InvalidRequestError, match="0 sample"):
        ask(serve(classifier), np.zeros((0, 4)))


def test_an_unknown_category_is_the_callers_error(serve, wine, wine_pipeline):
    sent = columns_of(wine[0].iloc[:1]) | {"tone": ["pink"]}
    with pytest.raises(InvalidRequestError, match="unknown categories"):
        ask(serve(wine_pipeline), sent)


def picky(rows):
    if rows.any():
        message = "something that callers must not know"
        raise ValueError(message)
    return rows


def test_a_value_error_of_the_authors_code_is_not_the_callers(serve, iris):
    runtime = serve(FunctionTransformer(picky, validate=True).fit(iris[0]))
    assert outputs_of(runtime)["transform"].shape == [-1, 4]
    with pytest.raises(ValueError, match="must not know"):
        ask(runtime, iris[0][:1])


def test_columns_may_come_as_n_or_n_by_1(serve, wine, wine_pipeline):
    rows = wine[0].iloc[::30]
    flat = columns_of(rows)
    tall = {name: array.reshape(-1, 1) for name, array in flat.items()}
    runtime = serve(wine_pipeline)
    expected = wine_pipeline.predict(rows)
    assert np.array_equal(ask(runtime, flat)[0].array, expected)
    assert np.array_equal(ask(runtime, tall)[0].array, expected)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_columns_are_matched_by_name_in_any_order(wine_of_numbers, data):
    wine = load_wine(as_frame=True)
    runtime, model = wine_of_numbers
    rows = wine.data.iloc[
        data.draw(st.lists(st.integers(0, len(wine.data) - 1), min_size=1, max_size=5))
    ]
    order = data.draw(st.permutations(list(wine.data)))
    (found,) = ask(runtime, columns_of(rows[order]), "predict_proba")
    assert np.array_equal(found.array, model.predict_proba(rows))


def test_missing_and_unknown_columns_are_named(serve, wine, wine_pipeline):
    sent = columns_of(wine[0].iloc[:1])
    sent["colour"] = sent.pop("tone")
    with pytest.raises(InvalidRequestError) as caught:
        ask(serve(wine_pipeline), sent)
    assert caught.value.field == "inputs"
    assert caught.value.found == "no 'tone' and the unknown 'colour'"


def test_one_of_several_columns_is_told_which_are_missing(serve, wine_pipeline):
    with pytest.raises(InvalidRequestError, match="no 'proline', 'tone'"):
        ask(serve(wine_pipeline), {"alcohol": [13.0]})


def test_columns_of_different_lengths_are_refused(serve, wine, wine_pipeline):
    sent = columns_of(wine[0].iloc[:2]) | {"proline": [700.0]}
    with pytest.raises(InvalidRequestError, match="expected 2 rows") as caught:
        ask(serve(wine_pipeline), sent)
    assert caught.value.field == "inputs[1].shape"


def test_a_column_of_two_columns_is_refused(serve, wine, wine_pipeline):
    sent = columns_of(wine[0].iloc[:2]) | {"proline": np.zeros((2, 2))}
    with pytest.raises(InvalidRequestError) as caught:
        ask(serve(wine_pipeline), sent)
    assert caught.value.expected == "[-1] or [-1, 1] for 'proline'"


def test_diabetes_by_column_equals_the_estimator(serve):
    data = load_diabetes(as_frame=True)
    model = LinearRegression().fit(data.data, data.target)
    runtime = serve(model)
    (found,) = ask(runtime, columns_of(data.data))
    assert np.allclose(found.array, model.predict(data.data))
    assert found.datatype is Datatype.FP64


def test_a_matrix_is_taken_by_position_and_warns_of_nothing(wine_of_numbers):
    runtime, model = wine_of_numbers
    wine = load_wine(as_frame=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = ask(runtime, wine.data.to_numpy()[::20])
    assert np.array_equal(found.array, model.predict(wine.data.iloc[::20]))


def test_columns_for_a_model_of_arrays_are_taken_in_the_order_sent(serve, iris, classifier):
    sent = {f"column {index}": iris[0][::40, index] for index in range(4)}
    runtime = serve(classifier)
    assert np.array_equal(ask(runtime, sent)[0].array, classifier.predict(iris[0][::40]))
    with pytest.raises(InvalidRequestError, match="one tensor, or 4"):
        ask(runtime, dict(list(sent.items())[:3]))


def test_words_for_a_model_of_arrays_may_come_as_a_matrix(serve):
    words = np.array([["red", "small"], ["blue", "large"]], dtype=object)
    model = OrdinalEncoder().fit(words)
    runtime = serve(model)
    assert inputs_of(runtime) == [("x", Datatype.BYTES, [-1, 2])]
    assert np.array_equal(ask(runtime, words)[0].array, model.transform(words))


def test_words_and_numbers_for_a_model_of_arrays_come_as_columns(serve):
    rows = np.array([["red", 1.0], ["blue", 2.0]], dtype=object)
    columns = make_column_transformer((OneHotEncoder(), [0]), (StandardScaler(), [1]))
    runtime = serve(columns.fit(rows))
    assert [each[:2] for each in inputs_of(runtime)] == [("x0", "BYTES"), ("x1", "FP64")]
    (found,) = ask(runtime, {"x0": ["blue", "red"], "x1": [2.0, 1.0]})
    assert found.array.tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]]


def test_text_that_is_not_utf_8_is_refused(serve, wine, wine_pipeline):
    sent = columns_of(wine[0].iloc[:1]) | {"tone": np.array([b"\xff"], dtype=object)}
    with pytest.raises(InvalidRequestError, match="UTF-8") as caught:
        ask(serve(wine_pipeline), sent)
    assert caught.value.field == "inputs[2].data[0]"


@pytest.mark.parametrize(
    "first",
    [TfidfVectorizer(), make_union(TfidfVectorizer(), CountVectorizer())],
    ids=["vectorizer", "union"],
)
def test_documents_are_a_bytes_tensor(serve, first):
    model = make_pipeline(first, LogisticRegression()).fit(TEXTS, [1, 0, 1, 0])
    runtime = serve(model)
    assert inputs_of(runtime) == [("text", Datatype.BYTES, [-1])]
    new = ["fine", "a dull tune"]
    for sent in (new, [[each] for each in new]):
        assert np.array_equal(ask(runtime, sent)[0].array, model.predict(new))
    with pytest.raises(InvalidRequestError, match="BYTES"):
        ask(runtime, [1.0])


def test_documents_may_be_a_column_among_others(serve):
    frame = pd.DataFrame({"stars": [5.0, 1.0, 4.0, 2.0], "review": TEXTS})
    columns = make_column_transformer((StandardScaler(), ["stars"]), (TfidfVectorizer(), "review"))
    model = make_pipeline(columns, LogisticRegression()).fit(frame, [1, 0, 1, 0])
    runtime = serve(model)
    assert [each[:2] for each in inputs_of(runtime)] == [("stars", "FP64"), ("review", "BYTES")]
    assert np.array_equal(ask(runtime, columns_of(frame))[0].array, model.predict(frame))


def test_a_vectorizer_that_would_read_the_callers_files_is_refused(serve, tmp_path):
    (tmp_path / "text").write_text("words")
    model = make_pipeline(CountVectorizer(input="filename"), LogisticRegression())
    with pytest.raises(ModelLoadError, match="input='content'"):
        serve(model.fit([tmp_path / "text"] * 2, [0, 1]))


def test_a_transformer_of_labels_takes_labels(serve):
    model = LabelEncoder().fit(["setosa", "virginica"])
    (found,) = ask(serve(model), ["virginica", "setosa"])
    assert found.array.tolist() == [1, 0]


# ---- code of the model's author ----


class Ratio(TransformerMixin, BaseEstimator):
    """Takes a DataFrame's columns by name, tells nothing of them, and writes on its data."""

    def fit(self, _frame, _labels=None):
        self.fitted_ = True
        return self

    def transform(self, frame):
        frame["alcohol"] /= frame["proline"]
        return frame[["alcohol"]].to_numpy()


def test_a_model_that_tells_no_columns_gets_those_sent_as_a_dataframe(serve, wine):
    frame = wine[0][["alcohol", "proline"]]
    model = make_pipeline(Ratio(), LogisticRegression()).fit(frame.copy(), wine[1])
    runtime = serve(model)
    sent = columns_of(frame.iloc[:3])
    assert np.array_equal(ask(runtime, sent)[0].array, model.predict(frame.iloc[:3].copy()))


def halve(rows):
    rows /= 2
    return rows


def test_code_that_writes_on_its_data_gets_a_copy(serve, iris):
    runtime = serve(FunctionTransformer(halve, validate=True).fit(iris[0].copy()))
    assert np.array_equal(ask(runtime, iris[0][:2])[0].array, iris[0][:2] / 2)


def test_a_scaler_that_may_write_on_its_data_gets_a_copy(serve, iris):
    scaler = StandardScaler(copy=False).fit(iris[0].copy())
    expected = scaler.transform(iris[0][:2].copy())
    assert np.array_equal(ask(serve(scaler), iris[0][:2])[0].array, expected)


def linear(one, other):
    return one @ other


@pytest.mark.parametrize(
    ("model", "row_wise", "thread_safe"),
    [
        (StandardScaler(), True, True),
        (FunctionTransformer(np.log1p), True, True),
        (FunctionTransformer(halve), False, False),
        (make_pipeline(FunctionTransformer(halve), StandardScaler()), False, False),
        (FunctionTransformer(scale), False, False),
        (KernelPCA(2, kernel=linear), False, False),
        (NMF(2, init="random", random_state=0, max_iter=2000), False, True),
    ],
)
def test_capabilities_are_narrowed_where_they_are_not_known_to_hold(
    serve, iris, model, row_wise, thread_safe
):
    (spec,) = jackfield_runtimes()
    found = serve(model.fit(iris[0].copy())).capabilities
    assert (found.row_wise, found.thread_safe) == (row_wise, thread_safe)
    assert spec.capabilities.row_wise >= found.row_wise
    assert spec.capabilities.thread_safe >= found.thread_safe


# ---- artifacts ----


def test_another_version_of_scikit_learn_is_one_warning_with_both(serve, iris, monkeypatch, caplog):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*iris)
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "1.3.2")
        data = pickle.dumps(model)
    file = "old.pkl"
    caplog.set_level(logging.WARNING)
    runtime = serve(model)  # makes the folder's first artifact, without a warning
    assert not caplog.records
    artifact = runtime._context.artifact.with_name(file)
    artifact.write_bytes(data)
    assert ask(load(artifact), iris[0][:1])[0].shape == (1,)
    (record,) = caplog.records
    assert "1.3.2" in record.getMessage()
    assert sklearn.__version__ in record.getMessage()


@pytest.mark.parametrize("found", [{"model": 1}, [1, 2], DBSCAN()], ids=["dict", "list", "DBSCAN"])
def test_what_cannot_predict_is_named(serve, found):
    with pytest.raises(ModelLoadError, match=f"holds '{type(found).__name__}'"):
        serve(found)


def test_an_estimator_that_is_not_fitted_fails_the_load(serve):
    with pytest.raises(ModelLoadError, match="not fitted"):
        serve(LogisticRegression())


def test_a_missing_module_is_named(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"cabsent_package.models\nModel\n.")
    with pytest.raises(ModelLoadError, match=r"the module 'absent_package'.*install"):
        load(tmp_path / "model.pkl")


def test_a_missing_class_is_named(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"c__main__\nMyTransformer\n.")
    with pytest.raises(ModelLoadError, match=r"MyTransformer.*installed module"):
        load(tmp_path / "model.pkl")


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"", "is empty"), (b"not a pickle", "is no whole"), (b"\x80\x04\x95", "is no whole")],
)
def test_a_file_that_is_no_pickle_fails_the_load(tmp_path, data, problem):
    (tmp_path / "model.joblib").write_bytes(data)
    with pytest.raises(ModelLoadError, match=f"'model.joblib' {problem}"):
        load(tmp_path / "model.joblib")


def test_a_folder_is_no_artifact(tmp_path):
    with pytest.raises(ModelLoadError, match=r"parameters\.uri"):
        load(tmp_path)


def test_artifacts_are_looked_for_in_mlservers_order():
    (spec,) = jackfield_runtimes()
    patterns = [each.pattern for each in spec.artifacts]
    assert patterns[:4] == ["model.skops", "model.joblib", "model.pickle", "model.pkl"]
    assert {each.pattern for each in spec.artifacts if not each.executes_code} == {
        "model.skops", "*.skops"
    }  # fmt: skip
    assert spec.aliases == (MLSERVER,)


def test_the_options_are_what_mlserver_has():
    extra = {"predict_fn": "transform"}
    assert msgspec.convert(extra, SklearnOptions).predict_fn == "transform"


# ---- without pandas ----


@pytest.fixture
def no_pandas(monkeypatch):
    class Absent:
        @staticmethod
        def find_spec(name, _path, _target=None):
            if name == "pandas":
                raise ModuleNotFoundError(name=name)

    monkeypatch.delitem(sys.modules, "pandas")
    monkeypatch.setattr(sys, "meta_path", [Absent, *sys.meta_path])


@pytest.mark.usefixtures("no_pandas")
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_without_pandas_a_model_of_dataframes_gets_its_columns_in_order(serve, wine_of_numbers):
    _, model = wine_of_numbers
    rows = load_wine().data[::20]
    runtime = serve(model)
    names = list(model.feature_names_in_)
    shuffled = {name: rows[:, names.index(name)] for name in reversed(names)}
    for sent in (rows, shuffled):
        assert np.array_equal(ask(runtime, sent)[0].array, model.predict(rows))


@pytest.mark.usefixtures("no_pandas")
def test_without_pandas_a_model_that_selects_by_name_says_what_to_install(serve, wine_pipeline):
    with pytest.raises(ModelLoadError, match=r'pip install "jackfield-sklearn\[pandas\]"'):
        serve(wine_pipeline)


# ---- skops ----


def test_a_skops_file_needs_no_trust_for_what_skops_knows(tmp_path, iris, classifier):
    skops.io.dump(classifier, tmp_path / "model.skops")
    runtime = load(tmp_path / "model.skops")
    assert runtime.metadata().platform == "sklearn_skops"
    assert np.array_equal(ask(runtime, iris[0])[0].array, classifier.predict(iris[0]))


def test_types_that_are_not_trusted_are_listed_and_the_settings_trust_them(tmp_path, iris):
    model = RandomForestClassifier(3, random_state=0).fit(*iris)
    skops.io.dump(model, tmp_path / "model.skops")
    with pytest.raises(ModelLoadError, match=r"sklearn\.tree\._tree\.Tree.*trusted_types"):
        load(tmp_path / "model.skops")
    with pytest.raises(ModelLoadError, match=r"sklearn\.tree\._tree\.Tree"):
        load(tmp_path / "model.skops", trusted_types=("os.system",))
    runtime = load(tmp_path / "model.skops", trusted_types=("sklearn.tree._tree.Tree",))
    assert np.array_equal(ask(runtime, iris[0])[0].array, model.predict(iris[0]))


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_truncated_skops_file_fails_the_load(tmp_path, classifier, part):
    skops.io.dump(classifier, tmp_path / "whole.skops")
    data = (tmp_path / "whole.skops").read_bytes()
    (tmp_path / "model.skops").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ModelLoadError, match="no whole file of skops"):
        load(tmp_path / "model.skops")


def test_a_skops_file_of_another_version_is_one_warning_with_both(
    tmp_path, classifier, monkeypatch, caplog
):
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "9.8.7")
        skops.io.dump(classifier, tmp_path / "model.skops")
    load(tmp_path / "model.skops")
    (record,) = caplog.records
    assert "9.8.7" in record.getMessage()
    assert sklearn.__version__ in record.getMessage()


# ---- artifacts of others, further settings ----


def test_a_file_of_another_framework_names_its_plugin(tmp_path):
    (tmp_path / "model.joblib").write_bytes(b"tree\nversion=v4\nnum_class=1\n")
    with pytest.raises(ModelLoadError, match=r"LightGBM.*jackfield\[lightgbm\]"):
        load(tmp_path / "model.joblib")


def test_a_pickle_that_needs_another_framework_names_its_plugin(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"cxgboost.absent\nXGBClassifier\n.")
    with pytest.raises(ModelLoadError, match=r"xgboost.*jackfield\[xgboost\]"):
        load(tmp_path / "model.pkl")


@pytest.mark.parametrize("name", ["fit", "set_params", "_more_tags", "absent", "coef_"])
def test_a_listed_method_that_may_not_serve_fails_the_load(serve, classifier, name):
    with pytest.raises(ModelLoadError, match=f"'parameters.extra.methods' is '{name}'"):
        serve(classifier, methods=(name,))


def test_the_way_back_can_be_asked_for_alone_only(serve, iris):
    runtime = serve(PCA(2).fit(iris[0]))
    with pytest.raises(InvalidRequestError, match="other columns"):
        ask(runtime, iris[0][:1], "transform", "inverse_transform")


def test_pools_have_one_thread_for_few_rows_and_the_models_share_for_many(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5000, 3))
    model = RandomForestClassifier(4, max_depth=2, random_state=0, n_jobs=-1)
    model.fit(rows, rows[:, 0] > 0)
    joblib.dump(model, tmp_path / "model.joblib")
    runtime = load(tmp_path / "model.joblib", threads=2)
    assert np.array_equal(ask(runtime, rows)[0].array, model.predict(rows))
    assert np.array_equal(ask(runtime, rows[:2])[0].array, model.predict(rows[:2]))


def test_a_pickle_that_calls_itself_skops_is_not_unpickled(tmp_path):
    mark = tmp_path / "ran"
    text = f"cos\nmkdir\n(V{mark}\ntR."
    (tmp_path / "model.skops").write_text(text)
    with pytest.raises(ModelLoadError, match="no whole file of skops"):
        load(tmp_path / "model.skops")
    assert not mark.exists()
    pickle.loads(text.encode())  # the same text, read as a pickle, does run
    assert mark.exists()
