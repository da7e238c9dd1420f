"""Management over REST: extensions, repository, statistics, configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jackfield.testing.conformance._check import Check, check
from jackfield.testing.conformance._expect import (
    CALLER_STATUSES,
    NOT_READY,
    expect,
    expect_error,
    expect_json,
    expect_ok,
    is_missing,
    require_route,
)
from jackfield.testing.conformance._http import Call
from jackfield.testing.conformance.checks.core_http import NOBODY

if TYPE_CHECKING:
    from jackfield.testing.conformance._target import Target

_STATES = ("READY", "UNAVAILABLE", "LOADING", "UNLOADING", "UNKNOWN")
_REPOSITORY = "Triton, model repository extension"
_STATISTICS = "Triton, statistics extension"
_CONFIGURATION = "Triton, model configuration extension"
#: Requests that statistics are measured with.
_COUNTED = 3

# ---- the list of extensions ----


#: Extension -> names that a server may list it by, and a call that it answers without harm. Only
#: the first name promises the call: KServe's repository has no index.
_ROUTES = {
    "model-repository": (
        ("model_repository", "model_repository_extension"),
        Call("POST", "v2/repository/index", b"{}", {"Content-Type": "application/json"}),
    ),
    "statistics": (("statistics",), Call("GET", "v2/models/stats")),
    "model-configuration": (("model_configuration",), Call("GET", "{model}/config")),
    "system-shared-memory": (
        ("system_shared_memory",),
        Call("GET", "v2/systemsharedmemory/status"),
    ),
    "cuda-shared-memory": (("cuda_shared_memory",), Call("GET", "v2/cudasharedmemory/status")),
    "trace": (("trace",), Call("GET", "v2/trace/setting")),
    "logging": (("logging",), Call("GET", "v2/logging")),
}


def _extension_check(name: str, listed_as: tuple[str, ...], call: Call) -> Check:
    @check(
        f"management.http.extension.{name}",
        f"The extension {listed_as[0]} is listed where it is served, and served where listed.",
        source=f"OIP, Server Metadata; Triton: {listed_as[0]} is reported because it is supported",
    )
    def look(target: Target) -> None:
        path = call.path.replace("{model}", target.path)
        reply = target.http.send(Call(call.method, path, call.body, call.headers))
        if listed_as[0] in target.extensions:
            expect_json(reply)
            return
        require_route(reply)
        if any(each in target.extensions for each in listed_as):
            return
        expect(
            reply.status != 200,
            f"'{listed_as[0]}' among the extensions, for {call.method} {path} is served",
            sorted(target.extensions),
        )

    return look


EXTENSIONS = tuple(
    _extension_check(name, listed_as, call) for name, (listed_as, call) in _ROUTES.items()
)


@check(
    "management.http.extension.binary-tensor-data",
    "Binary tensors are served where binary_tensor_data is listed, and listed where served.",
    source="OIP, Server Metadata; Triton, binary tensor data extension",
)
def extension_binary(target: Target) -> None:
    """Send a binary request whatever is listed."""
    target.require_answer()
    body, headers = target.binary_body(target.json_inputs)
    reply = target.http.post(f"{target.path}/infer", body, headers)
    is_listed = "binary_tensor_data" in target.extensions
    expect(is_listed == (reply.status == 200), "it to be listed if and only if served", reply)


# ---- repository ----


def _index(target: Target, body: bytes | None = b"{}") -> list[dict[str, Any]]:
    call = Call("POST", "v2/repository/index", body, {"Content-Type": "application/json"})
    lines = expect_json(require_route(target.http.send(call)))
    expect(isinstance(lines, list), "a JSON list", lines)
    return list(lines)


def _lines_of(target: Target, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        line
        for line in lines
        if line.get("name") == target.model
        and (not target.version or line.get("version") == target.version)
    ]


@check(
    "management.http.index.form",
    "The repository index lists models with name, state and reason; this one is READY.",
    source=_REPOSITORY,
)
def index_form(target: Target) -> None:
    """Read the index."""
    lines = _index(target)
    for line in lines:
        expect(isinstance(line, dict), "objects in the list", line)
        expect(isinstance(line.get("name"), str), "a name", line)
        expect(line.get("state") in _STATES, f"a state of {', '.join(_STATES)}", line)
        for key in ("version", "reason"):
            expect(isinstance(line.get(key, ""), str), f"text in '{key}'", line)
    states = [line["state"] for line in _lines_of(target, lines)]
    expect("READY" in states, f"'{target.model}' to be READY", states or "no such line")


@check(
    "management.http.index.empty-body",
    "The repository index is given to a request without a body.",
    source="tritonclient's `get_model_repository_index` sends none",
)
def index_empty_body(target: Target) -> None:
    """Ask as tritonclient does."""
    _index(target)
    reply = target.http.post("v2/repository/index", None)
    expect(isinstance(expect_json(reply), list), "a JSON list", reply)


@check(
    "management.http.index.ready-filter",
    'The repository index to {"ready": true} lists READY models only, this one among them.',
    source=_REPOSITORY,
)
def index_ready_filter(target: Target) -> None:
    """Ask for what is ready."""
    lines = _index(target, b'{"ready": true}')
    expect(_lines_of(target, lines), f"'{target.model}' among them", lines)
    others = [line for line in lines if line.get("state") != "READY"]
    expect(not others, "READY models only", others)


@check(
    "management.http.index.bad-body",
    "A body of the index that is no JSON is an error 4xx.",
    source=_REPOSITORY + ", error object",
)
def index_bad_body(target: Target) -> None:
    """Send no JSON."""
    _index(target)
    for body in (b"{", b'{"ready": "perhaps"}'):
        expect_error(target.http.post("v2/repository/index", body), CALLER_STATUSES)


def _unknown_check(action: str) -> Check:
    @check(
        f"management.http.{action}.unknown-model",
        f"To {action} a model that is not in the repository is an error 4xx.",
        source=_REPOSITORY
        + ", error object"
        + ("" if action == "load" else "; Triton answers 200 to unload"),
    )
    def look(target: Target) -> None:
        _index(target)
        path = f"v2/repository/models/{NOBODY}/{action}"
        reply = require_route_but_404(target, path)
        if action == "unload" and reply.status == 200:
            return
        expect_error(reply, CALLER_STATUSES)

    return look


def require_route_but_404(target: Target, path: str) -> Any:  # noqa: ANN401  a Reply
    """POST to a route where 404 may mean the model: 405 and 501 alone mean the route."""
    reply = target.http.post_json(path, {})
    return require_route(reply) if reply.status in (405, 501) else reply


UNKNOWN = (_unknown_check("load"), _unknown_check("unload"))


@check(
    "management.http.unload-and-load",
    "An unloaded model is not ready, not READY in the index and serves nothing; a load brings it "
    "back.",
    source=_REPOSITORY,
    unloads=True,
)
def unload_and_load(target: Target) -> None:
    """Unload the model and load it again; an empty body each time, as tritonclient may send."""
    body = target.request()
    _index(target)
    path = f"v2/repository/models/{target.model}"
    expect_ok(require_route(target.http.post_json(f"{path}/unload", {})))
    try:
        reply = target.http.get(f"{target.path}/ready")
        expect(reply.status in NOT_READY, "not ready: 400, 404 or 503", reply)
        expect_error(target.infer(body), NOT_READY)
        states = [line["state"] for line in _lines_of(target, _index(target))]
        expect("READY" not in states, "no READY line in the index", states)
    finally:
        loaded = target.http.post_json(f"{path}/load", {})
    expect_ok(loaded)
    expect_ok(target.http.get(f"{target.path}/ready"))
    expect_ok(target.infer(body))
    states = [line["state"] for line in _lines_of(target, _index(target))]
    expect("READY" in states, "a READY line in the index", states)


@check(
    "management.http.load.reloads",
    "To load a model that is loaded answers 200, and it serves.",
    source=_REPOSITORY + ': "or reloaded if the model is already loaded"',
    unloads=True,
)
def load_reloads(target: Target) -> None:
    """Load the model once more, with no body."""
    _index(target)
    expect_ok(require_route(target.http.post(f"v2/repository/models/{target.model}/load", None)))
    expect_ok(target.infer(target.request()))


@check(
    "management.http.unload.dependents",
    "To unload with unload_dependents answers 200.",
    source=_REPOSITORY + ", unload_dependents",
    extension="model_repository(unload_dependents)",
    unloads=True,
)
def unload_dependents(target: Target) -> None:
    """Unload as tritonclient does, and load again."""
    path = f"v2/repository/models/{target.model}"
    try:
        expect_ok(
            target.http.post_json(f"{path}/unload", {"parameters": {"unload_dependents": True}})
        )
    finally:
        loaded = target.http.post_json(f"{path}/load", {})
    expect_ok(loaded)
    expect_ok(target.infer(target.request()))


# ---- statistics ----


def _statistics(target: Target, path: str) -> dict[str, Any]:
    body = expect_json(require_route(target.http.get(path)))
    records = body.get("model_stats") if isinstance(body, dict) else None
    expect(isinstance(records, list), "a list 'model_stats'", body)
    found: list[dict[str, Any]] = [
        each for each in records or () if each.get("name") == target.model
    ]
    expect(found, f"'{target.model}' among them", records)
    # the version with most of them is the one that an unversioned request goes to
    return max(found, key=lambda record: int(record.get("inference_count", 0)))


_DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


@check(
    "management.http.statistics.form",
    "Statistics have counts, durations {count, ns} for each part of a request, and batches.",
    source=_STATISTICS,
)
def statistics_form(target: Target) -> None:
    """Read the statistics of the model and of all models."""
    for path in (f"{target.path}/stats", "v2/models/stats"):
        record = _statistics(target, path)
        for key in ("last_inference", "inference_count", "execution_count"):
            expect(type(record.get(key)) is int, f"an integer in '{key}'", record)
        parts = record.get("inference_stats")
        expect(isinstance(parts, dict), "an object 'inference_stats'", record)
        for name in _DURATIONS:
            part = parts.get(name) if isinstance(parts, dict) else None
            is_duration = isinstance(part, dict) and all(
                type(part.get(key)) is int and part[key] >= 0 for key in ("count", "ns")
            )
            expect(is_duration, f"{{count, ns}} in '{name}'", part)
        expect(isinstance(record.get("batch_stats"), list), "a list 'batch_stats'", record)


@check(
    "management.http.statistics.grow",
    "Counts of successes and inferences grow by the requests made.",
    source=_STATISTICS,
)
def statistics_grow(target: Target) -> None:
    """Make requests and count them."""
    body = target.request()
    path = f"{target.path}/stats"
    before = _statistics(target, path)
    for _ in range(_COUNTED):
        expect_ok(target.infer(body))
    after = _statistics(target, path)
    for what, old, new in (
        ("inference_count", before["inference_count"], after["inference_count"]),
        (
            "inference_stats.success.count",
            before["inference_stats"]["success"]["count"],
            after["inference_stats"]["success"]["count"],
        ),
    ):
        expect(new >= old + _COUNTED, f"{what} of at least {old + _COUNTED}", new)
    executed = after["execution_count"] - before["execution_count"]
    counted = after["inference_count"] - before["inference_count"]
    expect(
        0 < executed <= counted,
        f"an execution_count that grows, by {counted} (as inference_count does) at most",
        executed,
    )
    spent = after["inference_stats"]["success"]["ns"] - before["inference_stats"]["success"]["ns"]
    expect(spent > 0, "the duration of successes to grow", spent)


@check(
    "management.http.statistics.unknown-model",
    "Statistics of an unknown model are an error 4xx.",
    source=_STATISTICS + ", error object",
)
def statistics_unknown_model(target: Target) -> None:
    """Ask for a name that no model has."""
    _statistics(target, f"{target.path}/stats")
    expect_error(target.http.get(f"{target.path_of(NOBODY)}/stats"), CALLER_STATUSES)


# ---- configuration ----


@check(
    "management.http.config.form",
    "The configuration names the model, and its inputs and outputs with data_type and dims.",
    source=_CONFIGURATION,
)
def config_form(target: Target) -> None:
    """Compare the configuration with the metadata."""
    body = expect_json(require_route(target.http.get(f"{target.path}/config")))
    expect(isinstance(body, dict), "a JSON object", body)
    expect(body.get("name") == target.model, f"the name '{target.model}'", body.get("name"))
    for key, facts in (("input", target.facts.inputs), ("output", target.facts.outputs)):
        tensors = body.get(key)
        expect(isinstance(tensors, list), f"a list '{key}'", body)
        found = {each.get("name"): each.get("data_type") for each in tensors or ()}
        for fact in facts:
            kind = "STRING" if fact.datatype == "BYTES" else str(fact.datatype)
            wanted = f"TYPE_{kind}"
            expect(found.get(fact.name) == wanted, f"{wanted} for '{fact.name}'", found)
        expect(all(isinstance(each.get("dims"), list) for each in tensors or ()), "dims", tensors)


@check(
    "management.http.config.unknown-model",
    "The configuration of an unknown model is an error 4xx.",
    source=_CONFIGURATION + ", error object",
)
def config_unknown_model(target: Target) -> None:
    """Ask for a name that no model has."""
    require_route(target.http.get(f"{target.path}/config"))
    expect_error(target.http.get(f"{target.path_of(NOBODY)}/config"), CALLER_STATUSES)


# ---- logging and trace ----


@check(
    "management.http.logging.form",
    "Log settings have log_info, log_warning and log_error, and can be set to what they are.",
    source="Triton, logging extension; its own sample says log_warnings and log_errors",
    extension="logging",
)
def logging_form(target: Target) -> None:
    """Read the log settings and write them back."""
    settings = expect_json(target.http.get("v2/logging"))
    for name in ("log_info", "log_warning", "log_error"):
        value = settings.get(name, settings.get(name + "s"))
        expect(isinstance(value, bool), f"true or false in '{name}'", settings)
    if "log_info" in settings:
        expect_ok(target.http.post_json("v2/logging", {"log_info": settings["log_info"]}))
        expect_error(target.http.post_json("v2/logging", {"log_info": "perhaps"}))


@check(
    "management.http.trace.form",
    "Trace settings have trace_level, trace_rate and trace_count.",
    source="Triton, trace extension",
    extension="trace",
)
def trace_form(target: Target) -> None:
    """Read the trace settings."""
    for path in ("v2/trace/setting", f"{target.path_of(target.model)}/trace/setting"):
        settings = expect_json(target.http.get(path))
        for name in ("trace_level", "trace_rate", "trace_count"):
            expect(name in settings, f"'{name}'", settings)


# ---- shared memory ----


@check(
    "management.http.system-shared-memory.status",
    "The status of shared memory is a list; an unknown region is an error 4xx.",
    source="Triton, system shared memory extension",
    extension="system_shared_memory",
)
def shared_memory_status(target: Target) -> None:
    """List the regions."""
    regions = expect_json(target.http.get("v2/systemsharedmemory/status"))
    expect(isinstance(regions, list), "a JSON list", regions)
    reply = target.http.get("v2/systemsharedmemory/region/no-such-region/status")
    expect(not is_missing(reply) or reply.status == 404, "the route of a region", reply)
    expect_error(reply, CALLER_STATUSES)


@check(
    "management.http.system-shared-memory.unknown-region",
    "An input in an unknown region of shared memory is an error 4xx.",
    source="Triton, system shared memory extension",
    extension="system_shared_memory",
)
def shared_memory_unknown_region(target: Target) -> None:
    """Point an input at nothing."""
    body = target.request()
    given = body["inputs"][0]
    del given["data"]
    given["parameters"] = {
        "shared_memory_region": "no-such-region",
        "shared_memory_byte_size": 4,
    }
    expect_error(target.infer(body), CALLER_STATUSES)
