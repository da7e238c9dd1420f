"""Models that call others of the same server."""

import asyncio
import itertools
import logging
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield import (
    ModelContext,
    ModelLoadError,
    ModelNotReadyError,
    ModelSettings,
    Server,
    ServerSettings,
)
from jackfield._needs import find_cycle

CODE = """
import numpy as np
from jackfield import InferRequest, InferResponse, ModelContext, Tensor, route


class Twice:
    is_closed = False

    def infer(self, x: np.ndarray) -> np.ndarray:
        assert not self.is_closed
        return 2 * x

    def close(self):
        self.is_closed = True


class Caller:
    def __init__(self, context: ModelContext):
        self.context = context
        self.name = context.settings.needs[0]
        self.found = context.model(self.name).infer(x=np.array([1.0])).arrays

    def infer(self, x: np.ndarray) -> np.ndarray:
        (found,) = self.context.model(self.name).infer(x=x).arrays.values()
        return found + 1

    @route("/explain", methods=["POST"], on_needed=True)
    def explain(self, request: InferRequest) -> InferResponse:
        found = self.context.model(self.name).infer(request)
        return InferResponse([Tensor.from_array("by", np.array([7])), *found.outputs])


class Late(Caller):
    def __init__(self, context: ModelContext):
        self.context = context
        self.name = context.extra["calls"]

    async def on_the_loop(self, x):
        return self.context.model(self.name)


class OnTheLoop(Late):
    async def infer(self, x: np.ndarray) -> np.ndarray:
        return self.context.model(self.name).infer(x=x).arrays["y"]
"""


@pytest.fixture
def add(add_model):
    def add(name, kind="Caller", **settings):
        return add_model(name, kind, code=CODE, **settings)

    return add


def is_served(server, name):
    try:
        server.model(name)
    except ModelNotReadyError:
        return False
    return True


async def reason(server, name):
    (line,) = [line for line in await server.index() if line.name == name]
    return line.reason


@pytest.mark.parametrize("names", list(itertools.permutations("abc")))
async def test_what_a_model_needs_is_loaded_before_it(names, add, models_dir):
    first, second, third = names
    add(first, "Twice")
    add(second, needs=[first])
    add(third, needs=[second])
    async with Server([models_dir], plugins=()) as server:
        answer = await server.model(third).infer(x=[1.0, 2.0])
    np.testing.assert_array_equal(*answer.arrays.values(), [4.0, 6.0])


async def test_more_models_may_wait_than_load_at_the_same_time(add, models_dir):
    for place in range(9):
        add(f"m{place}", needs=["z"])
    add("z", "Twice")
    async with Server([models_dir], plugins=()) as server:
        answers = await asyncio.gather(
            *(server.model(f"m{place}").infer(x=[float(place)]) for place in range(9))
        )
    assert [answer.outputs[0].array[0] for answer in answers] == [2 * x + 1 for x in range(9)]


async def test_a_model_is_not_loaded_without_what_it_needs(add, models_dir):
    add("a", needs=["gone"])
    add("b", needs=["broken"])
    add("broken", "Nothing")
    add("good", "Twice")
    async with Server([models_dir], plugins=()) as server:
        assert "it needs the model 'gone': model 'gone' is not served here" in await reason(
            server, "a"
        )
        told = await reason(server, "b")
        assert "it needs the model 'broken': model 'broken' is not ready" in told
        assert "has no class or function 'Nothing'" in told
        assert (await server.model("good").infer(x=[1.0])).outputs[0].array == [2]


async def test_models_that_need_each_other_are_refused(add, models_dir):
    add("a", needs=["b"])
    add("b", needs=["c"])
    add("c", needs=["a"])
    add("self", needs=["self"])
    add("good", "Twice")
    async with Server([models_dir], plugins=()) as server:
        assert "'a' -> 'b' -> 'c' -> 'a'" in await reason(server, "a")
        assert "'c' -> 'a' -> 'b' -> 'c'" in await reason(server, "c")
        assert "'self' -> 'self'" in await reason(server, "self")
        assert (await server.model("good").infer(x=[1.0])).outputs[0].array == [2]


async def test_a_reload_of_what_is_needed_is_seen(add, models_dir, client_of):
    add("a", "Late", extra={"calls": "t"})
    add("t", "Twice")
    async with Server([models_dir], plugins=()) as server, client_of(server) as client:
        assert (await server.model("a").infer(x=[1.0])).outputs[0].array == [3]
        add("t", "Twice", extra={}).joinpath("runtimes.py").write_text(CODE.replace("2 *", "10 *"))
        assert (await client.post("/v2/repository/models/t/load")).status_code == 200
        assert (await server.model("a").infer(x=[1.0])).outputs[0].array == [11]
        await client.post("/v2/repository/models/t/unload")
        with pytest.raises(ModelNotReadyError, match="model 't' is not ready: unloaded"):
            await server.model("a").infer(x=[1.0])


class Stage:
    """Holds a model up in its call of another, until the test lets it go on."""

    def __init__(self):
        self.is_inferring, self.may_go_on = threading.Event(), threading.Event()


HELD = (
    CODE
    + """
import sys

class Held(Caller):
    def infer(self, x: np.ndarray) -> np.ndarray:
        sys.modules["stage"].is_inferring.set()
        assert sys.modules["stage"].may_go_on.wait(20)
        return self.context.model(self.name).infer(x=x).arrays["output-0"] + 1
"""
)


async def test_what_is_under_way_when_the_server_stops_reaches_what_it_needs(
    add, add_model, models_dir, monkeypatch, until
):
    stage = Stage()
    monkeypatch.setitem(sys.modules, "stage", stage)
    add_model("a", "Held", code=HELD, needs=["t"])
    add("t", "Twice")
    async with asyncio.timeout(20), Server([models_dir], plugins=()) as server:
        model = server.model("a")
        answer = asyncio.ensure_future(model.infer(x=[1.0]))
        await asyncio.to_thread(stage.is_inferring.wait, 20)
        stopping = asyncio.ensure_future(server.stop())
        await until(lambda: not is_served(server, "a"))
        stage.may_go_on.set()
        assert (await answer).outputs[0].array == [3]
        await stopping


async def test_calling_another_model_on_the_loop_is_refused(add, models_dir, caplog):
    add("a", "OnTheLoop", extra={"calls": "t"})
    add("t", "Twice")
    async with Server([models_dir], plugins=()) as server:
        with pytest.raises(Exception, match="model 'a' failed"):
            await server.model("a").infer(x=[1.0])
    assert "on the event loop" in caplog.text


def test_a_context_without_a_server_says_so():
    context = ModelContext(
        name="m",
        version="",
        artifact=None,
        settings=ModelSettings(),
        options=None,
        logger=logging.getLogger(),
    )
    with pytest.raises(ModelLoadError, match=r"'t'.*not served at all"):
        context.model("t")


BODY = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP64", "data": [1, 2]}]}


async def test_a_path_is_that_of_the_model_that_is_needed_too(add, models_dir, client_of):
    add("t", "Twice")
    add("a", needs=["t"])
    async with Server([models_dir], plugins=()) as server, client_of(server) as client:
        for path in ("a", "t"):
            found = await client.post(f"/v2/models/{path}/explain", json=BODY)
            assert found.status_code == 200, found.text
            answer = found.json()
            assert answer["model_name"] == "a"
            assert [each["data"] for each in answer["outputs"]] == [[7], [2, 4]]
        assert (await client.get("/v2/models/t/explain")).status_code == 405
        assert (await client.post("/v2/models/a/explain", json={})).status_code == 400
        found = await client.post("/v2/models/t/other", json=BODY)
        assert found.status_code == 404


async def test_two_that_bring_a_path_to_a_model_are_told(add, models_dir, client_of):
    add("t", "Twice")
    for name in ("a", "b"):
        add(name, needs=["t"])
    async with Server([models_dir], plugins=()) as server, client_of(server) as client:
        found = await client.post("/v2/models/t/explain", json=BODY)
        assert found.status_code == 404
        assert "'a', 'b'" in found.json()["error"]
        assert (await client.post("/v2/models/b/explain", json=BODY)).status_code == 200
        await client.post("/v2/repository/models/b/unload")
        assert (await client.post("/v2/models/t/explain", json=BODY)).json()["model_name"] == "a"


async def test_a_path_takes_and_gives_binary_tensors(add, models_dir, client_of):
    add("t", "Twice")
    add("a", needs=["t"])
    head = (
        b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP64",'
        b'"parameters":{"binary_data_size":16}}],"parameters":{"binary_data_output":true}}'
    )
    headers = {"inference-header-content-length": str(len(head))}
    async with Server([models_dir], plugins=()) as server, client_of(server) as client:
        body = head + np.array([1.5, 2.5]).tobytes()
        found = await client.post("/v2/models/t/explain", content=body, headers=headers)
        assert found.status_code == 200, found.text
        length = int(found.headers["inference-header-content-length"])
        assert np.frombuffer(found.content[length:][-16:], "<f8").tolist() == [3, 5]
        assert np.frombuffer(found.content[length:][:8], "<i8").tolist() == [7]


async def test_a_path_keeps_the_limit_of_a_body(add, models_dir, client_of):
    add("t", "Twice")
    add("a", needs=["t"])
    settings = ServerSettings(max_body_bytes=20)
    server = Server([models_dir], plugins=(), settings=settings)
    async with server, client_of(server) as client:
        assert (await client.post("/v2/models/t/explain", json=BODY)).status_code == 413


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefg"), max_size=4), max_size=6
    )
)
def test_a_cycle_is_found_where_there_is_one(needs):
    for name in needs:
        reached, edge = set(), set(needs[name])
        while edge - reached:
            reached |= edge
            edge = {far for near in edge for far in needs.get(near, ())}
        way = find_cycle(needs, name)
        assert bool(way) == (name in reached)
        assert all(far in needs[near] for near, far in itertools.pairwise(way))
        assert not way or way[0] == way[-1] == name
