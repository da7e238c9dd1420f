"""Compare what a model was saved with to what is installed; reports, and stops nothing."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING, cast

import msgspec
import yaml
from packaging.requirements import InvalidRequirement, Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mlflow.models import Model

    from jackfield import Parameter

#: What brings a package by another name.
_SAME = {"mlflow": ("mlflow-skinny",), "xgboost": ("xgboost-cpu",)}


class Mismatch(msgspec.Struct, frozen=True):
    """One package that is not as the model wants it."""

    package: str
    #: For example ``==1.5.0``; empty for any version.
    required: str
    #: Empty if it is not installed.
    installed: str

    def __str__(self) -> str:
        required = f"{self.package}{self.required}"
        return f"it was saved with {required}, and {self.installed or 'none'} is installed"

    def metadata(self) -> Parameter:
        """Give it as metadata hold it."""
        return {
            "package": self.package,
            "required": self.required,
            "installed": self.installed or None,
        }


def mismatches(folder: Path, model: Model) -> list[Mismatch]:
    """List what is missing or of another version than the model's own files ask for.

    They are requirements.txt, or conda.yaml where there is none, and python_env.yaml or the
    MLmodel file for Python itself. What is no plain requirement (a path, an address) is left out.
    """
    found = []
    running = platform.python_version()
    if (wanted := _python(model)) and wanted.split(".")[:2] != running.split(".")[:2]:
        found.append(Mismatch("python", f"=={wanted}", running))
    for line in _requirements(folder):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        installed = _installed(requirement.name)
        if not installed or not requirement.specifier.contains(installed, prereleases=True):
            found.append(Mismatch(requirement.name, str(requirement.specifier), installed))
    return found


def _python(model: Model) -> str:
    flavors = cast("Mapping[str, Mapping[str, object]]", model.flavors)
    return str(flavors.get("python_function", {}).get("python_version") or "")


def _requirements(folder: Path) -> Iterator[str]:
    file = folder / "requirements.txt"
    if file.is_file():
        for line in file.read_text(errors="replace").splitlines():
            text = line.partition(" #")[0].strip()
            if text and not text.startswith(("#", "-")):
                yield text
        return
    file = folder / "conda.yaml"
    if not file.is_file():
        return
    try:
        parsed: object = yaml.safe_load(file.read_text(errors="replace"))
    except yaml.YAMLError:
        return
    listed = parsed.get("dependencies") if isinstance(parsed, dict) else None
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict):
            yield from (str(line) for line in each.get("pip") or ())


def _installed(name: str) -> str:
    for each in (name, *_SAME.get(name.lower(), ())):
        try:
            return importlib.metadata.version(each)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
