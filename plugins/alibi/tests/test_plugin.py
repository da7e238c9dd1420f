"""The plugin as `jackfield plugins` lists it: its cost, the licences, what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from explainers import OURS, explainer, write_settings

from jackfield_alibi import jackfield_runtimes

LISTED = """
import json, sys
sys.argv = ["jackfield", "plugins", *sys.argv[1:]]
from jackfield.__main__ import main
try:
    main()
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def listed(*options, also_in=None):
    """Run `jackfield plugins` with this one alone; give what it prints, and what it imports."""
    env = {**os.environ, "JACKFIELD_PLUGINS": "alibi"}
    if also_in is not None:
        env["PYTHONPATH"] = str(also_in)
    run = subprocess.run(
        [sys.executable, "-c", LISTED, *options], capture_output=True, text=True, env=env
    )
    assert run.returncode == 0, run.stderr
    return run.stdout, set(json.loads(run.stderr.splitlines()[-1]))


def pretend(site, distribution, version, *lines):
    """Write what an installed distribution tells of itself."""
    folder = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    head = ["Metadata-Version: 2.4", f"Name: {distribution}", f"Version: {version}"]
    (folder / "METADATA").write_text("\n".join([*head, *lines, ""]))


# ---- discovery ----


def test_it_is_listed_without_numpy_or_a_framework():
    stdout, imported = listed("--json")
    [plugin] = json.loads(stdout)
    assert (plugin["name"], plugin["problem"]) == ("alibi", None)
    runtimes = {each["name"]: each for each in plugin["runtimes"]}
    assert runtimes.keys() == {"alibi-detect", "alibi-explain"}
    assert runtimes["alibi-detect"]["aliases"] == ["mlserver_alibi_detect.AlibiDetectRuntime"]
    assert runtimes["alibi-explain"]["aliases"] == ["mlserver_alibi_explain.AlibiExplainRuntime"]
    assert runtimes["alibi-explain"]["frameworks"].keys() == {"alibi", "shap"}
    heavy = {
        "numpy", "scipy", "pandas", "sklearn", "joblib", "dill", "matplotlib", "numba", "spacy",
        "alibi", "alibi_detect", "shap", "torch", "tensorflow", "transformers",
    }  # fmt: skip
    assert not heavy & imported


# ---- licences ----

BUSINESS_SOURCE = "is no open-source licence"


@pytest.mark.parametrize(
    ("runtime", "distribution", "version", "line", "told"),
    [
        (
            "alibi-detect", "alibi-detect", "0.13.0", "License: Business Source License 1.1",
            ["alibi-detect 0.13.0", BUSINESS_SOURCE, "up to 0.11.4 is Apache-2.0"],
        ),
        (
            "alibi-explain", "alibi", "0.9.6", "License: Business Source License 1.1",
            ["alibi 0.9.6", BUSINESS_SOURCE, "up to 0.9.4 is Apache-2.0"],
        ),
        (
            "alibi-explain", "alibi", "0.10.0", "License-Expression: BUSL-1.1",
            ["alibi 0.10.0", BUSINESS_SOURCE],
        ),
        (
            "alibi-detect", "alibi-detect", "0.11.4", "License: Apache 2.0",
            ["alibi-detect 0.11.4 is under Apache 2.0."],
        ),
        ("alibi-explain", "alibi", "0.9.4", "License: Apache 2.0", ["alibi 0.9.4 is under Apache"]),
        ("alibi-explain", "alibi", "7", "", ["alibi 7 is under a licence that it does not tell"]),
    ],
)  # fmt: skip
def test_the_licence_of_what_is_installed_is_told(
    tmp_path, monkeypatch, runtime, distribution, version, line, told
):
    pretend(tmp_path, distribution, version, *([line] if line else []))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    notices = {each.name: each.notice for each in jackfield_runtimes()}
    notice = notices.pop(runtime)
    for each in told:
        assert each in notice
    # the other package isn't there, and nothing is to be told of it
    assert list(notices.values()) == [""]


def test_the_operator_reads_it_where_plugins_are_listed(tmp_path):
    """A version of Apache-2.0, before any other one that is installed."""
    pretend(tmp_path, "alibi-detect", "0.11.4", "License: Apache 2.0")
    pretend(tmp_path, "alibi", "0.9.6", "License: Business Source License 1.1")
    stdout, _ = listed(also_in=tmp_path)
    assert "alibi-detect 0.11.4" in stdout
    assert "alibi-detect: alibi-detect 0.11.4 is under Apache 2.0." in stdout.splitlines()
    [notice] = [each for each in stdout.splitlines() if each.startswith("alibi-explain: ")]
    assert "alibi 0.9.6 is under the Business Source License 1.1" in notice


# ---- extras ----

WITHOUT = """
import json, logging, sys
for name in ("alibi", "alibi_detect", "shap"):
    sys.modules[name] = None  # can't be imported
import jackfield
logging.getLogger("jackfield").setLevel(logging.CRITICAL)
with jackfield.Server(sys.argv[1:], plugins=["alibi"]).sync() as server:
    print(json.dumps({each.name: [each.state, each.reason] for each in server.index()}))
"""
TARGET = """
from typing import Annotated

import numpy as np
from numpy.typing import NDArray


class Target:
    def infer(self, x: Annotated[NDArray[np.float64], (-1, 4)]) -> Annotated[
        NDArray[np.float64], (-1, 2)
    ]:
        return np.stack([x[:, 0], 1 - x[:, 0]], axis=1)
"""


def test_a_runtime_without_its_extra_says_what_to_install(tmp_path):
    rows = np.linspace(0, 1, 40).reshape(10, 4)
    write_settings(tmp_path / "target", "target", "own_target.Target")
    (tmp_path / "target" / "own_target.py").write_text(TARGET)
    write_settings(tmp_path / "drift", "drift", "alibi-detect", uri=".")
    (tmp_path / "drift" / "config.toml").write_text('name = "KSDrift"\nx_ref = "x_ref.npy"\n')
    np.save(tmp_path / "drift" / "x_ref.npy", rows)
    for kind in ("anchor_tabular", "kernel_shap", "ale"):
        explainer(tmp_path, kind, kind, rows, target="target", implementation=OURS)
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, tmp_path], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.pop("target") == ["READY", ""]
    assert {state for state, _ in found.values()} == {"UNAVAILABLE"}
    reasons = {name: reason for name, (_, reason) in found.items()}
    for name, missing, extra in (
        ("drift", "Alibi Detect", "alibi-detect"),
        ("anchor_tabular", "'alibi'", "alibi-explain"),
        ("ale", "'alibi'", "alibi-explain"),
        ("kernel_shap", "'shap'", "shap"),
    ):
        assert missing in reasons[name]
        assert f'pip install "jackfield[{extra}]"' in reasons[name]
