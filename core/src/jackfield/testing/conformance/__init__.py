"""The conformance suite: black-box checks of any Open Inference Protocol server.

It needs nothing of a server but one model, whose metadata it reads to build its requests. Run it
from the command line (``jackfield conformance``), from pytest (the plugin
``jackfield.testing.conformance.pytest_plugin``), or by `run`.
"""

from __future__ import annotations

from jackfield.testing.conformance._check import (
    Check,
    ConformanceError,
    Level,
    NotApplicableError,
)
from jackfield.testing.conformance._report import Outcome, Report, Result
from jackfield.testing.conformance._run import run
from jackfield.testing.conformance.checks import CHECKS

__all__ = [
    "CHECKS",
    "Check",
    "ConformanceError",
    "Level",
    "NotApplicableError",
    "Outcome",
    "Report",
    "Result",
    "run",
]
