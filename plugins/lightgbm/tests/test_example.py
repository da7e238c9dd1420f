"""The example is run as its README says, and its request answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np

EXAMPLE = Path(__file__).parents[3] / "examples" / "lightgbm"


def test_the_example_trains_serves_and_answers(tmp_path, serve):
    folder = tmp_path / "tumours"
    run = subprocess.run(
        [sys.executable, EXAMPLE / "train.py", folder], capture_output=True, text=True, check=True
    )
    assert "unseen tumours" in run.stdout
    body = (EXAMPLE / "request.json").read_bytes()
    answer = httpx.post(
        f"{serve(folder).http}/v2/models/tumours/infer",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 200, answer.text
    label, chances = answer.json()["outputs"]
    assert (label["name"], label["data"]) == ("predict", ["malignant", "benign"])
    assert (chances["name"], chances["shape"]) == ("predict_proba", [2, 2])
    assert np.allclose(np.reshape(chances["data"], (2, 2)).sum(axis=1), 1)
