"""Which versions are served, and how they take each other's place: all at once or not at all."""

import asyncio
import contextlib
import gc
import json
import logging
import shutil
import tempfile
import textwrap
from pathlib import Path

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from jackfield import (
    Datatype,
    InferRequest,
    ModelMetadata,
    ModelNotFoundError,
    ModelNotReadyError,
    MonitorSettings,
    Server,
    Tensor,
    TensorMetadata,
)
from jackfield._models import Models, ModelState
from jackfield._monitors import Monitors
from jackfield._plugins import discover
from jackfield._repository import Repository
from jackfield._versions import choose_versions, version_key
from jackfield.errors import SettingsError
from jackfield.settings import VersionPolicy, read_model_settings

CODE = """
from jackfield import InferResponse, ModelMetadata, Tensor
from pathlib import Path

class Tagged:
    def __init__(self, context):
        self.place = context.artifact

    def load(self):
        self.tag = (self.place / "tag").read_text()
        if self.tag == "broken":
            raise OSError("the file is corrupt")

    def metadata(self):
        return ModelMetadata()

    def infer(self, request):
        return InferResponse([Tensor.from_array("tag", [self.tag])])

    def close(self):
        pass
"""


@pytest.fixture
def models_of():
    """Open what a server has of models, for its own calls."""

    def make(*paths):
        models = Models(Repository(paths, discover(())))
        models.open()
        return models

    return make


@pytest.fixture
def add_versions(models_dir):
    """Write a model with its settings and code beside the folders of its versions."""

    def add(*versions, name="m", **written):
        folder = models_dir / name
        folder.mkdir(exist_ok=True)
        (folder / "code.py").write_text(CODE)
        text = json.dumps({"implementation": "code.Tagged", **written})
        (folder / "model-settings.json").write_text(text)
        for version in versions:
            add_version(folder, version, f"tag of {version}")
        return folder

    return add


def add_version(folder, version, tag):
    (folder / version).mkdir(exist_ok=True)
    (folder / version / "tag").write_text(tag)


async def ask(model):
    response = await model.infer(InferRequest([Tensor.from_array("x", [1.0])]))
    return response.arrays["tag"].item().decode()


async def serving(models, name="m"):
    found = [model for model in models.loaded() if model.name == name]
    return {model.version: await ask(model) for model in found}


# ---- the policy ----


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        (None, {"1", "2", "9", "10"}),
        (VersionPolicy(latest=1), {"10"}),
        (VersionPolicy(latest=2), {"9", "10"}),
        (VersionPolicy(latest=99), {"1", "2", "9", "10"}),
        (VersionPolicy(specific=["1", 9, "7"]), {"1", "9"}),
    ],
)
def test_a_policy_chooses_versions(policy, chosen):
    assert choose_versions(["1", "10", "2", "9"], policy) == chosen
    assert choose_versions(["1", "10", "2", "9", ""], policy) == chosen | {""}


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ({}, "found neither"),
        ({"latest": 1, "specific": ["1"]}, "found both"),
        ({"latest": -1}, "version_policy.latest"),
        ({"newest": 1}, "no such field"),
        ("none", "version_policy"),
    ],
)
def test_a_policy_that_says_nothing_is_refused(tmp_path, policy, problem):
    file = tmp_path / "model-settings.json"
    file.write_text(json.dumps({"version_policy": policy}))
    with pytest.raises(SettingsError, match=problem):
        read_model_settings(file, environ={})


# ---- one settings file for all versions ----


async def test_one_settings_file_serves_the_versions_beside_it(add_versions, models_dir):
    add_versions("1", "2", "10")
    async with Server([models_dir], plugins=()) as server:
        found = {version: await ask(server.model("m", version)) for version in ("1", "2", "10")}
        assert found == {each: f"tag of {each}" for each in found}
        assert await ask(server.model("m")) == "tag of 10"
        lines = [(line.version, line.state) for line in await server.index()]
        assert lines == [("1", "READY"), ("2", "READY"), ("10", "READY")]


@pytest.mark.parametrize(
    ("policy", "versions"),
    [("all", ["1", "2", "10"]), ({"latest": 2}, ["2", "10"]), ({"specific": ["1", 2]}, ["1", "2"])],
)
async def test_the_policy_in_that_file_is_of_all(add_versions, models_dir, policy, versions):
    add_versions("1", "2", "10", version_policy=policy)
    async with Server([models_dir], plugins=()) as server:
        assert [line.version for line in await server.index()] == versions
        with pytest.raises(ModelNotFoundError):
            server.model("m", "7")


async def test_a_version_with_settings_of_its_own_has_the_name_and_policy_above(
    add_versions, models_dir
):
    folder = add_versions("1", "2", "3", name="folder", version_policy={"latest": 2})
    text = (folder / "model-settings.json").read_text()
    named = {**json.loads(text), "name": "named"}
    (folder / "model-settings.json").write_text(json.dumps(named))
    (folder / "3" / "code.py").write_text(CODE.replace('"tag").read_text()', '"tag").name'))
    (folder / "3" / "model-settings.json").write_text('{"implementation": "code.Tagged"}')
    async with Server([models_dir], plugins=()) as server:
        assert await ask(server.model("named", "3")) == "tag"
        assert await ask(server.model("named", "2")) == "tag of 2"
        with pytest.raises(ModelNotFoundError):
            server.model("named", "1")


async def test_a_version_may_have_code_of_its_own(add_versions, models_dir):
    folder = add_versions("1", "2")
    (folder / "2" / "code.py").write_text(CODE.replace("read_text()", "read_text().upper()"))
    async with Server([models_dir], plugins=()) as server:
        assert await ask(server.model("m", "1")) == "tag of 1"
        assert await ask(server.model("m", "2")) == "TAG OF 2"


async def test_versions_of_settings_files_of_their_own_take_the_newest_ones_policy(
    add_model, models_dir
):
    add_model("double", version="1", version_policy="all")
    add_model("double", version="2", version_policy={"latest": 1})
    add_model("double", version="3")
    async with Server([models_dir], plugins=()) as server:
        assert [line.version for line in await server.index()] == ["3"]


async def test_the_artifacts_of_versions_are_found_by_one_file(add_reader, models_dir):
    add_reader("text", "*.txt")
    for version in ("1", "2"):
        (models_dir / "a" / version).mkdir(parents=True)
        (models_dir / "a" / version / "model.txt").write_text(f"text {version}")
    for written in ({}, {"implementation": "text"}, {"parameters": {"uri": "./model.txt"}}):
        (models_dir / "a" / "model-settings.json").write_text(json.dumps(written))
        async with Server([models_dir]) as server:
            for version in ("1", "2"):
                model = server.model("a", version)
                response = await model.infer(x=[1.0])
                assert response.arrays["text"].tolist() == [f"text {version}".encode()]


async def test_what_lies_beside_its_settings_has_no_versions(add_reader, models_dir):
    add_reader("text", "*.txt")
    (models_dir / "a" / "1").mkdir(parents=True)
    (models_dir / "a" / "1" / "model.txt").write_text("old")
    (models_dir / "a" / "model.txt").write_text("new")
    (models_dir / "a" / "model-settings.json").write_text("{}")
    async with Server([models_dir]) as server:
        assert [line.version for line in await server.index()] == [""]
        response = await server.model("a").infer(x=[1.0])
        assert response.arrays["text"].tolist() == [b"new"]


async def test_a_policy_for_versions_that_are_not_there_tells_of_it(
    add_versions, models_dir, caplog
):
    add_versions("1", "2", version_policy={"specific": ["2", "7"]})
    async with Server([models_dir], plugins=()) as server:
        assert [line.version for line in await server.index()] == ["2"]
    assert "version_policy asks for 7, which is not there" in caplog.text
    add_versions(version_policy={"specific": ["7"]})
    async with Server([models_dir], plugins=()) as server:
        [line] = await server.index()
        assert line.state == "UNAVAILABLE"
        assert "version_policy asks for 7" in line.reason


async def test_a_load_takes_up_a_new_version_and_drops_what_the_policy_leaves_out(
    add_versions, models_of, models_dir
):
    folder = add_versions("1", "2", version_policy={"latest": 2})
    models = models_of(models_dir)
    await models.start()
    add_version(folder, "3", "new")
    await models.load("m")
    assert await serving(models) == {"2": "tag of 2", "3": "new"}
    await models.close(5)


# ---- prepare, commit, abort ----


async def test_what_is_prepared_serves_from_its_commit_on(add_versions, models_of, models_dir):
    folder = add_versions("1", "2")
    models = models_of(models_dir)
    await models.start()
    for version in ("2", "3"):
        add_version(folder, version, "new")
    shutil.rmtree(folder / "1")
    change = await models.prepare("m")
    assert await serving(models) == {"1": "tag of 1", "2": "tag of 2"}
    await change.commit()
    assert await serving(models) == {"2": "new", "3": "new"}
    with pytest.raises(ModelNotReadyError, match="its change was made already"):
        await change.commit()
    await change.abort()
    assert await serving(models) == {"2": "new", "3": "new"}
    await models.close(5)


async def test_who_found_the_old_one_before_asks_the_new_one(add_versions, models_of, models_dir):
    folder = add_versions("1")
    models = models_of(models_dir)
    await models.start()
    found = models.get("m")
    for tag in ("new", "newer"):
        add_version(folder, "1", tag)
        await models.load("m")
        assert await ask(found) == tag
    await models.close(5)


async def test_one_version_that_fails_keeps_all_others_from_changing(
    add_versions, models_of, models_dir
):
    folder = add_versions("1", "2")
    models = models_of(models_dir)
    await models.start()
    add_version(folder, "1", "new")
    add_version(folder, "2", "broken")
    add_version(folder, "3", "new")
    problem = (
        "version 2 failed to load: OSError: the file is corrupt; no version has changed: "
        "mend that, or leave it out by 'version_policy'"
    )
    with pytest.raises(ModelNotReadyError, match=problem):
        await models.load("m")
    assert await serving(models) == {"1": "tag of 1", "2": "tag of 2"}
    lines = {line.version: (line.state, line.reason) for line in await models.index()}
    assert lines == {
        "1": ("READY", ""),
        "2": ("READY", "failed to load: OSError: the file is corrupt"),
        "3": ("UNAVAILABLE", "not loaded"),
    }
    await models.close(5)


async def test_what_is_given_up_is_closed_and_leaves_no_trace(
    add_model, models_of, models_dir, stage
):
    add_model("m", "Staged", extra={"tag": "old"})
    models = models_of(models_dir)
    await models.start()
    add_model("m", "Staged", extra={"tag": "new"})
    change = await models.prepare("m")
    await change.abort()
    assert stage.log == ["load old", "load new", "close new"]
    assert [(line.state, line.reason) for line in await models.index()] == [("READY", "")]
    with pytest.raises(ModelNotReadyError, match="its change was given up"):
        await change.commit()
    await models.close(5)
    assert stage.log[3:] == ["close old"]


async def test_a_new_model_that_is_given_up_is_as_before(add_model, models_of, models_dir):
    models = models_of(models_dir)
    await models.start()
    add_model("double")
    change = await models.prepare("double")
    assert models.state("double").state is ModelState.UNAVAILABLE
    await change.abort()
    with pytest.raises(ModelNotFoundError):
        models.get("double")
    assert [line.reason for line in await models.index()] == ["not loaded"]
    await models.close(5)


async def test_a_second_change_waits_for_the_end_of_the_first(add_model, models_of, models_dir):
    add_model("double")
    models = models_of(models_dir)
    await models.start()
    first = await models.prepare("double")
    second = asyncio.create_task(models.prepare("double"))
    unload = asyncio.create_task(models.unload("double"))
    other = add_model("other") and await models.prepare("other")
    assert not second.done()
    assert not unload.done()
    await first.commit()
    await (await second).abort()
    await unload
    await other.abort()
    await models.close(5)


async def test_a_change_that_nobody_ends_is_given_up(add_model, models_of, models_dir, caplog):
    add_model("double")
    models = models_of(models_dir)
    await models.start()
    left = await models.prepare("double", hold_s=0.01)
    async with asyncio.timeout(10):
        await models.load("double")
    with pytest.raises(ModelNotReadyError, match=r"prepared and not ended within 0\.01 s"):
        await left.commit()
    assert "not ended within 0.01 s" in caplog.text
    await models.close(5)


async def test_a_stop_gives_up_what_is_prepared(add_model, models_of, models_dir, stage):
    add_model("m", "Staged", extra={"tag": "old"})
    models = models_of(models_dir)
    await models.start()
    change = await models.prepare("m")
    await models.close(5)
    assert sorted(stage.log) == ["close old", "close old", "load old", "load old"]
    with pytest.raises(ModelNotReadyError, match="the server stops"):
        await change.commit()


async def test_a_prepare_whose_caller_leaves_frees_what_it_loaded(
    add_model, models_of, models_dir, stage, until
):
    add_model("m", "Staged")
    models = models_of(models_dir)
    stage.may_load.clear()
    preparing = asyncio.create_task(models.prepare("m"))
    await stage.until_loading()
    preparing.cancel()
    stage.may_load.set()
    await asyncio.wait([preparing])
    await until(lambda: stage.log == ["load ", "close "])
    async with asyncio.timeout(10):
        await models.load("m")
    await models.close(5)


async def test_unload_forgets_what_is_no_longer_on_disk(add_model, models_of, models_dir):
    folder = add_model("double")
    models = models_of(models_dir)
    await models.start()
    shutil.rmtree(folder)
    await models.unload("double")
    assert await models.index() == []
    with pytest.raises(ModelNotFoundError):
        models.get("double")
    await models.close(5)


@pytest.mark.parametrize("way", ["unload", "load", "abort", "failed load"])
async def test_what_is_freed_is_garbage_when_its_end_is_told(
    add_model, models_of, models_dir, stage, until, way
):
    code = """
        import stage, weakref
        from jackfield import InferResponse, ModelMetadata

        class Kept:
            def __init__(self, context):
                self.itself = self
                stage.log.append(weakref.ref(self))
            def load(self): pass
            def metadata(self): return ModelMetadata()
            def infer(self, request):
                if request.inputs[0].array[0] < 0: raise ValueError
                return InferResponse(request.inputs)
            def close(self): pass
    """
    add_model("m", "Kept", code=textwrap.dedent(code))
    models = models_of(models_dir)
    await models.start()
    await models.get("m").infer(x=[1.0])
    counts = []

    def on_change():
        gc.collect()
        counts.append(sum(each() is not None for each in stage.log))

    models.on_change = on_change
    if way == "unload":
        await models.unload("m")
        assert counts == [0]
    elif way == "load":
        await models.load("m")
        await until(lambda: counts == [2, 1])
    elif way == "abort":
        await (await models.prepare("m")).abort()
        assert counts == [1]
    else:
        folder = add_model("m", "Kept", code=textwrap.dedent(code), warm_up=["a.json"])
        tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [-1.0]}
        (folder / "a.json").write_text(json.dumps({"inputs": [tensor]}))
        logging.disable()  # what pytest keeps of the log keeps the error, and that the model
        with contextlib.suppress(ModelNotReadyError):
            await models.load("m")
        logging.disable(logging.NOTSET)
        assert len(stage.log) == 2
        await until(lambda: counts == [1])
    await models.close(5)


async def test_a_change_that_is_given_up_leaves_a_monitor_what_it_watched():
    monitors = Monitors(lambda name: None)
    settings = [MonitorSettings(detector="d")]

    def create(size):
        x = TensorMetadata("x", Datatype.FP64, [-1, size])
        [handle] = monitors.create("m", "", settings, ModelMetadata(inputs=[x]))
        return handle

    serving, given_up = create(1), create(2)
    given_up.close()
    assert serving.monitor.watched[0].shape == [-1, 1]
    successor = create(3)
    serving.close()
    assert successor.monitor.watched[0].shape == [-1, 3]
    successor.close()


class Changing(RuleBasedStateMachine):
    """Changes of a model's versions, in any order, against what is to serve."""

    versions = strategies.sampled_from(["1", "2", "10"])

    @initialize()
    def start(self):
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "m"
        self.folder.mkdir()
        (self.folder / "code.py").write_text(CODE)
        (self.folder / "model-settings.json").write_text('{"implementation": "code.Tagged"}')
        add_version(self.folder, "1", "first")
        #: What lies on disk, what serves, and what will once the open change is made.
        self.disk = {"1": "first"}
        self.serves = {"1": "first"}
        self.prepared = None
        self.change = None
        self.count = 0
        self.models = Models(Repository([self.root], discover(())))
        self.models.open()
        self.runner.run(self.models.start())

    def teardown(self):
        if hasattr(self, "runner"):
            self.runner.run(self.models.close(5))
            self.runner.close()
            shutil.rmtree(self.root)

    @rule(version=versions, is_broken=strategies.booleans())
    def write(self, version, is_broken):
        self.count += 1
        self.disk[version] = "broken" if is_broken else f"tag {self.count}"
        add_version(self.folder, version, self.disk[version])

    @precondition(lambda self: len(self.disk) > 1)
    @rule(data=strategies.data())
    def remove(self, data):
        version = data.draw(strategies.sampled_from(sorted(self.disk)))
        del self.disk[version]
        shutil.rmtree(self.folder / version)

    @precondition(lambda self: self.change is None)
    @rule(commits=strategies.booleans())
    def prepare(self, commits):
        """Load beside; with `commits`, by `load`."""
        work = self.models.load("m") if commits else self.models.prepare("m")
        if "broken" in self.disk.values():
            with pytest.raises(ModelNotReadyError, match="the file is corrupt"):
                self.runner.run(work)
        elif commits:
            self.runner.run(work)
            self.serves = dict(self.disk)
        else:
            self.change = self.runner.run(work)
            self.prepared = dict(self.disk)

    @precondition(lambda self: self.change is not None)
    @rule()
    def commit(self):
        self.runner.run(self.change.commit())
        self.change, self.serves = None, self.prepared

    @precondition(lambda self: self.change is not None)
    @rule()
    def abort(self):
        self.runner.run(self.change.abort())
        self.change = None

    @precondition(lambda self: self.change is None)
    @rule()
    def unload(self):
        self.runner.run(self.models.unload("m"))
        self.serves = {}

    @invariant()
    def serves_what_it_is_to(self):
        if not hasattr(self, "models"):
            return
        assert self.runner.run(serving(self.models)) == self.serves
        lines = self.runner.run(self.models.index())
        assert {line.version for line in lines if line.state == "READY"} == {*self.serves}
        if self.serves:
            newest = max(self.serves, key=version_key)
            assert self.runner.run(ask(self.models.get("m"))) == self.serves[newest]
        else:
            with pytest.raises(ModelNotReadyError):
                self.models.get("m")


Changing.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
test_any_order_of_changes_serves_what_it_is_to = Changing.TestCase
