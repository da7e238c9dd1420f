"""Train a classifier of tumours with missing values and save it with its settings."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import xgboost
from sklearn.datasets import load_breast_cancer

HERE = Path(__file__).parent


def main() -> None:
    """Train on three quarters of the tumours, score on the rest, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "models" / "tumours", help="where to save it"
    )
    folder = parser.parse_args().folder

    data = load_breast_cancer()
    rng = np.random.default_rng(0)
    features = np.where(rng.random(data.data.shape) < 0.05, np.nan, data.data)
    is_known = rng.random(len(features)) < 0.75
    names = [name.replace(" ", "_") for name in data.feature_names.tolist()]
    known = xgboost.DMatrix(features[is_known], data.target[is_known], feature_names=names)
    unseen = xgboost.DMatrix(features[~is_known], feature_names=names)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, known, 40)
    right = (booster.predict(unseen) > 0.5) == data.target[~is_known]
    print(f"right for {right.mean():.0%} of {len(right)} unseen tumours")

    folder.mkdir(parents=True, exist_ok=True)
    booster.save_model(folder / "model.ubj")
    settings = {
        "name": "tumours",
        "implementation": "xgboost",
        "parameters": {
            "uri": "./model.ubj",
            "extra": {"labels": data.target_names.tolist()},
        },
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(f"next: jackfield serve {folder}")


if __name__ == "__main__":
    main()
