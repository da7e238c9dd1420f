"""One running server with a few models, which all tests of real clients share."""

import joblib
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from tests.serving import serving, write_model

#: Small, so that a body over it is quickly sent.
MAX_BODY_BYTES = 100_000


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """The folder that is served; a test may add a model under a name of its own, and load it."""
    folder = tmp_path_factory.mktemp("repository")
    write_model(folder, "echo.Echo", name="echo")
    for version in ("2", "10"):
        write_model(
            folder,
            "echo.Echo",
            name="versioned",
            folder=f"versioned-{version}",
            parameters={"version": version},
        )
    write_model(folder, "faulty.Faulty", name="failing", parameters={"extra": {"infer": "raises"}})
    write_model(folder, "faulty.Faulty", name="broken", parameters={"extra": {"load": "raises"}})
    iris = write_model(folder, "sklearn", name="iris")
    joblib.dump(
        LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True)), iris / "model.joblib"
    )
    return folder


@pytest.fixture(scope="session")
def server(repository):
    limit = str(MAX_BODY_BYTES)
    with serving(repository, "--max-body-bytes", limit) as served:
        yield served
