"""What a picture shows: names and numbers, in HTML that needs nothing else and in a PNG."""

import base64
import html.parser
import io
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jackfield_alibi._explain._engines import ENGINES
from jackfield_alibi._explain._explanation import Explanation
from jackfield_alibi._explain._pictures import draw

pytest.importorskip("matplotlib", reason="pictures are painted by matplotlib")
Image = pytest.importorskip("PIL.Image")

MINUS = "\N{MINUS SIGN}"
FEATURES = ["alcohol", "ash", "proline", "hue"]
CLASSES = ["red", "white", "rosé"]
RNG = np.random.default_rng(7)
ROWS = RNG.normal(size=(40, 4)) * [1, 2, 300, 0.1] + [13, 2, 700, 1]


def shap(rows=1, features=4, classes=3, **data):
    values = np.random.default_rng(3).normal(size=(classes, rows, features))
    found = {
        "shap_values": list(values),
        "expected_value": np.linspace(0.1, 0.6, classes),
        "feature_names": FEATURES[:features],
        "categorical_names": {},
        "raw": {"instances": np.arange(rows * features, dtype=float).reshape(rows, features)},
    }
    return found | data


def anchor(**raw):
    return {
        "anchor": ["proline > 985.00", "0.5 < hue <= 1.1"],
        "precision": 0.975,
        "coverage": 0.1395,
        "raw": {
            "feature": [2, 3],
            "precision": [0.625, 0.975],
            "coverage": [0.25, 0.1395],
            "examples": [{}, {"covered_true": ROWS[:7], "covered_false": np.array([])}],
            "prediction": np.array([1]),
            "success": True,
        }
        | raw,
    }


TEXT = "a great film\nwith a boring plot & a great cast"
IMAGE = np.linspace(0, 1, 64).reshape(8, 8, 1)
SEGMENTS = np.repeat(np.repeat(np.arange(16).reshape(4, 4), 2, 0), 2, 1)
GRID = [np.linspace(0, 9, 7), np.linspace(-1, 1, 5)]


def counterfactual(row, other):
    return {
        "X": row[None],
        "cf": {"X": other[None], "class": 2, "proba": np.array([[0.1, 0.2, 0.7]])},
        "orig_class": 0,
        "orig_proba": np.array([[0.8, 0.15, 0.05]]),
    }


OTHER = ROWS[0] + np.array([0, 1.5, -200, 1e-12])
PD = {
    "feature_names": ["alcohol", "hue", ("alcohol", "hue")],
    "feature_values": [*GRID, GRID],
    "feature_deciles": [np.linspace(0, 9, 11), np.linspace(-1, 1, 11), [GRID[0], GRID[1]]],
    "pd_values": [RNG.random((3, 7)), RNG.random((3, 5)), RNG.random((3, 7, 5))],
    "ice_values": [RNG.random((3, 200, 7)), RNG.random((3, 9, 5)), None],
}
PD_META = {"params": {"feature_names": FEATURES, "target_names": CLASSES}}
VARIANCE = {
    "feature_names": ["alcohol", "hue"],
    "feature_values": GRID,
    "feature_deciles": [np.linspace(0, 9, 11), np.linspace(-1, 1, 11)],
    "pd_values": [RNG.random((3, 7)), RNG.random((3, 5))],
    "feature_importance": np.array([[0.3125, 0.2], [0.1, 0.4], [0.5, 0.6]]),
    "feature_interaction": None,
}
SIMILAR = {
    "scores": np.array([[0.125, 3.5, -2.25, 1.0]]),
    "ordered_indices": np.array([[1, 3, 0, 2]]),
    "most_similar": ROWS[None, [1, 3]],
    "least_similar": ROWS[None, [2, 0]],
}

#: An explanation of each kind in Alibi's layout, and texts that its HTML has.
KINDS = {
    "kernel_shap": (
        ({"name": "KernelShap", "version": "0.9.6", "params": {"link": "logit"}}, shap()),
        ["alcohol = 0", "hue = 3", "KernelShap 0.9.6", "log-odds", "red", "rosé"],
    ),
    "tree_shap": (
        ({"name": "TreeShap"}, shap(rows=30, classes=1, expected_value=0.125)),
        ["all 30 rows", "row 0", "25 of 30 rows are not drawn", "0.125 on average", "proline"],
    ),
    "anchor_tabular": (
        ({"name": "AnchorTabular", "params": {"threshold": 0.95}}, anchor()),
        ["proline &gt; 985.00", "97.5 %", "14.0 %", "62.5 %", "then white", "is the same"],
    ),
    "anchor_text": (
        (
            {"name": "AnchorText"},
            anchor(instance=TEXT, names=["great", "boring"], positions=[36, 20])
            | {"anchor": ["great", "boring"]},
        ),
        ["a <mark>boring</mark> plot &amp; a <mark>great</mark> cast", "a great film\nwith"],
    ),
    "anchor_image": (
        (
            {"name": "AnchorImage"},
            {
                "anchor": IMAGE,
                "segments": SEGMENTS,
                "precision": np.array([0.96]),
                "coverage": 0.5,
                "raw": {"feature": [1, 2], "instance": IMAGE, "prediction": np.array([2])},
            },
        ),
        ["rosé: 2 of 16 parts, 12.5 % of the image", "96.0 %", "50.0 %"],
    ),
    "integrated_gradients": (
        (
            {"name": "IntegratedGradients", "params": {"n_steps": 50}},
            {
                "attributions": [np.array([[0.5, -0.25, 3.0, 0.0]])],
                "X": ROWS[:1],
                "deltas": np.array([0.0625]),
                "target": [1],
            },
        ),
        ["for white", "+0.5", f"{MINUS}0.25", "together +3.25", "error is 0.0625", "n_steps"],
    ),
    "ale": (
        (
            {"name": "ALE"},
            {
                "ale_values": [RNG.random((7, 3)), np.full((5, 3), 0.375)],
                "constant_value": 0.3333,
                "feature_values": GRID,
                "feature_deciles": [np.linspace(0, 9, 11), np.linspace(-1, 1, 11)],
                "feature_names": np.array(["alcohol", "hue"]),
                "target_names": np.array(CLASSES),
            },
        ),
        ["alcohol", "hue", "red", "0.375", "0.3333", "4.5"],
    ),
    "partial_dependence": (
        ({"name": "PartialDependence", **PD_META}, PD),
        ["alcohol and hue", "Thin lines", "white", "2 of 3 classes of the pairs are not drawn"],
    ),
    "tree_partial_dependence": (
        (
            {"name": "TreePartialDependence", **PD_META},
            PD | {"ice_values": None, "pd_values": [each[:1] for each in PD["pd_values"]]},
        ),
        ["alcohol", "hue"],
    ),
    "partial_dependence_variance": (
        ({"name": "PartialDependenceVariance", **PD_META}, VARIANCE),
        ["0.3125", "0.6", "alcohol", "curves"],
    ),
    "tree_partial_dependence_variance": (
        (
            {"name": "TreePartialDependenceVariance", **PD_META},
            VARIANCE
            | {
                "feature_names": [("alcohol", "hue")],
                "feature_values": [GRID],
                "feature_deciles": [[GRID[0], GRID[1]]],
                "pd_values": [RNG.random((3, 7, 5))],
                "feature_importance": None,
                "feature_interaction": np.array([[0.4375], [0.1], [0.2]]),
            },
        ),
        ["alcohol and hue", "0.4375"],
    ),
    "permutation_importance": (
        (
            {"name": "PermutationImportance", "params": {"kind": "ratio", "n_repeats": 9}},
            {
                "feature_names": FEATURES,
                "metric_names": ["f1", "loss"],
                "feature_importance": [
                    [{"mean": 1.5 + at, "std": 0.25} for at in range(4)],
                    [1.0, 0.5, np.float64(2.0), 1.0],
                ],
            },
        ),
        ["metric: f1", "metric: loss", "4.5", "0.25", "over 9 shuffles", "ratio"],
    ),
    "cem": (
        (
            {"name": "CEM"},
            {
                "PN": OTHER[None],
                "PN_pred": np.array([1]),
                "PP": np.array([[0, 0, 640.5, 0]]),
                "PP_pred": 0,
                "X": ROWS[:1],
                "X_pred": 0,
            },
        ),
        ["would be: white", "predicted as: red", "640.5", "2 of 4 features stay as they are"],
    ),
    "counterfactual": (
        ({"name": "Counterfactual"}, counterfactual(ROWS[0], OTHER)),
        ["red (0.8) → rosé (0.7)", "proline", f"{MINUS}200", "2 of 4 features stay as they are"],
    ),
    "counterfactual_proto": (
        ({"name": "CounterfactualProto"}, counterfactual(IMAGE, IMAGE[::-1])),
        ["red (0.8) → rosé (0.7)", "difference"],
    ),
    "counterfactual_rl": (
        (
            {"name": "CounterfactualRLTabular"},
            {
                "orig": {"X": ROWS[:2], "class": np.array([[0], [1]])},
                "cf": {"X": np.stack([OTHER, OTHER]), "class": np.array([[2], [2]])},
            },
        ),
        ["red → rosé", "white → rosé", "row 1"],
    ),
    "gradient_similarity": (
        ({"name": "GradientSimilarity", "params": {"sim_fn_name": "grad_cos"}}, SIMILAR),
        ["grad_cos", "+3.5", f"{MINUS}2.25", "most similar training rows", "proline"],
    ),
}


def explanation(kind):
    meta, data = KINDS[kind][0]
    return Explanation(kind, meta, data)


def names(**more):
    return {"feature_names": FEATURES, "target_names": CLASSES} | more


class Reader(html.parser.HTMLParser):
    """Checks that tags close, and collects what a browser would load or run."""

    def __init__(self, page):
        super().__init__()
        self.open, self.images, self.bad, self.text = [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("data:image/png;base64,"):
                self.bad.append((tag, name, value))
            if name.startswith("on"):
                self.bad.append((tag, name, value))
        if tag == "img":
            source = dict(attrs)["src"].partition(",")[2]
            self.images.append(base64.b64decode(source, validate=True))
            assert dict(attrs)["alt"]
        if tag in ("script", "iframe", "object", "embed", "link", "b"):
            self.bad.append((tag, "", ""))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_each_kind_has_a_picture():
    assert sorted(KINDS) == sorted(ENGINES)


@pytest.mark.parametrize("kind", KINDS)
def test_html_has_names_and_numbers_and_needs_nothing_else(kind):
    page = draw(explanation(kind), "html", model="wine", **names()).decode()
    for text in [*KINDS[kind][1], "wine"]:
        assert text in page
    read = Reader(page)
    assert read.bad == []
    for image in read.images:
        assert pixels(image).shape[1] == 1008
    assert "nan" not in " ".join(read.text).lower().split()


@pytest.mark.parametrize("kind", KINDS)
def test_png_decodes_and_shows_something(kind):
    data = draw(explanation(kind), "png", model="wine", **names())
    found = pixels(data)
    assert found.shape[1] == 1008
    assert 200 < found.shape[0] < 4000
    assert len(data) < 300_000
    # ink, and white around it
    assert (found < 128).any()
    assert (found[:, :4] == 255).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_names_places_stand_for_them(kind):
    meta, data = KINDS[kind][0]
    data = {key: value for key, value in data.items() if key != "categorical_names"}
    if "shap_values" in data:
        data["feature_names"] = []
    page = draw(Explanation(kind, meta, data), "html").decode()
    assert "rosé" not in page or kind == "ale" or "target_names" in str(meta)
    if kind in ("kernel_shap", "counterfactual"):
        assert "feature 2" in page
        assert "class 2" in page


SINGLE = ["anchor_tabular", "anchor_text", "anchor_image", "cem", "counterfactual"]


@pytest.mark.parametrize("kind", SINGLE)
def test_each_row_has_its_own_part_and_the_rest_is_counted(kind):
    whole = Explanation.single([explanation(kind)] * 7)
    page = draw(whole, "html", **names()).decode()
    assert [f"row {place}</h2>" in page for place in range(7)] == [True] * 5 + [False] * 2
    assert "2 of 7 rows are not drawn" in page


def test_many_features_are_summed_up_and_many_classes_left_out():
    width = 200
    data = shap(features=width, classes=9, feature_names=[f"column {at}" for at in range(width)])
    found = Explanation("kernel_shap", {}, data)
    page = draw(found, "html").decode()
    assert "6 more classes are not drawn" in page
    # in the table of all numbers, each is there
    assert all(f"column {at} = " in page for at in range(width))
    short, long = (len(pixels(draw(each, "png"))) for each in (explanation("kernel_shap"), found))
    assert long < 2.5 * short


def test_classes_may_be_chosen():
    page = draw(explanation("kernel_shap"), "html", classes=[2], **names()).decode()
    assert "rosé: log-odds" in page
    assert "red: log-odds" not in page
    both = draw(explanation("kernel_shap"), "png", classes=[0, 2], **names())
    one = draw(explanation("kernel_shap"), "png", classes=[0], **names())
    assert len(pixels(both)) > 1.5 * len(pixels(one))


def test_a_png_has_a_limit():
    data = shap(rows=5, features=13, classes=4, feature_names=[f"f{at}" for at in range(13)])
    found = pixels(draw(Explanation("tree_shap", {}, data), "png", classes=range(4)))
    assert 11_000 < len(found) <= 12_100


def test_the_predicted_class_comes_first():
    data = shap(raw={"prediction": np.array([2]), "instances": ROWS[:1]})
    page = draw(Explanation("kernel_shap", {}, data), "html", **names()).decode()
    assert page.index("rosé: model output") < page.index("red: model output")
    assert re.search("rosé: model output .*; the predicted class", page)


def test_categories_are_named():
    data = shap(categorical_names={"1": ["none", "some"], "3": ["x"]})
    page = draw(Explanation("kernel_shap", {}, data), "html").decode()
    assert "ash = some" in page
    # no name for this one
    assert "hue = 3" in page
    changed = counterfactual(np.array([1.0, 0.0]), np.array([2.0, 1.0]))
    page = draw(
        Explanation("counterfactual_proto", {}, changed),
        "html",
        categorical_names={1: ("none", "some")},
    ).decode()
    assert "<td>none</td><td>some</td><td>another category</td>" in page


def test_a_row_that_the_explanation_lacks_is_taken_from_the_request():
    data = counterfactual(ROWS[0], OTHER)
    del data["X"]
    found = Explanation("counterfactual", {}, data)
    assert "this row" not in draw(found, "html").decode()
    page = draw(found, "html", instances=ROWS[:1]).decode()
    assert "this row" in page
    assert f"{MINUS}200" in page


FAILED = {
    "counterfactual": ({"cf": None, "orig_class": 0, "orig_proba": None}, "no counterfactual was"),
    "cem": ({"PN": None, "PP": None, "X": ROWS[:1], "X_pred": 0}, "neither was found"),
    "anchor_tabular": (
        anchor(success=False) | {"anchor": [], "precision": np.array([0.5])},
        "no rule reached the precision",
    ),
    "anchor_image": (
        KINDS["anchor_image"][0][1] | {"raw": {"feature": [], "instance": IMAGE}},
        "no part is needed",
    ),
    "kernel_shap": (
        shap() | {"shap_values": [np.full((1, 4), np.nan)] * 3, "expected_value": 0.0},
        "not a number",
    ),
    "permutation_importance": (
        KINDS["permutation_importance"][0][1]
        | {"feature_importance": [[0.0] * 4, [float("nan")] * 4]},
        "not a number",
    ),
}


@pytest.mark.parametrize("kind", FAILED)
def test_what_was_not_found_is_said(kind):
    data, text = FAILED[kind]
    found = Explanation(kind, {"name": "x"}, data)
    assert text in draw(found, "html").decode()
    assert draw(found, "png").startswith(b"\x89PNG")


def test_a_kind_without_a_picture_is_a_table():
    found = Explanation("newer", {}, {"scores": np.array([0.5, 2.0]), "why": "<script>x</script>"})
    page = draw(found, "html").decode()
    assert "[0.5, 2]" in page
    assert "&lt;script&gt;" in page
    assert Reader(page).bad == []


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="expected a form of html, png, found 'pdf'"):
        draw(explanation("ale"), "pdf")


NASTY = st.text(max_size=60) | st.sampled_from(
    [
        "$\\frac{x$",
        "<script>alert(1)</script>",
        '" onload="x',
        "名前 \U0001f600",
        "a\nb\x00c",
        "%s{}",
    ]
)


@settings(max_examples=5, deadline=None)
@given(st.lists(NASTY, min_size=4, max_size=4), st.lists(NASTY, min_size=3, max_size=3), NASTY)
def test_any_name_is_escaped_and_painted(features, targets, model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # few plots: painting takes its time
        found = Explanation("kernel_shap", {}, shap(feature_names=features))
        page = draw(found, "html", model=model, target_names=targets, classes=[0]).decode()
        assert Reader(page).bad == []
        assert draw(found, "png", model=model, target_names=targets).startswith(b"\x89PNG")


@settings(max_examples=12, deadline=None)
@given(st.text(max_size=100), st.lists(st.text(max_size=8), max_size=4), st.integers(-5, 300))
def test_any_text_is_shown_whole_and_escaped(text, words, place):
    # what no encoding has is no text that a request could bring
    text = text.encode("utf-8", "replace").decode()
    data = anchor(instance=text, names=words, positions=[place] * len(words)) | {"anchor": words}
    page = draw(Explanation("anchor_text", {}, data), "html").decode()
    read = Reader(page)
    assert read.bad == []
    quoted = re.search("<blockquote>(.*?)</blockquote>", page, re.DOTALL)
    plain = html.unescape(re.sub("</?mark>", "", quoted[1]))
    assert plain.split() == text.replace("\x00", "\ufffd").split() or plain == text
    assert draw(Explanation("anchor_text", {}, data), "png").startswith(b"\x89PNG")


def test_threads_draw_the_same_at_once():
    kinds = ["kernel_shap", "anchor_text", "ale", "anchor_image"] * 3
    alone = {kind: draw(explanation(kind), "png", **names()) for kind in kinds[:4]}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda kind: draw(explanation(kind), "png", **names()), kinds))
    assert all(each == alone[kind] for kind, each in zip(kinds, found, strict=True))


def test_no_global_state_of_matplotlib_is_used():
    code = (
        "import sys, numpy as np\n"
        "from jackfield_alibi._explain._pictures import draw\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from jackfield_alibi._explain._explanation import Explanation\n"
        "data = {'shap_values': [np.ones((1, 2))], 'expected_value': [0.5]}\n"
        "draw(Explanation('kernel_shap', {}, data), 'html')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert not any(each.startswith('alibi') for each in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_numbers_are_spelt_for_people():
    from jackfield_alibi._explain._pictures._page import percent, short, signed, spell

    assert [spell(each) for each in (0.123456, 1234567.0, 1065.0, -3, 1e-9, True, None)] == [
        "0.1235", "1.23e+06", "1,065", f"{MINUS}3", f"1e{MINUS}09", "yes", "none",
    ]  # fmt: skip
    assert [spell(each) for each in (np.float32(0.5), np.array([2]), b"\xff", float("inf"))] == [
        "0.5", "2", "\\xff", "infinite",
    ]  # fmt: skip
    assert [signed(each) for each in (0.25, -1234.5, 0.0, 0.0003)] == [
        "+0.25", f"{MINUS}1.23e+03", "0", "+0.0003",
    ]  # fmt: skip
    assert percent(np.array([0.5])) == "50.0 %"
    assert percent(None) == "unknown"
    assert short("a" * 20 + "b" * 20, 9) == "aaaa…bbbb"
