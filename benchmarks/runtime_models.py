"""Train the models that `runtimes.py` serves, and load one as the bare framework does.

    python runtime_models.py train NAME FILE
    python runtime_models.py load NAME FILE

Run inside an environment that has the framework. `train` writes the model, and as JSON beside it
(`.questions.json`) questions with the framework's own answers. `load` says when the model is
loaded, answers one row, and says how much memory that took.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
#: An object of a framework; its library has no types that could be named here.
Framework: TypeAlias = Any

TREES = 100
#: Rows of the large request.
MANY = 1000
#: Rows on a split of the forest or beside one, where a form in other numbers would go wrong first.
ON_SPLITS = 3000


class Kind(NamedTuple):
    """How a model is trained and saved, and loaded by who only wants to predict."""

    train: Callable[[Array, NDArray[np.int64]], Framework]
    save: Callable[[Framework, Path], None]
    load: Callable[[Path], Framework]
    answer: Callable[[Framework, Array], Framework]
    """What MLServer's `predict` gives."""
    answer_loaded: Callable[[Framework, Array], Framework]


def _predict(model: Framework, rows: Array) -> Framework:
    return model.predict(rows)


def _joblib_dump(model: Framework, file: Path) -> None:
    import joblib

    joblib.dump(model, file)


def _joblib_load(file: Path) -> Framework:
    import joblib

    return joblib.load(file)


def _train_logistic(x: Array, y: NDArray[np.int64]) -> Framework:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)


def _train_forest(x: Array, y: NDArray[np.int64]) -> Framework:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(TREES, random_state=5).fit(x, y)


def _train_xgboost(x: Array, y: NDArray[np.int64]) -> Framework:
    import xgboost

    return xgboost.XGBClassifier(n_estimators=TREES, random_state=5).fit(x, y)


def _load_xgboost(file: Path) -> Framework:
    import xgboost

    return xgboost.Booster(model_file=str(file))


def _answer_xgboost(model: Framework, rows: Array) -> Framework:
    return model.inplace_predict(rows)


def _train_lightgbm(x: Array, y: NDArray[np.int64]) -> Framework:
    import lightgbm

    # one thread: several take minutes, if others run
    wrapper = lightgbm.LGBMClassifier(n_estimators=TREES, random_state=5, n_jobs=1, verbose=-1)
    return wrapper.fit(x, y).booster_


def _load_lightgbm(file: Path) -> Framework:
    import lightgbm

    return lightgbm.Booster(model_file=file)


def _train_catboost(x: Array, y: NDArray[np.int64]) -> Framework:
    import catboost

    classifier = catboost.CatBoostClassifier(
        iterations=TREES, random_seed=5, verbose=False, allow_writing_files=False
    )
    return classifier.fit(x, y)


def _load_catboost(file: Path) -> Framework:
    import catboost

    return catboost.CatBoost().load_model(str(file))


def _save(model: Framework, file: Path) -> None:
    model.save_model(str(file))


KINDS = {
    "logistic": Kind(_train_logistic, _joblib_dump, _joblib_load, _predict, _predict),
    "forest": Kind(_train_forest, _joblib_dump, _joblib_load, _predict, _predict),
    "xgboost": Kind(_train_xgboost, _save, _load_xgboost, _predict, _answer_xgboost),
    "lightgbm": Kind(_train_lightgbm, _save, _load_lightgbm, _predict, _predict),
    "catboost": Kind(_train_catboost, _save, _load_catboost, _predict, _predict),
}


def train(name: str, path: str) -> None:
    """Train on the tumours that scikit-learn brings; write the model, questions and answers."""
    from sklearn.datasets import load_breast_cancer

    kind, file = KINDS[name], Path(path)
    features, labels = load_breast_cancer(return_X_y=True)
    model = kind.train(features, labels)
    kind.save(model, file)

    def question(rows: Array) -> dict[str, object]:
        answers = np.asarray(kind.answer(model, rows)).ravel()
        return {"rows": rows.tolist(), "labels": answers.tolist()}

    draw = np.random.default_rng(5)
    written: dict[str, object] = {
        "one": [question(features[[row]]) for row in (0, 19, 100, 300, 568)],
        "many": question(features[draw.integers(len(features), size=MANY)]),
    }
    if name == "forest":
        rows = np.concatenate([features, _on_splits(model, features, draw)])
        probabilities = model.predict_proba(rows).ravel().tolist()
        written["evidence"] = {**question(rows), "probabilities": probabilities}
    file.with_suffix(".questions.json").write_text(json.dumps(written))


def _on_splits(forest: Framework, features: Array, draw: np.random.Generator) -> Array:
    """Move one number of real rows onto a threshold of a tree, or to a number next to it."""
    rows = features[draw.integers(len(features), size=ON_SPLITS)]
    for number, row in enumerate(rows):
        tree = draw.choice(forest.estimators_).tree_
        node = draw.choice(np.flatnonzero(tree.children_left >= 0))
        at = np.float64(tree.threshold[node])
        beside = (
            at,
            np.nextafter(at, -np.inf),
            np.nextafter(at, np.inf),
            np.float64(np.nextafter(np.float32(at), np.float32(-np.inf))),
            np.float64(np.nextafter(np.float32(at), np.float32(np.inf))),
        )
        row[tree.feature[node]] = beside[number % len(beside)]
    return rows


def load(name: str, path: str) -> None:
    """Load the model and say so; answer one row and print the resident memory in MiB."""
    kind, file = KINDS[name], Path(path)
    model = kind.load(file)
    print("loaded", flush=True)
    # a server has answered by the time that it is ready, too
    question = json.loads(file.with_suffix(".questions.json").read_text())["one"][0]
    kind.answer_loaded(model, np.array(question["rows"]))
    del question
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    print(pages * os.sysconf("SC_PAGE_SIZE") / 1024**2, flush=True)


if __name__ == "__main__":
    {"train": train, "load": load}[sys.argv[1]](*sys.argv[2:])
