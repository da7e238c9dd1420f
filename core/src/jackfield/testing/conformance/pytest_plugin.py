"""The suite as tests, one for each check.

``pytest -p jackfield.testing.conformance.pytest_plugin --pyargs jackfield.testing.conformance
--oip-url http://localhost:8080 --oip-model iris``: pytest reads options of plugins that ``-p``
names, not those of a conftest inside an installed package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jackfield.testing.conformance import CHECKS, Level
from jackfield.testing.conformance._run import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jackfield.testing.conformance._target import Target


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say which server is checked."""
    group = parser.getgroup("oip", "Open Inference Protocol conformance")
    group.addoption("--oip-url", help="URL of the REST API, without /v2.")
    group.addoption("--oip-grpc", default="", help="host:port of the gRPC API.")
    group.addoption("--oip-model", help="Name of a model that is ready.")
    group.addoption("--oip-version", default="", help="Its version.")
    group.addoption("--oip-level", default=",".join(Level), help="Levels, with commas between.")
    group.addoption("--oip-request", help="File of an inference request that the model takes.")
    group.addoption(
        "--oip-allow-unload", action="store_true", help="Unload the model, and load it."
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each check of the levels asked for."""
    if "oip_check" in metafunc.fixturenames:
        levels = metafunc.config.getoption("--oip-level").split(",")
        if unknown := set(levels) - set(Level):
            message = f"--oip-level: expected {', '.join(Level)}, found {', '.join(unknown)}"
            raise pytest.UsageError(message)
        chosen = [check for check in CHECKS if check.level in levels]
        metafunc.parametrize("oip_check", chosen, ids=[check.id for check in chosen])


@pytest.fixture(scope="session")
def oip_target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The server that the options name."""
    option = request.config.getoption
    if not option("--oip-url") or not option("--oip-model"):
        message = "name the server: --oip-url URL --oip-model NAME"
        raise pytest.UsageError(message)
    file = option("--oip-request")
    with connect(
        option("--oip-url"),
        option("--oip-grpc"),
        model=option("--oip-model"),
        version=option("--oip-version"),
        example=json.loads(Path(file).read_bytes()) if file else None,
    ) as target:
        yield target
