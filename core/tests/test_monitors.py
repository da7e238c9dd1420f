"""Monitors: what they see, what they say, and that nobody waits for them."""

import asyncio
import json
import logging
import threading

import httpx
import numpy as np
import pytest

from jackfield import InferRequest, ModelNotReadyError, RequestedOutput, Server, Tensor
from jackfield._monitors import monitor as monitor_module
from jackfield._monitors import monitors_of

#: Detectors as anybody writes them, and models that they watch.
CODE = '''
import importlib
from typing import Annotated, TypedDict

import numpy as np
from numpy.typing import NDArray

from jackfield import Capabilities, InferRequest, InferResponse, ModelMetadata, ModelNotReadyError
from jackfield import Datatype, Tensor, TensorMetadata, InvalidRequestError

Matrix = Annotated[NDArray[np.float64], (-1, 3)]


class Both(TypedDict):
    y: NDArray[np.float64]
    z: NDArray[np.float64]


class Sum:
    """The model that is watched."""

    def infer(self, x: Matrix) -> NDArray[np.float64]:
        return x.sum(axis=1)


class Full:
    """One that takes a tensor of any name, as those of MLServer do."""

    def metadata(self):
        columns = {"columns": ["length", "width", "height"]}
        return ModelMetadata(inputs=[TensorMetadata("x", Datatype.FP64, [-1, 3], columns)])

    def infer(self, request: InferRequest) -> InferResponse:
        return InferResponse([Tensor.from_array("y", request.inputs[0].array.sum(axis=1))])


class Two:
    """One with two outputs."""

    def infer(self, x: NDArray[np.float64]) -> Both:
        return {"y": x, "z": -x}


class Columns:
    """One that takes a tensor for each column."""

    def infer(self, a: NDArray[np.float32], b: NDArray[np.int64]) -> NDArray[np.float64]:
        return a.astype(float) + b


class KS:
    """A Kolmogorov-Smirnov test of each column against rows of a normal distribution."""

    def __init__(self, context):
        self.names = context.extra.get("names")
        self.reference = np.random.default_rng(0).normal(size=(1000, 3))

    def metadata(self):
        x = TensorMetadata("x", Datatype.FP64, [-1, 3])
        reference = TensorMetadata("reference", Datatype.FP64, [-1, 3], {"on_request": True})
        told = {"feature_names": self.names} if self.names else {}
        names = ("is_drift", "p_val", "distance", "threshold")
        outputs = [TensorMetadata(name, Datatype.FP64, [-1, -1]) for name in names]
        return ModelMetadata(inputs=[x], outputs=[*outputs, reference], parameters=told)

    def infer(self, request: InferRequest) -> InferResponse:
        if any(output.name == "reference" for output in request.outputs):
            return InferResponse([Tensor.from_array("reference", self.reference[:100])])
        x = request.input("x").array
        distances = np.array([distance(*each) for each in zip(x.T, self.reference.T)])
        n = len(x) * len(self.reference) / (len(x) + len(self.reference))
        k = np.arange(1, 101)[:, None]
        p = 2 * ((-1.0) ** (k - 1) * np.exp(-2 * k**2 * n * distances**2)).sum(axis=0)
        return InferResponse(
            [
                Tensor.from_array("is_drift", np.array([int(p.min() < 0.01 / 3)])),
                Tensor.from_array("p_val", np.clip(p, 0, 1)[None]),
                Tensor.from_array("distance", distances[None]),
                Tensor.from_array("threshold", np.array([0.01 / 3])),
            ]
        )


def distance(a, b):
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    below = [np.searchsorted(each, both, side="right") / len(each) for each in (a, b)]
    return np.abs(below[0] - below[1]).max()


class Seen:
    """Writes down what it is asked; finds drift where the mean is above 1."""

    def __init__(self, context):
        self.stage = importlib.import_module("stage")
        self.shape = context.extra.get("shape", [-1, 3])

    def metadata(self):
        return ModelMetadata(inputs=[TensorMetadata("rows", Datatype.FP64, self.shape)])

    def infer(self, request: InferRequest) -> InferResponse:
        rows = request.input("rows").array
        self.stage.calls.append(rows.copy())
        self.stage.inferring.release()
        assert self.stage.may_answer.wait(20)
        return InferResponse(self.answer(rows))

    def answer(self, rows):
        return [Tensor.from_array("is_drift", np.array([int(rows.mean() > 1)]))]


class Outliers(Seen):
    def answer(self, rows):
        scores = np.abs(rows).max(axis=1)
        flags = (scores > 5).astype(np.int64)
        return [
            Tensor.from_array("is_outlier", flags),
            Tensor.from_array("instance_score", scores),
            Tensor.from_array("threshold", np.array([5.0])),
        ]


class Moody(Seen):
    """Fails in the way that the test says."""

    def answer(self, rows):
        fault = self.stage.log[-1] if self.stage.log else ""
        if fault == "refuse":
            raise InvalidRequestError("rows", expected="other rows", found="these")
        if fault == "raise":
            raise ValueError("the password is swordfish")
        if fault == "unready":
            raise ModelNotReadyError("seen", reason="it thinks")
        if fault == "junk":
            return [Tensor.from_array("y", np.zeros(1))]
        return super().answer(rows)


class Asking:
    """A model that asks another one."""

    def __init__(self, context):
        self.context = context

    def infer(self, x: Matrix) -> NDArray[np.float64]:
        return self.context.model("sum").infer(x=x).outputs[0].array
'''


@pytest.fixture
def stage(stage):
    """Let detectors answer at once, unless a test says otherwise."""
    stage.may_answer.set()
    return stage


@pytest.fixture
def add(add_model, stage):
    """Write a model folder with one of the classes above."""

    def write(name, kind, **given):
        return add_model(name, kind, code=CODE, **given)

    return write


@pytest.fixture
def watched(add):
    """A model watched by a detector; both are written, nothing is started."""

    def write(detector="Seen", *, extra=None, model="Sum", scheduler="auto", **settings):
        add("detector", detector, extra=extra)
        monitor = {"detector": "detector", **settings}
        return add("sum", model, monitors=[monitor], scheduler=scheduler)

    return write


def monitor_of(server, name="sum"):
    (monitor,) = monitors_of(server.model(name))
    return monitor


def rows(count, *, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, size=(count, 3))


async def ask(server, array, name="sum"):
    """Send rows one by one, as callers do."""
    model = server.model(name)
    for row in array:
        response = await model.infer(x=row[None])
        assert response.outputs[0].array == pytest.approx([row.sum()])


def asked(stage):
    """All rows that the detector was asked about."""
    return np.concatenate(stage.calls)


# ---- what is found ----


async def test_drift_is_found_where_it_was_planted_and_not_before(watched, models_dir, until):
    watched("KS", window=100, extra={"names": ["height", "width", "depth"]})
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        await ask(server, rows(300))
        await until(lambda: monitor.statistics.verdicts == 3)
        assert [verdict.is_positive for verdict in monitor.history] == [False, False, False]
        await ask(server, rows(100) + np.array([0, 1, 0]))
        await until(lambda: monitor.statistics.verdicts == 4)
    verdict = monitor.verdict
    assert verdict.is_positive
    assert verdict.rows == 100
    assert [each.name for each in verdict.features] == ["height", "width", "depth"]
    assert [each.is_drift for each in verdict.features] == [False, True, False]
    p_values = [each.p_value for each in verdict.features]
    assert p_values[1] < 1e-6
    assert min(p_values[0], p_values[2]) > 0.01
    assert verdict.threshold == pytest.approx(0.01 / 3)


async def test_outliers_are_counted_and_few_of_them_are_no_alarm(watched, models_dir, until):
    watched("Outliers", window=50, outlier_share=0.05)
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        few, many = rows(50), rows(50)
        few[:2] = 9
        many[:3] = -9
        await ask(server, few)
        await ask(server, many)
        await until(lambda: monitor.statistics.verdicts == 2)
    first, second = monitor.history
    assert (first.kind, first.is_positive, first.flagged_rows) == ("outlier", False, 2)
    assert (second.is_positive, second.flagged_rows, second.threshold) == (True, 3, 5.0)
    assert first.score == 9
    assert monitor.statistics.outlier_rows == 5


async def test_outputs_are_watched_where_that_is_asked_for(watched, models_dir, stage, until):
    watched(watch="outputs", tensors=["output-0"], window=4, extra={"shape": [-1, 1]})
    async with Server([models_dir], plugins=()) as server:
        sent = rows(4, mean=2)
        await ask(server, sent)
        await until(lambda: monitor_of(server).statistics.verdicts)
    assert asked(stage)[:, 0] == pytest.approx(sent.sum(axis=1))


async def test_a_lone_tensor_may_have_any_name_in_a_request(watched, models_dir, stage, until):
    watched(window=2, tensors=["x"], model="Full")
    async with Server([models_dir], plugins=()) as server:
        await server.model("sum").infer(predict=rows(2))
        await until(lambda: monitor_of(server).statistics.verdicts)
        assert monitor_of(server).features == ["length", "width", "height"]
    assert len(asked(stage)) == 2


async def test_columns_are_joined_in_the_metadatas_order(watched, models_dir, stage, until):
    watched(model="Columns", window=3, extra={"shape": [-1, 2]})
    async with Server([models_dir], plugins=()) as server:
        model = server.model("sum")
        for number in range(3):
            given = {"b": np.array([number]), "a": np.array([0.5 + number], "f4")}
            names = ("b", "a") if number % 2 else ("a", "b")
            await model.infer(**{name: given[name] for name in names})
        await until(lambda: monitor_of(server).statistics.verdicts)
        assert monitor_of(server).features == ["a", "b"]
    assert asked(stage).tolist() == [[0.5, 0], [1.5, 1], [2.5, 2]]


async def test_without_a_window_rows_go_on_as_they_come(watched, models_dir, stage, until):
    watched("Outliers")
    async with Server([models_dir], plugins=()) as server:
        sent = rows(2500)
        await server.model("sum").infer(x=sent)
        await until(lambda: monitor_of(server).statistics.judged_rows == 2500)
        assert max(len(call) for call in stage.calls) <= 1000
    assert np.array_equal(asked(stage), sent)


async def test_a_window_in_seconds_is_judged_though_no_row_comes(watched, models_dir, stage, until):
    watched(window={"seconds": 0.2})
    async with Server([models_dir], plugins=()) as server:
        await ask(server, rows(5))
        await until(lambda: monitor_of(server).statistics.verdicts)
    assert len(asked(stage)) == 5


async def test_a_sample_is_a_part_of_the_rows_in_their_order(watched, models_dir, stage, until):
    watched(sample=0.1)
    async with Server([models_dir], plugins=()) as server:
        sent = np.arange(30_000, dtype=float).reshape(-1, 3)
        for part in np.split(sent, 100):
            await server.model("sum").infer(x=part)
        counts = monitor_of(server).statistics
        await until(lambda: counts.judged_rows == counts.sampled_rows)
    assert counts.seen_rows == 10_000
    # ten standard deviations of the binomial distribution
    assert counts.sampled_rows == pytest.approx(1000, abs=300)
    numbers = asked(stage)[:, 0]
    assert (np.diff(numbers) > 0).all()
    assert set(numbers) <= set(sent[:, 0])


@pytest.mark.parametrize("of", ["sum", "detector"])
async def test_models_in_processes_of_their_own_are_watched_and_watch(add, models_dir, until, of):
    processes = {"sum": "auto", "detector": "auto"} | {of: "process"}
    add("detector", "KS", scheduler=processes["detector"])
    monitors = [{"detector": "detector", "window": 50}]
    add("sum", "Sum", monitors=monitors, scheduler=processes["sum"])
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        await ask(server, rows(50))
        await ask(server, rows(50, mean=1))
        await until(lambda: monitor.statistics.verdicts == 2)
    assert [verdict.is_positive for verdict in monitor.history] == [False, True]


async def test_several_monitors_watch_by_themselves(add, models_dir, stage, until):
    add("ks", "KS")
    add("outliers", "Outliers")
    monitors = [{"detector": "ks", "window": 20}, {"detector": "outliers", "name": "odd"}]
    add("sum", "Sum", monitors=monitors)
    async with Server([models_dir], plugins=()) as server:
        await ask(server, rows(20))
        drift, odd = monitors_of(server.model("sum"))
        await until(lambda: drift.statistics.verdicts and odd.statistics.judged_rows == 20)
    assert (drift.name, drift.verdict.kind) == ("ks", "drift")
    assert (odd.name, odd.verdict.kind) == ("odd", "outlier")


async def test_what_models_ask_of_each_other_is_no_traffic(add, watched, models_dir, until):
    watched("Outliers")
    add("asking", "Asking")
    async with Server([models_dir], plugins=()) as server:
        await server.model("asking").infer(x=rows(5))
        await server.model("sum").infer(x=rows(3))
        counts = monitor_of(server).statistics
        await until(lambda: counts.judged_rows == 3)
        assert counts.seen_rows == 3


async def test_rows_judged_last_and_reference_rows_can_be_had(watched, models_dir, until):
    watched("KS", window=500)
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        assert monitor.recent_rows() == []
        sent = rows(1500)
        await server.model("sum").infer(x=sent)
        await until(lambda: monitor.statistics.verdicts == 3)
        (recent,) = monitor.recent_rows()
        assert np.array_equal(recent.array, sent[-1000:])
        reference = await monitor.reference_rows()
    assert reference.shape == (100, 3)
    assert monitor.statistics.verdicts == 3


# ---- nobody waits for it, and nothing fails by it ----


async def test_a_slow_detector_delays_nobody_and_drops_the_oldest(
    watched, models_dir, stage, until
):
    stage.may_answer.clear()
    watched(max_queue=10)
    async with Server([models_dir], plugins=()) as server:
        monitor, counts = monitor_of(server), monitor_of(server).statistics
        await ask(server, rows(1))
        await stage.until_inferring()
        sent = rows(25, seed=1)
        await ask(server, sent)
        assert counts.drops["queue"] == 15
        assert monitor.waiting_rows == 10 + 1  # the detector has one
        stage.may_answer.set()
        await until(lambda: counts.judged_rows == 11)
    assert np.array_equal(stage.calls[1], sent[15:])
    assert counts.seen_rows == counts.judged_rows + sum(counts.drops.values())


async def test_a_detector_that_does_not_answer_is_told(
    watched, models_dir, stage, until, monkeypatch
):
    monkeypatch.setattr(monitor_module, "LONG_S", 0.0)
    stage.may_answer.clear()
    watched()
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        assert monitor.problem == ""
        await ask(server, rows(2))
        await stage.until_inferring()
        assert "has not answered for" in monitor.record().problem
        stage.may_answer.set()
        await until(lambda: monitor.statistics.judged_rows == 2)
        assert monitor.problem == ""


async def test_rows_that_a_fault_of_the_monitor_costs_are_counted(
    watched, models_dir, until, monkeypatch
):
    def fail(*arguments):
        raise RuntimeError

    watched()
    async with Server([models_dir], plugins=()) as server:
        monitor, counts = monitor_of(server), monitor_of(server).statistics
        monkeypatch.setattr(monitor_module, "fit", fail)
        await ask(server, rows(3))
        await until(lambda: counts.drops["error"] == 3)
        assert monitor.waiting_rows == 0
        assert "RuntimeError" in monitor.problem
        monkeypatch.undo()
        await ask(server, rows(2))
        await until(lambda: counts.judged_rows == 2)
    assert monitor.problem == ""


async def test_rows_kept_for_the_report_are_bounded_by_their_bytes(
    watched, models_dir, until, monkeypatch
):
    monkeypatch.setattr(monitor_module, "MOST_RECENT_BYTES", 10 * 3 * 8)
    watched(window=20)
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        await ask(server, rows(100))
        await until(lambda: monitor.statistics.judged_rows == 100)
        (kept,) = monitor.recent_rows()
    assert 10 <= len(kept.array) < 20


async def test_a_request_larger_than_the_queue_keeps_its_last_rows(
    watched, models_dir, stage, until
):
    watched(max_queue=10)
    async with Server([models_dir], plugins=()) as server:
        sent = rows(25)
        await server.model("sum").infer(x=sent)
        counts = monitor_of(server).statistics
        await until(lambda: counts.judged_rows == 10)
    assert np.array_equal(asked(stage), sent[15:])
    assert counts.drops["queue"] == 15


async def test_a_missing_detector_is_told_once_and_waited_for(
    add, models_dir, stage, until, caplog
):
    add("sum", "Sum", monitors=[{"detector": "detector", "window": 10, "max_queue": 10}])
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        await ask(server, rows(5))
        await until(lambda: monitor.problem)
        await ask(server, rows(15, seed=1))
        assert "'detector' is not served here" in monitor.problem
        assert monitor.statistics.drops["queue"] == 10
        add("detector", "Seen")
        await server._models.load("detector")
        await until(lambda: monitor.statistics.verdicts)
        assert monitor.problem == ""
    assert len([each for each in caplog.messages if "can't be had" in each]) == 1


@pytest.mark.parametrize(
    ("fault", "failure", "drop", "text"),
    [
        ("refuse", "refused", "failure", "refuses the rows: "),
        ("raise", "failed", "failure", "failed"),
        ("junk", "no_verdict", "failure", "gives no verdict: it answers 'y'"),
    ],
)
async def test_a_detector_that_fails_costs_its_rows_only(
    watched, models_dir, stage, until, caplog, fault, failure, drop, text
):
    watched("Moody", window=2)
    async with Server([models_dir], plugins=()) as server:
        monitor, counts = monitor_of(server), monitor_of(server).statistics
        stage.log.append(fault)
        await ask(server, rows(4))
        await until(lambda: counts.failures[failure] == 2)
        assert text in monitor.problem
        assert "swordfish" not in monitor.problem
        stage.log.append("")
        await ask(server, rows(2))
        await until(lambda: counts.verdicts == 1)
    assert counts.drops[drop] == 4
    assert counts.judged_rows == 2
    assert monitor.problem == ""
    told = [each for each in caplog.messages if "monitor 'detector': the detector" in each]
    assert len(told) == 1


async def test_a_detector_that_is_not_ready_is_asked_again_about_the_same_rows(
    watched, models_dir, stage, until
):
    watched("Moody", window=2)
    async with Server([models_dir], plugins=()) as server:
        counts = monitor_of(server).statistics
        stage.log.append("unready")
        await ask(server, rows(2))
        await until(lambda: counts.failures["unavailable"])
        stage.log.append("")
        await until(lambda: counts.verdicts == 1)
    assert np.array_equal(stage.calls[0], stage.calls[-1])
    assert sum(counts.drops.values()) == 0


async def test_rows_that_do_not_fit_are_counted_and_told(watched, models_dir, until, caplog):
    watched(extra={"shape": [-1, 4]})
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        await ask(server, rows(3))
        await until(lambda: monitor.statistics.drops["misfit"] == 3)
    assert monitor.misfit == "'x' has the shape [-1, 3], the detector's 'rows' [-1, 4]"
    assert len([each for each in caplog.messages if "rows are dropped" in each]) == 1


async def test_a_fault_of_the_monitor_is_no_callers(watched, models_dir, monkeypatch, caplog):
    watched()
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        monkeypatch.setattr(monitor._intake, "offer", None)
        await ask(server, rows(2))
    assert monitor.statistics.drops["error"] == 2
    assert len([each for each in caplog.messages if "failed on a request" in each]) == 1


async def test_an_answer_without_the_watched_output_is_passed_over(
    watched, models_dir, stage, until
):
    watched(watch="outputs", tensors=["z"], model="Two", extra={"shape": [-1]})
    async with Server([models_dir], plugins=()) as server:
        x = Tensor.from_array("x", np.ones(3))
        for names in (["y"], ["y", "z"]):
            outputs = [RequestedOutput(name) for name in names]
            await server.model("sum").infer(InferRequest([x], outputs=outputs))
        counts = monitor_of(server).statistics
        await until(lambda: counts.judged_rows == 3)
    assert counts.drops["missing"] == 1
    assert asked(stage).tolist() == [-1, -1, -1]


async def test_a_request_keeps_no_buffer_alive(watched, models_dir, stage, until):
    stage.may_answer.clear()
    watched(sample=0.01)
    async with Server([models_dir], plugins=()) as server:
        await server.model("sum").infer(x=rows(2000))
        samples = monitor_of(server)._intake.fetch()
        stage.may_answer.set()
    arrays = [tensor.array for sample in samples for tensor in sample.tensors]
    assert arrays
    assert all(array.base is None or array.base.nbytes == array.nbytes for array in arrays)


# ---- reload and unload ----


async def test_a_reload_keeps_the_window(watched, models_dir, stage, until):
    watched(window=4)
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        first, second = rows(2), rows(2, seed=1)
        await ask(server, first)
        await until(lambda: monitor._held == 2)
        await server._models.load("sum")
        assert monitor_of(server) is monitor
        await ask(server, second)
        await until(lambda: monitor.statistics.verdicts)
    assert np.array_equal(asked(stage), np.concatenate([first, second]))


async def test_a_reload_with_other_settings_begins_anew(watched, models_dir, stage, until):
    watched(window=4)
    async with Server([models_dir], plugins=()) as server:
        old = monitor_of(server)
        await ask(server, rows(2))
        watched(window=3)
        await server._models.load("sum")
        new = monitor_of(server)
        assert new is not old
        sent = rows(3, seed=1)
        await ask(server, sent)
        await until(lambda: new.statistics.verdicts)
        await until(lambda: old._pump.done())
    assert np.array_equal(asked(stage), sent)


async def test_a_failed_reload_leaves_the_monitor_at_work(watched, models_dir, stage, until):
    place = watched(window=2)
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        (place / "runtimes.py").write_text("raise ValueError")
        with pytest.raises(ModelNotReadyError):
            await server._models.load("sum")
        await ask(server, rows(2))
        await until(lambda: monitor.statistics.verdicts)


async def test_unloading_ends_the_pump_and_the_thread(watched, models_dir, stage, until):
    watched(window=2)
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        await ask(server, rows(2))
        await until(lambda: monitor.statistics.verdicts)
        await server._models.unload("sum")
        await until(lambda: monitor._pump.done())
        await until(
            lambda: not any("jackfield-monitor" in each.name for each in threading.enumerate())
        )


async def test_a_detector_that_is_loaded_anew_goes_on(watched, models_dir, stage, until):
    watched(window=2)
    async with Server([models_dir], plugins=()) as server:
        counts = monitor_of(server).statistics
        await ask(server, rows(2))
        await server._models.load("detector")
        await ask(server, rows(2))
        await until(lambda: counts.verdicts == 2)
        await server._models.unload("detector")
        await ask(server, rows(2))
        await until(lambda: monitor_of(server).problem)
        await server._models.load("detector")
        await until(lambda: counts.verdicts == 3)


async def test_a_server_that_is_started_again_watches_again(watched, models_dir, stage, until):
    watched(window=2)
    server = Server([models_dir], plugins=())
    for _ in range(2):
        async with server:
            await ask(server, rows(2))
            await until(lambda: monitor_of(server).statistics.verdicts == 1)


# ---- what can never work is told when the model loads ----


@pytest.mark.parametrize(
    ("monitors", "reason"),
    [
        ([{"detector": "sum"}], r"monitors\[0\].detector: 'sum' can't watch itself"),
        (
            [{"detector": "a", "tensors": ["y"]}],
            r"monitors\[0\].tensors: expected inputs of the model \(x\), found 'y'",
        ),
        ([{"detector": "a"}, {"detector": "a"}], "several are named 'a'"),
        (
            [{"detector": "a", "webhook": {"url": "http://h", "secret_env": "NO_SUCH_KEY"}}],
            "the environment variable NO_SUCH_KEY is not set",
        ),
        ([{"detector": "a", "webhook": {"url": "file:///etc/passwd"}}], "webhook.url: expected"),
        ([{"detector": "a", "sample": 0}], "sample: expected a number > 0"),
        ([{"detector": "a", "window": 0}], "window: expected"),
        ([{"detektor": "a"}], "monitors.0..detektor: expected no such field"),
    ],
)
async def test_settings_that_can_never_work_are_refused(add, models_dir, monitors, reason):
    add("sum", "Sum", monitors=monitors)
    async with Server([models_dir], plugins=()) as server:
        with pytest.raises(ModelNotReadyError, match=reason):
            server.model("sum")
        assert not server._models._monitors._users


async def test_a_caller_may_not_set_monitors(watched, models_dir, serving):
    watched()
    config = {"monitors": [{"detector": "detector", "webhook": {"url": "http://evil"}}]}
    async with serving(models_dir) as (_, rest, _):
        answer = await rest.post(
            "/v2/repository/models/sum/load", json={"parameters": {"config": json.dumps(config)}}
        )
    assert answer.status_code == 400


# ---- what is shown ----


async def test_rest_tells_settings_verdicts_and_counts(watched, models_dir, serving, until):
    watched("KS", window=50, name="drift of inputs", history=2)
    async with serving(models_dir) as (server, rest, _):
        monitor = monitor_of(server)
        await ask(server, rows(100))
        await ask(server, rows(50, mean=1))
        await until(lambda: monitor.statistics.verdicts == 3)
        for path in ("/v2/models/sum/monitors",):
            body = (await rest.get(path)).raise_for_status().json()
            assert (body["model_name"], body["model_version"]) == ("sum", "")
        (told,) = body["monitors"]
    assert told["name"] == "drift of inputs"
    assert told["settings"]["window"] == 50
    assert told["rows"]["judged"] == told["rows"]["seen"] == 150
    assert told["verdicts"] == {"count": 3, "positive": 1}
    assert [each["is_positive"] for each in told["history"]] == [False, True]
    assert told["current"] == told["history"][-1]
    assert [each["name"] for each in told["current"]["features"]] == ["0", "1", "2"]
    assert told["window"] == {"rows": 0, "fullness": 0.0}


async def test_each_version_has_its_own_monitors(add, models_dir, serving, stage, until):
    add("detector", "Seen")
    for version in ("1", "2"):
        monitors = [{"detector": "detector", "window": int(version)}]
        add("sum", "Sum", version=version, monitors=monitors)
    async with serving(models_dir) as (server, rest, _):
        await server.model("sum", "1").infer(x=rows(1))
        (first,) = monitors_of(server.model("sum", "1"))
        await until(lambda: first.statistics.verdicts == 1)
        for version, count in (("1", 1), ("2", 0)):
            answer = await rest.get(f"/v2/models/sum/versions/{version}/monitors")
            assert answer.json()["model_version"] == version
            assert answer.json()["monitors"][0]["verdicts"]["count"] == count


async def test_a_model_without_monitors_has_an_empty_list(add, models_dir, serving):
    add("sum", "Sum")
    async with serving(models_dir) as (server, rest, _):
        body = (await rest.get("/v2/models/sum/monitors")).json()
        assert body == {"model_name": "sum", "model_version": "", "monitors": []}
        assert (await rest.get("/v2/models/mus/monitors")).status_code == 404
        assert b"jackfield_monitor" not in server.metrics()[0]


async def test_the_metrics_tell_what_rest_tells(watched, models_dir, until):
    watched("KS", window=50, extra={"names": ["a", "b", "c"]})
    async with Server([models_dir], plugins=()) as server:
        monitor = monitor_of(server)
        assert b"jackfield_monitor_positive{" not in server.metrics()[0]
        await ask(server, rows(50, mean=1))
        await until(lambda: monitor.statistics.verdicts == 1)
        text = server.metrics()[0].decode()
    labels = 'model="sum",monitor="detector",version=""'
    lines = {}
    for line in text.splitlines():
        name, _, number = line.rpartition(" ")
        if name.startswith("jackfield_monitor"):
            lines[name] = float(number)

    def value(name, *more):
        wanted = set(labels.split(",")) | set(more)
        (found,) = [
            number
            for series, number in lines.items()
            if series.partition("{")[0] == f"jackfield_monitor_{name}"
            and set(series.partition("{")[2].rstrip("}").split(",")) == wanted
        ]
        return found

    assert value("positive") == 1
    assert value("rows_seen_total") == value("rows_judged_total") == 50
    assert value("verdicts_total", 'found="positive"') == 1
    assert value("calls_total", 'outcome="success"') == 1
    assert value("rows_dropped_total", 'reason="queue"') == 0
    for place, feature in enumerate("abc"):
        found = monitor.verdict.features[place]
        assert value("p_value", f'feature="{feature}"') == pytest.approx(found.p_value)
        assert value("distance", f'feature="{feature}"') == pytest.approx(found.distance)


async def test_the_log_tells_a_change_once(watched, models_dir, stage, until, caplog):
    caplog.set_level(logging.INFO, "jackfield.monitor")
    watched(window=1)
    async with Server([models_dir], plugins=()) as server:
        counts = monitor_of(server).statistics
        for mean in (0, 9, 9, 0, 0):
            await ask(server, rows(1, mean=mean))
        await until(lambda: counts.verdicts == 5)
    told = [each for each in caplog.messages if each.startswith("model 'sum', monitor")]
    assert told == [
        "model 'sum', monitor 'detector': drift, of 1 rows",
        "model 'sum', monitor 'detector': no drift any more",
    ]


async def test_a_monitor_watches_what_comes_over_rest(watched, models_dir, serving, stage, until):
    watched(window=3)
    async with serving(models_dir) as (server, rest, _):
        tensor = {"name": "x", "datatype": "FP64", "shape": [3, 3], "data": [*range(9)]}
        answers = await asyncio.gather(
            rest.post("/v2/models/sum/infer", json={"inputs": [tensor]}),
            rest.get("/v2/health/live"),
        )
        assert all(isinstance(each, httpx.Response) for each in answers)
        assert answers[0].json()["outputs"][0]["data"] == [3, 12, 21]
        await until(lambda: monitor_of(server).statistics.verdicts)
    assert asked(stage).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
