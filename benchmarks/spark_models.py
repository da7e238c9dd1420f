"""Train Spark's models, and time Spark itself; run by `spark.py` in an environment with pyspark.

    python spark_models.py FOLDER SECONDS

Writes a folder for each model with the model itself and `questions.json`, and `bare.json`: what a
call takes in this process by each way there is, on this machine at this time.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml import Pipeline, PipelineModel, classification, clustering, feature, regression
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.linalg import DenseVector, VectorUDT
from pyspark.sql import DataFrame, SparkSession, functions
from pyspark.sql.types import StructField, StructType
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from jackfield_mllib._routes import choose_route

Array = NDArray[np.float64]
#: Rows of the two requests.
SIZES = (1, 1000)
LEAST_CALLS = 5


def main() -> None:
    """Train, save, ask and time."""
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    spark = (
        SparkSession.builder.master("local[4]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("OFF")
    bare = {}
    for name, estimator, rows, labels in _estimators():
        print(f"training {name}", file=sys.stderr, flush=True)
        points = [DenseVector(row) for row in rows]
        data = list(zip(points, map(float, labels), strict=True))
        frame = spark.createDataFrame(data, ["features", "label"]).coalesce(1).cache()
        model = Pipeline(stages=estimator).fit(frame)
        model.write().overwrite().save(str(folder / name / "model"))
        found = model.transform(frame).select("prediction").collect()
        answers = [row.prediction for row in found]
        questions = []
        for size in SIZES:
            places = [place % len(rows) for place in range(size)]
            questions.append(
                {
                    "rows": [rows[place].tolist() for place in places],
                    "labels": [answers[place] for place in places],
                }
            )
        (folder / name / "questions.json").write_text(json.dumps(questions))
        bare[name] = dict(_time(spark, model, rows, seconds))
    (folder / "bare.json").write_text(json.dumps(bare))
    spark.stop()


def _estimators() -> Iterator[tuple[str, list[Any], Array, Array]]:
    """Yield name, stages, rows and labels."""
    cancer, iris, diabetes = load_breast_cancer(), load_iris(), load_diabetes()
    scaler = feature.StandardScaler(inputCol="features", outputCol="scaled", withMean=True)
    logistic = classification.LogisticRegression(featuresCol="scaled", regParam=0.01)
    yield "logistic", [scaler, logistic], cancer.data, cancer.target
    forest = classification.RandomForestClassifier(numTrees=100, seed=1)
    yield "forest", [forest], cancer.data, cancer.target
    boosted = classification.GBTClassifier(maxIter=20, seed=1)
    yield "boosted", [boosted], cancer.data, cancer.target
    network = classification.MultilayerPerceptronClassifier(layers=[4, 16, 3], seed=1)
    yield "perceptron", [network], iris.data, iris.target
    yield "clusters", [clustering.KMeans(k=3, seed=1)], iris.data, iris.target
    yield "linear", [regression.LinearRegression()], diabetes.data, diabetes.target


def _time(
    spark: SparkSession, model: PipelineModel, rows: Array, seconds: float
) -> Iterator[tuple[str, dict[str, float]]]:
    """Time each way from rows to predictions; `way, rows` and percentiles in milliseconds."""
    told = {"ml_attr": {"num_attrs": rows.shape[1]}}
    schema = StructType([StructField("features", VectorUDT(), metadata=told)])
    gateway = choose_route(spark, model, schema, ["prediction"], wish="gateway").route
    for size in SIZES:
        part = np.ascontiguousarray(np.resize(rows, (size, rows.shape[1])))
        points = [(DenseVector(row),) for row in part]
        ways: dict[str, Callable[[], object]] = {
            "list of Python's rows": partial(_by_rows, spark, model, points, schema),
            "Arrow's table": partial(_by_arrow, spark, model, part),
            "SQL's VALUES": partial(_by_values, spark, model, part),
            "route gateway": partial(gateway, {"features": part}, ["prediction"]),
        }
        last = model.stages[-1]
        if size == 1 and hasattr(last, "predict"):
            point = points[0][0]
            ways["last stage's predict alone"] = partial(last.predict, point)
        for way, call in ways.items():
            yield f"{way}, {size}", _percentiles(call, seconds)
    if "LogisticRegression" in type(model.stages[-1]).__name__:
        yield from _onnx(model, rows, seconds)


def _by_rows(
    spark: SparkSession, model: PipelineModel, points: list[tuple[DenseVector]], schema: StructType
) -> object:
    return model.transform(spark.createDataFrame(points, schema)).select("prediction").collect()


def _by_arrow(spark: SparkSession, model: PipelineModel, part: Array) -> object:
    offsets = np.arange(0, part.size + 1, part.shape[1], dtype=np.int32)
    lists = pa.ListArray.from_arrays(offsets, part.reshape(-1))
    frame = spark.createDataFrame(pa.table({"features": lists}))
    return model.transform(_as_vectors(frame)).select("prediction").toArrow()


def _by_values(spark: SparkSession, model: PipelineModel, part: Array) -> object:
    listed = ",".join(f"(array({','.join(f'{each!r}D' for each in row)}))" for row in part.tolist())
    frame = spark.sql(f"SELECT * FROM VALUES {listed} AS given(features)")
    return model.transform(_as_vectors(frame)).select("prediction").collect()


def _as_vectors(frame: DataFrame) -> DataFrame:
    return frame.select(array_to_vector(functions.col("features")).alias("features"))


def _onnx(
    model: PipelineModel, rows: Array, seconds: float
) -> Iterator[tuple[str, dict[str, float]]]:
    """Time a converted model, and tell how far its probabilities are from Spark's."""
    import onnxruntime
    from onnxmltools import convert_sparkml
    from onnxmltools.convert.common.data_types import FloatTensorType

    spark = SparkSession.active()
    types = [("features", FloatTensorType([None, rows.shape[1]]))]
    converted = convert_sparkml(model, "model", types, spark_session=spark)
    session = onnxruntime.InferenceSession(converted.SerializeToString())
    frame = spark.createDataFrame([(DenseVector(row),) for row in rows], ["features"])
    probability = vector_to_array(functions.col("probability")).alias("p")
    right = model.transform(frame).select(probability).collect()
    found = session.run(["probability"], {"features": rows.astype(np.float32)})[0]
    far = float(np.abs(found - np.array([row.p for row in right])).max())
    for size in SIZES:
        part = np.resize(rows, (size, rows.shape[1])).astype(np.float32)
        took = _percentiles(partial(session.run, None, {"features": part}), seconds)
        yield f"converted to ONNX (FP32), {size}", {**took, "difference": far}


def _percentiles(call: Callable[[], object], seconds: float) -> dict[str, float]:
    for _ in range(LEAST_CALLS):
        call()
    took: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(took) < LEAST_CALLS:
        begin = time.perf_counter()
        call()
        took.append((time.perf_counter() - begin) * 1e3)
    took.sort()
    return {"p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)], "calls": len(took)}


if __name__ == "__main__":
    main()
