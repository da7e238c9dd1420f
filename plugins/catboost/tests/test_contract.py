"""The runtime contract, for models that differ in what goes in and what comes out."""

from __future__ import annotations

import msgspec
import pytest

from jackfield import ModelSettings
from jackfield.testing import RuntimeContract
from jackfield_catboost import jackfield_runtimes


class OfCatboost(RuntimeContract):
    name = ""

    @pytest.fixture
    def spec(self):
        return jackfield_runtimes()[0]

    @pytest.fixture
    def model_dir(self, trained):
        return trained[self.name].folder

    @pytest.fixture
    def example(self, trained):
        model = trained[self.name]
        few = msgspec.structs.replace
        request = model.request()
        return few(
            request, inputs=[few(each, array=each.array[:4].copy()) for each in request.inputs]
        )


class TestClassifier(OfCatboost):
    name = "cancer"


class TestClassifierOfSeveralClasses(OfCatboost):
    name = "wine"


class TestClassifierOfCategoriesAndTexts(OfCatboost):
    name = "notes"


class TestRegressor(OfCatboost):
    name = "diabetes"


class TestRanker(OfCatboost):
    name = "ranker"


class TestUnderMlserversName(OfCatboost):
    name = "iris"

    @pytest.fixture
    def settings(self):
        return ModelSettings(name="model", implementation="mlserver_catboost.CatboostModel")
