"""The arguments of a detector's `predict`: those of the settings, and those of one request."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from jackfield import InvalidRequestError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "drift_type": ("batch", "feature"),
    "outlier_type": ("instance", "feature"),
}
#: Arguments that ask for models and kernels.
UNSENT = ("return_model", "return_kernel")
_MOST = {"outlier_perc": 100.0}


class Asked(Struct, frozen=True):
    """What one request may set."""

    predict_parameters: Annotated[
        dict[str, Any],
        Meta(
            description="Arguments of the detector's `predict` for this request, in place of those "
            "of the settings; gRPC sends them as JSON."
        ),
    ] = {}


class PredictParameters:
    """Checks arguments of `predict` before the detector sees them.

    Args:
        arguments: Those that it has, and their defaults.
        given: Those of the settings.

    Raises:
        ModelLoadError: One of the settings is unknown or does not fit.
    """

    def __init__(self, arguments: Mapping[str, object], given: Mapping[str, object]) -> None:
        self._arguments = arguments

        def refuse(name: str, expected: str, found: str) -> ModelLoadError:
            where = f"'parameters.extra.predict_parameters{name and f'.{name}'}'"
            return ModelLoadError(f"{where}: expected {expected}, found {found}")

        # what can't be sent is not asked for
        unsent = {name: False for name in UNSENT if name in arguments}
        self.defaults: Mapping[str, Any] = {**unsent, **self._checked(given, refuse)}

    def of(self, asked: Asked) -> Mapping[str, Any]:
        """Give the arguments for one request.

        Raises:
            InvalidRequestError: One is unknown or does not fit.
        """
        if not asked.predict_parameters:
            return self.defaults

        def refuse(name: str, expected: str, found: str) -> InvalidRequestError:
            where = f"parameters.predict_parameters{name and f'.{name}'}"
            return InvalidRequestError(where, expected=expected, found=found)

        return {**self.defaults, **self._checked(asked.predict_parameters, refuse)}

    def _checked(
        self, given: Mapping[str, object], refuse: Callable[[str, str, str], Exception]
    ) -> dict[str, object]:
        made = {}
        for name, value in given.items():
            if name not in self._arguments:
                known = ", ".join(sorted(self._arguments)) or "no argument"
                raise refuse("", known, f"'{name}'")
            expected = _problem(name, self._arguments[name], value)
            if expected:
                raise refuse(name, expected, _show(value))
            made[name] = value
        return made


def _problem(name: str, default: object, value: object) -> str:
    """Tell what is expected, if the value is something else."""
    if choices := _CHOICES.get(name):
        return "" if value in choices else " or ".join(f"'{each}'" for each in choices)
    if name in UNSENT:
        return "" if value is False else "false, since a model can't be sent"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return "" if is_count else "a whole number above 0"
    if isinstance(default, float):
        most = _MOST.get(name, math.inf)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most:
            return ""
        return f"a number above 0{f', at most {most:g}' if name in _MOST else ''}"
    return ""


def _show(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
