import gc
import sys
import threading
import weakref

import pytest

from jackfield import InferRequest, ModelLoadError, Server, Tensor
from jackfield._code import Code, import_class


@pytest.fixture
def code_of():
    """Import a folder's code, and forget it at the end."""
    made = []

    def load(folder):
        made.append(Code(folder))
        return made[-1]

    yield load
    for code in made:
        code.close()


@pytest.fixture
def write(tmp_path):
    def write(**files):
        for name, text in files.items():
            parts = [part.replace("INIT", "__init__") for part in name.split("__")]
            file = tmp_path.joinpath(*parts).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


async def answer_of(server, name):
    response = await server.model(name).infer(InferRequest([Tensor.from_array("x", [1.0])]))
    return response.outputs[0].array.tolist()


async def test_folders_whose_code_has_the_same_name_do_not_meet(add_model, models_dir):
    code = (add_model("a") / "runtimes.py").read_text()
    add_model("b", code=code.replace("FACTOR = 2", "FACTOR = 5"))
    async with Server([models_dir], plugins=()) as server:
        assert await answer_of(server, "a") == [2]
        assert await answer_of(server, "b") == [5]


def test_a_module_in_the_models_folder_goes_before_an_installed_one(write, code_of):
    folder = write(json="class Decoder: mine = True")
    assert code_of(folder).load("json").Decoder.mine
    assert not hasattr(import_class("json:JSONDecoder"), "mine")
    assert sys.modules["json"].__file__ != str(folder / "json.py")


def test_code_may_lie_in_a_folder_below(write, code_of):
    assert code_of(write(pkg__mod="class Here: pass")).load("pkg.mod").Here.__name__ == "Here"


FORMS = {
    "from": "from helper import value",
    "module": "import helper\nvalue = helper.value",
    "alias": "import helper as h\nvalue = h.value",
    "relative": "from . import helper\nvalue = helper.value",
    "relative from": "from .helper import value",
    "late": "def get():\n    from helper import value\n    return value\nvalue = get()",
    "package": "from pkg.deep import value",
    "package module": "import pkg.deep\nvalue = pkg.deep.value",
    "submodule from package": "from pkg import deep\nvalue = deep.value",
    "package with init": "import full\nvalue = full.value",
    "importlib": "import importlib\nvalue = importlib.import_module('.helper', __package__).value",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_models_code_imports_what_lies_beside_it(form, write, code_of):
    folder = write(
        main=FORMS[form],
        helper="value = 7",
        pkg__deep="from helper import value",
        full__INIT="from full.part import value",
        full__part="import helper\nvalue = helper.value",
    )
    assert code_of(folder).load("main").value == 7
    assert "helper" not in sys.modules


def test_a_module_is_imported_once_in_a_folder(write, code_of):
    folder = write(main="import helper, second", second="import helper", helper="class Own: pass")
    main = code_of(folder).load("main")
    assert main.helper is main.second.helper


def test_siblings_of_one_name_stay_apart_in_time_and_place(tmp_path, code_of):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"value = {name!r}")
        (tmp_path / name / "main.py").write_text(
            "def get():\n    import helper\n    return helper.value"
        )
    first, second = (code_of(tmp_path / name).load("main") for name in ("a", "b"))
    assert (second.get(), first.get()) == ("b", "a")


def test_a_later_load_sees_changed_siblings_and_the_earlier_one_keeps_its_own(write, code_of):
    folder = write(
        main="def get():\n    from helper import value\n    return value", helper="value=1"
    )
    first = code_of(folder).load("main")
    assert first.get() == 1
    write(helper="value=2", added="")
    assert code_of(folder).load("main").get() == 2
    assert first.get() == 1


def test_a_folder_of_data_does_not_hide_a_package(write, code_of):
    folder = write(main="import email.message as found")
    (folder / "email").mkdir()
    (folder / "email" / "mail.txt").write_text("dear")
    assert code_of(folder).load("main").found.__name__ == "email.message"


def test_a_file_may_have_the_name_of_what_it_wraps(write, code_of):
    assert (
        code_of(write(statistics="import statistics\nmean = statistics.mean"))
        .load("statistics")
        .mean([1, 3])
        == 2
    )


def test_a_missing_import_names_the_module(write, code_of):
    with pytest.raises(ModuleNotFoundError, match="No module named 'the_missing_one'"):
        code_of(write(main="import the_missing_one")).load("main")


def test_what_is_closed_leaves_no_module_and_frees_memory(write):
    folder = write(main="import helper\nclass Model: pass", helper="class Big: pass")
    before = set(sys.modules)
    code = Code(folder)
    big = weakref.ref(code.load("main").helper.Big)
    code.close()
    del code
    gc.collect()
    assert {name for name in set(sys.modules) - before if "jackfield_model" in name} == set()
    assert big() is None


def test_many_threads_may_load_at_once(tmp_path, code_of):
    def load(number):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "helper.py").write_text(f"value = {number}")
        (folder / "main.py").write_text("from helper import value")
        code = Code(folder)
        found[number] = code.load("main").value
        code.close()

    found = {}
    threads = [threading.Thread(target=load, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: number for number in range(20)}


def test_a_class_in_the_models_code_can_be_pickled_and_made_a_dataclass(write, code_of):
    folder = write(
        own="from __future__ import annotations\n"
        "import dataclasses, pickle\n"
        "@dataclasses.dataclass\n"
        "class Own:\n"
        "    x: int = 1\n"
        "    y: dataclasses.KW_ONLY = None\n"
        "assert pickle.loads(pickle.dumps(Own())) == Own()\n"
    )
    assert code_of(folder).load("own").Own().x == 1


def test_no_compilation_is_left_in_the_models_folder(add_model, monkeypatch, code_of):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    folder = add_model("double")
    code_of(folder).load("runtimes")
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize("path", ["nowhere_at_all", "nowhere_at_all.sub"])
def test_a_module_that_is_not_there_is_said(tmp_path, path, code_of):
    with pytest.raises(ModelLoadError, match=f"module '{path}' is neither in '"):
        code_of(tmp_path).load(path)


@pytest.mark.parametrize("name", ["Nothing", "dumps"])
def test_a_class_that_is_not_there_is_said(name):
    with pytest.raises(ModelLoadError, match=f"module 'json' has no class '{name}'"):
        import_class(f"json:{name}")


def test_a_module_that_needs_a_missing_one_says_which(add_plugin):
    add_plugin("a", "import the_missing_framework\nclass X: pass")
    with pytest.raises(ModelLoadError, match="needs the module 'the_missing_framework', which is"):
        import_class("plugin_jackfield_a:X")
