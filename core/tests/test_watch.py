"""Models are loaded as their files change, once these are quiet."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies

from jackfield import JackfieldError, ModelNotFoundError, Server, ServerSettings
from jackfield._needs import in_order
from jackfield._plugins import discover
from jackfield._repository import Repository
from jackfield._watch import Changes, Watcher, _states, fingerprint
from jackfield.settings import MODEL_FILE

# ---- what is told, look by look ----


def state(*words):
    return frozenset((word, 0, 0, 0) for word in words)


def test_what_changes_is_told_once_it_is_the_same_twice():
    changes = Changes({"a": state("1"), "b": state("1")})
    assert changes.look({"a": state("2"), "b": state("1")}) == []
    assert changes.is_pending
    assert changes.look({"a": state("3"), "b": state("1")}) == []
    assert changes.look({"a": state("3"), "b": state("1")}) == ["a"]
    assert not changes.is_pending
    assert changes.look({"a": state("3"), "b": state("1")}) == []


def test_what_is_as_it_was_loaded_again_is_not_told():
    changes = Changes({"a": state("1")})
    assert changes.look({"a": state("2")}) == []
    assert changes.look({"a": state("1")}) == []
    assert changes.look({"a": state("1")}) == []


def test_what_comes_and_goes_is_told():
    changes = Changes({"a": state("1")})
    assert changes.look({"b": state("1")}) == []
    assert changes.look({"b": state("1")}) == ["a", "b"]
    assert changes.look({"b": state("1")}) == []
    # between two looks: gone, and there again
    assert changes.look({}) == []
    assert changes.look({"b": state("1")}) == []
    assert not changes.is_pending


LOOKS = strategies.lists(
    strategies.dictionaries(strategies.sampled_from("abc"), strategies.sampled_from("123")),
    max_size=12,
)


@given(first=LOOKS.map(lambda looks: looks[0] if looks else {}), looks=LOOKS)
def test_whatever_happens_what_was_told_is_what_is_there_in_the_end(first, looks):
    changes, loaded, before = Changes(first), dict(first), dict(first)
    end = looks[-1] if looks else first
    for look in [*looks, end, end]:
        for name in changes.look(look):
            assert look.get(name) == before.get(name), "it was not quiet"
            assert loaded.get(name) != look.get(name), "it was told before"
            loaded.pop(name, None)
            loaded |= {name: look[name]} if name in look else {}
        before = look
    assert loaded == end
    assert not changes.is_pending


@given(
    strategies.dictionaries(
        strategies.sampled_from("abcdef"),
        strategies.lists(strategies.sampled_from("abcdefx"), max_size=3),
    )
)
def test_models_are_ordered_so_that_those_they_need_come_first(needs):
    ordered = in_order(needs)
    assert sorted(ordered) == sorted(needs)
    # the letters' order breaks all cycles here
    acyclic = {name: [need for need in needs[name] if need < name] for name in needs}
    ordered = in_order(acyclic)
    for name, needed in acyclic.items():
        assert all(ordered.index(need) < ordered.index(name) for need in needed if need in acyclic)


# ---- which files count ----


def fingerprints(*paths):
    found = {}
    for source in Repository(paths, discover(())).scan():
        found.setdefault(source.name, []).append(source)
    return {name: fingerprint(sources) for name, sources in found.items()}


def touched(before, after):
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


@pytest.fixture
def several(add_model, models_dir):
    """Write models of all kinds of places."""
    add_model("own")
    shared = add_model("shared")
    for version in ("1", "2"):
        (shared / version).mkdir()
    elsewhere = models_dir.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "weights").write_text("1")
    add_model("away", parameters={"uri": str(elsewhere)})
    return models_dir


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("own/runtimes.py", ["own"]),
        ("own/data/new.txt", ["own"]),
        ("own/golden/new.json", ["own"]),
        ("shared/model-settings.json", ["shared"]),
        ("shared/1/new.txt", ["shared"]),
        ("shared/3/new.txt", ["shared"]),
        ("shared/runtimes.py", ["shared"]),
        ("../elsewhere/weights", ["away"]),
        ("own/.half/new.txt", []),
        ("own/.new.txt", []),
        ("own/__pycache__/runtimes.cpython-311.pyc", []),
        ("own/jackfield-state/steps", []),
        ("other/new.txt", []),
    ],
)
def test_a_file_is_of_the_models_that_are_made_of_it(several, path, names):
    before = fingerprints(several)
    file = several / path
    file.parent.mkdir(exist_ok=True)
    text = file.read_text() if file.exists() else ""
    file.write_text(text + ("\n" if file.suffix == ".json" and text else "# more"))
    assert touched(before, fingerprints(several)) == names
    file.unlink()


def test_models_in_one_folder_are_told_apart(add_reader, models_dir):
    add_reader("text", "*.txt")
    for name in ("a", "b"):
        (models_dir / f"{name}.txt").write_text("1")

    def look():
        sources = Repository([models_dir], discover(None)).scan()
        return {source.name: fingerprint([source]) for source in sources}

    before = look()
    (models_dir / "b.txt").write_text("22")
    assert touched(before, look()) == ["b"]


def test_a_folder_that_a_link_leads_to_is_looked_into_once(add_model, models_dir):
    for name in ("first", "second"):
        (models_dir.parent / name).mkdir()
        (models_dir.parent / name / "weights").write_text("1")
    link = add_model("own") / "data"
    link.symlink_to(models_dir.parent / "first")
    (models_dir.parent / "first" / "back").symlink_to(models_dir / "own")
    places = [Path(path) for path, *_ in _states(models_dir / "own")]
    assert sorted(place.name for place in places) == [MODEL_FILE, "runtimes.py", "weights"]
    seen = [fingerprints(models_dir)]
    (models_dir.parent / "first" / "weights").write_text("22")
    seen.append(fingerprints(models_dir))
    link.unlink()
    link.symlink_to(models_dir.parent / "second")
    seen.append(fingerprints(models_dir))
    assert seen[0] != seen[1] != seen[2]
    assert seen[2] == fingerprints(models_dir)


def test_samples_are_part_of_a_lone_artifact(add_reader, models_dir):
    add_reader("text", "*.txt")
    (models_dir / "model.txt").write_text("1")
    (models_dir / "golden").mkdir()

    def look():
        sources = Repository([models_dir / "model.txt"], discover(None)).scan()
        return {source.name: fingerprint([source]) for source in sources}

    before = look()
    (models_dir / "golden" / "one.json").write_text("{}")
    assert touched(before, look()) == ["model"]


def test_a_file_of_the_same_size_and_time_in_its_place_is_another(add_model, models_dir):
    file = add_model("own") / "runtimes.py"
    before = fingerprints(models_dir)
    stat = file.stat()
    shutil.copy(file, file.with_name("copy"))
    os.utime(file.with_name("copy"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    file.with_name("copy").replace(file)
    assert touched(before, fingerprints(models_dir)) == ["own"]


# ---- a server that watches ----


@pytest.fixture(params=["events", "polling"])
def watching(request, models_dir, monkeypatch):
    """Serve what changes; with and without what tells of changes."""
    if request.param == "events":
        pytest.importorskip("watchfiles")
    else:
        monkeypatch.setitem(sys.modules, "watchfiles", None)

    def make(**settings):
        settings = ServerSettings(watch=True, watch_interval_s=0.01, **settings)
        return Server([models_dir], plugins=(), settings=settings)

    return make


async def factor_of(server, name="double"):
    response = await server.model(name).infer(x=[1.0])
    return response.arrays["y"].item()


def write_factor(folder, factor):
    code = (folder / "runtimes.py").read_text()
    before = next(line for line in code.splitlines() if line.startswith("FACTOR"))
    (folder / "runtimes.py").write_text(code.replace(before, f"FACTOR = {factor}"))


async def until_factor(server, factor, name="double"):
    async with asyncio.timeout(20):
        while await factor_of(server, name) != factor:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.005)


def is_ready(server, name):
    try:
        server.model(name)
    except JackfieldError:
        return False
    return True


async def test_a_model_that_changes_is_loaded(add_model, watching):
    folder = add_model("double")
    async with watching() as server:
        assert await factor_of(server) == 2
        for factor in (30, 4):
            write_factor(folder, factor)
            await until_factor(server, factor)


async def test_models_that_come_are_loaded_those_they_need_first_and_gone_ones_unloaded(
    add_model, watching, models_dir, until
):
    folder = add_model("double")
    async with watching() as server:
        add_model("a", needs=["b"])
        add_model("b")
        await until(lambda: is_ready(server, "a") and is_ready(server, "b"))
        shutil.rmtree(folder)
        await until(lambda: not is_ready(server, "double"))
        await until(lambda: "double" not in server._models._entries)
        with pytest.raises(ModelNotFoundError):
            server.model("double")
        assert is_ready(server, "a")


async def test_a_version_that_comes_is_served(add_model, watching, until):
    folder = add_model("double")
    (folder / "1").mkdir()
    (folder / "1" / "weights").write_text("1")
    async with watching() as server:
        assert server.model("double").version == "1"
        (folder / "2").mkdir()
        (folder / "2" / "weights").write_text("2")
        await until(lambda: server.model("double").version == "2")


async def test_a_change_that_fails_is_tried_again_with_the_next_change_only(
    add_model, watching, until, caplog
):
    folder = add_model("double")
    async with watching() as server:
        code = (folder / "runtimes.py").read_text()
        (folder / "runtimes.py").write_text("import nothing_of_this_name")
        await until(lambda: "left as it was: model 'double'" in caplog.text)
        assert await factor_of(server) == 2
        other = add_model("other")
        await until(lambda: is_ready(server, "other"))
        write_factor(other, 5)
        await until_factor(server, 5, "other")
        assert caplog.text.count("left as it was: model 'double'") == 1
        (folder / "runtimes.py").write_text(code.replace("FACTOR = 2", "FACTOR = 6"))
        await until_factor(server, 6)


async def test_a_golden_sample_that_differs_keeps_the_old_until_it_is_right(
    add_model, watching, until, caplog
):
    folder = add_model("double")
    async with watching() as server:
        tensors = [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]
        answer = {"model_name": "", "outputs": [{**tensors[0], "name": "y", "data": [2.0]}]}
        sample = {"request": {"inputs": tensors}, "response": answer}
        (folder / "golden").mkdir()
        (folder / "golden" / "one.json").write_text(json.dumps(sample))
        write_factor(folder, 3)
        await until(lambda: "golden sample 'one': output 'y' at [0]" in caplog.text)
        assert await factor_of(server) == 2
        answer["outputs"][0]["data"] = [3.0]
        (folder / "golden" / "one.json").write_text(json.dumps(sample))
        await until_factor(server, 3)


async def test_what_was_unloaded_by_request_stays_so(add_model, watching, until):
    folder = add_model("double")
    async with watching() as server:
        await server._models.unload("double")
        write_factor(folder, 3)
        add_model("other")
        await until(lambda: is_ready(server, "other"))
        assert not is_ready(server, "double")


async def test_nothing_comes_where_models_are_loaded_by_request(add_model, watching, until):
    folder = add_model("double")
    async with watching(load_models_at_startup=False) as server:
        write_factor(folder, 3)
        await server._models.load("double")
        add_model("other")
        write_factor(folder, 4)
        await until_factor(server, 4)
        assert not is_ready(server, "other")


async def test_models_that_can_not_be_listed_are_left_as_they_are(add_model, models_dir, caplog):
    add_model("double")
    server = Server([models_dir], plugins=())
    async with server:
        models_dir.rename(models_dir.with_name("elsewhere"))
        assert await server.reload() == 1
        assert "no model is loaded anew" in caplog.text
        assert await factor_of(server) == 2
        models_dir.with_name("elsewhere").rename(models_dir)
        assert await server.reload() == 0


async def test_a_server_that_stops_watches_no_more(add_model, watching):
    add_model("double")
    server = watching()
    for _ in range(2):
        async with server:
            assert await factor_of(server) == 2
            task = server._watching
        assert task.done()


# ---- what the watcher tells ----


@contextlib.asynccontextmanager
async def watched(folder, *, told=None):
    """Watch a folder; gives what is told, and the repository, whose looks are counted."""
    repository, names = Repository([folder], discover(None)), []
    scan, repository.looks = repository.scan, 0

    def count(**how):
        repository.looks += 1
        return scan(**how)

    async def on_changed(changed):
        names.append(changed)

    repository.scan = count
    watcher = Watcher(repository, on_changed, interval_s=0.001)
    await watcher.begin(told)
    task = asyncio.create_task(watcher.run())
    try:
        yield names, repository
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_tells_of_changes_ends_with_the_watcher(add_model, models_dir, until):
    pytest.importorskip("watchfiles")
    add_model("double")
    before = asyncio.all_tasks()
    async with watched(models_dir) as (_, repository):
        await until(lambda: repository.looks > 3)
    assert asyncio.all_tasks() == before


async def test_a_folder_that_takes_the_place_of_the_one_served_is_watched_from_then_on(
    add_model, models_dir, until
):
    """What tells of changes goes on about the old folder, wherever it is now."""
    folder = add_model("double")
    shutil.copytree(models_dir, models_dir.with_name("next"))
    async with watched(models_dir) as (told, repository):
        await until(lambda: repository.looks > 6)
        models_dir.rename(models_dir.with_name("before"))
        models_dir.with_name("next").rename(models_dir)
        for factor in range(3, 9):
            write_factor(folder, factor)
            await until(lambda: told)
            assert told == [["double"]] * len(told)
            told.clear()


async def test_a_link_to_itself_hinders_nobody(add_model, models_dir, until):
    folder = add_model("double")
    (folder / "1").mkdir()
    (folder / "loop").symlink_to("loop")
    async with watched(models_dir) as (told, _):
        write_factor(folder, 3)
        await until(lambda: told == [["double"]])


async def test_a_folder_that_is_gone_for_a_while_tells_nothing(add_model, models_dir, until):
    add_model("double")
    async with watched(models_dir) as (told, repository):
        models_dir.rename(models_dir.with_name("away"))
        looks = repository.looks
        await until(lambda: repository.looks > looks + 3)
        models_dir.with_name("away").rename(models_dir)
        looks = repository.looks
        await until(lambda: repository.looks > looks + 3)
        assert told == []
        write_factor(models_dir / "double", 3)
        await until(lambda: told == [["double"]])


@pytest.mark.parametrize("how", ["elsewhere", "by a link"])
async def test_what_no_event_tells_of_is_looked_at_all_the_time(
    add_model, add_reader, models_dir, until, how
):
    elsewhere = models_dir.parent / "weights"
    elsewhere.write_text("1")
    if how == "elsewhere":
        add_model("double", parameters={"uri": str(elsewhere)})
    else:
        add_reader("text", "*.txt")
        (models_dir / "double.txt").symlink_to(elsewhere)
    async with watched(models_dir) as (told, repository):
        await until(lambda: repository.looks > 20)
        elsewhere.write_text("22")
        await until(lambda: told == [["double"]])


async def test_what_can_not_be_listed_now_is_looked_at_again(add_model, models_dir, until):
    folder = add_model("double")
    repository = Repository([models_dir], discover(()))
    told = []

    async def on_changed(names):
        told.append(names)

    watcher = Watcher(repository, on_changed, interval_s=0.001)
    await watcher.begin()
    scan, failures = repository.scan, [FileNotFoundError("gone"), PermissionError("no")]

    def fail_first(**how):
        if failures:
            raise failures.pop()
        return scan(**how)

    repository.scan = fail_first
    write_factor(folder, 3)
    task = asyncio.create_task(watcher.run())
    await until(lambda: told == [["double"]])
    task.cancel()
    await asyncio.wait([task])
