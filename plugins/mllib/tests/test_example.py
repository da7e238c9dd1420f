"""The example is run as its README says, and its request answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np

EXAMPLE = Path(__file__).parents[3] / "examples" / "mllib"


def test_the_example_trains_serves_and_answers(tmp_path, serve):
    folder = tmp_path / "iris"
    run = subprocess.run(
        [sys.executable, EXAMPLE / "train.py", folder], capture_output=True, text=True, check=True
    )
    assert "unseen flowers" in run.stdout
    body = (EXAMPLE / "request.json").read_bytes()
    answer = httpx.post(
        f"{serve(folder).http}/v2/models/iris/infer",
        content=body,
        headers={"content-type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    species, probability = answer.json()["outputs"]
    assert species["data"] == ["setosa", "virginica"]
    assert np.allclose(np.reshape(probability["data"], (2, 3)).sum(axis=1), 1)
