"""Explainers that look into their model: equal to Alibi called directly, and what they refuse."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression

from jackfield import Datatype, InvalidRequestError, ModelLoadError, ModelMetadata
from jackfield.messages import TensorMetadata
from jackfield_alibi._explain._engines import build
from jackfield_alibi._explain._explanation import Material, Progress
from jackfield_alibi._explain._options import ExplainOptions

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("alibi") is None, reason="needs Alibi: jackfield[alibi-explain]"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # of matplotlib, when shap is imported
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),
]

IRIS, DIABETES = load_iris(), load_diabetes()
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch: jackfield-alibi[torch]"
)
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
needs_tensorflow = pytest.mark.skipif(not HAS_TENSORFLOW, reason="needs TensorFlow below 2.15")


def make(kind, *, file=None, target=None, saved=None, reference=None, labels=None, **options):
    """Build an engine as the runtime does."""
    return build(
        Material(
            kind=kind,
            options=ExplainOptions(explainer_type=kind, **options),
            folder=Path(),
            saved=saved,
            model_file=file,
            target=target,
            reference=reference,
            reference_labels=labels,
            feature_names=(),
            categorical_names={},
            target_names=(),
            threads=1,
            logger=logging.getLogger("test"),
        )
    )


def explain(engine, rows, **parameters):
    return engine.explain(rows, parameters, Progress(rows=len(rows)))


class Asked:
    """A target in process: a function."""

    name, input_name, output_name = "iris", "x", "y"

    def __init__(self, predict):
        self.metadata = ModelMetadata(
            inputs=[TensorMetadata("x", Datatype.FP64, [-1, 4])],
            outputs=[TensorMetadata("y", Datatype.FP64, [-1, 3])],
        )
        self.predict = predict


# ---- curves by trees ----


@pytest.fixture(scope="module")
def boosting(tmp_path_factory):
    model = GradientBoostingClassifier(n_estimators=8, random_state=0)
    model.fit(IRIS.data[:100], IRIS.target[:100])
    joblib.dump(model, file := tmp_path_factory.mktemp("trees") / "model.joblib")
    return model, file


def test_partial_dependence_by_trees_is_alibis(boosting):
    from alibi.explainers import TreePartialDependence

    model, file = boosting
    found = explain(make("tree_partial_dependence", file=file), IRIS.data[:100], features=[2, 3])
    direct = TreePartialDependence(model).explain(IRIS.data[:100], features=[2, 3])
    for ours, theirs in zip(found.data["pd_values"], direct.data["pd_values"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.meta == direct.meta


def test_its_variance_names_the_feature_that_matters(tmp_path):
    from alibi.explainers import PartialDependenceVariance

    model = RandomForestRegressor(8, random_state=0, n_jobs=1).fit(DIABETES.data, DIABETES.target)
    joblib.dump(model, file := tmp_path / "model.joblib")
    asked = {"features": [2, 4, 8], "method": "importance", "grid_resolution": 10}
    found = explain(make("tree_partial_dependence_variance", file=file), DIABETES.data, **asked)
    direct = PartialDependenceVariance(model).explain(DIABETES.data, **asked)
    np.testing.assert_array_equal(
        found.data["feature_importance"], direct.data["feature_importance"]
    )
    assert found.data["feature_importance"].argmin() == 1  # s1 of bmi, s1 and s5


def test_a_model_without_trees_is_refused(tmp_path):
    model = LogisticRegression(max_iter=2000).fit(IRIS.data, IRIS.target)
    joblib.dump(model, file := tmp_path / "model.joblib")
    with pytest.raises(ModelLoadError, match="'tree_partial_dependence' can't be built"):
        make("tree_partial_dependence", file=file)


@pytest.mark.parametrize("kind", ["tree_partial_dependence", "tree_partial_dependence_variance"])
def test_what_is_missing_is_named(boosting, tmp_path, kind):
    with pytest.raises(ModelLoadError, match=r"'parameters\.extra\.model'"):
        make(kind)
    with pytest.raises(ModelLoadError, match=r"'none\.joblib' is missing"):
        make(kind, file=tmp_path / "none.joblib")
    with pytest.raises(InvalidRequestError, match=r"expected \[-1, 4\], found \[3, 2\]"):
        explain(make(kind, file=boosting[1]), IRIS.data[:3, :2])


# ---- PyTorch ----


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Train a small network, and save it whole."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: jackfield-alibi[torch]")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    rows, labels = torch.tensor(IRIS.data, dtype=torch.float32), torch.tensor(IRIS.target)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(rows), labels).backward()
        optimizer.step()
    torch.save(model, file := tmp_path_factory.mktemp("network") / "model.pt")
    return model, file


@needs_torch
def test_rows_with_alike_gradients_are_alibis(network):
    import torch
    from alibi.explainers import GradientSimilarity

    model, file = network
    rows = IRIS.data.astype(np.float32)
    engine = make(
        "gradient_similarity",
        file=file,
        reference=IRIS.data,
        labels=IRIS.target,
        init_parameters={"sim_fn": "grad_cos"},
    )
    found = explain(engine, rows[[0, 60]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        direct = GradientSimilarity(
            model, torch.nn.CrossEntropyLoss(), "grad_cos", precompute_grads=True, backend="pytorch"
        )
        direct = direct.fit(rows, IRIS.target).explain(rows[[0, 60]])
    for key in ("scores", "ordered_indices", "most_similar", "least_similar"):
        np.testing.assert_array_equal(found.data[key], direct.data[key])
    labels = IRIS.target[found.data["ordered_indices"][:, :5]]
    assert labels.tolist() == [[0] * 5, [1] * 5]


@needs_torch
def test_what_similarity_needs_is_named(network, tmp_path):
    _, file = network
    given = {"file": file, "reference": IRIS.data, "labels": IRIS.target}
    with pytest.raises(ModelLoadError, match=r"'parameters\.extra\.reference_labels'"):
        make("gradient_similarity", file=file, reference=IRIS.data)
    with pytest.raises(ModelLoadError, match=r"'parameters\.extra\.reference'"):
        make("gradient_similarity", file=file)
    with pytest.raises(ModelLoadError, match="found 'Loss of mine'"):
        make("gradient_similarity", **given, init_parameters={"loss_fn": "Loss of mine"})
    joblib.dump(IRIS.data, other := tmp_path / "model.pt")
    with pytest.raises(ModelLoadError, match=r"'model\.pt' can't be read"):
        make("gradient_similarity", **{**given, "file": other})
    engine = make("gradient_similarity", **given)
    with pytest.raises(InvalidRequestError, match=r"expected \[-1, 4\], found \[2, 3\]"):
        explain(engine, IRIS.data[:2, :3])
    with pytest.raises(InvalidRequestError, match="Y: expected 2 values"):
        explain(engine, IRIS.data[:2], Y=[1])


@needs_torch
def test_a_saved_policy_gives_the_counterfactuals_that_it_gave(network, tmp_path):
    import torch
    from alibi.explainers import CounterfactualRL

    model, _ = network

    def predict(rows):
        with torch.no_grad():
            return torch.softmax(model(torch.tensor(rows, dtype=torch.float32)), 1).numpy()

    rows = IRIS.data.astype(np.float32)
    trained = CounterfactualRL(
        predict,
        torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()),
        torch.nn.Sequential(torch.nn.Linear(3, 4)),
        coeff_sparsity=0.5,
        coeff_consistency=0.5,
        latent_dim=3,
        backend="pytorch",
        train_steps=5,
        batch_size=8,
        seed=0,
    ).fit(rows)
    direct = trained.explain(rows[:3], Y_t=np.array([2, 1, 0]))
    trained.save(tmp_path / "policy")
    engine = make("counterfactual_rl", target=Asked(predict), saved=tmp_path / "policy")
    found = explain(engine, rows[:3], Y_t=[2, 1, 0])
    np.testing.assert_array_equal(found.data["cf"]["X"], direct.data["cf"]["X"])
    np.testing.assert_array_equal(found.data["cf"]["class"], direct.data["cf"]["class"])
    with pytest.raises(InvalidRequestError, match="Y_t: expected the class wanted"):
        explain(engine, rows[:3])
    with pytest.raises(InvalidRequestError, match="expected 1 or 3 classes, found 2"):
        explain(engine, rows[:3], Y_t=[1, 2])
    with pytest.raises(ModelLoadError, match="trained beforehand"):
        make("counterfactual_rl", target=Asked(predict))


# ---- TensorFlow ----


@pytest.mark.skipif(HAS_TENSORFLOW, reason="TensorFlow is installed")
@pytest.mark.parametrize(
    "kind", ["integrated_gradients", "cem", "counterfactual", "counterfactual_proto"]
)
def test_without_tensorflow_it_is_named(kind):
    with pytest.raises(ModelLoadError, match=f"'{kind}' needs TensorFlow below 2.15"):
        make(kind, target=Asked(lambda rows: rows), reference=IRIS.data)


@needs_tensorflow
def test_integrated_gradients_are_alibis(tmp_path):
    tf = pytest.importorskip("tensorflow")
    from alibi.explainers import IntegratedGradients

    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [
            tf.keras.Input((4,)),
            tf.keras.layers.Dense(8, activation="relu"),
            tf.keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(IRIS.data, IRIS.target, epochs=5, verbose=0)
    model.save(file := tmp_path / "model.keras")
    rows = IRIS.data[:3].astype(np.float32)
    engine = make("integrated_gradients", file=file, init_parameters={"n_steps": 20})
    found = explain(engine, rows)
    wanted = model(rows).numpy().argmax(axis=1)
    direct = IntegratedGradients(model, n_steps=20).explain(rows, target=wanted)
    np.testing.assert_allclose(found.data["attributions"][0], direct.data["attributions"][0])
    # completeness: they add up to what the prediction is above that of the baseline
    chances = model(rows).numpy()[np.arange(3), wanted] - model(rows * 0).numpy()[0][wanted]
    np.testing.assert_allclose(found.data["attributions"][0].sum(axis=1), chances, atol=2e-2)
    with pytest.raises(InvalidRequestError, match=r"expected \[-1, 4\]"):
        explain(engine, rows[:, :3])
    with pytest.raises(ModelLoadError, match="can't be in one server"):
        make("cem", target=Asked(lambda rows: rows), reference=IRIS.data)


GRAPHS = """
import sys
import warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import numpy as np
from sklearn.linear_model import LogisticRegression
from test_whitebox import IRIS, Asked, explain, make

model = LogisticRegression(max_iter=2000).fit(IRIS.data, IRIS.target)
row = IRIS.data[60:61]
few = {"max_iterations": 20, "c_steps": 1}
bounds = {"feature_range": [IRIS.data.min(0).tolist(), IRIS.data.max(0).tolist()]}
for kind, given, key in (
    ("cem", {"mode": "PN", "kappa": 0.0, **few, **bounds}, "PN"),
    ("counterfactual", {"target_class": 2, "max_iter": 60, "lam_init": 0.1}, "cf"),
    ("counterfactual_proto", {"use_kdtree": True, "max_iterations": 60, **bounds}, "cf"),
):
    engine = make(
        kind, target=Asked(model.predict_proba), reference=IRIS.data, init_parameters=given
    )
    found = explain(engine, row)
    assert engine.takes_one
    assert key in found.data, (kind, list(found.data))
    other = found.data[key]
    other = other["X"] if isinstance(other, dict) else other
    if kind != "cem":
        assert model.predict(other.reshape(1, -1))[0] != 1, kind
print("found all")
"""


@needs_tensorflow
def test_counterfactuals_have_another_class():
    # in a process of its own: TensorFlow's graphs can't be switched off again
    command = [sys.executable, "-c", GRAPHS, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "found all" in done.stdout, done.stderr[-3000:]
