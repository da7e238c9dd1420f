"""Every setting is documented with all its ways in, and each of these works."""

import re
from pathlib import Path

import msgspec
import pytest

from jackfield import ModelParameters, ModelSettings, ServerSettings, SettingsError
from jackfield._cli import cli
from jackfield.settings import (
    _MLSERVER,
    CorsSettings,
    EnvironmentSettings,
    VersionPolicy,
    default,
    description,
    fields,
    read_model_settings,
    resolve_server_settings,
)

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text("utf-8")
OPTIONS = {option.name: option for option in cli.commands["serve"].params}

#: The variables that the tables tell, beside `JACKFIELD_PLUGINS`, which is no setting.
VARIABLES = re.findall(r"\| `(JACKFIELD_\w+)`", PAGE)

SERVER = [pytest.param(field, id=name) for name, field in fields(ServerSettings).items()]
MODEL = [pytest.param(field, id=name) for name, field in fields(ModelSettings).items()]
PARAMETERS = [pytest.param(field, id=name) for name, field in fields(ModelParameters).items()]


@pytest.mark.parametrize("field", [*SERVER, *MODEL, *PARAMETERS])
def test_a_setting_is_on_the_page_with_its_help(field):
    assert description(field)
    assert re.search(
        rf"^\| `{field.name}` \|.*\| {re.escape(description(field))} \|$", PAGE, re.MULTILINE
    )


@pytest.mark.parametrize("field", SERVER)
def test_a_server_setting_has_an_option_with_its_help_and_default(field):
    option = OPTIONS[field.name]
    assert option.opts == [f"--{field.name.replace('_', '-')}"]
    assert option.help.startswith(description(field))
    assert option.help.endswith(f"[default: {default(field)}]")


def test_an_option_is_a_server_setting_or_says_what_it_is():
    others = set(OPTIONS) - set(fields(ServerSettings))
    assert others == {"paths", "name"}


def test_every_server_setting_has_a_variable_on_the_page():
    assert [variable for variable in VARIABLES if not variable.startswith("JACKFIELD_MODEL_")] == [
        f"JACKFIELD_{name.upper()}" for name in fields(ServerSettings)
    ]


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_on_the_page_is_read(variable):
    if variable.startswith("JACKFIELD_MODEL_"):
        name = variable.removeprefix("JACKFIELD_MODEL_").lower()
        kind = ModelParameters if name in fields(ModelParameters) else ModelSettings
        value = another_value(fields(kind)[name])
        settings, _ = read_model_settings(None, environ={variable: as_text(value)})
        assert getattr(settings.parameters if kind is ModelParameters else settings, name) == value
    else:
        name = variable.removeprefix("JACKFIELD_").lower()
        value = another_value(fields(ServerSettings)[name])
        resolved = resolve_server_settings([], environ={variable: as_text(value)}, options={})
        assert getattr(resolved.settings, name) == value
        assert resolved.sources == {name: f"environment variable {variable}"}


@pytest.mark.parametrize("name", sorted(_MLSERVER))
def test_a_setting_of_mlserver_is_on_the_page_and_does_what_it_says(name):
    entry = _MLSERVER[name]
    variable = f"MLSERVER_{name.upper()}"
    resolved = resolve_server_settings([], environ={variable: "1"}, options={})
    if isinstance(entry, str):
        assert f"| `{name}` | no effect: {entry} |" in PAGE
        assert resolved.warnings == [
            f"environment variable {variable}: '{name}' has no effect: {entry}"
        ]
        assert resolved.sources == {}
    else:
        assert f"| `{name}` | `{entry[0]}` |" in PAGE
        assert list(resolved.sources) == [entry[0]]


def test_a_server_setting_comes_from_the_strongest_source(tmp_path):
    (tmp_path / "settings.json").write_text('{"http_port": 2}')
    environ = {"MLSERVER_HTTP_PORT": "3", "JACKFIELD_HTTP_PORT": "4"}
    options = {"http_port": 5}
    ports = []
    for folders, variables, given in [
        ([tmp_path], environ, options),
        ([tmp_path], environ, {}),
        ([tmp_path], {"MLSERVER_HTTP_PORT": "3"}, {}),
        ([tmp_path], {}, {}),
        ([], {}, {}),
    ]:
        resolved = resolve_server_settings(folders, environ=variables, options=given)
        ports.append(resolved.settings.http_port)
    assert ports == [5, 4, 3, 2, 8080]


def test_a_model_setting_comes_from_the_strongest_source(tmp_path):
    full, empty = tmp_path / "full.json", tmp_path / "empty.json"
    full.write_text('{"platform": "file"}')
    empty.write_text("{}")
    both = {"MLSERVER_MODEL_PLATFORM": "theirs", "JACKFIELD_MODEL_PLATFORM": "ours"}
    theirs = {"MLSERVER_MODEL_PLATFORM": "theirs"}
    platforms = [
        read_model_settings(path, environ=environ)[0].platform
        for path, environ in [(full, both), (full, theirs), (full, {}), (empty, {})]
    ]
    assert platforms == ["ours", "theirs", "file", ""]


def test_an_unknown_name_of_ours_is_an_error_that_names_the_nearest(tmp_path):
    with pytest.raises(SettingsError, match=r"JACKFIELD_HTTP_PRT.*did you mean 'http_port'"):
        resolve_server_settings([], environ={"JACKFIELD_HTTP_PRT": "1"}, options={})
    path = tmp_path / "model-settings.json"
    path.write_text('{"implementation": "sklearn", "plattform": "x"}')
    with pytest.raises(SettingsError, match="did you mean 'platform'"):
        read_model_settings(path, environ={})


def test_an_unknown_name_that_may_be_mlservers_is_a_warning(tmp_path):
    (tmp_path / "settings.json").write_text('{"http_prt": 1}')
    environ = {"MLSERVER_GRPC_PRT": "1"}
    warnings = resolve_server_settings([tmp_path], environ=environ, options={}).warnings
    assert [re.search(r"did you mean '(\w+)'", text)[1] for text in warnings] == [
        "http_port",
        "grpc_port",
    ]
    path = tmp_path / "model-settings.json"
    path.write_text(
        '{"implementation": "some.Class", "plattform": "x", "parameters": {"own": {"deep": 1}}}'
    )
    settings, warnings = read_model_settings(path, environ={})
    assert any("did you mean 'platform'" in text for text in warnings)
    assert settings.parameters.extra == {"own": {"deep": 1}}


def another_value(field):
    """Make a value that the setting takes and that is not its default."""
    value = default(field)
    schema = msgspec.json.schema(field.type)
    if "enum" in schema:
        return next(each for each in schema["enum"] if each != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "a" * 64
    if field.name == "source_options":
        return {"s3": {"endpoint_url": "https://example.org"}}
    if field.name == "environment":
        return EnvironmentSettings(requirements=["wine"])
    if field.name == "version_policy":
        return VersionPolicy(latest=2)
    if field.name == "cors_settings":
        return CorsSettings(allow_origins=["https://example.org"])
    return (value or 0) + 1


def as_text(value):
    if isinstance(value, msgspec.Struct | dict):
        return msgspec.json.encode(value).decode()
    return str(value).lower() if isinstance(value, bool) else str(value)
