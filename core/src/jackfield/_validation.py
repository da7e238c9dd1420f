"""Turn msgspec's validation errors into a path, what was expected and what was found.

Used where foreign data is decoded: settings and the JSON wire form.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import msgspec

_WORDS = {
    "object": "an object",
    "array": "an array",
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
}
_AT = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_GOT = re.compile(r"^Expected (?P<expected>.+), got `(?P<found>.+)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<field>.+)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>.+)`$")
_ENUM = re.compile(r"^Invalid enum value (?P<found>.+)$")


class Mismatch(NamedTuple):
    """Where data did not fit its type, and how."""

    path: str
    expected: str
    found: str


def explain(error: msgspec.ValidationError) -> Mismatch:
    """Read the facts out of msgspec's sentence.

    Returns:
        The path relative to the decoded value, for example ``inputs[0].shape`` (empty for the value
        itself), what was expected, and what was found.
    """
    text = str(error)
    at = _AT.search(text)
    path = at["path"] if at else ""
    sentence = text[: at.start()] if at else text
    if match := _GOT.match(sentence):
        return Mismatch(path, _spell(match["expected"]), _spell(match["found"]))
    if match := _MISSING.match(sentence):
        return Mismatch(_join(path, match["field"]), "a value", "none")
    if match := _UNKNOWN.match(sentence):
        return Mismatch(_join(path, match["field"]), "no such field", "one")
    if match := _ENUM.match(sentence):
        return Mismatch(path, "one of the names that are known", match["found"])
    if sentence.startswith("Expected "):
        return Mismatch(path, _spell(sentence.removeprefix("Expected ")), "another value")
    return Mismatch(path, "a value in range", sentence[:1].lower() + sentence[1:])


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _spell(text: str) -> str:
    """Say msgspec's type names in words: `int | null` becomes "an integer or null"."""
    names = [name.strip() for name in text.replace("`", "").split("|")]
    return " or ".join(_spell_one(name) for name in names)


def _spell_one(text: str) -> str:
    name, _, rest = text.partition(" ")
    return " ".join(part for part in (_WORDS.get(name, name), rest) if part)
