"""``jackfield new-plugin``: write a runtime plugin that works, for its author to change."""

from __future__ import annotations

import re
import string
from pathlib import Path

import click

from jackfield import __version__
from jackfield._plugins import OWN_PLUGINS
from jackfield.errors import SettingsError

_TEMPLATES = Path(__file__).parent / "templates" / "plugin"
#: What is written -> the template that it is made of; None for an empty file.
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "readme.md",
    ".gitignore": "gitignore",
    ".github/workflows/test.yml": "ci.yml",
    "src/{package}/__init__.py": "hooks.py",
    "src/{package}/_runtime.py": "runtime.py",
    "src/{package}/py.typed": None,
    "tests/test_contract.py": "test_contract.py",
    "tests/test_serve.py": "test_serve.py",
}
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 60
_PREFIX = "jackfield-"


def check_name(name: str) -> str:
    """Check the name of a plugin.

    Returns:
        What is wrong with it and what to do; empty for a good one.
    """
    if name.startswith(_PREFIX):
        return f"the distribution is called {name} already; leave out '{_PREFIX}'"
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        return (
            f"expected at most {_LONGEST_NAME} lower-case letters, digits and single hyphens, "
            f"with a letter first, found '{name}'"
        )
    if name in OWN_PLUGINS:
        return f"'{_PREFIX}{name}' is one of jackfield's own plugins; choose another name"
    return ""


def write_plugin(name: str, parent: Path) -> None:
    """Write the folder of a distribution and print the next steps.

    Args:
        name: The plugin's name, which `check_name` finds good.
        parent: The folder to write it in.

    Raises:
        SettingsError: The folder can't be made, or is there already.
    """
    folder = parent / f"{_PREFIX}{name}"
    values = {
        "name": name,
        "package": f"jackfield_{name.replace('-', '_')}",
        "class_name": f"{''.join(part.capitalize() for part in name.split('-'))}Runtime",
        "version": ".".join(__version__.split(".")[:2]),
    }
    try:
        folder.mkdir()
        for file, template in _FILES.items():
            target = folder / file.format_map(values)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_fill(template, values), "utf-8")
    except FileExistsError as error:
        problem = "it is there already; nothing is written over"
        raise SettingsError(str(folder), problem) from error
    except OSError as error:
        raise SettingsError(str(folder), f"can't be written: {error.strerror}") from error
    click.echo(f"wrote {folder}; next:")
    click.echo(f'  cd {folder}\n  pip install -e ".[test]"\n  pytest')


def _fill(template: str | None, values: dict[str, str]) -> str:
    if template is None:
        return ""
    text = (_TEMPLATES / f"{template}.tmpl").read_text("utf-8")
    return string.Template(text).substitute(values)
