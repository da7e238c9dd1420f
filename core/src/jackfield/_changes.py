"""What a caller or an operator may change of a running server, as values: workers tell them."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec


class LoadModel(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Load a model as it lies on disk now."""

    name: str
    parameters: dict[str, Any] = {}


class UnloadModel(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Unload all versions of a model."""

    name: str


class SetTraces(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Change the trace settings of a model; of the server, for an empty name."""

    model: str
    settings: dict[str, Any]


class SetLog(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Change the log settings."""

    settings: dict[str, Any]


class Register(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Register a region of shared memory."""

    name: str
    key: str
    offset: int
    byte_size: int


class Unregister(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Unregister a region of shared memory; all of them, for an empty name."""

    name: str


Change: TypeAlias = LoadModel | UnloadModel | SetTraces | SetLog | Register | Unregister
