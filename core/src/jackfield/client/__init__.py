"""A client for servers of the Open Inference Protocol: arrays and DataFrames in and out.

One surface over HTTP (JSON or binary; needs `pip install "jackfield[client]"`) and gRPC, blocking
and asynchronous.
"""

from __future__ import annotations

from jackfield.client._async import AsyncClient, AsyncClientModel
from jackfield.client._exchange import RepositoryEntry, ServerMetadata
from jackfield.client._result import InferResult
from jackfield.client._retries import Retries
from jackfield.client._sync import Client, ClientModel

__all__ = [
    "AsyncClient",
    "AsyncClientModel",
    "Client",
    "ClientModel",
    "InferResult",
    "RepositoryEntry",
    "Retries",
    "ServerMetadata",
]
