"""What a caller encodes a server decodes to the same, and the other way round, in every form."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jackfield import (
    Datatype,
    InferRequest,
    InferResponse,
    InvalidRequestError,
    RequestedOutput,
    Tensor,
)
from jackfield._wire import json as wire
from jackfield._wire import proto
from jackfield._wire.descriptors import (
    METHODS,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
)

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
BINARY = st.binary(max_size=5)
#: What JSON carries as it is.
TEXTUAL = [each for each in Datatype if each is not Datatype.BF16]


def arrays_of(draw, datatype, elements):
    shape = draw(shapes)
    if datatype is Datatype.BYTES:
        size = int(np.prod(shape))
        array = np.empty(size, dtype=object)
        array[:] = draw(st.lists(elements, min_size=size, max_size=size))
        return array.reshape(shape)
    if datatype is Datatype.BF16:
        upper = draw(hnp.arrays(np.uint16, shape))
        flat = upper.reshape(-1).astype(np.uint32) << 16  # NumPy 1 views no scalar
        return flat.view(np.float32).reshape(shape)
    return draw(hnp.arrays(datatype.dtype, shape))


@st.composite
def tensors(draw, datatypes=tuple(Datatype), elements=BINARY):
    count = draw(st.integers(1, 3))
    made = []
    for index in range(count):
        datatype = draw(st.sampled_from(list(datatypes)))
        parameters = draw(st.sampled_from([{}, {"content_type": "np"}, {"k": 2, "deep": True}]))
        array = arrays_of(draw, datatype, elements)
        made.append(Tensor(f"x{index}", datatype, array, parameters))
    return made


textual = tensors(TEXTUAL, st.text(max_size=5).map(str.encode))


def check_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
        assert one.parameters == other.parameters
        assert one.array.dtype == other.array.dtype
        np.testing.assert_array_equal(one.array, other.array)


def request_of(inputs):
    outputs = [RequestedOutput("y"), RequestedOutput("z", {"classification": 2})]
    return InferRequest(inputs, outputs, {"a": 1, "b": "c"}, "abc")


def check_request(found, expected):
    check_equal(found.inputs, expected.inputs)
    assert (found.outputs, found.parameters, found.id) == (
        expected.outputs,
        expected.parameters,
        expected.id,
    )


@given(textual)
def test_a_json_request_is_decoded_to_what_it_was(inputs):
    request = request_of(inputs)
    body, json_length = wire.encode_request(request)
    assert json_length is None
    found, form = wire.decode_infer(body, "m")
    check_request(found, request)
    assert form == wire.JSON_ONLY


@given(tensors())
def test_a_binary_request_is_decoded_to_what_it_was_and_asks_for_a_binary_answer(inputs):
    request = request_of(inputs)
    body, json_length = wire.encode_request(request, is_binary=True)
    found, form = wire.decode_infer(body, "m", json_length)
    check_request(found, request)
    assert form.is_binary
    assert form.outputs == {"y": True, "z": True}


@given(tensors())
def test_a_grpc_request_is_decoded_to_what_it_was(inputs):
    request = request_of(inputs)
    message = proto.encode_request(request, "m", "2")
    message = ModelInferRequest.FromString(message.SerializeToString())
    assert (message.model_name, message.model_version) == ("m", "2")
    check_request(proto.decode_infer(message)[0], request)


def response_of(outputs):
    return InferResponse(outputs, {"a": 1.5}, "m", "2", "abc")


def check_response(found, expected):
    check_equal(found.outputs, expected.outputs)
    facts = ("parameters", "model_name", "model_version", "id")
    assert [getattr(found, each) for each in facts] == [getattr(expected, each) for each in facts]


@given(textual)
def test_a_json_response_is_decoded_to_what_it_was(outputs):
    response = response_of(outputs)
    body, json_length = wire.encode_infer(response)
    assert json_length == 0
    check_response(wire.decode_response(body), response)


@given(tensors())
def test_a_binary_response_is_decoded_to_what_it_was(outputs):
    response = response_of(outputs)
    body, json_length = wire.encode_infer(response, wire.ResponseForm(is_binary=True))
    check_response(wire.decode_response(body, json_length), response)


@given(tensors())
def test_a_grpc_response_is_decoded_to_what_it_was(outputs):
    response = response_of(outputs)
    data = proto.encode_infer(response).SerializeToString()
    check_response(proto.decode_response(ModelInferResponse.FromString(data)), response)


def test_typed_contents_of_a_grpc_response_are_read():
    message = ModelInferResponse(model_name="m")
    output = message.outputs.add(name="y", datatype="INT8", shape=[2])
    output.contents.int_contents.extend([1, -2])
    text = message.outputs.add(name="z", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.append(b"a")
    first, second = proto.decode_response(message).outputs
    assert first.array.dtype == np.int8
    assert first.array.tolist() == [1, -2]
    assert second.array.tolist() == [b"a"]


def test_bytes_that_are_no_text_go_as_base64_in_json():
    request = InferRequest([Tensor.from_array("x", [b"\xff"])])
    given_input = json.loads(wire.encode_request(request)[0])["inputs"][0]
    assert given_input["data"] == ["/w=="]
    assert given_input["parameters"] == {"content_type": "base64"}


def test_bf16_in_json_is_refused():
    bf16 = Tensor("x", Datatype.BF16, np.zeros(1, np.float32))
    with pytest.raises(InvalidRequestError, match=r"inputs\[0\].datatype.*BF16"):
        wire.encode_request(InferRequest([bf16]))


def test_an_id_that_is_not_given_is_not_sent():
    body, _ = wire.encode_request(InferRequest([Tensor.from_array("x", [1])]))
    assert json.loads(body).keys() == {"inputs"}


OUTPUT = {"name": "y", "datatype": "FP32", "shape": [1]}


@pytest.mark.parametrize(
    ("body", "length", "problem"),
    [
        (b"<html>", None, "an inference response as JSON"),
        (b"{}", None, "outputs"),
        ({"outputs": [{**OUTPUT, "data": [1, 2]}]}, None, "1 elements"),
        ({"outputs": [{**OUTPUT, "datatype": "FP31", "data": [1]}]}, None, "datatype"),
        ({"outputs": [OUTPUT]}, None, "data"),
        ({"outputs": [{**OUTPUT, "parameters": {"binary_data_size": 4}}]}, None, "binary"),
        ({"outputs": [{**OUTPUT, "parameters": {"shared_memory_region": "r"}}]}, None, "shared"),
        (b"{}", 9, "within the body"),
        (b'{"outputs": []}rest', 15, "no bytes behind"),
    ],
)
def test_a_json_response_that_is_none_is_told_with_its_path(body, length, problem):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequestError, match=problem):
        wire.decode_response(body, length)


@pytest.mark.parametrize(
    ("fields", "raw", "problem"),
    [
        ({"datatype": "FP31"}, [], "datatype"),
        ({"datatype": "FP32"}, [b"", b""], "one entry for each of 1"),
        ({"datatype": "FP32"}, [b""], "4 bytes"),
        ({"datatype": "FP32"}, [], "1 elements"),
    ],
)
def test_a_grpc_response_that_is_none_is_told_with_its_path(fields, raw, problem):
    message = ModelInferResponse(raw_output_contents=raw)
    message.outputs.add(name="y", shape=[1], **fields)
    with pytest.raises(InvalidRequestError, match=problem):
        proto.decode_response(message)


def test_an_output_in_shared_memory_can_not_be_read_over_grpc():
    message = ModelInferResponse(raw_output_contents=[b""])
    output = message.outputs.add(name="y", datatype="FP32", shape=[1])
    output.parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(InvalidRequestError, match="shared memory"):
        proto.decode_response(message)


def test_metadata_may_lack_what_a_server_does_not_know():
    found = wire.decode_metadata(b'{"name": "m", "inputs": null}')
    assert (found.name, found.versions, found.inputs, found.platform) == ("m", [], [], "")
    full = {"name": "x", "datatype": "FP32", "shape": [-1], "parameters": {"content_type": "np"}}
    [tensor] = wire.decode_metadata(json.dumps({"name": "m", "inputs": [full]}).encode()).inputs
    assert (tensor.datatype, tensor.shape) == (Datatype.FP32, [-1])
    assert tensor.parameters == {"content_type": "np"}


def test_metadata_over_grpc_with_an_unknown_datatype_is_told():
    message = ModelMetadataResponse(name="m")
    message.inputs.add(name="x", datatype="FP31", shape=[1])
    with pytest.raises(InvalidRequestError, match=r"inputs\[0\].datatype.*FP31"):
        proto.decode_metadata(message)


def test_statistics_are_read_with_the_fields_that_are_0():
    message = METHODS["ModelStatistics"].response()
    stats = message.model_stats.add(name="m", inference_count=2**40)
    stats.batch_stats.add(batch_size=1)
    stats.response_stats["0"].success.count = 3
    record = proto.decode_record(stats)
    assert record["inference_count"] == 2**40
    assert record["version"] == ""
    assert record["inference_stats"]["success"] == {"count": 0, "ns": 0}
    assert record["batch_stats"][0]["batch_size"] == 1
    assert record["response_stats"]["0"]["success"]["count"] == 3
