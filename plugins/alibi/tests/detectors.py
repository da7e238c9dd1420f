"""Detectors of each kind, fitted once on scikit-learn's own data and saved as their users do.

A part of ``conftest.py``: `detectors` holds them by name, with rows that are like the reference
data and rows that are not. PyTorch's are there where it is installed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import json
import logging
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from jackfield import InferRequest, ModelContext, ModelSettings, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
SEED = 0
MLSERVER = "mlserver_alibi_detect.AlibiDetectRuntime"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A detector as it was saved, and rows to ask it about."""

    folder: Path
    #: Gives the detector as its users load it, a new one each time.
    load: Callable[[], Any]
    #: Rows from where the reference data come from, which are not among them.
    alike: np.ndarray
    #: Rows that were shifted, or are outliers.
    shifted: np.ndarray

    def request(self, rows=None, **fields):
        return InferRequest(
            [Tensor.from_array("x", self.alike if rows is None else rows)], **fields
        )


def halves():
    """Split real rows at random in two halves, and shift two columns of the second."""
    rows = load_breast_cancer().data[:, :5]
    order = np.random.default_rng(30).permutation(len(rows))
    one, other = rows[order[::2]], rows[order[1::2]]
    shifted = other.copy()
    shifted[:, 0] += rows[:, 0].std()
    shifted[:, 3] *= 1.4
    return one, other, shifted


def scaled(count):
    """Give the first of these rows as networks take them."""
    one, other, shifted = (np.log(rows) for rows in halves())
    mean, scale = one.mean(axis=0), one.std(axis=0)
    return [((rows[:count] - mean) / scale).astype("f4") for rows in (one, other, shifted)]


def _offline():
    """Yield name, detector, rows alike, rows shifted; none of them needs a backend."""
    from alibi_detect.cd import (
        ChiSquareDrift,
        ClassifierDrift,
        CVMDrift,
        FETDrift,
        KSDrift,
        TabularDrift,
    )
    from sklearn.linear_model import LogisticRegression

    one, other, shifted = halves()
    yield "ks", KSDrift(one, p_val=0.05), other, shifted
    yield "ks-fdr", KSDrift(one, p_val=0.05, correction="fdr"), other, shifted
    yield "ks-series", KSDrift(one[:, 0], p_val=0.05), other[:, 0], shifted[:, 0]
    yield "ks-single", KSDrift(one.astype("f4"), p_val=0.05), other, shifted
    yield "cvm", CVMDrift(one, p_val=0.05), other, shifted
    bins = np.quantile(one, [0.25, 0.5, 0.75], axis=0)

    def coded(rows):
        return np.stack([np.digitize(rows[:, at], bins[:, at]) for at in range(5)], axis=1)

    every = {at: [0, 1, 2, 3] for at in range(5)}
    yield (
        "chi2", ChiSquareDrift(coded(one), p_val=0.05, categories_per_feature=every),
        coded(other), coded(shifted),
    )  # fmt: skip

    def mixed(rows):
        return np.column_stack([rows[:, :3], coded(rows)[:, 3:]])

    yield (
        "tabular", TabularDrift(mixed(one), p_val=0.05, categories_per_feature={3: None, 4: None}),
        mixed(other), mixed(shifted),
    )  # fmt: skip
    middle = np.median(one, axis=0)
    truth = [(rows > middle).astype(np.int64) for rows in (one, other, shifted)]
    yield "fet", FETDrift(truth[0], p_val=0.05), truth[1], truth[2]
    scale = one.std(axis=0)
    model = LogisticRegression(max_iter=200)
    yield (
        "classifier", ClassifierDrift(one / scale, model, backend="sklearn", n_folds=3, seed=5),
        other / scale, shifted / scale,
    )  # fmt: skip
    digits = load_digits().images
    yield (
        "images", KSDrift(digits[::2], p_val=0.05, preprocess_fn=_mean_of_rows, input_shape=(8, 8)),
        digits[1::2], digits[1::2] * 0.9,
    )  # fmt: skip


def _mean_of_rows(images):
    """Preprocess: the mean of each row of an image."""
    return images.mean(axis=2)


def _of_torch():
    import torch
    from alibi_detect.cd import (
        ClassifierDrift,
        ClassifierUncertaintyDrift,
        LearnedKernelDrift,
        LSDDDrift,
        MMDDrift,
        SpotTheDiffDrift,
    )
    from alibi_detect.utils.pytorch.kernels import DeepKernel

    one, other, shifted = scaled(100)
    torch.manual_seed(SEED)
    few = {"backend": "pytorch", "p_val": 0.05}
    yield "mmd", MMDDrift(one, n_permutations=50, **few), other, shifted
    yield "lsdd", LSDDDrift(one, n_permutations=50, **few), other, shifted
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    yield (
        "classifier-torch",
        ClassifierDrift(one, net, epochs=20, preds_type="logits", verbose=0, **few),
        other, shifted,
    )  # fmt: skip
    yield (
        "spot", SpotTheDiffDrift(one, epochs=20, n_diffs=2, verbose=0, **few), other, shifted,
    )  # fmt: skip
    kernel = DeepKernel(torch.nn.Sequential(torch.nn.Linear(5, 3)), eps=0.01)
    # a quarter of the rows is left to test with
    more, more_alike, more_shifted = scaled(280)
    yield (
        "learned", LearnedKernelDrift(more, kernel, epochs=20, n_permutations=50, verbose=0, **few),
        more_alike, more_shifted,
    )  # fmt: skip
    judge = torch.nn.Sequential(torch.nn.Linear(5, 3))
    with torch.no_grad():
        judge[0].weight[:] = torch.linspace(-2, 2, 15).reshape(3, 5)
    yield (
        "uncertainty",
        ClassifierUncertaintyDrift(one, judge, preds_type="logits", input_shape=(5,), **few),
        other, shifted,
    )  # fmt: skip


def _outliers():
    """Yield name, detector, rows alike, rows that are outliers; saved as whole objects."""
    from alibi_detect.od import IForest, Mahalanobis, SpectralResidual
    from alibi_detect.od._gmm import GMM

    one, other, _ = halves()
    mean, scale = one.mean(axis=0), one.std(axis=0)
    far = other.copy()
    far[::2] += 8 * scale
    detector = IForest(threshold=0.0, n_estimators=20)
    detector.isolationforest.set_params(random_state=SEED)
    detector.fit(one)
    detector.infer_threshold(one, threshold_perc=95)
    yield "iforest", detector, other, far
    detector = Mahalanobis(threshold=60.0, n_components=3, start_clip=50)
    detector.predict(one)
    yield "mahalanobis", detector, other, far
    series = np.sin(np.arange(200) / 5)
    spiked = series.copy()
    spiked[120] = 9
    detector = SpectralResidual(
        threshold=1.0, window_amp=20, window_local=20, n_est_points=10, n_grad_points=5
    )
    yield "spectral", detector, series, spiked
    detector = GMM(n_components=2, backend="sklearn")
    detector.fit((one - mean) / scale)
    detector.infer_threshold((one - mean) / scale, 0.05)
    yield "gmm", detector, (other - mean) / scale, (far - mean) / scale


def _outliers_of_torch():
    from alibi_detect.od._knn import KNN
    from alibi_detect.od._lof import LOF
    from alibi_detect.od._pca import PCA

    one, other, _ = halves()
    mean, scale = one.mean(axis=0), one.std(axis=0)
    one, other = (((rows - mean) / scale).astype("f4") for rows in (one, other))
    far = other.copy()
    far[::2] += 8
    made = {
        "knn": KNN(k=5),
        "knn-ensemble": KNN(k=[3, 5], normalizer="PValNormalizer", aggregator="AverageAggregator"),
        "lof": LOF(k=10),
        "pca": PCA(n_components=2),
    }
    for name, detector in made.items():
        detector.fit(one)
        detector.infer_threshold(one, 0.05)
        yield name, detector, other, far


def _online():
    """Yield name, detector, rows alike, rows shifted; they simulate their thresholds."""
    one, other, shifted = scaled(100)
    few = {"n_bootstraps": 500, "verbose": False}
    from alibi_detect.cd import CVMDriftOnline, FETDriftOnline

    rows = [each[:, :2].astype(np.float64) for each in (one, other, shifted)]
    yield "cvm-online", CVMDriftOnline(rows[0], ert=50.0, window_sizes=[5, 8], **few), *rows[1:]
    truth = [(each > np.median(one[:, :2], axis=0)).astype(np.int64) for each in rows]
    # for some draws it computes a probability below 0, and fails
    for _ in range(10):
        with contextlib.suppress(ValueError):
            fet = FETDriftOnline(truth[0], ert=50.0, window_sizes=[8], **few)
            break
    yield "fet-online", fet, *truth[1:]
    if HAS_TORCH:
        from alibi_detect.cd import LSDDDriftOnline, MMDDriftOnline

        few["backend"] = "pytorch"
        yield "mmd-online", MMDDriftOnline(one, ert=50.0, window_size=6, **few), other, shifted
        yield "lsdd-online", LSDDDriftOnline(one, ert=50.0, window_size=6, **few), other, shifted


def _saved_by_alibi(detector, folder):
    from alibi_detect.saving import save_detector

    save_detector(detector, folder)


def _load_by_alibi(folder):
    def load():
        from alibi_detect.saving import load_detector

        return load_detector(folder)

    return load


def settings_of(name, **extra):
    """Write what a model-settings.json holds."""
    return {"name": name, "implementation": "alibi-detect", "parameters": {"extra": extra}}


def fit_all(root):
    """Fit and save all, each in a folder with settings that name the runtime.

    Returns:
        Name -> `Fitted`.
    """
    made = {}
    np.random.seed(SEED)
    configs = [*_offline(), *(_of_torch() if HAS_TORCH else ()), *_online()]
    for name, detector, alike, shifted in configs:
        folder = root / name
        _saved_by_alibi(detector, folder)
        made[name] = Fitted(folder, _load_by_alibi(folder), alike, shifted)
        extra = {"save_state": False} if name.endswith("online") else {}
        (folder / "model-settings.json").write_text(json.dumps(settings_of(name, **extra)))
    for name, detector, alike, far in [
        *_outliers(),
        *(_outliers_of_torch() if HAS_TORCH else ()),
    ]:
        folder = root / name
        folder.mkdir()
        joblib.dump(detector, folder / "detector.joblib")
        load = _copy_of(detector)
        made[name] = Fitted(folder, load, alike, far)
        written = settings_of(name, save_state=False)
        written["parameters"]["uri"] = "detector.joblib"
        (folder / "model-settings.json").write_text(json.dumps(written))
    return made


def _copy_of(detector):
    return lambda: copy.deepcopy(detector)


def context_of(artifact, *, implementation="alibi-detect", name="model", **extra):
    """Make what a runtime is constructed with, as the core does."""
    import msgspec

    from jackfield_alibi import DetectOptions

    return ModelContext(
        name=name,
        version="",
        artifact=artifact,
        settings=ModelSettings(name=name, implementation=implementation),
        options=msgspec.convert(extra, DetectOptions),
        logger=logging.getLogger("jackfield.test"),
    )


def loaded(artifact, **settings):
    """Load a runtime."""
    from jackfield_alibi._detect._runtime import DetectRuntime

    runtime = DetectRuntime(context_of(artifact, **settings))
    runtime.load()
    return runtime
