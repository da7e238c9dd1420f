"""The runtime contract, for a flavour, a model of tensors and a Python function."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from jackfield import InferRequest, ModelSettings, Tensor
from jackfield.testing import RuntimeContract
from jackfield_mlflow import jackfield_runtimes


class OfMlflow(RuntimeContract):
    name = ""

    @pytest.fixture
    def spec(self):
        return jackfield_runtimes()[0]

    @pytest.fixture
    def model_dir(self, saved):
        return saved[self.name].folder


class TestFlavourOfColumns(OfMlflow):
    name = "iris"

    @pytest.fixture
    def example(self):
        rows, _ = load_iris(return_X_y=True, as_frame=True)
        rows = rows.iloc[::40]
        return InferRequest([Tensor.from_array(name, rows[name].to_numpy()) for name in rows])


class TestFlavourOfAMatrix(OfMlflow):
    name = "diabetes"

    @pytest.fixture
    def example(self):
        rows = np.random.default_rng(0).normal(size=(4, 10)).astype("f4")
        return InferRequest([Tensor.from_array("input-0", rows)])


class TestFlavourUnderMlserversName(TestFlavourOfColumns):
    @pytest.fixture
    def settings(self):
        return ModelSettings(name="model", implementation="mlserver_mlflow.MLflowRuntime")


class OfCode(OfMlflow):
    # MLflow keeps the classes of the last 128 models that were code
    leak_bytes = 24 * 1024

    @pytest.fixture
    def model_dir(self, saved, tmp_path):
        # a compiled file beside the code is no part of the artifact
        ignored = shutil.ignore_patterns("__pycache__")
        return shutil.copytree(saved[self.name].folder, tmp_path / "model", ignore=ignored)


class TestPythonFunctionOfTensors(OfCode):
    name = "tensors"

    @pytest.fixture
    def example(self):
        return InferRequest(
            [
                Tensor.from_array("pixels", np.ones((2, 2), "f4")),
                Tensor.from_array("ids", np.array([1, 2])),
                Tensor.from_array("mask", np.array([[True], [False]])),
                Tensor.from_array("words", ["a", "b"]),
                Tensor.from_array("things", ["x", "y"]),
            ]
        )


class TestPythonFunctionThatStreams(OfCode):
    name = "streams"

    @pytest.fixture
    def example(self):
        frame = pd.DataFrame({"text": ["some words"]})
        return InferRequest([Tensor.from_array("text", frame["text"].tolist())])
