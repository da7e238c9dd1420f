import asyncio
import contextlib
import functools
import gc
import json
import os
import struct
import sys
import types
import uuid
from pathlib import Path

import grpc.aio
import numpy as np
import pytest

from jackfield import InvalidRequestError, NotServedError, Server, ServerSettings, SettingsError
from jackfield import server as server_module
from jackfield._shared_memory import FOLDER, OFF, Regions
from jackfield._wire.descriptors import METHODS, SERVICE, ModelInferRequest

Code = grpc.StatusCode

pytestmark = [
    pytest.mark.usefixtures("nothing_blocks_the_loop"),
    pytest.mark.skipif(not Path(FOLDER).is_dir(), reason="the system has no shared memory"),
]

#: Answers each input as an output of its name; waits for the test's `gate` where that is asked.
ECHO = """
import importlib

from jackfield import InferResponse, ModelMetadata


class Echo:
    def __init__(self, context):
        pass

    def load(self):
        pass

    def metadata(self):
        return ModelMetadata(platform="echo")

    async def infer(self, request):
        assert not any("shared" in key for each in request.inputs for key in each.parameters)
        assert not any("shared" in key for each in request.outputs for key in each.parameters)
        if request.parameters.get("waits"):
            gate = importlib.import_module("gate")
            gate.begun.set()
            await gate.opened.wait()
        return InferResponse(request.inputs)

    async def stream(self, request):
        yield InferResponse(request.inputs)
        yield InferResponse(request.inputs)

    def close(self):
        pass
"""


@pytest.fixture
def gate(monkeypatch):
    gate = types.SimpleNamespace(begun=asyncio.Event(), opened=asyncio.Event())
    monkeypatch.setitem(sys.modules, "gate", gate)
    return gate


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models" / "echo"
    folder.mkdir(parents=True)
    (folder / "own.py").write_text(ECHO)
    settings = {"name": "echo", "implementation": "own.Echo"}
    (folder / "model-settings.json").write_text(json.dumps(settings))
    return tmp_path / "models"


class Served:
    """A server, a client of each of its two ways in."""

    def __init__(self, rest, channel, call):
        self.rest = rest
        self.call = functools.partial(call, channel)
        self._channel = channel

    async def register(self, name, key, byte_size, offset=0):
        body = {"key": key, "byte_size": byte_size, "offset": offset}
        return await self.rest.post(f"/v2/systemsharedmemory/region/{name}/register", json=body)

    async def infer(self, *inputs, outputs=None, **parameters):
        body = {"inputs": list(inputs), "parameters": parameters}
        if outputs is not None:
            body["outputs"] = outputs
        return await self.rest.post("/v2/models/echo/infer", json=body)

    async def stream(self, message):
        kind = METHODS["ModelStreamInfer"]
        ask = self._channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=kind.request.SerializeToString,
            response_deserializer=kind.response.FromString,
        )
        return [answer async for answer in ask(iter([message]))]


@pytest.fixture
def serve(models, serving, call):
    @contextlib.asynccontextmanager
    async def serve(**settings):
        settings = {"shared_memory": True} | settings
        async with serving(models, **settings) as (_, rest, channel):
            yield Served(rest, channel, call)

    return serve


class Memory:
    """An object in shared memory, as a caller makes it."""

    def __init__(self, size):
        self.key = f"test-{uuid.uuid4().hex}"
        self.path = Path(FOLDER, self.key)
        self.path.write_bytes(bytes(size))

    def put(self, data, offset=0):
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def get(self, dtype, count, offset=0):
        return np.frombuffer(self.path.read_bytes(), dtype, count, offset).tolist()


@pytest.fixture
def memory():
    made = []

    def make(size=64):
        made.append(Memory(size))
        return made[-1]

    yield make
    for each in made:
        each.path.unlink(missing_ok=True)


def place(region="in", byte_size=12, offset=None):
    """The parameters of a tensor in shared memory."""
    parameters = {"shared_memory_region": region, "shared_memory_byte_size": byte_size}
    return parameters | ({} if offset is None else {"shared_memory_offset": offset})


def tensor(parameters, *, name="x", datatype="FP32", shape=(3,), **more):
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(shape),
        "parameters": parameters,
        **more,
    }


def message(*inputs, outputs=(), **fields):
    """The same request for gRPC."""
    message = ModelInferRequest(model_name="echo", **fields)
    for given in inputs:
        fill(
            message.inputs.add(
                name=given["name"], datatype=given["datatype"], shape=given["shape"]
            ),
            given["parameters"],
        )
    for given in outputs:
        fill(message.outputs.add(name=given["name"]), given.get("parameters", {}))
    return message


def fill(into, parameters):
    for key, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(into.parameters[key], field, value)


def check_refused(answer, *texts, status=400):
    assert answer.status_code == status, answer.text
    for text in texts:
        assert text in answer.json()["error"]


async def refusal(awaitable):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


# ---- off ----


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "status"),
        ("GET", "region/in/status"),
        ("POST", "region/in/register"),
        ("POST", "region/in/unregister"),
        ("POST", "unregister"),
    ],
)
async def test_off_a_route_names_the_setting(serve, method, path):
    async with serve(shared_memory=False) as served:
        answer = await served.rest.request(method, f"/v2/systemsharedmemory/{path}")
    check_refused(answer, "system shared memory is not served", "'shared_memory'", status=404)


@pytest.mark.parametrize("method", ["Status", "Register", "Unregister"])
async def test_off_a_call_is_unimplemented_and_names_the_setting(serve, method):
    async with serve(shared_memory=False) as served:
        error = await refusal(served.call(f"SystemSharedMemory{method}"))
    assert error.code() is Code.UNIMPLEMENTED
    assert "'shared_memory'" in error.details()


async def test_off_a_tensor_in_shared_memory_is_refused_and_the_setting_named(serve):
    async with serve(shared_memory=False) as served:
        given = tensor(place())
        check_refused(await served.infer(given), "inputs[0].parameters", "'shared_memory'")
        error = await refusal(served.call("ModelInfer", message(given)))
        assert error.code() is Code.INVALID_ARGUMENT
        assert "'shared_memory'" in error.details()
        inline = tensor({}, data=[1, 2, 3])
        wanted = [{"name": "x", "parameters": place()}]
        answer = await served.infer(inline, outputs=wanted)
        check_refused(answer, "outputs[0].parameters", "'shared_memory'")


async def test_the_extension_is_listed_exactly_when_it_is_on(serve):
    for is_on in (False, True):
        async with serve(shared_memory=is_on) as served:
            rest = (await served.rest.get("/v2")).json()["extensions"]
            metadata = await served.call("ServerMetadata")
        assert ("system_shared_memory" in rest) is is_on
        assert {"trace", "logging"} <= set(rest)
        assert list(metadata.extensions) == rest == sorted(rest)
        assert "cuda_shared_memory" not in rest


async def test_cuda_shared_memory_is_not_served(serve):
    async with serve() as served:
        assert (await served.rest.get("/v2/cudasharedmemory/status")).status_code == 404
        error = await refusal(served.call("CudaSharedMemoryStatus"))
    assert error.code() is Code.UNIMPLEMENTED


def test_a_system_without_shared_memory_says_so_at_the_start(models, monkeypatch):
    monkeypatch.setattr(server_module, "FOLDER", "/dev/nothing")
    with pytest.raises(SettingsError, match="/dev/nothing"):
        Server([models], plugins=(), settings=ServerSettings(shared_memory=True))


# ---- regions ----


async def test_a_region_is_registered_told_and_unregistered(serve, memory):
    first, second = memory(), memory()
    async with serve() as served:
        assert (await served.rest.get("/v2/systemsharedmemory/status")).json() == []
        answer = await served.register("in", "/" + first.key, 48, 16)
        assert (answer.status_code, answer.content) == (200, b"")
        fields = {"name": "out", "key": second.key, "byte_size": 8}
        await served.call("SystemSharedMemoryRegister", **fields)
        told = {"name": "in", "key": "/" + first.key, "offset": 16, "byte_size": 48}
        other = {"name": "out", "key": second.key, "offset": 0, "byte_size": 8}
        assert (await served.rest.get("/v2/systemsharedmemory/status")).json() == [told, other]
        one = await served.rest.get("/v2/systemsharedmemory/region/in/status")
        assert one.json() == [told]
        status = await served.call("SystemSharedMemoryStatus")
        assert set(status.regions) == {"in", "out"}
        region = status.regions["in"]
        assert (region.name, region.key, region.offset, region.byte_size) == (
            "in",
            "/" + first.key,
            16,
            48,
        )
        assert set((await served.call("SystemSharedMemoryStatus", name="out")).regions) == {"out"}

        await served.rest.post("/v2/systemsharedmemory/region/in/unregister")
        await served.rest.post("/v2/systemsharedmemory/region/in/unregister")
        assert set((await served.call("SystemSharedMemoryStatus")).regions) == {"out"}
        check_refused(
            await served.rest.get("/v2/systemsharedmemory/region/in/status"), "name", "'in'"
        )
        assert (await served.register("in", first.key, 64)).status_code == 200
        await served.call("SystemSharedMemoryUnregister")
        assert (await served.rest.get("/v2/systemsharedmemory/status")).json() == []


async def test_a_name_is_registered_once(serve, memory):
    key = memory().key
    async with serve() as served:
        await served.register("in", key, 64)
        check_refused(await served.register("in", key, 64), "name", "'in'")
        error = await refusal(
            served.call("SystemSharedMemoryRegister", name="in", key=key, byte_size=1)
        )
        assert error.code() is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "//shm",
        "a/b",
        "../etc/passwd",
        "/../etc/passwd",
        "..",
        ".",
        "x\n",
        "x\0y",
        "x y",
        "é",
        "a" * 201,
    ],
)
async def test_a_key_outside_of_the_folder_or_of_odd_characters_is_refused(serve, key):
    async with serve() as served:
        check_refused(await served.register("in", key, 1), "key")
        error = await refusal(
            served.call("SystemSharedMemoryRegister", name="in", key=key, byte_size=1)
        )
        assert error.code() is Code.INVALID_ARGUMENT


async def test_what_is_no_regular_file_looks_like_what_is_not_there(serve, memory, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(64))
    token = uuid.uuid4().hex
    made = {
        kind: Path(FOLDER, f"{kind}{token}")
        for kind in ("symlink-", "folder-", "pipe-", "unreadable-", "sem.", "jackfield-")
    }
    made["symlink-"].symlink_to(outside)
    made["folder-"].mkdir()
    os.mkfifo(made["pipe-"])
    made["unreadable-"].write_bytes(bytes(64))
    made["unreadable-"].chmod(0o400 if os.getuid() else 0o000)
    made["sem."].write_bytes(bytes(64))
    made["jackfield-"].write_bytes(bytes(64))
    if not os.getuid():  # root opens anything
        made.pop("unreadable-").unlink()
    try:
        async with serve() as served:
            missing = (await served.register("in", f"nothing-{token}", 8)).json()["error"]
            for path in made.values():
                answer = await asyncio.wait_for(served.register("in", path.name, 8), 10)
                check_refused(answer)
                assert answer.json()["error"] == missing.replace(f"nothing-{token}", path.name)
    finally:
        for path in made.values():
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("byte_size", "offset"),
    [
        (0, 0),
        (-1, 0),
        (65, 0),
        (64, 1),
        (1, 64),
        (8, -8),
        (2**63, 0),
        (2**64 - 1, 0),
        (2**64, 0),
        (8, 2**63 - 1),
        (8, 2**64 - 8),
        (10**300, 10**300),
        (1.5, 0),
        ("8", 0),
        (True, 0),
        (None, 0),
    ],
)
async def test_a_region_beyond_its_memory_is_refused(serve, memory, byte_size, offset):
    key = memory().key
    async with serve() as served:
        check_refused(await served.register("in", key, byte_size, offset))
        if all(type(each) is int and each in range(2**64) for each in (byte_size, offset)):
            error = await refusal(
                served.call(
                    "SystemSharedMemoryRegister",
                    name="in",
                    key=key,
                    byte_size=byte_size,
                    offset=offset,
                )
            )
            assert error.code() is Code.INVALID_ARGUMENT


async def test_sizes_and_counts_have_a_limit(serve, memory):
    key = memory(64).key
    async with serve(max_shared_memory_bytes=100) as served:
        assert (await served.register("a", key, 64)).status_code == 200
        check_refused(await served.register("b", key, 64), "36 bytes", "'max_shared_memory_bytes'")
        assert (await served.register("b", key, 36)).status_code == 200
        await served.rest.post("/v2/systemsharedmemory/unregister")
        check_refused(await served.register("n" * 201, key, 1), "characters")
        error = await refusal(served.call("SystemSharedMemoryRegister", key=key, byte_size=1))
        assert "characters" in error.details()
    async with serve() as served:
        for number in range(128):
            assert (await served.register(f"r{number}", key, 1)).status_code == 200
        check_refused(await served.register("one-more", key, 1), "at most 128")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 10_000, b'{"key": 1, "byte_size": 1}'])
async def test_a_body_that_is_none_is_refused(serve, body):
    async with serve() as served:
        path = "/v2/systemsharedmemory/region/in/register"
        check_refused(await served.rest.post(path, content=body))


async def test_two_servers_have_regions_of_their_own(serve, memory):
    first, second = memory(), memory()
    first.put(np.float32([1, 2, 3]).tobytes())
    async with serve() as one, serve() as other:
        await one.register("in", first.key, 64)
        check_refused(await other.infer(tensor(place())), "registered")
        await other.register("in", second.key, 64)
        await other.rest.post("/v2/systemsharedmemory/unregister")
        answer = await one.infer(tensor(place()))
        assert answer.json()["outputs"][0]["data"] == [1, 2, 3]


async def test_a_stopped_server_holds_no_file_open(serve, memory):
    made = memory()

    def is_held():
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                if os.readlink(link) == os.path.realpath(made.path):
                    return True
        return False

    async with serve() as served:
        await served.register("in", made.key, 64)
        assert is_held()
        await served.rest.post("/v2/systemsharedmemory/region/in/unregister")
        assert not is_held()
        await served.register("in", made.key, 64)
    assert not is_held()


# ---- tensors ----


async def test_an_input_is_read_at_its_offset(serve, memory):
    made = memory()
    made.put(np.float32([1, 2.5, -3]).tobytes(), offset=20)
    async with serve() as served:
        await served.register("in", made.key, 56, 8)
        given = tensor(place(offset=12))
        answer = (await served.infer(given)).json()
        assert answer["outputs"] == [
            {"name": "x", "shape": [3], "datatype": "FP32", "data": [1, 2.5, -3]}
        ]
        answer = await served.call("ModelInfer", message(given))
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [1, 2.5, -3]
    assert not answer.outputs[0].parameters


async def test_an_output_is_written_at_its_offset_and_told(serve, memory):
    given, got = memory(), memory()
    given.put(np.float32([1, 2, 3]).tobytes())
    async with serve() as served:
        await served.register("in", given.key, 64)
        await served.register("out", got.key, 60, 4)
        wanted = [{"name": "x", "parameters": place("out", 20, 8) | {"binary_data": False}}]
        answer = await served.infer(tensor(place()), outputs=wanted)
        told = place("out", 12, 8)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["outputs"] == [
            {"name": "x", "shape": [3], "datatype": "FP32", "parameters": told}
        ]
        assert got.get("<f4", 3, 12) == [1, 2, 3]

        given.put(np.float32([4, 5, 6]).tobytes())
        wanted = [{"name": "x", "parameters": place("out", 12)}]
        answer = await served.call("ModelInfer", message(tensor(place()), outputs=wanted))
        [output] = answer.outputs
        told = output.parameters
        assert told["shared_memory_region"].string_param == "out"
        assert told["shared_memory_byte_size"].int64_param == 12
        assert len(told) == 2
        assert list(answer.raw_output_contents) == [b""]
        assert got.get("<f4", 3, 4) == [4, 5, 6]
    # what lies beside the place is left alone
    assert got.path.read_bytes()[24:] == bytes(40)


async def test_shared_and_other_tensors_go_together(serve, memory):
    made = memory()
    made.put(np.float32([1, 2, 3]).tobytes())
    inputs = [
        tensor({}, name="before", data=[9, 9, 9]),
        tensor(place(), name="shared"),
        tensor({"kept": 1}, name="after", data=[7, 8, 9]),
    ]
    wanted = [
        {"name": "before"},
        {"name": "shared", "parameters": place("in", 12, 16)},
        {"name": "after"},
    ]
    async with serve() as served:
        await served.register("in", made.key, 64)
        outputs = (await served.infer(*inputs, outputs=wanted)).json()["outputs"]
        assert [output.get("data") for output in outputs] == [[9, 9, 9], None, [7, 8, 9]]

        raw = message(*inputs, outputs=wanted)
        for index in (0, 2):
            raw.raw_input_contents.append(np.float32(inputs[index]["data"]).tobytes())
        answer = await served.call("ModelInfer", raw)
        # an entry for each output: clients count them
        contents = [np.frombuffer(each, "<f4").tolist() for each in answer.raw_output_contents]
        assert contents == [[9, 9, 9], [], [7, 8, 9]]

        typed = message(*inputs, outputs=wanted)
        for index in (0, 2):
            typed.inputs[index].contents.fp32_contents.extend(inputs[index]["data"])
        answer = await served.call("ModelInfer", typed)
        assert len(answer.raw_output_contents) == 3

        whole = json.dumps(
            {
                "inputs": [
                    tensor({"binary_data_size": 12}, name="before"),
                    inputs[1],
                ],
                "outputs": [
                    {"name": "shared", "parameters": place("in", 12)},
                    {"name": "before", "parameters": {"binary_data": True}},
                ],
            }
        ).encode()
        answer = await served.rest.post(
            "/v2/models/echo/infer",
            content=whole + np.float32([5, 6, 7]).tobytes(),
            headers={"Inference-Header-Content-Length": str(len(whole))},
        )
        length = int(answer.headers["inference-header-content-length"])
        assert np.frombuffer(answer.content[length:], "<f4").tolist() == [5, 6, 7]
        assert "data" not in json.loads(answer.content[:length])["outputs"][0]


@pytest.mark.parametrize(
    ("datatype", "raw", "data"),
    [
        ("BOOL", b"\x01\x00\x02", [True, False, True]),
        ("INT64", np.int64([1, -2, 2**62]).tobytes(), [1, -2, 2**62]),
        ("UINT8", b"\x00\x7f\xff", [0, 127, 255]),
        (
            "BYTES",
            b"".join(struct.pack("<I", n) + b"z" * n for n in (0, 3, 5)),
            ["", "zzz", "zzzzz"],
        ),
    ],
)
async def test_datatypes_go_both_ways(serve, memory, datatype, raw, data):
    made = memory(256)
    made.put(raw)
    async with serve() as served:
        await served.register("in", made.key, 256)
        given = tensor(place("in", len(raw)), datatype=datatype)
        assert (await served.infer(given)).json()["outputs"][0]["data"] == data
        wanted = [{"name": "x", "parameters": place("in", 128, 128)}]
        output = (await served.infer(given, outputs=wanted)).json()["outputs"][0]
        size = output["parameters"]["shared_memory_byte_size"]
        written = made.path.read_bytes()[128 : 128 + size]
        assert written == (b"\x01\x00\x01" if datatype == "BOOL" else raw)


async def test_bf16_needs_no_binary_form_in_shared_memory(serve, memory):
    made = memory()
    made.put(bytes.fromhex("803f 0040 40c0"))  # 1, 2, -3
    async with serve() as served:
        await served.register("in", made.key, 64)
        wanted = [{"name": "x", "parameters": place("in", 6, 6)}]
        given = tensor(place("in", 6), datatype="BF16")
        answer = await served.infer(given, outputs=wanted)
        assert answer.status_code == 200
    assert made.path.read_bytes()[6:12] == bytes.fromhex("803f 0040 40c0")


async def test_an_input_of_no_elements_is_empty(serve, memory):
    made = memory()
    async with serve() as served:
        await served.register("in", made.key, 64)
        given = tensor(place("in", 0), shape=(0, 4))
        wanted = [{"name": "x", "parameters": place("in", 0, 64)}]
        assert (await served.infer(given)).json()["outputs"][0]["data"] == []
        output = (await served.infer(given, outputs=wanted)).json()["outputs"][0]
        assert output["parameters"] == place("in", 0, 64)


async def test_streams_write_each_response(serve, memory):
    made = memory()
    made.put(np.float32([1, 2, 3]).tobytes())
    wanted = [{"name": "x", "parameters": place("in", 12, 24)}]
    async with serve() as served:
        await served.register("in", made.key, 64)
        answers = await served.stream(message(tensor(place()), outputs=wanted))
        assert [answer.error_message for answer in answers] == ["", ""]
        assert made.get("<f4", 3, 24) == [1, 2, 3]
        made.put(bytes(12), 24)
        body = {"inputs": [tensor(place())], "outputs": wanted}
        answer = await served.rest.post("/v2/models/echo/infer_stream", json=body)
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line]
        assert [event["outputs"][0]["parameters"] for event in events] == [place("in", 12, 24)] * 2
        assert made.get("<f4", 3, 24) == [1, 2, 3]
        too_small = [{"name": "x", "parameters": place("in", 11)}]
        [answer] = await served.stream(message(tensor(place()), outputs=too_small))
        assert "at least 12 bytes" in answer.error_message


DEEP: list = []
for _ in range(400):
    DEEP = [DEEP]


def fits_grpc(value):
    return isinstance(value, str) or (type(value) is int and value in range(-(2**63), 2**63))


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"shared_memory_region": "in"}, "shared_memory_byte_size"),
        ({"shared_memory_byte_size": 12}, "shared_memory_region"),
        ({"shared_memory_offset": 0}, "shared_memory_region"),
        (place("other"), "'other'"),
        (place(7), "shared_memory_region"),
        (place(["in"]), "shared_memory_region"),
        (place(DEEP), "shared_memory_region"),
        (place(byte_size=-1), "shared_memory_byte_size"),
        (place(byte_size="12"), "shared_memory_byte_size"),
        (place(byte_size=12.0), "shared_memory_byte_size"),
        (place(byte_size=True), "shared_memory_byte_size"),
        (place(byte_size=DEEP), "shared_memory_byte_size"),
        (place(byte_size=65), "within the region's 64 bytes"),
        (place(offset=-12), "shared_memory_offset"),
        (place(offset=53), "within the region's 64 bytes"),
        (place(offset=2**63 - 1), "within the region's 64 bytes"),
        (place(offset=2**64 - 12), "within the region's 64 bytes"),
        (place(byte_size=2**63, offset=2**63), "within the region's 64 bytes"),
        (place(byte_size=10**300), "shared_memory_byte_size"),
        (place(byte_size=8), "12 bytes"),
        (place(byte_size=16), "12 bytes"),
    ],
    ids=range(21),
)
async def test_a_place_that_is_none_is_refused(serve, memory, parameters, text):
    async with serve() as served:
        await served.register("in", memory().key, 64)
        check_refused(await served.infer(tensor(parameters)), "model 'echo'", "inputs[0]", text)
        wanted = [{"name": "x", "parameters": parameters}]
        answer = await served.infer(tensor({}, data=[1, 2, 3]), outputs=wanted)
        if parameters.get("shared_memory_byte_size") == 16:
            assert answer.status_code == 200  # a place may be larger than its output
        else:
            check_refused(answer, "outputs[0]", text)
        if all(map(fits_grpc, parameters.values())):
            error = await refusal(served.call("ModelInfer", message(tensor(parameters))))
            assert error.code() is Code.INVALID_ARGUMENT
            assert text in error.details()


async def test_data_in_two_places_is_refused(serve, memory):
    async with serve() as served:
        await served.register("in", memory().key, 64)
        answer = await served.infer(tensor(place(), data=[1, 2, 3]))
        check_refused(answer, "inputs[0].parameters", "one place")
        answer = await served.infer(tensor(place() | {"binary_data_size": 12}))
        check_refused(answer, "inputs[0].parameters", "one place")
        raw = message(tensor(place()))
        raw.raw_input_contents.append(bytes(12))
        assert "raw_input_contents" in (await refusal(served.call("ModelInfer", raw))).details()
        typed = message(tensor(place()))
        typed.inputs[0].contents.fp32_contents.extend([1, 2, 3])
        assert "inputs[0].contents" in (await refusal(served.call("ModelInfer", typed))).details()


# ---- what changes under way ----


async def test_truncated_memory_is_an_error_and_no_end_of_the_server(serve, memory):
    made = memory(1 << 20)
    given = tensor(place("in", 1 << 20), shape=(1 << 18,))
    async with serve() as served:
        await served.register("in", made.key, 1 << 20)
        assert (await served.infer(given)).status_code == 200
        os.truncate(made.path, 100)
        check_refused(await served.infer(given), "as large as when it was registered")
        error = await refusal(served.call("ModelInfer", message(given)))
        assert error.code() is Code.INVALID_ARGUMENT
        wanted = [{"name": "x", "parameters": place("in", 12, 512)}]
        answer = await served.infer(tensor({}, data=[1, 2, 3]), outputs=wanted)
        check_refused(answer, "as large as when it was registered")
        assert made.path.stat().st_size == 100
        os.truncate(made.path, 1 << 20)
        assert (await served.infer(given)).status_code == 200


async def test_memory_that_shrinks_while_it_is_read_is_an_error(memory, monkeypatch):
    made = memory(4096)
    regions = Regions(1 << 20, max_text_bytes=1 << 20)
    regions.register("in", made.key, offset=0, byte_size=4096)
    looked = os.fstat

    def look_then_truncate(descriptor):
        status = looked(descriptor)
        os.truncate(made.path, 10)
        return status

    monkeypatch.setattr(os, "fstat", look_then_truncate)
    found = regions.place(place("in", 4096), "inputs[0]", "m")
    with pytest.raises(InvalidRequestError, match="as large as"):
        found.read()
    regions.close()


async def test_an_input_is_the_requests_own_copy(serve, memory, gate):
    made = memory()
    made.put(np.float32([1, 2, 3]).tobytes())
    async with serve() as served:
        await served.register("in", made.key, 64)
        asking = asyncio.create_task(served.infer(tensor(place()), waits=True))
        await gate.begun.wait()
        made.put(bytes(64))
        os.truncate(made.path, 0)
        await served.rest.post("/v2/systemsharedmemory/unregister")
        gate.opened.set()
        assert (await asking).json()["outputs"][0]["data"] == [1, 2, 3]


async def test_an_output_whose_region_is_gone_is_refused_and_no_other_file_written(
    serve, memory, gate
):
    made, other = memory(), memory()
    wanted = [{"name": "x", "parameters": place("out", 12)}]
    async with serve() as served:
        await served.register("out", made.key, 64)
        asking = asyncio.create_task(
            served.infer(tensor({}, data=[1, 2, 3]), outputs=wanted, waits=True)
        )
        await gate.begun.wait()
        await served.rest.post("/v2/systemsharedmemory/region/out/unregister")
        # the name, and most likely the descriptor's number, are another file's now
        await served.register("out", other.key, 64)
        gate.opened.set()
        check_refused(await asking, "outputs[0]", "unregistered")
    assert made.path.read_bytes() == other.path.read_bytes() == bytes(64)


async def test_a_region_outlives_the_name_of_its_memory(serve, memory):
    made = memory()
    made.put(np.float32([1, 2, 3]).tobytes())
    async with serve() as served:
        await served.register("in", made.key, 64)
        made.path.unlink()
        assert (await served.infer(tensor(place()))).json()["outputs"][0]["data"] == [1, 2, 3]


async def test_copies_of_requests_in_flight_have_a_limit(serve, memory, gate):
    made = memory(64)
    async with serve(max_shared_memory_bytes=64) as served:
        await served.register("in", made.key, 64)
        twice = [tensor(place("in", 40), name=name, shape=(10,)) for name in "ab"]
        check_refused(await served.infer(*twice), "'max_shared_memory_bytes'", status=429)
        one = tensor(place("in", 40), shape=(10,))
        asking = asyncio.create_task(served.infer(one, waits=True))
        await gate.begun.wait()
        check_refused(await served.infer(one), status=429)
        error = await refusal(served.call("ModelInfer", message(one)))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        gate.opened.set()
        assert (await asking).status_code == 200
        del asking
        gc.collect()
        for _ in range(5):
            assert (await served.infer(one)).status_code == 200
            gc.collect()


def test_a_copy_counts_until_the_last_view_on_it_is_gone(memory):
    regions = Regions(64, max_text_bytes=64)
    regions.register("in", memory(64).key, offset=0, byte_size=64)
    found = regions.place(place("in", 64), "", "")
    array = regions.read(found, lambda data: np.frombuffer(data, "<f4").reshape(4, 4))
    assert not array.flags.writeable
    view = array[1:, ::2]
    del array
    with pytest.raises(Exception, match="max_shared_memory_bytes"):
        regions.read(found, lambda data: np.frombuffer(data, "<f4"))
    del view
    regions.read(found, lambda data: np.frombuffer(data, "<f4"))
    regions.close()


async def test_bytes_have_the_limit_of_a_body(serve, memory):
    raw = b"".join(struct.pack("<I", 1) + b"z" for _ in range(1000))
    made = memory(5000)
    made.put(raw)
    async with serve(max_body_bytes=4096) as served:
        await served.register("in", made.key, 5000)
        given = tensor(place("in", 5000), datatype="BYTES", shape=(1000,))
        check_refused(await served.infer(given), "4096", "'max_body_bytes'")
        given = tensor(place("in", 5000), datatype="UINT8", shape=(5000,))
        assert (await served.infer(given)).status_code == 200


def test_regions_that_are_off_serve_nothing():
    for ask in (OFF.status, OFF.unregister, lambda: OFF.register("a", "b", offset=0, byte_size=1)):
        with pytest.raises(NotServedError, match="'shared_memory'"):
            ask()
    OFF.close()
