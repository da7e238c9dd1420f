"""Fit a detector of drift to half of the breast tumours, and write it down to be served."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from alibi_detect.cd import KSDrift
from alibi_detect.saving import save_detector
from sklearn.datasets import load_breast_cancer

HERE = Path(__file__).parent
FEATURES = ["mean radius", "mean texture", "mean area", "mean smoothness"]


def main() -> None:
    """Take one half as the reference, look at the other, and at a shifted one; save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=HERE / "models" / "tumours",
        help="where to save it",
    )
    folder = parser.parse_args().folder

    tumours = load_breast_cancer(as_frame=True).data[FEATURES].to_numpy()
    tumours = tumours[np.random.default_rng(0).permutation(len(tumours))]
    reference, others = tumours[::2], tumours[1::2]
    shifted = others * [1.0, 1.15, 1.0, 1.0]  # another microscope

    detector = KSDrift(reference, p_val=0.05)
    for name, rows in (("the other half", others), ("shifted", shifted)):
        found = detector.predict(rows)["data"]
        values = ", ".join(f"{value:.2g}" for value in found["p_val"])
        print(f"{name}: drift {bool(found['is_drift'])}, p-values {values}")

    folder.mkdir(parents=True, exist_ok=True)
    save_detector(detector, folder)
    settings = {
        "name": "tumours",
        "implementation": "alibi-detect",
        "parameters": {
            "uri": ".",
            "extra": {
                "feature_names": FEATURES,
                "predict_parameters": {"drift_type": "feature"},
            },
        },
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(f"next: jackfield serve {folder}")


if __name__ == "__main__":
    main()
