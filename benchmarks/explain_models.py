"""Train models and save explainers of them; explain in a loop, without an explainer's server.

Run inside an environment that has Alibi:

    python explain_models.py save FOLDER
    python explain_models.py explain FOLDER [URL OF THE MODELS]

`explain` reads `CASE SECONDS` from the standard input, line by line, and writes a line of JSON for
each. Without a URL the explainer calls scikit-learn itself; with one it calls the model there as
MLServer's runtime does, with that runtime's own functions.
"""

import contextlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

SEED = 3
MODELS = ("iris", "forest")
KINDS = ("anchor_tabular", "kernel_shap")
BACKGROUND_ROWS = 100
#: Rows that are explained again and again, all as often.
CYCLE = 5

Predictor = Callable[[NDArray[Any]], NDArray[Any]]


def main(what: str, folder: str, url: str = "") -> None:
    """Save, or explain what the standard input asks for."""
    warnings.simplefilter("ignore")
    logging.disable()
    if what == "save":
        save(Path(folder))
        return
    explainers = {
        f"{model}-{kind}": load(Path(folder), model, kind, url)
        for model in MODELS
        for kind in KINDS
    }
    rows = np.array(json.loads(Path(folder, "rows.json").read_text()))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        case, seconds = line.split()
        explainer, counter = explainers[case]
        print(json.dumps(measure(explainer, counter, rows, float(seconds))), flush=True)


def save(folder: Path) -> None:
    """Train both models and fit both explainers of each; write what they say of some rows."""
    features, labels = load_iris(return_X_y=True)
    draw = np.random.default_rng(SEED)
    rows = features[draw.permutation(len(features))]
    (folder / "rows.json").write_text(json.dumps(rows.tolist()))
    models = {
        "iris": LogisticRegression(max_iter=1000),
        "forest": RandomForestClassifier(100, random_state=5),
    }
    background = features[draw.permutation(len(features))[:BACKGROUND_ROWS]]
    np.save(folder / "background.npy", background)
    expected = {}
    for name, model in models.items():
        joblib.dump(model.fit(features, labels), folder / f"{name}.joblib")
        expected[f"{name}-anchor_tabular"] = model.predict(rows).tolist()
        anchors = _anchors(model.predict).fit(features, disc_perc=(25, 50, 75))
        anchors.save(folder / f"{name}-anchor_tabular")
        shap = _shap(model.predict_proba).fit(background)
        shap.save(folder / f"{name}-kernel_shap")
        values = shap.explain(rows[:3], silent=True).shap_values
        expected[f"{name}-kernel_shap"] = np.stack(values, axis=1).tolist()
    (folder / "expected.json").write_text(json.dumps(expected))


def _anchors(predict: Predictor) -> Any:  # noqa: ANN401  Alibi has no types
    from alibi.explainers import AnchorTabular

    return AnchorTabular(predict, feature_names=load_iris().feature_names, seed=SEED)


def _shap(predict: Predictor) -> Any:  # noqa: ANN401  the same
    from alibi.explainers import KernelShap

    return KernelShap(predict, link="identity", task="classification", seed=SEED)


class _Counter:
    """Calls a predictor, counts and times."""

    def __init__(self, predict: Predictor) -> None:
        self._predict = predict
        self.calls = 0
        self.rows = 0
        self.seconds = 0.0

    def __call__(self, rows: NDArray[Any]) -> NDArray[Any]:
        self.calls += 1
        self.rows += len(rows)
        started = time.perf_counter()
        predicted = self._predict(rows)
        self.seconds += time.perf_counter() - started
        return predicted


def load(folder: Path, model: str, kind: str, url: str) -> tuple[Any, _Counter]:
    """Load a saved explainer with a predictor: the model's file, or a server."""
    from alibi.saving import load_explainer

    output = "predict_proba" if kind == "kernel_shap" else "predict"
    if url:
        counter = _Counter(_mlserver_way(f"{url}/v2/models/{model}/infer", output))
    else:
        counter = _Counter(getattr(joblib.load(folder / f"{model}.joblib"), output))
    return load_explainer(str(folder / f"{model}-{kind}"), predictor=counter), counter


def _mlserver_way(url: str, output: str) -> Predictor:
    """Call a model as the runtime does: `_infer_impl` of its black boxes, without the class."""
    from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
    from mlserver_alibi_explain.common import (  # type: ignore[import-not-found]
        construct_metadata_url,
        remote_metadata,
        remote_predict,
        to_v2_inference_request,
    )

    metadata = remote_metadata(construct_metadata_url(url), ssl_verify_path="")

    def predict(rows: NDArray[Any]) -> NDArray[Any]:
        with contextlib.redirect_stdout(None):  # it prints what it asks for
            request = to_v2_inference_request(rows, metadata, output)
        response = remote_predict(request, url, ssl_verify_path="")
        decoded: NDArray[Any] = NumpyCodec.decode_output(response.outputs[0])
        is_column = decoded.ndim > 1 and decoded.shape[-1] == 1
        return decoded.squeeze(axis=-1) if is_column else decoded

    return predict


def measure(
    explainer: Any,  # noqa: ANN401  Alibi has no types
    counter: _Counter,
    rows: NDArray[Any],
    seconds: float,
) -> dict[str, float]:
    """Explain row after row; gives how many in which time, and what they cost at the model."""
    name = type(explainer).__name__
    options = {"silent": True} if name == "KernelShap" else {}
    calls, asked, spent = counter.calls, counter.rows, counter.seconds
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or done % CYCLE:
        row = rows[done % CYCLE]
        explainer.explain(row[np.newaxis] if name == "KernelShap" else row, **options)
        done += 1
    return {
        "explanations": done,
        "seconds": time.perf_counter() - started,
        "calls": counter.calls - calls,
        "rows": counter.rows - asked,
        "model_seconds": counter.seconds - spent,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
