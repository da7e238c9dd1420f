"""The public names are complete, documented and cheap to import.

The rule: each module without a leading underscore states `__all__`, and its names are names of
`jackfield` too, but for those kept below.
"""

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jackfield

#: What a public module offers to the core and to hosts of its own, not to plugins and users.
KEPT_BELOW = {"hookspecs": {"PROJECT", "hookspec"}}
#: Public packages with names of their own, and the entry point of `python -m jackfield`.
APART = {
    "artifacts",
    "client",
    "codecs",
    "score",
    "stable",
    "tabular",
    "testing",
    "window",
    "__main__",
}
HEAVY = {"numpy", "orjson", "starlette", "uvicorn", "hypercorn", "grpc", "google", "click", "rich"}

MODULES = sorted(
    module.name
    for module in pkgutil.iter_modules(jackfield.__path__)
    if module.name not in APART and not module.name.startswith("_")
)


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_states_its_names_and_they_are_at_the_top(name):
    module = importlib.import_module(f"jackfield.{name}")
    kept = KEPT_BELOW.get(name, set())
    assert kept <= set(module.__all__)
    assert sorted(module.__all__) == sorted({*jackfield._HOMES[name], *kept})


def test_the_names_are_sorted_and_each_once():
    assert jackfield.__all__ == sorted(set(jackfield.__all__))


def test_the_three_lists_of_the_package_agree():
    homes = {name: home for home, names in jackfield._HOMES.items() for name in names}
    assert sorted(homes) == jackfield.__all__
    tree = ast.parse(Path(jackfield.__file__).read_text("utf-8"))
    imported = {
        alias.name: node.module.removeprefix("jackfield.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("jackfield.")
        for alias in node.names
    }
    assert imported == homes


@pytest.mark.parametrize("name", jackfield.__all__)
def test_a_public_name_can_be_imported_and_is_listed(name):
    assert getattr(jackfield, name) is not None
    assert name in dir(jackfield)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Sever'"):
        _ = jackfield.Sever


def imported_by(code):
    """Run code in a fresh interpreter; tell the top-level packages that it imported."""
    probe = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", probe]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return {module.partition(".")[0] for module in json.loads(result.stdout)}


def test_the_package_imports_nothing_until_a_name_is_used():
    found = imported_by("import jackfield")
    assert "jackfield" in found
    assert found.isdisjoint({*HEAVY, "msgspec", "pluggy"})


def test_every_name_but_the_server_needs_the_contract_only():
    names = sorted(set(jackfield.__all__) - set(jackfield._HOMES["server"]))
    assert imported_by(f"from jackfield import {', '.join(names)}").isdisjoint(HEAVY)


def documented():
    """Yield each public class and function, and the public methods of each class."""
    for name in jackfield.__all__:
        value = getattr(jackfield, name)
        if inspect.isroutine(value) or isinstance(value, type):
            yield name, value
        for member, method in vars(value).items() if isinstance(value, type) else ():
            function = getattr(method, "__func__", getattr(method, "fget", method))
            if not member.startswith("_") and inspect.isfunction(function):
                yield f"{name}.{member}", function


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in documented()])
def test_a_public_thing_has_a_docstring_of_its_own(value):
    assert vars(value).get("__doc__", value.__doc__)
    assert value.__doc__.partition("\n")[0].endswith(".")
