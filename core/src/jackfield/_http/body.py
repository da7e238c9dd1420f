"""Request bodies in, response bodies out: limits and compression.

Source: RFC 9110, "Content-Encoding" and "Accept-Encoding"; `deflate` is zlib-wrapped there.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, TypeVar

from starlette.exceptions import HTTPException

from jackfield._wire.value import decode_value
from jackfield.errors import InvalidRequestError, PayloadTooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Send

T = TypeVar("T")

#: zlib's window for each encoding: 16 more means a gzip header.
_WINDOWS = {
    b"gzip": 16 + zlib.MAX_WBITS,
    b"x-gzip": 16 + zlib.MAX_WBITS,
    b"deflate": zlib.MAX_WBITS,
}
#: Bodies below this many bytes are sent as they are: a header more costs as much.
_WORTH_COMPRESSING = 1024
#: The fastest level: a response waits for it.
_LEVEL = 1


async def read_body(
    receive: Receive, limit_bytes: int, content_length: int = 0, encoding: bytes = b""
) -> bytes:
    """Read a request's body, decompressed.

    Args:
        receive: Gives its parts.
        limit_bytes: The largest body, as sent and as decompressed.
        content_length: The announced size, 0 if there is none.
        encoding: The header Content-Encoding, empty if there is none.

    Raises:
        PayloadTooLargeError: It is announced to be, or becomes, larger than the limit.
        InvalidRequestError: It is not in that encoding; or the caller goes before the end, and the
            answer reaches nobody.
        HTTPException: 415, the encoding is none of those served.
    """
    if content_length > limit_bytes:
        raise PayloadTooLargeError(limit_bytes, content_length)
    message = await receive()
    body: bytes = message.get("body", b"")
    size = len(body)
    if message.get("more_body", False):
        chunks = [body]
        while message.get("more_body", False):
            message = await receive()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit_bytes:
                raise PayloadTooLargeError(limit_bytes)
        body = b"".join(chunks)
    if message["type"] != "http.request":
        raise InvalidRequestError("body", expected="a whole body", found="a closed connection")
    if size > limit_bytes:
        raise PayloadTooLargeError(limit_bytes, size)
    return _decompress(body, encoding, limit_bytes) if encoding else body


async def read_json(receive: Receive, kind: type[T], limit_bytes: int) -> T:
    """Read a request's body as JSON; one that is missing counts as an empty object.

    Raises:
        PayloadTooLargeError: As `read_body` raises.
        InvalidRequestError: It is not JSON, or not of this kind.
    """
    return decode_value(await read_body(receive, limit_bytes), kind)


def _decompress(body: bytes, encoding: bytes, limit_bytes: int) -> bytes:
    """Undo a request's Content-Encoding.

    Args:
        body: What was sent.
        encoding: The header's value.
        limit_bytes: The largest result; a small body can unpack to a thousand times its size.

    Raises:
        HTTPException: 415, the encoding is none of those served.
        InvalidRequestError: The body is not in that encoding, or ends too soon.
        PayloadTooLargeError: The result would be larger than the limit.
    """
    name = encoding.strip().lower()
    if name == b"identity":
        return body
    window = _WINDOWS.get(name)
    if window is None:
        found = name.decode("latin1")
        raise HTTPException(415, f"content encoding: expected gzip or deflate, found {found}")
    unpacker = zlib.decompressobj(window)
    try:
        result = unpacker.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise InvalidRequestError(
            "body", expected=f"{name.decode()} data", found=str(error)
        ) from error
    if len(result) > limit_bytes:
        raise PayloadTooLargeError(limit_bytes)
    if not unpacker.eof:
        raise InvalidRequestError("body", expected=f"whole {name.decode()} data", found="a part")
    if unpacker.unused_data:
        raise InvalidRequestError(
            "body",
            expected=f"one piece of {name.decode()} data",
            found=f"{len(unpacker.unused_data)} bytes more",
        )
    return result


def choose_encoding(accepted: bytes) -> bytes:
    """Choose a response's encoding from Accept-Encoding; empty for none."""
    for part in accepted.lower().split(b","):
        name, _, weight = part.partition(b";")
        if name.strip() in (b"gzip", b"deflate") and weight.strip() not in (b"q=0", b"q=0.0"):
            return name.strip()
    return b""


async def send_body(
    send: Send,
    body: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    encoding: bytes = b"",
) -> None:
    """Answer 200 with a body, compressed where that is asked for and worth it."""
    sent = [*headers]
    if encoding and len(body) >= _WORTH_COMPRESSING:
        packer = zlib.compressobj(_LEVEL, wbits=_WINDOWS[encoding])
        body = packer.compress(body) + packer.flush()
        sent.append((b"content-encoding", encoding))
    sent.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": sent})
    await send({"type": "http.response.body", "body": body})
