"""Train a classifier of wines and write it down as a model that jackfield serves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent


def main() -> None:
    """Train on three quarters of the wines, score on the rest, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "models" / "wines", help="where to save it"
    )
    folder = parser.parse_args().folder

    wine = load_wine()
    labels = wine.target_names[wine.target]
    known, unseen, known_labels, unseen_labels = train_test_split(
        wine.data, labels, random_state=0, stratify=labels
    )
    model = RandomForestClassifier(100, random_state=0).fit(known, known_labels)
    print(f"right for {model.score(unseen, unseen_labels):.0%} of {len(unseen)} unseen wines")

    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "model.joblib")
    # rows that the accelerated form has to answer as the forest does, see the README
    np.save(folder / "samples.npy", unseen)
    settings = {
        "name": "wines",
        "implementation": "sklearn",
        "parameters": {"uri": "./model.joblib", "extra": {"samples": "samples.npy"}},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(f"next: jackfield serve {folder}")


if __name__ == "__main__":
    main()
