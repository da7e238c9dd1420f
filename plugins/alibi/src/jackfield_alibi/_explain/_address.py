"""Where a target is, by its `infer_uri`; told without importing NumPy or a client."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_PORTS = {"http": 80, "https": 443, "grpc": 8081, "grpcs": 443}
_PATH = re.compile(
    r"(?P<base>.*?)/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?(/infer)?/?"
)
_NAME_ALONE = re.compile(r"/(?P<name>[^/]+)/?")


class Address(NamedTuple):
    """A model of a server elsewhere."""

    #: The server, for a client; without credentials.
    url: str
    host: str
    port: int
    name: str
    #: Empty for the server's choice.
    version: str
    #: ``user:password`` of the URL; empty without.
    login: str

    @property
    def is_grpc(self) -> bool:
        """Whether it speaks gRPC."""
        return self.url.startswith("grpc")

    @property
    def model_url(self) -> str:
        """What errors and the log call it."""
        version = f"/versions/{self.version}" if self.version else ""
        return f"{self.url}/v2/models/{self.name}{version}"


def read_infer_uri(infer_uri: str) -> Address:
    """Read the URL of a model.

    Args:
        infer_uri: ``http://host:8080/v2/models/iris/infer`` (as MLServer's), perhaps with a base
            path, a version, or without the end; ``grpc://host:8081/v2/models/iris`` or, shorter,
            ``grpc://host:8081/iris``. https and grpcs likewise.

    Raises:
        ValueError: It is none; the text does not repeat it, as it may hold a password.
    """
    expected = "expected a URL like http://host:8080/v2/models/NAME/infer or grpc://host:8081/NAME"
    try:
        parts = urlsplit(infer_uri)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        message = f"{expected}, found none: it can't be read"
        raise ValueError(message) from error
    if parts.scheme not in _PORTS or not host:
        message = f"{expected}, found {f'the scheme {parts.scheme!r}' if host else 'no host'}"
        raise ValueError(message)
    is_grpc = parts.scheme.startswith("grpc")
    found = _PATH.fullmatch(parts.path)
    if found is None and is_grpc:
        found = _NAME_ALONE.fullmatch(parts.path)
    if (
        found is None
        or parts.query
        or parts.fragment
        or (is_grpc and found.groupdict().get("base"))
    ):
        message = f"{expected}, found the path {parts.path!r}" + "?…" * bool(parts.query)
        raise ValueError(message)
    fields = found.groupdict("")
    port = port or _PORTS[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    return Address(
        url=f"{parts.scheme}://{shown}:{port}{fields.get('base', '')}",
        host=host,
        port=port,
        name=unquote(fields["name"]),
        version=unquote(fields.get("version", "")),
        login=unquote(parts.netloc.rpartition("@")[0]),
    )


def own_model(infer_uri: str) -> Address | None:
    """Find out whether an `infer_uri` is of a model of the very server that asks.

    Such a model is called in process: it is loaded first (`needs`), and no wire is used. MLServer
    calls it by HTTP while it loads, before it listens, and so never starts.

    A name alone proves nothing, as another server on this machine may have a model of that name.
    The rule: the host is this machine by its address (``localhost``, a loopback address, or the
    address that is listened on), and **this process itself** listens on the port. Jackfield listens
    before it loads models, so that at load this is known. Two cases it can't tell, where `target`
    is to be given: two servers embedded in one process, and one mounted in an application that
    listens when the models are loaded (then the load fails after its bounded wait, and says so).

    Returns:
        The address; None where it is another server's, or no URL (a white-box explainer's is the
        path of a file).
    """
    if "://" not in infer_uri:
        return None
    try:
        address = read_infer_uri(infer_uri)
    except ValueError:
        return None
    return address if _listens_here(address.host, address.port) else None


def _listens_here(host: str, port: int) -> bool:
    return any(found == port and _is_same(host, listening) for listening, found in _own_listeners())


def _is_same(host: str, listening: str) -> bool:
    """Tell whether who connects to `host` reaches what listens on an address of this machine."""
    if host == "localhost":
        host = "127.0.0.1" if ":" not in listening else "::1"
    try:
        wanted, address = ipaddress.ip_address(host), ipaddress.ip_address(listening)
    except ValueError:
        return False  # a name; who knows what it resolves to
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if wanted.is_unspecified:  # who connects to no address in particular reaches this machine
        return address.is_unspecified or address.is_loopback
    return wanted == address or (wanted.is_loopback and address.is_unspecified)


def _own_listeners() -> Iterator[tuple[str, int]]:
    """Yield addresses and ports of this process's listening sockets; none where it can't know."""
    try:
        descriptors = [int(name) for name in os.listdir("/dev/fd")]
    except (OSError, ValueError):
        return
    for descriptor in descriptors:
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as each:
                is_internet = each.family in (socket.AF_INET, socket.AF_INET6)
                if is_internet and each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    yield each.getsockname()[:2]
        except OSError:
            continue  # closed meanwhile by its owner
