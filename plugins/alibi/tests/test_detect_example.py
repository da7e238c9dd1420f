"""The example of a detector is run as its README says, and its request answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "alibi-detect"


def test_the_example_fits_serves_and_finds_the_drift(tmp_path, serve):
    pytest.importorskip("alibi_detect")
    folder = tmp_path / "tumours"
    run = subprocess.run(
        [sys.executable, EXAMPLE / "train.py", folder], capture_output=True, text=True, check=True
    )
    assert "the other half: drift False" in run.stdout
    assert "shifted: drift True" in run.stdout
    body = (EXAMPLE / "request.json").read_bytes()
    answer = httpx.post(
        f"{serve(folder).http}/v2/models/tumours/infer",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 200, answer.text
    outputs = {each["name"]: each for each in answer.json()["outputs"]}
    assert (outputs["is_drift"]["shape"], outputs["is_drift"]["data"]) == ([1, 4], [0, 1, 0, 0])
    assert outputs["rows"]["data"] == [80]
    assert min(outputs["p_val"]["data"]) == outputs["p_val"]["data"][1] < 0.001
