"""Models that the plugin of their framework serves answer as pyfunc does, and more on request."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import catboost
import lightgbm
import mlflow
import msgspec
import numpy as np
import pandas as pd
import pytest
import xgboost
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from jackfield import (
    InferRequest,
    InvalidRequestError,
    ModelContext,
    ModelLoadError,
    ModelSettings,
    RequestedOutput,
    Tensor,
    codecs,
)
from jackfield._plugins import discover
from jackfield.client import Client
from jackfield.errors import JackfieldError
from jackfield.testing import running
from jackfield_mlflow import MlflowOptions
from jackfield_mlflow._runtime import MlflowRuntime

FORMS = ("json", "binary", "grpc")
ROWS = 40


class Made(NamedTuple):
    """A model, the rows to ask it about, and who should serve it."""

    #: Saves it at a path.
    save: Any
    rows: pd.DataFrame
    flavor: str
    #: What the framework gives for `predict_proba`; None where it has no such thing.
    chances: Any = None
    is_matrix: bool = False


def _wine():
    wine = load_wine(as_frame=True)
    frame = wine.data[["alcohol", "proline"]].copy()
    frame["tone"] = np.where(wine.data["hue"] > 1, "warm", "cool")
    frame["magnesium"] = wine.data["magnesium"].astype(np.int64)
    return frame, np.asarray(wine.target_names)[wine.target]


IRIS, SPECIES = load_iris(return_X_y=True, as_frame=True)
NAMES = np.asarray(load_iris().target_names)[SPECIES]
CANCER, BENIGN = load_breast_cancer(return_X_y=True, as_frame=True)
DIABETES, PROGRESS = load_diabetes(return_X_y=True, as_frame=True)
WINE, KIND = _wine()
#: Else MLflow loads each model in a process of its own, to see what it imports.
QUICK = {"pip_requirements": ["numpy"]}


def _models():
    quiet = {"verbose": 0, "allow_writing_files": False, "iterations": 8}
    pipeline = make_pipeline(
        make_column_transformer(
            (StandardScaler(), ["alcohol", "proline", "magnesium"]), (OneHotEncoder(), ["tone"])
        ),
        LogisticRegression(),
    ).fit(WINE, KIND)
    labels = LogisticRegression(max_iter=500).fit(IRIS, NAMES)
    nameless = LogisticRegression(max_iter=500).fit(IRIS.to_numpy(), SPECIES)
    linear = LinearRegression().fit(DIABETES, PROGRESS)
    trees = xgboost.XGBClassifier(n_estimators=6, n_jobs=1).fit(CANCER, BENIGN)
    three = xgboost.XGBClassifier(n_estimators=6, n_jobs=1).fit(IRIS, SPECIES)
    leaves = lightgbm.LGBMClassifier(n_estimators=6, verbose=-1, n_jobs=1).fit(
        CANCER, np.where(BENIGN, "good", "bad")
    )
    gains = lightgbm.LGBMRegressor(n_estimators=6, verbose=-1, n_jobs=1).fit(DIABETES, PROGRESS)
    depths = xgboost.XGBRegressor(n_estimators=6, n_jobs=1).fit(DIABETES, PROGRESS)
    boosted = catboost.CatBoostClassifier(**quiet).fit(IRIS, NAMES)
    raw = catboost.CatBoost({"loss_function": "Logloss", **quiet}).fit(CANCER, BENIGN)
    numbers = catboost.CatBoostRegressor(**quiet).fit(DIABETES, PROGRESS)

    def saving(flavor, model, rows, predict, **extra):
        module = getattr(mlflow, flavor)

        def save(path):
            signature = None if predict is None else infer_signature(rows, predict(rows))
            module.save_model(model, path, signature=signature, **QUICK, **extra)

        return save

    of_matrix = xgboost.DMatrix
    booster = trees.get_booster()
    return {
        "pipeline": Made(
            saving("sklearn", pipeline, WINE, pipeline.predict), WINE, "sklearn",
            pipeline.predict_proba,
        ),
        "labels": Made(
            saving("sklearn", labels, IRIS, labels.predict, serialization_format="cloudpickle"),
            IRIS, "sklearn", labels.predict_proba,
        ),
        "matrix": Made(
            saving("sklearn", nameless, IRIS.to_numpy(), nameless.predict), IRIS, "sklearn",
            lambda rows: nameless.predict_proba(rows.to_numpy()), is_matrix=True,
        ),
        "unsigned": Made(
            saving("sklearn", nameless, IRIS, None), IRIS, "sklearn",
            lambda rows: nameless.predict_proba(rows.to_numpy()), is_matrix=True,
        ),
        "chances": Made(
            saving(
                "sklearn", labels, IRIS, labels.predict_proba, pyfunc_predict_fn="predict_proba"
            ),
            IRIS, "sklearn",
        ),
        "linear": Made(saving("sklearn", linear, DIABETES, linear.predict), DIABETES, "sklearn"),
        "xgb": Made(
            saving("xgboost", trees, CANCER, trees.predict), CANCER, "xgboost",
            trees.predict_proba,
        ),
        "xgb-three": Made(
            saving("xgboost", three, IRIS, three.predict), IRIS, "xgboost", three.predict_proba
        ),
        "xgb-booster": Made(
            saving("xgboost", booster, CANCER, lambda rows: booster.predict(of_matrix(rows))),
            CANCER, "xgboost", trees.predict_proba,
        ),
        "lgbm": Made(
            saving(
                "lightgbm", leaves, CANCER, leaves.predict, serialization_format="cloudpickle"
            ),
            CANCER, "lightgbm", leaves.predict_proba,
        ),
        "lgbm-skops": Made(
            saving("lightgbm", leaves, CANCER, leaves.predict), CANCER, "lightgbm",
            leaves.predict_proba,
        ),
        "lgbm-numbers": Made(
            saving("lightgbm", gains, DIABETES, gains.predict), DIABETES, "lightgbm"
        ),
        "xgb-numbers": Made(
            saving("xgboost", depths, DIABETES, depths.predict), DIABETES, "xgboost"
        ),
        "lgbm-booster": Made(
            saving("lightgbm", leaves.booster_, CANCER, leaves.booster_.predict), CANCER,
            "lightgbm", leaves.predict_proba,
        ),
        "cat": Made(
            saving("catboost", boosted, IRIS, boosted.predict), IRIS, "catboost",
            boosted.predict_proba,
        ),
        "cat-raw": Made(saving("catboost", raw, CANCER, raw.predict), CANCER, "catboost"),
        "cat-numbers": Made(
            saving("catboost", numbers, DIABETES, numbers.predict), DIABETES, "catboost"
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def models():
    return _models()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, models):
    """Save every model once."""
    home = tmp_path_factory.mktemp("saved")
    # MLflow and skops advise those who save
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, made in models.items():
            made.save(home / name)
    return {name: home / name for name in models}


@pytest.fixture(scope="module")
def clients(tmp_path_factory, folders):
    """Serve each by its plugin and by pyfunc, and give a client of each form."""
    home = tmp_path_factory.mktemp("served")
    for name, folder in folders.items():
        for flavor in ("native", "pyfunc"):
            place = home / f"{name}-{flavor}"
            place.mkdir()
            settings = {
                "name": place.name,
                "implementation": "mlflow",
                "parameters": {"uri": str(folder), "extra": {"flavor": flavor}},
            }
            (place / "model-settings.json").write_text(json.dumps(settings))
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(running(home))
        yield {
            "json": stack.enter_context(Client(at.http, form="json")),
            "binary": stack.enter_context(Client(at.http, form="binary")),
            "grpc": stack.enter_context(Client(at.grpc)),
        }


@pytest.fixture
def load():
    """Load in this process, and close after the test."""
    loaded = []

    def load(folder, flavor="auto", *, runtimes=None):
        runtime = MlflowRuntime(
            ModelContext(
                name="model",
                version="",
                artifact=folder,
                settings=ModelSettings(implementation="mlflow"),
                options=MlflowOptions(flavor=flavor),
                logger=logging.getLogger("jackfield.testing"),
                runtimes=discover().runtimes if runtimes is None else runtimes,
            )
        )
        runtime.load()
        loaded.append(runtime)
        return runtime

    yield load
    for each in loaded:
        each.close()


def _tensors(rows, form="columns"):
    if form == "matrix":
        return [Tensor.from_array("x", rows.to_numpy())]
    made = []
    for name in rows:
        is_number = rows[name].dtype.kind in "biuf"
        values = np.asarray(rows[name].tolist(), rows[name].dtype if is_number else object)
        made.append(Tensor.from_array(name, values[:, None] if form == "columns 2-D" else values))
    return made


def _forms(made):
    if made.is_matrix:
        return ["matrix"]
    is_uniform = len(set(made.rows.dtypes)) == 1
    return ["columns", "columns 2-D", *(["matrix"] if is_uniform else [])]


def _read(told):
    """Read a parameter, which gRPC carries as JSON."""
    return json.loads(told) if isinstance(told, str) else told


def _told(runtime):
    told = runtime.metadata().parameters["mlflow"]
    return told["flavor"], told["flavor_reason"]


MODELS = ("pipeline", "labels", "matrix", "unsigned", "chances", "linear", "xgb", "xgb-three",
          "xgb-booster", "xgb-numbers", "lgbm", "lgbm-skops", "lgbm-numbers", "lgbm-booster", "cat",
          "cat-raw", "cat-numbers")  # fmt: skip
#: Those with chances.
CLASSIFIERS = [each for each in MODELS if each not in (
    "chances", "linear", "xgb-numbers", "lgbm-numbers", "cat-raw", "cat-numbers")]  # fmt: skip


@pytest.mark.parametrize("wire", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_the_plugin_answers_as_pyfunc_does(clients, models, name, wire):
    made, client = models[name], clients[wire]
    told = client.model(f"{name}-native").metadata()
    assert _read(told.parameters["mlflow"])["flavor"] == made.flavor
    for form in _forms(made):
        for count in (ROWS, 1):
            request = InferRequest(_tensors(made.rows[:count], form))
            found = client.model(f"{name}-native").infer(request)
            right = client.model(f"{name}-pyfunc").infer(request)
            assert [*found] == [*right] == [told.outputs[0].name]
            for output, expected in right.items():
                assert found[output].dtype == expected.dtype, form
                assert found[output].shape == expected.shape, form
                assert np.array_equal(found[output], expected), form


@pytest.mark.parametrize("wire", FORMS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_chances_come_on_request(clients, models, name, wire):
    made, client = models[name], clients[wire].model(f"{name}-native")
    told = client.metadata()
    assert [each.name for each in told.outputs if not each.parameters.get("on_request")] == [
        told.outputs[0].name
    ]
    rows = made.rows[:ROWS]
    wanted = [RequestedOutput("predict_proba"), RequestedOutput(told.outputs[0].name)]
    answer = client.infer(InferRequest(_tensors(rows, _forms(made)[0]), wanted))
    assert [*answer] == [each.name for each in wanted]
    right = np.asarray(made.chances(rows))
    assert answer["predict_proba"].dtype == right.dtype
    assert np.array_equal(answer["predict_proba"], right)
    alone = client.infer(InferRequest(_tensors(rows, _forms(made)[0])))
    assert np.array_equal(answer[told.outputs[0].name], alone[told.outputs[0].name])


@pytest.mark.parametrize("name", MODELS)
def test_the_signature_is_what_is_told(folders, load, name):
    native, pyfunc = load(folders[name], "auto"), load(folders[name], "pyfunc")
    told, expected = native.metadata(), pyfunc.metadata()
    assert _told(pyfunc) == ("pyfunc", "the settings ask for pyfunc")
    assert "the same bits as pyfunc" in _told(native)[1]
    assert native.capabilities.row_wise
    if name == "unsigned":
        assert [(each.datatype, list(each.shape)) for each in told.inputs] == [("FP64", [-1, 4])]
        assert told.outputs[0].name == "output-0"
        return
    assert told.inputs == expected.inputs
    # none was saved
    assert not any("example" in each.parameters for each in told.inputs)
    assert told.outputs[:1] == expected.outputs


@pytest.mark.parametrize("name", ["linear", "xgb"])
def test_it_is_told_where_a_batch_changes_last_bits(folders, load, models, name):
    native, pyfunc = load(folders[name]), load(folders[name], "pyfunc")
    rows = models[name].rows[:48]

    def ask(part):
        return pyfunc.infer(InferRequest(_tensors(part))).outputs[0].array

    alone = np.concatenate([ask(rows[place : place + 1]) for place in range(len(rows))])
    # sums of BLAS depend on how many rows there are, and on the machine
    is_even = np.array_equal(ask(rows), alone)
    assert ("a row's last bits differ" in _told(native)[1]) is not is_even


def test_upcasts_and_orders_are_pyfuncs(folders, load, models):
    native, pyfunc = (load(folders["pipeline"], each) for each in ("native", "pyfunc"))
    rows = models["pipeline"].rows[:5]
    sent = [
        Tensor.from_array("tone", rows["tone"].tolist()),
        Tensor.from_array("magnesium", rows["magnesium"].to_numpy().astype(np.int16)),
        Tensor.from_array("proline", rows["proline"].to_numpy().astype(np.int64)),
        Tensor.from_array("alcohol", rows["alcohol"].to_numpy().astype(np.float32)),
    ]
    for inputs in (sent, [*reversed(sent)]):
        request = InferRequest(inputs)
        found, right = native.infer(request).outputs[0], pyfunc.infer(request).outputs[0]
        assert found.array.tolist() == right.array.tolist()
        assert native.infer(InferRequest(inputs, [RequestedOutput("predict_proba")])).outputs


def test_text_as_json_is_read_by_pyfunc(folders, load, models):
    native = load(folders["pipeline"], "native")
    inputs = _tensors(models["pipeline"].rows[:5])
    right = native.infer(InferRequest(inputs)).outputs[0]
    inputs[2] = codecs.encode("tone", models["pipeline"].rows["tone"][:5].tolist(), "pd_json")
    found = native.infer(InferRequest(inputs)).outputs[0]
    assert found.array.tolist() == right.array.tolist()
    with pytest.raises(InvalidRequestError, match="predict_proba"):
        native.infer(InferRequest(inputs, [RequestedOutput("predict_proba")]))


@pytest.mark.parametrize("output", ["", "predict_proba"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda inputs: inputs[:-1], r"'petal width \(cm\)'"),
        (lambda inputs: [*inputs, Tensor.from_array("colour", [1.0] * 3)], "'colour'"),
        (
            lambda inputs: [Tensor.from_array(inputs[0].name, ["a", "b", "c"]), *inputs[1:]],
            "'sepal length.*BYTES",
        ),
        (lambda inputs: [Tensor.from_array(inputs[0].name, [1.0]), *inputs[1:]], "length"),
        (lambda inputs: [Tensor.from_array("x", np.ones((3, 5)))], "x"),
    ],
    ids=["missing", "extra", "mistyped", "short", "wide"],
)
def test_what_does_not_fit_is_refused_in_pyfuncs_words(folders, load, change, text, output):
    native, pyfunc = (load(folders["labels"], each) for each in ("native", "pyfunc"))
    inputs = change(_tensors(IRIS[:3]))
    with pytest.raises(InvalidRequestError) as expected:
        pyfunc.infer(InferRequest(inputs))
    asked = [RequestedOutput(output)] if output else []
    with pytest.raises(InvalidRequestError, match=text) as found:
        native.infer(InferRequest(inputs, asked))
    assert str(found.value) == str(expected.value)


def test_parameters_count_for_outputs_on_request_only(folders, load):
    native = load(folders["xgb"], "native")
    inputs, few = _tensors(CANCER[:ROWS]), {"iteration_range": [0, 1]}
    assert "iteration_range" in native.metadata().parameters["on_request_parameters"]
    both = [RequestedOutput("output-0"), RequestedOutput("predict_proba")]
    plain = {each.name: each.array for each in native.infer(InferRequest(inputs, both)).outputs}
    asked = native.infer(InferRequest(inputs, both, few)).outputs
    assert np.array_equal(asked[0].array, plain["output-0"])
    assert not np.array_equal(asked[1].array, plain["predict_proba"])
    assert np.array_equal(
        native.infer(InferRequest(inputs, parameters=few)).outputs[0].array, plain["output-0"]
    )


def test_every_one_of_many_requests_gets_its_own_answer(clients, models):
    rows = models["xgb-booster"].rows
    pyfunc = clients["grpc"].model("xgb-booster-pyfunc")
    right = pyfunc.infer(InferRequest(_tensors(rows)))["output-0"]
    client = clients["binary"].model("xgb-booster-native")

    def ask(place):
        return client.infer(InferRequest(_tensors(rows[place : place + 1])))["output-0"]

    with ThreadPoolExecutor(16) as pool:
        found = np.concatenate([*pool.map(ask, range(200))])
    assert len(np.unique(right[:200])) > 10
    assert np.array_equal(found, right[:200])


# ---- what stands against the plugin ----


def _save(path, *, model=None, rows=IRIS, signature=None, **extra):
    model = model or LogisticRegression(max_iter=500).fit(rows, SPECIES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signature = signature or infer_signature(rows, model.predict(rows))
        mlflow.sklearn.save_model(model, path, signature=signature, **QUICK, **extra)
    return path


def _columns(*specs, outputs=None, params=None):
    return ModelSignature(
        inputs=Schema([*specs]),
        outputs=Schema(outputs or [ColSpec(DataType.long)]),
        params=ParamSchema(params) if params else None,
    )


DOUBLES = [ColSpec(DataType.double, name) for name in IRIS]
AGAINST = {
    "params": (
        _columns(*DOUBLES, params=[ParamSpec("scale", "double", 2.0)]),
        "its signature has parameters ('scale')",
    ),
    "array": (
        _columns(*DOUBLES[1:], ColSpec(Array(DataType.double), "many")),
        r"its column 'many' is of the type 'Array(double)'",
    ),
    "moment": (
        _columns(*DOUBLES[1:], ColSpec(DataType.datetime, "when")),
        "its column 'when' is of the type 'datetime'",
    ),
    "optional": (
        _columns(*DOUBLES[1:], ColSpec(DataType.double, IRIS.columns[0], required=False)),
        "its column 'sepal length (cm)' is optional",
    ),
    "cube": (
        _columns(TensorSpec(np.dtype(np.float64), (-1, 2, 2))),
        "its input is a tensor of the shape [-1, 2, 2], not of rows",
    ),
    "dict": (
        _columns(TensorSpec(np.dtype(np.float64), (-1, 4), "rows")),
        "its signature takes named tensors, which pyfunc hands over as a dict",
    ),
    "outputs": (
        _columns(*DOUBLES, outputs=[ColSpec(DataType.long, "a"), ColSpec(DataType.long, "b")]),
        "its signature has several outputs ('a', 'b')",
    ),
    "names": (
        _columns(*[ColSpec(DataType.double, each) for each in "abcd"]),
        "its signature's columns ('a', 'b', 'c', 'd') are not those of its training",
    ),
    "width": (_columns(*DOUBLES[:3]), "its signature has 3 columns, and the model 4"),
    "cast": (
        _columns(*[ColSpec(DataType.string, each) for each in IRIS]),
        "pyfunc refuses a row that was tried",
    ),
}


@pytest.mark.parametrize("name", AGAINST)
def test_what_stands_against_the_plugin_is_told(tmp_path, load, name):
    signature, text = AGAINST[name]
    _save(tmp_path / "model", signature=signature)
    flavor, reason = _told(load(tmp_path / "model"))
    assert flavor == "pyfunc"
    assert reason.startswith("served by pyfunc: ")
    assert text in reason
    if name == "cast":
        return  # nothing stands against it that was compared
    with pytest.raises(ModelLoadError) as refused:
        load(tmp_path / "model", "native")
    assert "'parameters.extra.flavor' is 'native'" in str(refused.value)
    assert text in str(refused.value)


def test_a_method_that_is_no_prediction_is_pyfuncs(tmp_path, load):
    _save(tmp_path / "model", pyfunc_predict_fn="score")
    assert "pyfunc calls 'score'" in _told(load(tmp_path / "model"))[1]


def test_a_form_that_the_plugin_does_not_read_is_pyfuncs(tmp_path, load):
    folder = _save(tmp_path / "model", serialization_format="cloudpickle")
    (folder / "model.pkl").rename(folder / "model.own")
    told = (folder / "MLmodel").read_text().replace("model.pkl", "model.own")
    (folder / "MLmodel").write_text(told)
    reason = _told(load(folder))[1]
    assert "the plugin 'sklearn' does not read 'model.own'" in reason


def test_what_can_not_be_copied_for_the_plugin_is_pyfuncs(tmp_path, load, monkeypatch):
    folder = tmp_path / "model"
    trees = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1, n_jobs=1).fit(DIABETES, PROGRESS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.lightgbm.save_model(trees, folder, **QUICK)
    assert (folder / "model.skops").is_file()

    def refuse(self):
        raise TypeError("it holds a lock")

    monkeypatch.setattr(lightgbm.LGBMRegressor, "__getstate__", refuse)
    flavor, reason = _told(load(folder))
    assert flavor == "pyfunc"
    assert "does not read 'model.skops', and what MLflow made of it can't be pickled" in reason
    assert "it holds a lock" in reason


def test_pandas_categories_of_lightgbm_are_served_where_it_is_asked_for(tmp_path, load):
    rows = pd.DataFrame({"size": np.arange(60.0), "tone": ["warm", "cool", "dim"] * 20})
    trained = rows.astype({"tone": "category"})
    leaves = lightgbm.LGBMClassifier(n_estimators=4, min_child_samples=2, verbose=-1, n_jobs=1)
    leaves.fit(trained, (rows["tone"] == "warm") ^ (rows["size"] > 30))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.lightgbm.save_model(
            leaves,
            tmp_path / "model",
            signature=infer_signature(rows, leaves.predict(trained)),
            **QUICK,
        )
    flavor, reason = _told(load(tmp_path / "model"))
    assert (flavor, "categorical_feature do not match" in reason) == ("pyfunc", True)
    native = load(tmp_path / "model", "native")
    assert "nothing could be compared" in _told(native)[1]
    answer = native.infer(InferRequest(_tensors(rows))).outputs[0]
    right = leaves.predict(trained)
    assert len(set(right)) == 2
    assert np.array_equal(answer.array, right)


def test_nothing_is_left_of_a_copy(folders, load, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert _told(load(folders["lgbm-skops"]))[0] == "lightgbm"
    assert not [*tmp_path.iterdir()]


def test_another_flavour_is_pyfuncs(tmp_path, load):
    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input: list[str], params=None):
            return model_input

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(tmp_path / "model", python_model=Echo(), **QUICK)
    flavor, reason = _told(load(tmp_path / "model"))
    assert flavor == "pyfunc"
    assert "no flavour that a plugin serves (sklearn, xgboost, lightgbm, catboost)" in reason


def test_without_the_plugin_pyfunc_serves(folders, load):
    runtime = load(folders["xgb"], runtimes={})
    flavor, reason = _told(runtime)
    assert flavor == "pyfunc"
    assert "the plugin 'xgboost' is not installed (pip install \"jackfield[xgboost]\")" in reason
    assert runtime.infer(InferRequest(_tensors(CANCER[:2]))).outputs[0].shape == (2,)
    with pytest.raises(ModelLoadError, match="'xgboost' is not installed"):
        load(folders["xgb"], "native", runtimes={})


def test_a_plugin_that_can_not_load_it_is_told(folders, load):
    sklearn = discover().runtimes["sklearn"]
    broken = msgspec.structs.replace(sklearn, runtime="jackfield_sklearn._runtime:Missing")
    flavor, reason = _told(load(folders["labels"], runtimes={"sklearn": broken}))
    assert flavor == "pyfunc"
    assert "the plugin 'sklearn' can't serve it" in reason


def test_a_plugin_that_answers_otherwise_does_not_serve(tmp_path, load):
    # saved with labels of its own, which XGBoost's scikit-learn class does not read
    booster = xgboost.train(
        {"objective": "multi:softmax", "num_class": 3}, xgboost.DMatrix(IRIS, SPECIES), 3
    )
    booster.set_attr(labels=json.dumps([10, 20, 30]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.xgboost.save_model(
            booster,
            tmp_path / "model",
            signature=infer_signature(IRIS, booster.predict(xgboost.DMatrix(IRIS))),
            **QUICK,
        )
    flavor, reason = _told(load(tmp_path / "model"))
    assert flavor == "pyfunc"
    assert "the plugin answers otherwise than pyfunc" in reason


def test_a_closed_model_lets_go_of_the_plugin(folders, load):
    runtime = load(folders["cat"], "native")
    request = InferRequest(_tensors(IRIS[:1]))
    assert runtime.infer(request).outputs
    runtime.close()
    with pytest.raises((JackfieldError, RuntimeError, AttributeError)):
        runtime.infer(request)
