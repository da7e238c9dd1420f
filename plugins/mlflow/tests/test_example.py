"""The example is run as its README says, and its requests answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx

from jackfield.testing import running

EXAMPLE = Path(__file__).parents[3] / "examples" / "mlflow"
JSON = {"content-type": "application/json"}


def test_the_example_trains_serves_and_answers(tmp_path):
    folder = tmp_path / "wines"
    run = subprocess.run(
        [sys.executable, EXAMPLE / "train.py", folder], capture_output=True, text=True, check=True
    )
    assert "unseen wines" in run.stdout
    with running(folder) as server:
        base = f"{server.http}/v2/models/wines"
        body = (EXAMPLE / "request.json").read_bytes()
        answer = httpx.post(f"{base}/infer", content=body, headers=JSON)
        assert answer.status_code == 200, answer.text
        (output,) = answer.json()["outputs"]
        assert (output["name"], output["data"]) == ("output-0", [0, 1])
        assert httpx.get(base).json()["parameters"]["mlflow"]["flavors"] == ["sklearn"]
        row = {"alcohol": 14.23, "color_intensity": 5.64, "proline": 1065.0}
        answer = httpx.post(f"{server.http}/invocations", json={"dataframe_records": [row]})
        assert answer.json() == {"predictions": [0]}
