"""Whose time is over, and who leaves: told at once, not run in vain, and no harm to the others."""

import asyncio
import contextlib
import json
import time

import grpc
import numpy as np
import pytest

from jackfield import (
    DeadlineError,
    InferRequest,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    RuntimeFailedError,
    Server,
    Tensor,
)
from jackfield._wire.descriptors import METHODS, SERVICE, ModelInferRequest

KINDS = ["Rows", "AsyncRows", "Staged"]
#: Long enough to be in the queue before it is over, in seconds.
SHORT_S = 0.05
URL = "/v2/models/m/infer"


@pytest.fixture
def serve(add_model):
    @contextlib.asynccontextmanager
    async def serve(kind="Rows", **settings):
        where = {} if "Async" in kind else {"scheduler": "thread"}
        settings = {"max_concurrency": 1} | where | settings
        async with Server([add_model("m", kind, **settings)], plugins=()) as server:
            yield server.model("m")

    return serve


def row_of(number, **fields):
    return InferRequest([Tensor.from_array("x", [[float(number), 1.0]])], **fields)


def body_of(number, **fields):
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [number, 1]}
    return json.dumps({"inputs": [tensor], **fields}).encode()


def message_of(number, **fields):
    message = ModelInferRequest(model_name="m", **fields)
    tensor = message.inputs.add(name="x", datatype="FP64", shape=[1, 2])
    tensor.contents.fp64_contents.extend([number, 1])
    return message


def infer_over(channel, message, **options):
    method = METHODS["ModelInfer"]
    return channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=method.request.SerializeToString,
        response_deserializer=method.response.FromString,
    )(message, **options)


def ran(stage):
    """The first numbers of the rows that the runtime got, in all calls."""
    numbers = [n for call in stage.calls for n in call.inputs[0].array[:, 0].tolist()]
    return numbers + [float(line.split()[1]) for line in stage.log if line.startswith("infer")]


# ---- one budget ----


@pytest.mark.parametrize("kind", KINDS)
async def test_at_the_deadline_the_caller_is_told_although_the_runtime_computes(serve, stage, kind):
    async with serve(kind) as model:
        timed = row_of(1, parameters={"timeout": int(SHORT_S * 1e6)})
        with pytest.raises(DeadlineError, match=r"model 'm' did not answer within 0\.05 s"):
            await asyncio.wait_for(model.infer(timed), 10)
        await stage.until_inferring()  # it was run; the gate is shut still
        assert model.statistics.failures["deadline"] == 1
        assert model.statistics.in_flight == 0
        stage.may_answer.set()
        await asyncio.wait_for(model.infer(row_of(2)), 10)


@pytest.mark.parametrize("kind", KINDS)
async def test_who_expires_in_the_queue_is_never_run(serve, stage, until, kind):
    async with serve(kind) as model:
        running = asyncio.create_task(model.infer(row_of(1)))
        await stage.until_inferring()
        timed = row_of(2, parameters={"timeout": int(SHORT_S * 1e6)})
        tasks = [asyncio.create_task(model.infer(request)) for request in (timed, row_of(3))]
        with pytest.raises(DeadlineError):
            await asyncio.wait_for(tasks[0], 10)
        assert model.statistics.waiting == 1
        stage.may_answer.set()
        await asyncio.wait_for(asyncio.gather(running, tasks[1]), 10)
    assert ran(stage) == [1, 3]


async def test_who_expires_while_the_loop_computes_for_another_is_never_run(serve, stage):
    stage.may_answer.set()
    stage.busy_ms = 30
    async with serve("Moody", scheduler="direct", max_batch_size=1) as model:
        requests = [row_of(1), row_of(2, parameters={"timeout": 10_000})]
        calls = asyncio.gather(*map(model.infer, requests), return_exceptions=True)
        first, second = await asyncio.wait_for(calls, 10)
    assert first.arrays["y"].tolist() == [2]
    assert isinstance(second, DeadlineError)
    assert stage.log.count("MainThread") == 1


@pytest.mark.parametrize("timeout_us", [1, 10**3])
async def test_whose_time_is_over_on_arrival_is_never_run(serve, stage, timeout_us):
    """A shell took longer to decode it than its caller waits."""
    stage.may_answer.set()
    received = time.perf_counter_ns() - timeout_us * 1000
    async with serve() as model:
        with pytest.raises(DeadlineError):
            await model.infer(row_of(1, parameters={"timeout": timeout_us}, received_ns=received))
        assert model.statistics.failures["deadline"] == 1
    assert not stage.calls


async def test_none_is_asked_for_by_zero_and_a_long_one_harms_nobody(serve, stage):
    stage.may_answer.set()
    async with serve() as model:
        for timeout in (0, 60_000_000, 2**63, 2**64 - 1):
            await model.infer(row_of(1, parameters={"timeout": timeout}))
        assert model.statistics.success_count == 4


HEADERS = ["x-request-timeout-ms", "x-envoy-expected-rq-timeout-ms"]
BUDGETS = [
    *({"headers": {name: "50"}} for name in HEADERS),
    {"headers": {HEADERS[0]: "60000", HEADERS[1]: "50"}},
    {"headers": {HEADERS[0]: "50", HEADERS[1]: "60000"}},
    {"headers": {HEADERS[0]: "60000"}, "parameters": {"timeout": 50_000}},
    {"headers": {HEADERS[0]: "50"}, "parameters": {"timeout": 60_000_000}},
    {"headers": {HEADERS[0]: "0", HEADERS[1]: "50"}},
]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("path", ["infer", "generate"])
async def test_the_shortest_of_headers_and_parameter_is_the_rest_budget(
    serving, add_model, models_dir, stage, budget, path
):
    add_model("m", "Rows", scheduler="thread")
    body = body_of(1, parameters=budget.get("parameters", {}))
    async with serving(models_dir) as (server, rest, _):
        url = f"/v2/models/m/{path}"
        answer = await asyncio.wait_for(rest.post(url, content=body, headers=budget["headers"]), 10)
        assert answer.status_code == 504
        assert "did not answer within 0.05 s" in answer.json()["error"]
        assert "retry-after" not in answer.headers
        assert server.model("m").statistics.failures["deadline"] == 1
        stage.may_answer.set()


@pytest.mark.parametrize(
    ("timeout_s", "timeout_us"), [(SHORT_S, None), (60, 50_000), (SHORT_S, 60_000_000)]
)
async def test_the_shorter_of_grpcs_deadline_and_parameter_is_the_grpc_budget(
    serving, add_model, models_dir, stage, until, timeout_s, timeout_us
):
    add_model("m", "Rows", scheduler="thread")
    async with serving(models_dir) as (server, _, channel):
        running = infer_over(channel, message_of(1))
        await stage.until_inferring()
        message = message_of(2)
        if timeout_us:
            message.parameters["timeout"].int64_param = timeout_us
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer_over(channel, message, timeout=timeout_s)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        statistics = server.model("m").statistics
        # by the server's timer or by the caller who left at the same time, it is out of the queue
        await until(lambda: statistics.waiting == 0)
        await until(lambda: statistics.fail_count == 1)
        assert statistics.in_flight == 1
        stage.may_answer.set()
        await running
    assert ran(stage) == [1]


@pytest.mark.parametrize("value", [-1, True, 1.5, "1000", None, [1], {}])
async def test_a_timeout_that_is_none_is_refused_by_its_name(
    serving, add_model, models_dir, stage, value
):
    add_model("m", "Rows")
    async with serving(models_dir) as (server, rest, _):
        body = body_of(1, parameters={"timeout": value})
        answer = await rest.post(URL, content=body)
        assert answer.status_code == 400
        assert "parameters.timeout: expected an integer of 0 or more" in answer.json()["error"]
        assert server.model("m").statistics.failures["invalid"] == 1
    assert not stage.calls


@pytest.mark.parametrize("value", ["", "soon", "-1", "1.5", "5s", "1e3", " ", "9" * 5000, "٣"])
@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("path", ["infer", "generate"])
async def test_a_header_that_is_no_time_is_refused_by_its_name(
    serving, add_model, models_dir, stage, name, value, path
):
    add_model("m", "Rows")
    async with serving(models_dir) as (_, rest, _):
        headers = {name.encode(): value.encode()}
        answer = await rest.post(f"/v2/models/m/{path}", content=body_of(1), headers=headers)
        assert answer.status_code == 400
        assert f"{name.title()}: expected an integer" in answer.json()["error"]
        assert len(answer.content) < 500
    assert not stage.calls


@pytest.mark.parametrize("value", ["1", "9" * 20])
async def test_any_number_of_milliseconds_is_taken(serving, add_model, models_dir, stage, value):
    stage.may_answer.set()
    add_model("m", "Rows")
    async with serving(models_dir) as (_, rest, _):
        answer = await rest.post(URL, content=body_of(1), headers={HEADERS[0]: value})
        assert answer.status_code in ((200,) if len(value) > 1 else (200, 504))


@pytest.mark.parametrize(
    ("field", "value"), [("int64_param", -5), ("string_param", "5"), ("double_param", 5.0)]
)
async def test_a_timeout_that_is_none_is_refused_over_grpc(
    serving, add_model, models_dir, stage, field, value
):
    add_model("m", "Rows")
    message = message_of(1)
    setattr(message.parameters["timeout"], field, value)
    async with serving(models_dir) as (_, _, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer_over(channel, message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "parameters.timeout" in caught.value.details()


async def test_a_deadline_ends_a_wait_for_company(serve, stage):
    stage.may_answer.set()
    async with serve(max_batch_time=1000) as model:
        timed = row_of(1, parameters={"timeout": int(SHORT_S * 1e6)})
        with pytest.raises(DeadlineError):
            await asyncio.wait_for(model.infer(timed), 10)
    assert not stage.calls


# ---- who leaves ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turns", range(4))
async def test_a_request_may_be_cancelled_in_any_turn_of_the_loop(serve, stage, kind, turns):
    """Before it is in the queue, in it, as its batch starts, and after that."""
    async with serve(kind) as model:
        task = asyncio.create_task(model.infer(row_of(1)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.statistics.in_flight == 0
        assert model.statistics.waiting == 0
        stage.may_answer.set()
        # its slot is free again, and the model can be closed
        await asyncio.wait_for(model.infer(row_of(2)), 10)
        await asyncio.wait_for(model.close(), 10)


@pytest.mark.parametrize("kind", KINDS)
async def test_who_leaves_the_queue_or_a_batch_takes_nobody_along(serve, stage, until, kind):
    async with serve(kind) as model:
        running = asyncio.create_task(model.infer(row_of(0)))
        await stage.until_inferring()
        tasks = [asyncio.create_task(model.infer(row_of(n))) for n in range(1, 6)]
        await until(lambda: model.statistics.waiting == 5)
        for n in (1, 3):  # while they wait
            tasks[n].cancel()
        await asyncio.wait([tasks[1], tasks[3]])
        assert model.statistics.waiting == 3
        running.cancel()  # while it runs
        await asyncio.wait([running])
        stage.may_answer.set()
        results = await asyncio.wait_for(asyncio.gather(tasks[0], tasks[2], tasks[4]), 10)
        if kind != "Staged":
            assert [result.arrays["y"].tolist() for result in results] == [[2], [4], [6]]
        assert model.statistics.failures["cancelled"] == 3
        assert model.statistics.success_count == 3
        assert tasks[0].cancel() is False  # after the answer there is nothing to cancel
    assert not {2, 4} & {*ran(stage)}


@pytest.mark.parametrize("kind", ["Rows", "AsyncRows"])
async def test_who_leaves_a_batch_that_runs_does_not_end_it_for_the_others(
    serve, stage, until, kind
):
    async with serve(kind, max_batch_size=3, max_batch_time=1000) as model:
        tasks = [asyncio.create_task(model.infer(row_of(n))) for n in range(3)]
        await stage.until_inferring()
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        assert model.statistics.in_flight == 2
        stage.may_answer.set()
        results = await asyncio.wait_for(asyncio.gather(tasks[0], tasks[2]), 10)
    assert [result.arrays["y"].tolist() for result in results] == [[1], [3]]
    assert len(stage.calls) == 1


async def test_a_coroutine_that_all_have_left_is_cancelled(serve, stage, until):
    async with serve("AsyncRows", max_batch_size=2, max_batch_time=1000) as model:
        tasks = [asyncio.create_task(model.infer(row_of(n))) for n in range(2)]
        await stage.until_inferring()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.wait_for(model.close(), 10)  # though the gate is shut


async def open_request(address, body, path="infer"):
    """Send a request by hand."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v2/models/m/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


@pytest.mark.parametrize("http_server", ["uvicorn", "hypercorn"])
@pytest.mark.parametrize("kind", ["Rows", "AsyncRows"])
@pytest.mark.parametrize("path", ["infer", "generate"])
async def test_who_closes_the_connection_leaves_the_queue_and_the_batch(
    add_model, models_dir, running, stage, until, kind, http_server, path
):
    add_model("m", kind, max_concurrency=1)
    async with running(models_dir, http_server=http_server) as run, run.client() as client:
        statistics = run.server.model("m").statistics
        _, first = await open_request(run.http, body_of(1), path)
        await stage.until_inferring()
        staying = asyncio.create_task(client.post(URL, content=body_of(2)))
        _, second = await open_request(run.http, body_of(3), path)
        await until(lambda: statistics.waiting == 2)
        for writer in (second, first):
            writer.close()
        await until(lambda: statistics.failures["cancelled"] == 2)
        stage.may_answer.set()
        answer = await staying
        assert answer.json()["outputs"][0]["data"] == [3]
        assert statistics.in_flight == 0
    assert ran(stage) == [1, 2]


@pytest.mark.parametrize("kind", ["Rows", "AsyncRows"])
async def test_who_cancels_over_grpc_leaves_the_queue_and_the_batch(
    serving, add_model, models_dir, stage, until, kind
):
    add_model("m", kind, max_concurrency=1)
    async with serving(models_dir) as (server, _, channel):
        statistics = server.model("m").statistics
        first = infer_over(channel, message_of(1))
        await stage.until_inferring()
        staying = infer_over(channel, message_of(2))
        second = infer_over(channel, message_of(3))
        await until(lambda: statistics.waiting == 2)
        second.cancel()
        await until(lambda: statistics.failures["cancelled"] == 1)
        first.cancel()
        await until(lambda: statistics.failures["cancelled"] == 2)
        stage.may_answer.set()
        answer = await staying
        assert np.frombuffer(answer.raw_output_contents[0], "<f8").tolist() == [3]
        await until(lambda: statistics.in_flight == 0)
    assert ran(stage) == [1, 2]


async def test_an_answer_to_a_caller_who_stays_does_not_end_the_connection(
    add_model, models_dir, running, stage
):
    """Watching for a disconnect takes nothing from the next request on the same connection."""
    stage.may_answer.set()
    add_model("m", "Rows", scheduler="thread")
    async with running(models_dir) as run:
        reader, writer = await open_request(run.http, body_of(0))
        for number in range(1, 6):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            [output] = json.loads(await reader.readexactly(length))["outputs"]
            assert output["data"] == [number]
            body = body_of(number)
            head = f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
        writer.close()


# ---- what is counted ----


async def test_each_end_is_counted_as_what_it_is(serve, stage, caplog):
    # long enough for the calls that are in time, on a busy machine, too
    async with serve(max_queue=1, max_infer_time=0.5) as model:
        statistics = model.statistics

        async def fails(kind, request):
            with pytest.raises(kind):
                await asyncio.wait_for(model.infer(request), 10)

        running = asyncio.create_task(model.infer(row_of(1)))
        await stage.until_inferring()
        await fails(OverloadedError, row_of(2))
        with pytest.raises(DeadlineError):
            await running
        await fails(ModelNotReadyError, row_of(2))
        stage.may_answer.set()
        while model.problem:  # noqa: ASYNC110  what ends in the thread tells nobody
            await asyncio.sleep(0.001)
        await fails(InvalidRequestError, row_of(1, parameters={"timeout": "x"}))
        await fails(RuntimeFailedError, row_of(-1))
        leaving = asyncio.create_task(model.infer(row_of(1)))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        await model.infer(row_of(1))
        assert statistics.failures == {
            "failure": 1,
            "invalid": 1,
            "deadline": 1,
            "cancelled": 1,
            "unavailable": 1,
        }
        assert statistics.rejected_count == 1
        assert statistics.success_count == 1
        assert (statistics.in_flight, statistics.waiting) == (0, 0)
