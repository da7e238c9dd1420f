"""Measure what bounding the threads of frameworks brings, in the conditions of a server.

    python benchmarks/threads.py [--rounds 3] [--seconds 0.25]

An event loop, a thread for each model, closed-loop clients: what the server does around a predict,
without its wire. Each setting has a process of its own, since a pool that was made once stays; the
settings take turns. It takes 90 s, and longer on a busy machine. Needs the core of this checkout,
scikit-learn, lightgbm and xgboost (the distribution `xgboost-cpu` will do).
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import report
from numpy.typing import NDArray

from jackfield._threads import ThreadBound, available_cores

LIBRARIES = ("numpy", "scipy", "scikit-learn", "lightgbm", "xgboost-cpu", "threadpoolctl")
FEATURES, PIXELS = 30, 784
CLIENTS_A_MODEL = 2
BEAT_S = 0.001
MANY = 16

Array = NDArray[np.float64]
Predict = Callable[[Array], object]
#: Of one case: predicts a second, cores in use, and how late the loop was in ms (99th percentile).
Measured = dict[str, float]


@dataclass(frozen=True)
class Case:
    """Models that are busy at the same time, and the rows of a request."""

    models: tuple[str, ...]
    rows: int

    @property
    def name(self) -> str:
        """What the table calls it."""
        kinds = sorted({*self.models})
        count = f"{len(self.models)} of " if len(kinds) == 1 and len(self.models) > 1 else ""
        return f"{count}{', '.join(kinds)}"


CASES = (
    Case(("trees",), 1),
    Case(("trees",), 1000),
    Case(("lightgbm",), 1000),
    Case(("network",), 32),
    Case(("trees",) * 4, 32),
    Case(("lightgbm", "network", "trees", "xgboost"), 1000),
)
#: Predicts after each of which the process is left alone, to see what its pools burn.
ALONE = (Case(("lightgbm",), 1), Case(("trees",), 32), Case(("network",), 1000))


@dataclass(frozen=True)
class Setting:
    """How many threads the pools may have; None bounds nothing."""

    name: str
    threads: int | None
    environment: dict[str, str]


def settings() -> tuple[Setting, ...]:
    """As installed first: the others are compared with it."""
    cores = available_cores()
    many = {"OMP_NUM_THREADS": str(MANY), "OPENBLAS_NUM_THREADS": str(MANY)}
    bounds = sorted({max(1, cores - 1), max(1, cores // 2), 1}, reverse=True)
    return (
        Setting("as installed", None, {}),
        Setting(f"{MANY} threads", None, many),
        *(Setting(f"bound {threads}", threads, {}) for threads in bounds),
    )


def main() -> int:
    """Train, measure each setting in turn, publish."""
    arguments = _parse_arguments()
    if arguments.child is not None:
        print(json.dumps(asyncio.run(_measure(arguments))))
        return 0
    facts = report.machine_facts()
    facts["Libraries"] = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    facts["Rounds"] = f"{arguments.rounds}, of {arguments.seconds} s for each case"
    results: dict[str, list[dict[str, Measured]]] = {each.name: [] for each in settings()}
    with tempfile.TemporaryDirectory() as folder:
        arguments.folder = Path(folder)
        _train(arguments.folder)
        for turn in range(arguments.rounds):
            order = [*settings()]
            for setting in order[turn % len(order) :] + order[: turn % len(order)]:
                results[setting.name].append(_run_child(setting, arguments))
    report.publish(
        "Threads of frameworks, as installed and bounded",
        [
            "## Predicts a second",
            f"{CLIENTS_A_MODEL} clients a model, a thread a model. `trees` is scikit-learn's "
            "histogram gradient boosting and computes by OpenMP, as LightGBM and XGBoost do; "
            "`network` is its MLP, on 784 features, and computes by BLAS. "
            f"`{MANY} threads` is what is installed on a machine of {MANY} cores where a quota "
            "leaves as many cores as there are here: libraries don't look at quotas.",
            report.table(
                (
                    "models",
                    "rows",
                    "setting",
                    "predicts/s",
                    "÷ as installed",
                    "cores in use",
                    "loop late p99 ms",
                ),
                _lines(results),
            ),
            "## After a predict",
            "Processor time, in ms, that the process takes in the 0.15 s after one predict, in "
            "which it has nothing to do: threads of a pool wait for the next work by spinning.",
            report.table(("model", "rows", *results), _lines_alone(results)),
        ],
        facts=facts,
        versions={},
        raw={"measured": results},
        arguments=arguments,
    )
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each setting")
    parser.add_argument("--seconds", type=float, default=0.25, help="how long a case is measured")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    report.add_arguments(parser, "benchmarks/THREADS.md")
    return parser.parse_args()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def _train(folder: Path) -> None:
    """Train in a process of its own: training fills pools, too."""
    command = [sys.executable, "-c", f"import threads; threads.train({str(folder)!r})"]
    # several threads take minutes, if others run
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = {**os.environ, **one, "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run(command, check=True, env=environment)


def train(folder: str) -> None:
    """Train one model of each kind, with 100 trees or two layers of 256, into a folder."""
    import lightgbm
    import xgboost
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.neural_network import MLPClassifier

    x, pixels = _rows("trees", 2000), _rows("network", 2000)
    y = (x[:, 0] + x[:, 1] > 0).astype(int)
    models = {
        "trees": HistGradientBoostingClassifier(max_iter=100).fit(x, y),
        "lightgbm": lightgbm.LGBMClassifier(n_estimators=100, n_jobs=1, verbose=-1)
        .fit(x, y)
        .booster_,
        "xgboost": xgboost.XGBClassifier(n_estimators=100).fit(x, y).get_booster(),
        # as many rounds as it takes to have weights: how good they are plays no part
        "network": MLPClassifier((256, 256), tol=1e9, n_iter_no_change=1).fit(
            pixels, np.arange(len(pixels)) % 10
        ),
    }
    for name, model in models.items():
        (Path(folder) / name).write_bytes(pickle.dumps(model))


def _rows(model: str, rows: int) -> Array:
    columns = PIXELS if model == "network" else FEATURES
    return np.random.default_rng(5).standard_normal((rows, columns))


def _run_child(setting: Setting, arguments: argparse.Namespace) -> dict[str, Measured]:
    command = [sys.executable, __file__, "--child", str(setting.threads or 0)]
    command += ["--folder", str(arguments.folder), "--seconds", str(arguments.seconds)]
    environment = {**os.environ, **setting.environment}
    child = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE)
    measured: dict[str, Measured] = json.loads(child.stdout)
    return measured


async def _measure(arguments: argparse.Namespace) -> dict[str, Measured]:
    """Measure all cases in this process."""
    bound = ThreadBound(arguments.child) if arguments.child else None

    def load(name: str) -> Predict:
        if bound is not None:
            bound.apply_single()
        return _predict_of(pickle.loads((arguments.folder / name).read_bytes()))

    names = sorted({name for case in CASES for name in case.models})
    models = {name: await asyncio.to_thread(load, name) for name in names}
    if bound is not None:
        bound.refresh()

    def calls(case: Case) -> Iterator[Callable[[], object]]:
        for name in case.models:
            yield _bounded(bound, models[name], _rows(name, case.rows))

    measured = {
        _key("busy", case): await _keep_busy([*calls(case)], arguments.seconds) for case in CASES
    }
    for case in ALONE:
        (call,) = calls(case)
        measured[_key("alone", case)] = {"burnt_ms": await _burn(call)}
    return measured


def _key(kind: str, case: Case) -> str:
    return f"{kind} {case.name} {case.rows}"


def _predict_of(model: object) -> Predict:
    """Find the predict; where the framework has a parameter for threads, it is left alone."""
    names = ("inplace_predict", "predict_proba", "predict")
    return cast("Predict", getattr(model, next(name for name in names if hasattr(model, name))))


def _bounded(bound: ThreadBound | None, predict: Predict, rows: Array) -> Callable[[], object]:
    def call() -> object:
        if bound is not None:
            bound.apply()
        return predict(rows)

    return call


async def _keep_busy(calls: list[Callable[[], object]], seconds: float) -> Measured:
    """Have clients of every model ask without a pause, and look how late the loop gets."""
    loop = asyncio.get_running_loop()
    executors = [ThreadPoolExecutor(1) for _ in calls]
    for executor, call in zip(executors, calls, strict=True):
        await loop.run_in_executor(executor, call)
    late: list[float] = []
    done = 0
    stop = time.perf_counter() + seconds

    async def ask(executor: ThreadPoolExecutor, call: Callable[[], object]) -> None:
        nonlocal done
        while time.perf_counter() < stop:
            await loop.run_in_executor(executor, call)
            done += 1

    async def beat() -> None:
        while (started := time.perf_counter()) < stop:
            await asyncio.sleep(BEAT_S)
            late.append(time.perf_counter() - started - BEAT_S)

    began, began_cpu = time.perf_counter(), time.process_time()
    clients = [
        ask(executor, call)
        for executor, call in zip(executors, calls, strict=True)
        for _ in range(CLIENTS_A_MODEL)
    ]
    await asyncio.gather(beat(), *clients)
    took = time.perf_counter() - began
    cores = (time.process_time() - began_cpu) / took
    for executor in executors:
        executor.shutdown()
    late.sort()
    return {"rate": done / took, "cores": cores, "late_ms": late[int(len(late) * 0.99)] * 1e3}


async def _burn(call: Callable[[], object]) -> float:
    loop = asyncio.get_running_loop()
    burnt = []
    with ThreadPoolExecutor(1) as executor:
        for _ in range(2):
            await loop.run_in_executor(executor, call)
            before = time.process_time()
            await asyncio.sleep(0.15)
            burnt.append((time.process_time() - before) * 1e3)
    return statistics.median(burnt)


def _lines(results: dict[str, list[dict[str, Measured]]]) -> Iterator[tuple[str, ...]]:
    installed = next(iter(results.values()))
    for case in CASES:
        key = _key("busy", case)
        for name, rounds in results.items():
            ratios = [
                here[key]["rate"] / there[key]["rate"]
                for here, there in zip(rounds, installed, strict=True)
            ]
            yield (
                case.name,
                f"{case.rows}",
                name,
                report.spread((each[key]["rate"] for each in rounds), 0),
                report.spread(ratios),
                f"{statistics.median(each[key]['cores'] for each in rounds):.1f}",
                report.spread((each[key]["late_ms"] for each in rounds), 1),
            )


def _lines_alone(results: dict[str, list[dict[str, Measured]]]) -> Iterator[tuple[str, ...]]:
    for case in ALONE:
        key = _key("alone", case)
        cells = (
            report.spread((each[key]["burnt_ms"] for each in rounds), 1)
            for rounds in results.values()
        )
        yield case.name, f"{case.rows}", *cells


if __name__ == "__main__":
    sys.exit(main())
