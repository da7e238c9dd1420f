"""Carry an error that a caller is told from a model's process to the server."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from jackfield import errors
from jackfield._label import label_model
from jackfield._process.frames import FrameError, encode
from jackfield._process.messages import Failed, Refused
from jackfield.errors import CapacityError, JackfieldError, RequestError, RuntimeFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jackfield._process.frames import Buffer

logger = logging.getLogger("jackfield")

#: What a caller is told as it is; the last by a model that this one called.
_TOLD = RequestError | CapacityError | RuntimeFailedError


def encode_error(call: int, error: BaseException) -> list[Buffer]:
    """Write what a runtime raised: whole if the caller is told it, else as a trace for the log."""
    frame: list[Buffer] = []

    def keep(message: Refused | Failed) -> None:
        frame.extend(encode(message))

    tell_error(keep, call, error)
    return frame


def tell_error(tell: Callable[[Refused | Failed], object], call: int, error: BaseException) -> None:
    """Tell what a runtime raised: whole if the caller is told it, else as a trace for the log.

    Args:
        tell: Writes and sends a message; raises `FrameError` for what can't be written.
        call: The call that it is the end of.
        error: What was raised.
    """
    if isinstance(error, _TOLD):
        try:
            tell(refuse(call, error))
        except FrameError:
            pass
        else:
            return
    lines = traceback.format_exception(error)
    # a text may hold lone surrogates, which no message carries
    trace = "".join(lines).encode(errors="backslashreplace").decode()
    tell(Failed(call, trace))


def refuse(call: int, error: JackfieldError) -> Refused:
    """Describe an error that a caller is told."""
    # of a class of the author's the nearest one that the server knows, too
    kind = next(each for each in type(error).__mro__ if each.__module__ == errors.__name__)
    facts: dict[str, Any] = msgspec.to_builtins(vars(error), enc_hook=repr)
    return Refused(call, kind.__name__, str(error), facts)


def restore_error(refused: Refused) -> JackfieldError:
    """Make the error anew, with its text and facts.

    Raises:
        FrameError: There is no such error.
    """
    kind = getattr(errors, refused.kind, None)
    if not isinstance(kind, type) or not issubclass(kind, _TOLD):
        problem = f"'{refused.kind}' is no error that a caller is told"
        raise FrameError(problem)
    # not by the constructor, which takes facts that differ from class to class
    error: JackfieldError = kind.__new__(kind, refused.text)
    vars(error).update(refused.facts)
    return error


def restore_failure(message: Refused | Failed, facts: tuple[str, str]) -> JackfieldError:
    """Make what a caller is told; a trace, which he is not told, goes to the log.

    Args:
        message: How a call ended.
        facts: The model's name and version.

    Raises:
        FrameError: There is no such error.
    """
    if isinstance(message, Refused):
        return restore_error(message)
    name, version = facts
    logger.error(
        "%s failed in its process:\n%s",
        *(label_model(name, version), message.trace.rstrip()),
        extra={"model": name, "version": version},
    )
    return RuntimeFailedError(name, version)
