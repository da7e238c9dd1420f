import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield import Datatype, InvalidRequestError, ModelMetadata, Tensor, TensorMetadata
from jackfield._load.answers import Answers
from jackfield._load.request import Source, build_request, decoder
from jackfield._wire import json as wire
from jackfield.client._exchange import Reply
from jackfield.messages import InferRequest, InferResponse

HTTP, GRPC = "http://localhost:8080", "grpc://localhost:8081"


def metadata_of(*inputs):
    return ModelMetadata(name="m", inputs=inputs)


# ---- requests ----


def test_a_request_has_the_rows_asked_for_where_the_model_leaves_them_open():
    request = build_request(
        metadata_of(
            TensorMetadata("x", Datatype.FP32, [-1, 3, -1]),
            TensorMetadata("fixed", Datatype.INT64, [2, 2]),
            TensorMetadata("scalar", Datatype.BOOL, []),
        ),
        rows=5,
        seed=1,
    )
    assert [each.shape for each in request.inputs] == [(5, 3, 1), (2, 2), ()]
    assert [each.datatype for each in request.inputs] == ["FP32", "INT64", "BOOL"]
    assert request.inputs[0].array.std() > 0


def test_values_come_from_the_metadata_where_it_has_them():
    request = build_request(
        metadata_of(
            TensorMetadata("row", Datatype.FP64, [-1, 2], {"example": [1.5, 2.5]}),
            TensorMetadata("one", Datatype.INT32, [-1, 2], {"example": 7}),
            TensorMetadata("text", Datatype.BYTES, [-1], {"categories": ["red", "blue"]}),
            TensorMetadata("left out", Datatype.BYTES, [-1], {"optional": True}),
        ),
        rows=2,
        seed=0,
    )
    assert [each.array.tolist() for each in request.inputs] == [
        [[1.5, 2.5], [1.5, 2.5]],
        [[7, 7], [7, 7]],
        [b"red", b"red"],
    ]


@given(st.sampled_from(list(Datatype)), st.integers(1, 4), st.integers(0, 99))
def test_every_datatype_has_a_request_that_the_wire_reads(datatype, rows, seed):
    request = build_request(
        metadata_of(TensorMetadata("x", datatype, [-1, 2])), rows=rows, seed=seed
    )
    source = Source(request, model="m", version="", is_binary=True)
    target = source.target(HTTP, {})
    length = int(target.headers["inference-header-content-length"])
    read, _ = wire.decode_infer(target.body, "m", length)
    assert read.input("x").datatype is datatype
    sent = request.inputs[0].array
    if datatype is Datatype.BF16:
        # the wire has 8 bits of each
        assert np.allclose(read.input("x").array, sent, rtol=2**-7)
    else:
        assert np.array_equal(read.input("x").array, sent)


def test_the_seed_decides_the_values():
    metadata = metadata_of(TensorMetadata("x", Datatype.FP64, [-1, 4]))
    first, again, other = (build_request(metadata, rows=1, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.inputs[0].array, again.inputs[0].array)
    assert not np.array_equal(first.inputs[0].array, other.inputs[0].array)


def test_metadata_without_inputs_asks_for_a_file():
    with pytest.raises(InvalidRequestError, match=r"model 'm': inputs: .*--request FILE"):
        build_request(metadata_of(), rows=1, seed=0)


# ---- files ----

BODY = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.5]}], "id": "7"}'


def source_of(content, *, is_binary=False):
    return Source.from_file(content, model="m", version="2", is_binary=is_binary)


def test_a_file_of_json_is_sent_as_it_is():
    target = source_of(BODY).target(HTTP, {"authorization": "me"})
    assert (target.path, target.body) == ("v2/models/m/versions/2/infer", BODY)
    assert target.headers == {"authorization": "me", "content-type": "application/json"}


def test_a_file_of_json_becomes_binary_on_demand():
    target = source_of(BODY, is_binary=True).target(HTTP, {})
    length = int(target.headers["inference-header-content-length"])
    assert target.body[length:] == np.array([1.5]).tobytes()


def test_a_file_with_binary_tensors_is_sent_as_it_is():
    tensor = Tensor.from_array("x", np.array([2.5, 3.5]))
    content, length = wire.encode_request(InferRequest([tensor], id="é"), is_binary=True)
    target = source_of(content).target(HTTP, {})
    assert target.body == content
    assert target.headers["inference-header-content-length"] == str(length)


@pytest.mark.parametrize("content", [BODY, None])
def test_a_file_goes_over_grpc_too(content):
    from jackfield._wire.descriptors import METHODS

    if content is None:
        request = InferRequest([Tensor.from_array("x", np.array([1.5]))])
        content, _ = wire.encode_request(request, is_binary=True)
    target = source_of(content).target(GRPC, {})
    message = METHODS["ModelInfer"].request.FromString(target.body)
    assert (target.path, message.model_name, message.model_version) == ("ModelInfer", "m", "2")
    assert message.raw_input_contents[0] == np.array([1.5]).tobytes()


@pytest.mark.parametrize("content", [b"", b"no", b'{"inputs": []', b"{}", b'{"inputs": []} more'])
def test_a_file_that_is_no_request_is_refused(content):
    with pytest.raises(InvalidRequestError):
        source_of(content)


# ---- answers ----


def reply_of(*outputs, request_id="1"):
    response = InferResponse(outputs, {}, "m", "", request_id)
    return Reply(wire.encode_infer(response)[0], {})


def test_answers_that_differ_in_their_ids_alone_are_equal():
    answers = Answers(decoder(HTTP))
    y = Tensor.from_array("y", np.array([1.0, np.nan]))
    assert answers.differs(reply_of(y, request_id="1")) == ""
    assert answers.differs(reply_of(y, request_id="2")) == ""


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (Tensor.from_array("z", np.array([1.0, 2.0])), "its outputs are 'z', not 'y'"),
        (Tensor.from_array("y", np.array([1.0, 3.0])), r"output 'y' has .*3\.0.* at 1, not .*2\.0"),
        (Tensor.from_array("y", np.array([1.0])), r"output 'y' is FP64 \[1\], not FP64 \[2\]"),
        (Tensor.from_array("y", np.array([1, 2])), r"output 'y' is INT64 \[2\], not FP64 \[2\]"),
    ],
)
def test_an_answer_that_differs_says_how(other, problem):
    answers = Answers(decoder(HTTP), reply_of(Tensor.from_array("y", np.array([1.0, 2.0]))))
    assert re.match(problem, answers.differs(reply_of(other)))


def test_an_answer_that_can_not_be_read_differs():
    answers = Answers(decoder(HTTP), reply_of(Tensor.from_array("y", np.array([1.0]))))
    assert answers.differs(Reply(json.dumps({"outputs": 1}).encode(), {})).startswith("it can't be")
