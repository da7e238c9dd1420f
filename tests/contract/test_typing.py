"""The public names have the types that are promised; one file asserts them, mypy checks it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_mypy_finds_the_types_that_are_asserted():
    command = [sys.executable, "-m", "mypy", "--strict", "tests/contract/typing"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
