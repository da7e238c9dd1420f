"""URIs of artifacts: what may be shown of them, what they pin, how they are told apart."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PIN = re.compile(r"#sha256=(?P<sha256>[0-9a-fA-F]{64})$")
#: Schemes in which what is before an ``@`` is part of the place: hf://owner@revision,
#: abfss://container@account.
_NO_USERS = ("hf", "az", "abfs", "abfss")


class Address(NamedTuple):
    """A URI of an artifact, taken apart."""

    scheme: str
    #: Without what it pins.
    uri: str
    #: What may be told of it: no user, no password, no query.
    shown: str
    #: SHA-256 that it names, in lower case; empty for none.
    sha256: str
    #: The last two names of its path, or one: what the place is called where it is fetched to.
    names: tuple[str, ...]

    @property
    def key(self) -> str:
        """A file name that is this URI's alone."""
        is_web = self.scheme in ("http", "https")
        text = self.uri if is_web else self.uri.rstrip("/")
        return hashlib.sha256(text.encode()).hexdigest()


def parse(uri: str) -> Address:
    """Take a URI apart.

    Raises:
        ModelLoadError: It has ``..``, by which one place has several URIs, or none of a path.
    """
    found = _PIN.search(uri)
    plain = uri[: found.start()] if found else uri
    scheme = plain.partition(":")[0].lower()
    try:
        parts = urlsplit(plain)
    except ValueError:  # whose text may have a password
        raise ModelLoadError("the URI of an artifact is malformed: its host is none") from None
    host = parts.netloc if scheme in _NO_USERS else parts.netloc.rpartition("@")[2]
    shown = f"{scheme}://{host}{parts.path}"
    segments = [unquote(part) for part in parts.path.split("/")]
    if any(part in (".", "..") or "/" in part for part in segments):
        raise ModelLoadError(f"'{shown}' has '.', '..' or '%2F' in its path; name the place itself")
    is_web = scheme in ("http", "https")
    places = [part for part in (*(() if is_web else (host,)), *segments) if part]
    names = tuple(_plain_name(part.partition("@")[0]) for part in places[-2:])
    return Address(scheme, plain, shown, (found["sha256"] if found else "").lower(), names)


def _plain_name(text: str) -> str:
    """Make a name that any file system takes, and that is not hidden."""
    # of at most 240 bytes
    return re.sub(r"[^\w.@=+ -]", "_", text).lstrip(".")[:60] or "artifact"


def is_below(address: Address, prefix: str) -> bool:
    """Tell whether a URI is one that a prefix means: the same, or one below it."""
    given = prefix.strip().rstrip("/")
    if not given:
        return False
    if re.fullmatch(r"[a-zA-Z][\w+.-]*:", given):  # all of a scheme, as hf://
        return given[:-1].lower() == address.scheme
    scheme, _, rest = given.partition("://")
    here = f"{address.scheme}://{address.shown.partition('://')[2]}".rstrip("/")
    there = f"{scheme.lower()}://{rest}"
    if address.scheme in ("http", "https"):  # hosts have no case
        here, there = _lower_host(here), _lower_host(there)
    return here == there or here.startswith(f"{there}/")


def _lower_host(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.lower()}{slash}{path}"


def redact(text: str, uri: str, options: Mapping[str, object]) -> str:
    """Take secrets out of a text: the user, password and query of a URI, and values of options."""
    parts = urlsplit(uri)
    user = parts.netloc.rpartition("@")[0] if parts.scheme not in _NO_USERS else ""
    whole = {parts.query, user, user.partition(":")[2], *_leaves(options)}
    secrets = whole | {part for secret in whole for part in _parts(secret)}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > _SHORTEST:
            text = text.replace(secret, "***")
    return text


#: Secrets are longer, and "us" or "true" are in many words.
_SHORTEST = 5


#: A URL in which there is no secret: no user, no query, and no connection string.
_PLACE = re.compile(r"[a-zA-Z][\w+.-]*://[^\s@?&;=#]*")


def _parts(secret: str) -> Iterator[str]:
    """Yield what a query, connection string or header holds, as its reader may spell it."""
    for part in re.split(r"[?&;\s]+", secret):
        for text in (part, part.partition("=")[2]):
            if not _PLACE.fullmatch(text):
                yield from (text, unquote(text))


def _leaves(value: object) -> Iterator[str]:
    """Yield all texts in options, but what says where something is."""
    if isinstance(value, str):
        if not _PLACE.fullmatch(value):
            yield value.strip()
    elif isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
