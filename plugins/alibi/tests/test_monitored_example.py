"""The example of a monitored model is run as its README says, with either detector."""

from __future__ import annotations

import importlib.util
import runpy
import sys
import time
from pathlib import Path

import httpx
import pytest

from jackfield.testing import running

EXAMPLE = Path(__file__).parents[3] / "examples" / "monitored"
pytest.importorskip("jackfield_sklearn", reason="the model that is watched is scikit-learn's")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script of the example; give what it prints."""

    def run_script(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLE / name), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def client_of(server):
    return httpx.Client(base_url=server.http, timeout=60)


def judged(http, verdicts):
    """Ask the monitor until it gave so many verdicts."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        [monitor] = http.get("/v2/models/tissue/monitors").json()["monitors"]
        if monitor["verdicts"]["count"] >= verdicts:
            break
    return monitor


@pytest.mark.parametrize("detector", ["KSDrift", "KSDetector"])
def test_the_drift_of_the_last_third_is_found(run, tmp_path, monkeypatch, detector):
    if detector == "KSDetector":
        monkeypatch.setitem(sys.modules, "alibi_detect", None)  # as if it were not installed
    elif importlib.util.find_spec("alibi_detect") is None:
        pytest.skip("Alibi Detect is not installed")
    printed = run("train.py", tmp_path / "models")
    assert printed.endswith(f"next: jackfield serve {tmp_path / 'models'}\n")
    with running(tmp_path / "models") as server, client_of(server) as http:
        metadata = http.get("/v2/models/tissue-drift").json()
        assert metadata["parameters"]["detector"] == detector
        run("traffic.py", server.http, "--pause", "0")
        monitor = judged(http, 30)
        assert (monitor["name"], monitor["problem"], monitor["misfit"]) == ("drift", "", "")
        assert monitor["rows"]["judged"] == 3000
        assert set(monitor["rows"]["dropped"].values()) <= {0}
        verdicts = [each["is_positive"] for each in monitor["history"]]
        assert verdicts[-10:] == [True] * 10
        assert sum(verdicts) <= 12  # two of twenty where nothing drifts
        drifted = {each["name"] for each in monitor["current"]["features"] if each["is_drift"]}
        assert {"mean texture", "mean smoothness"} <= drifted
        page = http.get("/v2/models/tissue/monitors/report", headers={"accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        assert "mean texture" in page.text
