"""One Spark session, and models of each kind, trained on scikit-learn's own data."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyspark
import pytest
from pyspark.ml import Pipeline
from pyspark.ml import classification as cls
from pyspark.ml import clustering as clu
from pyspark.ml import evaluation as evl
from pyspark.ml import feature as fea
from pyspark.ml import recommendation as rec
from pyspark.ml import regression as reg
from pyspark.ml import tuning as tun
from pyspark.ml.linalg import DenseVector, VectorUDT
from pyspark.sql import types as sql
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from jackfield import InferRequest, ModelLoadError, Tensor
from jackfield.testing import running
from jackfield_mllib._session import SessionOptions, acquire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import DataFrame, SparkSession

# a suite is over before code that is compiled best has paid
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

VECTOR = VectorUDT()
DOUBLE, TEXT, INT = sql.DoubleType(), sql.StringType(), sql.IntegerType()
TEXTS = sql.ArrayType(TEXT)


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns, each with Spark's type, and the rows as Spark's own users write them."""

    types: dict[str, sql.DataType]
    rows: list[tuple[Any, ...]]

    def frame(self, spark: SparkSession) -> DataFrame:
        """Make a DataFrame of Python's objects, which is not how the runtime does it."""
        schema = sql.StructType([sql.StructField(*each) for each in self.types.items()])
        return spark.createDataFrame(self.rows, schema)

    def only(self, *names: str, rows: slice = slice(None)) -> Table:
        """Take some columns and rows."""
        places = [list(self.types).index(name) for name in names]
        return Table(
            {name: self.types[name] for name in names},
            [tuple(row[place] for place in places) for row in self.rows[rows]],
        )

    def tensors(self) -> list[Tensor]:
        """Write each column as a request has it."""
        columns = zip(*self.rows, strict=True)
        return [
            _tensor(name, kind, list(values))
            for (name, kind), values in zip(self.types.items(), columns, strict=True)
        ]


def _tensor(name, kind, values):
    if kind == VECTOR:
        return Tensor.from_array(name, np.array([each.toArray() for each in values]))
    if kind == TEXTS or any(each is None for each in values):
        cells = np.empty(len(values), object)
        cells[:] = [json.dumps(each).encode() for each in values]
        return Tensor.from_array(name, cells, parameters={"content_type": "pd_json"})
    if kind == TEXT:
        return Tensor.from_array(name, values)
    dtype = {DOUBLE: "f8", INT: "i4"}.get(kind, "?")
    return Tensor.from_array(name, np.array(values, dtype))


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model as it was saved, and rows to ask it about."""

    folder: Path
    #: The class of pyspark that a user loads it with.
    kind: Any
    rows: Table
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def artifact(self) -> Path:
        return self.folder / "model"

    def framework(self) -> Any:
        """Load it as a user of Spark does."""
        return self.kind.load(str(self.artifact))

    def request(self, count: int | None = None, **fields: Any) -> InferRequest:
        rows = self.rows.only(*self.rows.types, rows=slice(count))
        return InferRequest(rows.tensors(), **fields)


def _vectors(data, target=None, **others):
    """Make a table of one vector column, a label, and more."""
    types = {"features": VECTOR} | ({} if target is None else {"label": DOUBLE})
    types |= dict.fromkeys(others, DOUBLE)
    labels = () if target is None else (target.astype(float).tolist(),)
    columns = zip(map(DenseVector, data), *labels, *others.values(), strict=True)
    return Table(types, list(columns))


def passengers(count=240):
    """Make a table with gaps, texts, truth values, a whole number and a label."""
    draw = np.random.default_rng(7)
    rows = []
    for _ in range(count):
        age = None if draw.random() < 0.2 else round(float(draw.uniform(1, 80)), 1)
        fare = float(draw.gamma(2.0, 15.0))
        port = str(draw.choice(["Cherbourg", "Queenstown", "Southampton"]))
        deck = int(draw.integers(1, 6))
        alone = bool(draw.random() < 0.4)
        label = float(0.02 * fare + (deck > 3) - (port == "Cherbourg") - alone > 0.4)
        rows.append((age, fare, port, deck, alone, label))
    types = {"age": DOUBLE, "fare": DOUBLE, "port": TEXT, "deck": INT}
    return Table({**types, "alone": sql.BooleanType(), "label": DOUBLE}, rows)


def notes(count=80):
    """Make short texts, and what they are about."""
    draw = np.random.default_rng(3)
    words = {"sea": ["wave", "storm", "sail", "salt"], "land": ["hill", "road", "tree", "the"]}
    rows = []
    for place in range(count):
        topic = ("sea", "land")[place % 2]
        rows.append((" ".join(draw.choice(words[topic], 5)), topic))
    return Table({"text": TEXT, "topic": TEXT}, rows)


def _estimators() -> Iterator[tuple[str, Any, Any, Table, tuple[str, ...], dict[str, Any]]]:
    """Yield name, what is fitted, the class of the model, the table, its inputs, options."""
    cancer, wine = load_breast_cancer(), load_wine()
    iris, diabetes = load_iris(), load_diabetes()
    one = ("features",)
    flowers = _vectors(iris.data, iris.target)
    wines = _vectors(wine.data, wine.target)
    cells = _vectors(cancer.data, cancer.target)
    patients = _vectors(diabetes.data, diabetes.target)

    few = {"maxDepth": 3, "seed": 1}
    yield "logistic", cls.LogisticRegression(maxIter=3), cls.LogisticRegressionModel, cells, one, {}
    yield (
        "forest",
        cls.RandomForestClassifier(numTrees=3, **few),
        cls.RandomForestClassificationModel,
        wines,
        one,
        {},
    )
    yield "boosted", cls.GBTClassifier(maxIter=2, **few), cls.GBTClassificationModel, cells, one, {}
    yield (
        "tree",
        reg.DecisionTreeRegressor(varianceCol="variance", **few),
        reg.DecisionTreeRegressionModel,
        patients,
        one,
        {},
    )
    yield "linear", reg.LinearRegression(maxIter=4), reg.LinearRegressionModel, patients, one, {}
    yield (
        "general",
        reg.GeneralizedLinearRegression(
            family="poisson", link="log", maxIter=2, linkPredictionCol="link"
        ),
        reg.GeneralizedLinearRegressionModel,
        patients,
        one,
        {},
    )
    yield "bayes", cls.NaiveBayes(), cls.NaiveBayesModel, wines, one, {}
    yield (
        "perceptron",
        cls.MultilayerPerceptronClassifier(layers=[4, 5, 3], maxIter=3, seed=1),
        cls.MultilayerPerceptronClassificationModel,
        flowers,
        one,
        {},
    )
    yield "margin", cls.LinearSVC(maxIter=2), cls.LinearSVCModel, cells, one, {}
    yield (
        "rest",
        cls.OneVsRest(classifier=cls.LogisticRegression(maxIter=2)),
        cls.OneVsRestModel,
        wines,
        one,
        {},
    )
    yield "clusters", clu.KMeans(k=3, seed=1, maxIter=2), clu.KMeansModel, flowers, one, {}
    yield (
        "bisecting",
        clu.BisectingKMeans(k=3, seed=1, maxIter=2),
        clu.BisectingKMeansModel,
        flowers,
        one,
        {},
    )
    yield (
        "mixture",
        clu.GaussianMixture(k=2, seed=1, maxIter=2),
        clu.GaussianMixtureModel,
        flowers,
        one,
        {},
    )
    yield "topics", clu.LDA(k=2, seed=1, maxIter=2), clu.LocalLDAModel, flowers, one, {}
    steps = _vectors(iris.data[:, :1], iris.data[:, 1])
    yield "isotonic", reg.IsotonicRegression(), reg.IsotonicRegressionModel, steps, one, {}
    yield "axes", fea.PCA(k=2, inputCol="features", outputCol="axes"), fea.PCAModel, wines, one, {}
    ratings = Table(
        {"user": INT, "item": INT, "rating": DOUBLE},
        [(user, item, float((user * item) % 5)) for user in range(8) for item in range(6)],
    )
    yield (
        "ratings",
        rec.ALS(rank=2, maxIter=2, seed=1, userCol="user", itemCol="item", ratingCol="rating"),
        rec.ALSModel,
        ratings,
        ("user", "item"),
        {},
    )

    from pyspark.ml import PipelineModel

    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    table = Table(
        {**dict.fromkeys(names, DOUBLE), "species": TEXT},
        [
            (*map(float, row), str(iris.target_names[kind]))
            for row, kind in zip(iris.data, iris.target, strict=True)
        ],
    )
    labels = fea.StringIndexer(inputCol="species", outputCol="label", stringOrderType="alphabetAsc")
    assembler = fea.VectorAssembler(inputCols=names, outputCol="raw_features")
    scaler = fea.StandardScaler(inputCol="raw_features", outputCol="features", withMean=True)
    logistic = cls.LogisticRegression(maxIter=4)
    back = fea.IndexToString(
        inputCol="prediction", outputCol="flower", labels=[str(each) for each in iris.target_names]
    )
    pipeline = Pipeline(stages=[labels, assembler, scaler, logistic, back])
    yield "iris", pipeline, PipelineModel, table, tuple(names), {}

    grid = tun.ParamGridBuilder().addGrid(logistic.regParam, [0.1]).build()
    judge = evl.MulticlassClassificationEvaluator()
    tuned = {"estimator": pipeline, "estimatorParamMaps": grid, "evaluator": judge, "seed": 1}
    # its folder has the models of all folds
    tuned_on_folds = tun.CrossValidator(numFolds=2, collectSubModels=True, **tuned)
    yield "crossed", tuned_on_folds, tun.CrossValidatorModel, table, tuple(names), {}
    yield (
        "split",
        tun.TrainValidationSplit(**tuned),
        tun.TrainValidationSplitModel,
        table,
        tuple(names),
        {"outputs": ["flower", "probability"]},
    )

    mixed = Pipeline(
        stages=[
            fea.Imputer(inputCols=["age"], outputCols=["age_known"]),
            fea.StringIndexer(inputCol="port", outputCol="port_index"),
            fea.OneHotEncoder(inputCols=["port_index"], outputCols=["port_vector"]),
            fea.Bucketizer(
                inputCol="fare", outputCol="fare_bucket", splits=[0.0, 10.0, 30.0, float("inf")]
            ),
            fea.VectorAssembler(
                inputCols=["age_known", "fare_bucket", "port_vector", "deck", "alone"],
                outputCol="features",
            ),
            cls.RandomForestClassifier(numTrees=2, **few),
        ]
    )
    yield (
        "passengers",
        mixed,
        PipelineModel,
        passengers(),
        ("age", "fare", "port", "deck", "alone"),
        {"schema": {"deck": "int", "alone": "boolean"}},
    )
    formula = Pipeline(
        stages=[
            fea.RFormula(formula="label ~ fare + port + deck"),
            reg.LinearRegression(maxIter=4),
        ]
    )
    yield "formula", formula, PipelineModel, passengers(), ("fare", "port", "deck"), {}
    words = Pipeline(
        stages=[
            fea.Tokenizer(inputCol="text", outputCol="words"),
            fea.StopWordsRemover(inputCol="words", outputCol="kept"),
            fea.HashingTF(inputCol="kept", outputCol="counts", numFeatures=32),
            fea.IDF(inputCol="counts", outputCol="features"),
        ]
    )
    topics = fea.StringIndexer(inputCol="topic", outputCol="label")
    nested = Pipeline(stages=[topics, words, cls.NaiveBayes()])
    yield "notes", nested, PipelineModel, notes(), ("text",), {}
    lists = Table({"words": TEXTS}, [(text.split(),) for text, _ in notes().rows])
    meaning = fea.Word2Vec(
        vectorSize=3, minCount=1, seed=1, maxIter=1, inputCol="words", outputCol="meaning"
    )
    yield "meaning", meaning, fea.Word2VecModel, lists, ("words",), {}
    free = Pipeline(
        stages=[
            fea.SQLTransformer(
                statement="SELECT *, coalesce(age, 30.0) AS years, fare > 20 AS dear FROM __THIS__"
            ),
            fea.VectorAssembler(inputCols=["years", "fare"], outputCol="features"),
            reg.LinearRegression(maxIter=4),
        ]
    )
    yield (
        "free",
        free,
        PipelineModel,
        passengers(),
        ("age", "fare"),
        {"schema": {"age": "double", "fare": "double"}},
    )


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """Hold Spark's session until the tests are over; the runtimes share it."""
    try:
        lease = acquire(
            SessionOptions(
                master="local[2]",
                conf={"spark.driver.memory": "1g", "spark.sql.shuffle.partitions": 2},
            ),
            name="tests",
        )
    except ModelLoadError as error:
        if "Java" in str(error):
            pytest.skip(f"Spark needs Java: {error}")
        raise
    with contextlib.closing(lease):
        yield lease.spark


@pytest.fixture(scope="session")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for trained models, kept from run to run while this file stays as it is."""
    cache = getattr(request.config, "cache", None)
    if cache is None:
        return tmp_path_factory.mktemp("models")
    digest = hashlib.sha256(Path(__file__).read_bytes() + pyspark.__version__.encode())
    folder: Path = cache.mkdir("jackfield-mllib") / digest.hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def at_once() -> Iterator[Callable[..., Any]]:
    """Call functions in threads, and wait for all: Spark's jobs are small, and many."""
    with warnings.catch_warnings():
        # those that fit several models leave a pool of threads to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        with ThreadPoolExecutor(4) as threads:
            running_ones: list[Any] = []
            yield lambda *call: running_ones.append(threads.submit(*call))
            for each in running_ones:
                each.result()
        gc.collect()


@pytest.fixture(scope="session")
def trained(spark: SparkSession, store: Path) -> dict[str, Trained]:
    """Train and save all models, each in a folder with settings that name no runtime."""
    made = {}
    with at_once() as call:
        for name, estimator, kind, table, inputs, options in _estimators():
            folder = store / name
            if not folder.exists():
                call(_train, estimator, table.frame(spark).coalesce(1), folder, options)
            rows = table.only(*inputs, rows=slice(None, None, max(len(table.rows) // 12, 1)))
            made[name] = Trained(folder, kind, rows, options)
    return made


def _train(estimator: Any, frame: DataFrame, folder: Path, options: dict[str, Any]) -> None:
    model = estimator.fit(frame)
    # whole, or not there: another run may be at it, too
    draft = folder.with_name(f".{folder.name}-{os.getpid()}")
    model.write().overwrite().save(str(draft / "model"))
    told = {"name": folder.name, "parameters": {"uri": "./model", "extra": options}}
    (draft / "model-settings.json").write_text(json.dumps(told))
    try:
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)


@pytest.fixture(scope="session")
def expected(spark: SparkSession) -> Callable[[Trained], dict[str, list[Any]]]:
    """Ask Spark itself, by `transform` on rows of Python objects; once for each model."""
    known: dict[Path, dict[str, list[Any]]] = {}

    def ask(model: Trained) -> dict[str, list[Any]]:
        if model.folder not in known:
            found = model.framework().transform(model.rows.frame(spark).coalesce(1))
            rows = found.collect()
            known[model.folder] = {
                name: [row[name] for row in rows]
                for name in found.columns
                if name not in model.rows.types
            }
        return known[model.folder]

    return ask


@pytest.fixture(scope="session")
def serve(spark: SparkSession) -> Iterator[Callable[..., Any]]:
    """Run servers on free ports until the tests are over."""
    with contextlib.ExitStack() as servers:
        yield lambda *paths: servers.enter_context(running(*paths))
