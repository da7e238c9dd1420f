"""Paths of their own that models in host processes answer: as those in process do."""

import asyncio
import json
import os
import signal
import sys
import types

import numpy as np
import pytest

from jackfield import Server, ServerSettings

CODE = """
import asyncio
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse

from jackfield import (
    InferRequest, InferResponse, InvalidRequestError, ModelContext, OverloadedError, Tensor, route,
)

FOLDER = Path({folder!r})


class Asked(msgspec.Struct):
    row: int
    deep: bool = False


async def meet():
    \"\"\"Tell the test that this began, and wait until it goes on.\"\"\"
    await asyncio.to_thread((FOLDER / "began").write_text, "began")


class Mine:
    def __init__(self, context: ModelContext):
        self.context = context

    def infer(self, x: int) -> int:
        return x

    def close(self):
        (FOLDER / "closed").write_text("closed")

{routes}
"""
#: Each with the body of a method, what it takes, and what is asked of it.
CASES = {
    "dict": ("", "return {'a': np.array([1, 2]), 'b': float('nan'), 3: None}", {}),
    "numbers": ("", "return [np.float32(0.1), np.array([0.1], 'f4'), np.int8(3), 1e300]", {}),
    "text": ("", "return 'hé'", {}),
    "nothing": ("", "return None", {}),
    "no JSON": ("", "return object()", {}),
    "surrogate": ("", "return '\\ud800'", {}),
    "raises": ("", "raise ValueError('swordfish')", {}),
    "exits": ("", "raise SystemExit(3)", {}),
    "stops": ("", "raise StopIteration", {}),
    "refuses": ("", "raise InvalidRequestError('row', expected='1', found='2')", {}),
    "is overloaded": ("", "raise OverloadedError('other', limit=7)", {}),
    "refuses by status": ("", "raise HTTPException(409, 'no', headers={'X-Why': 'so'})", {}),
    "a response": ("", "return PlainTextResponse('hi', 418, {'X-A': 'b'})", {}),
    "an empty response": ("", "return PlainTextResponse('', 204)", {}),
    "a file": ("", "return FileResponse(FOLDER / 'a file')", {}),
    "a stream": ("", "return StreamingResponse(iter([b'a', b'', 'b' * 700_000]))", {}),
    "a stream that fails": ("", "return StreamingResponse(fail())", {}),
    "tensors": (
        "",
        "return InferResponse([Tensor.from_array('a', np.eye(2))], {'b': [1]}, id='mine')",
        {},
    ),
    "request": (
        "request: Request",
        "return [request.method, request.url.path, request.url.query, request.path_params,"
        " dict(request.query_params), request.headers['x-a'], request.scope['root_path'],"
        " request.client.host, request.base_url.hostname]",
        {"params": {"q": "ä"}, "headers": {"x-a": "b"}},
    ),
    "json": ("asked: Asked", "return [asked.row, asked.deep]", {"json": {"row": 1}}),
    "wrong json": ("asked: Asked", "return asked.row", {"json": {"row": "a"}}),
    "no json": ("asked: Asked", "return asked.row", {"content": b"{"}),
    "json and request": (
        "asked: Asked, request: Request",
        "return [asked.row, request.query_params['q']]",
        {"json": {"row": 1}, "params": {"q": "a"}},
    ),
    "infer request": (
        "body: InferRequest",
        "return InferResponse([*body.inputs], {'p': body.parameters['p'], 'id': body.id,"
        " 'has deadline': bool(body.deadline_ns)}, id=body.id)",
        {
            "json": {
                "id": "one",
                "parameters": {"p": [1, "é"]},
                "inputs": [
                    {"name": "x", "shape": [2], "datatype": "FP64", "data": [1, 2]},
                    {"name": "s", "shape": [1], "datatype": "BYTES", "data": ["é"]},
                ],
            },
            "headers": {"x-request-timeout-ms": "20000"},
        },
    ),
    "wrong infer request": ("body: InferRequest", "return 1", {"json": {"inputs": 3}}),
    "too large": ("asked: Asked", "return 1", {"content": b" " * 5000 + b'{"row": 1}'}),
}
ASYNC_CASES = {
    "body": ("request: Request", "return (await request.body()).decode()", {"content": b"hi"}),
    "no body": ("request: Request", "return len(await request.body())", {}),
    "body too large": (
        "request: Request",
        "return len(await request.body())",
        {"content": b"x" * 5000},
    ),
    "unread body": ("request: Request", "return request.method", {"content": b"x" * 5000}),
    "form": ("request: Request", "return (await request.json())['a']", {"json": {"a": [1]}}),
    "is here": ("request: Request", "return await request.is_disconnected()", {}),
    "background": (
        "",
        "return PlainTextResponse('hi', background=BackgroundTask(meet_nobody))",
        {},
    ),
}
HELPERS = """
def fail():
    yield b'a'
    raise ValueError('swordfish')


def meet_nobody():
    (FOLDER / "background").write_text("done")

"""
PLACES = {"here": {}, "in a host": {"scheduler": "process"}}
POOL = {"scheduler": "process", "parameters": {"inference_pool_gid": "one"}}
EVERYWHERE = pytest.mark.parametrize("place", PLACES)


def write_routes(cases):
    """Write each as a coroutine function and, where it awaits nothing, as a plain one."""
    lines = []
    for number, (takes, body, asked) in enumerate(cases.values()):
        methods = ["POST" if {"json", "content"} & set(asked) else "GET"]
        kinds = ["async def"] if "await" in body or "async" in body else ["async def", "def"]
        for kind in kinds:
            name = f"{kind[0]}{number}"
            lines.append(f"@route('/{name}', methods={methods})")
            lines.append(f"{kind} {name}(self{takes and ', ' + takes}):\n        {body}")
    return lines


@pytest.fixture
def serve(add_model, tmp_path):
    def serve(place, *routes, name="m", version="", given=None, **settings):
        code = CODE.replace("class Mine:", HELPERS + "\nclass Mine:")
        code = code.replace("{folder!r}", repr(str(tmp_path)))
        code = code.replace("{routes}", "".join(f"    {each}\n" for each in routes))
        folder = add_model(
            name, "Mine", code=code, version=version, **(PLACES[place] | (given or {}))
        )
        return Server([folder], plugins=(), settings=ServerSettings(**settings))

    return serve


async def answers(server, client, cases):
    """Ask every path; give what a caller sees."""
    found = {}
    for number, (case, (_, body, asked)) in enumerate(cases.items()):
        kinds = "a" if "await" in body or "async" in body else "ad"
        method = "POST" if {"json", "content"} & set(asked) else "GET"
        for kind in kinds:
            answer = await client.request(method, f"/v2/models/m/{kind}{number}", **asked)
            headers = {
                name: value
                for name, value in answer.headers.items()
                if name not in ("last-modified", "date")
            }
            text = answer.content.replace(b"/d", b"/a")  # the paths differ
            found[case, kind] = [answer.status_code, text, headers]
    return found


async def test_a_path_answers_the_same_from_a_host(serve, client_of, tmp_path, caplog):
    (tmp_path / "a file").write_bytes(b"of mine" * 1000)
    cases = CASES | ASYNC_CASES
    found = {}
    for place in PLACES:
        server = serve(place, *write_routes(cases), max_body_bytes=4000)
        async with asyncio.timeout(60), server, client_of(server) as client:
            caplog.clear()
            found[place] = await answers(server, client, cases)
            assert "swordfish" in caplog.text
        assert (tmp_path / "background").read_text() == "done"
        (tmp_path / "background").unlink()
    here = {case: each for case, each in found["here"].items() if case[1] == "a"}
    assert not [case for case, each in here.items() if b"swordfish" in each[1]]
    statuses = {case: each[0] for (case, _), each in here.items()}
    assert statuses["dict"] == statuses["a stream"] == statuses["infer request"] == 200
    assert statuses["refuses"] == statuses["wrong json"] == statuses["no json"] == 400
    assert statuses["too large"] == statuses["body too large"] == 413
    assert statuses["raises"] == statuses["exits"] == statuses["stops"] == 500
    assert statuses["is overloaded"] == 429
    assert json.loads(here["numbers", "a"][1]) == [0.1, [0.1], 3, 1e300]
    assert here["infer request", "a"][1].count(b'"has deadline":true') == 1
    for case, each in found["in a host"].items():
        assert each == found["here"][case], case


@EVERYWHERE
async def test_paths_may_have_parameters_versions_and_methods(place, serve, client_of):
    route = (
        "@route('/f/{row:int}/{id:uuid}', methods=['get', 'DELETE'])\n"
        "    async def f(self, request: Request):\n"
        "        return [request.method, {name: repr(each) for name, each in "
        "request.path_params.items()}]"
    )
    async with serve(place, route, version="3") as server, client_of(server) as client:
        one = "00000000-0000-0000-0000-000000000001"
        expected = {"model": "'m'", "row": "7", "id": f"UUID('{one}')"}
        assert (await client.get(f"/v2/models/m/f/7/{one}")).json() == ["GET", expected]
        found = await client.delete(f"/v2/models/m/versions/3/f/7/{one}")
        assert found.json() == ["DELETE", {**expected, "version": "'3'"}]
        assert (await client.post(f"/v2/models/m/f/7/{one}")).status_code == 405
        assert (await client.get("/v2/models/m/f/x/y")).status_code == 404


@EVERYWHERE
async def test_a_path_may_be_at_the_root(place, serve, client_of):
    route = "@route('/f/{row}', at_root=True)\n    async def f(self): return 1"
    async with serve(place, route) as server, client_of(server) as client:
        assert (await client.get("/f/7")).json() == 1


@EVERYWHERE
async def test_a_coroutine_function_runs_on_the_loop_and_a_plain_one_in_a_thread(
    place, serve, client_of
):
    body = "return [threading.current_thread() is threading.main_thread()]"
    routes = [
        f"@route('/{name}')\n    {kind} {name}(self): {body}"
        for name, kind in (("f", "async def"), ("g", "def"))
    ]
    async with serve(place, *routes) as server, client_of(server) as client:
        assert (await client.get("/v2/models/m/f")).json() == [True]
        assert (await client.get("/v2/models/m/g")).json() == [False]


@EVERYWHERE
async def test_a_path_holds_as_many_requests_as_its_queue(place, serve, client_of, gate):
    route = "@route('/f')\n    def f(self): (FOLDER / 'go on').read_text()"
    server = serve(place, route, given={"max_queue": 1})
    async with asyncio.timeout(30), server, client_of(server) as client:
        asking = asyncio.create_task(client.get("/v2/models/m/f"))
        opened = await gate("go on").opened()
        refused = await client.get("/v2/models/m/f")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        opened()
        assert (await asking).status_code == 200


class Gate:
    """A FIFO at which a model waits until the test lets it go on."""

    def __init__(self, path):
        self._path = path
        os.mkfifo(path)

    async def opened(self):
        """Wait until somebody waits there; gives what lets him go on."""
        file = await asyncio.to_thread(os.open, self._path, os.O_WRONLY)

        def go_on():
            os.close(file)

        return go_on


@pytest.fixture
def gate(tmp_path):
    def make(name):
        return Gate(tmp_path / name)

    return make


class Caller:
    """One who calls an ASGI app, and leaves when the test says so."""

    def __init__(self, app, path, *bodies, send=None):
        self._left = asyncio.Event()
        self._bodies = [
            {"type": "http.request", "body": body, "more_body": True} for body in bodies
        ]
        #: Parts that the app has taken.
        self.taken = 0
        self.sent = asyncio.Queue()
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "root_path": "",
            "query_string": b"",
            "headers": [],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, send or self.sent.put))

    async def _receive(self):
        if self._bodies:
            self.taken += 1
            return self._bodies.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def leave(self):
        """Leave, and wait until the app is done."""
        self._left.set()
        await self.task


LEFT = {
    "waiting": "def f(self):\n        try:\n            {meet}\n            await wait()",
    "request": "def f(self, request: Request):\n        try:\n            {meet}\n"
    "            await wait()",
    "reading": "def f(self, request: Request):\n        try:\n            {meet}\n"
    "            await request.body()",
    "streaming": "def f(self):\n        return StreamingResponse(self.parts())\n\n"
    "    async def parts(self):\n        try:\n            yield b'a'\n            {meet}\n"
    "            await wait()",
}


@EVERYWHERE
@pytest.mark.parametrize("case", LEFT)
async def test_a_caller_who_leaves_cancels_what_answers_him(
    case, place, serve, client_of, gate, tmp_path
):
    body = LEFT[case].replace("{meet}", "await asyncio.to_thread((FOLDER / 'go on').read_text)")
    body = body.replace("wait()", "asyncio.Event().wait()")
    ended = "        finally:\n            (FOLDER / 'ended').write_text('ended')"
    route = f"@route('/f', methods=['POST'])\n    async {body}\n{ended}"
    async with asyncio.timeout(30), serve(place, route) as server, client_of(server) as client:
        caller = Caller(server, "/v2/models/m/f")
        opened = await gate("go on").opened()
        opened()
        await caller.leave()
        assert (tmp_path / "ended").read_text() == "ended"
        # nothing is held for him any more
        await asyncio.wait_for(server._models.unload("m"), 20)
        assert (await client.get("/v2/models/m/f")).status_code == 503


@EVERYWHERE
async def test_a_model_is_not_freed_while_its_plain_method_runs(
    place, serve, gate, tmp_path, add_model, models_dir
):
    route = (
        "@route('/f', methods=['POST'])\n    def f(self):\n"
        "        (FOLDER / 'go on').read_text()\n"
        "        assert not (FOLDER / 'closed').exists()\n"
        "        (FOLDER / 'ended').write_text('ended')"
    )
    # the process stays: it has another model
    given = POOL if PLACES[place] else {}
    serve(place, route, given=given)
    add_model("other", **given)
    async with asyncio.timeout(30), Server([models_dir], plugins=()) as server:
        caller = Caller(server, "/v2/models/m/f")
        opened = await gate("go on").opened()
        leaving = asyncio.ensure_future(caller.leave())
        unloading = asyncio.ensure_future(server._models.unload("m"))
        for _ in range(5):  # what the process had to do before these is done
            await server.model("other").infer(x=[1.0])
        assert not unloading.done()
        assert not leaving.done()
        opened()
        await asyncio.gather(unloading, leaving)
        assert (tmp_path / "ended").exists()
        assert (tmp_path / "closed").exists()


async def test_a_process_that_is_to_end_waits_for_the_plain_method_that_runs(
    serve, gate, tmp_path, until
):
    routes = [
        "@route('/plain', methods=['POST'])\n    def f(self):\n"
        "        (FOLDER / 'go on').read_text()\n"
        "        assert not (FOLDER / 'closed').exists()\n"
        "        (FOLDER / 'ended').write_text('ended')",
        "@route('/waiting', methods=['POST'])\n    async def g(self):\n"
        "        try:\n            await meet()\n            await asyncio.Event().wait()\n"
        "        finally:\n            (FOLDER / 'cancelled').write_text('cancelled')",
    ]
    async with asyncio.timeout(30), serve("in a host", *routes) as server:
        callers = [Caller(server, f"/v2/models/m/{name}") for name in ("plain", "waiting")]
        opened = await gate("go on").opened()
        await until((tmp_path / "began").exists)
        closing = asyncio.ensure_future(asyncio.to_thread(server.model("m")._runtime.close))
        await until((tmp_path / "cancelled").exists)  # so far it has come
        assert not (tmp_path / "closed").exists()
        opened()
        await closing
        await asyncio.gather(*(each.task for each in callers))
        assert (tmp_path / "ended").exists()
        assert (tmp_path / "closed").exists()


@EVERYWHERE
async def test_a_body_is_read_no_further_than_the_method_does(place, serve):
    route = (
        "@route('/f', methods=['POST'])\n    async def f(self, request: Request):\n"
        "        async for part in request.stream():\n            return part.decode()"
    )
    async with asyncio.timeout(30), serve(place, route) as server:
        caller = Caller(server, "/v2/models/m/f", *[b"%d" % each for each in range(50)])
        await caller.task
        await caller.sent.get()
        assert (await caller.sent.get())["body"] == b'"0"'
        assert caller.taken <= 2


async def test_an_answer_runs_not_far_ahead_of_a_slow_caller(serve, client_of):
    routes = [
        "@route('/f', methods=['POST'])\n    async def f(self):\n"
        "        return StreamingResponse(self.parts())\n\n"
        "    async def parts(self):\n        for self.at in range(1000):\n"
        "            yield b'%d' % self.at",
        "@route('/at')\n    async def show(self): return self.at",
    ]
    server = serve("in a host", *routes)
    async with asyncio.timeout(30), server, client_of(server) as client:
        slow = Slow(server, "/v2/models/m/f")
        await slow.has_part.wait()
        for _ in range(20):
            at = (await client.get("/v2/models/m/at")).json()
        assert at < 10
        slow.may_take.set()
        await slow.task
        assert b"".join(slow.parts) == b"".join(b"%d" % each for each in range(1000))


class Slow(Caller):
    """One who takes a part only when he may."""

    def __init__(self, app, path):
        self.has_part, self.may_take = asyncio.Event(), asyncio.Event()
        self.parts = []
        super().__init__(app, path, send=self._take)

    async def _take(self, message):
        if message["type"] == "http.response.body":
            self.parts.append(message["body"])
            self.has_part.set()
            await self.may_take.wait()


async def test_a_host_that_dies_fails_what_it_answers_and_the_next_has_the_paths(
    serve, client_of, gate
):
    routes = [
        "@route('/f')\n    def f(self): (FOLDER / 'go on').read_text()",
        "@route('/g')\n    async def g(self): return 'there'",
    ]
    server = serve("in a host", *routes)
    async with asyncio.timeout(30), server, client_of(server) as client:
        asking = asyncio.create_task(client.get("/v2/models/m/f"))
        await gate("go on").opened()
        os.kill(server.model("m")._runtime.pid, signal.SIGKILL)
        failed = await asking
        assert failed.status_code == 503
        assert "SIGKILL" in failed.json()["error"]
        assert (await client.get("/v2/models/m/g")).json() == "there"


DIE = "os.kill(os.getpid(), signal.SIGSEGV)"
DEADLY = [
    "@route('/show')\n    def show(self, request: Request):\n"
    f"        return request.url.query or {DIE}",
    "@route('/json', methods=['POST'])\n    async def json(self, asked: Asked):\n"
    f"        return {DIE} if asked.deep else asked.row",
    "@route('/tensors', methods=['POST'])\n    def tensors(self, body: InferRequest):\n"
    f"        return {DIE} if body.inputs[0].array[0] < 0 else 1",
    "@route('/body', methods=['POST'])\n    async def body(self, request: Request):\n"
    f"        return {DIE} if await request.body() else 1",
]
#: What it dies of and what not, and how it answers the first of them three times.
ASKED = {
    "show": ({}, {"params": {"q": "1"}}, [503, 503, 500]),
    "json": ({"json": {"row": 1, "deep": True}}, {"json": {"row": 1}}, [503, 503, 500]),
    "tensors": ({"json": {"inputs": [-1]}}, {"json": {"inputs": [1]}}, [503, 503, 500]),
    # what the method reads itself is not known when it dies
    "body": ({"content": b"a"}, {"content": b""}, [503, 503, 503]),
}


@pytest.mark.parametrize("path", ASKED)
async def test_what_a_host_died_of_twice_at_a_path_is_refused(path, serve, client_of):
    deadly, harmless, expected = ASKED[path]
    method = "GET" if path == "show" else "POST"

    async def ask(given):
        if "inputs" in given.get("json", {}):
            given = {"json": body_of(*given["json"]["inputs"])}
        return await client.request(method, f"/v2/models/m/{path}", **given)

    server = serve("in a host", *DEADLY)
    async with asyncio.timeout(60), server, client_of(server) as client:
        found = [await ask(deadly) for _ in expected]
        assert [each.status_code for each in found] == expected
        if expected[-1] == 500:
            pid = server.model("m")._runtime.pid
            assert "SIGSEGV" in found[-1].json()["error"]
            assert (await ask(deadly)).status_code == 500
            assert server.model("m")._runtime.pid == pid
        assert (await ask(harmless)).status_code == 200


async def test_what_is_asked_of_a_path_by_many_at_the_same_time_is_found(serve, client_of):
    server = serve("in a host", *DEADLY)
    async with asyncio.timeout(60), server, client_of(server) as client:

        async def ask():
            return (await client.get("/v2/models/m/show")).status_code

        for expected in (503, 503, 500):
            assert await asyncio.gather(ask(), ask(), ask()) == [expected] * 3


WITHOUT = """
import sys

sys.modules["starlette.requests"] = None

from jackfield import InferRequest, route


class Mine:
    def infer(self, x: int) -> int:
        return x

    @route("/tensors", methods=["POST"])
    def tensors(self, body: InferRequest): return body.inputs[0].array

    @route("/json", methods=["POST"])
    def json(self, body: dict): return body

    @route("/request", is_needed=False)
    def request(self, request): return 1
"""


async def test_a_path_that_takes_starlettes_request_needs_starlette(add_model, client_of, caplog):
    folder = add_model("m", "Mine", code=WITHOUT, scheduler="process")
    tensor = {"name": "x", "shape": [1], "datatype": "INT64", "data": [7]}
    async with Server([folder], plugins=()) as server, client_of(server) as client:
        assert "'/request' are not served: Starlette is not in its environment" in caplog.text
        found = await client.post("/v2/models/m/tensors", json={"inputs": [tensor]})
        assert found.json() == [7]
        assert (await client.post("/v2/models/m/json", json={"a": 1})).json() == {"a": 1}
        assert (await client.get("/v2/models/m/request")).status_code == 404
    needed = WITHOUT.replace(", is_needed=False", "")
    folder = add_model("m", "Mine", code=needed, scheduler="process")
    async with Server([folder], plugins=()) as server:
        [line] = await server.index()
        assert "'/request' take Starlette's request" in line.reason
        assert "add 'starlette' to its requirements" in line.reason


EXPLAINER = """
import asyncio
import sys

import numpy as np

from jackfield import InferRequest, InferResponse, ModelContext, Tensor, route


class Target:
    async def infer(self, x: np.ndarray) -> np.ndarray:
        if x[0] < 0:
            stage = sys.modules["stage"]
            stage.began.set()
            try:
                await asyncio.Event().wait()
            finally:
                stage.ended.set()
        return 2 * x


class Explainer:
    def __init__(self, context: ModelContext):
        self.context = context

    def infer(self, x: np.ndarray) -> np.ndarray:
        return self.context.model("t").infer(x=x).outputs[0].array

    @route("/explain", methods=["POST"], on_needed=True)
    def explain(self, body: InferRequest) -> InferResponse:
        found = self.context.model("t").infer(body)
        return InferResponse([Tensor.from_array("by", np.array([7])), *found.outputs])

    @route("/explain_async", methods=["POST"], on_needed=True)
    async def explain_async(self, body: InferRequest) -> InferResponse:
        return await asyncio.to_thread(self.explain, body)
"""
EXPLAINING = {
    "here": ({}, {}),
    "explainer in a host": (PLACES["in a host"], {}),
    "both in hosts": (PLACES["in a host"], PLACES["in a host"]),
    "both in one host": (POOL, POOL),
}


@pytest.fixture
def explaining(add_model, models_dir):
    def serve(place):
        first, second = EXPLAINING[place]
        add_model("a", "Explainer", code=EXPLAINER, needs=["t"], **first)
        add_model("t", "Target", code=EXPLAINER, **second)
        return Server([models_dir], plugins=())

    return serve


def body_of(*values):
    tensor = {"name": "x", "shape": [len(values)], "datatype": "FP64", "data": values}
    return {"inputs": [tensor], "id": "one"}


@pytest.mark.parametrize("place", EXPLAINING)
async def test_an_explainer_answers_at_the_path_of_its_model(place, explaining, client_of):
    async with asyncio.timeout(30), explaining(place) as server, client_of(server) as client:
        for model, path in (("a", "explain"), ("t", "explain"), ("t", "explain_async")):
            found = await client.post(f"/v2/models/{model}/{path}", json=body_of(1, 2))
            assert found.status_code == 200, found.text
            assert found.json()["model_name"] == "a"
            assert [each["data"] for each in found.json()["outputs"]] == [[7], [2, 4]]
        found = await client.post("/v2/models/a/infer", json=body_of(1, 2))
        assert found.json()["outputs"][0]["data"] == [2, 4]


@pytest.mark.parametrize("place", EXPLAINING)
async def test_a_path_takes_and_gives_binary_tensors(place, explaining, client_of):
    head = (
        b'{"inputs":[{"name":"x","shape":[60000],"datatype":"FP64",'
        b'"parameters":{"binary_data_size":480000}}],"parameters":{"binary_data_output":true}}'
    )
    headers = {"inference-header-content-length": str(len(head))}
    values = np.arange(60000.0)
    async with asyncio.timeout(30), explaining(place) as server, client_of(server) as client:
        content = head + values.tobytes()
        found = await client.post("/v2/models/t/explain", content=content, headers=headers)
        length = int(found.headers["inference-header-content-length"])
        assert json.loads(found.content[:length])["model_name"] == "a"
        tensors = found.content[length:]
        assert np.frombuffer(tensors[:8], "<i8").tolist() == [7]
        np.testing.assert_array_equal(np.frombuffer(tensors[8:], "<f8"), 2 * values)


class Stage(types.ModuleType):
    def __init__(self):
        super().__init__("stage")
        self.began, self.ended = asyncio.Event(), asyncio.Event()


@pytest.mark.parametrize("path", ["explain", "explain_async"])
async def test_a_caller_who_leaves_a_path_ends_the_calls_that_it_makes(
    path, explaining, monkeypatch
):
    stage = Stage()
    monkeypatch.setitem(sys.modules, "stage", stage)
    async with asyncio.timeout(30), explaining("explainer in a host") as server:
        caller = Body(server, f"/v2/models/t/{path}", json.dumps(body_of(-1)).encode())
        await stage.began.wait()
        await caller.leave()
        await stage.ended.wait()


class Body(Caller):
    """One who sends a body, whole."""

    def __init__(self, app, path, body):
        super().__init__(app, path, body)
        self._bodies[0]["more_body"] = False
