"""A model in this process that scores batches of a table: inputs, outputs, rows that fail."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow", reason="scoring tables needs jackfield[score]")

from jackfield._cli import cli  # noqa: E402  needs pyarrow
from jackfield.score import FORMATS, ScoreError, ScoreJob, Scorer  # noqa: E402  the same

MODELS = Path(__file__).with_name("score_models.py")


@pytest.fixture
def plan(tmp_path):
    """Plan how a model of the tests scores a table."""
    scorers = []
    shutil.copy(MODELS, tmp_path / "models.py")

    def make(name, table, sample=None, **job):
        job = ScoreJob(
            model=f"{tmp_path / 'models.py'}:{name}", inputs=("-",), output="-", plugins=(), **job
        )
        scorers.append(Scorer(job))
        schema = table if isinstance(table, pa.Schema) else table.schema
        return scorers[-1].plan(schema, sample)

    yield make
    for scorer in scorers:
        scorer.close()


def batch(**columns):
    return pa.RecordBatch.from_pydict(columns)


def reasons(scored):
    return {each.row: each.reason for each in scored.rejects}


# ---- What is scored ----


def test_the_outputs_come_behind_the_kept_columns(plan):
    table = batch(id=["x", "y"], a=[1.0, 2.0], b=[10, 20])
    plan = plan("Sum", table)
    scored = plan.score(table)
    assert scored.batch.to_pydict() == {**table.to_pydict(), "y": [11.0, 22.0]}
    assert scored.batch.schema == plan.schema
    assert scored.rejects == []


def test_the_schema_is_known_before_a_row_is_scored(plan):
    table = pa.schema({"a": pa.float32(), "b": pa.int64(), "c": pa.date32()})
    found = plan("Sum", table, keep=("c",), outputs=("parts", "y"), prefix="p_")
    assert found.schema == pa.schema(
        {"c": pa.date32(), "p_parts": pa.list_(pa.float64(), 2), "p_y": pa.float64()}
    )
    assert found.columns == ("a", "b", "c")


def test_vectors_are_fixed_size_lists(plan):
    table = batch(a=[1.0, 2.0], b=[3, 4])
    scored = plan("Sum", table, keep="none", outputs=("parts",)).score(table)
    assert scored.batch.to_pydict() == {"parts": [[1.0, 3.0], [2.0, 4.0]]}


@pytest.mark.parametrize("name", ["Sum", "Single", "Coroutine"])
def test_each_kind_of_runtime_scores_in_several_threads(plan, name):
    from concurrent.futures import ThreadPoolExecutor

    table = batch(a=[float(row) for row in range(500)], b=[1] * 500)
    plan = plan(name, table, keep="none", threads=4)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(plan.score, [table] * 40))
    assert all(each.batch.equals(found[0].batch) for each in found)
    # of one call at a time none is refused
    assert [len(each.rejects) for each in found] == [1] * 40
    assert "13 is unlucky" in found[0].rejects[0].reason


def test_parameters_reach_the_model(plan):
    table = batch(a=[1.0, 2.0], b=[0, 0])
    scored = plan("Scale", table, keep="none", parameters={"factor": 3}).score(table)
    assert scored.batch.to_pydict() == {"y": [3.0, 6.0]}


def test_a_model_that_tells_nothing_gets_each_column_and_is_tried_for_its_outputs(plan):
    table = batch(n=[1, 2], t=["x", "y"], v=[[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ScoreError, match="does not tell its outputs"):
        plan("Open", table)
    found = plan("Open", table, table, keep="none")
    assert found.schema.names == ["n_again", "t_again", "v_again"]
    assert found.score(table).batch.to_pydict() == {
        "n_again": [1, 2],
        "t_again": ["x", "y"],
        "v_again": [[1.0, 2.0], [3.0, 4.0]],
    }


# ---- Columns of inputs ----


def test_a_matrix_is_read_from_all_columns_of_numbers(plan):
    table = batch(name=["x", "y"], a=[1, 2], b=[0.5, 0.25])
    assert plan("Matrix", table, keep="none").score(table).batch.to_pydict() == {"y": [1.5, 2.25]}


@pytest.mark.parametrize(
    ("name", "columns", "job", "expected"),
    [
        ("NamedMatrix", {"c": [9.0], "b": [0.5], "a": [1.0]}, {}, [1.5]),
        ("Matrix", {"x": [[1.0, 2.0]], "c": [9.0]}, {}, [3.0]),
        ("Matrix", {"e": [[1.0, 2.0]]}, {"columns": {"x": ("e",)}}, [3.0]),
        ("Matrix", {"c": [9.0], "b": [1.0], "a": [1.0]}, {"columns": {"x": ("a", "c")}}, [10.0]),
    ],
)
def test_a_matrix_is_read_from_the_columns_that_are_meant(plan, name, columns, job, expected):
    table = batch(**columns)
    scored = plan(name, table, keep="none", **job).score(table)
    assert scored.batch.to_pydict() == {"y": expected}


def test_columns_are_renamed(plan):
    table = batch(left=[1.0], right=[2])
    columns = {"a": ("left",), "b": ("right",)}
    assert plan("Sum", table, keep="none", columns=columns).score(table).batch.to_pydict() == {
        "y": [3.0]
    }


@pytest.mark.parametrize(
    ("name", "fields", "job", "problem"),
    [
        ("Sum", {"a": pa.float64()}, {}, r"INT32 \[-1\], needs a column 'b'.*'a' \(double"),
        ("Sum", {"a": pa.string(), "b": pa.int8()}, {}, "takes FP64.*'a' of type string"),
        ("Sum", {"a": pa.list_(pa.int8()), "b": pa.int8()}, {}, "expected one value.*found lists"),
        ("Matrix", {"a": pa.int8()}, {}, r"needs 2 columns of numbers, and the table has 1"),
        ("Matrix", {"x": pa.int8()}, {}, "expected a list in each cell"),
        ("Matrix", {"x": pa.list_(pa.string())}, {}, "takes FP32.*'x' of type list"),
        ("NamedMatrix", {"a": pa.int8()}, {}, "needs the column 'b'"),
        ("Sum", {"a": pa.int8()}, {"columns": {"z": ("a",)}}, "no input 'z'; it has: 'a', 'b'"),
        ("Sum", {"a": pa.int8()}, {"columns": {"b": ("q",)}}, "no column 'q' for the input 'b'"),
        ("Sum", {"a": pa.int8(), "b": pa.int8()}, {"keep": ("q",)}, "no column 'q' to keep"),
        ("Sum", {"a": pa.int8(), "b": pa.int8()}, {"outputs": ("z",)}, "no output 'z'; it has: "),
        ("Sum", {"a": pa.int8(), "b": pa.int8(), "y": pa.int8()}, {}, "would both be 'y'"),
        ("Kinds", dict.fromkeys(["number", "small", "text"], pa.int8()) | {"truth": pa.float64()},
         {}, "takes BOOL.*'truth' of type double"),
        ("Open", {"m": pa.map_(pa.string(), pa.int8())}, {}, "no tensor holds the column 'm'"),
        ("Dependent", {}, {}, "does not declare that its rows are independent"),
        ("Remembers", {}, {}, "it remembers what it was asked"),
        ("OneRow", {}, {}, r"input 'a' has the shape \[1, 4\]"),
        ("Broken", {}, {}, "can't be loaded: OSError: the file is corrupt"),
        ("Nobody", {}, {}, "no class or function 'Nobody'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_a_row_is_scored(plan, name, fields, job, problem):
    with pytest.raises(ScoreError, match=problem):
        plan(name, pa.schema(fields), **job)


def test_a_table_with_a_name_twice_is_refused(plan):
    fields = [pa.field("a", pa.int8())] * 2
    with pytest.raises(ScoreError, match="two columns with the name 'a'"):
        plan("Sum", pa.schema(fields))


# ---- Rows that fail ----


def test_only_the_culprits_of_a_batch_are_rejected(plan):
    a = [float(row) for row in range(1000)]
    a[500] = a[700] = a[999] = 13.0
    table = batch(a=a, b=[1] * 1000)
    scored = plan("Sum", table).score(table)
    assert reasons(scored) == dict.fromkeys([13, 500, 700, 999], "ValueError: 13 is unlucky")
    assert scored.rejects[0].values == {"a": 13.0, "b": 1}
    assert scored.batch.column("y").to_pylist() == [each + 1 for each in a if each != 13]


def test_a_value_that_the_input_cannot_hold_is_told_with_its_column(plan):
    table = batch(
        number=[1.0, 1e300, 2.0, 3.0, 4.0],
        small=[1.0, 2.0, 2.5, 300.0, 5.0],
        truth=[0, 1, 0, 1, 2],
        text=["a", "b", "c", "d", "e"],
    )
    scored = plan("Kinds", table, keep="none").score(table)
    assert reasons(scored) == {
        1: "column 'number': expected a number that FP32 can hold, found 1e+300",
        2: "column 'small': expected a whole number that INT8 can hold, found 2.5",
        3: "column 'small': expected a whole number that INT8 can hold, found 300.0",
        4: "column 'truth': expected true or false, found 2",
    }
    assert scored.batch.to_pydict() == {
        "number_2": [1.0], "small_2": [1], "truth_2": [False], "text_2": ["a"]
    }  # fmt: skip


def test_a_missing_value_costs_no_other_row(plan):
    table = batch(
        number=[1.0, None, 3.0, 4.0, 5.0],
        small=[1, 2, None, 4, 5],
        truth=[True, True, True, None, True],
        text=["a", "b", "c", "d", None],
    )
    scored = plan("Kinds", table, keep="none").score(table)
    assert sorted(reasons(scored)) == [2, 3, 4]
    assert scored.batch.column("text_2").to_pylist() == ["a", "b"]
    first, second = scored.batch.column("number_2").to_pylist()
    assert first == 1
    assert math.isnan(second)


def test_a_missing_whole_number_is_nan_and_the_others_stay_exact(plan):
    table = batch(a=pa.array([1, None, 2**62 + 1], pa.int64()))
    scored = plan("Nullable", table, keep="none").score(table)
    assert scored.batch.column("y").to_pylist() == ["1", "none", str(2**62 + 1)]


def test_a_missing_value_is_rejected_where_the_metadata_allow_none(plan):
    table = batch(a=pa.array([1, None, 3], pa.int64()))
    scored = plan("Strict", table, keep="none").score(table)
    assert reasons(scored) == {1: "column 'a' has no value, and needs one"}
    assert scored.batch.column("y").to_pylist() == ["1", "3"]


def test_lists_of_another_length_are_rejected(plan):
    table = batch(x=[[1.0, 2.0], [1.0], None, [1.0, 2.0, 3.0], [3.0, 4.0]])
    scored = plan("Matrix", table, keep="none").score(table)
    assert sorted(reasons(scored)) == [1, 2, 3]
    assert reasons(scored)[1] == "column 'x': expected 2 numbers, found 1"
    assert scored.batch.column("y").to_pylist() == [3.0, 7.0]


def test_lists_of_several_lengths_are_scored_where_the_model_takes_any(plan):
    cells = [[1.0], [2.0], [3.0, 4.0], [5.0], [6.0, 7.0]]
    table = batch(x=cells)
    scored = plan("AnyMatrix", table, keep="none").score(table)
    assert scored.batch.column("x2").to_pylist() == [[2 * each for each in cell] for cell in cells]


def test_an_output_that_is_no_text_costs_its_row(plan):
    table = batch(a=[1.0, 5.0, 7.0])
    scored = plan("Binary", table, keep="none").score(table)
    assert list(reasons(scored)) == [1]
    assert "not UTF-8 text" in reasons(scored)[1]
    assert scored.batch.num_rows == 2


@pytest.mark.parametrize(
    ("name", "problem"), [("Shape", "rows are not independent"), ("Gone", "its process died")]
)
def test_a_model_that_can_not_go_on_ends_the_run(plan, name, problem):
    table = batch(a=[1.0, 2.0], b=[1, 2])
    plan = plan(name, table)
    with pytest.raises(ScoreError, match=problem):
        plan.score(table)


VALUES = st.one_of(st.none(), st.just(13.0), st.floats(-10, 20).map(round).map(float))


@given(rows=st.lists(st.tuples(VALUES, st.integers(-(2**40), 2**40)), max_size=60))
@settings(deadline=None)
def test_every_row_is_scored_or_rejected_once(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("model")
    shutil.copy(MODELS, folder / "models.py")
    job = ScoreJob(model=f"{folder}/models.py:Sum", inputs=("-",), output="-", plugins=())
    table = pa.RecordBatch.from_arrays(
        [
            pa.array(range(len(rows)), pa.int64()),
            pa.array([a for a, _ in rows], pa.float64()),
            pa.array([b for _, b in rows], pa.int64()),
        ],
        names=["id", "a", "b"],
    )
    with Scorer(job) as scorer:
        scored = scorer.plan(table.schema).score(table)
    bad = {place for place, (a, b) in enumerate(rows) if a == 13 or abs(b + 0.5) > 2**31}
    assert [each.row for each in scored.rejects] == sorted(bad)
    found = scored.batch.to_pydict()
    assert found["id"] == [place for place in range(len(rows)) if place not in bad]
    expected = [(math.nan if a is None else a) + b for a, b in rows]
    np.testing.assert_array_equal(found["y"], [expected[place] for place in found["id"]])


def test_the_command_offers_all_formats():
    options = {each.name: each for each in cli.commands["score"].params}
    for name in ("input_format", "output_format"):
        assert tuple(options[name].type.choices) == FORMATS
