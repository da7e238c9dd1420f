"""tritonclient's gRPC stream, blocking and asynchronous: order, errors, cancellation."""

import asyncio
import contextlib
import json
import os
import queue
import select
import uuid

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tests.protocol.triton import TIMEOUT_S
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

N = np.array([3])


def request(model: str, name: str, array: np.ndarray, request_id: str, **parameters: object):
    """A request as the asynchronous client takes it, and nearly as the blocking one does."""
    given = tritonclient.grpc.InferInput(name, list(array.shape), "INT64")
    given.set_data_from_numpy(array)
    return {
        "model_name": model,
        "inputs": [given],
        "request_id": request_id,
        "parameters": parameters,
    }


class Blocking:
    """`start_stream` and `async_stream_infer`, whose answers come to a callback."""

    def __init__(self, address):
        self._client = tritonclient.grpc.InferenceServerClient(address)
        self._answers = queue.Queue()
        self._is_started = False

    async def send(self, *requests, **headers):
        if not self._is_started:
            self._is_started = True

            def answer(result, error):
                self._answers.put((result, error))

            self._client.start_stream(answer, stream_timeout=TIMEOUT_S, headers=headers)
        for each in requests:
            self._client.async_stream_infer(**each)

    async def receive(self):
        return await asyncio.to_thread(self._answers.get, timeout=TIMEOUT_S)

    async def cancel(self):
        await asyncio.to_thread(self._client.stop_stream, cancel_requests=True)

    async def close(self):
        await asyncio.to_thread(self._client.stop_stream)
        self._client.close()


class Asynchronous:
    """`stream_infer`, which takes an iterator and is one."""

    def __init__(self, address):
        self._client = tritonclient.grpc.aio.InferenceServerClient(address)
        self._requests = asyncio.Queue()
        self._answers = None

    async def _given(self):
        while (each := await self._requests.get()) is not None:
            yield each

    async def send(self, *requests, **headers):
        if self._answers is None:
            self._answers = self._client.stream_infer(
                self._given(), stream_timeout=TIMEOUT_S, headers=headers
            )
        for each in requests:
            self._requests.put_nowait(each)

    async def receive(self):
        try:
            return await anext(self._answers)
        except grpc.aio.AioRpcError as error:
            return None, InferenceServerException(error.details(), str(error.code()))

    async def cancel(self):
        assert self._answers.cancel()

    async def close(self):
        self._requests.put_nowait(None)
        if self._answers is not None:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                async for _ in self._answers:
                    pass
        await self._client.close()


@pytest.fixture(params=[Blocking, Asynchronous], ids=["blocking", "asynchronous"])
async def stream(request, server):
    stream = request.param(server.grpc)
    yield stream
    await stream.close()


@pytest.fixture
def cancelled(repository):
    """What the endless model writes when it is cancelled; open before it does."""
    descriptor = os.open(repository / "endless" / "cancelled", os.O_RDWR | os.O_NONBLOCK)

    def read() -> str:
        ready, _, _ = select.select([descriptor], [], [], TIMEOUT_S)
        assert ready, "nothing was cancelled"
        return os.read(descriptor, 1000).decode()

    yield read
    os.close(descriptor)


async def numbers(stream, count):
    """Receive so many responses; gives the id and the number of each."""
    found = []
    for _ in range(count):
        result, error = await stream.receive()
        assert error is None
        found.append((result.get_response().id, int(result.as_numpy("k")[0])))
    return found


async def test_a_request_has_all_its_responses_in_order_and_with_its_id(stream):
    await stream.send(request("counting", "n", N, "a-1"))
    assert await numbers(stream, 3) == [("a-1", 0), ("a-1", 1), ("a-1", 2)]


async def test_requests_of_two_models_are_answered_side_by_side(stream):
    first, last = uuid.uuid4().hex, uuid.uuid4().hex
    await stream.send(
        request("meeting", "n", N, first, waits_for=last),
        request("versioned", "k", N * 2, "other") | {"model_version": "2"},
    )
    result, _ = await stream.receive()
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("other", "versioned", "2")

    # the first is done only when the model has met the last, which comes behind it
    await stream.send(request("meeting", "n", N, last))
    assert sorted(await numbers(stream, 2)) == sorted([(first, 3), (last, 3)])


async def test_an_error_is_one_answer_and_the_stream_goes_on(stream):
    await stream.send(request("nobody", "n", N, "a"))
    assert (await refusal(stream)).startswith("model 'nobody' is not served here")

    await stream.send(request("counting", "n", N, "b", refuse_at=1))
    assert await numbers(stream, 1) == [("b", 0)]
    assert await refusal(stream) == "model 'counting': n: expected less, found 1"

    await stream.send(request("counting", "n", N, "c", fail_at=0))
    text = await refusal(stream)
    assert text == "model 'counting' failed on this request; the server's log tells why"

    wrong = request("counting", "n", N, "d")
    wrong["inputs"][0].set_shape([2])
    await stream.send(wrong)
    assert "inputs[0]: expected 16 bytes" in await refusal(stream)

    await stream.send(request("counting", "n", np.array([1]), "e"))
    assert await numbers(stream, 1) == [("e", 0)]


async def refusal(stream) -> str:
    result, error = await stream.receive()
    assert result is None
    return error.message()


async def test_a_caller_who_asks_for_it_gets_a_real_status_and_the_stream_ends(stream):
    await stream.send(request("nobody", "n", N, "a"), triton_grpc_error="true")
    result, error = await stream.receive()
    assert result is None
    assert error.status() == "StatusCode.NOT_FOUND"
    assert error.message().startswith("model 'nobody' is not served here")


async def test_a_last_response_is_empty_where_that_is_asked_for(stream):
    asked = {"enable_empty_final_response": True}
    if isinstance(stream, Asynchronous):
        pytest.skip("the asynchronous client can't ask for it")
    await stream.send(request("counting", "n", np.array([2]), "a") | asked)
    finals = []
    for _ in range(3):
        result, error = await stream.receive()
        assert error is None
        answer = result.get_response()
        assert answer.id == "a"
        finals.append((len(answer.outputs), answer.parameters["triton_final_response"].bool_param))
    assert finals == [(1, False), (1, False), (0, True)]

    # a model without a stream has one response, which is the last
    await stream.send(request("echo", "k", N, "b") | asked)
    result, _ = await stream.receive()
    answer = result.get_response()
    assert (len(answer.outputs), answer.parameters["triton_final_response"].bool_param) == (1, True)


async def test_a_cancelled_stream_cancels_the_model(stream, cancelled):
    await stream.send(
        request("endless", "n", N, "the one"), request("endless", "n", N, "the other")
    )
    assert sorted(await numbers(stream, 2)) == [("the one", 0), ("the other", 0)]
    await stream.cancel()
    told = ""
    while told.count("\n") < 2:
        told += await asyncio.to_thread(cancelled)
    assert sorted(told.splitlines()) == ["cancelled the one", "cancelled the other"]


async def test_a_cancelled_call_cancels_the_model(server, cancelled):
    message = service_pb2.ModelInferRequest(model_name="endless", id="a call")
    message.inputs.add(name="n", datatype="INT64", shape=[1])
    message.raw_input_contents.append(N.tobytes())
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message)
        running = asyncio.ensure_future(call.wait_for_connection())
        assert await asyncio.to_thread(cancelled) == "running a call\n"
        assert call.cancel()
        assert await asyncio.to_thread(cancelled) == "cancelled a call\n"
        running.cancel()


async def test_bytes_that_are_no_message_are_one_error_and_the_stream_goes_on(server):
    good = service_pb2.ModelInferRequest(model_name="echo", id="a")
    good.inputs.add(name="x", datatype="UINT8", shape=[1])
    good.raw_input_contents.append(b"\x07")
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(
            timeout=TIMEOUT_S
        )
        parse = service_pb2.ModelStreamInferResponse.FromString
        await call.write(b"\xff\xff")
        assert parse(await call.read()).error_message.startswith("message: expected a Model")
        await call.write(good.SerializeToString())
        assert parse(await call.read()).infer_response.raw_output_contents == [b"\x07"]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_headers_of_a_stream_reach_a_model_that_wants_them(stream):
    given = tritonclient.grpc.InferInput("x", [1], "BYTES")
    given.set_data_from_numpy(np.array(["a"], object))
    await stream.send({"model_name": "listening", "inputs": [given]}, x_question="why")
    result, error = await stream.receive()
    assert error is None
    told = json.loads(result.as_numpy("told")[0])
    assert told["request"]["headers"]["x_question"] == "why"
