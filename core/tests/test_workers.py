"""Several workers, as real processes: what callers and the operator see of them."""

import asyncio
import contextlib
import functools
import itertools
import json
import os
import queue
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from jackfield._wire.descriptors import METHODS, SERVICE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")

WAIT_S = 20

#: Answers its process and what the file "content" held when it was loaded; "hits" tells a worker
#: (by its process) what to do when it loads.
CODE = """
import os
import signal
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PLACE = Path(__file__).parent


class M:
    def load(self) -> None:
        hits = (PLACE / "hits").read_text().split() if (PLACE / "hits").exists() else []
        if f"{os.getpid()}:fail" in hits or "all:fail" in hits:
            raise ValueError("this worker has a bad day")
        if f"{os.getpid()}:die" in hits or "all:die" in hits:
            os.kill(os.getpid(), signal.SIGKILL)
        if f"{os.getpid()}:wait" in hits or "all:wait" in hits:
            (PLACE / "began").write_text("began")
            (PLACE / "go_on").read_text()
        self.content = int((PLACE / "content").read_text())

    def infer(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.array([os.getpid(), self.content, len(x)])


class Hangs(M):
    async def infer(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        if x[0] < 0:
            time.sleep(3600)
        return np.array([os.getpid(), self.content, len(x)])


class Gated(M):
    def infer(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        if x[0] < 0:
            (PLACE / "began").write_text("began")
            (PLACE / "go_on").read_text()
        return np.array([os.getpid(), self.content, len(x)])


class TellsExperiments(M):
    def load(self) -> None:
        (PLACE / "experiments").write_text(os.environ.get("GRPC_EXPERIMENTS", "none"))


class Notes(M):
    def load(self) -> None:
        self.notes = os.open(PLACE / "begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def infer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        os.write(self.notes, f"{int(x[0])} ".encode())
        time.sleep(0.002)
        return x
"""

BODY = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]}
NEGATIVE = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [-1.0]}]}


class Served:
    """``jackfield serve`` in processes of its own."""

    def __init__(self, path, *options, command=None):
        command = command or [sys.executable, "-m", "jackfield", "serve", str(path)]
        ports = () if "--http-port" in options else ("--http-port", "0")
        self.process = subprocess.Popen(
            [*command, *ports, "--grpc-port", "0", "--metrics-port", "0", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.logged = []
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def until_logged(self, text):
        """Wait for a line of the log that has the text; give it."""
        while (line := self._lines.get(timeout=WAIT_S)) is not None:
            self.logged.append(line)
            if text in line:
                return line
        raise AssertionError(f"'{text}' is not in the log:\n{''.join(self.logged)}")

    def until_announced(self):
        # a start that hangs ends here, too
        guard = threading.Timer(WAIT_S, self.process.kill)
        guard.start()
        output = []
        for line in self.process.stdout:
            output.append(line)
            if line.startswith("metrics "):
                break
        guard.cancel()
        guard.join()
        self.announced = text = "".join(output)
        assert "metrics " in text, self.rest()
        self.http = re.search(r"^REST +(\S+)", text, re.MULTILINE)[1]
        self.grpc = re.search(r"^gRPC +(\S+)", text, re.MULTILINE)[1]
        self.metrics = re.search(r"^metrics +(\S+)", text, re.MULTILINE)[1]
        self.pids = [int(each) for each in re.findall(r"^\d+ +(\d+) ", text, re.MULTILINE)]
        return self

    def client_of(self, pid, clients):
        """Connect until it is to the wanted worker."""
        for _ in range(200):
            client = clients.enter_context(httpx.Client(base_url=self.http, timeout=WAIT_S))
            if infer(client)[0] == pid:
                return client
        raise AssertionError("no connection comes to this worker")

    def ask_pids(self, clients):
        """Connect until each of two workers has answered."""
        pids = set()
        while len(pids) < 2:
            client = clients.enter_context(httpx.Client(base_url=self.http, timeout=WAIT_S))
            pids.add(infer(client)[0])
        return pids

    def scrape(self):
        """Read the metrics: values by the names and labels of the samples."""
        text = httpx.get(self.metrics, timeout=WAIT_S).text
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def signal(self, number):
        self.process.send_signal(number)

    def rest(self):
        """Wait for the end; give the log."""
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        while (line := self._lines.get(timeout=WAIT_S)) is not None:
            self.logged.append(line)
        self._lines.put(None)
        return "".join(self.logged)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(WAIT_S)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(WAIT_S)
            self.process.stdout.close()
            self.process.stderr.close()


@pytest.fixture
def model(add_model):
    """Write the model m, whose runtime is a class of `CODE`; gives its folder."""

    def make(kind="M", name="m", **settings):
        folder = add_model(name, kind, code=CODE, **settings)
        (folder / "content").write_text("1")
        return folder

    return make


@pytest.fixture
def serve(models_dir):
    with contextlib.ExitStack() as running:

        def start(*options, workers=2, **how):
            served = Served(models_dir, "--workers", workers, *options, **how)
            running.callback(served.close)
            return served

        yield start


@pytest.fixture
def clients():
    with contextlib.ExitStack() as stack:
        yield stack


def infer(client, body=BODY, name="m"):
    response = client.post(f"/v2/models/{name}/infer", json=body)
    assert response.status_code == 200, response.text
    return response.json()["outputs"][0]["data"]


def state(client, name="m"):
    [line] = [each for each in client.post("/v2/repository/index").json() if each["name"] == name]
    return line["state"], line["reason"]


def until_dead(pid):
    """Wait for the end of a process that is not ours to wait for."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], WAIT_S)[0], f"process {pid} lives on"
    finally:
        os.close(descriptor)


def sum_of(samples, name, **labels):
    return sum(
        value
        for (each, *pairs), value in samples.items()
        if each == name and labels.items() <= dict(pairs).items()
    )


def test_all_workers_answer_on_the_same_ports_and_tell_of_all(model, serve):
    model()
    served = serve().until_announced()
    assert len(served.pids) == 2
    assert "memory (PSS)".upper() in served.announced.upper()

    def ask(_):
        # a connection of its own for each: the system chooses a worker by connection
        with httpx.Client(base_url=served.http, timeout=WAIT_S) as client:
            return [infer(client)[0] for _ in range(5)]

    def ask_grpc(_):
        kind = METHODS["ModelInfer"]
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(served.grpc, options=options) as channel:
            message = kind.request(model_name="m")
            tensor = message.inputs.add(name="x", datatype="FP64", shape=[1])
            tensor.contents.fp64_contents.append(1.0)
            answer = channel.unary_unary(
                f"/{SERVICE}/ModelInfer",
                request_serializer=kind.request.SerializeToString,
                response_deserializer=kind.response.FromString,
            )(message, timeout=WAIT_S)
            return (
                int.from_bytes(answer.raw_output_contents[0][:8], "little")
                if (answer.raw_output_contents)
                else answer.outputs[0].contents.int64_contents[0]
            )

    before = sum_of(served.scrape(), "jackfield_infer_requests_total", outcome="success")
    with ThreadPoolExecutor(4) as pool:
        rest = [pid for pids in pool.map(ask, range(40)) for pid in pids]
        rpc = list(pool.map(ask_grpc, range(40)))
    assert {*rest} == {*rpc} == {*served.pids}
    samples = served.scrape()
    assert sum_of(samples, "jackfield_infer_requests_total", outcome="success") == before + 240
    assert sum_of(samples, "jackfield_infer_seconds_bucket", le="+Inf") == before + 240
    assert sum_of(samples, "jackfield_infer_seconds_count") == before + 240
    assert sum_of(samples, "jackfield_infer_in_progress") == 0
    assert sum_of(samples, "jackfield_workers", state="serving") == 2
    for worker in ("1", "2"):
        assert sum_of(samples, "process_resident_memory_bytes", worker=worker) > 10e6
        assert sum_of(samples, "jackfield_worker_memory_bytes", worker=worker, kind="unique") > 1e6
    with httpx.Client(base_url=served.http) as client:
        [record] = client.get("/v2/models/stats").json()["model_stats"]
        assert record["inference_stats"]["success"]["count"] == before + 240
        assert record == client.get("/v2/models/m/stats").json()["model_stats"][0]
        assert client.get("/v2/health/ready").status_code == 200
    served.signal(signal.SIGTERM)
    served.rest()
    assert served.process.returncode == 0


def test_a_change_reaches_all_workers_or_none(model, serve, clients):
    folder = model()
    served = serve().until_announced()
    one, other = (served.client_of(pid, clients) for pid in served.pids)

    assert one.post("/v2/repository/models/m/unload").status_code == 200
    for client in (one, other):
        assert client.post("/v2/models/m/infer", json=BODY).status_code == 503
        assert state(client) == ("UNAVAILABLE", "unloaded")

    (folder / "content").write_text("2")
    assert other.post("/v2/repository/models/m/load").status_code == 200
    assert [infer(client)[1] for client in (one, other)] == [2, 2]
    assert state(one) == state(other) == ("READY", "")

    # what this worker can't load, none does
    (folder / "content").write_text("3")
    for index, refused in enumerate(served.pids):
        (folder / "hits").write_text(f"{refused}:fail")
        response = one.post("/v2/repository/models/m/load")
        assert response.status_code == 503
        assert "this worker has a bad day" in response.json()["error"]
        assert ("worker 2" in response.json()["error"]) == (index == 1)
        assert [infer(client)[1] for client in (one, other)] == [2, 2]
    assert one.post("/v2/repository/models/nothing/load").status_code == 404
    assert one.post("/v2/repository/models/nothing/unload").status_code == 404

    rate = {"trace_rate": "7"}
    assert one.post("/v2/models/m/trace/setting", json=rate).json()["trace_rate"] == "7"
    assert other.get("/v2/models/m/trace/setting").json()["trace_rate"] == "7"
    assert one.post("/v2/trace/setting", json={"trace_rate": "x"}).status_code == 400
    huge = {"log_verbose_level": 10**30}
    assert one.post("/v2/logging", json=huge).status_code == 400
    assert one.post("/v2/logging", json={"log_verbose_level": 1}).status_code == 200
    assert other.get("/v2/logging").json()["log_verbose_level"] == 1


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="there is no shared memory")
def test_a_region_of_shared_memory_is_registered_in_all_workers(model, serve, clients):
    model()
    served = serve("--shared-memory").until_announced()
    one, other = (served.client_of(pid, clients) for pid in served.pids)
    name = f"workers-{os.getpid()}"
    with open(f"/dev/shm/{name}", "wb") as file:
        file.write(bytes(64))
    try:
        path = "/v2/systemsharedmemory/region/r"
        wanted = {"key": name, "byte_size": 64}
        assert one.post(f"{path}/register", json=wanted).status_code == 200
        assert other.get(f"{path}/status").json()[0]["byte_size"] == 64
        assert other.post(f"{path}/register", json=wanted).status_code == 400
        assert other.post(f"{path}/unregister").status_code == 200
        assert one.get("/v2/systemsharedmemory/status").json() == []
    finally:
        os.unlink(f"/dev/shm/{name}")


def test_a_worker_that_dies_is_replaced_by_one_that_is_as_the_others(model, serve, clients):
    folder = model()
    model(name="gone")
    served = serve().until_announced()
    one, other = (served.client_of(pid, clients) for pid in served.pids)
    assert one.post("/v2/repository/models/gone/unload").status_code == 200
    one.post("/v2/models/m/trace/setting", json={"trace_rate": "7"})
    one.post("/v2/logging", json={"log_verbose_level": 1})
    for _ in range(5):
        infer(one)
        infer(other)
    before = served.scrape()

    # a load that a worker does not survive is made nowhere
    (folder / "content").write_text("2")
    (folder / "hits").write_text(f"{served.pids[1]}:die")
    response = one.post("/v2/repository/models/m/load")
    assert response.status_code == 503
    assert "worker 2: it died" in response.json()["error"]
    (folder / "content").write_text("1")
    served.until_logged("worker 2 was killed by signal 9 (SIGKILL)")
    # the others go on
    assert infer(one)[1] == 1
    assert one.get("/v2/health/ready").status_code == 200
    served.until_logged("worker 2 serves again")

    after = served.scrape()
    success = "jackfield_infer_requests_total"
    assert sum_of(after, success, model="m", outcome="success") >= sum_of(
        before, success, model="m", outcome="success"
    )
    assert sum_of(after, "jackfield_worker_restarts_total") == 1
    for _ in range(200):
        new = clients.enter_context(httpx.Client(base_url=served.http, timeout=WAIT_S))
        if infer(new)[0] not in served.pids:
            break
    assert new.post("/v2/models/gone/infer", json=BODY).status_code == 503
    assert state(new, "gone") == ("UNAVAILABLE", "unloaded")
    assert state(new) == ("READY", "")
    assert new.get("/v2/models/m/trace/setting").json()["trace_rate"] == "7"
    assert new.get("/v2/logging").json()["log_verbose_level"] == 1


def test_a_change_whose_worker_dies_keeps_no_other_from_changing(model, serve, clients):
    folder = model()
    for name in ("began", "go_on"):
        os.mkfifo(folder / name)
    served = serve().until_announced()
    one, other = (served.client_of(pid, clients) for pid in served.pids)
    (folder / "hits").write_text(f"{served.pids[1]}:wait")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(one.post, "/v2/repository/models/m/load")
        assert (folder / "began").read_text() == "began"
        os.kill(served.pids[0], signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            asked.result(WAIT_S)
    served.until_logged("worker 1 was killed by signal 9 (SIGKILL)")
    (folder / "go_on").write_text("go on")
    (folder / "hits").unlink()
    served.until_logged("worker 1 serves again")
    (folder / "content").write_text("2")
    assert other.post("/v2/repository/models/m/load").status_code == 200
    assert infer(other)[1] == 2


def test_a_worker_that_hangs_is_killed_and_tells_where_it_was(model, serve, clients):
    model("Hangs")
    served = serve("--worker-timeout-s", 1).until_announced()
    client = served.client_of(served.pids[0], clients)
    with pytest.raises(httpx.TransportError):
        infer(client, NEGATIVE)
    served.until_logged("worker 1 has not answered for 1 s")
    served.until_logged("runtimes.py")
    served.until_logged("worker 1 serves again")


def test_a_signal_reloads_each_model_in_all_workers_or_in_none(model, serve, clients):
    folder = model()
    model(name="second")
    served = serve().until_announced()
    both = [served.client_of(pid, clients) for pid in served.pids]
    (folder / "content").write_text("2")
    served.signal(signal.SIGHUP)
    served.until_logged("reloaded all models")
    assert [infer(client)[1] for client in both] == [2, 2]
    (folder / "content").write_text("3")
    (folder.parent / "second" / "content").write_text("3")
    (folder.parent / "second" / "hits").write_text(f"{served.pids[1]}:fail")
    served.signal(signal.SIGHUP)
    assert "'second'" in (line := served.until_logged("left as it was"))
    assert "worker 2" in line
    served.until_logged("reloaded all models in all workers; failed: 1")
    assert [infer(client)[1] for client in both] == [3, 3]
    assert [infer(client, name="second")[1] for client in both] == [1, 1]


def test_a_signal_reloads_where_one_process_serves(model, serve, clients):
    folder = model()
    served = serve(workers=1).until_announced()
    client = clients.enter_context(httpx.Client(base_url=served.http, timeout=WAIT_S))
    (folder / "content").write_text("2")
    model(name="new")
    served.signal(signal.SIGHUP)
    served.until_logged("reloaded all models\n")
    assert [infer(client)[1], infer(client, name="new")[1]] == [2, 1]
    (folder / "hits").write_text("all:fail")
    served.signal(signal.SIGHUP)
    assert "this worker has a bad day" in served.until_logged("left as it was")
    served.until_logged("reloaded all models; failed: 1")
    assert infer(client)[1] == 2


def test_what_changes_while_the_watching_worker_is_dead_reaches_all(model, serve, clients, until):
    folder = model()
    served = serve("--watch", "--watch-interval-s", 0.05).until_announced()
    other = served.client_of(served.pids[1], clients)
    os.kill(served.pids[0], signal.SIGKILL)
    served.until_logged("worker 1 was killed")
    (folder / "content").write_text("2")
    served.until_logged("worker 1 serves again")
    asyncio.run(until(lambda: infer(other)[1] == 2))


def test_a_worker_that_can_not_load_what_others_do_does_not_serve(model, serve, clients):
    folder = model()
    served = serve().until_announced()
    other = served.client_of(served.pids[1], clients)
    assert other.post("/v2/repository/models/m/load").status_code == 200
    (folder / "hits").write_text("all:fail")
    os.kill(served.pids[0], signal.SIGKILL)
    served.until_logged("worker 1 can't start: it can't load what others serve: model 'm'")
    (folder / "hits").unlink()
    served.until_logged("worker 1 serves again")
    assert state(other) == ("READY", "")


def test_a_worker_that_can_not_start_is_seen_and_tried_at_once_on_a_signal(
    model, serve, clients, models_dir
):
    folder = model()
    served = serve(command=[sys.executable, "-c", LONG_PAUSES, str(models_dir)]).until_announced()
    other = served.client_of(served.pids[1], clients)
    (folder / "hits").write_text("all:fail")
    os.kill(served.pids[0], signal.SIGKILL)
    served.until_logged("worker 1 was killed by signal 9 (SIGKILL); started again in 0 s")
    for times in ("", ", 2 times in a row"):
        served.until_logged("can't start: it can't load what others serve: model 'm'")
        line = served.until_logged(" before it served")
        assert f"worker 1 exited with code 1 before it served{times}; started again" in line
        states = {each: served.scrape()["jackfield_workers", ("state", each)] for each in STATES}
        assert states == {"serving": 1, "failing": 1, "absent": 0}
        assert other.get("/v2/health/ready").status_code == 200
        if times:
            (folder / "hits").unlink()
        served.signal(signal.SIGHUP)
    served.until_logged("worker 1 serves again")
    states = {each: served.scrape()["jackfield_workers", ("state", each)] for each in STATES}
    assert states == {"serving": 2, "failing": 0, "absent": 0}


def test_workers_that_all_can_not_start_again_end_the_server(model, serve):
    folder = model()
    served = serve("--strict").until_announced()
    (folder / "hits").write_text("all:fail")
    for pid in served.pids:
        os.kill(pid, signal.SIGKILL)
    log = served.rest()
    assert served.process.returncode == 1
    assert "can't start: " in log
    assert "5 workers in a row ended before they served" in log.splitlines()[-1]


def test_a_worker_that_can_not_start_beside_others_is_tried_less_and_less_often(
    model, serve, clients, models_dir
):
    folder = model()
    served = serve(command=[sys.executable, "-c", FEW_DEATHS, str(models_dir)]).until_announced()
    other = served.client_of(served.pids[1], clients)
    (folder / "hits").write_text("all:fail")
    os.kill(served.pids[0], signal.SIGKILL)
    pauses_s = []
    for _ in range(4):
        line = served.until_logged(" before it served")
        pauses_s.append(float(re.search(r"again in (\S+) s", line)[1]))
        assert state(other) == ("READY", "")
    assert pauses_s == [0.01, 0.02, 0.04, 0.04]
    (folder / "hits").unlink()
    served.until_logged("worker 1 serves again")


def test_deaths_before_one_has_served_are_forgotten_when_one_serves(
    model, serve, clients, models_dir
):
    hits = model() / "hits"
    served = serve(command=[sys.executable, "-c", LONG_PAUSES, str(models_dir)]).until_announced()

    def until_both(text):
        for _ in range(2):
            served.until_logged(text)

    for signals in (1, 0):  # four deaths, and two: five in a row end the server
        hits.write_text("all:die")
        for pid in served.ask_pids(clients):
            os.kill(pid, signal.SIGKILL)
        until_both(" before it served")
        for _ in range(signals):
            served.signal(signal.SIGHUP)
            until_both(" before it served")
        hits.unlink()
        served.signal(signal.SIGHUP)
        until_both("serves again")
    assert served.process.poll() is None


def test_what_loads_at_the_start_is_told(model, serve, until):
    model(name="ready")
    (model() / "hits").write_text("all:wait")
    folder = model()
    os.mkfifo(folder / "go_on")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve("--http-port", port, "--drain-timeout-s", 0.1)
    told = {}

    def is_loading():
        with contextlib.suppress(httpx.TransportError):
            response = httpx.post(f"http://127.0.0.1:{port}/v2/repository/index", timeout=WAIT_S)
            told.update({line["name"]: line["state"] for line in response.json()})
        return told == {"m": "LOADING", "ready": "READY"}

    asyncio.run(until(is_loading))
    ready = httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=WAIT_S)
    assert (ready.status_code, ready.json()["error"]) == (503, "models are loading")


def test_an_unload_gives_up_an_environment_that_is_made(
    model, serve, clients, until, tmp_path, monkeypatch
):
    model()
    place = tmp_path / "stand-in"
    place.mkdir()
    (place / "uv").write_text(
        f"#!/bin/sh\necho $$ > {place}/new\nmv {place}/new {place}/pid\nexec sleep 3600\n"
    )
    (place / "uv").chmod(0o755)
    (place / "uv.py").write_text(f"def find_uv_bin():\n    return {str(place / 'uv')!r}\n")
    monkeypatch.setenv("PYTHONPATH", str(place))
    monkeypatch.setenv("JACKFIELD_CACHE_DIR", str(tmp_path / "cache"))
    served = serve().until_announced()
    both = [served.client_of(pid, clients) for pid in served.pids]
    model(name="apart", environment={"requirements": ["nothing"]})
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(both[0].post, "/v2/repository/models/apart/load")
        asyncio.run(until((place / "pid").exists))
        again = served.client_of(served.pids[0], clients)
        assert again.post("/v2/repository/models/apart/unload").status_code == 200
        response = load.result(WAIT_S)
    assert response.status_code == 503
    assert "given up, since the model is unloaded" in response.json()["error"]
    until_dead(int((place / "pid").read_text()))
    assert infer(both[0])[1] == 1


def test_what_is_in_flight_is_answered_on_sigterm(model, serve, clients):
    folder = model("Gated")
    for name in ("began", "go_on"):
        os.mkfifo(folder / name)
    served = serve().until_announced()
    client = served.client_of(served.pids[0], clients)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(infer, client, NEGATIVE)
        assert (folder / "began").read_text() == "began"
        # what a service manager sends to all processes stops none of the workers
        os.kill(served.pids[0], signal.SIGTERM)
        served.signal(signal.SIGTERM)
        served.until_logged("stopping 2 workers")
        until_dead(served.pids[1])  # it had nothing to do
        (folder / "go_on").write_text("go on")
        assert answer.result(WAIT_S)[0] == served.pids[0]
    served.rest()
    assert served.process.returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.http)


def body_of(number):
    return {
        "inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [float(number)]}],
    }


def call_rest(served, connections, numbers, told):
    """Ask until the server takes no more connections; tell what became of each number."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=served.http, timeout=WAIT_S))
        for number in numbers:
            try:
                response = client.post(
                    "/v2/models/m/infer", json=body_of(number), headers={"connection": connections}
                )
                told[number] = response.status_code
            except httpx.ConnectError:
                return
            except httpx.TransportError as error:  # of a connection that nobody had accepted
                told[number] = repr(error)


def call_grpc(served, numbers, told):
    """The same by a channel."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(served.grpc, options=options) as channel:
        kind = METHODS["ModelInfer"]
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=kind.request.SerializeToString,
            response_deserializer=kind.response.FromString,
        )
        for number in numbers:
            message = kind.request(model_name="m")
            tensor = message.inputs.add(name="x", datatype="FP64", shape=[1])
            tensor.contents.fp64_contents.append(float(number))
            try:
                infer(message, timeout=WAIT_S)
                told[number] = 200
            except grpc.RpcError as error:
                told[number] = error.code()
                return


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_that_was_taken_is_lost_on_sigterm_under_load(model, serve, until, workers):
    folder = model("Notes")
    served = serve(workers=workers).until_announced()
    told, numbers = {}, itertools.count(1)
    with ThreadPoolExecutor(12) as pool:
        calls = [
            *(pool.submit(call_rest, served, "keep-alive", numbers, told) for _ in range(4)),
            *(pool.submit(call_rest, served, "close", numbers, told) for _ in range(4)),
            *(pool.submit(call_grpc, served, numbers, told) for _ in range(4)),
        ]
        asyncio.run(until(lambda: len(told) >= 300))  # in the midst of it
        served.signal(signal.SIGTERM)
        for call in calls:
            call.result(2 * WAIT_S)
    served.rest()
    assert served.process.returncode == 0
    begun = {int(each) for each in (folder / "begun").read_text().split()}
    answered = {number for number, what in told.items() if what == 200}
    assert len(answered) >= 300
    assert begun == answered


def test_a_second_signal_hurries(model, serve, clients):
    folder = model("Gated")
    for name in ("began", "go_on"):
        os.mkfifo(folder / name)
    served = serve().until_announced()
    client = served.client_of(served.pids[0], clients)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(infer, client, NEGATIVE)
        assert (folder / "began").read_text() == "began"
        served.signal(signal.SIGINT)
        served.until_logged("stopping 2 workers")
        served.signal(signal.SIGINT)
        with pytest.raises(httpx.TransportError):
            answer.result(WAIT_S)
    assert "cut off" in served.rest()
    assert served.process.returncode == 1


def test_workers_do_not_outlive_their_supervisor(model, serve):
    model(name="m")
    model(name="apart", scheduler="process")
    served = serve().until_announced()
    children = [
        int(pid)
        for worker in served.pids
        for task in Path(f"/proc/{worker}/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
    assert children
    served.signal(signal.SIGKILL)
    for pid in (*served.pids, *children):
        until_dead(pid)


def test_workers_that_die_again_and_again_end_the_server(model, serve):
    (model() / "hits").write_text("all:die")
    served = serve()
    log = served.rest()
    assert served.process.returncode == 1
    assert "5 workers in a row ended before they served" in log
    assert "was killed by signal 9 (SIGKILL)" in log.splitlines()[-1]


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port", "--metrics-port"])
def test_a_port_that_is_taken_is_one_line(model, serve, option):
    model()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = serve(option, port)
        log = served.rest()
    assert served.process.returncode == 1
    assert log == (
        f"error: {option[2:].replace('-', '_')}: can't listen on 127.0.0.1:{port}: Address already "
        f"in use; choose another with {option}\n"
    )


def test_a_second_server_does_not_share_the_ports_of_the_first(model, serve):
    model()
    first = serve().until_announced()
    port = first.http.rpartition(":")[2]
    for workers in (1, 2):
        second = serve("--http-port", port, workers=workers)
        assert "Address already in use" in second.rest()
        assert second.process.returncode == 1


#: Two deaths, of starts that failed through no other worker's serving, end the server.
FEW_DEATHS = """
import sys
from jackfield._workers import supervisor

supervisor._FIRST_PAUSE_S, supervisor._LONGEST_PAUSE_S = 0.01, 0.04
supervisor._STEADY_S = 1e-9
supervisor._MOST_DEATHS = supervisor._MOST_EARLY_DEATHS = 1
from jackfield._cli import main
sys.argv = ["jackfield", "serve", *sys.argv[1:]]
main()
"""
LONG_PAUSES = """
import sys
from jackfield._workers import supervisor

supervisor._FIRST_PAUSE_S = supervisor._LONGEST_PAUSE_S = 3600.0
supervisor._STEADY_S = 1e-9
from jackfield._cli import main
sys.argv = ["jackfield", "serve", *sys.argv[1:]]
main()
"""
STATES = ("serving", "failing", "absent")

ONE_SOCKET = """
import asyncio, sys
from jackfield._cli import serve
from jackfield._workers import supervisor

supervisor.Supervisor.__init__.__kwdefaults__["spreads"] = False
from jackfield._cli import main
sys.argv = ["jackfield", "serve", *sys.argv[1:]]
main()
"""


def test_workers_can_share_one_listening_socket(model, serve, clients, models_dir):
    model()
    command = [sys.executable, "-c", ONE_SOCKET, str(models_dir)]
    served = serve(command=command).until_announced()
    assert {served.client_of(pid, clients) for pid in served.pids}
    os.kill(served.pids[0], signal.SIGKILL)
    served.until_logged("worker 1 serves again")
    with httpx.Client(base_url=served.http) as client:
        infer(client)
    served.signal(signal.SIGTERM)
    served.rest()
    assert served.process.returncode == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("own", [None, "event_engine_dns"])
def test_grpc_has_no_event_engine_unless_the_operator_says(
    model, serve, models_dir, monkeypatch, workers, own
):
    model("TellsExperiments")
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    if own is not None:
        monkeypatch.setenv("GRPC_EXPERIMENTS", own)
    served = serve(workers=workers)
    served.until_announced()
    told = [path.read_text() for path in models_dir.rglob("experiments")]
    assert told == [own or "-event_engine_listener"]


def test_the_supervisor_imports_nothing_that_serves(model):
    code = (
        "import sys; import jackfield._workers.supervisor, jackfield._cli.serve; "
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    heavy = {"starlette", "uvicorn", "hypercorn", "grpc", "google", "prometheus_client", "numpy"}
    assert not heavy & {*json.loads(output.replace("'", '"'))}


COUNTS = """
import os
import signal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jackfield import Capabilities, InvalidRequestError

PLACE = Path(__file__).parent


class Counts:
    \"\"\"Counts what it was asked, on disk, too; answers its process and the count.\"\"\"

    capabilities = Capabilities(stateful=True)

    def load(self) -> None:
        with open(PLACE / "loads", "a") as file:
            file.write(f"{os.getpid()}\\n")
        self.count = int((PLACE / "state").read_text()) if (PLACE / "state").exists() else 0

    def infer(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        if x[0] == -1:
            raise InvalidRequestError("inputs[0]", expected="another one", found="-1")
        if x[0] == -2:
            raise ValueError("a secret")
        if x[0] == -3:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1
        (PLACE / "state").write_text(str(self.count))
        return np.array([os.getpid(), self.count])
"""


def body(value):
    return {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [value]}]}


def test_a_model_with_a_memory_has_one_for_the_whole_server(model, add_model, serve, clients):
    model()
    folder = add_model("counts", "Counts", code=COUNTS)
    served = serve().until_announced()
    both = [served.client_of(pid, clients) for pid in served.pids]
    answers = [infer(client, name="counts") for _ in range(5) for client in both]
    assert [count for _, count in answers] == list(range(1, 11))
    [owner] = {pid for pid, _ in answers}
    for client in both:
        response = client.post("/v2/models/counts/infer", json=body(-1.0))
        assert response.status_code == 400
        assert "expected another one, found -1" in response.json()["error"]
        response = client.post("/v2/models/counts/infer", json=body(-2.0))
        assert response.status_code == 500
        assert "secret" not in response.text
    requests = "jackfield_infer_requests_total"
    samples = served.scrape()
    assert sum_of(samples, requests, model="counts", outcome="success") == 10
    assert sum_of(samples, requests, model="counts", outcome="failure") == 2

    # the owner dies: another takes over, with what is on disk
    other = both[1 - served.pids.index(owner)]
    assert other.post("/v2/models/counts/infer", json=body(-3.0)).status_code == 503
    new_owner, count = infer(other, name="counts")
    assert new_owner in served.pids
    assert new_owner != owner
    assert count == 11
    served.until_logged("serves again")
    replaced = served.pids.index(owner)
    for _ in range(200):
        new = clients.enter_context(httpx.Client(base_url=served.http, timeout=WAIT_S))
        if infer(new)[0] not in served.pids:
            break
    assert infer(new, name="counts") == [new_owner, 12]
    assert infer(other, name="counts") == [new_owner, 13]
    # loaded anew it is still one
    assert new.post("/v2/repository/models/counts/load").status_code == 200
    assert infer(new, name="counts") == [new_owner, 14]
    assert infer(other, name="counts") == [new_owner, 15]
    assert replaced in (0, 1)
    # what it is now is so for all, whoever was asked
    code = (folder / "runtimes.py").read_text()
    (folder / "runtimes.py").write_text(
        code.replace("x: NDArray[np.float64]", "x: NDArray[np.float32]")
    )
    assert new.post("/v2/repository/models/counts/load").status_code == 200
    metadata = [client.get("/v2/models/counts").json()["inputs"] for client in (new, other)]
    assert [each["datatype"] for [each] in metadata] == ["FP32", "FP32"]
    (folder / "runtimes.py").write_text(code)
    # and unloaded and loaded, whoever owns it
    assert other.post("/v2/repository/models/counts/unload").status_code == 200
    assert new.post("/v2/repository/models/counts/load").status_code == 200
    answers = [infer(client, name="counts") for client in (new, other)]
    assert [count for _, count in answers] == [16, 17]
    assert len({pid for pid, _ in answers}) == 1
    assert (folder / "state").read_text() == "17"


MEMORY = """
import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse

from jackfield import (
    Capabilities, InferRequest, InferResponse, InvalidRequestError, ModelMetadata, Tensor, route,
)

PLACE = Path(__file__).parent


class Asked(msgspec.Struct):
    number: int


class Remembers:
    \"\"\"Counts its answers, of whatever kind.\"\"\"

    capabilities = Capabilities(stateful=True, reads_headers=True)

    def __init__(self, context):
        self.count = 0
        self.counted = context.metrics.counter("own_answers", "Answers.")

    def load(self):
        pass

    def metadata(self):
        return ModelMetadata(platform="memory")

    def close(self):
        pass

    def answer(self):
        self.count += 1
        self.counted.inc()
        return [os.getpid(), self.count]

    def infer(self, request):
        told = request.parameters["headers"].get("x-told", "")
        array = np.array(self.answer())
        parameters = {"told": told, "headers": {"x-answer": told}}
        return InferResponse([Tensor.from_array("y", array)], parameters)

    def stream(self, request):
        try:
            for each in range(int(request.inputs[0].array[0])):
                if each == 1:
                    (PLACE / "go_on").read_text()
                parameters = {"told": request.parameters["headers"].get("x-told", "")}
                yield InferResponse([Tensor.from_array("y", np.array(self.answer()))], parameters)
            raise InvalidRequestError("inputs[0]", expected="no end", found="one")
        except GeneratorExit:
            (PLACE / "left").write_text("left")
            raise

    @route("/who")
    def who(self):
        return self.answer()

    @route("/twice", methods=["POST"], at_root=True)
    async def twice(self, body: Asked):
        return {"twice": 2 * body.number, "answer": self.answer()}

    @route("/tensors", methods=["POST"])
    async def tensors(self, request: InferRequest):
        return InferResponse(request.inputs)

    @route("/parts/{name}", methods=["POST"])
    async def parts(self, request: Request):
        body = await request.body()
        async def parts():
            yield f"{request.path_params['name']} {request.headers['x-told']} "
            for start in range(0, len(body), 1000):
                yield body[start : start + 1000]
        return StreamingResponse(parts(), status_code=202)

    @route("/teapot")
    async def teapot(self):
        raise HTTPException(418, "short and stout")
"""


def events_of(response):
    return (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))


def grpc_stream(channel, name, number, **headers):
    """Ask for a stream; gives the answers' outputs, or what went wrong."""
    kind = METHODS["ModelStreamInfer"]
    message = METHODS["ModelInfer"].request(model_name=name)
    message.inputs.add(name="x", datatype="FP64", shape=[1])
    message.inputs[0].contents.fp64_contents.append(number)
    return channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=METHODS["ModelInfer"].request.SerializeToString,
        response_deserializer=kind.response.FromString,
    )(iter([message]), timeout=WAIT_S, metadata=tuple(headers.items()))


def pid_of(answer):
    return int.from_bytes(answer.infer_response.raw_output_contents[0][:8], "little")


def channel_to(pid, served, stack, name="m"):
    """Connect until it is to the wanted worker."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    for _ in range(200):
        channel = stack.enter_context(grpc.insecure_channel(served.grpc, options=options))
        if pid_of(next(grpc_stream(channel, name, 1.0))) == pid:
            return channel
    raise AssertionError("no channel comes to this worker")


def check_own_paths(client, owner):
    """Ask for all of a `Remembers`; the owner's process is in the answers."""
    path = "/v2/models/memory"
    assert client.get(f"{path}/who").json()[0] == owner
    for where in (f"{path}/twice", "/twice"):
        answer = client.post(where, json={"number": 4})
        assert answer.json()["twice"] == 8, answer.text
        assert answer.json()["answer"][0] == owner
    assert client.post(f"{path}/twice", json={"number": "x"}).status_code == 400
    assert client.post(f"{path}/twice", content=b"{").status_code == 400
    assert client.post(f"{path}/tensors", json=BODY).json()["outputs"][0]["data"] == [1.0]
    many = {"name": "x", "shape": [100_000], "datatype": "FP64", "data": [0.5] * 100_000}
    answer = client.post(f"{path}/tensors", json={"inputs": [many]})
    assert answer.json()["outputs"][0]["data"] == many["data"]
    told = {"x-told": "hello"}
    answer = client.post(f"{path}/parts/me", content=b"x" * 1_000_000, headers=told)
    assert answer.status_code == 202
    assert answer.content == b"me hello " + b"x" * 1_000_000
    answer = client.get(f"{path}/teapot")
    assert (answer.status_code, answer.json()) == (418, {"error": "short and stout"})
    assert client.get(f"{path}/nothing").status_code == 404


@pytest.mark.parametrize(
    "settings",
    [{}, {"scheduler": "thread"}, {"scheduler": "process"}],
    ids=["here", "in a thread", "in a host"],
)
def test_whatever_a_model_with_a_memory_has_is_there_by_every_worker(
    model, add_model, serve, clients, until, settings
):
    model()
    folder = add_model("memory", "Remembers", code=MEMORY, **settings)
    os.mkfifo(folder / "go_on")
    served = serve().until_announced()
    both = [served.client_of(pid, clients) for pid in served.pids]
    answers = [infer(client, name="memory") for _ in range(2) for client in both]
    assert [count for _, count in answers] == [1, 2, 3, 4]
    [owner] = {pid for pid, _ in answers}
    for client in both:
        # the headers come, and go
        told = {"x-told": "hello"}
        answer = client.post("/v2/models/memory/infer", json=BODY, headers=told)
        assert answer.json()["parameters"]["told"] == answer.headers["x-answer"] == "hello"
        check_own_paths(client, owner)
        # one answer is there before the next one is made
        with client.stream(
            "POST", "/v2/models/memory/infer_stream", json=body(2.0), headers=told
        ) as response:
            events = events_of(response)
            first = next(events)
            assert first["outputs"][0]["data"][0] == owner
            assert first["parameters"]["told"] == "hello"
            (folder / "go_on").write_text("go on")
            second, error = events
            assert second["outputs"][0]["data"][1] == first["outputs"][0]["data"][1] + 1
            assert "expected no end" in error["error"]
    asked = infer(both[0], name="memory")[1]
    # a host tells of them now and then
    own = "own_answers_total"
    asyncio.run(until(lambda: sum_of(served.scrape(), own, model="memory") == asked))
    requests = "jackfield_infer_requests_total"
    samples = served.scrape()
    assert sum_of(samples, requests, model="memory", outcome="success") == 7
    # each call is counted once, in the worker that has made it
    assert sum_of(samples, "jackfield_batch_requests_count", model="memory") == 7


def test_what_a_dead_owner_had_is_had_by_its_successor(model, add_model, serve, clients):
    model()
    folder = add_model("memory", "Remembers", code=MEMORY)
    os.mkfifo(folder / "go_on")
    served = serve().until_announced()
    both = [served.client_of(pid, clients) for pid in served.pids]
    [owner] = {infer(client, name="memory")[0] for client in both}
    [successor] = {*served.pids} - {owner}
    other = both[served.pids.index(successor)]
    before = served.scrape()
    with other.stream("POST", "/v2/models/memory/infer_stream", json=body(2.0)) as response:
        events = events_of(response)
        assert next(events)["outputs"][0]["data"][0] == owner
        os.kill(owner, signal.SIGKILL)
        [error] = events  # to the end: the connection is to stay
        assert "the worker that has its memory died" in error["error"]
    # what comes next waits for the successor
    check_own_paths(other, successor)
    assert infer(other, name="memory")[0] == successor
    (folder / "go_on").unlink()
    (folder / "go_on").write_text("go on")
    served.until_logged("serves again")
    for _ in range(200):
        new = clients.enter_context(httpx.Client(base_url=served.http, timeout=WAIT_S))
        if infer(new)[0] not in served.pids:
            break
    for client in (new, other):
        check_own_paths(client, successor)
        with client.stream("POST", "/v2/models/memory/infer_stream", json=body(2.0)) as response:
            *answers, error = events_of(response)
            assert [each["outputs"][0]["data"][0] for each in answers] == [successor] * 2
            assert "expected no end" in error["error"]
    after = served.scrape()
    count = infer(new, name="memory")[1] - 1
    own = "own_answers_total"
    assert sum_of(after, own, model="memory") == sum_of(before, own, model="memory") + count


def test_who_leaves_a_stream_of_another_worker_ends_it(model, add_model, serve, clients, until):
    model()
    folder = add_model("memory", "Remembers", code=MEMORY)
    (folder / "go_on").write_text("go on")
    served = serve().until_announced()
    both = [served.client_of(pid, clients) for pid in served.pids]
    for client in both:
        body_of_many = body(1e6)
        with client.stream("POST", "/v2/models/memory/infer_stream", json=body_of_many) as response:
            next(events_of(response))
        asyncio.run(until((folder / "left").exists))
        (folder / "left").unlink()
        infer(both[0], name="memory")  # it is free again


def test_streams_by_grpc_come_from_the_owner(model, add_model, serve, clients):
    model()
    folder = add_model("memory", "Remembers", code=MEMORY)
    (folder / "go_on").write_text("go on")
    served = serve().until_announced()
    owner = infer(served.client_of(served.pids[0], clients), name="memory")[0]
    for pid in served.pids:
        channel = channel_to(pid, served, clients)
        *answers, last = grpc_stream(channel, "memory", 3.0, **{"x-told": "hello"})
        assert [pid_of(each) for each in answers] == [owner] * 3
        assert "expected no end" in last.error_message
        assert answers[0].infer_response.parameters["told"].string_param == "hello"


WATCHED = """
import os

import numpy as np
from numpy.typing import NDArray

from jackfield import ModelContext


class M:
    def __init__(self, context: ModelContext):
        self.rows = context.metrics.counter("own_rows", "Rows.", labels=["pid"])
        self.sizes = context.metrics.histogram("own_sizes", "Rows of requests.", buckets=[1, 5])
        self.last = context.metrics.gauge("own_last", "Rows of the last request.")

    def infer(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        self.rows.labels(pid=os.getpid()).inc(len(x))
        self.sizes.observe(len(x))
        self.last.set(len(x))
        return np.array([os.getpid()])


class Drifts:
    def infer(self, x: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"is_drift": np.array([0.0]), "distance": np.array([[0.5]])}
"""


def counts_of(served):
    """Read what must never go back: counters, histograms and summaries of the whole server."""
    text = httpx.get(served.metrics, timeout=WAIT_S).text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.type in ("counter", "histogram", "summary") and "worker" not in sample.labels
    }


def has_verdicts(client, count):
    [monitor] = client.get("/v2/models/m/monitors").json()["monitors"]
    return monitor["verdicts"]["count"] >= count


def lower(before, after):
    """List what is lower than before, or gone."""
    return {
        key: (value, after.get(key)) for key, value in before.items() if after.get(key, -1) < value
    }


def test_each_worker_tells_what_the_monitors_of_all_found(add_model, serve, clients, until):
    add_model(
        "m", "M", code=WATCHED, monitors=[{"detector": "drifts", "window": 1, "history": 1000}]
    )
    add_model("drifts", "Drifts", code=WATCHED)
    served = serve().until_announced()
    one, other = (served.client_of(pid, clients) for pid in served.pids)
    many = {"inputs": [{"name": "x", "shape": [7], "datatype": "FP64", "data": [1.0] * 7}]}
    infer(one, many)
    infer(other, many)
    seen = sum_of(served.scrape(), "jackfield_monitor_rows_seen_total", model="m")
    asyncio.run(until(functools.partial(has_verdicts, one, seen)))
    told = [client.get("/v2/models/m/monitors").json() for client in (one, other)]
    assert told[0] == told[1]
    [monitor] = told[0]["monitors"]
    assert monitor["rows"]["judged"] == monitor["verdicts"]["count"] == seen
    assert monitor["history"] == sorted(monitor["history"], key=lambda each: each["time_s"])
    assert len(monitor["history"]) == seen
    assert {each["worker"] for each in monitor["history"]} == {1, 2}
    assert monitor["current"] == monitor["history"][-1]
    assert repr(monitor["window"]) == "{'rows': 0, 'fullness': 0.0}"
    assert one.get("/v2/models/n/monitors").status_code == 404


def test_no_count_goes_back_when_a_worker_dies(model, add_model, serve, clients, until):
    monitors = [{"detector": "drifts", "window": 5}]
    add_model("m", "M", code=WATCHED, monitors=monitors)
    add_model("drifts", "Drifts", code=WATCHED)
    served = serve().until_announced()
    one, other = (served.client_of(pid, clients) for pid in served.pids)
    many = {"inputs": [{"name": "x", "shape": [7], "datatype": "FP64", "data": [1.0] * 7}]}
    for _ in range(5):
        infer(one, many)
        infer(other, many)
    asyncio.run(until(functools.partial(has_verdicts, one, 14)))
    before = counts_of(served)
    os.kill(served.pids[0], signal.SIGKILL)
    served.until_logged("worker 1 was killed")
    assert not lower(before, counts_of(served))
    served.until_logged("worker 1 serves again")
    after = counts_of(served)
    assert not lower(before, after)
    # a load begins the model's own anew, and no other
    assert other.post("/v2/repository/models/m/load").status_code == 200
    loads = "jackfield_model_loads_total"
    begun = {
        key
        for key in after
        if not key[0].startswith(("jackfield_monitor", loads)) and ("model", "m") in key
    }
    kept = {key: value for key, value in after.items() if key not in begun}
    assert not lower(kept, counts_of(served))


def test_what_a_load_has_begun_anew_does_not_come_back_by_a_death(model, serve, clients):
    model()
    served = serve().until_announced()
    one, other = (served.client_of(pid, clients) for pid in served.pids)
    for client in (one, other):
        infer(client)
    requests = "jackfield_infer_requests_total"
    assert sum_of(served.scrape(), requests, model="m", outcome="success") >= 2
    assert other.post("/v2/repository/models/m/load").status_code == 200
    infer(other)
    os.kill(served.pids[0], signal.SIGKILL)
    served.until_logged("worker 1 was killed")
    assert sum_of(served.scrape(), requests, model="m", outcome="success") == 1


def test_more_workers_than_a_machine_bears_are_refused(model, serve):
    model()
    served = serve(workers=1_000_000)
    assert "error: workers: 1000000 workers for" in served.rest()
    assert served.process.returncode != 0
