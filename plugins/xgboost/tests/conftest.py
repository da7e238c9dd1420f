"""Boosters on data that scikit-learn brings or that are made up, and a way to load and ask them."""

from __future__ import annotations

import contextlib
import json
import logging

import msgspec
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from jackfield import (
    InferRequest,
    ModelContext,
    ModelParameters,
    ModelSettings,
    RequestedOutput,
    Tensor,
)
from jackfield.testing import running
from jackfield_xgboost import XgboostOptions
from jackfield_xgboost._runtime import XgboostRuntime

MLSERVER = "mlserver_xgboost.XGBoostModel"


class Data:
    """Features, a target, and a native booster that was trained on them."""

    def __init__(self, features, target, rounds=8, **parameters):
        self.features = features
        is_frame = isinstance(features, pd.DataFrame)
        self.matrix = xgboost.DMatrix(
            features, target, enable_categorical=is_frame, nthread=1, feature_types=None
        )
        given = {"max_depth": 4, "nthread": 1, **parameters}
        self.booster = xgboost.train(given, self.matrix, rounds)


def holed(features):
    """Take a tenth of the values out."""
    made = np.array(features, np.float32)
    made[np.random.default_rng(0).random(made.shape) < 0.1] = np.nan
    return made


@pytest.fixture(scope="session")
def cancer():
    """Two classes, 30 named features, missing values."""
    data = load_breast_cancer(as_frame=True)
    frame = pd.DataFrame(holed(data.data), columns=data.data.columns)
    return Data(frame, data.target, objective="binary:logistic")


@pytest.fixture(scope="session")
def iris():
    """Three classes, four nameless features."""
    features, target = load_iris(return_X_y=True)
    return Data(features.astype(np.float32), target, objective="multi:softprob", num_class=3)


@pytest.fixture(scope="session")
def diabetes():
    """A number for ten nameless features."""
    features, target = load_diabetes(return_X_y=True)
    return Data(features.astype(np.float32), target, objective="reg:squarederror")


@pytest.fixture(scope="session")
def homes():
    """Categories of text and of numbers, truth values and whole numbers, with missing ones."""
    rng = np.random.default_rng(7)
    rows = 400
    city = rng.choice(["Oslo", "Rome", "Bergen", None], rows)
    frame = pd.DataFrame(
        {
            "city": pd.Categorical(city, ["Rome", "Oslo", "Bergen"]),
            "size": rng.normal(80, 20, rows).astype(np.float32),
            "floor": pd.Categorical(rng.choice([5, 1, 3], rows)),
            "rooms": rng.integers(1, 6, rows),
            "lift": rng.random(rows) < 0.5,
        }
    )
    price = frame["size"] + 10 * frame["rooms"] + 30 * (frame["city"] == "Oslo")
    price += 9 * frame["floor"].astype(int) * frame["lift"]
    return Data(frame, price, objective="reg:squarederror")


@pytest.fixture(scope="session")
def ranks():
    """Scores of rows in groups."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    matrix = xgboost.DMatrix(features, features[:, 0] > 0, qid=np.repeat(np.arange(20), 10))
    data = Data(features, features[:, 0])
    data.booster = xgboost.train({"objective": "rank:ndcg", "nthread": 1}, matrix, 5)
    return data


def load(artifact, *, implementation="xgboost", threads=1, **extra):
    """Load as the core does."""
    runtime = XgboostRuntime(
        ModelContext(
            name="model",
            version="",
            artifact=artifact,
            settings=ModelSettings(
                implementation=implementation, parameters=ModelParameters(extra=extra)
            ),
            options=msgspec.convert(extra, XgboostOptions),
            threads=threads,
            logger=logging.getLogger("jackfield.test"),
        )
    )
    runtime.load()
    return runtime


@pytest.fixture
def serve(tmp_path):
    """Save a booster or a wrapper, and load it."""
    loaded = []

    def serve(model, *, file="model.ubj", **settings):
        model.save_model(tmp_path / file)
        loaded.append(load(tmp_path / file, **settings))
        return loaded[-1]

    yield serve
    for each in loaded:
        each.close()


def ask(runtime, inputs, *outputs, **parameters):
    """Send arrays by name, or one array, and get the arrays of the answer by name."""
    named = inputs if isinstance(inputs, dict) else {"x": inputs}
    tensors = [Tensor.from_array(name, array) for name, array in named.items()]
    for tensor in tensors:
        tensor.array.flags.writeable = False
    request = InferRequest(tensors, [RequestedOutput(name) for name in outputs], parameters)
    return runtime.infer(request).arrays


def outputs_of(runtime):
    return {output.name: output for output in runtime.metadata().outputs}


def tensors_of(frame):
    """Make the tensors of a DataFrame's columns, as a client would."""
    made = []
    for name in frame:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.categories.dtype != "int64":
            cells = [json.dumps(None if pd.isna(each) else each).encode() for each in column]
            made.append(Tensor.from_array(name, cells))
            made[-1] = msgspec.structs.replace(made[-1], parameters={"content_type": "pd_json"})
        else:
            made.append(Tensor.from_array(name, np.asarray(column)))
    return made


@pytest.fixture(scope="session")
def start():
    """Run servers on free ports until the tests are over."""
    with contextlib.ExitStack() as servers:
        yield lambda *paths: servers.enter_context(running(*paths))
