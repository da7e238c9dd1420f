"""What both clients are made of."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal

from jackfield.client._address import Address, read_address
from jackfield.client._operation import Operations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jackfield.client._exchange import Dialect
    from jackfield.client._retries import Retries

_FORMS = {"auto": None, "json": False, "binary": True}


def create_operations(
    url: str,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    retries: Retries,
    form: Literal["auto", "json", "binary"],
) -> tuple[Address, Operations]:
    """Read a client's arguments.

    Raises:
        ImportError: httpx, which HTTP needs, is not installed.
        ValueError: The URL is none.
    """
    address = read_address(url)
    dialect: Dialect
    is_binary = _FORMS[form]
    if address.is_grpc:
        from jackfield.client._grpc import GrpcDialect

        dialect, is_binary = GrpcDialect(), True
    else:
        if importlib.util.find_spec("httpx") is None:
            message = 'a client over HTTP needs httpx: pip install "jackfield[client]"'
            raise ImportError(message, name="httpx")
        from jackfield.client._http import HttpDialect

        dialect = HttpDialect()
    operations = Operations(
        address.url,
        dialect,
        headers=headers,
        timeout_s=timeout_s,
        retries=retries,
        is_binary=is_binary,
    )
    return address, operations
