"""`ModelStreamInfer`: many requests on one stream, answered as they are done.

Each request has its own id, model and version, and runs beside the others; an error answers its
request and the stream goes on, unless the caller asked for a real status by the metadata
`triton_grpc_error: true`. A caller who cancels the stream cancels all that runs for it.

Source: Triton's `GRPCInferenceService.ModelStreamInfer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import msgspec
from google.protobuf.message import DecodeError

from jackfield._grpc.errors import abort
from jackfield._grpc.metadata import with_headers
from jackfield._wire import proto
from jackfield._wire.descriptors import ModelInferRequest, ModelStreamInferResponse
from jackfield.errors import InvalidRequestError, JackfieldError, RuntimeFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import grpc.aio

    from jackfield._models import Models
    from jackfield._shared_memory import Place, Regions
    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.messages import InferRequest, InferResponse

logger = logging.getLogger("jackfield")

#: Answers that wait for a slow reader; the models wait then too.
_MAX_WAITING = 16
#: Requests of one stream that run at the same time; the next is read when one is done.
_MAX_RUNNING = 64


async def stream_infer(
    models: Models,
    regions: Regions,
    messages: AsyncIterator[bytes],
    context: grpc.aio.ServicerContext[Any, Any],
) -> AsyncIterator[ProtoMessage]:
    """Answer the requests of one stream; they are parsed here, where a bad one is one error."""
    is_strict = ("triton_grpc_error", "true") in (context.invocation_metadata() or ())
    answers: asyncio.Queue[ProtoMessage | JackfieldError | None] = asyncio.Queue(_MAX_WAITING)
    reading = asyncio.ensure_future(_read(models, regions, messages, answers, context))
    try:
        while (answer := await answers.get()) is not None:
            if not isinstance(answer, JackfieldError):
                yield answer
            elif is_strict:
                await abort(context, answer)
            else:
                yield ModelStreamInferResponse(error_message=str(answer))
        reading.result()
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def _read(
    models: Models,
    regions: Regions,
    messages: AsyncIterator[bytes],
    answers: asyncio.Queue[ProtoMessage | JackfieldError | None],
    context: grpc.aio.ServicerContext[Any, Any],
) -> None:
    running = asyncio.Semaphore(_MAX_RUNNING)

    async def answer(message: bytes) -> None:
        try:
            await _answer(models, regions, message, answers, context)
        finally:
            running.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for message in messages:
                await running.acquire()
                group.create_task(answer(message))
    except asyncio.CancelledError:
        raise  # nobody empties the queue any more: to put the end into a full one would not end
    except BaseException:
        await answers.put(None)
        raise
    await answers.put(None)


async def _answer(
    models: Models,
    regions: Regions,
    data: bytes,
    answers: asyncio.Queue[ProtoMessage | JackfieldError | None],
    context: grpc.aio.ServicerContext[Any, Any],
) -> None:
    """Answer one request: its responses, then an empty final one where that is asked for."""
    name = ""
    try:
        message = ModelInferRequest.FromString(data)
        name = message.model_name
        model = models.get(name, message.model_version)
        request, places = proto.decode_infer(message, perf_counter_ns(), regions=regions)
        wants_final = bool(request.parameters.get(_WANTS_FINAL, False))
        request = _without(request, _WANTS_FINAL)
        if model.reads_headers:
            request = with_headers(request, context)
        async with contextlib.aclosing(model.stream(request)) as responses:
            async for response in responses:
                is_last = not model.streams
                if wants_final:
                    parameters = {**response.parameters, _FINAL: is_last}
                    response = msgspec.structs.replace(response, parameters=parameters)
                await answers.put(_wrap(response, places))
        if wants_final and model.streams:
            final = proto.encode_final(model.name, model.version, request.id, {_FINAL: True})
            await answers.put(ModelStreamInferResponse(infer_response=final))
    except JackfieldError as error:
        await answers.put(error)
    except DecodeError as error:
        await answers.put(
            InvalidRequestError("message", expected="a ModelInferRequest", found=str(error))
        )
    # what nobody foresaw, a response that can't be encoded among it, is this request's fault alone
    except Exception:
        logger.exception("a request of a stream failed")
        await answers.put(RuntimeFailedError(name))


#: Parameters by which a caller learns that a request has no more responses.
_WANTS_FINAL = "triton_enable_empty_final_response"
_FINAL = "triton_final_response"


def _without(request: InferRequest, name: str) -> InferRequest:
    if name not in request.parameters:
        return request
    rest = {key: value for key, value in request.parameters.items() if key != name}
    return msgspec.structs.replace(request, parameters=rest)


def _wrap(response: InferResponse, places: Mapping[str, Place]) -> ProtoMessage:
    return ModelStreamInferResponse(infer_response=proto.encode_infer(response, places))
