import asyncio
import base64
import contextlib
import itertools
import json

import httpx
import pytest

from jackfield import PayloadTooLargeError, Server, ServerSettings
from jackfield._http.body import read_body

LIMIT = 2000


pytestmark = pytest.mark.usefixtures("nothing_blocks_the_loop")


@pytest.fixture
def served(models_dir, client_of):
    """Serve what is in the models' folder, without a socket."""

    @contextlib.asynccontextmanager
    async def served(**settings):
        settings = ServerSettings(max_body_bytes=LIMIT, **settings)
        async with (
            Server([models_dir], plugins=(), settings=settings) as server,
            client_of(server) as client,
        ):
            yield client

    return served


def check_error(answer, status, *texts):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    for text in texts:
        assert text in body["error"]


# ---- what goes well ----


async def test_an_answer_has_the_models_name_outputs_and_no_empty_fields(
    add_model, served, body_of
):
    add_model("double")
    async with served() as client:
        answer = await client.post("/v2/models/double/infer", content=body_of(1, 2.5, id="abc"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "model_name": "double",
        "id": "abc",
        "outputs": [{"name": "y", "shape": [2], "datatype": "FP64", "data": [2, 5]}],
    }


async def test_the_version_is_in_the_answer_of_a_versioned_model(add_model, served, body_of):
    add_model("double", version="7")
    async with served() as client:
        for path in ("double", "double/versions/7"):
            answer = await client.post(f"/v2/models/{path}/infer", content=body_of(1))
            assert answer.json()["model_version"] == "7"


async def test_an_id_is_made_where_none_is_given(add_model, served, body_of):
    add_model("double")
    async with served() as client:
        bodies = [body_of(1), body_of(1, id=None), body_of(1, id="")]
        answers = [await client.post("/v2/models/double/infer", content=body) for body in bodies]
    ids = [answer.json()["id"] for answer in answers]
    assert all(isinstance(each, str) and each for each in ids)
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.x+json",
        "application/octet-stream",
    ],
)
async def test_json_is_read_by_any_of_its_names(add_model, served, body_of, content_type):
    add_model("double")
    headers = {"content-type": content_type} if content_type else {}
    async with served() as client:
        answer = await client.post("/v2/models/double/infer", content=body_of(1), headers=headers)
    assert answer.status_code == 200


async def test_bytes_that_are_no_text_come_as_base64(add_model, served, body_of):
    add_model("m", "Binary")
    async with served() as client:
        answer = await client.post("/v2/models/m/infer", content=body_of(1))
    [output] = answer.json()["outputs"]
    assert output["parameters"] == {"content_type": "base64"}
    assert [base64.b64decode(each) for each in output["data"]] == [b"\xff\x00", b"ab"]


async def test_parameters_reach_the_runtime_and_come_back(add_model, served, body_of):
    add_model("m", "Echo")
    parameters = {"a": [1, {"b": None}], "é": "ü"}
    async with served() as client:
        answer = await client.post("/v2/models/m/infer", content=body_of(1, parameters=parameters))
    assert answer.json()["parameters"] == parameters


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
async def test_health_answers_with_both_keys(add_model, served, method, path):
    add_model("double")
    async with served() as client:
        answer = await client.request(method, path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    if method == "GET":
        assert answer.json() == {"live": True, "ready": True}


@pytest.mark.parametrize("path", ["double", "double/versions/2"])
async def test_a_models_readiness_names_it(add_model, served, path):
    add_model("double", version="2")
    async with served() as client:
        answer = await client.get(f"/v2/models/{path}/ready")
    assert answer.status_code == 200
    assert answer.json() == {"name": "double", "live": True, "ready": True}


async def test_the_servers_metadata_lists_what_it_serves(served):
    async with served(server_name="mine") as client:
        answer = (await client.get("/v2")).json()
    assert answer["name"] == "mine"
    assert answer["version"]
    assert answer["extensions"] == [
        "binary_tensor_data",
        "classification",
        "logging",
        "model_configuration",
        "model_repository",
        "model_repository(unload_dependents)",
        "parameters",
        "statistics",
        "trace",
    ]


async def test_a_name_with_letters_of_any_kind_is_reached(add_model, served, body_of):
    add_model("grün 1", folder="a")
    async with served() as client:
        answer = await client.post("/v2/models/gr%C3%BCn%201/infer", content=body_of(1))
    assert answer.json()["model_name"] == "grün 1"


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("/v2/models/dubble/infer", ["model 'dubble' is not served here", "'double'"]),
        ("/v2/models/double/versions/9/infer", ["version '9' of model 'double'", "'1' or '2'"]),
        ("/v2/nothing", ["nothing at '/v2/nothing'"]),
        ("/", ["the API starts at /v2"]),
        ("/v2/models/a/b/infer", ["nothing at"]),
    ],
)
async def test_what_is_not_there_is_404_with_close_names(add_model, served, body_of, path, texts):
    add_model("double", version="1")
    add_model("double", version="2")
    async with served() as client:
        check_error(await client.post(path, content=body_of(1)), 404, *texts)


@pytest.mark.parametrize(
    "path", ["dubble", "dubble/ready", "double/versions/9", "double/versions/9/ready"]
)
async def test_metadata_and_readiness_of_what_is_not_there_are_404(add_model, served, path):
    add_model("double", version="1")
    async with served() as client:
        check_error(await client.get(f"/v2/models/{path}"), 404, "is not served here")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/models/double/infer", {"POST"}),
        ("DELETE", "/v2/models/double/infer", {"POST"}),
        ("POST", "/v2/models/double", {"GET", "HEAD"}),
        ("POST", "/v2/health/ready", {"GET", "HEAD"}),
        ("GET", "/v2/repository/index", {"POST"}),
        ("GET", "/v2/repository/models/double/load", {"POST"}),
    ],
)
async def test_the_wrong_method_is_405_with_the_right_ones(
    add_model, served, method, path, allowed
):
    add_model("double")
    async with served() as client:
        answer = await client.request(method, path)
    check_error(answer, 405, f"method {method} is not allowed at '{path}'")
    assert {each.strip() for each in answer.headers["allow"].split(",")} == allowed


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"content-type": "text/csv"}, "expected application/json, found text/csv"),
        ({"content-type": "application/x-www-form-urlencoded"}, "expected application/json"),
        ({"content-encoding": "br"}, "expected gzip or deflate, found br"),
    ],
)
async def test_what_is_not_json_is_415(add_model, served, body_of, headers, text):
    add_model("double")
    async with served() as client:
        answer = await client.post("/v2/models/double/infer", content=body_of(1), headers=headers)
    check_error(answer, 415, text)


async def chunks(size):
    for _ in range(size // 100):
        yield b" " * 100


@pytest.mark.parametrize(
    ("content", "found"),
    [(b" " * (LIMIT + 1), f"found {LIMIT + 1} bytes"), (chunks(LIMIT + 1000), "found more")],
    ids=["announced", "chunked"],
)
@pytest.mark.parametrize("path", ["models/double/infer", "repository/index"])
async def test_a_body_over_the_limit_is_413_with_the_limit(add_model, served, path, content, found):
    add_model("double")
    if not isinstance(content, bytes):
        content = chunks(LIMIT + 1000)
    async with served() as client:
        answer = await client.post(f"/v2/{path}", content=content)
    check_error(answer, 413, f"at most {LIMIT} bytes", "max_body_bytes")
    if path.startswith("models"):
        assert found in answer.json()["error"]


async def test_a_body_at_the_limit_is_read(add_model, served, body_of):
    add_model("double")
    async with served() as client:
        body = body_of(1).ljust(LIMIT)
        assert (await client.post("/v2/models/double/infer", content=body)).status_code == 200


async def test_a_body_in_one_piece_is_measured_though_nobody_announced_it():
    async def receive():
        return {"type": "http.request", "body": b"x" * 11}

    with pytest.raises(PayloadTooLargeError):
        await read_body(receive, 10)


@pytest.mark.parametrize("when", ["before", "amid"])
async def test_a_caller_that_goes_while_it_sends_has_no_half_a_body_run(
    add_model, models_dir, body_of, when
):
    add_model("double")
    messages = [{"type": "http.request", "body": body_of(1), "more_body": True}]
    messages = [*(messages if when == "amid" else []), {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v2/models/double/infer",
        "headers": [],
        "query_string": b"",
    }
    async with Server([models_dir], plugins=()) as server:
        await server(scope, receive, send)
        counted = server._metrics.registry.get_sample_value(
            "jackfield_infer_seconds_count", {"model": "double", "version": ""}
        )
    assert counted == 0
    assert sent[0]["status"] == 400


async def test_a_body_that_is_wrong_is_400_with_its_path(add_model, served):
    add_model("double")
    body = {"inputs": [{"name": "x", "shape": [2], "datatype": "INT8", "data": [1, 400]}]}
    async with served() as client:
        answer = await client.post("/v2/models/double/infer", json=body)
    check_error(
        answer, 400, "model 'double': inputs[0].data[1]: expected an integer <= 127, found 400"
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "expected JSON"),
        (b'{"ready": 3}', "ready: expected true or false, found an integer"),
        (b"[]", "expected an object, found an array"),
        (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", None),
        (b'{"a": "\xff"}', None),
    ],
)
async def test_a_bad_index_request_is_400(add_model, served, body, text):
    async with served() as client:
        answer = await client.post("/v2/repository/index", content=body)
    if text is None:
        assert answer.status_code in (200, 400)
    else:
        check_error(answer, 400, text)


async def test_a_deep_index_request_is_400(add_model, models_dir, client_of):
    async with (
        Server([models_dir], plugins=()) as server,
        client_of(server) as client,
    ):
        body = b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
        check_error(await client.post("/v2/repository/index", content=body), 400, "expected JSON")


async def test_a_model_that_is_not_ready_is_503_and_says_when_to_try_again(
    add_model, served, body_of
):
    add_model("bad", "BrokenOnLoad")
    async with served() as client:
        answer = await client.post("/v2/models/bad/infer", content=body_of(1))
        check_error(answer, 503, "model 'bad' is not ready: failed to load: OSError: the file")
        assert int(answer.headers["retry-after"]) >= 1
        answer = await client.get("/v2/models/bad/ready")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["ready"] is False
        assert "the file is corrupt" in answer.json()["error"]


async def test_a_full_queue_is_429_and_says_when_to_try_again(add_model, served, body_of, stage):
    add_model("m", "Staged", max_queue=1)
    async with served() as client:
        first = asyncio.create_task(client.post("/v2/models/m/infer", content=body_of(1)))
        await stage.until_inferring()
        answer = await client.post("/v2/models/m/infer", content=body_of(2))
        check_error(answer, 429, "model 'm' is overloaded: 1 requests")
        assert int(answer.headers["retry-after"]) >= 1
        stage.may_answer.set()
        assert (await first).status_code == 200


async def test_what_a_runtime_raises_is_500_for_the_caller_and_whole_in_the_log(
    add_model, served, body_of, caplog
):
    add_model("m", "Failing", version="3")
    async with served() as client:
        answer = await client.post("/v2/models/m/infer", content=body_of(1))
    check_error(answer, 500, "version '3' of model 'm' failed on this request")
    assert "swordfish" not in answer.text
    assert "ValueError: the password is swordfish" in caplog.text


async def test_an_answer_that_cannot_be_encoded_is_500_and_in_the_log(
    add_model, served, body_of, caplog
):
    add_model("m", "Unencodable")
    async with served() as client:
        answer = await client.post("/v2/models/m/infer", content=body_of(1))
    check_error(answer, 500, "its log tells why")
    assert "swordfish" not in answer.text
    assert "/v2/models/m/infer failed" in caplog.text


@pytest.mark.parametrize("host", ["[", "a b", "", "\xff"])
async def test_a_host_header_that_is_none_changes_nothing(served, host):
    async with served() as client:
        headers = {"host": host.encode("latin-1")}
        check_error(await client.get("/nowhere", headers=headers), 404, "nothing at '/nowhere'")
        assert (await client.get("/v2", headers=headers)).status_code == 200


# ---- one connection through all of it ----

TENSOR = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}
GOOD = {"inputs": [TENSOR]}


def with_tensor(**changes):
    return json.dumps({"inputs": [TENSOR | changes]})


#: status, method, path, body, headers
FAULTS = {
    "malformed": (400, "POST", "models/double/infer", "{", {}),
    "empty": (400, "POST", "models/double/infer", "", {}),
    "missing field": (400, "POST", "models/double/infer", "{}", {}),
    "bad shape": (400, "POST", "models/double/infer", with_tensor(shape=[-1]), {}),
    "mismatch": (400, "POST", "models/double/infer", with_tensor(shape=[3]), {}),
    "range": (400, "POST", "models/double/infer", with_tensor(datatype="INT8", data=[999]), {}),
    "model": (404, "POST", "models/nothing/infer", json.dumps(GOOD), {}),
    "version": (404, "POST", "models/double/versions/9/infer", json.dumps(GOOD), {}),
    "path": (404, "GET", "nothing", "", {}),
    "method": (405, "GET", "models/double/infer", "", {}),
    "method with a body": (405, "PUT", "models/double/infer", json.dumps(GOOD), {}),
    "announced": (413, "POST", "models/double/infer", "x" * (LIMIT + 1), {}),
    "media type": (415, "POST", "models/double/infer", "a,b", {"content-type": "text/csv"}),
    "full": (429, "POST", "models/staged/infer", json.dumps(GOOD), {}),
    "runtime": (500, "POST", "models/failing/infer", json.dumps(GOOD), {}),
    "unencodable": (500, "POST", "models/unencodable/infer", json.dumps(GOOD), {}),
    "not ready": (503, "POST", "models/broken/infer", json.dumps(GOOD), {}),
}


@pytest.mark.parametrize(
    ("server", "protocol"),
    [("uvicorn", "HTTP/1.1"), ("hypercorn", "HTTP/1.1"), ("hypercorn", "HTTP/2")],
)
async def test_a_connection_answers_good_requests_after_every_error(
    add_model, models_dir, running, request_of, stage, server, protocol
):
    add_model("double")
    add_model("staged", "Staged", max_queue=1)
    add_model("failing", "Failing")
    add_model("unencodable", "Unencodable")
    add_model("broken", "BrokenOnLoad")
    versions = {"http1": protocol == "HTTP/1.1", "http2": protocol == "HTTP/2"}
    async with (
        running(models_dir, http_server=server, max_body_bytes=LIMIT) as run,
        run.client(**versions, limits=httpx.Limits(max_connections=1)) as client,
    ):
        held = asyncio.create_task(run.server.model("staged").infer(request_of(1)))
        await stage.until_inferring()
        connections = set()
        for case, (status, method, path, body, headers) in FAULTS.items():
            answer = await client.request(method, f"/v2/{path}", content=body, headers=headers)
            assert answer.http_version == protocol
            assert answer.status_code == status, case
            check_error(answer, status)
            good = await client.post("/v2/models/double/infer", json=GOOD | {"id": case})
            assert good.status_code == 200, case
            assert good.json()["id"] == case
            for each in (answer, good):
                stream = each.extensions["network_stream"]
                connections.add(stream.get_extra_info("client_addr"))
        stage.may_answer.set()
        await held
    assert len(connections) == 1


@pytest.mark.parametrize(
    ("server", "versions"),
    [
        ("uvicorn", {}),
        ("hypercorn", {}),
        ("hypercorn", {"http1": False, "http2": True}),
    ],
    ids=["uvicorn", "hypercorn", "hypercorn HTTP/2"],
)
async def test_a_chunked_body_over_the_limit_is_413_and_the_client_goes_on(
    add_model, models_dir, running, server, versions
):
    add_model("double")
    async with (
        running(models_dir, http_server=server, max_body_bytes=LIMIT) as run,
        run.client(**versions) as client,
    ):
        for _ in range(3):
            answer = await client.post("/v2/models/double/infer", content=chunks(LIMIT + 2000))
            check_error(answer, 413, "found more")
            assert (await client.post("/v2/models/double/infer", json=GOOD)).status_code == 200


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
async def test_many_bodies_over_the_limit_leave_an_http2_window_open(
    add_model, models_dir, running, server
):
    add_model("double")
    versions = {"http1": server == "uvicorn", "http2": server == "hypercorn"}
    async with (
        running(models_dir, http_server=server, max_body_bytes=LIMIT) as run,
        run.client(**versions, limits=httpx.Limits(max_connections=1)) as client,
    ):
        for _ in range(20):
            answer = await client.post("/v2/models/double/infer", content=b"x" * 30_000)
            assert answer.status_code == 413
        assert (await client.post("/v2/models/double/infer", json=GOOD)).status_code == 200


async def test_a_large_tensor_goes_through_in_both_directions(add_model, models_dir, running):
    add_model("m", "Echo")
    data = list(itertools.islice(itertools.cycle([1.5, -2.25, 3e-7]), 200_000))
    tensor = {"name": "x", "shape": [len(data)], "datatype": "FP64", "data": data}
    async with running(models_dir) as run, run.client() as client:
        answer = await client.post("/v2/models/m/infer", json={"inputs": [tensor]})
    assert answer.json()["outputs"][0]["data"] == data


async def test_an_app_may_stand_below_a_path_of_another(add_model, models_dir, client_of):
    from starlette.applications import Starlette
    from starlette.routing import Mount

    add_model("double")
    async with Server([models_dir], plugins=()) as server:
        app = Starlette(routes=[Mount("/ml", server)])
        async with client_of(app) as client:
            assert (await client.get("/ml/v2/health/ready")).status_code == 200
            answer = await client.post("/ml/v2/models/double/infer", json=GOOD)
            assert answer.json()["outputs"][0]["data"] == [2]
            answer = await client.post("/ml/v2/models/dubble/infer", json=GOOD)
            check_error(answer, 404, "did you mean 'double'")
            check_error(await client.get("/ml/v2/models/double/infer"), 405)


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
async def test_a_path_that_a_proxy_strips_changes_nothing(add_model, models_dir, running, server):
    add_model("double")
    async with (
        running(models_dir, http_server=server, root_path="/ml") as run,
        run.client() as client,
    ):
        assert (await client.post("/v2/models/double/infer", json=GOOD)).status_code == 200
