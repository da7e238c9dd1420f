import asyncio

import pytest

from jackfield import ModelMetrics, OverloadedError, RuntimeFailedError, Server


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, {"version": "", **labels})


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


async def test_a_request_is_in_the_bucket_of_its_time_and_all_above(
    add_model, models_dir, request_of
):
    add_model("double")
    async with Server([models_dir], plugins=()) as server:
        await server.model("double").infer(request_of(1))
        text = server._metrics.expose()[0].decode()
    counts = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("jackfield_infer_seconds_bucket")
    ]
    assert counts == sorted(counts)
    assert counts[0] in (0, 1)
    assert counts[-1] == 1


async def test_an_unloaded_model_leaves_no_series_and_a_loaded_one_has_them_again(
    add_model, models_dir
):
    add_model("double")
    async with Server([models_dir], plugins=()) as server:
        for _ in range(2):
            await server._models.unload("double")
            assert b'model="double"' not in server._metrics.expose()[0]
            await server._models.load("double")
            assert b'model="double"' in server._metrics.expose()[0]


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
    assert "model 'b' : its metric 'rows' is left out: for another model that is a c" in caplog.text


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
