"""Which features vary, found by arrays: what shap finds number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

shap = pytest.importorskip("shap")

from jackfield_alibi._explain._kernel import quicken  # noqa: E402  where shap is installed

#: Numbers that are equal, nearly so, at the edge of what counts as equal, or not numbers at all.
NUMBERS = st.one_of(
    st.sampled_from(
        [0.0, -0.0, 1.0, 1 + 1e-5, 1 + 1.0001e-5, 1e-8, 1.1e-8, np.nan, np.inf, -np.inf, 1e300]
    ),
    st.floats(width=32),
)


def explainers(background, groups):
    """Make one as shap has it, and one that is quickened."""
    made = []
    for _ in range(2):
        explainer = shap.KernelExplainer(lambda rows: np.zeros(len(rows)), np.zeros((1, 4)))
        explainer.data.data = background
        explainer.data.groups = groups
        explainer.data.groups_size = len(groups)
        made.append(explainer)
    quicken(made[1])
    return made


@settings(deadline=None, max_examples=200)
@given(
    st.data(),
    st.sampled_from(["f8", "f4", "f2", "i8", "u8", "u1", "?", "O"]),
    st.sampled_from([[[0], [1], [2], [3]], [[0, 2], [1], [3]], [[0, 1, 2, 3]]]),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_same_features_vary(data, dtype, groups):
    kind = np.dtype(dtype).kind
    elements = NUMBERS if kind in "fO" else arrays.from_dtype(np.dtype(dtype))
    with np.errstate(all="ignore"):
        row, background = (
            np.array(data.draw(arrays.arrays("f8" if kind in "fO" else dtype, shape,
                                             elements=elements))).astype(dtype)
            for shape in ((1, 4), (3, 4))
        )  # fmt: skip
        for column in data.draw(st.sets(st.integers(0, 3))):
            background[:, column] = row[0, column]
        slow, quick = explainers(background, [np.array(group) for group in groups])
        try:
            wanted = slow.varying_groups(row)
        except ValueError:  # newer ones can't compare several columns of objects
            assume(dtype != "O" or len(groups) == 4)
            raise
        np.testing.assert_array_equal(quick.varying_groups(row), wanted)


def test_no_number_is_compared_by_itself():
    _, quick = explainers(np.zeros((100, 4)), [[0], [1], [2], [3]])
    quick.not_equal = None
    assert quick.varying_groups(np.array([[0.0, 1.0, 0.0, 1.0]])).tolist() == [1, 3]
