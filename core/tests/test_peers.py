"""Calls of a model by another one of its server, in the thread that makes them or on the loop."""

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jackfield import (
    DeadlineError,
    InferRequest,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    RequestedOutput,
    RuntimeFailedError,
    Server,
    ServerSettings,
    Tensor,
)
from jackfield._peers import Peers

CODE = """
import sys
import threading

from jackfield import (
    Capabilities, Datatype, InferResponse, InvalidRequestError, ModelMetadata, Tensor,
    TensorMetadata,
)


class Sums:
    capabilities = Capabilities(row_wise=True, thread_safe=True)

    def __init__(self):
        self.stage = sys.modules["stage"]

    def metadata(self):
        return ModelMetadata(
            inputs=[TensorMetadata("x", Datatype.FP64, [-1, -1])],
            outputs=[TensorMetadata(name, Datatype.FP64, [-1]) for name in ("sum", "most")],
        )

    def infer(self, request):
        self.stage.log.append(threading.get_ident())
        array = request.inputs[0].array
        if array.size and array.min() == -1:
            self.stage.inferring.release()
            assert self.stage.may_answer.wait(20)
        elif array.size and array.min() == -2:
            raise ValueError("a secret")
        elif array.size and array.min() == -3:
            raise InvalidRequestError("x", expected="more", found="-3")
        return InferResponse([
            Tensor.from_array("sum", array.sum(axis=-1)), Tensor.from_array("most", array.max(-1)),
        ])

    def close(self):
        self.stage.log.append("closed")


class Unsafe(Sums):
    capabilities = Capabilities(row_wise=True)


class Whole(Sums):
    capabilities = Capabilities(thread_safe=True)
"""
HOLD, FAIL, REFUSE = -1.0, -2.0, -3.0


def request_of(*values, **fields):
    return InferRequest([Tensor.from_array("x", np.array([*values])[:, None])], **fields)


@pytest.fixture
def add(add_model, stage):
    stage.may_answer.clear()

    def add(kind="Sums", **settings):
        return add_model("m", kind, code=CODE, **settings)

    return add


@contextlib.asynccontextmanager
async def serving(models_dir, **settings):
    """Serve, with the first calls done, which teach what a call costs; gives a caller's way."""
    server = Server([models_dir], plugins=(), settings=ServerSettings(**settings))
    async with server:
        for _ in range(4):
            await server.model("m").infer(request_of(1.0, 2.0))
        yield server, Peers(server.model, asyncio.get_running_loop())


async def thread_of(peers, stage, *values, **fields):
    """Call in a thread; give that thread, and the one in which the runtime was."""

    def call():
        peers.model("m").infer(request_of(*values, **fields))
        return threading.get_ident(), stage.log[-1]

    return await asyncio.to_thread(call)


async def test_a_short_call_stays_in_its_thread_and_counts(add, models_dir, stage):
    add()
    async with serving(models_dir) as (server, peers):
        statistics = server.model("m").statistics
        before = statistics.record("m", "")
        here, there = await thread_of(peers, stage, 1.0, 2.0, 3.0)
        assert here == there
        after = statistics.record("m", "")
        gained = {
            name: after[name] - before[name] for name in ("inference_count", "execution_count")
        }
        assert gained == {"inference_count": 3, "execution_count": 1}
        parts = after["inference_stats"], before["inference_stats"]
        assert parts[0]["success"]["count"] - parts[1]["success"]["count"] == 1
        assert {each["batch_size"] for each in after["batch_stats"]} == {2, 3}
        assert statistics.in_flight == statistics.beside == 0


async def test_its_answer_is_that_of_the_loop(add, models_dir):
    add(version="7")
    request = request_of(4.0, 5.0, id="one", outputs=[RequestedOutput("most")])
    async with serving(models_dir) as (server, peers):
        expected = await server.model("m").infer(request)
        found = await asyncio.to_thread(lambda: peers.model("m").infer(request))
        by_name = await asyncio.to_thread(lambda: peers.model("m").infer(x=np.ones((2, 3))))
    for name in ("model_name", "model_version", "id", "parameters"):
        assert getattr(found, name) == getattr(expected, name)
    assert [each.name for each in found.outputs] == ["most"]
    np.testing.assert_array_equal(found.arrays["most"], expected.arrays["most"])
    np.testing.assert_array_equal(by_name.arrays["sum"], [3.0, 3.0])
    times = found.timing
    assert times.received <= times.arrived <= times.started <= times.ended


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("Unsafe", {}),
        ("Whole", {}),
        ("Sums", {"max_concurrency": 1}),
        ("Sums", {"max_batch_time": 0.001}),
        ("Sums", {"max_queue": 1}),
        ("Sums", {"scheduler": "thread"}),
        ("Sums", {"scheduler": "direct"}),
        ("Sums", {"max_infer_time": 1e-7}),
    ],
)
async def test_what_the_operator_or_the_runtime_wants_otherwise_goes_to_the_loop(
    kind, given, add, models_dir, stage
):
    add(kind, **given)
    with contextlib.suppress(DeadlineError):  # no call ends so soon
        async with serving(models_dir) as (_, peers):
            here, there = await thread_of(peers, stage, 1.0)
            assert here != there


async def test_a_request_with_parameters_goes_to_the_loop(add, models_dir, stage):
    add()
    async with serving(models_dir) as (_, peers):
        here, there = await thread_of(peers, stage, 1.0, parameters={"timeout": 10_000_000})
        assert here != there
        with pytest.raises(InvalidRequestError, match="timeout"):
            await thread_of(peers, stage, 1.0, parameters={"timeout": -1})


async def test_a_call_that_is_not_foreseen_to_end_in_time_goes_to_the_loop(add, models_dir, stage):
    add()
    async with serving(models_dir) as (server, peers):
        late = perf_counter_ns() - 1
        with pytest.raises(DeadlineError):
            await thread_of(peers, stage, 1.0, deadline_ns=late)
        assert server.model("m").statistics.failures["deadline"] == 1
        later = perf_counter_ns() + 60_000_000_000
        here, there = await thread_of(peers, stage, 1.0, deadline_ns=later)
        assert here == there


async def test_errors_are_those_of_the_loop(add, models_dir, stage, caplog):
    add()
    async with serving(models_dir) as (server, peers):
        failures = server.model("m").statistics.failures
        with caplog.at_level(logging.ERROR), pytest.raises(RuntimeFailedError) as failed:
            await thread_of(peers, stage, FAIL)
        assert "secret" not in str(failed.value)
        assert "a secret" in caplog.text
        with pytest.raises(InvalidRequestError, match="more") as refused:
            await thread_of(peers, stage, REFUSE)
        assert refused.value.model == "m"
        with pytest.raises(InvalidRequestError, match="one of most, sum"):
            await thread_of(peers, stage, 1.0, outputs=[RequestedOutput("least")])
        assert (failures["failure"], failures["invalid"]) == (1, 1)
        here, there = await thread_of(peers, stage, 1.0)
        assert here == there


async def test_while_one_is_there_others_go_to_the_loop_and_the_limit_counts_all(
    add, models_dir, stage
):
    add(max_queue=2)
    async with serving(models_dir) as (server, peers):
        model = server.model("m")
        held = asyncio.create_task(thread_of(peers, stage, HOLD))
        await stage.until_inferring()
        assert (model.statistics.in_flight, model.statistics.beside) == (0, 1)
        here, there = await thread_of(peers, stage, 1.0)
        assert here != there
        both = (model.infer(request_of(1.0)), model.infer(request_of(1.0)))
        answered, refused = await asyncio.gather(*both, return_exceptions=True)
        assert answered.arrays["sum"].tolist() == [1.0]
        assert isinstance(refused, OverloadedError)
        assert model.statistics.rejected_count == 1
        stage.may_answer.set()
        await held


@pytest.mark.parametrize("what", ["unload", "reload", "stop"])
async def test_a_runtime_is_kept_while_it_is_called(what, add, models_dir, stage, client_of, until):
    add()
    async with serving(models_dir) as (server, peers), client_of(server) as client:
        old = await asyncio.to_thread(peers.model, "m")
        held = asyncio.create_task(thread_of(peers, stage, HOLD))
        await stage.until_inferring()
        path = "/v2/repository/models/m/" + ("unload" if what == "unload" else "load")
        if what == "stop":
            ending = asyncio.create_task(server.stop())
        else:
            ending = asyncio.create_task(client.post(path))
        await until(lambda: old._model._beside._is_closing)
        assert "closed" not in stage.log
        stage.may_answer.set()
        await held
        await ending
        if what == "reload":
            await until(lambda: "closed" in stage.log)
            # who found the old one is answered by the new one
            found = await asyncio.to_thread(old.infer, request_of(2.0))
            assert found.arrays["sum"].tolist() == [2.0]
        else:
            assert stage.log[-1] == "closed"
        if what == "unload":
            with pytest.raises(ModelNotReadyError, match="unloaded"):
                await asyncio.to_thread(old.infer, request_of(2.0))


async def test_a_stop_does_not_wait_for_ever(add, models_dir, stage):
    add()
    async with serving(models_dir, drain_timeout_s=0.05) as (server, peers):
        held = asyncio.create_task(thread_of(peers, stage, HOLD))
        await stage.until_inferring()
        await server.stop()
        assert "closed" not in stage.log
        stage.may_answer.set()
        await held


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.lists(st.sampled_from([1, 2, 5, FAIL, REFUSE]), max_size=12), min_size=1, max_size=4
    ),
    st.lists(st.sampled_from([1, 2, 5]), max_size=12),
)
async def test_nothing_is_lost_whoever_calls_at_the_same_time(add, models_dir, callers, others):
    add()
    async with serving(models_dir) as (server, peers):
        statistics = server.model("m").statistics
        rows, answers = statistics.inference_count, statistics.success_count

        def call(steps):
            model = peers.model("m")
            for step in steps:
                with contextlib.suppress(RuntimeFailedError, InvalidRequestError):
                    values = [3.0] * step if step > 0 else [step]
                    found = model.infer(request_of(*values)).arrays["sum"]
                    assert found.tolist() == values

        async def traffic():
            for count in others:
                await server.model("m").infer(request_of(*[3.0] * count))

        with ThreadPoolExecutor(4) as pool:
            loop = asyncio.get_running_loop()
            await asyncio.gather(
                *(loop.run_in_executor(pool, call, steps) for steps in callers), traffic()
            )
        steps = [step for each in (*callers, others) for step in each]
        good = [step for step in steps if step > 0]
        assert statistics.inference_count - rows == sum(good)
        assert statistics.success_count - answers == len(good)
        assert sum(statistics.total_buckets) == statistics.success_count
        assert statistics.failures["failure"] == steps.count(FAIL)
        assert statistics.failures["invalid"] == steps.count(REFUSE)
        assert statistics.in_flight == statistics.beside == statistics.waiting == 0
