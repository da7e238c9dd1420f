"""What a load request may change of a model's settings.

Anyone who reaches the port can send one, so that nothing is overridden which decides what is read
or run: the implementation, the artifact, its environment and the runtime's own settings stay the
operator's.

Source: Triton's model repository extension, "Load", parameter `config`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from jackfield._validation import explain
from jackfield.errors import InvalidRequestError
from jackfield.settings import ModelSettings, fields

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Settings that describe or bound a model.
ALLOWED = (
    "platform",
    "inputs",
    "outputs",
    "scheduler",
    "max_queue",
    "max_batch_size",
    "max_batch_time",
)


def decode_overrides(parameters: Mapping[str, object], model: str) -> dict[str, Any]:
    """Read the parameters of a load request.

    Args:
        parameters: `config` alone, a JSON text with keys of ``model-settings.json``.
        model: The model's name, for error texts.

    Returns:
        Values by the name of their setting.

    Raises:
        InvalidRequestError: A parameter is unknown, the text is not JSON, or a key is not allowed.
    """
    for key in parameters:
        if key != "config":
            raise InvalidRequestError(
                f"parameters.{key}",
                expected="no parameter but config: artifacts lie where the operator put them",
                found="one",
                model=model,
            )
    if "config" not in parameters:
        return {}
    text = parameters["config"]
    try:
        if not isinstance(text, str):
            raise msgspec.DecodeError(type(text).__name__)
        raw = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidRequestError(
            "parameters.config", expected="a JSON object as a string", found=str(error), model=model
        ) from error
    known = fields(ModelSettings)
    values = {}
    for key, value in raw.items():
        field = f"parameters.config.{key}"
        if key not in ALLOWED:
            raise InvalidRequestError(
                field, expected=f"one of {', '.join(ALLOWED)}", found=f"'{key}'", model=model
            )
        try:
            values[key] = msgspec.convert(value, known[key].type)
        except msgspec.ValidationError as error:
            path, expected, found = explain(error)
            raise InvalidRequestError(
                f"{field}{path}", expected=expected, found=found, model=model
            ) from error
    return values
