"""Models of `pyspark.mllib`, trained by Spark, against pyspark's own `predict`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.mllib import classification as cls
from pyspark.mllib import clustering as clu
from pyspark.mllib import regression as reg
from pyspark.mllib import tree
from pyspark.mllib.common import _py2java
from pyspark.mllib.linalg import DenseVector
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import MultinomialNB
from sklearn.svm import LinearSVC

from jackfield import Datatype, InferRequest, InvalidRequestError, ModelLoadError, Tensor
from jackfield.client import Client
from jackfield.testing import running
from jackfield_mllib._rdd import FORMATS, RddModel, _in_scala_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from pyspark.sql import SparkSession

KINDS = {
    "tree": tree.DecisionTreeModel,
    "forest": tree.RandomForestModel,
    "boosted": tree.GradientBoostedTreesModel,
}
#: Sums over trees, which the JVM's BLAS takes in an order of its own.
SUMMED = frozenset(["forest-regression", "boosted-regression"])
ROWS = 60


@dataclasses.dataclass(frozen=True)
class Saved:
    """A model's folder, rows, and what pyspark says of them."""

    folder: Path
    rows: NDArray[np.float64]
    expected: NDArray[Any]


def points(features, labels):
    return [reg.LabeledPoint(y, x) for x, y in zip(features.tolist(), labels.tolist(), strict=True)]


def many_classes():
    """Make 40 classes that few trees can't tell apart, so that votes are even."""
    draw = np.random.default_rng(5)
    features = draw.normal(size=(400, 3))
    return features, draw.integers(0, 40, 400).astype(float)


def categories():
    draw = np.random.default_rng(6)
    features = np.column_stack([draw.integers(0, 5, 300), draw.normal(size=300)])
    labels = (np.isin(features[:, 0], [1, 4]) ^ (features[:, 1] > 0)).astype(float)
    return features, labels


def trainings(spark: SparkSession) -> dict[str, tuple[Callable[[], Any], Any, NDArray[Any]]]:
    """List name -> how the model is made, how pyspark loads it, rows to ask about.

    Spark grows the trees. The others are learned by scikit-learn, of which Spark makes its own: its
    training would take a job for each step.
    """
    context = spark.sparkContext
    iris, cancer, sick = load_iris(), load_breast_cancer(), load_diabetes()
    digits = load_digits().data
    scaled = (cancer.data - cancer.data.mean(0)) / cancer.data.std(0)
    coded, marks = categories()
    noise, kinds = many_classes()
    split = {0: 5}

    def rdd(features, labels):
        return context.parallelize(points(features, labels), 1)

    def logistic():
        found = LogisticRegression().fit(scaled, cancer.target)
        return cls.LogisticRegressionModel(found.coef_[0], found.intercept_[0], 30, 2)

    def of_three(*, has_intercept):
        found = LogisticRegression(max_iter=3000, fit_intercept=has_intercept).fit(
            iris.data, iris.target
        )
        # Spark's are against the first class
        weights = (found.coef_ - found.coef_[0])[1:]
        if has_intercept:
            weights = np.column_stack([weights, (found.intercept_ - found.intercept_[0])[1:]])
        return cls.LogisticRegressionModel(weights.ravel(), 0.0, 4, 3)

    def bayes():
        found = MultinomialNB().fit(iris.data, iris.target)
        learned = (found.class_log_prior_, found.feature_log_prob_)
        return cls.NaiveBayesModel(found.classes_.astype(float), *learned)

    def vectors():
        found = LinearSVC(max_iter=20000).fit(scaled, cancer.target)
        return cls.SVMModel(found.coef_[0], found.intercept_[0])

    def isotonic():
        found = IsotonicRegression().fit(sick.data[:, 2], sick.target)
        return reg.IsotonicRegressionModel(found.X_thresholds_, found.y_thresholds_, True)

    def line(estimator, kind):
        found = estimator.fit(sick.data, sick.target)
        return lambda: kind(found.coef_, found.intercept_)

    return {
        "logistic": (logistic, cls.LogisticRegressionModel, scaled),
        "logistic-of-three": (
            lambda: of_three(has_intercept=True),
            cls.LogisticRegressionModel,
            iris.data,
        ),
        "logistic-of-three-without-intercept": (
            lambda: of_three(has_intercept=False),
            cls.LogisticRegressionModel,
            iris.data,
        ),
        "bayes": (bayes, cls.NaiveBayesModel, iris.data),
        "vectors": (vectors, cls.SVMModel, scaled),
        "clusters": (
            lambda: clu.KMeansModel(
                KMeans(8, n_init=1, random_state=1).fit(digits).cluster_centers_
            ),
            clu.KMeansModel,
            digits,
        ),
        "isotonic": (
            isotonic,
            reg.IsotonicRegressionModel,
            np.linspace(-0.2, 0.2, ROWS)[:, None],
        ),
        "linear": (
            line(LinearRegression(), reg.LinearRegressionModel),
            reg.LinearRegressionModel,
            sick.data,
        ),
        "lasso": (line(Lasso(), reg.LassoModel), reg.LassoModel, sick.data),
        "ridge": (line(Ridge(), reg.RidgeRegressionModel), reg.RidgeRegressionModel, sick.data),
        "tree": (
            lambda: tree.DecisionTree.trainClassifier(rdd(coded, marks), 2, split),
            tree.DecisionTreeModel,
            coded,
        ),
        "tree-regression": (
            lambda: tree.DecisionTree.trainRegressor(rdd(sick.data, sick.target), {}),
            tree.DecisionTreeModel,
            sick.data,
        ),
        "forest": (
            lambda: tree.RandomForest.trainClassifier(rdd(coded, marks), 2, split, 6, seed=1),
            tree.RandomForestModel,
            coded,
        ),
        "forest-of-forty": (
            lambda: tree.RandomForest.trainClassifier(rdd(noise, kinds), 40, {}, 20, seed=1),
            tree.RandomForestModel,
            noise,
        ),
        "forest-regression": (
            lambda: tree.RandomForest.trainRegressor(rdd(sick.data, sick.target), {}, 7, seed=1),
            tree.RandomForestModel,
            sick.data,
        ),
        "boosted": (
            lambda: tree.GradientBoostedTrees.trainClassifier(
                rdd(scaled, cancer.target), {}, numIterations=3
            ),
            tree.GradientBoostedTreesModel,
            scaled,
        ),
        "boosted-regression": (
            lambda: tree.GradientBoostedTrees.trainRegressor(
                rdd(sick.data, sick.target), {}, numIterations=3
            ),
            tree.GradientBoostedTreesModel,
            sick.data,
        ),
    }


@pytest.fixture(scope="session")
def saved(spark: SparkSession, store: Path) -> dict[str, Saved]:
    """Train and save all, and ask pyspark; kept from run to run while this file is as it is."""
    root = store / f"rdd-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}"
    context = spark.sparkContext

    def one(name: str, make: Callable[[], Any], kind: Any, features: NDArray[Any]) -> Saved:
        folder, answers = root / name, root / f"{name}.npy"
        rows = features[:: max(len(features) // ROWS, 1)][:ROWS]
        if not answers.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make().save(context, folder.as_uri())
            model = kind.load(context, folder.as_uri())
            if kind is reg.IsotonicRegressionModel:
                expected = model.predict(rows[:, 0])
            else:
                expected = np.array([model.predict(row.tolist()) for row in rows])
            np.save(answers, expected)
        return Saved(folder, rows, np.load(answers))

    with ThreadPoolExecutor(4) as threads:
        calls = {name: threads.submit(one, name, *each) for name, each in trainings(spark).items()}
    return {name: each.result() for name, each in calls.items()}


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Saved]:
    """Write three models as Spark does, without it: what is read needs no Java."""

    def vector(*values):
        return {"type": 1, "size": None, "indices": None, "values": list(values)}

    def node(place, value, *, split=None):
        row = {"treeId": 0, "nodeId": place, "predict": {"predict": value}, "split": split}
        return row | {"isLeaf": split is None, "leftNodeId": 2, "rightNodeId": 3}

    split = {"feature": 1, "threshold": 0.5, "featureType": 0, "categories": []}
    weights = {"weights": vector(1.0, -2.0, 0.5), "intercept": 0.25}
    kinds = {
        "logistic": ("classification.LogisticRegressionModel", [weights | {"threshold": 0.5}]),
        "clusters": (
            "clustering.KMeansModel",
            [{"id": 0, "point": vector(0.0, 0.0)}, {"id": 1, "point": vector(2.0, 2.0)}],
        ),
        "tree": (
            "tree.model.DecisionTreeModel",
            [node(1, 0.0, split=split), node(2, 3.0), node(3, 4.0)],
        ),
    }
    rows = {
        "logistic": (np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([1, 0])),
        "clusters": (np.array([[0.1, 0.2], [1.9, 1.5]]), np.array([0, 1])),
        "tree": (np.array([[9.0, 0.5], [9.0, 0.6]]), np.array([3.0, 4.0])),
    }
    found = {}
    for name, (kind, table) in kinds.items():
        folder = tmp_path / "written" / name
        (folder / "metadata").mkdir(parents=True)
        (folder / "data").mkdir()
        told = {"class": f"org.apache.spark.mllib.{kind}", "version": "1.0", "algo": "Regression"}
        (folder / "metadata" / "part-00000").write_text(json.dumps(told))
        pq.write_table(pa.Table.from_pylist(table), folder / "data" / "part-00000.parquet")
        (folder / "data" / "_SUCCESS").touch()
        found[name] = Saved(folder, *rows[name])
    return found


def ask(model: RddModel, rows: NDArray[Any]) -> NDArray[Any]:
    answer = model.infer(InferRequest([Tensor.from_array("features", rows)]))
    (output,) = answer.outputs
    assert output.name == "predict"
    return output.array


NAMES = (
    "bayes",
    "boosted",
    "boosted-regression",
    "clusters",
    "forest",
    "forest-of-forty",
    "forest-regression",
    "isotonic",
    "lasso",
    "linear",
    "logistic",
    "logistic-of-three",
    "logistic-of-three-without-intercept",
    "ridge",
    "tree",
    "tree-regression",
    "vectors",
)


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_what_pyspark_does(saved, name):
    model, case = RddModel(saved[name].folder), saved[name]
    found = ask(model, case.rows)
    assert len(np.unique(case.expected)) > 1
    assert found.dtype == case.expected.dtype
    if name in SUMMED:
        np.testing.assert_allclose(found, case.expected, rtol=1e-14)
    else:
        np.testing.assert_array_equal(found, case.expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_its_answer_in_whatever_company(saved, name):
    model, rows = RddModel(saved[name].folder), saved[name].rows
    alone = [ask(model, rows[place : place + 1])[0] for place in range(len(rows))]
    np.testing.assert_array_equal(ask(model, rows), alone)
    np.testing.assert_array_equal(ask(model, np.asfortranarray(rows)), alone)
    assert ask(model, rows[:0]).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_metadata_is_what_answers_have(saved, name):
    model, rows = RddModel(saved[name].folder), saved[name].rows
    told = model.metadata()
    assert told.outputs[0].datatype is Datatype.of(ask(model, rows).dtype)
    assert tuple(told.outputs[0].shape) == (-1,)
    assert told.inputs[0].name == "features"
    assert tuple(told.inputs[0].shape) in ((-1, -1), (-1, rows.shape[1]))


def test_all_of_mlservers_formats_are_trained_here(saved):
    assert {RddModel(case.folder).metadata().parameters["format"] for case in saved.values()} == (
        set(FORMATS)
    )


@pytest.mark.parametrize("kind", ["tree", "forest", "boosted"])
def test_numbers_and_categories_that_were_never_seen_go_where_spark_sends_them(saved, spark, kind):
    case = saved[kind]
    rows = np.repeat(case.rows[:8], 5, axis=0)
    rows[::5, 0], rows[1::5, 0], rows[2::5, 0], rows[3::5, 1] = np.nan, -3.0, 1.5, np.nan
    rows[4::5, 0] = 1e300
    model = KINDS[kind].load(spark.sparkContext, case.folder.as_uri())
    expected = [model.predict(row.tolist()) for row in rows]
    np.testing.assert_array_equal(ask(RddModel(case.folder), rows), expected)


@pytest.mark.parametrize(
    ("name", "kind"), [("logistic", "LogisticRegressionModel"), ("vectors", "SVMModel")]
)
def test_without_a_threshold_it_answers_what_it_would_compare(spark, saved, tmp_path, name, kind):
    """Pyspark saves none such; those of Scala do."""
    context, case = spark.sparkContext, saved[name]
    jvm = getattr(context._jvm.org.apache.spark.mllib.classification, kind)
    model = jvm.load(context._jsc.sc(), case.folder.as_uri()).clearThreshold()
    model.save(context._jsc.sc(), (tmp_path / name).as_uri())
    expected = [model.predict(_py2java(context, DenseVector(row))) for row in case.rows]
    served = RddModel(tmp_path / name)
    np.testing.assert_allclose(ask(served, case.rows), expected, rtol=1e-12)
    assert served.metadata().outputs[0].datatype is Datatype.FP64


def test_what_only_the_jvm_knows_is_computed_as_it_does(spark, tmp_path):
    """Bernoulli and cosine models, which pyspark can load but takes for others."""
    context, jvm = spark.sparkContext, spark.sparkContext._jvm
    draw = np.random.default_rng(2)
    rows = (draw.random((40, 6)) < 0.4).astype(float)
    labels = (rows[:, 0] + rows[:, 1] > 0).astype(float)
    data = _py2java(context, context.parallelize(points(rows, labels)))
    bayes = jvm.org.apache.spark.mllib.classification.NaiveBayes.train(data.rdd(), 1.0, "bernoulli")
    bayes.save(context._jsc.sc(), (tmp_path / "bayes").as_uri())
    expected = [bayes.predict(_py2java(context, DenseVector(row))) for row in rows]
    served = RddModel(tmp_path / "bayes")
    np.testing.assert_array_equal(ask(served, rows), expected)
    with pytest.raises(InvalidRequestError, match="bernoulli"):
        ask(served, rows + 0.5)

    spots = draw.normal(size=(60, 3))
    vectors = _py2java(context, context.parallelize([DenseVector(row) for row in spots]))
    trainer = jvm.org.apache.spark.mllib.clustering.KMeans()
    trainer = trainer.setK(4).setSeed(1).setDistanceMeasure("cosine")
    clusters = trainer.run(vectors.rdd())
    clusters.save(context._jsc.sc(), (tmp_path / "clusters").as_uri())
    expected = [clusters.predict(_py2java(context, DenseVector(row))) for row in spots]
    served = RddModel(tmp_path / "clusters")
    np.testing.assert_array_equal(ask(served, spots), expected)
    with pytest.raises(InvalidRequestError, match="zeros"):
        ask(served, spots * 0)


@pytest.mark.parametrize("size", [1, 5, 11, 12, 23, 24, 60])
def test_even_votes_are_in_the_order_of_scalas_map(spark, size):
    jvm = spark.sparkContext._jvm
    numbers = np.random.default_rng(size).choice(5000, size, replace=False).tolist()
    table = getattr(jvm, "scala.collection.mutable.HashMap")()
    for number in numbers:
        table.put(number, 1.0)
    keys = table.keysIterator()
    found = []
    while keys.hasNext():
        found.append(keys.next())
    assert _in_scala_order(numbers) == found


# ---- what does not fit; this needs no Java ----


@pytest.mark.parametrize("name", ["logistic", "clusters", "tree"])
def test_folders_are_read_without_java(written, name):
    case = written[name]
    np.testing.assert_array_equal(ask(RddModel(case.folder), case.rows), case.expected)


def test_a_format_that_is_none_lists_those_that_are(written):
    with pytest.raises(ModelLoadError, match="found 'Logistic'") as raised:
        RddModel(written["logistic"].folder, form="Logistic")
    assert all(form in str(raised.value) for form in FORMATS)


def test_a_format_that_contradicts_the_folder_names_both(written):
    with pytest.raises(ModelLoadError, match=r"'SVM', but .* LogisticRegressionModel"):
        RddModel(written["logistic"].folder, form="SVM")


def test_a_folder_of_a_newer_format_is_refused(written, tmp_path):
    folder = copy(written["clusters"], tmp_path)
    rewrite(folder, version="3.0")
    with pytest.raises(ModelLoadError, match=r"format 3\.0 of KMeansModel.*newer Spark"):
        RddModel(folder)


def test_a_class_that_is_not_served_is_told_with_those_that_are(written, tmp_path):
    folder = copy(written["clusters"], tmp_path)
    rewrite(folder, **{"class": "org.apache.spark.mllib.clustering.BisectingKMeansModel"})
    with pytest.raises(ModelLoadError, match=r"BisectingKMeansModel.*KMeans, "):
        RddModel(folder)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "data" / "_SUCCESS").unlink(), "_SUCCESS"),
        (lambda folder: shutil.rmtree(folder / "data"), "has not a table"),
        (lambda folder: next(folder.glob("metadata/part-*")).write_text("{"), "metadata"),
        (
            lambda folder: [each.write_bytes(b"PAR1") for each in folder.glob("data/*.parquet")],
            "can't be read",
        ),
    ],
)
def test_a_damaged_folder_is_told(written, tmp_path, damage, told):
    folder = copy(written["tree"], tmp_path)
    damage(folder)
    with pytest.raises(ModelLoadError, match=told):
        RddModel(folder)


def test_the_table_of_another_model_is_told(written, tmp_path):
    folder = copy(written["tree"], tmp_path)
    shutil.rmtree(folder / "data")
    shutil.copytree(written["logistic"].folder / "data", folder / "data")
    with pytest.raises(ModelLoadError, match="not what Spark writes for a DecisionTreeModel"):
        RddModel(folder)


def test_rows_that_are_too_short_name_the_width(written):
    with pytest.raises(InvalidRequestError, match="rows of 3 features"):
        ask(RddModel(written["logistic"].folder), np.ones((2, 4)))
    with pytest.raises(InvalidRequestError, match="at least 2 columns"):
        ask(RddModel(written["tree"].folder), np.ones((2, 1)))


def copy(case: Saved, folder: Path) -> Path:
    return shutil.copytree(case.folder, folder / "copy")


def rewrite(folder: Path, **changed: str) -> None:
    (file,) = folder.glob("metadata/part-*")
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


# ---- served ----


@pytest.mark.parametrize("name", ["mlserver_mllib.MLlibModel", "mlserver-mllib.MLlibModel"])
def test_mlservers_settings_are_served_without_a_jvm(written, tmp_path, name):
    case = written["logistic"]
    shutil.copytree(case.folder, tmp_path / "data-model")
    settings = {
        "name": "mllib-example",
        "implementation": name,
        "parameters": {"uri": "./data-model", "format": "LogisticRegression"},
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    with running(tmp_path) as server, Client(server.http) as client:
        request = InferRequest([Tensor.from_array("features", case.rows)])
        output = client.model("mllib-example").infer(request)["predict"]
    assert output.dtype == np.float32
    assert output.shape == (len(case.rows), 1)
    np.testing.assert_array_equal(output[:, 0], case.expected)
