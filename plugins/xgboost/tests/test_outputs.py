"""Every output of every artifact, over the wire, is what XGBoost itself answers, bit for bit."""

from __future__ import annotations

import json

import joblib
import numpy as np
import pytest
import xgboost
from plugins.xgboost.tests.conftest import MLSERVER, tensors_of

from jackfield import InferRequest, RequestedOutput, Tensor
from jackfield.client import Client

#: Model -> its file and its data.
MODELS = {
    "cancer-json": ("model.json", "cancer"),
    "cancer-old-name": ("model.bst", "cancer"),
    "iris-ubj": ("model.ubj", "iris"),
    "iris-joblib": ("model.joblib", "iris"),
    "diabetes-ubj": ("model.ubj", "diabetes"),
    "homes-json": ("model.json", "homes"),
    "homes-ubj": ("model.ubj", "homes"),
    "ranks-ubj": ("model.ubj", "ranks"),
}
ROWS = 12


def save(folder, file, data):
    if file.endswith(".joblib"):
        target = data.matrix.get_label().astype(int)
        model = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(data.features, target)
        joblib.dump(model, folder / file)
        return model.get_booster()
    form = "json" if file.endswith("json") else "ubj"
    (folder / file).write_bytes(data.booster.save_raw(form))
    return data.booster


@pytest.fixture(scope="module")
def served(tmp_path_factory, start, cancer, iris, diabetes, homes, ranks):
    """Serve all models; give their boosters, their data and a client for each wire."""
    root = tmp_path_factory.mktemp("models")
    all_data = {
        "cancer": cancer, "iris": iris, "diabetes": diabetes, "homes": homes, "ranks": ranks
    }  # fmt: skip
    made = {}
    for name, (file, kind) in MODELS.items():
        folder = root / name
        folder.mkdir()
        categories = {"city": ["Rome", "Oslo", "Bergen"], "floor": [1, 3, 5]}
        extra = {"categories": categories} if kind == "homes" else {}
        settings = {
            "name": name,
            "implementation": "xgboost",
            "parameters": {"uri": file, "extra": extra},
        }
        (folder / "model-settings.json").write_text(json.dumps(settings))
        made[name] = (save(folder, file, all_data[kind]), all_data[kind])
    at = start(root)
    with (
        Client(at.http, form="json") as text,
        Client(at.http, form="binary") as binary,
        Client(at.grpc) as grpc,
    ):
        yield made, {"json": text, "binary": binary, "grpc": grpc}


def expected(booster, rows):
    """Ask XGBoost as its user would."""
    matrix = xgboost.DMatrix(rows, enable_categorical=True)
    value = booster.inplace_predict(rows)
    found = {
        "predict": value,
        "raw": booster.inplace_predict(rows, predict_type="margin"),
        "leaf": booster.predict(matrix, pred_leaf=True).astype(np.int32),
        "contributions": booster.predict(matrix, pred_contribs=True),
        "interactions": booster.predict(matrix, pred_interactions=True),
    }
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    if objective == "binary:logistic":
        found["predict"] = (value > 0.5).astype(np.int64)
        found["predict_proba"] = np.stack([1 - value, value], axis=1)
    if objective == "multi:softprob":
        found["predict"] = value.argmax(axis=1)
        found["predict_proba"] = value
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("wire", ["json", "binary", "grpc"])
def test_every_output_equals_xgboosts(served, name, wire):
    made, clients = served
    booster, data = made[name]
    is_frame = hasattr(data.features, "columns")
    rows = data.features[:ROWS]
    wanted = expected(booster, rows)
    client = clients[wire].model(name)
    told = {each.name for each in client.metadata().outputs} - {"margin", "decision_function"}
    assert told == set(wanted)
    forms = {"pd": tensors_of(rows)[::-1]} if is_frame else {}
    if name.partition("-")[0] != "homes":
        forms["np"] = [Tensor.from_array("x", np.asarray(rows))]
    for content_type, tensors in forms.items():
        request = InferRequest(
            tensors, [RequestedOutput(each) for each in wanted], {"content_type": content_type}
        )
        answer = client.infer(request)
        for output, right in wanted.items():
            found = answer[output]
            assert found.dtype == right.dtype, (content_type, output)
            assert np.array_equal(found, right), (content_type, output)


@pytest.mark.parametrize("wire", ["json", "binary", "grpc"])
def test_parameters_of_a_request_go_over_every_wire(served, wire):
    made, clients = served
    booster, data = made["diabetes-ubj"]
    tensor = Tensor.from_array("x", data.features[:3])
    request = InferRequest([tensor], [], {"iteration_range": "[0, 2]"})
    found = clients[wire].model("diabetes-ubj").infer(request)["predict"]
    assert np.array_equal(found, booster.inplace_predict(data.features[:3], iteration_range=(0, 2)))


def test_mlservers_example_is_served_with_its_settings_unchanged(tmp_path, start):
    """A native booster of 126 binary features, depth 2, eta 1, two rounds."""
    rng = np.random.default_rng(0)
    features = rng.integers(0, 2, (400, 126)).astype(np.float32)
    matrix = xgboost.DMatrix(features, features[:, 3] > features[:, 7])
    training = {"max_depth": 2, "eta": 1, "objective": "binary:logistic"}
    booster = xgboost.train(training, matrix, 2)
    booster.save_model(tmp_path / "mushroom-xgboost.json")
    settings = {
        "name": "mushroom-xgboost",
        "implementation": MLSERVER,
        "parameters": {"uri": "./mushroom-xgboost.json", "version": "v0.1.0"},
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    with Client(start(tmp_path).http) as client:
        request = InferRequest([Tensor.from_array("predict", features[:1])])
        found = client.model("mushroom-xgboost", version="v0.1.0").infer(request)["predict"]
    assert found.dtype == np.float32
    assert np.array_equal(found, booster.inplace_predict(features[:1]).reshape(1, 1))
