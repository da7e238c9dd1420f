"""Models that stream, and models whose functions are coroutines."""

import asyncio
import logging

import mlflow
from mlflow.models import ModelConfig
from mlflow.pyfunc import PythonModel


def words(model_input):
    text = model_input if isinstance(model_input, str) else next(iter(model_input.values()))
    return str(text).split()


logger = logging.getLogger("talker")


class Plain(PythonModel):
    def predict(self, context, model_input, params=None):
        return [str(model_input.iloc[0, 0]).upper()]

    def predict_stream(self, context, model_input, params=None):
        try:
            for word in words(model_input):
                yield word * int((params or {}).get("times", 1))
        finally:
            logger.info("left")


class Asynchronous(PythonModel):
    waiting = 0
    most = 0

    async def predict(self, context, model_input, params=None):
        Asynchronous.waiting += 1
        Asynchronous.most = max(Asynchronous.most, Asynchronous.waiting)
        for _ in range(1000):
            if Asynchronous.most > 1:
                break
            await asyncio.sleep(0.001)
        Asynchronous.waiting -= 1
        return [f"{model_input.iloc[0, 0]} {Asynchronous.most > 1}"]

    async def predict_stream(self, context, model_input, params=None):
        try:
            for word in words(model_input):
                await asyncio.sleep(0)
                yield word
        finally:
            await asyncio.sleep(0)
            logger.info("left")


config = ModelConfig(development_config={"kind": "Plain"})
mlflow.models.set_model(globals()[config.get("kind")]())
