"""What docs/codecs.md says of the content types is what the code has, and its examples run."""

import re
from pathlib import Path

import pytest

from jackfield import codecs

PAGE = (Path(__file__).parents[2] / "docs" / "codecs.md").read_text("utf-8")


def test_the_table_has_every_content_type_and_no_other():
    table = PAGE.partition("## Content types")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|", table, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(codecs.MESSAGE_CONTENT_TYPES)
    with_tensor = [name for name, of_tensor in rows if of_tensor.strip()]
    assert sorted(with_tensor) == sorted(codecs.TENSOR_CONTENT_TYPES)


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_an_example_runs(example):
    if "import pandas" in example:
        pytest.importorskip("pandas")
    exec(compile(example, "docs/codecs.md", "exec"), {})


def test_every_public_function_is_named_sorted_and_documented():
    assert codecs.__all__ == sorted(codecs.__all__)
    for name in codecs.__all__:
        value = getattr(codecs, name)
        assert not callable(value) or value.__doc__.partition("\n")[0].endswith(".")
