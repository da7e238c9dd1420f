import asyncio

import pytest

from jackfield import OverloadedError, RuntimeFailedError, Server
from jackfield._metrics import Metrics


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, {"version": "", **labels})


async def test_outcomes_are_counted_apart(add_model, models_dir, request_of):
    add_model("double")
    add_model("bad", "Failing")
    async with Server([models_dir], plugins=()) as server:
        for _ in range(3):
            await server.model("double").infer(request_of(1))
        with pytest.raises(RuntimeFailedError):
            await server.model("bad").infer(request_of(1))
        metrics = server._metrics
    requests = "jackfield_infer_requests_total"
    assert value(metrics, requests, model="double", outcome="success") == 3
    assert value(metrics, requests, model="double", outcome="failure") == 0
    assert value(metrics, requests, model="bad", outcome="failure") == 1
    assert value(metrics, "jackfield_infer_seconds_count", model="double") == 3


async def test_what_waits_or_runs_and_what_is_refused_is_seen(add_model, request_of, stage):
    folder = add_model("m", "Staged", max_queue=2)
    async with Server([folder], plugins=()) as server:
        metrics = server._metrics
        tasks = [asyncio.create_task(server.model("m").infer(request_of(1))) for _ in range(2)]
        await stage.until_inferring()
        assert value(metrics, "jackfield_infer_in_progress", model="m") == 2
        with pytest.raises(OverloadedError):
            await server.model("m").infer(request_of(1))
        stage.may_answer.set()
        await asyncio.gather(*tasks)
        assert value(metrics, "jackfield_infer_in_progress", model="m") == 0
        requests = "jackfield_infer_requests_total"
        assert value(metrics, requests, model="m", outcome="rejected") == 1


def test_a_model_that_is_gone_leaves_no_series():
    metrics = Metrics()
    model = metrics.model("m", "1")
    model.success.inc()
    assert b'model="m"' in metrics.expose()[0]
    model.close()
    assert b'model="m"' not in metrics.expose()[0]


def test_two_registries_share_nothing():
    first, second = Metrics(), Metrics()
    first.model("m", "").success.inc()
    assert b'model="m"' not in second.expose()[0]


async def test_an_unloaded_model_leaves_no_series_and_a_loaded_one_has_them_again(
    add_model, models_dir
):
    add_model("double")
    async with Server([models_dir], plugins=()) as server:
        for _ in range(2):
            await server._models.unload("double")
            assert b'model="double"' not in server._metrics.expose()[0]
            await server._models.load("double")
            assert b'model="double"' in server._metrics.expose()[0]
