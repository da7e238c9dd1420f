"""Batches as a caller sees them: who shares a call of the runtime, and in which order."""

import asyncio
import contextlib
import logging
from pathlib import Path

import numpy as np
import pytest

from jackfield import (
    InferRequest,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    RequestedOutput,
    RuntimeFailedError,
    Server,
    Tensor,
)
from jackfield._wire.descriptors import ModelInferRequest

RUNTIMES = Path(__file__).with_name("runtimes.py").read_text()


@pytest.fixture
def serve(add_model):
    """Serve one model in process; its calls are long, as far as it knows, unless told else."""

    @contextlib.asynccontextmanager
    async def serve(kind="Rows", *, code=None, **settings):
        settings = {"scheduler": "auto" if "Async" in kind else "thread"} | settings
        async with Server([add_model("m", kind, code=code, **settings)], plugins=()) as server:
            yield server.model("m")

    return serve


def rows_of(*values, width=2, dtype="f8", name="x", **fields):
    """Make a request of some rows; the first number of each is given, the others are 1."""
    array = np.ones((len(values), width), dtype)
    array[:, 0] = values
    return InferRequest([Tensor.from_array(name, array)], **fields)


def sums_of(request):
    return request.inputs[0].array.sum(axis=-1).tolist()


@pytest.fixture
def crowd(stage, until):
    """Let requests wait behind one that runs, then let all run; gives what each got."""

    async def crowd(model, requests, *, first=None):
        stage.calls.clear()
        running = asyncio.create_task(model.infer(first or rows_of(0)))
        await stage.until_inferring()
        tasks = []
        for request in requests:  # one by one: their order is the queue's
            tasks.append(asyncio.create_task(model.infer(request)))
            await until(lambda: model.statistics.waiting == len(tasks))
        stage.may_answer.set()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        await running
        del stage.calls[:1]
        return results

    return crowd


def firsts(stage):
    """Tell each call of the runtime by the first numbers of its rows."""
    return [call.inputs[0].array[:, 0].tolist() for call in stage.calls]


# ---- who shares a call ----


@pytest.mark.parametrize(("kind", "more"), [("Rows", {}), ("AsyncRows", {"max_concurrency": 1})])
async def test_what_waits_goes_as_one_batch_and_each_gets_its_own(serve, stage, crowd, kind, more):
    requests = [rows_of(*range(n), id=f"id {n}") for n in range(1, 9)]
    async with serve(kind, **more) as model:
        answers = await crowd(model, requests)
    [call] = stage.calls
    assert call.inputs[0].shape == (36, 2)
    assert not call.inputs[0].array.flags.writeable
    for request, answer in zip(requests, answers, strict=True):
        assert answer.id == request.id
        assert answer.arrays["y"].tolist() == sums_of(request)
        assert (answer.timing.rows, answer.timing.requests) == (36, 8)
    assert model.statistics.inference_count == 37
    assert (model.statistics.execution_count, model.statistics.success_count) == (2, 9)


async def test_one_window_of_all_sorts_makes_a_batch_of_each_sort(serve, stage, crowd):
    sorts = [
        {},
        {"width": 3},
        {"dtype": "f4"},
        {"dtype": "i8"},
        {"name": "other"},
        {"parameters": {"p": 1}},
        {"parameters": {"p": True}},
        {"outputs": [RequestedOutput("y")]},
    ]
    requests = [
        rows_of(10 * sort + number, id=f"{sort} {number}", **sorts[sort])
        for number in range(3)
        for sort in range(len(sorts))
    ]
    async with serve() as model:
        answers = await crowd(model, requests)
    assert firsts(stage) == [[10 * sort + n for n in range(3)] for sort in range(len(sorts))]
    for request, answer in zip(requests, answers, strict=True):
        assert answer.id == request.id
        assert answer.arrays["y"].tolist() == sums_of(request)
        assert answer.parameters == request.parameters
        assert answer.timing.requests == 3


async def test_time_and_priority_are_no_reason_to_stay_apart(serve, stage, crowd):
    requests = [
        rows_of(1, parameters={"p": 1, "timeout": 10**9}),
        rows_of(2, parameters={"priority": 7, "p": 1}),
    ]
    async with serve() as model:
        answers = await crowd(model, requests)
    assert firsts(stage) == [[1, 2]]
    assert [answer.parameters for answer in answers] == [{"p": 1}] * 2


async def test_a_single_row_without_its_dimension_stays_alone(serve, stage, crowd):
    single = InferRequest([Tensor.from_array("x", [3.0, 4.0])])
    async with serve() as model:
        answers = await crowd(model, [single, single, rows_of(1), rows_of(2)])
    assert [call.inputs[0].shape for call in stage.calls] == [(2,), (2,), (2, 2)]
    assert [answer.arrays["y"].tolist() for answer in answers] == [7, 7, [2], [3]]


@pytest.mark.parametrize("scheduler", ["auto", "thread", "direct"])
async def test_no_rows_at_all_are_answered_alone_and_harm_nobody(serve, stage, crowd, scheduler):
    stage.may_answer.set()
    async with serve(scheduler=scheduler) as model:
        for _ in range(4):  # nothing but such requests: the model learns its cost by them
            answer = await asyncio.wait_for(model.infer(rows_of()), 10)
            assert answer.arrays["y"].shape == (0,)
        assert (await model.infer(rows_of(1, 2))).arrays["y"].tolist() == [2, 3]


async def test_a_model_that_does_not_say_its_rows_are_independent_is_given_single_requests(
    serve, stage, crowd
):
    async with serve("Staged") as model:
        await crowd(model, [rows_of(1), rows_of(2)])
    assert [line for line in stage.log if line.startswith("infer")] == [
        f"infer {n}" for n in range(3)
    ]


@pytest.mark.parametrize("shell", ["rest", "grpc"])
async def test_requests_of_a_model_that_reads_headers_stay_apart(
    add_model, models_dir, running, call, stage, until, shell
):
    add_model("m", "HeaderRows", scheduler="thread")
    message = ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="FP64", shape=[1, 1]).contents.fp64_contents.append(1)
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1]}

    async with running(models_dir) as run, run.client() as client, run.channel() as channel:

        async def ask(user):
            if shell == "rest":
                answer = await client.post(
                    "/v2/models/m/infer", json={"inputs": [tensor]}, headers={"x-user": user}
                )
                return answer.json()["parameters"]["user"]
            infer = call_with_metadata(channel, [("x-user", user)])
            return (await infer(message)).parameters["user"].string_param

        tasks = [asyncio.create_task(ask("first"))]
        await stage.until_inferring()
        tasks += [asyncio.create_task(ask(user)) for user in ("a", "b", "a", "c")]
        statistics = run.server.model("m").statistics
        await until(lambda: statistics.waiting == 4)
        stage.may_answer.set()
        assert await asyncio.gather(*tasks) == ["first", "a", "b", "a", "c"]
    users = [each.parameters["headers"]["x-user"] for each in stage.calls[1:]]
    assert sorted(set(users)) == ["a", "b", "c"]


def call_with_metadata(channel, metadata):
    from jackfield._wire.descriptors import METHODS, SERVICE

    method = METHODS["ModelInfer"]
    infer = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=method.request.SerializeToString,
        response_deserializer=method.response.FromString,
    )
    return lambda message: infer(message, metadata=metadata)


async def test_no_answer_is_anothers_over_both_shells(add_model, models_dir, running, call, stage):
    add_model("m", "Rows")
    stage.may_answer.set()

    async with running(models_dir) as run, run.client() as client, run.channel() as channel:

        async def rest(number):
            tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [number, 0.5]}
            body = {"id": f"id {number}", "inputs": [tensor]}
            answer = (await client.post("/v2/models/m/infer", json=body)).json()
            return answer["id"], answer["outputs"][0]["data"]

        async def grpc(number):
            message = ModelInferRequest(model_name="m", id=f"id {number}")
            tensor = message.inputs.add(name="x", datatype="FP64", shape=[1, 2])
            tensor.contents.fp64_contents.extend([number, 0.5])
            answer = await call(channel, "ModelInfer", message)
            return answer.id, np.frombuffer(answer.raw_output_contents[0], "<f8").tolist()

        asked = range(200)
        answers = await asyncio.gather(*((rest, grpc)[n % 2](n) for n in asked))
    assert answers == [(f"id {number}", [number + 0.5]) for number in asked]
    assert len(stage.calls) < 200, "none was merged"


# ---- bounds ----


@pytest.mark.parametrize(
    ("bound", "batches"),
    [
        ({"max_batch_size": 1}, [[1], [2], [3], [4], [5]]),
        ({"max_batch_size": 2}, [[1, 2], [3, 4], [5]]),
        ({"max_batch_size": 0}, [[1, 2, 3, 4, 5]]),
        ({"max_batch_rows": 3}, [[1, 2, 3], [4, 5]]),
        ({"max_batch_rows": 4, "max_batch_size": 3}, [[1, 2, 3], [4, 5]]),
    ],
)
async def test_bounds_in_requests_and_in_rows(serve, stage, crowd, bound, batches):
    async with serve(**bound) as model:
        await crowd(model, [rows_of(number) for number in range(1, 6)])
    assert firsts(stage) == batches


async def test_one_request_may_have_more_rows_than_a_batch(serve, stage, crowd):
    requests = [rows_of(*[size] * size) for size in (2, 2, 3, 6, 1, 3)]
    async with serve(max_batch_rows=4) as model:
        answers = await crowd(model, requests)
    assert [len(call) for call in firsts(stage)] == [4, 3, 6, 4]
    assert [len(answer.arrays["y"]) for answer in answers] == [2, 2, 3, 6, 1, 3]


async def test_a_full_queue_refuses_at_once_and_takes_again_later(serve, stage, crowd):
    async with serve(max_queue=3) as model:
        results = await crowd(model, [rows_of(1), rows_of(2)])
        assert not any(isinstance(result, BaseException) for result in results)
        stage.may_answer.clear()
        tasks = [asyncio.create_task(model.infer(rows_of(n))) for n in range(3)]
        await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(OverloadedError, match="3 requests"):
                await model.infer(rows_of(9))
        stage.may_answer.set()
        await asyncio.gather(*tasks)
        assert model.statistics.rejected_count == 2
        await model.infer(rows_of(1))


# ---- a wait for company ----


async def test_a_request_on_an_idle_model_waits_for_nobody(serve, stage):
    stage.may_answer.set()
    async with serve(max_batch_size=64) as model:
        await asyncio.wait_for(model.infer(rows_of(1)), 10)
    assert firsts(stage) == [[1]]


@pytest.mark.parametrize("scheduler", ["auto", "thread", "direct"])
@pytest.mark.parametrize("bound", [{"max_batch_size": 3}, {"max_batch_rows": 3}])
async def test_it_waits_as_long_as_the_operator_has_set_or_until_the_batch_is_full(
    serve, stage, scheduler, bound
):
    stage.may_answer.set()
    async with serve(max_batch_time=1000, scheduler=scheduler, **bound) as model:
        tasks = []
        for number in (1, 2):
            tasks.append(asyncio.create_task(model.infer(rows_of(number))))
            for _ in range(20):  # turns of the loop in which it could start
                await asyncio.sleep(0)
            assert model.statistics.waiting == number
        assert not stage.calls
        tasks.append(asyncio.create_task(model.infer(rows_of(3))))
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert firsts(stage) == [[1, 2, 3]]


async def test_the_wait_ends_by_itself(serve, stage):
    stage.may_answer.set()
    async with serve(max_batch_time=0.02) as model:
        answers = await asyncio.wait_for(
            asyncio.gather(*(model.infer(rows_of(number)) for number in range(3))), 10
        )
        assert all(answer.timing.started - answer.timing.arrived >= 19e6 for answer in answers[:1])
        again = await asyncio.wait_for(model.infer(rows_of(4)), 10)
    assert firsts(stage) == [[0, 1, 2], [4]]
    assert again.arrays["y"].tolist() == [5]


async def test_who_can_not_be_merged_does_not_wait(serve, stage):
    stage.may_answer.set()
    single = InferRequest([Tensor.from_array("x", [1.0, 2.0])])
    async with serve(max_batch_time=1000) as model:
        waiting = asyncio.create_task(model.infer(rows_of(1)))
        await asyncio.sleep(0)
        await asyncio.wait_for(model.infer(single), 10)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert model.statistics.waiting == 0


# ---- order ----


async def test_priorities_go_as_triton_defines_them(serve, stage, crowd):
    asked = [3, 0, 1, 9, 2, 1]  # 0 and 9 stand for the default
    requests = [
        rows_of(10 * number + given, parameters={"priority": given})
        for number, given in enumerate(asked)
    ]
    requests.append(rows_of(99))
    async with serve("Staged", priority_levels=3, default_priority_level=2) as model:
        await crowd(model, requests)
    assert [line for line in stage.log if line.startswith("infer")][1:] == [
        f"infer {number}" for number in (21, 51, 10, 39, 42, 99, 3)
    ]


async def test_without_levels_a_priority_says_nothing(serve, stage, crowd):
    requests = [rows_of(n, parameters={"priority": p}) for n, p in [(1, 3), (2, "x"), (3, 1)]]
    async with serve("Staged") as model:
        await crowd(model, requests)
    assert [line for line in stage.log if line.startswith("infer")][1:] == [
        f"infer {number}" for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("given", [-1, True, "1", 1.0, None, [1]])
async def test_a_priority_that_is_none_is_refused(serve, stage, given):
    stage.may_answer.set()
    async with serve(priority_levels=2) as model:
        with pytest.raises(InvalidRequestError, match=r"parameters\.priority: expected an integer"):
            await model.infer(rows_of(1, parameters={"priority": given}))
        assert model.statistics.failures["invalid"] == 1
        assert model.statistics.in_flight == 0
        await model.infer(rows_of(1))


async def test_a_default_level_that_there_is_not_is_told_at_load(add_model):
    path = add_model("m", priority_levels=2, default_priority_level=5)
    async with Server([path], plugins=()) as server:
        [line] = await server.index()
    assert line.state == "UNAVAILABLE"
    assert "default_priority_level" in line.reason


@pytest.mark.parametrize(("kind", "slots"), [("Parallel", 2), ("AsyncRows", 3)])
async def test_max_concurrency_bounds_threads_and_coroutines(serve, stage, until, kind, slots):
    async with serve(kind, max_concurrency=slots, max_batch_size=1) as model:
        tasks = [asyncio.create_task(model.infer(rows_of(n))) for n in range(5)]
        await stage.until_inferring(slots)
        await until(lambda: model.statistics.waiting == 5 - slots)
        assert not stage.inferring.acquire(blocking=False)
        stage.may_answer.set()
        await asyncio.gather(*tasks)
        await stage.until_inferring(5 - slots)


async def test_more_calls_at_once_than_a_runtime_bears_are_refused_at_load(add_model):
    async with Server([add_model("m", max_concurrency=2)], plugins=()) as server:
        [line] = await server.index()
    assert line.state == "UNAVAILABLE"
    assert "max_concurrency is 2" in line.reason


# ---- faults ----


@pytest.mark.parametrize(("kind", "more"), [("Rows", {}), ("AsyncRows", {"max_concurrency": 1})])
async def test_the_poisoned_one_among_64_fails_alone(serve, stage, crowd, kind, more, caplog):
    requests = [rows_of(-1.0 if n == 17 else n) for n in range(64)]
    async with serve(kind, **more) as model:
        results = await crowd(model, requests)
    failed = [n for n, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [17]
    assert isinstance(results[17], RuntimeFailedError)
    for number in {*range(64)} - {17}:
        assert results[number].arrays["y"].tolist() == [number + 1.0]
    assert len(stage.calls) == 65
    statistics = model.statistics
    assert (statistics.success_count, statistics.failures["failure"]) == (64, 1)


WRONG = """
from runtimes_ import Rows
from jackfield import InferResponse, Tensor

class Wrong(Rows):
    def answer(self, request):
        {answer}

class AsyncWrong(Wrong):
    async def infer(self, request):
        return Rows.infer(self, request)
"""


@pytest.fixture
def wrong(models_dir, serve):
    """Serve a row-wise model that gives a wrong answer."""

    def make(kind, answer, **settings):
        (models_dir / "m").mkdir()
        (models_dir / "m" / "runtimes_.py").write_text(RUNTIMES)
        return serve(kind, code=WRONG.format(answer=answer), **settings)

    return make


async def test_an_output_that_is_no_rows_ends_merging_with_one_warning(wrong, stage, crowd, caplog):
    answer = 'return InferResponse([Tensor.from_array("y", request.inputs[0].array.sum())])'
    with caplog.at_level(logging.WARNING, "jackfield"):
        async with wrong("Wrong", answer) as model:
            for sizes in ([3, 1, 1, 1], [1, 1, 1]):
                stage.may_answer.clear()
                answers = await crowd(model, [rows_of(n) for n in range(1, 4)])
                assert [len(call) for call in firsts(stage)] == sizes
                assert [each.arrays["y"].tolist() for each in answers] == [2, 3, 4]
                assert [each.timing.requests for each in answers] == [1, 1, 1]
    warnings = [each for each in caplog.records if "no longer merged" in each.message]
    assert len(warnings) == 1


@pytest.mark.parametrize("kind", ["Wrong", "AsyncWrong"])
@pytest.mark.parametrize(
    "answer",
    [
        "return InferResponse([request.inputs[0].array])",
        "return InferResponse(None)",
        'return InferResponse([Tensor("y", "FP64", [1.0] * len(request.inputs[0].array))])',
        "return None",
    ],
)
async def test_a_batch_whose_answer_is_junk_hangs_nobody(wrong, stage, kind, answer, caplog):
    stage.may_answer.set()
    settings = {"max_concurrency": 1, "max_batch_size": 3, "max_batch_time": 1000}
    caplog.set_level(logging.CRITICAL, "jackfield")
    async with wrong(kind, answer, **settings) as model:
        for _ in range(2):
            calls = (model.infer(rows_of(n)) for n in range(3))
            results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
            assert all(isinstance(result, RuntimeFailedError) for result in results)
        assert model.statistics.in_flight == 0


# ---- between the loop and a thread ----


async def test_switching_between_loop_and_thread_loses_none(serve, stage):
    stage.may_answer.set()
    stage.busy_ms = 0
    asked = 0

    async def flow(model, until_seen):
        """Let requests flow until the runtime was seen in the thread wanted."""
        nonlocal asked
        stage.log.clear()
        for _ in range(200):
            requests = [rows_of(asked + n) for n in range(8)]
            asked += 8
            answers = await asyncio.gather(*(model.infer(request) for request in requests))
            for request, answer in zip(requests, answers, strict=True):
                assert answer.arrays["y"].tolist() == sums_of(request)
            if any(name.startswith(until_seen) for name in stage.log):
                return
        pytest.fail(f"never seen in {until_seen}")

    async with serve("Moody", scheduler="auto", max_batch_size=4) as model:
        await flow(model, "jackfield-infer")  # a model that is not known yet
        for _ in range(2):
            await flow(model, "MainThread")
            assert model.scheduler.is_quick
            stage.busy_ms = 5
            await flow(model, "jackfield-infer")
            stage.busy_ms = 0
        assert model.statistics.success_count == asked


# ---- across loads ----


@pytest.mark.parametrize("kind", ["Rows", "AsyncRows"])
@pytest.mark.parametrize("method", ["infer", "stream"])
async def test_who_found_a_model_before_a_reload_is_answered_by_its_successor(
    add_model, models_dir, serving, stage, until, kind, method
):
    """As a request is, whose body came while its model was replaced."""
    stage.may_answer.set()
    add_model("m", kind, extra={"tag": "old"})
    async with serving(models_dir) as (server, rest, _):
        found = server.model("m")
        await found.infer(rows_of(1))
        for tag in ("new", "newest"):
            add_model("m", kind, extra={"tag": tag})
            assert (await rest.post("/v2/repository/models/m/load")).status_code == 200
            before = {"new": "old", "newest": "new"}[tag]
            await until(lambda: f"close {before}" in stage.log)  # noqa: B023
            if method == "infer":
                answer = await asyncio.wait_for(found.infer(rows_of(1)), 10)
            else:
                [answer] = [each async for each in found.stream(rows_of(1))]
            assert answer.arrays["y"].tolist() == [2]
        newest = server.model("m").statistics
        assert (newest.success_count, found.statistics.success_count) == (1, 1)


@pytest.mark.parametrize("kind", ["Rows", "AsyncRows", "Staged"])
async def test_a_model_that_was_unloaded_says_so(serve, stage, kind):
    stage.may_answer.set()
    async with serve(kind) as model:
        await model.infer(rows_of(1))
    calls = len(stage.log) + len(stage.calls)
    with pytest.raises(ModelNotReadyError, match="unloaded"):
        await asyncio.wait_for(model.infer(rows_of(1)), 10)
    assert len(stage.log) + len(stage.calls) == calls
