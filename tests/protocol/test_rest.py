"""REST as plain HTTP clients use it: server-sent events, generate, headers, compression, CORS."""

import asyncio
import gzip
import json
import os
import zlib
from urllib.parse import urljoin

import httpx
import numpy as np
import pytest
from tests.protocol.conftest import MAX_BODY_BYTES
from tests.protocol.triton import TIMEOUT_S
from tests.serving import serving, write_model

INFER = "/v2/models/echo/infer"
FAILING = "model 'counting' failed on this request; the server's log tells why"


def body(name: str = "x", datatype: str = "INT64", data: object = (1,), **fields: object):
    given = {"name": name, "shape": [len(data)], "datatype": datatype, "data": data}
    return {"inputs": [given], **fields}


@pytest.fixture
async def client(server):
    # an encoding is accepted where a test says so
    headers = {"accept-encoding": "identity"}
    async with httpx.AsyncClient(
        base_url=server.http, timeout=TIMEOUT_S, headers=headers
    ) as client:
        yield client


# ---- server-sent events ----


async def events(answer: httpx.Response):
    """Read events as they come: each is one `data:` line and an empty one."""
    lines = answer.aiter_lines()
    async for line in lines:
        assert line.startswith("data: ")
        assert await anext(lines) == ""
        yield json.loads(line.removeprefix("data: "))


each_stream = pytest.mark.parametrize("route", ["infer_stream", "generate_stream"])


@each_stream
async def test_a_stream_is_one_whole_response_for_each_event(client, route):
    sent = body("n", data=[3], id="a-1")
    async with client.stream("POST", f"/v2/models/counting/{route}", json=sent) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        found = [event async for event in events(answer)]
    assert [event["outputs"][0]["data"] for event in found] == [[0], [1], [2]]
    assert {(event["model_name"], event["id"]) for event in found} == {("counting", "a-1")}


@each_stream
async def test_a_versioned_path_reaches_its_version(client, route):
    path = f"/v2/models/versioned/versions/2/{route}"
    async with client.stream("POST", path, json=body()) as answer:
        (found,) = [event async for event in events(answer)]
    # a model without a stream of its own gives its one response
    assert (found["model_version"], found["outputs"][0]["data"]) == ("2", [1])


@each_stream
async def test_a_stream_of_nothing_has_no_event(client, route):
    path = f"/v2/models/counting/{route}"
    async with client.stream("POST", path, json=body("n", data=[0])) as answer:
        assert (answer.status_code, [event async for event in events(answer)]) == (200, [])


@each_stream
@pytest.mark.parametrize(
    ("model", "sent", "status", "text"),
    [
        pytest.param("nobody", body(), 404, "model 'nobody' is not served here", id="no model"),
        pytest.param("broken", body(), 503, "'broken' is not ready", id="not ready"),
        pytest.param("counting", {"inputs": []}, 400, "inputs: ", id="no inputs"),
        pytest.param("counting", body("n", data=[9], parameters={"refuse_at": 0}), 400,
                     "model 'counting': n: expected less, found 0", id="refused"),
        pytest.param("counting", body("n", data=[9], parameters={"fail_at": 0}), 500,
                     FAILING, id="failed"),
    ],
)  # fmt: skip
async def test_what_fails_before_the_first_event_has_its_real_status(
    client, route, model, sent, status, text
):
    answer = await client.post(f"/v2/models/{model}/{route}", json=sent)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json().keys() == {"error"}
    assert text in answer.json()["error"]


@each_stream
@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"refuse_at": 2}, "model 'counting': n: expected less, found 2"),
        ({"fail_at": 2}, FAILING),
    ],
    ids=["refused", "failed"],
)
async def test_what_fails_later_is_the_last_event(client, route, parameters, text):
    sent = body("n", data=[9], parameters=parameters)
    async with client.stream("POST", f"/v2/models/counting/{route}", json=sent) as answer:
        assert answer.status_code == 200
        found = [event async for event in events(answer)]
    assert [event["outputs"][0]["data"] for event in found[:-1]] == [[0], [1]]
    assert found[-1] == {"error": text}


@each_stream
async def test_a_caller_who_leaves_cancels_the_model(client, repository, route):
    fifo = os.open(repository / "endless" / "cancelled", os.O_RDWR)
    try:
        sent = body("n", id=f"left {route}")
        async with client.stream("POST", f"/v2/models/endless/{route}", json=sent) as answer:
            first = await anext(events(answer))
            assert first["outputs"][0]["data"] == [0]
        async with asyncio.timeout(TIMEOUT_S):
            told = await asyncio.to_thread(os.read, fifo, 1000)
        assert told.decode() == f"cancelled left {route}\n"
    finally:
        os.close(fifo)


# ---- generate ----


async def test_the_flat_form_is_inputs_by_name_and_parameters_beside(client):
    sent = {"x": "hello", "id": "a-1", "temperature": 0.5, "stop": ["a"]}
    answer = await client.post("/v2/models/told/generate", json=sent)
    found = answer.json()
    assert (found["model_name"], found["id"]) == ("told", "a-1")
    assert json.loads(found["told"]) == {
        "request": {"temperature": 0.5, "stop": ["a"]},
        "inputs": {"x": {}},
        "outputs": {},
    }


async def test_the_flat_form_streams_flat_events(client):
    sent = {"n": 2, "refuse_at": 5}
    async with client.stream("POST", "/v2/models/counting/generate_stream", json=sent) as answer:
        found = [event async for event in events(answer)]
    assert [event["k"] for event in found] == [0, 1]


async def test_a_list_fills_the_sizes_that_are_open(client):
    answer = await client.post("/v2/models/one/generate", json={"x": [[1, 2], [3, 4], [5, None]]})
    assert answer.json()["x"] == [1, 2, 3, 4, 5, None]


async def test_generate_takes_the_protocols_form_too(client):
    answer = await client.post("/v2/models/counting/generate", json=body("n", data=[4]))
    assert answer.json()["outputs"] == [
        {"name": "k", "shape": [1], "datatype": "INT64", "data": [4]}
    ]


@pytest.mark.parametrize("route", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("sent", "text"),
    [
        pytest.param(b'{"m": 1}', "a key for an input, which are 'n', found 'm'", id="no input"),
        pytest.param(b'{"n": "a"}', "model 'counting': n", id="text for a number"),
        pytest.param(b'{"n": [1, 2]}', "1 elements for the shape [1], found 2", id="many"),
        pytest.param(b'{"n": 1, "parameters": 7}', "'parameters' to be an object", id="parameters"),
        pytest.param(b'{"n": 1, "id": 7}', "'id' a string", id="id"),
        pytest.param(b'{"n": 1, "k": "\xff"}', "model 'counting': body", id="no text"),
        pytest.param(b"[1]", "model 'counting': ", id="no object"),
        pytest.param(b"{", "model 'counting': body", id="no JSON"),
    ],
)  # fmt: skip
async def test_a_bad_flat_form_is_refused(client, route, sent, text):
    answer = await client.post(f"/v2/models/counting/{route}", content=sent)
    assert answer.status_code == 400
    assert text in answer.json()["error"]


# ---- headers ----


@pytest.mark.parametrize("route", ["infer", "infer_stream", "generate", "generate_stream"])
async def test_headers_go_in_and_out_for_a_model_that_asks(client, route):
    sent = body(datatype="BYTES", data=["a"])
    headers = {"X-Question": "why"}
    answer = await client.post(f"/v2/models/listening/{route}", json=sent, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-answer"] == "to why"
    found = json.loads(answer.text.removeprefix("data: "))
    assert "parameters" not in found
    told = json.loads(found["outputs"][0]["data"][0])["request"]
    assert told["headers"]["x-question"] == "why"

    answer = await client.post(f"/v2/models/deaf/{route}", json=sent, headers=headers)
    found = json.loads(answer.text.removeprefix("data: "))
    assert json.loads(found["outputs"][0]["data"][0])["request"] == {}
    assert "x-answer" not in answer.headers


async def test_a_header_that_http_has_not_is_left_out(client):
    # the echo answers the parameters of its request, so that a caller decides on its headers
    wanted = {
        "x-good": "ä 1",
        "Content-Length": "7",
        "transfer-encoding": "chunked",
        "x-split": "a\r\nx-more: b",
        "x-zero": "\0",
        "x-far": "ζ",
        "x y": "a",
        "": "a",
        "x:": "a",
    }
    sent = body(parameters={"headers": wanted})
    answer = await client.post(INFER, json=sent)
    assert answer.json()["outputs"][0]["data"] == [1]
    assert answer.headers["x-good"] == "ä 1"
    named = {name for name in answer.headers if name.startswith("x")}
    assert named == {"x-good"}


# ---- compression ----

PACK = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", PACK)
async def test_bodies_are_compressed_both_ways(client, encoding):
    sent = json.dumps(body("x", "FP64", [0.5] * 1000)).encode()
    # neither names nor values of headers have a case
    headers = {"CONTENT-ENCODING": encoding.upper(), "Accept-Encoding": encoding}
    answer = await client.post(INFER, content=PACK[encoding](sent), headers=headers)
    assert answer.headers["content-encoding"] == encoding
    assert int(answer.headers["content-length"]) < 1000
    assert answer.json()["outputs"][0]["data"] == [0.5] * 1000


@pytest.mark.parametrize("encoding", PACK)
async def test_the_length_of_the_json_is_that_before_compression(client, encoding):
    sent = np.arange(1000)
    given = {"name": "x", "shape": [1000], "datatype": "INT64"}
    given["parameters"] = {"binary_data_size": sent.nbytes}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    headers = {
        "inference-header-content-length": str(len(head)),
        "content-encoding": encoding,
        "accept-encoding": encoding,
    }
    packed = PACK[encoding](head + sent.tobytes())
    answer = await client.post(INFER, content=packed, headers=headers)
    assert answer.headers["content-encoding"] == encoding
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["name"] == "x"
    assert answer.content[length:] == sent.tobytes()


@pytest.mark.parametrize("accepted", ["identity", "br", "gzip;q=0", ""])
async def test_nothing_is_compressed_for_who_does_not_accept_it(client, accepted):
    sent = body("x", "FP64", [0.5] * 1000)
    answer = await client.post(INFER, json=sent, headers={"accept-encoding": accepted})
    assert "content-encoding" not in answer.headers
    assert answer.json()["outputs"][0]["data"] == [0.5] * 1000


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("route", ["infer", "infer_stream", "generate", "generate_stream"])
async def test_a_bomb_is_refused(client, encoding, route):
    bomb = PACK[encoding](b" " * 50_000_000)
    assert len(bomb) < MAX_BODY_BYTES
    headers = {"content-encoding": encoding}
    answer = await client.post(f"/v2/models/echo/{route}", content=bomb, headers=headers)
    assert answer.status_code == 413
    assert str(MAX_BODY_BYTES) in answer.json()["error"]


# ---- what an operator sets: CORS, a path of a proxy ----

ORIGIN = "https://page.example"


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("behind")
    write_model(folder, "echo.Echo", name="echo")
    settings = {
        "host": "127.0.0.1",
        "root_path": "/ml",
        "cors_settings": {"allow_origins": [ORIGIN], "expose_headers": ["x-answer"]},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    with serving(folder) as served, httpx.Client(base_url=served.http, timeout=TIMEOUT_S) as client:
        yield client


def test_a_page_of_an_allowed_origin_may_infer(behind_proxy):
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    answer = behind_proxy.options(INFER, headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"]

    answer = behind_proxy.post(INFER, json=body(), headers={"Origin": ORIGIN})
    assert answer.json()["outputs"][0]["data"] == [1]
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-expose-headers"] == "x-answer"

    answer = behind_proxy.post(INFER, json={}, headers={"Origin": ORIGIN})
    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_a_page_of_another_origin_may_not(behind_proxy):
    asked = {"Origin": "https://else.example", "Access-Control-Request-Method": "POST"}
    answer = behind_proxy.options(INFER, headers=asked)
    assert "access-control-allow-origin" not in answer.headers


def test_no_page_may_where_nobody_said_so(server):
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{server.http}{INFER}", headers=asked)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


def test_a_path_that_a_proxy_strips_changes_nothing(behind_proxy):
    assert behind_proxy.post(INFER, json=body()).json()["outputs"][0]["data"] == [1]
    page = "/ml/v2/docs/dataplane.json"
    document = behind_proxy.get(page.removeprefix("/ml")).json()
    # seen from where the page is for its reader, the paths begin below the proxy's
    assert [urljoin(page, each["url"]) for each in document["servers"]] == ["/ml/"]
    assert INFER.replace("echo", "{model}") in document["paths"]
