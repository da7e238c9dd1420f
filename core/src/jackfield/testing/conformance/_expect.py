"""What checks of every level expect of an answer; each raises `ConformanceError`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from jackfield.testing.conformance._check import ConformanceError, NotApplicableError
from jackfield.testing.conformance._grpc import CALLER_CODES, Failure
from jackfield.testing.conformance._http import Call, parse_json
from jackfield.testing.conformance._tensor import Sample, decode_head, decode_json, decode_raw

if TYPE_CHECKING:
    from collections.abc import Container

    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.testing.conformance._http import HttpClient, Reply

#: Statuses that say that the caller must change something.
CALLER_STATUSES = range(400, 500)
#: No such model or version: 404 (KServe, newer Triton) or 400 (older Triton, and a version that
#: Triton can't read).
NOT_FOUND = (400, 404)
#: Not ready: 503 (KServe) or 400 (Triton).
NOT_READY = (400, 404, 503)
#: The route is not there; 400 is what older Triton says.
NO_ROUTE = (400, 404, 405, 501)

_LENGTH_HEADER = "inference-header-content-length"


def fail(expected: str, found: object) -> NoReturn:
    """Fail."""
    message = f"expected {expected}, found {found}"
    raise ConformanceError(message)


def expect(condition: object, expected: str, found: object) -> None:
    """Fail unless the condition is true."""
    if not condition:
        fail(expected, found)


def expect_ok(reply: Reply) -> Reply:
    """Fail unless the status is 200: tritonclient takes no other for a success."""
    expect(reply.status == 200, f"{reply.call.method} {reply.call.path} to answer 200", reply)
    return reply


def expect_json(reply: Reply) -> Any:  # noqa: ANN401  JSON has any type
    """Fail unless the answer is 200 with JSON; returns it."""
    expect_ok(reply)
    expect(reply.content_type == "application/json", "content type application/json", reply)
    return reply.json()


def expect_error(reply: Reply, statuses: Container[int] = CALLER_STATUSES) -> str:
    """Fail unless the answer is an error in the protocol's form; returns its text.

    The content type has to be exactly ``application/json``: kserve's client reads the text of no
    other.
    """
    wanted = "a status 4xx" if statuses is CALLER_STATUSES else f"a status of {statuses}"
    expect(reply.status in statuses, wanted, reply)
    kind = reply.headers.get("content-type")
    expect(kind == "application/json", "an error of content type application/json", reply)
    body = reply.json()
    text = body.get("error") if isinstance(body, dict) else None
    expect(isinstance(text, str) and text, 'an error {"error": "text"}', reply)
    return str(text)


def expect_refused(http: HttpClient, call: Call) -> Reply:
    """Fail unless the call gets an error 4xx, and the connection serves the next request."""
    refused, after = http.converse(call, Call("GET", "v2/health/live"))
    expect_error(refused)
    expect_ok(after)
    return refused


def expect_handled(http: HttpClient, call: Call, *, model_may_fail: bool = False) -> Reply:
    """Fail unless the call is served or refused in the protocol's form; never cut off.

    A 5xx is a failure too, unless the request is a good one that the model itself may not take:
    KServe and MLServer answer 500 to that.
    """
    reply, after = http.converse(call, Call("GET", "v2/health/live"))
    if reply.status == 200:
        if reply.content_type == "application/json":
            reply.json()
    else:
        expect_error(reply, range(400, 501) if model_may_fail else CALLER_STATUSES)
    expect_ok(after)
    return reply


def expect_code(answer: ProtoMessage | Failure, codes: Container[object] = CALLER_CODES) -> Failure:
    """Fail unless a call ended with one of the codes, and with a text."""
    if not isinstance(answer, Failure):
        fail("an error", f"OK: {str(answer)[:200]!r}")
    wanted = "a code that blames the caller, as INVALID_ARGUMENT" if codes is CALLER_CODES else ""
    if not wanted:
        wanted = "one of " + ", ".join(getattr(code, "name", "?") for code in _listed(codes))
    expect(answer.code in codes, wanted, answer)
    expect(answer.details, "an error with a text", answer)
    return answer


def _listed(codes: Container[object]) -> list[object]:
    return list(codes) if isinstance(codes, tuple | frozenset) else []


def is_missing(reply: Reply) -> bool:
    """Tell whether a route is not served at all."""
    return reply.status in (404, 405, 501)


def require_route(reply: Reply) -> Reply:
    """Skip the check where the route is not served."""
    if is_missing(reply):
        reason = f"the server does not serve {reply.call.method} {reply.call.path}"
        raise NotApplicableError(reason)
    return reply


def expect_outputs(reply: Reply) -> dict[str, Sample]:
    """Read the outputs of an answer to an inference request, in JSON or binary form.

    Raises:
        ConformanceError: The answer is not 200, or not in the protocol's form.
    """
    expect_ok(reply)
    length = reply.headers.get(_LENGTH_HEADER)
    if length is None:
        expect(reply.content_type == "application/json", "content type application/json", reply)
        return read_outputs(reply.json(), b"")
    expect(length.isdigit(), f"a number in {_LENGTH_HEADER}", length)
    expect(
        int(length) <= len(reply.body),
        f"{_LENGTH_HEADER} within the {len(reply.body)} bytes of the body",
        length,
    )
    text, rest = reply.body[: int(length)], reply.body[int(length) :]
    return read_outputs(_json_part(reply, text), rest)


def _json_part(reply: Reply, text: bytes) -> Any:  # noqa: ANN401  JSON has any type
    return parse_json(text, f"the JSON part of the answer to {reply.call.path}")


def read_outputs(body: Any, binary: bytes) -> dict[str, Sample]:  # noqa: ANN401  JSON has any type
    """Read the outputs of a response's JSON, and of the bytes behind it."""
    expect(isinstance(body, dict), "a JSON object", type(body).__name__)
    outputs = body.get("outputs")
    expect(isinstance(outputs, list), "a list 'outputs'", f"the keys {sorted(body)}")
    found: dict[str, Sample] = {}
    for output in outputs:
        size = _binary_size(output)
        if size is None:
            tensor = decode_json(output)
        else:
            expect("data" not in output, "no 'data' beside binary_data_size", sorted(output))
            expect(size <= len(binary), f"{size} bytes behind the JSON", len(binary))
            head = decode_head(output)
            tensor = decode_raw(head.name, head.datatype, head.shape, binary[:size])
            binary = binary[size:]
        expect(tensor.name not in found, "outputs of different names", f"'{tensor.name}' twice")
        found[tensor.name] = tensor
    expect(not binary, "no bytes behind the last output", len(binary))
    return found


def _binary_size(output: object) -> int | None:
    if not isinstance(output, dict) or not isinstance(output.get("parameters"), dict):
        return None
    size = output["parameters"].get("binary_data_size")
    if size is None or (isinstance(size, int) and size >= 0):
        return size
    fail("a binary_data_size in bytes", size)
