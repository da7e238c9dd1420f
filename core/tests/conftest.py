"""Model folders with code of their own, real plugins, and servers on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import shutil
import sys
import textwrap
import threading
import types
from pathlib import Path

import grpc.aio
import httpx
import pytest
from blockbuster import blockbuster_ctx

from jackfield import InferRequest, Server, ServerSettings, Tensor
from jackfield._grpc.server import GrpcServer
from jackfield._wire.descriptors import METHODS, SERVICE

RUNTIMES = Path(__file__).with_name("runtimes.py")
#: Whose levels a command sets; the first is the root.
_LOGGERS = ("", "jackfield", "jackfield.http", "uvicorn", "uvicorn.error", "hypercorn", "httpx")


@pytest.fixture(autouse=True)
def _log_as_it_was():
    """Undo what a command that runs here does to the process's log."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in _LOGGERS}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="session")
def stores():
    """Give the servers of ``stores.py``, from which artifacts are fetched."""
    spec = importlib.util.spec_from_file_location("stores", Path(__file__).with_name("stores.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def web(stores):
    """Run a web server on loopback."""
    server = stores.WebServer()
    yield server
    server.stop()


@pytest.fixture
def nothing_blocks_the_loop():
    """Fail where a request's path blocks the event loop; a start may."""
    paths = ("_http.app", "_http.errors", "_grpc.servicer", "_grpc.errors", "_models")
    paths += ("_wire.json", "_wire.proto", "_wire.raw", "_wire.shared", "_scheduling")
    paths += ("_http.controls", "_shared_memory", "_logging_settings", "_tracing")
    with blockbuster_ctx([f"jackfield.{path}" for path in paths]):
        yield


@pytest.fixture
def models_dir(tmp_path):
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def add_model(models_dir):
    """Write a model folder; its runtime is a class of ``runtimes.py``, or the code given."""

    def add(name, kind="Double", *, folder=None, version="", extra=None, code=None, **settings):
        place = models_dir / (folder or f"{name}{version}")
        place.mkdir(parents=True, exist_ok=True)
        if code is None:
            shutil.copy(RUNTIMES, place / "runtimes.py")
        else:
            (place / "runtimes.py").write_text(code)
        parameters = {"extra": extra or {}} | ({"version": version} if version else {})
        written = {
            "name": name,
            "implementation": f"runtimes.{kind}",
            "parameters": parameters,
            **settings,
        }
        (place / "model-settings.json").write_text(json.dumps(written))
        return place

    return add


class Stage(types.ModuleType):
    """What a test and the runtime `Staged` share: gates, and a log of what happened."""

    def __init__(self):
        super().__init__("stage")
        self.loading = threading.Semaphore(0)
        self.may_load = threading.Event()
        self.may_load.set()
        self.inferring = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.log = []
        #: The requests that `Rows` was called with.
        self.calls = []

    async def until_inferring(self, count=1):
        for _ in range(count):
            assert await asyncio.to_thread(self.inferring.acquire, timeout=10)

    async def until_loading(self):
        assert await asyncio.to_thread(self.loading.acquire, timeout=10)


@pytest.fixture
def stage(monkeypatch):
    stage = Stage()
    monkeypatch.setitem(sys.modules, "stage", stage)
    yield stage
    stage.may_load.set()
    stage.may_answer.set()


async def _until(is_true):
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0.001)


@pytest.fixture
def until():
    """Wait for something that gives no signal."""
    return _until


@pytest.fixture
def request_of():
    """Make a request for the in-process door."""

    def make(*values, dtype="f8", **fields):
        import numpy as np

        return InferRequest([Tensor.from_array("x", np.array(values, dtype=dtype))], **fields)

    return make


@pytest.fixture
def body_of():
    """Make the JSON body of a request of one FP64 input."""

    def make(*values, **fields):
        tensor = {"name": "x", "shape": [len(values)], "datatype": "FP64", "data": list(values)}
        return json.dumps({"inputs": [tensor], **fields}).encode()

    return make


@pytest.fixture
def client_of():
    """Make an HTTP client that calls an ASGI app without a socket."""

    def make(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    return make


@dataclasses.dataclass
class Running:
    """A server that listens."""

    server: Server
    http: str
    grpc: str
    metrics: str
    task: asyncio.Task
    stop: asyncio.Event

    def client(self, **options):
        return httpx.AsyncClient(base_url=self.http, timeout=20, **options)

    def channel(self):
        # a pool of its own: an old connection to a port used before is not taken over
        return grpc.aio.insecure_channel(self.grpc, options=[("grpc.use_local_subchannel_pool", 1)])


@pytest.fixture
def running():
    """Run a server on free ports, stop it at the end."""

    @contextlib.asynccontextmanager
    async def run(*paths, plugins=(), name="", **settings):
        free = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
        server = Server(
            paths, settings=ServerSettings(**(free | settings)), plugins=plugins, name=name
        )
        stop = asyncio.Event()
        started = asyncio.get_running_loop().create_future()

        async def announce(addresses):
            started.set_result(addresses)

        task = asyncio.create_task(server.run(stop, announce))
        await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        at = started.result()
        try:
            yield Running(server, at.http, at.grpc, at.metrics, task, stop)
        finally:
            stop.set()
            await task

    return run


@pytest.fixture
def serving(client_of):
    """Serve REST without a socket and gRPC on one: what has no port to close stops at once."""

    @contextlib.asynccontextmanager
    async def serve(*paths, **settings):
        settings = ServerSettings(**settings)
        async with Server(paths, plugins=(), settings=settings) as server:
            listener = GrpcServer(server._servicer(), settings, server._problem)
            address = f"127.0.0.1:{await listener.start('127.0.0.1', 0)}"
            try:
                async with client_of(server) as rest, grpc.aio.insecure_channel(address) as channel:
                    yield server, rest, channel
            finally:
                await listener.stop(0)

    return serve


@pytest.fixture
def call():
    """Call a method of the inference service."""

    def make(channel, method, message=None, **fields):
        kind = METHODS[method]
        return channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=kind.request.SerializeToString,
            response_deserializer=kind.response.FromString,
        )(kind.request(**fields) if message is None else message)

    return make


@pytest.fixture
def add_plugin(tmp_path, monkeypatch):
    """Install a plugin: a distribution with an entry point, on a path of its own."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def add(name, code, *, distribution=None, version="1.2.3"):
        distribution = distribution or f"jackfield-{name}"
        module = f"plugin_{distribution.replace('-', '_')}"
        (site / f"{module}.py").write_text(code)
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[jackfield]\n{name} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        return site

    return add


@pytest.fixture
def add_reader(add_plugin):
    """Install a plugin with one runtime that reads files; it answers the file's text."""

    def add(
        name, *patterns, by_content=(), folders=(), runtime=None, aliases=(), options="", schemes=()
    ):
        formats = ", ".join(
            f"ArtifactFormat({pattern!r}, by_content={pattern in by_content}, "
            f"is_folder={pattern in folders})"
            for pattern in dict.fromkeys((*patterns, *by_content, *folders))
        )
        code = READER.format(
            name=runtime or name,
            formats=formats,
            aliases=aliases,
            module=f"plugin_jackfield_{name}",
            options=options or "None",
            schemes=tuple(schemes),
        )
        return add_plugin(name, code)

    return add


READER = """
import msgspec
from jackfield import ArtifactFormat, RuntimeSpec, hookimpl


class Options(msgspec.Struct, forbid_unknown_fields=True):
    scale: float = 1.0


@hookimpl
def jackfield_runtimes():
    return [
        RuntimeSpec(
            name="{name}",
            runtime="{module}:Reader",
            artifacts=({formats},),
            aliases={aliases},
            options={options},
            uri_schemes={schemes},
        )
    ]


class Reader:
    def __init__(self, context):
        self.context = context

    def load(self):
        place = self.context.artifact
        if place is None:
            self.text = self.context.uri
        elif place.is_dir():
            self.text = " ".join(sorted(path.name for path in place.iterdir()))
        else:
            self.text = place.read_text()

    def metadata(self):
        from jackfield import ModelMetadata
        return ModelMetadata(platform="{name}")

    def infer(self, request):
        from jackfield import InferResponse, Tensor
        outputs = [Tensor.from_array("text", [self.text])]
        if self.context.options:
            outputs.append(Tensor.from_array("scale", [self.context.options.scale]))
        return InferResponse(outputs)

    def close(self):
        pass
"""


class Gate:
    """A FIFO that code in another process waits at or writes to; nothing polls."""

    def __init__(self, path):
        self.path = path
        os.mkfifo(path)

    async def pass_through(self):
        """Meet the one that opens the other end, and read what it wrote."""
        return await self._meet(self.path.read_text)

    async def open(self):
        """Let one go on that waits."""
        await self._meet(self.path.write_text, "open")

    async def _meet(self, act, *args):
        try:
            return await asyncio.wait_for(asyncio.to_thread(act, *args), 20)
        except TimeoutError:
            # let the thread go, for which the loop would wait
            os.close(os.open(self.path, os.O_RDWR | os.O_NONBLOCK))
            raise


@pytest.fixture
def gates(tmp_path):
    """Two FIFOs: a model tells that it began, and waits until it may go on."""
    return Gate(tmp_path / "began"), Gate(tmp_path / "may_go_on")


#: How the code of a model in another process begins.
HEAD = """
import asyncio, gc, logging, os, signal, sys, threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jackfield import (
    Capabilities, InferRequest, InferResponse, InvalidRequestError, ModelLoadError, OverloadedError,
    Tensor, route,
)

GATES = Path({gates!r})


def meet():
    (GATES / "began").write_text("began")
    (GATES / "may_go_on").read_text()

"""


@pytest.fixture
def add_code(add_model, tmp_path):
    """Write a model with the code of a class `M`."""

    def add(code, name="m", **settings):
        whole = HEAD.format(gates=str(tmp_path)) + textwrap.dedent(code)
        return add_model(name, "M", code=whole, **settings)

    return add
