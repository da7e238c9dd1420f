"""Runtimes that break a promise, each caught by the test that has the promise's name.

The contract runs in a pytest of its own, as in a plugin: one class of tests for each faulty
runtime, and one for a runtime that keeps every promise.
"""

import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from jackfield.testing import RuntimeContract

PLUGIN = """
import msgspec
from jackfield import ArtifactFormat, Capabilities, RuntimeSpec

class Options(msgspec.Struct):
    scale: float = 1.0

def spec_of(name, **changes):
    return msgspec.structs.replace(
        RuntimeSpec(
            name="good",
            runtime=f"good_plugin._runtime:{name}",
            artifacts=(ArtifactFormat("*.npy"),),
            capabilities=Capabilities(row_wise=True, thread_safe=True),
            options=Options,
            frameworks=("numpy",),
        ),
        **changes,
    )
"""

RUNTIMES = """
import asyncio, ctypes, os, sys, threading, time
import numpy as np
from jackfield import *

KEPT = []
LEAKED = []

class Good:
    def __init__(self, context):
        self.context = context

    def load(self):
        self.weights = np.load(self.context.artifact, allow_pickle=False)

    def metadata(self):
        size = len(self.weights)
        return ModelMetadata(
            platform="good",
            inputs=[TensorMetadata("x", Datatype.FP64, [-1, size])],
            outputs=[
                TensorMetadata("y", Datatype.FP64, [-1]),
                TensorMetadata("z", Datatype.INT64, [-1, 1], {"on_request": True}),
            ],
        )

    def read(self, request):
        x = request.input("x").array
        if x.ndim != 2 or x.shape[1] != len(self.weights):
            raise InvalidRequestError("inputs[0].shape", expected="[-1, 3]", found=str(x.shape))
        return x

    def compute(self, x):
        return x @ self.weights

    def infer(self, request):
        y = self.compute(self.read(request))
        found = {
            "y": Tensor.from_array("y", y),
            "z": Tensor.from_array("z", np.rint(y).astype("i8")[:, None]),
        }
        return InferResponse([found[each.name] for each in request.outputs] or [found["y"]])

    def stream(self, request):
        for row in self.read(request):
            yield InferResponse([Tensor.from_array("y", self.compute(row[None]))])

    def close(self):
        self.weights = None

class Asynchronous(Good):
    async def infer(self, request):
        await asyncio.sleep(0)
        return Good.infer(self, request)

    async def stream(self, request):
        for response in Good.stream(self, request):
            await asyncio.sleep(0)
            yield response

class TellsProgress(Good):
    # slower there than here, so that it tells more often
    def stream(self, request):
        for response in Good.stream(self, request):
            for _ in range(1 if "pytest" in sys.modules else 5):
                yield InferResponse([], {"done": 0.5})
            yield response

class AsynchronouslyTellsProgress(TellsProgress, Asynchronous):
    async def stream(self, request):
        for response in TellsProgress.stream(self, request):
            await asyncio.sleep(0)
            yield response

class NoStream(Good):
    stream = None

class NoClose:
    def __init__(self, context):
        self.good = Good(context)
        self.load, self.metadata, self.infer = self.good.load, self.good.metadata, self.good.infer

class NamesTwice(Good):
    def metadata(self):
        found = Good.metadata(self)
        return ModelMetadata(platform="p", inputs=list(found.inputs) * 2, outputs=found.outputs)

class UnsendableMetadata(Good):
    def metadata(self):
        return ModelMetadata(platform="p", parameters={"weights": {1, 2}, "f": print})

class OtherDatatype(Good):
    def compute(self, x):
        return Good.compute(self, x).astype("f4")

class OtherShape(Good):
    def compute(self, x):
        return Good.compute(self, x)[:, None, None]

class AnswersAll(Good):
    def infer(self, request):
        outputs = [RequestedOutput("y"), RequestedOutput("z")]
        return Good.infer(self, InferRequest(request.inputs, outputs))

class OwnOrder(Good):
    def infer(self, request):
        response = Good.infer(self, request)
        return InferResponse(sorted(response.outputs, key=lambda each: each.name))

class FailsOnItsOwnMetadata(Good):
    def compute(self, x):
        if not x.any():
            raise RuntimeError("zeros")
        return Good.compute(self, x)

class WritesOnTheRequest(Good):
    def read(self, request):
        x = Good.read(self, request)
        ctypes.memset(x.ctypes.data, 0, 8)
        return x

class ComparesRows(Good):
    def compute(self, x):
        return Good.compute(self, x) - Good.compute(self, x).mean()

class FirstRowIsSpecial(Good):
    def compute(self, x):
        y = Good.compute(self, x)
        y[1:] += 1
        return y

class MergesSingles(Good):
    # wrong for lone rows only, and the example has two
    def compute(self, x):
        return Good.compute(self, x) + (len(x) == 1)

class FailsOnNothing(Good):
    def compute(self, x):
        return Good.compute(self, x) - x.max()

class SharesState(Good):
    def compute(self, x):
        self.state = x
        time.sleep(0)
        deadline = time.perf_counter() + 0.002
        while time.perf_counter() < deadline:
            time.sleep(0)
        return Good.compute(self, self.state)

class CrashesOnMissing(Good):
    def read(self, request):
        return {each.name: each.array for each in request.inputs}["x"]

class StaysBroken(Good):
    broken = 0
    def read(self, request):
        try:
            return Good.read(self, request)
        except InvalidRequestError:
            self.broken = 1
            raise
    def compute(self, x):
        return Good.compute(self, x) + self.broken

class EmptyStream(Good):
    def stream(self, request):
        return iter(())

class StreamOfOthers(Good):
    def stream(self, request):
        self.read(request)
        yield InferResponse([Tensor.from_array("surprise", [1])])

class StreamOfNumbers(Good):
    def stream(self, request):
        self.read(request)
        yield 1

class StreamKeepsTheLock(Good):
    busy = False
    def stream(self, request):
        x = self.read(request)
        if self.busy:
            return
        self.busy = True
        for row in x:
            yield InferResponse([Tensor.from_array("y", self.compute(row[None]))])
        self.busy = False

class StreamCrashesOnMissing(Good):
    def stream(self, request):
        x = {each.name: each.array for each in request.inputs}["x"]
        yield InferResponse([Tensor.from_array("y", self.compute(x))])

class UnsendableResponse(Good):
    def infer(self, request):
        return InferResponse(Good.infer(self, request).outputs, {"model": self})

class KnowsItsProcess(Good):
    def compute(self, x):
        return Good.compute(self, x) + os.getpid()

class StreamKnowsItsProcess(Good):
    def stream(self, request):
        yield InferResponse([Tensor.from_array("y", np.array([float(os.getpid())]))])

class OneAtATime(Good):
    current = []
    def load(self):
        Good.load(self)
        self.current[:] = [self]
    def close(self):
        for each in self.current:
            each.weights = None

class LoadsAnything(Good):
    def load(self):
        try:
            Good.load(self)
        except Exception:
            self.weights = np.ones(3)

class Registered(Good):
    def load(self):
        Good.load(self)
        KEPT.append(self)

class Leaks(Good):
    def load(self):
        Good.load(self)
        LEAKED.append(np.zeros(100_000))

def take_unseen(size):
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    ctypes.memset(library.malloc(ctypes.c_size_t(size)), 1, size)

class LeaksInALibrary(Good):
    def load(self):
        Good.load(self)
        take_unseen(8 << 20)

class GrowsOnce(Good):
    loads = 0
    def load(self):
        Good.load(self)
        GrowsOnce.loads += 1
        if GrowsOnce.loads % 10 == 0:
            take_unseen(64 << 20)

class LeavesAThread(Good):
    def load(self):
        Good.load(self)
        self.end = threading.Event()
        end = self.end
        threading.Thread(target=lambda: end.wait(4), name="left").start()
"""

TESTS = """
import msgspec
import numpy as np
import pytest
from jackfield import *
from jackfield.testing import RuntimeContract
from good_plugin import spec_of

class Contract(RuntimeContract):
    name = "Good"
    changes = {{}}

    @pytest.fixture
    def spec(self):
        return spec_of(self.name, **self.changes)

    @pytest.fixture
    def model_dir(self, tmp_path):
        np.save(tmp_path / "model.npy", np.array([1.0, -2.0, 3.0]))
        return tmp_path

    @pytest.fixture
    def example(self):
        return InferRequest([Tensor.from_array("x", [[1.0, 2.0, 3.5], [2.0, 7.0, 1.0]])])

def local_options():
    class Local(msgspec.Struct):
        pass
    return Local

{classes}
"""

KEEPS_ITS_PROMISES = (
    "Good",
    "Asynchronous",
    "TellsProgress",
    "AsynchronouslyTellsProgress",
    "GrowsOnce",
    "NoStream",
)

#: Runtime -> the test that must fail, without its "test_".
FAULTS = {
    "NoClose": "the_class_has_the_runtimes_methods",
    "NamesTwice": "the_metadata_name_each_tensor_once",
    "UnsendableMetadata": "the_metadata_can_be_sent",
    "OtherDatatype": "the_default_outputs_are_those_in_the_metadata",
    "OtherShape": "each_output_can_be_requested_alone",
    "AnswersAll": "each_output_can_be_requested_alone",
    "OwnOrder": "all_outputs_can_be_requested_in_any_order",
    "FailsOnItsOwnMetadata": "a_request_made_up_from_the_metadata_is_answered_or_refused",
    "WritesOnTheRequest": "a_request_is_left_as_it_was",
    "ComparesRows": "merged_rows_get_the_answers_of_single_requests",
    "MergesSingles": "split_rows_get_the_answers_of_the_whole",
    "FirstRowIsSpecial": "rows_in_another_order_keep_their_answers",
    "FailsOnNothing": "no_rows_at_all_are_answered_or_refused",
    "SharesState": "threads_get_the_answers_of_one_after_the_other",
    "CrashesOnMissing": "a_missing_input_is_the_callers_error_and_harms_nobody",
    "StaysBroken": "a_missing_input_is_the_callers_error_and_harms_nobody",
    "EmptyStream": "a_stream_gives_outputs_that_the_metadata_name",
    "StreamOfOthers": "a_stream_gives_outputs_that_the_metadata_name",
    "StreamOfNumbers": "a_stream_gives_outputs_that_the_metadata_name",
    "StreamKeepsTheLock": "a_stream_that_is_left_early_harms_nobody",
    "StreamCrashesOnMissing": "a_stream_tells_the_caller_what_is_missing",
    "UnsendableResponse": "a_response_can_be_sent_to_another_process",
    "KnowsItsProcess": "another_process_gives_the_same_answers",
    "StreamKnowsItsProcess": "another_process_gives_the_same_answers",
    "OneAtATime": "a_closed_runtime_leaves_room_for_another",
    "LoadsAnything": "a_damaged_artifact_is_refused_when_loading",
    "Registered": "a_closed_runtime_is_let_go",
    "Leaks": "loading_over_and_over_takes_no_more_memory",
    "LeaksInALibrary": "loading_over_and_over_takes_no_more_memory",
    "LeavesAThread": "close_ends_the_threads",
}
#: What is wrong with the description: changes to the spec -> the test that must fail.
FAULTY_SPECS = {
    "EagerPlugin": (
        '{"runtime": "eager_plugin:Good"}',
        "the_plugin_is_imported_without_its_framework",
    ),
    "OtherArtifact": (
        '{"artifacts": (ArtifactFormat("*.onnx"),)}',
        "the_artifact_has_a_form_that_the_spec_names",
    ),
    "LocalOptions": ('{"options": local_options()}', "the_spec_can_be_sent_to_another_process"),
}

TESTS_OF_THE_CONTRACT = {name for name in vars(RuntimeContract) if name.startswith("test_")}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run all contracts in one pytest: (class, test) -> passed, failed or skipped."""
    folder = tmp_path_factory.mktemp("contracts")
    (folder / "good_plugin").mkdir()
    (folder / "good_plugin" / "__init__.py").write_text(PLUGIN)
    (folder / "good_plugin" / "_runtime.py").write_text(RUNTIMES)
    (folder / "eager_plugin.py").write_text("from good_plugin._runtime import Good\n")
    changes = dict.fromkeys((*KEEPS_ITS_PROMISES, *FAULTS), "{}")
    changes |= {name: change for name, (change, _) in FAULTY_SPECS.items()}
    classes = "".join(
        f"class Test{name}(Contract):\n"
        f"    name = '{'Good' if name in FAULTY_SPECS else name}'\n    changes = {change}\n\n"
        for name, change in changes.items()
    )
    (folder / "test_contracts.py").write_text(TESTS.format(classes=classes))
    faults = FAULTS | {name: test for name, (_, test) in FAULTY_SPECS.items()}
    chosen = [f"test_contracts.py::Test{name}" for name in KEEPS_ITS_PROMISES]
    chosen += [f"test_contracts.py::Test{name}::test_{test}" for name, test in faults.items()]
    options = ["-p", "no:cacheprovider", "--junitxml", "report.xml", "-q", "--rootdir", "."]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *chosen],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    found = {}
    for case in ET.parse(folder / "report.xml").iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        owner = case.attrib["classname"].rpartition("Test")[2]
        test = case.attrib["name"].partition("[")[0].removeprefix("test_")
        found.setdefault((owner, test), []).extend(kinds or {"passed"})
    return found


@pytest.mark.parametrize("name", KEEPS_ITS_PROMISES)
def test_a_runtime_that_keeps_its_promises_passes(outcomes, name):
    mine = {test: kinds for (owner, test), kinds in outcomes.items() if owner == name}
    assert {f"test_{test}" for test in mine} == TESTS_OF_THE_CONTRACT
    skipped = {test for test, kinds in mine.items() if "skipped" in kinds}
    assert not [test for test, kinds in mine.items() if set(kinds) & {"failure", "error"}]
    streams = {test for test in mine if test.startswith("a_stream_")}
    assert skipped == (streams if name == "NoStream" else set())


@pytest.mark.parametrize("name", [*FAULTS, *FAULTY_SPECS])
def test_a_broken_promise_is_caught_by_name(outcomes, name):
    test = FAULTS[name] if name in FAULTS else FAULTY_SPECS[name][1]
    assert set(outcomes[name, test]) & {"failure"}, outcomes[name, test]


def test_every_promise_is_broken_by_some_runtime_here():
    broken = {*FAULTS.values(), *(test for _, test in FAULTY_SPECS.values())}
    assert {f"test_{test}" for test in broken} == TESTS_OF_THE_CONTRACT
