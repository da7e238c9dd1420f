"""A model whose code MLflow reads from this file: it tells what reached it, or what it is asked.

Its `answer` of the model's configuration chooses: "told" tells the types and values of its input,
"asked" gives what the text in the first row of the column `answer` names.
"""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pydantic
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import NOT_FOUND
from mlflow.pyfunc import PythonModel

MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 1, 5)


class Point(pydantic.BaseModel):
    x: float
    name: str


def tell(value):
    """Tell the types and values of an input, so that two of them compare."""
    if isinstance(value, pd.DataFrame):
        cells = {str(name): [repr(each) for each in value[name]] for name in value.columns}
        return {
            "index": str(value.index),
            "types": [str(each) for each in value.dtypes],
            "cells": cells,
        }
    if isinstance(value, np.ndarray):
        return {"type": str(value.dtype), "shape": value.shape, "values": value.tolist()}
    if isinstance(value, dict):
        return {str(key): tell(each) for key, each in value.items()}
    return f"{type(value).__name__} {value!r}"


def frame():
    return pd.DataFrame(
        {
            "number": [1.5, np.nan],
            "count": [1, 2],
            "text": ["a", "ü"],
            "moment": pd.to_datetime(["2024-01-01T00:00:00", "2024-01-02T03:04:05"]),
            "flag": [True, False],
        },
        index=[7, 9],
    )


ANSWERS = {
    "frame": frame,
    "series": lambda: pd.Series([1.0, 2.5], name="s", index=["a", "b"]),
    "series without a name": lambda: pd.Series(["a", "b"]),
    "array": lambda: np.arange(6, dtype="f4").reshape(2, 3) / 3,
    "integers": lambda: np.array([1, -(2**63)]),
    "booleans": lambda: np.array([True, False]),
    "texts": lambda: np.array(["a", "ü"]),
    "objects": lambda: np.array(["a", None, 1.5, MOMENT], dtype=object),
    "moments": lambda: np.array(["2024-01-01", "2024-02-29"], dtype="datetime64[s]"),
    "a list of moments": lambda: [MOMENT, MOMENT.date(), MOMENT.time(), pd.Timestamp(MOMENT)],
    "a list of arrays": lambda: [np.arange(3), np.array(2.5)],
    "a list of texts": lambda: ["a", "\u2028", "\ud83d\ude00"],
    "bytes": lambda: [b"\x00\xff", bytearray(b"ab")],
    "a dict of arrays": lambda: {"a": np.arange(2), "b": np.array([["x"], ["y"]])},
    "a dict of lists": lambda: {"a": [1, 2], "b": [np.float32(0.1), None]},
    "a dict": lambda: {"predictions": 1, "nested": {"deep": [np.int64(3)]}},
    "a dict with a number for a key": lambda: {1: "one", None: "none"},
    "a record": lambda: Point(x=1.5, name="p"),
    "a list of records": lambda: [Point(x=1.5, name="p")],
    "a scalar": lambda: np.float64(0.1),
    "a text": lambda: "hello",
    "none": lambda: None,
    "not a number": lambda: [np.nan, np.inf, -np.inf],
    "an empty list": list,
    "a generator": lambda: (each for each in "ab"),
    "something": object,
    "a set": lambda: {1},
}


class Echo(PythonModel):
    """Tells what it got."""

    def load_context(self, context):
        self._answer = context.model_config["answer"]

    def predict(self, context, model_input, params=None):
        if self._answer == "told":
            return {"input": tell(model_input), "params": tell(params)}
        asked = model_input["answer"].iloc[0]
        if asked == "a value error":
            raise ValueError("secret of the model")
        if asked == "a failure":
            raise RuntimeError("secret of the model")
        if asked == "an error of MLflow":
            raise MlflowException("no such thing", error_code=NOT_FOUND)
        if asked == "an internal error of MLflow":
            raise MlflowException("broken")
        return ANSWERS[asked]()


set_model(Echo())
