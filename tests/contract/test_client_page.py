"""The snippets of docs/client.md run, in their order, against a server."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving import clean_environment, serving, write_model

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text("utf-8")

MODELS = """
import numpy as np
from jackfield import Datatype, InferResponse, ModelMetadata, Tensor, TensorMetadata


class Iris:
    def __init__(self, context):
        pass

    def load(self):
        pass

    def metadata(self):
        x = TensorMetadata("x", Datatype.FP64, [-1, 4])
        outputs = [TensorMetadata("predict", Datatype.INT64, [-1])]
        outputs += [TensorMetadata("predict_proba", Datatype.FP64, [-1, 3])]
        return ModelMetadata(inputs=[x], outputs=outputs)

    def infer(self, request):
        rows = len(request.input("x").array)
        proba = Tensor.from_array("predict_proba", np.ones((rows, 3)) / 3)
        return InferResponse([Tensor.from_array("predict", np.zeros(rows, int)), proba])

    def close(self):
        pass


class Story(Iris):
    def metadata(self):
        return ModelMetadata(inputs=[TensorMetadata("prompt", Datatype.BYTES, [1])])

    async def stream(self, request):
        for word in ("upon", "a", "time"):
            yield InferResponse([Tensor.from_array("text", [word])])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("iris", "story"):
        home = write_model(folder, f"models.{name.title()}", name=name)
        (home / "models.py").write_text(MODELS)
    with serving(folder) as served:
        yield served


def located(text, server):
    return text.replace("http://localhost:8080", server.http).replace("localhost:8081", server.grpc)


def test_the_pages_snippets_run(server, capsys):
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(snippets) == 4
    names = {}
    for snippet in snippets:
        exec(compile(located(snippet, server), "client.md", "exec"), names)
    names["patient"].close()
    names["proud"].close()
    assert capsys.readouterr().out.splitlines() == [
        "[0] (1, 3)",
        "[b'upon']",
        "[b'a']",
        "[b'time']",
        "404 model 'irsi' is not served here; did you mean 'iris'",
    ]
    assert names["predicted"].tolist() == [0]


def test_the_pages_command_runs(server, tmp_path):
    [command] = re.findall(r"^```sh\njackfield (.*?)\n```", PAGE, re.MULTILINE)
    (tmp_path / "request.json").write_text(
        '{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [1, 2, 3, 4]}]}'
    )
    result = subprocess.run(
        [sys.executable, "-m", "jackfield", *shlex.split(located(command, server))],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "predict_proba" in result.stdout
    assert "0.333" in result.stdout
