"""The one place that reads the process's environment."""

from __future__ import annotations

import os
from pathlib import Path

from dotenv import dotenv_values

_PREFIXES = ("JACKFIELD_", "MLSERVER_")


def read_environment() -> dict[str, str]:
    """Read our variables and MLServer's, those of a ``.env`` in the working folder included."""
    found = {**dotenv_values(Path(".env")), **os.environ}
    return {
        name: value
        for name, value in found.items()
        if value is not None and name.upper().startswith(_PREFIXES)
    }


def allowed_plugins(environ: dict[str, str]) -> list[str] | None:
    """Read ``JACKFIELD_PLUGINS``, names with commas between; None allows all."""
    text = environ.get("JACKFIELD_PLUGINS")
    if text is None:
        return None
    return [name.strip() for name in text.split(",") if name.strip()]
