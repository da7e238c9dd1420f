import asyncio
import re
import socket
import time

import httpx
import pytest

from jackfield import (
    InferRequest,
    ModelLoadError,
    ModelNotFoundError,
    Server,
    ServerSettings,
    SettingsError,
    Tensor,
)

GOOD = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}


pytestmark = pytest.mark.usefixtures("nothing_blocks_the_loop")


async def test_a_server_is_used_in_process_with_arrays(add_model):
    async with Server([add_model("double")], plugins=()) as server:
        request = InferRequest([Tensor.from_array("x", [[1, 2]])], id="a")
        response = await server.model("double").infer(request)
    assert response.output("y").array.tolist() == [[2, 4]]
    assert (response.model_name, response.model_version, response.id) == ("double", "", "a")
    with pytest.raises(KeyError):
        response.output("z")


async def test_two_servers_in_one_process_share_nothing(add_model, running):
    first_path, second_path = add_model("first"), add_model("second")
    async with running(first_path) as first, running(second_path) as second:
        async with first.client() as client:
            for _ in range(3):
                assert (await client.post("/v2/models/first/infer", json=GOOD)).status_code == 200
            assert (await client.post("/v2/models/second/infer", json=GOOD)).status_code == 404
        async with httpx.AsyncClient() as client:
            of_first = (await client.get(first.metrics)).text
            of_second = (await client.get(second.metrics)).text
    line = 'jackfield_infer_requests_total{model="first",outcome="success",version=""} 3.0'
    assert line in of_first
    assert 'model="first"' not in of_second
    assert 'model="second"' not in of_first


async def test_metrics_may_be_switched_off_or_moved(running, models_dir):
    async with running(models_dir, metrics_endpoint="") as run:
        assert run.metrics == ""
    async with running(models_dir, metrics_endpoint="/m") as run, httpx.AsyncClient() as client:
        assert run.metrics.endswith("/m")
        answer = await client.get(run.metrics)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
@pytest.mark.parametrize("name", ["http_port", "grpc_port", "metrics_port"])
async def test_a_port_that_is_taken_is_an_error_that_names_the_option(
    running, models_dir, name, http_server
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            async with running(models_dir, http_server=http_server, **{name: port}):
                pass
    assert caught.value.source == name
    assert f"can't listen on 127.0.0.1:{port}" in caught.value.problem
    assert f"choose another with --{name.replace('_', '-')}" in caught.value.problem


async def test_the_ports_are_free_again_after_one_was_taken(running, models_dir, unused_tcp_port):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError):
            async with running(models_dir, http_port=unused_tcp_port, grpc_port=port):
                pass
    with socket.create_server(("127.0.0.1", unused_tcp_port)):
        pass


async def test_strict_stops_a_server_whose_model_fails(add_model, running):
    with pytest.raises(ModelLoadError, match="the file is corrupt"):
        async with running(add_model("bad", "BrokenOnLoad"), strict=True):
            pass


async def test_a_name_for_several_models_stops_the_start(add_model, models_dir, running):
    add_model("a")
    add_model("b")
    with pytest.raises(SettingsError, match="several models are there: a, b"):
        async with running(models_dir, name="c"):
            pass


async def test_one_model_takes_the_name_given(add_model, running):
    async with running(add_model("a"), name="c") as run:
        run.server.model("c")
        with pytest.raises(ModelNotFoundError):
            run.server.model("a")


def test_a_path_that_is_not_there_is_refused_at_once(tmp_path):
    with pytest.raises(SettingsError, match="there is no such file or folder"):
        Server([tmp_path / "nowhere"], plugins=())


@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
async def test_stop_tells_readiness_first_and_answers_what_is_in_flight(
    add_model, running, stage, until, client_of, http_server
):
    folder = add_model("m", "Staged")
    async with running(folder, http_server=http_server) as run, run.client() as client:
        request = asyncio.create_task(client.post("/v2/models/m/infer", json=GOOD))
        await stage.until_inferring()
        run.stop.set()
        async with client_of(run.server) as inside:
            await until(lambda: run.server._stopping)
            answer = await inside.get("/v2/health/ready")
            assert (answer.status_code, answer.json()["error"]) == (503, "the server stops")
            assert (await inside.get("/v2/health/live")).status_code == 200
        assert not run.task.done()
        assert "close " not in stage.log
        stage.may_answer.set()
        answer = await request
        assert answer.status_code == 200
        await run.task
    assert stage.log[-1] == "close "


async def test_grpc_calls_in_flight_at_stop_are_answered(add_model, running, stage, call, until):
    from jackfield._wire.descriptors import ModelInferRequest

    message = ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="FP64", shape=[1]).contents.fp64_contents.append(1)
    async with running(add_model("m", "Staged")) as run, run.channel() as channel:
        request = asyncio.ensure_future(call(channel, "ModelInfer", message))
        await stage.until_inferring()
        run.stop.set()
        await until(lambda: run.server._stopping)
        stage.may_answer.set()
        assert (await request).model_name == "m"
        await run.task
    assert stage.log[-1] == "close "


@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
async def test_stop_ends_within_its_time_although_a_request_does_not(
    add_model, running, stage, http_server
):
    folder = add_model("m", "Staged")
    async with (
        asyncio.timeout(15),
        running(folder, http_server=http_server, drain_timeout_s=0.2) as run,
        run.client() as client,
    ):
        request = asyncio.create_task(client.post("/v2/models/m/infer", json=GOOD))
        await stage.until_inferring()
        run.stop.set()
        await run.task
        await asyncio.wait([request])
        stage.may_answer.set()
    assert isinstance(request.exception(), httpx.HTTPError) or request.result().status_code >= 500


async def test_a_server_told_to_stop_while_it_loads_stops(add_model, models_dir, stage):
    stage.may_load.clear()
    settings = ServerSettings(http_port=0, grpc_port=0, metrics_port=0)
    server = Server([add_model("m", "Staged")], plugins=(), settings=settings)
    stop = asyncio.Event()

    async def announce(addresses):
        raise AssertionError

    task = asyncio.create_task(server.run(stop, announce))
    await stage.until_loading()
    stop.set()
    await asyncio.sleep(0)
    stage.may_load.set()
    async with asyncio.timeout(5):
        await task


class Connection:
    """One connection, on which requests are sent by hand: no client opens another instead."""

    def __init__(self, run):
        host, port = run.http.removeprefix("http://").split(":")
        self._opening = asyncio.open_connection(host, int(port))

    async def __aenter__(self):
        self.reader, self._writer = await self._opening
        return self

    async def __aexit__(self, *_):
        self._writer.close()

    async def ask(self):
        self._writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: jackfield\r\n\r\n")
        head = await self.reader.readuntil(b"\r\n\r\n")
        await self.reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
        return head


@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
async def test_a_connection_without_requests_stays_open_as_long_as_is_set(
    add_model, running, http_server
):
    folder = add_model("double")
    async with (
        asyncio.timeout(15),
        running(folder, http_server=http_server, keep_alive_s=60) as long,
        running(folder, http_server=http_server, keep_alive_s=0.05) as short,
        Connection(long) as kept,
        Connection(short) as closed,
    ):
        for connection in (kept, closed):
            assert (await connection.ask()).startswith(b"HTTP/1.1 200")
        assert await closed.reader.read() == b""  # until the server closes it
        # idle for longer than that one was
        assert (await kept.ask()).startswith(b"HTTP/1.1 200")


def test_a_connection_outlives_those_of_clients_and_balancers():
    assert ServerSettings().keep_alive_s > 60  # the usual balancer's


@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
async def test_an_answer_does_not_wait_for_the_callers_next_packet(add_model, running, http_server):
    async with (
        running(add_model("double"), http_server=http_server) as run,
        run.client() as client,
    ):
        times_s = []
        # the system acknowledges the first packets of a connection at once
        for _ in range(40):
            started = time.perf_counter()
            await client.post("/v2/models/double/infer", json=GOOD)
            times_s.append(time.perf_counter() - started)
    # a delayed acknowledgement takes 0.04, each time
    assert min(times_s[20:]) < 0.03


async def test_idle_keep_alive_connections_do_not_hold_the_stop_up(add_model, running):
    async with asyncio.timeout(10), running(add_model("double")) as run:
        client = run.client()
        assert (await client.get("/v2/health/live")).status_code == 200
        run.stop.set()
        await run.task
        await client.aclose()


async def test_health_answers_while_models_load(add_model, stage, unused_tcp_port):
    stage.may_load.clear()
    settings = ServerSettings(http_port=unused_tcp_port, grpc_port=0, metrics_endpoint="")
    server = Server([add_model("m", "Staged")], plugins=(), settings=settings)
    stop, started = asyncio.Event(), asyncio.Event()

    async def announce(addresses):
        started.set()

    task = asyncio.create_task(server.run(stop, announce))
    await stage.until_loading()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_tcp_port}") as client:
        assert (await client.get("/v2/health/live")).status_code == 200
        answer = await client.get("/v2/health/ready")
        assert (answer.status_code, answer.json()["error"]) == (503, "models are loading")
        stage.may_load.set()
        await started.wait()
        assert (await client.get("/v2/health/ready")).status_code == 200
    stop.set()
    await task
