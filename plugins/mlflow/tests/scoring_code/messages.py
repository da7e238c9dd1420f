"""A model with a type hint of records, read from this file by MLflow."""

from typing import Optional

import pydantic
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Message(pydantic.BaseModel):
    role: str
    content: str
    weight: Optional[float] = 1.0  # noqa: UP045  MLflow reads this form


class Messages(PythonModel):
    """Tells what it got."""

    def predict(self, model_input: list[Message], params=None) -> list[str]:
        return [repr(each) for each in model_input]


set_model(Messages())
