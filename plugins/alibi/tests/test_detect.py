"""Detectors as models: their files, their settings, windows, and what a caller gets wrong."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import subprocess
import sys

import joblib
import numpy as np
import pytest

pytest.importorskip("dill", reason="Alibi Detect, which brings dill, is not installed")

import dill
from detectors import MLSERVER, context_of, halves, loaded, needs_torch

from jackfield import InferRequest, InvalidRequestError, ModelLoadError, RequestedOutput, Tensor
from jackfield.window import WindowSettings
from jackfield_alibi import DetectOptions


def ask(runtime, rows, **fields):
    response = runtime.infer(InferRequest([Tensor.from_array("x", rows)], **fields))
    return {each.name: each.array for each in response.outputs}


@pytest.fixture
def copied(detectors, tmp_path):
    """Copy a detector's folder, to damage it or to keep a state there."""

    def copy(name):
        shutil.copytree(detectors[name].folder, tmp_path / name)
        return tmp_path / name

    return copy


# ---- what is told ----


def test_the_metadata_tell_what_monitors_and_people_want_to_know(detectors):
    parameters = loaded(detectors["ks"].folder).metadata().parameters
    assert parameters["detector"] == "KSDrift"
    assert parameters["kind"] == "drift"
    assert parameters["online"] is False
    assert parameters["p_val"] == 0.05
    assert parameters["backend"] == "numpy"
    assert parameters["library"] == "alibi-detect"
    assert parameters["version"][0].isdigit()
    online = loaded(detectors["cvm-online"].folder, save_state=False).metadata().parameters
    assert (online["detector"], online["online"]) == ("CVMDriftOnline", True)
    outlier = loaded(detectors["iforest"].folder / "detector.joblib").metadata()
    assert outlier.parameters["kind"] == "outlier"
    assert [each.name for each in outlier.outputs] == ["is_outlier", "instance_score"]


def test_few_rows_of_a_large_reference_are_shown_evenly_chosen(tmp_path):
    from alibi_detect.cd import KSDrift
    from alibi_detect.saving import save_detector

    many = np.arange(5000.0).reshape(2500, 2)
    save_detector(KSDrift(many), tmp_path / "many")
    runtime = loaded(tmp_path / "many")
    shown = ask(runtime, many[:1], outputs=[RequestedOutput("reference")])["reference"]
    assert shown.shape == (1000, 2)
    assert shown[0].tolist() == many[0].tolist()
    assert shown[-1].tolist() == many[-1].tolist()
    assert np.diff(shown[:, 0]).max() <= 6


# ---- arguments of `predict` ----


def test_a_request_may_ask_for_each_feature(detectors):
    fitted = detectors["ks"]
    runtime = loaded(fitted.folder)
    by_feature = {"predict_parameters": {"drift_type": "feature"}}
    found = ask(runtime, fitted.shifted, parameters=by_feature)
    assert found["is_drift"].tolist() == [[1, 0, 0, 1, 0]]
    assert found["threshold"].tolist() == [0.05]
    # as gRPC sends it
    as_text = {"predict_parameters": '{"drift_type": "feature"}'}
    assert ask(runtime, fitted.shifted, parameters=as_text)["is_drift"].shape == (1, 5)
    assert ask(runtime, fitted.shifted)["is_drift"].tolist() == [1]
    less = ask(runtime, fitted.alike, parameters={"predict_parameters": {"return_distance": False}})
    assert "distance" not in less


def test_the_settings_arguments_hold_for_each_request(detectors):
    fitted = detectors["ks"]
    given = {"drift_type": "feature", "return_distance": False}
    runtime = loaded(fitted.folder, predict_parameters=given)
    told = {each.name: list(each.shape) for each in runtime.metadata().outputs}
    assert told["is_drift"] == [-1, 5]
    assert "distance" not in told
    assert ask(runtime, fitted.shifted)["is_drift"].tolist() == [[1, 0, 0, 1, 0]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"drift_typ": "feature"}, "drift_type, return_distance, return_p_val, found 'drift_typ'"),
        ({"drift_type": "rows"}, "'batch' or 'feature', found 'rows'"),
        ({"return_p_val": 1}, "true or false, found 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(detectors, given, expected):
    fitted = detectors["ks"]
    with pytest.raises(InvalidRequestError, match=expected) as refused:
        ask(loaded(fitted.folder), fitted.alike, parameters={"predict_parameters": given})
    assert refused.value.field.startswith("parameters.predict_parameters")
    with pytest.raises(ModelLoadError, match=expected):
        loaded(fitted.folder, predict_parameters=given)


def test_a_model_can_not_be_asked_for(detectors):
    fitted = detectors["classifier"]
    with pytest.raises(InvalidRequestError, match="can't be sent"):
        ask(
            loaded(fitted.folder),
            fitted.alike,
            parameters={"predict_parameters": {"return_model": True}},
        )


def test_an_output_that_the_request_switches_off_can_not_be_asked_for(detectors):
    with pytest.raises(InvalidRequestError, match="an output that 'predict_parameters' leave in"):
        ask(
            loaded(detectors["ks"].folder),
            detectors["ks"].alike,
            outputs=[RequestedOutput("distance")],
            parameters={"predict_parameters": {"return_distance": False}},
        )


# ---- windows and batches ----


def test_a_window_gives_a_verdict_when_it_is_full(detectors, tmp_path):
    fitted = detectors["ks"]
    mine = fitted.load()
    runtime = loaded(fitted.folder, window=100, state_folder=str(tmp_path / "state"))
    early = ask(runtime, fitted.alike[:60])
    assert early["is_drift"].shape == (0,)
    assert early["p_val"].shape == (0, 5)
    assert runtime.show_state()["window"]["rows"] == 60
    full = ask(runtime, fitted.alike[60:280])
    assert full["rows"].tolist() == [100, 100]
    for place, rows in enumerate((fitted.alike[:100], fitted.alike[100:200])):
        assert np.array_equal(full["p_val"][place], mine.predict(rows)["data"]["p_val"])
    runtime.close()


def test_windows_may_overlap(detectors):
    fitted = detectors["ks"]
    runtime = loaded(fitted.folder, window={"rows": 100, "every": 50}, save_state=False)
    assert ask(runtime, fitted.shifted[:200])["is_drift"].tolist() == [1, 1, 1]


def test_what_a_window_holds_outlives_a_restart(detectors, tmp_path):
    fitted = detectors["ks"]
    kept = {"window": 100, "state_folder": str(tmp_path / "state")}
    runtime = loaded(fitted.folder, **kept)
    ask(runtime, fitted.alike[:60])
    runtime.close()
    runtime = loaded(fitted.folder, **kept)
    found = ask(runtime, fitted.alike[60:100])
    wanted = fitted.load().predict(fitted.alike[:100])["data"]["p_val"]
    assert np.array_equal(found["p_val"][0], wanted)
    runtime.close()


@pytest.mark.parametrize("place", ["kept", "jackfield-state/kept", "."])
def test_a_state_in_the_artifacts_folder_is_no_change_of_the_artifact(copied, place):
    folder = copied("ks")
    for held in (1, 2, 3):
        runtime = loaded(folder, window=100, state_folder=place)
        ask(runtime, np.ones((1, 5)))
        told = runtime.show_state()
        assert (told["window"]["rows"], told.get("state_problem")) == (held, None)
        runtime.close()


def test_two_versions_of_a_detector_have_a_state_each(detectors, tmp_path):
    from jackfield_alibi._detect._runtime import DetectRuntime

    fitted = detectors["ks"]
    context = context_of(fitted.folder, name="watch", window=100, state_folder=str(tmp_path))
    versions = [DetectRuntime(dataclasses.replace(context, version=each)) for each in "12"]
    for place, runtime in enumerate(versions):
        runtime.load()
        ask(runtime, fitted.alike[: 10 + place])
    assert [each.show_state()["window"]["rows"] for each in versions] == [10, 11]
    for runtime in versions:
        runtime.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["watch@1", "watch@2"]


def test_mlservers_batch_size_counts_requests(detectors):
    fitted = detectors["ks"]
    mine = fitted.load()
    runtime = loaded(fitted.folder, implementation=MLSERVER, batch_size=3, save_state=False)
    for _ in range(2):
        assert ask(runtime, fitted.shifted[:50]) == {}
        assert ask(runtime, fitted.shifted[50:60]) == {}
        found = ask(runtime, fitted.shifted[60:])
        wanted = mine.predict(fitted.shifted)["data"]
        assert np.array_equal(found["p_val"][0], wanted["p_val"])
    ours = loaded(fitted.folder, batch_size=2, save_state=False)
    assert ask(ours, fitted.shifted[:50])["is_drift"].shape == (0,)
    assert ask(ours, fitted.shifted[50:])["rows"].tolist() == [len(fitted.shifted)]


@pytest.mark.parametrize(
    ("name", "extra", "expected"),
    [
        ("ks", {"window": 10, "batch_size": 2}, "'window' and 'batch_size'"),
        ("cvm-online", {"window": 10}, "has a window of its own"),
        ("cvm-online", {"batch_size": 2}, "judges each request"),
        ("iforest", {"window": 10}, "judges each row"),
        ("iforest", {"batch_size": 2}, "judges each row"),
        ("classifier", {"window": 2}, "at least 3 rows"),
        ("ks", {"feature_names": ["a"]}, "expected 5 names"),
        ("ks", {"feature_names": ["a", "a", "b", "c", "d"]}, "two columns have the name 'a'"),
        ("images", {"feature_names": ["a"]}, "is for rows of features"),
    ],
)
def test_settings_that_do_not_go_with_the_detector_are_refused(detectors, name, extra, expected):
    folder = detectors[name].folder
    artifact = folder / "detector.joblib" if name == "iforest" else folder
    with pytest.raises(ModelLoadError, match=expected):
        loaded(artifact, save_state=False, **extra)


def test_a_window_is_a_number_or_an_object():
    import msgspec

    assert msgspec.convert({"window": 5}, DetectOptions).window == 5
    given = msgspec.convert({"window": {"seconds": 3600}}, DetectOptions).window
    assert given == WindowSettings(seconds=3600)
    with pytest.raises(msgspec.ValidationError, match="window"):
        msgspec.convert({"window": {"rows": 5, "seconds": 1}}, DetectOptions)


# ---- bad input ----


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("ks", np.ones((10, 3)), r"expected \[-1, 5\] .*found \[10, 3\]"),
        ("ks", np.ones((10, 5, 2)), r"expected \[-1, 5\] .*found \[10, 5, 2\]"),
        ("images", np.ones((10, 8, 7)), r"expected \[-1, 8, 8\].*found \[10, 8, 7\]"),
        ("images", np.ones((10, 64)), r"expected \[-1, 8, 8\].*found \[10, 64\]"),
        ("images", np.full((2, 8, 8), np.inf), r"data\[0\]: expected a finite number, found inf"),
        ("ks", np.array([["a"] * 5]), "numeric datatype for 'x0', found BYTES"),
        ("images", np.full((1, 8, 8), "a"), "expected numbers, found BYTES"),
        ("ks", np.empty((0, 5)), "at least one row"),
        ("ks", np.full((2, 5), np.nan), "found NaN"),
        ("ks", np.full((2, 5), np.inf), "finite"),
        ("ks-single", np.full((2, 5), 1e200), "a number that float32 can hold"),
        ("spectral", np.ones(5), "at least 21 rows"),
        ("fet", np.array([[0, 1, 0, 1, 0], [0, 1, 2, 1, 0]]), "0 or 1, .*found 2 in row 1"),
    ],
)
def test_rows_that_do_not_fit_the_reference_data_are_refused(detectors, name, rows, expected):
    folder = detectors[name].folder
    artifact = folder / "detector.joblib" if name == "spectral" else folder
    runtime = loaded(artifact)
    with pytest.raises(InvalidRequestError, match=expected):
        ask(runtime, rows)
    assert ask(runtime, detectors[name].alike)


def test_an_online_detector_takes_no_step_for_a_request_that_it_refuses(detectors):
    fitted = detectors["cvm-online"]
    runtime = loaded(fitted.folder, save_state=False)
    assert ask(runtime, fitted.alike[:3])["time"].tolist() == [1, 2, 3]
    bad = fitted.alike[:3].copy()
    bad[2, 1] = np.nan
    with pytest.raises(InvalidRequestError):
        ask(runtime, bad)
    assert ask(runtime, fitted.alike[3:4])["time"].tolist() == [4]


def test_an_online_detector_of_zeros_and_ones_takes_no_step_for_others(detectors):
    fitted = detectors["fet-online"]
    runtime = loaded(fitted.folder, save_state=False)
    bad = fitted.alike[:3].copy()
    bad[2, 0] = 5
    with pytest.raises(InvalidRequestError, match="0 or 1"):
        ask(runtime, bad)
    assert ask(runtime, fitted.alike[:1])["time"].tolist() == [1]


def test_rows_that_a_failing_request_leaves_in_the_window_are_counted(detectors, tmp_path):
    fitted = detectors["ks"]
    runtime = loaded(fitted.folder, window=10, state_folder=str(tmp_path))

    def fail(*rows, **arguments):
        raise RuntimeError

    runtime._detector.predict = fail
    with pytest.raises(RuntimeError):
        ask(runtime, fitted.alike[:12])
    told = runtime.show_state()
    assert (told["window"]["rows"], told["state_steps"]) == (2, 12)
    runtime.close()


def test_missing_values_pass_where_the_operator_lets_them(detectors):
    rows = detectors["ks"].alike.copy()
    rows[0, 0] = np.nan
    assert ask(loaded(detectors["ks"].folder, allow_missing=True), rows)["rows"].tolist() == [
        len(rows)
    ]


# ---- files ----


def legacy(folder, detector, name, state):
    """Write what `save_detector` writes where TensorFlow is installed."""
    folder.mkdir()
    (folder / "meta.dill").write_bytes(dill.dumps(detector.meta))
    (folder / f"{name}.dill").write_bytes(dill.dumps(state))
    return folder


def test_old_files_of_outlier_detectors_need_no_tensorflow(detectors, tmp_path):
    from alibi_detect.od import SpectralResidual

    fitted = detectors["iforest"]
    mine = fitted.load()
    state = {"threshold": mine.threshold, "isolationforest": mine.isolationforest}
    runtime = loaded(legacy(tmp_path / "iforest", mine, "IForest", state))
    assert runtime.metadata().platform == "alibi-detect_legacy"
    wanted = mine.predict(fitted.shifted)["data"]
    found = ask(runtime, fitted.shifted)
    assert np.array_equal(found["instance_score"], wanted["instance_score"])

    fitted = detectors["mahalanobis"]
    mine = fitted.load()
    names = (
        "threshold", "n_components", "std_clip", "start_clip", "max_n", "cat_vars", "ohe", "d_abs",
        "clip", "mean", "C", "n",
    )  # fmt: skip
    state = {each: getattr(mine, each) for each in names}
    folder = legacy(tmp_path / "mahalanobis", mine, "Mahalanobis", state)
    found = ask(loaded(folder, save_state=False), fitted.shifted)
    wanted = mine.predict(fitted.shifted)["data"]
    assert np.array_equal(found["instance_score"], wanted["instance_score"])

    fitted = detectors["spectral"]
    mine = fitted.load()
    assert isinstance(mine, SpectralResidual)
    names = ("threshold", "window_amp", "window_local", "n_est_points", "n_grad_points")
    folder = legacy(
        tmp_path / "sr", mine, "SpectralResidual", {each: getattr(mine, each) for each in names}
    )
    wanted = mine.predict(fitted.shifted)["data"]
    assert np.array_equal(ask(loaded(folder), fitted.shifted)["is_outlier"], wanted["is_outlier"])


def test_old_files_of_drift_detectors_need_no_tensorflow(detectors, tmp_path):
    fitted = detectors["ks"]
    mine = fitted.load()
    kwargs = {
        "p_val": mine.p_val, "x_ref_preprocessed": True, "preprocess_at_init": True,
        "update_x_ref": None, "correction": "bonferroni", "alternative": "two-sided",
        "n_features": mine.n_features, "input_shape": (5,),
    }  # fmt: skip
    other = {"n": mine.n, "load_text_embedding": None, "preprocess_fn": None}
    state = {"args": {"x_ref": mine.x_ref}, "kwargs": kwargs, "other": other}
    found = ask(loaded(legacy(tmp_path / "ks", mine, "KSDrift", state)), fitted.shifted)
    assert np.array_equal(
        found["p_val"][0], mine.predict(fitted.shifted)["data"]["p_val"].astype(np.float64)
    )


def test_old_files_that_need_tensorflow_say_so(detectors, tmp_path):
    pytest.importorskip("alibi_detect")
    if __import__("importlib").util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is installed")
    folder = legacy(tmp_path / "vae", detectors["iforest"].load(), "OutlierVAE", {})
    meta = {**detectors["iforest"].load().meta, "name": "OutlierVAE"}
    (folder / "meta.dill").write_bytes(dill.dumps(meta))
    with pytest.raises(ModelLoadError, match=r'pip install "alibi-detect\[tensorflow\]"'):
        loaded(folder)


@pytest.mark.parametrize("suffix", [".joblib", ".dill", ".pkl"])
def test_a_whole_detector_may_be_one_file(detectors, tmp_path, suffix):
    fitted = detectors["gmm"]
    file = tmp_path / f"any{suffix}"
    if suffix == ".joblib":
        joblib.dump(fitted.load(), file)
    else:
        file.write_bytes(dill.dumps(fitted.load()))
    runtime = loaded(file)
    assert runtime.metadata().platform == "alibi-detect_object"
    wanted = fitted.load().predict(fitted.shifted)["data"]
    assert np.array_equal(ask(runtime, fitted.shifted)["is_outlier"], wanted["is_outlier"])


def test_files_that_hold_no_detector_are_refused(tmp_path):
    joblib.dump({"not": "one"}, tmp_path / "model.joblib")
    with pytest.raises(ModelLoadError, match=r"found builtins\.dict"):
        loaded(tmp_path / "model.joblib")
    (tmp_path / "cut.dill").write_bytes(dill.dumps([1, 2, 3])[:-3])
    with pytest.raises(ModelLoadError, match=r"'cut\.dill' can't be read"):
        loaded(tmp_path / "cut.dill")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelLoadError, match=r"found 'model\.onnx'"):
        loaded(tmp_path / "model.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match=r"config\.toml.*meta\.dill"):
        loaded(tmp_path / "empty")
    with pytest.raises(ModelLoadError, match="it has no artifact"):
        loaded(None)


def test_an_unfitted_detector_is_refused(tmp_path):
    from alibi_detect.od import IForest

    one, _, _ = halves()
    joblib.dump(IForest(threshold=0.1), tmp_path / "unfitted.joblib")
    with pytest.raises(ModelLoadError, match="was not fitted"):
        loaded(tmp_path / "unfitted.joblib")
    detector = IForest()
    detector.fit(one)
    joblib.dump(detector, tmp_path / "open.joblib")
    with pytest.raises(ModelLoadError, match="infer_threshold"):
        loaded(tmp_path / "open.joblib")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[: len(text) // 2], "config.toml"),
        (lambda text: "[[[", "'config.toml' can't be read"),
        (lambda text: text.replace('name = "KSDrift"', ""), "has no 'name'"),
        (lambda text: text.replace('"KSDrift"', '"KSDrifft"'), "'name' is 'KSDrifft'"),
        (lambda text: text + '\nsurprise = "yes"\n', "surprise"),
        (lambda text: text.replace("x_ref.npy", "lost.npy"), "config.toml"),
    ],
)
def test_a_damaged_configuration_is_refused(copied, change, expected):
    folder = copied("ks")
    config = folder / "config.toml"
    config.write_text(change(config.read_text()))
    with pytest.raises(ModelLoadError, match=expected):
        loaded(folder)


def test_a_missing_backend_is_named(copied):
    folder = copied("ks")
    config = folder / "config.toml"
    config.write_text('name = "MMDDrift"\nx_ref = "x_ref.npy"\nbackend = "keops"\n')
    with pytest.raises(ModelLoadError, match=r"keops.*pip install"):
        loaded(folder)


def test_without_alibi_detect_the_operator_reads_how_to_install_it(detectors, tmp_path):
    """In a process in which it can't be imported."""
    script = (
        "import logging, pathlib, sys\n"
        "sys.modules['alibi_detect'] = None\n"
        "from jackfield import ModelContext, ModelLoadError, ModelSettings\n"
        "from jackfield_alibi import DetectOptions\n"
        "from jackfield_alibi._detect._runtime import DetectRuntime\n"
        "context = ModelContext(name='m', version='', artifact=pathlib.Path(sys.argv[1]),\n"
        "    settings=ModelSettings(name='m'), options=DetectOptions(),\n"
        "    logger=logging.getLogger())\n"
        "try:\n"
        "    DetectRuntime(context).load()\n"
        "except ModelLoadError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, detectors["ks"].folder], capture_output=True, text=True
    )
    assert 'pip install "jackfield[alibi-detect]"' in run.stdout, run.stderr


# ---- what is remembered ----


def test_the_steps_that_mlserver_saved_are_gone_on_from(copied, detectors):
    fitted, folder = detectors["cvm-online"], copied("cvm-online")
    mine = fitted.load()
    for row in fitted.alike[:10]:
        mine.predict(row)
    mine.save_state(folder / "state")
    runtime = loaded(folder, save_state=False)
    assert ask(runtime, fitted.alike[10:11])["time"].tolist() == [11]


def test_the_librarys_log_of_each_field_is_not_the_operators(detectors, caplog):
    caplog.set_level(logging.INFO)
    loaded(detectors["ks"].folder)
    assert not [each for each in caplog.records if each.name.startswith("alibi_detect")]


def test_damaged_steps_are_kept_aside_and_the_detector_starts_anew(copied, detectors, caplog):
    fitted, folder = detectors["cvm-online"], copied("cvm-online")
    (folder / "state").mkdir()
    (folder / "state" / "state.npz").write_bytes(b"not an archive")
    runtime = loaded(folder, save_state=False)
    assert ask(runtime, fitted.alike[:1])["time"].tolist() == [1]
    assert "can't be read" in caplog.text
    assert (folder / "state.damaged" / "state.npz").is_file()


def test_each_start_has_the_same_thresholds_unless_told_otherwise(detectors):
    folder = detectors["cvm-online"].folder
    rows = detectors["cvm-online"].alike[:8]

    def thresholds(**extra):
        return ask(loaded(folder, save_state=False, **extra), rows)["threshold"][-1].tolist()

    before = np.random.get_state()[1].tolist()
    assert thresholds() == thresholds()
    assert np.random.get_state()[1].tolist() == before, "what others draw is as it was"
    assert thresholds(seed=1) != thresholds(seed=2)


def test_reference_data_that_grow_are_remembered(tmp_path):
    from alibi_detect.cd import KSDrift
    from alibi_detect.saving import save_detector

    one, _, shifted = halves()
    save_detector(KSDrift(one, update_x_ref={"last": 200}), tmp_path / "grows")
    runtime = loaded(tmp_path / "grows")
    assert runtime.capabilities.stateful
    assert ask(runtime, shifted)["is_drift"].tolist() == [1]
    runtime.close()
    again = loaded(tmp_path / "grows")
    # what was drift is what it compares with now
    assert ask(again, shifted[-200:])["is_drift"].tolist() == [0]
    again.close()


def test_rows_that_are_judged_one_by_one_may_be_merged(detectors):
    forest = loaded(detectors["iforest"].folder / "detector.joblib")
    assert forest.capabilities.row_wise
    assert forest.capabilities.thread_safe
    assert not forest.capabilities.stateful
    assert not loaded(detectors["ks"].folder).capabilities.row_wise


@needs_torch
def test_numbers_become_what_the_network_takes(detectors):
    fitted = detectors["uncertainty"]
    runtime = loaded(fitted.folder)
    (told,) = runtime.metadata().inputs
    assert told.datatype.value == "FP32"
    single, double = (ask(runtime, fitted.alike.astype(each)) for each in (np.float32, np.float64))
    assert np.array_equal(single["p_val"], double["p_val"])


def test_the_server_tells_how_full_a_window_is(detectors, serve, tmp_path):
    import httpx

    settings = {
        "name": "watch",
        "implementation": "alibi-detect",
        "parameters": {
            "uri": str(detectors["ks"].folder),
            "extra": {"window": 100, "state_folder": str(tmp_path / "state")},
        },
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    at = f"{serve(tmp_path).http}/v2/models/watch"
    body = {
        "inputs": [
            {
                "name": "x",
                "shape": [30, 5],
                "datatype": "FP64",
                "data": detectors["ks"].alike[:30].tolist(),
            }
        ]
    }
    answer = httpx.post(f"{at}/infer", json=body)
    assert answer.status_code == 200, answer.text
    told = httpx.get(f"{at}/state").json()
    assert told["window"]["rows"] == 30
    assert told["window"]["fullness"] == 0.3
    assert told["state"] == "disk"
    bad = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}]}
    refused = httpx.post(f"{at}/infer", json=bad)
    assert refused.status_code == 400
    assert "[-1, 5]" in refused.json()["error"]
    assert "[1, 2]" in refused.json()["error"]
