"""What is special to Spark: artifacts, columns and their types, refusals, MLServer's settings."""

from __future__ import annotations

import json
import logging
import shutil

import msgspec
import numpy as np
import pytest
from pyspark.ml import Pipeline
from pyspark.ml import feature as fea
from pyspark.ml import regression as reg

from jackfield import (
    Datatype,
    InferRequest,
    InvalidRequestError,
    ModelContext,
    ModelLoadError,
    ModelSettings,
    RemoteRequestError,
    RequestedOutput,
    Tensor,
)
from jackfield.client import Client
from jackfield_mllib import MllibOptions
from jackfield_mllib._artifact import read
from jackfield_mllib._runtime import MllibRuntime

logger = logging.getLogger("jackfield.test")


def make(artifact, *, implementation="mllib", inputs=(), **options):
    return MllibRuntime(
        ModelContext(
            name="model",
            version="",
            artifact=artifact,
            settings=ModelSettings(implementation=implementation, inputs=list(inputs)),
            options=msgspec.convert(options, MllibOptions),
            logger=logger,
        )
    )


@pytest.fixture
def load(spark):
    """Load models as the core does, and close them."""
    made = []

    def start(artifact, **options):
        runtime = make(artifact, **options)
        runtime.load()
        made.append(runtime)
        return runtime

    yield start
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def held(spark, trained):
    """Models that several tests ask."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = make(trained[name].artifact, **trained[name].options)
            made[name].load()
        return made[name]

    yield get
    for each in made.values():
        each.close()


def ask(runtime, tensors, *outputs):
    inputs = [
        each if isinstance(each, Tensor) else Tensor.from_array(*each)
        for each in (tensors.items() if isinstance(tensors, dict) else tensors)
    ]
    request = InferRequest(inputs, [RequestedOutput(each) for each in outputs])
    return {each.name: each for each in runtime.infer(request).outputs}


def refused(runtime, tensors):
    with pytest.raises(InvalidRequestError) as error:
        ask(runtime, tensors)
    text = str(error.value)
    assert "\tat " not in text
    assert "org.apache" not in text
    assert "\n" not in text
    return text


ONE = {
    "age": np.array([31.0]),
    "fare": np.array([20.0]),
    "port": ["Cherbourg"],
    "deck": np.array([3], "i4"),
    "alone": np.array([True]),
}


# ---- what the stages tell ----


def test_columns_are_those_that_no_stage_makes_with_types_of_those_that_read_them(held):
    told = {each.name: each for each in held("passengers").metadata().inputs}
    types = {name: each.parameters["spark_type"] for name, each in told.items()}
    assert types == {
        "age": "double",
        "port": "string",
        "fare": "double",
        "deck": "int",
        "alone": "boolean",
    }
    assert told["port"].datatype is Datatype.BYTES
    assert sorted(told["port"].parameters["categories"]) == [
        "Cherbourg",
        "Queenstown",
        "Southampton",
    ]
    assert told["deck"].datatype is Datatype.INT32
    # the imputer takes what is missing, the assembler does not
    assert "nullable" not in told["age"].parameters
    assert told["fare"].parameters["nullable"] is False


def test_the_column_of_labels_is_not_asked_for(held):
    assert [each.name for each in held("iris").metadata().inputs] == [
        "sepal_length",
        "sepal_width",
        "petal_length",
        "petal_width",
    ]
    assert [each.name for each in held("formula").metadata().inputs] == ["port", "fare", "deck"]


def test_a_vector_is_one_tensor_of_the_width_that_the_model_knows(held):
    (told,) = held("logistic").metadata().inputs
    assert (told.name, told.datatype, list(told.shape)) == ("features", Datatype.FP64, [-1, 30])
    outputs = {each.name: list(each.shape) for each in held("logistic").metadata().outputs}
    assert outputs["probability"] == [-1, 2]
    assert outputs["prediction"] == [-1]


def test_the_metadata_tell_class_stages_versions_and_the_route(held):
    told = held("iris").metadata().parameters
    assert told["class"] == "org.apache.spark.ml.PipelineModel"
    assert told["stages"][-1] == "org.apache.spark.ml.feature.IndexToString"
    assert told["saved_by_version"] == told["spark_version"]
    assert told["route"] in ("gateway", "dataframe")
    assert told["route_reason"]


def test_the_operators_types_and_outputs_go_before_what_is_found(load, trained):
    runtime = load(
        trained["iris"].artifact,
        schema={"sepal_length": "float"},
        outputs=["flower", "probability"],
    )
    told = {each.name: each.datatype for each in runtime.metadata().inputs}
    assert told["sepal_length"] is Datatype.FP32
    default = [
        each.name for each in runtime.metadata().outputs if not each.parameters.get("on_request")
    ]
    assert default == ["flower", "probability"]
    with pytest.raises(ModelLoadError, match=r"'iris'.*the model adds 'raw_features'"):
        load(trained["iris"].artifact, outputs=["iris"])
    with pytest.raises(ModelLoadError, match=r"'sepal_length' is 'money'; expected vector"):
        load(trained["iris"].artifact, schema={"sepal_length": "money"})


def test_a_stage_of_sql_needs_the_operators_word(load, trained):
    with pytest.raises(ModelLoadError, match=r"SQLTransformer.*parameters\.extra\.schema"):
        load(trained["free"].artifact)


def test_a_load_warns_of_nothing_that_is_usual(load, trained, spark, caplog):
    caplog.set_level(logging.DEBUG, "jackfield.spark")
    load(trained["iris"].artifact)
    # the JVM's log comes by a thread
    spark._jvm.java.lang.System.err.println("that was all")
    while "that was all" not in caplog.text:
        pass
    assert "Skip StringIndexerModel" in caplog.text
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert not [each for each in warnings if "StringIndexerModel" in each]


# ---- MLServer's settings ----


def test_mlservers_settings_answer_predict_in_fp32(trained, serve, tmp_path):
    settings = {
        "name": "mllib",
        "implementation": "mlserver-mllib.MLlibModel",
        "parameters": {"uri": str(trained["logistic"].artifact), "format": "LogisticRegression"},
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    with Client(serve(tmp_path).http) as client:
        model = client.model("mllib")
        told = model.metadata().outputs[0]
        assert (told.name, told.datatype, list(told.shape)) == ("predict", Datatype.FP32, [-1, 1])
        rows = trained["logistic"].request(4).inputs[0].array
        found = model.infer(InferRequest([Tensor.from_array("predict", rows)]))
        assert found["predict"].dtype == np.float32
        assert found["predict"].shape == (4, 1)


# ---- requests that don't fit ----


def test_a_missing_and_an_unknown_column_are_named(held):
    rest = {name: each for name, each in ONE.items() if name != "fare"}
    text = refused(held("passengers"), {**rest, "price": np.array([1.0])})
    assert "'fare'" in text
    assert "'price'" in text


def test_a_column_of_another_type_is_named_with_both_types(held):
    text = refused(held("passengers"), {**ONE, "fare": ["much"]})
    assert "numeric" in text
    assert "'fare'" in text
    assert "BYTES" in text
    text = refused(held("passengers"), {**ONE, "port": np.array([1.0])})
    assert "BYTES for 'port'" in text
    assert "FP64" in text


def test_a_text_that_no_indexer_was_trained_with_is_named(held):
    text = refused(held("passengers"), {**ONE, "port": ["Oslo"]})
    assert "'Oslo'" in text
    assert "'port'" in text
    assert "Cherbourg" in text


def test_a_missing_value_is_taken_where_a_stage_takes_it(held):
    runtime = held("passengers")
    missing = Tensor.from_array("age", ["null"], parameters={"content_type": "pd_json"})
    rest = [Tensor.from_array(*each) for each in ONE.items() if each[0] != "age"]
    by_null = ask(runtime, [missing, *rest], "age_known", "prediction")
    by_nan = ask(runtime, {**ONE, "age": np.array([np.nan])}, "age_known", "prediction")
    assert by_null["age_known"].array.tolist() == by_nan["age_known"].array.tolist()
    assert np.isfinite(by_nan["age_known"].array).all()
    assert "'fare'" in refused(runtime, {**ONE, "fare": np.array([np.nan])})


def test_a_whole_number_is_not_a_part_of_one(held):
    text = refused(held("ratings"), {"user": np.array([1.5]), "item": np.array([1], "i4")})
    assert "whole number" in text
    assert "'user'" in text
    assert "1.5" in text


def test_a_value_that_a_stage_refuses_is_sparks_own_text(held):
    text = refused(held("passengers"), {**ONE, "fare": np.array([-5.0])})
    assert "-5.0" in text
    assert "Bucketizer" in text


@pytest.mark.parametrize("array", [np.zeros((2, 29)), np.zeros((1, 2, 30)), np.zeros(29)])
def test_a_vector_of_another_width_is_refused_with_both(held, array):
    text = refused(held("logistic"), {"features": array})
    assert "30" in text
    assert str(list(array.shape)) in text


def test_topics_are_of_counts(held):
    """Of others Spark need not come to an end."""
    text = refused(held("topics"), {"features": np.array([[1.0, 0, 2, 3], [-1, -1, -1, -1]])})
    assert "inputs[0].data[4]" in text
    assert "0 or more" in text
    assert "'features'" in text


def test_a_text_is_no_vector(held):
    assert "FP64" in refused(held("logistic"), {"features": ["a", "b"]})


def test_one_row_may_come_without_its_dimension(held):
    assert ask(held("logistic"), {"x": np.ones(30)})["prediction"].shape == (1,)


def test_lists_of_texts_come_as_json_or_as_a_matrix(held):
    runtime = held("meaning")
    cells = Tensor.from_array("words", ['["wave","sail"]'], parameters={"content_type": "pd_json"})
    one = ask(runtime, [cells])["meaning"].array
    two = ask(runtime, [Tensor.from_array("words", [["wave", "sail"]])])["meaning"].array
    assert one.tobytes() == two.tobytes()
    text = refused(runtime, [Tensor.from_array("words", ["wave"])])
    assert "a list of texts in JSON for 'words'" in text


def test_rows_that_a_stage_drops_are_refused_not_left_out(load, spark, tmp_path):
    table = spark.createDataFrame([(float(place), 1.0) for place in range(8)], ["x", "label"])
    pipeline = Pipeline(
        stages=[
            fea.Bucketizer(
                inputCol="x", outputCol="b", splits=[0.0, 4.0, 8.0], handleInvalid="skip"
            ),
            fea.VectorAssembler(inputCols=["b"], outputCol="features"),
            reg.LinearRegression(maxIter=2),
        ]
    )
    pipeline.fit(table).save(str(tmp_path / "model"))
    runtime = load(tmp_path / "model", schema={"x": "double"}, route="dataframe")
    assert ask(runtime, {"x": np.array([1.0, 5.0])})["prediction"].shape == (2,)
    # the bucketizer skips what is missing; here by the runtime's own look
    assert "'x'" in refused(runtime, {"x": np.array([1.0, np.nan])})


@pytest.mark.parametrize("route", ["auto", "dataframe"])
def test_a_row_that_is_dropped_is_named(load, trained, tmp_path, route):
    model = trained["ratings"].framework().setColdStartStrategy("drop")
    model.write().save(str(tmp_path / "model"))
    runtime = load(tmp_path / "model", route=route)
    user = np.array([3, 99, 1], "i4")
    text = refused(runtime, {"user": user, "item": np.array([1, 1, 2], "i4")})
    assert "row 1, which it drops" in text
    kept = ask(runtime, {"user": user[[0, 2]], "item": np.array([1, 2], "i4")})
    assert np.isfinite(kept["prediction"].array).all()


def test_a_refusal_reaches_callers_as_a_400_of_one_line(trained, serve):
    with Client(serve(trained["passengers"].folder).http) as client:
        tensors = [Tensor.from_array(*each) for each in {**ONE, "fare": np.array([-1.0])}.items()]
        with pytest.raises(RemoteRequestError) as error:
            client.model("passengers").infer(InferRequest(tensors))
        assert "\tat " not in str(error.value)
        assert "Bucketizer" in str(error.value)


# ---- folders that can't be served; these need no Spark ----


def saved(folder, name="Model", *, version="4.0.0", data=True, **told):
    (folder / "metadata").mkdir(parents=True)
    told = {"class": name, "uid": "uid_1", "sparkVersion": version, "paramMap": {}, **told}
    (folder / "metadata" / "part-00000").write_text(json.dumps(told))
    if data:
        (folder / "data").mkdir()
        (folder / "data" / "part-00000.parquet").write_bytes(b"PAR1")
        (folder / "data" / "_SUCCESS").touch()
    return folder


LINEAR = "org.apache.spark.ml.regression.LinearRegressionModel"


@pytest.mark.parametrize("version", ["2.4.8", "3.5.1", "4.0.0"])
def test_the_description_of_each_version_is_read(tmp_path, version):
    found = read(saved(tmp_path / "m", LINEAR, version=version), logger)
    assert (found.kind, found.spark_version) == ("LinearRegressionModel", version)
    inner = tmp_path / "m" / "metadata" / "part-00000"
    assert read(inner, logger).folder == tmp_path / "m"


def test_a_newer_spark_is_named_with_both_versions(tmp_path):
    folder = saved(tmp_path / "m", LINEAR, version="99.1.0")
    with pytest.raises(ModelLoadError, match=r"saved by Spark 99\.1\.0.*pyspark>=99"):
        read(folder, logger)


def test_a_newer_minor_version_is_warned_of(tmp_path, caplog):
    read(saved(tmp_path / "m", LINEAR, version="4.99.0"), logger)
    assert "4.99.0" in caplog.text


@pytest.mark.parametrize(
    "name", ["Pipeline", "regression.LinearRegression", "tuning.CrossValidator"]
)
def test_an_estimator_is_not_fitted(tmp_path, name):
    folder = saved(tmp_path / "m", f"org.apache.spark.ml.{name}", data=False)
    with pytest.raises(ModelLoadError, match="is not fitted; save what its fit returns"):
        read(folder, logger)


def test_an_evaluator_transforms_nothing(tmp_path):
    name = "org.apache.spark.ml.evaluation.RegressionEvaluator"
    with pytest.raises(ModelLoadError, match="transforms no rows"):
        read(saved(tmp_path / "m", name, data=False), logger)


def test_a_class_of_others_is_named_with_what_to_install(tmp_path):
    name = "com.example.spark.FancyModel"
    with pytest.raises(ModelLoadError, match=r"com\.example\.spark\.FancyModel.*spark\.jars"):
        read(saved(tmp_path / "m", name), logger)


def test_a_folder_that_was_cut_off_says_so(tmp_path):
    with pytest.raises(ModelLoadError, match="has no data"):
        read(saved(tmp_path / "a", LINEAR, data=False), logger)
    folder = saved(tmp_path / "b", LINEAR)
    (folder / "data" / "_SUCCESS").unlink()
    with pytest.raises(ModelLoadError, match="'data' has no '_SUCCESS'"):
        read(folder, logger)
    with pytest.raises(ModelLoadError, match="no 'metadata/part-00000'"):
        read(tmp_path, logger)
    (folder / "metadata" / "part-00000").write_text("{")
    with pytest.raises(ModelLoadError, match="is not what Spark writes"):
        read(folder, logger)
    with pytest.raises(ModelLoadError, match="name its folder"):
        read(None, logger)


def test_a_pipeline_without_one_of_its_stages_says_which(trained, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(trained["iris"].artifact, copy)
    stage = next((copy / "stages").glob("3_*"))
    shutil.rmtree(stage)
    with pytest.raises(ModelLoadError, match=f"lacks the stage '{stage.name[2:]}', one of 5"):
        read(copy, logger)
