"""Train a classifier of wines and save it with MLflow, as a model that jackfield serves."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent
COLUMNS = ["alcohol", "color_intensity", "proline"]


def main() -> None:
    """Train on three quarters of the wines, score on the rest, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "models" / "wines", help="where to save it"
    )
    folder = parser.parse_args().folder

    wine = load_wine(as_frame=True)
    known, unseen, known_kinds, unseen_kinds = train_test_split(
        wine.data[COLUMNS], wine.target, random_state=0, stratify=wine.target
    )
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(known, known_kinds)
    print(f"right for {model.score(unseen, unseen_kinds):.0%} of {len(unseen)} unseen wines")

    shutil.rmtree(folder, ignore_errors=True)
    mlflow.sklearn.save_model(
        model,
        folder,
        # what a request is checked against, and what the metadata tell
        signature=infer_signature(known, model.predict(known)),
        # shown in the documentation, and asked once when the model loads
        input_example=known.head(2),
        pip_requirements=["scikit-learn", "skops"],
    )
    print(f"next: jackfield serve {folder}")


if __name__ == "__main__":
    main()
