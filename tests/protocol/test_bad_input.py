"""Bad input over both wires: status, JSON path, expected and found; the connection lives on."""

import gzip
import http.client
import json
import zlib

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


INT64S = np.array([1, 2]).tobytes()
LENGTH = "Inference-Header-Content-Length"


def binary(name, text, tail=INT64S, *, length=0, model="echo", **changes):
    """Make a refusal of one binary input; `length` corrects the one of the JSON text."""
    form = {"parameters": {"binary_data_size": len(INT64S)}, "data": ...}
    head = infer(**(form | changes))
    headers = {LENGTH: length if isinstance(length, str) else str(len(head) + length)}
    return case(name, 400, text, head + tail, path=f"/v2/models/{model}/infer", headers=headers)


def size(number: object) -> dict[str, object]:
    return {"binary_data_size": number}


JSON = [
    case("no such route", 404, "there is nothing at '/v1'", method="GET", path="/v1"),
    case("no such model", 404, "'ecko' is not served here; did you mean 'echo'", infer(),
         path="/v2/models/ecko/infer"),
    case("no such version", 404, "version '3' of model 'versioned'", infer(),
         path="/v2/models/versioned/versions/3/infer"),
    case("a wrong method", 405, "method GET is not allowed", method="GET",
         answer={"Allow": "POST"}),
    case("another content type", 415, "expected application/json, found text/csv", infer(),
         headers={"Content-Type": "text/csv"}),
    case("an unknown encoding", 415, "content encoding: expected gzip or deflate, found br",
         infer(), headers={"Content-Encoding": "br"}),
    case("no gzip", 400, "body: expected gzip data", infer(),
         headers={"Content-Encoding": "gzip"}),
    case("half of a gzip", 400, "body: expected whole gzip data", gzip.compress(infer())[:-9],
         headers={"Content-Encoding": "gzip"}),
    case("bytes behind a gzip", 400, "body: expected one piece of gzip data, found 3 bytes",
         gzip.compress(infer()) + b"abc", headers={"Content-Encoding": "gzip"}),
    case("a gzip bomb", 413, f"expected at most {MAX_BODY_BYTES} bytes",
         gzip.compress(b" " * 50_000_000), headers={"Content-Encoding": "gzip"}),
    case("a zlib bomb", 413, f"expected at most {MAX_BODY_BYTES} bytes",
         zlib.compress(b" " * 50_000_000), headers={"Content-Encoding": "deflate"}),
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
    case("deep JSON", 400, "model 'echo': ",
         b'{"inputs": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    case("deep parameters", 400, "parameters: expected integers of 64 bits, and at most 64",
         infer()[:-1] + b', "parameters": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}"),
    case("a parameter beyond 64 bits", 400, "inputs[0].parameters: expected integers of 64",
         infer(parameters={"a": 2**64})),
    case("a shape of 1,000 sizes", 400, "inputs[0].shape: expected at most 32 sizes",
         infer(shape=[1] * 1000)),
    case("a shape that overflows", 400, "inputs[0].data: expected ", infer(shape=[2**62] * 3)),
    case("BF16 in JSON", 400, "inputs[0].datatype: expected a datatype that JSON numbers",
         infer(datatype="BF16", data=[1, 2])),
    case("a classification of text", 400, "outputs[0].parameters.classification: expected ",
         infer(datatype="BYTES", data=["a", "b"])[:-1]
         + b', "outputs": [{"name": "x", "parameters": {"classification": 1}}]}'),
    case("a classification of no number", 400, "classification: expected an integer of 1",
         infer()[:-1]
         + b', "outputs": [{"name": "x", "parameters": {"classification": "all"}}]}'),
    case("an output that is not there", 400, "outputs[0].name: expected x, found 'y'",
         infer()[:-1] + b', "outputs": [{"name": "y"}]}'),
]  # fmt: skip


BINARY = [
    binary("a length beyond the body", f"{LENGTH}: expected a length within the body",
           length=len(INT64S) + 1),
    binary("a length below the text", "model 'echo': body: expected ", length=-1),
    binary("a length beyond the text", "model 'echo': body: expected ", length=1),
    binary("a negative length", f"{LENGTH}: expected an integer", length="-1"),
    binary("a length in words", f"{LENGTH}: expected an integer", length="many"),
    binary("a length of a thousand digits", f"{LENGTH}: expected an integer",
           length="9" * 5000),
    binary("a length of other digits", f"{LENGTH}: expected an integer", length="1_0"),
    binary("too few bytes", "binary_data_size: expected an integer up to the 15 bytes",
           INT64S[:-1]),
    binary("no bytes", "binary_data_size: expected an integer up to the 0 bytes", b""),
    binary("bytes left over", "body: expected no bytes behind the last binary tensor, found 3",
           INT64S + b"abc"),
    binary("a size below the shape", "inputs[0]: expected 16 bytes (INT64 of shape [2])",
           INT64S[:8], parameters=size(8)),
    binary("a size above the shape", "inputs[0]: expected 8 bytes (INT64 of shape [1])",
           shape=[1]),
    binary("a negative size", "binary_data_size: expected an integer", parameters=size(-16)),
    binary("a size in words", "binary_data_size: expected an integer", parameters=size("16")),
    binary("a size of truth", "binary_data_size: expected an integer", parameters=size(True)),
    binary("a size beyond 64 bits", "binary_data_size: expected an integer up to",
           parameters=size(2**70)),
    binary("data in both forms", "binary_data_size: expected no data in the JSON beside it",
           data=[1, 2]),
    binary("no text before the bytes", "expected a JSON text: only a model with one input",
           length="0"),
    case("a raw body that fits no rows", 400, "body: expected 8 bytes (FP32 of shape [1, 2])",
         b"123456789", path="/v2/models/one/infer", headers={LENGTH: "0"}),
    binary("a raw body for two open sizes", "a raw body can't tell the sizes", length="0",
           model="open"),
    binary("an element past the end", "inputs[0]: expected elements of a 4-byte length",
           b"\x09\0\0\0cat", datatype="BYTES", shape=[1], parameters=size(7)),
    binary("an element of 4 GB", "inputs[0]: expected elements of a 4-byte length",
           b"\xff\xff\xff\xffcat", datatype="BYTES", shape=[1], parameters=size(7)),
    binary("half a length", "inputs[0]: expected elements of a 4-byte length",
           b"\0\0\0\0\0\0", datatype="BYTES", shape=[2], parameters=size(6)),
    binary("fewer elements than the shape", "inputs[0]: expected 2 elements, found 1",
           b"\0\0\0\0", datatype="BYTES", parameters=size(4)),
    binary("an unknown size", "inputs[0].shape: expected at most 32 sizes of 0 or more",
           shape=[-1]),
    binary("a shape of 1,000 sizes", "inputs[0].shape: expected at most 32 sizes",
           shape=[1] * 1000),
    binary("a shape that overflows", "inputs[0]: expected ", shape=[2**62, 2**62]),
    binary("a shape that overflows to nothing", "inputs[0].shape: expected ", b"",
           shape=[0, 2**62, 2**62], parameters=size(0)),
    case("a size without the header", 400, "expected binary data behind the JSON, announced",
         infer(parameters=size(16), data=...)),
    case("the size of the JSON in a stream", 415, "binary tensor data is served by 'infer'",
         infer(), path="/v2/models/echo/infer_stream", headers={LENGTH: "9"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def connection(server):
    """One connection for all the refusals: each of them must leave it usable."""
    connection = http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=TIMEOUT_S)
    connection.connect()
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "text", "answer_headers"), [*JSON, *BINARY]
)
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


def test_a_binary_input_is_taken_so_that_the_refusals_mean_something(connection):
    head = infer(parameters=size(len(INT64S)), data=...)
    connection.request("POST", INFER, head + INT64S, {LENGTH: str(len(head))})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["outputs"][0]["data"]) == (200, [1, 2])


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
        pytest.param(message(shape=(1,) * 1000, raw=(INT64S,)), "INVALID_ARGUMENT",
                     "inputs[0].shape: expected at most 32 sizes", id="1,000 sizes"),
        pytest.param(message(shape=(2**62,) * 3, raw=(INT64S,)), "INVALID_ARGUMENT",
                     "inputs[0]: expected ", id="a shape that overflows"),
        pytest.param(message(datatype="BYTES", raw=(b"\xff\xff\xff\xff",)), "INVALID_ARGUMENT",
                     "running past the end", id="a length of 4 GB"),
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


def test_a_method_that_is_not_served_is_unimplemented(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.CudaSharedMemoryStatus(service_pb2.CudaSharedMemoryStatusRequest(), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
