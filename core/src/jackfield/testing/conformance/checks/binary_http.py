"""Binary over REST: tensors as bytes behind the JSON text."""

from __future__ import annotations

import dataclasses
import gzip
import json
import struct
from typing import TYPE_CHECKING, Any

from jackfield.tensor import Datatype
from jackfield.testing.conformance._check import Check, NotApplicableError, check
from jackfield.testing.conformance._expect import (
    expect,
    expect_error,
    expect_handled,
    expect_ok,
    expect_outputs,
    expect_refused,
    read_outputs,
)
from jackfield.testing.conformance._http import Call, parse_json
from jackfield.testing.conformance._tensor import (
    FLOATS,
    INTEGERS,
    RAW_ONLY,
    expect_equal,
    sample,
    telling_values,
)
from jackfield.testing.conformance.checks.core_http import decompressed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jackfield.testing.conformance._http import Reply
    from jackfield.testing.conformance._target import Target
    from jackfield.testing.conformance._tensor import Sample

_EXTENSION = "binary_tensor_data"
_SOURCE = "Triton, binary tensor data extension"
_REFUSES = _SOURCE + ": sizes; its error object; Triton 400"
_HEADER = "Inference-Header-Content-Length"


def _post(target: Target, body: bytes, headers: Mapping[str, str]) -> Reply:
    return target.http.post(f"{target.path}/infer", body, headers)


def _binary(target: Target, **fields: object) -> tuple[bytes, dict[str, str]]:
    """Make the example request with every input behind the JSON."""
    target.require_answer()
    return target.binary_body(target.json_inputs, **fields)


def _head(reply: Reply) -> dict[str, Any]:
    """Read the JSON part of an answer that has bytes behind it."""
    expect_ok(reply)
    length = reply.headers.get(_HEADER.lower())
    expect(length is not None and length.isdigit(), f"a header {_HEADER}", dict(reply.headers))
    head = parse_json(reply.body[: int(length or 0)], "the JSON part of the answer")
    return _with_outputs(head)


def _with_outputs(head: Any) -> dict[str, Any]:  # noqa: ANN401  a JSON value
    outputs = head.get("outputs") if isinstance(head, dict) else None
    is_list = isinstance(outputs, list) and all(isinstance(each, dict) for each in outputs)
    expect(is_list, "a response with a list of outputs", head)
    return dict(head)


def _is_binary(output: Mapping[str, Any]) -> bool:
    return "binary_data_size" in (output.get("parameters") or {})


# ---- inputs ----


@check(
    "binary.http.input",
    "Inputs behind the JSON give the answer that inputs in JSON give.",
    source=_SOURCE,
    extension=_EXTENSION,
)
def binary_input(target: Target) -> None:
    """Send every input as bytes."""
    reply = _post(target, *_binary(target))
    expect(_HEADER.lower() not in reply.headers, "an answer in JSON alone", dict(reply.headers))
    target.expect_answer(expect_outputs(reply))


@check(
    "binary.http.mixed-inputs",
    "One input behind the JSON and the others in it are served.",
    source=_SOURCE,
    extension=_EXTENSION,
)
def mixed_inputs(target: Target) -> None:
    """Send each input as bytes in turn."""
    target.require_answer()
    samples = target.json_inputs
    if len(samples) < 2:
        reason = "the model has one input only"
        raise NotApplicableError(reason)
    for chosen in (samples[0], samples[-1]):
        raw = chosen.raw()
        inputs = [
            {**each.head(), "parameters": {"binary_data_size": len(raw)}}
            if each is chosen
            else each.json()
            for each in samples
        ]
        text = json.dumps({"inputs": inputs}).encode()
        reply = _post(target, text + raw, {_HEADER: str(len(text))})
        target.expect_answer(expect_outputs(reply))


@check(
    "binary.http.header-case",
    "The length header is found in any case of letters.",
    source="kserve's client sends it in lower case; RFC 9110",
    extension=_EXTENSION,
)
def header_case(target: Target) -> None:
    """Write the header's name in other ways."""
    body, headers = _binary(target)
    length = headers[_HEADER]
    for name in (_HEADER.lower(), _HEADER.upper()):
        target.expect_answer(expect_outputs(_post(target, body, {name: length})))


@check(
    "binary.http.any-content-type",
    "The length header alone tells a binary body, whatever its Content-Type.",
    source="tritonclient.http sends none, kserve's client application/octet-stream",
    extension=_EXTENSION,
)
def any_content_type(target: Target) -> None:
    """Call the body by other names."""
    body, headers = _binary(target)
    for kind in ("application/octet-stream", "application/json"):
        reply = _post(target, body, {**headers, "Content-Type": kind})
        target.expect_answer(expect_outputs(reply))


@check(
    "binary.http.header-without-binary",
    "The length header may cover the whole body, with all data in JSON.",
    source=_SOURCE + "; tritonclient with `binary_data=False`",
    extension=_EXTENSION,
)
def header_without_binary(target: Target) -> None:
    """Announce JSON as long as the body."""
    body = json.dumps(target.request()).encode()
    target.expect_answer(expect_outputs(_post(target, body, {_HEADER: str(len(body))})))


# ---- outputs ----


@check(
    "binary.http.tritonclient-default",
    "tritonclient's default request (binary inputs, binary_data_output, no Content-Type) is "
    "answered with every output binary.",
    source="tritonclient.http `infer` without outputs",
    extension=_EXTENSION,
)
def tritonclient_default(target: Target) -> None:
    """Send what tritonclient sends when nothing is asked for."""
    reply = _post(target, *_binary(target, parameters={"binary_data_output": True}))
    outputs = _head(reply)["outputs"]
    expect(all(_is_binary(each) for each in outputs), "binary_data_size on every output", outputs)
    target.expect_answer(expect_outputs(reply))


@check(
    "binary.http.output-content-type",
    "A response with binary outputs is application/octet-stream.",
    source=_SOURCE + ", examples",
    extension=_EXTENSION,
)
def output_content_type(target: Target) -> None:
    """Look at the content type."""
    reply = _post(target, *_binary(target, parameters={"binary_data_output": True}))
    _head(reply)
    expect(reply.content_type == "application/octet-stream", "application/octet-stream", reply)


@check(
    "binary.http.output-flag",
    "binary_data true on one output makes that one binary, and leaves the others in JSON.",
    source=_SOURCE,
    extension=_EXTENSION,
)
def output_flag(target: Target) -> None:
    """Ask for each output in turn."""
    names = list(target.answer)
    for chosen in names:
        outputs = [{"name": name, "parameters": {"binary_data": name == chosen}} for name in names]
        reply = _post(target, *_binary(target, outputs=outputs))
        binary = [each["name"] for each in _head(reply)["outputs"] if _is_binary(each)]
        expect(binary == [chosen], f"'{chosen}' alone to be binary", binary)
        target.expect_answer(expect_outputs(reply))


@check(
    "binary.http.output-flag-overrides",
    "binary_data false on an output overrides binary_data_output of the request.",
    source=_SOURCE,
    extension=_EXTENSION,
)
def output_flag_overrides(target: Target) -> None:
    """Ask for all but the first."""
    first, *rest = target.answer
    outputs: list[dict[str, Any]] = [{"name": first, "parameters": {"binary_data": False}}]
    outputs += [{"name": name} for name in rest]
    body, headers = _binary(target, outputs=outputs, parameters={"binary_data_output": True})
    reply = _post(target, body, headers)
    # where no output is binary, the length header may still be there
    has_header = _HEADER.lower() in reply.headers
    head = _head(reply) if has_header else _with_outputs(expect_ok(reply).json())
    binary = [each["name"] for each in head["outputs"] if _is_binary(each)]
    expect(binary == rest, f"{rest} to be binary", binary)
    target.expect_answer(expect_outputs(reply))


@check(
    "binary.http.output-of-json-request",
    "A request all in JSON may ask for binary outputs.",
    source=_SOURCE,
    extension=_EXTENSION,
)
def output_of_json_request(target: Target) -> None:
    """Ask for binary outputs without the length header."""
    reply = target.infer(target.request(parameters={"binary_data_output": True}))
    expect(all(map(_is_binary, _head(reply)["outputs"])), "binary outputs", reply)
    target.expect_answer(expect_outputs(reply))


@check(
    "binary.http.kserve-fields",
    "A binary response names the model, and has data or binary_data_size on every output.",
    source="kserve's `InferResponse.from_bytes`",
    extension=_EXTENSION,
)
def kserve_fields(target: Target) -> None:
    """Look at what kserve's client needs."""
    head = _head(_post(target, *_binary(target, parameters={"binary_data_output": True})))
    expect(head.get("model_name") == target.model, "model_name", head)
    for output in head["outputs"]:
        expect("data" in output or _is_binary(output), "data or binary_data_size", output)


@check(
    "binary.http.echoes-id",
    "A binary response has the request's id.",
    source=_SOURCE + "; OIP, id",
    extension=_EXTENSION,
)
def echoes_id(target: Target) -> None:
    """Send an id."""
    fields = {"id": "conformance-2", "parameters": {"binary_data_output": True}}
    head = _head(_post(target, *_binary(target, **fields)))
    expect(head.get("id") == "conformance-2", "the id 'conformance-2'", head.get("id"))


# ---- compression ----


@check(
    "binary.http.compressed-request",
    "Content-Encoding covers JSON and tensors; the length header counts before compression.",
    source="tritonclient's `request_compression_algorithm`",
    extension=_EXTENSION,
)
def compressed_request(target: Target) -> None:
    """Compress the whole body."""
    body, headers = _binary(target)
    headers["Content-Encoding"] = "gzip"
    reply = _post(target, gzip.compress(body), headers)
    if reply.status == 415:
        reason = "the server refuses gzip with 415"
        raise NotApplicableError(reason)
    target.expect_answer(expect_outputs(reply))


@check(
    "binary.http.compressed-response",
    "A compressed binary response unpacks to JSON of the announced length, then the tensors.",
    source="tritonclient's `response_compression_algorithm`",
    extension=_EXTENSION,
)
def compressed_response(target: Target) -> None:
    """Ask for compressed answers, made long by an id."""
    fields = {"id": "x" * 8192, "parameters": {"binary_data_output": True}}
    body, headers = _binary(target, **fields)
    for encoding in ("gzip", "deflate"):
        reply = _post(target, body, {**headers, "Accept-Encoding": encoding})
        whole = decompressed(reply, encoding)
        length = int(whole.headers.get(_HEADER.lower(), "0"))
        head = parse_json(whole.body[:length], "the JSON part of the answer")
        target.expect_answer(read_outputs(head, whole.body[length:]))


# ---- the raw request ----


def _raw_input(target: Target) -> Sample:
    """Give the one input that a body without JSON can be."""
    target.require_answer()
    facts = target.facts.inputs
    if len(facts) != 1 or sum(size < 0 for size in facts[0].shape) > 1:
        reason = "a raw request needs a model with one input and at most one open size"
        raise NotApplicableError(reason)
    return target.inputs[0]


@check(
    "binary.http.raw-request",
    "A body without JSON (length 0) is the one input's bytes; its outputs come back binary.",
    source=_SOURCE + ", raw binary request",
    extension=_EXTENSION,
)
def raw_request(target: Target) -> None:
    """Send bytes alone."""
    given = _raw_input(target)
    body = given.raw()
    if given.datatype is Datatype.BYTES:
        if given.array.size != 1:
            reason = "a raw request carries one element of BYTES"
            raise NotApplicableError(reason)
        body = bytes(given.array.reshape(-1)[0])
    reply = _post(target, body, {_HEADER: "0"})
    expect(all(map(_is_binary, _head(reply)["outputs"])), "binary outputs", reply)
    found = expect_outputs(reply)
    expect(list(found) == list(target.answer), f"the outputs {list(target.answer)}", list(found))


@check(
    "binary.http.raw-request-refused",
    "A body without JSON for a model of several inputs is an error 4xx.",
    source=_SOURCE + ", raw binary request",
    extension=_EXTENSION,
)
def raw_request_refused(target: Target) -> None:
    """Send bytes that may be any input."""
    target.require_answer()
    if len(target.facts.inputs) < 2:
        reason = "the model has one input only"
        raise NotApplicableError(reason)
    expect_refused(target.http, target.infer_call(b"\x00" * 8, {_HEADER: "0"}))


# ---- datatypes ----


def _datatype_check(datatype: Datatype) -> Check:
    @check(
        f"binary.http.datatype.{datatype.lower()}",
        f"{datatype} goes through bytes unchanged, with all that JSON lacks (echo models).",
        source=_SOURCE + ", BF16 as Triton and tritonclient have it",
        extension=_EXTENSION,
    )
    def look(target: Target) -> None:
        target.require_echo(datatype)
        samples = target.telling(datatype, raw=True)
        body, headers = target.binary_body(samples, parameters={"binary_data_output": True})
        reply = _post(target, body, headers)
        _head(reply)
        found = expect_outputs(reply)
        for each in samples:
            if each.datatype is datatype:
                expect(each.name in found, f"the output '{each.name}'", sorted(found))
                expect_equal(found[each.name], each)

    return look


DATATYPES = tuple(_datatype_check(each) for each in Datatype)


@check(
    "binary.http.bytes-as-json",
    "BYTES that are not UTF-8, asked for in JSON, are valid JSON or an error 4xx.",
    source="RFC 8259, section 8.1; never a 5xx",
    extension=_EXTENSION,
)
def bytes_as_json(target: Target) -> None:
    """Get back in JSON what JSON can't carry."""
    target.require_echo(Datatype.BYTES)
    samples = target.telling(Datatype.BYTES, raw=True)
    samples = [each for each in samples if each.datatype not in RAW_ONLY]
    body, headers = target.binary_body(samples)
    expect_handled(target.http, target.infer_call(body, headers))


def _raw_only_check(datatype: Datatype) -> Check:
    @check(
        f"binary.http.{datatype.lower()}-as-json",
        f"{datatype} asked for in JSON is valid JSON or an error 4xx.",
        source="Triton 400; never a 5xx",
        extension=_EXTENSION,
    )
    def look(target: Target) -> None:
        target.require_echo(datatype)
        body, headers = target.binary_body(target.telling(datatype, raw=True))
        expect_handled(target.http, target.infer_call(body, headers))

    return look


RAW_ONLY_AS_JSON = tuple(_raw_only_check(each) for each in sorted(RAW_ONLY))


@check(
    "binary.http.special-floats-as-json",
    "NaN and infinities, asked for in JSON, are valid JSON or an error 4xx.",
    source="RFC 8259, section 6; never a 5xx",
    extension=_EXTENSION,
)
def special_floats_as_json(target: Target) -> None:
    """Get back in JSON what JSON has no number for."""
    target.require_echo(Datatype.FP32)
    samples = [
        each for each in target.telling(Datatype.FP32, raw=True) if each.datatype not in RAW_ONLY
    ]
    body, headers = target.binary_body(samples)
    expect_handled(target.http, target.infer_call(body, headers))


@check(
    "binary.http.large-body",
    "A body of 5 MB is served (echo models).",
    source="Triton's default limit is 64 MB",
    extension=_EXTENSION,
)
def large_body(target: Target) -> None:
    """Send a large tensor and get it back."""
    chosen = large_input(target)
    samples = [chosen if each.name == chosen.name else each for each in target.json_inputs]
    body, headers = target.binary_body(samples, parameters={"binary_data_output": True})
    found = expect_outputs(_post(target, body, headers))
    expect_equal(found[chosen.name], chosen)


def large_input(target: Target) -> Sample:
    """Make an input of 5 MB, of an echo model with an open size.

    Raises:
        NotApplicableError: The model has none.
    """
    for fact in target.facts.inputs:
        if fact.datatype in (INTEGERS | FLOATS) - RAW_ONLY and -1 in fact.shape:
            target.require_echo(fact.datatype)
            rows = 5_000_000 // fact.datatype.dtype.itemsize
            shape = fact.filled(1)
            width = 1
            for size in shape:
                width *= max(1, size)
            values = telling_values(fact.datatype, raw=False)
            return sample(fact.name, fact.datatype, values, fact.filled(rows // width))
    reason = "the model has no input of numbers with an open size"
    raise NotApplicableError(reason)


# ---- bad input ----


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The parts of a binary request, to be spoilt one by one."""

    #: The JSON's inputs, the first of them behind the JSON.
    inputs: list[dict[str, Any]]
    raw: bytes

    def call(
        self,
        target: Target,
        *,
        size: object = None,
        length: object = None,
        raw: bytes | None = None,
    ) -> Call:
        """Make the call, with another binary_data_size, header or tensor where given."""
        inputs = [dict(each) for each in self.inputs]
        stated = len(self.raw) if size is None else size
        inputs[0]["parameters"] = {"binary_data_size": stated}
        text = json.dumps({"inputs": inputs}).encode()
        header = len(text) if length is None else length
        data = self.raw if raw is None else raw
        return target.infer_call(text + data, {_HEADER: str(header)})


def _parts(target: Target, datatype: Datatype | None = None) -> _Parts:
    target.require_answer()
    samples = sorted(target.json_inputs, key=lambda each: each.datatype is not datatype)
    if datatype is not None and samples[0].datatype is not datatype:
        reason = f"the model has no input of {datatype}"
        raise NotApplicableError(reason)
    first, *rest = samples
    return _Parts([first.head(), *(each.json() for each in rest)], first.raw())


def _refused(name: str, requirement: str, make: Callable[[Target], list[Call]]) -> Check:
    @check(
        f"binary.http.refuses.{name}",
        f"{requirement}: an error 4xx.",
        source=_REFUSES,
        extension=_EXTENSION,
    )
    def look(target: Target) -> None:
        for call in make(target):
            expect_refused(target.http, call)

    return look


def _sizes(*sizes: object) -> Callable[[Target], list[Call]]:
    return lambda target: [_parts(target).call(target, size=size) for size in sizes]


def _lengths(*lengths: object) -> Callable[[Target], list[Call]]:
    return lambda target: [_parts(target).call(target, length=length) for length in lengths]


def _cut(target: Target) -> list[Call]:
    parts = _parts(target)
    return [parts.call(target, raw=parts.raw[:-1]), parts.call(target, raw=b"")]


def _left_over(target: Target) -> list[Call]:
    parts = _parts(target)
    return [parts.call(target, raw=parts.raw + b"\x00")]


def _misfit(target: Target) -> list[Call]:
    parts = _parts(target)
    longer, shorter = parts.raw + b"\x00", parts.raw[:-1]
    return [parts.call(target, size=len(raw), raw=raw) for raw in (longer, shorter)]


def _no_header(target: Target) -> list[Call]:
    call = _parts(target).call(target)
    return [dataclasses.replace(call, headers={"Content-Type": "application/json"})]


def _bytes_past_the_end(target: Target) -> list[Call]:
    parts = _parts(target, Datatype.BYTES)
    wrong = [struct.pack("<I", 2**32 - 1) + parts.raw[4:], struct.pack("<I", 5) + b"abcd"]
    return [parts.call(target, size=len(raw), raw=raw) for raw in wrong]


def _bytes_miscounted(target: Target) -> list[Call]:
    parts = _parts(target, Datatype.BYTES)
    wrong = [b"", parts.raw + struct.pack("<I", 1) + b"a", parts.raw + b"\x00\x00"]
    return [parts.call(target, size=len(raw), raw=raw) for raw in wrong]


def _overflow(target: Target) -> list[Call]:
    parts = _parts(target)
    calls = []
    for shape in ([2**62, 2**62], [2**32, 2**32], [-1], [1] * 1000):
        inputs = [{**parts.inputs[0], "shape": shape}, *parts.inputs[1:]]
        data = b"" if shape == [2**32, 2**32] else parts.raw
        calls.append(_Parts(inputs, data).call(target))
    return calls


REFUSED = (
    _refused(
        "header-past-the-body", "A length header past the body", _lengths(10**6, 2**63, 10**40)
    ),
    _refused("header-too-short", "A length header that cuts the JSON", _lengths(5)),
    _refused(
        "header-not-a-number", "A length header that is no number", _lengths("-1", "abc", "1.5", "")
    ),
    _refused("cut-body", "Fewer bytes than binary_data_size says", _cut),
    _refused("bytes-left-over", "Bytes behind the last tensor", _left_over),
    _refused("size-misfit", "A binary_data_size that does not fit shape and datatype", _misfit),
    _refused("size-negative", "A binary_data_size below 0", _sizes(-1, -(2**63))),
    _refused("size-huge", "A binary_data_size past the body", _sizes(10**6, 2**63, 10**40)),
    _refused("size-not-a-number", "A binary_data_size that is no integer", _sizes("4", 1.5, [4])),
    _refused("no-header", "Binary data without the length header", _no_header),
    _refused(
        "shape-overflow", "A shape that overflows, is negative, or has 1,000 dimensions", _overflow
    ),
    _refused(
        "bytes-past-the-end", "A BYTES element that runs past its tensor", _bytes_past_the_end
    ),
    _refused(
        "bytes-miscounted", "More or fewer BYTES elements than the shape says", _bytes_miscounted
    ),
)


@check(
    "binary.http.survives.data-beside-size",
    "An input with both data and binary_data_size is served or an error 4xx.",
    source="Triton takes the bytes; never a 5xx",
    extension=_EXTENSION,
)
def survives_data_beside_size(target: Target) -> None:
    """Give the data twice."""
    parts = _parts(target)
    first = next(each for each in target.json_inputs if each.name == parts.inputs[0]["name"])
    twice = _Parts([first.json(), *parts.inputs[1:]], parts.raw)
    expect_handled(target.http, twice.call(target))


@check(
    "binary.http.error-is-json",
    "The error to a binary request is JSON without the length header.",
    source="tritonclient parses every answer but 200 as JSON",
    extension=_EXTENSION,
)
def error_is_json(target: Target) -> None:
    """Ask for an output that is not there, in binary form."""
    body, headers = _binary(
        target,
        outputs=[{"name": "no-such-output-0f6c", "parameters": {"binary_data": True}}],
        parameters={"binary_data_output": True},
    )
    reply = _post(target, body, headers)
    expect_error(reply)
    expect(_HEADER.lower() not in reply.headers, "no length header", dict(reply.headers))
