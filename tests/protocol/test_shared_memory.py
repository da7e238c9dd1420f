"""tritonclient's own shared memory, and its calls that change settings, against a real server."""

import asyncio
import contextlib
import logging
import threading
import uuid

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, serialize_byte_tensor
from tritonclient.utils import shared_memory as shm

from jackfield import Server, ServerSettings


@contextlib.contextmanager
def serving(folder, **settings):
    """Run a server in a thread; gives its addresses."""
    ports = {"http_port": 0, "grpc_port": 0, "metrics_endpoint": ""}
    server = Server([folder], plugins=(), settings=ServerSettings(**ports, **settings))
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    started = threading.Event()
    found = []

    async def announce(addresses):
        found.append(addresses)
        started.set()

    def run():
        with contextlib.closing(loop):
            loop.run_until_complete(server.run(stop, announce))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(30)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture(scope="module")
def models(write, tmp_path_factory):
    return write(tmp_path_factory.mktemp("models"), "echo.Echo", name="echo").parent


@pytest.fixture(scope="module")
def addresses(models):
    with serving(models, shared_memory=True) as addresses:
        yield addresses


@pytest.fixture(params=[tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def triton(request):
    return request.param


@contextlib.contextmanager
def connected(triton, addresses):
    url = addresses.grpc if triton is tritonclient.grpc else addresses.http.removeprefix("http://")
    with contextlib.closing(triton.InferenceServerClient(url)) as client:
        yield client


@pytest.fixture
def client(triton, addresses):
    with connected(triton, addresses) as client:
        yield client
        client.unregister_system_shared_memory()


@pytest.fixture
def region():
    """Make regions as a user of the client does."""
    made = []

    def make(size):
        handle = shm.create_shared_memory_region("a region", f"test_{uuid.uuid4().hex}", size)
        made.append(handle)
        return handle

    yield make
    for each in made:
        shm.destroy_shared_memory_region(each)


def key_of(handle):
    return handle._shm_key


def names(status):
    """The regions of a status, which is a list over HTTP and a message over gRPC."""
    return [each["name"] for each in status] if isinstance(status, list) else [*status.regions]


def test_regions_are_registered_listed_and_unregistered(client, region):
    handle = region(64)
    client.register_system_shared_memory("first", key_of(handle), 64)
    client.register_system_shared_memory("second", "/" + key_of(handle), 16, offset=32)
    assert sorted(names(client.get_system_shared_memory_status())) == ["first", "second"]
    assert names(client.get_system_shared_memory_status("second")) == ["second"]
    client.unregister_system_shared_memory("first")
    assert names(client.get_system_shared_memory_status()) == ["second"]
    client.unregister_system_shared_memory()
    assert names(client.get_system_shared_memory_status()) == []


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BYTES"])
def test_tensors_go_through_shared_memory_both_ways(triton, client, region, datatype):
    if datatype == "BYTES":
        array = np.array([b"", b"one", b"\xff\x00"], dtype=object)
        packed = serialize_byte_tensor(array)
        size = len(packed.item())
    else:
        array = np.arange(3, dtype={"FP32": np.float32, "INT64": np.int64}[datatype])
        packed, size = array, array.nbytes
    given, got = region(size), region(size + 8)
    shm.set_shared_memory_region(given, [packed])
    client.register_system_shared_memory("given", key_of(given), size)
    client.register_system_shared_memory("got", key_of(got), size + 8)
    tensor = triton.InferInput("x", [3], datatype)
    tensor.set_shared_memory("given", size)
    wanted = triton.InferRequestedOutput("x")
    wanted.set_shared_memory("got", size, offset=8)

    result = client.infer("echo", [tensor], outputs=[wanted])

    output = result.get_output("x")
    shape = output["shape"] if isinstance(output, dict) else list(output.shape)
    found = shm.get_contents_as_numpy(got, array.dtype, shape, offset=8)
    assert found.tolist() == array.tolist()
    del found
    told = output["parameters"] if isinstance(output, dict) else output.parameters
    assert set(told) == {
        "shared_memory_region",
        "shared_memory_byte_size",
        "shared_memory_offset",
    }


def test_shared_and_other_tensors_go_together(triton, client, region):
    arrays = [np.full(4, number, np.float32) for number in range(3)]
    handle = region(32)
    shm.set_shared_memory_region(handle, [arrays[1]])
    client.register_system_shared_memory("both", key_of(handle), 32)
    inputs = [triton.InferInput(name, [4], "FP32") for name in "abc"]
    for index in (0, 2):
        inputs[index].set_data_from_numpy(arrays[index])
    inputs[1].set_shared_memory("both", 16)
    outputs = [triton.InferRequestedOutput(name) for name in "abc"]
    outputs[1].set_shared_memory("both", 16, offset=16)

    result = client.infer("echo", inputs, outputs=outputs)

    assert result.as_numpy("a").tolist() == [0, 0, 0, 0]
    assert result.as_numpy("c").tolist() == [2, 2, 2, 2]
    found = shm.get_contents_as_numpy(handle, np.float32, [4], offset=16)
    assert found.tolist() == [1, 1, 1, 1]
    del found


def test_faults_reach_the_user_in_words(triton, client, region):
    handle = region(64)
    client.register_system_shared_memory("first", key_of(handle), 64)
    faults = {
        "'first'": lambda: client.register_system_shared_memory("first", key_of(handle), 64),
        "key": lambda: client.register_system_shared_memory("other", "no-such-key", 64),
        "byte_size": lambda: client.register_system_shared_memory("other", key_of(handle), 8192),
        "'nobody'": lambda: client.get_system_shared_memory_status("nobody"),
        "64 bytes": lambda: client.infer(
            "echo", [triton.InferInput("x", [32], "FP32").set_shared_memory("first", 128)]
        ),
    }
    for text, ask in faults.items():
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert text in caught.value.message()
        assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_what_is_off_reaches_the_user_in_words(triton, models):
    with serving(models) as addresses, connected(triton, addresses) as client:
        for ask in (
            client.get_system_shared_memory_status,
            client.unregister_system_shared_memory,
            client.get_cuda_shared_memory_status,
        ):
            with pytest.raises(InferenceServerException) as caught:
                ask()
            assert caught.value.status() in ("404", "StatusCode.UNIMPLEMENTED")
            if "system" in ask.__name__:
                assert "'shared_memory'" in caught.value.message()


def test_log_settings_are_read_and_changed(triton, client):
    as_json = {"as_json": True} if triton is tritonclient.grpc else {}

    def told(settings):
        flat = settings.get("settings", settings)
        return {
            key: next(iter(value.values())) if isinstance(value, dict) else value
            for key, value in flat.items()
        }

    before = told(client.get_log_settings(**as_json))
    changes = {"log_verbose_level": 2, "log_info": False, "log_format": "ISO8601"}
    try:
        assert told(client.update_log_settings(changes, **as_json)) == before | changes
        assert logging.getLogger("jackfield").level == logging.DEBUG
    finally:
        changes = {key: before[key] for key in changes}
        assert told(client.update_log_settings(changes, **as_json)) == before
    with pytest.raises(InferenceServerException, match="log_file"):
        client.update_log_settings({"log_file": "/tmp/elsewhere"})


def test_trace_settings_are_read_and_changed(triton, client):
    as_json = {"as_json": True} if triton is tritonclient.grpc else {}

    def told(settings):
        flat = settings.get("settings", settings)
        return {
            key: value["value"] if isinstance(value, dict) else value for key, value in flat.items()
        }

    def value(text):
        return [text] if triton is tritonclient.grpc else text

    before = told(client.get_trace_settings("echo", **as_json))
    assert before == told(client.get_trace_settings(**as_json))
    changes = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}
    after = told(client.update_trace_settings("echo", changes, **as_json))
    assert after == before | {"trace_level": ["TIMESTAMPS"], "trace_rate": value("1")}
    assert told(client.get_trace_settings(**as_json)) == before
    back = dict.fromkeys(changes)
    assert told(client.update_trace_settings("echo", back, **as_json)) == before
    with pytest.raises(InferenceServerException, match="trace_file"):
        client.update_trace_settings("echo", {"trace_file": "/tmp/elsewhere"})
