"""Core over REST: bodies that no server may fall over.

Each is an error 4xx in the protocol's form, and the connection serves the next request. What some
servers take is in `TOLERATED`: served or refused, never a 5xx, never cut off.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from jackfield.tensor import Datatype
from jackfield.testing.conformance._check import Check, NotApplicableError, check
from jackfield.testing.conformance._expect import expect_handled, expect_refused
from jackfield.testing.conformance._tensor import FLOATS, INTEGERS

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from jackfield.testing.conformance._target import Target

_FORM = 'OIP, "Inference Request JSON Object"; its error object; Triton 400'
_DATA = 'OIP, "Tensor Data"; its error object; Triton 400'


def _refused(
    name: str, requirement: str, make: Callable[[Target], bytes], *, source: str = _FORM
) -> Check:
    @check(f"core.http.refuses.{name}", f"{requirement}: an error 4xx.", source=source)
    def look(target: Target) -> None:
        target.require_answer()
        expect_refused(target.http, target.infer_call(make(target)))

    return look


def _tolerated(
    name: str,
    requirement: str,
    make: Callable[[Target], bytes],
    *,
    source: str,
    model_may_fail: bool = False,
) -> Check:
    """Make a check; a number that the server takes may be one that the model does not."""
    what = "an error" if model_may_fail else "an error 4xx"

    @check(f"core.http.survives.{name}", f"{requirement}: served, or {what}.", source=source)
    def look(target: Target) -> None:
        target.require_answer()
        may_fail = model_may_fail and not target.is_echo
        call = target.infer_call(make(target))
        expect_handled(target.http, call, model_may_fail=may_fail)

    return look


def _body(target: Target) -> bytes:
    return json.dumps(target.request()).encode()


def _with(**fields: object) -> Callable[[Target], bytes]:
    """Make the example request with other fields."""
    return lambda target: json.dumps(target.request(**fields)).encode()


def _input(**fields: object) -> Callable[[Target], bytes]:
    """Make the example request with other fields in its first input."""

    def make(target: Target) -> bytes:
        request = target.request()
        request["inputs"][0].update(fields)
        return json.dumps(request).encode()

    return make


def _without(field: str) -> Callable[[Target], bytes]:
    """Make the example request without a field of its first input."""

    def make(target: Target) -> bytes:
        request = target.request()
        del request["inputs"][0][field]
        return json.dumps(request).encode()

    return make


def _element(datatypes: Container[Datatype], value: str) -> Callable[[Target], bytes]:
    """Make the example request with a JSON text as the first element of such an input."""

    def make(target: Target) -> bytes:
        request = target.request()
        for given in request["inputs"]:
            if given["datatype"] in datatypes and given["data"]:
                # a string is put in, since its place holder has to survive the encoding
                given["data"][0] = "@element@"
                return json.dumps(request).replace('"@element@"', value).encode()
        reason = "the model has no input of such a datatype"
        raise NotApplicableError(reason)

    return make


def _too_few(target: Target) -> bytes:
    request = target.request()
    given = request["inputs"][0]
    given["data"] = given["data"][:-1]
    return json.dumps(request).encode()


def _too_many(target: Target) -> bytes:
    request = target.request()
    given = request["inputs"][0]
    given["data"] = given["data"] + given["data"]
    return json.dumps(request).encode()


def _ragged(target: Target) -> bytes:
    request = target.request()
    given = request["inputs"][0]
    value = given["data"][0]
    given.update(shape=[2, 2], data=[[value, value, value], [value]])
    return json.dumps(request).encode()


def _duplicate(target: Target) -> bytes:
    request = target.request()
    request["inputs"].append(request["inputs"][0])
    return json.dumps(request).encode()


def _deep(target: Target) -> bytes:
    request = target.request()
    request["inputs"][0]["data"] = "@deep@"
    return json.dumps(request).replace('"@deep@"', "[" * 10_000 + "]" * 10_000).encode()


def _deep_parameters(target: Target) -> bytes:
    text = json.dumps(target.request(parameters={"deep": "@deep@"}))
    return text.replace('"@deep@"', '{"a":' * 10_000 + "1" + "}" * 10_000).encode()


def _bad_utf8(target: Target) -> bytes:
    request = target.request()
    request["inputs"][0]["name"] = "@name@"
    return json.dumps(request).encode().replace(b"@name@", b"\xff\xfe\xfd")


_NUMBERS = (INTEGERS | FLOATS) - {Datatype.FP16, Datatype.BF16}

REFUSED = (
    _refused("empty-body", "No body at all", lambda _: b""),
    _refused("not-json", "A body that is not JSON", lambda _: b"this is no JSON"),
    _refused("cut-json", "JSON that ends too soon", lambda target: _body(target)[:-2]),
    _refused("trailing-text", "Text behind the JSON", lambda target: _body(target) + b" x"),
    _refused("list", "JSON that is a list", lambda _: b"[]"),
    _refused("text", "JSON that is a text", lambda _: b'"inputs"'),
    _refused("bad-utf8", "A name that is not UTF-8", _bad_utf8, source="RFC 8259, section 8.1"),
    _refused("no-inputs-field", "A request without inputs", lambda _: b'{"id": "1"}'),
    _refused("inputs-null", "Inputs that are null", _with(inputs=None)),
    _refused("inputs-not-a-list", "Inputs that are no list", _with(inputs={"x": 1})),
    _refused("inputs-empty", "An empty list of inputs", _with(inputs=[])),
    _refused("input-not-an-object", "An input that is a number", _with(inputs=[1])),
    *(
        _refused(f"no-{field}", f"An input without {field}", _without(field))
        for field in ("name", "datatype", "shape", "data")
    ),
    _refused("name-not-text", "An input's name that is a number", _input(name=1)),
    _refused(
        "datatype-unknown", "A datatype that the protocol does not have", _input(datatype="FP33")
    ),
    _refused("datatype-not-text", "A datatype that is a number", _input(datatype=32)),
    _refused("shape-not-a-list", "A shape that is a number", _input(shape=1)),
    _refused("shape-of-text", "A shape of texts", _input(shape=["1"])),
    _refused("shape-of-fractions", "A shape of fractions", _input(shape=[1.5])),
    _refused("shape-negative", "A size below 0", _input(shape=[-1])),
    _refused(
        "shape-too-large",
        "A shape of more elements than 64 bits count",
        _input(shape=[2**62, 2**62]),
    ),
    _refused(
        "shape-overflow",
        "A shape whose product is 0 in 64 bits",
        _input(shape=[2**32, 2**32], data=[]),
    ),
    _refused("shape-huge-number", "A size of 40 digits", _input(shape=[10**40])),
    _refused("shape-thousand", "A shape of 1,000 dimensions", _input(shape=[1] * 1000)),
    _refused("data-too-few", "Fewer elements than the shape says", _too_few, source=_DATA),
    _refused("data-too-many", "More elements than the shape says", _too_many, source=_DATA),
    _refused("data-ragged", "Nested lists of different lengths", _ragged, source=_DATA),
    _refused("data-null", "Data that is null", _input(data=None), source=_DATA),
    _refused("data-object", "Data that is an object", _input(data={"a": 1}), source=_DATA),
    _refused("data-deep", "Data of 10,000 nested lists", _deep, source=_DATA),
    _refused(
        "text-for-a-number",
        "Text in a tensor of numbers",
        _element(_NUMBERS, '"text"'),
        source=_DATA,
    ),
    _refused(
        "object-for-a-number",
        "An object in a tensor of numbers",
        _element(_NUMBERS, "{}"),
        source=_DATA,
    ),
    _refused(
        "null-for-an-integer",
        "null in a tensor of integers",
        _element(INTEGERS, "null"),
        source=_DATA,
    ),
    _refused(
        "fraction-for-an-integer",
        "1.5 in a tensor of integers",
        _element(INTEGERS, "1.5"),
        source=_DATA,
    ),
    _refused(
        "number-for-text",
        "A number in a BYTES tensor",
        _element([Datatype.BYTES], "1"),
        source=_DATA,
    ),
    _refused(
        "null-for-text", "null in a BYTES tensor", _element([Datatype.BYTES], "null"), source=_DATA
    ),
    _refused(
        "text-for-a-bool", "Text in a BOOL tensor", _element([Datatype.BOOL], '"yes"'), source=_DATA
    ),
    _refused("duplicate-names", "Two inputs of one name", _duplicate),
    _refused("id-not-text", "An id that is a number", _with(id=17)),
    _refused("parameters-not-an-object", "Parameters that are a list", _with(parameters=[1])),
    _refused("outputs-not-a-list", "Outputs that are a text", _with(outputs="all")),
    _refused("output-without-name", "A requested output without a name", _with(outputs=[{}])),
)

_JSON = "RFC 8259: not JSON, but many parsers (Triton's too) take it"

TOLERATED = (
    _tolerated(
        "nan-literal",
        "The literal NaN",
        _element(_NUMBERS, "NaN"),
        source=_JSON,
        model_may_fail=True,
    ),
    _tolerated(
        "infinity-literal",
        "The literal Infinity",
        _element(_NUMBERS, "-Infinity"),
        source=_JSON,
        model_may_fail=True,
    ),
    _tolerated(
        "null-for-a-float",
        "null in a tensor of floats",
        _element(FLOATS, "null"),
        source="MLServer reads it as NaN, Triton refuses it",
        model_may_fail=True,
    ),
    _tolerated(
        "float-overflow",
        "1e400 in a tensor of floats",
        _element(FLOATS, "1e400"),
        source="RFC 8259, section 6: parsers differ",
        model_may_fail=True,
    ),
    _tolerated(
        "integer-out-of-range",
        "An integer that the datatype does not hold",
        _element(INTEGERS, "99999999999999999999"),
        source="Triton wraps small ones around, and refuses large ones",
    ),
    _tolerated(
        "negative-for-unsigned",
        "-1 in a tensor of unsigned integers",
        _element([each for each in INTEGERS if each.startswith("U")], "-1"),
        source="Triton wraps it around",
    ),
    _tolerated(
        "lone-surrogate",
        "Half of a UTF-16 pair in a BYTES tensor",
        _element([Datatype.BYTES], '"\\ud800"'),
        source="RFC 8259, section 8.2: behaviour is unpredictable",
    ),
    _tolerated(
        "long-id",
        "An id of a million characters",
        _with(id="x" * 1_000_000),
        source='OIP: "id" is any text',
    ),
    _tolerated(
        "null-parameter",
        "A parameter that is null",
        _with(parameters={"a": None}),
        source='OIP, "Inference Parameters": scalars',
    ),
    _tolerated(
        "deep-parameters",
        "A parameter of 10,000 nested objects",
        _deep_parameters,
        source='OIP, "Inference Parameters": scalars',
    ),
    _tolerated(
        "unknown-field",
        "A field that the protocol does not have",
        _with(conformance={"a": [1]}),
        source="OIP says nothing of it",
    ),
    _tolerated(
        "same-key-twice",
        "A key that is there twice",
        lambda target: _body(target)[:-1] + b', "id": "1", "id": "2"}',
        source="RFC 8259, section 4: behaviour is unpredictable",
    ),
)
