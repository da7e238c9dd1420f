"""Train the model that every server of the benchmark serves, and write down its right answers.

Run inside an environment that has the model stack: `python model.py MODEL ANSWERS`.
"""

import json
import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def main(model_file: str, answers_file: str) -> None:
    """Write the fitted model and, as JSON, one row of each class with its predicted label."""
    features, labels = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(features, labels)
    joblib.dump(model, model_file)
    rows = features[[0, 50, 100]]
    answers = {"rows": rows.tolist(), "labels": model.predict(rows).tolist()}
    Path(answers_file).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
