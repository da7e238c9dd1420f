import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jackfield import Datatype, InferResponse, InvalidRequestError, Tensor
from jackfield._wire.descriptors import InferParameter, ModelInferRequest
from jackfield._wire.proto import decode_infer, decode_parameters, encode_infer, encode_parameters

CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


@st.composite
def tensors(draw):
    datatype = draw(st.sampled_from([each for each in Datatype if each is not Datatype.BF16]))
    shape = draw(shapes)
    if datatype is Datatype.BYTES:
        size = int(np.prod(shape))
        array = np.empty(size, dtype=object)
        array[:] = draw(st.lists(st.binary(max_size=5), min_size=size, max_size=size))
        return Tensor("x", datatype, array.reshape(shape))
    return Tensor("x", datatype, draw(hnp.arrays(datatype.dtype, shape)))


def typed(datatype, shape, values, *, field=None, name="x"):
    message = ModelInferRequest(model_name="m")
    given = message.inputs.add(name=name, datatype=datatype, shape=shape)
    getattr(given.contents, field or CONTENTS[datatype]).extend(values)
    return message


def refusal(message):
    with pytest.raises(InvalidRequestError) as caught:
        decode_infer(message)
    assert caught.value.model == "m"
    return caught.value


def check_equal(found, expected):
    assert found.datatype is expected.datatype
    assert found.shape == expected.shape
    assert found.array.dtype == expected.array.dtype
    np.testing.assert_array_equal(found.array, expected.array)


@given(tensors())
def test_what_is_encoded_decodes_to_the_same_tensor(tensor):
    response = encode_infer(InferResponse([tensor], {}, "m", "2", "abc"))
    assert (response.model_name, response.model_version, response.id) == ("m", "2", "abc")
    [output] = response.outputs
    assert not output.HasField("contents")
    message = ModelInferRequest(model_name="m", raw_input_contents=response.raw_output_contents)
    message.inputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
    check_equal(decode_infer(message)[0].inputs[0], tensor)


@given(tensors().filter(lambda tensor: tensor.datatype is not Datatype.FP16))
def test_typed_contents_are_read_as_raw_ones_are(tensor):
    message = typed(tensor.datatype, tensor.shape, tensor.array.reshape(-1).tolist())
    check_equal(decode_infer(message)[0].inputs[0], tensor)


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [("FP16", b"\x00\x3c", np.float16(1)), ("BF16", b"\x80\x3f", np.float32(1))],
)
def test_half_precision_comes_raw(datatype, data, expected):
    message = ModelInferRequest(model_name="m", raw_input_contents=[data])
    message.inputs.add(name="x", datatype=datatype, shape=[1])
    array = decode_infer(message)[0].inputs[0].array
    assert array.dtype == expected.dtype
    assert array.tolist() == [1.0]


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_has_no_typed_form(datatype):
    error = refusal(typed(datatype, [1], [1.0], field="fp32_contents"))
    assert error.field == "inputs[0].contents"
    assert "raw contents" in error.expected


def test_ids_and_outputs_are_read_and_an_id_is_made():
    message = typed("INT32", [1], [1])
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    message.id = "abc"
    request, places = decode_infer(message)
    assert not places
    assert request.id == "abc"
    assert request.outputs[0].name == "y"
    assert request.outputs[0].parameters == {"classification": 3}
    message.id = ""
    assert decode_infer(message)[0].id != decode_infer(message)[0].id


@pytest.mark.parametrize(
    ("datatype", "field"),
    [
        (kind, field)
        for kind in CONTENTS
        for field in sorted({*CONTENTS.values()} - {CONTENTS[kind]})
    ],
)
def test_contents_in_another_datatypes_field_are_refused(datatype, field):
    value = b"1" if field == "bytes_contents" else 1
    error = refusal(typed(datatype, [1], [value], field=field))
    assert error.field == "inputs[0].contents"
    assert error.expected == CONTENTS[datatype]
    assert error.found == field


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("UINT8", 256), ("UINT16", 2**16)],
)
def test_a_value_that_the_datatype_does_not_hold_is_refused_with_its_place(datatype, value):
    error = refusal(typed(datatype, [3], [0, 1, value]))
    assert error.field == f"inputs[0].contents.{CONTENTS[datatype]}[2]"
    assert datatype in error.expected
    assert error.found == str(value)


def no_inputs():
    return ModelInferRequest(model_name="m")


def few_raw():
    message = typed("INT8", [1], [1])
    message.inputs[0].ClearField("contents")
    message.inputs.add(name="z", datatype="INT8", shape=[1])
    message.raw_input_contents.append(b"\x01")
    return message


def mixed():
    message = typed("INT8", [1], [1])
    message.raw_input_contents.append(b"\x01")
    return message


def doubled():
    message = typed("INT8", [1], [1])
    message.inputs.append(message.inputs[0])
    return message


def raw_wrong_size():
    message = ModelInferRequest(model_name="m", raw_input_contents=[b"abc"])
    message.inputs.add(name="x", datatype="INT32", shape=[1])
    return message


@pytest.mark.parametrize(
    ("message", "field", "expected", "found"),
    [
        (no_inputs(), "inputs", "at least one", "none"),
        (few_raw(), "raw_input_contents", "one entry for each of 2 inputs", "1"),
        (mixed(), "inputs[0].contents", "none beside raw contents", "some"),
        (doubled(), "inputs[1].name", "no other input", "'x' again"),
        (raw_wrong_size(), "inputs[0]", "4 bytes (INT32 of shape [1])", "3 bytes"),
        (typed("INT8", [2], [1]), "inputs[0].contents.int_contents", "2 elements", "1"),
        (typed("INT8", [2], []), "inputs[0].contents.int_contents", "2 elements", "0"),
        (typed("INT8", [-1], [1]), "inputs[0].shape", "0 or more", "[-1]"),
        (typed("INT8", [1] * 40, [1]), "inputs[0].shape", "at most 32", "40 sizes"),
        (typed("INT8", [0, 2**62, 2**62], []), "inputs[0].shape", "array", ""),
        (
            typed("FP31", [1], [1], field="fp32_contents"),
            "inputs[0].datatype",
            "one of BOOL",
            "'FP31'",
        ),
        (typed("", [1], [1], field="fp32_contents"), "inputs[0].datatype", "one of BOOL", "''"),
    ],
)
def test_a_bad_message_is_refused_with_its_path_expected_and_found(message, field, expected, found):
    error = refusal(message)
    assert error.field == field
    assert expected in error.expected
    assert found in error.found


PARAMETERS = {
    "bool": (True, "bool_param"),
    "int": (-1, "int64_param"),
    "least": (-(2**63), "int64_param"),
    "unsigned": (2**64 - 1, "uint64_param"),
    "float": (1.5, "double_param"),
    "text": ("é", "string_param"),
}


@pytest.mark.parametrize("kind", PARAMETERS)
def test_a_scalar_parameter_comes_back_as_it_was(kind):
    value, field = PARAMETERS[kind]
    message = ModelInferRequest()
    encode_parameters({"p": value}, message.parameters)
    assert message.parameters["p"].WhichOneof("parameter_choice") == field
    found = decode_parameters(message.parameters)["p"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("value", [None, [1, "a"], {"a": [None]}, 2**64, -(2**63) - 1])
def test_what_grpc_has_no_field_for_becomes_json_text(value):
    message = ModelInferRequest()
    encode_parameters({"p": value}, message.parameters)
    assert json.loads(message.parameters["p"].string_param) == value


def test_parameters_stand_on_the_response_and_on_its_outputs():
    tensor = Tensor.from_array("y", [1], parameters={"q": 2})
    message = encode_infer(InferResponse([tensor], {"p": 1}))
    assert decode_parameters(message.parameters) == {"p": 1}
    assert decode_parameters(message.outputs[0].parameters) == {"q": 2}


def test_a_parameter_without_a_value_is_none():
    assert decode_parameters({"p": InferParameter()}) == {"p": None}
