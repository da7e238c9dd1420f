"""How the command line and its workers log: text or one JSON object a line, to standard error."""

from __future__ import annotations

import logging
import sys
import time
from typing import Literal

import msgspec

_FACTS = ("model", "version")
_JSON_FACTS = ("worker", *_FACTS)


def configure_logging(
    level: str, form: Literal["auto", "text", "json"], *, worker: int | None = None
) -> None:
    """Set up the log of this process; called by commands, never when embedded.

    Args:
        level: The least level.
        form: As the setting `log_format`.
        worker: The number of this worker, which each line then tells; None for a lone process.
    """
    handler = logging.StreamHandler(sys.stderr)
    if worker is not None:
        handler.addFilter(_Numbering(worker))
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # these speak of each connection, or request, at info level
    for noisy in ("uvicorn", "uvicorn.error", "hypercorn", "jackfield.http", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Numbering(logging.Filter):
    """Puts the worker's number on each record."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.setdefault("worker", self._worker)
        return True


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
        text = f"{text} [{':'.join(facts)}]" if facts else text
        worker = record.__dict__.get("worker")
        return f"{text} (worker {worker})" if worker else text


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _iso8601(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {fact: record.__dict__[fact] for fact in _JSON_FACTS if record.__dict__.get(fact)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def _iso8601(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
