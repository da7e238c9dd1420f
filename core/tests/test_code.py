import pytest

from jackfield import InferRequest, ModelLoadError, Server, Tensor
from jackfield._code import import_runtime


async def answer_of(server, name):
    response = await server.model(name).infer(InferRequest([Tensor.from_array("x", [1.0])]))
    return response.outputs[0].array.tolist()


async def test_folders_whose_code_has_the_same_name_do_not_meet(add_model, models_dir):
    code = (add_model("a") / "runtimes.py").read_text()
    add_model("b", code=code.replace("FACTOR = 2", "FACTOR = 5"))
    async with Server([models_dir], plugins=()) as server:
        assert await answer_of(server, "a") == [2]
        assert await answer_of(server, "b") == [5]


def test_a_module_in_the_models_folder_goes_before_an_installed_one(tmp_path):
    (tmp_path / "json.py").write_text("class Decoder: mine = True")
    assert import_runtime("json:Decoder", folder=tmp_path).mine
    assert not hasattr(import_runtime("json:JSONDecoder"), "mine")


def test_code_may_lie_in_a_folder_below(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "mod.py").write_text("class Here: pass")
    assert import_runtime("pkg.mod:Here", folder=tmp_path).__name__ == "Here"


def test_a_class_in_the_models_code_can_be_pickled_and_made_a_dataclass(tmp_path):
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\n"
        "import dataclasses, pickle\n"
        "@dataclasses.dataclass\n"
        "class Own:\n"
        "    x: int = 1\n"
        "    y: dataclasses.KW_ONLY = None\n"
        "assert pickle.loads(pickle.dumps(Own())) == Own()\n"
    )
    assert import_runtime("own:Own", folder=tmp_path)().x == 1


def test_no_compilation_is_left_in_the_models_folder(add_model, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    folder = add_model("double")
    import_runtime("runtimes:Double", folder=folder)
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nowhere_at_all:X", "module 'nowhere_at_all' is neither in '"),
        ("nowhere_at_all.sub:X", "module 'nowhere_at_all.sub' is neither in '"),
        ("json:Nothing", "module 'json' has no class 'Nothing'"),
        ("json:dumps", "module 'json' has no class 'dumps'"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, path, problem):
    with pytest.raises(ModelLoadError, match=problem):
        import_runtime(path, folder=tmp_path)


def test_a_module_that_needs_a_missing_one_says_which(add_plugin):
    add_plugin("a", "import the_missing_framework\nclass X: pass")
    with pytest.raises(ModelLoadError, match="needs the module 'the_missing_framework', which is"):
        import_runtime("plugin_jackfield_a:X")
