import asyncio
import itertools
import types

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from jackfield import ModelMetrics, OverloadedError, RuntimeFailedError, Server
from jackfield._control import Control
from jackfield._http.metrics import create_metrics_app
from jackfield._metrics import Metrics
from jackfield._shared_memory import OFF
from jackfield._statistics import (
    DEPTHS,
    FAILURES,
    SECONDS,
    SIZES,
    LoadStatistics,
    ModelStatistics,
)


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, {"version": "", **labels})


def families(text):
    """Parse an exposition as Prometheus would; the families by name, and no series twice."""
    found = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in found}) == len(found)
    samples = [sample for family in found for sample in family.samples]
    keys = {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}
    assert len(keys) == len(samples)
    return {family.name: family for family in found}


def series(server):
    """Give the name and the labels of each series."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in families(server.metrics()[0]).values()
        for sample in family.samples
    }


def histograms(found):
    """Give each histogram's buckets, sum and count, by its name and its other labels."""
    read = {}
    for family in found.values():
        for sample in family.samples if family.type == "histogram" else ():
            labels = {**sample.labels}
            bound = labels.pop("le", None)
            key = (family.name, tuple(sorted(labels.items())))
            one = read.setdefault(key, {"buckets": []})
            if bound is None:
                one[sample.name.removeprefix(family.name)] = sample.value
            else:
                one["buckets"].append((float(bound), sample.value))
    return read


async def test_outcomes_are_counted_apart(add_model, models_dir, request_of):
    add_model("double")
    add_model("bad", "Failing")
    async with Server([models_dir], plugins=()) as server:
        for _ in range(3):
            await server.model("double").infer(request_of(1))
        with pytest.raises(RuntimeFailedError):
            await server.model("bad").infer(request_of(1))
        metrics = server._metrics
        requests = "jackfield_infer_requests_total"
        assert value(metrics, requests, model="double", outcome="success") == 3
        assert value(metrics, requests, model="double", outcome="failure") == 0
        assert value(metrics, requests, model="bad", outcome="failure") == 1
        assert value(metrics, "jackfield_infer_seconds_count", model="double") == 3


async def test_what_waits_or_runs_and_what_is_refused_is_seen(add_model, request_of, stage):
    folder = add_model("m", "Staged", max_queue=2)
    async with Server([folder], plugins=()) as server:
        metrics = server._metrics
        tasks = [asyncio.create_task(server.model("m").infer(request_of(1))) for _ in range(2)]
        await stage.until_inferring()
        assert value(metrics, "jackfield_infer_in_progress", model="m") == 2
        with pytest.raises(OverloadedError):
            await server.model("m").infer(request_of(1))
        stage.may_answer.set()
        await asyncio.gather(*tasks)
        assert value(metrics, "jackfield_infer_in_progress", model="m") == 0
        requests = "jackfield_infer_requests_total"
        assert value(metrics, requests, model="m", outcome="rejected") == 1


async def test_two_servers_share_no_series(add_model, models_dir, request_of):
    add_model("double")
    async with Server([models_dir], plugins=()) as one, Server([models_dir], plugins=()) as other:
        await one.model("double").infer(request_of(1))
        requests = "jackfield_infer_requests_total"
        assert value(one._metrics, requests, model="double", outcome="success") == 1
        assert value(other._metrics, requests, model="double", outcome="success") == 0


SPANS = st.integers(0, 40_000_000_000) | st.sampled_from([round(each * 1e9) for each in SECONDS])
TIMES = st.lists(SPANS, min_size=3, max_size=3).map(
    lambda spans: [*itertools.accumulate([5, *spans])]
)
CALLS = st.lists(
    st.tuples(TIMES, st.lists(st.integers(0, 20_000), min_size=1, max_size=4), st.integers(0, 900)),
    max_size=20,
)


@given(
    calls=CALLS,
    failed=st.lists(st.sampled_from(FAILURES)),
    rejected=st.integers(0, 9),
    mlserver_names=st.booleans(),
)
def test_every_histogram_is_what_was_observed(calls, failed, rejected, mlserver_names):
    statistics = ModelStatistics()
    times = {"": [], "_queue": [], "_compute": []}
    for (received, arrived, started, ended), sizes, waiting in calls:
        rows, ns = sum(sizes), ended - started
        statistics.executed(requests=len(sizes), rows=rows, ns=ns, waiting=waiting)
        for size in sizes:
            statistics.succeeded(received, arrived, started, ended, size, rows)
            times[""].append((ended - received) / 1e9)
            times["_queue"].append((started - arrived) / 1e9)
            times["_compute"].append((ended - started) / 1e9)
    for outcome in failed:
        statistics.failed(1, outcome)
    statistics.rejected_count = rejected
    model = types.SimpleNamespace(
        name='a "b"\\\n', version="2", statistics=statistics, metrics=None
    )
    metrics = Metrics(lambda: [model], LoadStatistics(), mlserver_names=mlserver_names)
    found = families(metrics.expose()[0])
    read = histograms(found)

    for one in read.values():
        counts = [count for _, count in one["buckets"]]
        assert counts == sorted(counts)
        assert one["buckets"][-1] == (float("inf"), one["_count"])

    depths = [waiting for _, _, waiting in calls]
    expected = {
        **{f"jackfield_infer{part}_seconds": (SECONDS, each) for part, each in times.items()},
        "jackfield_batch_rows": (SIZES, [sum(sizes) for _, sizes, _ in calls]),
        "jackfield_batch_requests": (SIZES, [len(sizes) for _, sizes, _ in calls]),
        "jackfield_queue_depth": (DEPTHS, depths),
    }
    labels = (("model", 'a "b"\\\n'), ("version", "2"))
    for name, (bounds, observed) in expected.items():
        one = read[name, labels]
        assert one["buckets"] == [
            (bound, sum(each <= bound for each in observed)) for bound in (*bounds, float("inf"))
        ]
        assert one["_sum"] == pytest.approx(sum(observed))
    outcomes = {
        sample.labels["outcome"]: sample.value
        for sample in found["jackfield_infer_requests"].samples
    }
    assert outcomes == {
        **{outcome: failed.count(outcome) for outcome in FAILURES},
        "success": len(times[""]),
        "rejected": rejected,
    }
    if mlserver_names:
        of_mlserver = (("model_name", labels[0][1]), ("model_version", "2"))
        assert read["batch_request_queue", of_mlserver] == read["jackfield_queue_depth", labels]


async def test_a_request_is_counted_in_each_part_of_its_path(
    add_model, models_dir, client_of, body_of
):
    add_model("double")
    async with Server([models_dir], plugins=()) as server, client_of(server) as client:
        for _ in range(3):
            await client.post("/v2/models/double/infer", content=body_of(1, 2))
        metrics = server._metrics
        parts = ("", "_decode", "_queue", "_compute", "_encode")
        counts = [
            value(metrics, f"jackfield_infer{part}_seconds_count", model="double") for part in parts
        ]
        assert counts == [3] * len(parts)
        sums = [
            value(metrics, f"jackfield_infer{part}_seconds_sum", model="double") for part in parts
        ]
        assert sums[0] == pytest.approx(sum(sums[1:4]))
        assert min(sums) > 0
        assert value(metrics, "jackfield_batch_requests_sum", model="double") == 3
        assert value(metrics, "jackfield_queue_depth_count", model="double") == 3


async def test_an_unknown_model_makes_no_series(add_model, models_dir, client_of, body_of):
    add_model("m", version="1")
    async with Server([models_dir], plugins=()) as server, client_of(server) as client:
        before = series(server)
        paths = ("nobody", "nobody/versions/1", "m/versions/7")
        for path, verb in itertools.product(paths, ("infer", "generate", "infer_stream")):
            answer = await client.post(f"/v2/models/{path}/{verb}", content=body_of(1))
            assert answer.status_code == 404
        for path in paths:
            name = path.partition("/")[0]
            await client.get(f"/v2/models/{path}/stats")
            await client.post(f"/v2/repository/models/{name}x/load")
            await client.post(f"/v2/repository/models/{name}x/unload")
        assert series(server) == before


async def test_the_version_that_answered_is_told_not_the_one_asked_for(
    add_model, models_dir, client_of, body_of
):
    for version in ("1", "2"):
        add_model("m", version=version)
    async with Server([models_dir], plugins=()) as server, client_of(server) as client:
        for path in ("m", "m", "m/versions/1"):
            await client.post(f"/v2/models/{path}/infer", content=body_of(1))
        metrics = server._metrics
        for version, count in (("1", 1), ("2", 2)):
            requests = "jackfield_infer_requests_total"
            found = value(metrics, requests, model="m", version=version, outcome="success")
            assert found == count
        assert value(metrics, "jackfield_infer_in_progress", model="m") is None


async def test_loads_are_counted_by_outcome(add_model, models_dir):
    add_model("m")
    add_model("broken", code="this is not Python")
    async with Server([models_dir], plugins=()) as server:
        metrics = server._metrics
        await server._models.load("m")
        loads = "jackfield_model_loads_total"
        assert value(metrics, loads, model="m", outcome="success") == 2
        assert value(metrics, loads, model="m", outcome="failure") == 0
        assert value(metrics, loads, model="broken", outcome="failure") == 1
        assert value(metrics, "jackfield_model_load_seconds", model="m") > 0
        assert value(metrics, "jackfield_model_load_seconds", model="broken") is None


async def test_the_metrics_port_tells_of_the_process_too(running, add_model, models_dir):
    add_model("m")
    async with running(models_dir) as run, httpx.AsyncClient() as client:
        answer = await client.get(run.metrics)
        assert answer.headers["content-type"].startswith("text/plain")
        found = families(answer.content)
        ours = set(families(run.server.metrics()[0]))
    assert ours < set(found)
    assert {"python_info", "python_gc_collections"} <= set(found) - ours
    (memory,) = found["process_resident_memory_bytes"].samples
    assert memory.value > 1_000_000


async def test_a_running_server_tells_how_late_its_loop_is(models_dir, add_model, until):
    add_model("m")
    async with Server([models_dir], plugins=()) as server:
        registry = server._metrics.registry
        count = "jackfield_event_loop_lag_seconds_count"
        await until(lambda: registry.get_sample_value(count) >= 1)


async def test_a_name_of_the_servers_own_metrics_is_refused_to_models(
    add_model, models_dir, client_of, caplog
):
    taken = ("process_start_time_seconds", "python_info", "model_infer_request_success")
    code = (
        "class Mine:\n"
        "    def __init__(self, context):\n"
        f"        for name in {(*taken, 'mine')}: context.metrics.gauge(name).set(7)\n"
        "    def infer(self, x: int) -> int: return x\n"
    )
    add_model("m", "Mine", code=code)
    async with Server([models_dir], plugins=()) as server:
        metrics = Metrics(server._models.loaded, LoadStatistics(), mlserver_names=True)
        control = Control(server._models, metrics, regions=OFF, logs=server._logs)
        async with client_of(create_metrics_app(control, "/metrics")) as client:
            found = families((await client.get("/metrics")).content)
    sevens = {
        sample.name
        for family in found.values()
        for sample in family.samples
        if (sample.value, sample.labels.get("model")) == (7, "m")
    }
    assert sevens == {"mine"}
    for name in taken:
        assert f"the metric '{name}' of a model is left out" in caplog.text


def test_mlservers_names_are_there_on_request_only():
    statistics = ModelStatistics()
    statistics.executed(requests=2, rows=2, ns=2_000_000_000, waiting=3)
    for _ in range(2):
        statistics.succeeded(0, 1_000_000_000, 1_000_000_000, 3_000_000_000, 1, 2)
    statistics.failed(1_000_000_000, "deadline")
    statistics.rejected_count = 4
    model = types.SimpleNamespace(name="m", version="v1", statistics=statistics, metrics=None)
    plain, both = (
        Metrics(lambda: [model], LoadStatistics(), mlserver_names=asked) for asked in (False, True)
    )
    found = families(both.expose()[0])
    added = set(found) - set(families(plain.expose()[0]))
    assert {name: found[name].type for name in added} == {
        "model_infer_request_success": "counter",
        "model_infer_request_failure": "counter",
        "model_infer_request_duration": "summary",
        "batch_request_queue": "histogram",
    }
    labels = {"model": "m", "version": "v1"}
    get = both.registry.get_sample_value
    assert get("model_infer_request_success_total", labels) == 2
    assert get("model_infer_request_failure_total", labels) == 5
    assert get("model_infer_request_duration_count", labels) == 7
    assert get("model_infer_request_duration_sum", labels) == 7.0
    labels = {"model_name": "m", "model_version": "v1"}
    assert get("batch_request_queue_count", labels) == 1
    assert get("batch_request_queue_sum", labels) == 3


async def test_an_unloaded_model_leaves_no_series_and_a_loaded_one_has_them_again(
    add_model, models_dir
):
    add_model("double")
    async with Server([models_dir], plugins=()) as server:
        for _ in range(2):
            await server._models.unload("double")
            names = {name for name, labels in series(server) if "double" in dict(labels).values()}
            assert names == {"jackfield_model_loads_total", "jackfield_model_load_seconds"}
            await server._models.load("double")
            assert value(server._metrics, "jackfield_infer_in_progress", model="double") == 0


COUNTING = """
from jackfield import ModelContext


class Mine:
    def __init__(self, context):
        metrics = context.metrics
        self.rows = metrics.counter("rows", "Rows seen.")
        self.fill = metrics.gauge("fill", labels=["shelf"])
        self.took = metrics.histogram("took_seconds", buckets=[1, 2])
        assert metrics.counter("rows") is self.rows

    def infer(self, x: list[float]) -> int:
        self.rows.inc(len(x))
        self.fill.labels(shelf="a").set(3)
        self.took.observe(1.5)
        return 1
"""


async def test_a_models_own_metrics_carry_its_name_and_version(add_model, models_dir, request_of):
    for name, version in (("a", "1"), ("a", "2"), ("b", "")):
        add_model(name, "Mine", code=COUNTING, version=version)
    async with Server([models_dir], plugins=()) as server:
        await server.model("a", "1").infer(request_of(1, 2))
        await server.model("a", "2").infer(request_of(1))
        metrics = server._metrics
        assert value(metrics, "rows_total", model="a", version="1") == 2
        assert value(metrics, "rows_total", model="a", version="2") == 1
        assert value(metrics, "rows_total", model="b") == 0
        assert value(metrics, "fill", model="a", version="1", shelf="a") == 3
        assert value(metrics, "took_seconds_bucket", model="a", version="1", le="2.0") == 1
        text = metrics.expose()[0].decode()
        assert text.count("# TYPE rows_total counter") == 1
        assert "# HELP rows_total Rows seen." in text
        assert "_created" not in text
        await server._models.unload("a")
        assert value(metrics, "rows_total", model="a", version="1") is None
        assert value(metrics, "rows_total", model="b") == 0


async def test_a_name_of_two_kinds_is_shown_once_and_told(add_model, models_dir, caplog):
    for name, kind in (("a", "counter"), ("b", "gauge")):
        code = (
            "class Mine:\n"
            f"    def __init__(self, context): context.metrics.{kind}('rows')\n"
            "    def infer(self, x: int) -> int: return x\n"
        )
        add_model(name, "Mine", code=code)
    async with Server([models_dir], plugins=()) as server:
        text = server._metrics.expose()[0].decode()
    assert 'rows_total{model="a",version=""} 0.0' in text
    assert 'rows{model="b"' not in text
    assert "model 'b': its metric 'rows' is left out: for another model that is a c" in caplog.text


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (("counter", "a b"), "metric 'a b': expected letters, digits and underscores"),
        (("counter", "jackfield_rows"), "another beginning than 'jackfield_'"),
        (("gauge", "taken"), "metric 'taken' is a counter already"),
    ],
)
def test_a_metric_that_can_not_be_is_refused(call, text):
    metrics = ModelMetrics()
    metrics.counter("taken")
    kind, name = call
    with pytest.raises(ValueError, match=text):
        getattr(metrics, kind)(name)
    with pytest.raises(ValueError, match="label 'model' is put on every metric already"):
        metrics.gauge("g", labels=["model"])
