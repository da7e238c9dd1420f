"""A model that returns whatever a request asks for: all that a Python function may return."""

import datetime
import decimal

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

MOMENT = datetime.datetime(2026, 3, 1, 12, 30, 15)
KINDS = {
    "vector": lambda: np.array([1.5, -2.0, np.nan]),
    "matrix": lambda: np.arange(6, dtype="f4").reshape(3, 2),
    "cube": lambda: np.arange(8, dtype="i2").reshape(2, 2, 2),
    "scalar array": lambda: np.array(7, dtype="u1"),
    "flags": lambda: np.array([True, False]),
    "text array": lambda: np.array(["a", "ü"]),
    "objects": lambda: np.array(["a", None, 3], dtype=object),
    "moments": lambda: np.array(["2026-01-01T00:00", "2026-01-02T03:04"], dtype="M8[s]"),
    "complex": lambda: np.array([1 + 2j]),
    "frame": lambda: pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [0.5, None]}),
    "frame of numbers": lambda: pd.DataFrame(np.eye(2)),
    "frame of lists": lambda: pd.DataFrame({"v": [[1, 2], [3]], "w": [{"k": 1}, None]}),
    "series": lambda: pd.Series([1, 2, 3], name="named"),
    "series of text": lambda: pd.Series(["x", None]),
    "categories": lambda: pd.Series(["x", "y", "x"], dtype="category"),
    "nullable": lambda: pd.Series([1, None], dtype="Int64"),
    "int": lambda: 7,
    "float": lambda: 2.5,
    "bool": lambda: True,
    "numpy scalar": lambda: np.float32(0.1),
    "text": lambda: "hello",
    "bytes": lambda: b"\x00\xff",
    "moment": lambda: MOMENT,
    "ints": lambda: [1, 2, 3],
    "floats": lambda: [1, 2.5],
    "bools": lambda: [True, False],
    "texts": lambda: ["a", "b\0"],
    "blobs": lambda: [b"\x00", b"ab"],
    "dates": lambda: [MOMENT, MOMENT],
    "matrix of lists": lambda: [[1, 2], [3, 4]],
    "ragged": lambda: [[1], [2, 3]],
    "arrays": lambda: [np.array([1.0, 2.0]), np.array([3.0, 4.0])],
    "gaps": lambda: [1.5, None],
    "mixed": lambda: [1, "a", None, True],
    "empty": list,
    "records": lambda: [{"a": 1, "b": "x"}, {"a": 2}],
    "dict of arrays": lambda: {"p": np.eye(2), "q": np.array([1, 2], dtype="i4")},
    "dict of lists": lambda: {"p": [1.0, 2.0], "q": ["x", "y"]},
    "dict of scalars": lambda: {"p": 1, "q": "x", "r": None},
    "nested": lambda: {"p": {"deep": [1, {"er": None}]}, "q": [[{"x": 1}]]},
    "empty dict": dict,
    "tuple": lambda: (np.array([1.0]), ["x"]),
    "huge": lambda: [2**80],
    "decimals": lambda: [decimal.Decimal("1.5")],
    "none": lambda: None,
}


class Results(PythonModel):
    def predict(self, context, model_input, params=None):
        return KINDS[str(model_input.iloc[0, 0])]()


mlflow.models.set_model(Results())
