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
        "PluginValidationError",
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
        ("mlserver_alibi_detect.AlibiDetectRuntime", 'install it: pip install "jackfield[alibi]"'),
        ("alibi-explain", 'install it: pip install "jackfield[alibi]"'),
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
