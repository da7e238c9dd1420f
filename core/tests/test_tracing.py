import contextlib
import functools
import json
import logging

import grpc.aio
import pytest

from jackfield import InferRequest, Tensor
from jackfield._tracing import TraceSettings
from jackfield._wire.descriptors import METHODS

DEFAULTS = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
}
ON = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}
STAGES = ["received", "arrived", "started", "ended"]

ECHO = """
from jackfield import InferResponse, InvalidRequestError, ModelMetadata


class Echo:
    def __init__(self, context):
        pass

    def load(self):
        pass

    def metadata(self):
        return ModelMetadata(platform="echo")

    def infer(self, request):
        if "fails" in request.parameters:
            raise InvalidRequestError("parameters", expected="success", found="none")
        return InferResponse(request.inputs)

    def stream(self, request):
        yield InferResponse(request.inputs)
        yield InferResponse(request.inputs)

    def close(self):
        pass
"""


@pytest.fixture
def models(tmp_path):
    for name, version in (("one", "3"), ("other", "")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "own.py").write_text(ECHO)
        settings = {
            "name": name,
            "implementation": "own.Echo",
            "parameters": {"version": version},
        }
        (folder / "model-settings.json").write_text(json.dumps(settings))
    return tmp_path


class Served:
    """A server, and a client of each of its two ways in."""

    def __init__(self, server, rest, ask):
        self.server = server
        self.rest = rest
        self._ask = ask

    async def get(self, model=""):
        return (await self.rest.get(path_of(model))).json()

    async def post(self, settings, model=""):
        return await self.rest.post(path_of(model), json=settings)

    async def call(self, settings=None, model=""):
        message = METHODS["TraceSetting"].request(model_name=model)
        for key, value in (settings or {}).items():
            given = [] if value is None else [value] if isinstance(value, str) else value
            message.settings[key].value.extend(given)
        answer = await self._ask("TraceSetting", message)
        found = {key: list(given.value) for key, given in answer.settings.items()}
        return {key: each if key == "trace_level" else each[0] for key, each in found.items()}

    async def infer(self, model="one", count=1, path="infer", **fields):
        for _ in range(count):
            tensor = {"name": "x", "shape": [2], "datatype": "INT8", "data": [1, 2]}
            body = {"inputs": [tensor], **fields}
            await self.rest.post(f"/v2/models/{model}/{path}", json=body)


def path_of(model):
    return f"/v2/models/{model}/trace/setting" if model else "/v2/trace/setting"


@pytest.fixture
def serve(models, serving, call):
    @contextlib.asynccontextmanager
    async def serve():
        async with serving(models) as (server, rest, channel):
            yield Served(server, rest, functools.partial(call, channel))

    return serve


@pytest.fixture
def traces(caplog):
    """Tell the traces since the last call; each is logged as JSON too."""
    # what a strict log's level must not hold back
    logging.getLogger("jackfield").setLevel(logging.ERROR)

    def traces():
        found = [record for record in caplog.records if record.name == "jackfield.trace"]
        caplog.clear()
        for record in found:
            assert json.loads(record.getMessage()) == json.loads(json.dumps(record.trace))
            assert (record.model, record.version) == (
                record.trace["model"],
                record.trace["version"],
            )
        return [record.trace for record in found]

    yield traces
    logging.getLogger("jackfield").setLevel(logging.NOTSET)
    assert logging.getLogger("jackfield.trace").level == logging.NOTSET


# ---- settings ----


async def test_both_ways_tell_the_defaults(serve):
    async with serve() as served:
        for model in ("", "one"):
            assert await served.get(model) == DEFAULTS
            assert await served.call(model=model) == DEFAULTS


async def test_a_model_has_what_the_server_has_unless_it_is_its_own(serve):
    async with serve() as served:
        assert (await served.post({"trace_rate": "5"})).json() == DEFAULTS | {"trace_rate": "5"}
        own = {"trace_level": ["TENSORS"], "log_frequency": "7"}
        expected = DEFAULTS | {"trace_rate": "5"} | own
        assert (await served.post(own, "one")).json() == expected
        assert await served.call({"trace_rate": "9"}) == DEFAULTS | {"trace_rate": "9"}
        assert await served.get("one") == expected | {"trace_rate": "9"}
        assert await served.get("other") == DEFAULTS | {"trace_rate": "9"}
        # back to the server's, then to the defaults
        found = await served.call({"trace_level": None, "log_frequency": None}, "one")
        assert found == DEFAULTS | {"trace_rate": "9"}
        assert (await served.post({"trace_rate": None})).json() == DEFAULTS
        assert (await served.post({"trace_rate": None}, "one")).json() == DEFAULTS


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"trace_rate": 3, "trace_count": -1}, {"trace_rate": "3"}),
        ({"trace_count": "0"}, {"trace_count": "0"}),
        ({"trace_level": "TENSORS"}, {"trace_level": ["TENSORS"]}),
        ({"trace_level": ["TENSORS", "TIMESTAMPS"]}, {"trace_level": ["TIMESTAMPS", "TENSORS"]}),
        ({"trace_level": ["OFF"]}, {}),
        ({"trace_level": "OFF"}, {}),
        ({"trace_file": ""}, {}),
        ({"trace_file": None}, {}),
        (DEFAULTS, {}),
        ({}, {}),
    ],
)
async def test_values_come_as_text_and_as_numbers(serve, given, told):
    async with serve() as served:
        assert (await served.post(given)).json() == DEFAULTS | told
        await served.post(dict.fromkeys(DEFAULTS))
        if not any(isinstance(value, int) for value in given.values()):
            assert await served.call(given) == DEFAULTS | told


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, "trace_level"),
        ({"trace_level": ["timestamps"]}, "trace_level"),
        ({"trace_level": ["MAX"]}, "trace_level"),
        ({"trace_level": [["OFF"]]}, "trace_level"),
        ({"trace_level": [1]}, "trace_level"),
        ({"trace_level": 1}, "trace_level"),
        ({"trace_rate": "-1"}, "trace_rate"),
        ({"trace_rate": "1.5"}, "trace_rate"),
        ({"trace_rate": 1.5}, "trace_rate"),
        ({"trace_rate": True}, "trace_rate"),
        ({"trace_rate": ["1", "2"]}, "trace_rate"),
        ({"trace_rate": {}}, "trace_rate"),
        ({"trace_rate": "9" * 11}, "trace_rate"),
        ({"trace_rate": "9" * 10_000}, "trace_rate"),
        ({"trace_rate": 2**31}, "trace_rate"),
        ({"trace_rate": "\u0661"}, "trace_rate"),
        ({"trace_count": "-2"}, "trace_count"),
        ({"log_frequency": "-1"}, "log_frequency"),
        ({"trace_file": "/tmp/trace.json"}, "trace_file"),
        ({"trace_file": 1}, "trace_file"),
        ({"trace_mode": "triton"}, "'trace_mode'"),
    ],
)
async def test_what_is_no_setting_is_refused_and_nothing_changed(serve, given, text):
    async with serve() as served:
        answer = await served.post({"log_frequency": "5"} | given)
        assert answer.status_code == 400
        assert text in answer.json()["error"]
        assert await served.get() == DEFAULTS
        [value] = given.values()
        if isinstance(value, str):
            with pytest.raises(grpc.aio.AioRpcError, match=text) as caught:
                await served.call(given)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_list_of_no_levels_is_refused(serve):
    async with serve() as served:
        assert (await served.post({"trace_level": []})).status_code == 400
        # in gRPC it is how a client says null
        assert await served.call({"trace_level": []}) == DEFAULTS


async def test_a_model_that_is_not_there_is_404(serve):
    async with serve() as served:
        assert (await served.post(ON, "nobody")).status_code == 404
        assert (await served.rest.get(path_of("nobody"))).status_code == 404
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.call(ON, "nobody")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("body", [b"[]", b"{", b"1", b"[" * 10_000, b'{"trace_level":' * 10_000])
async def test_a_body_that_is_none_is_refused(serve, body):
    async with serve() as served:
        assert (await served.rest.post(path_of(""), content=body)).status_code == 400


# ---- traces ----


async def test_nothing_is_traced_until_it_is_asked_for(serve, traces):
    async with serve() as served:
        await served.infer(count=3)
        await served.post({"trace_rate": "1"})
        await served.infer(count=3)
        await served.post({"trace_level": ["TIMESTAMPS"], "trace_rate": "0"})
        await served.infer(count=3)
        assert traces() == []


async def test_a_trace_has_the_stages_in_their_order(serve, traces):
    async with serve() as served:
        await served.post(ON)
        await served.infer(id="abc\n")
        await served.infer("other", id="def")
    first, second = traces()
    assert (first["id"], first["model"], first["version"]) == ("abc\n", "one", "3")
    assert (second["id"], second["model"], second["version"]) == ("def", "other", "")
    assert list(first) == ["id", "model", "version", "timestamps"]
    times = first["timestamps"]
    assert list(times) == STAGES
    assert sorted(times.values()) == list(times.values())


async def test_tensors_are_told_without_their_data(serve, traces):
    tensor = {"name": "x", "datatype": "INT8", "shape": (2,)}
    async with serve() as served:
        await served.post({"trace_level": ["TENSORS"], "trace_rate": "1"})
        await served.infer(id="abc")
        [trace] = traces()
        assert trace == {
            "id": "abc",
            "model": "one",
            "version": "3",
            "inputs": [tensor],
            "outputs": [tensor],
        }
        await served.post({"trace_level": ["TENSORS", "TIMESTAMPS"]})
        await served.infer()
        [trace] = traces()
        assert trace.keys() == {"id", "model", "version", "timestamps", "inputs", "outputs"}


async def test_one_request_in_as_many_as_the_rate_is_traced(serve, traces):
    async with serve() as served:
        await served.post({"trace_level": ["TIMESTAMPS"], "trace_rate": "3"})
        for number in range(1, 8):
            await served.infer(id=f"{number}")
        assert [trace["id"] for trace in traces()] == ["3", "6"]


async def test_a_model_with_settings_of_its_own_counts_for_itself(serve, traces):
    async with serve() as served:
        await served.post({"trace_level": ["TIMESTAMPS"], "trace_rate": "2"})
        await served.post({"trace_rate": "3"}, "other")
        for _ in range(3):
            await served.infer("one")
            await served.infer("other")
        assert [trace["model"] for trace in traces()] == ["one", "other"]
        await served.post({"trace_level": ["OFF"]}, "one")
        await served.infer("one", count=6)
        assert traces() == []
        await served.post({"trace_level": None})
        await served.infer("other", count=6)
        assert traces() == []


async def test_as_many_traces_as_the_count_are_made(serve, traces):
    async with serve() as served:
        await served.post(ON | {"trace_count": "2"})
        await served.infer()
        assert (await served.get())["trace_count"] == "1"
        assert (await served.get("one"))["trace_count"] == "1"
        await served.infer(count=5)
        assert len(traces()) == 2
        assert (await served.get())["trace_count"] == "0"
        # a model with other settings of its own still draws on the server's count
        await served.post({"trace_count": "1"})
        await served.post({"trace_rate": "1"}, "other")
        await served.infer("other", count=2)
        assert len(traces()) == 1
        await served.post({"trace_count": "1"}, "other")
        await served.infer("other", count=2)
        assert len(traces()) == 1
        assert (await served.get("other"))["trace_count"] == "0"


async def test_requests_in_process_and_streams_are_traced_once_each(serve, traces):
    async with serve() as served:
        await served.post(ON)
        request = InferRequest([Tensor.from_array("x", [1.0])], id="inside")
        await served.server.model("one").infer(request)
        await served.infer(path="infer_stream", id="stream")
        found = traces()
    assert [trace["id"] for trace in found] == ["inside", "stream"]
    assert all(list(trace["timestamps"]) == STAGES for trace in found)


async def test_a_refused_request_is_not_traced(serve, traces):
    async with serve() as served:
        await served.post(ON)
        await served.infer(parameters={"fails": True})
        assert traces() == []


async def test_settings_outlive_a_reload_and_not_the_server(serve, traces):
    async with serve() as served:
        await served.post(ON, "one")
        await served.rest.post("/v2/repository/models/one/load")
        await served.infer()
        assert len(traces()) == 1
    async with serve() as served:
        assert await served.get("one") == DEFAULTS


def test_off_a_request_reads_one_flag():
    settings = TraceSettings()
    assert settings.is_on is False
    settings.update(ON, "m")
    assert settings.is_on is True
    settings.update({"trace_level": ["OFF"]}, "m")
    assert settings.is_on is False
    settings.update(ON)
    settings.close()
    assert settings.is_on is False
