"""docs/bench.md has every option of `jackfield bench`, and no other."""

import re
from pathlib import Path

import click

from jackfield._cli import cli
from jackfield._load.histogram import RELATIVE_ERROR

PAGE = (Path(__file__).parents[2] / "docs" / "bench.md").read_text("utf-8")


def test_the_page_has_the_options_that_there_are():
    options = {
        name
        for option in cli.commands["bench"].params
        if isinstance(option, click.Option)
        for name in option.opts
    }
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) == options


def test_the_defaults_on_the_page_are_those_of_the_command():
    defaults = {option.opts[0]: str(option.default) for option in cli.commands["bench"].params}
    said = dict(
        re.findall(r"`(--(?:rows|seed|max-outstanding|duration|warm-up|timeout-s)) (\w+)`", PAGE)
    )
    assert len(said) == 6
    assert {name: defaults[name].removesuffix(".0") for name in said} == said


def test_the_error_on_the_page_is_that_of_the_histogram():
    assert f"within {RELATIVE_ERROR:.1%}".replace("%", " %") in PAGE.replace("\n", " ")
