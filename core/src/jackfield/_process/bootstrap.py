"""Start a host by another environment's interpreter, in which jackfield is not installed.

Run by its path, with: how many paths follow, these (of packages that the server lends, this one
first); how many distributions follow, the name and folder of each (plugins that the server lends);
what `jackfield._process.worker` takes; and folders that go last on `sys.path`. Uses Python's own
library only: nothing else can be imported before it is done.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

#: Arguments of the worker.
_TAKEN = 3


def main() -> None:
    """Register what is lent, and be a host."""
    given = iter(sys.argv[1:])
    paths = [Path(next(given)) for _ in range(int(next(given)))]
    plugins = [(next(given), next(given)) for _ in range(int(next(given)))]
    # both ends of the socket are one version, whatever the environment has
    _register(paths[0])
    # what the environment has goes before them
    sys.meta_path.append(_Lent(paths[1:], plugins))
    rest = [*given]
    sys.argv[1:], more = rest[:_TAKEN], rest[_TAKEN:]
    sys.path.extend(more)
    from jackfield._process.worker import main as serve

    serve()


def _register(folder: Path) -> None:
    spec = _spec_of(folder)
    if spec is None or spec.loader is None:
        message = f"no package is in '{folder}'"
        raise ImportError(message)
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)


def _spec_of(place: Path) -> ModuleSpec | None:
    """Describe the package in a folder, or the module in a file."""
    if place.suffix == ".py":
        return spec_from_file_location(place.stem, place)
    return spec_from_file_location(
        place.name, place / "__init__.py", submodule_search_locations=[str(place)]
    )


class _Lent(DistributionFinder):
    """Finds the modules and plugins that the server lends, where nobody else has found one."""

    def __init__(self, paths: Sequence[Path], plugins: Sequence[tuple[str, str]]) -> None:
        self._paths = {path.stem: path for path in paths}
        self._plugins = plugins

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module; Python's import system asks."""
        place = self._paths.get(fullname)
        return _spec_of(place) if place is not None else None

    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterator[Distribution]:
        """Find plugins' metadata, with their entry points; `importlib.metadata` asks."""
        for name, folder in self._plugins:
            if context is None or context.name in (None, name):
                asked = DistributionFinder.Context(name=name, path=[folder])
                yield from MetadataPathFinder.find_distributions(asked)


if __name__ == "__main__":
    main()
