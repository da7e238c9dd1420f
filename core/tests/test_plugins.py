import json
import subprocess
import sys

import pytest

from jackfield import InferRequest, ModelLoadError, Server, Tensor
from jackfield._plugins import discover

GOOD = """
from jackfield import RuntimeSpec, hookimpl

@hookimpl
def jackfield_runtimes():
    return [RuntimeSpec(name="{name}", runtime="x:X", aliases=("mlserver_{name}.Model",))]
"""


def found():
    return {plugin.name: plugin for plugin in discover().plugins}


def test_a_plugin_is_found_with_its_distribution_hooks_and_runtimes(add_plugin):
    add_plugin("good", GOOD.format(name="good"), version="4.5.6")
    plugins = discover()
    [plugin] = [each for each in plugins.plugins if each.name == "good"]
    assert (plugin.distribution, plugin.version) == ("jackfield-good", "4.5.6")
    assert plugin.hooks == ("jackfield_runtimes",)
    assert plugin.problem == ""
    [spec] = plugin.runtimes
    assert plugins.find("good") is spec
    assert plugins.find("mlserver_good.Model") is spec
    assert plugins.find("other") is None


HOOK = "from jackfield import RuntimeSpec, hookimpl\n@hookimpl\ndef {name}():\n    {body}\n"
BROKEN = {
    "import of nothing": ("import nothing_of_this_name", "ModuleNotFoundError: No module named"),
    "error at import": ("1 / 0", "ZeroDivisionError: division by zero"),
    "no Python": ("def (", "SyntaxError"),
    "unknown hook": (
        HOOK.format(name="jackfield_teapots", body="return []"),
        "it implements hooks that this version has not: jackfield_teapots",
    ),
    "unknown argument": (
        "from jackfield import hookimpl\n@hookimpl\ndef jackfield_runtimes(x):\n    return []",
        "jackfield_runtimes takes x, which jackfield 0.1.0 does not give; it gives: nothing",
    ),
    "no wrapper": (
        "from jackfield import hookimpl\n@hookimpl(wrapper=True)\n"
        "def jackfield_runtimes():\n    return []",
        "function is not a generator function",
    ),
    "ends the process": ("raise SystemExit(3)", "SystemExit: 3"),
    "field of another version": (
        HOOK.format(
            name="jackfield_runtimes",
            body="return [RuntimeSpec(name='x', runtime='x:X', from_the_future=1)]",
        ),
        "from_the_future",
    ),
    "hook that raises": (HOOK.format(name="jackfield_runtimes", body="1 / 0"), "ZeroDivisionError"),
    "hook that gives a number": (HOOK.format(name="jackfield_runtimes", body="return 3"), "int"),
    "hook that gives text": (
        HOOK.format(name="jackfield_runtimes", body="return ['good']"),
        "jackfield_runtimes gave str, not RuntimeSpec",
    ),
    "one runtime twice": (
        HOOK.format(
            name="jackfield_runtimes", body="return [RuntimeSpec(name='x', runtime='x:X')] * 2"
        ),
        "its runtime 'x' is jackfield-bad's already",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("name", ["bad", "zzz"])
def test_a_broken_plugin_is_named_and_the_others_work(add_plugin, case, name):
    code, problem = BROKEN[case]
    add_plugin("good", GOOD.format(name="good"))
    add_plugin(name, code, distribution="jackfield-bad", version="0.0.7")
    plugins = found()
    assert plugins["good"].problem == ""
    assert [spec.name for spec in plugins["good"].runtimes] == ["good"]
    bad = plugins[name]
    assert (bad.distribution, bad.version) == ("jackfield-bad", "0.0.7")
    assert problem in bad.problem
    assert bad.runtimes == ()


def test_a_broken_plugins_other_hooks_are_not_called(add_plugin):
    code = (
        "from jackfield import hookimpl\n"
        "@hookimpl\ndef jackfield_runtimes():\n    raise SystemError('was called')\n"
        "@hookimpl\ndef jackfield_teapots():\n    return []\n"
    )
    add_plugin("bad", code)
    add_plugin("good", GOOD.format(name="good"))
    plugins = found()
    assert "jackfield_teapots" in plugins["bad"].problem
    assert plugins["good"].problem == ""


# ---- Built for another version ----


@pytest.mark.parametrize(
    ("wanted", "is_met"),
    [
        ("", True),
        (">=0.1", True),
        (">=0.1.0,<1", True),
        (">0.0.9", True),
        ("~=0.1.0", True),
        ("==0.1.*", True),
        ("==0.1", True),
        ("!=0.2", True),
        (">=0.2", False),
        ("(>=0.2)", False),
        (">=0.1,<0.1", False),
        (">0.1", False),
        ("<=0.0.9", False),
        ("~=0.2.0", False),
        ("==0.2.*", False),
        ("!=0.1.*", False),
        ("==1.0", False),
    ],
)
@pytest.mark.parametrize("name", ["jackfield", "Jackfield[sklearn]"])
def test_a_plugin_for_another_version_of_the_core_is_left_out(
    add_plugin, monkeypatch, name, wanted, is_met
):
    monkeypatch.setattr("jackfield._plugins.__version__", "0.1.0")
    site = add_plugin("future", "1 / 0" if not is_met else GOOD.format(name="future"))
    metadata = next(site.glob("*.dist-info")) / "METADATA"
    others = "Requires-Dist: jackfield-other>=9\nRequires-Dist: jackfield>=9; extra == 'x'\n"
    metadata.write_text(f"{metadata.read_text()}{others}Requires-Dist: {name}{wanted}\n")
    plugin = found()["future"]
    if is_met:
        assert plugin.problem == ""
    else:
        bounds = wanted.strip("()")
        assert plugin.problem == f"it is built for jackfield {bounds}, and this is 0.1.0"
        assert plugin.steps == ()


def test_a_development_version_counts_as_its_release(add_plugin, monkeypatch):
    monkeypatch.setattr("jackfield._plugins.__version__", "0.2.0.dev3+g1234")
    site = add_plugin("next", GOOD.format(name="next"))
    with (next(site.glob("*.dist-info")) / "METADATA").open("a") as metadata:
        metadata.write("Requires-Dist: jackfield>=0.2\n")
    assert found()["next"].problem == ""


# ---- The trace ----


def test_the_steps_of_a_plugin_are_timed_until_it_fails(add_plugin):
    add_plugin("bad", HOOK.format(name="jackfield_runtimes", body="1 / 0"))
    add_plugin("good", GOOD.format(name="good"))
    add_plugin("unimportable", "1 / 0")
    steps = {name: [step.name for step in plugin.steps] for name, plugin in found().items()}
    assert steps["good"] == steps["bad"] == ["import", "jackfield_runtimes"]
    assert steps["unimportable"] == ["import"]
    assert all(step.duration_ms > 0 for plugin in found().values() for step in plugin.steps)


def test_an_import_is_slow_from_a_limit_on_and_names_what_came_with_it(add_plugin, monkeypatch):
    site = add_plugin("heavy", f"import json, heavy_framework\n{GOOD.format(name='heavy')}")
    (site / "heavy_framework.py").write_text("")
    monkeypatch.delitem(sys.modules, "heavy_framework", raising=False)
    [plugin] = discover(["heavy"]).plugins
    assert plugin.imports == ("heavy_framework",)
    took = plugin.steps[0].duration_ms
    monkeypatch.setattr("jackfield._plugins.SLOW_IMPORT_MS", took + 0.001)
    assert plugin.delay == ""
    monkeypatch.setattr("jackfield._plugins.SLOW_IMPORT_MS", took)
    assert plugin.delay == f"slow: its import took {took:.0f} ms, with heavy_framework"


# ---- Warnings ----


def test_what_is_wrong_is_warned_of_by_name(add_plugin, monkeypatch):
    add_plugin("bad", "1 / 0", version="0.0.7")
    add_plugin("good", GOOD.format(name="good"))
    warnings = discover(["bad", "good", "goood", "teapot"]).warnings
    assert warnings == [
        "no installed plugin has the name 'goood' (JACKFIELD_PLUGINS); did you mean 'good'",
        *(each for each in warnings if "'teapot' (JACKFIELD_PLUGINS); there are: " in each),
        "plugin 'jackfield-bad' 0.0.7 is left out: ZeroDivisionError: division by zero",
    ]
    assert len(warnings) == 3
    assert "bad, good" in warnings[1]
    assert discover(["good"]).warnings == []
    monkeypatch.setattr("jackfield._plugins.SLOW_IMPORT_MS", 0.0)
    [warning] = discover(["good"]).warnings
    assert warning.startswith("plugin 'jackfield-good' 1.2.3 is slow: its import took ")


async def test_a_server_logs_the_warnings_and_serves(add_plugin, add_reader, models_dir, caplog):
    add_plugin("bad", "import nothing_of_this_name", version="0.0.7")
    add_reader("text", "*.txt")
    (models_dir / "model.txt").write_text("hello")
    async with Server([models_dir / "model.txt"], plugins=["bad", "text", "nobody"]) as server:
        response = await server.model("model").infer(InferRequest([Tensor.from_array("x", [1])]))
    assert response.output("text").array.tolist() == [b"hello"]
    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("'jackfield-bad' 0.0.7 is left out: ModuleNotFoundError" in each for each in logged)
    assert any("no installed plugin has the name 'nobody'" in each for each in logged)


def test_of_two_plugins_that_claim_a_name_the_first_by_distribution_has_it(add_plugin):
    add_plugin("z", GOOD.format(name="same"), distribution="jackfield-a")
    add_plugin("a", GOOD.format(name="same"), distribution="jackfield-z")
    plugins = found()
    assert [spec.name for spec in plugins["z"].runtimes] == ["same"]
    assert plugins["a"].runtimes == ()
    assert plugins["a"].problem == "its runtime 'same' is jackfield-a's already"


def test_a_plugin_that_is_left_out_claims_nothing(add_plugin):
    code = HOOK.format(
        name="jackfield_runtimes",
        body="return [RuntimeSpec(name='same', runtime='x:X'), 'junk']",
    )
    add_plugin("a", code)
    twice = HOOK.format(
        name="jackfield_runtimes",
        body="return [RuntimeSpec(name='same', runtime='x:X')] * 2",
    )
    add_plugin("b", twice)
    add_plugin("c", GOOD.format(name="same"))
    plugins = found()
    assert plugins["a"].problem
    assert plugins["b"].problem
    assert plugins["c"].problem == ""


def test_two_distributions_with_one_entry_point_name_are_both_listed(add_plugin):
    add_plugin("same", GOOD.format(name="one"), distribution="dist-one")
    add_plugin("same", GOOD.format(name="two"), distribution="dist-two")
    plugins = discover().plugins
    by_distribution = {each.distribution: each for each in plugins if each.name == "same"}
    assert set(by_distribution) == {"dist-one", "dist-two"}
    assert sum(bool(each.problem) for each in by_distribution.values()) == 1


@pytest.mark.parametrize(
    ("only", "names"), [(None, ["a", "b"]), (["b"], ["b"]), ([], []), (["c"], [])]
)
def test_only_the_plugins_named_are_imported(add_plugin, monkeypatch, only, names):
    for name in ("a", "b"):
        add_plugin(name, GOOD.format(name=name))
    loaded = discover(only).plugins
    assert [plugin.name for plugin in loaded if plugin.name in ("a", "b")] == names
    for name in {"a", "b"} - set(names):
        assert f"plugin_jackfield_{name}" not in sys.modules


@pytest.mark.parametrize(
    ("implementation", "text"),
    [
        ("sklearn", 'install it: pip install "jackfield[sklearn]"'),
        ("mlserver_sklearn.SKLearnModel", 'install it: pip install "jackfield[sklearn]"'),
        ("mlserver_xgboost.XGBoostModel", 'install it: pip install "jackfield[xgboost]"'),
        (
            "mlserver_alibi_detect.AlibiDetectRuntime",
            'install it: pip install "jackfield[alibi-detect]"',
        ),
        ("alibi-explain", 'install it: pip install "jackfield[alibi-explain]"'),
        ("teapot", "installed are: good"),
    ],
)
def test_a_missing_runtime_says_what_to_install_or_what_there_is(add_plugin, implementation, text):
    add_plugin("good", GOOD.format(name="good"))
    error = discover(["good"]).missing(implementation)
    assert isinstance(error, ModelLoadError)
    assert text in str(error)


def test_a_runtime_whose_plugin_is_left_out_says_why(add_plugin):
    add_plugin("sklearn", "1 / 0", version="0.9")
    error = discover(["sklearn"]).missing("mlserver_sklearn.SKLearnModel")
    assert "jackfield-sklearn 0.9: ZeroDivisionError: division by zero" in str(error)


def test_discovery_imports_no_numpy_and_no_server(add_plugin):
    site = add_plugin("good", GOOD.format(name="good"))
    code = (
        f"import json, sys; sys.path.insert(0, {str(site)!r})\n"
        "from jackfield._plugins import discover\n"
        "names = [plugin.name for plugin in discover(['good']).plugins]\n"
        "print(json.dumps([names, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    names, modules = json.loads(output)
    assert names == ["good"]
    heavy = {"numpy", "grpc", "google", "starlette", "uvicorn", "hypercorn", "orjson", "sklearn"}
    assert heavy.isdisjoint(modules)


async def test_a_plugins_runtime_gets_its_artifact_and_its_own_settings(add_reader, models_dir):
    add_reader("text", "*.txt", options="Options")
    (models_dir / "model.txt").write_text("hello")
    settings = {"name": "m", "implementation": "text", "parameters": {"extra": {"scale": "2.5"}}}
    (models_dir / "model-settings.json").write_text(json.dumps(settings))
    async with Server([models_dir], plugins=["text"]) as server:
        response = await server.model("m").infer(InferRequest([Tensor.from_array("x", [1])]))
    assert response.output("text").array.tolist() == [b"hello"]
    assert response.output("scale").array.tolist() == [2.5]


async def test_a_runtimes_unknown_setting_is_a_problem_of_the_model(add_reader, models_dir):
    add_reader("text", "*.txt", options="Options")
    (models_dir / "model.txt").write_text("hello")
    settings = {"name": "m", "implementation": "text", "parameters": {"extra": {"scaled": 2}}}
    (models_dir / "model-settings.json").write_text(json.dumps(settings))
    async with Server([models_dir], plugins=["text"]) as server:
        [line] = await server.index()
    assert line.state == "UNAVAILABLE"
    assert "'parameters.extra.scaled'; did you mean 'parameters.extra.scale'" in line.reason


# ---- a runtime in front of another ----

FRONT = """
from jackfield import ArtifactFormat, InferResponse, ModelNotReadyError, RuntimeSpec, hookimpl


@hookimpl
def jackfield_runtimes():
    return [
        RuntimeSpec(
            name="front",
            runtime="plugin_jackfield_front:Front",
            artifacts=(ArtifactFormat("FRONT", is_folder=True),),
        )
    ]


class Front:
    def __init__(self, context):
        self.context = context
        self.problem = ""

    def load(self):
        folder = self.context.artifact
        extra = dict(self.context.extra)
        self.name = extra.pop("with", "text")
        self.inner, self.capabilities = self.context.load_with(
            self.name, folder / "inner.txt", extra
        )

    def metadata(self):
        return self.inner.metadata()

    def infer(self, request):
        if request.parameters.get("fall"):
            self.problem = "it fell over"
        if self.problem:
            raise ModelNotReadyError(self.context.name, reason=self.problem)
        return self.inner.infer(request)

    def close(self):
        self.inner.close()
"""


@pytest.fixture
def serve_front(add_plugin, add_reader, models_dir):
    """Serve a folder by `front`, which has `text` read a file in it."""
    add_plugin("front", FRONT)
    add_reader("text", "*.txt", options="Options")
    folder = models_dir / "both"
    folder.mkdir()
    (folder / "FRONT").touch()
    (folder / "inner.txt").write_text("hello")

    def serve(plugins=("front", "text"), **settings):
        (folder / "model-settings.json").write_text(json.dumps(settings))
        return Server([folder], plugins=plugins)

    return serve


@pytest.mark.parametrize("scheduler", ["auto", "process"])
async def test_a_runtime_has_another_load_what_it_stands_before(serve_front, scheduler):
    settings = {"scheduler": scheduler, "parameters": {"extra": {"scale": 2.5}}}
    async with serve_front(**settings) as server:
        model = server.model("both")
        assert (model.runtime_name, model.metadata.platform) == ("front", "text")
        answer = await model.infer(x=[1.0])
        assert answer.arrays["text"].tolist() == [b"hello"]
        assert answer.arrays["scale"].tolist() == [2.5]


@pytest.mark.parametrize(
    ("plugins", "extra", "reason"),
    [
        (["front"], {}, "it needs the runtime 'text', which is not installed; install it: pip"),
        (["front", "text"], {"with": "tex"}, "it needs the runtime 'tex', which is not installed"),
        (
            ["front", "text"],
            {"scale": "much"},
            "the settings for the runtime 'text' do not fit: Expected `float`, got `str`",
        ),
    ],
)
async def test_what_stands_against_another_runtime_is_told(serve_front, plugins, extra, reason):
    async with serve_front(plugins, parameters={"extra": extra}) as server:
        [line] = await server.index()
        assert reason in line.reason


async def test_a_runtime_that_has_a_problem_is_not_ready(serve_front, client_of):
    async with serve_front() as server, client_of(server) as client:
        assert (await client.get("/v2/models/both/ready")).status_code == 200
        body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1]}]}
        fall = body | {"parameters": {"fall": True}}
        for sent in (fall, body):
            answer = await client.post("/v2/models/both/infer", json=sent)
            assert answer.status_code == 503
            assert "it fell over" in answer.json()["error"]
        assert (await client.get("/v2/models/both/ready")).status_code == 503
        [line] = await server.index()
        assert (line.state, line.reason) == ("UNAVAILABLE", "it fell over")
        assert (await client.get("/v2/health/live")).status_code == 200
