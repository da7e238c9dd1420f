"""What decides an environment: the variables that uv is given, and the settings."""

from __future__ import annotations

from jackfield._environments.resolver import Resolver
from jackfield._environments.running import Running
from jackfield._environments.store import Store
from jackfield._environments.uv import variables
from jackfield.settings import EnvironmentSettings


def test_variables_of_the_servers_own_environment_are_not_passed_on(tmp_path):
    own = {"VIRTUAL_ENV": "/a", "PYTHONPATH": "/b", "PYTHONHOME": "/c", "UV_PYTHON": "3.9"}
    found = variables(EnvironmentSettings(), tmp_path, {**own, "HOME": "/home", "UV_OFFLINE": "1"})
    assert not own.keys() & found.keys()
    assert (found["HOME"], found["UV_OFFLINE"]) == ("/home", "1")


def test_folders_of_wheels_are_absolute_for_uv_runs_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = EnvironmentSettings(find_links=["wheels", "https://wheels.example/"])
    given = {"UV_FIND_LINKS": "mine,/all"}
    found = variables(settings, tmp_path / "model", given)["UV_FIND_LINKS"].split(",")
    ours = [str(tmp_path / "model" / "wheels"), "https://wheels.example/"]
    assert found == [*ours, str(tmp_path / "mine"), "/all"]


def test_pips_variables_stand_for_uvs_where_those_are_not_set(tmp_path):
    pip = {"PIP_INDEX_URL": "https://pip.example/", "PIP_FIND_LINKS": "/a /b"}
    found = variables(EnvironmentSettings(), tmp_path, pip)
    assert found["UV_DEFAULT_INDEX"] == "https://pip.example/"
    assert found["UV_FIND_LINKS"] == "/a,/b"
    found = variables(
        EnvironmentSettings(), tmp_path, {**pip, "UV_INDEX_URL": "https://uv.example/"}
    )
    assert "UV_DEFAULT_INDEX" not in found
    settings = EnvironmentSettings(index_url="https://settings.example/")
    found = variables(settings, tmp_path, {**pip, "UV_INDEX_URL": "https://uv.example/"})
    assert found["UV_DEFAULT_INDEX"] == "https://settings.example/"
    assert "UV_INDEX_URL" not in found


def test_each_setting_that_decides_a_resolution_makes_another_one(tmp_path):
    kept = [
        EnvironmentSettings(requirements=["numpy"]),
        EnvironmentSettings(requirements=["numpy<2"]),
        EnvironmentSettings(requirements=["numpy"], index_url="https://a.example/"),
        EnvironmentSettings(requirements=["numpy"], extra_index_urls=["https://b.example/"]),
        EnvironmentSettings(requirements=["numpy"], find_links=["wheels"]),
    ]
    made = {Resolver(each, tmp_path, Store(tmp_path), Running()).request() for each in kept}
    assert len(made) == len(kept)
    offline = EnvironmentSettings(requirements=["numpy"], offline=True)
    assert Resolver(offline, tmp_path, Store(tmp_path), Running()).request() in made
