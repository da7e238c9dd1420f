"""The snippets of docs/embedding.md; tests run these very texts."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"
_MARKED = re.compile(
    r"^<!-- run: (?P<name>\w+) -->\n```python\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


def snippets() -> dict[str, str]:
    """Read the marked snippets, by name."""
    return {match["name"]: match["text"] for match in _MARKED.finditer(PAGE.read_text("utf-8"))}


def write_snippet(name: str, folder: Path) -> Path:
    """Make the module `app` of a snippet, as a reader would."""
    file = folder / "app.py"
    file.write_text(snippets()[name])
    return file
