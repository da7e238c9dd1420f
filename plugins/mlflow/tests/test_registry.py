"""Models of a real tracking server: SQLite, artifacts in a folder, served by their addresses.

The server has all of MLflow, which serving does without: an environment of its own, whose
interpreter the variable JACKFIELD_MLFLOW_PYTHON names.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from jackfield import ModelLoadError
from jackfield.testing import running

HERE = Path(__file__).parent
PYTHON = os.environ.get("JACKFIELD_MLFLOW_PYTHON", "")
beside_mlflow = pytest.mark.skipif(
    not PYTHON, reason="JACKFIELD_MLFLOW_PYTHON names no interpreter that has all of MLflow"
)
COLUMNS = ["alcohol", "malic_acid", "ash"]
#: How long a server that does not answer may be waited for, at most.
LONGEST_S = 90.0


def environment(**more):
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JACKFIELD_", "MLSERVER_", "MLFLOW_", "PYTHON"))
    }
    # MLflow's reports of its use go to a server on the Internet
    return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true", **more}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def process(*command, log, **more):
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(**more),
            cwd=log.parent,
        ) as started,
    ):
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()


def wait_for(url, started, log, *, timeout_s=120.0):
    """Ask until it answers with 200."""
    deadline = time.monotonic() + timeout_s
    while True:
        assert started.poll() is None, f"it ended: {log.read_text()}"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {url}: {log.read_text()}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """Run a tracking server; gives its address."""
    home = tmp_path_factory.mktemp("tracking")
    port, log = free_port(), home / "log"
    command = (PYTHON, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port))
    stores = ("--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--workers", "1")
    artifacts = ("--artifacts-destination", str(home / "artifacts"))
    with process(*command, *stores, *artifacts, log=log) as started:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/health", started, log)
        yield address


@pytest.fixture(scope="module")
def made(tracking):
    """Log and register models with the client that the plugin has."""
    run = subprocess.run(
        [sys.executable, str(HERE / "registry_models.py"), tracking],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Give the folder in which temporary ones are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def predict(at, name, rows):
    """Ask by the Open Inference Protocol, and by MLflow's at the root; give both answers."""
    columns = [
        {
            "name": column,
            "datatype": "FP64",
            "shape": [len(rows)],
            "data": [row[place] for row in rows],
        }
        for place, column in enumerate(COLUMNS)
    ]
    inferred = httpx.post(f"{at}/v2/models/{name}/infer", json={"inputs": columns})
    assert inferred.status_code == 200, inferred.text
    body = {"dataframe_split": {"columns": COLUMNS, "data": rows}}
    scored = httpx.post(f"{at}/invocations", json=body)
    assert scored.status_code == 200, scored.text
    return inferred.json()["outputs"][0]["data"], scored.json()["predictions"]


def write(folder, uri, **extra):
    folder.mkdir()
    settings = {
        "name": "served",
        "implementation": "mlflow",
        "parameters": {"uri": uri, "extra": extra},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    return folder


ADDRESSES = {
    "a version": ("models:/wine/2", "2"),
    "an alias": ("models:/wine@champion", "1"),
    "the newest": ("models:/wine/latest", "2"),
    "a logged model": ("models:/{model}", "1"),
    "a model of a run": ("runs:/{run}/model", "1"),
    "a folder of a run": ("runs:/{run}/files/saved", "1"),
}


@beside_mlflow
@pytest.mark.parametrize("what", ADDRESSES)
def test_an_address_of_the_settings_is_served(tracking, made, tmp_path, kept, what):
    text, version = ADDRESSES[what]
    uri = text.format(**made[version])
    folder = write(tmp_path / "model", uri, tracking_uri=tracking)
    with running(folder) as server:
        inferred, scored = predict(server.http, "served", made["rows"])
        assert inferred == scored == made[version]["answers"]
        told = httpx.get(f"{server.http}/v2/models/served").json()["parameters"]["mlflow"]
        assert told["source"] == uri
        assert list(kept.iterdir())
    # what was fetched goes with the model
    assert not list(kept.iterdir())


@beside_mlflow
def test_an_address_of_the_command_line_is_served(tracking, made, kept, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    with running("models:/wine@champion") as server:
        inferred, scored = predict(server.http, "wine", made["rows"])
        assert inferred == scored == made["1"]["answers"]


@beside_mlflow
def test_the_command_serves_an_address(tracking, made, tmp_path):
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    command = (sys.executable, "-m", "jackfield", "serve", "models:/wine/2", *ports)
    variables = {"MLFLOW_TRACKING_URI": tracking}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment(**variables), cwd=tmp_path
    ) as started:
        try:
            at = next(line.split()[1] for line in started.stdout if line.startswith("REST "))
            inferred, scored = predict(at, "wine", made["rows"])
        finally:
            started.terminate()
    assert inferred == scored == made["2"]["answers"]


@beside_mlflow
def test_a_registry_of_its_own_is_asked_for_models(tracking, made, tmp_path, load):
    options = {"tracking_uri": tracking, "registry_uri": tracking}
    runtime = load(None, uri="models:/wine@champion", **options)
    assert runtime.pyfunc.metadata.model_id == made["1"]["model"]
    with pytest.raises(ModelLoadError, match="models:/wine@champion"):
        # another registry, which has no such model
        load(
            None,
            uri="models:/wine@champion",
            tracking_uri=tracking,
            registry_uri=f"http://127.0.0.1:{free_port()}",
        )


@beside_mlflow
def test_an_alias_that_moved_is_followed_by_a_reload(tracking, made, tmp_path, kept):
    folder = write(tmp_path / "model", "models:/wine@moving", tracking_uri=tracking)
    client = MlflowClient(tracking_uri=tracking, registry_uri=tracking)
    client.set_registered_model_alias("wine", "moving", "1")
    with running(folder) as server:
        assert predict(server.http, "served", made["rows"])[0] == made["1"]["answers"]
        client.set_registered_model_alias("wine", "moving", "2")
        assert predict(server.http, "served", made["rows"])[0] == made["1"]["answers"]
        answer = httpx.post(f"{server.http}/v2/repository/models/served/load", timeout=60)
        assert answer.status_code == 200, answer.text
        assert predict(server.http, "served", made["rows"])[0] == made["2"]["answers"]
        told = httpx.get(f"{server.http}/v2/models/served").json()["parameters"]["mlflow"]
        assert told["version"] == "2"


@beside_mlflow
@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("models:/nobody/1", "nobody"),
        ("models:/wine/9", "9"),
        ("models:/wine/first", "first"),
        ("models:/wine@nobody", "nobody"),
        ("models:/wine", "models:/NAME/VERSION"),
        ("models:/m-0123456789abcdef0123456789abcdef", "m-0123456789abcdef0123456789abcdef"),
        ("runs:/0123456789abcdef0123456789abcdef/model", "0123456789abcdef0123456789abcdef"),
        ("runs:/{run}/nothing", "nothing"),
    ],
)
def test_an_address_of_nothing_is_told(tracking, made, load, kept, uri, told):
    uri = uri.format(**made["1"])
    with pytest.raises(ModelLoadError) as caught:
        load(None, uri=uri, tracking_uri=tracking)
    assert str(caught.value).startswith(f"'{uri}' can't be fetched: ")
    assert told in str(caught.value).partition("can't be fetched: ")[2]
    assert not list(kept.iterdir())


@beside_mlflow
def test_a_model_that_is_not_there_stops_no_other(tracking, made, tmp_path):
    write(tmp_path / "a", "models:/wine/9", tracking_uri=tracking)
    good = write(tmp_path / "b", "models:/wine/1", tracking_uri=tracking)
    settings = json.loads((good / "model-settings.json").read_text())
    (good / "model-settings.json").write_text(json.dumps({**settings, "name": "good"}))
    with running(tmp_path) as server:
        assert predict(server.http, "good", made["rows"])[0] == made["1"]["answers"]
        index = httpx.post(f"{server.http}/v2/repository/index", json={}).json()
        states = {each["name"]: (each["state"], each["reason"]) for each in index}
        assert states["good"] == ("READY", "")
        state, reason = states["served"]
        assert state == "UNAVAILABLE"
        assert "models:/wine/9" in reason


# ---- servers that are none: no full MLflow is needed ----


class Refusing(http.server.BaseHTTPRequestHandler):
    """Refuses everybody who shows credentials."""

    def do_GET(self):
        # some repeat what they refuse
        message = f"not you: {self.headers['Authorization']}"
        body = json.dumps({"error_code": "UNAUTHENTICATED", "message": message}).encode()
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts):
        """Say nothing."""


@pytest.fixture
def refusing():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def silent():
    """Listen, and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def fails(load, uri, **options):
    """Load in a thread, which may take only so long; gives the error's text."""
    told = queue.SimpleQueue()

    def run():
        try:
            load(None, uri=uri, **options)
        except Exception as error:  # noqa: BLE001  the test looks at it
            told.put(error)

    threading.Thread(target=run, daemon=True).start()
    error = told.get(timeout=LONGEST_S)
    assert isinstance(error, ModelLoadError), repr(error)
    return str(error)


@pytest.mark.parametrize("uri", ["models:/wine/1", "models:/wine@champion", "runs:/abc/model"])
def test_wrong_credentials_are_told_without_them(refusing, load, kept, caplog, capfd, uri):
    text = fails(load, uri, tracking_uri=f"http://somebody:secret1@127.0.0.1:{refusing}")
    assert text.startswith(f"'{uri}' can't be fetched: ")
    assert "not you" in text
    printed = "".join(capfd.readouterr())
    for each in ("secret1", "somebody", "c29tZWJvZHk6c2VjcmV0MQ=="):
        assert each not in text
        assert each not in caplog.text
        assert each not in printed


def test_a_token_is_not_told(refusing, load, kept, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret-token")
    text = fails(load, "models:/wine/1", tracking_uri=f"http://127.0.0.1:{refusing}")
    assert "not you" in text
    for each in (text, caplog.text, *capfd.readouterr()):
        assert "secret-token" not in each


def test_a_server_that_is_not_there_is_told_in_time(load, kept):
    address = f"http://somebody:secret1@127.0.0.1:{free_port()}"
    text = fails(load, "models:/wine@champion", tracking_uri=address)
    assert text.startswith("'models:/wine@champion' can't be fetched: ")
    assert "refused" in text
    assert "secret1" not in text


def test_a_server_that_never_answers_is_given_up_as_mlflow_is_told(load, kept, silent, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    text = fails(load, "models:/wine@champion", tracking_uri=f"http://127.0.0.1:{silent}")
    assert text.startswith("'models:/wine@champion' can't be fetched: ")
    assert "timed out" in text.lower()
    assert not list(kept.iterdir())
