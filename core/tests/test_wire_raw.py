import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jackfield import Datatype, InvalidRequestError, Tensor
from jackfield._wire.raw import decode_raw, encode_raw

NUMBERS = [each for each in Datatype if each not in (Datatype.BF16, Datatype.BYTES)]
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


def decode(data, datatype, shape):
    return decode_raw(data, datatype, shape, field="inputs[0]", model="m")


def refusal(data, datatype, shape):
    with pytest.raises(InvalidRequestError) as caught:
        decode(data, datatype, shape)
    assert caught.value.model == "m"
    return caught.value


@given(
    st.sampled_from(NUMBERS).flatmap(
        lambda datatype: st.tuples(st.just(datatype), hnp.arrays(datatype.dtype, shapes))
    )
)
def test_numbers_come_back_bit_for_bit(given):
    datatype, array = given
    found = decode(encode_raw(Tensor("x", datatype, array)), datatype, array.shape)
    assert found.shape == array.shape
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()


@given(st.lists(st.binary(max_size=10), max_size=6))
def test_bytes_come_back(elements):
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    encoded = encode_raw(Tensor("x", Datatype.BYTES, array))
    assert decode(encoded, Datatype.BYTES, [len(elements)]).tolist() == elements


@given(hnp.arrays(np.uint16, shapes))
def test_bf16_comes_back_bit_for_bit(halves):
    array = decode(halves.tobytes(), Datatype.BF16, halves.shape)
    assert array.dtype == np.float32
    assert array.shape == halves.shape
    assert encode_raw(Tensor("x", Datatype.BF16, array)) == halves.tobytes()


def test_bf16_is_the_upper_half_of_a_float32():
    assert encode_raw(Tensor("x", Datatype.BF16, np.array([1.0], "f4"))) == b"\x80\x3f"
    assert decode(b"\x80\x3f", Datatype.BF16, [1]).tolist() == [1.0]


def test_bytes_are_little_endian_lengths_and_contents():
    tensor = Tensor.from_array("x", [b"ab", b""])
    assert encode_raw(tensor) == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


def test_numbers_are_a_view_that_cannot_be_written():
    array = decode(bytes(8), Datatype.INT32, [2])
    assert not array.flags.writeable
    assert not array.flags.owndata


@pytest.mark.parametrize("byte", [1, 2, 255])
def test_any_byte_but_zero_is_true(byte):
    array = decode(bytes([byte, 0]), Datatype.BOOL, [2])
    assert array.tolist() == [True, False]
    assert array.view(np.uint8).tolist() == [1, 0]


@pytest.mark.parametrize("datatype", [*NUMBERS, Datatype.BF16])
@pytest.mark.parametrize("extra", [-1, 1])
def test_another_number_of_bytes_is_refused_with_both_numbers(datatype, extra):
    size = 2 if datatype is Datatype.BF16 else datatype.dtype.itemsize
    error = refusal(bytes(3 * size + extra), datatype, [3])
    assert error.field == "inputs[0]"
    assert error.expected == f"{3 * size} bytes ({datatype} of shape [3])"
    assert error.found == f"{3 * size + extra} bytes"


@pytest.mark.parametrize(
    ("data", "shape", "found"),
    [
        (struct.pack("<I", 3) + b"ab", [1], "element 0 running past the end"),
        (struct.pack("<I", 1) + b"a" + b"\x01\x00\x00", [2], "element 1 running past the end"),
        (struct.pack("<I", 2**32 - 1) + b"ab", [1], "element 0 running past the end"),
        (b"\x00", [1], "element 0 running past the end"),
        (struct.pack("<I", 0), [2], "1"),
        (struct.pack("<II", 0, 0), [1], "2"),
        (b"", [1], "0"),
    ],
)
def test_bytes_that_do_not_fit_their_lengths_are_refused(data, shape, found):
    assert refusal(data, Datatype.BYTES, shape).found == found


@pytest.mark.parametrize(
    "shape", [[-1], [2, -3], [1] * 33, [0, 2**62, 2**62], [2**62, 0, 2**62], [0, 2**63 - 1]]
)
@pytest.mark.parametrize("datatype", [Datatype.INT8, Datatype.FP64, Datatype.BYTES])
def test_a_shape_that_no_array_has_is_refused(shape, datatype):
    error = refusal(b"", datatype, shape)
    assert error.field == "inputs[0].shape"
