"""Train a classifier of irises and write it down as a model that jackfield serves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent


def main() -> None:
    """Train on three quarters of the flowers, score on the rest, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "models" / "iris", help="where to save it"
    )
    folder = parser.parse_args().folder

    iris = load_iris()
    labels = iris.target_names[iris.target]
    known, unseen, known_labels, unseen_labels = train_test_split(
        iris.data, labels, random_state=0, stratify=labels
    )
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(known, known_labels)
    print(f"right for {model.score(unseen, unseen_labels):.0%} of {len(unseen)} unseen flowers")

    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "model.joblib")
    settings = {
        "name": "iris",
        "implementation": "sklearn",
        "parameters": {"uri": "./model.joblib"},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(f"next: jackfield serve {folder}")


if __name__ == "__main__":
    main()
