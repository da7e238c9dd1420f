"""The client, against a server in this process, and against answers that no server should give."""

import asyncio
import contextlib
import inspect
import json
import subprocess
import sys

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from jackfield import (
    BadAnswerError,
    CallTimeoutError,
    CapacityError,
    Datatype,
    InferRequest,
    InferResponse,
    InvalidRequestError,
    ModelMetadata,
    NoAnswerError,
    RemoteCapacityError,
    RemoteError,
    RemoteNotFoundError,
    RemoteRequestError,
    RequestedOutput,
    RequestError,
    Tensor,
    TensorMetadata,
)
from jackfield._cli import cli
from jackfield._cli.infer import _show
from jackfield._wire import proto
from jackfield._wire.descriptors import (
    METHODS,
    SERVICE,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from jackfield.client import AsyncClient, AsyncClientModel, Client, ClientModel, Retries
from jackfield.client._address import read_address
from jackfield.client._exchange import Reply
from jackfield.client._grpc import GrpcDialect, failure
from jackfield.client._http import Events, HttpDialect
from jackfield.client._operation import Operations
from jackfield.client._request import build_request
from jackfield.client._result import InferResult
from jackfield.client._steps import Send, Wait

Code = grpc.StatusCode
FORMS = ("json", "binary", "grpc")
BF16 = Tensor("bf", Datatype.BF16, np.array([1.5], np.float32))

STREAM = """
import numpy as np
from jackfield import Datatype, InferResponse, InvalidRequestError, ModelMetadata, Tensor
from jackfield import TensorMetadata


class Count:
    def __init__(self, context):
        pass

    def load(self):
        pass

    def metadata(self):
        return ModelMetadata(inputs=[TensorMetadata("n", Datatype.INT32, [1])])

    async def infer(self, request):
        return InferResponse(request.inputs)

    async def stream(self, request):
        for number in range(request.inputs[0].array[0]):
            if number == request.parameters.get("refuse_at"):
                raise InvalidRequestError("n", expected="less", found=str(number))
            yield InferResponse([Tensor.from_array("k", [number])])

    def close(self):
        pass
"""


@pytest.fixture(params=FORMS)
def client_on(request, serving):
    """Serve folders, and give an asynchronous client for them, in each form."""

    @contextlib.asynccontextmanager
    async def make(*paths, **settings):
        async with serving(*paths, **settings) as (_, rest, channel):
            if request.param == "grpc":
                client = AsyncClient("grpc://test", channel=channel)
            else:
                client = AsyncClient("http://test", http=rest, form=request.param)
            async with client:
                yield client

    return make


# ---- inference ----


async def test_an_array_goes_in_and_arrays_come_out(client_on, add_model, models_dir):
    add_model("double", version="7")
    async with client_on(models_dir) as client:
        result = await client.model("double").infer(x=np.array([1, 2.5]), request_id="abc")
        by_position = await client.model("double", "7").infer([1, 2])
        by_mapping = await client.model("double").infer({"x": np.array([3])})
    assert list(result) == ["y"]
    assert len(result) == 1
    assert result["y"].tolist() == [2, 5]
    assert (result.response.model_name, result.response.model_version) == ("double", "7")
    assert result.response.id == "abc"
    assert by_position["y"].tolist() == [2, 4]
    assert by_mapping["y"].tolist() == [6]
    assert repr(result) == "<InferResult y: FP64 [2]>"
    with pytest.raises(KeyError):
        _ = result["z"]


@pytest.mark.parametrize(
    "array",
    [np.array([[1, 0]], each.dtype) for each in Datatype if each.dtype.kind != "O"]
    + [np.array([b"a\xff", b""], dtype=object), np.array(["é"]), np.float32(2), np.zeros((0, 2))],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
async def test_any_array_comes_back_as_it_was(client_on, add_model, models_dir, array):
    add_model("echo", "Echo")
    async with client_on(models_dir) as client:
        result = await client.model("echo").infer(x=array)
    expected = Tensor.from_array("x", array).array
    assert result["x"].dtype == expected.dtype
    assert result["x"].shape == expected.shape
    assert result["x"].tolist() == expected.tolist()


async def test_a_request_goes_as_it_is_with_what_is_said_beside(client_on, add_model, models_dir):
    add_model("echo", "Echo")
    request = InferRequest([Tensor.from_array("x", [1])], parameters={"a": 1}, id="one")
    async with client_on(models_dir) as client:
        model = client.model("echo")
        plain = await model.infer(request)
        more = await model.infer(request, parameters={"b": "c"}, request_id="two")
        with pytest.raises(TypeError, match="expected no others"):
            await model.infer(request, y=1)
    assert (plain.response.parameters, plain.response.id) == ({"a": 1}, "one")
    assert (more.response.parameters, more.response.id) == ({"a": 1, "b": "c"}, "two")


async def test_outputs_are_asked_for_by_name(client_on, add_model, models_dir):
    add_model("double")
    async with client_on(models_dir) as client:
        model = client.model("double")
        assert list(await model.infer([1], outputs=["y"])) == ["y"]
        assert list(await model.infer([1], outputs=[RequestedOutput("y")])) == ["y"]
        with pytest.raises(RemoteRequestError, match="'z'"):
            await model.infer([1], outputs=["z"])


async def test_bf16_goes_in_binary_forms_only(serving, add_model, models_dir):
    add_model("echo", "Echo")
    async with serving(models_dir) as (_, rest, channel):
        for client in (
            AsyncClient("http://test", http=rest),
            AsyncClient("grpc://test", channel=channel),
        ):
            assert (await client.model("echo").infer(bf=BF16))["bf"].tolist() == [1.5]
        client = AsyncClient("http://test", http=rest, form="json")
        with pytest.raises(InvalidRequestError, match="BF16"):
            await client.model("echo").infer(bf=BF16)


async def test_headers_of_the_client_and_of_the_call_are_sent(serving, add_model, models_dir):
    add_model("told", "Told", code=TOLD)
    async with serving(models_dir) as (_, rest, channel):
        for url, by in (("http://test", {"http": rest}), ("grpc://test", {"channel": channel})):
            client = AsyncClient(url, headers={"X-One": "1", "X-Two": "2"}, **by)
            result = await client.model("told").infer(x=[1], headers={"X-Two": "3"})
            told = json.loads(result["told"][0])
            assert (told["x-one"], told["x-two"]) == ("1", "3")


TOLD = """
import json
from jackfield import Capabilities, InferResponse, ModelMetadata, Tensor


class Told:
    capabilities = Capabilities(reads_headers=True)

    def __init__(self, context):
        pass

    def load(self):
        pass

    def metadata(self):
        return ModelMetadata()

    def infer(self, request):
        told = json.dumps(request.parameters["headers"])
        return InferResponse([Tensor.from_array("told", [told])])

    def close(self):
        pass
"""


# ---- streams ----


async def test_a_stream_gives_each_response(client_on, add_model, models_dir):
    add_model("count", "Count", code=STREAM)
    async with client_on(models_dir) as client:
        model = client.model("count")
        found = [result["k"].item() async for result in model.stream(n=[3])]
        assert found == [0, 1, 2]
        assert [each async for each in model.stream(n=[0])] == []


async def test_a_stream_that_is_refused_raises_at_once_and_later_when_it_fails(
    client_on, add_model, models_dir
):
    add_model("count", "Count", code=STREAM)
    async with client_on(models_dir) as client:
        model = client.model("count")
        with pytest.raises(RemoteRequestError, match="n: expected less"):
            await anext(model.stream(n=[3], parameters={"refuse_at": 0}))
        stream = model.stream(n=[3], parameters={"refuse_at": 1})
        assert (await anext(stream))["k"] == [0]
        with pytest.raises(RemoteError, match="n: expected less"):
            await anext(stream)
        with pytest.raises(RemoteNotFoundError):
            await anext(client.model("cuont").stream(InferRequest([Tensor.from_array("n", [1])])))


# ---- management ----


async def test_the_server_and_its_models_are_asked_and_told(client_on, add_model, models_dir):
    add_model("double")
    add_model("broken", "BrokenOnLoad")
    async with client_on(models_dir) as client:
        assert await client.is_live()
        assert await client.is_ready()
        server = await client.server_metadata()
        assert server.name == "jackfield"
        assert "binary_tensor_data" in server.extensions
        model = client.model("double")
        assert await model.is_ready()
        assert not await client.model("broken").is_ready()
        metadata = await model.metadata()
        assert metadata.inputs == [TensorMetadata("x", Datatype.FP64, [-1])]
        lines = {line.name: line for line in await client.index()}
        assert (lines["double"].state, lines["broken"].state) == ("READY", "UNAVAILABLE")
        assert "corrupt" in lines["broken"].reason
        assert [line.name for line in await client.index(ready=True)] == ["double"]
        await model.infer([1])
        [statistics] = await model.statistics()
        assert statistics["inference_count"] == 1
        assert len(await client.statistics()) == 1
        await client.unload("double")
        assert not await model.is_ready()
        await client.load("double", config={"platform": "changed"})
        assert (await model.metadata()).platform == "changed"
        await client.load("double")


async def test_what_is_not_there_is_told_by_the_server(client_on, add_model, models_dir):
    add_model("double")
    add_model("broken", "BrokenOnLoad")
    async with client_on(models_dir) as client:
        for call in (
            client.model("duoble").infer([1]),
            client.model("duoble").is_ready(),
            client.model("double", "9").metadata(),
            client.load("duoble"),
            client.unload("duoble"),
        ):
            with pytest.raises(RemoteNotFoundError, match="is not served here") as caught:
                await call
            assert caught.value.status in (404, "NOT_FOUND")
            assert "is not served here" in caught.value.text
            assert isinstance(caught.value, RequestError)
        once = client.model("broken").infer(
            InferRequest([Tensor.from_array("x", [1])]), timeout_s=1
        )
        with pytest.raises(CapacityError, match="corrupt") as caught:
            await once
        assert caught.value.status in (503, "UNAVAILABLE")
        assert caught.value.retry_after_s == 1


async def test_a_model_that_raises_is_the_servers_failure(client_on, add_model, models_dir):
    add_model("failing", "Failing")
    async with client_on(models_dir) as client:
        with pytest.raises(RemoteError, match="failed on this request") as caught:
            await client.model("failing").infer(x=[1])
    assert caught.value.status in (500, "INTERNAL")
    assert not isinstance(caught.value, RequestError | CapacityError)


# ---- the blocking client, and connections of its own ----


@pytest.mark.parametrize("is_grpc", [False, True], ids=["http", "grpc"])
async def test_the_blocking_client_does_the_same(add_model, models_dir, running, is_grpc):
    add_model("double")
    add_model("count", "Count", code=STREAM)

    def talk(url):
        with Client(url) as client:
            assert client.is_live()
            assert client.is_ready()
            assert client.server_metadata().name == "jackfield"
            model = client.model("double")
            assert model.is_ready()
            assert model.metadata().name == "double"
            assert model.infer(x=[1, 2])["y"].tolist() == [2, 4]
            assert model.statistics()[0]["inference_count"] == 1
            assert {line.name for line in client.index()} == {"double", "count"}
            client.unload("double")
            client.load("double")
            assert len(client.statistics()) == 2
            streamed = client.model("count").stream(n=[2])
            assert [each["k"].item() for each in streamed] == [0, 1]
            left = client.model("count").stream(n=[10_000])
            assert next(left)["k"] == [0]
            left.close()
            with pytest.raises(RemoteNotFoundError):
                client.model("duoble").metadata()
            with pytest.raises(RemoteRequestError):
                next(client.model("count").stream(n=[1], parameters={"refuse_at": 0}))

    async with running(models_dir) as run:
        await asyncio.to_thread(talk, f"grpc://{run.grpc}" if is_grpc else run.http)


@pytest.mark.parametrize("is_grpc", [False, True], ids=["http", "grpc"])
async def test_the_asynchronous_client_opens_and_closes_its_own(
    add_model, models_dir, running, is_grpc
):
    add_model("count", "Count", code=STREAM)
    async with (
        running(models_dir) as run,
        AsyncClient(f"grpc://{run.grpc}" if is_grpc else run.http) as client,
    ):
        stream = client.model("count").stream(n=[10_000])
        assert (await anext(stream))["k"] == [0]
        await stream.aclose()
        assert (await client.model("count").infer(n=[1]))["n"].tolist() == [1]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_where_nobody_listens_there_is_no_answer(scheme):
    url = f"{scheme}://127.0.0.1:1"
    with Client(url, retries=Retries(limit=0)) as client:
        assert not client.is_live()
        assert not client.model("m").is_ready()
        with pytest.raises(NoAnswerError, match="no answer") as caught:
            client.model("m").infer(x=[1])
        assert not caught.value.was_sent
    async with AsyncClient(url, retries=Retries(limit=0)) as client:
        assert not await client.is_ready()
        with pytest.raises(NoAnswerError, match=url):
            await client.model("m").infer(x=[1])


@pytest.mark.parametrize("is_grpc", [False, True], ids=["http", "grpc"])
async def test_a_timeout_is_told_as_one(add_model, models_dir, running, stage, is_grpc):
    add_model("staged", "Staged")
    stage.may_answer.clear()
    async with running(models_dir) as run:
        url = f"grpc://{run.grpc}" if is_grpc else run.http
        async with AsyncClient(url, retries=Retries(limit=0)) as client:
            with pytest.raises(CallTimeoutError, match=r"none within"):
                await client.model("staged").infer(x=[1.0], timeout_s=0.3)
        stage.may_answer.set()


# ---- values and what a model takes ----


def metadata(*inputs):
    return ModelMetadata(name="m", inputs=[TensorMetadata(*each) for each in inputs])


ONE = metadata(("x", Datatype.FP32, [-1, 2]))


def built(known, *values, **inputs):
    return {tensor.name: tensor for tensor in build_request(known, values, inputs).inputs}


@pytest.mark.parametrize(
    ("datatype", "value", "dtype"),
    [
        (Datatype.FP32, [1.5, 2], "f4"),
        (Datatype.FP32, [1, 2], "f4"),
        (Datatype.FP16, np.array([1.0, np.inf, np.nan]), "f2"),
        (Datatype.FP64, np.array([1], "f4"), "f8"),
        (Datatype.INT8, [1, -2], "i1"),
        (Datatype.UINT8, [1, 255], "u1"),
        (Datatype.INT64, [True], "i8"),
        (Datatype.BOOL, [True], "?"),
        (Datatype.FP32, np.array([1, 2.5], dtype=object), "f4"),
        (Datatype.FP32, [], "f4"),
        (Datatype.INT64, [], "i8"),
        (Datatype.BF16, [1.5], "f4"),
    ],
)
def test_an_array_gets_the_datatype_that_the_model_takes(datatype, value, dtype):
    tensor = built(metadata(("x", datatype, [-1])), x=value)["x"]
    assert tensor.datatype is datatype
    assert tensor.array.dtype == np.dtype(dtype)
    assert tensor.array.flags.c_contiguous
    np.testing.assert_array_equal(tensor.array, np.asarray(value, dtype))


@pytest.mark.parametrize(
    ("datatype", "value", "problem"),
    [
        (Datatype.INT64, [1.5], "input 'x': expected INT64, found FP64"),
        (Datatype.FP32, ["a"], "expected FP32, found BYTES"),
        (Datatype.FP32, np.array(["2020"], "M8[s]"), "expected FP32, found datetime64"),
        (Datatype.BOOL, [1], "expected BOOL, found INT64"),
        (Datatype.INT8, [1, 300], "expected values that INT8 holds, found 300"),
        (Datatype.FP32, [1e300], "expected values that FP32 holds, found 1e"),
        (Datatype.BYTES, [1], "expected BYTES: text or bytes, found INT64"),
        (Datatype.FP32, [[1], [1, 2]], "expected an array, found list"),
        (Datatype.FP32, [[1]], r"expected the shape \[-1\], found \[1, 1\]"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_before_it_is_sent(datatype, value, problem):
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        built(metadata(("x", datatype, [-1])), x=value)
    assert caught.value.model == "m"


def test_a_shape_is_checked_size_by_size():
    assert built(ONE, x=np.zeros((5, 2)))["x"].shape == (5, 2)
    with pytest.raises(InvalidRequestError, match=r"the shape \[-1, 2\], found \[5, 3\]"):
        built(ONE, x=np.zeros((5, 3)))


def test_an_input_of_any_shape_takes_any():
    free = metadata(("x", Datatype.FP64, [-1], {"any_shape": True}))
    assert built(free, x=np.zeros((5, 3)))["x"].shape == (5, 3)


def test_values_by_position_have_the_metadatas_names():
    two = metadata(("a", Datatype.FP32, [1]), ("b", Datatype.BYTES, [1]))
    tensors = built(two, [1], ["é"])
    assert list(tensors) == ["a", "b"]
    assert tensors["b"].array.tolist() == ["é".encode()]
    assert list(built(two, [1], b=["x"])) == ["a", "b"]
    with pytest.raises(InvalidRequestError, match="at most 2 by position, found 3"):
        built(two, 1, 2, 3)
    with pytest.raises(InvalidRequestError, match="'a' by position and name"):
        built(two, [1], a=[1])


def test_an_unknown_name_is_told_with_those_that_are_known():
    known = metadata(("text", Datatype.BYTES, [1]))
    with pytest.raises(
        InvalidRequestError, match="among 'text', found 'txet'; did you mean 'text'"
    ):
        built(known, txet=["a"])
    with pytest.raises(InvalidRequestError, match="at least one, found none"):
        built(known)


def test_a_model_that_declares_nothing_takes_all_by_name():
    tensors = built(metadata(), a=[1.5], b=["x"], c=Tensor.from_array("z", [True]))
    assert [each.datatype for each in tensors.values()] == ["FP64", "BYTES", "BOOL"]
    assert list(tensors) == ["a", "b", "c"]
    with pytest.raises(InvalidRequestError, match="inputs by name"):
        built(metadata(), [1.5])


def test_a_codec_writes_what_the_protocol_has_no_datatype_for():
    moment = np.array(["2020-01-02"], "M8[s]")
    assert built(metadata(), t=moment)["t"].parameters == {"content_type": "datetime"}
    told = metadata(("b", Datatype.BYTES, [1], {"content_type": "base64"}))
    assert built(told, b=[b"\xff"])["b"].array.tolist() == [b"/w=="]


def test_a_frame_becomes_columns_or_the_one_matrix_that_the_model_takes():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": [3, 4]})
    matrix = built(ONE, frame)["x"]
    assert matrix.array.tolist() == [[1.5, 3], [2.5, 4]]
    assert matrix.datatype is Datatype.FP32
    columns = built(metadata(("a", Datatype.FP32, [-1]), ("b", Datatype.INT32, [-1])), frame)
    assert [each.datatype for each in columns.values()] == ["FP32", "INT32"]
    assert columns["b"].array.reshape(-1).tolist() == [3, 4]
    assert list(built(metadata(), frame)) == ["a", "b"]


async def test_frames_go_in_and_out(client_on, add_model, models_dir):
    pd = pytest.importorskip("pandas")
    add_model("echo", "Echo")
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "é"]})
    async with client_on(models_dir) as client:
        result = await client.model("echo").infer(frame)
    found = result.to_frame()
    assert found["a"].tolist() == [1.5, 2.5]
    assert found["b"].tolist() == ["x", "é"]


def test_a_result_is_decoded_by_its_tags():
    tagged = Tensor.from_array("y", [b"/w=="], parameters={"content_type": "base64"})
    result = InferResult(InferResponse([tagged, Tensor.from_array("z", [1])]))
    assert result["y"].tolist() == [b"\xff"]
    assert result.response.output("y").array.tolist() == [b"/w=="]
    decoded = result.decode()
    assert decoded["y"] == [b"\xff"]
    assert decoded["z"].tolist() == [1]
    wrong = Tensor.from_array("y", [b"?"], parameters={"content_type": "base64"})
    assert InferResult(InferResponse([wrong]))["y"].tolist() == [b"?"]


# ---- repeats ----


class Script:
    """Answers an operation's steps from a list, and notes them."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.steps = []

    def run(self, steps):
        given, failed = None, None
        while True:
            try:
                step = steps.throw(failed) if failed else steps.send(given)
            except StopIteration as stop:
                return stop.value
            self.steps.append(step)
            given, failed = None, None
            if not isinstance(step, Wait):
                answer = self.answers.pop(0)
                if isinstance(answer, Exception):
                    failed = answer
                else:
                    given = answer

    @property
    def waits(self):
        return [step.seconds for step in self.steps if isinstance(step, Wait)]


def operations(dialect=None, *, retries=Retries(), timeout_s=60.0):  # noqa: B008  can't change
    return Operations(
        "http://test",
        dialect or HttpDialect(),
        headers={},
        timeout_s=timeout_s,
        retries=retries,
        is_binary=False,
    )


BUSY = RemoteCapacityError(503, "busy")
REFUSED = NoAnswerError("http://test", "refused", was_sent=False)
SERVER = Reply(b'{"name": "s", "version": "1", "extensions": []}', {})
META = HttpDialect().server_metadata()


@pytest.mark.parametrize(
    "error",
    [
        BUSY,
        REFUSED,
        RemoteCapacityError(429, "busy"),
        RemoteCapacityError("UNAVAILABLE", "busy"),
        RemoteCapacityError("RESOURCE_EXHAUSTED", "busy"),
    ],
)
def test_a_refusal_is_repeated_with_growing_random_waits(error):
    script = Script(error, error, error, SERVER)
    assert script.run(operations().ask(META)).name == "s"
    assert [type(step) for step in script.steps] == [Send, Wait, Send, Wait, Send, Wait, Send]
    bounds = [0.1, 0.2, 0.4]
    assert all(0 <= wait <= bound for wait, bound in zip(script.waits, bounds, strict=True))


@pytest.mark.parametrize(
    "error",
    [
        RemoteCapacityError(504, "late"),
        RemoteRequestError(400, "wrong"),
        RemoteError(500, "failed"),
        NoAnswerError("http://test", "the connection broke"),
        CallTimeoutError("http://test", timeout_s=1),
        RemoteCapacityError(503, "come back tomorrow", retry_after_s=86400),
    ],
)
def test_what_may_have_been_done_or_will_not_change_is_not_repeated(error):
    script = Script(error)
    with pytest.raises(type(error)) as caught:
        script.run(operations().ask(META))
    assert caught.value is error
    assert script.waits == []


def test_the_servers_own_wait_is_kept():
    script = Script(RemoteCapacityError(429, "busy", retry_after_s=2), SERVER)
    script.run(operations().ask(META))
    assert 2 <= script.waits[0] <= 2.1


def test_repeats_have_a_limit_and_an_end_in_time():
    for retries, count in ((Retries(limit=2), 3), (Retries(limit=0), 1)):
        script = Script(*[BUSY] * 9)
        with pytest.raises(RemoteCapacityError):
            script.run(operations(retries=retries).ask(META))
        assert len(script.steps) - len(script.waits) == count
    script = Script(RemoteCapacityError(429, "busy", retry_after_s=5))
    with pytest.raises(RemoteCapacityError):
        script.run(operations(timeout_s=1).ask(META))
    assert script.waits == []


@pytest.mark.parametrize("dialect", [HttpDialect(), GrpcDialect()])
def test_to_load_and_unload_is_never_repeated(dialect):
    for exchange in (dialect.load("m", None), dialect.unload("m")):
        script = Script(REFUSED)
        with pytest.raises(NoAnswerError):
            script.run(operations(dialect).ask(exchange))
        assert script.waits == []


async def test_a_part_of_a_sequence_is_not_repeated():
    calls = []

    def answer(request):
        calls.append(request.url.path)
        return httpx.Response(503, json={"error": "busy"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = AsyncClient("http://test", http=http, form="json")
        request = InferRequest([Tensor.from_array("x", [1])], parameters={"sequence_id": 7})
        with pytest.raises(RemoteCapacityError):
            await client.model("m").infer(request)
    assert len(calls) == 1


def test_stale_metadata_is_asked_for_again():
    answers = [{"name": "m", "inputs": [{"name": "x", "datatype": "FP64", "shape": [1]}]}]
    answers += [{"name": "m", "inputs": [{"name": "y", "datatype": "FP64", "shape": [1]}]}] * 2
    sent = []

    def answer(request):
        if request.method == "GET":
            return httpx.Response(200, json=answers.pop(0))
        sent.append(json.loads(request.content)["inputs"][0]["name"])
        return httpx.Response(200, json={"model_name": "m", "outputs": []})

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        model = Client("http://test", http=http, form="json").model("m")
        model.infer(x=[1])
        model.infer(x=[1])
        assert len(answers) == 2
        model.infer(y=[1])
        assert len(answers) == 1
        with pytest.raises(InvalidRequestError, match="found 'x'"):
            model.infer(x=[1])
    assert sent == ["x", "x", "y"]


# ---- answers of other servers ----


def answered(response, call=lambda client: client.server_metadata()):
    with httpx.Client(transport=httpx.MockTransport(lambda _: response)) as http:
        return call(Client("http://test/base/", http=http, retries=Retries(limit=0)))


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (400, {"error": "wrong"}, RemoteRequestError, "400: wrong"),
        (401, "who are you", RemoteRequestError, "401: who are you"),
        (422, {"detail": [{"loc": "x"}]}, RemoteRequestError, '422: [{"loc":"x"}]'),
        (404, {"detail": "Not Found"}, RemoteNotFoundError, "404: Not Found"),
        (501, {"error": "no"}, RemoteNotFoundError, "501: no"),
        (429, {"error": "busy"}, RemoteCapacityError, "429: busy"),
        (504, "", RemoteCapacityError, "504: no text"),
        (502, "<html>" + "x" * 9000, RemoteError, "502: <html>" + "x" * 494),
        (302, "", RemoteError, "302: no text"),
        (500, "[1]", RemoteError, "500: [1]"),
    ],
)
def test_a_status_becomes_an_error_of_its_kind_with_the_servers_text(status, body, kind, text):
    content = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(RemoteError) as caught:
        answered(httpx.Response(status, content=content))
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert str(caught.value) == text


@pytest.mark.parametrize(("value", "wait_s"), [("3", 3), ("x", 0), ("-1", 0), ("nan", 0)])
def test_retry_after_is_read_in_seconds(value, wait_s):
    with pytest.raises(RemoteCapacityError) as caught:
        answered(httpx.Response(503, headers={"Retry-After": value}))
    assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"extensions": 1}', b"\xff"])
def test_an_answer_that_is_not_the_protocols_is_told(content):
    with pytest.raises(BadAnswerError, match="http://test/base: the answer's"):
        answered(httpx.Response(200, content=content))


@pytest.mark.parametrize(
    ("status", "content", "is_ready"),
    [
        (200, b"", True),
        (200, b"{}", True),
        (200, b'{"ready": false}', False),
        (400, b"", False),
        (503, b"", False),
        (500, b"", False),
    ],
)
def test_servers_say_ready_in_their_own_ways(status, content, is_ready):
    response = httpx.Response(status, content=content)
    assert answered(response, lambda client: client.is_ready()) is is_ready
    assert answered(response, lambda client: client.model("m").is_ready()) is is_ready


def test_a_sparse_index_is_read():
    [entry] = answered(
        httpx.Response(200, json=[{"name": "m", "version": None}]), lambda client: client.index()
    )
    assert (entry.name, entry.version, entry.state, entry.reason) == ("m", "", "", "")


@pytest.mark.parametrize(
    ("extensions", "is_binary"), [(["binary_tensor_data"], True), ([], False), (None, False)]
)
def test_tensors_are_binary_where_the_server_says_that_it_takes_them(extensions, is_binary):
    paths = []

    def answer(request):
        paths.append(request.url.path)
        if request.method == "GET":
            if extensions is None:
                return httpx.Response(404)
            return httpx.Response(200, json={"name": "s", "extensions": extensions})
        assert ("inference-header-content-length" in request.headers) is is_binary
        return httpx.Response(200, json={"model_name": "a/b é", "outputs": []})

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        model = Client("http://test/base", http=http).model("a b", "1")
        for _ in range(2):
            model.infer(InferRequest([Tensor.from_array("x", [1])]))
    assert paths[:2] == ["/base/v2", "/base/v2/models/a b/versions/1/infer"]
    assert len(paths) == (3 if extensions is not None else 4)


def test_names_are_quoted():
    assert HttpDialect().model_ready("a/b é", "").call.target == "v2/models/a%2Fb%20%C3%A9/ready"


def test_an_answer_that_is_no_stream_is_told():
    def stream(client):
        return next(client.model("m").stream(InferRequest([Tensor.from_array("x", [1])])))

    with pytest.raises(BadAnswerError, match="expected text/event-stream, found application/json"):
        answered(httpx.Response(200, json={}), stream)


def broken(error):
    def answer(request):
        raise error

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        return Client("http://test", http=http, retries=Retries(limit=0)).server_metadata()


def test_httpxs_errors_become_ours():
    with pytest.raises(NoAnswerError, match="ReadError") as caught:
        broken(httpx.ReadError(""))
    assert caught.value.was_sent
    with pytest.raises(NoAnswerError) as caught:
        broken(httpx.ConnectError("refused"))
    assert not caught.value.was_sent
    with pytest.raises(CallTimeoutError) as caught:
        broken(httpx.ConnectTimeout("late"))
    assert not caught.value.was_sent
    with pytest.raises(BadAnswerError, match="unpacked"):
        broken(httpx.DecodingError("bad gzip"))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_events_are_cut_wherever_the_pieces_end(size):
    body = b": hello\r\ndata: a\r\n\r\nevent: x\ndata:b\ndata: c\n\n\n\ndata: left"
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    events = Events()
    assert [data for piece in pieces for data in events.feed(piece)] == [b"a", b"b\nc"]


@pytest.mark.parametrize(
    ("code", "details", "trailers", "kind", "facts"),
    [
        (Code.NOT_FOUND, "no", {}, RemoteNotFoundError, {"status": "NOT_FOUND", "text": "no"}),
        (Code.UNIMPLEMENTED, "", {}, RemoteNotFoundError, {"text": "no text"}),
        (Code.INVALID_ARGUMENT, "no", {}, RemoteRequestError, {}),
        (Code.UNAVAILABLE, "Failed to connect to all", {}, NoAnswerError, {"was_sent": False}),
        (Code.UNAVAILABLE, "Stream removed (Socket closed)", {}, NoAnswerError, {"was_sent": True}),
        (Code.UNAVAILABLE, "loading", {}, RemoteCapacityError, {"retry_after_s": 0}),
        (
            Code.RESOURCE_EXHAUSTED,
            "busy",
            {"grpc-retry-pushback-ms": "1500"},
            RemoteCapacityError,
            {"retry_after_s": 1.5},
        ),
        (
            Code.UNAVAILABLE,
            "never",
            {"grpc-retry-pushback-ms": "-1"},
            RemoteCapacityError,
            {"retry_after_s": 86400},
        ),
        (Code.RESOURCE_EXHAUSTED, "too large", {}, RemoteRequestError, {}),
        (Code.DEADLINE_EXCEEDED, "late", {}, CallTimeoutError, {"timeout_s": 5}),
        (Code.INTERNAL, "failed", {"grpc-retry-pushback-ms": "x"}, RemoteError, {}),
    ],
)
def test_a_grpc_status_becomes_an_error_of_its_kind(code, details, trailers, kind, facts):
    error = failure("grpc://test", code, details, trailers, timeout_s=5)
    assert type(error) is kind
    assert {name: getattr(error, name) for name in facts} == facts


DYING = """
import os, signal
from concurrent.futures import ThreadPoolExecutor
import grpc

class Dying(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda *_: os.kill(os.getpid(), signal.SIGKILL))

server = grpc.server(ThreadPoolExecutor(1), handlers=[Dying()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""


def test_a_call_whose_server_died_may_have_been_computed():
    command = [sys.executable, "-c", DYING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        url = f"grpc://127.0.0.1:{server.stdout.readline().strip()}"
        # by the default rules of what is sent again: this is not
        with Client(url) as client, pytest.raises(NoAnswerError) as caught:
            client.server_metadata()
    assert caught.value.was_sent


def test_a_grpc_answer_that_is_no_message_is_told():
    steps = Operations(
        "grpc://test",
        GrpcDialect(),
        headers={},
        timeout_s=1,
        retries=Retries(),
        is_binary=True,
    ).ask(GrpcDialect().server_metadata())
    with pytest.raises(BadAnswerError, match="ServerMetadataResponse"):
        Script(Reply(b"\xff", {})).run(steps)


def event(message):
    exchange = GrpcDialect().stream("m", "", InferRequest([Tensor.from_array("x", [1])]))
    return exchange.decode(Reply(message.SerializeToString(), {}))


def test_messages_of_a_stream_are_tritons_or_bare():
    response = proto.encode_infer(InferResponse([Tensor.from_array("y", [1])], {}, "m", "v1", "a"))
    for message in (ModelStreamInferResponse(infer_response=response), response):
        found = event(message)
        assert (found.model_name, found.id) == ("m", "a")
        assert found.output("y").array.tolist() == [1]
    with pytest.raises(RemoteError, match=r"^broke$"):
        event(ModelStreamInferResponse(error_message="broke"))
    assert event(ModelStreamInferResponse(infer_response=ModelInferResponse())).outputs == []


async def test_typed_contents_of_another_server_are_read():
    async def infer(request, context):
        answer = ModelInferResponse(model_name="m")
        answer.outputs.add(name="y", datatype="FP32", shape=[2]).contents.fp32_contents.extend(
            [1, 2]
        )
        return answer

    method = METHODS["ModelInfer"]
    handler = grpc.unary_unary_rpc_method_handler(
        infer, method.request.FromString, method.response.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(f"grpc://127.0.0.1:{port}") as client:
            request = InferRequest([Tensor.from_array("x", [1])])
            assert (await client.model("m").infer(request))["y"].tolist() == [1, 2]
            with pytest.raises(RemoteNotFoundError, match="UNIMPLEMENTED"):
                await client.index()
    finally:
        await server.stop(0)


# ---- the command ----


def test_the_command_tells_a_url_that_is_none_and_a_request_that_is_none():
    request = '{"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]}'
    arguments = ["infer", "localhost:1", "--model", "m", "--input", "-"]
    result = CliRunner().invoke(cli, arguments, input=request)
    assert result.exit_code == 2
    assert "expected a URL like http://host:8080" in result.output
    result = CliRunner().invoke(cli, arguments, input="{}")
    assert isinstance(result.exception, InvalidRequestError)


def test_the_command_shows_the_first_elements():
    assert _show(Tensor.from_array("x", np.arange(12))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 …"
    assert _show(Tensor.from_array("x", ["é".encode(), b"\xff"])) == "é, \\xff"


# ---- what a client is made of ----


@pytest.mark.parametrize(
    ("url", "is_grpc", "target"),
    [
        ("http://h:1/base/", False, ""),
        ("https://h", False, ""),
        ("grpc://h:1", True, "h:1"),
        ("grpc://h", True, "h:8081"),
        ("grpcs://[::1]", True, "[::1]:443"),
    ],
)
def test_a_url_tells_the_transport(url, is_grpc, target):
    address = read_address(url)
    assert (address.url, address.is_grpc, address.target) == (url.rstrip("/"), is_grpc, target)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://h", "http://", "grpc://h/base", ""])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValueError, match="found"):
        Client(url)


@pytest.mark.parametrize(("kind", "twin"), [(Client, AsyncClient), (ClientModel, AsyncClientModel)])
def test_both_clients_have_the_same_methods(kind, twin):
    def methods(each):
        found = {name: value for name, value in vars(each).items() if inspect.isfunction(value)}
        return {
            name: list(inspect.signature(value).parameters.values())
            for name, value in found.items()
            if not name.startswith("_")
        }

    assert methods(kind) == methods(twin)


def test_without_httpx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "jackfield\[client\]"'):
        Client("http://test")
    Client("grpc://test").close()


def test_the_client_imports_no_server_and_httpx_only_when_asked():
    code = "import jackfield.client, sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    found = {name.partition(".")[0] for name in result.stdout.split()}
    assert found.isdisjoint({"httpx", "grpc", "starlette", "uvicorn", "pandas"})
    assert not any(name.startswith(("jackfield._http", "jackfield._models")) for name in found)
