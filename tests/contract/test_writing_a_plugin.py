"""The page for plugin authors shows code that runs elsewhere, and every test of the contract."""

import re
import textwrap
from pathlib import Path

import pytest
from tests.readme import commands

from jackfield._cli.new_plugin import write_plugin
from jackfield.testing import RuntimeContract

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "writing-a-plugin.md"
EXAMPLE = ROOT / "examples" / "onnx-plugin"


@pytest.fixture(scope="module")
def shown_code(tmp_path_factory):
    """All code that the page may quote: the new plugin's and the example's."""
    parent = tmp_path_factory.mktemp("new")
    write_plugin("linear", parent)
    files = [*parent.rglob("*.py"), *EXAMPLE.rglob("*.py")]
    return [textwrap.dedent(file.read_text("utf-8")) for file in files]


def test_every_piece_of_python_is_quoted_from_code_that_is_tested(shown_code):
    pieces = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert len(pieces) > 5
    for piece in pieces:
        assert any(piece in code for code in shown_code), piece


def test_every_test_of_the_contract_is_in_the_table():
    listed = re.findall(r"^\| `(test_\w+)` \|", PAGE.read_text("utf-8"), re.M)
    tests = [name for name in vars(RuntimeContract) if name.startswith("test_")]
    assert sorted(listed) == sorted(tests)


def test_every_command_but_the_upload_is_run_by_the_walk():
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)\n```$", text, re.M | re.S)
    [left] = [block for block in blocks if block not in commands(PAGE).values()]
    assert left.endswith("twine upload dist/*")


def test_the_links_of_the_page_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", PAGE.read_text("utf-8")):
        assert (PAGE.parent / target).exists(), target


def test_the_example_uses_public_names_only():
    for file in [*EXAMPLE.rglob("*.py")]:
        text = file.read_text("utf-8")
        assert not re.search(r"jackfield\._|from jackfield import [^\n]*\b_", text), file
