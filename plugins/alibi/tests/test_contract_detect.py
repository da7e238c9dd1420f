"""The runtime contract, for detectors of each kind and form."""

from __future__ import annotations

import importlib.util

import pytest
from detectors import MLSERVER, needs_torch

from jackfield import ModelParameters, ModelSettings
from jackfield.testing import RuntimeContract
from jackfield_alibi import jackfield_runtimes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("alibi_detect") is None, reason="Alibi Detect is not installed"
)


class OfDetector(RuntimeContract):
    name = ""
    implementation = "alibi-detect"
    extra = ()
    rows = 60
    # a detector draws in its own ways, and Alibi Detect keeps a cache of compiled functions
    leak_bytes = 64 * 1024

    #: Another process imports Alibi Detect anew, for ten seconds: once for each form is enough.
    is_alone = False

    def test_another_process_gives_the_same_answers(self, spec, model_dir, settings, example):
        if not self.is_alone:
            pytest.skip("another class asks another process about a detector of this form")
        super().test_another_process_gives_the_same_answers(spec, model_dir, settings, example)

    @pytest.fixture
    def spec(self):
        return jackfield_runtimes()[0]

    @pytest.fixture
    def model_dir(self, detectors):
        return detectors[self.name].folder

    @pytest.fixture
    def settings(self):
        parameters = ModelParameters(extra={"save_state": False, **dict(self.extra)})
        return ModelSettings(
            name="model", implementation=self.implementation, parameters=parameters
        )

    @pytest.fixture
    def example(self, detectors):
        fitted = detectors[self.name]
        return fitted.request(fitted.alike[: self.rows].copy())


class TestDrift(OfDetector):
    name = "ks"
    is_alone = True


class TestDriftByFeature(OfDetector):
    name = "tabular"
    extra = (("predict_parameters", {"drift_type": "feature"}),)


class TestDriftOfImages(OfDetector):
    name = "images"


class TestDriftOfASeries(OfDetector):
    name = "ks-series"


class TestDriftByAClassifier(OfDetector):
    name = "classifier"


class TestDriftOfWindows(OfDetector):
    name = "ks"
    extra = (("window", {"rows": 40, "every": 20}),)


class TestDriftUnderMlserversName(OfDetector):
    name = "ks"
    implementation = MLSERVER


class TestOnlineDrift(OfDetector):
    name = "cvm-online"
    is_alone = True
    rows = 20


class TestOutliers(OfDetector):
    name = "iforest"
    is_alone = True


class TestOutliersThatAreRemembered(OfDetector):
    name = "mahalanobis"


class TestOutliersOfNewStyle(OfDetector):
    name = "gmm"


class TestOutliersUnderMlserversName(OfDetector):
    name = "mahalanobis"
    implementation = MLSERVER


@needs_torch
class TestOutliersByPytorch(OfDetector):
    name = "knn"


@needs_torch
class TestDriftByPytorch(OfDetector):
    name = "uncertainty"  # the others draw, and give another p-value each time


@needs_torch
class TestOnlineDriftByPytorch(OfDetector):
    name = "mmd-online"
    rows = 20
