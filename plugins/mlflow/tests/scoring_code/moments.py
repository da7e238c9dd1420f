"""A model with a type hint that JSON has no form for, read from this file by MLflow."""

import datetime

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Moments(PythonModel):
    """Tells what it got."""

    def predict(self, model_input: list[datetime.datetime]) -> list[str]:
        return [repr(each) for each in model_input]


set_model(Moments())
