"""What every environment gets of the server: the packages that a model's process imports.

The server's own code is read from where the server has it, so that both ends are of one version. Of
the core's requirements an environment has the thin side only; the web server and gRPC stay out, so
that their pins never meet a framework's. Plugins require ``jackfield`` all the same: a wheel that
has its name, version and extras, and no code, stands for it.
"""

from __future__ import annotations

import importlib.metadata
import io
import re
import zipfile
from dataclasses import dataclass

from jackfield import __version__

#: The distributions that a model's process imports; orjson for what is JSON within a tensor, which
#: has to look there as it does in the server. None of them needs another.
_THIN = ("pluggy", "msgspec", "numpy", "orjson")


@dataclass(frozen=True)
class Core:
    """The server's distribution, as an environment sees it."""

    #: Versions of Python that it runs on, as ``>=3.11,<3.14``.
    python: str
    #: Bounds of the distributions that it needs there by their name, as ``>=1.5``.
    thin: dict[str, str]
    #: Name and content of the wheel that stands for it.
    wheel: tuple[str, bytes]


def describe_core() -> Core:
    """Read the server's own distribution."""
    try:
        metadata = importlib.metadata.metadata("jackfield")
        python = metadata["Requires-Python"] or ""
        requires = metadata.get_all("Requires-Dist") or []
        extras = metadata.get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:  # on the path, and not installed
        python, requires, extras = "", [], []
    thin = dict.fromkeys(_THIN, "")
    for line in requires:
        found = re.match(r"([\w.-]+)\s*([^;]*)", line)
        if found and found[1] in thin and "extra ==" not in line:
            thin[found[1]] = found[2].strip()
    lines = [
        "Metadata-Version: 2.1",
        "Name: jackfield",
        f"Version: {__version__}",
        *([f"Requires-Python: {python}"] if python else []),
        *(f"Provides-Extra: {extra}" for extra in extras),
        *(f"Requires-Dist: {line}" for line in requires if "extra ==" in line),
    ]
    return Core(python, thin, (f"jackfield-{__version__}-py3-none-any.whl", _pack(lines)))


def _pack(metadata: list[str]) -> bytes:
    """Write a wheel without code; equal metadata gives equal bytes."""
    folder = f"jackfield-{__version__}.dist-info"
    files = {
        f"{folder}/METADATA": "\n".join(metadata) + "\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: jackfield\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{folder}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{folder}/RECORD"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(zipfile.ZipInfo(name), text)  # which has a date that is always the same
    return packed.getvalue()
