"""Ask the served classifier about tissue; after two thirds, the images come from another device."""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from jackfield.client import Client

ROWS = 20


def main() -> None:
    """Send requests of 20 rows each, and say where the report is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default="http://localhost:8080", help="the server's")
    parser.add_argument("--requests", type=int, default=150, help="how many are sent")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two of them")
    options = parser.parse_args()

    table, labels = load_breast_cancer(return_X_y=True, as_frame=True)
    _, unseen, _, _ = train_test_split(table, labels, random_state=0, stratify=labels)
    smoothness = [name for name in unseen if "smoothness" in name]
    chance = np.random.default_rng(0)
    with Client(options.url) as client:
        tissue = client.model("tissue")
        for place in range(options.requests):
            rows = unseen.sample(ROWS, random_state=chance.integers(2**32)).copy()
            if place >= options.requests * 2 // 3:
                rows["mean texture"] += 4.0  # the drift
                rows[smoothness] *= 1.2
            tissue.infer(rows.to_numpy())
            time.sleep(options.pause)
    print(f"look at {options.url}/v2/models/tissue/monitors/report")


if __name__ == "__main__":
    main()
