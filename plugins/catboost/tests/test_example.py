"""The example is run as its README says, and its request answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np

EXAMPLE = Path(__file__).parents[3] / "examples" / "catboost"


def test_the_example_trains_serves_and_answers(tmp_path, serve):
    folder = tmp_path / "diabetes"
    run = subprocess.run(
        [sys.executable, EXAMPLE / "train.py", folder], capture_output=True, text=True, check=True
    )
    assert "unseen patients" in run.stdout
    body = (EXAMPLE / "request.json").read_bytes()
    answer = httpx.post(
        f"{serve(folder).http}/v2/models/diabetes/infer",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 200, answer.text
    value, parts = answer.json()["outputs"]
    assert (value["name"], value["shape"]) == ("predict", [2])
    assert (parts["name"], parts["shape"]) == ("contributions", [2, 11])
    assert np.allclose(np.reshape(parts["data"], (2, 11)).sum(axis=1), value["data"])
    assert value["data"][0] > value["data"][1]
