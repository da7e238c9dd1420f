"""The list of checks in ``docs/conformance.md``, made from the checks."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from jackfield.testing.conformance._check import Level
from jackfield.testing.conformance.checks import CHECKS

_BEGIN = "<!-- checks: made by `python -m jackfield.testing.conformance._page FILE` -->"
_END = "<!-- end of checks -->"
_LIST = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)


def checks_as_markdown() -> str:
    """Write a table of the checks of each level."""
    parts = []
    for level in Level:
        checks = [check for check in CHECKS if check.level is level]
        parts.append(f"### {level.capitalize()}: {len(checks)} checks\n")
        parts += ["| check | what is required | where it comes from |", "|---|---|---|"]
        for check in checks:
            notes = ""
            if check.extension:
                notes += f" *(where `{check.extension}` is listed)*"
            if check.unloads:
                notes += " *(with `--allow-unload`)*"
            cells = (f"`{check.id}`", check.requirement + notes, check.source)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts)


def update(page: str) -> str:
    """Put the list as it is now into a page.

    Raises:
        ValueError: The page has no place for it.
    """
    if not _LIST.search(page):
        message = f"the page has no '{_BEGIN}' with '{_END}' behind it"
        raise ValueError(message)
    made = f"{_BEGIN}\n\n{checks_as_markdown()}\n{_END}"
    return _LIST.sub(lambda _: made, page)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(update(file.read_text()))
