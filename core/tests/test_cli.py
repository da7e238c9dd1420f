import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from jackfield import ServerSettings, __version__
from jackfield._cli import cli
from jackfield.settings import description, fields

FREE_PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
SPEC = """
from jackfield import ArtifactFormat, RuntimeSpec, hookimpl

@hookimpl
def jackfield_runtimes():
    return [
        RuntimeSpec(
            name="good",
            runtime="x:X",
            artifacts=(ArtifactFormat("*.good"),),
            frameworks=("numpy", "nothing-of-this-name"),
        )
    ]
"""


@pytest.fixture
def environ(tmp_path):
    """An environment without settings of ours, and a working folder without a .env."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.upper().startswith(("JACKFIELD_", "MLSERVER_"))
    }
    return kept | {"JACKFIELD_PLUGINS": ""}


@pytest.fixture
def start(environ, tmp_path):
    """Start the command line in a process of its own."""
    started = []

    def start(*arguments, **variables):
        process = subprocess.Popen(
            [sys.executable, "-m", "jackfield", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ | variables,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start):
    """Run the command line to its end: exit code, output, errors."""

    def run(*arguments, **variables):
        process = start(*arguments, **variables)
        output, errors = process.communicate(timeout=20)
        return process.returncode, output, errors

    return run


@pytest.fixture
def invoke(environ, tmp_path, monkeypatch):
    """Run a command within this process."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith(("JACKFIELD_", "MLSERVER_")):
            monkeypatch.delenv(name)

    def invoke(*arguments, plugins="", **variables):
        monkeypatch.setenv("JACKFIELD_PLUGINS", plugins)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with contextlib.chdir(tmp_path):
            return CliRunner().invoke(cli, [str(each) for each in arguments])

    return invoke


def read_until(process, pattern):
    """Read the output until a line matches."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError("".join(lines) + process.stderr.read())


# ---- serve ----


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
def test_serve_prints_what_it_serves_and_a_request_that_works(
    add_model, models_dir, start, http_server
):
    add_model("double", version="2")
    add_model("bad", "BrokenOnLoad")
    process = start("serve", models_dir, *FREE_PORTS, "--http-server", http_server)
    output = read_until(process, r"^    -d ")
    [row] = [line for line in output.splitlines() if line.startswith("double")]
    url = re.search(r"REST +(http://127\.0\.0\.1:\d+) +\(127\.0\.0\.1: default: ", output)[1]
    assert row.split() == [
        "double",
        "2",
        "runtimes.Double",
        "READY",
        f"{url}/v2/models/double/versions/2",
    ]
    assert re.search(r"^bad +UNAVAILABLE +failed to load: OSError: the file is", output, re.M)
    assert re.search(r"^gRPC +127\.0\.0\.1:\d+$", output, re.M)
    assert re.search(r"^metrics +http://127\.0\.0\.1:\d+/metrics$", output, re.M)
    command = output.partition("try:\n")[2]
    answer = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["outputs"][0]["data"] == [0]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert errors.rstrip().endswith("stopped")


def test_serve_ends_on_an_interrupt(add_model, start):
    process = start("serve", add_model("double"), *FREE_PORTS)
    read_until(process, "^metrics")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_no_request_is_tried_on_a_model_that_remembers(add_model, start):
    process = start("serve", add_model("m", "Stateful"), *FREE_PORTS)
    read_until(process, "^metrics")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    assert "try:" not in output


def test_a_settings_file_opens_the_server_to_all_and_the_table_says_why(add_model, start):
    folder = add_model("double")
    (folder / "settings.json").write_text('{"debug": false}')
    process = start("serve", folder, *FREE_PORTS)
    output = read_until(process, "^metrics")
    assert re.search(
        rf"^REST +http://0\.0\.0\.0:\d+ +\(0\.0\.0\.0: MLServer's default, since "
        rf"{re.escape(str(folder / 'settings.json'))} is there\)$",
        output,
        re.M,
    )


def test_settings_are_read_from_the_environment_and_a_dotenv_file(add_model, start, tmp_path):
    (tmp_path / ".env").write_text("MLSERVER_MODEL_NAME=renamed\nMLSERVER_PARALLEL_WORKERS=3\n")
    folder = add_model("double")
    (folder / "model-settings.json").write_text('{"implementation": "runtimes.Double"}')
    process = start("serve", folder, *FREE_PORTS, JACKFIELD_METRICS_ENDPOINT="")
    output = read_until(process, "^metrics")
    assert re.search(r"^renamed .*READY", output, re.M)
    assert re.search(r"^metrics +off$", output, re.M)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert "WARNING environment variable MLSERVER_PARALLEL_WORKERS: 'parallel_workers' " in errors


def test_the_log_may_be_json(add_model, start):
    process = start("serve", add_model("m", "BrokenOnLoad"), *FREE_PORTS, "--log-format", "json")
    read_until(process, "^metrics")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    lines = [json.loads(line) for line in errors.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    [failure] = [line for line in lines if "exception" in line]
    assert "OSError: the file is corrupt" in failure["exception"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--workers", "2", "--strict"], "model 'bad': failed to load: OSError: the file is corr"),
        (["--workers", "some"], "option --workers: workers: expected one of the names that are"),
        (["--workers", "0"], "option --workers: workers: expected an integer >= 1"),
        (["--http-port", "70000"], "option --http-port: http_port: expected an integer <= 65535"),
        (["--strict"], "model 'bad': failed to load: OSError: the file is corrupt"),
        (["--name", "a/b"], None),
    ],
)
def test_serve_that_cannot_start_is_one_line_and_exit_code_1(add_model, run, options, text):
    folder = add_model("bad", "BrokenOnLoad")
    if text is None:
        options, text = [*options, "--strict"], "the name 'a/b' can't stand in a URL"
    code, output, errors = run("serve", folder, *FREE_PORTS, *options)
    assert code == 1
    last = errors.rstrip().splitlines()[-1]
    assert last.startswith("error: ")
    assert text in last
    assert output == ""


def test_a_port_that_is_taken_is_one_line_and_exit_code_1(add_model, run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, errors = run("serve", add_model("double"), *FREE_PORTS, "--http-port", port)
    assert code == 1
    assert f"can't listen on 127.0.0.1:{port}" in errors
    assert "choose another with --http-port" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_path_that_is_not_there_is_said(run, tmp_path, command):
    code, output, errors = run(command, tmp_path / "nowhere")
    assert code == 1
    assert errors == f"error: {tmp_path / 'nowhere'}: there is no such file or folder\n"
    assert output == ""


def test_an_unknown_variable_of_ours_is_said(run, add_model):
    code, _, errors = run("serve", add_model("double"), JACKFIELD_HTTP_PROT="1")
    assert code == 1
    assert "JACKFIELD_HTTP_PROT: unknown setting 'http_prot'; did you mean 'http_port'" in errors


@pytest.mark.parametrize("name", fields(ServerSettings))
def test_every_setting_is_an_option_with_its_description(invoke, name):
    text = " ".join(invoke("serve", "--help").output.split())
    assert f"--{name.replace('_', '-')}" in text
    assert description(fields(ServerSettings)[name])[:30] in text


def test_an_option_of_few_choices_refuses_others(invoke, models_dir):
    result = invoke("serve", models_dir, "--http-server", "apache")
    assert result.exit_code == 2
    assert "'apache' is not one of" in result.output


# ---- check ----


def test_check_of_good_models_is_0_and_lists_them(add_model, models_dir, invoke):
    add_model("double", version="3")
    result = invoke("check", models_dir)
    assert result.exit_code == 0, result.output
    assert re.search(r"^double +3 +runtimes\.Double ", result.output, re.M)


@pytest.mark.parametrize("kind", ["BrokenOnLoad", "JunkMetadata", "Missing"])
def test_check_loads_the_models_and_is_1_for_a_problem(add_model, models_dir, invoke, kind, stage):
    add_model("bad", kind)
    add_model("double")
    assert invoke("check", models_dir).exit_code == 1
    assert invoke("check", models_dir, "--no-load").exit_code == 0


def test_check_as_json_is_for_programs(add_model, models_dir, invoke):
    add_model("bad", parameters={"uri": "nowhere.bin"})
    folder = add_model("double")
    result = invoke("check", models_dir, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["warnings"] == []
    bad, double = found["models"]
    assert double == {
        "model": "double",
        "version": "",
        "runtime": "runtimes.Double",
        "artifact": str(folder),
        "problem": "",
    }
    assert "nowhere.bin' is missing" in bad["problem"]


def test_check_of_settings_that_are_wrong_is_1(models_dir, invoke):
    (models_dir / "model-settings.json").write_text('{"nme": "x"}')
    result = invoke("check", models_dir)
    assert result.exit_code == 1
    assert "unknown setting 'nme'; did you mean 'name'" in result.output


def test_check_warns_of_mlservers_settings_without_effect(add_model, invoke):
    folder = add_model("double")
    (folder / "settings.json").write_text('{"kafka_enabled": true}')
    result = invoke("check", folder)
    assert result.exit_code == 0
    assert "'kafka_enabled' has no effect: Kafka is not served yet" in result.stderr


def test_check_of_an_empty_folder_is_1(models_dir, invoke):
    result = invoke("check", models_dir)
    assert result.exit_code == 1
    assert "there is no model here" in result.stderr


# ---- plugins and version ----


def test_plugins_are_listed_with_runtimes_and_frameworks(add_plugin, invoke):
    add_plugin("good", SPEC, version="4.5")
    add_plugin("bad", "1 / 0", version="0.1")
    output = invoke("plugins", plugins="good,bad").output
    assert re.search(
        r"^good +jackfield-good 4\.5 +good +\*\.good +numpy [\d.]+, noth", output, re.M
    )
    assert re.search(
        r"^bad +jackfield-bad 0\.1 +- +left out: ZeroDivisionError: division by zero", output, re.M
    )


def test_what_an_operator_should_know_of_a_runtime_is_listed(add_plugin, invoke):
    notice = "It is free of charge on Sundays."
    add_plugin("good", SPEC.replace("RuntimeSpec(", f"RuntimeSpec(notice={notice!r}, "))
    assert f"\ngood: {notice}\n" in invoke("plugins", plugins="good").output
    [plugin] = json.loads(invoke("plugins", "--json", plugins="good").output)
    assert plugin["runtimes"][0]["notice"] == notice


def test_plugins_as_json_are_for_programs(add_plugin, invoke):
    add_plugin("good", SPEC, version="4.5")
    [plugin] = json.loads(invoke("plugins", "--json", plugins="good").output)
    assert (plugin["name"], plugin["distribution"], plugin["version"], plugin["problem"]) == (
        "good",
        "jackfield-good",
        "4.5",
        None,
    )
    assert plugin["hooks"] == ["jackfield_runtimes"]
    [runtime] = plugin["runtimes"]
    assert runtime["name"] == "good"
    assert runtime["artifacts"] == [
        {"pattern": "*.good", "executes_code": False, "by_content": False, "is_folder": False}
    ]
    assert runtime["frameworks"]["nothing-of-this-name"] == "not installed"


def test_where_artifacts_are_fetched_from_is_listed_with_what_it_lacks(add_plugin, invoke):
    add_plugin(
        "store",
        "from jackfield import ArtifactSourceSpec, hookimpl\n"
        "@hookimpl\ndef jackfield_artifact_sources():\n"
        "    return [ArtifactSourceSpec(schemes=('mine', 'gs'), source='m:M',\n"
        "        install='pip install mine', packages=('numpy', 'nothing-of-this-name'))]\n",
    )
    output = invoke("plugins", plugins="store").output
    assert re.search(r"^store +jackfield-store 1\.2\.3 +source +mine: gs:", output, re.M)
    assert re.search(
        r"^fetches gs: mine: \(numpy [\d.]+, nothing-of-this-name not installed; "
        r"pip install mine\)$",
        output,
        re.M,
    )
    assert re.search(r"^fetches https: http:$", output, re.M)
    [plugin] = json.loads(invoke("plugins", "--json", plugins="store").output)
    assert plugin["sources"][0]["schemes"] == ["mine", "gs"]


def test_the_trace_has_a_line_for_each_step_of_each_plugin(add_plugin, invoke, monkeypatch):
    add_plugin("good", SPEC, version="4.5")
    add_plugin("bad", "1 / 0", version="0.1")
    monkeypatch.setattr("jackfield._plugins.SLOW_IMPORT_MS", 0.0)
    result = invoke("plugins", "--trace", plugins="good,bad,teapot")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["PLUGIN", "DISTRIBUTION", "STEP", "MS", "NOTE"]
    failed, imported, called, total = lines[1:]
    assert re.match(
        r"bad +jackfield-bad 0\.1 +import +\d+\.\d +left out: ZeroDivisionError.*; slow: ", failed
    )
    assert re.fullmatch(r"good +jackfield-good 4\.5 +import +\d+\.\d", imported)
    assert re.match(r"good +jackfield-good 4\.5 +jackfield_runtimes +\d+\.\d +slow: its", called)
    assert re.fullmatch(r"2 plugins in \d+\.\d ms", total)
    assert "warning: no installed plugin has the name 'teapot' (JACKFIELD_PLUGINS)" in result.stderr
    assert "warning: plugin 'jackfield-bad' 0.1 is left out: ZeroDivisionError" in result.stderr


def test_the_trace_is_in_the_json(add_plugin, invoke):
    add_plugin("good", SPEC)
    [plugin] = json.loads(invoke("plugins", "--trace", "--json", plugins="good").stdout)
    assert [step["name"] for step in plugin["steps"]] == ["import", "jackfield_runtimes"]
    assert plugin["is_slow"] is False


def test_no_plugin_at_all_comes_with_a_hint(invoke):
    assert 'pip install "jackfield[sklearn]"' in invoke("plugins").output


def test_plugins_are_listed_without_a_web_server_or_numpy(environ):
    code = (
        "import sys\n"
        "from jackfield.__main__ import main\n"
        "sys.argv = ['jackfield', 'plugins']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'grpc', 'starlette', 'uvicorn', 'hypercorn'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_version_tells_what_a_report_needs(add_plugin, invoke):
    add_plugin("good", SPEC, version="4.5")
    versions = json.loads(invoke("version", "--json", plugins="good").output)
    assert versions["jackfield"] == __version__
    assert versions["jackfield-good"] == "4.5"
    assert versions["python"] == sys.version.split()[0]
    assert re.search(rf"^jackfield +{re.escape(__version__)}$", invoke("version").output, re.M)


def test_the_script_and_the_module_are_one_command(run):
    code, output, _ = run("version", "--json")
    assert code == 0
    assert json.loads(output)["jackfield"] == __version__
