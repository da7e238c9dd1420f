"""Train a classifier of tumours and write it down as a model that jackfield serves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import lightgbm
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent


def main() -> None:
    """Train on three quarters of the tumours, score on the rest, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "models" / "tumours", help="where to save it"
    )
    folder = parser.parse_args().folder

    tumours = load_breast_cancer()
    known, unseen, known_kinds, unseen_kinds = train_test_split(
        tumours.data, tumours.target, random_state=0, stratify=tumours.target
    )
    names = [str(each).replace(" ", "_") for each in tumours.feature_names]
    booster = lightgbm.train(
        {"objective": "binary", "num_threads": 1, "verbose": -1},
        lightgbm.Dataset(known, known_kinds, feature_name=names),
        num_boost_round=60,
    )
    right = np.mean((booster.predict(unseen) > 0.5) == unseen_kinds)
    print(f"right for {right:.0%} of {len(unseen)} unseen tumours")

    folder.mkdir(parents=True, exist_ok=True)
    booster.save_model(folder / "model.txt")
    settings = {
        "name": "tumours",
        "implementation": "lightgbm",
        "parameters": {
            "uri": "./model.txt",
            # a booster knows the numbers of its classes only
            "extra": {"labels": [str(each) for each in tumours.target_names]},
        },
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(f"next: jackfield serve {folder}")


if __name__ == "__main__":
    main()
