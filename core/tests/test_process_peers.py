"""Models that call others of their server, from a host process and into one: as in process."""

import asyncio
import contextlib
import os
import signal
import sys
import types
from time import perf_counter_ns

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jackfield import (
    DeadlineError,
    InferRequest,
    InvalidRequestError,
    ModelNotFoundError,
    ModelNotReadyError,
    RuntimeFailedError,
    Server,
    Tensor,
)
from jackfield._inner import IS_INNER

CODE = """
import asyncio
import json
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import msgspec
import numpy as np

from jackfield import (
    Capabilities, Datatype, InferRequest, InferResponse, InvalidRequestError, JackfieldError,
    ModelContext, ModelMetadata, RequestedOutput, Tensor, TensorMetadata,
)


class Target:
    \"\"\"Sums rows; holds, fails or refuses where it is told to.\"\"\"

    def __init__(self):
        self.stage = sys.modules.get("stage")
        self.closed = 0

    def metadata(self):
        return ModelMetadata(
            platform="mine",
            inputs=[TensorMetadata("x", Datatype.FP64, [-1])],
            outputs=[TensorMetadata(name, Datatype.FP64, [-1]) for name in ("sum", "most")],
            parameters={"a": [1, {"b": None}]},
        )

    async def infer(self, request):
        x = request.input("x").array
        do = request.parameters.get("do")
        if do == "fail":
            raise ValueError("a secret")
        if do == "refuse":
            raise InvalidRequestError("inputs[0]", expected="more", found="less")
        if do == "misname":
            return [x]
        if do == "hold":
            self.stage.began.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.stage.ended.set()
        if do == "deadline":
            return InferResponse([Tensor.from_array("sum", np.array([request.deadline_ns]))])
        if do == "closed":
            return InferResponse([Tensor.from_array("sum", np.array([self.closed]))])
        return InferResponse(
            [Tensor.from_array("sum", x.sum(keepdims=True)), Tensor.from_array("most", x + 1)],
            {"seen": dict(request.parameters)},
        )

    async def stream(self, request):
        try:
            for each in request.input("x").array:
                if each < 0:
                    raise InvalidRequestError("x", expected="no less than 0", found=str(each))
                yield InferResponse([Tensor.from_array("sum", np.array([each]))])
        finally:
            self.closed += 1


def facts_of(response):
    return {
        "outputs": {
            each.name: [each.datatype, list(each.shape), each.array.tolist()]
            for each in response.outputs
        },
        "of": [response.model_name, response.model_version, response.id],
        "parameters": response.parameters,
        "timed": response.timing is not None and list(response.timing) == sorted(
            response.timing[:4]
        ) + list(response.timing[4:]),
    }


class Caller:
    \"\"\"Does what it is told with the other model, and answers with what it found.\"\"\"

    def __init__(self, context: ModelContext):
        self.context = context
        # while it loads
        self.found = context.model("t").infer(x=np.array([1.0, 2.0])).arrays["sum"].tolist()

    def infer(self, request: InferRequest) -> InferResponse:
        do, x = request.parameters["call"], request.input("x").array
        if do == "pass on":
            return self.context.model("t").infer(
                msgspec.structs.replace(request, parameters={"do": request.parameters["do"]})
            )
        try:
            found = getattr(self, "do_" + do)(x)
        except (JackfieldError, TypeError, RuntimeError, CancelledError) as error:
            facts = {name: list(each) if isinstance(each, tuple) else each
                     for name, each in vars(error).items()}
            # how late it was differs
            late = facts.pop("timeout_s", None)
            found = [type(error).__name__, str(error) if late is None else "late", facts]
        return InferResponse([Tensor.from_array("found", np.array([json.dumps(found)]))])

    def ask(self, x, do, **fields):
        inputs = [Tensor.from_array("x", x)]
        return facts_of(self.context.model("t").infer(
            InferRequest(inputs, parameters={"do": do}, **fields)))

    def do_load(self, x):
        return self.found

    def do_names(self, x):
        model = self.context.model("t")
        return [model.name, model.version, msgspec.to_builtins(model.metadata)]

    def do_infer(self, x):
        return self.ask(x, "", id="one")

    def do_outputs(self, x):
        return self.ask(x, "", outputs=[RequestedOutput("most")])

    def do_by_name(self, x):
        return facts_of(self.context.model("t").infer(x=x))

    def do_large(self, x):
        # through shared memory, where a host is between
        found = self.context.model("t").infer(x=np.arange(200_000.0)).arrays
        return [found["sum"].tolist(), found["most"].shape, found["most"][-3:].tolist()]

    def do_stream(self, x):
        return [facts_of(each) for each in self.context.model("t").stream(x=x)]

    def do_stream_fails(self, x):
        return self.do_stream(np.array([1.0, -1.0]))

    def do_stream_left(self, x):
        before = self.ask(x, "closed")["outputs"]["sum"][2]
        answers = self.context.model("t").stream(x=x)
        first = facts_of(next(answers))
        answers.close()
        while (after := self.ask(x, "closed")["outputs"]["sum"][2]) == before:
            pass
        return [first, after[0] - before[0]]

    def do_fail(self, x):
        return self.ask(x, "fail")

    def do_misname(self, x):
        return self.ask(x, "misname")

    def do_refuse(self, x):
        return self.ask(x, "refuse")

    def do_unknown_output(self, x):
        return self.ask(x, "", outputs=[RequestedOutput("least")])

    def do_late(self, x):
        return self.ask(x, "", deadline_ns=1)[0]

    def do_no_input(self, x):
        return self.context.model("t").infer()

    def do_both(self, x):
        return self.context.model("t").infer(InferRequest([]), x=x)

    def do_empty(self, x):
        return self.context.model("t").infer(InferRequest([]))

    def do_no_tensor(self, x):
        return self.context.model("t").infer(x=object())

    def do_other(self, x):
        return self.context.model("tt")

    def do_version(self, x):
        return self.context.model("t", "7").name

    def do_broken(self, x):
        return self.context.model("broken")

    def do_threads(self, x):
        def call(each):
            return self.context.model("t").infer(x=np.array([each])).arrays["most"].tolist()

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(call, np.arange(30.0)))

    def do_on_a_loop_of_its_own(self, x):
        async def call():
            return self.context.model("t").infer(x=x).arrays["sum"].tolist()

        return asyncio.run(call())


class AsyncCaller(Caller):
    async def infer(self, request: InferRequest) -> InferResponse:
        if request.parameters["call"] == "on the loop":
            try:
                self.context.model("t")
            except RuntimeError as error:
                return InferResponse([Tensor.from_array("found", np.array([str(error)]))])
        return await asyncio.to_thread(Caller.infer, self, request)


class ManyCaller(Caller):
    capabilities = Capabilities(thread_safe=True, releases_gil=True)
"""
CASES = [line.split("do_")[1].split("(")[0] for line in CODE.splitlines() if "def do_" in line]
HOST = {"scheduler": "process"}
POOL = {"scheduler": "process", "inference_pool_gid": "one"}
#: Where the caller is, and where what it calls.
PLACES = {
    "caller in a host": (HOST, {}),
    "target in a host": ({}, HOST),
    "both in hosts": (HOST, HOST),
    "both in one host": (POOL, POOL),
}


@pytest.fixture
def add(add_model):
    def add(name, kind, place, **given):
        parameters = {"extra": {}}
        if gid := place.get("inference_pool_gid"):
            parameters["inference_pool_gid"] = gid
        scheduler = {name: each for name, each in place.items() if name == "scheduler"}
        return add_model(name, kind, code=CODE, **(scheduler | {"parameters": parameters} | given))

    return add


@pytest.fixture
def serve(add, models_dir):
    """Serve a model that calls another one, and one that does not load."""

    def serve(place, kind="Caller", **given):
        calling, called = PLACES.get(place, ({}, {}))
        add("a", kind, calling, needs=["t"], **given)
        add("t", "Target", called)
        add("broken", "Nothing", {})
        return Server([models_dir], plugins=())

    return serve


def request_of(call, *values, do="", **fields):
    x = Tensor.from_array("x", np.array(values or (1.0, 2.0)))
    return InferRequest([x], parameters={"call": call, "do": do}, **fields)


async def outcomes(server):
    found = {}
    for case in CASES:
        answer = await server.model("a").infer(request_of(case))
        found[case] = answer.output("found").array.tolist()
    for do in ("", "fail", "refuse"):
        try:
            answer = await server.model("a").infer(request_of("pass on", do=do, id="two"))
            found["pass on " + do] = {each.name: each.array.tolist() for each in answer.outputs}
        except Exception as error:  # noqa: BLE001  told below, whatever it is
            found["pass on " + do] = [type(error), str(error)]
    return found


@pytest.mark.parametrize("kind", ["Caller", "AsyncCaller", "ManyCaller"])
async def test_what_a_model_in_process_finds_is_as_expected(kind, serve):
    async with asyncio.timeout(60), serve("here", kind) as server:
        found = {
            case: msgspec.json.decode(text[0])
            if isinstance(text, list) and len(text) == 1
            else text
            for case, text in (await outcomes(server)).items()
        }
    assert found["load"] == [3.0]
    assert found["infer"]["of"] == ["t", "", "one"]
    assert found["infer"]["timed"]
    assert found["by_name"]["outputs"]["most"] == ["FP64", [2], [2.0, 3.0]]
    assert [each["outputs"]["sum"][2] for each in found["stream"]] == [[1.0], [2.0]]
    assert found["threads"] == [[x + 1.0] for x in range(30)]
    errors = {case: each[0] for case, each in found.items() if isinstance(each, list)}
    assert errors["fail"] == "RuntimeFailedError"
    assert errors["refuse"] == errors["unknown_output"] == "InvalidRequestError"
    assert errors["late"] == "DeadlineError"
    assert (errors["other"], errors["broken"]) == ("ModelNotFoundError", "ModelNotReadyError")
    assert errors["no_input"] == errors["both"] == "TypeError"
    assert found["pass on refuse"][0] is InvalidRequestError
    assert "model 't'" in found["pass on refuse"][1]
    assert found["pass on fail"][0] is RuntimeFailedError


@pytest.mark.parametrize("kind", ["Caller", "AsyncCaller", "ManyCaller"])
@pytest.mark.parametrize("place", PLACES)
async def test_it_finds_the_same_in_a_host(place, kind, serve):
    async with asyncio.timeout(60):
        async with serve("here", kind) as server:
            expected = await outcomes(server)
        async with serve(place, kind) as server:
            found = await outcomes(server)
    assert found == expected


@pytest.mark.parametrize("place", ["here", "caller in a host"])
async def test_a_call_on_the_loop_is_refused(place, serve):
    async with serve(place, "AsyncCaller") as server:
        answer = await server.model("a").infer(request_of("on the loop"))
    text = answer.output("found").array[0].decode()
    assert text == "another model is called on the event loop, which would wait for itself"


class Stage(types.ModuleType):
    """What the target tells a test of."""

    def __init__(self):
        super().__init__("stage")
        self.began, self.ended = asyncio.Event(), asyncio.Event()


@pytest.fixture
def held(monkeypatch):
    stage = Stage()
    monkeypatch.setitem(sys.modules, "stage", stage)
    return stage


@pytest.mark.parametrize("kind", ["Caller", "AsyncCaller", "ManyCaller"])
async def test_a_caller_who_leaves_takes_the_call_of_the_other_model_along(kind, serve, held):
    async with asyncio.timeout(30), serve("caller in a host", kind) as server:
        asking = asyncio.ensure_future(server.model("a").infer(request_of("pass on", do="hold")))
        await held.began.wait()
        asking.cancel()
        await held.ended.wait()
        # its thread is free again
        answer = await server.model("a").infer(request_of("by_name"))
        assert b'"sum"' in answer.output("found").array[0]
        assert server.model("t").statistics.in_flight == 0


SLOW = """

class Slow(Caller):
    def infer(self, request: InferRequest) -> InferResponse:
        (FOLDER / "began").write_text("")
        (FOLDER / "go on").read_text()
        try:
            found = self.context.model("t").infer(x=np.array([1.0])).arrays["sum"][0]
        except CancelledError as error:
            found = type(error).__name__
        (FOLDER / "found").write_text(str(found))
        return InferResponse([])
"""


@pytest.mark.parametrize(("leaves", "expected"), [(True, "CancelledError"), (False, "1.0")])
async def test_what_still_runs_for_one_who_left_asks_no_more(
    leaves, expected, add, add_model, models_dir, tmp_path
):
    gates = [tmp_path / name for name in ("began", "go on", "found")]
    for gate in gates:
        os.mkfifo(gate)
    code = f"from pathlib import Path\n\nFOLDER = Path({str(tmp_path)!r})\n{CODE}{SLOW}"
    add_model("a", "Slow", code=code, needs=["t"], scheduler="process")
    add("t", "Target", {})
    async with asyncio.timeout(30), Server([models_dir], plugins=()) as server:
        model = server.model("a")
        asking = asyncio.ensure_future(model.infer(request_of("")))
        await asyncio.to_thread(gates[0].read_text)
        if leaves:
            asking.cancel()
            await asyncio.wait([asking])
        await asyncio.to_thread(gates[1].write_text, "")
        assert await asyncio.to_thread(gates[2].read_text) == expected
        await asyncio.wait([asking])
        assert server.model("t").statistics.success_count == 1 + (not leaves)


async def test_a_deadline_is_that_of_the_other_models_call_too(serve, held):
    async with asyncio.timeout(30), serve("both in hosts") as server:
        later = perf_counter_ns() + 20_000_000_000
        request = request_of("pass on", do="deadline", deadline_ns=later)
        answer = await server.model("a").infer(request)
        assert answer.arrays["sum"].tolist() == [later]


async def test_a_call_whose_time_is_over_ends_the_other_models(serve, held):
    async with asyncio.timeout(30), serve("caller in a host") as server:
        soon = perf_counter_ns() + 200_000_000
        with pytest.raises(DeadlineError):
            await server.model("a").infer(request_of("pass on", do="hold", deadline_ns=soon))
        assert held.began.is_set()
        await held.ended.wait()


async def test_a_host_that_dies_leaves_no_call_behind(serve, held):
    async with asyncio.timeout(30), serve("caller in a host") as server:
        pid = server.model("a")._runtime.pid
        asking = asyncio.ensure_future(server.model("a").infer(request_of("pass on", do="hold")))
        await held.began.wait()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ModelNotReadyError, match="SIGKILL"):
            await asking
        await held.ended.wait()
        answer = await server.model("a").infer(request_of("by_name"))
        assert b'"sum"' in answer.output("found").array[0]


class Observer:
    def __init__(self):
        self.seen = []

    def observe(self, request, answer):
        self.seen.append(IS_INNER.get())

    def close(self):
        pass


async def test_no_monitor_counts_what_a_model_in_a_host_asks(serve):
    async with serve("caller in a host") as server:
        server.model("t").observers = [observer := Observer()]
        await server.model("a").infer(request_of("by_name"))
        await server.model("t").infer(x=[1.0])
        assert observer.seen == [True, False]


async def test_what_is_loaded_anew_and_unloaded_is_seen(serve, client_of):
    async with serve("caller in a host") as server, client_of(server) as client:

        async def ask():
            answer = await server.model("a").infer(request_of("pass on", do=""))
            return answer.arrays["most"].tolist()

        assert await ask() == [2, 3]
        folder = server.model("t")._runtime  # the old one is closed
        code = CODE.replace("x + 1", "x + 5")
        path = next(iter(server._models._entries["t"].values())).source.folder
        (path / "runtimes.py").write_text(code)
        assert (await client.post("/v2/repository/models/t/load")).status_code == 200
        assert folder is not server.model("t")._runtime
        assert await ask() == [6, 7]
        await client.post("/v2/repository/models/t/unload")
        with pytest.raises(ModelNotReadyError, match="model 't' is not ready: unloaded"):
            await ask()


async def test_a_model_in_a_host_is_not_loaded_without_what_it_needs(add, models_dir):
    add("a", "Caller", HOST, needs=["gone"])
    add("b", "Caller", HOST)
    async with Server([models_dir], plugins=()) as server:
        lines = {line.name: line.reason for line in await server.index()}
    assert "it needs the model 'gone': model 'gone' is not served here" in lines["a"]
    assert "model 't' is not served here" in lines["b"]


@pytest.mark.parametrize("place", ["here", "caller in a host", "both in one host"])
async def test_what_is_under_way_when_the_server_stops_reaches_what_it_needs(place, serve, until):
    async with asyncio.timeout(30), serve(place) as server:
        model = server.model("a")
        asking = asyncio.ensure_future(model.infer(request_of("threads")))
        await until(lambda: model.statistics.in_flight)
        await server.stop()
        assert (await asking).output("found").array[0].startswith(b"[[1.0], [2.0]")


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.sampled_from([*range(6), -1]), max_size=8), min_size=2, max_size=4))
async def test_no_answer_is_anothers_whoever_asks_at_the_same_time(serve, callers):
    async with asyncio.timeout(60), serve("both in hosts", "ManyCaller") as server:

        async def ask(steps):
            for step in steps:
                request = request_of("pass on", float(step), do="refuse" if step < 0 else "")
                with contextlib.suppress(InvalidRequestError, ModelNotFoundError):
                    answer = await server.model("a").infer(request)
                    assert answer.arrays["most"].tolist() == [step + 1]
                    assert step >= 0

        await asyncio.gather(*map(ask, callers))
        assert server.model("t").statistics.in_flight == 0
