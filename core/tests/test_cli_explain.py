import asyncio
import json

import numpy as np
import pytest
from click.testing import CliRunner

from jackfield._cli import cli

#: An explainer with code of its own: what a real one answers, and what it was asked.
EXPLAINER = """
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from jackfield import InferRequest, InferResponse, InvalidRequestError, ModelMetadata
from jackfield import Tensor, TensorMetadata, route

NAMES = ["sepal length", "sepal width", "petal length", "petal width"]


class Contributions:
    def metadata(self):
        return ModelMetadata(
            inputs=[TensorMetadata("x", "FP64", [-1, 4])],
            parameters={"feature_names": NAMES, "classes": ["setosa", "virginica"]},
        )

    def infer(self, request):
        return InferResponse([])

    @route("/explain", methods=["POST"])
    def explain(self, http: Request, body: InferRequest) -> object:
        form = http.query_params.get("format")
        if form:
            return Response(b"picture: " + form.encode(), media_type={
                "png": "image/png", "html": "text/html"}[form])
        x = body.inputs[0].array
        if not len(x):
            raise InvalidRequestError("inputs[0]", expected="at least one row", found="none")
        given = body.parameters.get("explain_parameters", {})
        values = np.stack([x * 0.1, -x], -1) * given.get("scale", 1)
        return InferResponse([
            Tensor.from_array("shap_values", values),
            Tensor.from_array("expected_value", np.array([0.25, 0.5])),
            Tensor.from_array("samples", np.array([given.get("samples", 7), len(given)])),
        ])


class Rules:
    def metadata(self):
        return ModelMetadata(
            inputs=[TensorMetadata("text", "BYTES", [-1])],
            parameters={"classes": ["bad", "good"]},
        )

    def infer(self, request):
        return InferResponse([])

    @route("/explain", methods=["POST"])
    def explain(self, body: InferRequest) -> object:
        texts = [each.decode() for each in body.inputs[0].array.reshape(-1)]
        return InferResponse([
            Tensor.from_array("anchor", np.array([[t, "great"] for t in texts], dtype=object)),
            Tensor.from_array("precision", np.full(len(texts), 0.9625)),
            Tensor.from_array("coverage", np.full(len(texts), 0.5)),
            Tensor.from_array("prediction", np.ones(len(texts), np.int64)),
            Tensor.from_array("gaps", np.array([0.5, np.nan])),
        ])


class Columns:
    def metadata(self):
        return ModelMetadata(inputs=[
            TensorMetadata("age", "INT64", [-1, 1]),
            TensorMetadata("town", "BYTES", [-1, 1]),
            TensorMetadata("income", "FP32", [-1, 1]),
        ])

    def infer(self, request):
        return InferResponse([])

    @route("/explain", methods=["POST"])
    def explain(self, body: InferRequest) -> object:
        rows = len(body.inputs[0].array)
        values = np.arange(rows * 3, dtype=float).reshape(rows, 3, 1) - 1
        return InferResponse([Tensor.from_array("shap_values", values)])


class Free:
    def infer(self, x: int) -> int:
        return x

    @route("/explain", methods=["POST"])
    def explain(self, body: InferRequest) -> object:
        return {"data": {"anchor": ["a > 1"]}, "shape": list(body.inputs[0].shape)}


class Plain:
    def infer(self, x: int) -> int:
        return x
"""
ROW = "5.1, 3.5,1.4,0.2"


@pytest.fixture
async def ask(add_model, models_dir, running):
    """Run `jackfield explain` against a server with each model of `EXPLAINER`."""
    for name in ("Contributions", "Rules", "Columns", "Free", "Plain"):
        add_model(name.lower(), name, code=EXPLAINER)
    async with running(models_dir) as server:

        async def ask(*arguments, standard_input=None, url=server.http):
            command = ["explain", *map(str, arguments), "--url", url]
            return await asyncio.to_thread(
                CliRunner().invoke, cli, command, input=standard_input, catch_exceptions=False
            )

        yield ask


def lines(result):
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


async def test_contributions_are_sorted_by_size_with_values_and_bars(ask):
    found = lines(await ask("contributions", "--row", ROW))
    # 0.25 + 1.02 for the one, 0.5 - 10.2 for the other
    assert found[0] == "row 0: setosa 1.27, on average 0.25"
    assert found[1].split() == ["FEATURE", "VALUE", "CONTRIBUTION"]
    rows = [line.split() for line in found[2:6]]
    assert [row[:4] for row in rows] == [
        ["sepal", "length", "5.1", "+0.51"],
        ["sepal", "width", "3.5", "+0.35"],
        ["petal", "length", "1.4", "+0.14"],
        ["petal", "width", "0.2", "+0.02"],
    ]
    bars = [line.count("█") for line in found[2:6]]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] == 10
    assert bars[-1] >= 1
    assert found[6] == "not shown: virginica -9.7; --json has all"
    # the other tensors, as infer shows them
    assert found[-1].split() == ["samples", "INT64", "[2]", "7,", "0"]


async def test_what_lowers_is_drawn_to_the_left(ask):
    found = lines(await ask("columns", "--row", "41, Bath, 2.5", "--row", "1,York,3"))
    first = [line for line in found if line.startswith(("age", "town", "income"))][:3]
    left = {line.split()[0]: line.partition("│")[0].count("█") for line in first}
    right = {line.split()[0]: line.partition("│")[2].count("█") for line in first}
    assert left == {"age": 10, "town": 0, "income": 0}
    assert right == {"age": 0, "town": 0, "income": 10}
    assert next(line for line in first if "town" in line).split()[1:3] == ["Bath", "+0"]
    assert [line for line in found if line.startswith("row ")] == [
        "row 0: 0, on average 0",
        "row 1: 9, on average 0",
    ]


async def test_rules_are_sentences_with_precision_and_coverage(ask):
    found = lines(await ask("rules", "--row", "a, film", "--row", "b"))
    assert found[:2] == [
        "row 0: IF a, film AND great THEN good",
        "       precision 96.2 %, coverage 50.0 %",
    ]
    assert "row 1: IF b AND great THEN good" in found
    assert found[-1].split() == ["gaps", "FP64", "[2]", "0.5,", "nan"]
    assert not any(line.startswith(("precision", "prediction")) for line in found)


async def test_json_has_every_number(ask, tmp_path):
    result = await ask("contributions", "--row", ROW, "--json")
    outputs = {each["name"]: each for each in json.loads(result.stdout)["outputs"]}
    assert outputs["shap_values"]["shape"] == [1, 4, 2]
    assert np.allclose(outputs["shap_values"]["data"][:2], [0.51, -5.1])
    file = tmp_path / "found.json"
    assert (await ask("contributions", "--row", ROW, "--output", file)).exit_code == 0
    assert json.loads(file.read_bytes())["outputs"][0]["name"] == "shap_values"


async def test_parameters_reach_the_explainer(ask, tmp_path):
    parameters = ["--parameter", "samples=12", "--parameter", "scale=2", "--parameter", "how=a b"]
    found = lines(await ask("contributions", "--row", ROW, *parameters))
    assert found[0].startswith("row 0: setosa 2.29")
    assert found[-1].split() == ["samples", "INT64", "[2]", "12,", "3"]
    # beside those of a request
    request = {
        "parameters": {"explain_parameters": {"samples": 3, "scale": 1}},
        "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [1, 2, 3, 4]}],
    }
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request))
    found = lines(await ask("contributions", "--request", file, "--parameter", "samples=4"))
    assert found[-1].split() == ["samples", "INT64", "[2]", "4,", "2"]
    assert found[2].split()[:4] == ["petal", "width", "4", "+0.4"]
    again = await ask("contributions", "--request", "-", standard_input=json.dumps(request))
    assert lines(again)[-1].split() == ["samples", "INT64", "[2]", "3,", "2"]


@pytest.mark.parametrize("form", ["html", "png"])
async def test_a_picture_is_saved(form, ask, tmp_path):
    file = tmp_path / f"why.{form}"
    result = await ask("contributions", "--row", ROW, "--output", file)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"explanation: {file}" in result.stderr
    assert file.read_bytes() == b"picture: " + form.encode()
    printed = await ask("contributions", "--row", ROW, "--format", form)
    assert printed.stdout_bytes == b"picture: " + form.encode()


async def test_an_answer_without_tensors_is_printed_as_it_is(ask):
    result = await ask("free", "--row", "1")
    assert json.loads(result.stdout)["data"] == {"anchor": ["a > 1"]}


REFUSED = {
    "no explainer": (["plain", "--row", "1"], 1, ["no explainer here", '"target": "plain"']),
    "no model": (["irsi", "--row", "1"], 1, ["the server's models: ", "contributions", "rules"]),
    "no row": (["contributions"], 1, ["expected at least one row", "--row 5.1,3.5,1.4,0.2"]),
    "width": (["contributions", "--row", "1,2"], 1, ["the shape [-1, 4]", "found [1, 2]"]),
    "text": (["contributions", "--row", "1,2,a,3"], 1, ["input 'x'"]),
    "ragged": (["contributions", "--row", ROW, "--row", "1"], 1, ["rows of one length", "1 and 4"]),
    "cells": (["columns", "--row", "1,2"], 1, ["expected 3 cells: age, town, income", "found 2"]),
    "no form": (["rules", "--row", "a", "--format", "png"], 1, ["has no form png", "table"]),
    "both": (["rules", "--row", "a", "--request", "-"], 2, ["--row or --request"]),
    "suffix": (["rules", "--row", "a", "--output", "a.txt"], 2, ["FILE.html, .png or .json"]),
    "folder": (["contributions", "--row", ROW, "-o", "/nowhere/a.png"], 2, ["/nowhere/a.png: No"]),
    "parameter": (["rules", "--row", "a", "--parameter", "b"], 2, ["expected KEY=VALUE"]),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_goes_wrong_says_what_to_do(case, ask):
    arguments, code, texts = REFUSED[case]
    result = await ask(*arguments, standard_input="")
    assert (result.exit_code, result.stdout) == (code, "")
    for text in texts:
        assert text in result.stderr


@pytest.mark.parametrize(
    ("url", "text", "code"),
    [
        ("http://127.0.0.1:9", "jackfield serve PATH starts one", 1),
        ("grpc://127.0.0.1:9", "explanations go over HTTP", 2),
        ("127.0.0.1:9", "expected a URL like http://host:8080", 2),
    ],
)
def test_a_server_that_is_not_there_is_told(url, text, code):
    result = CliRunner().invoke(cli, ["explain", "m", "--row", "1", "--url", url])
    assert result.exit_code == code
    assert text in result.stderr
