"""Whatever comes over either wire, nobody gets a 5xx, and the next good request is answered.

Seeded, so that a failure comes again; small, so that it runs with every change.
"""

import asyncio
import gzip
import json
import random
import struct
import tracemalloc
import zlib

import grpc.aio
import numpy as np
import pytest

from jackfield import Datatype, InvalidRequestError, Server, ServerSettings
from jackfield._wire import json as wire_json
from jackfield._wire.descriptors import SERVICE, ModelInferRequest, ModelStreamInferResponse

LIMIT = 200_000
SEEDS = range(8)
BODIES = 400

#: The echo, and one that says which parameters it got: both may repeat whatever a caller says.
CODE = """
import json

from jackfield import (
    Capabilities, Datatype, InferResponse, ModelMetadata, Tensor, TensorMetadata
)


class Echo:
    capabilities = Capabilities(reads_headers=True)

    def __init__(self, context):
        pass

    def load(self):
        pass

    def metadata(self):
        x = TensorMetadata("x", Datatype.FP32, [-1, 2])
        text = TensorMetadata("text", Datatype.BYTES, [-1, -1])
        return ModelMetadata(platform="echo", inputs=[x, text])

    async def infer(self, request):
        text = json.dumps([request.parameters, *(each.parameters for each in request.outputs)])
        told = Tensor.from_array("told", [text])
        parameters = {key: each for key, each in request.parameters.items() if key != "headers"}
        names = {each.name for each in request.outputs}
        outputs = [*request.inputs, told]
        # what a caller asks for beside is there too, so that each form of an output is written
        for name in names - {each.name for each in outputs}:
            outputs.append(Tensor(name, outputs[0].datatype, outputs[0].array))
        return InferResponse(outputs, parameters)

    def close(self):
        pass


class Raw(Echo):
    def metadata(self):
        return ModelMetadata(platform="raw", inputs=super().metadata().inputs[:1])
"""


@pytest.fixture
def echo(models_dir, add_model):
    add_model("echo", "Echo", code=CODE)
    add_model("raw", "Raw", code=CODE)
    return models_dir


# ---- REST ----


class App:
    """Calls an ASGI app as an HTTP server does, headers as they are."""

    def __init__(self, server):
        self._server = server

    async def post(self, path, body, headers=()):
        parts = [body[: len(body) // 2], body[len(body) // 2 :]]
        sent = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": list(headers),
        }

        async def receive():
            if parts:
                return {
                    "type": "http.request",
                    "body": parts.pop(0),
                    "more_body": bool(parts),
                }
            return await asyncio.Event().wait()  # a caller who stays

        async def send(message):
            sent.append(message)

        await self._server(scope, receive, send)
        answered = dict(sent[0]["headers"])
        return sent[0]["status"], answered, b"".join(each["body"] for each in sent[1:])


def check_answer(status, headers, body):
    assert status < 500, body
    if status == 200:
        return
    assert headers[b"content-type"] == b"application/json"
    found = json.loads(body)
    assert list(found) == ["error"]
    assert isinstance(found["error"], str)
    assert len(body) < 20_000


INPUT = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, None]}
TEXT = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "ζ\x00"]}


def binary(*tensors, **fields):
    """Make a binary body: JSON text and tensors, with the length of the first."""
    inputs = [
        {
            "name": f"x{index}",
            "shape": shape,
            "datatype": datatype,
            "parameters": {"binary_data_size": len(data)},
        }
        for index, (datatype, shape, data) in enumerate(tensors)
    ]
    text = json.dumps({"inputs": inputs, **fields}).encode()
    length = (b"inference-header-content-length", str(len(text)).encode())
    return text + b"".join(data for _, _, data in tensors), [length]


BF16 = ("BF16", [2], b"\x80\x3f\xc0\x7f")
BYTES = ("BYTES", [2], b"\x01\0\0\0a\x02\0\0\0\xff\xfe")
ROUTES = ("infer", "infer_stream", "generate", "generate_stream")
SAID = {"a": [1, {"b": None}], "c": 2**63, "headers": {"x-a": "b"}, "timeout": 10**9}

#: Route, body, headers: each is good, and each is what a mutation begins with.
CORPUS = [
    *((route, json.dumps({"inputs": [INPUT], "id": "a-1"}).encode(), []) for route in ROUTES),
    *((route, json.dumps({"x": [1, 2], "k": 0.5, "id": "b"}).encode(), []) for route in ROUTES[2:]),
    ("infer", json.dumps({"inputs": [INPUT, TEXT], "parameters": SAID}).encode(), []),
    (
        "infer",
        json.dumps(
            {
                "inputs": [INPUT],
                "parameters": {"binary_data_output": True},
                "outputs": [
                    {"name": "x", "parameters": {"classification": 1}},
                    {"name": "y", "parameters": {"binary_data": False}},
                ],
            }
        ).encode(),
        [(b"accept-encoding", b"gzip")],
    ),
    ("infer", *binary(("FP64", [1], struct.pack("<d", 1.5)), ("INT8", [0, 3], b""))),
    ("infer", *binary(BF16, BYTES, parameters={"binary_data_output": True})),
    ("infer", *binary(("BOOL", [2], b"\0\7"), ("FP16", [1], b"\0\x7c"))),
    ("raw", np.arange(4, dtype="<f4").tobytes(), [(b"inference-header-content-length", b"0")]),
]
#: What stands in a number's, a text's or a list's place.
ODD = [
    b"null", b"-1", b"1e999", b"-0.0", b"1" * 400, b"18446744073709551616", b"true", b'"NaN"',
    b'"Infinity"', b"[]", b"{}", b'"\\ud800"', b'"\\u0000"', b"\xff", b"NaN", b"[[1],[2]]",
    b'{"shared_memory_region":"r","shared_memory_byte_size":4}', b'"' + b"x" * 5000 + b'"',
    b"[" * 300 + b"]" * 300, b'"BF16"', b'"FP16"', b'"BYTES"', b'"headers"', b'"content_type"',
]  # fmt: skip
HEADERS = {
    b"content-type": [b"", b"text/html", b"application/json", b"a/b+json", b"\xff", b";;"],
    b"content-encoding": [b"gzip", b"deflate", b"br", b"", b"identity", b"gzip, gzip", b"\xff"],
    b"accept-encoding": [b"gzip", b"deflate;q=1", b"*;q=0, gzip;q=0", b",,;", b"\xff", b"br"],
    b"inference-header-content-length": [b"0", b"1", b"-1", b"9" * 5000, b"a", b"", b"\xb2"],
    b"content-length": [b"0", b"1"],
    b"x-\xff": [b"\xff\x00", b"a" * 9000],
}  # fmt: skip


def mutate(body, chance):
    body = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(body) + 1)
        match chance.randrange(6):
            case 0:
                body[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                body[at:at] = chance.choice(b'[]{}",:0-9eE.\\u').to_bytes()
            case 2:
                del body[at : at + chance.randint(1, 8)]
            case 3:
                start = chance.randrange(len(body) + 1)
                body[at:at] = body[start : start + chance.randint(1, 12)]
            case 4:
                del body[at:]
            case 5:  # a value by an odd one
                start = body.find(b":", at) + 1 or body.find(b":") + 1
                ends = [end for mark in b",}]" if (end := body.find(mark, start)) >= 0]
                body[start : min(ends, default=len(body))] = chance.choice(ODD)
    return bytes(body)


def disguise(body, headers, chance):
    """Change the headers, or compress the body, whole or not."""
    headers = list(headers)
    match chance.randrange(8):
        case 0:
            body = gzip.compress(body)
            headers.append((b"content-encoding", b"gzip"))
        case 1:
            body = zlib.compress(body)
            headers.append((b"content-encoding", b"deflate"))
        case 2:
            body = mutate(gzip.compress(body), chance)
            headers.append((b"content-encoding", b"gzip"))
        case 3 | 4:
            name = chance.choice([*HEADERS])
            headers.append((name, chance.choice(HEADERS[name])))
    return body, headers


def path_of(route):
    return "/v2/models/raw/infer" if route == "raw" else f"/v2/models/echo/{route}"


async def check_good(app):
    for route, body, headers in CORPUS:
        status, _, answered = await app.post(path_of(route), body, headers)
        assert status == 200, answered


async def test_the_corpus_is_good(echo):
    async with Server([echo], plugins=()) as server:
        await check_good(App(server))


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_body_and_no_header_gives_a_5xx(echo, seed, caplog):
    chance = random.Random(seed)
    settings = ServerSettings(max_body_bytes=LIMIT)
    async with Server([echo], plugins=(), settings=settings) as server:
        app = App(server)
        statuses = set()
        for _ in range(BODIES):
            route, body, headers = chance.choice(CORPUS)
            if chance.random() < 0.9:
                body = mutate(body, chance)
            body, headers = disguise(body, headers, chance)
            try:
                status, answered, text = await app.post(path_of(route), body, headers)
                check_answer(status, answered, text)
            except BaseException as error:
                error.add_note(f"{route} {headers} {body!r}")
                raise
            statuses.add(status)
        assert {200, 400} <= statuses
        await check_good(app)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def with_tensor(**changes):
    return json.dumps({"inputs": [INPUT | changes]}).encode()


HUGE = 2**62
DEEP = b"[" * 10_000 + b"]" * 10_000
HOSTILE = {
    "deep": DEEP,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep data": with_tensor(data=7).replace(b"7", DEEP),
    "deep parameters": b'{"x": [1, 2], "inputs": [], "parameters": {"a": %s}}' % DEEP,
    "deep beside the flat form's": b'{"x": [1, 2], "a": %s}' % DEEP,
    "deep as the flat form's input": b'{"x": %s}' % DEEP,
    "900 levels of parameters": b'{"x": [1, 2], "a": %s}' % (b"[" * 900 + b"]" * 900),
    **{
        f"900 levels of parameters of {where}": json.dumps(
            {"inputs": [INPUT], "outputs": [{"name": "x"}]} | changes
        )
        .encode()
        .replace(b"7", b"[" * 900 + b"]" * 900)
        for where, changes in {
            "the request": {"parameters": {"a": 7}},
            "an input": {"inputs": [INPUT | {"parameters": {"a": 7}}]},
            "an output": {"outputs": [{"name": "x", "parameters": {"a": 7}}]},
        }.items()
    },
    "a parameter of 70 bits": json.dumps({"inputs": [INPUT], "parameters": {"a": 2**70}}).encode(),
    "900 levels of an input": b'{"x": %s}' % (b"[" * 900 + b"]" * 900),
    "1000 sizes": with_tensor(shape=[1] * 1000),
    "1000 sizes of 2": with_tensor(shape=[2] * 1000),
    "100,000 sizes": with_tensor(shape=[1] * 60_000),
    "an overflow": with_tensor(shape=[HUGE, HUGE]),
    "an overflow to nothing": with_tensor(shape=[0, HUGE, HUGE], data=[]),
    "2**40 elements": with_tensor(shape=[2**20, 2**20]),
    "2**40 texts": with_tensor(shape=[2**40], datatype="BYTES", data=["a"]),
    "many rows of nothing": with_tensor(shape=[2**59, 0], data=[]),
    "a huge id": json.dumps({"inputs": [INPUT], "id": "x" * 150_000}).encode(),
    "a huge name": with_tensor(name="x" * 150_000),
    "a huge datatype": with_tensor(datatype="x" * 150_000),
    "a name twice": json.dumps({"inputs": [INPUT] * 2}).encode(),
    "a name a thousand times": json.dumps({"inputs": [INPUT] * 1000}).encode(),
    "an output a thousand times": json.dumps(
        {"inputs": [INPUT], "outputs": [{"name": "x"}] * 1000}
    ).encode(),
    "a huge number": with_tensor(data=[1, 2]).replace(b"2]}", b"9" * 100_000 + b"]}"),
    "a huge parameter": json.dumps({"x": [1, 2], "parameters": {"a": "b" * 100_000}}).encode(),
    "a huge classification": json.dumps(
        {
            "inputs": [INPUT],
            "outputs": [{"name": "x", "parameters": {"classification": 2**63}}],
        }
    ).encode(),
    "a classification of nothing": json.dumps(
        {
            "inputs": [INPUT | {"shape": [2, 0], "data": []}],
            "outputs": [{"name": "x", "parameters": {"classification": 1}}],
        }
    ).encode(),
}  # fmt: skip
BINARY_HOSTILE = {
    "an overflow": ("FP64", [HUGE, HUGE], b"12345678"),
    "2**40 elements": ("FP64", [2**40], b"12345678"),
    "2**40 texts": ("BYTES", [2**40], b""),
    "a text of 4 GB": ("BYTES", [1], b"\xff\xff\xff\xff"),
    "half a length": ("BYTES", [1], b"\xff\xff"),
    "1000 sizes": ("INT8", [1] * 1000, b"1"),
    "negative sizes": ("INT8", [-1, -1], b"1"),
}


@pytest.mark.parametrize("route", ROUTES)
async def test_nothing_hostile_takes_more_memory_than_its_own_size(echo, route):
    bombs = {
        "a gzip bomb": (gzip.compress(b" " * 30_000_000), [(b"content-encoding", b"gzip")]),
        "a zlib bomb": (zlib.compress(b"[" * 30_000_000), [(b"content-encoding", b"deflate")]),
    }
    sent = {name: (body, []) for name, body in HOSTILE.items()} | bombs
    sent |= {f"binary: {name}": binary(tensor) for name, tensor in BINARY_HOSTILE.items()}
    settings = ServerSettings(max_body_bytes=LIMIT)
    async with Server([echo], plugins=(), settings=settings) as server:
        app = App(server)
        await check_good(app)  # what is made once is made now
        for name, (body, headers) in sent.items():
            tracemalloc.start()
            try:
                answer = await app.post(path_of(route), body, headers)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            try:
                check_answer(*answer)
                # a Python object for each byte, and a few copies; a shape alone can't ask for it
                assert peak < 64 * LIMIT
            except BaseException as error:
                error.add_note(name)
                raise
        await check_good(app)


# ---- the two readers of JSON ----


def read(body):
    """What a request says, or why it is none."""
    try:
        request, form = wire_json.decode_infer(body, "m")
    except InvalidRequestError as error:
        return str(error)
    inputs = [
        (each.name, each.datatype, each.shape, each.array.tobytes(), each.parameters)
        for each in request.inputs
        if each.datatype != "BYTES"
    ]
    outputs = [(each.name, each.parameters) for each in request.outputs]
    return inputs, outputs, request.parameters, form


FLAT = [
    json.dumps(
        {
            "inputs": [
                {"name": "x", "shape": [2, 2], "datatype": datatype, "data": data},
                {"datatype": "INT8", "name": "y", "data": [1], "shape": [1]},
            ],
            "outputs": [{"name": "x"}],
            "parameters": {"a": "v", "b": {"c": 1}},
        }
    ).encode()
    for datatype in Datatype
    for data in ([1, 0, 1, 127], [[1, 0], [1, 127]], [1, 2, [3, 4]], [1, None, 3, 4])
]


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_large_body_is_read_as_a_small_one_is(seed, monkeypatch):
    chance = random.Random(seed)
    accepted = 0
    for _ in range(3000):
        body = chance.choice(FLAT)
        if chance.random() < 0.7:
            body = mutate(body, chance)
        monkeypatch.setattr(wire_json, "_LARGE", len(body))
        small = read(body)
        monkeypatch.setattr(wire_json, "_LARGE", 0)
        assert read(body) == small, body
        accepted += not isinstance(small, str)
    assert accepted > 100


@pytest.mark.parametrize(
    "data",
    [
        pytest.param([0, [1] * 5000], id="a list behind a number"),
        pytest.param([[0], *[1] * 5000], id="a list before numbers"),
        pytest.param([*[1] * 5000, [0]], id="a list at the end"),
        pytest.param([[1] * 5001], id="a level too many"),
        pytest.param([*[1] * 5000, None], id="null"),
        pytest.param([*[1] * 5000, 2**31], id="out of range"),
        pytest.param([*[1] * 5000, 1.5], id="a fraction"),
    ],
)
def test_a_fault_in_a_large_body_is_found(data):
    body = with_tensor(shape=[5001], datatype="INT32", data=data)
    with pytest.raises(InvalidRequestError, match=r"inputs\[0\].data"):
        wire_json.decode_infer(body, "m")


def test_a_large_nested_body_has_its_shape():
    numbers = np.arange(6000).reshape(2000, 3)
    body = with_tensor(shape=[2000, 3], datatype="INT16", data=numbers.tolist())
    request, _ = wire_json.decode_infer(body, "m")
    np.testing.assert_array_equal(request.inputs[0].array, numbers.astype("i2"))


# ---- gRPC ----


def message(*tensors, outputs=(), **fields):
    made = ModelInferRequest(model_name="echo", **fields)
    for index, (datatype, shape, data) in enumerate(tensors):
        made.inputs.add(name=f"x{index}", datatype=datatype, shape=shape)
        made.raw_input_contents.append(data)
    for name in outputs:
        made.outputs.add(name=name)
    return made


def typed():
    made = message(id="a-1")
    given = made.inputs.add(name="x", datatype="INT8", shape=[2])
    given.contents.int_contents.extend([1, -2])
    given.parameters["a"].uint64_param = 2**64 - 1
    made.parameters["b"].double_param = 0.5
    made.outputs.add(name="x").parameters["classification"].int64_param = 1
    return made


MESSAGES = [
    message(("FP64", [1], struct.pack("<d", 1.5))),
    message(BF16, BYTES, id="a-1", outputs=("x1", "x0")),
    message(("BOOL", [2], b"\0\7"), ("FP16", [0, 3], b"")),
    typed(),
]
#: What a caller may be told; UNKNOWN and INTERNAL are ours to fear.
TOLD = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
}


def change(given, chance):
    """Change a message's fields, or its bytes."""
    made = ModelInferRequest()
    made.CopyFrom(given)
    tensor = chance.choice(made.inputs)
    match chance.randrange(8):
        case 0:
            sizes = [[HUGE, HUGE], [0, HUGE, HUGE], [-1], [1] * 1000, [2**40], [1, 1], []]
            tensor.shape[:] = chance.choice(sizes)
        case 1:
            tensor.datatype = chance.choice([*Datatype, "", "x" * 9000])
        case 2:
            tensor.name = chance.choice(["", "x0", "x" * 9000])
        case 3:
            made.raw_input_contents.append(chance.randbytes(chance.randrange(9)))
        case 4:
            tensor.contents.fp32_contents.extend([1.5] * chance.randrange(3))
        case 5:
            made.parameters["headers"].string_param = "x" * 9000
            made.outputs.add(name="x0").parameters["classification"].int64_param = chance.choice(
                [-1, 0, 2**63 - 1]
            )
        case 6:
            made.id, made.model_version = "i" * 9000, chance.choice(["", "7", "v" * 9000])
        case 7:
            return mutate(made.SerializeToString(), chance)
    return made.SerializeToString()


async def infer(channel, data):
    """Call with bytes; gives the status and the text of an error."""
    try:
        await channel.unary_unary(f"/{SERVICE}/ModelInfer")(data, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_message_gives_an_unknown_or_internal_status(echo, serving, seed, caplog):
    chance = random.Random(seed)
    async with serving(echo) as (_, _, channel):
        statuses = set()
        for _ in range(BODIES):
            data = change(chance.choice(MESSAGES), chance)
            status, text = await infer(channel, data)
            assert status in TOLD, (text, data)
            statuses.add(status)
        assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT} <= statuses
        for good in MESSAGES:
            assert await infer(channel, good.SerializeToString()) == (grpc.StatusCode.OK, "")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("seed", SEEDS[:2])
async def test_no_message_ends_a_stream(echo, serving, seed, caplog):
    chance = random.Random(seed)
    async with serving(echo) as (_, _, channel):
        call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(timeout=20)
        for _ in range(BODIES):
            await call.write(change(chance.choice(MESSAGES), chance))
            ModelStreamInferResponse.FromString(await call.read())
        for good in MESSAGES:
            await call.write(good.SerializeToString())
            answer = ModelStreamInferResponse.FromString(await call.read())
            assert (answer.error_message, len(answer.infer_response.outputs) > 0) == ("", True)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("name", BINARY_HOSTILE)
async def test_a_hostile_message_takes_no_more_memory_than_its_own_size(echo, serving, name):
    data = message(BINARY_HOSTILE[name]).SerializeToString()
    async with serving(echo) as (_, _, channel):
        await infer(channel, MESSAGES[0].SerializeToString())
        tracemalloc.start()
        try:
            status, _ = await infer(channel, data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert status is grpc.StatusCode.INVALID_ARGUMENT
        assert peak < 10_000_000
