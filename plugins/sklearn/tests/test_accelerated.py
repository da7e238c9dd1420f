"""The accelerated form: it answers what the estimator answers, or does not serve."""

from __future__ import annotations

import importlib.util
import logging

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from jackfield import (
    InferRequest,
    InvalidRequestError,
    ModelContext,
    ModelLoadError,
    ModelSettings,
    RequestedOutput,
    Tensor,
)
from jackfield_sklearn import SklearnOptions, _onnx
from jackfield_sklearn._runtime import SklearnRuntime

CANCER, IS_BENIGN = load_breast_cancer(return_X_y=True)
DIGITS, DIGIT = load_digits(return_X_y=True)
DIABETES, PROGRESS = load_diabetes(return_X_y=True)
TUMOUR = np.array(["malignant", "benign"])[IS_BENIGN]


@pytest.fixture
def serve(tmp_path):
    def serve(estimator, *, implementation="sklearn", threads=1, **options):
        joblib.dump(estimator, tmp_path / "model.joblib")
        runtime = SklearnRuntime(
            ModelContext(
                name="model",
                version="",
                artifact=tmp_path / "model.joblib",
                settings=ModelSettings(implementation=implementation),
                options=SklearnOptions(**options),
                threads=threads,
                logger=logging.getLogger("jackfield.test"),
            )
        )
        runtime.load()
        return runtime

    return serve


def ask(runtime, rows, *outputs):
    named = rows if isinstance(rows, dict) else {"x": rows}
    tensors = [Tensor.from_array(name, array) for name, array in named.items()]
    found = runtime.infer(InferRequest(tensors, [RequestedOutput(each) for each in outputs]))
    return [each.array for each in found.outputs]


def report(runtime):
    return runtime.metadata().parameters


def texts(array):
    return [each.decode() for each in array.tolist()]


CLASSIFIERS = [
    (RandomForestClassifier(100, random_state=0, n_jobs=-1), DIGITS, DIGIT),
    (RandomForestClassifier(10, random_state=0), CANCER, TUMOUR),
    (make_pipeline(StandardScaler(), RandomForestClassifier(10, random_state=0)), CANCER, TUMOUR),
    (DecisionTreeClassifier(random_state=0), CANCER, IS_BENIGN.astype(bool)),
    (GradientBoostingClassifier(n_estimators=10, random_state=0), DIGITS, DIGIT),
    (GradientBoostingClassifier(n_estimators=10, random_state=0), CANCER, TUMOUR),
    (HistGradientBoostingClassifier(max_iter=5, random_state=0), DIGITS, DIGIT),
    (HistGradientBoostingClassifier(max_iter=5, random_state=0), CANCER, IS_BENIGN),
    (make_pipeline(StandardScaler(), LogisticRegression()), CANCER, TUMOUR),
    (CalibratedClassifierCV(RandomForestClassifier(5, random_state=0), cv=2), CANCER, IS_BENIGN),
    (BaggingClassifier(n_estimators=3, random_state=0), CANCER, IS_BENIGN),
]
REGRESSORS = [
    RandomForestRegressor(10, random_state=0),
    ExtraTreesRegressor(10, random_state=0),
    GradientBoostingRegressor(n_estimators=10, random_state=0),
    HistGradientBoostingRegressor(max_iter=5, random_state=0),
    HistGradientBoostingRegressor(max_iter=5, loss="poisson", random_state=0),
    Ridge(),
]


@pytest.mark.parametrize(
    ("model", "rows", "labels"), CLASSIFIERS, ids=lambda each: type(each).__name__
)
def test_a_classifier_is_accelerated_and_equal(serve, model, rows, labels):
    model.fit(rows[::2], labels[::2])
    runtime = serve(model)
    assert report(runtime)["accelerated"] == "onnx", report(runtime)
    assert report(runtime)["compared_rows"] > 400
    assert report(runtime)["largest_difference"] <= report(runtime)["tolerance"] == 1e-9
    assert runtime.capabilities.releases_gil
    assert runtime.capabilities.thread_safe
    for sent in (rows, rows[:1], rows.astype("f4"), rows.astype("i8")):
        label, chances = ask(runtime, sent, "predict", "predict_proba")
        right = model.predict(sent)
        if right.dtype.kind in "UO":
            assert texts(label) == right.tolist()
        else:
            assert label.dtype == right.dtype
            assert np.array_equal(label, right)
        right = model.predict_proba(sent)
        assert chances.dtype == right.dtype
        assert np.abs(chances - right).max() <= 1e-9


@pytest.mark.parametrize("model", REGRESSORS, ids=lambda each: type(each).__name__)
def test_a_regressor_is_accelerated_and_equal(serve, model):
    model.fit(DIABETES, PROGRESS)
    runtime = serve(model, implementation="mlserver_sklearn.SKLearnModel")
    assert report(runtime)["accelerated"] == "onnx", report(runtime)
    (found,) = ask(runtime, DIABETES)
    assert found.shape == (len(DIABETES), 1)
    assert np.allclose(found[:, 0], model.predict(DIABETES), rtol=1e-9, atol=0)


def test_tied_votes_of_a_forest_go_to_the_same_class(serve):
    # 49 does not divide 1: votes that are divided before they are added tie no more
    rows = np.random.default_rng(0).normal(size=(200, 2))
    labels = np.random.default_rng(1).integers(0, 2, 200)
    model = RandomForestClassifier(98, max_features=1, random_state=0).fit(rows, labels)
    grid = np.stack(np.meshgrid(*[np.linspace(-3, 3, 150)] * 2), axis=-1).reshape(-1, 2)
    chances = model.predict_proba(grid)
    assert (chances[:, 0] == chances[:, 1]).sum() > 10
    found, probabilities = ask(serve(model), grid, "predict", "predict_proba")
    assert np.array_equal(found, model.predict(grid))
    assert np.array_equal(probabilities, chances)


FOREST = RandomForestClassifier(10, random_state=0).fit(CANCER, IS_BENIGN)
HISTOGRAM = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(CANCER, IS_BENIGN)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    found = {}
    for model in (FOREST, HISTOGRAM):
        file = tmp_path_factory.mktemp("model") / "model.joblib"
        joblib.dump(model, file)
        runtime = SklearnRuntime(
            ModelContext(
                name="model",
                version="",
                artifact=file,
                settings=ModelSettings(implementation="sklearn"),
                options=SklearnOptions(),
                logger=logging.getLogger("jackfield.test"),
            )
        )
        runtime.load()
        found[id(model)] = runtime
    return found


@pytest.mark.parametrize("model", [FOREST, HISTOGRAM], ids=["float32", "float64"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(-2, 2), single=st.booleans())
def test_rows_at_thresholds_end_in_the_same_leaf(loaded, model, seed, steps, single):
    random = np.random.default_rng(seed)
    rows = random.choice(CANCER.ravel(), size=(20, CANCER.shape[1]))
    if model is FOREST:
        tree = model.estimators_[seed % 10].tree_
        thresholds, features = tree.threshold, tree.feature
    else:
        nodes = model._predictors[seed % 5][0].nodes
        thresholds, features = nodes["num_threshold"], nodes["feature_idx"].astype(int)
    for row in rows:
        place = random.integers(len(thresholds))
        value = np.float32(thresholds[place]) if single else thresholds[place]
        for _ in range(abs(steps)):
            value = np.nextafter(value, type(value)(np.sign(steps) * np.inf))
        row[max(features[place], 0)] = value
    found, chances = ask(loaded[id(model)], rows, "predict", "predict_proba")
    assert np.array_equal(found, model.predict(rows))
    assert np.abs(chances - model.predict_proba(rows)).max() <= 1e-9


def test_a_pipeline_of_texts_and_numbers_is_accelerated(serve):
    wine = load_wine(as_frame=True)
    frame = wine.data.assign(tone=np.where(wine.data["hue"] > 1, "warm", "cool"))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer(
        (numbers, list(wine.data)), (OneHotEncoder(handle_unknown="ignore"), ["tone"])
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(frame, wine.target)
    runtime = serve(model)
    assert report(runtime)["accelerated"] == "onnx", report(runtime)
    odd = frame.copy()
    odd.loc[3, "alcohol"] = np.nan
    odd.loc[5, "tone"] = "pink"
    for sent in (frame, odd):  # what is missing or unknown is answered by the estimator
        named = {name: sent[name].to_numpy(dtype=None) for name in reversed(list(sent))}
        label, chances = ask(runtime, named, "predict", "predict_proba")
        assert np.array_equal(label, model.predict(sent))
        assert np.abs(chances - model.predict_proba(sent)).max() <= 1e-9


def test_predict_fn_stays_the_default(serve):
    model = LogisticRegression(max_iter=5000).fit(CANCER, IS_BENIGN)
    runtime = serve(model, predict_fn="predict_proba")
    assert report(runtime)["accelerated"] == "onnx"
    (found,) = ask(runtime, CANCER[:3])
    assert np.allclose(found, model.predict_proba(CANCER[:3]), rtol=0, atol=1e-9)


def test_other_outputs_are_the_estimators_own(serve):
    model = LogisticRegression(max_iter=5000).fit(CANCER, IS_BENIGN)
    label, raw = ask(serve(model), CANCER, "predict", "raw")
    assert np.array_equal(raw, model.decision_function(CANCER))
    assert np.array_equal(label, model.predict(CANCER))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 1e39, 1e300])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # scikit-learn's own
def test_what_the_estimator_refuses_is_refused_in_its_words(serve, bad):
    runtime = serve(RandomForestClassifier(5, random_state=0).fit(DIGITS, DIGIT))
    rows = DIGITS[:2].copy()
    rows[1, 3] = bad
    with pytest.raises(InvalidRequestError, match="Input X contains"):
        ask(runtime, rows)
    with pytest.raises(InvalidRequestError, match="0 sample"):
        ask(runtime, np.zeros((0, 64)))
    with pytest.raises(InvalidRequestError, match="rows of 64 features"):
        ask(runtime, np.zeros((1, 63)))


def test_a_forest_trained_with_missing_values_answers_them(serve):
    rows = CANCER.copy()
    rows[::3, 4] = np.nan
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(rows, IS_BENIGN)
    runtime = serve(model)
    assert report(runtime)["accelerated"] == "onnx"
    assert report(runtime)["allows_missing"] is True
    assert np.array_equal(ask(runtime, rows)[0], model.predict(rows))


def test_off_converts_nothing(serve):
    runtime = serve(RandomForestClassifier(5).fit(CANCER, IS_BENIGN), accelerate="off")
    assert "accelerated" not in report(runtime)
    assert not runtime.capabilities.releases_gil


def test_what_cannot_be_converted_serves_itself_and_says_why(serve, caplog):
    caplog.set_level(logging.INFO)
    model = AdaBoostClassifier(n_estimators=3, random_state=0).fit(CANCER, IS_BENIGN)
    runtime = serve(model, accelerate="onnx")
    assert report(runtime)["accelerated"] == "off"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert report(runtime)["not_accelerated"] in record.getMessage()
    assert np.array_equal(ask(runtime, CANCER)[0], model.predict(CANCER))


class Wrong:
    """Computes what the converted form does, with one label flipped."""

    def __init__(self, form):
        self._form = form

    def __getattr__(self, name):
        return getattr(self._form, name)

    def compute(self, rows):
        label, *others = self._form.compute(rows)
        label = label.copy()
        label[-1] = 1 - label[-1]
        return [label, *others]


def test_a_form_that_answers_one_label_otherwise_does_not_serve(serve, monkeypatch):
    convert = _onnx.convert

    def convert_wrongly(*facts):
        form, seconds = convert(*facts)
        return Wrong(form), seconds

    monkeypatch.setattr(_onnx, "convert", convert_wrongly)
    model = LogisticRegression(max_iter=5000).fit(CANCER, IS_BENIGN)
    runtime = serve(model)
    assert report(runtime)["not_accelerated"].startswith("'predict' differs in 1 of")
    assert np.array_equal(ask(runtime, CANCER)[0], model.predict(CANCER))


def test_a_forest_of_too_many_nodes_is_not_converted(serve, monkeypatch):
    monkeypatch.setattr(_onnx, "MOST_NODES", 100)
    runtime = serve(RandomForestClassifier(5, random_state=0).fit(CANCER, IS_BENIGN))
    assert "nodes, more than 100" in report(runtime)["not_accelerated"]


@pytest.mark.parametrize("file", ["samples.npy", "samples.json"])
def test_stored_samples_are_compared_too(serve, tmp_path, file):
    if file.endswith("npy"):
        np.save(tmp_path / file, CANCER)
    else:
        (tmp_path / file).write_text(f'{{"data": {CANCER.tolist()}}}')
    model = LogisticRegression(max_iter=5000).fit(CANCER, IS_BENIGN)
    assert report(serve(model, samples=file))["compared_stored_rows"] == len(CANCER)


@pytest.mark.parametrize("text", ["[[1, 2]]", "no json", '{"rows": []}'])
def test_samples_that_do_not_fit_fail_the_load(serve, tmp_path, text):
    (tmp_path / "samples.json").write_text(text)
    model = LogisticRegression(max_iter=5000).fit(CANCER, IS_BENIGN)
    with pytest.raises(ModelLoadError, match=r"the samples in 'samples.json'"):
        serve(model, samples="samples.json")


def test_without_onnx_runtime_the_estimator_serves(serve, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "onnxruntime" else find(name, *more),
    )
    model = LogisticRegression(max_iter=5000).fit(CANCER, IS_BENIGN)
    runtime = serve(model)
    assert "jackfield-sklearn[onnx]" in report(runtime)["not_accelerated"]
    assert np.array_equal(ask(runtime, CANCER)[0], model.predict(CANCER))
