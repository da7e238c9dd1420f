import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jackfield import Datatype, Tensor

HELD = [each for each in Datatype if each not in (Datatype.BF16, Datatype.BYTES)]


@pytest.mark.parametrize("datatype", HELD)
def test_a_dtype_and_its_datatype_find_each_other(datatype):
    assert Datatype.of(datatype.dtype) is datatype


def test_bf16_is_held_as_float32_and_bytes_as_objects():
    assert Datatype.BF16.dtype == np.float32
    assert Datatype.BYTES.dtype == np.dtype(object)


@pytest.mark.parametrize("code", [">i4", ">f8", "<u2"])
def test_byte_order_makes_no_other_datatype(code):
    array = np.array([1, 2, 3], dtype=code)
    tensor = Tensor.from_array("x", array)
    assert tensor.datatype is Datatype.of(np.dtype(code[1:]))
    assert tensor.array.dtype.isnative
    assert tensor.array.tolist() == [1, 2, 3]


@pytest.mark.parametrize("value", [1j, np.datetime64("2020-01-01"), np.timedelta64(1, "s")])
def test_a_dtype_that_the_protocol_has_not_is_refused_by_name(value):
    with pytest.raises(TypeError, match="no datatype for NumPy's '"):
        Tensor.from_array("x", [value])


def test_text_becomes_utf8_and_bytes_stay():
    tensor = Tensor.from_array("x", [["é", "b"]])
    assert tensor.datatype is Datatype.BYTES
    assert tensor.array.tolist() == [[b"\xc3\xa9", b"b"]]
    assert Tensor.from_array("x", np.array([b"a\xff"])).array.tolist() == [b"a\xff"]


@pytest.mark.parametrize(
    "given",
    [[b"a\0", b"\0\0"], [[b"a\0"], [b""]], b"a\0", np.array([b"a\0"], dtype=object), ["a\0"]],
)
def test_zero_bytes_at_the_end_are_kept(given):
    first = Tensor.from_array("x", given).array.reshape(-1)[0]
    assert first == b"a\0"


def test_an_object_array_of_something_else_is_refused_with_the_place():
    with pytest.raises(TypeError, match="tensor 'x': element 1 is int, a BYTES tensor holds"):
        Tensor.from_array("x", np.array(["a", 2], dtype=object))


@pytest.mark.parametrize("value", [1.5, "a", True])
def test_a_scalar_keeps_its_empty_shape(value):
    assert Tensor.from_array("x", value).shape == ()


@given(
    hnp.arrays(
        st.sampled_from([datatype.dtype for datatype in HELD]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    )
)
def test_any_layout_becomes_contiguous_and_keeps_its_values(array):
    tensor = Tensor.from_array("x", array.T)
    assert tensor.array.flags.c_contiguous
    assert tensor.shape == array.T.shape
    np.testing.assert_array_equal(tensor.array, array.T)


def test_an_array_that_fits_is_not_copied():
    array = np.arange(6.0).reshape(2, 3)
    assert np.shares_memory(Tensor.from_array("x", array).array, array)
