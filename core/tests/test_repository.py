import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from jackfield import ModelSettings, SettingsError
from jackfield._plugins import discover
from jackfield._repository import Repository


@pytest.fixture
def readers(add_reader):
    """Install two runtimes: `text` reads text files, `many` reads three forms."""
    add_reader("text", "*.txt", aliases=("mlserver_text.TextModel",))
    add_reader("many", "*.first", "*.second", "*.both")
    return ["text", "many"]


@pytest.fixture
def scan(models_dir, readers):
    def scan(*paths, plugins=readers, **options):
        found = Repository(paths or [models_dir], discover(plugins), **options).scan()
        return {(source.name, source.version): source for source in found}

    return scan


def write(path, content="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def only(found):
    [source] = found.values()
    return source


# ---- artifacts without settings ----


def test_a_file_is_a_model_with_the_files_name(models_dir, scan):
    file = write(models_dir / "iris.txt")
    source = scan(file)["iris", ""]
    assert source.artifact == file
    assert source.spec.name == "text"
    assert source.problem == ""


def test_a_name_may_be_given_to_the_one_model(models_dir, scan):
    file = write(models_dir / "iris.txt")
    assert only(scan(file, name="flowers")).name == "flowers"


def test_a_name_for_several_models_is_refused_with_theirs(models_dir, scan):
    files = [write(models_dir / f"{name}.txt") for name in ("b", "a")]
    with pytest.raises(SettingsError, match="option --name: several models are there: a, b"):
        scan(*files, name="flowers")


def test_a_folder_without_settings_gives_names_and_versions_by_its_layout(models_dir, scan):
    for place in ("iris.txt", "b/model.txt", "c/1/model.txt", "c/v2/model.txt", "d/wine.txt"):
        write(models_dir / place)
    found = scan()
    assert set(found) == {("iris", ""), ("b", ""), ("c", "1"), ("c", "v2"), ("wine", "")}
    assert found["c", "v2"].artifact == models_dir / "c" / "v2" / "model.txt"


def test_what_no_runtime_reads_is_no_model(models_dir, scan):
    write(models_dir / "README.md")
    write(models_dir / "iris.txt")
    assert list(scan()) == [("iris", "")]


@pytest.mark.parametrize("file", [".hidden.txt", ".git/a.txt", "a/.cache/b.txt"])
def test_what_is_hidden_is_left_alone(models_dir, scan, file):
    write(models_dir / file)
    assert scan() == {}


@pytest.mark.parametrize("folder", [".hidden", "a/.ipynb_checkpoints"])
def test_settings_in_hidden_folders_are_left_alone(models_dir, scan, folder):
    write(models_dir / folder / "model-settings.json", {"implementation": "text"})
    assert scan() == {}


def test_a_root_whose_own_path_is_hidden_is_served(tmp_path, scan):
    write(tmp_path / ".models" / "iris.txt")
    assert ("iris", "") in scan(tmp_path / ".models")


def test_of_several_forms_of_one_model_the_first_pattern_wins(models_dir, scan):
    write(models_dir / "a" / "model.second")
    write(models_dir / "a" / "model.first")
    assert only(scan()).artifact.name == "model.first"


def test_a_file_that_two_runtimes_read_needs_a_decision(models_dir, scan, add_reader, readers):
    add_reader("other", "*.both")
    file = write(models_dir / "a.both")
    problem = only(scan(file, plugins=[*readers, "other"])).problem
    assert "'a.both' may be for 'many' or 'other'; set implementation" in problem


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a.joblib", 'pip install "jackfield[sklearn]"'),
        ("a.ubj", 'pip install "jackfield[xgboost]"'),
        ("a.xyz", "no installed runtime reads 'a.xyz'; known are: "),
    ],
)
def test_a_file_that_nothing_reads_says_what_to_do(models_dir, scan, name, problem):
    assert problem in only(scan(write(models_dir / name))).problem


# ---- artifacts whose name leaves it open ----

XGBOOST = '{"learner": {}}'
LIGHTGBM = "tree\nversion=v4\n"
CATBOOST = '{"ctr_data": {}}'


@pytest.fixture
def boosters(add_reader):
    """Install three runtimes whose files have the same names, as those of real ones."""
    add_reader("x", "*.bst", by_content=["model.json", "*.json"], runtime="xgboost")
    add_reader("l", "*.bst", by_content=["*.txt", "*.pkl"], runtime="lightgbm")
    add_reader("s", "*.pkl", runtime="sklearn")
    return ["x", "l", "s"]


@pytest.mark.parametrize(
    ("name", "content", "runtime"),
    [
        ("a.bst", XGBOOST, "xgboost"),
        ("a.bst", LIGHTGBM, "lightgbm"),
        ("a.json", XGBOOST, "xgboost"),
        ("a.txt", LIGHTGBM, "lightgbm"),
        ("a.pkl", "clightgbm.basic\nBooster\n.", "lightgbm"),
        ("a.pkl", "csklearn.svm\nSVC\n.", "sklearn"),
        # whose class nothing knows, and whose plugin does not read pickles here
        ("a.pkl", "cmine\nModel\n.", "sklearn"),
        ("a.pkl", "cxgboost.core\nBooster\n.", "sklearn"),
        # no plugin has this name for a form of its
        ("a.txt", XGBOOST, "xgboost"),
        ("a.model", LIGHTGBM, "lightgbm"),
    ],
)
def test_the_content_decides_where_the_name_does_not(
    models_dir, scan, boosters, name, content, runtime
):
    source = only(scan(write(models_dir / name, content), plugins=boosters))
    assert source.problem == ""
    assert source.spec.name == runtime


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.bst", "CBM1....", "a CatBoost model (CatBoost's binary form); no installed plugin has"),
        ("a.json", CATBOOST, 'install it: pip install "jackfield[catboost]"'),
        ("a.bst", "something", "'a.bst' may be for 'lightgbm' or 'xgboost'; set implementation"),
        ("a.json", "{}", "no installed runtime reads 'a.json', which is of a form that is not k"),
        ("a.txt", "", "no installed runtime reads 'a.txt', which is an empty file"),
    ],
)
def test_content_that_decides_nothing_says_what_to_do(
    models_dir, scan, boosters, name, content, problem
):
    assert problem in only(scan(write(models_dir / name, content), plugins=boosters)).problem


def test_in_a_folder_only_models_count_of_names_that_others_have(models_dir, scan, boosters):
    write(models_dir / "a.txt", LIGHTGBM)
    write(models_dir / "notes.txt", "to do")
    write(models_dir / "request.json", "{}")
    write(models_dir / "b" / "model.json", XGBOOST)
    write(models_dir / "b" / "model.txt", "what the model is for")
    # another installed runtime's, which does not ask for files of this name
    write(models_dir / "dump.txt", XGBOOST)
    found = scan(plugins=boosters)
    assert {key: source.spec.name for key, source in found.items()} == {
        ("a", ""): "lightgbm",
        ("b", ""): "xgboost",
    }


def test_a_model_in_a_folder_whose_plugin_is_missing_is_told(models_dir, scan, boosters):
    write(models_dir / "a.json", CATBOOST)
    assert 'pip install "jackfield[catboost]"' in only(scan(plugins=boosters)).problem
    settings(models_dir, artifact="")
    write(models_dir / "a" / "b.json", CATBOOST)
    assert 'pip install "jackfield[catboost]"' in scan(plugins=boosters)["a", ""].problem


@pytest.mark.parametrize("implementation", ["", "xgboost"])
def test_beside_settings_only_models_count(models_dir, scan, boosters, implementation):
    settings(models_dir, artifact="", implementation=implementation)
    write(models_dir / "a" / "request.json", "{}")
    assert "no artifact is in" in only(scan(plugins=boosters)).problem
    write(models_dir / "a" / "b.json", XGBOOST)
    source = only(scan(plugins=boosters))
    assert (source.problem, source.artifact.name) == ("", "b.json")
    assert source.spec.name == "xgboost"


def test_the_usual_name_counts_where_the_settings_name_the_runtime(models_dir, scan, boosters):
    """So that the plugin says what is wrong with it."""
    settings(models_dir, artifact="", implementation="xgboost")
    write(models_dir / "a" / "model.json", "{damaged")
    assert only(scan(plugins=boosters)).artifact.name == "model.json"


def test_settings_go_before_the_content(models_dir, scan, boosters):
    write(models_dir / "a" / "a.bst", LIGHTGBM)
    settings(models_dir, artifact="", implementation="xgboost")
    assert only(scan(plugins=boosters)).spec.name == "xgboost"


def test_nothing_of_a_pickle_is_imported_to_find_its_runtime(models_dir, scan, boosters):
    (models_dir / "jackfield_gone.py").write_text("raise SystemExit")
    write(models_dir / "a.pkl", "cjackfield_gone\nModel\n.")
    assert only(scan(plugins=boosters)).spec.name == "sklearn"


@pytest.fixture
def opened(models_dir):
    """List the names of the files of the models' folder that are opened from now on."""
    names = []
    is_on = True

    def note(event, arguments):
        if is_on and event == "open" and str(arguments[0]).startswith(str(models_dir)):
            names.append(Path(arguments[0]).name)

    sys.addaudithook(note)  # there is no way to take it away
    yield names
    is_on = False


def test_a_file_whose_name_decides_is_not_opened(models_dir, scan, boosters, opened):
    write(models_dir / "a.pkl", "cxgboost.core\nBooster\n.")
    write(models_dir / "b.bst", LIGHTGBM)
    opened.clear()
    assert {source.spec.name for source in scan(plugins=["x", "s"]).values()} == {
        "sklearn",
        "xgboost",
    }
    assert opened == []
    scan(plugins=boosters)
    assert sorted(opened) == ["a.pkl", "b.bst"]


def test_a_file_is_opened_once_until_it_changes(models_dir, scan, boosters, opened):
    file = write(models_dir / "a.bst", LIGHTGBM)
    assert only(scan(plugins=boosters)).spec.name == "lightgbm"
    opened.clear()
    assert only(scan(plugins=boosters)).spec.name == "lightgbm"
    assert opened == []
    write(file, XGBOOST)
    assert only(scan(plugins=boosters)).spec.name == "xgboost"


def test_a_large_file_is_read_in_part(models_dir, scan, boosters):
    file = models_dir / "a.bst"
    with file.open("wb") as made:
        made.write(LIGHTGBM.encode())
        made.truncate(1 << 34)  # a hole: no room on the disk, and 16 GiB to read
    assert only(scan(plugins=boosters)).spec.name == "lightgbm"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that can't be read")
def test_a_file_that_cannot_be_read_is_told_where_its_name_is_a_models(models_dir, scan, boosters):
    for name in ("a.bst", "notes.txt"):
        (models_dir / name).symlink_to("/proc/self/mem")
    write(models_dir / "b.bst", LIGHTGBM)
    found = scan(plugins=boosters)
    assert set(found) == {("a", ""), ("b", "")}
    assert "'a.bst' can't be read: " in found["a", ""].problem
    assert found["b", ""].problem == ""


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="there is no such file or folder"):
        Repository([tmp_path / "nowhere"], discover([]))


def test_an_empty_folder_has_no_model(scan):
    assert scan() == {}


# ---- settings ----


def settings(models_dir, folder="a", *, artifact="model.txt", **given):
    if artifact:
        write(models_dir / folder / artifact)
    return write(models_dir / folder / "model-settings.json", given)


@pytest.mark.parametrize("implementation", ["text", "mlserver_text.TextModel", ""])
def test_a_runtime_is_found_by_name_by_mlservers_name_or_by_the_artifact(
    models_dir, scan, implementation
):
    settings(models_dir, name="iris", implementation=implementation)
    source = scan()["iris", ""]
    assert source.problem == ""
    assert source.spec.name == "text"
    assert source.artifact == models_dir / "a" / "model.txt"


def test_the_settings_file_itself_may_be_the_path(models_dir, scan):
    assert ("a", "") in scan(settings(models_dir))


def test_the_folders_name_is_the_models_where_the_settings_have_none(models_dir, scan):
    settings(models_dir)
    assert list(scan()) == [("a", "")]


def test_version_folders_name_the_version_where_the_settings_say_nothing(models_dir, scan):
    settings(models_dir, "iris/1", implementation="text")
    settings(models_dir, "iris/v2", implementation="text")
    settings(models_dir, "iris/3", implementation="text", parameters={"version": "blue"})
    assert set(scan()) == {("iris", "1"), ("iris", "v2"), ("iris", "blue")}


def test_a_name_in_the_settings_keeps_mlservers_meaning_without_a_version(models_dir, scan):
    settings(models_dir, "iris/1", name="mine", implementation="text")
    assert set(scan()) == {("mine", "")}


def test_settings_are_found_at_any_depth(models_dir, scan):
    settings(models_dir, "x/y/z", name="deep")
    settings(models_dir, "b", name="flat")
    assert set(scan()) == {("deep", ""), ("flat", "")}


@pytest.mark.parametrize("uri", ["../elsewhere/m.txt", "../elsewhere", "file:../elsewhere/m.txt"])
def test_an_artifact_may_lie_elsewhere(models_dir, scan, uri):
    file = write(models_dir / "elsewhere" / "m.txt")
    settings(models_dir, artifact="", name="iris", parameters={"uri": uri})
    assert scan()["iris", ""].artifact == file


def test_an_artifact_may_be_named_absolutely(models_dir, scan, tmp_path):
    file = write(tmp_path / "out" / "m.txt")
    settings(models_dir, artifact="", name="iris", parameters={"uri": f"file://{file}"})
    assert scan()["iris", ""].artifact == file


PROBLEMS = {
    "missing artifact": ({"parameters": {"uri": "no.txt"}}, "no.txt' is missing (parameters.uri"),
    "empty folder": ({"implementation": "text"}, "no artifact is in '"),
    "unknown implementation": ({"implementation": "teapot"}, "has the runtime 'teapot'; installed"),
    "plugin not installed": (
        {"implementation": "mlserver_xgboost.XGBoostModel"},
        'install it: pip install "jackfield[xgboost]"',
    ),
    "code that is nowhere": ({"implementation": "mine.Model"}, "has the runtime 'mine.Model'"),
    "remote of no kind": ({"parameters": {"uri": "ftp://x/m"}}, "nothing fetches from 'ftp:'"),
    "checksum of the wrong form": ({"parameters": {"sha256": "abc"}}, "parameters.sha256"),
    "slash in the name": ({"name": "a/b", "implementation": "text"}, "'a/b' can't stand in a URL"),
    "slash in the version": (
        {"implementation": "text", "parameters": {"version": "1/2"}},
        "the version '1/2' can't stand in a URL",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_settings_that_lead_nowhere_say_why(models_dir, scan, case):
    given, problem = PROBLEMS[case]
    settings(models_dir, artifact="", **given)
    settings(models_dir, "good", implementation="text")
    found = scan()
    assert found.pop(("good", "")).problem == ""
    assert problem in only(found).problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not readable as JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"nme": "a"}', "unknown setting 'nme'; did you mean 'name'"),
        ('{"max_queue": 0}', "max_queue: expected an integer >= 1"),
        ('{"a": ' + "[" * 10_000, "not readable as JSON"),
    ],
)
def test_a_broken_settings_file_is_a_problem_of_its_model_alone(models_dir, scan, content, problem):
    file = write(models_dir / "bad" / "model-settings.json", content)
    settings(models_dir, "good", implementation="text")
    found = scan()
    assert found["good", ""].problem == ""
    assert found["bad", ""].problem.startswith(f"{file}: ")
    assert problem in found["bad", ""].problem


def test_a_settings_file_in_another_encoding_is_a_problem_of_its_model_alone(models_dir, scan):
    file = write(models_dir / "bad" / "model-settings.json")
    file.write_bytes('{"name": "é"}'.encode("latin-1"))
    assert "not readable as JSON: 'utf-8' codec can't decode" in only(scan()).problem


def test_several_artifacts_of_one_pattern_need_a_decision(models_dir, scan):
    write(models_dir / "a" / "other.txt")
    settings(models_dir, implementation="text")
    problem = only(scan()).problem
    assert "several artifacts are in '" in problem
    assert "model.txt, other.txt; name one in parameters.uri" in problem


def test_of_two_models_with_one_name_the_first_stays_and_warns(models_dir, scan):
    settings(models_dir, "a", name="same", implementation="text")
    settings(models_dir, "b", name="same", implementation="text")
    source = only(scan())
    assert source.folder == models_dir / "a"
    [warning] = source.warnings
    assert warning == f"'{models_dir / 'b'}' has the model 'same' too; rename one"


def test_code_beside_the_settings_is_a_runtime(models_dir, scan):
    write(models_dir / "a" / "mine.py", "class Model: pass")
    settings(models_dir, artifact="", implementation="mine.Model")
    source = only(scan())
    assert source.problem == ""
    assert source.spec.runtime == "mine:Model"
    assert source.artifact == models_dir / "a"


# ---- the environment ----

VARIABLES = {"MLSERVER_MODEL_NAME": "env", "MLSERVER_MODEL_IMPLEMENTATION": "text"}


@pytest.mark.parametrize("given", [{}, {"name": "file"}])
def test_variables_go_before_the_file_of_the_one_model(models_dir, scan, given):
    settings(models_dir, **given)
    assert only(scan(environ=VARIABLES)).name == "env"


def test_variables_reach_no_model_where_there_are_several(models_dir, scan):
    settings(models_dir, "a")
    settings(models_dir, "b")
    assert set(scan(environ=VARIABLES)) == {("a", ""), ("b", "")}


def test_variables_reach_no_model_where_there_are_several_paths(models_dir, scan):
    paths = [settings(models_dir, "a").parent, settings(models_dir, "b").parent]
    assert set(scan(*paths, environ=VARIABLES)) == {("a", ""), ("b", "")}


@pytest.mark.parametrize("file", ["w.bin", "w.txt"])
def test_variables_alone_make_a_model_of_a_folder(models_dir, scan, file):
    file = write(models_dir / "weights" / file)
    uri = file.relative_to(models_dir)
    variables = VARIABLES | {"MLSERVER_MODEL_URI": str(uri), "MLSERVER_MODEL_VERSION": "3"}
    source = only(scan(environ=variables))
    assert (source.name, source.version, source.problem) == ("env", "3", "")
    assert source.artifact == file


def test_a_variable_of_the_wrong_form_is_a_problem_of_the_model(models_dir, scan):
    settings(models_dir)
    problem = only(scan(environ={"MLSERVER_MODEL_MAX_QUEUE": "many"})).problem
    assert problem.startswith("environment variable MLSERVER_MODEL_MAX_QUEUE: max_queue: expected")


def test_ours_go_before_mlservers(models_dir, scan):
    settings(models_dir)
    environ = VARIABLES | {"JACKFIELD_MODEL_NAME": "ours"}
    assert only(scan(environ=environ)).name == "ours"


def test_a_model_that_has_no_settings_has_the_defaults(models_dir, scan):
    assert only(scan(write(models_dir / "iris.txt"))).settings == ModelSettings()


# ---- folders that are artifacts ----


@pytest.fixture
def bundles(add_reader):
    """Install `bundle`, whose artifacts are folders; and `text`, which reads what lies in them."""
    add_reader("bundle", folders=("BUNDLE", "facts/part-0*"))
    add_reader("text", "*.txt")
    return ["bundle", "text"]


@pytest.fixture
def scan_bundles(models_dir, bundles):
    def scan(*paths):
        found = Repository(paths or [models_dir], discover(bundles)).scan()
        return {(each.name, each.version): each for each in found}

    return scan


def test_a_folder_is_an_artifact_and_what_lies_in_it_is_not(models_dir, scan_bundles):
    write(models_dir / "wine" / "BUNDLE")
    write(models_dir / "wine" / "model.txt")
    write(models_dir / "wine" / "deep" / "BUNDLE")
    write(models_dir / "iris" / "model.txt")
    found = scan_bundles()
    assert set(found) == {("wine", ""), ("iris", "")}
    assert found["wine", ""].artifact == models_dir / "wine"
    assert found["wine", ""].spec.name == "bundle"


def test_a_folder_is_known_by_a_path_below_it(models_dir, scan_bundles):
    write(models_dir / "pipe" / "facts" / "part-00000-a1.txt")
    write(models_dir / "pipe" / "stages" / "0" / "facts" / "part-00000")
    source = only(scan_bundles())
    assert (source.name, source.artifact) == ("pipe", models_dir / "pipe")


@pytest.mark.parametrize(
    ("place", "name", "version"),
    [
        ("", "models", ""),
        ("wine", "wine", ""),
        ("wine/model", "wine", ""),
        ("wine/3", "wine", "3"),
        ("a/wine/v2", "wine", "v2"),
        ("wine/1.10", "wine", "1.10"),
        ("wine.new", "wine.new", ""),
    ],
)
def test_a_folders_place_gives_name_and_version(models_dir, scan_bundles, place, name, version):
    write(models_dir / place / "BUNDLE")
    source = only(scan_bundles())
    assert (source.name, source.version, source.artifact) == (name, version, models_dir / place)


def test_folders_whose_names_differ_behind_a_dot_are_several_models(models_dir, scan_bundles):
    for place in ("wine/1.0", "wine/1.1", "a.x", "a.y"):
        write(models_dir / place / "BUNDLE")
    assert set(scan_bundles()) == {("wine", "1.0"), ("wine", "1.1"), ("a.x", ""), ("a.y", "")}


def test_links_to_folders_are_not_followed(models_dir, scan_bundles):
    write(models_dir / "iris.txt")
    (models_dir / "again").symlink_to(models_dir)
    assert only(scan_bundles()).warnings == ()


@pytest.mark.parametrize("given", ["wine", "wine/BUNDLE"])
def test_a_folder_or_the_file_that_makes_it_one_is_named_on_the_command_line(
    models_dir, scan_bundles, given
):
    write(models_dir / "wine" / "BUNDLE")
    source = only(scan_bundles(models_dir / given))
    assert (source.name, source.artifact) == ("wine", models_dir / "wine")


@pytest.mark.parametrize("implementation", ["", "bundle"])
@pytest.mark.parametrize("uri", ["", "./", "./kept", "./kept/BUNDLE"])
def test_settings_beside_or_above_the_folder(models_dir, scan_bundles, uri, implementation):
    inner = "kept" if "kept" in uri else ""
    folder = models_dir / "wine"
    write(folder / inner / "BUNDLE")
    write(folder / inner / "model.txt")
    written = {"name": "w", "implementation": implementation, "parameters": {"uri": uri}}
    write(folder / "model-settings.json", written)
    source = only(scan_bundles())
    assert (source.artifact, source.spec.name) == (folder / inner, "bundle")


def test_the_only_folder_below_the_settings_is_found(models_dir, scan_bundles):
    write(models_dir / "wine" / "kept" / "BUNDLE")
    write(models_dir / "wine" / "model-settings.json", {"name": "w"})
    assert only(scan_bundles()).artifact == models_dir / "wine" / "kept"


def test_two_folders_below_the_settings_are_a_question(models_dir, scan_bundles):
    for name in ("a", "b"):
        write(models_dir / "wine" / name / "BUNDLE")
    write(models_dir / "wine" / "model-settings.json", {"name": "w"})
    assert "several artifacts are in" in only(scan_bundles()).problem
    assert ": a, b; name one in parameters.uri" in only(scan_bundles()).problem


def test_a_runtime_that_reads_files_may_be_named_for_what_is_in_the_folder(
    models_dir, scan_bundles
):
    write(models_dir / "wine" / "BUNDLE")
    file = write(models_dir / "wine" / "model.txt")
    write(models_dir / "wine" / "model-settings.json", {"name": "w", "implementation": "text"})
    assert only(scan_bundles()).artifact == file


SPARK = '{"class":"org.apache.spark.ml.PipelineModel","timestamp":1,"sparkVersion":"4.3.0"}'


@pytest.mark.parametrize(
    ("file", "content", "plugin"),
    [
        ("MLmodel", "flavors:\n  python_function:\n    loader_module: x\n", "mlflow"),
        ("metadata/part-00000-1-c000.txt", SPARK, "mllib"),
        ("config.toml", 'x_ref = "x_ref.npy"\nname = "KSDrift"\n', "alibi-detect"),
    ],
)
def test_a_known_folder_names_the_plugin_that_is_missing(models_dir, scan, file, content, plugin):
    write(models_dir / "wine" / file, content)
    write(models_dir / "wine" / "model.txt")
    assert f'pip install "jackfield[{plugin}]"' in only(scan()).problem


def test_a_text_of_that_name_with_other_content_is_none(models_dir, scan):
    write(models_dir / "wine" / "metadata" / "part-00000", '{"class": "mine"}')
    assert scan() == {}


# ---- URIs that a runtime fetches itself ----


@pytest.fixture
def scan_uris(add_reader):
    add_reader("store", "*.store", schemes=("models", "runs"))
    add_reader("text", "*.txt")

    def scan(*paths, plugins=("store", "text")):
        return Repository(paths, discover(plugins)).scan()

    return scan


@pytest.mark.parametrize(
    ("uri", "name", "version"),
    [
        ("models:/wine/3", "wine", "3"),
        ("models:/wine@champion", "wine", ""),
        ("runs:/0a1b/model", "model", ""),
        ("models://host/wine/3", "wine", "3"),
        ("models:/3", "3", ""),
        ("models:/wine/latest", "wine", ""),
        ("runs:/0a1b/deep/er/model?sig=abc", "model", ""),
    ],
)
def test_a_uri_on_the_command_line_is_a_model(scan_uris, uri, name, version):
    [source] = scan_uris(uri)
    assert (source.name, source.version, source.uri) == (name, version, uri)
    assert (source.artifact, source.problem, source.spec.name) == (None, "", "store")


@pytest.mark.parametrize("implementation", ["", "store"])
def test_a_uri_in_the_settings_is_left_to_its_runtime(models_dir, scan_uris, implementation):
    settings = {"implementation": implementation, "parameters": {"uri": "models:/wine/1"}}
    write(models_dir / "w" / "model-settings.json", settings)
    [source] = scan_uris(models_dir)
    assert (source.name, source.uri, source.spec.name) == ("w", "models:/wine/1", "store")


@pytest.mark.parametrize(
    ("implementation", "uri", "problem"),
    [
        ("text", "models:/wine/1", "the runtime 'text' fetches nothing from 'models:'"),
        ("", "s4://bucket/wine", "nothing fetches from 's4:'; there are: abfs, abfss, az, "),
        ("store", "s4://bucket/wine", "nothing fetches from 's4:'"),
    ],
)
def test_a_uri_that_nobody_fetches_is_refused(models_dir, scan_uris, implementation, uri, problem):
    settings = {"implementation": implementation, "parameters": {"uri": uri}}
    write(models_dir / "w" / "model-settings.json", settings)
    [source] = scan_uris(models_dir)
    assert problem in source.problem


def test_a_uri_of_a_known_store_names_the_plugin_that_is_missing(scan_uris):
    [source] = scan_uris("models:/wine/1", plugins=("text",))
    assert 'pip install "jackfield[mlflow]"' in source.problem


def test_code_that_is_not_there_is_no_uri(scan_uris):
    with pytest.raises(SettingsError, match="there is no such file or folder"):
        scan_uris("nowhere/model.py:Mine")


def test_a_link_that_is_served_is_followed_anew_each_time(tmp_path, add_reader):
    add_reader("text", "*.txt")
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{place}.txt").write_text(place)
    (tmp_path / "current").symlink_to("first")
    (tmp_path / "one.txt").symlink_to("first/first.txt")
    paths = [tmp_path / "current", tmp_path / "one.txt"]
    repository = Repository(paths, discover(None))
    assert [source.name for source in repository.scan(must_exist=True)] == ["first", "one"]
    for path, target in zip(paths, ("second", "second/second.txt"), strict=True):
        path.unlink()
        path.symlink_to(target)
    shutil.rmtree(tmp_path / "first")
    found = repository.scan(must_exist=True)
    assert [(source.name, source.artifact.read_text()) for source in found] == [
        ("second", "second"),
        ("one", "second"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are Unicode")
def test_a_name_that_is_no_text_is_one_models_matter(tmp_path, add_reader):
    add_reader("text", "*.txt")
    models = tmp_path / "models"
    models.mkdir()
    (models / "good.txt").touch()
    Path(os.fsdecode(bytes(models) + b"/b\xffd.txt")).touch()
    bad, good = sorted(Repository([models], discover(None)).scan(), key=lambda each: each.name)
    assert (bad.name, good.name, good.problem) == ("b\\udcffd", "good", "")
    assert "no UTF-8" in bad.problem
