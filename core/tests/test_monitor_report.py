"""A monitor's report: what a person reads there, and what becomes of odd names and data."""

import asyncio
import base64
import contextlib
import importlib.util
import itertools
import math
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield import Server
from jackfield._http.monitor_report import MOST_WAITING
from jackfield._monitors import FeatureVerdict, Verdict, monitors_of
from jackfield._monitors.report import ReportData, draw, make_report
from jackfield._monitors.report.data import categories, ranked_features
from jackfield._monitors.report.draw import draw_png
from jackfield._monitors.report.page import make_page

CODE = '''
import importlib

import numpy as np
from numpy.typing import NDArray

from jackfield import (
    Capabilities, Datatype, InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata
)


class Sum:
    def infer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x.sum(axis=-1)


class Mean:
    """Says that a column drifts whose mean is above 1."""

    NAMES = ["weight <kg>", "$height$", "age & more"]
    capabilities = Capabilities(thread_safe=True)

    def __init__(self, context):
        self.keeps = context.extra.get("keeps", True)
        self.is_staged = context.extra.get("staged", False)

    def metadata(self):
        names = ["is_drift", "p_val", "distance", "threshold"]
        names += ["reference"] if self.keeps else []
        return ModelMetadata(
            inputs=[TensorMetadata("x", Datatype.FP64, [-1, 3])],
            outputs=[TensorMetadata(name, Datatype.FP64, [-1, -1]) for name in names],
            parameters={"detector": "Mean", "feature_names": self.NAMES},
        )

    def infer(self, request: InferRequest) -> InferResponse:
        if request.outputs:
            if self.is_staged:
                stage = importlib.import_module("stage")
                stage.inferring.release()
                assert stage.may_answer.wait(10)
            rows = np.linspace([0, 10, -1], [1, 20, 1], 50)
            return InferResponse([Tensor.from_array("reference", rows)])
        mean = request.inputs[0].array.mean(axis=0)
        p_val = np.where(mean > 1, 0.00012345, 0.75)
        return InferResponse(
            [
                Tensor.from_array("is_drift", np.array([int((mean > 1).any())])),
                Tensor.from_array("p_val", p_val[None]),
                Tensor.from_array("distance", abs(mean)[None]),
                Tensor.from_array("threshold", np.array([0.05 / 3])),
            ]
        )


class Outliers:
    """Says that a row is an outlier whose sum is above 10."""

    def infer(self, request: InferRequest) -> InferResponse:
        score = request.inputs[0].array.sum(axis=1)
        return InferResponse(
            [
                Tensor.from_array("is_outlier", (score > 10).astype(int)),
                Tensor.from_array("instance_score", score),
            ]
        )
'''
REPORT = "/v2/models/m/monitors/report"
has_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="pictures need matplotlib"
)


class Page(HTMLParser):
    """What a browser would show and load: texts by element, pictures, and every address."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.images, self.addresses = [], {}, [], []
        self._open = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        if tag == "img":
            self.images.append(given)
        self.addresses += [given[name] for name in ("src", "href", "action") if name in given]
        if tag not in ("img", "meta"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data

    @property
    def rows(self):
        """Cells of the tables, in order."""
        return self.texts.get("td", [])


def verdict(*p_values, time_s=1_800_000_000.0, **fields):
    features = [
        FeatureVerdict(name=str(place), p_value=p_value, distance=1 - p_value, threshold=0.01)
        for place, p_value in enumerate(p_values)
    ]
    is_positive = any(p_value < 0.01 for p_value in p_values)
    return Verdict(
        **{
            "time_s": time_s,
            "kind": "drift",
            "is_positive": is_positive,
            "rows": 100,
            "threshold": 0.01,
            "features": features,
            **fields,
        }
    )


def report(**fields):
    given = {"model": "m", "monitor": "drift", "detector": "d", "made_s": 1_800_000_000.0}
    return ReportData(**(given | fields))


def rows(count, features, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, size=(count, features))


@contextlib.contextmanager
def without_matplotlib():
    """Make it not installed, though it may be loaded."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("matplotlib", "matplotlib.figure", "matplotlib.patches"):
            patch.setitem(sys.modules, name, None)
        yield


@pytest.fixture
def watched(add_model):
    """Write a watched model and its detector."""

    def write(*monitors, kind="Mean", **extra):
        add_model(
            "m", "Sum", code=CODE, monitors=list(monitors) or [{"detector": "d", "window": 5}]
        )
        add_model("d", kind, code=CODE, extra=extra)

    return write


@pytest.fixture
def serve(models_dir, client_of, until):
    """Serve, and ask a model whose monitors judge windows of 5 rows; without pictures."""

    class Asked:
        def __init__(self, server, client):
            self.server, self.client = server, client

        async def send(self, array, windows):
            count = [len(each.history) for each in self.monitors]
            await self.server.model("m").infer(x=np.asarray(array, dtype=float))
            await until(
                lambda: all(
                    len(each.history) >= before + windows
                    for each, before in zip(self.monitors, count, strict=True)
                )
            )

        @property
        def monitors(self):
            return monitors_of(self.server._models.get("m"))

        async def get(self, path=REPORT, **headers):
            return await self.client.get(path, headers=headers)

    @contextlib.asynccontextmanager
    async def start(*, draws=False):
        with contextlib.nullcontext() if draws else without_matplotlib():
            async with Server([models_dir], plugins=()) as server, client_of(server) as client:
                yield Asked(server, client)

    return start


async def test_the_page_tells_the_verdict_the_names_and_the_numbers(watched, serve):
    watched()
    async with serve() as asked:
        await asked.send([[0.5, 15, -2]] * 5, 1)
        answer = await asked.get()
    page = Page(answer.text)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert page.texts["h1"] == ["Monitor “d” of the inputs of “m”"]
    assert page.texts["span"] == ["drift"]
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert facts["detector"] == "d (Mean)"
    assert facts["window"] == "5 rows"
    assert facts["rows judged"] == "5"
    # the feature that drifts comes first, with its p-value, distance, and means then and now
    assert page.rows[:6] == ["$height$", "drift", "0.00012", "15", "15", "15"]
    assert {"weight <kg>", "age & more"} <= set(page.rows)


async def test_the_page_loads_and_runs_nothing(watched, serve):
    watched()
    async with serve() as asked:
        await asked.send([[0.5, 15, -2]] * 5, 1)
        answer = await asked.get()
    page = Page(answer.text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not page.addresses
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@has_matplotlib
async def test_the_page_has_pictures_that_load_and_run_nothing_either(watched, serve):
    watched()
    async with serve(draws=True) as asked:
        await asked.send([[0.5, 15, -2]] * 5, 1)
        page = Page((await asked.get()).text)
    assert len(page.images) == len(page.addresses) == 2
    assert page.images[0]["alt"] == "1 verdicts over time; the newest: drift"
    assert page.images[1]["alt"].startswith("distributions then and now of $height$, ")
    for image in page.images:
        svg = base64.b64decode(image["src"].partition(",")[2]).decode()
        assert "<svg" in svg
        assert "<script" not in svg


@has_matplotlib
@pytest.mark.parametrize(
    ("path", "accept"), [(f"{REPORT}?format=png", "text/html"), (REPORT, "image/png")]
)
async def test_a_picture_is_asked_for_by_format_or_accept(path, accept, watched, serve):
    image = pytest.importorskip("PIL.Image")
    watched()
    async with serve(draws=True) as asked:
        await asked.send([[0.5, 15, -2]] * 10, 2)
        answer = await asked.get(path, accept=accept)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    with image.open(BytesIO(answer.content)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width == 1100
        assert 700 < picture.height < 1300
        assert len(picture.convert("RGB").getcolors(2**24)) > 50


@pytest.mark.parametrize("accept", ["", "*/*", "text/html,image/png", "application/json"])
async def test_everybody_else_gets_the_page(accept, watched, serve):
    watched()
    async with serve() as asked:
        answer = await asked.get(REPORT, accept=accept)
    assert answer.headers["content-type"].startswith("text/html")


async def test_before_the_first_verdict_the_report_says_so(watched, serve):
    watched()
    async with serve() as asked:
        page = Page((await asked.get()).text)
    assert page.texts["span"] == ["no verdict yet"]
    assert "none: no window is full yet" in page.texts["dd"]


@has_matplotlib
async def test_before_the_first_verdict_there_is_a_picture(watched, serve):
    watched()
    async with serve(draws=True) as asked:
        assert (await asked.get(f"{REPORT}?format=png")).content.startswith(b"\x89PNG")


async def test_a_detector_without_a_reference_has_a_report(watched, serve):
    watched(keeps=False)
    async with serve() as asked:
        await asked.send([[0.5, 0.25, -2]] * 5, 1)
        answer = await asked.get()
    page = Page(answer.text)
    assert page.texts["span"] == ["no drift"]
    assert "mean then" not in page.texts["th"]
    assert page.rows[page.rows.index("$height$") :][3] == "0.25"


async def test_a_detector_that_is_gone_leaves_the_report_and_is_named(watched, serve):
    watched()
    async with serve() as asked:
        await asked.send([[0.5, 15, -2]] * 5, 1)
        await asked.client.post("/v2/repository/models/d/unload")
        page = Page((await asked.get()).text)
    assert any("gives no reference" in text and "'d'" in text for text in page.texts["p"])
    assert "$height$" in page.rows


async def test_outliers_are_told_by_share_and_score(watched, serve):
    watched({"detector": "d", "window": 5, "outlier_share": 0.2}, kind="Outliers")
    async with serve() as asked:
        await asked.send([[1, 1, 1]] * 4 + [[9, 9, 9]], 1)
        quiet = Page((await asked.get()).text)
        await asked.send([[1, 1, 1]] * 3 + [[9, 9, 9]] * 2, 1)
        page = Page((await asked.get()).text)
    assert quiet.texts["span"] == ["no outliers"]
    assert page.texts["span"] == ["outliers"]
    last = page.rows[-10:]
    assert last[1:5] == ["outliers", "5", "2", "27"]
    assert last[6:] == ["", "5", "1", "27"]


async def test_an_unknown_format_is_refused_and_the_known_ones_are_named(watched, serve):
    watched()
    async with serve() as asked:
        answer = await asked.get(f"{REPORT}?format=pdf")
    assert answer.status_code == 400
    assert answer.json() == {"error": "model 'm': format: expected html or png, found 'pdf'"}


async def test_an_unknown_monitor_is_not_found_and_the_known_ones_are_named(watched, serve):
    watched()
    async with serve() as asked:
        answer = await asked.get(f"{REPORT}?monitor=x")
        bare = await asked.get("/v2/models/d/monitors/report")
        unknown = await asked.get("/v2/models/x/monitors/report")
    assert answer.status_code == bare.status_code == unknown.status_code == 404
    assert answer.json() == {"error": "model 'm' has no monitor 'x'; it has: 'd'"}
    assert bare.json() == {"error": "model 'd' has no monitor; it has: none"}
    assert "'x'" in unknown.json()["error"]


async def test_of_several_monitors_one_has_to_be_named(watched, serve):
    watched({"detector": "d"}, {"detector": "d", "name": "other", "watch": "outputs"})
    async with serve() as asked:
        answer = await asked.get()
        named = Page((await asked.get(f"{REPORT}?monitor=other")).text)
    assert answer.status_code == 400
    assert "one of 'd', 'other'" in answer.json()["error"]
    assert named.texts["h1"] == ["Monitor “other” of the outputs of “m”"]


async def test_without_matplotlib_the_page_has_its_tables_and_the_picture_is_501(watched, serve):
    watched()
    async with serve(draws=False) as asked:
        await asked.send([[0.5, 15, -2]] * 5, 1)
        page = Page((await asked.get()).text)
        picture = await asked.get(f"{REPORT}?format=png")
    assert not page.images
    assert 'pip install "jackfield[report]"' in page.texts["code"]
    assert "$height$" in page.rows
    assert picture.status_code == 501
    assert 'pip install "jackfield[report]"' in picture.json()["error"]


async def test_more_reports_than_are_made_soon_are_refused(watched, serve, stage):
    watched(staged=True)
    stage.may_answer.clear()
    async with serve() as asked:
        tasks = [asyncio.create_task(asked.get()) for _ in range(MOST_WAITING + 1)]
        # the others wait for the detector
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stage.may_answer.set()
        answers = await asyncio.gather(*waiting)
        after = await asked.get()
    assert [each.result().status_code for each in done] == [429]
    assert [each.status_code for each in (*answers, after)] == [200] * (MOST_WAITING + 1)


async def test_the_report_is_in_the_api_document(watched, serve):
    watched()
    async with serve() as asked:
        document = (await asked.get("/v2/docs/dataplane.json")).json()
    operation = document["paths"]["/v2/models/{model}/monitors/report"]["get"]
    in_query = {each["name"] for each in operation["parameters"] if each["in"] == "query"}
    assert in_query == {"format", "monitor"}
    assert {*operation["responses"]["200"]["content"]} == {"text/html", "image/png"}
    assert {"400", "404", "501"} <= {*operation["responses"]}


NAMES = st.text(max_size=30) | st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x>', "$\\frac{$", "a\nb\0", "温度", "x" * 300, "{0}"]
)


@settings(max_examples=40, deadline=None)
@given(model=NAMES, monitor=NAMES, names=st.lists(NAMES, min_size=2, max_size=2))
def test_every_name_is_shown_as_it_is_and_is_no_markup(model, monitor, names):
    data = report(
        model=model, monitor=monitor, names=names, sample=rows(5, 2), verdicts=[verdict(0.5, 0.9)]
    )
    with without_matplotlib():
        page = Page(make_page(data))
    plain = {"p", "h1", "h2", "dl", "dt", "dd", "div", "span", "code", "table", "thead", "tbody"}
    plain |= {"tr", "th", "td", "html", "head", "meta", "title", "style", "body"}
    assert set(page.tags) <= plain
    # what HTML itself can't hold, NUL and bare returns, a reader replaces
    if not set("\0\r") & set(model + monitor):
        assert page.texts["h1"] == [f"Monitor “{monitor}” of the inputs of “{model}”"]


@has_matplotlib
@settings(max_examples=5, deadline=None)
@given(names=st.lists(NAMES, min_size=3, max_size=3), problem=NAMES)
def test_every_name_can_be_drawn(names, problem):
    data = report(
        model=names[0],
        monitor=names[1],
        names=names,
        problem=problem,
        reference=rows(20, 3),
        sample=rows(20, 3, 1),
        verdicts=[verdict(0.5, 0.9, 0.001), verdict(0.0, 0.9, 0.1, time_s=1_800_000_010.0)],
    )
    assert draw_png(data).startswith(b"\x89PNG")


ODD = {
    "nothing": {},
    "one verdict": {"verdicts": [verdict(0.0)]},
    "verdicts of one moment": {"verdicts": [verdict(0.5, 0.5)] * 3},
    "verdicts of two widths": {"verdicts": [verdict(0.5), verdict(0.5, 0.5)]},
    "all features together": {"verdicts": [verdict(0.5)], "sample": rows(10, 4)},
    "features that are not told": {"verdicts": [verdict()], "sample": rows(10, 2)},
    "numbers that are not told": {
        "verdicts": [verdict(features=[FeatureVerdict(name="a")], threshold=None)]
    },
    "more verdicts than are drawn": {
        "verdicts": [verdict(0.5, time_s=1.8e9 + place) for place in range(1200)]
    },
    "a thousand features": {"reference": rows(9, 1000), "sample": rows(9, 1000)},
    "images": {"reference": rows(9, 48).reshape(9, 4, 4, 3), "sample": rows(9, 48, 1)},
    "another width then": {"reference": rows(9, 2), "sample": rows(9, 3)},
    "only then": {"reference": rows(9, 2)},
    "nothing but NaN": {"reference": rows(9, 1), "sample": np.full((9, 1), np.nan)},
    "one value": {"reference": np.full((9, 1), 3.5), "sample": np.full((9, 1), 1e300)},
    "far away": {"reference": np.arange(99.0)[:, None], "sample": np.full((9, 1), 1e12)},
    "infinities": {"sample": np.array([[np.inf], [-np.inf], [1.0]])},
    "flags": {"reference": np.array([[True], [False]]), "sample": np.array([[True]])},
    "texts": {
        "reference": np.array([[b"a", 1.5], ["b", 2], [None, 3]], dtype=object),
        "sample": np.array([["c $", 1.5], ["b", None], ["<", 3]], dtype=object),
    },
    "no rows": {"reference": rows(0, 2), "sample": rows(0, 2)},
    "flat": {"reference": rows(9, 1)[:, 0], "sample": rows(9, 1)[:, 0]},
    "outliers without scores": {
        "verdicts": [verdict(kind="outlier", threshold=None, flagged_rows=3, is_positive=True)]
    },
}


@pytest.mark.parametrize("case", ODD)
def test_odd_data_have_a_page(case):
    with without_matplotlib():
        assert "h1" in Page(make_page(report(**ODD[case]))).texts


@has_matplotlib
@pytest.mark.parametrize("case", ODD)
def test_odd_data_have_a_picture(case):
    assert draw_png(report(**ODD[case])).startswith(b"\x89PNG")


@has_matplotlib
def test_the_labels_of_few_values_stand_apart():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = np.array([-1.234567, -0.000123456, 0.5, 1e-9, 12345.678, 7, 8, 1e10, 9.87654, 3.21])
    (feature,) = ranked_features(report(reference=values[:, None], sample=values[:, None]))
    figure = Figure(figsize=(2.4, 1.9))
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw._draw_feature(axes, feature)
    canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert len(boxes) > 2
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_features_that_drift_come_first():
    data = report(
        names=["a", "b", "c"],
        reference=rows(100, 3),
        sample=rows(100, 3, 1),
        verdicts=[verdict(0.0, 0.0, 0.0), verdict(0.2, 0.9, 0.001)],
    )
    features = ranked_features(data)
    assert [each.name for each in features] == ["c", "a", "b"]
    assert [each.is_flagged for each in features] == [True, False, False]


def test_where_only_all_features_together_are_judged_the_difference_ranks_them():
    then, now = rows(200, 3), rows(200, 3, 1)
    now[:, 1] += 1.5
    data = report(names=["a", "b", "c"], reference=then, sample=now, verdicts=[verdict(0.5)])
    first = ranked_features(data)[0]
    assert first.name == "b"
    assert math.isnan(first.p_value)
    # the largest difference between two normal distributions 1.5 apart: 2 Φ(0.75) - 1
    assert first.gap == pytest.approx(0.547, abs=0.08)


def test_the_page_says_how_many_features_it_leaves_out():
    page = Page(make_page(report(reference=rows(9, 120), sample=rows(9, 120, 1))))
    assert "The first 50 of 120." in page.texts["p"]


def test_what_is_missing_is_told():
    now = rows(10, 1)
    now[:4] = np.nan
    page = Page(make_page(report(reference=rows(10, 1), sample=now)))
    assert "40.0%" in page.rows


def test_few_values_are_categories_and_texts_are_counted():
    few, texts = ranked_features(
        report(
            sample=np.array([[1.0, "b"], [2.0, "b"], [1.0, "a"]], dtype=object),
            reference=np.array([[3.0, "c"]], dtype=object),
        )
    )
    if few.index:
        few, texts = texts, few
    assert categories(few, 12) == [1.0, 2.0, 3.0]
    assert categories(few, 2) == []
    assert categories(texts, 2) == ["b", "a"]
    # no row of the one is like one of the other
    assert texts.gap == 1.0


@has_matplotlib
def test_a_report_is_made_in_another_process_and_is_the_same():
    data = report(sample=rows(9, 2), reference=rows(9, 2, 1), verdicts=[verdict(0.5, 0.001)])
    assert make_report(data, "png") == draw_png(data)
    assert Page(make_report(data, "html").decode()).rows == Page(make_page(data)).rows


@has_matplotlib
def test_what_went_wrong_in_the_other_process_is_told():
    broken = report(sample=rows(9, 2), names=[object()])
    with pytest.raises(RuntimeError, match=r"exited with code 1: [\s\S]*Error"):
        make_report(broken, "html")


def test_a_server_starts_without_what_draws():
    code = "import sys, jackfield._http.app; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["False"]
