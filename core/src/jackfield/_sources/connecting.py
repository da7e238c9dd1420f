"""Connections of one request: where a redirect must not lead.

A server that the operator names could have this one ask what it alone reaches: the cloud's
metadata, which holds credentials, or an unguarded service beside it.
"""

from __future__ import annotations

import functools
import http.client
import socket
import urllib.request
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    import ssl


class Way:
    """The addresses that a request goes to; the first is the operator's choice."""

    def __init__(self) -> None:
        self._first: IPv4Address | IPv6Address | None = None

    def look(self, host: str, port: int) -> None:
        """Check all addresses of a host, before it is told anything."""
        if self._first is not None:
            for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                self.check(str(address[0]))

    def check(self, text: str) -> None:
        """Refuse the address of a redirect that only this machine or its network reaches.

        Raises:
            ModelLoadError: It is link-local, or it is not public and the first was.
        """
        address = ip_address(text.partition("%")[0])
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        if self._first is None or self._first == address:
            self._first = address
        elif address.is_link_local or (self._first.is_global and not address.is_global):
            raise ModelLoadError(f"a redirect to {address}, an inner address, is not followed")


class _Connection(http.client.HTTPConnection):
    way: Way

    def connect(self) -> None:
        self.way.look(self.host, self.port)
        super().connect()
        # the name may have got another address meanwhile
        self.way.check(self.sock.getpeername()[0])


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    pass


class PlainHandler(urllib.request.HTTPHandler):
    """Opens http URLs."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self._way = way

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Connect, and send the request."""
        return self.do_open(functools.partial(_connect, _Connection, self._way), req)


class SecureHandler(urllib.request.HTTPSHandler):
    """Opens https URLs."""

    def __init__(self, way: Way, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._way = way
        self._made = context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Connect, and send the request."""
        kind = functools.partial(_connect, _SecureConnection, self._way, context=self._made)
        return self.do_open(kind, req)


def _connect(
    kind: type[_Connection], way: Way, host: str, **options: object
) -> http.client.HTTPConnection:
    connection = kind(host, **options)  # type: ignore[arg-type]  # as the handler gives them
    connection.way = way
    return connection
