"""A runtime that does not come back: its model says so, and nobody else suffers."""

import asyncio
import contextlib
import logging
from pathlib import Path

import grpc
import pytest

from jackfield import (
    DeadlineError,
    InferRequest,
    ModelNotReadyError,
    Server,
    ServerSettings,
    Tensor,
)
from jackfield._wire.descriptors import ModelInferRequest

LIMIT_S = 0.05
REASON = "infer has not returned for 0.05 s"


@pytest.fixture
def stuck(add_model, models_dir, serving, stage, request_of):
    """Serve a model that is stuck until the stage lets it answer, and a sound one beside it."""

    @contextlib.asynccontextmanager
    async def stuck(kind="Staged", **settings):
        add_model("sound")
        add_model("m", kind, scheduler="thread", max_infer_time=LIMIT_S, **settings)
        async with serving(models_dir) as (server, rest, channel):
            with pytest.raises(DeadlineError, match=r"model 'm' did not answer within 0\.05 s"):
                await server.model("m").infer(request_of(1))
            yield server, rest, channel

    return stuck


def message_of(model):
    message = ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP64", shape=[1]).contents.fp64_contents.append(1)
    return message


async def test_its_callers_get_504_and_those_who_waited_503(
    add_model, models_dir, serving, stage, body_of, until
):
    add_model("m", "Staged", scheduler="thread", max_infer_time=LIMIT_S)
    async with serving(models_dir) as (server, rest, _):
        url, statistics = "/v2/models/m/infer", server.model("m").statistics
        running = asyncio.create_task(rest.post(url, content=body_of(1)))
        await until(lambda: statistics.in_flight == 1)
        waiting = asyncio.create_task(rest.post(url, content=body_of(2)))
        first, second = await asyncio.wait_for(asyncio.gather(running, waiting), 10)
        assert (first.status_code, second.status_code) == (504, 503)
        assert "did not answer within 0.05 s" in first.json()["error"]
        assert REASON in second.json()["error"]
        assert "retry-after" in second.headers
        assert (statistics.failures["deadline"], statistics.failures["unavailable"]) == (1, 1)
        assert (statistics.in_flight, statistics.waiting) == (0, 0)
        stage.may_answer.set()
    assert "infer 2" not in stage.log


async def test_every_batch_of_a_row_wise_model_gets_504(
    add_model, models_dir, serving, stage, until
):
    row = InferRequest([Tensor.from_array("x", [[1.0, 2.0]])])
    settings = {"max_batch_size": 3, "max_batch_time": 1000, "max_infer_time": LIMIT_S}
    add_model("m", "Rows", **settings)
    async with serving(models_dir) as (server, _, _):
        calls = (server.model("m").infer(row) for _ in range(3))
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        assert [type(result) for result in results] == [DeadlineError] * 3
        stage.may_answer.set()


async def test_it_is_not_ready_with_the_reason_everywhere(stuck, stage, body_of, call):
    async with stuck() as (_, rest, channel):
        ready = await rest.get("/v2/models/m/ready")
        assert ready.status_code == 503
        assert ready.json()["error"] == REASON
        assert not (await call(channel, "ModelReady", name="m")).ready
        lines = {line["name"]: line for line in (await rest.post("/v2/repository/index")).json()}
        assert (lines["m"]["state"], lines["m"]["reason"]) == ("UNAVAILABLE", REASON)
        assert lines["sound"]["state"] == "READY"
        only = await rest.post("/v2/repository/index", json={"ready": True})
        assert [line["name"] for line in only.json()] == ["sound"]
        listed = await call(channel, "RepositoryIndex")
        assert {line.name: line.reason for line in listed.models} == {"m": REASON, "sound": ""}

        answer = await rest.post("/v2/models/m/infer", content=body_of(1))
        assert answer.status_code == 503
        assert REASON in answer.json()["error"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "ModelInfer", message_of("m"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert REASON in caught.value.details()
        stage.may_answer.set()


async def test_the_server_and_its_other_models_go_on(stuck, stage, body_of, call):
    async with stuck() as (_, rest, channel):
        assert (await rest.get("/v2/health/ready")).status_code == 200
        answer = await rest.post("/v2/models/sound/infer", content=body_of(1))
        assert answer.json()["outputs"][0]["data"] == [2]
        assert (await call(channel, "ModelInfer", message_of("sound"))).model_name == "sound"
        assert (await rest.get("/v2/models/m")).status_code == 200
        assert (await rest.get("/v2/models/m/stats")).status_code == 200
        stage.may_answer.set()


async def test_it_is_ready_again_when_the_call_returns(
    stuck, stage, body_of, until, request_of, caplog
):
    with caplog.at_level(logging.WARNING, "jackfield"):
        async with stuck() as (server, rest, _):
            model = server.model("m")
            stage.may_answer.set()
            await until(lambda: not model.problem)
            assert (await rest.get("/v2/models/m/ready")).status_code == 200
            assert (await rest.post("/v2/models/m/infer", content=body_of(2))).status_code == 200
            assert (await server.index())[0].state == "READY"
            # and a second time
            stage.may_answer.clear()
            with pytest.raises(DeadlineError):
                await model.infer(request_of(3))
            assert model.problem == REASON
            stage.may_answer.set()
            await until(lambda: not model.problem)
    told = [each.message for each in caplog.records if "ready" in each.message]
    assert (
        told
        == [
            f"model 'm' is not ready: {REASON}",
            "model 'm' is ready again: infer has returned",
        ]
        * 2
    )


async def test_one_of_two_threads_that_is_stuck_leaves_the_other_to_work(
    add_model, serving, models_dir, stage, request_of
):
    add_model("m", "Parallel", scheduler="thread", max_concurrency=2, max_infer_time=LIMIT_S)
    async with serving(models_dir) as (server, _, _):
        model = server.model("m")
        for number in (1, 2):
            assert not model.problem
            with pytest.raises(DeadlineError):
                await model.infer(request_of(number))
        assert model.problem == REASON
        with pytest.raises(ModelNotReadyError):
            await model.infer(request_of(3))
        stage.may_answer.set()


async def test_without_a_limit_it_may_take_as_long_as_it_likes(
    add_model, serving, models_dir, stage, request_of, until
):
    add_model("m", "Staged", scheduler="thread", max_infer_time=0)
    async with serving(models_dir) as (server, _, _):
        task = asyncio.create_task(server.model("m").infer(request_of(1)))
        await stage.until_inferring()
        assert not server.model("m").problem
        stage.may_answer.set()
        await asyncio.wait_for(task, 10)


async def test_a_coroutine_that_never_ends_is_cancelled(
    add_model, models_dir, serving, stage, request_of
):
    code = """
import asyncio
from runtimes_ import AsyncDouble

class Endless(AsyncDouble):
    async def infer(self, request):
        import stage
        if request.inputs[0].array[0] == 1:
            try:
                await asyncio.Event().wait()
            finally:
                stage.log.append("cancelled")
        return await super().infer(request)
"""
    folder = add_model("m", "Endless", code=code, max_infer_time=LIMIT_S, max_concurrency=1)
    (folder / "runtimes_.py").write_text(Path(__file__).with_name("runtimes.py").read_text())
    async with serving(models_dir) as (server, _, _):
        model = server.model("m")
        tasks = [asyncio.create_task(model.infer(request_of(number))) for number in (1, 2)]
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert isinstance(results[0], DeadlineError)
        assert results[1].arrays["y"].tolist() == [4]
        assert stage.log == ["cancelled"]
        assert not model.problem


# ---- what the operator does about it ----


async def test_a_reload_brings_a_sound_one_at_once(stuck, stage, body_of, add_model):
    async with stuck() as (_, rest, _):
        add_model("m")  # what lies on disk now
        answer = await asyncio.wait_for(rest.post("/v2/repository/models/m/load"), 10)
        assert answer.status_code == 200
        assert (await rest.get("/v2/models/m/ready")).status_code == 200
        answer = await rest.post("/v2/models/m/infer", content=body_of(4))
        assert answer.json()["outputs"][0]["data"] == [8]
        assert not [line for line in stage.log if line.startswith("close")]
        stage.may_answer.set()
    assert stage.log[-1] == "close "  # the old one, when its call had ended


async def test_an_unload_does_not_wait_for_it(stuck, stage, body_of):
    async with stuck() as (_, rest, _):
        answer = await asyncio.wait_for(rest.post("/v2/repository/models/m/unload"), 10)
        assert answer.status_code == 200
        assert (await rest.get("/v2/models/m/ready")).status_code == 503
        stage.may_answer.clear()
        answer = await asyncio.wait_for(rest.post("/v2/repository/models/m/load"), 10)
        assert answer.status_code == 200
        assert (await rest.get("/v2/models/m/ready")).status_code == 200
        stage.may_answer.set()


async def test_a_stop_leaves_nobody_waiting(add_model, stage, request_of, until):
    """Neither who is computed nor who waits behind it."""
    path = add_model("m", "Staged", scheduler="thread")
    server = Server([path], plugins=(), settings=ServerSettings(drain_timeout_s=LIMIT_S))
    await server.start()
    model = server.model("m")
    tasks = [asyncio.create_task(model.infer(request_of(number))) for number in (1, 2)]
    await stage.until_inferring()
    await until(lambda: model.statistics.waiting == 1)
    await asyncio.wait_for(server.stop(), 10)
    with pytest.raises(ModelNotReadyError):
        await asyncio.wait_for(tasks[1], 10)
    stage.may_answer.set()
    await asyncio.wait([tasks[0]], timeout=10)
    assert tasks[0].done()
    assert "infer 2" not in stage.log
