"""A server inside another program: lifespans, in-process calls, the twin without a loop."""

import asyncio
import copy
import logging
import pickle
import signal
import threading
from pathlib import Path

import grpc.aio
import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from jackfield import (
    InferRequest,
    InvalidRequestError,
    ModelLoadError,
    ModelNotReadyError,
    RequestedOutput,
    RuntimeFailedError,
    Server,
    ServerNotReadyError,
    ServerSettings,
    Tensor,
)

GOOD = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}


class Lifespan:
    """The server's side of the lifespan protocol."""

    def __init__(self, app):
        self.inbox, self.sent = asyncio.Queue(), asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.task = asyncio.create_task(app(scope, self.inbox.get, self.sent.put))

    async def tell(self, phase):
        await self.inbox.put({"type": f"lifespan.{phase}"})
        async with asyncio.timeout(10):
            return await self.sent.get()


# ---- lifespans ----


async def test_a_server_that_is_the_app_starts_and_stops_by_the_lifespan_protocol(
    add_model, client_of
):
    server = Server([add_model("double")], plugins=())
    lifespan = Lifespan(server)
    assert await lifespan.tell("startup") == {"type": "lifespan.startup.complete"}
    async with client_of(server) as client:
        assert (await client.post("/v2/models/double/infer", json=GOOD)).status_code == 200
        assert await lifespan.tell("shutdown") == {"type": "lifespan.shutdown.complete"}
        await lifespan.task
        answer = await client.post("/v2/models/double/infer", json=GOOD)
        assert (answer.status_code, answer.json()["error"]) == (
            503,
            "model 'double' is not ready: the server stops",
        )


async def test_a_start_that_fails_is_told_by_the_lifespan_protocol(add_model):
    settings = ServerSettings(strict=True)
    server = Server([add_model("bad", "BrokenOnLoad")], plugins=(), settings=settings)
    lifespan = Lifespan(server)
    message = await lifespan.tell("startup")
    assert message["type"] == "lifespan.startup.failed"
    assert "the file is corrupt" in message["message"]
    with pytest.raises(ModelLoadError):
        await lifespan.task


async def test_a_start_that_is_cancelled_leaves_a_server_that_can_be_started(
    add_model, stage, until
):
    stage.may_load.clear()
    server = Server([add_model("m", "Staged")], plugins=())
    starting = asyncio.create_task(server.start())
    await stage.until_loading()
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    stage.may_load.set()
    await until(lambda: stage.log == ["load ", "close "])  # what came too late is freed
    async with server:
        assert server.model("m").name == "m"


async def test_a_mounted_server_answers_below_its_path(add_model, client_of):
    server = Server([add_model("double")], plugins=())
    app = Starlette(routes=[Mount("/ml", server)], lifespan=server.lifespan)
    lifespan = Lifespan(app)
    await lifespan.tell("startup")
    async with client_of(app) as client:
        assert (await client.post("/ml/v2/models/double/infer", json=GOOD)).status_code == 200
        answer = await client.get("/ml/nothing")
        expected = "there is nothing at '/ml/nothing'; the API starts at /ml/v2"
        assert answer.json()["error"] == expected
    await lifespan.tell("shutdown")


async def test_a_path_may_end_with_a_slash(add_model, client_of):
    async with Server([add_model("double")], plugins=()) as server, client_of(server) as client:
        assert (await client.post("/v2/models/double/infer/", json=GOOD)).status_code == 200
        assert (await client.get("/v2/nothing/")).status_code == 404
        assert (await client.get("//")).status_code == 404


async def test_a_forgotten_start_is_told_with_what_to_add(add_model, client_of, call):
    from jackfield._wire.descriptors import ModelInferRequest

    server = Server([add_model("double")], plugins=())
    with pytest.raises(ServerNotReadyError, match="enter 'async with server:'"):
        server.model("double")
    async with client_of(Starlette(routes=[Mount("/ml", server)])) as client:
        for answer in (
            await client.post("/ml/v2/models/double/infer", json=GOOD),
            await client.post("/ml/v2/models/double/generate", json=GOOD),
            await client.get("/ml/v2/models/double"),
            await client.get("/ml/v2/models/double/ready"),
            await client.get("/ml/v2/health/ready"),
            await client.post("/ml/v2/repository/models/double/load"),
        ):
            assert answer.status_code == 503
            assert "pass 'lifespan=server.lifespan' to the app" in answer.json()["error"]
        assert (await client.get("/ml/v2/health/live")).status_code == 200
    listener = grpc.aio.server()
    server.add_to_grpc(listener)
    port = listener.add_insecure_port("127.0.0.1:0")
    await listener.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=r"lifespan=server\.lifespan") as caught:
            await call(channel, "ModelInfer", ModelInferRequest(model_name="double"))
    await listener.stop(0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_second_start_is_refused_and_harms_nothing(add_model):
    async with Server([add_model("double")], plugins=()) as server:
        with pytest.raises(RuntimeError, match="started already"):
            await server.start()
        with pytest.raises(RuntimeError, match="started already"):
            await server.run(asyncio.Event(), lambda addresses: asyncio.sleep(0))
        assert (await server.model("double").infer(x=[1.0])).arrays["y"].tolist() == [2.0]


async def test_a_server_stops_though_what_it_announces_does_not_come_back(add_model):
    settings = ServerSettings(http_port=0, grpc_port=0, metrics_endpoint="")
    server = Server([add_model("double")], plugins=(), settings=settings)
    stop, is_announcing = asyncio.Event(), asyncio.Event()

    async def announce(addresses):
        is_announcing.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(server.run(stop, announce))
    async with asyncio.timeout(20):
        await is_announcing.wait()
        stop.set()
        await task


def test_a_server_starts_again_on_another_loop(add_model):
    server = Server([add_model("double")], plugins=(), settings=ServerSettings(shared_memory=True))

    async def use():
        async with server:
            assert (await server.model("double").infer(x=[1.0])).arrays["y"].tolist() == [2.0]
            assert server._problem() == ""
            assert server._regions.status() == []
            return server.metrics()[0]

    for _ in range(3):
        line = b'infer_requests_total{model="double",outcome="success",version=""} 1.0'
        assert line in asyncio.run(use())


def test_a_pickled_server_is_its_arguments(add_model):
    settings = ServerSettings(server_name="copied")
    server = Server([add_model("double")], plugins=(), settings=settings, name="renamed")
    for twin in (pickle.loads(pickle.dumps(server)), copy.copy(server)):
        assert twin.settings == settings
        with twin.sync() as running:
            assert running.model("renamed").name == "renamed"
    with pytest.raises(ServerNotReadyError):
        server.model("renamed")


def test_servers_on_loops_of_their_own_stay_apart(add_model):
    folders = {kind: add_model("m", kind, folder=kind) for kind in ("Double", "Echo")}
    expected = {"Double": ("y", [2.0]), "Echo": ("x", [1.0])}
    meeting = threading.Barrier(len(folders), timeout=20)
    found = {}

    async def use(kind):
        async with Server([folders[kind]], plugins=()) as server:
            await asyncio.to_thread(meeting.wait)  # both are up
            for _ in range(20):
                response = await server.model("m").infer(x=[1.0])
                (name, array), *_ = response.arrays.items()
                assert (name, array.tolist()) == expected[kind]
            found[kind] = server.metrics()[0].decode()
            await asyncio.to_thread(meeting.wait)

    threads = [threading.Thread(target=asyncio.run, args=(use(kind),)) for kind in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    line = 'jackfield_infer_requests_total{model="m",outcome="success",version=""} 20.0'
    assert [line in text for text in found.values()] == [True, True]


async def test_an_embedded_server_touches_neither_signals_nor_logging(add_model, client_of):
    def state():
        loggers = [logging.root, *(logging.getLogger(name) for name in sorted(names))]
        return (
            [signal.getsignal(number) for number in signal.valid_signals()],
            [(each.level, each.handlers[:], each.filters[:], each.propagate) for each in loggers],
        )

    names = {name for name in logging.root.manager.loggerDict if name.startswith("jackfield")}
    before = state()
    async with Server([add_model("double")], plugins=()) as server, client_of(server) as client:
        assert (await client.post("/v2/models/double/infer", json=GOOD)).status_code == 200
        during = state()
    assert before == during == state()


# ---- in process ----


async def test_infer_takes_arrays_by_name_and_gives_them_by_name(add_model):
    async with Server([add_model("double")], plugins=()) as server:
        model = server.model("double")
        response = await model.infer(x=np.array([1.5, 2.0]))
        assert list(response.arrays) == ["y"]
        assert response.arrays["y"].tolist() == [3.0, 4.0]
        assert model.statistics.success_count == 1
        request = InferRequest([Tensor.from_array("x", [1])])
        assert (await model.infer(request)).arrays["y"].tolist() == [2]


async def test_infer_takes_names_that_are_its_own_or_no_identifiers(add_model):
    async with Server([add_model("echo", "Echo")], plugins=()) as server:
        inputs = {"self": [1], "request": [2], "input-0": [3]}
        response = await server.model("echo").infer(**inputs)
    assert {name: array.tolist() for name, array in response.arrays.items()} == inputs


async def test_infer_takes_a_request_or_arrays_and_not_both_or_none(add_model):
    async with Server([add_model("double")], plugins=()) as server:
        model = server.model("double")
        with pytest.raises(TypeError, match="one request, or inputs by their names"):
            await model.infer()
        with pytest.raises(TypeError, match="one request, or inputs by their names"):
            await model.infer(InferRequest([Tensor.from_array("x", [1])]), x=[1])
        with pytest.raises(TypeError, match="no datatype for NumPy's 'complex128'"):
            await model.infer(x=[1j])
        assert model.statistics.in_flight == 0


async def test_stream_takes_arrays_by_name(add_model):
    async with Server([add_model("double")], plugins=()) as server:
        answers = [each async for each in server.model("double").stream(x=[1.0])]
    assert [answer.arrays["y"].tolist() for answer in answers] == [[2.0]]


TELLING = (
    Path(__file__).with_name("runtimes.py").read_text("utf-8")
    + """

class Telling(Double):
    async def stream(self, request):
        yield InferResponse([], {"done": 0.5})
        yield InferResponse([Tensor.from_array("more", [1]), *super().infer(request).outputs])


class Forgetful(Double):
    def infer(self, request):
        return InferResponse([Tensor.from_array("more", [1])])
"""
)


async def test_a_stream_tells_of_progress_before_what_is_asked_for(add_model):
    request = InferRequest([Tensor.from_array("x", [1.0])], [RequestedOutput("y")])
    async with Server([add_model("telling", "Telling", code=TELLING)], plugins=()) as server:
        answers = [each async for each in server.model("telling").stream(request)]
    assert [list(answer.arrays) for answer in answers] == [[], ["y"]]
    assert answers[0].parameters == {"done": 0.5}


async def test_an_output_that_a_runtime_forgets_is_told_to_the_log(add_model, caplog):
    request = InferRequest([Tensor.from_array("x", [1.0])], [RequestedOutput("y")])
    async with Server([add_model("f", "Forgetful", code=TELLING)], plugins=()) as server:
        with pytest.raises(RuntimeFailedError, match="the server's log tells why"):
            await server.model("f").infer(request)
    assert "promise the outputs ['y'], which it did not give" in caplog.text


# ---- the twin without a loop ----


def test_the_twin_waits_for_answers(add_model):
    with Server([add_model("double", version="2")], plugins=()).sync() as server:
        model = server.model("double")
        assert (model.name, model.version, model.metadata.platform) == (
            "double",
            "2",
            "test_double",
        )
        assert model.infer(x=[1.0]).arrays["y"].tolist() == [2.0]
        request = InferRequest([Tensor.from_array("x", [1.0])], id="a")
        assert model.infer(request).id == "a"
        assert [line.state for line in server.index()] == ["READY"]


async def test_the_twin_works_where_a_loop_runs(add_model):
    with Server([add_model("double", "AsyncDouble")], plugins=()).sync() as server:
        assert server.model("double").infer(x=[1.0]).arrays["y"].tolist() == [2.0]


def test_the_twin_is_started_and_stopped_by_hand_and_leaves_no_thread(add_model):
    server = Server([add_model("double")], plugins=()).sync()
    for _ in range(2):
        server.start()
        with pytest.raises(RuntimeError, match="started already"):
            server.start()
        assert server.model("double").infer(x=[1.0]).arrays["y"].tolist() == [2.0]
        server.stop()
        server.stop()
    assert "jackfield-sync" not in {thread.name for thread in threading.enumerate()}


def test_a_twin_that_does_not_run_says_so(add_model):
    twin = Server([add_model("double")], plugins=()).sync()
    with pytest.raises(ServerNotReadyError, match=r"enter 'with server\.sync"):
        twin.model("double")
    with twin as server:
        model = server.model("double")
    for use in (lambda: model.infer(x=[1.0]), lambda: next(model.stream(x=[1.0])), twin.index):
        with pytest.raises(ServerNotReadyError, match="does not run"):
            use()


def test_the_twin_raises_what_the_server_does(add_model):
    with Server(
        [add_model("bad", "BrokenOnLoad"), add_model("e", "Echo")], plugins=()
    ).sync() as it:
        with pytest.raises(ModelNotReadyError, match="the file is corrupt"):
            it.model("bad")
        with pytest.raises(TypeError, match="no datatype"):
            it.model("e").infer(x=[1j])
        with pytest.raises(InvalidRequestError, match="inputs: expected at least one, found none"):
            it.model("e").infer(InferRequest([]))
    strict = Server([add_model("worse", "BrokenOnLoad")], settings=ServerSettings(strict=True))
    with pytest.raises(ModelLoadError), strict.sync():
        pass


def test_many_threads_call_the_twin_at_once(add_model):
    with Server([add_model("double")], plugins=()).sync() as server:
        model = server.model("double")
        found = {}

        def ask(number):
            found[number] = [model.infer(x=[n]).arrays["y"][0] for n in range(number, number + 20)]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == {number: [2 * n for n in range(number, number + 20)] for number in range(8)}


def test_the_twin_stops_although_a_call_is_in_flight(add_model, stage):
    settings = ServerSettings(drain_timeout_s=0.1)
    twin = Server([add_model("m", "Staged")], plugins=(), settings=settings).sync()
    raised = []

    def ask(model):
        try:
            model.infer(x=[1.0])
        except BaseException as error:  # noqa: BLE001  whatever it is
            raised.append(error)

    with twin as server:
        thread = threading.Thread(target=ask, args=(server.model("m"),))
        thread.start()
        assert stage.inferring.acquire(timeout=10)
    thread.join(10)
    assert len(raised) == 1
    stage.may_answer.set()


COUNTING = """
import asyncio
from jackfield import InferResponse, ModelMetadata, Tensor


class Counting:
    def __init__(self, context):
        self.computed, self.is_closed = 0, False

    def load(self):
        pass

    def metadata(self):
        return ModelMetadata(platform="counting")

    async def infer(self, request):
        return InferResponse([Tensor.from_array("k", [self.computed, self.is_closed])])

    async def stream(self, request):
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(20):
                for number in range(3):
                    self.computed += 1
                    yield InferResponse([Tensor.from_array("k", [number])])
                    assert asyncio.current_task() is task
        finally:
            self.is_closed = True

    def close(self):
        pass
"""


def test_the_twin_streams_at_its_callers_pace_and_stops_when_left(add_model):
    folder = add_model("c", "Counting", code=COUNTING)
    with Server([folder], plugins=()).sync() as server:
        model = server.model("c")
        assert [each.arrays["k"][0] for each in model.stream(x=[0])] == [0, 1, 2]
        stream = model.stream(x=[0])
        next(stream)
        assert model.infer(x=[0]).arrays["k"][0] == 4
        stream.close()
        assert model.infer(x=[0]).arrays["k"][1] == 1


async def test_metrics_are_given_as_text_with_their_content_type(add_model):
    async with Server([add_model("double")], plugins=()) as server:
        await server.model("double").infer(x=[1.0])
        text, content_type = server.metrics()
    assert b"jackfield_infer_seconds_count" in text
    assert content_type.startswith("text/plain; version=")


@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
async def test_a_server_that_runs_is_started_once(add_model, running, http_server, stage):
    async with (
        running(add_model("m", "Staged"), http_server=http_server) as run,
        httpx.AsyncClient(base_url=run.http) as client,
    ):
        assert (await client.get("/v2/health/ready")).status_code == 200
    assert [line for line in stage.log if line.startswith("load")] == ["load "]
