"""The forms in which the servers are asked: how rows become a body, and a body labels again.

Used by the programs here and by `generator.py`, which runs in an environment of its own; needs the
standard library only. gRPC messages are in `messages.py`, which needs protobuf.
"""

import array
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Rows = Sequence[Sequence[float]]
#: Numbers of an answer, one for each row.
Labels = list[float]


class Form(NamedTuple):
    """One way to ask a server; `{model}` in a path stands for the model's name."""

    name: str
    path: str
    headers: Callable[[Rows], dict[str, str]]
    encode: Callable[[Rows], bytes]
    decode: Callable[[bytes], Labels]
    """Raises ValueError, LookupError or TypeError for what is no answer."""
    method: str = "POST"


def flat(values: object) -> Labels:
    """Give the numbers of nested lists in their order."""
    if isinstance(values, list):
        return [number for value in values for number in flat(value)]
    if isinstance(values, int | float):
        return [values]
    message = f"no number: {values!r}"
    raise TypeError(message)


def _tensor(rows: Rows, **fields: object) -> dict[str, object]:
    return {"name": "input-0", "shape": [len(rows), len(rows[0])], "datatype": "FP64", **fields}


def _numbers(rows: Rows) -> Iterable[float]:
    return (number for row in rows for number in row)


def encode_json(rows: Rows, fields: Mapping[str, object] | None = None) -> bytes:
    """Write a request of the Open Inference Protocol, with further fields beside its input."""
    return json.dumps(
        {**(fields or {}), "inputs": [_tensor(rows, data=list(_numbers(rows)))]}
    ).encode()


def _decode_json(body: bytes) -> Labels:
    return flat(json.loads(body)["outputs"][0]["data"])


def _binary_head(rows: Rows) -> bytes:
    size = {"binary_data_size": 8 * len(rows) * len(rows[0])}
    asked = {"binary_data_output": True}
    return json.dumps({"parameters": asked, "inputs": [_tensor(rows, parameters=size)]}).encode()


def encode_numbers(rows: Rows) -> bytes:
    """Write the numbers as they follow the JSON text, and as gRPC has them."""
    return array.array("d", _numbers(rows)).tobytes()


def _encode_binary(rows: Rows) -> bytes:
    return _binary_head(rows) + encode_numbers(rows)


def binary_headers(head: bytes) -> dict[str, str]:
    """Give the headers of a body whose JSON text this is."""
    return {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }


#: Array type codes of the datatypes that a label or a regression's output has.
TYPE_CODES = {"INT64": "q", "INT32": "i", "FP64": "d", "FP32": "f"}


def _decode_binary(body: bytes) -> Labels:
    # one byte a character: the end of the JSON text is an offset into the body
    head, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    output = head["outputs"][0]
    size = output["parameters"]["binary_data_size"]
    return [*array.array(TYPE_CODES[output["datatype"]], body[end : end + size])]


def _rest(name: str, path: str, field: str, found: Callable[[Any], object]) -> Form:
    """A form of JSON that sends the rows as nested lists in one field."""
    return Form(
        name,
        path,
        _json_headers,
        lambda rows: json.dumps({field: [list(row) for row in rows]}).encode(),
        lambda body: flat(found(json.loads(body))),
    )


def _json_headers(_: Rows) -> dict[str, str]:
    return {"Content-Type": "application/json"}


JSON = Form("json", "/v2/models/{model}/infer", _json_headers, encode_json, _decode_json)
BINARY = Form(
    "binary",
    "/v2/models/{model}/infer",
    lambda rows: binary_headers(_binary_head(rows)),
    _encode_binary,
    _decode_binary,
)
TIMED = JSON._replace(
    name="timed", headers=lambda rows: {**_json_headers(rows), "Want-Server-Timing": "1"}
)
LIVE = Form("live", "/v2/health/live", lambda _: {}, lambda _: b"", lambda _: [], method="GET")
MLFLOW = _rest("mlflow", "/invocations", "inputs", lambda found: found["predictions"])
PLAIN = _rest("plain", "/predict", "rows", lambda found: found["labels"])

FORMS = {form.name: form for form in (JSON, BINARY, TIMED, LIVE, MLFLOW, PLAIN)}
#: Named where a form of HTTP would be, in what the generator is told.
GRPC = "grpc"
