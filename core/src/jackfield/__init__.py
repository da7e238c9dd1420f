"""The public names of jackfield, imported when first used.

Importing the package imports nothing heavy: a plugin's ``__init__`` and ``jackfield plugins`` need
the contract only, not NumPy, a web server or gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jackfield.errors import (
        BadAnswerError,
        CallError,
        CallTimeoutError,
        CapacityError,
        CrashLoopError,
        DeadlineError,
        DeadlyRequestError,
        Fault,
        InvalidRequestError,
        JackfieldError,
        ModelLoadError,
        ModelNotFoundError,
        ModelNotReadyError,
        NoAnswerError,
        NotServedError,
        OverloadedError,
        PayloadTooLargeError,
        PluginError,
        ProcessDiedError,
        RemoteCapacityError,
        RemoteError,
        RemoteNotFoundError,
        RemoteRequestError,
        RequestError,
        RuntimeFailedError,
        ScoreError,
        ServerNotReadyError,
        SettingsError,
        StartupError,
    )
    from jackfield.hookspecs import ArtifactSourceSpec, EngineSpec, hookimpl
    from jackfield.messages import (
        InferRequest,
        InferResponse,
        ModelMetadata,
        Parameter,
        Parameters,
        RequestedOutput,
        TensorMetadata,
        Timing,
    )
    from jackfield.model_metrics import ModelMetrics
    from jackfield.runtime import (
        ArtifactFormat,
        Capabilities,
        ModelContext,
        Runtime,
        RuntimeSpec,
        route,
    )
    from jackfield.server import (
        Addresses,
        IndexEntry,
        Model,
        ModelState,
        Server,
        SyncModel,
        SyncServer,
    )
    from jackfield.settings import (
        EnvironmentSettings,
        ModelParameters,
        ModelSettings,
        MonitorSettings,
        ServerSettings,
        VersionPolicy,
        WebhookSettings,
    )
    from jackfield.source import ArtifactSource, Listing, RemoteFile
    from jackfield.tensor import Datatype, Tensor

__version__ = "0.1.0"

__all__ = [
    "Addresses",
    "ArtifactFormat",
    "ArtifactSource",
    "ArtifactSourceSpec",
    "BadAnswerError",
    "CallError",
    "CallTimeoutError",
    "Capabilities",
    "CapacityError",
    "CrashLoopError",
    "Datatype",
    "DeadlineError",
    "DeadlyRequestError",
    "EngineSpec",
    "EnvironmentSettings",
    "Fault",
    "IndexEntry",
    "InferRequest",
    "InferResponse",
    "InvalidRequestError",
    "JackfieldError",
    "Listing",
    "Model",
    "ModelContext",
    "ModelLoadError",
    "ModelMetadata",
    "ModelMetrics",
    "ModelNotFoundError",
    "ModelNotReadyError",
    "ModelParameters",
    "ModelSettings",
    "ModelState",
    "MonitorSettings",
    "NoAnswerError",
    "NotServedError",
    "OverloadedError",
    "Parameter",
    "Parameters",
    "PayloadTooLargeError",
    "PluginError",
    "ProcessDiedError",
    "RemoteCapacityError",
    "RemoteError",
    "RemoteFile",
    "RemoteNotFoundError",
    "RemoteRequestError",
    "RequestError",
    "RequestedOutput",
    "Runtime",
    "RuntimeFailedError",
    "RuntimeSpec",
    "ScoreError",
    "Server",
    "ServerNotReadyError",
    "ServerSettings",
    "SettingsError",
    "StartupError",
    "SyncModel",
    "SyncServer",
    "Tensor",
    "TensorMetadata",
    "Timing",
    "VersionPolicy",
    "WebhookSettings",
    "hookimpl",
    "route",
]

_HOMES = {
    "errors": (
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
    ),
    "hookspecs": ("ArtifactSourceSpec", "EngineSpec", "hookimpl"),
    "messages": (
        "InferRequest",
        "InferResponse",
        "ModelMetadata",
        "Parameter",
        "Parameters",
        "RequestedOutput",
        "TensorMetadata",
        "Timing",
    ),
    "model_metrics": ("ModelMetrics",),
    "runtime": (
        "ArtifactFormat",
        "Capabilities",
        "ModelContext",
        "Runtime",
        "RuntimeSpec",
        "route",
    ),
    "server": (
        "Addresses",
        "IndexEntry",
        "Model",
        "ModelState",
        "Server",
        "SyncModel",
        "SyncServer",
    ),
    "settings": (
        "EnvironmentSettings",
        "ModelParameters",
        "ModelSettings",
        "MonitorSettings",
        "ServerSettings",
        "VersionPolicy",
        "WebhookSettings",
    ),
    "source": ("ArtifactSource", "Listing", "RemoteFile"),
    "tensor": ("Datatype", "Tensor"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a type checker that sees it takes any name for a public one

    def __getattr__(name: str) -> object:
        """Import a public name from its module (PEP 562)."""
        if name not in _HOME:
            message = f"module 'jackfield' has no attribute '{name}'"
            raise AttributeError(message)
        value: object = getattr(importlib.import_module(f"jackfield.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
