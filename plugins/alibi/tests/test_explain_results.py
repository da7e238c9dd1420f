"""Every explainer, over the wire, answers what Alibi itself does with the same seed."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("alibi", reason="Alibi is not installed", exc_type=ImportError)

from explainers import SEED, anchor_of

from jackfield import InferRequest, RequestedOutput, Tensor
from jackfield.client import Client

FORMS = ("json", "binary", "grpc")
KINDS = (
    "a-anchor", "z-anchor-wine", "saved-anchor", "shap", "ale", "ale-diabetes", "dependence",
    "variance", "importance", "words", "image",
)  # fmt: skip


@pytest.fixture(scope="module")
def clients(explainers, serve):
    at = serve(explainers.folder)
    with (
        Client(at.http, form="json", timeout_s=60) as text,
        Client(at.http, form="binary", timeout_s=60) as binary,
        Client(at.grpc, timeout_s=60) as grpc,
    ):
        yield {"json": text, "binary": binary, "grpc": grpc}


def seeded(explain, *args, **kwargs):
    """Ask Alibi as a user does who wants the same again."""
    state = np.random.get_state()
    try:
        np.random.seed(SEED)
        return explain(*args, **kwargs)
    finally:
        np.random.set_state(state)


def texts(values):
    return np.array([[each.encode() for each in row] for row in values], object)


def padded(lists, fill):
    width = max(map(len, lists))
    return [[*each, *[fill] * (width - len(each))] for each in lists]


def anchors(found, **more):
    return {
        "precision": np.array([np.ravel(each.data["precision"])[0] for each in found]),
        "coverage": np.array([np.ravel(each.data["coverage"])[0] for each in found]),
        "prediction": np.array([each.data["raw"]["prediction"][0] for each in found]),
        **more,
    }


def rules(found):
    return texts(padded([each.data["anchor"] for each in found], ""))


def tabular(explained, rows):
    made = anchor_of(explained)
    found = [seeded(made.explain, row) for row in rows]
    return found, anchors(
        found,
        anchor=rules(found),
        anchor_features=np.array(padded([each.data["raw"]["feature"] for each in found], -1)),
    )


def direct(name, targets):
    """Ask Alibi itself: the inputs, its explanations, and the tensors that they mean."""
    from alibi import explainers as alibi

    iris, wine, digits = targets["iris"], targets["wine"], targets["digits"]
    match name:
        case "a-anchor" | "saved-anchor":
            rows = iris.rows[::40]
            return [rows], *tabular(iris, rows)
        case "z-anchor-wine":
            rows = wine.rows[::90]
            return [rows], *tabular(wine, rows)
        case "shap":
            rows = iris.rows[::25]
            made = alibi.KernelShap(
                iris.model.predict_proba, feature_names=list(iris.names), seed=SEED
            ).fit(iris.rows[::10])
            found = seeded(made.explain, rows, silent=True)
            return (
                [rows],
                [found],
                {
                    "shap_values": np.stack(found.data["shap_values"], -1),
                    "expected_value": np.asarray(found.data["expected_value"]),
                },
            )
        case "ale":
            made = alibi.ALE(
                iris.model.predict_proba, feature_names=list(iris.names),
                target_names=["0", "1", "2"],
            )  # fmt: skip
            return [iris.rows], *curves(made.explain(iris.rows))
        case "ale-diabetes":
            diabetes = targets["diabetes"]
            rows = diabetes.rows[:120]
            made = alibi.ALE(diabetes.model.predict, feature_names=list(diabetes.names))
            return [rows], *curves(made.explain(rows))
        case "dependence":
            rows = wine.rows[::8]
            made = alibi.PartialDependence(
                wine.model.predict_proba, feature_names=list(wine.names),
                target_names=list(wine.model.classes_),
            )  # fmt: skip
            found = made.explain(rows, grid_resolution=8)
            return (
                [rows],
                [found],
                {
                    "feature_values": stacked(found.data["feature_values"]),
                    "pd_values": stacked(found.data["pd_values"]),
                    "feature_names": texts([wine.names])[0],
                },
            )
        case "variance":
            made = alibi.PartialDependenceVariance(
                iris.model.predict_proba, feature_names=list(iris.names),
                target_names=["0", "1", "2"],
            )  # fmt: skip
            found = made.explain(iris.rows)
            return (
                [iris.rows],
                [found],
                {
                    "feature_importance": found.data["feature_importance"],
                    "feature_names": texts([iris.names])[0],
                },
            )
        case "importance":
            made = alibi.PermutationImportance(
                iris.model.predict, score_fns="accuracy", feature_names=list(iris.names)
            )
            found = seeded(made.explain, iris.rows, iris.labels, n_repeats=5)
            [metric] = found.data["feature_importance"]
            return (
                [iris.rows, iris.labels],
                [found],
                {
                    "feature_importance": np.array([[each["mean"] for each in metric]]),
                    "feature_importance_std": np.array([[each["std"] for each in metric]]),
                    "metrics": texts([["accuracy"]])[0],
                    "feature_names": texts([iris.names])[0],
                },
            )
        case "words":
            import spacy

            model = targets["texts"].model
            given = targets["texts"].rows[:1]
            made = alibi.AnchorText(model.predict, nlp=spacy.blank("en"), seed=SEED)
            found = [seeded(made.explain, each) for each in given]
            positions = [each.data["raw"]["positions"] for each in found]
            return (
                [given],
                found,
                anchors(
                    found, anchor=rules(found), anchor_positions=np.array(padded(positions, -1))
                ),
            )
        case "image":
            images = digits.rows[[3, 30]].reshape(-1, 8, 8, 1)
            made = alibi.AnchorImage(
                lambda x: digits.model.predict(x.reshape(len(x), -1)), (8, 8, 1),
                segmentation_fn="slic", seed=SEED,
                segmentation_kwargs={"n_segments": 6, "compactness": 1, "sigma": 0.5,
                                     "start_label": 0},
            )  # fmt: skip
            found = [seeded(made.explain, each) for each in images]
            return (
                [images],
                found,
                anchors(
                    found,
                    anchor=np.stack([each.data["anchor"] for each in found]),
                    segments=np.stack([each.data["segments"] for each in found]),
                ),
            )
    raise ValueError(name)


def stacked(arrays):
    size = np.max([np.shape(each) for each in arrays], axis=0)
    made = np.full((len(arrays), *size), np.nan)
    for at, each in enumerate(arrays):
        made[(at, *map(slice, np.shape(each)))] = each
    return made


def curves(found):
    return [found], {
        "feature_values": stacked(found.data["feature_values"]),
        "ale_values": stacked(found.data["ale_values"]),
        "ale0": np.stack(found.data["ale0"]),
        "constant_value": np.array([found.data["constant_value"]]),
        "feature_names": texts([found.data["feature_names"].tolist()])[0],
    }


@pytest.fixture(scope="module")
def wanted(explainers):
    """What Alibi answers, asked once for each explainer."""
    known = {}

    def ask(name):
        if name not in known:
            known[name] = direct(name, explainers.targets)
        return known[name]

    return ask


def request(inputs, *outputs):
    tensors = [
        Tensor.from_array(name, each) for name, each in zip(("x", "y"), inputs, strict=False)
    ]
    return InferRequest(tensors, [RequestedOutput(each) for each in outputs])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", KINDS)
def test_tensors_equal_alibis(clients, wanted, name, form):
    inputs, _, tensors = wanted(name)
    result = clients[form].model(name).infer(request(inputs))
    assert list(result) == [
        each.name
        for each in clients[form].model(name).metadata().outputs
        if not each.parameters.get("on_request")
    ]
    assert set(result) == set(tensors)
    for output, expected in tensors.items():
        found = result[output]
        if expected.dtype.kind == "U":
            expected = np.array([each.encode() for each in expected.tolist()], object)
        assert found.shape == expected.shape, output
        same = (
            found.tolist() == expected.tolist()
            if found.dtype == object
            else np.array_equal(found, expected, equal_nan=True)
        )
        assert same, output


@pytest.mark.parametrize("name", KINDS)
def test_the_json_text_has_alibis_data(clients, wanted, name):
    inputs, found, _ = wanted(name)
    result = clients["binary"].model(name).infer(request(inputs, "explanation"))
    for text, each in zip(result["explanation"].tolist(), found, strict=True):
        told = json.loads(text)
        expected = json.loads(each.to_json())
        assert told["data"] == expected["data"]
        assert told["meta"]["name"] == expected["meta"]["name"]
        assert told["meta"]["version"] == expected["meta"]["version"]


@pytest.mark.parametrize("form", FORMS)
def test_mlservers_name_answers_as_mlserver(clients, wanted, form):
    """One text, [1, 1], of the first row alone."""
    [rows], found, _ = wanted("saved-anchor")
    result = clients[form].model("mlserver-anchor").infer(request([rows]))
    assert list(result) == ["explanation"]
    tensor = result.response.output("explanation")
    assert tensor.shape == (1, 1)
    assert tensor.parameters["content_type"] == "str"
    [[text]] = result["explanation"].tolist()
    assert json.loads(text)["data"] == json.loads(found[0].to_json())["data"]


def test_a_row_has_the_same_explanation_in_any_company(clients, wanted):
    [rows], _, tensors = wanted("a-anchor")
    model = clients["binary"].model("a-anchor")
    for at in range(len(rows)):
        alone = model.infer(request([rows[at : at + 1]]))
        own = [each for each in alone["anchor"][0].tolist() if each]
        assert own == [each for each in tensors["anchor"][at].tolist() if each]
        assert alone["coverage"] == tensors["coverage"][at]


def test_pictures_are_of_their_form(clients, wanted):
    [rows], _, _ = wanted("shap")
    result = clients["json"].model("shap").infer(request([rows[:1]], "png", "html"))
    assert result["png"][0].startswith(b"\x89PNG")
    assert b"<svg" in result["html"][0] or b"<img" in result["html"][0]


def test_shap_values_add_up_to_the_prediction(clients, explainers, wanted):
    [rows], _, _ = wanted("shap")
    result = clients["grpc"].model("shap").infer(request([rows]))
    sums = result["shap_values"].sum(axis=1) + result["expected_value"]
    assert np.allclose(sums, explainers.targets["iris"].model.predict_proba(rows))


def test_curves_of_rows_and_pairs(clients, explainers):
    """What a request's parameters lead to has the shape told, or is refused with a way out."""
    iris = explainers.targets["iris"]
    model = clients["json"].model("dependence")
    wine = explainers.targets["wine"].rows[::8]
    result = model.infer(request([wine], "ice_values", "pd_values"))
    assert result["ice_values"].shape[:3] == (13, 3, len(wine))
    points = ~np.isnan(result["pd_values"])
    mean = result["ice_values"].mean(axis=2)
    assert np.allclose(mean[points], result["pd_values"][points])
    pairs = {"method": "interaction", "features": [[0, 1], [2, 3]]}
    asked = InferRequest(
        [Tensor.from_array("x", iris.rows)],
        [RequestedOutput("feature_interaction"), RequestedOutput("feature_names")],
        {"explain_parameters": pairs},
    )
    result = clients["json"].model("variance").infer(asked)
    assert result["feature_interaction"].shape == (3, 2)
    assert result["feature_names"].tolist()[0] == b"sepal length (cm) & sepal width (cm)"
