"""Bad input over both wires: status, JSON path, expected and found; the connection lives on."""

import http.client
import json

import grpc
import numpy as np
import pytest
from tests.protocol.conftest import MAX_BODY_BYTES
from tritonclient.grpc import service_pb2, service_pb2_grpc

TIMEOUT_S = 20.0
INFER = "/v2/models/echo/infer"
DATATYPES = "one of BOOL, UINT8"


def infer(**changes: object) -> bytes:
    """Make a request of one input, some of its fields changed; None takes a field away."""
    given = {"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]} | changes
    kept = {key: value for key, value in given.items() if value is not ...}
    return json.dumps({"inputs": [kept]}).encode()


def case(name, status, text, body=b"", *, method="POST", path=INFER, headers=None, answer=None):
    return pytest.param(method, path, body, headers or {}, status, text, answer or {}, id=name)


@pytest.fixture(scope="module")
def connection(server):
    """One connection for all the refusals: each of them must leave it usable."""
    connection = http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=TIMEOUT_S)
    connection.connect()
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "text", "answer_headers"),
    [
        case("no such route", 404, "there is nothing at '/v1'", method="GET", path="/v1"),
        case("no such model", 404, "'ecko' is not served here; did you mean 'echo'", infer(),
             path="/v2/models/ecko/infer"),
        case("no such version", 404, "version '3' of model 'versioned'", infer(),
             path="/v2/models/versioned/versions/3/infer"),
        case("a wrong method", 405, "method GET is not allowed", method="GET",
             answer={"Allow": "POST"}),
        case("another content type", 415, "expected application/json, found text/csv", infer(),
             headers={"Content-Type": "text/csv"}),
        case("a compressed body", 415, "compressed bodies are not served yet", infer(),
             headers={"Content-Encoding": "gzip"}),
        case("too large a body", 413, f"expected at most {MAX_BODY_BYTES} bytes, found ",
             b" " * (MAX_BODY_BYTES + 1)),
        case("a model that is not ready", 503, "'broken' is not ready: failed to load", infer(),
             path="/v2/models/broken/infer", answer={"Retry-After": "1"}),
        case("an empty body", 400, "model 'echo': body: expected an inference request as JSON"),
        case("malformed JSON", 400, "model 'echo': body: expected ", b'{"inputs": ['),
        case("bytes that are no text", 400, "model 'echo': ", b'{"id": "\xff"}'),
        case("no object", 400, "expected an object, found an array", b"[]"),
        case("no inputs", 400, "inputs: expected a value, found none", b"{}"),
        case("an empty list of inputs", 400, "inputs: ", b'{"inputs": []}'),
        case("an id that is no string", 400, "id: expected a string or null, found an integer",
             infer()[:-1] + b', "id": 7}'),
        case("a missing field", 400, "inputs[0].name: expected a value, found none",
             infer(name=...)),
        case("a field of the wrong type", 400, "inputs[0].shape: expected an array",
             infer(shape="2")),
        case("an unknown datatype", 400, f"inputs[0].datatype: expected {DATATYPES}",
             infer(datatype="INT65")),
        case("a shape that the data don't fit", 400,
             "inputs[0].data: expected 6 elements for the shape [2, 3], found 2",
             infer(shape=[2, 3])),
        case("a negative size", 400, "inputs[0].shape: expected ", infer(shape=[-2])),
        case("an unknown size", 400, "inputs[0].shape: expected ", infer(shape=[-1])),
        case("null among integers", 400, "inputs[0].data[1]: expected an integer, found null",
             infer(data=[1, None])),
        case("text among integers", 400, "inputs[0].data[1]: expected an integer, found a string",
             infer(data=[1, "2"])),
        case("an integer out of range", 400, "inputs[0].data[1]: expected ",
             infer(datatype="INT8", data=[1, 128])),
        case("lists nested otherwise than the shape", 400, "inputs[0].data",
             infer(shape=[2, 2], data=[[1, 2, 3], [4]])),
        case("two inputs of one name", 400, "inputs[1].name: expected a name that no other input",
             json.dumps({"inputs": json.loads(infer())["inputs"] * 2}).encode()),
        case("an output that is not there", 400, "outputs[0].name: expected x, found 'y'",
             infer()[:-1] + b', "outputs": [{"name": "y"}]}'),
    ],
)  # fmt: skip
def test_http_refuses_and_the_connection_stays_usable(
    connection, method, path, body, headers, status, text, answer_headers
):
    socket = connection.sock

    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert found.keys() == {"error"}
    assert text in found["error"]
    for name, value in answer_headers.items():
        assert answer.headers[name] == value

    connection.request("POST", INFER, infer())
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["outputs"][0]["data"]) == (200, [1, 2])
    assert connection.sock is socket


def message(
    model: str = "echo",
    *,
    datatype: str = "INT64",
    shape: tuple[int, ...] = (2,),
    raw: tuple[bytes, ...] = (),
    wanted: tuple[str, ...] = (),
    names: tuple[str, ...] = ("x",),
    **contents: list[object],
) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=raw)
    for name in names:
        given = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if contents:
            given.contents.CopyFrom(service_pb2.InferTensorContents(**contents))
    for name in wanted:
        request.outputs.add(name=name)
    return request


INT64S = np.array([1, 2]).tobytes()


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        pytest.param(message("ecko", raw=(INT64S,)), "NOT_FOUND",
                     "'ecko' is not served here; did you mean 'echo'", id="no such model"),
        pytest.param(message("broken", raw=(INT64S,)), "UNAVAILABLE",
                     "'broken' is not ready: failed to load", id="not ready"),
        pytest.param(message("failing", raw=(INT64S,)), "INTERNAL",
                     "failed on this request", id="a model that fails"),
        pytest.param(message(names=()), "INVALID_ARGUMENT", "inputs: ", id="no inputs"),
        pytest.param(message(datatype="INT65", raw=(INT64S,)), "INVALID_ARGUMENT",
                     f"inputs[0].datatype: expected {DATATYPES}", id="an unknown datatype"),
        pytest.param(message(shape=(3,), raw=(INT64S,)), "INVALID_ARGUMENT",
                     "inputs[0]: expected 24 bytes (INT64 of shape [3]), found 16 bytes",
                     id="raw contents of another length"),
        pytest.param(message(shape=(-1,), raw=(INT64S,)), "INVALID_ARGUMENT",
                     "inputs[0].shape: expected ", id="an unknown size"),
        pytest.param(message(raw=(INT64S, INT64S)), "INVALID_ARGUMENT",
                     "raw_input_contents: expected one entry for each of 1 inputs, found 2",
                     id="raw contents of nothing"),
        pytest.param(message(raw=(INT64S,), int64_contents=[1, 2]), "INVALID_ARGUMENT",
                     "inputs[0].contents: expected none beside raw contents", id="both forms"),
        pytest.param(message(fp32_contents=[1, 2]), "INVALID_ARGUMENT",
                     "inputs[0].contents: expected int64_contents, found fp32_contents",
                     id="contents of another datatype"),
        pytest.param(message(int64_contents=[1]), "INVALID_ARGUMENT",
                     "inputs[0].contents.int64_contents: expected 2 elements",
                     id="too few contents"),
        pytest.param(message(datatype="INT8", int_contents=[1, 128]), "INVALID_ARGUMENT",
                     "inputs[0].contents.int_contents[1]: expected a value that INT8 holds",
                     id="an integer out of range"),
        pytest.param(message(datatype="FP16", shape=(1,), fp32_contents=[1]), "INVALID_ARGUMENT",
                     "inputs[0].contents: expected raw contents", id="typed FP16"),
        pytest.param(message(datatype="BYTES", raw=(b"\x09\x00\x00\x00cat",)), "INVALID_ARGUMENT",
                     "running past the end", id="a length past the end"),
        pytest.param(message(names=("x", "x"), int64_contents=[1, 2]), "INVALID_ARGUMENT",
                     "inputs[1].name: expected a name that no other input has",
                     id="two inputs of one name"),
        pytest.param(message(raw=(INT64S,), wanted=("y",)), "INVALID_ARGUMENT",
                     "outputs[0].name: expected x, found 'y'", id="an output that is not there"),
    ],
)  # fmt: skip
def test_grpc_refuses_and_the_channel_stays_usable(stub, sent, status, text):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(sent, timeout=TIMEOUT_S)
    assert caught.value.code().name == status
    assert text in caught.value.details()

    reply = stub.ModelInfer(message(raw=(INT64S,)), timeout=TIMEOUT_S)
    assert reply.raw_output_contents == [INT64S]


def test_a_method_that_is_not_there_yet_is_unimplemented(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
