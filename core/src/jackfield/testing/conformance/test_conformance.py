"""The one test, parametrised over all checks by `pytest_plugin`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jackfield.testing.conformance._check import NotApplicableError
from jackfield.testing.conformance._run import require

if TYPE_CHECKING:
    from jackfield.testing.conformance import Check
    from jackfield.testing.conformance._target import Target


def test_conformance(oip_check: Check, oip_target: Target, request: pytest.FixtureRequest) -> None:
    """Make one check of the server that the options name."""
    allow_unload = request.config.getoption("--oip-allow-unload")
    try:
        require(oip_check, oip_target, allow_unload=allow_unload)
        oip_check.look(oip_target)
    except NotApplicableError as reason:
        pytest.skip(str(reason))
