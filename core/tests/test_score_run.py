"""A whole table through the local engine: formats, kills at any moment, rejects, the command."""

import contextlib
import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow", reason="scoring tables needs jackfield[score]")

import pyarrow.dataset as ds  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from click.testing import CliRunner  # noqa: E402

from jackfield._cli import cli  # noqa: E402
from jackfield.score import LocalEngine, ScoreError, ScoreJob  # noqa: E402

MODELS = Path(__file__).with_name("score_models.py")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with the models; no plugin is installed."""
    (tmp_path / "models").mkdir()
    shutil.copy(MODELS, tmp_path / "models" / "models.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(count, *, first=0, bad=()):
    return pa.table(
        {
            "id": pa.array(range(first, first + count), pa.int64()),
            # no 13 by itself
            "a": [13.0 if row in bad else 100.0 + row for row in range(first, first + count)],
            "b": pa.array([row % 7 for row in range(first, first + count)], pa.int64()),
        }
    )


def job(*inputs, output="out.parquet", name="Sum", **options):
    given = {"rows_per_batch": 50, "rows_per_part": 200, "threads": 2, "plugins": ()}
    return ScoreJob(
        model=f"models/models.py:{name}",
        inputs=tuple(map(str, inputs)),
        output=str(output),
        **(given | options),
    )


def run(made):
    return LocalEngine().run(made, lambda progress: None)


def read(path):
    """Read an output of any form: a list of rows."""
    path = Path(path)
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".ndjson":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return ds.dataset(path).to_table().to_pylist()


def rejected(path="out.parquet.rejects.ndjson"):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def check(count, bad=(), *, output="out.parquet", is_clean=True):
    """Check that each row is there once, in order, and right."""
    found = read(output)
    assert [int(row["id"]) for row in found] == [row for row in range(count) if row not in bad]
    assert all(float(row["y"]) == float(row["a"]) + int(row["b"]) for row in found)
    lines = rejected(f"{output}.rejects.ndjson") if bad else []
    assert [line["row"] for line in lines] == sorted(bad)
    assert [line["values"]["id"] for line in lines] == sorted(bad)
    assert (not list(Path().glob(f".{output}.score*"))) == is_clean


# ---- Formats ----


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "out.ndjson", "parts"])
@pytest.mark.parametrize("source", ["in.parquet", "in.csv", "in.ndjson"])
def test_every_form_of_table_is_read_and_written(folder, source, output):
    table = rows(1234, bad=[7, 900])
    write(table, folder / source)
    summary = run(job(source, output=output))
    assert (summary.rows, summary.scored, summary.rejected) == (1234, 1232, 2)
    found = read(output)
    assert [int(row["id"]) for row in found] == [r for r in range(1234) if r not in (7, 900)]
    assert all(float(row["y"]) == float(row["a"]) + int(row["b"]) for row in found)
    assert [line["row"] for line in rejected(f"{output}.rejects.ndjson")] == [7, 900]
    assert Path(output).is_dir() == (output == "parts")


def write(table, path):
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=100)
    elif path.suffix == ".csv":
        lines = [",".join(map(str, row.values())) for row in table.to_pylist()]
        path.write_text("\n".join([",".join(table.column_names), *lines]) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


def test_a_folder_of_files_is_one_table(folder):
    for part in range(3):
        inner = folder / "table" / f"day={part}"
        inner.mkdir(parents=True)
        pq.write_table(rows(300, first=300 * part), inner / "file.parquet")
    (folder / "table" / "_SUCCESS").touch()
    (folder / "table" / "_old.parquet").write_text("no parquet")
    run(job("table"))
    check(900)
    assert {row["day"] for row in read("out.parquet")} == {0, 1, 2}


def test_several_files_are_scored_one_after_the_other(folder):
    for part in range(3):
        write(rows(111, first=111 * part), folder / f"{part}.csv")
    run(job("0.csv", "1.csv", "2.csv"))
    check(333)


def test_files_with_other_columns_are_refused(folder):
    (folder / "0.csv").write_text("id,a,b\n1,2,3\n")
    (folder / "1.csv").write_text("id,b,a\n1,2,3\n")
    with pytest.raises(ScoreError, match=r"'1.csv' has the columns id, b, a, the first file id, a"):
        run(job("0.csv", "1.csv"))


@pytest.mark.parametrize("suffix", [".csv", ".ndjson"])
def test_compressed_texts_are_read(folder, suffix):
    write(rows(500), folder / f"in{suffix}")
    packed = folder / f"in{suffix}.gz"
    packed.write_bytes(gzip.compress((folder / f"in{suffix}").read_bytes()))
    run(job(packed))
    check(500)


def test_an_empty_table_gives_an_output_with_its_columns(folder):
    pq.write_table(rows(0), folder / "in.parquet")
    assert run(job("in.parquet")).rows == 0
    assert pq.read_table("out.parquet").schema.names == ["id", "a", "b", "y"]


def test_a_delta_table_is_read_and_written(folder):
    deltalake = pytest.importorskip("deltalake", reason="Delta tables need deltalake")
    deltalake.write_deltalake("table", rows(400))
    deltalake.write_deltalake("table", rows(400, first=400), mode="append")
    run(job("table", output="scored", output_format="delta"))
    found = deltalake.DeltaTable("scored").to_pyarrow_table().to_pylist()
    assert sorted(row["id"] for row in found) == list(range(800))
    assert all(row["y"] == row["a"] + row["b"] for row in found)


def test_a_part_without_a_scored_row_is_no_problem(folder):
    bad = range(200, 400)
    pq.write_table(rows(600, bad=bad), folder / "in.parquet")
    run(job("in.parquet", max_rejects=200))
    check(600, bad)


def test_a_csv_keeps_its_text_in_a_csv(folder):
    text = 'id,a,b,note\n1,1.50,2,NA\n2,2e1,3,"x, ""y""\nz"\n3,3,4,\n'
    (folder / "in.csv").write_text(text)
    run(job("in.csv", output="out.csv"))
    found = read("out.csv")
    assert [row["a"] for row in found] == ["1.50", "2e1", "3"]
    assert [row["note"] for row in found] == ["NA", 'x, "y"\nz', ""]
    assert [row["y"] for row in found] == ["3.5", "23", "7"]


def test_columns_of_a_csv_that_the_model_takes_have_its_types_elsewhere(folder):
    (folder / "in.csv").write_text("id,a,b\n07,1.5,2\n08,2,3\n")
    run(job("in.csv"))
    assert read("out.parquet") == [
        {"id": "07", "a": 1.5, "b": 2, "y": 3.5},
        {"id": "08", "a": 2.0, "b": 3, "y": 5.0},
    ]


def test_bad_lines_of_a_csv_are_rejected_where_they_are(folder):
    lines = [f"{row},{100 + row},1" for row in range(500)]
    lines[0] = "0,1"
    lines[3] = "3,x,1"
    lines[200] = "200,1,2,3"
    lines[201] = "201"
    lines[499] = "499,,,"
    content = "\n".join(["id,a,b", *lines]).encode()
    content = content.replace(b"\n77,177,1", b"\n77,\xff,1")
    (folder / "in.csv").write_bytes(content)
    summary = run(job("in.csv"))
    assert (summary.rows, summary.rejected) == (500, 6)
    found = {line["row"]: line for line in rejected()}
    assert list(found) == [0, 3, 77, 200, 201, 499]
    assert found[0]["reason"] == "expected 3 columns, found 2"
    assert found[0]["values"] == {"line": "0,1"}
    assert found[3]["reason"] == "column 'a': expected a number, found 'x'"
    assert found[77]["reason"] == "column 'a' is not UTF-8 text"
    assert [int(row["id"]) for row in read("out.parquet")] == sorted({*range(500)} - {*found})


def test_bad_lines_of_an_ndjson_are_rejected_where_they_are(folder):
    lines = [json.dumps({"id": row, "a": row, "b": 1, "c": "x"}) for row in range(300)]
    lines[5] = "{"
    lines[6] = "[1]"
    lines[70] = json.dumps({"id": 70, "a": "x", "b": 1, "c": "x"})
    lines[71] = json.dumps({"id": 71, "a": 1.5, "b": 2.5, "c": "x"})
    lines[72] = json.dumps({"id": 72, "a": 1.5, "b": 2, "c": 3})
    lines[73] = json.dumps({"id": 73, "b": 2})
    (folder / "in.ndjson").write_text("\n".join(lines))
    run(job("in.ndjson"))
    found = {line["row"]: line["reason"] for line in rejected()}
    # the model knows no 13
    assert list(found) == [5, 6, 13, 70, 71, 72]
    assert found[5] == found[6] == "expected a JSON object"
    assert found[70] == "column 'a': expected double, found \"x\""
    assert "'b'" in found[71]
    assert "'c': expected string, found 3" in found[72]


# ---- Kills ----


class KilledError(BaseException):
    pass


def kill_after(monkeypatch, count):
    """Die at the so-manieth step that changes what is on the disk for good."""
    steps = iter(range(count))

    def dying(function):
        def call(*given, **named):
            if next(steps, None) is None:
                raise KilledError
            return function(*given, **named)

        return call

    for name in ("replace", "link"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))
    monkeypatch.setattr(shutil, "rmtree", dying(shutil.rmtree))


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "parts"])
def test_a_run_that_dies_at_any_step_is_gone_on_with(folder, monkeypatch, output):
    bad = [3, 250, 251, 399]
    pq.write_table(rows(450, bad=bad), folder / "in.parquet", row_group_size=90)
    for step in range(1000):
        made = job("in.parquet", output=f"{step}-{output}", max_rejects=4)
        is_killed = False
        with monkeypatch.context() as patch:
            kill_after(patch, step)
            try:
                run(made)
            except KilledError:
                is_killed = True
        # at the very end the output is there, and only waste was left
        if is_killed and not Path(made.output).exists():
            summary = run(made)
            assert (summary.rows, summary.rejected) == (450, 4)
            check(450, bad, output=made.output)
        else:
            check(450, bad, output=made.output, is_clean=not is_killed)
        if not is_killed:
            break
    assert step > 10


@pytest.mark.parametrize("source", ["in.parquet", "in.csv", "in.ndjson"])
@given(data=st.data())
@settings(deadline=None, max_examples=12)
def test_no_row_is_lost_or_doubled_whatever_happens(tmp_path_factory, source, data):
    # an NDJSON without a row has no columns
    count = data.draw(st.integers(int(source == "in.ndjson"), 300), "rows")
    bad = data.draw(st.sets(st.integers(0, max(count - 1, 0)), max_size=20), "bad")
    bad = {row for row in bad if row < count}
    sizes = {
        name: data.draw(st.integers(1, 120), name) for name in ("rows_per_batch", "rows_per_part")
    }
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(MODELS, folder / "models.py")
    write(rows(count, bad=bad), folder / source)
    made = ScoreJob(
        model=f"{folder}/models.py:Sum",
        inputs=(f"{folder}/{source}",),
        output=f"{folder}/out.parquet",
        max_rejects=1000,
        plugins=(),
        **sizes,
    )
    kills = data.draw(st.lists(st.integers(0, 30), max_size=4), "kills")
    for step in [*kills, 10**9]:
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, step)
            with contextlib.suppress(KilledError):
                summary = run(made)
                assert (summary.rows, summary.scored) == (count, count - len(bad))
        if (folder / "out.parquet").exists():  # killed at the very end, perhaps
            break
    found = read(folder / "out.parquet")
    assert [int(row["id"]) for row in found] == [row for row in range(count) if row not in bad]
    if bad:
        lines = rejected(folder / "out.parquet.rejects.ndjson")
        assert [line["row"] for line in lines] == sorted(bad)


def test_a_killed_process_is_gone_on_with(folder):
    pq.write_table(rows(1000, bad=[10]), folder / "in.parquet")
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    command = [
        *(sys.executable, "-m", "jackfield", "score", "models/models.py:Stuck", "in.parquet"),
        *("-o", "out.parquet", "--rows-per-batch", "50", "--rows-per-part", "100"),
        *("--max-rejects", "1", "--json"),
    ]
    environment = {**os.environ, "JACKFIELD_PLUGINS": ""}
    process = subprocess.Popen(command, env={**environment, "TEST_STUCK": str(pipe)})
    assert pipe.read_text() == "stuck"  # it has come to row 600, whose value is 700
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("out.parquet").exists()

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert summary["resumed"] > 0
    assert (summary["rows"], summary["scored"], summary["rejected"]) == (1000, 999, 1)
    check(1000, [10])


def die_half_way(made):
    """Begin a run and leave it when some rows are done."""

    def stop(progress):
        if progress.rows >= 300:
            raise KilledError

    with pytest.raises(KilledError):
        LocalEngine().run(made, stop)


@pytest.mark.parametrize("what", ["input", "model", "option"])
def test_a_run_is_not_gone_on_with_if_something_changed(folder, what):
    pq.write_table(rows(600), folder / "in.parquet")
    made = job("in.parquet")
    die_half_way(made)
    if what == "input":
        pq.write_table(rows(601), folder / "in.parquet")
    elif what == "model":
        with (folder / "models" / "models.py").open("a") as file:
            file.write("# changed\n")
    else:
        made = job("in.parquet", keep=("id", "a", "b"))
    with pytest.raises(ScoreError, match=rf"the {what}|an {what}.* changed since; --restart"):
        run(made)
    restarted = job("in.parquet", restart=True)
    assert run(restarted).resumed == 0
    check(601 if what == "input" else 600)


def test_a_part_that_somebody_removed_is_done_again(folder):
    pq.write_table(rows(600), folder / "in.parquet")
    die_half_way(job("in.parquet"))
    (part,) = Path(".out.parquet.score/parts").glob("part-*.parquet")
    part.unlink()
    assert run(job("in.parquet")).resumed == 0
    check(600)


def test_batches_may_be_of_another_size_when_a_run_goes_on(folder):
    pq.write_table(rows(600), folder / "in.parquet")
    die_half_way(job("in.parquet"))
    assert run(job("in.parquet", rows_per_batch=7, rows_per_part=50, threads=1)).resumed == 200
    check(600)


def test_two_runs_do_not_write_one_output(folder):
    pq.write_table(rows(600), folder / "in.parquet")
    problems = []

    def again(progress):
        if not problems:
            with pytest.raises(ScoreError, match=r"another run writes 'out.parquet'") as caught:
                run(job("in.parquet"))
            problems.append(caught.value)

    LocalEngine().run(job("in.parquet"), again)
    check(600)


@pytest.mark.parametrize("output", ["out.parquet", "parts"])
def test_an_output_that_is_there_is_replaced_if_that_is_asked(folder, output):
    pq.write_table(rows(100), folder / "in.parquet")
    run(job("in.parquet", output=output))
    pq.write_table(rows(300), folder / "in.parquet")
    with pytest.raises(ScoreError, match=f"'{output}' is there already; --restart"):
        run(job("in.parquet", output=output))
    run(job("in.parquet", output=output, restart=True))
    check(300, output=output)


# ---- What can't be done ----


def test_a_run_ends_where_no_row_fits(folder):
    pq.write_table(rows(1000, bad=range(1000)), folder / "in.parquet")
    with pytest.raises(
        ScoreError, match=r"none of 200 rows in a batch.*13 is unlucky.*max-rejects"
    ):
        run(job("in.parquet", rows_per_batch=200))
    assert run(job("in.parquet", rows_per_batch=200, max_rejects=1000)).rejected == 1000


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (lambda: job("no.parquet"), "there is no 'no.parquet'"),
        (lambda: job("models"), "no known file in models"),
        (lambda: job("in.parquet", output="out.xls"), "'out.xls' is not known"),
        (lambda: job("in.parquet", output="no/out.csv"), "no folder 'no'"),
        (lambda: job("in.parquet", output="in.parquet"), "lies in the input"),
        (lambda: job("in.parquet", output="out.csv.gz"), "'out.csv.gz' is not known"),
        (lambda: job("in.csv"), "'in.csv' can't be read|the input can't be read"),
    ],
)
def test_what_can_not_be_done_is_told_with_what_to_do(folder, made, problem):
    pq.write_table(rows(10), folder / "in.parquet")
    (folder / "in.csv").write_text("")
    with pytest.raises(ScoreError, match=problem):
        run(made())


def test_an_output_in_the_folder_that_is_read_is_refused(folder):
    (folder / "table").mkdir()
    pq.write_table(rows(10), folder / "table" / "in.parquet")
    with pytest.raises(ScoreError, match="lies in the input 'table'"):
        run(job("table", output="table/out.parquet"))


def test_a_parquet_file_that_is_none_is_named(folder):
    (folder / "in.parquet").write_text("no parquet")
    with pytest.raises(ScoreError, match=r"in\.parquet"):
        run(job("in.parquet"))


# ---- The command ----


def command(*arguments):
    environment = {"JACKFIELD_PLUGINS": ""}
    return CliRunner().invoke(cli, ["score", *arguments], env=environment)


def test_the_command_scores_and_tells(folder):
    pq.write_table(rows(300, bad=[5]), folder / "in.parquet")
    given = ["models/models.py:Sum", "in.parquet", "-o", "out.csv", "--keep", "id,a,b"]
    result = command(*given)
    assert result.exit_code == 3
    assert "1 rows were rejected, 0 may be (--max-rejects)" in result.output
    assert "out.csv.rejects.ndjson" in result.output
    check(300, output="out.csv", bad=[5])
    result = command(*given, "--max-rejects", "1", "--restart", "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["scored"], summary["rejected"]) == (300, 299, 1)
    assert summary["rejects"] == "out.csv.rejects.ndjson"
    assert summary["engine"] == "local"


def test_the_command_takes_columns_parameters_and_a_prefix(folder):
    table = rows(20).rename_columns(["id", "left", "right"])
    pq.write_table(table, folder / "in.parquet")
    result = command(
        *("models/models.py:Scale", "in.parquet", "-o", "out.parquet", "--keep", "none"),
        *("--column", "a=left", "--column", "b=right", "--parameter", "factor=2"),
        *("--prefix", "p_"),
    )
    assert result.exit_code == 0, result.output
    assert read("out.parquet") == [{"p_y": 2 * (100.0 + row)} for row in range(20)]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--engine", "spark"], "no installed plugin has the engine 'spark'; .*jackfield[mllib]\""),
        (["--engine", "flink"], "no installed plugin has the engine 'flink'; installed are: local"),
        (["--column", "a"], "expected INPUT=COLUMN,..., found 'a'"),
        (["--name", "other"], None),
    ],
)
def test_the_command_says_what_is_wrong(folder, arguments, problem):
    pq.write_table(rows(20), folder / "in.parquet")
    result = command("models/models.py:Sum", "in.parquet", "-o", "out.parquet", *arguments)
    text = result.output + str(result.exception or "")
    if problem is None:
        assert result.exit_code == 0
    else:
        assert result.exit_code != 0
        assert all(part in text for part in problem.split(".*"))


def test_an_engine_of_a_plugin_runs_the_job(folder, add_plugin, monkeypatch):
    add_plugin(
        "engines",
        """
from jackfield.hookspecs import EngineSpec, hookimpl


@hookimpl
def jackfield_score_engines():
    return [EngineSpec(name="far", engine="plugin_jackfield_engines:Far")]


class Far:
    def run(self, job, progress):
        from jackfield.score import ScoreProgress, ScoreSummary

        progress(ScoreProgress(3, 0, 3))
        facts = {"rows": 3, "scored": 3, "rejected": 0, "seconds": float(job.engine_options["s"])}
        return ScoreSummary(model="m", version="", engine="far", output=job.output, **facts)
""",
    )
    given = ["score", "m", "t", "-o", "out", "--engine", "far", "--engine-option", "s=2", "--json"]
    result = CliRunner().invoke(cli, given, env={"JACKFIELD_PLUGINS": "engines"})
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows_per_second"] == 1.5
    listed = CliRunner().invoke(cli, ["plugins"], env={"JACKFIELD_PLUGINS": "engines"})
    assert "engine far" in listed.output


def test_a_summary_that_does_not_add_up_is_an_error():
    from jackfield.score import ScoreSummary

    with pytest.raises(ScoreError, match="of 3 rows 1 were scored and 1 rejected"):
        ScoreSummary(
            model="m", version="", engine="e", rows=3, scored=1, rejected=1, seconds=1, output="o"
        )
