"""OpenAPI documents of the REST API: one of the server, one typed for each model.

Pure functions of the routes that are served and of a model's metadata. Both kinds of document have
the same operations and differ in the schemas that these name. Server URLs are relative to where the
document lies, so that it holds behind a proxy and when mounted in another app.

Source: OpenAPI Specification 3.1.0; JSON Schema 2020-12.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from jackfield import __version__
from jackfield._example import (
    example_flat_request,
    example_flat_response,
    example_request,
    example_response,
)
from jackfield._http.schemas import COUNT, SCHEMAS, TEXT, Part, ref, typed_schemas

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from jackfield.messages import ModelMetadata, TensorMetadata

_MODEL = "/v2/models/{model}"
_VERSION = "/versions/{version}"
_REPOSITORY = "/{repository}"
_DOCS = "/docs"
_MEMORY = "/v2/systemsharedmemory"
_REGION = "/region/{region}"

_JSON = "application/json"
_BINARY = "application/octet-stream"
_EVENTS = "text/event-stream"
_HTML = "text/html"


class Operation(NamedTuple):
    """What a document says of one method and path; `{…}` names of bodies are schemas."""

    id: str
    tag: str
    summary: str
    description: str = ""
    #: Schema of the request's body; empty for none.
    body: str = ""
    body_is_optional: bool = False
    #: Schema of the answer's body; empty for none.
    answer: str = ""
    media_type: str = _JSON
    #: Tensors may be binary in both directions.
    is_binary: bool = False
    #: Statuses with the error body.
    errors: tuple[int, ...] = ()
    #: Whether 503 is answered with the body of 200.
    answers_unready: bool = False
    #: Media types that may be asked for instead.
    also: tuple[str, ...] = ()
    #: Parameters in the URL, by name: what they say, and their values; any text if there are none.
    query: Mapping[str, tuple[str, tuple[str, ...]]] = {}


_COMPUTE = (400, 404, 413, 415, 429, 500, 503, 504)
_READ = (404, 503)
_NO_BINARY = "Either the protocol's form, or Triton's flat one, whose keys are the inputs' names."
_STREAMS = (
    "Each `data:` line holds one complete response; what fails after the first one is an event "
    "with `error`. A model that does not stream gives one event."
)
_INFER = (
    "Data is flat or nested, in row-major order; the answer's is flat. In floating-point data "
    '`null` stands for NaN, and the strings `"Infinity"` and `"-Infinity"` for the infinities. '
    "Tensors may follow the JSON text in binary form: each has `parameters.binary_data_size`, and "
    "the header `Inference-Header-Content-Length` tells the length of the JSON text; 0 sends the "
    "bytes of the only input alone. `parameters.binary_data_output` asks for a binary answer."
)

#: Every operation, by its method and its path less version and repository.
OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", _MODEL + "/infer"): Operation(
        "infer",
        "inference",
        "Compute outputs",
        _INFER,
        body="InferRequest",
        answer="InferResponse",
        is_binary=True,
        errors=_COMPUTE,
    ),
    ("POST", _MODEL + "/infer_stream"): Operation(
        "infer_stream",
        "inference",
        "Compute outputs one after another",
        _STREAMS,
        body="GenerateRequest",
        answer="Events",
        media_type=_EVENTS,
        errors=_COMPUTE,
    ),
    ("POST", _MODEL + "/generate"): Operation(
        "generate",
        "inference",
        "Compute outputs, in a shorter form",
        _NO_BINARY,
        body="GenerateRequest",
        answer="GenerateResponse",
        errors=_COMPUTE,
    ),
    ("POST", _MODEL + "/generate_stream"): Operation(
        "generate_stream",
        "inference",
        "Compute outputs one after another, in a shorter form",
        f"{_NO_BINARY} {_STREAMS}",
        body="GenerateRequest",
        answer="Events",
        media_type=_EVENTS,
        errors=_COMPUTE,
    ),
    ("GET", _MODEL): Operation(
        "model_metadata",
        "model",
        "Say what a model takes and gives",
        answer="ModelMetadata",
        errors=_READ,
    ),
    ("GET", _MODEL + "/ready"): Operation(
        "model_ready",
        "model",
        "Say whether a model answers",
        answer="Health",
        errors=(404,),
        answers_unready=True,
    ),
    ("GET", _MODEL + "/stats"): Operation(
        "model_statistics",
        "model",
        "Tell what a model did so far",
        answer="Statistics",
        errors=_READ,
    ),
    ("GET", _MODEL + "/config"): Operation(
        "model_config",
        "model",
        "Give a model's configuration, in Triton's form",
        answer="ModelConfig",
        errors=_READ,
    ),
    ("GET", _MODEL + "/monitors"): Operation(
        "model_monitors",
        "model",
        "Tell what a model's monitors found",
        "Each monitor's settings without secrets, its last verdicts, and what became of the rows.",
        answer="Monitors",
        errors=_READ,
    ),
    ("GET", _MODEL + "/monitors/report"): Operation(
        "model_monitor_report",
        "model",
        "Show what a monitor found: a page with plots, or one picture",
        "Verdicts, p-values and distances over time; distributions then (the detector's reference) "
        "and now. The features that differ most are drawn. Without `format`, the header Accept "
        "chooses. Pictures need matplotlib on the server; the page has its tables without it.",
        answer="Page",
        media_type=_HTML,
        also=("image/png",),
        query={
            "format": ("What is answered.", ("html", "png")),
            "monitor": ("Which one, where the model has several.", ()),
        },
        errors=(400, 404, 429, 501, 503),
    ),
    ("GET", _MODEL + _DOCS): Operation(
        "model_docs",
        "documents",
        "Show a model's API as a page",
        answer="Page",
        media_type=_HTML,
        errors=_READ,
    ),
    ("GET", _MODEL + _DOCS + "/dataplane.json"): Operation(
        "model_document",
        "documents",
        "Describe a model's API, typed from its metadata",
        answer="Document",
        errors=_READ,
    ),
    ("GET", "/v2"): Operation(
        "server_metadata",
        "server",
        "Name the server, its version and its extensions",
        answer="ServerMetadata",
    ),
    ("GET", "/v2/health/live"): Operation(
        "server_live", "server", "Say that the process answers", answer="Health"
    ),
    ("GET", "/v2/health/ready"): Operation(
        "server_ready",
        "server",
        "Say whether requests may be sent here",
        answer="Health",
        answers_unready=True,
    ),
    ("GET", "/v2/models"): Operation(
        "models", "server", "List the models that serve", answer="ModelNames"
    ),
    ("GET", "/v2/models/stats"): Operation(
        "statistics", "server", "Tell what all models did so far", answer="Statistics"
    ),
    ("POST", "/v2/repository/index"): Operation(
        "index",
        "repository",
        "List all model versions, with their states and reasons",
        body="IndexRequest",
        body_is_optional=True,
        answer="Index",
        errors=(400, 413),
    ),
    ("POST", "/v2/repository/models/{model}/load"): Operation(
        "load",
        "repository",
        "Load a model as it lies on disk now, all its versions",
        "A version that serves goes on until its successor is ready, and stays if that fails.",
        body="LoadRequest",
        body_is_optional=True,
        errors=(400, 404, 413, 503),
    ),
    ("POST", "/v2/repository/models/{model}/unload"): Operation(
        "unload",
        "repository",
        "Unload a model, all its versions",
        body="UnloadRequest",
        body_is_optional=True,
        errors=(400, 404, 413),
    ),
    ("GET", "/v2/logging"): Operation(
        "logging", "settings", "Tell what is logged", answer="Logging"
    ),
    ("POST", "/v2/logging"): Operation(
        "set_logging",
        "settings",
        "Change what is logged",
        body="LoggingRequest",
        body_is_optional=True,
        answer="Logging",
        errors=(400, 413),
    ),
    ("GET", "/v2/trace/setting"): Operation(
        "trace", "settings", "Tell which requests are traced", answer="Trace"
    ),
    ("POST", "/v2/trace/setting"): Operation(
        "set_trace",
        "settings",
        "Change which requests are traced",
        body="TraceRequest",
        body_is_optional=True,
        answer="Trace",
        errors=(400, 413),
    ),
    ("GET", _MODEL + "/trace/setting"): Operation(
        "model_trace",
        "settings",
        "Tell which requests to a model are traced",
        answer="Trace",
        errors=(404,),
    ),
    ("POST", _MODEL + "/trace/setting"): Operation(
        "set_model_trace",
        "settings",
        "Change which requests to a model are traced",
        body="TraceRequest",
        body_is_optional=True,
        answer="Trace",
        errors=(400, 404, 413),
    ),
    ("GET", _MEMORY + "/status"): Operation(
        "regions", "shared memory", "List the regions", answer="Regions"
    ),
    ("GET", _MEMORY + _REGION + "/status"): Operation(
        "region", "shared memory", "Tell of one region", answer="Regions", errors=(400,)
    ),
    ("POST", _MEMORY + _REGION + "/register"): Operation(
        "register_region",
        "shared memory",
        "Register a region",
        body="Region",
        errors=(400, 413),
    ),
    ("POST", _MEMORY + "/unregister"): Operation(
        "unregister_regions", "shared memory", "Unregister all regions"
    ),
    ("POST", _MEMORY + _REGION + "/unregister"): Operation(
        "unregister_region", "shared memory", "Unregister a region"
    ),
    ("GET", "/v2/docs"): Operation(
        "docs", "documents", "Show the API as a page", answer="Page", media_type=_HTML
    ),
    ("GET", "/v2/docs/dataplane.json"): Operation(
        "document", "documents", "Describe the API", answer="Document"
    ),
    ("GET", "/v2/docs/assets/{file}"): Operation(
        "docs_asset",
        "documents",
        "Give a file that the pages need",
        answer="Asset",
        media_type="*/*",
        errors=(404,),
    ),
}

_TAGS = {
    "inference": "Ask a model.",
    "model": "Know a model.",
    "server": "Know the server.",
    "repository": "Load and unload models.",
    "settings": "Change the server while it runs.",
    "shared memory": "Memory that callers on this machine share with the server.",
    "documents": "This description.",
}


class _Error(NamedTuple):
    name: str
    description: str
    example: str


_ERRORS = {
    400: _Error(
        "BadRequest",
        "A field is missing, malformed or does not fit the model.",
        "inputs[0].shape: expected sizes of 0 or more, found -1",
    ),
    404: _Error(
        "NotFound",
        "There is no such model, version or file.",
        "model 'irsi' is not served here; did you mean 'iris'",
    ),
    413: _Error(
        "TooLarge",
        "The body is over the server's limit, before or after unpacking.",
        "body: expected at most 67108864 bytes, found more; "
        "the operator's setting is 'max_body_bytes'",
    ),
    415: _Error(
        "UnsupportedMediaType",
        "The body's type or encoding is not served.",
        "content encoding: expected gzip or deflate, found br",
    ),
    429: _Error(
        "Overloaded",
        "The model holds as many requests as it may.",
        "model 'iris' is overloaded: 1000 requests are waiting already",
    ),
    500: _Error(
        "Failed",
        "The model failed on this request; the server's log tells why.",
        "model 'iris' failed on this request; the server's log tells why",
    ),
    501: _Error(
        "NotInstalled",
        "What makes this answer is not installed on the server.",
        'a picture needs matplotlib: pip install "jackfield[report]"; format=html does not',
    ),
    503: _Error(
        "NotReady",
        "The model is loading, unloading or failed to load.",
        "model 'iris' is not ready: loading",
    ),
    504: _Error(
        "DeadlineExceeded",
        "The time that the caller gave is over, or the longest that a call may take.",
        "model 'iris' did not answer within 0.25 s",
    ),
}
#: Statuses that tell when to come back.
_RETRIED = (429, 503)


class _Served(NamedTuple):
    """A path that a document shows."""

    method: str
    #: As the app's routes have it.
    path: str
    #: As the document has it: names may be filled in.
    shown: str


def served_paths(routes: Iterable[object], *, shared_memory: bool = True) -> list[tuple[str, str]]:
    """List method and path of an app's routes, in the order of the operations.

    Args:
        routes: The app's.
        shared_memory: Whether the extension is on; where it is off, its routes only say so.
    """
    found = [
        (method, str(getattr(route, "path", "")))
        for route in routes
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD"
    ]
    if not shared_memory:
        found = [(method, path) for method, path in found if not path.startswith(_MEMORY)]
    order = {key: index for index, key in enumerate(OPERATIONS)}
    return sorted(found, key=lambda key: (order.get(_plain(*key), len(order)), key[1], key[0]))


def server_document(paths: Sequence[tuple[str, str]], name: str) -> Part:
    """Describe the whole API.

    Args:
        paths: What is served, from `served_paths`; what is no operation here is left out.
        name: The server's.
    """
    info: Part = {
        "title": name,
        "version": __version__,
        "summary": "The Open Inference Protocol, version 2, over REST.",
        "description": "Each model has a page of its own at `/v2/models/{model}/docs`, typed from "
        "its metadata and with an example to try.",
    }
    served = [_Served(method, path, path) for method, path in paths]
    return _document(info, "../..", served, SCHEMAS, {})


def model_document(
    paths: Sequence[tuple[str, str]], metadata: ModelMetadata, version: str, *, versioned: bool
) -> Part:
    """Describe the API of one model, with its name in the paths and its tensors in the schemas.

    Args:
        paths: What the server serves, from `served_paths`.
        metadata: The model's.
        version: The version that answers; empty for an un-versioned model.
        versioned: Whether the paths are those that name the version.
    """
    prefix, up = _MODEL, "../../../.."
    filled = f"/v2/models/{quote(metadata.name, safe='')}"
    if versioned:
        prefix, up = prefix + _VERSION, up + "/../.."
        filled += f"/versions/{quote(version, safe='')}"
    served = [
        _Served(method, path, filled + path.removeprefix(prefix))
        for method, path in paths
        if f"{path}/".startswith(f"{prefix}/")
        and not path.startswith((prefix + _VERSION, prefix + _DOCS))
    ]
    info: Part = {
        "title": metadata.name,
        "version": version or "un-versioned",
        "description": _describe(metadata),
    }
    schemas = SCHEMAS | typed_schemas(metadata, version)
    return _document(info, up, served, schemas, _examples(metadata, version))


def _plain(method: str, path: str) -> tuple[str, str]:
    return method, path.replace(_VERSION, "").replace(_REPOSITORY, "")


def _document(
    info: Part,
    server: str,
    paths: Iterable[_Served],
    schemas: Mapping[str, Part],
    examples: Mapping[str, object],
) -> Part:
    items: dict[str, dict[str, object]] = {}
    named: list[str] = ["Error"]
    tags: set[str] = set()
    statuses: set[int] = set()
    for method, path, shown in paths:
        operation = OPERATIONS.get(_plain(method, path))
        if operation is None:
            continue
        tags.add(operation.tag)
        named += _schemas_of(operation)
        statuses.update(operation.errors)
        items.setdefault(shown, {})[method.lower()] = _operation(operation, shown, examples)
    return {
        "openapi": "3.1.0",
        "info": info,
        "servers": [{"url": server}],
        "tags": [{"name": tag, "description": text} for tag, text in _TAGS.items() if tag in tags],
        "paths": items,
        "components": {
            "schemas": {name: schemas[name] for name in _reached(named, schemas)},
            "responses": {_ERRORS[each].name: _error(each) for each in sorted(statuses)},
        },
    }


def _schemas_of(operation: Operation) -> Iterator[str]:
    yield from filter(None, (operation.body, operation.answer))
    if operation.is_binary:
        yield "Binary"


def _reached(names: Iterable[str], schemas: Mapping[str, Part]) -> list[str]:
    """List the schemas that are named, and those that these refer to in turn."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found[name] = None
            waiting += _references(schemas[name])
    return list(found)


def _references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        target = part.get("$ref")
        if isinstance(target, str):
            yield target.rpartition("/")[2]
        for each in part.values():
            yield from _references(each)
    elif isinstance(part, list):
        for each in part:
            yield from _references(each)


def _operation(operation: Operation, path: str, examples: Mapping[str, object]) -> Part:
    suffix = "".join(
        name
        for name, part in (("_version", _VERSION), ("_repository", _REPOSITORY))
        if part in path
    )
    part: Part = {
        "operationId": operation.id + suffix,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        part["description"] = operation.description
    parameters: list[Part] = [
        {"name": name, "in": "path", "required": True, "schema": TEXT}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    for name, (description, values) in operation.query.items():
        schema: Part = {"type": "string", "enum": [*values]} if values else TEXT
        parameters.append(
            {"name": name, "in": "query", "description": description, "schema": schema}
        )
    if operation.is_binary:
        parameters.append(_LENGTH_PARAMETER)
    if parameters:
        part["parameters"] = parameters
    if operation.body:
        part["requestBody"] = {
            "required": not operation.body_is_optional,
            "content": _content(operation.body, _JSON, operation, examples),
        }
    part["responses"] = _responses(operation, examples)
    return part


_LENGTH_HEADER: Part = {
    "description": "Length of the JSON text in bytes, where binary tensors follow it.",
    "schema": COUNT,
}
_LENGTH_PARAMETER: Part = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    **_LENGTH_HEADER,
}


def _content(
    schema: str, media_type: str, operation: Operation, examples: Mapping[str, object]
) -> Part:
    described: Part = {"schema": ref(schema)}
    if schema in examples:
        described["example"] = examples[schema]
    content: Part = {media_type: described}
    if operation.is_binary:
        content[_BINARY] = {"schema": ref("Binary")}
    return content


def _responses(operation: Operation, examples: Mapping[str, object]) -> Part:
    success: Part = {"description": "Done."}
    if operation.answer:
        content = _content(operation.answer, operation.media_type, operation, examples)
        content |= {each: {} for each in operation.also}
        success = {"description": "The answer.", "content": content}
    if operation.is_binary:
        success["headers"] = {"Inference-Header-Content-Length": _LENGTH_HEADER}
    responses: Part = {"200": success}
    if operation.answers_unready:
        responses["503"] = {
            "description": "Not ready; `error` tells why.",
            "content": {_JSON: {"schema": ref(operation.answer)}},
        }
    for status in operation.errors:
        responses[str(status)] = {"$ref": f"#/components/responses/{_ERRORS[status].name}"}
    return responses


def _error(status: int) -> Part:
    _, description, example = _ERRORS[status]
    content: Part = {"schema": ref("Error"), "example": {"error": example}}
    response: Part = {"description": description, "content": {_JSON: content}}
    if status in _RETRIED:
        response["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        }
    return response


# ---- one model ----


def _describe(metadata: ModelMetadata) -> str:
    """Tell platform, inputs and outputs in Markdown."""
    rows = [
        (kind, tensor)
        for kind, tensors in (("input", metadata.inputs), ("output", metadata.outputs))
        for tensor in tensors
    ]
    parts = [f"Platform {_code(metadata.platform)}."] if metadata.platform else []
    if rows:
        lines = ["| | name | datatype | shape | |", "|---|---|---|---|---|"]
        lines += [_row(kind, tensor) for kind, tensor in rows[:_MOST_ROWS]]
        parts.append("\n".join(lines))
    if len(rows) > _MOST_ROWS:
        parts.append(f"And {len(rows) - _MOST_ROWS} more.")
    return "\n\n".join(parts)


#: Tensors in a description: a table has a column each, and the schemas tell all.
_MOST_ROWS = 40


def _row(kind: str, tensor: TensorMetadata) -> str:
    note = "on request" if tensor.parameters.get("on_request", False) else ""
    return f"| {kind} | {_code(tensor.name)} | {tensor.datatype} | {list(tensor.shape)} | {note} |"


def _code(text: str) -> str:
    """Make code of a text that can't end the code, nor the cell that it stands in."""
    return "`" + text.replace("`", "'").replace("|", "¦").replace("\n", " ") + "`"


def _examples(metadata: ModelMetadata, version: str) -> dict[str, object]:
    """Give the examples that there are, by the name of their schema."""
    found = {
        "InferRequest": example_request(metadata),
        "GenerateRequest": example_flat_request(metadata),
        "InferResponse": example_response(metadata, version),
        "GenerateResponse": example_flat_response(metadata, version),
    }
    return {name: example for name, example in found.items() if example is not None}
