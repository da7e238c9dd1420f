"""Joblib files that are mapped: equal answers, memory that processes share, files that change."""

from __future__ import annotations

import logging
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from jackfield import InferRequest, ModelContext, ModelParameters, ModelSettings, Tensor
from jackfield.stable import stable_file
from jackfield_sklearn import SklearnOptions
from jackfield_sklearn._artifact import read
from jackfield_sklearn._runtime import SklearnRuntime

LOGGER = logging.getLogger("jackfield.test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JACKFIELD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(artifact, share_memory):
    runtime = SklearnRuntime(
        ModelContext(
            name="model",
            version="",
            artifact=artifact,
            settings=ModelSettings(implementation="sklearn", parameters=ModelParameters()),
            options=SklearnOptions(share_memory=share_memory, accelerate="off"),
            logger=LOGGER,
        )
    )
    runtime.load()
    return runtime


def answer(runtime, rows):
    return runtime.infer(InferRequest([Tensor.from_array("x", rows)])).outputs[0].array


def is_mapped(array):
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(10, random_state=0),
        HistGradientBoostingClassifier(max_iter=5),
        KNeighborsClassifier(),
        KNeighborsClassifier(algorithm="kd_tree"),
        LogisticRegression(max_iter=1000),
        MLPClassifier((10,), max_iter=20, random_state=0),
        SVC(),
        make_pipeline(StandardScaler(), SVC()),
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_mapped_model_answers_as_it_does_otherwise(estimator, tmp_path):
    rows, labels = load_iris(return_X_y=True)
    joblib.dump(estimator.fit(rows, labels), tmp_path / "model.joblib")
    read_, mapped = (load(tmp_path / "model.joblib", each) for each in ("off", "copy"))
    np.testing.assert_array_equal(answer(read_, rows), answer(mapped, rows))


@pytest.fixture
def neighbours(tmp_path):
    file = tmp_path / "model.joblib"
    joblib.dump(KNeighborsRegressor(algorithm="brute").fit(*load_diabetes(return_X_y=True)), file)
    return file


@pytest.mark.parametrize(("share_memory", "is_shared"), [("auto", False), ("copy", True)])
def test_a_local_file_is_mapped_only_as_a_copy(neighbours, share_memory, is_shared):
    found, _ = read(neighbours, (), LOGGER, share_memory)
    assert is_mapped(found._fit_X) is is_shared


def test_a_file_of_the_cache_is_mapped_as_it_is(neighbours):
    kept = stable_file(neighbours, copy=True)
    assert stable_file(kept) == kept
    found, _ = read(kept, (), LOGGER, "auto")
    assert is_mapped(found._fit_X)


def test_the_file_may_be_cut_short_while_its_copy_is_mapped(neighbours):
    """Else the process is killed by SIGBUS: it is one of its own."""
    code = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from jackfield_sklearn._artifact import read\n"
        "file = Path(sys.argv[1])\n"
        "found, _ = read(file, (), logging.getLogger(), 'copy')\n"
        "file.write_bytes(b'')\n"
        "print(found._fit_X.sum())\n"
    )
    expected = joblib.load(neighbours)._fit_X.sum()
    done = subprocess.run(
        [sys.executable, "-c", code, str(neighbours)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(expected)


def test_the_same_content_has_one_copy_and_another_has_its_own(neighbours):
    first = stable_file(neighbours, copy=True)
    assert stable_file(neighbours, copy=True) == first
    before = first.read_bytes()
    joblib.dump(LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True)), neighbours)
    second = stable_file(neighbours, copy=True)
    assert second != first
    assert first.read_bytes() == before
    assert second.read_bytes() == neighbours.read_bytes()


@pytest.mark.filterwarnings("error")
def test_a_compressed_file_is_read(tmp_path):
    rows, values = load_diabetes(return_X_y=True)
    file = tmp_path / "model.joblib"
    joblib.dump(KNeighborsRegressor().fit(rows, values), file, compress=3)
    found, _ = read(file, (), LOGGER, "copy")
    assert not is_mapped(found._fit_X)


def test_without_a_cache_it_is_read_and_the_log_says_so(neighbours, cache, caplog):
    cache.write_text("a file where the folder would be")
    found, _ = read(neighbours, (), LOGGER, "copy")
    assert not is_mapped(found._fit_X)
    assert "is not shared between workers: the cache folder" in caplog.text
