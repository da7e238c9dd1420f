"""Which requests are traced, and the record of one that is.

A trace goes to the logger ``jackfield.trace`` as soon as its request is answered: there is no file
to choose, and `log_frequency` is kept for callers that set it.

Source: Triton's trace extension.
"""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

from jackfield.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jackfield.messages import InferRequest
    from jackfield.tensor import Tensor

_LEVELS = ("TIMESTAMPS", "TENSORS")
#: What a setting is that neither the server's nor the model's settings name.
_DEFAULTS: Mapping[str, Any] = {
    "trace_level": ("OFF",),
    "trace_rate": 1000,
    "trace_count": -1,
    "log_frequency": 0,
    "trace_file": "",
}
#: The least value of each number; the largest is what Triton's has.
_NUMBERS = {"trace_rate": 0, "trace_count": -1, "log_frequency": 0}
_LARGEST = 2**31 - 1
_INTEGER = re.compile(r"-?[0-9]{1,10}")
#: The scope of the settings that hold for each model without its own.
_SERVER = ""


class TraceSettings:
    """The settings of one server and of its models; used on the event loop."""

    def __init__(self) -> None:
        #: Whether any request may be traced: all that a request reads while tracing is off.
        self.is_on = False
        self._given: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, int] = {}
        self._logger = logging.getLogger("jackfield.trace")
        self._level_before = logging.NOTSET

    def record(self, model: str = _SERVER) -> dict[str, str | list[str]]:
        """Give the settings that hold for a model, in the form that the wire has.

        Args:
            model: Its name; empty for the server's.
        """
        values = self._values(model)
        return {
            key: list(value) if isinstance(value, tuple) else str(value)
            for key, value in values.items()
        }

    def update(self, changes: Mapping[str, object], model: str = _SERVER) -> None:
        """Change some settings of the server or of a model.

        Args:
            changes: Values by name; None puts the setting back: a model's to the server's, the
                server's to its default.
            model: Its name; empty for the server's.

        Raises:
            InvalidRequestError: A setting is unknown, or a value is none; nothing is changed then.
        """
        given = _changed(self._given.get(model, {}), changes)
        self._given[model] = given
        self._seen[model] = 0
        if not given:
            del self._given[model], self._seen[model]
        self._switch(
            is_on=any(
                "OFF" not in each.get("trace_level", ("OFF",)) for each in self._given.values()
            )
        )

    def check(self, changes: Mapping[str, object]) -> None:
        """Raise what `update` would raise, and change nothing."""
        _changed({}, changes)

    def close(self) -> None:
        """Trace nothing any more."""
        self._given.clear()
        self._switch(is_on=False)

    def trace(
        self,
        model: str,
        version: str,
        *,
        request: InferRequest,
        outputs: Iterable[Tensor],
        **stages: int,
    ) -> None:
        """Log the trace of an answered request, if it is one that is sampled.

        Args:
            model: Name of the model that answered.
            version: Its version.
            request: What was asked.
            outputs: What was answered.
            stages: When each stage was reached, in nanoseconds of `time.perf_counter_ns`.
        """
        levels = self._sample(model)
        if not levels:
            return
        trace: dict[str, object] = {"id": request.id, "model": model, "version": version}
        if "TIMESTAMPS" in levels:
            trace["timestamps"] = stages
        if "TENSORS" in levels:
            trace["inputs"] = [_describe(tensor) for tensor in request.inputs]
            trace["outputs"] = [_describe(tensor) for tensor in outputs]
        facts = {"trace": trace, "model": model, "version": version}
        self._logger.info("%s", json.dumps(trace), extra=facts)

    def _values(self, model: str) -> dict[str, Any]:
        given = {**self._given.get(_SERVER, {}), **self._given.get(model, {})}
        return {**_DEFAULTS, **given}

    def _sample(self, model: str) -> tuple[str, ...]:
        """Count a request, and give the levels at which it is traced; none if it isn't."""
        values = self._values(model)
        levels: tuple[str, ...] = values["trace_level"]
        rate, count = values["trace_rate"], values["trace_count"]
        if "OFF" in levels or not rate or not count:
            return ()
        scope = model if model in self._given else _SERVER
        self._seen[scope] += 1
        if self._seen[scope] % rate:
            return ()
        if count > 0:
            owner = scope if "trace_count" in self._given[scope] else _SERVER
            self._given[owner]["trace_count"] = count - 1
        return levels

    def _switch(self, *, is_on: bool) -> None:
        """Let traces through whatever the log's level is, as long as they are asked for."""
        if is_on and not self.is_on:
            self._level_before = self._logger.level
            self._logger.setLevel(logging.INFO)
        elif self.is_on and not is_on:
            self._logger.setLevel(self._level_before)
        self.is_on = is_on


def _changed(given: Mapping[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    changed = dict(given)
    for key, value in changes.items():
        if key not in _DEFAULTS:
            raise InvalidRequestError(
                "", expected=f"one of {', '.join(_DEFAULTS)}", found=f"'{key}'"
            )
        if value is None:
            changed.pop(key, None)
        elif key == "trace_level":
            changed[key] = _levels(value)
        elif key == "trace_file":
            _refuse_file(value)
        else:
            changed[key] = _number(key, value)
    return changed


def _describe(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape}


def _levels(value: object) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if given == ["OFF"]:
        return ("OFF",)
    if not isinstance(given, list) or not given or any(level not in _LEVELS for level in given):
        raise InvalidRequestError(
            "trace_level",
            expected="OFF alone, or a list of TIMESTAMPS and TENSORS",
            found=_tell(value),
        )
    return tuple(level for level in _LEVELS if level in given)


def _number(key: str, value: object) -> int:
    """Read a number, which Triton's clients send as text."""
    number = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(number, str) and _INTEGER.fullmatch(number):
        number = int(number)
    if (
        not isinstance(number, int)
        or isinstance(number, bool)
        or not _NUMBERS[key] <= number <= _LARGEST
    ):
        raise InvalidRequestError(
            key, expected=f"an integer from {_NUMBERS[key]} to {_LARGEST}", found=_tell(value)
        )
    return number


def _tell(value: object) -> str:
    """Say what was found; a nested list may be too deep to print."""
    return f"{value!r}" if isinstance(value, str | int | float) else type(value).__name__


def _refuse_file(value: object) -> None:
    if value not in ("", [""]):
        raise InvalidRequestError(
            "trace_file", expected="an empty text: traces go to the log", found="one"
        )
