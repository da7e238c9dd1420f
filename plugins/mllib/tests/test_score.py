"""Batch scoring by Spark: what the local engine gives, whatever happens to an executor."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from jackfield.score import LocalEngine, ScoreError, ScoreJob, ScoreProgress
from jackfield_mllib._score import SparkEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Trained

    from jackfield.score import ScoreSummary

pytestmark = pytest.mark.usefixtures("spark")

ROWS = 3000
#: Rows that the model below refuses.
BAD = (7, 1500, 2999)


def make_model(folder: Path, code: str) -> str:
    folder.mkdir()
    folder.joinpath("model.py").write_text(textwrap.dedent(code))
    settings = {"name": "sums", "implementation": "model.Model"}
    folder.joinpath("model-settings.json").write_text(json.dumps(settings))
    return str(folder)


SUMS = """
    import numpy as np
    from numpy.typing import NDArray

    from jackfield import Capabilities, InvalidRequestError


    class Model:
        capabilities = Capabilities(row_wise=True)

        {load}
        def infer(
            self, a: NDArray[np.float64], b: NDArray[np.int64], word: list[str]
        ) -> dict[str, NDArray[np.generic]]:
            {infer}
            if (a < 0).any():
                raise InvalidRequestError("a", expected="0 or more", found="less")
            return {{
                "total": a + b,
                "sizes": np.array([[len(each), 2 * len(each)] for each in word], np.uint8),
                "shout": np.array([each.upper() for each in word], object),
            }}
"""


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a model with inputs and outputs of several types, that refuses some rows."""
    folder = tmp_path_factory.mktemp("models") / "sums"
    return make_model(folder, SUMS.format(load="", infer=""))


@pytest.fixture(scope="module")
def table() -> pa.Table:
    a = np.arange(ROWS) / 8
    a[list(BAD)] = -1
    words = [f"w {'é' * (row % 7)},{row}" for row in range(ROWS)]
    return pa.table({"id": np.arange(ROWS), "a": a, "b": np.arange(ROWS) % 11, "word": words})


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "parquet": lambda table, path: pq.write_table(table, path, row_group_size=500),
    "csv": lambda table, path: pa.csv.write_csv(table, path),
    "ndjson": lambda table, path: path.write_text(
        "".join(json.dumps(row) + "\n" for row in table.to_pylist())
    ),
}


def read(path: str | Path) -> list[dict[str, Any]]:
    """Read a table, a file or a folder, in the order of its column `id`."""
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob("part-*"))
    readers = {".parquet": pq.read_table, ".csv": pa.csv.read_csv, ".ndjson": pa.json.read_json}
    read_one = readers[".ndjson" if path.suffix == ".json" else path.suffix or ".parquet"]
    rows = [row for file in files for row in read_one(file).to_pylist()]
    rows = [
        {name: "NaN" if value != value else value for name, value in row.items()} for row in rows
    ]
    return sorted(rows, key=lambda row: row["id"])


def rejects(summary: ScoreSummary) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(summary.rejects).read_text().splitlines()]


def ignore(progress: ScoreProgress) -> None: ...


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("parquet", "parquet"),
        ("parquet", "csv"),
        ("parquet", "ndjson"),
        ("csv", "csv"),
        ("csv", "parquet"),
        ("ndjson", "ndjson"),
    ],
)
def test_gives_row_for_row_what_the_local_engine_gives(source, output, sums, table, tmp_path):
    # two files: a row's position counts from the first
    folder = tmp_path / "in"
    folder.mkdir()
    WRITERS[source](table.slice(0, 1000), folder / f"1.{source}")
    WRITERS[source](table.slice(1000), folder / f"2.{source}")
    job = ScoreJob(
        model=sums,
        inputs=(str(folder),),
        output=str(tmp_path / f"local.{output}"),
        prefix="made_",
        max_rejects=3,
        rows_per_batch=400,
    )
    local = LocalEngine().run(job, ignore)
    spread = ScoreJob(**{**as_dict(job), "output": str(tmp_path / f"spark.{output}")})
    found = SparkEngine().run(spread, ignore)
    assert (found.rows, found.scored, found.rejected) == (ROWS, ROWS - 3, 3)
    assert (local.rows, local.scored, local.rejected) == (ROWS, ROWS - 3, 3)
    assert read(found.output) == read(local.output)
    assert rejects(found) == rejects(local)
    assert [each["row"] for each in rejects(found)] == list(BAD)
    assert (found.engine, found.model) == ("spark", "sums")


def as_dict(job: ScoreJob) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__struct_fields__}


def test_a_plugins_model_gives_the_frameworks_own_numbers(tmp_path):
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    features, target = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(features, target)
    joblib.dump(model, tmp_path / "iris.joblib")
    columns = {f"f{place}": features[:, place] for place in range(4)}
    pq.write_table(pa.table({"id": np.arange(150), **columns}), tmp_path / "in.parquet")
    job = ScoreJob(
        model=str(tmp_path / "iris.joblib"),
        inputs=(str(tmp_path / "in.parquet"),),
        output=str(tmp_path / "out"),
        columns={"x": tuple(columns)},
        outputs=("predict", "predict_proba"),
        keep=("id",),
    )
    assert SparkEngine().run(job, ignore).rows == 150
    found = read(job.output)
    assert [row["predict"] for row in found] == model.predict(features).tolist()
    assert [row["predict_proba"] for row in found] == model.predict_proba(features).tolist()
    assert list(found[0]) == ["id", "predict", "predict_proba"]


def test_what_is_no_row_of_a_csv_file_is_rejected_with_its_line(sums, tmp_path):
    lines = ["id,a,b,word", "0,1.5,1,x", "1,2.5", "2,many,1,y", "3,3.5,2,", '4,1,1,""', "5,,1,z"]
    (tmp_path / "in.csv").write_text("\n".join([*lines, "6,1,1,q,more", "7,1,2,v"]) + "\n")
    job = ScoreJob(
        model=sums,
        inputs=(str(tmp_path / "in.csv"),),
        output=str(tmp_path / "spark.parquet"),
        keep=("id",),
        max_rejects=10,
    )
    found = SparkEngine().run(job, ignore)
    local = LocalEngine().run(
        ScoreJob(**{**as_dict(job), "output": str(tmp_path / "local.parquet")}), ignore
    )
    assert (found.rows, found.scored, found.rejected) == (local.rows, local.scored, local.rejected)
    assert read(found.output) == read(local.output)
    ours, theirs = rejects(found), rejects(local)
    assert [each["row"] for each in ours] == [each["row"] for each in theirs]
    assert [each["values"] for each in ours] == [each["values"] for each in theirs]
    assert ours[0]["values"] == {"line": "1,2.5"}


@pytest.fixture
def job(sums, table, tmp_path) -> ScoreJob:
    pq.write_table(table, tmp_path / "in.parquet")
    return ScoreJob(
        model=sums,
        inputs=(str(tmp_path / "in.parquet"),),
        output=str(tmp_path / "out"),
        max_rejects=3,
    )


def test_an_output_is_replaced_only_by_restart(job):
    Path(job.output).mkdir()
    Path(job.output, "precious.txt").write_text("keep")
    with pytest.raises(ScoreError, match=r"out' is there already; .*--restart"):
        SparkEngine().run(job, ignore)
    assert Path(job.output, "precious.txt").read_text() == "keep"
    again = ScoreJob(**{**as_dict(job), "restart": True})
    assert SparkEngine().run(again, ignore).scored == ROWS - 3
    assert len(read(job.output)) == ROWS - 3


def test_an_empty_table_gives_an_empty_output(job, table, tmp_path):
    pq.write_table(table.slice(0, 0), tmp_path / "in.parquet")
    told = [
        {"name": "total", "datatype": "FP64", "shape": [-1]},
        {"name": "sizes", "datatype": "UINT8", "shape": [-1, 2]},
        {"name": "shout", "datatype": "BYTES", "shape": [-1]},
    ]
    model = tmp_path / "told"
    make_model(model, SUMS.format(load="", infer=""))
    settings = {"name": "sums", "implementation": "model.Model", "outputs": told}
    (model / "model-settings.json").write_text(json.dumps(settings))
    found = SparkEngine().run(ScoreJob(**{**as_dict(job), "model": str(model)}), ignore)
    assert (found.rows, found.scored, found.rejects) == (0, 0, "")
    (part,) = Path(job.output).glob("part-*")
    assert pq.read_schema(part).names == ["id", "a", "b", "word", "total", "sizes", "shout"]


def test_progress_tells_stages_and_ends_with_all_rows(job):
    told: list[ScoreProgress] = []
    SparkEngine().run(job, told.append)
    stages = list(dict.fromkeys(each.stage for each in told))
    assert stages.index("loading the model") < stages.index("scoring") < len(stages) - 1
    assert told[-1].rows == told[-1].total == ROWS
    assert told[-1].rejected == 3
    assert [each.rows for each in told] == sorted(each.rows for each in told)


def test_what_progress_raises_ends_the_run_and_leaves_no_output(job, spark):
    class Enough(Exception):  # noqa: N818  not an error
        pass

    def stop(progress: ScoreProgress) -> None:
        if progress.stage == "scoring":
            raise Enough

    with pytest.raises(Enough):
        SparkEngine().run(job, stop)
    assert not Path(job.output).exists()
    assert spark.range(3).count() == 3


def test_the_session_is_as_it_was_after_a_run(job, spark):
    keys = ("spark.sql.session.timeZone", "spark.sql.execution.arrow.maxRecordsPerBatch")
    before = [spark.conf.get(key) for key in keys]
    SparkEngine().run(job, ignore)
    assert [spark.conf.get(key) for key in keys] == before


def test_a_worker_loads_the_model_once_for_all_its_tasks(job, table, tmp_path):
    log = tmp_path / "log"
    note = f"""import os
            with open({str(log)!r}, "a") as file:
                file.write(f"%s {{os.getpid()}}\\n")"""
    load = f"def load(self) -> None:\n            {note % 'load'}"
    model = make_model(tmp_path / "logged", SUMS.format(load=load, infer=note % "infer"))
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(8):
        pq.write_table(table.slice(part * 300, 300), folder / f"{part}.parquet")
    wanted = {"model": model, "inputs": (str(folder),), "engine_options": {}}
    SparkEngine().run(ScoreJob(**{**as_dict(job), **wanted}), ignore)
    lines = log.read_text().splitlines()
    loads = [line.split()[1] for line in lines if line.startswith("load")]
    workers = {line.split()[1] for line in lines if line.startswith("infer")}
    assert len(loads) == len(set(loads))
    assert workers <= set(loads)


def test_a_model_that_executors_cannot_load_is_told_once_without_java(job, tmp_path):
    load = f"""def load(self) -> None:
            import os
            if os.getpid() != {os.getpid()}:
                raise OSError("no licence on this machine")
    """
    model = make_model(tmp_path / "shy", SUMS.format(load=load, infer=""))
    with pytest.raises(ScoreError) as raised:
        SparkEngine().run(ScoreJob(**{**as_dict(job), "model": model}), ignore)
    text = str(raised.value)
    assert text.count("no licence on this machine") == 1
    assert f"(on '{socket.gethostname()}')" in text
    assert "\n" not in text
    assert "java" not in text.lower()
    assert not Path(job.output).exists()


def test_a_model_that_breaks_on_executors_is_told_once(job, tmp_path):
    infer = f"""import os
            if os.getpid() != {os.getpid()} and len(a) > 1:
                sizes = np.zeros((len(a), 2), np.uint8)
                return {{"total": a[:1], "sizes": sizes, "shout": np.array(word, object)}}"""
    model = make_model(tmp_path / "odd", SUMS.format(load="", infer=infer))
    with pytest.raises(ScoreError, match="rows are not independent") as raised:
        SparkEngine().run(ScoreJob(**{**as_dict(job), "model": model}), ignore)
    assert "\n" not in str(raised.value)
    assert not Path(job.output).exists()


def test_a_model_that_refuses_all_rows_ends_the_run(job, table, tmp_path):
    table = table.set_column(1, "a", pa.array(np.where(np.arange(ROWS) < 500, 1.0, -1.0)))
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(ScoreError, match=r"none of \d+ rows in a batch could be scored"):
        SparkEngine().run(ScoreJob(**{**as_dict(job), "rows_per_batch": 200}), ignore)
    assert not Path(job.output).exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"engine_options": {"masters": "local"}},
            "no option 'masters'; it has master, remote",
        ),
        ({"engine_options": {"ship": "maybe"}}, "'ship': expected yes or no, found 'maybe'"),
        ({"inputs": ("/nowhere/in.parquet",)}, "nowhere/in.parquet"),
        ({"inputs": ("/nowhere/in.table",)}, "in.table' is not known by its name"),
        ({"input_format": "delta"}, "Spark has no Delta Lake"),
        ({"columns": {"a": ("missing",)}}, "missing"),
        ({"keep": ("missing",)}, "missing"),
        ({"model": "/nowhere/model"}, "nowhere/model"),
        ({"engine_options": {"master": "spark://127.0.0.1:1"}}, "spark://127.0.0.1:1"),
    ],
)
def test_mistakes_are_told_in_a_line(changes, text, job):
    from jackfield import JackfieldError

    with pytest.raises(JackfieldError) as raised:
        SparkEngine().run(ScoreJob(**{**as_dict(job), **changes}), ignore)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not Path(job.output).exists()


def test_an_output_within_the_input_is_refused(job, tmp_path):
    inside = {"inputs": (str(tmp_path),), "input_format": "parquet"}
    with pytest.raises(ScoreError, match="whose part it would become"):
        SparkEngine().run(ScoreJob(**{**as_dict(job), **inside}), ignore)


# ---- models of Spark itself ----


def make_table(model: Trained, count: int = 40) -> pa.Table:
    """Repeat the rows of a model, with an id; vectors are lists."""
    rows = [model.rows.rows[place % len(model.rows.rows)] for place in range(count)]
    columns = {"id": pa.array(range(count))}
    for name, values in zip(model.rows.types, zip(*rows, strict=True), strict=True):
        columns[name] = pa.array([getattr(each, "array", each) for each in values])
    return pa.table(columns)


def both(job: ScoreJob, tmp_path: Path) -> tuple[ScoreSummary, ScoreSummary]:
    """Run a job by both engines, and compare what they wrote."""
    local, found = (
        engine().run(ScoreJob(**{**as_dict(job), "output": str(tmp_path / name)}), ignore)
        for engine, name in ((LocalEngine, "local"), (SparkEngine, "spark"))
    )
    assert (found.rows, found.scored, found.rejected) == (local.rows, local.scored, local.rejected)
    assert read(found.output) == read(local.output)
    return local, found


def put(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    """Change a cell."""
    values = table[name].to_pylist()
    values[row] = value
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("iris", ("prediction", "probability", "flower")),
        ("logistic", ("predict_proba", "raw")),
        ("notes", ()),
        ("split", ()),
    ],
)
def test_a_model_of_spark_gives_what_the_local_engine_gives(name, outputs, trained, tmp_path):
    model = trained[name]
    pq.write_table(make_table(model), tmp_path / "in.parquet")
    job = ScoreJob(
        model=str(model.folder),
        inputs=(str(tmp_path / "in.parquet"),),
        output="-",
        outputs=outputs,
        prefix="made_",
    )
    _, found = both(job, tmp_path)
    assert found.scored == 40
    made = pq.read_schema(next(Path(found.output).glob("part-*")))
    assert [each for each in made.names if each.startswith("made_")] == [
        f"made_{each}" for each in outputs
    ] or not outputs


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_rows_that_a_model_of_spark_refuses_are_rejected_alone(form, trained, tmp_path):
    table = make_table(trained["passengers"])
    for name, row, value in [
        ("age", 3, None),
        ("port", 5, "Atlantis"),
        ("port", 8, None),
        ("deck", 13, None),
        ("alone", 21, None),
        ("fare", 30, None),
    ]:
        table = put(table, name, row, value)
    if form == "csv":
        text = {**dict.fromkeys(table.column_names), "fare": "many"}
        columns = [table[name].cast(pa.string()).to_pylist() for name in text]
        columns[list(text).index("fare")][33] = "many"
        table = pa.table(dict(zip(text, columns, strict=True)))
    WRITERS[form](table, tmp_path / f"in.{form}")
    job = ScoreJob(
        model=str(trained["passengers"].folder),
        inputs=(str(tmp_path / f"in.{form}"),),
        output="-",
        outputs=("prediction", "probability", "fare_bucket"),
        max_rejects=40,
    )
    local, found = both(job, tmp_path)
    ours, theirs = rejects(found), rejects(local)
    assert [each["row"] for each in ours] == [each["row"] for each in theirs]
    assert [each["values"] for each in ours] == [each["values"] for each in theirs]
    reasons = {each["row"]: each["reason"] for each in ours}
    assert {5, 8, 13, 21} <= set(reasons)
    assert 3 not in reasons
    assert "'port'" in reasons[5]
    assert "'Atlantis'" in reasons[5]
    assert "'deck' has no value" in reasons[13]


def test_rows_that_a_stage_leaves_out_are_rejects(trained, spark, tmp_path):
    from pyspark.ml import PipelineModel, Transformer
    from pyspark.ml.feature import Bucketizer, SQLTransformer, VectorAssembler

    stages: list[Transformer] = [
        SQLTransformer(statement="SELECT * FROM __THIS__ WHERE a < 90"),
        Bucketizer(inputCol="a", outputCol="bucket", splits=[0.0, 10.0, 100.0]),
        VectorAssembler(inputCols=["a", "bucket"], outputCol="both"),
    ]
    folder = tmp_path / "model"
    PipelineModel(stages).write().save(str(folder / "model"))
    settings = {
        "name": "few",
        "parameters": {"uri": "./model", "extra": {"schema": {"a": "double"}}},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    a = [1.0, 50.0, 95.0, None, 4.0]
    # one task reads both: a row's place counts from the first file
    (tmp_path / "in").mkdir()
    for place, name in enumerate("ab"):
        pq.write_table(
            pa.table({"id": [10 * place + row for row in range(5)], "a": a}),
            tmp_path / "in" / f"{name}.parquet",
        )
    job = ScoreJob(
        model=str(folder),
        inputs=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        outputs=("both",),
        max_rejects=4,
    )
    found = SparkEngine().run(job, ignore)
    assert (found.rows, found.scored, found.rejected) == (10, 6, 4)
    assert [row["both"] for row in read(job.output)][:3] == [[1.0, 0.0], [50.0, 1.0], [4.0, 0.0]]
    assert [(each["row"], each["values"]["id"]) for each in rejects(found)] == [
        (2, 2),
        (3, 3),
        (7, 12),
        (8, 13),
    ]
    # what no stage can leave out ends the run
    pq.write_table(pa.table({"id": [1, 2], "a": [1.0, -5.0]}), tmp_path / "in" / "c.parquet")
    with pytest.raises(ScoreError, match=r"Bucketizer bounds.*'handleInvalid'.*--engine local"):
        SparkEngine().run(ScoreJob(**{**as_dict(job), "restart": True}), ignore)


def test_columns_of_vectors_are_read_by_any_model(trained, spark, tmp_path):
    model = trained["logistic"]
    rows = model.rows.frame(spark).selectExpr("monotonically_increasing_id() AS id", "features")
    rows.coalesce(1).write.parquet(str(tmp_path / "in"))
    job = ScoreJob(
        model=str(model.folder), inputs=(str(tmp_path / "in"),), output=str(tmp_path / "out")
    )
    assert SparkEngine().run(ScoreJob(**{**as_dict(job), "keep": ("id",)}), ignore).rejected == 0
    expected = [row.prediction for row in model.framework().transform(rows).collect()]
    assert [row["prediction"] for row in read(job.output)] == expected
    code = """
        import numpy as np
        from numpy.typing import NDArray
        from jackfield import Capabilities


        class Model:
            capabilities = Capabilities(row_wise=True)

            def infer(self, features: NDArray[np.float64]) -> dict[str, NDArray[np.generic]]:
                return {"sum": features.sum(axis=1)}
    """
    told = {"model": make_model(tmp_path / "own", code), "output": str(tmp_path / "sums")}
    SparkEngine().run(ScoreJob(**{**as_dict(job), **told, "keep": ("id",)}), ignore)
    assert [row["sum"] for row in read(told["output"])] == [
        float(features.toArray().sum()) for (features,) in model.rows.rows
    ]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("age", None, "needs a column 'age', which the table has not"),
        ("fare", "dear", "which the column 'fare' of type string does not fit: expected numbers"),
    ],
)
def test_columns_that_do_not_fit_a_model_of_spark_are_told(name, value, text, trained, tmp_path):
    table = make_table(trained["passengers"]).drop_columns([name])
    if value:
        table = table.append_column(name, pa.array([value] * len(table)))
    pq.write_table(table, tmp_path / "in.parquet")
    job = ScoreJob(
        model=str(trained["passengers"].folder),
        inputs=(str(tmp_path / "in.parquet"),),
        output=str(tmp_path / "out"),
    )
    with pytest.raises(ScoreError, match=text):
        SparkEngine().run(job, ignore)
    assert not Path(job.output).exists()


# ---- with a Spark of their own ----


def score(job: ScoreJob, environ: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a job in a process of its own."""
    code = """
        import sys, pickle, json, msgspec
        from jackfield.score import ScoreError
        from jackfield_mllib._score import SparkEngine
        job = pickle.loads(bytes.fromhex(sys.argv[1]))
        try:
            told = msgspec.to_builtins(SparkEngine().run(job, lambda progress: None))
        except ScoreError as error:
            told = {"error": str(error)}
        print("told:" + json.dumps(told))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), pickle.dumps(job).hex()],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("told:")]
    assert lines, ran.stderr[-3000:]
    assert "\tat org.apache" not in ran.stderr
    told: dict[str, Any] = json.loads(lines[0].removeprefix("told:"))
    return told


def test_a_worker_that_is_killed_costs_and_doubles_no_row(job, tmp_path):
    infer = f"""import os, signal
            if os.getppid() != {os.getpid()} and a.max() > 200:
                try:
                    os.close(os.open({str(tmp_path / "killed")!r}, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)"""
    model = make_model(tmp_path / "mortal", SUMS.format(load="", infer=infer))
    # batches were scored, and some of their rows rejected, before the one that kills
    changed = {"model": model, "rows_per_batch": 100, "engine_options": {"master": "local[1,4]"}}
    found = score(ScoreJob(**{**as_dict(job), **changed}))
    assert (tmp_path / "killed").exists()
    assert (found["rows"], found["scored"], found["rejected"]) == (ROWS, ROWS - 3, 3)
    ids = [row["id"] for row in read(job.output)]
    assert ids == [row for row in range(ROWS) if row not in BAD]
    assert Path(found["rejects"]).read_text().count("\n") == 3


@pytest.mark.slow
def test_an_executor_that_is_killed_costs_and_doubles_no_row(job, table, tmp_path):
    log = tmp_path / "log"
    load = f"""def load(self) -> None:
            with open({str(log)!r}, "a") as file:
                file.write(__file__ + "\\n")
    """
    # the worker's parent is pyspark's daemon, whose parent is the executor's JVM
    infer = f"""import os, pathlib, signal
            if os.getppid() != {os.getpid()} and len(a) > 1 and a.max() > 200:
                try:
                    os.close(os.open({str(tmp_path / "killed")!r}, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    stat = pathlib.Path(f"/proc/{{os.getppid()}}/stat").read_text()
                    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)"""
    model = make_model(tmp_path / "sent", SUMS.format(load=load, infer=infer))
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(6):
        pq.write_table(table.slice(part * 500, 500), folder / f"{part}.parquet")
    # two executors in JVMs of their own: blocks that one has computed are lost with it
    options = {"master": "local-cluster[2,1,1024]", "spark.executor.memory": "512m"}
    changed = {"model": model, "inputs": (str(folder),), "engine_options": options}
    found = score(ScoreJob(**{**as_dict(job), **changed}))
    assert (found["rows"], found["scored"], found["rejected"]) == (ROWS, ROWS - 3, 3), found
    assert (tmp_path / "killed").exists()
    assert [row["id"] for row in read(job.output)] == [row for row in range(ROWS) if row not in BAD]
    told = [json.loads(line) for line in Path(found["rejects"]).read_text().splitlines()]
    assert [(each["row"], each["values"]["id"]) for each in told] == [(row, row) for row in BAD]
    # executors had the model sent to them
    first, *others = log.read_text().splitlines()
    assert first.startswith(model)
    assert others
    assert not [each for each in others if each.startswith(model)]


@pytest.mark.slow
def test_executors_that_lack_what_they_need_are_told_by_name(job, tmp_path):
    # one task finds another version of the core, all others no plugin
    hook = f"""
        import importlib.metadata as metadata, os, sys
        find = metadata.version
        def version(name):
            if name == "jackfield":
                try:
                    os.close(os.open({str(tmp_path / "asked")!r}, os.O_CREAT | os.O_EXCL))
                    return "0.0.1"
                except FileExistsError:
                    pass
            if name == "jackfield-mllib":
                raise metadata.PackageNotFoundError(name)
            return find(name)
        metadata.version = version
        sys.modules["jackfield_mllib"] = None
    """
    site, python = tmp_path / "site", tmp_path / "python"
    site.mkdir()
    (site / "sitecustomize.py").write_text(textwrap.dedent(hook))
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site}:$PYTHONPATH exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    job = ScoreJob(**{**as_dict(job), "engine_options": {"master": "local[2,4]"}})
    found = score(job, {"PYSPARK_PYTHON": str(python)})
    assert "has jackfield 0.0.1, and " in found["error"]
    assert (
        "lacks jackfield-mllib; install it there: pip install jackfield-mllib==" in found["error"]
    )
