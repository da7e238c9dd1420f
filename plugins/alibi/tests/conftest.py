"""Fixtures that tests of detectors and of explainers share; each kind's own are in its module."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import sys
from pathlib import Path

import pytest

# MMDDrift is a hundred times slower with as many threads as cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
# and Numba, once an online detector has it run in parallel, sets PyTorch's number, too
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
# fixtures of one kind of tests are in a module beside this one
sys.path.insert(0, str(Path(__file__).parent))

from jackfield.testing import running

# GNU's malloc has an arena for each of many threads, and one that grows looks like a leak: have one
_ARENA_MAX = -8
if hasattr(ctypes.CDLL(None), "mallopt"):
    ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)

#: What the libraries warn of when they are imported, or at each call, and is not ours to change.
WARNINGS = (
    "ignore::DeprecationWarning:alibi_detect",
    "ignore::DeprecationWarning:transformers",
    "ignore::DeprecationWarning:torch",
    "ignore::FutureWarning:torch",
    "ignore::DeprecationWarning:numba",
    "ignore:`torch.jit.script:DeprecationWarning",
    "ignore:The given NumPy array is not writable:UserWarning",
    "ignore::DeprecationWarning:alibi",
    "ignore::FutureWarning:alibi",
    "ignore:No `categories_per_feature` dict:UserWarning",
    # Alibi Detect opens what it reads, and leaves it to the garbage collector
    r"ignore:unclosed file <_io.BufferedReader name='.*[.]dill'>:ResourceWarning",
)


def pytest_configure(config):
    for each in WARNINGS:
        config.addinivalue_line("filterwarnings", each)


@pytest.fixture(scope="session")
def serve():
    """Run servers on free ports until the tests are over."""
    with contextlib.ExitStack() as servers:
        yield lambda *paths: servers.enter_context(running(*paths))


@pytest.fixture(scope="session")
def detectors(tmp_path_factory):
    """Give all detectors, fitted and saved: name -> `detectors.Fitted`."""
    if importlib.util.find_spec("alibi_detect") is None:
        pytest.skip("Alibi Detect is not installed")
    from detectors import fit_all

    return _kept(fit_all(tmp_path_factory.mktemp("detectors")))


@pytest.fixture(scope="session")
def explainers(tmp_path_factory):
    """Give targets and explainers of them, in a folder to serve: `explainers.Library`."""
    if importlib.util.find_spec("alibi") is None:
        pytest.skip("Alibi is not installed")
    from explainers import build_library

    return _kept(build_library(tmp_path_factory.mktemp("explainers")))


def _kept(made):
    """Have the collector pass by what the libraries keep: each collection looks at it for 0.4 s."""
    gc.collect()
    gc.freeze()
    return made
