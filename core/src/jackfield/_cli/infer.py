"""``jackfield infer``: send one request to any server of the protocol, and print what it gives."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import click

from jackfield._cli.output import print_table
from jackfield._samples import write_sample
from jackfield._wire import json
from jackfield.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from jackfield.tensor import Tensor

#: How many elements of an output a table shows.
_MOST_SHOWN = 10


def infer_once(
    url: str,
    *,
    model: str,
    version: str,
    source: IO[bytes],
    headers: Mapping[str, str],
    timeout_s: float,
    as_json: bool,
    record: Path | None,
) -> int:
    """Send a request and print the outputs.

    Args:
        url: The server.
        model: The model.
        version: Its version; empty for the server's choice.
        source: A JSON inference request.
        headers: Of the request.
        timeout_s: Longest wait for the answer.
        as_json: Print the response as JSON.
        record: Write the request and the answer there, as a golden sample.

    Returns:
        The exit code; what fails is raised.
    """
    request, _ = json.decode_infer(source.read(), model)
    try:
        client = Client(url, headers=headers, timeout_s=timeout_s)
    except (ImportError, ValueError) as error:
        click.echo(f"error: {error}", err=True)
        return 2
    with client:
        response = client.model(model, version).infer(request).response
    if record is not None:
        write_sample(record, request, response)
    if as_json:
        click.echo(json.encode_infer(response)[0])
        return 0
    print_table(("output", "datatype", "shape", "data"), tensor_rows(response.outputs))
    return 0


def tensor_rows(tensors: Iterable[Tensor]) -> list[tuple[str, str, str, str]]:
    """Give a line for each tensor: name, datatype, shape and the first elements."""
    return [
        (tensor.name, str(tensor.datatype), str(list(tensor.shape)), _show(tensor))
        for tensor in tensors
    ]


def _show(tensor: Tensor) -> str:
    flat = tensor.array.reshape(-1)
    shown = [
        each.decode(errors="backslashreplace") if isinstance(each, bytes) else f"{each}"
        for each in flat[:_MOST_SHOWN].tolist()
    ]
    return ", ".join(shown) + (" …" if flat.size > _MOST_SHOWN else "")
