"""Every output of every artifact, over the wire, is what scikit-learn itself answers."""

from __future__ import annotations

import json
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor, IsolationForest, RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from jackfield import InferRequest, RequestedOutput, Tensor
from jackfield.client import Client

#: scikit-learn's method -> our output, where they differ.
NAMES = {"decision_function": "raw", "apply": "leaf"}
FORMS = ("json", "binary", "grpc")
MLSERVER = "mlserver_sklearn.SKLearnModel"
IRIS, FLOWER = load_iris(return_X_y=True)
DIGITS, DIGIT = load_digits(return_X_y=True)
CANCER, IS_BENIGN = load_breast_cancer(return_X_y=True)
DIABETES, PROGRESS = load_diabetes(return_X_y=True)


def wines():
    """Numbers, some of which are missing, and a category."""
    wine = load_wine(as_frame=True)
    frame = wine.data[["alcohol", "proline"]].copy()
    frame.loc[::7, "alcohol"] = np.nan
    frame["tone"] = np.where(wine.data["hue"] > 1, "warm", "cool")
    return frame, np.asarray(wine.target_names)[wine.target]


def models():
    frame, kind = wines()
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["alcohol", "proline"]),
        (OneHotEncoder(), ["tone"]),
    )
    missing = DIABETES.copy()
    missing[::5, 2] = np.nan
    linear = ("predict", "predict_proba", "predict_log_proba", "decision_function")
    forest = ("predict", "predict_proba", "predict_log_proba", "apply")
    return {
        "iris.joblib": (LogisticRegression(max_iter=500).fit(IRIS, FLOWER), IRIS, linear),
        "digits.pkl": (
            SVC(gamma=0.001).fit(DIGITS, DIGIT), DIGITS, ("predict", "decision_function"),
        ),
        "forest.joblib": (
            RandomForestClassifier(20, random_state=0).fit(DIGITS, DIGIT), DIGITS, forest,
        ),
        "wine.joblib": (
            make_pipeline(columns, LogisticRegression()).fit(frame, kind), frame, linear,
        ),
        "diabetes.pickle": (
            HistGradientBoostingRegressor(max_iter=5).fit(missing, PROGRESS), missing, ("predict",),
        ),
        "scaled.skops": (
            make_pipeline(StandardScaler(), LogisticRegression()).fit(CANCER, IS_BENIGN),
            CANCER, linear,
        ),
        "pca.skops": (PCA(2).fit(IRIS), IRIS, ("transform", "score_samples")),
        "near.joblib": (
            KNeighborsClassifier().fit(IRIS, FLOWER), IRIS, ("predict", "predict_proba"),
        ),
        "odd.joblib": (
            IsolationForest(n_estimators=10, random_state=0).fit(IRIS),
            IRIS, ("predict", "decision_function", "score_samples"),
        ),
        "mixture.joblib": (
            GaussianMixture(3, random_state=0).fit(IRIS),
            IRIS, ("predict", "predict_proba", "score_samples"),
        ),
    }  # fmt: skip


MODELS = models()
UNSURE = {
    "bayes": BayesianRidge().fit(DIABETES, PROGRESS),
    "gauss": make_pipeline(StandardScaler(), GaussianProcessRegressor(random_state=0)).fit(
        DIABETES[:50], PROGRESS[:50]
    ),
}


def save(model, file):
    if file.suffix == ".joblib":
        joblib.dump(model, file)
    elif file.suffix == ".skops":
        skops.io.dump(model, file)
    else:
        file.write_bytes(pickle.dumps(model))


@pytest.fixture(scope="module")
def clients(tmp_path_factory, serve):
    home = tmp_path_factory.mktemp("models")

    def add(name, model, file, implementation="sklearn", **extra):
        (home / name).mkdir()
        save(model, home / name / file)
        settings = {
            "name": name,
            "implementation": implementation,
            "parameters": {"uri": f"./{file}", "extra": extra},
        }
        (home / name / "model-settings.json").write_text(json.dumps(settings))

    for file, (model, _, _) in MODELS.items():
        add(file, model, file, accelerate="off")
        add(f"fast-{file}", model, file)
    for name, model in UNSURE.items():
        add(name, model, "model.joblib")
    add(
        "named",
        KNeighborsClassifier().fit(IRIS, FLOWER),
        "model.joblib",
        methods=["kneighbors_graph"],
    )
    (home / "mlserver").mkdir()
    save(MODELS["digits.pkl"][0], home / "mlserver" / "model.joblib")
    # as in MLServer's example of scikit-learn
    (home / "mlserver" / "model-settings.json").write_text(
        '{"name": "mnist-svm", "implementation": "mlserver_sklearn.SKLearnModel", '
        '"parameters": {"uri": "./model.joblib", "version": "v0.1.0"}}'
    )
    at = serve(home)
    with (
        Client(at.http, form="json") as text,
        Client(at.http, form="binary") as binary,
        Client(at.grpc) as grpc,
    ):
        yield {"json": text, "binary": binary, "grpc": grpc}


def inputs_of(rows):
    """Give each form in which a client may send the rows, by its content type."""
    if isinstance(rows, pd.DataFrame):
        yield (
            "pd",
            [Tensor.from_array(name, rows[[name]].to_numpy()) for name in reversed(list(rows))],
        )
    else:
        yield "np", [Tensor.from_array("x", rows)]
        yield "pd", [Tensor.from_array(f"c{i}", rows[:, i]) for i in range(rows.shape[1])]


def same(found, wanted, *, tolerance=0.0):
    if wanted.dtype.kind in "OUT":
        return found.tolist() == [each.encode() for each in wanted.tolist()]
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    if not tolerance or wanted.dtype.kind != "f":
        return np.array_equal(found, wanted)
    return np.allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:divide by zero")  # scikit-learn's logarithms
@pytest.mark.parametrize("file", MODELS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_fast", [False, True], ids=["itself", "accelerated"])
def test_every_output_equals_scikit_learns(clients, file, form, is_fast):
    model, rows, methods = MODELS[file]
    rows = rows[:40]
    client = clients[form].model(f"fast-{file}" if is_fast else file)
    names = [NAMES.get(method, method) for method in methods]
    assert set(names) <= {each.name for each in client.metadata().outputs}
    for content_type, inputs in inputs_of(rows):
        asked = [[RequestedOutput(name) for name in names]]
        asked += [[RequestedOutput(name)] for name in names]
        for outputs in asked:
            result = client.infer(InferRequest(inputs, outputs, {"content_type": content_type}))
            assert list(result) == [each.name for each in outputs]
            for method, name in zip(methods, names, strict=True):
                if name in result:
                    right = np.asarray(getattr(model, method)(rows))
                    tolerance = 1e-9 if is_fast else 0.0
                    assert same(result[name], right, tolerance=tolerance), (name, content_type)


@pytest.mark.parametrize("form", FORMS)
def test_neighbours_and_methods_that_the_operator_lists(clients, form):
    model = KNeighborsClassifier().fit(IRIS, FLOWER)
    names = ["kneighbors", "kneighbors_indices", "kneighbors_graph"]
    result = clients[form].model("named").infer(
        InferRequest([Tensor.from_array("x", IRIS[:3])], [RequestedOutput(each) for each in names])
    )  # fmt: skip
    distances, indices = model.kneighbors(IRIS[:3])
    assert np.array_equal(result["kneighbors"], distances)
    assert np.array_equal(result["kneighbors_indices"], indices)
    assert np.array_equal(result["kneighbors_graph"], model.kneighbors_graph(IRIS[:3]).toarray())


@pytest.mark.parametrize("name", UNSURE)
@pytest.mark.parametrize("form", FORMS)
def test_a_request_asks_how_sure_a_regressor_is(clients, form, name):
    rows = [Tensor.from_array("x", DIABETES[:4])]
    mean, std = UNSURE[name].predict(DIABETES[:4], return_std=True)
    client = clients[form].model(name)
    plain = client.infer(InferRequest(rows))
    assert list(plain) == ["predict"]
    assert np.array_equal(plain["predict"], mean)
    both = client.infer(InferRequest(rows, [], {"return_std": True}))
    assert np.array_equal(both["predict_std"], std)
    alone = client.infer(InferRequest(rows, [RequestedOutput("predict_std")]))
    assert np.array_equal(alone["predict_std"], std)


@pytest.mark.parametrize("form", FORMS)
def test_the_way_back_takes_other_columns(clients, form):
    model = MODELS["pca.skops"][0]
    reduced = model.transform(IRIS[:3])
    request = InferRequest(
        [Tensor.from_array("x", reduced)], [RequestedOutput("inverse_transform")]
    )
    found = clients[form].model("pca.skops").infer(request)["inverse_transform"]
    assert np.array_equal(found, model.inverse_transform(reduced))


@pytest.mark.parametrize("form", FORMS)
def test_mlservers_digits_model_with_its_settings_answers_as_there(clients, form):
    rows = DIGITS[-3:].astype("f4")
    result = (
        clients[form].model("mnist-svm").infer(InferRequest([Tensor.from_array("predict", rows)]))
    )
    assert result["predict"].dtype == np.int64
    assert (
        result["predict"].tolist() == MODELS["digits.pkl"][0].predict(rows).reshape(-1, 1).tolist()
    )
