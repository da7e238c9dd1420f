import asyncio
import hashlib
import itertools
import json
import random
import shutil
import time

import pytest

from jackfield import (
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    RequestedOutput,
    Server,
    ServerSettings,
)
from jackfield._versions import version_key


@pytest.fixture
def serve(models_dir):
    def make(**options):
        return Server([models_dir], plugins=(), **options)

    return make


async def states(server):
    return {(line.name, line.version): (line.state, line.reason) for line in await server.index()}


async def version_of(client, path, body):
    answer = await client.post(f"/v2/models/{path}/infer", content=body)
    assert answer.status_code == 200, answer.text
    return answer.json().get("model_version")


# ---- versions ----


@pytest.mark.parametrize(
    "ordered",
    [
        ["1", "2", "10"],
        ["v1", "v3", "v10"],
        ["1.0", "1.0.1", "1.2", "1.10"],
        ["", "0"],
        # the example of Semantic Versioning 2.0, section 11
        [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "2.0.0-rc.1",
        ],
        ["1.0.0-rc1", "1.0.0-rc2", "1.0.0"],
        ["blue", "green", "1"],
        ["²", "2"],
        ["2024-01-31", "2024-02-01"],
    ],
    ids=lambda ordered: ordered[0] or "none",
)
def test_versions_sort_as_numbers(ordered):
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert sorted(shuffled, key=version_key) == ordered


@pytest.mark.parametrize(
    "texts", list(itertools.permutations(["", "v", "1", "v1-", "1.x", "-", "a.1", "²", "1²"], 2))
)
def test_any_two_versions_can_be_compared(texts):
    assert len(sorted(texts, key=version_key)) == 2


async def test_the_path_without_a_version_goes_to_the_newest(add_model, serve, client_of, body_of):
    for version in ("v3", "v10", "v9"):
        add_model("double", version=version)
    async with serve() as server, client_of(server) as client:
        assert await version_of(client, "double", body_of(1)) == "v10"
        assert await version_of(client, "double/versions/v3", body_of(1)) == "v3"
        metadata = (await client.get("/v2/models/double")).json()
        assert metadata["versions"] == ["v3", "v9", "v10"]


async def test_a_newest_version_that_fails_leaves_the_path_to_the_next(
    add_model, serve, client_of, body_of
):
    add_model("double", version="1")
    add_model("double", "BrokenOnLoad", version="2")
    async with serve() as server, client_of(server) as client:
        assert await version_of(client, "double", body_of(1)) == "1"
        answer = await client.post("/v2/models/double/versions/2/infer", content=body_of(1))
        assert answer.status_code == 503
        assert "the file is corrupt" in answer.json()["error"]


async def test_an_unversioned_model_goes_before_its_versions(add_model, serve, client_of, body_of):
    add_model("double", version="5")
    add_model("double", folder="plain")
    async with serve() as server, client_of(server) as client:
        assert await version_of(client, "double", body_of(1)) is None
        assert await version_of(client, "double/versions/5", body_of(1)) == "5"


# ---- loading ----

BAD_LOADS = {
    "BrokenOnLoad": "OSError: the file is corrupt",
    "RefusesToLoad": "needs another file",
    "ExitsOnLoad": "SystemExit: goodbye",
    "JunkMetadata": "its metadata is dict, not ModelMetadata",
    "JunkCapabilities": "its capabilities are tuple, not Capabilities",
    "NoModel": "class 'NoModel' has no method 'infer'",
    "Missing": "module 'runtimes' has no class or function 'Missing'",
    "FACTOR": "module 'runtimes' has no class or function 'FACTOR'",
}


@pytest.mark.parametrize("kind", BAD_LOADS)
async def test_a_model_that_fails_to_load_tells_why_and_the_others_serve(
    kind, add_model, serve, client_of, body_of, stage
):
    add_model("bad", kind)
    add_model("double")
    async with serve() as server, client_of(server) as client:
        assert (await client.get("/v2/health/ready")).status_code == 200
        state, reason = (await states(server))["bad", ""]
        assert state == "UNAVAILABLE"
        assert BAD_LOADS[kind] in reason
        answer = await client.post("/v2/models/bad/infer", content=body_of(1))
        assert answer.status_code == 503
        assert BAD_LOADS[kind] in answer.json()["error"]
        answer = await client.post("/v2/models/double/infer", content=body_of(1))
        assert answer.json()["outputs"][0]["data"] == [2]


async def test_a_runtime_whose_metadata_is_junk_is_closed(add_model, serve, stage):
    add_model("bad", "JunkMetadata")
    async with serve():
        assert stage.log == ["close junk"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of"),
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise StopIteration", "StopIteration"),
    ],
)
async def test_code_that_cannot_be_imported_is_a_model_that_fails(add_model, serve, code, reason):
    add_model("bad", code=code)
    async with serve() as server:
        state, found = (await states(server))["bad", ""]
    assert state == "UNAVAILABLE"
    assert reason in found


async def test_the_server_is_not_ready_when_nothing_serves(add_model, serve, client_of):
    add_model("bad", "BrokenOnLoad")
    async with serve() as server, client_of(server) as client:
        answer = await client.get("/v2/health/ready")
        assert answer.status_code == 503
        assert answer.json()["error"] == "no model is ready"


async def test_strict_makes_a_failed_model_fatal(add_model, serve):
    add_model("double")
    add_model("bad", "BrokenOnLoad")
    server = serve(settings=ServerSettings(strict=True))
    with pytest.raises(ModelLoadError, match="model 'bad': failed to load: OSError: the file is"):
        await server.start()
    with pytest.raises(ModelNotReadyError, match="the server stops"):
        server.model("double")


async def test_nothing_loads_at_start_where_that_is_asked_for(
    add_model, serve, client_of, body_of, stage
):
    add_model("m", "Staged")
    settings = ServerSettings(load_models_at_startup=False)
    async with serve(settings=settings) as server, client_of(server) as client:
        assert (await states(server))["m", ""] == ("UNAVAILABLE", "not loaded")
        assert stage.log == []
        assert (await client.post("/v2/repository/models/m/load")).status_code == 200
        assert stage.log == ["load "]
        assert (await states(server))["m", ""] == ("READY", "")


async def test_requests_before_the_models_are_loaded_are_told_so(
    add_model, serve, client_of, body_of, stage
):
    stage.may_load.clear()
    add_model("m", "Staged")
    server = serve()
    async with client_of(server) as client:
        starting = asyncio.create_task(server.start())
        await stage.until_loading()
        answer = await client.post("/v2/models/m/infer", content=body_of(1))
        assert answer.status_code == 503
        assert answer.json()["error"] == "model 'm' is not ready: loading"
        assert (await client.get("/v2/health/live")).status_code == 200
        ready = await client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()["error"]) == (503, "models are loading")
        stage.may_load.set()
        await starting
        assert (await client.get("/v2/health/ready")).status_code == 200
    await server.stop()


async def test_a_checksum_that_differs_is_refused_before_the_artifact_is_read(
    add_reader, models_dir
):
    add_reader("text", "*.txt")
    (models_dir / "a").mkdir()
    (models_dir / "a" / "model.txt").write_text("hello")
    right = hashlib.sha256(b"hello").hexdigest()
    for checksum, state in ((right, "READY"), (right.upper(), "READY"), ("0" * 64, "UNAVAILABLE")):
        settings = {"implementation": "text", "parameters": {"sha256": checksum}}
        (models_dir / "a" / "model-settings.json").write_text(json.dumps(settings))
        async with Server([models_dir]) as server:
            [line] = await server.index()
            assert line.state == state
    assert f"is {right}, parameters.sha256 says {'0' * 64}" in line.reason


async def test_a_checksum_of_a_folder_is_that_of_its_files_as_sha256sum_prints_them(
    add_model, serve
):
    place = add_model("double")
    code = hashlib.sha256((place / "runtimes.py").read_bytes()).hexdigest()
    right = hashlib.sha256(f"{code}  runtimes.py\n".encode()).hexdigest()
    for checksum, state in ((right, "READY"), ("0" * 64, "UNAVAILABLE")):
        add_model("double", parameters={"sha256": checksum})
        async with serve() as server:
            assert (await states(server))["double", ""][0] == state


# ---- what settings say of a model ----


async def test_tensors_in_the_settings_replace_those_of_the_runtime(add_model, serve, client_of):
    inputs = [{"name": "a", "datatype": "INT8", "shape": [-1, 2]}]
    add_model("double", inputs=inputs, platform="mine")
    async with serve() as server, client_of(server) as client:
        metadata = (await client.get("/v2/models/double")).json()
    assert metadata == {
        "name": "double",
        "versions": [],
        "platform": "mine",
        "inputs": inputs,
        "outputs": [
            {
                "name": "y",
                "datatype": "FP64",
                "shape": [-1],
                "parameters": {"on_request": False},
            }
        ],
    }


async def test_an_output_that_the_model_has_not_is_refused_with_those_it_has(
    add_model, serve, request_of
):
    add_model("double")
    async with serve() as server:
        with pytest.raises(InvalidRequestError) as caught:
            await server.model("double").infer(request_of(1, outputs=[RequestedOutput("z")]))
    error = caught.value
    assert (error.field, error.expected, error.found, error.model) == (
        "outputs[0].name",
        "one of y",
        "'z'",
        "double",
    )


async def test_a_request_that_the_runtime_refuses_names_the_model(add_model, serve, request_of):
    add_model("m", "Failing", extra={"raises": "InvalidRequestError"})
    async with serve() as server:
        with pytest.raises(InvalidRequestError) as caught:
            await server.model("m").infer(request_of(1))
    assert str(caught.value) == "model 'm': inputs[0].data: expected even numbers, found an odd one"


async def test_a_full_queue_refuses_at_once_and_a_free_place_is_taken_again(
    add_model, serve, request_of, stage
):
    add_model("m", "Staged", max_queue=2)
    async with serve() as server:
        infer = server.model("m").infer
        tasks = [asyncio.create_task(infer(request_of(number))) for number in (1, 2)]
        await stage.until_inferring()
        with pytest.raises(OverloadedError, match="'m' is overloaded: 2 requests"):
            await infer(request_of(3))
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        tasks[1] = asyncio.create_task(infer(request_of(4)))
        stage.may_answer.set()
        await asyncio.gather(*tasks)
    assert "infer 3" not in stage.log
    assert "infer 4" in stage.log


# ---- load, unload, reload ----


async def test_a_model_is_unloaded_and_loaded_again(add_model, serve, client_of, body_of, stage):
    stage.may_answer.set()
    add_model("m", "Staged")
    add_model("double")
    async with serve() as server, client_of(server) as client:
        answer = await client.post("/v2/repository/models/m/unload")
        assert (answer.status_code, answer.content) == (200, b"")
        assert stage.log == ["load ", "close "]
        assert (await states(server))["m", ""] == ("UNAVAILABLE", "unloaded")
        answer = await client.post("/v2/models/m/infer", content=body_of(1))
        assert answer.status_code == 503
        assert answer.json()["error"] == "model 'm' is not ready: unloaded"
        assert (await client.get("/v2/models/m/ready")).status_code == 503
        assert (await client.get("/v2/health/ready")).status_code == 200
        assert (await client.post("/v2/repository/models/m/load")).status_code == 200
        assert (await client.post("/v2/models/m/infer", content=body_of(1))).status_code == 200


async def test_the_index_lists_all_or_the_ready_ones(add_model, serve, client_of):
    add_model("b")
    add_model("a", "BrokenOnLoad")
    async with serve() as server, client_of(server) as client:
        lines = (await client.post("/v2/repository/index")).json()
        assert [(line["name"], line["state"]) for line in lines] == [
            ("a", "UNAVAILABLE"),
            ("b", "READY"),
        ]
        lines = (await client.post("/v2/repository/index", json={"ready": True})).json()
        assert lines == [{"name": "b", "version": "", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_a_model_that_is_nowhere_is_not_found(add_model, serve, client_of, action):
    add_model("double")
    async with serve() as server, client_of(server) as client:
        answer = await client.post(f"/v2/repository/models/dubble/{action}")
    assert answer.status_code == 404
    assert answer.json()["error"] == "model 'dubble' is not served here; did you mean 'double'"


async def test_reload_serves_changed_code_at_once(
    add_model, serve, client_of, body_of, monkeypatch
):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    folder = add_model("double")
    code = (folder / "runtimes.py").read_text()
    async with serve() as server, client_of(server) as client:
        for factor in (3, 4, 5):
            # the same size within the same second: a cached compilation would look fresh
            (folder / "runtimes.py").write_text(code.replace("FACTOR = 2", f"FACTOR = {factor}"))
            assert (await client.post("/v2/repository/models/double/load")).status_code == 200
            answer = await client.post("/v2/models/double/infer", content=body_of(1))
            assert answer.json()["outputs"][0]["data"] == [factor]


async def test_reload_loses_no_request_and_closes_the_old_after_its_last_answer(
    add_model, serve, client_of, body_of, stage, until
):
    add_model("m", "Staged", extra={"tag": "old"})
    async with serve() as server, client_of(server) as client:

        async def infer(number):
            answer = await client.post("/v2/models/m/infer", content=body_of(number))
            return answer.status_code, answer.json()["outputs"][0]["data"]

        before = [asyncio.create_task(infer(number)) for number in range(3)]
        await stage.until_inferring()
        add_model("m", "Staged", extra={"tag": "new"})
        assert (await client.post("/v2/repository/models/m/load")).status_code == 200
        assert "load new" in stage.log
        assert "close old" not in stage.log
        after = asyncio.create_task(infer(7))
        await stage.until_inferring()
        stage.may_answer.set()
        assert await asyncio.gather(*before) == [(200, ["old"])] * 3
        assert await after == (200, ["new"])
        await until(lambda: "close old" in stage.log)
    answers = [stage.log.index(f"answer {number}") for number in range(3)]
    assert stage.log.index("close old") > max(answers)
    assert stage.log[-1] == "close new"


async def test_reload_while_requests_stream_in_answers_every_one(
    add_model, serve, client_of, body_of
):
    add_model("double")
    async with serve() as server, client_of(server) as client:
        reloading = True
        counts = {}

        async def infer_on_and_on():
            while reloading:
                answer = await client.post("/v2/models/double/infer", content=body_of(1))
                counts[answer.status_code] = counts.get(answer.status_code, 0) + 1

        callers = [asyncio.create_task(infer_on_and_on()) for _ in range(4)]
        for _ in range(5):
            assert (await client.post("/v2/repository/models/double/load")).status_code == 200
        reloading = False
        await asyncio.gather(*callers)
    assert list(counts) == [200]


async def test_a_failed_reload_leaves_the_old_serving_and_says_why(
    add_model, serve, client_of, body_of
):
    add_model("double")
    async with serve() as server, client_of(server) as client:
        add_model("double", "BrokenOnLoad")
        answer = await client.post("/v2/repository/models/double/load")
        assert answer.status_code == 503
        assert "the file is corrupt" in answer.json()["error"]
        assert (await states(server))["double", ""] == (
            "READY",
            "failed to load: OSError: the file is corrupt",
        )
        answer = await client.post("/v2/models/double/infer", content=body_of(1))
        assert answer.json()["outputs"][0]["data"] == [2]
        add_model("double")
        assert (await client.post("/v2/repository/models/double/load")).status_code == 200
        assert (await states(server))["double", ""] == ("READY", "")


async def test_load_takes_new_versions_and_drops_those_that_are_gone(
    add_model, serve, client_of, body_of
):
    first = add_model("double", version="1")
    async with serve() as server, client_of(server) as client:
        add_model("double", version="2")
        assert (await states(server))["double", "2"] == ("UNAVAILABLE", "not loaded")
        assert (await client.post("/v2/repository/models/double/load")).status_code == 200
        assert await version_of(client, "double", body_of(1)) == "2"
        shutil.rmtree(first)
        assert (await client.post("/v2/repository/models/double/load")).status_code == 200
        assert list(await states(server)) == [("double", "2")]
        answer = await client.post("/v2/models/double/versions/1/infer", content=body_of(1))
        assert answer.status_code == 404
        assert "did you mean '2'" in answer.json()["error"]


async def test_unload_waits_for_the_requests_in_flight(
    add_model, serve, client_of, body_of, stage, until
):
    add_model("m", "Staged")
    async with serve() as server, client_of(server) as client:
        request = asyncio.create_task(client.post("/v2/models/m/infer", content=body_of(1)))
        await stage.until_inferring()
        unload = asyncio.create_task(client.post("/v2/repository/models/m/unload"))
        await until(lambda: server._models._entries["m"][""].state == "UNLOADING")
        assert (await states(server))["m", ""] == ("UNLOADING", "")
        refused = await client.post("/v2/models/m/infer", content=body_of(2))
        assert (refused.status_code, refused.json()["error"]) == (
            503,
            "model 'm' is not ready: unloading",
        )
        stage.may_answer.set()
        assert (await request).status_code == 200
        assert (await unload).status_code == 200
    assert stage.log == ["load ", "infer 1", "answer 1", "close "]


async def test_stop_ends_although_a_request_does_not(add_model, serve, request_of, stage, caplog):
    add_model("m", "Staged")
    server = serve(settings=ServerSettings(drain_timeout_s=0.05))
    await server.start()
    task = asyncio.create_task(server.model("m").infer(request_of(1)))
    await stage.until_inferring()
    async with asyncio.timeout(5):
        await server.stop()
    assert "requests did not end within 0.05 s" in caplog.text
    stage.may_answer.set()
    await asyncio.wait([task])


async def test_stop_without_a_wait_finds_nothing_to_complain_of(add_model, serve, caplog):
    add_model("double")
    async with serve(settings=ServerSettings(drain_timeout_s=0)):
        pass
    assert "did not end" not in caplog.text


# ---- look-up ----


async def test_an_unknown_name_is_told_the_close_ones(add_model, serve):
    for name in ("iris", "irish", "wine"):
        add_model(name)
    async with serve() as server:
        with pytest.raises(ModelNotFoundError) as caught:
            server.model("irs")
    assert set(caught.value.close) == {"iris", "irish"}


async def test_an_enormous_name_costs_no_more_than_a_long_one(add_model, serve):
    add_model("double")
    async with serve() as server:
        started = time.perf_counter()
        with pytest.raises(ModelNotFoundError):
            server.model("double" * 2_000_000)
    assert time.perf_counter() - started < 0.5


async def test_an_unknown_version_is_told_those_there_are(add_model, serve):
    add_model("double", version="1")
    async with serve() as server:
        with pytest.raises(ModelNotFoundError, match=r"version '2' of model 'double'.*'1'"):
            server.model("double", "2")


async def test_a_model_is_reached_through_its_own_server_alone(add_model, models_dir, request_of):
    add_model("a")
    add_model("b")
    async with (
        Server([models_dir / "a"], plugins=()) as first,
        Server([models_dir / "b"], plugins=()) as second,
    ):
        await first.model("a").infer(request_of(1))
        await second.model("b").infer(request_of(1))
        with pytest.raises(ModelNotFoundError):
            first.model("b")


async def test_a_request_that_is_answered_while_many_wait_gets_its_own_answer(
    add_model, serve, client_of
):
    add_model("double")
    async with serve() as server, client_of(server) as client:

        async def infer(number):
            tensor = {"name": "x", "shape": [1], "datatype": "INT64", "data": [number]}
            answer = await client.post(
                "/v2/models/double/infer", json={"id": str(number), "inputs": [tensor]}
            )
            return answer.json()

        answers = await asyncio.gather(*(infer(number) for number in range(100)))
    for number, answer in enumerate(answers):
        assert answer["id"] == str(number)
        assert answer["outputs"][0]["data"] == [2 * number]
