"""What docs/monitors.md shows is what a monitor takes, tells and sends."""

import asyncio
import hashlib
import hmac
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from jackfield import ModelSettings, Server
from jackfield._monitors import monitors_of
from jackfield._monitors.statistics import DROPS

PAGE = (Path(__file__).parents[2] / "docs" / "monitors.md").read_text("utf-8")
SETTINGS, ANSWER = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
ECHO = """
import numpy as np
from numpy.typing import NDArray


def echo(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x
"""


@pytest.fixture
def models(tmp_path):
    """Write the page's detector, and a model that it watches."""
    detector = re.search(r"<!-- model: mean.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]
    monitors = [{"detector": "mean", "window": 4, "webhook": {"url": "http://127.0.0.1:9/"}}]
    settings = {
        "mean": {"implementation": "code.MeanDrift"},
        "echo": {"implementation": "code.echo", "monitors": monitors},
    }
    for name, code in (("mean", detector), ("echo", ECHO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text(code)
        text = json.dumps({"name": name, **settings[name]})
        (tmp_path / name / "model-settings.json").write_text(text)
    return tmp_path


def test_the_pages_settings_are_settings():
    msgspec.convert(SETTINGS, ModelSettings)


async def test_the_pages_detector_finds_drift_and_the_answer_has_the_pages_form(models):
    async with Server([models], plugins=()) as server:
        (monitor,) = monitors_of(server.model("echo"))
        for mean in (5, 9):
            await server.model("echo").infer(x=np.full((4, 2), float(mean)))
        async with asyncio.timeout(10):
            while monitor.statistics.verdicts < 2:  # noqa: ASYNC110  it sets no event
                await asyncio.sleep(0.01)
        told = msgspec.json.decode(msgspec.json.encode(monitor.record()))
    assert [verdict["is_positive"] for verdict in told["history"]] == [False, True]
    (shown,) = ANSWER["monitors"]
    for part in (lambda x: x, lambda x: x["rows"], lambda x: x["window"], lambda x: x["calls"]):
        assert set(part(shown)) == set(part(told))
    for part in ("verdicts", "webhook", "current"):
        assert set(shown[part]) == set(told[part])
    assert set(shown["current"]["features"][0]) == set(told["current"]["features"][0])
    assert set(shown["settings"]) <= set(told["settings"])


def test_the_page_tells_every_reason_to_drop_rows():
    text = PAGE.partition("by one of these reasons:")[2].partition("Of `misfit`")[0]
    assert set(re.findall(r"`(\w+)`,", text)) == set(DROPS)


def test_the_receiver_of_the_page_knows_a_signature():
    names = {}
    code = re.search(r"```python\n(import hashlib.*?)```", PAGE, re.DOTALL)[1]
    exec(code, names)
    signature = "sha256=" + hmac.new(b"key", b"12.{}", hashlib.sha256).hexdigest()
    assert names["is_ours"](b"key", "12", b"{}", signature)
    assert not names["is_ours"](b"key", "13", b"{}", signature)
