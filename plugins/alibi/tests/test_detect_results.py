"""What detectors answer over the wire is what Alibi Detect itself answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from detectors import HAS_TORCH, MLSERVER, SEED, loaded, needs_torch

from jackfield import InferRequest, RequestedOutput, Tensor
from jackfield.client import Client

FORMS = ("json", "binary", "grpc")
#: Detectors of drift that draw nothing.
EXACT = (
    "ks", "ks-fdr", "ks-series", "ks-single", "cvm", "chi2", "tabular", "fet", "classifier",
    "images",
)  # fmt: skip
#: Those that draw permutations, or train.
DRAWING = ("mmd", "lsdd", "classifier-torch", "spot", "learned", "uncertainty")
OUTLIERS = ("iforest", "mahalanobis", "spectral", "gmm")
OUTLIERS_BY_TORCH = ("knn", "knn-ensemble", "lof", "pca")
ONLINE = ("cvm-online", "fet-online")
ONLINE_BY_TORCH = ("mmd-online", "lsdd-online")
BY_TORCH = (*DRAWING, *OUTLIERS_BY_TORCH, *ONLINE_BY_TORCH)


def marked(*names):
    """Give names as parameters; PyTorch's detectors are skipped without it."""
    return [pytest.param(each, marks=needs_torch if each in BY_TORCH else ()) for each in names]


@pytest.fixture(scope="module")
def clients(detectors, serve):
    at = serve(detectors["ks"].folder.parent)
    with (
        Client(at.http, form="json") as text,
        Client(at.http, form="binary") as binary,
        Client(at.grpc) as grpc,
    ):
        yield {"json": text, "binary": binary, "grpc": grpc}


def seed():
    np.random.seed(SEED)
    if HAS_TORCH:
        import torch

        torch.manual_seed(SEED)


def flat(value):
    return np.asarray(value, np.float64).reshape(-1)


def same_verdict(result, data):
    """Compare with what `predict` gave, value by value; FP32 is exact in FP64."""
    assert result["is_drift"].tolist() == [data["is_drift"]]
    assert result["p_val"].shape == (1, np.size(data["p_val"]))
    assert np.array_equal(result["p_val"][0], flat(data["p_val"]))
    assert np.array_equal(result["distance"][0], flat(data["distance"]))
    assert result["threshold"].tolist() == [np.min(data["threshold"])]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", EXACT)
def test_drift_is_found_where_it_was_planted_as_alibi_does(detectors, clients, name, form):
    fitted = detectors[name]
    for rows, is_drift in ((fitted.alike, 0), (fitted.shifted, 1)):
        result = clients[form].model(name).infer(fitted.request(rows))
        data = fitted.load().predict(np.asarray(rows, _dtype(name, rows)))["data"]
        same_verdict(result, data)
        assert result["is_drift"].tolist() == [is_drift]
        assert result["rows"].tolist() == [len(rows)]
        least = result["p_val"].min()
        assert least < 1e-6 if is_drift else least > result["threshold"][0]


def _dtype(name, rows):
    return np.float32 if name == "ks-single" else rows.dtype


@pytest.mark.parametrize("name", marked(*DRAWING))
def test_detectors_that_draw_answer_as_alibi_with_the_same_seed(detectors, name):
    fitted = detectors[name]
    runtime = loaded(fitted.folder, seed=SEED)
    names = [each.name for each in runtime.metadata().outputs]
    request = fitted.request(outputs=[RequestedOutput(each) for each in names])
    seed()
    response = runtime.infer(request)
    seed()
    mine = fitted.load()
    seed()
    data = mine.predict(fitted.alike.copy())["data"]
    if name in ("classifier-torch", "learned", "uncertainty", "mmd", "spot"):
        same_verdict({each.name: each.array for each in response.outputs}, data)
        for extra in ("diffs", "diff_coeffs", "probs_ref", "probs_test", "distance_threshold"):
            if extra in names:
                assert np.array_equal(response.output(extra).array[0], np.asarray(data[extra]))
    runtime.close()


@pytest.mark.parametrize("name", marked(*DRAWING))
def test_detectors_that_draw_tell_shifted_rows_from_others(detectors, clients, name):
    fitted = detectors[name]
    found = []
    for rows in (fitted.alike, fitted.shifted):
        seed()  # the server is in this process, and draws from the same generators
        found.append(clients["grpc"].model(name).infer(fitted.request(rows)))
    alike, shifted = found
    assert shifted["p_val"].item() < alike["p_val"].item()
    assert shifted["is_drift"].tolist() == [1]
    assert alike["p_val"].item() > 0.05


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", marked(*OUTLIERS, *OUTLIERS_BY_TORCH))
def test_outliers_are_scored_row_by_row_as_alibi_does(detectors, clients, name, form):
    fitted = detectors[name]
    # one that remembers has its own place in the row of requests, see below
    found = {}
    for rows in (fitted.alike, fitted.shifted):
        if name == "mahalanobis":
            continue
        result = clients[form].model(name).infer(fitted.request(rows))
        data = fitted.load().predict(rows)["data"]
        assert result["is_outlier"].shape == (len(rows),)
        assert np.array_equal(result["is_outlier"], data["is_outlier"])
        assert np.array_equal(result["instance_score"], flat(data["instance_score"]))
        assert "feature_score" not in result
        found[len(found)] = result["is_outlier"].mean()
    if found:
        assert found[1] > found[0]


def test_a_detector_that_remembers_answers_as_one_object_does(detectors, clients):
    fitted = detectors["mahalanobis"]
    mine = fitted.load()
    model = clients["grpc"].model("mahalanobis")
    for rows in (fitted.alike, fitted.shifted, fitted.alike):
        result = model.infer(fitted.request(rows))
        data = mine.predict(rows)["data"]
        assert np.array_equal(result["instance_score"], data["instance_score"])
        assert np.array_equal(result["is_outlier"], data["is_outlier"])


@pytest.mark.parametrize("name", marked(*ONLINE, *ONLINE_BY_TORCH))
def test_an_online_detector_answers_for_each_row_whatever_the_form(detectors, clients, name):
    fitted = detectors[name]
    start = 0
    for form in FORMS:
        result = clients[form].model(name).infer(fitted.request(fitted.alike[:9]))
        assert result["time"].tolist() == list(range(start + 1, start + 10))
        assert result["is_drift"].shape == result["ert"].shape == (9,)
        assert len(result["test_stat"]) == len(result["threshold"]) == 9
        if start == 0 and name in ONLINE:
            assert np.isnan(result["test_stat"]).any(), "no window was full yet"
        start += 9
    shifted = clients["grpc"].model(name).infer(fitted.request(fitted.shifted))
    assert shifted["is_drift"].any()
    assert np.isfinite(shifted["test_stat"][-1]).all()


@pytest.mark.parametrize("name", marked("cvm-online", *ONLINE_BY_TORCH))
def test_an_online_detector_takes_the_steps_of_alibis_own(detectors, name):
    fitted = detectors[name]
    runtime = loaded(fitted.folder, seed=SEED, save_state=False)
    seed()
    mine = fitted.load()
    rows = np.concatenate([fitted.alike[:12], fitted.shifted[:12]])
    response = runtime.infer(fitted.request(rows))
    steps = [mine.predict(row)["data"] for row in rows]
    for key in ("is_drift", "test_stat", "threshold", "time"):
        wanted = np.stack([np.asarray(each[key], np.float64) for each in steps])
        found = response.output(key).array
        assert found.shape == wanted.shape
        assert np.array_equal(found, wanted, equal_nan=True), key
    runtime.close()


@pytest.mark.parametrize("form", FORMS)
def test_features_may_come_as_columns_by_name(detectors, serve, tmp_path, form):
    fitted = detectors["ks"]
    names = ["radius", "texture", "perimeter", "area", "smoothness"]
    settings = {
        "name": "named",
        "implementation": "alibi-detect",
        "parameters": {"uri": str(fitted.folder), "extra": {"feature_names": names}},
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    at = serve(tmp_path)
    url = at.grpc if form == "grpc" else at.http
    options = {} if form == "grpc" else {"form": form}
    with Client(url, **options) as client:
        model = client.model("named")
        assert model.metadata().parameters["feature_names"] == (
            names if form != "grpc" else model.metadata().parameters["feature_names"]
        )
        columns = [
            Tensor.from_array(name, fitted.shifted[:, at].copy()) for at, name in enumerate(names)
        ]
        result = model.infer(InferRequest(columns[::-1]))
        same_verdict(result, fitted.load().predict(fitted.shifted)["data"])


@pytest.mark.parametrize("form", FORMS)
def test_the_reference_data_are_given_on_request(detectors, clients, form):
    fitted = detectors["ks"]
    outputs = [RequestedOutput("reference")]
    result = clients[form].model("ks").infer(fitted.request(fitted.alike[:1], outputs=outputs))
    assert list(result) == ["reference"]
    assert np.array_equal(result["reference"], fitted.load().x_ref)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["ks", "iforest", "cvm-online"])
def test_under_mlservers_name_the_shapes_are_mlservers(detectors, serve, tmp_path, name, form):
    fitted = detectors[name]
    uri = fitted.folder / "detector.joblib" if name == "iforest" else fitted.folder
    settings = {
        "name": "theirs",
        "implementation": MLSERVER,
        "parameters": {
            "uri": str(uri),
            "extra": {"state_folder": str(tmp_path / "state"), "state_save_freq": 50},
        },
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    at = serve(tmp_path)
    url = at.grpc if form == "grpc" else at.http
    with Client(url, **({} if form == "grpc" else {"form": form})) as client:
        response = client.model("theirs").infer(fitted.request(fitted.alike[:9]))
    shapes = {key: response[key].shape for key in response}
    if name == "ks":
        assert shapes == {
            "is_drift": (1, 1), "distance": (1, 5), "p_val": (1, 5), "threshold": (1, 1),
        }  # fmt: skip
        assert response["p_val"].dtype == np.float32
    elif name == "iforest":
        assert shapes == {"instance_score": (1, 9), "feature_score": (1, 1), "is_outlier": (1, 9)}
        assert np.isnan(response["feature_score"]).all()
    else:
        assert shapes["is_drift"] == shapes["time"] == shapes["ert"] == (9, 1)
        assert shapes["test_stat"] == (9, 2, 2)
        assert np.isnan(response["p_val"]).all()
