"""The example is run as its README says, and its request answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np

EXAMPLE = Path(__file__).parents[3] / "examples" / "xgboost"


def test_the_example_trains_serves_and_answers(tmp_path, start):
    folder = tmp_path / "tumours"
    command = [sys.executable, EXAMPLE / "train.py", folder]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "unseen tumours" in run.stdout
    answer = httpx.post(
        f"{start(folder).http}/v2/models/tumours/infer",
        content=(EXAMPLE / "request.json").read_bytes(),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 200, answer.text
    label, chances, contributions = answer.json()["outputs"]
    assert label["data"] == ["malignant"]
    assert np.isclose(sum(chances["data"]), 1)
    assert contributions["shape"] == [1, 31]
