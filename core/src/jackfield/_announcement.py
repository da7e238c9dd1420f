"""What a server has to say for itself when it has started, as values: a worker tells it by wire."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from jackfield._inner import IS_INNER
from jackfield.errors import JackfieldError

if TYPE_CHECKING:
    from jackfield.server import Addresses, Server

logger = logging.getLogger("jackfield")


class Line(msgspec.Struct, frozen=True):
    """A model version; what it is without is empty."""

    model: str
    version: str
    runtime: str
    state: str
    #: Where it is, or why it is not ready.
    url: str


class Announcement(msgspec.Struct, frozen=True):
    """What is served and where."""

    http: str
    grpc: str
    #: Empty where it is switched off.
    metrics: str
    lines: list[Line]
    #: A command line that was tried; empty where there is none.
    example: str


async def announce(server: Server, addresses: Addresses) -> Announcement:
    """Look at what a running server serves, and find a request to try."""
    from jackfield._models import ModelState

    lines, example = [], ""
    for entry in await server.index():
        path = f"/v2/models/{entry.name}"
        path += f"/versions/{entry.version}" if entry.version else ""
        is_ready = entry.state is ModelState.READY
        runtime = server.model(entry.name, entry.version).runtime_name if is_ready else ""
        url = entry.reason or addresses.http + path
        lines.append(Line(entry.name, entry.version, runtime, entry.state, url))
        if is_ready and not example:
            example = await _curl(server, entry.name, addresses.http)
    return Announcement(addresses.http, addresses.grpc, addresses.metrics, lines, example)


async def _curl(server: Server, name: str, url: str) -> str:
    """Make a command line that works: the request is tried before it is printed."""
    # whoever only tells what others have found, needs neither
    from jackfield._example import example_request
    from jackfield._wire import json

    model = server.model(name)
    request = example_request(model.metadata)
    # a made-up shape may be refused, which the log would show as a failure of the model
    is_guessed = any(tensor.parameters.get("any_shape") for tensor in model.metadata.inputs)
    if request is None or model.is_stateful or is_guessed:
        return ""
    body = msgspec.json.encode(request)
    token = IS_INNER.set(True)
    try:
        await model.infer(json.decode_infer(body, name)[0])
    except JackfieldError as error:
        logger.debug("no example request for model '%s': %s", name, error)
        return ""
    finally:
        IS_INNER.reset(token)
    quoted = body.decode().replace("'", "'\\''")
    header = "-H 'content-type: application/json'"
    return f"curl {url}/v2/models/{name}/infer {header} \\\n    -d '{quoted}'"
