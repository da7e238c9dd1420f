"""Train a regressor of how diabetes goes on and write it down as a model that jackfield serves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from catboost import CatBoostRegressor
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent


def main() -> None:
    """Train on three quarters of the patients, score on the rest, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=HERE / "models" / "diabetes",
        help="where to save it",
    )
    folder = parser.parse_args().folder

    patients = load_diabetes(as_frame=True, scaled=False)
    # a category: the data have 1 and 2
    table = patients.data.assign(sex=patients.data["sex"].map({1.0: "one", 2.0: "two"}))
    known, unseen, known_values, unseen_values = train_test_split(
        table, patients.target, random_state=0
    )
    model = CatBoostRegressor(
        iterations=300,
        depth=4,
        learning_rate=0.03,
        cat_features=["sex"],
        random_seed=0,
        verbose=False,
        allow_writing_files=False,
    )
    model.fit(known, known_values)
    print(f"R² is {model.score(unseen, unseen_values):.2f} for {len(unseen)} unseen patients")

    folder.mkdir(parents=True, exist_ok=True)
    model.save_model(str(folder / "model.cbm"))
    settings = {
        "name": "diabetes",
        "implementation": "catboost",
        "parameters": {"uri": "./model.cbm"},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(f"next: jackfield serve {folder}")


if __name__ == "__main__":
    main()
