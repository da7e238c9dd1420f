import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from jackfield import Server
from jackfield._cli import cli


@pytest.fixture
def init(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def init(name):
        return CliRunner().invoke(cli, ["init", str(name)])

    return init


async def test_what_is_written_serves_at_once(init, tmp_path, client_of):
    result = init("scores")
    assert (result.exit_code, result.output) == (
        0,
        "wrote scores; next:\n  jackfield serve scores\n",
    )
    folder = tmp_path / "scores"
    async with Server([folder], plugins=()) as server, client_of(server) as client:
        body = (folder / "request.json").read_text()
        found = await client.post(
            "/v2/models/scores/infer", content=body, headers={"content-type": "application/json"}
        )
        assert found.status_code == 200
        assert found.json()["outputs"][0]["data"] == pytest.approx([1.7, 4.7])
        metadata = (await client.get("/v2/models/scores")).json()
        assert [each["datatype"] for each in metadata["inputs"] + metadata["outputs"]] == [
            "FP64"
        ] * 2
        assert (await client.get("/v2/models/scores/docs")).status_code == 200


def test_the_tests_that_are_written_pass(init, tmp_path):
    assert init("scores").exit_code == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    done = subprocess.run(
        command,
        cwd=tmp_path / "scores",
        env=os.environ | {"JACKFIELD_PLUGINS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_readme_names_the_routes_that_are_there(init, tmp_path):
    init("a/scores")
    folder = tmp_path / "a" / "scores"
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# scores\n")
    assert "localhost:8080/v2/models/scores/infer" in readme
    assert json.loads((folder / "model-settings.json").read_text())["name"] == "scores"
    assert "$" not in "".join(each.read_text() for each in folder.iterdir())
    lines = (folder / "model.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 10


@pytest.mark.parametrize("name", ["a b", "-", "stats", "é"])
def test_a_name_that_can_not_stand_in_a_url_is_refused(init, name, tmp_path):
    result = CliRunner().invoke(cli, ["init", "--", name])
    assert result.exit_code == 1
    assert "name of the model: expected letters" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(init, tmp_path):
    (tmp_path / "scores").mkdir()
    assert init("scores").exit_code == 0
    result = init("scores")
    assert "it is not empty; nothing is written over" in str(result.exception)
    (tmp_path / "file").write_text("")
    assert "can't be written: " in str(init("file").exception)
