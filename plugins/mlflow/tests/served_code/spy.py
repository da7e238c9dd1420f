"""A model that tells what it was given, exactly: types, dtypes, shapes and values."""

import json

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel


def told(value):
    if isinstance(value, pd.DataFrame):
        columns = [
            [repr(name), str(value[name].dtype), [told(each) for each in value[name]]]
            for name in value
        ]
        return ["frame", columns]
    if isinstance(value, pd.Series):
        return ["series", str(value.dtype), [told(each) for each in value]]
    if isinstance(value, np.ndarray):
        return ["array", str(value.dtype), list(value.shape), repr(value.tolist())]
    if isinstance(value, dict):
        return ["dict", [[name, told(each)] for name, each in value.items()]]
    if isinstance(value, list):
        return ["list", [told(each) for each in value]]
    return [type(value).__name__, repr(value)]


class Spy(PythonModel):
    def predict(self, context, model_input, params=None):
        return [json.dumps([told(model_input), told(params)])]


mlflow.models.set_model(Spy())
