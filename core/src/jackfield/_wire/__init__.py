"""Bytes <-> messages; used by both shells.

Pure functions, but for tensors that lie in shared memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jackfield.settings import ServerSettings

_ALWAYS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "statistics",
    "trace",
)


def extensions(settings: ServerSettings) -> list[str]:
    """List the protocol's extensions that a server serves, for its metadata."""
    optional = ["system_shared_memory"] if settings.shared_memory else []
    return sorted([*_ALWAYS, *optional])
