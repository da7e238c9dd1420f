"""Train a Spark pipeline that tells irises apart and save it as a model that jackfield serves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import IndexToString, StandardScaler, StringIndexer, VectorAssembler
from pyspark.sql import SparkSession
from sklearn.datasets import load_iris

HERE = Path(__file__).parent
COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


def main() -> None:
    """Train on three quarters of the flowers, score on the rest, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "models" / "iris", help="where to save it"
    )
    folder = parser.parse_args().folder

    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    iris = load_iris()
    names = [str(each) for each in iris.target_names]
    rows = [
        (*map(float, row), names[kind]) for row, kind in zip(iris.data, iris.target, strict=True)
    ]
    table = spark.createDataFrame(rows, [*COLUMNS, "species"]).coalesce(1)
    known, unseen = table.randomSplit([0.75, 0.25], seed=0)

    labels = StringIndexer(
        inputCol="species", outputCol="label", stringOrderType="alphabetAsc"
    ).fit(table)
    pipeline = Pipeline(
        stages=[
            labels,
            VectorAssembler(inputCols=COLUMNS, outputCol="measured"),
            StandardScaler(inputCol="measured", outputCol="features"),
            LogisticRegression(maxIter=20),
            IndexToString(inputCol="prediction", outputCol="species_name", labels=labels.labels),
        ]
    )
    model = pipeline.fit(known)
    score = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(
        model.transform(unseen)
    )
    print(f"{score:.0%} of {unseen.count()} unseen flowers are told right")

    folder.mkdir(parents=True, exist_ok=True)
    model.write().overwrite().save((folder / "model").absolute().as_uri())
    settings = {
        "name": "iris",
        "implementation": "mllib",
        "parameters": {"uri": "./model", "extra": {"outputs": ["species_name"]}},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    spark.stop()
    print(f"next: jackfield serve {folder}")


if __name__ == "__main__":
    main()
