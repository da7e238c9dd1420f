"""Where a server is."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

_PORTS = {"grpc": 8081, "grpcs": 443}


class Address(NamedTuple):
    """A server's URL, read."""

    url: str
    is_grpc: bool
    #: What gRPC connects to.
    target: str


def read_address(url: str) -> Address:
    """Read a server's URL.

    Raises:
        ValueError: It is none that a client knows.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
        message = f"expected a URL like http://host:8080 or grpc://host:8081, found '{url}'"
        raise ValueError(message)
    is_grpc = parts.scheme.startswith("grpc")
    if not is_grpc:
        return Address(url.rstrip("/"), is_grpc, "")
    if parts.path.strip("/"):
        message = f"expected a gRPC URL without a path, found '{url}'"
        raise ValueError(message)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(url.rstrip("/"), is_grpc, f"{host}:{parts.port or _PORTS[parts.scheme]}")
