"""The runtime contract, for models that differ in what goes in and what comes out."""

from __future__ import annotations

import pytest

from jackfield.testing import RuntimeContract
from jackfield_lightgbm import jackfield_runtimes


class OfLightGBM(RuntimeContract):
    model = ""

    @pytest.fixture
    def spec(self):
        return jackfield_runtimes()[0]

    @pytest.fixture
    def model_dir(self, trained, tmp_path):
        file = trained[self.model].file
        suffix = file.suffix
        (tmp_path / f"model{suffix}").write_bytes(file.read_bytes())
        return tmp_path

    @pytest.fixture
    def example(self, trained):
        return trained[self.model].request()


class TestClassifierOfAMatrix(OfLightGBM):
    model = "digits.model"


class TestRegressorOfColumns(OfLightGBM):
    model = "houses.txt"


class TestRanker(OfLightGBM):
    model = "ranker.txt"


class TestPickledClassifierOfColumns(OfLightGBM):
    model = "dear.joblib"


class TestLinearTrees(OfLightGBM):
    model = "linear.bst"
