"""The models of docs/own-code.md, and the one ported from MLServer, load and answer."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from jackfield import InvalidRequestError, Server

DOCS = Path(__file__).parents[2] / "docs"
_MODEL = re.compile(r"<!-- model: (?P<file>\w+\.py) -->\n```python\n(?P<code>.*?)```", re.DOTALL)


def models(page):
    text = (DOCS / page).read_text("utf-8")
    return {match["file"]: match["code"] for match in _MODEL.finditer(text)}


@pytest.fixture
def serve(tmp_path):
    def serve(page, *names):
        files = [tmp_path / f"{name}.py" for name in names]
        for file in files:
            file.write_text(models(page)[file.name])
        return Server(files, plugins=())

    return serve


async def test_the_first_model_answers_the_pages_request(serve):
    text = (DOCS / "own-code.md").read_text("utf-8")
    tensor = json.loads(re.search(r"-d '(.*)'", text)[1])["inputs"][0]
    async with serve("own-code.md", "scores") as server:
        row = [tensor["data"]]
        response = await server.model("scores").infer(**{tensor["name"]: row})
        assert response.output("output-0").array == pytest.approx([1.7])
        [x] = server.model("scores").metadata.inputs
        assert (x.name, x.datatype) == (tensor["name"], tensor["datatype"])
    lines = models("own-code.md")["scores.py"].splitlines()
    assert len([line for line in lines if line.strip()]) <= 10


async def test_the_full_style_answers(serve):
    async with serve("own-code.md", "echo") as server:
        assert (await server.model("echo").infer(x=[1])).arrays["x"].tolist() == [1]


async def test_the_context_is_used_as_the_page_says(serve):
    async with serve("own-code.md", "context") as server:
        model = server.model("context")
        assert (await model.infer(steps=[3])).arrays["output-0"].tolist() == [0, 1, 2]
        found = [each.arrays["output-0"].tolist() async for each in model.stream(steps=[2])]
        assert found == [[0], [1]]
        with pytest.raises(InvalidRequestError, match="steps: expected 10 at most, found 11"):
            await model.infer(steps=[11])
        assert b'steps_asked_total{model="context",version=""} 3.0' in server._metrics.expose()[0]


async def test_the_route_answers(serve):
    import httpx

    async with serve("own-code.md", "explained") as server:
        transport = httpx.ASGITransport(app=server)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            found = await client.post("/v2/models/explained/explain", json={"row": [2, 10, 10]})
            assert found.json() == {"parts": [1.0, 3.0, 2.0]}


async def test_a_model_calls_another(serve):
    async with serve("own-code.md", "calling", "explained") as server:
        found = await server.model("calling").infer(x=np.array([[0.1, 0.1, 0.1], [1, 1, 1.0]]))
        assert found.arrays["output-0"].tolist() == [False, True]


def test_every_annotation_of_the_table_is_supported():
    from jackfield._kinds import SUPPORTED

    table = (DOCS / "own-code.md").read_text("utf-8")
    for name in ("list[str]", "list[bytes]", "list[float]", "DataFrame", "Series", "Tensor"):
        assert name in SUPPORTED
        assert name in table


def test_the_pages_have_the_models_that_are_tested():
    names = {"scores.py", "echo.py", "context.py", "explained.py", "calling.py"}
    assert set(models("own-code.md")) == names
    assert set(models("migrating-from-mlserver.md")) == {"models.py"}


async def test_the_ported_model_answers(tmp_path):
    code = models("migrating-from-mlserver.md")["models.py"]
    (tmp_path / "models.py").write_text(code)
    settings = {
        "name": "priced",
        "implementation": "models.Prices",
        "parameters": {"uri": "./prices.json", "factor": 2},
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    (tmp_path / "prices.json").write_text('{"tea": 1.5}')
    async with Server([tmp_path], plugins=()) as server:
        response = await server.model("priced").infer(names=["tea", "gin"], amounts=[2, 3])
        assert response.arrays["output-0"].tolist() == [6.0, 0.0]
        assert response.arrays["output-1"].tolist() == [b"known", b"unknown"]
        assert b'names_unknown_count{model="priced",version=""} 1.0' in server._metrics.expose()[0]
