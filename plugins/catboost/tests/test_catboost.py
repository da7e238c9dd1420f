"""What is special to CatBoost: tasks, labels, categories, trees, artifacts, silence."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle

import catboost
import msgspec
import numpy as np
import pandas as pd
import pytest
from catboost import CatBoost, CatBoostClassifier, CatBoostRegressor, sum_models
from catboost.utils import get_gpu_device_count
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_iris

from jackfield import (
    Datatype,
    InferRequest,
    InvalidRequestError,
    ModelContext,
    ModelLoadError,
    ModelSettings,
    RemoteRequestError,
    RequestedOutput,
    Tensor,
)
from jackfield.client import Client
from jackfield_catboost import CatboostOptions, jackfield_runtimes
from jackfield_catboost._runtime import CatboostRuntime

MLSERVER = "mlserver_catboost.CatboostModel"
QUIET = {"iterations": 8, "depth": 3, "verbose": False, "allow_writing_files": False}


def load(artifact, *, implementation="catboost", threads=1, **options):
    runtime = CatboostRuntime(
        ModelContext(
            name="model",
            version="",
            artifact=artifact,
            settings=ModelSettings(implementation=implementation),
            options=msgspec.convert(options, CatboostOptions),
            threads=threads,
            logger=logging.getLogger("jackfield.test"),
        )
    )
    runtime.load()
    return runtime


@pytest.fixture
def serve_model(tmp_path):
    """Save a model and load it as the core does."""

    def serve(model, *, file="model.cbm", form="cbm", **options):
        model.save_model(str(tmp_path / file), format=form)
        return load(tmp_path / file, **options)

    return serve


def ask(runtime, inputs, *outputs, **parameters):
    """Send arrays by name, or one array, and get the tensors of the answer."""
    named = inputs if isinstance(inputs, dict) else {"x": inputs}
    tensors = [
        each if isinstance(each, Tensor) else Tensor.from_array(name, each)
        for name, each in named.items()
    ]
    for tensor in tensors:
        tensor.array.flags.writeable = False
    request = InferRequest(tensors, [RequestedOutput(name) for name in outputs], parameters)
    return list(runtime.infer(request).outputs)


def outputs_of(runtime):
    return {
        each.name: each for each in runtime.metadata().outputs if "alias_of" not in each.parameters
    }


def inputs_of(runtime):
    return [(each.name, each.datatype, list(each.shape)) for each in runtime.metadata().inputs]


@pytest.fixture(scope="module")
def iris():
    data = load_iris()
    return data.data.astype("f4"), data.target


@pytest.fixture(scope="module")
def cancer(trained):
    """A classifier of two classes of numbers, and the framework's."""
    return load(trained["cancer"].file), trained["cancer"].framework()


@pytest.fixture(scope="module")
def passengers(trained):
    return load(trained["passengers"].file)


ONE = {"age": [31.0], "port": ["Southampton"], "fare": [20.0], "deck": [3]}


# ---- what the artifact tells ----


@pytest.mark.parametrize(
    ("name", "task", "loss", "shape"),
    [
        ("cancer", "classification", "Logloss", [-1]),
        ("wine", "classification", "MultiClass", [-1]),
        ("iris", "classification", "MultiClassOneVsAll", [-1]),
        ("marks", "multilabel classification", "MultiLogloss", [-1, 2]),
        ("diabetes", "regression", "RMSE", [-1]),
        ("poisson", "regression", "Poisson", [-1]),
        ("targets", "regression", "MultiRMSE", [-1, 2]),
        ("uncertain", "regression", "RMSEWithUncertainty", [-1, 2]),
        ("quantiles", "regression", "MultiQuantile", [-1, 2]),
        ("ranker", "ranking", "YetiRank", [-1]),
    ],
)
def test_the_task_is_found_in_the_loss_function(trained, name, task, loss, shape):
    runtime = load(trained[name].file)
    told = runtime.metadata().parameters
    assert (told["task"], told["loss_function"]) == (task, loss)
    assert list(outputs_of(runtime)["predict"].shape) == shape
    assert ("predict_proba" in outputs_of(runtime)) == task.endswith("classification")


def test_metadata_tell_columns_classes_trees_and_versions(trained):
    runtime = load(trained["wine"].file)
    told = runtime.metadata()
    assert told.platform == "catboost_json"
    [matrix] = told.inputs
    assert (matrix.datatype, list(matrix.shape)) == (Datatype.FP32, [-1, 13])
    assert matrix.parameters["columns"] == list(trained["wine"].rows.columns)
    assert told.parameters["trees"] == 24
    assert told.parameters["classes"] == [0, 1, 2]
    assert told.parameters["catboost_version"] == catboost.__version__
    assert told.parameters["saved_by_version"] == catboost.__version__
    assert set(told.parameters["request_parameters"]) == {
        "ntree_start", "ntree_end", "virtual_ensembles_count",
    }  # fmt: skip
    outputs = outputs_of(runtime)
    for name in ("predict_proba", "predict_log_proba", "raw"):
        assert outputs[name].parameters["classes"] == [0, 1, 2]
        assert list(outputs[name].shape) == [-1, 3]
    assert "on_request" not in outputs["predict"].parameters
    assert list(outputs["leaf"].shape) == [-1, 24]
    assert list(outputs["contributions"].shape) == [-1, 3, 14]
    assert outputs["contributions"].parameters["columns"][-1] == "expected value"


def test_metadata_of_categories_and_texts_are_columns(trained):
    assert inputs_of(load(trained["notes"].file)) == [
        ("age", Datatype.FP32, [-1]),
        ("port", Datatype.BYTES, [-1]),
        ("fare", Datatype.FP32, [-1]),
        ("deck", Datatype.BYTES, [-1]),
        ("note", Datatype.BYTES, [-1]),
    ]


def test_columns_of_values_are_told(trained):
    assert outputs_of(load(trained["uncertain"].file))["predict"].parameters["columns"] == [
        "mean", "variance",
    ]  # fmt: skip
    assert outputs_of(load(trained["quantiles"].file))["predict"].parameters["columns"] == [
        "quantile 0.1", "quantile 0.9",
    ]  # fmt: skip


# ---- labels ----


@pytest.mark.parametrize(
    ("labels", "datatype"),
    [
        (np.array([5, 8]), Datatype.INT64),
        (np.array([False, True]), Datatype.BOOL),
        (np.array([0.0, 1.5]), Datatype.FP64),
        (np.array(["nein", "für"]), Datatype.BYTES),
    ],
    ids=["integers", "truth values", "floats", "text"],
)
@pytest.mark.parametrize("loss", ["Logloss", "MultiClass"])
def test_labels_keep_their_kind(serve_model, iris, labels, datatype, loss):
    rows, target = iris
    model = CatBoostClassifier(loss_function=loss, **QUIET).fit(rows, labels[target // 2])
    runtime = serve_model(model)
    [found] = ask(runtime, rows[::9])
    assert (found.datatype, outputs_of(runtime)["predict"].datatype) == (datatype, datatype)
    values = [each.decode() for each in found.array] if datatype == "BYTES" else found.array
    assert list(values) == model.predict(rows[::9]).reshape(-1).tolist()
    assert runtime.metadata().parameters["classes"] == model.classes_.tolist()


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9, 1.0])
def test_the_threshold_of_the_artifact_holds(serve_model, iris, threshold):
    rows, target = iris
    model = CatBoostClassifier(**QUIET).fit(rows, (target == 1).astype(int))
    model.set_probability_threshold(threshold)
    [found] = ask(serve_model(model), rows)
    assert np.array_equal(found.array, model.predict(rows))


def test_labels_in_the_settings_replace_those_of_the_artifact(trained):
    runtime = load(trained["wine"].file, labels=["red", "white", "rosé"])
    [label] = ask(runtime, trained["wine"].rows.to_numpy("f4"))
    expected = trained["wine"].framework().predict(trained["wine"].rows).reshape(-1)
    assert [each.decode() for each in label.array] == [
        ["red", "white", "rosé"][each] for each in expected
    ]
    assert outputs_of(runtime)["predict_proba"].parameters["classes"] == ["red", "white", "rosé"]


@pytest.mark.parametrize(
    ("name", "labels", "problem"),
    [
        ("wine", ["a", "b"], "expected 3 labels, found 2"),
        ("wine", ["a", "b", "b"], "labels that differ"),
        ("diabetes", ["a"], "no classifier"),
    ],
)
def test_labels_that_do_not_fit_fail_the_load(trained, name, labels, problem):
    with pytest.raises(ModelLoadError, match=problem):
        load(trained[name].file, labels=labels)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_numbers_get_the_labels_that_catboost_gives(cancer, data):
    runtime, framework = cancer
    numbers = st.floats(width=32) | st.sampled_from([0.0, 13.0])
    rows = data.draw(st.lists(st.lists(numbers, min_size=30, max_size=30), min_size=1, max_size=4))
    array = np.array(rows, "f4")
    label, chance = ask(runtime, array, "predict", "predict_proba")
    assert label.array.tolist() == [each.encode() for each in framework.predict(array)]
    assert np.array_equal(chance.array, framework.predict_proba(array))


def test_a_sum_of_models_is_of_their_task(serve_model, trained):
    one = CatBoost().load_model(str(trained["cancer"].file))
    runtime = serve_model(sum_models([one, one], weights=[0.5, 0.5]))
    assert runtime.metadata().parameters["task"] == "classification"
    rows = trained["cancer"].rows
    [chance] = ask(runtime, rows, "predict_proba")
    assert np.allclose(chance.array, trained["cancer"].framework().predict_proba(rows))


def test_an_objective_of_the_authors_own_is_judged_by_the_classes(serve_model, iris):
    class Squares:
        def calc_ders_range(self, approxes, targets, _weights):
            return [
                (target - approx, -1.0) for approx, target in zip(approxes, targets, strict=True)
            ]

    model = CatBoostRegressor(loss_function=Squares(), eval_metric="RMSE", **QUIET)
    with pytest.warns(UserWarning, match="numba"):
        model.fit(iris[0], iris[1])
    runtime = serve_model(model)
    assert runtime.metadata().parameters["task"] == "regression"
    assert np.array_equal(ask(runtime, iris[0][:5])[0].array, model.predict(iris[0][:5]))


# ---- MLServer's name ----


def test_under_mlservers_name_a_value_per_row_has_two_dimensions(trained):
    for name, datatype in (("wine", "INT64"), ("cancer", "BYTES"), ("diabetes", "FP64")):
        runtime = load(trained[name].file, implementation=MLSERVER)
        rows = np.asarray(trained[name].rows, "f8")[:3]
        [found] = ask(runtime, rows)
        assert (found.name, found.datatype, found.shape) == ("predict", datatype, (3, 1))
        assert list(outputs_of(runtime)["predict"].shape) == [-1, 1]
        assert runtime.metadata().parameters["predict_as"] == MLSERVER


def test_mlservers_example_is_served_with_its_settings_unchanged(tmp_path, serve):
    draw = np.random.default_rng(0)
    rows, labels = draw.integers(0, 100, (100, 10)), draw.integers(0, 2, 100)
    model = CatBoostClassifier(
        iterations=2, depth=2, learning_rate=1, loss_function="Logloss", verbose=True,
        allow_writing_files=False,
    )  # fmt: skip
    model.fit(rows, labels, verbose=False)
    model.save_model(str(tmp_path / "model.cbm"))
    (tmp_path / "settings.json").write_text('{"debug": "true"}')
    (tmp_path / "model-settings.json").write_text(
        json.dumps(
            {
                "name": "catboost",
                "implementation": MLSERVER,
                "parameters": {"uri": "./model.cbm", "version": "v0.1.0"},
            }
        )
    )
    with Client(serve(tmp_path).http) as client:
        request = InferRequest([Tensor.from_array("predict-prob", rows[:1].astype("f4"))])
        result = client.model("catboost", "v0.1.0").infer(request)
    assert (result["predict"].dtype, result["predict"].shape) == (np.int64, (1, 1))
    assert result["predict"][0, 0] == model.predict(rows[:1])[0]


# ---- inputs ----


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "u1", "?"])
def test_a_matrix_of_any_numeric_datatype_is_taken(serve_model, iris, dtype):
    model = CatBoostRegressor(**QUIET).fit(*iris)
    rows = iris[0][::10].astype(dtype)
    [found] = ask(serve_model(model), rows)
    assert np.array_equal(found.array, model.predict(rows.astype("f4")))


def test_one_dimension_is_one_row(cancer):
    assert ask(cancer[0], load_breast_cancer().data[0])[0].shape == (1,)


@pytest.mark.parametrize("shape", [(1, 29), (2, 31), (7,), (2, 2, 30)])
def test_a_matrix_of_another_width_is_refused(cancer, shape):
    # CatBoost takes too many columns in silence, and too few if it misses none
    with pytest.raises(InvalidRequestError, match=r"\[-1, 30\] \(rows of 30 features\)"):
        ask(cancer[0], np.zeros(shape))


@pytest.mark.parametrize("name", ["cancer", "wine", "uncertain", "passengers", "notes"])
def test_no_rows_get_answers_of_no_rows(trained, name):
    runtime, model = load(trained[name].file), trained[name]
    request = model.request()
    empty = [msgspec.structs.replace(each, array=each.array[:0]) for each in request.inputs]
    told = outputs_of(runtime)
    asked = InferRequest(empty, [RequestedOutput(each) for each in told])
    for tensor in runtime.infer(asked).outputs:
        assert tensor.shape == (0, *told[tensor.name].shape[1:])
        assert tensor.datatype is told[tensor.name].datatype


def test_text_for_numbers_is_refused(cancer, passengers):
    with pytest.raises(InvalidRequestError, match="a numeric datatype"):
        ask(cancer[0], [["1"] * 30])
    with pytest.raises(InvalidRequestError, match="'age'"):
        ask(passengers, ONE | {"age": ["old"]})


def test_a_category_is_text_or_a_whole_number_and_no_float(passengers):
    as_number = ask(passengers, ONE, "raw")[0].array
    as_text = ask(passengers, ONE | {"deck": ["3"]}, "raw")[0].array
    assert np.array_equal(as_number, as_text)
    with pytest.raises(InvalidRequestError, match=r"BYTES or integers for 'deck', found FP64"):
        ask(passengers, ONE | {"deck": [3.0]})
    with pytest.raises(InvalidRequestError, match=r"BYTES or integers"):
        ask(passengers, [[31.0, 1.0, 20.0, 3.0]])


def test_an_unknown_category_is_answered_by_catboosts_own_rule(passengers, trained):
    unknown = ONE | {"port": ["Atlantis"]}
    [found] = ask(passengers, unknown, "raw")
    framework = trained["passengers"].framework()
    wanted = framework.predict(pd.DataFrame(unknown), prediction_type="RawFormulaVal")
    assert np.array_equal(found.array, wanted)


def null(name):
    cell = np.array([b"null"], dtype=object)
    return {name: Tensor(name, Datatype.BYTES, cell, {"content_type": "pd_json"})}


def test_a_missing_category_is_refused_unless_the_settings_say_what_it_was(trained, passengers):
    with pytest.raises(InvalidRequestError, match=r"'port', found 'null'") as caught:
        ask(passengers, ONE | null("port"))
    assert caught.value.field == "inputs[1].data[0]"
    tolerant = load(trained["passengers"].file, missing_category="nan")
    [found] = ask(tolerant, ONE | null("port"), "raw")
    assert np.array_equal(found.array, ask(passengers, ONE | {"port": ["nan"]}, "raw")[0].array)


def test_missing_numbers_go_where_training_sent_them(passengers, trained):
    frame = pd.DataFrame(ONE | {"age": [np.nan]})
    wanted = trained["passengers"].framework().predict_proba(frame)
    for age in ({"age": [np.nan]}, null("age")):
        [found] = ask(passengers, ONE | age, "predict_proba")
        assert np.array_equal(found.array, wanted)


def test_missing_numbers_are_refused_where_training_refused_them(serve_model, iris):
    model = CatBoostRegressor(nan_mode="Forbidden", **QUIET).fit(*iris)
    runtime = serve_model(model)
    rows = iris[0][:2].copy()
    rows[1, 2] = np.nan
    with pytest.raises(InvalidRequestError, match="takes no missing ones"):
        ask(runtime, rows)
    assert ask(runtime, rows[:1])[0].shape == (1,)


def test_columns_are_matched_by_name_and_wrong_ones_named(passengers):
    shuffled = dict(reversed(ONE.items()))
    assert np.array_equal(
        ask(passengers, shuffled, "raw")[0].array, ask(passengers, ONE, "raw")[0].array
    )
    with pytest.raises(InvalidRequestError, match=r"no 'port' and the unknown 'harbour'"):
        ask(passengers, {"harbour" if name == "port" else name: ONE[name] for name in ONE})


def test_columns_of_a_model_without_names_go_by_position(serve_model, iris):
    model = CatBoostRegressor(**QUIET).fit(*iris)
    runtime = serve_model(model)
    assert "columns" not in runtime.metadata().inputs[0].parameters
    sent = {f"measure {place}": iris[0][::30, place] for place in range(4)}
    assert np.array_equal(ask(runtime, sent)[0].array, model.predict(iris[0][::30]))


def test_text_that_is_not_utf_8_is_refused(passengers):
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        ask(passengers, ONE | {"port": np.array([b"\xff"], dtype=object)})


# ---- outputs and parameters ----


def test_an_unknown_output_is_refused_and_the_known_ones_are_named(cancer):
    with pytest.raises(InvalidRequestError, match="predict_proba") as caught:
        ask(cancer[0], np.zeros((1, 30)), "probabilities")
    assert caught.value.field == "outputs[0].name"


@pytest.mark.parametrize(
    ("output", "parameters", "problem"),
    [
        ("predict", {"ntree_end": 25}, r"parameters.ntree_end: expected at most 24"),
        ("raw", {"ntree_start": 24}, r"parameters.ntree_start: expected less than 24"),
        ("leaf", {"ntree_start": 9, "ntree_end": 3}, r"expected less than 3, found 9"),
        ("predict", {"ntree_start": -1}, r"parameters.ntree_start"),
        ("predict", {"ntree_end": "all"}, r"parameters.ntree_end"),
        ("contributions", {"ntree_end": 3}, r"'contributions' is of all trees"),
        ("virtual_ensembles_predict", {"ntree_start": 3}, r"begins at the first tree"),
        ("virtual_ensembles_predict", {"virtual_ensembles_count": 13}, r"at most 12, with 24"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(cancer, output, parameters, problem):
    with pytest.raises(InvalidRequestError, match=problem):
        ask(cancer[0], np.zeros((1, 30)), output, **parameters)


def test_ensembles_are_as_many_as_asked_for(cancer, trained):
    rows = trained["cancer"].rows
    [found] = ask(
        cancer[0], rows, "virtual_ensembles_predict", virtual_ensembles_count=3, ntree_end=12
    )
    wanted = cancer[1].virtual_ensembles_predict(
        rows, "TotalUncertainty", virtual_ensembles_count=3, ntree_end=12
    )
    assert np.array_equal(found.array, wanted)


@pytest.mark.parametrize("loss", ["RMSE", "RMSEWithUncertainty"])
def test_ensembles_of_a_model_that_samples_its_posterior_are_the_frameworks(
    serve_model, iris, loss
):
    model = CatBoostRegressor(
        loss_function=loss, posterior_sampling=True, iterations=40, depth=3, verbose=False,
        allow_writing_files=False,
    ).fit(*iris)  # fmt: skip
    [found] = ask(serve_model(model), iris[0], "virtual_ensembles_predict")
    wanted = model.virtual_ensembles_predict(iris[0], "TotalUncertainty")
    assert np.array_equal(found.array, wanted)


def test_an_output_that_the_model_cannot_compute_is_not_offered(trained, caplog):
    caplog.set_level(logging.INFO)
    assert "virtual_ensembles_predict" not in outputs_of(load(trained["targets"].file))
    assert "'virtual_ensembles_predict' is not offered" in caplog.text


@pytest.mark.parametrize("name", ["diabetes", "passengers"])
def test_contributions_add_up_to_the_raw_value_without_training_data(trained, name):
    runtime, model = load(trained[name].file), trained[name]
    request = model.request(outputs=[RequestedOutput("contributions"), RequestedOutput("raw")])
    parts, raw = runtime.infer(request).outputs
    assert np.allclose(parts.array.sum(axis=1), raw.array)


def test_many_rows_on_several_threads_are_as_on_one(trained, cancer):
    runtime = load(trained["cancer"].file, threads=3)
    rows = np.resize(trained["cancer"].rows, (50_000, 30)).astype("f4")
    [found] = ask(runtime, rows, "raw")
    assert np.array_equal(found.array, ask(cancer[0], rows, "raw")[0].array)


# ---- artifacts ----


def test_artifacts_are_looked_for_in_mlservers_order():
    (spec,) = jackfield_runtimes()
    assert [each.pattern for each in spec.artifacts][:2] == ["model.cbm", "model.bin"]
    assert not any(each.executes_code for each in spec.artifacts)
    assert spec.aliases == (MLSERVER,)


def test_json_of_many_categories_is_read(tmp_path):
    """Their counters come first, and are larger than what is looked at to know a file."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": [f"a{each}" for each in rng.integers(0, 3000, 6000)], "b": 1.0})
    model = CatBoostRegressor(
        iterations=2, cat_features=["a"], verbose=False, allow_writing_files=False, thread_count=1
    )
    model.fit(table, rng.normal(size=6000))
    model.save_model(str(tmp_path / "model.json"), format="json")
    assert (tmp_path / "model.json").read_bytes().find(b'"features_info"') > 1 << 16
    assert load(tmp_path / "model.json").metadata().platform == "catboost_json"


def test_the_form_is_told_by_the_content_and_not_by_the_name(trained, tmp_path, cancer):
    for name, file in (("cancer", "model.json"), ("wine", "model.cbm")):
        (tmp_path / file).write_bytes(trained[name].file.read_bytes())
        assert load(tmp_path / file).metadata().platform == (
            "catboost_cbm" if name == "cancer" else "catboost_json"
        )


@settings(max_examples=25, deadline=None)
@given(part=st.floats(0, 1, exclude_max=True), name=st.sampled_from(["cancer", "wine"]))
def test_a_file_that_is_cut_off_fails_the_load(trained, tmp_path_factory, part, name):
    data = trained[name].file.read_bytes()
    file = tmp_path_factory.mktemp("cut") / trained[name].file.name
    file.write_bytes(data.rstrip()[: int(len(data.rstrip()) * part)])
    with pytest.raises(ModelLoadError, match=rf"'{file.name}' (is|can't)"):
        load(file)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (b"junk" * 100, "not known here"),
        (b"CBM1\x10\0\0\0" + bytes(16), "can't be read by CatBoost"),
        (b"CBM1\x00\x10\0\0" + bytes(16), "cut off: it has 24 bytes, and should have 4104"),
        (b'{"name": "model", "implementation": "catboost"}', "can't be served"),
        (b'{"features_info": {}, "model_info": {}}', "it has no trees"),
        (b'{"features_info": {}, "model_info": {}, "oblivious_trees": []}', "holds no tree"),
        (b'{"learner": {"gradient_booster": {}}}', r'XGBoost.*pip install "jackfield\[xgboost\]"'),
        (b"tree\nversion=v4\nnum_class=1\n", r"LightGBM.*jackfield\[lightgbm\]"),
    ],
)
def test_a_file_that_is_no_model_of_catboost_fails_the_load(tmp_path, data, problem):
    (tmp_path / "model.json").write_bytes(data)
    with pytest.raises(ModelLoadError, match=problem):
        load(tmp_path / "model.json")


def test_a_pickle_is_refused_and_never_read(tmp_path, trained):
    data = pickle.dumps(trained["wine"].framework())
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(ModelLoadError, match=r"in a pickle.*save_model\('model.cbm'\)"):
        load(tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ("onnx", "install a plugin for it"),
        ("python", r"Python code.*save_model\('model.cbm'\)"),
        ("pmml", "can't be served"),
    ],
)
def test_other_forms_that_catboost_writes_are_refused(tmp_path, iris, form, problem):
    model = CatBoostRegressor(**QUIET).fit(*iris)
    model.save_model(str(tmp_path / "model.bin"), format=form)
    with pytest.raises(ModelLoadError, match=problem):
        load(tmp_path / "model.bin")


def test_embeddings_fail_the_load_and_are_named(tmp_path, iris):
    vectors = np.random.default_rng(0).normal(size=(150, 3))
    rows = pd.DataFrame({"size": iris[0][:, 0], "meaning": list(vectors)})
    model = CatBoostClassifier(embedding_features=["meaning"], **QUIET).fit(rows, iris[1])
    model.save_model(str(tmp_path / "model.cbm"))
    with pytest.raises(ModelLoadError, match=r"embeddings \('meaning'.*not served"):
        load(tmp_path / "model.cbm")


def test_a_newer_version_is_one_warning_with_both(tmp_path, trained, caplog):
    data = trained["cancer"].file.read_bytes()
    mine = f"tags/v{catboost.__version__}".encode()
    (tmp_path / "model.cbm").write_bytes(data.replace(mine, b"tags/v9" + mine[7:]))
    caplog.set_level(logging.WARNING)
    runtime = load(tmp_path / "model.cbm")
    newer = f"9{catboost.__version__[1:]}"
    assert runtime.metadata().parameters["saved_by_version"] == newer
    [record] = caplog.records
    assert newer in record.getMessage()
    assert f"{catboost.__version__} is installed" in record.getMessage()


def test_a_form_of_a_newer_version_names_both(tmp_path, trained):
    data = trained["cancer"].file.read_bytes()
    mine = f"tags/v{catboost.__version__}".encode()
    changed = data.replace(mine, b"tags/v9" + mine[7:]).replace(b"Model_v1", b"Model_v7")
    (tmp_path / "model.cbm").write_bytes(changed)
    with pytest.raises(ModelLoadError, match=r"by CatBoost 9\..*install that version") as caught:
        load(tmp_path / "model.cbm")
    assert f"can't be read by CatBoost {catboost.__version__}" in str(caught.value)


@pytest.mark.skipif(get_gpu_device_count() > 0, reason="there is a GPU")
def test_a_gpu_that_is_not_there_fails_the_load(trained):
    with pytest.raises(ModelLoadError, match=r"'parameters.extra.device' is 'gpu'.*to 'cpu'"):
        load(trained["cancer"].file, device="gpu")


@pytest.mark.skipif(get_gpu_device_count() == 0, reason="there is no GPU")
def test_a_gpu_gives_the_same_answers(trained, cancer):
    rows = trained["cancer"].rows
    runtime = load(trained["cancer"].file, device="gpu")
    label, chance = ask(runtime, rows, "predict", "predict_proba")
    assert label.array.tolist() == [each.encode() for each in cancer[1].predict(rows)]
    assert np.allclose(chance.array, cancer[1].predict_proba(rows), rtol=1e-5)


def test_a_folder_is_no_artifact(tmp_path):
    with pytest.raises(ModelLoadError, match=r"parameters\.uri"):
        load(tmp_path)


# ---- in a server ----


def test_a_checksum_that_differs_keeps_the_model_out_and_a_right_one_lets_it_in(
    trained, tmp_path, serve
):
    data = trained["cancer"].file.read_bytes()
    sums = {"good": hashlib.sha256(data).hexdigest(), "bad": "0" * 64}
    for name, sha256 in sums.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.cbm").write_bytes(data)
        told = {"name": name, "implementation": "catboost", "parameters": {"sha256": sha256}}
        (tmp_path / name / "model-settings.json").write_text(json.dumps(told))
    with Client(serve(tmp_path).http) as client:
        assert client.model("good").is_ready()
        assert not client.model("bad").is_ready()
        reasons = {each.name: each.reason for each in client.index()}
    assert "SHA-256" in reasons["bad"]


def test_a_folder_without_settings_is_served_beside_other_json(trained, tmp_path, serve):
    home = tmp_path / "cancer"
    home.mkdir()
    (home / "model.cbm").write_bytes(trained["cancer"].file.read_bytes())
    (home / "request.json").write_text("{}")
    with Client(serve(tmp_path).http) as client:
        result = client.model("cancer").infer(trained["cancer"].rows[:2])
    assert result["predict"].shape == (2,)


def test_a_bad_request_is_the_callers_error_on_the_wire(trained, serve):
    with Client(serve(trained["cancer"].folder).http) as client:
        wide = InferRequest([Tensor.from_array("x", np.zeros((1, 31)))])
        with pytest.raises(RemoteRequestError, match="30 features") as caught:
            client.model("cancer").infer(wide)
        assert caught.value.status == 400


# ---- silence ----


def test_nothing_is_printed(tmp_path, iris, capfd):
    model = CatBoostClassifier(iterations=20, depth=2, verbose=1, allow_writing_files=False)
    model.fit(*iris)
    for file, form in (("model.cbm", "cbm"), ("model.json", "json")):
        model.save_model(str(tmp_path / file), format=form)
        assert capfd.readouterr().out or form == "json"  # training prints, and is read away
        runtime = load(tmp_path / file)
        for rows in (iris[0], iris[0][:1], iris[0][:0]):
            ask(runtime, rows, *outputs_of(runtime))
        runtime.close()
        assert capfd.readouterr() == ("", "")


def test_settings_of_training_that_are_not_known_are_not_complained_about(trained, tmp_path, capfd):
    data = trained["cancer"].file.read_bytes()
    (tmp_path / "model.cbm").write_bytes(data.replace(b'"depth"', b'"width"'))
    load(tmp_path / "model.cbm")
    assert capfd.readouterr() == ("", "")
