"""Files of web servers, with nothing but Python's own client.

fsspec's client is not used here: it follows redirects from https to http, and needs a package.
A URL that ends in a slash is a folder: its file `SHA256SUMS` lists what is in it.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import netrc
import ssl
import urllib.error
import urllib.request
from time import monotonic
from typing import IO, TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit

from jackfield._sources.address import redact
from jackfield._sources.connecting import PlainHandler, SecureHandler, Way
from jackfield._sources.digest import MANIFEST, read_manifest
from jackfield.errors import ModelLoadError
from jackfield.source import Listing, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_CHUNK = 1024 * 1024
#: Largest `SHA256SUMS`, in bytes.
_MAX_MANIFEST = 4 * 1024 * 1024
_MAX_REDIRECTS = 5
#: Servers that sign URLs for GET answer HEAD by one of these.
_NO_HEAD = (400, 403, 405, 501)
_SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization")


class WebSource:
    """One URL.

    Options: `headers`, a mapping, is sent along. A user and password are taken from the URL, else
    from ``~/.netrc``. Neither goes to another host that a server redirects to.
    """

    def __init__(self, options: Mapping[str, object], *, timeout_s: float) -> None:
        headers = options.get("headers") or {}
        if unknown := sorted({*options} - {"headers"}):
            raise ModelLoadError(
                f"source_options for the web has {', '.join(unknown)}; known is: headers"
            )
        if not isinstance(headers, dict):
            raise ModelLoadError("source_options for the web: headers is to be an object")
        self._options = options
        # of what was read from a file, its last line's end
        self._headers = {str(name): str(value).strip() for name, value in headers.items()}
        for name, value in self._headers.items():
            if not value.isprintable():  # the client would say so with the value
                problem = f"header {name} has characters that no header has"
                raise ModelLoadError(f"source_options for the web: {problem}")
        self._timeout_s = timeout_s

    def list_files(self, uri: str) -> Listing:
        """List the one file, or what the folder's manifest names."""
        if urlsplit(uri).path.endswith("/"):
            return self._list_folder(uri)
        with self._translating(uri), self._open_head(uri) as response:
            length = response.headers["Content-Length"]
            size = int(length) if length and length.isdecimal() else None
            tag = response.headers["ETag"] or ""
            if not tag and (date := response.headers["Last-Modified"]):
                tag = f"{date} {size}"
        name = unquote(urlsplit(uri).path.rpartition("/")[2])
        return Listing(files=(RemoteFile(path=name, size=size, tag=tag),), is_file=True)

    def fetch(
        self, uri: str, file: RemoteFile, target: Path, *, progress: Callable[[int], None]
    ) -> None:
        """Fetch a file, or what is lacking of it where the server can tell that it is the same."""
        is_folder = urlsplit(uri).path.endswith("/")
        url = _below(uri, quote(file.path)) if is_folder else uri
        begun = target.stat().st_size if target.exists() else 0
        headers = {}
        if begun and file.tag.startswith('"'):  # not a weak tag, which may stand for two contents
            headers = {"Range": f"bytes={begun}-", "If-Range": file.tag}
        with self._translating(uri), self._open(url, headers=headers) as response:
            there = response.headers["Content-Range"] or ""
            goes_on = response.status == http.client.PARTIAL_CONTENT
            goes_on = goes_on and there.startswith(f"bytes {begun}-")
            length = response.headers["Content-Length"]
            if response.headers["Content-Encoding"] not in (None, "identity"):
                raise OSError("it is compressed for the way, which was not asked for")
            done = begun if goes_on else 0
            end = done + int(length) if length and length.isdecimal() else None
            with target.open("ab" if goes_on else "wb") as out:
                # as much as has come, so that a server that is slow meets the limit of time
                while chunk := response.read1(_CHUNK):
                    done += len(chunk)
                    progress(done)
                    out.write(chunk)
            if end is not None and done < end:
                raise ConnectionError(f"the connection broke after {done} of {end} bytes")

    def _list_folder(self, uri: str) -> Listing:
        with self._translating(uri):
            try:
                with self._open(_below(uri, MANIFEST)) as response:
                    text = self._read(response)
            except urllib.error.HTTPError as error:
                if error.code != http.client.NOT_FOUND:
                    raise
                error.close()
                raise FileNotFoundError(
                    f"a folder on the web needs a file {MANIFEST} in it that names the others"
                ) from error
        found = read_manifest(text.decode("utf-8", "replace"), MANIFEST)
        return Listing(
            files=tuple(
                RemoteFile(path=path, tag=sha256, sha256=sha256) for path, sha256 in found.items()
            )
        )

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """Read a manifest, and no endless one."""
        began = monotonic()
        text = b""
        while chunk := response.read1(_CHUNK):
            text += chunk
            if len(text) > _MAX_MANIFEST:
                raise ModelLoadError(f"{MANIFEST} has more than {_MAX_MANIFEST} bytes")
            if monotonic() - began > self._timeout_s:
                raise ConnectionError(f"{MANIFEST} did not come within {self._timeout_s:g} s")
        return text

    @contextlib.contextmanager
    def _open_head(self, url: str) -> Iterator[http.client.HTTPResponse]:
        try:
            opened = self._open(url, method="HEAD")
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in _NO_HEAD:
                raise
            opened = self._open(url)  # its head is looked at only
        with opened as response:
            yield response

    def _open(
        self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        plain = parts._replace(netloc=host, fragment="").geturl()
        sent = {"User-Agent": "jackfield", "Accept-Encoding": "identity", **self._headers}
        if credentials := _credentials(user, parts.hostname or ""):
            sent.setdefault("Authorization", f"Basic {credentials}")
        request = urllib.request.Request(plain, headers=sent | dict(headers or {}), method=method)
        way = Way()
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            PlainHandler(way),
            SecureHandler(way, ssl.create_default_context()),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects({*self._headers, "Authorization"}),
        ):
            opener.add_handler(handler)
        response: http.client.HTTPResponse = opener.open(request, timeout=self._timeout_s)
        return response

    @contextlib.contextmanager
    def _translating(self, uri: str) -> Iterator[None]:
        try:
            yield
        except urllib.error.HTTPError as error:
            error.close()
            raise _by_status(error.code, redact(str(error.reason), uri, self._options)) from None
        except urllib.error.URLError as error:
            text = redact(str(error.reason), uri, self._options)
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise ModelLoadError(f"the server's certificate is refused: {text}") from None
            raise ConnectionError(text) from None
        except http.client.HTTPException as error:
            text = redact(str(error), uri, self._options)
            raise ConnectionError(f"{type(error).__name__}: {text}") from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows few redirects, none to what is not encrypted, and takes no secret to another host."""

    max_redirections = _MAX_REDIRECTS

    def __init__(self, secrets: set[str]) -> None:
        self._secrets = {name.lower() for name in secrets} | set(_SECRET_HEADERS)

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        fp.close()  # what comes with it would be read to its end, and may have none
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        place = f"{new.scheme}://{new.netloc.rpartition('@')[2]}/…"
        if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
            raise ModelLoadError(f"a redirect from {old.scheme} to {place} is not followed")
        following = urllib.request.Request(
            newurl, headers=dict(req.header_items()), method=req.get_method()
        )
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            for name in [*following.headers]:
                if name.lower() in self._secrets:
                    following.remove_header(name)
        following.remove_header("Host")
        return following


def _below(uri: str, path: str) -> str:
    """Give the URL of what is in a folder, with the folder's query, which may sign it."""
    parts = urlsplit(uri)
    return parts._replace(path=urljoin(parts.path, path)).geturl()


def _credentials(user: str, host: str) -> str:
    """Give a user and password for Basic authentication; empty if there are none."""
    if not user:
        try:
            found = netrc.netrc().authenticators(host)
        except (OSError, netrc.NetrcParseError):
            return ""
        if found is None:
            return ""
        name, _, password = found
        return base64.b64encode(f"{name}:{password}".encode()).decode()
    name, _, password = (unquote(part) for part in user.partition(":"))
    return base64.b64encode(f"{name}:{password}".encode()).decode()


def _by_status(status: int, reason: str) -> Exception:
    """Make one of Python's errors of a status that is none of success."""
    told = f"the server answers {status} {reason}".rstrip()
    if status in (http.client.NOT_FOUND, http.client.GONE):
        return FileNotFoundError(told)
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        return PermissionError(told)
    if status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        return OSError(told)
    if status >= http.client.INTERNAL_SERVER_ERROR or status in (
        http.client.REQUEST_TIMEOUT,
        http.client.TOO_MANY_REQUESTS,
    ):
        return ConnectionError(told)
    return ModelLoadError(told)
