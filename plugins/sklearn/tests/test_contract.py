"""The runtime contract, for three models that differ in what goes in and what comes out."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from jackfield import InferRequest, Tensor
from jackfield.testing import RuntimeContract
from jackfield_sklearn import jackfield_runtimes


class OfSklearn(RuntimeContract):
    @pytest.fixture
    def spec(self):
        return jackfield_runtimes()[0]


class TestClassifierOfArrays(OfSklearn):
    @pytest.fixture
    def model_dir(self, tmp_path):
        features, labels = load_iris(return_X_y=True)
        joblib.dump(
            LogisticRegression(max_iter=1000).fit(features, labels), tmp_path / "model.joblib"
        )
        return tmp_path

    @pytest.fixture
    def example(self):
        features, _ = load_iris(return_X_y=True)
        return InferRequest([Tensor.from_array("anything", features[::30])])


class TestPipelineOfDataFrames(OfSklearn):
    @pytest.fixture
    def wine(self):
        wine = load_wine(as_frame=True)
        tone = np.where(wine.data["hue"] > 1, "warm", "cool")
        return wine.data.assign(tone=tone), wine.target_names[wine.target]

    @pytest.fixture
    def model_dir(self, tmp_path, wine):
        features, labels = wine
        numbers = [name for name in features if name != "tone"]
        columns = make_column_transformer((StandardScaler(), numbers), (OneHotEncoder(), ["tone"]))
        joblib.dump(
            make_pipeline(columns, LogisticRegression()).fit(features, labels),
            tmp_path / "model.joblib",
        )
        return tmp_path

    @pytest.fixture
    def example(self, wine):
        features, _ = wine
        rows = features.iloc[::40]
        return InferRequest(
            [Tensor.from_array(name, rows[name].to_numpy(dtype=None)) for name in rows]
        )


class TestForestOfRegressors(OfSklearn):
    @pytest.fixture
    def model_dir(self, tmp_path):
        features, target = load_diabetes(return_X_y=True)
        forest = RandomForestRegressor(20, random_state=0).fit(features, target)
        joblib.dump(forest, tmp_path / "model.joblib")
        return tmp_path

    @pytest.fixture
    def example(self):
        features, _ = load_diabetes(return_X_y=True)
        return InferRequest([Tensor.from_array("x", features[:1])])
