import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from jackfield import (
    Capabilities,
    InferRequest,
    InvalidRequestError,
    ModelLoadError,
    ModelNotReadyError,
    OverloadedError,
    RuntimeFailedError,
    Server,
    Tensor,
)
from jackfield._plugins import discover
from jackfield._process.hosts import Hosts
from jackfield._process.proxy import ProcessRuntime
from jackfield._repository import Repository


@pytest.fixture
async def process_of():
    """Make a model's proxy, unloaded; its process is closed at the end."""
    made = []

    def make(path, *, plugins=(), close_timeout_s=10.0, **options):
        [source] = Repository([path], discover(only=plugins)).scan()
        hosts = Hosts(close_timeout_s=close_timeout_s)
        made.append(ProcessRuntime(source, hosts, asyncio.get_running_loop(), **options))
        return made[-1]

    yield make
    for runtime in made:
        await asyncio.to_thread(runtime.close)


@pytest.fixture
def start(process_of):
    """Make a model's proxy, and load it."""

    async def make(path, **options):
        runtime = process_of(path, **options)
        await asyncio.to_thread(runtime.load)
        return runtime

    return make


def request_of(*values, **fields):
    return InferRequest([Tensor.from_array("x", np.array(values, dtype="f8"))], **fields)


def is_alive(pid):
    """Tell whether a process runs; one that is dead and not yet waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


DOUBLE = """
class M:
    def infer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x * 2
"""
ASYNC_DOUBLE = """
class M:
    async def infer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        await asyncio.sleep(0)
        return x * 2
"""
PARALLEL_DOUBLE = """
class M:
    capabilities = Capabilities(thread_safe=True, releases_gil=True)

    def infer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x * 2
"""
EVERY_KIND = pytest.mark.parametrize("code", [DOUBLE, ASYNC_DOUBLE, PARALLEL_DOUBLE])


# ---- answers ----


@EVERY_KIND
async def test_each_caller_gets_its_own_answer(code, add_code, start):
    runtime = await start(add_code(code))
    sizes = [1, 7, 20_000]  # the last one is larger than what a socket takes at once

    async def call(number):
        values = np.full(sizes[number % 3], float(number))
        for _ in range(5):
            response = await runtime.infer(request_of(*values))
            assert np.array_equal(response.outputs[0].array, 2 * values)

    await asyncio.gather(*map(call, range(40)))


async def test_a_runtime_gets_the_whole_request_and_gives_the_whole_response(add_code, start):
    code = """
    class M:
        def infer(self, request: InferRequest) -> InferResponse:
            assert not request.inputs[1].array.flags.writeable
            seen = [request.id, str(request.received_ns), *(each.name for each in request.outputs)]
            told = Tensor.from_array("seen", seen)
            return InferResponse([*request.inputs, told], request.parameters)
    """
    runtime = await start(add_code(code))
    inputs = [
        Tensor.from_array("text", ["ä", ""], parameters={"content_type": "str"}),
        Tensor.from_array("empty", np.zeros((0, 3), dtype="f4")),
        Tensor.from_array("one", np.float16(0.5)),
        Tensor.from_array("strided", np.arange(12, dtype="i2").reshape(3, 4)[:, ::2]),
    ]
    request = InferRequest(inputs, parameters={"a": [1, {"b": None}]}, id="é", received_ns=7)
    response = await runtime.infer(request)
    assert response.parameters == {"a": [1, {"b": None}]}
    for sent, found in zip(inputs, response.outputs, strict=False):
        assert (sent.name, sent.datatype, sent.shape) == (found.name, found.datatype, found.shape)
        assert sent.parameters == found.parameters
        assert np.array_equal(sent.array, found.array)
    assert response.output("seen").array.tolist() == ["é".encode(), b"7"]


@EVERY_KIND
async def test_metadata_and_capabilities_are_those_of_the_child(code, add_code, start):
    runtime = await start(add_code(code))
    assert [each.name for each in runtime.metadata().inputs] == ["x"]
    is_parallel = code is PARALLEL_DOUBLE
    assert runtime.capabilities == Capabilities(thread_safe=is_parallel, releases_gil=is_parallel)
    assert runtime.stream is None
    assert runtime.problem == ""


async def test_a_plain_infer_runs_in_the_main_thread_of_another_process(add_code, start):
    code = """
    class M:
        def infer(self, x: np.ndarray) -> list[str]:
            return [threading.current_thread().name, str(os.getpid())]
    """
    runtime = await start(add_code(code))
    response = await runtime.infer(request_of(1))
    thread, pid = response.outputs[0].array.tolist()
    assert thread == b"MainThread"
    assert int(pid) == runtime.pid != os.getpid()


async def test_several_threads_run_a_runtime_that_says_it_gains(add_code, start, gates):
    code = """
    class M:
        capabilities = Capabilities(thread_safe=True, releases_gil=True)
        both = threading.Barrier(2)

        def infer(self, x: np.ndarray) -> np.ndarray:
            self.both.wait(20)
            return x
    """
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one core: one thread")
    runtime = await start(add_code(code))
    await asyncio.gather(runtime.infer(request_of(1)), runtime.infer(request_of(2)))


@pytest.mark.parametrize("place", [{}, {"scheduler": "process"}], ids=["here", "in a host"])
@pytest.mark.parametrize(
    ("code", "settings"),
    [
        pytest.param(
            """
            class M:
                def __init__(self):
                    self.all = asyncio.Barrier(9)

                async def infer(self, x: np.ndarray) -> np.ndarray:
                    await self.all.wait()
                    return x
            """,
            {},
            id="coroutines",
        ),
        pytest.param(
            """
            class M:
                capabilities = Capabilities(thread_safe=True)
                all = threading.Barrier(9)

                def infer(self, x: np.ndarray) -> np.ndarray:
                    self.all.wait(20)
                    return x
            """,
            {"max_concurrency": 9},
            id="as many threads as were asked for",
        ),
    ],
)
async def test_as_many_compute_at_once_as_in_process(add_code, models_dir, place, code, settings):
    add_code(code, **settings, **place)
    async with Server([models_dir], plugins=()) as server:
        calls = [server.model("m").infer(request_of(number)) for number in range(9)]
        found = await asyncio.wait_for(asyncio.gather(*calls), 20)
    assert [each.outputs[0].array.tolist() for each in found] == [[number] for number in range(9)]


@pytest.mark.parametrize("place", ["thread", "process"])
async def test_rows_that_could_be_merged_wait_for_one_thread(add_code, models_dir, place):
    code = """
    class M:
        capabilities = Capabilities(row_wise=True, thread_safe=True, releases_gil=True)

        def infer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.full(len(x), threading.get_native_id(), float)
    """
    add_code(code, scheduler=place)
    async with Server([models_dir], plugins=()) as server:
        # rows of different lengths are never merged
        calls = [server.model("m").infer(x=np.zeros((1, size))) for size in range(1, 30)]
        found = await asyncio.wait_for(asyncio.gather(*calls), 20)
    assert len({each.outputs[0].array[0] for each in found}) == 1


@pytest.mark.parametrize("place", [{}, {"scheduler": "process"}], ids=["here", "in a host"])
async def test_more_threads_than_are_safe_are_refused(add_code, models_dir, place):
    add_code(DOUBLE, max_concurrency=2, **place)
    async with Server([models_dir], plugins=()) as server:
        with pytest.raises(ModelNotReadyError, match="may not run in several threads"):
            await server.model("m").infer(request_of(1))


@EVERY_KIND
async def test_the_child_imports_the_thin_side_only(code, add_code, start):
    runtime = await start(add_code(code + "\n    def metadata(self):\n" + THIN))
    found = set(runtime.metadata().platform.split())
    assert {"numpy", "msgspec"} <= found
    heavy = ["starlette", "uvicorn", "hypercorn", "h2", "grpc", "google", "httptools", "uvloop"]
    heavy += ["simdjson", "prometheus_client", "click", "rich", "pandas", "httpx"]
    assert [name for name in heavy if name in found] == []


THIN = """
        from jackfield import ModelMetadata
        names = {name.partition(".")[0] for name in sys.modules}
        return ModelMetadata(platform=" ".join(sorted(names)))
"""


@pytest.mark.parametrize("prefix", ["", "async "])
async def test_the_frameworks_pools_are_bounded_in_the_child(prefix, add_code, start):
    code = f"""
    import threadpoolctl

    class M:
        def __init__(self, context):
            self.threads = context.threads

        {prefix}def infer(self, x: np.ndarray) -> list[int]:
            pools = threadpoolctl.threadpool_info()
            return [self.threads, *(each["num_threads"] for each in pools)]
    """
    for threads in (1, 2):
        runtime = await start(add_code(code, f"m{threads}"), threads=threads)
        found = (await runtime.infer(request_of(1))).outputs[0].array
        assert found[0] == threads
        assert max(found) <= threads
        assert len(found) > 1  # NumPy's own BLAS


async def test_models_with_modules_of_the_same_name_do_not_meet(add_model, start):
    paths = []
    for name in ("one", "two"):
        code = "import numpy as np\nfrom helper import NAME\n" + textwrap.dedent("""
        class M:
            def infer(self, x: np.ndarray) -> str:
                return NAME
        """)
        place = add_model(name, "M", code=code)
        (place / "helper.py").write_text(f"NAME = {name!r}")
        # the names of modules that the child itself uses
        (place / "socket.py").write_text("raise RuntimeError('not this one')")
        paths.append(place)
    runtimes = [await start(path) for path in paths]
    answers = [await runtime.infer(request_of(1)) for runtime in runtimes]
    assert [answer.outputs[0].array.tolist() for answer in answers] == [[b"one"], [b"two"]]


async def test_a_plugins_runtime_gets_its_options(add_reader, models_dir, start):
    add_reader("reads", "*.txt", options="Options")
    (models_dir / "m").mkdir()
    (models_dir / "m" / "model.txt").write_text("hello")
    (models_dir / "m" / "model-settings.json").write_text(
        '{"name": "m", "implementation": "reads", "parameters": {"extra": {"scale": 2.5}}}'
    )
    runtime = await start(models_dir / "m", plugins=None)
    response = await runtime.infer(request_of(1))
    assert response.output("text").array.tolist() == [b"hello"]
    assert response.output("scale").array.tolist() == [2.5]


# ---- errors ----

RAISING = """
class Odd(InvalidRequestError):
    def __init__(self, number):
        super().__init__("x", expected="even", found=str(number))
        self.number = number

class M:
    {prefix}def infer(self, x: np.ndarray) -> np.ndarray:
        match x.flat[0]:
            case 1: raise InvalidRequestError("x", expected="more", found="1")
            case 2: raise Odd(2)
            case 3: raise OverloadedError("other", limit=3)
            case 4: raise ValueError("the password is \\ud800 swordfish")
            case 5: sys.exit("goodbye")
            case 6: raise StopIteration
            case 7: raise asyncio.CancelledError
            case 8: raise KeyboardInterrupt
            case 9: return None
            case 10: raise InvalidRequestError("x", expected=object(), found="\\ud800")
        return x
"""


@pytest.mark.parametrize("prefix", ["", "async "])
async def test_what_a_runtime_raises_comes_over_as_in_process(prefix, add_code, start, caplog):
    runtime = await start(add_code(RAISING.replace("{prefix}", prefix)))
    with pytest.raises(InvalidRequestError, match="x: expected more, found 1") as refused:
        await runtime.infer(request_of(1))
    assert vars(refused.value) == {"field": "x", "expected": "more", "found": "1", "model": ""}
    assert refused.value.for_model("m").model == "m"
    with pytest.raises(InvalidRequestError, match="expected even, found 2") as refused:
        await runtime.infer(request_of(2))
    assert refused.value.number == 2
    with pytest.raises(OverloadedError) as overloaded:
        await runtime.infer(request_of(3))
    assert overloaded.value.limit == 3
    caplog.clear()
    with pytest.raises(RuntimeFailedError, match="model 'm' failed on this request") as failed:
        await runtime.infer(request_of(4))
    assert "swordfish" not in str(failed.value)
    assert "swordfish" in caplog.text
    assert "in infer" in caplog.text  # the trace
    for number in (5, 6, 7, 8, 9, 10):
        with pytest.raises(RuntimeFailedError):
            await asyncio.wait_for(runtime.infer(request_of(number)), 20)
    assert (await runtime.infer(request_of(11))).outputs[0].array.tolist() == [11]


@pytest.mark.parametrize(
    "answer",
    [
        "'text'",
        "InferResponse(['no tensor'])",
        "InferResponse([Tensor('y', 'FP64', np.zeros(1))])",
        "InferResponse([], {'k': object()})",
        "InferResponse([], None)",
        "InferResponse(5)",
    ],
)
async def test_an_answer_that_is_no_response_is_a_failure_of_this_request(answer, add_code, start):
    code = f"""
    class M:
        def infer(self, request: InferRequest) -> InferResponse:
            return {answer} if request.inputs[0].array[0] else InferResponse([])
    """
    runtime = await start(add_code(code))
    pid = runtime.pid
    with pytest.raises(RuntimeFailedError):
        await runtime.infer(request_of(1))
    assert (await runtime.infer(request_of(0))).outputs == []
    assert runtime.pid == pid


async def test_a_request_that_no_message_holds_is_refused_and_harms_nobody(add_code, start):
    runtime = await start(add_code(DOUBLE))
    for parameters in ({"k": object()}, {"k": 2**70}, {1: 2}):
        with pytest.raises(InvalidRequestError, match="can be passed to the model's process"):
            await runtime.infer(request_of(1, parameters=parameters))
    with pytest.raises(InvalidRequestError):
        await runtime.infer(request_of(1, id=5))
    assert (await runtime.infer(request_of(1))).outputs[0].array.tolist() == [2]


# ---- loading ----

BAD_LOADS = {
    "BrokenOnLoad": "OSError: the file is corrupt",
    "RefusesToLoad": "needs another file",
    "ExitsOnLoad": "SystemExit: goodbye",
    "JunkCapabilities": "its capabilities are tuple, not Capabilities",
    "NoModel": "class 'NoModel' has no method 'infer'",
    "Missing": "module 'runtimes' has no class or function 'Missing'",
}


@pytest.mark.parametrize("kind", BAD_LOADS)
async def test_a_model_that_fails_to_load_tells_why_as_in_process(kind, add_model, process_of):
    runtime = process_of(add_model("bad", kind))
    with pytest.raises(ModelLoadError) as failed:
        await asyncio.to_thread(runtime.load)
    assert str(failed.value) == BAD_LOADS[kind]
    assert not is_alive(runtime.pid)


async def test_the_trace_of_a_failed_load_is_in_the_log(add_model, process_of, caplog):
    runtime = process_of(add_model("bad", "BrokenOnLoad"))
    with pytest.raises(ModelLoadError):
        await asyncio.to_thread(runtime.load)
    assert "model 'bad' failed to load" in caplog.text
    assert "in load" in caplog.text


@pytest.mark.parametrize(
    ("line", "how"),
    [
        ("os._exit(3)", "exited with code 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"was killed by signal 11 \(SIGSEGV\)"),
    ],
)
async def test_a_process_that_dies_while_it_loads_is_named(line, how, add_code, process_of, caplog):
    code = f"""
    class M:
        def load(self):
            print("my last words", flush=True)
            {line}

        def infer(self, x: np.ndarray) -> np.ndarray:
            return x
    """
    runtime = process_of(add_code(code))
    with pytest.raises(ModelLoadError, match=f"its process {how} while it loaded"):
        await asyncio.to_thread(runtime.load)
    [record] = [each for each in caplog.records if "it printed last" in each.getMessage()]
    assert record.levelno == logging.ERROR
    assert "my last words" in record.getMessage()


async def test_a_model_that_has_a_problem_starts_no_process(models_dir, process_of):
    (models_dir / "model-settings.json").write_text('{"implementation": "sklearn"}')
    runtime = process_of(models_dir)
    with pytest.raises(ModelLoadError, match="pip install"):
        await asyncio.to_thread(runtime.load)
    assert runtime.pid == 0


# ---- logs and metrics ----


async def test_logs_and_prints_go_to_the_servers_log_with_the_models_name(
    add_code, start, caplog, until
):
    code = """
    class M:
        def __init__(self, context):
            self.logger = context.logger

        def infer(self, x: np.ndarray) -> np.ndarray:
            self.logger.debug("a detail")
            self.logger.warning("beware\\nof two lines")
            logging.getLogger("their.framework").error("oh")
            print("printed")
            sys.stderr.write("to stderr\\n")
            os.write(2, b"\\xff raw\\n")
            return x
    """
    caplog.set_level(logging.INFO, "jackfield")
    runtime = await start(add_code(code, version="3"))
    await runtime.infer(request_of(1))
    await until(lambda: "raw" in caplog.text)
    found = {each.getMessage(): each for each in caplog.records}
    assert found["beware\nof two lines"].levelno == logging.WARNING
    assert found["oh"].name == "their.framework"
    for text in ("beware\nof two lines", "oh", "printed", "to stderr", "\ufffd raw"):
        assert (found[text].model, found[text].version) == ("m", "3")
    assert "a detail" not in found
    # a level that is changed while it serves
    caplog.set_level(logging.DEBUG, "jackfield")
    await runtime.infer(request_of(1))
    await until(lambda: "a detail" in caplog.text)


async def test_what_a_model_counts_can_be_read_here(add_code, start, until):
    code = """
    class M:
        def __init__(self, context):
            self.rows = context.metrics.counter("rows_seen", "Rows.", labels=["kind"])

        def infer(self, x: np.ndarray) -> np.ndarray:
            self.rows.labels("a").inc(len(x))
            return x
    """
    runtime = await start(add_code(code))
    await runtime.infer(request_of(1, 2, 3))

    def samples():
        return {
            (each.name, each.labels["kind"]): each.value
            for metric in runtime.metrics.collect()
            for each in metric.samples
        }

    await until(lambda: samples().get(("rows_seen_total", "a")) == 3)
    [metric] = runtime.metrics.collect()
    assert (metric.name, metric.type, metric.documentation) == ("rows_seen", "counter", "Rows.")


# ---- streams ----

STREAMS = """
class M:
    def infer(self, x: np.ndarray) -> np.ndarray:
        return x

    {prefix}def stream(self, x: np.ndarray) -> {iterator}[np.ndarray]:
        try:
            number = 0
            while True:
                if number == x.flat[0]:
                    return
                if number == 3:
                    raise InvalidRequestError("x", expected="at most 3", found="more")
                if number == 2 and x.flat[0] == 100:
                    os._exit(4)
                yield np.array([number])
                number += 1
        except GeneratorExit:
            (GATES / "began").write_text("closed after " + str(number))
            raise
"""
BOTH_STREAMS = pytest.mark.parametrize(
    "code",
    [
        "from typing import Iterator\n" + STREAMS.format(prefix="", iterator="Iterator"),
        "from typing import AsyncIterator\n"
        + STREAMS.format(prefix="async ", iterator="AsyncIterator"),
    ],
    ids=["plain", "async"],
)


@BOTH_STREAMS
async def test_a_stream_comes_over_in_order_and_may_fail(code, add_code, start):
    runtime = await start(add_code(code))
    found = [each.outputs[0].array.item() async for each in runtime.stream(request_of(2))]
    assert found == [0, 1]
    responses = runtime.stream(request_of(9))
    assert [(await anext(responses)).outputs[0].array.item() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InvalidRequestError, match="at most 3"):
        await anext(responses)
    # beside it, infer goes on
    async with contextlib.aclosing(runtime.stream(request_of(2))) as responses:
        await anext(responses)
        assert (await runtime.infer(request_of(5))).outputs[0].array.tolist() == [5]


@BOTH_STREAMS
async def test_a_stream_that_is_left_ends_in_the_child_and_went_no_further(
    code, add_code, start, gates
):
    runtime = await start(add_code(code))
    began, _ = gates
    async with contextlib.aclosing(runtime.stream(request_of(9))) as responses:
        await anext(responses)
        await anext(responses)
    assert await began.pass_through() == "closed after 1"


@BOTH_STREAMS
async def test_a_stream_whose_process_dies_tells_so(code, add_code, start):
    runtime = await start(add_code(code))
    responses = runtime.stream(request_of(100))
    assert [(await anext(responses)).outputs[0].array.item() for _ in range(2)] == [0, 1]
    with pytest.raises(ModelNotReadyError, match="its process exited with code 4"):
        await anext(responses)


# ---- cancellation ----

MEETING = """
class M:
    done = []

    def infer(self, x: np.ndarray) -> np.ndarray:
        if x.flat[0] == 0:
            meet()
        self.done.append(x.flat[0])
        return np.array(self.done)
"""


@pytest.mark.parametrize("is_threaded", [False, True])
async def test_work_that_nobody_waits_for_is_dropped_if_it_has_not_begun(
    is_threaded, add_code, start, gates
):
    code = MEETING
    if is_threaded:  # a stream beside it: then infer runs in a thread
        code += "\n    def stream(self, request: InferRequest):\n        yield InferResponse([])\n"
    runtime = await start(add_code(code))
    began, may_go_on = gates
    running = asyncio.ensure_future(runtime.infer(request_of(0)))
    await began.pass_through()
    waiting = [asyncio.ensure_future(runtime.infer(request_of(number))) for number in (1, 2, 3)]
    left = asyncio.ensure_future(runtime.infer(request_of(4)))
    await asyncio.sleep(0)  # they are sent
    waiting[1].cancel()
    running.cancel()
    await asyncio.wait([waiting[1], running])
    if is_threaded:  # answered after the child's loop has read what was sent before
        assert [each.outputs async for each in runtime.stream(request_of(0))] == [[]]
    await may_go_on.open()
    # what ran was finished, and its answer is nobody's; 2 was never begun
    assert (await left).outputs[0].array.tolist() == [0, 1, 3, 4]
    assert (await waiting[0]).outputs[0].array.tolist() == [0, 1]


async def test_a_coroutine_that_nobody_waits_for_is_cancelled(add_code, start, gates):
    code = """
    class M:
        async def infer(self, x: np.ndarray) -> np.ndarray:
            if x.flat[0] == 1:
                return x
            try:
                await asyncio.Event().wait()
            finally:
                (GATES / "began").write_text("cancelled")
    """
    runtime = await start(add_code(code))
    left = asyncio.ensure_future(runtime.infer(request_of(0)))
    await runtime.infer(request_of(1))  # answered after the other has begun
    left.cancel()
    assert await gates[0].pass_through() == "cancelled"
    assert (await runtime.infer(request_of(1))).outputs[0].array.tolist() == [1]


# ---- death ----

DEADLY = """
class M:
    def infer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        if x.flat[0] == 0:
            meet()
        if x.flat[0] < 0:
            sys.stderr.write("about to go\\n")
            os._exit(3)
        return x
"""


async def test_a_process_that_exits_fails_its_calls_and_serves_again(add_code, start, caplog):
    runtime = await start(add_code(DEADLY))
    before = runtime.pid
    with pytest.raises(
        ModelNotReadyError, match="'m' is not ready: its process exited with code 3"
    ):
        await asyncio.wait_for(runtime.infer(request_of(-1)), 20)
    assert runtime.problem.startswith("its process exited with code 3")
    assert "its process exited with code 3; it printed last:\nabout to go" in caplog.text
    # the next one waits
    assert (await runtime.infer(request_of(1))).outputs[0].array.tolist() == [1]
    assert not runtime.problem
    assert runtime.pid != before


async def test_a_killed_process_fails_all_its_calls_at_once(add_code, start, gates, until):
    runtime = await start(add_code(DEADLY))
    began, _ = gates
    calls = [asyncio.ensure_future(runtime.infer(request_of(number))) for number in range(8)]
    await began.pass_through()
    os.kill(runtime.pid, signal.SIGKILL)
    for error in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20):
        assert isinstance(error, ModelNotReadyError)
        assert error.name == "m"
        assert error.reason == "its process was killed by signal 9 (SIGKILL)"
    await until(lambda: not runtime.problem)
    answers = await asyncio.gather(*(runtime.infer(request_of(number)) for number in range(1, 9)))
    assert [each.outputs[0].array.item() for each in answers] == list(range(1, 9))


async def test_a_process_that_keeps_dying_is_started_after_pauses(add_code, start, until):
    runtime = await start(add_code(DEADLY))
    with pytest.raises(ModelNotReadyError):
        await runtime.infer(request_of(-1))
    await until(lambda: not runtime.problem)
    with pytest.raises(ModelNotReadyError):
        await runtime.infer(request_of(-2))
    told = "its process exited with code 3; it is started again in 0.5 s"
    await until(lambda: runtime.problem == told)
    await asyncio.to_thread(runtime.close)  # does not wait for it
    assert not is_alive(runtime.pid)


async def test_a_model_that_fails_to_load_again_says_so_until_it_does(add_code, start, until):
    place = add_code(DEADLY)
    runtime = await start(place)
    whole = (place / "runtimes.py").read_text()
    (place / "runtimes.py").write_text("raise OSError('gone')")
    with pytest.raises(ModelNotReadyError):
        await runtime.infer(request_of(-1))
    await until(lambda: "in 0.5 s" in runtime.problem)
    assert "was started again, and failed: OSError: gone" in runtime.problem
    (place / "runtimes.py").write_text(whole)
    await until(lambda: not runtime.problem)
    assert (await runtime.infer(request_of(1))).outputs[0].array.tolist() == [1]


async def test_another_model_is_not_started_in_the_place_of_the_first(add_code, start, until):
    place = add_code(DEADLY)
    runtime = await start(place)
    code = (place / "runtimes.py").read_text()
    (place / "runtimes.py").write_text(
        code.replace("x: ND", "z: ND").replace("x.", "z.").replace("return x", "return z")
    )
    with pytest.raises(ModelNotReadyError):
        await runtime.infer(request_of(-1))
    await until(lambda: "has changed on disk; load it anew" in runtime.problem)


async def test_what_is_no_frame_ends_the_process(add_code, start, until):
    code = """
    import socket

    class M:
        def infer(self, x: np.ndarray) -> np.ndarray:
            for each in gc.get_objects():
                if isinstance(each, socket.socket) and x.flat[0] < 0:
                    each.send(b"nonsense, and so much of it that it can't be a frame")
            return x
    """
    runtime = await start(add_code(code))
    with pytest.raises(ModelNotReadyError, match="was ended: expected a frame, found b'nonsense"):
        await runtime.infer(request_of(-1))
    await until(lambda: not runtime.problem)
    await runtime.infer(request_of(1))


# ---- closing ----


async def test_closing_closes_the_runtime_and_ends_the_process(add_code, start, gates):
    code = (
        DOUBLE
        + """
    def close(self):
        (GATES / "began").write_text("closed")
    """
    )
    runtime = await start(add_code(code))
    closing = asyncio.ensure_future(asyncio.to_thread(runtime.close))
    assert await gates[0].pass_through() == "closed"
    await closing
    assert not is_alive(runtime.pid)
    with pytest.raises(ModelNotReadyError, match="it is unloaded"):
        await runtime.infer(request_of(1))


async def test_a_close_that_fails_is_logged(add_code, start, until, caplog):
    code = (
        DOUBLE
        + """
    def close(self):
        raise ValueError("can't let go")
    """
    )
    runtime = await start(add_code(code))
    await asyncio.to_thread(runtime.close)
    assert "failed to close" in caplog.text
    assert "can't let go" in caplog.text


@pytest.mark.parametrize("prefix", ["", "async "])
async def test_a_process_that_hangs_is_killed_when_it_is_closed(prefix, add_code, start, gates):
    code = f"""
    class M:
        {prefix}def infer(self, x: np.ndarray) -> np.ndarray:
            meet()
            return x
    """
    runtime = await start(add_code(code), close_timeout_s=0.2)
    call = asyncio.ensure_future(runtime.infer(request_of(0)))
    await gates[0].pass_through()
    await asyncio.wait_for(asyncio.to_thread(runtime.close), 20)
    assert not is_alive(runtime.pid)
    with pytest.raises(ModelNotReadyError, match="it is unloaded"):
        await asyncio.wait_for(call, 20)


async def test_closing_before_loading_and_twice_is_fine(add_code, process_of):
    runtime = process_of(add_code(DOUBLE))
    runtime.close()
    with pytest.raises(ModelLoadError, match="it is unloaded"):
        await asyncio.to_thread(runtime.load)
    runtime = process_of(add_code(DOUBLE, name="other"))
    await asyncio.to_thread(runtime.load)
    for _ in range(2):
        await asyncio.to_thread(runtime.close)


async def test_a_load_that_hangs_is_ended_by_closing(add_code, process_of, gates):
    code = """
    class M:
        def load(self):
            meet()

        def infer(self, x: np.ndarray) -> np.ndarray:
            return x
    """
    runtime = process_of(add_code(code), close_timeout_s=0.2)
    loading = asyncio.ensure_future(asyncio.to_thread(runtime.load))
    await gates[0].pass_through()
    await asyncio.to_thread(runtime.close)
    with pytest.raises(ModelLoadError):
        await asyncio.wait_for(loading, 20)
    assert not is_alive(runtime.pid)


# ---- signals ----


async def test_signals_of_a_supervisor_leave_the_process_at_work(add_code, start, gates):
    runtime = await start(add_code(DEADLY))
    began, may_go_on = gates
    assert os.getpgid(runtime.pid) != os.getpgid(0)  # a terminal's Ctrl-C does not reach it
    call = asyncio.ensure_future(runtime.infer(request_of(0)))
    await began.pass_through()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(runtime.pid, number)
    await may_go_on.open()
    assert (await call).outputs[0].array.tolist() == [0]
    assert not runtime.problem


async def test_what_the_model_started_can_be_terminated_and_goes_with_it(add_code, start, until):
    code = """
    import multiprocessing, subprocess

    class M:
        def infer(self, x: np.ndarray) -> list[int]:
            if x.flat[0] < 0:
                os._exit(3)
            wait = threading.Event().wait
            forked = multiprocessing.get_context("fork").Process(target=wait)
            forked.start()
            forked.terminate()
            forked.join()
            command = [sys.executable, "-c", "import threading; threading.Event().wait()"]
            started = subprocess.Popen(command)
            return [forked.exitcode, started.pid]
    """
    runtime = await start(add_code(code))
    response = await runtime.infer(request_of(1))
    code, pid = response.outputs[0].array.tolist()
    assert code == -signal.SIGTERM
    assert is_alive(pid)
    with pytest.raises(ModelNotReadyError):
        await runtime.infer(request_of(-1))
    # killed by then, and nobody's here to wait for
    await until(lambda: not is_alive(pid))


PARENT = """
import asyncio, sys
from pathlib import Path

from jackfield import InferRequest, Tensor
from jackfield._plugins import discover
from jackfield._process.hosts import Hosts
from jackfield._process.proxy import ProcessRuntime
from jackfield._repository import Repository

async def main():
    [source] = Repository([Path(sys.argv[1])], discover(only=())).scan()
    runtime = ProcessRuntime(source, Hosts(), asyncio.get_running_loop())
    await asyncio.to_thread(runtime.load)
    print(runtime.pid, flush=True)
    await runtime.infer(InferRequest([Tensor.from_array("x", [0.0])]))

asyncio.run(main())
"""


async def test_no_process_is_left_when_the_server_is_killed(add_code, gates, until):
    # it holds the GIL: no thread of its own could see that the server is gone
    code = """
    class M:
        def infer(self, x: np.ndarray) -> np.ndarray:
            (GATES / "began").write_text("began")
            sys.setswitchinterval(1000)
            while True:
                pass
    """
    command = [sys.executable, "-c", PARENT, str(add_code(code))]
    parent = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    with parent:
        try:
            pid = int(await asyncio.to_thread(parent.stdout.readline))
            await gates[0].pass_through()
            assert is_alive(pid)
        finally:
            parent.kill()
    await until(lambda: not is_alive(pid))
