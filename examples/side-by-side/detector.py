# /// script
# requires-python = "==3.11.*"
# dependencies = ["alibi-detect>=0.11", "scikit-learn"]
# ///
"""Fit a detector of drift to the same tumours with packages of its own: `uv run detector.py`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from alibi_detect.cd import KSDrift
from alibi_detect.saving import save_detector
from sklearn.datasets import load_breast_cancer

HERE = Path(__file__).resolve().parent
#: The plugin of this checkout; elsewhere the requirement is `jackfield-alibi[detect]`.
PLUGIN = HERE.parents[1] / "plugins" / "alibi"
FEATURES = ["mean radius", "mean texture", "mean area", "mean smoothness"]


def main() -> None:
    """Take the half that the classifier is trained on as the reference, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=HERE / "models", help="where to save it"
    )
    folder = parser.parse_args().folder.resolve() / "tumours-drift"

    table = load_breast_cancer(as_frame=True).data[FEATURES].to_numpy()
    known, unseen = np.split(np.random.default_rng(0).permutation(len(table)), [len(table) // 2])
    detector = KSDrift(table[known], p_val=0.01)
    found = detector.predict(table[unseen])["data"]
    print(f"NumPy {np.__version__}: drift in the other half: {bool(found['is_drift'])}")

    folder.mkdir(parents=True, exist_ok=True)
    save_detector(detector, folder / "detector")
    plugin = Path(os.path.relpath(PLUGIN, folder)).as_posix()
    settings = {
        "name": "tumours-drift",
        "implementation": "alibi-detect",
        "environment": {
            "requirements": [f"{plugin}[detect]", "numpy<2"],
            "python": "3.11",
        },
        "parameters": {"uri": "./detector", "extra": {"feature_names": FEATURES}},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(f"next: jackfield serve {folder.parent}")


if __name__ == "__main__":
    main()
