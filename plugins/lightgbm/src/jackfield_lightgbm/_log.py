"""Bring what LightGBM says to a log: it prints to standard output otherwise."""

from __future__ import annotations

import contextlib
import contextvars
import logging
from typing import TYPE_CHECKING, TypeAlias

import lightgbm
import lightgbm.basic

if TYPE_CHECKING:
    from collections.abc import Iterator

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"

#: The model that loads in this thread; what LightGBM says at other times is nobody's.
_LOADING: contextvars.ContextVar[Logger] = contextvars.ContextVar("loading")
_LEVELS = {"[Warning]": logging.WARNING, "[Fatal]": logging.ERROR}


def _logger() -> Logger:
    return _LOADING.get(logging.getLogger("jackfield.model"))


class _Log:
    """What LightGBM calls; its library's own warnings come as info, with the level in the text."""

    def info(self, text: str) -> None:
        text = text.strip().removeprefix("[LightGBM] ")
        level = next((_LEVELS[each] for each in _LEVELS if text.startswith(each)), logging.INFO)
        _logger().log(level, "LightGBM: %s", text)

    def warning(self, text: str) -> None:
        _logger().warning("LightGBM: %s", text)


@contextlib.contextmanager
def logging_to(logger: Logger) -> Iterator[None]:
    """Send what LightGBM says in this thread to a model's log.

    LightGBM has one logger for the process: one that the program set itself stays.
    """
    current = getattr(lightgbm.basic, "_LOGGER", None)
    if type(current).__name__ == "_DummyLogger":
        lightgbm.register_logger(_Log())
    token = _LOADING.set(logger)
    try:
        yield
    finally:
        _LOADING.reset(token)
