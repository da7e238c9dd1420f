"""What callers, other models and the machine see of a process that dies."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield import (
    DeadlineError,
    DeadlyRequestError,
    InferRequest,
    ModelNotReadyError,
    OverloadedError,
    RuntimeFailedError,
    Server,
    Tensor,
)
from jackfield._plugins import discover
from jackfield._process.hosts import Hosts
from jackfield._process.proxy import ProcessRuntime
from jackfield._process.suspects import Suspects
from jackfield._repository import Repository

DEADLY = """
class M:
    capabilities = Capabilities(row_wise=True)

    def load(self):
        if (GATES / "hold").exists() or (GATES / "held").exists():
            (GATES / "held").touch()
            meet()

    def infer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        if (x == 0).any():
            meet()
        if (x < 0).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        return x
"""


#: So described its requests are merged.
ROWS = {
    "scheduler": "process",
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1]}],
    "outputs": [{"name": "output-0", "datatype": "FP64", "shape": [-1]}],
}


def request_of(*values, **fields):
    return InferRequest([Tensor.from_array("x", np.array(values, dtype="f8"))], **fields)


def is_gone(pid):
    """Tell whether a process is dead and waited for."""
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
async def start():
    """Load a model in a process of its own."""
    hosts = Hosts(close_timeout_s=2)

    async def make(path):
        [source] = Repository([path], discover(only=())).scan()
        runtime = ProcessRuntime(source, hosts, asyncio.get_running_loop())
        await asyncio.to_thread(runtime.load)
        return runtime

    yield make
    await asyncio.to_thread(hosts.close)


@pytest.fixture
def serve(models_dir):
    """Serve all models, in process and by REST."""
    return lambda: Server([models_dir], plugins=())


async def kill(runtime, until):
    """Kill a model's process, and wait until that is known."""
    pid = runtime.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: runtime.problem)
    return pid


async def answer(call):
    return (await asyncio.wait_for(call, 20)).outputs[0].array.tolist()


# ---- those who come while it is started again ----


async def test_new_calls_wait_for_the_next_process(add_code, start, until, tmp_path, gates):
    runtime = await start(add_code(DEADLY))
    (tmp_path / "hold").touch()
    pid = await kill(runtime, until)
    await gates[0].pass_through()
    calls = [asyncio.ensure_future(runtime.infer(request_of(number))) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    assert not any(call.done() for call in calls)
    assert "it is started again" in runtime.problem
    await gates[1].open()
    assert [await answer(call) for call in calls] == [[1], [2], [3]]
    assert is_gone(pid)


async def test_a_call_waits_no_longer_than_its_own_time(add_code, start, until, tmp_path, gates):
    runtime = await start(add_code(DEADLY))
    (tmp_path / "hold").touch()
    await kill(runtime, until)
    await gates[0].pass_through()
    now = perf_counter_ns()
    request = request_of(1, received_ns=now, deadline_ns=now + 50_000_000)
    with pytest.raises(DeadlineError, match=r"within 0\.05 s"):
        await asyncio.wait_for(runtime.infer(request), 20)
    await gates[1].open()
    assert await answer(runtime.infer(request_of(1))) == [1]


async def test_a_call_waits_no_longer_than_the_models_time(add_code, start, until, tmp_path, gates):
    runtime = await start(add_code(DEADLY, max_restart_time=0.05))
    (tmp_path / "hold").touch()
    await kill(runtime, until)
    await gates[0].pass_through()
    for _ in range(2):  # since the death, not since it came
        with pytest.raises(ModelNotReadyError, match="it is started again"):
            await asyncio.wait_for(runtime.infer(request_of(1)), 20)
    await gates[1].open()
    await until(lambda: not runtime.problem)
    assert await answer(runtime.infer(request_of(1))) == [1]


async def test_those_who_wait_are_bounded_and_readiness_tells_why(
    add_code, add_model, serve, until, tmp_path, gates, client_of
):
    add_code(DEADLY, scheduler="process", max_queue=2)
    add_model("other")
    async with serve() as server, client_of(server) as rest:
        model, other = server.model("m"), server.model("other")
        (tmp_path / "hold").touch()
        await kill(model._runtime, until)
        await gates[0].pass_through()
        waiting = [asyncio.ensure_future(model.infer(request_of(number))) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await model.infer(request_of(3))
        ready = await rest.get("/v2/models/m/ready")
        assert ready.status_code == 503
        assert "its process was killed by signal 9 (SIGKILL)" in ready.text
        index = {each.name: each for each in await server.index()}
        assert "SIGKILL" in index["m"].reason
        # others never notice
        assert (await rest.get("/v2/models/other/ready")).status_code == 200
        assert (await rest.get("/v2/health/ready")).status_code == 200
        assert await answer(other.infer(request_of(2))) == [4]
        await gates[1].open()
        assert [await answer(call) for call in waiting] == [[1], [2]]
        assert (await rest.get("/v2/models/m/ready")).status_code == 200


async def test_a_crash_loop_answers_at_once_with_the_reason(add_code, start, until):
    place = add_code(DEADLY)
    runtime = await start(place)
    whole = (place / "runtimes.py").read_text()
    (place / "runtimes.py").write_text("import os\nos._exit(7)")
    await kill(runtime, until)
    with pytest.raises(ModelNotReadyError, match="its process exited with code 7 while it loaded"):
        await asyncio.wait_for(runtime.infer(request_of(1)), 20)  # long before its 30 s
    assert "it is started again in 2 s" in runtime.problem
    with pytest.raises(ModelNotReadyError, match="exited with code 7"):
        await asyncio.wait_for(runtime.infer(request_of(1)), 0.1)
    (place / "runtimes.py").write_text(whole)
    await until(lambda: not runtime.problem)
    assert await answer(runtime.infer(request_of(1))) == [1]


async def test_a_merged_batch_that_was_under_way_fails_whole_and_is_not_tried_again(
    add_code, serve, gates
):
    add_code(DEADLY, **ROWS)
    async with serve() as server:
        model = server.model("m")
        pid = model._runtime.pid
        first = asyncio.ensure_future(model.infer(request_of(0)))
        await gates[0].pass_through()
        batch = [asyncio.ensure_future(model.infer(request_of(each))) for each in (1, -1, 2)]
        await asyncio.sleep(0)
        await gates[1].open()
        assert await answer(first) == [0]
        for call in batch:
            with pytest.raises(ModelNotReadyError, match="SIGSEGV"):
                await asyncio.wait_for(call, 20)
        assert await answer(model.infer(request_of(1))) == [1]
        # one death: no member of the batch was tried again by itself
        runtime = model._runtime
        assert runtime.pid != pid
        assert runtime._host._deaths == 1


# ---- what it died of ----


async def test_a_request_that_killed_twice_is_refused_and_no_other(add_code, start):
    runtime = await start(add_code(DEADLY))
    for _ in range(2):
        with pytest.raises(ModelNotReadyError, match="SIGSEGV"):
            await asyncio.wait_for(runtime.infer(request_of(-1, 5)), 20)
    assert await answer(runtime.infer(request_of(5))) == [5]
    pid = runtime.pid
    for _ in range(3):
        with pytest.raises(DeadlyRequestError, match=r"its process .* 11 \(SIGSEGV\)"):
            await asyncio.wait_for(runtime.infer(request_of(-1, 5)), 20)
    assert await answer(runtime.infer(request_of(6, 5))) == [6, 5]
    assert runtime.pid == pid
    assert not runtime.problem


async def test_a_poison_is_found_among_those_it_was_merged_with(add_code, serve, gates):
    add_code(DEADLY, **ROWS)
    async with serve() as server:
        model = server.model("m")
        deaths = 0
        for _ in range(2):
            first = asyncio.ensure_future(model.infer(request_of(0)))
            await gates[0].pass_through()
            batch = [asyncio.ensure_future(model.infer(request_of(each))) for each in (1, -1, 2)]
            await asyncio.sleep(0)
            await gates[1].open()
            await first
            outcomes = await asyncio.wait_for(asyncio.gather(*batch, return_exceptions=True), 20)
            deaths += isinstance(outcomes[1], ModelNotReadyError)
        assert deaths == 2
        # the second time nobody else was with it
        assert [each.outputs[0].array.tolist() for each in (outcomes[0], outcomes[2])] == [[1], [2]]
        with pytest.raises(DeadlyRequestError):
            await model.infer(request_of(-1))
        batch = [asyncio.ensure_future(model.infer(request_of(each))) for each in (3, -1, 4)]
        outcomes = await asyncio.wait_for(asyncio.gather(*batch, return_exceptions=True), 20)
        assert isinstance(outcomes[1], DeadlyRequestError)
        assert [each.outputs[0].array.tolist() for each in (outcomes[0], outcomes[2])] == [[3], [4]]


async def ask_and_kill(runtime, gates):
    """Kill a process from outside while it computes 0."""
    call = asyncio.ensure_future(runtime.infer(request_of(0)))
    await gates[0].pass_through()
    os.kill(runtime.pid, signal.SIGKILL)
    with pytest.raises(ModelNotReadyError, match="SIGKILL"):
        await asyncio.wait_for(call, 20)


async def test_a_request_that_was_there_when_an_operator_killed_twice_is_answered(
    add_code, start, gates
):
    runtime = await start(add_code(DEADLY))
    for _ in range(2):
        await ask_and_kill(runtime, gates)
    call = asyncio.ensure_future(runtime.infer(request_of(0)))
    await gates[0].pass_through()
    await gates[1].open()
    assert await answer(call) == [0]
    assert not runtime.suspects


async def test_a_request_that_was_there_at_three_kills_is_refused(add_code, start, gates):
    """As the kernel kills where an input takes all memory."""
    runtime = await start(add_code(DEADLY))
    for _ in range(3):
        await ask_and_kill(runtime, gates)
    with pytest.raises(DeadlyRequestError, match="SIGKILL"):
        await asyncio.wait_for(runtime.infer(request_of(0)), 20)
    assert await answer(runtime.infer(request_of(1))) == [1]


async def test_what_a_load_has_measured_may_differ_when_it_is_loaded_again(add_code, start, until):
    code = """
    import time
    from jackfield import ModelMetadata

    class M:
        def metadata(self):
            return ModelMetadata(parameters={"seconds": time.monotonic()})

        def infer(self, request: InferRequest) -> InferResponse:
            return InferResponse(request.inputs)
    """
    runtime = await start(add_code(code))
    await kill(runtime, until)
    assert await answer(runtime.infer(request_of(1))) == [1]


async def test_who_was_only_there_is_not_refused(add_code, start, gates, until):
    runtime = await start(add_code(DEADLY))
    for _ in range(3):
        call = asyncio.ensure_future(runtime.infer(request_of(0)))
        await gates[0].pass_through()
        pid = runtime.pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ModelNotReadyError):
            await asyncio.wait_for(call, 20)
        call = asyncio.ensure_future(runtime.infer(request_of(0)))
        await gates[0].pass_through()
        await gates[1].open()
        assert await answer(call) == [0]  # it is cleared by that


async def test_rest_answers_a_poison_with_500_and_a_death_with_503(
    add_code, serve, client_of, body_of
):
    add_code(DEADLY, scheduler="process")
    async with serve() as server, client_of(server) as rest:
        codes = []
        for _ in range(3):
            found = await rest.post("/v2/models/m/infer", content=body_of(-1))
            codes.append(found.status_code)
        assert codes == [503, 503, 500]
        assert "change them, or have the model loaded anew" in found.json()["error"]
        assert "retry-after" not in found.headers
        # loaded anew it may try again
        assert (await rest.post("/v2/repository/models/m/load")).status_code == 200
        found = await rest.post("/v2/models/m/infer", content=body_of(-1))
        assert found.status_code == 503


values = st.lists(st.integers(0, 3), min_size=1, max_size=4)
EVENTS = ["died", "killed", "refuse", "clear"]


@settings(deadline=None)
@given(st.lists(st.tuples(values, st.sampled_from(EVENTS))))
def test_what_is_suspect_follows_from_what_happened(events):
    suspects = Suspects(is_row_wise=True, clock=lambda: 0.0)
    rows, refused = {}, set()
    for given_values, event in events:
        request = request_of(*given_values)
        if event == "refuse":
            suspects.refuse(request, "died")
            refused.add(tuple(given_values))
        elif event == "clear":
            suspects.clear(request)
            for row in given_values:
                rows.pop(row, None)
        else:
            for row in {*given_values}:
                rows.setdefault(row, []).append(event)
            # at the same time they count as one
            suspects.suspect([request, request], is_own_doing=event == "died")
        is_enough = any(
            rows.get(row, []).count("died") >= 2 or len(rows.get(row, [])) >= 3
            for row in given_values
        )
        assert suspects.has_enough(request) == is_enough
    for given_values, _ in events:
        request = request_of(*given_values)
        is_refused = tuple(given_values) in refused
        assert suspects.refusal(request) == ("died" if is_refused else "")
        assert suspects.holds(request) == (is_refused or bool(rows.keys() & {*given_values}))


def test_digests_tell_names_types_shapes_and_texts_apart():
    suspects = Suspects(is_row_wise=False)
    arrays = [
        np.zeros(4, "f4"), np.zeros(2, "f8"), np.zeros((2, 2), "f4"), np.zeros(4, "i4"),
        np.array([b"ab", b"c"], object), np.array([b"a", b"bc"], object),
    ]  # fmt: skip
    requests = [InferRequest([Tensor.from_array("x", each)]) for each in arrays]
    requests.append(InferRequest([Tensor.from_array("y", arrays[0])]))
    for number, request in enumerate(requests):
        assert not suspects.refusal(request)
        suspects.refuse(request, str(number))
    assert [suspects.refusal(each) for each in requests] == list("0123456")


def test_digests_are_bounded_in_number_and_time():
    now = 0.0
    suspects = Suspects(is_row_wise=True, clock=lambda: now)
    suspects.suspect([request_of(*range(20_000))], is_own_doing=True)
    assert len(suspects._rows) == 16_384
    suspects.refuse(request_of(1), "died")
    suspects.suspect([request_of(19_999)], is_own_doing=True)
    assert suspects.has_enough(request_of(19_999))
    now = 3000.0
    assert suspects.refusal(request_of(1))
    now = 4000.0  # who asks does not keep it
    assert not suspects.refusal(request_of(1))
    # tried again it is alone, and one death more is enough
    assert suspects.holds(request_of(19_999))
    assert suspects.has_enough(request_of(19_999))
    now = 8000.0
    assert not suspects.holds(request_of(2))
    now = 12_000.0
    assert not suspects.holds(request_of(19_999))
    assert not suspects


# ---- what is left behind ----


async def test_a_process_that_was_killed_is_waited_for(add_code, start, until):
    runtime = await start(add_code(DEADLY))
    for _ in range(3):
        pid = await kill(runtime, until)
        await until(lambda: not runtime.problem)
        assert is_gone(pid)
    with pytest.raises(ChildProcessError):  # nor is there another one
        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222  it returns at once


SERVER = """
import asyncio, sys
from jackfield import Server

async def main():
    async with Server([sys.argv[1]], plugins=()) as server:
        print(*(server.model(name)._runtime.pid for name in ("one", "two", "own")), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_server_that_is_killed_takes_all_its_processes_along(add_code, until, models_dir):
    pool = {"parameters": {"inference_pool_gid": "a"}}
    add_code(DEADLY, "one", **pool)
    add_code(DEADLY, "two", **pool)
    add_code(DEADLY, "own", scheduler="process")
    command = [sys.executable, "-c", SERVER, str(models_dir)]
    parent = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    with parent:
        try:
            pids = [int(each) for each in (await asyncio.to_thread(parent.stdout.readline)).split()]
            assert len({*pids}) == 2
        finally:
            parent.kill()

    def is_dead(pid):
        status = Path(f"/proc/{pid}/status")
        return not status.exists() or "\nState:\tZ" in status.read_text()

    await until(lambda: all(map(is_dead, pids)))


async def test_a_server_that_stops_ends_all_its_processes(add_code, serve):
    pool = {"parameters": {"inference_pool_gid": "a"}}
    for name in ("one", "two"):
        add_code(DEADLY, name, **pool)
    add_code(DEADLY, "own", scheduler="process")
    async with serve() as server:
        pids = {server.model(name)._runtime.pid for name in ("one", "two", "own")}
    assert len(pids) == 2
    assert all(map(is_gone, pids))


def test_a_deadly_request_is_a_failure_of_the_model_with_a_text_of_its_own():
    error = DeadlyRequestError("m", "2", how="exited with code 3")
    assert isinstance(error, RuntimeFailedError)
    assert "version '2' of model 'm'" in str(error)
    assert json.dumps(vars(error))  # facts that can be told
