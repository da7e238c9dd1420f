"""ONNX models, made when a test needs them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: An opset and a form that all supported releases of ONNX Runtime read.
OPSET, IR_VERSION = 17, 9


def save(file, nodes, inputs, outputs, weights=()):
    """Write a model; an input or output is (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return file


def classifier(file, rows="rows"):
    """A softmax over three classes, and the class that has most."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(4, 3)).astype("f4"), "b": np.zeros(3, dtype="f4")}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    inputs = [("x", TensorProto.FLOAT, [rows, 4])]
    outputs = [
        ("label", TensorProto.INT64, [rows]),
        ("probabilities", TensorProto.FLOAT, [rows, 3]),
    ]
    return save(file, nodes, inputs, outputs, weights)


def two_inputs(file):
    """Numbers scaled by a factor each, and a switch."""
    nodes = [
        helper.make_node("Mul", ["numbers", "factors"], ["scaled"]),
        helper.make_node("Where", ["switch", "scaled", "numbers"], ["result"]),
    ]
    inputs = [
        ("numbers", TensorProto.DOUBLE, ["n", 2]),
        ("factors", TensorProto.DOUBLE, ["n", 1]),
        ("switch", TensorProto.BOOL, ["n", 1]),
    ]
    return save(file, nodes, inputs, [("result", TensorProto.DOUBLE, ["n", 2])])


def text(file):
    """The text that comes in."""
    nodes = [helper.make_node("Identity", ["text"], ["same"])]
    string = TensorProto.STRING
    return save(file, nodes, [("text", string, ["n"])], [("same", string, ["n"])])


def with_mapping(file, *, alone=False):
    """Probabilities, and the list of mappings that converters add."""
    nodes = [
        helper.make_node(
            "ZipMap", ["x"], ["mapping"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]
        ),
    ]
    graph_outputs = [helper.make_value_info("mapping", _mapping())]
    if not alone:
        nodes.append(helper.make_node("Identity", ["x"], ["same"]))
        shape = ["n", 2]
        graph_outputs.append(helper.make_tensor_value_info("same", TensorProto.FLOAT, shape))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])]
    graph = helper.make_graph(nodes, "made", inputs, graph_outputs)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = IR_VERSION
    onnx.save(model, file)
    return file


def _mapping():
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    return helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, value))
