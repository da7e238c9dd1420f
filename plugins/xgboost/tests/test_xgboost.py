"""What is special to XGBoost: tasks, labels, iterations, categories, artifacts, refusals."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from plugins.xgboost.tests.conftest import MLSERVER, ask, load, outputs_of, tensors_of

from jackfield import Datatype, InferRequest, InvalidRequestError, ModelLoadError, Server

RELEASE = tuple(int(each) for each in xgboost.__version__.split(".")[:2])
stores_categories = pytest.mark.skipif(RELEASE < (3, 1), reason="stored since XGBoost 3.1")


# ---- outputs and tasks ----


def test_a_native_classifier_answers_labels_and_tells_what_it_is(serve, cancer):
    runtime = serve(cancer.booster, file="model.json", labels=["bad", "good"])
    rows = cancer.features.to_numpy()[:40]
    proba = cancer.booster.predict(xgboost.DMatrix(cancer.features[:40]))
    found = ask(runtime, rows, "predict", "predict_proba")
    assert found["predict"].tolist() == [b"good" if each > 0.5 else b"bad" for each in proba]
    assert np.array_equal(found["predict_proba"], np.stack([1 - proba, proba], axis=1))
    told = runtime.metadata()
    assert told.platform == "xgboost_json"
    assert told.parameters["task"] == "classification"
    assert told.parameters["objective"] == "binary:logistic"
    assert told.inputs[0].parameters["columns"] == list(cancer.features)
    assert (told.inputs[0].datatype, list(told.inputs[0].shape)) == (Datatype.FP32, [-1, 30])
    assert outputs_of(runtime)["predict_proba"].parameters["classes"] == ["bad", "good"]


def test_labels_of_the_artifact_are_used_and_the_settings_go_before_them(serve, iris):
    booster = iris.booster.copy()
    booster.set_attr(labels=json.dumps(["a", "b", "c"]))
    assert ask(serve(booster), iris.features[:1])["predict"].tolist() == [b"a"]
    assert ask(serve(booster, labels=[7, 8, 9]), iris.features[:1])["predict"].tolist() == [7]
    assert ask(serve(iris.booster), iris.features[:1])["predict"].tolist() == [0]


def test_labels_that_do_not_fit_are_refused(serve, iris, diabetes):
    with pytest.raises(ModelLoadError, match="expected 3 labels"):
        serve(iris.booster, labels=["a", "b"])
    with pytest.raises(ModelLoadError, match="reg:squarederror"):
        serve(diabetes.booster, labels=["a", "b"])


@pytest.mark.parametrize(
    "objective", ["multi:softmax", "multi:softprob", "binary:logitraw", "binary:hinge"]
)
def test_each_objective_of_classes_answers_the_label_that_its_raw_values_mean(
    serve, iris, objective
):
    is_multi = objective.startswith("multi")
    target = iris.matrix.get_label() if is_multi else iris.matrix.get_label() > 0
    parameters = {"objective": objective, **({"num_class": 3} if is_multi else {})}
    booster = xgboost.train(parameters, xgboost.DMatrix(iris.features, target), 3)
    found = ask(serve(booster), iris.features, "predict", "raw")
    raw = booster.predict(xgboost.DMatrix(iris.features), output_margin=True)
    assert np.array_equal(found["raw"], raw)
    meant = raw.argmax(axis=1) if is_multi else (raw > 0).astype(int)
    assert np.array_equal(found["predict"], meant)
    if objective == "multi:softmax":
        wrapper = xgboost.XGBClassifier(n_estimators=3, objective=objective).fit(
            iris.features, target
        )
        served = serve(wrapper)
        expected = wrapper.predict_proba(iris.features)
        proba = ask(served, iris.features, "predict_proba")["predict_proba"]
        assert np.array_equal(proba, expected)


def test_several_targets_and_several_labels_keep_their_columns(serve, diabetes):
    features = diabetes.features
    both = np.stack([features[:, 0], features[:, 1]], axis=1)
    regressor = xgboost.train({}, xgboost.DMatrix(features, both), 3)
    found = ask(serve(regressor), features[:4], "predict", "contributions", "interactions")
    assert found["predict"].shape == (4, 2)
    assert found["contributions"].shape == (4, 2, 11)
    assert found["interactions"].shape == (4, 2, 11, 11)
    labels = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(features, both > 0), 3)
    found = ask(serve(labels), features[:4], "predict", "predict_proba")
    assert np.array_equal(found["predict"], found["predict_proba"] > 0.5)
    if RELEASE < (3, 1):
        return
    vector = {"multi_strategy": "multi_output_tree", "tree_method": "hist"}
    trees = serve(xgboost.train(vector, xgboost.DMatrix(features, both), 3))
    assert "contributions" not in outputs_of(trees)
    assert ask(trees, features[:4], "leaf")["leaf"].shape == (4, 3)


def test_contributions_add_up_to_the_raw_values(serve, cancer):
    rows = cancer.features.to_numpy()[:30]
    found = ask(serve(cancer.booster), rows, "raw", "contributions", "interactions")
    assert np.allclose(found["contributions"].sum(axis=1), found["raw"], atol=1e-4)
    sums = found["interactions"].sum(axis=2)
    assert np.allclose(sums, found["contributions"], atol=1e-4)


@pytest.mark.parametrize("kind", ["gblinear", "dart"])
def test_other_boosters_answer_as_xgboost_does(serve, diabetes, kind):
    booster = xgboost.train({"booster": kind, "nthread": 1}, diabetes.matrix, 5)
    runtime = serve(booster)
    rows = diabetes.features[:20]
    # in place, dart adds up in another order than on a DMatrix
    is_tree = kind == "dart"
    expected = booster.inplace_predict(rows) if is_tree else booster.predict(xgboost.DMatrix(rows))
    assert np.array_equal(ask(runtime, rows)["predict"], expected)
    assert ("leaf" in outputs_of(runtime)) == is_tree
    assert runtime.capabilities.thread_safe == is_tree


# ---- iterations ----


def test_iterations_of_a_request_are_used_and_checked(serve, diabetes):
    runtime = serve(diabetes.booster)
    rows = diabetes.features[:5]
    expected = diabetes.booster.predict(xgboost.DMatrix(rows), iteration_range=(1, 3))
    assert np.array_equal(ask(runtime, rows, iteration_range=[1, 3])["predict"], expected)
    assert np.array_equal(ask(runtime, rows, iteration_range="[1, 3]")["predict"], expected)
    assert ask(runtime, rows, "leaf", iteration_range=[0, 3])["leaf"].shape == (5, 3)
    for wrong in ([3, 1], [0, 9], [-1, 2], [5, 5], [8, 0], "all", [1], 4):
        with pytest.raises(InvalidRequestError) as caught:
            ask(runtime, rows, iteration_range=wrong)
        assert caught.value.field.startswith("parameters.iteration_range")
    with pytest.raises(InvalidRequestError, match="leaves"):
        ask(runtime, rows, "leaf", iteration_range=[1, 3])


def test_the_best_iteration_ends_the_default_range_as_in_the_wrappers(serve, diabetes):
    target = diabetes.matrix.get_label()
    model = xgboost.XGBRegressor(n_estimators=60, early_stopping_rounds=2, learning_rate=0.9)
    model.fit(
        diabetes.features[:300],
        target[:300],
        eval_set=[(diabetes.features[300:], target[300:])],
        verbose=False,
    )
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    runtime = serve(model)
    rows = diabetes.features[:9]
    assert np.array_equal(ask(runtime, rows)["predict"], model.predict(rows))
    assert runtime.metadata().parameters["best_iteration"] == model.best_iteration
    every = ask(runtime, rows, iteration_range=[0, 0])["predict"]
    assert np.array_equal(every, model.get_booster().inplace_predict(rows))


# ---- inputs ----


@stores_categories
def test_categories_are_read_from_the_model_and_columns_come_in_any_order(serve, homes):
    runtime = serve(homes.booster)
    told = {each.name: each for each in runtime.metadata().inputs}
    assert told["city"].datatype is Datatype.BYTES
    assert sorted(told["city"].parameters["categories"]) == ["Bergen", "Oslo", "Rome"]
    assert sorted(told["floor"].parameters["categories"]) == [1, 3, 5]
    assert told["lift"].datatype is Datatype.BOOL
    assert told["rooms"].datatype is Datatype.INT64
    with pytest.raises(ModelLoadError, match="stores other categories"):
        serve(homes.booster, categories={"floor": [5, 3, 1]})
    frame = homes.features[:50]
    expected = homes.booster.inplace_predict(frame)
    answer = runtime.infer(InferRequest(tensors_of(frame)[::-1]))
    assert np.array_equal(answer.arrays["predict"], expected)


def test_categories_of_the_settings_serve_a_model_that_has_codes_alone(serve):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, (300, 1)).astype(np.float32)
    types = {"feature_names": ["city"], "feature_types": ["c"]}
    matrix = xgboost.DMatrix(codes, codes[:, 0] == 1, enable_categorical=True, **types)
    booster = xgboost.train({"tree_method": "hist", "max_cat_to_onehot": 1}, matrix, 3)
    expected = booster.inplace_predict(np.array([[1], [0]], np.float32))
    by_code = ask(serve(booster), {"city": np.array([1, 0])})["predict"]
    cities = ["Oslo", "Rome", "Bergen"]
    named = serve(booster, categories={"city": cities})
    by_name = ask(named, {"city": np.array([b"Rome", b"Oslo"], object)})["predict"]
    assert np.array_equal(by_code, expected)
    assert np.array_equal(by_name, expected)
    assert expected[0] != expected[1]
    strict = serve(booster, categories={"city": cities}, unknown_category="refuse")
    with pytest.raises(InvalidRequestError, match="Oslo"):
        ask(strict, {"city": np.array([b"Paris"], object)})
    with pytest.raises(ModelLoadError, match="town"):
        serve(booster, categories={"town": cities})


@stores_categories
def test_categories_that_xgboost_cuts_are_codes_until_the_settings_list_them(serve, caplog):
    names = ["Århus", "Øre", "zz"]
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"city": pd.Categorical(rng.choice(names, 200), names)})
    matrix = xgboost.DMatrix(frame, frame["city"].cat.codes == 0, enable_categorical=True)
    booster = xgboost.train({}, matrix, 2)
    expected = booster.inplace_predict(np.array([[0], [1]], np.float32))
    codes = serve(booster)
    assert "'city'" in caplog.text
    assert np.array_equal(ask(codes, {"city": np.array([0, 1])})["predict"], expected)
    named = serve(booster, categories={"city": names})
    sent = np.array([each.encode() for each in names[:2]], object)
    assert np.array_equal(ask(named, {"city": sent})["predict"], expected)


def test_a_number_can_stand_for_missing(serve, cancer):
    rows = cancer.features.to_numpy()[:30]
    marked = np.where(np.isnan(rows), np.float32(-999), rows)
    runtime = serve(cancer.booster, missing=-999.0)
    for output in ("raw", "contributions"):
        expected = ask(serve(cancer.booster), rows, output)[output]
        assert np.array_equal(ask(runtime, marked, output)[output], expected)


def test_requests_that_do_not_fit_are_refused_with_what_is_wrong(serve, cancer, iris):
    runtime = serve(iris.booster)
    with pytest.raises(InvalidRequestError, match="4"):
        ask(runtime, np.zeros((1, 3), np.float32))
    with pytest.raises(InvalidRequestError, match="numeric"):
        ask(runtime, np.array([[b"a", b"b", b"c", b"d"]], object))
    with pytest.raises(InvalidRequestError, match="predict_proba"):
        ask(runtime, iris.features[:1], "probabilities")
    with pytest.raises(InvalidRequestError, match="float32"):
        ask(runtime, np.array([[1e300, 0, 0, 0]]))
    infinite = iris.features[:2].copy()
    infinite[1, 2] = np.inf
    assert ask(runtime, infinite)["predict"].shape == (2,)
    with pytest.raises(InvalidRequestError, match="row 1, column 2"):
        ask(runtime, infinite, "contributions")
    named = serve(cancer.booster, file="named.ubj")
    columns = {name: np.zeros(1) for name in cancer.features}
    del columns["mean area"]
    with pytest.raises(InvalidRequestError, match="mean area"):
        ask(named, columns)


def test_a_view_that_begins_anywhere_in_a_message_is_read(serve, iris):
    body = b"x" + iris.features[:3].tobytes()
    rows = np.frombuffer(body, "u1")[1:].view(np.float32).reshape(3, 4)
    assert not rows.flags.aligned
    runtime = serve(iris.booster)
    for output in ("raw", "leaf"):
        expected = ask(runtime, iris.features[:3].copy(), output)[output]
        assert np.array_equal(ask(runtime, rows, output)[output], expected)


@given(rows=st.integers(0, 300), threads=st.integers(1, 4))
@settings(max_examples=12, deadline=None)
def test_rows_divided_among_threads_get_the_answers_of_one(rows, threads, cancer, tmp_path_factory):
    file = tmp_path_factory.mktemp("divided") / "model.ubj"
    cancer.booster.save_model(file)
    runtime = load(file, threads=threads)
    try:
        data = cancer.features.to_numpy()
        data = np.tile(data, (30, 1))[: 50 * rows]
        expected = cancer.booster.inplace_predict(data) if rows else np.empty(0, np.float32)
        assert np.array_equal(ask(runtime, data, "predict_proba")["predict_proba"][:, 1], expected)
        leaf = ask(runtime, data[:rows], "leaf")["leaf"]
        assert leaf.shape == (rows, 8 if rows else 0)
        if rows:
            expected = cancer.booster.predict(
                xgboost.DMatrix(cancer.features[:rows])
                if rows <= len(cancer.features)
                else xgboost.DMatrix(data[:rows]),
                pred_leaf=True,
                validate_features=False,
            )
            assert np.array_equal(leaf, expected.reshape(rows, -1))
    finally:
        runtime.close()


# ---- MLServer ----


def test_under_mlservers_name_predict_is_what_mlserver_answers(serve, iris, cancer, diabetes):
    named = {"implementation": MLSERVER, "file": "model.json"}
    rows = cancer.features.to_numpy()[:5]
    expected = cancer.booster.inplace_predict(rows)
    native = serve(cancer.booster, **named)
    assert np.array_equal(ask(native, rows)["predict"], expected.reshape(-1, 1))
    assert outputs_of(native)["predict"].parameters["values"] == "probabilities"
    assert list(outputs_of(native)["predict"].shape) == [-1, 1]
    multi = ask(serve(iris.booster, **named), iris.features[:5])["predict"]
    assert np.array_equal(multi, iris.booster.inplace_predict(iris.features[:5]))
    target = iris.matrix.get_label().astype(int)
    for objective, classes in (
        ("binary:logistic", 2),
        ("binary:logitraw", 2),
        ("binary:hinge", 2),
        ("multi:softprob", 3),
        ("multi:softmax", 3),
    ):
        model = xgboost.XGBClassifier(n_estimators=3, objective=objective)
        model.fit(iris.features, target if classes == 3 else target > 0)
        found = ask(serve(model, **named), iris.features, "predict", "predict_proba")
        predicted = model.predict(iris.features)
        assert found["predict"].dtype == predicted.dtype
        assert np.array_equal(found["predict"], predicted.reshape(-1, 1))
        assert np.array_equal(found["predict_proba"], model.predict_proba(iris.features))
    both = np.stack([target > 0, target > 1], axis=1).astype(int)
    labels = xgboost.XGBClassifier(n_estimators=3).fit(iris.features, both)
    found = ask(serve(labels, **named), iris.features)["predict"]
    assert found.dtype == labels.predict(iris.features).dtype
    assert np.array_equal(found, labels.predict(iris.features))
    regressor = ask(serve(diabetes.booster, **named), diabetes.features[:3])["predict"]
    assert regressor.shape == (3, 1)
    assert regressor.dtype == np.float32


# ---- artifacts ----


def test_names_and_contents_need_not_agree(tmp_path, iris):
    expected = iris.booster.inplace_predict(iris.features[:5])
    for name in ("model.bst", "model.json", "model.ubj", "model.deprecated"):
        for form in ("json", "ubj"):
            (tmp_path / name).write_bytes(iris.booster.save_raw(form))
            runtime = load(tmp_path / name)
            found = ask(runtime, iris.features[:5], "predict_proba")["predict_proba"]
            assert np.array_equal(found, expected)
            assert runtime.metadata().platform == f"xgboost_{form}"
            told = runtime.metadata().parameters
            assert told["saved_by_version"] == xgboost.__version__


@pytest.mark.parametrize("dump", ["pickle", "joblib", "compressed"])
def test_pickled_wrappers_and_boosters_are_served(tmp_path, iris, dump):
    joblib = pytest.importorskip("joblib")
    target = iris.matrix.get_label().astype(int)
    for model in (
        iris.booster,
        xgboost.XGBClassifier(n_estimators=3).fit(iris.features, target),
        xgboost.XGBRFClassifier(n_estimators=3).fit(iris.features, target),
    ):
        file = tmp_path / "model.pkl"
        if dump == "pickle":
            file.write_bytes(pickle.dumps(model))
        else:
            joblib.dump(model, file, compress=3 if dump == "compressed" else 0)
        found = ask(load(file), iris.features[:5], "predict_proba")["predict_proba"]
        booster = model if model is iris.booster else model.get_booster()
        assert np.array_equal(found, booster.inplace_predict(iris.features[:5]))


def test_pickles_that_hold_no_fitted_model_are_refused(tmp_path):
    sklearn = pytest.importorskip("sklearn.linear_model")
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(sklearn.LinearRegression()))
    with pytest.raises(ModelLoadError, match="jackfield\\[sklearn\\]"):
        load(file)
    file.write_bytes(pickle.dumps({"model": 1}))
    with pytest.raises(ModelLoadError, match="no model of XGBoost"):
        load(file)
    file.write_bytes(pickle.dumps(xgboost.XGBClassifier()))
    with pytest.raises(ModelLoadError, match="not fitted"):
        load(file)


@pytest.mark.parametrize("form", ["json", "ubj"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, homes, form):
    whole = bytes(homes.booster.save_raw(form))
    file = tmp_path / f"model.{form}"
    for kept in [*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1]:
        file.write_bytes(whole[:kept])
        with pytest.raises(ModelLoadError):
            load(file)


@pytest.mark.parametrize("form", ["json", "ubj"])
def test_a_file_of_a_newer_release_is_refused_and_both_versions_are_named(tmp_path, iris, form):
    whole = bytes(iris.booster.save_raw(form))
    major, minor = RELEASE
    if form == "json":
        here = f'"version":[{major},{minor}'.encode()
        newer = f'"version":[{major},{minor + 1}'.encode()
        assert here in whole
        changed = whole.replace(here, newer)
    else:
        at = whole.rindex(b"version") + len(b"version")
        place = whole.index(bytes([major, ord("i"), minor]), at) + 2
        changed = whole[:place] + bytes([minor + 1]) + whole[place + 1 :]
    file = tmp_path / f"model.{form}"
    file.write_bytes(changed)
    with pytest.raises(ModelLoadError) as caught:
        load(file)
    assert f"XGBoost {major}.{minor + 1}." in str(caught.value)
    assert xgboost.__version__ in str(caught.value)


def test_what_is_no_model_of_xgboost_is_refused_before_xgboost_reads_it(tmp_path, iris):
    for name, content, message in (
        ("model.json", b'{"name": "iris"}', "no model of XGBoost"),
        ("model.json", json.dumps(iris.booster.get_dump(dump_format="json")).encode(), "no model"),
        ("model.bst", b"tree\nversion=v4\nnum_class=1\n", "jackfield\\[lightgbm\\]"),
        ("model.ubj", b"", "empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelLoadError, match=message):
            load(tmp_path / name)
    with pytest.raises(ModelLoadError, match=r"parameters\.uri"):
        load(None)


def test_the_old_binary_form_is_refused_where_xgboost_reads_it_no_more(tmp_path):
    if RELEASE < (3, 1):
        pytest.skip("this XGBoost reads it")
    file = tmp_path / "model.bst"
    file.write_bytes(b"binf" + bytes(200))
    with pytest.raises(ModelLoadError, match=r"3\.1.*model\.ubj"):
        load(file)


def test_a_gpu_that_is_not_there_is_named(serve, iris):
    with pytest.raises(ModelLoadError, match="'cuda"):
        serve(iris.booster, device="cuda:7")


def test_the_settings_file_is_never_taken_for_a_model(tmp_path, iris):
    written = {"name": "m", "implementation": MLSERVER, "parameters": {"version": "v0.1.0"}}
    (tmp_path / "model-settings.json").write_text(json.dumps(written))
    (tmp_path / "request.json").write_text("{}")
    with (
        Server([tmp_path], plugins=None).sync() as server,
        pytest.raises(Exception, match="no art"),
    ):
        server.model("m")


# ---- what is not installed ----


def run_without(modules, code):
    """Run code in a process in which some modules can't be imported."""
    head = f"import sys\nsys.path[:] = {sys.path!r}\n"
    head += f"sys.modules.update(dict.fromkeys({modules!r}))\n"
    return subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, check=False
    )


def test_without_xgboost_the_error_says_what_to_install():
    code = """
from jackfield import ModelLoadError
try:
    import jackfield_xgboost._runtime
except ModelLoadError as error:
    print(error)
"""
    run = run_without(["xgboost"], code)
    assert "jackfield-xgboost[cpu]" in run.stdout, run.stderr


def test_without_scikit_learn_native_boosters_are_served(tmp_path, iris):
    file = tmp_path / "model.ubj"
    iris.booster.save_model(file)
    code = f"""
import logging, pathlib
import numpy as np
from jackfield import InferRequest, ModelContext, ModelSettings, Tensor
from jackfield_xgboost._runtime import XgboostRuntime
runtime = XgboostRuntime(ModelContext(name="m", version="", artifact=pathlib.Path({str(file)!r}),
    settings=ModelSettings(), options=None, logger=logging.getLogger()))
runtime.load()
print(runtime.infer(InferRequest([Tensor.from_array("x", np.zeros((1, 4), "f4"))])).arrays)
"""
    run = run_without(["sklearn", "joblib", "pandas", "pyarrow"], code)
    assert "predict" in run.stdout, run.stderr
