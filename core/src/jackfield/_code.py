"""Import a runtime's class: from an installed distribution, or from a model's own folder.

A model folder's code is imported under a private module name, so that two folders with a
`models.py` each do not meet.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING, Any

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from pathlib import Path
    from types import CodeType, ModuleType


def import_runtime(path: str, *, folder: Path | None = None) -> type[Any]:
    """Import the class that `path` names.

    Args:
        path: ``module:Class``.
        folder: The model's folder; its modules go before installed ones.

    Raises:
        ModelLoadError: There is no such module or class. What the module itself raises on import
            passes through.
    """
    module_name, _, class_name = path.partition(":")
    module = _import(module_name, folder)
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        problem = f"module '{module_name}' has no class '{class_name}'"
        raise ModelLoadError(problem)
    return found


def _import(name: str, folder: Path | None) -> ModuleType:
    if folder is not None:
        file = folder.joinpath(*name.split(".")).with_suffix(".py")
        if file.is_file():
            return _import_file(file)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            problem = f"'{name}' needs the module '{error.name}', which is not installed"
            raise ModelLoadError(problem) from error
        where = f"neither in '{folder}' nor installed" if folder else "not installed"
        problem = f"module '{name}' is {where}"
        raise ModelLoadError(problem) from error


class _FreshLoader(SourceFileLoader):
    """Compiles each time: a cached compilation passes for fresh within a second of an edit."""

    def get_code(self, fullname: str) -> CodeType:
        source: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return source


def _import_file(file: Path) -> ModuleType:
    """Import a file afresh, so that a reload sees its changes."""
    digest = hashlib.sha256(str(file.parent.resolve()).encode()).hexdigest()[:16]
    private = f"_jackfield_model_{digest}_{file.stem}"
    loader = _FreshLoader(private, str(file))
    spec = importlib.util.spec_from_file_location(private, file, loader=loader)
    if spec is None:
        problem = f"'{file}' can't be imported"
        raise ModelLoadError(problem)
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module  # dataclasses and pickles look their module up by name
    loader.exec_module(module)
    return module
