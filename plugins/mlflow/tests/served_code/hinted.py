"""Models with a type hint each; the configuration says which one it is."""

import datetime
import json
from typing import Any

import mlflow
import pydantic
from mlflow.models import ModelConfig
from mlflow.pyfunc import PythonModel


class Person(pydantic.BaseModel):
    name: str
    age: int
    born: datetime.datetime | None = None


def tell(given):
    return [json.dumps([type(each).__name__, repr(each)]) for each in given]


class Ints(PythonModel):
    def predict(self, model_input: list[int]) -> list[str]:
        return tell(model_input)


class Floats(PythonModel):
    def predict(self, model_input: list[float]) -> list[str]:
        return tell(model_input)


class Texts(PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return tell(model_input)


class Flags(PythonModel):
    def predict(self, model_input: list[bool]) -> list[str]:
        return tell(model_input)


class Blobs(PythonModel):
    def predict(self, model_input: list[bytes]) -> list[str]:
        return tell(model_input)


class Moments(PythonModel):
    def predict(self, model_input: list[datetime.datetime]) -> list[str]:
        return tell(model_input)


class Lists(PythonModel):
    def predict(self, model_input: list[list[float]]) -> list[str]:
        return tell(model_input)


class Maps(PythonModel):
    def predict(self, model_input: list[dict[str, int]]) -> list[str]:
        return tell(model_input)


class Things(PythonModel):
    def predict(self, model_input: list[Any]) -> list[str]:
        return tell(model_input)


class People(PythonModel):
    def predict(self, model_input: list[Person]) -> list[str]:
        return tell(model_input)


config = ModelConfig(development_config={"kind": "Ints"})
mlflow.models.set_model(globals()[config.get("kind")]())
