"""The page's Ray Serve snippet: two replicas on a real local Ray."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.embedding.snippets import write_snippet
from tests.serving import clean_environment, free_port

pytest.importorskip("ray.serve", exc_type=ImportError)

DRIVER = Path(__file__).with_name("ray_driver.py")


def test_a_deployment_with_two_replicas_serves_the_rest_api(home, log):
    write_snippet("ray", home)
    done = subprocess.run(
        [sys.executable, DRIVER, str(free_port())],
        cwd=home,
        env=clean_environment(
            PYTHONPATH=str(home), RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled"
        ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["labels"] == [2]
    assert len(found["replicas"]) == 2
    assert found["ready"] == 200
    assert found["absent"] == [404, "model 'irsi' is not served here; did you mean 'iris'"]
    assert found["document"] == "3.1.0"
    assert sorted(log()) == ["close", "close", "load", "load"]
