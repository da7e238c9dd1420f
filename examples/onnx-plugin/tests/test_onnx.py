"""What is special about ONNX models."""

import logging

import models
import numpy as np
import pytest
from jackfield_onnx_example import OnnxOptions, jackfield_runtimes
from jackfield_onnx_example._runtime import OnnxRuntime

from jackfield import (
    Datatype,
    InferRequest,
    InvalidRequestError,
    ModelContext,
    ModelLoadError,
    ModelSettings,
    Tensor,
    TensorMetadata,
)


@pytest.fixture
def load():
    """Load a model as the core does; close it at the end."""
    loaded = []

    def load(artifact, **options):
        context = ModelContext(
            name="model",
            version="",
            artifact=artifact,
            settings=ModelSettings(name="model"),
            options=OnnxOptions(**options),
            logger=logging.getLogger("onnx-example"),
        )
        runtime = OnnxRuntime(context)
        loaded.append(runtime)
        runtime.load()
        return runtime

    yield load
    for runtime in loaded:
        runtime.close()


@pytest.fixture
def classifier(tmp_path, load):
    return load(models.classifier(tmp_path / "model.onnx"))


def ask(runtime, **inputs):
    return runtime.infer(
        InferRequest([Tensor.from_array(name, array) for name, array in inputs.items()])
    )


def test_the_metadata_are_the_sessions(classifier):
    found = classifier.metadata()
    assert found.inputs == [TensorMetadata("x", Datatype.FP32, [-1, 4])]
    assert found.outputs == [
        TensorMetadata("label", Datatype.INT64, [-1]),
        TensorMetadata("probabilities", Datatype.FP32, [-1, 3]),
    ]


def test_the_answer_is_the_models(classifier):
    response = ask(classifier, x=np.eye(4, dtype="f4"))
    probabilities = response.output("probabilities").array
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert response.output("label").array.tolist() == probabilities.argmax(axis=1).tolist()


@pytest.mark.parametrize(("rows", "row_wise"), [("rows", True), (None, True), (3, False)])
def test_rows_are_independent_where_their_number_is_free(tmp_path, load, rows, row_wise):
    runtime = load(models.classifier(tmp_path / "model.onnx", rows=rows))
    assert runtime.capabilities.row_wise is row_wise


def test_the_operator_may_say_that_rows_are_not_independent(tmp_path, load):
    runtime = load(models.classifier(tmp_path / "model.onnx"), row_wise=False)
    assert runtime.capabilities.row_wise is False


def test_the_session_has_the_threads_of_the_option(tmp_path, load):
    runtime = load(models.classifier(tmp_path / "model.onnx"), intra_op_threads=2)
    assert runtime._session.get_session_options().intra_op_num_threads == 2


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "expected 'x', found none"),
        ({"x": np.zeros((1, 4), "f4"), "y": [1]}, "expected 'x', found 'x', 'y'"),
        ({"x": np.zeros((1, 4))}, "x.datatype: expected FP32, found FP64"),
        ({"x": np.zeros((1, 5), "f4")}, r"x.shape: expected \[-1, 4\], found \[1, 5\]"),
        ({"x": np.zeros(4, "f4")}, r"x.shape: expected \[-1, 4\], found \[4\]"),
    ],
)
def test_what_does_not_fit_is_the_callers_error(classifier, inputs, text):
    with pytest.raises(InvalidRequestError, match=text):
        ask(classifier, **inputs)


def test_sizes_that_disagree_are_the_callers_error(tmp_path, load):
    runtime = load(models.two_inputs(tmp_path / "model.onnx"))
    inputs = {"numbers": np.ones((2, 2)), "factors": np.ones((3, 1)), "switch": [[True], [True]]}
    with pytest.raises(InvalidRequestError, match=r"factors.shape: expected 2 as 'n'.*\[3, 1\]"):
        ask(runtime, **inputs)


def test_text_is_utf_8(tmp_path, load):
    runtime = load(models.text(tmp_path / "model.onnx"))
    response = ask(runtime, text=["grün", ""])
    assert response.output("same").array.tolist() == ["grün".encode(), b""]
    with pytest.raises(InvalidRequestError, match="text: expected text, found no UTF-8"):
        ask(runtime, text=[b"\xff"])


def test_an_output_that_is_no_tensor_is_left_out_and_told(tmp_path, load, caplog):
    runtime = load(models.with_mapping(tmp_path / "model.onnx"))
    assert [output.name for output in runtime.metadata().outputs] == ["same"]
    assert [output.name for output in ask(runtime, x=np.ones((1, 2), "f4")).outputs] == ["same"]
    assert "its output 'mapping' is seq(map(int64,tensor(float)))" in caplog.text


def test_a_model_without_a_tensor_to_send_is_refused(tmp_path, load):
    with pytest.raises(ModelLoadError, match="none of its outputs"):
        load(models.with_mapping(tmp_path / "model.onnx", alone=True))


def test_a_model_without_a_file_says_what_to_set(load):
    with pytest.raises(ModelLoadError, match=r"parameters\.uri"):
        load(None)


def test_the_plugin_is_found_by_its_hook():
    [spec] = jackfield_runtimes()
    assert spec.runtime == "jackfield_onnx_example._runtime:OnnxRuntime"
