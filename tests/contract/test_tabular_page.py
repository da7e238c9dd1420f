"""docs/tabular.md says what jackfield.tabular has, and its example runs."""

import inspect
import re
from pathlib import Path

import pytest

from jackfield import artifacts, tabular

PAGE = (Path(__file__).parents[2] / "docs" / "tabular.md").read_text("utf-8")


def test_the_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/tabular.md", "exec"), {})


def test_the_table_has_the_uniform_names_and_the_page_their_aliases():
    section = PAGE.partition("## Outputs")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", section, re.MULTILINE)) == tabular.NAMES
    for alias in (each for aliases in tabular.ALIASES.values() for each in aliases):
        assert f"`{alias}`" in section


@pytest.mark.parametrize("module", [artifacts, tabular], ids=["artifacts", "tabular"])
def test_the_public_names_are_documented(module):
    for name in module.__all__:
        value = getattr(module, name)
        if not callable(value):
            continue
        members = vars(value).items() if isinstance(value, type) else ()
        found = [(name, value)] + [
            (f"{name}.{key}", getattr(each, "__func__", getattr(each, "fget", each)))
            for key, each in members
            if not key.startswith("_")
        ]
        for where, each in found:
            if inspect.isroutine(each) or isinstance(each, type):
                assert each.__doc__, where
                assert each.__doc__.partition("\n")[0].endswith("."), where


@pytest.mark.parametrize("name", tabular.__all__)
def test_the_page_names_every_public_name(name):
    assert name in PAGE or name in ("ALIASES", "NAMES", "Kind")
