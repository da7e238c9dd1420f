"""Train a classifier, make a detector of drift in its inputs, and have the one watch the other."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent


def main() -> None:
    """Write two models, one folder each: the classifier with its monitor, and the detector."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "models", help="where to save them"
    )
    folder = parser.parse_args().folder

    table, labels = load_breast_cancer(return_X_y=True, as_frame=True)
    known, unseen, known_labels, unseen_labels = train_test_split(
        table, labels, random_state=0, stratify=labels
    )
    model = RandomForestClassifier(100, random_state=0).fit(known.to_numpy(), known_labels)
    right = model.score(unseen.to_numpy(), unseen_labels)
    print(f"right for {right:.0%} of {len(unseen)} unseen samples of tissue")
    names = list(known.columns)

    place = make_folder(folder / "tissue")
    joblib.dump(model, place / "model.joblib")
    write_settings(
        place,
        name="tissue",
        implementation="sklearn",
        parameters={"uri": "./model.joblib"},
        monitors=[{"name": "drift", "detector": "tissue-drift", "window": 100}],
    )

    place = make_folder(folder / "tissue-drift")
    if importlib.util.find_spec("alibi_detect") and importlib.util.find_spec("jackfield_alibi"):
        from alibi_detect.cd import KSDrift
        from alibi_detect.saving import save_detector

        save_detector(KSDrift(known.to_numpy(), p_val=0.01), place / "detector")
        settings: dict[str, object] = {
            "implementation": "alibi-detect",
            "parameters": {"uri": "./detector", "extra": {"feature_names": names}},
        }
    else:
        shutil.copy(HERE / "detector.py", place)
        np.savez(place / "reference.npz", rows=known.to_numpy(), names=names)
        settings = {"implementation": "detector.KSDetector"}
    # out of the callers' way
    write_settings(place, name="tissue-drift", scheduler="process", **settings)
    print(f"next: jackfield serve {folder}")


def make_folder(folder: Path) -> Path:
    """Make a folder, and those above it."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_settings(folder: Path, **settings: object) -> None:
    """Write a model's settings beside it."""
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
