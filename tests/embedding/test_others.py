"""The snippets that need no web framework."""

import asyncio
import struct
import subprocess
import sys

import grpc.aio
from tests.embedding.snippets import write_snippet
from tests.serving import clean_environment

from jackfield._wire.descriptors import METHODS, SERVICE


def test_the_synchronous_twin_of_the_page_prints_what_the_models_say(home, log):
    file = write_snippet("sync", home)
    done = subprocess.run(
        [sys.executable, file],
        cwd=home,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[0]\n[0]\n[2]\n", "")
    assert log() == ["load", "close"]


async def test_the_servicer_is_added_to_a_grpc_server_of_ones_own(home, log, monkeypatch):
    monkeypatch.chdir(home)
    scope = {"__name__": "snippet"}
    exec(compile(write_snippet("grpc", home).read_text(), "app.py", "exec"), scope)
    address = f"unix:{home}/socket"
    serving = asyncio.create_task(scope["main"](address))
    method = METHODS["ModelInfer"]
    request = method.request(model_name="iris")
    request.inputs.add(name="x", datatype="FP64", shape=[1, 4])
    request.raw_input_contents.append(struct.pack("<4d", 6, 3, 5.1, 2))
    async with grpc.aio.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        answer = await infer(request, wait_for_ready=True, timeout=60)
    assert answer.outputs[0].datatype == "INT64"
    assert answer.raw_output_contents[0] == (2).to_bytes(8, "little")
    serving.cancel()
    await asyncio.wait([serving])
    assert log() == ["load", "close"]
