"""Management over gRPC: the twins of the REST routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from jackfield._wire.descriptors import METHODS
from jackfield.testing.conformance._check import Check, check
from jackfield.testing.conformance._expect import expect, expect_code
from jackfield.testing.conformance._grpc import CALLER_CODES, Failure
from jackfield.testing.conformance.checks.core_http import NOBODY

if TYPE_CHECKING:
    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.testing.conformance._target import Target

_STATES = ("READY", "UNAVAILABLE", "LOADING", "UNLOADING", "UNKNOWN")
_REPOSITORY = "Triton, model repository extension, gRPC"
_STATISTICS = "Triton, statistics extension, gRPC"
_CONFIGURATION = "Triton, model configuration extension, gRPC"
_COUNTED = 3
#: The model is not there or not ready: what Triton, KServe and gRPC's own guide say.
_NOT_SERVED = (*sorted(CALLER_CODES, key=lambda code: code.name), grpc.StatusCode.UNAVAILABLE)


def _index(target: Target, *, ready: bool = False) -> list[ProtoMessage]:
    message = METHODS["RepositoryIndex"].request(ready=ready)
    return list(target.grpc.call("RepositoryIndex", message).models)


def _states(target: Target) -> list[str]:
    return [
        line.state
        for line in _index(target)
        if line.name == target.model and target.version in ("", line.version)
    ]


@check(
    "management.grpc.index.form",
    "RepositoryIndex lists models with name and state; this one is READY.",
    source=_REPOSITORY,
)
def index_form(target: Target) -> None:
    """Read the index."""
    for line in _index(target):
        expect(line.name, "a name", str(line))
        expect(line.state in _STATES, f"a state of {', '.join(_STATES)}", line.state)
    found = _states(target)
    expect("READY" in found, f"'{target.model}' to be READY", found or "no such line")


@check(
    "management.grpc.index.ready-filter",
    "RepositoryIndex with ready lists READY models only, this one among them.",
    source=_REPOSITORY,
)
def index_ready_filter(target: Target) -> None:
    """Ask for what is ready."""
    lines = _index(target, ready=True)
    others = [f"{line.name}: {line.state}" for line in lines if line.state != "READY"]
    expect(not others, "READY models only", others)
    names = [line.name for line in lines]
    expect(target.model in names, f"'{target.model}' among them", names)


def _unknown_check(action: str) -> Check:
    method = f"RepositoryModel{action.capitalize()}"

    @check(
        f"management.grpc.{action}.unknown-model",
        f"{method} of a model that is not in the repository is an error.",
        source=_REPOSITORY + ("" if action == "load" else "; Triton answers OK to unload"),
    )
    def look(target: Target) -> None:
        answer = target.grpc.attempt(method, METHODS[method].request(model_name=NOBODY))
        if action == "load" or isinstance(answer, Failure):
            # Triton's load fails with INTERNAL: the polling of the repository failed
            expect_code(answer, (*_NOT_SERVED, grpc.StatusCode.INTERNAL))

    return look


UNKNOWN = (_unknown_check("load"), _unknown_check("unload"))


@check(
    "management.grpc.unload-and-load",
    "An unloaded model is not ready and serves nothing; a load brings it back.",
    source=_REPOSITORY,
    unloads=True,
)
def unload_and_load(target: Target) -> None:
    """Unload the model and load it again."""
    target.require_grpc_answer()
    load, unload = (
        METHODS[name].request(model_name=target.model)
        for name in ("RepositoryModelLoad", "RepositoryModelUnload")
    )
    ready = METHODS["ModelReady"].request(name=target.model, version=target.version)
    target.grpc.call("RepositoryModelUnload", unload)
    try:
        answer = target.grpc.attempt("ModelReady", ready)
        if isinstance(answer, Failure):
            expect_code(answer, _NOT_SERVED)
        else:
            expect(not answer.ready, "ready: false", "true")
        expect_code(target.grpc.attempt("ModelInfer", target.message()), _NOT_SERVED)
        found = _states(target)
        expect("READY" not in found, "no READY line in the index", found)
    finally:
        target.grpc.call("RepositoryModelLoad", load)
    expect(target.grpc.call("ModelReady", ready).ready, "ready: true", "false")
    target.grpc.call("ModelInfer", target.message())


def _statistics(target: Target) -> ProtoMessage:
    message = METHODS["ModelStatistics"].request(name=target.model, version=target.version)
    records = target.grpc.call("ModelStatistics", message).model_stats
    found = [each for each in records if each.name == target.model]
    expect(found, f"'{target.model}' in model_stats", [each.name for each in records])
    return max(found, key=lambda record: record.inference_count)


@check(
    "management.grpc.statistics.grow",
    "Counts of successes and inferences grow by the requests made over gRPC and REST.",
    source=_STATISTICS,
)
def statistics_grow(target: Target) -> None:
    """Make requests and count them."""
    target.require_grpc_answer()
    body = target.request()
    before = _statistics(target)
    for _ in range(_COUNTED):
        target.grpc.call("ModelInfer", target.message())
        target.infer(body)
    after = _statistics(target)
    wanted = before.inference_count + 2 * _COUNTED
    found = after.inference_count
    expect(found >= wanted, f"an inference_count of at least {wanted}", found)
    wanted = before.inference_stats.success.count + 2 * _COUNTED
    found = after.inference_stats.success.count
    expect(found >= wanted, f"a success.count of at least {wanted}", found)


@check(
    "management.grpc.statistics.all-models",
    "ModelStatistics without a name gives all models, this one among them.",
    source=_STATISTICS,
)
def statistics_all_models(target: Target) -> None:
    """Ask for all."""
    answer = target.grpc.call("ModelStatistics")
    names = [each.name for each in answer.model_stats]
    expect(target.model in names, f"'{target.model}' among them", names)


@check(
    "management.grpc.config.form",
    "ModelConfig names the model, and its inputs and outputs with data_type.",
    source=_CONFIGURATION,
)
def config_form(target: Target) -> None:
    """Compare the configuration with the metadata."""
    message = METHODS["ModelConfig"].request(name=target.model, version=target.version)
    config = target.grpc.call("ModelConfig", message).config
    expect(config.name == target.model, f"the name '{target.model}'", config.name)
    for key, facts in (("input", target.facts.inputs), ("output", target.facts.outputs)):
        tensors = getattr(config, key)
        kinds = {
            each.name: each.DESCRIPTOR.fields_by_name["data_type"]
            .enum_type.values_by_number[each.data_type]
            .name
            for each in tensors
        }
        for fact in facts:
            kind = "STRING" if fact.datatype == "BYTES" else str(fact.datatype)
            found = kinds.get(fact.name)
            expect(found == f"TYPE_{kind}", f"TYPE_{kind} for '{fact.name}'", found)


def _unknown_model_check(method: str, source: str) -> Check:
    @check(
        f"management.grpc.{method.removeprefix('Model').lower()}.unknown-model",
        f"{method} of an unknown model is an error that blames the caller.",
        source=source,
    )
    def look(target: Target) -> None:
        target.grpc.call(method, METHODS[method].request(name=target.model))
        expect_code(target.grpc.attempt(method, METHODS[method].request(name=NOBODY)))

    return look


UNKNOWN_MODEL = (
    _unknown_model_check("ModelStatistics", _STATISTICS),
    _unknown_model_check("ModelConfig", _CONFIGURATION),
)


@check(
    "management.grpc.logging.form",
    "LogSettings without settings gives the settings that hold.",
    source="Triton, logging extension, gRPC",
    extension="logging",
)
def logging_form(target: Target) -> None:
    """Read the log settings."""
    settings = target.grpc.call("LogSettings").settings
    expect("log_info" in settings, "'log_info' among them", sorted(settings))


@check(
    "management.grpc.trace.form",
    "TraceSetting without settings gives the settings that hold.",
    source="Triton, trace extension, gRPC",
    extension="trace",
)
def trace_form(target: Target) -> None:
    """Read the trace settings."""
    settings = target.grpc.call("TraceSetting").settings
    expect("trace_level" in settings, "'trace_level' among them", sorted(settings))


@check(
    "management.grpc.system-shared-memory.status",
    "SystemSharedMemoryStatus answers, and blames the caller for an unknown region.",
    source="Triton, system shared memory extension, gRPC",
    extension="system_shared_memory",
)
def shared_memory_status(target: Target) -> None:
    """List the regions."""
    method = "SystemSharedMemoryStatus"
    target.grpc.call(method)
    expect_code(target.grpc.attempt(method, METHODS[method].request(name="no-such-region")))
