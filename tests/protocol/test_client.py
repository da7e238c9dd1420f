"""Our client against `jackfield serve`, and against MLServer where one is installed."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris
from tests.serving import clean_environment, free_port, run_jackfield, wait_until

from jackfield import (
    Datatype,
    InferRequest,
    InvalidRequestError,
    RemoteError,
    RemoteNotFoundError,
    RemoteRequestError,
    RequestedOutput,
    Tensor,
)
from jackfield.client import AsyncClient, Client

MLSERVER = os.environ.get("JACKFIELD_MLSERVER_PYTHON", "")
FORMS = ("json", "binary", "grpc")
ARRAYS = [np.array([[1, 0]], each.dtype) for each in Datatype if each.dtype.kind != "O"]


def connected(form, http, grpc):
    return Client(f"grpc://{grpc}") if form == "grpc" else Client(http, form=form)


@pytest.fixture(params=FORMS)
def client(request, server):
    with connected(request.param, server.http, server.grpc) as client:
        yield client


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
def test_arrays_come_back_as_they_were(client, array):
    result = client.model("echo").infer(x=array, text=["é"])
    assert result["x"].dtype == array.dtype
    assert result["x"].tolist() == array.tolist()
    assert result["text"].tolist() == ["é".encode()]


def test_a_real_models_answer_is_arrays(client):
    data, target = load_iris(return_X_y=True)
    result = client.model("iris").infer(data, outputs=["predict", "predict_proba"])
    assert (result["predict"] == target).mean() > 0.9
    assert result["predict_proba"].shape == (150, 3)


def test_a_frame_becomes_the_matrix_that_the_model_takes(client):
    pd = pytest.importorskip("pandas")
    data, _ = load_iris(return_X_y=True)
    result = client.model("iris").infer(pd.DataFrame(data).astype("float32"))
    assert result.to_frame().shape == (150, 1)


def test_labels_of_a_classification_are_read(client):
    wanted = RequestedOutput("x", {"classification": 2})
    result = client.model("scores").infer([[1.0, 3.0, 2.0]], outputs=[wanted])
    assert [each.decode() for each in result["x"].flat] == ["3.0:1:dog", "2.0:2:ζ"]


def test_a_stream_ends_with_what_it_raises(client):
    model = client.model("counting")
    assert [result["k"].item() for result in model.stream([3])] == [0, 1, 2]
    stream = model.stream([3], parameters={"refuse_at": 1})
    assert next(stream)["k"] == [0]
    with pytest.raises(RemoteError, match="expected less, found 1"):
        next(stream)


async def test_asynchronous_calls_run_side_by_side(server):
    async with AsyncClient(f"grpc://{server.grpc}") as grpc, AsyncClient(server.http) as http:
        first = http.model("meeting").infer(
            [1], request_id="client-1", parameters={"waits_for": "client-2"}
        )
        second = grpc.model("meeting").infer([2], request_id="client-2")
        found = await asyncio.gather(first, second)
    assert [each["k"].item() for each in found] == [1, 2]


def test_what_is_wrong_is_told_here_or_there(client):
    with pytest.raises(InvalidRequestError, match=r"the shape \[-1, 2\], found \[1, 3\]"):
        client.model("one").infer([[1, 2, 3]])
    with pytest.raises(RemoteNotFoundError, match="irsi"):
        client.model("irsi").infer([[1]])
    with pytest.raises(RemoteRequestError, match="'y'"):
        client.model("echo").infer(x=[1], outputs=["y"])
    with pytest.raises(RemoteError, match="failed on this request"):
        client.model("failing").infer(x=[1])


def test_the_command_prints_a_table_or_json(server, tmp_path):
    file = tmp_path / "request.json"
    given = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2.5]}
    file.write_text(json.dumps({"id": "a", "inputs": [given]}))
    for url in (server.http, f"grpc://{server.grpc}"):
        arguments = ("infer", url, "--model", "echo", "--input", file)
        table = run_jackfield(*arguments)
        assert table.stdout.splitlines()[1].split() == ["x", "FP32", "[1,", "2]", "1.0,", "2.5"]
        answer = json.loads(run_jackfield(*arguments, "--json").stdout)
        assert (answer["id"], answer["outputs"]) == ("a", [given])
    missing = run_jackfield("infer", server.http, "--model", "ehco", "--input", file)
    assert missing.returncode == 1
    assert "did you mean 'echo'" in missing.stderr


# ---- MLServer ----

ECHO = """
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Echo(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        outputs = [ResponseOutput(**each.dict(exclude={"parameters"})) for each in payload.inputs]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)

    async def predict_stream(self, payloads):
        async for payload in payloads:
            for _ in range(2):
                yield await self.predict(payload)
"""


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory):
    if not MLSERVER:
        pytest.skip("JACKFIELD_MLSERVER_PYTHON names no MLServer")
    folder = tmp_path_factory.mktemp("mlserver")
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    # one process: a streaming model runs in no worker
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "gzip_enabled": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "echo.py").write_text(ECHO)
    takes = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    model = {"name": "echo", "implementation": "echo.Echo", "inputs": takes}
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [Path(MLSERVER).with_name("mlserver"), "start", folder]
    env = clean_environment(PYTHONPATH=str(folder))
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{ports['http_port']}"
    try:
        with Client(url) as client:
            wait_until(client.is_ready, f"MLServer: {log.read_text()}", timeout_s=60)
        yield url, f"127.0.0.1:{ports['grpc_port']}"
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(params=["auto", "grpc"])
def to_mlserver(request, mlserver):
    with connected(request.param, *mlserver) as client:
        yield client


def test_mlserver_answers_our_client(to_mlserver):
    assert to_mlserver.is_live()
    assert to_mlserver.server_metadata().name == "mlserver"
    model = to_mlserver.model("echo")
    assert model.is_ready()
    assert model.metadata().inputs[0].datatype is Datatype.FP32
    result = model.infer([[1, 2.5]])
    assert result["x"].dtype == np.float32
    assert result["x"].tolist() == [[1, 2.5]]
    assert [line.name for line in to_mlserver.index()] == ["echo"]
    assert [each["x"].tolist() for each in model.stream([[1, 2]])] == [[[1, 2]]] * 2


@pytest.mark.parametrize("array", [*ARRAYS, np.array(["é", "b"])], ids=lambda each: str(each.dtype))
def test_mlserver_gives_arrays_back(to_mlserver, array):
    request = InferRequest([Tensor.from_array("x", array)])
    found = to_mlserver.model("echo").infer(request)["x"]
    assert found.tolist() == request.inputs[0].array.tolist()


def test_mlservers_errors_have_their_kind(to_mlserver):
    with pytest.raises(RemoteNotFoundError, match="echoo"):
        to_mlserver.model("echoo").infer(x=[[1, 2]])
