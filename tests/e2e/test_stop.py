"""SIGTERM: requests in flight are answered, and nothing that hangs keeps the process alive."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.e2e.reflected import SERVICE, Reflected
from tests.serving import free_port, serving, wait_until, write_model

TIMEOUT_S = 60.0
EACH = 8
INPUT = {"name": "x", "shape": [2], "datatype": "INT64", "data": [3, 4]}


def ask_http(url: str, model: str, *, is_http2: bool = False) -> int:
    with httpx.Client(http1=not is_http2, http2=is_http2, timeout=TIMEOUT_S) as client:
        answer = client.post(f"{url}/v2/models/{model}/infer", json={"inputs": [INPUT]})
    assert answer.status_code != 200 or answer.json()["outputs"][0]["data"] == [3, 4]
    return answer.status_code


def ask_grpc(client: Reflected, model: str) -> str:
    request = client.request("ModelInfer", model_name=model)
    request.inputs.add(name="x", shape=[2], datatype="INT64").contents.int64_contents.extend([3, 4])
    try:
        reply = client.call("ModelInfer", request, timeout_s=TIMEOUT_S)
    except grpc.RpcError as error:
        return error.code().name
    return "OK" if len(reply.raw_output_contents[0]) == 16 else "wrong"


def readiness(url: str) -> int:
    """The status of the readiness route; 0 where nobody listens any more."""
    try:
        return httpx.get(f"{url}/v2/health/ready", timeout=TIMEOUT_S).status_code
    except httpx.TransportError:
        return 0


def in_progress(metrics: str, model: str) -> int:
    pattern = rf'^jackfield_infer_in_progress{{model="{model}",version=""}} (\S+)$'
    found = re.search(pattern, httpx.get(metrics, timeout=TIMEOUT_S).text, re.M)
    return int(float(found[1])) if found else 0


def open_gate(fifo: Path) -> int:
    """Let requests of the model `gate` pass while the file that is returned stays open."""

    def try_it() -> int | None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody waits at it yet
            return None

    return wait_until(try_it, "a request at the gate")


@pytest.fixture
def gate(tmp_path):
    folder = write_model(tmp_path, "gate.Gate", name="gate")
    os.mkfifo(folder / "gate")
    return folder / "gate"


@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
def test_requests_in_flight_are_answered_and_readiness_goes_first(jackfield, gate, http_server):
    options = ("--http-server", http_server)
    is_http2 = http_server == "hypercorn"
    with (
        serving(gate.parent, *options, command=jackfield) as served,
        Reflected(served.grpc) as client,
        grpc.insecure_channel(served.grpc) as channel,
        ThreadPoolExecutor(2 * EACH) as pool,
    ):
        url = served.http
        health = health_pb2_grpc.HealthStub(channel)
        states = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=TIMEOUT_S)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        assert readiness(url) == 200
        http = [pool.submit(ask_http, url, "gate", is_http2=is_http2) for _ in range(EACH)]
        grpc_ = [pool.submit(ask_grpc, client, "gate") for _ in range(EACH)]
        wait_until(lambda: in_progress(served.metrics, "gate") == 2 * EACH, "the requests")

        served.process.send_signal(signal.SIGTERM)
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # from here on it is not ready, and soon nobody listens; the requests still wait
        assert readiness(url) in (503, 0)
        wait_until(lambda: readiness(url) == 0, "the end of listening")
        assert not any(request.done() for request in (*http, *grpc_))

        opened = open_gate(gate)
        assert [request.result(TIMEOUT_S) for request in http] == [200] * EACH
        assert [request.result(TIMEOUT_S) for request in grpc_] == ["OK"] * EACH
        states.cancel()
        assert served.wait_stopped(timeout_s=10) == 0
        os.close(opened)


def test_sigint_stops_like_sigterm(jackfield, iris):
    with serving(iris, command=jackfield) as served:
        served.process.send_signal(signal.SIGINT)
        assert served.wait_stopped(timeout_s=10) == 0


@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
def test_who_only_watches_does_not_keep_the_server(jackfield, iris, http_server):
    """Health watches and idle connections are no requests."""
    with (
        serving(iris, "--http-server", http_server, command=jackfield) as served,
        grpc.insecure_channel(served.grpc) as channel,
        httpx.Client() as idle,
        httpx.Client(http1=False, http2=True) as idle_http2,
    ):
        clients = [idle, idle_http2] if http_server == "hypercorn" else [idle]
        for client in clients:
            assert client.get(f"{served.http}/v2/health/ready").status_code == 200
        health = health_pb2_grpc.HealthStub(channel)
        first, other = (
            health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S) for _ in range(2)
        )
        assert next(first).status == next(other).status == health_pb2.HealthCheckResponse.SERVING
        first.cancel()
        served.process.send_signal(signal.SIGTERM)
        assert served.wait_stopped(timeout_s=10) == 0
        states = [answer.status for answer in other]
        assert states == [health_pb2.HealthCheckResponse.NOT_SERVING]


@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
@pytest.mark.parametrize("method", ["infer", "close"])
def test_a_runtime_that_hangs_does_not_keep_the_process(jackfield, tmp_path, method, http_server):
    write_model(tmp_path, "faulty.Faulty", name="stuck", parameters={"extra": {method: "hangs"}})
    options = ("--drain-timeout-s", "1", "--http-server", http_server)
    with (
        serving(tmp_path, *options, command=jackfield) as served,
        Reflected(served.grpc) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        if method == "infer":
            requests = [
                pool.submit(ask_http, served.http, "stuck"),
                pool.submit(ask_grpc, client, "stuck"),
            ]
            wait_until(lambda: in_progress(served.metrics, "stuck") == 2, "the requests")
        started = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.wait_stopped(timeout_s=15) == 0
        assert time.monotonic() - started < 8
        if method == "infer":
            for request in requests:  # cut off, one way or the other; nobody waits for ever
                assert request.exception(TIMEOUT_S) or request.result() not in (200, "OK")


def test_a_model_that_never_ends_loading_does_not_keep_the_process(jackfield, tmp_path):
    write_model(tmp_path, "faulty.Faulty", name="slow", parameters={"extra": {"load": "hangs"}})
    port = str(free_port())
    options = ("--drain-timeout-s", "1", "--http-port", port)
    with serving(tmp_path, *options, command=jackfield, is_awaited=False) as served:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: readiness(url) == 503, "an answer")
        assert httpx.get(f"{url}/v2/health/live").status_code == 200
        assert httpx.get(f"{url}/v2/models/slow/ready").status_code == 503

        served.process.send_signal(signal.SIGTERM)
        assert served.wait_stopped(timeout_s=10) == 0
