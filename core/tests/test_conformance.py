"""The conformance suite: our own server passes, a broken one fails where it is broken."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import msgspec
import pytest

from jackfield import ServerSettings
from jackfield._http.runners import create_runner
from jackfield._ports import listen
from jackfield._wire.descriptors import METHODS, SERVICE
from jackfield.testing.conformance import CHECKS, ConformanceError, Level, Outcome, run
from jackfield.testing.conformance._page import update

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

ECHO = """
from jackfield import Capabilities, Datatype, InferResponse, ModelMetadata, TensorMetadata


class Echo:
    DATATYPES = tuple(Datatype)

    def __init__(self, context):
        pass

    def load(self):
        pass

    def metadata(self):
        tensors = [TensorMetadata(each.lower(), each, [-1, -1]) for each in self.DATATYPES]
        return ModelMetadata(platform="echo", inputs=tensors, outputs=tensors)

    def infer(self, request):
        by_name = {each.name: each for each in request.inputs}
        wanted = [each.name for each in request.outputs] or list(by_name)
        return InferResponse([by_name[name] for name in wanted])

    def stream(self, request):
        for _ in range(3):
            yield self.infer(request)

    def close(self):
        pass


class One(Echo):
    '''One input, one open size: what a raw request needs. It answers no stream.'''

    stream = None

    def metadata(self):
        tensors = [TensorMetadata("fp32", Datatype.FP32, [-1, 4])]
        return ModelMetadata(platform="echo", inputs=tensors, outputs=tensors)
"""


def failures(report):
    return [f"{result.id}: {result.detail}" for result in report.of(Outcome.FAILED)]


def skipped(report):
    return {result.id for result in report.of(Outcome.SKIPPED)}


def test_ids_are_unique_and_say_level_and_transport():
    counted = Counter(check.id for check in CHECKS)
    assert [name for name, count in counted.items() if count > 1] == []
    for check in CHECKS:
        level, transport, *rest = check.id.split(".")
        assert level in set(Level)
        assert transport in ("http", "grpc")
        assert rest


def test_each_check_says_what_it_requires_and_where_that_comes_from():
    for check in CHECKS:
        assert check.requirement.endswith("."), check.id
        assert check.source, check.id


def test_the_page_lists_the_checks_as_they_are():
    text = PAGE.read_text()
    assert update(text) == text, "run: python -m jackfield.testing.conformance._page " + str(PAGE)


async def test_our_server_passes_every_check(running, add_model, models_dir):
    add_model("echo", "Echo", version="3", code=ECHO)
    async with running(models_dir, shared_memory=True) as at:
        report = await asyncio.to_thread(run, at.http, at.grpc, model="echo", allow_unload=True)
    assert failures(report) == []
    assert report.conforms
    assert len(report.results) == len(CHECKS)
    assert skipped(report) == {
        "binary.http.raw-request",  # it has many inputs
        "management.http.extension.cuda-shared-memory",
    }


async def test_our_server_passes_with_a_model_of_one_input(running, add_model, models_dir):
    add_model("one", "One", code=ECHO)
    async with running(models_dir) as at:
        report = await asyncio.to_thread(run, at.http, at.grpc, model="one", allow_unload=True)
    assert failures(report) == []
    assert "binary.http.raw-request" not in skipped(report)


async def test_a_version_is_checked_by_its_own_routes(running, add_model, models_dir):
    for version in ("1", "2"):
        add_model("echo", "Echo", version=version, code=ECHO)
    async with running(models_dir) as at:
        report = await asyncio.to_thread(run, at.http, at.grpc, model="echo", version="1")
    assert failures(report) == []
    assert report.version == "1"


async def test_levels_choose_the_checks(running, add_model, models_dir):
    add_model("one", "One", code=ECHO)
    async with running(models_dir) as at:
        report = await asyncio.to_thread(run, at.http, model="one", levels=[Level.STREAM])
    assert {result.level for result in report.results} == {"stream"}
    reasons = {result.detail for result in report.of(Outcome.SKIPPED) if ".grpc." in result.id}
    assert reasons == {"no gRPC address was given"}


def test_an_address_that_does_not_answer_is_an_error():
    with pytest.raises(ConformanceError, match="expected a server at"):
        run("http://127.0.0.1:9", model="m", timeout_s=2)
    with pytest.raises(ValueError, match="expected a URL"):
        run("127.0.0.1:9", model="m")


# ---- a server with faults ----


class BrokenRest:
    """Serves REST with one fault of many kinds; the rest is right."""

    async def __call__(self, scope, receive, send):
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        status, kind, answer = self.answer(scope["method"], scope["path"], headers, body)
        if not isinstance(answer, bytes):
            # NaN is written as a literal
            answer = json.dumps(answer).encode()
        start = [(b"content-type", kind.encode())] if kind else []
        await send({"type": "http.response.start", "status": status, "headers": start})
        await send({"type": "http.response.body", "body": answer})

    def answer(self, method, path, headers, body):
        ok = (200, "application/json")
        match path.removeprefix("/v2").strip("/").split("/"):
            case [""]:
                listed = ["statistics", "binary_tensor_data"]  # neither is there
                return *ok, {"name": "broken", "version": "1", "extensions": listed}
            case ["health", "live"]:
                return 200, "", b""  # kserve reads a body
            case ["health", "ready"] | ["models", "m", "ready"]:
                return *ok, {"live": True, "ready": True}
            case ["models", "m"]:
                kinds = ("INT32", "FP64", "BYTES")
                tensors = [{"name": each, "datatype": each, "shape": [-1, 2]} for each in kinds]
                return *ok, {"name": "m", "platform": "", "inputs": tensors, "outputs": tensors}
            case ["models", _, "infer"]:  # unknown models are served
                return self.infer(headers, body)
            case ["models", _, "infer_stream"]:
                events = b'data: {"model_name": "m",\n\ndata: "outputs": []}\n\n'  # cut in two
                return 200, "text/event-stream", events
            case ["repository", "index"]:
                return *ok, [{"name": "m", "state": "State.READY"}]
        return 404, "text/plain", b"not found"  # no JSON

    def infer(self, headers, body):
        if "octet-stream" in headers.get("content-type", ""):
            return 415, "application/json", {"error": "expected application/json"}
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return 422, "application/json", {"detail": "bad JSON"}
        try:
            outputs = [self.echo(given) for given in request["inputs"]]
        except (KeyError, TypeError, ValueError):
            return 500, "text/plain", b"Internal Server Error"
        return 200, "application/json", {"model_name": "m", "id": None, "outputs": outputs}

    def echo(self, given):
        data = given["data"]
        if given["datatype"] == "INT32":
            data = [min(value, 2**31 - 2) for value in data]  # the limit is lost
        if given["datatype"] == "FP64":
            data = [float("nan") if value is None else value for value in data]
        return {key: given[key] for key in ("name", "datatype", "shape")} | {"data": data}


class BrokenGrpc(grpc.GenericRpcHandler):
    """Serves gRPC with half-raw outputs and MLServer's bare stream."""

    def service(self, details):
        name = details.method.removeprefix(f"/{SERVICE}/")
        answer = getattr(self, name, None)
        if answer is None:
            return None
        kinds = METHODS[name]
        if name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(
                answer, kinds.request.FromString, METHODS["ModelInfer"].response.SerializeToString
            )
        return grpc.unary_unary_rpc_method_handler(
            answer, kinds.request.FromString, kinds.response.SerializeToString
        )

    def ServerLive(self, message, context):  # noqa: N802
        return METHODS["ServerLive"].response(live=True)

    def ModelInfer(self, message, context):  # noqa: N802
        if message.model_name != "m":
            context.abort(grpc.StatusCode.UNKNOWN, "no such model")
        answer = METHODS["ModelInfer"].response(model_name="m")
        raw = message.raw_input_contents
        for index, given in enumerate(message.inputs):
            output = answer.outputs.add(name=given.name, datatype=given.datatype, shape=given.shape)
            if raw and index:
                continue  # only the first output is there
            if raw:
                answer.raw_output_contents.append(raw[index])
            else:
                output.contents.CopyFrom(given.contents)
        return answer

    def ModelStreamInfer(self, messages, context):  # noqa: N802
        for message in messages:
            yield self.ModelInfer(message, context)


@pytest.fixture
async def broken():
    listener = listen("127.0.0.1", 0, "http_port")
    host, port = listener.getsockname()[:2]
    runner = create_runner(BrokenRest(), listener, ServerSettings())
    task = asyncio.create_task(runner.serve())
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[BrokenGrpc()])
        grpc_port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"http://{host}:{port}", f"127.0.0.1:{grpc_port}"
        server.stop(0).wait()
    runner.stop()
    await task


@pytest.fixture
async def report(broken):
    return await asyncio.to_thread(run, *broken, model="m", timeout_s=10)


async def test_each_fault_of_a_broken_server_is_found(report):
    outcomes = {result.id: result.outcome for result in report.results}
    expected = {
        "core.http.health.live-body",
        "core.http.unknown-model.infer",
        "core.http.unknown-route",
        "core.http.infer.octet-stream",
        "core.http.infer.echoes-id",
        "core.http.infer.id-is-never-null",
        "core.http.infer.requested-output",
        "core.http.infer.unknown-output",
        "core.http.infer.special-numbers",
        "core.http.datatype.int32",
        "core.http.refuses.not-json",
        "core.http.refuses.no-inputs-field",
        "core.http.refuses.data-too-few",
        "core.http.refuses.duplicate-names",
        "core.grpc.unknown-model.infer",
        "core.grpc.refuses.datatype-unknown",
        "binary.http.input",
        "binary.grpc.raw-output",
        "stream.http.infer-stream.events",
        "stream.http.infer-stream.unknown-model",
        "stream.http.infer-stream.bad-input",
        "stream.grpc.form",
        "management.http.extension.statistics",
        "management.http.extension.model-repository",
        "management.http.extension.binary-tensor-data",
        "management.http.index.form",
    }
    assert {name for name in expected if outcomes[name] is not Outcome.FAILED} == set()
    assert not report.conforms


async def test_what_a_broken_server_does_right_passes(report):
    outcomes = {result.id: result.outcome for result in report.results}
    right = {
        "core.http.health.ready",
        "core.http.model-metadata",
        "core.http.infer.answers",
        "core.http.infer.outputs-are-whole",
        "core.http.infer.no-content-type",
        "core.http.datatype.fp64",
        "core.http.datatype.bytes",
        "core.grpc.live",
        "core.grpc.infer.answers",
    }
    assert {name for name in right if outcomes[name] is not Outcome.PASSED} == set()
    assert outcomes["core.http.datatype.uint8"] is Outcome.SKIPPED  # the model has none
    assert outcomes["management.grpc.config.form"] is Outcome.SKIPPED  # it has no such method


async def test_a_failure_says_what_was_expected_and_what_was_found(report):
    details = {result.id: result.detail for result in report.of(Outcome.FAILED)}
    assert details["core.http.refuses.data-too-few"].startswith("expected ")
    assert "found" in details["core.http.refuses.data-too-few"]
    assert "2147483647" in details["core.http.datatype.int32"]
    assert '{"detail": "bad JSON"}' in details["core.http.refuses.not-json"]
    unread = [f"{name}: {text}" for name, text in details.items() if "can't be read" in text]
    assert unread == []


# ---- the runners ----


@pytest.fixture
def command():
    async def call(*arguments):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, error = await process.communicate()
        return process.returncode, out.decode(), error.decode()

    return call


async def test_the_command_prints_a_report(command, running, add_model, models_dir):
    add_model("one", "One", code=ECHO)
    async with running(models_dir) as at:
        given = ("jackfield", "conformance", at.http, "--grpc", at.grpc, "--model", "one")
        code, out, error = await command(*given)
        assert (code, error) == (0, "")
        assert "failed" not in out
        assert "LEVEL" in out
        code, out, error = await command(*given, "--level", "core, stream", "--json")
        assert (code, error) == (0, "")
        report = msgspec.json.decode(out)
        assert report["counts"].keys() == {"core", "stream"}
        assert report["counts"]["core"]["failed"] == 0
        code, _, error = await command(*given, "--level", "all")
        assert code == 2
        assert "found all" in error


async def test_the_command_fails_on_failures(command, broken):
    url, _ = broken
    code, out, _ = await command("jackfield", "conformance", url, "--model", "m")
    assert code == 1
    assert "core.http.unknown-model.infer" in out
    code, _, error = await command("jackfield", "conformance", "http://127.0.0.1:9", "--model", "m")
    assert code == 2
    assert error.startswith("error: expected a server at")


async def test_the_command_takes_an_example_request(command, broken, tmp_path):
    url, _ = broken
    tensor = {"name": "INT32", "shape": [1, 2], "datatype": "INT32", "data": [1, 2]}
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"inputs": [tensor]}))
    given = ("jackfield", "conformance", url, "--model", "m", "--request", str(file), "--json")
    _, out, _ = await command(*given)
    outcomes = {result["id"]: result["outcome"] for result in msgspec.json.decode(out)["results"]}
    assert outcomes["core.http.infer.answers"] == "passed"
    assert outcomes["core.http.refuses.number-for-text"] == "skipped"  # the example has no text


async def test_pytest_runs_a_test_for_each_check(command, running, add_model, models_dir, tmp_path):
    add_model("one", "One", code=ECHO)
    suite = "jackfield.testing.conformance"
    async with running(models_dir) as at:
        given = ("--oip-url", at.http, "--oip-grpc", at.grpc, "--oip-model", "one")
        start = ("pytest", "-q", "--rootdir", str(tmp_path), "-p", f"{suite}.pytest_plugin")
        code, out, error = await command(*start, "--pyargs", suite, *given, "--oip-level", "core")
    assert code == 0, out + error
    assert " passed" in out
    assert "failed" not in out


async def test_pytest_shows_what_was_found(command, broken, tmp_path):
    suite = "jackfield.testing.conformance"
    url, _ = broken
    start = ("pytest", "-q", "--rootdir", str(tmp_path), "-p", f"{suite}.pytest_plugin")
    given = ("--pyargs", suite, "--oip-url", url, "--oip-model", "m", "-k", "not-json")
    code, out, _ = await command(*start, *given)
    assert code == 1
    assert "bad JSON" in out


def test_the_checks_need_no_pytest():
    code = "import sys, jackfield.testing.conformance; print('pytest' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert found.stdout.strip() == b"False"
