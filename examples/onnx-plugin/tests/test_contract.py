"""The runtime contract, for models that differ in what goes in and what comes out."""

import models
import numpy as np
import pytest
from jackfield_onnx_example import jackfield_runtimes

from jackfield import InferRequest, Tensor
from jackfield.testing import RuntimeContract


class OfOnnx(RuntimeContract):
    @pytest.fixture
    def spec(self):
        return jackfield_runtimes()[0]


class TestClassifier(OfOnnx):
    @pytest.fixture
    def model_dir(self, tmp_path):
        models.classifier(tmp_path / "model.onnx")
        return tmp_path

    @pytest.fixture
    def example(self):
        rows = np.random.default_rng(1).normal(size=(3, 4)).astype("f4")
        return InferRequest([Tensor.from_array("x", rows)])


class TestFixedRows(TestClassifier):
    @pytest.fixture
    def model_dir(self, tmp_path):
        models.classifier(tmp_path / "model.onnx", rows=3)
        return tmp_path


class TestSeveralInputs(OfOnnx):
    @pytest.fixture
    def model_dir(self, tmp_path):
        models.two_inputs(tmp_path / "any-name.onnx")
        return tmp_path

    @pytest.fixture
    def example(self):
        return InferRequest(
            [
                Tensor.from_array("switch", [[True], [False]]),
                Tensor.from_array("numbers", [[1.0, 2.0], [3.0, 4.0]]),
                Tensor.from_array("factors", [[10.0], [20.0]]),
            ]
        )


class TestText(OfOnnx):
    @pytest.fixture
    def model_dir(self, tmp_path):
        models.text(tmp_path / "model.onnx")
        return tmp_path

    @pytest.fixture
    def example(self):
        return InferRequest([Tensor.from_array("text", ["one", "zwei", ""])])
