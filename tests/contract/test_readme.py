"""The README's two commands are marked, and what is run elsewhere is their very text."""

from pathlib import Path

from tests.readme import command, commands

ROOT = Path(__file__).parents[2]


def test_the_readme_marks_two_commands():
    assert list(commands()) == ["serve", "test"]


def test_the_ci_runs_the_readmes_test_command():
    assert f"\n{command('test')}\n" in (ROOT / ".ci" / "run").read_text("utf-8")
