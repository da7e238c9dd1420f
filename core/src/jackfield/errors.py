"""Every error that jackfield raises on purpose, in one tree.

JackfieldError
├── RequestError              the caller must change something
│   ├── InvalidRequestError   a field is missing, malformed or does not fit the model
│   ├── ModelNotFoundError    no such model or version
│   ├── PayloadTooLargeError  the body is over the limit
│   └── NotServedError        a part of the protocol is switched off
├── CapacityError             the same request may succeed later
│   ├── ModelNotReadyError    the model is loading, unloading or failed to load
│   ├── OverloadedError       the model's queue is full
│   ├── ServerNotReadyError   nobody started the server
│   └── DeadlineError         nobody waits for the answer any more
├── RuntimeFailedError        a runtime raised; its text stays in the log
│   └── DeadlyRequestError    the runtime's process dies of this request
├── CallError                 a call by `jackfield.client` failed
│   ├── NoAnswerError         the server can't be reached, or the connection broke
│   │   └── CallTimeoutError  the time given for the call is over
│   ├── BadAnswerError        what came is not the protocol's
│   └── RemoteError           the server answered with an error
│       ├── RemoteRequestError       the caller must change something; a RequestError, too
│       │   └── RemoteNotFoundError  the server has no such model, version or method
│       └── RemoteCapacityError      the same may succeed later; a CapacityError, too
└── StartupError              for the operator; does not answer an inference request
    ├── SettingsError         a setting is unknown or has the wrong form
    ├── PluginError           a plugin can't be imported or breaks the contract
    ├── ModelLoadError        an artifact can't be served
    │   └── ProcessDiedError  its own process ended while it was loaded
    ├── CrashLoopError        workers die again and again
    └── ScoreError            a table can't be scored by a model

Each class names a `Fault`; the HTTP and gRPC shells each own one table from fault to status.
Constructors take facts and build the sentence once; the facts stay attributes.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar

from jackfield._label import label_model

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BadAnswerError",
    "CallError",
    "CallTimeoutError",
    "CapacityError",
    "CrashLoopError",
    "DeadlineError",
    "DeadlyRequestError",
    "Fault",
    "InvalidRequestError",
    "JackfieldError",
    "ModelLoadError",
    "ModelNotFoundError",
    "ModelNotReadyError",
    "NoAnswerError",
    "NotServedError",
    "OverloadedError",
    "PayloadTooLargeError",
    "PluginError",
    "ProcessDiedError",
    "RemoteCapacityError",
    "RemoteError",
    "RemoteNotFoundError",
    "RemoteRequestError",
    "RequestError",
    "RuntimeFailedError",
    "ScoreError",
    "ServerNotReadyError",
    "SettingsError",
    "StartupError",
]


class Fault(enum.Enum):
    """What went wrong, in words that no transport owns."""

    INVALID = "invalid"
    NOT_FOUND = "not found"
    NOT_SERVED = "not served"
    TOO_LARGE = "too large"
    NOT_READY = "not ready"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    FAILED = "failed"


class JackfieldError(Exception):
    """The root of the tree; its text is a fact for the caller, never a stack trace."""

    fault: ClassVar[Fault] = Fault.FAILED

    def __reduce__(self) -> tuple[object, ...]:
        # pickle's own way calls the constructor with the text, where the constructors take facts
        return _restore, (type(self), self.args), self.__dict__


class RequestError(JackfieldError):
    """The caller must change the request."""

    fault = Fault.INVALID


class InvalidRequestError(RequestError):
    """A field of the request is missing, malformed or does not fit the model.

    Args:
        field: Path of the field as JSON has it, for example ``inputs[0].shape``; empty for the
            whole body.
        expected: What the field should be, for example ``sizes of 0 or more``.
        found: What it is, for example ``-1``.
        model: Name of the model asked for; empty where the raiser doesn't know it (the core adds it
            to what a runtime raises).
    """

    fault = Fault.INVALID

    def __init__(self, field: str, *, expected: str, found: str, model: str = "") -> None:
        self.field = field
        self.expected = expected
        self.found = found
        self.model = model
        where = ": ".join(part for part in (f"model '{model}'" if model else "", field) if part)
        super().__init__(f"{where or 'request'}: expected {expected}, found {found}")

    def for_model(self, model: str) -> InvalidRequestError:
        """Tell the same facts with the name of the model."""
        return InvalidRequestError(
            self.field, expected=self.expected, found=self.found, model=model
        )


class ModelNotFoundError(RequestError):
    """No such model, or no such version of it.

    Args:
        name: The name asked for.
        version: The version asked for; empty when none was.
        close: Names (or versions, when the name exists) that are served and look alike.
    """

    fault = Fault.NOT_FOUND

    def __init__(self, name: str, version: str = "", *, close: Sequence[str] = ()) -> None:
        self.name = name
        self.version = version
        self.close = tuple(close)
        hint = f"; did you mean {' or '.join(repr(each) for each in close)}" if close else ""
        super().__init__(f"{label_model(name, version)} is not served here{hint}")


class PayloadTooLargeError(RequestError):
    """The request's body is over the limit.

    Args:
        limit_bytes: The limit that is in force.
        size_bytes: The size announced or read so far; None when only "more" is known.
    """

    fault = Fault.TOO_LARGE

    def __init__(self, limit_bytes: int, size_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = size_bytes
        found = "more" if size_bytes is None else f"{size_bytes} bytes"
        super().__init__(
            f"body: expected at most {limit_bytes} bytes, found {found}; "
            "the operator's setting is 'max_body_bytes'"
        )


class NotServedError(RequestError):
    """A part of the protocol is switched off on this server.

    Args:
        what: The part, for example ``system shared memory``.
        setting: The operator's setting that switches it on.
    """

    fault = Fault.NOT_SERVED

    def __init__(self, what: str, *, setting: str) -> None:
        self.what = what
        self.setting = setting
        super().__init__(f"{what} is not served here; the operator's setting is '{setting}'")


class CapacityError(JackfieldError):
    """The same request may succeed later.

    `retry_after_s` is what the caller is told to wait, in seconds.
    """

    fault = Fault.OVERLOADED
    retry_after_s: float = 1.0


class ModelNotReadyError(CapacityError):
    """The model is known, and can't answer now.

    Args:
        name: The model asked for.
        version: The version asked for; empty when none was.
        reason: Why, for example ``loading`` or the text of the load failure.
    """

    fault = Fault.NOT_READY

    def __init__(self, name: str, version: str = "", *, reason: str) -> None:
        self.name = name
        self.version = version
        self.reason = reason
        super().__init__(f"{label_model(name, version)} is not ready: {reason}")


class ServerNotReadyError(CapacityError):
    """The server has no models, since nobody started it.

    Args:
        reason: What is missing, and what to add to the program that holds the server.
    """

    fault = Fault.NOT_READY

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the server is not ready: {reason}")


class OverloadedError(CapacityError):
    """The model has as many requests as it may hold.

    Args:
        name: The model asked for.
        limit: How many requests it holds at most, waiting and running.
    """

    fault = Fault.OVERLOADED

    def __init__(self, name: str, *, limit: int) -> None:
        self.name = name
        self.limit = limit
        super().__init__(f"model '{name}' is overloaded: {limit} requests are waiting already")


class DeadlineError(CapacityError):
    """The time that the caller gave is over.

    Args:
        name: The model asked for.
        timeout_s: The time given, in seconds.
    """

    fault = Fault.DEADLINE

    def __init__(self, name: str, *, timeout_s: float) -> None:
        self.name = name
        self.timeout_s = timeout_s
        super().__init__(f"model '{name}' did not answer within {timeout_s:.3g} s")


class RuntimeFailedError(JackfieldError):
    """A runtime raised something that is not a `JackfieldError`.

    The cause is chained for the log; callers see the model's name only, since a framework's text
    may tell what they must not know.

    Args:
        name: The model that failed.
        version: Its version; empty for an un-versioned model.
    """

    fault = Fault.FAILED

    def __init__(self, name: str, version: str = "") -> None:
        self.name = name
        self.version = version
        what = label_model(name, version)
        super().__init__(f"{what} failed on this request; the server's log tells why")


class DeadlyRequestError(RuntimeFailedError):
    """The model's process died of these inputs, more than once, and does not get them for an hour.

    That is no matter of capacity: whoever tries again ends the process again. Nor does the request
    break the protocol.

    Args:
        name: The model.
        version: Its version; empty for an un-versioned model.
        how: How the process ended, for example ``was killed by signal 11 (SIGSEGV)``.
    """

    def __init__(self, name: str, version: str = "", *, how: str) -> None:
        super().__init__(name, version)
        self.how = how
        what = label_model(name, version)
        self.args = (
            f"{what} is not asked with these inputs for an hour: its process {how} while it "
            "computed them, and not for the first time; change them, or have the model loaded anew",
        )


class CallError(JackfieldError):
    """A call by `jackfield.client` failed."""


class NoAnswerError(CallError):
    """The server can't be reached, or the connection broke before the answer was whole.

    Args:
        url: The server.
        problem: What happened.
        was_sent: Whether the server may have got the request.
    """

    def __init__(self, url: str, problem: str, *, was_sent: bool = True) -> None:
        self.url = url
        self.problem = problem
        self.was_sent = was_sent
        super().__init__(f"{url}: no answer: {problem}")


class CallTimeoutError(NoAnswerError):
    """The time given for the call is over; whether the server did its work is not known.

    Args:
        url: The server.
        timeout_s: The time given, in seconds.
        was_sent: Whether the server may have got the request.
    """

    fault = Fault.DEADLINE

    def __init__(self, url: str, *, timeout_s: float, was_sent: bool = True) -> None:
        self.timeout_s = timeout_s
        super().__init__(url, f"none within {timeout_s:g} s", was_sent=was_sent)


class BadAnswerError(CallError):
    """What came is not the protocol's.

    Args:
        url: The server.
        problem: What was expected and found.
    """

    def __init__(self, url: str, problem: str) -> None:
        self.url = url
        self.problem = problem
        super().__init__(f"{url}: {problem}")


class RemoteError(CallError):
    """The server answered with an error.

    Args:
        status: HTTP's number or the name of gRPC's code; empty for an error within a stream.
        text: The server's own text.
    """

    def __init__(self, status: int | str, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(f"{status}: {text}" if status else text)


class RemoteRequestError(RemoteError, RequestError):
    """The server refuses the request: the caller must change something."""

    fault = Fault.INVALID


class RemoteNotFoundError(RemoteRequestError):
    """The server has no such model, version, path or method."""

    fault = Fault.NOT_FOUND


class RemoteCapacityError(RemoteError, CapacityError):
    """The server can't answer now; the same request may succeed later.

    Args:
        status: HTTP's number or the name of gRPC's code.
        text: The server's own text.
        retry_after_s: How long it asks to wait, in seconds; 0 where it doesn't say.
    """

    fault = Fault.OVERLOADED

    def __init__(self, status: int | str, text: str, *, retry_after_s: float = 0.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(status, text)


class StartupError(JackfieldError):
    """Something that the operator must change."""


class SettingsError(StartupError):
    """A setting is unknown, has the wrong form or contradicts another.

    Args:
        source: Where it was read: a file, an environment variable, an option.
        problem: What is wrong, and what was expected.
    """

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(f"{source}: {problem}")


class PluginError(StartupError):
    """A plugin can't be imported, or breaks the contract.

    Args:
        distribution: The distribution that brings it.
        version: The distribution's version.
        problem: What is wrong.
    """

    def __init__(self, distribution: str, version: str, problem: str) -> None:
        self.distribution = distribution
        self.version = version
        self.problem = problem
        super().__init__(f"plugin '{distribution}' {version}: {problem}")


class ModelLoadError(StartupError):
    """A model can't be served as it lies there.

    Args:
        problem: What is wrong and what to do, without the model's name (the core adds it).
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


class ProcessDiedError(ModelLoadError):
    """The process of a model's own ended while the model was loaded there.

    Args:
        problem: How it ended.
    """


class CrashLoopError(StartupError):
    """The workers of a server die again and again.

    Args:
        problem: How many did, and how the last one ended.
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


class ScoreError(StartupError):
    """A table can't be scored by a model, or scoring had to end before its end.

    Args:
        problem: What is wrong and what to do.
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


def _restore(kind: type[JackfieldError], args: tuple[object, ...]) -> JackfieldError:
    """Make an error of its text; pickle adds the facts."""
    return kind.__new__(kind, *args)
