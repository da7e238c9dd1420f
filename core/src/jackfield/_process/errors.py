"""Carry an error that a caller is told from a model's process to the server."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from jackfield import errors
from jackfield._process.frames import Failed, FrameError, Refused, encode
from jackfield.errors import CapacityError, JackfieldError, RequestError

if TYPE_CHECKING:
    from jackfield._process.frames import Buffer


def encode_error(call: int, error: BaseException) -> list[Buffer]:
    """Write what a runtime raised: whole if the caller is told it, else as a trace for the log."""
    if isinstance(error, RequestError | CapacityError):
        # of a class of the author's the nearest one that the server knows, too
        kind = next(each for each in type(error).__mro__ if each.__module__ == errors.__name__)
        try:
            return encode(Refused(call, kind.__name__, str(error), _facts(error)))
        except FrameError:
            pass
    lines = traceback.format_exception(error)
    # a text may hold lone surrogates, which no message carries
    trace = "".join(lines).encode(errors="backslashreplace").decode()
    return encode(Failed(call, trace))


def _facts(error: JackfieldError) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(vars(error), enc_hook=repr)
    return facts


def restore_error(refused: Refused) -> JackfieldError:
    """Make the error anew, with its text and facts.

    Raises:
        FrameError: There is no such error.
    """
    kind = getattr(errors, refused.kind, None)
    if not isinstance(kind, type) or not issubclass(kind, RequestError | CapacityError):
        problem = f"'{refused.kind}' is no error that a caller is told"
        raise FrameError(problem)
    # not by the constructor, which takes facts that differ from class to class
    error: JackfieldError = kind.__new__(kind, refused.text)
    vars(error).update(refused.facts)
    return error
