"""One request passes exactly the functions that docs/flow.md lists."""

import asyncio
import json
import re
import struct
import sys
import threading
from pathlib import Path

import grpc.aio
import pytest

from jackfield import Server, ServerSettings
from jackfield._wire.descriptors import METHODS, SERVICE

FLOW = Path(__file__).parents[2] / "docs" / "flow.md"

ECHO = """
from jackfield import Capabilities, Datatype, InferResponse, ModelMetadata, TensorMetadata


class Echo:
    capabilities = Capabilities(row_wise=True)

    def __init__(self, context):
        pass

    def load(self):
        pass

    def metadata(self):
        x = TensorMetadata("x", Datatype.FP64, [-1, 3])
        return ModelMetadata(platform="echo", inputs=[x], outputs=[x])

    def infer(self, request):
        return InferResponse(request.inputs)

    def close(self):
        pass
"""

REST_BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP64", "data": [1.0, 2.0, 3.0]}]}
).encode()


#: What wakes up now and then beside the requests.
TICKING = (
    "_http.runners.",
    "_statistics.LoopStatistics.",
    "_scheduling.plain.PlainScheduler._beat",
)


class Recorder:
    """A profile function that notes each of our functions once, in the order of first entry."""

    def __init__(self):
        self.entered = []
        self.on = False

    def __call__(self, frame, event, arg):
        if not self.on or event != "call":
            return
        module = frame.f_globals.get("__name__", "")
        name = frame.f_code.co_qualname
        if module.startswith("_jackfield_model_"):
            entered = f"<runtime>.{name.rpartition('.')[2]}"
        elif module.partition(".")[0] == "jackfield":
            entered = f"{module}.{name}".removeprefix("jackfield.")
        else:
            return
        # a comprehension is a function of its own before Python 3.12 only
        is_part = entered.endswith(("comp>", "genexpr>"))
        if not is_part and not entered.startswith(TICKING) and entered not in self.entered:
            self.entered.append(entered)


@pytest.fixture
def recorder():
    """Watch this thread and those that start later."""
    recorder = Recorder()
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    yield recorder
    sys.setprofile(None)
    threading.setprofile(None)


@pytest.fixture
def echo(tmp_path):
    (tmp_path / "echo.py").write_text(ECHO)
    settings = {"name": "echo", "implementation": "echo.Echo"}
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    return tmp_path


def listed(shell):
    """Read the list of flow.md that the marker names, and the number that is stated above it."""
    match = re.search(
        rf"<!-- traced: {shell} -->\n(?P<prose>.*?)```\n(?P<lines>.*?)```",
        FLOW.read_text("utf-8"),
        re.DOTALL,
    )
    assert match, f"flow.md has no list marked '{shell}'"
    number = re.search(r"\*\*(\d+)\*\* functions", match["prose"])
    assert number, f"flow.md does not say how many functions the list '{shell}' has"
    return [line.split()[0] for line in match["lines"].splitlines()], int(number[1])


def check(recorder, shell):
    functions, stated = listed(shell)
    assert recorder.entered == functions, "\n".join(["entered:", *recorder.entered])
    ours = [name for name in functions if not name.startswith("<runtime>")]
    assert stated == len(ours)


async def post(app):
    """Send one request as an HTTP server does: the body in one message."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v2/models/echo/infer",
        "raw_path": b"/v2/models/echo/infer",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(REST_BODY)).encode()),
        ],
        "server": ("127.0.0.1", 8080),
        "client": ("127.0.0.1", 50000),
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": REST_BODY, "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_a_rest_request_enters_the_functions_of_the_list(echo, recorder):
    async with Server([echo]) as server:
        for _ in range(3):  # fill caches, and show that the model is quick
            await post(server)
        recorder.on = True
        start, body = await post(server)
        recorder.on = False
    assert start["status"] == 200
    assert json.loads(body["body"])["outputs"][0]["data"] == [1.0, 2.0, 3.0]
    check(recorder, "rest")


async def test_a_grpc_call_enters_the_functions_of_the_list(echo, recorder):
    method = METHODS["ModelInfer"]
    request = method.request(model_name="echo")
    request.inputs.add(name="x", datatype="FP64", shape=[1, 3])
    request.raw_input_contents.append(struct.pack("<3d", 1.0, 2.0, 3.0))
    stopped, started = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def note(addresses):
        started.set_result(addresses.grpc)

    settings = ServerSettings(http_port=0, grpc_port=0, metrics_endpoint="")
    running = asyncio.create_task(Server([echo], settings=settings).run(stopped, note))
    async with grpc.aio.insecure_channel(await started) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        for _ in range(3):  # fill caches, and show that the model is quick
            await infer(request)
        recorder.on = True
        response = await infer(request)
        recorder.on = False
    stopped.set()
    await running
    assert response.raw_output_contents == request.raw_input_contents
    check(recorder, "grpc")
