"""The life of the session: in processes of their own, with real JVMs that really die."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest

from jackfield import (
    InferRequest,
    ModelLoadError,
    ModelNotReadyError,
    RemoteError,
    RequestedOutput,
    Tensor,
)
from jackfield.client import Client, Retries
from jackfield.score import ScoreJob
from jackfield.testing import running
from jackfield_mllib._score import SparkEngine
from jackfield_mllib._session import Lease, SessionOptions, acquire

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Far more than any of it takes on a quiet machine.
BOUND_S = 120.0
#: A query that takes minutes.
LONG = "SELECT sum(hash(a.id, b.id)) FROM range(3000000) a CROSS JOIN range(3000000) b"

needs_java = pytest.mark.skipif(
    shutil.which("java") is None and "JAVA_HOME" not in os.environ,
    reason="Spark needs Java 17 or 21, and none was found",
)


# ---- what runs in the other processes ----


def tell(**facts: Any) -> None:
    """Hand facts to the test."""
    print(json.dumps(facts), flush=True)  # noqa: T201


def refusal(**options: Any) -> str:
    """Give the text with which a session is refused."""
    try:
        acquire(SessionOptions(**options), name="model").close()
    except ModelLoadError as error:
        return str(error)
    return ""


def is_running(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def life() -> None:
    """One process, from the first model to its own end."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    path = list(sys.path)
    pid = share()
    tell(
        running=is_running(pid),
        threads=[each.name for each in threading.enumerate() if "spark" in each.name],
        files=[each.name for each in Path.cwd().iterdir()],
        path=sys.path == path,
    )
    lease = lose()
    tell(pid=lease.jvm_pid)
    run(lease, [])


def share() -> int:
    """Two models at once, more later, and the signals that a server gets; then all close."""
    leases = {}

    def load(name: str) -> None:
        options = SessionOptions(threads=2, conf={"spark.app.name": "tests"})
        leases[name] = acquire(options, name=name)

    threads = [threading.Thread(target=load, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = leases["a"], leases["b"]
    pid = first.jvm_pid
    assert pid is not None
    conf = first.spark.conf
    told: dict[str, Any] = {
        "pids": [pid, second.jvm_pid],
        "groups": [os.getpgid(pid), os.getpgid(0)],
        "conf": {
            key: conf.get(key)
            for key in (
                "spark.app.name",
                "spark.master",
                "spark.ui.enabled",
                "spark.driver.host",
                "spark.sql.shuffle.partitions",
            )
        },
    }

    before = [signal.signal(each, lambda *_: None) for each in (signal.SIGTERM, signal.SIGINT)]
    os.killpg(0, signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    counts: list[int] = []

    def count(size: int) -> None:
        with first.calls() as spark:
            counts.append(spark.range(size).count())

    threads = [threading.Thread(target=count, args=(10 * each,)) for each in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told["counts"] = sorted(counts)
    for each, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(each, handler)

    told["refused"] = [
        refusal(conf={"spark.app.name": "other"}),
        refusal(conf={"spark.driver.memory": "3g"}),
        refusal(master="local[7]"),
        refusal(remote="sc://localhost"),
    ]
    told["joined"] = [
        refusal(master="local[2]"),
        refusal(conf={"spark.sql.ansi.enabled": False}),
    ]
    told["then"] = refusal(conf={"spark.sql.ansi.enabled": True})
    told["ansi"] = conf.get("spark.sql.ansi.enabled")

    with (
        contextlib.closing(acquire(SessionOptions(), name="a", version="2")) as third,
        third.calls() as spark,
    ):
        first.close()
        first.close()
        second.close()
        told["reloaded"] = [spark.range(3).count(), is_running(pid)]
    try:
        with first.calls():
            pass
    except ModelNotReadyError as error:
        told["closed"] = str(error)
    tell(**told)
    return pid


def lose() -> Lease:
    """A model comes after all were closed; its JVM dies in a call, and can't come back at first."""
    options = SessionOptions(threads=2, conf={"spark.driver.memory": "600m"})
    lease = acquire(options, name="model", version="3")
    tell(memory=lease.spark.sparkContext.getConf().get("spark.driver.memory"))
    reloaded = threading.Event()
    counts: list[int] = []

    def reload(spark: Any) -> None:
        counts.append(spark.range(5).count())
        reloaded.set()

    lease.on_restart(reload)
    other = acquire(SessionOptions(), name="other")

    def fail(spark: Any) -> None:
        message = "its folder is gone"
        raise ModelLoadError(message)

    other.on_restart(fail)
    pid = lease.jvm_pid
    assert pid is not None
    failures: list[BaseException] = []
    job = threading.Thread(target=run, args=(lease, failures))
    job.start()
    while not lease.spark.sparkContext.statusTracker().getActiveJobsIds():
        pass
    before = os.environ.get("JAVA_HOME")
    os.environ["JAVA_HOME"] = "/nowhere"
    os.kill(pid, signal.SIGKILL)
    job.join(BOUND_S)
    tell(alive=job.is_alive(), error=type(failures[0]).__name__, text=str(failures[0]))
    wait_until(lambda: "/nowhere" in lease.problem)
    tell(problem=lease.problem, refused=refusal())
    os.environ.pop("JAVA_HOME")
    if before is not None:
        os.environ["JAVA_HOME"] = before
    assert reloaded.wait(BOUND_S)
    wait_until(lambda: not lease.problem)
    with lease.calls() as spark:
        tell(counts=[*counts, spark.range(7).count()], same=lease.jvm_pid == pid)
    wait_until(lambda: "folder" in other.problem)
    tell(problem=other.problem)
    other.close()
    return lease


def run(lease: Any, failures: list[BaseException]) -> None:
    try:
        with lease.calls() as spark:
            spark.sql(LONG).collect()
    except Exception as error:  # noqa: BLE001  the test looks at it
        failures.append(error)


def wait_until(condition: Any) -> None:
    """Wait for what sets no event."""
    pause = threading.Event()
    for _ in range(int(BOUND_S / 0.05)):
        if condition():
            return
        pause.wait(0.05)
    message = "it took too long"
    raise TimeoutError(message)


def refused() -> None:
    """What is refused before a JVM starts, or by it at once."""
    java = os.environ.pop("JAVA_HOME", None)
    path = os.environ["PATH"]
    os.environ["PATH"] = "/nowhere"
    tell(java=refusal())
    os.environ["PATH"] = path
    os.environ["JAVA_HOME"] = "/nowhere"
    tell(java=refusal())
    old = Path("old", "bin")
    old.mkdir(parents=True)
    (old / "java").write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_412\"' >&2\n")
    (old / "java").chmod(0o755)
    os.environ["JAVA_HOME"] = str(old.parent.resolve())
    tell(java=refusal())
    del os.environ["JAVA_HOME"]
    if java is not None:
        os.environ["JAVA_HOME"] = java
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        quiet = silent.getsockname()[1]
        tell(
            master=refusal(master=f"spark://127.0.0.1:{port},127.0.0.1:{port}"),
            remote=refusal(remote=f"sc://127.0.0.1:{port}/;user_id=me"),
            scheme=refusal(remote="http://127.0.0.1"),
            both=refusal(remote="sc://127.0.0.1", master="local"),
            twice=refusal(conf={"spark.master": "local[3]"}, master="local"),
            word=refusal(master="lokal"),
            memory=refusal(conf={"spark.driver.memory": "lots"}),
            silent=refusal(master=f"spark://127.0.0.1:{quiet}", timeout_s=8),
            mute=refusal(remote=f"sc://127.0.0.1:{quiet}", timeout_s=3),
        )


def connect() -> None:
    """A Spark Connect server, which dies and comes back."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = connect_server(port)
    options = SessionOptions(
        remote=f"sc://127.0.0.1:{port}", conf={"spark.sql.ansi.enabled": False}
    )
    lease = acquire(options, name="model")
    reloaded = threading.Event()
    lease.on_restart(lambda spark: reloaded.set())
    with lease.calls() as spark:
        tell(
            count=spark.range(5).count(),
            ansi=spark.conf.get("spark.sql.ansi.enabled"),
            connect=lease.is_connect,
            pid=lease.jvm_pid,
        )
    with models_of(f"sc://127.0.0.1:{port}") as ask:
        tell(answers=ask(), narrow=ask(bayes=[[1.0]]), refused=ask(bayes=[[-1.0] * 13]))
        tell(scored=score(f"sc://127.0.0.1:{port}"))
        failures: list[BaseException] = []
        job = threading.Thread(target=run, args=(lease, failures))
        job.start()
        threading.Event().wait(1)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        job.join(BOUND_S)
        tell(error=type(failures[0]).__name__, text=str(failures[0]), problem=lease.problem)
        tell(answers=ask())
        server = connect_server(port)
        assert reloaded.wait(BOUND_S)
        wait_until(lambda: not lease.problem)
        with lease.calls() as spark:
            tell(count=spark.range(6).count())
        wait_until(lambda: all(isinstance(each, dict) for each in ask().values()))
        tell(answers=ask())
    lease.close()
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextlib.contextmanager
def models_of(remote: str) -> Iterator[Any]:
    """Serve the models of ``asked.json`` from a Connect server; gives what asks them."""
    asked = json.loads(Path("asked.json").read_text())
    for name, each in asked.items():
        told = {"uri": each["artifact"], "extra": {"remote": remote}}
        Path(name).mkdir()
        Path(name, "model-settings.json").write_text(json.dumps({"name": name, "parameters": told}))
    once = Retries(limit=0)
    with (
        running(*asked) as at,
        Client(at.http, retries=once) as rest,
        Client(at.grpc, retries=once) as grpc,
    ):

        def answer(client: Client, name: str, features: Any) -> Any:
            given = asked[name]["inputs"]
            given = given if features is None else {"features": features}
            tensors = [Tensor.from_array(key, np.array(cells)) for key, cells in given.items()]
            outputs = [RequestedOutput(each) for each in asked[name]["outputs"]]
            try:
                found = client.model(name).infer(InferRequest(tensors, outputs))
            except RemoteError as error:
                return str(error)
            return {each: found[each].tolist() for each in found}

        def ask(**features: Any) -> dict[str, Any]:
            return {
                f"{name} {way}": answer(client, name, features.get(name))
                for name in features or asked
                for way, client in (("http", rest), ("grpc", grpc))
            }

        yield ask


def score(remote: str) -> dict[str, Any]:
    """Score the table ``in.parquet`` with a pipeline; give its predictions and what was refused."""
    told = ScoreJob(
        model=json.loads(Path("asked.json").read_text())["iris"]["artifact"],
        inputs=(str(Path("in.parquet").resolve()),),
        output=str(Path("out").resolve()),
        keep=("id",),
        engine_options={"remote": remote},
        max_rejects=1,
    )
    found = SparkEngine().run(told, lambda _: None)
    rows = sorted(pq.read_table(told.output).to_pylist(), key=lambda row: row["id"])
    rejects = [json.loads(line) for line in Path(found.rejects).read_text().splitlines()]
    return {
        "rows": [(row["id"], row["prediction"]) for row in rows],
        "rejects": [(each["row"], each["reason"]) for each in rejects],
    }


def connect_server(port: int) -> subprocess.Popen[bytes]:
    """Start one, and wait until it listens."""
    home = Path(pyspark.__file__).parent
    command = [
        str(home / "bin" / "spark-submit"),
        "--class",
        "org.apache.spark.sql.connect.service.SparkConnectServer",
        *("--master", "local[2]"),
        *("--conf", f"spark.connect.grpc.binding.port={port}"),
        *("--conf", "spark.connect.grpc.binding.address=127.0.0.1"),
        *("--conf", "spark.ui.enabled=false"),
        *("--conf", "spark.driver.host=127.0.0.1"),
        "spark-internal",
    ]
    # else what waits for this process's output waits for that one, too
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, start_new_session=True, **quiet)

    def is_listening() -> bool:
        assert server.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(is_listening)
    return server


# ---- the tests ----


def start(name: str, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Run one of the functions above in a process of its own."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-W", "error", __file__, name],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )


def facts_of(name: str, folder: Path) -> list[dict[str, Any]]:
    """Run one of them to its end; give what it told."""
    log = folder / "log"
    with start(name, folder, log) as process:
        try:
            told, _ = process.communicate(timeout=BOUND_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, log.read_text()
    assert "WARN" not in log.read_text()
    return [json.loads(line) for line in told.splitlines()]


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Iterator[dict[str, dict[str, Any]]]:
    """Let a process live until it runs a query; give what it told, and the process."""
    folder = tmp_path_factory.mktemp("life")
    names = ("shared", "closed", "next", "lost", "waiting", "back", "unfit", "last")
    with start("life", folder, log=folder / "log") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in names]
        assert all(lines), (folder / "log").read_text()
        try:
            yield dict(zip(names, map(json.loads, lines), strict=True), process=process)
        finally:
            process.kill()
    log = (folder / "log").read_text()
    assert "jackfield.spark: Spark was started again, with 2 models" in log
    assert "WARN" not in log
    assert "py4j.clientserver: " not in log, "of each of its connections"


@needs_java
def test_models_share_one_jvm_that_is_deaf_to_the_servers_signals(told):
    found = told["shared"]
    assert len(set(found["pids"])) == 1
    assert found["groups"][0] == found["pids"][0] != found["groups"][1]
    assert found["conf"] == {
        "spark.app.name": "tests",
        "spark.master": "local[2]",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": "2",
    }
    assert found["counts"] == [10 * each for each in range(16)]
    name, memory, master, remote = found["refused"]
    assert "'spark.app.name' is 'other'" in name
    assert "runs with 'tests', as model" in name
    assert "'spark.driver.memory' is '3g'" in memory
    assert "'spark.master' is 'local[7]'" in master
    assert "'local[2]'" in master
    assert "'spark.remote' is 'sc://localhost'" in remote
    # what Spark can change while it runs is the first one's to decide
    assert found["joined"] == ["", ""]
    assert "'false', as model 'model' says" in found["then"]
    assert found["ansi"] == "false"
    assert found["reloaded"] == [3, True]
    assert "it is closed" in found["closed"]


@needs_java
def test_the_last_one_ends_the_jvm_and_the_next_one_starts_another(told):
    assert told["closed"] == {"running": False, "threads": [], "files": ["log"], "path": True}
    assert told["next"] == {"memory": "600m"}


@needs_java
def test_a_jvm_that_is_killed_fails_the_calls_at_once_and_comes_back(told):
    lost = told["lost"]
    assert lost["error"] == "ModelNotReadyError"
    assert "version '3' of model 'model' is not ready" in lost["text"]
    assert "the JVM of Spark was killed by SIGKILL" in lost["text"]
    assert "again" in lost["text"]
    assert not lost["alive"]
    waiting = told["waiting"]
    assert "was killed by SIGKILL, and can't be started again" in waiting["problem"]
    assert "Spark needs Java 17 or 21; JAVA_HOME is '/nowhere'" in waiting["problem"]
    assert waiting["refused"] == waiting["problem"]
    assert told["back"] == {"counts": [5, 7], "same": False}
    wanted = "it can't be loaded again after Spark was lost: its folder is gone"
    assert told["unfit"]["problem"] == wanted


@needs_java
def test_a_server_that_is_killed_leaves_no_jvm(told):
    jvm = os.pidfd_open(told["last"]["pid"])
    try:
        told["process"].kill()
        waiting = select.poll()
        waiting.register(jvm, select.POLLIN)
        assert waiting.poll(BOUND_S * 1000), "the JVM outlives its server"
    finally:
        os.close(jvm)


def test_what_can_not_be_started_is_told_in_time(tmp_path):
    absent, broken, old, told = facts_of("refused", tmp_path)
    assert absent["java"].startswith("Spark needs Java 17 or 21; none was found: install")
    assert "JAVA_HOME is '/nowhere', which has no bin/java" in broken["java"]
    assert "is version 1.8.0_412: install" in old["java"]
    assert "'remote' is 'sc://127.0.0.1:" in told["remote"]
    assert "Connection refused" in told["remote"]
    assert "'sc://host:port', found 'http://127.0.0.1'" in told["scheme"]
    assert "a session is of one of the two" in told["both"]
    assert "name it once" in told["twice"]
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        return
    assert "'master' is 'spark://127.0.0.1:" in told["master"]
    assert told["master"].count("refused") == 2
    assert "Master must either be yarn or start with spark, k8s, or local" in told["word"]
    assert "\n" not in told["word"]
    assert "lots" in told["memory"]
    assert "within 8 s" in told["silent"]
    assert "no answer within 3 s" in told["mute"]


@needs_java
@pytest.mark.slow
def test_models_of_a_connect_server_that_is_killed_and_found_again(trained, expected, tmp_path):
    pytest.importorskip("grpc_status", reason="Spark Connect needs grpcio-status")
    pytest.importorskip("zstandard", reason="Spark Connect needs zstandard")
    asked, wanted = {}, {}
    for name in ("iris", "bayes"):
        outputs = ["prediction", "probability"]
        inputs = {each.name: each.array.tolist() for each in trained[name].rows.tensors()}
        artifact = str(trained[name].artifact)
        asked[name] = {"artifact": artifact, "inputs": inputs, "outputs": outputs}
        told = expected(trained[name])
        answer = {
            "prediction": told["prediction"],
            "probability": [each.toArray().tolist() for each in told["probability"]],
        }
        wanted |= {f"{name} http": answer, f"{name} grpc": answer}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    flowers = asked["iris"]["inputs"]
    widths = [*flowers["petal_width"][:-1], None]
    ids = range(len(widths))
    table = pa.table({"id": ids, **flowers, "petal_width": widths})
    pq.write_table(table, tmp_path / "in.parquet")

    first, served, scored, second, absent, third, back = facts_of("connect", tmp_path)
    assert first == {"count": 5, "ansi": "false", "connect": True, "pid": None}
    assert second["error"] == "ModelNotReadyError"
    assert "Spark Connect server at 'sc://127.0.0.1:" in second["text"]
    assert "again" in second["problem"]
    assert third == {"count": 6}
    # of a classic session, bit for bit
    assert served["answers"] == back["answers"] == wanted
    for way in ("http", "grpc"):
        assert "expected [-1, 13] (vectors of 13)" in served["narrow"][f"bayes {way}"]
        assert "requires nonnegative feature values" in served["refused"][f"bayes {way}"]
        assert "SQLSTATE" not in served["refused"][f"bayes {way}"]
    assert all("is lost" in text for text in absent["answers"].values())
    *rows, last = zip(ids, wanted["iris http"]["prediction"], strict=True)
    assert scored["scored"]["rows"] == [list(row) for row in rows]
    ((place, reason),) = scored["scored"]["rejects"]
    assert place == last[0]
    assert "column 'petal_width' has no value, and needs one" in reason


if __name__ == "__main__":
    globals()[sys.argv[1]]()
