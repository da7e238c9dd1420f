"""Streams over gRPC: `ModelStreamInfer` in Triton's form."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

import grpc

from jackfield.testing.conformance._check import NotApplicableError, check
from jackfield.testing.conformance._expect import expect, fail
from jackfield.testing.conformance._tensor import decode_message
from jackfield.testing.conformance.checks.core_http import NOBODY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.testing.conformance._target import Target

_SOURCE = "Triton, grpc_service.proto, ModelStreamInfer; tritonclient's `start_stream`"


def _stream(target: Target, messages: Sequence[ProtoMessage]) -> list[ProtoMessage]:
    """Send the messages on one stream and read all answers; the stream has to end with OK."""
    target.require_grpc_answer()
    answers, failure = target.grpc.stream(messages)
    expect(failure is None, "the stream to end with OK", failure)
    return answers


@check(
    "stream.grpc.form",
    "An answer is a ModelStreamInferResponse with an inference response in it.",
    source=_SOURCE,
)
def form(target: Target) -> None:
    """Send one request."""
    answers = _stream(target, [target.message()])
    expect(answers, "at least one answer", "none")
    for answer in answers:
        expect(not answer.error_message, "no error_message", answer.error_message)
        expect(answer.HasField("infer_response"), "an infer_response", str(answer)[:200])
        response = answer.infer_response
        expect(response.model_name == target.model, f"'{target.model}'", response.model_name)
        decode_message(response)


@check(
    "stream.grpc.raw-output",
    "Answers to raw requests are raw: one entry for each output.",
    source="tritonclient's `as_numpy` reads raw_output_contents by position",
)
def raw_output(target: Target) -> None:
    """Send a raw request."""
    message = target.message(target.json_inputs, raw=True)
    for answer in _stream(target, [message]):
        expect(not answer.error_message, "no error_message", answer.error_message)
        response = answer.infer_response
        expect(
            len(response.raw_output_contents) == len(response.outputs),
            f"{len(response.outputs)} raw entries",
            len(response.raw_output_contents),
        )


@check(
    "stream.grpc.ids",
    "Each of several requests on one stream is answered under its own id.",
    source=_SOURCE + "; requests are told apart by id",
)
def ids(target: Target) -> None:
    """Send several requests."""
    wanted = [f"conformance-{index}" for index in range(8)]
    answers = _stream(target, [target.message(request_id=each) for each in wanted])
    errors = [answer.error_message for answer in answers if answer.error_message]
    expect(not errors, "no error_message", errors[:1])
    found = {answer.infer_response.id for answer in answers}
    expect(found == set(wanted), f"the ids {wanted}", sorted(found))


@check(
    "stream.grpc.error-goes-on",
    "A bad request is answered by error_message, and the stream serves the next one.",
    source=_SOURCE + "; field error_message",
)
def error_goes_on(target: Target) -> None:
    """Send a bad request between two good ones."""
    good = [target.message(request_id="conformance-a"), target.message(request_id="conformance-b")]
    unknown = target.message()
    unknown.model_name = NOBODY
    spoilt = target.message()
    spoilt.inputs[0].datatype = "FP33"
    for bad in (unknown, spoilt):
        answers = _stream(target, [good[0], bad, good[1]])
        errors = [answer.error_message for answer in answers if answer.error_message]
        expect(len(errors) == 1, "one error_message", errors or "none")
        found = {answer.infer_response.id for answer in answers if not answer.error_message}
        wanted = {"conformance-a", "conformance-b"}
        expect(wanted <= found, "answers to the requests around it", sorted(found))


@check(
    "stream.grpc.answers-while-open",
    "A request is answered while the caller's side of the stream is still open.",
    source=_SOURCE + "; tritonclient keeps its side open until `stop_stream`",
)
def answers_while_open(target: Target) -> None:
    """Wait for an answer before the next request."""
    target.require_grpc_answer()
    messages: queue.SimpleQueue[ProtoMessage | None] = queue.SimpleQueue()

    def sent() -> Iterator[ProtoMessage]:
        while (message := messages.get()) is not None:
            yield message

    call = target.grpc.open_stream(sent())
    try:
        for request_id in ("conformance-a", "conformance-b"):
            messages.put(target.message(request_id=request_id))
            answer = next(call, None)
            while answer is not None and answer.infer_response.id != request_id:
                expect(not answer.error_message, "no error_message", answer.error_message)
                answer = next(call, None)
            expect(answer, f"an answer to '{request_id}'", "the end of the stream")
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            reason = "the server does not have the method ModelStreamInfer"
            raise NotApplicableError(reason) from error
        fail("an answer", f"{error.code().name}: {error.details()}")
    finally:
        messages.put(None)
        call.cancel()


@check(
    "stream.grpc.empty",
    "A stream without a request ends with OK and no answer.",
    source=_SOURCE,
)
def empty(target: Target) -> None:
    """Send nothing."""
    answers = _stream(target, [])
    expect(not answers, "no answer", len(answers))


@check(
    "stream.grpc.final-response",
    "With triton_enable_empty_final_response, one answer to a request has triton_final_response.",
    source="Triton, decoupled models; tritonclient's `enable_empty_final_response`",
)
def final_response(target: Target) -> None:
    """Ask for the mark of the last answer."""
    message = target.message(request_id="conformance-4")
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    marks = [
        answer.infer_response.parameters["triton_final_response"].bool_param
        for answer in _stream(target, [message])
        if "triton_final_response" in answer.infer_response.parameters
    ]
    if not marks:
        reason = "the server does not mark the last answer"
        raise NotApplicableError(reason)
    expect(marks[-1] and marks.count(True) == 1, "the last one to be marked true", marks)


@check(
    "stream.grpc.real-status",
    "With the metadata triton_grpc_error: true, an error ends the stream with a real status.",
    source="Triton, gRPC error handling in streams",
)
def real_status(target: Target) -> None:
    """Ask for real statuses."""
    target.require_grpc_answer()
    bad = target.message()
    bad.model_name = NOBODY
    answers, failure = target.grpc.stream([bad], [("triton_grpc_error", "true")])
    if failure is None and any(answer.error_message for answer in answers):
        reason = "the server does not know triton_grpc_error"
        raise NotApplicableError(reason)
    expect(failure is not None, "a status other than OK", "OK")
    blamed = failure is not None and failure.code not in (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    )
    expect(blamed, "a status that blames the caller", failure)


@check(
    "stream.grpc.caller-leaves",
    "A caller who cancels a stream does no harm: the next request is answered.",
    source="tritonclient's `stop_stream(cancel_requests=True)`",
)
def caller_leaves(target: Target) -> None:
    """Cancel streams while their requests run."""
    _stream(target, [target.message()])
    for _ in range(3):
        call = target.grpc.open_stream(iter([target.message() for _ in range(4)]))
        next(call, None)
        call.cancel()
    target.expect_answer(target.call_grpc(target.message()))
