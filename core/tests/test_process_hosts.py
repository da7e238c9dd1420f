"""Processes with several models, and processes of another environment."""

import asyncio
import logging
import os
import signal
import sys
import threading
import venv
from pathlib import Path

import msgspec
import numpy as np
import orjson
import pluggy
import pytest

from jackfield import Capabilities, InferRequest, ModelLoadError, ModelNotReadyError, Tensor
from jackfield._environments import Environment
from jackfield._plugins import discover
from jackfield._process.child import Child
from jackfield._process.host import Host
from jackfield._process.hosts import Hosts
from jackfield._process.proxy import ProcessRuntime, resolve_in_host
from jackfield._repository import Repository


def request_of(*values):
    return InferRequest([Tensor.from_array("x", np.array(values, dtype="f8"))])


@pytest.fixture
async def hosts():
    hosts = Hosts()
    yield hosts
    await asyncio.to_thread(hosts.close)


@pytest.fixture
def start(hosts):
    """Load a model in its process."""

    async def make(path, **options):
        [source] = Repository([path], discover(only=())).scan()
        runtime = ProcessRuntime(source, hosts, asyncio.get_running_loop(), **options)
        await asyncio.to_thread(runtime.load)
        return runtime

    return make


def pooled(gid):
    return {"parameters": {"inference_pool_gid": gid}}


WHERE = """
class M:
    capabilities = Capabilities(row_wise=True)

    def __init__(self, context):
        self.name = context.name
        self.logger = context.logger
        self.calls = context.metrics.counter("calls_made", "Calls.")

    def infer(self, x: np.ndarray) -> list[str]:
        if x.flat[0] < 0:
            os.kill(os.getpid(), int(-x.flat[0]))
        if x.flat[0] == 1:
            meet()
        self.calls.inc()
        self.logger.info("called")
        return [self.name, threading.current_thread().name, str(os.getpid())]
"""


async def where(runtime, number=0):
    """Tell who answers, in which thread, in which process."""
    response = await asyncio.wait_for(runtime.infer(request_of(number)), 20)
    return [each.decode() for each in response.outputs[0].array.tolist()]


def is_gone(pid):
    """Tell whether a process is dead and waited for."""
    return not Path(f"/proc/{pid}").exists()


# ---- several models in one process ----


async def test_models_of_one_pool_share_a_process_and_others_do_not(add_code, start):
    one = await start(add_code(WHERE, "one", **pooled("a")))
    two = await start(add_code(WHERE, "two", **pooled("a")))
    other = await start(add_code(WHERE, "other", **pooled("b")))
    alone = await start(add_code(WHERE, "alone", scheduler="process"))
    own = {"parameters": {"autogenerate_inference_pool_gid": True}}
    apart = await start(add_code(WHERE, "apart", **own))
    for runtime, name in ((one, "one"), (two, "two"), (other, "other"), (alone, "alone")):
        assert (await where(runtime))[0] == name
    assert one.pid == two.pid
    assert len({one.pid, other.pid, alone.pid, apart.pid, os.getpid()}) == 5


async def test_a_lone_model_runs_in_the_main_thread_before_and_after_it_has_company(
    add_code, start
):
    one = await start(add_code(WHERE, "one", **pooled("a")))
    assert (await where(one))[1] == "MainThread"
    two = await start(add_code(WHERE, "two", **pooled("a")))
    threads = [(await where(each))[1] for each in (one, two)]
    assert "MainThread" not in threads
    assert len(set(threads)) == 2
    await asyncio.to_thread(two.close)
    async with asyncio.timeout(20):
        while (await where(one))[1] != "MainThread":
            pass
    with pytest.raises(ModelNotReadyError, match="it is unloaded"):
        await two.infer(request_of(0))
    pid = one.pid
    await asyncio.to_thread(one.close)
    assert is_gone(pid)


async def test_a_model_that_computes_keeps_no_other_of_its_process_waiting(add_code, start, gates):
    one = await start(add_code(WHERE, "one", **pooled("a")))
    two = await start(add_code(WHERE, "two", **pooled("a")))
    began, may_go_on = gates
    running = asyncio.ensure_future(where(one, 1))
    await began.pass_through()
    assert (await where(two))[0] == "two"
    three = await start(add_code(WHERE, "three", **pooled("a")))
    assert (await where(three))[0] == "three"
    await asyncio.to_thread(two.close)
    assert (await where(three))[0] == "three"
    await may_go_on.open()
    assert (await running)[0] == "one"


async def test_models_come_and_go_while_one_is_called(add_code, start):
    one = await start(add_code(WHERE, "one", **pooled("a")))
    places = [add_code(WHERE, f"m{number}", **pooled("a")) for number in range(4)]
    is_over = False

    async def call():
        count = 0
        while not is_over:
            assert (await where(one))[0] == "one"
            count += 1
        return count

    callers = [asyncio.ensure_future(call()) for _ in range(3)]
    for _ in range(3):
        others = await asyncio.gather(*map(start, places))
        assert {(await where(each))[0] for each in others} == {"m0", "m1", "m2", "m3"}
        await asyncio.gather(*(asyncio.to_thread(each.close) for each in others))
    is_over = True
    assert all(count > 0 for count in await asyncio.gather(*callers))


async def test_a_model_that_fails_to_load_leaves_the_others_of_its_process_alone(
    add_code, add_model, start
):
    one = await start(add_code(WHERE, "one", **pooled("a")))
    pid = one.pid
    with pytest.raises(ModelLoadError, match="the file is corrupt"):
        await start(add_model("bad", "BrokenOnLoad", **pooled("a")))
    assert (await where(one)) == ["one", (await where(one))[1], str(pid)]
    # its number and name are free again
    two = await start(add_code(WHERE, "bad", folder="good", **pooled("a")))
    assert (await where(two))[2] == str(pid)


async def test_each_models_log_and_metrics_are_its_own(add_code, start, caplog, until):
    caplog.set_level(logging.INFO, "jackfield")
    one = await start(add_code(WHERE, "one", **pooled("a")))
    two = await start(add_code(WHERE, "two", **pooled("a")))
    for runtime in (one, two, two):
        await where(runtime)

    def counted(runtime):
        samples = [each for metric in runtime.metrics.collect() for each in metric.samples]
        return [each.value for each in samples if each.name == "calls_made_total"]

    await until(lambda: (counted(one), counted(two)) == ([1], [2]))
    called = [each.model for each in caplog.records if each.getMessage() == "called"]
    assert called == ["one", "two", "two"]


async def test_a_death_takes_the_models_of_that_process_and_all_of_them_come_back(
    add_code, start, gates
):
    one = await start(add_code(WHERE, "one", **pooled("a")))
    two = await start(add_code(WHERE, "two", **pooled("a")))
    other = await start(add_code(WHERE, "other", **pooled("b")))
    pid = one.pid
    running = asyncio.ensure_future(where(one, 1))
    await gates[0].pass_through()
    with pytest.raises(ModelNotReadyError, match="'two' is not ready: its process was killed by"):
        await where(two, -signal.SIGKILL)
    with pytest.raises(ModelNotReadyError, match="'one' is not ready: its process was killed by"):
        await running
    assert not other.problem
    assert (await where(other))[0] == "other"
    # these wait
    assert [(await where(each))[0] for each in (one, two)] == ["one", "two"]
    assert one.pid == two.pid != pid
    assert is_gone(pid)


async def test_a_model_that_kills_its_process_whenever_it_loads_is_left_out(add_code, start, until):
    one = await start(add_code(WHERE, "one", **pooled("a")))
    place = add_code(WHERE, "two", **pooled("a"))
    two = await start(place)
    (place / "runtimes.py").write_text("import os\nos._exit(5)")
    with pytest.raises(ModelNotReadyError):
        await where(one, -signal.SIGKILL)
    await until(lambda: two.is_benched)
    assert "its process exited with code 5 while it loaded" in two.problem
    assert "which goes on without it: load it anew" in two.problem
    assert (await where(one))[0] == "one"
    with pytest.raises(ModelNotReadyError, match="load it anew"):
        await where(two)


async def test_what_contradicts_is_refused(add_code, start):
    with pytest.raises(ModelLoadError, match="scheduler 'thread' does not fit"):
        await start(add_code(WHERE, scheduler="thread", **pooled("a")))


async def test_the_end_of_the_hosts_ends_all_processes(add_code, start, hosts):
    runtimes = [await start(add_code(WHERE, name, **pooled("a"))) for name in ("one", "two")]
    runtimes.append(await start(add_code(WHERE, "alone", scheduler="process")))
    await asyncio.to_thread(hosts.close)
    assert all(is_gone(each.pid) for each in runtimes)
    for runtime in runtimes:
        with pytest.raises(ModelNotReadyError, match="it is unloaded"):
            await where(runtime)


# ---- another environment ----

PLUGIN = """
import msgspec
from jackfield import Capabilities, RuntimeSpec, hookimpl

class Options(msgspec.Struct):
    scale: float = 1.0
    needs: list[str] = []

@hookimpl
def jackfield_runtimes():
    return [RuntimeSpec(name="tiny", runtime="tinyplug_runtime:Tiny", options=Options,
                        capabilities=Capabilities(row_wise=True))]
"""
RUNTIME = """
import sys
import jackfield
from jackfield import ModelMetadata, Tensor, InferResponse, TensorMetadata

class Tiny:
    def __init__(self, context):
        self.context = context
        self.calls = context.metrics.counter("tiny_calls", "Calls.")

    def load(self):
        pass

    def metadata(self):
        names = sorted({name.partition(".")[0] for name in sys.modules})
        return ModelMetadata(platform="tiny", parameters={
            "modules": names, "jackfield": jackfield.__file__, "path": list(sys.path),
            "prefix": sys.prefix,
        }, inputs=[TensorMetadata("x", "FP64", [-1])])

    def infer(self, request):
        self.calls.inc()
        y = request.inputs[0].array * self.context.options.scale
        return InferResponse([Tensor.from_array("y", y)])

    def close(self):
        pass
"""


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Make an environment with what a host needs, and a plugin that the server has not."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True, with_pip=False)
    [packages] = place.glob("lib/python*/site-packages")
    for module in (pluggy, msgspec, np, orjson):
        source = Path(module.__file__).parent
        for each in (source, source.with_name(f"{source.name}.libs")):
            if each.exists():
                (packages / each.name).symlink_to(each)
    for each in Path(pluggy.__file__).parents[1].glob("pluggy-*.dist-info"):
        (packages / each.name).symlink_to(each)
    (packages / "tinyplug.py").write_text(PLUGIN)
    (packages / "tinyplug_runtime.py").write_text(RUNTIME)
    info = packages / "tinyplug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tinyplug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jackfield]\ntiny = tinyplug\n")
    return place


@pytest.fixture
def in_environment(environment, monkeypatch, tmp_path):
    """Let settings that name an environment mean that one, whatever they name."""
    more = tmp_path / "more"
    more.mkdir()

    def prepare(settings, folder, running):
        python = environment / "bin" / "python"
        return Environment(
            python=python, key=settings.path, extra_path=(str(more),), description="tiny"
        )

    monkeypatch.setattr("jackfield._process.hosts.prepare", prepare)
    return more


@pytest.fixture
def add_tiny(models_dir):
    def add(name, **settings):
        place = models_dir / name
        place.mkdir()
        whole = {"name": name, "implementation": "tiny", "environment": "env", **settings}
        (place / "model-settings.json").write_bytes(msgspec.json.encode(whole))
        return place

    return add


async def test_a_model_runs_with_its_environments_packages_and_the_servers_jackfield(
    add_tiny, start, in_environment, environment, monkeypatch, until
):
    import jackfield

    monkeypatch.setenv("PYTHONPATH", "/nowhere/of/the/servers")
    runtime = await start(add_tiny("m", parameters={"extra": {"scale": 2.5}}))
    response = await runtime.infer(request_of(1, 2))
    assert response.outputs[0].array.tolist() == [2.5, 5.0]
    found = runtime.metadata().parameters
    assert found["prefix"] == str(environment)
    assert found["jackfield"] == jackfield.__file__
    assert found["path"][-1] == str(in_environment)
    servers = set(sys.path) - {*sys.builtin_module_names}
    theirs = [each for each in found["path"] if "site-packages" in each and each in servers]
    assert theirs == []
    assert not {"starlette", "grpc", "google", "uvicorn"} & {*found["modules"]}
    assert runtime.capabilities == Capabilities(row_wise=True)
    # Prometheus' library is lent by the server

    def counted():
        samples = [each for metric in runtime.metrics.collect() for each in metric.samples]
        return [each.value for each in samples if each.name == "tiny_calls_total"]

    await until(lambda: counted() == [1])
    os.kill(runtime.pid, signal.SIGKILL)
    await until(lambda: runtime.problem)
    assert (await runtime.infer(request_of(1))).outputs[0].array.tolist() == [2.5]


async def test_a_models_own_code_runs_in_its_environment(add_code, start, in_environment):
    code = """
    import tinyplug

    class M:
        def infer(self, x: np.ndarray) -> list[str]:
            return [sys.prefix, tinyplug.__name__]
    """
    runtime = await start(add_code(code, environment="env"))
    prefix, module = (await runtime.infer(request_of(1))).outputs[0].array.tolist()
    assert prefix.decode() != sys.prefix
    assert module == b"tinyplug"


async def test_models_of_one_environment_share_a_process_unless_they_ask_not_to(
    add_tiny, start, in_environment
):
    one = await start(add_tiny("one"))
    two = await start(add_tiny("two"))
    three = await start(add_tiny("three", environment="another"))
    pooled = await start(add_tiny("pooled", parameters={"inference_pool_gid": "a"}))
    own = await start(add_tiny("own", parameters={"autogenerate_inference_pool_gid": True}))
    assert one.pid == two.pid
    assert len({one.pid, three.pid, pooled.pid, own.pid}) == 4


async def test_what_a_model_is_is_found_in_its_environment(add_tiny, in_environment, hosts):
    extra = {"extra": {"needs": ["other"]}}
    [source] = Repository([add_tiny("m", parameters=extra)], discover(only=())).scan()
    assert (source.spec, source.problem) == (None, "")
    loop = asyncio.get_running_loop()
    found = await asyncio.to_thread(resolve_in_host, source, hosts, loop)
    assert found.source.spec.name == "tiny"
    assert found.source.spec.capabilities == Capabilities(row_wise=True)
    assert found.source.settings.needs == ["other"]
    runtime = ProcessRuntime(found.source, hosts, loop)
    await asyncio.to_thread(runtime.load)
    await asyncio.to_thread(found.leave)  # the loaded one keeps the process
    assert (await runtime.infer(request_of(3))).outputs[0].array.tolist() == [3]
    pid = runtime.pid
    await asyncio.to_thread(runtime.close)
    assert is_gone(pid)


async def test_a_runtime_that_the_environment_has_not_is_named(add_tiny, in_environment, hosts):
    [source] = Repository([add_tiny("m", implementation="nope")], discover(only=())).scan()
    with pytest.raises(ModelLoadError, match="no installed plugin has the runtime 'nope'"):
        await asyncio.to_thread(resolve_in_host, source, hosts, asyncio.get_running_loop())


@pytest.fixture(params=[False, True], ids=["", "asked when it is dead"])
def dies_early(request, monkeypatch):
    """Have a process that dies at once be asked before that is seen, or before it is known how."""
    if not request.param:
        return
    is_asked = threading.Event()
    begin_ask, end = Host._begin_ask, Child.end

    def begin_late(host, *args):
        if host._link is not None:
            host.loop.call_later(0.01, begin_late, host, *args)
            return
        begin_ask(host, *args)
        is_asked.set()

    def end_late(child):
        assert is_asked.wait(20)
        return end(child)

    monkeypatch.setattr(Host, "_begin_ask", begin_late)
    monkeypatch.setattr(Child, "end", end_late)


async def test_the_server_lends_a_plugin_that_the_environment_has_not(
    add_tiny, in_environment, hosts, monkeypatch, tmp_path
):
    site = tmp_path / "site"
    # as that of an environment of MLServer's, which has the framework alone; and one that it has
    for name, code in (
        ("lentplug", PLUGIN.replace("tinyplug_runtime", "lentplug").replace('"tiny"', '"lent"')),
        ("tinyplug", "raise RuntimeError"),
    ):
        info = site / f"{name}-2.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[jackfield]\n{name} = {name}\n")
        (site / f"{name}.py").write_text(code + RUNTIME)
    monkeypatch.syspath_prepend(site)
    loop = asyncio.get_running_loop()
    for name, implementation in (("a", "lent"), ("b", "tiny")):
        place = add_tiny(name, implementation=implementation)
        [source] = Repository([place], discover(only=())).scan()
        found = await asyncio.to_thread(resolve_in_host, source, hosts, loop)
        runtime = ProcessRuntime(found.source, hosts, loop)
        await asyncio.to_thread(runtime.load)
        await asyncio.to_thread(found.leave)
        assert (await runtime.infer(request_of(3))).outputs[0].array.tolist() == [3]
        # of what the server has, no more than that
        assert str(site) not in runtime.metadata().parameters["path"]
        await asyncio.to_thread(runtime.close)


@pytest.mark.usefixtures("dies_early")
async def test_an_environment_that_is_broken_is_told(add_tiny, hosts, monkeypatch, tmp_path):
    place = tmp_path / "broken"
    place.mkdir()
    python = place / "python"
    python.write_text("#!/bin/sh\necho no such library >&2\nexit 127\n")
    python.chmod(0o755)
    found = Environment(python=python, key="", extra_path=(), description="broken")
    monkeypatch.setattr("jackfield._process.hosts.prepare", lambda *_: found)
    [source] = Repository([add_tiny("m")], discover(only=())).scan()
    with pytest.raises(ModelLoadError, match="its process exited with code 127 while it loaded"):
        await asyncio.to_thread(resolve_in_host, source, hosts, asyncio.get_running_loop())


async def test_a_server_serves_what_it_has_no_plugin_for(
    add_tiny, add_model, in_environment, models_dir, serving
):
    add_tiny("m", parameters={"extra": {"needs": ["other"]}})
    add_model("other")
    async with serving(models_dir) as (_, rest, _):
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [4]}]}
        answer = await rest.post("/v2/models/m/infer", json=body)
        assert answer.json()["outputs"][0]["data"] == [4]
        assert (await rest.get("/v2/models/m")).json()["platform"] == "tiny"
        assert (await rest.get("/v2/models/m/ready")).status_code == 200
