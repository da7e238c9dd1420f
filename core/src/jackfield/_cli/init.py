"""``jackfield init``: write a model with code of its own that serves at once."""

from __future__ import annotations

import re
import string
from pathlib import Path

import click

from jackfield.errors import SettingsError

_TEMPLATES = Path(__file__).parent / "templates" / "model"
#: What is written -> the template that it is made of.
_FILES = {
    "model.py": "model.py",
    "model-settings.json": "model-settings.json",
    "request.json": "request.json",
    "README.md": "readme.md",
    "test_model.py": "test_model.py",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def write_model(folder: Path) -> None:
    """Write a model's folder, and print what to do next.

    Args:
        folder: Its last part is the model's name.

    Raises:
        SettingsError: The name can't stand in a URL, or the folder is there and not empty.
    """
    name = folder.resolve().name
    if not _NAME.fullmatch(name) or name == "stats":
        problem = f"expected letters, digits, '.', '_' and '-', found '{name}'"
        raise SettingsError("name of the model", problem)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SettingsError(str(folder), "it is not empty; nothing is written over")
        for file, template in _FILES.items():
            text = string.Template((_TEMPLATES / f"{template}.tmpl").read_text("utf-8"))
            (folder / file).write_text(text.substitute(name=name), "utf-8")
    except OSError as error:
        raise SettingsError(str(folder), f"can't be written: {error.strerror}") from error
    click.echo(f"wrote {folder}; next:")
    click.echo(f"  jackfield serve {folder}")
