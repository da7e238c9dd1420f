"""Bytes <-> messages: pure functions, no I/O; used by both shells."""

from __future__ import annotations

#: The protocol's extensions that the server's metadata lists; only what is served.
EXTENSIONS = ("model_repository",)
