"""Too much at once: everybody is answered, and the server is sound afterwards."""

import asyncio
import json
import os
import resource
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import numpy as np
import pytest
from tests.e2e.reflected import Reflected
from tests.e2e.test_stop import gate, open_gate  # noqa: F401  a fixture
from tests.serving import serving, wait_until, write_model

CONNECTIONS = 10_000
#: What the processes need beside the connections.
OTHER_FILES = 500
#: Fewer would show nothing.
LEAST_CONNECTIONS = 1_000
MAX_QUEUE = 100
TIMEOUT_S = 25.0
INPUT = {"name": "x", "shape": [2], "datatype": "INT64", "data": [3, 4]}


@pytest.fixture
def connections():
    """Raise this process's limit of open files, which the server inherits.

    Where the system allows fewer files than 10,000 connections take, as many are opened as it
    allows; below 1,000 the test is skipped.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed - OTHER_FILES < LEAST_CONNECTIONS:
        pytest.skip(f"the system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    yield allowed - OTHER_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def request_bytes(model: str, body: bytes) -> bytes:
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def test_10_000_connections_at_once_are_each_answered(jackfield, gate, connections):  # noqa: F811
    (gate.parent / "model-settings.json").write_text(
        json.dumps({"name": "gate", "implementation": "gate.Gate", "max_queue": MAX_QUEUE})
    )
    answers: list[tuple[int, dict[str, str], bytes]] = []
    refused = connections - MAX_QUEUE

    async def ask(port: int, request: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            answers.append(await read_answer(reader))
            if len(answers) == refused:
                all_refused.set()
        finally:
            writer.close()

    async def storm(port: int) -> None:
        request = request_bytes("gate", json.dumps({"inputs": [INPUT]}).encode())
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(ask(port, request))
            # the gate is shut: none but the refused can have an answer
            await all_refused.wait()
            assert {status for status, _, _ in answers} == {429}
            opened.append(open_gate(gate))

    opened: list[int] = []
    all_refused = asyncio.Event()
    with serving(gate.parent, command=jackfield) as served:
        asyncio.run(storm(int(served.http.rpartition(":")[2])))
        try:
            statuses = [status for status, _, _ in answers]
            assert (statuses.count(429), statuses.count(200)) == (refused, MAX_QUEUE)
            for status, headers, body in answers:
                if status == 429:
                    assert int(headers["retry-after"]) >= 1
                    assert "overloaded" in json.loads(body)["error"]
                else:
                    assert json.loads(body)["outputs"][0]["data"] == [3, 4]
            with httpx.Client(base_url=served.http, timeout=TIMEOUT_S) as client:
                assert client.get("/v2/health/ready").status_code == 200
                assert client.get("/v2/models/gate/ready").status_code == 200
                answer = client.post("/v2/models/gate/infer", json={"inputs": [INPUT]})
                assert answer.status_code == 200
            text = httpx.get(served.metrics).text
            assert 'jackfield_infer_in_progress{model="gate",version=""} 0.0' in text
        finally:
            for each in opened:
                os.close(each)
        served.process.send_signal(signal.SIGTERM)
        assert served.wait_stopped(timeout_s=10) == 0


def test_who_reads_slowly_holds_up_nobody(jackfield, tmp_path):
    """Twenty callers ask for megabytes and leave them unread while others are answered."""
    write_model(tmp_path, "echo.Echo", name="echo")
    values = np.arange(1_000_000, dtype="<f8")
    head = {"name": "x", "shape": [len(values)], "datatype": "FP64"}
    head["parameters"] = {"binary_data_size": values.nbytes}
    text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
    body = text + values.tobytes()
    lines = (
        "POST /v2/models/echo/infer HTTP/1.1",
        "host: x",
        f"inference-header-content-length: {len(text)}",
        f"content-length: {len(body)}",
    )
    request = "\r\n".join((*lines, "", "")).encode() + body
    with serving(tmp_path, command=jackfield) as served:
        host, _, port = served.http.removeprefix("http://").rpartition(":")
        slow = []
        for _ in range(20):
            # small before it connects: the system's buffers take little of the answer
            each = socket.socket()
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            each.settimeout(TIMEOUT_S)
            each.connect((host, int(port)))
            each.sendall(request)
            slow.append(each)
        try:
            with httpx.Client(base_url=served.http, timeout=TIMEOUT_S) as client:

                def answered() -> int:
                    (stats,) = client.get("/v2/models/echo/stats").json()["model_stats"]
                    return int(stats["inference_stats"]["success"]["count"])

                wait_until(lambda: answered() == len(slow), "the answers that nobody reads")
                for _ in range(100):
                    answer = client.post("/v2/models/echo/infer", json={"inputs": [INPUT]})
                    assert answer.json()["outputs"][0]["data"] == [3, 4]
            with slow[0].makefile("rb") as answer:  # and who reads in the end has it all
                while (line := answer.readline()) != b"\r\n":
                    assert line
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                assert answer.read(length).endswith(values.tobytes())
        finally:
            for each in slow:
                each.close()


def test_a_reload_in_the_middle_of_load_fails_no_call(jackfield, tmp_path):
    """Over REST and gRPC, each request with its own answer."""
    write_model(tmp_path, "echo.Echo", name="echo")
    is_over = Event()

    async def load_rest(client: httpx.AsyncClient, caller: int, reloads: asyncio.Event) -> int:
        count = 0
        while not reloads.is_set():
            tensor = {**INPUT, "data": [caller, count]}
            body = {"inputs": [tensor], "id": f"{caller} {count}"}
            answer = await client.post("/v2/models/echo/infer", json=body)
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert (told["id"], told["outputs"][0]["data"]) == (body["id"], tensor["data"])
            count += 1
        return count

    def load_grpc(client: Reflected, caller: int) -> int:
        count = 0
        while not is_over.is_set():
            request = client.request("ModelInfer", model_name="echo", id=f"{caller} {count}")
            tensor = request.inputs.add(name="x", shape=[2], datatype="INT64")
            tensor.contents.int64_contents.extend([caller, count])
            answer = client.call("ModelInfer", request, timeout_s=TIMEOUT_S)
            assert answer.id == request.id
            data = np.frombuffer(answer.raw_output_contents[0], "<i8").tolist()
            assert data == [caller, count]
            count += 1
        return count

    async def run(url: str) -> list[int]:
        reloads = asyncio.Event()
        async with (
            asyncio.timeout(TIMEOUT_S),
            httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as client,
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(load_rest(client, n, reloads)) for n in range(16)]
            for _ in range(20):
                answer = await client.post("/v2/repository/models/echo/load")
                assert answer.status_code == 200, answer.text
            reloads.set()
        return [task.result() for task in tasks]

    with (
        serving(tmp_path, command=jackfield) as served,
        Reflected(served.grpc) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        calls = [pool.submit(load_grpc, client, caller) for caller in range(4)]
        try:
            counts = asyncio.run(run(served.http))
        finally:
            is_over.set()
        counts += [call.result(TIMEOUT_S) for call in calls]
        assert all(counts), "somebody was never answered"
        pattern = 'jackfield_model_loads_total{model="echo"'
        loads = [line for line in httpx.get(served.metrics).text.splitlines() if pattern in line]
        assert any(line.endswith(" 21.0") for line in loads), loads


def test_a_stuck_model_says_so_and_does_not_keep_the_server(jackfield, tmp_path):
    settings = {"max_infer_time": 0.2, "parameters": {"extra": {"infer": "hangs"}}}
    write_model(tmp_path, "faulty.Faulty", name="stuck", **settings)
    write_model(tmp_path, "echo.Echo", name="echo")
    with (
        serving(tmp_path, "--drain-timeout-s", "1", command=jackfield) as served,
        httpx.Client(base_url=served.http, timeout=TIMEOUT_S) as client,
    ):
        body = {"inputs": [INPUT]}
        assert client.post("/v2/models/stuck/infer", json=body).status_code == 504
        ready = client.get("/v2/models/stuck/ready")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "infer has not returned for 0.2 s" in ready.json()["error"]
        assert client.post("/v2/models/stuck/infer", json=body).status_code == 503
        assert client.post("/v2/models/echo/infer", json=body).status_code == 200
        # a reload leaves the old one behind, stuck as it is; the server has to end without both
        assert client.post("/v2/repository/models/stuck/load").status_code == 200
        assert client.get("/v2/models/stuck/ready").status_code == 200
        assert client.post("/v2/models/stuck/infer", json=body).status_code == 504
        served.process.send_signal(signal.SIGTERM)
        assert served.wait_stopped(timeout_s=10) == 0
