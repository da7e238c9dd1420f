"""The runtimes for tables as a user has them: examples, and a folder of files without settings."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.serving import ROOT, clean_environment, run_jackfield, serving

from jackfield.client import Client

#: The plugins whose files share names.
TABLES = ("sklearn", "xgboost", "lightgbm", "catboost")
#: The folder of an example -> the model that it trains, and the platform in its metadata.
EXAMPLES = {
    "sklearn": ("wines", "sklearn"),
    "xgboost": ("tumours", "xgboost"),
    "lightgbm": ("tumours", "lightgbm"),
    "catboost": ("diabetes", "catboost"),
    "mlflow": ("wines", "mlflow_sklearn"),
    "mllib": ("iris", "spark_ml"),
}
#: Names by which nobody can tell what is in the files.
FILES = {
    "sklearn": "a/model.joblib",
    "xgboost": "b/model.json",
    "lightgbm": "c/model.txt",
    "catboost": "d/model.bin",
    "sklearn, pickled": "pickles/first.pkl",
    "xgboost, pickled": "pickles/second.pkl",
    "lightgbm, pickled": "pickles/third.pkl",
    "xgboost, raw": "rest/one.bst",
    "lightgbm, text": "rest/two.bst",
}
OTHERS = {
    "README.txt": "what the models are for",
    "b/request.json": "{}",
    "d/weights.bin": "not a model",
    "rest/tree.txt": "tree house",
}

needs_all = pytest.mark.skipif(
    not all(importlib.util.find_spec(f"jackfield_{name}") for name in EXAMPLES),
    reason="needs all plugins",
)
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run an example's `train.py`; gives the folder."""
    parent = tmp_path_factory.mktemp("examples")

    def train(example):
        folder = parent / example / EXAMPLES[example][0]
        if not folder.is_dir():
            done = subprocess.run(
                [sys.executable, ROOT / "examples" / example / "train.py", folder],
                capture_output=True,
                text=True,
                check=False,
                env=clean_environment(OMP_NUM_THREADS="2"),
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.endswith(f"next: jackfield serve {folder}\n")
        return folder

    return train


@needs_all
@pytest.mark.parametrize(
    "example",
    [pytest.param(each, marks=[needs_java] if each == "mllib" else []) for each in EXAMPLES],
)
def test_an_example_is_served_as_its_page_says(trained, example):
    request = (ROOT / "examples" / example / "request.json").read_bytes()
    with serving(trained(example)) as served:
        name, platform = EXAMPLES[example]
        url = f"{served.http}/v2/models/{name}"
        headers = {"content-type": "application/json"}
        answer = httpx.post(f"{url}/infer", content=request, headers=headers, timeout=20)
        assert answer.status_code == 200, answer.text
        told = httpx.get(url).json()
        assert told["platform"].startswith(platform)
        by_default = [
            each for each in told["outputs"] if not each.get("parameters", {}).get("on_request")
        ]
        asked = json.loads(request).get("outputs", by_default)
        named = [output["name"] for output in answer.json()["outputs"]]
        assert named == [output["name"] for output in asked]


class Saved:
    """The models as their frameworks know them, and the folder in which they are."""

    def __init__(self, folder):
        import joblib
        from catboost import CatBoostClassifier
        from lightgbm import LGBMClassifier
        from sklearn.datasets import load_digits
        from sklearn.tree import DecisionTreeClassifier
        from xgboost import XGBClassifier

        self.folder = folder
        features, target = load_digits(return_X_y=True)
        self.rows = features[::50]
        tree = DecisionTreeClassifier(max_depth=5, random_state=0).fit(features, target)
        xgb = XGBClassifier(n_estimators=3, n_jobs=1).fit(features, target)
        lgbm = LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1).fit(features, target)
        cat = CatBoostClassifier(
            iterations=3, thread_count=1, verbose=False, allow_writing_files=False
        ).fit(features, target)
        for name in (*FILES.values(), *OTHERS):
            (folder / name).parent.mkdir(exist_ok=True)
        for name, text in OTHERS.items():
            (folder / name).write_text(text)
        for name, model in (("sklearn", tree), ("xgboost", xgb), ("lightgbm", lgbm)):
            joblib.dump(model, folder / FILES[f"{name}, pickled"])
        joblib.dump(tree, folder / FILES["sklearn"])
        xgb.save_model(folder / FILES["xgboost"])
        (folder / FILES["xgboost, raw"]).write_bytes(xgb.get_booster().save_raw("ubj"))
        lgbm.booster_.save_model(folder / FILES["lightgbm"])
        lgbm.booster_.save_model(folder / FILES["lightgbm, text"])
        cat.save_model(str(folder / FILES["catboost"]))
        chances = {
            "sklearn": tree.predict_proba(self.rows),
            "xgboost": xgb.predict_proba(self.rows),
            "lightgbm": lgbm.predict_proba(self.rows, num_threads=1),
            "catboost": cat.predict_proba(self.rows),
        }
        #: Model -> its runtime, and the chances of the rows as the framework computes them.
        self.expected = {}
        for kind, file in FILES.items():
            runtime = kind.partition(",")[0]
            name = Path(file).stem if Path(file).stem != "model" else Path(file).parent.name
            self.expected[name] = runtime, chances[runtime]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return Saved(tmp_path_factory.mktemp("saved"))


@needs_all
def test_a_folder_of_files_that_only_their_content_tells_apart_is_served(saved):
    with serving(saved.folder) as served:
        index = httpx.post(f"{served.http}/v2/repository/index", json={}).json()
        states = {model["name"]: model["state"] for model in index}
        assert states == dict.fromkeys(saved.expected, "READY")
        for address in (served.http, f"grpc://{served.grpc}"):
            with Client(address) as client:
                for name, (runtime, chances) in saved.expected.items():
                    model = client.model(name)
                    assert model.metadata().platform.startswith(runtime)
                    result = model.infer(saved.rows, outputs=["predict_proba", "predict"])
                    assert np.array_equal(result["predict_proba"], chances), name
                    assert np.array_equal(result["predict"], chances.argmax(axis=1)), name


@needs_all
@pytest.mark.parametrize("only", TABLES)
def test_with_one_plugin_the_others_models_fail_and_name_theirs(saved, only):
    models = checked(saved.folder, env={"JACKFIELD_PLUGINS": only})
    for name, model in models.items():
        runtime, _ = saved.expected[name]
        if runtime == only:
            assert (model["runtime"], model["problem"]) == (only, "")
        elif model["problem"]:
            assert f'pip install "jackfield[{runtime}]"' in model["problem"]
        else:  # it reads their wrappers, as long as their libraries are there
            assert (only, model["runtime"]) == ("sklearn", "sklearn")
    mine = {name for name, (runtime, _) in saved.expected.items() if runtime == only}
    assert mine <= set(models)
    assert any(model["problem"] for model in models.values()) is (only != "sklearn")


def checked(*paths, **options):
    """Load models without serving them; gives what is told of each by name."""
    done = run_jackfield("check", *paths, "--load", "--json", **options)
    told = json.loads(done.stdout)
    assert done.returncode == int(any(model["problem"] for model in told["models"])), done.stderr
    return {model["model"]: model for model in told["models"]}


# ---- An environment with one plugin ----


def test_where_scikit_learn_is_alone_a_model_of_another_framework_says_what_to_install(
    jackfield, tmp_path
):
    contents = {
        "xgboost": b'{"learner": {"objective": {}}, "version": [3, 0, 0]}',
        "lightgbm": b"tree\nversion=v4\nnum_class=1\n",
        "catboost": b"CBM1" + bytes(60),
    }
    for name, content in contents.items():
        # a name that no plugin here claims, and one that scikit-learn's does
        (tmp_path / f"{name}.any").write_bytes(content)
        (tmp_path / f"{name}-2.pkl").write_bytes(content)
    models = checked(*sorted(tmp_path.iterdir()), command=jackfield)
    assert len(models) == 6
    for name, model in models.items():
        assert f'pip install "jackfield[{name.removesuffix("-2")}]"' in model["problem"]
