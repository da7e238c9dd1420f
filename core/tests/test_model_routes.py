import asyncio

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from jackfield import Server, ServerSettings
from jackfield._routes import TAKEN

HEAD = """
import threading
import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from jackfield import InvalidRequestError, route


class Asked(msgspec.Struct):
    row: int
    deep: bool = False


"""


def code(*routes):
    infer = "    def infer(self, x: int) -> int: return x\n"
    return f"{HEAD}class Mine:\n{infer}" + "".join(f"    {each}\n" for each in routes)


@pytest.fixture
def serve(add_model):
    def serve(*routes, name="m", version="", **settings):
        folder = add_model(name, "Mine", code=code(*routes), version=version)
        return Server([folder], plugins=(), settings=ServerSettings(**settings))

    return serve


ANSWERS = {
    "dict": (
        "def f(self): return {'a': np.array([1, 2]), 'b': float('nan')}",
        {"a": [1, 2], "b": None},
    ),
    "list": ("async def f(self): return [1]", [1]),
    "text": ("async def f(self): return 'hi'", "hi"),
    "nothing": ("async def f(self): return None", None),
    "request": (
        "async def f(self, request: Request): return dict(request.query_params)",
        {"q": "1"},
    ),
    "unannotated": ("async def f(self, r): return r.method", "GET"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_a_method_answers_a_path(case, serve, client_of):
    method, expected = ANSWERS[case]
    async with serve(f"@route('/f')\n    {method}") as server, client_of(server) as client:
        found = await client.get("/v2/models/m/f?q=1")
        assert (found.status_code, found.json()) == (200, expected)
        assert found.headers["content-type"] == "application/json"


async def test_a_response_is_sent_as_it_is(serve, client_of):
    route = "@route('/f')\n    async def f(self): return PlainTextResponse('hi', 418)"
    async with serve(route) as server, client_of(server) as client:
        found = await client.get("/v2/models/m/f")
        assert (found.status_code, found.text) == (418, "hi")


async def test_a_body_is_decoded_by_its_annotation(serve, client_of):
    route = "@route('/f', methods=['POST'])\n    def f(self, asked: Asked): return asked.row + 1"
    async with serve(route) as server, client_of(server) as client:
        assert (await client.post("/v2/models/m/f", json={"row": 1})).json() == 2
        found = await client.post("/v2/models/m/f", json={"row": "a"})
        assert found.status_code == 400
        assert found.json() == {"error": "model 'm': row: expected an integer, found a string"}


async def test_the_request_and_a_body_are_taken_both(serve, client_of):
    route = (
        "@route('/f', methods=['POST'])\n"
        "    def f(self, asked: Asked, request: Request): "
        "return [asked.row, request.query_params['q']]"
    )
    async with serve(route) as server, client_of(server) as client:
        found = await client.post("/v2/models/m/f?q=a", json={"row": 1})
        assert (found.status_code, found.json()) == (200, [1, "a"])


async def test_paths_may_have_parameters_versions_and_methods(serve, client_of):
    route = (
        "@route('/f/{row:int}', methods=['get', 'DELETE'])\n"
        "    async def f(self, request: Request): return [request.method, request.path_params]"
    )
    async with serve(route, version="3") as server, client_of(server) as client:
        expected = {"model": "m", "row": 7}
        assert (await client.get("/v2/models/m/f/7")).json() == ["GET", expected]
        found = await client.delete("/v2/models/m/versions/3/f/7/")
        assert found.json() == ["DELETE", {**expected, "version": "3"}]
        found = await client.post("/v2/models/m/f/7")
        assert found.status_code == 405
        assert "method POST is not allowed at '/v2/models/m/f/7', only" in found.json()["error"]
        for path in ("m/f/x", "m/g", "m/versions/4/f/7", "n/f/7"):
            found = await client.get(f"/v2/models/{path}")
            assert found.status_code == 404
            assert "there is nothing at" in found.json()["error"]


async def test_a_plain_method_runs_in_a_thread(serve, client_of):
    route = "@route('/f')\n    def f(self): return threading.current_thread().name"
    async with serve(route) as server, client_of(server) as client:
        assert (await client.get("/v2/models/m/f")).json() != "MainThread"


async def test_the_servers_own_paths_keep_their_answers(serve, client_of):
    async with (
        serve("@route('/f')\n    def f(self): return 1") as server,
        client_of(server) as client,
    ):
        assert (await client.get("/v2/models/m/infer")).status_code == 405
        assert (await client.get("/v2/models/m/ready")).json()["ready"]


async def test_routes_go_with_the_model_and_a_reload_swaps_them(add_model, serve, client_of):
    async with (
        serve("@route('/old')\n    def f(self): return 1") as server,
        client_of(server) as client,
    ):
        assert (await client.get("/v2/models/m/old")).json() == 1
        add_model("m", "Mine", code=code("@route('/new')\n    def f(self): return 2"))
        assert (await client.post("/v2/repository/models/m/load")).status_code == 200
        assert (await client.get("/v2/models/m/new")).json() == 2
        assert (await client.get("/v2/models/m/old")).status_code == 404
        await client.post("/v2/repository/models/m/unload")
        found = await client.get("/v2/models/m/new")
        assert found.status_code == 503
        assert "unloaded" in found.json()["error"]


async def test_models_have_their_own(add_model, models_dir, client_of):
    for name in ("a", "b"):
        add_model(name, "Mine", code=code(f"@route('/f')\n    def f(self): return '{name}'"))
    async with Server([models_dir], plugins=()) as server, client_of(server) as client:
        for name in ("a", "b"):
            assert (await client.get(f"/v2/models/{name}/f")).json() == name


async def test_a_model_is_not_freed_while_its_route_answers(serve, client_of, stage, until):
    route = (
        "@route('/f')\n    def f(self):\n        import stage\n        stage.inferring.release()\n"
        "        assert stage.may_answer.wait(20)\n        stage.log.append('answered')\n"
        "    def close(self):\n        import stage\n        stage.log.append('closed')"
    )
    async with serve(route) as server, client_of(server) as client:
        asking = asyncio.create_task(client.get("/v2/models/m/f"))
        await stage.until_inferring()
        unloading = asyncio.create_task(server._models.unload("m"))
        await until(lambda: not server._models.loaded())
        stage.may_answer.set()
        await unloading
        assert (await asking).status_code == 200
        assert stage.log == ["answered", "closed"]


async def test_a_path_of_a_models_own_holds_as_many_requests_as_its_queue(
    add_model, client_of, stage
):
    route = (
        "@route('/f')\n    def f(self):\n        import stage\n        stage.inferring.release()\n"
        "        assert stage.may_answer.wait(20)\n"
    )
    folder = add_model("m", "Mine", code=code(route), max_queue=2)
    async with Server([folder], plugins=()) as server, client_of(server) as client:
        asking = [asyncio.create_task(client.get("/v2/models/m/f")) for _ in range(2)]
        await stage.until_inferring(2)
        refused = await client.get("/v2/models/m/f")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "model 'm' is overloaded: 2 requests" in refused.json()["error"]
        stage.may_answer.set()
        assert [each.status_code for each in await asyncio.gather(*asking)] == [200, 200]
        assert (await client.get("/v2/models/m/f")).status_code == 200


FAILURES = {
    "raises": (
        "raise ValueError('swordfish')",
        500,
        "model 'm' failed on this request; the server's",
    ),
    "exits": ("raise SystemExit(3)", 500, "model 'm' failed on this request"),
    "no JSON": ("return object()", 500, "model 'm' failed on this request"),
    "refuses": (
        "raise InvalidRequestError('row', expected='1', found='2')",
        400,
        "model 'm': row: ex",
    ),
    "refuses by status": ("raise HTTPException(409, 'no')", 409, "no"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_a_failure_is_answered_as_elsewhere(case, serve, client_of, caplog):
    body, status, text = FAILURES[case]
    for kind in ("def", "async def"):
        route = f"@route('/f')\n    {kind} f(self): {body}"
        async with serve(route) as server, client_of(server) as client:
            found = await client.get("/v2/models/m/f")
            assert found.status_code == status
            assert text in found.json()["error"]
            assert "swordfish" not in found.text
    assert ("swordfish" in caplog.text) == (case == "raises")


async def test_a_body_over_the_limit_is_413(serve, client_of):
    method = "async def f(self, request): return len(await request.body())"
    route = f"@route('/f', methods=['POST'])\n    {method}"
    async with serve(route, max_body_bytes=10) as server, client_of(server) as client:
        assert (await client.post("/v2/models/m/f", content=b"x" * 10)).json() == 10
        assert (await client.post("/v2/models/m/f", content=b"x" * 11)).status_code == 413


REFUSED = {
    "taken": (
        "@route('/infer')\n    def f(self): ...",
        "route '/infer' of 'f' is the server's own",
    ),
    "taken below": (
        "@route('/docs/mine')\n    def f(self): ...",
        "'/docs/mine' of 'f' is the server's",
    ),
    "no slash": (
        "@route('f')\n    def f(self): ...",
        "route 'f' of 'f': expected a path as '/explain'",
    ),
    "root": ("@route('/')\n    def f(self): ...", "expected a path as"),
    "open beginning": ("@route('/{f}')\n    def f(self): ...", "expected a path as"),
    "twice": (
        "@route('/f/{a}')\n    def f(self): ...\n    @route('/f/{b}')\n    def g(self): ...",
        r"route '/f/{b}' of 'g' is the route of 'f' already \(GET\)",
    ),
    "method": ("@route('/f', methods=['TEA'])\n    def f(self): ...", "methods of .*, found TEA"),
    "no method": ("@route('/f', methods=[])\n    def f(self): ...", "methods of .*, found none"),
    "names": (
        "@route('/f/{model}')\n    def f(self): ...",
        "differ from each other, and from model",
    ),
    "parameters": (
        "@route('/f')\n    def f(self, a, b): ...",
        "its method takes a, b; expected the request and one body",
    ),
    "body": (
        "@route('/f')\n    def f(self, a: np.ndarray | set): ...",
        "'a' can't be decoded from",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_route_that_can_not_be_served_is_refused_at_load(case, serve):
    route, text = REFUSED[case]
    async with serve(route) as server:
        [line] = await server.index()
        assert line.state == "UNAVAILABLE"
        with pytest.raises(AssertionError, match=text):
            raise AssertionError(line.reason)


def test_the_taken_names_are_those_of_the_servers_routes(tmp_path):
    app = Server([tmp_path], plugins=())._app
    below = "/v2/models/{model}/"
    paths = [route.path for route in app.routes if isinstance(route, Route)]
    assert {path.split("/")[4] for path in paths if path.startswith(below)} == TAKEN


async def test_a_plugins_runtime_may_have_routes(add_plugin, tmp_path, client_of):
    runtime = """
from jackfield import ArtifactFormat, ModelMetadata, RuntimeSpec, hookimpl, route

@hookimpl
def jackfield_runtimes():
    artifacts = (ArtifactFormat("*.r"),)
    return [RuntimeSpec(name="r", runtime="plugin_jackfield_r:R", artifacts=artifacts)]

class R:
    def __init__(self, context): ...
    def load(self): ...
    def metadata(self): return ModelMetadata()
    def infer(self, request): ...
    def close(self): ...
    @route("/f")
    def f(self): return "plugged"
"""
    add_plugin("r", runtime)
    (tmp_path / "m.r").write_text("")
    async with Server([tmp_path / "m.r"], plugins=["r"]) as server, client_of(server) as client:
        assert (await client.get("/v2/models/m/f")).json() == "plugged"


# ---- at the root ----

AT_ROOT = "@route('/f/{row}', methods=['POST'], at_root=True)\n    async def f(self, request):"
ECHO = f"{AT_ROOT} return [request.path_params['row'], (await request.body()).decode()]"


@pytest.fixture
def serve_both(add_model):
    """Serve two models with the path, and one without."""

    def serve(names=("a", "b")):
        folders = [add_model(name, "Mine", code=code(ECHO)) for name in names]
        return Server([*folders, add_model("plain")], plugins=())

    return serve


async def test_a_path_is_at_the_root_too_where_one_model_has_it(serve_both, client_of):
    async with serve_both(["a"]) as server, client_of(server) as client:
        for path in ("/f/7", "/v2/models/a/f/7", "/f/7/"):
            assert (await client.post(path, content="hi")).json() == ["7", "hi"]
        found = await client.get("/f/7")
        assert (found.status_code, found.headers["allow"]) == (405, "POST")
        assert (await client.post("/other")).status_code == 404


async def test_the_root_is_the_mounts_where_the_server_is_mounted(serve_both, client_of):
    async with serve_both(["a"]) as server:
        app = Starlette(routes=[Mount("/ml", server)])
        async with client_of(app) as client:
            assert (await client.post("/ml/f/7", content="hi")).json() == ["7", "hi"]
            assert (await client.post("/f/7")).status_code == 404


async def test_a_path_of_several_models_is_at_no_root(serve_both, client_of):
    async with serve_both() as server, client_of(server) as client:
        found = await client.post("/f/7", content="hi")
        assert found.status_code == 404
        assert found.json()["error"] == (
            "'/f/7' is a path of several models ('a', 'b'); "
            "put /v2/models/ and a model's name before it"
        )
        assert (await client.post("/v2/models/b/f/7", content="hi")).json() == ["7", "hi"]
        await client.post("/v2/repository/models/a/unload")
        assert (await client.post("/f/7", content="hi")).json() == ["7", "hi"]


async def test_a_path_at_the_root_has_the_limit_on_bodies(serve, client_of):
    async with serve(ECHO, max_body_bytes=10) as server, client_of(server) as client:
        assert (await client.post("/f/7", content="x" * 11)).status_code == 413


@pytest.mark.parametrize("path", ["/v2/f", "/metrics"])
async def test_a_path_of_the_servers_own_is_not_taken_at_the_root(path, serve):
    async with serve(f"@route('{path}', at_root=True)\n    def f(self): return 1") as server:
        [line] = await server.index()
        assert "is the server's own at the root" in line.reason


async def test_a_caller_who_leaves_while_sending_is_no_failure_of_the_model(serve, caplog):
    gone = [{"type": "http.disconnect"}]

    async def receive():
        return gone.pop()

    async def send(message):
        pass

    async with serve(ECHO) as server:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v2/models/m/f/7",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-length", b"9")],
        }
        await server(scope, receive, send)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("turns", range(6))
async def test_a_body_that_comes_after_its_headers_is_whole(serve, turns):
    arrived = asyncio.Event()
    rest = [b"a", b"b", b"c"]
    received = bytearray()

    async def receive():
        # as uvicorn's: what came goes to whoever asks first when it is there
        await arrived.wait()
        if not rest:
            await asyncio.Event().wait()
        body = rest.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(rest)}

    async def send(message):
        received.extend(message.get("body", b""))

    expected = b"".join(rest)
    route = (
        "@route('/f', methods=['POST'])\n"
        "    async def f(self, request: Request):\n"
        "        return PlainTextResponse(await request.body())"
    )
    async with serve(route) as server, asyncio.timeout(10):
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v2/models/m/f",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-length", b"%d" % len(expected))],
        }
        asking = asyncio.create_task(server(scope, receive, send))
        for _ in range(turns):  # of the loop
            await asyncio.sleep(0)
        arrived.set()
        await asking
    assert received == expected
