"""Stores on loopback that tests fetch from: a web server, and ones that speak as others do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Listener(ThreadingHTTPServer):
    """Speaks HTTP, and with a context HTTPS on the same port to those that begin with it."""

    daemon_threads = True
    context = None

    def get_request(self):
        sock, address = super().get_request()
        if self.context is not None and sock.recv(1, socket.MSG_PEEK) == b"\x16":
            sock = self.context.wrap_socket(sock, server_side=True)
        return sock, address


class WebServer:
    """Serves what `files` holds, by path; each request is noted in `requests`.

    `faults` has what goes wrong, by path, once for each in the list: "break" after half of the
    body, "busy" answers 503, "stall" sends nothing for as long as the server runs, "drip" sends
    what never ends, slowly, "lie" announces a byte more, "pack" says that it is compressed, "begin"
    sends the file's beginning where another part was asked for. `redirects` has paths that lead
    elsewhere.
    """

    def __init__(self, context=None):
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.has_etag = True
        self.takes_head = True
        #: Bytes that went with a redirect, of which it sends 64 MiB to who takes them.
        self.flood = None
        #: The user and password of those that may read; empty lets everybody.
        self.authorization = ""
        self.stopped = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                web.answer(self, has_body=False)

            def do_GET(self):
                web.answer(self, has_body=True)

            def log_message(self, *arguments):
                pass

        self._server = Listener(("127.0.0.1", 0), Handler)
        self._server.context = context
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def gets(self, path=None):
        """List the ranges that were asked for by GET; "" for all of a file."""
        return [
            headers.get("range", "")
            for method, asked, headers in self.requests
            if method == "GET" and path in (None, asked)
        ]

    def stop(self):
        if not self.stopped.is_set():
            self.stopped.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def answer(self, handler, *, has_body):
        path = urlsplit(handler.path).path
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.requests.append((handler.command, handler.path, headers))
        fault = ""
        if has_body and (faults := self.faults.get(path)):
            fault = faults.pop(0)
        if self.authorization and headers.get("authorization") != self.authorization:
            self._send(handler, 401)
        elif location := self.redirects.get(path):
            self._redirect(handler, location)
        elif fault == "busy":
            self._send(handler, 503)
        elif not has_body and not self.takes_head:
            self._send(handler, 405)
        elif (body := self.body(unquote(path), handler)) is None:
            self._send(handler, 404)
        else:
            self._send_file(handler, body, headers, fault, has_body=has_body)

    def body(self, path, handler):
        return self.files.get(path)

    def _redirect(self, handler, location):
        length = 0 if self.flood is None else 64 * 2**20
        self._send(handler, 302, {"Location": location, "Content-Length": str(length)})
        handler.close_connection = True
        with contextlib.suppress(ConnectionError):
            for _ in range(0, length, 2**16):
                handler.wfile.write(bytes(2**16))
                self.flood += 2**16

    def _send(self, handler, status, headers=None):
        handler.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()

    def _send_file(self, handler, body, headers, fault, *, has_body):
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        asked = headers.get("range", "")
        start = 0
        if asked.startswith("bytes=") and headers.get("if-range") == etag and fault != "begin":
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        handler.send_response(206 if start or fault == "begin" else 200)
        if fault == "begin":
            handler.send_header("Content-Range", f"bytes 0-{len(body) - 1}/{len(body)}")
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.has_etag:
            handler.send_header("ETag", etag)
        if fault == "pack":
            handler.send_header("Content-Encoding", "gzip")
        part = body[start:]
        if fault != "drip":
            handler.send_header("Content-Length", str(len(part) + (fault == "lie")))
        handler.end_headers()
        if not has_body:
            return
        if fault == "stall":
            self.stopped.wait(20)
            handler.close_connection = True
        elif fault == "drip":
            handler.close_connection = True
            with contextlib.suppress(ConnectionError):
                while not self.stopped.wait(0.01):
                    handler.wfile.write(b"\n")
        elif fault in ("break", "lie"):
            handler.wfile.write(part[: len(part) // 2] if fault == "break" else part)
            handler.wfile.flush()
            handler.close_connection = True
        else:
            handler.wfile.write(part)


class Hub(WebServer):
    """Answers for one repository as Hugging Face's Hub does, as far as its client asks.

    `files` has the paths in the repository, without a slash before.
    """

    repository = "me/wine"

    def body(self, path, handler):
        api = f"/api/models/{self.repository}"
        commit = hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()
        if path in (api, f"{api}/revision/main"):
            return json.dumps({"id": self.repository, "sha": commit, "siblings": []}).encode()
        if path.startswith(f"{api}/tree/"):
            return json.dumps(self._tree(path.split("/tree/")[1].partition("/")[2])).encode()
        _, is_file, name = path.partition(f"/{self.repository}/resolve/main/")
        return self.files.get(name) if is_file else None

    def _tree(self, folder):
        below = [name for name in self.files if name.startswith(f"{folder}/" if folder else "")]
        return [
            {
                "type": "file",
                "path": name,
                "size": len(self.files[name]),
                "oid": hashlib.sha1(self.files[name]).hexdigest(),
            }
            for name in below
        ]


class Azure(WebServer):
    """Answers for one container as Azure's Blob storage does, as far as its client reads.

    `files` has the names of blobs, without a slash before.
    """

    account, container = "me", "models"

    def answer(self, handler, *, has_body):
        parts = urlsplit(handler.path)
        asked = {name: value for name, (value, *_) in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.requests.append((handler.command, handler.path, headers))
        if asked.get("comp") == "list":
            kind = {"Content-Type": "application/xml"}
            self._send_body(handler, 200, self._list(asked.get("prefix", "")).encode(), kind)
        elif (name := unquote(parts.path).split("/", 3)[3]) not in self.files:
            self._send(handler, 404, {"x-ms-error-code": "BlobNotFound"})
        else:
            body, about = self.files[name], self._about(name)
            # no part of it is sent of all; the client asks for the first 32 MB, where they end
            span = {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"} if has_body else {}
            self._send_body(handler, 206 if span else 200, body, {**about, **span}, has_body)

    def _about(self, name):
        etag = f'"{hashlib.sha256(self.files[name]).hexdigest()[:16]}"'
        date = "Mon, 01 Jan 2024 00:00:00 GMT"
        return {"ETag": etag, "Last-Modified": date, "x-ms-blob-type": "BlockBlob"}

    def _list(self, prefix):
        blobs = ""
        for name in sorted(self.files):
            if name.startswith(prefix):
                about = {**self._about(name), "Content-Length": len(self.files[name])}
                about["Etag"] = about.pop("ETag")
                told = "".join(f"<{key}>{value}</{key}>" for key, value in about.items())
                told = told.replace("x-ms-blob-type", "BlobType")
                blobs += f"<Blob><Name>{name}</Name><Properties>{told}</Properties></Blob>"
        return (
            f'<?xml version="1.0"?><EnumerationResults ContainerName="{self.container}">'
            f"<Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
        )

    def _send_body(self, handler, status, body, headers, has_body=True):
        self._send(handler, status, {**headers, "Content-Length": str(len(body))})
        if has_body:
            handler.wfile.write(body)
