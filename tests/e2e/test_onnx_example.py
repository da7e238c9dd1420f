"""Somebody else's plugin: its wheel beside the core's, served over REST and gRPC."""

import json
import struct
import subprocess
import sys

import httpx
import pytest
from tests.e2e.conftest import run
from tests.e2e.reflected import Reflected
from tests.serving import ROOT, run_jackfield, serving

TIMEOUT_S = 20.0
EXAMPLE = ROOT / "examples" / "onnx-plugin"
#: Makes a model of y = 2 x + 1 without anything but its format's library.
MAKE = """
import sys
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

nodes = [helper.make_node("Mul", ["x", "two"], ["t"]), helper.make_node("Add", ["t", "one"], ["y"])]
shape = ["rows", 2]
graph = helper.make_graph(
    nodes,
    "line",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    [numpy_helper.from_array(np.array(v, "f4"), n) for n, v in {"two": 2, "one": 1}.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
model.ir_version = 9
onnx.save(model, sys.argv[1])
"""


@pytest.fixture(scope="module")
def site(wheels, tmp_path_factory):
    """An environment with the core's wheel, the example's, and no other plugin."""
    folder = tmp_path_factory.mktemp("onnx")
    run(sys.executable, "-m", "venv", folder / "venv")
    bin_folder = folder / "venv" / "bin"
    pip = (bin_folder / "python", "-m", "pip")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, EXAMPLE)
    (wheel,) = folder.glob("jackfield_onnx_example-*.whl")
    run(*pip, "install", "--quiet", "--find-links", wheels, wheel, "onnx")
    return bin_folder


@pytest.fixture(scope="module")
def model(site, tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "line.onnx"
    run(site / "python", "-c", MAKE, file)
    return file


@pytest.fixture(scope="module")
def served(site, model):
    with serving(model, command=(site / "jackfield",)) as served:
        yield served


def test_the_plugin_is_listed_from_its_wheel(site):
    done = run_jackfield("plugins", "--json", command=(site / "jackfield",))
    (plugin,) = json.loads(done.stdout)
    assert (plugin["distribution"], plugin["problem"]) == ("jackfield-onnx-example", None)
    assert plugin["runtimes"][0]["frameworks"].keys() == {"onnxruntime"}
    assert "onnxruntime" not in plugin["imports"]


def test_its_model_is_told_and_served_over_rest(served):
    url = f"{served.http}/v2/models/line"
    metadata = httpx.get(url, timeout=TIMEOUT_S).json()
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    given = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [0, 1, 2, 3]}
    answer = httpx.post(f"{url}/infer", json={"inputs": [given]}, timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"] == [
        {"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [1, 3, 5, 7]}
    ]


def test_a_request_that_does_not_fit_is_answered_400_over_rest(served):
    given = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [0, 1, 2]}
    answer = httpx.post(
        f"{served.http}/v2/models/line/infer", json={"inputs": [given]}, timeout=TIMEOUT_S
    )
    assert answer.status_code == 400
    text = "model 'line': x.shape: expected [-1, 2], found [1, 3]"
    assert answer.json()["error"] == text


def test_its_model_is_served_over_grpc(served):
    with Reflected(served.grpc) as client:
        raw = struct.pack("<2f", 0.5, -1)
        request = client.request("ModelInfer", model_name="line", raw_input_contents=[raw])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        reply = client.call("ModelInfer", request)
        assert (reply.outputs[0].name, list(reply.outputs[0].shape)) == ("y", [1, 2])
        assert struct.unpack("<2f", reply.raw_output_contents[0]) == (2, -1)


def test_the_printed_request_works_as_printed(served):
    done = subprocess.run(
        served.curl, shell=True, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert json.loads(done.stdout)["outputs"][0]["data"] == [1, 1], done.stderr
