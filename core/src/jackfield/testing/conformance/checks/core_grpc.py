"""Core over gRPC: the same as over REST, with typed contents; raw ones are of level binary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from jackfield._wire.descriptors import METHODS, message_class
from jackfield.tensor import Datatype
from jackfield.testing.conformance._check import Check, NotApplicableError, check
from jackfield.testing.conformance._expect import expect, expect_code, fail
from jackfield.testing.conformance._grpc import Failure
from jackfield.testing.conformance._tensor import INTEGERS, RAW_ONLY, decode_message, expect_equal
from jackfield.testing.conformance.checks.core_http import NO_VERSION, NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable

    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.testing.conformance._target import Target

_PROTO = "OIP, grpc_predict_v2.proto, "
_UNKNOWN = _PROTO + "errors; Triton and KServe NOT_FOUND"
_UNKNOWN_CODES = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
)
_INVALID = _PROTO + "InferTensorContents; Triton INVALID_ARGUMENT"


def _request(method: str, **fields: object) -> ProtoMessage:
    return METHODS[method].request(**fields)


# ---- health and metadata ----


@check("core.grpc.live", "ServerLive answers live.", source=_PROTO + "ServerLive")
def live(target: Target) -> None:
    """Check liveness."""
    expect(target.grpc.call("ServerLive").live, "live: true", "false")


@check("core.grpc.ready", "ServerReady answers ready.", source=_PROTO + "ServerReady")
def ready(target: Target) -> None:
    """Check readiness."""
    expect(target.grpc.call("ServerReady").ready, "ready: true", "false")


@check("core.grpc.model-ready", "ModelReady answers ready.", source=_PROTO + "ModelReady")
def model_ready(target: Target) -> None:
    """Check the model's readiness."""
    answer = target.grpc.call(
        "ModelReady", _request("ModelReady", name=target.model, version=target.version)
    )
    expect(answer.ready, "ready: true", "false")


@check(
    "core.grpc.health-service",
    "The standard health service, where there is one, says SERVING.",
    source="grpc.health.v1: Kubernetes' gRPC probes",
)
def health_service(target: Target) -> None:
    """Ask as Kubernetes does."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(target.grpc.channel)
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=target.grpc.timeout_s)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            reason = "the server does not have grpc.health.v1"
            raise NotApplicableError(reason) from error
        fail("OK", f"{error.code().name}: {error.details()}")
    serving = health_pb2.HealthCheckResponse.SERVING
    expect(answer.status == serving, "SERVING", answer.status)


@check(
    "core.grpc.server-metadata",
    "ServerMetadata gives the name, version and extensions that REST gives.",
    source=_PROTO + "ServerMetadata",
)
def server_metadata(target: Target) -> None:
    """Compare with REST."""
    answer = target.grpc.call("ServerMetadata")
    body = target.http.get("v2").json()
    expect(answer.name == body.get("name"), f"the name {body.get('name')!r}", answer.name)
    expect(answer.version == body.get("version"), f"{body.get('version')!r}", answer.version)
    listed = sorted(body.get("extensions", []))
    expect(sorted(answer.extensions) == listed, f"the extensions {listed}", answer.extensions)


@check(
    "core.grpc.model-metadata",
    "ModelMetadata gives the platform, versions, inputs and outputs that REST gives.",
    source=_PROTO + "ModelMetadata",
)
def model_metadata(target: Target) -> None:
    """Compare with REST."""
    answer = target.grpc.call(
        "ModelMetadata", _request("ModelMetadata", name=target.model, version=target.version)
    )
    facts = target.facts
    expect(answer.name == target.model, f"the name '{target.model}'", answer.name)
    expect(answer.platform == facts.platform, f"{facts.platform!r}", answer.platform)
    versions = facts.versions or []
    expect(list(answer.versions) == versions, f"the versions {versions}", list(answer.versions))
    for key in ("inputs", "outputs"):
        found = [(each.name, each.datatype, list(each.shape)) for each in getattr(answer, key)]
        wanted = [(each.name, str(each.datatype), each.shape) for each in getattr(facts, key)]
        expect(found == wanted, f"the {key} {wanted}", found)


# ---- names that don't exist ----


@check(
    "core.grpc.unknown-model.infer",
    "ModelInfer with an unknown model is NOT_FOUND (or INVALID_ARGUMENT).",
    source=_UNKNOWN,
)
def unknown_model_infer(target: Target) -> None:
    """Infer with a name that no model has."""
    message = target.message()
    message.model_name = NOBODY
    expect_code(target.grpc.attempt("ModelInfer", message), _UNKNOWN_CODES)


@check(
    "core.grpc.unknown-model.metadata",
    "ModelMetadata of an unknown model is NOT_FOUND (or INVALID_ARGUMENT).",
    source=_UNKNOWN,
)
def unknown_model_metadata(target: Target) -> None:
    """Ask for a name that no model has."""
    message = _request("ModelMetadata", name=NOBODY)
    expect_code(target.grpc.attempt("ModelMetadata", message), _UNKNOWN_CODES)


@check(
    "core.grpc.unknown-model.ready",
    "ModelReady of an unknown model is not ready, or NOT_FOUND.",
    source=_PROTO + "ModelReady; Triton answers false, KServe an error",
)
def unknown_model_ready(target: Target) -> None:
    """Ask for a name that no model has."""
    answer = target.grpc.attempt("ModelReady", _request("ModelReady", name=NOBODY))
    if isinstance(answer, Failure):
        expect_code(answer, (*_UNKNOWN_CODES, grpc.StatusCode.UNAVAILABLE))
    else:
        expect(not answer.ready, "ready: false", "true")


@check(
    "core.grpc.unknown-version",
    "ModelInfer with an unknown version is NOT_FOUND (or INVALID_ARGUMENT, UNAVAILABLE).",
    source=_UNKNOWN,
)
def unknown_version(target: Target) -> None:
    """Infer with a version that the model does not have."""
    message = target.message()
    message.model_version = NO_VERSION
    codes = (*_UNKNOWN_CODES, grpc.StatusCode.UNAVAILABLE)
    expect_code(target.grpc.attempt("ModelInfer", message), codes)


# ---- inference ----


@check(
    "core.grpc.infer.answers",
    "ModelInfer with typed contents, made of the model's metadata, answers OK.",
    source=_PROTO + "ModelInfer",
)
def infer_answers(target: Target) -> None:
    """Infer with the example."""
    target.grpc.call("ModelInfer", target.message())


@check(
    "core.grpc.infer.as-rest",
    "The outputs are those of REST: names, datatypes, shapes, and values where they repeat.",
    source=_PROTO + "ModelInferResponse",
)
def infer_as_rest(target: Target) -> None:
    """Compare with REST."""
    target.require_grpc_answer()
    target.expect_answer(target.call_grpc(target.message()))


@check(
    "core.grpc.infer.names-the-model",
    "The response has the model's name, and the version that was asked for.",
    source=_PROTO + "ModelInferResponse",
)
def infer_names_the_model(target: Target) -> None:
    """Look at the response's head."""
    target.require_grpc_answer()
    answer = target.grpc.call("ModelInfer", target.message())
    expect(answer.model_name == target.model, f"model_name '{target.model}'", answer.model_name)
    if target.version:
        expect(answer.model_version == target.version, f"'{target.version}'", answer.model_version)


def _expect_id(target: Target, request_id: str) -> None:
    target.require_grpc_answer()
    answer = target.grpc.call("ModelInfer", target.message(request_id=request_id))
    expect(answer.id == request_id, f"the id {request_id!r}", answer.id)


@check("core.grpc.infer.echoes-id", "The response has the request's id.", source=_PROTO + "id")
def infer_echoes_id(target: Target) -> None:
    """Send an id."""
    _expect_id(target, "conformance-1")


@check(
    "core.grpc.infer.echoes-odd-id",
    "The response has the request's id, whatever text that is: no ASCII, quotes, a digit.",
    source=_PROTO + "id is any text",
)
def infer_echoes_odd_id(target: Target) -> None:
    """Send ids that no metadata holds."""
    for request_id in ("0", 'two words "quoted"', "ünï 😀"):
        _expect_id(target, request_id)


@check(
    "core.grpc.infer.requested-output",
    "A request that names one output gets that one alone.",
    source=_PROTO + "ModelInferRequest.outputs",
)
def infer_requested_output(target: Target) -> None:
    """Ask for each output."""
    target.require_grpc_answer()
    names = list(target.call_grpc(target.message()))
    if len(names) < 2:
        reason = "the model gives one output only"
        raise NotApplicableError(reason)
    for name in names:
        message = target.message()
        message.outputs.add(name=name)
        found = list(target.call_grpc(message))
        expect(found == [name], f"the output '{name}' alone", found)


@check(
    "core.grpc.infer.parameters",
    "Parameters of every type (bool, int64, uint64, double, string) are taken.",
    source=_PROTO + "InferParameter; Triton adds uint64_param and double_param",
)
def infer_parameters(target: Target) -> None:
    """Send parameters that mean nothing to any server."""
    target.require_grpc_answer()
    message = target.message()
    maps = [message.parameters, *(given.parameters for given in message.inputs)]
    for parameters in maps:
        parameters["conformance_flag"].bool_param = True
        parameters["conformance_whole"].int64_param = -(2**53)
        parameters["conformance_large"].uint64_param = 2**63
        parameters["conformance_fraction"].double_param = 0.5
        parameters["conformance_text"].string_param = "ü"
    target.expect_answer(target.call_grpc(message))


@check(
    "core.grpc.infer.compressed",
    "Calls compressed with gzip and with deflate are served.",
    source="tritonclient's `compression_algorithm`; the gRPC compression specification",
)
def infer_compressed(target: Target) -> None:
    """Compress the request."""
    target.require_grpc_answer()
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        answer = target.grpc.call(
            "ModelInfer", target.message(request_id="x" * 4096), compression=compression
        )
        target.expect_answer(decode_message(answer))


@check(
    "core.grpc.infer.classification",
    "An output with the parameter classification 1 is BYTES value:index[:label].",
    source="Triton, classification extension",
    extension="classification",
)
def infer_classification(target: Target) -> None:
    """Ask for the best class of each numeric output."""
    target.require_grpc_answer()
    asked = 0
    for name, plain in target.call_grpc(target.message()).items():
        if plain.datatype is Datatype.BYTES or len(plain.shape) not in (1, 2):
            continue
        message = target.message()
        message.outputs.add(name=name).parameters["classification"].int64_param = 1
        found = target.call_grpc(message)[name]
        asked += 1
        expect(found.datatype is Datatype.BYTES, f"BYTES in '{name}'", found.datatype)
        expect(
            all(b":" in text for text in found.array.reshape(-1)), "value:index", found.array[:3]
        )
    if not asked:
        reason = "the model has no output of numbers with one or two dimensions"
        raise NotApplicableError(reason)


def _datatype_check(datatype: Datatype) -> Check:
    @check(
        f"core.grpc.datatype.{datatype.lower()}",
        f"{datatype} goes through typed contents unchanged, limits included (echo models).",
        source=_PROTO + "InferTensorContents",
    )
    def look(target: Target) -> None:
        target.require_echo(datatype)
        samples = target.telling(datatype, raw=False)
        found = target.call_grpc(target.message(samples))
        for each in samples:
            if each.datatype is datatype:
                expect(each.name in found, f"the output '{each.name}'", sorted(found))
                expect_equal(found[each.name], each)

    return look


DATATYPES = tuple(_datatype_check(each) for each in Datatype if each not in RAW_ONLY)

# ---- bad input ----


def _refused(
    name: str, requirement: str, spoil: Callable[[ProtoMessage], object], *, source: str = _INVALID
) -> Check:
    @check(
        f"core.grpc.refuses.{name}",
        f"{requirement}: INVALID_ARGUMENT, or another code that blames the caller.",
        source=source,
    )
    def look(target: Target) -> None:
        target.require_grpc_answer()
        message = target.message()
        spoil(message)
        expect_code(target.grpc.attempt("ModelInfer", message))
        expect(target.grpc.call("ServerLive").live, "a live server afterwards", "none")

    return look


def _shape(*sizes: int) -> Callable[[ProtoMessage], object]:
    def spoil(message: ProtoMessage) -> None:
        message.inputs[0].shape[:] = sizes

    return spoil


def _no_inputs(message: ProtoMessage) -> None:
    del message.inputs[:]


def _too_many(message: ProtoMessage) -> None:
    contents = message.inputs[0].contents
    contents.MergeFrom(
        message_class("InferTensorContents").FromString(contents.SerializeToString())
    )


def _no_contents(message: ProtoMessage) -> None:
    message.inputs[0].ClearField("contents")


def _wrong_contents(message: ProtoMessage) -> None:
    given = message.inputs[0]
    count = 1
    for size in given.shape:
        count *= size
    given.ClearField("contents")
    field = "fp64_contents" if given.datatype != Datatype.FP64 else "int64_contents"
    getattr(given.contents, field).extend([1] * count)


def _out_of_range(message: ProtoMessage) -> None:
    for given in message.inputs:
        if given.datatype in (Datatype.INT8, Datatype.INT16):
            given.contents.int_contents[0] = 2**20
            return
        if given.datatype in (Datatype.UINT8, Datatype.UINT16):
            given.contents.uint_contents[0] = 2**20
            return
    reason = "the model has no input of 8 or 16 bits"
    raise NotApplicableError(reason)


def _set(field: str, value: object) -> Callable[[ProtoMessage], object]:
    return lambda message: setattr(message.inputs[0], field, value)


REFUSED = (
    _refused("no-inputs", "A request without inputs", _no_inputs),
    _refused("datatype-unknown", "A datatype that is none", _set("datatype", "FP33")),
    _refused("datatype-empty", "An input without a datatype", _set("datatype", "")),
    _refused("shape-negative", "A size below 0", _shape(-1)),
    _refused("shape-too-large", "A shape of more elements than 64 bits", _shape(2**62, 2**62)),
    _refused("shape-thousand", "A shape of 1,000 dimensions", _shape(*[1] * 1000)),
    _refused("contents-none", "An input without contents", _no_contents),
    _refused("contents-too-many", "More elements than the shape says", _too_many),
    _refused("contents-of-another-type", "Contents in another datatype's field", _wrong_contents),
    _refused(
        "duplicate-names",
        "Two inputs of one name",
        lambda message: message.inputs.add().CopyFrom(message.inputs[0]),
    ),
    _refused(
        "unknown-output",
        "A request for an output that the model does not have",
        lambda message: message.outputs.add(name="no-such-output-0f6c"),
        source=_PROTO + "ModelInferRequest.outputs; Triton INVALID_ARGUMENT",
    ),
)


def _handled(target: Target, spoil: Callable[[ProtoMessage], Any]) -> None:
    message = target.message()
    spoil(message)
    answer = target.grpc.attempt("ModelInfer", message)
    if isinstance(answer, Failure):
        expect_code(answer)
    expect(target.grpc.call("ServerLive").live, "a live server afterwards", "none")


@check(
    "core.grpc.survives.integer-out-of-range",
    "A value that an 8 or 16 bit datatype does not hold is served or blamed on the caller.",
    source="Triton wraps it around",
)
def survives_out_of_range(target: Target) -> None:
    """Send a large value."""
    if not any(each.datatype in INTEGERS for each in target.inputs):
        reason = "the model has no input of integers"
        raise NotApplicableError(reason)
    target.require_grpc_answer()
    _handled(target, _out_of_range)


@check(
    "core.grpc.survives.long-id",
    "An id of a million characters is served or blamed on the caller.",
    source=_PROTO + "id is any text",
)
def survives_long_id(target: Target) -> None:
    """Send a long id."""
    target.require_grpc_answer()
    _handled(target, lambda message: setattr(message, "id", "x" * 1_000_000))


@check(
    "core.grpc.survives.long-names",
    "Names of 100,000 characters are blamed on the caller.",
    source="gRPC's trailers hold 8 KiB: an error that repeats the name has to cut it",
)
def survives_long_names(target: Target) -> None:
    """Send names that an error's text can't repeat."""
    message = target.message()
    message.model_name = "x" * 100_000
    expect_code(target.grpc.attempt("ModelInfer", message))
    target.require_grpc_answer()
    message = target.message()
    message.inputs[0].datatype = "x" * 100_000
    expect_code(target.grpc.attempt("ModelInfer", message))
