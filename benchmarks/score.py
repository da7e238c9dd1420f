"""Measure batch scoring: the Spark engine beside the local one and a bare loop, on the same rows.

    python benchmarks/score.py [--rows 10000000] [--rounds 1] [--models logistic,forest]

Rows like those of iris, four features and an id, are generated once, the same each time, as Parquet
files. Each engine runs in a process of its own; memory is the largest sum over it and what it
started (the JVM, Python workers), in which what processes share counts once. After each run the ids
and the predictions that it wrote are read and compared with those of the loop, all of them.

10 million rows take a few minutes and 1 GB of disk. Needs the core of this checkout with its extra
`score`, the plugins sklearn and mllib, and Java.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import report
from environments import note
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

LIBRARIES = ("jackfield", "pyspark", "pyarrow", "scikit-learn", "numpy")
FEATURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
FILES = 8
GROUP_ROWS = 131_072
BATCH_ROWS = 8192
LOOK_S = 0.1
ENGINES = {
    "loop": "the floor: `pyarrow`'s batches, `predict`, `ParquetWriter`; one process",
    "loop-cores": "the same in a process for each core, a file each",
    "local": "`jackfield score`",
    "spark": "`jackfield score --engine spark`, `local[*]`, all included",
}

Facts = dict[str, Any]


def main() -> int:
    """Generate, run, compare, write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--models", default="logistic", help="logistic, forest")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--folder", type=Path, help="where the tables lie; removed by default")
    report.add_arguments(parser, "benchmarks/SCORE.md")
    arguments = parser.parse_args()
    # the loop is always there: what it predicts is what all should
    engines = ["loop", *(each for each in arguments.engines.split(",") if each != "loop")]
    facts = report.machine_facts()
    versions = (f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    facts["Libraries"] = ", ".join(versions)
    facts["Rows"] = f"{arguments.rows:,}, in {FILES} Parquet files"
    facts["Rounds"] = f"{arguments.rounds}"
    sections = []
    raw: dict[str, dict[str, list[Facts]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        table = generate(folder / f"rows-{arguments.rows}", arguments.rows)
        for name in arguments.models.split(","):
            model = train(folder, name)
            found = measure(engines, model, table, folder, arguments)
            raw[name] = found
            sections += [f"## {name}", describe(found, arguments.rows)]
    report.publish(
        "Batch scoring: local and Spark",
        [_LEGEND, *sections],
        facts=facts,
        versions={},
        raw={**raw},
        arguments=arguments,
    )
    runs = (run for found in raw.values() for each in found.values() for run in each)
    return 0 if all(run["is_right"] for run in runs) else 1


_LEGEND = "\n".join(
    [
        "Each engine reads the same files and writes the ids and the predicted classes as Parquet.",
        "All of what an engine wrote was read again: `right` counts the rows whose id is there",
        "once, with the class that the bare loop predicts. `seconds` are those of the whole",
        "process, its start, imports and the JVM's included; `working` begins when the engine",
        "begins to count or score rows. Memory is that of all its processes together at its",
        "largest.",
        "",
        *(f"- **{name}** is {text}" for name, text in ENGINES.items()),
    ]
)


def generate(folder: Path, rows: int) -> Path:
    """Write rows like iris's: one of its flowers each, a little changed; the same each time."""
    if (folder / "_SUCCESS").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    note(f"generating {rows:,} rows")
    flowers = load_iris().data
    bounds = np.linspace(0, rows, FILES + 1).astype(int)
    for part in range(FILES):
        start, end = int(bounds[part]), int(bounds[part + 1])
        draw = np.random.default_rng([7, part])
        path = folder / f"part-{part}.parquet"
        schema = pa.schema([("id", pa.int64()), *((name, pa.float64()) for name in FEATURES)])
        with pq.ParquetWriter(path, schema) as writer:
            for first in range(start, end, GROUP_ROWS):
                size = min(GROUP_ROWS, end - first)
                made = flowers[draw.integers(0, len(flowers), size)]
                made = np.round(made + draw.normal(0, 0.3, made.shape), 2)
                columns = [np.arange(first, first + size), *made.T]
                writer.write_table(pa.table([pa.array(each) for each in columns], schema=schema))
    (folder / "_SUCCESS").touch()
    return folder


def train(folder: Path, name: str) -> Path:
    """Fit a model and write it where a server would find it."""
    models = {
        "logistic": LogisticRegression(max_iter=1000),
        "forest": RandomForestClassifier(100, random_state=5),
    }
    path = folder / name / "model.joblib"
    path.parent.mkdir(exist_ok=True)
    joblib.dump(models[name].fit(*load_iris(return_X_y=True)), path)
    return path


def measure(
    engines: list[str], model: Path, table: Path, folder: Path, arguments: argparse.Namespace
) -> dict[str, list[Facts]]:
    """Run the engines in turns."""
    found: dict[str, list[Facts]] = {engine: [] for engine in engines}
    expected: NDArray[np.int64] | None = None
    for _ in range(arguments.rounds):
        for engine in engines:
            output = folder / "out"
            run = run_one(engine, model, table, output)
            ids, classes = read(output)
            told = place(ids, classes, arguments.rows)
            if expected is None:
                expected = told
            run["right"] = int(((told == expected) & (told >= 0)).sum())
            run["is_right"] = len(ids) == run["right"] == arguments.rows
            run["is_right"] &= run.get("rows", arguments.rows) == arguments.rows
            note(f"{model.parent.name}: {engine}: {run}")
            found[engine].append(run)
            for path in (output, *folder.glob("out.*")):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return found


def run_one(engine: str, model: Path, table: Path, output: Path) -> Facts:
    """Run an engine in a process of its own, and watch it."""
    command = [sys.executable, __file__, "--child", engine, str(model), str(table), str(output)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = [0]
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(LOOK_S):
            peak[0] = max(peak[0], sum(_memory(each) for each in _family(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    told, _ = process.communicate()
    seconds = time.perf_counter() - began
    is_over.set()
    watcher.join()
    if process.returncode:
        message = f"{engine} failed with {process.returncode}"
        raise RuntimeError(message)
    facts: Facts = json.loads(told.splitlines()[-1])
    return {**facts, "seconds": seconds, "peak_bytes": peak[0]}


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return
    for child in children:
        yield from _family(child)


def _memory(pid: int) -> int:
    """Give the proportional set size in bytes; 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def read(output: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read what an engine wrote."""
    files = [output] if output.is_file() else sorted(output.glob("*.parquet"))
    table = pa.concat_tables([pq.ParquetFile(file).read(["id", "predict"]) for file in files])
    return table["id"].to_numpy(), table["predict"].to_numpy()


def place(ids: NDArray[np.int64], classes: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Give each id's class; -1 for an id that is missing, -2 for one that is there twice."""
    made = np.full(rows, -1)
    made[ids] = classes
    made[np.bincount(ids, minlength=rows) > 1] = -2
    return made


def describe(found: dict[str, list[Facts]], rows: int) -> str:
    """Draw the table of one model."""
    columns = ("engine", "rows/s", "working rows/s", "seconds", "working s", "peak MB", "right")
    lines = [
        (
            engine,
            report.spread((rows / run["seconds"] for run in runs), 0),
            report.spread((rows / run["working_s"] for run in runs), 0),
            report.spread((run["seconds"] for run in runs), 1),
            report.spread((run["working_s"] for run in runs), 1),
            report.spread((run["peak_bytes"] / 1e6 for run in runs), 0),
            f"{min(run['right'] for run in runs):,} of {rows:,}",
        )
        for engine, runs in found.items()
    ]
    return report.table(columns, lines)


# ---- in a process of its own ----


def child(engine: str, model: str, table: str, output: str) -> None:
    """Score, and print what is known of it as a line of JSON."""
    began = time.perf_counter()
    if engine.startswith("loop"):
        Path(output).mkdir()
        files = sorted(Path(table).glob("*.parquet"))
        works = [(model, str(file), str(Path(output, file.name))) for file in files]
        if engine == "loop":
            for work in works:
                loop(*work)
        else:
            with ProcessPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(loop, *zip(*works, strict=True)))
        print(json.dumps({"working_s": time.perf_counter() - began}))
        return
    from jackfield.score import LocalEngine, ScoreJob, ScoreProgress

    job = ScoreJob(
        model=model,
        inputs=(table,),
        output=output,
        columns={"x": FEATURES},
        keep=("id",),
        rows_per_batch=BATCH_ROWS,
    )
    first: list[float] = []

    def progress(told: ScoreProgress) -> None:
        if not first and told.stage in ("scoring", "counting the rows"):
            first.append(time.perf_counter())

    if engine == "spark":
        from jackfield_mllib._score import SparkEngine

        summary = SparkEngine().run(job, progress)
    else:
        summary = LocalEngine().run(job, progress)
    working = time.perf_counter() - first[0]
    print(json.dumps({"working_s": working, "rows": summary.rows, "scored": summary.scored}))


def loop(model: str, source: str, target: str) -> None:
    """Score a file as one would by hand."""
    predictor = joblib.load(model)
    schema = pa.schema([("id", pa.int64()), ("predict", pa.int64())])
    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, schema) as writer:
        for batch in file.iter_batches(BATCH_ROWS):
            x = np.column_stack([batch[name].to_numpy() for name in FEATURES])
            columns = [batch["id"], pa.array(predictor.predict(x))]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(main())
