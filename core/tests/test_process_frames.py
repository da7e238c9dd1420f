import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield import Datatype, RequestedOutput, Tensor
from jackfield._process.frames import FrameError, FrameReader, Payload, Room, decode, encode
from jackfield._process.messages import Answer, Cancel, Failed, Infer

NUMBERS = [each for each in Datatype if each is not Datatype.BYTES]
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts
scalars |= st.floats(allow_nan=False) | st.binary()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8
)
parameters = st.dictionaries(texts, values, max_size=3)


@st.composite
def tensors(draw):
    shape = draw(shapes)
    size = int(np.prod(shape))
    datatype = draw(st.sampled_from(Datatype))
    if datatype is Datatype.BYTES:
        array = np.empty(size, dtype=object)
        array[:] = draw(st.lists(st.binary(max_size=9), min_size=size, max_size=size))
    elif datatype is Datatype.BOOL:
        array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8) > 127
    else:
        bits = draw(
            st.binary(
                min_size=size * datatype.dtype.itemsize, max_size=size * datatype.dtype.itemsize
            )
        )
        array = np.frombuffer(bits, datatype.dtype)
    return Tensor(draw(texts), datatype, array.reshape(shape), draw(parameters))


def bytes_of(message, tensors=(), **options):
    return b"".join(encode(message, tensors, **options))


def read(data, *sizes):
    """Feed a reader in pieces of these sizes, then the rest as it asks for it."""
    reader, found, start = FrameReader(), [], 0
    sizes = list(sizes)
    while start < len(data):
        space = reader.space()
        piece = data[start : start + min(len(space), sizes.pop(0) if sizes else len(space))]
        space[: len(piece)] = piece
        found += reader.filled(len(piece))
        start += len(piece)
    return found


def payload_of(data):
    [payload] = read(data)
    return payload


def same(one, other):
    assert (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
    assert one.parameters == other.parameters
    assert one.array.dtype == other.array.dtype
    if one.datatype is Datatype.BYTES:
        return one.array.tolist() == other.array.tolist()
    return one.array.tobytes() == other.array.tobytes()  # NaNs with their bits


@given(
    given_tensors=st.lists(tensors(), max_size=4),
    given_parameters=parameters,
    id=texts,
    names=st.lists(texts, max_size=2),
    sizes=st.lists(st.integers(1, 80), max_size=20),
)
@settings(max_examples=150, deadline=None)
def test_a_request_arrives_as_it_was_sent(given_tensors, given_parameters, id, names, sizes):
    outputs = [RequestedOutput(name, {"k": 1}) for name in names]
    sent = Infer(2**40, 2, True, id, 17, 18, given_parameters, outputs)
    data = bytes_of(sent, given_tensors)
    # twice, in pieces that end anywhere
    for payload in (payload_of(data), *read(data + data, *sizes)):
        message, found = decode(payload)
        assert message == sent
        assert len(found) == len(given_tensors)
        assert all(map(same, found, given_tensors))


@given(st.lists(tensors(), max_size=4), st.integers(1, 2000))
@settings(max_examples=150, deadline=None)
def test_numbers_lie_in_a_segment_where_there_is_one(given_tensors, least_bytes):
    made = []

    def find_room(size):
        if size >= least_bytes:
            made.append(memoryview(np.empty(size + 100, np.uint8)))
            return Room(5, made[-1], made.remove)
        return None

    data = b"".join(encode(Answer(1, {}), given_tensors, find_room=find_room))
    found_at = []

    def find_segment(number):
        found_at.append(number)
        return made[0]

    message, found = decode(payload_of(data), find_segment)
    assert message == Answer(1, {})
    assert all(map(same, found, given_tensors))
    assert found_at == [5] * len(made)
    for tensor in found if made else ():
        if tensor.array.size and tensor.datatype is not Datatype.BYTES:
            assert np.shares_memory(tensor.array, np.asarray(made[0]))


def test_every_datatype_and_an_empty_tensor_of_it_pass():
    given_tensors = []
    for datatype in NUMBERS:
        array = np.arange(6).astype(datatype.dtype).reshape(2, 3)
        given_tensors += [Tensor("a", datatype, array), Tensor("b", datatype, array[:0])]
        given_tensors += [Tensor("c", datatype, array[:, 1:].T), Tensor("d", datatype, array[1, 1])]
    given_tensors += [Tensor.from_array("e", [b"\x00\xff", b""]), Tensor.from_array("f", [[]])]
    message, found = decode(payload_of(bytes_of(Answer(1, {}), given_tensors)))
    assert message == Answer(1, {})
    for one, other in zip(found, given_tensors, strict=True):
        assert one.shape == np.shape(other.array)
        np.testing.assert_array_equal(one.array, other.array)


@pytest.mark.parametrize("rows", [3, 20_000])
def test_numbers_are_views_at_multiples_of_64(rows):
    given_tensors = [
        Tensor.from_array("a", np.arange(rows, dtype="i1")),
        Tensor.from_array("b", np.arange(rows, dtype="f8")),
    ]
    payload = payload_of(bytes_of(Answer(1, {}), given_tensors))
    _, found = decode(payload)
    for tensor in found:
        assert tensor.array.__array_interface__["data"][0] % 64 == 0
        assert np.shares_memory(tensor.array, np.asarray(payload.data))
        assert not tensor.array.flags.writeable


def test_arrays_are_not_copied_to_be_sent():
    array = np.arange(1000.0)
    frame = encode(Answer(1, {}), [Tensor.from_array("x", array)])
    assert any(np.shares_memory(np.asarray(part), array) for part in frame if len(part) == 8000)


@given(tensors(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_frame_that_is_cut_off_is_refused(tensor, data):
    whole = bytes_of(Answer(1, {"a": "b"}), [tensor])
    assert read(whole[: data.draw(st.integers(0, len(whole) - 1))]) == []
    payload = payload_of(whole)
    cut = data.draw(st.integers(0, len(payload.data) - 1))
    with pytest.raises(FrameError):
        decode(Payload(payload.header_bytes, payload.data[:cut]))


@given(tensors(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_corrupted_frame_raises_this_error_or_none(tensor, data):
    whole = bytearray(bytes_of(Infer(1, 2, False, "i", 0, 0, {"a": ["b"]}, []), [tensor]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    try:
        for payload in read(bytes(whole)):
            decode(payload)
    except FrameError as error:
        assert str(error)  # noqa: PT017  both ends are right


def test_what_is_no_frame_is_refused_at_once():
    with pytest.raises(FrameError, match="expected a frame, found b'GET / HTTP"):
        read(b"GET / HTTP/1.1\r\n\r\n")


def test_a_large_frame_is_refused_where_it_is_made_and_where_it_is_read():
    tensor = Tensor.from_array("x", np.zeros(1000))
    with pytest.raises(FrameError, match="8064 bytes, and 8000 may pass"):
        encode(Answer(1, {}), [tensor], limit_bytes=8000)
    reader = FrameReader(limit_bytes=8000)
    data = bytes_of(Answer(1, {}), [tensor])[:16]
    reader.space()[:16] = data
    with pytest.raises(FrameError, match="may pass"):
        reader.filled(16)


@pytest.mark.parametrize(
    "junk",
    [
        Tensor("x", Datatype.BYTES, np.array([1, 2], dtype=object)),
        Tensor("x", Datatype.FP64, np.array(["a"], dtype=object)),
        Tensor("x", Datatype.FP64, "text"),
        Tensor("x", "FP64", np.zeros(1)),
        Tensor(5, Datatype.FP64, np.zeros(1)),
        Tensor("x", Datatype.FP64, np.zeros(1), None),
        Tensor("x", Datatype.FP64, np.zeros(1), {1: 2}),
        Tensor("\ud800", Datatype.FP64, np.zeros(1)),
        "no tensor",
    ],
    ids=range(9),
)
def test_what_is_no_tensor_is_refused_where_it_is_written(junk):
    with pytest.raises(FrameError):
        encode(Answer(1, {}), [junk])


@pytest.mark.parametrize("junk", [None, {"k": 2**64}, {"k": object()}, {"k": "\ud800"}, {1: 2}])
def test_parameters_that_no_message_holds_are_refused_where_they_are_written(junk):
    with pytest.raises(FrameError):
        encode(Answer(1, junk))


def test_numpys_numbers_and_tuples_pass_as_parameters():
    given_parameters = {"k": np.float32(0.5), "a": np.arange(2), "t": (1, 2)}
    message, _ = decode(payload_of(bytes_of(Answer(1, given_parameters))))
    assert message.parameters == {"k": 0.5, "a": [0, 1], "t": [1, 2]}


def test_a_frame_of_another_version_is_refused():
    other = msgspec.msgpack.encode([[99, 1], []])
    with pytest.raises(FrameError, match="malformed"):
        decode(Payload(len(other), memoryview(other)))


def test_messages_without_tensors_pass():
    data = bytes_of(Cancel(7)) + bytes_of(Failed(8, "trace"))
    assert [decode(payload) for payload in read(data, 1, 2, 3)] == [
        (Cancel(7), []),
        (Failed(8, "trace"), []),
    ]
