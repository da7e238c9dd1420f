"""`jackfield bench` against a real server, with models of own code."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from jackfield import InferRequest, ModelNotFoundError, RemoteRequestError, Tensor, __version__
from jackfield._cli import cli
from jackfield._wire import json as wire

MODEL = '''
import itertools
import os
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

Rows = Annotated[NDArray[np.float64], (-1, 3)]


class Scores:
    def infer(self, x: Rows) -> NDArray[np.float64]:
        return x.sum(axis=1)


class Failing:
    def infer(self, x: Rows) -> NDArray[np.float64]:
        raise RuntimeError("never")


class Counting:
    """Answers differently each time; every fourth call fails."""

    def load(self) -> None:
        self.count = itertools.count()

    def infer(self, x: Rows) -> NDArray[np.int64]:
        number = next(self.count)
        if number % 4 == 3:
            raise RuntimeError("every fourth")
        return np.array([number])


class Telling:
    """Writes a file when it is asked."""

    def infer(self, x: Rows) -> NDArray[np.float64]:
        Path(os.environ["TOLD"]).touch()
        return x.sum(axis=1)
'''
MODELS = {
    "scores": "Scores",
    "failing": "Failing",
    "counting": "Counting",
    "telling": "Telling",
}
QUICK = ["--duration", "200ms", "--warm-up", "50ms"]


def clean_environment(**more):
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.upper().startswith(("JACKFIELD_", "MLSERVER_"))
    }
    return kept | {"JACKFIELD_PLUGINS": ""} | more


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return tmp_path_factory.mktemp("told") / "asked"


@pytest.fixture(scope="module")
def urls(tmp_path_factory, told):
    """A server's URLs: HTTP and gRPC."""
    folder = tmp_path_factory.mktemp("models")
    for name, kind in MODELS.items():
        home = folder / name
        home.mkdir()
        (home / "model.py").write_text(MODEL)
        settings = {"name": name, "implementation": f"model.{kind}"}
        (home / "model-settings.json").write_text(json.dumps(settings))
    ports = [part for port in ("http", "grpc", "metrics") for part in (f"--{port}-port", "0")]
    process = subprocess.Popen(
        [sys.executable, "-m", "jackfield", "serve", folder, *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env=clean_environment(TOLD=str(told)),
    )
    try:
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith("metrics"):
                break
        http = re.search(r"^REST +(\S+)", output, re.M)[1]
        grpc = re.search(r"^gRPC +(\S+)", output, re.M)[1]
        yield http, f"grpc://{grpc}"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def until_exists():
    """Wait for a file that a process brings about."""

    def wait(file, process):
        deadline = time.monotonic() + 60
        while not file.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait


@pytest.fixture
def bench():
    """Run the command in this process: exit code and output."""

    def run(*arguments, **options):
        found = CliRunner().invoke(cli, ["bench", *map(str, arguments)], **options)
        if found.exception and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found

    return run


@pytest.fixture
def found(bench):
    """Run the command to its JSON."""

    def run(*arguments, exit_code=0, **options):
        result = bench(*arguments, *QUICK, "--json", **options)
        assert result.exit_code == exit_code, result.output
        return json.loads(result.stdout)

    return run


# ---- loads ----


def test_closed_and_open_loops_are_measured_and_all_is_told(urls, found):
    said = found(
        urls[0], "scores", "--connections", "1,4", "--rate", "50,200", "--arrivals", "constant"
    )
    assert said["jackfield"] == __version__
    assert said["interrupted"] is False
    assert 0 < said["percentile_error"] < 0.01
    assert said["settings"]["duration_s"] == 0.2
    assert said["settings"]["connections"] == [1, 4]
    [server] = said["servers"]
    assert (server["url"], server["name"]) == (urls[0], "jackfield")
    results = said["results"]
    assert [(each["loop"], each["connections"], each["rate_per_s"]) for each in results] == [
        ("closed", 1, None),
        ("closed", 4, None),
        ("open", None, 50),
        ("open", None, 200),
    ]
    for each in results:
        assert each["answered"] == each["sent"] > 0
        assert each["failed"] == each["unanswered"] == each["mismatches"] == 0
        assert each["measured_s"] == pytest.approx(0.2)
        latency = each["latency_s"]
        order = ["min", "p50", "p90", "p99", "p99.9", "max"]
        assert sorted(latency[key] for key in order) == [latency[key] for key in order]
        assert each["generator"]["cpu_share"] >= 0
        assert [round_["sent"] for round_ in each["rounds"]] == [each["sent"]]
    assert results[3]["sent"] + results[3]["dropped"] == 40


def test_a_table_is_printed_for_people(urls, bench):
    result = bench(urls[0], "scores", "--connections", "2", "--rate", "100", *QUICK)
    assert result.exit_code == 0
    first, heading, *rows = result.stdout.strip().splitlines()
    assert first.startswith(f"{urls[0]} (jackfield ")
    assert re.split(r"  +", heading)[:7] == [
        *("LOAD", "ANSWERS/S", "P50 MS", "P90", "P99", "P99.9", "MAX")
    ]
    # there may be remarks below: how busy the machine is, the test doesn't decide
    assert [row.partition("  ")[0] for row in rows[:2]] == ["2 connections", "100/s"]
    assert result.stderr == ""  # no progress where nobody looks


def test_without_a_load_the_callers_are_1_16_and_64(urls, found):
    said = found(urls[0], "scores")
    assert [each["connections"] for each in said["results"]] == [1, 16, 64]


def test_a_sweep_takes_rates_below_the_peak(urls, found):
    said = found(urls[0], "scores", "--rate", "sweep", "--connections", "4")
    closed, *rates = said["results"]
    peak = closed["throughput_per_s"]
    assert [each["rate_per_s"] for each in rates] == pytest.approx(
        [peak * percent / 100 for percent in range(10, 100, 10)], rel=0.01
    )


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("scheme", [0, 1], ids=["http", "grpc"])
def test_every_form_of_the_protocol_is_sent_and_its_answers_are_read(
    urls, found, scheme, is_binary
):
    options = ["--binary"] if is_binary else []
    said = found(urls[scheme], "scores", "--connections", "2", "--rows", "50", "--check", *options)
    [result] = said["results"]
    assert result["answered"] == result["sent"] > 0
    assert result["mismatches"] == 0
    is_text = scheme == 0 and not is_binary
    # 50 rows of 3 float64 are 1,200 bytes
    assert (said["servers"][0]["request_bytes"] > 2000) is is_text


def test_several_processes_share_a_load(urls, found):
    said = found(
        urls[0],
        "scores",
        "--connections",
        "5",
        "--rate",
        "100",
        "--processes",
        "2",
        "--arrivals",
        "constant",
        "--check",
    )
    closed, opened = said["results"]
    assert closed["answered"] == closed["sent"] > 0
    assert opened["sent"] + opened["dropped"] == 20
    assert closed["mismatches"] == 0


# ---- requests ----


def request_of(*values):
    return InferRequest([Tensor.from_array("x", [list(values)])])


def test_a_request_comes_from_a_file(urls, found, tmp_path):
    file = tmp_path / "request.json"
    file.write_bytes(wire.encode_request(request_of(1.0, 2.0, 3.0))[0])
    said = found(urls[0], "scores", "--connections", "1", "--request", file)
    assert said["servers"][0]["request_bytes"] == file.stat().st_size
    assert said["settings"]["request"] == "file"
    assert said["results"][0]["answered"] > 0


def test_a_file_may_have_binary_tensors(urls, found, tmp_path):
    file = tmp_path / "request.bin"
    file.write_bytes(wire.encode_request(request_of(1.0, 2.0, 3.0), is_binary=True)[0])
    said = found(urls[0], "scores", "--connections", "1", "--request", file, "--check")
    assert said["results"][0]["answered"] > 0
    assert said["results"][0]["failed"] == 0


@pytest.mark.parametrize("scheme", [0, 1], ids=["http", "grpc"])
def test_a_request_that_the_model_refuses_is_not_repeated(urls, bench, tmp_path, scheme):
    file = tmp_path / "request.json"
    file.write_bytes(wire.encode_request(request_of(1.0, 2.0))[0])
    with pytest.raises(RemoteRequestError, match="--request FILE gives another"):
        bench(urls[scheme], "scores", "--request", file)


# ---- failures ----


def test_failures_are_counted_and_shown(urls, found, bench):
    said = found(urls[0], "counting", "--connections", "1", "--rate", "100")
    for result in said["results"]:
        [(status, failure)] = result["failures"].items()
        assert status == "500"
        assert failure["count"] == result["failed"] > 0
        assert result["answered"] + result["failed"] == result["sent"]
    result = bench(urls[1], "counting", "--connections", "1", *QUICK)
    assert re.search(r"^INTERNAL: \d+ requests; the first: .*'counting'", result.stdout, re.M)


def test_where_every_request_fails_the_exit_code_tells(urls, found):
    said = found(urls[0], "failing", "--connections", "1", exit_code=1)
    assert said["results"][0]["answered"] == 0


def test_answers_that_differ_are_told_on_demand(urls, bench, found):
    result = bench(urls[0], "counting", "--connections", "1", "--check", *QUICK)
    assert result.exit_code == 1
    differs = r"\d+ answers differ; of the first, output 'output-0' has \d+ at 0, not \d+"
    assert re.search(rf"^1 connection: {differs}$", result.stdout, re.M)
    assert found(urls[0], "counting", "--connections", "1")["results"][0]["mismatches"] == 0


@pytest.mark.parametrize("scheme", [0, 1], ids=["http", "grpc"])
def test_an_unknown_model_is_told_with_the_names_that_are_close(urls, bench, scheme):
    with pytest.raises(ModelNotFoundError, match=r"'score' is not served here; .*'scores'"):
        bench(urls[scheme], "score")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_not_there_is_told_with_what_to_do(bench, scheme):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = bench(f"{scheme}://127.0.0.1:{port}", "m", "--timeout-s", "5")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {scheme}://127.0.0.1:{port}: no answer: ")
    assert "jackfield serve PATH starts one" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ftp://x", "m"], "expected a URL like"),
        (["http://x", "m", "--rate", "fast"], "expected 'sweep', or rates above 0"),
        (["http://x", "m", "--rate", "0"], "expected 'sweep', or rates above 0"),
        (["http://x", "m", "--rate", "nan"], "expected 'sweep', or rates above 0"),
        (["http://x", "m", "--connections", "1.5"], "expected numbers of 1 or more"),
        (["http://x", "m", "--duration", "long"], "expected a time like 5s"),
        (["http://x", "m", "--duration", "0"], "expected a time above 0"),
        (["--plot", "http://x", "m"], "expected FILE.png"),
    ],
)
def test_options_that_make_no_sense_are_refused(bench, arguments, expected):
    result = bench(*arguments)
    assert result.exit_code == 2
    assert expected in result.stderr


# ---- comparisons ----


def test_servers_are_compared_round_by_round(urls, found, bench):
    said = found(
        urls[0],
        "scores",
        "--compare",
        urls[1],
        "--connections",
        "2",
        "--rate",
        "100",
        "--rounds",
        "2",
    )
    assert [each["url"] for each in said["results"]] == [*urls, *urls]
    assert all(len(each["rounds"]) == 2 for each in said["results"])
    for compared in said["compared"]:
        assert (compared["url"], compared["to"]) == (urls[1], urls[0])
        for ratio in compared["ratios"].values():
            assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    mine, other = (each["rounds"] for each in said["results"][:2])
    ratios = [
        theirs["throughput_per_s"] / ours["throughput_per_s"]
        for ours, theirs in zip(mine, other, strict=True)
    ]
    assert said["compared"][0]["ratios"]["throughput"]["min"] == pytest.approx(min(ratios))
    result = bench(
        urls[0], "scores", "--compare", urls[1], "--connections", "2", "--rounds", "2", *QUICK
    )
    assert f"{urls[1]} / {urls[0]}: median (min-max) of the rounds" in result.stdout
    assert re.search(r"^2 connections +\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)", result.stdout, re.M)


def test_a_comparison_has_three_rounds(urls, found):
    said = found(urls[0], "scores", "--compare", urls[0], "--connections", "1")
    assert [len(each["rounds"]) for each in said["results"]] == [3, 3]


# ---- plots ----


def test_a_plot_is_drawn_on_the_terminal(urls, bench):
    result = bench(urls[0], "scores", "--rate", "50,100", *QUICK, "--plot")
    drawing = result.stdout.partition("latency, ms\n")[2]
    assert re.search(r"\. p50 +o p99 +\^ p99\.9$", drawing.rstrip())
    assert drawing.count(".") > 2


def test_a_plot_in_a_file_needs_matplotlib_and_says_so_before_it_measures(
    bench, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = bench("http://127.0.0.1:9", "m", "--plot", tmp_path / "plot.png")
    assert result.exit_code == 2
    assert 'pip install "jackfield[bench]"' in result.stderr


def test_a_plot_is_drawn_into_a_file(urls, bench, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "plot.png"
    result = bench(urls[0], "scores", "--rate", "50,100", *QUICK, "--plot", file)
    assert result.exit_code == 0
    assert file.read_bytes().startswith(b"\x89PNG")


# ---- the end ----


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_ends_it_with_what_was_measured(urls, told, until_exists, processes):
    told.unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "jackfield", "bench", urls[0], "telling", "--json"),
            *("--connections", "2,3", "--duration", "10m", "--warm-up", "0"),
            *("--processes", str(processes)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    try:
        until_exists(told, process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    said = json.loads(output)
    assert said["interrupted"] is True
    assert all(each["measured_s"] < 600 for each in said["results"])
    assert all(each["sent"] == each["answered"] + each["unanswered"] for each in said["results"])
