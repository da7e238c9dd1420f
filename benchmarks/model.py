"""Train the models that every server of the benchmark serves; write down their right answers.

Run inside an environment that has the model stack: `python model.py FOLDER`. Each model NAME
becomes `NAME.joblib` and, as JSON, `NAME.json`: questions, each the rows of one request and their
labels.
"""

import json
import sys
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

Array = NDArray[np.float64]


class Predictor(Protocol):
    """What every model here is."""

    def predict(self, x: Array, /) -> NDArray[np.generic]:
        """Give a number for each row."""


def main(folder: str) -> None:
    """Write all models: a small one, a forest of 500 trees, a wide one, and one for the soak."""
    features, labels = load_iris(return_X_y=True)
    three = [features[[row]] for row in (0, 50, 100)]
    _write(folder, "iris", LogisticRegression(max_iter=1000).fit(features, labels), three)
    forest = RandomForestClassifier(500, random_state=5).fit(features, labels)
    _write(folder, "forest", forest, three)

    draw = np.random.default_rng(5)
    wide = draw.standard_normal((1000, 784))
    classes = np.argmax(wide[:, :10], axis=1)
    # few steps: what is learnt does not matter, and the labels are the model's own
    _write(folder, "wide", LogisticRegression(max_iter=20).fit(wide, classes), [wide])

    # a regression, so that no two rows have the same answer
    features, targets = load_diabetes(return_X_y=True)
    rows = draw.standard_normal((4096, features.shape[1])) * 0.05
    _write(folder, "diabetes", LinearRegression().fit(features, targets), [rows])


def _write(folder: str, name: str, model: Predictor, questions: list[Array]) -> None:
    joblib.dump(model, Path(folder, f"{name}.joblib"))
    answered = [
        {"rows": rows.tolist(), "labels": model.predict(rows).tolist()} for rows in questions
    ]
    Path(folder, f"{name}.json").write_text(json.dumps(answered))


if __name__ == "__main__":
    main(*sys.argv[1:])
