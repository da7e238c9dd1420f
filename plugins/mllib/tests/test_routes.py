"""Each route that a model can take answers what Spark's own `transform` answers, bit for bit."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.ml import PipelineModel
from pyspark.ml.classification import LogisticRegressionModel
from pyspark.ml.feature import SQLTransformer, StringIndexer, VectorAssembler
from pyspark.ml.linalg import DenseVector, SparseVector, VectorUDT
from pyspark.sql import types as sql

from jackfield import InvalidRequestError, ModelLoadError
from jackfield_mllib._routes import choose_route
from jackfield_mllib._routes._choice import is_equal

#: A job for each example.
FEW = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
#: Models that don't take the gateway's route, and why.
OTHERS = {"ratings": "Join", "topics": "need not end"}
NAMES = [
    "logistic", "forest", "boosted", "tree", "linear", "general", "bayes", "perceptron", "margin",
    "rest", "clusters", "bisecting", "mixture", "topics", "isotonic", "axes", "ratings", "iris",
    "crossed", "split", "passengers", "formula", "notes", "meaning", "free",
]  # fmt: skip
DOUBLES = st.floats(allow_subnormal=False) | st.sampled_from([0.0, -0.0, 1e-300, 0.5, 2.45])


def objects(values):
    found = np.empty(len(values), object)
    for place, each in enumerate(values):
        found[place] = each
    return found


def column(values, kind):
    """Make a route's array of Spark's values."""
    if isinstance(kind, VectorUDT):
        rows = [None if each is None else np.array(each.toArray()) for each in values]
        whole = [each for each in rows if each is not None]
        is_matrix = len(whole) == len(rows) and len({len(each) for each in whole}) == 1
        return np.array(rows) if is_matrix else objects(rows)
    if isinstance(kind, sql.ArrayType):
        if isinstance(kind.elementType, sql.DoubleType | sql.FloatType):
            dtype = np.float32 if isinstance(kind.elementType, sql.FloatType) else np.float64
            rows = [None if each is None else np.array(each, dtype) for each in values]
            if None not in values and len({len(each) for each in values}) == 1:
                return np.array(rows)
            return objects(rows)
        return objects(values)
    dtypes = {
        sql.DoubleType: "f8", sql.FloatType: "f4", sql.LongType: "i8", sql.IntegerType: "i4",
        sql.ShortType: "i2", sql.ByteType: "i1", sql.BooleanType: "?",
    }  # fmt: skip
    dtype = dtypes.get(type(kind))
    return objects(values) if dtype is None or None in values else np.array(values, dtype)


def arrays_of(table):
    columns = zip(*table.rows, strict=True)
    return {
        name: column(list(values), kind)
        for (name, kind), values in zip(table.types.items(), columns, strict=True)
    }


def schema_of(table):
    fields = []
    for place, (name, kind) in enumerate(table.types.items()):
        told = {}
        if isinstance(kind, VectorUDT):
            told = {"ml_attr": {"num_attrs": len(table.rows[0][place])}}
        fields.append(sql.StructField(name, kind, metadata=told))
    return sql.StructType(fields)


class Ways:
    """A model's routes, and Spark itself."""

    def __init__(self, spark, model, schema, sample=None):
        self.spark, self.model, self.schema = spark, model, schema
        found = model.transform(spark.createDataFrame([], schema))
        self.types = {each.name: each.dataType for each in found.schema}
        self.wanted = [name for name in found.columns if name not in schema.names]
        self.frame = choose_route(spark, model, schema, self.wanted, wish="dataframe").route
        self.choice = choose_route(
            spark, model, schema, self.wanted, frame=self.frame, sample=sample
        )

    def check(self, columns, wanted=None):
        """See that both give the same, or refuse the same; returns it, or None."""
        names = self.wanted if wanted is None else wanted
        answers = []
        for route in (self.frame, self.choice.route):
            try:
                answers.append(route(columns, names))
            except InvalidRequestError as error:
                answers.append(error)
        one, other = answers
        if isinstance(one, InvalidRequestError) or isinstance(other, InvalidRequestError):
            assert type(one) is type(other), f"{one!r} {other!r}"
            return None
        for name in names:
            assert is_equal(one[name], other[name]), f"{name}: {one[name]} {other[name]}"
        return other


@pytest.fixture(scope="module")
def ways(spark, trained):
    """Give a trained model's routes."""
    known = {}

    def give(name):
        if name not in known:
            model = trained[name]
            first = {each: array[:1] for each, array in arrays_of(model.rows).items()}
            known[name] = Ways(spark, model.framework(), schema_of(model.rows), first)
        return known[name]

    return give


# ---- real models, real rows ----


def test_all_trained_models_are_here(trained):
    assert set(trained) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_route_answers_what_transform_answers(ways, trained, expected, name):
    model, found = trained[name], ways(name)
    told = expected(model)
    wanted = [each for each in found.wanted if each in told]
    assert wanted
    for route in (found.frame, found.choice.route):
        answer = route(arrays_of(model.rows), wanted)
        assert list(answer) == wanted
        for each in wanted:
            right = column(told[each], found.types[each])
            assert is_equal(answer[each], right), f"{route.name} {each}"


@pytest.mark.parametrize("name", NAMES)
def test_the_gateway_is_taken_by_nearly_all_models(ways, name):
    choice = ways(name).choice
    if name in OTHERS:
        assert choice.route.name == choice.report["route"] == "dataframe"
        assert OTHERS[name] in choice.report["route_reason"]
        return
    assert choice.route.name == choice.report["route"] == "gateway"
    assert choice.report["route_compared_rows"] > 0
    assert "bit for bit" in choice.report["route_reason"]


# ---- rows at the edge ----


@pytest.mark.parametrize(
    "name", ["logistic", "forest", "boosted", "bayes", "perceptron", "margin", "rest", "clusters"]
)
def test_vectors_of_any_numbers(ways, trained, name):
    width = len(trained[name].rows.rows[0][0])
    found = ways(name)

    @FEW
    @given(st.lists(st.lists(DOUBLES, min_size=width, max_size=width), min_size=1, max_size=6))
    def check(rows):
        # one row that is refused would hide the others
        kept = []
        for row in rows:
            try:
                found.choice.route({"features": np.array([row])}, ["prediction"])
            except InvalidRequestError:
                assert found.check({"features": np.array([row])}) is None
            else:
                kept.append(row)
        if kept:
            assert found.check({"features": np.array(kept)}) is not None

    check()


@FEW
@given(
    st.lists(
        st.tuples(
            st.none() | DOUBLES,
            st.none() | st.floats(0, 100) | st.sampled_from([10.0, 30.0, math.inf, math.nan, -1.0]),
            st.none() | st.sampled_from(["Cherbourg", "Queenstown", "Southampton", "", "Ærø"]),
            st.none() | st.integers(-(2**31), 2**31 - 1),
            st.none() | st.booleans(),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_gaps_and_unseen_categories(ways, rows):
    found = ways("passengers")
    kinds = {each.name: each.dataType for each in found.schema}
    for row in rows:
        found.check(
            {name: column([value], kinds[name]) for name, value in zip(kinds, row, strict=True)}
        )


@FEW
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_any_text(ways, texts):
    assert ways("notes").check({"text": objects(texts)}) is not None


@FEW
@given(st.lists(st.lists(st.sampled_from(["wave", "hill", "ö", ""]), max_size=6), min_size=1))
def test_lists_of_texts(ways, lists):
    assert ways("meaning").check({"words": objects(lists)}) is not None


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 1.0])
def test_a_threshold_of_two_classes(spark, trained, threshold):
    model = trained["logistic"]
    loaded = LogisticRegressionModel.load(str(model.artifact)).setThreshold(threshold)
    found = Ways(spark, loaded, schema_of(model.rows))
    rows = arrays_of(model.rows)
    probability = found.check(rows)["probability"][:, 1]
    assert found.check(rows)["prediction"].tolist() == (probability > threshold).tolist()


def test_thresholds_of_several_classes_and_ties(spark, trained):
    model = trained["forest"]
    loaded = model.framework().setThresholds([0.99, 0.001, 0.5])
    found = Ways(spark, loaded, schema_of(model.rows))
    rows = arrays_of(model.rows)
    answer = found.check(rows)
    scaled = answer["probability"] / [0.99, 0.001, 0.5]
    assert answer["prediction"].tolist() == scaled.argmax(axis=1).tolist()
    assert answer["prediction"].tolist() != answer["probability"].argmax(axis=1).tolist()


def test_a_row_that_spark_refuses_is_told_with_its_place(ways):
    route = ways("iris").choice.route
    rows = {name: np.array([1.0, 2.0, math.nan]) for name in ways("iris").schema.names}
    with pytest.raises(InvalidRequestError, match=r"row 2: .*NaN"):
        route(rows, ["prediction"])


@pytest.mark.parametrize("policy", ["error", "skip", "keep"])
def test_unseen_labels_by_policy(spark, policy):
    known = spark.createDataFrame([("a",), ("b",)], ["port"])
    indexer = StringIndexer(inputCol="port", outputCol="index", handleInvalid=policy).fit(known)
    schema = sql.StructType([sql.StructField("port", sql.StringType())])
    found = Ways(spark, indexer, schema)
    assert found.choice.route.name == "gateway"
    assert found.check({"port": objects(["b", "a"])})["index"].tolist() == [1.0, 0.0]
    for value in ("c", None):
        answer = found.check({"port": objects(["a", value])})
        assert answer is None if policy != "keep" else answer["index"].tolist() == [0.0, 2.0]
    if policy != "keep":
        said = {"error": "Unseen label: c", "skip": "row 1, which it drops"}[policy]
        with pytest.raises(InvalidRequestError, match=said):
            found.choice.route({"port": objects(["a", "c"])}, ["index"])


# ---- columns ----


def _copies(spark, **kinds):
    """Make a model that gives each column back."""
    listed = ", ".join(f"{name} AS {name}_again" for name in kinds)
    model = SQLTransformer(statement=f"SELECT *, {listed} FROM __THIS__")
    schema = sql.StructType([sql.StructField(name, kind) for name, kind in kinds.items()])
    return Ways(spark, PipelineModel([model]), schema)


SCALARS = {
    "flag": (sql.BooleanType(), st.booleans()),
    "tiny": (sql.ByteType(), st.integers(-128, 127)),
    "short": (sql.ShortType(), st.integers(-(2**15), 2**15 - 1)),
    "whole": (sql.IntegerType(), st.integers(-(2**31), 2**31 - 1)),
    "long": (sql.LongType(), st.integers(-(2**63), 2**63 - 1)),
    "single": (sql.FloatType(), st.floats(width=32)),
    "number": (sql.DoubleType(), st.floats()),
    "text": (sql.StringType(), st.text(st.characters(exclude_categories=["Cs"]))),
}
LISTS = {
    "numbers": (sql.ArrayType(sql.DoubleType()), st.lists(st.floats())),
    "singles": (sql.ArrayType(sql.FloatType()), st.lists(st.floats(width=32))),
    "wholes": (sql.ArrayType(sql.IntegerType()), st.lists(st.integers(-5, 2**31 - 1))),
    "longs": (sql.ArrayType(sql.LongType()), st.lists(st.integers(-5, 2**63 - 1))),
    "texts": (sql.ArrayType(sql.StringType()), st.lists(st.text(st.sampled_from("aß\n€")))),
}
KINDS = SCALARS | LISTS


@pytest.fixture(scope="module")
def copies(spark):
    return _copies(spark, **{name: kind for name, (kind, _) in KINDS.items()})


@settings(parent=FEW, max_examples=60)
@given(
    st.integers(1, 4).flatmap(
        lambda rows: st.fixed_dictionaries(
            {
                name: st.lists(st.none() | values, min_size=rows, max_size=rows)
                | st.lists(values, min_size=rows, max_size=rows)
                for name, (_, values) in KINDS.items()
            }
        )
    )
)
def test_columns_of_each_type_come_back_as_they_went(copies, rows):
    columns = {name: column(values, KINDS[name][0]) for name, values in rows.items()}
    found = copies.choice.route(columns, copies.wanted)
    for name, values in rows.items():
        again = found[f"{name}_again"]
        assert is_equal(again, column(values, KINDS[name][0])), name


def test_columns_of_each_type_are_the_same_by_dataframe(copies):
    rows = {
        "flag": [True, None], "tiny": [1, -1], "short": [None, 2], "whole": [3, 4],
        "long": [2**60, None], "single": [0.5, None], "number": [None, math.nan],
        "text": ["é", None], "numbers": [[1.0], [2.0]], "singles": [[0.5], []],
        "wholes": [[1, 2], None], "longs": [[], [1]], "texts": [["a", ""], None],
    }  # fmt: skip
    assert copies.check({name: column(rows[name], KINDS[name][0]) for name in KINDS}) is not None


def test_sparse_vectors_and_those_of_several_widths(spark):
    names = list("abcde")
    assembler = VectorAssembler(inputCols=names, outputCol="v")
    schema = sql.StructType([sql.StructField(name, sql.DoubleType()) for name in names])
    rows = [[0.0, 0.0, 5.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0]]
    plain = assembler.transform(spark.createDataFrame(rows, schema)).collect()
    assert [type(row.v) for row in plain] == [SparseVector, DenseVector]
    columns = dict(zip(names, np.array(rows).T.copy(), strict=True))
    assert Ways(spark, assembler, schema).check(columns)["v"].tolist() == rows

    same = _copies(spark, v=VectorUDT())
    ragged = objects([np.array([1.0]), np.array([1.0, 2.0])])
    assert is_equal(same.choice.route({"v": ragged}, ["v_again"])["v_again"], ragged)


def test_a_column_of_another_type_goes_by_dataframe(spark):
    model = SQLTransformer(
        statement="SELECT *, named_struct('twice', 2 * x) AS both, x + 1 AS more FROM __THIS__"
    )
    schema = sql.StructType([sql.StructField("x", sql.DoubleType())])
    found = Ways(spark, PipelineModel([model]), schema)
    assert found.choice.route.name == "gateway"
    answer = found.choice.route({"x": np.array([1.5])}, ["both", "more"])
    assert answer["both"].tolist() == [{"twice": 3.0}]
    assert answer["more"].tolist() == [2.5]


def test_names_with_dots_and_quotes(spark):
    schema = sql.StructType([sql.StructField("a", sql.DoubleType())])
    statement = "SELECT *, a * 2 AS `b.c`, a * 3 AS `d``e` FROM __THIS__"
    found = Ways(spark, PipelineModel([SQLTransformer(statement=statement)]), schema)
    assert found.check({"a": np.array([1.0])}, ["d`e", "b.c"])["b.c"].tolist() == [2.0]


# ---- the choice ----


def test_what_is_of_the_query_and_not_of_the_row_goes_by_dataframe(spark):
    schema = sql.StructType([sql.StructField("x", sql.DoubleType())])
    for statement in (
        "SELECT *, current_timestamp() > timestamp'2020-01-01' AS y FROM __THIS__",
        "SELECT *, rand() AS y FROM __THIS__",
        "SELECT x, max(x) AS y FROM __THIS__ GROUP BY x",
        "SELECT *, explode(array(x)) AS y FROM __THIS__",
    ):
        model = PipelineModel([SQLTransformer(statement=statement)])
        choice = choose_route(spark, model, schema, ["y"])
        assert choice.route.name == "dataframe", statement
        with pytest.raises(ModelLoadError, match="'gateway', which it can't take: "):
            choose_route(spark, model, schema, ["y"], wish="gateway")


def test_the_operator_decides(ways):
    found = ways("linear")
    choice = choose_route(found.spark, found.model, found.schema, found.wanted, wish="dataframe")
    assert (choice.route.name, choice.report["route_reason"]) == (
        "dataframe",
        "asked for by the settings",
    )


def test_without_a_row_to_compare_the_plan_is_trusted(spark, trained):
    """The labels that a formula knows are in none of its stages that Python sees."""
    model = trained["formula"]
    choice = Ways(spark, model.framework(), schema_of(model.rows)).choice
    assert (choice.report["route"], choice.report["route_compared_rows"]) == ("gateway", 0)
    assert "no made-up row fits it" in choice.report["route_reason"]


# ---- the memory, and threads ----


def test_a_request_and_an_answer_of_any_size(ways):
    found = ways("perceptron")
    few, many = np.ones((1, 4)), np.random.default_rng(0).normal(size=(50_000, 4))
    route = found.choice.route
    first = route({"features": few}, ["probability"])["probability"]
    large = route({"features": many}, ["probability", "rawPrediction"])["probability"]
    assert large.shape == (50_000, 3)
    assert is_equal(route({"features": few}, ["probability"])["probability"], first)
    assert is_equal(route({"features": many[:3]}, ["probability"])["probability"], large[:3])


def test_an_answer_that_is_much_larger_than_the_request(spark):
    schema = sql.StructType([sql.StructField("x", sql.DoubleType())])
    statement = "SELECT *, transform(sequence(1, 20000), i -> i * x) AS y FROM __THIS__"
    found = Ways(spark, PipelineModel([SQLTransformer(statement=statement)]), schema)
    answer = found.check({"x": np.array([1.0, 2.0])})["y"]
    assert answer.shape == (2, 20_000)
    assert answer[1, -1] == 40_000.0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system lists no maps")
def test_no_file_is_left(ways):
    ways("linear").check({"features": np.ones((20_000, 10))}, ["prediction"])
    maps = Path("/proc/self/maps").read_text().splitlines()
    ours = [line for line in maps if "/jackfield-rows-" in line]
    assert ours
    assert all(line.endswith(" (deleted)") for line in ours)


def test_threads_get_their_own_rows(ways):
    """A neural network of Spark's keeps what it computes with, and is not meant for threads."""
    found = ways("perceptron")
    rows = np.random.default_rng(1).normal(size=(64, 4))
    whole = found.check({"features": rows}, ["probability", "prediction"])

    def ask(place):
        part = slice(place, place + 1 + place % 3)
        wanted = (["probability"], ["prediction", "probability"])[place % 2]
        answer = found.choice.route({"features": rows[part]}, wanted)
        return all(is_equal(answer[name], whole[name][part]) for name in wanted)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, list(range(60)) * 5))


# ---- equality ----


def test_equality_is_of_bits():
    nan = np.array([math.nan])
    assert is_equal(nan, nan.copy())
    assert not is_equal(np.array([0.0]), np.array([-0.0]))
    assert not is_equal(np.array([1.0]), np.array([1.0 + 2**-52]))
    assert not is_equal(np.array([1.0]), np.array([1.0], np.float32))
    assert not is_equal(objects([None]), objects([0.0]))
    assert is_equal(objects([[math.nan], "a"]), objects([[math.nan], "a"]))
