"""Train a classifier of tumours with this interpreter's packages, and write it down."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

HERE = Path(__file__).parent
FEATURES = ["mean radius", "mean texture", "mean area", "mean smoothness"]


def main() -> None:
    """Train on one half of the tumours, score on the other, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "models", help="where to save it"
    )
    folder = parser.parse_args().folder / "tumours"

    rows, labels = load_breast_cancer(return_X_y=True, as_frame=True)
    known, unseen = np.split(np.random.default_rng(0).permutation(len(rows)), [len(rows) // 2])
    table = rows[FEATURES]
    model = RandomForestClassifier(100, random_state=0).fit(table.iloc[known], labels[known])
    right = model.score(table.iloc[unseen], labels[unseen])
    print(f"NumPy {np.__version__}: right for {right:.0%} of {len(unseen)} unseen tumours")

    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "model.joblib")
    settings = {
        "name": "tumours",
        "implementation": "sklearn",
        "parameters": {"uri": "./model.joblib"},
        "monitors": [{"name": "drift", "detector": "tumours-drift", "window": 80}],
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
