"""Models of MLflow as its users save them: real flavours, and Python functions that tell much."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import mlflow
import msgspec
import numpy as np
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression

from jackfield import ModelContext, ModelSettings
from jackfield.client import Client
from jackfield.testing import running
from jackfield_mlflow import MlflowOptions

CODE = Path(__file__).parent / "served_code"
FORMS = ("json", "binary", "grpc")


def pytest_configure(config):
    for line in (
        # of MLflow's own types, when it is imported
        "ignore:.*Any type hint is inferred as AnyType:UserWarning",
        # of models that tests save on purpose without them
        "ignore:.*Add type hints to the `predict` method:UserWarning",
    ):
        config.addinivalue_line("filterwarnings", line)


@dataclasses.dataclass(frozen=True)
class Saved:
    """A model as it was saved."""

    folder: Path

    def pyfunc(self):
        """Load it as a user of MLflow does."""
        return mlflow.pyfunc.load_model(str(self.folder), suppress_warnings=True)


def save_code(folder, code, *, inputs=None, outputs=None, params=None, is_signed=True, **extra):
    """Save a model of a file in `served_code`."""
    signature = None
    if is_signed:
        signature = ModelSignature(
            inputs=Schema(inputs) if inputs else None,
            outputs=Schema(outputs) if outputs else None,
            params=ParamSchema(params) if params else None,
        )
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(CODE / f"{code}.py"),
        signature=signature,
        # else MLflow loads the model in a process of its own, to see what it imports
        pip_requirements=["mlflow"],
        **extra,
    )


def save_sklearn(folder, model, **extra):
    """Save an estimator."""
    mlflow.sklearn.save_model(model, folder, pip_requirements=["scikit-learn"], **extra)


PARAMS = [
    ParamSpec("scale", "double", 2.0),
    ParamSpec("count", "long", 3),
    ParamSpec("small", "integer", 1),
    ParamSpec("single", "float", 0.5),
    ParamSpec("name", "string", "none"),
    ParamSpec("strict", "boolean", default=False),
    ParamSpec("when", "datetime", np.datetime64("2024-01-01T00:00")),
    ParamSpec("many", "long", [1, 2], shape=(-1,)),
    ParamSpec("thing", Object([Property("k", DataType.string)]), {"k": "v"}),
]

PERSON = Object(
    [
        Property("name", DataType.string),
        Property("age", DataType.long, required=False),
        Property("tags", Array(DataType.string), required=False),
        Property("photo", DataType.binary, required=False),
    ]
)

#: Columns of every type that a signature may have.
COLUMNS = [
    ColSpec(DataType.boolean, "flag"),
    ColSpec(DataType.integer, "small"),
    ColSpec(DataType.long, "large"),
    ColSpec(DataType.float, "single"),
    ColSpec(DataType.double, "double"),
    ColSpec(DataType.string, "text"),
    ColSpec(DataType.binary, "blob"),
    ColSpec(DataType.datetime, "moment"),
    ColSpec(Array(DataType.double), "numbers"),
    ColSpec(Array(Array(DataType.string)), "words"),
    ColSpec(Array(DataType.binary), "blobs"),
    ColSpec(PERSON, "person"),
    ColSpec(Map(DataType.long), "counts"),
    ColSpec(Array(Map(DataType.double)), "maps"),
    ColSpec(AnyType(), "anything", required=False),
    ColSpec(DataType.double, "maybe", required=False),
    ColSpec(DataType.string, "note", required=False),
]

#: Every simple type as part of others.
PARTS = Object(
    [
        Property("i", DataType.integer),
        Property("l", DataType.long),
        Property("f", DataType.float),
        Property("d", DataType.double),
        Property("t", DataType.datetime),
        Property("b", DataType.boolean, required=False),
        Property("s", DataType.string, required=False),
    ]
)
NESTED = [
    ColSpec(PARTS, "parts"),
    ColSpec(Array(DataType.integer), "integers", required=False),
    ColSpec(Array(DataType.float), "floats", required=False),
    ColSpec(Array(Array(DataType.double)), "doubles", required=False),
    ColSpec(Array(DataType.datetime), "moments", required=False),
    ColSpec(Array(DataType.string), "texts", required=False),
    ColSpec(Map(DataType.double), "prices", required=False),
    ColSpec(DataType.datetime, "when", required=False),
    ColSpec(DataType.long, "count", required=False),
]

TENSORS = [
    TensorSpec(np.dtype(np.float32), (-1, 2), "pixels"),
    TensorSpec(np.dtype(np.int64), (-1,), "ids"),
    TensorSpec(np.dtype(bool), (-1, 1), "mask"),
    TensorSpec(np.dtype(str), (-1,), "words"),
    TensorSpec(np.dtype(object), (-1,), "things"),
]


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Save all models, each in a folder of its name."""
    # MLflow advises those who save
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        return _save(tmp_path_factory.mktemp("models"))


def _save(home):
    spied = {"code": "spy", "outputs": [ColSpec(DataType.string)]}
    save_code(home / "columns", inputs=COLUMNS, params=PARAMS, **spied)
    save_code(home / "nested", inputs=NESTED, **spied)
    save_code(home / "tensors", inputs=TENSORS, **spied)
    save_code(home / "matrix", inputs=[TensorSpec(np.dtype(np.float32), (-1, 3))], **spied)
    save_code(home / "cube", inputs=[TensorSpec(np.dtype("u1"), (-1, 2, -1), "cube")], **spied)
    save_code(
        home / "unnamed", inputs=[ColSpec(DataType.double), ColSpec(DataType.string)], **spied
    )
    save_code(home / "numbers", inputs=[ColSpec(DataType.double, each) for each in "abc"], **spied)
    save_code(home / "sole", inputs=[ColSpec(DataType.string)], **spied)
    save_code(home / "vectors", inputs=[ColSpec(Array(DataType.double), "vector")], **spied)
    save_code(home / "inputs-only", "spy", inputs=[ColSpec(DataType.double, "x")])
    save_code(home / "params-only", "spy", params=PARAMS[:1])
    save_code(home / "unsigned", "spy", is_signed=False)
    for kind in ("Ints", "Floats", "Texts", "Flags", "Blobs", "Moments", "Lists", "Maps", "Things",
                 "People"):  # fmt: skip
        save_code(home / f"hinted-{kind}", "hinted", is_signed=False, model_config={"kind": kind})
    what = [ColSpec(DataType.string, "what")]
    save_code(home / "results", "results", inputs=what)
    save_code(
        home / "streams",
        "talker",
        inputs=[ColSpec(DataType.string, "text")],
        outputs=[ColSpec(DataType.string)],
        params=[ParamSpec("times", "long", 1)],
        model_config={"kind": "Plain"},
        streamable=True,
    )
    save_code(
        home / "awaited",
        "talker",
        inputs=[ColSpec(DataType.string, "text")],
        outputs=[ColSpec(DataType.string)],
        model_config={"kind": "Asynchronous"},
        streamable=True,
    )
    flowers, species = load_iris(return_X_y=True, as_frame=True)
    classifier = LogisticRegression(max_iter=500).fit(flowers, species)
    save_sklearn(
        home / "iris",
        classifier,
        signature=infer_signature(flowers, classifier.predict(flowers)),
        input_example=flowers.head(3),
    )
    save_sklearn(
        home / "proba",
        classifier,
        pyfunc_predict_fn="predict_proba",
        signature=infer_signature(flowers, classifier.predict_proba(flowers)),
    )
    patients, progress = load_diabetes(return_X_y=True)
    patients = patients.astype(np.float32)
    regressor = LinearRegression().fit(patients, progress)
    save_sklearn(
        home / "diabetes",
        regressor,
        signature=infer_signature(patients, regressor.predict(patients)),
        input_example=patients[:2],
    )
    return {each.name: Saved(each) for each in home.iterdir()}


@pytest.fixture(scope="session")
def served(saved):
    """Serve all of them as Python functions."""
    folder = saved["iris"].folder.parent
    for each in saved.values():
        settings: dict[str, Any] = {
            "name": each.folder.name,
            "implementation": "mlflow",
            "parameters": {"uri": ".", "extra": {"flavor": "pyfunc"}},
        }
        (each.folder / "model-settings.json").write_text(json.dumps(settings))
    with running(folder) as server:
        yield server


@pytest.fixture(scope="session")
def clients(served):
    """Give a client of each form."""
    with (
        Client(served.http, form="json") as text,
        Client(served.http, form="binary") as binary,
        Client(served.grpc) as grpc,
    ):
        yield {"json": text, "binary": binary, "grpc": grpc}


@pytest.fixture
def load():
    """Load models in this process, and close them after the test."""
    from jackfield_mlflow._runtime import MlflowRuntime

    loaded = []

    def load(folder, *, uri="", implementation="mlflow", parameters=None, **extra):
        settings = ModelSettings(name="model", implementation=implementation)
        if parameters:
            settings = msgspec.structs.replace(
                settings, parameters=msgspec.structs.replace(settings.parameters, **parameters)
            )
        runtime = MlflowRuntime(
            ModelContext(
                name="model",
                version="",
                artifact=folder,
                uri=uri,
                settings=settings,
                options=MlflowOptions(**{"flavor": "pyfunc", **extra}),
                logger=logging.getLogger("jackfield.testing"),
            )
        )
        runtime.load()
        loaded.append(runtime)
        return runtime

    yield load
    for each in loaded:
        each.close()
