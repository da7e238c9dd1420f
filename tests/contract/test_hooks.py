"""Every hook is documented where it is declared, and its example works as it stands there."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pluggy
import pytest

from jackfield import ArtifactSource, ArtifactSourceSpec, EngineSpec, RuntimeSpec, hookspecs
from jackfield._code import import_class
from jackfield._plugins import discover

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"


def declared():
    """Ask pluggy, not the source, which hooks there are: name -> specification."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return {name: caller.spec for name, caller in vars(manager.hook).items() if caller.spec}


def test_the_page_has_a_heading_with_the_signature_of_every_hook():
    headings = re.findall(r"^### `(\w+)\((.*)\) -> .+`$", PAGE.read_text("utf-8"), re.MULTILINE)
    documented = {
        name: tuple(re.findall(r"(\w+)(?=:|,|$)", arguments)) for name, arguments in headings
    }
    assert documented == {name: spec.argnames for name, spec in declared().items()}


def test_every_hook_has_all_sections_in_their_order(generate):
    hooks = {hook.name: hook for hook in generate.read_hooks()}
    assert set(hooks) == set(declared())
    for name, spec in declared().items():
        expected = [each for each in generate.SECTIONS if each != "Args" or spec.argnames]
        assert list(hooks[name].sections) == expected, name
        assert all(hooks[name].sections.values()), name
        assert re.fullmatch(r"[A-Z].{1,88}\.", hooks[name].duty), name


def test_every_argument_of_a_hook_is_described(generate):
    for hook in generate.read_hooks():
        described = re.findall(r"^(\w+): ", hook.sections.get("Args", ""), re.MULTILINE)
        assert tuple(described) == declared()[hook.name].argnames, hook.name


def test_every_hook_says_since_which_version(generate):
    for hook in generate.read_hooks():
        assert re.fullmatch(r"\d+\.\d+(\.\d+)?", hook.sections["Since"]), hook.name


def brings_a_runtime(plugin):
    assert [type(spec) for spec in plugin.runtimes] == [RuntimeSpec]


def brings_an_engine(plugin):
    assert [type(spec) for spec in plugin.engines] == [EngineSpec]


def brings_a_source(plugin):
    [spec] = plugin.sources
    assert isinstance(spec, ArtifactSourceSpec)
    with TemporaryDirectory() as folder:
        data = b"a model"
        (Path(folder) / "wine.ubj").write_bytes(data)
        source = import_class(spec.source)({"root": folder}, timeout_s=1.0)
        assert isinstance(source, ArtifactSource)
        [file] = source.list_files("share:/wine.ubj").files
        told = []
        source.fetch("share:/wine.ubj", file, Path(folder) / "copy", progress=told.append)
        assert (Path(folder) / "copy").read_bytes() == data
        assert (file.path, file.size, told[-1]) == ("wine.ubj", len(data), len(data))


#: Hook -> what its example must achieve, once discovery has found the plugin.
ACHIEVES = {
    "jackfield_artifact_sources": brings_a_source,
    "jackfield_runtimes": brings_a_runtime,
    "jackfield_score_engines": brings_an_engine,
}


@pytest.mark.parametrize("hook", sorted(declared()))
def test_the_example_of_a_hook_works_as_an_installed_plugin(hook, generate, tmp_path, monkeypatch):
    (documented,) = (each for each in generate.read_hooks() if each.name == hook)
    (example,) = re.findall(r"```python\n(.*?)```", documented.sections["Example"], re.DOTALL)
    module = f"example_of_{hook}"
    (tmp_path / f"{module}.py").write_text(example)
    install(tmp_path, distribution="an-example", entry=f"an_example = {module}")
    monkeypatch.syspath_prepend(tmp_path)

    (plugin,) = discover(["an_example"]).plugins

    assert (plugin.distribution, plugin.version) == ("an-example", "1.2.3")
    assert plugin.problem == ""
    assert plugin.hooks == (hook,)
    ACHIEVES[hook](plugin)


def install(folder, *, distribution, entry):
    """Write what an installer leaves of a distribution."""
    info = folder / f"{distribution.replace('-', '_')}-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.3\n")
    (info / "entry_points.txt").write_text(f"[jackfield]\n{entry}\n")
