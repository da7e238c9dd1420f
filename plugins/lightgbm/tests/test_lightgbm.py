"""What is special to LightGBM: labels, columns, parameters, artifacts, MLServer's ways."""

from __future__ import annotations

import json
import logging
import pickle
import re
import subprocess
import sys
import threading

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.preprocessing import StandardScaler

from jackfield import (
    Datatype,
    InferRequest,
    InvalidRequestError,
    ModelContext,
    ModelLoadError,
    ModelSettings,
    RequestedOutput,
    RequestError,
    Tensor,
)
from jackfield.client import Client
from jackfield_lightgbm import LightGBMOptions
from jackfield_lightgbm._runtime import LightGBMRuntime

MLSERVER = "mlserver_lightgbm.LightGBMModel"
QUIET = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "num_leaves": 8}


def load(artifact, *, implementation="lightgbm", threads=1, **options):
    runtime = LightGBMRuntime(
        ModelContext(
            name="model",
            version="",
            artifact=artifact,
            settings=ModelSettings(implementation=implementation),
            options=LightGBMOptions(**options),
            threads=threads,
            logger=logging.getLogger("jackfield.test"),
        )
    )
    runtime.load()
    return runtime


def ask(runtime, inputs, *outputs, **parameters):
    """Send arrays by name, or one array, and get the tensors of the answer."""
    named = inputs if isinstance(inputs, dict) else {"x": inputs}
    tensors = [Tensor.from_array(name, array) for name, array in named.items()]
    request = InferRequest(tensors, [RequestedOutput(name) for name in outputs], parameters)
    return list(runtime.infer(request).outputs)


def outputs_of(runtime):
    return {output.name: output for output in runtime.metadata().outputs}


@pytest.fixture
def serve_booster(tmp_path):
    """Train on an array or a DataFrame, save as text, load it as the core does."""

    def serve(data, label, *, rounds=3, file="model.txt", implementation="lightgbm", **parameters):
        options = {
            name: parameters.pop(name)
            for name in ("labels", "categorical_features")
            if name in parameters
        }
        train_set = lightgbm.Dataset(data, label)
        lightgbm.train(QUIET | parameters, train_set, rounds).save_model(tmp_path / file)
        return load(tmp_path / file, implementation=implementation, **options)

    return serve


# ---- tasks and labels ----


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("cancer.bst", "binary"), ("digits.model", "multiclass"), ("wine.txt", "multiclass"),
        ("houses.txt", "regression"), ("share.txt", "regression"), ("ranker.txt", "ranking"),
        ("own.txt", "custom"),
    ],
)  # fmt: skip
def test_the_task_is_read_off_the_objective(trained, name, task):
    assert load(trained[name].file).metadata().parameters["task"] == task


@pytest.mark.parametrize(
    ("labels", "datatype", "found"),
    [
        (["sick", "well"], Datatype.BYTES, {b"sick", b"well"}),
        ([7, 9], Datatype.INT64, {7, 9}),
        ([True, False], Datatype.BOOL, {True, False}),
        ([], Datatype.INT64, {0, 1}),
    ],
    ids=["text", "integers", "truth", "none"],
)
def test_a_boosters_labels_come_from_the_settings(trained, labels, datatype, found):
    model = trained["cancer.bst"]
    runtime = load(model.file, labels=labels)
    (tensor,) = ask(runtime, model.rows)
    assert tensor.datatype is datatype is outputs_of(runtime)["predict"].datatype
    assert set(tensor.array.tolist()) == found
    second = (labels or [0, 1])[1]
    told = outputs_of(runtime)["predict_proba"].parameters["classes"]
    assert told[1] == second
    is_second = trained["cancer.bst"].booster().predict(model.rows) > 0.5
    wanted = second.encode() if isinstance(second, str) else second
    assert [each == wanted for each in tensor.array.tolist()] == is_second.tolist()


@pytest.mark.parametrize("labels", [["one"], ["a", "b", "c"]])
def test_another_number_of_labels_fails_the_load(trained, labels):
    with pytest.raises(ModelLoadError, match=f"{len(labels)} labels.*2 classes"):
        load(trained["cancer.bst"].file, labels=labels)


def test_labels_for_a_regressor_fail_the_load(trained):
    with pytest.raises(ModelLoadError, match="'poisson'"):
        load(trained["houses.txt"].file, labels=["a", "b"])


def test_a_classifier_with_an_objective_of_its_own_gives_what_it_adds_up(tmp_path):
    rows, label = load_breast_cancer(return_X_y=True)
    model = lightgbm.LGBMClassifier(objective=squared, n_estimators=3, n_jobs=1, verbose=-1)
    joblib.dump(model.fit(rows, label), tmp_path / "model.joblib")
    runtime = load(tmp_path / "model.joblib")
    (found,) = ask(runtime, rows[:5])
    assert np.array_equal(found.array, model.booster_.predict(rows[:5]))
    assert "predict_proba" not in outputs_of(runtime)


def squared(label, found):
    return found - label, np.ones_like(found)


# ---- metadata ----


def test_the_metadata_tell_columns_categories_and_an_example(trained):
    metadata = load(trained["houses.txt"].file).metadata()
    told = {each.name: each for each in metadata.inputs}
    assert list(told) == ["area", "city", "floor", "garden", "rooms"]
    assert told["city"].datatype is Datatype.BYTES
    assert told["city"].parameters["categories"] == ["Bern", "Oslo", "Rome"]
    assert told["floor"].datatype is Datatype.INT64
    assert told["floor"].parameters["categories"] == [-1, 0, 1, 5]
    assert 20 <= told["area"].parameters["example"] <= 200
    assert metadata.parameters["categorical_features"] == ["city", "floor"]
    assert metadata.parameters["lightgbm_version"] == lightgbm.__version__
    assert "num_iteration" in metadata.parameters["request_parameters"]


def test_shap_values_add_up_to_the_raw_score_and_their_columns_are_told(trained):
    model = trained["houses.txt"]
    runtime = load(model.file)
    request = model.request(outputs=[RequestedOutput("contributions"), RequestedOutput("margin")])
    parts, raw = runtime.infer(request).outputs
    assert np.allclose(parts.array.sum(axis=1), raw.array)
    told = outputs_of(runtime)["contributions"].parameters["columns"]
    assert told == ["area", "city", "floor", "garden", "rooms", "expected value"]


# ---- columns ----


def test_columns_go_by_name_in_any_order_and_spaces_are_underscores(serve_booster):
    iris = load_iris(as_frame=True)
    runtime = serve_booster(iris.data, iris.target, objective="multiclass", num_class=3)
    rows = iris.data.to_numpy()[::30]
    columns = {name: rows[:, place] for place, name in enumerate(iris.data)}
    assert " " in next(iter(columns))
    (whole,) = ask(runtime, rows, "raw")
    (spaced,) = ask(runtime, dict(reversed(columns.items())), "raw")
    (underlined,) = ask(
        runtime, {name.replace(" ", "_"): array for name, array in columns.items()}, "raw"
    )
    assert np.array_equal(spaced.array, whole.array)
    assert np.array_equal(underlined.array, whole.array)


def test_a_missing_and_an_extra_column_are_named(trained):
    columns = {each.name: each.array for each in trained["houses.txt"].columns()}
    columns["postcode"] = columns.pop("rooms")
    with pytest.raises(InvalidRequestError, match=r"'rooms'.*'postcode'"):
        ask(load(trained["houses.txt"].file), columns)


def test_an_unknown_category_counts_as_missing_as_in_lightgbm(trained):
    model = trained["houses.txt"]
    rows = model.rows.assign(city=pd.Categorical(["Atlantis"] * len(model.rows)))
    runtime = load(model.file)
    texts = {"city": ["Atlantis"] * len(rows)}
    others = {name: rows[name].to_numpy() for name in rows if name != "city"}
    others["floor"] = np.array(rows["floor"].tolist())
    (found,) = ask(runtime, others | texts)
    assert np.array_equal(found.array, model.booster().predict(rows))


def test_categories_that_were_numbers_in_training_are_numbers_in_requests(serve_booster):
    draw = np.random.default_rng(0)
    rows = np.column_stack([draw.integers(0, 5, 300), draw.normal(size=300)]).astype(float)
    label = (rows[:, 0] == 3) + rows[:, 1]
    train = {"objective": "regression", "categorical_feature": [0], "min_data_per_group": 1}
    runtime = serve_booster(rows, label, **train)
    (found,) = ask(runtime, rows[:20])
    assert np.ptp(found.array) > 0
    assert runtime.metadata().parameters["categorical_features"] == ["Column_0"]
    assert [list(each.shape) for each in runtime.metadata().inputs] == [[-1, 2]]
    unknown, missing = rows[:1].copy(), rows[:1].copy()
    unknown[0, 0], missing[0, 0] = 99, np.nan
    (one,), (other,) = ask(runtime, unknown), ask(runtime, missing)
    assert np.array_equal(one.array, other.array)


ORDERED = pd.CategoricalDtype(["S", "M", "L"], ordered=True)


def shirts():
    draw = np.random.default_rng(1)
    size = pd.Series(draw.choice(["S", "M", "L"], 300)).astype(ORDERED)
    frame = pd.DataFrame(
        {"age": draw.uniform(0, 9, 300), "worn": draw.integers(0, 3, 300), "size": size}
    )
    return frame, frame["age"] + 5 * (size == "L") + frame["worn"]


def test_ordered_categories_are_found_where_only_one_column_fits(serve_booster):
    frame, label = shirts()
    runtime = serve_booster(frame.drop(columns="worn"), label, objective="regression")
    assert [each.name for each in runtime.metadata().inputs if each.parameters.get("categories")]
    (found,) = ask(runtime, {"age": frame["age"].to_numpy(), "size": frame["size"].tolist()})
    rows = np.column_stack([frame["age"], frame["size"].cat.codes]).astype(float)
    assert np.array_equal(found.array, ask(runtime, rows)[0].array)
    assert np.ptp(found.array) > 1


def test_where_the_file_leaves_the_columns_open_the_settings_name_them(serve_booster):
    frame, label = shirts()
    with pytest.raises(ModelLoadError, match=r"parameters\.extra\.categorical_features"):
        serve_booster(frame, label, objective="regression")
    runtime = serve_booster(frame, label, objective="regression", categorical_features=["size"])
    kinds = {each.name: each.datatype for each in runtime.metadata().inputs}
    assert kinds == {"age": Datatype.FP64, "worn": Datatype.FP64, "size": Datatype.BYTES}
    with pytest.raises(ModelLoadError, match="unknown are colour"):
        serve_booster(frame, label, objective="regression", categorical_features=["colour"])


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        (np.zeros((2, 29)), "inputs[0].shape"),
        (np.zeros(29), "inputs[0].shape"),
        ([["1.5"] * 30], "inputs[0].datatype"),
        ({f"x{place}": np.zeros(1) for place in range(29)}, "inputs"),
    ],
    ids=["narrow", "narrow row", "text", "columns"],
)
def test_rows_that_do_not_fit_are_refused(trained, inputs, field):
    with pytest.raises(InvalidRequestError) as caught:
        ask(load(trained["cancer.bst"].file), inputs)
    assert caught.value.field == field


def test_infinities_are_numbers_as_in_lightgbm(trained):
    model = trained["cancer.bst"]
    rows = model.rows.copy()
    rows[0, :] = np.inf
    rows[1, ::2] = -np.inf
    (found,) = ask(load(model.file), rows, "raw")
    assert np.array_equal(found.array, model.booster().predict(rows, raw_score=True))


def test_one_row_may_come_without_its_second_dimension(trained):
    model = trained["cancer.bst"]
    (found,) = ask(load(model.file), model.rows[0], "raw")
    assert np.array_equal(found.array, model.booster().predict(model.rows[:1], raw_score=True))


# ---- parameters of a request ----


@pytest.fixture(scope="module")
def cancer(trained):
    model = trained["cancer.bst"]
    return load(model.file, threads=2), model.booster()


@given(
    rows=st.integers(0, 40),
    dtype=st.sampled_from(["f4", "f8"]),
    asked=st.fixed_dictionaries(
        {},
        optional={
            "num_iteration": st.integers(-1, 20),
            "start_iteration": st.integers(0, 20),
            "pred_early_stop": st.booleans(),
            "pred_early_stop_freq": st.integers(1, 5),
            "pred_early_stop_margin": st.floats(0, 3),
        },
    ),
)
@settings(deadline=None, max_examples=60)
def test_any_rows_and_parameters_give_what_lightgbm_gives(trained, cancer, rows, dtype, asked):
    model = trained["cancer.bst"]
    runtime, booster = cancer
    data = np.random.default_rng(rows).choice(model.rows.ravel(), (rows, 30)).astype(dtype)
    names = ["raw", "predict_proba", "leaf", "contributions"]
    raw, proba, leaf, parts = (each.array for each in ask(runtime, data, *names, **asked))
    assert len(raw) == len(proba) == len(leaf) == len(parts) == rows
    if rows:
        assert np.array_equal(raw, booster.predict(data, raw_score=True, **asked))
        assert np.array_equal(proba[:, 1], booster.predict(data, **asked))
        assert np.array_equal(leaf, booster.predict(data, pred_leaf=True, **asked))
        assert np.array_equal(parts, booster.predict(data, pred_contrib=True, **asked))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_iteration", "many"), ("num_iteration", 1.5), ("start_iteration", -1),
        ("pred_early_stop", "yes"), ("pred_early_stop_freq", 0), ("pred_early_stop_margin", "wide"),
    ],
)  # fmt: skip
def test_a_parameter_of_the_wrong_kind_is_refused(trained, name, value):
    model = trained["cancer.bst"]
    with pytest.raises(InvalidRequestError) as caught:
        ask(load(model.file), model.rows, **{name: value})
    assert caught.value.field == f"parameters.{name}"


def test_the_best_iteration_that_training_noted_is_the_default(tmp_path):
    rows, label = load_breast_cancer(return_X_y=True)
    train_set = lightgbm.Dataset(rows[::2], label[::2])
    model = lightgbm.train(
        QUIET | {"objective": "binary"},
        train_set,
        60,
        valid_sets=[train_set.create_valid(rows[1::2], label[1::2])],
        callbacks=[lightgbm.early_stopping(2, verbose=False)],
        keep_training_booster=True,
    )
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    # what is saved has all trees, and the note
    assert 0 < model.best_iteration < model.num_trees()
    runtime = load(tmp_path / "model.pkl")
    for count in (3, 40):
        (found,) = ask(runtime, rows[:count], "raw")
        assert np.array_equal(found.array, model.predict(rows[:count], raw_score=True))
    (whole,) = ask(runtime, rows[:40], "raw", num_iteration=-1)
    assert not np.array_equal(whole.array, found.array)


def test_requests_of_other_iterations_at_the_same_time_get_their_own_trees(trained):
    """A booster notes the iterations in itself; one for all would mix them up."""
    model = trained["cancer.bst"]
    runtime, booster = load(model.file), model.booster()
    asked = [{}, {"num_iteration": 1}, {"num_iteration": 3}, {"start_iteration": 6}]
    rows = [model.rows[:1], model.rows]
    wanted = [[booster.predict(data, raw_score=True, **each) for data in rows] for each in asked]
    start = threading.Barrier(8)
    wrong = []

    def work(place):
        start.wait(10)
        for turn in range(150):
            found = ask(runtime, rows[turn % 2], "raw", **asked[place])[0].array
            if not np.array_equal(found, wanted[place][turn % 2]):
                wrong.append(asked[place])

    threads = [threading.Thread(target=work, args=(each % 4,)) for each in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- speed ----


@pytest.mark.parametrize("name", ["cancer.bst", "digits.model", "houses.txt", "linear.bst"])
def test_single_rows_go_the_quick_way_and_give_the_same_from_many_threads(trained, name):
    model = trained[name]
    runtime = load(model.file)
    assert runtime._predictor.is_fast
    wanted = model.booster().predict(model.rows, raw_score=True)
    request = model.request(outputs=[RequestedOutput("raw")])
    wrong = []

    def work(row):
        inputs = [
            Tensor(each.name, each.datatype, each.array[row : row + 1], each.parameters)
            for each in request.inputs
        ]
        for _ in range(50):
            found = runtime.infer(InferRequest(inputs, request.outputs)).outputs[0].array
            if not np.array_equal(found, wanted[row : row + 1]):
                wrong.append(row)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("broken", ["missing", "wrong"])
def test_without_the_quick_way_the_answers_are_the_same(trained, monkeypatch, caplog, broken):
    """Another version of LightGBM may have other private names, or mean others by them."""
    model = trained["cancer.bst"]
    caplog.set_level(logging.INFO)
    if broken == "missing":
        booster = lightgbm.Booster
        monkeypatch.setattr(booster, "__getattribute__", _without_handle)
    else:
        from jackfield_lightgbm import _predict

        call = _predict._Fast.__call__
        monkeypatch.setattr(_predict._Fast, "__call__", lambda self, data: call(self, data) + 1)
    runtime = load(model.file)
    assert not runtime._predictor.is_fast
    assert "single rows go by Booster.predict" in caplog.text
    monkeypatch.undo()
    (found,) = ask(runtime, model.rows[:1], "raw")
    assert np.array_equal(found.array, model.booster().predict(model.rows[:1], raw_score=True))


def _without_handle(self, name):
    if name == "_handle" and "_predict.py" in sys._getframe(1).f_code.co_filename:
        raise AttributeError(name)
    return object.__getattribute__(self, name)


# ---- MLServer ----


@pytest.mark.parametrize("name", ["cancer.bst", "digits.model", "houses.txt", "ranker.txt"])
def test_under_mlservers_name_predict_is_what_the_booster_gives(trained, name):
    model = trained[name]
    runtime = load(model.file, implementation=MLSERVER)
    found = runtime.infer(model.request()).outputs[0]
    right = model.booster().predict(model.rows)
    assert found.datatype is Datatype.FP64
    assert np.array_equal(found.array, right if right.ndim == 2 else right.reshape(-1, 1))
    told = outputs_of(runtime)["predict"]
    assert len(told.shape) == 2
    assert ("probabilities" in told.parameters.get("meaning", "")) == (
        name in ("cancer.bst", "digits.model")
    )


def test_mlservers_iris_example_is_served_with_its_settings_unchanged(tmp_path, serve):
    features, label = load_iris(return_X_y=True)
    train = {"objective": "multiclass", "metric": "softmax", "num_class": 3, "verbose": -1}
    booster = lightgbm.train(train, lightgbm.Dataset(features, label), 10)
    booster.save_model(tmp_path / "iris-lightgbm.bst")
    (tmp_path / "model-settings.json").write_text(
        """{
    "name": "iris-lgb",
    "implementation": "mlserver_lightgbm.LightGBMModel",
    "parameters": {
        "uri": "./iris-lightgbm.bst",
        "version": "v0.1.0"
    }
}"""
    )
    with Client(serve(tmp_path).http, form="json") as client:
        model = client.model("iris-lgb", "v0.1.0")
        request = InferRequest([Tensor.from_array("predict-prob", features[:1])])
        found = model.infer(request)
        assert list(found) == ["predict"]
        assert np.array_equal(found["predict"], booster.predict(features[:1]))
        unknown = InferRequest(request.inputs, [RequestedOutput("predict_probabilities")])
        with pytest.raises(RequestError, match="predict_proba"):
            model.infer(unknown)


# ---- artifacts ----


def text_of(trained, name="houses.txt"):
    return trained[name].file.read_text()


def test_a_file_with_windows_line_ends_is_read(trained, tmp_path):
    (tmp_path / "model.txt").write_bytes(text_of(trained).replace("\n", "\r\n").encode())
    model = trained["houses.txt"]
    found = load(tmp_path / "model.txt").infer(model.request()).outputs[0]
    assert np.array_equal(found.array, model.booster().predict(model.rows))


@given(part=st.floats(0.001, 0.999))
@settings(deadline=None, max_examples=60)
def test_a_truncated_file_never_serves(trained, tmp_path_factory, part):
    """LightGBM itself ends the process for most of these."""
    text = text_of(trained)
    file = tmp_path_factory.mktemp("cut") / "model.txt"
    # without the last line feed it is whole
    kept = text[: int((len(text) - 2) * part)]
    # LightGBM's command line writes no more
    assume(not kept.rstrip().endswith("\nend of parameters"))
    file.write_text(kept)
    with pytest.raises(ModelLoadError):
        load(file)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (r"left_child=\d+", "left_child=9999", "'left_child' has a number out of its range"),
        (r"left_child=\d+ \d+", "left_child=1 0", "'left_child' leads back"),
        (r"split_feature=\d+", "split_feature=77", "'split_feature' has a number out"),
        (r"split_feature=\d+", "split_feature=one", "something else than integers"),
        (r"leaf_value=\S+ ", "leaf_value=", "'leaf_value' has"),
        (r"threshold=\S+ ", "threshold=", "'threshold' has"),
        (r"\n(cat_boundaries=0) ", r"\n\1 5000 ", "'cat_boundaries' has"),
        (r"num_leaves=\d+", "num_leaves=0", "0 leaves"),
        (r"feature_names=\S+ ", "feature_names=", "'feature_names' has 4 entries, expected 5"),
        (r"Tree=1\n", "Tree=4\n", "not in order"),
        (r"num_tree_per_iteration=1", "num_tree_per_iteration=5", "same number for each class"),
        (r"version=v4\n", "version=v4\nx=\0\n", "zero bytes"),
        (r"threshold=\S+", "threshold=12..5", "'threshold' has something else than numbers"),
        (r"leaf_value=\S+", "leaf_value=12..5", "'leaf_value' has something else than numbers"),
        (r"objective=poisson", "objective=telepathy", "telepathy"),
    ],
)
def test_a_damaged_text_is_refused_and_the_damage_named(trained, tmp_path, old, new, problem):
    text, count = re.subn(old, new, text_of(trained), count=1)
    assert count
    (tmp_path / "model.txt").write_text(text)
    with pytest.raises(ModelLoadError, match=re.escape(problem)):
        load(tmp_path / "model.txt")


def test_a_newer_form_is_refused_and_both_versions_are_named(trained, tmp_path):
    (tmp_path / "model.txt").write_text(text_of(trained).replace("version=v4", "version=v9", 1))
    with pytest.raises(ModelLoadError) as caught:
        load(tmp_path / "model.txt")
    assert all(each in str(caught.value) for each in ("v9", "v4", lightgbm.__version__))


@pytest.mark.parametrize("text", ["", "hello\n", "1,2,3\n4,5,6\n", "treebeard\n"])
def test_a_text_that_is_no_model_is_refused(tmp_path, text):
    (tmp_path / "model.txt").write_text(text)
    with pytest.raises(ModelLoadError, match=r"is empty|is no model of LightGBM"):
        load(tmp_path / "model.txt")


def test_a_json_dump_is_refused(trained, tmp_path):
    dump = trained["houses.txt"].booster().dump_model()
    (tmp_path / "model.txt").write_text(json.dumps(dump))
    with pytest.raises(ModelLoadError, match="save_model"):
        load(tmp_path / "model.txt")


def test_another_frameworks_artifact_is_refused_and_its_plugin_named(tmp_path):
    joblib.dump(StandardScaler().fit([[0.0], [1.0]]), tmp_path / "model.joblib")
    with pytest.raises(ModelLoadError, match=r"jackfield\[sklearn\]"):
        load(tmp_path / "model.joblib")
    (tmp_path / "model.bst").write_text('{"learner": {"objective": {}}, "version": [3, 2, 0]}')
    with pytest.raises(ModelLoadError, match=r"jackfield\[xgboost\]"):
        load(tmp_path / "model.bst")


def test_a_pickle_under_another_name_is_not_unpickled(tmp_path):
    """The operator consents by the file's name."""
    mark = tmp_path / "ran"
    (tmp_path / "model.txt").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(ModelLoadError, match="runs code"):
        load(tmp_path / "model.txt")
    assert not mark.exists()


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return type(self.mark).touch, (self.mark,)


def test_pickled_boosters_are_read_and_other_objects_are_not(trained, tmp_path):
    model = trained["digits.model"]
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model.booster()))
    (found,) = ask(load(tmp_path / "model.pkl"), model.rows, "raw")
    assert np.array_equal(found.array, model.booster().predict(model.rows, raw_score=True))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"booster": 1}))
    with pytest.raises(ModelLoadError, match=r"holds 'builtins\.dict'"):
        load(tmp_path / "model.pkl")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(lightgbm.LGBMRegressor()))
    with pytest.raises(ModelLoadError, match="is not fitted"):
        load(tmp_path / "model.pkl")


def test_a_truncated_pickle_and_no_file_are_refused(trained, tmp_path):
    data = trained["dear.joblib"].file.read_bytes()
    (tmp_path / "model.joblib").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelLoadError, match="no whole file of joblib or pickle"):
        load(tmp_path / "model.joblib")
    with pytest.raises(ModelLoadError, match="no artifact"):
        load(tmp_path)


def test_a_checksum_mismatch_is_told_before_lightgbm_reads_a_byte(trained, tmp_path, serve):
    (tmp_path / "model.bst").write_bytes(trained["cancer.bst"].file.read_bytes()[:500])
    given = {"name": "m", "implementation": "lightgbm", "parameters": {"sha256": "0" * 64}}
    (tmp_path / "model-settings.json").write_text(json.dumps(given))
    with Client(serve(tmp_path).http) as client:
        (entry,) = client.index()
        assert "SHA-256" in entry.reason


# ---- what LightGBM says ----


def test_lightgbm_prints_nothing_on_standard_output(trained):
    """Its own logger does, where no other is registered."""
    code = """
import logging, sys
from pathlib import Path
import lightgbm, numpy
from jackfield import ModelContext, ModelSettings
from jackfield_lightgbm._runtime import LightGBMRuntime
logging.basicConfig(format="%(name)s %(levelname)s %(message)s", level=logging.INFO)
LightGBMRuntime(
    ModelContext(name="m", version="", artifact=Path(sys.argv[1]), settings=ModelSettings(),
                 options=None, logger=logging.getLogger("told"))
).load()
lightgbm.train({"num_threads": 1}, lightgbm.Dataset(numpy.zeros((9, 1)), numpy.zeros(9)), 1)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, trained["houses.txt"].file],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == ""
    assert "jackfield.model WARNING LightGBM: " in run.stderr
