"""The methods of `inference.GRPCInferenceService`."""

from __future__ import annotations

import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
import msgspec
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from jackfield import __version__
from jackfield._changes import (
    LoadModel,
    Register,
    SetLog,
    SetTraces,
    UnloadModel,
    Unregister,
)
from jackfield._grpc.errors import abort
from jackfield._grpc.gate import Gate
from jackfield._grpc.metadata import send_timing, take_headers, wants_timing, with_headers
from jackfield._grpc.stream import stream_infer
from jackfield._models import ModelState
from jackfield._wire import extensions, proto
from jackfield._wire.descriptors import METHODS, SERVICE, message_class
from jackfield._wire.model_config import model_config
from jackfield.errors import JackfieldError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from jackfield._control import Control
    from jackfield._logging_settings import LoggingSettings
    from jackfield._models import Models
    from jackfield._scheduling import Turns
    from jackfield._shared_memory import Regions
    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.messages import TensorMetadata
    from jackfield.settings import ServerSettings

    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

logger = logging.getLogger("jackfield")


class Servicer:
    """Answers calls; a method that is not here is UNIMPLEMENTED."""

    def __init__(
        self,
        models: Models,
        settings: ServerSettings,
        problem: Callable[[], str],
        *,
        control: Control,
        regions: Regions,
        logs: LoggingSettings,
    ) -> None:
        self._models = models
        self._gate = Gate(models.arrivals)
        self._turns = models.turns
        self._settings = settings
        self._problem = problem
        self._control = control
        self._regions = regions
        self._logs = logs

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Make the handler that a grpc.aio server registers."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                # parsed within the call: what grpc.aio can't parse is UNKNOWN to the caller
                _translating(getattr(self, name), method.request.FromString, self._turns),
                response_serializer=method.response.SerializeToString,
            )
            for name, method in METHODS.items()
            if hasattr(self, name) and not method.server_streaming
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self.ModelStreamInfer,
            response_serializer=METHODS["ModelStreamInfer"].response.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def ModelInfer(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        model = self._models.get(message.model_name, message.model_version)
        if model.scheduler.is_quick:
            await self._gate.enter()
        request, places = proto.decode_infer(message, perf_counter_ns(), regions=self._regions)
        if model.reads_headers:
            request = with_headers(request, context)
        left_s = context.time_remaining()
        if left_s is not None:
            deadline = perf_counter_ns() + int(left_s * 1e9)
            request = msgspec.structs.replace(request, deadline_ns=deadline)
        response = await model.infer(request)
        computed, timing = perf_counter_ns(), response.timing
        if "headers" in response.parameters:
            response = take_headers(response, context)
        answer = proto.encode_infer(response, places)
        if timing is not None:
            encode_ns = model.statistics.encoded(computed, timing.rows)
            if wants_timing(context):
                send_timing(context, timing, encode_ns)
        return answer

    async def ModelStreamInfer(
        self,
        messages: AsyncIterator[bytes],
        context: Context,
    ) -> AsyncIterator[ProtoMessage]:
        self._turns.share()
        async for answer in stream_infer(self._models, self._regions, messages, context):
            yield answer

    async def ServerLive(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        return METHODS["ServerLive"].response(live=True)

    async def ServerReady(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        return METHODS["ServerReady"].response(ready=not self._problem())

    async def ModelReady(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        line = await self._control.state(message.name, message.version)
        return METHODS["ModelReady"].response(ready=line.state is ModelState.READY)

    async def ServerMetadata(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        return METHODS["ServerMetadata"].response(
            name=self._settings.server_name,
            version=__version__,
            extensions=extensions(self._settings),
        )

    async def ModelMetadata(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        metadata = self._models.metadata(message.name, message.version)
        answer = METHODS["ModelMetadata"].response(
            name=metadata.name, versions=metadata.versions, platform=metadata.platform
        )
        proto.encode_parameters(metadata.parameters, answer.parameters)
        _add_tensors(metadata.inputs, answer.inputs)
        _add_tensors(metadata.outputs, answer.outputs)
        return answer

    async def ModelConfig(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        model = self._models.get(message.name, message.version)
        config = model_config(model.metadata, runtime=model.runtime_name, streams=model.streams)
        return ParseDict({"config": config}, METHODS["ModelConfig"].response())

    async def ModelStatistics(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        records = await self._control.statistics(message.name, message.version)
        return ParseDict({"model_stats": [*records]}, METHODS["ModelStatistics"].response())

    async def RepositoryIndex(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        answer = METHODS["RepositoryIndex"].response()
        for line in await self._control.index():
            if line.state is ModelState.READY or not message.ready:
                answer.models.add(
                    name=line.name, version=line.version, state=line.state, reason=line.reason
                )
        return answer

    async def RepositoryModelLoad(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        parameters = proto.decode_parameters(message.parameters)
        await self._control.apply(LoadModel(message.model_name, dict(parameters)))
        return METHODS["RepositoryModelLoad"].response()

    async def RepositoryModelUnload(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        await self._control.apply(UnloadModel(message.model_name))
        return METHODS["RepositoryModelUnload"].response()

    async def SystemSharedMemoryStatus(
        self, message: ProtoMessage, context: Context
    ) -> ProtoMessage:
        answer = METHODS["SystemSharedMemoryStatus"].response()
        for region in self._regions.status(message.name):
            answer.regions[region.name].MergeFrom(_REGION(**region.record()))
        return answer

    async def SystemSharedMemoryRegister(
        self, message: ProtoMessage, context: Context
    ) -> ProtoMessage:
        wanted = Register(message.name, message.key, message.offset, message.byte_size)
        await self._control.apply(wanted)
        return METHODS["SystemSharedMemoryRegister"].response()

    async def SystemSharedMemoryUnregister(
        self, message: ProtoMessage, context: Context
    ) -> ProtoMessage:
        await self._control.apply(Unregister(message.name))
        return METHODS["SystemSharedMemoryUnregister"].response()

    async def LogSettings(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        await self._control.apply(SetLog(dict(proto.decode_parameters(message.settings))))
        answer = METHODS["LogSettings"].response()
        for key, value in self._logs.record().items():
            setattr(answer.settings[key], _LOG_FIELDS[type(value)], value)
        return answer

    async def TraceSetting(self, message: ProtoMessage, context: Context) -> ProtoMessage:
        name, traces = message.model_name, self._models.traces
        if name:
            self._models.state(name)
        changes = {key: list(given.value) or None for key, given in message.settings.items()}
        await self._control.apply(SetTraces(name, changes))
        answer = METHODS["TraceSetting"].response()
        for key, value in traces.record(name).items():
            answer.settings[key].value.extend([value] if isinstance(value, str) else value)
        return answer


_REGION = message_class("SystemSharedMemoryStatusResponse.RegionStatus")
#: Where a value of each type lies in a log setting.
_LOG_FIELDS = {bool: "bool_param", int: "uint32_param", str: "string_param"}


def _add_tensors(tensors: Sequence[TensorMetadata], into: ProtoMessage) -> None:
    for tensor in tensors:
        added = into.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        proto.encode_parameters(tensor.parameters, added.parameters)


def _translating(
    method: Callable[[ProtoMessage, Context], Awaitable[ProtoMessage]],
    parse: Callable[[bytes], ProtoMessage],
    turns: Turns,
) -> Callable[[bytes, Context], Awaitable[ProtoMessage]]:
    """Give what is raised its status; the same seam for every method."""

    async def call(data: bytes, context: Context) -> ProtoMessage:
        turns.share()
        try:
            return await method(parse(data), context)
        except JackfieldError as error:
            await abort(context, error)
        except DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"malformed message: {error}")
        # what nobody foresaw: the log has it, and the caller learns nothing of it
        except Exception:
            logger.exception("%s failed", method.__name__)
            text = "the server failed on this call; its log tells why"
            await context.abort(grpc.StatusCode.INTERNAL, text)

    return call
