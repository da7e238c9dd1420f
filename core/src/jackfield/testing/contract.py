"""RuntimeContract: what the core relies on in a runtime, each promise a test.

Used by the tests of plugins; knows no framework. What a runtime's capabilities declare is tested,
what they don't is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.metadata
import inspect
import itertools
import json
import logging
import mmap
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import threading
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pytest

from jackfield._example import example_request
from jackfield._process.hosts import Hosts
from jackfield._process.proxy import load_in_process
from jackfield._repository import ModelSource, is_artifact
from jackfield._wire.json import decode_infer
from jackfield.errors import InvalidRequestError
from jackfield.messages import InferRequest, InferResponse, ModelMetadata, RequestedOutput
from jackfield.runtime import Capabilities, ModelContext, Runtime, RuntimeSpec
from jackfield.settings import ModelSettings
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from jackfield._loading import Loaded
    from jackfield.messages import TensorMetadata

__all__ = ["RuntimeContract"]

_THREADS = 8
_CALLS_PER_THREAD = 10
#: Single requests that one batch is made of.
_MERGED = 4
#: Loads and closes while the memory is watched.
_CYCLES = 6
#: Growth of the process that isn't taken for a leak, in bytes per load: allocators keep some.
_RESIDENT_NOISE = 4 * 1024 * 1024
#: Responses after which a stream is left.
_STREAMED = 1000
#: The same, of a stream in another process.
_STREAMED_THERE = 3
_PROCESS_TIMEOUT_S = 240.0

_IMPORTED = """
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[2])
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
    #: How much Python and NumPy memory a load, an answer and a close may leave taken, in bytes.
    leak_bytes: int = 8 * 1024
    #: Parameters of the metadata that are measured while the model loads: they differ each time.
    measured: tuple[str, ...] = ()

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
        runtime = _load(spec, _context(spec, _artifact(spec, model_dir), settings))
        yield runtime
        runtime.close()

    # ---- the description ----

    def test_the_plugin_is_imported_without_its_framework(self, spec: RuntimeSpec) -> None:
        """Discovery must cost nothing."""
        modules = _modules_of(spec.frameworks)
        assert modules or not spec.frameworks, f"not installed: {', '.join(spec.frameworks)}"
        package = spec.runtime.partition(":")[0].partition(".")[0]
        imported = set(json.loads(_run_python(_IMPORTED, package)))
        assert not modules & imported, f"imported too: {', '.join(sorted(modules & imported))}"

    def test_the_artifact_has_a_form_that_the_spec_names(
        self, spec: RuntimeSpec, model_dir: Path
    ) -> None:
        """A file that is served without settings finds its runtime by its name, or its content."""
        if not spec.artifacts:
            pytest.skip("the spec names no artifact")
        patterns = [each.pattern for each in spec.artifacts]
        file = _artifact(spec, model_dir)
        assert any(is_artifact(file, spec, form) for form in spec.artifacts), (
            f"{file.name}: {patterns}"
        )

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

    def test_a_request_made_up_from_the_metadata_is_answered_or_refused(
        self, runtime: Runtime
    ) -> None:
        """Who reads the metadata can ask; values that mean nothing are the caller's error."""
        made = example_request(runtime.metadata())
        if made is None:
            pytest.skip("no request can be made up from the metadata")
        with contextlib.suppress(InvalidRequestError):
            _infer(runtime, decode_infer(msgspec.json.encode(made), "model")[0])

    # ---- the answers ----

    def test_a_request_is_left_as_it_was(self, runtime: Runtime, example: InferRequest) -> None:
        """Arrays of a request are read-only, and the body of somebody's message."""
        before = [tensor.array.copy() for tensor in example.inputs]
        _infer(runtime, example)
        for tensor, array in zip(example.inputs, before, strict=True):
            # NaN is a missing value, and as it was
            assert np.array_equal(tensor.array, array, equal_nan=array.dtype.kind == "f")

    def test_merged_rows_get_the_answers_of_single_requests(
        self, runtime: Runtime, spec: RuntimeSpec, example: InferRequest
    ) -> None:
        """Rows are independent: nobody's answer depends on who else asked."""
        if not _capabilities(runtime, spec).row_wise:
            pytest.skip("rows are not declared independent")
        names = [output.name for output in _outputs(runtime)]
        singles = [_asking(each, names) for each in _variations(example, _MERGED)]
        merged = _infer(runtime, _merge(singles))
        answers = [_infer(runtime, single).outputs for single in singles]
        for together, apart in zip(merged.outputs, zip(*answers, strict=True), strict=True):
            self._check_equal(together.array, np.concatenate([each.array for each in apart]))

    def test_split_rows_get_the_answers_of_the_whole(
        self, runtime: Runtime, spec: RuntimeSpec, example: InferRequest
    ) -> None:
        """A batch may be cut anywhere."""
        request, count = self._batch(runtime, spec, example)
        whole = _infer(runtime, request)
        parts = [_infer(runtime, _rows(request, [row])) for row in range(count)]
        for index, tensor in enumerate(whole.outputs):
            apart = [part.outputs[index].array for part in parts]
            self._check_equal(tensor.array, np.concatenate(apart))

    def test_rows_in_another_order_keep_their_answers(
        self, runtime: Runtime, spec: RuntimeSpec, example: InferRequest
    ) -> None:
        """Nobody's answer depends on the place in a batch."""
        request, count = self._batch(runtime, spec, example)
        order = list(range(count))[::-1]
        forward, backward = _infer(runtime, request), _infer(runtime, _rows(request, order))
        for one, other in zip(forward.outputs, backward.outputs, strict=True):
            self._check_equal(one.array[order], other.array)

    def test_no_rows_at_all_are_answered_or_refused(
        self, runtime: Runtime, spec: RuntimeSpec, example: InferRequest
    ) -> None:
        """An empty batch is an empty answer or the caller's error, not a failure."""
        request, _ = self._batch(runtime, spec, example)
        try:
            response = _infer(runtime, _rows(request, []))
        except InvalidRequestError:
            return
        for tensor in response.outputs:
            assert tensor.shape[0] == 0, f"'{tensor.name}': {tensor.shape}"

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

    # ---- streams ----

    def test_a_stream_gives_outputs_that_the_metadata_name(
        self, runtime: Runtime, example: InferRequest
    ) -> None:
        """At least one response, each in the form of a response."""
        _require_stream(runtime)
        known = {output.name: output.datatype for output in runtime.metadata().outputs}
        responses = _stream(runtime, example)
        assert responses, "it ended without a response"
        for tensor in (tensor for response in responses for tensor in response.outputs):
            if known:
                assert tensor.name in known
                assert tensor.datatype is known[tensor.name], f"'{tensor.name}'"

    def test_a_stream_that_is_left_early_harms_nobody(
        self, runtime: Runtime, example: InferRequest
    ) -> None:
        """A caller goes; the next one is served."""
        _require_stream(runtime)
        first = _stream(runtime, example, most=1)
        assert len(_stream(runtime, example, most=1)) == len(first) == 1

    def test_a_stream_tells_the_caller_what_is_missing(
        self, runtime: Runtime, example: InferRequest
    ) -> None:
        """As `infer` does, before its first response."""
        _require_stream(runtime)
        with pytest.raises(InvalidRequestError):
            _stream(runtime, msgspec.structs.replace(example, inputs=list(example.inputs)[1:]))

    # ---- to another process ----

    def test_the_spec_can_be_sent_to_another_process(self, spec: RuntimeSpec) -> None:
        """A runtime is made again from it, over there."""
        assert pickle.loads(pickle.dumps(spec)) == spec

    def test_a_response_can_be_sent_to_another_process(
        self, runtime: Runtime, example: InferRequest
    ) -> None:
        """Beside the arrays there is plain data."""
        response = _infer(runtime, example)
        for parameters in (response.parameters, *(each.parameters for each in response.outputs)):
            assert msgspec.msgpack.decode(msgspec.msgpack.encode(parameters)) == parameters

    @pytest.mark.skipif(sys.platform == "win32", reason="models have no process of their own there")
    def test_another_process_gives_the_same_answers(
        self, spec: RuntimeSpec, model_dir: Path, settings: ModelSettings, example: InferRequest
    ) -> None:
        """Served with ``"scheduler": "process"`` a model tells and answers what it does here."""
        source = ModelSource(
            name=settings.name,
            version=settings.parameters.version,
            folder=model_dir if model_dir.is_dir() else model_dir.parent,
            settings=msgspec.structs.replace(settings, scheduler="process"),
            artifact=_artifact(spec, model_dir),
            spec=spec,
        )
        there = asyncio.run(_served_in_host(source, example))
        runtime = _load(spec, _context(spec, _artifact(spec, model_dir), settings))
        try:
            assert there.loaded.capabilities == _capabilities(runtime, spec)
            # the server puts in the model's name, and what its settings say
            told = msgspec.structs.replace(runtime.metadata(), name=source.name)
            for name in ("platform", "inputs", "outputs"):
                if said := getattr(settings, name):
                    told = msgspec.structs.replace(told, **{name: said})
            assert self._without_measured(there.loaded.metadata) == self._without_measured(told)
            self._check_same(there.response, _infer(runtime, example))
            if getattr(runtime, "stream", None) is not None:
                # how often progress is told depends on the time that the answer takes
                expected = _stream(runtime, example, most=_STREAMED_THERE, outputs_only=True)
                assert len(there.streamed) == len(expected)
                for one, other in zip(there.streamed, expected, strict=True):
                    self._check_same(one, other)
        finally:
            runtime.close()

    def _without_measured(self, metadata: ModelMetadata) -> bytes:
        parameters = {
            name: value for name, value in metadata.parameters.items() if name not in self.measured
        }
        return msgspec.json.encode(msgspec.structs.replace(metadata, parameters=parameters))

    # ---- load and close ----

    def test_a_closed_runtime_leaves_room_for_another(
        self, spec: RuntimeSpec, model_dir: Path, settings: ModelSettings, example: InferRequest
    ) -> None:
        """As a reload does, with both in memory for a while."""
        context = _context(spec, _artifact(spec, model_dir), settings)
        first = _load(spec, context)
        before = _infer(first, example)
        second = _load(spec, context)
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
            _load(spec, _context(spec, copy, settings))
        # each framework has errors of its own; the core reports any
        except Exception:  # noqa: BLE001
            return
        pytest.fail("it was loaded")

    def test_a_closed_runtime_is_let_go(
        self, spec: RuntimeSpec, model_dir: Path, settings: ModelSettings, example: InferRequest
    ) -> None:
        """Nothing keeps it: no registry, no callback, no thread."""
        runtime = _load(spec, _context(spec, _artifact(spec, model_dir), settings))
        try:
            reference = weakref.ref(runtime)
        except TypeError:
            runtime.close()
            pytest.skip("its class has __slots__ without __weakref__")
        _infer(runtime, example)
        runtime.close()
        del runtime
        gc.collect()
        left = reference()
        if left is not None:
            keepers = ", ".join(sorted({type(each).__name__ for each in gc.get_referrers(left)}))
            pytest.fail(f"it is still referred to after close, by: {keepers}")

    def test_loading_over_and_over_takes_no_more_memory(
        self, spec: RuntimeSpec, model_dir: Path, settings: ModelSettings, example: InferRequest
    ) -> None:
        """What Python and NumPy hold is counted; what a library takes shows if it is much."""
        context = _context(spec, _artifact(spec, model_dir), settings)
        _serve_once(spec, context, example)
        is_traced = tracemalloc.is_tracing()
        tracemalloc.start()
        try:
            _serve_once(spec, context, example)  # what is cached once is no leak
            before, resident = tracemalloc.get_traced_memory()[0], [_resident_bytes()]
            for _ in range(_CYCLES):
                _serve_once(spec, context, example)
                resident.append(_resident_bytes())
            left = (tracemalloc.get_traced_memory()[0] - before) // _CYCLES
            # an allocator takes much at once now and then; a leak is there each time
            grown = int(statistics.median(b - a for a, b in itertools.pairwise(resident)))
        finally:
            if not is_traced:
                tracemalloc.stop()
        assert left <= self.leak_bytes, f"each load leaves {left} bytes taken"
        assert grown <= _RESIDENT_NOISE, f"each load makes the process {grown} bytes larger"

    def test_close_ends_the_threads(
        self, spec: RuntimeSpec, model_dir: Path, settings: ModelSettings, example: InferRequest
    ) -> None:
        """One that is left keeps the process from ending; those of libraries are not counted."""
        context = _context(spec, _artifact(spec, model_dir), settings)
        _serve_once(spec, context, example)  # a library's own threads begin here
        before = set(threading.enumerate())
        _serve_once(spec, context, example)
        left = [each for each in set(threading.enumerate()) - before if not each.daemon]
        for thread in left:
            thread.join(timeout=2.0)
        assert not [thread.name for thread in left if thread.is_alive()]

    def _batch(
        self, runtime: Runtime, spec: RuntimeSpec, example: InferRequest
    ) -> tuple[InferRequest, int]:
        """Make a request of several rows that asks for all outputs; say how many rows."""
        if not _capabilities(runtime, spec).row_wise:
            pytest.skip("rows are not declared independent")
        names = [output.name for output in _outputs(runtime)]
        merged = _merge(_variations(example, _MERGED))
        return _asking(merged, names), merged.inputs[0].shape[0]

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
    """Find the artifact as the core does: the first form that matches; else the folder."""
    if model_dir.is_dir():
        for form in spec.artifacts:
            for place in [model_dir] if form.is_folder else sorted(model_dir.glob(form.pattern)):
                if is_artifact(place, spec, form):
                    return place
    return model_dir


def _context(spec: RuntimeSpec, artifact: Path, settings: ModelSettings) -> ModelContext:
    extra = settings.parameters.extra
    return ModelContext(
        name=settings.name,
        version=settings.parameters.version,
        artifact=artifact,
        settings=settings,
        options=None if spec.options is None else msgspec.convert(extra, spec.options),
        logger=logging.getLogger("jackfield.testing"),
    )


def _load(spec: RuntimeSpec, context: ModelContext) -> Runtime:
    module, _, name = spec.runtime.partition(":")
    runtime: Runtime = getattr(importlib.import_module(module), name)(context)
    runtime.load()
    return runtime


def _serve_once(spec: RuntimeSpec, context: ModelContext, example: InferRequest) -> None:
    """Load, answer, close and clean up."""
    runtime = _load(spec, context)
    _infer(runtime, example)
    runtime.close()
    del runtime
    gc.collect()


class _Served(NamedTuple):
    """What a model in a host told and answered."""

    loaded: Loaded
    response: InferResponse
    streamed: Sequence[InferResponse]


async def _served_in_host(source: ModelSource, example: InferRequest) -> _Served:
    """Load a model in a process of its own, as a server does, and ask it."""
    hosts = Hosts()
    loop = asyncio.get_running_loop()
    try:
        loaded = await asyncio.to_thread(load_in_process, source, hosts, loop)
        async with asyncio.timeout(_PROCESS_TIMEOUT_S):
            response = _checked(await _wait(loaded.runtime.infer(_as_sent(example))))
            streamed: list[InferResponse] = []
            stream = getattr(loaded.runtime, "stream", None)
            if stream is not None:
                answering = stream(_as_sent(example))
                streamed = await _collect(answering, _STREAMED_THERE, outputs_only=True)
    finally:
        await asyncio.to_thread(hosts.close)
    return _Served(loaded, response, streamed)


def _run_python(code: str, argument: str) -> str:
    """Run code in a process that imports what this one can; give what it printed."""
    run = subprocess.run(
        [sys.executable, "-c", code, argument, json.dumps(sys.path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_PROCESS_TIMEOUT_S,
    )
    if run.returncode:
        pytest.fail(f"the other process ended with {run.returncode}:\n{run.stderr[-4000:]}")
    return run.stdout


def _resident_bytes() -> int:
    """Get the memory that this process has; 0 where the system doesn't tell."""
    statistics = Path("/proc/self/statm")
    if not statistics.is_file():
        return 0
    return int(statistics.read_text("ascii").split()[1]) * mmap.PAGESIZE


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
    """Ask as the wire does, and check the form of the answer."""
    answer = runtime.infer(_as_sent(request))
    return _checked(asyncio.run(_wait(answer)) if inspect.isawaitable(answer) else answer)


def _require_stream(runtime: Runtime) -> None:
    if getattr(runtime, "stream", None) is None:
        pytest.skip("it has no stream")


def _stream(
    runtime: Runtime, request: InferRequest, *, most: int = _STREAMED, outputs_only: bool = False
) -> list[InferResponse]:
    """Iterate as the core does, up to some responses; then close the stream.

    Args:
        runtime: Whose stream.
        request: What to ask it.
        most: How many responses.
        outputs_only: Pass over responses without outputs, which tell of progress.
    """
    stream = getattr(runtime, "stream")  # noqa: B009  the protocol does not demand it
    if inspect.isasyncgenfunction(stream):
        return asyncio.run(_collect(stream(_as_sent(request)), most, outputs_only=outputs_only))
    responses = iter(stream(_as_sent(request)))
    told = (each for each in map(_checked, responses) if each.outputs or not outputs_only)
    found = list(itertools.islice(told, most))
    close = getattr(responses, "close", None)
    if close is not None:
        close()
    return found


async def _collect(
    stream: AsyncGenerator[object, None], most: int, *, outputs_only: bool
) -> list[InferResponse]:
    found: list[InferResponse] = []
    async with contextlib.aclosing(stream) as responses:
        async for response in responses:
            told = _checked(response)
            if told.outputs or not outputs_only:
                found.append(told)
            if len(found) == most:
                break
    return found


def _as_sent(request: InferRequest) -> InferRequest:
    """Give a request arrays that can't be written on, as those from the wire."""
    inputs = [
        msgspec.structs.replace(tensor, array=_read_only(tensor.array)) for tensor in request.inputs
    ]
    return msgspec.structs.replace(request, inputs=inputs)


def _checked(response: object) -> InferResponse:
    """Check each tensor's form."""
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


def _merge(requests: Sequence[InferRequest]) -> InferRequest:
    """Put the rows of several requests into one, as a batch does."""
    inputs = [
        msgspec.structs.replace(tensors[0], array=_read_only(np.concatenate(arrays)))
        for tensors in zip(*(request.inputs for request in requests), strict=True)
        for arrays in [[tensor.array for tensor in tensors]]
    ]
    return msgspec.structs.replace(requests[0], inputs=inputs)


def _rows(request: InferRequest, rows: list[int]) -> InferRequest:
    """Take some rows of each input."""
    inputs = [
        msgspec.structs.replace(tensor, array=_read_only(tensor.array[rows]))
        for tensor in request.inputs
    ]
    return msgspec.structs.replace(request, inputs=inputs)


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
