"""The stream as an async generator, without a socket: what a caller does who reads too little."""

import asyncio

import pytest

from jackfield import Server
from jackfield._grpc.stream import stream_infer
from jackfield._wire.descriptors import ModelInferRequest

ENDLESS = """
import numpy as np

from jackfield import InferResponse, ModelMetadata, Tensor


class Endless:
    def __init__(self, context):
        pass

    def load(self):
        pass

    def metadata(self):
        return ModelMetadata(platform="endless")

    async def infer(self, request):
        return InferResponse(request.inputs)

    async def stream(self, request):
        while True:
            yield InferResponse(request.inputs)

    def close(self):
        pass
"""

FAULTY = ENDLESS.replace("yield InferResponse(request.inputs)", 'yield "no response"')


class Context:
    """A call without metadata."""

    def invocation_metadata(self):
        return ()


async def messages(*given):
    for name in given:
        message = ModelInferRequest(model_name=name)
        message.inputs.add(name="x", datatype="UINT8", shape=[1])
        message.raw_input_contents.append(b"\x07")
        yield message.SerializeToString()


@pytest.fixture
def stream(models_dir, add_model):
    """Open a stream to a server; gives the generator of answers."""
    add_model("endless", "Endless", code=ENDLESS)
    add_model("faulty", "Endless", code=FAULTY)

    async def open_stream(server, *names):
        return stream_infer(server._models, server._regions, messages(*names), Context())

    return open_stream


async def test_a_caller_who_reads_one_answer_and_leaves_leaves_nothing_behind(models_dir, stream):
    async with Server([models_dir], plugins=()) as server:
        before = asyncio.all_tasks()
        answers = await stream(server, "endless", "endless")
        assert (await anext(answers)).infer_response.model_name == "endless"
        async with asyncio.timeout(10):
            await answers.aclose()
        assert asyncio.all_tasks() == before
        assert server.model("endless").statistics.in_flight == 0


async def test_what_a_runtime_yields_wrongly_is_one_error(models_dir, stream, caplog):
    async with Server([models_dir], plugins=()) as server:
        answers = await stream(server, "faulty")
        text = "model 'faulty' failed on this request; the server's log tells why"
        assert [answer.error_message async for answer in answers] == [text]
    assert any(record.levelname == "ERROR" for record in caplog.records)
