"""The distributions as a user has them: wheels, installed by pip into a bare environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving import ROOT, clean_environment

TRAIN = """
import sys
import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

data = load_iris()
joblib.dump(LogisticRegression(max_iter=1000).fit(data.data, data.target), sys.argv[1])
"""


@pytest.fixture(scope="session")
def bare_environment(tmp_path_factory):
    """A fresh virtual environment with pip and nothing else; gives its folder of commands."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder)
    return folder / "bin"


@pytest.fixture(scope="session")
def wheels(bare_environment, tmp_path_factory):
    """The folder that JACKFIELD_WHEELS names, or else one with wheels of this checkout."""
    if given := os.environ.get("JACKFIELD_WHEELS"):
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("wheels")
    sources = [ROOT / "core", *sorted((ROOT / "plugins").iterdir())]
    pip = (bare_environment / "python", "-m", "pip")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, *sources)
    return folder


@pytest.fixture(scope="session")
def environment(bare_environment, wheels):
    """The environment after the installation that the README tells users."""
    pip = (bare_environment / "python", "-m", "pip")
    run(*pip, "install", "--quiet", "--find-links", wheels, "jackfield[sklearn]")
    return bare_environment


@pytest.fixture(scope="session")
def jackfield(environment):
    """The installed command."""
    return (environment / "jackfield",)


@pytest.fixture(scope="session")
def trained(environment, tmp_path_factory):
    """A scikit-learn model of the iris data."""
    file = tmp_path_factory.mktemp("trained") / "iris.joblib"
    run(environment / "python", "-c", TRAIN, file)
    return file


@pytest.fixture
def iris(trained, tmp_path):
    """A copy of the model in the test's own folder."""
    return Path(shutil.copy(trained, tmp_path / "iris.joblib"))


def run(*command: str | Path) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=clean_environment(),
        cwd="/",
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
