"""Explainers as models: where their target is, what stops them, what they refuse, how they look."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import runpy
import shutil
import sys
import threading
from pathlib import Path
from time import perf_counter_ns

import httpx
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

pytest.importorskip("alibi", reason="Alibi is not installed", exc_type=ImportError)

import gates
from explainers import MLSERVERS, OURS, SEED, anchor_of, explainer, write_settings

from jackfield import (
    DeadlineError,
    InferRequest,
    InvalidRequestError,
    ModelContext,
    ModelLoadError,
    ModelNotReadyError,
    ModelSettings,
    RemoteRequestError,
    RequestedOutput,
    RuntimeFailedError,
    Server,
    Tensor,
)
from jackfield.testing import running
from jackfield_alibi._explain._random import drawing

ROW = [[6.1, 2.8, 4.7, 1.2]]
BODY = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 4], "data": ROW}]}


def request(rows=ROW, *outputs, parameters=None, **fields):
    return InferRequest(
        [Tensor.from_array("x", np.asarray(rows))],
        [RequestedOutput(each) for each in outputs],
        {} if parameters is None else {"explain_parameters": parameters},
        **fields,
    )


@pytest.fixture(scope="module")
def http(explainers, serve):
    at = serve(explainers.folder)
    with httpx.Client(base_url=at.http, timeout=60) as client:
        yield client


@pytest.fixture
def gate():
    gates.reset()
    yield gates
    gates.reset()


@contextlib.asynccontextmanager
async def served(explainers, root, *names):
    """Serve some of the models in this process."""
    for name in names:
        if not (root / name).is_dir():
            shutil.copytree(explainers.folder / name, root / name)
    async with Server([root]) as server:
        yield server


async def manage(server, verb, name):
    transport = httpx.ASGITransport(server)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.post(f"/v2/repository/models/{name}/{verb}", json={})
        assert answer.status_code == 200, answer.text


def reasons(root):
    """Load what is there; give each model's reason to be unavailable."""
    logger = logging.getLogger("jackfield")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with Server([root]).sync() as server:
            return {entry.name: entry.reason for entry in server.index()}
    finally:
        logger.setLevel(level)


def refused(explainers, root, name="bad", *, targets=("iris",)):
    for each in targets:
        if not (root / each).is_dir():
            shutil.copytree(explainers.folder / each, root / each)
    return reasons(root)[name]


# ---- targets ----


def test_explainer_and_target_in_one_server_whatever_comes_first(http):
    """MLServer's explainer waits for a server that waits for it."""
    index = http.post("/v2/repository/index", json={}).json()
    assert [each for each in index if each["state"] != "READY"] == []
    names = sorted(each["name"] for each in index)
    assert names.index("a-anchor") < names.index("iris")
    assert names.index("wine") < names.index("z-anchor-wine")


def test_the_metadata_tell_what_is_explained(http):
    told = http.get("/v2/models/a-anchor").json()
    assert told["platform"] == "alibi_anchor_tabular"
    [given] = told["inputs"]
    assert given["shape"] == [-1, 4]
    assert given["parameters"]["columns"][0] == "sepal length (cm)"
    parameters = told["parameters"]
    assert parameters["target"] == "iris"
    assert parameters["target_in_process"] is True
    assert parameters["explainer"] == "AnchorTabular"
    assert "threshold" in parameters["explain_parameters"]


async def test_a_reloaded_target_is_the_one_that_is_asked(explainers, tmp_path):
    async with served(explainers, tmp_path, "iris", "shap") as server:
        before = await server.model("shap").infer(request())
        await manage(server, "load", "iris")
        after = await server.model("shap").infer(request())
    assert np.array_equal(before.arrays["shap_values"], after.arrays["shap_values"])


def test_a_target_that_is_not_there_is_found_at_load(explainers, tmp_path):
    explainer(tmp_path, "bad", "anchor_tabular", explainers.targets["iris"].rows, target="iriss")
    assert "iriss" in refused(explainers, tmp_path)


def test_a_target_that_failed_is_found_at_load(explainers, tmp_path):
    explainer(tmp_path, "bad", "anchor_tabular", explainers.targets["iris"].rows, target="iris")
    write_settings(tmp_path / "iris", "iris", "sklearn")
    (tmp_path / "iris" / "model.joblib").write_bytes(b"no model")
    assert "iris" in refused(explainers, tmp_path)


def test_a_target_of_another_shape_is_found_at_load(explainers, tmp_path):
    wine = explainers.targets["wine"].rows
    explainer(tmp_path, "bad", "anchor_tabular", wine, target="iris")
    reason = refused(explainers, tmp_path)
    assert "[-1, 4]" in reason
    assert "[178, 13]" in reason


def test_a_target_that_answers_more_than_a_number_is_found_at_load(explainers, tmp_path):
    shutil.copytree(explainers.folder / "shap", tmp_path / "shap")
    explainer(tmp_path, "bad", "kernel_shap", explainers.targets["iris"].rows[:20], target="shap")
    assert "'shap' gives [2, 4, 3] for 2 rows" in refused(explainers, tmp_path)


def test_reference_data_of_another_kind_or_order_than_the_targets_columns_are_refused(
    explainers, tmp_path
):
    frame = pd.DataFrame({"city": ["a", "b"] * 9, "age": range(18)})
    prepare = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    for name, columns in (("texts", ["city", "age"]), ("numbers", ["age", "x"])):
        table = frame.assign(x=frame["age"] ** 2)[columns]
        model = make_pipeline(prepare, LogisticRegression()) if name == "texts" else Ridge()
        write_settings(tmp_path / name, name, "sklearn")
        joblib.dump(model.fit(table, frame["age"] > 8), tmp_path / name / "model.joblib")
    explainer(tmp_path, "no-texts", "anchor_tabular", np.ones((5, 2)), target="texts")
    folder = explainer(tmp_path, "turned", "kernel_shap", target="numbers", reference="known.csv")
    (folder / "known.csv").write_text("x,age\n1,2\n3,4\n")
    told = reasons(tmp_path)
    assert (
        "takes texts in its column 'city', and the reference data has numbers" in told["no-texts"]
    )
    assert "in the order of its target 'numbers', age, x; found x, age" in told["turned"]


def test_a_saved_explainer_of_another_width_is_found_at_load(explainers, tmp_path):
    folder = tmp_path / "bad"
    anchor_of(explainers.targets["wine"]).save(folder)
    write_settings(folder, "bad", OURS, {"target": "iris"})
    reason = refused(explainers, tmp_path)
    assert "'iris'" in reason
    assert "[-1, 4]" in reason


# ---- settings ----


@pytest.mark.parametrize(
    ("kind", "extra", "told"),
    [
        ("anchor_tabluar", {}, "did you mean 'anchor_tabular'"),
        ("", {}, "expected one of anchor_tabular"),
        ("anchor_tabular", {"target": ""}, "'parameters.extra.target'"),
        ("anchor_tabular", {"explain_parameters": {"treshold": 1}}, "did you mean 'threshold'"),
        ("anchor_tabular", {"feature_names": ["a", "b"]}, "2 names"),
        ("anchor_tabular", {"infer_output": "chances"}, "'chances'"),
        ("anchor_tabular", {"categorical_names": {"colour": ["red"]}}, "'colour'"),
        ("anchor_tabular", {"init_parameters": {"no_such": 1}}, "no_such"),
        ("anchor_tabular", {"init_parameters": {"dtype": "text"}}, "dtype"),
        ("permutation_importance", {"reference_labels": "none.npy"}, "'none.npy' is missing"),
        ("anchor_image", {}, "image_shape"),
        ("anchor_text", {"init_parameters": {"nlp": "no_such_pipeline"}}, "no_such_pipeline"),
    ],
)
def test_settings_that_do_not_fit_are_refused(explainers, tmp_path, kind, extra, told):
    rows = explainers.targets["iris"].rows
    explainer(tmp_path, "bad", kind, rows, **({"target": "iris"} | extra))
    assert told in refused(explainers, tmp_path)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (np.array([[1.0, np.nan, 1.0, 1.0]]), "found nan at [0, 1]"),
        (np.array([["a", "b", "c", "d"]]), "expected numbers"),
        (np.zeros((0, 4)), "expected rows"),
        (np.zeros(4), "[4]"),
    ],
)
def test_reference_data_that_are_none_are_refused(explainers, tmp_path, rows, told):
    explainer(tmp_path, "bad", "anchor_tabular", rows, target="iris")
    assert told in refused(explainers, tmp_path)


def test_reference_data_are_never_unpickled(explainers, tmp_path):
    folder = explainer(tmp_path, "bad", "ale", target="iris", uri="./rows.npy")
    np.save(folder / "rows.npy", np.array([[{}]], object), allow_pickle=True)
    assert "pickle" in refused(explainers, tmp_path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".json"])
def test_reference_data_of_any_form_are_the_same(explainers, tmp_path, suffix):
    iris = explainers.targets["iris"]
    folder = explainer(
        tmp_path, "made", "kernel_shap", target="iris", library="alibi",
        uri=".", reference=f"rows{suffix}",
    )  # fmt: skip
    rows, file = iris.rows[::15], folder / f"rows{suffix}"
    match suffix:
        case ".npy":
            np.save(file, rows)
        case ".npz":
            np.savez(file, rows)
        case ".csv":
            header = ",".join(iris.names)
            np.savetxt(file, rows, delimiter=",", header=header, comments="", fmt="%.17g")
        case ".json":
            file.write_text(
                json.dumps([dict(zip(iris.names, row, strict=True)) for row in rows.tolist()])
            )
    # beside the artifact
    settings = json.loads((folder / "model-settings.json").read_text())
    settings["parameters"]["uri"] = f"./rows{suffix}"
    (folder / "model-settings.json").write_text(json.dumps(settings))
    shutil.copytree(explainers.folder / "iris", tmp_path / "iris")
    with Server([tmp_path]).sync() as server:
        found = server.model("made").infer(request()).arrays["expected_value"]
    expected = iris.model.predict_proba(rows).mean(axis=0)
    assert np.allclose(found, expected)


def test_a_damaged_explainer_is_refused(explainers, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(explainers.folder / "saved-anchor", folder)
    settings = json.loads((folder / "model-settings.json").read_text())
    (folder / "model-settings.json").write_text(json.dumps({**settings, "name": "bad"}))
    file = folder / "explainer.dill"
    file.write_bytes(file.read_bytes()[:200])
    assert "can't be built" in refused(explainers, tmp_path)


def test_a_saved_explainer_of_another_kind_is_refused(explainers, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(explainers.folder / "saved-anchor", folder)
    write_settings(folder, "bad", OURS, {"target": "iris", "explainer_type": "ale"})
    assert "'anchor_tabular'" in refused(explainers, tmp_path)


# ---- requests ----


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shape": [1, 3], "data": [1, 2, 3]}, ("[-1, 4]", "[1, 3]")),
        ({"data": [1, None, 3, 4]}, ("[1]", "NaN")),
        ({"data": ["inf", 2, 3, 4]}, ("data[0]",)),
        ({"shape": [0, 4], "data": []}, ("at least one row",)),
        ({"datatype": "BYTES", "data": ["a", "b", "c", "d"]}, ("numeric", "BYTES")),
        ({"shape": [1, 2, 2], "data": [1, 2, 3, 4]}, ("[1, 2, 2]",)),
    ],
)
def test_rows_that_do_not_fit_are_refused(http, change, told):
    body = {"inputs": [{**BODY["inputs"][0], "data": ROW[0], **change}]}
    answer = http.post("/v2/models/a-anchor/infer", json=body)
    assert answer.status_code == 400, answer.text
    for each in told:
        assert each.casefold() in answer.json()["error"].casefold()


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"treshold": 0.9}, "did you mean 'threshold'"),
        ({"threshold": "high"}, "AnchorTabular"),
        ({"delta": 0}, "AnchorTabular"),
        ({"coverage_samples": 10**9}, "at most 1000000"),
        ("no JSON", "explain_parameters"),
        ([1], "explain_parameters"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(http, parameters, told):
    body = {**BODY, "parameters": {"explain_parameters": parameters}}
    answer = http.post("/v2/models/a-anchor/infer", json=body)
    assert answer.status_code == 400, answer.text
    assert told in answer.json()["error"]


def test_texts_need_words_and_may_be_long(http):
    """Alibi's own samples of a long text take hundreds of gigabytes."""

    def ask(text):
        given = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}
        return http.post("/v2/models/words/infer", json={"inputs": [given]})

    for nothing in ("", " \n"):
        answer = ask(nothing)
        assert answer.status_code == 400, answer.text
        assert "a text with words" in answer.json()["error"]
    assert ask("a good book " * 400).status_code == 200


async def test_what_takes_too_much_memory_is_the_callers_matter(explainers, tmp_path, monkeypatch):
    from alibi.explainers import AnchorTabular

    def explain(self, row, threshold=0.95):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(AnchorTabular, "explain", explain)
    async with served(explainers, tmp_path, "iris", "a-anchor") as server:
        with pytest.raises(InvalidRequestError, match="fit into memory, found Unable to allocate"):
            await server.model("a-anchor").infer(request())


def test_a_request_sets_parameters_of_its_own(explainers, http):
    """JSON for gRPC, which has no objects."""
    for given in (
        {"threshold": 0.7, "max_anchor_size": 1},
        '{"threshold": 0.7, "max_anchor_size": 1}',
    ):
        body = {**BODY, "parameters": {"explain_parameters": given}}
        answer = http.post("/v2/models/a-anchor/infer", json=body).json()
        [rule] = answer["outputs"][0]["data"]
        assert rule
    assert answer["outputs"][0]["shape"] == [1, 1]


def test_a_feature_that_there_is_not_is_refused(http, explainers):
    rows = explainers.targets["iris"].rows[:20]
    given = {"name": "x", "datatype": "FP64", "shape": [20, 4], "data": rows.tolist()}
    for feature in (4, -1, "petal", [0, 9]):
        body = {"inputs": [given], "parameters": {"explain_parameters": {"features": [feature]}}}
        answer = http.post("/v2/models/ale/infer", json=body)
        assert answer.status_code == 400
        assert "0 to 3" in answer.json()["error"]


def test_columns_are_matched_by_their_names(http, explainers):
    names = explainers.targets["iris"].names
    columns = [
        {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}
        for name, value in zip(names, ROW[0], strict=True)
    ]
    by_name = http.post("/v2/models/a-anchor/infer", json={"inputs": columns[::-1]}).json()
    assert by_name["outputs"] == http.post("/v2/models/a-anchor/infer", json=BODY).json()["outputs"]


def test_the_model_is_explained_by_the_reference_data_where_no_rows_come(http):
    nothing = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [0, 4], "data": []}]}
    answer = http.post("/v2/models/importance/infer", json=nothing)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["shape"] == [1, 4]


def test_importance_needs_a_label_for_each_row(http):
    answer = http.post("/v2/models/importance/infer", json=BODY)
    assert answer.status_code == 400
    assert "'y'" in answer.json()["error"]
    labels = {"name": "y", "datatype": "INT64", "shape": [2], "data": [0, 1]}
    answer = http.post("/v2/models/importance/infer", json={"inputs": [*BODY["inputs"], labels]})
    assert answer.status_code == 400
    assert "a label for each of 1 rows" in answer.json()["error"]


# ---- time, and those who leave ----


async def test_the_loop_and_other_models_go_on_while_one_explains(explainers, tmp_path, gate):
    async with served(explainers, tmp_path, "gated", "gated-anchor", "iris") as server:
        gate.reset()
        gate.is_open.clear()
        task = asyncio.create_task(server.model("gated-anchor").infer(request()))
        await asyncio.to_thread(gate.was_called.wait, 20)
        answer = await server.model("iris").infer(request())
        assert answer.outputs[0].shape == (1,)
        assert not task.done()
        gate.is_open.set()
        assert (await task).arrays["prediction"].tolist() == [1]


async def test_a_caller_who_leaves_ends_the_explanation(explainers, tmp_path, gate):
    async with served(explainers, tmp_path, "gated", "gated-anchor") as server:
        gate.reset()
        gate.is_open.clear()
        task = asyncio.create_task(server.model("gated-anchor").infer(request()))
        await asyncio.to_thread(gate.was_called.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.is_open.set()
        # the thread is free when the next request is answered
        seen = gate.calls
        await server.model("gated-anchor").infer(request())
        alone = gate.calls - seen
        gate.calls = 0
        await server.model("gated-anchor").infer(request())
        assert alone <= gate.calls + 1


async def test_the_deadline_ends_the_explanation(explainers, tmp_path, gate):
    async with served(explainers, tmp_path, "gated", "gated-anchor") as server:
        gate.reset()
        gate.is_open.clear()
        deadline = perf_counter_ns() + 100_000_000
        with pytest.raises(DeadlineError, match="gated-anchor"):
            await server.model("gated-anchor").infer(request(deadline_ns=deadline))
        gate.is_open.set()
        assert (await server.model("gated-anchor").infer(request())).outputs


async def test_the_operators_time_limit_ends_the_explanation(explainers, tmp_path, gate):
    rows = explainers.targets["iris"].rows
    explainer(tmp_path, "limited", "anchor_tabular", rows, target="gated", timeout_s=0.1)
    async with served(explainers, tmp_path, "gated") as server:
        gate.reset()
        gate.is_open.clear()
        with pytest.raises(DeadlineError):
            await server.model("limited").infer(request())
        gate.is_open.set()


async def test_a_target_that_fails_half_way_is_named_and_harms_nobody(explainers, tmp_path, gate):
    async with served(explainers, tmp_path, "gated", "gated-anchor") as server:
        gate.reset()
        gate.fails_after = 3
        with pytest.raises(RuntimeFailedError, match="'gated' failed") as caught:
            await server.model("gated-anchor").infer(request())
        assert "after 3 calls" in str(caught.value)
        gate.reset()
        assert (await server.model("gated-anchor").infer(request())).outputs


async def test_a_target_that_is_gone_is_named(explainers, tmp_path):
    async with served(explainers, tmp_path, "iris", "shap") as server:
        await manage(server, "unload", "iris")
        with pytest.raises(Exception, match="'iris'") as caught:
            await server.model("shap").infer(request())
        assert not isinstance(caught.value, InvalidRequestError)


async def test_the_stream_tells_the_progress_and_then_the_explanation(explainers, tmp_path, gate):
    rows = explainers.targets["iris"].rows[::60]
    async with served(explainers, tmp_path, "gated", "gated-anchor") as server:
        gate.reset()
        gate.is_open.clear()
        threading.Timer(0, gate.is_open.set).start()
        found = [each async for each in server.model("gated-anchor").stream(request(rows))]
        alone = await server.model("gated-anchor").infer(request(rows))
    *progress, last = found
    assert progress
    for each in progress:
        assert not each.outputs
        assert each.parameters["rows"] == len(rows)
    calls = [each.parameters["target_calls"] for each in progress]
    assert calls == sorted(calls)
    assert calls[0] >= 1
    assert last.arrays["precision"].tolist() == alone.arrays["precision"].tolist()


async def test_a_stream_that_is_left_ends_the_explanation(explainers, tmp_path, gate):
    rows = explainers.targets["iris"].rows
    async with served(explainers, tmp_path, "gated", "gated-anchor") as server:
        gate.reset()
        await server.model("gated-anchor").infer(request())
        for_one = gate.calls
        gate.reset()
        async with contextlib.aclosing(server.model("gated-anchor").stream(request(rows))) as all_:
            async for each in all_:
                assert not each.outputs
                break
        # answered by the same thread, so after what was left of the 150 rows
        answer = await server.model("gated-anchor").infer(request())
        assert answer.arrays["prediction"].tolist() == [1]
        assert gate.calls < for_one * len(rows) / 4


def test_who_draws_alone_and_who_does_not_take_turns():
    """Else explainers with seeds, always busy, would keep those without out for ever."""
    order, threads = [], []

    def draw(seed, is_waiting):
        with drawing(seed, is_waiting.set):
            order.append(seed)

    with drawing(0, lambda: None):
        for seed in (1, None, 2):
            is_waiting = threading.Event()
            threads.append(threading.Thread(target=draw, args=(seed, is_waiting)))
            threads[-1].start()
            assert is_waiting.wait(10)
    for each in threads:
        each.join(10)
    assert order == [1, None, 2]


async def test_explanations_with_a_seed_are_the_same_beside_others(explainers, tmp_path):
    """They draw from one generator, which each has for itself."""
    rows = explainers.targets["iris"].rows[::50]
    async with served(explainers, tmp_path, "iris", "a-anchor", "shap") as server:
        model = server.model("a-anchor")
        alone = await model.infer(request(rows))
        np.random.seed(11)
        expected = np.random.random(3)
        np.random.seed(11)
        several = await asyncio.gather(
            model.infer(request(rows)),
            server.model("shap").infer(request(rows)),
            model.infer(request(rows)),
        )
        assert np.array_equal(np.random.random(3), expected)
    for each in (several[0], several[2]):
        assert each.arrays["anchor"].tolist() == alone.arrays["anchor"].tolist()
        assert each.arrays["precision"].tolist() == alone.arrays["precision"].tolist()


# ---- /explain ----


def test_explain_is_a_path_of_the_explained_model(http):
    """Found by what the explainer needs."""
    plain = http.post("/v2/models/z-anchor-wine/explain", json=wine_body())
    assert plain.status_code == 200, plain.text
    found = http.post("/v2/models/wine/explain", json=wine_body())
    # the wine has a second explainer, of curves
    assert found.status_code == 404
    assert "z-anchor-wine" in found.text
    texts = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["so great"]}]}
    answer = http.post("/v2/models/texts/explain", json=texts)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model_name"] == "words"
    assert answer.json()["outputs"][0]["name"] == "anchor"


def wine_body():
    row = [13.2, 1.8, 2.1, 11.2, 100.0, 2.6, 2.8, 0.3, 1.3, 4.4, 1.0, 3.4, 1050.0]
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 13], "data": row}]}


@pytest.mark.parametrize(
    ("query", "accept", "media_type", "begin"),
    [
        ("", "*/*", "application/json", b'{"model_name"'),
        ("", "application/json", "application/json", b'{"model_name"'),
        ("?format=json", "*/*", "application/json", b'{"meta"'),
        ("?format=html", "*/*", "text/html; charset=utf-8", b"<!"),
        ("", "text/html,application/xhtml+xml;q=0.9", "text/html; charset=utf-8", b"<!"),
        ("?format=png", "text/html", "image/png", b"\x89PNG"),
        ("", "image/png", "image/png", b"\x89PNG"),
    ],
)
def test_explain_answers_in_the_form_that_is_asked_for(http, query, accept, media_type, begin):
    answer = http.post(f"/v2/models/shap/explain{query}", json=BODY, headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type
    assert answer.content.startswith(begin)


def test_explain_draws_the_class_that_is_asked_for(http):
    pages = {}
    for each in ("0", "2", "-1", "3", "9" * 5000, "setosa"):
        pages[each] = http.post(f"/v2/models/shap/explain?format=html&class={each}", json=BODY)
    assert [page.status_code for page in pages.values()] == [200, 200, 400, 400, 400, 400]
    assert "<p>2: model output" in pages["2"].text
    assert "<p>0: model output" not in pages["2"].text
    assert "one of " in pages["setosa"].json()["error"]


def test_explain_refuses_another_form(http):
    answer = http.post("/v2/models/shap/explain?format=pdf", json=BODY)
    assert answer.status_code == 400
    assert "json, html, png" in answer.text


async def test_explain_is_at_the_root_where_one_explains(explainers, tmp_path):
    async with served(explainers, tmp_path, "iris", "shap") as server:
        transport = httpx.ASGITransport(server)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            found = await client.post("/explain", json=BODY)
            assert found.json()["model_name"] == "shap"
            assert (await client.post("/v2/models/iris/explain", json=BODY)).json()[
                "outputs"
            ] == found.json()["outputs"]
            refused = await client.post("/explain", json={"inputs": []})
            assert refused.status_code == 400


async def test_who_leaves_the_path_ends_the_explanation(explainers, tmp_path, gate):
    body = json.dumps(BODY).encode()
    async with served(explainers, tmp_path, "gated", "gated-anchor") as server:
        gate.reset()
        gate.is_open.clear()
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        sent = []

        async def receive():
            if messages:
                return messages.pop()
            await asyncio.to_thread(gate.was_called.wait, 20)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        path = "/v2/models/gated/explain"
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": [(b"content-type", b"application/json")],
            "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("here", 80),
        }  # fmt: skip
        await server(scope, receive, send)
        assert 200 not in [each.get("status") for each in sent]
        gate.is_open.set()
        assert (await server.model("gated-anchor").infer(request())).outputs


# ---- MLServer's name ----


def test_mlservers_headers_tell_the_method(http):
    answer = http.post("/v2/models/mlserver-anchor/infer", json=BODY)
    assert answer.headers["x-seldon-alibi-type"] == "explanation"
    assert answer.headers["x-seldon-alibi-method"] == "anchor_tabular"
    [output] = answer.json()["outputs"]
    assert output["shape"] == [1, 1]
    assert set(json.loads(output["data"][0])) == {"meta", "data"}


def test_mlservers_explain_answers_plain_json(http):
    answer = http.post("/v2/models/mlserver-anchor/explain", json=BODY)
    assert set(answer.json()) == {"meta", "data"}
    assert answer.json()["data"]["anchor"]


async def test_an_explainer_built_from_mlservers_init_parameters(explainers, tmp_path):
    """Without an artifact; all images under `explainer_batch`."""
    extra = {
        "explainer_type": "anchor_image",
        "target": "digits",
        "explainer_batch": True,
        "init_parameters": {"image_shape": [8, 8, 1], "segmentation_kwargs": {"n_segments": 4}},
        "explain_parameters": {"coverage_samples": 500},
    }
    write_settings(tmp_path / "image", "image", MLSERVERS, extra)
    images = explainers.targets["digits"].rows[[0, 1]].reshape(-1, 8, 8, 1)
    async with served(explainers, tmp_path, "digits") as server:
        found = await server.model("image").infer(request(images))
    [output] = found.outputs
    assert output.shape == (2, 1)
    for [text] in output.array.tolist():
        assert np.shape(json.loads(text)["data"]["anchor"]) == (8, 8, 1)


# ---- without a server ----


def test_without_a_server_the_reason_is_told(explainers):
    from jackfield_alibi import ExplainOptions
    from jackfield_alibi._explain._runtime import ExplainRuntime

    runtime = ExplainRuntime(
        ModelContext(
            name="model",
            version="",
            artifact=explainers.folder / "saved-anchor",
            settings=ModelSettings(implementation=OURS),
            options=ExplainOptions(target="iris", seed=SEED),
            logger=logging.getLogger("jackfield.test"),
        )
    )
    with pytest.raises(ModelLoadError, match="'iris'"):
        runtime.load()


async def test_a_closing_server_ends_what_runs(explainers, tmp_path, gate):
    async with served(explainers, tmp_path, "gated", "gated-anchor") as server:
        gate.reset()
        task = asyncio.create_task(
            server.model("gated-anchor").infer(request(explainers.targets["iris"].rows))
        )
        await asyncio.to_thread(gate.was_called.wait, 20)
        task.cancel()
    with pytest.raises((asyncio.CancelledError, ModelNotReadyError, RemoteRequestError)):
        await task


# ---- the example ----


def test_the_example_is_served_as_its_page_says(tmp_path, monkeypatch, capsys):
    example = Path(__file__).parents[3] / "examples" / "alibi-explain"
    monkeypatch.setattr(sys, "argv", ["train.py", str(tmp_path / "models")])
    runpy.run_path(str(example / "train.py"), run_name="__main__")
    assert capsys.readouterr().out.endswith(f"next: jackfield serve {tmp_path / 'models'}\n")
    body = (example / "request.json").read_bytes()
    headers = {"content-type": "application/json"}
    with running(tmp_path / "models") as server, httpx.Client(base_url=server.http) as client:
        answer = client.post("/v2/models/why/infer", content=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        rules, precision, kinds = answer.json()["outputs"]
        assert rules["shape"][0] == 2
        assert min(precision["data"]) >= 0.9
        assert set(kinds["data"]) <= {"class_0", "class_1", "class_2"}
        page = client.post(
            "/v2/models/wines/explain?format=html", content=body, headers=headers, timeout=60
        )
        assert page.headers["content-type"].startswith("text/html")
        assert rules["data"][0] in page.text.replace("&gt;", ">").replace("&lt;", "<")
