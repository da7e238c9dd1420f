import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def generate():
    """The script that makes the generated pages."""
    file = Path(__file__).parents[2] / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
