"""What this process logs, changed while it runs.

Logging belongs to the process: two servers in one process change the same loggers, and each puts
them back when it stops. The form and place of the log are whoever's who set logging up; a record
only says which form of time is wanted.

Source: Triton's logging extension.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from jackfield._validation import explain
from jackfield.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A filter holds for records made by its own logger only, so that each gets it. Traces have
#: settings of their own.
_LOGGERS = ("jackfield", "jackfield.model", "jackfield.http")
#: Triton's documentation has the plural, its server the singular.
_ALIASES = {"log_warnings": "log_warning", "log_errors": "log_error"}


class _Values(msgspec.Struct, frozen=True):
    log_file: str = ""
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = "default"


class LoggingSettings:
    """The settings as one server's callers left them."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(_LOGGERS[0])
        self._values: _Values | None = None
        self._level_before = logging.NOTSET

    def record(self) -> dict[str, Any]:
        """Give the settings in the form that the wire has."""
        return msgspec.to_builtins(self._now())  # type: ignore[no-any-return]

    def update(self, changes: Mapping[str, object]) -> None:
        """Change some settings; None leaves one as it is.

        Raises:
            InvalidRequestError: A setting is unknown, or a value is none; nothing is changed then.
        """
        values = self.check(changes)
        if values is None:
            return
        if self._values is None:
            self._level_before = self._logger.level
            for name in _LOGGERS:
                logging.getLogger(name).addFilter(self._pass)
        self._values = values
        self._logger.setLevel(_level(values))

    def check(self, changes: Mapping[str, object]) -> _Values | None:
        """Give what the settings would be after a change; None if it changes nothing.

        Raises:
            InvalidRequestError: As `update`.
        """
        given = {
            _ALIASES.get(key, key): value for key, value in changes.items() if value is not None
        }
        if not given:
            return None
        if unknown := sorted(given.keys() - set(_Values.__struct_fields__)):
            raise InvalidRequestError(
                "",
                expected=f"some of {', '.join(_Values.__struct_fields__)}",
                found=f"'{unknown[0]}'",
            )
        try:
            values = msgspec.convert({**self.record(), **given}, _Values)
        except msgspec.ValidationError as error:
            path, expected, found = explain(error)
            raise InvalidRequestError(path, expected=expected, found=found) from error
        if values.log_file:
            raise InvalidRequestError(
                "log_file", expected="an empty text: the log's place is the operator's", found="one"
            )
        if values.log_format not in ("default", "ISO8601"):
            raise InvalidRequestError(
                "log_format", expected="default or ISO8601", found=f"'{values.log_format}'"
            )
        if not 0 <= values.log_verbose_level < 2**32:
            raise InvalidRequestError(
                "log_verbose_level",
                expected="an integer from 0 to 4294967295",
                found=f"{values.log_verbose_level}",
            )
        return values

    def restore(self) -> None:
        """Put the loggers back as they were."""
        if self._values is not None:
            self._values = None
            self._logger.setLevel(self._level_before)
            for name in _LOGGERS:
                logging.getLogger(name).removeFilter(self._pass)

    def _now(self) -> _Values:
        if self._values is not None:
            return self._values
        level = self._logger.getEffectiveLevel()
        return _Values(
            log_info=level <= logging.INFO,
            log_warning=level <= logging.WARNING,
            log_error=level <= logging.ERROR,
            log_verbose_level=int(level <= logging.DEBUG),
        )

    def _pass(self, record: logging.LogRecord) -> bool:
        """Let a record through where its own switch is on: a level alone can't leave one out."""
        values = self._now()
        if values.log_format == "ISO8601":
            record.__dict__["time_format"] = "ISO8601"
        if record.levelno >= logging.ERROR:
            return values.log_error
        if record.levelno >= logging.WARNING:
            return values.log_warning
        if record.levelno >= logging.INFO:
            return values.log_info
        return values.log_verbose_level > 0


def _level(values: _Values) -> int:
    """Find the least level that some switch lets through."""
    if values.log_verbose_level:
        return logging.DEBUG
    if values.log_info:
        return logging.INFO
    if values.log_warning:
        return logging.WARNING
    return logging.ERROR if values.log_error else logging.CRITICAL + 1
