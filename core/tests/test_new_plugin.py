"""``jackfield new-plugin``: what is written passes its own tests as it stands."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import jackfield
from jackfield._cli import cli
from jackfield._cli.new_plugin import _FILES, _TEMPLATES


def new_plugin(*arguments):
    return CliRunner().invoke(cli, ["new-plugin", *map(str, arguments)])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    parent = tmp_path_factory.mktemp("new")
    result = new_plugin("my-lib", "--parent", parent)
    assert result.exit_code == 0, result.output
    assert f"cd {parent / 'jackfield-my-lib'}\n" in result.output
    return parent / "jackfield-my-lib"


def test_its_tests_pass_as_written(written, tmp_path):
    # what an installer leaves of the distribution, without one
    project = tomllib.loads((written / "pyproject.toml").read_text("utf-8"))["project"]
    info = tmp_path / "jackfield_my_lib-0.1.0.dist-info"
    info.mkdir()
    requires = "".join(f"Requires-Dist: {each}\n" for each in project["dependencies"])
    name, version = project["name"], project["version"]
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    )
    entries = project["entry-points"]["jackfield"].items()
    lines = "".join(f"{key} = {value}\n" for key, value in entries)
    (info / "entry_points.txt").write_text(f"[jackfield]\n{lines}")
    paths = [tmp_path, written / "src"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=written,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


def test_the_names_in_it_are_those_asked_for(written):
    project = tomllib.loads((written / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == "jackfield-my-lib"
    assert project["entry-points"] == {"jackfield": {"my-lib": "jackfield_my_lib"}}
    major_minor = ".".join(jackfield.__version__.split(".")[:2])
    assert project["dependencies"][0] == f"jackfield>={major_minor}"
    runtime = ast.parse((written / "src/jackfield_my_lib/_runtime.py").read_text("utf-8"))
    assert "MyLibRuntime" in {node.name for node in runtime.body if isinstance(node, ast.ClassDef)}


def test_every_template_is_written_and_no_placeholder_is_left(written):
    files = {
        path for path in written.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    }
    assert {str(path.relative_to(written)) for path in files} == {
        file.format(package="jackfield_my_lib") for file in _FILES
    }
    used = {f"{template}.tmpl" for template in _FILES.values() if template}
    assert {path.name for path in _TEMPLATES.iterdir()} == used
    for path in files:
        text = path.read_text("utf-8").replace("${{ matrix.python }}", "")
        assert "$" not in text, path.name


def test_an_existing_folder_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "jackfield-mine"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("mine")
    result = new_plugin("mine", "--parent", tmp_path)
    assert result.exit_code == 1
    assert str(result.exception) == f"{folder}: it is there already; nothing is written over"
    assert [path.read_text() for path in folder.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jackfield-mine", "leave out 'jackfield-'"),
        ("sklearn", "one of jackfield's own plugins"),
        ("huggingface", "one of jackfield's own plugins"),
        ("Mine", "lower-case letters"),
        ("1st", "with a letter first"),
        ("my_lib", "single hyphens"),
        ("my--lib", "single hyphens"),
        ("my-lib-", "single hyphens"),
        ("../mine", "lower-case letters"),
        ("mine\n", "lower-case letters"),
        ("m" * 61, "at most 60"),
        ("", "expected at most"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_is_written(tmp_path, name, text):
    result = new_plugin(name, "--parent", tmp_path)
    assert result.exit_code == 2
    assert text in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cant_be_written_is_named(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    result = new_plugin("mine", "--parent", tmp_path)
    assert result.exit_code == 1
    assert str(result.exception).endswith("jackfield-mine: can't be written: Permission denied")
