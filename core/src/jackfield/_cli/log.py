"""How the command line logs: text or one JSON object a line, to standard error."""

from __future__ import annotations

import logging
import sys
import time
from typing import Literal

import msgspec

_FACTS = ("model", "version")


def configure_logging(level: str, form: Literal["auto", "text", "json"]) -> None:
    """Set up the log of this process; called by commands, never when embedded."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # these speak of each connection, or request, at info level
    for noisy in ("uvicorn", "uvicorn.error", "hypercorn", "jackfield.http", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  logging's name
        if record.__dict__.get("time_format") == "ISO8601":
            return _iso8601(record)
        return super().formatTime(record, datefmt)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        text = super().formatMessage(record)
        facts = [str(record.__dict__[fact]) for fact in _FACTS if record.__dict__.get(fact)]
        return f"{text} [{':'.join(facts)}]" if facts else text


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _iso8601(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {fact: record.__dict__[fact] for fact in _FACTS if record.__dict__.get(fact)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def _iso8601(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
