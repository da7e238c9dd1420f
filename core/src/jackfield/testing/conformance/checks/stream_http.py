"""Streams over REST: server-sent events of MLServer's and Triton's routes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jackfield.testing.conformance._check import Check, NotApplicableError, check
from jackfield.testing.conformance._expect import (
    CALLER_STATUSES,
    NOT_FOUND,
    expect,
    expect_error,
    expect_json,
    expect_ok,
    read_outputs,
    require_route,
)
from jackfield.testing.conformance._http import Call, parse_json
from jackfield.testing.conformance.checks.core_http import NOBODY

if TYPE_CHECKING:
    from jackfield.testing.conformance._target import Target

_EVENTS = "HTML Living Standard, \"Server-sent events\"; MLServer's and Triton's stream routes"
_GENERATE = "Triton, generate extension"
_EARLY = _GENERATE + ": what fails before inference is an error as from other endpoints"


def _responses(target: Target, route: str, body: object, limit: int = 1000) -> list[Any]:
    """Read the events of a stream to its end, as JSON.

    Raises:
        NotApplicableError: The route is not served.
    """
    call = Call("POST", f"{target.path}/{route}", _json(body), _JSON)
    with target.http.events(call) as events:
        require_route(events.reply)
        expect_ok(events.reply)
        kind = events.reply.content_type
        expect(kind == "text/event-stream", "content type text/event-stream", events.reply)
        found = []
        for data in events:
            found.append(parse_json(data, "the data of an event"))
            if len(found) == limit:
                break
    expect(found, "at least one event", "none")
    return found


_JSON = {"Content-Type": "application/json"}


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


def _expect_response(target: Target, body: Any) -> None:  # noqa: ANN401  a JSON value
    expect(isinstance(body, dict), "a JSON object in every event", body)
    expect("error" not in body, "a response", body)
    expect(body.get("model_name") == target.model, f"model_name '{target.model}'", body)
    if body.get("outputs"):
        read_outputs(body, b"")


# ---- MLServer's stream: the protocol's own requests and responses ----


@check(
    "stream.http.infer-stream.events",
    "infer_stream answers with events, each of them one complete inference response.",
    source=_EVENTS,
)
def infer_stream_events(target: Target) -> None:
    """Read a stream."""
    for body in _responses(target, "infer_stream", target.request()):
        _expect_response(target, body)


@check(
    "stream.http.infer-stream.echoes-id",
    "Every event of infer_stream has the request's id.",
    source=_EVENTS + "; OIP, id",
)
def infer_stream_echoes_id(target: Target) -> None:
    """Send an id."""
    for body in _responses(target, "infer_stream", target.request(id="conformance-3")):
        expect(body.get("id") == "conformance-3", "the id 'conformance-3'", body.get("id"))


# ---- Triton's generate: keys are the names of inputs and outputs ----


def _flat(target: Target) -> dict[str, Any]:
    """Make the flat form of the example, which has inputs of one element only.

    Raises:
        NotApplicableError: An input has more.
    """
    target.require_answer()
    fields = {}
    for given in target.json_inputs:
        if given.array.size != 1:
            reason = f"the flat form is for inputs of one element; '{given.name}' has more"
            raise NotApplicableError(reason)
        fields[given.name] = given.json()["data"][0]
    return fields


def _expect_flat(target: Target, body: Any) -> None:  # noqa: ANN401  a JSON value
    expect(isinstance(body, dict), "a JSON object", body)
    expect("error" not in body, "a response", body)
    expect(body.get("model_name") == target.model, f"model_name '{target.model}'", body)
    missing = [name for name in target.answer if name not in body]
    expect(not missing, f"a key for each output, {list(target.answer)}", sorted(body))


@check(
    "stream.http.generate.flat",
    "generate takes a key for each input, and answers with a key for each output.",
    source=_GENERATE,
)
def generate_flat(target: Target) -> None:
    """Send the flat form."""
    reply = require_route(target.infer(_flat(target), route="generate"))
    _expect_flat(target, expect_json(reply))


@check(
    "stream.http.generate.parameters",
    "generate takes parameters, and keys that are no inputs.",
    source=_GENERATE + ", parameters",
)
def generate_parameters(target: Target) -> None:
    """Send parameters beside the inputs."""
    body = {**_flat(target), "parameters": {"conformance": 0.5}, "conformance_flag": True}
    reply = require_route(target.infer(body, route="generate"))
    _expect_flat(target, expect_json(reply))


@check(
    "stream.http.generate-stream.flat",
    "generate_stream takes what generate takes, and each event is an answer as generate gives.",
    source=_GENERATE,
)
def generate_stream_flat(target: Target) -> None:
    """Stream the flat form."""
    for body in _responses(target, "generate_stream", _flat(target)):
        _expect_flat(target, body)


# ---- what goes wrong ----


def _require_served(target: Target, route: str) -> None:
    """Skip the check where the route is not served."""
    call = Call("POST", f"{target.path}/{route}", _json(target.request()), _JSON)
    with target.http.events(call) as answer:
        require_route(answer.reply)


def _error_checks(route: str) -> tuple[Check, ...]:
    """Make the checks of one route's errors."""
    prefix = f"stream.http.{route.replace('_', '-')}"

    @check(
        f"{prefix}.unknown-model",
        f"{route} of an unknown model is an error 404 (or 400) in the protocol's form.",
        source=_EARLY,
    )
    def unknown_model(target: Target) -> None:
        body = target.request()
        _require_served(target, route)
        expect_error(target.http.post_json(f"{target.path_of(NOBODY)}/{route}", body), NOT_FOUND)

    @check(
        f"{prefix}.bad-input",
        f"{route} of a bad request is an error 4xx in the protocol's form.",
        source=_EARLY,
    )
    def bad_input(target: Target) -> None:
        _require_served(target, route)
        for body in (b"", b"{", b"[]", b'"text"', b"{}", _json({"inputs": []}), _json({"a": 1})):
            call = Call("POST", f"{target.path}/{route}", body, _JSON)
            with target.http.events(call) as answer:
                expect_error(answer.reply, CALLER_STATUSES)

    return unknown_model, bad_input


ERRORS = tuple(
    each
    for route in ("infer_stream", "generate", "generate_stream")
    for each in _error_checks(route)
)


@check(
    "stream.http.caller-leaves",
    "A caller who leaves a stream early does no harm: the next request is answered.",
    source="browsers and clients close streams that they do not need any more",
)
def caller_leaves(target: Target) -> None:
    """Close streams after their first event."""
    for _ in range(3):
        _responses(target, "infer_stream", target.request(), limit=1)
    expect_ok(target.infer(target.request()))
