"""SHAP values by shap, by Alibi and by the boosters themselves, in one process and one run.

    python benchmarks/shap_values.py [--rounds 9] [--milliseconds 60]

Needs the core and the plugin `alibi` of this checkout, shap, scikit-learn, XGBoost, LightGBM and
CatBoost; Alibi is measured where it is installed. What is timed is the plugin's engine: it lays the
values out, ranks the features and predicts, as for a request. All engines of a row explain the same
rows of the same model and run in turn, so that a machine that drifts slows all of them.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import logging
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from timeit import Timer
from typing import Any, Literal

import joblib
import numpy as np
import report
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from jackfield import Datatype, ModelLoadError, ModelMetadata, TensorMetadata
from jackfield_alibi._explain._engines import build
from jackfield_alibi._explain._explanation import Engine, Explanation, Material, Progress
from jackfield_alibi._explain._options import ExplainOptions

LIBRARIES = ("numpy", "shap", "alibi", "scikit-learn", "xgboost-cpu", "lightgbm", "catboost")
WAYS: tuple[Literal["shap", "alibi", "booster"], ...] = ("shap", "alibi", "booster")
SIZES = (1, 100)
TREES = 100
#: Rows of the background of KernelShap, and of interventional TreeShap.
BACKGROUND = 50


@dataclass(frozen=True)
class Work:
    """A model and how it is explained."""

    name: str
    kind: str
    rows: Any
    file: Path | None = None
    target: Any = None
    reference: Any = None


class Called:
    """A model that is asked in process, without a server."""

    name, input_name, output_name = "model", "x", "y"

    def __init__(self, model: Any) -> None:  # noqa: ANN401  an estimator
        self.predict = model.predict_proba
        tensor = [TensorMetadata("x", Datatype.FP64, [-1, -1])]
        self.metadata = ModelMetadata(inputs=tensor, outputs=tensor)


def main() -> int:
    """Measure everything."""
    arguments = _parse_arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    facts = report.machine_facts()
    facts["Libraries"] = ", ".join(_versions())
    facts["Models"] = f"{TREES} trees each; a background has {BACKGROUND} rows"
    facts["Rounds"] = f"{arguments.rounds}, of about {arguments.milliseconds} ms for each library"
    rows: list[tuple[str, ...]] = []
    refused: list[tuple[str, str, str]] = []
    raw: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-shap-") as folder:
        for work in _works(Path(folder)):
            engines = dict(_engines(work, refused))
            for size in SIZES:
                times, differences = _measure(work, engines, size, arguments)
                raw[f"{work.name}, {size}"] = times
                rows += _lines(work, size, times, differences)
    columns = (
        "model", "rows", "computed by", "min ms", "median ms", "first ÷ this",
        "largest difference from the first",
    )  # fmt: skip
    sections = ["## Times of one request's explanation", report.table(columns, rows)]
    if refused:
        sections += ["## Refused", report.table(("model", "library", "why"), refused)]
    report.publish(
        "SHAP values", sections, facts=facts, versions={}, raw={"ms": raw}, arguments=arguments
    )
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="turns of each library")
    parser.add_argument(
        "--milliseconds", type=float, default=60, help="about how long a turn takes"
    )
    report.add_arguments(parser, "benchmarks/SHAP.md")
    return parser.parse_args()


def _versions() -> Iterator[str]:
    for name in LIBRARIES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"no {name}"


def _works(folder: Path) -> Iterator[Work]:
    import catboost
    import lightgbm
    import xgboost

    iris, cancer = load_iris(), load_breast_cancer()
    trained = {
        "forest, iris": (RandomForestClassifier(TREES, random_state=0), iris),
        "forest, tumours": (RandomForestClassifier(TREES, random_state=0), cancer),
        "XGBoost, tumours": (xgboost.XGBClassifier(n_estimators=TREES, n_jobs=1), cancer),
        "LightGBM, tumours": (
            lightgbm.LGBMClassifier(n_estimators=TREES, n_jobs=1, verbose=-1),
            cancer,
        ),
        "CatBoost, tumours": (
            catboost.CatBoostClassifier(
                iterations=TREES, verbose=0, thread_count=1, allow_writing_files=False
            ),
            cancer,
        ),
    }
    for place, (name, (model, data)) in enumerate(trained.items()):
        model.fit(data.data, data.target)
        file = folder / f"{place}.joblib"
        joblib.dump(model, file)
        yield Work(f"TreeShap: {name}", "tree_shap", data.data, file=file)
        if name == "forest, tumours":
            reference = data.data[:: len(data.data) // BACKGROUND][:BACKGROUND]
            yield Work(
                f"TreeShap, background: {name}", "tree_shap", data.data, file, None, reference
            )
    asked = {
        "logistic, iris": LogisticRegression(max_iter=5000).fit(iris.data, iris.target),
        "forest, iris": trained["forest, iris"][0],
    }
    for name, model in asked.items():
        reference = iris.data[:: len(iris.data) // BACKGROUND][:BACKGROUND]
        yield Work(f"KernelShap: {name}", "kernel_shap", iris.data, None, Called(model), reference)


def _engines(work: Work, refused: list[tuple[str, str, str]]) -> Iterator[tuple[str, Engine]]:
    for way in WAYS:
        if way == "alibi" and importlib.util.find_spec("alibi") is None:
            continue
        if way == "booster" and (work.kind == "kernel_shap" or "forest" in work.name):
            continue
        options = ExplainOptions(explainer_type=work.kind, library=way)
        material = Material(
            kind=work.kind,
            options=options,
            folder=Path(),
            saved=None,
            model_file=work.file,
            target=work.target,
            reference=work.reference,
            reference_labels=None,
            feature_names=(),
            categorical_names={},
            target_names=(),
            threads=1,
            logger=logging.getLogger("benchmark"),
        )
        try:
            yield way, build(material)
        except ModelLoadError as error:
            refused.append((work.name, way, str(error).partition("; set")[0].partition("(")[0]))


def _explain(engine: Engine, rows: Any) -> Explanation:  # noqa: ANN401  an array
    # Alibi's bar of progress would be most of its time
    asked = {"silent": True} if "silent" in engine.parameters else {}
    return engine.explain(rows, asked, Progress(rows=len(rows)))


def _measure(
    work: Work, engines: dict[str, Engine], size: int, arguments: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Compare what all engines give, then time them in turn; milliseconds for each round."""
    if work.kind == "kernel_shap":
        size = min(size, 10)
    rows = work.rows[:size]
    found = {name: _values(_explain(engine, rows)) for name, engine in engines.items()}
    first = next(iter(found.values()))
    differences = {name: float(np.abs(each - first).max()) for name, each in found.items()}
    timers = {
        name: Timer(functools.partial(_explain, engine, rows)) for name, engine in engines.items()
    }
    calls = {
        name: max(1, round(arguments.milliseconds / 1e3 / min(timer.repeat(2, 1))))
        for name, timer in timers.items()
    }
    times: dict[str, list[float]] = {name: [] for name in timers}
    names = [*timers]
    for turn in range(arguments.rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(timers[name].timeit(calls[name]) / calls[name] * 1e3)
    return times, differences


def _values(explanation: Explanation) -> Any:  # noqa: ANN401  an array
    found = [np.asarray(each, np.float64) for each in explanation.data["shap_values"]]
    # of two classes some give one number, the second class's
    return np.stack(found[1:] if len(found) == len("ab") else found)


def _lines(
    work: Work, size: int, times: dict[str, list[float]], differences: dict[str, float]
) -> Iterator[tuple[str, ...]]:
    size = min(size, 10) if work.kind == "kernel_shap" else size
    first = next(iter(times.values()), [])
    for name, values in times.items():
        ratios = [one / other for one, other in zip(first, values, strict=True)]
        yield (
            work.name,
            f"{size}",
            name,
            f"{min(values):,.2f}",
            f"{statistics.median(values):,.2f}",
            f"{statistics.median(ratios):.2f}",
            f"{differences[name]:.1e}",
        )


if __name__ == "__main__":
    sys.exit(main())
