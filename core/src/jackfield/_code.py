"""Import a class: from an installed distribution, or from a model's own folder.

A model's own code is imported into a private package, one for each load: two folders with a
`models.py` each do not meet, a reload sees changed files beside the code that still serves, and
what was unloaded leaves no module behind. Within the folder plain imports work (``from helper
import x``): the package's modules have an `__import__` of their own that looks there first.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import re
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import CodeType


def import_class(path: str) -> type[Any]:
    """Import the class that `path` names from what is installed.

    Args:
        path: ``module:Class``.

    Raises:
        ModelLoadError: There is no such module or class. What the module itself raises on import
            passes through.
    """
    module_name, _, class_name = path.partition(":")
    found = getattr(_import_installed(module_name), class_name, None)
    if not isinstance(found, type):
        problem = f"module '{module_name}' has no class '{class_name}'"
        raise ModelLoadError(problem)
    return found


def _import_installed(name: str, folder: Path | None = None) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            problem = f"'{name}' needs the module '{error.name}', which is not installed"
            raise ModelLoadError(problem) from error
        where = f"neither in '{folder}' nor installed" if folder else "not installed"
        problem = f"module '{name}' is {where}"
        raise ModelLoadError(problem) from error


def holds_module(folder: Path, name: str) -> bool:
    """Tell whether a folder's own code has a module of this dotted name."""
    place = folder.joinpath(*name.split("."))
    if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
        return True
    if any(place.with_suffix(suffix).is_file() for suffix in EXTENSION_SUFFIXES):
        return True
    # a folder of data must not hide an installed package of its name
    return place.is_dir() and any(place.glob("*.py"))


class Code:
    """The modules of one model's folder, imported under a private name; owned by one load.

    Args:
        folder: The model's folder; its modules go before installed ones, for its own code only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # the folder's name in it is for people who read a traceback
        self._package = f"{_PREFIX}{next(_numbers)}_{re.sub(r'[^0-9a-zA-Z]', '_', folder.name)}"
        self._held: dict[str, bool] = {}
        self.builtins = {**vars(builtins), "__import__": self._import}
        root = ModuleType(self._package)
        root.__path__ = [str(folder)]
        sys.modules[self._package] = root
        _FINDER.add(self._package, self)

    def load(self, name: str) -> ModuleType:
        """Import a module, the folder's own before an installed one.

        Raises:
            ModelLoadError: There is none. What the module itself raises on import passes through.
        """
        if holds_module(self._folder, name):
            return importlib.import_module(f"{self._package}.{name}")
        return _import_installed(name, self._folder)

    def close(self) -> None:
        """Forget the modules; one whose objects are in use lives on until these go."""
        _FINDER.remove(self._package)
        inside = f"{self._package}."
        for name in [name for name in [*sys.modules] if f"{name}.".startswith(inside)]:
            sys.modules.pop(name, None)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import for the folder's own code; the arguments are those of Python's `__import__`."""
        top = name.partition(".")[0]
        own = f"{self._package}.{top}"
        held = self._held.get(top)
        if held is None:
            held = self._held[top] = holds_module(self._folder, top)
        here = globals or {}
        # a file may have the name of what it wraps: no module means to import itself
        is_itself = here.get("__name__") == own and "__path__" not in here
        if level or not held or is_itself:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = builtins.__import__(f"{self._package}.{name}", globals, locals, fromlist or ())
        # "import a.b" binds a
        return found if fromlist else sys.modules[own]


class _Finder(MetaPathFinder):
    """Finds the modules of all private packages; Python's import system asks it.

    One for the process, never taken out again: a finder that goes while another thread imports
    makes that thread miss the one behind it.
    """

    def __init__(self) -> None:
        self._codes: dict[str, Code] = {}

    def add(self, package: str, code: Code) -> None:
        """Answer for a package from now on."""
        self._codes[package] = code
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self, package: str) -> None:
        """Answer for a package no more."""
        self._codes.pop(package, None)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that belongs to one of the packages."""
        if not fullname.startswith(_PREFIX):
            return None
        code = self._codes.get(fullname.partition(".")[0])
        if code is None or path is None:
            return None

        def load(name: str, file: str) -> _Loader:
            return _Loader(name, file, code.builtins)

        # the stubs want a class of loaders, and FileFinder calls what it is given
        loaders: Any = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (load, SOURCE_SUFFIXES))
        # made anew: a finder that is kept misses files added within its clock's tick
        found = (FileFinder(place, *loaders).find_spec(fullname) for place in path)
        return next(filter(None, found), None)


_PREFIX = "_jackfield_model_"
_FINDER = _Finder()
_numbers = itertools.count(1)


class _Loader(SourceFileLoader):
    """Compiles each time: a cached compilation passes for fresh within a second of an edit."""

    def __init__(self, name: str, file: str, names: dict[str, Any]) -> None:
        super().__init__(name, file)
        self._names = names

    def get_code(self, fullname: str) -> CodeType:
        source: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return source

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._names
        super().exec_module(module)
