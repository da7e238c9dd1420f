"""Models of each task, trained once on scikit-learn's own data and on generated columns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import catboost
import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostClassifier, CatBoostRanker, CatBoostRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from jackfield import InferRequest, Tensor
from jackfield.testing import running

if TYPE_CHECKING:
    from pathlib import Path

QUIET = {
    "iterations": 24,
    "depth": 4,
    "verbose": False,
    "allow_writing_files": False,
    "thread_count": 1,
    "random_seed": 0,
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model as it was saved, and rows to ask it about."""

    folder: Path
    #: The class of CatBoost that serves it.
    kind: type
    #: Rows as CatBoost takes them.
    rows: Any
    categories: tuple[int, ...] = ()
    texts: tuple[int, ...] = ()

    @property
    def file(self):
        return next(each for each in self.folder.iterdir() if each.stem == "model")

    def framework(self):
        """Load it as a user of CatBoost does."""
        form = "json" if self.file.suffix == ".json" else "cbm"
        return self.kind().load_model(str(self.file), format=form)

    def pool(self):
        return catboost.Pool(
            self.rows, cat_features=list(self.categories), text_features=list(self.texts)
        )

    def columns(self):
        """Give a tensor for each column; texts and categories as BYTES or INT64."""
        return [Tensor.from_array(str(name), _array(self.rows[name])) for name in self.rows.columns]

    def request(self, **fields):
        if isinstance(self.rows, pd.DataFrame):
            return InferRequest(self.columns(), **fields)
        return InferRequest([Tensor.from_array("x", self.rows)], **fields)


def _array(series):
    return series.to_numpy(None if series.dtype.kind in "fi" else object)


def passengers(count=400):
    """Make a table of numbers with gaps, a category, a number that is one, and a free text."""
    draw = np.random.default_rng(7)
    age = draw.uniform(1, 80, count).round(1)
    age[draw.random(count) < 0.2] = np.nan
    fare = draw.gamma(2.0, 15.0, count)
    port = draw.choice(["Cherbourg", "Queenstown", "Southampton", "nan"], count)
    deck = draw.integers(1, 6, count)
    words = np.array(["calm", "storm", "ice", "fog", "sun"])
    note = np.array([" ".join(draw.choice(words, 3)) for _ in range(count)], dtype=object)
    frame = pd.DataFrame({"age": age, "port": port, "fare": fare, "deck": deck})
    score = 0.02 * fare + (deck > 3) - (port == "nan") + draw.normal(0, 0.3, count)
    label = np.where(score > np.median(score), "yes", "no")
    return frame, note, label, score


def _train():
    """Yield name, the fitted model, the file's name, and what `Trained` wants."""
    cancer, wine = load_breast_cancer(), load_wine(as_frame=True)
    iris, diabetes = load_iris(), load_diabetes(as_frame=True)
    frame, note, label, score = passengers()
    noted = frame.assign(note=note)
    groups = np.repeat(np.arange(40), 10)

    model = CatBoostClassifier(**QUIET).fit(cancer.data, cancer.target_names[cancer.target])
    yield "cancer", model, "model.cbm", {"rows": cancer.data[:40]}
    model = CatBoostClassifier(**QUIET).fit(wine.data, wine.target)
    yield "wine", model, "model.json", {"rows": wine.data.iloc[::9].reset_index(drop=True)}
    flowers = iris.data.astype("f4")
    model = CatBoostClassifier(loss_function="MultiClassOneVsAll", **QUIET).fit(
        flowers, iris.target_names[iris.target]
    )
    yield "iris", model, "model.bin", {"rows": flowers[::10]}
    model = CatBoostRegressor(**QUIET).fit(diabetes.data, diabetes.target)
    yield "diabetes", model, "model.cbm", {"rows": diabetes.data.iloc[:20]}
    model = CatBoostRegressor(loss_function="Poisson", **QUIET).fit(iris.data, iris.data[:, 0])
    yield "poisson", model, "model.cbm", {"rows": iris.data[::10]}
    model = CatBoostRegressor(loss_function="MultiRMSE", **QUIET).fit(iris.data, iris.data[:, :2])
    yield "targets", model, "model.cbm", {"rows": iris.data[::10]}
    model = CatBoostRegressor(loss_function="RMSEWithUncertainty", **QUIET)
    yield "uncertain", model.fit(iris.data, iris.data[:, 0]), "model.cbm", {"rows": iris.data[::10]}
    model = CatBoostRegressor(loss_function="MultiQuantile:alpha=0.1,0.9", **QUIET)
    yield "quantiles", model.fit(iris.data, iris.data[:, 0]), "model.cbm", {"rows": iris.data[::10]}
    marks = np.column_stack([iris.target == 1, iris.data[:, 0] > 5.5]).astype(int)
    model = CatBoostClassifier(loss_function="MultiLogloss", **QUIET).fit(iris.data, marks)
    yield "marks", model, "model.cbm", {"rows": iris.data[::10]}
    mixed = {"rows": frame.iloc[:30], "categories": (1, 3)}
    model = CatBoostClassifier(cat_features=[1, 3], **QUIET).fit(frame, label)
    yield "passengers", model, "model.cbm", mixed
    model = CatBoostRegressor(cat_features=[1, 3], **QUIET).fit(frame, score)
    yield "passengers-json", model, "model.json", mixed
    model = CatBoostRanker(loss_function="YetiRank", cat_features=[1, 3], **QUIET).fit(
        frame, (score > 1).astype(int), group_id=groups
    )
    yield "ranker", model, "model.cbm", mixed
    model = CatBoostClassifier(cat_features=[1, 3], text_features=[4], **QUIET).fit(noted, label)
    yield "notes", model, "model.cbm", {**mixed, "rows": noted.iloc[:30], "texts": (4,)}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Train and save all models, each in a folder with settings that name no runtime."""
    root = tmp_path_factory.mktemp("models")
    made = {}
    for name, model, file, facts in _train():
        folder = root / name
        folder.mkdir()
        form = "json" if file.endswith(".json") else "cbm"
        model.save_model(str(folder / file), format=form)
        settings = {"name": name, "implementation": "catboost"}
        (folder / "model-settings.json").write_text(json.dumps(settings))
        made[name] = Trained(folder, type(model), **facts)
    return made


@pytest.fixture(scope="session")
def serve():
    """Run servers on free ports until the tests are over."""
    with contextlib.ExitStack() as servers:
        yield lambda *paths: servers.enter_context(running(*paths))
