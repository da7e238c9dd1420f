"""Explanations as JSON text, laid out as Alibi does, with nothing in it that JSON has not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jackfield_alibi._explain._explanation import Explanation


def to_json(explanation: Explanation) -> str:
    """Write `{"meta": …, "data": …}`; what is not finite is null."""
    content = {"meta": explanation.meta, "data": explanation.data}
    return json.dumps(_plain(content), ensure_ascii=False, allow_nan=False)


def _plain(found: Any) -> Any:  # noqa: ANN401  whatever an explainer holds
    """Make what JSON holds of NumPy's arrays and numbers, of sets, classes and functions."""
    match found:
        case None | bool() | int() | str():
            return found
        case float():
            return found if math.isfinite(found) else None
        case bytes():
            return found.decode(errors="replace")
        case np.ndarray():
            return _plain(found.tolist())
        case np.generic():
            return _plain(found.item())
        case Mapping():
            return {_key(key): _plain(each) for key, each in found.items()}
        case list() | tuple():
            return [_plain(each) for each in found]
        case set() | frozenset():
            return [_plain(each) for each in sorted(found, key=str)]
    return getattr(found, "__name__", None) or str(found)


def _key(key: object) -> str:
    return str(key.item() if isinstance(key, np.generic) else key)
