"""What operators and callers see of a model beside its answers, wherever it runs."""

import asyncio
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import pytest
from tests.protocol.triton import TIMEOUT_S
from tests.serving import wait_until
from tritonclient.grpc import service_pb2, service_pb2_grpc

MODEL = "/v2/models/tallying"


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.http, timeout=TIMEOUT_S) as client:
        yield client


def ask(client: httpx.Client, rows: int, request_id: str = "a") -> list[int]:
    given = {"name": "x", "shape": [rows], "datatype": "FP64", "data": [0.5] * rows}
    sent = {"id": request_id, "inputs": [given]}
    answer = client.post(f"{MODEL}/infer", json=sent)
    assert answer.status_code == 200, answer.text
    assert answer.json()["id"] == request_id
    return answer.json()["outputs"][0]["data"]


def ask_grpc(address: str, rows: int) -> list[int]:
    message = service_pb2.ModelInferRequest(model_name="tallying")
    message.inputs.add(name="x", datatype="FP64", shape=[rows])
    message.raw_input_contents.append(np.zeros(rows).tobytes())
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        reply = stub.ModelInfer(message, timeout=TIMEOUT_S)
    return np.frombuffer(reply.raw_output_contents[0], np.int64).tolist()


def samples(server, name: str, **labels: str) -> float:
    """Add up the samples of the metrics page that have a name and some labels; 0 for none."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in httpx.get(server.metrics, timeout=TIMEOUT_S).text.splitlines()
        if re.match(rf"{name}[{{ ]", line) and all(each in line for each in wanted)
    )


def test_requests_are_merged_and_each_gets_its_rows(client, server):
    before = samples(server, "jackfield_batch_requests_sum", model="tallying")
    # it waits long for a second one, and no longer
    with ThreadPoolExecutor(2) as pool:
        rest = pool.submit(ask, client, 3, "rest")
        over_grpc = pool.submit(ask_grpc, server.grpc, 2)
        assert rest.result(TIMEOUT_S) == [5, 5, 5]
        assert over_grpc.result(TIMEOUT_S) == [5, 5]
    assert samples(server, "jackfield_batch_requests_sum", model="tallying") == before + 2


def pair(client: httpx.Client, rows: int) -> None:
    """Have rows computed by two requests that are merged."""
    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(ask, client, part) for part in (1, rows - 1)]:
            assert set(each.result(TIMEOUT_S)) == {rows}


def test_what_a_model_counts_is_on_the_page_with_its_name(client, server):
    def counted() -> float:
        return samples(server, "rows_tallied_total", model="tallying", size="large")

    before = counted()
    asked = samples(server, "jackfield_infer_requests_total", model="tallying", outcome="success")
    pair(client, 12)
    # a model in a host tells it soon, not at once
    wait_until(lambda: counted() == before + 12, "the model's own count")
    found = samples(server, "jackfield_infer_requests_total", model="tallying", outcome="success")
    assert found == asked + 2


def test_what_a_model_logs_is_in_the_servers_log_with_its_name(client, server):
    pair(client, 7)
    wait_until(lambda: "tallied 7 rows" in server.stderr, "the model's log")
    [line] = [each for each in server.stderr.splitlines() if "tallied 7 rows" in each]
    assert "WARNING" in line
    assert "tallying" in line


def test_the_trace_of_a_failure_is_in_the_servers_log_alone(client, server):
    sent = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}]}
    answer = client.post("/v2/models/failing/infer", json=sent)
    assert "secret" not in answer.text
    assert wait_until(lambda: "a secret of infer" in server.stderr, "the trace")
    assert "faulty.py" in server.stderr


def test_a_model_answers_at_its_own_paths(client):
    before = client.get(f"{MODEL}/tally").json()["rows"]
    pair(client, 4)
    answer = client.get(f"{MODEL}/tally")
    assert (answer.status_code, answer.json()) == (200, {"rows": before + 4})
    assert client.post(f"{MODEL}/tally").status_code == 405

    given = {"name": "y", "shape": [1], "datatype": "BYTES", "data": ["é"]}
    answer = client.post(f"{MODEL}/same", json={"inputs": [given]})
    assert answer.json()["outputs"] == [given]
    answer = client.post(f"{MODEL}/same", json={"inputs": [given | {"name": "x"}]})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("model 'tallying': inputs: ")


@pytest.mark.parametrize("is_grpc", [False, True], ids=["http", "grpc"])
async def test_a_deadline_ends_the_call_and_the_model(server, repository, is_grpc):
    fifo = os.open(repository / "endless" / "cancelled", os.O_RDWR)
    name = "late over " + ("grpc" if is_grpc else "http")
    try:
        if is_grpc:
            message = service_pb2.ModelInferRequest(model_name="endless", id=name)
            message.inputs.add(name="n", datatype="INT64", shape=[1])
            message.raw_input_contents.append(bytes(8))
            async with grpc.aio.insecure_channel(server.grpc) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ModelInfer(message, timeout=0.5)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            given = {"name": "n", "shape": [1], "datatype": "INT64", "data": [1]}
            async with httpx.AsyncClient(base_url=server.http, timeout=TIMEOUT_S) as client:
                answer = await client.post(
                    "/v2/models/endless/infer",
                    content=json.dumps({"id": name, "inputs": [given]}),
                    headers={"x-request-timeout-ms": "500"},
                )
            assert answer.status_code == 504
            assert answer.json() == {"error": "model 'endless' did not answer within 0.5 s"}
        told = ""
        async with asyncio.timeout(TIMEOUT_S):
            while told.count("\n") < 2:
                told += (await asyncio.to_thread(os.read, fifo, 1000)).decode()
        assert told.splitlines() == [f"running {name}", f"cancelled {name}"]
    finally:
        os.close(fifo)
