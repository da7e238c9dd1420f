"""What a detector remembers: whole after anything that happens to the file or to the process."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jackfield import ModelLoadError, ModelMetrics, ModelNotReadyError
from jackfield.client import Client
from jackfield.window import Window
from jackfield_alibi._detect._state import DetectorState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EVERY = 10


class Remembering:
    """A state with a window of rows that never fills, as the runtime has one."""

    def __init__(self, folder: Path | None, *, identity: str = "a", **given: Any) -> None:
        self.metrics = ModelMetrics()
        self.window = Window(given.pop("rows", 100_000))
        self.state = DetectorState(
            folder,
            model=given.pop("model", "drift"),
            identity=identity,
            parts={"window": self.window},
            save_every=EVERY,
            logger=logging.getLogger("jackfield.state"),
            metrics=self.metrics,
            **given,
        )

    def open(self) -> Remembering:
        self.state.open()
        return self

    def take(self, *values: float) -> None:
        """Answer a request."""
        with self.state.turn():
            self.window.add(np.array(values, float).reshape(-1, 1), 0)
            self.state.stepped(len(values))

    @property
    def held(self) -> list[float]:
        rows = self.window.snapshot().get("rows")
        return [] if rows is None else rows[:, 0].tolist()

    def counted(self, name: str) -> float:
        samples = [each for metric in self.metrics.collect() for each in metric.samples]
        return {each.name: each.value for each in samples}[f"detector_state_{name}_total"]


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "memory"


@pytest.fixture
def opened(folder) -> Iterator[Callable[..., Remembering]]:
    made: list[Remembering] = []

    def make(**given: Any) -> Remembering:
        made.append(Remembering(folder, **given))
        return made[-1].open()

    yield make
    for each in made:
        each.state.close()


@pytest.fixture
def killed(folder) -> Callable[..., None]:
    """Let a process take rows, and kill it before it can save or close."""

    def run(*values: float, identity: str = "a") -> None:
        output, _ = _child(folder, "take", values, identity=identity).communicate(timeout=60)
        assert "OPEN" in output

    return run


_CHILD = """
import importlib.machinery, json, logging, os, signal, sys
import numpy as np
given = json.loads(sys.argv[1])
if given["is_worker"]:
    spec = importlib.machinery.ModuleSpec("jackfield._process.worker", None)
    sys.modules["__main__"].__spec__ = spec
from pathlib import Path
from jackfield import ModelMetrics, ModelLoadError
from jackfield.window import Window
from jackfield_alibi._detect._state import DetectorState
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
window = Window(100_000)
state = DetectorState(
    Path(given["folder"]), model="drift", identity=given["identity"], parts={"window": window},
    save_every=10, logger=logging.getLogger("child"), metrics=ModelMetrics(), patience_s=20,
)
state.open()
def take(values):
    with state.turn():
        for value in values:  # as many turns of one row
            window.add(np.array([[value]], float), 0)
            state.stepped(1)
print("OPEN", flush=True)
if given["what"] == "take":
    for value in given["values"]:
        take([value])
    os.kill(os.getpid(), signal.SIGKILL)
for line in sys.stdin:
    if line.startswith("close"):
        state.close()
        break
    take(json.loads(line))
    rows = window.snapshot().get("rows")
    print("HELD", json.dumps(rows[:, 0].tolist()), flush=True)
"""


def _child(folder, what, values=(), *, identity="a", is_worker=False):
    told = {
        "folder": str(folder), "what": what, "values": list(values), "identity": identity,
        "is_worker": is_worker,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _read_until(process, word):
    read = []
    for line in process.stdout:
        read.append(line)
        if line.startswith(word):
            return line
    raise AssertionError("".join(read))


@pytest.fixture
def child(folder):
    """Hold the folder in another process."""
    started = []

    def start(**given):
        started.append(_child(folder, "serve", **given))
        _read_until(started[-1], "OPEN")
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def files(folder: Path) -> set[str]:
    return {each.name for each in (folder / "drift").iterdir()}


# ---- saved and restored ----


def test_a_state_goes_on_after_close(opened, caplog) -> None:
    first = opened()
    first.take(1, 2, 3)
    first.state.close()
    second = opened()
    assert second.held == [1, 2, 3]
    assert second.state.steps == 3
    assert second.state.status() == {"state": "disk", "state_steps": 3}
    assert "lost" not in caplog.text


def test_it_is_saved_every_so_many_steps(opened, folder) -> None:
    state = opened()
    state.take(*range(EVERY - 1))
    assert "state" not in files(folder)
    state.take(9)
    assert "state" in files(folder)
    assert state.counted("saves") == 1
    state.take(*range(3 * EVERY))  # one request, one save
    assert state.counted("saves") == 2


def test_without_a_folder_it_is_in_memory_alone(tmp_path) -> None:
    state = Remembering(None).open()
    state.take(*range(50))
    state.state.close()
    assert state.state.status() == {"state": "memory", "state_steps": 50}
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_loses_no_more_than_was_not_saved_and_that_is_told(
    killed, opened, caplog
) -> None:
    killed(*range(37))
    state = opened()
    assert state.held == list(range(30))
    assert state.state.steps == 30
    assert state.state.lost_steps == 7
    assert state.counted("lost_steps") == 7
    assert state.state.metadata()["state_lost_steps"] == 7
    assert "7 steps after step 30 were not saved before the server ended, and are lost" in (
        caplog.text
    )


def test_steps_before_the_first_save_are_told_as_lost_too(killed, opened) -> None:
    killed(1, 2, 3)
    assert opened().state.lost_steps == 3


def test_models_of_one_artifact_have_a_state_each(folder) -> None:
    one, other = (Remembering(folder, model=name).open() for name in ("a/b", "b"))
    versioned = Remembering(folder, model="b", version="2").open()
    one.take(1)
    other.take(2)
    versioned.take(3)
    for each in (one, other, versioned):
        each.state.close()
    assert Remembering(folder, model="a/b").open().held == [1]
    assert Remembering(folder, model="b", version="2").open().held == [3]


# ---- damaged, torn, another's ----


def test_a_damaged_state_is_kept_aside_and_the_one_before_is_used(opened, folder, caplog) -> None:
    first = opened()
    first.take(*range(10))
    first.take(*range(10, 20))
    first.state.close()
    (folder / "drift" / "state").write_bytes(b"JFSTATE1 and then nonsense")
    second = opened()
    assert second.held == list(range(10))
    assert second.state.lost_steps == 10
    assert "its state is damaged ('state': its checksum is wrong; it is kept as" in caplog.text
    assert "an older one is used" in second.state.metadata()["state_problem"]
    kept = folder / "drift" / "state.damaged"
    assert kept.read_bytes() == b"JFSTATE1 and then nonsense"


def test_if_all_are_damaged_it_starts_anew_and_says_so(opened, folder, caplog) -> None:
    first = opened()
    first.take(*range(10))
    first.take(*range(10))
    first.state.close()
    for name in ("state", "state.previous"):
        (folder / "drift" / name).write_bytes(b"")
    second = opened()
    assert second.held == []
    assert second.state.steps == 0
    assert "it starts anew, with no memory of earlier rows" in caplog.text
    assert "it is no state" in second.state.metadata()["state_problem"]
    assert second.counted("starts_anew") == 1
    assert {"state.damaged", "state.damaged.2"} <= files(folder)
    second.take(1)
    second.state.close()
    assert opened().held == [1]


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_damage_is_taken_for_a_state(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("memory")
    state = Remembering(folder).open()
    state.take(*range(10))
    state.state.close()
    file = folder / "drift" / "state"
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    after = Remembering(folder).open()
    assert after.held == []
    assert after.state.problem
    after.state.close()


def test_a_save_that_was_cut_off_changes_nothing(opened, folder, caplog) -> None:
    first = opened()
    first.take(*range(10))
    first.state.close()
    whole = (folder / "drift" / "state").read_bytes()
    (folder / "drift" / "state.new").write_bytes(whole[: len(whole) // 2])
    second = opened()
    assert second.held == list(range(10))
    assert second.state.problem == ""
    assert "damaged" not in caplog.text


def test_a_save_that_was_cut_off_between_two_renames_is_found(opened, folder) -> None:
    first = opened()
    first.take(*range(10))
    first.take(*range(10, 20))
    first.state.close()
    (folder / "drift" / "state").rename(folder / "drift" / "state.new")
    assert opened().held == list(range(20))


def test_the_state_of_another_detector_is_not_restored(opened, folder, caplog) -> None:
    first = opened()
    first.take(*range(10))
    first.state.close()
    second = opened(identity="b")
    assert second.held == []
    assert second.state.steps == second.state.lost_steps == 0
    assert "is another detector's" in second.state.metadata()["state_problem"]
    assert "is another detector's" in caplog.text
    assert "state.damaged" in files(folder)


def test_the_state_of_another_window_is_not_restored(opened, caplog) -> None:
    first = opened()
    first.take(*range(10))
    first.state.close()
    second = opened(rows=50)
    assert second.held == []
    assert "expected a window of 50 rows, found one of 100000 rows" in caplog.text


def test_texts_are_restored_and_nothing_is_unpickled(folder) -> None:
    first = Remembering(folder).open()
    with first.state.turn():
        first.window.add(np.array(["a", "β\0"], object), 0)
        first.state.stepped(2)
    first.state.close()
    second = Remembering(folder).open()
    assert second.window.snapshot()["rows"].tolist() == ["a", "β\0"]
    second.state.close()
    third = Remembering(folder).open()
    third.window.add(np.array([print], object), 0)  # what no file of ours holds
    third.state.stepped(1)
    assert not third.state.save()
    assert "can't be saved" in third.state.problem
    third.state.close()


# ---- where nothing can be written ----


def test_a_folder_that_can_not_be_made_keeps_nobody_from_an_answer(tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("")
    state = Remembering(tmp_path / "file" / "memory").open()
    state.take(*range(25))
    assert len(state.held) == 25
    assert "can't be saved" in state.state.metadata()["state_problem"]
    assert "Not a directory" in caplog.text
    assert state.counted("save_failures") == 1
    state.state.close()


def test_a_save_that_fails_is_told_once_and_tried_again(opened, folder, caplog) -> None:
    caplog.set_level(logging.INFO)
    state = opened()
    hidden = folder / "hidden"
    (folder / "drift").rename(hidden)
    for value in range(3 * EVERY):
        state.take(value)
    assert state.counted("save_failures") == 3
    assert caplog.text.count("can't be saved") == 1
    assert "No such file" in state.state.metadata()["state_problem"]
    hidden.rename(folder / "drift")
    for value in range(EVERY):
        state.take(value)
    assert state.counted("saves") == 1
    assert "its state is saved again, at step 40" in caplog.text
    assert state.state.problem == ""


# ---- one owner ----


def test_a_second_server_is_told_who_holds_the_state(child, opened, folder) -> None:
    holder = child()
    with pytest.raises(ModelLoadError, match=rf"held by process {holder.pid} on .*one owner"):
        opened()
    holder.kill()
    holder.wait()
    opened().take(1)


def test_a_server_that_was_killed_leaves_no_lock(killed, opened) -> None:
    killed(*range(20))
    assert opened().held == list(range(20))


def test_a_reload_hands_over_every_step(opened, folder) -> None:
    old = opened()
    old.take(1, 2)
    new = opened()
    old.take(3)  # asked before, answered after
    assert new.held == []
    old.state.close()
    new.take(4)
    assert new.held == [1, 2, 3, 4]
    assert new.state.lost_steps == 0
    new.state.close()
    assert opened().held == [1, 2, 3, 4]


def test_a_reload_hands_over_what_can_not_be_saved(opened, folder) -> None:
    old = opened()
    old.take(*range(5))
    new = opened()
    for each in (folder / "drift").iterdir():
        each.unlink()
    (folder / "drift").rmdir()
    old.state.close()
    new.take(5)
    assert new.held == list(range(6))
    assert old.counted("save_failures") == 1


def test_a_new_version_waits_for_the_old_one(opened) -> None:
    old = opened()
    old.take(1)
    new = opened()
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(new.take, 3)
        assert not answering.done()
        old.take(2)
        old.state.close()
        answering.result(timeout=20)
    assert new.held == [1, 2, 3]


def test_a_version_whose_turn_never_came_saves_nothing(opened) -> None:
    old = opened()
    old.take(1)
    failed = opened()
    failed.state.close()
    old.take(2)
    old.state.close()
    assert opened().held == [1, 2]


def test_several_reloads_at_once_go_one_after_another(opened) -> None:
    versions = [opened() for _ in range(4)]
    versions[0].take(0)
    versions[2].state.close()
    versions[0].state.close()
    versions[1].take(1)
    versions[1].state.close()
    versions[3].take(3)
    assert versions[3].held == [0, 1, 3]


def test_a_version_that_hangs_is_passed_and_writes_no_more(opened, caplog) -> None:
    old = opened()
    old.take(*range(EVERY))
    old.take(10)
    hanging, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        with old.state.turn():
            hanging.set()
            go_on.wait(20)
            old.state.stepped(1000)

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(hang)
        hanging.wait(20)
        new = opened(patience_s=0.05)
        new.take(11)
        assert new.held == [*range(EVERY), 11]
        assert new.state.lost_steps == 1
        assert "the version before it still computes" in caplog.text
        go_on.set()
        call.result(timeout=20)
    old.state.close()
    assert new.state.steps == EVERY + 1
    new.state.close()
    assert opened().held == [*range(EVERY), 11]


def test_a_closed_state_takes_no_turn(opened) -> None:
    state = opened()
    state.state.close()
    with pytest.raises(ModelNotReadyError, match="closed"):
        state.take(1)


def test_processes_of_one_server_hand_over_by_the_disk(child) -> None:
    old = child(is_worker=True)
    _ask(old, [1, 2, 3])
    new = child(is_worker=True)  # no error: it is a reload
    new.stdin.write("[4]\n")
    new.stdin.flush()
    assert _ask(old, [3.5]) == [1, 2, 3, 3.5]
    old.stdin.write("close\n")
    old.stdin.flush()
    assert json.loads(_read_until(new, "HELD")[5:]) == [1, 2, 3, 3.5, 4]


def _ask(process, values):
    process.stdin.write(f"{json.dumps(values)}\n")
    process.stdin.flush()
    return json.loads(_read_until(process, "HELD")[5:])


# ---- a real server ----


@pytest.fixture
def model(tmp_path):
    """A folder with an online detector, and what writes its settings."""
    pytest.importorskip("alibi_detect", reason="needs Alibi Detect")
    from alibi_detect.cd import FETDriftOnline
    from alibi_detect.saving import save_detector

    folder = tmp_path / "watch"
    np.random.seed(1)
    reference = np.random.default_rng(1).random((200, 2)) < 0.3
    detector = FETDriftOnline(
        reference.astype(np.int64), ert=60.0, window_sizes=[8, 16], n_bootstraps=500, verbose=False
    )
    save_detector(detector, folder)

    def configure(**extra):
        parameters = {"extra": {"state_save_freq": 25, **extra}}
        told = {"name": "watch", "implementation": "alibi-detect", "parameters": parameters}
        (folder / "model-settings.json").write_text(json.dumps(told))
        return folder

    return configure


_HIDING = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "torch" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def _without_torch(folder: Path) -> Path:
    """Hide PyTorch: three quarters of the time that a server takes to start are its import."""
    hidden = folder.parent / "hidden"
    hidden.mkdir(exist_ok=True)
    (hidden / "sitecustomize.py").write_text(_HIDING)
    return hidden


class Served:
    """A `jackfield serve` of its own."""

    def __init__(self, folder: Path) -> None:
        ports = [part for each in ("http", "grpc", "metrics") for part in (f"--{each}-port", "0")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jackfield", "serve", str(folder), *ports],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_without_torch(folder))},
            cwd=folder,
        )
        self.output = ""
        self._began = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._began.wait(120), self.output
        found = re.search(r"^REST +(http://\S+)", self.output, re.M)
        assert found, self.output
        self.url = found[1]

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.output += line
            if line.startswith("metrics"):
                self._began.set()
        self._began.set()

    def ask(self, rows) -> dict[str, Any]:
        with Client(self.url) as client:
            result = client.model("watch").infer(x=rows)
            return {name: result[name] for name in ("is_drift", "time", "test_stat", "threshold")}

    def state(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/v2/models/watch/state") as answer:
            return json.loads(answer.read())

    def post(self, path: str) -> None:
        request = urllib.request.Request(f"{self.url}{path}", data=b"{}", method="POST")
        urllib.request.urlopen(request).close()

    def end(self, how=signal.SIGKILL) -> str:
        self.process.send_signal(how)
        self.process.wait(30)
        self._reader.join(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.output


@pytest.fixture
def serve():
    started = []

    def start(folder) -> Served:
        started.append(Served(folder))
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_kill_9_in_the_middle_of_a_run_and_a_second_server_and_a_reload(model, serve) -> None:
    random = np.random.default_rng(2)
    rows = (random.random((240, 2)) < 0.3).astype(np.int64)
    rows[160:] |= random.random((80, 2)) < 0.3  # drift
    unbroken = _unbroken(model(seed=0), rows)

    first = serve(model(seed=0))
    for start in range(0, 110, 10):
        _check_same(first.ask(rows[start : start + 10]), unbroken, start)
    first.end(signal.SIGKILL)

    # the settings draw other thresholds now; those of the run count
    second = serve(model(seed=1))
    state = second.state()
    assert (state["state_steps"], state["state_lost_steps"]) == (90, 20)
    assert "20 steps after step 90 were not saved" in second.output
    for start in range(90, 150, 10):
        _check_same(second.ask(rows[start : start + 10]), unbroken, start)

    third = serve(model(seed=1))  # beside it, on the same folder
    assert f"held by process {second.process.pid}" in third.output
    third.end()

    answers = {}
    with ThreadPoolExecutor(1) as pool:
        reload = pool.submit(second.post, "/v2/repository/models/watch/load")
        for start in range(150, 240, 10):
            answers[start] = second.ask(rows[start : start + 10])
        reload.result(60)
    for start, answer in answers.items():
        _check_same(answer, unbroken, start)
    assert second.state()["state_steps"] == 240
    assert unbroken["is_drift"].any()
    second.end(signal.SIGTERM)
    assert second.process.returncode == 0


def _unbroken(folder: Path, rows) -> dict[str, Any]:
    """Alibi Detect alone, all rows in one go."""
    from jackfield_alibi._detect._artifact import read

    detector = read(folder, logging.getLogger("unbroken"), seed=0).detector
    answers = [detector.predict(row)["data"] for row in rows]
    return {
        name: np.array([answer[name] for answer in answers])
        for name in ("is_drift", "time", "test_stat", "threshold")
    }


def _check_same(found: dict[str, Any], unbroken: dict[str, Any], start: int) -> None:
    for name, whole in unbroken.items():
        part = whole[start : start + len(found["time"])]
        assert np.array_equal(found[name].reshape(part.shape), part, equal_nan=True), name
