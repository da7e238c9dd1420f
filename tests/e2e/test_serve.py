"""The installed command serves: the request it prints, HTTP/2, reflection, settings, logs."""

import json
import re
import shutil
import socket
import struct
import subprocess

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.e2e.reflected import SERVICE, Reflected
from tests.serving import clean_environment, run_jackfield, serving, write_model

TIMEOUT_S = 20.0
#: To the letter what MLServer's guide to scikit-learn gives; the model inside is ours.
MLSERVER_SETTINGS = {
    "name": "mnist-svm",
    "implementation": "mlserver_sklearn.SKLearnModel",
    "parameters": {"uri": "./mnist-svm.joblib", "version": "v0.1.0"},
}
FLOWERS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]


def ask(url: str, name: str = "x", *, client: httpx.Client | None = None) -> dict[str, object]:
    """Ask an iris model for two flowers, a setosa and a virginica."""
    given = {"name": name, "shape": [2, 4], "datatype": "FP64", "data": FLOWERS}
    post = client.post if client else httpx.post
    answer = post(f"{url}/infer", json={"inputs": [given]}, timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def run_curl(*command: str) -> subprocess.CompletedProcess[str]:
    # a tool of the machine, which these tests need as they need git
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


# ---- A file ----


def test_a_file_is_served_and_the_printed_request_works_as_printed(jackfield, iris):
    with serving(iris, command=jackfield) as served:
        shell = subprocess.run(
            served.curl, shell=True, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert shell.returncode == 0, shell.stderr
        answer = json.loads(shell.stdout)
        assert answer["model_name"] == "iris"
        assert [output["name"] for output in answer["outputs"]] == ["predict"]

        assert re.search(
            rf"^iris +sklearn +READY +{served.http}/v2/models/iris$", served.stdout, re.M
        )
        assert "(127.0.0.1: default: this machine only)" in served.stdout


def test_the_predictions_are_those_of_the_model(jackfield, iris):
    with serving(iris, "--name", "flowers", command=jackfield) as served:
        answer = ask(f"{served.http}/v2/models/flowers")
        assert answer["outputs"] == [
            {"name": "predict", "shape": [2], "datatype": "INT64", "data": [0, 2]}
        ]


def test_curl_speaks_http_1_1_by_default(jackfield, iris):
    with serving(iris, command=jackfield) as served:
        done = run_curl("curl", "-si", f"{served.http}/v2/health/ready")
        assert done.stdout.startswith("HTTP/1.1 200 OK"), done.stderr


# ---- HTTP/2 ----


@pytest.fixture(scope="module")
def hypercorn(jackfield, trained):
    with serving(trained, "--http-server", "hypercorn", command=jackfield) as served:
        yield served


def test_http_2_is_served_with_prior_knowledge(hypercorn):
    with httpx.Client(http1=False, http2=True) as client:
        answer = ask(f"{hypercorn.http}/v2/models/iris", client=client)
        assert answer["outputs"][0]["data"] == [0, 2]
        ready = client.get(f"{hypercorn.http}/v2/health/ready")
        assert (ready.http_version, ready.status_code) == ("HTTP/2", 200)


def test_curl_speaks_http_2_with_prior_knowledge(hypercorn):
    if "HTTP2" not in run_curl("curl", "--version").stdout:
        pytest.skip("this curl was built without HTTP/2")
    url = f"{hypercorn.http}/v2/health/ready"
    done = run_curl("curl", "-si", "--http2-prior-knowledge", url)
    assert done.stdout.startswith("HTTP/2 200"), done.stderr


def test_the_same_port_speaks_http_1_1(hypercorn):
    assert ask(f"{hypercorn.http}/v2/models/iris")["outputs"][0]["data"] == [0, 2]


# ---- gRPC ----


def test_a_grpc_client_with_reflection_lists_the_services_and_infers(jackfield, iris):
    with serving(iris, command=jackfield) as served, Reflected(served.grpc) as client:
        assert client.services == {
            SERVICE,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        assert client.call("ServerReady", client.request("ServerReady")).ready

        raw = struct.pack("<8d", *FLOWERS[0], *FLOWERS[1])
        request = client.request("ModelInfer", model_name="iris", raw_input_contents=[raw])
        request.inputs.add(name="x", datatype="FP64", shape=[2, 4])
        reply = client.call("ModelInfer", request)
        assert (reply.outputs[0].name, list(reply.outputs[0].shape)) == ("predict", [2])
        assert struct.unpack("<2q", reply.raw_output_contents[0]) == (0, 2)


def test_grpc_health_follows_the_models(jackfield, iris):
    with (
        serving(iris, command=jackfield) as served,
        grpc.insecure_channel(served.grpc) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        status = health_pb2.HealthCheckResponse

        def check(service: str) -> int:
            request = health_pb2.HealthCheckRequest(service=service)
            return stub.Check(request, timeout=TIMEOUT_S).status

        states = stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert check("") == check(SERVICE) == next(states).status == status.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            check("nobody")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

        httpx.post(f"{served.http}/v2/repository/models/iris/unload").raise_for_status()
        assert check("") == next(states).status == status.NOT_SERVING
        httpx.post(f"{served.http}/v2/repository/models/iris/load").raise_for_status()
        assert check("") == next(states).status == status.SERVING


# ---- Folders and settings ----


def test_a_folder_of_mlserver_is_served_as_it_lies_there(jackfield, trained, tmp_path):
    shutil.copy(trained, tmp_path / "mnist-svm.joblib")
    (tmp_path / "settings.json").write_text(json.dumps({"debug": "true"}))
    (tmp_path / "model-settings.json").write_text(json.dumps(MLSERVER_SETTINGS))
    with serving(tmp_path, command=jackfield) as served:
        port = served.http.rpartition(":")[2]
        answer = ask(f"http://127.0.0.1:{port}/v2/models/mnist-svm/versions/v0.1.0")
        assert (answer["model_name"], answer["model_version"]) == ("mnist-svm", "v0.1.0")
        # MLServer gives a column
        assert [output["shape"] for output in answer["outputs"]] == [[2, 1]]


def test_a_folder_with_server_settings_listens_everywhere_and_the_table_says_why(jackfield, iris):
    (iris.parent / "settings.json").write_text("{}")
    with serving(iris.parent, command=jackfield) as served:
        assert served.http.startswith("http://0.0.0.0:")
        assert served.grpc.startswith("0.0.0.0:")
        why = f"(0.0.0.0: MLServer's default, since {iris.parent / 'settings.json'} is there)"
        assert why in served.stdout


def test_a_folder_may_name_its_host_and_an_option_goes_before_it(jackfield, iris):
    settings = iris.parent / "settings.json"
    settings.write_text(json.dumps({"host": "127.0.0.2"}))
    with serving(iris.parent, command=jackfield) as served:
        assert served.http.startswith("http://127.0.0.2:")
        assert f"(127.0.0.2: {settings})" in served.stdout
    with serving(iris.parent, "--host", "127.0.0.1", command=jackfield) as served:
        assert served.http.startswith("http://127.0.0.1:")
        assert "(127.0.0.1: option --host)" in served.stdout


@pytest.fixture
def mixed(trained, tmp_path):
    """A good model beside a broken one."""
    shutil.copy(trained, write_model(tmp_path, "sklearn", name="good") / "model.joblib")
    (write_model(tmp_path, "sklearn", name="broken") / "model.joblib").write_bytes(b"no pickle")
    return tmp_path


def test_a_broken_model_does_not_keep_a_good_one_from_serving(jackfield, mixed):
    with serving(mixed, command=jackfield) as served:
        assert ask(f"{served.http}/v2/models/good")["outputs"][0]["data"] == [0, 2]
        ready = httpx.get(f"{served.http}/v2/health/ready", timeout=TIMEOUT_S)
        assert ready.status_code == 200
        broken = httpx.get(f"{served.http}/v2/models/broken", timeout=TIMEOUT_S)
        assert broken.status_code == 503
        assert "'broken' is not ready: failed to load" in broken.json()["error"]
        assert re.search(r"^broken +UNAVAILABLE +failed to load", served.stdout, re.M)


def test_strict_refuses_to_serve_beside_a_broken_model(jackfield, mixed):
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    done = run_jackfield("serve", mixed, "--strict", *ports, command=jackfield)
    assert done.returncode == 1
    assert "error: model 'broken': failed to load" in done.stderr
    assert "Traceback" not in done.stderr.rpartition("error: ")[2]


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port", "--metrics-port"])
def test_a_taken_port_ends_the_start_with_a_message(jackfield, iris, option):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        ports = {"--http-port": "0", "--grpc-port": "0", "--metrics-port": "0", option: taken}
        arguments = [part for pair in ports.items() for part in pair]
        done = run_jackfield("serve", iris, *arguments, command=jackfield)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"can't listen on 127.0.0.1:{taken}" in line
    assert f"choose another with {option}" in line
    assert "Traceback" not in done.stderr


def test_an_absent_path_is_refused(jackfield, tmp_path):
    done = run_jackfield("serve", tmp_path / "nothing", command=jackfield)
    assert (done.returncode, "there is no such file or folder" in done.stderr) == (1, True)


def test_several_workers_serve_a_file_as_one(jackfield, iris):
    with serving(iris, "--workers", "2", command=jackfield) as served:
        assert re.search(r"^2 +\d+ ", served.stdout, re.M), served.stdout  # worker, process
        # a connection each: they go to both
        for _ in range(8):
            assert ask(f"{served.http}/v2/models/iris")["outputs"][0]["data"] == [0, 2]
        index = httpx.post(f"{served.http}/v2/repository/index", json={}).json()
        assert [(each["name"], each["state"]) for each in index] == [("iris", "READY")]
        served.process.terminate()
        assert served.wait_stopped(timeout_s=TIMEOUT_S) == 0


def test_every_log_line_is_an_object_where_json_is_asked_for(jackfield, mixed):
    write_model(mixed, "faulty.Faulty", name="faulty", parameters={"extra": {"load": "raises"}})
    with serving(mixed, "--log-format", "json", command=jackfield) as served:
        served.process.terminate()
        assert served.wait_stopped(timeout_s=TIMEOUT_S) == 0
        lines = [json.loads(line) for line in served.stderr.splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    failures = {line["message"]: line for line in lines if line["level"] == "error"}
    assert any("model 'broken'" in message for message in failures)
    assert any("ValueError: a secret of load" in line.get("exception", "") for line in lines)
    assert lines[-1]["message"] == "stopped"


# ---- The other commands ----


def test_check_passes_a_good_model_and_fails_a_broken_one(jackfield, iris, mixed):
    done = run_jackfield("check", iris, command=jackfield)
    assert done.returncode == 0, done.stderr

    done = run_jackfield("check", mixed, "--json", command=jackfield)
    assert done.returncode == 1
    problems = {line["model"]: line["problem"] for line in json.loads(done.stdout)["models"]}
    assert problems["good"] == ""
    assert problems["broken"].startswith("failed to load: ")


def test_the_installed_plugin_is_listed(jackfield):
    done = run_jackfield("plugins", "--json", command=jackfield)
    (plugin,) = json.loads(done.stdout)
    assert (plugin["distribution"], plugin["problem"]) == ("jackfield-sklearn", None)
    assert [runtime["name"] for runtime in plugin["runtimes"]] == ["sklearn"]


def test_a_bare_environment_has_nothing_but_what_the_wheels_declare(environment):
    done = subprocess.run(
        [environment / "python", "-m", "pip", "check"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stdout
