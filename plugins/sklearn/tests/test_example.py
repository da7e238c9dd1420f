"""The example is run as its README says, and its request answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx

EXAMPLE = Path(__file__).parents[3] / "examples" / "sklearn"


def test_the_example_trains_serves_and_answers(tmp_path, serve):
    folder = tmp_path / "wines"
    run = subprocess.run(
        [sys.executable, EXAMPLE / "train.py", folder], capture_output=True, text=True, check=True
    )
    assert "unseen wines" in run.stdout
    base = f"{serve(folder).http}/v2/models/wines"
    body = (EXAMPLE / "request.json").read_bytes()
    answer = httpx.post(f"{base}/infer", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    label, chances = answer.json()["outputs"]
    assert (label["name"], label["data"]) == ("predict", ["class_0", "class_2"])
    assert (chances["name"], chances["shape"]) == ("predict_proba", [2, 3])
    assert httpx.get(base).json()["parameters"]["accelerated"] == "onnx"
