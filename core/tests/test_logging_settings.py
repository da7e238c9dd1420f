import contextlib
import functools
import json
import logging

import grpc.aio
import pytest

from jackfield import InvalidRequestError
from jackfield._log import configure_logging
from jackfield._logging_settings import LoggingSettings
from jackfield._wire.descriptors import METHODS

LOGGERS = ("jackfield", "jackfield.model", "jackfield.http")
FIRST = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


@pytest.fixture(autouse=True)
def untouched():
    """Begin as ``jackfield serve`` does, and see that the loggers are left as they were."""
    logger = logging.getLogger("jackfield")
    logger.setLevel(logging.INFO)
    # what an earlier start in this process may have left
    logging.getLogger("jackfield.http").setLevel(logging.NOTSET)
    yield
    try:
        assert logger.level == logging.INFO
        assert not any(logging.getLogger(name).filters for name in LOGGERS)
    finally:
        logger.setLevel(logging.NOTSET)


class Served:
    """A server without models, and a client of each of its two ways in."""

    def __init__(self, rest, ask):
        self.rest = rest
        self._ask = ask

    async def post(self, **settings):
        return await self.rest.post("/v2/logging", json=settings)

    async def call(self, **settings):
        message = METHODS["LogSettings"].request()
        for key, value in settings.items():
            field = {bool: "bool_param", int: "uint32_param", str: "string_param"}.get(type(value))
            if field is None:
                message.settings[key].SetInParent()
            else:
                setattr(message.settings[key], field, value)
        answer = await self._ask("LogSettings", message)
        return {
            key: getattr(value, value.WhichOneof("parameter_choice"))
            for key, value in answer.settings.items()
        }


@pytest.fixture
def serve(serving, call):
    @contextlib.asynccontextmanager
    async def serve():
        async with serving() as (_, rest, channel):
            yield Served(rest, functools.partial(call, channel))

    return serve


def logged(caplog):
    """Log at each level, by each logger that has a level of its own; tell what got through."""
    caplog.clear()
    for name in LOGGERS:
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(logging.getLogger(name), level)(level)
    found = [record.message for record in caplog.records]
    third = len(found) // 3
    assert found == found[:third] * 3
    return found[:third]


async def test_both_ways_tell_the_settings_as_they_are(serve):
    async with serve() as served:
        answer = await served.rest.get("/v2/logging")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == FIRST
        assert await served.call() == FIRST
        logging.getLogger("jackfield").setLevel(logging.DEBUG)
        assert (await served.rest.get("/v2/logging")).json() == FIRST | {"log_verbose_level": 1}
        logging.getLogger("jackfield").setLevel(logging.ERROR)
        found = (await served.rest.get("/v2/logging")).json()
        assert found == FIRST | {"log_info": False, "log_warning": False}
        logging.getLogger("jackfield").setLevel(logging.INFO)


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({"log_verbose_level": 1}, ["debug", "info", "warning", "error", "critical"]),
        ({"log_verbose_level": 4_294_967_295}, ["debug", "info", "warning", "error", "critical"]),
        ({}, ["info", "warning", "error", "critical"]),
        ({"log_info": False}, ["warning", "error", "critical"]),
        ({"log_warning": False}, ["info", "error", "critical"]),
        ({"log_warnings": False}, ["info", "error", "critical"]),
        ({"log_errors": False}, ["info", "warning"]),
        ({"log_info": False, "log_warning": False}, ["error", "critical"]),
        ({"log_info": False, "log_warning": False, "log_error": False}, []),
        ({"log_verbose_level": 2, "log_info": False}, ["debug", "warning", "error", "critical"]),
    ],
)
async def test_a_change_holds_from_the_next_record_on(serve, caplog, changes, passed):
    async with serve() as served:
        answer = await served.post(**changes)
        told = {key.rstrip("s"): value for key, value in changes.items()}
        assert answer.json() == FIRST | told
        assert logged(caplog) == passed
        assert await served.call() == FIRST | told
        await served.post(**FIRST)
        assert await served.call(**changes) == FIRST | told
        assert logged(caplog) == passed
    assert logged(caplog) == ["info", "warning", "error", "critical"]


async def test_only_what_is_named_changes(serve):
    async with serve() as served:
        await served.post(log_info=False)
        await served.call(log_verbose_level=3)
        answer = await served.post(log_error=None, log_warning=None, log_format=None)
        expected = FIRST | {"log_info": False, "log_verbose_level": 3}
        assert answer.json() == expected
        assert await served.call(log_info=None) == expected


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"log_file": "/tmp/log"}, "log_file"),
        ({"log_file": 1}, "log_file"),
        ({"log_info": 1}, "log_info"),
        ({"log_info": "true"}, "log_info"),
        ({"log_verbose_level": -1}, "log_verbose_level"),
        ({"log_verbose_level": 2**32}, "log_verbose_level"),
        ({"log_verbose_level": True}, "log_verbose_level"),
        ({"log_verbose_level": "1"}, "log_verbose_level"),
        ({"log_format": "json"}, "log_format"),
        ({"log_format": []}, "log_format"),
        ({"log_level": "debug"}, "'log_level'"),
        ({"": 1}, "log_info"),
    ],
)
async def test_what_is_no_setting_is_refused_and_nothing_changed(serve, changes, text):
    async with serve() as served:
        answer = await served.post(log_error=False, **changes)
        assert answer.status_code == 400
        assert text in answer.json()["error"]
        assert (await served.rest.get("/v2/logging")).json() == FIRST
        [value] = changes.values()
        if isinstance(value, str) or (type(value) is int and value in range(2**32)):
            with pytest.raises(grpc.aio.AioRpcError, match=text) as caught:
                await served.call(**changes)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("body", [b"[]", b"{", b"null", b"[" * 10_000, b'{"log_info": ' * 10_000])
async def test_a_body_that_is_none_is_refused(serve, body):
    async with serve() as served:
        assert (await served.rest.post("/v2/logging", content=body)).status_code == 400
        assert (await served.rest.put("/v2/logging")).status_code == 405


async def test_the_time_is_written_as_iso_8601_where_that_is_asked(serve, capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging("info", "text")
        async with serve() as served:
            logging.getLogger("jackfield").info("one")
            await served.post(log_format="ISO8601")
            logging.getLogger("jackfield.model").info("two")
            await served.post(log_format="default")
            logging.getLogger("jackfield").info("three")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name in ("uvicorn", "uvicorn.error", "hypercorn", "jackfield.http"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    lines = map(str.split, capsys.readouterr().err.splitlines())
    times = [line[0] for line in lines if line[2] in ("one", "two", "three")]
    assert [len(time) for time in times] == [len("12:34:56"), len("2020-01-02T12:34:56.789Z"), 8]
    assert times[1].endswith("Z")


async def test_the_json_log_keeps_its_form(capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs = LoggingSettings()
    try:
        configure_logging("info", "json")
        logging.getLogger("jackfield").info("one")
        logs.update({"log_format": "ISO8601"})
        logging.getLogger("jackfield").info("two")
    finally:
        logs.restore()
        root.handlers[:] = handlers
        root.setLevel(level)
        for name in ("uvicorn", "uvicorn.error", "hypercorn", "jackfield.http"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.keys() == second.keys() == {"time", "level", "logger", "message"}
    assert len(first["time"]) == len(second["time"]) == len("2020-01-02T12:34:56.789Z")


def test_two_servers_put_back_what_they_found():
    one, other = LoggingSettings(), LoggingSettings()
    one.update({"log_verbose_level": 1})
    assert other.record()["log_verbose_level"] == 1
    other.restore()
    assert logging.getLogger("jackfield").level == logging.DEBUG
    with pytest.raises(InvalidRequestError):
        other.update({"log_file": "x"})
    one.restore()
    one.restore()
