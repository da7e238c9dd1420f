"""The runtime contract, for boosters that differ in what goes in and what comes out."""

from __future__ import annotations

import importlib.util

import joblib
import numpy as np
import pytest
import xgboost

from jackfield import InferRequest, ModelParameters, ModelSettings, Tensor
from jackfield.testing import RuntimeContract
from jackfield_xgboost import jackfield_runtimes


class OfXgboost(RuntimeContract):
    atol = 1e-5

    @pytest.fixture
    def spec(self):
        return jackfield_runtimes()[0]


class TestClassifierOfNamedColumns(OfXgboost):
    @pytest.fixture
    def model_dir(self, tmp_path, cancer):
        cancer.booster.save_model(tmp_path / "model.json")
        return tmp_path

    @pytest.fixture
    def settings(self):
        return ModelSettings(
            name="model", parameters=ModelParameters(extra={"labels": ["bad", "good"]})
        )

    @pytest.fixture
    def example(self, cancer):
        return InferRequest([Tensor.from_array("x", cancer.features.to_numpy()[:5])])


class TestClassifierOfThree(OfXgboost):
    @pytest.fixture
    def model_dir(self, tmp_path, iris):
        iris.booster.save_model(tmp_path / "model.ubj")
        return tmp_path

    @pytest.fixture
    def example(self, iris):
        return InferRequest([Tensor.from_array("x", iris.features[::40])])


class TestRegressorOfCategories(OfXgboost):
    @pytest.fixture
    def model_dir(self, tmp_path, homes):
        (tmp_path / "model.bst").write_bytes(homes.booster.save_raw("ubj"))
        return tmp_path

    @pytest.fixture
    def settings(self):
        """Give the categories to a release that does not store them."""
        categories = {"city": ["Rome", "Oslo", "Bergen"], "floor": [1, 3, 5]}
        return ModelSettings(
            name="model", parameters=ModelParameters(extra={"categories": categories})
        )

    @pytest.fixture
    def example(self):
        return InferRequest(
            [
                Tensor.from_array("rooms", np.array([2, 3])),
                Tensor.from_array("city", ["Rome", "Paris"]),
                Tensor.from_array("lift", np.array([True, False])),
                Tensor.from_array("size", np.array([70.5, np.nan])),
                Tensor.from_array("floor", np.array([3, 1])),
            ]
        )


class TestRankerAsInMlserver(OfXgboost):
    @pytest.fixture
    def model_dir(self, tmp_path, ranks):
        ranks.booster.save_model(tmp_path / "model.ubj")
        return tmp_path

    @pytest.fixture
    def settings(self):
        return ModelSettings(name="model", implementation="mlserver_xgboost.XGBoostModel")

    @pytest.fixture
    def example(self, ranks):
        return InferRequest([Tensor.from_array("x", ranks.features[:3])])


class TestLinear(OfXgboost):
    @pytest.fixture
    def model_dir(self, tmp_path, diabetes):
        booster = xgboost.train({"booster": "gblinear", "nthread": 1}, diabetes.matrix, 5)
        booster.save_model(tmp_path / "model.ubj")
        return tmp_path

    @pytest.fixture
    def example(self, diabetes):
        return InferRequest([Tensor.from_array("x", diabetes.features[:2])])


@pytest.mark.skipif(not importlib.util.find_spec("sklearn"), reason="needs scikit-learn")
class TestPickledWrapper(OfXgboost):
    @pytest.fixture
    def model_dir(self, tmp_path, iris):
        target = iris.matrix.get_label().astype(int)
        model = xgboost.XGBClassifier(n_estimators=4, n_jobs=1).fit(iris.features, target)
        joblib.dump(model, tmp_path / "model.joblib")
        return tmp_path

    @pytest.fixture
    def example(self, iris):
        return InferRequest([Tensor.from_array("x", iris.features[:1])])
