"""The example of an own-code model does what its page says."""

import json
import re
from pathlib import Path

import pytest

from jackfield import Server

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_code"


async def test_the_example_answers_as_its_page_says(client_of):
    async with Server([EXAMPLE], plugins=()) as server, client_of(server) as client:
        headers = {"content-type": "application/json"}
        body = (EXAMPLE / "request.json").read_text()
        found = await client.post("/v2/models/friendly/infer", content=body, headers=headers)
        assert {each["name"]: each["data"] for each in found.json()["outputs"]} == {
            "score": [1.5, -0.5],
            "label": ["friendly", "not friendly"],
        }
        [(path, asked)] = re.findall(
            r"8080(/\S+/explain) -d '(.*)'", (EXAMPLE / "README.md").read_text()
        )
        assert (await client.post(path, content=asked)).json() == {"thanks": 1.0}
        metadata = (await client.get("/v2/models/friendly")).json()
        assert [each["name"] for each in metadata["inputs"]] == ["texts", "least"]
        assert [each["name"] for each in metadata["outputs"]] == ["score", "label"]
        assert (
            b'texts_scored_total{model="friendly",version="1"} 2.0' in server._metrics.expose()[0]
        )


@pytest.mark.parametrize("change", [{}, {"least": None}])
async def test_least_may_be_left_out(client_of, change):
    body = json.loads((EXAMPLE / "request.json").read_text())
    body["inputs"] = [each for each in body["inputs"] if each["name"] not in change]
    async with Server([EXAMPLE], plugins=()) as server, client_of(server) as client:
        found = await client.post("/v2/models/friendly/infer", json=body)
        assert found.status_code == 200
