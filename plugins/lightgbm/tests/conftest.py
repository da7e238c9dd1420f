"""Models of each task, trained once on scikit-learn's own data and on generated columns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from jackfield import InferRequest, Tensor
from jackfield.testing import running

if TYPE_CHECKING:
    from pathlib import Path

QUIET = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "num_leaves": 8, "seed": 0}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model as it was saved, and rows to ask it about."""

    file: Path
    #: As LightGBM takes them: an array or a DataFrame.
    rows: Any

    @property
    def is_text(self):
        return self.file.suffix != ".joblib"

    @property
    def is_frame(self):
        return isinstance(self.rows, pd.DataFrame)

    def framework(self):
        """Load it as a user of LightGBM does."""
        if self.is_text:
            return lightgbm.Booster(model_file=self.file)
        return joblib.load(self.file)

    def booster(self):
        found = self.framework()
        return found if self.is_text else found.booster_

    def columns(self):
        """Give a tensor for each column of a DataFrame; texts as JSON, where some are missing."""
        return [_column(name, self.rows[name]) for name in self.rows]

    def request(self, **fields):
        if self.is_frame:
            return InferRequest(self.columns(), **fields)
        return InferRequest([Tensor.from_array("x", self.rows)], **fields)


def _column(name, series):
    if series.dtype == "category":
        series = series.astype(series.cat.categories.dtype)
    if series.dtype.kind in "fiub":
        return Tensor.from_array(name, series.to_numpy())
    values = [json.dumps(None if pd.isna(each) else each) for each in series]
    return Tensor.from_array(name, values, parameters={"content_type": "pd_json"})


def houses(count=400):
    """Make a table of numbers with gaps, categories of text and of numbers, and truth values."""
    draw = np.random.default_rng(7)
    area = draw.uniform(20, 200, count).round(1)
    area[draw.random(count) < 0.2] = np.nan
    city = pd.Categorical(draw.choice(["Oslo", "Rome", "Bern", None], count))
    floor = pd.Categorical(draw.choice([-1, 0, 1, 5], count))
    garden = draw.random(count) < 0.4
    rooms = draw.integers(1, 6, count)
    frame = pd.DataFrame(
        {"area": area, "city": city, "floor": floor, "garden": garden, "rooms": rooms}
    )
    price = np.nan_to_num(area, nan=50) + 30 * (city == "Oslo") + 9 * (floor == 5) + 20 * garden
    price = price + draw.normal(0, 3, count)
    return frame, price


def _train():
    """Yield the file's name, the fitted model and rows to ask it about."""
    draw = np.random.default_rng(3)
    cancer, wine, diabetes = load_breast_cancer(), load_wine(as_frame=True), load_diabetes()
    frame, price = houses()
    dear = np.where(price > np.median(price), "dear", "cheap")

    def train(data, label, rounds=12, **parameters):
        kept = {name: parameters.pop(name) for name in ("group",) if name in parameters}
        data = lightgbm.Dataset(data, label, **kept)
        return lightgbm.train(QUIET | parameters, data, rounds)

    yield "cancer.bst", train(cancer.data, cancer.target, objective="binary"), cancer.data[::30]
    digits = load_digits()
    model = train(digits.data, digits.target, 4, objective="multiclass", num_class=10)
    yield "digits.model", model, digits.data[::90].astype("f4")
    model = train(wine.data, wine.target, objective="multiclassova", num_class=3)
    yield "wine.txt", model, wine.data[::20]
    gaps = diabetes.data.copy()
    gaps[draw.random(gaps.shape) < 0.2] = np.nan
    yield "diabetes.txt", train(gaps, diabetes.target, objective="regression"), gaps[:20]
    yield "houses.txt", train(frame, price, objective="poisson"), frame[:30]
    yield "dear.txt", train(frame, price > 100, objective="binary", boosting="dart"), frame[:30]
    model = train(frame, (price / price.max()), objective="cross_entropy")
    yield "share.txt", model, frame[:30]
    model = train(frame, np.digitize(price, [80, 160]), objective="lambdarank", group=[40] * 10)
    yield "ranker.txt", model, frame[:30]
    forest = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}
    yield "forest.bst", train(cancer.data, cancer.target, objective="binary", **forest), gaps30()
    model = train(gaps, diabetes.target, objective="regression", linear_tree=True)
    yield "linear.bst", model, gaps[:20]
    zeros = np.where(draw.random(gaps.shape) < 0.3, 0, diabetes.data)
    model = train(zeros, diabetes.target, objective="regression", zero_as_missing=True)
    yield "zeros.bst", model, zeros[:20]

    def own(found, data):
        return found - data.get_label(), np.ones_like(found)

    yield "own.txt", train(diabetes.data, diabetes.target, objective=own), diabetes.data[:9]
    few = {"n_estimators": 8, "num_leaves": 8, "verbose": -1, "n_jobs": 1, "random_state": 0}
    yield "dear.joblib", lightgbm.LGBMClassifier(**few).fit(frame, dear), frame[:30]
    kinds = wine.target_names[wine.target]
    yield "kinds.joblib", lightgbm.LGBMClassifier(**few).fit(wine.data, kinds), wine.data[::20]
    yield "houses.joblib", lightgbm.LGBMRegressor(**few).fit(frame, price), frame[:30]
    ranker = lightgbm.LGBMRanker(**few).fit(gaps, diabetes.target.astype(int) // 90, group=[442])
    yield "ranker.joblib", ranker, gaps[:10]


def gaps30():
    rows = load_breast_cancer().data[::30].copy()
    rows[::2, ::3] = np.nan
    return rows


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Train and save all models, each in a folder of its own with its settings."""
    root = tmp_path_factory.mktemp("models")
    made = {}
    for name, model, rows in _train():
        folder = root / name
        folder.mkdir()
        file = folder / name
        if isinstance(model, lightgbm.Booster):
            model.save_model(file)
        else:
            joblib.dump(model, file)
        settings = {"name": name, "implementation": "lightgbm", "parameters": {"uri": f"./{name}"}}
        (folder / "model-settings.json").write_text(json.dumps(settings))
        made[name] = Trained(file, rows)
    return made


@pytest.fixture(scope="session")
def serve():
    """Run servers on free ports until the tests are over."""
    with contextlib.ExitStack() as servers:
        yield lambda *paths: servers.enter_context(running(*paths))
