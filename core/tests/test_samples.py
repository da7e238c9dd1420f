"""What a model has to answer before it serves: samples that warm it up, and golden ones."""

import asyncio
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, strategies
from hypothesis.extra import numpy as arrays

from jackfield import (
    InferRequest,
    InferResponse,
    ModelLoadError,
    ModelNotReadyError,
    Server,
    Tensor,
)
from jackfield._cli import cli
from jackfield._plugins import discover
from jackfield._repository import Repository
from jackfield._samples import (
    Sample,
    Tolerance,
    _differ,
    read_sample,
    sample_files,
    write_sample,
)

CODE = """
import numpy as np
from jackfield import Capabilities, Datatype, InferResponse, ModelMetadata, Tensor, TensorMetadata
import stage

class Affine:
    def __init__(self, context):
        self.extra = context.settings.parameters.extra

    def load(self):
        pass

    def metadata(self):
        x = TensorMetadata("x", Datatype.FP64, [-1])
        return ModelMetadata(inputs=[x])

    def infer(self, request):
        x = request.inputs[0].array
        stage.log.append(x.tolist())
        if (x < 0).any():
            raise ValueError("a negative number")
        y = x * self.extra.get("factor", 2) + self.extra.get("offset", 0)
        return InferResponse([
            Tensor.from_array("y", y),
            Tensor.from_array("rounded", y.round().astype("i8")),
            Tensor.from_array("text", [self.extra.get("text", "same")]),
        ])

    def close(self):
        stage.log.append("close")

class Remembering(Affine):
    capabilities = Capabilities(stateful=True)
"""


@pytest.fixture
def add(add_model, stage):
    """Write a model, and samples beside it by their path."""

    def make(kind="Affine", *, samples=None, **settings):
        place = add_model("m", kind, code=CODE, **settings)
        for name, content in (samples or {}).items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(json.dumps(content))
        return place

    return make


def request(*values):
    x = {"name": "x", "shape": [len(values)], "datatype": "FP64", "data": list(values)}
    return {"inputs": [x]}


def golden(values, **outputs):
    """Make a golden sample; an output is given by its datatype and data."""
    tensors = [
        {"name": name, "shape": [len(data)], "datatype": datatype, "data": data}
        for name, (datatype, data) in outputs.items()
    ]
    return {"request": request(*values), "response": {"model_name": "m", "outputs": tensors}}


async def reason(server):
    [line] = await server.index()
    return line.reason


# ---- warm-up ----


@pytest.mark.parametrize(("warm_up", "count"), [(True, 1), (3, 3), (False, 0), (0, 0)])
async def test_examples_of_the_metadata_warm_up(add, models_dir, stage, warm_up, count):
    add(warm_up=warm_up)
    async with Server([models_dir], plugins=()) as server:
        assert stage.log == [[0.0]] * count
        assert server.model("m").statistics.success_count == 0
        assert server.model("m").statistics.execution_count == 0


async def test_declared_samples_warm_up_in_their_order(add, models_dir, stage):
    samples = {"b.json": request(1), "a.json": request(2)}
    more = {"more/2.json": request(4), "more/1.json": golden([3], y=("FP64", [99]))}
    add(warm_up=["b.json", "a.json", "more"], samples=samples | more)
    async with Server([models_dir], plugins=()):
        # of what is golden, too, only the request
        assert stage.log == [[1.0], [2.0], [3.0], [4.0]]


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        ({"a.json": request(-1)}, "warm-up sample 'a' failed: ValueError: a negative number"),
        ({"a.json": {"inputs": 1}}, "sample 'a.json': .*inputs"),
        ({"a.json": {"request": request(1), "respons": 1}}, "respons: expected no such field"),
        ({"a.json": [1]}, "sample 'a.json'"),
        ({"a.json": {"request": {"inputs": []}}}, "sample 'a.*inputs.*"),
        ({}, "warm_up: there is no 'a.json' beside the model"),
    ],
)
async def test_a_warm_up_that_fails_is_a_load_that_fails(add, models_dir, stage, samples, problem):
    add()
    async with Server([models_dir], plugins=()) as server:
        add(warm_up=["a.json"], samples=samples)
        with pytest.raises(ModelNotReadyError, match=problem):
            await server._models.load("m")
        assert stage.log[-1] == "close"
        response = await server.model("m").infer(x=[1.0])
        assert response.arrays["y"].tolist() == [2.0]


async def test_a_sample_that_is_no_text_is_told(add, models_dir):
    place = add(warm_up=["a.json"])
    (place / "a.json").write_bytes(b'{"inputs": "\xff"')
    async with Server([models_dir], plugins=()) as server:
        assert "sample 'a.json' can't be read" in await reason(server)


async def test_a_model_that_declares_nothing_needs_files_to_warm_up(add_model, models_dir):
    add_model("m", "Echo", warm_up=True)
    async with Server([models_dir], plugins=()) as server:
        assert "warm_up: no example can be made of its inputs" in await reason(server)


async def test_a_model_that_remembers_is_shown_no_sample(add, models_dir, stage):
    add("Remembering", warm_up=True)
    async with Server([models_dir], plugins=()) as server:
        assert "it remembers what it is asked" in await reason(server)
    assert stage.log == ["close"]


# ---- golden ----


async def test_a_model_that_answers_as_it_should_replaces_the_old(add, models_dir, stage):
    right = golden([1, 2], y=("FP64", [3, 6]), rounded=("INT64", [3, 6]), text=("BYTES", ["same"]))
    add()
    async with Server([models_dir], plugins=()) as server:
        add(samples={"golden/one.json": right}, extra={"factor": 3})
        await server._models.load("m")
        response = await server.model("m").infer(x=[1.0])
        assert response.arrays["y"].tolist() == [3.0]


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        (
            {"y": ("FP64", [2, 5])},
            "output 'y' at [1]: expected 5.0, found 4.0 (rtol 1e-07, atol 1e-09)",
        ),
        (
            {"y": ("FP64", [1, 5])},
            "output 'y' at [0]: expected 1.0, found 2.0 (rtol 1e-07, atol 1e-09); "
            "2 of 2 elements differ",
        ),
        ({"rounded": ("INT64", [2, 5])}, "output 'rounded' at [1]: expected 5, found 4"),
        ({"text": ("BYTES", ["other"])}, "output 'text' at [0]: expected b'other', found b'same'"),
        ({"y": ("FP64", [2])}, "output 'y': expected FP64 [1], found FP64 [2]"),
        ({"y": ("FP32", [2, 4])}, "output 'y': expected FP32 [2], found FP64 [2]"),
        ({"z": ("FP64", [1])}, "output 'z' is missing; there is y, rounded, text"),
    ],
)
async def test_an_answer_that_differs_keeps_the_old_and_tells_all(
    add, models_dir, stage, outputs, problem
):
    add(extra={"factor": 7})
    async with Server([models_dir], plugins=()) as server:
        add(samples={"golden/first.json": golden([1, 2], **outputs)})
        with pytest.raises(ModelNotReadyError) as caught:
            await server._models.load("m")
        told = f"model 'm' is not ready: failed to load: golden sample 'first': {problem}"
        assert str(caught.value) == told
        assert stage.log == [[1.0, 2.0], "close"]
        response = await server.model("m").infer(x=[1.0])
        assert response.arrays["y"].tolist() == [7.0]


async def test_a_model_in_a_process_of_its_own_is_held_to_its_answers(add_model, models_dir):
    folder = add_model("m", scheduler="process", warm_up=2)
    (folder / "golden").mkdir()
    async with Server([models_dir], plugins=()) as server:
        (folder / "golden" / "a.json").write_text(json.dumps(golden([1], y=("FP64", [3]))))
        with pytest.raises(ModelNotReadyError, match=r"'y' at \[0\]: expected 3\.0, found 2\.0"):
            await server._models.load("m")
        (folder / "golden" / "a.json").write_text(json.dumps(golden([1], y=("FP64", [2]))))
        await server._models.load("m")
        response = await server.model("m").infer(x=[1.0])
        assert response.arrays["y"].tolist() == [2.0]


async def test_a_sample_says_what_it_tolerates(add, models_dir):
    sample = golden([100], y=("FP64", [201]), rounded=("INT64", [203]))
    tolerances = {"y": {"rtol": 0.005}, "rounded": {"atol": 3}}
    add(samples={"golden/a.json": {**sample, "tolerances": tolerances}})
    async with Server([models_dir], plugins=()) as server:
        assert await reason(server) == ""
        tolerances["y"]["rtol"] = 0.0049
        add(samples={"golden/a.json": {**sample, "tolerances": tolerances}})
        with pytest.raises(ModelNotReadyError, match=r"expected 201\.0, found 200\.0"):
            await server._models.load("m")


async def test_at_the_start_a_model_that_answers_otherwise_is_not_served(add, models_dir):
    add(samples={"golden/a.json": golden([1], y=("FP64", [5]))})
    async with Server([models_dir], plugins=()) as server:
        assert "golden sample 'a': output 'y' at [0]" in await reason(server)
        with pytest.raises(ModelNotReadyError):
            server.model("m")


@pytest.mark.parametrize(("folder", "is_ready"), [("", True), ("held", False), ("missing", False)])
async def test_the_folder_is_a_setting(add, models_dir, folder, is_ready):
    wrong = golden([1], y=("FP64", [5]))
    add(samples={"golden/a.json": wrong, "held/a.json": wrong}, golden=folder)
    async with Server([models_dir], plugins=()) as server:
        [line] = await server.index()
        assert (line.state == "READY") is is_ready
        if folder == "missing":
            assert "golden: there is no 'missing' beside the model" in line.reason


async def test_samples_that_may_not_be_listed_are_not_passed_over(add, models_dir, monkeypatch):
    add(samples={"golden/a.json": golden([1], y=("FP64", [2]))})

    iterdir = Path.iterdir

    def refuse(folder):
        if folder.name == "golden":
            raise PermissionError(13, "Permission denied", str(folder))
        return iterdir(folder)

    async with Server([models_dir], plugins=()) as server:
        # the rights of files don't hold back who runs tests as root
        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(ModelNotReadyError, match="can't be listed: Permission denied"):
            await server._models.load("m")


@pytest.mark.parametrize("name", ["n" * 5000, "n\0"])
async def test_a_name_that_no_file_can_have_is_that_models_problem(
    add, add_model, models_dir, name
):
    add(golden=name)
    add_model("double")
    async with Server([models_dir], plugins=()) as server:
        reasons = {line.name: line.reason for line in await server.index()}
        assert "golden: there is no 'n" in reasons["m"]
        assert reasons["double"] == ""
    sources = Repository([models_dir], discover(())).scan()
    assert [sample_files(source) for source in sources] == [[], []]


async def test_a_golden_sample_without_an_answer_is_refused(add, models_dir):
    add(samples={"golden/a.json": request(1)})
    async with Server([models_dir], plugins=()) as server:
        assert "golden sample 'a' has no 'response'" in await reason(server)


async def test_a_version_has_its_own_samples_before_those_of_all(add_reader, models_dir):
    add_reader("text", "*.txt")
    place = models_dir / "a"
    for version in ("1", "2"):
        (place / version).mkdir(parents=True)
        (place / version / "model.txt").write_text(version)
    (place / "model-settings.json").write_text("{}")
    for home, text in ((place, "1"), (place / "2", "2")):
        (home / "golden").mkdir()
        sample = golden([1], text=("BYTES", [text]))
        (home / "golden" / "a.json").write_text(json.dumps(sample))
    async with Server([models_dir]) as server:
        assert [line.state for line in await server.index()] == ["READY", "READY"]
        (place / "1" / "model.txt").write_text("2")
        with pytest.raises(ModelNotReadyError, match="expected b'1', found b'2'"):
            await server._models.load("a")


async def test_what_warms_up_comes_before_what_is_compared(add, models_dir, stage):
    samples = {"golden/a.json": golden([2], y=("FP64", [4])), "warm.json": request(1)}
    add(warm_up=["warm.json"], samples=samples)
    async with Server([models_dir], plugins=()):
        assert stage.log == [[1.0], [2.0]]


# ---- files ----

NUMBERS = [np.dtype(code) for code in ("?", "u1", "u8", "i2", "i8", "f4", "f8")]


@given(
    array=arrays.arrays(
        strategies.sampled_from(NUMBERS), arrays.array_shapes(min_dims=1, max_dims=3)
    ),
    texts=strategies.lists(strategies.binary(max_size=5), min_size=1),
)
def test_what_is_written_is_read_and_is_equal_to_itself(tmp_path_factory, array, texts):
    numbers = Tensor.from_array("n", array)
    tensors = [numbers, Tensor.from_array("t", texts)]
    file = tmp_path_factory.mktemp("samples") / "new" / "one.json"
    answer = InferResponse(tensors, {}, "m", "1", "id")
    write_sample(file, InferRequest([numbers], id="id"), answer)
    assert [path.name for path in file.parent.iterdir()] == ["one.json"]
    sample = read_sample(file, "m")
    [found] = sample.request.inputs
    assert (found.datatype, found.shape) == (numbers.datatype, numbers.shape)
    np.testing.assert_array_equal(found.array, numbers.array)
    assert _differ(sample, answer) == ""


@given(
    array=arrays.arrays(np.float64, 5, elements=strategies.floats(width=32)),
    at=strategies.integers(0, 4),
    data=strategies.data(),
)
def test_one_element_beyond_the_tolerance_is_found_wherever_it_is(array, at, data):
    wrong = array.copy()
    wrong[at] = data.draw(strategies.sampled_from([math.nan, math.inf, 1e300, 1.5, -1.5]))
    is_same = bool(np.isclose(wrong[at], array[at], rtol=0, atol=0.25, equal_nan=True))
    expected = InferResponse([Tensor.from_array("y", array)])
    sample = Sample("s", InferRequest([]), expected, {"y": Tolerance(atol=0.25)})
    problem = _differ(sample, InferResponse([Tensor.from_array("y", wrong)]))
    assert (problem == "") is is_same
    assert is_same or f"at [{at}]" in problem


def test_a_sample_is_replaced_at_once_or_not_at_all(tmp_path):
    tensor = Tensor.from_array("x", [1.0])
    file, asked = tmp_path / "one.json", InferRequest([tensor])
    write_sample(file, asked, InferResponse([tensor]))
    before = file.read_bytes()
    with file.open("rb") as reader:
        write_sample(file, asked, InferResponse([tensor, tensor]))
        assert reader.read() == before != file.read_bytes()
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OSError, match=r"folder\.json"):
        write_sample(tmp_path / "folder.json", asked, InferResponse([tensor]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.json", "one.json"]


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ModelLoadError, match=r"'none\.json' can't be read"):
        read_sample(tmp_path / "none.json", "m")


# ---- the command line ----


def run(*arguments):
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def test_recorded_answers_are_what_check_compares_with(add, models_dir, tmp_path, stage):
    place = add()
    file = tmp_path / "three.json"
    file.write_text(json.dumps(request(1, 2, 3)))
    recorded = run("golden", "record", models_dir, "--request", file, "--tolerance", "y=0.1,0.5")
    assert recorded.exit_code == 0, recorded.output
    assert recorded.output.split() == [str(place / "golden" / "three.json")]
    sample = json.loads((place / "golden" / "three.json").read_text())
    assert sample["request"] == request(1.0, 2.0, 3.0)
    assert sample["response"]["outputs"][0]["data"] == [2.0, 4.0, 6.0]
    assert sample["tolerances"] == {"y": {"rtol": 0.1, "atol": 0.5}}
    assert run("check", models_dir).exit_code == 0
    add(extra={"factor": 3})
    checked = run("check", models_dir, "--json")
    assert checked.exit_code == 1
    [line] = json.loads(checked.stdout)["models"]
    assert "golden sample 'three': output 'y' at [0]" in line["problem"]
    assert run("check", models_dir, "--no-load").exit_code == 0
    # the new answers are right: what there is of samples is recorded anew
    assert run("golden", "record", models_dir).exit_code == 0
    assert run("check", models_dir).exit_code == 0
    assert json.loads((place / "golden" / "three.json").read_text())["tolerances"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "no sample is in"),
        (["--model", "n"], "model 'n'"),
        (["--version", "7"], "version '7'"),
        (["--tolerance", "z=1", "--request", "FILE"], "there is no output 'z'"),
        (["--tolerance", "y"], "expected OUTPUT=RTOL"),
        (["--tolerance", "y=-1"], "expected OUTPUT=RTOL"),
        (["--to", "FILE", "--request", "FILE"], "is a file"),
    ],
)
def test_what_can_not_be_recorded_is_told(add, models_dir, tmp_path, stage, arguments, problem):
    add()
    file = tmp_path / "a.json"
    file.write_text(json.dumps(request(1)))
    given = [str(file) if each == "FILE" else each for each in arguments]
    result = run("golden", "record", models_dir, *given)
    assert result.exit_code != 0
    assert problem in result.output + str(result.exception)


async def test_an_answer_of_a_running_server_is_recorded(add, models_dir, tmp_path, running):
    place = add()
    file = tmp_path / "a.json"
    file.write_text(json.dumps(request(1)))
    async with running(models_dir) as server:
        target = place / "golden" / "a.json"
        arguments = (server.http, "--model", "m", "--input", file, "--record", target)
        result = await asyncio.to_thread(run, "infer", *arguments)
        assert result.exit_code == 0, result.output
        assert read_sample(target, "m").response.arrays["y"].tolist() == [2.0]
        await server.server._models.load("m")
