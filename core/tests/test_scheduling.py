import asyncio

import pytest

from jackfield import RuntimeFailedError, Server


async def serve(path, **options):
    server = Server([path], plugins=(), **options)
    await server.start()
    return server


@pytest.mark.parametrize(
    ("kind", "settings", "on_loop"),
    [
        ("ThreadName", {}, False),
        ("ThreadName", {"scheduler": "thread"}, False),
        ("ThreadName", {"scheduler": "direct"}, True),
        ("AsyncThreadName", {}, True),
        ("AsyncThreadName", {"scheduler": "direct"}, True),
    ],
)
async def test_plain_infer_leaves_the_loops_thread_and_coroutines_stay(
    add_model, request_of, kind, settings, on_loop
):
    async with Server([add_model("name", kind, **settings)], plugins=()) as server:
        response = await server.model("name").infer(request_of(1))
    [name] = response.output("thread").array.tolist()
    assert (name == b"MainThread") is on_loop
    assert name.startswith(b"jackfield-infer") is not on_loop


async def test_a_coroutine_in_a_thread_is_refused_when_it_loads(add_model):
    add = add_model("wrong", "AsyncDouble", scheduler="thread")
    async with Server([add], plugins=()) as server:
        [line] = await server.index()
    assert line.state == "UNAVAILABLE"
    assert "scheduler 'thread' does not fit" in line.reason


async def test_one_thread_runs_a_runtime_that_claims_nothing(add_model, request_of, stage):
    async with Server([add_model("m", "Staged")], plugins=()) as server:
        infer = server.model("m").infer
        tasks = [asyncio.create_task(infer(request_of(number))) for number in (1, 2, 3)]
        await stage.until_inferring()
        stage.may_answer.set()
        await asyncio.gather(*tasks)
    assert stage.log[1:-1] == ["infer 1", "answer 1", "infer 2", "answer 2", "infer 3", "answer 3"]


async def test_threads_share_a_runtime_that_is_thread_safe_and_releases_the_gil(
    add_model, request_of, stage, monkeypatch
):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    async with Server([add_model("m", "Parallel")], plugins=()) as server:
        infer = server.model("m").infer
        tasks = [asyncio.create_task(infer(request_of(number))) for number in (1, 2, 3)]
        await stage.until_inferring(2)
        assert {*stage.log[1:]} == {"infer 1", "infer 2"}
        stage.may_answer.set()
        await asyncio.gather(*tasks)


async def test_a_request_cancelled_while_it_waits_is_never_run(add_model, request_of, stage):
    async with Server([add_model("m", "Staged")], plugins=()) as server:
        infer = server.model("m").infer
        running = asyncio.create_task(infer(request_of(1)))
        await stage.until_inferring()
        waiting = asyncio.create_task(infer(request_of(2)))
        last = asyncio.create_task(infer(request_of(3)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        stage.may_answer.set()
        await asyncio.gather(running, last)
    assert "infer 2" not in stage.log
    assert "infer 3" in stage.log


async def test_a_runtime_is_closed_after_an_infer_that_nobody_waits_for_has_ended(
    add_model, request_of, stage
):
    server = await serve(add_model("m", "Staged"))
    task = asyncio.create_task(server.model("m").infer(request_of(1)))
    await stage.until_inferring()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0.05)  # time in which it would close too early
    assert "close " not in stage.log
    stage.may_answer.set()
    await stopping
    assert stage.log == ["load ", "infer 1", "answer 1", "close "]


@pytest.mark.parametrize("scheduler", ["thread", "direct"])
@pytest.mark.parametrize("raised", ["ValueError", "StopIteration", "SystemExit", "TimeoutError"])
async def test_whatever_a_runtime_raises_is_a_failure_of_this_request_alone(
    add_model, request_of, scheduler, raised, caplog
):
    path = add_model("m", "Failing", scheduler=scheduler, extra={"raises": raised})
    async with Server([path], plugins=()) as server:
        for _ in range(2):
            with pytest.raises(RuntimeFailedError, match="model 'm' failed on this request"):
                await asyncio.wait_for(server.model("m").infer(request_of(1)), 5)
    assert "swordfish" in caplog.text


@pytest.mark.parametrize("answer", [None, "text", {"outputs": []}])
async def test_an_answer_that_is_no_response_is_a_failure_of_the_runtime(
    add_model, request_of, answer
):
    async with Server([add_model("m", "Junk", extra={"answer": answer})], plugins=()) as server:
        with pytest.raises(RuntimeFailedError):
            await server.model("m").infer(request_of(1))
