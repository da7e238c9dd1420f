"""Every output of every artifact, over the wire, is what CatBoost itself answers."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from catboost import CatBoost

from jackfield import InferRequest, RequestedOutput, Tensor
from jackfield.client import Client

NAMES = (
    "cancer", "wine", "iris", "diabetes", "poisson", "targets", "uncertain", "quantiles", "marks",
    "passengers", "passengers-json", "ranker", "notes",
)  # fmt: skip
FORMS = ("json", "binary", "grpc")
OUTPUTS = (
    "predict", "predict_proba", "predict_log_proba", "raw", "leaf", "contributions",
    "virtual_ensembles_predict",
)  # fmt: skip
CLASSIFIERS = {"cancer", "wine", "iris", "marks", "passengers", "notes"}
WITHOUT_ENSEMBLES = {"targets"}


def expected(model, output):
    """Ask CatBoost, by the class that a user would take."""
    framework, rows = model.framework(), model.rows
    if output == "raw":
        # a ranker's own `predict` takes no type
        return CatBoost.predict(framework, rows, prediction_type="RawFormulaVal")
    if output == "leaf":
        return framework.calc_leaf_indexes(rows)
    if output == "contributions":
        return framework.get_feature_importance(model.pool(), type="ShapValues")
    if output == "virtual_ensembles_predict":
        return framework.virtual_ensembles_predict(
            rows, prediction_type="TotalUncertainty", virtual_ensembles_count=10
        )
    return getattr(framework, output)(rows)


def texts(values):
    """Give the bytes of texts, which is what a tensor holds."""
    return [each.encode() if isinstance(each, str) else each for each in values]


def same(found, wanted):
    """Compare bit for bit; CatBoost gives some labels as [rows, 1]."""
    if wanted.dtype == object:
        return found.reshape(-1).tolist() == texts(wanted.reshape(-1).tolist())
    if wanted.ndim == 2 and wanted.shape[1] == 1:
        wanted = wanted.reshape(-1)
    return found.shape == wanted.shape and np.array_equal(found, wanted)


@pytest.fixture(scope="module")
def clients(trained, serve):
    at = serve(trained["cancer"].folder.parent)
    with (
        Client(at.http, form="json") as text,
        Client(at.http, form="binary") as binary,
        Client(at.grpc) as grpc,
    ):
        yield {"json": text, "binary": binary, "grpc": grpc}


def as_columns(model):
    """Tell which requests hold the rows: a matrix, columns with and without `pd`, JSON cells."""
    names = model.framework().feature_names_
    if not isinstance(model.rows, pd.DataFrame):
        yield InferRequest([Tensor.from_array("anything", model.rows)])
        yield InferRequest(
            [Tensor.from_array(name, model.rows[:, at]) for at, name in enumerate(names)]
        )
        return
    columns = model.columns()
    yield InferRequest(columns)
    yield InferRequest(columns[::-1], parameters={"content_type": "pd"})
    yield InferRequest(
        [
            Tensor.from_array(name, cells(model.rows[name]), parameters={"content_type": "pd_json"})
            for name in names
        ]
    )


def cells(series):
    """Write each value as JSON, with null for the missing numbers."""
    values = series.astype(object).where(series.notna(), None).tolist()
    made = np.empty(len(values), object)
    made[:] = [json.dumps(each) for each in values]
    return made


def test_the_names_are_those_of_all_models(trained):
    assert tuple(trained) == NAMES


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_every_output_equals_the_frameworks(trained, clients, name, form):
    model, client = trained[name], clients[form].model(name)
    offered = [each.name for each in client.metadata().outputs if "alias_of" not in each.parameters]
    wanted = [
        output
        for output in OUTPUTS
        if (name in CLASSIFIERS or not output.endswith("proba"))
        and (name not in WITHOUT_ENSEMBLES or not output.startswith("virtual"))
    ]
    assert offered == wanted
    answers = {output: expected(model, output) for output in wanted}
    for request in as_columns(model):
        for output in wanted:
            asked = InferRequest(
                request.inputs, [RequestedOutput(output)], dict(request.parameters)
            )
            result = client.infer(asked)
            assert list(result) == [output]
            assert same(result[output], answers[output]), output
        result = client.infer(request)
        assert list(result) == ["predict"]
        assert same(result["predict"], answers["predict"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["cancer", "diabetes", "passengers"])
def test_ranges_of_trees_equal_the_frameworks(trained, clients, name, form):
    model = trained[name]
    wanted = model.framework()
    result = (
        clients[form]
        .model(name)
        .infer(
            model.request(
                outputs=[RequestedOutput(each) for each in ("predict", "margin", "leaf")],
                parameters={"ntree_start": 3, "ntree_end": 9},
            )
        )
    )
    ranged = {"ntree_start": 3, "ntree_end": 9}
    assert same(result["predict"], wanted.predict(model.rows, **ranged))
    assert same(result["leaf"], wanted.calc_leaf_indexes(model.rows, **ranged))
    assert result["margin"].shape == (len(model.rows),)
