"""What the core relies on, for explainers that SHAP computes: no Alibi is needed, on any NumPy."""

from __future__ import annotations

import httpx
import joblib
import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

pytest.importorskip("shap", reason="needs shap: jackfield[shap]")
pytest.importorskip("jackfield_sklearn", reason="the model that is explained is scikit-learn's")

from explainers import OURS, SEED, explainer, write_settings

from jackfield import InferRequest, ModelSettings, Tensor
from jackfield.testing import RuntimeContract
from jackfield_alibi import jackfield_runtimes

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # of matplotlib, when shap is imported
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]
IRIS = load_iris()


@pytest.fixture(scope="module")
def forest():
    return RandomForestClassifier(12, max_depth=4, random_state=0, n_jobs=1).fit(
        IRIS.data, IRIS.target
    )


@pytest.fixture(scope="module")
def folder(forest, tmp_path_factory):
    """Write a forest, and two explainers of it: by its trees, and by its answers alone."""
    root = tmp_path_factory.mktemp("explained")
    write_settings(root / "forest", "forest", "sklearn")
    joblib.dump(forest, root / "forest" / "model.joblib")
    explainer(root, "trees", "tree_shap", uri="../forest/model.joblib")
    explainer(root, "kernel", "kernel_shap", IRIS.data[::10], target="forest")
    return root


class TestTreeShap(RuntimeContract):
    @pytest.fixture
    def spec(self):
        [spec] = [each for each in jackfield_runtimes() if each.name == OURS]
        return msgspec.structs.replace(spec, artifacts=())

    @pytest.fixture
    def model_dir(self, folder):
        return folder / "forest" / "model.joblib"

    @pytest.fixture
    def settings(self):
        extra = {"explainer_type": "tree_shap", "seed": SEED}
        settings = {"name": "model", "implementation": OURS, "parameters": {"extra": extra}}
        return msgspec.convert(settings, ModelSettings)

    @pytest.fixture
    def example(self):
        return InferRequest([Tensor.from_array("x", IRIS.data[::30])])


def test_both_are_served_beside_the_model_and_add_up(folder, forest, serve):
    rows = IRIS.data[::50]
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [3, 4], "data": rows.tolist()}]}
    found = {}
    with httpx.Client(base_url=serve(folder).http, timeout=60) as http:
        index = http.post("/v2/repository/index", json={}).json()
        assert {each["name"]: each["state"] for each in index} == dict.fromkeys(
            ("forest", "trees", "kernel"), "READY"
        )
        for name in ("trees", "kernel"):
            answer = http.post(f"/v2/models/{name}/infer", json=body)
            assert answer.status_code == 200, answer.text
            outputs = {each["name"]: each for each in answer.json()["outputs"]}
            found[name] = {
                key: np.reshape(outputs[key]["data"], outputs[key]["shape"])
                for key in ("shap_values", "expected_value")
            }
    # one by one, for each class, they lead from what is expected to what the forest says
    chances = forest.predict_proba(rows)
    for each in found.values():
        assert each["shap_values"].shape == (3, 4, 3)
        np.testing.assert_allclose(
            each["shap_values"].sum(axis=1) + each["expected_value"], chances, atol=1e-9
        )
