"""The methods of `inference.GRPCInferenceService`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from jackfield import __version__
from jackfield._grpc.errors import abort
from jackfield._models import ModelState
from jackfield._wire import EXTENSIONS, proto
from jackfield._wire.descriptors import METHODS, SERVICE
from jackfield.errors import JackfieldError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from jackfield._models import Models
    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.messages import TensorMetadata
    from jackfield.settings import ServerSettings

logger = logging.getLogger("jackfield")


class Servicer:
    """Answers calls; a method that is not here is UNIMPLEMENTED."""

    def __init__(
        self, models: Models, settings: ServerSettings, problem: Callable[[], str]
    ) -> None:
        self._models = models
        self._settings = settings
        self._problem = problem

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Make the handler that a grpc.aio server registers."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                # parsed within the call: what grpc.aio can't parse is UNKNOWN to the caller
                _translating(getattr(self, name), method.request.FromString),
                response_serializer=method.response.SerializeToString,
            )
            for name, method in METHODS.items()
            if hasattr(self, name)
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def ModelInfer(self, message: ProtoMessage) -> ProtoMessage:
        model = self._models.get(message.model_name, message.model_version)
        response = await model.infer(proto.decode_infer(message))
        return proto.encode_infer(response)

    async def ServerLive(self, message: ProtoMessage) -> ProtoMessage:
        return METHODS["ServerLive"].response(live=True)

    async def ServerReady(self, message: ProtoMessage) -> ProtoMessage:
        return METHODS["ServerReady"].response(ready=not self._problem())

    async def ModelReady(self, message: ProtoMessage) -> ProtoMessage:
        line = self._models.state(message.name, message.version)
        return METHODS["ModelReady"].response(ready=line.state is ModelState.READY)

    async def ServerMetadata(self, message: ProtoMessage) -> ProtoMessage:
        return METHODS["ServerMetadata"].response(
            name=self._settings.server_name, version=__version__, extensions=EXTENSIONS
        )

    async def ModelMetadata(self, message: ProtoMessage) -> ProtoMessage:
        metadata = self._models.metadata(message.name, message.version)
        answer = METHODS["ModelMetadata"].response(
            name=metadata.name, versions=metadata.versions, platform=metadata.platform
        )
        proto.encode_parameters(metadata.parameters, answer.parameters)
        _add_tensors(metadata.inputs, answer.inputs)
        _add_tensors(metadata.outputs, answer.outputs)
        return answer

    async def RepositoryIndex(self, message: ProtoMessage) -> ProtoMessage:
        answer = METHODS["RepositoryIndex"].response()
        for line in await self._models.index():
            if line.state is ModelState.READY or not message.ready:
                answer.models.add(
                    name=line.name, version=line.version, state=line.state, reason=line.reason
                )
        return answer

    async def RepositoryModelLoad(self, message: ProtoMessage) -> ProtoMessage:
        await self._models.load(message.model_name)
        return METHODS["RepositoryModelLoad"].response()

    async def RepositoryModelUnload(self, message: ProtoMessage) -> ProtoMessage:
        await self._models.unload(message.model_name)
        return METHODS["RepositoryModelUnload"].response()


def _add_tensors(tensors: Sequence[TensorMetadata], into: ProtoMessage) -> None:
    for tensor in tensors:
        added = into.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        proto.encode_parameters(tensor.parameters, added.parameters)


def _translating(
    method: Callable[[ProtoMessage], Awaitable[ProtoMessage]],
    parse: Callable[[bytes], ProtoMessage],
) -> Callable[[bytes, grpc.aio.ServicerContext[Any, Any]], Awaitable[ProtoMessage]]:
    """Give what is raised its status; the same seam for every method."""

    async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> ProtoMessage:
        try:
            return await method(parse(data))
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
