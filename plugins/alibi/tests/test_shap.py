"""SHAP values: as the libraries give them, adding up, in one layout whoever computed them."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import ClassVar

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jackfield import Datatype, DeadlineError, InvalidRequestError, ModelLoadError, ModelMetadata
from jackfield.messages import TensorMetadata
from jackfield_alibi._explain._engines import build
from jackfield_alibi._explain._explanation import Material, Progress, StoppedError
from jackfield_alibi._explain._options import ExplainOptions

shap = pytest.importorskip("shap", reason="needs shap: jackfield[shap]")
xgboost = pytest.importorskip("xgboost", reason="needs XGBoost")
lightgbm = pytest.importorskip("lightgbm", reason="needs LightGBM")
catboost = pytest.importorskip("catboost", reason="needs CatBoost")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # of matplotlib, when Alibi imports shap
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:LightGBM binary classifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning"),
]

IRIS, CANCER, DIABETES = load_iris(), load_breast_cancer(), load_diabetes()
SHAP_VERSION = tuple(int(each) for each in shap.__version__.split(".")[:2])
#: shap reads XGBoost's own files, and what it read at 0.43 has changed since.
READS_XGBOOST = SHAP_VERSION >= (0, 50)
alibi = importlib.util.find_spec("alibi")
needs_alibi = pytest.mark.skipif(alibi is None, reason="needs Alibi: jackfield[alibi-explain]")


def _catboost(kind, data, **more):
    model = kind(
        iterations=15,
        depth=3,
        verbose=0,
        allow_writing_files=False,
        random_seed=0,
        thread_count=1,
        **more,
    )
    return model.fit(data.data, data.target)


@pytest.fixture(scope="session")
def models():
    """Give models of trees, fitted: name -> (model, rows)."""
    few = {"n_estimators": 15, "random_state": 0}
    fitted = {
        "forest3": (RandomForestClassifier(**few), IRIS),
        "forest2": (RandomForestClassifier(**few), CANCER),
        "extra3": (ExtraTreesClassifier(**few), IRIS),
        "regression": (RandomForestRegressor(**few), DIABETES),
        "boosting2": (GradientBoostingClassifier(**few), CANCER),
        "histogram3": (HistGradientBoostingClassifier(max_iter=10, random_state=0), IRIS),
        "xgboost3": (xgboost.XGBClassifier(n_estimators=15, n_jobs=1), IRIS),
        "xgboost2": (xgboost.XGBClassifier(n_estimators=15, n_jobs=1), CANCER),
        "xgboost1": (xgboost.XGBRegressor(n_estimators=15, n_jobs=1), DIABETES),
        "lightgbm3": (lightgbm.LGBMClassifier(n_estimators=15, n_jobs=1, verbose=-1), IRIS),
        "lightgbm2": (lightgbm.LGBMClassifier(n_estimators=15, n_jobs=1, verbose=-1), CANCER),
        "lightgbm1": (lightgbm.LGBMRegressor(n_estimators=15, n_jobs=1, verbose=-1), DIABETES),
    }
    found = {
        name: (model.fit(data.data, data.target), data.data)
        for name, (model, data) in fitted.items()
    }
    found["catboost3"] = _catboost(catboost.CatBoostClassifier, IRIS), IRIS.data
    found["catboost2"] = _catboost(catboost.CatBoostClassifier, CANCER), CANCER.data
    found["catboost1"] = _catboost(catboost.CatBoostRegressor, DIABETES), DIABETES.data
    return found


SKLEARN = ("forest3", "forest2", "extra3", "regression", "boosting2", "histogram3")
BOOSTERS = tuple(
    f"{family}{outputs}" for family in ("xgboost", "lightgbm", "catboost") for outputs in (3, 2, 1)
)


def make(kind, *, file=None, target=None, reference=None, names=(), **options):
    """Build an engine as the runtime does."""
    return build(
        Material(
            kind=kind,
            options=ExplainOptions(explainer_type=kind, **options),
            folder=Path(),
            saved=None,
            model_file=file,
            target=target,
            reference=reference,
            reference_labels=None,
            feature_names=names,
            categorical_names={},
            target_names=(),
            threads=1,
            logger=logging.getLogger("test"),
        )
    )


def save(model, folder):
    """Save a model as its library does."""
    if isinstance(model, catboost.CatBoost):
        model.save_model(str(file := folder / "model.cbm"))
    elif isinstance(model, xgboost.XGBModel):
        model.save_model(file := folder / "model.ubj")
    elif isinstance(model, lightgbm.LGBMModel):
        model.booster_.save_model(file := folder / "model.txt")
    else:
        joblib.dump(model, file := folder / "model.joblib")
    return file


def explain(engine, rows, **parameters):
    progress = Progress(rows=len(rows))
    found = engine.explain(rows, parameters, progress)
    assert progress.rows_done == len(rows)
    return found


def per_output(found, dimensions=2):
    """What shap gave, by whichever version, as a list."""
    if isinstance(found, list):
        return found
    return [found] if found.ndim == dimensions else list(np.moveaxis(found, -1, 0))


def raw_of(model, rows):
    """Ask the model's own library for its raw prediction, [n] or [n, outputs]."""
    if isinstance(model, catboost.CatBoost):
        return model.predict(rows, prediction_type="RawFormulaVal")
    if isinstance(model, xgboost.XGBModel):
        return model.predict(rows, output_margin=True)
    if isinstance(model, lightgbm.LGBMModel):
        return model.predict(rows, raw_score=True)
    if isinstance(model, RandomForestClassifier | ExtraTreesClassifier):
        return model.predict_proba(rows)
    if hasattr(model, "decision_function"):
        return model.decision_function(rows)
    return model.predict(rows)


def sums(explanation):
    """Add each row's values and the expected value up: [n, outputs]."""
    data = explanation.data
    return np.column_stack(
        [
            values.sum(axis=1) + expected
            for values, expected in zip(data["shap_values"], data["expected_value"], strict=True)
        ]
    )


# ---- trees ----


@pytest.mark.parametrize("name", [*SKLEARN, *BOOSTERS])
def test_values_and_expected_value_add_up_to_the_models_raw_prediction(models, tmp_path, name):
    model, rows = models[name]
    engine = make("tree_shap", file=save(model, tmp_path))
    assert engine.library == ("shap" if name in SKLEARN else "booster")
    found = explain(engine, rows[::7])
    raw = np.asarray(raw_of(model, rows[::7])).reshape(len(rows[::7]), -1)
    np.testing.assert_allclose(sums(found), raw, rtol=1e-4, atol=2e-4)
    told = np.asarray(found.data["raw"]["raw_prediction"]).reshape(raw.shape)
    np.testing.assert_allclose(told, raw, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", SKLEARN)
@pytest.mark.parametrize("has_background", [False, True])
def test_shap_called_directly_gives_the_same_bits(models, tmp_path, name, has_background):
    model, rows = models[name]
    background = rows[::10] if has_background else None
    engine = make("tree_shap", file=save(model, tmp_path), reference=background)
    given = {"check_additivity": False}
    found = explain(engine, rows[3:9], **given)
    direct = shap.TreeExplainer(
        model,
        data=background,
        feature_perturbation="interventional" if has_background else "tree_path_dependent",
    )
    for ours, theirs in zip(
        found.data["shap_values"], per_output(direct.shap_values(rows[3:9], **given)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        found.data["expected_value"], np.atleast_1d(direct.expected_value)
    )


@pytest.mark.parametrize("name", BOOSTERS)
def test_boosters_called_directly_give_the_same_bits(models, tmp_path, name):
    model, rows = models[name]
    rows = rows[:6]
    found = explain(make("tree_shap", file=save(model, tmp_path), library="booster"), rows)
    if name.startswith("catboost"):
        direct = model.get_feature_importance(catboost.Pool(rows), type="ShapValues")
    elif name.startswith("xgboost"):
        direct = model.get_booster().predict(xgboost.DMatrix(rows), pred_contribs=True)
    else:
        direct = model.booster_.predict(rows, pred_contrib=True)
        direct = direct.reshape(len(rows), -1, rows.shape[1] + 1)
    direct = direct if direct.ndim == 3 else direct[:, None]
    np.testing.assert_array_equal(np.stack(found.data["shap_values"], 1), direct[:, :, :-1])
    np.testing.assert_array_equal(found.data["expected_value"], direct[0, :, -1])


@pytest.mark.parametrize("name", [each for each in BOOSTERS if each != "catboost3"])
def test_shap_and_the_booster_give_the_same(models, tmp_path, name):
    if name.startswith("xgboost") and not READS_XGBOOST:
        pytest.skip(f"shap {shap.__version__} can't read XGBoost {xgboost.__version__}")
    model, rows = models[name]
    file = save(model, tmp_path)
    by_booster = explain(make("tree_shap", file=file, library="booster"), rows[:6])
    by_shap = explain(make("tree_shap", file=file, library="shap"), rows[:6])
    for key in ("shap_values", "expected_value"):
        np.testing.assert_allclose(by_shap.data[key], by_booster.data[key], rtol=1e-6, atol=1e-6)
    assert by_shap.data["raw"]["prediction"].tolist() == (
        by_booster.data["raw"]["prediction"].tolist()
    )
    assert by_shap.data.keys() == by_booster.data.keys()
    assert by_shap.data["raw"].keys() == by_booster.data["raw"].keys()


@pytest.mark.parametrize("name", ["forest3", "regression", "xgboost3", "xgboost2", "catboost3"])
def test_interactions_add_up_to_the_values(models, tmp_path, name):
    model, rows = models[name]
    engine = make("tree_shap", file=save(model, tmp_path))
    plain, found = explain(engine, rows[:4]), explain(engine, rows[:4], interactions=True)
    for pairs, values in zip(
        found.data["shap_interaction_values"], plain.data["shap_values"], strict=True
    ):
        assert pairs.shape == (4, rows.shape[1], rows.shape[1])
        np.testing.assert_allclose(pairs.sum(axis=2), values, atol=1e-4)


@needs_alibi
@pytest.mark.parametrize("name", ["forest3", "regression", "boosting2", "lightgbm3"])
@pytest.mark.parametrize("has_background", [False, True])
def test_alibi_is_equal_to_alibi_and_to_shap(models, tmp_path, name, has_background):
    from alibi.explainers import TreeShap

    model, rows = models[name]
    background = rows[::10] if has_background else None
    joblib.dump(model, file := tmp_path / "model.joblib")
    engine = make("tree_shap", file=file, reference=background, library="alibi")
    assert engine.library == "alibi"
    # of some forests' rows shap's own interventional values are off by a vote
    given = {"check_additivity": False}
    found = explain(engine, rows[:5], **given)
    task = "regression" if name == "regression" else "classification"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        direct = TreeShap(model, task=task).fit(background).explain(rows[:5], **given)
        by_shap = explain(
            make("tree_shap", file=file, reference=background, library="shap"), rows[:5], **given
        )
    for key in ("shap_values", "expected_value"):
        np.testing.assert_array_equal(np.array(found.data[key]), np.array(direct.data[key]))
        ours, theirs = np.array(by_shap.data[key]), np.array(direct.data[key])
        np.testing.assert_array_equal(ours, theirs.reshape(ours.shape))
    raw, expected = by_shap.data["raw"], direct.data["raw"]
    np.testing.assert_array_equal(raw["prediction"], expected["prediction"])
    np.testing.assert_array_equal(raw["raw_prediction"], expected["raw_prediction"])
    assert raw["importances"].keys() == expected["importances"].keys()
    for key, each in expected["importances"].items():
        assert raw["importances"][key]["names"] == each["names"]
        np.testing.assert_array_equal(
            raw["importances"][key]["ranked_effect"], each["ranked_effect"]
        )
    assert set(by_shap.data) == set(direct.data)
    assert set(raw) == set(expected)
    assert set(direct.meta) <= set(by_shap.meta)


def test_probabilities_are_explained_with_a_background(models, tmp_path):
    model, rows = models["lightgbm2"]
    engine = make(
        "tree_shap",
        file=save(model, tmp_path),
        reference=rows[::20],
        init_parameters={"model_output": "probability"},
    )
    assert engine.library == "shap"
    found = explain(engine, rows[:5])
    np.testing.assert_allclose(sums(found)[:, 0], model.predict_proba(rows[:5])[:, 1], atol=1e-6)


def test_a_category_in_several_columns_has_one_value(models, tmp_path):
    model, rows = models["forest3"]
    engine = make("tree_shap", file=save(model, tmp_path), names=tuple(IRIS.feature_names))
    plain = explain(engine, rows[:3])
    summed = explain(
        engine, rows[:3], summarise_result=True, cat_vars_start_idx=[1], cat_vars_enc_dim=[2]
    )
    for one, all_ in zip(summed.data["shap_values"], plain.data["shap_values"], strict=True):
        assert one.shape == (3, 3)
        np.testing.assert_allclose(one[:, 1], all_[:, 1] + all_[:, 2])
        np.testing.assert_array_equal(one[:, [0, 2]], all_[:, [0, 3]])
    for starts, sizes in (([3], [2]), ([0, 1], [2, 2]), ([1], []), ([9], [1])):
        with pytest.raises(InvalidRequestError, match="explain_parameters"):
            explain(
                engine,
                rows[:3],
                summarise_result=True,
                cat_vars_start_idx=starts,
                cat_vars_enc_dim=sizes,
            )


def test_features_are_named_by_their_importance(models, tmp_path):
    model, rows = models["forest3"]
    engine = make("tree_shap", file=save(model, tmp_path), names=tuple(IRIS.feature_names))
    found = explain(engine, rows)
    assert found.data["feature_names"] == IRIS.feature_names
    aggregated = found.data["raw"]["importances"]["aggregated"]
    assert set(aggregated["names"][:2]) == {"petal length (cm)", "petal width (cm)"}
    assert (np.diff(aggregated["ranked_effect"]) <= 0).all()


def test_more_rows_than_fit_one_part_come_in_their_order(models, tmp_path):
    model, rows = models["lightgbm2"]
    many = np.concatenate([rows, rows, rows])
    engine = make("tree_shap", file=save(model, tmp_path))
    found = explain(engine, many).data["shap_values"][0]
    one = explain(engine, rows[400:401]).data["shap_values"][0]
    np.testing.assert_array_equal(found[400 + 2 * len(rows)], one[0])


def test_who_left_is_not_waited_for(models, tmp_path):
    model, rows = models["forest2"]
    engine = make("tree_shap", file=save(model, tmp_path))
    progress = Progress(rows=len(rows))
    progress.stop()
    with pytest.raises(StoppedError):
        engine.explain(rows, {}, progress)
    assert progress.rows_done < len(rows)
    late = Progress(rows=len(rows), model="m", deadline_ns=1)
    with pytest.raises(DeadlineError):
        engine.explain(rows, {}, late)


def test_training_that_stopped_early_is_explained_as_it_predicts(tmp_path):
    rows, labels = CANCER.data, CANCER.target
    model = xgboost.XGBClassifier(
        n_estimators=60, n_jobs=1, early_stopping_rounds=2, learning_rate=0.9
    )
    model.fit(rows[:300], labels[:300], eval_set=[(rows[300:], labels[300:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    found = explain(make("tree_shap", file=save(model, tmp_path)), rows[:9])
    raw = model.predict(rows[:9], output_margin=True)
    np.testing.assert_allclose(sums(found)[:, 0], raw, atol=1e-4)


# ---- a model that is served ----


class Served:
    """A runtime in the place of a target in the same server."""

    name = "tumours"
    input_name = "x"
    output_name = "contributions"

    def __init__(self, runtime):
        self.runtime = runtime
        self.metadata = runtime.metadata()

    def predict(self, rows):
        from jackfield import InferRequest, Tensor
        from jackfield.messages import RequestedOutput

        inputs = [Tensor(self.metadata.inputs[0].name, Datatype.FP64, np.asarray(rows))]
        answer = self.runtime.infer(InferRequest(inputs, [RequestedOutput(self.output_name)]))
        return answer.outputs[0].array


def _load(name, file):
    from jackfield import ModelContext
    from jackfield._code import import_class
    from jackfield.settings import ModelSettings

    module = pytest.importorskip(f"jackfield_{name}", reason=f"needs the plugin {name}")
    spec = module.jackfield_runtimes()[0]
    runtime = import_class(spec.runtime)(
        ModelContext(
            name="tumours",
            version="",
            artifact=file,
            settings=ModelSettings(name="tumours"),
            options=None,
            logger=logging.getLogger("test"),
        )
    )
    runtime.load()
    return runtime


@pytest.mark.parametrize("name", ["xgboost2", "xgboost3", "lightgbm3", "lightgbm1", "catboost3"])
def test_a_served_model_of_trees_is_asked_for_its_contributions(models, tmp_path, name):
    model, rows = models[name]
    file = save(model, tmp_path)
    runtime = _load(name[:-1], file)
    try:
        found = explain(make("tree_shap", target=Served(runtime)), rows[:5])
    finally:
        runtime.close()
    own = explain(make("tree_shap", file=file), rows[:5])
    np.testing.assert_array_equal(found.data["shap_values"], own.data["shap_values"])
    np.testing.assert_array_equal(found.data["expected_value"], own.data["expected_value"])
    np.testing.assert_allclose(
        found.data["raw"]["raw_prediction"], own.data["raw"]["raw_prediction"], atol=1e-4
    )
    assert found.meta["library"] == name[:-1]


# ---- kernels ----


class Asked:
    """A target in process: a function that counts the rows it is asked about."""

    name = "iris"
    input_name = "x"
    output_name = "y"

    def __init__(self, predict):
        self.rows = 0
        self.metadata = ModelMetadata(
            inputs=[TensorMetadata("x", Datatype.FP64, [-1, -1])],
            outputs=[TensorMetadata("y", Datatype.FP64, [-1, -1])],
        )
        self._predict = predict

    def predict(self, rows):
        self.rows += len(rows)
        return self._predict(rows)


@pytest.fixture(scope="session")
def classifier():
    return LogisticRegression(max_iter=2000).fit(IRIS.data, IRIS.target)


def test_kernel_values_are_shaps_own_and_add_up(classifier):
    background, rows = IRIS.data[::10], IRIS.data[20:24]
    target = Asked(classifier.predict_proba)
    engine = make("kernel_shap", target=target, reference=background)
    asked = target.rows
    found = explain(engine, rows)
    assert target.rows > asked
    direct = shap.KernelExplainer(classifier.predict_proba, background)
    for ours, theirs in zip(
        found.data["shap_values"], per_output(direct.shap_values(rows, silent=True)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found.data["expected_value"], direct.expected_value)
    np.testing.assert_allclose(sums(found), classifier.predict_proba(rows), atol=1e-9)
    assert found.data["raw"]["prediction"].tolist() == classifier.predict(rows).tolist()
    assert found.meta["library"] == "shap"


def test_a_seed_gives_a_row_the_same_values_alone_and_among_others():
    model = LogisticRegression(max_iter=9000).fit(CANCER.data, CANCER.target)
    engine = make(
        "kernel_shap",
        target=Asked(lambda rows: model.predict_proba(rows)[:, 1]),
        reference=CANCER.data[::60],
        seed=7,
    )
    given = {"nsamples": 90}
    found = explain(engine, CANCER.data[:3], **given).data["shap_values"][0]
    again = explain(engine, CANCER.data[1:2], **given).data["shap_values"][0]
    np.testing.assert_array_equal(found[1], again[0])
    np.random.seed(7)
    direct = shap.KernelExplainer(lambda rows: model.predict_proba(rows)[:, 1], CANCER.data[::60])
    np.random.seed(7)
    theirs = direct.shap_values(CANCER.data[1:2], silent=True, **given)
    np.testing.assert_array_equal(again, theirs)


@needs_alibi
def test_kernel_values_are_alibis_own_too(classifier):
    from alibi.explainers import KernelShap

    background, rows = IRIS.data[::10], IRIS.data[20:24]
    given = {"target": Asked(classifier.predict_proba), "reference": background}
    by_shap = explain(make("kernel_shap", **given), rows)
    by_alibi = explain(make("kernel_shap", library="alibi", **given), rows)
    direct = KernelShap(classifier.predict_proba).fit(background).explain(rows, silent=True)
    for key in ("shap_values", "expected_value"):
        np.testing.assert_array_equal(by_alibi.data[key], direct.data[key])
        np.testing.assert_array_equal(by_shap.data[key], direct.data[key])
    assert set(by_shap.data) == set(direct.data)
    assert set(by_shap.data["raw"]) == set(direct.data["raw"])
    np.testing.assert_array_equal(
        by_shap.data["raw"]["prediction"], direct.data["raw"]["prediction"]
    )


def test_a_link_explains_logarithms_of_odds(classifier):
    engine = make(
        "kernel_shap",
        target=Asked(classifier.predict_proba),
        reference=IRIS.data[::10],
        init_parameters={"link": "logit"},
    )
    found = explain(engine, IRIS.data[60:63])
    chances = classifier.predict_proba(IRIS.data[60:63])
    np.testing.assert_allclose(sums(found), np.log(chances / (1 - chances)), atol=1e-7)


def test_groups_of_columns_have_one_value(classifier):
    engine = make(
        "kernel_shap",
        target=Asked(classifier.predict_proba),
        reference=IRIS.data[::10],
        fit_parameters={"groups": [[0, 1], [2, 3]], "group_names": ["sepal", "petal"]},
    )
    found = explain(engine, IRIS.data[60:63])
    assert [each.shape for each in found.data["shap_values"]] == [(3, 2)] * 3
    assert found.data["feature_names"] == ["sepal", "petal"]
    np.testing.assert_allclose(sums(found), classifier.predict_proba(IRIS.data[60:63]), atol=1e-9)


def test_a_large_background_can_be_made_smaller(classifier):
    target = Asked(classifier.predict_proba)
    engine = make(
        "kernel_shap",
        target=target,
        reference=IRIS.data,
        fit_parameters={"summarise_background": True, "n_background_samples": 5},
    )
    assert target.rows <= 15  # of centres, of which there are 5
    found = explain(engine, IRIS.data[:2])
    np.testing.assert_allclose(sums(found), classifier.predict_proba(IRIS.data[:2]), atol=1e-9)
    assert found.meta["params"]["summarise_background"] is True


# ---- bad input ----


def test_a_model_without_trees_is_refused(classifier, tmp_path):
    joblib.dump(classifier, file := tmp_path / "model.joblib")
    with pytest.raises(ModelLoadError, match=r"'model\.joblib' \(LogisticRegression\)"):
        make("tree_shap", file=file)
    with pytest.raises(ModelLoadError, match="does not compute SHAP values itself"):
        make("tree_shap", file=file, library="booster")
    joblib.dump(make_pipeline(StandardScaler(), classifier), file)
    with pytest.raises(ModelLoadError, match=r"Pipeline.*LogisticRegression.*kernel_shap"):
        make("tree_shap", file=file)


def test_a_target_without_contributions_is_refused(classifier):
    with pytest.raises(ModelLoadError, match=r"'iris' is no model of trees.*found 'y'"):
        make("tree_shap", target=Asked(classifier.predict_proba))


def test_a_file_that_is_missing_or_foreign_is_named(tmp_path):
    with pytest.raises(ModelLoadError, match=r"'none\.joblib' is missing in"):
        make("tree_shap", file=tmp_path / "none.joblib")
    with pytest.raises(ModelLoadError, match=r"name its file in 'parameters.extra.model'"):
        make("tree_shap", library="shap")
    with pytest.raises(ModelLoadError, match=r"'parameters.extra.target'"):
        make("tree_shap")
    np.save(file := tmp_path / "rows.npy", IRIS.data)
    with pytest.raises(ModelLoadError, match=r"'rows\.npy' is NumPy's array form; expected"):
        make("tree_shap", file=file)
    with pytest.raises(ModelLoadError, match="is a folder; expected"):
        make("tree_shap", file=tmp_path)


@pytest.mark.parametrize("name", ["forest3", "xgboost3", "lightgbm3", "catboost3"])
def test_a_damaged_file_is_refused(models, tmp_path, name):
    file = save(models[name][0], tmp_path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelLoadError, match=f"'{file.name}' can't be read"):
        make("tree_shap", file=file)


def test_rows_of_another_width_are_refused_with_both(models, tmp_path):
    model, rows = models["forest3"]
    file = save(model, tmp_path)
    engine = make("tree_shap", file=file)
    assert list(engine.input.shape) == [-1, 4]
    with pytest.raises(InvalidRequestError, match=r"expected \[-1, 4\], found \[2, 3\]"):
        explain(engine, rows[:2, :3])
    with pytest.raises(ModelLoadError, match=r"rows \[-1, 4\].*found \[569, 30\]"):
        make("tree_shap", file=file, reference=CANCER.data)


def test_catboosts_classes_do_not_end_the_process(models, tmp_path):
    # shap reads such a model's leaves beyond their end, and the process may end with it
    model, rows = models["catboost3"]
    file = save(model, tmp_path)
    with pytest.raises(ModelLoadError, match=r"3 classes.*'booster'"):
        make("tree_shap", file=file, library="shap")
    with pytest.raises(ModelLoadError, match=r"3 classes.*'booster'"):
        make("tree_shap", file=file, reference=rows)


@pytest.mark.parametrize("library", ["shap", pytest.param("alibi", marks=needs_alibi)])
def test_a_bare_booster_with_classes_takes_no_background(models, tmp_path, library):
    # shap adds its trees up as if they were of one class, and says nothing
    model, rows = models["lightgbm3"]
    file = save(model, tmp_path)
    with pytest.raises(ModelLoadError, match="Booster of LightGBM with 3 classes"):
        make("tree_shap", file=file, reference=rows[::10], library=library)
    joblib.dump(model, file := tmp_path / "model.joblib")
    found = explain(make("tree_shap", file=file, reference=rows[::10]), rows[:3])
    np.testing.assert_allclose(sums(found), raw_of(model, rows[:3]), atol=1e-6)


@pytest.mark.skipif(READS_XGBOOST, reason="this shap reads XGBoost's models")
def test_what_shap_can_not_read_names_the_way_out(models, tmp_path):
    file = save(models["xgboost3"][0], tmp_path)
    with pytest.raises(ModelLoadError, match=r"'parameters.extra.library' to 'booster'"):
        make("tree_shap", file=file, library="shap")
    if alibi is not None:
        with pytest.raises(ModelLoadError, match=r"'parameters.extra.library' to 'booster'"):
            make("tree_shap", file=file, library="alibi")


class TestSettings:
    """Settings that do not fit."""

    TREES: ClassVar = [
        ({"init_parameters": {"model_output": "log_loss"}}, "'alibi'"),
        ({"init_parameters": {"modell": "raw"}}, "found 'modell'"),
        ({"init_parameters": {"task": "ranking"}}, "found 'ranking'"),
        ({"init_parameters": {"model_output": "probability"}}, "can't explain"),
    ]

    @pytest.mark.parametrize(("options", "match"), TREES)
    def test_of_trees(self, models, tmp_path, options, match):
        file = save(models["forest3"][0], tmp_path)
        with pytest.raises(ModelLoadError, match=match):
            make("tree_shap", file=file, **options)

    def test_a_booster_takes_no_reference(self, models, tmp_path):
        model, rows = models["lightgbm3"]
        with pytest.raises(ModelLoadError, match="without reference data"):
            make("tree_shap", file=save(model, tmp_path), reference=rows, library="booster")

    KERNELS: ClassVar = [
        ({"init_parameters": {"link": "log"}}, "found 'log'"),
        ({"fit_parameters": {"groups": [[0, 1], [2]]}}, "groups of 3 places"),
        ({"fit_parameters": {"groups": [[0, 1], [1, 2, 3]]}}, "groups of 5 places"),
        ({"fit_parameters": {"weights": [1.0, 2.0]}}, "expected 15"),
        ({"library": "booster"}, "'tree_shap'"),
    ]

    @pytest.mark.parametrize(("options", "match"), KERNELS)
    def test_of_kernels(self, classifier, options, match):
        target = Asked(classifier.predict_proba)
        with pytest.raises(ModelLoadError, match=match):
            make("kernel_shap", target=target, reference=IRIS.data[::10], **options)

    def test_what_a_kernel_needs(self, classifier):
        with pytest.raises(ModelLoadError, match=r"'parameters\.extra\.reference'"):
            make("kernel_shap", target=Asked(classifier.predict_proba))
        with pytest.raises(ModelLoadError, match=r"'parameters\.extra\.target'"):
            make("kernel_shap", reference=IRIS.data)
        names = np.array(IRIS.target_names, object)
        target = Asked(lambda rows: names[classifier.predict(rows)])
        with pytest.raises(ModelLoadError, match="'predict_proba'"):
            make("kernel_shap", target=target, reference=IRIS.data[::10])


def test_interactions_with_a_background_are_the_callers_error(models, tmp_path):
    model, rows = models["forest3"]
    engine = make("tree_shap", file=save(model, tmp_path), reference=rows[::10])
    with pytest.raises(InvalidRequestError, match="interactions"):
        explain(engine, rows[:2], interactions=True)


def test_a_number_of_trees_that_there_are_not_is_refused(models, tmp_path):
    model, rows = models["xgboost3"]
    engine = make("tree_shap", file=save(model, tmp_path))
    with pytest.raises(InvalidRequestError, match="1 to 15"):
        explain(engine, rows[:2], tree_limit=16)
