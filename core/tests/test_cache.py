"""The caches of what is made and fetched: nothing is removed that somebody makes or uses."""

from __future__ import annotations

import threading

import pytest

from jackfield import ModelLoadError
from jackfield._environments.requirement import read_requirements
from jackfield._environments.store import Record, Store


@pytest.fixture
def store(tmp_path):
    (tmp_path / "made").mkdir()
    return Store(tmp_path)


def test_what_is_being_made_is_not_pruned(store):
    pruned, begun = threading.Event(), threading.Event()

    def build(folder, lock):
        begun.set()
        assert pruned.wait(20)
        (folder / "a.txt").write_text("a")
        return Record(kind="wheel", description="")

    made = []
    thread = threading.Thread(target=lambda: made.append(store.make("x", build)))
    thread.start()
    assert begun.wait(20)
    assert store.prune(0) == []
    pruned.set()
    thread.join()
    assert (made[0].folder / "a.txt").read_text() == "a"


def test_an_index_among_requirements_is_told_without_its_secrets(tmp_path):
    line = "--index-url https://me:s3cret@index.example/simple?token=t0psecret"
    with pytest.raises(ModelLoadError) as caught:
        read_requirements([line], tmp_path)
    assert "'--index-url https://index.example/…'" in str(caught.value)
