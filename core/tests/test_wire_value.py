"""JSON of a model's own paths, with orjson and where there is none."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield._wire.value import encode_value

NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**63), 2**63 - 1)
ARRAYS = st.one_of(
    st.lists(st.floats(width=32), max_size=4).map(lambda each: np.array(each, "f4")),
    st.lists(st.floats(), max_size=4).map(lambda each: np.array([each], "f8")),
    st.lists(st.integers(-128, 127), max_size=4).map(lambda each: np.array(each, "i1")),
    st.lists(st.booleans(), max_size=4).map(lambda each: np.array(each, bool)),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.integers(0, 2**63).map(np.uint64),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS | ARRAYS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.integers(-9, 9), inner),
    max_leaves=8,
)


def encode_without_orjson(value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "orjson", None)
        return encode_value(value)


def equal(one, other):
    """Compare what JSON says: the shortest digits of a 32-bit number are found in several ways."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float) or isinstance(other, float):
        if one is None or other is None:
            return False
        # the least ones have few digits
        is_least = 0 < abs(one) < 1e-37 and np.float32(one) == np.float32(other)
        return is_least or math.isclose(one, other, rel_tol=1e-7)
    return type(one) is type(other) and one == other


@given(VALUES)
def test_both_write_the_same(value):
    import orjson

    one, other = encode_value(value), encode_without_orjson(value)
    assert equal(orjson.loads(one), orjson.loads(other))


@pytest.mark.parametrize(
    "value",
    [object(), "\ud800", np.array([object()]), np.array(["a"]), np.array([1j]), {(1,): 2}],
    ids=["object", "surrogate", "objects", "texts", "complex", "key"],
)
def test_both_refuse_the_same(value):
    for encode in (encode_value, encode_without_orjson):
        with pytest.raises(TypeError):
            encode(value)
