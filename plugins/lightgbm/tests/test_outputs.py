"""Every output of every artifact, over the wire, is what LightGBM itself answers."""

from __future__ import annotations

import numpy as np
import pytest

from jackfield import InferRequest, RequestedOutput, Tensor
from jackfield.client import Client

#: Model -> number of classes; 0 for one that is no classifier.
MODELS = {
    "cancer.bst": 2, "digits.model": 10, "wine.txt": 3, "diabetes.txt": 0, "houses.txt": 0,
    "dear.txt": 2, "share.txt": 0, "ranker.txt": 0, "forest.bst": 2, "linear.bst": 0,
    "zeros.bst": 0, "own.txt": 0, "dear.joblib": 2, "kinds.joblib": 3, "houses.joblib": 0,
    "ranker.joblib": 0,
}  # fmt: skip
FORMS = ("json", "binary", "grpc")
OUTPUTS = ("predict", "predict_proba", "raw", "leaf", "contributions")
#: LightGBM computes no SHAP values for them.
WITHOUT_CONTRIBUTIONS = {"linear.bst"}


def offered(name):
    outputs = set(OUTPUTS)
    if not MODELS[name]:
        outputs.discard("predict_proba")
    return outputs - ({"contributions"} if name in WITHOUT_CONTRIBUTIONS else set())


def expected(model, output, classes):
    """Ask LightGBM as its user would."""
    framework, booster, rows = model.framework(), model.booster(), model.rows
    if output == "raw":
        return booster.predict(rows, raw_score=True)
    if output == "leaf":
        return booster.predict(rows, pred_leaf=True)
    if output == "contributions":
        found = booster.predict(rows, pred_contrib=True)
        return found.reshape(len(rows), classes, -1) if classes > 2 else found
    if not model.is_text:
        return getattr(framework, output)(rows)
    found = booster.predict(rows)
    if not classes:
        return found
    chances = found if classes > 2 else np.column_stack([1 - found, found])
    return chances if output == "predict_proba" else chances.argmax(axis=1)


def same(found, wanted):
    """Compare bit for bit, and dtypes where the protocol has them."""
    if wanted.dtype.kind in "OUT":
        return found.tolist() == [each.encode() for each in wanted.tolist()]
    return found.dtype == wanted.dtype and np.array_equal(found, wanted)


@pytest.fixture(scope="module")
def clients(trained, serve):
    at = serve(trained["cancer.bst"].file.parents[1])
    with (
        Client(at.http, form="json") as text,
        Client(at.http, form="binary") as binary,
        Client(at.grpc) as grpc,
    ):
        yield {"json": text, "binary": binary, "grpc": grpc}


def inputs_of(model):
    """Give each form in which a client may send the rows, by its content type."""
    if not model.is_frame:
        yield "np", [Tensor.from_array("x", model.rows)]
        return
    columns = [
        Tensor(each.name, each.datatype, each.array.reshape(-1, 1), each.parameters)
        for each in model.columns()
    ]
    yield "pd", columns[::-1]
    if not any(each.dtype == "category" for _, each in model.rows.items()):
        yield "np", [Tensor.from_array("x", model.rows.to_numpy())]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", FORMS)
def test_every_output_equals_lightgbms(trained, clients, name, form):
    model, client = trained[name], clients[form].model(name)
    wanted = sorted(offered(name))
    told = {each.name for each in client.metadata().outputs} - {"margin", "decision_function"}
    assert told == set(wanted)
    for content_type, inputs in inputs_of(model):
        request = InferRequest(
            inputs,
            [RequestedOutput(each) for each in wanted],
            {"content_type": content_type},
        )
        result = client.infer(request)
        assert list(result) == wanted
        for output in wanted:
            right = expected(model, output, MODELS[name])
            assert same(result[output], right), (name, form, content_type, output)


@pytest.mark.parametrize("form", FORMS)
def test_parameters_of_a_request_go_over_every_wire(trained, clients, form):
    model = trained["digits.model"]
    asked = {"num_iteration": 2, "start_iteration": 1}
    request = InferRequest(
        [Tensor.from_array("x", model.rows)],
        [RequestedOutput("raw"), RequestedOutput("leaf")],
        asked,
    )
    result = clients[form].model("digits.model").infer(request)
    booster = model.booster()
    assert same(result["raw"], booster.predict(model.rows, raw_score=True, **asked))
    assert same(result["leaf"], booster.predict(model.rows, pred_leaf=True, **asked))
