"""The commands that the README and other pages give; tests run these very texts."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
_MARKED = re.compile(
    r"^<!-- command: (?P<name>\w+) -->\n+```sh\n(?P<text>.*?)\n```$", re.DOTALL | re.MULTILINE
)


def commands(page: Path = README) -> dict[str, str]:
    """Read the marked commands of a page, by name, in order; the README's: `serve` and `test`."""
    return {match["name"]: match["text"] for match in _MARKED.finditer(page.read_text("utf-8"))}


def command(name: str) -> str:
    """Read one command of the README, as a person would paste it."""
    return commands()[name]
