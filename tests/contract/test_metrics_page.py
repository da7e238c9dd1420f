"""docs/metrics.md lists the metrics that there are, and Grafana's dashboard asks for no others."""

import json
import re
import types
from pathlib import Path

import pytest

from jackfield._metrics import Metrics
from jackfield._monitors import FeatureVerdict, Verdict
from jackfield._monitors.monitor import Handle
from jackfield._monitors.statistics import MonitorStatistics
from jackfield._statistics import FAILURES, LoadStatistics, ModelStatistics

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "metrics.md").read_text("utf-8")
DASHBOARD = json.loads((DOCS / "grafana.json").read_text("utf-8"))
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", re.MULTILINE)


def handle():
    """Make what a model has of a monitor that has judged once."""
    feature = FeatureVerdict(name="f", p_value=0.5, distance=1.0)
    verdict = Verdict(time_s=1.0, kind="drift", is_positive=True, rows=1, features=[feature])
    monitor = types.SimpleNamespace(
        model="m",
        version="1",
        name="d",
        statistics=MonitorStatistics(),
        verdict=verdict,
        waiting_rows=0,
        observe=None,
    )
    return Handle(monitor, lambda: None)


def families(*, mlserver_names):
    """Collect from a server with one model that did nothing."""
    model = types.SimpleNamespace(
        name="m", version="1", statistics=ModelStatistics(), metrics=None, observers=[handle()]
    )
    loads = LoadStatistics()
    loads.succeeded("m", "1", 1.0)
    return list(Metrics(lambda: [model], loads, mlserver_names=mlserver_names).collect())


def shown(family):
    """Give a family as its row in the page: shown name, type, labels."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return name, family.type, frozenset(set(family.samples[0].labels) - {"le"})


def rows(section):
    """Read the table of a section: name, type, the cell with the labels."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [match.groups() for match in ROW.finditer(text)]


def test_the_page_lists_every_metric_with_its_type_and_labels():
    listed = set()
    for name, kind, cell in rows("What there is"):
        labels = {"model", "version"} ^ set(re.findall(r"`(\w+)`", cell))
        listed.add((name, kind, frozenset(labels)))
    assert listed == {shown(family) for family in families(mlserver_names=False)}


def test_the_page_lists_mlservers_names_as_they_are_shown():
    plain = {family.name for family in families(mlserver_names=False)}
    listed = {
        (name, kind, frozenset(re.findall(r"`(\w+)`", cell)))
        for name, kind, cell in rows("MLServer's names")
    }
    both = families(mlserver_names=True)
    assert listed == {shown(family) for family in both if family.name not in plain}


def test_the_page_tells_every_outcome():
    text = PAGE.partition("Outcomes of requests:")[2].partition("\n\n")[0]
    (requests,) = (
        family
        for family in families(mlserver_names=False)
        if family.name == "jackfield_infer_requests"
    )
    outcomes = {sample.labels["outcome"] for sample in requests.samples}
    assert outcomes == {*FAILURES, "success", "rejected"}
    assert outcomes <= set(re.findall(r"`(\w+)`", text))


def queries():
    """Yield each query of the dashboard and of the page."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"grafana-{panel['title']}-{target['refId']}")
    for index, block in enumerate(re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL)):
        yield pytest.param(block, id=f"page-{index}")


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_asks_for_series_and_labels_that_there_are(query):
    series = {
        sample.name: set(sample.labels)
        for family in families(mlserver_names=False)
        for sample in family.samples
    }
    process = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}
    asked = set(re.findall(r"\b(?:jackfield|process)_\w+", query))
    assert asked
    assert asked <= {*series, *process}
    labels = set(re.findall(r"(\w+)(?:=~?|!=)\"", query))
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        labels |= {label.strip() for label in grouped.split(",")}
    assert labels <= set().union(*(series.get(name, set()) for name in asked))


def test_the_dashboard_shows_every_metric_of_the_server():
    queries = " ".join(
        target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]
    )
    missing = {
        family.name for family in families(mlserver_names=False) if family.name not in queries
    }
    assert not missing
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
