"""Binary over gRPC: raw contents, which every large client sends and reads."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from jackfield.tensor import Datatype
from jackfield.testing.conformance._check import Check, NotApplicableError, check
from jackfield.testing.conformance._expect import expect, expect_code
from jackfield.testing.conformance._tensor import decode_message, expect_equal
from jackfield.testing.conformance.checks.binary_http import large_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.testing.conformance._target import Target

_SOURCE = "OIP, grpc_predict_v2.proto, raw_input_contents"


def _raw(target: Target) -> ProtoMessage:
    """Make the example request in raw form, of the inputs that its typed form has."""
    target.require_grpc_answer()
    return target.message(target.json_inputs, raw=True)


@check(
    "binary.grpc.raw-input",
    "Raw contents give the answer that typed contents give.",
    source=_SOURCE,
)
def raw_input(target: Target) -> None:
    """Send every input raw."""
    target.expect_answer(target.call_grpc(_raw(target)))


@check(
    "binary.grpc.raw-output",
    "A raw request is answered raw: one entry for each output, in their order, no typed contents.",
    source="tritonclient's `as_numpy` reads raw_output_contents by position",
)
def raw_output(target: Target) -> None:
    """Look at the form of the answer."""
    answer = target.grpc.call("ModelInfer", _raw(target))
    count = len(answer.outputs)
    found = len(answer.raw_output_contents)
    expect(found == count, f"{count} entries in raw_output_contents", found)
    typed = [output.name for output in answer.outputs if output.contents.ListFields()]
    expect(not typed, "no typed contents beside raw ones", typed)
    decode_message(answer)


@check(
    "binary.grpc.typed-or-raw-output",
    "A typed request is answered typed or raw, never half of each.",
    source="OIP, grpc_predict_v2.proto, raw_output_contents",
)
def typed_or_raw_output(target: Target) -> None:
    """Look at the form of the answer to typed contents."""
    target.require_grpc_answer()
    answer = target.grpc.call("ModelInfer", target.message())
    typed = [output.name for output in answer.outputs if output.contents.ListFields()]
    if answer.raw_output_contents:
        expect(not typed, "no typed contents beside raw ones", typed)
    decode_message(answer)


@check(
    "binary.grpc.requested-output",
    "A raw request that names outputs gets as many raw entries, in the order of the outputs.",
    source="tritonclient's `as_numpy` reads raw_output_contents by position",
)
def requested_output(target: Target) -> None:
    """Ask for the last output alone."""
    message = _raw(target)
    name = list(target.answer)[-1]
    message.outputs.add(name=name)
    answer = target.grpc.call("ModelInfer", message)
    names = [output.name for output in answer.outputs]
    expect(names == [name], f"the output '{name}' alone", names)
    found = len(answer.raw_output_contents)
    expect(found == 1, "1 entry in raw_output_contents", found)


def _datatype_check(datatype: Datatype) -> Check:
    @check(
        f"binary.grpc.datatype.{datatype.lower()}",
        f"{datatype} goes through raw contents unchanged (echo models).",
        source=_SOURCE + "; BF16 as Triton and tritonclient have it",
    )
    def look(target: Target) -> None:
        target.require_echo(datatype)
        samples = target.telling(datatype, raw=True)
        found = target.call_grpc(target.message(samples, raw=True))
        for each in samples:
            if each.datatype is datatype:
                expect(each.name in found, f"the output '{each.name}'", sorted(found))
                expect_equal(found[each.name], each)

    return look


DATATYPES = tuple(_datatype_check(each) for each in Datatype)


@check(
    "binary.grpc.large-message",
    "A message of 5 MB is served (echo models).",
    source="KServe's limit is 8 MiB, Triton's 2 GiB; gRPC's own default is 4 MiB",
)
def large_message(target: Target) -> None:
    """Send a large tensor and get it back."""
    chosen = large_input(target)
    samples = [chosen if each.name == chosen.name else each for each in target.json_inputs]
    found = target.call_grpc(target.message(samples, raw=True))
    expect_equal(found[chosen.name], chosen)


# ---- bad input ----


def _refused(name: str, requirement: str, spoil: Callable[[ProtoMessage], object]) -> Check:
    @check(
        f"binary.grpc.refuses.{name}",
        f"{requirement}: INVALID_ARGUMENT, or another code that blames the caller.",
        source=_SOURCE + "; Triton INVALID_ARGUMENT",
    )
    def look(target: Target) -> None:
        message = _raw(target)
        spoil(message)
        expect_code(target.grpc.attempt("ModelInfer", message))
        expect(target.grpc.call("ServerLive").live, "a live server afterwards", "none")

    return look


def _cut(message: ProtoMessage) -> None:
    message.raw_input_contents[0] = message.raw_input_contents[0][:-1]


def _lengthen(message: ProtoMessage) -> None:
    message.raw_input_contents[0] += b"\x00"


def _too_few(message: ProtoMessage) -> None:
    if len(message.inputs) < 2:
        reason = "the model has one input only"
        raise NotApplicableError(reason)
    del message.raw_input_contents[-1]


def _typed_too(message: ProtoMessage) -> None:
    given = message.inputs[0]
    given.contents.bytes_contents.append(b"text")


def _past_the_end(message: ProtoMessage) -> None:
    for index, given in enumerate(message.inputs):
        if given.datatype == Datatype.BYTES:
            message.raw_input_contents[index] = struct.pack("<I", 2**32 - 1) + b"text"
            return
    reason = "the model has no input of BYTES"
    raise NotApplicableError(reason)


def _overflow(message: ProtoMessage) -> None:
    message.inputs[0].shape[:] = [2**32, 2**32]
    message.raw_input_contents[0] = b""


REFUSED = (
    _refused("cut-contents", "Fewer bytes than the shape says", _cut),
    _refused("longer-contents", "More bytes than the shape says", _lengthen),
    _refused("too-few-entries", "Fewer raw entries than inputs", _too_few),
    _refused(
        "too-many-entries",
        "More raw entries than inputs",
        lambda message: message.raw_input_contents.append(b"\x00" * 4),
    ),
    _refused("typed-beside-raw", "Typed contents beside raw ones", _typed_too),
    _refused("bytes-past-the-end", "A BYTES element that runs past its tensor", _past_the_end),
    _refused("shape-overflow", "A shape whose product is 0 in 64 bits", _overflow),
)
