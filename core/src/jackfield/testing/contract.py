"""RuntimeContract: what the core relies on in a runtime, each promise a test.

Used by the tests of plugins; knows no framework. What a runtime's capabilities declare is tested,
what they don't is skipped.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import inspect
import json
import logging
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from jackfield.errors import InvalidRequestError
from jackfield.messages import InferRequest, InferResponse, ModelMetadata, RequestedOutput
from jackfield.runtime import Capabilities, ModelContext, Runtime, RuntimeSpec
from jackfield.settings import ModelSettings
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from jackfield.messages import TensorMetadata

__all__ = ["RuntimeContract"]

_THREADS = 8
_CALLS_PER_THREAD = 10
#: Single requests that one batch is made of.
_MERGED = 4

_IMPORTED = """
import importlib, json, sys
before = set(sys.modules)
module = importlib.import_module(sys.argv[1])
describe = getattr(module, "jackfield_runtimes", None)
if describe is not None:
    describe()
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


class RuntimeContract:
    """Inherit this, override the first three fixtures, and the contract is tested.

    Each test gets a runtime of its own, loaded as the core loads it.
    """

    #: How much two equal answers may differ: libraries add numbers up in another order when the
    #: batch has another size.
    rtol: float = 1e-5
    atol: float = 1e-8

    @pytest.fixture
    def spec(self) -> RuntimeSpec:
        """Give the runtime's description, from the plugin's hook. Override this."""
        raise NotImplementedError

    @pytest.fixture
    def model_dir(self) -> Path:
        """Give the artifact: a file, or the folder that it lies in. Override this."""
        raise NotImplementedError

    @pytest.fixture
    def example(self) -> InferRequest:
        """Give a request that the model answers. Override this.

        Inputs of a runtime whose rows are independent have the rows as first dimension.
        """
        raise NotImplementedError

    @pytest.fixture
    def settings(self) -> ModelSettings:
        """Give the model's settings; override it where the defaults don't do."""
        return ModelSettings(name="model")

    @pytest.fixture
    def runtime(
        self, spec: RuntimeSpec, model_dir: Path, settings: ModelSettings
    ) -> Iterator[Runtime]:
        """Give a loaded runtime."""
        runtime = _load(spec, _artifact(spec, model_dir), settings)
        yield runtime
        runtime.close()

    # ---- the description ----

    def test_the_plugin_is_imported_without_its_framework(self, spec: RuntimeSpec) -> None:
        """Discovery must cost nothing."""
        modules = _modules_of(spec.frameworks)
        assert modules or not spec.frameworks, f"not installed: {', '.join(spec.frameworks)}"
        package = spec.runtime.partition(":")[0].partition(".")[0]
        run = subprocess.run(
            [sys.executable, "-c", _IMPORTED, package], capture_output=True, text=True, check=True
        )
        assert not modules & set(json.loads(run.stdout))

    def test_the_class_has_the_runtimes_methods(self, runtime: Runtime) -> None:
        """What the spec names is a runtime."""
        assert isinstance(runtime, Runtime)

    # ---- the metadata ----

    def test_the_metadata_name_each_tensor_once(self, runtime: Runtime) -> None:
        """Names are how requests address tensors."""
        metadata = runtime.metadata()
        assert isinstance(metadata, ModelMetadata)
        assert metadata.platform
        for tensors in (metadata.inputs, metadata.outputs):
            names = [tensor.name for tensor in tensors]
            assert len(names) == len(set(names))

    def test_the_metadata_can_be_sent(self, runtime: Runtime) -> None:
        """Parameters hold what JSON holds."""
        metadata = runtime.metadata()
        sent = msgspec.json.encode(metadata)
        assert msgspec.json.encode(msgspec.json.decode(sent, type=ModelMetadata)) == sent

    def test_the_default_outputs_are_those_in_the_metadata(
        self, runtime: Runtime, example: InferRequest
    ) -> None:
        """A request that names no output gets all that are not on request."""
        advertised = [
            output for output in _outputs(runtime) if not output.parameters.get("on_request", False)
        ]
        response = _infer(runtime, _asking(example, []))
        _check_described(response.outputs, advertised)

    def test_each_output_can_be_requested_alone(
        self, runtime: Runtime, example: InferRequest
    ) -> None:
        """Whatever the metadata offer."""
        for output in _outputs(runtime):
            response = _infer(runtime, _asking(example, [output.name]))
            _check_described(response.outputs, [output])

    def test_all_outputs_can_be_requested_in_any_order(
        self, runtime: Runtime, example: InferRequest
    ) -> None:
        """The answer has the order of the request."""
        outputs = _outputs(runtime)[::-1]
        response = _infer(runtime, _asking(example, [output.name for output in outputs]))
        _check_described(response.outputs, outputs)

    # ---- the answers ----

    def test_a_request_is_left_as_it_was(self, runtime: Runtime, example: InferRequest) -> None:
        """Arrays of a request are read-only, and the body of somebody's message."""
        before = [tensor.array.copy() for tensor in example.inputs]
        _infer(runtime, example)
        for tensor, array in zip(example.inputs, before, strict=True):
            assert np.array_equal(tensor.array, array)

    def test_merged_rows_get_the_answers_of_single_requests(
        self, runtime: Runtime, spec: RuntimeSpec, example: InferRequest
    ) -> None:
        """Rows are independent: nobody's answer depends on who else asked."""
        if not _capabilities(runtime, spec).row_wise:
            pytest.skip("rows are not declared independent")
        names = [output.name for output in _outputs(runtime)]
        singles = [_asking(each, names) for each in _variations(example, _MERGED)]
        inputs = [
            msgspec.structs.replace(tensors[0], array=_read_only(np.concatenate(arrays)))
            for tensors in zip(*(single.inputs for single in singles), strict=True)
            for arrays in [[tensor.array for tensor in tensors]]
        ]
        merged = _infer(runtime, InferRequest(inputs, singles[0].outputs))
        answers = [_infer(runtime, single).outputs for single in singles]
        for together, apart in zip(merged.outputs, zip(*answers, strict=True), strict=True):
            self._check_equal(together.array, np.concatenate([each.array for each in apart]))

    def test_threads_get_the_answers_of_one_after_the_other(
        self, runtime: Runtime, spec: RuntimeSpec, example: InferRequest
    ) -> None:
        """Several threads may ask at once."""
        capabilities = _capabilities(runtime, spec)
        if not capabilities.thread_safe or capabilities.stateful:
            pytest.skip("not declared safe in several threads, or remembers requests")
        names = [output.name for output in _outputs(runtime)]
        requests = [_asking(each, names) for each in _variations(example, _THREADS)]
        expected = [_infer(runtime, request) for request in requests]

        def ask(request: InferRequest) -> list[InferResponse]:
            return [_infer(runtime, request) for _ in range(_CALLS_PER_THREAD)]

        with ThreadPoolExecutor(_THREADS) as threads:
            answers = list(threads.map(ask, requests))
        for responses, response in zip(answers, expected, strict=True):
            for each in responses:
                self._check_same(each, response)

    def test_a_missing_input_is_the_callers_error_and_harms_nobody(
        self, runtime: Runtime, spec: RuntimeSpec, example: InferRequest
    ) -> None:
        """The caller is told, and the next request is answered as before."""
        before = _infer(runtime, example)
        with pytest.raises(InvalidRequestError):
            _infer(runtime, msgspec.structs.replace(example, inputs=list(example.inputs)[1:]))
        after = _infer(runtime, example)
        if not _capabilities(runtime, spec).stateful:
            self._check_same(after, before)

    # ---- load and close ----

    def test_a_closed_runtime_leaves_room_for_another(
        self, spec: RuntimeSpec, model_dir: Path, settings: ModelSettings, example: InferRequest
    ) -> None:
        """As a reload does, with both in memory for a while."""
        artifact = _artifact(spec, model_dir)
        first = _load(spec, artifact, settings)
        before = _infer(first, example)
        second = _load(spec, artifact, settings)
        first.close()
        try:
            self._check_same(_infer(second, example), before)
        finally:
            second.close()

    @pytest.mark.parametrize("part_kept", [0.5, 0.0])
    def test_a_damaged_artifact_is_refused_when_loading(
        self,
        spec: RuntimeSpec,
        model_dir: Path,
        settings: ModelSettings,
        tmp_path: Path,
        part_kept: float,
    ) -> None:
        """A file that was cut off must not serve."""
        copy = _damaged_copy(_artifact(spec, model_dir), tmp_path / "damaged", part_kept)
        try:
            _load(spec, copy, settings)
        # each framework has errors of its own; the core reports any
        except Exception:  # noqa: BLE001
            return
        pytest.fail("it was loaded")

    def _check_same(self, found: InferResponse, expected: InferResponse) -> None:
        assert [each.name for each in found.outputs] == [each.name for each in expected.outputs]
        for one, other in zip(found.outputs, expected.outputs, strict=True):
            self._check_equal(one.array, other.array)

    def _check_equal(self, found: NDArray[Any], expected: NDArray[Any]) -> None:
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        if found.dtype.kind == "f":
            assert np.allclose(found, expected, rtol=self.rtol, atol=self.atol, equal_nan=True)
        else:
            assert np.array_equal(found, expected)


def _modules_of(distributions: Iterable[str]) -> set[str]:
    """Find the top-level modules of the installed ones among distributions."""
    wanted = {_normal(each) for each in distributions}
    installed = importlib.metadata.packages_distributions()
    return {
        module
        for module, owners in installed.items()
        if wanted & {_normal(each) for each in owners}
    }


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _artifact(spec: RuntimeSpec, model_dir: Path) -> Path:
    """Find the artifact as the core does: the first pattern that matches; else the folder."""
    if model_dir.is_dir():
        for artifact in spec.artifacts:
            for file in sorted(model_dir.glob(artifact.pattern)):
                return file
    return model_dir


def _load(spec: RuntimeSpec, artifact: Path, settings: ModelSettings) -> Runtime:
    module, _, name = spec.runtime.partition(":")
    extra = settings.parameters.extra
    context = ModelContext(
        name=settings.name,
        version=settings.parameters.version,
        artifact=artifact,
        settings=settings,
        options=None if spec.options is None else msgspec.convert(extra, spec.options),
        logger=logging.getLogger("jackfield.testing"),
    )
    runtime: Runtime = getattr(importlib.import_module(module), name)(context)
    runtime.load()
    return runtime


def _capabilities(runtime: Runtime, spec: RuntimeSpec) -> Capabilities:
    """Get what holds for this model: a runtime may narrow what its spec declares."""
    narrowed = getattr(runtime, "capabilities", spec.capabilities)
    assert isinstance(narrowed, Capabilities)
    return narrowed


def _outputs(runtime: Runtime) -> list[TensorMetadata]:
    outputs = list(runtime.metadata().outputs)
    if not outputs:
        pytest.skip("the metadata name no output")
    return outputs


def _asking(request: InferRequest, names: Sequence[str]) -> InferRequest:
    return msgspec.structs.replace(request, outputs=[RequestedOutput(name) for name in names])


def _infer(runtime: Runtime, request: InferRequest) -> InferResponse:
    """Ask as the wire does, with arrays that can't be written on; check each tensor's form."""
    inputs = [
        msgspec.structs.replace(tensor, array=_read_only(tensor.array)) for tensor in request.inputs
    ]
    answer = runtime.infer(msgspec.structs.replace(request, inputs=inputs))
    response = asyncio.run(_wait(answer)) if inspect.isawaitable(answer) else answer
    assert isinstance(response, InferResponse)
    for tensor in response.outputs:
        assert tensor.array.dtype == tensor.datatype.dtype
        assert tensor.array.flags.c_contiguous
        if tensor.datatype is Datatype.BYTES:
            assert all(isinstance(value, bytes) for value in tensor.array.reshape(-1))
    return response


async def _wait(answer: Any) -> object:  # noqa: ANN401  an awaitable of somebody's making
    return await answer


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _check_described(tensors: Sequence[Tensor], described: Sequence[TensorMetadata]) -> None:
    """Check names, datatypes and shapes against the metadata."""
    assert [tensor.name for tensor in tensors] == [each.name for each in described]
    for tensor, each in zip(tensors, described, strict=True):
        assert tensor.datatype is each.datatype
        sizes = list(tensor.shape)
        assert len(sizes) == len(each.shape), f"'{tensor.name}': {sizes}, not {each.shape}"
        for size, promised in zip(sizes, each.shape, strict=True):
            assert promised in (-1, size), f"'{tensor.name}': {sizes}, not {each.shape}"


def _variations(example: InferRequest, count: int) -> list[InferRequest]:
    """Vary the numbers of a request a little, each time otherwise; leave the rest."""
    return [
        msgspec.structs.replace(
            example,
            inputs=[
                msgspec.structs.replace(
                    tensor, array=_read_only((tensor.array * factor).astype(tensor.array.dtype))
                )
                if tensor.array.dtype.kind == "f"
                else tensor
                for tensor in example.inputs
            ],
        )
        for factor in 1 + 0.05 * np.arange(count)
    ]


def _damaged_copy(artifact: Path, copy: Path, part_kept: float) -> Path:
    """Copy an artifact and cut off the end of its largest file."""
    if artifact.is_dir():
        shutil.copytree(artifact, copy)
        largest = max((each for each in copy.rglob("*") if each.is_file()), key=_size)
    else:
        copy.mkdir()
        largest = copy = copy / artifact.name
        shutil.copyfile(artifact, copy)
    data = largest.read_bytes()
    largest.write_bytes(data[: int(len(data) * part_kept)])
    return copy


def _size(file: Path) -> int:
    return file.stat().st_size
