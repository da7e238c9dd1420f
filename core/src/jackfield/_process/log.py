"""The log of a host: lines on its standard error, which the server logs as its own.

A record is a mark and one JSON object; any other line was printed by the model or its framework.
"""

from __future__ import annotations

import logging
import sys

import msgspec

_MARK = "\x1e"
_model_logger = logging.getLogger("jackfield.model")


class _Record(msgspec.Struct, frozen=True):
    logger: str
    level: int
    message: str
    #: Of whoever logged with them, as a model's own logger does; empty otherwise.
    model: str = ""
    version: str = ""


def configure_child_logging(level: int) -> None:
    """Send this process's log to the server."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_MarkedFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    set_log_level(level)


def set_log_level(level: int) -> None:
    """Log what the server logs of its models."""
    logging.getLogger("jackfield").setLevel(level)


class _MarkedFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # a trace goes along as text: an exception's objects stay in their process
        message = super().format(record).encode(errors="backslashreplace").decode()
        whose = (str(getattr(record, "model", "")), str(getattr(record, "version", "")))
        line = msgspec.json.encode(_Record(record.name, record.levelno, message, *whose))
        return _MARK + line.decode()


def relay(line: str, *, model: str, version: str) -> bool:
    """Log one line of a host here, with the model's name.

    Args:
        line: What it wrote.
        model: The model that lives there, or the names of all of them.
        version: Its version.

    Returns:
        Whether it was printed, not logged, over there.
    """
    found = _Record(_model_logger.name, logging.INFO, line)
    is_printed = not line.startswith(_MARK)
    if not is_printed:
        try:
            found = msgspec.json.decode(line[len(_MARK) :], type=_Record)
        except msgspec.DecodeError:
            is_printed = True
    whose = (found.model, found.version) if found.model else (model, version)
    extra = dict(zip(("model", "version"), whose, strict=True))
    logging.getLogger(found.logger).log(found.level, "%s", found.message, extra=extra)
    return is_printed


def model_log_level() -> int:
    """Tell the least level that the server logs of its models."""
    return _model_logger.getEffectiveLevel()
