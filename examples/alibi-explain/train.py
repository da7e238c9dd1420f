"""Train a classifier of wines, and write it down beside an explainer that tells why it decides."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import joblib
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent


def write_settings(folder: Path, implementation: str, **parameters: Any) -> None:  # noqa: ANN401
    """Name the model after its folder, and say what serves it."""
    settings = {
        "name": folder.name,
        "implementation": implementation,
        "parameters": parameters,
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    """Train on three quarters of the wines; the explainer is built from them when it is loaded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "models", help="where to save both"
    )
    folder = parser.parse_args().folder

    wines = load_wine(as_frame=True)
    known, unseen, known_kinds, unseen_kinds = train_test_split(
        wines.data, wines.target_names[wines.target], random_state=0
    )
    model = RandomForestClassifier(100, random_state=0).fit(known, known_kinds)
    print(f"{model.score(unseen, unseen_kinds):.0%} of {len(unseen)} unseen wines are right")

    (folder / "wines").mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "wines" / "model.joblib")
    write_settings(folder / "wines", "sklearn", uri="./model.joblib")

    (folder / "why").mkdir(parents=True, exist_ok=True)
    known.to_csv(folder / "why" / "known.csv", index=False)
    write_settings(
        folder / "why",
        "alibi-explain",
        uri="./known.csv",
        extra={"explainer_type": "anchor_tabular", "target": "wines", "seed": 0},
    )
    print(f"next: jackfield serve {folder}")


if __name__ == "__main__":
    main()
