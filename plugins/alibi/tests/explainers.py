"""Targets of real data, and explainers of them, as folders that a server serves."""

from __future__ import annotations

import dataclasses
import json
import warnings
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from sklearn.datasets import load_diabetes, load_digits, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from pathlib import Path

SEED = 7
OURS, MLSERVERS = "alibi-explain", "mlserver_alibi_explain.AlibiExplainRuntime"

_TEXTS = """
from typing import Annotated

import joblib
import numpy as np
from numpy.typing import NDArray


class Texts:
    def __init__(self, context):
        self._file = context.artifact / "texts.joblib"

    def load(self):
        self._model = joblib.load(self._file)

    def infer(self, text: list[str]) -> Annotated[NDArray[np.int64], (-1,)]:
        return self._model.predict(text)
"""
_GATED = """
from typing import Annotated

import gates
import numpy as np
from numpy.typing import NDArray


class Gated:
    def infer(self, x: Annotated[NDArray[np.float64], (-1, 4)]) -> Annotated[
        NDArray[np.int64], (-1,)
    ]:
        gates.call()
        return (x[:, 2] > 2.5).astype(np.int64)
"""


@dataclasses.dataclass(frozen=True)
class Explained:
    """A model, as scikit-learn has it, and its data."""

    model: Any
    rows: Any
    labels: Any
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Library:
    """A folder of models to serve, and the models themselves."""

    folder: Path
    targets: dict[str, Explained]


def phrases(count=240):
    """Make texts that praise or blame, and the label that tells which."""
    draw = np.random.default_rng(3)
    subjects = ["the film", "this book", "our dinner", "the music", "that play"]
    words = {1: ["great", "lovely", "superb", "charming"], 0: ["awful", "boring", "poor", "dull"]}
    fill = ["was", "really", "quite", "all evening", "in the end"]
    labels = draw.integers(0, 2, count)
    texts = [
        f"{draw.choice(subjects)} was {draw.choice(words[label])} {draw.choice(fill)}"
        for label in labels.tolist()
    ]
    return texts, labels


def write_settings(folder, name, implementation, extra=None, **parameters):
    folder.mkdir(exist_ok=True, parents=True)
    settings = {
        "name": name,
        "implementation": implementation,
        "parameters": {**parameters, **({} if extra is None else {"extra": extra})},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))


def explainer(root, name, kind, rows=None, *, implementation=OURS, uri=None, labels=None, **extra):
    """Write an explainer that is built at load, from rows beside its settings."""
    folder = root / name
    folder.mkdir(parents=True)
    given: dict[str, Any] = {}
    if rows is not None:
        np.save(folder / "rows.npy", rows)
        uri = "./rows.npy"
    if labels is not None:
        np.save(folder / "labels.npy", labels)
        given["reference_labels"] = "labels.npy"
    extra = {"explainer_type": kind, "seed": SEED, **given, **extra}
    write_settings(folder, name, implementation, extra, **({"uri": uri} if uri else {}))
    return folder


def train():
    iris, wine, digits, diabetes = load_iris(), load_wine(), load_digits(), load_diabetes()
    texts, praise = phrases()
    forest = RandomForestClassifier(16, max_depth=5, random_state=0, n_jobs=1)
    return {
        "iris": Explained(
            forest.fit(iris.data, iris.target), iris.data, iris.target, tuple(iris.feature_names)
        ),
        "wine": Explained(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(
                wine.data, wine.target_names[wine.target]
            ),
            wine.data,
            wine.target_names[wine.target],
            tuple(wine.feature_names),
        ),
        "digits": Explained(
            LogisticRegression(max_iter=300).fit(digits.data / 16, digits.target),
            digits.data / 16,
            digits.target,
        ),
        "diabetes": Explained(
            RandomForestRegressor(12, max_depth=5, random_state=0, n_jobs=1).fit(
                diabetes.data, diabetes.target
            ),
            diabetes.data,
            diabetes.target,
            tuple(diabetes.feature_names),
        ),
        "texts": Explained(
            make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, praise),
            texts,
            praise,
        ),
    }


def build_library(root):
    """Write all targets and explainers below a folder; their names say which goes first."""
    targets = train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _write_targets(root, targets)
        _write_explainers(root, targets)
    return Library(root, targets)


def _write_targets(root, targets):
    for name in ("iris", "wine", "digits", "diabetes"):
        # what is compared bit by bit is scikit-learn's own, whatever is installed
        write_settings(root / name, name, "sklearn", {"accelerate": "off"})
        joblib.dump(targets[name].model, root / name / "model.joblib")
    write_settings(root / "texts", "texts", "own_texts.Texts")
    (root / "texts" / "own_texts.py").write_text(_TEXTS)
    joblib.dump(targets["texts"].model, root / "texts" / "texts.joblib")
    write_settings(root / "gated", "gated", "own_gated.Gated")
    (root / "gated" / "own_gated.py").write_text(_GATED)


def _write_explainers(root, targets):
    iris, wine = targets["iris"], targets["wine"]
    diabetes = targets["diabetes"]
    named = {"target": "iris", "feature_names": list(iris.names)}
    # one before its target, one after it, as folders are read
    explainer(root, "a-anchor", "anchor_tabular", iris.rows, **named)
    explainer(
        root, "z-anchor-wine", "anchor_tabular", wine.rows, target="wine",
        feature_names=list(wine.names),
    )  # fmt: skip
    explainer(root, "shap", "kernel_shap", iris.rows[::10], library="alibi", **named)
    explainer(root, "ale", "ale", iris.rows, **named)
    explainer(root, "ale-diabetes", "ale", diabetes.rows, target="diabetes",
              feature_names=list(diabetes.names))  # fmt: skip
    explainer(
        root, "dependence", "partial_dependence", wine.rows[::4], target="wine",
        feature_names=list(wine.names), explain_parameters={"grid_resolution": 8},
    )  # fmt: skip
    explainer(root, "variance", "partial_dependence_variance", iris.rows, **named)
    explainer(
        root, "importance", "permutation_importance", iris.rows, labels=iris.labels,
        explain_parameters={"n_repeats": 5}, **named,
    )  # fmt: skip
    explainer(root, "words", "anchor_text", target="texts")
    explainer(
        root, "image", "anchor_image", target="digits",
        init_parameters={
            "image_shape": [8, 8, 1],
            "segmentation_fn": "slic",
            "segmentation_kwargs": {"n_segments": 6, "compactness": 1, "sigma": 0.5,
                                    "start_label": 0},
        },
    )  # fmt: skip
    explainer(root, "gated-anchor", "anchor_tabular", iris.rows, target="gated",
              feature_names=list(iris.names))  # fmt: skip
    _save(root / "saved-anchor", iris)
    write_settings(
        root / "saved-anchor", "saved-anchor", OURS, {"target": "iris", "seed": SEED},
    )  # fmt: skip
    _save(root / "mlserver-anchor" / "explainer", iris)
    write_settings(
        root / "mlserver-anchor",
        "mlserver-anchor",
        MLSERVERS,
        {"explainer_type": "anchor_tabular", "target": "iris", "seed": SEED},
        uri="./explainer",
    )


def anchor_of(explained, dtype=np.float32):
    """Make the explainer as a user of Alibi does."""
    from alibi.explainers import AnchorTabular

    made = AnchorTabular(explained.model.predict, list(explained.names), seed=SEED, dtype=dtype)
    return made.fit(explained.rows)


def _save(folder, explained):
    folder.mkdir(parents=True)
    anchor_of(explained).save(folder)
