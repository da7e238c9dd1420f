"""Core over REST: health, metadata, readiness, inference in JSON, names that don't exist."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import zlib
from typing import TYPE_CHECKING, Any

from jackfield.tensor import Datatype
from jackfield.testing.conformance._check import Check, NotApplicableError, check
from jackfield.testing.conformance._expect import (
    CALLER_STATUSES,
    NO_ROUTE,
    NOT_FOUND,
    NOT_READY,
    expect,
    expect_error,
    expect_handled,
    expect_json,
    expect_ok,
    expect_outputs,
    expect_refused,
    fail,
)
from jackfield.testing.conformance._http import Call
from jackfield.testing.conformance._tensor import FLOATS, RAW_ONLY, expect_equal

if TYPE_CHECKING:
    from collections.abc import Callable

    from jackfield.testing.conformance._http import Reply
    from jackfield.testing.conformance._target import Target

#: A name that no model has; a number that no version has.
NOBODY = "no-such-model-0f6c"
NO_VERSION = "987654321"

_HEALTH = 'OIP, "Health"'
_METADATA = 'OIP, "Model Metadata"'
_INFERENCE = 'OIP, "Inference"'
_REQUEST = 'OIP, "Inference Request JSON Object"'
_RESPONSE = 'OIP, "Inference Response JSON Object"'
_TENSOR_DATA = 'OIP, "Tensor Data"'
_ERRORS = 'OIP, "Inference Response JSON Error Object"; KServe 404, older Triton 400'

# ---- health and metadata ----


@check("core.http.health.live", "GET v2/health/live answers 200.", source=_HEALTH)
def live(target: Target) -> None:
    """Check liveness."""
    expect_ok(target.http.get("v2/health/live"))


@check("core.http.health.ready", "GET v2/health/ready answers 200.", source=_HEALTH)
def ready(target: Target) -> None:
    """Check readiness."""
    expect_ok(target.http.get("v2/health/ready"))


@check(
    "core.http.health.live-body",
    'The answer to v2/health/live is JSON with "live": true.',
    source="kserve's client reads `.json().get('live')`",
)
def live_body(target: Target) -> None:
    """Check the body that kserve's client reads."""
    body = expect_ok(target.http.get("v2/health/live")).json()
    expect(isinstance(body, dict) and body.get("live") is True, '{"live": true}', body)


@check(
    "core.http.health.ready-body",
    'The answer to v2/health/ready is JSON with "ready": true.',
    source="kserve's client reads `.json().get('ready')`",
)
def ready_body(target: Target) -> None:
    """Check the body that kserve's client reads."""
    body = expect_ok(target.http.get("v2/health/ready")).json()
    expect(isinstance(body, dict) and body.get("ready") is True, '{"ready": true}', body)


@check(
    "core.http.server-metadata",
    "GET v2 gives the server's name, version and a list of extensions.",
    source='OIP, "Server Metadata"',
)
def server_metadata(target: Target) -> None:
    """Check the server's metadata."""
    body = expect_json(target.http.get("v2"))
    expect(isinstance(body, dict), "a JSON object", body)
    for key in ("name", "version"):
        expect(isinstance(body.get(key), str), f"text in '{key}'", body.get(key))
    extensions = body.get("extensions")
    is_list = isinstance(extensions, list) and all(isinstance(each, str) for each in extensions)
    expect(is_list, "a list of texts in 'extensions'", extensions)


@check(
    "core.http.model-metadata",
    "GET v2/models/{m} gives name, platform, inputs and outputs, each with name, datatype, shape.",
    source=_METADATA,
)
def model_metadata(target: Target) -> None:
    """Check the model's metadata."""
    body = expect_json(target.http.get(target.path))
    expect(isinstance(body, dict), "a JSON object", body)
    expect(body.get("name") == target.model, f"the name '{target.model}'", body.get("name"))
    expect(isinstance(body.get("platform"), str), "text in 'platform'", body.get("platform"))
    versions = body.get("versions") or []  # optional; null is what KServe says
    is_list = isinstance(versions, list) and all(isinstance(each, str) for each in versions)
    expect(is_list, "a list of texts in 'versions', or none", versions)
    for key in ("inputs", "outputs"):
        tensors = body.get(key)
        expect(isinstance(tensors, list), f"a list in '{key}'", tensors)
        for tensor in tensors:
            _expect_tensor_metadata(key, tensor)


def _expect_tensor_metadata(key: str, tensor: Any) -> None:  # noqa: ANN401  a JSON value
    expect(isinstance(tensor, dict), f"objects in '{key}'", tensor)
    expect(isinstance(tensor.get("name"), str), f"names in '{key}'", tensor)
    expect(tensor.get("datatype") in set(Datatype), f"datatypes in '{key}'", tensor)
    shape = tensor.get("shape")
    is_shape = isinstance(shape, list) and all(type(size) is int and size >= -1 for size in shape)
    expect(is_shape, f"shapes of sizes from -1 in '{key}'", tensor)


@check("core.http.model-ready", "GET v2/models/{m}/ready answers 200.", source='OIP, "Model Ready"')
def model_ready(target: Target) -> None:
    """Check the model's readiness."""
    expect_ok(target.http.get(f"{target.path}/ready"))


@check(
    "core.http.model-ready-body",
    'The answer to v2/models/{m}/ready is JSON with "ready": true.',
    source="kserve's client reads `.json().get('ready')`",
)
def model_ready_body(target: Target) -> None:
    """Check the body that kserve's client reads."""
    body = expect_ok(target.http.get(f"{target.path}/ready")).json()
    expect(isinstance(body, dict) and body.get("ready") is True, '{"ready": true}', body)


@check(
    "core.http.versions-are-served",
    "Every version in the model's metadata has its own metadata, readiness and inference route.",
    source=_METADATA + ': "the model versions that may be explicitly requested"',
)
def versions_are_served(target: Target) -> None:
    """Check the routes of each version."""
    if not target.facts.versions:
        reason = "the model's metadata lists no versions"
        raise NotApplicableError(reason)
    body = target.request()
    for version in target.facts.versions:
        path = target.path_of(target.model, version)
        expect_ok(target.http.get(path))
        reply = target.http.get(f"{path}/ready")
        expect(reply.status == 200 or reply.status in NOT_READY, "200, or not ready", reply)
        if reply.status == 200:
            expect_outputs(target.http.post_json(f"{path}/infer", body))


# ---- names that don't exist ----


@check(
    "core.http.unknown-model.infer",
    "Inference with an unknown model is an error 404 (or 400).",
    source=_ERRORS,
)
def unknown_model_infer(target: Target) -> None:
    """Infer with a name that no model has."""
    reply = target.http.post_json(f"{target.path_of(NOBODY)}/infer", target.request())
    expect_error(reply, NOT_FOUND)


@check(
    "core.http.unknown-model.metadata",
    "Metadata of an unknown model is an error 404 (or 400).",
    source='OIP, "Model Metadata Response JSON Error Object"',
)
def unknown_model_metadata(target: Target) -> None:
    """Ask for a name that no model has."""
    expect_error(target.http.get(target.path_of(NOBODY)), NOT_FOUND)


@check(
    "core.http.unknown-model.ready",
    "Readiness of an unknown model is 404, 400 or 503.",
    source=_HEALTH + "; Triton answers 400 with no body",
)
def unknown_model_ready(target: Target) -> None:
    """Ask for a name that no model has."""
    reply = target.http.get(f"{target.path_of(NOBODY)}/ready")
    expect(reply.status in NOT_READY, "404, 400 or 503", reply)


@check(
    "core.http.unknown-version",
    "Inference with an unknown version is an error 404 (or 400, 501, 503).",
    source=_ERRORS + ", 501 where KServe has no versions, 503 not ready",
)
def unknown_version(target: Target) -> None:
    """Infer with a version that the model does not have."""
    path = target.path_of(target.model, NO_VERSION)
    reply = target.http.post_json(f"{path}/infer", target.request())
    expect_error(reply, (*NOT_FOUND, 501, 503))


@check(
    "core.http.unknown-route",
    "A route that the server does not have is an error 4xx in the protocol's form.",
    source="tritonclient reads 'error' of every answer but 200, for extensions that are not there",
)
def unknown_route(target: Target) -> None:
    """Ask for a route of no protocol."""
    expect_error(target.http.get("v2/no-such-extension/status"), CALLER_STATUSES)


@check(
    "core.http.wrong-method",
    "GET on the inference route is an error 4xx in the protocol's form.",
    source="Triton answers 405; tritonclient reads 'error' of every answer but 200",
)
def wrong_method(target: Target) -> None:
    """Use the wrong method."""
    expect_error(target.http.get(f"{target.path}/infer"), CALLER_STATUSES)


@check(
    "core.http.odd-names",
    "Names with quotes, blanks, NUL, no ASCII, or 4,000 characters are an error 4xx.",
    source="tritonclient and kserve quote names into the path",
)
def odd_names(target: Target) -> None:
    """Ask for names that a path has to quote."""
    for name in ("a b", 'quo"te', "nul\x00", "ünï", "x" * 4000, "..%2f..", "{m}"):
        reply = target.http.get(target.path_of(name))
        expect(reply.status in CALLER_STATUSES, f"a status 4xx for the name {name[:20]!r}", reply)


# ---- inference in JSON ----


@check(
    "core.http.infer.answers",
    "An inference request in JSON, made of the model's metadata, answers 200 with JSON.",
    source=_INFERENCE,
)
def infer_answers(target: Target) -> None:
    """Infer with the example."""
    expect_json(target.example_reply)


@check(
    "core.http.infer.names-the-model",
    "The response has the model's name, and its version as text where it has one.",
    source=_RESPONSE + "; kserve's `InferResponse.from_bytes` needs model_name",
)
def infer_names_the_model(target: Target) -> None:
    """Look at the response's head."""
    body = expect_json(target.infer(target.request()))
    expect(body.get("model_name") == target.model, f"model_name '{target.model}'", _head(body))
    version = body.get("model_version") or ""  # optional; null is what KServe says
    expect(isinstance(version, str), "text in model_version", version)
    if target.version:
        expect(version == target.version, f"model_version '{target.version}'", version)


def _head(body: dict[str, Any]) -> dict[str, Any]:
    return {key: body[key] for key in body if key != "outputs"}


@check(
    "core.http.infer.outputs-are-whole",
    "Every output has name, datatype, shape and as many elements as the shape says.",
    source=_RESPONSE,
)
def infer_outputs_are_whole(target: Target) -> None:
    """Read every output."""
    expect_outputs(target.infer(target.request()))


@check(
    "core.http.infer.outputs-match-metadata",
    "Outputs have a name of the metadata, its datatype, and a shape that fits.",
    source=_METADATA,
)
def infer_outputs_match_metadata(target: Target) -> None:
    """Compare the outputs with the metadata."""
    declared = {each.name: each for each in target.facts.outputs}
    if not declared:
        reason = "the model's metadata declares no outputs"
        raise NotApplicableError(reason)
    for name, output in expect_outputs(target.infer(target.request())).items():
        expect(name in declared, f"one of the outputs {sorted(declared)}", name)
        fact = declared[name]
        expect(output.datatype is fact.datatype, f"{fact.datatype} in '{name}'", output.datatype)
        fits = len(output.shape) == len(fact.shape) and all(
            wanted in (-1, size) for wanted, size in zip(fact.shape, output.shape, strict=True)
        )
        expect(fits, f"'{name}' of a shape that fits {fact.shape}", output.shape)


def _expect_id(target: Target, request_id: str) -> None:
    body = expect_json(target.infer(target.request(id=request_id)))
    expect(body.get("id") == request_id, f"the id {request_id!r}", body.get("id"))


@check("core.http.infer.echoes-id", "The response has the request's id.", source=_RESPONSE)
def infer_echoes_id(target: Target) -> None:
    """Send an id."""
    _expect_id(target, "conformance-1")


@check(
    "core.http.infer.echoes-odd-id",
    "The response has the request's id, whatever text that is: no ASCII, quotes, a digit.",
    source=_RESPONSE + ": an id is any text",
)
def infer_echoes_odd_id(target: Target) -> None:
    """Send ids that no header holds."""
    for request_id in ("0", 'two words "quoted"', "ünï 😀"):
        _expect_id(target, request_id)


@check(
    "core.http.infer.id-is-never-null",
    "Without an id in the request, the response's id is absent or text, never null.",
    source=_RESPONSE + "; typed clients read the id as text",
)
def infer_id_is_never_null(target: Target) -> None:
    """Send no id."""
    body = expect_json(target.infer(target.request()))
    expect("id" not in body or isinstance(body["id"], str), "no id, or text", body.get("id"))


@check(
    "core.http.infer.no-content-type",
    "A JSON request without a Content-Type is served.",
    source="tritonclient.http sends none",
)
def infer_no_content_type(target: Target) -> None:
    """Send JSON that is not called so."""
    body = json.dumps(target.request()).encode()
    target.expect_answer(expect_outputs(target.http.post(f"{target.path}/infer", body)))


@check(
    "core.http.infer.octet-stream",
    "A JSON request called application/octet-stream is served.",
    source="tritonclient.http.aio sends so: aiohttp's default for bytes",
)
def infer_octet_stream(target: Target) -> None:
    """Send JSON that is called bytes."""
    body = json.dumps(target.request()).encode()
    headers = {"Content-Type": "application/octet-stream"}
    target.expect_answer(expect_outputs(target.http.post(f"{target.path}/infer", body, headers)))


@check(
    "core.http.infer.content-type-parameters",
    "A Content-Type with a charset, in any case of letters, is served.",
    source='RFC 9110, "Media Type"',
)
def infer_content_type_parameters(target: Target) -> None:
    """Send JSON with a charset."""
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    target.expect_answer(expect_outputs(target.infer(target.request(), headers)))


@check(
    "core.http.infer.nested-data",
    "Data in nested lists, one level for each dimension, is served as flat data is.",
    source=_TENSOR_DATA + ': "flattened or not"',
)
def infer_nested_data(target: Target) -> None:
    """Send nested lists."""
    body = target.request()
    deepest = max(len(given["shape"]) for given in body["inputs"])
    if deepest < 2:
        reason = "no input of the model has two dimensions"
        raise NotApplicableError(reason)
    for given in body["inputs"]:
        given["data"] = _nest(given["data"], given["shape"])
    target.expect_answer(expect_outputs(target.infer(body)))


def _nest(flat: list[Any], shape: list[int]) -> list[Any]:
    if len(shape) < 2:
        return flat
    step = math.prod(shape[1:])
    return [_nest(flat[index * step : (index + 1) * step], shape[1:]) for index in range(shape[0])]


@check(
    "core.http.infer.requested-output",
    "A request that names one output gets that one alone.",
    source=_REQUEST + ', "outputs"',
)
def infer_requested_output(target: Target) -> None:
    """Ask for each output."""
    if len(target.answer) < 2:
        reason = "the model gives one output only"
        raise NotApplicableError(reason)
    for name in target.answer:
        found = expect_outputs(target.infer(target.request(outputs=[{"name": name}])))
        expect(list(found) == [name], f"the output '{name}' alone", list(found))


@check(
    "core.http.infer.unknown-output",
    "A request for an output that the model does not have is an error 4xx.",
    source=_REQUEST + "; Triton 400",
)
def infer_unknown_output(target: Target) -> None:
    """Ask for an output that is not there."""
    body = target.request(outputs=[{"name": "no-such-output-0f6c"}])
    expect_refused(target.http, target.json_call(body))


@check(
    "core.http.infer.parameters",
    "Parameters of every JSON scalar, of the request, an input and an output, are taken.",
    source='OIP, "Inference Parameters"',
)
def infer_parameters(target: Target) -> None:
    """Send parameters that mean nothing to any server."""
    parameters = {"conformance_text": "ü", "conformance_whole": 2**53, "conformance_flag": True}
    parameters |= {"conformance_fraction": 0.5, "conformance_negative": -1}
    outputs = [{"name": name, "parameters": parameters} for name in target.answer]
    body = target.request(parameters=parameters, outputs=outputs)
    for given in body["inputs"]:
        given["parameters"] = parameters
    target.expect_answer(expect_outputs(target.infer(body)))


@check(
    "core.http.infer.timeout-and-priority",
    "The parameters timeout (microseconds) and priority 0 are taken.",
    source="Triton, schedule policy extension; tritonclient's `infer(timeout=, priority=)`",
)
def infer_timeout_and_priority(target: Target) -> None:
    """Send what tritonclient can send."""
    body = target.request(parameters={"timeout": 30_000_000, "priority": 0})
    target.expect_answer(expect_outputs(target.infer(body)))


@check(
    "core.http.infer.no-sequence",
    "The parameter sequence_id 0 means no sequence, and is taken.",
    source="Triton, sequence extension; tritonclient's default is 0",
)
def infer_no_sequence(target: Target) -> None:
    """Send the sequence that is none."""
    parameters = {"sequence_id": 0, "sequence_start": False, "sequence_end": False}
    target.expect_answer(expect_outputs(target.infer(target.request(parameters=parameters))))


@check(
    "core.http.infer.classification",
    "An output with the parameter classification 1 is BYTES value:index[:label], one a row.",
    source="Triton, classification extension",
    extension="classification",
)
def infer_classification(target: Target) -> None:
    """Ask for the best class of each numeric output."""
    asked = 0
    for name, plain in target.answer.items():
        if plain.datatype is Datatype.BYTES or plain.datatype in RAW_ONLY or not plain.shape:
            continue
        wanted = [{"name": name, "parameters": {"classification": 1}}]
        reply = target.infer(target.request(outputs=wanted))
        if len(plain.shape) > 2 and reply.status != 200:
            continue  # what classes are has no meaning there
        found = expect_outputs(reply)[name]
        asked += 1
        expect(found.datatype is Datatype.BYTES, f"BYTES in '{name}'", found.datatype)
        expect(found.shape[-1:] == [1], f"one class a row in '{name}'", found.shape)
        for text in found.array.reshape(-1):
            value, _, rest = text.decode().partition(":")
            index = rest.partition(":")[0]
            expect(_is_number(value) and index.isdigit(), "value:index[:label]", text)
    if not asked:
        reason = "the model has no output of numbers with one or two dimensions"
        raise NotApplicableError(reason)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("True", "False", "true", "false")
    return True


@check(
    "core.http.infer.zero-size",
    "A tensor of no elements is served, or an error if the model takes none.",
    source=_TENSOR_DATA + ": a shape whose product is 0 has empty data",
)
def infer_zero_size(target: Target) -> None:
    """Send empty tensors where the metadata leaves a size open."""
    body = target.request()
    opened = {each.name: each.filled(0) for each in target.facts.inputs if -1 in each.shape}
    if not opened:
        reason = "no input of the model has an open size"
        raise NotApplicableError(reason)
    for given in body["inputs"]:
        if given["name"] in opened:
            given.update(shape=opened[given["name"]], data=[])
    reply = expect_handled(target.http, target.json_call(body), model_may_fail=not target.is_echo)
    if not target.is_echo:
        return
    for name, output in expect_outputs(reply).items():
        expect(output.shape == opened.get(name, output.shape), "the shape sent", output.shape)


@check(
    "core.http.infer.special-numbers",
    "NaN and infinities in a JSON response are valid JSON: no literals NaN or Infinity.",
    source="RFC 8259, section 6",
)
def infer_special_numbers(target: Target) -> None:
    """Make an echo model answer what JSON has no number for."""
    floats = [each for each in target.json_inputs if each.datatype in FLOATS]
    if not floats:
        reason = "the model has no input of FP32 or FP64"
        raise NotApplicableError(reason)
    body = target.request()
    is_null = {each.name for each in floats}
    for given in body["inputs"]:
        if given["name"] in is_null:
            given["data"] = [None] * len(given["data"])
    expect_handled(target.http, target.json_call(body), model_may_fail=not target.is_echo)


def _datatype_check(datatype: Datatype) -> Check:
    @check(
        f"core.http.datatype.{datatype.lower()}",
        f"{datatype} goes through JSON unchanged, limits included (echo models).",
        source=_TENSOR_DATA,
    )
    def look(target: Target) -> None:
        target.require_echo(datatype)
        samples = target.telling(datatype, raw=False)
        found = expect_outputs(target.infer({"inputs": [each.json() for each in samples]}))
        for each in samples:
            if each.datatype is datatype:
                expect(each.name in found, f"the output '{each.name}'", sorted(found))
                expect_equal(found[each.name], each)

    return look


DATATYPES = tuple(_datatype_check(each) for each in Datatype if each not in RAW_ONLY)

# ---- compression ----


def _compress_gzip(body: bytes) -> bytes:
    return gzip.compress(body)


def _compression_checks(encoding: str, compress: Callable[[bytes], bytes]) -> tuple[Check, ...]:
    @check(
        f"core.http.compression.{encoding}-request",
        f"A request with Content-Encoding {encoding} is served, or refused with 415.",
        source=f"tritonclient's `request_compression_algorithm='{encoding}'`; RFC 9110",
    )
    def request(target: Target) -> None:
        body = compress(json.dumps(target.request()).encode())
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        reply = target.http.post(f"{target.path}/infer", body, headers)
        if reply.status == 415:
            reason = f"the server refuses {encoding} with 415"
            raise NotApplicableError(reason)
        target.expect_answer(expect_outputs(reply))

    @check(
        f"core.http.compression.{encoding}-broken",
        f"A body that is not {encoding}, or a part of it, is an error 4xx.",
        source='RFC 9110, "Content-Encoding"; OIP\'s error object',
    )
    def broken(target: Target) -> None:
        body = compress(json.dumps(target.request()).encode())
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        for wrong in (b"not compressed", body[:-9], b""):
            expect_refused(target.http, target.infer_call(wrong, headers))

    return request, broken


COMPRESSION = (
    *_compression_checks("gzip", _compress_gzip),
    *_compression_checks("deflate", zlib.compress),
)


@check(
    "core.http.compression.header-case",
    "Header names and codings are read in any case of letters.",
    source='RFC 9110, "Field Names", "Content Codings"',
)
def compression_header_case(target: Target) -> None:
    """Write headers as nobody does."""
    body = gzip.compress(json.dumps(target.request()).encode())
    path = f"{target.path}/infer"
    plain = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    if target.http.post(path, body, plain).status != 200:
        reason = "the server does not take gzip"
        raise NotApplicableError(reason)
    odd = {"CONTENT-TYPE": "application/json", "content-ENCODING": "GZip"}
    target.expect_answer(expect_outputs(target.http.post(path, body, odd)))


@check(
    "core.http.compression.unknown",
    "A body in an unknown Content-Encoding is an error 4xx.",
    source='RFC 9110, "Content-Encoding": 415; OIP\'s error object',
)
def compression_unknown(target: Target) -> None:
    """Send a body that is backwards, and say so."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "x-backwards"}
    body = json.dumps(target.request()).encode()
    expect_refused(target.http, target.infer_call(body[::-1], headers))


@check(
    "core.http.compression.response",
    "A response to Accept-Encoding gzip or deflate is so encoded, or plain; and is the same.",
    source="tritonclient's `response_compression_algorithm`; RFC 9110",
)
def compression_response(target: Target) -> None:
    """Ask for compressed answers, made long by an id."""
    body = target.request(id="x" * 8192)
    for encoding in ("gzip", "deflate"):
        reply = target.infer(body, {"Accept-Encoding": encoding})
        target.expect_answer(expect_outputs(decompressed(reply, encoding)))


def decompressed(reply: Reply, asked: str) -> Reply:
    """Undo the Content-Encoding of an answer.

    Raises:
        ConformanceError: It is not the one asked for, or the body is not in it.
    """
    encoding = reply.headers.get("content-encoding", "identity")
    expect(encoding in (asked, "identity"), f"Content-Encoding {asked} or none", encoding)
    if encoding == "identity":
        return reply
    # deflate is zlib's format in HTTP
    window = zlib.MAX_WBITS + (16 if encoding == "gzip" else 0)
    try:
        body = zlib.decompress(reply.body, window)
    except zlib.error as error:
        fail(f"a body of {encoding}", error)
    return dataclasses.replace(reply, body=body)


# ---- connections ----


@check(
    "core.http.connection.survives-an-error",
    "After an error, the same connection serves a good request.",
    source="clients pool connections: tritonclient, kserve (httpx)",
)
def connection_survives_an_error(target: Target) -> None:
    """Send a bad request and a good one on one connection."""
    bad = target.infer_call(b"{")
    good = target.json_call(target.request())
    refused, served = target.http.converse(bad, good)
    expect(refused.status in CALLER_STATUSES, "a status 4xx", refused)
    target.expect_answer(expect_outputs(served))


@check(
    "core.http.connection.unread-body",
    "After a request to an unknown model, with a body, the same connection serves a good one.",
    source="clients pool connections: tritonclient, kserve (httpx)",
)
def connection_unread_body(target: Target) -> None:
    """Send a body that the server has no reason to read."""
    body = json.dumps(target.request(id="x" * 500_000)).encode()
    path = f"{target.path_of(NOBODY)}/infer"
    bad = Call("POST", path, body, {"Content-Type": "application/json"})
    refused, served = target.http.converse(bad, target.json_call(target.request()))
    expect(refused.status in NOT_FOUND, "404 or 400", refused)
    target.expect_answer(expect_outputs(served))


@check(
    "core.http.models-list",
    'GET v2/models gives {"models": [names]}, this model among them.',
    source="KServe's data plane",
)
def models_list(target: Target) -> None:
    """List the models."""
    reply = target.http.get("v2/models")
    if reply.status in NO_ROUTE:
        reason = "the server does not serve GET v2/models, an addition of KServe"
        raise NotApplicableError(reason)
    body = expect_json(reply)
    names = body.get("models") if isinstance(body, dict) else None
    is_listed = isinstance(names, list) and target.model in names
    expect(is_listed, f"a list 'models' with '{target.model}' in it", body)
