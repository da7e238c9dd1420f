"""Servers on free ports, for the tests that go over a wire."""

from __future__ import annotations

import contextlib

import pytest

from jackfield.testing import running


@pytest.fixture(scope="session")
def serve():
    """Run servers on free ports until the tests are over."""
    with contextlib.ExitStack() as servers:
        yield lambda *paths: servers.enter_context(running(*paths))
