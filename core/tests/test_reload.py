"""What a change leaves behind: nothing that did not come to serve, and no memory that is free."""

import asyncio

import pytest

from jackfield import ModelNotReadyError, Server


async def test_versions_that_were_loaded_beside_one_that_fails_are_closed(
    add_model, models_dir, stage
):
    for version in ("1", "2", "3"):
        add_model("m", "Staged", version=version, extra={"tag": f"old {version}"})
    async with Server([models_dir], plugins=()) as server:
        stage.log.clear()
        for version, kind in (("1", "Staged"), ("2", "Nothing"), ("3", "Staged")):
            add_model("m", kind, version=version, extra={"tag": f"new {version}"})
        with pytest.raises(ModelNotReadyError, match="version 2 failed to load"):
            await server._models.load("m")
        # whichever of them was loaded when the other one failed
        assert {"close new 1", "close new 3"} <= {*stage.log}
        assert not {"close old 1", "close old 2", "close old 3"} & {*stage.log}


@pytest.mark.parametrize("way", ["unload", "load"])
async def test_free_memory_is_given_back_when_a_model_has_gone(
    add_model, models_dir, monkeypatch, way
):
    add_model("double")
    loop, trimmed = asyncio.get_running_loop(), asyncio.Event()
    # what the system has back is not told alike by any two of them
    monkeypatch.setattr("jackfield._models.trim", lambda: loop.call_soon_threadsafe(trimmed.set))
    async with Server([models_dir], plugins=()) as server:
        assert not trimmed.is_set()
        await getattr(server._models, way)("double")
        async with asyncio.timeout(20):
            await trimmed.wait()
