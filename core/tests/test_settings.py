import json

import msgspec
import pytest

from jackfield import ServerSettings, SettingsError
from jackfield.settings import (
    decode_options,
    default,
    description,
    fields,
    read_model_settings,
    resolve_server_settings,
)


@pytest.fixture
def resolve(tmp_path):
    def resolve(file=None, environ=None, options=None):
        if file is not None:
            (tmp_path / "settings.json").write_text(
                file if isinstance(file, str) else json.dumps(file)
            )
        return resolve_server_settings([tmp_path], environ=environ or {}, options=options or {})

    return resolve


# ---- the server's ----


def test_the_stronger_source_wins(resolve, tmp_path):
    file = {"http_port": 1, "grpc_port": 1, "metrics_port": 1, "server_name": "file"}
    environ = {
        "MLSERVER_HTTP_PORT": "2",
        "MLSERVER_GRPC_PORT": "2",
        "MLSERVER_METRICS_PORT": "2",
        "JACKFIELD_HTTP_PORT": "3",
        "JACKFIELD_GRPC_PORT": "3",
    }
    resolved = resolve(file, environ, {"http_port": 4})
    settings = resolved.settings
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (4, 3, 2)
    assert settings.server_name == "file"
    assert settings.http_server == "auto"
    assert resolved.sources["http_port"] == "option --http-port"
    assert resolved.sources["grpc_port"] == "environment variable JACKFIELD_GRPC_PORT"
    assert resolved.sources["metrics_port"] == "environment variable MLSERVER_METRICS_PORT"
    assert resolved.sources["server_name"] == str(tmp_path / "settings.json")
    assert "http_server" not in resolved.sources


def test_the_host_is_this_machine_unless_a_settings_file_is_there(resolve, tmp_path):
    assert resolve().settings.host == "127.0.0.1"
    resolved = resolve({})
    assert resolved.settings.host == "0.0.0.0"
    assert resolved.sources["host"] == (
        f"MLServer's default, since {tmp_path / 'settings.json'} is there"
    )


@pytest.mark.parametrize(
    ("environ", "options", "host"),
    [
        ({}, {}, "10.0.0.1"),
        ({"MLSERVER_HOST": "10.0.0.2"}, {}, "10.0.0.2"),
        ({"MLSERVER_HOST": "10.0.0.2"}, {"host": "::1"}, "::1"),
    ],
)
def test_a_host_that_is_given_goes_before_mlservers_default(resolve, environ, options, host):
    assert resolve({"host": "10.0.0.1"}, environ, options).settings.host == host


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("HTTP_PORT", "9000", 9000),
        ("DRAIN_TIMEOUT_S", "1.5", 1.5),
        ("STRICT", "true", True),
        ("STRICT", "0", False),
        ("LOAD_MODELS_AT_STARTUP", "False", False),
        ("LOG_LEVEL", "debug", "debug"),
        ("SERVER_NAME", "7", "7"),
    ],
)
def test_variables_are_parsed(resolve, name, text, value):
    settings = resolve(environ={f"JACKFIELD_{name}": text}).settings
    assert getattr(settings, name.lower()) == value


def test_variables_are_read_in_any_case(resolve):
    assert resolve(environ={"jackfield_http_port": "9"}).settings.http_port == 9


@pytest.mark.parametrize(
    ("given", "source", "problem"),
    [
        (
            {"environ": {"JACKFIELD_HTTP_PROT": "1"}},
            "environment variable JACKFIELD_HTTP_PROT",
            "unknown setting 'http_prot'; did you mean 'http_port'",
        ),
        ({"options": {"teapot": 1}}, "option --teapot", "unknown setting 'teapot'"),
        (
            {"environ": {"JACKFIELD_HTTP_PORT": "http"}},
            "environment variable JACKFIELD_HTTP_PORT",
            "http_port: expected an integer, found a string",
        ),
        (
            {"environ": {"MLSERVER_HTTP_PORT": "70000"}},
            "environment variable MLSERVER_HTTP_PORT",
            "http_port: expected an integer <= 65535",
        ),
        (
            {"environ": {"MLSERVER_DEBUG": "perhaps"}},
            "environment variable MLSERVER_DEBUG",
            "debug: expected true or false, found a string",
        ),
        (
            {"options": {"http_server": "apache"}},
            "option --http-server",
            "http_server: expected one of the names that are known, found 'apache'",
        ),
        (
            {"environ": {"JACKFIELD_STRICT": "perhaps"}},
            "environment variable JACKFIELD_STRICT",
            "strict: expected true or false",
        ),
        ({"file": {"host": 3}}, "settings.json", "host: expected a string, found an integer"),
        ({"file": {"debug": []}}, "settings.json", "debug: expected true or false, found an array"),
        ({"file": "{"}, "settings.json", "not readable as JSON"),
        ({"file": "[]"}, "settings.json", "expected a JSON object"),
    ],
)
def test_what_is_wrong_is_said_with_its_source_and_field(resolve, given, source, problem):
    with pytest.raises(SettingsError) as caught:
        resolve(**given)
    assert caught.value.source.endswith(source)
    assert problem in caught.value.problem


def test_two_files_are_refused(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "settings.json").write_text("{}")
    with pytest.raises(SettingsError, match="is there too; one may set the server"):
        resolve_server_settings(folders, environ={}, options={})


@pytest.mark.parametrize(
    "name", ["parallel_workers", "kafka_enabled", "tracing_server", "cache_enabled"]
)
def test_mlservers_settings_without_effect_warn(resolve, name):
    [warning] = resolve({name: None, "http_port": 1} | {name: 1}).warnings
    assert f"'{name}' has no effect: " in warning


def test_an_unknown_key_of_mlservers_warns_with_the_nearest_name(resolve):
    [warning] = resolve({"kafka_topic_inputs": "a"}).warnings
    assert "unknown setting 'kafka_topic_inputs'; did you mean 'kafka_topic_input'" in warning
    assert warning.endswith("it is ignored")


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"debug": True}, "log_level", "debug"),
        ({"debug": False}, "log_level", "info"),
        ({"use_structured_logging": True}, "log_format", "json"),
        ({"grpc_max_message_length": 1000}, "max_grpc_message_bytes", 1000),
    ],
)
def test_mlservers_names_set_ours(resolve, given, field, value):
    assert getattr(resolve(given).settings, field) == value


def test_null_in_a_file_is_not_given(resolve):
    assert resolve({"http_port": None, "kafka_enabled": None}).warnings == []


@pytest.mark.parametrize(
    "variable", ["JACKFIELD_PLUGINS", "MLSERVER_MODEL_NAME", "JACKFIELD_MODEL_URI", "PATH"]
)
def test_variables_of_something_else_are_left_alone(resolve, variable):
    resolved = resolve(environ={variable: "x"})
    assert resolved.settings == ServerSettings()
    assert resolved.warnings == []


@pytest.mark.parametrize("name", fields(ServerSettings))
def test_every_setting_has_a_default_and_says_what_it_is(name):
    field = fields(ServerSettings)[name]
    assert default(field) == getattr(ServerSettings(), name)
    assert description(field).endswith(".")


# ---- a model's ----


@pytest.fixture
def read(tmp_path):
    def read(given, environ=None):
        path = tmp_path / "model-settings.json"
        path.write_text(json.dumps(given))
        return read_model_settings(path, environ=environ or {})

    return read


def test_a_file_as_mlservers_users_have_it_is_read(read):
    settings, warnings = read(
        {
            "name": "iris",
            "implementation": "mlserver_sklearn.SKLearnModel",
            "max_batch_size": 8,
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "parameters": {"uri": "./model.joblib", "version": "v1", "extra": {"a": 1}},
        }
    )
    assert warnings == []
    assert (settings.name, settings.parameters.version) == ("iris", "v1")
    assert settings.inputs[0].shape == [-1, 4]
    assert settings.parameters.extra == {"a": 1}


@pytest.mark.parametrize("implementation", [None, "sklearn"])
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"paralel_workers": 1}, "unknown setting 'paralel_workers'; did you mean 'parallel_work"),
        (
            {"parameters": {"url": "x"}},
            "unknown setting 'parameters.url'; did you mean 'parameters.uri'",
        ),
    ],
)
def test_an_unknown_key_in_a_file_of_ours_is_an_error(read, implementation, given, problem):
    given = given | ({"implementation": implementation} if implementation else {})
    with pytest.raises(SettingsError) as caught:
        read(given)
    assert problem in caught.value.problem


def test_an_unknown_key_in_a_file_of_mlservers_warns_and_parameters_keep_it(read):
    settings, warnings = read(
        {
            "implementation": "my_code.Model",
            "colour": "red",
            "parameters": {"depth": 3, "extra": {"a": 1}},
        }
    )
    assert settings.parameters.extra == {"depth": 3, "a": 1}
    text = "\n".join(warnings)
    assert "unknown setting 'colour'" in text
    assert "kept in 'parameters.extra': depth" in text


@pytest.mark.parametrize("null", [{"extra": None}, {}])
def test_extra_may_be_absent_or_null(read, null):
    settings, _ = read({"implementation": "my_code.Model", "parameters": {"depth": 3, **null}})
    assert settings.parameters.extra == {"depth": 3}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": 3}, "name: expected a string, found an integer"),
        ({"parameters": []}, "parameters: expected"),
        ({"parameters": {"extra": [1]}}, "parameters.extra: expected an object, found an array"),
        (
            {"implementation": "my_code.Model", "parameters": {"depth": 1, "extra": [1]}},
            "parameters.extra: expected an object, found an array",
        ),
        ({"inputs": [{"name": "x"}]}, "inputs[0].datatype: expected a value, found none"),
        (
            {"inputs": [{"name": "x", "datatype": "FP31", "shape": [1]}]},
            "inputs[0].datatype: expected one of the names that are known, found 'FP31'",
        ),
        ({"max_batch_time": -1}, "max_batch_time: expected a number >= 0"),
        ({"scheduler": "fast"}, "scheduler: expected one of the names that are known, found"),
        ({"implementation": 1.5}, "implementation: expected a string"),
    ],
)
def test_a_value_of_the_wrong_form_is_said_with_its_field(read, given, problem):
    with pytest.raises(SettingsError) as caught:
        read(given)
    assert problem in caught.value.problem


def test_variables_go_before_the_file(read):
    settings, warnings = read(
        {"name": "file", "max_queue": 3},
        {
            "MLSERVER_MODEL_NAME": "env",
            "MLSERVER_MODEL_URI": "a.txt",
            "MLSERVER_MODEL_MAX_BATCH_SIZE": "4",
            "MLSERVER_MODEL_VERSION": "1",
            "JACKFIELD_MODEL_VERSION": "2",
            "MLSERVER_MODEL_EXTRA": '{"depth": 3}',
        },
    )
    assert warnings == []
    assert (settings.name, settings.max_queue, settings.max_batch_size) == ("env", 3, 4)
    assert settings.parameters.uri == "a.txt"
    assert settings.parameters.version == "2"
    assert settings.parameters.extra == {"depth": 3}


@pytest.mark.parametrize(
    "implementation", ["mlserver_alibi_detect.AlibiDetectRuntime", "alibi-detect"]
)
def test_variables_of_mlservers_runtimes_are_their_settings(read, implementation):
    variables = {
        "MLSERVER_MODEL_ALIBI_DETECT_BATCH_SIZE": "5",
        "MLSERVER_MODEL_ALIBI_DETECT_PREDICT_PARAMETERS": '{"drift_type": "feature"}',
    }
    given = {"implementation": implementation, "parameters": {"extra": {"batch_size": 2}}}
    settings, warnings = read(given, variables)
    assert warnings == []
    assert settings.parameters.extra == {
        "batch_size": "5",
        "predict_parameters": {"drift_type": "feature"},
    }
    settings, warnings = read({"implementation": "mlserver_sklearn.SKLearnModel"}, variables)
    assert settings.parameters.extra == {}
    assert len(warnings) == 2
    with pytest.raises(SettingsError, match="not readable as JSON"):
        read(given, {"MLSERVER_MODEL_ALIBI_DETECT_PREDICT_PARAMETERS": "{"})


def test_an_unknown_variable_of_mlservers_warns_and_one_of_ours_is_an_error(read):
    _, [warning] = read({}, {"MLSERVER_MODEL_URL": "x"})
    assert warning == (
        "environment variable MLSERVER_MODEL_URL: unknown setting 'url'; "
        "did you mean 'uri'; it is ignored"
    )
    with pytest.raises(SettingsError, match=r"JACKFIELD_MODEL_URL: unknown setting 'url'; did"):
        read({}, {"JACKFIELD_MODEL_URL": "x"})


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("MAX_QUEUE", "many", "max_queue: expected an integer, found a string"),
        ("INPUTS", "x", "inputs: expected an array, found a string"),
        ("INPUTS", "[", "inputs: "),
        ("EXTRA", "[1]", "extra: expected an object, found an array"),
    ],
)
def test_a_variable_of_the_wrong_form_is_said_with_its_name(read, name, text, problem):
    with pytest.raises(SettingsError) as caught:
        read({}, {f"MLSERVER_MODEL_{name}": text})
    assert caught.value.source == f"environment variable MLSERVER_MODEL_{name}"
    assert problem in caught.value.problem


# ---- a runtime's ----


class Options(msgspec.Struct):
    depth: int = 1
    mode: str = "fast"


def test_a_runtimes_settings_are_decoded_with_their_defaults():
    options, warnings = decode_options({"depth": "3"}, Options, source="file", is_ours=True)
    assert options == Options(3, "fast")
    assert warnings == []


def test_a_runtimes_unknown_setting_is_an_error_or_a_warning():
    with pytest.raises(SettingsError, match=r"'parameters.extra.dept'; did you mean 'parameters\."):
        decode_options({"dept": 3}, Options, source="file", is_ours=True)
    options, [warning] = decode_options({"dept": 3}, Options, source="file", is_ours=False)
    assert options == Options()
    assert "did you mean 'parameters.extra.depth'" in warning


def test_a_runtimes_setting_of_the_wrong_form_is_said():
    with pytest.raises(SettingsError, match=r"parameters\.extra\.depth: expected an integer"):
        decode_options({"depth": "deep"}, Options, source="file", is_ours=True)


def test_what_kubernetes_puts_into_a_pod_beside_a_service_of_our_name_is_no_setting(resolve):
    environ = {
        "JACKFIELD_PORT": "tcp://10.0.0.1:8080",
        "JACKFIELD_PORT_8080_TCP_ADDR": "10.0.0.1",
        "JACKFIELD_SERVICE_HOST": "10.0.0.1",
        "JACKFIELD_SERVICE_PORT_HTTP": "8080",
    }
    resolved = resolve(environ=environ)
    assert resolved.settings == ServerSettings()
    assert not resolved.warnings
