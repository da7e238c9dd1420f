"""Every datatype over every form of the wire: what a client sends comes back bit for bit."""

import grpc
import httpx
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2, service_pb2_grpc

TIMEOUT_S = 20.0


def integers(dtype: str) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.array([[limits.min, 0, 1], [7, 64, limits.max]], dtype)


def floats(dtype: str) -> np.ndarray:
    """Largest, smallest, subnormal, negative zero, and what no short decimal spells."""
    limits = np.finfo(dtype)
    return np.array(
        [limits.max, -limits.max, limits.tiny, limits.smallest_subnormal, -0.0, 1 / 3], dtype
    ).reshape(3, 2)


def texts(*elements: str | bytes) -> np.ndarray:
    array = np.empty(len(elements), object)
    array[:] = [each.encode() if isinstance(each, str) else each for each in elements]
    return array


ARRAYS = {
    "BOOL": np.array([[True, False], [False, True]]),
    **{f"UINT{bits}": integers(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": integers(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": floats(f"float{bits}") for bits in (16, 32, 64)},
    "BF16": np.array([[1 / 3, -0.0], [3.0e38, 1.0e-40]], ml_dtypes.bfloat16),
    "BYTES": texts("", "cat", "ζ\n\x00'\"", "x" * 300),
}


class HttpJson:
    """tritonclient over HTTP, everything in the JSON."""

    #: Have a binary form only.
    absent = ("BF16",)

    def __init__(self, server):
        url = server.http.removeprefix("http://")
        self.client = tritonclient.http.InferenceServerClient(url, network_timeout=TIMEOUT_S)

    def infer(self, datatype: str, array: np.ndarray) -> np.ndarray:
        given = tritonclient.http.InferInput("x", list(array.shape), datatype)
        given.set_data_from_numpy(array, binary_data=False)
        wanted = tritonclient.http.InferRequestedOutput("x", binary_data=False)
        result = self.client.infer("echo", [given], outputs=[wanted])
        assert result.get_output("x")["datatype"] == datatype
        found = result.as_numpy("x")
        if datatype == "BYTES":  # JSON has text only, and the client leaves it so
            return texts(*found.reshape(-1).tolist()).reshape(found.shape)
        return found

    def close(self):
        self.client.close()


class GrpcRaw:
    """tritonclient over gRPC, which sends and reads raw contents."""

    absent = ()

    def __init__(self, server):
        self.client = tritonclient.grpc.InferenceServerClient(server.grpc)

    def infer(self, datatype: str, array: np.ndarray) -> np.ndarray:
        given = tritonclient.grpc.InferInput("x", list(array.shape), datatype)
        given.set_data_from_numpy(array)
        result = self.client.infer("echo", [given], client_timeout=TIMEOUT_S)
        assert result.get_output("x").datatype == datatype
        return result.as_numpy("x")

    def close(self):
        self.client.close()


class GrpcTyped:
    """Typed contents, sent by tritonclient's own stub; the reply is raw all the same."""

    #: Have a raw form only.
    absent = ("FP16", "BF16")

    def __init__(self, server):
        self.channel = grpc.insecure_channel(server.grpc)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(self, datatype: str, array: np.ndarray) -> np.ndarray:
        request = service_pb2.ModelInferRequest(model_name="echo")
        given = request.inputs.add(name="x", datatype=datatype, shape=array.shape)
        getattr(given.contents, self._field(datatype)).extend(array.reshape(-1).tolist())
        response = self.stub.ModelInfer(request, timeout=TIMEOUT_S)
        assert response.outputs[0].datatype == datatype
        return tritonclient.grpc.InferResult(response).as_numpy("x")

    def _field(self, datatype: str) -> str:
        if datatype in ("INT8", "INT16", "INT32"):
            return "int_contents"
        if datatype in ("UINT8", "UINT16", "UINT32"):
            return "uint_contents"
        return f"{datatype.lower()}_contents"

    def close(self):
        self.channel.close()


CLIENTS = (HttpJson, GrpcRaw, GrpcTyped)
PAIRS = [
    (client, datatype) for client in CLIENTS for datatype in ARRAYS if datatype not in client.absent
]

each_client = pytest.mark.parametrize("client", CLIENTS, indirect=True)
each_grpc_client = pytest.mark.parametrize("client", CLIENTS[1:], indirect=True)
each_pair = pytest.mark.parametrize(("client", "datatype"), PAIRS, indirect=["client"])


@pytest.fixture(scope="module")
def client(request, server):
    client = request.param(server)
    yield client
    client.close()


@each_pair
def test_a_tensor_comes_back_bit_for_bit(client, datatype):
    sent = ARRAYS[datatype]
    assert_same(client.infer(datatype, sent), sent)


@each_pair
@pytest.mark.parametrize("shape", [(0,), (3, 0), (1, 1, 1), ()], ids=str)
def test_every_shape_comes_back_the_empty_and_the_scalar_too(client, datatype, shape):
    sent = np.resize(ARRAYS[datatype], shape)
    assert_same(client.infer(datatype, sent), sent)


@each_client
def test_a_large_tensor_comes_back_bit_for_bit(client):
    sent = np.random.default_rng(5).standard_normal((40, 50)).astype(np.float32)
    assert_same(client.infer("FP32", sent), sent)


@each_grpc_client
def test_what_is_no_number_comes_back_over_grpc(client):
    sent = np.array([np.nan, np.inf, -np.inf])
    assert_same(client.infer("FP64", sent), sent)


@each_grpc_client
def test_bytes_that_are_no_text_come_back_over_grpc(client):
    sent = texts(b"\xff\x00\xfe", b"", b"\x00\x00\x00\x05abc")
    assert_same(client.infer("BYTES", sent), sent)


def test_nan_is_null_in_json(server):
    given = {"name": "x", "datatype": "FP32", "shape": [2], "data": [None, 1.5]}
    answer = httpx.post(f"{server.http}/v2/models/echo/infer", json={"inputs": [given]})
    assert answer.json()["outputs"] == [given]

    result = tritonclient.http.InferResult.from_response_body(answer.content)
    assert_same(result.as_numpy("x"), np.array([np.nan, 1.5], np.float32))


def assert_same(found: np.ndarray, sent: np.ndarray) -> None:
    assert found.shape == sent.shape
    if sent.dtype == object:
        assert found.reshape(-1).tolist() == sent.reshape(-1).tolist()
        return
    assert found.dtype == sent.dtype
    assert found.tobytes() == sent.tobytes()
