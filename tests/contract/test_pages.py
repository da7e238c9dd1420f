"""The generated pages are what the code would make of them now."""

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["hooks.md", "settings.md", "errors.md"])
def test_a_generated_page_is_up_to_date(generate, name):
    page = DOCS / name
    assert page.read_text("utf-8") == generate.PAGES[name](), "run: python docs/generate.py"


def test_the_list_of_generated_pages_is_this_one(generate):
    assert sorted(generate.PAGES) == ["errors.md", "hooks.md", "settings.md"]


def test_check_names_a_stale_page_and_leaves_it(generate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "errors.md").write_text("old")
    capsys.readouterr()
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == "errors.md differs from the code\n"
    assert (tmp_path / "errors.md").read_text() == "old"


def test_the_script_runs_as_the_documents_say():
    command = [sys.executable, "docs/generate.py", "--check"]
    result = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
