"""Every datatype over every form of the wire: what a client sends comes back bit for bit."""

import base64
import json
import struct
from collections.abc import Iterable

import grpc
import httpx
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
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


class Http:
    """tritonclient over HTTP; its subclasses say which tensors are binary."""

    absent: tuple[str, ...] = ()
    is_input_binary = True
    #: Whether the one output is; None names none, and asks for all in binary form.
    is_output_binary: bool | None = True

    def __init__(self, server):
        url = server.http.removeprefix("http://")
        self.client = tritonclient.http.InferenceServerClient(url, network_timeout=TIMEOUT_S)

    def infer(self, datatype: str, array: np.ndarray) -> np.ndarray:
        given = tritonclient.http.InferInput("x", list(array.shape), datatype)
        given.set_data_from_numpy(array, binary_data=self.is_input_binary)
        wanted = None
        if self.is_output_binary is not None:
            form = {"binary_data": self.is_output_binary}
            wanted = [tritonclient.http.InferRequestedOutput("x", **form)]
        result = self.client.infer("echo", [given], outputs=wanted)
        output = result.get_output("x")
        assert output["datatype"] == datatype
        assert ("data" in output) is (self.is_output_binary is False)
        found = result.as_numpy("x")
        if datatype == "BYTES" and self.is_output_binary is False:
            # JSON has text only, and the client leaves it so
            return texts(*found.reshape(-1).tolist()).reshape(found.shape)
        return found

    def close(self):
        self.client.close()


class HttpJson(Http):
    #: Have a binary form only.
    absent = ("BF16",)
    is_input_binary = False
    is_output_binary = False


class HttpBinary(Http):
    """As the client does it: no output is named, and all come in binary form."""

    is_output_binary = None


class HttpBinaryOutput(Http):
    """The output is named, with a flag of its own."""


class HttpJsonToBinary(Http):
    """Binary in one direction alone."""

    absent = ("BF16",)  # the client sends it in binary form only
    is_input_binary = False


class HttpBinaryToJson(Http):
    absent = ("BF16",)
    is_output_binary = False


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


JSON_CLIENTS = (HttpJson, HttpBinaryToJson)
BINARY_CLIENTS = (HttpBinary, HttpBinaryOutput, GrpcRaw)
CLIENTS = (*JSON_CLIENTS, HttpJsonToBinary, *BINARY_CLIENTS, GrpcTyped)


def pairs(clients: Iterable[type], datatypes: Iterable[str] = ARRAYS) -> pytest.MarkDecorator:
    """Make a test for each client and each datatype that it can send."""
    found = [(each, kind) for each in clients for kind in datatypes if kind not in each.absent]
    return pytest.mark.parametrize(("client", "datatype"), found, indirect=["client"])


def each(clients: Iterable[type]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", clients, indirect=True)


@pytest.fixture(scope="module")
def client(request, server):
    client = request.param(server)
    yield client
    client.close()


@pairs(CLIENTS)
def test_a_tensor_comes_back_bit_for_bit(client, datatype):
    sent = ARRAYS[datatype]
    assert_same(client.infer(datatype, sent), sent)


@pairs(CLIENTS)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (1, 1, 1), ()], ids=str)
def test_every_shape_comes_back_the_empty_and_the_scalar_too(client, datatype, shape):
    sent = np.resize(ARRAYS[datatype], shape)
    assert_same(client.infer(datatype, sent), sent)


@each(CLIENTS)
def test_a_large_tensor_comes_back_bit_for_bit(client):
    sent = np.random.default_rng(5).standard_normal((40, 50)).astype(np.float32)
    assert_same(client.infer("FP32", sent), sent)


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
FLOATS = ("FP16", "FP32", "FP64", "BF16")
#: What JSON can carry.
IN_JSON = [datatype for datatype in ARRAYS if datatype != "BF16"]


def elements(datatype: str) -> st.SearchStrategy[object]:
    """Any element that JSON can carry."""
    if datatype == "BYTES":
        return st.text(max_size=9).map(str.encode)
    dtype = ARRAYS[datatype].dtype
    width = {} if datatype not in FLOATS else {"allow_nan": False, "allow_infinity": False}
    return hnp.from_dtype(dtype, **width)


def arrays(datatype: str) -> st.SearchStrategy[np.ndarray]:
    """Arrays that JSON can carry."""
    return hnp.arrays(ARRAYS[datatype].dtype, shapes, elements=elements(datatype))


def any_bits(datatype: str) -> st.SearchStrategy[np.ndarray]:
    """Arrays of whatever bits their elements may have: every NaN, bytes that are no text."""
    dtype = ARRAYS[datatype].dtype
    if datatype == "BYTES":
        return hnp.arrays(dtype, shapes, elements=st.binary(max_size=9))
    if datatype == "BOOL":
        return hnp.arrays(dtype, shapes)
    return hnp.arrays(f"u{dtype.itemsize}", shapes).map(lambda bits: bits.view(dtype))


#: One example is a request, to a server that other tests use too.
over_the_wire = settings(max_examples=25, deadline=None, derandomize=True)


@pairs((HttpJson, HttpBinaryToJson, HttpJsonToBinary, GrpcTyped), IN_JSON)
@over_the_wire
@given(data=st.data())
def test_whatever_numbers_and_text_are_sent_come_back(client, datatype, data):
    sent = data.draw(arrays(datatype))
    assert_same(client.infer(datatype, sent), sent)


@pairs(BINARY_CLIENTS)
@over_the_wire
@given(data=st.data())
def test_whatever_bits_are_sent_come_back(client, datatype, data):
    sent = data.draw(any_bits(datatype))
    assert_same(client.infer(datatype, sent), sent)


@pairs((*BINARY_CLIENTS, GrpcTyped), FLOATS)
def test_what_is_no_number_comes_back_in_every_form_but_json(client, datatype):
    sent = np.array([np.nan, np.inf, -np.inf, -0.0], ARRAYS[datatype].dtype)
    assert_same(client.infer(datatype, sent), sent)


@each((*BINARY_CLIENTS, GrpcTyped))
def test_bytes_that_are_no_text_come_back_in_every_form_but_json(client):
    sent = texts(b"\xff\x00\xfe", b"", b"\x00\x00\x00\x05abc")
    assert_same(client.infer("BYTES", sent), sent)


@pytest.fixture(scope="module")
def post(server):
    """Send a request to the echo as it stands; gives the answer."""
    with httpx.Client(base_url=server.http, timeout=TIMEOUT_S) as client:

        def post(body: dict[str, object] | bytes, model: str = "echo", **headers: str):
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return client.post(f"/v2/models/{model}/infer", content=content, headers=named)

        yield post


@pytest.mark.parametrize("datatype", FLOATS[:3])
def test_json_tells_nan_and_the_infinities_apart(post, datatype):
    data = [None, "Infinity", "-Infinity", 1.5]
    given = {"name": "x", "datatype": datatype, "shape": [4], "data": data}
    answer = post({"inputs": [given]})
    assert answer.json()["outputs"] == [given]
    # what Python's json makes of it is what NumPy, and so tritonclient, takes
    result = tritonclient.http.InferResult.from_response_body(answer.content)
    wanted = np.array([np.nan, np.inf, -np.inf, 1.5], ARRAYS[datatype].dtype)
    np.testing.assert_array_equal(result.as_numpy("x"), wanted)


def test_nan_has_a_name_in_json_too_and_comes_back_as_null(post):
    given = {"name": "x", "datatype": "FP64", "shape": [2, 1], "data": [["NaN"], [2]]}
    [output] = post({"inputs": [given]}).json()["outputs"]
    assert output["data"] == [None, 2]


def test_numbers_have_no_such_words_where_they_are_whole(post):
    given = {"name": "x", "datatype": "INT64", "shape": [1], "data": ["Infinity"]}
    answer = post({"inputs": [given]})
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "model 'echo': inputs[0].data[0]: expected an integer, found a string"
    )


def test_bytes_that_are_no_text_come_as_base64_in_json(post):
    packed = b"\x02\x00\x00\x00\xff\xfe" + b"\x01\x00\x00\x00a"
    form = {"binary_data_size": len(packed)}
    given = {"name": "x", "datatype": "BYTES", "shape": [2], "parameters": form}
    head = json.dumps({"inputs": [given]}).encode()
    answer = post(head + packed, inference_header_content_length=str(len(head)))
    [output] = answer.json()["outputs"]
    assert output["parameters"] == {"content_type": "base64"}
    assert [base64.b64decode(each) for each in output["data"]] == [b"\xff\xfe", b"a"]


@pytest.mark.parametrize("datatype", IN_JSON)
def test_json_may_be_nested_and_comes_back_flat(post, datatype):
    sent = ARRAYS[datatype]
    nested = [[each.decode()] for each in sent] if datatype == "BYTES" else sent.tolist()
    shape = [len(nested), len(nested[0])]
    given = {"name": "x", "datatype": datatype, "shape": shape, "data": nested}
    [output] = post({"inputs": [given]}).json()["outputs"]
    assert output["shape"] == shape
    if datatype == "BYTES":
        assert output["data"] == [text for row in nested for text in row]
    else:  # the shortest decimals are told of a narrow number, not all digits of a wide one
        assert_same(np.array(output["data"], sent.dtype), sent.reshape(-1))


def test_outputs_may_differ_in_form(post):
    given = [
        {"name": name, "datatype": "INT8", "shape": [2], "data": [index, 7]}
        for index, name in enumerate("abc")
    ]
    wanted = [
        {"name": "a"},
        {"name": "b", "parameters": {"binary_data": False}},
        {"name": "c", "parameters": {"binary_data": True}},
    ]
    request = {"inputs": given, "outputs": wanted, "parameters": {"binary_data_output": True}}
    answer = post(request)
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    outputs = json.loads(answer.content[:length])["outputs"]
    assert [each["name"] for each in outputs] == ["a", "b", "c"]
    assert [each.get("data") for each in outputs] == [None, [1, 7], None]
    assert [each.get("parameters") for each in outputs] == [
        {"binary_data_size": 2},
        None,
        {"binary_data_size": 2},
    ]
    assert answer.content[length:] == bytes([0, 7, 2, 7])


def test_binary_and_json_inputs_go_together(post):
    given = [
        {"name": "a", "datatype": "INT8", "shape": [1], "parameters": {"binary_data_size": 1}},
        {"name": "b", "datatype": "INT8", "shape": [2], "data": [3, 4]},
        {"name": "c", "datatype": "UINT16", "shape": [1], "parameters": {"binary_data_size": 2}},
    ]
    head = json.dumps({"inputs": given}).encode()
    body = head + b"\xff" + b"\x01\x02"
    answer = post(body, Inference_Header_Content_Length=str(len(head)), content_type="text/css")
    assert [each["data"] for each in answer.json()["outputs"]] == [[-1], [3, 4], [0x0201]]


@pytest.mark.parametrize(
    ("model", "body", "shape"),
    [
        pytest.param("one", np.arange(6, dtype="<f4").tobytes(), [3, 2], id="rows that are many"),
        pytest.param("one", b"", [0, 2], id="no rows"),
        pytest.param("text", b"what\x00ever", [1], id="text"),
    ],
)
def test_a_raw_body_is_the_one_input(post, model, body, shape):
    answer = post(body, model, Inference_Header_Content_Length="0")
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    [output] = json.loads(answer.content[:length])["outputs"]
    packed = struct.pack("<I", len(body)) + body if model == "text" else body
    assert (output["shape"], answer.content[length:]) == (shape, packed)


def assert_same(found: np.ndarray, sent: np.ndarray) -> None:
    assert found.shape == sent.shape
    if sent.dtype == object:
        assert found.reshape(-1).tolist() == sent.reshape(-1).tolist()
        return
    assert found.dtype == sent.dtype
    assert found.tobytes() == sent.tobytes()
