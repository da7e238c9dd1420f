"""Every output of every model, over the wire, is what Spark's own `transform` gives."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jackfield import InferRequest, RequestedOutput, Tensor
from jackfield.client import Client

NAMES = (
    "logistic", "forest", "boosted", "tree", "linear", "general", "bayes", "perceptron", "margin",
    "rest", "clusters", "bisecting", "mixture", "topics", "isotonic", "axes", "ratings", "iris",
    "crossed", "split", "passengers", "formula", "notes", "meaning", "free",
)  # fmt: skip
FORMS = ("json", "binary", "grpc")


@pytest.fixture(scope="module")
def clients(trained, serve):
    at = serve(*(each.folder for each in trained.values()))
    with (
        Client(at.http, form="json") as text,
        Client(at.http, form="binary") as binary,
        Client(at.grpc) as grpc,
    ):
        yield {"json": text, "binary": binary, "grpc": grpc}


def as_array(values):
    """Make of Spark's Python objects what a tensor holds."""
    if hasattr(values[0], "toArray"):
        return np.array([each.toArray() for each in values])
    if isinstance(values[0], list):
        return [json.dumps(each, separators=(",", ":")).encode() for each in values]
    if isinstance(values[0], str):
        return [each.encode() for each in values]
    return np.array([np.nan if each is None else each for each in values])


def same(found, wanted):
    """Compare bit for bit."""
    if isinstance(wanted, list):
        return found.tolist() == wanted
    if wanted.dtype != found.dtype:
        wanted = wanted.astype(found.dtype)
    return found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


def test_the_names_are_those_of_all_models(trained):
    assert tuple(trained) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_output_equals_sparks_own(trained, expected, clients, name):
    model = trained[name]
    wanted = {column: as_array(values) for column, values in expected(model).items()}
    for form in FORMS:
        client = clients[form].model(name)
        told = client.metadata().outputs
        offered = {each.name for each in told if "alias_of" not in each.parameters}
        assert offered == set(wanted)
        # one at a time, in one request, and without naming any
        result = client.infer(model.request(outputs=[RequestedOutput(each) for each in wanted]))
        assert list(result) == list(wanted)
        for column, values in wanted.items():
            assert same(result[column], values), (form, column)
        by_default = [each.name for each in told if not each.parameters.get("on_request")]
        result = client.infer(model.request())
        assert list(result) == by_default
        for column in by_default:
            assert same(result[column], wanted[column]), (form, column)


def test_both_routes_answer_alike(trained, clients, tmp_path, serve):
    """What is compared above is the route that was chosen; this is the general one."""
    name = "passengers"
    model = trained[name]
    told = json.loads((model.folder / "model-settings.json").read_text())
    told["parameters"]["uri"] = str(model.artifact)
    told["parameters"]["extra"] = {**model.options, "route": "dataframe"}
    (tmp_path / "model-settings.json").write_text(json.dumps(told))
    with Client(serve(tmp_path).http, form="binary") as client:
        other = client.model(name)
        assert other.metadata().parameters["route"] == "dataframe"
        offered = [each.name for each in other.metadata().outputs]
        request = model.request(outputs=[RequestedOutput(each) for each in offered])
        one, two = other.infer(request), clients["binary"].model(name).infer(request)
        for column in offered:
            wanted = two[column]
            assert same(one[column], wanted.tolist() if wanted.dtype == object else wanted), column


@pytest.mark.parametrize("form", FORMS)
def test_aliases_are_the_columns_under_the_names_of_all_plugins(trained, clients, form):
    model = trained["logistic"]
    names = {
        "predict": "prediction",
        "predict_proba": "probability",
        "raw": "rawPrediction",
        "margin": "rawPrediction",
    }
    both = [RequestedOutput(each) for pair in names.items() for each in dict.fromkeys(pair)]
    unique = list({each.name: each for each in both}.values())
    result = clients[form].model("logistic").infer(model.request(outputs=unique))
    for alias, column in names.items():
        assert same(result[alias], result[column])


def test_columns_come_in_any_order_and_shape(trained, expected, clients):
    model = trained["iris"]
    tensors = model.rows.tensors()[::-1]
    upright = [
        Tensor.from_array(each.name, each.array.reshape(-1, 1), parameters=each.parameters)
        for each in tensors
    ]
    matrix = np.column_stack([each.array for each in tensors[::-1]])
    wanted = as_array(expected(model)["prediction"])
    for form in FORMS:
        client = clients[form].model("iris")
        for inputs in (tensors, upright, [Tensor.from_array("x", matrix)]):
            assert same(client.infer(InferRequest(inputs))["prediction"], wanted)
