"""Imports point down, and the contracts that hold it know every module and every plugin."""

import os
import pkgutil
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jackfield
from jackfield_alibi import jackfield_runtimes

ROOT = Path(__file__).parents[2]
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
LAYERS, FRAMEWORKS, APART, PRIVATE, WITHIN_ALIBI = LINTER["contracts"]

SOURCES = [ROOT / "core" / "src", *sorted(ROOT.glob("plugins/*/src"))]
PLUGINS = {package.name for source in SOURCES[1:] for package in source.glob("jackfield_*")}


def test_every_contract_on_imports_is_kept():
    lint_imports = shutil.which("lint-imports", path=Path(sys.executable).parent)
    assert lint_imports, "import-linter is not installed beside Python"
    # the sources are read, not run: no plugin need be installed
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SOURCES))}
    command = [lint_imports, "--no-logo", "--no-cache"]
    result = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_contracts_know_every_plugin():
    assert set(LINTER["root_packages"]) == {"jackfield", *PLUGINS}
    assert set(FRAMEWORKS["forbidden_modules"]) >= PLUGINS
    assert set(APART["modules"]) == PLUGINS


def test_the_runtimes_of_alibi_are_apart_from_each_other():
    """One is installed without what the other needs."""
    folders = {spec.runtime.rpartition(".")[0] for spec in jackfield_runtimes()}
    assert set(WITHIN_ALIBI["modules"]) == folders
    assert WITHIN_ALIBI["type"] == APART["type"] == "independence"


def test_no_plugin_may_import_a_private_module_or_the_test_bench():
    modules = {f"jackfield.{module.name}" for module in pkgutil.iter_modules(jackfield.__path__)}
    private = {module for module in modules if module.startswith("jackfield._")}
    # a main module is run, not imported
    private = private - {"jackfield.__main__"} | {"jackfield.testing"}
    assert set(PRIVATE["protected_modules"]) == private
    assert PRIVATE["allowed_importers"] == ["jackfield"]
